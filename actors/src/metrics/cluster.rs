//! Cluster: the metrics of a node of a cluster, as they are at one moment.
//!
//! Labels are states and results, never nodes, sessions or rooms.
//! Not here: counting (`cluster`).

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    registry::Unit::{self, Seconds},
};

use crate::{
    cluster::{
        builder::Cluster,
        stats::{ClusterStats, StoreCalls},
    },
    control::histogram::ANSWER_TIMES,
    metrics::families::{About, Families},
};

/// The names of all states, of which one is 1.
const STATES: [&str; 5] = ["starting", "connected", "deaf", "lost", "ended"];

/// A node at one moment.
#[derive(Debug)]
pub(super) struct Node(ClusterStats);

impl Node {
    pub(super) fn of(cluster: &Cluster) -> Self {
        Self(cluster.stats())
    }
}

fn about(name: &'static str, unit: Option<&'static Unit>, help: &'static str) -> About {
    About { name, unit, help }
}

impl Collector for Node {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stats = &self.0;
        let families = &mut Families(encoder);
        let state = stats.health.name();
        families.gauges(
            about("cluster_store", None, "Health of the store as the node knows it: the state with 1 is it"),
            STATES.iter().map(|name| ([("state", *name)], u64::from(*name == state))),
        )?;
        families.time_gauges(
            about("cluster_lease", Some(&Seconds), "Time until the node's lease is over; 0 while it holds none"),
            [([], stats.lease_left.unwrap_or_default())],
        )?;
        families.time_gauges(
            about("cluster_store_silence", Some(&Seconds), "Time since the store last answered"),
            stats.last_answer.map(|last| ([], last)),
        )?;
        let StoreCalls { total, lost, slow, refused, garbled, fenced, late, .. } = stats.calls;
        let ok = total.saturating_sub(lost + slow + refused + garbled + fenced + late);
        let results = [
            ("ok", ok),
            ("lost", lost),
            ("slow", slow),
            ("refused", refused),
            ("garbled", garbled),
            ("fenced", fenced),
            ("late", late),
        ];
        families.counters(
            about("cluster_store_calls", None, "Calls to the store, by their results"),
            results.map(|(result, count)| ([("result", result)], count)),
        )?;
        families.histograms(
            about("cluster_store_call_duration", Some(&Seconds), "Time from a call to the store to its answer"),
            ANSWER_TIMES,
            [([], &stats.call_times)],
        )?;
        for (name, help, count) in [
            ("cluster_lives", "Lives of the node: one, and one more for each lease that it lost", stats.lives),
            ("cluster_fenced", "Leases that the node lost", stats.times_fenced),
            ("cluster_rows_written", "Rows of sessions written to the store", stats.rows_written),
            ("cluster_rows_removed", "Rows of sessions removed from the store", stats.rows_removed),
            ("cluster_resyncs", "Times that all sessions were listed to find what the store lacks", stats.resyncs),
            ("cluster_subscriptions", "Subscriptions opened", stats.subscriptions),
            ("cluster_deaf", "Times that a subscription did not hear the node itself", stats.times_deaf),
            ("cluster_probes", "Messages of the node to itself", stats.probes),
            ("cluster_messages", "Messages that have come by the subscription", stats.messages),
            ("cluster_messages_dropped", "Messages that there was no room for", stats.messages_dropped),
            (
                "cluster_entries_unknown",
                "Entries of the store that are not understood, each time that one was met",
                stats.entries_unknown,
            ),
            ("cluster_asked", "Pushes and kicks that other nodes were asked for", stats.asked),
            ("cluster_asks_timed_out", "Of these, those that were not answered in time", stats.asks_timed_out),
            ("cluster_admitted", "Sessions that the store let in, where limits over nodes hold", stats.admitted),
            ("cluster_admitted_blind", "Sessions let in without the store, though limits hold", stats.admitted_blind),
            ("cluster_room_messages_published", "Messages of rooms passed on", stats.rooms.published),
            ("cluster_room_messages_lost", "Messages of rooms that other nodes do not hear", stats.rooms.lost),
            ("cluster_room_messages_heard", "Messages of rooms from other nodes", stats.rooms.heard),
            (
                "cluster_room_messages_missing",
                "Messages of rooms from other nodes that did not come",
                stats.rooms.missing,
            ),
        ] {
            families.counters(about(name, None, help), [([], count)])?;
        }
        Ok(())
    }
}
