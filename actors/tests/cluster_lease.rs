//! K1: a row is gone at most a lease after its node died. And a node that has lost its lease claims nothing until it has another.

#[path = "support/bent.rs"]
mod bent;
#[path = "support/logged.rs"]
mod logged;
#[path = "support/nodes.rs"]
mod nodes;
mod support;

use std::time::Duration;

use actix_lines::cluster::{
    Cluster, ClusterError, NodeId, Store, StoreError,
    memory::{Fault, Memory},
};
use bent::{Bend, Bent};
use log::LevelFilter;
use logged::{keep_log, logged};
use nodes::{Node, Told, listed, serve, settled, stores::rows};
use support::{Server, eventually, pass, pause, within};
use tokio::time::Instant;

const LEASE: Duration = Cluster::DEFAULT_LEASE;

/// Time in which a renewal comes for sure.
const RENEWAL: Duration = Duration::from_millis(3300);

async fn lives(store: &Memory) -> Vec<NodeId> {
    store.nodes().await.unwrap().into_iter().map(|node| node.id).collect()
}

#[actix::test]
async fn a_row_is_gone_at_most_a_lease_after_its_node_died_whenever_that_was() {
    pause();
    let store = Memory::new();
    // Phases of the renewal, and what the way of a dead node looks like.
    for (phase, fault) in (0..7_u32).map(|phase| (phase, if phase % 2 == 0 { Fault::Lost } else { Fault::Partitioned }))
    {
        let node = Node::join("a", &store).await;
        let _peer = node.session().await;
        settled(&store, std::slice::from_ref(&node)).await;
        let id = node.joined().await;
        pass(Duration::from_millis(500) * phase).await;
        node.store.fail(fault);
        let died = Instant::now();
        assert_eq!(rows(&store, &id).await.len(), 1, "phase {phase}: it has just died");
        pass(LEASE - RENEWAL - Duration::from_millis(1)).await;
        assert_eq!(rows(&store, &id).await.len(), 1, "phase {phase}: its lease is not over yet");
        eventually("the row to go", async || rows(&store, &id).await.is_empty()).await;
        // The clock of the test is seen each 2 ms.
        assert!(died.elapsed() <= LEASE + Duration::from_millis(10), "phase {phase}: after {:?}", died.elapsed());
        assert_eq!(lives(&store).await, [], "phase {phase}");
        node.server.end_all().await;
    }
}

#[actix::test]
async fn a_node_that_is_cut_off_claims_nothing_once_the_others_see_it_dead() {
    pause();
    let store = Memory::new();
    for fault in [Fault::Lost, Fault::Hanging, Fault::Partitioned, Fault::Refusing] {
        let node = Node::join("a", &store).await;
        let id = node.joined().await;
        pass(Duration::from_millis(fastrand::u64(0..3000))).await;
        node.store.fail(fault);
        let cut = Instant::now();
        loop {
            let (claims, is_there) = (node.cluster.node(), lives(&store).await.contains(&id));
            assert!(claims.is_none() || is_there, "{fault:?}: it claims {claims:?} after {:?}", cut.elapsed());
            if !is_there {
                break;
            }
            pass(Duration::from_millis(10)).await;
        }
        assert!(cut.elapsed() <= LEASE, "{fault:?}");
        // It joins again, as another, at most 2 s after its return.
        pass(Duration::from_secs(25)).await;
        assert_eq!(node.cluster.node(), None, "{fault:?}");
        node.store.heal();
        pass(Duration::from_millis(3100)).await;
        let again = node.cluster.node().unwrap_or_else(|| panic!("{fault:?}: it has not joined again"));
        assert_ne!(again, id, "{fault:?}");
        assert_eq!(lives(&store).await, [again], "{fault:?}");
        assert_eq!((node.cluster.stats().lives, node.cluster.stats().times_fenced), (2, 1), "{fault:?}");
        node.server.end_all().await;
    }
}

