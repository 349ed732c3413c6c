//! What the tests of the binary share: the server as a process, and a bounded wait for everything.
// Each test file is a program of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

use std::{
    env, fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Condvar, Mutex, Once},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt::set_socket_reuseaddr},
    process::{Pid, Signal, kill_process},
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT};

/// How long an event may take before a test gives it up. A guard and no measure: however busy the machine, nothing here takes
/// so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// For a server whose sessions end by what their peers do, however long they take and however much the kernel holds.
pub const UNHURRIED: [&str; 8] =
    ["--drain-timeout", "1h", "--linger-timeout", "1h", "--linger-bytes", "1GiB", "--write-timeout", "1h"];

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
    command
        .env_remove("RUST_LOG")
        .env_remove("RUST_LOG_STYLE")
        .env_remove("RUST_BACKTRACE")
        .env_remove("JOURNAL_STREAM");
    without_console(&mut command);
    command
}

/// Leaves no place for the console that nobody asks for: of many processes at once one would have it.
pub fn without_console(command: &mut Command) {
    command.env_remove("RUNTIME_DIRECTORY").env("XDG_RUNTIME_DIR", "/dev/null");
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

/// Has children get their signals as they do from a terminal.
///
/// A shell without job control starts with SIGINT and SIGQUIT ignored what it runs in the background, tests as well, and nohup
/// SIGHUP. One that is ignored stays so in every program that is started from there; one that is handled here does not.
fn reset_ignored_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a set of signals");
        let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
        for signal in [SIGHUP, SIGINT, SIGQUIT].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 1) {
            signal_hook::flag::register(signal, Arc::default()).unwrap();
        }
    });
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
        server.find_address();
        server
    }

    /// Starts anything that logs to standard error, and waits for nothing.
    pub fn launch(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self::launch_logged(command)
    }

    /// The same, with the standard input and output that it has.
    pub fn launch_logged(mut command: Command) -> Self {
        command.stderr(Stdio::piped());
        let mut server = Self::launch_as_is(command);
        let stderr = server.process.0.stderr.take().expect("it is piped");
        server.read_log(stderr);
        server
    }

    /// Starts anything, with a standard error of its own that nobody reads until [`read_log`](Self::read_log).
    pub fn launch_unread(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self::launch_as_is(command)
    }

    /// The same, with the standard input and output that it has.
    pub fn launch_as_is(mut command: Command) -> Self {
        reset_ignored_signals();
        if !command.get_envs().any(|(name, _)| name == "XDG_RUNTIME_DIR") {
            without_console(&mut command);
        }
        let child = command.spawn().expect("the binary starts");
        // Of what is not read all has come.
        let log = Arc::new(Log { so_far: Mutex::new(Lines { complete: true, ..Lines::default() }), ..Log::default() });
        Self { process: Process(child), log, address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) }
    }

    /// Waits until a server listens that does not say where: the kernel does.
    pub fn find_address(&mut self) {
        self.address = eventually("the server to listen", || listening_address(self.id()));
    }

    /// Reads the log from here on, which comes from `stderr`.
    pub fn read_log(&mut self, stderr: impl Read + Send + 'static) {
        let writer = Arc::clone(&self.log);
        writer.so_far.lock().unwrap().complete = false;
        thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                writer.so_far.lock().unwrap().lines.push(String::from_utf8_lossy(&line).into_owned());
                writer.changed.notify_all();
            }
            writer.so_far.lock().unwrap().complete = true;
            writer.changed.notify_all();
        });
    }

    /// All that was logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.so_far.lock().unwrap().lines.clone()
    }

    /// Waits until it listens; false if it ends instead.
    #[track_caller]
    pub fn listens(&mut self) -> bool {
        let listens =
            |log: &Lines| log.lines.iter().find(|line| line.contains("listening on ")).map(|line| address_in(line));
        assert!(self.log.wait(|log| log.complete || listens(log).is_some()), "waited in vain: {:#?}", self.log());
        let address = listens(&self.log.so_far.lock().unwrap());
        self.address = address.unwrap_or(self.address);
        address.is_some()
    }

    /// Waits for a logged line that contains `part`; false if the process ends without one.
    #[track_caller]
    pub fn logs(&self, part: &str) -> bool {
        let has_come = |log: &Lines| log.lines.iter().any(|line| line.contains(part));
        assert!(self.log.wait(|log| log.complete || has_come(log)), "waited in vain: {:#?}", self.log());
        has_come(&self.log.so_far.lock().unwrap())
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

    /// Watches whether it has something to do.
    pub fn watch(&self) -> Watch {
        Watch::new(vec![self.id()])
    }

    /// Whether it sleeps most of the time, whatever it has to do now: it is found asleep often before it has used a processor
    /// for a tenth of a second. One that spins is never found asleep.
    #[track_caller]
    pub fn sleeps(&self) -> bool {
        let watch = self.watch();
        let mut asleep = 0;
        eventually("the server to sleep, or to use a processor", || {
            asleep += u32::from(watch.are_asleep());
            let is_so = asleep >= 4 * Watch::LOOKS;
            (is_so || watch.are_busy()).then_some(is_so)
        })
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

/// Looks at processes for whether they have something to do. What their threads do decides, and no clock.
pub struct Watch {
    processes: Vec<u32>,
    /// Bytes that wait for them to be read, where it is known.
    unread: u64,
    /// How long they had been on a processor when it began.
    before: Duration,
    /// How often all of their threads were found asleep.
    asleep: u32,
}

impl Watch {
    /// Asleep so often is not asleep by chance. One look would do: whoever has something to do is awake from when it comes.
    const LOOKS: u32 = 5;
    /// Who was on a processor for so long has done what there was to do.
    const BUSY: Duration = Duration::from_millis(100);

    fn new(processes: Vec<u32>) -> Self {
        let before = processor_time(&processes);
        Self { processes, unread: 0, before, asleep: 0 }
    }

    /// Those who hold the other end of a connection over IPv4: nobody, until it is accepted.
    fn other_end(stream: &TcpStream) -> Self {
        let ends = [stream.peer_addr().unwrap(), stream.local_addr().unwrap()];
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let socket = table.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_it = [fields.get(1)?, fields.get(2)?].map(|end| tcp_address(end)) == ends.map(Some);
            let (_, unread) = fields.get(4).filter(|_| is_it)?.split_once(':')?;
            Some((format!("socket:[{}]", fields[9]), u64::from_str_radix(unread, 16).ok()?))
        });
        let Some((inode, unread)) = socket else { return Self::new(Vec::new()) };
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        Self { unread, ..Self::new(processes.filter(|id| descriptors(*id).contains(&inode)).collect()) }
    }

    fn are_asleep(&self) -> bool {
        // One that has ended does nothing, either.
        tasks(&self.processes).iter().all(|task| {
            let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
            // The name of the program may have any bytes, parentheses included.
            stat.rsplit_once(") ").is_none_or(|(_, fields)| fields.starts_with(['S', 'Z', 'X']))
        })
    }

    fn are_busy(&self) -> bool {
        processor_time(&self.processes).saturating_sub(self.before) >= Self::BUSY
    }

    /// Looks once more: whether they have done all that they can do, and either sleep or spin. They may wake up now and then,
    /// as their clocks do, and on a busy machine each time wait for a processor.
    pub fn are_done(&mut self) -> bool {
        self.asleep += u32::from(self.are_asleep());
        !self.processes.is_empty() && (self.asleep >= Self::LOOKS || self.are_busy())
    }
}

