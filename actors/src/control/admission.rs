//! Admission: the limits of a server for connections that would become sessions.
//!
//! Exact and global: a place is taken before the accept, and given back when the socket is closed. A
//! source's share of the places is counted under one short lock once its address is known, and so is the accept rate:
//! before the accept that is only looked at, since its source is not known yet. Both are taken once for each
//! connection, never for a line.
//! Not here: places, and the limits of one listener (`admission/listener`), accepting and refusing (`acceptor`).

pub(crate) mod listener;
mod setup;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    task::Waker,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    address::Address,
    limits::{AdmissionLimits, ListenerLimits, OverLimit},
    rate::Rate,
    report::RefuseReason,
    shared::SharedBytes,
    source::{PeerId, Peers},
};

/// Most refused connections that are told why at once: each has a descriptor.
const MAX_REFUSALS: usize = 256;
/// Most of these of one source: a source that keeps its connections open must not use them up for all others.
const MAX_REFUSALS_PER_SOURCE: u32 = MAX_REFUSALS as u32 / 8;
/// Number of sources above which those whose accept rate has recovered are forgotten.
const FORGET_AFTER: usize = 1024;

/// Longest delay of a timer that costs nothing of the rate.
const TIMER_DELAY: Duration = Duration::from_millis(2);

/// The rate at which buckets of an accept rate are refilled, and their size. A bucket itself is one moment, at which it
/// will be full: so it may be looked at without taking a token, and one for each source is small.
#[derive(Clone, Copy, Debug)]
struct Filling {
    /// Time that brings one token.
    interval: Duration,
    /// Time that fills an empty bucket but for one token: with a bucket this far from full a token is there.
    tolerance: Duration,
}

impl Filling {
    fn new(rate: Rate) -> Self {
        // Rounded up: never more than the rate.
        let interval = Duration::from_nanos(1_000_000_000_u64.div_ceil(u64::from(rate.per_second.max(1))));
        Self { interval, tolerance: interval * (rate.burst.max(1) - 1) }
    }

    /// Returns the moment of the next token, if none is there now.
    fn next_token(&self, full_at: Instant, now: Instant) -> Option<Instant> {
        full_at.checked_sub(self.tolerance).filter(|next| *next > now)
    }

    /// Takes a token that is there.
    fn take(&self, full_at: &mut Instant, now: Instant) {
        let came = full_at.checked_sub(self.tolerance);
        // An acceptor waits for a token by a timer: what comes while that is late is not lost.
        if came.is_none_or(|came| now - came >= TIMER_DELAY) {
            *full_at = now.max(*full_at);
        }
        *full_at += self.interval;
    }
}

/// The bucket of the accept rate.
#[derive(Debug)]
struct Bucket {
    filling: Filling,
    full_at: Instant,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self { filling: Filling::new(rate), full_at: Instant::now() }
    }

    fn next_token(&self, now: Instant) -> Option<Instant> {
        self.filling.next_token(self.full_at, now)
    }

    fn take(&mut self, now: Instant) {
        self.filling.take(&mut self.full_at, now);
    }

    /// Gives back a token of a connection that was not to be charged.
    fn give_back(&mut self) {
        self.full_at = self.full_at.checked_sub(self.filling.interval).unwrap_or(self.full_at);
    }
}

/// The buckets of the accept rate of each source. A source that is not here has a full bucket.
#[derive(Debug)]
struct Buckets {
    filling: Filling,
    full_at: HashMap<PeerId, Instant>,
}

impl Buckets {
    fn new(rate: Rate) -> Self {
        Self { filling: Filling::new(rate), full_at: HashMap::new() }
    }

    /// Takes a token of the source. Returns false if there is none.
    fn take(&mut self, source: PeerId, now: Instant) -> bool {
        let full_at = self.full_at.entry(source).or_insert(now);
        let is_there = self.filling.next_token(*full_at, now).is_none();
        if is_there {
            self.filling.take(full_at, now);
        }
        is_there
    }

    /// Forgets the sources whose buckets are full.
    fn forget(&mut self, now: Instant) {
        self.full_at.retain(|_, full_at| *full_at > now);
        self.full_at.shrink_to_fit();
    }
}

#[derive(Debug)]
pub(crate) struct Admission {
    max_sessions: AtomicUsize,
    /// Places taken: sessions, and connections about to become one.
    taken: AtomicUsize,
    /// Sessions admitted since the start.
    admitted: AtomicU64,
    refusing: AtomicUsize,
    waiters: Waiters,
    rules: Mutex<Rules>,
}

