//! Listener: where one listens, and what its sessions have of their own; and its socket, once it is bound.
//!
//! It is bound when it is given to a server, so that its real address is known before anything runs.
//! Not here: accepting on it (`acceptor`), what its sessions are (`server`).

use std::{
    fmt, fs, io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    os::{
        fd::OwnedFd,
        unix::{fs::MetadataExt, net::UnixListener},
    },
    path::PathBuf,
};

use rustix::net::sockopt::socket_acceptconn;

use crate::{
    address::{Address, UnixAddress},
    error::BindError,
    framing::Framing,
    limits::SessionLimits,
    wire::{socket::unix_local, tcp::SocketOptions},
};

/// A listener that is about to be given to a server: [`LineServer::listen`](crate::LineServer::listen).
///
/// ```
/// use actix_lines::{Framing, Limits, LineServer, Listener, Rot13};
/// use std::time::Duration;
///
/// # #[actix::main]
/// # async fn main() -> std::io::Result<()> {
/// let patient = Limits::builder().idle_timeout(None).build()?;
/// let server = LineServer::new(|_connection| Rot13)
///     .listen(Listener::tcp("127.0.0.1:0").name("public"))?
///     .listen(Listener::tcp("[::1]:0").name("machines").framing(Framing::nul()).limits(patient))?
///     .start()?;
/// assert_eq!(server.listeners()[1].id.name(), Some("machines"));
/// # server.abort().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a listener does nothing until it is given to a server"]
pub struct Listener {
    at: At,
    own: Own,
}

/// What of a listener differs from what its server says for all.
#[derive(Debug, Default)]
pub(crate) struct Own {
    pub(crate) name: Option<String>,
    pub(crate) framing: Option<Framing>,
    pub(crate) limits: Option<SessionLimits>,
}

#[derive(Debug)]
enum At {
    /// The first of these that can be bound.
    Tcp(Result<Vec<SocketAddr>, BindError>),
    Unix(PathBuf),
    /// A socket that listens already.
    Inherited(OwnedFd),
}

impl Listener {
    /// Listens on an IP address and a port. Port 0 asks for a free one; of a name with several addresses the first that can
    /// be bound is used.
    ///
    /// `[::]` is every address of this machine, of IPv4 and IPv6. Where an IPv4 listener has the same port, whichever was
    /// added first, it is those of IPv6 alone: so `[::]` and `0.0.0.0` work together.
    pub fn tcp(address: impl ToSocketAddrs + fmt::Debug) -> Self {
        let unresolved = |source| BindError::Resolve { address: format!("{address:?}"), source };
        let addresses = address.to_socket_addrs().map(Iterator::collect::<Vec<_>>).map_err(unresolved);
        let addresses = addresses.and_then(|addresses| match addresses.is_empty() {
            true => Err(unresolved(io::ErrorKind::NotFound.into())),
            false => Ok(addresses),
        });
        Self::at(At::Tcp(addresses))
    }

    /// Listens on a unix socket at `path`, where nothing may be yet. The path is removed at the end, unless it is another's
    /// by then.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::at(At::Unix(path.into()))
    }

    /// Takes a socket that listens already, TCP or unix, as one handed over by a service manager. It is made non-blocking;
    /// a path that it has stays when it is closed.
    pub fn inherited(socket: impl Into<OwnedFd>) -> Self {
        Self::at(At::Inherited(socket.into()))
    }

    fn at(at: At) -> Self {
        Self { at, own: Own::default() }
    }

    /// Sets the name that it has in [`ListenerId::name`](crate::ListenerId::name) and in the log. Default: none.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.own.name = Some(name.into());
        self
    }

    /// Sets how bytes are cut into lines. Default: as [`LineServer::framing`](crate::LineServer::framing) says.
    pub fn framing(mut self, framing: Framing) -> Self {
        self.own.framing = Some(framing);
        self
    }

    /// Sets the limits of its sessions: watermarks, outbox limit, times, read rate. Default: those of the server. What limits
    /// a server as a whole stays the server's; and [`SetLimits`](crate::control::messages::SetLimits) changes only what is the server's.
    ///
    /// Each worker has a buffer and a clock for each set of limits: some 200 KB, as for another worker.
    pub fn limits(mut self, limits: impl Into<SessionLimits>) -> Self {
        self.own.limits = Some(limits.into());
        self
    }

    /// Binds it, beside those that are bound.
    pub(crate) fn bind(
        self,
        others: &mut [BoundListener],
        backlog: u32,
        options: &SocketOptions,
    ) -> Result<BoundListener, BindError> {
        let (socket, path, is_dual_stack) = match self.at {
            At::Tcp(addresses) => {
                let (socket, is_dual_stack) = bind_first(&addresses?, others, backlog)?;
                (socket, None, is_dual_stack)
            }
            At::Unix(path) => {
                let (socket, path) = listen_at(path, backlog)?;
                (socket, Some(path), false)
            }
            At::Inherited(socket) => (socket, None, false),
        };
        let mut bound = BoundListener::new(socket, self.own, options)?;
        bound.path = path;
        bound.is_dual_stack = is_dual_stack;
        Ok(bound)
    }
}

/// It is [inherited](Listener::inherited).
impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::inherited(listener)
    }
}

/// It is [inherited](Listener::inherited).
impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::inherited(listener)
    }
}

/// A listener with its socket. Dropped, it is closed, and its path removed.
#[derive(Debug)]
pub(crate) struct BoundListener {
    pub(crate) socket: OwnedFd,
    pub(crate) address: Address,
    pub(crate) own: Own,
    /// Dropped behind the socket.
    pub(crate) path: Option<BoundPath>,
    /// We have bound it to all addresses of both families.
    is_dual_stack: bool,
}

