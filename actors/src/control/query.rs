//! Query: filters, orders and pages of sessions, for live control.
//!
//! Pure: nothing here knows where sessions are.
//! Not here: asking (`supervisor`), answering (`worker`).

use std::{cmp::Ordering, sync::Arc, time::Duration};

use crate::{
    address::Address,
    connection::{ListenerId, SessionId},
    names::{self, Names},
    source::Peers,
};

/// A live session: its connection, age, counters and state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SessionInfo {
    /// The session's number.
    pub id: SessionId,
    /// The peer's address.
    pub peer: Address,
    /// The listener that accepted it.
    pub listener: Option<ListenerId>,
    /// The worker that runs it, from 0.
    pub worker: usize,
    /// Time since its admission.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::seconds::serialize"))]
    pub age: Duration,
    /// Time since its last line, since the first byte of an incomplete one, or since its handler returned
    /// [`Idle::Stay`](crate::Idle::Stay); exact to half a second. It stands still while the session is
    /// [held](SessionState::Held).
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::seconds::serialize"))]
    pub idle: Duration,
    /// Lines delivered to its handler.
    pub lines_in: u64,
    /// Bytes read from the peer.
    pub bytes_in: u64,
    /// Bytes taken by the kernel.
    pub bytes_out: u64,
    /// Bytes not yet taken by the kernel.
    pub outbox_bytes: usize,
    /// Its state.
    pub state: SessionState,
    /// The [name](crate::LineContext::set_name) that its actor gave it.
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "Option::is_none", serialize_with = "crate::names::serialize_name")
    )]
    pub name: Option<Arc<str>>,
    /// The [tags](crate::LineContext::add_tag) that its actor gave it, in the order in which they were added.
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "Vec::is_empty", serialize_with = "crate::names::serialize_tags")
    )]
    pub tags: Vec<Arc<str>>,
}

/// The state of a live session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum SessionState {
    /// Waiting for its peer's lines.
    Open,
    /// Waiting for a future, paused, above its high watermark, or past the end of its peer's bytes.
    Held,
    /// Reading no more, and answering what it has read.
    Draining,
    /// Done with its handler: flushing or lingering.
    Closing,
}

impl SessionState {
    /// Returns its name in lower case, as it is serialized.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Held => "held",
            Self::Draining => "draining",
            Self::Closing => "closing",
        }
    }
}

/// Selects the sessions that match all of its conditions. The default selects every session.
///
/// It is of one server, whose numbers of sessions and listeners mean nothing to another one: sessions of all nodes are selected
/// by `cluster::ClusterFilter`, whose ids and names mean the same everywhere.
///
/// ```
/// use std::time::Duration;
/// use actix_lines::control::SessionFilter;
///
/// let stale = SessionFilter::default().idle_at_least(Duration::from_secs(60));
/// let of_a_network = SessionFilter::source("192.0.2.0/24".parse()?).idle_at_least(Duration::from_secs(60));
/// # let _ = (stale, of_a_network);
/// # Ok::<(), actix_lines::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionFilter {
    /// Only this session.
    pub id: Option<SessionId>,
    /// Only sessions with a greater number.
    pub after: Option<SessionId>,
    /// Only sessions with one of these peers.
    pub source: Option<Peers>,
    /// Only sessions of this listener.
    pub listener: Option<ListenerId>,
    /// Only sessions with this name.
    pub name: Option<Arc<str>>,
    /// Only sessions with this tag.
    pub tag: Option<Arc<str>>,
    /// Only sessions in this state.
    pub state: Option<SessionState>,
    /// Only sessions of at least this age.
    pub age_at_least: Duration,
    /// Only sessions without a line for at least this time.
    pub idle_at_least: Duration,
    /// Only sessions with at least this many bytes in the outbox.
    pub outbox_at_least: usize,
}

impl SessionFilter {
    /// Selects one session.
    #[must_use]
    pub fn id(id: SessionId) -> Self {
        Self { id: Some(id), ..Self::default() }
    }

    /// Selects the sessions with one of these peers.
    #[must_use]
    pub fn source(peers: Peers) -> Self {
        Self { source: Some(peers), ..Self::default() }
    }

