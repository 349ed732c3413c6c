//! Builder: `LineServer`, from its settings to its start.
//!
//! Everything is checked once, before anything runs.
//! Not here: starting (`launch`), a running server (`handle`), flags and exit codes (the server binary).

use std::{fmt, io, marker::PhantomData, net::SocketAddr, time::Duration};

#[cfg(feature = "record")]
use crate::record::recorder::Recorder;
use crate::{
    connection::Connection,
    control::messages::Drain,
    error::BindError,
    framing::Framing,
    gate::Gates,
    limits::Limits,
    listen::listener::{BoundListener, Listener},
    server::{
        handle::ServerHandle,
        protocol::{Protocol, Served},
    },
    session::handler::LineHandler,
    wire::tcp::{self, SocketOptions, UserTimeout},
    worker::slow::DEFAULT_SLOW_TURN,
};

/// Builds and starts a server of line sessions: listeners, workers, limits, and the factory of session actors.
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
///         ctx.write(line.to_ascii_uppercase());
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
    pub(super) listeners: Vec<BoundListener>,
    /// The protocol of each listener; `None` is the server's own factory.
    pub(super) protocols: Vec<Option<Box<dyn Protocol>>>,
    pub(super) framing: Framing,
    pub(super) limits: Limits,
    pub(super) placement: Placement,
    pub(super) backlog: u32,
    pub(super) options: SocketOptions,
    pub(super) signals: Signals,
    pub(super) slow_turn: Option<Duration>,
    pub(super) measures_answers: bool,
    pub(super) when_started: Vec<Box<WhenStarted>>,
    pub(super) gates: Gates,
    #[cfg(feature = "record")]
    pub(super) recorder: Option<Recorder>,
    pub(super) actor: PhantomData<fn() -> A>,
}

/// [`LineServer::when_started`]: called once.
pub(super) type WhenStarted = dyn FnOnce(&ServerHandle) + Send;

/// The action at SIGTERM and SIGINT.
#[derive(Clone, Debug)]
pub(super) enum Signals {
    /// `run` drains, `start` leaves them alone.
    Unset,
    Disabled,
    Drain(Drain),
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
    /// Most workers: more threads than this serve no machine.
    pub const MAX_WORKERS: usize = 1024;

    /// Default of [`backlog`](Self::backlog). Unit: connections. The kernel caps it at `net.core.somaxconn`.
    pub const DEFAULT_BACKLOG: u32 = 4096;

    /// Default of [`keepalive`](Self::keepalive): 5 min.
    pub const DEFAULT_KEEPALIVE: Duration = tcp::DEFAULT_KEEPALIVE;

    /// Default of [`keepalive_count`](Self::keepalive_count): 6 probes.
    pub const DEFAULT_KEEPALIVE_COUNT: u32 = tcp::DEFAULT_KEEPALIVE_COUNT;

    /// Default of [`slow_turn`](Self::slow_turn): 100 ms.
    pub const DEFAULT_SLOW_TURN: Duration = DEFAULT_SLOW_TURN;

    /// Default of [`send_buffer`](Self::send_buffer) and [`receive_buffer`](Self::receive_buffer): 256 KiB. Unit:
    /// bytes.
    pub const DEFAULT_SOCKET_BUFFER: usize = tcp::DEFAULT_SOCKET_BUFFER;
}

