//! Signals: an operator's requests to a running server.
//!
//! Rule: none waits for another one's outcome, least of all the signal that ends the server.
//! Not here: what SIGTERM and SIGINT do, what a drain or a change of limits does (`actix-lines`).

use std::{
    collections::BTreeMap,
    fmt::Display,
    io,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use actix_lines::{
    EndSignals, Escaped, ListenerInfo, ServerHandle,
    control::{ListenerStats, Stats},
    limits::Limits,
    record::Recorder,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    time::{Instant, Interval, interval_at, timeout_at},
};

use crate::{
    args::Args,
    cluster::{self, FleetLimits, Node},
    config::{self, Config, Problem, Secrets},
    console,
    ending::Ending,
    listeners::Listeners,
    logging,
    plural::counted,
    reason::reason,
    recording,
    service::{self, Reload},
    settings::Settings,
};

/// Time that SIGHUP waits for its file.
const READ_TIME: Duration = Duration::from_secs(5);

/// Reads of the file that may hang at once after they were given up: each keeps a thread until its disk or writer answers.
const MOST_HUNG: usize = 3;

/// What SIGHUP changes.
pub(crate) struct Running {
    /// Those in force.
    pub(crate) settings: Settings,
    pub(crate) secrets: Secrets,
    pub(crate) listeners: Listeners,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) node: Node,
    pub(crate) ending: Arc<Ending>,
}

/// The signals that are ours, from when this is made.
pub(crate) struct Signals {
    ends: EndSignals,
    hangup: Signal,
    user1: Signal,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        let refused = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!(
                    "cannot handle signals: {}; raise the descriptor limit (ulimit -n, or LimitNOFILE= of its service)",
                    reason(&error)
                ),
            )
        };
        let ours = |kind| signal(kind).map_err(refused);
        Ok(Self {
            ends: EndSignals::new().map_err(refused)?,
            hangup: ours(SignalKind::hangup())?,
            user1: ours(SignalKind::user_defined1())?,
        })
    }

    /// Handles signals for as long as the server runs.
    pub(crate) async fn handle(mut self, server: ServerHandle, args: Args, running: Running) {
        let mut file = Reloads { args, running, reading: None, changing: None, readers: Arc::new(()) };
        let mut expiry = daily();
        // A drain may not have arrived yet.
        let mut is_draining = false;
        loop {
            let name = tokio::select! {
                name = self.ends.recv() => name,
                _ = self.hangup.recv() => {
                    if is_draining || server.draining().is_some() {
                        log::warn!("SIGHUP: nothing is changed: the server drains");
                    } else {
                        file.ask();
                    }
                    continue;
                }
                outcome = file.outcome() => {
                    // A console may have asked for it meanwhile.
                    if server.draining().is_some() && file.reading.take().is_some() {
                        log::warn!("SIGHUP: nothing is changed: the server drains");
                        continue;
                    }
                    file.take_over(outcome, &server);
                    continue;
                }
                _ = self.user1.recv() => {
                    log_counters(&server, file.counters());
                    continue;
                }
                // Without certificates the process sleeps on.
                _ = expiry.tick(), if file.running.listeners.have_certificates() => {
                    file.running.listeners.log_expiring(SystemTime::now());
                    continue;
                }
            };
            let drain = file.running.settings.drain();
            if self.ends.apply(name, &server, drain).await.is_break() {
                return;
            }
            is_draining = true;
            service::stopping();
            if file.reading.take().is_some() {
                log::warn!("SIGHUP: nothing is changed: the server drains");
            }
        }
    }
}

// Each request to the server is a task of its own: a signal that ends it is handled however long the answer takes.

/// The file, each time that SIGHUP asks for it. An error in it changes nothing.
struct Reloads {
    args: Args,
    running: Running,
    reading: Option<Reading>,
    changing: Option<Changing>,
    /// Each thread that reads the file has a clone.
    readers: Arc<()>,
}

