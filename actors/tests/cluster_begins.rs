//! A life that begins with more shares than one script writes: none of them counts before it has begun, and all of them do then.

use std::{
    pin::{Pin, pin},
    time::{Duration, Instant},
};

use actix_lines::cluster::{
    Begin, Change, CountLimit, Held, NodeId, Share, Store, StoreError, Verdict, Want, redis::Redis,
};

#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/redis.rs"]
mod servers;
mod support;

use proxy::{Fault, Proxy};
use servers::{Program, StoreServer};
use support::{eventually, within};

/// A call may be slower than its second where the machine is busy, and no test is about that.
const CALL: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_secs(600);

fn at(url: &str) -> Redis {
    Redis::at(url).timeout(CALL).connect_timeout(CALL).build().unwrap()
}

fn node(name: &str) -> NodeId {
    NodeId { name: name.parse().unwrap(), incarnation: 7 }
}

fn name_of(nth: usize) -> String {
    format!("source:192.0.2.{nth}")
}

/// Begins a life that holds as many of each of so many sources.
fn begin(sources: usize, count: u64) -> Change {
    let shares = (0..sources).map(|nth| Share { resource: name_of(nth), count }).collect();
    Change { begins: Some(Begin { shares, ..Begin::default() }), lease: LEASE, ..Change::default() }
}

/// A node that holds nothing, and sees what the others hold.
struct Watcher {
    store: Redis,
    id: NodeId,
    serial: u64,
}

impl Watcher {
    async fn join(server: &StoreServer) -> Self {
        let watcher = Self { store: at(&server.url()), id: node("watcher"), serial: 0 };
        watcher.store.register(&watcher.id, &begin(0, 0)).await.unwrap();
        watcher
    }

    /// Returns how many of each of these sources the others hold: 0, or `count`, or something else.
    async fn held(&mut self, sources: impl Iterator<Item = usize>, count: u64) -> Vec<Option<u64>> {
        let mut held = Vec::new();
        for nth in sources {
            // The first is refused where any is held, the second where as many are, the third where more are.
            let resource = name_of(nth);
            let want = |most| Want { counts: vec![CountLimit { resource: resource.clone(), most }], rates: Vec::new() };
            self.serial += 2;
            let gives_back = Held { serial: self.serial, counts: vec![Share { resource: resource.clone(), count: 0 }] };
            let verdicts =
                self.store.acquire(&self.id, &gives_back, &[want(1), want(count), want(count + 1)]).await.unwrap();
            let free = Held { serial: self.serial + 1, counts: gives_back.counts };
            self.store.release(&self.id, &free).await.unwrap();
            held.push(match verdicts[..] {
                [Verdict::Granted, ..] => Some(0),
                [Verdict::Count(0), Verdict::Count(0), Verdict::Granted] => Some(count),
                _ => None,
            });
        }
        held
    }
}

/// Lets commands through one by one, until the call ends. `between` is called while one waits, with how many came through.
async fn step_by_step<T>(
    proxy: &Proxy,
    mut call: Pin<&mut impl Future<Output = T>>,
    mut between: impl AsyncFnMut(usize) -> bool,
) -> Option<T> {
    proxy.set(Fault::Held);
    for step in 0.. {
        let ended = within("a command, or the end of the call", async {
            tokio::select! {
                ended = &mut call => Some(ended),
                () = proxy.holds_one() => None,
            }
        });
        if let Some(ended) = ended.await {
            proxy.set(Fault::None);
            return Some(ended);
        }
        if !between(step).await {
            return None;
        }
        proxy.let_one_through();
    }
    None
}

/// A server that knows the scripts, a proxy before it, and a way to it by that.
async fn behind_a_proxy(sources: usize) -> (StoreServer, Proxy, Redis) {
    let server = StoreServer::start(Program::Redis);
    let proxy = Proxy::to(([127, 0, 0, 1], server.port()).into()).await;
    let store = at(&format!("redis://{}", proxy.address));
    store.register(&node("another"), &begin(sources, 1)).await.unwrap();
    store.unregister(&node("another")).await.unwrap();
    assert_eq!(keys(&server), Vec::<String>::new());
    (server, proxy, store)
}

