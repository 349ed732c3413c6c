//! K4: limits over nodes are exact while nodes reach the store, and by the policy when they do not; whatever becomes of a call,
//! no share is lost for ever and none is kept.
//!
//! Not here: gates in general (`gate`), stores (`cluster_stores`), the counts by themselves (`cluster/ledger`).

mod support;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use actix_lines::{
    CloseReason, Connection, LineServer, Listener, Permit, ServerHandle,
    cluster::{
        Cluster, FleetLimits, FleetLimitsBuilder, OnPartition, Store,
        memory::{Fault, Memory},
    },
    control::RefuseReason,
    limits::{Limits, Rate},
};
use support::{Counted, Peer, Server, eventually, free, pass, pause, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    task::JoinSet,
};

/// Sessions of all nodes, as somebody counts them who knows no store: now, and the most at a time.
#[derive(Clone, Default)]
struct Observer {
    live: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Observer {
    fn session(&self) -> Counted {
        let live = self.live.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(live, SeqCst);
        Counted(Arc::clone(&self.live))
    }
}

struct Node {
    cluster: Cluster,
    server: Server,
    /// Its way to the store.
    store: Memory,
}

fn limits() -> FleetLimitsBuilder {
    FleetLimits::builder()
}

async fn start(store: &Memory, name: &str, limits: FleetLimits, observer: &Observer, listener: Listener) -> Node {
    let store = store.view();
    let (cluster, server) = start_at(store.clone(), name, limits, observer, listener).await;
    Node { cluster, server, store }
}

async fn start_at(
    store: impl Store,
    name: &str,
    limits: FleetLimits,
    observer: &Observer,
    listener: Listener,
) -> (Cluster, Server) {
    let cluster = Cluster::builder(store).node(name).limits(limits).build().unwrap();
    let observer = observer.clone();
    let server = LineServer::new(move |_: &Connection| observer.session());
    // One of them lets connections in on several threads.
    let server = if name == "c" { server.workers(2) } else { server.on_current_arbiter() };
    let server = Server::of(server.cluster(&cluster).unwrap().listen(listener).unwrap()).await;
    eventually("the node's life", async || cluster.node().is_some()).await;
    (cluster, server)
}

async fn node(store: &Memory, name: &str, limits: FleetLimits) -> Node {
    start(store, name, limits, &Observer::default(), free()).await
}

/// Connects, and says hello. `None` if it is refused.
async fn hello(server: &ServerHandle) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
    // A refusal may be on its way already.
    let _ = stream.write_all(b"hello\n").await;
    let mut answer = [0; 6];
    let read = stream.read_exact(&mut answer).await;
    matches!((read, &answer), (Ok(_), b"hello\n")).then_some(stream)
}

/// Is answered without time.
async fn enter(server: &ServerHandle) -> Option<TcpStream> {
    support::at_once("an answer", hello(server)).await
}

/// The same, where the store is waited for in vain first.
async fn enter_later(server: &ServerHandle) -> Option<TcpStream> {
    within("an answer", hello(server)).await
}

impl Node {
    async fn enter(&self) -> Option<TcpStream> {
        enter(&self.server.handle).await
    }

    async fn enter_later(&self) -> Option<TcpStream> {
        enter_later(&self.server.handle).await
    }

    async fn enter_all(&self, count: usize) -> Vec<TcpStream> {
        let mut all = Vec::new();
        for nth in 1..=count {
            all.push(self.enter().await.unwrap_or_else(|| panic!("number {nth} of {count} is refused")));
        }
        all
    }

    async fn refused(&self, reason: RefuseReason) -> u64 {
        self.server.handle.stats().await.unwrap().refused.get(reason.name()).copied().unwrap_or(0)
    }

    /// Waits until the store knows all that the node has.
    async fn settled(&self) {
        eventually("the store to be told", async || self.cluster.stats().shares_untold == 0).await;
    }

    /// Waits until no session is left.
    async fn emptied(&self) {
        eventually("the sessions to end", async || self.server.handle.stats().await.unwrap().live == 0).await;
        self.settled().await;
    }