#[actix::test]
async fn a_process_that_was_stopped_for_longer_than_its_lease_never_claims_with_its_old_life() {
    pause();
    let memory = Memory::new();
    let store = Told::new(memory.view());
    let cluster = Cluster::builder(store.clone()).node("a").build().unwrap();
    let server = serve(&cluster).await;
    eventually("the node to join", async || cluster.node().is_some()).await;
    let peer = support::greet(server.address()).await;
    eventually("the row", async || listed(&memory).await.len() == 1).await;
    let old = cluster.node().unwrap();

    // A change of its rows waits to be written, and comes before the renewal.
    drop(peer);
    eventually("the end of the session", async || server.handle.stats().await.unwrap().live == 0).await;
    pass(Duration::from_millis(20)).await;
    let before = store.claims().len();
    // All of its tasks find themselves so much later.
    tokio::time::advance(LEASE).await;
    assert_eq!(cluster.node(), None, "it knows by its own clock");
    eventually("another life", async || cluster.node().is_some()).await;
    let new = cluster.node().unwrap();
    assert_ne!(new, old);
    let later = store.claims().split_off(before);
    assert!(later.iter().all(|claim| claim.node != old), "{later:?}");
    eventually("the end of the row", async || listed(&memory).await.is_empty()).await;
    server.end_all().await;
}

#[actix::test]
async fn a_node_that_a_store_has_forgotten_begins_another_life_with_all_of_its_rows() {
    pause();
    let store = Memory::new();
    let node = Node::join("a", &store).await;
    let _peers = node.open(20).await;
    settled(&store, std::slice::from_ref(&node)).await;
    let id = node.joined().await;
    for restart in [false, true] {
        if restart {
            store.restart()
        } else {
            store.forget()
        }
        assert_eq!(lives(&store).await, []);
        pass(RENEWAL).await;
        settled(&store, std::slice::from_ref(&node)).await;
        let again = node.joined().await;
        assert_ne!(again, id);
        assert_eq!(lives(&store).await, [again]);
    }
    assert_eq!(node.cluster.stats().times_fenced, 2);
    node.server.end_all().await;
}

#[actix::test]
async fn a_node_whose_server_has_ended_leaves_nothing() {
    pause();
    let store = Memory::new();
    let (node, other) = (Node::join("a", &store).await, Node::join("b", &store).await);
    let _peer = node.session().await;
    eventually("the row", async || listed(&store).await.len() == 1).await;
    let (cluster, id) = (node.cluster, other.joined().await);
    node.server.end_all().await;
    assert_eq!(lives(&store).await, [id]);
    assert_eq!(listed(&store).await.len(), 0);
    assert_eq!((cluster.node(), cluster.health().name()), (None, "ended"));
    other.server.end_all().await;
    assert_eq!(lives(&store).await, []);
}

#[actix::test]
async fn a_server_that_ends_while_its_store_hangs_has_ended_a_second_later() {
    pause();
    let store = Memory::new();
    let node = Node::join("a", &store).await;
    node.store.fail(Fault::Hanging);
    let asked = Instant::now();
    node.server.end_all().await;
    assert!(asked.elapsed() <= Duration::from_millis(1100), "{:?}", asked.elapsed());
}

#[actix::test]
async fn a_server_that_ends_by_a_slow_store_loses_no_lease_and_begins_no_life() {
    pause();
    let store = Memory::new();
    // Phases of the renewal that would have come.
    for phase in 0..10_u32 {
        let node = Node::join("a", &store).await;
        node.store.fail(Fault::Slow(Duration::from_millis(900)));
        pass(Duration::from_millis(4000) + Duration::from_millis(300) * phase).await;
        let cluster = node.cluster;
        node.server.end_all().await;
        let stats = cluster.stats();
        assert_eq!((stats.times_fenced, stats.lives), (0, 1), "phase {phase}");
        assert_eq!(lives(&store).await, [], "phase {phase}");
    }
}

