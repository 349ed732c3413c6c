//! K3: a kick over nodes is answered, and so is a push: by each node once, with what has become of it there, in time.

#[path = "support/bent.rs"]
mod bent;
#[path = "support/members.rs"]
mod members;
#[path = "support/nodes.rs"]
mod nodes;
mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use actix::Actor;
use actix_lines::{
    CloseReason, Line, LineContext, LineHandler, LineServer,
    cluster::{
        Answers, AskError, Change, Cluster, ClusterBuilder, ClusterFilter, GlobalId, NodeId, Outcome, Store,
        StoreError,
        memory::{Fault, Memory},
    },
    control::{SessionFilter, SessionState},
    limits::{Limits, OutboxLimit},
};
use bent::{Bend, Bent};
use bytes::Bytes;
use futures::future::join_all;
use members::Nameable;
use nodes::Node;
use support::{Peer, eventually, pass, pause, within};
use tokio::{sync::mpsc, time::Instant};

fn done(sessions: u64) -> Outcome {
    Outcome::Done { sessions, dropped: 0 }
}

/// The answers, by the ids of the nodes.
fn told(answers: &Answers) -> Vec<(Option<NodeId>, Outcome)> {
    answers.nodes.iter().map(|answer| (answer.id.clone(), answer.outcome.clone())).collect()
}

/// Starts the nodes a, b and c with a store.
async fn three() -> (Memory, [Node; 3]) {
    pause();
    let memory = Memory::new();
    let start = async |name| Node::serve(name, &memory, LineServer::new(|_| Nameable)).await;
    let nodes = [start("a").await, start("b").await, start("c").await];
    (memory, nodes)
}

/// Connects a peer that was served.
async fn peer(node: &Node) -> Peer {
    let mut peer = node.server.connect().await;
    peer.send(b"here\n").await;
    peer.expect(b"here\n").await;
    peer
}

async fn end(nodes: impl IntoIterator<Item = Node>) {
    for node in nodes {
        node.server.end_all().await;
    }
}

/// The time that asked nodes have, and some timers of tokio.
fn is_deadline(time: Duration) -> bool {
    (Cluster::DEFAULT_ASK_TIMEOUT..Cluster::DEFAULT_ASK_TIMEOUT + Duration::from_millis(100)).contains(&time)
}

#[actix::test]
async fn by_id_the_owner_alone_is_asked_and_answers() {
    let (_memory, [a, b, c]) = three().await;
    let (mut first, mut second) = (peer(&b).await, peer(&b).await);
    let ids = b.ids().await;
    let answers = a.cluster.push(ids[0].clone(), "for one\n").await.unwrap();
    assert_eq!(told(&answers), [(Some(b.id()), done(1))]);
    assert!(answers.is_complete());
    first.expect(b"for one\n").await;
    let answers = a.cluster.kick(ids[0].clone(), "goodbye\n").await.unwrap();
    assert_eq!(told(&answers), [(Some(b.id()), done(1))]);
    first.expect(b"goodbye\n").await;
    first.expect_eof().await;
    second.send(b"still here\n").await;
    second.expect(b"still here\n").await;
    // By the name of another node beside the id nobody is meant.
    let nobody = ClusterFilter::id(ids[1].clone()).node("c".parse().unwrap());
    assert_eq!(told(&a.cluster.kick(nobody, "").await.unwrap()), []);
    assert_eq!((a.cluster.stats().asked, b.cluster.stats().requests, c.cluster.stats().requests), (2, 2, 0));
    end([a, b, c]).await;
}

#[actix::test]
async fn by_a_filter_each_node_is_asked_once_and_says_how_many() {
    let (_memory, [a, b, c]) = three().await;
    let mut peers = [peer(&a).await, peer(&b).await, peer(&b).await];
    let all = ClusterFilter::default;
    let answers = a.cluster.push(all(), "for all\n").await.unwrap();
    let of_all = [(Some(a.id()), done(1)), (Some(b.id()), done(2)), (Some(c.id()), Outcome::NotFound)];
    assert_eq!(told(&answers), of_all);
    assert_eq!((answers.sessions(), answers.is_complete()), (3, true));
    let lines: Vec<_> = answers.nodes.iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["a: 1 session", "b: 2 sessions", "c: not found"]);
    for peer in &mut peers {
        peer.expect(b"for all\n").await;
    }
    // Whoever asks, all are asked.
    assert_eq!(told(&c.cluster.push(all().listener("public"), "x\n").await.unwrap()), of_all);
    let selected = [
        (all().node("b".parse().unwrap()), vec![(Some(b.id()), done(2))]),
        (all().node("a".parse().unwrap()), vec![(Some(a.id()), done(1))]),
        (all().node("nobody".parse().unwrap()), vec![(None, Outcome::NodeGone)]),
        (all().source("127.0.0.0/8".parse().unwrap()), of_all.to_vec()),
        (all().age_at_least(Duration::ZERO).outbox_at_least(0), of_all.to_vec()),
    ];
    for (filter, expected) in selected {
        assert_eq!(told(&a.cluster.push(filter.clone(), "x\n").await.unwrap()), expected, "{filter:?}");
    }
    let nobody = [
        all().source("192.0.2.0/24".parse().unwrap()),
        all().listener("private"),
        all().listener("0"),
        all().state(SessionState::Held),
        all().outbox_at_least(1),
        all().idle_at_least(Duration::from_secs(3600)),
        all().age_at_least(Duration::from_secs(3600)),
    ];
    for filter in nobody {
        let answers = a.cluster.push(filter.clone(), "x\n").await.unwrap();
        assert!(told(&answers).iter().all(|(_, outcome)| *outcome == Outcome::NotFound), "{filter:?}: {answers:?}");
        assert_eq!(answers.nodes.len(), 3, "{filter:?}");
    }
    // In a state that the owners know, and nobody else.
    peers[1].send(b"!wait\n").await;
    eventually("a session that waits", async || {
        b.server.sessions().await.iter().any(|session| session.state == SessionState::Held)
    })
    .await;
    let answers = c.cluster.kick(all().state(SessionState::Held), "").await.unwrap();
    assert_eq!((answers.sessions(), answers.nodes.len()), (1, 3));
    end([a, b, c]).await;
}

