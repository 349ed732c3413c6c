//! Control: the handles of one server's workers, listeners and supervisor, and its end.
//!
//! It outlives supervisors, and is shared by them, the workers and the acceptors. One lock, taken for an operator's
//! order.
//! Not here: counters (`ledger`), questions and orders (`supervisor`).

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

/// Delay before a thread that could not be made is tried again.
const JOIN_RETRY: Duration = Duration::from_millis(50);

/// The way in which a server ended.
#[derive(Clone, Debug)]
pub(crate) enum Finished {
    AsAsked,
    /// Every worker stopped without an order.
    LostWorkers,
    /// The acceptor on this address failed too often.
    LostListener(Address),
}

/// A listener that has not been closed yet. Dropped after its sockets; the server has not ended before.
#[derive(Debug)]
pub(crate) struct OpenListener(Arc<Control>);

pub(crate) struct Control {
    pub(crate) ledger: Arc<Ledger>,
    ways: Mutex<Ways>,
    /// The order to close the listeners, once given; none listens again after it.
    closing: watch::Sender<Option<Closing>>,
    closed: watch::Sender<bool>,
    finished: watch::Sender<Option<Finished>>,
    /// The arbiter of the supervisor.
    home: ArbiterHandle,
    last_token: AtomicU64,
}

/// The state under the lock.
struct Ways {
    /// In the order of the listeners' numbers.
    listeners: Vec<WayToListener>,
    open_listeners: usize,
    /// `None` for a worker that has stopped.
    workers: Vec<Option<WorkerHandle>>,
    arbiters: Vec<Arbiter>,
    /// The current supervisor. It may have ended, and its successor may not have started.
    supervisor: Recipient<FromWorker>,
    /// True once the server ends: no actor is replaced any more.
    is_finishing: bool,
    /// The way in which it has ended, apart from its listeners.
    ended_as: Option<Finished>,
}

/// The part of a listener that outlives its acceptors.
struct WayToListener {
    id: ListenerId,
    /// The last acceptor. It may have ended, and its successor may not have started.
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
        listeners: &[ListenerId],
        workers: Vec<WorkerHandle>,
        arbiters: Vec<Arbiter>,
        home: ArbiterHandle,
        supervisor: Recipient<FromWorker>,
    ) -> Arc<Self> {
        Arc::new(Self {
            ledger: Ledger::new(limits, workers.len()),
            ways: Mutex::new(Ways {
                listeners: (listeners.iter())
                    .map(|id| WayToListener { id: *id, acceptor: None, is_paused: false })
                    .collect(),
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

    /// Returns true if the server has ended, or is about to.
    pub(crate) fn has_finished(&self) -> bool {
        self.ways().is_finishing
    }

    /// Returns a number that no question of this server had before: a late answer to an ended supervisor matches none.
    pub(crate) fn next_token(&self) -> u64 {
        self.last_token.fetch_add(1, Relaxed) + 1
    }

    /// Returns the arbiter of the supervisor.
    pub(crate) fn home(&self) -> &ArbiterHandle {
        &self.home
    }

    /// Sends the workers' messages to this supervisor from now on.
    pub(crate) fn set_supervisor(&self, supervisor: Recipient<FromWorker>) {
        self.ways().supervisor = supervisor;
    }

    /// Passes an answer to the current supervisor, which ignores it if it has not asked.
    pub(crate) fn answer(&self, worker: usize, answer: Answer) {
        self.ways().supervisor.do_send(FromWorker { worker, news: News::Answer(Box::new(answer)) });
    }

    /// Removes a worker that has stopped, and keeps its counters. A supervisor that ends at this moment leaves the loss
    /// to its successor, which finds it here.
    pub(crate) fn lose_worker(&self, worker: usize, counters: &Stats) {
        self.ledger.books().gone.add(counters);
        let mut ways = self.ways();
        ways.workers[worker] = None;
        ways.supervisor.do_send(FromWorker { worker, news: News::Gone });
    }

    /// Returns true if no worker is left.
    pub(crate) fn has_lost_workers(&self) -> bool {
        self.ways().workers.iter().all(Option::is_none)
    }

    /// Gives an order to every worker. Returns the numbers of those that got it.
    pub(crate) fn order(&self, order: impl Fn() -> Order) -> Vec<usize> {
        let reached =
            |worker: &Option<WorkerHandle>| worker.as_ref().is_some_and(|worker| worker.orders.send(order()).is_ok());
        self.ways().workers.iter().enumerate().filter(|(_, worker)| reached(worker)).map(|(index, _)| index).collect()
    }

    /// Gives an order to one worker, if it still runs.
    pub(crate) fn order_one(&self, worker: usize, order: Order) {
        if let Some(Some(worker)) = self.ways().workers.get(worker) {
            // It may just have ended.
            let _ = worker.orders.send(order);
        }
    }

    /// Counts a listener that has to be closed.
    pub(crate) fn open_listener(self: &Arc<Self>) -> OpenListener {
        self.ways().open_listeners += 1;
        OpenListener(Arc::clone(self))
    }

    /// Sets a listener's acceptor. Returns true if the listener is paused. A later pause goes to this acceptor.
    pub(crate) fn set_acceptor(&self, listener: ListenerId, acceptor: Recipient<ListenerOrder>) -> bool {
        self.ways().listeners.get_mut(listener.get()).is_some_and(|known| {
            known.acceptor = Some(acceptor);
            known.is_paused
        })
    }

    /// Returns true if a listener is paused, also between two acceptors.
    pub(crate) fn is_paused(&self, listener: ListenerId) -> bool {
        self.ways().listeners.get(listener.get()).is_some_and(|known| known.is_paused)
    }

    /// Pauses or resumes a listener. Returns `None` if there is none with this id; otherwise a request to its
    /// acceptor, if it has one, which ends once the acceptor obeys.
    pub(crate) fn pause(&self, listener: ListenerId, paused: bool) -> Option<Option<RecipientRequest<ListenerOrder>>> {
        let mut ways = self.ways();
        let known = ways.listeners.get_mut(listener.get()).filter(|known| known.id == listener)?;
        // Before it is said: an acceptor that comes between the two finds it here.
        known.is_paused = paused;
        Some(known.acceptor.as_ref().map(|acceptor| acceptor.send(ListenerOrder::LookAtPause)))
    }

    /// Returns true if a listener has an acceptor.
    #[cfg(test)]
    pub(crate) fn has_acceptor(&self, listener: ListenerId) -> bool {
        self.ways().listeners[listener.get()].acceptor.as_ref().is_some_and(Recipient::connected)
    }

    /// Orders the listeners to be closed; `AtOnce` hurries those that are being closed.
    pub(crate) fn close_listeners(&self, how: Closing) {
        self.closing.send_if_modified(|closing| {
            let is_more = *closing != Some(Closing::AtOnce) && *closing != Some(how);
            if is_more {
                *closing = Some(how);
            }
            is_more
        });
    }

    /// Returns a watch on the order to close the listeners.
    pub(crate) fn closing(&self) -> watch::Receiver<Option<Closing>> {
        self.closing.subscribe()
    }

    /// Returns a watch that is true once the listeners are closed.
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

    /// True if the lock was held, and the text.
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