    async fn lost(&self) {
        eventually("the loss of the store", async || !self.cluster.health().answers()).await;
    }

    async fn found(&self) {
        eventually("the store", async || self.cluster.health().answers() && self.cluster.node().is_some()).await;
    }
}

/// All places that are left, over these nodes in turn.
async fn fill(nodes: &[&Node]) -> Vec<TcpStream> {
    let mut all = Vec::new();
    let mut refused = 0;
    for node in nodes.iter().cycle() {
        match node.enter().await {
            Some(stream) => {
                all.push(stream);
                refused = 0;
            }
            None => refused += 1,
        }
        if refused == nodes.len() {
            break;
        }
    }
    all
}

/// Clients that come and go at all servers at once. Returns how many were refused.
async fn storm(servers: &[ServerHandle], rounds: usize) -> usize {
    let mut clients = JoinSet::new();
    let refused = Arc::new(AtomicUsize::new(0));
    for client in 0..60 {
        let server = servers[client % servers.len()].clone();
        let refused = Arc::clone(&refused);
        clients.spawn_local(async move {
            for _ in 0..rounds {
                match enter(&server).await {
                    Some(mut stream) => {
                        for _ in 0..fastrand::u32(0..10) {
                            stream.write_all(b"on\n").await.unwrap();
                            stream.read_exact(&mut [0; 3]).await.unwrap();
                        }
                        if fastrand::bool() {
                            stream.set_zero_linger().unwrap();
                        }
                    }
                    None => drop(refused.fetch_add(1, SeqCst)),
                }
            }
        });
    }
    within("all clients", async { while clients.join_next().await.transpose().unwrap().is_some() {} }).await;
    refused.load(SeqCst)
}

#[actix::test]
async fn sessions_of_all_nodes_never_are_more_than_the_limit_however_they_come_and_go() {
    const MOST: usize = 20;
    let (store, observer) = (Memory::new(), Observer::default());
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        // A machine that is busy for half a second is no store that is lost.
        let limits = limits().max_sessions(MOST as u64).on_partition(OnPartition::Closed).build().unwrap();
        nodes.push(start(&store, name, limits, &observer, free()).await);
    }
    let servers = nodes.iter().map(|node| node.server.handle.clone()).collect::<Vec<_>>();
    assert!(storm(&servers, 10).await > 0);
    for node in &nodes {
        node.emptied().await;
    }
    let all: Vec<_> = nodes.iter().collect();
    assert_eq!(fill(&all).await.len(), MOST, "all places are free again");
    // By whoever comes and goes it need not be reached: a place is given back a moment after its session.
    assert_eq!(observer.most.load(SeqCst), MOST, "the limit is reached and was never exceeded");
    assert_eq!(nodes.iter().map(|node| node.cluster.stats().admitted_blind).sum::<u64>(), 0);
    for node in nodes {
        node.server.end_all().await;
    }
}

#[actix::test]
async fn a_refusal_says_which_limit_and_a_place_that_is_given_back_is_another_nodes_at_once() {
    let store = Memory::new();
    let limits = limits().max_sessions(3).max_sessions_per_source(2).build().unwrap();
    let (a, b) = (node(&store, "a", limits.clone()).await, node(&store, "b", limits).await);
    let first = a.enter().await.unwrap();
    let second = b.enter().await.unwrap();
    let mut third = b.server.connect().await;
    third.expect(b"too many connections, try again later\r\n").await;
    assert_eq!((b.refused(RefuseReason::ClusterSource).await, b.refused(RefuseReason::ClusterFull).await), (1, 0));
    drop(first);
    a.emptied().await;
    let _first = b.enter().await.expect("its source has one less");
    drop(second);
    for node in [a, b] {
        node.server.end_all().await;
    }
}

