//! Events: what happens to a server's sessions, connections, listeners and limits, as subscribers hear of it.
//!
//! An event is a batch that all subscribers share, so that it costs the same however many there are.
//! Not here: subscribing (`messages`), gathering and sending (`ledger`).

use std::sync::Arc;

use actix::Message;

use crate::{
    address::Address,
    connection::{Connection, ListenerId, SessionId},
    control::stats::DrainProgress,
    limits::Limits,
    report::{CloseReport, RefuseReason},
};

/// An event for [`Subscribe`](crate::control::messages::Subscribe): a batch of what has happened, or one thing. A batch is
/// gathered for at most 10 ms, or until it has 256 entries; subscribers share it.
///
/// For one session `Opened` comes before `Named` and `Closed`, `Named` before `Closed`, and what happens to one listener comes in order. Sessions of different
/// workers are in no order.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
#[non_exhaustive]
pub enum SessionEvent {
    /// Connections have become sessions.
    Opened(Arc<[Connection]>),
    /// Sessions have ended. A session admitted before the subscription has no `Opened`.
    Closed(Arc<[CloseReport]>),
    /// Sessions have other [names](crate::LineContext::set_name) or tags. Of several changes of a session within one batch perhaps only
    /// the last is there.
    Named(Arc<[SessionNamed]>),
    /// Connections have been refused.
    Refused(Arc<Refusals>),
    /// The limits of the server are others now.
    LimitsChanged(Arc<LimitsChanged>),
    /// A listener was opened, replaced, paused, resumed or closed.
    Listener(Arc<ListenerEvent>),
    /// Progress of a drain, sent once a second and at its end.
    Draining(DrainProgress),
    /// So many events before this one had no room in the subscriber's mailbox. They are counted as in
    /// [`Stats::events_lost`](crate::control::Stats::events_lost).
    Lost(u64),
}

/// A session whose name or tags have changed, with all that it has now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SessionNamed {
    /// The session's number.
    pub id: SessionId,
    /// The peer's address.
    pub peer: Address,
    /// The listener that accepted it.
    pub listener: Option<ListenerId>,
    /// Its name; `None` if it has none any more.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::names::serialize_name"))]
    pub name: Option<Arc<str>>,
    /// Its tags, in the order in which they were added.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::names::serialize_tags"))]
    pub tags: Vec<Arc<str>>,
}

/// Connections that were refused within 10 ms. In a flood only the first 256 are told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusals {
    /// The first of them, at most 256.
    pub connections: Vec<RefusedConnection>,
    /// Number of those that came after them.
    pub more: u64,
}

/// A connection that was refused. One whose peer a proxy has told of also leaves a [`CloseReport`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RefusedConnection {
    /// The peer's address.
    pub peer: Address,
    /// The listener that accepted it.
    pub listener: Option<ListenerId>,
    /// The limit that kept it out.
    pub reason: RefuseReason,
}

/// A change of the limits of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LimitsChanged {
    /// The limits until now.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub before: Limits,
    /// The limits from now on.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub limits: Limits,
    /// Number of sessions that the change ends.
    pub ends: u64,
}

/// What has become of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ListenerEvent {
    /// The change.
    pub change: ListenerChange,
    /// The listener.
    pub listener: ListenerId,
    /// The address that it is bound to, or was.
    pub local_addr: Address,
}

/// A change of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum ListenerChange {
    /// It was added, and listens.
    Opened,
    /// It has other settings, perhaps another address.
    Replaced,
    /// It accepts no more until it is resumed.
    Paused,
    /// It accepts again.
    Resumed,
    /// Its sockets are closed. Its sessions may go on.
    Closed,
}

impl ListenerChange {
    /// Returns its name in lower case, as it is serialized.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Replaced => "replaced",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Closed => "closed",
        }
    }
}

/// One entry of a [`SessionEvent`]. Serialized it is one object, whose `event` is its kind.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(tag = "event", rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum EventRef<'a> {
    /// A connection has become a session.
    Opened(&'a Connection),
    /// A session has another name or other tags.
    Named(&'a SessionNamed),
    /// A session has ended.
    Closed(&'a CloseReport),
    /// A connection was refused.
    Refused(&'a RefusedConnection),
    /// More connections were refused than a batch tells apart.
    RefusedMore {
        /// Number of these.
        count: u64,
    },
    /// The limits of the server are others now.
    LimitsChanged(&'a LimitsChanged),
    /// What has become of a listener.
    Listener(&'a ListenerEvent),
    /// Progress of a drain.
    Draining(&'a DrainProgress),
    /// Events were lost.
    Lost {
        /// Number of these.
        count: u64,
    },
}

impl SessionEvent {
    /// Returns the entries one by one.
    ///
    /// ```
    /// use actix::{Actor, Context, Handler};
    /// use actix_lines::control::{EventRef, SessionEvent};
    ///
    /// struct Audit;
    ///
    /// impl Actor for Audit {
    ///     type Context = Context<Self>;
    /// }
    ///
    /// impl Handler<SessionEvent> for Audit {
    ///     type Result = ();
    ///
    ///     fn handle(&mut self, event: SessionEvent, _: &mut Self::Context) {
    ///         for entry in event.entries() {
    ///             match entry {
    ///                 EventRef::Closed(report) if report.cut => println!("{report}"),
    ///                 EventRef::Lost { count } => println!("{count} events were lost"),
    ///                 _ => {}
    ///             }
    ///         }
    ///     }
    /// }
    /// ```
    pub fn entries(&self) -> impl Iterator<Item = EventRef<'_>> {
        let (mut opened, mut named, mut closed): (&[Connection], &[SessionNamed], &[CloseReport]) = (&[], &[], &[]);
        let mut refused: &[RefusedConnection] = &[];
        let mut one = None;
        match self {
            Self::Opened(sessions) => opened = sessions,
            Self::Named(sessions) => named = sessions,
            Self::Closed(reports) => closed = reports,
            Self::Refused(refusals) => {
                refused = &refusals.connections;
                one = Some(EventRef::RefusedMore { count: refusals.more }).filter(|_| refusals.more > 0);
            }
            Self::LimitsChanged(change) => one = Some(EventRef::LimitsChanged(change)),
            Self::Listener(event) => one = Some(EventRef::Listener(event)),
            Self::Draining(progress) => one = Some(EventRef::Draining(progress)),
            Self::Lost(count) => one = Some(EventRef::Lost { count: *count }),
        }
        let many = opened.iter().map(EventRef::Opened).chain(named.iter().map(EventRef::Named));
        many.chain(closed.iter().map(EventRef::Closed)).chain(refused.iter().map(EventRef::Refused)).chain(one)
    }

    /// Returns what it counts as when it is lost: the number of its sessions and connections, otherwise one.
    pub(crate) fn count(&self) -> u64 {
        match self {
            Self::Opened(sessions) => sessions.len() as u64,
            Self::Named(sessions) => sessions.len() as u64,
            Self::Closed(reports) => reports.len() as u64,
            Self::Refused(refusals) => refusals.connections.len() as u64 + refusals.more,
            Self::LimitsChanged(_) | Self::Listener(_) | Self::Draining(_) => 1,
            Self::Lost(_) => 0,
        }
    }
}
