//! Control: the handles of one server's workers, listeners and supervisor, and its end.
//!
//! It outlives supervisors, and is shared by them, the workers and the acceptors. One lock, taken for an operator's
//! order.
//! Not here: counters (`ledger`), what is asked and ordered (`supervisor`).

use std::{
    any::Any,
    fmt,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use actix::{Recipient, dev::RecipientRequest};
use actix_rt::{Arbiter, ArbiterHandle};
use tokio::sync::watch;

use crate::{
    address::Address,
    caught::drop_caught,
    connection::ListenerId,
    control::{
        admission::listener::ListenerAdmission,
        event::{ListenerChange, ListenerEvent, SessionEvent},
        ledger::{Batch, Ledger},
        listeners::{ListenerInfo, ListenerTable, Site},
        orders::{Answer, Answered, Closing, ListenerOrder, Order, Question, WorkerGone, WorkerHandle},
        questions::Questions,
        stats::Stats,
        workers::{UnlaunchedWorker, WorkerTable},
    },
    error::BindError,
    limits::{Limits, ListenerLimits, SessionLimits},
};

/// Delay before a thread that could not be made is tried again.
const JOIN_RETRY: Duration = Duration::from_millis(50);

/// The way in which a server ended.
#[derive(Clone, Debug)]
pub(crate) enum Finished {
    AsAsked,
    /// Every worker stopped without an order.
    LostWorkers,
    /// The acceptor of this listener failed too often: its name and address.
    LostListener(String),
}

/// An opening of a listener that has not been closed yet. Dropped after its sockets; the server has not ended before.
#[derive(Debug)]
pub(crate) struct OpenListener {
    control: Arc<Control>,
    id: ListenerId,
    serial: u64,
    admission: Arc<ListenerAdmission>,
}

/// A listener that was opened, and what it takes to serve it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) open: OpenListener,
    pub(crate) info: ListenerInfo,
    /// The workers for its sessions.
    pub(crate) workers: Vec<WorkerHandle>,
    /// Those among them that have yet to be started.
    pub(crate) unlaunched: Vec<UnlaunchedWorker>,
}

pub(crate) struct Control {
    pub(crate) ledger: Arc<Ledger>,
    ways: Mutex<Ways>,
    closed: watch::Sender<bool>,
    finished: watch::Sender<Option<Finished>>,
    /// Number of companions of the server, which end after it.
    companions: watch::Sender<usize>,
    /// The arbiter of the supervisor.
    home: ArbiterHandle,
}

/// The state under the lock.
struct Ways {
    listeners: ListenerTable,
    /// The order to close all listeners, once given; none is opened after it.
    closing: Option<Closing>,
    workers: WorkerTable,
    arbiters: Vec<Arbiter>,
    questions: Questions,
    /// The current supervisor. It may have ended, and its successor may not have started.
    supervisor: Recipient<WorkerGone>,
    /// What opens listeners: it knows factories, which is nothing for this floor. Let go when the server ends.
    doors: Option<Arc<dyn Any + Send + Sync>>,
    /// True once the server ends: no actor is replaced any more.
    is_finishing: bool,
    /// The way in which it has ended, apart from its listeners.
    ended_as: Option<Finished>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("ledger", &self.ledger).finish_non_exhaustive()
    }
}

impl Control {
    /// Makes the control of a server with so many workers' threads.
    pub(crate) fn new(
        limits: Limits,
        threads: usize,
        arbiters: Vec<Arbiter>,
        home: ArbiterHandle,
        supervisor: Recipient<WorkerGone>,
    ) -> Arc<Self> {
        Arc::new(Self {
            ledger: Ledger::new(limits),
            ways: Mutex::new(Ways {
                listeners: ListenerTable::default(),
                closing: None,
                workers: WorkerTable::new(threads),
                arbiters,
                questions: Questions::default(),
                supervisor,
                doors: None,
                is_finishing: false,
                ended_as: None,
            }),
            closed: watch::Sender::new(false),
            finished: watch::Sender::new(None),
            companions: watch::Sender::new(0),
            home,
        })
    }

