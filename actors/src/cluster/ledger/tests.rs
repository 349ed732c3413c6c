//! Ledgers of several nodes against a store that loses, delays and overtakes calls, and against the truth: what is held.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
};

use fastrand::Rng;
use futures::FutureExt;

use super::*;
use crate::{rate::Rate, source::SourcePrefix};

/// A node's life in the store.
#[derive(Default)]
struct Life {
    serial: u64,
    held: BTreeMap<String, u64>,
}

/// The store, by its contract.
#[derive(Default)]
struct Engine(HashMap<(usize, u64), Life>);

impl Engine {
    /// `None` if the lease is over, or the call was overtaken.
    fn acquire(&mut self, life: (usize, u64), held: &Held, wants: &[Want]) -> Option<Vec<Verdict>> {
        let of_node = self.0.get_mut(&life).filter(|of_node| of_node.serial < held.serial)?;
        of_node.serial = held.serial;
        for share in &held.counts {
            of_node.held.insert(share.resource.clone(), share.count);
        }
        Some(wants.iter().map(|want| self.take(life, want)).collect())
    }

    fn take(&mut self, life: (usize, u64), want: &Want) -> Verdict {
        let all = |engine: &Self, name: &str| engine.0.values().filter_map(|life| life.held.get(name)).sum::<u64>();
        if let Some(place) = want.counts.iter().position(|limit| all(self, &limit.resource) >= limit.most) {
            return Verdict::Count(place);
        }
        for limit in &want.counts {
            *self.0.get_mut(&life).unwrap().held.entry(limit.resource.clone()).or_default() += 1;
        }
        Verdict::Granted
    }
}

/// A call on its way, and what has become of it at the store.
struct Flight {
    batch: Batch,
    life: u64,
    answer: Option<Option<Vec<Verdict>>>,
}

#[derive(Default)]
struct Node {
    ledger: Arc<Ledger>,
    life: u64,
    holds: Vec<Hold>,
    waiting: Vec<oneshot::Receiver<Result<Hold, RefuseReason>>>,
    flight: Option<Flight>,
}

type Late = ((usize, u64), Held, Vec<Want>);

struct World {
    random: Rng,
    engine: Engine,
    nodes: Vec<Node>,
    /// Calls that were given up and have not arrived yet.
    late: Vec<Late>,
    names: u64,
}

fn peer(random: &mut Rng) -> Address {
    SocketAddr::from(([192, 0, random.u8(0..2), random.u8(0..3)], 1024)).into()
}

impl World {
    fn new(seed: u64, limits: &FleetLimits) -> Self {
        let mut world = Self {
            random: Rng::with_seed(seed),
            engine: Engine::default(),
            nodes: (0..3).map(|_| Node::default()).collect(),
            late: Vec::new(),
            names: 0,
        };
        for node in 0..world.nodes.len() {
            world.nodes[node].ledger.set_limits(limits.clone());
            world.begin(node);
        }
        world
    }

    fn begin(&mut self, node: usize) {
        let of_node = &mut self.nodes[node];
        self.engine.0.remove(&(node, of_node.life));
        of_node.life += 1;
        let held = of_node.ledger.begin().into_iter().map(|share| (share.resource, share.count)).collect();
        self.engine.0.insert((node, of_node.life), Life { serial: 0, held });
    }

    fn collect(&mut self, node: usize) {
        let Node { waiting, holds, .. } = &mut self.nodes[node];
        waiting.retain_mut(|answer| match answer.try_recv() {
            Ok(Ok(hold)) => {
                holds.push(hold);
                false
            }
            Ok(Err(_)) => false,
            Err(error) => {
                assert_eq!(error, oneshot::error::TryRecvError::Empty, "nobody is forgotten");
                true
            }
        });
    }

