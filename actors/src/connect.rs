//! Connect: the door of those who call.

pub(crate) mod connector;
pub(crate) mod race;
