//! `LineServer`: the builder, and the handle to what it starts.
//!
//! Everything is checked once, before anything runs.
//! Not here: accepting (`acceptor`), counting and draining (`supervisor`), flags and exit codes (the server binary).

use std::{
    fmt, io,
    marker::PhantomData,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use actix::{Addr, Handler, Message, dev::channel::channel};
use actix_rt::{Arbiter, ArbiterHandle, System};
use bytes::Bytes;
use tokio::{
    net::TcpStream,
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{
    caught::{dispose, panic_text},
    connection::{Connection, ListenerId, SessionId},
    control::{
        control::{Control, Finished},
        messages::{
            Drain, GetLimits, GetStats, Kick, LimitsChange, ListSessions, PauseListener, Push, Pushed, SetLimits,
        },
        orders::{Admitted, Order, WorkerHandle},
        query::{SessionFilter, SessionInfo, SessionPage, SessionQuery},
        stats::{DrainReport, Stats},
        supervisor::Supervisor,
    },
    error::{BindError, ConfigError, ServerEnded, StartError},
    framing::Framing,
    limits::{Limits, MAILBOX_CAPACITY, SessionLimits},
    listen::acceptor::{self, StartHere},
    report::{CloseReason, Half},
    session::{handler::LineHandler, turn::Session},
    shared::SharedBytes,
    wire::tcp::{self, SocketOptions},
    worker::{
        task,
        worker::{Upstream, Worker},
    },
};

/// How long a question waits for a new supervisor when its own has ended: until then the system has.
const TAKE_OVER: Duration = Duration::from_secs(1);

/// A server of line sessions: listeners, workers, limits, and what makes a session's actor.
///
/// ```
/// use actix::Actor;
/// use actix_lines::{Line, LineContext, LineHandler, LineServer};
///
/// #[derive(Default)]
/// struct Shout;
///
/// impl Actor for Shout {
///     type Context = LineContext<Self>;
/// }
///
/// impl LineHandler for Shout {
///     fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
///         ctx.write(&line.to_ascii_uppercase());
///     }
/// }
///
/// # #[actix::main]
/// # async fn main() -> std::io::Result<()> {
/// let server = LineServer::new(|_connection| Shout).bind("127.0.0.1:0")?.start()?;
/// assert_ne!(server.local_addrs()[0].port(), 0);
/// server.drain(std::time::Duration::from_secs(1)).await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a server does nothing until it is started or run"]
pub struct LineServer<A, F> {
    factory: F,
    listeners: Vec<(TcpListener, SocketAddr)>,
    /// Which of them we have bound to all addresses of both families.
    dual_stack: Vec<usize>,
    framing: Framing,
    limits: Limits,
    placement: Placement,
    backlog: u32,
    options: SocketOptions,
    signals: Signals,
    actor: PhantomData<fn() -> A>,
}

/// What SIGTERM and SIGINT do.
#[derive(Clone, Copy, Debug)]
enum Signals {
    /// `run` drains, `start` leaves them alone.
    Unset,
    Disabled,
    Drain(Duration),
}

#[derive(Clone, Copy, Debug)]
enum Placement {
    Arbiters(usize),
    Current,
}

impl<A, F> fmt::Debug for LineServer<A, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineServer")
            .field("listeners", &self.listeners)
            .field("framing", &self.framing)
            .field("limits", &self.limits)
            .field("placement", &self.placement)
            .finish_non_exhaustive()
    }
}

impl LineServer<(), ()> {
    /// The most workers that may be asked for. More threads than this serve no machine.
    pub const MAX_WORKERS: usize = 1024;

    /// Connections that the kernel holds before they are accepted, by default. It caps this at `net.core.somaxconn`.
    pub const DEFAULT_BACKLOG: u32 = 4096;

    /// How long a peer may be silent before the kernel asks it whether it is still there, by default: 5 min.
    pub const DEFAULT_KEEPALIVE: Duration = tcp::DEFAULT_KEEPALIVE;

    /// How much the kernel may hold of a session by default, each way: 256 KiB. Unit: bytes.
    pub const DEFAULT_SOCKET_BUFFER: usize = tcp::DEFAULT_SOCKET_BUFFER;
}

