//! `ConnectorBuilder`: what a connector connects to, and how.
//!
//! Everything is checked once, before anything runs. Not here: what runs then (`connector`).

use std::{fmt, io, net::SocketAddr, rc::Rc, time::Duration};

use actix::{Actor, Addr, Recipient};

use crate::{
    connect::{
        backoff::Backoff,
        connector::{Connector, Factory},
        messages::{Askers, ConnectorEvent},
        target::{Resolve, Way, is_address},
    },
    connection::Connection,
    error::ConfigError,
    framing::Framing,
    limits::{LONGEST_TIMEOUT, SessionLimits},
    session::handler::LineHandler,
    wire::tcp,
};

/// How long an attempt to connect may take, by default. Linux repeats a SYN after 1, 3 and 7 seconds, so three lost ones
/// are forgiven.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// After how long a silence the peer's machine is asked whether it is still there, by default.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Makes a [`Connector`]: what it connects to, and how.
#[must_use = "a connector does nothing until it is started"]
pub struct ConnectorBuilder<A> {
    pub(super) target: String,
    pub(super) resolve: Option<Resolve>,
    pub(super) connect_timeout: Duration,
    pub(super) keepalive: Option<Duration>,
    pub(super) framing: Framing,
    pub(super) limits: SessionLimits,
    pub(super) backoff: Backoff,
    pub(super) max_attempts: Option<u32>,
    pub(super) subscribers: Vec<Recipient<ConnectorEvent>>,
    pub(super) factory: Factory<A>,
}

impl<A> fmt::Debug for ConnectorBuilder<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectorBuilder")
            .field("target", &self.target)
            .field("connect_timeout", &self.connect_timeout)
            .field("backoff", &self.backoff)
            .field("max_attempts", &self.max_attempts)
            .finish_non_exhaustive()
    }
}

impl<A: LineHandler> ConnectorBuilder<A> {
    /// Has every [`ConnectorEvent`] sent to `recipient`, from the first on. Later ones: [`Subscribe`](crate::control::messages::Subscribe).
    pub fn subscribe(mut self, recipient: Recipient<ConnectorEvent>) -> Self {
        self.subscribers.push(recipient);
        self
    }

    /// Sets who looks up the addresses, at each attempt anew. Default: the system's resolver, and the target has to be
    /// written as `HOST:PORT`.
    ///
    /// `resolve` gets the target as it was given, so it may be the name of anything: a service record, a key in a
    /// registry. Its addresses are tried in their order, the two families taking turns.
    ///
    /// ```
    /// # use actix_lines::{Connector, Rot13};
    /// let connector = Connector::builder("the nearest rot13d", |_connection, _nth| Rot13)
    ///     .resolver(async |_target| Ok(vec!["[2001:db8::7]:40713".parse().unwrap(), "192.0.2.7:40713".parse().unwrap()]));
    /// # let _ = connector;
    /// ```
    pub fn resolver<F, R>(mut self, resolve: F) -> Self
    where
        F: Fn(String) -> R + 'static,
        R: Future<Output = io::Result<Vec<SocketAddr>>> + 'static,
    {
        self.resolve = Some(Box::new(move |target| Box::pin(resolve(target))));
        self
    }

    /// Sets how long one attempt may take, from the look-up to the connection, over all addresses. Default: 10 s.
    ///
    /// A look-up by the system's resolver cannot be interrupted: it is then forgotten, on a thread of its own.
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::ConnectTimeout`] unless it is 1 ms to 24 days.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets after how long a silence the kernel asks the peer's machine whether it is still there; then it does so every
    /// sixth of that time, and ends the connection when several of these probes, nine on Linux, are not answered. Without
    /// it a session that only listens does not notice that its peer's machine is gone. Default: 60 s.
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::Keepalive`] unless it is 1 s to 9 hours, or none.
    pub fn keepalive(mut self, after: Option<Duration>) -> Self {
        self.keepalive = after;
        self
    }

    /// Sets how bytes are cut into lines. Default: [`Framing::lf`].
    pub fn framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// Sets the limits of its sessions. Of [`Limits`](crate::Limits) only those of a single session count. Default:
    /// [`Limits::default`](crate::Limits::default).
    pub fn limits(mut self, limits: impl Into<SessionLimits>) -> Self {
        self.limits = limits.into();
        self
    }

    /// Sets how long to wait between attempts. Default: up to 500 ms, doubled up to 30 s: see [`Backoff`].
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::Backoff`] for a wait under 1 ms or over 24 days, a factor of 0, or a
    /// first wait longer than the longest.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets how many attempts in a row may fail before the connector gives up. A connection that ends before
    /// [`Backoff::max`] is over is one of them. Default: it never does.
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::MaxAttempts`] for 0.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// Starts the connector on the current arbiter; its sessions run there too.
    ///
    /// It lives until it is told to [`Disconnect`](crate::connect::messages::Disconnect), or gives up, whether anybody keeps its address or not.
    ///
    /// # Errors
    /// [`ConfigError`], before anything has been started.
    ///
    /// # Panics
    /// Outside of an actix arbiter, as [`Actor::start`] does.
    pub fn start(self) -> Result<Addr<Connector<A>>, ConfigError> {
        let is_timeout = |timeout| (Duration::from_millis(1)..=LONGEST_TIMEOUT).contains(&timeout);
        if self.resolve.is_none() && !is_address(&self.target) {
            return Err(ConfigError::Target { target: self.target });
        }
        if !is_timeout(self.connect_timeout) {
            return Err(ConfigError::ConnectTimeout { timeout: self.connect_timeout });
        }
        self.keepalive.map_or(Ok(()), tcp::check_keepalive)?;
        let Backoff { initial, factor, max } = self.backoff;
        if !self.backoff.is_valid() {
            return Err(ConfigError::Backoff { initial, max, factor });
        }
        if self.max_attempts == Some(0) {
            return Err(ConfigError::MaxAttempts);
        }
        let resolve = self.resolve.unwrap_or_else(|| {
            Box::new(|target| Box::pin(async move { Ok(tokio::net::lookup_host(target).await?.collect()) }))
        });
        let Self { target, connect_timeout, keepalive, .. } = self;
        let connector = Connector {
            way: Rc::new(Way { target, resolve, connect_timeout, keepalive }),
            framing: self.framing,
            limits: self.limits,
            backoff: self.backoff,
            max_attempts: self.max_attempts,
            factory: self.factory,
            subscribers: self.subscribers,
            attempt: 1,
            connections: 0,
            live: None,
            waiting: Askers::default(),
            disconnecting: None,
        };
        Ok(connector.start())
    }
}

impl<A: LineHandler> Connector<A> {
    /// Starts from the defaults: tries for ever, each attempt 10 s at most, [`Framing::lf`],
    /// [`Limits::default`](crate::Limits::default).
    ///
    /// `target` is `HOST:PORT`, unless there is a [`resolver`](ConnectorBuilder::resolver). `factory` makes the actor of
    /// each connection, and is told which one it is, counted from 1. If it panics, that connection is closed and the
    /// attempt has failed; it will be called again for the next.
    pub fn builder(
        target: impl Into<String>,
        factory: impl FnMut(&Connection, u64) -> A + 'static,
    ) -> ConnectorBuilder<A> {
        ConnectorBuilder {
            target: target.into(),
            resolve: None,
            connect_timeout: CONNECT_TIMEOUT,
            keepalive: Some(KEEPALIVE),
            framing: Framing::default(),
            limits: SessionLimits::default(),
            backoff: Backoff::default(),
            max_attempts: None,
            subscribers: Vec::new(),
            factory: Box::new(factory),
        }
    }
}
