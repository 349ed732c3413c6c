//! Ledger: a server's counters and lasting state: limits, ends, subscribers, a drain.
//!
//! Passive: it outlives supervisors, and holds no handle of an actor or a worker of the server. One lock, taken for a
//! batch of ends or for an operator's question, never for a line. No user code runs under it, and nothing is logged.
//! Not here: admission (`admission`), the handles of workers, listeners and supervisor (`control`).

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use crate::{
    connection::Connection,
    control::{
        admission::{Admission, listener::Place},
        budget::Budget,
        event::{LimitsChanged, Refusals, RefusedConnection, SessionEvent, SessionNamed},
        messages::Subscribe,
        stats::{DrainProgress, DrainReport, Stats},
    },
    limits::{Limits, REPORT_DELAY},
    report::{CloseReason, CloseReport},
    shared::SharedBytes,
};

/// The most refusals that one batch tells apart.
const MOST_TOLD: usize = 256;

#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) admission: Arc<Admission>,
    pub(crate) budget: Budget,
    books: Mutex<Books>,
    /// True if there are subscribers: openings and refusals are gathered only then. Set only under the lock.
    has_subscribers: AtomicBool,
    /// Refusals that subscribers have yet to hear of.
    refusals: Mutex<Refusals>,
    /// Notified when sessions have ended, and when a drain may have nothing left to wait for.
    ends: watch::Sender<()>,
}

/// The state under the lock.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) limits: Limits,
    /// Sessions that have ended, on all workers.
    ended: u64,
    /// The counters of stopped workers, and of sessions that never reached one.
    pub(crate) gone: Stats,
    subscribers: Vec<Subscribe>,
    pub(crate) events_lost: u64,
    pub(crate) draining: Option<Draining>,
    /// The progress of a drain is not logged.
    pub(crate) is_quiet: bool,
}

/// A worker's report of several sessions.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Openings, gathered while there are subscribers.
    pub(crate) opened: Vec<Connection>,
    /// Changes of names, gathered likewise.
    pub(crate) named: Vec<SessionNamed>,
    pub(crate) closed: Vec<CloseReport>,
}

/// The state of a drain. It outlives the supervisor that began it.
#[derive(Debug)]
pub(crate) struct Draining {
    /// Its beginning, which may be yet to come.
    pub(crate) since: Instant,
    /// The deadline, at which the remaining sessions are aborted.
    pub(crate) until: Instant,
    pub(crate) goodbye: SharedBytes,
    pub(crate) spread: Duration,
    /// True once the listeners are closed and the workers have the order.
    pub(crate) is_ordered: bool,
    pub(crate) report: DrainReport,
    pub(crate) waiting: Vec<oneshot::Sender<DrainReport>>,
}

/// The close report owed by an admitted connection. Dropped before a session has taken over, it gives back the place
/// and books the report of a worker that has stopped.
#[derive(Debug)]
pub(crate) struct OwedReport {
    ledger: Arc<Ledger>,
    connection: Connection,
    /// `None` once a session has taken over.
    place: Option<Place>,
}

/// The batch of refusals that is being gathered, sent when this is dropped: also where the arbiter ends meanwhile, or nobody
/// would send this one and those behind it.
struct OwedRefusals(Arc<Ledger>);

impl Drop for OwedRefusals {
    fn drop(&mut self) {
        let refusals = std::mem::take(&mut *self.0.refusals());
        self.0.tell(|| SessionEvent::Refused(Arc::new(refusals)));
    }
}