impl<A, F> LineServer<A, F>
where
    A: LineHandler,
    F: Fn(&Connection) -> A + Clone + Send + 'static,
{
    /// Starts from the defaults: no listener, a worker for each core, [`Framing::lf`], [`Limits::default`].
    ///
    /// `factory` makes the actor of each connection, on the worker that will run it. If it panics, that connection is
    /// closed and reported like a session whose handler panicked.
    pub fn new(factory: F) -> Self {
        Self {
            factory,
            listeners: Vec::new(),
            dual_stack: Vec::new(),
            framing: Framing::default(),
            limits: Limits::default(),
            placement: Placement::Arbiters(std::thread::available_parallelism().map_or(1, usize::from)),
            backlog: LineServer::DEFAULT_BACKLOG,
            options: SocketOptions::default(),
            signals: Signals::Unset,
            actor: PhantomData,
        }
    }

    /// Adds a listener. Port 0 asks for a free one: see [`local_addrs`](Self::local_addrs). Of a name with several addresses
    /// the first that can be bound is used.
    ///
    /// `[::]` is every address of this machine, of IPv4 and IPv6. Where an IPv4 listener has the same port, whichever was
    /// added first, it is those of IPv6 alone: so `[::]` and `0.0.0.0` work together.
    ///
    /// # Errors
    /// [`BindError`], which says what could not be looked up or bound, and why.
    pub fn bind(mut self, address: impl ToSocketAddrs + fmt::Debug) -> Result<Self, BindError> {
        let unresolved = |source| BindError::Resolve { address: format!("{address:?}"), source };
        let mut last = unresolved(io::ErrorKind::NotFound.into());
        for address in address.to_socket_addrs().map_err(unresolved)? {
            if address.is_ipv4() {
                self = self.leave_ipv4(address.port())?;
            }
            let is_v6_wildcard = address.is_ipv6() && address.ip().is_unspecified();
            let has_ipv4 = self.listeners.iter().any(|(_, other)| other.is_ipv4() && other.port() == address.port());
            match listen_on(address, self.backlog, is_v6_wildcard.then_some(has_ipv4)) {
                Ok(listener) => {
                    if is_v6_wildcard && !has_ipv4 {
                        self.dual_stack.push(self.listeners.len());
                    }
                    return self.listen(listener);
                }
                Err(source) => last = BindError::Listen { address, source },
            }
        }
        self.listeners.clear();
        Err(last)
    }

    /// Has the listener on `[::]` and this port, if we have bound one, leave IPv4 to another one. It is bound anew: the
    /// kernel does not change this of a socket that has an address.
    fn leave_ipv4(mut self, port: u16) -> Result<Self, BindError> {
        let Some(at) = self.dual_stack.iter().position(|at| self.listeners[*at].1.port() == port) else {
            return Ok(self);
        };
        let at = self.dual_stack.swap_remove(at);
        let (socket, address) = self.listeners.remove(at);
        drop(socket);
        let socket = listen_on(address, self.backlog, Some(true));
        self = self.listen(socket.map_err(|source| BindError::Listen { address, source })?)?;
        // Where it was: its number is its place.
        self.listeners[at..].rotate_right(1);
        Ok(self)
    }

    /// Adds a listener that exists already, as one handed over by a service manager. It is made non-blocking.
    ///
    /// # Errors
    /// [`BindError::Listen`] if it is no listening socket that we can use.
    pub fn listen(mut self, listener: TcpListener) -> Result<Self, BindError> {
        if self.listeners.len() > usize::from(u16::MAX) - 1 {
            return Err(BindError::TooMany);
        }
        let unusable = |address| move |source| BindError::Listen { address, source };
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let address = listener.local_addr().map_err(unusable(nowhere))?;
        listener.set_nonblocking(true).map_err(unusable(address))?;
        // Those asked for so far, for whoever connects before the start, which says what is wrong with them.
        if self.options.check().is_ok() {
            self.options.apply(&socket2::SockRef::from(&listener)).map_err(unusable(address))?;
        }
        self.listeners.push((listener, address));
        Ok(self)
    }

    /// The listeners' real addresses, in the order they were added.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|(_, address)| *address).collect()
    }

    /// Sets how bytes are cut into lines. Default: [`Framing::lf`].
    pub fn framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// Sets the limits. Default: [`Limits::default`]; for a server that strangers reach there is [`Limits::exposed`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets how many workers, each an arbiter with a thread of its own, run the sessions. Default: one for each core.
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::Workers`] unless it is 1 to x(LineServer::MAX_WORKERS).
    pub fn workers(mut self, workers: usize) -> Self {
        self.placement = Placement::Arbiters(workers);
        self
    }

    /// Runs the sessions on the arbiter that the server is started on, beside whatever else it runs.
    pub fn on_current_arbiter(mut self) -> Self {
        self.placement = Placement::Current;
        self
    }

    /// Sets how many connections the kernel holds before they are accepted. Default: [`DEFAULT_BACKLOG`](LineServer::DEFAULT_BACKLOG).
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::Backlog`] for 0 and above `i32::MAX`.
    pub fn backlog(mut self, backlog: u32) -> Self {
        self.backlog = backlog;
        self
    }

    /// Sets after how long a silence the kernel asks a peer whether it is still there; without an answer to ten such
    /// questions, a sixth of that time apart, the connection is lost. Default:
    /// [`DEFAULT_KEEPALIVE`](LineServer::DEFAULT_KEEPALIVE), 5 min; `None` never asks.
    ///
    /// It finds peers that went without a FIN, also where [`idle_timeout`](crate::LimitsBuilder::idle_timeout) is off.
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::Keepalive`] unless it is 1 s to 9 hours.
    ///
    /// # Source
    /// The default is Redis's `tcp-keepalive`.
    pub fn keepalive(mut self, after: Option<Duration>) -> Self {
        self.options.keepalive = after;
        self
    }

    /// Sets how much of a session's output the kernel may hold, what it needs for itself included. Unit: bytes. Default:
    /// 256 KiB; `None` lets the kernel choose, which goes up to `net.ipv4.tcp_wmem`, 4 MiB as a rule. The kernel caps it
    /// at twice `net.core.wmem_max`.
    ///
    /// More than a connection's bandwidth times its round trip is not used: a larger one serves a peer faster that is far
    /// away and is sent much at once.
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::SocketBuffer`] unless it is 4 KiB to 1 GiB.
    pub fn send_buffer(mut self, bytes: Option<usize>) -> Self {
        self.options.send_buffer = bytes;
        self
    }

    /// Sets how much of a session's input the kernel may hold, what it needs for itself included. Unit: bytes. Default:
    /// 256 KiB; `None` lets the kernel choose, which goes up to `net.ipv4.tcp_rmem`. The kernel caps it at twice
    /// `net.core.rmem_max`.
    ///
    /// # Errors
    /// As [`send_buffer`](Self::send_buffer).
    pub fn receive_buffer(mut self, bytes: Option<usize>) -> Self {
        self.options.receive_buffer = bytes;
        self
    }

    /// Has SIGTERM and SIGINT drain the server, with `deadline` for its sessions; a second signal aborts the rest.
    /// Default: [`run`](Self::run) does so with [`Drain::DEFAULT_DEADLINE`], [`start`](Self::start) leaves signals alone.
    ///
    /// From then on these signals no longer end the process by themselves, not even after the server has ended.
    pub fn drain_on_signals(mut self, deadline: Duration) -> Self {
        self.signals = Signals::Drain(deadline);
        self
    }

    /// Leaves SIGTERM and SIGINT alone, as [`start`](Self::start) does by default: for a program that handles them itself.
    pub fn disable_signals(mut self) -> Self {
        self.signals = Signals::Disabled;
        self
    }

    /// Runs the server until it is drained or aborted: by SIGTERM or SIGINT, as
    /// [`drain_on_signals`](Self::drain_on_signals) says, unless [`disable_signals`](Self::disable_signals) was called.
    /// A single worker runs on the current arbiter.
    ///
    /// To drop the future that this returns does not end the server.
    ///
    /// # Errors
    /// As [`start`](Self::start), and an error if every worker has stopped by itself.
    pub async fn run(mut self) -> io::Result<()> {
        if let Signals::Unset = self.signals {
            self.signals = Signals::Drain(Drain::DEFAULT_DEADLINE);
        }
        if let Placement::Arbiters(1) = self.placement {
            // This thread has nothing else to do; and a process of one thread pays less for each system call, in the
            // kernel (no counting of a descriptor's users) and in libc (no cancellation points).
            self.placement = Placement::Current;
        }
        let server = self.start()?;
        server.wait().await
    }

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
        let (supervisor, supervisor_mailbox) = channel(MAILBOX_CAPACITY);
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
        let control =
            Control::new(self.limits, listeners.len(), handles.clone(), arbiters, home.clone(), Addr::new(supervisor));
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
                Supervisor::launch_with(&control, supervisor_mailbox);
            }
        });
        let finished = control.when_finished();
        let server = ServerHandle { control, addresses, listeners, arbiters: places, finished };
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

