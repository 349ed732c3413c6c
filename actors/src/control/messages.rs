//! Messages: what a supervisor is asked, told, and tells its subscribers.
//!
//! Not here: what it does about them (`control/supervisor`).

use std::{sync::Arc, time::Duration};

use actix::{Message, Recipient};
use bytes::Bytes;

use crate::{
    connection::{Connection, ListenerId},
    control::{
        query::{SessionFilter, SessionInfo, SessionPage, SessionQuery},
        stats::{DrainProgress, DrainReport, Stats},
    },
    limits::Limits,
    report::CloseReport,
};

/// What happens to sessions, in batches that subscribers share: a worker gathers for 10 ms, or until there are 256. For
/// [`Subscribe`].
///
/// Of one session `Opened` comes before `Closed`. Sessions of several workers are in no order.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
#[non_exhaustive]
pub enum SessionEvent {
    /// Connections have become sessions.
    Opened(Arc<[Connection]>),
    /// Sessions have ended. A session from before the subscription was not among the opened.
    Closed(Arc<[CloseReport]>),
    /// A drain goes on: once a second, and once at its end.
    Draining(DrainProgress),
}

/// Asks for the counters.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Stats")]
pub struct GetStats;

/// Asks for a page of live sessions.
#[derive(Clone, Copy, Debug, Default, Message)]
#[rtype(result = "SessionPage")]
pub struct ListSessions(pub SessionQuery);

/// Ends sessions politely; answers how many. A session that waits for a future ends as soon as that has ended, or at
/// its deadline.
#[derive(Clone, Debug, Message)]
#[rtype(result = "u64")]
pub struct Kick {
    /// Which.
    pub whom: SessionFilter,
    /// Written to each before; nothing if empty. The newline is yours.
    pub goodbye: Bytes,
}

/// Writes bytes to sessions, behind what their handlers have written so far. All sessions share the bytes. It reaches a
/// session that waits or is paused, too.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Pushed")]
pub struct Push {
    /// Which.
    pub whom: SessionFilter,
    /// What. The newline is yours.
    pub bytes: Bytes,
}

/// What became of a [`Push`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pushed {
    /// Sessions that will write it.
    pub sessions: u64,
    /// Sessions whose outbox had no room for it under their [`OutboxLimit`](crate::OutboxLimit), those that were cut for it included.
    pub dropped: u64,
}

/// Stops or resumes accepting on one listener; while it is paused the backlog holds what comes. False if there is none
/// with this number.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "bool")]
pub struct PauseListener {
    /// Which.
    pub listener: ListenerId,
    /// Whether it is to be paused.
    pub paused: bool,
}

/// Asks for the limits in force.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Limits")]
pub struct GetLimits;

/// Changes the limits, for the sessions that live as well. Lists may end sessions, and so may times; numbers of sessions
/// and rates are for those to come.
#[derive(Clone, Debug, Message)]
#[rtype(result = "LimitsChange")]
pub struct SetLimits {
    /// All limits as they are to be: start from [`GetLimits`] to change some.
    pub limits: Limits,
    /// Change nothing, only say whom it would end.
    pub dry_run: bool,
}

/// What a change of limits does, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitsChange {
    /// The sessions that it ends, those whose time would have been up anyway included.
    pub ends: Vec<SessionInfo>,
}

/// Sends every event from now on: a supervisor [`SessionEvent`]s, a connector
/// [`ConnectorEvent`](crate::connect::messages::ConnectorEvent)s.
///
/// The subscriber chooses its bound with the constructor. A connector's events are few: it keeps them all for either.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Subscribe<E = SessionEvent>
where
    E: Message<Result = ()> + Send,
{
    pub(crate) recipient: Recipient<E>,
    pub(crate) is_lossless: bool,
}

impl<E> Subscribe<E>
where
    E: Message<Result = ()> + Send,
{
    /// Subscribes with the bound of the subscriber's mailbox
    /// ([`set_mailbox_capacity`](actix::Context::set_mailbox_capacity), 16 batches by default): what does not fit is lost, and
    /// counted in [`Stats::events_lost`].
    #[must_use]
    pub fn new(recipient: Recipient<E>) -> Self {
        Self { recipient, is_lossless: false }
    }

    /// Subscribes without a bound: nothing is lost, and a subscriber that does not keep up takes memory until it does.
    #[must_use]
    pub fn lossless(recipient: Recipient<E>) -> Self {
        Self { recipient, is_lossless: true }
    }
}

impl SessionEvent {
    /// Sessions in a batch; a drain's progress counts as one.
    pub(crate) fn count(&self) -> u64 {
        match self {
            Self::Opened(sessions) => sessions.len() as u64,
            Self::Closed(reports) => reports.len() as u64,
            Self::Draining(_) => 1,
        }
    }
}

/// Ends the server: it accepts no more, answers what was read, flushes and closes; after `deadline` it aborts the rest.
/// Sent twice, it shortens the time if the second deadline comes first, and changes nothing else.
#[derive(Clone, Debug, Message)]
#[rtype(result = "DrainReport")]
pub struct Drain {
    /// How long sessions have; at most 24 days, which any longer time is taken for.
    pub deadline: Duration,
    /// Written to each session last, behind its answers; nothing if empty. The newline is yours.
    pub goodbye: Bytes,
    /// Sessions are told to end one after the other over this time, so that their peers do not all come back at once
    /// elsewhere. Zero tells all at once; half of the deadline is the most, so that the last has time, too.
    pub spread: Duration,
}

impl Drain {
    /// How long [`LineServer::run`](crate::LineServer::run) drains after SIGTERM or SIGINT, by default: as actix-web's server.
    pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

    /// All at once, without a goodbye.
    #[must_use]
    pub fn within(deadline: Duration) -> Self {
        Self { deadline, goodbye: Bytes::new(), spread: Duration::ZERO }
    }

    /// Sets the [`goodbye`](Self::goodbye), which each session writes last. Default: none.
    ///
    /// ```
    /// use std::time::Duration;
    /// use actix_lines::{Drain, LineServer, Rot13};
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
}

impl From<Duration> for Drain {
    fn from(deadline: Duration) -> Self {
        Self::within(deadline)
    }
}
