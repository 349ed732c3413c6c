//! Budget: a limit on the bytes in the buffers of all sessions, and the choice of sessions to cut above it.
//!
//! The source that holds the most goes first, not the session: many small sessions of one source weigh as much as one
//! large one of another. Each worker adds up its own sessions and publishes the sum in steps, so the budget is exceeded
//! by less than a step for each worker before one of them looks for sessions to cut.
//! Not here: the bytes that a session holds, and its end (`worker`).

use std::{
    collections::{BTreeMap, BinaryHeap, HashMap},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use crate::{
    address::Address,
    connection::SessionId,
    limits::AdmissionLimits,
    source::{PeerId, Peers, SourceKey, SourcePrefix},
};

/// Change of a worker's sum that it publishes. Unit: bytes.
pub(crate) const STEP: usize = 64 * 1024;

/// A worker leaves cutting to another whose heaviest source is heavier by this part, a sixteenth: without it two
/// workers would take turns for each session.
const SLACK: usize = 16;

/// Bytes held by the heaviest source, and by the largest of its sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Weight {
    pub(crate) source: usize,
    pub(crate) session: usize,
}

impl Weight {
    /// Not weighed, so it may be any: a worker that has to evict leaves it to this one, which weighs itself and may leave it
    /// to the other again.
    pub(crate) const UNKNOWN: Self = Self { source: usize::MAX, session: usize::MAX };
}

#[derive(Debug)]
pub(crate) struct Budget {
    limit: AtomicUsize,
    /// Bytes held, as published.
    used: AtomicUsize,
    /// The heaviest source of each worker, as last weighed; a worker that holds nothing is not here. Locked once a
    /// sweep, and for each session that is cut.
    heaviest: Mutex<BTreeMap<usize, Weight>>,
}

impl Budget {
    pub(crate) fn new(limit: Option<usize>) -> Self {
        Self {
            limit: AtomicUsize::new(limit.unwrap_or(usize::MAX)),
            used: AtomicUsize::new(0),
            heaviest: Mutex::default(),
        }
    }

    fn heaviest(&self) -> MutexGuard<'_, BTreeMap<usize, Weight>> {
        self.heaviest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_limit(&self, limit: Option<usize>) {
        self.limit.store(limit.unwrap_or(usize::MAX), Relaxed);
    }

    /// Returns the limit, in bytes.
    pub(crate) fn limit(&self) -> Option<usize> {
        Some(self.limit.load(Relaxed)).filter(|limit| *limit != usize::MAX)
    }

    pub(crate) fn has_limit(&self) -> bool {
        self.limit().is_some()
    }

    /// Returns true if so little is left that a session may soon have to be cut.
    pub(crate) fn is_short(&self) -> bool {
        self.used.load(Relaxed) > self.limit.load(Relaxed) / 2
    }

    /// Books the change of one worker's sum.
    pub(crate) fn publish(&self, before: usize, after: usize) {
        // Wrapping, as atomics do: a smaller sum is a large number added.
        self.used.fetch_add(after.wrapping_sub(before), Relaxed);
    }

    /// Returns the bytes held above the limit.
    pub(crate) fn excess(&self) -> usize {
        self.used.load(Relaxed).saturating_sub(self.limit.load(Relaxed))
    }

    /// Publishes the heaviest source of this worker.
    pub(crate) fn set_heaviest(&self, worker: usize, weight: Weight) {
        if weight == Weight::default() {
            self.heaviest().remove(&worker);
        } else {
            self.heaviest().insert(worker, weight);
        }
    }

    /// Returns another worker whose heaviest source should go before `own`, the heaviest of this one.
    pub(crate) fn heavier_than(&self, own: Weight, worker: usize) -> Option<usize> {
        let heaviest = self.heaviest();
        let others = heaviest.iter().filter(|(other, _)| **other != worker);
        let (other, weight) = others.max_by_key(|(_, weight)| **weight)?;
        (weight.source > own.source.saturating_add(own.source / SLACK)).then_some(*other)
    }
}

/// The rule that makes sessions one source.
#[derive(Debug)]
pub(crate) struct Sources {
    prefix: SourcePrefix,
    exempt: Vec<Peers>,
}

impl Sources {
    pub(crate) fn new(limits: &AdmissionLimits) -> Self {
        Self { prefix: limits.source_prefix, exempt: limits.exempt.clone() }
    }

    pub(crate) fn key(&self, session: SessionId, peer: &Address) -> SourceKey {
        match PeerId::of(peer) {
            Some(id) if !self.exempt.iter().any(|peers| peers.contains(peer)) => {
                SourceKey::Peer(self.prefix.source(id))
            }
            _ => SourceKey::Alone(session.get()),
        }
    }
}

/// A session that holds bytes, ordered by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Holder {
    pub(crate) held: usize,
    pub(crate) slot: u32,
    pub(crate) id: SessionId,
}

/// The sessions of one worker that hold bytes, by source, as last weighed. Taking one costs two heap operations,
/// however many there are.
#[derive(Debug, Default)]
pub(crate) struct Ranking {
    known: HashMap<SourceKey, usize>,
    sources: Vec<Source>,
    /// Bytes held by each source, and its index. A source that has changed has several entries; only the last counts.
    heap: BinaryHeap<(Weight, usize)>,
    /// Bytes at first, and bytes taken since.
    total: usize,
    taken: usize,
}

#[derive(Debug, Default)]
struct Source {
    held: usize,
    holders: BinaryHeap<Holder>,
}

impl Source {
    fn weight(&self) -> Weight {
        Weight { source: self.held, session: self.holders.peek().map_or(0, |holder| holder.held) }
    }
}