#[actix::test]
async fn who_was_let_in_by_the_store_is_counted_and_waits_for_no_end_that_is_gathered() {
    pause();
    let store = Memory::new();
    let a = node(&store, "a", limits().max_sessions(3).build().unwrap()).await;
    let mut held = a.enter_all(3).await;
    for times in 0..5 {
        assert_eq!((a.cluster.stats().admitted, a.cluster.stats().admitted_blind), (3 + times, 0));
        held.truncate(2);
        eventually("one to end", async || a.server.handle.stats().await.unwrap().live == 2).await;
        // Its end is told with others, in a while; whoever comes asks at once.
        held.extend(a.enter().await);
        assert_eq!(held.len(), 3);
    }
    a.server.end_all().await;
}

#[actix::test]
async fn limits_of_a_source_do_not_hold_for_peers_that_are_exempt() {
    let store = Memory::new();
    let limits = limits().max_sessions(5).max_sessions_per_source(1).exempt(["127.0.0.0/8".parse().unwrap()]);
    let (a, b) =
        (node(&store, "a", limits.clone().build().unwrap()).await, node(&store, "b", limits.build().unwrap()).await);
    assert_eq!(fill(&[&a, &b]).await.len(), 5);
    assert_eq!(a.refused(RefuseReason::ClusterSource).await + b.refused(RefuseReason::ClusterSource).await, 0);
    for node in [a, b] {
        node.server.end_all().await;
    }
}

#[actix::test]
async fn limits_change_while_sessions_live_which_count_in_all_of_them() {
    let store = Memory::new();
    let (a, b) = (node(&store, "a", FleetLimits::default()).await, node(&store, "b", FleetLimits::default()).await);
    let _of_a = a.enter_all(3).await;
    let of_b = b.enter_all(2).await;
    assert_eq!(a.store.calls().acquire + b.store.calls().acquire, 0, "without limits the store is not asked");
    let set = async |limits: FleetLimits| {
        for node in [&a, &b] {
            node.cluster.set_limits(limits.clone());
        }
        for node in [&a, &b] {
            node.settled().await;
        }
        assert_eq!(a.cluster.limits(), limits);
    };
    set(limits().max_sessions(6).build().unwrap()).await;
    assert_eq!(fill(&[&b]).await.len(), 1, "those of the other node count, to which nobody has come since");
    a.settled().await;
    b.settled().await;
    set(limits().max_sessions_per_source(6).build().unwrap()).await;
    eventually("the place", async || {
        a.server.handle.stats().await.unwrap().live + b.server.handle.stats().await.unwrap().live == 5
    })
    .await;
    a.settled().await;
    b.settled().await;
    let sixth = fill(&[&b, &a]).await;
    assert_eq!(sixth.len(), 1);
    // Another way to group addresses: all of IPv4 is one source.
    let prefix = actix_lines::SourcePrefix { v4: 0, v6: 0 };
    set(limits().max_sessions_per_source(7).source_prefix(prefix).build().unwrap()).await;
    let seventh = fill(&[&a, &b]).await;
    assert_eq!(seventh.len(), 1);
    set(limits().max_sessions(2).build().unwrap()).await;
    assert!(a.enter().await.is_none() && b.enter().await.is_none(), "a limit below what is there ends nobody");
    set(FleetLimits::default()).await;
    b.enter_all(10).await;
    drop(of_b);
    for node in [a, b] {
        node.server.end_all().await;
    }
}

#[actix::test]
async fn the_share_of_a_node_that_died_is_free_when_its_lease_is_over() {
    pause();
    let store = Memory::new();
    let limits = limits().max_sessions(4).build().unwrap();
    let (a, b) = (node(&store, "a", limits.clone()).await, node(&store, "b", limits).await);
    let _of_a = a.enter_all(3).await;
    let of_b = b.enter_all(1).await;
    assert!(b.enter().await.is_none());
    // For the store it is as good as dead.
    a.store.fail(Fault::Lost);
    let begin = tokio::time::Instant::now();
    let mut entered = Vec::new();
    eventually("places", async || {
        pass(Duration::from_millis(100)).await;
        entered.extend(b.enter().await);
        entered.len() == 3
    })
    .await;
    assert!(begin.elapsed() <= Cluster::DEFAULT_LEASE + Duration::from_millis(500), "{:?}", begin.elapsed());
    assert!(b.enter().await.is_none());
    // It was not dead, and comes back with all of its sessions: seven of four.
    a.store.heal();
    a.found().await;
    a.settled().await;
    assert!(a.enter().await.is_none() && b.enter().await.is_none());
    drop((of_b, entered));
    b.emptied().await;
    assert_eq!(fill(&[&a, &b]).await.len(), 1);
    for node in [a, b] {
        node.server.end_all().await;
    }
}

