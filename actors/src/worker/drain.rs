//! Drain: the time at which each session of a worker is ordered to end, and the goodbye.
//!
//! Not here: a session's part of a drain (`session`), the deadline (`control`).

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    time::Duration,
};

use tokio::time::Instant;

use crate::shared::SharedBytes;

/// A drain that orders sessions one after the other.
#[derive(Clone, Copy, Debug)]
struct Spread {
    since: Instant,
    over: Duration,
    /// Slots that were ordered so far.
    ordered: usize,
}

impl Spread {
    /// The slots to be ordered now, of `all`.
    fn due(&self, all: usize, elapsed: Duration) -> Range<usize> {
        let part = elapsed.as_secs_f64() / self.over.as_secs_f64().max(f64::MIN_POSITIVE);
        let due = if part < 1.0 { (all as f64 * part) as usize } else { all };
        self.ordered.min(due)..due
    }
}

/// The worker's part.
#[derive(Debug, Default)]
pub(super) struct WorkerDrain {
    has_begun: Cell<bool>,
    /// While sessions are left to be ordered.
    spread: Cell<Option<Spread>>,
    /// The last bytes of each session; empty is none.
    goodbye: RefCell<SharedBytes>,
}

impl WorkerDrain {
    /// Begins: all sessions are ordered over a time, which may be zero.
    pub(super) fn begin(&self, over: Duration, goodbye: &SharedBytes) {
        self.has_begun.set(true);
        drop(self.goodbye.replace(goodbye.clone()));
        self.spread.set(Some(Spread { since: Instant::now(), over, ordered: 0 }));
    }

    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.get()
    }

    /// Returns true if sessions are left to be ordered.
    pub(super) fn is_spread(&self) -> bool {
        self.spread.get().is_some()
    }

    pub(super) fn goodbye(&self) -> SharedBytes {
        self.goodbye.borrow().clone()
    }

    /// Takes the slots to be ordered now, of `all`.
    pub(super) fn take_due(&self, all: usize) -> Range<usize> {
        let Some(spread) = self.spread.get() else { return 0..0 };
        let due = spread.due(all, spread.since.elapsed());
        self.spread.set((due.end < all).then_some(Spread { ordered: due.end.max(spread.ordered), ..spread }));
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_is_ordered_once_and_all_are_by_the_end() {
        let second = Duration::from_secs(1);
        let mut spread = Spread { since: Instant::now(), over: second, ordered: 0 };
        let mut ordered = Vec::new();
        for (all, part) in [(10, 0), (10, 25), (10, 30), (20, 50), (8, 60), (20, 75), (20, 100)] {
            let due = spread.due(all, second * part / 100);
            spread.ordered = spread.ordered.max(due.end);
            ordered.extend(due);
        }
        assert_eq!(ordered, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn without_a_time_all_are_ordered_at_once() {
        let drain = WorkerDrain::default();
        assert!(!drain.has_begun() && drain.take_due(7).is_empty());
        drain.begin(Duration::ZERO, &SharedBytes::default());
        assert!(drain.has_begun() && drain.is_spread());
        assert_eq!(drain.take_due(7), 0..7);
        assert!(drain.has_begun() && !drain.is_spread() && drain.take_due(7).is_empty());
    }
}
