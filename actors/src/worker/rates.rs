//! Rates: the input that each session may still take, and the sessions that wait for more.
//!
//! Not here: buckets and groups (`rate`), a session that may not read (`session`).

use std::cell::Cell;

use crate::{
    rate::{Allowance, Grant, Member, RateGroup, RateLimit, Unit},
    worker::{command::Commands, reports::Counts},
};

/// A session's part.
#[derive(Debug, Default)]
pub(super) struct SessionRates {
    allowance: Allowance,
    /// It was given nothing, and has to be told when there is more.
    is_throttled: bool,
}

/// A session's part that most never need: rates that it has to keep to and others have not.
#[derive(Debug, Default)]
pub(super) struct OwnRates {
    limit: Option<RateLimit>,
    member: Option<Member>,
}

impl OwnRates {
    /// The rate that was set for this session alone.
    pub(super) fn limit(&self) -> Option<RateLimit> {
        self.limit
    }

    pub(super) fn is_none(&self) -> bool {
        self.limit.is_none() && self.member.is_none()
    }

    /// Returns true if the session is in `group`, or in none if that is `None`.
    pub(super) fn is_in(&self, group: Option<&RateGroup>) -> bool {
        match (&self.member, group) {
            (Some(member), Some(group)) => member.is_in(group),
            (member, group) => member.is_none() && group.is_none(),
        }
    }

    pub(super) fn set_group(&mut self, group: Option<&RateGroup>) {
        self.member = group.map(Member::new);
    }

    /// Gives back what was granted by a group and not used.
    pub(super) fn give_back(&self, unit: Unit, unused: usize) {
        if let Some(member) = &self.member {
            member.give_back(unit, unused);
        }
    }
}

impl SessionRates {
    /// A session that may at once take in what `limit` holds.
    pub(super) fn full(limit: &RateLimit) -> Self {
        Self { allowance: Allowance::full(limit), is_throttled: false }
    }

    /// Spends what a turn took in.
    #[inline]
    pub(super) fn spend(&mut self, counts: &Counts) {
        self.allowance.spend(Unit::Bytes, counts.bytes_in);
        self.allowance.spend(Unit::Lines, counts.lines_in);
    }

    /// Grants at most `most`, and no more than `wanted()` where a rate limits it. What was spent in this turn is known at
    /// its end only, so it is `spent`.
    pub(super) fn grant(
        &mut self,
        own: Option<&mut OwnRates>,
        default: &RateLimit,
        unit: Unit,
        spent: u64,
        most: usize,
        wanted: impl FnOnce() -> usize,
    ) -> Grant {
        let (limit, member) = match own {
            Some(own) => (own.limit.unwrap_or(*default), own.member.as_mut()),
            None => (*default, None),
        };
        let left = self.allowance.left(&limit, unit, spent);
        if member.is_none() && left >= most {
            return Grant::own(most);
        }
        let mut grant = Grant::own(left.min(wanted()));
        if grant.amount > 0
            && let Some(member) = member
        {
            grant = member.take(unit, grant.amount);
        }
        self.is_throttled = grant.amount == 0;
        grant
    }

    /// Adds what the time from `last` to `now` is worth, both in milliseconds of the worker's clock. Returns true if more
    /// time adds no more.
    pub(super) fn refill(&mut self, limit: &RateLimit, last: u32, now: u32) -> bool {
        self.allowance.refill(limit, last, now)
    }

    /// The limit in force for this session goes from one to another.
    pub(super) fn change(&mut self, from: &RateLimit, to: &RateLimit) {
        self.allowance.change(from, to);
    }

    /// Sets the session's own rate. Returns whether that changed anything.
    pub(super) fn set_own(&mut self, own: &mut OwnRates, default: &RateLimit, limit: RateLimit) -> bool {
        let before = own.limit.replace(limit);
        self.allowance.change(&before.unwrap_or(*default), &limit);
        before != Some(limit)
    }

    /// The command that has a session which its rate holds back ask for more; empty if it does not wait.
    pub(super) fn release(&mut self) -> Commands {
        if std::mem::take(&mut self.is_throttled) { Commands::REFILL } else { Commands::empty() }
    }
}

/// The worker's part.
#[derive(Debug)]
pub(super) struct WorkerRates {
    /// Sessions that have a rate of their own or are in a group, and one more if there is a rate for all: while it is 0
    /// nobody's rate has to be looked up.
    rated: Cell<usize>,
    /// How often a session was given nothing.
    throttled: Cell<u64>,
}

