//! What the tests of the binary share: the server as a process, and a bounded wait for everything.
// Each test file is a program of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// `rot13d` as a process. Killed when dropped.
pub struct Server {
    child: Child,
    log: Arc<Log>,
    pub address: SocketAddr,
}

/// Lines of standard error, and a way to wait for one.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    changed: Condvar,
}

/// The binary under test.
pub fn rot13d() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rot13d"));
    command.env_remove("RUST_LOG").env_remove("RUST_BACKTRACE").stdin(Stdio::null());
    command
}

impl Server {
    /// Starts it on a free port, with more arguments; waits until it listens.
    pub fn start(arguments: &[&str]) -> Self {
        let mut command = rot13d();
        command.args(["--listen", "127.0.0.1:0"]).args(arguments);
        Self::spawn(command)
    }

    /// Starts any command that logs as `rot13d` does.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let log = Arc::new(Log::default());
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let writer = Arc::clone(&log);
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                writer.lines.lock().unwrap().push(line);
                writer.changed.notify_all();
            }
        });
        let mut server = Self { child, log, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let line = server.log_line("listening on ");
        let address = line.rsplit(' ').next().unwrap_or_default();
        server.address = address.parse().unwrap_or_else(|_| panic!("no address in {line:?}"));
        server
    }

    /// All that was logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lines.lock().unwrap().clone()
    }

    /// Waits for a logged line that contains `part`.
    pub fn log_line(&self, part: &str) -> String {
        let end = Instant::now() + PATIENCE;
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(part)) {
                return line.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain for a line with {part:?} in the log: {lines:#?}");
            lines = self.log.changed.wait_timeout(lines, left).unwrap().0;
        }
    }

    pub fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(id, signal).unwrap();
    }

    /// Waits for the process to end.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the server to exit", || self.child.try_wait().unwrap())
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Time on a processor since the start, of all threads.
    pub fn processor_time(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        let nanoseconds = tasks.map(|task| {
            let schedstat = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default();
            schedstat.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0)
        });
        Duration::from_nanos(nanoseconds.sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the server's log: {:#?}", self.log());
        }
    }
}

/// A connection whose reads and writes are bounded.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads exactly as many bytes and compares them.
#[track_caller]
pub fn expect(stream: &mut TcpStream, expected: &str) {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).unwrap_or_else(|error| panic!("instead of {expected:?}: {error}"));
    assert_eq!(String::from_utf8_lossy(&got), expected);
}

/// Reads to the EOF, which has to come without an error.
#[track_caller]
pub fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("a clean EOF");
    rest
}

/// Sends everything and half-closes, while it reads everything that comes back.
pub fn converse(address: SocketAddr, input: &[u8]) -> Vec<u8> {
    let mut stream = connect(address);
    let mut writer = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(input).expect("the server reads");
            writer.shutdown(Shutdown::Write).unwrap();
        });
        rest(&mut stream)
    })
}

/// Asks for a value until it is there.
pub fn eventually<T>(what: &str, mut value: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = value() {
            return value;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} in vain for {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// Lets some time go by: not to wait for anything, but because a rate is measured over it.
pub fn measure_for(window: Duration) {
    let end = Instant::now() + window;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        thread::park_timeout(left);
    }
}

/// What `tr` makes of `input`: the model that the server is measured by.
pub fn tr(input: &[u8]) -> Vec<u8> {
    let mut tr = Command::new("tr")
        .args(["A-Za-z", "N-ZA-Mn-za-m"])
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("tr is there, as on any Unix");
    let mut stdin = tr.stdin.take().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        tr.wait_with_output().unwrap().stdout
    })
}
