//! Commands: what a session is told from outside its turn.
//!
//! Not here: what it does about them (`session`), who gives them (`task`).

/// What a session is told from outside its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Drain = 1,
    Abort = 1 << 1,
    /// The end of a linger or of a wait.
    Deadline = 1 << 2,
    /// No line for too long.
    Idle = 1 << 3,
    /// A line that takes too long.
    Line = 1 << 4,
    /// The outbox makes no progress.
    Stall = 1 << 5,
    Age = 1 << 6,
    Kick = 1 << 7,
    /// Bytes to write are in the slot.
    Push = 1 << 8,
    /// The outbox holds more than it may.
    Overflow = 1 << 9,
    /// It holds the most, and all together hold too much.
    Evict = 1 << 10,
    /// What holds it back may be gone: its bucket was filled, or its limits are others.
    Refill = 1 << 11,
    /// Nothing more will be written; lines still come.
    HalfClose = 1 << 12,
    /// The kernel is to be asked how much of the output the peer has acknowledged.
    Probe = 1 << 13,
    /// One of its times is up: what has come until now counts.
    Look = 1 << 14,
}

/// What was said to a session since its last turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Commands(pub(super) u16);

impl Commands {
    pub(crate) fn has(self, command: Command) -> bool {
        self.0 & command as u16 != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}
