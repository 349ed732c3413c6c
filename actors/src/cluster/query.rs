//! Query: which sessions of a cluster are meant, in which order they are listed, and a page of them.
//!
//! Pure: nothing here knows where sessions are.
//! Not here: reading rows (`list`), asking nodes (`ask`).

use std::{
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;

use crate::{
    address::{Address, Credentials, UnixAddress},
    cluster::{
        id::{GlobalId, NodeId, NodeName},
        store::{Row, StoreError},
    },
    control::query::SessionState,
    plural::Counted,
    source::Peers,
};

/// Selects the sessions of a cluster that match all of its conditions. The default selects every session of every node.
///
/// It is another type than [`SessionFilter`](crate::control::SessionFilter), since that one's numbers of sessions and listeners
/// are those of one server, while the ids and names here mean the same on every node.
///
/// ```
/// use actix_lines::cluster::ClusterFilter;
///
/// let staff = ClusterFilter::default().tag("staff").source("192.0.2.0/24".parse()?);
/// let one = ClusterFilter::id("a.1f3a5c7d.17".parse().unwrap());
/// # let _ = (staff, one);
/// # Ok::<(), actix_lines::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterFilter {
    /// Only sessions of the node with this name.
    pub node: Option<NodeName>,
    /// Only this session.
    pub id: Option<GlobalId>,
    /// Only sessions with this name.
    pub name: Option<Arc<str>>,
    /// Only sessions with this tag.
    pub tag: Option<Arc<str>>,
    /// Only sessions with one of these peers.
    pub source: Option<Peers>,
    /// Only sessions of the listeners with this name, or with this number where listeners have no name.
    pub listener: Option<Arc<str>>,
    /// Only sessions of at least this age. In a list it is the difference of two clocks, that of the session's node and that of the
    /// node that lists.
    pub age_at_least: Duration,
    /// Only sessions in this state. Not for lists.
    pub state: Option<SessionState>,
    /// Only sessions without a line for at least this time. Not for lists.
    pub idle_at_least: Duration,
    /// Only sessions with at least this many bytes in the outbox. Not for lists.
    pub outbox_at_least: usize,
}

impl ClusterFilter {
    /// Selects one session.
    #[must_use]
    pub fn id(id: GlobalId) -> Self {
        Self { id: Some(id), ..Self::default() }
    }

    /// Adds the condition that the session has this [name](crate::LineContext::set_name).
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Adds the condition that the session is one of the node with this name.
    #[must_use]
    pub fn node(mut self, node: NodeName) -> Self {
        self.node = Some(node);
        self
    }

    /// Adds the condition that the session has this tag.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<Arc<str>>) -> Self {
        self.tag = Some(tag.into());
        self
    }

    /// Adds the condition that the session has one of these peers.
    #[must_use]
    pub fn source(mut self, peers: Peers) -> Self {
        self.source = Some(peers);
        self
    }

    /// Adds the condition that the session came by a listener with this name, or with this number if the listener has no name.
    #[must_use]
    pub fn listener(mut self, listener: impl Into<Arc<str>>) -> Self {
        self.listener = Some(listener.into());
        self
    }

    /// Adds the condition that the session has at least this age.
    #[must_use]
    pub fn age_at_least(mut self, time: Duration) -> Self {
        self.age_at_least = time;
        self
    }

    /// Adds the condition that the session is in this state. Not for lists: the store does not know it.
    #[must_use]
    pub fn state(mut self, state: SessionState) -> Self {
        self.state = Some(state);
        self
    }

    /// Adds the condition that the session was without a line for at least this time. Not for lists: the store does not know it.
    #[must_use]
    pub fn idle_at_least(mut self, time: Duration) -> Self {
        self.idle_at_least = time;
        self
    }

    /// Adds the condition that the session has at least this many bytes in the outbox. Not for lists: the store does not know it.
    #[must_use]
    pub fn outbox_at_least(mut self, bytes: usize) -> Self {
        self.outbox_at_least = bytes;
        self
    }

    /// Returns the name of a condition that only a session's own node can decide.
    fn not_in_store(&self) -> Option<&'static str> {
        let conditions = [
            (self.state.is_some(), "state"),
            (!self.idle_at_least.is_zero(), "idle"),
            (self.outbox_at_least > 0, "outbox"),
        ];
        conditions.into_iter().find_map(|(is_there, name)| is_there.then_some(name))
    }

    /// Returns true if it may select sessions of this node.
    pub(crate) fn has_node(&self, node: &NodeId) -> bool {
        self.node.as_ref().is_none_or(|name| *name == node.name) && self.id.as_ref().is_none_or(|id| id.node == *node)
    }

    /// Returns true if it selects the session with this row, `now` milliseconds after the beginning of 1970.
    pub(crate) fn has(&self, node: &NodeId, row: &Row, now: u64) -> bool {
        self.has_node(node)
            && self.id.as_ref().is_none_or(|id| id.session.get() == row.session)
            && self.name.as_deref().is_none_or(|name| row.name.as_deref() == Some(name))
            && self.listener.as_deref().is_none_or(|listener| row.listener.as_deref() == Some(listener))
            && self.tag.as_deref().is_none_or(|tag| row.tags.iter().any(|of_row| of_row == tag))
            && age(row, now) >= self.age_at_least
            && self.source.is_none_or(|peers| peers.contains(&peer(&row.peer)))
    }
}