/// The threads of processes, as the kernel shows them.
fn tasks(processes: &[u32]) -> Vec<PathBuf> {
    let folders = processes.iter().flat_map(|id| fs::read_dir(format!("/proc/{id}/task")));
    folders.flatten().flatten().map(|task| task.path()).collect()
}

/// Time on a processor since the start, of all threads.
fn processor_time(processes: &[u32]) -> Duration {
    let nanoseconds = tasks(processes).into_iter().map(|task| {
        let schedstat = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
        schedstat.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0)
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// What a process has open, as the kernel names it; nothing, if it has ended or is somebody else's.
fn descriptors(id: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_link(entry.path()).ok()?.into_os_string().into_string().ok()).collect()
}

/// An address of IPv4 as `/proc/net/tcp` prints it: a number of this machine's order, and the port as usual.
fn tcp_address(field: &str) -> Option<SocketAddr> {
    let (ip, port) = field.split_once(':')?;
    let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes());
    Some(SocketAddr::from((ip, u16::from_str_radix(port, 16).ok()?)))
}

/// An address where nobody listens, and whose port nobody else gets, also not to call from. Our own servers may listen
/// there, again and again.
pub fn reserve() -> (OwnedFd, SocketAddr) {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    set_socket_reuseaddr(&socket, true).unwrap();
    bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = getsockname(&socket).unwrap().try_into().unwrap();
    (socket, address)
}

