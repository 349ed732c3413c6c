//! A name that only one session of a cluster may have: granted once, told who has it, free when its session or its node has ended.

mod support;

#[path = "support/nodes.rs"]
mod nodes;

use std::time::Duration;

use actix::Actor;
use actix_lines::{
    Line, LineContext, LineHandler, LineServer,
    cluster::{
        Claim, ClaimError, Cluster, ClusterFilter, ClusterPage,
        memory::{Fault, Memory},
    },
};
use futures::future::join_all;
use nodes::Node;
use support::{Peer, eventually, pass, pause, within};
use tokio::time::Instant;

/// Claims the name in each line: `NAME` politely, `NAME!` from whoever has it.
struct Guest {
    cluster: Cluster,
    claim: Option<Claim>,
}

impl Actor for Guest {
    type Context = LineContext<Self>;
}

impl LineHandler for Guest {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        let text = String::from_utf8_lossy(line.text()).into_owned();
        let cluster = self.cluster.clone();
        let claimed = async move {
            let name = text.trim_end_matches('!');
            match cluster.claim(name).await {
                Err(ClaimError::Taken { .. }) if text.ends_with('!') => {
                    cluster.kick(ClusterFilter::default().name(name), "you came again\n").await.unwrap();
                    cluster.claim_within(name, Duration::from_secs(8)).await
                }
                other => other,
            }
        };
        ctx.wait_for(claimed, |guest, claim, ctx| match claim {
            Ok(claim) => {
                ctx.set_name(claim.name()).unwrap();
                guest.claim = Some(claim);
                ctx.write("yes\n");
            }
            Err(ClaimError::Taken { holders }) => {
                let holders: Vec<_> = holders.unwrap().sessions.iter().map(|holder| holder.id.to_string()).collect();
                writeln!(ctx, "{}", holders.join(" "));
            }
            Err(error) => writeln!(ctx, "{error}"),
        });
    }
}

/// Starts nodes whose sessions claim names.
async fn nodes<const N: usize>(memory: &Memory, names: [&str; N]) -> [Node; N] {
    let mut nodes = Vec::new();
    for name in names {
        // The sessions need what is made with their server.
        let slot = std::sync::Arc::new(std::sync::OnceLock::<Cluster>::new());
        let theirs = slot.clone();
        let guest = move |_: &_| Guest { cluster: theirs.get().expect("it is set before").clone(), claim: None };
        let node = Node::serve(name, memory, LineServer::new(guest)).await;
        slot.set(node.cluster.clone()).unwrap();
        nodes.push(node);
    }
    nodes.try_into().ok().unwrap()
}

async fn says(node: &Node, line: &str, answer: &str) -> Peer {
    let mut peer = node.server.connect().await;
    peer.send(format!("{line}\n").as_bytes()).await;
    peer.expect_later(format!("{answer}\n").as_bytes()).await;
    peer
}

/// Waits until the store lists as many sessions under a name.
async fn listed(node: &Node, name: &str, count: usize) {
    eventually("the store to know the name", async || node.cluster.lookup(name).await.unwrap().total as usize == count)
        .await;
}

#[actix::test]
async fn a_name_is_granted_once_and_who_comes_later_is_told_who_has_it() {
    pause();
    let memory = Memory::new();
    let [a, b] = nodes(&memory, ["a", "b"]).await;
    let first = says(&a, "alice", "yes").await;
    listed(&b, "alice", 1).await;
    let id = a.ids().await.remove(0).to_string();
    let second = says(&b, "alice", &id).await;
    let third = says(&a, "alice", &id).await;
    let _bob = says(&b, "bob", "yes").await;
    // It is free once its session has ended, whoever asks.
    drop((first, second, third));
    eventually("the name to be free", async || b.cluster.claim("alice").await.is_ok()).await;
    let claim = within("a claim", b.cluster.claim_within("alice", Duration::from_secs(5))).await.unwrap();
    assert_eq!(claim.name(), "alice");
    assert_eq!(b.cluster.stats().admitted, 0, "a name is no session");
    listed(&a, "alice", 0).await;
    assert!(
        matches!(a.cluster.claim("alice").await, Err(ClaimError::Taken { holders: Ok(none) }) if none == ClusterPage::default())
    );
    drop(claim);
    drop(within("a claim", a.cluster.claim_within("alice", Duration::from_secs(5))).await.unwrap());
    a.server.end_all().await;
    b.server.end_all().await;
}

#[actix::test]
async fn the_newcomer_may_have_it_and_two_never_do() {
    pause();
    let memory = Memory::new();
    let [a, b] = nodes(&memory, ["a", "b"]).await;
    let mut first = says(&a, "alice", "yes").await;
    listed(&b, "alice", 1).await;
    let mut second = b.server.connect().await;
    second.send(b"alice!\n").await;
    first.expect_later(b"you came again\n").await;
    assert_eq!(first.rest().await, b"");
    drop(first);
    second.expect_later(b"yes\n").await;
    listed(&a, "alice", 1).await;
    assert_eq!(a.server.sessions().await, []);
    // One that does not close has its linger timeout; the newcomer waits for as long.
    let mut third = a.server.connect().await;
    third.send(b"alice!\n").await;
    third.expect_later(b"yes\n").await;
    assert_eq!(b.server.sessions().await, []);
    a.server.end_all().await;
    b.server.end_all().await;
}