#[actix::test]
async fn a_push_says_how_many_had_no_room_for_it() {
    pause();
    let memory = Memory::new();
    let limits = Limits::builder().outbox_limit(OutboxLimit { hard: 64 * 1024, ..OutboxLimit::default() });
    let a = Node::serve("a", &memory, LineServer::new(|_| Nameable)).await;
    let b = Node::serve("b", &memory, LineServer::new(|_| Nameable).limits(limits.build().unwrap())).await;
    let mut reads_nothing = peer(&b).await;
    reads_nothing.send_until_stuck(&b.server, &[b"x".repeat(8000), b"\n".to_vec()].concat(), 32 * 1024).await;
    let mut reads = peer(&b).await;
    let answers = a.cluster.push(ClusterFilter::default(), "y".repeat(60_000)).await.unwrap();
    let told_one = Outcome::Done { sessions: 1, dropped: 1 };
    assert_eq!(told(&answers), [(Some(a.id()), Outcome::NotFound), (Some(b.id()), told_one)]);
    reads.expect(&b"y".repeat(60_000)).await;
    drop(reads_nothing);
    end([a, b]).await;
}

#[actix::test]
async fn by_name_and_tag_sessions_are_reached_wherever_they_are() {
    let (_memory, [a, b, c]) = three().await;
    let mut peers = Vec::new();
    for (node, words) in
        [(&a, "!name alice"), (&b, "!name alice"), (&b, "!name bob"), (&c, "!tag staff"), (&a, "!tag staff")]
    {
        let mut peer = node.server.connect().await;
        peer.send(format!("{words}\n").as_bytes()).await;
        peer.expect(format!("{words}\n").as_bytes()).await;
        peers.push(peer);
    }
    let ids = [&a, &b, &c].map(|node| Some(node.id()));
    let outcomes = |outcomes: [Outcome; 3]| ids.clone().into_iter().zip(outcomes).collect::<Vec<_>>();
    let none = Outcome::NotFound;
    let expected = outcomes([done(1), none.clone(), done(1)]);
    assert_eq!(told(&b.cluster.push(ClusterFilter::default().tag("staff"), "staff\n").await.unwrap()), expected);
    for peer in &mut peers[3..] {
        peer.expect(b"staff\n").await;
    }
    let expected = outcomes([none.clone(), done(1), none.clone()]);
    assert_eq!(told(&a.cluster.push(ClusterFilter::default().name("bob"), "for bob\n").await.unwrap()), expected);
    peers[2].expect(b"for bob\n").await;
    let expected = outcomes([done(1), done(1), none]);
    assert_eq!(told(&c.cluster.kick(ClusterFilter::default().name("alice"), "bye\n").await.unwrap()), expected);
    for peer in &mut peers[..2] {
        peer.expect(b"bye\n").await;
        peer.expect_eof().await;
    }
    assert_eq!(a.cluster.kick(ClusterFilter::default().name("alice").tag("staff"), "").await.unwrap().sessions(), 0);
    end([a, b, c]).await;
}

#[actix::test]
async fn by_name_a_session_is_reached_whose_row_is_not_there() {
    let (memory, [a, b, c]) = three().await;
    let mut alice = b.server.connect().await;
    alice.send(b"!name alice\n").await;
    alice.expect(b"!name alice\n").await;
    eventually("the row", async || a.cluster.lookup("alice").await.unwrap().total == 1).await;
    let row = a.cluster.lookup("alice").await.unwrap().sessions.remove(0).id.session.get();
    let lease = Cluster::DEFAULT_LEASE;
    let lost = Change { lease, remove: vec![row], is_partial: Some(true), ..Change::default() };
    memory.register(&b.id(), &lost).await.unwrap();
    let page = a.cluster.lookup("alice").await.unwrap();
    assert_eq!((page.total, page.unread.len(), &page.unread[0].node), (0, 1, &b.id()), "{page:?}");
    let by_name = ClusterFilter::default().name("alice");
    let answers = a.cluster.push(by_name.clone(), "to alice\n").await.unwrap();
    assert_eq!((answers.sessions(), answers.is_complete()), (1, true), "{answers:?}");
    alice.expect(b"to alice\n").await;
    let answers = a.cluster.kick(by_name, "bye\n").await.unwrap();
    assert_eq!((answers.sessions(), answers.is_complete()), (1, true), "{answers:?}");
    alice.expect(b"bye\n").await;
    alice.expect_eof().await;
    end([a, b, c]).await;
}

