//! Shares: what all nodes have together.

use std::sync::Arc;

use actix_lines::cluster::{Begin, Change, CountLimit, NodeId, RateLimit, Store, StoreError, Verdict, Want};
use futures::future::join_all;

use crate::{Engine, begin, die, held, node, row, rows, share};

fn limit(resource: &str, most: u64) -> CountLimit {
    CountLimit { resource: resource.to_owned(), most }
}

fn want(counts: impl IntoIterator<Item = CountLimit>) -> Want {
    Want { counts: counts.into_iter().collect(), rates: vec![] }
}

/// Returns how many of a resource all live nodes hold, in the words of a node that holds none of it.
async fn sum(store: &Arc<dyn Store>, observer: &NodeId, serial: &mut u64, resource: &str) -> u64 {
    for most in 1.. {
        *serial += 1;
        let verdict = store.acquire(observer, &held(*serial, []), &[want([limit(resource, most)])]).await.unwrap();
        if verdict == [Verdict::Granted] {
            *serial += 1;
            store.release(observer, &held(*serial, [share(resource, 0)])).await.unwrap();
            return most - 1;
        }
    }
    unreachable!("more than any number")
}

async fn live(engine: &impl Engine, name: &str) -> (Arc<dyn Store>, NodeId) {
    let (store, node) = (engine.store().await, node(name, 1));
    store.register(&node, &begin([])).await.unwrap();
    (store, node)
}

pub(crate) async fn many_at_once_never_hold_more_than_the_most(engine: &impl Engine) {
    const MOST: u64 = 100;
    let nodes = join_all((0..8).map(|nth| {
        let name = format!("node-{nth}");
        async move { live(engine, &name).await }
    }))
    .await;
    let begun = nodes.iter().map(|(store, node)| {
        let (store, node) = (store.clone(), node.clone());
        tokio::task::spawn_local(async move {
            let mut granted = 0;
            for serial in 1..=20 {
                let wants = [want([limit("all", MOST)]), want([limit("all", MOST), limit("source", MOST)])];
                let verdicts = store.acquire(&node, &held(serial, []), &wants).await.unwrap();
                granted += verdicts.iter().filter(|verdict| **verdict == Verdict::Granted).count() as u64;
            }
            granted
        })
    });
    let granted: u64 = join_all(begun).await.into_iter().map(Result::unwrap).sum();
    assert_eq!(granted, MOST, "of 320 wants");
    let (store, node) = &nodes[0];
    assert_eq!(
        store.acquire(node, &held(21, []), &[want([limit("all", MOST)])]).await.unwrap(),
        [Verdict::Count(0)],
        "all are held"
    );
}

pub(crate) async fn a_want_is_taken_as_a_whole_or_not_at_all(engine: &impl Engine) {
    let ((store, a), (other, b)) = (live(engine, "a").await, live(engine, "b").await);
    other.release(&b, &held(1, [share("full", 2)])).await.unwrap();
    let rate = |burst| vec![RateLimit { resource: "rate".into(), per_second: 1, burst }];
    let wants = [
        Want { counts: vec![limit("free", 9), limit("full", 2)], rates: rate(1) },
        Want { counts: vec![limit("none", 0)], rates: vec![] },
        want([]),
        // One after the other: the third of these is one too many.
        want([limit("few", 2)]),
        want([limit("few", 2)]),
        want([limit("few", 2)]),
        // The rate was not charged for the first one.
        Want { counts: vec![limit("free", 9)], rates: rate(1) },
    ];
    let verdicts = store.acquire(&a, &held(1, []), &wants).await.unwrap();
    let granted = Verdict::Granted;
    assert_eq!(verdicts, [Verdict::Count(1), Verdict::Count(0), granted, granted, granted, Verdict::Count(0), granted]);
    let mut serial = 1;
    assert_eq!(sum(&other, &b, &mut serial, "free").await, 1);
    assert_eq!(sum(&other, &b, &mut serial, "few").await, 2);
    // Nor is a count taken when a rate is exhausted. The bucket may be full again on a busy machine, but not for so many.
    let wants: Vec<_> = (0..3).map(|_| Want { counts: vec![limit("free", 9)], rates: rate(1) }).collect();
    let verdicts = store.acquire(&a, &held(2, []), &wants).await.unwrap();
    let granted = verdicts.iter().filter(|verdict| **verdict == Verdict::Granted).count() as u64;
    assert!(granted <= 1 && verdicts[2] == Verdict::Rate(0), "{verdicts:?}");
    assert_eq!(sum(&other, &b, &mut serial, "free").await, 1 + granted);
    assert_eq!(store.acquire(&a, &held(3, []), &[]).await.unwrap(), []);
}

