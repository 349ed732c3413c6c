//! Server: the door of those who listen.

pub(crate) mod builder;
