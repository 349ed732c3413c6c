//! Server: the metrics of a server, as they are at one moment.
//!
//! Every counter of a listener only grows, for as long as it is there. Of listeners that are removed there are those that
//! still have sessions, and the last few others, so that a scraper sees their last counts; what is left of older ones is in
//! no metric, since a sum of them would jump.
//! Not here: asking for the counters (`metrics`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::SystemTime,
};

use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    registry::Unit::{self, Bytes, Seconds},
};

use crate::{
    connection::ListenerId,
    control::{
        histogram::{ANSWER_TIMES, SESSION_TIMES, TURN_TIMES},
        listeners::ListenerInfo,
        stats::{ListenerStats, Stats, WorkerStats},
    },
    metrics::families::{About, Families},
    report::RefuseReason,
};

/// Listeners without sessions that are shown although they were removed: those that were added last.
const MOST_REMOVED: usize = 8;

/// Reasons that are there before the first session ends by them: an alarm sees a first one only as the growth from 0.
const EXPECTED_REASONS: [&str; 7] = [
    "evicted",
    "filter-failed",
    "handler-panicked",
    "handler-stalled",
    "outbox-full",
    "wait-timeout",
    "worker-stopped",
];

/// A server at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) stats: Stats,
    pub(super) listeners: Vec<ListenerInfo>,
    pub(super) max_sessions: usize,
    pub(super) is_draining: bool,
    /// Certificates that no listener has of its own.
    pub(super) certificates: Vec<(String, SystemTime)>,
}

/// A listener by its label.
struct Shown<'a> {
    label: String,
    stats: &'a ListenerStats,
    /// `None` once it is removed.
    info: Option<&'a ListenerInfo>,
}

impl Snapshot {
    /// The listeners with their labels, of which no two are the same.
    fn shown<'a>(&'a self, none: &'a ListenerStats) -> Vec<Shown<'a>> {
        let mut labels = BTreeSet::new();
        let mut label = |id: ListenerId| {
            let number = id.get();
            let candidates = [id.name().map(str::to_owned), Some(number.to_string()), Some(format!("#{number}"))];
            let label = candidates.into_iter().flatten().find(|label| !labels.contains(label));
            let label = label.unwrap_or_else(|| format!("listener #{number}"));
            labels.insert(label.clone());
            label
        };
        let of = |id| self.stats.listeners.get(&id).unwrap_or(none);
        // Those that the server has come first: a name is that of the listener that has it now.
        let mut shown: Vec<_> = (self.listeners.iter())
            .map(|info| Shown { label: label(info.id), stats: of(info.id), info: Some(info) })
            .collect();
        let is_there = |id: &ListenerId| self.listeners.iter().any(|info| info.id == *id);
        let mut without_sessions = 0;
        for (id, stats) in self.stats.listeners.iter().rev().filter(|(id, _)| !is_there(id)) {
            if stats.live == 0 {
                without_sessions += 1;
                if without_sessions > MOST_REMOVED {
                    continue;
                }
            }
            shown.push(Shown { label: label(*id), stats, info: None });
        }
        shown
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let none = ListenerStats::default();
        let shown = self.shown(&none);
        let families = &mut Families(encoder);
        families.info(
            About { name: "build", unit: None, help: "Version of the library" },
            [("version", env!("CARGO_PKG_VERSION"))],
        )?;
        self.sessions(families, &shown)?;
        self.bytes(families, &shown)?;
        self.listeners(families, &shown)?;
        self.workers(families)?;
        families.counters(
            About { name: "events_lost", unit: None, help: "Events that a subscriber's mailbox had no room for" },
            [([], self.stats.events_lost)],
        )
    }
}

fn about(name: &'static str, unit: Option<&'static Unit>, help: &'static str) -> About {
    About { name, unit, help }
}

/// A number of each listener.
fn of_each<'a>(
    shown: &'a [Shown<'_>],
    value: impl Fn(&ListenerStats) -> u64 + 'a,
) -> impl Iterator<Item = ([(&'static str, &'a str); 1], u64)> {
    shown.iter().map(move |one| ([("listener", &*one.label)], value(one.stats)))
}

/// A number of each listener and reason, those that are expected included.
fn by_reason<'a>(
    shown: &'a [Shown<'_>],
    expected: &'a [&'static str],
    counts: impl Fn(&ListenerStats) -> &BTreeMap<&'static str, u64> + 'a,
) -> impl Iterator<Item = ([(&'static str, &'a str); 2], u64)> {
    shown.iter().flat_map(move |one| {
        let mut all: BTreeMap<_, _> = expected.iter().map(|reason| (*reason, 0)).collect();
        all.extend(counts(one.stats).iter().map(|(reason, count)| (*reason, *count)));
        all.into_iter().map(|(reason, count)| ([("listener", &*one.label), ("reason", reason)], count))
    })
}

