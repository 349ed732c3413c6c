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
    thread,
    time::Duration,
};

use actix::{Addr, Recipient};
use actix_rt::{Arbiter, ArbiterHandle};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use crate::{
    connection::ListenerId,
    control::{
        admission::Admission,
        budget::Budget,
        messages::SessionEvent,
        orders::{Batch, Order, WorkerHandle},
        stats::{DrainReport, Stats},
        supervisor::Supervisor,
    },
    limits::Limits,
    listen::acceptor::Acceptor,
    report::CloseReport,
    shared::SharedBytes,
};

/// How long until a thread is asked for again that could not be made.
const JOIN_RETRY: Duration = Duration::from_millis(50);

/// How a server ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Finished {
    AsAsked,
    /// Every worker stopped without having been asked.
    LostWorkers,
    /// The acceptor on this address failed again and again.
    LostListener(SocketAddr),
}

/// How listeners are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// What lies in the backlog is accepted first: its lines may have been sent already.
    AfterBacklog,
    AtOnce,
}

/// A listener that has not been closed yet. Dropped when it is, after its sockets: the server has not ended before.
#[derive(Debug)]
pub(crate) struct OpenListener(Arc<Control>);

pub(crate) struct Control {
    pub(crate) admission: Arc<Admission>,
    pub(crate) budget: Budget,
    state: Mutex<State>,
    supervisor: watch::Sender<Addr<Supervisor>>,
    /// Whether the listeners are to be closed, and whether they are. Once they are to be none listens again.
    closing: watch::Sender<Option<Closing>>,
    closed: watch::Sender<bool>,
    finished: watch::Sender<Option<Finished>>,
    /// Where the supervisor runs.
    home: ArbiterHandle,
    last_token: AtomicU64,
}

/// What the lock is for.
pub(crate) struct State {
    pub(crate) limits: Limits,
    /// In the order of the listeners' numbers.
    pub(crate) listeners: Vec<ListenerState>,
    open_listeners: usize,
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
    /// How it has ended, but for its listeners.
    ended_as: Option<Finished>,
}

/// What outlives the acceptors of a listener.
#[derive(Debug, Default)]
pub(crate) struct ListenerState {
    /// The last one. It may have ended, and another be on its way.
    pub(crate) acceptor: Option<Addr<Acceptor>>,
    pub(crate) is_paused: bool,
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

impl Draining {
    /// Whether its deadline is over.
    pub(crate) fn is_late(&self) -> bool {
        Instant::now() >= self.until
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("admission", &self.admission).finish_non_exhaustive()
    }
}

impl Control {
    pub(crate) fn new(
        limits: Limits,
        listeners: usize,
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
                listeners: std::iter::repeat_with(ListenerState::default).take(listeners).collect(),
                open_listeners: 0,
                workers: workers.into_iter().map(Some).collect(),
                arbiters,
                ended: 0,
                gone: Stats::default(),
                subscribers: Vec::new(),
                events_lost: 0,
                draining: None,
                is_finishing: false,
                ended_as: None,
            }),
            supervisor: watch::Sender::new(supervisor),
            closing: watch::Sender::new(None),
            closed: watch::Sender::new(false),
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

    /// Counts a listener that will have to be closed.
    pub(crate) fn open_listener(self: &Arc<Self>) -> OpenListener {
        self.state().open_listeners += 1;
        OpenListener(Arc::clone(self))
    }

    /// A listener has another acceptor from here on; returns whether it is paused. A pause that is asked for later finds
    /// this acceptor.
    pub(crate) fn set_acceptor(&self, listener: ListenerId, acceptor: Addr<Acceptor>) -> bool {
        let mut state = self.state();
        state.listeners.get_mut(listener.get()).is_some_and(|known| {
            known.acceptor = Some(acceptor);
            known.is_paused
        })
    }

    /// Whether a listener is paused, whoever accepts on it.
    pub(crate) fn is_paused(&self, listener: ListenerId) -> bool {
        self.state().listeners.get(listener.get()).is_some_and(|known| known.is_paused)
    }

