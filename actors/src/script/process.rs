//! Processes: servers that a script starts, hears, signals, and ends with all that they started.
//!
//! Each is a process group of its own. It ends when its [`Process`] is dropped, and by a second process when ours is killed.
//! Not here: what a script says of them (`servers`).

use std::{
    collections::{HashSet, VecDeque},
    env,
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    net::TcpListener,
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{self, Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    task::Waker,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid},
};

use crate::{escape::Escaped, script::scope::TMP};

/// From SIGTERM to SIGKILL.
const STOP: Duration = Duration::from_secs(10);
/// From the end of a process to the end of what it said.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What outlives us, where we are killed: it kills the group, and removes the folder.
const GUARD: &str = r#"read _ || { kill -9 -$1; [ -z "$2" ] || rm -rf -- "$2"; }"#;
/// Of what it says, so much is kept for who reads it late. Unit: lines, and bytes of one.
const MAX_LINES: usize = 10_000;
const MAX_LINE: usize = 64 << 10;
/// Below it are services that have names.
const FIRST_PORT: u16 = 10_000;

/// What is known of a process, for the threads that listen to it.
#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// Lines that are not kept any more.
    gone: u64,
    /// Pipes whose other end is open.
    open: u8,
    has_ended: bool,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        self.changed.notify_all();
    }

    /// Waits until `done`; false once `time` is over.
    fn wait(&self, time: Duration, done: impl Fn(&State) -> bool) -> bool {
        let state = self.state();
        let waited = self.changed.wait_timeout_while(state, time, |state| !done(state));
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        done(&state)
    }

    fn line(&self, line: &mut Vec<u8>) {
        self.change(|state| {
            if state.lines.len() >= MAX_LINES {
                state.lines.pop_front();
                state.gone += 1;
            }
            let end = line.strip_suffix(b"\r").map_or(line.len(), <[u8]>::len);
            line.truncate(end);
            state.lines.push_back(std::mem::take(line));
        });
    }

    /// Reads a pipe to its end, line by line.
    fn listen(&self, mut pipe: impl Read) {
        let mut space = [0; 4096];
        let mut line = Vec::new();
        loop {
            let read = match pipe.read(&mut space) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => break,
                Ok(read) => read,
            };
            for piece in space[..read].split_inclusive(|byte| *byte == b'\n') {
                let text = piece.strip_suffix(b"\n");
                line.extend_from_slice(text.unwrap_or(piece));
                if text.is_some() || line.len() >= MAX_LINE {
                    self.line(&mut line);
                }
            }
        }
        if !line.is_empty() {
            self.line(&mut line);
        }
        self.change(|state| state.open -= 1);
    }
}

/// A server that runs. Dropped, it is killed.
pub(crate) struct Process {
    child: Child,
    pid: Option<Pid>,
    shared: Arc<Shared>,
    /// Waits for its end without taking its status: until that is taken, its number is its own.
    waiter: Option<JoinHandle<()>>,
    /// Kills its group when this process is gone.
    guard: Option<Child>,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts a command as a shell reads it.
    pub(crate) fn start(command: &[u8], folder: &Path, variables: &[(String, Vec<u8>)]) -> io::Result<Self> {
        // It waits until its guard is there: it cannot be left alone. Without the last `exec` a shell might stay in between, and
        // signals would end with it.
        let line = [b"read _ || exit 1; exec </dev/null; exec ", command].concat();
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(OsStr::from_bytes(&line)).current_dir(folder).process_group(0);
        shell.envs(variables.iter().map(|(name, value)| (name, OsStr::from_bytes(value))));
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = shell.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let shared = Arc::new(Shared::default());
        // From here on whatever fails drops it, and so ends it.
        let mut process = Self { child, pid, shared, waiter: None, guard: None, status: None };
        let thread = || thread::Builder::new().name("script server".to_owned());
        let pipes = [
            process.child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
            process.child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
        ];
        for pipe in pipes.into_iter().flatten() {
            process.shared.state().open += 1;
            let shared = Arc::clone(&process.shared);
            thread().spawn(move || shared.listen(pipe))?;
        }
        let shared = Arc::clone(&process.shared);
        process.waiter = Some(thread().spawn(move || {
            if let Some(pid) = pid {
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
                while matches!(waitid(WaitId::Pid(pid), options), Err(Errno::INTR)) {}
            }
            shared.change(|state| state.has_ended = true);
        })?);
        let mut guard = Command::new("sh");
        guard.arg("-c").arg(GUARD).arg("sh").arg(process.child.id().to_string()).process_group(0);
        let tmp = variables.iter().find(|(name, _)| name == TMP);
        guard.args(tmp.map(|(_, tmp)| OsStr::from_bytes(tmp)));
        process.guard = Some(guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        if let Some(mut go) = process.child.stdin.take() {
            go.write_all(b"\n")?;
        }
        Ok(process)
    }

    /// True once it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.state().has_ended
    }

