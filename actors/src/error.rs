//! Errors before a server runs or a connector has its connection. Each message says what to do about it.
//!
//! Not here: why one session ended ([`CloseReason`](crate::CloseReason)).

use std::{fs, io, net::SocketAddr, sync::Arc, time::Duration};

use rustix::io::Errno;

use crate::{
    address::{Address, listen::ListenAddressError},
    connection::ListenerId,
};

/// An invalid setting. Nothing has been started when it is returned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The maximum line length is zero, or above [`MAX_LINE_LIMIT`](crate::Framing::MAX_LINE_LIMIT).
    #[error("max line is {bytes} bytes: use 1 to 1073741824")]
    MaxLine {
        /// The value that was given.
        bytes: usize,
    },
    /// The low watermark is not below the high one.
    #[error("outbox watermarks are low {low} and high {high}: use a low one under the high one")]
    Watermarks {
        /// The low watermark, at which reading resumes, in bytes.
        low: usize,
        /// The high watermark, above which reading pauses, in bytes.
        high: usize,
    },
    /// The maximum number of sessions is zero.
    #[error("max sessions is 0: use 1 or more, or leave it out for no limit")]
    MaxSessions,
    /// The maximum number of sessions of one source is zero.
    #[error("max sessions per source is 0: use 1 or more, or leave it out for no limit")]
    MaxSessionsPerSource,
    /// The maximum number of connections whose filters wait is zero.
    #[error("max prefaces is 0: use 1 or more")]
    MaxPrefaces,
    /// A source prefix has more bits than an address.
    #[error("source prefix is {v4},{v6}: use at most 32 bits for IPv4 and 128 for IPv6")]
    SourcePrefix {
        /// Bits of the IPv4 prefix.
        v4: u8,
        /// Bits of the IPv6 prefix.
        v6: u8,
    },
    /// A rate or its burst is zero.
    #[error("{limit} is 0: use 1 or more a second, or leave it out for no limit")]
    Rate {
        /// The name of the setting.
        limit: &'static str,
    },
    /// The refuse line is too long to fit any empty socket.
    #[error("the refuse line has {bytes} bytes: use at most 1024")]
    RefuseLine {
        /// Its length in bytes.
        bytes: usize,
    },
    /// The memory budget is less than a few sessions need.
    #[error("memory budget is {bytes} bytes: use 1 MiB or more, or no budget at all")]
    MemoryBudget {
        /// The value that was given.
        bytes: usize,
    },
    /// A timeout is shorter or longer than the clock can measure.
    #[error("{limit} is {timeout:?}: use 1 s to 24 days, or none")]
    Timeout {
        /// The name of the setting.
        limit: &'static str,
        /// The value that was given.
        timeout: Duration,
    },
    /// A token is too short to keep others out, or cannot be sent.
    #[error(
        "the token is no secret: use 16 to 1024 printable ASCII characters without blanks, as openssl rand -hex 32 prints"
    )]
    Token,
    /// A label of metrics has a name that no scraper reads, or one that is taken.
    #[cfg(feature = "metrics")]
    #[error(
        "{name:?} is no name for a label: use letters, digits and _, with no digit and no __ at the beginning, and none of listener, reason, worker, le, version"
    )]
    Label {
        /// The name that was given.
        name: String,
    },
    /// The text is neither an address nor a network of addresses.
    #[error("{text:?} is no address or network: write it as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32")]
    Prefix {
        /// The text that was given.
        text: String,
    },
    /// The text behind `uid:` or `gid:` is no number of a user or group.
    #[error("{text:?} has no number of a user or group: write it as uid:1000 or gid:100")]
    PeerId {
        /// The text that was given.
        text: String,
    },
    /// The number of workers is zero, or above [`MAX_WORKERS`](crate::LineServer::MAX_WORKERS).
    #[error("{workers} workers: use 1 to 1024, or leave it out for one a core")]
    Workers {
        /// The value that was given.
        workers: usize,
    },
    /// The kernel does not take a backlog of this length.
    #[error("backlog is {backlog}: use 1 to {}", i32::MAX)]
    Backlog {
        /// The value that was given.
        backlog: u32,
    },
    /// The server has no listener.
    #[error("no listener: call bind() or listen() before the start")]
    NoListener,
    /// The target of a connector is not `HOST:PORT`.
    #[error("{target:?} is no address: write it as example.org:40713, 192.0.2.7:40713 or [2001:db8::7]:40713")]
    Target {
        /// The text that was given.
        target: String,
    },
    /// The host of a connector's target is no name that a certificate could have.
    #[error("{target:?} has no host that a certificate could name: set one with server_name() of TlsClientBuilder")]
    ServerName {
        /// The connector's target.
        target: String,
    },
    /// A connector's PROXY header cannot be sent in the version that was asked for.
    #[error("the connector cannot send its PROXY header: {reason}")]
    ProxyHeader {
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The maximum number of a connector's attempts is zero.
    #[error("max attempts is 0: use 1 or more, or leave it out to try for ever")]
    MaxAttempts,
    /// A connector's backoff has no pause, or waits longer than the clock can measure.
    #[error(
        "backoff is {initial:?} to {max:?}, times {factor}: use 1 ms or more, at most 24 days, and 1 or more times"
    )]
    Backoff {
        /// The ceiling of the first wait.
        initial: Duration,
        /// The highest ceiling.
        max: Duration,
        /// The factor by which the ceiling grows.
        factor: u32,
    },
    /// A connector's timeout is too short for any connection, or longer than the clock can measure.
    #[error("connect timeout is {timeout:?}: use 1 ms to 24 days")]
    ConnectTimeout {
        /// The value that was given.
        timeout: Duration,
    },
    /// A socket buffer is too small for a segment, or larger than any kernel allows.
    #[error("{buffer} is {bytes} bytes: use 4 KiB to 1 GiB, or leave its size to the kernel")]
    SocketBuffer {
        /// The name of the setting.
        buffer: &'static str,
        /// The value that was given.
        bytes: usize,
    },
    /// A keepalive time is shorter or longer than the kernel takes.
    #[error("keepalive is {after:?}: use 1 s to 9 hours, or none")]
    Keepalive {
        /// The value that was given.
        after: Duration,
    },
    /// A time between keepalive probes is shorter or longer than the kernel takes.
    #[error("keepalive interval is {interval:?}: use 1 s to 9 hours")]
    KeepaliveInterval {
        /// The value that was given.
        interval: Duration,
    },
    /// A number of keepalive probes is more than the kernel takes, or none.
    #[error("keepalive count is {probes}: use 1 to 127, or no keepalive")]
    KeepaliveCount {
        /// The value that was given.
        probes: u32,
    },
    /// A user timeout is shorter or longer than the kernel takes.
    #[error("user timeout is {timeout:?}: use 1 s to 24 days, or none")]
    UserTimeout {
        /// The value that was given.
        timeout: Duration,
    },
    /// A limit of an outbox is larger than an outbox can count.
    #[error("{limit} is {bytes} bytes: use at most 1 GiB")]
    OutboxBytes {
        /// The name of the setting.
        limit: &'static str,
        /// The value that was given.
        bytes: usize,
    },
    /// The hard limit of an outbox is below the high watermark: the outbox would be full before its session stops
    /// reading.
    #[error("hard limit of an outbox is {hard} bytes, under its high watermark of {high}: use that much or more")]
    HardLimit {
        /// The value that was given, in bytes.
        hard: usize,
        /// The watermark, in bytes.
        high: usize,
    },
    /// The soft limit of an outbox is above the hard one, so no outbox would reach it first.
    #[error("soft limit of an outbox is {soft} bytes, over its hard limit of {hard}: use that much or less")]
    SoftLimit {
        /// The value that was given, in bytes.
        soft: usize,
        /// The hard limit, in bytes.
        hard: usize,
    },
    /// A time is longer than the clock can measure.
    #[error("{limit} is {time:?}: use at most 24 days")]
    TooLong {
        /// The name of the setting.
        limit: &'static str,
        /// The value that was given.
        time: Duration,
    },
    /// The wait timeout is shorter or longer than the clock can measure.
    #[error("wait timeout is {timeout:?}: use 1 s to 24 days")]
    WaitTimeout {
        /// The value that was given.
        timeout: Duration,
    },
    /// A network begins with an IPv4 address in IPv6 notation, and covers more than all of IPv4.
    #[error(
        "{text:?} is an IPv4 address in IPv6 notation with less than 96 bits: write a network of IPv4 as 10.0.0.0/8, all \
         of it as 0.0.0.0/0, and all of IPv6 as ::/0"
    )]
    MappedPrefix {
        /// The text that was given.
        text: String,
    },
}

