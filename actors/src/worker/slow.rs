//! Slow turns: turns of a session that keep the other sessions of its worker waiting.
//!
//! A turn is timed by the kernel's coarse clock, which costs 5 ns to read and moves every 1 to 10 ms. It is real time,
//! even if a test has paused tokio's clock.
//! Not here: the session of the turn (`worker`).

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

use crate::{
    connection::SessionId,
    control::histogram::{Histogram, TURN_TIMES},
    log_limit::LogLimit,
};

/// Default time from which on a turn is slow.
pub(crate) const DEFAULT_SLOW_TURN: Duration = Duration::from_millis(100);
/// Smallest setting: the clock is no finer.
const LEAST_SLOW_TURN: Duration = Duration::from_millis(10);

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
const CLOCK: ClockId = ClockId::MonotonicCoarse;
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
const CLOCK: ClockId = ClockId::Monotonic;

/// When a turn began, in milliseconds of the coarse clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Began(u64);

/// The worker's part.
#[derive(Debug)]
pub(super) struct SlowTurns {
    /// A turn of so many milliseconds is slow; `u64::MAX` times none.
    after: Cell<u64>,
    turns: Cell<u64>,
    time: Cell<Duration>,
    /// Turns that were timed: most began and ended at the same time of the clock.
    timed: Cell<u64>,
    /// The others of them.
    long: RefCell<Histogram>,
    /// The last session that has ended here: its turn may be the slow one.
    pub(super) last_closed: Cell<Option<SessionId>>,
    pub(super) log: LogLimit,
}

impl Default for SlowTurns {
    fn default() -> Self {
        let slow = Self {
            after: Cell::default(),
            turns: Cell::default(),
            time: Cell::default(),
            timed: Cell::default(),
            long: RefCell::default(),
            last_closed: Cell::default(),
            log: LogLimit::default(),
        };
        slow.set(Some(DEFAULT_SLOW_TURN));
        slow
    }
}

impl SlowTurns {
    /// Sets how long a turn may take; `None` times none.
    pub(super) fn set(&self, after: Option<Duration>) {
        let milliseconds = |after: Duration| u64::try_from(after.max(LEAST_SLOW_TURN).as_millis()).unwrap_or(u64::MAX);
        self.after.set(after.map_or(u64::MAX, milliseconds));
    }

    #[inline]
    pub(super) fn begin(&self) -> Began {
        Began(if self.after.get() == u64::MAX { 0 } else { now() })
    }

    /// Returns how long a turn took, if it was slow.
    #[inline]
    pub(super) fn end(&self, Began(began): Began) -> Option<Duration> {
        let after = self.after.get();
        if after == u64::MAX {
            return None;
        }
        self.timed.set(self.timed.get() + 1);
        let took = now().saturating_sub(began);
        if took == 0 { None } else { self.end_long(after, took) }
    }

    #[cold]
    fn end_long(&self, after: u64, milliseconds: u64) -> Option<Duration> {
        let took = Duration::from_millis(milliseconds);
        self.long.borrow_mut().record(TURN_TIMES, took);
        (milliseconds >= after).then(|| {
            self.turns.set(self.turns.get() + 1);
            self.time.set(self.time.get() + took);
            took
        })
    }

    /// How long turns took.
    pub(super) fn times(&self) -> Histogram {
        let mut times = self.long.borrow().clone();
        let short = self.timed.get() - times.count();
        if self.timed.get() > 0 {
            times.record_zeros(TURN_TIMES, short);
        }
        times
    }

    /// How many turns were slow, and what they took together.
    pub(super) fn counts(&self) -> (u64, Duration) {
        (self.turns.get(), self.time.get())
    }
}

/// Milliseconds of the coarse clock.
#[inline]
fn now() -> u64 {
    let now = clock_gettime(CLOCK);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_slow_from_what_is_set_on_and_never_where_none_is_timed() {
        let slow = SlowTurns::default();
        let ago = |milliseconds| Began(now() - milliseconds);
        assert!(slow.end(ago(110)).is_some_and(|took| took >= DEFAULT_SLOW_TURN));
        slow.set(Some(Duration::from_secs(3600)));
        assert_eq!((slow.end(slow.begin()), slow.end(ago(110))), (None, None));
        slow.set(Some(Duration::ZERO));
        assert!(slow.end(ago(20)).is_some());
        slow.set(None);
        assert_eq!((slow.end(slow.begin()), slow.end(ago(110))), (None, None));
        assert_eq!(slow.times().count(), 4, "whether slow or not");
        let times = slow.times();
        assert!(times.sum() >= Duration::from_millis(240) && times.counts()[0] >= 1, "{times:?}");
        let (turns, time) = slow.counts();
        assert!(turns == 2 && time >= Duration::from_millis(130), "{turns} turns, {time:?}");
    }
}
