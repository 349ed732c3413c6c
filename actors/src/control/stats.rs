//! Stats: a server's counters, and the progress of a drain.
//!
//! Not here: counting (`worker`, `control/admission`), adding up (`control/supervisor`).

use std::{collections::BTreeMap, time::Duration};

use crate::{
    connection::ListenerId,
    control::histogram::{ANSWER_TIMES, Histogram, SESSION_TIMES},
    report::CloseReport,
};

/// A server's counters. They are consistent: `opened` is the sum of `live` and all of `closed`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// Sessions admitted since the start.
    pub opened: u64,
    /// Live sessions, lingering ones included.
    pub live: u64,
    /// Live sessions whose filters wait for their peers' handshakes.
    pub prefaces: u64,
    /// Live sessions that read nothing more for now: see [`SessionState::Held`](crate::control::SessionState::Held).
    pub held: u64,
    /// Ended sessions, by [`CloseReason::name`](crate::CloseReason::name).
    pub closed: BTreeMap<&'static str, u64>,
    /// Lines delivered to handlers, of live and ended sessions.
    pub lines_in: u64,
    /// Bytes read from peers, of live and ended sessions.
    pub bytes_in: u64,
    /// Bytes taken by the kernel, of live and ended sessions.
    pub bytes_out: u64,
    /// Bytes written that the kernel never took, of ended sessions.
    pub unsent_bytes: u64,
    /// Bytes read that were never delivered to a handler, of ended sessions.
    pub undelivered_bytes: u64,
    /// Bytes not yet taken by the kernel, of live sessions.
    pub outbox_bytes: u64,
    /// Turns of sessions that ended with work left, to let other sessions of the worker run.
    pub turns_cut: u64,
    /// Turns of sessions that took at least [`LineServer::slow_turn`](crate::LineServer::slow_turn), while the worker's
    /// other sessions waited.
    pub slow_turns: u64,
    /// Total time of these turns.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::seconds::serialize"))]
    pub slow_turn_time: Duration,
    /// Times that a session had read as much as its rate allows, and had to wait.
    pub throttled: u64,
    /// How long sessions lasted, of ended sessions.
    pub session_durations: Histogram,
    /// How long peers waited for answers, where [`LineServer::measure_answers`](crate::LineServer::measure_answers) is on.
    pub answer_times: Histogram,
    /// Memory of the buffers of live sessions.
    pub memory: MemoryStats,
    /// The counters of each worker's thread, by its number.
    pub workers: Vec<WorkerStats>,
    /// Connections that did not become sessions, by [`RefuseReason::name`](crate::control::RefuseReason::name).
    pub refused: BTreeMap<&'static str, u64>,
    /// Events that a subscriber's mailbox had no room for: each session in a batch and each progress of a drain counts
    /// as one, for each subscriber.
    pub events_lost: u64,
    /// The counters of each listener: of those that the server has, of those that were removed and still have sessions, and
    /// of the 64 that ended last of all others.
    pub listeners: BTreeMap<ListenerId, ListenerStats>,
    /// The sum of the counters of all listeners that ended before those. With it the counters of listeners add up to those
    /// of the server, except for sessions that came without a listener.
    pub former_listeners: ListenerStats,
}

/// Memory of the buffers of live sessions: input and output that waits, and what their filters hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MemoryStats {
    /// Bytes held.
    pub bytes: u64,
    /// The [`memory_budget`](crate::limits::LimitsBuilder::memory_budget), in bytes. Above it sessions are
    /// [evicted](crate::CloseReason::Evicted).
    pub budget: Option<u64>,
}

