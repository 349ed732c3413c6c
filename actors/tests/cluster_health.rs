//! A store that is lost, found, or alive and deaf: found out, counted, and logged once each; no line and no accept waits for it.

#[path = "support/bent.rs"]
mod bent;
#[path = "support/logged.rs"]
mod logged;
#[path = "support/nodes.rs"]
mod nodes;
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use actix_lines::cluster::{
    Change, Cluster, ClusterQuery, Health, ListError, NodeId, Store, StoreAnswer, StoreError,
    memory::{Fault, Memory},
};
use bent::{Bend, Bent};
use bytes::Bytes;
use futures::future::join_all;
use log::LevelFilter;
use logged::take_logged_here;
use nodes::{Node, serve, stores::pass_on};
use support::{eventually, pass, pause, talk, within};
use tokio::time::Instant;

fn keep_log() {
    logged::keep_log("actix_lines::cluster", LevelFilter::Info);
}

/// Waits until the health of a node has this name. Returns how long that took.
async fn until(cluster: &Cluster, name: &str) -> Duration {
    let began = Instant::now();
    let mut health = cluster.watch_health();
    within(name, health.wait_for(|health| health.name() == name)).await.unwrap();
    began.elapsed()
}

#[actix::test]
async fn a_lost_store_and_its_return_are_one_line_each_however_many_calls_fail() {
    keep_log();
    pause();
    for fault in [Fault::Lost, Fault::Hanging, Fault::Refusing, Fault::Partitioned] {
        let node = Node::join("a", &Memory::new()).await;
        until(&node.cluster, "connected").await;
        take_logged_here();
        node.store.fail(fault);
        // A probe fails, and has the renewal look: its answer is waited for once more.
        let found_out = until(&node.cluster, "lost").await;
        assert!(found_out <= Duration::from_millis(1500 + 500 + 2000), "{fault:?}: after {found_out:?}");
        let failed = node.cluster.stats().calls;
        pass(Duration::from_secs(60)).await;
        let calls = node.cluster.stats().calls;
        let (before, after) = (failed.lost + failed.slow + failed.refused, calls.lost + calls.slow + calls.refused);
        assert!(after - before >= 40, "{fault:?}: {calls:?}");
        let Health::Lost { why, .. } = node.cluster.health() else { panic!("{:?}", node.cluster.health()) };
        assert!(!why.is_empty());
        assert!(node.cluster.health().bad_for().unwrap() >= Duration::from_secs(60));

        node.store.heal();
        let found = until(&node.cluster, "connected").await;
        // A call that is on its way fails, then the longest pause.
        assert!(found <= Duration::from_secs(3), "{fault:?}: after {found:?}");
        node.joined().await;
        let lines = take_logged_here();
        let count = |words: &str| lines.iter().filter(|line| line.contains(words)).count();
        let counts = ["store lost: ", "store found after ", " is fenced: ", "joined as "].map(count);
        assert_eq!(counts, [1; 4], "{fault:?}: {lines:#?}");
        assert_eq!(lines.len(), 4, "{fault:?}: {lines:#?}");
        node.server.end_all().await;
    }
}

/// A store in which no life begins, though it answers all else.
#[derive(Clone, Debug)]
struct WithoutLives {
    store: Memory,
    refuses: Arc<AtomicBool>,
}

impl Store for WithoutLives {
    fn register<'a>(&'a self, node: &'a NodeId, change: &'a Change) -> StoreAnswer<'a, ()> {
        if self.refuses.load(Relaxed) {
            return Box::pin(async { Err(StoreError::Refused { reason: "no permissions".to_owned() }) });
        }
        self.store.register(node, change)
    }

    pass_on!(store: unregister, nodes, list, lookup, publish, subscribe, acquire);
}

#[actix::test]
async fn a_store_that_lets_no_life_begin_is_lost_once_and_found_when_one_does() {
    keep_log();
    pause();
    let store = WithoutLives { store: Memory::new(), refuses: Arc::new(AtomicBool::new(true)) };
    let cluster = Cluster::builder(store.clone()).node("a").build().unwrap();
    let server = serve(&cluster).await;
    until(&cluster, "lost").await;
    let mut health = cluster.watch_health();
    health.borrow_and_update();
    pass(Duration::from_secs(60)).await;
    assert!(!health.has_changed().unwrap(), "it is lost all the while: {:?}", take_logged_here());
    store.refuses.store(false, Relaxed);
    let found = until(&cluster, "connected").await;
    assert!(found <= Duration::from_secs(3), "after {found:?}");
    eventually("a life", async || cluster.node().is_some()).await;
    let lines = take_logged_here();
    let counts = ["store lost: ", "store found after ", "joined as "]
        .map(|words| lines.iter().filter(|line| line.contains(words)).count());
    assert_eq!(counts, [1; 3], "{lines:#?}");
    server.end_all().await;
}

