//! Session: one future, one task, one socket.

pub(crate) mod context;
pub(crate) mod handler;
pub(crate) mod lines;
pub(crate) mod turn;
