//! Admission: may this connection become a session?
//!
//! Exact and global: a place is reserved before the accept and given back by a guard when the socket is closed. One
//! atomic number for all workers; the lock is touched only while somebody waits for a place.
//! Not here: accepting (`acceptor`), what a session does with its place (nothing: it holds it).

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    task::Waker,
};

#[derive(Debug)]
pub(crate) struct Admission {
    max_sessions: usize,
    /// Places taken: sessions, and the connections about to become one.
    taken: AtomicUsize,
    /// Sessions admitted since the start.
    admitted: AtomicU64,
    has_waiters: AtomicBool,
    waiters: Mutex<Vec<Waker>>,
}

impl Admission {
    pub(crate) fn new(max_sessions: usize) -> Arc<Self> {
        Arc::new(Self {
            max_sessions,
            taken: AtomicUsize::new(0),
            admitted: AtomicU64::new(0),
            has_waiters: AtomicBool::new(false),
            waiters: Mutex::default(),
        })
    }

    /// Reserves a place, or has `waker` woken when one is given back.
    pub(crate) fn reserve(self: &Arc<Self>, waker: &Waker) -> Option<Place> {
        if let Some(place) = self.try_reserve() {
            return Some(place);
        }
        // Registered first, tried again after: a place given back between the two is not missed.
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner).push(waker.clone());
        self.has_waiters.store(true, SeqCst);
        self.try_reserve()
    }

    fn try_reserve(self: &Arc<Self>) -> Option<Place> {
        self.taken
            .fetch_update(SeqCst, SeqCst, |taken| (taken < self.max_sessions).then_some(taken + 1))
            .ok()
            .map(|_| Place(Arc::clone(self)))
    }

    /// Sessions admitted since the start.
    pub(crate) fn admitted(&self) -> u64 {
        self.admitted.load(SeqCst)
    }
}

/// A reserved place under `max_sessions`. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place(Arc<Admission>);

impl Place {
    /// The connection came: from here on it is a session, and owes a close report.
    pub(crate) fn admit(&self) {
        self.0.admitted.fetch_add(1, SeqCst);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, SeqCst);
        if self.0.has_waiters.swap(false, SeqCst) {
            let waiters = std::mem::take(&mut *self.0.waiters.lock().unwrap_or_else(PoisonError::into_inner));
            waiters.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::task::noop_waker_ref;

    #[test]
    fn never_more_places_than_the_limit_whoever_asks() {
        let admission = Admission::new(10);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let place = admission.reserve(noop_waker_ref());
                        assert!(admission.taken.load(SeqCst) <= 10);
                        drop(place);
                    }
                });
            }
        });
        let places: Vec<_> = (0..11).map(|_| admission.reserve(noop_waker_ref())).collect();
        assert_eq!(places.iter().flatten().count(), 10);
        drop(places);
        assert_eq!(admission.taken.load(SeqCst), 0);
    }
}