#[actix::test]
async fn a_node_that_ends_warns_of_what_it_leaves_and_of_nothing_else() {
    keep_log("actix_lines::cluster", LevelFilter::Warn);
    pause();
    let store = Memory::new();
    for (name, fault, warnings) in [("ends-clean", Fault::None, 0), ("ends-without", Fault::Refusing, 1)] {
        let node = Node::join(name, &store).await;
        node.store.fail(fault);
        node.server.end_all().await;
        let warning = format!("node {name} could not take itself out of the store");
        let said = logged().iter().filter(|line| line.contains(&warning)).count();
        assert_eq!(said, warnings, "{name}");
    }
}

#[actix::test]
async fn the_log_says_why_a_lease_was_lost() {
    keep_log("actix_lines::cluster", LevelFilter::Warn);
    pause();
    let store = Memory::new();
    for (name, why) in
        [("is-forgotten", "the store does not know its lease"), ("is-cut-off", "its lease was not renewed in time")]
    {
        let node = Node::join(name, &store).await;
        let id = node.id();
        match name {
            "is-forgotten" => store.forget(),
            _ => node.store.fail(Fault::Partitioned),
        }
        pass(LEASE * 2).await;
        let said: Vec<String> =
            logged().iter().filter(|line| line.contains(&format!("{id} is fenced"))).cloned().collect();
        assert!(said.len() == 1 && said[0].contains(&format!("is fenced: {why};")), "{name}: {said:?}");
        node.server.end_all().await;
    }
}

#[actix::test]
async fn a_store_that_panics_ends_no_part_of_a_node_for_good() {
    pause();
    for call in ["begin", "register", "unregister", "nodes", "publish", "subscribe", "add"] {
        let store = Memory::new();
        let bent = Bent::new(&store);
        let cluster = Cluster::builder(bent.clone()).node("a").build().unwrap();
        // Some calls come when a node begins, and some later.
        if ["begin", "unregister", "nodes", "subscribe", "add"].contains(&call) {
            bent.bend(call, Bend::Panic);
        }
        let server = serve(&cluster).await;
        pass(Duration::from_secs(5)).await;
        bent.bend(call, Bend::Panic);
        pass(Duration::from_secs(5)).await;
        bent.straighten();
        let _peer = support::greet(server.address()).await;
        eventually("the node to be whole", async || {
            let is_heard = match cluster.node() {
                Some(id) => store.publish(&format!("c:{id}"), "{}".into()).await == Ok(1),
                None => false,
            };
            is_heard && cluster.health().name() == "connected" && listed(&store).await.len() == 1
        })
        .await;
        let probes = cluster.stats().probes;
        pass(LEASE * 2).await;
        assert!(cluster.stats().probes >= probes + 10, "{call}");
        assert_eq!(lives(&store).await, [cluster.node().unwrap()], "{call}");
        server.end_all().await;
    }
}

#[actix::test]
async fn lives_that_are_over_are_removed_once() {
    pause();
    let store = Memory::new();
    let node = Node::join("a", &store).await;
    for _ in 0..5 {
        store.forget();
        pass(LEASE).await;
        node.joined().await;
    }
    assert_eq!((node.cluster.stats().lives, node.store.calls().unregister), (6, 6), "one call for each life");
    node.server.end_all().await;
}

#[actix::test]
async fn a_node_that_lives_hears_what_it_is_asked() {
    pause();
    let store = Memory::new();
    let bent = Bent::new(&store);
    bent.bend("add", Bend::Late(Duration::from_millis(700)));
    let Node { server, cluster, .. } = Node::at("a", bent).await;
    let mut node = cluster.watch_node();
    for life in 1..=3 {
        let id = within("a life", node.wait_for(Option::is_some)).await.unwrap().clone().unwrap();
        assert_eq!(store.publish(&format!("c:{id}"), "{}".into()).await, Ok(1), "life {life}");
        store.forget();
        within("its end", node.wait_for(Option::is_none)).await.unwrap();
    }
    server.end_all().await;
}

