//! Control of a running server: counters, lists of sessions, pushes, kicks, limits, drains, events.
//!
//! [`ServerHandle`](crate::ServerHandle) asks with plain methods; other actors send the messages here to its
//! [`supervisor`](crate::ServerHandle::supervisor). No line passes through it.

pub(crate) mod admission;
pub(crate) mod budget;
pub(crate) mod event;
pub(crate) mod histogram;
pub(crate) mod ledger;
pub(crate) mod listeners;
pub(crate) mod messages;
pub(crate) mod orders;
pub(crate) mod query;
pub(crate) mod questions;
pub(crate) mod stats;
pub(crate) mod supervisor;
pub(crate) mod trace;
pub(crate) mod ways;
pub(crate) mod workers;

pub use crate::control::{
    event::{
        EventRef, LimitsChanged, ListenerChange, ListenerEvent, Refusals, RefusedConnection, SessionEvent, SessionNamed,
    },
    histogram::Histogram,
    messages::{
        Drain, GetLimits, GetStats, Kick, LimitsChange, ListSessions, PauseListener, Push, Pushed, SetLimits,
        Subscribe, TraceSession,
    },
    query::{SessionFilter, SessionInfo, SessionOrder, SessionPage, SessionQuery, SessionState},
    stats::{DrainProgress, DrainReport, ListenerStats, MemoryStats, Stats, WorkerStats},
    supervisor::Supervisor,
    trace::Trace,
};
pub use crate::{
    report::RefuseReason,
    wire::tap::{TraceLimits, Traced},
};
