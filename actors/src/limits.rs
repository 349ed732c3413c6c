//! Every number that an operator may turn: unit, default, reason.
//!
//! A [`Limits`] is checked when it is built, so one that exists is valid.
//! Not here: how long a line may be (`framing`), how many workers there are (`server`).

use std::time::Duration;

use bytes::Bytes;

use crate::{
    error::ConfigError,
    rate::{Rate, RateLimit},
    shared::SharedBytes,
    source::{Prefix, SourcePrefix},
};

/// Bytes that one read may bring, and the size of the buffer that a worker's sessions read through. It is what the
/// kernel hands over at once on loopback, and what fits a core's second-level cache several times.
pub(crate) const SCRATCH_BYTES: usize = 64 * 1024;

/// A partial line up to this long is copied in front of the next read, so that its line is whole and the answer goes
/// out in one write; a longer one is appended to instead, or each read would copy it again.
pub(crate) const CARRY_BYTES: usize = 4 * 1024;

/// Actor messages handled in one turn before the socket gets its share of it.
pub(crate) const MESSAGES_PER_TURN: u32 = 32;

/// Reads in one turn before others get theirs, where none of them fills the buffer. A socket is read once or twice a turn; a
/// stream over memory, or over records of a few bytes, may be ready for ever. Each read may be answered by a write, so that
/// as many cost about what one full buffer costs.
pub(crate) const READS_PER_TURN: u32 = 32;

/// How often a turn starts over because user code asked for something, before others get theirs. An actor that notifies
/// itself in each message, or spawns in each future, would keep its worker for ever.
pub(crate) const ROUNDS_PER_TURN: u32 = 64;

/// The longest line that a refused connection may be sent: it has to fit an empty socket.
const MAX_REFUSE_LINE: usize = 1024;

/// Messages that an acceptor's or the supervisor's mailbox is made for: actix's own default.
pub(crate) const MAILBOX_CAPACITY: usize = 16;

/// With less, a few sessions that do what they should would end each other.
const SMALLEST_BUDGET: usize = 1024 * 1024;

/// A deadline is met within a second, so a shorter one could not be kept; and a worker's clock wraps after 49 days.
pub(crate) const SHORTEST_TIMEOUT: Duration = Duration::from_secs(1);
pub(crate) const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 24 * 3600);

/// The most that an outbox may be asked to hold: its length is counted in 32 bits, and a turn may add to it.
const MOST_OUTBOX: usize = 1 << 30;

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

/// What becomes of bytes for a peer that does not read them.
///
/// The limits of one server serve sessions of many kinds; a handler may set others for its own,
/// with [`LineContext::set_outbox_limit`](crate::LineContext::set_outbox_limit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxLimit {
    /// What happens at the hard limit. Default: [`OutboxPolicy::DropNewest`].
    pub policy: OutboxPolicy,
    /// How many bytes an outbox may hold with what is pushed to it. Unit: bytes, at most 1 GiB; no less than the high
    /// watermark. Default: 1 MiB.
    pub hard: usize,
    /// With more than this for so long the session is cut, whatever the policy. No more than the hard limit. Default: none.
    pub soft: Option<SoftLimit>,
}

/// An amount that is too much only if it lasts, as in Redis's `client-output-buffer-limit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftLimit {
    /// Bytes in the outbox.
    pub bytes: usize,
    /// How long it may hold more than these; met within a second. Zero is no longer than that; 24 days is the
    /// most.
    pub time: Duration,
}

/// What happens when a session's outbox would hold more than the hard limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutboxPolicy {
    /// The session is cut: [`CloseReason::OutboxFull`](crate::CloseReason::OutboxFull). So it is when its own handler
    /// leaves more than the limit in the outbox, because it writes without having been given a line.
    Disconnect,
    /// What is pushed is dropped, and counted in [`Pushed::dropped`](crate::Pushed::dropped). What the session's own
    /// handler writes is not. It is told how many: [`LineHandler::missed`](crate::LineHandler::missed). The default.
    #[default]
    DropNewest,
    /// It is taken all the same; the session reads nothing from its peer meanwhile. For pushes that something else bounds:
    /// an outbox is counted up to 4 GiB.
    Accept,
}

impl OutboxLimit {
    /// Whether it can work beside the high watermark `high`.
    pub(crate) fn check(&self, high: usize) -> Result<(), ConfigError> {
        let Self { hard, soft, .. } = *self;
        if hard < high {
            return Err(ConfigError::HardLimit { hard, high });
        }
        if hard > MOST_OUTBOX {
            return Err(ConfigError::OutboxBytes { limit: "hard limit of an outbox", bytes: hard });
        }
        let Some(SoftLimit { bytes: soft, time }) = soft else { return Ok(()) };
        if soft > hard {
            return Err(ConfigError::SoftLimit { soft, hard });
        }
        check_length("time above the soft limit of an outbox", time)
    }
}

