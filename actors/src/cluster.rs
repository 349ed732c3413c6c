//! Sessions over several nodes: lists, messages, rooms and limits, as if there were one server. Feature `cluster`.
//!
//! A node is one server of a fleet. Nodes share a [`Store`]: [`redis::Redis`] where they are processes on one or more machines,
//! [`memory::Memory`] where they are servers of one process. The store holds soft state: nodes write again what it has forgotten,
//! and without it each node goes on alone. No line ever waits for it.
//!
//! Begin with [`Cluster::builder`]; [`LineServer::cluster`](crate::LineServer::cluster) makes a server the node.

pub(crate) mod health;
pub(crate) mod id;
pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;
pub(crate) mod stats;
pub(crate) mod store;

pub(crate) mod answers;
mod channels;
pub(crate) mod fleet_limits;
pub(crate) mod ledger;
mod mailbox;

pub(crate) mod core;
mod kicks;
pub(crate) mod query;
mod request;

mod ask;
mod hub;
mod kill;
mod lease;
mod limits;
mod list;
pub(crate) mod rooms;
mod rows;

mod agent;
pub(crate) mod builder;

mod claim;
mod sessions;

pub use self::{
    answers::{Answers, AskError, NodeAnswer, Outcome},
    builder::{Cluster, ClusterBuilder, ClusterError},
    claim::{Claim, ClaimError},
    fleet_limits::{FleetLimits, FleetLimitsBuilder, OnPartition},
    health::Health,
    id::{GlobalId, IdError, NodeId, NodeName, NodeNameError},
    query::{ClusterFilter, ClusterOrder, ClusterPage, ClusterQuery, ClusterSession, ListError, Unread, UnreadError},
    rooms::{
        share::ShareError,
        table::{RoomCounts, RoomStats},
    },
    stats::{ClusterStats, StoreCalls},
    store::{
        Begin, Change, CountLimit, Cursor, Held, Message, NamedRows, NodeRecord, RateLimit, Row, RowPage, Share, Store,
        StoreAnswer, StoreError, Subscription, Verdict, Want,
    },
};
