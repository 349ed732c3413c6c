//! Worker: what the sessions of one arbiter share.

pub(crate) mod clock;
pub(crate) mod command;
pub(crate) mod delivery;
pub(crate) mod eviction;
pub(crate) mod pushes;
pub(crate) mod reports;
pub(crate) mod slot;
pub(crate) mod task;
pub(crate) mod worker;
