//! Report: the account of a session's end, exactly one for each session.
//!
//! Not here: sending it (`worker`), counting it (`control`).

use std::{
    fmt, io,
    num::NonZeroU8,
    sync::{PoisonError, RwLock},
    time::Duration,
};

use crate::{
    address::{Address, Origin},
    connection::{ListenerId, SessionId},
    plural::Counted,
};

/// One half of a socket, as seen from this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// Bytes from the peer.
    Read,
    /// Bytes to the peer.
    Write,
}

impl fmt::Display for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Half::Read => "read",
            Half::Write => "write",
        })
    }
}

/// The name of a filter's fault, such as `proxy-missing`: see [`Fault::named`](crate::filter::Fault::named).
///
/// Small and `Copy`: the process keeps the first 255 different names that it is given.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FaultName(NonZeroU8);

/// Names of faults. Read and written where a filter has failed, and where that is reported.
static FAULTS: RwLock<Vec<&'static str>> = RwLock::new(Vec::new());

impl FaultName {
    /// Returns `None` if there are too many names.
    pub(crate) fn new(name: &'static str) -> Option<Self> {
        let known = |faults: &[&str]| faults.iter().position(|known| *known == name);
        let position = known(&FAULTS.read().unwrap_or_else(PoisonError::into_inner));
        let position = position.or_else(|| {
            let mut faults = FAULTS.write().unwrap_or_else(PoisonError::into_inner);
            known(&faults).or_else(|| {
                let next = faults.len();
                (next < usize::from(u8::MAX)).then(|| {
                    faults.push(name);
                    next
                })
            })
        });
        NonZeroU8::new(u8::try_from(position? + 1).ok()?).map(Self)
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        let faults = FAULTS.read().unwrap_or_else(PoisonError::into_inner);
        faults.get(usize::from(self.0.get()) - 1).copied().unwrap_or("filter-failed")
    }
}

impl fmt::Display for FaultName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for FaultName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// The reason why a connection did not become a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RefuseReason {
    /// The server has [`max_sessions`](crate::limits::LimitsBuilder::max_sessions).
    MaxSessions,
    /// Its source has [`max_sessions_per_source`](crate::limits::LimitsBuilder::max_sessions_per_source).
    MaxSessionsPerSource,
    /// The [`accept_rate`](crate::limits::LimitsBuilder::accept_rate) was used up.
    AcceptRate,
    /// The [`accept_rate_per_source`](crate::limits::LimitsBuilder::accept_rate_per_source) of its source was used up.
    AcceptRatePerSource,
    /// Its address is [denied](crate::limits::LimitsBuilder::deny), or not among those
    /// [allowed](crate::limits::LimitsBuilder::allow), by the server's lists or by its [listener's](crate::Listener::deny).
    Denied,
    /// Its listener has its own [`max_sessions`](crate::Listener::max_sessions).
    ListenerFull,
    /// A [gate](crate::LineServer::gate) kept it out.
    Gate,
    /// A [gate](crate::LineServer::gate) had no answer within the
    /// [`preface_timeout`](crate::limits::LimitsBuilder::preface_timeout).
    GateTimeout,
    /// The nodes of its cluster have as many sessions together as they may have.
    ClusterFull,
    /// Its source has as many sessions on all nodes of the cluster together as it may have.
    ClusterSource,
    /// The accept rate that its source has on all nodes of the cluster together was used up.
    ClusterRate,
    /// The store of its cluster is not reached, and without it no session is let in.
    StoreLost,
}

impl RefuseReason {
    pub(crate) const ALL: [Self; 12] = [
        Self::MaxSessions,
        Self::MaxSessionsPerSource,
        Self::AcceptRate,
        Self::AcceptRatePerSource,
        Self::Denied,
        Self::ListenerFull,
        Self::Gate,
        Self::GateTimeout,
        Self::ClusterFull,
        Self::ClusterSource,
        Self::ClusterRate,
        Self::StoreLost,
    ];

    /// Returns a short name for logs and counters: `"max-sessions"`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxSessions => "max-sessions",
            Self::MaxSessionsPerSource => "max-sessions-per-source",
            Self::AcceptRate => "accept-rate",
            Self::AcceptRatePerSource => "accept-rate-per-source",
            Self::Denied => "denied",
            Self::ListenerFull => "listener-full",
            Self::Gate => "gate",
            Self::GateTimeout => "gate-timeout",
            Self::ClusterFull => "cluster-full",
            Self::ClusterSource => "cluster-source",
            Self::ClusterRate => "cluster-rate",
            Self::StoreLost => "store-lost",
        }
    }
}

