//! Stats: a server's counters, and how far a drain is.
//!
//! Not here: who counts (`worker`, `control/admission`), who adds up (`control/supervisor`).

use std::{collections::BTreeMap, time::Duration};

use crate::report::CloseReport;

/// The server's counters. Consistent in themselves: `opened` is `live` and all of `closed`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Sessions since the start.
    pub opened: u64,
    /// Sessions now, those that linger included.
    pub live: u64,
    /// Sessions ended, by [`CloseReason::name`](crate::CloseReason::name).
    pub closed: BTreeMap<&'static str, u64>,
    /// Lines given to handlers, by the live and the ended.
    pub lines_in: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes that the kernel took.
    pub bytes_out: u64,
    /// Bytes written that the kernel never took, by the ended.
    pub unsent_bytes: u64,
    /// Bytes read that no handler saw, by the ended.
    pub undelivered_bytes: u64,
    /// Bytes that the kernel has yet to take, of the live.
    pub outbox_bytes: u64,
    /// Turns of sessions that ended with work left, because the other sessions of the worker come first.
    pub turns_cut: u64,
    /// How often a session had read as much as its rate allows and had to wait.
    pub throttled: u64,
    /// Connections that did not become sessions, by [`RefuseReason::name`](crate::RefuseReason::name).
    pub refused: BTreeMap<&'static str, u64>,
    /// Openings, ends and progress of drains that a subscriber had no room for, each counted for each subscriber.
    pub events_lost: u64,
}

/// What became of the sessions in a drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Sessions that ended by themselves, every byte sent.
    pub ended: u64,
    /// Sessions that we closed before their peers did, at the deadline or at the end of their linger time.
    pub cut: u64,
    /// From the request to the last end.
    pub duration: Duration,
}

/// How far a drain is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainProgress {
    /// Sessions that have ended by themselves so far.
    pub ended: u64,
    /// Sessions that were cut so far.
    pub cut: u64,
    /// Sessions that are left.
    pub left: u64,
    /// Since the request.
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
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let sum = |into: &mut BTreeMap<&'static str, u64>, from: &BTreeMap<&'static str, u64>| {
            from.iter().for_each(|(name, count)| *into.entry(name).or_default() += count);
        };
        self.opened += other.opened;
        self.live += other.live;
        sum(&mut self.closed, &other.closed);
        self.lines_in += other.lines_in;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.unsent_bytes += other.unsent_bytes;
        self.undelivered_bytes += other.undelivered_bytes;
        self.outbox_bytes += other.outbox_bytes;
        self.turns_cut += other.turns_cut;
        self.throttled += other.throttled;
        sum(&mut self.refused, &other.refused);
        self.events_lost += other.events_lost;
    }
}
