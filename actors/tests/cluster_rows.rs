//! The rows of a node are its live sessions, when all is quiet, whatever became of the store meanwhile.

#[path = "support/nodes.rs"]
mod nodes;
mod support;

use std::time::Duration;

use actix_lines::{
    SessionId,
    cluster::{
        Cluster, ClusterQuery, UnreadError,
        memory::{Fault, Memory},
    },
    control::SessionFilter,
};
use nodes::{Node, listed, settled, stores::rows};
use proptest::prelude::*;
use support::{Peer, eventually, pass, pause};
use tokio::time::Instant;

/// What happens to two nodes and their store.
#[derive(Clone, Copy, Debug)]
enum Step {
    Open(usize, u8),
    Close(usize, usize),
    Kick(usize, usize),
    Fault(usize, Fault),
    Forget,
    Restart,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let fault = prop_oneof![
        2 => Just(Fault::None),
        1 => Just(Fault::Lost),
        1 => Just(Fault::Hanging),
        1 => Just(Fault::Unanswered),
        1 => Just(Fault::Slow(Duration::from_millis(300))),
        1 => Just(Fault::Slow(Duration::from_millis(1300))),
        1 => Just(Fault::Refusing),
        1 => Just(Fault::Partitioned),
        1 => Just(Fault::Deaf),
    ];
    prop_oneof![
        5 => (0_usize..2, 1_u8..5).prop_map(|(node, count)| Step::Open(node, count)),
        3 => (0_usize..2, any::<usize>()).prop_map(|(node, place)| Step::Close(node, place)),
        1 => (0_usize..2, any::<usize>()).prop_map(|(node, place)| Step::Kick(node, place)),
        4 => (0_usize..2, fault).prop_map(|(node, fault)| Step::Fault(node, fault)),
        1 => Just(Step::Forget),
        1 => Just(Step::Restart),
        4 => (0_u64..200).prop_map(Step::Pass),
        2 => (0_u64..15_000).prop_map(Step::Pass),
    ]
}

