//! Rates: limits on how fast sessions are read, each by itself or several together.
//!
//! A session's own bucket is two numbers in its slot, refilled by its worker's sweep. A group's bucket is shared by
//! sessions of all workers without a lock: it is one moment, the one at which it will be full again.
//! Not here: accept rates (`admission`), what a session does while it may not read (`context`).

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::time::Instant;

use crate::error::ConfigError;

/// Least amount that a member of a group is given at once, if there is as much: with less it would make a system call
/// for a few bytes. The number is the default of libevent's `bufferevent_rate_limit_group_set_min_share`.
const MIN_SHARE_BYTES: u64 = 64;

const NANOS: u64 = 1_000_000_000;

/// Least size of a group's bucket: what this part of a second brings. Its members look at it at each sweep of their
/// workers, every 250 ms if these are on time; a smaller bucket would lower the rate.
const LEAST_PART: u32 = 2;

/// Reading of a group's clock when the group is made: a bucket that was empty at 0 is full by then, at any rate and
/// burst.
const CLOCK_BEGIN: u64 = (1 << 32) * NANOS;

/// A token bucket: it holds `burst` and is refilled with `per_second`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Amount a second in the long run, however small the burst is.
    pub per_second: u32,
    /// Amount at once after a rest. Buckets are refilled at intervals, and a bucket smaller than one refill would lower
    /// the rate; so the bucket of a session holds at least one refill (250 ms, if its worker is on time), that of a
    /// [`RateGroup`](crate::rate::RateGroup) at least what half a second brings, that of accepts its burst and what 2 ms
    /// bring.
    pub burst: u32,
}

impl Rate {
    /// Returns an error that names `limit` if it is invalid.
    pub(crate) fn check(&self, limit: &'static str) -> Result<(), ConfigError> {
        match self.per_second == 0 || self.burst == 0 {
            true => Err(ConfigError::Rate { limit }),
            false => Ok(()),
        }
    }

    /// Makes a rate whose burst is the amount of one second.
    #[must_use]
    pub const fn per_second(per_second: u32) -> Self {
        Self { per_second, burst: per_second }
    }
}

/// Limits on reading: in bytes, in lines, both or neither. The default is neither.
///
/// ```
/// use actix_lines::limits::{Rate, RateLimit};
///
/// let typist = RateLimit { lines: Some(Rate { per_second: 10, burst: 50 }), bytes: None };
/// # let _ = typist;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// Limit on bytes read from peers. Default: none.
    pub bytes: Option<Rate>,
    /// Limit on lines delivered. The pieces of an overlong line count as one line, a tail as none. Default: none.
    pub lines: Option<Rate>,
}

impl RateLimit {
    pub(crate) fn is_none(&self) -> bool {
        self.bytes.is_none() && self.lines.is_none()
    }

    /// Returns an error that names `what` if it is invalid.
    pub(crate) fn check(&self, what: &'static str) -> Result<(), ConfigError> {
        [self.bytes, self.lines].into_iter().flatten().try_for_each(|rate| rate.check(what))
    }

    fn of(&self, unit: Unit) -> Option<Rate> {
        match unit {
            Unit::Bytes => self.bytes,
            Unit::Lines => self.lines,
        }
    }
}

/// The unit that a rate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Lines,
}

/// Amounts that one session may still read before its bucket is refilled. Meaningless for a unit without a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowance {
    bytes: u32,
    lines: u32,
}

impl Allowance {
    pub(crate) fn full(limit: &RateLimit) -> Self {
        let burst = |rate: Option<Rate>| rate.map_or(0, |rate| rate.burst);
        Self { bytes: burst(limit.bytes), lines: burst(limit.lines) }
    }

    fn of(&mut self, unit: Unit) -> &mut u32 {
        match unit {
            Unit::Bytes => &mut self.bytes,
            Unit::Lines => &mut self.lines,
        }
    }

    /// Returns the amount left once `spent` is spent; `usize::MAX` without a limit.
    pub(crate) fn left(&mut self, limit: &RateLimit, unit: Unit, spent: u64) -> usize {
        match limit.of(unit) {
            Some(_) => u64::from(*self.of(unit)).saturating_sub(spent) as usize,
            None => usize::MAX,
        }
    }

