//! The clock: what a worker's sweep knows of the time of each session.
//!
//! Not here: the sweep (`task`), what becomes of a session whose time is up (`session`).

use crate::limits::SessionLimits;
use std::time::Duration;
use tokio::time::Instant;

/// How often deadlines are looked at; they are met within three times that.
pub(super) const SWEEP: Duration = Duration::from_millis(250);
/// How often a session is looked at while it has more to read, before a verdict: as many sweeps as it takes to read what
/// the largest receive buffers hold.
pub(super) const MOST_LOOKS: u8 = 16;

bitflags::bitflags! {
    /// What a turn leaves a session in, as the sweep has to know it.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Standing: u8 {
        /// It reads on as far as its actor is concerned: not draining, not closing.
        const OPEN = 1;
        /// A line has begun.
        const PARTIAL = 1 << 1;
        /// Bytes, or the FIN, have yet to leave.
        const WRITING = 1 << 2;
        /// It is not its peer who keeps lines from coming.
        const STILL = 1 << 3;
        /// There was more to read than one turn reads.
        const READING = 1 << 4;
    }
}

impl Standing {
    /// With `other`, if that holds.
    pub(crate) fn with(self, other: Self, holds: bool) -> Self {
        if holds { self | other } else { self }
    }
}

/// How long what may last, in milliseconds; longer than any time where it may last for ever.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) idle: u32,
    pub(super) line: u32,
    pub(super) write: u32,
    pub(super) age: Duration,
}

impl Timeouts {
    pub(super) fn new(limits: &SessionLimits) -> Self {
        let milliseconds = |timeout: Option<Duration>| {
            timeout.map_or(u32::MAX, |timeout| timeout.as_millis().try_into().unwrap_or(u32::MAX))
        };
        Self {
            idle: milliseconds(limits.idle_timeout),
            line: milliseconds(limits.line_timeout),
            write: milliseconds(limits.write_timeout),
            age: limits.max_age.unwrap_or(Duration::MAX),
        }
    }
}

/// One moment, on both clocks that slots have stamps of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// In milliseconds of the worker's clock.
    pub(super) stamp: u32,
    pub(super) instant: Instant,
}

impl Moment {
    /// Milliseconds since `stamp`; 0 if that is still to come. It may wrap: no timeout is longer than half of the clock.
    pub(super) fn since(self, stamp: u32) -> u32 {
        let elapsed = self.stamp.wrapping_sub(stamp);
        if elapsed > u32::MAX / 2 { 0 } else { elapsed }
    }
}
