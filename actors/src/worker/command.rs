//! Commands: what a session is told from outside its turn.
//!
//! Not here: what it does about them (`session`), who gives them (`task`).

bitflags::bitflags! {
    /// Commands that a session was given since its last turn.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Commands: u16 {
        const DRAIN = 1;
        const ABORT = 1 << 1;
        /// The end of a linger or of a wait.
        const DEADLINE = 1 << 2;
        /// No line for too long.
        const IDLE = 1 << 3;
        /// A line that takes too long.
        const LINE = 1 << 4;
        /// The outbox makes no progress.
        const STALL = 1 << 5;
        const AGE = 1 << 6;
        const KICK = 1 << 7;
        /// Bytes to write are in the slot.
        const PUSH = 1 << 8;
        /// The outbox holds more than it may.
        const OVERFLOW = 1 << 9;
        /// It holds the most, and all together hold too much.
        const EVICT = 1 << 10;
        /// What holds it back may be gone: its bucket was filled, or its limits are others.
        const REFILL = 1 << 11;
        /// Nothing more will be written; lines still come.
        const HALF_CLOSE = 1 << 12;
        /// The kernel is to be asked how much of the output the peer has acknowledged.
        const PROBE = 1 << 13;
        /// One of its times is up: what has come until now counts.
        const LOOK = 1 << 14;
    }
}
