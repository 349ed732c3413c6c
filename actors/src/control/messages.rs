//! Messages: requests to a supervisor.
//!
//! Not here: handling them (`control/supervisor`), events for subscribers (`event`).

use std::time::Duration;

use actix::{Message, Recipient};
use bytes::Bytes;

use crate::{
    connection::{ListenerId, SessionId},
    control::{
        event::SessionEvent,
        query::{SessionFilter, SessionInfo, SessionPage, SessionQuery},
        stats::{DrainReport, Stats},
        trace::Trace,
    },
    limits::Limits,
    wire::tap::TraceLimits,
};

/// Asks for the counters. The answer is [`Stats`].
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Stats")]
pub struct GetStats;

/// Asks for a page of live sessions. The answer is a [`SessionPage`].
#[derive(Clone, Debug, Default, Message)]
#[rtype(result = "SessionPage")]
pub struct ListSessions(pub SessionQuery);

/// Ends sessions politely. The answer is their number. A session that waits for a future ends once the future has
/// ended, or at the future's deadline.
#[derive(Clone, Debug, Message)]
#[rtype(result = "u64")]
pub struct Kick {
    /// The filter that selects them.
    pub whom: SessionFilter,
    /// Bytes written to each session before its end, the newline included; nothing if empty.
    pub goodbye: Bytes,
}

/// Aborts sessions that a kick has told to end and that have not ended yet: those that `whom` selects, whatever it says of counters,
/// times and states, and that were admitted no later than `last`. The answer is their number.
#[cfg(feature = "cluster")]
#[derive(Clone, Debug, Message)]
#[rtype(result = "u64")]
pub(crate) struct CutKicked {
    pub(crate) whom: SessionFilter,
    pub(crate) last: SessionId,
}

/// Writes bytes to sessions, after the output of their handlers so far. All sessions share the bytes. It reaches
/// sessions that wait or are paused, too. The answer is [`Pushed`].
#[derive(Clone, Debug, Message)]
#[rtype(result = "Pushed")]
pub struct Push {
    /// The filter that selects them.
    pub whom: SessionFilter,
    /// The bytes, the newline included.
    pub bytes: Bytes,
}

/// The result of a [`Push`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Pushed {
    /// Number of sessions that will write the bytes.
    pub sessions: u64,
    /// Number of sessions whose outbox had no room for the bytes under their [`OutboxLimit`](crate::limits::OutboxLimit), those
    /// that were cut for it included.
    pub dropped: u64,
}

/// Pauses or resumes accepting on one listener, found by its name with
/// [`ServerHandle::listener`](crate::ServerHandle::listener); while it is paused the backlog holds new connections. The answer is
/// false if there is no listener with this id.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "bool")]
pub struct PauseListener {
    /// The listener.
    pub listener: ListenerId,
    /// True pauses, false resumes.
    pub paused: bool,
}

/// Asks for the limits in force. The answer is [`Limits`].
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Limits")]
pub struct GetLimits;

/// Changes the limits, for live sessions too. The answer is a [`LimitsChange`]. Changed lists and times may end
/// sessions; changed numbers of sessions and accept rates hold for new connections only.
#[derive(Clone, Debug, Message)]
#[rtype(result = "LimitsChange")]
pub struct SetLimits {
    /// The new limits, all of them: start from [`GetLimits`] to change some.
    pub limits: Limits,
    /// True changes nothing, and only answers which sessions it would end.
    pub dry_run: bool,
}

/// The effect of a change of limits, or of a dry run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LimitsChange {
    /// Sessions that it ends, those whose time would have been up anyway included.
    pub ends: Vec<SessionInfo>,
}

/// Traces a live session: what it reads and writes from now on. The answer is `None` if it does not live.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Option<Trace>")]
pub struct TraceSession {
    /// The session.
    pub session: SessionId,
    /// The bounds of the trace.
    pub limits: TraceLimits,
}

/// Subscribes to every event from now on: a supervisor sends [`SessionEvent`]s, a connector
/// [`ConnectorEvent`](crate::connect::messages::ConnectorEvent)s.
///
/// The constructor chooses a bound on waiting events. A connector's events are few: it keeps them all in either case.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Subscribe<E = SessionEvent>
where
    E: Message<Result = ()> + Send,
{
    pub(crate) recipient: Recipient<E>,
    pub(crate) is_lossless: bool,
    /// It hears of [`SessionEvent::Closed`] alone.
    pub(crate) is_for_ends: bool,
    /// Events that it has yet to be told are lost.
    pub(crate) lost: u64,
}

