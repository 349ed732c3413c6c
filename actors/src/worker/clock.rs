//! Clock: the times of each session, and the timeouts that are over.
//!
//! A session has no timer. Its turns stamp its slot with the worker's clock, which moves once a sweep, and the sweep
//! compares. A stamp is never too early, so a timeout is never short.
//!
//! A sweep also finds out when the next one is needed. A worker on which nothing happens sleeps until then and its clock
//! stands; the first turn, opening, deadline or change of limits winds the clock and has it sweep on.
//! Not here: the sweep over all slots (`task`), the end of a session whose time is over (`session`).

use std::{cell::Cell, time::Duration};

use tokio::{sync::Notify, time::Instant};

use crate::{
    control::query::SessionState,
    limits::SessionLimits,
    worker::{command::Commands, lag::Lag, reports::Counts},
};

/// The time from one sweep to the next while the worker does not sleep. Deadlines are met within three times that.
pub(super) const SWEEP: Duration = Duration::from_millis(250);
/// A timer is late by so much at most: it is rounded up to a millisecond. That does not add up from sweep to sweep.
const TIMER_GRAIN: Duration = Duration::from_millis(3);
/// The time until something is due that never is, in milliseconds.
pub(super) const NEVER: u32 = u32::MAX;
const HOUR: u32 = 3_600_000;
/// The longest time without a sweep while there are sessions, in milliseconds.
const LONGEST_SLEEP: u32 = 6 * HOUR;
/// The longest time since a stamp, in milliseconds: a sweep moves older stamps on. Above any timeout, and a stamp that has
/// it outlasts the longest sleep before the clock wraps.
const LONGEST_TIME: u32 = (24 * 24 + 12) * HOUR;
/// Sweeps before a verdict on a session that has more to read: as many as it takes to read all that the largest receive
/// buffers hold.
const MOST_LOOKS: u8 = 16;

bitflags::bitflags! {
    /// The state in which a turn leaves a session, as far as the sweep needs it.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Standing: u8 {
        /// It reads on as far as its actor is concerned: not draining, not closing.
        const OPEN = 1;
        /// A line has begun.
        const PARTIAL = 1 << 1;
        /// Bytes, or the FIN, have yet to leave.
        const WRITING = 1 << 2;
        /// Idle and line clocks stand still: the session itself does not read.
        const STILL = 1 << 3;
        /// There was more to read than one turn reads.
        const READING = 1 << 4;
        /// Its end has begun. Set at once, and for good.
        const CLOSING = 1 << 5;
    }
}

impl Standing {
    /// Adds `other` if `holds`.
    pub(crate) fn with(self, other: Self, holds: bool) -> Self {
        if holds { self | other } else { self }
    }

    /// The state as queries know it.
    fn state(self) -> SessionState {
        if self.contains(Self::CLOSING) {
            SessionState::Closing
        } else if !self.contains(Self::OPEN) {
            SessionState::Draining
        } else if self.contains(Self::STILL) {
            SessionState::Held
        } else {
            SessionState::Open
        }
    }
}

/// Timeouts in milliseconds of the worker's clock; `u32::MAX` is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    idle: u32,
    line: u32,
    write: u32,
    age: Duration,
}

impl Timeouts {
    pub(super) fn new(limits: &SessionLimits) -> Self {
        let milliseconds = |timeout: Option<Duration>| {
            timeout.map_or(u32::MAX, |timeout| timeout.as_millis().try_into().unwrap_or(u32::MAX))
        };
        Self {
            idle: milliseconds(limits.idle_timeout),
            line: milliseconds(limits.line_timeout),
            write: milliseconds(limits.write_timeout),
            age: limits.max_age.unwrap_or(Duration::MAX),
        }
    }
}

/// One moment, on both clocks that slots have stamps of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// In milliseconds of the worker's clock.
    pub(super) stamp: u32,
    pub(super) instant: Instant,
}

