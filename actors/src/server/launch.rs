//! Launch: what a builder becomes. Threads, workers, acceptors, the supervisor; all of it or nothing.
//!
//! Not here: what is set (`builder`), what a running server is asked (`handle`).

use std::{
    rc::Rc,
    sync::{Arc, atomic::AtomicUsize},
};

use actix_rt::{Arbiter, System};
use tokio::{net::TcpStream, runtime::Handle, sync::mpsc};

use crate::{
    connection::{Connection, ListenerId},
    control::{
        control::Control,
        orders::{Admitted, Order, WorkerHandle},
        supervisor::Unlaunched,
    },
    error::{ConfigError, StartError},
    framing::Framing,
    limits::SessionLimits,
    listen::acceptor::{self, StartHere},
    report::{CloseReason, Half},
    server::{
        builder::{LineServer, Placement, Signals},
        handle::{ListenerInfo, ServerHandle},
        signals::{EndSignals, drain_on_signals},
    },
    session::{handler::LineHandler, opening::Opening},
    wire::transport::Transport,
    worker::{task, upstream::Upstream, worker::Worker},
};

impl<A, F> LineServer<A, F>
where
    A: LineHandler,
    F: Fn(&Connection) -> A + Clone + Send + 'static,
{
    /// Starts the server in the current actix system and returns at once.
    ///
    /// It lives until it is drained, whether anybody keeps the handle or not.
    ///
    /// # Errors
    /// [`StartError`]: an invalid setting, no actix system, or a worker whose thread cannot be made. Nothing runs then.
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
        let signals = match self.signals {
            Signals::Drain(deadline) => EndSignals::new().map(|signals| (signals, deadline)),
            Signals::Unset | Signals::Disabled => None,
        };
        let supervisor = Unlaunched::new();
        let supervisors = supervisor.addresses();
        let addresses = self.local_addrs();
        let listeners: Vec<_> = addresses
            .iter()
            .zip(0..)
            .map(|(address, number)| ListenerInfo { id: ListenerId(number), local_addr: *address })
            .collect();

        let mut handles = Vec::new();
        let mut orders = Vec::new();
        for _ in 0..count {
            let (sender, receiver) = mpsc::unbounded_channel();
            handles.push(WorkerHandle { orders: sender, load: Arc::new(AtomicUsize::new(0)) });
            orders.push(receiver);
        }
        let places = match self.placement {
            Placement::Arbiters(_) => arbiters.iter().map(Arbiter::handle).collect(),
            Placement::Current => vec![home.clone()],
        };
        let session_limits = self.limits.session;
        let control = Control::new(
            self.limits,
            listeners.len(),
            handles.clone(),
            arbiters,
            home.clone(),
            supervisor.address().recipient(),
        );
        let mut acceptor_parts = Vec::new();
        for ((socket, _), ListenerInfo { id, local_addr: address }) in self.listeners.into_iter().zip(&listeners) {
            // It listens already; this sets the options and the backlog asked for since.
            if let Err(error) = self.options.apply(&socket2::SockRef::from(&socket)) {
                log::warn!("listener {address}: socket options not set: {error}");
            }
            if let Err(error) = socket2::SockRef::from(&socket).listen(backlog) {
                log::warn!("listener {address}: backlog not changed to {backlog}: {error}");
            }
            let _open = control.open_listener();
            acceptor_parts.push(acceptor::Parts { socket, backlog, address: *address, id: *id, _open });
        }
        for (index, (orders, place)) in orders.into_iter().zip(&places).enumerate() {
            let parts = WorkerParts {
                index,
                orders,
                limits: session_limits,
                framing: self.framing,
                control: Arc::clone(&control),
                load: Arc::clone(&handles[index].load),
                factory: self.factory.clone(),
            };
            // With one worker its arbiter accepts too, or each connection would pay for a change of threads.
            let acceptors = if count == 1 { std::mem::take(&mut acceptor_parts) } else { Vec::new() };
            let handles = handles.clone();
            let control = Arc::clone(&control);
            place.spawn_fn(move || {
                let start_here = parts.launch();
                for parts in acceptors {
                    let start_here = Some(Rc::clone(&start_here));
                    actix_rt::spawn(acceptor::keep(parts, Arc::clone(&control), handles.clone(), start_here));
                }
            });
        }
        home.spawn_fn({
            let control = Arc::clone(&control);
            move || {
                for parts in acceptor_parts {
                    actix_rt::spawn(acceptor::keep(parts, Arc::clone(&control), handles.clone(), None));
                }
                supervisor.launch(&control);
            }
        });
        let server = ServerHandle { control, supervisors, addresses, listeners, arbiters: places };
        if let Some((signals, deadline)) = signals {
            home.spawn(drain_on_signals(server.clone(), signals, deadline));
        }
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

/// What becomes a worker, on the way to its thread.
struct WorkerParts<F> {
    index: usize,
    orders: mpsc::UnboundedReceiver<Order>,
    limits: SessionLimits,
    framing: Framing,
    control: Arc<Control>,
    load: Arc<AtomicUsize>,
    factory: F,
}

impl<F> WorkerParts<F> {
    fn launch<A>(self) -> StartHere
    where
        A: LineHandler,
        F: Fn(&Connection) -> A + 'static,
    {
        let upstream = Upstream { control: self.control, load: self.load };
        let worker = Worker::new(self.index, self.limits, Some(upstream));
        let (framing, factory) = (self.framing, self.factory);
        let start: StartHere = {
            let worker = Rc::downgrade(&worker);
            Rc::new(move |admitted| {
                if let Some(worker) = worker.upgrade() {
                    start_session(&worker, admitted, framing, &factory);
                }
            })
        };
        let start_ordered = Rc::clone(&start);
        actix_rt::spawn(task::look_after(worker, self.orders, move |admitted| start_ordered(admitted)));
        start
    }
}

/// Makes a session of a connection that has arrived at its worker.
fn start_session<A: LineHandler>(
    worker: &Rc<Worker>,
    Admitted { stream, owed }: Admitted,
    framing: Framing,
    factory: &impl Fn(&Connection) -> A,
) {
    let connection = *owed.connection();
    let (transport, error) = match TcpStream::from_std(stream) {
        Ok(stream) => (stream.into(), None),
        Err(error) => (Transport::closed(), Some(error)),
    };
    let opening = Opening::new(worker, transport, connection, owed.settle(), framing);
    if let Some(error) = error {
        opening.fail(CloseReason::Io(Half::Read, error.kind()));
    } else if let Err(panicked) = opening.open(|_| (factory(&connection), ())) {
        panicked.log();
    }
}
