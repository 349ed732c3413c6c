//! Unix: binds unix sockets, with a path or without, and removes their paths.
//!
//! Rules. A path is taken over from a server that is gone only if no socket is bound to it, and by one of several at a
//! time: whoever removes a path holds a lock on its folder (flock(2)), which ends with the process. What is no socket is
//! never removed. Nobody can connect before the permissions are those that were asked for: the socket listens last.
//! Not here: the connections of one (`socket`), its other settings (`listener`).

use std::{
    fs::{self, File, Permissions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::io::Errno;

use crate::{address::UnixAddress, error::BindError};

/// Default permissions: only processes of the same user connect, and root's.
pub(crate) const DEFAULT_MODE: u32 = 0o600;

/// Longest wait for another process that removes or takes over a path in the same folder, which takes it a moment.
const LONGEST_LOCK: Duration = Duration::from_secs(2);

/// Attempts to bind a path that others remove and bind at the same time.
const ATTEMPTS: usize = 8;

/// The permissions of a path.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Access {
    pub(crate) mode: Option<u32>,
    pub(crate) owner: Option<u32>,
    pub(crate) group: Option<u32>,
}

impl Access {
    /// The first setting that was made.
    pub(crate) fn setting(&self) -> Option<&'static str> {
        let each = [("unix_mode", self.mode), ("unix_owner", self.owner), ("unix_group", self.group)];
        each.into_iter().find_map(|(setting, value)| value.map(|_| setting))
    }

    fn checked_mode(&self, path: &Path) -> Result<u32, BindError> {
        let mode = self.mode.unwrap_or(DEFAULT_MODE);
        let address = || UnixAddress::at(path).into();
        if mode > 0o777 { Err(BindError::UnixMode { address: address(), mode }) } else { Ok(mode) }
    }
}

/// Listens at `path`.
pub(crate) fn listen_at(path: &Path, access: Access, backlog: i32) -> Result<(OwnedFd, BoundPath), BindError> {
    let address = || UnixAddress::at(path).into();
    let refused = |source| BindError::Listen { address: address(), source };
    let mode = access.checked_mode(path)?;
    if path.as_os_str().is_empty() {
        // The kernel would choose an abstract name.
        return Err(refused(io::ErrorKind::InvalidInput.into()));
    }
    let socket = bind_or_take_over(path, mode)?;
    let bound = BoundPath::new(path).map_err(refused)?;
    bound.allow(path, access)?;
    rustix::net::listen(&socket, backlog).map_err(|error| refused(error.into()))?;
    Ok((socket, bound))
}

/// Listens on an abstract name, which has no file: it is free again when its last descriptor is closed.
pub(crate) fn listen_on_name(name: &str, backlog: i32) -> Result<OwnedFd, BindError> {
    let address = || UnixAddress::at(format!("@{name}")).into();
    let listen = || {
        let is_known = cfg!(any(target_os = "linux", target_os = "android"));
        if name.is_empty() || !is_known {
            return Err(io::Error::from(if is_known {
                io::ErrorKind::InvalidInput
            } else {
                io::ErrorKind::Unsupported
            }));
        }
        let socket = bind(format!("\0{name}").as_ref(), DEFAULT_MODE)?;
        rustix::net::listen(&socket, backlog)?;
        Ok(socket)
    };
    listen().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address: address() },
        _ => BindError::Listen { address: address(), source },
    })
}

/// Binds a socket to `path`, which is made with at most these permissions.
fn bind(path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    let socket = File::from(OwnedFd::from(socket));
    // Linux makes the path with the permissions of the socket, less the umask. Elsewhere they are set later, as what the
    // umask leaves out: still before anybody can connect.
    let _ = socket.set_permissions(Permissions::from_mode(mode));
    let socket = socket2::Socket::from(OwnedFd::from(socket));
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    Ok(socket.into())
}

