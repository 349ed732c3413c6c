//! Listener: an address to listen on, the settings of its sessions, and its socket once it is bound.
//!
//! It is bound when it is given to a server, so that its real address is known before anything runs.
//! Not here: accepting on it (`acceptor`), its sessions (`session`).

use std::{
    any::Any,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, ToSocketAddrs},
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf, absolute},
    sync::{Arc, Mutex},
};

use rustix::net::{
    SocketType,
    sockopt::{ipv6_v6only, socket_acceptconn, socket_type},
};

#[cfg(not(all(feature = "systemd", target_os = "linux")))]
use crate::error::InheritError;
#[cfg(all(feature = "systemd", target_os = "linux"))]
use crate::listen::inherited;
#[cfg(feature = "record")]
use crate::record::recorder::Recorder;
#[cfg(feature = "proxy")]
use crate::wire::proxy::settings::Proxy;
#[cfg(feature = "telnet")]
use crate::wire::telnet::settings::Telnet;
#[cfg(feature = "tls")]
use crate::wire::tls::server::Tls;
use crate::{
    address::{
        Address, UnixAddress,
        listen::{ListenAddress, ListenAddressError},
    },
    connection::Connection,
    control::listeners::Expiry,
    error::{BindError, ConfigError},
    framing::Framing,
    limits::{ListenerLimits, SessionLimits},
    listen::unix::{self, Access, BoundPath},
    source::Peers,
    wire::{filter::Filter, filters::Filters, socket::local_addr, tcp::SocketOptions},
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
    at: Result<At, BindError>,
    access: Access,
    only_v6: Option<bool>,
    pub(crate) own: Own,
}

/// Tells the peers that are only on the way to the real ones.
pub(crate) type IsProxy = dyn Fn(&Address) -> bool + Send + Sync;

/// Settings of a listener that differ from its server's.
#[derive(Default)]
pub(crate) struct Own {
    pub(crate) name: Option<String>,
    pub(crate) framing: Option<Framing>,
    pub(crate) limits: Option<SessionLimits>,
    pub(crate) admission: ListenerLimits,
    pub(crate) filters: Filters,
    pub(crate) expiry: Option<Expiry>,
    /// Peers whose connections are charged to whomever a filter finds behind them.
    pub(crate) is_proxy: Option<Arc<IsProxy>>,
    pub(crate) is_ungated: bool,
    #[cfg(feature = "record")]
    pub(crate) recorder: Option<Recorder>,
    when_listening: WhenListening,
}

/// [`Listener::when_listening`]: called once.
#[derive(Default)]
enum WhenListening {
    #[default]
    Nothing,
    Calls(Box<HandOver>),
}

/// What is dropped when a listener is closed.
pub(crate) type UntilClosed = Arc<Mutex<Box<dyn Any + Send>>>;

type HandOver = dyn FnOnce(BorrowedFd<'_>, &Address) -> Box<dyn Any + Send> + Send;

impl fmt::Debug for WhenListening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Calls(_) => "Calls",
        })
    }
}

impl Own {
    /// Hands over the socket to whoever asked for it. Returns what is to be dropped when the listener is closed.
    pub(crate) fn hand_over(&mut self, socket: BorrowedFd<'_>, address: &Address) -> Option<UntilClosed> {
        let WhenListening::Calls(hand_over) = std::mem::take(&mut self.when_listening) else { return None };
        Some(Arc::new(Mutex::new(hand_over(socket, address))))
    }