#[actix::test]
async fn a_session_that_is_not_there_is_not_found_and_a_life_that_is_over_is_gone() {
    let (memory, [a, b, c]) = three().await;
    let mut stays = peer(&b).await;
    let id = b.ids().await.remove(0);
    let ended = GlobalId { session: "999999".parse().unwrap(), ..id.clone() };
    assert_eq!(told(&a.cluster.kick(ended, "").await.unwrap()), [(Some(b.id()), Outcome::NotFound)]);
    let nobody: GlobalId = "nobody.0000001f.1".parse().unwrap();
    let begun = Instant::now();
    assert_eq!(told(&a.cluster.kick(nobody.clone(), "").await.unwrap()), [(Some(nobody.node), Outcome::NodeGone)]);
    assert!(begun.elapsed() < Duration::from_millis(100), "at once");
    // Its session lives on in the next life, under another id.
    memory.end_lease(&b.id());
    eventually("another life", async || b.cluster.node().is_some_and(|life| life != id.node)).await;
    assert_eq!(told(&a.cluster.kick(id.clone(), "").await.unwrap()), [(Some(id.node.clone()), Outcome::NodeGone)]);
    assert_eq!(told(&b.cluster.kick(id.clone(), "").await.unwrap()), [(Some(id.node), Outcome::NodeGone)]);
    stays.send(b"still here\n").await;
    stays.expect(b"still here\n").await;
    let id = b.ids().await.remove(0);
    assert_eq!(told(&a.cluster.kick(id, "").await.unwrap()), [(Some(b.id()), done(1))]);
    stays.expect_eof().await;
    end([a, b, c]).await;
}

#[actix::test]
async fn a_node_that_has_died_is_gone_at_once_and_soon_not_asked_at_all() {
    let (_memory, [a, b, c]) = three().await;
    let _peers = [peer(&a).await, peer(&b).await, peer(&c).await];
    let dead = b.id();
    // Nothing of it reaches the store any more, its subscription is closed, its lease is not over yet.
    b.store.fail(Fault::Lost);
    let begun = Instant::now();
    let answers = a.cluster.push(ClusterFilter::default(), "x\n").await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(100), "at once");
    assert_eq!(told(&answers), [(Some(a.id()), done(1)), (Some(dead), Outcome::NodeGone), (Some(c.id()), done(1))]);
    assert_eq!((answers.sessions(), answers.is_complete()), (2, false));
    pass(Cluster::DEFAULT_LEASE).await;
    let answers = a.cluster.push(ClusterFilter::default(), "x\n").await.unwrap();
    assert_eq!(told(&answers), [(Some(a.id()), done(1)), (Some(c.id()), done(1))]);
    end([a, b, c]).await;
}

#[actix::test]
async fn a_node_that_does_not_answer_has_timed_out_and_delays_nobody_else() {
    let (_memory, [a, b, c]) = three().await;
    let _peers = [peer(&a).await, peer(&b).await];
    let mut of_c = peer(&c).await;
    for fault in [Fault::Deaf, Fault::Partitioned] {
        b.store.fail(fault);
        let begun = Instant::now();
        let cluster = a.cluster.clone();
        let asked = actix_rt::spawn(async move { cluster.push(ClusterFilter::default(), "x\n").await.unwrap() });
        of_c.expect(b"x\n").await;
        assert!(begun.elapsed() < Duration::from_millis(100), "{fault:?}");
        let answers = within("answers", asked).await.unwrap();
        assert!(is_deadline(begun.elapsed()), "{fault:?}: {:?}", begun.elapsed());
        assert_eq!(
            told(&answers),
            [(Some(a.id()), done(1)), (Some(b.id()), Outcome::TimedOut), (Some(c.id()), done(1))],
            "{fault:?}"
        );
        assert!(!answers.is_complete());
        b.store.heal();
        // It finds out, and subscribes anew.
        eventually("the node to hear again", async || {
            let answers = a.cluster.push(ClusterFilter::default(), "").await.unwrap();
            told(&answers)[1] == (Some(b.id()), done(1))
        })
        .await;
    }
    assert!(a.cluster.stats().asks_timed_out >= 2);
    end([a, b, c]).await;
}