#[actix::test]
async fn a_store_that_was_lost_for_a_lease_is_asked_as_seldom_as_before() {
    pause();
    fastrand::seed(15);
    let (mut before, mut after) = (0, 0);
    for _ in 0..20 {
        let store = Memory::new();
        let node = Node::join("a", &store).await;
        node.store.fail(Fault::Lost);
        let asked = || node.store.calls().register + node.store.calls().unregister;
        let mut seconds = Vec::new();
        while node.cluster.node().is_some() {
            let asked_before = asked();
            pass(Duration::from_millis(100)).await;
            seconds.push(asked() - asked_before);
        }
        before += seconds.iter().rev().take(10).sum::<u64>();
        let asked_before = asked();
        pass(Duration::from_secs(1)).await;
        after += asked() - asked_before;
        node.server.end_all().await;
    }
    assert!(after <= before + before / 2, "in the second before and after the end of 20 leases: {before} and {after}");
}

#[actix::test]
async fn a_store_that_is_back_is_asked_each_three_seconds_again() {
    pause();
    let node = Node::join("a", &Memory::new()).await;
    node.store.fail(Fault::Lost);
    pass(Duration::from_millis(4500)).await;
    node.store.heal();
    pass(RENEWAL).await;
    let before = node.store.calls().register;
    pass(Duration::from_secs(300)).await;
    let renewals = node.store.calls().register - before;
    assert!(renewals <= 300 * 10 / 27 + 1, "{renewals} renewals in 300 s");
    node.server.end_all().await;
}

#[actix::test]
async fn other_calls_that_fail_do_not_make_a_node_renew_more_than_twice_a_second() {
    pause();
    let store = Memory::new();
    let Node { server, cluster, store: bent } = Node::at("a", Bent::new(&store)).await;
    eventually("the node to join", async || cluster.node().is_some()).await;
    bent.bend("lookup", Bend::Fail(StoreError::Refused { reason: "a fault of a test".to_owned() }));
    let before = bent.calls().register;
    for _ in 0..500 {
        cluster.lookup("nobody").await.unwrap_err();
        pass(Duration::from_millis(10)).await;
    }
    let renewals = bent.calls().register - before;
    assert!((4..=11).contains(&renewals), "{renewals} renewals in 5 s");
    server.end_all().await;
}

#[actix::test]
async fn calls_that_arrive_when_they_were_given_up_leave_no_node_behind() {
    pause();
    let store = Memory::new();
    let view = store.view();
    view.fail(Fault::Unanswered);
    let Node { server, cluster, .. } = Node::at("a", view.clone()).await;
    for _ in 0..200 {
        pass(Duration::from_millis(100)).await;
        assert_eq!(lives(&store).await, [], "no life begins before the store answers");
    }
    view.heal();
    eventually("the node to join", async || cluster.node().is_some()).await;
    // A call that begins a life is done, and not answered.
    let old = cluster.node().unwrap();
    store.end_lease(&old);
    let mut lives_of_it = cluster.watch_node();
    within("the loss to be found out", lives_of_it.wait_for(Option::is_none)).await.unwrap();
    view.fail(Fault::Slow(Duration::from_millis(1500)));
    pass(Duration::from_secs(5)).await;
    view.heal();
    eventually("the node to join again", async || cluster.node().is_some()).await;
    assert_eq!(lives(&store).await, [cluster.node().unwrap()]);
    server.end_all().await;
}

