//! Ledger: what a server counts and keeps in mind: limits, ends, subscribers, a drain.
//!
//! Passive: it outlives supervisors, and holds no way to an actor or a worker of the server. One lock, taken for a batch of
//! ends or for an operator's question, never for a line. No user code runs under it, and nothing is logged.
//! Not here: how many may come in (`admission`), the ways to those who do something (`control`).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use actix::Recipient;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use crate::{
    connection::Connection,
    control::{
        admission::{Admission, Place},
        budget::Budget,
        messages::SessionEvent,
        stats::{DrainProgress, DrainReport, Stats},
    },
    limits::Limits,
    report::{CloseReason, CloseReport},
    shared::SharedBytes,
};

#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) admission: Arc<Admission>,
    pub(crate) budget: Budget,
    books: Mutex<Books>,
    /// Marked when sessions have ended, and when the last of those may be gone that a drain waits for.
    ends: watch::Sender<()>,
}

/// What the lock is for.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) limits: Limits,
    /// Sessions that have ended, on all workers.
    ended: u64,
    /// The counters of workers that are no more, and of sessions that never reached one.
    pub(crate) gone: Stats,
    subscribers: Vec<Recipient<SessionEvent>>,
    pub(crate) events_lost: u64,
    pub(crate) draining: Option<Draining>,
}

/// A drain, for whoever is the supervisor when it goes on.
#[derive(Debug)]
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

/// A connection that was admitted owes a report. Dropped before a session has taken that over, this gives back the place
/// and books the report of a worker that has stopped.
#[derive(Debug)]
pub(crate) struct OwedReport {
    ledger: Arc<Ledger>,
    connection: Connection,
    /// `None` once a session has it.
    place: Option<Place>,
}

impl Ledger {
    pub(crate) fn new(limits: Limits, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            admission: Admission::new(limits.admission.clone()),
            budget: Budget::new(limits.memory_budget, workers),
            books: Mutex::new(Books {
                limits,
                ended: 0,
                gone: Stats::default(),
                subscribers: Vec::new(),
                events_lost: 0,
                draining: None,
            }),
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

    /// Books the ends of sessions, and publishes them.
    pub(crate) fn book(&self, reports: Vec<CloseReport>) {
        if reports.is_empty() {
            return;
        }
        let mut books = self.books();
        for report in reports {
            books.ended += 1;
            if let Some(draining) = &mut books.draining {
                *if report.cut { &mut draining.report.cut } else { &mut draining.report.ended } += 1;
            }
            books.publish(&SessionEvent::Closed(report));
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

    /// Takes over new limits, for connections that come from now on.
    pub(crate) fn set_limits(&self, limits: Limits) {
        self.admission.set(limits.admission.clone());
        self.budget.set_limit(limits.memory_budget);
        // No lock is held when the old ones are dropped: they hold bytes of the user's.
        let old = std::mem::replace(&mut self.books().limits, limits);
        drop(old);
    }

    /// Publishes how far a drain is, if there is one.
    pub(crate) fn publish_progress(&self) -> Option<DrainProgress> {
        let mut books = self.books();
        let Draining { report: DrainReport { ended, cut, .. }, since, .. } = *books.draining.as_ref()?;
        let progress = DrainProgress { ended, cut, left: self.left(&books), duration: since.elapsed() };
        books.publish(&SessionEvent::Draining(progress));
        Some(progress)
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

impl Books {
    pub(crate) fn subscribe(&mut self, subscriber: Recipient<SessionEvent>) {
        self.subscribers.push(subscriber);
    }

    fn publish(&mut self, event: &SessionEvent) {
        let lost = &mut self.events_lost;
        self.subscribers.retain(|subscriber| {
            if subscriber.try_send(event.clone()).is_err() {
                *lost += 1;
            }
            subscriber.connected()
        });
    }
}

impl Draining {
    /// Whether its deadline is over.
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
        self.ledger.books().gone.count(&report);
        self.ledger.book(vec![report]);
    }
}