/// A thread that reads the file. It may wait for a disk or for another process, and nothing waits for it: neither a session
/// nor the end of the process. There is no second one before it was given up.
struct Reading {
    config: oneshot::Receiver<Result<Box<Config>, Problem>>,
    since: Instant,
    /// SIGHUP came again meanwhile: what is being read may be older.
    again: bool,
    /// Dropped when its outcome is in force.
    reload: Reload,
}

/// Listeners that become those of the file that was read. There is no second change meanwhile.
struct Changing {
    changed: oneshot::Receiver<(Listeners, io::Result<Vec<String>>)>,
    /// Those to be in force then.
    settings: Settings,
    secrets: Secrets,
    limits: Limits,
    fleet_limits: Option<FleetLimits>,
    /// SIGHUP came again meanwhile.
    again: bool,
    /// Dropped when it is in force.
    reload: Option<Reload>,
}

enum Outcome {
    Changed(Listeners, io::Result<Vec<String>>),
    Read(Result<Box<Config>, Problem>),
    TookTooLong,
    Panicked,
}

impl Reloads {
    /// What is read again, as the log names it: the file of settings, or without one the files with secrets; `None` without any.
    fn file(&self) -> Option<String> {
        match &self.args.config {
            Some(file) => Some(Escaped::new(file.as_os_str().as_encoded_bytes()).to_string()),
            None => self.running.secrets.are_any().then(|| "each file with a secret".to_owned()),
        }
    }

    /// SIGHUP has come.
    fn ask(&mut self) {
        let reload = service::reloading();
        let Some(file) = self.file() else {
            log::warn!("SIGHUP: there is no file to read again: start with --config");
            return;
        };
        if let Some(reading) = &mut self.reading {
            reading.again = true;
            let since = reading.since.elapsed().as_secs();
            log::warn!("SIGHUP: {file} is still being read, since {since} s; then it is read once more");
            return;
        }
        if let Some(changing) = &mut self.changing {
            changing.again = true;
            return;
        }
        let hung = Arc::strong_count(&self.readers) - 1;
        if hung >= MOST_HUNG {
            fail(&format!(
                "{hung} earlier reads of {file} still wait for its disk or its writer: end that, or restart"
            ));
            return;
        }
        let (done, config) = oneshot::channel();
        let args = self.args.clone();
        let reader = Arc::clone(&self.readers);
        let read = move || {
            let loaded = config::load(&args).and_then(Config::looked_up).map(Box::new);
            // Before anybody hears of it, so that nobody counts it any more.
            drop(reader);
            // It may have been given up.
            let _ = done.send(loaded);
        };
        match thread::Builder::new().name("rot13d|file".to_owned()).spawn(read) {
            Ok(_) => {
                self.reading = Some(Reading { config, since: Instant::now(), again: false, reload });
            }
            Err(error) => {
                fail(&format!("no thread to read {file} with: {}", reason(&error)));
            }
        }
    }

    /// Waits for the file that is being read, and for what then changes; for ever when there is none.
    async fn outcome(&mut self) -> Outcome {
        if let Some(changing) = &mut self.changing {
            let changed = (&mut changing.changed).await;
            return changed.map_or(Outcome::Panicked, |(listeners, result)| Outcome::Changed(listeners, result));
        }
        let Some(reading) = &mut self.reading else { return std::future::pending().await };
        match timeout_at(reading.since + READ_TIME, &mut reading.config).await {
            Ok(read) => read.map_or(Outcome::Panicked, Outcome::Read),
            Err(_) => Outcome::TookTooLong,
        }
    }