    /// Returns its filters, and behind them its recorder, or that of the server.
    #[cfg(feature = "record")]
    pub(crate) fn recorded_filters(&self, default: Option<&Recorder>) -> Filters {
        let mut filters = self.filters.clone();
        if let Some(recorder) = self.recorder.as_ref().or(default).cloned() {
            filters.push(move |connection| recorder.session(connection));
        }
        filters
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, framing, limits, filters, .. } = self;
        let mut own = f.debug_struct("Own");
        own.field("name", name).field("framing", framing).field("limits", limits).field("filters", filters);
        own.finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum At {
    Address(ListenAddress),
    /// The first of these addresses that can be bound.
    Candidates(Vec<SocketAddr>),
    /// A socket that listens already.
    Inherited(OwnedFd),
}

impl At {
    /// Returns the first of these settings that it does not have, and a text for it.
    fn unsuited(&self, access: Access, only_v6: Option<bool>) -> Option<(&'static str, String)> {
        let (text, has_path, may_be_v6) = match self {
            Self::Address(address) => {
                let may_be_v6 = match address {
                    ListenAddress::Ip(address) => address.is_ipv6(),
                    address => matches!(address, ListenAddress::Name { .. }),
                };
                (address.to_string(), matches!(address, ListenAddress::Unix(_)), may_be_v6)
            }
            Self::Candidates(addresses) => (format!("{addresses:?}"), false, addresses.iter().any(SocketAddr::is_ipv6)),
            Self::Inherited(_) => ("an inherited socket".to_owned(), false, false),
        };
        let access = access.setting().filter(|_| !has_path);
        let only_v6 = only_v6.filter(|_| !may_be_v6).map(|_| "only_v6");
        access.or(only_v6).map(|setting| (setting, text))
    }
}

impl Listener {
    /// Listens at an address: a [`ListenAddress`], a text that is one, or whatever a std listener binds to. It is the
    /// conversion, which [`LineServer::bind`](crate::LineServer::bind) calls as well, as a word to begin with.
    ///
    /// ```
    /// use actix_lines::{ListenAddress, Listener};
    ///
    /// let typed: ListenAddress = "[::]:40713".parse()?;
    /// let listeners = [Listener::at(typed), Listener::at("unix:@lines").name("local"), Listener::at(("localhost", 0))];
    /// # drop(listeners);
    /// # Ok::<(), actix_lines::ListenAddressError>(())
    /// ```
    ///
    /// A text that is no address is an error when the listener is given to a server.
    pub fn at(address: impl Into<Self>) -> Self {
        address.into()
    }

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
        Self::new(addresses.map(At::Candidates))
    }