    pub(crate) fn spend(&mut self, unit: Unit, amount: u64) {
        let left = self.of(unit);
        *left = left.saturating_sub(u32::try_from(amount).unwrap_or(u32::MAX));
    }

    /// Adds the amount for the time from `last` to `now`, both in milliseconds of one clock. Over many calls no
    /// fraction is lost, as each adds the difference of two sums.
    ///
    /// A bucket holds its burst, or the amount added if that is more, up to a second's: a burst smaller than the amount
    /// of one call would lower the rate. So no time at all changes nothing.
    ///
    /// Returns true if the buckets are full.
    pub(crate) fn refill(&mut self, limit: &RateLimit, last: u32, now: u32) -> bool {
        let elapsed = now.wrapping_sub(last);
        let mut is_full = true;
        for unit in [Unit::Bytes, Unit::Lines] {
            let Some(Rate { per_second, burst }) = limit.of(unit) else { continue };
            let sum = |at: u64| u128::from(at) * u128::from(per_second) / 1000;
            let earned = sum(u64::from(last) + u64::from(elapsed)) - sum(u64::from(last));
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            let left = self.of(unit);
            if elapsed > 0 {
                *left = left.saturating_add(earned).min(burst.max(earned.min(per_second)));
            }
            is_full &= *left >= burst;
        }
        is_full
    }

    /// Changes from one limit to another: a unit without a limit before begins with a full bucket, one with a limit
    /// keeps what fits.
    pub(crate) fn change(&mut self, from: &RateLimit, to: &RateLimit) {
        let full = Self::full(to);
        let changed = |had: Option<Rate>, left: u32, full: u32| if had.is_some() { left.min(full) } else { full };
        self.bytes = changed(from.bytes, self.bytes, full.bytes);
        self.lines = changed(from.lines, self.lines, full.lines);
    }
}

/// An amount that may be taken in now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    pub(crate) amount: usize,
    /// Taken from a group: the unused part is given back to it, and once the amount is used up the other members come
    /// first.
    pub(crate) of_group: bool,
}

impl Grant {
    /// Makes the grant of a session's own rate, or of none.
    pub(crate) fn own(amount: usize) -> Self {
        Self { amount, of_group: false }
    }
}

/// Sessions that share one limit on how fast they are read: all of a customer, all of a room. They may run on any
/// workers. A clone is the same group.
///
/// Terms: libevent's `bufferevent_rate_limit_group`.
///
/// Members that are held back share evenly. Each also keeps to its own rate.
///
/// ```
/// use actix::Actor;
/// use actix_lines::{Line, LineContext, LineHandler, LineServer, limits::{Rate, RateGroup, RateLimit}};
///
/// struct Customer(RateGroup);
///
/// impl Actor for Customer {
///     type Context = LineContext<Self>;
///
///     fn started(&mut self, ctx: &mut Self::Context) {
///         ctx.join_rate_group(&self.0);
///     }
/// }
///
/// impl LineHandler for Customer {
///     fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
///         ctx.write(&line);
///     }
/// }
///
/// let all = RateGroup::new(RateLimit { bytes: Some(Rate::per_second(1_000_000)), lines: None })?;
/// let group = all.clone();
/// let server = LineServer::new(move |_| Customer(group.clone()));
/// // While they talk:
/// all.set(RateLimit { bytes: Some(Rate::per_second(500_000)), lines: None })?;
/// # drop(server);
/// # Ok::<(), actix_lines::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct RateGroup(Arc<GroupState>);

struct GroupState {
    epoch: Instant,
    bytes: Bucket,
    lines: Bucket,
    /// Members that were given nothing and wait.
    waiting: AtomicUsize,
}