impl From<GlobalId> for ClusterFilter {
    fn from(id: GlobalId) -> Self {
        Self::id(id)
    }
}

fn age(row: &Row, now: u64) -> Duration {
    Duration::from_millis(now.saturating_sub(row.opened))
}

/// Returns the address that is written so.
fn peer(text: &str) -> Address {
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return address.into();
    }
    if !text.starts_with("unix") {
        return Address::Memory;
    }
    // A peer chooses its path, but what stands behind it is the kernel's.
    let credentials = text.strip_suffix(')').and_then(|text| text.rsplit_once(" (")).and_then(|(_, parts)| {
        let part = |key| parts.split(", ").find_map(|part| part.strip_prefix(key)?.parse().ok());
        Some(Credentials { pid: part("pid "), uid: part("uid ")?, gid: part("gid ")? })
    });
    credentials.map_or_else(|| UnixAddress::at(text), UnixAddress::of).into()
}

/// Order of a list over nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClusterOrder {
    /// By node, and there by number. The default.
    #[default]
    Id,
    /// The oldest first, by the clocks of their nodes.
    Age,
}

/// Asks for a page of the sessions of all nodes. A [`ClusterFilter`] becomes one for the first page.
///
/// It is another type than [`SessionQuery`](crate::control::SessionQuery), since most of that one's orders are of counters and
/// times that change with each line, which nobody writes to a store.
///
/// ```
/// use actix_lines::cluster::{ClusterFilter, ClusterOrder, ClusterQuery};
///
/// let oldest = ClusterQuery::from(ClusterFilter::default().listener("public")).order(ClusterOrder::Age).limit(10);
/// # let _ = oldest;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterQuery {
    /// The sessions to list. Default: all.
    pub filter: ClusterFilter,
    /// Their order. Default: by id.
    pub order: ClusterOrder,
    /// Number of sessions left out before the page. Default: 0.
    pub offset: usize,
    /// Most sessions on the page, up to [`MAX_PAGE`](Self::MAX_PAGE). Default: 1000.
    pub limit: usize,
}

impl Default for ClusterQuery {
    fn default() -> Self {
        Self { filter: ClusterFilter::default(), order: ClusterOrder::default(), offset: 0, limit: 1000 }
    }
}

impl From<ClusterFilter> for ClusterQuery {
    fn from(filter: ClusterFilter) -> Self {
        Self { filter, ..Self::default() }
    }
}

impl ClusterQuery {
    /// Most sessions on one page.
    pub const MAX_PAGE: usize = 10_000;

