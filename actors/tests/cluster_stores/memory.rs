//! The engine in memory, on the paused clock.

use std::{sync::Arc, time::Duration};

use actix_lines::cluster::{
    Change, NodeId, RateLimit, Row, Store, StoreError, Verdict, Want,
    memory::{Fault, Memory},
};
use futures::future::BoxFuture;
use proptest::prelude::*;
use tokio::sync::mpsc;

use crate::{Engine, begin, held, node, support};

type IsExpected = fn(&StoreError) -> bool;

struct InMemory(Memory);

impl Engine for InMemory {
    fn store(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { Arc::new(self.0.view()) as _ })
    }
}

async fn make() -> InMemory {
    support::pause();
    InMemory(Memory::new())
}

crate::suite!(make);

#[actix::test]
async fn each_fault_is_that_of_one_way_and_is_what_it_says() {
    support::pause();
    let (healthy, faulty) = (Memory::new(), node("a", 1));
    let way = healthy.view();
    let lost = |error: &StoreError| matches!(error, StoreError::Lost { .. });
    let slow = |error: &StoreError| matches!(error, StoreError::Slow { .. });
    let refused = |error: &StoreError| matches!(error, StoreError::Refused { .. });
    let cases: [(Fault, IsExpected, bool, u64); 6] = [
        (Fault::Lost, lost, false, 0),
        (Fault::Refusing, refused, false, 0),
        (Fault::Hanging, slow, false, 1000),
        (Fault::Partitioned, slow, false, 1000),
        (Fault::Unanswered, slow, true, 1000),
        (Fault::Slow(Duration::from_secs(5)), slow, true, 1000),
    ];
    for (fault, is_expected, is_done, millis) in cases {
        way.fail(fault);
        let begun = tokio::time::Instant::now();
        let error = way.register(&faulty, &begin([])).await.unwrap_err();
        assert!(is_expected(&error), "{fault:?}: {error}");
        // A timer of tokio may be late by a millisecond.
        assert!(matches!(begun.elapsed().as_millis() as u64 - millis, 0..=3), "{fault:?}");
        assert_eq!(healthy.nodes().await.unwrap().len(), usize::from(is_done), "{fault:?}");
        way.heal();
        way.unregister(&faulty).await.unwrap();
    }
    way.fail(Fault::Slow(Duration::from_millis(700)));
    let begun = tokio::time::Instant::now();
    way.register(&faulty, &begin([])).await.unwrap();
    assert!(matches!(begun.elapsed().as_millis(), 700..=703), "{:?}", begun.elapsed());
    assert_eq!((way.calls().register, healthy.calls().register, healthy.calls().nodes), (7, 0, 6));
}

#[actix::test]
async fn subscriptions_are_lost_or_deaf_as_the_fault_says() {
    support::pause();
    let healthy = Memory::new();
    let way = healthy.view();
    let channel = ["x".to_owned()];
    let (to, mut messages) = mpsc::channel(8);
    let mut subscription = way.subscribe(to).await.unwrap();
    subscription.add(&channel).await.unwrap();
    for fault in [Fault::Deaf, Fault::Partitioned] {
        way.fail(fault);
        assert_eq!(healthy.publish("x", "lost".into()).await, Ok(1), "{fault:?}");
    }
    for fault in [Fault::Hanging, Fault::None] {
        way.fail(fault);
        assert_eq!(healthy.publish("x", "heard".into()).await, Ok(1), "{fault:?}");
        assert_eq!(messages.recv().await.unwrap().bytes, "heard", "{fault:?}");
    }
    way.fail(Fault::Lost);
    assert_eq!(messages.recv().await, None);
    way.heal();
    assert!(matches!(subscription.add(&channel).await, Err(StoreError::Lost { .. })));
    assert_eq!(healthy.publish("x", "nobody".into()).await, Ok(0));
}

#[actix::test]
async fn a_store_that_starts_anew_knows_nothing_and_one_that_forgets_keeps_its_subscriptions() {
    support::pause();
    let memory = Memory::new();
    let a = node("a", 1);
    let (to, mut messages) = mpsc::channel(8);
    let mut subscription = memory.subscribe(to).await.unwrap();
    subscription.add(&["x".to_owned()]).await.unwrap();
    memory.register(&a, &begin([])).await.unwrap();
    memory.forget();
    assert_eq!(memory.nodes().await.unwrap(), []);
    assert_eq!(memory.publish("x", "heard".into()).await, Ok(1));
    assert_eq!(messages.recv().await.unwrap().bytes, "heard");
    memory.register(&a, &begin([])).await.unwrap();
    memory.end_lease(&a);
    assert_eq!(memory.nodes().await.unwrap(), []);
    memory.restart();
    assert_eq!(messages.recv().await, None);
    // Tokens are forgotten, too.
    let one = RateLimit { resource: "x".to_owned(), per_second: 1, burst: 1 };
    let want = [Want { counts: Vec::new(), rates: vec![one] }];
    for _ in 0..2 {
        memory.register(&a, &begin([])).await.unwrap();
        assert_eq!(memory.acquire(&a, &held(1, []), &want).await, Ok(vec![Verdict::Granted]));
        memory.forget();
    }
}