impl Moment {
    /// Milliseconds since `stamp`; 0 if that is still to come. It may wrap: no timeout is longer than half of the clock.
    pub(super) fn since(self, stamp: u32) -> u32 {
        ahead(stamp, self.stamp)
    }

    /// Milliseconds until `stamp`; 0 if that has gone by.
    fn until(self, stamp: u32) -> u32 {
        ahead(self.stamp, stamp)
    }
}

/// Milliseconds by which `later` is behind `earlier`; 0 if it is not.
fn ahead(earlier: u32, later: u32) -> u32 {
    let elapsed = later.wrapping_sub(earlier);
    if elapsed > u32::MAX / 2 { 0 } else { elapsed }
}

/// One sweep, as it looks at a session's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sweep {
    pub(super) moment: Moment,
    /// The worker's clock at the sweep before this.
    pub(super) last: u32,
    pub(super) timeouts: Timeouts,
    /// Sessions that make no progress are told to ask the kernel how they get on.
    pub(super) probes: bool,
}

/// How a worker goes on behind its last sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Something has happened, so there is another sweep in time.
    Ticking,
    /// Nothing has happened yet.
    Quiet,
    /// There is no sweep before something is due, and the clock stands.
    Asleep,
}

/// The worker's part: its clock in milliseconds, which wraps after 49 days; deadlines are compared so that it may.
#[derive(Debug)]
pub(super) struct WorkerClock {
    epoch: Instant,
    /// The clock at the last sweep, or when it was wound behind a sleep.
    swept: Cell<u32>,
    pace: Cell<Pace>,
    /// The time at which something may be due, as far as the last sweep has come.
    due: Cell<Option<Instant>>,
    /// The time of the next sweep; `None` while there are no sessions.
    next: Cell<Option<Instant>>,
    /// Tells the worker's task that the next sweep is sooner than it knows.
    roused: Notify,
    /// Without a line timeout a byte counts as activity.
    bytes_count: Cell<bool>,
    /// Every second sweep probes.
    probes: Cell<bool>,
    lag: Lag,
    /// Sweeps so far.
    #[cfg(test)]
    pub(super) sweeps: Cell<usize>,
}

impl WorkerClock {
    pub(super) fn new(limits: &SessionLimits) -> Self {
        Self {
            // A clock that never shows 0, which stands for 'no deadline'.
            epoch: Instant::now() - Duration::from_millis(1),
            swept: Cell::new(0),
            pace: Cell::new(Pace::Asleep),
            due: Cell::new(None),
            next: Cell::new(None),
            roused: Notify::new(),
            bytes_count: Cell::new(limits.line_timeout.is_none()),
            probes: Cell::new(false),
            lag: Lag::new(Instant::now()),
            #[cfg(test)]
            sweeps: Cell::new(0),
        }
    }

    pub(super) fn set_limits(&self, limits: &SessionLimits) {
        self.bytes_count.set(limits.line_timeout.is_none());
        self.touch();
    }

    /// Milliseconds of this clock.
    fn now(&self) -> u32 {
        self.epoch.elapsed().as_millis() as u32
    }

    pub(super) fn moment(&self) -> Moment {
        Moment { stamp: self.now(), instant: Instant::now() }
    }

    /// Something happens to a session: the worker does not sleep before its next sweep.
    #[inline]
    pub(super) fn touch(&self) {
        if self.pace.get() != Pace::Ticking {
            self.rouse();
        }
    }

    #[cold]
    fn rouse(&self) {
        if self.pace.replace(Pace::Ticking) == Pace::Asleep {
            self.swept.set(self.now());
            self.next.set(Some(Instant::now() + SWEEP));
            self.roused.notify_one();
        }
    }

    /// Waits until the next sweep is sooner than [`next_sweep`](Self::next_sweep) has said.
    pub(super) async fn roused(&self) {
        self.roused.notified().await;
    }

    /// The time of the next sweep; `None` while there are no sessions.
    pub(super) fn next_sweep(&self) -> Option<Instant> {
        self.next.get()
    }