/// The counters of the sessions on one thread of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WorkerStats {
    /// Number of the thread, from 0: [`SessionInfo::worker`](crate::control::SessionInfo::worker).
    pub worker: usize,
    /// Live sessions, lingering ones included.
    pub live: u64,
    /// Live sessions whose filters wait for their peers' handshakes.
    pub prefaces: u64,
    /// Live sessions that read nothing more for now.
    pub held: u64,
    /// Bytes in the buffers of live sessions.
    pub memory_bytes: u64,
    /// Time by which the last sweep over all sessions ran late, if it ran within a second; if the next one is overdue by
    /// more, that time. A sweep is due every 250 ms while anything happens, by a timer of milliseconds: some of these are
    /// usual. More is time in which no session of the thread had a turn, and timeouts are late by as much.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::seconds::serialize"))]
    pub lag: Duration,
    /// The most that a sweep was late in the last one or two minutes.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::seconds::serialize"))]
    pub max_lag: Duration,
    /// How long turns of sessions took, by a clock that moves every 1 to 10 ms: most count as 0, and the sum is right all
    /// the same. Its rate is the part of the time that sessions kept the thread busy. Empty if
    /// [`slow_turn`](crate::LineServer::slow_turn) is `None`.
    pub turn_times: Histogram,
    /// Turns that ended with work left, to let other sessions of the thread run.
    pub turns_cut: u64,
    /// Turns that took at least [`LineServer::slow_turn`](crate::LineServer::slow_turn).
    pub slow_turns: u64,
    /// Total time of these turns.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::seconds::serialize"))]
    pub slow_turn_time: Duration,
    /// Times that a session had read as much as its rate allows, and had to wait.
    pub throttled: u64,
}

/// The counters of a listener, of all workers and for as long as it has its number. They are consistent with each other
/// and with [`Stats`]: `opened` is the sum of `live` and all of `closed`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ListenerStats {
    /// Sessions admitted since it was added.
    pub opened: u64,
    /// Live sessions, lingering ones included.
    pub live: u64,
    /// Live sessions whose filters wait for their peers' handshakes.
    pub prefaces: u64,
    /// Live sessions that read nothing more for now: see [`SessionState::Held`](crate::control::SessionState::Held).
    pub held: u64,
    /// Ended sessions, by [`CloseReason::name`](crate::CloseReason::name).
    pub closed: BTreeMap<&'static str, u64>,
    /// Lines delivered to handlers, of live and ended sessions.
    pub lines_in: u64,
    /// Bytes read from peers, of live and ended sessions.
    pub bytes_in: u64,
    /// Bytes taken by the kernel, of live and ended sessions.
    pub bytes_out: u64,
    /// Bytes written that the kernel never took, of ended sessions.
    pub unsent_bytes: u64,
    /// Bytes read that were never delivered to a handler, of ended sessions.
    pub undelivered_bytes: u64,
    /// Bytes not yet taken by the kernel, of live sessions.
    pub outbox_bytes: u64,
    /// How long sessions lasted, of ended sessions.
    pub session_durations: Histogram,
    /// How long peers waited for answers, where [`LineServer::measure_answers`](crate::LineServer::measure_answers) is on.
    pub answer_times: Histogram,
    /// Connections that did not become sessions, by [`RefuseReason::name`](crate::control::RefuseReason::name).
    pub refused: BTreeMap<&'static str, u64>,
}

/// The result of a drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DrainReport {
    /// Sessions that ended by themselves, every byte sent; and [checks](crate::CloseReason::Probe) of proxies that had said nothing.
    pub ended: u64,
    /// Sessions closed before their peers closed, at the deadline or at the end of their linger time.
    pub cut: u64,
    /// Time from the beginning to the last end.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::seconds::serialize"))]
    pub duration: Duration,
}

/// Progress of a drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DrainProgress {
    /// Sessions that have ended by themselves so far.
    pub ended: u64,
    /// Sessions that were cut so far.
    pub cut: u64,
    /// Sessions that have not ended yet.
    pub left: u64,
    /// Time since its beginning.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::seconds::serialize"))]
    pub duration: Duration,
    /// Time until its beginning, if that is yet to come: see [`Drain::delay`](crate::control::Drain::delay).
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::seconds::serialize"))]
    pub begins_in: Duration,
}

impl DrainProgress {
    /// Returns false while the drain is only announced: its [`delay`](crate::control::Drain::delay) is not over, and whoever
    /// comes is served.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begins_in.is_zero()
    }
}