impl Snapshot {
    fn sessions(&self, families: &mut Families<'_>, shown: &[Shown<'_>]) -> fmt::Result {
        families.gauges(
            about("sessions", None, "Live sessions, lingering ones included"),
            of_each(shown, |stats| stats.live),
        )?;
        families.gauges(
            about("sessions_held", None, "Live sessions that read nothing more for now"),
            of_each(shown, |stats| stats.held),
        )?;
        families.gauges(
            about("prefaces", None, "Live sessions whose filters wait for their peers' handshakes"),
            of_each(shown, |stats| stats.prefaces),
        )?;
        families.gauges(
            about("sessions_limit", None, "Most live sessions, of all listeners"),
            Some(self.max_sessions).filter(|most| *most != usize::MAX).map(|most| ([], most as u64)),
        )?;
        families.counters(about("sessions_opened", None, "Sessions admitted"), of_each(shown, |stats| stats.opened))?;
        families.counters(
            about("sessions_closed", None, "Ended sessions, by the reason of the end"),
            by_reason(shown, &EXPECTED_REASONS, |stats| &stats.closed),
        )?;
        families.histograms(
            about("session_duration", Some(&Seconds), "Time from admission to the end, of ended sessions"),
            SESSION_TIMES,
            shown.iter().map(|one| ([("listener", &*one.label)], &one.stats.session_durations)),
        )?;
        let answered = shown.iter().filter(|one| one.stats.answer_times.count() > 0);
        families.histograms(
            about("answer_duration", Some(&Seconds), "Time from a read until the kernel has the answer"),
            ANSWER_TIMES,
            answered.map(|one| ([("listener", &*one.label)], &one.stats.answer_times)),
        )?;
        let refusals = RefuseReason::ALL.map(RefuseReason::name);
        families.counters(
            about("connections_refused", None, "Connections that did not become sessions"),
            by_reason(shown, &refusals, |stats| &stats.refused),
        )
    }

    fn bytes(&self, families: &mut Families<'_>, shown: &[Shown<'_>]) -> fmt::Result {
        families.counters(about("received_lines", None, "Lines delivered"), of_each(shown, |stats| stats.lines_in))?;
        families.counters(
            about("received", Some(&Bytes), "Bytes read from peers"),
            of_each(shown, |stats| stats.bytes_in),
        )?;
        families.counters(
            about("sent", Some(&Bytes), "Bytes taken by the kernel"),
            of_each(shown, |stats| stats.bytes_out),
        )?;
        families.counters(
            about("unsent", Some(&Bytes), "Bytes written that the kernel never took, of ended sessions"),
            of_each(shown, |stats| stats.unsent_bytes),
        )?;
        families.counters(
            about("undelivered", Some(&Bytes), "Bytes read and never delivered, of ended sessions"),
            of_each(shown, |stats| stats.undelivered_bytes),
        )?;
        families.gauges(
            about("outbox", Some(&Bytes), "Bytes written that the kernel has not taken yet"),
            of_each(shown, |stats| stats.outbox_bytes),
        )
    }

    fn listeners(&self, families: &mut Families<'_>, shown: &[Shown<'_>]) -> fmt::Result {
        let known = || shown.iter().filter_map(|one| Some(([("listener", &*one.label)], one.info?)));
        families.gauges(
            about("listener_paused", None, "1 while it accepts no connection"),
            known().map(|(label, info)| (label, info.is_paused.into())),
        )?;
        families.gauges(
            about("listener_sessions_limit", None, "Most live sessions of its own"),
            known().filter_map(|(label, info)| Some((label, info.max_sessions? as u64))),
        )?;
        let others = self.certificates.iter().map(|(name, expires)| ([("listener", &**name)], *expires));
        let others = others.filter(|([(_, name)], _)| shown.iter().all(|one| one.label != *name));
        families.moments(
            about("certificate_expiry_timestamp", Some(&Seconds), "End of its first certificate, since 1970"),
            known().filter_map(|(label, info)| Some((label, info.certificate_expires?))).chain(others),
        )?;
        families.gauges(
            about("draining", None, "1 once the server drains, or has said that it will"),
            [([], u64::from(self.is_draining))],
        )
    }

    fn workers(&self, families: &mut Families<'_>) -> fmt::Result {
        let numbered: Vec<_> = self.stats.workers.iter().map(|worker| (worker.worker.to_string(), worker)).collect();
        let each = || numbered.iter().map(|(number, worker)| ([("worker", &**number)], *worker));
        let of = |value: fn(&WorkerStats) -> u64| each().map(move |(label, worker)| (label, value(worker)));
        families.gauges(about("worker_sessions", None, "Live sessions of a thread"), of(|worker| worker.live))?;
        families.gauges(
            about("buffer", Some(&Bytes), "Memory of the buffers of live sessions"),
            of(|worker| worker.memory_bytes),
        )?;
        families.gauges(
            about("buffer_budget", Some(&Bytes), "Most memory of all buffers; above it sessions are evicted"),
            self.stats.memory.budget.map(|bytes| ([], bytes)),
        )?;
        families.time_gauges(
            about("worker_lag", Some(&Seconds), "How late a thread looked after its sessions just now"),
            each().map(|(label, worker)| (label, worker.lag)),
        )?;
        families.time_gauges(
            about("worker_max_lag", Some(&Seconds), "The most that was in one or two minutes"),
            each().map(|(label, worker)| (label, worker.max_lag)),
        )?;
        families.histograms(
            about("turn_duration", Some(&Seconds), "Time that a session kept its thread"),
            TURN_TIMES,
            each().map(|(label, worker)| (label, &worker.turn_times)),
        )?;
        families.counters(
            about("turns_cut", None, "Turns that ended with work left, to let other sessions run"),
            of(|worker| worker.turns_cut),
        )?;
        families.counters(
            about("slow_turns", None, "Turns that took so long that each is logged"),
            of(|worker| worker.slow_turns),
        )?;
        families.times(
            about("slow_turns", Some(&Seconds), "Time of these turns"),
            each().map(|(label, worker)| (label, worker.slow_turn_time)),
        )?;
        families.counters(
            about("reads_throttled", None, "Times that a session had read as much as its rate allows"),
            of(|worker| worker.throttled),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::registry::Registry;

    use super::*;
    use crate::{
        address::Address,
        control::{histogram::Histogram, stats::MemoryStats},
        metrics::{
            process::Process,
            text::{self, TextFormat},
        },
    };

    /// Some ten thousand of everything.
    const MANY: u64 = 20_000;

    fn times(bounds: &'static [Duration]) -> Histogram {
        let mut times = Histogram::new(bounds);
        bounds.iter().for_each(|bound| (0..10).for_each(|_| times.record(bounds, *bound)));
        times.record_zeros(bounds, 1_000_000_000);
        times
    }

    #[test]
    fn a_scrape_of_twenty_thousand_sessions_is_under_20_kib() {
        let id = ListenerId::new(0, Some("public"));
        let reasons = [
            "peer-eof",
            "peer-reset",
            "idle-timeout",
            "line-timeout",
            "max-age",
            "kicked",
            "write-stalled",
            "overlong",
        ];
        let listener = ListenerStats {
            opened: 2_000_000_000,
            live: MANY,
            prefaces: MANY,
            held: MANY,
            closed: reasons.into_iter().chain(EXPECTED_REASONS).map(|reason| (reason, 1_000_000)).collect(),
            lines_in: 100_000_000_000,
            bytes_in: 100_000_000_000_000,
            bytes_out: 100_000_000_000_000,
            unsent_bytes: 1_000_000_000,
            undelivered_bytes: 1_000_000_000,
            outbox_bytes: 1_000_000_000,
            session_durations: times(SESSION_TIMES),
            answer_times: times(ANSWER_TIMES),
            refused: RefuseReason::ALL.map(|reason| (reason.name(), 1_000_000)).into(),
        };
        let worker = |worker| WorkerStats {
            worker,
            live: MANY / 2,
            memory_bytes: 1_000_000_000,
            turn_times: times(TURN_TIMES),
            turns_cut: 1_000_000,
            slow_turns: 1_000_000,
            slow_turn_time: Duration::from_millis(123_456_789),
            throttled: 1_000_000,
            lag: Duration::from_micros(1234),
            max_lag: Duration::from_micros(12_345),
            ..WorkerStats::default()
        };
        let info = ListenerInfo {
            id,
            local_addr: Address::Memory,
            is_paused: false,
            max_sessions: Some(30_000),
            certificate_expires: Some(SystemTime::now()),
        };
        let stats = Stats {
            listeners: [(id, listener)].into(),
            workers: vec![worker(0), worker(1)],
            memory: MemoryStats { bytes: 2_000_000_000, budget: Some(4_000_000_000) },
            ..Stats::default()
        };
        let snapshot = Snapshot {
            stats,
            listeners: vec![info],
            max_sessions: 30_000,
            is_draining: false,
            certificates: Vec::new(),
        };
        let mut own = Registry::with_prefix("actix_lines");
        own.register_collector(Box::new(snapshot));
        let mut process = Registry::default();
        if let Some(of) = Process::read() {
            process.register_collector(Box::new(of));
        }
        for format in [TextFormat::OpenMetrics, TextFormat::Prometheus] {
            let bytes = text::encode(format, &[&own, &process]).len();
            eprintln!("{bytes} bytes as {format:?}");
            assert!((10 * 1024..20 * 1024).contains(&bytes), "{bytes} bytes as {format:?}");
        }
    }
}
