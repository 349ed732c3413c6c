//! A session's state: its flags, its phase, and what one turn counts.
//!
//! Not here: what an actor may ask for (`context`), what a turn does (`turn`).

use std::io;

use crate::{report::Half, worker::reports::Counts};

/// How the work on the socket failed.
pub(super) type Failure = (Half, io::Error);

/// What is true of a session, as bits of one word.
pub(super) mod flag {
    /// Something was set that this turn has not looked at yet.
    pub(in crate::session) const AGAIN: u32 = 1;
    pub(in crate::session) const STARTED: u32 = 1 << 1;
    /// A `wait` future is there, polled at this moment or not.
    pub(in crate::session) const WAITING: u32 = 1 << 2;
    pub(in crate::session) const PAUSED: u32 = 1 << 3;
    /// The outbox went above the high watermark and is not yet at the low one.
    pub(in crate::session) const ABOVE: u32 = 1 << 4;
    /// What was not delivered is no longer what it was taken for: the framing is another, or a payload begins or ends.
    pub(in crate::session) const REFRAMED: u32 = 1 << 5;
    /// `stop()` was called, `stopping()` not yet asked.
    pub(in crate::session) const STOP: u32 = 1 << 6;
    /// `terminate()` was called.
    pub(in crate::session) const ABORT: u32 = 1 << 7;
    /// The session has to close, whatever the actor thinks of it.
    pub(in crate::session) const CLOSE: u32 = 1 << 8;
    pub(in crate::session) const PANICKED: u32 = 1 << 9;
    /// `input` may hold whole lines.
    pub(in crate::session) const HELD: u32 = 1 << 10;
    pub(in crate::session) const PEER_EOF: u32 = 1 << 11;
    pub(in crate::session) const EOF_SAID: u32 = 1 << 12;
    /// The transport has bytes in a buffer of its own.
    pub(in crate::session) const UNFLUSHED: u32 = 1 << 13;
    /// The outbox is on loan from the worker.
    pub(in crate::session) const LOAN: u32 = 1 << 14;
    /// `stopping()` was called and had its say.
    pub(in crate::session) const STOPPING_SAID: u32 = 1 << 15;
    /// The slot is given back: nothing is left to be done.
    pub(in crate::session) const DONE: u32 = 1 << 16;
    /// It has read as much as its rate allows for now.
    pub(in crate::session) const THROTTLED: u32 = 1 << 17;
    /// The next bytes are a payload: how many, the slot knows.
    pub(in crate::session) const PAYLOAD: u32 = 1 << 18;
    /// It has said more in a room than the members' workers have delivered.
    pub(in crate::session) const CROWDED: u32 = 1 << 19;
    /// Nothing more will be written: the FIN follows what is in the outbox.
    pub(in crate::session) const HALF_CLOSE: u32 = 1 << 20;
    /// Our FIN has left while lines still come.
    pub(in crate::session) const FIN_SENT: u32 = 1 << 21;
    /// A drain takes what has come until now: it is read, up to one buffer.
    pub(in crate::session) const LAST_READ: u32 = 1 << 22;
    /// The server's goodbye is to be written when nothing else is.
    pub(in crate::session) const GOODBYE: u32 = 1 << 23;
    /// The kernel once refused a write, or the close is to be a reset: what it holds is worth asking. Not any more once the
    /// peer has acknowledged all of it behind our FIN.
    pub(in crate::session) const REFUSED: u32 = 1 << 24;
    /// Lingering is over but for what the peer has yet to acknowledge.
    pub(in crate::session) const LINGERED: u32 = 1 << 25;
    /// As much was discarded as may be: the peer is read no more.
    pub(in crate::session) const GLUTTED: u32 = 1 << 26;
    /// The close is to be a reset.
    pub(in crate::session) const RESET: u32 = 1 << 27;
    /// The next read asks the kernel, whatever the reactor knows.
    pub(in crate::session) const ASK: u32 = 1 << 28;

    /// While one of these holds, nothing is delivered.
    pub(in crate::session) const NO_INPUT: u32 = WAITING | PAUSED | ABOVE | STOP | ABORT | CLOSE | THROTTLED | CROWDED;
    /// While one of these holds, no line is delivered from the block at hand.
    pub(in crate::session) const NO_LINES: u32 = NO_INPUT | REFRAMED | PAYLOAD;
    /// One of these ends the work on the socket for now.
    pub(in crate::session) const INTERRUPT: u32 = AGAIN | STOP | ABORT | CLOSE;
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

/// What is counted and remembered within one turn only.
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
}