impl RateGroup {
    /// Makes a group without members.
    ///
    /// # Errors
    /// [`ConfigError::Rate`] for a rate or burst of 0.
    pub fn new(limit: RateLimit) -> Result<Self, ConfigError> {
        let group = Self(Arc::new(GroupState {
            epoch: Instant::now(),
            bytes: Bucket::default(),
            lines: Bucket::default(),
            waiting: AtomicUsize::new(0),
        }));
        group.set(limit)?;
        Ok(group)
    }

    /// Changes the limit; may be called from any thread. The new limit holds within half a second; what was spent stays
    /// spent.
    ///
    /// # Errors
    /// As [`new`](Self::new); after an error nothing has changed.
    pub fn set(&self, limit: RateLimit) -> Result<(), ConfigError> {
        limit.check("rate of a group")?;
        let now = self.now();
        self.0.bytes.set(limit.bytes, now);
        self.0.lines.set(limit.lines, now);
        Ok(())
    }

    /// Returns the limit in force.
    #[must_use]
    pub fn limit(&self) -> RateLimit {
        RateLimit { bytes: self.0.bytes.rate(), lines: self.0.lines.rate() }
    }

    fn bucket(&self, unit: Unit) -> (&Bucket, u64) {
        match unit {
            Unit::Bytes => (&self.0.bytes, MIN_SHARE_BYTES),
            Unit::Lines => (&self.0.lines, 1),
        }
    }

    fn now(&self) -> u64 {
        // It overflows in 448 years.
        CLOCK_BEGIN + self.0.epoch.elapsed().as_nanos() as u64
    }
}

impl fmt::Debug for RateGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateGroup").field("limit", &self.limit()).finish_non_exhaustive()
    }
}

/// A session's place in a group; it leaves the group when it is dropped.
#[derive(Debug)]
pub(crate) struct Member {
    group: RateGroup,
    is_waiting: bool,
    /// The last grant: no more than that is given back. A session that joins in the middle of a line would otherwise
    /// give this group what it had from another.
    granted: usize,
}

impl Member {
    pub(crate) fn new(group: &RateGroup) -> Self {
        Self { group: group.clone(), is_waiting: false, granted: 0 }
    }

    pub(crate) fn is_in(&self, group: &RateGroup) -> bool {
        Arc::ptr_eq(&self.group.0, &group.0)
    }

    /// Takes up to `wanted` of what the group has; with nothing left the member waits.
    pub(crate) fn take(&mut self, unit: Unit, wanted: usize) -> Grant {
        self.set_waiting(false);
        let (bucket, least) = self.group.bucket(unit);
        let sharers = self.group.0.waiting.load(Relaxed) as u64 + 1;
        let granted = bucket.take(wanted as u64, sharers, least, self.group.now());
        self.set_waiting(granted == 0);
        self.granted = usize::try_from(granted).unwrap_or(wanted);
        Grant { amount: self.granted, of_group: true }
    }

    pub(crate) fn give_back(&self, unit: Unit, unused: usize) {
        self.group.bucket(unit).0.give_back(unused.min(self.granted) as u64);
    }

    /// Sets whether it is one of the members that share what comes next.
    pub(crate) fn set_waiting(&mut self, is_waiting: bool) {
        match (self.is_waiting, is_waiting) {
            (false, true) => self.group.0.waiting.fetch_add(1, Relaxed),
            (true, false) => self.group.0.waiting.fetch_sub(1, Relaxed),
            _ => return,
        };
        self.is_waiting = is_waiting;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.set_waiting(false);
    }
}

/// A bucket shared by several threads.
#[derive(Debug, Default)]
struct Bucket {
    /// Amount a second in the upper half, burst in the lower half; 0 is no limit.
    rate: AtomicU64,
    /// The moment at which it was empty, in nanoseconds of the group's clock; nothing was taken since then.
    empty_at: AtomicU64,
}

impl Bucket {
    fn set(&self, rate: Option<Rate>, now: u64) {
        self.rate.store(rate.map_or(0, |rate| u64::from(rate.per_second) << 32 | u64::from(rate.burst)), Relaxed);
        // At worst it is empty: what was spent at another rate may have been more than this bucket holds.
        self.empty_at.fetch_min(now, Relaxed);
    }