    fn take_over(&mut self, outcome: Outcome, server: &ServerHandle) {
        let Some(file) = self.file() else { return };
        let (reading, changing) = (self.reading.take(), self.changing.take());
        let again = reading.as_ref().is_some_and(|reading| reading.again)
            || changing.as_ref().is_some_and(|changing| changing.again);
        match outcome {
            Outcome::TookTooLong => {
                fail(&format!("{file} could not be read within {READ_TIME:?}"));
            }
            Outcome::Panicked => fail("look above for the panic"),
            Outcome::Read(Ok(loaded)) => {
                return self.change(*loaded, again, reading.map(|reading| reading.reload), server);
            }
            Outcome::Read(Err(problem)) => refuse(&problem),
            Outcome::Changed(listeners, result) => {
                self.running.listeners = listeners;
                match (result, changing) {
                    (Ok(changes), Some(changing)) => self.apply(changing, &changes, file, server),
                    (Err(error), _) => refuse(&error),
                    (Ok(_), None) => {}
                }
            }
        }
        if again {
            self.ask();
        }
    }

    /// The counters of what is not the library's, as the end of a line.
    fn counters(&self) -> String {
        recording::counters(self.running.recorder.as_ref()) + &self.running.listeners.counters(SystemTime::now())
    }

    /// Begins with what may still fail: the listeners.
    fn change(&mut self, loaded: Config, again: bool, reload: Option<Reload>, server: &ServerHandle) {
        let Config { settings, listeners: wanted, secrets } = loaded;
        // What runs goes on with what only a restart changes.
        let meant = settings.clone().with_fixed_of(&self.running.settings);
        let limits = config::limits(&meant, wanted.len()).and_then(|limits| Ok((limits, cluster::limits(&meant)?)));
        let (limits, fleet_limits) = match limits {
            Ok(limits) => limits,
            Err(error) => {
                refuse(&error);
                if again {
                    self.ask();
                }
                return;
            }
        };
        let (done, changed) = oneshot::channel();
        let (mut listeners, server) = (self.running.listeners.clone(), server.clone());
        actix_rt::spawn(async move {
            let result = listeners.change(wanted, &server).await;
            // The server may have ended.
            let _ = done.send((listeners, result));
        });
        self.changing = Some(Changing { changed, settings, secrets, limits, fleet_limits, again, reload });
    }

    /// Does what cannot fail any more, and says what has changed.
    fn apply(&mut self, changing: Changing, changes: &[String], file: String, server: &ServerHandle) {
        let Changing { settings, secrets, limits, fleet_limits, reload, .. } = changing;
        let fixed = self.running.settings.fixed_that_differ(&settings);
        for name in &fixed {
            log::warn!("SIGHUP: {name} differs; only a restart changes it");
        }
        for change in changes {
            log::info!("SIGHUP: {change}");
        }
        let mut changed = self.running.settings.changed_in(&settings);
        // Those have values to be shown, and a console may have set them.
        changed.retain(|name| !console::knows_limit(name) && !Node::knows_limit(name));
        changed.extend(self.running.secrets.take_over(&secrets, &fixed));
        let settings = settings.with_fixed_of(&self.running.settings);
        let node = &self.running.node;
        let fleet_changes = node.changes(&self.running.settings, &settings);
        node.set_limits(fleet_limits);
        self.running.settings = settings;
        logging::set_format(self.running.settings.log_format);
        self.running.ending.set(self.running.settings.drain());
        self.running.listeners.log_certificates();
        if let Some(recorder) = &self.running.recorder {
            recorder.set_limits(self.running.settings.record_limits());
        }
        let server = server.clone();
        actix_rt::spawn(async move {
            let Ok(before) = server.limits().await else { return };
            let after = limits.clone();
            if let Ok(change) = server.set_limits(limits).await {
                let changed = changed.into_iter().map(str::to_owned).collect();
                let changed = [console::changes(&before, &after), fleet_changes, changed].concat();
                if !changed.is_empty() {
                    log::info!("SIGHUP: changed: {}", changed.join(", "));
                }
                service::reload_succeeded();
                let ends = match change.ends.len() {
                    1 => "1 session ends".to_owned(),
                    ends => format!("{ends} sessions end"),
                };
                log::info!(count = change.ends.len(); "SIGHUP: {file} is in force; {ends} by it");
            }
            drop(reload);
        });
    }
}

/// Ticks once a day from tomorrow on: the start and each reload look by themselves.
fn daily() -> Interval {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    interval_at(Instant::now() + DAY, DAY)
}

