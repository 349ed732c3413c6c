//! Admission: may this connection become a session?
//!
//! Exact and global: a place is reserved before the accept and given back by a guard when the socket is closed; a
//! source's share of the places is counted under one short lock when its address is known. Both are taken once for each
//! connection, never for a line.
//! Not here: accepting and refusing (`acceptor`), what a session does with its place (nothing: it holds it).

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    task::Waker,
};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed, keyed::HashMapStateStore},
};
use tokio::time::Instant;

use crate::{
    limits::{AdmissionLimits, OverLimit, Rate},
    shared::SharedBytes,
    source::{Address, Prefix},
};

/// Refused connections that still hear why, at most: each has a descriptor.
const MAX_REFUSALS: usize = 256;
/// Sources that may be remembered whose accept rate has recovered, before the first of them are forgotten.
const FORGET_AFTER: usize = 1024;

/// Why a connection did not become a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RefuseReason {
    /// As many sessions as may be are there.
    MaxSessions,
    /// As many sessions of its source as may be are there.
    MaxSessionsPerSource,
    /// More connections in this second than may be.
    AcceptRate,
    /// More connections of its source in this second than may be.
    AcceptRatePerSource,
    /// Its source is denied, or not among those allowed.
    Denied,
}

impl RefuseReason {
    const ALL: [Self; 5] =
        [Self::MaxSessions, Self::MaxSessionsPerSource, Self::AcceptRate, Self::AcceptRatePerSource, Self::Denied];

    /// A short name for logs and counters: `"max-sessions"`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxSessions => "max-sessions",
            Self::MaxSessionsPerSource => "max-sessions-per-source",
            Self::AcceptRate => "accept-rate",
            Self::AcceptRatePerSource => "accept-rate-per-source",
            Self::Denied => "denied",
        }
    }
}

/// The clock of rates: tokio's, which a test can pause.
#[derive(Clone, Debug)]
struct TokioClock;

impl Clock for TokioClock {
    type Instant = std::time::Instant;

    fn now(&self) -> Self::Instant {
        Instant::now().into_std()
    }
}

type Bucket = RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<std::time::Instant>>;
type Buckets = RateLimiter<Address, HashMapStateStore<Address>, TokioClock, NoOpMiddleware<std::time::Instant>>;

fn quota(rate: Rate) -> Quota {
    // A `Limits` that exists has no rate of 0.
    let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(at_least_one(rate.per_second)).allow_burst(at_least_one(rate.burst))
}

#[derive(Debug)]
pub(crate) struct Admission {
    max_sessions: AtomicUsize,
    /// Places taken: sessions, and the connections about to become one.
    taken: AtomicUsize,
    /// Sessions admitted since the start.
    admitted: AtomicU64,
    refusing: AtomicUsize,
    refused: [AtomicU64; RefuseReason::ALL.len()],
    has_waiters: AtomicBool,
    waiters: Mutex<Vec<Waker>>,
    rules: Mutex<Rules>,
}

/// All that needs a lock. Nobody waits under it.
#[derive(Debug)]
struct Rules {
    limits: AdmissionLimits,
    bucket: Option<Bucket>,
    buckets: Option<Buckets>,
    /// With more sources than this in `buckets` it is time to forget some.
    forget_at: usize,
    by_address: HashMap<Address, u32>,
    /// The same, added up by source; empty where each address is a source by itself.
    by_source: HashMap<Address, u32>,
}

/// What an acceptor may do next.
#[derive(Debug)]
pub(crate) enum Ticket {
    /// Accept: the connection has a place.
    Place(Place),
    /// Accept, and refuse what comes.
    Refusal(Refusal, RefuseReason),
    /// Accept nothing until then; or, without a time, until the waker is woken.
    Wait(Option<Instant>),
}

