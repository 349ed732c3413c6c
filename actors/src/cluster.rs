//! Sessions over several nodes: lists, messages, rooms and limits, as if there were one server. Feature `cluster`.
//!
//! A node is one process of a fleet. Nodes share a [`Store`]: [`Redis`](https://redis.io) or Valkey, or memory, for several servers
//! of one process. The store is soft state: what it has forgotten, each node writes again, and without it each node goes on
//! alone. No line ever waits for it.

pub(crate) mod health;
pub(crate) mod id;
pub mod memory;
pub(crate) mod stats;
pub(crate) mod store;

mod channels;
pub(crate) mod core;

mod ask;
mod hub;
mod lease;
mod limits;
pub(crate) mod rooms;
mod rows;

mod agent;
pub(crate) mod builder;

pub use self::{
    builder::{Cluster, ClusterBuilder, ClusterError},
    health::Health,
    id::{GlobalId, NodeId, NodeName, NodeNameError},
    rooms::{
        share::ShareError,
        table::{RoomCounts, RoomStats},
    },
    stats::{ClusterStats, StoreCalls},
    store::{
        Answer, Begin, Change, CountLimit, Cursor, Held, Message, NodeRecord, RateLimit, Row, RowPage, Share, Store,
        StoreError, Subscription, Verdict, Want,
    },
};