#[actix::test]
async fn a_node_without_the_store_goes_by_its_own_counts_if_the_policy_is_open_and_makes_up_for_it() {
    pause();
    let store = Memory::new();
    let limits = limits().max_sessions(4).build().unwrap();
    let (a, b) = (node(&store, "a", limits.clone()).await, node(&store, "b", limits).await);
    let of_a = a.enter_all(2).await;
    let _of_b = b.enter_all(2).await;
    a.store.fail(Fault::Lost);
    // Whoever comes before the loss is known waits a little.
    let mut blind = vec![a.enter_later().await.unwrap()];
    a.lost().await;
    let begin = tokio::time::Instant::now();
    blind.extend(fill(&[&a]).await);
    assert_eq!((blind.len(), begin.elapsed()), (2, Duration::ZERO), "up to its own limit, and without a wait");
    assert_eq!(a.cluster.stats().admitted_blind, 2);
    a.store.heal();
    a.found().await;
    a.settled().await;
    // Six of four: until two have left, and one more, nobody comes in.
    assert!(a.enter().await.is_none() && b.enter().await.is_none());
    drop(of_a);
    eventually("two to leave", async || a.server.handle.stats().await.unwrap().live == 2).await;
    a.settled().await;
    assert!(b.enter().await.is_none());
    drop(blind.pop());
    eventually("one to leave", async || a.server.handle.stats().await.unwrap().live == 1).await;
    a.settled().await;
    assert_eq!(fill(&[&a, &b]).await.len(), 1);
    for node in [a, b] {
        node.server.end_all().await;
    }
}

#[actix::test]
async fn a_node_without_the_store_refuses_whom_a_limit_holds_for_if_the_policy_is_closed() {
    pause();
    let store = Memory::new();
    let policy = limits().max_sessions_per_source(4).on_partition(OnPartition::Closed);
    let a = node(&store, "a", policy.clone().build().unwrap()).await;
    let _of_a = a.enter_all(2).await;
    for fault in [Fault::Lost, Fault::Hanging, Fault::Refusing] {
        a.store.fail(fault);
        assert!(a.enter_later().await.is_none(), "{fault:?}: before the loss is known");
        a.lost().await;
        assert!(a.enter().await.is_none(), "{fault:?}");
        a.store.heal();
        a.found().await;
        a.settled().await;
        assert!(a.enter().await.is_some(), "{fault:?}: found again");
        eventually("it to leave", async || a.server.handle.stats().await.unwrap().live == 2).await;
    }
    assert_eq!(a.refused(RefuseReason::StoreLost).await, 6);
    assert_eq!(a.cluster.stats().admitted_blind, 0);
    a.cluster.set_limits(policy.exempt(["127.0.0.1".parse().unwrap()]).build().unwrap());
    a.store.fail(Fault::Lost);
    a.lost().await;
    assert!(a.enter().await.is_some(), "no limit holds for it");
    a.server.end_all().await;
}