impl From<ConfigError> for io::Error {
    fn from(error: ConfigError) -> Self {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

/// A server could not be started. Nothing of it remains: its listeners are closed, its workers' threads are joined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The calling thread belongs to no actix system, or to one that has stopped.
    #[error("no actix system runs on this thread: start the server inside of #[actix::main] or System::block_on")]
    NoSystem,
    /// The thread of a worker, or its reactor, could not be made.
    #[error("cannot start worker {worker} of {workers}: {}; {}, or use fewer workers", reason(source), too_few(source))]
    Worker {
        /// The number of the worker, counted from 1.
        worker: usize,
        /// The number of workers that was given.
        workers: usize,
        /// The system's error.
        source: io::Error,
    },
}

impl From<StartError> for io::Error {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Config(error) => error.into(),
            StartError::NoSystem => io::Error::other(error),
            StartError::Worker { ref source, .. } => io::Error::new(source.kind(), error),
        }
    }
}

/// Advice against a shortage of descriptors or threads.
fn too_few(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE) => "raise the descriptor limit (ulimit -n, or LimitNOFILE= of its service)",
        Some(Errno::NFILE) => "raise the descriptor limit of the machine (sysctl fs.file-max)",
        Some(Errno::AGAIN) => "raise the thread limit (ulimit -u, or TasksMax= of its service)",
        _ => "give it more memory, descriptors and threads",
    }
}