impl Rules {
    fn new(limits: AdmissionLimits) -> Self {
        Self {
            bucket: limits.accept_rate.map(|rate| RateLimiter::direct_with_clock(quota(rate), TokioClock)),
            buckets: limits.accept_rate_per_source.map(|rate| RateLimiter::hashmap_with_clock(quota(rate), TokioClock)),
            limits,
            forget_at: FORGET_AFTER,
            by_address: HashMap::new(),
            by_source: HashMap::new(),
        }
    }

    /// Sessions of the source that `address` belongs to.
    fn count(&self, address: Address) -> u32 {
        let prefix = self.limits.source_prefix;
        let counts = if prefix.is_exact(address) { &self.by_address } else { &self.by_source };
        counts.get(&prefix.source(address)).copied().unwrap_or(0)
    }

    fn add(&mut self, address: Address) {
        *self.by_address.entry(address).or_default() += 1;
        self.add_to_source(address, 1);
    }

    fn add_to_source(&mut self, address: Address, count: u32) {
        let prefix = self.limits.source_prefix;
        if !prefix.is_exact(address) {
            *self.by_source.entry(prefix.source(address)).or_default() += count;
        }
    }

    fn remove(&mut self, address: Address) {
        let prefix = self.limits.source_prefix;
        subtract(&mut self.by_address, address);
        if !prefix.is_exact(address) {
            subtract(&mut self.by_source, prefix.source(address));
        }
    }

    /// Takes over new limits. Counts stay true, also where sources are drawn in another way.
    #[must_use = "the old ones hold bytes of the user's: not to be dropped under the lock"]
    fn set(&mut self, limits: AdmissionLimits) -> AdmissionLimits {
        let old = std::mem::replace(&mut self.limits, limits);
        if old.accept_rate != self.limits.accept_rate {
            self.bucket = self.limits.accept_rate.map(|rate| RateLimiter::direct_with_clock(quota(rate), TokioClock));
        }
        let regrouped = old.source_prefix != self.limits.source_prefix;
        if regrouped || old.accept_rate_per_source != self.limits.accept_rate_per_source {
            let rate = self.limits.accept_rate_per_source;
            self.buckets = rate.map(|rate| RateLimiter::hashmap_with_clock(quota(rate), TokioClock));
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
        if let Some(buckets) = &self.buckets {
            buckets.retain_recent();
            buckets.shrink_to_fit();
            self.forget_at = FORGET_AFTER.max(2 * buckets.len());
        }
    }

    /// May a session of this peer be admitted? If so it is counted.
    fn admit(&mut self, peer: IpAddr) -> Result<(), RefuseReason> {
        if self.limits.denies(peer) {
            return Err(RefuseReason::Denied);
        }
        let address = Address::from(peer);
        if !is_in(&self.limits.exempt, peer) {
            if self.count(address) as usize >= self.limits.max_sessions_per_source {
                return Err(RefuseReason::MaxSessionsPerSource);
            }
            if let Some(buckets) = &self.buckets {
                if buckets.check_key(&self.limits.source_prefix.source(address)).is_err() {
                    return Err(RefuseReason::AcceptRatePerSource);
                }
                if buckets.len() > self.forget_at {
                    self.forget();
                }
            }
        }
        self.add(address);
        Ok(())
    }
}

fn subtract(counts: &mut HashMap<Address, u32>, address: Address) {
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
    /// Whether the lists keep this peer out.
    pub(crate) fn denies(&self, peer: IpAddr) -> bool {
        is_in(&self.deny, peer) || (!self.allow.is_empty() && !is_in(&self.allow, peer))
    }
}

fn is_in(list: &[Prefix], peer: IpAddr) -> bool {
    list.iter().any(|prefix| prefix.contains(peer))
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

    /// Takes over new limits, for connections that come from now on.
    pub(crate) fn set(&self, limits: AdmissionLimits) {
        self.max_sessions.store(limits.max_sessions, SeqCst);
        let old = self.rules().set(limits);
        drop(old);
        self.wake();
    }

    /// Says what may be done about the next connection, or has `waker` woken when that changes.
    ///
    /// `paid` is true while the accept rate has been charged for a connection that did not come; it is updated.
    pub(crate) fn ticket(self: &Arc<Self>, paid: &mut bool, waker: &Waker) -> Ticket {
        match self.try_ticket(paid) {
            Ticket::Wait(None) => {
                // Registered first, tried again after: a place given back between the two is not missed.
                self.waiters.lock().unwrap_or_else(PoisonError::into_inner).push(waker.clone());
                self.has_waiters.store(true, SeqCst);
                self.try_ticket(paid)
            }
            ticket => ticket,
        }
    }

    fn try_ticket(self: &Arc<Self>, paid: &mut bool) -> Ticket {
        let place = self.try_reserve();
        let (limited, refuses) = {
            let rules = self.rules();
            let limited = match &rules.bucket {
                // Where all are full the rate is not what is waited for.
                Some(bucket) if place.is_some() && !*paid => bucket.check().err(),
                _ => None,
            };
            (limited, rules.limits.over_limit == OverLimit::Refuse)
        };
        match (place, limited) {
            (Some(place), None) => {
                *paid = true;
                Ticket::Place(place)
            }
            (_, Some(until)) if !refuses => Ticket::Wait(Some(Instant::now() + until.wait_time_from(TokioClock.now()))),
            (None, _) if !refuses => Ticket::Wait(None),
            (place, _) => {
                let reason = if place.is_some() { RefuseReason::AcceptRate } else { RefuseReason::MaxSessions };
                drop(place);
                self.try_refusal().map_or(Ticket::Wait(None), |refusal| Ticket::Refusal(refusal, reason))
            }
        }
    }

    fn try_reserve(self: &Arc<Self>) -> Option<Place> {
        let most = self.max_sessions.load(SeqCst);
        self.taken
            .fetch_update(SeqCst, SeqCst, |taken| (taken < most).then_some(taken + 1))
            .ok()
            .map(|_| Place { admission: Some(Arc::clone(self)), peer: None })
    }

    /// Room to tell one more connection that it is refused.
    pub(crate) fn try_refusal(self: &Arc<Self>) -> Option<Refusal> {
        self.refusing
            .fetch_update(SeqCst, SeqCst, |refusing| (refusing < MAX_REFUSALS).then_some(refusing + 1))
            .ok()
            .map(|_| Refusal(Arc::clone(self)))
    }

    pub(crate) fn count_refused(&self, reason: RefuseReason) {
        self.refused[reason as usize].fetch_add(1, SeqCst);
    }

    /// Connections refused since the start, by [`RefuseReason::name`].
    pub(crate) fn refused(&self) -> BTreeMap<&'static str, u64> {
        let counts = RefuseReason::ALL.iter().zip(&self.refused);
        counts.map(|(reason, count)| (reason.name(), count.load(SeqCst))).filter(|(_, count)| *count > 0).collect()
    }

