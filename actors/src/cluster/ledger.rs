//! Ledger: what a node holds of what all nodes have together, and what it has told the store of it.
//!
//! The node's own counts are the truth: each grant adds, each end subtracts, at once and under one short lock. The store is
//! told counts, not differences: with a call that nobody knows the outcome of it is only not known any more what the store
//! has, and the next call says what it is to have. So no share is lost for ever, and none is kept.
//! Not here: calls to the store, and waiting for them (`limits`).

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use crate::{
    address::Address,
    cluster::{
        fleet_limits::{FleetLimits, OnPartition},
        store::{CountLimit, Held, RateLimit, Share, Verdict, Want},
    },
    report::RefuseReason,
    source::PeerId,
};

/// Most wants of one call.
const MOST_WANTS: usize = 256;
/// Most counts of one call, besides those of what is wanted.
const MOST_COUNTS: usize = 1000;
/// Entries of a table that is kept however few are used.
const KEPT: usize = 1024;

/// The resource of which each session holds one.
const SESSIONS: &str = "sessions";

/// What is held.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// A session, of this source.
    Session(Option<PeerId>),
    /// Something else, as a name that only one session may have.
    Other(Arc<str>),
}

/// Something that the node holds. Dropped it is given back.
#[derive(Debug)]
pub(crate) struct Hold {
    ledger: Arc<Ledger>,
    what: What,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.ledger.give_back(&self.what);
    }
}

/// What comes of a request.
#[derive(Debug)]
pub(super) enum Asked {
    /// No limit holds for it.
    Free(Hold),
    /// This node alone has all that all nodes may have.
    Refused(RefuseReason),
    /// Decided without the store.
    Blind(Result<Hold, RefuseReason>),
    /// The store is to be asked.
    Waits(oneshot::Receiver<Result<Hold, RefuseReason>>),
}

/// A request that waits for the store.
#[derive(Debug)]
struct Waiting {
    want: Want,
    /// The reason of a refusal, for each count of the want.
    reasons: Vec<RefuseReason>,
    what: What,
    to: oneshot::Sender<Result<Hold, RefuseReason>>,
}

/// One call to the store.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) held: Held,
    pub(super) wants: Vec<Want>,
    waiting: Vec<Waiting>,
    /// What the store will have of each resource, if nothing is granted.
    told: HashMap<Arc<str>, u64>,
    life: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sessions,
    Source,
    Other,
}

/// How far the store is told of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Telling {
    /// It knows, as far as it is to.
    Done,
    /// It is yet to be told.
    Queued,
    /// A call on its way changes it.
    Flying,
}

/// One resource.
#[derive(Debug)]
struct Entry {
    kind: Kind,
    /// Held by this node.
    count: u64,
    /// The store has so much of it for this node; `None` if nobody knows.
    told: Option<u64>,
    telling: Telling,
}

impl Entry {
    fn new(kind: Kind) -> Self {
        Self { kind, count: 0, told: Some(0), telling: Telling::Done }
    }

    /// Keeps the number of those that are not done.
    fn set(&mut self, telling: Telling, not_done: &mut u64) {
        let was_done = std::mem::replace(&mut self.telling, telling) == Telling::Done;
        match (was_done, telling == Telling::Done) {
            (true, false) => *not_done += 1,
            (false, true) => *not_done -= 1,
            _ => {}
        }
    }
}