    /// Listens on a unix socket at `path`. The path is removed when the listener is closed, unless another has replaced
    /// it.
    ///
    /// A path that a server left behind is taken over: if no socket is bound to it, and only by one of several that try
    /// at once. A path that another process listens on is an error, and so is one that is no socket, which is left
    /// alone.
    ///
    /// Only processes of the same user connect, and root's, until [`unix_mode`](Self::unix_mode) says otherwise. Nobody
    /// connects before mode, owner and group are set.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        ListenAddress::Unix(path.into()).into()
    }

    /// Takes a socket that listens already, TCP or unix, such as one handed over by a service manager. It is made
    /// non-blocking; the path of a unix socket is not removed.
    pub fn inherited(socket: impl Into<OwnedFd>) -> Self {
        Self::new(Ok(At::Inherited(socket.into())))
    }

    /// Calls `hand_over` with its socket and address when it begins to be served, for example to give a duplicate to somebody
    /// who keeps it while the program restarts. What it returns is dropped when the listener is closed.
    pub fn when_listening<T: Send + 'static>(
        mut self,
        hand_over: impl FnOnce(BorrowedFd<'_>, &Address) -> T + Send + 'static,
    ) -> Self {
        self.own.when_listening =
            WhenListening::Calls(Box::new(|socket, address| Box::new(hand_over(socket, address))));
        self
    }

    fn new(at: Result<At, BindError>) -> Self {
        Self { at, access: Access::default(), only_v6: None, own: Own::default() }
    }

    /// Looks up nothing yet.
    fn host(host: &str, port: u16) -> Self {
        match host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::from((ip, port)).into(),
            Err(_) => ListenAddress::Name { host: host.to_owned(), port }.into(),
        }
    }

    /// Sets the name, for [`ListenerId::name`](crate::ListenerId::name) and the log. Default: none.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.own.name = Some(name.into());
        self
    }

    /// Sets the permissions of its path, whatever the umask is. Who may write to it may connect. Default: `0o600`, the
    /// user of this process, and root.
    ///
    /// # Errors
    /// A server returns [`BindError::UnixMode`] for more than `0o777`, [`BindError::UnixAccess`] if it cannot be set, and
    /// [`BindError::Unsuited`] for a listener without a path.
    pub fn unix_mode(mut self, mode: u32) -> Self {
        self.access.mode = Some(mode);
        self
    }

    /// Sets the user that its path belongs to, by number. Default: the user of this process. Another takes the rights of
    /// root.
    ///
    /// # Errors
    /// As [`unix_mode`](Self::unix_mode).
    pub fn unix_owner(mut self, uid: u32) -> Self {
        self.access.owner = Some(uid);
        self
    }

    /// Sets the group of its path, by number, one that this process is in or any for root. Default: the group of this
    /// process, or that of the folder. With mode `0o660` its members may connect.
    ///
    /// # Errors
    /// As [`unix_mode`](Self::unix_mode).
    pub fn unix_group(mut self, gid: u32) -> Self {
        self.access.group = Some(gid);
        self
    }

    /// Sets if an IPv6 listener takes IPv6 connections only. Default: `[::]` takes IPv4 connections as well, unless an
    /// IPv4 listener of the server has the same port; other IPv6 addresses take none.
    ///
    /// With `false`, `[::]` and an IPv4 listener of the same port are an error.
    ///
    /// # Errors
    /// A server returns [`BindError::Unsuited`] for a listener that is bound to no IPv6 address here, and
    /// [`BindError::OnlyV6`] if this would change for one that is [replaced](crate::ServerHandle::replace_listener) where it
    /// is.
    pub fn only_v6(mut self, only: bool) -> Self {
        self.only_v6 = Some(only);
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

    /// Sets how many of its sessions may live at once, over all workers, beside the server's
    /// [`max_sessions`](crate::limits::LimitsBuilder::max_sessions): the limit that is reached first holds. Default: no
    /// limit of its own.
    ///
    /// More connections are refused as [`ListenerFull`](crate::control::RefuseReason::ListenerFull), or wait in its
    /// backlog, by the server's [`over_limit`](crate::limits::LimitsBuilder::over_limit); other listeners go on. A session
    /// counts until its socket is closed, also one that began before the listener was
    /// [replaced](crate::ServerHandle::replace_listener).
    ///
    /// ```
    /// use actix_lines::{LineServer, Listener, Rot13};
    ///
    /// # #[actix::main]
    /// # async fn main() -> std::io::Result<()> {
    /// let operators = Listener::tcp("127.0.0.1:0").name("operators").max_sessions(4).allow(["127.0.0.0/8".parse()?]);
    /// let server = LineServer::new(|_| Rot13).listen(Listener::tcp("127.0.0.1:0").max_sessions(1000))?.listen(operators)?;
    /// # server.start()?.abort().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// A server returns [`BindError::Setting`] for 0.
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        if sessions == 0 && self.at.is_ok() {
            self.at = Err(ConfigError::MaxSessions.into());
        }
        self.own.admission.max_sessions = Some(sessions);
        self
    }

    /// Sets the peers that may connect to it, beside the server's [`allow`](crate::limits::LimitsBuilder::allow): both
    /// have to let a peer in. Default: empty, which allows all. Behind a proxy it is the real peer that counts.
    ///
    /// The lists of a listener hold for connections that come from now on. They end no session when it is
    /// [replaced](crate::ServerHandle::replace_listener).
    pub fn allow(mut self, peers: impl IntoIterator<Item = Peers>) -> Self {
        self.own.admission.allow = peers.into_iter().collect();
        self
    }

    /// Sets the peers that may not connect to it, even if [`allow`](Self::allow) has them. Default: empty. Otherwise as
    /// `allow`.
    pub fn deny(mut self, peers: impl IntoIterator<Item = Peers>) -> Self {
        self.own.admission.deny = peers.into_iter().collect();
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

    /// Expects a PROXY header in front of what its connections send, or of their TLS, of the proxies that `proxy` trusts. The
    /// peer that the header names is the connection's peer from there on: in limits, lists, logs and reports. Of several
    /// filters the first is nearest to the wire. Needs the feature `proxy`.
    ///
    /// ```
    /// use actix_lines::{LineServer, Listener, Rot13, proxy::Proxy};
    ///
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let proxy = Proxy::required().trust(["127.0.0.0/8".parse()?]);
    /// let server = LineServer::new(|_connection| Rot13).listen(Listener::tcp("127.0.0.1:0").proxy(proxy))?.start()?;
    /// # server.abort().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The listener cannot be bound ([`BindError::Setting`]) with a [timeout](Proxy::timeout) that cannot be kept.
    #[cfg(feature = "proxy")]
    pub fn proxy(mut self, proxy: Proxy) -> Self {
        if let Err(error) = proxy.check() {
            self.at = Err(error.into());
        }
        let (trusts, earlier) = (proxy.clone(), self.own.is_proxy.take());
        let is_proxy =
            move |peer: &Address| trusts.trusts(peer) || earlier.as_ref().is_some_and(|earlier| earlier(peer));
        self.own.is_proxy = Some(Arc::new(is_proxy));
        self.own.filters.push_if(move |connection| proxy.filter_for(connection.peer_addr()));
        self
    }

    /// Has its connections speak telnet, behind the filters of earlier calls: TLS comes first. Needs the feature `telnet`.
    #[cfg(feature = "telnet")]
    pub fn telnet(self, telnet: Telnet) -> Self {
        self.filter(move |_| telnet.filter())
    }

    /// Has its connections speak TLS. [`Tls::reload`](crate::tls::Tls::reload) changes the certificates for connections
    /// that come later. Of several filters the first is nearest to the wire: a filter of an earlier call sees encrypted
    /// bytes. Needs the feature `tls`.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: impl Into<Tls>) -> Self {
        let tls = tls.into();
        self.own.expiry = Some(Expiry::new({
            let tls = tls.clone();
            move || tls.expires()
        }));
        self.own.filters.push_layer(move || tls.layer());
        self
    }

    pub(crate) fn own_name(&self) -> Option<&str> {
        self.own.name.as_deref()
    }

    pub(crate) fn into_own(self) -> Own {
        self.own
    }

    /// Returns the address of a socket that was handed over to this process, which can be taken once.
    pub(crate) fn handed_over(&self) -> Option<ListenAddress> {
        match &self.at {
            Ok(At::Address(address @ (ListenAddress::Fd(_) | ListenAddress::Systemd(_)))) => Some(address.clone()),
            _ => None,
        }
    }

    /// Looks up its name, if it has to be.
    pub(crate) fn look_up(self) -> Result<Self, BindError> {
        let at = match self.at? {
            At::Address(ListenAddress::Name { host, port }) => At::Candidates(look_up(&host, port)?),
            at => at,
        };
        Ok(Self { at: Ok(at), access: self.access, only_v6: self.only_v6, own: self.own })
    }

    /// Returns true if a socket that is bound to `bound` is where it would be bound. Port 0 is any port.
    pub(crate) fn is_at(&self, bound: &Address) -> bool {
        let is_ip = |address: &SocketAddr| {
            let bound = bound.socket_addr();
            bound.is_some_and(|bound| bound == *address || (address.port() == 0 && bound.ip() == address.ip()))
        };
        let is_path = |path: &Path| {
            let bound = bound.unix().and_then(UnixAddress::path);
            let whole = |path: &Path| absolute(path).ok();
            bound.is_some_and(|bound| bound == path || whole(bound).is_some_and(|bound| Some(bound) == whole(path)))
        };
        match &self.at {
            Ok(At::Candidates(addresses)) => addresses.iter().any(is_ip),
            Ok(At::Address(ListenAddress::Ip(address))) => is_ip(address),
            Ok(At::Address(ListenAddress::Unix(path))) => is_path(path),
            Ok(At::Address(ListenAddress::Abstract(name))) => is_path(Path::new(&format!("@{name}"))),
            // A socket that was handed over takes the place of the one before, wherever that is bound.
            Ok(At::Inherited(_) | At::Address(_)) | Err(_) => false,
        }
    }

    /// Returns an error if a setting means nothing where it is bound.
    pub(crate) fn check(&self) -> Result<(), BindError> {
        match self.at.as_ref().ok().and_then(|at| at.unsuited(self.access, self.only_v6)) {
            Some((setting, address)) => Err(BindError::Unsuited { setting, address }),
            None => Ok(()),
        }
    }

    /// Gives a socket that is where it would be bound the settings that it would have there: mode, owner and group of its
    /// path.
    pub(crate) fn set_up(
        &self,
        socket: &OwnedFd,
        address: &Address,
        path: Option<&BoundPath>,
    ) -> Result<(), BindError> {
        if let Some(only) = self.only_v6
            // To other addresses it makes no difference.
            && address.ip().is_some_and(|ip| ip.is_unspecified())
            && ipv6_v6only(socket) == Ok(!only)
        {
            return Err(BindError::OnlyV6 { address: address.clone(), only });
        }
        match (path, address.unix().and_then(UnixAddress::path)) {
            (Some(bound), Some(path)) => bound.change(path, self.access),
            _ => Ok(()),
        }
    }

    /// Binds it, with regard to the listeners that are bound already.
    pub(crate) fn bind(
        self,
        others: &mut [BoundListener],
        backlog: u32,
        options: &SocketOptions,
    ) -> Result<BoundListener, BindError> {
        let handed_over = self.handed_over();
        self.check()?;
        let Self { at, access, only_v6, own } = self;
        let at = at?;
        let mut ip = |addresses: &[SocketAddr]| {
            let (socket, is_dual_stack) = bind_first(addresses, only_v6, others, backlog)?;
            Ok::<_, BindError>((socket, None, is_dual_stack))
        };
        let (socket, path, is_dual_stack) = match at {
            At::Candidates(addresses) => ip(&addresses)?,
            At::Address(ListenAddress::Ip(address)) => ip(&[address])?,
            At::Address(ListenAddress::Name { host, port }) => ip(&look_up(&host, port)?)?,
            At::Address(ListenAddress::Unix(path)) => {
                let (socket, path) = unix::listen_at(&path, access, least_backlog(backlog))?;
                (socket, Some(path), false)
            }
            At::Address(ListenAddress::Abstract(name)) => {
                (unix::listen_on_name(&name, least_backlog(backlog))?, None, false)
            }
            #[cfg(all(feature = "systemd", target_os = "linux"))]
            At::Address(ListenAddress::Fd(number)) => (inherited::numbered(number)?, None, false),
            #[cfg(all(feature = "systemd", target_os = "linux"))]
            At::Address(ListenAddress::Systemd(name)) => (inherited::named(&name)?, None, false),
            #[cfg(not(all(feature = "systemd", target_os = "linux")))]
            At::Address(address @ (ListenAddress::Fd(_) | ListenAddress::Systemd(_))) => {
                return Err(InheritError::Unsupported { socket: address.to_string() }.into());
            }
            At::Inherited(socket) => (socket, None, false),
        };
        let mut bound = BoundListener::new(socket, own, options)?;
        bound.handed_over = handed_over;
        bound.path = path;
        bound.is_dual_stack = is_dual_stack;
        Ok(bound)
    }
}