#[actix::test]
async fn a_life_that_begins_with_many_shares_may_take_as_long_as_a_lease() {
    pause();
    let store = Memory::new();
    let Node { server, cluster, store: bent } = Node::at("a", Bent::new(&store)).await;
    eventually("the node to join", async || cluster.node().is_some()).await;
    let mut claims = Vec::new();
    for nth in 0..1001 {
        claims.push(cluster.claim(&format!("name {nth}")).await.unwrap());
    }
    let begins_again = async || {
        store.end_lease(&cluster.node().unwrap());
        let mut life = cluster.watch_node();
        within("the loss to be found out", life.wait_for(Option::is_none)).await.unwrap();
        let begun = Instant::now();
        let again = tokio::time::timeout(LEASE, life.wait_for(Option::is_some)).await;
        (again.is_ok(), begun.elapsed())
    };
    bent.bend("begin", Bend::Late(LEASE - Duration::from_secs(1)));
    let (has_begun, after) = begins_again().await;
    assert!(has_begun && after >= LEASE - Duration::from_secs(1), "{has_begun} after {after:?}");
    assert_eq!(lives(&store).await, [cluster.node().unwrap()]);
    // With few a call has its second, and no more.
    claims.truncate(1000);
    pass(Duration::from_secs(1)).await;
    bent.straighten();
    bent.bend("begin", Bend::Late(Duration::from_millis(1500)));
    assert!(!begins_again().await.0);
    bent.straighten();
    eventually("the node to join", async || cluster.node().is_some()).await;
    server.end_all().await;
}

#[actix::test]
async fn another_live_node_of_the_same_name_is_warned_of_once_and_a_dead_one_is_not() {
    keep_log("actix_lines::cluster", LevelFilter::Warn);
    pause();
    let warnings = |name: &str| {
        let name = format!("the name {name},");
        logged().iter().filter(|line| line.contains("another live node") && line.contains(&name)).count()
    };
    let store = Memory::new();
    let dead = Node::join("twin-of-a-dead-one", &store).await;
    dead.store.fail(Fault::Lost);
    let node = Node::join("twin-of-a-dead-one", &store).await;
    let (first, second) = (Node::join("twin", &store).await, Node::join("twin", &store).await);
    pass(LEASE * 2).await;
    assert_eq!(warnings("twin"), 1, "{:?}", logged());
    let elder = format!("the name twin, as {}", first.id());
    assert!(logged().iter().any(|line| line.contains(&elder)), "the newcomer warns of the elder: {:?}", logged());
    // All of them begin anew, and each may find the other.
    for _ in 0..5 {
        store.forget();
        pass(LEASE * 3).await;
    }
    assert_eq!(lives(&store).await.len(), 3, "they are there all the same");
    assert_eq!(warnings("twin-of-a-dead-one"), 0);
    // Each of them once, whatever it finds later.
    assert!((1..=2).contains(&warnings("twin")), "{:?}", logged());
    for node in [dead, node, first, second] {
        node.server.end_all().await;
    }
}

#[actix::test]
async fn an_idle_node_renews_each_three_seconds_and_idle_sessions_cost_the_store_nothing() {
    pause();
    let store = Memory::new();
    let mut calls = Vec::new();
    for sessions in [0, 40] {
        let node = Node::join("a", &store).await;
        let _peers = node.open(sessions).await;
        settled(&store, std::slice::from_ref(&node)).await;
        pass(LEASE * 2).await;
        let before = node.store.calls();
        pass(Duration::from_secs(300)).await;
        let after = node.store.calls();
        let (renewals, probes) = (after.register - before.register, after.publish - before.publish);
        assert!((300 * 10 / 33 - 1..=300 * 10 / 27 + 1).contains(&renewals), "{renewals} renewals in 300 s");
        assert!((199..=201).contains(&probes), "{probes} probes in 300 s");
        assert_eq!(after.total() - before.total(), renewals + probes, "and nothing else");
        calls.push(renewals);
        node.server.end_all().await;
    }
}

