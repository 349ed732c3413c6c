//! Builder: `Console`, from its settings to its start.
//!
//! Not here: its sessions (`session`), what they share (`setup`).

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    connection::Connection,
    console::{
        out::{HIGH, LOW},
        session::{Session, TOO_MANY},
        setup::{MAX_LINE, Setup},
        strangers,
    },
    control::messages::Drain,
    error::{BindError, ConfigError, StartError},
    framing::{Framing, Overlong},
    limits::{LONGEST_TIMEOUT, Limits, Watermarks},
    listen::listener::Listener,
    server::{before_drain::BeforeDrain, builder::LineServer, handle::ServerHandle},
    session::handler::LineHandler,
    token::Token,
};

/// Time that consoles have to take their last answers, when the server has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// A console: see the [module](crate::console).
///
/// ```
/// use actix_lines::{Listener, console::Console};
///
/// let console = Console::at(Listener::at("unix:/run/app/console.sock").unix_mode(0o660)).program("app", "1.2");
/// # drop(console);
/// ```
#[derive(Debug)]
#[must_use = "a console does nothing until it is given to a server"]
pub struct Console {
    listener: Listener,
    max_sessions: usize,
    setup: Setup,
}

/// A console could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsoleError {
    /// Its listener could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A setting is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Whoever reaches it could steer the server.
    #[error(
        "a console at {address} without a token is open to whoever reaches it: give it a token, use a loopback address, or a \
         unix socket"
    )]
    Exposed {
        /// The address.
        address: SocketAddr,
    },
    /// It could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl From<ConsoleError> for io::Error {
    fn from(error: ConsoleError) -> Self {
        match error {
            ConsoleError::Bind(error) => error.into(),
            ConsoleError::Config(error) => error.into(),
            ConsoleError::Start(error) => error.into(),
            error => Self::new(io::ErrorKind::InvalidInput, error),
        }
    }
}

/// Starts a console beside a server; called once.
type Start = dyn FnOnce(&ServerHandle) -> Result<ServerHandle, StartError> + Send;

/// A console whose listener is bound: see [`Console::bind`].
#[must_use = "a console does nothing until it is started"]
pub struct BoundConsole {
    local_addrs: Vec<SocketAddr>,
    start: Box<Start>,
}

impl fmt::Debug for BoundConsole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundConsole").field("local_addrs", &self.local_addrs).finish_non_exhaustive()
    }
}

impl Console {
    /// Default of [`max_sessions`](Self::max_sessions). Unit: sessions.
    pub const DEFAULT_MAX_SESSIONS: usize = 128;

    /// Listens at an address: whatever [`Listener::at`] takes, or a [`Listener`] with settings of its own, such as TLS.
    ///
    /// A unix socket is open to its own user alone, unless [`Listener::unix_mode`] says otherwise. An IP address has to be
    /// one of this machine's own, or needs a [`token`](Self::token).
    pub fn at(listener: impl Into<Listener>) -> Self {
        Self { listener: listener.into(), max_sessions: Self::DEFAULT_MAX_SESSIONS, setup: Setup::new() }
    }

    /// Sets the secret that each peer has to send as its first line: `token SECRET`. Default: none. The secret and all
    /// commands are sent as they are: use TLS where somebody may listen.
    pub fn token(mut self, secret: Token) -> Self {
        self.setup.token = Some(secret);
        self
    }

    /// Allows the command `trace`, which shows what a session says and is told. Default: not allowed.
    pub fn allow_trace(mut self) -> Self {
        self.setup.may_trace = true;
        self
    }

    /// Sets the node that the server is in a cluster: commands then reach the sessions of all nodes, where their words say so.
    /// Default: none. Needs the feature `cluster`.
    #[cfg(feature = "cluster")]
    pub fn cluster(mut self, cluster: &crate::cluster::builder::Cluster) -> Self {
        self.setup.cluster = Some(cluster.clone());
        self
    }