    /// A stamp that is not too early: the clock may be a sweep old.
    #[inline]
    pub(super) fn stamp(&self) -> u32 {
        self.touch();
        self.swept.get().wrapping_add(SWEEP.as_millis() as u32)
    }

    /// The clock at the last sweep.
    pub(super) fn swept(&self) -> u32 {
        self.swept.get()
    }

    /// Moves the clock on for a sweep. Returns the time of the sweep before it; behind a sleep, which has given no stamp,
    /// that of this one.
    pub(super) fn tick(&self) -> u32 {
        #[cfg(test)]
        self.sweeps.set(self.sweeps.get() + 1);
        self.probes.set(!self.probes.get());
        let now = self.now();
        let last = self.swept.replace(now);
        self.due.set(None);
        let begun = Instant::now();
        self.lag.note(self.next.get(), begun);
        let planned = self.next.get().filter(|next| (*next..*next + TIMER_GRAIN).contains(&begun));
        self.next.set(Some(planned.unwrap_or(begun) + SWEEP));
        if self.pace.replace(Pace::Quiet) == Pace::Asleep { now } else { last }
    }

    /// Returns how late the last sweep was, or the next one is, and the most of the last one or two minutes.
    pub(super) fn lag(&self) -> (Duration, Duration) {
        self.lag.get(self.next.get(), Instant::now())
    }

    /// Notes that something may be due so many milliseconds after the sweep at `moment`.
    pub(super) fn note_due(&self, moment: Moment, due: u32) {
        if due != NEVER {
            let at = moment.instant + Duration::from_millis(due.into());
            self.due.set(Some(self.due.get().map_or(at, |earliest| earliest.min(at))));
        }
    }

    /// Decides behind a sweep when the next one is: in time, or as late as nothing is due and nothing happens.
    pub(super) fn settle(&self) {
        let due = self.due.get();
        if self.pace.get() == Pace::Quiet && due.is_none_or(|due| Some(due) > self.next.get()) {
            self.pace.set(Pace::Asleep);
            self.next.set(due);
        }
    }

    /// The sweep at hand, `last` being the time of the one before it.
    pub(super) fn sweep(&self, last: u32, limits: &SessionLimits) -> Sweep {
        Sweep { moment: self.moment(), last, timeouts: Timeouts::new(limits), probes: self.probes.get() }
    }
}

/// A session's part.
#[derive(Debug)]
pub(super) struct SessionClock {
    opened: Instant,
    /// The end of a linger or wait, in milliseconds of the worker's clock; 0 is none.
    deadline: u32,
    /// When the last line was delivered or the next one began, in the same unit. While the clock stands still: for how long
    /// it had run by then.
    active: u32,
    /// When the peer last took something, in the same unit.
    progress: u32,
    standing: Standing,
    /// Sweeps in a row that found one of its timeouts over.
    looks: u8,
}

impl SessionClock {
    pub(super) fn new(worker: &WorkerClock) -> Self {
        Self {
            opened: Instant::now(),
            deadline: 0,
            active: worker.stamp(),
            progress: 0,
            standing: Standing::OPEN,
            looks: 0,
        }
    }

    /// Takes over the age of a session that began elsewhere.
    pub(super) fn resume(&mut self, opened: Option<Instant>) {
        self.opened = opened.unwrap_or(self.opened);
    }

    /// Books a turn.
    #[inline]
    pub(super) fn end_turn(&mut self, counts: &Counts, standing: Standing, worker: &WorkerClock) {
        let stamp = worker.stamp();
        let has_changed = self.standing ^ standing;
        let has_bytes = worker.bytes_count.get() && counts.bytes_in > 0;
        if counts.delivered || has_changed.contains(Standing::PARTIAL) || has_bytes {
            self.active = if standing.contains(Standing::STILL) { 0 } else { stamp };
        } else if has_changed.contains(Standing::STILL) {
            self.stop_or_go(stamp);
        }
        if standing.contains(Standing::WRITING) && (counts.bytes_out > 0 || has_changed.contains(Standing::WRITING)) {
            self.progress = stamp;
        }
        self.standing = standing | (self.standing & Standing::CLOSING);
    }