    /// True once it has ended, and all it said was read. Something that it left behind may keep that from being known.
    pub(crate) fn is_silent(&self) -> bool {
        let state = self.shared.state();
        state.has_ended && state.open == 0
    }

    /// Has `waker` woken when it says something, or ends.
    pub(crate) fn wake(&self, waker: &Waker) {
        self.shared.state().waker = Some(waker.clone());
    }

    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = self.pid.filter(|_| !self.has_ended());
        kill_process(pid.ok_or(io::ErrorKind::NotFound)?, signal).map_err(io::Error::from)
    }

    /// Hands it the lines it said from the one of this number on, until it is true. Returns the number of the next one.
    pub(crate) fn hear(&self, from: u64, mut is_it: impl FnMut(&[u8]) -> bool) -> (u64, bool) {
        let state = self.shared.state();
        let skip = usize::try_from(from.saturating_sub(state.gone)).unwrap_or(usize::MAX);
        match state.lines.iter().skip(skip).position(|line| is_it(line)) {
            Some(at) => (state.gone + (skip + at) as u64 + 1, true),
            None => (state.gone + state.lines.len() as u64, false),
        }
    }

    /// Returns the last lines it said, in the form of reports.
    pub(crate) fn last_words(&self, lines: usize) -> Vec<String> {
        let state = self.shared.state();
        let skip = state.lines.len().saturating_sub(lines);
        state.lines.iter().skip(skip).map(|line| Escaped::new(line).to_string()).collect()
    }

    /// Returns how it ended. Blocks for a moment at most, for what it said last.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() && self.has_ended() {
            self.shared.wait(LAST_WORDS, |state| state.open == 0);
            self.reap();
        }
        self.status
    }

    /// Ends it as one asks a server to, or by force.
    pub(crate) fn stop(&mut self) -> Option<ExitStatus> {
        if let Some(pid) = self.pid.filter(|_| self.status.is_none()) {
            let _ = kill_process_group(pid, Signal::TERM);
            // Who was stopped hears it, too.
            let _ = kill_process_group(pid, Signal::CONT);
            self.shared.wait(STOP, |state| state.has_ended);
        }
        self.status().or_else(|| {
            self.reap();
            self.status
        })
    }

    /// Kills what is left of its group, and takes its status. Until then nobody else has its number.
    fn reap(&mut self) {
        if self.status.is_some() {
            return;
        }
        if let Some(pid) = self.pid {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.kill();
        if let Some(waiter) = self.waiter.take() {
            let _ = waiter.join();
        }
        // Before its number is free, the guard has to let go of it.
        if let Some(mut guard) = self.guard.take() {
            let told = guard.stdin.take().is_some_and(|mut pipe| pipe.write_all(b"\n").is_ok());
            if !told {
                let _ = guard.kill();
            }
            let _ = guard.wait();
        }
        self.status = self.child.wait().ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.reap();
    }
}

/// A port of 127.0.0.1 that is free, was given to no other server of this process, and is none that the kernel gives to whoever
/// connects: nobody is handed it before the server binds it.
pub(crate) fn free_port() -> io::Result<u16> {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    // Servers that have ended give theirs back by that.
    if given.len() > 4096 {
        given.clear();
    }
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0);
    if first > FIRST_PORT {
        for _ in 0..1000 {
            let port = fastrand::u16(FIRST_PORT..first);
            if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
                given.insert(port);
                return Ok(port);
            }
        }
    }
    loop {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        if given.insert(port) {
            return Ok(port);
        }
    }
}

/// Whether somebody listens on a port, found without a connection. `None` where that cannot be found.
pub(crate) fn listens(port: u16) -> Option<bool> {
    let table = |path: &str| {
        let table = fs::read_to_string(path).ok()?;
        // `sl local_address rem_address st`, in hexadecimal; 0A is LISTEN.
        Some(table.lines().skip(1).any(|line| {
            let mut fields = line.split_ascii_whitespace();
            let local = fields.nth(1).and_then(|local| local.rsplit_once(':'));
            local.is_some_and(|(_, local)| u16::from_str_radix(local, 16) == Ok(port)) && fields.nth(1) == Some("0A")
        }))
    };
    let (ip4, ip6) = (table("/proc/net/tcp"), table("/proc/net/tcp6"));
    ip4.map(|ip4| ip4 || ip6 == Some(true))
}

/// An empty folder of its own, removed with all that is in it.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let deadline = Instant::now() + STOP;
        loop {
            let name = format!("script-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = env::temp_dir().join(name);
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                // Left behind by another process of this number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
