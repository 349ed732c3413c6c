//! Orders: messages to and from workers and acceptors, and the handle of a worker.
//!
//! Not here: carrying them out (`worker`, `listen`), finding the receiver (`control`).

use std::{
    any::Any,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use actix::Message;
use tokio::sync::mpsc;

use crate::{
    connection::{ListenerId, SessionId},
    control::{
        ledger::OwedReport,
        query::{SessionFilter, SessionInfo, SessionQuery},
        stats::Stats,
    },
    limits::Limits,
    shared::SharedBytes,
    wire::{socket::Socket, tap::Tap},
};

/// The handle of one worker.
#[derive(Clone, Debug)]
pub(crate) struct WorkerHandle {
    pub(crate) orders: mpsc::UnboundedSender<Order>,
    pub(crate) load: Arc<AtomicUsize>,
}

/// A connection on its way to its worker. Dropped on the way, it leaves a report like any other session, behind its socket.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) socket: Socket,
    pub(crate) owed: OwedReport,
}

/// News for whoever makes a worker's sessions, of a type that only the sender and the receiver know.
pub(crate) type Lesson = Box<dyn Any + Send>;

/// An order to a worker.
#[derive(Debug)]
pub(crate) enum Order {
    Start(Admitted),
    /// Comes before the first connection that needs it.
    Learn(Lesson),
    /// A listener is closed: no connection of this opening comes any more.
    Forget {
        listener: ListenerId,
        serial: u64,
    },
    /// These listeners have ended, and their counters are not asked for any more: sum them up.
    ForgetCounts(Arc<[ListenerId]>),
    /// Its listeners are closed: end behind the last session.
    Retire,
    Drain {
        over: Duration,
        goodbye: SharedBytes,
    },
    Abort,
    Evict,
    /// Nobody receives the trace of this session any more.
    EndTrace {
        slot: u32,
        session: SessionId,
    },
    Answer {
        token: u64,
        question: Question,
    },
}

/// A question to a worker, or a request that it answers once done.
#[derive(Clone, Debug)]
pub(crate) enum Question {
    Totals,
    List(SessionQuery),
    Kick {
        whom: SessionFilter,
        goodbye: SharedBytes,
    },
    #[cfg(feature = "cluster")]
    CutKicked {
        whom: SessionFilter,
        last: SessionId,
    },
    Push {
        whom: SessionFilter,
        bytes: SharedBytes,
    },
    Limits {
        limits: Arc<Limits>,
        dry_run: bool,
    },
    Trace {
        session: SessionId,
        tap: Tap,
    },
}

/// A worker has stopped, which the supervisor is told. Answers go to whoever asked, and ends of sessions to the ledger.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct WorkerGone {
    pub(crate) worker: usize,
    pub(crate) is_retired: bool,
}

/// One worker's answer to [`Order::Answer`].
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) token: u64,
    pub(crate) answered: Answered,
}

/// Workers' answers, added up.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    pub(crate) stats: Stats,
    pub(crate) sessions: Vec<SessionInfo>,
    /// Number of sessions that the question applied to.
    pub(crate) count: u64,
    /// Number of sessions without room for the pushed bytes.
    pub(crate) dropped: u64,
    /// The worker and the slot of the session that is traced.
    pub(crate) traced: Option<(usize, u32)>,
}

impl Answered {
    pub(crate) fn add(&mut self, other: Self) {
        self.stats.add(&other.stats);
        self.sessions.extend(other.sessions);
        self.count += other.count;
        self.dropped += other.dropped;
        self.traced = self.traced.or(other.traced);
    }
}

/// The way in which a listener is closed, the mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Closing {
    /// Another acceptor has the socket, too: nothing is accepted any more, and the backlog is left to it.
    HandOver,
    /// After the connections in the backlog are accepted: their lines may have been sent already.
    AfterBacklog,
    AtOnce,
}

/// An order to an acceptor.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) enum ListenerOrder {
    /// Accept no more connections, and let go of the socket.
    Close(Closing),
    /// Check whether the listener is paused: while it is, its backlog holds new connections.
    LookAtPause,
}