    pub(crate) fn refuse_line(&self) -> SharedBytes {
        self.rules().limits.refuse_line.clone()
    }

    /// Forgets what is not worth to be remembered. To be called now and then.
    pub(crate) fn tidy(&self) {
        self.rules().forget();
    }

    /// Sessions admitted since the start.
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

/// A reserved place under `max_sessions`, and whose it is. Dropping it gives it back.
///
/// One thing and not two, because every session has it: it is where a session keeps its peer's address.
#[derive(Debug)]
pub(crate) struct Place {
    /// `None` for a session without a server.
    admission: Option<Arc<Admission>>,
    /// Counted for this peer, once it is known.
    peer: Option<SocketAddr>,
}

impl Place {
    /// The connection came: if its source may have one more, it is a session from here on, and owes a close report.
    pub(crate) fn admit(&mut self, peer: Option<SocketAddr>) -> Result<(), RefuseReason> {
        if let Some(admission) = &self.admission {
            if let Some(peer) = peer {
                admission.rules().admit(peer.ip())?;
            }
            admission.admitted.fetch_add(1, SeqCst);
        }
        self.peer = peer;
        Ok(())
    }

    /// The place of a session that nobody admits.
    pub(crate) fn outside(peer: Option<SocketAddr>) -> Self {
        Self { admission: None, peer }
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(admission) = &self.admission else { return };
        if let Some(peer) = self.peer {
            admission.rules().remove(peer.ip().into());
        }
        admission.taken.fetch_sub(1, SeqCst);
        admission.wake();
    }
}

/// Room for a connection that is being refused. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Refusal(Arc<Admission>);

impl Drop for Refusal {
    fn drop(&mut self) {
        self.0.refusing.fetch_sub(1, SeqCst);
        self.0.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, SourcePrefix};
    use futures::task::noop_waker_ref;