/// Acceptors that wait until one more connection may be accepted.
#[derive(Debug, Default)]
struct Waiters {
    is_any: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl Waiters {
    fn wakers(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, waker: &Waker) {
        let mut wakers = self.wakers();
        if !wakers.iter().any(|waiting| waiting.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        drop(wakers);
        self.is_any.store(true, SeqCst);
    }

    fn wake(&self) {
        if self.is_any.load(SeqCst) && self.is_any.swap(false, SeqCst) {
            let wakers = std::mem::take(&mut *self.wakers());
            wakers.into_iter().for_each(Waker::wake);
        }
    }
}

/// All state that needs a lock. Nothing waits while holding it.
#[derive(Debug)]
struct Rules {
    limits: AdmissionLimits,
    bucket: Option<Bucket>,
    buckets: Option<Buckets>,
    /// Number of sources in `buckets` above which recovered ones are forgotten.
    forget_at: usize,
    by_address: HashMap<PeerId, u32>,
    /// Sessions of each source; empty where each address is a source by itself.
    by_source: HashMap<PeerId, u32>,
    /// Connections of each source that are being refused.
    refusals: HashMap<PeerId, u32>,
}

/// The reason why a connection is not admitted, once its source is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denial {
    Refused(RefuseReason),
    /// Another acceptor took the token of the accept rate; the next one is there at this moment.
    NotYet(Instant),
}

impl From<RefuseReason> for Denial {
    fn from(reason: RefuseReason) -> Self {
        Self::Refused(reason)
    }
}

impl Rules {
    fn new(limits: AdmissionLimits) -> Self {
        Self {
            bucket: limits.accept_rate.map(Bucket::new),
            buckets: limits.accept_rate_per_source.map(Buckets::new),
            limits,
            forget_at: FORGET_AFTER,
            by_address: HashMap::new(),
            by_source: HashMap::new(),
            refusals: HashMap::new(),
        }
    }

    /// Returns the number of sessions of the source of `address`.
    fn count(&self, address: PeerId) -> u32 {
        let prefix = self.limits.source_prefix;
        let counts = if prefix.is_exact(address) { &self.by_address } else { &self.by_source };
        counts.get(&prefix.source(address)).copied().unwrap_or(0)
    }

    fn add(&mut self, address: PeerId) {
        *self.by_address.entry(address).or_default() += 1;
        self.add_to_source(address, 1);
    }

    fn add_to_source(&mut self, address: PeerId, count: u32) {
        let prefix = self.limits.source_prefix;
        if !prefix.is_exact(address) {
            *self.by_source.entry(prefix.source(address)).or_default() += count;
        }
    }

    fn remove(&mut self, address: PeerId) {
        let prefix = self.limits.source_prefix;
        subtract(&mut self.by_address, address);
        if !prefix.is_exact(address) {
            subtract(&mut self.by_source, prefix.source(address));
        }
    }

    /// Replaces the limits; returns the old ones. Counts stay exact, also with another source prefix.
    #[must_use = "the old ones hold bytes of the user's: not to be dropped under the lock"]
    fn set(&mut self, limits: AdmissionLimits) -> AdmissionLimits {
        let old = std::mem::replace(&mut self.limits, limits);
        if old.accept_rate != self.limits.accept_rate {
            self.bucket = self.limits.accept_rate.map(Bucket::new);
        }
        let regrouped = old.source_prefix != self.limits.source_prefix;
        if regrouped || old.accept_rate_per_source != self.limits.accept_rate_per_source {
            self.buckets = self.limits.accept_rate_per_source.map(Buckets::new);
        }
        if regrouped {
            self.by_source = HashMap::new();
            let counts: Vec<_> = self.by_address.iter().map(|(address, count)| (*address, *count)).collect();
            for (address, count) in counts {
                self.add_to_source(address, count);
            }
        }
        old
    }

    /// Forgets the sources whose accept rate has recovered.
    fn forget(&mut self) {
        if let Some(buckets) = &mut self.buckets {
            buckets.forget(Instant::now());
            self.forget_at = FORGET_AFTER.max(2 * buckets.full_at.len());
        }
    }

    /// Admits a session of this peer, if the limits allow it: counts it, and charges it to the accept rates.
    ///
    /// The limits of its source come first: a connection that these keep out is not charged to the accept rate of all.
    fn admit(&mut self, peer: &Address) -> Result<(), Denial> {
        let limited = self.check_source(peer)?;
        // Looked at before its source's own token is taken, so that it is not charged twice if it has to wait.
        self.check_rate()?;
        self.charge_source(limited)?;
        if let Some(bucket) = &mut self.bucket {
            bucket.take(Instant::now());
        }
        if let Some(id) = PeerId::of(peer) {
            self.add(id);
        }
        Ok(())
    }

