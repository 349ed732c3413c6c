//! Signals: SIGTERM and SIGINT drain a server, one more aborts it.
//!
//! Not here: the choice to handle them (`builder`).

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    control::{messages::Drain, stats::DrainReport},
    plural::Counted,
    seconds,
    server::handle::ServerHandle,
};

/// SIGINT and SIGTERM, handled from the moment when this is made.
pub(super) struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl EndSignals {
    pub(super) fn new() -> Option<Self> {
        match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
            (Ok(interrupt), Ok(terminate)) => Some(Self { interrupt, terminate }),
            (Err(error), _) | (_, Err(error)) => {
                log::error!("signals cannot be handled, they end the process at once: {error}");
                None
            }
        }
    }
}

pub(super) async fn drain_on_signals(server: ServerHandle, mut signals: EndSignals, drain: Drain) {
    let (mut is_asked, mut is_hurried) = (false, drain.delay.is_zero());
    loop {
        let name = tokio::select! {
            _ = signals.interrupt.recv() => "SIGINT",
            _ = signals.terminate.recv() => "SIGTERM",
        };
        // The first may not have arrived yet.
        let is_announced = server.draining().map_or(is_asked && !is_hurried, |progress| !progress.has_begun());
        if is_announced {
            log::info!("{name}: draining at once, for at most {:?}; a further signal aborts", drain.deadline);
            is_hurried = true;
        } else if is_asked {
            log::warn!("{name} again: aborting what is left");
            // Whether it had ended already does not matter any more.
            let _ = server.abort().await;
            return;
        } else if is_hurried {
            log::info!("{name}: draining, for at most {:?}; a second signal aborts", drain.deadline);
        } else {
            let Drain { delay, deadline, .. } = drain;
            log::info!("{name}: draining in {delay:?}, then for at most {deadline:?}; a second signal begins at once");
        }
        let is_first = !std::mem::replace(&mut is_asked, true);
        let mut drain = drain.clone();
        if is_hurried {
            drain.delay = Duration::ZERO;
        }
        let draining = server.clone();
        actix_rt::spawn(async move {
            if let Ok(report) = draining.drain(drain).await
                && is_first
            {
                let DrainReport { ended, cut, duration, .. } = report;
                log::info!(
                    ended = ended, cut = cut, duration = seconds::of(duration);
                    "drained: {} ended, {cut} cut, in {duration:?}", Counted(ended, "session")
                );
            }
        });
    }
}