#[actix::test]
async fn a_slow_store_delays_answers_and_one_that_is_too_slow_leaves_unknown_what_was_done() {
    let (_memory, [a, b, c]) = three().await;
    let mut of_b = peer(&b).await;
    let all = || ClusterFilter::default().node("b".parse().unwrap());
    b.store.fail(Fault::Slow(Duration::from_millis(700)));
    let begun = Instant::now();
    assert_eq!(told(&a.cluster.push(all(), "slow\n").await.unwrap()), [(Some(b.id()), done(1))]);
    assert!(begun.elapsed() >= Duration::from_millis(350), "its answer was on its way for as long");
    of_b.expect(b"slow\n").await;
    // It hears, and its answer is lost.
    b.store.fail(Fault::Hanging);
    assert_eq!(told(&a.cluster.push(all(), "lost\n").await.unwrap()), [(Some(b.id()), Outcome::TimedOut)]);
    of_b.expect(b"lost\n").await;
    b.store.heal();
    // The asker is not told whether its question was published, but gets an answer.
    a.store.fail(Fault::Unanswered);
    let id = b.ids().await.remove(0);
    assert_eq!(told(&a.cluster.push(id, "unanswered\n").await.unwrap()), [(Some(b.id()), done(1))]);
    of_b.expect(b"unanswered\n").await;
    // Nor when the answer comes behind the time that the store had.
    a.store.fail(Fault::Slow(Duration::from_millis(1900)));
    b.store.fail(Fault::Slow(Duration::from_millis(400)));
    let (id, begun) = (b.ids().await.remove(0), Instant::now());
    assert_eq!(told(&a.cluster.push(id, "late\n").await.unwrap()), [(Some(b.id()), done(1))]);
    assert!(begun.elapsed() > Cluster::DEFAULT_CALL_TIMEOUT);
    of_b.expect(b"late\n").await;
    end([a, b, c]).await;
}

#[actix::test]
async fn without_the_store_the_own_sessions_are_reached_at_once_and_the_rest_is_named() {
    let (_memory, [a, b, c]) = three().await;
    let mut of_a = peer(&a).await;
    let _of_b = peer(&b).await;
    let (own, other) = (a.ids().await.remove(0), b.ids().await.remove(0));
    let lost = |outcome: &Outcome| matches!(outcome, Outcome::StoreLost { error: StoreError::Lost { .. } });
    a.store.fail(Fault::Lost);
    let calls = a.store.calls();
    assert_eq!(told(&a.cluster.push(own.clone(), "by id\n").await.unwrap()), [(Some(a.id()), done(1))]);
    let by_node = ClusterFilter::default().node("a".parse().unwrap());
    assert_eq!(told(&a.cluster.push(by_node, "by node\n").await.unwrap()), [(Some(a.id()), done(1))]);
    of_a.expect(b"by id\nby node\n").await;
    assert_eq!((a.store.calls().nodes, a.store.calls().lookup), (calls.nodes, calls.lookup));
    let answers = a.cluster.push(ClusterFilter::default(), "all\n").await.unwrap();
    assert_eq!(told(&answers), [(Some(a.id()), done(1))]);
    assert!(matches!(answers.others, Some(StoreError::Lost { .. })) && !answers.is_complete());
    of_a.expect(b"all\n").await;
    let answers = a.cluster.kick(other.clone(), "").await.unwrap();
    assert!(lost(&answers.nodes[0].outcome), "{answers:?}");

    // A store that hangs: the own sessions do not wait.
    a.store.fail(Fault::Hanging);
    let (begun, cluster) = (Instant::now(), a.cluster.clone());
    let asked = actix_rt::spawn(async move { cluster.push(ClusterFilter::default(), "hangs\n").await.unwrap() });
    of_a.expect(b"hangs\n").await;
    assert!(begun.elapsed() < Duration::from_millis(100));
    let answers = within("answers", asked).await.unwrap();
    assert!(matches!(answers.others, Some(StoreError::Slow { .. })), "{answers:?}");
    assert_eq!(answers.sessions(), 1);

    // So long that its lease is over, so nobody could answer it, whether or not the store is back.
    eventually("the end of the lease", async || a.cluster.node().is_none()).await;
    let answers = a.cluster.push(ClusterFilter::default(), "no lease\n").await.unwrap();
    assert_eq!(told(&answers), [(None, done(1))]);
    of_a.expect(b"no lease\n").await;
    let answers = a.cluster.kick(other, "").await.unwrap();
    assert!(lost(&answers.nodes[0].outcome), "{answers:?}");
    end([a, b, c]).await;
}

#[actix::test]
async fn a_request_that_comes_twice_is_done_once() {
    let (memory, [a, b, c]) = three().await;
    let mut of_b = peer(&b).await;
    // Somebody hears all that is said to b, and says it once more.
    let (to, mut heard) = mpsc::channel(64);
    let mut subscription = memory.subscribe(to).await.unwrap();
    let channel = format!("c:{}", b.id());
    subscription.add(std::slice::from_ref(&channel)).await.unwrap();
    let id = b.ids().await.remove(0);
    assert_eq!(a.cluster.push(id.clone(), "once\n").await.unwrap().sessions(), 1);
    drop(subscription);
    let mut again = 0;
    while let Some(message) = heard.recv().await {
        if message.bytes.windows(5).any(|bytes| bytes == b"\"ask\"") {
            memory.publish(&channel, message.bytes.clone()).await.unwrap();
            memory.publish(&channel, message.bytes).await.unwrap();
            again += 2;
        }
    }
    assert_eq!(again, 2);
    // Nor is anything else done that is no request.
    for text in ["", "{}", "moon", r#"{"v":9,"answer":1,"from":"a.0000001f"}"#] {
        memory.publish(&channel, Bytes::from_static(text.as_bytes())).await.unwrap();
    }
    eventually("them all to be read", async || b.cluster.stats().messages_unknown == 4).await;
    assert_eq!(b.cluster.stats().requests_again, 2);
    assert_eq!(a.cluster.push(id, "twice\n").await.unwrap().sessions(), 1);
    of_b.expect(b"once\ntwice\n").await;
    end([a, b, c]).await;
}