    /// Sets the order. Default: by id.
    #[must_use]
    pub fn order(mut self, order: ClusterOrder) -> Self {
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

    /// Checks that rows have all that the filter asks for.
    ///
    /// # Errors
    /// Returns [`ListError::NotInStore`] for the first condition that they do not.
    pub(crate) fn check(&self) -> Result<(), ListError> {
        self.filter.not_in_store().map_or(Ok(()), |condition| Err(ListError::NotInStore { condition }))
    }
}

/// A session of a cluster, as it stands in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClusterSession {
    /// Its id.
    pub id: GlobalId,
    /// The peer's address, as text.
    pub peer: String,
    /// The name of the listener that accepted it; without one its number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// When it was admitted, by the clock of its node. Unit: milliseconds since 1970.
    pub opened: u64,
    /// Time since its admission, by the clock of the node that lists.
    #[serde(serialize_with = "crate::seconds::serialize")]
    pub age: Duration,
    /// Its [name](crate::LineContext::set_name).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its [tags](crate::LineContext::add_tag).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

impl ClusterSession {
    pub(crate) fn new(node: NodeId, row: Row, now: u64) -> Self {
        let age = age(&row, now);
        let Row { session, peer, listener, opened, name, tags } = row;
        Self {
            id: GlobalId { node, session: crate::connection::SessionId::of(session) },
            peer,
            listener,
            opened,
            age,
            name,
            tags,
        }
    }
}

/// The answer to a [`ClusterQuery`] or a [look-up](crate::cluster::Cluster::lookup), from the store. A session that has just begun, ended or been named may be missing, still be
/// there or have its old name: nodes write at most 20 times a second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClusterPage {
    /// The sessions on the page.
    pub sessions: Vec<ClusterSession>,
    /// Number of sessions that match the filter, on all pages, those before the page included.
    pub total: u64,
    /// Nodes whose sessions could not be read, or not all of them. If there are any, the page and the total are incomplete.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<Unread>,
}

/// A node whose sessions could not be read, or not all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Unread {
    /// The node.
    pub node: NodeId,
    /// The reason.
    #[serde(serialize_with = "as_text")]
    pub error: UnreadError,
}

/// Why sessions of a node are missing from a list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnreadError {
    /// The store did not answer, or not with rows. Those before that are listed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node has not written the rows of all its sessions yet: a life of it has begun, or it has lost count of them. Those that are
    /// there are listed.
    #[error("the node is still writing its sessions to the store: ask again in a moment")]
    Partial,
    /// Some rows are not understood. All others are listed.
    #[error(
        "{}: another program uses the same keys, or a later version of this one",
        IsNotUnderstood(*rows)
    )]
    Unknown {
        /// Number of them. One that changes while the list is read may count twice.
        rows: u64,
    },
}

struct IsNotUnderstood(u64);

impl std::fmt::Display for IsNotUnderstood {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} not understood", Counted(self.0, "row"), if self.0 == 1 { "is" } else { "are" })
    }
}

pub(crate) fn as_text<S: serde::Serializer>(text: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(text)
}

/// Sessions could not be listed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// The store did not return the nodes, or the sessions with the name.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A condition is about something that is not in the store, since it changes too often.
    #[error(
        "a list over nodes does not know {condition}: it changes too often to be in the store. Ask the node itself, or push and kick by it"
    )]
    NotInStore {
        /// The condition.
        condition: &'static str,
    },
}

/// The sessions on a page, out of many that are looked at one by one. It never holds more than those before it and on it.
#[derive(Debug)]
pub(crate) struct Selection<'a> {
    query: &'a ClusterQuery,
    most: usize,
    /// The last one of the page first.
    best: BinaryHeap<Entry>,
    total: u64,
    now: u64,
}

#[derive(Debug)]
struct Entry {
    opened: u64,
    node: NodeId,
    row: Row,
}

