//! Orders: what workers and acceptors are told and asked, what they answer, and the way to a worker.
//!
//! Not here: what they do about them (`worker`, `listen`), how a message finds them (`control`).

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use actix::Message;
use tokio::sync::mpsc;

use crate::{
    control::{
        ledger::OwedReport,
        query::{SessionFilter, SessionInfo, SessionQuery},
        stats::Stats,
    },
    limits::Limits,
    shared::SharedBytes,
    wire::socket::Socket,
};

/// The way to one worker.
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

/// What a worker is asked to do.
#[derive(Debug)]
pub(crate) enum Order {
    Start(Admitted),
    Drain { over: Duration, goodbye: SharedBytes },
    Abort,
    Evict,
    Answer { token: u64, question: Question },
}

/// What a worker is asked, and what it does about it before it answers.
#[derive(Clone, Debug)]
pub(crate) enum Question {
    Totals,
    List(SessionQuery),
    Kick { whom: SessionFilter, goodbye: SharedBytes },
    Push { whom: SessionFilter, bytes: SharedBytes },
    Limits { limits: Arc<Limits>, dry_run: bool },
}

/// From a worker to the supervisor. Ends of sessions are in the ledger.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct FromWorker {
    pub(crate) worker: usize,
    pub(crate) news: News,
}

#[derive(Debug)]
pub(crate) enum News {
    Answer(Answer),
    /// The worker is no more.
    Gone,
}

/// One worker's answer to [`Order::Answer`].
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) token: u64,
    pub(crate) answered: Answered,
}

/// What workers answer; those of several are added up.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    pub(crate) stats: Stats,
    pub(crate) sessions: Vec<SessionInfo>,
    /// Sessions that the question was about.
    pub(crate) count: u64,
    /// Sessions that had no room for what was pushed.
    pub(crate) dropped: u64,
}

impl Answered {
    pub(crate) fn add(&mut self, other: Self) {
        self.stats.add(&other.stats);
        self.sessions.extend(other.sessions);
        self.count += other.count;
        self.dropped += other.dropped;
    }
}

/// How listeners are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// What lies in the backlog is accepted first: its lines may have been sent already.
    AfterBacklog,
    AtOnce,
}

/// What an acceptor is asked to do.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) enum ListenerOrder {
    /// Accept no more, and close the socket.
    Close(Closing),
    /// Look whether the listener is paused: while it is, its backlog holds what comes.
    LookAtPause,
}