fn bind_or_take_over(path: &Path, mode: u32) -> Result<OwnedFd, BindError> {
    let address = || UnixAddress::at(path).into();
    let refused = |source| BindError::Listen { address: address(), source };
    let in_use = match bind(path, mode) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
        bound => return bound.map_err(refused),
    };
    // Looked at first: whoever finds a server there need not wait for anything.
    let mut lock = None;
    for _ in 0..ATTEMPTS {
        let Ok(file) = fs::symlink_metadata(path) else {
            // Gone meanwhile, or it never was to be seen: then this says why.
            match bind(path, mode) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
                bound => return bound.map_err(refused),
            }
        };
        if !file.file_type().is_socket() {
            return Err(BindError::NotSocket { address: address() });
        }
        match is_bound(path) {
            Ok(true) => return Err(BindError::InUse { address: address() }),
            Ok(false) if lock.is_some() => drop(remove(path, identity(&file))),
            // All of this once more, with the lock.
            Ok(false) => match lock_folder_of(path) {
                Ok(folder) => lock = Some(folder),
                Err(_) => break,
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => break,
        }
    }
    Err(refused(in_use))
}

/// Returns true if a socket is bound to `path`, whether it listens or not. Its owner does not notice: it is asked for
/// another kind of socket than it can be.
fn is_bound(path: &Path) -> io::Result<bool> {
    let probe = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None)?;
    match probe.connect(&socket2::SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::PROTOTYPE | Errno::PERM) => Ok(true),
            Some(Errno::CONNREFUSED) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Device and inode.
fn identity(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Removes `path` if it is still this file.
fn remove(path: &Path, file: (u64, u64)) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(now) if identity(&now) == file => fs::remove_file(path),
        _ => Ok(()),
    }
}