    /// Has the idle and line clocks stand still at `stamp`, or go on.
    #[cold]
    fn stop_or_go(&mut self, stamp: u32) {
        self.active = match self.standing.contains(Standing::STILL) {
            true => stamp.wrapping_sub(self.active),
            false => ahead(self.active, stamp),
        };
    }

    /// Starts the idle clock anew.
    pub(super) fn restart_idle(&mut self, worker: &WorkerClock) {
        let stamp = worker.stamp();
        self.active = if self.standing.contains(Standing::STILL) { 0 } else { stamp };
    }

    /// The peer was found to have taken something at `stamp`.
    pub(super) fn book_progress(&mut self, stamp: u32) {
        self.progress = stamp;
        self.looks = 0;
    }

    /// Returns true if the peer was just found to have taken something: nothing that was found before holds.
    pub(super) fn has_progress(&self) -> bool {
        self.looks == 0
    }

    pub(super) fn set_closing(&mut self) {
        self.standing.insert(Standing::CLOSING);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.standing.contains(Standing::CLOSING)
    }

    /// Returns true if the session does not read, or has something to write: limits may hold it back.
    pub(super) fn may_be_held_back(&self) -> bool {
        self.standing.intersects(Standing::STILL | Standing::WRITING)
    }

    pub(super) fn state(&self) -> SessionState {
        self.standing.state()
    }

    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    /// The time since its last line.
    pub(super) fn idle(&self, moment: Moment) -> Duration {
        let is_still = self.standing.contains(Standing::STILL);
        Duration::from_millis(if is_still { self.active } else { moment.since(self.active) }.into())
    }

    pub(super) fn set_deadline(&mut self, after: Duration, worker: &WorkerClock) {
        let after = u32::try_from(after.as_millis()).unwrap_or(u32::MAX / 2).min(u32::MAX / 2);
        worker.touch();
        self.deadline = worker.now().wrapping_add(after).max(1);
    }

    pub(super) fn has_deadline(&self) -> bool {
        self.deadline != 0
    }

    pub(super) fn clear_deadline(&mut self) {
        self.deadline = 0;
    }

    /// Sweeps: moves the stamps on, and returns the commands that are due. `overflows` says that the outbox has been
    /// above its soft limit for too long.
    pub(super) fn sweep(&mut self, sweep: &Sweep, overflows: bool) -> Commands {
        self.renew(sweep);
        let moment = sweep.moment;
        let is_stuck =
            self.standing.contains(Standing::WRITING) && moment.since(self.progress) >= SWEEP.as_millis() as u32;
        let mut commands = if is_stuck && sweep.probes { Commands::PROBE } else { Commands::empty() };
        let is_late = self.deadline != 0 && moment.stamp.wrapping_sub(self.deadline) < u32::MAX / 2;
        let overdue = self.overdue(&sweep.timeouts, moment);
        if !is_late && overdue.is_empty() && !overflows {
            self.looks = 0;
        } else if self.may_be_judged() {
            commands |= overdue;
            if is_late {
                self.deadline = 0;
                commands |= Commands::DEADLINE;
            }
            if overflows {
                commands |= Commands::OVERFLOW;
            }
        } else {
            commands |= Commands::LOOK;
        }
        commands
    }

    /// Moves the stamps on to a sweep that looks at them. Those that were given since the sweep before it are of a clock that
    /// this one moves on, which may have stood for as long as the process did.
    fn renew(&mut self, sweep: &Sweep) {
        let moment = sweep.moment;
        let given = sweep.last.wrapping_add(SWEEP.as_millis() as u32);
        let runs = !self.standing.contains(Standing::STILL);
        for stamp in [Some(&mut self.progress), Some(&mut self.active).filter(|_| runs)].into_iter().flatten() {
            if *stamp == given && moment.since(given) > 0 {
                *stamp = moment.stamp;
            } else if moment.since(*stamp) > LONGEST_TIME {
                *stamp = moment.stamp.wrapping_sub(LONGEST_TIME);
            }
        }
    }

