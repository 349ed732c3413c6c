//! Signals: what an operator may say to a running server.
//!
//! Not here: what a drain or a change of limits does (`actix-lines`).

use std::io;

use actix_lines::{ServerHandle, Stats};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{args::Args, config, settings::Settings};

/// The signals that are ours, from when this is made.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    user1: Signal,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        let ours = |kind| {
            signal(kind).map_err(|error| {
                io::Error::new(error.kind(), format!("cannot handle signals: {error}: is ulimit -n too low?"))
            })
        };
        Ok(Self {
            interrupt: ours(SignalKind::interrupt())?,
            terminate: ours(SignalKind::terminate())?,
            hangup: ours(SignalKind::hangup())?,
            user1: ours(SignalKind::user_defined1())?,
        })
    }

    /// Does what signals ask for, for as long as the server runs.
    pub(crate) async fn obey(mut self, server: ServerHandle, args: Args, mut settings: Settings) {
        let mut is_draining = false;
        loop {
            let name = tokio::select! {
                _ = self.interrupt.recv() => "SIGINT",
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.hangup.recv() => {
                    reload(&server, &args, &mut settings);
                    continue;
                }
                _ = self.user1.recv() => {
                    log_counters(&server);
                    continue;
                }
            };
            if std::mem::replace(&mut is_draining, true) {
                log::warn!("{name} again: aborting what is left");
                // Whether it had ended already does not matter any more.
                let _ = server.abort().await;
                return;
            }
            let drain = settings.drain();
            log::info!("{name}: draining, for at most {:?}; a second signal aborts", drain.deadline);
            let report = server.supervisor().send(drain);
            actix_rt::spawn(async move {
                if let Ok(report) = report.await {
                    log::info!(
                        "drained: {} sessions ended, {} cut, in {:?}",
                        report.ended,
                        report.cut,
                        report.duration
                    );
                }
            });
        }
    }
}

// What asks the server is a task of its own: a signal that ends it is heard however long the answer takes.

/// Reads the file again. What is wrong with it changes nothing.
fn reload(server: &ServerHandle, args: &Args, settings: &mut Settings) {
    let Some(file) = &args.config else {
        log::warn!("SIGHUP: there is no file to read again: start with --config");
        return;
    };
    let loaded = config::load(args).and_then(|loaded| {
        let fixed = settings.fixed_that_differ(&loaded);
        let loaded = loaded.with_fixed_of(settings);
        Ok((config::limits(&loaded)?, loaded, fixed))
    });
    let (limits, loaded, fixed) = match loaded {
        Ok(loaded) => loaded,
        Err(problem) => {
            log::error!("SIGHUP: nothing is changed: {problem}");
            return;
        }
    };
    for name in fixed {
        log::warn!("SIGHUP: {name} differs; only a restart changes it");
    }
    *settings = loaded;
    let (server, file) = (server.clone(), file.clone());
    actix_rt::spawn(async move {
        if let Ok(change) = server.set_limits(limits).await {
            log::info!("SIGHUP: {} is in force; {} sessions end by it", file.display(), change.ends.len());
        }
    });
}

fn log_counters(server: &ServerHandle) {
    let server = server.clone();
    actix_rt::spawn(async move {
        if let Ok(stats) = server.stats().await {
            log::info!("{}", snapshot(&stats));
        }
    });
}

/// The counters as one line.
fn snapshot(stats: &Stats) -> String {
    let named = |counts: &std::collections::BTreeMap<&str, u64>| {
        let counts: Vec<_> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
        if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
    };
    format!(
        "counters: {} live, {} opened, closed: {}; refused: {}; {} lines and {} bytes in, {} bytes out, {} to be sent, {} \
         unsent, {} undelivered; {} turns cut, {} times held back by a rate, {} \
         events lost",
        stats.live,
        stats.opened,
        named(&stats.closed),
        named(&stats.refused),
        stats.lines_in,
        stats.bytes_in,
        stats.bytes_out,
        stats.outbox_bytes,
        stats.unsent_bytes,
        stats.undelivered_bytes,
        stats.turns_cut,
        stats.throttled,
        stats.events_lost,
    )
}
