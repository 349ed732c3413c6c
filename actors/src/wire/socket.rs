//! Socket: an accepted connection, TCP or unix, before it is registered with a reactor.
//!
//! Not here: the listening socket (`listen/socket`), a session's transport (`transport`).

use std::{
    ffi::OsStr,
    io::{self, Write},
    net::{self, Shutdown},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    path::PathBuf,
    time::Duration,
};

use rustix::net::{SocketAddrAny, SocketAddrUnix};

use crate::address::{Address, Credentials, UnixAddress};

/// Non-blocking, whichever it is.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(net::TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// A connection that a listener of this family has accepted.
    pub(crate) fn new(socket: OwnedFd, is_unix: bool) -> Self {
        if is_unix { Self::Unix(socket.into()) } else { Self::Tcp(socket.into()) }
    }

    /// Writes what the kernel takes at this moment: an empty socket takes a short line whole.
    pub(crate) fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&mut &*stream).write(bytes),
            Self::Unix(stream) => (&mut &*stream).write(bytes),
        }
    }

    /// Sends the FIN.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// Our end's address, which the kernel is asked for.
    pub(crate) fn local(&self) -> Address {
        match self {
            Self::Tcp(stream) => stream.local_addr().map_or(Address::Memory, Address::from),
            Self::Unix(stream) => unix_local(stream),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

/// Makes the close a reset, for TCP.
pub(crate) fn reset_at_close(socket: &impl AsFd) {
    // It fails for a socket that is reset already.
    let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// The peer of a unix socket: the process that connected.
pub(crate) fn unix_peer(socket: &impl AsFd) -> Address {
    let path = rustix::net::getpeername(socket).ok().flatten().and_then(path);
    Address::Unix(UnixAddress::new(path, credentials(socket)))
}

/// Our end of a unix socket.
pub(crate) fn unix_local(socket: &impl AsFd) -> Address {
    Address::Unix(UnixAddress::new(rustix::net::getsockname(socket).ok().and_then(path), None))
}

/// The address that a socket is bound to.
pub(crate) fn local_addr(socket: &OwnedFd) -> Address {
    match socket2::SockRef::from(socket).local_addr() {
        Ok(address) => match address.as_socket() {
            Some(address) => Address::from(address),
            None if address.is_unix() => unix_local(socket),
            None => Address::Memory,
        },
        Err(_) => Address::Memory,
    }
}

/// The path of a unix address; an abstract name is written with `@`.
fn path(address: SocketAddrAny) -> Option<PathBuf> {
    let address = SocketAddrUnix::try_from(address).ok()?;
    if let Some(path) = address.path() {
        return Some(OsStr::from_bytes(path.to_bytes()).into()).filter(|path: &PathBuf| !path.as_os_str().is_empty());
    }
    let name = address.abstract_name().filter(|name| !name.is_empty())?;
    Some(OsStr::from_bytes(&[b"@", name].concat()).into())
}

#[cfg(target_os = "linux")]
fn credentials(socket: &impl AsFd) -> Option<Credentials> {
    let peer = rustix::net::sockopt::socket_peercred(socket).ok()?;
    let pid = u32::try_from(peer.pid.as_raw_pid()).ok().filter(|pid| *pid > 0);
    Some(Credentials { pid, uid: peer.uid.as_raw(), gid: peer.gid.as_raw() })
}

#[cfg(not(target_os = "linux"))]
fn credentials(_: &impl AsFd) -> Option<Credentials> {
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn both_ends_of_a_unix_socket_are_known_by_path_and_process() {
        let path = std::env::temp_dir().join(format!("actix-lines-socket-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let peer = UnixStream::connect(&path).unwrap();
        let (ours, _) = listener.accept().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(unix_local(&ours), UnixAddress::at(&path).into());
        assert_eq!(unix_local(&peer), UnixAddress::new(None, None).into());
        let theirs = unix_peer(&ours);
        let credentials = theirs.unix().unwrap().credentials();
        assert_eq!(theirs.unix().unwrap().path(), None);
        if cfg!(target_os = "linux") {
            let credentials = credentials.unwrap();
            assert_eq!(credentials.pid, Some(std::process::id()));
            assert_eq!(credentials.uid, rustix::process::getuid().as_raw());
        }
    }
}
