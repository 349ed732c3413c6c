//! Session: one future, one task, one socket. Each file imports from those above it only.
//!
//! Not here: what the sessions of one arbiter share (`worker`).

mod state;

pub(crate) mod context;

pub(crate) mod lines;

pub(crate) mod handler;

mod user_code;

mod input;
mod output;

mod close;

mod turn;

pub(crate) mod opening;