#[actix::test]
async fn whoever_waits_for_a_slow_store_waits_half_a_second_and_the_rest_of_the_node_not_at_all() {
    pause();
    let store = Memory::new();
    let a = node(&store, "a", limits().max_sessions(10).build().unwrap()).await;
    let mut before = Peer { stream: a.enter().await.unwrap() };
    a.store.fail(Fault::Hanging);
    let mut waits = a.server.connect().await;
    waits.send(b"hello\n").await;
    eventually("it to be at the gate", async || a.server.handle.stats().await.unwrap().live == 2).await;
    let begin = tokio::time::Instant::now();
    before.send(b"on\n").await;
    before.expect(b"on\n").await;
    assert_eq!(begin.elapsed(), Duration::ZERO);
    waits.expect_later(b"hello\n").await;
    let waited = begin.elapsed();
    assert!((Duration::from_millis(450)..Duration::from_millis(600)).contains(&waited), "{waited:?}");
    a.server.end_all().await;
}

#[actix::test]
async fn a_connection_waits_no_longer_for_the_store_however_many_names_sessions_claim() {
    pause();
    let store = Memory::new();
    let a = node(&store, "a", limits().max_sessions(10).on_partition(OnPartition::Closed).build().unwrap()).await;
    a.store.fail(Fault::Slow(Duration::from_millis(100)));
    // They take more than a second.
    let mut claims = JoinSet::new();
    for nth in 0..4000 {
        let cluster = a.cluster.clone();
        claims.spawn_local(async move { cluster.claim(&nth.to_string()).await.map(drop) });
    }
    tokio::task::yield_now().await;
    assert!(a.enter_later().await.is_some(), "it is not decided without the store");
    while let Some(claimed) = claims.join_next().await {
        assert_eq!(claimed.unwrap(), Ok(()));
    }
    a.server.end_all().await;
}

#[actix::test]
async fn the_policy_decides_however_little_time_another_gate_has_left() {
    pause();
    for policy in [OnPartition::Open, OnPartition::Closed].repeat(4) {
        let store = Memory::new();
        let limits = limits().max_sessions(10).on_partition(policy).build().unwrap();
        let cluster = Cluster::builder(store.clone()).node("a").limits(limits).build().unwrap();
        let own = Limits::builder().preface_timeout(Duration::from_secs(1)).build().unwrap();
        let slow = |_: &Connection| async {
            pass(Duration::from_millis(800)).await;
            Ok(Permit::free())
        };
        let server = LineServer::new(|_: &Connection| support::Echo).on_current_arbiter().limits(own).gate(slow);
        let server = Server::start(server.cluster(&cluster).unwrap()).await;
        eventually("the node's life", async || cluster.node().is_some()).await;
        pass(Duration::from_millis(fastrand::u64(0..1000))).await;
        store.fail(Fault::Hanging);
        let is_in = enter_later(&server.handle).await.is_some();
        assert_eq!(is_in, policy == OnPartition::Open);
        let refused = server.handle.stats().await.unwrap().refused;
        assert_eq!(
            refused,
            if is_in { BTreeMap::new() } else { BTreeMap::from([(RefuseReason::StoreLost.name(), 1)]) }
        );
        server.end_all().await;
    }
}

#[actix::test]
async fn no_share_is_lost_or_kept_by_calls_of_which_nobody_knows_what_became() {
    pause();
    let store = Memory::new();
    let limits = limits().max_sessions(6).max_sessions_per_source(6).build().unwrap();
    let (a, b) = (node(&store, "a", limits.clone()).await, node(&store, "b", limits).await);
    for fault in [Fault::Unanswered, Fault::Hanging, Fault::Slow(Duration::from_millis(1500)), Fault::Lost] {
        let before = a.enter_all(1).await;
        a.store.fail(fault);
        // Done or not, nobody hears of it; sessions come and go meanwhile.
        let came = a.enter_later().await.unwrap_or_else(|| panic!("{fault:?}"));
        drop(before);
        let stays = a.enter_later().await.unwrap_or_else(|| panic!("{fault:?}"));
        drop(came);
        eventually("one to be left", async || a.server.handle.stats().await.unwrap().live == 1).await;
        a.store.heal();
        a.found().await;
        a.settled().await;
        assert_eq!(fill(&[&b]).await.len(), 5, "{fault:?}");
        b.emptied().await;
        drop(stays);
        a.emptied().await;
        assert_eq!(fill(&[&b, &a]).await.len(), 6, "{fault:?}: nothing is kept");
        a.emptied().await;
        b.emptied().await;
    }
    for node in [a, b] {
        node.server.end_all().await;
    }
}

