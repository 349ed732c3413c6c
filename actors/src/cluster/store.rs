//! Store: what a cluster asks of the engine that its nodes share, and the types of questions and answers.
//!
//! Soft state: an engine may forget all of it at any time, and nodes write it again. A row or a share of a node whose lease is
//! over does not exist for any reader.
//! Not here: engines (`memory`, `redis`), who asks them.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::cluster::id::NodeId;

/// What a call of a [`Store`] returns: a future of its answer.
pub type StoreAnswer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// An engine that the nodes of a cluster share.
///
/// Rules for all calls:
///
/// - The engine bounds the time of each; then it returns [`StoreError::Slow`]. One that begins a life with thousands of
///   [shares](Begin::shares) may take several times as long, but not longer than its lease.
/// - A call is done as a whole or not at all, in some order with those of other nodes. After [`StoreError::Lost`] and
///   [`StoreError::Slow`] the caller does not know whether it was done, or will be. Only the rows of a [`Change`] may be written
///   in parts, after its lease; a life that begins with them is [partial](Change::is_partial) until the last one is written.
/// - A node exists from the call that begins its life until its lease is over, by one clock: that of the store. Afterwards
///   nobody finds it, its rows or its shares, whether or not the engine has removed them.
/// - Names of sessions, resources and channels are any texts.
///
/// The structs of questions and answers are not `#[non_exhaustive]`, since engines and their tests make them. A field that is added
/// is a change that breaks, and the version says so. An engine that names the fields that it knows, makes the others with
/// `..Default::default()` where there is one, and matches with `..` has little to change then; a field that it does not know has a
/// default that means what was there before.
///
/// Every engine passes the same tests: `actors/tests/cluster_stores` in the sources of this library, where another one is a line
/// more.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Begins the life of a node, or renews its lease; then writes and removes rows of it.
    ///
    /// A caller that does not know whether a life has begun begins another, with another incarnation: the call may still
    /// arrive.
    ///
    /// # Errors
    /// Returns [`StoreError::Fenced`], and writes nothing, if the change begins no life and the lease is over.
    fn register<'a>(&'a self, node: &'a NodeId, change: &'a Change) -> StoreAnswer<'a, ()>;

    /// Ends the life of a node: its lease, its rows and its shares are gone at once. Does nothing if there is none.
    fn unregister<'a>(&'a self, node: &'a NodeId) -> StoreAnswer<'a, ()>;

    /// Returns the nodes whose leases are not over, in the order of their ids.
    fn nodes(&self) -> StoreAnswer<'_, Vec<NodeRecord>>;

    /// Returns a page of a node's rows, some hundreds or thousands: the first page for `None`, otherwise the one at `after`,
    /// which is the [`RowPage::next`] of the page before. A row that is there from the first call to the last is on at least
    /// one page; it may be on two. A node whose lease is over has no rows.
    fn list<'a>(&'a self, node: &'a NodeId, after: Option<Cursor>) -> StoreAnswer<'a, RowPage>;

    /// Returns the rows of all nodes that have this name, and the nodes of which there may be more.
    fn lookup<'a>(&'a self, name: &'a str) -> StoreAnswer<'a, NamedRows>;

    /// Sends bytes to all subscribers of a channel. Returns the number of subscribers; whether the bytes reach them is unknown.
    fn publish<'a>(&'a self, channel: &'a str, bytes: Bytes) -> StoreAnswer<'a, u64>;

    /// Opens a subscription, which has no channels yet. Its messages go to `to`; the engine never waits there, and drops those
    /// that `to` has no room for. When the subscription is lost, the engine drops `to`.
    fn subscribe(&self, to: mpsc::Sender<Message>) -> StoreAnswer<'_, Box<dyn Subscription>>;

    /// Sets what the node holds of some resources, then decides on wants, one after the other: each is granted as a whole, and
    /// what it takes is added to what the node holds, or not at all. Returns a verdict for each want.
    ///
    /// # Errors
    /// Returns [`StoreError::Fenced`] if the node's lease is over, and [`StoreError::Late`] if a call of this life with the same
    /// or a greater [`Held::serial`] was done before; then nothing is set or taken.
    fn acquire<'a>(&'a self, node: &'a NodeId, held: &'a Held, wants: &'a [Want]) -> StoreAnswer<'a, Vec<Verdict>>;

    /// Sets what the node holds of some resources.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    fn release<'a>(&'a self, node: &'a NodeId, held: &'a Held) -> StoreAnswer<'a, ()> {
        Box::pin(async move { self.acquire(node, held, &[]).await.map(drop) })
    }

    /// Returns the number of entries that were not understood, one for each time that one was met: they are of another program, or of a
    /// later version of this one. An answer comes without them. Default: 0, of an engine that only these nodes write to.
    fn unknown(&self) -> u64 {
        0
    }
}