impl Ledger {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            admission: Admission::new(limits.admission.clone()),
            budget: Budget::new(limits.memory_budget),
            books: Mutex::new(Books {
                limits,
                ended: 0,
                gone: Stats::default(),
                subscribers: Vec::new(),
                events_lost: 0,
                draining: None,
                is_quiet: false,
            }),
            has_subscribers: AtomicBool::new(false),
            refusals: Mutex::default(),
            ends: watch::Sender::new(()),
        })
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn is_locked(&self) -> bool {
        self.books.try_lock().is_err()
    }

    /// Hears of ends, and that there is nobody left who could book one. Does not keep the ledger.
    pub(crate) fn ends(&self) -> watch::Receiver<()> {
        self.ends.subscribe()
    }

    /// Sends events from now on.
    pub(crate) fn subscribe(&self, subscriber: Subscribe) {
        let mut books = self.books();
        books.subscribers.push(subscriber);
        self.note_subscribers(&books);
    }

    /// Returns true if openings are worth to be gathered.
    pub(crate) fn has_subscribers(&self) -> bool {
        self.has_subscribers.load(Acquire)
    }

    fn publish(&self, books: &mut Books, event: &SessionEvent) {
        let events_lost = &mut books.events_lost;
        let is_end = matches!(event, SessionEvent::Closed(_));
        books.subscribers.retain_mut(|Subscribe { recipient, is_lossless, is_for_ends, lost }| {
            if !recipient.connected() {
                // It has ended, and loses nothing.
                return false;
            }
            if *is_for_ends && !is_end {
                return true;
            }
            if *is_lossless {
                recipient.do_send(event.clone());
            } else {
                // In their place: before whatever comes next.
                if *lost > 0 && recipient.try_send(SessionEvent::Lost(*lost)).is_ok() {
                    *lost = 0;
                }
                if *lost > 0 || recipient.try_send(event.clone()).is_err() {
                    *lost += event.count();
                    *events_lost += event.count();
                }
            }
            recipient.connected()
        });
        self.note_subscribers(books);
    }

    fn note_subscribers(&self, books: &Books) {
        self.has_subscribers.store(books.subscribers.iter().any(|subscriber| !subscriber.is_for_ends), Release);
    }

    /// Publishes what has happened once, if somebody listens.
    pub(crate) fn tell(&self, event: impl FnOnce() -> SessionEvent) {
        if self.has_subscribers() {
            let event = event();
            self.publish(&mut self.books(), &event);
        }
    }

    /// Gathers a refusal for those who listen. Called on an arbiter, one of whose tasks sends the batch.
    pub(crate) fn tell_refused(self: &Arc<Self>, refused: impl FnOnce() -> RefusedConnection) {
        if !self.has_subscribers() {
            return;
        }
        let is_first = {
            let refused = refused();
            let mut refusals = self.refusals();
            if refusals.connections.len() < MOST_TOLD {
                refusals.connections.push(refused);
            } else {
                refusals.more += 1;
            }
            refusals.connections.len() == 1
        };
        if is_first {
            let owed = OwedRefusals(Arc::clone(self));
            actix_rt::spawn(async move {
                tokio::time::sleep(REPORT_DELAY).await;
                drop(owed);
            });
        }
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Books the ends of sessions, and publishes openings, names and ends.
    pub(crate) fn book(&self, batch: Batch) {
        if batch.len() == 0 {
            return;
        }
        let Batch { opened, named, closed } = batch;
        let mut books = self.books();
        let has_subscribers = !books.subscribers.is_empty();
        if has_subscribers && !opened.is_empty() {
            self.publish(&mut books, &SessionEvent::Opened(opened.into()));
        }
        // Behind the opening and before the end of the same session.
        if has_subscribers && !named.is_empty() {
            self.publish(&mut books, &SessionEvent::Named(named.into()));
        }
        if closed.is_empty() {
            return;
        }
        books.ended += closed.len() as u64;
        if let Some(draining) = books.draining.as_mut().filter(|draining| draining.has_begun()) {
            let cut = closed.iter().filter(|report| report.cut).count() as u64;
            draining.report.cut += cut;
            draining.report.ended += closed.len() as u64 - cut;
        }
        if has_subscribers {
            self.publish(&mut books, &SessionEvent::Closed(closed.into()));
        }
        drop(books);
        self.ends.send_replace(());
    }

    /// A connection that was refused is closed: a drain waits for those, too.
    pub(crate) fn book_refusal(&self) {
        if self.books().draining.is_some() {
            self.ends.send_replace(());
        }
    }

    /// Sessions that are there or on their way.
    fn left(&self, books: &Books) -> u64 {
        self.admission.admitted().saturating_sub(books.ended)
    }

    /// Takes over new limits, for connections that come from now on. Returns those before.
    pub(crate) fn set_limits(&self, limits: Limits) -> Limits {
        self.admission.set(limits.admission.clone());
        self.budget.set_limit(limits.memory_budget);
        // No lock is held when the old ones are dropped: they hold bytes of the user's.
        std::mem::replace(&mut self.books().limits, limits)
    }

    /// Publishes that the limits are others.
    pub(crate) fn tell_limits(&self, before: Limits, limits: Limits, ends: u64) {
        if before != limits {
            self.tell(|| SessionEvent::LimitsChanged(Arc::new(LimitsChanged { before, limits, ends })));
        }
    }

    /// Publishes how far a drain is, if there is one.
    pub(crate) fn publish_progress(&self) -> Option<DrainProgress> {
        let mut books = self.books();
        let progress = self.progress(&books)?;
        self.publish(&mut books, &SessionEvent::Draining(progress));
        Some(progress)
    }

    /// Returns how far a drain is; `None` if there is none.
    pub(crate) fn draining(&self) -> Option<DrainProgress> {
        let books = self.books();
        self.progress(&books)
    }

    fn progress(&self, books: &Books) -> Option<DrainProgress> {
        let Draining { report: DrainReport { ended, cut, .. }, since, .. } = *books.draining.as_ref()?;
        let now = Instant::now();
        Some(DrainProgress {
            ended,
            cut,
            left: self.left(books),
            duration: now.saturating_duration_since(since),
            begins_in: since.saturating_duration_since(now),
        })
    }

    /// The report of a drain that has nothing left to wait for, and those who wait for it.
    pub(crate) fn drained(&self) -> Option<(DrainReport, Vec<oneshot::Sender<DrainReport>>)> {
        let mut books = self.books();
        let all_ended = self.left(&books) == 0;
        // Whoever is being refused has a moment to hear so, as others have to read what they were answered.
        let all_refused = self.admission.refusing() == 0;
        let draining = books.draining.as_mut().filter(|draining| draining.is_ordered && all_ended)?;
        if !all_refused && !draining.is_late() {
            return None;
        }
        draining.report.duration = draining.since.elapsed();
        Some((draining.report, std::mem::take(&mut draining.waiting)))
    }
}