#[actix::test]
async fn a_store_that_has_forgotten_all_is_told_again_what_is_there() {
    pause();
    let store = Memory::new();
    let limits = limits().max_sessions(5).build().unwrap();
    let (a, b) = (node(&store, "a", limits.clone()).await, node(&store, "b", limits).await);
    let _of_a = a.enter_all(2).await;
    let _of_b = b.enter_all(2).await;
    let lives = [&a, &b].map(|node| node.cluster.node());
    store.restart();
    eventually("other lives", async || {
        [&a, &b].iter().zip(&lives).all(|(node, life)| node.cluster.node().is_some() && node.cluster.node() != *life)
    })
    .await;
    assert_eq!(fill(&[&a, &b]).await.len(), 1);
    for node in [a, b] {
        node.server.end_all().await;
    }
}

#[actix::test]
async fn the_accept_rate_of_a_source_is_that_of_one_bucket_for_all_nodes() {
    pause();
    let store = Memory::new();
    let rate = Rate { per_second: 4, burst: 3 };
    let limits = limits().accept_rate_per_source(Some(rate)).build().unwrap();
    let nodes = [node(&store, "a", limits.clone()).await, node(&store, "b", limits).await];
    // The model: tokens as a number that grows with time.
    let (mut tokens, mut last) = (3.0, tokio::time::Instant::now());
    let mut random = fastrand::Rng::with_seed(7);
    for turn in 0..200 {
        pass(Duration::from_millis(random.u64(0..400))).await;
        let now = tokio::time::Instant::now();
        tokens = f64::min(3.0, tokens + 4.0 * (now - last).as_secs_f64());
        last = now;
        let enters = nodes[turn % 2].enter().await.is_some();
        assert_eq!(last.elapsed(), Duration::ZERO, "turn {turn}: the clock stands still");
        // Where the two differ by the last digit, either is right.
        if (tokens - 1.0_f64).abs() > 1e-6 {
            assert_eq!(enters, tokens >= 1.0, "turn {turn}: {tokens} tokens");
        }
        if enters {
            tokens -= 1.0;
        }
    }
    assert!(nodes[0].refused(RefuseReason::ClusterRate).await > 10);
    // Without the store each node has a bucket of its own.
    nodes[0].store.fail(Fault::Lost);
    nodes[0].lost().await;
    assert_eq!(fill(&[&nodes[0]]).await.len(), 3);
    for node in nodes {
        node.server.end_all().await;
    }
}

#[actix::test]
async fn the_limits_of_the_server_hold_beside_those_of_the_cluster_and_cost_it_nothing() {
    let store = Memory::new();
    let view = store.view();
    let cluster =
        Cluster::builder(view.clone()).node("a").limits(limits().max_sessions(5).build().unwrap()).build().unwrap();
    let own = Limits::builder().max_sessions(2).build().unwrap();
    let server = LineServer::new(|_: &Connection| support::Echo).on_current_arbiter().limits(own);
    let mut server = Server::start(server.cluster(&cluster).unwrap()).await;
    let first = enter(&server.handle).await.unwrap();
    let second = enter(&server.handle).await.unwrap();
    let calls = view.calls().acquire;
    assert!(enter(&server.handle).await.is_none());
    assert_eq!(server.handle.stats().await.unwrap().refused["max-sessions"], 1);
    assert_eq!(view.calls().acquire, calls, "the store is not asked");
    drop((first, second));
    for _ in 0..2 {
        assert_eq!(server.report().await.reason, CloseReason::PeerEof);
    }
    server.end().await;
}

