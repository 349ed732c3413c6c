//! Leases: who lives, and who writes.

use std::time::Duration;

use actix_lines::cluster::{Begin, Change, CountLimit, NodeId, StoreError, Verdict, Want};

use crate::{Engine, LONG, begin, die, held, ids, named, node, renew, row, rows, share};

pub(crate) async fn a_node_is_listed_while_its_lease_lasts(engine: &impl Engine) {
    let (first, second) = (engine.store().await, engine.store().await);
    assert_eq!(first.nodes().await.unwrap(), []);
    let (a, b) = (node("a", 0x10), node("b", 2));
    let begins = Some(Begin { about: "the node b".into(), shares: vec![] });
    second.register(&b, &Change { begins, lease: LONG, ..Change::default() }).await.unwrap();
    first.register(&a, &begin([row(1), row(2)])).await.unwrap();
    let nodes = second.nodes().await.unwrap();
    let told: Vec<_> = nodes.iter().map(|node| (node.id.clone(), node.about.as_str(), node.sessions)).collect();
    assert_eq!(told, [(a.clone(), "", 2), (b.clone(), "the node b", 0)]);
    assert!(nodes.iter().all(|node| node.lease_left > LONG / 2 && node.lease_left <= LONG), "{nodes:?}");
    first.register(&a, &renew(LONG * 3)).await.unwrap();
    let nodes = second.nodes().await.unwrap();
    assert!(nodes[0].lease_left > LONG * 2, "renewed: {nodes:?}");
    assert_eq!((nodes[0].sessions, nodes[1].about.as_str()), (2, "the node b"), "a renewal changes nothing else");
    die(&first, &a).await;
    assert_eq!(ids(&second).await, [b]);
}

pub(crate) async fn who_has_lost_its_lease_writes_nothing_and_begins_another_life(engine: &impl Engine) {
    let (first, second) = (engine.store().await, engine.store().await);
    let (old, new) = (node("a", 1), node("a", 2));
    assert_eq!(first.register(&old, &renew(LONG)).await, Err(StoreError::Fenced), "it never began");
    first.register(&old, &begin([named(1, "alice")])).await.unwrap();
    die(&first, &old).await;
    let change = Change { put: vec![named(2, "bob")], remove: vec![1], ..renew(LONG) };
    assert_eq!(first.register(&old, &change).await, Err(StoreError::Fenced));
    let want = [Want { counts: vec![CountLimit { resource: "all".into(), most: 5 }], rates: vec![] }];
    assert_eq!(first.acquire(&old, &held(1, [share("all", 3)]), &want).await, Err(StoreError::Fenced));
    assert_eq!(first.release(&old, &held(2, [share("all", 1)])).await, Err(StoreError::Fenced));
    assert_eq!(ids(&second).await, [] as [NodeId; 0]);
    assert_eq!((rows(&second, &old).await, second.lookup("bob").await.unwrap().rows), (vec![], vec![]));

    first.register(&new, &begin([named(1, "alice")])).await.unwrap();
    assert_eq!(first.register(&old, &change).await, Err(StoreError::Fenced), "the new life is not the old one");
    assert_eq!(second.lookup("alice").await.unwrap().rows, [(new.clone(), named(1, "alice"))]);
    assert_eq!(ids(&second).await, [new]);
}

pub(crate) async fn a_life_begins_with_nothing_but_what_it_says(engine: &impl Engine) {
    let store = engine.store().await;
    let (a, other) = (node("a", 1), node("other", 1));
    let most = |most| [Want { counts: vec![CountLimit { resource: "all".into(), most }], rates: vec![] }];
    store.register(&other, &begin([])).await.unwrap();
    store.register(&a, &begin([named(1, "alice"), row(2)])).await.unwrap();
    store.release(&a, &held(7, [share("all", 3), share("name:alice", 1)])).await.unwrap();
    let begins = Some(Begin { about: "again".into(), shares: vec![share("all", 2), share("none", 0)] });
    let again = Change { begins, lease: LONG, put: vec![row(5)], ..Change::default() };
    store.register(&a, &again).await.unwrap();
    assert_eq!(rows(&store, &a).await, [row(5)]);
    assert_eq!(store.lookup("alice").await.unwrap().rows, []);
    assert_eq!(store.nodes().await.unwrap()[0].about, "again");
    // Two of it are held; a life's calls are numbered from 1.
    assert_eq!(store.acquire(&other, &held(1, []), &most(2)).await.unwrap(), [Verdict::Count(0)]);
    assert_eq!(store.acquire(&a, &held(1, []), &most(3)).await.unwrap(), [Verdict::Granted]);
    assert_eq!(store.acquire(&other, &held(2, []), &most(3)).await.unwrap(), [Verdict::Count(0)]);
}

pub(crate) async fn a_node_that_unregisters_is_gone_at_once(engine: &impl Engine) {
    let (first, second) = (engine.store().await, engine.store().await);
    let (a, b) = (node("a", 1), node("b", 1));
    first.register(&a, &begin([named(1, "alice")])).await.unwrap();
    second.register(&b, &begin([])).await.unwrap();
    first.release(&a, &held(1, [share("all", 5)])).await.unwrap();
    first.unregister(&a).await.unwrap();
    assert!(!ids(&second).await.contains(&a));
    assert_eq!((rows(&second, &a).await, second.lookup("alice").await.unwrap().rows), (vec![], vec![]));
    let want = [Want { counts: vec![CountLimit { resource: "all".into(), most: 1 }], rates: vec![] }];
    assert_eq!(second.acquire(&b, &held(1, []), &want).await.unwrap(), [Verdict::Granted]);
    assert_eq!(first.register(&a, &renew(LONG)).await, Err(StoreError::Fenced));
    first.unregister(&a).await.unwrap();
}

pub(crate) async fn what_was_said_of_a_dead_node_is_said_of_no_other(engine: &impl Engine) {
    let (first, second) = (engine.store().await, engine.store().await);
    // Two lives of a name, and a name that begins with the other.
    let (old, new, longer) = (node("a", 1), node("a", 2), node("a.b", 1));
    first.register(&old, &begin([named(1, "alice")])).await.unwrap();
    first.register(&new, &begin([named(1, "alice"), row(2)])).await.unwrap();
    second.register(&longer, &begin([named(9, "alice")])).await.unwrap();
    assert_eq!(ids(&second).await, [old.clone(), new.clone(), longer.clone()]);
    assert_eq!(second.lookup("alice").await.unwrap().rows.len(), 3);
    first.register(&old, &renew(Duration::from_millis(1))).await.unwrap();
    crate::support::eventually("the end of a lease", async || ids(&second).await == [new.clone(), longer.clone()])
        .await;
    assert_eq!(rows(&second, &old).await, []);
    assert_eq!(rows(&second, &new).await, [named(1, "alice"), row(2)]);
    let mut found = second.lookup("alice").await.unwrap().rows;
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(found, [(new, named(1, "alice")), (longer, named(9, "alice"))]);
}
