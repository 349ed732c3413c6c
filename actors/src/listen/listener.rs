//! Listener: an address to listen on, the settings of its sessions, and its socket once it is bound.
//!
//! It is bound when it is given to a server, so that its real address is known before anything runs.
//! Not here: accepting on it (`acceptor`), its sessions (`session`).

use std::{
    fmt, fs, io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    os::{
        fd::OwnedFd,
        unix::{fs::MetadataExt, net::UnixListener},
    },
    path::PathBuf,
};

use rustix::net::{
    SocketType,
    sockopt::{socket_acceptconn, socket_type},
};

#[cfg(feature = "record")]
use crate::record::recorder::Recorder;
#[cfg(feature = "tls")]
use crate::wire::tls::server::Tls;
use crate::{
    address::{Address, UnixAddress},
    connection::Connection,
    error::BindError,
    framing::Framing,
    limits::SessionLimits,
    wire::{
        filter::{Filter, Filters},
        socket::unix_local,
        tcp::SocketOptions,
    },
};

/// A listener to give to a server with [`LineServer::listen`](crate::LineServer::listen): name, address, framing,
/// limits of its own.
///
/// ```
/// use actix_lines::{Framing, LineServer, Listener, Rot13, limits::Limits};
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

/// Settings of a listener that differ from its server's.
#[derive(Debug, Default)]
pub(crate) struct Own {
    pub(crate) name: Option<String>,
    pub(crate) framing: Option<Framing>,
    pub(crate) limits: Option<SessionLimits>,
    pub(crate) filters: Filters,
    #[cfg(feature = "record")]
    pub(crate) recorder: Option<Recorder>,
}

#[derive(Debug)]
enum At {
    /// The first of these addresses that can be bound.
    Tcp(Result<Vec<SocketAddr>, BindError>),
    Unix(PathBuf),
    /// A socket that listens already.
    Inherited(OwnedFd),
}

impl Listener {
    /// Listens on an IP address and a port. Port 0 asks for a free port; of a name with several addresses the first
    /// that can be bound is used.
    ///
    /// `[::]` is every IPv4 and IPv6 address of this machine. If an IPv4 listener of the server has the same port,
    /// `[::]` is every IPv6 address only, in whichever order they are added: so `[::]` and `0.0.0.0` work together.
    pub fn tcp(address: impl ToSocketAddrs + fmt::Debug) -> Self {
        let unresolved = |source| BindError::Resolve { address: format!("{address:?}"), source };
        let addresses = address.to_socket_addrs().map(Iterator::collect::<Vec<_>>).map_err(unresolved);
        let addresses = addresses.and_then(|addresses| match addresses.is_empty() {
            true => Err(unresolved(io::ErrorKind::NotFound.into())),
            false => Ok(addresses),
        });
        Self::at(At::Tcp(addresses))
    }