    /// Sets how many sessions the console may have at once; with a [`token`](Self::token) those whose peers have sent it,
    /// beside 32 others, of which the eldest is closed for one more. Default:
    /// [`DEFAULT_MAX_SESSIONS`](Self::DEFAULT_MAX_SESSIONS), 128.
    ///
    /// # Errors
    /// [`bind`](Self::bind) returns [`ConfigError::MaxSessions`] for 0.
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.max_sessions = sessions;
        self
    }

    /// Sets the program's name and version, for the command `version`. Default: this library's.
    pub fn program(mut self, name: impl Into<String>, version: impl Into<String>) -> Self {
        (self.setup.name, self.setup.version) = (name.into(), version.into());
        self
    }

    /// Sets what the command `drain` does: `drain` is called with the time and the goodbye that were asked for, and returns
    /// the drain to carry out; it may do what has to be done before. Default: 30 s
    /// ([`Drain::DEFAULT_DEADLINE`]), without a goodbye.
    pub fn before_drain(
        mut self,
        drain: impl Fn(Option<Duration>, Option<Bytes>) -> Drain + Send + Sync + 'static,
    ) -> Self {
        self.setup.before_drain = BeforeDrain::new(drain);
        self
    }

    /// Binds its listener. Nobody is accepted before it is [started](BoundConsole::start).
    ///
    /// # Errors
    /// Returns a [`ConsoleError`] if a setting is invalid, the address cannot be bound, or the console would be open to
    /// others.
    pub fn bind(self) -> Result<BoundConsole, ConsoleError> {
        let Self { listener, max_sessions, mut setup } = self;
        let has_token = setup.token.is_some();
        setup.max_known = max_sessions;
        // None stays none, which is an error.
        let strangers = if has_token && max_sessions > 0 { strangers::MOST } else { 0 };
        let limits = Limits::builder()
            .max_sessions(max_sessions.saturating_add(strangers))
            .refuse_line(TOO_MANY)
            // An operator may take any time; the size of all that waits is bounded.
            .idle_timeout(None)
            .line_timeout(None)
            .write_timeout(None)
            // A drain takes as long as it takes.
            .wait_timeout(LONGEST_TIMEOUT)
            .outbox(Watermarks { low: LOW, high: HIGH })
            .build()?;
        let framing = Framing::lf().max_line(MAX_LINE)?.overlong(Overlong::Discard);
        let setup = Arc::new(setup);
        let sessions = Arc::clone(&setup);
        let server = LineServer::new(move |connection: &Connection| Session::new(Arc::clone(&sessions), connection))
            .on_current_arbiter()
            .disable_signals()
            .framing(framing)
            .limits(limits)
            .listen(listener)?;
        let local_addrs = server.local_addrs();
        if let Some(address) = local_addrs.iter().find(|address| !has_token && !address.ip().is_loopback()) {
            return Err(ConsoleError::Exposed { address: *address });
        }
        let start = Box::new(move |watched: &ServerHandle| {
            // Nobody else has set it: this is called once.
            let _ = setup.server.set(watched.clone());
            let console = server.start()?;
            let mut companion = watched.companion();
            let ending = console.clone();
            // An operator would take them for those of the server.
            ending.drain_quietly();
            actix_rt::spawn(async move {
                companion.server_ended().await;
                let until = Instant::now() + LAST_ANSWERS;
                // A drain drops what goes on by itself, with all that it has yet to say.
                setup.watching.end(until - LAST_ANSWERS / 2).await;
                // Its system may have ended, too.
                let _ = ending.drain(until - Instant::now()).await;
                drop(companion);
            });
            Ok(console)
        });
        Ok(BoundConsole { local_addrs, start })
    }

    /// Binds it and starts it beside a server that runs, on the current arbiter. Returns the handle of the console itself: a
    /// server of its own, which ends with the other one.
    ///
    /// # Errors
    /// As [`bind`](Self::bind), and without an actix system.
    pub fn serve(self, server: &ServerHandle) -> Result<ServerHandle, ConsoleError> {
        Ok(self.bind()?.start(server)?)
    }
}

impl BoundConsole {
    /// Returns the addresses of the console, if it listens on IP.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local_addrs
    }

    /// Starts it beside a server that runs, on the current arbiter. Returns the handle of the console itself: a server of its
    /// own, which ends with the other one. The other's [`wait`](ServerHandle::wait) is over when the console has sent its
    /// last answers, 2 s after the end of the server at the latest.
    ///
    /// # Errors
    /// Returns a [`StartError`] without an actix system.
    pub fn start(self, server: &ServerHandle) -> Result<ServerHandle, StartError> {
        (self.start)(server)
    }
}

impl<A, F> LineServer<A, F>
where
    A: LineHandler,
    F: Fn(&Connection) -> A + Clone + Send + 'static,
{
    /// Adds a console, which is bound now, and started with the server on the arbiter that starts it. Needs the feature
    /// `console`.
    ///
    /// # Errors
    /// As [`Console::bind`].
    pub fn console(self, console: Console) -> Result<Self, ConsoleError> {
        let console = console.bind()?;
        Ok(self.when_started(move |server| {
            // It needs no more than the server itself, which has just started here.
            if let Err(error) = console.start(server) {
                log::error!("the console is not there: {error}");
            }
        }))
    }
}
