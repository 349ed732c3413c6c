//! Control: what has to outlive a supervisor, shared by it, the workers and the acceptors of one server.
//!
//! One lock, taken for a batch of ends or for an operator's question, never for a line. No user code runs under it.
//! Not here: what is asked and ordered (`supervisor`), how many may come in (`admission`).

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use actix::{Addr, Recipient};
use actix_rt::{Arbiter, ArbiterHandle};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use crate::{
    CloseReport, DrainReport, Limits, ListenerId, SessionEvent, Stats, Supervisor,
    acceptor::{Acceptor, WorkerHandle},
    admission::Admission,
    budget::Budget,
    shared::SharedBytes,
    supervisor::Batch,
    worker::Order,
};

/// How a server ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Finished {
    AsAsked,
    /// Every worker stopped without having been asked.
    LostWorkers,
    /// The acceptor on this address failed again and again.
    LostListener(SocketAddr),
}

pub(crate) struct Control {
    pub(crate) admission: Arc<Admission>,
    pub(crate) budget: Budget,
    state: Mutex<State>,
    supervisor: watch::Sender<Addr<Supervisor>>,
    finished: watch::Sender<Option<Finished>>,
    /// Where the supervisor runs.
    home: ArbiterHandle,
    last_token: AtomicU64,
}

/// What the lock is for.
pub(crate) struct State {
    pub(crate) limits: Limits,
    /// In the order of the listeners' numbers.
    pub(crate) acceptors: Vec<Addr<Acceptor>>,
    /// `None` for a worker that is no more.
    pub(crate) workers: Vec<Option<WorkerHandle>>,
    arbiters: Vec<Arbiter>,
    /// Sessions that have ended, on all workers.
    pub(crate) ended: u64,
    /// The counters of workers that are no more, and of sessions that never reached one.
    pub(crate) gone: Stats,
    pub(crate) subscribers: Vec<Recipient<SessionEvent>>,
    pub(crate) events_lost: u64,
    pub(crate) draining: Option<Draining>,
    /// The server ends: nobody has to take over any more.
    is_finishing: bool,
}

/// A drain, for whoever is the supervisor when it goes on.
pub(crate) struct Draining {
    pub(crate) since: Instant,
    /// When what is left is aborted.
    pub(crate) until: Instant,
    pub(crate) goodbye: SharedBytes,
    pub(crate) spread: Duration,
    /// The listeners are closed, the workers know.
    pub(crate) is_ordered: bool,
    pub(crate) report: DrainReport,
    pub(crate) waiting: Vec<oneshot::Sender<DrainReport>>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("admission", &self.admission).finish_non_exhaustive()
    }
}