    /// Has the listeners closed, if they are not; `AtOnce` hurries those that are being closed.
    pub(crate) fn close_listeners(&self, how: Closing) {
        self.closing.send_if_modified(|closing| {
            let is_more = *closing != Some(Closing::AtOnce) && *closing != Some(how);
            if is_more {
                *closing = Some(how);
            }
            is_more
        });
    }

    /// How the listeners are to be closed, once they are.
    pub(crate) fn closing(&self) -> watch::Receiver<Option<Closing>> {
        self.closing.subscribe()
    }

    /// Whether the listeners are closed.
    pub(crate) fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
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
        self.close_listeners(Closing::AtOnce);
        for arbiter in &arbiters {
            arbiter.stop();
        }
        let no_threads = arbiters.is_empty();
        let arbiters = Arc::new(Mutex::new(arbiters));
        let control = Arc::clone(self);
        // An arbiter that is not joined may be cut off in the middle of a destructor at the end of the process.
        let join = move || {
            for arbiter in std::mem::take(&mut *arbiters.lock().unwrap_or_else(PoisonError::into_inner)) {
                if arbiter.join().is_err() {
                    log::error!("a worker's thread panicked");
                }
            }
            let has_listeners = {
                let mut state = control.state();
                state.ended_as = Some(how);
                state.open_listeners > 0
            };
            // Or whoever closes the last of them says so.
            if !has_listeners {
                control.finished.send_replace(Some(how));
            }
        };
        if no_threads {
            return join();
        }
        // Not one of tokio's threads: it panics when it cannot make one.
        let join_apart = move || thread::Builder::new().name("actix-lines|join".to_owned()).spawn(join.clone()).is_ok();
        if !join_apart() {
            self.home.spawn(async move {
                // Each worker's thread that ends makes room for this one.
                while !join_apart() {
                    tokio::time::sleep(JOIN_RETRY).await;
                }
            });
        }
    }
}

impl Drop for OpenListener {
    fn drop(&mut self) {
        let (is_last, ended_as) = {
            let mut state = self.0.state();
            state.open_listeners -= 1;
            (state.open_listeners == 0, state.ended_as)
        };
        if is_last {
            self.0.closed.send_replace(true);
            if ended_as.is_some() {
                self.0.finished.send_replace(ended_as);
            }
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;
    use crate::{rot13::Rot13, server::builder::LineServer};

    /// Whether the lock was held, and the text.
    type Message = (bool, String);

    thread_local! {
        /// The server that this thread runs, and what it has logged.
        static LOGGED: RefCell<Option<(Arc<Control>, Vec<Message>)>> = const { RefCell::new(None) };
    }

    struct Witness;

    impl log::Log for Witness {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            LOGGED.with_borrow_mut(|logged| {
                if let Some((control, logged)) = logged {
                    logged.push((control.state.try_lock().is_err(), record.args().to_string()));
                }
            });
        }

        fn flush(&self) {}
    }

    #[actix::test]
    async fn nothing_is_logged_under_the_lock() {
        log::set_logger(&Witness).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
        let server = LineServer::new(|_| Rot13).on_current_arbiter().bind("127.0.0.1:0").unwrap().start().unwrap();
        LOGGED.set(Some((Arc::clone(server.control()), Vec::new())));
        let mut peer = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
        peer.write_all(b"hello\n").await.unwrap();
        peer.read_exact(&mut [0; 6]).await.unwrap();
        // It lingers for a peer that does not close, while the drain says each second how far it is.
        tokio::time::pause();
        let report = server.drain(Duration::from_secs(3)).await.unwrap();
        assert_eq!((report.ended, report.cut), (0, 1));
        server.wait().await.unwrap();
        let (_, logged) = LOGGED.take().unwrap();
        for part in ["listening on ", "draining: 0 sessions ended, 0 cut, 1 left", " closed: "] {
            assert!(logged.iter().any(|(_, text)| text.contains(part)), "{part} is not in {logged:#?}");
        }
        assert!(!logged.iter().any(|(is_locked, _)| *is_locked), "logged under the lock: {logged:#?}");
    }
}