#[cfg(feature = "proxy")]
#[actix::test]
async fn behind_a_proxy_it_is_the_real_peers_source_that_is_limited() {
    let store = Memory::new();
    let proxied = || free().proxy(actix_lines::proxy::Proxy::required().trust(["127.0.0.0/8".parse().unwrap()]));
    let limits = limits().max_sessions_per_source(1).max_sessions(4).build().unwrap();
    let observer = Observer::default();
    let a = start(&store, "a", limits.clone(), &observer, proxied()).await;
    let b = start(&store, "b", limits, &observer, proxied()).await;
    let enter = async |node: &Node, header: &[u8]| {
        let mut peer = node.server.connect().await;
        peer.send(header).await;
        peer.send(b"hello\n").await;
        let mut answer = [0; 6];
        within("an answer", peer.stream.read_exact(&mut answer)).await.unwrap();
        (&answer == b"hello\n").then_some(peer)
    };
    let one = b"PROXY TCP4 192.0.2.1 198.51.100.1 1024 443\r\n";
    let other = b"PROXY TCP4 192.0.2.2 198.51.100.1 1024 443\r\n";
    let check = b"PROXY UNKNOWN\r\n";
    let _one = enter(&a, one).await.unwrap();
    let _other = enter(&b, other).await.unwrap();
    assert!(enter(&b, one).await.is_none() && enter(&a, other).await.is_none());
    let _checks = (enter(&a, check).await.unwrap(), enter(&b, check).await.unwrap());
    assert!(enter(&a, check).await.is_none(), "they are sessions");
    assert_eq!(a.refused(RefuseReason::ClusterFull).await, 1);
    for node in [a, b] {
        node.server.end_all().await;
    }
}

#[actix::test]
async fn the_source_of_a_unix_peer_is_its_user() {
    let (store, observer) = (Memory::new(), Observer::default());
    let path = |name: &str| std::env::temp_dir().join(format!("cluster-limits-{name}-{}", std::process::id()));
    let limits = limits().max_sessions_per_source(1).build().unwrap();
    let a = start(&store, "a", limits.clone(), &observer, Listener::unix(path("a"))).await;
    let b = start(&store, "b", limits, &observer, Listener::unix(path("b"))).await;
    let enter = async |name: &str| {
        let mut stream = UnixStream::connect(path(name)).await.unwrap();
        let _ = stream.write_all(b"hello\n").await;
        let mut answer = [0; 6];
        let read = within("an answer", stream.read_exact(&mut answer)).await;
        matches!((read, &answer), (Ok(_), b"hello\n")).then_some(stream)
    };
    let first = enter("a").await.unwrap();
    assert!(enter("b").await.is_none());
    assert_eq!(b.refused(RefuseReason::ClusterSource).await, 1);
    drop(first);
    a.emptied().await;
    enter("b").await.unwrap();
    for node in [a, b] {
        node.server.end_all().await;
    }
}

#[actix::test]
async fn sessions_of_listeners_without_gates_are_outside_of_the_limits() {
    let store = Memory::new();
    let limits = limits().max_sessions(1).build().unwrap();
    let b = start(&store, "b", limits.clone(), &Observer::default(), free().without_gates()).await;
    let _of_b = b.enter_all(3).await;
    let a = node(&store, "a", limits).await;
    let _of_a = a.enter().await.expect("those of the other node do not count");
    assert!(a.enter().await.is_none());
    b.enter_all(2).await;
    for node in [a, b] {
        node.server.end_all().await;
    }
}

#[actix::test]
async fn limits_that_cannot_be_kept_are_errors() {
    let zero = Some(Rate { per_second: 0, burst: 1 });
    for wrong in [
        limits().max_sessions(0),
        limits().max_sessions_per_source(0),
        limits().accept_rate_per_source(zero),
        limits().source_prefix(actix_lines::SourcePrefix { v4: 33, v6: 0 }),
        limits().source_prefix(actix_lines::SourcePrefix { v4: 0, v6: 129 }),
    ] {
        wrong.build().unwrap_err();
    }
    limits().source_prefix(actix_lines::SourcePrefix { v4: 32, v6: 128 }).build().unwrap();
}

#[cfg(feature = "redis")]
#[path = "support/redis.rs"]
mod redis;

