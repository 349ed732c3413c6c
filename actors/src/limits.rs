//! Limits: every number that an operator may set, with unit, default and reason.
//!
//! A [`Limits`] is checked when it is built, so every value of the type is valid.
//! Not here: how long a line may be (`framing`), how many workers there are (`server`).

#[cfg(feature = "console")]
pub(crate) mod keys;

use std::time::Duration;

use bytes::Bytes;

#[cfg(feature = "console")]
pub use self::keys::{LimitError, LimitKey};
pub use crate::rate::{Rate, RateGroup, RateLimit};
use crate::{
    error::ConfigError,
    shared::SharedBytes,
    source::{Peers, SourcePrefix},
};

/// Most bytes of one read, and the size of the buffer that a worker's sessions read through. It is the amount that the
/// kernel hands over at once on loopback, and fits a core's second-level cache several times.
pub(crate) const SCRATCH_BYTES: usize = 64 * 1024;

/// A partial line up to this long is copied in front of the next read, so that its line is whole and the answer goes
/// out in one write. A longer one is appended to instead: each read would copy it again.
pub(crate) const CARRY_BYTES: usize = 4 * 1024;

/// Actor messages handled in one turn before the socket gets its share.
pub(crate) const MESSAGES_PER_TURN: u32 = 32;

/// Reads in one turn before other sessions run, if none of them fills the buffer. A socket is read once or twice a
/// turn; a stream over memory, or over records of a few bytes, may always be ready. Each read may be answered by a
/// write, so that this many cost about as much as one full buffer.
pub(crate) const READS_PER_TURN: u32 = 32;

/// Times that a turn starts over because user code asked for something, before other sessions run. An actor that
/// notifies itself in each message, or spawns in each future, would otherwise keep its worker without limit.
pub(crate) const ROUNDS_PER_TURN: u32 = 64;

/// Most bytes of the refuse line: it has to fit an empty socket.
const MAX_REFUSE_LINE: usize = 1024;

/// Mailbox capacity of an acceptor and of the supervisor: actix's default.
pub(crate) const MAILBOX_CAPACITY: usize = 16;

/// Longest wait of a report or an event for others, with which it is sent.
pub(crate) const REPORT_DELAY: Duration = Duration::from_millis(10);

/// Smallest memory budget: with less, a few well-behaved sessions would end each other.
const SMALLEST_BUDGET: usize = 1024 * 1024;

/// A deadline is met within a second, so a shorter one could not be kept; and a worker's clock wraps after 49 days.
pub(crate) const SHORTEST_TIMEOUT: Duration = Duration::from_secs(1);
pub(crate) const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 24 * 3600);

/// Largest limit of an outbox: its length is counted in 32 bits, and a turn may add to it.
const MOST_OUTBOX: usize = 1 << 30;

/// Fill levels of the outbox at which a session stops and resumes reading. Unit: bytes not yet taken by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// At or below this level reading resumes. Default: 16 KiB.
    pub low: usize,
    /// Above this level reading and the delivery of lines pause. Default: 64 KiB.
    pub high: usize,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self { low: 16 * 1024, high: 64 * 1024 }
    }
}

/// The treatment of bytes for a peer that does not read them.
///
/// A server's limits hold for all of its sessions; a handler may set another outbox limit for its own session, with
/// [`LineContext::set_outbox_limit`](crate::LineContext::set_outbox_limit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxLimit {
    /// The action at the hard limit. Default: [`OutboxPolicy::DropNewest`].
    pub policy: OutboxPolicy,
    /// Most bytes that an outbox may hold, pushed bytes included. Unit: bytes; from the high watermark to 1 GiB.
    /// Default: 1 MiB.
    pub hard: usize,
    /// An outbox that stays above this amount for the given time has its session cut, under every policy. At most the
    /// hard limit. Default: none.
    pub soft: Option<SoftLimit>,
}

/// An amount that is too much only if it lasts, as in Redis's `client-output-buffer-limit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftLimit {
    /// Bytes in the outbox.
    pub bytes: usize,
    /// Longest time above that amount; met within a second, so that zero means at most one second. At most 24 days.
    pub time: Duration,
}