/// A store that others have, too, or one of an engine that is chosen at run time: `Arc<dyn Store>`.
impl<S: Store + ?Sized> Store for Arc<S> {
    fn register<'a>(&'a self, node: &'a NodeId, change: &'a Change) -> StoreAnswer<'a, ()> {
        (**self).register(node, change)
    }

    fn unregister<'a>(&'a self, node: &'a NodeId) -> StoreAnswer<'a, ()> {
        (**self).unregister(node)
    }

    fn nodes(&self) -> StoreAnswer<'_, Vec<NodeRecord>> {
        (**self).nodes()
    }

    fn list<'a>(&'a self, node: &'a NodeId, after: Option<Cursor>) -> StoreAnswer<'a, RowPage> {
        (**self).list(node, after)
    }

    fn lookup<'a>(&'a self, name: &'a str) -> StoreAnswer<'a, NamedRows> {
        (**self).lookup(name)
    }

    fn publish<'a>(&'a self, channel: &'a str, bytes: Bytes) -> StoreAnswer<'a, u64> {
        (**self).publish(channel, bytes)
    }

    fn subscribe(&self, to: mpsc::Sender<Message>) -> StoreAnswer<'_, Box<dyn Subscription>> {
        (**self).subscribe(to)
    }

    fn acquire<'a>(&'a self, node: &'a NodeId, held: &'a Held, wants: &'a [Want]) -> StoreAnswer<'a, Vec<Verdict>> {
        (**self).acquire(node, held, wants)
    }

    fn release<'a>(&'a self, node: &'a NodeId, held: &'a Held) -> StoreAnswer<'a, ()> {
        (**self).release(node, held)
    }

    fn unknown(&self) -> u64 {
        (**self).unknown()
    }
}

/// A subscription to channels of a store. It ends when it is dropped.
pub trait Subscription: fmt::Debug + Send {
    /// Adds channels. What is published after this call has ended arrives.
    fn add<'a>(&'a mut self, channels: &'a [String]) -> StoreAnswer<'a, ()>;

    /// Removes channels.
    fn remove<'a>(&'a mut self, channels: &'a [String]) -> StoreAnswer<'a, ()>;

    /// Returns the number of messages that were lost because their receiver had no room. Default: 0, for an engine that
    /// does not count them.
    fn dropped(&self) -> u64 {
        0
    }
}

/// Something published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The channel.
    pub channel: Arc<str>,
    /// The bytes.
    pub bytes: Bytes,
}

/// A change of what the store has of a node.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// What a new life begins with; `None` renews the lease of the life that there is. Whatever the store has under the same id
    /// is removed first.
    pub begins: Option<Begin>,
    /// Time until the lease is over, from when the store does the call, by its clock.
    pub lease: Duration,
    /// Rows to be written: new ones, and others in place of those of the same sessions.
    pub put: Vec<Row>,
    /// Numbers of the sessions whose rows are to be removed.
    pub remove: Vec<u64>,
    /// From this change on live sessions lack their rows, or, with false, none does; `None` leaves it as it was. A life begins with all
    /// of them. Readers are told.
    pub is_partial: Option<bool>,
}

/// What a life of a node begins with.
#[derive(Clone, Debug, Default)]
pub struct Begin {
    /// Text that lists of nodes show beside the name: [`ClusterBuilder::about`](crate::cluster::ClusterBuilder::about).
    pub about: String,
    /// What the sessions that it has already hold.
    pub shares: Vec<Share>,
}

/// A node whose lease is not over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its life.
    pub id: NodeId,
    /// [`Begin::about`].
    pub about: String,
    /// Number of its rows.
    pub sessions: u64,
    /// Time until its lease is over.
    pub lease_left: Duration,
}