#[derive(Debug, Default)]
struct Books {
    limits: Arc<FleetLimits>,
    /// The store is told of sessions: since there was a limit, and from then on.
    tells_sessions: bool,
    /// Sources have entries, and the store is told of them: likewise.
    counts_sources: bool,
    /// The name of sessions, once it is needed.
    sessions: Option<Arc<str>>,
    entries: HashMap<Arc<str>, Entry>,
    /// Number of entries that the store is yet to be told of, or is just told of.
    not_done: u64,
    /// Sessions of each address, for a limit or another prefix that may come.
    peers: HashMap<PeerId, u32>,
    /// Resources that the store has yet to be told of, and some that came to nothing while they waited here.
    untold: VecDeque<Arc<str>>,
    /// Number of them above which those that came to nothing are forgotten.
    sort_out_at: usize,
    /// Connections that wait.
    waiting: VecDeque<Waiting>,
    /// What sessions ask for: they take turns with connections, however many there are.
    claims: VecDeque<Waiting>,
    is_turn_of_claims: bool,
    serial: u64,
    /// Number of the life at hand.
    life: u64,
    /// When the bucket of each source will be full, as far as sessions were let in without the store.
    buckets: HashMap<Arc<str>, Instant>,
    /// Number of buckets above which full ones are forgotten.
    forget_at: usize,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// The store is to be told something, which may be gathered for a while.
    Telling,
    /// Somebody waits.
    Asking,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    books: Mutex<Books>,
    /// There is something to do again.
    pub(super) work: Notify,
    /// Somebody waits.
    pub(super) asked: Notify,
}

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn limits(&self) -> Arc<FleetLimits> {
        Arc::clone(&self.books().limits)
    }

    pub(super) fn set_limits(&self, limits: FleetLimits) {
        self.books().set_limits(limits);
        self.work.notify_one();
    }

    /// Asks for a session of this peer. Without a limit that holds for it, or with one that this node exhausts alone, the
    /// answer is there at once; so it is `without_store`, by the policy.
    pub(super) fn ask(self: &Arc<Self>, peer: &Address, is_probe: bool, without_store: bool) -> Asked {
        let mut books = self.books();
        let (want, reasons, what) = books.want(peer, is_probe);
        if want.counts.is_empty() && want.rates.is_empty() {
            self.change(books, &what, true);
            return Asked::Free(self.hold(what));
        }
        if let Some(reason) = books.exhausted(&want, &reasons) {
            return Asked::Refused(reason);
        }
        if without_store {
            drop(books);
            return Asked::Blind(self.without_store(peer, is_probe));
        }
        let (to, answer) = oneshot::channel();
        books.waiting.push_back(Waiting { want, reasons, what, to });
        drop(books);
        self.asked.notify_one();
        self.work.notify_one();
        Asked::Waits(answer)
    }

    /// Decides without the store.
    pub(super) fn without_store(self: &Arc<Self>, peer: &Address, is_probe: bool) -> Result<Hold, RefuseReason> {
        let mut books = self.books();
        if books.limits.on_partition == OnPartition::Closed {
            return Err(RefuseReason::StoreLost);
        }
        let (want, reasons, what) = books.want(peer, is_probe);
        if let Some(reason) = books.exhausted(&want, &reasons) {
            return Err(reason);
        }
        if !want.rates.iter().all(|limit| books.take_token(limit)) {
            return Err(RefuseReason::ClusterRate);
        }
        self.change(books, &what, true);
        Ok(self.hold(what))
    }

    /// Asks for one of a resource of which all nodes may hold `most` together.
    pub(crate) fn claim(self: &Arc<Self>, resource: &str, most: u64) -> oneshot::Receiver<Result<Hold, RefuseReason>> {
        let (to, answer) = oneshot::channel();
        let want = Want { counts: vec![CountLimit { resource: resource.to_owned(), most }], rates: Vec::new() };
        let what = What::Other(resource.into());
        self.books().claims.push_back(Waiting { want, reasons: vec![RefuseReason::ClusterFull], what, to });
        self.asked.notify_one();
        self.work.notify_one();
        answer
    }

    fn hold(self: &Arc<Self>, what: What) -> Hold {
        Hold { ledger: Arc::clone(self), what }
    }

    fn give_back(&self, what: &What) {
        self.change(self.books(), what, false);
    }

    /// One more of it is held, or one less; the store is told so in time.
    fn change(&self, mut books: MutexGuard<'_, Books>, what: &What, is_more: bool) {
        let was_told = books.untold.is_empty();
        books.change(what, is_more);
        let is_due = was_told && !books.untold.is_empty();
        drop(books);
        if is_due {
            self.work.notify_one();
        }
    }

    /// Returns what a life begins with. Nothing of a life before counts from here on.
    pub(super) fn begin(&self) -> Vec<Share> {
        self.books().begin()
    }

    pub(super) fn due(&self) -> Due {
        let books = self.books();
        match (books.waiting.is_empty() && books.claims.is_empty(), books.untold.is_empty()) {
            (false, _) => Due::Asking,
            (true, false) => Due::Telling,
            (true, true) => Due::Nothing,
        }
    }

    /// Returns the number of resources that the store is yet to be told of.
    pub(super) fn untold(&self) -> u64 {
        self.books().not_done
    }

    /// Takes the next call, if there is something to say. Its end is to be [settled](Self::settle).
    pub(super) fn take(&self) -> Option<Batch> {
        self.books().take()
    }

    /// Books what has come of a call: an answer, or that nobody knows. Returns the number of sessions that are let in.
    pub(super) fn settle(self: &Arc<Self>, batch: Batch, verdicts: Option<Vec<Verdict>>) -> u64 {
        let settled = self.books().settle(batch, verdicts);
        let mut admitted = 0;
        // Whoever is gone gives back, for which the lock is needed.
        for (to, result) in settled {
            admitted += u64::from(matches!(result, Ok(What::Session(_))));
            drop(to.send(result.map(|what| self.hold(what))));
        }
        admitted
    }

    /// What was on its way came to nothing, and nobody knows how far.
    pub(super) fn forget_flights(&self) {
        let mut books = self.books();
        books.life += 1;
        let is_flying = |(_, entry): &(&Arc<str>, &Entry)| entry.telling == Telling::Flying;
        let flying: Vec<_> = books.entries.iter().filter(is_flying).map(|(name, _)| name.clone()).collect();
        for name in flying {
            books.land(&name, None);
        }
    }
}