impl Control {
    pub(crate) fn new(
        limits: Limits,
        acceptors: Vec<Addr<Acceptor>>,
        workers: Vec<WorkerHandle>,
        arbiters: Vec<Arbiter>,
        home: ArbiterHandle,
        supervisor: Addr<Supervisor>,
    ) -> Arc<Self> {
        Arc::new(Self {
            admission: Admission::new(limits.admission.clone()),
            budget: Budget::new(limits.memory_budget, workers.len()),
            state: Mutex::new(State {
                limits,
                acceptors,
                workers: workers.into_iter().map(Some).collect(),
                arbiters,
                ended: 0,
                gone: Stats::default(),
                subscribers: Vec::new(),
                events_lost: 0,
                draining: None,
                is_finishing: false,
            }),
            supervisor: watch::Sender::new(supervisor),
            finished: watch::Sender::new(None),
            home,
            last_token: AtomicU64::new(0),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The supervisor of the moment.
    pub(crate) fn supervisor(&self) -> Addr<Supervisor> {
        self.supervisor.borrow().clone()
    }

    /// The supervisor of the moment, and word of each that takes over from it.
    pub(crate) fn supervisors(&self) -> watch::Receiver<Addr<Supervisor>> {
        self.supervisor.subscribe()
    }

    pub(crate) fn when_finished(&self) -> watch::Receiver<Option<Finished>> {
        self.finished.subscribe()
    }

    /// Whether the server has ended, or is about to.
    pub(crate) fn has_finished(&self) -> bool {
        self.state().is_finishing
    }

    /// A number that no question of this server had before: an answer to a supervisor that is no more fits none.
    pub(crate) fn next_token(&self) -> u64 {
        self.last_token.fetch_add(1, Relaxed) + 1
    }

    /// Has a new supervisor take over, on the same arbiter.
    pub(crate) fn replace_supervisor(self: &Arc<Self>) {
        let control = Arc::downgrade(self);
        // Where the arbiter is ending nothing comes of it, which is right.
        self.home.spawn_fn(move || {
            if let Some(control) = Weak::upgrade(&control) {
                log::error!("the supervisor has ended without being asked: a new one takes over");
                let supervisor = Supervisor::launch(&control);
                control.supervisor.send_replace(supervisor);
            }
        });
    }

    /// Books the ends of sessions, and tells the subscribers.
    pub(crate) fn book(&self, reports: Vec<CloseReport>) {
        if reports.is_empty() {
            return;
        }
        let mut state = self.state();
        for report in reports {
            state.ended += 1;
            if let Some(draining) = &mut state.draining {
                *if report.cut { &mut draining.report.cut } else { &mut draining.report.ended } += 1;
            }
            state.tell(&SessionEvent::Closed(report));
        }
    }

    /// Says something to the supervisor of the moment. What a dying one does not hear its successor finds in the state.
    pub(crate) fn notify(&self, batch: Batch) {
        self.supervisor.borrow().do_send(batch);
    }

    /// A worker is no more: its counters stay.
    pub(crate) fn lose_worker(&self, worker: usize, counters: &Stats) {
        let mut state = self.state();
        state.gone.add(counters);
        state.workers[worker] = None;
    }

    /// A listener has another acceptor from here on.
    pub(crate) fn set_acceptor(&self, listener: ListenerId, acceptor: Addr<Acceptor>) {
        if let Some(known) = self.state().acceptors.get_mut(listener.get()) {
            *known = acceptor;
        }
    }

    /// Ends the server: its workers' threads are stopped and joined.
    pub(crate) fn finish(self: &Arc<Self>, how: Finished) {
        let arbiters = {
            let mut state = self.state();
            if std::mem::replace(&mut state.is_finishing, true) {
                return;
            }
            // A worker ends when nobody can give it an order: on an arbiter that lives on, it would stay otherwise.
            state.workers.fill_with(|| None);
            std::mem::take(&mut state.arbiters)
        };
        for arbiter in &arbiters {
            arbiter.stop();
        }
        let no_threads = arbiters.is_empty();
        let control = Arc::clone(self);
        // An arbiter that is not joined may be cut off in the middle of a destructor at the end of the process.
        let join = move || {
            for arbiter in arbiters {
                if arbiter.join().is_err() {
                    log::error!("a worker's thread panicked");
                }
            }
            control.finished.send_replace(Some(how));
        };
        if no_threads {
            join();
        } else {
            drop(tokio::task::spawn_blocking(join));
        }
    }
}

impl State {
    /// Sends an order to every worker; returns those that got it.
    pub(crate) fn order(&self, order: impl Fn() -> Order) -> Vec<usize> {
        let reached =
            |worker: &Option<WorkerHandle>| worker.as_ref().is_some_and(|worker| worker.orders.send(order()).is_ok());
        self.workers.iter().enumerate().filter(|(_, worker)| reached(worker)).map(|(index, _)| index).collect()
    }

    pub(crate) fn tell(&mut self, event: &SessionEvent) {
        let lost = &mut self.events_lost;
        self.subscribers.retain(|subscriber| {
            if subscriber.try_send(event.clone()).is_err() {
                *lost += 1;
            }
            subscriber.connected()
        });
    }
}