fn keys(server: &StoreServer) -> Vec<String> {
    server.must(&["KEYS", "*"]).lines().map(str::to_owned).collect()
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn none_of_many_shares_counts_before_the_life_has_begun_and_all_of_them_do_then() {
    const SOURCES: usize = 20_000;
    let (server, proxy, store) = behind_a_proxy(2001).await;
    let mut watcher = Watcher::join(&server).await;
    let (id, change) = (node("a"), begin(SOURCES, 2));
    let some = || (0..SOURCES).step_by(1999);
    let mut steps = 0;
    let mut call = pin!(store.register(&id, &change));
    let begun = step_by_step(&proxy, call.as_mut(), async |step| {
        steps = step;
        assert_eq!(watcher.held(some(), 2).await, vec![Some(0); some().count()], "before command {step}");
        assert_eq!(watcher.store.nodes().await.unwrap().len(), 1, "before command {step}");
        true
    });
    assert_eq!(begun.await, Some(Ok(())));
    assert_eq!(steps + 1, SOURCES / 2000, "each piece is a call");
    assert_eq!(watcher.held(some(), 2).await, vec![Some(2); some().count()]);
    assert_eq!(server.must(&["HLEN", &format!("{{lines:}}held:{id}")]), SOURCES.to_string());
    assert_eq!(keys(&server).iter().filter(|key| key.contains("begins")).count(), 0, "it has become the life's");
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn a_store_that_forgets_shares_meanwhile_begins_no_life_with_the_rest() {
    const SOURCES: usize = 6001;
    // Whatever it is that comes after they are forgotten: a piece, or what begins the life.
    for at in 1..=3 {
        let (server, proxy, store) = behind_a_proxy(2001).await;
        let (id, change) = (node("a"), begin(SOURCES, 1));
        let mut call = pin!(store.register(&id, &change));
        let begun = step_by_step(&proxy, call.as_mut(), async |step| {
            if step == at {
                server.must(&["FLUSHALL"]);
            }
            true
        });
        let error = begun.await.unwrap().unwrap_err();
        assert!(matches!(&error, StoreError::Lost { reason } if reason.contains("forgotten")), "{at}: {error}");
        assert_eq!(keys(&server), Vec::<String>::new(), "{at}");
        store.register(&id, &change).await.unwrap();
        assert_eq!(server.must(&["HLEN", &format!("{{lines:}}held:{id}")]), SOURCES.to_string(), "{at}");
    }
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn what_a_call_that_was_given_up_leaves_behind_is_in_no_later_life_and_ends_by_itself() {
    const SOURCES: usize = 6001;
    let (server, proxy, store) = behind_a_proxy(2001).await;
    let mut watcher = Watcher::join(&server).await;
    let id = node("a");
    let former = begin(SOURCES, 5);
    // It was given up while its third piece was under way.
    {
        let mut call = pin!(store.register(&id, &former));
        assert_eq!(step_by_step(&proxy, call.as_mut(), async |step| step < 2).await, None);
    }
    let left: Vec<_> = keys(&server).into_iter().filter(|key| key.contains("begins")).collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(server.must(&["HLEN", &left[0]]), "4000");
    // Another one begins a life of the same id, which others have while the late piece comes.
    let direct = at(&server.url());
    direct.register(&id, &begin(SOURCES, 2)).await.unwrap();
    proxy.set(Fault::None);
    eventually("the late piece", async || server.must(&["HLEN", &left[0]]) == "6000").await;
    let some = || (0..SOURCES).step_by(999);
    assert_eq!(watcher.held(some(), 2).await, vec![Some(2); some().count()]);
    let ends: u128 = server.must(&["PTTL", &left[0]]).parse().unwrap();
    assert!((1..=LEASE.as_millis() + 1000).contains(&ends), "it ends in {ends} ms");
    // A life that is there is replaced as a whole.
    let mut call = pin!(store.register(&id, &former));
    let begun = step_by_step(&proxy, call.as_mut(), async |step| {
        assert_eq!(watcher.held(some(), 2).await, vec![Some(2); some().count()], "before command {step}");
        true
    });
    assert_eq!(begun.await, Some(Ok(())));
    assert_eq!(watcher.held(some(), 5).await, vec![Some(5); some().count()]);
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn a_life_that_takes_longer_than_its_lease_to_begin_does_not_begin() {
    let (server, proxy, store) = behind_a_proxy(2001).await;
    let (id, change) = (node("a"), Change { lease: Duration::from_millis(1), ..begin(6001, 1) });
    let mut call = pin!(store.register(&id, &change));
    let begun = step_by_step(&proxy, call.as_mut(), async |_| {
        let since = Instant::now();
        eventually("the end of the lease", async || since.elapsed() > Duration::from_millis(2)).await;
        true
    });
    assert_eq!(begun.await, Some(Err(StoreError::Slow { after: change.lease })));
    assert!(!keys(&server).iter().any(|key| key.contains("held") || key.contains("leases")));
    eventually("nothing to be left", async || keys(&server).is_empty()).await;
}

/// By hand, with `SHARES=300000` or whatever number: what it takes, in all and at the store.
#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn a_life_begins_with_however_many_shares() {
    let shares = std::env::var("SHARES").map_or(20_000, |text| text.parse().unwrap());
    let server = StoreServer::start(Program::Redis);
    let (store, id, change) = (at(&server.url()), node("a"), begin(shares, 3));
    // Another node's calls meanwhile.
    let other = at(&server.url());
    other.register(&node("b"), &begin(0, 0)).await.unwrap();
    server.must(&["CONFIG", "RESETSTAT"]);
    let begun = Instant::now();
    let mut call = store.register(&id, &change);
    let mut longest = Duration::ZERO;
    let (mut last, mut calls) = (Instant::now(), 0);
    let took = loop {
        let asked = other.nodes();
        tokio::select! {
            biased;
            ended = &mut call => {
                ended.unwrap();
                break begun.elapsed();
            }
            nodes = asked => {
                nodes.unwrap();
                longest = longest.max(last.elapsed());
                (last, calls) = (Instant::now(), calls + 1);
            }
        }
    };
    assert_eq!(server.must(&["HLEN", &format!("{{lines:}}held:{id}")]), shares.to_string());
    let stats = server.must(&["INFO", "commandstats"]);
    let scripts: Vec<_> = stats.lines().filter(|line| line.contains("eval") || line.contains("hset")).collect();
    eprintln!("{shares} shares in {took:?}; {calls} calls meanwhile, the slowest {longest:?}; {scripts:#?}");
}