#[actix::test]
async fn a_store_that_returns_within_a_lease_costs_no_life() {
    pause();
    for _ in 0..20 {
        let node = Node::join("a", &Memory::new()).await;
        pass(Duration::from_millis(fastrand::u64(0..3000))).await;
        let life = node.cluster.node();
        node.store.fail(Fault::Lost);
        // With the pause and a renewal before, less than a lease.
        pass(Duration::from_millis(4500)).await;
        node.store.heal();
        pass(Duration::from_secs(20)).await;
        assert_eq!(node.cluster.node(), life);
        assert_eq!(node.cluster.stats().lives, 1);
        node.server.end_all().await;
    }
}

#[actix::test]
async fn each_call_to_a_store_that_hangs_is_given_up_after_a_second() {
    pause();
    let node = Node::join("a", &Memory::new()).await;
    node.store.fail(Fault::Hanging);
    let (begun, after) = (Instant::now(), Duration::from_secs(1));
    let slow = StoreError::Slow { after };
    assert_eq!(node.cluster.nodes().await.unwrap_err(), slow);
    assert_eq!(node.cluster.lookup("alice").await.unwrap_err(), slow);
    assert_eq!(node.cluster.list(ClusterQuery::default()).await.unwrap_err(), ListError::Store(slow));
    let waited = begun.elapsed();
    assert!((after * 3..after * 3 + Duration::from_millis(100)).contains(&waited), "{waited:?}");
    node.server.end_all().await;
}

/// Publishes letters that mean nothing to a node, all before it has a turn.
async fn flood(node: &Node, letters: usize, bytes: usize) {
    let channel = format!("c:{}", node.id());
    let letter = Bytes::from(vec![b'x'; bytes]);
    let published = join_all((0..letters).map(|_| node.store.publish(&channel, letter.clone()))).await;
    assert!(published.iter().all(|receivers| *receivers == Ok(1)));
}

#[actix::test]
async fn what_a_node_has_no_room_for_is_counted() {
    pause();
    let node = Node::join("a", &Memory::new()).await;
    let counts = || (node.cluster.stats().messages_dropped, node.cluster.stats().messages_unknown);
    // More than wait for it; one of its probes may be among them.
    flood(&node, 5000, 1).await;
    eventually("all to be counted", async || counts().0 + counts().1 >= 5000).await;
    let (lost, read) = counts();
    assert!((800..=1000).contains(&lost), "{lost}");
    pass(Duration::from_secs(5)).await;
    assert_eq!(counts(), (lost, read), "once");
    // More bytes than wait for their reader, in few letters.
    flood(&node, 40, 1024 * 1024).await;
    eventually("all to be counted", async || counts().0 + counts().1 == lost + read + 40).await;
    assert_eq!(counts().0 - lost, 8, "32 MiB wait");
    // What a subscription lost that has ended since.
    let lost = counts().0;
    flood(&node, 5000, 1).await;
    node.store.end_subscriptions();
    eventually("the loss to be counted", async || counts().0 >= lost + 800).await;
    node.server.end_all().await;
}

#[actix::test]
async fn a_node_finds_out_that_its_subscription_is_deaf_within_five_seconds() {
    pause();
    let node = Node::join("a", &Memory::new()).await;
    for times in 1..=3 {
        until(&node.cluster, "connected").await;
        pass(Duration::from_millis(fastrand::u64(5000..8000))).await;
        assert_eq!(node.cluster.stats().times_deaf + 1, times, "it hears all the while");
        node.store.fail(Fault::Deaf);
        let found_out = until(&node.cluster, "deaf").await;
        assert!(found_out <= Duration::from_secs(5), "after {found_out:?}");
        let stats = node.cluster.stats();
        assert_eq!((stats.times_deaf, stats.probes_lost, stats.lives), (times, times, 1), "its lease is none of this");
        node.store.heal();
        let heard = until(&node.cluster, "connected").await;
        assert!(heard <= Duration::from_secs(4), "after {heard:?}");
    }
    assert_eq!(node.cluster.stats().subscriptions, 4, "one anew for each time");
    node.server.end_all().await;
}