/// Whether the clock can tell a time so long; `limit` names it.
fn check_length(limit: &'static str, time: Duration) -> Result<(), ConfigError> {
    if time > LONGEST_TIMEOUT { Err(ConfigError::TooLong { limit, time }) } else { Ok(()) }
}

impl Default for OutboxLimit {
    fn default() -> Self {
        Self { policy: OutboxPolicy::default(), hard: 1024 * 1024, soft: None }
    }
}

/// What becomes of a connection over a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OverLimit {
    /// It waits: nothing is accepted, the backlog holds it. Nobody tells its peer.
    ///
    /// The limits of one source cannot make others wait, and who has connected is known only after the accept: over
    /// these a connection is refused all the same.
    Wait,
    /// It is accepted, sent [`LimitsBuilder::refuse_line`], and closed politely. The default.
    #[default]
    Refuse,
}

/// The limits of a server and its sessions. Made by [`Limits::builder`]; all may be changed while the server runs, by
/// [`ServerHandle::set_limits`](crate::ServerHandle::set_limits).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub(crate) admission: AdmissionLimits,
    pub(crate) session: SessionLimits,
    pub(crate) memory_budget: Option<usize>,
}

/// What decides whether a connection becomes a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdmissionLimits {
    pub(crate) max_sessions: usize,
    pub(crate) max_sessions_per_source: usize,
    pub(crate) source_prefix: SourcePrefix,
    pub(crate) accept_rate: Option<Rate>,
    pub(crate) accept_rate_per_source: Option<Rate>,
    pub(crate) over_limit: OverLimit,
    pub(crate) refuse_line: SharedBytes,
    pub(crate) allow: Vec<Prefix>,
    pub(crate) deny: Vec<Prefix>,
    pub(crate) exempt: Vec<Prefix>,
}

/// The limits of a single session: watermarks, outbox limit, timeouts, read rate. Small and `Copy`.
///
/// They are made of [`Limits`], which also have those of a server as a whole. A [`LineSession`](crate::LineSession) and a
/// [`Connector`](crate::Connector) take either.
///
/// ```
/// use std::time::Duration;
///
/// use actix_lines::{ConfigError, Limits, SessionLimits};
///
/// let patient: SessionLimits = Limits::builder().idle_timeout(Some(Duration::from_secs(3600))).build()?.into();
/// # let _ = patient;
/// # Ok::<(), ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    pub(crate) outbox: Watermarks,
    pub(crate) outbox_limit: OutboxLimit,
    pub(crate) linger_timeout: Duration,
    pub(crate) linger_bytes: u32,
    pub(crate) wait_timeout: Duration,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) line_timeout: Option<Duration>,
    pub(crate) write_timeout: Option<Duration>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) rate: RateLimit,
}

/// Leaves out those of a server as a whole: numbers of sessions, accept rates, lists, the memory budget.
impl From<Limits> for SessionLimits {
    fn from(limits: Limits) -> Self {
        limits.session
    }
}

/// Those of [`Limits::default`].
impl Default for SessionLimits {
    fn default() -> Self {
        Limits::default().session
    }
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

    /// Starts from these limits, to change some of them.
    pub fn to_builder(&self) -> LimitsBuilder {
        LimitsBuilder { limits: self.clone() }
    }
}

impl Limits {
    /// Limits for a server that strangers reach, as rot13d's own: at most [`SESSIONS_PER_SOURCE`](Self::SESSIONS_PER_SOURCE)
    /// sessions of one source, the loopback addresses [exempt](LimitsBuilder::exempt), and a
    /// [memory budget](LimitsBuilder::memory_budget) of [`BUDGET`](Self::BUDGET). All else is as by default.
    ///
    /// Set [`max_sessions`](LimitsBuilder::max_sessions) as well: how many descriptors there are, only the program knows.
    ///
    /// ```
    /// use actix_lines::{ConfigError, Limits};
    ///
    /// let limits = Limits::exposed().to_builder().max_sessions(10_000).build()?;
    /// # let _ = limits;
    /// # Ok::<(), ConfigError>(())
    /// ```
    #[must_use]
    pub fn exposed() -> Self {
        let mut limits = Self { memory_budget: Some(Self::BUDGET), ..Self::default() };
        limits.admission.max_sessions_per_source = Self::SESSIONS_PER_SOURCE;
        limits.admission.exempt = Prefix::LOOPBACK.to_vec();
        limits
    }

