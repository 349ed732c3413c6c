//! Admission: decides whether a connection may become a session.
//!
//! Exact and global: a place is reserved before the accept, and a guard gives it back when the socket is closed. A
//! source's share of the places is counted under one short lock once its address is known, and so is the accept rate:
//! before the accept that is only looked at, since its source is not known yet. Both are taken once for each
//! connection, never for a line.
//! Not here: accepting and refusing (`acceptor`), the session (it only holds its place).

use std::{
    collections::{BTreeMap, HashMap},
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
    limits::{AdmissionLimits, OverLimit},
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
    refused: [AtomicU64; RefuseReason::ALL.len()],
    has_waiters: AtomicBool,
    waiters: Mutex<Vec<Waker>>,
    rules: Mutex<Rules>,
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

/// The next action allowed to an acceptor.
#[derive(Debug)]
pub(crate) enum Ticket {
    /// Accept: the connection has a place.
    Place(Place),
    /// Accept, and refuse the connection.
    Refusal(Refusal, RefuseReason),
    /// Accept nothing until this moment, or until the waker is woken.
    Wait(Option<Instant>),
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
    /// nobody, as a connection that was refused at once.
    fn recharge(&mut self, from: &Address, to: &Address) -> Result<(), RefuseReason> {
        if let Some(from) = PeerId::of(from) {
            self.remove(from);
        }
        let charged = self.check_source(to).and_then(|limited| self.charge_source(limited));
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
        is_in(&self.deny, peer) || (!self.allow.is_empty() && !is_in(&self.allow, peer))
    }
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
            refused: Default::default(),
            has_waiters: AtomicBool::new(false),
            waiters: Mutex::default(),
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
        self.wake();
    }

    /// Returns the action allowed for the next connection; wakes `waker` when that changes.
    pub(crate) fn ticket(self: &Arc<Self>, waker: &Waker) -> Ticket {
        match self.try_ticket() {
            Ticket::Wait(_) => {
                // Registered first, tried again after: a place given back between the two is not missed.
                let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
                if !waiters.iter().any(|waiter| waiter.will_wake(waker)) {
                    waiters.push(waker.clone());
                }
                drop(waiters);
                self.has_waiters.store(true, SeqCst);
                self.try_ticket()
            }
            ticket => ticket,
        }
    }

    /// Reserves a place for a connection that is there and cannot wait, or returns the reason why there is none.
    pub(crate) fn ticket_at_once(self: &Arc<Self>) -> Result<Place, RefuseReason> {
        self.try_reserve().ok_or(RefuseReason::MaxSessions)
    }

    fn try_ticket(self: &Arc<Self>) -> Ticket {
        let (next_token, refuses) = {
            let rules = self.rules();
            let next_token = rules.bucket.as_ref().and_then(|bucket| bucket.next_token(Instant::now()));
            (next_token, rules.limits.over_limit == OverLimit::Refuse)
        };
        // Nothing is taken only to be looked at: whoever gives back a place wakes those who wait, himself included.
        if next_token.is_none()
            && let Some(place) = self.try_reserve()
        {
            return Ticket::Place(place);
        }
        let is_full = next_token.is_none() || self.taken.load(SeqCst) >= self.max_sessions.load(SeqCst);
        let reason = if is_full { RefuseReason::MaxSessions } else { RefuseReason::AcceptRate };
        match refuses.then(|| self.try_refusal()).flatten() {
            Some(refusal) => Ticket::Refusal(refusal, reason),
            // Where all are full the rate is not what is waited for.
            None => Ticket::Wait(next_token.filter(|_| !is_full)),
        }
    }

    fn try_reserve(self: &Arc<Self>) -> Option<Place> {
        let most = self.max_sessions.load(SeqCst);
        self.taken
            .fetch_update(SeqCst, SeqCst, |taken| (taken < most).then_some(taken + 1))
            .ok()
            .map(|_| Place { admission: Some(Arc::clone(self)), peer: Address::Memory })
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

    pub(crate) fn count_refused(&self, reason: RefuseReason) {
        self.refused[reason as usize].fetch_add(1, SeqCst);
    }

    /// Returns the number of connections refused since the start, by [`RefuseReason::name`].
    pub(crate) fn refused(&self) -> BTreeMap<&'static str, u64> {
        let counts = RefuseReason::ALL.iter().zip(&self.refused);
        counts.map(|(reason, count)| (reason.name(), count.load(SeqCst))).filter(|(_, count)| *count > 0).collect()
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

    fn wake(&self) {
        if self.has_waiters.swap(false, SeqCst) {
            let waiters = std::mem::take(&mut *self.waiters.lock().unwrap_or_else(PoisonError::into_inner));
            waiters.into_iter().for_each(Waker::wake);
        }
    }
}

/// A reserved place under `max_sessions`, with its peer's address. Dropping it gives it back.
///
/// One value and not two, because every session has it: a session keeps its peer's address here.
#[derive(Debug)]
pub(crate) struct Place {
    /// `None` for a session without a server.
    admission: Option<Arc<Admission>>,
    /// Counted for this peer, once it is known.
    peer: Address,
}

impl Place {
    /// Admits the connection that came, if the limits of its source allow it. From here on it is a session, and owes a
    /// close report.
    pub(crate) fn admit(&mut self, peer: Address) -> Result<(), Denial> {
        if let Some(admission) = &self.admission {
            admission.rules().admit(&peer)?;
            admission.admitted.fetch_add(1, SeqCst);
        }
        self.peer = peer;
        Ok(())
    }

    /// Admits a connection whose real peer a filter has yet to tell. Until [`recharge`](Self::recharge) it is charged to
    /// nobody's source.
    pub(crate) fn admit_unknown(&mut self) -> Result<(), Denial> {
        if let Some(admission) = &self.admission {
            admission.rules().admit_unknown()?;
            admission.admitted.fetch_add(1, SeqCst);
        }
        Ok(())
    }

    /// Charges the session to its real peer, now that it is known. Over a limit it is charged to nobody, and has to end.
    pub(crate) fn recharge(&mut self, peer: Address) -> Result<(), RefuseReason> {
        let before = std::mem::take(&mut self.peer);
        if let Some(admission) = &self.admission
            && let Err(reason) = { admission.rules().recharge(&before, &peer) }
        {
            admission.count_refused(reason);
            admission.wake();
            return Err(reason);
        }
        self.peer = peer;
        Ok(())
    }

    /// Takes back the charge of a connection that is no client's.
    pub(crate) fn excuse(&mut self) {
        let before = std::mem::take(&mut self.peer);
        if let Some(admission) = &self.admission {
            let mut rules = admission.rules();
            if let Some(peer) = PeerId::of(&before) {
                rules.remove(peer);
            }
            rules.give_back();
            drop(rules);
            admission.wake();
        }
    }

    /// Makes the place of a session without a server.
    pub(crate) fn outside(peer: Address) -> Self {
        Self { admission: None, peer }
    }

    pub(crate) fn peer(&self) -> &Address {
        &self.peer
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(admission) = &self.admission else { return };
        if let Some(id) = PeerId::of(&self.peer) {
            admission.rules().remove(id);
        }
        admission.taken.fetch_sub(1, SeqCst);
        admission.wake();
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
        self.admission.wake();
    }
}

#[cfg(test)]
mod tests;
