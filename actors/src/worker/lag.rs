//! Lag: how late a worker's sweeps ran.
//!
//! A sweep that is late is time in which nothing else on the thread ran either: no turn, no order, no report.
//! Not here: the time at which a sweep is due (`clock`).

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

/// A lag is old after this time: nothing has happened since, so that the worker slept.
const FRESH: Duration = Duration::from_secs(1);
/// The maximum is that of this time and of as much before it.
const WINDOW: Duration = Duration::from_secs(60);

/// The worker's part.
#[derive(Debug)]
pub(super) struct Lag {
    last: Cell<Duration>,
    last_at: Cell<Instant>,
    /// The most since `since`, and of the window before it.
    most: Cell<Duration>,
    most_before: Cell<Duration>,
    since: Cell<Instant>,
}

impl Lag {
    pub(super) fn new(now: Instant) -> Self {
        let zero = || Cell::new(Duration::ZERO);
        Self { last: zero(), last_at: Cell::new(now), most: zero(), most_before: zero(), since: Cell::new(now) }
    }

    /// Notes a sweep that runs `now` and was due then.
    pub(super) fn note(&self, due: Option<Instant>, now: Instant) {
        let lag = due.map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
        self.last.set(lag);
        self.last_at.set(now);
        self.turn_over(now);
        self.most.set(self.most.get().max(lag));
    }

    fn turn_over(&self, now: Instant) {
        let age = now.saturating_duration_since(self.since.get());
        if age >= WINDOW {
            let is_next = age < 2 * WINDOW;
            self.most_before.set(if is_next { self.most.get() } else { Duration::ZERO });
            self.most.set(Duration::ZERO);
            self.since.set(now);
        }
    }

    /// Returns the lag of the last sweep if it was just now, or that of the next one by now if that is more, and the most of
    /// the last one or two windows.
    pub(super) fn get(&self, due: Option<Instant>, now: Instant) -> (Duration, Duration) {
        self.turn_over(now);
        let overdue = due.map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
        let is_fresh = now.saturating_duration_since(self.last_at.get()) <= FRESH;
        let lag = overdue.max(if is_fresh { self.last.get() } else { Duration::ZERO });
        (lag, lag.max(self.most.get()).max(self.most_before.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_maximum_is_forgotten_after_one_or_two_minutes() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let second = Duration::from_secs(1);
        let lag = Lag::new(begin);
        lag.note(None, at(0));
        lag.note(Some(at(1)), at(1));
        assert_eq!(lag.get(Some(at(9)), at(2)), (Duration::ZERO, Duration::ZERO));
        lag.note(Some(at(3)), at(8));
        assert_eq!(lag.get(Some(at(9)), at(8)), (5 * second, 5 * second));
        lag.note(Some(at(9)), at(10));
        assert_eq!(lag.get(None, at(11)), (second, 5 * second));
        assert_eq!(lag.get(Some(at(11)), at(18)), (7 * second, 7 * second), "the next one is overdue");
        assert_eq!(lag.get(None, at(61)), (Duration::ZERO, 5 * second), "it is old");
        lag.note(Some(at(62)), at(62));
        assert_eq!(lag.get(None, at(100)), (Duration::ZERO, 5 * second));
        assert_eq!(lag.get(None, at(122)), (Duration::ZERO, Duration::ZERO));
        lag.note(Some(at(122)), at(123));
        assert_eq!(lag.get(None, at(124)), (second, second));
    }
}
