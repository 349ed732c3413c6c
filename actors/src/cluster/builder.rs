//! Builder: `Cluster`, from its settings to the server that is its node.
//!
//! Not here: what a node does (`agent` and its parts), the engines (`memory`, `redis`).

use std::{
    io,
    sync::{
        Arc,
        atomic::Ordering::{AcqRel, Release},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    cluster::{
        agent,
        core::{Core, Settings},
        fleet_limits::FleetLimits,
        health::Health,
        id::{NodeId, NodeName, NodeNameError},
        limits,
        stats::ClusterStats,
        store::Store,
    },
    connection::Connection,
    server::{builder::LineServer, handle::ServerHandle},
    session::handler::LineHandler,
};

/// A handle of one node of a cluster. It is made first, then given to the server that [becomes the node](LineServer::cluster).
/// A clone is a handle of the same node. All calls may come from any thread.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(crate) core: Arc<Core>,
}

/// Settings of a node of a cluster: [`Cluster::builder`].
#[derive(Debug)]
#[must_use = "a cluster is nothing until it is built"]
pub struct ClusterBuilder {
    store: Arc<dyn Store>,
    name: Option<Result<NodeName, NodeNameError>>,
    about: String,
    lease: Duration,
    call_timeout: Duration,
    ask_timeout: Duration,
    kick_timeout: Duration,
    limits: FleetLimits,
}

/// A setting of a node is invalid, or the node has a server already.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// It has no name.
    #[error("a node of a cluster needs a name that no other has: use its host's, as .node(\"web-1\")")]
    NoName,
    /// Its name is invalid.
    #[error(transparent)]
    Name(#[from] NodeNameError),
    /// The lease is too short or too long.
    #[error("the lease is {lease:?}: use 1 s to 1 h")]
    Lease {
        /// The value that was given.
        lease: Duration,
    },
    /// The time for calls is too short, or longer than a third of the lease.
    #[error(
        "calls to the store have {timeout:?} and the lease {lease:?}: use 10 ms or more, and at most a third of the lease"
    )]
    CallTimeout {
        /// The value that was given.
        timeout: Duration,
        /// The lease.
        lease: Duration,
    },
    /// The time for answers of other nodes is too short or too long.
    #[error("other nodes have {timeout:?} to answer: use 10 ms to 1 h")]
    AskTimeout {
        /// The value that was given.
        timeout: Duration,
    },
    /// The time that kicked sessions have to end is too short or too long.
    #[error("sessions that were kicked have {timeout:?} to end: use 10 ms to 1 h")]
    KickTimeout {
        /// The value that was given.
        timeout: Duration,
    },
    /// Another server is or was the node.
    #[error("another server is node {node} already: build a cluster for each server")]
    Taken {
        /// The node.
        node: NodeName,
    },
}

impl From<ClusterError> for io::Error {
    fn from(error: ClusterError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

impl Cluster {
    /// Default of [`lease`](ClusterBuilder::lease): 10 s.
    pub const DEFAULT_LEASE: Duration = Duration::from_secs(10);

    /// Default of [`call_timeout`](ClusterBuilder::call_timeout): 1 s.
    pub const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(1);

    /// Default of [`ask_timeout`](ClusterBuilder::ask_timeout): 2 s.
    pub const DEFAULT_ASK_TIMEOUT: Duration = Duration::from_secs(2);

    /// Default of [`kick_timeout`](ClusterBuilder::kick_timeout): 30 s.
    pub const DEFAULT_KICK_TIMEOUT: Duration = Duration::from_secs(30);

    /// Starts from the defaults, with the store that all nodes share.
    pub fn builder(store: impl Store) -> ClusterBuilder {
        ClusterBuilder {
            store: Arc::new(store),
            name: None,
            about: String::new(),
            lease: Self::DEFAULT_LEASE,
            call_timeout: Self::DEFAULT_CALL_TIMEOUT,
            ask_timeout: Self::DEFAULT_ASK_TIMEOUT,
            kick_timeout: Self::DEFAULT_KICK_TIMEOUT,
            limits: FleetLimits::default(),
        }
    }

    /// Returns the node's name.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.core.settings.name
    }

    /// Returns the node's life. `None` while the node holds no lease: before its server has started and the store has answered,
    /// once the store has been lost for longer than a lease, and after the server's end.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        self.core.life()
    }

    /// Returns what the node knows of its store.
    #[must_use]
    pub fn health(&self) -> Health {
        self.core.health.now()
    }

    /// Returns a receiver of each change of the [`health`](Self::health).
    #[must_use]
    pub fn watch_health(&self) -> watch::Receiver<Health> {
        self.core.health.watch()
    }

    /// Returns a receiver of the node's [life](Self::node): of each life that begins, and of `None` when it ends.
    #[must_use]
    pub fn watch_node(&self) -> watch::Receiver<Option<NodeId>> {
        self.core.life.subscribe()
    }

    /// Returns the limits over all nodes that this node keeps to.
    #[must_use]
    pub fn limits(&self) -> FleetLimits {
        FleetLimits::clone(&self.core.ledger.limits())
    }