    fn rate(&self) -> Option<Rate> {
        let rate = self.rate.load(Relaxed);
        (rate != 0).then_some(Rate { per_second: (rate >> 32) as u32, burst: rate as u32 })
    }

    /// Takes up to `wanted`: no more than the share of one of `sharers`, but at least `least` if there is as much.
    fn take(&self, wanted: u64, sharers: u64, least: u64, now: u64) -> u64 {
        let Some(Rate { per_second, burst }) = self.rate() else { return wanted };
        let most = u64::from(burst.max(per_second / LEAST_PART));
        let full_after = time_for(most, per_second);
        let mut granted = 0;
        let took = self.empty_at.fetch_update(Relaxed, Relaxed, |empty_at| {
            let filled_for = now.saturating_sub(empty_at).min(full_after);
            let left = u128::from(filled_for) * u128::from(per_second) / u128::from(NANOS);
            let left = u64::try_from(left).unwrap_or(u64::MAX).min(most);
            granted = wanted.min((left / sharers).max(least.min(left)));
            (granted > 0).then(|| now - filled_for + time_for(granted, per_second))
        });
        took.map_or(0, |_| granted)
    }

    fn give_back(&self, unused: u64) {
        if let Some(Rate { per_second, .. }) = self.rate()
            && unused > 0
        {
            let time = unused * NANOS / u64::from(per_second);
            let _ = self.empty_at.fetch_update(Relaxed, Relaxed, |empty_at| Some(empty_at.saturating_sub(time)));
        }
    }
}

