//! Control path: counts, questions, limits and drains of one server. No line passes through here.

pub(crate) mod admission;
pub(crate) mod budget;
pub(crate) mod control;
pub(crate) mod ledger;
pub(crate) mod messages;
pub(crate) mod orders;
pub(crate) mod query;
pub(crate) mod stats;
pub(crate) mod supervisor;