/// The reason why a session ended: the first cause, not the last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer's bytes ended and every reply owed was sent.
    PeerEof,
    /// The peer reset the connection.
    PeerReset,
    /// The peer's bytes ended without the end that a [`Filter`](crate::filter::Filter) expects. Whole lines were
    /// answered; the bytes after the last one were dropped.
    Truncated,
    /// The filters of its listener were not open within the
    /// [`preface_timeout`](crate::limits::LimitsBuilder::preface_timeout). The actor was never made.
    PrefaceTimeout,
    /// More connections than [`max_prefaces`](crate::limits::LimitsBuilder::max_prefaces) had filters that waited for their
    /// peers, and this was one of the oldest of the source with the most. The actor was never made.
    PrefaceEvicted,
    /// A [`Filter`](crate::filter::Filter) could not read or write the wire any further. Every line before was
    /// delivered.
    FilterFailed,
    /// The same, where the filter has a [name](crate::filter::Fault::named) for its fault. Counted by that name.
    FilterFault(FaultName),
    /// The peer sent more in clear behind the line at which the handler [upgraded](crate::LineContext::push_filter) the
    /// connection, as by STARTTLS. It was neither delivered nor taken for bytes behind the filter: whoever is between the two
    /// could have put it there (CVE-2011-0411).
    UpgradeInjection,
    /// A filter that joined in the middle of the session, as by STARTTLS, was not open within the
    /// [`preface_timeout`](crate::limits::LimitsBuilder::preface_timeout).
    UpgradeTimeout,
    /// A [gate](crate::LineServer::gate) kept it out, or the limits of the real peer's source, which was known only once a
    /// filter had [told](crate::filter::ConnectionInfo::set_peer) its address. Counted in
    /// [`Stats::refused`](crate::control::Stats::refused), too. The actor was never made.
    Refused(RefuseReason),
    /// A [probe](crate::filter::ConnectionInfo::set_probe) of a proxy or a monitor, closed by its peer before a line came.
    Probe,
    /// A line was longer than allowed, under [`Overlong::Close`](crate::Overlong::Close). Every line before it was
    /// answered.
    Overlong,
    /// The handler called `ctx.stop()` or `ctx.drain()`.
    ClosedByHandler,
    /// The server drained, or the session's connector was told to [`Disconnect`](crate::connect::messages::Disconnect).
    Drained,
    /// `ctx.terminate()`, `ctx.abort()`, or the server's abort: unsent bytes were dropped.
    Aborted,
    /// User code panicked: a handler, a hook, a future, or a destructor.
    HandlerPanicked,
    /// [`LineHandler::batch`](crate::LineHandler::batch) took no line although nothing prevented it; offering the same
    /// lines again would never end.
    HandlerStalled,
    /// A `ctx.wait` future did not end in time.
    WaitTimeout,
    /// No line came for [`idle_timeout`](crate::limits::LimitsBuilder::idle_timeout).
    IdleTimeout,
    /// A line took longer than [`line_timeout`](crate::limits::LimitsBuilder::line_timeout).
    LineTimeout,
    /// The peer acknowledged nothing of what it was sent for [`write_timeout`](crate::limits::LimitsBuilder::write_timeout);
    /// over other transports than TCP, the transport took nothing.
    WriteStalled,
    /// The outbox held more than the session's [`OutboxLimit`](crate::limits::OutboxLimit) allows; the session was cut.
    OutboxFull,
    /// All sessions together held more than the [memory budget](crate::limits::LimitsBuilder::memory_budget), and this one was
    /// the largest of the source that held the most; it was cut.
    Evicted,
    /// The session reached [`max_age`](crate::limits::LimitsBuilder::max_age).
    MaxAge,
    /// An operator ended it, by [`Kick`](crate::control::messages::Kick) or by a list of denied sources.
    Kicked,
    /// The session's arbiter stopped while the session was running.
    WorkerStopped,
    /// One half of the socket failed with an error other than a reset.
    Io(Half, io::ErrorKind),
}

