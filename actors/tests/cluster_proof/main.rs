//! Nodes of a cluster on a real store, while everything goes wrong that can: afterwards lists are true again, and no line waited.
//!
//! Three nodes are three processes, with peers of whom some type all the while and want each line back as it was. What is waited
//! for is what has to happen, with a bound that no machine needs; how long it took is printed. `CLUSTER_LONG=1` has 2,000
//! sessions a node, and the times of the defaults: `tests/cluster` runs it.
//! Not here: exact times (`cluster_lease` and others, on the paused clock), engines by themselves (`cluster_redis`).

mod clocks;
mod fleet;
mod load;
mod network;
mod node;

#[path = "../support/members.rs"]
mod members;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/redis.rs"]
mod redis;
#[path = "../support/mod.rs"]
mod support;

use std::{net::SocketAddr, time::Instant};

use actix_lines::cluster::{Cluster, redis::Redis};
use fleet::{Fleet, Form, Node};
use proxy::{Fault, Proxy};
use redis::{Program, StoreServer};
use rustix::process::Signal;
use support::eventually;

/// A reader of the store beside all nodes.
fn reader(url: &str) -> Redis {
    Redis::at(url).build().unwrap()
}

fn same(url: &str) -> [String; 3] {
    [url, url, url].map(str::to_owned)
}

/// Waits until all nodes have lost the store, and hold no lease any more.
async fn all_are_alone(fleet: &Fleet) {
    for (node, _) in fleet.nodes.values() {
        eventually("a node to lose its lease with the store", async || node.life().await.is_none()).await;
    }
}