impl WorkerRates {
    pub(super) fn new(default: &RateLimit) -> Self {
        Self { rated: Cell::new(usize::from(!default.is_none())), throttled: Cell::new(0) }
    }

    /// Returns true if any session here has a rate to keep to.
    #[inline]
    pub(super) fn is_any(&self) -> bool {
        self.rated.get() > 0
    }

    /// A session, or all of them together, had a rate before as `had` says, and has one now as `has` says.
    pub(super) fn change(&self, had: bool, has: bool) {
        self.rated.set(self.rated.get() + usize::from(has) - usize::from(had));
    }

    pub(super) fn count(&self, grant: &Grant) {
        if grant.amount == 0 {
            self.throttled.set(self.throttled.get() + 1);
        }
    }

    /// How often a session was given nothing.
    pub(super) fn throttled(&self) -> u64 {
        self.throttled.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::Rate;

    fn lines(burst: u32) -> RateLimit {
        RateLimit { lines: Some(Rate { per_second: 10, burst }), bytes: None }
    }

    fn took(lines_in: u64) -> Counts {
        Counts { lines_in, ..Counts::default() }
    }

    fn ask(rates: &mut SessionRates, own: Option<&mut OwnRates>, default: &RateLimit, most: usize) -> usize {
        rates.grant(own, default, Unit::Lines, 0, most, || most).amount
    }

    #[test]
    fn a_session_that_was_given_nothing_is_told_once_that_there_is_more() {
        let default = lines(3);
        let mut rates = SessionRates::full(&default);
        assert_eq!(ask(&mut rates, None, &default, 5), 3);
        assert_eq!(rates.release(), Commands::empty(), "it had something");
        rates.spend(&took(3));
        assert_eq!(ask(&mut rates, None, &default, 5), 0);
        rates.refill(&default, 0, 250);
        assert_eq!((rates.release(), rates.release()), (Commands::REFILL, Commands::empty()));
        assert_eq!(ask(&mut rates, None, &default, 5), 2);
    }

    #[test]
    fn a_rate_of_its_own_holds_instead_of_the_default_and_setting_it_again_changes_nothing() {
        let (default, mut own) = (lines(3), OwnRates::default());
        assert!(own.is_none());
        let mut rates = SessionRates::full(&default);
        assert!(rates.set_own(&mut own, &default, lines(2)));
        assert!(!rates.set_own(&mut own, &default, lines(2)));
        assert!(!own.is_none());
        assert_eq!(ask(&mut rates, Some(&mut own), &default, 5), 2);
        rates.spend(&took(2));
        assert!(rates.set_own(&mut own, &default, lines(9)));
        assert_eq!(ask(&mut rates, Some(&mut own), &default, 5), 0, "what was spent stays spent");
    }

    #[test]
    fn a_group_is_joined_once_and_gets_back_what_is_not_used() {
        let (none, mut own) = (RateLimit::default(), OwnRates::default());
        let (group, other) = (RateGroup::new(lines(8)).unwrap(), RateGroup::new(lines(8)).unwrap());
        assert!(own.is_in(None) && !own.is_in(Some(&group)));
        own.set_group(Some(&group));
        assert!(own.is_in(Some(&group)) && !own.is_in(Some(&other)) && !own.is_in(None));
        let mut rates = SessionRates::full(&none);
        assert_eq!(ask(&mut rates, Some(&mut own), &none, 8), 8);
        own.give_back(Unit::Lines, 5);
        assert_eq!(ask(&mut rates, Some(&mut own), &none, 5), 5);
        assert_eq!(ask(&mut rates, Some(&mut own), &none, 5), 0);
        assert_eq!(rates.release(), Commands::REFILL);
    }

    #[test]
    fn rates_are_looked_up_only_while_there_are_some() {
        let rates = WorkerRates::new(&RateLimit::default());
        assert!(!rates.is_any());
        rates.change(false, true);
        rates.change(true, true);
        assert!(rates.is_any());
        rates.change(true, false);
        assert!(!rates.is_any());
        assert!(WorkerRates::new(&lines(1)).is_any());
        rates.count(&Grant::own(0));
        rates.count(&Grant::own(1));
        assert_eq!(rates.throttled(), 1);
    }
}
