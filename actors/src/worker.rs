//! Worker: the sessions of one arbiter, the resources that they share, and the task that looks after them.
//!
//! Each aspect of a session is one file, with its part of the session's slot and its part of the worker; the parts compute,
//! the slot and the worker hold them. From the ground:
//!
//! | file | holds |
//! |---|---|
//! | `command` | commands to a session that it has not taken yet |
//! | `reports` | counters, and the reports of those that have ended |
//! | `clock` | stamps, timeouts, deadlines |
//! | `rates` | input that a session may still take |
//! | `delivery`, `rooms` | members of rooms, and messages for them |
//! | `pushes` | bytes that others push, and outbox limits |
//! | `held` | memory of buffers |
//! | `lag` | how late sweeps ran |
//! | `drain` | the time at which each session is told to end |
//! | `buffers` | scratch and outbox for one turn |
//! | `delays` | answers that are being measured |
//! | `slow` | turns that hold the worker for long |
//! | `slot` | the table of slots, each made of its parts |
//! | `upstream` | calls to the rest of the server |
//! | `worker` | the worker, made of its parts, and its interface for sessions |
//! | `prefaces` | connections whose filters wait for their peers |
//! | `eviction`, `answers`, `task` | work on all sessions: when memory is short, for a question, in a sweep |
//!
//! Everything here stays on its thread.
//! Not here: a session's turn (`session`), the use of reports (`control`).

pub(crate) mod answers;
pub(crate) mod buffers;
pub(crate) mod clock;
pub(crate) mod command;
pub(crate) mod delays;
pub(crate) mod delivery;
pub(crate) mod drain;
pub(crate) mod eviction;
pub(crate) mod held;
pub(crate) mod lag;
pub(crate) mod naming;
pub(crate) mod permits;
pub(crate) mod prefaces;
pub(crate) mod pushes;
pub(crate) mod rates;
pub(crate) mod reports;
pub(crate) mod rooms;
pub(crate) mod slot;
pub(crate) mod slow;
pub(crate) mod task;
pub(crate) mod upstream;
pub(crate) mod worker;