#[actix::test]
async fn renewals_come_at_random_moments_a_tenth_more_or_less_than_three_seconds_apart() {
    pause();
    let store = Memory::new();
    let node = Node::join("a", &store).await;
    settled(&store, std::slice::from_ref(&node)).await;
    let (mut last, mut gaps) = (None, Vec::new());
    let mut calls = node.store.calls().register;
    while gaps.len() < 30 {
        pass(Duration::from_millis(10)).await;
        if node.store.calls().register > calls {
            calls += 1;
            gaps.extend(last.replace(Instant::now()).map(|last: Instant| last.elapsed()));
        }
    }
    assert_eq!(node.store.calls().register, calls, "one after the other");
    let seen = Duration::from_millis(20);
    assert!(gaps.iter().all(|gap| (LEASE.mul_f64(0.27) - seen..LEASE.mul_f64(0.33) + seen).contains(gap)), "{gaps:?}");
    let spread = *gaps.iter().max().unwrap() - *gaps.iter().min().unwrap();
    assert!(spread > Duration::from_millis(100), "{gaps:?}");
    node.server.end_all().await;
}

#[actix::test]
async fn a_session_that_comes_and_goes_within_a_batch_costs_the_store_nothing() {
    pause();
    let store = Memory::new();
    let node = Node::join("a", &store).await;
    settled(&store, std::slice::from_ref(&node)).await;
    pass(LEASE).await;
    let (rows, before) = (node.cluster.stats().rows_written, node.store.calls());
    for _ in 0..5 {
        // The clock stands still meanwhile.
        drop(node.session().await);
    }
    eventually("the ends", async || node.server.handle.stats().await.unwrap().live == 0).await;
    pass(Duration::from_secs(1)).await;
    let calls = node.store.calls();
    assert_eq!(node.cluster.stats().rows_written, rows);
    assert!(calls.register - before.register <= 1, "a renewal, if any");
    node.server.end_all().await;
}

#[actix::test]
async fn a_node_with_the_shortest_lease_asks_in_its_third_and_outlives_a_call_without_an_answer() {
    pause();
    let (store, lease) = (Memory::new(), Duration::from_secs(1));
    let way = store.view();
    let builder = Cluster::builder(way.clone()).node("a").lease(lease).call_timeout(lease / 3);
    let cluster = builder.build().unwrap();
    let server = serve(&cluster).await;
    eventually("the node to join", async || cluster.node().is_some()).await;
    let life = cluster.node();
    for _ in 0..5 {
        way.fail(Fault::Hanging);
        let asked = Instant::now();
        assert_eq!(cluster.nodes().await.unwrap_err(), StoreError::Slow { after: lease / 3 });
        let seen = Duration::from_millis(10);
        assert!((lease / 3..lease / 3 + seen).contains(&asked.elapsed()), "{:?}", asked.elapsed());
        way.heal();
        pass(lease).await;
    }
    assert_eq!((cluster.node(), cluster.stats().times_fenced), (life, 0));
    // Its own clock says when it is over, as with any other.
    way.fail(Fault::Hanging);
    pass(lease).await;
    assert_eq!(cluster.node(), None);
    server.end_all().await;
}

#[actix::test]
async fn a_life_begins_once_its_control_channel_is_heard_and_without_it_after_a_second() {
    pause();
    for (late, begins) in [(400, 400), (5000, 1000)].map(|(late, begins)| (late, Duration::from_millis(begins))) {
        let store = Memory::new();
        let bent = Bent::new(&store);
        bent.bend("add", Bend::Late(Duration::from_millis(late)));
        let cluster = Cluster::builder(bent).node("a").build().unwrap();
        let began = Instant::now();
        let server = serve(&cluster).await;
        pass(begins - Duration::from_millis(20)).await;
        assert_eq!((cluster.node(), lives(&store).await), (None, vec![]), "{late} ms");
        eventually("the node to join", async || cluster.node().is_some()).await;
        assert!(began.elapsed() <= begins + Duration::from_millis(50), "{late} ms: {:?}", began.elapsed());
        server.end_all().await;
    }
}

