//! Stats: a server's counters, and the progress of a drain.
//!
//! Not here: counting (`worker`, `control/admission`), adding up (`control/supervisor`).

use std::{collections::BTreeMap, time::Duration};

use crate::{connection::ListenerId, report::CloseReport};

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
    /// Connections that did not become sessions, by [`RefuseReason::name`](crate::control::RefuseReason::name).
    pub refused: BTreeMap<&'static str, u64>,
}

/// The result of a drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DrainReport {
    /// Sessions that ended by themselves, every byte sent.
    pub ended: u64,
    /// Sessions closed before their peers closed, at the deadline or at the end of their linger time.
    pub cut: u64,
    /// Time from the request to the last end.
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
    /// Time since the request.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::seconds::serialize"))]
    pub duration: Duration,
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
        if let Some(listener) = report.listener {
            self.listeners.entry(listener).or_default().count(report);
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.live += other.live;
        self.prefaces += other.prefaces;
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
        sum(&mut self.refused, &other.refused);
        self.events_lost += other.events_lost;
        for (id, listener) in &other.listeners {
            self.listeners.entry(*id).or_default().add(listener);
        }
        self.former_listeners.add(&other.former_listeners);
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
    }

    fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.live += other.live;
        self.prefaces += other.prefaces;
        sum(&mut self.closed, &other.closed);
        self.lines_in += other.lines_in;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.unsent_bytes += other.unsent_bytes;
        self.undelivered_bytes += other.undelivered_bytes;
        self.outbox_bytes += other.outbox_bytes;
        self.add_refused(&other.refused);
    }

    pub(crate) fn add_refused(&mut self, refused: &BTreeMap<&'static str, u64>) {
        sum(&mut self.refused, refused);
    }
}

fn sum(into: &mut BTreeMap<&'static str, u64>, from: &BTreeMap<&'static str, u64>) {
    from.iter().for_each(|(name, count)| *into.entry(name).or_default() += count);
}