/// Where a `listening on` line says that the server listens.
pub fn address_in(line: &str) -> SocketAddr {
    // Behind it stands the listener's name, if it has one.
    let behind = line.rsplit_once(" on ").map_or(line, |(_, behind)| behind);
    let address = behind.split([' ', '"']).next().unwrap_or_default();
    address.parse().unwrap_or_else(|_| panic!("no address in {line:?}"))
}

/// Where a process listens on IPv4, according to the kernel.
fn listening_address(id: u32) -> Option<SocketAddr> {
    let descriptors = descriptors(id);
    let table = fs::read_to_string(format!("/proc/{id}/net/tcp")).ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let listens = *state == "0A" && descriptors.contains(&format!("socket:[{inode}]"));
        tcp_address(local).filter(|_| listens)
    })
}

/// Runs a command to its end, with `input` on its standard input; kills it if that takes too long.
#[track_caller]
pub fn finish(mut command: Command, input: &[u8]) -> Output {
    reset_ignored_signals();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process(command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}")));
    let mut stdin = process.0.stdin.take().expect("it is piped");
    let mut stdout = process.0.stdout.take().expect("it is piped");
    let mut stderr = process.0.stderr.take().expect("it is piped");
    let (status, stdout, stderr) = thread::scope(|scope| {
        scope.spawn(move || match stdin.write_all(input) {
            // Who knows enough need not read on.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
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

/// Sends lines and reads nothing, until the server leaves unread what has come and does nothing any more; returns what was
/// taken, by it or by the kernel.
#[track_caller]
pub fn offer(stream: &mut TcpStream, line: &[u8], most: usize) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut taken = 0;
    while taken < most {
        let mut watch = None;
        let write = || match stream.write(&line[taken % line.len()..]) {
            Ok(count) => Some(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                is_done(&mut watch, stream, |unread| unread > 0).then_some(0)
            }
            Err(error) => panic!("after {taken} bytes: {error}"),
        };
        match eventually("the server to read on, or to have done all that it can", write) {
            0 => break,
            count => taken += count,
        }
    }
    stream.set_nonblocking(false).unwrap();
    taken
}

/// Waits until the server has read what was sent to it, and does nothing any more.
#[track_caller]
pub fn settle(stream: &TcpStream) {
    let mut watch = None;
    eventually("the server to have read all", || is_done(&mut watch, stream, |unread| unread == 0).then_some(()));
}

/// Whether those at the other end of a connection have nothing left to do, with so many bytes unread. `watch` is for as long
/// as that is asked.
fn is_done(watch: &mut Option<Watch>, stream: &TcpStream, is_so: impl Fn(u64) -> bool) -> bool {
    if !watch.get_or_insert_with(|| Watch::other_end(stream)).are_done() {
        // It is not accepted yet.
        watch.take_if(|watch| watch.processes.is_empty());
        return false;
    }
    // It may have been handed on meanwhile, to a process of its own; or the kernel had not passed on yet what it holds.
    let now = Watch::other_end(stream);
    let is_done = is_so(now.unread) && watch.as_ref().is_some_and(|watch| watch.processes == now.processes);
    *watch = Some(now);
    is_done
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
