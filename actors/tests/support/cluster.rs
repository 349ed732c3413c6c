//! Nodes of a cluster in one process, each a server with a way of its own to a store in memory.
#![allow(dead_code, unreachable_pub)]

use actix_lines::{
    Connection, LineHandler, LineServer, Listener,
    cluster::{Cluster, ClusterBuilder, GlobalId, NodeId, memory::Memory},
};

use crate::support::{Server, eventually};

pub struct Node {
    pub server: Server,
    pub cluster: Cluster,
    /// Its way to the store.
    pub store: Memory,
}

impl Node {
    /// Starts a server as a node with this name, on a listener with the name `public`, and waits until it lives.
    pub async fn start<A, F>(memory: &Memory, name: &str, server: LineServer<A, F>) -> Self
    where
        A: LineHandler,
        F: Fn(&Connection) -> A + Clone + Send + 'static,
    {
        Self::start_with(memory, name, server, |builder| builder).await
    }

    /// The same, with other settings of the cluster.
    pub async fn start_with<A, F>(
        memory: &Memory,
        name: &str,
        server: LineServer<A, F>,
        settings: impl FnOnce(ClusterBuilder) -> ClusterBuilder,
    ) -> Self
    where
        A: LineHandler,
        F: Fn(&Connection) -> A + Clone + Send + 'static,
    {
        let store = memory.view();
        let cluster = settings(Cluster::builder(store.clone()).node(name)).build().unwrap();
        let server = server.listen(Listener::tcp("127.0.0.1:0").name("public")).unwrap().on_current_arbiter();
        let server = Server::of(server.cluster(&cluster).unwrap()).await;
        let node = Self { server, cluster, store };
        node.lives().await;
        node
    }

    /// Waits until it has a lease.
    pub async fn lives(&self) {
        eventually("a life of the node", async || self.cluster.node().is_some()).await;
    }

    pub fn id(&self) -> NodeId {
        self.cluster.node().expect("it lives")
    }

    /// The global ids of its sessions, in the order of their numbers.
    pub async fn ids(&self) -> Vec<GlobalId> {
        let sessions = self.server.sessions().await;
        sessions.into_iter().map(|session| GlobalId { node: self.id(), session: session.id }).collect()
    }
}
