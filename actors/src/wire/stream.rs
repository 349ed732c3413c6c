//! Stream: TCP, a unix socket, or anything else that reads and writes bytes.
//!
//! TCP is a variant of its own, so that the common case costs no indirect call and no allocation.
//! Not here: filters before it (`transport`), reading and writing in a turn (`session`).

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll},
};

use rustix::{io::Errno, net::RecvFlags};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

use crate::{
    address::Address,
    wire::{
        socket::{self, Socket},
        tcp::{self, SendQueue},
    },
};

/// Any two-way byte stream: a unix socket, a TLS stream, a pipe, an in-memory pair.
///
/// `poll_shutdown` must tell the peer that our bytes end, and leave the other direction open. Tokio's pipes do not:
/// over these the peer sees our end only when the session is dropped, after it has
/// [lingered](crate::limits::LimitsBuilder::linger_timeout). A wrapper whose shutdown drops the sending end avoids that.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static> ByteStream for T {}

/// A connection's two byte streams, as they come from the kernel or from a user.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Other(Box<dyn ByteStream>),
    /// Nothing: the descriptor is closed.
    Closed,
}

impl Stream {
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Other(stream) => Pin::new(&mut **stream).poll_read(cx, buffer),
            Self::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Reads what is there at this moment, also if the reactor does not know of it yet: a socket that has just come to it
    /// counts as empty until it has asked the kernel.
    pub(crate) fn poll_read_now(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(socket) = self.socket() else { return self.poll_read(cx, buffer) };
        match rustix::net::recv(socket, buffer.initialize_unfilled(), RecvFlags::DONTWAIT) {
            Ok((_, count)) => {
                buffer.advance(count);
                Poll::Ready(Ok(()))
            }
            // The reactor is asked as well, so that the task is woken for what comes next.
            Err(rustix::io::Errno::AGAIN) => self.poll_read(cx, buffer),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    /// Returns true if the peer's EOF would be read next. Always false for other transports than sockets, which cannot
    /// be checked without reading.
    pub(crate) fn is_at_eof(&self) -> bool {
        let Some(socket) = self.socket() else { return false };
        matches!(rustix::net::recv(socket, &mut [0_u8][..], RecvFlags::DONTWAIT | RecvFlags::PEEK), Ok((_, 0)))
    }

    /// Returns true if the peer's EOF or a reset would be read next, under the same condition.
    pub(crate) fn is_at_end(&self) -> bool {
        let Some(socket) = self.socket() else { return false };
        match rustix::net::recv(socket, &mut [0_u8][..], RecvFlags::DONTWAIT | RecvFlags::PEEK) {
            Ok((_, count)) => count == 0,
            Err(error) => !matches!(error, Errno::AGAIN | Errno::INTR),
        }
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Other(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
            Self::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Says that everything written so far should leave buffers of the transport's own. Sockets have none.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) | Self::Closed => Poll::Ready(Ok(())),
            Self::Other(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    /// Sends the FIN.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Other(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }

    /// Returns true if dropping it says all that a shutdown would, once the peer's EOF was read.
    pub(crate) fn closes_when_dropped(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Unix(_))
    }

    /// Returns the state of the kernel's send queue. `None` for other transports than TCP.
    pub(crate) fn send_queue(&self) -> Option<SendQueue> {
        match self {
            Self::Tcp(stream) => tcp::send_queue(stream),
            Self::Unix(_) | Self::Other(_) | Self::Closed => None,
        }
    }

    /// Makes the close a reset: bytes in the kernel, in both directions, are dropped, and the peer is told.
    pub(crate) fn reset_at_close(&self) {
        if let Self::Tcp(stream) = self {
            socket::reset_at_close(stream);
        }
    }

    /// Writes what the kernel takes at this moment, outside of a task's turn: the last chance before the socket goes.
    pub(crate) fn write_now(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes).unwrap_or(0),
            Self::Unix(stream) => stream.try_write(bytes).unwrap_or(0),
            Self::Other(_) | Self::Closed => 0,
        }
    }

    pub(crate) fn peer(&self) -> Address {
        match self {
            Self::Tcp(stream) => stream.peer_addr().map_or(Address::Memory, Address::from),
            Self::Unix(stream) => socket::unix_peer(stream),
            Self::Other(_) | Self::Closed => Address::Memory,
        }
    }

    pub(crate) fn local(&self) -> Address {
        match self {
            Self::Tcp(stream) => stream.local_addr().map_or(Address::Memory, Address::from),
            Self::Unix(stream) => socket::unix_local(stream),
            Self::Other(_) | Self::Closed => Address::Memory,
        }
    }

    /// The socket, where there is one.
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tcp(stream) => Some(stream.as_fd()),
            Self::Unix(stream) => Some(stream.as_fd()),
            Self::Other(_) | Self::Closed => None,
        }
    }
}

/// Registers it with the reactor of the current arbiter.
impl TryFrom<Socket> for Stream {
    type Error = io::Error;

    fn try_from(socket: Socket) -> io::Result<Self> {
        Ok(match socket {
            Socket::Tcp(stream) => Self::Tcp(TcpStream::from_std(stream)?),
            Socket::Unix(stream) => Self::Unix(UnixStream::from_std(stream)?),
        })
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(stream) => f.debug_tuple("Stream").field(stream).finish(),
            Self::Unix(stream) => f.debug_tuple("Stream").field(stream).finish(),
            Self::Other(_) => f.debug_tuple("Stream").field(&"..").finish(),
            Self::Closed => f.debug_tuple("Stream").field(&"closed").finish(),
        }
    }
}
