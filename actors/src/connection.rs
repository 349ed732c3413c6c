//! Connection: who a session is, and what is known of its peer.
//!
//! Not here: what it leaves behind (`report`).

use std::{
    fmt,
    net::SocketAddr,
    num::ParseIntError,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
};

/// A session's number: unique in the process, counted up from 1 in the order of admission.
///
/// It is written `#7`, and read with or without the `#`, as an operator types it.
///
/// ```
/// use actix_lines::SessionId;
///
/// let id: SessionId = "#7".parse()?;
/// assert_eq!(id, "7".parse()?);
/// assert_eq!(id.to_string(), "#7");
/// assert!("seven".parse::<SessionId>().is_err());
/// # Ok::<(), std::num::ParseIntError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(u64);

impl SessionId {
    pub(crate) fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// The number itself.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl FromStr for SessionId {
    type Err = ParseIntError;
    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.strip_prefix('#').unwrap_or(text).parse().map(Self)
    }
}

/// A listener's number: its place in the order of [`LineServer::bind`](crate::LineServer::bind), from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub(crate) u16);

impl ListenerId {
    /// The number itself.
    #[must_use]
    pub fn get(self) -> usize {
        usize::from(self.0)
    }
}

/// Who a session is: what the server knows of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub(crate) id: SessionId,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) listener: Option<ListenerId>,
}

impl Connection {
    /// The session's number.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The peer's address; `None` for a transport without one.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Our end's address; `None` for a transport without one.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local
    }

    /// The listener that it came in by; `None` for a session started without one.
    #[must_use]
    pub fn listener(&self) -> Option<ListenerId> {
        self.listener
    }
}
