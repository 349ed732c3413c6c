//! Address: where an end of a connection is, or a listener.
//!
//! Not here: what of it limits and lists see (`source`).

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::escape::Escaped;

/// Where one end of a connection is, or a listener.
///
/// ```
/// use actix_lines::Address;
///
/// let address = Address::from(std::net::SocketAddr::from(([192, 0, 2, 7], 40713)));
/// assert_eq!(address.to_string(), "192.0.2.7:40713");
/// assert_eq!(address.port(), Some(40713));
/// assert_eq!(Address::Memory.ip(), None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A unix socket.
    Unix(UnixAddress),
    /// No address: a stream in memory, or one that does not say where it leads. The default.
    #[default]
    Memory,
}

impl Address {
    /// The IP address; `None` for anything else.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.socket_addr().map(|address| address.ip())
    }

    /// The port; `None` without one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.socket_addr().map(|address| address.port())
    }

    /// The IP address and port; `None` for anything else.
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) | Self::Memory => None,
        }
    }

    /// The unix socket; `None` for anything else.
    #[must_use]
    pub fn unix(&self) -> Option<&UnixAddress> {
        match self {
            Self::Unix(address) => Some(address),
            Self::Ip(_) | Self::Memory => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl From<UnixAddress> for Address {
    fn from(address: UnixAddress) -> Self {
        Self::Unix(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(address) => address.fmt(f),
            Self::Memory => f.write_str("memory"),
        }
    }
}

/// Where a session comes from, as a log says it behind the session's number: ` from 192.0.2.7:1024`, or nothing.
pub(crate) struct Origin<'a>(pub(crate) &'a Address);

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Address::Memory => Ok(()),
            address => write!(f, " from {address}"),
        }
    }
}

/// A unix socket: its path, and who is at its other end. Peers seldom have a path, and listeners have no credentials.
///
/// It is one pointer, so that an [`Address`] is no larger for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnixAddress(Arc<UnixParts>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct UnixParts {
    path: Option<PathBuf>,
    credentials: Option<Credentials>,
}

impl UnixAddress {
    /// The socket at `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(Arc::new(UnixParts { path: Some(path.into()), credentials: None }))
    }

    /// A socket without a path, of a process with these credentials.
    #[must_use]
    pub fn of(credentials: Credentials) -> Self {
        Self(Arc::new(UnixParts { path: None, credentials: Some(credentials) }))
    }

    pub(crate) fn new(path: Option<PathBuf>, credentials: Option<Credentials>) -> Self {
        Self(Arc::new(UnixParts { path, credentials }))
    }

    /// The path; `None` for a socket that was never bound to one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The process at the other end, as it was when it connected; `None` of a listener.
    #[must_use]
    pub fn credentials(&self) -> Option<Credentials> {
        self.0.credentials
    }
}

impl fmt::Display for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unix")?;
        if let Some(path) = self.path() {
            // A peer chooses its own.
            write!(f, ":{}", Escaped::new(path.as_os_str().as_bytes()))?;
        }
        match self.credentials() {
            Some(credentials) => write!(f, " ({credentials})"),
            None => Ok(()),
        }
    }
}

/// The process at the other end of a unix socket, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// Its number in our namespace; `None` if it is of another one, or the kernel does not say.
    pub pid: Option<u32>,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(pid) = self.pid {
            write!(f, "pid {pid}, ")?;
        }
        write!(f, "uid {}, gid {}", self.uid, self.gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_no_larger_for_what_else_it_may_be() {
        assert_eq!(size_of::<Address>(), size_of::<SocketAddr>());
    }

    #[test]
    fn an_address_says_what_there_is() {
        let credentials = Credentials { pid: Some(12), uid: 1000, gid: 100 };
        for (address, text) in [
            (Address::Ip("192.0.2.7:7".parse().unwrap()), "192.0.2.7:7"),
            (Address::Ip("[2001:db8::7]:7".parse().unwrap()), "[2001:db8::7]:7"),
            (UnixAddress::at("/run/lines.sock").into(), "unix:/run/lines.sock"),
            (UnixAddress::at("/tmp/a\nb").into(), r"unix:/tmp/a\nb"),
            (UnixAddress::of(credentials).into(), "unix (pid 12, uid 1000, gid 100)"),
            (UnixAddress::of(Credentials { pid: None, ..credentials }).into(), "unix (uid 1000, gid 100)"),
            (UnixAddress::new(None, None).into(), "unix"),
            (Address::Memory, "memory"),
        ] {
            assert_eq!(address.to_string(), text);
        }
    }
}