/// Returns the time in nanoseconds that brings `amount`, which is at most 2^32. It fits: that is 2^32 seconds at most.
fn time_for(amount: u64, per_second: u32) -> u64 {
    (amount * NANOS).div_ceil(u64::from(per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(per_second: u32, burst: u32) -> RateLimit {
        RateLimit { bytes: Some(Rate { per_second, burst }), lines: None }
    }

    #[test]
    fn an_allowance_gains_what_the_rate_says_however_often_it_is_refilled() {
        for (per_second, step) in [(1, 250), (3, 1), (7, 333), (1000, 7), (u32::MAX, 251)] {
            let limit = limit(per_second, u32::MAX);
            let (mut allowance, mut now, mut gained) = (Allowance::default(), u32::MAX - 500, 0_u64);
            let mut elapsed = 0_u64;
            while elapsed < 20_000 {
                allowance.refill(&limit, now, now.wrapping_add(step));
                now = now.wrapping_add(step);
                elapsed += u64::from(step);
                let left = allowance.left(&limit, Unit::Bytes, 0) as u64;
                allowance.spend(Unit::Bytes, left);
                gained += left;
            }
            let due = (u64::from(per_second) * elapsed / 1000).min(u64::from(u32::MAX) * (elapsed / u64::from(step)));
            // The wrap of the clock, once in 49 days, may cost a fraction.
            assert!(gained.abs_diff(due) <= 1, "{per_second} each {step} ms: {gained} instead of {due}");
        }
    }

    #[test]
    fn an_allowance_holds_no_more_than_its_burst_and_survives_a_change() {
        let (small, large) = (limit(10, 20), limit(1000, 2000));
        let mut allowance = Allowance::full(&small);
        allowance.refill(&small, 0, 10_000);
        assert_eq!(allowance.left(&small, Unit::Bytes, 0), 20);
        assert_eq!(allowance.left(&small, Unit::Bytes, 21), 0);
        allowance.spend(Unit::Bytes, 15);
        allowance.change(&small, &large);
        assert_eq!(allowance.left(&large, Unit::Bytes, 2), 3, "what was spent stays spent");
        allowance.refill(&large, 0, 10_000);
        allowance.change(&large, &small);
        assert_eq!(allowance.left(&small, Unit::Bytes, 0), 20, "a smaller bucket holds less");
        allowance.spend(Unit::Bytes, 100);
        let none = RateLimit::default();
        allowance.change(&small, &none);
        assert_eq!(allowance.left(&none, Unit::Bytes, 100), usize::MAX);
        allowance.change(&none, &small);
        assert_eq!(allowance.left(&small, Unit::Bytes, 0), 20, "what had no limit begins with a full bucket");
        assert_eq!(allowance.left(&small, Unit::Lines, 100), usize::MAX);
    }

    #[test]
    fn a_burst_below_what_comes_between_two_looks_lowers_no_rate() {
        for (per_second, burst) in [(100, 10), (100, 1), (7, 1), (1_000_000, 1), (u32::MAX, 1)] {
            let limit = limit(per_second, burst);
            let (mut allowance, bucket) = (Allowance::full(&limit), Bucket::default());
            bucket.set(limit.bytes, CLOCK_BEGIN);
            let (mut allowed, mut taken) = (0, 0);
            // Not each time on time, and for longer than the sweep's clock lasts before it wraps.
            let mut last = u32::MAX - 100_000;
            for elapsed in (0..1000).map(|nth| 250 + nth % 50) {
                let left = allowance.left(&limit, Unit::Bytes, 0) as u64;
                allowance.spend(Unit::Bytes, left);
                allowed += left;
                allowance.refill(&limit, last, last.wrapping_add(elapsed));
                last = last.wrapping_add(elapsed);
                let now = CLOCK_BEGIN + u64::from(last.wrapping_sub(u32::MAX - 100_000)) * 1_000_000;
                taken += bucket.take(u64::MAX, 1, 1, now);
            }
            let seconds = (0..1000).map(|nth| u64::from(250_u32 + nth % 50)).sum::<u64>() as f64 / 1000.0;
            let due = seconds * f64::from(per_second);
            for got in [allowed, taken] {
                let error = (got as f64 - due).abs();
                // The last tick, the burst, and a second's worth to begin with.
                let slack = 2.0 * f64::from(per_second) + f64::from(burst);
                assert!(error <= slack, "{per_second}/{burst}: {got} instead of {due}");
            }
            // However long nobody looked, a second's worth is the most.
            assert_eq!(bucket.take(u64::MAX, 1, 1, CLOCK_BEGIN + 7200 * NANOS), u64::from(burst.max(per_second / 2)));
            allowance.refill(&limit, 0, 3_600_000);
            assert_eq!(allowance.left(&limit, Unit::Bytes, 0), per_second as usize);
        }
    }

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate() {
        let bucket = Bucket::default();
        let take = |wanted, now| bucket.take(wanted, 1, 1, CLOCK_BEGIN + now);
        let set = |per_second, burst, now| bucket.set(Some(Rate { per_second, burst }), CLOCK_BEGIN + now);
        assert_eq!(take(1 << 40, 5), 1 << 40, "no limit");
        set(1000, 500, 0);
        assert_eq!(take(10_000, 0), 500);
        assert_eq!(take(10_000, 0), 0);
        assert_eq!(take(10_000, NANOS / 10), 100);
        assert_eq!(take(10, NANOS / 5), 10);
        bucket.give_back(10);
        assert_eq!(take(10_000, NANOS / 5), 100);
        assert_eq!(take(10_000, 100 * NANOS), 500, "no more than the burst after a rest");
        set(1_000_000, 10, 100 * NANOS);
        assert_eq!(take(10_000, 100 * NANOS + 10_000), 10, "what was spent at another rate is not owed");
    }

    #[test]
    fn those_who_wait_for_a_bucket_share_it_evenly() {
        let bucket = Bucket::default();
        bucket.set(Some(Rate { per_second: 1000, burst: 1000 }), CLOCK_BEGIN);
        let take = |wanted, sharers, least, now| bucket.take(wanted, sharers, least, CLOCK_BEGIN + now);
        let shares: Vec<_> = (1..=10).rev().map(|sharers| take(u64::MAX >> 32, sharers, 64, 0)).collect();
        assert_eq!(shares, [100; 10]);
        assert_eq!(take(1000, 1000, 64, NANOS), 64, "no share is smaller than the least");
        assert_eq!(take(1000, 1000, 2000, NANOS), 936, "unless no more is left");
    }
}