/// The action when a session's outbox would hold more than the hard limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutboxPolicy {
    /// Cuts the session: [`CloseReason::OutboxFull`](crate::CloseReason::OutboxFull). It is cut as well when its own
    /// handler leaves more than the limit in the outbox, because it writes without having been given a line.
    Disconnect,
    /// Drops pushed bytes, and counts them in [`Pushed::dropped`](crate::control::messages::Pushed::dropped); the session's own handler
    /// learns the count by [`LineHandler::missed`](crate::LineHandler::missed). Bytes that the handler writes are never
    /// dropped. The default.
    #[default]
    DropNewest,
    /// Takes pushed bytes all the same; the session reads nothing from its peer meanwhile. Use it for pushes that
    /// something else bounds: an outbox counts up to 4 GiB.
    Accept,
}

impl OutboxLimit {
    /// Returns true if it can work beside the high watermark `high`.
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

/// Returns true if the clock can tell a time so long; `limit` names it.
fn check_length(limit: &'static str, time: Duration) -> Result<(), ConfigError> {
    if time > LONGEST_TIMEOUT { Err(ConfigError::TooLong { limit, time }) } else { Ok(()) }
}

impl Default for OutboxLimit {
    fn default() -> Self {
        Self { policy: OutboxPolicy::default(), hard: 1024 * 1024, soft: None }
    }
}

/// The treatment of a connection over a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OverLimit {
    /// The connection waits in the backlog, and nothing is accepted. Its peer is not told.
    ///
    /// Limits of one source must not make others wait, and a connection's source is known only after the accept: over
    /// these limits a connection is always refused.
    Wait,
    /// The connection is accepted, sent [`LimitsBuilder::refuse_line`], and closed politely. The default.
    #[default]
    Refuse,
}

/// The limits of a server and its sessions, made by [`Limits::builder`]. All of them may be changed while the server
/// runs, by [`ServerHandle::set_limits`](crate::ServerHandle::set_limits).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub(crate) admission: AdmissionLimits,
    pub(crate) session: SessionLimits,
    pub(crate) memory_budget: Option<usize>,
}

/// Limits for the connections of one listener, beside those of its server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ListenerLimits {
    /// `None` is no limit of its own.
    pub(crate) max_sessions: Option<usize>,
    pub(crate) allow: Vec<Peers>,
    pub(crate) deny: Vec<Peers>,
}

/// Limits that decide whether a connection becomes a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdmissionLimits {
    pub(crate) max_sessions: usize,
    pub(crate) max_sessions_per_source: usize,
    pub(crate) source_prefix: SourcePrefix,
    pub(crate) accept_rate: Option<Rate>,
    pub(crate) accept_rate_per_source: Option<Rate>,
    pub(crate) over_limit: OverLimit,
    pub(crate) refuse_line: SharedBytes,
    pub(crate) allow: Vec<Peers>,
    pub(crate) deny: Vec<Peers>,
    pub(crate) exempt: Vec<Peers>,
}

/// The limits of a single session: watermarks, outbox limit, timeouts, read rate. Small and `Copy`.
///
/// Convert [`Limits`] to get them: these also have the limits of a server as a whole. A
/// [`LineSession`](crate::LineSession) and a [`Connector`](crate::connect::connector::Connector) take either.
///
/// ```
/// use std::time::Duration;
///
/// use actix_lines::{ConfigError, limits::{Limits, SessionLimits}};
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
    pub(crate) preface_timeout: Duration,
    pub(crate) max_prefaces: usize,
    pub(crate) rate: RateLimit,
}

/// Leaves out the limits of a server as a whole: numbers of sessions, accept rates, lists, the memory budget.
impl From<Limits> for SessionLimits {
    fn from(limits: Limits) -> Self {
        limits.session
    }
}

/// Returns the session limits of [`Limits::default`].
impl Default for SessionLimits {
    fn default() -> Self {
        Limits::default().session
    }
}

