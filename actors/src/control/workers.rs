//! Workers: the table of a server's workers.
//!
//! There is one on each thread with the server's session limits, and one more for each set of limits that listeners have
//! of their own, as long as there is such a listener or a session of one.
//! Not here: the lock (`ways`), starting them (`server/doors`).

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicUsize},
};

use tokio::sync::mpsc;

use crate::{
    control::orders::{Order, WorkerHandle},
    limits::SessionLimits,
};

/// A worker that has yet to be started on its thread.
#[derive(Debug)]
pub(crate) struct UnlaunchedWorker {
    /// Its number, which no other worker of the server ever has.
    pub(crate) index: usize,
    pub(crate) thread: usize,
    pub(crate) load: Arc<AtomicUsize>,
    pub(crate) orders: mpsc::UnboundedReceiver<Order>,
}

#[derive(Debug)]
struct Known {
    handle: WorkerHandle,
    /// The limits of its own; `None` is those of the server.
    limits: Option<SessionLimits>,
    /// Has the order to end behind its last session.
    is_retired: bool,
}

#[derive(Debug)]
pub(super) struct WorkerTable {
    /// By number. One that has stopped is not here.
    workers: BTreeMap<usize, Known>,
    next_index: usize,
    /// Sessions of each thread and on their way to it.
    loads: Vec<Arc<AtomicUsize>>,
}

impl WorkerTable {
    pub(super) fn new(threads: usize) -> Self {
        let loads = std::iter::repeat_with(Arc::default).take(threads).collect();
        Self { workers: BTreeMap::new(), next_index: 0, loads }
    }

    /// Adds a worker for each thread.
    pub(super) fn add(&mut self, limits: Option<SessionLimits>) -> Vec<UnlaunchedWorker> {
        let mut unlaunched = Vec::with_capacity(self.loads.len());
        for (thread, load) in self.loads.iter().enumerate() {
            let (sender, orders) = mpsc::unbounded_channel();
            let handle = WorkerHandle { orders: sender, load: Arc::clone(load) };
            self.workers.insert(self.next_index, Known { handle, limits, is_retired: false });
            unlaunched.push(UnlaunchedWorker { index: self.next_index, thread, load: Arc::clone(load), orders });
            self.next_index += 1;
        }
        unlaunched
    }

    /// Returns the workers with these limits that take connections.
    pub(super) fn with(&self, limits: Option<SessionLimits>) -> Vec<WorkerHandle> {
        let with = self.workers.values().filter(|known| known.limits == limits && !known.is_retired);
        with.filter(|known| !known.handle.orders.is_closed()).map(|known| known.handle.clone()).collect()
    }

    /// Gives an order to the workers with these limits that take connections.
    pub(super) fn order(&self, limits: Option<SessionLimits>, order: impl Fn() -> Order) {
        for known in self.workers.values().filter(|known| known.limits == limits && !known.is_retired) {
            // It may just have ended.
            let _ = known.handle.orders.send(order());
        }
    }

    /// Gives an order to every worker. Returns the numbers of those that got it.
    pub(super) fn order_all(&self, order: impl Fn() -> Order) -> Vec<usize> {
        let reached = self.workers.iter().filter(|(_, known)| known.handle.orders.send(order()).is_ok());
        reached.map(|(index, _)| *index).collect()
    }

    /// Gives an order to one worker, if it still runs.
    pub(super) fn order_one(&self, index: usize, order: Order) {
        if let Some(known) = self.workers.get(&index) {
            // It may just have ended.
            let _ = known.handle.orders.send(order);
        }
    }

    /// Has the workers with these limits end behind their last sessions: no connection comes to them any more.
    pub(super) fn retire(&mut self, limits: SessionLimits) {
        let retiring = |known: &&mut Known| known.limits == Some(limits) && !known.is_retired;
        for known in self.workers.values_mut().filter(retiring) {
            known.is_retired = true;
            let _ = known.handle.orders.send(Order::Retire);
        }
    }

    /// Removes a worker that has stopped. Returns true if it had the order to do so.
    pub(super) fn remove(&mut self, index: usize) -> bool {
        self.workers.remove(&index).is_some_and(|known| known.is_retired)
    }

    /// Returns true if no worker is left.
    pub(super) fn is_empty(&self) -> bool {
        self.workers.values().all(|known| known.handle.orders.is_closed())
    }

    /// Lets go of all workers: none can be given an order any more.
    pub(super) fn clear(&mut self) {
        self.workers.clear();
    }
}
