//! Worker: what the sessions of one arbiter share.

pub(crate) mod delivery;
pub(crate) mod worker;