/// A session in the store: what does not change while it is idle. Its JSON has keys of one letter, since a store holds many.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The session's number on its node.
    #[serde(rename = "i")]
    pub session: u64,
    /// The peer's address, as text.
    #[serde(rename = "p")]
    pub peer: String,
    /// The listener's name, or its number if it has none.
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// When it was admitted, by the clock of its node. Unit: milliseconds since 1970.
    #[serde(rename = "o")]
    pub opened: u64,
    /// Its [name](crate::LineContext::set_name).
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its [tags](crate::LineContext::add_tag).
    #[serde(rename = "t", default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// A place in the rows of a node. Only the engine that made it knows what the number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor(pub u64);

/// Some rows of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowPage {
    /// The rows.
    pub rows: Vec<Row>,
    /// Not all live sessions of the node have rows: its last [`Change::is_partial`] says so.
    pub is_partial: bool,
    /// Number of rows that are left out of the page, since they are [not understood](Store::unknown).
    pub unknown: u64,
    /// Place of the next page; `None` on the last one.
    pub next: Option<Cursor>,
}

/// The rows with a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedRows {
    /// The rows, each with its node.
    pub rows: Vec<(NodeId, Row)>,
    /// Nodes of which not all live sessions have rows, by the last [`Change::is_partial`] of each: others of them may have the name.
    pub partial: Vec<NodeId>,
    /// Nodes of which rows with the name are left out, since they are [not understood](Store::unknown), and the number of them.
    pub unknown: Vec<(NodeId, u64)>,
}

/// A number of units of a resource: of all sessions, of the sessions of a source, of a name that only one session may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The resource.
    pub resource: String,
    /// Number of units.
    pub count: u64,
}

/// What a node holds of some resources, by its own count, which is the truth. So a call whose answer was lost does no harm: the
/// next one tells the counts again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Number of the call, from 1, and greater with each call of a life. The store does nothing for a call whose number is not
    /// greater than that of the last one that it has done: it has waited in a connection that its node has given up.
    pub serial: u64,
    /// Counts, not differences; each resource once at most. A count of 0 removes the resource. Those that are not named stay as
    /// they are.
    pub counts: Vec<Share>,
}

/// Asks for one unit of each of some resources. It is granted if none of them is exhausted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// Resources that the node holds until it [tells](Held) a lower count.
    pub counts: Vec<CountLimit>,
    /// Resources that are spent, and come back with time.
    pub rates: Vec<RateLimit>,
}

/// One unit of a resource, if all live nodes together hold fewer than `most`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountLimit {
    /// The resource.
    pub resource: String,
    /// Most units that all nodes may hold together.
    pub most: u64,
}

/// One token of a bucket that all nodes share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// The bucket.
    pub resource: String,
    /// Tokens that come each second. Not 0.
    pub per_second: u32,
    /// Most tokens in the bucket. Not 0.
    pub burst: u32,
}

/// The answer to a [`Want`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was granted: one unit of each resource was taken.
    Granted,
    /// It was refused: [`Want::counts`] at this index is exhausted.
    Count(usize),
    /// It was refused: [`Want::rates`] at this index is exhausted.
    Rate(usize),
}

/// A call to a store failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no connection to it.
    #[error("the store is not reached: {reason}")]
    Lost {
        /// What failed.
        reason: String,
    },
    /// It did not answer in time.
    #[error("the store did not answer within {after:?}")]
    Slow {
        /// The time.
        after: Duration,
    },
    /// The lease of the node that asks is over.
    #[error("the lease of this node is over: it begins another life")]
    Fenced,
    /// A later call of this node was done already.
    #[error("a later call of this node has overtaken this one: nothing was done")]
    Late,
    /// It refuses the call, because of a wrong password, a missing permission or a lack of memory, for instance.
    #[error("the store refuses: {reason}")]
    Refused {
        /// Its answer, with advice.
        reason: String,
    },
    /// Its whole answer makes no sense: another program, or another version of this one, uses the same keys.
    #[error("the store answers {what}: use a prefix of keys of your own")]
    Garbled {
        /// What was answered.
        what: String,
    },
}
