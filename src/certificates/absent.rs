//! Certificates in a build without TLS: there are none.
//!
//! Not here: a build with the feature `tls` (`certificates`).

use std::{convert::Infallible, time::SystemTime};

use actix_lines::Listener;
use log::Level;

use crate::settings;

/// None at all.
#[derive(Clone, Debug)]
pub(crate) struct Certificates(Infallible);

/// The reason why there are none.
#[derive(Debug, thiserror::Error)]
#[error("this rot13d was built without TLS: build it with --features tls, or take [listener.tls] away")]
pub(crate) struct Unloadable {
    pub(crate) pair: Option<usize>,
    pub(crate) key: &'static str,
}

impl Certificates {
    pub(crate) fn load(_: &settings::Tls) -> Result<Self, Unloadable> {
        Err(Unloadable { pair: None, key: "" })
    }

    pub(crate) fn are(&self, _: &Self) -> bool {
        match self.0 {}
    }

    pub(crate) fn replace(&self, _: &Self) {
        match self.0 {}
    }

    pub(crate) fn serve(&self, _: Listener) -> Listener {
        match self.0 {}
    }

    pub(crate) fn expiring(&self, _: SystemTime) -> Vec<(Level, String)> {
        match self.0 {}
    }

    pub(crate) fn unsafe_files(&self) -> Vec<String> {
        match self.0 {}
    }

    pub(crate) fn seconds_left(&self, _: SystemTime) -> Option<i64> {
        match self.0 {}
    }
}