    /// One step of one node. `is_blind` also lets sessions in without the store.
    fn step(&mut self, is_blind: bool) {
        let node = self.random.usize(0..self.nodes.len());
        self.collect(node);
        let Self { random, engine, nodes, late, names } = self;
        let of_node = &mut nodes[node];
        match random.u8(0..20) {
            0..=4 => {
                let (peer, is_probe) = (peer(random), random.u8(0..20) == 0);
                match of_node.ledger.ask(&peer, is_probe, is_blind && random.bool()) {
                    Asked::Free(hold) | Asked::Blind(Ok(hold)) => of_node.holds.push(hold),
                    Asked::Waits(answer) => of_node.waiting.push(answer),
                    Asked::Refused(_) | Asked::Blind(Err(_)) => {}
                }
            }
            5 => {
                *names += 1;
                of_node.waiting.push(of_node.ledger.claim(&format!("name:{}", *names % 3), 1));
            }
            6 if !of_node.waiting.is_empty() => {
                let gone = random.usize(0..of_node.waiting.len());
                of_node.waiting.swap_remove(gone);
            }
            7..=10 if !of_node.holds.is_empty() => {
                let gone = random.usize(0..of_node.holds.len());
                of_node.holds.swap_remove(gone);
            }
            11..=17 => match of_node.flight.take() {
                None => {
                    let life = of_node.life;
                    of_node.flight = of_node.ledger.take().map(|batch| Flight { batch, life, answer: None });
                    let counts = of_node.flight.as_ref().map_or(&[][..], |flight| &flight.batch.held.counts);
                    let names: BTreeSet<_> = counts.iter().map(|share| &share.resource).collect();
                    assert_eq!(names.len(), counts.len(), "each resource is told of once");
                }
                Some(mut flight) => match random.u8(0..8) {
                    // It is never heard of, and arrives later or not at all.
                    0 => {
                        if flight.answer.is_none() {
                            late.push(((node, flight.life), flight.batch.held.clone(), flight.batch.wants.clone()));
                        }
                        of_node.ledger.settle(flight.batch, None);
                    }
                    1..=3 if flight.answer.is_none() => {
                        let answer = engine.acquire((node, flight.life), &flight.batch.held, &flight.batch.wants);
                        flight.answer = Some(answer);
                        of_node.flight = Some(flight);
                    }
                    _ => {
                        let answer = match flight.answer {
                            Some(answer) => answer,
                            None => engine.acquire((node, flight.life), &flight.batch.held, &flight.batch.wants),
                        };
                        of_node.ledger.settle(flight.batch, answer);
                    }
                },
            },
            18 if !late.is_empty() => {
                let (life, held, wants) = late.swap_remove(random.usize(0..late.len()));
                engine.acquire(life, &held, &wants);
            }
            19 if random.u8(0..4) == 0 => self.begin(node),
            _ => {}
        }
        self.collect(node);
        let books = self.nodes[node].ledger.books();
        let not_done = books.entries.values().filter(|entry| entry.telling != Telling::Done).count();
        assert_eq!(books.not_done, not_done as u64, "the number is that of the entries");
    }

    /// What is held of each resource, by a node or by all.
    fn truth<'a>(nodes: impl IntoIterator<Item = &'a Node>, prefix: SourcePrefix) -> BTreeMap<String, u64> {
        let mut truth = BTreeMap::new();
        for hold in nodes.into_iter().flat_map(|node| &node.holds) {
            let mut add = |name: String| *truth.entry(name).or_default() += 1;
            match &hold.what {
                What::Session(peer) => {
                    add(SESSIONS.to_owned());
                    if let Some(peer) = *peer {
                        add(format!("source:{}", prefix.text(peer)));
                    }
                }
                What::Other(name) => add(name.to_string()),
            }
        }
        truth
    }

    /// Everything that is on its way arrives, and whoever waits hears.
    fn settle(&mut self) {
        for node in 0..self.nodes.len() {
            loop {
                let of_node = &mut self.nodes[node];
                let life = of_node.life;
                let next = || Some(Flight { batch: of_node.ledger.take()?, life, answer: None });
                let Some(Flight { batch, life, answer }) = of_node.flight.take().or_else(next) else { break };
                let answer = answer.unwrap_or_else(|| self.engine.acquire((node, life), &batch.held, &batch.wants));
                of_node.ledger.settle(batch, answer);
                self.collect(node);
            }
            assert_eq!(self.nodes[node].ledger.due(), Due::Nothing);
            assert_eq!(self.nodes[node].ledger.untold(), 0);
        }
        for (life, held, wants) in std::mem::take(&mut self.late) {
            self.engine.acquire(life, &held, &wants);
        }
    }

    fn is_told_the_truth(&self, prefix: SourcePrefix, what: &str) {
        for (number, node) in self.nodes.iter().enumerate() {
            let mut told = self.engine.0[&(number, node.life)].held.clone();
            told.retain(|_, count| *count > 0);
            assert_eq!(told, Self::truth([node], prefix), "{what}: node {number}");
        }
    }

    fn is_empty(&self) -> bool {
        self.nodes.iter().all(|node| {
            let books = node.ledger.books();
            books.entries.is_empty() && books.peers.is_empty() && books.untold.is_empty() && books.waiting.is_empty()
        })
    }
}