pub(crate) async fn a_dead_nodes_shares_go_with_its_lease(engine: &impl Engine) {
    let ((store, a), (other, b)) = (live(engine, "a").await, live(engine, "b").await);
    let all = [want([limit("all", 1)])];
    assert_eq!(store.acquire(&a, &held(1, []), &all).await.unwrap(), [Verdict::Granted]);
    assert_eq!(other.acquire(&b, &held(1, []), &all).await.unwrap(), [Verdict::Count(0)]);
    die(&store, &a).await;
    assert_eq!(other.acquire(&b, &held(2, []), &all).await.unwrap(), [Verdict::Granted]);
    let again = node("a", 2);
    store.register(&again, &begin([])).await.unwrap();
    assert_eq!(store.acquire(&again, &held(1, []), &all).await.unwrap(), [Verdict::Count(0)]);
}

pub(crate) async fn a_node_says_what_it_holds(engine: &impl Engine) {
    let ((store, a), (other, b)) = (live(engine, "a").await, live(engine, "b").await);
    let mut serial = 0;
    store.release(&a, &held(1, [share("x", 3), share("y", 2), share("z", 0)])).await.unwrap();
    assert_eq!(sum(&other, &b, &mut serial, "x").await, 3);
    // It is a count and no difference, and may be more than what others are granted.
    let verdicts = store.acquire(&a, &held(2, [share("x", 5)]), &[want([limit("x", 7)]), want([limit("x", 6)])]).await;
    assert_eq!(verdicts.unwrap(), [Verdict::Granted, Verdict::Count(0)]);
    assert_eq!(sum(&other, &b, &mut serial, "x").await, 6);
    assert_eq!(sum(&other, &b, &mut serial, "y").await, 2, "what is not named stays");
    store.release(&a, &held(3, [share("x", 0), share("never", 0)])).await.unwrap();
    assert_eq!(sum(&other, &b, &mut serial, "x").await, 0);
}

pub(crate) async fn a_call_that_was_overtaken_does_nothing(engine: &impl Engine) {
    let ((store, a), (other, b)) = (live(engine, "a").await, live(engine, "b").await);
    let mut serial = 0;
    store.release(&a, &held(5, [share("x", 4)])).await.unwrap();
    for late in [5, 4, 0] {
        let taken = store.acquire(&a, &held(late, [share("x", 1)]), &[want([limit("x", 9)])]).await;
        assert_eq!(taken, Err(StoreError::Late), "number {late}");
        assert_eq!(store.release(&a, &held(late, [share("x", 0)])).await, Err(StoreError::Late), "number {late}");
    }
    assert_eq!(sum(&other, &b, &mut serial, "x").await, 4);
    store.release(&a, &held(6, [share("x", 1)])).await.unwrap();
    assert_eq!(sum(&other, &b, &mut serial, "x").await, 1);
    assert!(serial > 6, "each life has numbers of its own");
}

pub(crate) async fn a_life_begins_with_however_many_shares(engine: &impl Engine) {
    const SHARES: u64 = 7000;
    let (store, (other, b)) = (engine.store().await, live(engine, "b").await);
    let (a, mut serial) = (node("a", 1), 0);
    // Two lives of one id: whatever the first has is gone with it.
    for count in [3, 2] {
        let shares = (count..SHARES).map(|nth| share(&format!("source {nth}"), count)).collect();
        let begins = Some(Begin { shares, ..Begin::default() });
        store.register(&a, &Change { begins, ..begin([row(count)]) }).await.unwrap();
        let expected = [(0, 0), (count - 1, 0), (count, count), (2500, count), (SHARES - 1, count), (SHARES, 0)];
        for (nth, expected) in expected {
            assert_eq!(sum(&other, &b, &mut serial, &format!("source {nth}")).await, expected, "source {nth}");
        }
        assert_eq!(rows(&other, &a).await, [row(count)]);
    }
    // It tells of them as of any other.
    store.release(&a, &held(1, [share("source 2500", 0)])).await.unwrap();
    assert_eq!(sum(&other, &b, &mut serial, "source 2500").await, 0);
    die(&store, &a).await;
    assert_eq!(sum(&other, &b, &mut serial, "source 4999").await, 0);
}
