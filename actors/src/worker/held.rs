//! Held memory: the bytes in the buffers of each session, and of all sessions of a worker together.
//!
//! Not here: the budget (`control/budget`), the choice of sessions to evict (`eviction`).

use std::cell::{Cell, RefCell};

use crate::{
    control::budget::{self, Budget, Ranking},
    log_limit::LogLimit,
};

/// A session's part: bytes held by its buffers. An evicted session counts as holding nothing: what it has is given back
/// in its next turn.
#[derive(Debug, Default)]
pub(super) struct HeldMemory(u32);

impl HeldMemory {
    /// Stands for an evicted session, for good.
    const EVICTED: u32 = u32::MAX;

    pub(super) fn bytes(&self) -> usize {
        if self.0 == Self::EVICTED { 0 } else { self.0 as usize }
    }

    /// Sets what a turn leaves in the buffers. Returns the bytes held before, and now.
    #[inline]
    pub(super) fn set(&mut self, bytes: usize) -> (usize, usize) {
        if self.0 == Self::EVICTED {
            return (0, 0);
        }
        let before = std::mem::replace(&mut self.0, bytes.min(Self::EVICTED as usize - 1) as u32);
        (before as usize, self.bytes())
    }

    pub(super) fn evict(&mut self) {
        self.0 = Self::EVICTED;
    }
}

/// The worker's part.
#[derive(Debug, Default)]
pub(super) struct WorkerMemory {
    /// Bytes held by the buffers of all sessions here.
    held: Cell<usize>,
    /// Bytes of it that the budget knows of.
    published: Cell<usize>,
    /// The sessions that hold it, while memory is short.
    pub(super) ranking: RefCell<Ranking>,
    /// Evicted sessions, for the log: they may be many.
    pub(super) evictions: LogLimit,
    /// Slots that were looked at for what they hold.
    #[cfg(test)]
    pub(super) looked_at: Cell<usize>,
}

impl WorkerMemory {
    pub(super) fn held(&self) -> usize {
        self.held.get()
    }

    /// Books that one session holds `after` bytes where it held `before`. Returns whether the budget is to be told.
    #[inline]
    pub(super) fn book(&self, before: usize, after: usize) -> bool {
        let held = self.held.get() + after - before;
        self.held.set(held);
        held.abs_diff(self.published.get()) >= budget::STEP
    }

    /// Tells the budget exactly how much is held here. Returns whether that is more than it knew of.
    pub(super) fn publish(&self, budget: &Budget) -> bool {
        let held = self.held.get();
        let before = self.published.replace(held);
        budget.publish(before, held);
        held > before
    }

    /// Takes back all that the budget knows of: the worker is no more.
    pub(super) fn withdraw(&self, budget: &Budget) {
        budget.publish(self.published.replace(0), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evicted_session_holds_nothing_whatever_its_turns_say() {
        let mut memory = HeldMemory::default();
        assert_eq!(memory.set(1000), (0, 1000));
        assert_eq!(memory.set(usize::MAX).1, u32::MAX as usize - 1);
        assert_eq!(memory.set(70), (u32::MAX as usize - 1, 70));
        memory.evict();
        assert_eq!((memory.bytes(), memory.set(1000)), (0, (0, 0)));
    }

    #[test]
    fn the_budget_is_told_in_steps_and_at_last_exactly() {
        let (memory, budget) = (WorkerMemory::default(), Budget::new(Some(0)));
        assert!(!memory.book(0, budget::STEP - 1));
        assert!(memory.book(0, 1));
        assert!(memory.publish(&budget));
        assert_eq!((memory.held(), budget.excess()), (budget::STEP, budget::STEP));
        assert!(memory.book(budget::STEP, 0), "as far down as up");
        assert!(!memory.publish(&budget), "it is less");
        assert!(!memory.book(0, 500));
        memory.publish(&budget);
        assert_eq!(budget.excess(), 500);
        memory.withdraw(&budget);
        assert_eq!(budget.excess(), 0);
    }
}