impl Batch {
    /// Openings, changes of names and ends in it.
    pub(crate) fn len(&self) -> usize {
        self.opened.len() + self.named.len() + self.closed.len()
    }
}

impl Draining {
    /// Returns false while it is only announced: whoever comes is served.
    pub(crate) fn has_begun(&self) -> bool {
        Instant::now() >= self.since
    }

    /// Returns true if its deadline is over.
    pub(crate) fn is_late(&self) -> bool {
        Instant::now() >= self.until
    }
}

impl OwedReport {
    pub(crate) fn new(ledger: Arc<Ledger>, connection: Connection, place: Place) -> Self {
        Self { ledger, connection, place: Some(place) }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// A session is there: it has the place, and owes the report, from here on.
    pub(crate) fn settle(mut self) -> Option<Place> {
        self.place.take()
    }
}

impl Drop for OwedReport {
    fn drop(&mut self) {
        // Given back before anybody hears of the end.
        let Some(place) = self.place.take() else { return };
        drop(place);
        let report = CloseReport {
            id: self.connection.id,
            peer: self.connection.peer.clone(),
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
        self.ledger.books().gone.count(&report);
        self.ledger.book(Batch { opened: vec![self.connection.clone()], named: Vec::new(), closed: vec![report] });
    }
}

#[cfg(test)]
mod tests {
    use crate::address::Address;
    use std::future::pending;

    use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, fut::wrap_future};

    use super::*;
    use crate::{control::admission::listener::ListenerAdmission, limits::ListenerLimits};