/// A listener could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The text is no address.
    #[error("cannot listen on {text:?}: {source}")]
    Syntax {
        /// The text that was given.
        text: String,
        /// Says how an address is written.
        source: ListenAddressError,
    },
    /// The address could not be understood or looked up.
    #[error(
        "cannot look up {address}: {}; write it as 192.0.2.7:40713, [2001:db8::7]:40713, or a name that this machine knows",
        reason(source)
    )]
    Resolve {
        /// The text that was given.
        address: String,
        /// The resolver's error.
        source: io::Error,
    },
    /// The kernel refused to make the socket, to bind the address, or to listen.
    #[error("cannot listen on {address}: {}; {}", reason(source), listen_advice(address, source))]
    Listen {
        /// The address that was refused.
        address: Address,
        /// The kernel's error.
        source: io::Error,
    },
    /// Another socket is bound to that path or name.
    #[error("cannot listen on {address}: another process listens there; end it, or choose another path")]
    InUse {
        /// The path or name.
        address: Address,
    },
    /// There is a file at the path that is no socket. It is left alone.
    #[error("cannot listen on {address}: what is there is no socket, and stays; remove it, or choose another path")]
    NotSocket {
        /// The path.
        address: Address,
    },
    /// The mode has bits that are none of permissions.
    #[error("mode {mode:o} of {address} is none of permissions: use 0 to 777, octal")]
    UnixMode {
        /// The path.
        address: Address,
        /// The value that was given.
        mode: u32,
    },
    /// The mode, owner or group of a path could not be set. A path that was just bound is removed again; that of a listener
    /// that is replaced keeps what it had.
    #[error("cannot set the {setting} of {address}: {}; {}", reason(source), access_advice(source))]
    UnixAccess {
        /// The path.
        address: Address,
        /// The setting: `"mode"`, `"owner"` or `"group"`.
        setting: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// A setting was made that such an address does not have.
    #[error("{setting} is set for {address}, which has no such setting: leave it out")]
    Unsuited {
        /// The word of [`Listener`](crate::Listener).
        setting: &'static str,
        /// The address.
        address: String,
    },
    /// A listener that is replaced at its address should take IPv4 connections where it takes none, or none where it does.
    #[error(
        "{address} takes {}, which cannot change while it is bound: close the listener, then add it again",
        if *only { "IPv4 connections, too" } else { "IPv6 connections only" }
    )]
    OnlyV6 {
        /// The address.
        address: Address,
        /// The value that was given.
        only: bool,
    },
    /// The descriptor that was handed over is not a listening stream socket.
    #[error("{address}: not a listening stream socket; hand over a SOCK_STREAM that listen(2) was called for")]
    NotListening {
        /// The address that it is bound to.
        address: Address,
    },
    /// The socket that should have been handed to this process is not there, or cannot be used.
    #[error(transparent)]
    Inherit(#[from] InheritError),
    /// A setting of the listener cannot work.
    #[error(transparent)]
    Setting(#[from] ConfigError),
    /// The server has had as many listeners as can be numbered.
    #[error("too many listeners: a server can have 65535 in its life; start it anew to number them from 0 again")]
    TooMany,
    /// Another listener of the server has this name.
    #[error("there is a listener named {name:?} already: choose another name, or close that one first")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A listener that is replaced keeps its name.
    #[error("{listener} cannot be renamed to {name:?}: leave the name away, or close it and add another")]
    Renamed {
        /// The listener to be replaced.
        listener: ListenerId,
        /// The name of the listener that should take its place.
        name: String,
    },
    /// The server has no such listener, or not any more.
    #[error("the server has no {listener}: look at its list of listeners for those that it has")]
    NoSuchListener {
        /// The listener that was to be replaced.
        listener: ListenerId,
    },
    /// The server is being drained, or has ended.
    #[error("the server ends: it opens no listener any more")]
    ServerEnding,
}

/// A socket that this process should have been started with cannot be a listener.
///
/// `socket` is the address that asked for it, `systemd:NAME` or `fd:NUMBER`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InheritError {
    /// The library was built without them, or for another system than Linux.
    #[error("{socket}: this program takes no sockets of others; build it on Linux with the feature `systemd`")]
    Unsupported {
        /// The address.
        socket: String,
    },
    /// No socket has this name.
    #[error("{socket}: no socket of this name was handed over; {}", there_are(there))]
    Unknown {
        /// The address.
        socket: String,
        /// The sockets that were handed over and are not taken.
        there: Vec<String>,
    },
    /// Several sockets have this name.
    #[error("{socket}: several sockets have this name; use {} instead", fds.join(" and "))]
    Several {
        /// The address.
        socket: String,
        /// The addresses that mean one of them each.
        fds: Vec<String>,
    },
    /// A listener has it, or had it before it was closed.
    #[error(
        "{socket}: a listener has taken it already; name each socket once, and restart the process to take it again"
    )]
    Taken {
        /// The address.
        socket: String,
    },
    /// It was closed since no listener had asked for it at the start.
    #[error("{socket}: it was closed, as no listener used it at the start; restart the process to get it again")]
    Closed {
        /// The address.
        socket: String,
    },
    /// The descriptor has been opened by this process itself.
    #[error(
        "{socket}: it was not handed over, this process has opened it for itself; name one that it is started with"
    )]
    NotHandedOver {
        /// The address.
        socket: String,
    },
    /// It is nothing that connections can be accepted on.
    #[error("{socket}: {reason}")]
    Unfit {
        /// The address.
        socket: String,
        /// What it is instead.
        reason: Unfit,
    },
    /// The sockets are meant for another process.
    #[error(
        "the sockets in LISTEN_FDS are for process {meant} (LISTEN_PID), and this is {own}; let the service manager start \
         this program itself, or a shell that ends in exec"
    )]
    OtherProcess {
        /// The process that they are meant for.
        meant: u32,
        /// This process.
        own: u32,
    },
    /// A variable of the environment that tells of sockets is invalid.
    #[error("{variable}={value:?} in the environment is invalid; unset it, or let a service manager set it")]
    Environment {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
    },
}