#[actix::test]
async fn two_nodes_of_one_name_are_warned_of_once() {
    keep_log("actix_lines::cluster", LevelFilter::Info);
    pause();
    let store = Memory::new();
    let first = Node::join("twins", &store).await;
    let warned = || logged().iter().filter(|line| line.contains("another live node has the name twins")).count();
    let second = Node::join("twins", &store).await;
    // It may be a former life of this node, for as long as a lease.
    pass(LEASE).await;
    assert_eq!(warned(), 0);
    pass(Duration::from_secs(2)).await;
    assert_eq!(warned(), 1);
    for node in [&first, &second] {
        store.end_lease(&node.id());
        pass(2 * LEASE).await;
    }
    assert_eq!(warned(), 2, "each of them has said so");
    // A node that comes back has no namesake in its former life.
    first.server.end_all().await;
    store.end_lease(&second.id());
    second.joined().await;
    pass(2 * LEASE).await;
    assert_eq!(warned(), 2);
    second.server.end_all().await;
}

#[actix::test]
async fn a_life_that_takes_longer_to_begin_than_its_lease_is_none() {
    pause();
    let store = Memory::new();
    let way = store.view();
    way.fail(Fault::Slow(Duration::from_millis(500)));
    let cluster = Cluster::builder(way.clone()).node("a").build().unwrap();
    let server = serve(&cluster).await;
    eventually("the call that begins it", async || way.calls().register == 1).await;
    // As if the process was stopped, with the answer in its socket.
    tokio::time::advance(LEASE + Duration::from_secs(1)).await;
    way.heal();
    eventually("the node to join", async || cluster.node().is_some()).await;
    assert_eq!((way.calls().register, cluster.stats().lives), (2, 1));
    assert_eq!(lives(&store).await, [cluster.node().unwrap()]);
    server.end_all().await;
}

#[actix::test]
async fn one_server_is_the_node_and_the_settings_of_a_node_are_checked() {
    let store = Memory::new();
    let build = |name: &str| Cluster::builder(store.view()).node(name);
    assert_eq!(Cluster::builder(store.view()).build().unwrap_err(), ClusterError::NoName);
    assert!(matches!(build("a b").build(), Err(ClusterError::Name(_))));
    let lease = Duration::from_millis(999);
    assert_eq!(build("a").lease(lease).build().unwrap_err(), ClusterError::Lease { lease });
    let (timeout, lease) = (Duration::from_secs(2), Duration::from_secs(3));
    let error = ClusterError::CallTimeout { timeout, lease };
    assert_eq!(build("a").lease(lease).call_timeout(timeout).build().unwrap_err(), error);
    let timeout = Duration::from_millis(9);
    let error = ClusterError::CallTimeout { timeout, lease };
    assert_eq!(build("a").lease(lease).call_timeout(timeout).build().unwrap_err(), error);
    // The default is too long for a lease of less than three seconds, and no shorter one is chosen in silence.
    let (timeout, lease) = (Cluster::DEFAULT_CALL_TIMEOUT, Duration::from_millis(2999));
    assert_eq!(build("a").lease(lease).build().unwrap_err(), ClusterError::CallTimeout { timeout, lease });
    build("a").lease(lease).call_timeout(lease / 3).build().unwrap();
    build("a").lease(Duration::from_secs(3)).build().unwrap();

    let cluster = build("a").build().unwrap();
    let server = || actix_lines::LineServer::new(|_| actix_lines::Rot13).on_current_arbiter();
    // One that never starts is none.
    drop(server().cluster(&cluster).unwrap());
    let node = Server::start(server().cluster(&cluster).unwrap()).await;
    let error = server().cluster(&cluster).unwrap_err();
    assert_eq!(error.to_string(), "another server is node a already: build a cluster for each server");
    within("the node to join", async {
        cluster.watch_node().wait_for(Option::is_some).await.unwrap();
    })
    .await;
    node.end_all().await;
}