    fn reserve(admission: &Arc<Admission>) -> Option<Place> {
        match admission.ticket(&mut false, noop_waker_ref()) {
            Ticket::Place(place) => Some(place),
            Ticket::Refusal(..) | Ticket::Wait(_) => None,
        }
    }

    fn admission(limits: Limits) -> Arc<Admission> {
        Admission::new(limits.admission)
    }

    #[test]
    fn never_more_places_than_the_limit_whoever_asks() {
        let admission = admission(Limits::builder().max_sessions(10).build().unwrap());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let place = reserve(&admission);
                        assert!(admission.taken.load(SeqCst) <= 10);
                        drop(place);
                    }
                });
            }
        });
        let places: Vec<_> = (0..11).map(|_| reserve(&admission)).collect();
        assert_eq!(places.iter().flatten().count(), 10);
        drop(places);
        assert_eq!(admission.taken.load(SeqCst), 0);
    }

    #[test]
    fn counts_of_sources_stay_true_when_sources_are_drawn_anew() {
        let limits = Limits::builder().max_sessions_per_source(2).build().unwrap();
        let admission = admission(limits.clone());
        let peer = |text: &str| Some(SocketAddr::new(text.parse().unwrap(), 1));
        let admit = |text: &str| {
            let mut place = reserve(&admission).unwrap();
            place.admit(peer(text)).map(|()| place)
        };
        let first = admit("192.0.2.1").unwrap();
        let second = admit("::ffff:192.0.2.1").unwrap();
        let third = admit("192.0.2.2").unwrap();
        assert_eq!(admit("192.0.2.1").unwrap_err(), RefuseReason::MaxSessionsPerSource);
        let wide = limits.to_builder().source_prefix(SourcePrefix { v4: 24, v6: 48 }).max_sessions_per_source(4);
        admission.set(wide.build().unwrap().admission);
        let fourth = admit("192.0.2.3").unwrap();
        assert_eq!(admit("192.0.2.4").unwrap_err(), RefuseReason::MaxSessionsPerSource);
        drop(first);
        let fifth = admit("192.0.2.4").unwrap();
        assert_eq!(admit("192.0.2.5").unwrap_err(), RefuseReason::MaxSessionsPerSource);
        // Back again, with the counts of each address.
        admission.set(limits.admission);
        let sixth = admit("192.0.2.1").unwrap();
        assert_eq!(admit("192.0.2.1").unwrap_err(), RefuseReason::MaxSessionsPerSource);
        drop((second, third, fourth, fifth, sixth));
        assert!(admission.rules().by_address.is_empty() && admission.rules().by_source.is_empty());
        assert_eq!(admission.taken.load(SeqCst), 0);
    }

    #[test]
    fn a_flood_of_sources_whose_rate_has_recovered_is_not_remembered() {
        let rate = Some(Rate { per_second: u32::MAX, burst: 1 });
        let admission = admission(Limits::builder().accept_rate_per_source(rate).build().unwrap());
        for number in 0..100_000_u32 {
            let mut place = reserve(&admission).unwrap();
            place.admit(Some(SocketAddr::new(std::net::Ipv4Addr::from_bits(number).into(), 1))).unwrap();
            let remembered = admission.rules().buckets.as_ref().unwrap().len();
            assert!(remembered <= FORGET_AFTER + 1, "{remembered} after {number}");
        }
        assert!(admission.rules().by_address.is_empty());
    }
}
