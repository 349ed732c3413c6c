//! Targets: the service that a script talks to, over TCP, a unix socket, or in memory.
//!
//! Not here: connections in memory (`memory`), what is said over them (`run`).

use std::{fmt, io, os::fd::AsFd, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use socket2::SockRef;
use tokio::net::{TcpStream, UnixStream};

#[cfg(feature = "script-tls")]
use crate::script::tls::TlsOptions;
use crate::{
    script::{
        address::{self, Address},
        driver::{Driver, Slow, Turn, Wire},
        memory::{Service, ServiceStream},
    },
    wire::{socket, transport::Transport},
};

/// The service that a script talks to.
#[derive(Clone)]
pub struct Target(pub(crate) Kind);

#[derive(Clone)]
pub(crate) enum Kind {
    /// Scripts bring their own.
    None,
    Address(Address),
    /// The command of a server for each run, and its port where that is not ours to choose.
    Server(String, Option<u16>),
    Memory(Arc<dyn Fn() -> Service + Send + Sync>),
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::None => f.debug_tuple("Target").field(&"none").finish(),
            Kind::Address(address) => f.debug_tuple("Target").field(&address.to_string()).finish(),
            Kind::Server(command, _) => f.debug_tuple("Target").field(command).finish(),
            Kind::Memory(_) => f.debug_tuple("Target").field(&"memory").finish(),
        }
    }
}

impl Target {
    /// A server that listens on TCP, at `host:port`.
    #[must_use]
    pub fn tcp(address: impl Into<String>) -> Self {
        Self(Kind::Address(Address::Tcp(address.into())))
    }

    /// A server that listens on a unix socket.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self(Kind::Address(Address::Unix(path.into())))
    }

    /// A server that listens on TCP, at `host:port`, and speaks TLS there, by [`ScriptOptions::tls`](super::ScriptOptions::tls).
    #[cfg(feature = "script-tls")]
    #[must_use]
    pub fn tls(address: impl Into<String>) -> Self {
        Self(Kind::Address(Address::Tls(address.into())))
    }

    /// A server that is started for each run, and ended by SIGTERM after it. The shell reads the command; `$port` is a free port
    /// of 127.0.0.1, on which it has to listen, `$tmp` an empty folder that is removed at the end.
    #[must_use]
    pub fn server(command: impl Into<String>) -> Self {
        Self(Kind::Server(command.into(), None))
    }

    /// A server as [`server`](Self::server) starts it, of a program that always listens on this port. Two at once would be in
    /// each other's way.
    #[must_use]
    pub fn server_on(port: u16, command: impl Into<String>) -> Self {
        Self(Kind::Server(command.into(), Some(port)))
    }

    /// No service: for scripts that start their own servers, or name the address of each connection.
    #[must_use]
    pub fn none() -> Self {
        Self(Kind::None)
    }

    /// Sessions in memory, on a paused clock: `start` starts one on each connection, as
    /// `|transport| { LineSession::new(transport).start(Rot13); }`.
    ///
    /// Time passes at once when nobody has anything to do. What the sessions wait for has to be on the same thread: of a
    /// future that another thread completes the clock knows nothing.
    #[must_use]
    pub fn memory(start: impl Fn(Transport) + Send + Sync + 'static) -> Self {
        let start = Arc::new(start);
        Self::memory_service(move || {
            let start = Arc::clone(&start);
            move |transport| start(transport)
        })
    }

    /// Sessions in memory that share something, such as a room: `make` is called once for each script, and what it returns
    /// starts a session on each connection.
    #[must_use]
    pub fn memory_service<S: FnMut(Transport) + 'static>(make: impl Fn() -> S + Send + Sync + 'static) -> Self {
        Self::streams(move || {
            let mut start = make();
            move |stream| start(stream.into_transport())
        })
    }

    /// A service in memory that is not of this library: as [`memory_service`](Self::memory_service), and what `make`
    /// returns is given each connection as a stream, as
    /// `|| |stream| { actix_rt::spawn(serve(stream)); }`.
    #[must_use]
    pub fn streams<S: FnMut(ServiceStream) + 'static>(make: impl Fn() -> S + Send + Sync + 'static) -> Self {
        Self(Kind::Memory(Arc::new(move || Box::new(make()))))
    }

    pub(crate) fn is_memory(&self) -> bool {
        matches!(self.0, Kind::Memory(_))
    }
}

/// A text that is no address: what one looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", address::HELP)]
pub struct AddressError(());

/// Reads `host:port`, `[IPv6]:port`, `unix:PATH` or `tls:host:port`.
impl FromStr for Target {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Address::parse(text).map(|address| Self(Kind::Address(address))).ok_or(AddressError(()))
    }
}

/// Over sockets nobody knows when a service has read: it is given some time, or none.
fn socket_turn(time: Duration) -> Turn {
    Box::pin(async move {
        if time.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(time).await;
        }
    })
}

impl Wire for TcpStream {
    fn reset(self: Box<Self>) {
        socket::reset_at_close(&*self);
    }
}

/// Unix sockets know no reset but that of bytes which nobody reads.
impl Wire for UnixStream {
    fn reset(self: Box<Self>) {}
}

/// Connections of the system.
pub(crate) struct NetDriver {
    /// The time that a service is given to look at a piece.
    pub(crate) turn: Duration,
    pub(crate) is_slow: bool,
    #[cfg(feature = "script-tls")]
    pub(crate) tls: TlsOptions,
}

impl NetDriver {
    /// Gives a slow peer little room in the kernel.
    fn prepare(&self, stream: &impl AsFd) {
        if self.is_slow {
            // If that fails, there is more room, and nothing else changes.
            let _ = SockRef::from(stream).set_recv_buffer_size(1);
        }
    }

    fn end<S: Wire>(&self, stream: S) -> Box<dyn Wire> {
        if !self.is_slow {
            return Box::new(stream);
        }
        Box::new(Slow::new(stream, || socket_turn(Duration::from_millis(1))))
    }

    async fn tcp(&self, address: &str) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        self.prepare(&stream);
        Ok(stream)
    }
}

impl Driver for NetDriver {
    async fn connect(&mut self, _: &str, address: Option<&Address>) -> io::Result<Box<dyn Wire>> {
        match address {
            Some(Address::Tcp(address)) => Ok(self.end(self.tcp(address).await?)),
            Some(Address::Unix(path)) => {
                let stream = UnixStream::connect(path).await?;
                self.prepare(&stream);
                Ok(self.end(stream))
            }
            #[cfg(feature = "script-tls")]
            Some(Address::Tls(address)) => Ok(self.end(self.tls.connect(address, self.tcp(address).await?).await?)),
            #[cfg(not(feature = "script-tls"))]
            Some(Address::Tls(_)) => Err(io::Error::other("TLS needs the feature `script-tls`")),
            None => Err(io::Error::other("there is no service, and no address")),
        }
    }

    fn has_addresses(&self) -> bool {
        true
    }

    fn turn(&self) -> Turn {
        socket_turn(self.turn)
    }
}