async fn run(steps: Vec<Step>) {
    pause();
    let store = Memory::new();
    let nodes = [Node::start("a", &store).await, Node::start("b", &store).await];
    let mut peers: [Vec<Peer>; 2] = Default::default();
    for step in steps {
        match step {
            Step::Open(node, count) => {
                for _ in 0..count {
                    peers[node].push(nodes[node].session().await);
                }
            }
            Step::Close(node, place) => {
                let count = peers[node].len().max(1);
                let _ = peers[node].get(place % count).is_some().then(|| peers[node].swap_remove(place % count));
            }
            Step::Kick(node, place) => {
                let sessions = nodes[node].sessions().await;
                let count = sessions.len().max(1);
                if let Some(id) = sessions.keys().nth(place % count) {
                    let id: SessionId = id.to_string().parse().unwrap();
                    nodes[node].server.handle.kick(SessionFilter::id(id), "bye\n").await.unwrap();
                }
            }
            Step::Fault(node, fault) => nodes[node].store.fail(fault),
            Step::Forget => store.forget(),
            Step::Restart => store.restart(),
            Step::Pass(milliseconds) => pass(Duration::from_millis(milliseconds)).await,
        }
    }
    nodes.iter().for_each(|node| node.store.heal());
    // A renewal, to find out; a pause of a lost store; a batch.
    pass(Duration::from_secs(6)).await;
    settled(&store, &nodes).await;
    // And it stays so, with not a row more written.
    let written = nodes.each_ref().map(|node| node.cluster.stats().rows_written);
    pass(Duration::from_secs(60)).await;
    settled(&store, &nodes).await;
    assert_eq!(nodes.each_ref().map(|node| node.cluster.stats().rows_written), written);
    for node in nodes {
        node.server.end_all().await;
    }
    assert_eq!(listed(&store).await.len(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_are_the_live_sessions_whatever_became_of_the_store(steps in prop::collection::vec(step(), 0..40)) {
        actix::System::new().block_on(run(steps));
    }
}

#[actix::test]
async fn no_list_lacks_sessions_silently_while_a_node_writes_them_again() {
    const SESSIONS: usize = 3;
    pause();
    let store = Memory::new();
    let node = Node::join("a", &store).await;
    let _peers = node.open(SESSIONS).await;
    settled(&store, std::slice::from_ref(&node)).await;
    let reader = Cluster::builder(store.view()).node("reader").build().unwrap();
    node.store.fail(Fault::Slow(Duration::from_millis(200)));
    let former = node.id();
    store.end_lease(&former);
    let mut partial = 0;
    loop {
        let nodes = reader.nodes().await.unwrap();
        let page = reader.list(ClusterQuery::default()).await.unwrap();
        // A node that is not listed is none, which the list of nodes says.
        let is_there = nodes.iter().any(|node| node.id != former);
        if is_there && page.total == SESSIONS as u64 && page.unread.is_empty() {
            break;
        }
        if is_there {
            let errors: Vec<_> = page.unread.iter().map(|unread| &unread.error).collect();
            assert_eq!(errors, [&UnreadError::Partial], "{page:?}");
            partial += 1;
        }
        pass(Duration::from_millis(20)).await;
    }
    assert!(partial > 0, "it was looked at in between");
    // Of a life that begins without sessions none is missing.
    let other = Node::join("b", &store).await;
    assert!(reader.list(ClusterQuery::default()).await.unwrap().unread.is_empty());
    other.server.end_all().await;
    node.server.end_all().await;
}

#[actix::test]
async fn a_row_says_where_its_session_came_from_and_when() {
    pause();
    let store = Memory::new();
    let node = Node::join("a", &store).await;
    let before = std::time::SystemTime::now();
    let peer = node.session().await;
    settled(&store, std::slice::from_ref(&node)).await;
    let id = node.joined().await;
    let row = rows(&store, &id).await.remove(0);
    assert_eq!(row.peer, peer.stream.local_addr().unwrap().to_string());
    assert_eq!(row.listener.as_deref(), Some("0"));
    let opened = std::time::UNIX_EPOCH + Duration::from_millis(row.opened + 1);
    assert!(opened >= before && opened <= std::time::SystemTime::now() + Duration::from_millis(1), "{row:?}");
    node.server.end_all().await;
}

#[actix::test]
async fn changes_are_written_soon_and_at_most_every_fifty_milliseconds() {
    const BATCH: Duration = Duration::from_millis(50);
    pause();
    let store = Memory::new();
    let node = Node::join("a", &store).await;
    settled(&store, std::slice::from_ref(&node)).await;
    let (before, begun) = (node.store.calls().register, Instant::now());
    let mut peers = Vec::new();
    for count in 1..=300 {
        peers.push(node.session().await);
        pass(Duration::from_millis(7)).await;
        assert!(listed(&store).await.len() + 10 >= count, "{count} sessions");
    }
    let (calls, time) = (node.store.calls().register - before, begun.elapsed());
    // One of them may be a renewal.
    assert!(u128::from(calls) <= time.as_millis() / BATCH.as_millis() + 2, "{calls} calls in {time:?}");
    node.server.end_all().await;
}

/// More than a page of the server's list, and many slices.
#[actix::test]
async fn many_sessions_are_written_in_slices_in_each_life() {
    const SESSIONS: usize = 300;
    pause();
    let store = Memory::new();
    let node = Node::join("a", &store).await;
    let mut peers = node.open(SESSIONS).await;
    settled(&store, std::slice::from_ref(&node)).await;
    store.forget();
    peers.truncate(SESSIONS / 2);
    eventually("the rows of another life", async || listed(&store).await.len() == SESSIONS / 2).await;
    settled(&store, std::slice::from_ref(&node)).await;
    node.server.end_all().await;
}