#[actix::test]
async fn a_node_whose_lease_is_over_does_nothing_that_it_was_asked_for() {
    let (memory, [a, b, c]) = three().await;
    let mut of_b = peer(&b).await;
    let old = b.id();
    // It hears, but cannot renew its lease.
    b.store.fail(Fault::Hanging);
    eventually("the end of the lease", async || b.cluster.node().is_none()).await;
    let id = GlobalId { node: old.clone(), session: b.server.sessions().await[0].id };
    let cluster = a.cluster.clone();
    let asked = actix_rt::spawn(async move { cluster.kick(id, "").await.unwrap() });
    eventually("the request to be read", async || b.cluster.stats().requests == 1).await;
    assert_eq!(told(&within("answers", asked).await.unwrap()), [(Some(old), Outcome::TimedOut)]);
    of_b.send(b"still here\n").await;
    of_b.expect(b"still here\n").await;
    drop(memory);
    end([a, b, c]).await;
}

#[actix::test]
async fn an_answer_that_comes_too_late_is_counted_and_changes_nothing() {
    pause();
    let memory = Memory::new();
    let in_time = |builder: ClusterBuilder| builder.ask_timeout(Duration::from_millis(200));
    let a = Node::serve_with("a", &memory, LineServer::new(|_| Nameable), in_time).await;
    let b = Node::serve("b", &memory, LineServer::new(|_| Nameable)).await;
    let mut told_late = peer(&b).await;
    b.store.fail(Fault::Slow(Duration::from_millis(800)));
    let answers = a.cluster.push(b.ids().await.remove(0), "late\n").await.unwrap();
    assert_eq!(told(&answers), [(Some(b.id()), Outcome::TimedOut)]);
    told_late.expect(b"late\n").await;
    eventually("the answer", async || a.cluster.stats().answers_late == 1).await;
    let stats = a.cluster.stats();
    assert_eq!((stats.asked, stats.asks_timed_out, b.cluster.stats().requests), (1, 1, 1));
    end([a, b]).await;
}

#[actix::test]
async fn a_node_without_a_lease_asks_no_former_life_of_its_own() {
    pause();
    let memory = Memory::new();
    let Node { server, cluster, store: bent } = Node::at("a", Bent::new(&memory)).await;
    eventually("the node to join", async || cluster.node().is_some()).await;
    bent.bend("register", Bend::Fail(StoreError::Fenced));
    bent.bend("unregister", Bend::Fail(StoreError::Refused { reason: "a fault of a test".to_owned() }));
    eventually("the end of its life", async || cluster.node().is_none()).await;
    assert_eq!(cluster.nodes().await.unwrap().len(), 1, "the store still has it");
    let answers = cluster.push(ClusterFilter::default(), "here\n").await.unwrap();
    assert_eq!(told(&answers), [(None, Outcome::NotFound)]);
    server.end_all().await;
}

#[actix::test]
async fn bytes_arrive_whatever_they_are_and_too_many_are_an_error() {
    let (_memory, [a, b, c]) = three().await;
    let mut of_b = peer(&b).await;
    let id = b.ids().await.remove(0);
    let all: Vec<u8> = (0..=255).collect();
    for bytes in [all, b"\"}\r\n\0\\".to_vec(), "ä€\u{1f600}".into(), vec![0xff; 5000], vec![0; 5000]] {
        assert_eq!(a.cluster.push(id.clone(), bytes.clone()).await.unwrap().sessions(), 1);
        of_b.expect(&bytes).await;
    }
    let most = Cluster::MAX_BYTES;
    for whom in [ClusterFilter::id(id.clone()), ClusterFilter::default()] {
        let too_many = vec![b'x'; most + 1];
        let error = a.cluster.push(whom.clone(), too_many.clone()).await.unwrap_err();
        assert_eq!(error, AskError::TooLarge { bytes: most + 1, most });
        assert_eq!(a.cluster.kick(whom, too_many).await.unwrap_err(), error);
    }
    // A goodbye of a session that ends has room whatever its length.
    assert_eq!(a.cluster.kick(id, vec![0xfe; most]).await.unwrap().sessions(), 1);
    assert!(of_b.rest().await == vec![0xfe; most]);
    end([a, b, c]).await;
}