/// Socket options as std's own listener, and a backlog of our own.
fn listen_on(address: SocketAddr, backlog: u32, only_v6: Option<bool>) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if let Some(only_v6) = only_v6 {
        // Said in any case: what it is otherwise is a setting of the machine.
        socket.set_only_v6(only_v6)?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX).max(1))?;
    Ok(socket.into())
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
    mut admitted: Admitted,
    framing: Framing,
    factory: &impl Fn(&Connection) -> A,
) {
    let connection = admitted.connection;
    let Some(stream) = admitted.stream.take() else { return };
    let place = admitted.place.take();
    let made = catch_unwind(AssertUnwindSafe(|| factory(&connection)));
    match (TcpStream::from_std(stream), made) {
        (Ok(stream), Ok(actor)) => Session::start(worker, stream.into(), &connection, place, framing, actor),
        (stream, made) => {
            let reason = match &stream {
                Err(error) => CloseReason::Io(Half::Read, error.kind()),
                Ok(_) => CloseReason::HandlerPanicked,
            };
            match made {
                Err(payload) => {
                    if let Some(events) = worker.panics.pass() {
                        let text = panic_text(&*payload);
                        log::error!("session {}: the factory of its actor panicked: {text}{events}", connection.id);
                    }
                    dispose(payload);
                }
                Ok(actor) => {
                    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(actor))) {
                        dispose(payload);
                    }
                }
            }
            let slot = worker.open(&connection, place);
            worker.slot(slot, |slot| slot.set_reason(reason));
            drop(stream);
            worker.close(slot, true);
        }
    }
}

