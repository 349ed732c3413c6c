//! Session: one connection's actor with its context. One future, one task, one socket. Each file imports only from
//! those above it.
//!
//! Not here: resources shared by the sessions of one arbiter (`worker`).

mod state;

pub(crate) mod context;

pub(crate) mod lines;

mod naming;

pub(crate) mod handler;

mod user_code;

pub(crate) mod upgrade;

mod delay;
mod input;
mod output;

mod close;

mod turn;

pub(crate) mod gated;
pub(crate) mod opening;
pub(crate) mod preface;
