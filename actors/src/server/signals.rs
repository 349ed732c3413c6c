//! Signals: SIGTERM and SIGINT drain a server, a second one aborts it.
//!
//! Not here: the choice to handle them (`builder`).

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    control::{messages::Drain, stats::DrainReport},
    plural::Counted,
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
    let mut drain = Some(drain);
    loop {
        let name = tokio::select! {
            _ = signals.interrupt.recv() => "SIGINT",
            _ = signals.terminate.recv() => "SIGTERM",
        };
        let Some(drain) = drain.take() else {
            log::warn!("{name} again: aborting what is left");
            // Whether it had ended already does not matter any more.
            let _ = server.abort().await;
            return;
        };
        log::info!("{name}: draining, for at most {:?}; a second signal aborts", drain.deadline);
        let draining = server.clone();
        actix_rt::spawn(async move {
            if let Ok(report) = draining.drain(drain).await {
                let DrainReport { ended, cut, duration, .. } = report;
                log::info!(
                    ended = ended, cut = cut, duration = duration.as_secs_f64();
                    "drained: {} ended, {cut} cut, in {duration:?}", Counted(ended, "session")
                );
            }
        });
    }
}