    /// Sets the limits over all nodes that this node keeps to, for connections that come from now on; no session ends because
    /// of them. Other nodes keep theirs: set the same on each.
    pub fn set_limits(&self, limits: FleetLimits) {
        self.core.ledger.set_limits(limits);
    }

    /// Returns the counters of the node, from its start.
    #[must_use]
    pub fn stats(&self) -> ClusterStats {
        self.core.stats()
    }
}

impl ClusterBuilder {
    /// Sets the node's name, which no other node has at the same time: 1 to 64 letters, digits, `-`, `_` and `.`. No default.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ClusterError::NoName`] without a name, and [`ClusterError::Name`] for an invalid one.
    pub fn node(mut self, name: impl AsRef<str>) -> Self {
        self.name = Some(name.as_ref().parse());
        self
    }

    /// Sets the text that lists of nodes show beside the name: a place, a version. Default: none.
    pub fn about(mut self, text: impl Into<String>) -> Self {
        self.about = text.into();
        self
    }

    /// Sets the time after which a node that no longer renews its lease does not exist for the others: its sessions are no
    /// longer listed, and what it holds of limits is free. A node renews its lease about three times in this time. Default:
    /// [`Cluster::DEFAULT_LEASE`], 10 s.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ClusterError::Lease`] unless it is 1 s to 1 h.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets the longest wait for an answer of the store. Default: [`Cluster::DEFAULT_CALL_TIMEOUT`], 1 s.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ClusterError::CallTimeout`] unless it is 10 ms to a third of the lease.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Sets the longest wait for the answers of other nodes to a push or a kick. Default: [`Cluster::DEFAULT_ASK_TIMEOUT`], 2 s.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ClusterError::AskTimeout`] unless it is 10 ms to 1 h.
    pub fn ask_timeout(mut self, timeout: Duration) -> Self {
        self.ask_timeout = timeout;
        self
    }

    /// Sets the limits that hold for the sessions of all nodes together. Default: none.
    /// [`Cluster::set_limits`] changes them.
    pub fn limits(mut self, limits: FleetLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the time that sessions of this node have to end after a kick over nodes. Those that have not ended by then are
    /// aborted. Default: [`Cluster::DEFAULT_KICK_TIMEOUT`], 30 s.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ClusterError::KickTimeout`] unless it is 10 ms to 1 h.
    pub fn kick_timeout(mut self, timeout: Duration) -> Self {
        self.kick_timeout = timeout;
        self
    }

    /// Checks the settings. Nothing runs, and the store is not called, until a server [becomes](LineServer::cluster) the node
    /// and has started; only calls of your own, as [`Cluster::nodes`], ask the store before.
    ///
    /// # Errors
    /// Returns a [`ClusterError`] for an invalid setting.
    pub fn build(self) -> Result<Cluster, ClusterError> {
        let Self { store, name, about, lease, call_timeout, ask_timeout, kick_timeout, limits: fleet } = self;
        let name = name.ok_or(ClusterError::NoName)??;
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&lease) {
            return Err(ClusterError::Lease { lease });
        }
        if !(Duration::from_millis(10)..=lease / 3).contains(&call_timeout) {
            return Err(ClusterError::CallTimeout { timeout: call_timeout, lease });
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(3600)).contains(&ask_timeout) {
            return Err(ClusterError::AskTimeout { timeout: ask_timeout });
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(3600)).contains(&kick_timeout) {
            return Err(ClusterError::KickTimeout { timeout: kick_timeout });
        }
        let settings = Settings { name, about, lease, call_timeout, ask_timeout, kick_timeout };
        let core = Core::new(store, settings);
        core.ledger.set_limits(fleet);
        Ok(Cluster { core: Arc::new(core) })
    }
}

/// A server that is to be the node. If it never starts, another server may be.
struct Reserved(Option<Arc<Core>>);

impl Reserved {
    fn new(cluster: &Cluster) -> Result<Self, ClusterError> {
        if cluster.core.is_taken.swap(true, AcqRel) {
            return Err(ClusterError::Taken { node: cluster.name().clone() });
        }
        Ok(Self(Some(Arc::clone(&cluster.core))))
    }

    fn start(mut self, server: &ServerHandle) {
        if let Some(core) = self.0.take() {
            agent::start(core, server);
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(core) = &self.0 {
            core.is_taken.store(false, Release);
        }
    }
}

impl<A, F> LineServer<A, F>
where
    A: LineHandler,
    F: Fn(&Connection) -> A + Clone + Send + 'static,
{
    /// Makes the server a node of a cluster, from its start until it has ended. The node's tasks run on the arbiter that starts
    /// the server. The [limits](ClusterBuilder::limits) over all nodes are a [gate](Self::gate), which is asked after the gates
    /// that were added before this call, and before those that are added later. Needs the feature `cluster`.
    ///
    /// # Errors
    /// Returns [`ClusterError::Taken`] if another server is or was the node.
    pub fn cluster(self, cluster: &Cluster) -> Result<Self, ClusterError> {
        let reserved = Reserved::new(cluster)?;
        let core = Arc::clone(&cluster.core);
        let gated = self.gate_in_time(move |connection, left| limits::admit(&core, connection, left));
        Ok(gated.when_started(move |server| reserved.start(server)))
    }
}