fn limits() -> FleetLimits {
    FleetLimits::builder().max_sessions(12).max_sessions_per_source(4).build().unwrap()
}

#[test]
fn whatever_becomes_of_calls_no_limit_is_exceeded_no_share_is_lost_and_none_is_kept() {
    let mut reached = 0;
    for seed in 0..200 {
        let limits = limits();
        let mut world = World::new(seed, &limits);
        for step in 0..400 {
            world.step(false);
            let truth = World::truth(&world.nodes, limits.source_prefix);
            for (name, count) in &truth {
                let most = match name.as_str() {
                    SESSIONS => 12,
                    name if name.starts_with("source:") => 4,
                    _ => 1,
                };
                assert!(*count <= most, "seed {seed}, step {step}: {count} of {name}");
                reached += usize::from(name == SESSIONS && *count == most);
            }
        }
        world.settle();
        world.is_told_the_truth(limits.source_prefix, &format!("seed {seed}"));
        world.nodes.iter_mut().for_each(|node| node.holds.clear());
        world.settle();
        world.is_told_the_truth(limits.source_prefix, &format!("seed {seed}, at the end"));
        assert!(world.is_empty(), "seed {seed}: nothing is left");
    }
    assert!(reached > 500, "the limit is reached: {reached}");
}

#[test]
fn sessions_that_were_let_in_without_the_store_and_limits_that_change_are_told_the_store_in_the_end() {
    for seed in 0..200 {
        let mut world = World::new(seed, &FleetLimits::default());
        let mut now = FleetLimits::default();
        for _ in 0..10 {
            let random = &mut world.random;
            now = FleetLimits {
                max_sessions: random.bool().then(|| random.u64(1..20)),
                max_sessions_per_source: random.bool().then(|| random.u64(1..6)),
                source_prefix: SourcePrefix { v4: [0, 24, 32][random.usize(0..3)], v6: 64 },
                ..FleetLimits::default()
            };
            world.nodes.iter().for_each(|node| node.ledger.set_limits(now.clone()));
            (0..50).for_each(|_| world.step(true));
        }
        now = FleetLimits { max_sessions: Some(1000), max_sessions_per_source: Some(1000), ..now };
        world.nodes.iter().for_each(|node| node.ledger.set_limits(now.clone()));
        world.settle();
        world.is_told_the_truth(now.source_prefix, &format!("seed {seed}"));
        world.nodes.iter_mut().for_each(|node| node.holds.clear());
        world.settle();
        assert!(world.is_empty(), "seed {seed}: nothing is left");
    }
}

#[test]
fn sources_cost_nothing_before_there_is_a_limit_of_theirs_and_are_all_known_to_it_then() {
    let ledger = Arc::new(Ledger::default());
    let hold = |source: u8| match ledger.ask(&SocketAddr::from(([192, 0, 2, source], 1)).into(), false, false) {
        Asked::Free(hold) => hold,
        other => panic!("{other:?}"),
    };
    let holds: Vec<_> = [1, 1, 2].into_iter().map(hold).collect();
    ledger.set_limits(FleetLimits::builder().max_sessions(9).build().unwrap());
    assert_eq!(ledger.books().entries.len(), 1, "the sessions");
    ledger.begin();
    ledger.set_limits(FleetLimits::builder().max_sessions_per_source(9).build().unwrap());
    let told: BTreeMap<_, _> =
        ledger.take().unwrap().held.counts.into_iter().map(|share| (share.resource, share.count)).collect();
    assert_eq!(told.into_values().collect::<Vec<_>>(), [2, 1]);
    drop(holds);
}

#[test]
fn without_the_store_a_node_keeps_to_its_own_counts_and_its_own_buckets() {
    let rate = Rate { per_second: 1, burst: 3 };
    let limits = FleetLimits::builder().max_sessions(4).accept_rate_per_source(Some(rate)).build().unwrap();
    let ledger = Arc::new(Ledger::default());
    ledger.set_limits(limits.clone());
    let from = |source: u8| SocketAddr::from(([192, 0, 2, source], 1)).into();
    let refused = |source| ledger.without_store(&from(source), false).map(drop).unwrap_err();
    let mut holds: Vec<_> = (0..3).map(|_| ledger.without_store(&from(1), false).unwrap()).collect();
    assert_eq!(refused(1), RefuseReason::ClusterRate);
    holds.push(ledger.without_store(&from(2), false).unwrap());
    assert_eq!(refused(2), RefuseReason::ClusterFull);
    drop(holds);
    ledger.without_store(&from(2), false).unwrap();
    ledger.set_limits(FleetLimits { on_partition: OnPartition::Closed, ..limits });
    assert_eq!(refused(3), RefuseReason::StoreLost);
}