#[actix::test]
async fn a_probe_that_the_node_has_not_sent_proves_nothing() {
    pause();
    let node = Node::join("a", &Memory::new()).await;
    let channel = format!("c:{}", node.cluster.node().unwrap());
    let forged = format!(r#"{{"v":1,"probe":{}}}"#, u64::MAX);
    assert_eq!(node.store.publish(&channel, forged.into()).await, Ok(1));
    pass(Duration::from_secs(5)).await;
    assert_eq!(node.cluster.health().name(), "connected");
    node.store.fail(Fault::Deaf);
    until(&node.cluster, "deaf").await;
    node.server.end_all().await;
}

#[actix::test]
async fn a_subscription_that_stays_deaf_is_opened_anew_with_pauses_and_logged_once() {
    keep_log();
    pause();
    let node = Node::join("a", &Memory::new()).await;
    node.store.fail(Fault::Deaf);
    until(&node.cluster, "deaf").await;
    pass(Duration::from_secs(60)).await;
    let stats = node.cluster.stats();
    assert!((8..=25).contains(&stats.subscriptions), "{stats:?}");
    assert_eq!(stats.health.name(), "deaf");
    let lines = take_logged_here();
    assert_eq!(lines.iter().filter(|line| line.contains("is opened anew")).count(), 1, "{lines:#?}");
    node.server.end_all().await;
}

#[actix::test]
async fn a_subscription_that_was_lost_has_its_channels_again() {
    pause();
    let store = Memory::new();
    let node = Node::join("a", &store).await;
    for times in 1..=5 {
        pass(Duration::from_secs(20)).await;
        node.store.end_subscriptions();
        eventually("another subscription", async || node.cluster.stats().subscriptions == times + 1).await;
        let channel = format!("c:{}", node.joined().await);
        eventually("the channel", async || store.publish(&channel, "{}".into()).await.unwrap() == 1).await;
    }
    assert_eq!(node.cluster.stats().times_deaf, 0);
    node.server.end_all().await;
}

#[actix::test]
async fn a_subscription_that_was_a_good_one_is_there_again_soon_however_often_one_is_lost() {
    pause();
    let node = Node::join("a", &Memory::new()).await;
    for times in 1..=12 {
        pass(Duration::from_secs(11)).await;
        node.store.end_subscriptions();
        pass(Duration::from_millis(110)).await;
        assert_eq!(node.cluster.stats().subscriptions, times + 1);
    }
    node.server.end_all().await;
}

#[actix::test]
async fn rooms_that_go_at_once_cost_the_store_nothing() {
    pause();
    let node = Node::join("a", &Memory::new()).await;
    pass(Duration::from_millis(100)).await;
    let calls = node.store.calls().subscribe;
    let rooms: Vec<_> = (0..20).map(|nth| node.cluster.room(&nth.to_string()).unwrap()).collect();
    drop(rooms);
    pass(Duration::from_secs(4)).await;
    assert_eq!(node.store.calls().subscribe, calls);
    assert_eq!(node.cluster.stats().subscriptions, 1);
    node.server.end_all().await;
}

#[actix::test]
async fn a_subscription_that_never_heard_anything_is_deaf_and_a_node_that_has_ended_has_no_store() {
    pause();
    let store = Memory::new();
    let way = store.view();
    way.fail(Fault::Deaf);
    let Node { server, cluster, .. } = Node::at("a", way).await;
    let found_out = until(&cluster, "deaf").await;
    assert!(found_out <= Duration::from_secs(5), "after {found_out:?}");
    assert_eq!((cluster.stats().probes_lost, cluster.stats().probes), (1, 2));
    server.end_all().await;
    eventually("the end", async || cluster.health() == Health::Ended).await;
}

#[actix::test]
async fn a_process_that_was_stopped_for_a_while_is_not_deaf() {
    pause();
    let node = Node::join("a", &Memory::new()).await;
    for _ in 0..20 {
        pass(Duration::from_millis(fastrand::u64(0..4000))).await;
        // Longer than probes may take, and shorter than a lease.
        tokio::time::advance(Duration::from_millis(5500)).await;
    }
    pass(Duration::from_secs(5)).await;
    let stats = node.cluster.stats();
    assert_eq!((stats.times_deaf, stats.health.name()), (0, "connected"));
    node.server.end_all().await;
}

/// K5. The clock stands still while a peer waits for an answer: whatever waited for the store would wait for ever.
#[actix::test]
async fn no_line_and_no_accept_waits_for_the_store() {
    pause();
    for fault in [
        Fault::Lost,
        Fault::Hanging,
        Fault::Unanswered,
        Fault::Slow(Duration::from_millis(900)),
        Fault::Refusing,
        Fault::Partitioned,
        Fault::Deaf,
    ] {
        let node = Node::join("a", &Memory::new()).await;
        let mut before = node.session().await;
        node.store.fail(fault);
        for _ in 0..8 {
            let now = Instant::now();
            talk(&mut before).await;
            talk(&mut node.session().await).await;
            assert_eq!(now.elapsed(), Duration::ZERO, "{fault:?}");
            pass(Duration::from_millis(1700)).await;
        }
        node.server.end_all().await;
    }
}

#[actix::test]
async fn a_server_starts_and_serves_before_its_store_is_there() {
    pause();
    let store = Memory::new();
    store.fail(Fault::Lost);
    let cluster = Cluster::builder(store.clone()).node("a").build().unwrap();
    assert_eq!(cluster.health(), Health::Starting);
    let server = serve(&cluster).await;
    let mut peer = support::greet(server.address()).await;
    until(&cluster, "lost").await;
    talk(&mut peer).await;
    store.heal();
    eventually("the node to join", async || cluster.node().is_some()).await;
    eventually("the row", async || nodes::listed(&store).await.len() == 1).await;
    server.end_all().await;
}

/// All of them lose it at the same moment.
#[actix::test]
async fn many_nodes_that_lose_one_store_do_not_storm_it() {
    const NODES: u64 = 100;
    pause();
    fastrand::seed(15);
    let store = Memory::new();
    let way = store.view();
    let mut all = Vec::new();
    for number in 0..NODES {
        let cluster = Cluster::builder(way.clone()).node(format!("n{number}")).build().unwrap();
        all.push((serve(&cluster).await, cluster));
    }
    for (_, cluster) in &all {
        until(cluster, "connected").await;
    }
    pass(Duration::from_secs(20)).await;
    way.end_subscriptions();
    way.fail(Fault::Lost);
    let mut seconds = Vec::new();
    for _ in 0..20 {
        let before = way.calls().total();
        pass(Duration::from_secs(1)).await;
        seconds.push((way.calls().total() - before) / NODES);
    }
    // Each node asks for its lease and for its subscription: some five times each in the first second, then some two times each.
    assert!(seconds[0] <= 12, "calls of a node in each second: {seconds:?}");
    assert!(seconds[1..].iter().all(|calls| *calls <= 8), "calls of a node in each second: {seconds:?}");
    way.heal();
    // They come back one after the other, not in one moment.
    let mut joined = Vec::new();
    for _ in 0..40 {
        let before = store.nodes().await.unwrap().len();
        pass(Duration::from_millis(50)).await;
        joined.push(store.nodes().await.unwrap().len() - before);
    }
    assert_eq!(joined.iter().sum::<usize>() as u64, NODES, "all within 2 s: {joined:?}");
    assert!(joined.iter().all(|joined| *joined <= 25), "in each 50 ms: {joined:?}");
    for (server, _) in all {
        server.end_all().await;
    }
}

#[actix::test]
async fn the_counters_are_serialized() {
    pause();
    let node = Node::join("a", &Memory::new()).await;
    until(&node.cluster, "connected").await;
    let stats = serde_json::to_value(node.cluster.stats()).unwrap();
    assert_eq!(stats["health"]["state"], "connected");
    assert_eq!(stats["node"], node.joined().await.to_string());
    assert!(stats["lease_left"].as_f64().unwrap() > 0.0 && stats["calls"]["total"].as_u64().unwrap() > 0, "{stats}");
    node.store.fail(Fault::Lost);
    until(&node.cluster, "lost").await;
    pass(Duration::from_secs(2)).await;
    let health = serde_json::to_value(node.cluster.health()).unwrap();
    assert!(health["seconds"].as_f64().unwrap() >= 2.0 && health["why"].is_string(), "{health}");
    node.server.end_all().await;
}

#[actix::test]
async fn calls_are_counted_by_what_has_come_of_them() {
    pause();
    let bent = Bent::new(&Memory::new());
    let cluster = Cluster::builder(bent.clone()).node("a").build().unwrap();
    let server = serve(&cluster).await;
    eventually("the node to join", async || cluster.node().is_some()).await;
    let text = || "a fault of a test".to_owned();
    let before = cluster.stats();
    for (error, times) in [
        (StoreError::Lost { reason: text() }, 1),
        (StoreError::Refused { reason: text() }, 2),
        (StoreError::Garbled { what: text() }, 3),
        (StoreError::Fenced, 4),
        (StoreError::Late, 5),
    ] {
        bent.straighten();
        bent.bend("lookup", Bend::Fail(error));
        for _ in 0..times {
            cluster.lookup("nobody").await.unwrap_err();
        }
    }
    bent.straighten();
    bent.bend("lookup", Bend::Late(Duration::from_secs(2)));
    cluster.lookup("nobody").await.unwrap_err();
    let (calls, was) = (cluster.stats().calls, before.calls);
    let failed = [
        (calls.lost, was.lost),
        (calls.refused, was.refused),
        (calls.garbled, was.garbled),
        (calls.fenced, was.fenced),
        (calls.late, was.late),
        (calls.slow, was.slow),
    ];
    assert_eq!(failed.map(|(after, before)| after - before), [1, 2, 3, 4, 5, 1]);
    assert!(calls.total - was.total >= 16);
    server.end_all().await;
}
