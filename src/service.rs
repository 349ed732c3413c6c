//! Service: what a service manager is told (sd_notify), the watchdog that it runs, and the sockets that it keeps for the next
//! process.
//!
//! Rule: nothing here waits for the service manager, and nothing of the server ends with it. Without `NOTIFY_SOCKET` nothing
//! runs.
//! Not here: taking sockets over (`actix-lines`), signals (`signals`).

use std::{
    env,
    ffi::OsStr,
    io::{self, IoSlice},
    mem::{self, MaybeUninit},
    os::{
        fd::{AsFd, BorrowedFd},
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    process,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use actix_lines::{ListenAddress, Listener, ServerHandle, control::Stats, systemd::close_unused};
use rustix::{
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    time::{ClockId, clock_gettime},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use crate::{plural::counted, reason::reason};

/// Least time from one status to the next.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// Longest time without a look at the counters: each look wakes every worker.
const STATUS_AT_LEAST: Duration = Duration::from_secs(60);
/// The same in a drain, which is over soon.
const DRAIN_STATUS_EVERY: Duration = Duration::from_secs(1);
/// Time that the service manager is asked for again and again while a drain goes on. After the deadline the recorder and the
/// log have some seconds each.
const EXTENSION: Duration = Duration::from_secs(15);

static MANAGER: OnceLock<Option<Manager>> = OnceLock::new();

/// The service manager of this process.
#[derive(Debug)]
struct Manager {
    /// Non-blocking.
    socket: UnixDatagram,
    has_failed: AtomicBool,
    /// Reloads that are under way.
    reloads: AtomicUsize,
    is_stopping: AtomicBool,
    stopping: Notify,
    /// What stands in the status before the counters: why the last reload has failed.
    note: Mutex<String>,
    noted: Notify,
}

fn manager() -> Option<&'static Manager> {
    MANAGER.get_or_init(|| Manager::new(&env::var_os("NOTIFY_SOCKET")?)).as_ref()
}

/// Has the service manager keep the socket of this listener for the next process, which finds it by its address.
///
/// A socket that was handed over is kept already. A path of a unix socket is removed at the end: nobody would find its socket.
pub(crate) fn keep(listener: Listener, address: &ListenAddress, name: Option<&str>) -> Listener {
    let Some(manager) = manager() else { return listener };
    if !matches!(address, ListenAddress::Ip(_) | ListenAddress::Name { .. }) {
        return listener;
    }
    let name = name.filter(|name| is_storable(name)).map(str::to_owned);
    listener.when_listening(move |socket, address| {
        // Without a name of its own it has that of its address, in which a colon is not allowed.
        let name = name.unwrap_or_else(|| address.to_string().replace(':', "_"));
        manager.store(&name, socket);
        Stored { manager, name }
    })
}

/// A listener that is kept, until it is closed in the middle of the server's life: otherwise the port would stay open.
struct Stored {
    manager: &'static Manager,
    name: String,
}

impl Drop for Stored {
    fn drop(&mut self) {
        // At the end it is for the next process.
        if !self.manager.is_stopping.load(Relaxed) {
            self.manager.forget(&self.name);
        }
    }
}

/// Closes the sockets that were handed over and that no listener uses, and has them forgotten. Call it when all listeners are
/// bound, or could not be. Returns their names.
pub(crate) fn close_unused_sockets() -> Vec<String> {
    let mut forgotten = Vec::new();
    let unused = close_unused().into_iter().map(|unused| {
        let name = format!("{} (systemd:{}, fd:{})", unused.address, unused.name, unused.fd);
        if let Some(manager) = manager().filter(|_| !forgotten.contains(&unused.name)) {
            manager.forget(&unused.name);
            forgotten.push(unused.name);
        }
        name
    });
    unused.collect()
}

/// Warns of sockets that no listener uses.
pub(crate) fn warn_of_unused_sockets(unused: &[String]) {
    for socket in unused {
        log::warn!(
            "the socket {socket} was handed over and no listener uses it: it is closed; add a --listen for it, or remove it \
             from the .socket unit"
        );
    }
}

/// All listeners listen. From here on the service manager hears of the server's state.
pub(crate) fn ready(server: &ServerHandle) {
    let Some(manager) = manager() else { return };
    manager.tell("READY=1\nSTATUS=0 sessions\n");
    actix_rt::spawn(manager.report(server.clone()));
    match watchdog(env::var("WATCHDOG_USEC").ok(), env::var("WATCHDOG_PID").ok()) {
        Ok(None) => {}
        Ok(Some(within)) => {
            actix_rt::spawn(manager.feed_watchdog(server.clone(), within / 2));
        }
        Err(text) => log::warn!("no watchdog: WATCHDOG_USEC={text:?} is invalid"),
    }
}

/// The configuration is read again until this is dropped.
#[derive(Debug)]
pub(crate) struct Reload(Option<&'static Manager>);

/// A reload begins.
pub(crate) fn reloading() -> Reload {
    let manager = manager().filter(|manager| !manager.is_stopping.load(Relaxed));
    if let Some(manager) = manager {
        manager.reloads.fetch_add(1, Relaxed);
        let now = clock_gettime(ClockId::Monotonic);
        let now = now.tv_sec as i128 * 1_000_000 + now.tv_nsec as i128 / 1_000;
        manager.tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}\n"));
    }
    Reload(manager)
}

impl Drop for Reload {
    fn drop(&mut self) {
        if let Some(manager) = self.0
            && manager.reloads.fetch_sub(1, Relaxed) == 1
            && !manager.is_stopping.load(Relaxed)
        {
            manager.tell("READY=1\n");
        }
    }
}

/// A reload has changed nothing, for a reason: the status says so until one succeeds.
pub(crate) fn reload_failed(reason: &str) {
    if let Some(manager) = manager() {
        manager.set_note(format!("reload failed: {reason}"));
    }
}

/// A reload is in force.
pub(crate) fn reload_succeeded() {
    if let Some(manager) = manager() {
        manager.set_note(String::new());
    }
}

/// The server drains, or is about to, and ends.
pub(crate) fn stopping() {
    if let Some(manager) = manager()
        && !manager.is_stopping.swap(true, Relaxed)
    {
        manager.tell(&format!("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC={}\n", EXTENSION.as_micros()));
        manager.stopping.notify_one();
    }
}

impl Manager {
    fn new(address: &OsStr) -> Option<Self> {
        match connect(address) {
            Ok(socket) => Some(Self {
                socket,
                has_failed: AtomicBool::new(false),
                reloads: AtomicUsize::new(0),
                is_stopping: AtomicBool::new(false),
                stopping: Notify::new(),
                note: Mutex::default(),
                noted: Notify::new(),
            }),
            Err(error) => {
                let shown = actix_lines::Escaped::new(address.as_bytes());
                log::warn!("the service manager hears nothing: NOTIFY_SOCKET={shown}: {}", reason(&error));
                None
            }
        }
    }

    fn note(&self) -> MutexGuard<'_, String> {
        self.note.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_note(&self, note: String) {
        let before = mem::replace(&mut *self.note(), note);
        if before != *self.note() {
            self.noted.notify_one();
        }
    }

    fn tell(&self, state: &str) {
        let sent = self.socket.send(state.as_bytes());
        self.check(sent.map(drop));
    }

    /// `FDPOLL=0`: a listener has nothing that would say that it is over.
    fn store(&self, name: &str, socket: BorrowedFd<'_>) {
        let state = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}\n");
        let sockets = [socket];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&sockets));
        let state = [IoSlice::new(state.as_bytes())];
        let sent = sendmsg(self.socket.as_fd(), &state, &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        self.check(sent.map(drop).map_err(io::Error::from));
    }

    fn forget(&self, name: &str) {
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"));
    }

    /// What it is told is left out while it does not listen: it is said once.
    fn check(&self, sent: io::Result<()>) {
        if let Err(error) = sent
            && !self.has_failed.swap(true, Relaxed)
        {
            log::warn!("the service manager does not take what it is told: {}", reason(&error));
        }
    }

    /// Reports the counters: soon after a change, and seldom while nothing changes.
    async fn report(&self, server: ServerHandle) {
        let mut last = "0 sessions".to_owned();
        let mut wait = STATUS_EVERY;
        while !self.is_stopping.load(Relaxed) {
            // A signal that comes from here on is kept.
            let is_over = async {
                tokio::select! {
                    () = self.stopping.notified() => true,
                    () = self.noted.notified() => false,
                }
            };
            if timeout(wait, is_over).await == Ok(true) {
                break;
            }
            // A worker that hangs does not answer.
            let Ok(Ok(stats)) = timeout(STATUS_EVERY, server.stats()).await else { continue };
            let status = status(&stats, &self.note());
            wait = if status == last { (wait * 2).min(STATUS_AT_LEAST) } else { STATUS_EVERY };
            if status != last {
                self.tell(&format!("STATUS={status}\n"));
                last = status;
            }
        }
        loop {
            let next = Instant::now() + DRAIN_STATUS_EVERY;
            let mut state = format!("EXTEND_TIMEOUT_USEC={}\n", EXTENSION.as_micros());
            if let Ok(Ok(stats)) = timeout(DRAIN_STATUS_EVERY, server.stats()).await {
                let sessions = counted(stats.live, "session");
                state += &match server.draining().filter(|progress| !progress.has_begun()) {
                    Some(progress) => format!("STATUS=drains in {} s: {sessions}\n", progress.begins_in.as_secs() + 1),
                    None => format!("STATUS=draining: {sessions} left\n"),
                };
            }
            self.tell(&state);
            sleep_until(next).await;
        }
    }

    /// Feeds the watchdog while every worker gives signs of life. Without one of them the process is restarted.
    async fn feed_watchdog(&self, server: ServerHandle, every: Duration) {
        let mut is_silent = false;
        loop {
            let next = Instant::now() + every;
            let silent = server.unresponsive(every).await;
            // In a drain workers end, and the service manager has a time limit of its own.
            if silent.is_empty() || self.is_stopping.load(Relaxed) {
                self.tell("WATCHDOG=1\n");
                if std::mem::take(&mut is_silent) {
                    log::warn!("every worker answers again: the watchdog is fed");
                }
                sleep_until(next).await;
                continue;
            }
            if !std::mem::replace(&mut is_silent, true) {
                let workers: Vec<_> = silent.iter().map(usize::to_string).collect();
                log::error!(
                    "no sign of life within {every:?} from worker {}: the watchdog is not fed",
                    workers.join(" and ")
                );
            }
            // One that has stopped is silent at once.
            sleep_until(next).await;
        }
    }
}

