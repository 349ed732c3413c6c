//! Targets: the service that a script talks to, over TCP, a unix socket, or in memory.
//!
//! Not here: connections in memory (`memory`), what is said over them (`run`).

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use tokio::net::{TcpStream, UnixStream};

use crate::{
    script::{
        driver::{Driver, Turn, Wire},
        memory::{Service, ServiceStream},
    },
    wire::{socket, transport::Transport},
};

/// The service that a script talks to.
#[derive(Clone)]
pub struct Target(pub(crate) Kind);

#[derive(Clone)]
pub(crate) enum Kind {
    Tcp(String),
    Unix(PathBuf),
    Memory(Arc<dyn Fn() -> Service + Send + Sync>),
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Tcp(address) => f.debug_tuple("Target").field(address).finish(),
            Kind::Unix(path) => f.debug_tuple("Target").field(path).finish(),
            Kind::Memory(_) => f.debug_tuple("Target").field(&"memory").finish(),
        }
    }
}

impl Target {
    /// A server that listens on TCP, at `host:port`.
    #[must_use]
    pub fn tcp(address: impl Into<String>) -> Self {
        Self(Kind::Tcp(address.into()))
    }

    /// A server that listens on a unix socket.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self(Kind::Unix(path.into()))
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

pub(crate) struct TcpDriver {
    pub(crate) address: String,
    /// What a service is given to look at a piece.
    pub(crate) turn: Duration,
}

impl Driver for TcpDriver {
    async fn connect(&mut self, _: &str) -> io::Result<Box<dyn Wire>> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    fn turn(&self) -> Turn {
        socket_turn(self.turn)
    }
}

pub(crate) struct UnixDriver {
    pub(crate) path: PathBuf,
    pub(crate) turn: Duration,
}

impl Driver for UnixDriver {
    async fn connect(&mut self, _: &str) -> io::Result<Box<dyn Wire>> {
        Ok(Box::new(UnixStream::connect(&self.path).await?))
    }

    fn turn(&self) -> Turn {
        socket_turn(self.turn)
    }
}