impl<E> Subscribe<E>
where
    E: Message<Result = ()> + Send,
{
    /// Subscribes with the bound of the subscriber's mailbox
    /// ([`set_mailbox_capacity`](actix::Context::set_mailbox_capacity), 16 batches by default): events that do not fit
    /// are lost and counted in [`Stats::events_lost`], and the subscriber is told how many before the next one that
    /// does: [`SessionEvent::Lost`].
    #[must_use]
    pub fn new(recipient: Recipient<E>) -> Self {
        Self { recipient, is_lossless: false, is_for_ends: false, lost: 0 }
    }

    /// Subscribes without a bound: nothing is lost, and a slow subscriber's mailbox takes memory until it has caught
    /// up.
    #[must_use]
    pub fn lossless(recipient: Recipient<E>) -> Self {
        Self { recipient, is_lossless: true, is_for_ends: false, lost: 0 }
    }
}

impl Subscribe {
    /// Subscribes to the ends of sessions alone ([`SessionEvent::Closed`]), with the bound of [`new`](Self::new): for it no
    /// openings and no refused connections are gathered, so that it may stay for as long as the server.
    #[must_use]
    pub fn ends(recipient: Recipient<SessionEvent>) -> Self {
        Self { is_for_ends: true, ..Self::new(recipient) }
    }
}

/// Ends the server: it accepts no more, answers what was read, flushes and closes; after `deadline` it aborts the rest.
/// The answer is a [`DrainReport`]. Sent again, it begins earlier if the new [`delay`](Self::delay) ends first, shortens the
/// time if the new deadline comes first, and changes nothing else.
#[derive(Clone, Debug, Message)]
#[rtype(result = "DrainReport")]
pub struct Drain {
    /// Time that sessions have to end, from the beginning of the drain. Longer times count as 24 days.
    pub deadline: Duration,
    /// Bytes written to each session after its last answer and before the output of its
    /// [`ending`](crate::LineHandler::ending), the newline included; nothing if empty.
    pub goodbye: Bytes,
    /// Time over which sessions are told to end one after the other, so that their peers do not all reconnect elsewhere
    /// at once. Zero tells all at once; at most half of the deadline counts, so that the last session has time, too.
    pub spread: Duration,
    /// Time until the drain begins. Until then the server says that it will drain, and still serves whoever comes, so that a load
    /// balancer that asks it stops sending connections. Longer times count as 24 days.
    pub delay: Duration,
}

impl Drain {
    /// Default deadline of a drain after SIGTERM or SIGINT: 30 s.
    ///
    /// # Source
    /// The default of actix-web's server.
    pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

    /// Makes a drain with this deadline that tells all sessions at once, without a goodbye.
    #[must_use]
    pub fn within(deadline: Duration) -> Self {
        Self { deadline, goodbye: Bytes::new(), spread: Duration::ZERO, delay: Duration::ZERO }
    }

    /// Sets the [`goodbye`](Self::goodbye), which each session writes last. Default: none.
    ///
    /// ```
    /// use std::time::Duration;
    /// use actix_lines::{LineServer, Rot13, control::Drain};
    ///
    /// let drain = Drain::within(Duration::from_secs(10)).goodbye("back at noon\n").spread(Duration::from_secs(3));
    /// let server = LineServer::new(|_| Rot13).drain_on_signals(drain);
    /// # drop(server);
    /// ```
    #[must_use]
    pub fn goodbye(mut self, goodbye: impl Into<Bytes>) -> Self {
        self.goodbye = goodbye.into();
        self
    }

    /// Sets the time over which sessions are told to end: [`spread`](Self::spread). Default: zero.
    #[must_use]
    pub fn spread(mut self, over: Duration) -> Self {
        self.spread = over;
        self
    }

    /// Sets the time until the drain begins: [`delay`](Self::delay). Default: zero.
    ///
    /// Meanwhile [`ServerHandle::draining`](crate::ServerHandle::draining) tells of it, and with it `/readyz`, the answer to an
    /// agent check, console and page. Choose it longer than the load balancer takes to notice: a few of its intervals.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

impl From<Duration> for Drain {
    fn from(deadline: Duration) -> Self {
        Self::within(deadline)
    }
}
