//! Rates: what comes back with time.

use std::time::Duration;

use actix_lines::cluster::{RateLimit, Verdict, Want};
use tokio::time::Instant;

use crate::{Engine, begin, held, node, support::eventually};

fn want(resource: &str, per_second: u32, burst: u32) -> Want {
    Want { counts: vec![], rates: vec![RateLimit { resource: resource.to_owned(), per_second, burst }] }
}

pub(crate) async fn a_bucket_gives_its_burst_and_then_its_rate(engine: &impl Engine) {
    const PER_SECOND: u32 = 50;
    const BURST: u32 = 10;
    let (store, a) = (engine.store().await, node("a", 1));
    store.register(&a, &begin([])).await.unwrap();
    // Between the first call's beginning and the last one's end there was this time at most, and between the first one's end
    // and the last one's beginning this time at least.
    let begun = Instant::now();
    let wants: Vec<_> = (0..BURST).map(|_| want("x", PER_SECOND, BURST)).collect();
    let verdicts = store.acquire(&a, &held(1, []), &wants).await.unwrap();
    assert_eq!(verdicts, vec![Verdict::Granted; BURST as usize], "the burst");
    let first = Instant::now();
    let (mut granted, mut serial) = (0_u32, 1);
    let (mut before, mut is_full) = (begun, false);
    eventually("what comes in for a quarter of a second", async || {
        serial += 1;
        // More than come in meanwhile: the bucket is always empty behind it.
        let wants: Vec<_> = (0..2 * BURST).map(|_| want("x", PER_SECOND, BURST)).collect();
        let asked = Instant::now();
        let verdicts = store.acquire(&a, &held(serial, []), &wants).await.unwrap();
        // So long that the bucket may have been full, and what came in then is lost.
        is_full |= before.elapsed().as_secs_f64() * f64::from(PER_SECOND) >= f64::from(BURST);
        before = asked;
        let count = verdicts.iter().filter(|verdict| **verdict == Verdict::Granted).count();
        assert!(verdicts[count..].iter().all(|verdict| *verdict == Verdict::Rate(0)), "{verdicts:?}");
        assert!(count <= BURST as usize, "{count} at once");
        granted += count as u32;
        first.elapsed() >= Duration::from_millis(266)
    })
    .await;
    let most = begun.elapsed().as_secs_f64() * f64::from(PER_SECOND) + 1.0;
    assert!(f64::from(granted) <= most, "{granted}, but not more than {most} came in");
    // The last call began at this time at least after the first one had ended.
    let came_in = before.duration_since(first).as_secs_f64() * f64::from(PER_SECOND);
    let least = if is_full { f64::from(BURST).min(came_in) } else { came_in } - 2.0;
    assert!(f64::from(granted) >= least, "{granted}, but at least {least} came in");
}

pub(crate) async fn buckets_are_of_all_nodes_and_apart_from_each_other(engine: &impl Engine) {
    let (first, second) = (engine.store().await, engine.store().await);
    let (a, b) = (node("a", 1), node("b", 1));
    first.register(&a, &begin([])).await.unwrap();
    second.register(&b, &begin([])).await.unwrap();
    // In the script of a call no time passes: of three at once from a bucket of two the last one comes too late.
    let take = |resource: &'static str| (0..3).map(move |_| want(resource, 1, 2)).collect::<Vec<_>>();
    let (granted, exhausted) = (Verdict::Granted, Verdict::Rate(0));
    assert_eq!(first.acquire(&a, &held(1, []), &take("x")).await.unwrap(), [granted, granted, exhausted]);
    let verdicts = second.acquire(&b, &held(1, []), &take("x")).await.unwrap();
    assert_eq!(verdicts[2], exhausted, "the bucket is that of all nodes");
    assert_eq!(second.acquire(&b, &held(2, []), &take("y")).await.unwrap(), [granted, granted, exhausted]);
    // A want of several is charged for all or none, and says which one is exhausted.
    let both = Want { counts: vec![], rates: [want("z", 1, 1).rates, want("y", 1, 1).rates].concat() };
    let verdicts = second.acquire(&b, &held(3, []), &[both.clone(), both.clone(), want("z", 1, 1)]).await.unwrap();
    let is_full_again = verdicts[0] == granted;
    assert!(matches!(verdicts[0], Verdict::Granted | Verdict::Rate(1)), "{verdicts:?}");
    assert_eq!(verdicts[2] == granted, !is_full_again, "{verdicts:?}");
    // A bucket outlives the nodes that took from it.
    first.unregister(&a).await.unwrap();
    let verdicts = second.acquire(&b, &held(4, []), &(0..9).map(|_| want("y", 1, 2)).collect::<Vec<_>>()).await;
    assert_eq!(verdicts.unwrap()[8], exhausted);
    // So many that no clock can tell them apart.
    let wants: Vec<_> = (0..9).map(|_| want("w", u32::MAX, u32::MAX)).collect();
    assert_eq!(second.acquire(&b, &held(5, []), &wants).await.unwrap(), [granted; 9]);
}
