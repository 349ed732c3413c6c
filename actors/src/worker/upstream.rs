//! Upstream: calls from a worker to the rest of its server.
//!
//! Every call that a worker makes into `control` is here.
//! Not here: the work on an answer or a report (`control`).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use crate::control::{
    budget::{Budget, Sources},
    event::RefusedConnection,
    ledger::Batch,
    orders::{Answer, Order},
    stats::Stats,
    ways::Control,
};

/// The way from a worker to the rest of its server.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) control: Arc<Control>,
    /// Sessions of the worker's thread and on their way to it: the acceptor picks the least loaded.
    pub(crate) load: Arc<AtomicUsize>,
    /// Number of the thread, from 0: a server has a worker on each for each set of limits.
    pub(crate) thread: usize,
    /// True if the limits are a listener's own: a change of the server's limits does not touch them.
    pub(crate) has_own_limits: bool,
}

impl Upstream {
    /// Counts the end of a session.
    pub(super) fn release_load(&self) {
        self.load.fetch_sub(1, Relaxed);
    }

    /// Returns true if openings have to be gathered.
    pub(super) fn has_subscribers(&self) -> bool {
        self.control.ledger.has_subscribers()
    }

    /// Tells subscribers of a connection that is refused.
    pub(super) fn tell_refused(&self, refused: impl FnOnce() -> RefusedConnection) {
        self.control.ledger.tell_refused(refused);
    }

    /// Books openings and ends of sessions.
    pub(super) fn book(&self, batch: Batch) {
        self.control.ledger.book(batch);
    }

    /// Answers a question of the supervisor.
    pub(super) fn answer(&self, worker: usize, answer: Answer) {
        self.control.answer(worker, answer);
    }

    /// Books the end of the worker, with its last batch; its counters stay.
    pub(super) fn lose_worker(&self, worker: usize, counters: Stats, last: Batch) {
        self.control.lose_worker(worker, counters, last);
    }

    /// The memory budget of all workers.
    pub(super) fn budget(&self) -> &Budget {
        &self.control.ledger.budget
    }

    /// The rule by which sessions belong to one source, as it is now.
    pub(super) fn sources(&self) -> Sources {
        Sources::new(&self.control.ledger.books().limits.admission)
    }

    /// Orders another worker to evict.
    pub(super) fn order_eviction(&self, worker: usize) {
        self.control.order_one(worker, Order::Evict);
    }
}
