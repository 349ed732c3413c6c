//! Builder: `ConnectorBuilder`, the settings of a connector.
//!
//! Everything is checked once, before anything runs.
//! Not here: the running connector (`connector`).

use std::{fmt, io, net::SocketAddr, rc::Rc, time::Duration};

use actix::{Actor, Addr, Recipient};

#[cfg(feature = "proxy")]
use crate::wire::proxy::{
    header::{ProxyHeader, ProxyVersion},
    send::SendProxy,
};
#[cfg(feature = "tls")]
use crate::wire::tls::client::TlsClient;
use crate::{
    connect::{
        backoff::Backoff,
        connector::{Connector, Factory},
        messages::{Askers, ConnectorEvent},
        target::{MakeFilter, Resolve, Way, is_address},
    },
    connection::Connection,
    error::ConfigError,
    framing::Framing,
    limits::{LONGEST_TIMEOUT, SessionLimits},
    session::handler::LineHandler,
    wire::tcp,
};

/// Default time for an attempt to connect. Linux repeats a SYN after 1, 3 and 7 seconds, so three lost ones are
/// forgiven.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Default silence after which the kernel probes whether the peer is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Builds and starts a [`Connector`].
#[must_use = "a connector does nothing until it is started"]
pub struct ConnectorBuilder<A> {
    pub(super) target: String,
    pub(super) resolve: Option<Resolve>,
    pub(super) connect_timeout: Duration,
    pub(super) keepalive: Option<Duration>,
    /// With what is wrong with it.
    pub(super) filter: Result<Option<MakeFilter>, ConfigError>,
    /// Before the filter, with what is wrong with it.
    #[cfg(feature = "proxy")]
    pub(super) proxy: Result<Option<SendProxy>, ConfigError>,
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
    /// Sends every [`ConnectorEvent`] to `recipient`, from the first on. After the start, send
    /// [`Subscribe`](crate::control::messages::Subscribe) instead.
    pub fn subscribe(mut self, recipient: Recipient<ConnectorEvent>) -> Self {
        self.subscribers.push(recipient);
        self
    }

    /// Sets the function that looks up the addresses at each attempt. Default: the system's resolver, with a target of
    /// the form `HOST:PORT`.
    ///
    /// `resolve` gets the target as it was given to [`Connector::builder`], so it may be any name: a service record, a
    /// key in a registry. Its addresses are tried in their order, the two families taking turns.
    ///
    /// ```
    /// # use actix_lines::{Rot13, connect::Connector};
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
    /// A look-up by the system's resolver cannot be interrupted: after the timeout it goes on in a thread, and its
    /// result is ignored.
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::ConnectTimeout`] unless it is 1 ms to 24 days.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the silence after which the kernel probes whether the peer's machine is still there. It probes again after
    /// each sixth of that time, and the connection is lost when six probes in a row have no answer, or output has none for
    /// twice that time.
    /// Without probes a session that only listens does not notice that its peer's machine is gone. Default: 60 s;
    /// `None` sends no probes.
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::Keepalive`] unless it is 1 s to 9 hours, or `None`.
    pub fn keepalive(mut self, after: Option<Duration>) -> Self {
        self.keepalive = after;
        self
    }

    /// Has its connections speak TLS. A connection counts when its handshake is over, for which there is what is left of
    /// the [`connect_timeout`](Self::connect_timeout); one that fails is
    /// [`ConnectError::Handshake`](crate::connect::ConnectError::Handshake). Needs the feature `tls`.
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::ServerName`] if the host of the target is no name that a
    /// certificate could have, and none was [set](crate::tls::TlsClientBuilder::server_name).
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: impl Into<TlsClient>) -> Self {
        let tls = tls.into();
        self.filter = match tls.name_for(&self.target) {
            Ok(name) => Ok(Some(Box::new(move || tls.layer(name.clone())))),
            Err(_) => Err(ConfigError::ServerName { target: self.target.clone() }),
        };
        self
    }

    /// Has each connection begin with a PROXY header, before its TLS: whose connection it passes on, or
    /// [`local`](ProxyHeader::local) for one of its own. Needs the feature `proxy`.
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::ProxyHeader`] if the version cannot express the header.
    #[cfg(feature = "proxy")]
    pub fn proxy(mut self, version: ProxyVersion, header: &ProxyHeader) -> Self {
        let proxy = SendProxy::new(version, header).map(Some);
        self.proxy = proxy.map_err(|fault| ConfigError::ProxyHeader { reason: fault.to_string() });
        self
    }

    /// Sets how bytes are cut into lines. Default: [`Framing::lf`].
    pub fn framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// Sets the limits of its sessions. Of [`Limits`](crate::limits::Limits) only those of a single session count. Default:
    /// [`Limits::default`](crate::limits::Limits::default).
    pub fn limits(mut self, limits: impl Into<SessionLimits>) -> Self {
        self.limits = limits.into();
        self
    }

    /// Sets the waits between attempts. Default: up to 500 ms, doubled up to 30 s: see [`Backoff`].
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::Backoff`] for a wait under 1 ms or over 24 days, a factor of 0, or a
    /// first wait longer than the longest.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets how many attempts in a row may fail before the connector gives up. A connection that ends before
    /// [`Backoff::max`] is over counts as one. Default: it never gives up.
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::MaxAttempts`] for 0.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// Starts the connector on the current arbiter, where its sessions run, too.
    ///
    /// The connector runs until it gets [`Disconnect`](crate::connect::messages::Disconnect) or gives up, even if its
    /// address is dropped.
    ///
    /// # Errors
    /// Returns a [`ConfigError`] that names the first invalid setting, before anything has been started.
    ///
    /// # Panics
    /// Panics outside an actix arbiter, as [`Actor::start`] does.
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
        let filter = self.filter?;
        #[cfg(feature = "proxy")]
        let proxy = self.proxy?;
        let connector = Connector {
            way: Rc::new(Way {
                target,
                resolve,
                connect_timeout,
                keepalive,
                #[cfg(feature = "proxy")]
                proxy,
                filter,
            }),
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
    /// Starts from the defaults: unlimited attempts of at most 10 s each, [`Framing::lf`],
    /// [`Limits::default`](crate::limits::Limits::default).
    ///
    /// `target` is `HOST:PORT`, unless there is a [`resolver`](ConnectorBuilder::resolver). `factory` makes the actor
    /// of each connection, and is given the connection's number, counted from 1. If it panics, that connection is
    /// closed and the attempt has failed; the factory is called again for the next.
    pub fn builder(
        target: impl Into<String>,
        factory: impl FnMut(&Connection, u64) -> A + 'static,
    ) -> ConnectorBuilder<A> {
        ConnectorBuilder {
            target: target.into(),
            resolve: None,
            connect_timeout: CONNECT_TIMEOUT,
            keepalive: Some(KEEPALIVE),
            #[cfg(feature = "proxy")]
            proxy: Ok(None),
            filter: Ok(None),
            framing: Framing::default(),
            limits: SessionLimits::default(),
            backoff: Backoff::default(),
            max_attempts: None,
            subscribers: Vec::new(),
            factory: Box::new(factory),
        }
    }
}
