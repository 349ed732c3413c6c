//! Server: the interface for programs that listen.

#[cfg(any(feature = "console", feature = "http"))]
pub(crate) mod before_drain;
pub(crate) mod builder;
pub(crate) mod companion;
pub(crate) mod doors;
pub(crate) mod gates;
pub(crate) mod handle;
pub(crate) mod host;
pub(crate) mod launch;
pub(crate) mod protocol;
pub(crate) mod responsive;
pub(crate) mod signals;
