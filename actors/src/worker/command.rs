//! Commands: orders to a session from outside its turn.
//!
//! A session takes all of them at once, at the beginning of a turn, even if it waits for something else.
//! Not here: carrying them out (`session`), giving them (`task`, `eviction`, `rooms`).

use std::cell::Cell;

bitflags::bitflags! {
    /// Commands that a session was given since its last turn.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Commands: u16 {
        /// Answers what was read, flushes, closes: the server drains.
        const DRAIN = 1;
        /// Ends now.
        const ABORT = 1 << 1;
        /// The linger or wait timeout is over.
        const DEADLINE = 1 << 2;
        /// The idle timeout is over.
        const IDLE = 1 << 3;
        /// The line timeout is over.
        const LINE = 1 << 4;
        /// The write timeout is over.
        const STALL = 1 << 5;
        /// It is as old as it may become.
        const AGE = 1 << 6;
        /// Drains: an operator ends it.
        const KICK = 1 << 7;
        /// Bytes to write are in its slot.
        const PUSH = 1 << 8;
        /// Its outbox holds more than it may.
        const OVERFLOW = 1 << 9;
        /// Ends now: its source holds the most, and all sessions together hold too much.
        const EVICT = 1 << 10;
        /// Its bucket was filled, or its limits have changed: what holds it back may be gone.
        const REFILL = 1 << 11;
        /// Sends its FIN behind what was written; lines still come.
        const HALF_CLOSE = 1 << 12;
        /// Asks the kernel how much of its output the peer has acknowledged.
        const PROBE = 1 << 13;
        /// Reads once more: one of its timeouts is over, and what has come until now counts.
        const LOOK = 1 << 14;
        /// Ends: its filters wait for their peer, as those of too many do.
        const CROWD = 1 << 15;
        /// A trace of it begins or has ended. A slot has no room for one more bit, and to read once more does no harm.
        const TRACE = Self::LOOK.bits();
    }
}

/// The number of sessions of a table that have commands to take. While it is 0 a turn need not look into its slot.
#[derive(Debug, Default)]
pub(super) struct Commanded(Cell<usize>);

impl Commanded {
    /// Returns true if no session has a command to take.
    #[inline]
    pub(super) fn is_none(&self) -> bool {
        self.0.get() == 0
    }

    /// Adds to the commands that one session has yet to take.
    pub(super) fn add(&self, pending: &mut Commands, commands: Commands) {
        if pending.is_empty() && !commands.is_empty() {
            self.0.set(self.0.get() + 1);
        }
        pending.insert(commands);
    }

    /// Takes the commands of one session.
    pub(super) fn take(&self, pending: &mut Commands) -> Commands {
        if !pending.is_empty() {
            self.0.set(self.0.get() - 1);
        }
        std::mem::take(pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_that_of_sessions_with_commands_however_many_they_have() {
        let (commanded, mut one, mut other) = (Commanded::default(), Commands::empty(), Commands::empty());
        commanded.add(&mut one, Commands::empty());
        assert!(commanded.is_none());
        commanded.add(&mut one, Commands::PUSH);
        commanded.add(&mut one, Commands::PUSH | Commands::KICK);
        commanded.add(&mut other, Commands::DRAIN);
        assert_eq!(commanded.0.get(), 2);
        assert_eq!(commanded.take(&mut one), Commands::PUSH | Commands::KICK);
        assert_eq!(commanded.take(&mut one), Commands::empty(), "taken once");
        assert_eq!(commanded.0.get(), 1);
        assert_eq!(commanded.take(&mut other), Commands::DRAIN);
        assert!(commanded.is_none());
    }
}