type Settled = (oneshot::Sender<Result<Hold, RefuseReason>>, Result<What, RefuseReason>);

impl Books {
    fn set_limits(&mut self, limits: FleetLimits) {
        let before = std::mem::replace(&mut self.limits, Arc::new(limits));
        self.tells_sessions |= self.limits.max_sessions.is_some();
        let counted_sources = self.counts_sources;
        self.counts_sources |= self.limits.max_sessions_per_source.is_some();
        let are_others = before.source_prefix != self.limits.source_prefix || !counted_sources;
        if self.counts_sources && are_others {
            for entry in self.entries.values_mut().filter(|entry| entry.kind == Kind::Source) {
                entry.count = 0;
            }
            let peers: Vec<_> = self.peers.iter().map(|(peer, count)| (*peer, *count)).collect();
            for (peer, count) in peers {
                let source = self.source(peer);
                self.entry(&source, Kind::Source).count += u64::from(count);
            }
        }
        let names: Vec<_> = self.entries.keys().cloned().collect();
        names.iter().for_each(|name| self.look(name));
    }

    fn source(&self, peer: PeerId) -> Arc<str> {
        format!("source:{}", self.limits.source_prefix.text(peer)).into()
    }

    fn want(&self, peer: &Address, is_probe: bool) -> (Want, Vec<RefuseReason>, What) {
        // Limits of sources hold for peers: a proxy's own checks are nobody's.
        let peer_id = PeerId::of(peer).filter(|_| !is_probe);
        let limits = &self.limits;
        let mut want = Want::default();
        let mut reasons = Vec::new();
        if let Some(most) = limits.max_sessions {
            want.counts.push(CountLimit { resource: SESSIONS.to_owned(), most });
            reasons.push(RefuseReason::ClusterFull);
        }
        if let Some(id) = peer_id
            && !limits.exempt.iter().any(|exempt| exempt.contains(peer))
            && (limits.max_sessions_per_source.is_some() || limits.accept_rate_per_source.is_some())
        {
            let source = self.source(id);
            if let Some(most) = limits.max_sessions_per_source {
                want.counts.push(CountLimit { resource: source.to_string(), most });
                reasons.push(RefuseReason::ClusterSource);
            }
            if let Some(rate) = limits.accept_rate_per_source {
                let resource = source.to_string();
                want.rates.push(RateLimit { resource, per_second: rate.per_second, burst: rate.burst });
            }
        }
        (want, reasons, What::Session(peer_id))
    }

    /// Returns the reason if this node alone holds all that all nodes may hold.
    fn exhausted(&self, want: &Want, reasons: &[RefuseReason]) -> Option<RefuseReason> {
        let held = |limit: &CountLimit| self.entries.get(limit.resource.as_str()).map_or(0, |entry| entry.count);
        let exhausted = want.counts.iter().position(|limit| held(limit) >= limit.most)?;
        reasons.get(exhausted).copied()
    }