#[actix::test]
async fn many_are_asked_at_a_time_and_more_than_ten_thousand_or_too_many_bytes_are_an_error() {
    let (_memory, [a, b, c]) = three().await;
    let mut of_b = peer(&b).await;
    let id = b.ids().await.remove(0);
    let begun = Instant::now();
    let answers = join_all((0..500).map(|_| a.cluster.push(id.clone(), "x\n"))).await;
    assert!(answers.into_iter().all(|answers| answers.unwrap().sessions() == 1));
    assert!(begun.elapsed() < Duration::from_secs(1), "all at the same time: {:?}", begun.elapsed());
    of_b.expect(&b"x\n".repeat(500)).await;
    b.store.fail(Fault::Deaf);
    let answers = within("answers", join_all((0..10_100).map(|_| a.cluster.push(id.clone(), "x\n")))).await;
    let too_many = answers.iter().filter(|answers| **answers == Err(AskError::TooMany { most: 10_000 })).count();
    assert_eq!(too_many, 100);
    let timed_out = |answers: &Answers| told(answers) == [(Some(b.id()), Outcome::TimedOut)];
    assert!(answers.iter().flatten().all(timed_out));
    // So are their bytes.
    let most = 32 * 1024 * 1024;
    let large = vec![b'x'; Cluster::MAX_BYTES];
    let answers = within("answers", join_all((0..40).map(|_| a.cluster.push(id.clone(), large.clone())))).await;
    let too_many = answers.iter().filter(|answers| **answers == Err(AskError::TooManyBytes { most })).count();
    assert_eq!(too_many, 8);
    assert!(answers.iter().flatten().all(timed_out));
    // They are over, and there is room again.
    assert_eq!(a.cluster.push(ClusterFilter::default().node(a.id().name), "x\n").await.unwrap().nodes.len(), 1);
    end([a, b, c]).await;
}

#[actix::test]
async fn a_kick_ends_a_session_that_waits_and_one_whose_peer_does_not_read() {
    pause();
    let memory = Memory::new();
    let limits = Limits::builder()
        .wait_timeout(Duration::from_secs(20))
        .write_timeout(Some(Duration::from_secs(15)))
        .idle_timeout(None)
        .build()
        .unwrap();
    let a = Node::serve("a", &memory, LineServer::new(|_| Nameable)).await;
    let mut b = Node::serve("b", &memory, LineServer::new(|_| Nameable).limits(limits)).await;
    let mut waits = peer(&b).await;
    waits.send(b"!wait\n").await;
    eventually("a session that waits", async || {
        b.server.sessions().await.iter().any(|session| session.state == SessionState::Held)
    })
    .await;
    let answers = a.cluster.kick(ClusterFilter::default().node("b".parse().unwrap()), "goodbye\n").await.unwrap();
    assert_eq!(told(&answers), [(Some(b.id()), done(1))]);
    // Told twice, it ends no later.
    pass(Duration::from_secs(10)).await;
    a.cluster.kick(ClusterFilter::default().node("b".parse().unwrap()), "").await.unwrap();
    let begun = Instant::now();
    assert_eq!(b.server.report().await.reason, CloseReason::Kicked);
    // What was left of its wait, and the time to close.
    assert!(begun.elapsed() <= Duration::from_secs(16), "{:?}", begun.elapsed());

    let mut reads_nothing = peer(&b).await;
    reads_nothing.send_until_stuck(&b.server, &[b"x".repeat(8000), b"\n".to_vec()].concat(), 64 * 1024).await;
    let answers = a.cluster.kick(ClusterFilter::default().node("b".parse().unwrap()), "goodbye\n").await.unwrap();
    assert_eq!(told(&answers), [(Some(b.id()), done(1))]);
    let report = b.server.report().await;
    assert!(matches!(report.reason, CloseReason::WriteStalled | CloseReason::Kicked), "{report:?}");
    assert_eq!(b.server.sessions().await, []);
    assert_eq!(b.server.handle.sessions(SessionFilter::default()).await.unwrap().total, 0);
    drop(reads_nothing);
    end([a, b]).await;
}

#[actix::test]
async fn a_kick_is_the_end_whatever_the_limits_are() {
    pause();
    let memory = Memory::new();
    let day = Duration::from_secs(24 * 3600);
    let limits = Limits::builder().wait_timeout(day).write_timeout(None).idle_timeout(None).build().unwrap();
    let a = Node::serve("a", &memory, LineServer::new(|_| Nameable)).await;
    let mut b = Node::serve("b", &memory, LineServer::new(|_| Nameable).limits(limits)).await;
    for whom in [ClusterFilter::default(), ClusterFilter::id(GlobalId { node: b.id(), session: "1".parse().unwrap() })]
    {
        let mut reads_nothing = peer(&b).await;
        reads_nothing.send_until_stuck(&b.server, &[b"x".repeat(8000), b"\n".to_vec()].concat(), 64 * 1024).await;
        let mut waits = peer(&b).await;
        waits.send(b"!wait\n").await;
        eventually("a session that waits", async || b.server.sessions().await[1].state == SessionState::Held).await;
        let session = b.server.sessions().await[1].id;
        let by_id = whom.id.is_some();
        let whom = whom.id.clone().map_or(whom, |id| ClusterFilter::id(GlobalId { session, ..id }));
        let begun = Instant::now();
        let answers = a.cluster.kick(whom, "goodbye\n").await.unwrap();
        assert_eq!(answers.sessions(), if by_id { 1 } else { 2 });
        // Who comes later is not meant.
        let mut later = peer(&b).await;
        for _ in 0..answers.sessions() {
            let report = b.server.report().await;
            assert_eq!((report.reason, report.cut), (CloseReason::Kicked, true));
            let time = begun.elapsed();
            assert!(
                time >= Cluster::DEFAULT_KICK_TIMEOUT && time < Cluster::DEFAULT_KICK_TIMEOUT + Duration::from_secs(1)
            );
        }
        later.send(b"still here\n").await;
        later.expect(b"still here\n").await;
        b.server.handle.kick(SessionFilter::default(), "").await.unwrap();
        drop((waits, reads_nothing, later));
        eventually("no session", async || b.server.sessions().await.is_empty()).await;
        while b.server.report_if_any().is_some() {}
    }
    assert_eq!(b.cluster.stats().kicks_cut, 3);
    end([a, b]).await;
}

