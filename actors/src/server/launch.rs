//! Launch: starts threads, workers, acceptors and the supervisor of a server: all of them or none.
//!
//! Not here: settings (`builder`), a running server (`handle`).

use std::sync::Arc;

use actix_rt::{Arbiter, System};
use tokio::runtime::Handle;

use crate::{
    connection::Connection,
    control::{supervisor::Unlaunched, ways::Control},
    error::{ConfigError, StartError},
    server::{
        builder::{LineServer, Placement, Signals},
        doors::{Defaults, Doors},
        handle::ServerHandle,
        protocol::Served,
        signals::{EndSignals, drain_on_signals},
    },
    session::handler::LineHandler,
};

impl<A, F> LineServer<A, F>
where
    A: LineHandler,
    F: Fn(&Connection) -> A + Clone + Send + 'static,
{
    /// Starts the server in the current actix system and returns at once.
    ///
    /// The server runs until it is drained, even if the handle is dropped.
    ///
    /// # Errors
    /// Returns a [`StartError`] for an invalid setting, without an actix system, or if a worker's thread cannot be
    /// made. Nothing runs then.
    pub fn start(self) -> Result<ServerHandle, StartError> {
        let count = match self.placement {
            Placement::Current => 1,
            Placement::Arbiters(workers @ 1..=LineServer::MAX_WORKERS) => workers,
            Placement::Arbiters(workers) => return Err(ConfigError::Workers { workers }.into()),
        };
        let backlog = i32::try_from(self.backlog).ok().filter(|backlog| *backlog > 0);
        let backlog = backlog.ok_or(ConfigError::Backlog { backlog: self.backlog })?;
        if self.listeners.is_empty() {
            return Err(ConfigError::NoListener.into());
        }
        self.options.check()?;
        // Whatever runs here is spawned by way of the arbiter: `actix_rt::spawn` panics before its thread runs it.
        let home = Arbiter::try_current().filter(|home| System::is_registered() && home.alive());
        // Signals are heard by way of the runtime that this is called in.
        let has_runtime = !matches!(self.signals, Signals::Drain(_)) || Handle::try_current().is_ok();
        let home = home.filter(|_| has_runtime).ok_or(StartError::NoSystem)?;
        let arbiters = match self.placement {
            Placement::Arbiters(_) => start_arbiters(count)?,
            Placement::Current => Vec::new(),
        };

        // Before any listener says that it listens: whoever reads that may send a signal at once.
        let signals = match &self.signals {
            Signals::Drain(drain) => EndSignals::new()
                .inspect_err(|error| {
                    log::error!("signals cannot be handled, they end the process at once: {error}");
                })
                .ok()
                .map(|signals| (signals, drain.clone())),
            Signals::Unset | Signals::Disabled => None,
        };
        let supervisor = Unlaunched::new();
        let supervisors = supervisor.addresses();
        let places = match self.placement {
            Placement::Arbiters(_) => arbiters.iter().map(Arbiter::handle).collect(),
            Placement::Current => vec![home.clone()],
        };
        let session = self.limits.session;
        let control = Control::new(self.limits, count, arbiters, home.clone(), supervisor.address().recipient());
        let doors = Arc::new(Doors::new(Defaults {
            framing: self.framing,
            protocol: Box::new(Served::new(self.factory)),
            session,
            backlog,
            options: self.options,
            gates: self.gates,
            slow_turn: self.slow_turn,
            measures_answers: self.measures_answers,
            #[cfg(feature = "record")]
            recorder: self.recorder,
            places: places.clone(),
        }));
        control.set_doors(Arc::clone(&doors) as _);
        doors.launch(&control, control.add_workers(), None);
        for (listener, protocol) in self.listeners.into_iter().zip(self.protocols) {
            // It listens already, and its name is its own: nothing is left that could fail.
            if let Err(error) = doors.open(&control, listener, protocol) {
                log::error!("a listener is lost: {error}");
            }
        }
        home.spawn_fn({
            let control = Arc::clone(&control);
            move || supervisor.launch(&control)
        });
        let server = ServerHandle { control, supervisors, arbiters: places };
        if let Some((signals, drain)) = signals {
            home.spawn(drain_on_signals(server.clone(), signals, drain));
        }
        self.when_started.into_iter().for_each(|f| f(&server));
        Ok(server)
    }
}

/// Starts the workers' threads: all of them, or none.
fn start_arbiters(count: usize) -> Result<Vec<Arbiter>, StartError> {
    let mut arbiters = Vec::with_capacity(count);
    for number in 1..=count {
        match Arbiter::try_new() {
            Ok(arbiter) => arbiters.push(arbiter),
            Err(source) => {
                for arbiter in &arbiters {
                    arbiter.stop();
                }
                // They have run nothing: the error says all that there is to say.
                arbiters.into_iter().for_each(|arbiter| drop(arbiter.join()));
                return Err(StartError::Worker { worker: number, workers: count, source });
            }
        }
    }
    Ok(arbiters)
}
