//! HTTP in a build without it: there is none.
//!
//! Not here: a build with the feature `http` (`http`).

use std::{io, sync::Arc};

use actix_lines::ServerHandle;

use crate::{
    cluster::Node,
    ending::Ending,
    settings::{self, Invalid, Settings},
    token::Token,
};

/// Descriptors beside those of sessions.
pub(crate) const DESCRIPTORS: u64 = 0;

pub(crate) fn token(_: &settings::Http<'_>) -> Result<Option<Token>, Invalid> {
    let advice = "this rot13d was built without HTTP: build it with --features http, or take it away";
    Err(Invalid { name: "http", advice: advice.to_owned() })
}

pub(crate) fn bind(_: &Settings, _: Option<Token>) -> io::Result<()> {
    Ok(())
}

pub(crate) async fn serve((): (), _: &ServerHandle, _: &Node, _: &Arc<Ending>) -> io::Result<()> {
    Ok(())
}

pub(crate) async fn stop((): ()) {}