#[test]
fn buckets_that_are_full_again_are_forgotten() {
    let rate = Rate { per_second: 1_000_000_000, burst: 1 };
    let ledger = Arc::new(Ledger::default());
    ledger.set_limits(FleetLimits::builder().accept_rate_per_source(Some(rate)).build().unwrap());
    for source in 0..20_000_u32 {
        let [_, b, c, d] = source.to_be_bytes();
        ledger.without_store(&SocketAddr::from(([10, b, c, d], 1)).into(), false).unwrap();
    }
    assert!(ledger.books().buckets.len() <= 2 * KEPT, "{}", ledger.books().buckets.len());
    assert!(ledger.books().entries.is_empty() && ledger.books().peers.is_empty());
}

#[test]
fn sources_that_come_and_go_while_the_store_is_lost_are_forgotten() {
    let ledger = Arc::new(Ledger::default());
    ledger.set_limits(limits());
    let from = |source: u32| {
        let [_, b, c, d] = source.to_be_bytes();
        SocketAddr::from(([10, b, c, d], 1)).into()
    };
    // Two stay, one of which was there before.
    let first = ledger.without_store(&from(0), false).unwrap();
    let mut kept = Vec::new();
    for source in 1..20_000_u32 {
        drop(ledger.without_store(&from(source), false).unwrap());
        drop(ledger.without_store(&from(7), false).unwrap());
        if source == 10_000 {
            kept.push(ledger.without_store(&from(source), false).unwrap());
        }
    }
    assert!(ledger.books().entries.len() <= 4, "{} resources are kept", ledger.books().entries.len());
    assert!(ledger.books().untold.len() <= 2 * KEPT, "{} names are kept", ledger.books().untold.len());
    let mut told: Vec<_> = ledger.take().unwrap().held.counts;
    told.sort_by(|one, other| one.resource.cmp(&other.resource));
    let of = |source| format!("source:{}", limits().source_prefix.text(PeerId::of(&from(source)).unwrap()));
    let share = |resource, count| Share { resource, count };
    assert_eq!(told, [share(SESSIONS.to_owned(), 2), share(of(0), 1), share(of(10_000), 1)]);
    drop((first, kept));
}

fn from(source: u32) -> Address {
    let [_, b, c, d] = source.to_be_bytes();
    SocketAddr::from(([10, b, c, d], 1)).into()
}

fn limited(limits: FleetLimits) -> Arc<Ledger> {
    let ledger = Arc::new(Ledger::default());
    ledger.set_limits(limits);
    // It has told of its limits.
    ledger.work.notified().now_or_never();
    ledger
}

fn counts(batch: &Batch) -> BTreeMap<&str, u64> {
    batch.held.counts.iter().map(|share| (share.resource.as_str(), share.count)).collect()
}

#[test]
fn sessions_that_no_limit_holds_for_wake_nobody() {
    let ledger = limited(FleetLimits::default());
    let Asked::Free(hold) = ledger.ask(&from(1), false, false) else { panic!("no limit holds") };
    drop(hold);
    assert_eq!(ledger.work.notified().now_or_never(), None);
    assert_eq!(ledger.asked.notified().now_or_never(), None);
}

#[test]
fn whom_a_node_alone_has_no_place_for_is_refused_without_the_store() {
    let ledger = limited(FleetLimits::builder().max_sessions(2).max_sessions_per_source(1).build().unwrap());
    let ask = |source| match ledger.ask(&from(source), false, false) {
        Asked::Refused(reason) => Some(reason),
        Asked::Waits(_) => None,
        other => panic!("{other:?}"),
    };
    let _first = ledger.without_store(&from(1), false).unwrap();
    assert_eq!((ask(1), ask(2)), (Some(RefuseReason::ClusterSource), None));
    let _second = ledger.without_store(&from(2), false).unwrap();
    assert_eq!(ask(3), Some(RefuseReason::ClusterFull));
}

