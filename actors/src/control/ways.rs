//! Control: the ways to the workers, the listeners and the supervisor of one server, and its end.
//!
//! It outlives supervisors, and is shared by them, the workers and the acceptors. One lock, taken for an operator's order.
//! Not here: what is counted (`ledger`), what is asked and ordered (`supervisor`).

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use actix::{Recipient, dev::RecipientRequest};
use actix_rt::{Arbiter, ArbiterHandle};
use tokio::sync::watch;

use crate::{
    address::Address,
    connection::ListenerId,
    control::{
        ledger::Ledger,
        orders::{Answer, Closing, FromWorker, ListenerOrder, News, Order, WorkerHandle},
        stats::Stats,
    },
    limits::Limits,
};

/// How long until a thread is asked for again that could not be made.
const JOIN_RETRY: Duration = Duration::from_millis(50);

/// How a server ended.
#[derive(Clone, Debug)]
pub(crate) enum Finished {
    AsAsked,
    /// Every worker stopped without having been asked.
    LostWorkers,
    /// The acceptor on this address failed again and again.
    LostListener(Address),
}

/// A listener that has not been closed yet. Dropped when it is, after its sockets: the server has not ended before.
#[derive(Debug)]
pub(crate) struct OpenListener(Arc<Control>);

pub(crate) struct Control {
    pub(crate) ledger: Arc<Ledger>,
    ways: Mutex<Ways>,
    /// Whether the listeners are to be closed, and whether they are. Once they are to be none listens again.
    closing: watch::Sender<Option<Closing>>,
    closed: watch::Sender<bool>,
    finished: watch::Sender<Option<Finished>>,
    /// Where the supervisor runs.
    home: ArbiterHandle,
    last_token: AtomicU64,
}

/// What the lock is for.
struct Ways {
    /// In the order of the listeners' numbers.
    listeners: Vec<WayToListener>,
    open_listeners: usize,
    /// `None` for a worker that is no more.
    workers: Vec<Option<WorkerHandle>>,
    arbiters: Vec<Arbiter>,
    /// The one of the moment. It may have ended, and another be on its way.
    supervisor: Recipient<FromWorker>,
    /// The server ends: nobody has to take over any more.
    is_finishing: bool,
    /// How it has ended, but for its listeners.
    ended_as: Option<Finished>,
}

/// What outlives the acceptors of a listener.
#[derive(Default)]
struct WayToListener {
    /// The last one. It may have ended, and another be on its way.
    acceptor: Option<Recipient<ListenerOrder>>,
    is_paused: bool,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("ledger", &self.ledger).finish_non_exhaustive()
    }
}

impl Control {
    pub(crate) fn new(
        limits: Limits,
        listeners: usize,
        workers: Vec<WorkerHandle>,
        arbiters: Vec<Arbiter>,
        home: ArbiterHandle,
        supervisor: Recipient<FromWorker>,
    ) -> Arc<Self> {
        Arc::new(Self {
            ledger: Ledger::new(limits, workers.len()),
            ways: Mutex::new(Ways {
                listeners: std::iter::repeat_with(WayToListener::default).take(listeners).collect(),
                open_listeners: 0,
                workers: workers.into_iter().map(Some).collect(),
                arbiters,
                supervisor,
                is_finishing: false,
                ended_as: None,
            }),
            closing: watch::Sender::new(None),
            closed: watch::Sender::new(false),
            finished: watch::Sender::new(None),
            home,
            last_token: AtomicU64::new(0),
        })
    }