    /// Takes a token of this node's own bucket. False if there is none.
    fn take_token(&mut self, limit: &RateLimit) -> bool {
        let now = Instant::now();
        let interval = Duration::from_nanos(1_000_000_000_u64.div_ceil(u64::from(limit.per_second.max(1))));
        let full_at = self.buckets.get(limit.resource.as_str()).copied().unwrap_or(now).max(now) + interval;
        if full_at > now + interval * limit.burst {
            return false;
        }
        if self.buckets.len() >= self.forget_at.max(KEPT) {
            self.buckets.retain(|_, full_at| *full_at > now);
            self.forget_at = 2 * self.buckets.len();
        }
        self.buckets.insert(limit.resource.as_str().into(), full_at);
        true
    }

    fn entry(&mut self, name: &Arc<str>, kind: Kind) -> &mut Entry {
        self.entries.entry(Arc::clone(name)).or_insert_with(|| Entry::new(kind))
    }

    /// One more of it is held, or one less.
    fn change(&mut self, what: &What, is_more: bool) {
        match what {
            What::Session(peer) => {
                let sessions = self.sessions.get_or_insert_with(|| SESSIONS.into()).clone();
                self.count(&sessions, Kind::Sessions, is_more);
                if let Some(peer) = *peer {
                    let count = self.peers.entry(peer).or_default();
                    *count = if is_more { *count + 1 } else { count.saturating_sub(1) };
                    if *count == 0 {
                        self.peers.remove(&peer);
                        if self.peers.capacity() > 4 * KEPT && self.peers.len() < self.peers.capacity() / 8 {
                            self.peers.shrink_to((2 * self.peers.len()).max(KEPT));
                        }
                    }
                    if self.counts_sources {
                        self.count(&self.source(peer), Kind::Source, is_more);
                    }
                }
            }
            What::Other(name) => self.count(name, Kind::Other, is_more),
        }
    }

    fn count(&mut self, name: &Arc<str>, kind: Kind, is_more: bool) {
        let entry = self.entry(name, kind);
        entry.count = if is_more { entry.count + 1 } else { entry.count.saturating_sub(1) };
        self.look(name);
    }

