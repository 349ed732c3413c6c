//! Console in a build without it.
//!
//! Not here: a build with the feature `console` (`console`).

use std::{io, sync::Arc};

use actix_lines::{ServerHandle, limits::Limits};

use crate::{
    cluster::Node,
    ending::Ending,
    settings::{ConsoleAddress, ConsoleSettings, Invalid},
    token::Token,
};

#[derive(Debug)]
pub(crate) struct Opened;

/// Limits have no names here.
pub(crate) fn knows_limit(_: &str) -> bool {
    false
}

/// See [`knows_limit`].
pub(crate) fn changes(_: &Limits, _: &Limits) -> Vec<String> {
    Vec::new()
}

pub(crate) fn token(_: &ConsoleSettings) -> Result<Option<Token>, Invalid> {
    Ok(None)
}

pub(crate) fn open(settings: ConsoleSettings, _: Option<Token>, _: &Node, _: &Arc<Ending>) -> io::Result<Opened> {
    match settings.address {
        ConsoleAddress::Auto | ConsoleAddress::Off => Ok(Opened),
        ConsoleAddress::At(_) => {
            let advice =
                "this rot13d was built without a console: build it with --features console, or take --console away";
            Err(io::Error::new(io::ErrorKind::Unsupported, advice))
        }
    }
}

impl Opened {
    pub(crate) fn start(self, _: &ServerHandle) -> io::Result<()> {
        Ok(())
    }
}