    /// Adds the condition that the session has a greater number: with the last one of a page in the order of numbers it
    /// selects the pages behind it, whatever has begun or ended meanwhile. A list of any length takes each session once so,
    /// where growing offsets take the first ones again for each page.
    ///
    /// ```
    /// # use actix_lines::{LineServer, Rot13, control::{SessionFilter, SessionQuery}};
    /// # #[actix::main]
    /// # async fn main() -> std::io::Result<()> {
    /// # let server = LineServer::new(|_| Rot13).bind("127.0.0.1:0")?.start()?;
    /// let mut filter = SessionFilter::default();
    /// loop {
    ///     let page = server.sessions(SessionQuery::from(filter.clone()).limit(500)).await?;
    ///     page.sessions.iter().for_each(|session| println!("{} {}", session.id, session.peer));
    ///     let Some(last) = page.sessions.last() else { break };
    ///     filter = filter.after(last.id);
    /// }
    /// # server.abort().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn after(mut self, id: SessionId) -> Self {
        self.after = Some(id);
        self
    }

    /// Adds the condition that `listener` accepted the session. [`ServerHandle::listener`](crate::ServerHandle::listener)
    /// finds a listener by its name; sessions of one that was removed still have its id in their
    /// [`SessionInfo`] and in [`Stats::listeners`](crate::control::Stats::listeners).
    #[must_use]
    pub fn listener(mut self, listener: ListenerId) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Adds the condition that the session has this [name](crate::LineContext::set_name) now.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Adds the condition that the session has this [tag](crate::LineContext::add_tag) now.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<Arc<str>>) -> Self {
        self.tag = Some(tag.into());
        self
    }

    /// Adds the condition that the session is in this state.
    #[must_use]
    pub fn state(mut self, state: SessionState) -> Self {
        self.state = Some(state);
        self
    }

    /// Adds the condition that the session has at least this age.
    #[must_use]
    pub fn age_at_least(mut self, age: Duration) -> Self {
        self.age_at_least = age;
        self
    }

    /// Adds the condition that the session has had no line for at least this time.
    #[must_use]
    pub fn idle_at_least(mut self, idle: Duration) -> Self {
        self.idle_at_least = idle;
        self
    }

    /// Adds the condition that at least this many bytes are in the session's outbox.
    #[must_use]
    pub fn outbox_at_least(mut self, bytes: usize) -> Self {
        self.outbox_at_least = bytes;
        self
    }

    /// Returns true if it has no condition.
    #[cfg(feature = "console")]
    pub(crate) fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Returns true if none of its conditions is on counters, times or the state of a session.
    pub(crate) fn is_lasting(&self) -> bool {
        self.state.is_none() && self.age_at_least.is_zero() && self.idle_at_least.is_zero() && self.outbox_at_least == 0
    }

    /// Returns true if it selects a session with this number, peer and listener, apart from what changes while it lives.
    pub(crate) fn has_identity(&self, id: SessionId, peer: &Address, listener: Option<ListenerId>) -> bool {
        self.id.is_none_or(|wanted| wanted == id)
            && self.after.is_none_or(|after| id > after)
            && self.listener.is_none_or(|wanted| listener == Some(wanted))
            && self.source.is_none_or(|peers| peers.contains(peer))
    }

    /// Returns true if it selects a session with these names, apart from all else.
    pub(crate) fn has_names(&self, names: Option<&Names>) -> bool {
        let names = || names.map(|names| (names.name.as_deref(), &names.tags[..])).unwrap_or_default();
        (self.name.is_none() && self.tag.is_none()) || self.has_name_and_tag(names().0, names().1)
    }

    fn has_name_and_tag(&self, name: Option<&str>, tags: &[Arc<str>]) -> bool {
        self.name.as_deref().is_none_or(|wanted| name == Some(wanted))
            && self.tag.as_deref().is_none_or(|wanted| names::has_tag(tags, wanted))
    }

    /// Returns true if it may select a connection of this peer and listener that is no session.
    #[cfg(feature = "console")]
    pub(crate) fn has_refused(&self, peer: &Address, listener: Option<ListenerId>) -> bool {
        self.id.is_none()
            && self.name.is_none()
            && self.tag.is_none()
            && self.listener.is_none_or(|wanted| listener == Some(wanted))
            && self.source.is_none_or(|peers| peers.contains(peer))
    }

    /// Returns true if it has no other condition than this listener.
    #[cfg(feature = "console")]
    pub(crate) fn is_of_listener(&self, listener: ListenerId) -> bool {
        *self == Self::default().listener(listener)
    }

    /// Returns true if it selects a session.
    pub(crate) fn has(&self, session: &SessionInfo) -> bool {
        self.has_identity(session.id, &session.peer, session.listener)
            && self.has_name_and_tag(session.name.as_deref(), &session.tags)
            && self.state.is_none_or(|state| state == session.state)
            && session.age >= self.age_at_least
            && session.idle >= self.idle_at_least
            && session.outbox_bytes >= self.outbox_at_least
    }
}

