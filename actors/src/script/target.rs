//! Drivers: how a script's peers reach the service. TCP, a unix socket, or sessions in memory.
//!
//! Not here: what is said over it (`run`).

use std::{
    cell::Cell,
    fmt, io,
    path::PathBuf,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

use crate::{
    testing::{Faults, FaultyStream, MemoryCapacity, MemoryStream, StreamCall, memory_pair},
    wire::{socket, stream::ByteStream, transport::Transport},
};

type Service = Box<dyn FnMut(Transport)>;

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
        Self(Kind::Memory(Arc::new(move || Box::new(make()))))
    }
}

/// A peer's end of a connection.
pub(crate) trait Wire: ByteStream {
    /// Closes it by a reset.
    fn reset(self: Box<Self>);

    /// Whether an EOF that was read is in truth a reset.
    fn eof_is_reset(&self) -> bool {
        false
    }
}

/// What makes connections.
pub(crate) trait Driver {
    /// Makes one.
    async fn connect(&mut self) -> io::Result<Box<dyn Wire>>;
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

pub(crate) struct TcpDriver(pub(crate) String);

impl Driver for TcpDriver {
    async fn connect(&mut self) -> io::Result<Box<dyn Wire>> {
        let stream = TcpStream::connect(&self.0).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

pub(crate) struct UnixDriver(pub(crate) PathBuf);

impl Driver for UnixDriver {
    async fn connect(&mut self) -> io::Result<Box<dyn Wire>> {
        Ok(Box::new(UnixStream::connect(&self.0).await?))
    }
}

pub(crate) struct MemoryDriver(pub(crate) Service);

impl Driver for MemoryDriver {
    async fn connect(&mut self) -> io::Result<Box<dyn Wire>> {
        let (theirs, ours) = memory_pair(MemoryCapacity::default());
        let (stream, faults) = FaultyStream::new(theirs);
        let was_reset = Rc::new(Cell::new(false));
        let theirs = SessionEnd { stream, has_shut_down: false, was_reset: Rc::clone(&was_reset) };
        (self.0)(Transport::new(theirs));
        Ok(Box::new(PeerEnd { stream: ours, faults, was_reset }))
    }
}

/// The peer's end in memory.
struct PeerEnd {
    stream: MemoryStream,
    faults: Faults,
    was_reset: Rc<Cell<bool>>,
}

impl Wire for PeerEnd {
    fn reset(self: Box<Self>) {
        self.faults.fail(StreamCall::Read, io::ErrorKind::ConnectionReset);
        self.faults.fail(StreamCall::Write, io::ErrorKind::ConnectionReset);
    }

    fn eof_is_reset(&self) -> bool {
        self.was_reset.get()
    }
}

/// The session's end in memory: dropped without a shutdown, it was aborted, and a kernel would send a reset.
struct SessionEnd {
    stream: FaultyStream<MemoryStream>,
    has_shut_down: bool,
    was_reset: Rc<Cell<bool>>,
}

impl Drop for SessionEnd {
    fn drop(&mut self) {
        self.was_reset.set(!self.has_shut_down);
    }
}

impl AsyncRead for SessionEnd {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for SessionEnd {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.has_shut_down = true;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for PeerEnd {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for PeerEnd {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
