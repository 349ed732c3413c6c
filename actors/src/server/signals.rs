//! Signals: SIGTERM and SIGINT drain a server, one more aborts it.
//!
//! Not here: the choice to handle them (`builder`), signals that a program gives a meaning of its own.

use std::{io, ops::ControlFlow, time::Duration};

use tokio::{
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    control::{messages::Drain, stats::DrainReport},
    plural::Counted,
    seconds,
    server::handle::ServerHandle,
};

/// SIGINT and SIGTERM, for a program that handles signals of its own beside them, or whose drain changes while the server
/// runs. Others need [`LineServer::drain_on_signals`](crate::LineServer::drain_on_signals), which does the same.
///
/// ```no_run
/// # use std::time::Duration;
/// # use actix_lines::{EndSignals, LineServer, Rot13, control::Drain};
/// # use tokio::signal::unix::{SignalKind, signal};
/// # #[actix::main]
/// # async fn main() -> std::io::Result<()> {
/// // Before the server: a signal may follow as soon as it listens.
/// let (mut ends, mut hangup) = (EndSignals::new()?, signal(SignalKind::hangup())?);
/// let server = LineServer::new(|_| Rot13).bind("127.0.0.1:7000")?.start()?;
/// let handle = server.clone();
/// actix_rt::spawn(async move {
///     let mut drain = Drain::within(Duration::from_secs(30));
///     loop {
///         tokio::select! {
///             name = ends.recv() => if ends.apply(name, &handle, drain.clone()).await.is_break() { break },
///             _ = hangup.recv() => drain.deadline = Duration::from_secs(60),
///         }
///     }
/// });
/// server.wait().await
/// # }
/// ```
#[derive(Debug)]
pub struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
    is_asked: bool,
    is_hurried: bool,
}

impl EndSignals {
    /// Handles both signals from now on: they no longer end the process by themselves, not even once this is dropped.
    ///
    /// # Errors
    /// Returns an error outside of a runtime, or if the system refuses a descriptor.
    pub fn new() -> io::Result<Self> {
        // tokio panics without one.
        Handle::try_current().map_err(io::Error::other)?;
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, is_asked: false, is_hurried: false })
    }

    /// Waits for the next signal, and returns its name. One that comes while nobody waits is kept. Safe to cancel.
    pub async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }

    /// Does to the server what the signal of this name asks for, and logs it: the first one begins `drain`; a further one begins
    /// it at once while its [`delay`](Drain::delay) is not over, otherwise it aborts what is left. Breaks once it has
    /// aborted: no signal has a meaning any more.
    pub async fn apply(&mut self, name: &str, server: &ServerHandle, mut drain: Drain) -> ControlFlow<()> {
        self.is_hurried |= drain.delay.is_zero();
        // The first may not have arrived yet; an operator may have asked for a drain, too.
        let is_announced =
            server.draining().map_or(self.is_asked && !self.is_hurried, |progress| !progress.has_begun());
        let Drain { delay, deadline, .. } = drain;
        if is_announced {
            log::info!("{name}: draining at once, for at most {deadline:?}; a further signal aborts");
            self.is_hurried = true;
        } else if self.is_asked {
            log::warn!("{name} again: aborting what is left");
            // Whether it had ended already does not matter any more.
            let _ = server.abort().await;
            return ControlFlow::Break(());
        } else if self.is_hurried {
            log::info!("{name}: draining, for at most {deadline:?}; a second signal aborts");
        } else {
            log::info!("{name}: draining in {delay:?}, then for at most {deadline:?}; a second signal begins at once");
        }
        if self.is_hurried {
            drain.delay = Duration::ZERO;
        }
        let is_first = !std::mem::replace(&mut self.is_asked, true);
        let server = server.clone();
        // A task of its own: further signals are heard meanwhile.
        actix_rt::spawn(async move {
            if let Ok(report) = server.drain(drain).await
                && is_first
            {
                let DrainReport { ended, cut, duration, .. } = report;
                log::info!(
                    ended = ended, cut = cut, duration = seconds::of(duration);
                    "drained: {} ended, {cut} cut, in {duration:?}", Counted(ended, "session")
                );
            }
        });
        ControlFlow::Continue(())
    }
}

pub(super) async fn drain_on_signals(server: ServerHandle, mut signals: EndSignals, drain: Drain) {
    loop {
        let name = signals.recv().await;
        if signals.apply(name, &server, drain.clone()).await.is_break() {
            return;
        }
    }
}