impl From<ListenAddress> for Listener {
    fn from(address: ListenAddress) -> Self {
        Self::new(Ok(At::Address(address)))
    }
}

/// Parses a [`ListenAddress`].
impl From<&str> for Listener {
    fn from(text: &str) -> Self {
        let address =
            text.parse().map_err(|source: ListenAddressError| BindError::Syntax { text: text.to_owned(), source });
        Self::new(address.map(At::Address))
    }
}

/// Parses a [`ListenAddress`].
impl From<String> for Listener {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<SocketAddr> for Listener {
    fn from(address: SocketAddr) -> Self {
        ListenAddress::Ip(address).into()
    }
}

impl From<SocketAddrV4> for Listener {
    fn from(address: SocketAddrV4) -> Self {
        SocketAddr::V4(address).into()
    }
}

impl From<SocketAddrV6> for Listener {
    fn from(address: SocketAddrV6) -> Self {
        SocketAddr::V6(address).into()
    }
}

impl From<(IpAddr, u16)> for Listener {
    fn from(address: (IpAddr, u16)) -> Self {
        SocketAddr::from(address).into()
    }
}

impl From<(Ipv4Addr, u16)> for Listener {
    fn from(address: (Ipv4Addr, u16)) -> Self {
        SocketAddr::from(address).into()
    }
}

impl From<(Ipv6Addr, u16)> for Listener {
    fn from(address: (Ipv6Addr, u16)) -> Self {
        SocketAddr::from(address).into()
    }
}

/// Takes an IP address, or a name that is looked up when the listener is bound.
impl From<(&str, u16)> for Listener {
    fn from((host, port): (&str, u16)) -> Self {
        Self::host(host, port)
    }
}

/// Takes an IP address, or a name that is looked up when the listener is bound.
impl From<(String, u16)> for Listener {
    fn from((host, port): (String, u16)) -> Self {
        Self::host(&host, port)
    }
}

/// Listens on the first address that can be bound.
impl From<&[SocketAddr]> for Listener {
    fn from(addresses: &[SocketAddr]) -> Self {
        Self::tcp(addresses)
    }
}

impl<T> From<&T> for Listener
where
    T: Clone,
    Self: From<T>,
{
    fn from(address: &T) -> Self {
        address.clone().into()
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
    /// The address of a socket that was handed over to this process.
    pub(crate) handed_over: Option<ListenAddress>,
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
        Ok(Self { socket, address, own, path: None, handed_over: None, is_dual_stack: false })
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

/// Returns at least one address.
fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, BindError> {
    let addresses = (host, port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    match addresses {
        Ok(addresses) if !addresses.is_empty() => Ok(addresses),
        Ok(_) => Err(io::ErrorKind::NotFound.into()),
        Err(error) => Err(error),
    }
    .map_err(|source| BindError::Resolve { address: format!("{:?}", format!("{host}:{port}")), source })
}

/// Binds to the first of `addresses` that can be bound. Returns also whether that covers both families.
fn bind_first(
    addresses: &[SocketAddr],
    only_v6: Option<bool>,
    others: &mut [BoundListener],
    backlog: u32,
) -> Result<(OwnedFd, bool), BindError> {
    let mut last = None;
    for address in addresses {
        if address.ip().to_canonical().is_ipv4() {
            leave_ipv4(others, address.port(), backlog)?;
        }
        let is_v6_wildcard = address.is_ipv6() && address.ip().is_unspecified();
        let has_ipv4 = others.iter().any(|other| other.is_ipv4() && other.port() == Some(address.port()));
        let asked = only_v6.filter(|_| address.is_ipv6());
        let v6only = asked.or(is_v6_wildcard.then_some(has_ipv4));
        #[cfg(all(feature = "systemd", target_os = "linux"))]
        if let Some(socket) = inherited::bound_to(*address, v6only) {
            log::debug!("listener {address}: its socket was handed over");
            return Ok((socket, false));
        }
        match listen_on(*address, backlog, v6only) {
            // One that was asked for stays as it is.
            Ok(socket) => return Ok((socket, is_v6_wildcard && !has_ipv4 && asked.is_none())),
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
