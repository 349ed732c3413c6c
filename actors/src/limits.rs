//! Every number that an operator may turn: unit, default, reason.
//!
//! A [`Limits`] is checked when it is built, so one that exists is valid.
//! Not here: how long a line may be (`framing`), how many workers there are (`server`).

use std::time::Duration;

use crate::ConfigError;

/// Bytes that one read may bring, and the size of the buffer that a worker's sessions read through. It is what the
/// kernel hands over at once on loopback, and what fits a core's second-level cache several times.
pub(crate) const SCRATCH_BYTES: usize = 64 * 1024;

/// A partial line up to this long is copied in front of the next read, so that its line is whole and the answer goes
/// out in one write; a longer one is appended to instead, or each read would copy it again.
pub(crate) const CARRY_BYTES: usize = 4 * 1024;

/// Actor messages handled in one turn before the socket gets its share of it.
pub(crate) const MESSAGES_PER_TURN: u32 = 32;

/// How often a turn starts over because user code asked for something, before others get theirs. An actor that notifies
/// itself in each message, or spawns in each future, would keep its worker for ever.
pub(crate) const ROUNDS_PER_TURN: u32 = 64;

/// When a session stops reading because its peer does. Unit: bytes not yet taken by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// At or below it reading resumes. Default: 16 KiB.
    pub low: usize,
    /// Above it reading and the delivery of lines pause. Default: 64 KiB.
    pub high: usize,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self { low: 16 * 1024, high: 64 * 1024 }
    }
}

/// The limits of a server and its sessions. Made by [`Limits::builder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub(crate) max_sessions: usize,
    pub(crate) outbox: Watermarks,
    pub(crate) linger_timeout: Duration,
    pub(crate) wait_timeout: Duration,
}

impl Limits {
    /// Starts from the defaults.
    ///
    /// ```
    /// use actix_lines::{ConfigError, Limits, Watermarks};
    ///
    /// let limits = Limits::builder().max_sessions(1000).build()?;
    /// # let _ = limits;
    /// let upside_down = Watermarks { low: 9, high: 8 };
    /// assert_eq!(
    ///     Limits::builder().outbox(upside_down).build(),
    ///     Err(ConfigError::Watermarks { low: 9, high: 8 })
    /// );
    /// # Ok::<(), ConfigError>(())
    /// ```
    pub fn builder() -> LimitsBuilder {
        LimitsBuilder { limits: Limits::default() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_sessions: usize::MAX,
            outbox: Watermarks::default(),
            linger_timeout: Duration::from_secs(5),
            wait_timeout: Duration::from_secs(30),
        }
    }
}

/// Collects limits; [`build`](Self::build) checks them once.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct LimitsBuilder {
    limits: Limits,
}

impl LimitsBuilder {
    /// Sets how many sessions may live at once, over all workers and listeners. The others wait in the backlog.
    /// Default: no limit.
    ///
    /// A session counts until its socket is closed, so one that lingers counts.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::MaxSessions`] for 0.
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.limits.max_sessions = sessions;
        self
    }

    /// Sets when a session stops reading because its peer does. Default: 16 KiB and 64 KiB.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::Watermarks`] unless `low < high`.
    ///
    /// # Source
    /// Terms: libevent's `bufferevent_setwatermark`.
    pub fn outbox(mut self, marks: Watermarks) -> Self {
        self.limits.outbox = marks;
        self
    }

    /// Sets how long we read and discard after our FIN before we close anyway. Default: 5 s.
    ///
    /// Without it the kernel answers a peer's unread bytes with a reset, and a reset destroys replies on their way.
    pub fn linger_timeout(mut self, timeout: Duration) -> Self {
        self.limits.linger_timeout = timeout;
        self
    }

    /// Sets how long a `ctx.wait` future may take before its session is closed. Default: 30 s.
    ///
    /// A session that waits hears neither its peer nor its mailbox, so a wait that never ends would hold it for ever.
    pub fn wait_timeout(mut self, timeout: Duration) -> Self {
        self.limits.wait_timeout = timeout;
        self
    }

    /// Checks the limits.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the first limit which cannot be meant.
    pub fn build(self) -> Result<Limits, ConfigError> {
        let Watermarks { low, high } = self.limits.outbox;
        if low >= high {
            return Err(ConfigError::Watermarks { low, high });
        }
        if self.limits.max_sessions == 0 {
            return Err(ConfigError::MaxSessions);
        }
        Ok(self.limits)
    }
}
