//! Orders: what a worker is told and asked, what it answers, and the way to it.
//!
//! Not here: what it does about them (`worker`).

use std::{
    net::TcpStream,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use actix::Message;
use tokio::sync::mpsc;

use crate::{
    connection::Connection,
    control::{
        admission::Place,
        control::Control,
        query::{SessionFilter, SessionInfo, SessionQuery},
        stats::Stats,
    },
    limits::Limits,
    report::{CloseReason, CloseReport},
    shared::SharedBytes,
};

/// The way to one worker.
#[derive(Clone, Debug)]
pub(crate) struct WorkerHandle {
    pub(crate) orders: mpsc::UnboundedSender<Order>,
    pub(crate) load: Arc<AtomicUsize>,
}

/// A connection on its way to its worker. Dropped on the way, it leaves a report like any other session.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) stream: Option<TcpStream>,
    pub(crate) connection: Connection,
    pub(crate) place: Option<Place>,
    pub(crate) control: Arc<Control>,
    pub(crate) worker: usize,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if self.stream.take().is_some() {
            // The place first, as in `Worker::close`.
            self.place = None;
            let report = CloseReport {
                id: self.connection.id,
                peer: self.connection.peer,
                listener: self.connection.listener,
                reason: CloseReason::WorkerStopped,
                lines_in: 0,
                bytes_in: 0,
                bytes_out: 0,
                unsent_bytes: 0,
                tail_bytes: 0,
                undelivered_bytes: 0,
                duration: Duration::ZERO,
                cut: true,
            };
            self.control.state().gone.count(&report);
            self.control.book(vec![report]);
            self.control.notify(Batch { worker: self.worker, answer: None, last: false });
        }
    }
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

/// From a worker: sessions have ended and are booked, or a question is answered.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Batch {
    pub(crate) worker: usize,
    pub(crate) answer: Option<Answer>,
    /// The worker is no more.
    pub(crate) last: bool,
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