/// The order of listed sessions. Equal ones are in the order of their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionOrder {
    /// By number, the order of admission. The default.
    #[default]
    Id,
    /// Longest without a line first.
    Idle,
    /// Most bytes in the outbox first.
    Outbox,
    /// Most bytes read first.
    BytesIn,
    /// Most bytes sent first.
    BytesOut,
    /// Most lines first.
    Lines,
}

/// A request for a page of sessions. A [`SessionFilter`] converts into one for the first page.
///
/// It is of one server, which alone knows the counters and times that most of its orders are of: sessions of all nodes are
/// listed by `cluster::ClusterQuery`, in orders that last.
///
/// ```
/// use actix_lines::control::{SessionFilter, SessionOrder, SessionQuery};
///
/// let largest = SessionQuery::from(SessionFilter::default()).order(SessionOrder::Outbox).limit(10);
/// # let _ = largest;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionQuery {
    /// The sessions to list. Default: all.
    pub filter: SessionFilter,
    /// Their order. Default: by number.
    pub order: SessionOrder,
    /// Number of sessions left out before the page. Default: 0.
    pub offset: usize,
    /// Most sessions on the page, up to [`MAX_PAGE`](Self::MAX_PAGE). Default: 1000.
    pub limit: usize,
}

impl Default for SessionQuery {
    fn default() -> Self {
        Self { filter: SessionFilter::default(), order: SessionOrder::default(), offset: 0, limit: 1000 }
    }
}

impl From<SessionFilter> for SessionQuery {
    fn from(filter: SessionFilter) -> Self {
        Self { filter, ..Self::default() }
    }
}

impl SessionQuery {
    /// Most sessions on one page.
    pub const MAX_PAGE: usize = 10_000;

    /// Sets the order. Default: by number.
    #[must_use]
    pub fn order(mut self, order: SessionOrder) -> Self {
        self.order = order;
        self
    }

    /// Sets the number of sessions left out before the page. Default: 0.
    #[must_use]
    pub fn offset(mut self, sessions: usize) -> Self {
        self.offset = sessions;
        self
    }

    /// Sets the most sessions on the page, up to [`MAX_PAGE`](Self::MAX_PAGE). Default: 1000.
    #[must_use]
    pub fn limit(mut self, sessions: usize) -> Self {
        self.limit = sessions;
        self
    }

    fn compare(&self, a: &SessionInfo, b: &SessionInfo) -> Ordering {
        let most = |value: fn(&SessionInfo) -> u128| value(b).cmp(&value(a));
        match self.order {
            SessionOrder::Id => Ordering::Equal,
            SessionOrder::Idle => most(|session| session.idle.as_nanos()),
            SessionOrder::Outbox => most(|session| session.outbox_bytes as u128),
            SessionOrder::BytesIn => most(|session| session.bytes_in.into()),
            SessionOrder::BytesOut => most(|session| session.bytes_out.into()),
            SessionOrder::Lines => most(|session| session.lines_in.into()),
        }
        .then(a.id.cmp(&b.id))
    }

    /// Most sessions that one worker has to name: it cannot know how many of other workers come before the page.
    fn most(&self) -> usize {
        self.offset.saturating_add(self.limit.min(Self::MAX_PAGE))
    }