#[actix::test]
async fn a_node_is_asked_from_any_thread() {
    // On the real clock: its workers are other threads, too.
    let memory = Memory::new();
    let in_time = |builder: ClusterBuilder| builder.ask_timeout(support::PATIENCE);
    let cluster = in_time(Cluster::builder(memory.view()).node("a")).build().unwrap();
    let server = LineServer::new(|_| Nameable).workers(2).cluster(&cluster).unwrap();
    let server = support::Server::start(server).await;
    let b = Node::serve_with("b", &memory, LineServer::new(|_| Nameable), in_time).await;
    let mut peer = server.connect().await;
    eventually("the session to be listed", async || {
        cluster.list(ClusterFilter::default()).await.is_ok_and(|page| page.total == 1)
    })
    .await;
    let asked = cluster.clone();
    let elsewhere = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let all = ClusterFilter::default;
        let sessions = runtime.block_on(runtime.spawn(async move {
            assert_eq!(asked.list(all()).await.unwrap().total, 1);
            drop(asked.lookup("alice").await.unwrap());
            drop(asked.claim_within("alice", Duration::from_secs(1)).await.unwrap());
            let pushed = asked.push(all(), "from elsewhere\n").await.unwrap();
            let kicked = asked.kick(all(), "goodbye\n").await.unwrap();
            (told(&pushed), told(&kicked))
        }));
        sessions.unwrap()
    });
    peer.expect(b"from elsewhere\ngoodbye\n").await;
    peer.expect_eof().await;
    let expected = [(cluster.node(), done(1)), (Some(b.id()), Outcome::NotFound)];
    eventually("the thread to end", async || elsewhere.is_finished()).await;
    let (pushed, kicked) = elsewhere.join().unwrap();
    assert_eq!((&pushed[..], &kicked[..]), (&expected[..], &expected[..]));
    server.end_all().await;
    end([b]).await;
}

/// Says that it has a line, and blocks its worker until it is released.
struct Blocks {
    blocked: mpsc::UnboundedSender<()>,
    release: Arc<Mutex<std::sync::mpsc::Receiver<()>>>,
}

impl Actor for Blocks {
    type Context = LineContext<Self>;
}

impl LineHandler for Blocks {
    fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {
        self.blocked.send(()).unwrap();
        // An error is the release.
        let _ = self.release.lock().unwrap().recv();
    }
}

/// Node `a`, whose worker is blocked until the sender is dropped, its peer, and node `b`. On the real clock: the worker is another
/// thread.
async fn blocked(ask_timeout: Duration) -> (Cluster, support::Server, Peer, std::sync::mpsc::Sender<()>, Node) {
    let memory = Memory::new();
    let in_time = |builder: ClusterBuilder| builder.ask_timeout(ask_timeout);
    let cluster = in_time(Cluster::builder(memory.view()).node("a")).build().unwrap();
    let (blocked, mut is_blocked) = mpsc::unbounded_channel();
    let (released, release) = std::sync::mpsc::channel();
    let release = Arc::new(Mutex::new(release));
    let server = LineServer::new(move |_| Blocks { blocked: blocked.clone(), release: Arc::clone(&release) });
    let server = support::Server::start(server.workers(1).cluster(&cluster).unwrap()).await;
    let b = Node::serve_with("b", &memory, LineServer::new(|_| Nameable), in_time).await;
    eventually("a life of the node", async || cluster.node().is_some()).await;
    let mut peer = server.connect().await;
    peer.send(b"block\n").await;
    within("the worker to be blocked", is_blocked.recv()).await.unwrap();
    (cluster, server, peer, released, b)
}

/// Ends the peer of a worker that is blocked no more, and both nodes.
async fn leave(mut peer: Peer, server: support::Server, b: Node) {
    peer.shutdown_write().await;
    peer.expect_eof().await;
    server.end_all().await;
    end([b]).await;
}

/// Returns what comes of the second while the first waits.
async fn before<T>(waits: impl Future, is_done: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        _ = waits => panic!("all is over that was to be waited for"),
        done = is_done => done,
    }
}

/// Those of a node with a name that no session has.
fn nobody(node: &str) -> ClusterFilter {
    ClusterFilter::default().name("nobody").node(node.parse().unwrap())
}

