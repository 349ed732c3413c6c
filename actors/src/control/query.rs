//! Which sessions a question is about, in what order, and how many of them: the words of live control.
//!
//! Pure: nothing here knows where sessions are.
//! Not here: asking them (`supervisor`), answering (`worker`).

use std::{cmp::Ordering, time::Duration};

use crate::{
    address::Address,
    connection::{ListenerId, SessionId},
    source::Prefix,
};

/// What is known of a live session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionInfo {
    /// The session's number.
    pub id: SessionId,
    /// The peer's address.
    pub peer: Address,
    /// The listener that it came in by.
    pub listener: Option<ListenerId>,
    /// The worker that runs it, from 0.
    pub worker: usize,
    /// Since its admission.
    pub age: Duration,
    /// Since its last line, or since the one that it has begun was begun; within half a second. It stands still while
    /// the session is [held](SessionState::Held).
    pub idle: Duration,
    /// Lines given to its handler.
    pub lines_in: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes that the kernel took.
    pub bytes_out: u64,
    /// Bytes that the kernel has yet to take.
    pub outbox_bytes: usize,
    /// What it does.
    pub state: SessionState,
}

/// What a session does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SessionState {
    /// It waits for its peer's lines.
    Open,
    /// It waits for a future, is paused, is above its high watermark, or its peer's bytes have ended.
    Held,
    /// It reads no more, and answers what it has read.
    Draining,
    /// Its handler has nothing more to say: it flushes or lingers.
    Closing,
}

/// Which sessions: those that all of it holds for. The default is every session.
///
/// ```
/// use std::time::Duration;
/// use actix_lines::SessionFilter;
///
/// let stale = SessionFilter::default().idle_at_least(Duration::from_secs(60));
/// let of_a_network = SessionFilter::source("192.0.2.0/24".parse()?).idle_at_least(Duration::from_secs(60));
/// # let _ = (stale, of_a_network);
/// # Ok::<(), actix_lines::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionFilter {
    /// This one only.
    pub id: Option<SessionId>,
    /// With a peer in this network.
    pub source: Option<Prefix>,
    /// That came in by this listener.
    pub listener: Option<ListenerId>,
    /// In this state.
    pub state: Option<SessionState>,
    /// At least so old.
    pub age_at_least: Duration,
    /// For at least so long without a line.
    pub idle_at_least: Duration,
    /// With at least so many bytes in the outbox.
    pub outbox_at_least: usize,
}

impl SessionFilter {
    /// This session.
    #[must_use]
    pub fn id(id: SessionId) -> Self {
        Self { id: Some(id), ..Self::default() }
    }

    /// The sessions whose peers are in `prefix`.
    #[must_use]
    pub fn source(prefix: Prefix) -> Self {
        Self { source: Some(prefix), ..Self::default() }
    }

    /// And that came in by this listener.
    #[must_use]
    pub fn listener(mut self, listener: ListenerId) -> Self {
        self.listener = Some(listener);
        self
    }

    /// And in this state.
    #[must_use]
    pub fn state(mut self, state: SessionState) -> Self {
        self.state = Some(state);
        self
    }

    /// And at least so old.
    #[must_use]
    pub fn age_at_least(mut self, age: Duration) -> Self {
        self.age_at_least = age;
        self
    }

    /// And for at least so long without a line.
    #[must_use]
    pub fn idle_at_least(mut self, idle: Duration) -> Self {
        self.idle_at_least = idle;
        self
    }

    /// And with at least so many bytes in the outbox.
    #[must_use]
    pub fn outbox_at_least(mut self, bytes: usize) -> Self {
        self.outbox_at_least = bytes;
        self
    }

    pub(crate) fn has(&self, session: &SessionInfo) -> bool {
        self.id.is_none_or(|id| id == session.id)
            && self.source.is_none_or(|prefix| session.peer.ip().is_some_and(|peer| prefix.contains(peer)))
            && self.listener.is_none_or(|listener| session.listener == Some(listener))
            && self.state.is_none_or(|state| state == session.state)
            && session.age >= self.age_at_least
            && session.idle >= self.idle_at_least
            && session.outbox_bytes >= self.outbox_at_least
    }
}

/// In what order sessions are listed. Equal ones are in the order of their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionOrder {
    /// The order of admission. The default.
    #[default]
    Id,
    /// The longest without a line first.
    Idle,
    /// The most bytes in the outbox first.
    Outbox,
    /// The most bytes read first.
    BytesIn,
    /// The most bytes sent first.
    BytesOut,
    /// The most lines first.
    Lines,
}

/// A question for a page of sessions. A [`SessionFilter`] is one for the first page.
///
/// ```
/// use actix_lines::{SessionFilter, SessionOrder, SessionQuery};
///
/// let largest = SessionQuery::from(SessionFilter::default()).order(SessionOrder::Outbox).limit(10);
/// # let _ = largest;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionQuery {
    /// Which. Default: all.
    pub filter: SessionFilter,
    /// In what order. Default: that of their numbers.
    pub order: SessionOrder,
    /// How many are left out before the page. Default: 0.
    pub offset: usize,
    /// How many there are on it, at most [`MAX_PAGE`](Self::MAX_PAGE). Default: 1000.
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
    /// The most sessions on one page.
    pub const MAX_PAGE: usize = 10_000;

    /// Sets in what order.
    #[must_use]
    pub fn order(mut self, order: SessionOrder) -> Self {
        self.order = order;
        self
    }

    /// Sets how many are left out before the page.
    #[must_use]
    pub fn offset(mut self, sessions: usize) -> Self {
        self.offset = sessions;
        self
    }

    /// Sets how many there are on the page.
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

    /// Sorts, and leaves only what may be on the page when the first `skip` are none of it.
    ///
    /// One of several workers cannot know how many of its sessions come before the page, so it skips none.
    pub(crate) fn cut_to_page(&self, sessions: &mut Vec<SessionInfo>, skip: usize) {
        sessions.sort_unstable_by(|a, b| self.compare(a, b));
        sessions.truncate(self.offset.saturating_add(self.limit.min(Self::MAX_PAGE)));
        sessions.drain(..skip.min(sessions.len()));
    }
}

/// An answer to a [`SessionQuery`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionPage {
    /// The sessions on the page.
    pub sessions: Vec<SessionInfo>,
    /// How many the filter lets through, on all pages.
    pub total: u64,
}