/// Why a descriptor is nothing that connections can be accepted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// There is no descriptor of this number.
    #[error("no such descriptor is open; start the process with it")]
    NotOpen,
    /// A file, a pipe, or something else.
    #[error("it is no socket; hand over one that listens")]
    NotSocket,
    /// A socket of datagrams or packets.
    #[error("it is no stream socket; use ListenStream= in the .socket unit")]
    NotStream,
    /// A socket that was never made to listen, or a connection.
    #[error("it is a socket that does not listen; use Accept=no in the .socket unit, or call listen(2) before")]
    NotListening,
}

/// Tells which sockets could have been meant.
fn there_are(sockets: &[String]) -> String {
    match sockets {
        [] => "none was: start it by way of its .socket unit, or use an address".to_owned(),
        sockets => format!("there are {}; see FileDescriptorName= in the .socket unit", sockets.join(", ")),
    }
}

impl From<BindError> for io::Error {
    fn from(error: BindError) -> Self {
        let kind = match &error {
            BindError::Resolve { source, .. } | BindError::Listen { source, .. } => source.kind(),
            BindError::UnixAccess { source, .. } => source.kind(),
            BindError::InUse { .. } => io::ErrorKind::AddrInUse,
            BindError::NotSocket { .. } => io::ErrorKind::AlreadyExists,
            BindError::NameTaken { .. } => io::ErrorKind::AlreadyExists,
            BindError::Inherit(InheritError::Unknown { .. }) | BindError::NoSuchListener { .. } => {
                io::ErrorKind::NotFound
            }
            BindError::ServerEnding => io::ErrorKind::NotConnected,
            BindError::Syntax { .. }
            | BindError::UnixMode { .. }
            | BindError::Unsuited { .. }
            | BindError::NotListening { .. }
            | BindError::Inherit(_)
            | BindError::Setting(_)
            | BindError::TooMany
            | BindError::OnlyV6 { .. }
            | BindError::Renamed { .. } => io::ErrorKind::InvalidInput,
        };
        io::Error::new(kind, error)
    }
}