#[actix::test]
async fn a_node_hears_answers_however_many_questions_wait_for_its_blocked_worker() {
    let (cluster, server, peer, released, b) = blocked(Duration::from_secs(30)).await;
    // More than are carried out at a time.
    let mut asked = Box::pin(join_all((0..600).map(|_| b.cluster.push(nobody("a"), "x\n"))));
    let answered = async {
        eventually("the questions", async || cluster.stats().requests == 600).await;
        cluster.push(nobody("b"), "x\n").await.unwrap()
    };
    let answers = before(&mut asked, answered).await;
    assert_eq!(told(&answers), [(Some(b.id()), Outcome::NotFound)]);
    // Each of them is carried out in its turn.
    drop(released);
    for answers in within("answers", asked).await {
        assert_eq!(told(&answers.unwrap()), [(cluster.node(), Outcome::NotFound)]);
    }
    leave(peer, server, b).await;
}

#[actix::test]
async fn a_node_hears_answers_however_many_bytes_of_questions_wait_for_its_blocked_worker() {
    let (cluster, server, peer, released, b) = blocked(Duration::from_secs(30)).await;
    let channel = format!("c:{}", cluster.node().unwrap());
    // More than are carried out at a time, so that those behind them wait.
    let mut asked = Box::pin(join_all((0..300).map(|_| b.cluster.push(nobody("a"), "x\n"))));
    let answered = async {
        eventually("the questions", async || cluster.stats().requests == 300).await;
        // Until not the smallest one has any room.
        let mut number = 0;
        for size in [1024 * 1024, 64 * 1024, 4096, 256].into_iter().chain((40..=64).rev()) {
            let before = cluster.stats().messages_dropped;
            while cluster.stats().messages_dropped == before {
                number += 1;
                let mut question = format!(r#"{{"v":1,"ask":{number},"from":"c.00000001"}}"#).into_bytes();
                question.resize(size, b' ');
                let heard = cluster.stats().messages;
                assert_eq!(b.store.publish(&channel, question.into()).await, Ok(1));
                eventually("the question", async || cluster.stats().messages > heard).await;
            }
        }
        cluster.push(nobody("b"), "x\n").await.unwrap()
    };
    let answers = before(&mut asked, answered).await;
    assert_eq!(told(&answers), [(Some(b.id()), Outcome::NotFound)]);
    drop(released);
    within("answers", asked).await;
    leave(peer, server, b).await;
}

#[actix::test]
async fn a_worker_that_is_blocked_delays_no_answer_and_no_other_question() {
    let (cluster, server, mut peer, released, b) = blocked(Duration::from_millis(300)).await;
    for asker in [&cluster, &b.cluster] {
        // Where the machine is busy the other one, too, may be late.
        eventually("an answer of the other node in time", async || {
            let answers = told(&within("answers", asker.kick(ClusterFilter::default(), "")).await.unwrap());
            assert_eq!(answers[0], (cluster.node(), Outcome::TimedOut));
            answers[1..] == [(Some(b.id()), Outcome::NotFound)]
        })
        .await;
    }
    // More than are carried out at a time: what they wait for ends with those who have asked.
    let asked = join_all((0..300).map(|_| b.cluster.push(nobody("a"), "x\n")));
    for answers in within("answers", asked).await {
        assert_eq!(told(&answers.unwrap()), [(cluster.node(), Outcome::TimedOut)]);
    }
    eventually("an answer to a node whose worker is blocked", async || {
        told(&cluster.push(nobody("b"), "x\n").await.unwrap()) == [(Some(b.id()), Outcome::NotFound)]
    })
    .await;

    // What was not answered in time is done nevertheless.
    drop(released);
    peer.expect_eof().await;
    server.end_all().await;
    end([b]).await;
}

#[actix::test]
async fn a_worker_that_is_blocked_keeps_no_life_from_beginning() {
    let (cluster, server, peer, released, b) = blocked(Duration::from_millis(300)).await;
    let life = cluster.node().unwrap();
    b.store.end_lease(&life);
    eventually("another life", async || cluster.node().is_some_and(|other| other != life)).await;
    drop(released);
    leave(peer, server, b).await;
}

#[actix::test]
async fn a_node_whose_server_has_ended_has_no_session_and_is_gone() {
    let (_memory, [a, b, c]) = three().await;
    let (life, cluster) = (a.id(), a.cluster.clone());
    end([a]).await;
    let of_a = ClusterFilter::default().node(life.name.clone());
    assert_eq!(told(&cluster.push(of_a.clone(), "x\n").await.unwrap()), [(None, Outcome::NotFound)]);
    assert_eq!(told(&b.cluster.push(of_a, "x\n").await.unwrap()), [(None, Outcome::NodeGone)]);
    let id = GlobalId { node: life.clone(), session: "1".parse().unwrap() };
    assert_eq!(told(&b.cluster.push(id, "x\n").await.unwrap()), [(Some(life), Outcome::NodeGone)]);
    end([b, c]).await;
}

#[actix::test]
async fn a_cluster_without_a_server_says_so() {
    let cluster = Cluster::builder(Memory::new()).node("a").build().unwrap();
    let error = cluster.push(ClusterFilter::default(), "x\n").await.unwrap_err();
    assert_eq!(error, AskError::NoServer { node: "a".parse().unwrap() });
}