impl<A, F> LineServer<A, F>
where
    A: LineHandler,
    F: Fn(&Connection) -> A + Clone + Send + 'static,
{
    /// Starts from the defaults: no listener, a worker for each core, [`Framing::lf`], [`Limits::default`].
    ///
    /// `factory` makes the actor of each connection, on the worker that runs it. If it panics, that connection is
    /// closed and reported like a session whose handler panicked.
    pub fn new(factory: F) -> Self {
        Self {
            factory,
            listeners: Vec::new(),
            protocols: Vec::new(),
            framing: Framing::default(),
            limits: Limits::default(),
            placement: Placement::Arbiters(std::thread::available_parallelism().map_or(1, usize::from)),
            backlog: LineServer::DEFAULT_BACKLOG,
            options: SocketOptions::default(),
            signals: Signals::Unset,
            slow_turn: Some(LineServer::DEFAULT_SLOW_TURN),
            measures_answers: false,
            when_started: Vec::new(),
            gates: Gates::default(),
            #[cfg(feature = "record")]
            recorder: None,
            actor: PhantomData,
        }
    }

    /// Adds a listener at an address: a [`ListenAddress`](crate::ListenAddress), a text that is one, as
    /// `"127.0.0.1:40713"` or `"unix:/run/lines.sock"`, or what a std listener binds to, as `("localhost", 0)`. Port 0
    /// asks for a free port, which [`local_addrs`](Self::local_addrs) returns. Short for [`listen`](Self::listen) with
    /// [`Listener::at`].
    ///
    /// # Errors
    /// Returns a [`BindError`] that names the address that could not be understood, looked up or bound, and the reason.
    pub fn bind(self, address: impl Into<Listener>) -> Result<Self, BindError> {
        self.listen(Listener::at(address))
    }

    /// Adds a listener. A std listener converts into one: it is [inherited](Listener::inherited).
    ///
    /// # Errors
    /// Returns a [`BindError`] that names the address that could not be looked up or bound, and the reason.
    pub fn listen(mut self, listener: impl Into<Listener>) -> Result<Self, BindError> {
        self.add(listener.into(), None)?;
        Ok(self)
    }

    /// Adds a listener whose sessions are actors of another kind, which `factory` makes: several protocols in one server.
    ///
    /// ```
    /// use actix_lines::{LineServer, Listener, Rot13};
    /// # use actix_lines::{Line, LineContext, LineHandler};
    /// # struct Console;
    /// # impl actix::Actor for Console { type Context = LineContext<Self>; }
    /// # impl LineHandler for Console { fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {} }
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let server = LineServer::new(|_connection| Rot13)
    ///     .bind("127.0.0.1:0")?
    ///     .listen_with(Listener::tcp("127.0.0.1:0").name("console"), |_connection| Console)?;
    /// # drop(server);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`listen`](Self::listen).
    pub fn listen_with<B, G>(mut self, listener: impl Into<Listener>, factory: G) -> Result<Self, BindError>
    where
        B: LineHandler,
        G: Fn(&Connection) -> B + Clone + Send + 'static,
    {
        self.add(listener.into(), Some(Box::new(Served::new(factory))))?;
        Ok(self)
    }

    fn add(&mut self, listener: Listener, protocol: Option<Box<dyn Protocol>>) -> Result<(), BindError> {
        if self.listeners.len() > usize::from(u16::MAX) - 1 {
            return Err(BindError::TooMany);
        }
        if let Some(name) = listener.own_name()
            && self.listeners.iter().any(|other| other.own.name.as_deref() == Some(name))
        {
            return Err(BindError::NameTaken { name: name.to_owned() });
        }
        let bound = listener.bind(&mut self.listeners, self.backlog, &self.options)?;
        self.listeners.push(bound);
        self.protocols.push(protocol);
        Ok(())
    }

    /// Returns the real addresses and ports of the IP listeners, in the order in which they were added. Unix sockets
    /// are left out.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.address.socket_addr()).collect()
    }

    /// Sets how bytes are cut into lines. Default: [`Framing::lf`].
    pub fn framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// Sets the limits. Default: [`Limits::default`]. For a server that strangers can reach use [`Limits::exposed`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the number of workers that run the sessions, each an arbiter with a thread of its own. Default: one for
    /// each core.
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::Workers`](crate::error::ConfigError::Workers) unless it is 1 to [`MAX_WORKERS`](LineServer::MAX_WORKERS).
    pub fn workers(mut self, workers: usize) -> Self {
        self.placement = Placement::Arbiters(workers);
        self
    }

    /// Runs the sessions on the arbiter that the server is started on, beside its other actors, instead of on workers
    /// with threads of their own.
    pub fn on_current_arbiter(mut self) -> Self {
        self.placement = Placement::Current;
        self
    }

    /// Sets how many connections the kernel holds before they are accepted. Default:
    /// [`DEFAULT_BACKLOG`](LineServer::DEFAULT_BACKLOG), 4096.
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::Backlog`](crate::error::ConfigError::Backlog) for 0 and above `i32::MAX`.
    pub fn backlog(mut self, backlog: u32) -> Self {
        self.backlog = backlog;
        self
    }

    /// Sets the silence after which the kernel probes whether a peer is still there. Default:
    /// [`DEFAULT_KEEPALIVE`](LineServer::DEFAULT_KEEPALIVE), 5 min; `None` sends no probes.
    ///
    /// It probes again after each [`keepalive_interval`](Self::keepalive_interval), and the connection is lost when
    /// [`keepalive_count`](Self::keepalive_count) probes in a row have no answer: by default after twice the time, 10 min.
    /// So is, by default, one whose peer does not acknowledge what it was sent: see
    /// [`user_timeout`](Self::user_timeout). For TCP only: the kernel knows when the process behind a unix socket ends.
    ///
    /// Probes find peers that vanished without a FIN, even if [`idle_timeout`](crate::limits::LimitsBuilder::idle_timeout) is
    /// off.
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

    /// Sets the time from one probe of [`keepalive`](Self::keepalive) to the next. Default: a sixth of its time, at least
    /// 1 s.
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::KeepaliveInterval`](crate::error::ConfigError::KeepaliveInterval)
    /// unless it is 1 s to 9 hours.
    pub fn keepalive_interval(mut self, interval: Duration) -> Self {
        self.options.keepalive_interval = Some(interval);
        self
    }

    /// Sets how many probes of [`keepalive`](Self::keepalive) in a row may have no answer. Default:
    /// [`DEFAULT_KEEPALIVE_COUNT`](LineServer::DEFAULT_KEEPALIVE_COUNT), 6.
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::KeepaliveCount`](crate::error::ConfigError::KeepaliveCount) unless it
    /// is 1 to 127.
    pub fn keepalive_count(mut self, probes: u32) -> Self {
        self.options.keepalive_count = probes;
        self
    }

    /// Sets how long a peer may leave output unacknowledged until its connection is lost: `TCP_USER_TIMEOUT`. Default: the
    /// time after which [`keepalive`](Self::keepalive) finds a silent peer, 10 min, or the kernel's own retransmissions, some
    /// 15 min, without keepalive; `None` is these in any case.
    ///
    /// No probes are sent while output is unacknowledged, so that this is what finds such a peer. The
    /// [`write_timeout`](crate::limits::LimitsBuilder::write_timeout) is shorter, but runs only once the kernel takes no more.
    /// With a time shorter than keepalive needs, the kernel gives up a silent peer, too, at its first probe without an
    /// answer behind this time.
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::UserTimeout`](crate::error::ConfigError::UserTimeout) unless it is 1 s to
    /// 24 days.
    pub fn user_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.options.user_timeout = timeout.map_or(UserTimeout::Kernel, UserTimeout::After);
        self
    }

    /// Sets how much of a session's output the kernel may hold, its own overhead included. Unit: bytes. Default: 256
    /// KiB; `None` lets the kernel choose, up to `net.ipv4.tcp_wmem`, commonly 4 MiB. The kernel caps it at twice
    /// `net.core.wmem_max`.
    ///
    /// A connection uses at most its bandwidth times its round trip: a larger buffer is faster for a peer that is far
    /// away and is sent much at once.
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::SocketBuffer`](crate::error::ConfigError::SocketBuffer) unless it is 4 KiB to 1 GiB.
    pub fn send_buffer(mut self, bytes: Option<usize>) -> Self {
        self.options.send_buffer = bytes;
        self
    }

    /// Sets how much of a session's input the kernel may hold, its own overhead included. Unit: bytes. Default: 256
    /// KiB; `None` lets the kernel choose, up to `net.ipv4.tcp_rmem`. The kernel caps it at twice `net.core.rmem_max`.
    ///
    /// # Errors
    /// As [`send_buffer`](Self::send_buffer).
    pub fn receive_buffer(mut self, bytes: Option<usize>) -> Self {
        self.options.receive_buffer = bytes;
        self
    }

    /// Makes SIGTERM and SIGINT drain the server: a [`Duration`] is the deadline of its sessions, a [`Drain`] can add a
    /// goodbye and spread the ends over time. A second signal aborts the rest. Default: [`run`](Self::run) drains with
    /// [`Drain::DEFAULT_DEADLINE`], [`start`](Self::start) leaves signals alone.
    ///
    /// From then on these signals no longer end the process by themselves, not even after the server has ended.
    pub fn drain_on_signals(mut self, drain: impl Into<Drain>) -> Self {
        self.signals = Signals::Drain(drain.into());
        self
    }

    /// Sets the time from which on a turn of a session counts as slow, because the worker's other sessions had to wait.
    /// Slow turns are counted ([`Stats::slow_turns`](crate::control::stats::Stats::slow_turns)), and logged as a warning with the
    /// session's number, at most once in 10 s for each worker, with a count. Unit: real time, also under a paused
    /// clock. Default: [`DEFAULT_SLOW_TURN`](LineServer::DEFAULT_SLOW_TURN), 100 ms; `None` times no turn. A time below
    /// 10 ms counts as 10 ms: the clock is no finer.
    pub fn slow_turn(mut self, after: Option<Duration>) -> Self {
        self.slow_turn = after;
        self
    }

    /// Measures how long peers wait for answers: [`Stats::answer_times`](crate::control::Stats::answer_times). Default:
    /// false; then no clock is read for it.
    ///
    /// An answer is measured from the read that brought the last of what it answers until the kernel has taken its last
    /// byte. One read can bring many lines: all that they are answered, with what a
    /// [`wait`](actix::AsyncContext::wait) or [`wait_for`](crate::LineContext::wait_for) of the handler's has yet to write, is
    /// one answer. Each session measures one at a time, so of lines that come while an answer is on its way none is
    /// measured. A read that nothing is written for, until its turn ends or its waits are over, has no answer.
    pub fn measure_answers(mut self, measured: bool) -> Self {
        self.measures_answers = measured;
        self
    }

    /// Records the sessions of all listeners as scripts, but for those with [a recorder of their own](Listener::record).
    /// Default: none. Needs the feature `record`.
    ///
    /// After the server has ended, [`Recorder::flush`] waits for the last files.
    #[cfg(feature = "record")]
    pub fn record(mut self, recorder: &Recorder) -> Self {
        self.recorder = Some(recorder.clone());
        self
    }

    /// Calls `f` once the server has started, on the thread that starts it: for what is to run beside it.
    pub fn when_started(mut self, f: impl FnOnce(&ServerHandle) + Send + 'static) -> Self {
        self.when_started.push(Box::new(f));
        self
    }

    /// Leaves SIGTERM and SIGINT alone, for a program that handles them itself. Default for [`start`](Self::start).
    pub fn disable_signals(mut self) -> Self {
        self.signals = Signals::Disabled;
        self
    }

    /// Runs the server until it is drained or aborted: by SIGTERM or SIGINT, as
    /// [`drain_on_signals`](Self::drain_on_signals) says, unless [`disable_signals`](Self::disable_signals) was called.
    /// A single worker runs on the current arbiter.
    ///
    /// Dropping the returned future does not end the server.
    ///
    /// # Errors
    /// As [`start`](Self::start) and [`ServerHandle::wait`](crate::ServerHandle::wait).
    pub async fn run(mut self) -> io::Result<()> {
        if let Signals::Unset = self.signals {
            self.signals = Signals::Drain(Drain::DEFAULT_DEADLINE.into());
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
