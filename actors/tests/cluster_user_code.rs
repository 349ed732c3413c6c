//! Code of users within a node: an engine that panics, a logger that asks the node. Neither costs it a row, a room or a lock.

#[path = "support/members.rs"]
mod members;
#[path = "support/nodes.rs"]
mod nodes;
mod support;

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};

use actix_lines::cluster::{
    Change, Cluster, FleetLimits, Held, NodeId, Store, StoreAnswer, Verdict, Want,
    memory::{Fault, Memory},
};
use bytes::Bytes;
use log::{LevelFilter, Log, Metadata, Record};
use members::Member;
use nodes::{Node, listed, serve, stores::pass_on};
use support::{Server, eventually, greet, pause, within};

/// A store of which one call panics, once it is told to.
#[derive(Clone, Debug)]
struct Panicking {
    store: Memory,
    writes: Arc<AtomicBool>,
    says: Arc<AtomicBool>,
    asks: Arc<AtomicBool>,
}

impl Panicking {
    async fn node(memory: &Memory) -> (Self, Cluster, Server) {
        let [writes, says, asks] = Default::default();
        let store = Self { store: memory.view(), writes, says, asks };
        let cluster = Cluster::builder(store.clone()).node("a").build().unwrap();
        let server = serve(&cluster).await;
        eventually("the node to join", async || cluster.node().is_some()).await;
        (store, cluster, server)
    }
}

impl Store for Panicking {
    fn register<'a>(&'a self, node: &'a NodeId, change: &'a Change) -> StoreAnswer<'a, ()> {
        let has_rows = !change.put.is_empty() || !change.remove.is_empty();
        assert!(!(has_rows && self.writes.swap(false, Relaxed)), "an engine with a fault");
        self.store.register(node, change)
    }

    fn publish<'a>(&'a self, channel: &'a str, bytes: Bytes) -> StoreAnswer<'a, u64> {
        assert!(!(channel.starts_with("r:") && self.says.swap(false, Relaxed)), "an engine with a fault");
        self.store.publish(channel, bytes)
    }

    fn acquire<'a>(&'a self, node: &'a NodeId, held: &'a Held, wants: &'a [Want]) -> StoreAnswer<'a, Vec<Verdict>> {
        assert!(!self.asks.swap(false, Relaxed), "an engine with a fault");
        self.store.acquire(node, held, wants)
    }

    pass_on!(store: unregister, nodes, list, lookup, subscribe);
}

#[actix::test]
async fn an_engine_that_panics_leaves_no_row_of_a_session_that_ends_meanwhile() {
    let memory = Memory::new();
    let (store, cluster, server) = Panicking::node(&memory).await;
    let life = cluster.node();
    let _stays = greet(server.address()).await;
    let goes = greet(server.address()).await;
    eventually("both rows", async || listed(&memory).await.len() == 2).await;
    store.writes.store(true, Relaxed);
    let _comes = greet(server.address()).await;
    eventually("the panic", async || !store.writes.load(Relaxed)).await;
    // Nobody hears of its end.
    drop(goes);
    eventually("the rows to be the live sessions", async || {
        let live = server.sessions().await.into_iter().map(|session| session.id.get());
        live.eq(listed(&memory).await.into_keys()) && cluster.node().is_some() && cluster.node() != life
    })
    .await;
    server.end_all().await;
}

#[actix::test]
async fn an_engine_that_panics_leaves_no_share_untold_and_nobody_at_the_gate() {
    let memory = Memory::new();
    let (store, cluster, server) = Panicking::node(&memory).await;
    let limits = FleetLimits::builder().max_sessions(3).build().unwrap();
    let told = async || eventually("the store to be told", async || cluster.stats().shares_untold == 0).await;
    cluster.set_limits(limits.clone());
    let _first = greet(server.address()).await;
    store.asks.store(true, Relaxed);
    // By the policy, or by the store that is asked again.
    let _second = greet(server.address()).await;
    assert!(!store.asks.load(Relaxed), "it has panicked");
    told().await;
    // Another node has the rest.
    let other = Node::join("b", &memory).await;
    other.cluster.set_limits(limits);
    let _third = greet(other.server.address()).await;
    let mut refused = other.server.connect().await;
    refused.expect(b"too many connections, try again later\r\n").await;
    server.end_all().await;
    other.server.end_all().await;
}

#[actix::test]
async fn an_engine_that_panics_leaves_no_room_deaf() {
    let memory = Memory::new();
    let (store, cluster, server) = Panicking::node(&memory).await;
    let other = Node::join("b", &memory).await;
    let (here, there) = (cluster.room("lobby").unwrap(), other.cluster.room("lobby").unwrap());
    let (_here, heard) = Member::enter(&here);
    let (_there, heard_there) = Member::enter(&there);
    let hears = async |text: &str| {
        eventually(text, async || {
            there.say(format!("{text}\n"));
            heard.lines().iter().any(|line| line == text)
        })
        .await;
    };
    hears("before").await;
    store.says.store(true, Relaxed);
    here.say("lost\n");
    eventually("the panic", async || !store.says.load(Relaxed)).await;
    hears("behind").await;
    eventually("what is said here behind it", async || {
        here.say("found\n");
        heard_there.lines().iter().any(|line| line == "found")
    })
    .await;
    server.end_all().await;
    other.server.end_all().await;
}

thread_local! {
    /// The node that the logger of this thread asks.
    static ASKED: RefCell<Option<Cluster>> = const { RefCell::new(None) };
    /// What it was told, if it was.
    static TOLD: RefCell<Vec<Option<&'static str>>> = const { RefCell::new(Vec::new()) };
}

/// Asks the node for its health, on another thread: on its own it would wait for ever.
struct Asking;

impl Log for Asking {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if let Some(cluster) = ASKED.with_borrow(Clone::clone).filter(|_| record.target().ends_with("cluster::health"))
        {
            let (answer, answered) = mpsc::channel();
            thread::spawn(move || answer.send(cluster.health().name()));
            TOLD.with_borrow_mut(|told| told.push(answered.recv_timeout(Duration::from_secs(20)).ok()));
        }
    }

    fn flush(&self) {}
}

#[actix::test]
async fn a_logger_that_asks_for_the_health_that_a_line_tells_of_is_answered() {
    log::set_logger(&Asking).unwrap();
    log::set_max_level(LevelFilter::Info);
    pause();
    let node = Node::join("a", &Memory::new()).await;
    let mut health = node.cluster.watch_health();
    let mut until =
        async |name: &str| drop(within(name, health.wait_for(|health| health.name() == name)).await.unwrap());
    until("connected").await;
    ASKED.set(Some(node.cluster.clone()));
    for (fault, name) in [(Fault::Lost, "lost"), (Fault::Deaf, "deaf")] {
        node.store.fail(fault);
        until(name).await;
        node.store.heal();
        until("connected").await;
    }
    node.server.end_all().await;
    assert_eq!(TOLD.take(), ["lost", "connected", "deaf", "connected"].map(Some));
}
