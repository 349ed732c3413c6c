//! Unix: binds unix sockets, with a path or without.
//!
//! Not here: the connections of one (`socket`), its other settings (`listener`).

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use crate::{address::UnixAddress, error::BindError};

/// Listens at `path`.
pub(crate) fn listen_at(path: PathBuf, backlog: i32) -> Result<(OwnedFd, BoundPath), BindError> {
    let listen = || {
        if path.as_os_str().is_empty() {
            // The kernel would choose an abstract name.
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let socket = bind(&path)?;
        let bound = BoundPath::new(path.clone());
        socket.listen(backlog)?;
        Ok((socket.into(), bound))
    };
    listen().map_err(|source| BindError::Listen { address: UnixAddress::at(&path).into(), source })
}

/// Listens on an abstract name, which has no file: it is free again when its last descriptor is closed.
pub(crate) fn listen_on_name(name: &str, backlog: i32) -> Result<OwnedFd, BindError> {
    let listen = || {
        let is_known = cfg!(any(target_os = "linux", target_os = "android"));
        if name.is_empty() || !is_known {
            return Err(io::Error::from(if is_known {
                io::ErrorKind::InvalidInput
            } else {
                io::ErrorKind::Unsupported
            }));
        }
        let socket = bind(format!("\0{name}"))?;
        socket.listen(backlog)?;
        Ok(socket.into())
    };
    listen().map_err(|source| BindError::Listen { address: UnixAddress::at(format!("@{name}")).into(), source })
}

fn bind(path: impl AsRef<Path>) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    Ok(socket)
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