    /// Sessions of one source that [`exposed`](Self::exposed) allows.
    ///
    /// # Source
    /// `docs/decisions/defaults.md`: what one hostile host then costs.
    pub const SESSIONS_PER_SOURCE: usize = 100;

    /// Bytes that the buffers of all sessions may hold together by [`exposed`](Self::exposed): 256 MiB.
    pub const BUDGET: usize = 256 * 1024 * 1024;
}

/// No limit on who connects and how often, and none on memory as a whole; what one session may cost and how long it may
/// take is bounded.
impl Default for Limits {
    fn default() -> Self {
        Self {
            admission: AdmissionLimits {
                max_sessions: usize::MAX,
                max_sessions_per_source: usize::MAX,
                source_prefix: SourcePrefix::default(),
                accept_rate: None,
                accept_rate_per_source: None,
                over_limit: OverLimit::default(),
                refuse_line: Bytes::from_static(b"too many connections, try again later\r\n").into(),
                allow: Vec::new(),
                deny: Vec::new(),
                exempt: Vec::new(),
            },
            session: SessionLimits {
                outbox: Watermarks::default(),
                outbox_limit: OutboxLimit::default(),
                linger_timeout: Duration::from_secs(5),
                linger_bytes: 1024 * 1024,
                wait_timeout: Duration::from_secs(30),
                idle_timeout: Some(Duration::from_secs(600)),
                line_timeout: Some(Duration::from_secs(60)),
                write_timeout: Some(Duration::from_secs(60)),
                max_age: None,
                rate: RateLimit::default(),
            },
            memory_budget: None,
        }
    }
}

/// Collects limits; [`build`](Self::build) checks them once.
#[derive(Clone, Debug)]
#[must_use]
pub struct LimitsBuilder {
    limits: Limits,
}