    /// Has the store told of a resource, if it does not know it; forgets one that is nothing to anybody.
    fn look(&mut self, name: &Arc<str>) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        // Sources come and go for as long as the store is lost: none of them is kept for its return.
        let is_nothing = entry.count == 0 && entry.told == Some(0);
        match entry.telling {
            Telling::Flying => return,
            Telling::Queued if !is_nothing => return,
            Telling::Queued | Telling::Done => {}
        }
        let is_told = entry.kind != Kind::Sessions || self.tells_sessions;
        if is_told && entry.told != Some(entry.count) {
            entry.set(Telling::Queued, &mut self.not_done);
            self.queue(Arc::clone(name));
        } else if entry.count == 0 && (!is_told || is_nothing) {
            entry.set(Telling::Done, &mut self.not_done);
            self.entries.remove(name);
            if self.entries.capacity() > 4 * KEPT && self.entries.len() < self.entries.capacity() / 8 {
                self.entries.shrink_to((2 * self.entries.len()).max(KEPT));
            }
        }
    }

    fn queue(&mut self, name: Arc<str>) {
        if self.untold.len() >= self.sort_out_at.max(KEPT) {
            // One that came to nothing and is there again stands here twice: its first place counts.
            let mut seen = HashSet::new();
            let Self { untold, entries, .. } = self;
            untold.retain(|name| {
                entries.get(name).is_some_and(|entry| entry.telling == Telling::Queued) && seen.insert(Arc::clone(name))
            });
            self.sort_out_at = 2 * self.untold.len();
        }
        self.untold.push_back(name);
    }

    fn begin(&mut self) -> Vec<Share> {
        self.life += 1;
        self.untold.clear();
        self.not_done = 0;
        let tells_sessions = self.tells_sessions;
        let mut shares = Vec::new();
        self.entries.retain(|name, entry| {
            let is_told = entry.kind != Kind::Sessions || tells_sessions;
            entry.telling = Telling::Done;
            entry.told = Some(if is_told { entry.count } else { 0 });
            if is_told && entry.count > 0 {
                shares.push(Share { resource: name.to_string(), count: entry.count });
            }
            entry.count > 0
        });
        shares
    }

    fn next_waiting(&mut self) -> Option<Waiting> {
        self.is_turn_of_claims = !self.is_turn_of_claims;
        let Self { waiting, claims, .. } = self;
        let (first, second) = if self.is_turn_of_claims { (claims, waiting) } else { (waiting, claims) };
        first.pop_front().or_else(|| second.pop_front())
    }

    fn take(&mut self) -> Option<Batch> {
        let mut counts = Vec::new();
        let mut told = HashMap::new();
        let mut waiting = Vec::new();
        while waiting.len() < MOST_WANTS
            && let Some(next) = self.next_waiting()
        {
            // Nobody waits for it any more.
            if next.to.is_closed() {
                continue;
            }
            for limit in &next.want.counts {
                let kind = match &next.what {
                    What::Other(_) => Kind::Other,
                    What::Session(_) if limit.resource == SESSIONS => Kind::Sessions,
                    What::Session(_) => Kind::Source,
                };
                self.fly(&limit.resource.as_str().into(), kind, &mut counts, &mut told);
            }
            waiting.push(next);
        }
        while counts.len() < MOST_COUNTS
            && let Some(name) = self.untold.pop_front()
        {
            // One that is wanted flies already.
            if let Some(entry) = self.entries.get_mut(&name).filter(|entry| entry.telling == Telling::Queued) {
                entry.set(Telling::Done, &mut self.not_done);
                if entry.told == Some(entry.count) {
                    // What has changed has changed back.
                    self.look(&name);
                } else {
                    let kind = entry.kind;
                    self.fly(&name, kind, &mut counts, &mut told);
                }
            }
        }
        if waiting.is_empty() && counts.is_empty() {
            return None;
        }
        self.serial += 1;
        let held = Held { serial: self.serial, counts };
        let wants = waiting.iter().map(|waiting| waiting.want.clone()).collect();
        Some(Batch { held, wants, waiting, told, life: self.life })
    }

    /// Has a call change a resource, and say what is held of it, if the store does not know.
    fn fly(&mut self, name: &Arc<str>, kind: Kind, counts: &mut Vec<Share>, told: &mut HashMap<Arc<str>, u64>) {
        let entry = self.entries.entry(Arc::clone(name)).or_insert_with(|| Entry::new(kind));
        if entry.telling == Telling::Flying {
            return;
        }
        entry.set(Telling::Flying, &mut self.not_done);
        let count = entry.count;
        if entry.told.take() != Some(count) {
            counts.push(Share { resource: name.to_string(), count });
        }
        told.insert(Arc::clone(name), count);
    }

    /// A call that changed a resource has ended.
    fn land(&mut self, name: &Arc<str>, told: Option<u64>) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.set(Telling::Done, &mut self.not_done);
            entry.told = told;
        }
        self.look(name);
    }

    fn settle(&mut self, batch: Batch, verdicts: Option<Vec<Verdict>>) -> Vec<Settled> {
        let Batch { waiting, mut told, life, .. } = batch;
        let is_old = life != self.life;
        let verdicts = verdicts.filter(|verdicts| !is_old && verdicts.len() == waiting.len());
        let Some(verdicts) = verdicts else {
            // They are asked for again, if there is still somebody who waits.
            for waiting in waiting.into_iter().rev() {
                match waiting.what {
                    What::Session(_) => self.waiting.push_front(waiting),
                    What::Other(_) => self.claims.push_front(waiting),
                }
            }
            if !is_old {
                told.keys().for_each(|name| self.land(name, None));
            }
            return Vec::new();
        };
        let settled = waiting.into_iter().zip(verdicts).map(|(waiting, verdict)| {
            let Waiting { want, reasons, what, to } = waiting;
            let result = match verdict {
                Verdict::Granted => {
                    for limit in &want.counts {
                        if let Some(told) = told.get_mut(limit.resource.as_str()) {
                            *told += 1;
                        }
                    }
                    self.change(&what, true);
                    Ok(what)
                }
                Verdict::Count(place) => Err(reasons.get(place).copied().unwrap_or(RefuseReason::ClusterFull)),
                Verdict::Rate(_) => Err(RefuseReason::ClusterRate),
            };
            (to, result)
        });
        let settled = settled.collect();
        told.into_iter().for_each(|(name, told)| self.land(&name, Some(told)));
        settled
    }
}

#[cfg(test)]
mod tests;
