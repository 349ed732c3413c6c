//! Server: the door of those who listen.

pub(crate) mod builder;
pub(crate) mod handle;
pub(crate) mod launch;
pub(crate) mod protocol;
pub(crate) mod signals;