impl Stats {
    /// Counts a session that has ended.
    pub(crate) fn count(&mut self, report: &CloseReport) {
        self.opened += 1;
        *self.closed.entry(report.reason.name()).or_default() += 1;
        self.lines_in += report.lines_in;
        self.bytes_in += report.bytes_in;
        self.bytes_out += report.bytes_out;
        self.unsent_bytes += report.unsent_bytes;
        self.undelivered_bytes += report.undelivered_bytes;
        self.session_durations.record(SESSION_TIMES, report.duration);
        if let Some(listener) = report.listener {
            self.listeners.entry(listener).or_default().count(report);
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.live += other.live;
        self.prefaces += other.prefaces;
        self.held += other.held;
        sum(&mut self.closed, &other.closed);
        self.lines_in += other.lines_in;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.unsent_bytes += other.unsent_bytes;
        self.undelivered_bytes += other.undelivered_bytes;
        self.outbox_bytes += other.outbox_bytes;
        self.turns_cut += other.turns_cut;
        self.slow_turns += other.slow_turns;
        self.slow_turn_time += other.slow_turn_time;
        self.throttled += other.throttled;
        self.session_durations.add(&other.session_durations);
        self.answer_times.add(&other.answer_times);
        self.memory.bytes += other.memory.bytes;
        other.workers.iter().for_each(|worker| self.add_worker(worker));
        sum(&mut self.refused, &other.refused);
        self.events_lost += other.events_lost;
        for (id, listener) in &other.listeners {
            self.listeners.entry(*id).or_default().add(listener);
        }
        self.former_listeners.add(&other.former_listeners);
    }

    /// Adds a worker to the others of its thread: there is one for each set of limits.
    fn add_worker(&mut self, worker: &WorkerStats) {
        match self.workers.binary_search_by_key(&worker.worker, |known| known.worker) {
            Ok(known) => self.workers[known].add(worker),
            Err(place) => self.workers.insert(place, worker.clone()),
        }
    }

    /// Counts an answer that took so long.
    pub(crate) fn count_answer(&mut self, listener: Option<ListenerId>, time: Duration) {
        self.answer_times.record(ANSWER_TIMES, time);
        if let Some(listener) = listener {
            self.listeners.entry(listener).or_default().answer_times.record(ANSWER_TIMES, time);
        }
    }

    /// Adds the counters of the listeners that are not to be kept to those of former ones.
    pub(crate) fn sum_up(&mut self, is_kept: impl Fn(ListenerId) -> bool) {
        let former = &mut self.former_listeners;
        self.listeners.retain(|id, listener| {
            let is_kept = is_kept(*id);
            if !is_kept {
                former.add(listener);
            }
            is_kept
        });
    }

    /// Sums up the refused connections of all listeners.
    pub(crate) fn sum_refused(&mut self) {
        self.refused = BTreeMap::new();
        let listeners = self.listeners.values().chain([&self.former_listeners]);
        listeners.for_each(|listener| sum(&mut self.refused, &listener.refused));
    }
}

impl WorkerStats {
    fn add(&mut self, other: &Self) {
        self.live += other.live;
        self.prefaces += other.prefaces;
        self.held += other.held;
        self.memory_bytes += other.memory_bytes;
        self.lag = self.lag.max(other.lag);
        self.max_lag = self.max_lag.max(other.max_lag);
        self.turn_times.add(&other.turn_times);
        self.turns_cut += other.turns_cut;
        self.slow_turns += other.slow_turns;
        self.slow_turn_time += other.slow_turn_time;
        self.throttled += other.throttled;
    }
}

impl ListenerStats {
    /// Counts a session that has ended.
    fn count(&mut self, report: &CloseReport) {
        self.opened += 1;
        *self.closed.entry(report.reason.name()).or_default() += 1;
        self.lines_in += report.lines_in;
        self.bytes_in += report.bytes_in;
        self.bytes_out += report.bytes_out;
        self.unsent_bytes += report.unsent_bytes;
        self.undelivered_bytes += report.undelivered_bytes;
        self.session_durations.record(SESSION_TIMES, report.duration);
    }

    fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.live += other.live;
        self.prefaces += other.prefaces;
        self.held += other.held;
        sum(&mut self.closed, &other.closed);
        self.lines_in += other.lines_in;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.unsent_bytes += other.unsent_bytes;
        self.undelivered_bytes += other.undelivered_bytes;
        self.outbox_bytes += other.outbox_bytes;
        self.session_durations.add(&other.session_durations);
        self.answer_times.add(&other.answer_times);
        self.add_refused(&other.refused);
    }

    pub(crate) fn add_refused(&mut self, refused: &BTreeMap<&'static str, u64>) {
        sum(&mut self.refused, refused);
    }
}

fn sum(into: &mut BTreeMap<&'static str, u64>, from: &BTreeMap<&'static str, u64>) {
    from.iter().for_each(|(name, count)| *into.entry(name).or_default() += count);
}