    /// Milliseconds from a sweep over this session until it may need another one.
    pub(super) fn due(&self, sweep: &Sweep) -> u32 {
        // One whose time is over is judged. Output that waits is asked for, and may be above its soft limit for too long.
        if self.looks > 0 || self.standing.contains(Standing::WRITING) {
            return 0;
        }
        let mut due = LONGEST_SLEEP;
        if self.deadline != 0 {
            due = due.min(sweep.moment.until(self.deadline));
        }
        if self.standing.contains(Standing::OPEN) {
            let age = sweep.timeouts.age.saturating_sub(sweep.moment.instant - self.opened);
            due = due.min(u32::try_from(age.as_nanos().div_ceil(1_000_000)).unwrap_or(NEVER));
            let (_, timeout) = self.silence(&sweep.timeouts);
            if timeout != u32::MAX && !self.standing.contains(Standing::STILL) {
                due = due.min(sweep.moment.until(self.active.wrapping_add(timeout)));
            }
        }
        due
    }

    /// Returns true if a session whose time is up had its chance: since the sweep that found it first, the reactor was
    /// asked for events, and the session had a turn with them. It has another while it has more to read than one turn
    /// reads.
    fn may_be_judged(&mut self) -> bool {
        let looks = self.looks;
        self.looks = looks.saturating_add(1);
        looks > 0 && (!self.standing.contains(Standing::READING) || looks >= MOST_LOOKS)
    }

    /// The command of the timeout that is over; empty if none is.
    pub(super) fn overdue(&self, timeouts: &Timeouts, moment: Moment) -> Commands {
        if self.standing.contains(Standing::WRITING) && moment.since(self.progress) >= timeouts.write {
            return Commands::STALL;
        }
        if !self.standing.contains(Standing::OPEN) {
            return Commands::empty();
        }
        if moment.instant - self.opened >= timeouts.age {
            return Commands::AGE;
        }
        let (command, timeout) = self.silence(timeouts);
        let is_over = !self.standing.contains(Standing::STILL) && moment.since(self.active) >= timeout;
        if is_over { command } else { Commands::empty() }
    }