#[cfg(feature = "redis")]
#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn with_redis_no_limit_is_exceeded_while_connections_to_it_break_and_it_stands_still() {
    use std::sync::atomic::AtomicBool;

    use actix_lines::cluster::redis::Redis;

    const MOST: usize = 20;
    /// Calls that are answered from one break to the next.
    const BETWEEN: u64 = 60;
    for program in redis::Program::installed() {
        let store = Arc::new(redis::StoreServer::start(program));
        let observer = Observer::default();
        let limits = limits().max_sessions(MOST as u64).on_partition(OnPartition::Closed).build().unwrap();
        let (mut clusters, mut servers) = (Vec::new(), Vec::new());
        for name in ["a", "b", "c"] {
            let way = Redis::at(store.url()).build().unwrap();
            let (cluster, server) = start_at(way, name, limits.clone(), &observer, free()).await;
            clusters.push(cluster);
            servers.push(server.handle.clone());
        }
        let lives: Vec<_> = clusters.iter().map(Cluster::node).collect();
        let is_over = Arc::new(AtomicBool::new(false));
        let breaks = actix_rt::spawn({
            let (store, is_over, clusters) = (Arc::clone(&store), Arc::clone(&is_over), clusters.clone());
            async move {
                let answered = |one: &Cluster| {
                    let calls = one.stats().calls;
                    calls.total - calls.lost - calls.slow
                };
                for turn in 0.. {
                    if is_over.load(SeqCst) {
                        break;
                    }
                    let before = clusters.iter().map(answered).sum::<u64>();
                    store.must(&["CLIENT", "KILL", "TYPE", "normal"]);
                    if turn % 8 == 7 {
                        store.pause();
                        // Longer than a connection waits, and shorter than a lease.
                        eventually("a loss", async || clusters.iter().any(|one| !one.health().answers())).await;
                        store.resume();
                    }
                    eventually("calls to be answered between two breaks", async || {
                        is_over.load(SeqCst) || clusters.iter().map(answered).sum::<u64>() >= before + BETWEEN
                    })
                    .await;
                }
            }
        });
        let refused = storm(&servers, 20).await;
        is_over.store(true, SeqCst);
        within("the breaks", breaks).await.unwrap();
        assert!(refused > 0);
        let settled = async || {
            // Found again as well: behind the last break there may be nothing to tell.
            let is_told = |one: &Cluster| one.health().answers() && one.stats().shares_untold == 0;
            eventually("the store to be told", async || clusters.iter().all(is_told)).await;
        };
        eventually("the sessions to end", async || observer.live.load(SeqCst) == 0).await;
        settled().await;
        assert_eq!(clusters.iter().map(Cluster::node).collect::<Vec<_>>(), lives, "{program}: nobody was fenced");
        let fill = async || {
            let (mut all, mut in_vain) = (Vec::new(), 0);
            for server in servers.iter().cycle() {
                match enter(server).await {
                    Some(stream) => {
                        all.push(stream);
                        in_vain = 0;
                    }
                    None => in_vain += 1,
                }
                if in_vain == servers.len() {
                    break;
                }
            }
            all
        };
        let mut all = fill().await;
        assert_eq!(all.len(), MOST, "{program}: all places are free again");
        assert_eq!(observer.most.load(SeqCst), MOST, "{program}: the limit is reached and was never exceeded");
        // Empty from one moment to the next.
        all.truncate(5);
        eventually("most to end", async || observer.live.load(SeqCst) == 5).await;
        settled().await;
        store.must(&["FLUSHALL"]);
        eventually("other lives", async || {
            clusters.iter().zip(&lives).all(|(one, life)| one.node().is_some() && one.node() != *life)
        })
        .await;
        assert_eq!(fill().await.len(), MOST - 5, "{program}: it is told again what is there");
        assert_eq!(clusters.iter().map(|one| one.stats().admitted_blind).sum::<u64>(), 0);
        for server in servers {
            server.abort().await.unwrap();
        }
    }
}
