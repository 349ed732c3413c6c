//! Store: what a cluster asks of the engine that its nodes share, and the words that both speak.
//!
//! Soft state: an engine may forget all of it at any time, and nodes write it again. A row, a share or a subscription of a
//! node whose lease is over does not exist for any reader.
//! Not here: engines (`memory`, `redis`), who asks them.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::cluster::id::NodeId;

/// The answer of a store, on its way.
pub type StoreAnswer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// An engine that the nodes of a cluster share. Each call is one round trip at most, is bounded in time by the engine, and
/// either happens as a whole or not at all; after [`StoreError::Lost`] and [`StoreError::Slow`] it is unknown which. Only the rows of
/// a [`Change`] may be written in parts, behind its lease.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Begins the life of a node, or renews its lease, and writes rows beneath it. After a call that begins a life and of which
    /// it is unknown whether it was done, another incarnation is to begin: the first call may yet arrive.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if the change does not begin a life and its lease is over; then nothing is written.
    fn register<'a>(&'a self, node: &'a NodeId, change: &'a Change) -> StoreAnswer<'a, ()>;

    /// Ends the life of a node: its lease, its rows and its shares are gone at once.
    fn unregister<'a>(&'a self, node: &'a NodeId) -> StoreAnswer<'a, ()>;

    /// Returns the nodes whose leases are not over, in the order of their ids.
    fn nodes(&self) -> StoreAnswer<'_, Vec<NodeRecord>>;

    /// Returns the rows of a node, some hundreds or thousands at a time: those behind `after`, from the first one with `None`. A row that is there all
    /// the while is returned at least once. A node without a lease has none.
    fn list<'a>(&'a self, node: &'a NodeId, after: Option<Cursor>) -> StoreAnswer<'a, RowPage>;

    /// Returns the rows that have this name, of all nodes.
    fn lookup<'a>(&'a self, name: &'a str) -> StoreAnswer<'a, Vec<(NodeId, Row)>>;

    /// Sends bytes to all that have subscribed to a channel. Returns how many these are: of a subscriber that is counted it
    /// is not known whether the bytes arrive.
    fn publish<'a>(&'a self, channel: &'a str, bytes: Bytes) -> StoreAnswer<'a, u64>;

    /// Opens a subscription, without channels yet, whose messages arrive at `to`; those that `to` has no room for are lost.
    /// `to` is dropped when the subscription is lost.
    fn subscribe(&self, to: mpsc::Sender<Message>) -> StoreAnswer<'_, Box<dyn Subscription>>;

    /// Sets what the node holds of some resources, then takes shares of what all live nodes have together: for each want all
    /// or nothing, one want after the other.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if the node's lease is over, [`StoreError::Late`] if a later call of this life was done already;
    /// then nothing is set or taken.
    fn acquire<'a>(&'a self, node: &'a NodeId, held: &'a Held, wants: &'a [Want]) -> StoreAnswer<'a, Vec<Verdict>>;

    /// Sets what the node holds of some resources.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    fn release<'a>(&'a self, node: &'a NodeId, held: &'a Held) -> StoreAnswer<'a, ()> {
        Box::pin(async move { self.acquire(node, held, &[]).await.map(drop) })
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

    fn lookup<'a>(&'a self, name: &'a str) -> StoreAnswer<'a, Vec<(NodeId, Row)>> {
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
}

/// A subscription to channels of a store. Dropped it ends.
pub trait Subscription: fmt::Debug + Send {
    /// Adds channels. What is published behind this call's end arrives.
    fn add<'a>(&'a mut self, channels: &'a [String]) -> StoreAnswer<'a, ()>;

    /// Removes channels.
    fn remove<'a>(&'a mut self, channels: &'a [String]) -> StoreAnswer<'a, ()>;
}

/// Something published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The channel.
    pub channel: Arc<str>,
    /// The bytes.
    pub bytes: Bytes,
}

/// A change of a node's entry in the store.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Begins a life of the node, with nothing but this; otherwise its lease is renewed.
    pub begins: Option<Begin>,
    /// Time from now until the lease is over, by the clock of the store.
    pub lease: Duration,
    /// Rows that are new or have changed.
    pub put: Vec<Row>,
    /// Sessions whose rows go.
    pub remove: Vec<u64>,
}

/// What a life of a node begins with.
#[derive(Clone, Debug, Default)]
pub struct Begin {
    /// The node in its own words, for lists of nodes.
    pub about: String,
    /// What its live sessions hold already.
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

/// A session in the store: what does not change while it is idle. As JSON it has short keys: a store holds many.
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
    /// The name that it was given.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The tags that it was given.
    #[serde(rename = "t", default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// A place in the rows of a node; means something only to the engine that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor(pub u64);

/// Some rows of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowPage {
    /// The rows.
    pub rows: Vec<Row>,
    /// Where more of them are; `None` if there are no more.
    pub next: Option<Cursor>,
}

/// So many of a resource: sessions in all, sessions of a source, a name that only one session may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The resource.
    pub resource: String,
    /// Number of it.
    pub count: u64,
}

/// What a node holds of some resources, in its own count. The node is the only one who knows: after a call of which it does
/// not hear whether it was done, it tells the counts that it is sure of, and the store is right again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Number of the call, greater with each one of a life, from 1. A call whose number is not greater than that of one that
    /// was done has been overtaken: it may have waited in a connection that its node has long given up.
    pub serial: u64,
    /// Counts, not differences, each resource once; 0 is nothing more. Resources that are not named stay as they are.
    pub counts: Vec<Share>,
}

/// One of each resource, if none is exhausted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// Resources that are held until the node [tells](Held) that it holds less.
    pub counts: Vec<CountLimit>,
    /// Resources that come back with time.
    pub rates: Vec<RateLimit>,
}

/// One of a resource, if all live nodes hold less than `most` of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountLimit {
    /// The resource.
    pub resource: String,
    /// Most of it that all nodes may hold together.
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
    /// All of it was taken.
    Granted,
    /// Nothing was taken: the count with this place in the want is exhausted.
    Count(usize),
    /// Nothing was taken: the rate with this place in the want is exhausted.
    Rate(usize),
}

/// A store did not do what it was asked to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It is not reached.
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
    /// It refuses the call: a wrong password, a missing permission, no memory left.
    #[error("the store refuses: {reason}")]
    Refused {
        /// The answer.
        reason: String,
    },
    /// Its answer means nothing here: another program uses the same keys, or another version of this one.
    #[error("the store answers {what}: use a prefix of keys of your own")]
    Garbled {
        /// What was answered.
        what: String,
    },
}