    /// Sorts, and keeps only the page.
    pub(crate) fn cut_to_page(&self, sessions: &mut Vec<SessionInfo>) {
        sessions.sort_unstable_by(|a, b| self.compare(a, b));
        sessions.truncate(self.most());
        sessions.drain(..self.offset.min(sessions.len()));
    }
}

/// The sessions that may be on a page, out of many that are looked at one by one. It never holds more than twice as many.
#[derive(Debug)]
pub(crate) struct Selection {
    query: SessionQuery,
    sessions: Vec<SessionInfo>,
    /// In the order of numbers: none behind this one is on the page.
    last: Option<SessionId>,
}

impl Selection {
    pub(crate) fn new(query: SessionQuery) -> Self {
        Self { query, sessions: Vec::new(), last: None }
    }

    pub(crate) fn filter(&self) -> &SessionFilter {
        &self.query.filter
    }

    /// Returns true if this session may be on the page, as far as that can be known by its number.
    pub(crate) fn wants(&self, id: SessionId) -> bool {
        self.last.is_none_or(|last| id < last)
    }

    pub(crate) fn add(&mut self, session: SessionInfo) {
        let most = self.query.most();
        if most == 0 {
            return;
        }
        self.sessions.push(session);
        if self.sessions.len() >= most.saturating_mul(2).max(64) {
            self.cut(most);
        }
    }

    fn cut(&mut self, most: usize) {
        if self.sessions.len() <= most {
            return;
        }
        let query = &self.query;
        let (_, last, _) = self.sessions.select_nth_unstable_by(most - 1, |a, b| query.compare(a, b));
        if query.order == SessionOrder::Id {
            self.last = Some(last.id);
        }
        self.sessions.truncate(most);
    }

    /// Returns those that may be on the page, in no order.
    pub(crate) fn finish(mut self) -> Vec<SessionInfo> {
        self.cut(self.query.most());
        self.sessions
    }
}

/// The answer to a [`SessionQuery`]. Workers look at their sessions one part after the other, with turns of the sessions in
/// between: a session that lives all the while is found once, one that comes or goes meanwhile may be found or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SessionPage {
    /// The sessions on the page.
    pub sessions: Vec<SessionInfo>,
    /// Number of sessions that match the filter, on all pages, those before the page included.
    pub total: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a model that sorts all of them.
        #[test]
        fn a_selection_has_what_may_be_on_the_page_whatever_order_they_come_in(
            lines in prop::collection::vec((any::<u16>(), 0_u64..9), 0..500),
            by_lines in any::<bool>(),
            offset in 0_usize..60,
            limit in 0_usize..60,
        ) {
            let session = |lines_in| SessionInfo {
                id: SessionId::next(),
                peer: Address::Memory,
                listener: None,
                worker: 0,
                age: Duration::ZERO,
                idle: Duration::ZERO,
                lines_in,
                bytes_in: 0,
                bytes_out: 0,
                outbox_bytes: 0,
                state: SessionState::Open,
                name: None,
                tags: Vec::new(),
            };
            let mut all: Vec<_> = lines.iter().map(|(place, lines)| (place, session(*lines))).collect();
            let mut model: Vec<_> = all.iter().map(|(_, session)| session.clone()).collect();
            model.sort_by_key(|session| (if by_lines { u64::MAX - session.lines_in } else { 0 }, session.id));
            let model: Vec<_> = model.into_iter().skip(offset).take(limit).collect();
            all.sort_by_key(|(place, _)| **place);
            let order = if by_lines { SessionOrder::Lines } else { SessionOrder::Id };
            let query = SessionQuery::default().order(order).offset(offset).limit(limit);
            let mut selection = Selection::new(query.clone());
            for (_, session) in all {
                if selection.wants(session.id) {
                    selection.add(session);
                }
                prop_assert!(selection.sessions.len() < (2 * (offset + limit)).max(64));
            }
            let mut page = selection.finish();
            query.cut_to_page(&mut page);
            prop_assert_eq!(page, model);
        }
    }
}