#[actix::test]
async fn the_end_of_a_ways_subscriptions_is_not_that_of_anothers() {
    support::pause();
    let memory = Memory::new();
    let subscribed = async || {
        let (way, (to, messages)) = (memory.view(), mpsc::channel(8));
        let mut subscription = way.subscribe(to).await.unwrap();
        subscription.add(&["x".to_owned()]).await.unwrap();
        (way, messages, subscription)
    };
    let (stays, mut heard, _subscription) = subscribed().await;
    for end in [Memory::end_subscriptions, |way: &Memory| way.fail(Fault::Lost)] {
        let (way, mut messages, _subscription) = subscribed().await;
        end(&way);
        assert_eq!(messages.recv().await, None);
        assert_eq!(stays.publish("x", "heard".into()).await, Ok(1));
        assert_eq!(heard.recv().await.unwrap().bytes, "heard");
    }
}

/// Returns true if this call sees that a node is there.
type Sees = for<'a> fn(&'a Memory, &'a NodeId) -> BoxFuture<'a, bool>;

#[actix::test]
async fn at_the_end_of_a_lease_its_node_is_gone_whichever_call_comes_first() {
    support::pause();
    let a = node("a", 1);
    let calls: [(&str, Sees); 5] = [
        ("nodes", |memory, _| Box::pin(async move { !memory.nodes().await.unwrap().is_empty() })),
        ("list", |memory, a| Box::pin(async move { !memory.list(a, None).await.unwrap().rows.is_empty() })),
        ("lookup", |memory, _| Box::pin(async move { !memory.lookup("alice").await.unwrap().rows.is_empty() })),
        ("register", |memory, a| {
            Box::pin(async move {
                let renewed = memory.register(a, &Change { lease: Duration::from_secs(9), ..Change::default() }).await;
                renewed != Err(StoreError::Fenced)
            })
        }),
        ("acquire", |memory, a| {
            Box::pin(async move { memory.acquire(a, &held(1, []), &[]).await != Err(StoreError::Fenced) })
        }),
    ];
    for (call, sees) in calls {
        for (is_over, passed) in [(false, 8999), (true, 9000)] {
            let memory = Memory::new();
            let row = Row { session: 1, name: Some("alice".to_owned()), ..Row::default() };
            let change = Change { lease: Duration::from_secs(9), put: vec![row], ..begin([]) };
            memory.register(&a, &change).await.unwrap();
            tokio::time::advance(Duration::from_millis(passed)).await;
            assert_eq!(sees(&memory, &a).await, !is_over, "{call} after {passed} ms");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(support::CASES))]

    /// Against a bucket of whole tokens, by another arithmetic: it counts what has come in since the beginning.
    #[test]
    fn a_bucket_is_a_bucket(
        per_second in prop_oneof![1_u32..20, Just(1000), Just(u32::MAX)],
        burst in 1_u32..20,
        waits in prop::collection::vec(prop_oneof![Just(0_u64), 0_u64..100, 900_u64..3000], 1..80),
    ) {
        actix::System::new().block_on(async move {
            support::pause();
            let memory = Memory::new();
            let a = node("a", 1);
            memory.register(&a, &begin([])).await.unwrap();
            let want = [Want { rates: vec![RateLimit { resource: "r".into(), per_second, burst }], counts: vec![] }];
            // Thousandths of a token.
            let full = u128::from(burst) * 1000;
            let mut tokens = full;
            for (serial, wait) in (1..).zip(waits) {
                tokio::time::advance(Duration::from_millis(wait)).await;
                tokens = (tokens + u128::from(wait) * u128::from(per_second)).min(full);
                let verdict = memory.acquire(&a, &held(serial, []), &want).await.unwrap()[0];
                let expected = if tokens >= 1000 { Verdict::Granted } else { Verdict::Rate(0) };
                prop_assert_eq!(verdict, expected, "{} thousandths", tokens);
                if expected == Verdict::Granted {
                    tokens -= 1000;
                }
            }
            Ok(())
        })?;
    }
}
