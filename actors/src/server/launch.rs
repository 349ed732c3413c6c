//! Launch: starts threads, workers, acceptors and the supervisor of a server: all of them or none.
//!
//! Not here: settings (`builder`), a running server (`handle`).

use std::{
    rc::Rc,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use actix_rt::{Arbiter, System};
use tokio::{runtime::Handle, sync::mpsc};

#[cfg(feature = "record")]
use crate::record::recorder::Recorder;
use crate::{
    connection::{Connection, ListenerId},
    control::{
        orders::{Admitted, Order, WorkerHandle},
        supervisor::Unlaunched,
        ways::Control,
    },
    error::{ConfigError, StartError},
    framing::Framing,
    limits::SessionLimits,
    listen::{
        acceptor::{self, StartHere},
        listener::{BoundListener, Own},
    },
    server::{
        builder::{LineServer, Placement, Signals},
        handle::{ListenerInfo, ServerHandle},
        protocol::{Protocol, Served},
        signals::{EndSignals, drain_on_signals},
    },
    session::handler::LineHandler,
    wire::filters::Filters,
    worker::{task, upstream::Upstream, worker::Worker},
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
            Signals::Drain(drain) => EndSignals::new().map(|signals| (signals, drain.clone())),
            Signals::Unset | Signals::Disabled => None,
        };
        let supervisor = Unlaunched::new();
        let supervisors = supervisor.addresses();
        let addresses = self.local_addrs();
        let listeners: Vec<_> = (self.listeners.iter().zip(0..))
            .map(|(listener, number)| ListenerInfo {
                id: ListenerId::new(number, listener.own.name.as_deref()),
                local_addr: listener.address.clone(),
            })
            .collect();
        let slow_turn = self.slow_turn;
        let profiles = Profiles::new(self.limits.session, &self.listeners);

        let mut handles = Vec::new();
        let mut orders = Vec::new();
        let loads: Vec<_> = std::iter::repeat_with(Arc::<AtomicUsize>::default).take(count).collect();
        for load in loads.iter().cycle().take(profiles.count() * count) {
            let (sender, receiver) = mpsc::unbounded_channel();
            handles.push(WorkerHandle { orders: sender, load: Arc::clone(load) });
            orders.push(receiver);
        }
        let places = match self.placement {
            Placement::Arbiters(_) => arbiters.iter().map(Arbiter::handle).collect(),
            Placement::Current => vec![home.clone()],
        };
        let control = Control::new(
            self.limits,
            &listeners.iter().map(|listener| listener.id).collect::<Vec<_>>(),
            handles.clone(),
            arbiters,
            home.clone(),
            supervisor.address().recipient(),
        );
        let (framing, own) = (self.framing, Served::new(self.factory));
        let protocols: Vec<(Framing, Filters, Box<dyn Protocol>)> = (self.listeners.iter().zip(self.protocols))
            .map(|(listener, other)| {
                let Own { framing: own_framing, filters, .. } = &listener.own;
                #[cfg(feature = "record")]
                let filters = recorded(filters, listener.own.recorder.as_ref().or(self.recorder.as_ref()));
                (own_framing.unwrap_or(framing), filters.clone(), other.unwrap_or_else(|| own.duplicate()))
            })
            .collect();
        let mut acceptors = Vec::new();
        for (mut listener, ListenerInfo { id, .. }) in self.listeners.into_iter().zip(&listeners) {
            // It listens already.
            listener.update(&self.options, backlog);
            let profile = profiles.of(&listener);
            let parts = acceptor::Parts { listener, backlog, id: *id, open: control.open_listener() };
            let workers = handles[profile * count..][..count].to_vec();
            acceptors.push(AcceptorParts { parts, workers, profile, control: Arc::clone(&control) });
        }
        let mut orders = orders.into_iter().enumerate();
        let mut workers: Vec<Vec<_>> = places.iter().map(|_| Vec::new()).collect();
        for (limits, is_own) in profiles.all() {
            for (thread, workers) in workers.iter_mut().enumerate() {
                let Some((index, orders)) = orders.next() else { break };
                let (control, load) = (Arc::clone(&control), Arc::clone(&handles[index].load));
                let upstream = Upstream { control, load, thread, has_own_limits: is_own };
                let protocols = protocols
                    .iter()
                    .map(|(framing, filters, other)| (*framing, filters.clone(), other.duplicate()))
                    .collect();
                workers.push(WorkerParts { index, orders, limits, upstream, slow_turn, protocols });
            }
        }
        // With one worker its arbiter accepts too, or each connection would pay for a change of threads.
        let mut acceptors_here = if count == 1 { std::mem::take(&mut acceptors) } else { Vec::new() };
        for (workers, place) in workers.into_iter().zip(&places) {
            let acceptors = std::mem::take(&mut acceptors_here);
            place.spawn_fn(move || {
                let starts: Vec<_> = workers.into_iter().map(WorkerParts::launch).collect();
                for acceptor in acceptors {
                    let start_here = starts.get(acceptor.profile).cloned();
                    acceptor.launch(start_here);
                }
            });
        }
        home.spawn_fn({
            let control = Arc::clone(&control);
            move || {
                for acceptor in acceptors {
                    acceptor.launch(None);
                }
                supervisor.launch(&control);
            }
        });
        let server = ServerHandle { control, supervisors, addresses, listeners, arbiters: places };
        if let Some((signals, drain)) = signals {
            home.spawn(drain_on_signals(server.clone(), signals, drain));
        }
        Ok(server)
    }
}