    #[derive(Default)]
    struct Watcher(Vec<&'static str>);

    impl Actor for Watcher {
        type Context = Context<Self>;
    }

    impl Handler<SessionEvent> for Watcher {
        type Result = ();

        fn handle(&mut self, event: SessionEvent, ctx: &mut Self::Context) {
            self.0.push(match event {
                SessionEvent::Opened(_) => "opened",
                SessionEvent::Closed(_) => "closed",
                SessionEvent::Draining(_) => "draining",
                other => panic!("{other:?}"),
            });
            if self.0 == ["opened", "closed"] {
                ctx.terminate();
            }
        }
    }

    fn admitted(ledger: &Arc<Ledger>) -> OwedReport {
        let listener = ListenerAdmission::new(&ledger.admission, ListenerLimits::default());
        let mut place = listener.ticket_at_once().expect("a place");
        place.admit(Address::Memory).expect("admission");
        let connection = Connection::between(Address::Memory, Address::Memory);
        OwedReport::new(Arc::clone(ledger), connection, place)
    }

    #[actix::test]
    async fn an_admitted_connection_that_no_session_takes_over_leaves_one_report() {
        let ledger = Ledger::new(Limits::default());
        let mut ends = ledger.ends();
        let place = admitted(&ledger).settle();
        assert!(place.is_some() && !ends.has_changed().unwrap());
        assert_eq!(ledger.left(&ledger.books()), 1);
        drop(admitted(&ledger));
        assert!(ends.has_changed().unwrap());
        ends.mark_unchanged();
        assert_eq!(ledger.left(&ledger.books()), 1);
        assert_eq!(ledger.books().gone.closed["worker-stopped"], 1);
    }

    #[actix::test]
    async fn openings_are_gathered_as_long_as_somebody_listens() {
        let ledger = Ledger::new(Limits::default());
        assert!(!ledger.has_subscribers());
        let watcher: Addr<Watcher> = Watcher::create(|ctx| {
            // It lives on without an address.
            ctx.spawn(wrap_future(pending()));
            Watcher::default()
        });
        ledger.subscribe(Subscribe::new(watcher.clone().recipient()));
        assert!(ledger.has_subscribers());
        drop(admitted(&ledger));
        while watcher.connected() {
            tokio::task::yield_now().await;
        }
        assert!(ledger.has_subscribers());
        drop(admitted(&ledger));
        assert!(!ledger.has_subscribers());
    }

    /// Hears of ends alone.
    struct Ends(Arc<AtomicBool>);

    impl Actor for Ends {
        type Context = Context<Self>;
    }

    impl Handler<SessionEvent> for Ends {
        type Result = ();

        fn handle(&mut self, event: SessionEvent, _: &mut Self::Context) {
            assert!(matches!(event, SessionEvent::Closed(_)), "{event:?}");
            self.0.store(true, Release);
        }
    }

    #[actix::test]
    async fn whoever_hears_of_ends_alone_has_nothing_else_gathered() {
        let ledger = Ledger::new(Limits::default());
        let has_heard = Arc::new(AtomicBool::new(false));
        let listener = Ends(Arc::clone(&has_heard)).start();
        ledger.subscribe(Subscribe::ends(listener.recipient()));
        assert!(!ledger.has_subscribers());
        drop(admitted(&ledger));
        ledger.tell(|| unreachable!("nobody asked for it"));
        while !has_heard.load(Acquire) {
            tokio::task::yield_now().await;
        }
        assert!(!ledger.has_subscribers());
    }

    #[actix::test]
    async fn nothing_is_gathered_while_nobody_listens() {
        let ledger = Ledger::new(Limits::default());
        ledger.tell(|| panic!("an event that nobody hears"));
        ledger.tell_refused(|| panic!("a refusal that nobody hears of"));
        assert_eq!(*ledger.refusals(), Refusals::default());
    }

    /// Refusals that it has heard of.
    struct Refused(u64);

    impl Actor for Refused {
        type Context = Context<Self>;
    }

    impl Handler<SessionEvent> for Refused {
        type Result = ();

        fn handle(&mut self, event: SessionEvent, ctx: &mut Self::Context) {
            self.0 += event.count();
            if self.0 == 2 {
                ctx.terminate();
            }
        }
    }

    #[actix::test]
    async fn refusals_are_told_of_though_an_arbiter_ends_meanwhile() {
        const PATIENCE: Duration = Duration::from_secs(20);
        let ledger = Ledger::new(Limits::default());
        let watcher = Refused(0).start();
        ledger.subscribe(Subscribe::new(watcher.clone().recipient()));
        let refuse = |ledger: &Arc<Ledger>| {
            ledger.tell_refused(|| RefusedConnection {
                peer: Address::Memory,
                listener: None,
                reason: crate::report::RefuseReason::Denied,
            });
        };
        let arbiter = actix_rt::Arbiter::new();
        let other = Arc::clone(&ledger);
        arbiter.spawn_fn(move || {
            refuse(&other);
            actix_rt::Arbiter::current().stop();
        });
        actix_rt::task::spawn_blocking(|| arbiter.join()).await.unwrap().unwrap();
        refuse(&ledger);
        let heard = async {
            while watcher.connected() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, heard).await.expect("both refusals");
    }

    #[actix::test]
    async fn each_session_of_a_batch_that_is_lost_counts() {
        const SESSIONS: usize = 5;
        const BATCHES: u64 = 40;
        let ledger = Ledger::new(Limits::default());
        let watcher = Watcher::default().start();
        ledger.subscribe(Subscribe::new(watcher.clone().recipient()));
        let opened = Connection::between(Address::Memory, Address::Memory);
        // The watcher has no turn meanwhile.
        (0..BATCHES)
            .for_each(|_| ledger.book(Batch { opened: vec![opened.clone(); SESSIONS], named: vec![], closed: vec![] }));
        let lost = ledger.books().events_lost;
        let kept = BATCHES - lost / SESSIONS as u64;
        assert!(lost.is_multiple_of(SESSIONS as u64) && (16..=17).contains(&kept), "{lost} lost");
    }
}