impl Limits {
    /// Starts from the defaults.
    ///
    /// ```
    /// use actix_lines::{ConfigError, limits::{Limits, Watermarks}};
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
    /// Returns limits for a server that strangers can reach, the defaults of rot13d: at most
    /// [`SESSIONS_PER_SOURCE`](Self::SESSIONS_PER_SOURCE) sessions of one source, this machine's own
    /// peers [exempt](LimitsBuilder::exempt), and a [memory budget](LimitsBuilder::memory_budget) of
    /// [`BUDGET`](Self::BUDGET). All else is as in [`Limits::default`].
    ///
    /// Set [`max_sessions`](LimitsBuilder::max_sessions) as well: only the program knows how many descriptors it has.
    ///
    /// ```
    /// use actix_lines::{ConfigError, limits::Limits};
    ///
    /// let limits = Limits::exposed().to_builder().max_sessions(10_000).build()?;
    /// # let _ = limits;
    /// # Ok::<(), ConfigError>(())
    /// ```
    #[must_use]
    pub fn exposed() -> Self {
        let mut limits = Self { memory_budget: Some(Self::BUDGET), ..Self::default() };
        limits.admission.max_sessions_per_source = Self::SESSIONS_PER_SOURCE;
        limits.admission.exempt = Peers::LOCAL.to_vec();
        limits
    }

    /// Most sessions of one source in [`exposed`](Self::exposed).
    ///
    /// # Source
    /// `docs/decisions/defaults.md` says how much one hostile host then costs.
    pub const SESSIONS_PER_SOURCE: usize = 100;

    /// Memory budget of [`exposed`](Self::exposed): 256 MiB. Unit: bytes.
    pub const BUDGET: usize = 256 * 1024 * 1024;
}