/// Connects to the socket of a service manager: a path, or an abstract name behind `@`.
fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(address)?,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no path and no abstract name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// Returns the time within which the service manager wants to hear of this process; `None` is no watchdog.
fn watchdog(within: Option<String>, pid: Option<String>) -> Result<Option<Duration>, String> {
    let Some(within) = within else { return Ok(None) };
    // It may be meant for the process that has started this one.
    if pid.is_some_and(|pid| pid.parse() != Ok(process::id())) {
        return Ok(None);
    }
    match within.parse() {
        Ok(microseconds @ 1..) => Ok(Some(Duration::from_micros(microseconds))),
        _ => Err(within),
    }
}

fn status(stats: &Stats, note: &str) -> String {
    let mut status = counted(stats.live, "session");
    if !note.is_empty() {
        status = format!("{note}; {status}");
    }
    let refused: u64 = stats.refused.values().sum();
    if stats.opened > 0 {
        status += &format!(", {} since the start", stats.opened);
    }
    if refused > 0 {
        status += &format!(", {refused} refused");
    }
    status
}

/// As `FDNAME=` takes it.
fn is_storable(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_for_the_process_that_it_names() {
        let own = Some(process::id().to_string());
        let asked = |within: &str, pid| watchdog(Some(within.to_owned()), pid);
        assert_eq!(watchdog(None, own.clone()), Ok(None));
        assert_eq!(asked("3000000", own), Ok(Some(Duration::from_secs(3))));
        assert_eq!(asked("3000000", None), Ok(Some(Duration::from_secs(3))));
        assert_eq!(asked("3000000", Some("1".to_owned())), Ok(None));
        assert_eq!(asked("0", None), Err("0".to_owned()));
        assert_eq!(asked("soon", None), Err("soon".to_owned()));
    }

    #[test]
    fn a_status_has_no_number_that_says_nothing() {
        let mut stats = Stats::default();
        assert_eq!(status(&stats, ""), "0 sessions");
        (stats.live, stats.opened) = (1, 7);
        assert_eq!(status(&stats, ""), "1 session, 7 since the start");
        stats.refused.insert("max-sessions", 3);
        assert_eq!(status(&stats, ""), "1 session, 7 since the start, 3 refused");
        assert_eq!(status(&stats, "reload failed: why"), "reload failed: why; 1 session, 7 since the start, 3 refused");
    }

    #[test]
    fn a_name_that_the_store_would_not_take_is_replaced() {
        assert!(is_storable("public") && is_storable("a b"));
        assert!(!is_storable("") && !is_storable("a:b") && !is_storable("ä") && !is_storable(&"x".repeat(256)));
    }
}
