//! Nodes: servers of one process as nodes of a cluster, on the thread of the test, so that a paused clock is theirs, too.
// Each test file is a program of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

#[path = "stores.rs"]
pub mod stores;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use actix_lines::{
    Connection, LineHandler, LineServer, Listener, Rot13,
    cluster::{Change, Cluster, ClusterBuilder, GlobalId, NodeId, Store, StoreAnswer, memory::Memory},
};
use stores::{pass_on, rows};

use crate::support::{Peer, Server, eventually, greet};

/// A server that is a node, and its way to the store.
pub struct Node<S = Memory> {
    pub server: Server,
    pub cluster: Cluster,
    pub store: S,
}

impl Node {
    /// Starts a node with the defaults, by a way of its own to a store.
    pub async fn start(name: &str, store: &Memory) -> Self {
        Self::at(name, store.view()).await
    }

    /// Starts a node, and waits until it has joined.
    pub async fn join(name: &str, store: &Memory) -> Self {
        let node = Self::start(name, store).await;
        node.joined().await;
        node
    }

    /// Starts this server as a node, on a listener with the name `public`, and waits until it has joined.
    pub async fn serve<A, F>(name: &str, store: &Memory, server: LineServer<A, F>) -> Self
    where
        A: LineHandler,
        F: Fn(&Connection) -> A + Clone + Send + 'static,
    {
        Self::serve_with(name, store, server, |builder| builder).await
    }

    /// The same, with other settings of the cluster.
    pub async fn serve_with<A, F>(
        name: &str,
        store: &Memory,
        server: LineServer<A, F>,
        settings: impl FnOnce(ClusterBuilder) -> ClusterBuilder,
    ) -> Self
    where
        A: LineHandler,
        F: Fn(&Connection) -> A + Clone + Send + 'static,
    {
        let store = store.view();
        let cluster = settings(Cluster::builder(store.clone()).node(name)).build().unwrap();
        let server = server.listen(Listener::tcp("127.0.0.1:0").name("public")).unwrap().on_current_arbiter();
        let node = Self { server: Server::of(server.cluster(&cluster).unwrap()).await, cluster, store };
        node.joined().await;
        node
    }
}

impl<S: Store + Clone> Node<S> {
    /// Starts a node with the defaults, by this way to a store.
    pub async fn at(name: &str, store: S) -> Self {
        let cluster = Cluster::builder(store.clone()).node(name).build().unwrap();
        Self { server: serve(&cluster).await, cluster, store }
    }

    /// Its life, which it has.
    pub fn id(&self) -> NodeId {
        self.cluster.node().expect("it lives")
    }

    /// The global ids of its sessions, in the order of their numbers.
    pub async fn ids(&self) -> Vec<GlobalId> {
        let sessions = self.server.sessions().await;
        sessions.into_iter().map(|session| GlobalId { node: self.id(), session: session.id }).collect()
    }

    /// Waits until it holds a lease, and returns its life.
    pub async fn joined(&self) -> NodeId {
        eventually("the node to join", async || self.cluster.node().is_some()).await;
        self.id()
    }

    /// Opens a session, which has answered a line.
    pub async fn session(&self) -> Peer {
        greet(self.server.address()).await
    }

    /// Opens so many sessions, each of which has answered a line.
    pub async fn open(&self, count: usize) -> Vec<Peer> {
        let mut peers = Vec::with_capacity(count);
        for _ in 0..count {
            peers.push(self.session().await);
        }
        peers
    }

    /// The numbers and peers of its live sessions, as the server itself knows them.
    pub async fn sessions(&self) -> BTreeMap<u64, String> {
        let sessions = self.server.sessions().await;
        sessions.into_iter().map(|session| (session.id.get(), session.peer.to_string())).collect()
    }
}

/// Starts a server that is the node.
pub async fn serve(cluster: &Cluster) -> Server {
    Server::start(LineServer::new(|_| Rot13).on_current_arbiter().cluster(cluster).unwrap()).await
}

/// The numbers and peers of all rows of all nodes.
pub async fn listed(store: &impl Store) -> BTreeMap<u64, String> {
    let mut listed = BTreeMap::new();
    for node in store.nodes().await.unwrap() {
        for row in rows(store, &node.id).await {
            assert_eq!(listed.insert(row.session, row.peer), None, "a session is listed twice");
        }
    }
    listed
}

/// A call in the name of a life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    pub node: NodeId,
    pub begins: bool,
    pub rows: usize,
}

/// A way to a store that tells who claims something there.
#[derive(Clone, Debug)]
pub struct Told<S> {
    pub store: S,
    pub claims: Arc<Mutex<Vec<Claimed>>>,
}

impl<S> Told<S> {
    pub fn new(store: S) -> Self {
        Self { store, claims: Arc::default() }
    }

    pub fn claims(&self) -> Vec<Claimed> {
        self.claims.lock().unwrap().clone()
    }
}

impl<S: Store> Store for Told<S> {
    fn register<'a>(&'a self, node: &'a NodeId, change: &'a Change) -> StoreAnswer<'a, ()> {
        let claimed = Claimed { node: node.clone(), begins: change.begins.is_some(), rows: change.put.len() };
        // A call that nobody waits for is none.
        Box::pin(async move {
            self.claims.lock().unwrap().push(claimed);
            self.store.register(node, change).await
        })
    }

    pass_on!(store: unregister, nodes, list, lookup, publish, subscribe, acquire);
}

/// Waits until each live session of all nodes is listed once, and nothing else.
pub async fn settled(store: &impl Store, nodes: &[Node]) {
    eventually("the rows to be the live sessions", async || {
        let mut live = BTreeMap::new();
        for node in nodes {
            live.extend(node.sessions().await);
        }
        let mut is_partial = false;
        for node in store.nodes().await.unwrap() {
            is_partial |= store.list(&node.id, None).await.unwrap().is_partial;
        }
        listed(store).await == live && !is_partial
    })
    .await;
}
