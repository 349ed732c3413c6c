//! Signals: SIGTERM and SIGINT drain a server, a second one aborts it.
//!
//! Not here: whether they do (`builder`).

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::server::handle::ServerHandle;

/// SIGINT and SIGTERM, ours from when this is made.
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

pub(super) async fn drain_on_signals(server: ServerHandle, mut signals: EndSignals, deadline: Duration) {
    let mut patience = Some(deadline);
    loop {
        let name = tokio::select! {
            _ = signals.interrupt.recv() => "SIGINT",
            _ = signals.terminate.recv() => "SIGTERM",
        };
        let Some(deadline) = patience.take() else {
            log::warn!("{name} again: aborting what is left");
            // Whether it had ended already does not matter any more.
            let _ = server.abort().await;
            return;
        };
        log::info!("{name}: draining, for at most {deadline:?}; a second signal aborts");
        let draining = server.clone();
        actix_rt::spawn(async move {
            if let Ok(report) = draining.drain(deadline).await {
                log::info!("drained: {} sessions ended, {} cut, in {:?}", report.ended, report.cut, report.duration);
            }
        });
    }
}