impl LimitsBuilder {
    /// Sets how many sessions may live at once, over all workers and listeners. Default: no limit, `usize::MAX`.
    ///
    /// A session counts until its socket is closed, so one that lingers counts. Lowered below what lives, it ends nobody:
    /// none is admitted until enough have ended.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::MaxSessions`] for 0.
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.limits.admission.max_sessions = sessions;
        self
    }

    /// Sets how many sessions of one source may live at once, over all workers and listeners. Default: no limit,
    /// `usize::MAX`. What a source is, [`source_prefix`](Self::source_prefix) says.
    ///
    /// A connection over it is refused, whatever [`over_limit`](Self::over_limit) says. It does not hold for
    /// [exempt](Self::exempt) addresses.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::MaxSessionsPerSource`] for 0.
    pub fn max_sessions_per_source(mut self, sessions: usize) -> Self {
        self.limits.admission.max_sessions_per_source = sessions;
        self
    }

    /// Sets which addresses are one source. Default: each IPv4 address, each IPv6 network of 64 bits.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::SourcePrefix`] above 32 and 128 bits.
    pub fn source_prefix(mut self, prefix: SourcePrefix) -> Self {
        self.limits.admission.source_prefix = prefix;
        self
    }

    /// Sets how many connections become sessions each second, over all listeners. Default: no limit.
    ///
    /// One that the lists or its source's own limits keep out is not counted.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::Rate`] for a rate or burst of 0.
    pub fn accept_rate(mut self, rate: Option<Rate>) -> Self {
        self.limits.admission.accept_rate = rate;
        self
    }

    /// Sets how many connections of one source are admitted each second. Default: no limit.
    ///
    /// A connection over it is refused, whatever [`over_limit`](Self::over_limit) says.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::Rate`] for a rate or burst of 0.
    pub fn accept_rate_per_source(mut self, rate: Option<Rate>) -> Self {
        self.limits.admission.accept_rate_per_source = rate;
        self
    }

    /// Sets what becomes of a connection over [`max_sessions`](Self::max_sessions) or
    /// [`accept_rate`](Self::accept_rate). Default: it is refused.
    pub fn over_limit(mut self, policy: OverLimit) -> Self {
        self.limits.admission.over_limit = policy;
        self
    }

    /// Sets what a refused connection is sent, the newline included; nothing if it is empty. Default: `too many
    /// connections, try again later`, CR LF.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::RefuseLine`] above 1024 bytes.
    pub fn refuse_line(mut self, line: impl Into<Bytes>) -> Self {
        self.limits.admission.refuse_line = line.into().into();
        self
    }

    /// Sets who may connect; empty, the default, is everybody. Whoever else connects is closed without a word.
    pub fn allow(mut self, prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        self.limits.admission.allow = prefixes.into_iter().collect();
        self
    }

    /// Sets who may not connect, whatever [`allow`](Self::allow) says. Default: nobody. Set while a server runs, it ends
    /// their sessions, too.
    pub fn deny(mut self, prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        self.limits.admission.deny = prefixes.into_iter().collect();
        self
    }

    /// Sets whom the limits of a source do not hold for, as the one address of many users, or a health check. Default:
    /// nobody.
    pub fn exempt(mut self, prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        self.limits.admission.exempt = prefixes.into_iter().collect();
        self
    }

    /// Sets how many bytes the buffers of all sessions may hold together: outboxes, incomplete lines, lines that are held.
    /// Unit: bytes. Default: no limit.
    ///
    /// When they hold more, the source whose sessions hold the most in all loses its largest one, and so on until they do
    /// not: [`CloseReason::Evicted`](crate::CloseReason::Evicted). What a source is, [`source_prefix`](Self::source_prefix)
    /// says; sessions of [exempt](Self::exempt) addresses, and of peers without one, are weighed each alone. The budget may
    /// be exceeded by 64 KiB for each worker, and by what one session adds in one turn.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::MemoryBudget`] for less than 1 MiB.
    pub fn memory_budget(mut self, bytes: Option<usize>) -> Self {
        self.limits.memory_budget = bytes;
        self
    }

    /// Sets when a session stops reading because its peer does. Default: 16 KiB and 64 KiB.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::Watermarks`] unless `low < high`, and [`ConfigError::OutboxBytes`] above
    /// 1 GiB. Over 1 MiB the hard limit of [`outbox_limit`](Self::outbox_limit) has to be raised, too.
    ///
    /// # Source
    /// Terms: libevent's `bufferevent_setwatermark`.
    pub fn outbox(mut self, marks: Watermarks) -> Self {
        self.limits.session.outbox = marks;
        self
    }

    /// Sets what becomes of bytes that others [`Push`](crate::Push) into a session whose peer does not read them.
    /// Default: [`OutboxLimit::default`].
    ///
    /// Answers to lines are not held to it: a session is given no lines while its outbox is above the high watermark.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::HardLimit`] for a hard limit under the high watermark,
    /// [`ConfigError::OutboxBytes`] above 1 GiB, [`ConfigError::SoftLimit`] for a soft limit over the hard one, and
    /// [`ConfigError::TooLong`] for a time above it of over 24 days.
    pub fn outbox_limit(mut self, outbox_limit: OutboxLimit) -> Self {
        self.limits.session.outbox_limit = outbox_limit;
        self
    }

    /// Sets how long we read and discard after our FIN before we close anyway. Default: 5 s.
    ///
    /// Closed at once, the kernel would answer a peer's unread bytes with a reset, and a reset destroys replies on their
    /// way. A session that never wrote anything has none, and does not linger. Zero is possible, for whoever does not mind:
    /// the socket is then closed within half a second of our FIN.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::TooLong`] above 24 days.
    pub fn linger_timeout(mut self, timeout: Duration) -> Self {
        self.limits.session.linger_timeout = timeout;
        self
    }

    /// Sets how many bytes are read and discarded after our FIN before the connection is reset. Unit: bytes. Default:
    /// 1 MiB.
    ///
    /// Bytes that were on their way are no more than the two kernels' buffers hold. Who sends more does not read, or
    /// never looks for an answer: the reset tells him that nobody takes what he sends. A peer that has yet to take what
    /// it was written is not reset for it: it is read no more until it has.
    pub fn linger_bytes(mut self, bytes: u32) -> Self {
        self.limits.session.linger_bytes = bytes;
        self
    }

    /// Sets how long a `ctx.wait` future may take before its session is closed. Default: 30 s.
    ///
    /// A session that waits hears neither its peer nor its mailbox, so a wait that never ends would hold it for ever.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::WaitTimeout`] unless it is 1 s to 24 days: deadlines are met within a
    /// second, and a wait that must take no time is better none.
    pub fn wait_timeout(mut self, timeout: Duration) -> Self {
        self.limits.session.wait_timeout = timeout;
        self
    }

    /// Sets how long a session may go without a line, while none is begun. Default: 10 min; `None` is for ever.
    ///
    /// What its own handler or others write to it does not count. The clock stands still while the session waits, is
    /// paused, has more in its outbox than its peer takes, or once the peer's bytes have ended. The session drains:
    /// [`CloseReason::IdleTimeout`](crate::CloseReason::IdleTimeout).
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::Timeout`] for less than a second, as deadlines are met within one, and
    /// for more than 24 days.
    pub fn idle_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.limits.session.idle_timeout = timeout;
        self
    }

    /// Sets how long a line may take from its first byte to its delimiter, however its bytes trickle. Default: 60 s;
    /// `None` is for ever, and then any byte counts as activity for [`idle_timeout`](Self::idle_timeout).
    ///
    /// The clock stands still when that of the idle timeout does. What was begun is dropped and counted:
    /// [`CloseReason::LineTimeout`](crate::CloseReason::LineTimeout).
    ///
    /// # Errors
    /// As [`idle_timeout`](Self::idle_timeout).
    pub fn line_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.limits.session.line_timeout = timeout;
        self
    }

    /// Sets how long an outbox may hold bytes while the peer takes none. Default: 60 s; `None` is for ever.
    ///
    /// What counts is what the peer acknowledges, so one that reads ever so slowly is not ended by it; over other
    /// transports than TCP, what the transport takes. It runs on after our FIN for a session whose peer has not taken all
    /// of what the kernel once refused to take. The session is cut, by a reset, and what is unsent is counted:
    /// [`CloseReason::WriteStalled`](crate::CloseReason::WriteStalled).
    ///
    /// # Errors
    /// As [`idle_timeout`](Self::idle_timeout).
    pub fn write_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.limits.session.write_timeout = timeout;
        self
    }

    /// Sets how old a session may grow; then it drains: [`CloseReason::MaxAge`](crate::CloseReason::MaxAge). Default:
    /// `None`, as old as it likes.
    ///
    /// # Errors
    /// As [`idle_timeout`](Self::idle_timeout).
    pub fn max_age(mut self, age: Option<Duration>) -> Self {
        self.limits.session.max_age = age;
        self
    }

    /// Sets how fast each session may be read. Default: no limit.
    ///
    /// A session that has read as much reads nothing, and is delivered no line, until its bucket is filled again, which
    /// happens every 250 ms; its idle and line clocks stand still meanwhile. What it has read is answered at once in a
    /// drain. Changed while the server runs, it holds for living sessions but for those that have
    /// [a rate of their own](crate::LineContext::set_rate).
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::Rate`] for a rate or burst of 0.
    ///
    /// # Source
    /// Terms: libevent's `bufferevent_set_rate_limit`, which also fills its buckets in ticks.
    pub fn session_rate(mut self, rate: RateLimit) -> Self {
        self.limits.session.rate = rate;
        self
    }

    /// Checks the limits.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the first limit that is invalid.
    pub fn build(self) -> Result<Limits, ConfigError> {
        let Limits { admission, session, memory_budget } = &self.limits;
        let Watermarks { low, high } = session.outbox;
        if low >= high {
            return Err(ConfigError::Watermarks { low, high });
        }
        if high > MOST_OUTBOX {
            return Err(ConfigError::OutboxBytes { limit: "high watermark of an outbox", bytes: high });
        }
        session.outbox_limit.check(high)?;
        if admission.max_sessions == 0 {
            return Err(ConfigError::MaxSessions);
        }
        if admission.max_sessions_per_source == 0 {
            return Err(ConfigError::MaxSessionsPerSource);
        }
        let SourcePrefix { v4, v6 } = admission.source_prefix;
        if v4 > 32 || v6 > 128 {
            return Err(ConfigError::SourcePrefix { v4, v6 });
        }
        let rates =
            [("accept rate", admission.accept_rate), ("accept rate per source", admission.accept_rate_per_source)];
        for (limit, rate) in rates {
            rate.map_or(Ok(()), |rate| rate.check(limit))?;
        }
        session.rate.check("session rate")?;
        let bytes = admission.refuse_line.len();
        if bytes > MAX_REFUSE_LINE {
            return Err(ConfigError::RefuseLine { bytes });
        }
        if let Some(bytes) = memory_budget.filter(|bytes| *bytes < SMALLEST_BUDGET) {
            return Err(ConfigError::MemoryBudget { bytes });
        }
        let timeouts = [
            ("idle timeout", session.idle_timeout),
            ("line timeout", session.line_timeout),
            ("write timeout", session.write_timeout),
            ("max age", session.max_age),
        ];
        for (limit, timeout) in timeouts {
            if let Some(timeout) = timeout
                && !(SHORTEST_TIMEOUT..=LONGEST_TIMEOUT).contains(&timeout)
            {
                return Err(ConfigError::Timeout { limit, timeout });
            }
        }
        let timeout = session.wait_timeout;
        if !(SHORTEST_TIMEOUT..=LONGEST_TIMEOUT).contains(&timeout) {
            return Err(ConfigError::WaitTimeout { timeout });
        }
        check_length("linger timeout", session.linger_timeout)?;
        Ok(self.limits)
    }
}
