//! Address: the address of one end of a connection, or of a listener.
//!
//! Not here: the part of an address that limits and lists compare (`source`).

pub(crate) mod listen;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::escape::Escaped;

/// The address of one end of a connection, or of a listener.
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
    /// No address: a stream in memory, or one whose address is unknown. The default.
    #[default]
    Memory,
}

impl Address {
    /// Returns the IP address; `None` for any other kind of address.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.socket_addr().map(|address| address.ip())
    }

    /// Returns the port; `None` for an address without one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.socket_addr().map(|address| address.port())
    }

    /// Returns the IP address and port; `None` for any other kind of address.
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) | Self::Memory => None,
        }
    }

    /// Returns the unix socket; `None` for any other kind of address.
    #[must_use]
    pub fn unix(&self) -> Option<&UnixAddress> {
        match self {
            Self::Unix(address) => Some(address),
            Self::Ip(_) | Self::Memory => None,
        }
    }
}

/// An IPv4 address in IPv6 notation, as an IPv6 listener sees it, becomes the IPv4 address that it is.
impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        match address.ip().to_canonical() {
            ip if ip.is_ipv4() => Self::Ip(SocketAddr::new(ip, address.port())),
            _ => Self::Ip(address),
        }
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

/// Serialized as it is displayed.
#[cfg(feature = "serde")]
impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A session's peer as a log line names it after the session's number: ` from 192.0.2.7:1024`, or nothing.
pub(crate) struct Origin<'a>(pub(crate) &'a Address);

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Address::Memory => Ok(()),
            address => write!(f, " from {address}"),
        }
    }
}

/// A unix socket: its path, and the process at its other end. Peers seldom have a path, and listeners have no
/// credentials.
///
/// It is one pointer in size, so that an [`Address`] does not grow by it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnixAddress(Arc<UnixParts>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct UnixParts {
    path: Option<PathBuf>,
    credentials: Option<Credentials>,
}

impl UnixAddress {
    /// Makes the address of the socket at `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(Arc::new(UnixParts { path: Some(path.into()), credentials: None }))
    }

    /// Makes the address of a socket without a path, owned by a process with these credentials.
    #[must_use]
    pub fn of(credentials: Credentials) -> Self {
        Self(Arc::new(UnixParts { path: None, credentials: Some(credentials) }))
    }

    pub(crate) fn new(path: Option<PathBuf>, credentials: Option<Credentials>) -> Self {
        Self(Arc::new(UnixParts { path, credentials }))
    }

    /// Returns the path; `None` for a socket that was never bound to one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// Returns the credentials that the process at the other end had when it connected; `None` for a listener.
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

/// Identity of the process at the other end of a unix socket, as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// Process id in this process's namespace; `None` if the peer is in another namespace, or the kernel does not say.
    pub pid: Option<u32>,
    /// User id.
    pub uid: u32,
    /// Group id.
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
    fn an_ipv4_address_is_one_in_either_notation() {
        let address = |text: &str| Address::from(text.parse::<SocketAddr>().unwrap());
        assert_eq!(address("[::ffff:192.0.2.7]:7"), address("192.0.2.7:7"));
        assert_eq!(address("[::ffff:192.0.2.7]:7").to_string(), "192.0.2.7:7");
        for other in ["[::192.0.2.7]:7", "[64:ff9b::192.0.2.7]:7", "[fe80::1%2]:7", "[::1]:7"] {
            assert_eq!(address(other), Address::Ip(other.parse().unwrap()));
        }
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