fn waits(ledger: &Arc<Ledger>, source: u32) -> oneshot::Receiver<Result<Hold, RefuseReason>> {
    match ledger.ask(&from(source), false, false) {
        Asked::Waits(answer) => answer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_asks_first_is_asked_for_first_however_many_calls_come_to_nothing() {
    for calls in 0..3 {
        let ledger = limited(limits());
        let asked: Vec<_> = (0..3).map(|source| waits(&ledger, source)).collect();
        let claimed: Vec<_> = (0..3).map(|_| ledger.claim("name:x", 1)).collect();
        for nth in 0..calls {
            // Nobody knows the outcome, or the answer is to something else.
            let batch = ledger.take().unwrap();
            assert_eq!(ledger.settle(batch, (nth % 2 == 0).then(Vec::new)), 0);
        }
        let batch = ledger.take().unwrap();
        assert_eq!(batch.held.counts.is_empty(), calls == 0, "what the store knows it is not told");
        // The first of each kind; a name is no session that is let in.
        let mut are_first = [true, true];
        let verdicts = batch.wants.iter().map(|want| {
            let kind = usize::from(want.counts[0].resource == "name:x");
            if std::mem::take(&mut are_first[kind]) { Verdict::Granted } else { Verdict::Count(0) }
        });
        let verdicts = verdicts.collect();
        assert_eq!(ledger.settle(batch, Some(verdicts)), 1);
        for answers in [asked, claimed] {
            let results = answers.into_iter().map(|mut answer| answer.try_recv().unwrap().map(drop));
            let full = || Err(RefuseReason::ClusterFull);
            assert_eq!(results.collect::<Vec<_>>(), [Ok(()), full(), full()]);
        }
    }
}

#[test]
fn neither_connections_nor_claims_keep_the_others_out_of_the_next_call() {
    for (connections, claims) in [(MOST_WANTS, 1), (1, MOST_WANTS)] {
        let ledger = limited(FleetLimits::builder().max_sessions(1000).build().unwrap());
        let _asked: Vec<_> = (0..connections as u32).map(|source| waits(&ledger, source)).collect();
        let _claimed: Vec<_> = (0..claims).map(|nth| ledger.claim(&format!("name:{nth}"), 1)).collect();
        for take in 0..2 {
            let batch = ledger.take().unwrap();
            let of_claims = batch.wants.iter().filter(|want| want.counts[0].resource != SESSIONS).count();
            if take == 0 {
                assert_eq!(batch.wants.len(), MOST_WANTS);
                assert!((1..MOST_WANTS).contains(&of_claims), "{of_claims} of {claims} claims");
            }
        }
        assert!(ledger.take().is_none());
    }
}

#[test]
fn nothing_is_asked_for_whom_nobody_waits_for_any_more() {
    let ledger = limited(limits());
    drop((waits(&ledger, 1), ledger.claim("name:x", 1)));
    assert!(ledger.take().is_none());
}

#[test]
fn a_life_begins_with_what_is_held_and_the_store_is_to_know() {
    let ledger = limited(FleetLimits::default());
    let hold = |ledger: &Arc<Ledger>| ledger.without_store(&from(1), false).unwrap();
    for count in 1..4 {
        let ledger = limited(FleetLimits::default());
        let _holds: Vec<_> = (0..count).map(|_| hold(&ledger)).collect();
        assert_eq!(ledger.begin(), [], "no limit has asked for it");
        ledger.set_limits(limits());
        assert_eq!(ledger.take().unwrap().held.counts.len(), 2, "{count} sessions, of one source");
    }
    ledger.set_limits(FleetLimits::builder().max_sessions(9).build().unwrap());
    let first = hold(&ledger);
    let share = |count| Share { resource: SESSIONS.to_owned(), count };
    assert_eq!(ledger.begin(), [share(1)]);
    let second = hold(&ledger);
    assert_eq!(ledger.begin(), [share(2)]);
    drop((first, second));
    assert_eq!(ledger.begin(), []);
}

#[test]
fn what_a_call_was_to_tell_is_told_again_if_nobody_has_seen_its_end() {
    let ledger = limited(limits());
    let _of_1 = ledger.without_store(&from(1), false).unwrap();
    let told = ledger.take().unwrap();
    ledger.settle(told, Some(Vec::new()));
    let _of_2 = ledger.without_store(&from(2), false).unwrap();
    let source = |source| format!("source:{}", limits().source_prefix.text(PeerId::of(&from(source)).unwrap()));
    let expected = [(SESSIONS.to_owned(), 2), (source(2), 1)];
    let expected: BTreeMap<_, _> = expected.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    let lost = ledger.take().unwrap();
    assert_eq!(counts(&lost), expected);
    drop(lost);
    assert!(ledger.take().is_none() && ledger.untold() == 2, "it is on its way");
    ledger.forget_flights();
    assert_eq!(counts(&ledger.take().unwrap()), expected, "and nothing that the store knows");
}

#[test]
fn what_many_sources_have_taken_is_given_back_when_most_of_them_are_gone() {
    const MANY: u32 = 40_000;
    let ledger = limited(FleetLimits::builder().max_sessions_per_source(2).build().unwrap());
    let settle = || {
        while let Some(batch) = ledger.take() {
            ledger.settle(batch, Some(Vec::new()));
        }
    };
    let room = || {
        let books = ledger.books();
        (books.entries.capacity(), books.peers.capacity())
    };
    let mut holds: Vec<_> = (0..MANY).map(|source| ledger.without_store(&from(source), false).unwrap()).collect();
    settle();
    let full = room();
    holds.truncate(MANY as usize / 2);
    settle();
    let half = room();
    assert!(half.0 >= full.0 / 2 && half.1 >= full.1 / 2, "it would be taken again soon: {half:?} of {full:?}");
    holds.truncate(10);
    settle();
    let (entries, peers) = room();
    assert!(entries <= 4 * KEPT && peers <= 4 * KEPT, "{entries} and {peers} of {full:?}");
}

#[test]
fn limits_of_a_source_hold_for_all_but_those_that_are_exempt() {
    let one = FleetLimits::builder().max_sessions_per_source(1);
    let ledger = limited(one.exempt(["10.0.0.1".parse().unwrap()]).build().unwrap());
    let is_free = |source| matches!(ledger.ask(&from(source), false, false), Asked::Free(_));
    assert!(is_free(1) && !is_free(2));
}

#[actix::test]
async fn a_bucket_of_a_node_on_its_own_fills_at_its_rate_and_is_kept_until_it_is_full() {
    tokio::time::pause();
    for per_second in [1, 2, 4] {
        let rate = Rate { per_second, burst: 3 };
        let ledger = limited(FleetLimits::builder().accept_rate_per_source(Some(rate)).build().unwrap());
        let enters = |source| ledger.without_store(&from(source), false).is_ok();
        assert_eq!([0; 4].map(enters), [true, true, true, false]);
        let token = Duration::from_secs(1) / per_second;
        for _ in 0..3 {
            tokio::time::advance(token - Duration::from_millis(1)).await;
            assert!(!enters(0), "{per_second} a second: it comes later");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(enters(0), "{per_second} a second: it has come");
        }
        // Many others come, more than are kept if they are full.
        assert!((1..3 * KEPT as u32).all(enters));
        assert!(!enters(0));
        tokio::time::advance(token * 3).await;
        assert_eq!([0; 4].map(enters), [true, true, true, false]);
    }
}

#[test]
fn a_resource_waits_once_to_be_told_of_however_often_it_changes() {
    let ledger = limited(limits());
    let hold = || ledger.without_store(&from(1), false).unwrap();
    let untold = || ledger.books().untold.len();
    let holds = [(); 4].map(|()| hold());
    assert_eq!(untold(), 2, "the sessions, and the source");
    let batch = ledger.take().unwrap();
    ledger.settle(batch, Some(Vec::new()));
    drop(holds);
    assert_eq!(untold(), 2);
    for _ in 0..5 {
        drop(hold());
        assert_eq!(untold(), 2);
    }
    // One that the store does not know comes and goes, and is there each time that the names are sorted out.
    let ledger = limited(limits());
    let mut hold = ledger.without_store(&from(1), false).unwrap();
    for _ in 0..5 * KEPT {
        drop(hold);
        hold = ledger.without_store(&from(1), false).unwrap();
        assert!(ledger.books().untold.len() <= KEPT);
    }
}

#[test]
fn what_has_changed_first_is_told_first() {
    let ledger = limited(FleetLimits::builder().max_sessions_per_source(9).build().unwrap());
    let _holds: Vec<_> =
        (0..3 * MOST_COUNTS as u32).map(|source| ledger.without_store(&from(source), false).unwrap()).collect();
    let source = |source| format!("source:{}", limits().source_prefix.text(PeerId::of(&from(source)).unwrap()));
    for turn in 0..3 {
        let batch = ledger.take().unwrap();
        let told = counts(&batch);
        let first = turn * MOST_COUNTS as u32;
        assert_eq!(told.len(), MOST_COUNTS);
        assert!((first..first + MOST_COUNTS as u32).all(|nth| told.contains_key(source(nth).as_str())), "call {turn}");
        ledger.settle(batch, Some(Vec::new()));
    }
    assert!(ledger.take().is_none());
}
