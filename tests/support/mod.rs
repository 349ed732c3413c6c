//! What the tests of the binary share: the server as a process, and a bounded wait for everything.
// Each test file is a program of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// `rot13d` as a process. When dropped it is killed, and none of its threads may have panicked.
pub struct Server {
    process: Process,
    log: Arc<Log>,
    pub address: SocketAddr,
}

/// A child process that does not outlive its test.
struct Process(Child);

/// Lines of standard error, and a way to wait for them.
#[derive(Default)]
struct Log {
    so_far: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    /// No more will come: the process has ended.
    complete: bool,
}

/// The binary under test, with nothing inherited that would change its log.
pub fn rot13d() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rot13d"));
    command.env_remove("RUST_LOG").env_remove("RUST_LOG_STYLE").env_remove("RUST_BACKTRACE");
    command
}

/// An example of this package, as `cargo test` and `cargo build --examples` build it.
#[track_caller]
pub fn example(name: &str) -> Command {
    // The test itself is in `deps`, beside `examples`.
    let test = env::current_exe().expect("a program has a path");
    let path = test.parent().and_then(Path::parent).expect("a target folder").join("examples").join(name);
    assert!(path.exists(), "{path:?} is missing: run `cargo build --examples` first, in the same profile");
    Command::new(path)
}

impl Server {
    /// Starts it on a free port, with more arguments; waits until it listens.
    pub fn start(arguments: &[&str]) -> Self {
        let mut command = rot13d();
        command.args(["--listen", "127.0.0.1:0"]).args(arguments);
        Self::spawn(command)
    }

    /// Starts any command that logs as `rot13d` does; waits until it listens.
    pub fn spawn(command: Command) -> Self {
        let mut server = Self::launch(command);
        server.address = address_in(&server.log_line("listening on "));
        server
    }

    /// Starts a server that does not log where it listens: the kernel says so.
    pub fn spawn_silent(command: Command) -> Self {
        let mut server = Self::launch(command);
        server.address = eventually("the server to listen", || listening_address(server.id()));
        server
    }

    fn launch(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let log = Arc::new(Log::default());
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let writer = Arc::clone(&log);
        thread::spawn(move || {
            for line in stderr.split(b'\n').map_while(Result::ok) {
                writer.so_far.lock().unwrap().lines.push(String::from_utf8_lossy(&line).into_owned());
                writer.changed.notify_all();
            }
            writer.so_far.lock().unwrap().complete = true;
            writer.changed.notify_all();
        });
        Self { process: Process(child), log, address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) }
    }

    /// All that was logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.so_far.lock().unwrap().lines.clone()
    }

    /// Waits for a logged line that contains `part`.
    #[track_caller]
    pub fn log_line(&self, part: &str) -> String {
        self.log_lines(part, 1).remove(0)
    }

    /// Waits for so many logged lines that contain `part`.
    #[track_caller]
    pub fn log_lines(&self, part: &str, count: usize) -> Vec<String> {
        let mut found = Vec::new();
        let come = self.log.wait(|log| {
            found = log.lines.iter().filter(|line| line.contains(part)).cloned().collect();
            found.len() >= count || log.complete
        });
        assert!(
            come && found.len() >= count,
            "waited in vain for {count} lines with {part:?} in the log: {:#?}",
            self.log()
        );
        found
    }

    pub fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    pub fn id(&self) -> u32 {
        self.process.0.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process.0), signal).unwrap();
    }

    /// Waits for the process to end; returns its exit code and all that it has logged.
    #[track_caller]
    pub fn wait(&mut self) -> (Option<i32>, Vec<String>) {
        let status = self.process.wait().expect("waited in vain for the server to exit");
        assert!(self.log.wait(|log| log.complete), "waited in vain for the end of the log");
        (status.code(), self.log())
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
        self.process.kill();
        let ended = self.log.wait(|log| log.complete);
        let log = self.log();
        if thread::panicking() {
            eprintln!("the server's log: {log:#?}");
        } else {
            assert!(ended && !log.iter().any(|line| line.contains("panicked")), "the server panicked: {log:#?}");
        }
    }
}

impl Process {
    /// `None` if it takes too long.
    fn wait(&mut self) -> Option<ExitStatus> {
        poll(|| self.0.try_wait().unwrap())
    }

    fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Log {
    /// Waits until `done`; false if it takes too long.
    fn wait(&self, mut done: impl FnMut(&Lines) -> bool) -> bool {
        let so_far = self.so_far.lock().unwrap();
        !self.changed.wait_timeout_while(so_far, PATIENCE, |log| !done(log)).unwrap().1.timed_out()
    }
}

/// Where a `listening on` line says that the server listens.
pub fn address_in(line: &str) -> SocketAddr {
    let address = line.rsplit(' ').next().unwrap_or_default();
    address.parse().unwrap_or_else(|_| panic!("no address in {line:?}"))
}

/// Where a process listens on IPv4, according to the kernel.
fn listening_address(id: u32) -> Option<SocketAddr> {
    let descriptors = fs::read_dir(format!("/proc/{id}/fd")).ok()?;
    let targets: Vec<_> = descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    let table = fs::read_to_string(format!("/proc/{id}/net/tcp")).ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let socket = format!("socket:[{inode}]");
        if *state != "0A" || !targets.iter().any(|target| target.as_os_str() == socket.as_str()) {
            return None;
        }
        let (ip, port) = local.split_once(':')?;
        // The address is printed as a number of this machine's order, the port is not.
        let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes());
        Some(SocketAddr::from((ip, u16::from_str_radix(port, 16).ok()?)))
    })
}

/// Runs a command to its end, with `input` on its standard input; kills it if that takes too long.
#[track_caller]
pub fn finish(mut command: Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process(command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}")));
    let mut stdin = process.0.stdin.take().expect("it is piped");
    let mut stdout = process.0.stdout.take().expect("it is piped");
    let mut stderr = process.0.stderr.take().expect("it is piped");
    let (status, stdout, stderr) = thread::scope(|scope| {
        scope.spawn(move || match stdin.write_all(input) {
            // Who knows enough need not read on.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written.unwrap(),
        });
        let stdout = scope.spawn(move || read_all(&mut stdout));
        let stderr = scope.spawn(move || read_all(&mut stderr));
        let status = process.wait();
        // Or the threads would wait for it.
        process.kill();
        (status, stdout.join().unwrap(), stderr.join().unwrap())
    });
    let status = status.unwrap_or_else(|| {
        panic!("waited {PATIENCE:?} in vain for {command:?} to end; it says {}", String::from_utf8_lossy(&stderr))
    });
    Output { status, stdout, stderr }
}

fn read_all(source: &mut impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    source.read_to_end(&mut all).unwrap();
    all
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

/// Sends a line and waits for its answer.
#[track_caller]
pub fn greet(stream: &mut TcpStream) {
    stream.write_all(b"Hello\n").expect("the server reads");
    expect(stream, "Uryyb\n");
}

/// Reads to the EOF, which has to come without an error.
#[track_caller]
pub fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("a clean EOF");
    rest
}

/// Sends everything and half-closes, while it reads everything that comes back.
#[track_caller]
pub fn converse(address: SocketAddr, input: &[u8]) -> Vec<u8> {
    converse_over(&mut connect(address), input)
}

/// [`converse`], over a connection that is there.
#[track_caller]
pub fn converse_over(stream: &mut TcpStream, input: &[u8]) -> Vec<u8> {
    let mut writer = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(input).expect("the server reads");
            writer.shutdown(Shutdown::Write).unwrap();
        });
        rest(stream)
    })
}

/// Sends lines and reads nothing, until no more is taken for a while; returns what was.
#[track_caller]
pub fn offer(stream: &mut TcpStream, line: &[u8], most: usize) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut taken = 0;
    while taken < most {
        match stream.write(&line[taken % line.len()..]) {
            Ok(count) => taken += count,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "after {taken} bytes: {error}");
                break;
            }
        }
    }
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    taken
}

/// Compares, and says where the first difference is instead of showing megabytes.
#[track_caller]
pub fn assert_same(what: &str, got: &[u8], expected: &[u8]) {
    let differ = got.iter().zip(expected).position(|(got, expected)| got != expected);
    assert_eq!(differ, None, "{what}: the offset of the first difference");
    assert_eq!(got.len(), expected.len(), "{what}: the length");
}

/// Asks for a value until it is there.
#[track_caller]
pub fn eventually<T>(what: &str, value: impl FnMut() -> Option<T>) -> T {
    poll(value).unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain for {what}"))
}

fn poll<T>(mut value: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = value() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        measure_for(Duration::from_millis(2));
    }
}

/// Lets some time go by: not to wait for anything, but because a rate is measured over it.
pub fn measure_for(window: Duration) {
    let nobody = (Mutex::new(()), Condvar::new());
    drop(nobody.1.wait_timeout_while(nobody.0.lock().unwrap(), window, |()| true).unwrap());
}

/// What `tr` makes of `input`: the model that the server is measured by.
pub fn tr(input: &[u8]) -> Vec<u8> {
    let mut tr = Command::new("tr");
    tr.args(["A-Za-z", "N-ZA-Mn-za-m"]).env("LC_ALL", "C");
    let Output { status, stdout, stderr } = finish(tr, input);
    assert!(status.success(), "tr: {}", String::from_utf8_lossy(&stderr));
    stdout
}
