//! Stats: what a node has asked its store, and what has come of it.
//!
//! Not here: counting (whoever does a thing), metrics of it (`metrics`).

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use crate::{
    cluster::{health::Health, id::NodeId, rooms::table::RoomCounts, store::StoreError},
    control::histogram::{ANSWER_TIMES, Histogram},
};

/// Counters of one node of a cluster, from its start.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ClusterStats {
    /// What the node knows of its store.
    pub health: Health,
    /// The node's life; `None` while it holds no lease.
    pub node: Option<NodeId>,
    /// Time until its lease is over unless it is renewed; `None` while it holds none.
    #[serde(serialize_with = "crate::seconds::if_any")]
    pub lease_left: Option<Duration>,
    /// Calls to the store.
    pub calls: StoreCalls,
    /// Time since the store last answered; `None` if it never did.
    #[serde(serialize_with = "crate::seconds::if_any")]
    pub last_answer: Option<Duration>,
    /// Times from calls to their answers, errors of the store included, but not those that were never answered.
    pub call_times: Histogram,
    /// Lives begun: one, and one more for each lease that was lost.
    pub lives: u64,
    /// Leases lost: the store said so, or it could not be renewed in time.
    pub times_fenced: u64,
    /// Rows written to the store, those written again included.
    pub rows_written: u64,
    /// Rows removed from the store.
    pub rows_removed: u64,
    /// Number of times that all sessions were compared with what the store has: at the beginning of each life, and when events
    /// were lost.
    pub resyncs: u64,
    /// Events of sessions that were lost, as far as is known.
    pub events_lost: u64,
    /// Sessions that the store has let in: those to which a [limit](crate::cluster::FleetLimits) over all nodes applies.
    pub admitted: u64,
    /// Sessions that were let in by this node's own counts alone, because the store was lost or slow. All nodes together may have
    /// more than a limit allows then.
    pub admitted_blind: u64,
    /// Resources of limits and claims whose counts the store does not know yet.
    pub shares_untold: u64,
    /// Subscriptions opened: one, and one more for each that was lost or deaf.
    pub subscriptions: u64,
    /// Number of times that the subscription was found deaf.
    pub times_deaf: u64,
    /// Probes that the node has published to itself.
    pub probes: u64,
    /// Probes that did not come back.
    pub probes_lost: u64,
    /// Messages that have come by the subscription, probes included.
    pub messages: u64,
    /// Messages that there was no room for: their readers did not keep up, or the node itself. Those of the node are not in
    /// [`messages`](Self::messages), and counted within some 2 s.
    pub messages_dropped: u64,
    /// Messages of channels that nobody reads any more.
    pub messages_unread: u64,
    /// Requests to other nodes, one for each node that a push or a kick has asked.
    pub asked: u64,
    /// Requests to other nodes that were not answered in time.
    pub asks_timed_out: u64,
    /// Answers of other nodes that came too late.
    pub answers_late: u64,
    /// Requests of other nodes.
    pub requests: u64,
    /// Requests of other nodes that came a second time, and were not done again.
    pub requests_again: u64,
    /// Sessions that were aborted because they had not ended within
    /// [`kick_timeout`](crate::cluster::ClusterBuilder::kick_timeout) of a kick over nodes.
    pub kicks_cut: u64,
    /// Messages between nodes that are not understood: of another program, or of a later version.
    pub messages_unknown: u64,
    /// Entries of the store that are not understood and were left out, one for each time that one was met: of another program, or
    /// of a later version.
    pub entries_unknown: u64,
    /// Counters of the messages of all rooms that the node has shared.
    pub rooms: RoomCounts,
}

/// Calls to the store, by their results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StoreCalls {
    /// All that have ended.
    pub total: u64,
    /// The store was not reached.
    pub lost: u64,
    /// It did not answer in time.
    pub slow: u64,
    /// It refused.
    pub refused: u64,
    /// Its answer made no sense.
    pub garbled: u64,
    /// The lease was over.
    pub fenced: u64,
    /// A later call was done already.
    pub late: u64,
}

/// A counter that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The counters of a node.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    calls: Mutex<Booked>,
    pub(crate) lives: Count,
    pub(crate) times_fenced: Count,
    pub(crate) rows_written: Count,
    pub(crate) rows_removed: Count,
    pub(crate) resyncs: Count,
    pub(crate) events_lost: Count,
    pub(crate) admitted: Count,
    pub(crate) admitted_blind: Count,
    pub(crate) subscriptions: Count,
    pub(crate) times_deaf: Count,
    pub(crate) probes: Count,
    pub(crate) probes_lost: Count,
    pub(crate) messages: Count,
    pub(crate) messages_dropped: Count,
    pub(crate) messages_unread: Count,
    pub(crate) asked: Count,
    pub(crate) asks_timed_out: Count,
    pub(crate) answers_late: Count,
    pub(crate) requests: Count,
    pub(crate) requests_again: Count,
    pub(crate) messages_unknown: Count,
    pub(crate) kicks_cut: Count,
}

#[derive(Debug, Default)]
struct Booked {
    calls: StoreCalls,
    times: Histogram,
    last_answer: Option<Instant>,
}

impl Counts {
    fn booked(&self) -> std::sync::MutexGuard<'_, Booked> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Books a call that has ended now.
    pub(crate) fn book(&self, sent: Instant, error: Option<&StoreError>) {
        let now = Instant::now();
        let mut booked = self.booked();
        let calls = &mut booked.calls;
        calls.total += 1;
        match error {
            None => {}
            Some(StoreError::Lost { .. }) => calls.lost += 1,
            Some(StoreError::Slow { .. }) => calls.slow += 1,
            Some(StoreError::Refused { .. }) => calls.refused += 1,
            Some(StoreError::Garbled { .. }) => calls.garbled += 1,
            Some(StoreError::Fenced) => calls.fenced += 1,
            Some(StoreError::Late) => calls.late += 1,
        }
        if !matches!(error, Some(StoreError::Lost { .. } | StoreError::Slow { .. })) {
            booked.times.record(ANSWER_TIMES, now - sent);
            booked.last_answer = Some(now);
        }
    }

    pub(crate) fn stats(
        &self,
        health: Health,
        node: Option<NodeId>,
        lease_left: Option<Duration>,
        rooms: RoomCounts,
    ) -> ClusterStats {
        let booked = self.booked();
        ClusterStats {
            health,
            node,
            lease_left,
            calls: booked.calls,
            last_answer: booked.last_answer.map(|last| last.elapsed()),
            call_times: booked.times.clone(),
            lives: self.lives.get(),
            times_fenced: self.times_fenced.get(),
            rows_written: self.rows_written.get(),
            rows_removed: self.rows_removed.get(),
            resyncs: self.resyncs.get(),
            events_lost: self.events_lost.get(),
            admitted: self.admitted.get(),
            admitted_blind: self.admitted_blind.get(),
            shares_untold: 0,
            subscriptions: self.subscriptions.get(),
            times_deaf: self.times_deaf.get(),
            probes: self.probes.get(),
            probes_lost: self.probes_lost.get(),
            messages: self.messages.get(),
            messages_dropped: self.messages_dropped.get(),
            messages_unread: self.messages_unread.get(),
            asked: self.asked.get(),
            asks_timed_out: self.asks_timed_out.get(),
            answers_late: self.answers_late.get(),
            requests: self.requests.get(),
            requests_again: self.requests_again.get(),
            messages_unknown: self.messages_unknown.get(),
            kicks_cut: self.kicks_cut.get(),
            entries_unknown: 0,
            rooms,
        }
    }
}