/// Returns limits without a bound on peers, their accept rate or the memory of all sessions together; the memory and
/// the time of each single session are bounded.
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
                preface_timeout: Duration::from_secs(10),
                max_prefaces: 1024,
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
    /// A session counts until its socket is closed, so one that lingers counts. A limit below the number of live
    /// sessions ends none of them: none is admitted until enough have ended.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::MaxSessions`] for 0.
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.limits.admission.max_sessions = sessions;
        self
    }

    /// Sets how many sessions of one source may live at once, over all workers and listeners. Default: no limit,
    /// `usize::MAX`. [`source_prefix`](Self::source_prefix) defines a source.
    ///
    /// A connection over this limit is refused under every [`over_limit`](Self::over_limit) policy.
    /// [Exempt](Self::exempt) addresses have no such limit.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::MaxSessionsPerSource`] for 0.
    pub fn max_sessions_per_source(mut self, sessions: usize) -> Self {
        self.limits.admission.max_sessions_per_source = sessions;
        self
    }

    /// Sets which addresses count as one source. Default: each IPv4 address, each IPv6 network of 64 bits. Peers of unix
    /// sockets are one source for each user id, whatever the prefix; one without credentials has no such limits.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::SourcePrefix`] above 32 bits for IPv4 or 128 for IPv6.
    pub fn source_prefix(mut self, prefix: SourcePrefix) -> Self {
        self.limits.admission.source_prefix = prefix;
        self
    }

    /// Sets how many connections become sessions each second, over all listeners. Default: `None`, no limit.
    ///
    /// Connections kept out by the lists or by their source's own limits are not counted.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::Rate`] for a rate or burst of 0.
    pub fn accept_rate(mut self, rate: Option<Rate>) -> Self {
        self.limits.admission.accept_rate = rate;
        self
    }

    /// Sets how many connections of one source become sessions each second. Default: `None`, no limit.
    ///
    /// A connection over this limit is refused under every [`over_limit`](Self::over_limit) policy.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::Rate`] for a rate or burst of 0.
    pub fn accept_rate_per_source(mut self, rate: Option<Rate>) -> Self {
        self.limits.admission.accept_rate_per_source = rate;
        self
    }

    /// Sets the treatment of a connection over [`max_sessions`](Self::max_sessions) or
    /// [`accept_rate`](Self::accept_rate). Default: [`OverLimit::Refuse`].
    pub fn over_limit(mut self, policy: OverLimit) -> Self {
        self.limits.admission.over_limit = policy;
        self
    }

    /// Sets the line that a refused connection is sent, its newline included; an empty one sends nothing. Default: `too
    /// many connections, try again later`, CR LF.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::RefuseLine`] above 1024 bytes.
    pub fn refuse_line(mut self, line: impl Into<Bytes>) -> Self {
        self.limits.admission.refuse_line = line.into().into();
        self
    }

    /// Sets the peers that may connect. Default: empty, which allows all. Others are closed without a reply, of whichever
    /// kind they are: a list of networks alone keeps out all peers of unix sockets, a list of users alone all of TCP.
    /// [`Peers::Unix`] lets in those whom the permissions of a path let in.
    pub fn allow(mut self, peers: impl IntoIterator<Item = Peers>) -> Self {
        self.limits.admission.allow = peers.into_iter().collect();
        self
    }

    /// Sets the peers that may not connect, even if [`allow`](Self::allow) has them. Default: empty. Set while a
    /// server runs, it also ends their sessions.
    pub fn deny(mut self, peers: impl IntoIterator<Item = Peers>) -> Self {
        self.limits.admission.deny = peers.into_iter().collect();
        self
    }

    /// Sets the peers exempt from the limits of a source, such as the one address of many users, or a health check.
    /// Default: empty.
    pub fn exempt(mut self, peers: impl IntoIterator<Item = Peers>) -> Self {
        self.limits.admission.exempt = peers.into_iter().collect();
        self
    }

    /// Sets how many bytes the buffers of all sessions may hold together: outboxes, incomplete lines, lines that are
    /// held, handshakes that are not whole. Unit: bytes. Default: `None`, no limit.
    ///
    /// Above the budget, the source whose sessions hold the most in all loses its largest session, and so on until the
    /// budget is met: [`CloseReason::Evicted`](crate::CloseReason::Evicted). [`source_prefix`](Self::source_prefix)
    /// defines a source; a session of an [exempt](Self::exempt) address, or of a peer without one and without a user id, is weighed
    /// alone. The budget may be exceeded by 64 KiB for each worker, and by what one session adds in one turn.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::MemoryBudget`] for less than 1 MiB.
    pub fn memory_budget(mut self, bytes: Option<usize>) -> Self {
        self.limits.memory_budget = bytes;
        self
    }

    /// Sets the fill levels of the outbox at which a session stops and resumes reading. Unit: bytes. Default: 64 KiB
    /// and 16 KiB.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::Watermarks`] unless `low < high`, and [`ConfigError::OutboxBytes`]
    /// for a high watermark above 1 GiB. A high watermark above 1 MiB needs a higher hard limit as well: see
    /// [`outbox_limit`](Self::outbox_limit).
    ///
    /// # Source
    /// Terms: libevent's `bufferevent_setwatermark`.
    pub fn outbox(mut self, marks: Watermarks) -> Self {
        self.limits.session.outbox = marks;
        self
    }

    /// Sets the treatment of bytes that others [`Push`](crate::control::messages::Push) into a session whose peer does not read them.
    /// Default: [`OutboxLimit::default`].
    ///
    /// Answers to lines are not limited by it: a session is delivered no lines while its outbox is above the high
    /// watermark.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::HardLimit`] for a hard limit below the high watermark,
    /// [`ConfigError::OutboxBytes`] for one above 1 GiB, [`ConfigError::SoftLimit`] for a soft limit above the hard
    /// one, and [`ConfigError::TooLong`] for a soft limit's time above 24 days.
    pub fn outbox_limit(mut self, outbox_limit: OutboxLimit) -> Self {
        self.limits.session.outbox_limit = outbox_limit;
        self
    }

    /// Sets how long a session reads and discards after its FIN, until it closes anyway. Default: 5 s.
    ///
    /// After an immediate close the kernel would answer a peer's unread bytes with a reset, and a reset destroys
    /// replies on their way. A session that never wrote anything does not linger. Zero is allowed where lost replies do
    /// not matter: the socket is then closed within half a second of the FIN.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::TooLong`] above 24 days.
    pub fn linger_timeout(mut self, timeout: Duration) -> Self {
        self.limits.session.linger_timeout = timeout;
        self
    }

    /// Sets how many bytes a session reads and discards after its FIN before it resets the connection. Unit: bytes.
    /// Default: 1 MiB.
    ///
    /// Bytes on their way are at most what the two kernels' buffers hold. A peer that sends more does not look for an
    /// answer: the reset tells it that nobody reads. A peer that has not yet taken all that was written to it is not
    /// reset: it is not read from until it has.
    pub fn linger_bytes(mut self, bytes: u32) -> Self {
        self.limits.session.linger_bytes = bytes;
        self
    }

    /// Sets how long a `ctx.wait` future may take before its session is closed. Default: 30 s.
    ///
    /// A waiting session handles neither lines nor messages, so a wait that never ends would hold it forever.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::WaitTimeout`] unless it is 1 s to 24 days: deadlines are met
    /// within a second.
    pub fn wait_timeout(mut self, timeout: Duration) -> Self {
        self.limits.session.wait_timeout = timeout;
        self
    }

    /// Sets how long a session may go without a line, while none is begun. Default: 10 min; `None` is no limit.
    ///
    /// Output does not count as activity, whether the session's handler or others write it. The clock stands still
    /// while the session waits, is paused, is above its high watermark, or once the peer's bytes have ended. At the
    /// timeout the session drains ([`CloseReason::IdleTimeout`](crate::CloseReason::IdleTimeout)), unless its handler's
    /// [`idle`](crate::LineHandler::idle) has it stay.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::Timeout`] unless it is 1 s to 24 days: deadlines are met within a
    /// second.
    pub fn idle_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.limits.session.idle_timeout = timeout;
        self
    }

    /// Sets how long a line may take from its first byte to its delimiter. Default: 60 s; `None` is no limit, and then
    /// any byte counts as activity for [`idle_timeout`](Self::idle_timeout).
    ///
    /// The clock stands still when that of the idle timeout does. At the timeout the session drains, and the incomplete
    /// line is dropped and counted: [`CloseReason::LineTimeout`](crate::CloseReason::LineTimeout).
    ///
    /// # Errors
    /// As [`idle_timeout`](Self::idle_timeout).
    pub fn line_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.limits.session.line_timeout = timeout;
        self
    }

    /// Sets how long an outbox may hold bytes while the peer takes none. Default: 60 s; `None` is no limit.
    ///
    /// Every byte that the peer acknowledges is progress, so a slow reader is not ended by it; over other transports
    /// than TCP, every byte that the transport takes. The clock runs on after the FIN if the kernel once refused to
    /// take bytes and the peer has not acknowledged all of them. At the timeout the session is reset, and its unsent
    /// bytes are counted: [`CloseReason::WriteStalled`](crate::CloseReason::WriteStalled).
    ///
    /// # Errors
    /// As [`idle_timeout`](Self::idle_timeout).
    pub fn write_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.limits.session.write_timeout = timeout;
        self
    }

    /// Sets the age at which a session drains: [`CloseReason::MaxAge`](crate::CloseReason::MaxAge). Default: `None`, no
    /// limit.
    ///
    /// # Errors
    /// As [`idle_timeout`](Self::idle_timeout).
    pub fn max_age(mut self, age: Option<Duration>) -> Self {
        self.limits.session.max_age = age;
        self
    }

    /// Sets how long the filters of a listener's connection may wait for their peer before there is a session: the time
    /// of a TLS handshake, or of a header. Default: 10 s. A connection that takes longer is closed:
    /// [`CloseReason::PrefaceTimeout`](crate::CloseReason::PrefaceTimeout).
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::Timeout`] unless it is 1 s to 24 days.
    pub fn preface_timeout(mut self, timeout: Duration) -> Self {
        self.limits.session.preface_timeout = timeout;
        self
    }

    /// Sets how many connections of a worker may have filters that wait for their peer, each of which may have sent
    /// 64 KiB. Default: 1024. With one more the oldest of the source that has the most are closed:
    /// [`CloseReason::PrefaceEvicted`](crate::CloseReason::PrefaceEvicted). So a flood of handshakes that do not go on
    /// keeps nobody out. They count as sessions, too.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::MaxPrefaces`] for 0.
    pub fn max_prefaces(mut self, prefaces: usize) -> Self {
        self.limits.session.max_prefaces = prefaces;
        self
    }

    /// Sets how many bytes and lines are read from each session each second. Default: no limit.
    ///
    /// A session whose bucket is empty reads nothing, and is delivered no line, until the bucket is refilled, which
    /// happens every 250 ms; its idle and line clocks stand still meanwhile. A drain answers at once what was read.
    /// Changed while the server runs, the rate holds for living sessions too, except those with [a rate of their
    /// own](crate::LineContext::set_rate).
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
    /// Returns a [`ConfigError`] that names the first invalid limit.
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
            ("preface timeout", Some(session.preface_timeout)),
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
        if session.max_prefaces == 0 {
            return Err(ConfigError::MaxPrefaces);
        }
        check_length("linger timeout", session.linger_timeout)?;
        Ok(self.limits)
    }
}