    fn ways(&self) -> MutexGuard<'_, Ways> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn when_finished(&self) -> watch::Receiver<Option<Finished>> {
        self.finished.subscribe()
    }

    /// Returns the number of companions, for them to count themselves and for others to wait for.
    pub(crate) fn companions(&self) -> &watch::Sender<usize> {
        &self.companions
    }

    /// Returns true if the server has ended, or is about to.
    pub(crate) fn has_finished(&self) -> bool {
        self.ways().is_finishing
    }

    /// Returns the arbiter of the supervisor.
    pub(crate) fn home(&self) -> &ArbiterHandle {
        &self.home
    }

    /// Tells this supervisor from now on which workers have stopped.
    pub(crate) fn set_supervisor(&self, supervisor: Recipient<WorkerGone>) {
        self.ways().supervisor = supervisor;
    }

    /// Asks every worker. Returns their answers, added up with the counters of those that have stopped before. They come
    /// whatever becomes of the supervisor meanwhile.
    pub(crate) fn ask(&self, question: &Question) -> impl Future<Output = Answered> + use<> {
        let answers = {
            let ways = &mut *self.ways();
            let token = ways.questions.next_token();
            let missing = ways.workers.order_all(|| Order::Answer { token, question: question.clone() });
            let stats = self.ledger.books().gone.clone();
            ways.questions.add(token, missing, Answered { stats, ..Answered::default() })
        };
        async {
            let mut sum = Answered::default();
            // Without the control there is nothing to add up.
            answers.await.unwrap_or_default().into_iter().for_each(|answered| sum.add(answered));
            sum
        }
    }

    /// Passes an answer to whoever has asked.
    pub(crate) fn answer(&self, worker: usize, answer: Answer) {
        self.ways().questions.answer(worker, answer);
    }

    /// Sets what opens listeners.
    pub(crate) fn set_doors(&self, doors: Arc<dyn Any + Send + Sync>) {
        self.ways().doors = Some(doors);
    }

    /// Returns what opens listeners; `None` once the server has ended.
    pub(crate) fn doors(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.ways().doors.clone()
    }

    /// Adds the workers that have the limits of the server.
    pub(crate) fn add_workers(&self) -> Vec<UnlaunchedWorker> {
        self.ways().workers.add(None)
    }

    /// Removes a worker that has stopped, books its last batch, and keeps its counters. A supervisor that ends at this moment
    /// leaves the loss to its successor, which finds it here.
    pub(crate) fn lose_worker(&self, worker: usize, counters: Stats, last: Batch) {
        let mut ways = self.ways();
        // Under the same lock as questions are asked: each counts it once.
        let is_retired = ways.workers.remove(worker);
        self.ledger.books().gone.add(&counters);
        // Not before: whoever hears of an end, and asks, finds it counted.
        self.ledger.book(last);
        ways.questions.lose_worker(worker, &counters);
        ways.supervisor.do_send(WorkerGone { worker, is_retired });
    }

    /// Returns true if no worker is left.
    pub(crate) fn has_lost_workers(&self) -> bool {
        self.ways().workers.is_empty()
    }

    /// Gives an order to every worker. Returns the numbers of those that got it.
    pub(crate) fn order(&self, order: impl Fn() -> Order) -> Vec<usize> {
        self.ways().workers.order_all(order)
    }

    /// Gives an order to one worker, if it still runs.
    pub(crate) fn order_one(&self, worker: usize, order: Order) {
        self.ways().workers.order_one(worker, order);
    }

    /// Returns an error if the server ends, so that no listener is opened any more.
    pub(crate) fn check_not_ending(&self) -> Result<(), BindError> {
        self.ways().check_not_ending()
    }

    /// Returns an error if no listener of this name can be added.
    pub(crate) fn check_listener(&self, name: Option<&str>) -> Result<(), BindError> {
        let ways = self.ways();
        ways.check_not_ending()?;
        ways.listeners.check(name)
    }

    /// Adds a listener.
    pub(crate) fn open_listener(
        self: &Arc<Self>,
        name: Option<&str>,
        site: Site,
        admission: ListenerLimits,
    ) -> Result<Opened, BindError> {
        self.forget_ended_listeners();
        let mut ways = self.ways();
        ways.check_not_ending()?;
        let limits = site.limits;
        let (id, serial) = ways.listeners.add(name, site, admission, &self.ledger.admission)?;
        let opened = ways.opened(self, id, serial, limits)?;
        self.tell_listener(ListenerChange::Opened, id, &opened.info.local_addr);
        Ok(opened)
    }

    /// Opens a listener again; its opening before is closed as `how` says.
    pub(crate) fn reopen_listener(
        self: &Arc<Self>,
        id: ListenerId,
        site: Site,
        admission: ListenerLimits,
        how: Closing,
    ) -> Result<Opened, BindError> {
        let mut ways = self.ways();
        ways.check_not_ending()?;
        let limits = site.limits;
        let serial = ways.listeners.replace(id, site, admission, how);
        let opened = ways.opened(self, id, serial.ok_or(BindError::NoSuchListener { listener: id })?, limits)?;
        self.tell_listener(ListenerChange::Replaced, id, &opened.info.local_addr);
        Ok(opened)
    }

    /// Forgets the counters of listeners that ended before the last few, but for their sums.
    pub(crate) fn forget_ended_listeners(&self) {
        let mut ways = self.ways();
        let forgotten = ways.listeners.forget_ended();
        if forgotten.is_empty() {
            return;
        }
        let ids: Arc<[_]> = forgotten.iter().map(|(id, _)| *id).collect();
        // Under the same lock as questions are asked: every worker does so before the next one.
        ways.workers.order_all(|| Order::ForgetCounts(Arc::clone(&ids)));
        let gone = &mut self.ledger.books().gone;
        gone.sum_up(|id| ways.listeners.admission(id).is_some());
        forgotten.iter().for_each(|(_, admission)| gone.former_listeners.add_refused(&admission.refused()));
    }

    /// Adds to the counters of all workers what admission and the ledger have counted.
    pub(crate) fn complete(&self, stats: &mut Stats) {
        let ways = self.ways();
        let books = self.ledger.books();
        stats.events_lost = books.events_lost;
        stats.memory.budget = self.ledger.budget.limit().map(|bytes| bytes as u64);
        stats.former_listeners.refused.clone_from(&books.gone.former_listeners.refused);
        ways.listeners.complete(stats);
        stats.sum_refused();
    }

    /// Takes over new limits of the server, for connections that come from now on. Returns those before.
    pub(crate) fn set_limits(&self, limits: Limits) -> Limits {
        let before = self.ledger.set_limits(limits);
        // What they wait for may be another thing now.
        self.ways().listeners.wake();
        before
    }

    /// Publishes what has become of a listener. Under the lock: of one listener the events are in order.
    fn tell_listener(&self, change: ListenerChange, listener: ListenerId, local_addr: &Address) {
        let event = || ListenerEvent { change, listener, local_addr: local_addr.clone() };
        self.ledger.tell(|| SessionEvent::Listener(Arc::new(event())));
    }

    /// Removes a listener, and has it closed. Returns a future that ends once its sockets are closed; `None` if there is no
    /// such listener.
    pub(crate) fn close_listener(&self, id: ListenerId, how: Closing) -> Option<impl Future<Output = ()> + use<>> {
        let closed = self.ways().listeners.remove(id, how)?;
        Some(all_gone(closed))
    }

    /// Returns a future that ends once the acceptors of a listener's openings before the last have ended.
    pub(crate) fn when_replaced(&self, id: ListenerId) -> impl Future<Output = ()> + use<> {
        all_gone(self.ways().listeners.replaced(id))
    }

    /// Returns the listeners, in the order of their numbers. A server that ends has those that it had.
    pub(crate) fn listeners(&self) -> Vec<ListenerInfo> {
        self.ways().listeners.known()
    }

    /// Returns the socket of a listener that accepts, if its socket is open.
    pub(crate) fn listener_socket(&self, id: ListenerId) -> Option<Arc<OwnedFd>> {
        self.ways().listeners.accepting(id)?.site.socket.upgrade()
    }

    /// Returns true if a listener is paused, also between two acceptors.
    pub(crate) fn is_paused(&self, listener: ListenerId) -> bool {
        self.ways().listeners.is_paused(listener)
    }

    /// Pauses or resumes a listener. Returns `None` if there is none with this id; otherwise a request to its
    /// acceptor, if it has one, which ends once the acceptor obeys.
    pub(crate) fn pause(&self, listener: ListenerId, paused: bool) -> Option<Option<RecipientRequest<ListenerOrder>>> {
        let mut ways = self.ways();
        // Before it is said: an acceptor that comes between the two finds it here.
        let (was_paused, local_addr) = ways.listeners.set_paused(listener, paused)?;
        if was_paused != paused {
            let change = if paused { ListenerChange::Paused } else { ListenerChange::Resumed };
            self.tell_listener(change, listener, &local_addr);
        }
        let acceptor = ways.listeners.accepting(listener).and_then(|way| way.acceptor.as_ref());
        Some(acceptor.map(|acceptor| acceptor.send(ListenerOrder::LookAtPause)))
    }

    /// Returns true if a listener has an acceptor.
    #[cfg(test)]
    pub(crate) fn has_acceptor(&self, listener: ListenerId) -> bool {
        let ways = self.ways();
        let acceptor = ways.listeners.accepting(listener).and_then(|way| way.acceptor.as_ref());
        acceptor.is_some_and(Recipient::connected)
    }

    /// Orders all listeners to be closed; `AtOnce` hurries those that are being closed. None is opened after it.
    pub(crate) fn close_listeners(&self, how: Closing) {
        let is_closed = {
            let mut ways = self.ways();
            ways.closing = ways.closing.max(Some(how));
            ways.listeners.close_all(None, how);
            ways.listeners.is_empty()
        };
        if is_closed {
            self.closed.send_replace(true);
        }
    }

    /// Returns a watch that is true once all listeners are closed, by an order to close them all.
    pub(crate) fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// Ends the server: its workers' threads are stopped and joined.
    pub(crate) fn finish(self: &Arc<Self>, how: Finished) {
        let (arbiters, doors) = {
            let mut ways = self.ways();
            if std::mem::replace(&mut ways.is_finishing, true) {
                return;
            }
            // A worker ends when nobody can give it an order: on an arbiter that lives on, it would stay otherwise.
            ways.workers.clear();
            (std::mem::take(&mut ways.arbiters), ways.doors.take())
        };
        // The user's factories are in it.
        drop_caught(doors);
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
                !ways.listeners.is_empty()
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

impl Ways {
    fn check_not_ending(&self) -> Result<(), BindError> {
        if self.closing.is_some() || self.is_finishing { Err(BindError::ServerEnding) } else { Ok(()) }
    }

    /// Finds the workers for a listener that was opened, or adds them.
    fn opened(
        &mut self,
        control: &Arc<Control>,
        id: ListenerId,
        serial: u64,
        limits: Option<SessionLimits>,
    ) -> Result<Opened, BindError> {
        let known = self.listeners.known().into_iter().find(|known| known.id == id);
        let (Some(info), Some(admission)) = (known, self.listeners.admission(id).cloned()) else {
            return Err(BindError::NoSuchListener { listener: id });
        };
        let open = OpenListener { control: Arc::clone(control), id, serial, admission };
        let mut workers = self.workers.with(limits);
        let mut unlaunched = Vec::new();
        if workers.is_empty() && limits.is_some() {
            unlaunched = self.workers.add(limits);
            workers = self.workers.with(limits);
        }
        Ok(Opened { open, info, workers, unlaunched })
    }
}

impl OpenListener {
    pub(crate) fn id(&self) -> ListenerId {
        self.id
    }

    /// Returns the serial number of the opening.
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    pub(crate) fn control(&self) -> &Arc<Control> {
        &self.control
    }

    pub(crate) fn admission(&self) -> &Arc<ListenerAdmission> {
        &self.admission
    }

    /// Sets its acceptor. Returns true if the listener is paused. A later pause goes to this acceptor.
    pub(crate) fn set_acceptor(&self, acceptor: Recipient<ListenerOrder>) -> bool {
        let mut ways = self.control.ways();
        if let Some(way) = ways.listeners.opening(self.serial) {
            way.acceptor = Some(acceptor);
        }
        ways.listeners.is_paused(self.id)
    }

    /// Returns a watch on the order to close it, which may have been given already.
    pub(crate) fn closing(&self) -> Option<watch::Receiver<Option<Closing>>> {
        self.control.ways().listeners.opening(self.serial).map(|way| way.closing())
    }
}

impl Drop for OpenListener {
    fn drop(&mut self) {
        let (is_closed, ended_as, way) = {
            let mut ways = self.control.ways();
            let Some(way) = ways.listeners.forget(self.serial) else { return };
            let limits = way.site.limits;
            let (listener, serial) = (self.id, self.serial);
            // Every connection of it is on the way to its worker, before this.
            ways.workers.order(limits, || Order::Forget { listener, serial });
            if let Some(limits) = limits
                && !ways.listeners.has_limits(limits)
            {
                ways.workers.retire(limits);
            }
            if !ways.listeners.has_opening(self.id) {
                self.control.tell_listener(ListenerChange::Closed, self.id, &way.site.address);
            }
            (ways.closing.is_some() && ways.listeners.is_empty(), ways.ended_as.clone(), way)
        };
        if is_closed {
            self.control.closed.send_replace(true);
            if ended_as.is_some() {
                self.control.finished.send_replace(ended_as);
            }
        }
        // Whoever waits for the end of this opening hears of it last.
        drop(way);
    }
}

/// Waits until the senders of all watches are gone.
async fn all_gone(watches: Vec<watch::Receiver<Option<Closing>>>) {
    for mut watch in watches {
        while watch.changed().await.is_ok() {}
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