    /// Admits a connection whose source is not known yet: only the accept rate of all is charged.
    fn admit_unknown(&mut self) -> Result<(), Denial> {
        self.check_rate()?;
        if let Some(bucket) = &mut self.bucket {
            bucket.take(Instant::now());
        }
        Ok(())
    }

    /// Charges a session to another source than before, if the limits of that allow it. If they do not, it is charged to
    /// nobody, as a connection that was refused at once; so it is if its listener denies it.
    fn recharge(&mut self, from: &Address, to: &Address, is_denied: bool) -> Result<(), RefuseReason> {
        if let Some(from) = PeerId::of(from) {
            self.remove(from);
        }
        let checked = if is_denied { Err(RefuseReason::Denied) } else { self.check_source(to) };
        let charged = checked.and_then(|limited| self.charge_source(limited));
        match (charged, PeerId::of(to)) {
            (Ok(()), Some(to)) => self.add(to),
            (Ok(()), None) => {}
            (Err(_), _) => self.give_back(),
        }
        charged
    }

    fn give_back(&mut self) {
        if let Some(bucket) = &mut self.bucket {
            bucket.give_back();
        }
    }

    /// Checks lists and the number of sessions of a peer's source. Returns whom its own accept rate is to be charged to.
    fn check_source(&self, peer: &Address) -> Result<Option<PeerId>, RefuseReason> {
        if self.limits.denies(peer) {
            return Err(RefuseReason::Denied);
        }
        let limited = PeerId::of(peer).filter(|_| !is_in(&self.limits.exempt, peer));
        if limited.is_some_and(|id| self.count(id) as usize >= self.limits.max_sessions_per_source) {
            return Err(RefuseReason::MaxSessionsPerSource);
        }
        Ok(limited)
    }

    /// Checks the accept rate of all.
    fn check_rate(&self) -> Result<(), Denial> {
        match self.bucket.as_ref().and_then(|bucket| bucket.next_token(Instant::now())) {
            None => Ok(()),
            Some(next) if self.limits.over_limit == OverLimit::Wait => Err(Denial::NotYet(next)),
            Some(_) => Err(RefuseReason::AcceptRate.into()),
        }
    }

    /// Charges the accept rate of a source.
    fn charge_source(&mut self, limited: Option<PeerId>) -> Result<(), RefuseReason> {
        if let (Some(address), Some(buckets)) = (limited, &mut self.buckets) {
            if !buckets.take(self.limits.source_prefix.source(address), Instant::now()) {
                return Err(RefuseReason::AcceptRatePerSource);
            }
            if buckets.full_at.len() > self.forget_at {
                self.forget();
            }
        }
        Ok(())
    }

    /// Books the refusal of a connection to its source. Returns the source; `None` if it has its share already.
    fn refuse(&mut self, peer: &Address, id: PeerId) -> Option<PeerId> {
        let source = self.limits.source_prefix.source(id);
        let count = self.refusals.entry(source).or_default();
        if *count >= MAX_REFUSALS_PER_SOURCE && !is_in(&self.limits.exempt, peer) {
            return None;
        }
        *count += 1;
        Some(source)
    }
}

fn subtract(counts: &mut HashMap<PeerId, u32>, address: PeerId) {
    if let Some(count) = counts.get_mut(&address) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&address);
            // A burst of sources is not paid for for ever.
            if counts.capacity() > 4 * FORGET_AFTER && counts.len() < counts.capacity() / 8 {
                counts.shrink_to(2 * counts.len());
            }
        }
    }
}

impl AdmissionLimits {
    /// Returns true if the lists keep this peer out.
    ///
    /// A list of those who may connect is complete: a peer of whichever kind that it does not name is kept out.
    pub(crate) fn denies(&self, peer: &Address) -> bool {
        are_denying(&self.allow, &self.deny, peer)
    }
}

impl ListenerLimits {
    /// Returns true if the lists keep this peer out, by the rule of the server's.
    fn denies(&self, peer: &Address) -> bool {
        are_denying(&self.allow, &self.deny, peer)
    }

    fn has_lists(&self) -> bool {
        !self.allow.is_empty() || !self.deny.is_empty()
    }
}

fn are_denying(allow: &[Peers], deny: &[Peers], peer: &Address) -> bool {
    is_in(deny, peer) || (!allow.is_empty() && !is_in(allow, peer))
}

/// Takes one, if fewer than `most` are taken.
fn take_one(taken: &AtomicUsize, most: &AtomicUsize) -> bool {
    let most = most.load(SeqCst);
    taken.fetch_update(SeqCst, SeqCst, |taken| (taken < most).then_some(taken + 1)).is_ok()
}

fn is_in(list: &[Peers], peer: &Address) -> bool {
    list.iter().any(|peers| peers.contains(peer))
}