    /// Listens on a unix socket at `path`, which must not exist yet. The path is removed when the listener is closed,
    /// unless another socket has replaced it.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::at(At::Unix(path.into()))
    }

    /// Takes a socket that listens already, TCP or unix, such as one handed over by a service manager. It is made
    /// non-blocking; the path of a unix socket is not removed.
    pub fn inherited(socket: impl Into<OwnedFd>) -> Self {
        Self::at(At::Inherited(socket.into()))
    }

    fn at(at: At) -> Self {
        Self { at, own: Own::default() }
    }

    /// Sets the name, for [`ListenerId::name`](crate::ListenerId::name) and the log. Default: none.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.own.name = Some(name.into());
        self
    }

    /// Sets how bytes are cut into lines. Default: the server's, [`LineServer::framing`](crate::LineServer::framing).
    pub fn framing(mut self, framing: Framing) -> Self {
        self.own.framing = Some(framing);
        self
    }

    /// Sets the limits of its sessions: watermarks, outbox limit, times, read rate. Default: those of the server. The
    /// limits of the server as a whole hold for these sessions, too; a later
    /// [`SetLimits`](crate::control::messages::SetLimits) leaves the listener's own limits unchanged.
    ///
    /// Each worker needs a buffer and a clock for each set of limits: some 200 KB.
    pub fn limits(mut self, limits: impl Into<SessionLimits>) -> Self {
        self.own.limits = Some(limits.into());
        self
    }

    /// Adds a filter between the wire and the lines of its connections. The first of several is nearest to the wire.
    ///
    /// `factory` makes a filter for each connection, on the worker that runs its session. If it panics, that connection
    /// is closed and reported as [`FilterFailed`](crate::CloseReason::FilterFailed). The session's
    /// actor is made when all filters are open, for which the peer has 10 s and 64 KiB.
    pub fn filter<F: Filter>(mut self, factory: impl Fn(&Connection) -> F + Send + Sync + 'static) -> Self {
        self.own.filters.push(factory);
        self
    }

    /// Records its sessions as scripts, behind all of its filters. Default: the server's recorder,
    /// [`LineServer::record`](crate::LineServer::record). Needs the feature `record`.
    #[cfg(feature = "record")]
    pub fn record(mut self, recorder: &Recorder) -> Self {
        self.own.recorder = Some(recorder.clone());
        self
    }

    /// Has its connections speak TLS. [`Tls::reload`](crate::tls::Tls::reload) changes the certificates for connections
    /// that come later. Of several filters the first is nearest to the wire: a filter of an earlier call sees encrypted
    /// bytes. Needs the feature `tls`.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: impl Into<Tls>) -> Self {
        let tls = tls.into();
        self.own.filters.push_boxed(move || tls.filter());
        self
    }

    /// Binds it, with regard to the listeners that are bound already.
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

/// Makes an [inherited](Listener::inherited) listener.
impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::inherited(listener)
    }
}

/// Makes an [inherited](Listener::inherited) listener.
impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::inherited(listener)
    }
}

/// A listener with its socket. Dropping it closes the socket and removes its path.
#[derive(Debug)]
pub(crate) struct BoundListener {
    pub(crate) socket: OwnedFd,
    pub(crate) address: Address,
    pub(crate) own: Own,
    /// Dropped after the socket.
    pub(crate) path: Option<BoundPath>,
    /// True if it was bound here to all addresses of both families.
    is_dual_stack: bool,
}

impl BoundListener {
    fn new(socket: OwnedFd, own: Own, options: &SocketOptions) -> Result<Self, BindError> {
        let address = local_addr(&socket);
        let unusable = |source| BindError::Listen { address: address.clone(), source };
        // A socket of packets would lose what is longer than a read.
        let is_stream = socket_type(&socket) == Ok(SocketType::STREAM);
        if !is_stream || !socket_acceptconn(&socket).unwrap_or(false) {
            return Err(BindError::NotListening { address });
        }
        rustix::io::ioctl_fionbio(&socket, true).map_err(|error| unusable(error.into()))?;
        // Those asked for so far, for whoever connects before the start, which says what is wrong with them.
        if options.check().is_ok() {
            apply(options, &socket, &address).map_err(unusable)?;
        }
        Ok(Self { socket, address, own, path: None, is_dual_stack: false })
    }

    /// Applies options and a backlog that were set after it was bound.
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

/// Binds to the first of `addresses` that can be bound. Returns also whether that covers both families.
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

/// Binds the listener on `[::]` and this port, if there is one, anew for IPv6 only: the kernel does not change this for
/// a socket that has an address.
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

/// Makes a listening socket with the options of std's listener, and this backlog.
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

/// Bounds a backlog that has not been checked yet.
fn least_backlog(backlog: u32) -> i32 {
    i32::try_from(backlog).unwrap_or(i32::MAX).max(1)
}

fn listen_at(path: PathBuf, backlog: u32) -> Result<(OwnedFd, BoundPath), BindError> {
    let listen = || {
        if path.as_os_str().is_empty() {
            // The kernel would choose an abstract name.
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        socket.bind(&socket2::SockAddr::unix(&path)?)?;
        let bound = BoundPath::new(path.clone());
        socket.listen(least_backlog(backlog))?;
        Ok((socket.into(), bound))
    };
    listen().map_err(|source| BindError::Listen { address: UnixAddress::at(&path).into(), source })
}

/// The path of a unix socket bound here. Dropping it removes the path, unless another socket has replaced it.
#[derive(Debug)]
pub(crate) struct BoundPath {
    path: PathBuf,
    /// Device and inode; `None` if they could not be read.
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