impl CloseReason {
    /// Returns a short name for logs and counters, without data: `"peer-eof"`, `"io-read"`.
    ///
    /// ```
    /// assert_eq!(actix_lines::CloseReason::PeerEof.name(), "peer-eof");
    /// ```
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PeerEof => "peer-eof",
            Self::PeerReset => "peer-reset",
            Self::Truncated => "truncated",
            Self::PrefaceTimeout => "preface-timeout",
            Self::PrefaceEvicted => "preface-evicted",
            Self::FilterFailed => "filter-failed",
            Self::UpgradeInjection => "upgrade-injection",
            Self::UpgradeTimeout => "upgrade-timeout",
            Self::FilterFault(name) => name.as_str(),
            Self::Refused(_) => "refused",
            Self::Probe => "probe",
            Self::Overlong => "overlong",
            Self::ClosedByHandler => "closed-by-handler",
            Self::Drained => "drained",
            Self::Aborted => "aborted",
            Self::HandlerPanicked => "handler-panicked",
            Self::HandlerStalled => "handler-stalled",
            Self::WaitTimeout => "wait-timeout",
            Self::IdleTimeout => "idle-timeout",
            Self::LineTimeout => "line-timeout",
            Self::WriteStalled => "write-stalled",
            Self::OutboxFull => "outbox-full",
            Self::Evicted => "evicted",
            Self::MaxAge => "max-age",
            Self::Kicked => "kicked",
            Self::WorkerStopped => "worker-stopped",
            Self::Io(Half::Read, _) => "io-read",
            Self::Io(Half::Write, _) => "io-write",
        }
    }

    pub(crate) fn from_io(half: Half, error: &io::Error) -> Self {
        match error.kind() {
            // A write to a peer that is gone: it was the peer who ended it.
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::PeerReset,
            kind => Self::Io(half, kind),
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(half, kind) => write!(f, "{half} failed: {kind}"),
            Self::Refused(reason) => write!(f, "refused: {}", reason.name()),
            other => f.write_str(other.name()),
        }
    }
}

/// Serialized as its [`name`](CloseReason::name).
#[cfg(feature = "serde")]
impl serde::Serialize for CloseReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Serialized as its [`name`](RefuseReason::name).
#[cfg(feature = "serde")]
impl serde::Serialize for RefuseReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The account of an ended session. Every byte read is either in a line, in the tail, or in `undelivered_bytes`; every
/// byte written is either in `bytes_out` or in `unsent_bytes`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CloseReport {
    /// The session's number.
    pub id: SessionId,
    /// The peer's address.
    pub peer: Address,
    /// The listener that accepted it; `None` for a session started without one.
    pub listener: Option<ListenerId>,
    /// The first cause of the end.
    pub reason: CloseReason,
    /// Lines delivered to the handler. A tail delivered as a line counts; the pieces of one overlong line count once.
    pub lines_in: u64,
    /// Bytes read from the peer, those discarded while lingering included.
    pub bytes_in: u64,
    /// Bytes taken by the kernel.
    pub bytes_out: u64,
    /// Bytes written by the handler that the kernel never took, those written after our FIN included.
    pub unsent_bytes: u64,
    /// Length of the unterminated last line, whether it was delivered as a tail or dropped.
    pub tail_bytes: u64,
    /// Bytes read but never delivered to the handler: lines held at a stop, an incomplete line at a drain, what
    /// truncation cut off, what was discarded while lingering.
    pub undelivered_bytes: u64,
    /// Time from admission to the end.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::seconds::serialize"))]
    pub duration: Duration,
    /// True if this end closed before the peer did: by an abort, at the end of the linger time, or because the peer
    /// kept sending. The peer may then have lost bytes in flight. False for a proxy's check that had said nothing.
    pub cut: bool,
}

impl fmt::Display for CloseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {}{}", self.id, Origin(&self.peer))?;
        write!(
            f,
            " closed: {}, {} and {} in, {} out, {} unsent, {} undelivered, tail {}, {:.3} s{}",
            self.reason,
            Counted(self.lines_in, "line"),
            Counted(self.bytes_in, "byte"),
            Counted(self.bytes_out, "byte"),
            self.unsent_bytes,
            self.undelivered_bytes,
            self.tail_bytes,
            self.duration.as_secs_f64(),
            if self.cut { ", cut" } else { "" }
        )?;
        // One without a name says nothing to a reader that the address does not.
        self.listener.and_then(ListenerId::name).map_or(Ok(()), |name| write!(f, ", listener {name}"))
    }
}
