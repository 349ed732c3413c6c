//! State: a session's flags, its phase, and the counters of one turn.
//!
//! Not here: an actor's requests (`context`), the turn (`turn`).

use std::io;

use crate::{
    report::Half,
    wire::transport::Layer,
    worker::{delays::Asked, reports::Counts},
};

/// An error of the socket, and of which half.
pub(super) type Failure = (Half, io::Error);

bitflags::bitflags! {
    /// States of a session that come and go, as bits of one word.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Flags: u32 {
        /// Something was set that this turn has not looked at yet.
        const AGAIN = 1;
        const STARTED = 1 << 1;
        /// A `wait` future is there, polled at this moment or not.
        const WAITING = 1 << 2;
        const PAUSED = 1 << 3;
        /// The outbox went above the high watermark and is not yet at the low one.
        const ABOVE_HIGH = 1 << 4;
        /// Undelivered input has to be looked at anew: the framing is another, or a payload begins or ends.
        const REFRAMED = 1 << 5;
        /// `stop()` was called, `stopping()` not yet asked.
        const STOP = 1 << 6;
        /// `terminate()` was called.
        const ABORT = 1 << 7;
        /// The session has to close, whatever the actor thinks of it.
        const CLOSE = 1 << 8;
        const PANICKED = 1 << 9;
        /// Whole lines may wait in `input`.
        const UNDELIVERED_LINES = 1 << 10;
        const PEER_EOF = 1 << 11;
        const EOF_CALLED = 1 << 12;
        /// The transport has bytes in a buffer of its own.
        const UNFLUSHED = 1 << 13;
        /// The outbox is on loan from the worker.
        const LOAN = 1 << 14;
        /// `stopping()` was called, and its answer heeded.
        const STOPPING_CALLED = 1 << 15;
        /// The slot is given back: nothing is left to be done.
        const DONE = 1 << 16;
        /// It has read as much as its rate allows for now.
        const THROTTLED = 1 << 17;
        /// The next bytes are a payload: how many, the slot knows.
        const PAYLOAD = 1 << 18;
        /// It has said more in a room than the members' workers have delivered.
        const CROWDED = 1 << 19;
        /// Nothing more will be written: the FIN follows what is in the outbox.
        const HALF_CLOSE = 1 << 20;
        /// Our FIN has left while lines still come.
        const FIN_SENT = 1 << 21;
        /// A drain takes what has come until now: it is read, up to one buffer.
        const LAST_READ = 1 << 22;
        /// The server's goodbye is to be written when nothing else is.
        const GOODBYE = 1 << 23;
        /// The kernel once refused a write, or the close is to be a reset: what it holds is worth asking. Not any more once the
        /// peer has acknowledged all of it behind our FIN.
        const WRITE_REFUSED = 1 << 24;
        /// Lingering is over but for what the peer has yet to acknowledge.
        const LINGERED = 1 << 25;
        /// As much was discarded as may be: the peer is read no more.
        const DISCARD_LIMIT = 1 << 26;
        /// The close is to be a reset.
        const RESET = 1 << 27;
        /// The next read asks the kernel, whatever the reactor knows.
        const ASK_KERNEL = 1 << 28;
        /// A filter joins in, and is not open yet: nothing is read but what it needs.
        const UPGRADING = 1 << 29;
    }
}

impl Flags {
    /// While one of these holds, nothing is delivered.
    pub(super) const NO_INPUT: Self = Self::WAITING
        .union(Self::PAUSED)
        .union(Self::ABOVE_HIGH)
        .union(Self::STOP)
        .union(Self::ABORT)
        .union(Self::CLOSE)
        .union(Self::THROTTLED)
        .union(Self::CROWDED)
        .union(Self::UPGRADING);
    /// While one of these holds, no line is delivered from the block at hand.
    pub(super) const NO_LINES: Self = Self::NO_INPUT.union(Self::REFRAMED).union(Self::PAYLOAD);
    /// One of these ends the work on the socket for now.
    pub(super) const INTERRUPT: Self = Self::INTERRUPT_UPGRADE.union(Self::UPGRADING);
    /// The same while a filter joins in.
    pub(super) const INTERRUPT_UPGRADE: Self = Self::AGAIN.union(Self::STOP).union(Self::ABORT).union(Self::CLOSE);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Open,
    /// No more reads; what was read is answered.
    Draining,
    /// The actor has nothing more to say; its bytes leave.
    Closing,
    /// Our FIN is sent; what still comes is discarded.
    Lingering,
    Closed,
}

/// A filter that waits for what was written before it.
pub(super) struct Upgrade {
    pub(super) layer: Layer,
    /// The oldest bytes of the outbox, which are not the filter's.
    pub(super) clear: usize,
}

/// Counters and marks of one turn.
#[derive(Default)]
pub(super) struct Turn {
    pub(super) counts: Counts,
    pub(super) reads: u32,
    /// There may be more to read, but others come first.
    pub(super) has_read_enough: bool,
    /// There are more lines, but the others of its rate group come first.
    pub(super) has_had_its_share: bool,
    /// Something is left for another turn, which nobody else will wake us for.
    pub(super) give_way: bool,
    /// The socket failed in the middle of a delivery, which has to say first how far it came.
    pub(super) failure: Option<Failure>,
    /// What was read in this turn and is not answered yet, where that is measured.
    pub(super) asked: Option<Asked>,
}