impl Entry {
    fn key(&self) -> (u64, &NodeId, u64) {
        (self.opened, &self.node, self.row.session)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl<'a> Selection<'a> {
    /// Makes one at this time: milliseconds since 1970.
    pub(crate) fn new(query: &'a ClusterQuery, now: u64) -> Self {
        let most = query.offset.saturating_add(query.limit.min(ClusterQuery::MAX_PAGE));
        Self { query, most, best: BinaryHeap::new(), total: 0, now }
    }

    /// Looks at some rows of a node, of which `seen` has those that were looked at before.
    pub(crate) fn add(&mut self, node: &NodeId, rows: Vec<Row>, seen: &mut Seen) {
        for row in rows {
            if !self.query.filter.has(node, &row, self.now) || !seen.insert(row.session) {
                continue;
            }
            self.total += 1;
            let opened = match self.query.order {
                ClusterOrder::Id => 0,
                ClusterOrder::Age => row.opened,
            };
            let is_full = self.best.len() >= self.most;
            if is_full && self.best.peek().is_none_or(|last| last.key() < (opened, node, row.session)) {
                continue;
            }
            if is_full {
                self.best.pop();
            }
            self.best.push(Entry { opened, node: node.clone(), row });
        }
    }

    /// Returns the page.
    pub(crate) fn finish(self) -> ClusterPage {
        let entries = self.best.into_sorted_vec().into_iter().skip(self.query.offset);
        let sessions = entries.map(|entry| ClusterSession::new(entry.node, entry.row, self.now)).collect();
        ClusterPage { sessions, total: self.total, unread: Vec::new() }
    }
}

/// Sessions of one node that were looked at: a store may return a row twice. A bit for each, since their numbers follow one another.
#[derive(Debug, Default)]
pub(crate) struct Seen(HashMap<u64, u64>);

impl Seen {
    /// Adds one. Returns false if it is there.
    fn insert(&mut self, session: u64) -> bool {
        let (bits, bit) = (self.0.entry(session / 64).or_default(), 1 << (session % 64));
        let is_new = *bits & bit == 0;
        *bits |= bit;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(session: u64, opened: u64) -> Row {
        Row { session, opened, peer: "192.0.2.7:1024".to_owned(), ..Row::default() }
    }

    #[test]
    fn a_peer_is_found_by_its_address_whatever_path_it_chooses() {
        let peers = |text: &str| text.parse::<Peers>().unwrap();
        for (text, is_in, is_not_in) in [
            ("192.0.2.7:1024", "192.0.2.0/24", "unix"),
            ("[2001:db8::7]:1024", "2001:db8::/32", "192.0.2.0/24"),
            ("unix (pid 12, uid 1000, gid 100)", "uid:1000", "uid:100"),
            ("unix (uid 1000, gid 100)", "gid:100", "gid:1000"),
            ("unix:/tmp/x (uid 0, gid 0) (pid 1, uid 1000, gid 100)", "uid:1000", "uid:0"),
            ("unix:/run/lines.sock", "unix", "uid:0"),
            ("unix", "unix", "0.0.0.0/0"),
        ] {
            assert!(peers(is_in).contains(&peer(text)), "{text} in {is_in}");
            assert!(!peers(is_not_in).contains(&peer(text)), "{text} not in {is_not_in}");
        }
        assert!(!peers("unix").contains(&peer("memory")) && !peers("::/0").contains(&peer("memory")));
    }

    #[test]
    fn a_list_by_what_rows_do_not_know_is_an_error_that_names_it() {
        let all = ClusterFilter::default;
        for (filter, name) in [
            (all().state(SessionState::Held), "state"),
            (all().idle_at_least(Duration::from_secs(1)), "idle"),
            (all().outbox_at_least(1), "outbox"),
        ] {
            let error = ClusterQuery::from(filter).check().unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
        ClusterQuery::from(all().age_at_least(Duration::from_secs(1)).tag("x").listener("y")).check().unwrap();
    }

    proptest! {
        /// Against a model that sorts all of them.
        #[test]
        fn a_selection_has_the_page_whatever_order_rows_come_in_and_however_often(
            rows in prop::collection::vec((0_u32..3, 0_u64..200, 0_u64..9), 0..300),
            by_age in any::<bool>(),
            offset in 0_usize..60,
            limit in 0_usize..60,
        ) {
            let node = |nth| NodeId { name: "a".parse().unwrap(), incarnation: nth };
            let order = if by_age { ClusterOrder::Age } else { ClusterOrder::Id };
            let query = ClusterQuery::default().order(order).offset(offset).limit(limit);
            let mut model: Vec<_> = rows.iter().map(|(nth, session, _)| (*nth, *session)).collect();
            model.sort_unstable();
            model.dedup();
            // A session is as old as it is.
            let opened = |nth: u32, session: u64| (u64::from(nth) + session * 7) % 5;
            let total = model.len() as u64;
            model.sort_by_key(|(nth, session)| (if by_age { opened(*nth, *session) } else { 0 }, *nth, *session));
            let model: Vec<_> = model.into_iter().skip(offset).take(limit).collect();

            let mut selection = Selection::new(&query, 10);
            let mut seen: [Seen; 3] = Default::default();
            for (nth, session, _) in rows {
                let row = row(session, opened(nth, session));
                selection.add(&node(nth), vec![row], &mut seen[nth as usize]);
                prop_assert!(selection.best.len() <= offset + limit);
            }
            let page = selection.finish();
            let found: Vec<_> =
                page.sessions.iter().map(|session| (session.id.node.incarnation, session.id.session.get())).collect();
            prop_assert_eq!((found, page.total), (model, total));
        }
    }
}