/// A listener's filters, and behind them its recorder.
#[cfg(feature = "record")]
fn recorded(filters: &Filters, recorder: Option<&Recorder>) -> Filters {
    let mut filters = filters.clone();
    if let Some(recorder) = recorder.cloned() {
        filters.push(move |connection| recorder.session(connection));
    }
    filters
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

/// The distinct session limits of a server, the server's own first. Each worker's thread has a worker for each.
struct Profiles(Vec<SessionLimits>);

impl Profiles {
    fn new(default: SessionLimits, listeners: &[BoundListener]) -> Self {
        let mut all = vec![default];
        for limits in listeners.iter().filter_map(|listener| listener.own.limits) {
            if !all[1..].contains(&limits) {
                all.push(limits);
            }
        }
        Self(all)
    }

    fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the index of a listener's limits. A listener's own limits stay its own, even if they equal the server's.
    fn of(&self, listener: &BoundListener) -> usize {
        let own = listener.own.limits;
        own.and_then(|own| self.0[1..].iter().position(|limits| *limits == own)).map_or(0, |at| at + 1)
    }

    /// Iterates over the limits, each with true if they are a listener's own.
    fn all(&self) -> impl Iterator<Item = (SessionLimits, bool)> {
        self.0.iter().enumerate().map(|(index, limits)| (*limits, index > 0))
    }
}

/// Parts of an acceptor, on the way to its thread.
struct AcceptorParts {
    parts: acceptor::Parts,
    workers: Vec<WorkerHandle>,
    profile: usize,
    control: Arc<Control>,
}

impl AcceptorParts {
    fn launch(self, start_here: Option<StartHere>) {
        actix_rt::spawn(acceptor::keep(self.parts, self.control, self.workers, start_here));
    }
}

/// Parts of a worker, on the way to its thread.
struct WorkerParts {
    index: usize,
    orders: mpsc::UnboundedReceiver<Order>,
    limits: SessionLimits,
    upstream: Upstream,
    slow_turn: Option<Duration>,
    /// The framing, the filters and the protocol of each listener.
    protocols: Vec<(Framing, Filters, Box<dyn Protocol>)>,
}

impl WorkerParts {
    fn launch(self) -> StartHere {
        let worker = Worker::new(self.index, self.limits, Some(self.upstream));
        worker.set_slow_turn(self.slow_turn);
        let protocols = self.protocols;
        let start: StartHere = {
            let worker = Rc::downgrade(&worker);
            Rc::new(move |admitted: Admitted| {
                let listener = admitted.owed.connection().listener;
                if let Some(worker) = worker.upgrade()
                    && let Some((framing, filters, protocol)) =
                        listener.and_then(|listener| protocols.get(listener.get()))
                {
                    protocol.start(&worker, admitted, *framing, filters);
                }
            })
        };
        let start_ordered = Rc::clone(&start);
        actix_rt::spawn(task::look_after(worker, self.orders, move |admitted| start_ordered(admitted)));
        start
    }
}
