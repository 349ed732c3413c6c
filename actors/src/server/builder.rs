//! `LineServer`: the builder.
//!
//! Everything is checked once, before anything runs.
//! Not here: what runs then (`launch`, `handle`), flags and exit codes (the server binary).

use std::{
    fmt, io,
    marker::PhantomData,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    time::Duration,
};

use crate::{
    connection::Connection,
    control::messages::Drain,
    error::BindError,
    framing::Framing,
    limits::Limits,
    session::handler::LineHandler,
    wire::tcp::{self, SocketOptions},
};

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
    pub(super) factory: F,
    pub(super) listeners: Vec<(TcpListener, SocketAddr)>,
    /// Which of them we have bound to all addresses of both families.
    pub(super) dual_stack: Vec<usize>,
    pub(super) framing: Framing,
    pub(super) limits: Limits,
    pub(super) placement: Placement,
    pub(super) backlog: u32,
    pub(super) options: SocketOptions,
    pub(super) signals: Signals,
    pub(super) actor: PhantomData<fn() -> A>,
}

/// What SIGTERM and SIGINT do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signals {
    /// `run` drains, `start` leaves them alone.
    Unset,
    Disabled,
    Drain(Duration),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Placement {
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
    /// [`start`](Self::start) returns [`ConfigError::Workers`](crate::error::ConfigError::Workers) unless it is 1 to [`MAX_WORKERS`](LineServer::MAX_WORKERS).
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
    /// [`start`](Self::start) returns [`ConfigError::Backlog`](crate::error::ConfigError::Backlog) for 0 and above `i32::MAX`.
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
    /// [`start`](Self::start) returns [`ConfigError::Keepalive`](crate::error::ConfigError::Keepalive) unless it is 1 s to 9 hours.
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
    /// [`start`](Self::start) returns [`ConfigError::SocketBuffer`](crate::error::ConfigError::SocketBuffer) unless it is 4 KiB to 1 GiB.
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