impl BoundListener {
    fn new(socket: OwnedFd, own: Own, options: &SocketOptions) -> Result<Self, BindError> {
        let address = local_addr(&socket);
        let unusable = |source| BindError::Listen { address: address.clone(), source };
        if !socket_acceptconn(&socket).unwrap_or(false) {
            return Err(BindError::NotListening { address });
        }
        rustix::io::ioctl_fionbio(&socket, true).map_err(|error| unusable(error.into()))?;
        // Those asked for so far, for whoever connects before the start, which says what is wrong with them.
        if options.check().is_ok() {
            apply(options, &socket, &address).map_err(unusable)?;
        }
        Ok(Self { socket, address, own, path: None, is_dual_stack: false })
    }

    /// Sets the options and the backlog asked for since it was bound.
    pub(crate) fn update(&self, options: &SocketOptions, backlog: i32) {
        let address = &self.address;
        if let Err(error) = apply(options, &self.socket, address) {
            log::warn!("listener {address}: socket options not set: {error}");
        }
        if let Err(error) = rustix::net::listen(&self.socket, backlog) {
            log::warn!("listener {address}: backlog not changed to {backlog}: {error}");
        }
    }

    fn port(&self) -> Option<u16> {
        self.address.port()
    }

    fn is_ipv4(&self) -> bool {
        self.address.ip().is_some_and(|ip| ip.is_ipv4())
    }
}

fn apply(options: &SocketOptions, socket: &OwnedFd, address: &Address) -> io::Result<()> {
    let socket = socket2::SockRef::from(socket);
    if address.unix().is_some() { options.apply_buffers(&socket) } else { options.apply(&socket) }
}

fn local_addr(socket: &OwnedFd) -> Address {
    match socket2::SockRef::from(socket).local_addr() {
        Ok(address) => match address.as_socket() {
            Some(address) => Address::Ip(address),
            None if address.is_unix() => unix_local(socket),
            None => Address::Memory,
        },
        Err(_) => Address::Memory,
    }
}

/// Binds to the first of `addresses` that can be. Says besides whether that is all of both families.
fn bind_first(
    addresses: &[SocketAddr],
    others: &mut [BoundListener],
    backlog: u32,
) -> Result<(OwnedFd, bool), BindError> {
    let mut last = None;
    for address in addresses {
        if address.is_ipv4() {
            leave_ipv4(others, address.port(), backlog)?;
        }
        let is_v6_wildcard = address.is_ipv6() && address.ip().is_unspecified();
        let has_ipv4 = others.iter().any(|other| other.is_ipv4() && other.port() == Some(address.port()));
        match listen_on(*address, backlog, is_v6_wildcard.then_some(has_ipv4)) {
            Ok(socket) => return Ok((socket, is_v6_wildcard && !has_ipv4)),
            Err(source) => last = Some(BindError::Listen { address: Address::Ip(*address), source }),
        }
    }
    // There is at least one.
    Err(last.unwrap_or(BindError::TooMany))
}

/// Has the listener on `[::]` and this port, if we have bound one, leave IPv4 to another one. It is bound anew: the kernel
/// does not change this of a socket that has an address.
fn leave_ipv4(others: &mut [BoundListener], port: u16, backlog: u32) -> Result<(), BindError> {
    let Some(other) = others.iter_mut().find(|other| other.is_dual_stack && other.port() == Some(port)) else {
        return Ok(());
    };
    let Some(address) = other.address.socket_addr() else { return Ok(()) };
    // Closed first, or the address is in use; what takes its place meanwhile is never listened on.
    other.socket = rustix::net::socket(rustix::net::AddressFamily::INET6, rustix::net::SocketType::STREAM, None)
        .map_err(|error| BindError::Listen { address: Address::Ip(address), source: error.into() })?;
    other.socket = listen_on(address, backlog, Some(true))
        .map_err(|source| BindError::Listen { address: Address::Ip(address), source })?;
    other.is_dual_stack = false;
    Ok(())
}

/// Socket options as std's own listener, and a backlog of our own.
fn listen_on(address: SocketAddr, backlog: u32, only_v6: Option<bool>) -> io::Result<OwnedFd> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if let Some(only_v6) = only_v6 {
        // Said in any case: what it is otherwise is a setting of the machine.
        socket.set_only_v6(only_v6)?;
    }
    socket.bind(&address.into())?;
    socket.listen(least_backlog(backlog))?;
    Ok(socket.into())
}

/// Before the start has checked it.
fn least_backlog(backlog: u32) -> i32 {
    i32::try_from(backlog).unwrap_or(i32::MAX).max(1)
}

fn listen_at(path: PathBuf, backlog: u32) -> Result<(OwnedFd, BoundPath), BindError> {
    let listen = || {
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        socket.bind(&socket2::SockAddr::unix(&path)?)?;
        let bound = BoundPath::new(path.clone());
        socket.listen(least_backlog(backlog))?;
        Ok((socket.into(), bound))
    };
    listen().map_err(|source| BindError::Listen { address: UnixAddress::at(&path).into(), source })
}

/// The path of a unix socket that we have bound. Dropped, it removes it, unless it is another's.
#[derive(Debug)]
pub(crate) struct BoundPath {
    path: PathBuf,
    /// Device and inode; `None` where it could not be looked at.
    file: Option<(u64, u64)>,
}

impl BoundPath {
    fn new(path: PathBuf) -> Self {
        let file = Self::file(&path);
        Self { path, file }
    }

    fn file(path: &PathBuf) -> Option<(u64, u64)> {
        fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
    }
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        if self.file.is_some() && Self::file(&self.path) == self.file {
            // Whoever may not remove it finds it at the next start, whose error says what to do.
            let _ = fs::remove_file(&self.path);
        }
    }
}