async fn all_are_connected(fleet: &Fleet) {
    for (node, _) in fleet.nodes.values() {
        eventually("a node to find the store", async || node.is_connected().await).await;
    }
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn a_killed_node_is_gone_from_all_lists_and_no_other_notices() {
    let form = Form::of_run();
    let store = StoreServer::start(Program::Redis);
    let reader = reader(&store.url());
    let mut fleet = Fleet::start(form, &same(&store.url()), &reader).await;
    fleet.peers("c").stop_typing().await;
    let (killed, _peers) = fleet.remove("c");
    killed.signal(Signal::KILL);
    let took = fleet.is_true(&reader, "the rows of a killed node to go").await;
    fleet.type_on().await;
    fleet.works(&reader).await;
    fleet.report("killed");
    eprintln!("killed: gone after {took:?}, the lease is {:?}", form.lease);
    // Another life of the same name.
    drop(killed);
    fleet.add(Node::start("c", &store.url(), form)).await;
    fleet.is_true(&reader, "the node to be there again").await;
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn a_node_that_was_stopped_for_longer_than_its_lease_never_claims_with_its_old_life() {
    let form = Form::of_run();
    let store = StoreServer::start(Program::Redis);
    let reader = reader(&store.url());
    let mut fleet = Fleet::start(form, &same(&store.url()), &reader).await;
    fleet.peers("b").stop_typing().await;
    let old = fleet.node("b").life().await.expect("a life");
    let (stopped, peers) = fleet.remove("b");
    stopped.signal(Signal::STOP);
    let begin = Instant::now();
    fleet.is_true(&reader, "the rows of a stopped node to go").await;
    let took = begin.elapsed();
    fleet.type_on().await;
    stopped.signal(Signal::CONT);
    let begin = Instant::now();
    eventually("another life to begin", async || {
        let life = stopped.life().await;
        assert_ne!(life.as_ref(), Some(&old), "its old life is over");
        life.is_some()
    })
    .await;
    fleet.nodes.insert("b".to_owned(), (stopped, peers));
    fleet.is_true(&reader, "its sessions to be listed again").await;
    fleet.works(&reader).await;
    fleet.report("stopped");
    eprintln!("stopped: gone after {took:?}, listed again {:?} after it went on", begin.elapsed());
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn a_store_that_was_killed_and_has_started_empty_is_written_again() {
    let form = Form::of_run();
    let mut store = StoreServer::start(Program::Redis);
    let reader = reader(&store.url());
    let mut fleet = Fleet::start(form, &same(&store.url()), &reader).await;
    store.kill();
    fleet.type_on().await;
    all_are_alone(&fleet).await;
    fleet.type_on().await;
    // Who comes and goes meanwhile is right later.
    fleet.peers("a").add(7).await;
    fleet.peers("b").remove(5);
    store.start_again();
    let took = fleet.is_true(&reader, "all to be written again").await;
    fleet.report("empty");
    eprintln!("empty: written again after {took:?}");

    // At once, so that no lease is over by the nodes' own clocks.
    store.start_again();
    let took = fleet.is_true(&reader, "all to be written again").await;
    all_are_connected(&fleet).await;
    fleet.works(&reader).await;
    fleet.report("empty at once");
    eprintln!("empty at once: written again after {took:?}");
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn a_store_that_stands_still_is_found_again_when_it_goes_on() {
    let short = Form::of_run();
    // So that a lease outlasts a sleep by more than a busy machine takes.
    let form = Form { lease: 2 * short.lease, ..short };
    let store = StoreServer::start(Program::Redis);
    let reader = reader(&store.url());
    let mut fleet = Fleet::start(form, &same(&store.url()), &reader).await;
    let begin = Instant::now();
    store.pause();
    fleet.type_on().await;
    all_are_alone(&fleet).await;
    while begin.elapsed() < form.outage {
        fleet.type_on().await;
    }
    fleet.peers("a").add(7).await;
    fleet.peers("b").remove(5);
    store.resume();
    let begin = Instant::now();
    all_are_connected(&fleet).await;
    let found = begin.elapsed();
    fleet.is_true(&reader, "all to be written again").await;
    let took = begin.elapsed();
    fleet.type_on().await;
    fleet.works(&reader).await;
    fleet.report("stood still");
    eprintln!("stood still for {:?}: found after {found:?}, true again after {took:?}", form.outage);

    // The same by its own hand, shorter than a lease: nobody has lost anything.
    let lives: Vec<_> = futures::future::join_all(fleet.nodes.values().map(|(node, _)| node.life())).await;
    store.sleep(form.lease / 12);
    fleet.type_on().await;
    fleet.is_true(&reader, "the store to answer again").await;
    let after: Vec<_> = futures::future::join_all(fleet.nodes.values().map(|(node, _)| node.life())).await;
    assert_eq!(lives, after, "a sleep within the lease ends no life");
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn after_a_failover_by_sentinel_all_is_true_on_the_new_master() {
    let form = Form::of_run();
    let mut master = StoreServer::start(Program::Redis);
    let replica = StoreServer::start_replica(&master);
    let sentinel = StoreServer::start_sentinel("lines", &master);
    eventually("the sentinel to know the replica", async || sentinel.must(&["INFO", "sentinel"]).contains("slaves=1"))
        .await;
    let url = format!("redis-sentinel://127.0.0.1:{}/lines", sentinel.port());
    let reader_of_master = reader(&url);
    let mut fleet = Fleet::start(form, &same(&url), &reader_of_master).await;
    master.kill();
    let begin = Instant::now();
    fleet.type_on().await;
    fleet.peers("a").add(7).await;
    eventually("the replica to be the master", async || replica.is_master()).await;
    let promoted = begin.elapsed();
    let reader_of_replica = reader(&replica.url());
    fleet.is_true(&reader_of_replica, "all to be true on the new master").await;
    all_are_connected(&fleet).await;
    let took = begin.elapsed();
    // Subscriptions too are on the new one: a probe comes back.
    for (node, _) in fleet.nodes.values() {
        let before = node.ask("stats").await["messages"].as_u64();
        eventually("a probe to come back", async || node.ask("stats").await["messages"].as_u64() > before).await;
    }
    fleet.type_on().await;
    fleet.works(&reader_of_replica).await;
    fleet.report("failover");
    eprintln!("failover: promoted after {promoted:?}, true again after {took:?}");
}

/// Three nodes, of which one reaches the store through a proxy.
async fn with_proxy(form: Form) -> (StoreServer, Redis, Proxy, Fleet) {
    let store = StoreServer::start(Program::Redis);
    let reader = reader(&store.url());
    let proxy = Proxy::to(SocketAddr::from(([127, 0, 0, 1], store.port()))).await;
    let urls = [format!("redis://{}", proxy.address), store.url(), store.url()];
    let fleet = Fleet::start(form, &urls, &reader).await;
    (store, reader, proxy, fleet)
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn a_node_whose_subscription_is_deaf_finds_out_and_hears_again() {
    let form = Form::of_run();
    let (_store, reader, proxy, mut fleet) = with_proxy(form).await;
    let begin = Instant::now();
    proxy.set(Fault::Deaf);
    eventually("the node to find that it is deaf", async || {
        fleet.node("a").ask("stats").await["times_deaf"].as_u64() > Some(0)
    })
    .await;
    let found = begin.elapsed();
    fleet.type_on().await;
    // Nothing but messages is lost.
    fleet.is_true(&reader, "its rows to stay").await;
    proxy.set(Fault::None);
    let begin = Instant::now();
    all_are_connected(&fleet).await;
    fleet.works(&reader).await;
    fleet.report("deaf");
    eprintln!("deaf: found out after {found:?}, hears {:?} after it can", begin.elapsed());
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn whatever_a_store_answers_and_however_late_no_line_waits_and_all_is_true_afterwards() {
    let form = Form::of_run();
    let (_store, reader, proxy, mut fleet) = with_proxy(form).await;
    for fault in [
        Fault::Late(form.lease / 8),
        Fault::Error("LOADING Redis is loading the dataset in memory"),
        Fault::Error("OOM command not allowed when used memory > 'maxmemory'."),
        Fault::Error("READONLY You can't write against a read only replica."),
        Fault::Error("ERR a fault of a test"),
        Fault::Unanswered,
        Fault::Silent,
        Fault::Cut,
    ] {
        proxy.set(fault);
        let before = fleet.node("a").ask("stats").await["calls"]["total"].as_u64();
        fleet.peers("a").add(3).await;
        fleet.peers("a").remove(2);
        fleet.type_on().await;
        eventually("the node to have asked the store", async || {
            fleet.node("a").ask("stats").await["calls"]["total"].as_u64() > before
        })
        .await;
        fleet.type_on().await;
        proxy.set(Fault::None);
        let took = fleet.is_true(&reader, "all to be true again").await;
        all_are_connected(&fleet).await;
        eprintln!("{fault:?}: true again after {took:?}");
    }
    fleet.works(&reader).await;
    fleet.report("answers");
}

#[actix::test]
#[ignore = "needs redis-server, ip and iptables, and root: run tests/run"]
async fn a_node_that_is_cut_off_by_a_packet_filter_goes_on_alone_and_comes_back() {
    if let Some(why) = network::missing() {
        eprintln!("not run: {why}");
        return;
    }
    let form = Form::of_run();
    let store = StoreServer::start(Program::Redis);
    let reader = reader(&store.url());
    // The store listens on the loopback address alone.
    let proxy = Proxy::on("0.0.0.0:0", SocketAddr::from(([127, 0, 0, 1], store.port()))).await;
    let mut fleet = Fleet::start(form, &same(&store.url()), &reader).await;
    let url = format!("redis://{}:{}", network::here(), proxy.address.port());
    fleet.add(network::node_behind_a_cable("d", &url, form)).await;
    fleet.is_true(&reader, "the node behind the cable to be there").await;

    let begin = Instant::now();
    network::filter(fleet.node("d"), Some(proxy.address.port()));
    fleet.type_on().await;
    let (node, peers) = fleet.remove("d");
    fleet.is_true(&reader, "the rows of a node that is cut off to go").await;
    let gone = begin.elapsed();
    eventually("the node to know that its lease is over", async || node.life().await.is_none()).await;
    peers.type_on(20).await;
    let known = begin.elapsed();
    network::filter(&node, None);
    fleet.nodes.insert("d".to_owned(), (node, peers));
    let back = fleet.is_true(&reader, "its sessions to be listed again").await;
    all_are_connected(&fleet).await;
    fleet.type_on().await;
    fleet.works(&reader).await;
    fleet.report("cut off");
    eprintln!("cut off: gone after {gone:?}, known there after {known:?}, listed again {back:?} after the filter");
}

#[actix::test]
#[ignore = "needs redis-server and faketime; tests/run runs it"]
async fn a_wall_clock_that_jumps_changes_nothing_at_a_node() {
    let Some(clock) = clocks::Clock::new("node") else {
        eprintln!("not run: libfaketime is not installed");
        return;
    };
    // No machine is so busy that a lease of this time is not renewed.
    let form = Form { lease: Cluster::DEFAULT_LEASE, ..Form::of_run() };
    let store = StoreServer::start(Program::Redis);
    let reader = reader(&store.url());
    let mut fleet = Fleet::start(form, &same(&store.url()), &reader).await;
    fleet.add(Node::start_by(clock.program(), "d", &store.url(), form)).await;
    fleet.is_true(&reader, "the node with a clock of its own to be there").await;
    let life = fleet.node("d").life().await;
    let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs().cast_signed();
    for jump in [3_600, -3_600, 0] {
        clock.set(jump);
        let clock = fleet.node("d").ask("node").await["clock"].as_i64().unwrap();
        assert!((clock - now() - jump).abs() < 1_800, "its clock has jumped");
        fleet.peers("d").add(3).await;
        fleet.peers("d").remove(2);
        fleet.type_on().await;
        fleet.is_true(&reader, "its sessions to be listed").await;
        // For whoever looks often its end comes nearer but for then.
        let mut left = f64::INFINITY;
        eventually("the lease to be renewed", async || {
            let now = fleet.node("d").ask("stats").await["lease_left"].as_f64().expect("a lease");
            std::mem::replace(&mut left, now) < now
        })
        .await;
        assert_eq!(fleet.node("d").life().await, life, "no jump ends a life");
    }
    fleet.works(&reader).await;
    fleet.report("clock of a node");
}

#[actix::test]
#[ignore = "needs valkey-server and faketime; tests/run runs it"]
async fn after_a_jump_of_the_stores_clock_all_is_true_again() {
    let Some(clock) = clocks::Clock::new("store") else {
        eprintln!("not run: libfaketime is not installed");
        return;
    };
    let form = Form::of_run();
    // Debian's Redis has an allocator that asks for the time before libfaketime knows it.
    if !Program::installed().contains(&Program::Valkey) {
        return;
    }
    let store = StoreServer::start_in(Program::Valkey, clock.environment());
    let reader = reader(&store.url());
    let mut fleet = Fleet::start(form, &same(&store.url()), &reader).await;
    let at = |store: &StoreServer| store.must(&["TIME"]).lines().next().unwrap().parse::<i64>().unwrap();
    for jump in [3_600, 0] {
        let before = at(&store);
        clock.set(jump);
        eventually("its clock to jump", async || (at(&store) - before).abs() > 1_800).await;
        let begin = Instant::now();
        // A renewal of each, which finds out.
        for (node, _) in fleet.nodes.values() {
            let before = node.ask("stats").await["calls"]["total"].as_u64().map(|count| count + 4);
            eventually("the lease to be renewed", async || node.ask("stats").await["calls"]["total"].as_u64() > before)
                .await;
        }
        fleet.type_on().await;
        fleet.is_true(&reader, "all to be true").await;
        let took = begin.elapsed();
        eprintln!("clock of the store: true {took:?} after its jump to {jump:+} s");
    }
    // A node that dies before it has renewed its lease behind a jump back is gone as soon as any.
    clock.set(3_600);
    all_are_connected(&fleet).await;
    fleet.is_true(&reader, "all to be true").await;
    fleet.peers("c").stop_typing().await;
    let (killed, _peers) = fleet.remove("c");
    killed.signal(Signal::STOP);
    clock.set(0);
    drop(killed);
    let took = fleet.is_true(&reader, "the rows of a killed node to go").await;
    all_are_connected(&fleet).await;
    fleet.works(&reader).await;
    fleet.report("clock of the store");
    eprintln!("clock of the store: a killed node was gone after {took:?}");
}