impl Ranking {
    /// Adds a session. Must not be called after [`take`](Self::take).
    pub(crate) fn add(&mut self, key: SourceKey, holder: Holder) {
        let index = *self.known.entry(key).or_insert_with(|| {
            self.sources.push(Source::default());
            self.sources.len() - 1
        });
        let source = &mut self.sources[index];
        source.held += holder.held;
        source.holders.push(holder);
        self.total += holder.held;
    }

    /// Builds the heap once all sessions are added.
    pub(crate) fn finish(&mut self) {
        self.known = HashMap::new();
        self.heap = self.sources.iter().enumerate().map(|(index, source)| (source.weight(), index)).collect();
    }

    pub(crate) fn heaviest(&self) -> Weight {
        self.heap.peek().map_or_else(Weight::default, |(weight, _)| *weight)
    }

    /// Returns true if no session held anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Returns true if so much was taken that sessions outside the ranking may hold more than those left in it.
    pub(crate) fn is_worn(&self) -> bool {
        self.taken >= self.total - self.total / 2
    }

    /// Takes the largest session of the heaviest source. `now` returns the bytes that a session holds at this moment:
    /// with less than before it is ranked anew, with 0 it is left out.
    pub(crate) fn take(&mut self, mut now: impl FnMut(Holder) -> usize) -> Option<Holder> {
        loop {
            let (_, index) = self.heap.pop()?;
            let source = &mut self.sources[index];
            let Some(holder) = source.holders.pop() else { continue };
            let held = now(holder);
            source.held -= holder.held;
            let is_smaller = held < holder.held;
            if is_smaller && held > 0 {
                source.held += held;
                source.holders.push(Holder { held, ..holder });
            }
            self.taken += holder.held - if is_smaller { held } else { 0 };
            if !source.holders.is_empty() {
                self.heap.push((source.weight(), index));
            }
            if !is_smaller {
                return Some(Holder { held, ..holder });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn ranking(holders: &[(&str, usize)]) -> (Ranking, Vec<SessionId>) {
        let sources = Sources { prefix: SourcePrefix::default(), exempt: vec!["198.51.100.0/24".parse().unwrap()] };
        let mut ranking = Ranking::default();
        let ids: Vec<_> = holders.iter().map(|_| SessionId::next()).collect();
        for (slot, ((peer, held), id)) in holders.iter().zip(&ids).enumerate() {
            let peer = peer.parse::<IpAddr>().map_or(Address::Memory, |ip| Address::Ip((ip, 1).into()));
            ranking.add(sources.key(*id, &peer), Holder { held: *held, slot: slot as u32, id: *id });
        }
        ranking.finish();
        (ranking, ids)
    }

    fn taken(ranking: &mut Ranking) -> Vec<(u32, usize)> {
        std::iter::from_fn(|| ranking.take(|holder| holder.held)).map(|holder| (holder.slot, holder.held)).collect()
    }

    #[test]
    fn the_source_that_holds_the_most_in_all_loses_its_largest_session_first() {
        let (mut ranking, _) = ranking(&[
            ("192.0.2.1", 30),
            ("192.0.2.1", 50),
            ("192.0.2.1", 40),
            ("203.0.113.9", 100),
            // One address of many users, and peers without one: each for itself.
            ("198.51.100.7", 60),
            ("198.51.100.7", 60),
            ("unix", 90),
        ]);
        assert_eq!(ranking.heaviest(), Weight { source: 120, session: 50 });
        assert_eq!(taken(&mut ranking), [(1, 50), (3, 100), (6, 90), (2, 40), (5, 60), (4, 60), (0, 30)]);
        assert_eq!(ranking.heaviest(), Weight::default());
    }

    #[test]
    fn a_session_that_holds_less_than_it_did_gets_the_place_that_this_gives_it() {
        let (mut ranking, _) = ranking(&[("192.0.2.1", 100), ("192.0.2.2", 90), ("192.0.2.3", 80), ("192.0.2.4", 70)]);
        // The first has sent something since, the second all.
        let now = |holder: Holder| [85, 0, 80, 500][holder.slot as usize];
        let order: Vec<_> = std::iter::from_fn(|| ranking.take(now)).map(|holder| (holder.slot, holder.held)).collect();
        assert_eq!(order, [(0, 85), (2, 80), (3, 500)]);
    }

    #[test]
    fn it_is_worn_when_half_of_it_is_gone() {
        assert!(Ranking::default().is_worn());
        let (mut ranking, _) = ranking(&[("192.0.2.1", 30), ("192.0.2.1", 30), ("192.0.2.1", 30)]);
        assert!(!ranking.is_worn());
        let _ = ranking.take(|holder| holder.held);
        assert!(!ranking.is_worn());
        let _ = ranking.take(|_| 0);
        assert!(ranking.is_worn());
    }

    #[test]
    fn a_worker_leaves_it_to_another_whose_heaviest_source_is_clearly_heavier() {
        let budget = Budget::new(Some(100));
        let weight = |source| Weight { source, session: source };
        budget.set_heaviest(0, weight(1000));
        budget.set_heaviest(1, weight(1060));
        budget.set_heaviest(2, weight(1070));
        assert_eq!(budget.heavier_than(weight(1000), 0), Some(2));
        assert_eq!(budget.heavier_than(weight(1060), 1), None, "within a sixteenth");
        assert_eq!(budget.heavier_than(weight(1070), 2), None);
        assert_eq!(budget.heavier_than(Weight::default(), 0), Some(2));
        budget.set_heaviest(2, Weight::default());
        assert_eq!(budget.heavier_than(weight(1000), 0), None);
    }
}