fn refuse(reason: &impl Display) {
    fail(&Escaped::new(&reason.to_string()).to_string());
}

/// Says it in the log and to the service manager.
fn fail(reason: &str) {
    log::error!("SIGHUP: nothing is changed: {reason}");
    service::reload_failed(reason);
}

fn log_counters(server: &ServerHandle, others: String) {
    let server = server.clone();
    actix_rt::spawn(async move {
        if let Ok(stats) = server.stats().await {
            log::info!(
                live = stats.live, opened = stats.opened, lines_in = stats.lines_in, bytes_in = stats.bytes_in,
                bytes_out = stats.bytes_out, outbox_bytes = stats.outbox_bytes, unsent_bytes = stats.unsent_bytes,
                undelivered_bytes = stats.undelivered_bytes;
                "{}{others}", snapshot(&stats)
            );
            of_listeners(&stats, &server.listeners()).iter().for_each(|line| log::info!("{line}"));
        }
    });
}

/// Counts by name.
fn named(counts: &BTreeMap<&str, u64>) -> String {
    let counts: Vec<_> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
}

/// The counters of each listener as a line. One that is alone has those of the server.
fn of_listeners(stats: &Stats, listeners: &[ListenerInfo]) -> Vec<String> {
    let of = |whose: &str, of: &ListenerStats| {
        format!(
            "counters of {whose}: {} live, {} opened, closed: {}; refused: {}; {} and {} in, {} out, {} to \
             be sent, {} unsent, {} undelivered",
            of.live,
            of.opened,
            named(&of.closed),
            named(&of.refused),
            counted(of.lines_in, "line"),
            counted(of.bytes_in, "byte"),
            counted(of.bytes_out, "byte"),
            of.outbox_bytes,
            of.unsent_bytes,
            of.undelivered_bytes,
        )
    };
    let has_former = stats.former_listeners != ListenerStats::default();
    if stats.listeners.len() < 2 && !has_former {
        return Vec::new();
    }
    let each = stats.listeners.iter().map(|(id, listener)| match id.name() {
        Some(name) => of(&format!("listener {name}"), listener),
        None => {
            // Of one that is closed only the number is known.
            let address =
                listeners.iter().find(|info| info.id == *id).map(|info| format!("listener {}", info.local_addr));
            of(&address.unwrap_or_else(|| id.to_string()), listener)
        }
    });
    each.chain(has_former.then(|| of("former listeners", &stats.former_listeners))).collect()
}

/// The counters as one line.
fn snapshot(stats: &Stats) -> String {
    format!(
        "counters: {} live, {} opened, closed: {}; refused: {}; {} and {} in, {} out, {} to be sent, {} \
         unsent, {} undelivered; {} cut, {} slow ones took {:?}, {} held back by a rate, {} \
         lost; buffers hold {} of {}; {} at most {:?} late",
        stats.live,
        stats.opened,
        named(&stats.closed),
        named(&stats.refused),
        counted(stats.lines_in, "line"),
        counted(stats.bytes_in, "byte"),
        counted(stats.bytes_out, "byte"),
        stats.outbox_bytes,
        stats.unsent_bytes,
        stats.undelivered_bytes,
        counted(stats.turns_cut, "turn"),
        stats.slow_turns,
        stats.slow_turn_time,
        counted(stats.throttled, "time"),
        counted(stats.events_lost, "event"),
        counted(stats.memory.bytes, "byte"),
        stats.memory.budget.map_or_else(|| "any number".to_owned(), |budget| budget.to_string()),
        counted(stats.workers.len(), "worker"),
        stats.workers.iter().map(|worker| worker.max_lag).max().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn certificates_are_looked_at_once_a_day() {
        let start = Instant::now();
        let mut expiry = daily();
        for days in 1..=3 {
            expiry.tick().await;
            assert_eq!(start.elapsed().as_secs(), days * 24 * 3600);
        }
    }
}