impl Admission {
    pub(crate) fn new(limits: AdmissionLimits) -> Arc<Self> {
        Arc::new(Self {
            max_sessions: AtomicUsize::new(limits.max_sessions),
            taken: AtomicUsize::new(0),
            admitted: AtomicU64::new(0),
            refusing: AtomicUsize::new(0),
            waiters: Waiters::default(),
            rules: Mutex::new(Rules::new(limits)),
        })
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the limits, for connections that come from now on.
    pub(crate) fn set(&self, limits: AdmissionLimits) {
        self.max_sessions.store(limits.max_sessions, SeqCst);
        let old = self.rules().set(limits);
        drop(old);
        self.waiters.wake();
    }

    /// Takes a place, if one is left.
    fn try_take(&self) -> bool {
        take_one(&self.taken, &self.max_sessions)
    }

    /// Gives back a place.
    fn give_back(&self) {
        self.taken.fetch_sub(1, SeqCst);
        self.waiters.wake();
    }

    /// Returns true if no place is left.
    fn is_full(&self) -> bool {
        self.taken.load(SeqCst) >= self.max_sessions.load(SeqCst)
    }

    /// Admits a session of this peer, if the limits of its source allow it.
    fn admit(&self, peer: &Address) -> Result<(), Denial> {
        self.rules().admit(peer)?;
        self.admitted.fetch_add(1, SeqCst);
        Ok(())
    }

    /// Admits a connection whose source is not known yet.
    fn admit_unknown(&self) -> Result<(), Denial> {
        self.rules().admit_unknown()?;
        self.admitted.fetch_add(1, SeqCst);
        Ok(())
    }

    /// Charges a session to another source than before, unless its listener denies it or a limit is reached.
    fn recharge(&self, from: &Address, to: &Address, is_denied: bool) -> Result<(), RefuseReason> {
        let charged = self.rules().recharge(from, to, is_denied);
        if charged.is_err() {
            // What was given back may be another's.
            self.waiters.wake();
        }
        charged
    }

    /// Charges a session to nobody.
    fn excuse(&self, peer: &Address) {
        let mut rules = self.rules();
        if let Some(peer) = PeerId::of(peer) {
            rules.remove(peer);
        }
        rules.give_back();
        drop(rules);
        self.waiters.wake();
    }

    /// Forgets a session of this peer.
    fn remove(&self, peer: PeerId) {
        self.rules().remove(peer);
    }

    /// Returns the moment of the next token of the accept rate, if none is there now, and if connections over a limit are
    /// refused.
    fn outlook(&self) -> (Option<Instant>, bool) {
        let rules = self.rules();
        let next_token = rules.bucket.as_ref().and_then(|bucket| bucket.next_token(Instant::now()));
        (next_token, rules.limits.over_limit == OverLimit::Refuse)
    }

    /// Reserves room to tell one more connection that it is refused.
    pub(crate) fn try_refusal(self: &Arc<Self>) -> Option<Refusal> {
        self.refusing
            .fetch_update(SeqCst, SeqCst, |refusing| (refusing < MAX_REFUSALS).then_some(refusing + 1))
            .ok()
            .map(|_| Refusal { admission: Arc::clone(self), source: None })
    }

    /// Returns the number of connections that are being refused.
    pub(crate) fn refusing(&self) -> usize {
        self.refusing.load(SeqCst)
    }

    /// Returns true if the lists keep this peer out.
    pub(crate) fn denies(&self, peer: &Address) -> bool {
        self.rules().limits.denies(peer)
    }

    pub(crate) fn refuse_line(&self) -> SharedBytes {
        self.rules().limits.refuse_line.clone()
    }

    /// Forgets recovered sources. Called from time to time.
    pub(crate) fn tidy(&self) {
        self.rules().forget();
    }

    /// Returns the number of sessions admitted since the start.
    pub(crate) fn admitted(&self) -> u64 {
        self.admitted.load(SeqCst)
    }
}

/// Room for a connection that is being refused. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Refusal {
    admission: Arc<Admission>,
    /// Counted for this source, once it is known.
    source: Option<PeerId>,
}

impl Refusal {
    /// Charges the connection that came to its source. Returns false if that has its share of refusals already.
    pub(crate) fn charge(&mut self, peer: &Address) -> bool {
        let Some(id) = PeerId::of(peer) else { return true };
        self.source = self.admission.rules().refuse(peer, id);
        self.source.is_some()
    }
}

impl Drop for Refusal {
    fn drop(&mut self) {
        if let Some(source) = self.source {
            subtract(&mut self.admission.rules().refusals, source);
        }
        self.admission.refusing.fetch_sub(1, SeqCst);
        self.admission.waiters.wake();
    }
}

#[cfg(test)]
mod tests;