/// Advice against a reason not to listen.
fn listen_advice(address: &Address, error: &io::Error) -> String {
    if let Some(Errno::MFILE | Errno::NFILE) = Errno::from_io_error(error) {
        return too_few(error).to_owned();
    }
    let Some(address) = address.socket_addr() else { return path_advice(error).to_owned() };
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            let read = |name| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
            let (range, reserved) = (read("ip_local_port_range"), read("ip_local_reserved_ports"));
            if let Some((first, last)) = ephemeral_range_of(address.port(), &range, &reserved) {
                return format!(
                    "choose another port, or end whoever listens there; an outgoing connection may have it, too, as it is \
                     one of the ports {first} to {last} that the kernel gives to these: net.ipv4.ip_local_reserved_ports \
                     keeps it free"
                );
            }
            "choose another port, or end whoever listens there"
        }
        io::ErrorKind::AddrNotAvailable => {
            "choose an address that this machine has, or 0.0.0.0 or [::] for all of them"
        }
        io::ErrorKind::PermissionDenied => "choose a port above 1023, or allow it to this process",
        _ => "choose another address",
    };
    advice.to_owned()
}

/// The same for the path of a unix socket.
fn path_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "choose another path, or remove what is there, if nobody listens on it",
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "make its directory first",
        io::ErrorKind::PermissionDenied => "choose a directory that this process may write to",
        // The kernel has room for 107 bytes.
        io::ErrorKind::InvalidInput => "choose a path of 1 to 107 bytes, without a NUL",
        _ => "choose another path",
    }
}

/// The same for the permissions of a path.
fn access_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "choose this process's own user and one of its groups, or start it as root, or with CAP_CHOWN"
        }
        io::ErrorKind::NotFound => "mount /proc, or leave it out",
        _ => "leave it out",
    }
}

/// Returns the range of ports for outgoing connections if `port` is in it. In the kernel's formats: `32768 60999` and
/// `5000,40000-40100`.
fn ephemeral_range_of(port: u16, range: &str, reserved: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.trim().parse::<u16>().ok();
    let (first, last) = range.trim().split_once(char::is_whitespace)?;
    let (first, last) = (number(first)?, number(last)?);
    let is_reserved = reserved.trim().split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        number(first).zip(number(last)).is_some_and(|(first, last)| (first..=last).contains(&port))
    });
    ((first..=last).contains(&port) && !is_reserved).then_some((first, last))
}

/// The kernel's reason in the words of `strerror`, in lower case and without the number: it ends a sentence.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => text.to_owned(),
    }
}

/// The server that a handle belongs to has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server has ended: its handle can no longer be asked")]
pub struct ServerEnded;

impl From<ServerEnded> for io::Error {
    fn from(error: ServerEnded) -> Self {
        io::Error::new(io::ErrorKind::NotConnected, error)
    }
}