/// SIGINT and SIGTERM, ours from when this is made.
struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl EndSignals {
    fn new() -> Option<Self> {
        match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
            (Ok(interrupt), Ok(terminate)) => Some(Self { interrupt, terminate }),
            (Err(error), _) | (_, Err(error)) => {
                log::error!("signals cannot be handled, they end the process at once: {error}");
                None
            }
        }
    }
}

async fn drain_on_signals(server: ServerHandle, mut signals: EndSignals, deadline: Duration) {
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

/// A listener of a running server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerInfo {
    /// Its number, for [`ServerHandle::pause`] and [`SessionFilter`]s.
    pub id: ListenerId,
    /// The address that it is bound to, with its real port.
    pub local_addr: SocketAddr,
}

/// A running server. Cheap to clone; dropping it changes nothing.
#[derive(Clone, Debug)]
pub struct ServerHandle {
    control: Arc<Control>,
    addresses: Vec<SocketAddr>,
    listeners: Vec<ListenerInfo>,
    arbiters: Vec<ArbiterHandle>,
    finished: watch::Receiver<Option<Finished>>,
}

impl ServerHandle {
    /// The listeners' real addresses, in the order they were added.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The listeners with their numbers, in the order they were added.
    ///
    /// ```
    /// # use actix_lines::{LineServer, Rot13};
    /// # #[actix::main]
    /// # async fn main() -> std::io::Result<()> {
    /// # let server = LineServer::new(|_| Rot13).bind("127.0.0.1:0")?.start()?;
    /// for listener in server.listeners() {
    ///     server.pause(listener.id).await?;
    ///     println!("{} is paused", listener.local_addr);
    /// }
    /// # server.abort().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn listeners(&self) -> &[ListenerInfo] {
        &self.listeners
    }

    /// The supervisor, for those who send messages: [`GetStats`], [`ListSessions`], [`Drain`],
    /// [`Subscribe`](crate::Subscribe).
    #[must_use]
    pub fn supervisor(&self) -> Addr<Supervisor> {
        self.control.supervisor()
    }

    /// Asks the supervisor; should that have ended unasked, its successor.
    async fn ask<M>(&self, message: M) -> Result<M::Result, ServerEnded>
    where
        M: Message + Clone + Send + 'static,
        M::Result: Send,
        Supervisor: Handler<M>,
    {
        let mut supervisors = self.control.supervisors();
        loop {
            let supervisor = supervisors.borrow_and_update().clone();
            if let Ok(answer) = supervisor.send(message.clone()).await {
                return Ok(answer);
            }
            if !matches!(tokio::time::timeout(TAKE_OVER, supervisors.changed()).await, Ok(Ok(()))) {
                return Err(ServerEnded);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// The workers' arbiters, in the order of their numbers.
    #[must_use]
    pub fn arbiters(&self) -> &[ArbiterHandle] {
        &self.arbiters
    }

    /// The counters now.
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn stats(&self) -> Result<Stats, ServerEnded> {
        self.ask(GetStats).await
    }

    /// A page of the live sessions; [`SessionQuery::default`] is the first thousand.
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn sessions(&self, query: SessionQuery) -> Result<SessionPage, ServerEnded> {
        self.ask(ListSessions(query)).await
    }

    /// One session, if it lives.
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn session(&self, id: SessionId) -> Result<Option<SessionInfo>, ServerEnded> {
        let query = SessionQuery { filter: SessionFilter::id(id), ..SessionQuery::default() };
        Ok(self.sessions(query).await?.sessions.pop())
    }

    /// Writes bytes to the sessions that `whom` says: to one, to those of a network, or to all, which share them.
    ///
    /// ```
    /// # use actix_lines::{LineServer, Rot13, SessionFilter};
    /// # #[actix::main]
    /// # async fn main() -> std::io::Result<()> {
    /// # let server = LineServer::new(|_| Rot13).bind("127.0.0.1:0")?.start()?;
    /// let pushed = server.push(SessionFilter::default(), "the server restarts at noon\n").await?;
    /// println!("{} sessions were told, {} do not read", pushed.sessions, pushed.dropped);
    /// # server.abort().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn push(&self, whom: SessionFilter, bytes: impl Into<Bytes>) -> Result<Pushed, ServerEnded> {
        self.ask(Push { whom, bytes: SharedBytes::from(bytes.into()).into_bytes() }).await
    }

    /// Ends the sessions that `whom` says, politely, each with `goodbye` if that is not empty; returns how many.
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn kick(&self, whom: SessionFilter, goodbye: impl Into<Bytes>) -> Result<u64, ServerEnded> {
        self.ask(Kick { whom, goodbye: SharedBytes::from(goodbye.into()).into_bytes() }).await
    }

    /// Stops accepting on a listener: the backlog holds what comes. [`listeners`](Self::listeners) has the numbers; false
    /// if there is none with this one. It holds for whichever acceptor comes after one that failed.
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn pause(&self, listener: ListenerId) -> Result<bool, ServerEnded> {
        self.ask(PauseListener { listener, paused: true }).await
    }

    /// Undoes [`pause`](Self::pause).
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn resume(&self, listener: ListenerId) -> Result<bool, ServerEnded> {
        self.ask(PauseListener { listener, paused: false }).await
    }

    /// The limits in force.
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn limits(&self) -> Result<Limits, ServerEnded> {
        self.ask(GetLimits).await
    }

    /// Changes the limits, for the sessions that live as well, and says which of those it ends.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use actix_lines::{LineServer, Rot13};
    /// # #[actix::main]
    /// # async fn main() -> std::io::Result<()> {
    /// # let server = LineServer::new(|_| Rot13).bind("127.0.0.1:0")?.start()?;
    /// let shorter = server.limits().await?.to_builder().idle_timeout(Some(Duration::from_secs(60))).build()?;
    /// let would_end = server.preview_limits(shorter.clone()).await?.ends.len();
    /// if would_end < 100 {
    ///     server.set_limits(shorter).await?;
    /// }
    /// # server.abort().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn set_limits(&self, limits: Limits) -> Result<LimitsChange, ServerEnded> {
        self.ask(SetLimits { limits, dry_run: false }).await
    }

    /// Says which sessions [`set_limits`](Self::set_limits) would end, and changes nothing.
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn preview_limits(&self, limits: Limits) -> Result<LimitsChange, ServerEnded> {
        self.ask(SetLimits { limits, dry_run: true }).await
    }

    /// Ends the server: accepts no more, lets every session answer what it has read, flush and close; aborts what is left
    /// after a deadline. A [`Duration`] is that deadline; a [`Drain`] has a goodbye and is spread over time besides.
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn drain(&self, drain: impl Into<Drain>) -> Result<DrainReport, ServerEnded> {
        let mut drain = drain.into();
        drain.goodbye = SharedBytes::from(drain.goodbye).into_bytes();
        self.ask(drain).await
    }

    /// Ends the server now: unsent bytes are dropped and counted.
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn abort(&self) -> Result<DrainReport, ServerEnded> {
        self.drain(Duration::ZERO).await
    }

    /// Waits until the server has ended and its workers' threads are gone.
    ///
    /// # Errors
    /// If every worker stopped without having been asked to, a listener's acceptor failed again and again, or the system
    /// stopped under the server.
    pub async fn wait(&self) -> io::Result<()> {
        let mut finished = self.finished.clone();
        match finished.wait_for(Option::is_some).await.map(|how| *how) {
            Ok(Some(Finished::AsAsked)) => Ok(()),
            Ok(Some(Finished::LostListener(address))) => {
                Err(io::Error::other(format!("cannot go on accepting on {address}: look above for what failed")))
            }
            Ok(_) => Err(io::Error::other("every worker has stopped: look above for the panic that ended it")),
            Err(_) => Err(ServerEnded.into()),
        }
    }
}
