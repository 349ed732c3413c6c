//! Socket: the listening socket. accept4(2), readiness, and the meaning of errors.
//!
//! Not here: the reaction to an error (`acceptor`, `shortage`).

use std::{
    io,
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, OwnedFd},
    task::{Context, Poll},
};

use rustix::{
    io::Errno,
    net::{SocketFlags, sockopt},
};
use tokio::io::Interest;

use crate::{
    address::Address,
    wire::socket::{Socket, unix_peer},
};

/// Most connections accepted before the sessions of the same arbiter get a turn.
pub(crate) const ACCEPTS_PER_TURN: usize = 64;

/// A listening socket registered with the reactor.
///
/// tokio's own listener would register each connection with this reactor; its `AsyncFd` cannot be made of a descriptor
/// without `unsafe`. Its `TcpStream` can, and needs no more of it than to be a socket.
#[derive(Debug)]
pub(crate) struct ListeningSocket {
    socket: tokio::net::TcpStream,
    is_unix: bool,
    /// Send and receive buffer of a unix listener. Unit: bytes.
    buffers: Option<(usize, usize)>,
}

impl ListeningSocket {
    pub(crate) fn new(socket: OwnedFd, is_unix: bool) -> io::Result<Self> {
        let buffers = is_unix
            .then(|| {
                Some((sockopt::socket_send_buffer_size(&socket).ok()?, sockopt::socket_recv_buffer_size(&socket).ok()?))
            })
            .flatten();
        Ok(Self { socket: tokio::net::TcpStream::from_std(TcpStream::from(socket))?, is_unix, buffers })
    }

    /// Returns another descriptor of the socket.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_read_ready(cx)
    }

    pub(crate) fn accept(&self) -> Result<(Socket, Address), Errno> {
        // Not yet ready is said without a number.
        self.socket
            .try_io(Interest::READABLE, || Ok(self.accept_now()?))
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))
    }

    /// Accepts without asking the reactor. One system call: the socket comes non-blocking and with the listener's
    /// options. A unix socket inherits none of these, so that it takes others, as for its peer.
    pub(crate) fn accept_now(&self) -> Result<(Socket, Address), Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, peer) = rustix::net::acceptfrom_with(&self.socket, flags)?;
        let peer = match self.is_unix {
            true => {
                self.pass_on(&socket);
                unix_peer(&socket)
            }
            false => peer.and_then(|peer| SocketAddr::try_from(peer).ok()).map_or(Address::Memory, Address::from),
        };
        Ok((Socket::new(socket, self.is_unix), peer))
    }
}

impl ListeningSocket {
    /// Gives a connection the options that a unix socket does not inherit. One that cannot be set is one that the
    /// connection works without.
    fn pass_on(&self, connection: &OwnedFd) {
        let connection = socket2::SockRef::from(connection);
        // A byte sent as urgent would be missing from the stream.
        let _ = connection.set_out_of_band_inline(true);
        if let Some((send, receive)) = self.buffers {
            // The kernel books twice what it is asked for, and says so.
            let _ = connection.set_send_buffer_size(send / 2);
            let _ = connection.set_recv_buffer_size(receive / 2);
        }
    }
}

/// Returns true for an error that accept(2) lists as one of the connection, not of the listener: the next accept may
/// work.
pub(crate) fn is_of_connection(error: Errno) -> bool {
    matches!(
        error,
        Errno::INTR
            | Errno::CONNABORTED
            | Errno::PROTO
            | Errno::PERM
            | Errno::NETDOWN
            | Errno::NOPROTOOPT
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::OPNOTSUPP
            | Errno::NETUNREACH
            | Errno::TIMEDOUT
    )
}

pub(crate) fn is_shortage(error: Errno) -> bool {
    matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
}