/// Locks the folder of `path` against others who remove paths there. Unlocked when it is dropped.
fn lock_folder_of(path: &Path) -> io::Result<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = File::open(folder)?;
    let end = Instant::now() + LONGEST_LOCK;
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(folder),
            Err(fs::TryLockError::Error(error)) => return Err(error),
            Err(fs::TryLockError::WouldBlock) if Instant::now() >= end => return Err(io::ErrorKind::TimedOut.into()),
            Err(fs::TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// The path of a unix socket bound here. Dropping it removes the path, unless it is another's by then.
#[derive(Debug)]
pub(crate) struct BoundPath {
    /// Absolute: the process may work in another folder by then.
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
    /// Owner and group that the system gave it.
    made_for: (u32, u32),
    /// Keeps the inode, whose number another file could have otherwise; `None` where the system has no such descriptor.
    handle: Option<File>,
}

impl BoundPath {
    fn new(path: &Path) -> io::Result<Self> {
        let handle = open(path)?;
        let file = match &handle {
            Some(handle) => handle.metadata()?,
            None => fs::symlink_metadata(path)?,
        };
        if !file.file_type().is_socket() {
            // Somebody else's by now.
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let made_for = (file.uid(), file.gid());
        Ok(Self { path: std::path::absolute(path)?, file: identity(&file), made_for, handle })
    }

    /// Sets other permissions, `path` being how the user wrote it. Those that are not asked for are as they were at first.
    ///
    /// # Errors
    /// For one that cannot be set. Then all are as before.
    pub(crate) fn change(&self, path: &Path, access: Access) -> Result<(), BindError> {
        let mode = access.checked_mode(path)?;
        let before = match &self.handle {
            Some(handle) => handle.metadata(),
            None => fs::symlink_metadata(&self.path),
        };
        let address = || UnixAddress::at(path).into();
        let before = before.map_err(|source| BindError::UnixAccess { address: address(), setting: "mode", source })?;
        let (owner, group) = (access.owner.unwrap_or(self.made_for.0), access.group.unwrap_or(self.made_for.1));
        // What stays takes no right to be set.
        let owner = (owner != before.uid()).then_some(owner);
        let group = (group != before.gid()).then_some(group);
        self.allow(path, Access { mode: Some(mode), owner, group }).inspect_err(|_| {
            let (owner, group) = (owner.map(|_| before.uid()), group.map(|_| before.gid()));
            // Whoever may not set them may not set them back.
            let _ = self.set(Access { mode: None, owner, group }, before.mode() & 0o777);
        })
    }

    /// Sets the permissions; `path` is how the user wrote it.
    fn allow(&self, path: &Path, access: Access) -> Result<(), BindError> {
        let mode = access.checked_mode(path)?;
        let address = || UnixAddress::at(path).into();
        self.set(access, mode).map_err(|(setting, source)| BindError::UnixAccess {
            address: address(),
            setting,
            source,
        })
    }

    /// Sets the permissions. An error comes with the setting that could not be made.
    fn set(&self, access: Access, mode: u32) -> Result<(), (&'static str, io::Error)> {
        // By way of the descriptor: the path may be another's.
        let path = match &self.handle {
            Some(handle) => format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(handle)).into(),
            None => self.path.clone(),
        };
        if access.owner.is_some() || access.group.is_some() {
            let setting = if access.owner.is_some() { "owner" } else { "group" };
            std::os::unix::fs::chown(&path, access.owner, access.group).map_err(|error| (setting, error))?;
        }
        // The umask may have left out a part of it.
        let is_set = || match &self.handle {
            Some(handle) => Ok(handle.metadata()?.mode() & 0o777 == mode),
            None => Ok(false),
        };
        match is_set() {
            Ok(true) => Ok(()),
            Ok(false) => fs::set_permissions(&path, Permissions::from_mode(mode)),
            Err(error) => Err(error),
        }
        .map_err(|error| ("mode", error))
    }
}

/// Opens `path` itself, for nothing but to know it.
#[cfg(target_os = "linux")]
fn open(path: &Path) -> io::Result<Option<File>> {
    use rustix::fs::{Mode, OFlags};
    // Not by std: with musl its options drop O_PATH, which is a part of musl's O_ACCMODE.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(Some(rustix::fs::open(path, flags, Mode::empty())?.into()))
}

#[cfg(not(target_os = "linux"))]
fn open(_: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        // Whoever starts now takes the path over, and must not lose it to us. Without a lock there is no other way to
        // have it removed.
        let _lock = lock_folder_of(&self.path);
        // Whoever may not remove it leaves it to the next start, which takes it over.
        let _ = remove(&self.path, self.file);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    /// A folder of this test's own.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("actix-lines-unix-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_path_is_bound_as_long_as_a_socket_of_any_kind_is() {
        let folder = Folder::new("bound");
        let path = folder.0.join("socket");
        assert_eq!(is_bound(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let silent = bind(&path, 0o600).unwrap();
        assert!(is_bound(&path).unwrap(), "it does not listen yet");
        rustix::net::listen(&silent, 1).unwrap();
        assert!(is_bound(&path).unwrap());
        rustix::io::ioctl_fionbio(&silent, true).unwrap();
        let nobody = rustix::net::accept(&silent).unwrap_err();
        assert_eq!(nobody, Errno::AGAIN, "whoever listens does not notice");
        drop(silent);
        assert!(!is_bound(&path).unwrap());
        fs::remove_file(&path).unwrap();
        let _packets = UnixDatagram::bind(&path).unwrap();
        assert!(is_bound(&path).unwrap());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_path_is_never_open_to_more_than_it_was_asked_to_be() {
        let folder = Folder::new("mode");
        let path = folder.0.join("socket");
        let _socket = bind(&path, 0o600).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o777, 0o600, "from the first moment");
    }

    #[test]
    fn the_number_of_an_inode_does_not_pass_for_the_file_that_had_it() {
        let folder = Folder::new("inode");
        let path = folder.0.join("socket");
        for _ in 0..20 {
            let (socket, bound) = listen_at(&path, Access::default(), 1).unwrap();
            drop(socket);
            fs::remove_file(&path).unwrap();
            let _other = UnixListener::bind(&path).unwrap();
            drop(bound);
            assert!(path.exists(), "it is another's");
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn whoever_holds_the_lock_of_the_folder_keeps_a_stale_path() {
        let folder = Folder::new("lock");
        let path = folder.0.join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let lock = lock_folder_of(&path).unwrap();
        let error = listen_at(&path, Access::default(), 1).unwrap_err();
        assert!(
            matches!(&error, BindError::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse),
            "{error}"
        );
        drop(lock);
        listen_at(&path, Access::default(), 1).unwrap();
    }
}