/// The reason why an attempt to connect brought no session. Cheap to clone: subscribers share the causes.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name could not be looked up.
    #[error("cannot look up {target}: {}; check the name, and whether this machine's resolver answers", reason(source))]
    Resolve {
        /// The connector's target.
        target: String,
        /// The resolver's error; [`io::ErrorKind::TimedOut`] if it did not answer in time.
        source: Arc<io::Error>,
    },
    /// The look-up returned no address.
    #[error("{target} has no address: check the name, or what the resolver of the connector returns for it")]
    NoAddress {
        /// The connector's target.
        target: String,
    },
    /// Every address refused the connection, or could not be reached.
    #[error("cannot connect to {target}: {}; check that its server runs, and listens there", summary(failures))]
    Refused {
        /// The connector's target.
        target: String,
        /// Each address with the kernel's error, in the order of their failures.
        failures: Vec<(SocketAddr, Arc<io::Error>)>,
    },
    /// Some addresses did not answer in time; the others, if there were any, had refused.
    #[error(
        "no answer from {target} within {timeout:?}; check that no firewall drops it, or allow a longer connect timeout"
    )]
    TimedOut {
        /// The connector's target.
        target: String,
        /// The target's addresses, in the order in which they were tried.
        addresses: Vec<SocketAddr>,
        /// The time that the attempt was allowed to take.
        timeout: Duration,
    },
    /// The connection was there, but TLS was not: the server's certificate, or what the two sides offer each other.
    #[error("no TLS with {target} at {peer}: {reason}; check the server's certificate, and whom this side trusts")]
    Handshake {
        /// The connector's target.
        target: String,
        /// The address that was connected to.
        peer: SocketAddr,
        /// The reason, in the words of rustls or of the system.
        reason: String,
    },
    /// The connector's resolver or the factory of its actors panicked. It is called again at the next attempt.
    #[error("the {what} of the connector to {target} panicked: look above for its message")]
    Panicked {
        /// The connector's target.
        target: String,
        /// The one that panicked: `"resolver"` or `"factory"`.
        what: &'static str,
    },
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        let kind = match &error {
            ConnectError::Resolve { source, .. } => source.kind(),
            ConnectError::NoAddress { .. } => io::ErrorKind::NotFound,
            ConnectError::Refused { failures, .. } => {
                failures.first().map_or(io::ErrorKind::ConnectionRefused, |(_, error)| error.kind())
            }
            ConnectError::TimedOut { .. } => io::ErrorKind::TimedOut,
            ConnectError::Handshake { .. } => io::ErrorKind::InvalidData,
            ConnectError::Panicked { .. } => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// The first failure, and how many others there are.
fn summary(failures: &[(SocketAddr, Arc<io::Error>)]) -> String {
    match failures {
        [] => "no address was tried".to_owned(),
        [(address, error)] => format!("{address}: {}", reason(error)),
        [(address, error), others @ ..] => {
            format!("{address}: {}, and {} other addresses failed", reason(error), others.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_outgoing_connections_are_given_is_known_by_the_kernels_tables() {
        let range = "32768\t60999\n";
        assert_eq!(ephemeral_range_of(40713, range, "\n"), Some((32768, 60999)));
        assert_eq!(ephemeral_range_of(32767, range, ""), None);
        assert_eq!(ephemeral_range_of(60999, range, "5000,40000-41000,61000"), Some((32768, 60999)));
        assert_eq!(ephemeral_range_of(40713, range, "5000,40000-41000\n"), None);
        assert_eq!(ephemeral_range_of(40713, range, "40713\n"), None);
        assert_eq!(ephemeral_range_of(40713, "", ""), None, "another system");
    }

    #[test]
    fn a_shortage_is_not_blamed_on_the_address() {
        let listen = |error: Errno| {
            let address = SocketAddr::from(([127, 0, 0, 1], 7));
            BindError::Listen { address: address.into(), source: error.into() }.to_string()
        };
        assert_eq!(
            listen(Errno::MFILE),
            "cannot listen on 127.0.0.1:7: too many open files; raise the descriptor limit (ulimit -n, or LimitNOFILE= of \
             its service)"
        );
        assert!(listen(Errno::NFILE).ends_with("of the machine (sysctl fs.file-max)"));
    }
}
