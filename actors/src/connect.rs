//! Connect: the door of those who call.

pub(crate) mod backoff;
pub(crate) mod builder;
pub(crate) mod connector;
pub(crate) mod messages;
pub(crate) mod race;
pub(crate) mod target;