    /// The timeout that runs between lines or in one, and its command.
    fn silence(&self, timeouts: &Timeouts) -> (Commands, u32) {
        match self.standing.contains(Standing::PARTIAL) {
            true if timeouts.line != u32::MAX => (Commands::LINE, timeouts.line),
            _ => (Commands::IDLE, timeouts.idle),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u32 = 1000;
    const TIMEOUTS: Timeouts =
        Timeouts { idle: 10 * SECOND, line: 5 * SECOND, write: 20 * SECOND, age: Duration::from_secs(3600) };

    /// A session and the sweeps over it, at times in milliseconds.
    struct Swept {
        worker: WorkerClock,
        session: SessionClock,
        begin: Instant,
        now: u32,
    }

    impl Swept {
        /// A session that is opened at `begin` of the worker's clock.
        fn open(begin: u32) -> Self {
            let limits = crate::limits::Limits::default().session;
            let worker = WorkerClock::new(&limits);
            worker.swept.set(begin);
            worker.pace.set(Pace::Ticking);
            let session = SessionClock::new(&worker);
            Self { begin: session.opened, worker, session, now: begin }
        }

        fn turn(&mut self, counts: &Counts, standing: Standing) {
            self.session.end_turn(counts, standing, &self.worker);
        }

        /// Sweeps so many milliseconds after the last sweep.
        fn sweep(&mut self, after: u32) -> Commands {
            let last = self.worker.swept.get();
            self.now = self.now.wrapping_add(after);
            self.begin += Duration::from_millis(after.into());
            self.worker.swept.set(self.now);
            let moment = Moment { stamp: self.now, instant: self.begin };
            self.session.sweep(&Sweep { moment, last, timeouts: TIMEOUTS, probes: false }, false)
        }

        /// Sweeps on time until there are commands. Returns them and the milliseconds gone by.
        fn sweep_until_commands(&mut self) -> (Commands, u32) {
            let begin = self.now;
            for _ in 0..10_000 {
                let commands = self.sweep(250);
                if !commands.is_empty() {
                    return (commands, self.now.wrapping_sub(begin));
                }
            }
            panic!("no timeout is ever over");
        }
    }

    fn line() -> Counts {
        Counts { delivered: true, lines_in: 1, bytes_in: 6, bytes_out: 0 }
    }

    #[test]
    fn a_timeout_is_over_in_time_and_never_early_wherever_the_clock_is() {
        for begin in [1, 12_345, u32::MAX - 7_000, u32::MAX - 1] {
            for (standing, command, timeout) in [
                (Standing::OPEN, Commands::IDLE, TIMEOUTS.idle),
                (Standing::OPEN | Standing::PARTIAL, Commands::LINE, TIMEOUTS.line),
                (Standing::OPEN | Standing::WRITING | Standing::STILL, Commands::STALL, TIMEOUTS.write),
                (Standing::WRITING, Commands::STALL, TIMEOUTS.write),
            ] {
                let mut swept = Swept::open(begin);
                swept.turn(&line(), standing);
                // A sweep that is early finds stamps that are still to come.
                assert_eq!(swept.sweep(200), Commands::empty());
                // It is looked at once, and judged at the next sweep.
                let (commands, after) = swept.sweep_until_commands();
                let after = after + 200;
                assert_eq!(commands, Commands::LOOK, "{standing:?}");
                assert!((timeout..=timeout + 500).contains(&after), "{command:?} after {after} ms");
                assert_eq!(swept.sweep(250), command);
            }
        }
    }

    /// The sweep that finds things as they are at the last one.
    fn at_last(swept: &Swept) -> Sweep {
        let moment = Moment { stamp: swept.now, instant: swept.begin };
        Sweep { moment, last: swept.now, timeouts: TIMEOUTS, probes: false }
    }

    #[test]
    fn a_sweep_says_to_the_millisecond_when_something_is_due() {
        let minute = Duration::from_secs(60);
        for begin in [1, u32::MAX - 7_000] {
            for (standing, deadline, timeout) in [
                (Standing::OPEN, None, TIMEOUTS.idle),
                (Standing::OPEN | Standing::PARTIAL, None, TIMEOUTS.line),
                (Standing::OPEN | Standing::STILL, None, 3600 * SECOND),
                (Standing::OPEN, Some(7 * SECOND), 7 * SECOND),
                (Standing::CLOSING, Some(7 * SECOND), 7 * SECOND),
                (Standing::CLOSING, None, LONGEST_SLEEP),
            ] {
                let mut swept = Swept::open(begin);
                swept.turn(&line(), standing);
                swept.session.deadline = deadline.map_or(0, |after| begin.wrapping_add(after).max(1));
                assert_eq!(swept.sweep(250), Commands::empty());
                let due = swept.session.due(&at_last(&swept));
                assert!(due.abs_diff(timeout) <= 250, "{standing:?}: {due}");
                assert_eq!(swept.sweep(due - 1), Commands::empty(), "{standing:?}");
                if due < LONGEST_SLEEP {
                    assert_eq!(swept.session.due(&at_last(&swept)), 1);
                    assert_eq!(swept.sweep(1), Commands::LOOK, "{standing:?}");
                    assert_eq!(swept.session.due(&at_last(&swept)), 0, "it is judged");
                    assert_ne!(swept.sweep(250), Commands::LOOK, "{standing:?}");
                    assert_eq!(swept.session.due(&at_last(&swept)), 0, "the next time there is a look again");
                }
            }
        }
        let mut swept = Swept::open(1);
        swept.turn(&line(), Standing::OPEN | Standing::WRITING);
        assert_eq!(swept.session.due(&at_last(&swept)), 0, "output that waits");
        swept.begin += minute + Duration::from_nanos(1);
        swept.turn(&line(), Standing::OPEN | Standing::STILL);
        assert_eq!(swept.session.due(&at_last(&swept)), 59 * 60 * SECOND, "of an age, what has begun counts");
    }

    #[test]
    fn a_worker_sleeps_until_something_is_due_unless_something_happens() {
        let worker = WorkerClock::new(&crate::limits::Limits::default().session);
        let until = |due: u32| {
            let _ = worker.tick();
            let moment = worker.moment();
            worker.note_due(moment, 5000);
            worker.note_due(moment, due);
            worker.note_due(moment, NEVER);
            worker.settle();
            worker.next_sweep().unwrap() - moment.instant
        };
        assert_eq!(worker.next_sweep(), None, "there are no sessions");
        worker.touch();
        assert!(worker.next_sweep().is_some());
        assert_eq!((until(3000), worker.pace.get()), (Duration::from_secs(3), Pace::Asleep));
        assert!(until(0) <= SWEEP && worker.pace.get() == Pace::Quiet);
        // Behind a sleep the clock is wound.
        let _ = until(3000);
        let before = u32::MAX / 2;
        worker.swept.set(before);
        assert!(worker.stamp() != before + 250 && worker.swept() != before && worker.pace.get() == Pace::Ticking);
        assert!(worker.next_sweep().unwrap() <= Instant::now() + SWEEP);
        // What happens in the middle of a sweep keeps it from sleeping.
        let _ = worker.tick();
        worker.touch();
        worker.settle();
        assert!(worker.next_sweep().is_some() && worker.pace.get() == Pace::Ticking);
        let _ = worker.tick();
        worker.settle();
        assert_eq!((worker.next_sweep(), worker.pace.get()), (None, Pace::Asleep));
    }

    #[test]
    fn a_sweep_behind_a_sleep_does_not_take_it_for_a_standstill() {
        let worker = WorkerClock::new(&crate::limits::Limits::default().session);
        worker.touch();
        let _ = worker.tick();
        worker.settle();
        worker.swept.set(worker.swept().wrapping_sub(1_000_000));
        assert_eq!(worker.tick(), worker.swept(), "no time to be made good for");
        let last = worker.swept().wrapping_sub(1_000_000);
        worker.swept.set(last);
        assert_eq!(worker.tick(), last, "a late sweep");
    }

    #[test]
    fn the_age_counts_whatever_the_session_does() {
        let mut swept = Swept::open(1);
        for _ in 1..4 * 3600 {
            swept.turn(&line(), Standing::OPEN | Standing::STILL);
            assert_eq!(swept.sweep(250), Commands::empty());
        }
        assert_eq!(swept.sweep(250), Commands::LOOK);
        assert_eq!(swept.sweep(250), Commands::AGE);
    }

    #[test]
    fn idle_and_line_clocks_stand_still_while_the_session_does_not_read() {
        for (begin, standing) in [(1, Standing::OPEN), (u32::MAX - 7_000, Standing::OPEN | Standing::PARTIAL)] {
            let mut swept = Swept::open(begin);
            swept.turn(&line(), standing | Standing::STILL);
            for _ in 0..4000 {
                assert_eq!(swept.sweep(250), Commands::empty());
            }
            for _ in 0..2 {
                let idle = swept.session.idle(Moment { stamp: swept.now, instant: swept.begin });
                assert!(idle < Duration::from_millis(500), "{idle:?}");
                swept.session.restart_idle(&swept.worker);
                assert_eq!(swept.sweep(250), Commands::empty());
            }
            swept.turn(&Counts::default(), standing);
            let (_, after) = swept.sweep_until_commands();
            assert!(after + 500 >= if standing == Standing::OPEN { TIMEOUTS.idle } else { TIMEOUTS.line });
        }
    }

    #[test]
    fn a_session_with_more_to_read_is_looked_at_sixteen_times_before_a_verdict() {
        let mut swept = Swept::open(1);
        swept.turn(&line(), Standing::OPEN | Standing::READING);
        let _ = swept.sweep_until_commands();
        for _ in 1..MOST_LOOKS {
            assert_eq!(swept.sweep(250), Commands::LOOK);
        }
        assert_eq!(swept.sweep(250), Commands::IDLE);
    }

    #[test]
    fn a_session_that_was_served_at_a_look_is_not_judged() {
        let mut swept = Swept::open(1);
        swept.turn(&line(), Standing::OPEN);
        assert_eq!(swept.sweep_until_commands().0, Commands::LOOK);
        swept.turn(&line(), Standing::OPEN);
        let (commands, after) = swept.sweep_until_commands();
        assert_eq!(commands, Commands::LOOK, "it begins anew");
        assert!(after >= TIMEOUTS.idle);
    }

    #[test]
    fn a_session_that_stays_is_looked_at_before_each_verdict() {
        let mut swept = Swept::open(1);
        swept.turn(&line(), Standing::OPEN);
        for _ in 0..3 {
            let (commands, after) = swept.sweep_until_commands();
            assert_eq!(commands, Commands::LOOK);
            assert!(after >= TIMEOUTS.idle, "{after}");
            assert_eq!(swept.sweep(250), Commands::IDLE);
            swept.session.restart_idle(&swept.worker);
            swept.turn(&Counts::default(), Standing::OPEN);
        }
    }

    #[test]
    fn time_for_which_the_process_stood_still_does_not_count_for_who_was_served_behind_it() {
        let mut swept = Swept::open(1);
        swept.turn(&line(), Standing::OPEN | Standing::WRITING);
        swept.session.book_progress(swept.worker.stamp());
        // All of it between two sweeps, and the turn was behind it: its stamps are of a clock that had yet to move.
        assert_eq!(swept.sweep(3 * TIMEOUTS.write), Commands::empty());
        let (_, after) = swept.sweep_until_commands();
        assert!(after >= TIMEOUTS.idle, "{after}");
    }

    #[test]
    fn a_deadline_is_said_once() {
        let mut swept = Swept::open(1);
        swept.session.end_turn(&Counts::default(), Standing::CLOSING, &swept.worker);
        swept.session.deadline = swept.now + 600;
        assert_eq!(swept.sweep(250), Commands::empty());
        assert_eq!(swept.sweep(250), Commands::empty());
        assert_eq!(swept.sweep(250), Commands::LOOK);
        assert_eq!(swept.sweep(250), Commands::DEADLINE);
        for _ in 0..1000 {
            assert_eq!(swept.sweep(250), Commands::empty());
        }
    }

    #[test]
    fn output_that_makes_no_progress_is_asked_for_when_the_sweep_probes() {
        let mut swept = Swept::open(1);
        swept.turn(&line(), Standing::OPEN | Standing::WRITING);
        let _ = (swept.sweep(250), swept.sweep(250));
        let moment = Moment { stamp: swept.now, instant: swept.begin };
        let sweep = |probes| Sweep { moment, last: swept.now, timeouts: TIMEOUTS, probes };
        assert_eq!(swept.session.sweep(&sweep(true), false), Commands::PROBE);
        assert_eq!(swept.session.sweep(&sweep(false), false), Commands::empty());
        swept.session.book_progress(swept.now);
        assert_eq!(swept.session.sweep(&sweep(true), false), Commands::empty());
    }

    #[test]
    fn the_state_that_queries_see() {
        let mut swept = Swept::open(1);
        assert_eq!(swept.session.state(), SessionState::Open);
        swept.turn(&line(), Standing::OPEN | Standing::STILL);
        assert_eq!(swept.session.state(), SessionState::Held);
        swept.turn(&line(), Standing::STILL);
        assert_eq!(swept.session.state(), SessionState::Draining);
        swept.session.set_closing();
        assert_eq!(swept.session.state(), SessionState::Closing);
        swept.turn(&line(), Standing::WRITING);
        assert_eq!(swept.session.state(), SessionState::Closing, "for good");
        assert!(swept.session.may_be_held_back());
    }
}
