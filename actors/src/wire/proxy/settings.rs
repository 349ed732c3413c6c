//! Settings: the headers that a listener's connections begin with, and the proxies that are believed.
//!
//! Not here: reading it (`receive`).

use std::{sync::Arc, time::Duration};

use crate::{address::Address, error::ConfigError, source::Peers, wire::proxy::receive::ReceiveProxy};

/// The time of a proxy for its header. It sends it with its first segment, or with what it sends before that.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The shortest and longest time: what a worker's clock can keep.
const TIMEOUTS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 24 * 3600);

/// Settings of PROXY headers, for [`Listener::proxy`](crate::Listener::proxy): required or optional, and the proxies that are
/// believed.
///
/// Nobody is trusted at first: a proxy that is could name any peer.
///
/// | peer | required | optional |
/// |---|---|---|
/// | a trusted proxy, with a header | the header's peer is the connection's | the same |
/// | a trusted proxy, without a header | closed: `proxy-missing` | served; it is the peer itself |
/// | anybody else | closed at once: `proxy-untrusted` | served, whatever it sends; a header is data |
///
/// A header that is not well-formed, too long, or has a wrong checksum is `proxy-invalid`, one that does not come in time
/// `proxy-timeout`: all are [`CloseReason::FilterFault`](crate::CloseReason::FilterFault)s, counted by these names.
#[derive(Clone, Debug)]
#[must_use = "it does nothing until a listener has it"]
pub struct Proxy {
    is_required: bool,
    trusted: Arc<[Peers]>,
    timeout: Duration,
}

impl Proxy {
    fn new(is_required: bool) -> Self {
        Self { is_required, trusted: Arc::default(), timeout: TIMEOUT }
    }

    /// Takes connections of trusted proxies only, each with a header.
    pub fn required() -> Self {
        Self::new(true)
    }

    /// Takes connections with and without a header. A connection begins with one if its first bytes are a header's
    /// signature. A peer of a trusted address that waits for our first word gets it when the [timeout](Self::timeout) is
    /// over.
    pub fn optional() -> Self {
        Self::new(false)
    }

    /// Adds proxies that are trusted: addresses, networks, users of unix sockets. An IPv4 network is meant whichever way its
    /// peers come.
    pub fn trust(mut self, proxies: impl IntoIterator<Item = Peers>) -> Self {
        self.trusted = self.trusted.iter().copied().chain(proxies).collect();
        self
    }

    /// Sets how long a proxy has for its header, met within a second. Default: 3 s. It ends at the
    /// [`preface_timeout`](crate::limits::LimitsBuilder::preface_timeout) in any case.
    ///
    /// # Errors
    /// A listener is not bound unless it is 1 s to 24 days: [`ConfigError::Timeout`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        match TIMEOUTS.contains(&self.timeout) {
            true => Ok(()),
            false => Err(ConfigError::Timeout { limit: "proxy timeout", timeout: self.timeout }),
        }
    }

    /// Returns true if a header of this peer is believed.
    pub(crate) fn trusts(&self, peer: &Address) -> bool {
        self.trusted.iter().any(|proxies| proxies.contains(peer))
    }

    /// Makes the filter of a connection from this peer. `None` if what it sends is data in any case.
    pub(crate) fn filter_for(&self, peer: &Address) -> Option<ReceiveProxy> {
        let is_trusted = self.trusts(peer);
        (is_trusted || self.is_required).then(|| ReceiveProxy::new(self.is_required, is_trusted, self.timeout))
    }

    /// Makes a filter that believes any header, for a [`Transport`](crate::Transport) whose other end is known to be a proxy.
    #[must_use]
    pub fn filter(&self) -> ReceiveProxy {
        ReceiveProxy::new(self.is_required, true, self.timeout)
    }
}