#[actix::test]
async fn of_many_at_once_one_is_granted_it() {
    pause();
    let memory = Memory::new();
    let nodes = nodes(&memory, ["a", "b", "c"]).await;
    for round in 0..20 {
        let name = format!("name {round}");
        let claims = join_all((0..30).map(|nth| nodes[nth % 3].cluster.claim(&name))).await;
        let (granted, taken): (Vec<_>, Vec<_>) = claims.into_iter().partition(Result::is_ok);
        assert_eq!(granted.len(), 1, "round {round}");
        assert!(taken.iter().all(|claim| matches!(claim, Err(ClaimError::Taken { .. }))));
    }
    for node in nodes {
        node.server.end_all().await;
    }
}

#[actix::test]
async fn a_dead_nodes_names_are_free_when_its_lease_is_over_and_a_live_one_keeps_them_in_its_next_life() {
    pause();
    let memory = Memory::new();
    let [a, b] = nodes(&memory, ["a", "b"]).await;
    let _alice = says(&a, "alice", "yes").await;
    let old = a.id();
    memory.end_lease(&old);
    eventually("another life", async || a.cluster.node().is_some_and(|life| life != old)).await;
    assert!(matches!(b.cluster.claim("alice").await, Err(ClaimError::Taken { .. })), "it was told again");
    a.store.fail(Fault::Lost);
    assert!(matches!(b.cluster.claim("alice").await, Err(ClaimError::Taken { .. })), "it may live");
    pass(Cluster::DEFAULT_LEASE).await;
    let _claim = b.cluster.claim("alice").await.unwrap();
    a.server.end_all().await;
    b.server.end_all().await;
}

#[actix::test]
async fn without_the_store_it_is_unknown_and_what_is_no_name_is_an_error() {
    pause();
    let memory = Memory::new();
    let [a] = nodes(&memory, ["a"]).await;
    a.store.fail(Fault::Hanging);
    let after = Cluster::DEFAULT_ASK_TIMEOUT;
    assert_eq!(within("an answer", a.cluster.claim("alice")).await.unwrap_err(), ClaimError::Unknown { after });
    eventually("the loss to be known", async || !a.cluster.health().answers()).await;
    assert_eq!(a.cluster.claim("alice").await.unwrap_err(), ClaimError::Unknown { after: Duration::ZERO });
    a.store.heal();
    eventually("the store to be found", async || a.cluster.health().answers()).await;
    // What was asked for in vain is not held.
    a.joined().await;
    drop(within("a claim", a.cluster.claim_within("alice", Duration::from_secs(5))).await.unwrap());
    assert!(matches!(a.cluster.claim("a\nb").await, Err(ClaimError::Name(_))));
    let error = a.cluster.claim("").await.unwrap_err();
    assert_eq!(error.to_string(), "a name is empty: use 1 to 128 bytes");
    assert_eq!(a.cluster.lookup("").await, Ok(ClusterPage::default()), "no session has an empty name");
    assert!(matches!(a.cluster.claim(&"x".repeat(129)).await, Err(ClaimError::Name(_))));
    let nobody = Cluster::builder(memory).node("b").build().unwrap();
    assert!(matches!(nobody.claim("alice").await, Err(ClaimError::NoServer { .. })));
    a.server.end_all().await;
}

#[actix::test]
async fn a_name_that_stays_taken_is_claimed_again_until_the_time_is_over_and_seldom() {
    pause();
    let memory = Memory::new();
    let [a] = nodes(&memory, ["a"]).await;
    let _claim = a.cluster.claim("alice").await.unwrap();
    let (asked, before) = (Instant::now(), a.store.calls().acquire);
    let time = Duration::from_secs(5);
    let claim = within("an answer", a.cluster.claim_within("alice", time)).await;
    assert!(matches!(claim, Err(ClaimError::Taken { .. })));
    // The last wait would have been too long.
    assert!((time - Duration::from_millis(300)..=time).contains(&asked.elapsed()), "{:?}", asked.elapsed());
    let tries = a.store.calls().acquire - before;
    assert!((20..=25).contains(&tries), "{tries} tries");
    a.server.end_all().await;
}

#[actix::test]
async fn before_a_node_has_joined_it_is_unknown_at_once_whether_a_name_is_taken() {
    pause();
    let memory = Memory::new();
    memory.fail(Fault::Hanging);
    let cluster = Cluster::builder(memory).node("a").build().unwrap();
    let server = nodes::serve(&cluster).await;
    assert_eq!(cluster.health().name(), "starting");
    assert_eq!(cluster.claim("alice").await.unwrap_err(), ClaimError::Unknown { after: Duration::ZERO });
    server.end_all().await;
}