    fn ways(&self) -> MutexGuard<'_, Ways> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn when_finished(&self) -> watch::Receiver<Option<Finished>> {
        self.finished.subscribe()
    }

    /// Whether the server has ended, or is about to.
    pub(crate) fn has_finished(&self) -> bool {
        self.ways().is_finishing
    }

    /// A number that no question of this server had before: an answer to a supervisor that is no more fits none.
    pub(crate) fn next_token(&self) -> u64 {
        self.last_token.fetch_add(1, Relaxed) + 1
    }

    /// Where the supervisor runs.
    pub(crate) fn home(&self) -> &ArbiterHandle {
        &self.home
    }

    /// Another supervisor hears of the workers from here on.
    pub(crate) fn set_supervisor(&self, supervisor: Recipient<FromWorker>) {
        self.ways().supervisor = supervisor;
    }

    /// Passes an answer to the supervisor of the moment. One that came later has not asked.
    pub(crate) fn answer(&self, worker: usize, answer: Answer) {
        self.ways().supervisor.do_send(FromWorker { worker, news: News::Answer(answer) });
    }

    /// A worker is no more: its counters stay. What a dying supervisor does not hear of it its successor finds here.
    pub(crate) fn lose_worker(&self, worker: usize, counters: &Stats) {
        self.ledger.books().gone.add(counters);
        let mut ways = self.ways();
        ways.workers[worker] = None;
        ways.supervisor.do_send(FromWorker { worker, news: News::Gone });
    }

    /// Whether no worker is left.
    pub(crate) fn has_lost_workers(&self) -> bool {
        self.ways().workers.iter().all(Option::is_none)
    }

    /// Gives an order to every worker; returns those that got it.
    pub(crate) fn order(&self, order: impl Fn() -> Order) -> Vec<usize> {
        let reached =
            |worker: &Option<WorkerHandle>| worker.as_ref().is_some_and(|worker| worker.orders.send(order()).is_ok());
        self.ways().workers.iter().enumerate().filter(|(_, worker)| reached(worker)).map(|(index, _)| index).collect()
    }

    /// Gives an order to one worker, if it still is.
    pub(crate) fn order_one(&self, worker: usize, order: Order) {
        if let Some(Some(worker)) = self.ways().workers.get(worker) {
            // It may just have ended.
            let _ = worker.orders.send(order);
        }
    }

    /// Counts a listener that will have to be closed.
    pub(crate) fn open_listener(self: &Arc<Self>) -> OpenListener {
        self.ways().open_listeners += 1;
        OpenListener(Arc::clone(self))
    }

    /// A listener has another acceptor from here on; returns whether it is paused. A pause that is asked for later finds
    /// this acceptor.
    pub(crate) fn set_acceptor(&self, listener: ListenerId, acceptor: Recipient<ListenerOrder>) -> bool {
        self.ways().listeners.get_mut(listener.get()).is_some_and(|known| {
            known.acceptor = Some(acceptor);
            known.is_paused
        })
    }

    /// Whether a listener is paused, whoever accepts on it.
    pub(crate) fn is_paused(&self, listener: ListenerId) -> bool {
        self.ways().listeners.get(listener.get()).is_some_and(|known| known.is_paused)
    }

    /// Pauses or resumes a listener; `None` if there is none with this number. Its acceptor, if it has one, has heard so
    /// when the request within has ended.
    pub(crate) fn pause(&self, listener: ListenerId, paused: bool) -> Option<Option<RecipientRequest<ListenerOrder>>> {
        let mut ways = self.ways();
        let known = ways.listeners.get_mut(listener.get())?;
        // Before it is said: an acceptor that comes between the two finds it here.
        known.is_paused = paused;
        Some(known.acceptor.as_ref().map(|acceptor| acceptor.send(ListenerOrder::LookAtPause)))
    }

    /// Whether a listener has an acceptor.
    #[cfg(test)]
    pub(crate) fn has_acceptor(&self, listener: ListenerId) -> bool {
        self.ways().listeners[listener.get()].acceptor.as_ref().is_some_and(Recipient::connected)
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
            let mut ways = self.ways();
            if std::mem::replace(&mut ways.is_finishing, true) {
                return;
            }
            // A worker ends when nobody can give it an order: on an arbiter that lives on, it would stay otherwise.
            ways.workers.fill_with(|| None);
            std::mem::take(&mut ways.arbiters)
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
                let mut ways = control.ways();
                ways.ended_as = Some(how.clone());
                ways.open_listeners > 0
            };
            // Or whoever closes the last of them says so.
            if !has_listeners {
                control.finished.send_replace(Some(how.clone()));
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
            let mut ways = self.0.ways();
            ways.open_listeners -= 1;
            (ways.open_listeners == 0, ways.ended_as.clone())
        };
        if is_last {
            self.0.closed.send_replace(true);
            if ended_as.is_some() {
                self.0.finished.send_replace(ended_as);
            }
        }
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
                    logged.push((
                        control.ways.try_lock().is_err() || control.ledger.is_locked(),
                        record.args().to_string(),
                    ));
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
