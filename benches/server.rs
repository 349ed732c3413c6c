//! What a line costs a server: processor time for each line, as a ratio to the least that a readiness-based server spends.
//!
//! Each server is a process pinned to one core, the client is pinned to another. Loads and servers take turns, round by
//! round, so that whatever the machine does meanwhile hits all alike; the least of all rounds counts. The floor runs twice:
//! where floor against floor is off by more than 2 %, there is no verdict.
//! Not here: the framing and the kernel by themselves (the library's benches), latency under a mixed load.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    mem::MaybeUninit,
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
    os::fd::OwnedFd,
    process::{Child, Command, ExitCode, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::{
    event::{Timespec, epoll},
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_setaffinity},
};

const USAGE: &str = "\
usage: cargo bench --bench server -- --floor COMMAND [--server NAME=COMMAND]... [options]

COMMAND is started as it is, with {port} replaced by a free port; without {port} it has to listen on 40713.
Without --server, rot13d with one worker is measured.

  --loads LIST        of ping, stream64, stream1k, connect, idle; default: all
  --rounds N          default 15
  --seconds S         of each load in each round; default 0.5
  --connections N     of ping and the streams; default 64
  --idle-sessions N   default 15000
  --server-core N, --client-core N   default 0 and 1
  --report FILE       write the tables there, too
";

/// The port of the servers that cannot be told one.
const FIXED_PORT: u16 = 40713;
/// No answer for this long is a hang.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections under way at once in `connect`.
const CONNECTING: usize = 16;
/// Source addresses tried for one connection.
const SOURCE_TRIES: usize = 10_000;
/// How far the control may be off.
const CONTROL_PERCENT: f64 = 2.0;

struct Options {
    servers: Vec<(String, String)>,
    loads: Vec<Load>,
    rounds: usize,
    time: Duration,
    connections: usize,
    idle_sessions: usize,
    server_core: usize,
    client_core: usize,
    report: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Load {
    Ping,
    Stream64,
    Stream1k,
    Connect,
    Idle,
}

impl Load {
    const ALL: [(Load, &str, &str); 5] = [
        (Load::Ping, "ping", "ping-pong, 64-byte lines: ns a line"),
        (Load::Stream64, "stream64", "stream, 64-byte lines, 8 KiB in flight: ns a line"),
        (Load::Stream1k, "stream1k", "stream, 1 KiB lines, 16 KiB in flight: ns a line"),
        (Load::Connect, "connect", "connect, one 64-byte line, close: ns a connection"),
        (Load::Idle, "idle", "idle sessions: bytes of resident memory each"),
    ];

    fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    fn title(self) -> &'static str {
        Self::ALL[self as usize].2
    }

    /// Length of a line, and how many bytes are sent before an answer is awaited.
    fn shape(self) -> (usize, usize) {
        match self {
            Load::Ping | Load::Connect | Load::Idle => (64, 64),
            Load::Stream64 => (64, 8 << 10),
            Load::Stream1k => (1 << 10, 16 << 10),
        }
    }
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            eprint!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprint!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(report) => {
            eprintln!();
            // A benchmark's result is for standard output.
            let _ = io::Write::write_all(&mut io::stdout(), report.as_bytes());
            match options.report.as_ref().map(|file| fs::write(file, &report)) {
                Some(Err(error)) => {
                    eprintln!("cannot write the report: {error}");
                    ExitCode::FAILURE
                }
                _ => ExitCode::SUCCESS,
            }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// As typed → as meant. `None` is a call that asks for nothing, as `cargo test` makes.
fn options(arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options {
        servers: Vec::new(),
        loads: Load::ALL.iter().map(|(load, ..)| *load).collect(),
        rounds: 15,
        time: Duration::from_millis(500),
        connections: 64,
        idle_sessions: 15_000,
        server_core: 0,
        client_core: 1,
        report: None,
    };
    let mut floor = None;
    let mut arguments = arguments.filter(|argument| argument != "--bench").peekable();
    if arguments.peek().is_none() {
        return Ok(None);
    }
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{flag} needs a value"))?;
        let number = || value.parse::<usize>().map_err(|_| format!("{flag} needs a number, not {value:?}"));
        match flag.as_str() {
            "--floor" => floor = Some(value),
            "--server" => {
                let (name, command) = value.split_once('=').ok_or("--server needs NAME=COMMAND")?;
                options.servers.push((name.to_owned(), command.to_owned()));
            }
            "--loads" => {
                let known = |name| Load::ALL.iter().find(|(_, known, _)| *known == name).map(|(load, ..)| *load);
                let loads =
                    value.split(',').map(|name| known(name).ok_or_else(|| format!("no load is called {name:?}")));
                options.loads = loads.collect::<Result<_, _>>()?;
            }
            "--rounds" => options.rounds = number()?.max(1),
            "--seconds" => {
                let seconds = value.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                options.time = seconds.ok_or_else(|| format!("--seconds needs a time, not {value:?}"))?;
            }
            "--connections" => options.connections = number()?.max(1),
            "--idle-sessions" => options.idle_sessions = number()?.max(1),
            "--server-core" => options.server_core = number()?,
            "--client-core" => options.client_core = number()?,
            "--report" => options.report = Some(value),
            _ => return Err(format!("{flag} is not known")),
        }
    }
    let floor = floor.ok_or("--floor is missing: without it there is no ratio")?;
    if options.servers.is_empty() {
        let rot13d = env!("CARGO_BIN_EXE_rot13d");
        options.servers.push(("rot13d".to_owned(), format!("{rot13d} --listen 127.0.0.1:{{port}} --workers 1 -q")));
    }
    options.servers.insert(0, ("floor".to_owned(), floor.clone()));
    options.servers.insert(1, ("floor, again".to_owned(), floor));
    Ok(Some(options))
}

/// A server as a process. Killed when dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pin(core: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).map_err(|error| format!("cannot run on core {core}: {error}"))
}

impl Server {
    fn start(command: &str, options: &Options) -> Result<Self, String> {
        let port = if command.contains("{port}") {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
            free.map_err(|error| format!("no free port: {error}"))?.port()
        } else {
            FIXED_PORT
        };
        let command = command.replace("{port}", &port.to_string());
        let mut words = command.split_whitespace();
        let program = words.next().ok_or("an empty command")?;
        // A child inherits the core.
        pin(options.server_core)?;
        let child =
            Command::new(program).args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        pin(options.client_core)?;
        let server = Self { child: child.map_err(|error| format!("cannot start {command}: {error}"))?, port };
        let end = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if Instant::now() > end {
                return Err(format!("{command} does not listen on port {port}"));
            }
            std::thread::yield_now();
        }
        Ok(server)
    }

    /// Nanoseconds on a processor since the start, of all threads that still live.
    fn processor_time(&self) -> u64 {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.child.id())) else { return 0 };
        let time = |task: fs::DirEntry| {
            let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
            schedstat.split(' ').next()?.parse::<u64>().ok()
        };
        tasks.flatten().filter_map(time).sum()
    }

    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

/// The client's end of one connection.
struct Peer {
    socket: OwnedFd,
    /// Bytes of the answer that have not come yet.
    missing: usize,
}

/// One client thread on one core, with its own event loop.
struct Client {
    epoll: OwnedFd,
    port: u16,
    question: Vec<u8>,
    answer: Vec<u8>,
}

/// A source address that no connection of this run had before: one address has too few ports for all of them, and the
/// kernel's own choice may be a port that a server wants to listen on. An earlier run's may still be in TIME_WAIT.
fn fresh_source() -> SocketAddrV4 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(100_003)) % 5_000_000;
    let (host, port) = (next % 250 + 1, 10_000 + next / 250 % 20_000);
    SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, host as u8), port as u16)
}

impl Client {
    fn new(port: u16, (line, flight): (usize, usize)) -> Result<Self, String> {
        let text = |at: usize| if at % line == line - 1 { b'\n' } else { b'a' + (at % 26) as u8 };
        let turned = |byte: u8| if byte == b'\n' { byte } else { (byte - b'a' + 13) % 26 + b'a' };
        let question: Vec<u8> = (0..flight).map(text).collect();
        let answer = question.iter().map(|byte| turned(*byte)).collect();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| format!("epoll: {error}"))?;
        Ok(Self { epoll, port, question, answer })
    }

    fn connect(&self, number: usize) -> Result<Peer, String> {
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port);
        let connect = || {
            let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            let mut tries = 0;
            while let Err(error) = rustix::net::bind(&socket, &fresh_source()) {
                tries += 1;
                if error != rustix::io::Errno::ADDRINUSE || tries == SOURCE_TRIES {
                    return Err(error);
                }
            }
            rustix::net::connect(&socket, &to)?;
            sockopt::set_tcp_nodelay(&socket, true)?;
            rustix::io::ioctl_fionbio(&socket, true)?;
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
            Ok(socket)
        };
        let socket = connect().map_err(|error: rustix::io::Errno| format!("cannot connect: {error}"))?;
        Ok(Peer { socket, missing: 0 })
    }

    fn ask(&self, peer: &mut Peer) -> Result<(), String> {
        peer.missing = self.answer.len();
        match rustix::net::send(&peer.socket, &self.question, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == self.question.len() => Ok(()),
            Ok(sent) => Err(format!("only {sent} bytes fitted the socket")),
            Err(error) => Err(format!("cannot send: {error}")),
        }
    }

    /// Reads what has come. True when the answer is whole; what comes is compared with what has to come.
    fn listen(&self, peer: &mut Peer, buffer: &mut [u8]) -> Result<bool, String> {
        let count = match rustix::net::recv(&peer.socket, &mut *buffer, RecvFlags::empty()) {
            Ok((0, _)) => return Err("closes too early".to_owned()),
            Ok((count, _)) => count,
            Err(rustix::io::Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(format!("cannot receive: {error}")),
        };
        let at = self.answer.len() - peer.missing;
        if self.answer.get(at..at + count) != Some(&buffer[..count]) {
            return Err("wrong bytes".to_owned());
        }
        peer.missing -= count;
        Ok(peer.missing == 0)
    }

    /// Has `peers` ask and listen until `time` is over and every answer has come; returns how many answers came.
    fn converse(&self, peers: &mut [Peer], time: Duration, reconnect: bool) -> Result<u64, String> {
        let mut buffer = vec![0; 64 << 10];
        let mut answers = 0;
        let mut waiting = peers.len();
        for peer in &mut *peers {
            self.ask(peer)?;
        }
        let end = Instant::now() + time;
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let mut space = [MaybeUninit::<epoll::Event>::uninit(); 256];
        while waiting > 0 {
            let (events, _) =
                epoll::wait(&self.epoll, &mut space, Some(&patience)).map_err(|error| format!("epoll: {error}"))?;
            if events.is_empty() {
                return Err("hangs".to_owned());
            }
            let go_on = Instant::now() < end;
            for event in &*events {
                let number = event.data.u64() as usize;
                let Some(peer) = peers.get_mut(number) else {
                    return Err("an idle session has something to say".to_owned());
                };
                if !self.listen(peer, &mut buffer)? {
                    continue;
                }
                answers += 1;
                if !go_on {
                    waiting -= 1;
                    continue;
                }
                if reconnect {
                    // Closed first, so that no more than the wanted number is open.
                    let _ = epoll::delete(&self.epoll, &peers[number].socket);
                    let fresh = self.connect(number)?;
                    peers[number] = fresh;
                }
                self.ask(&mut peers[number])?;
            }
        }
        Ok(answers)
    }
}

/// One load on one server: nanoseconds of its processor for each line or connection.
fn measure(server: &Server, load: Load, options: &Options) -> Result<f64, String> {
    let (line, flight) = load.shape();
    let client = Client::new(server.port, (line, flight))?;
    let count = if load == Load::Connect { CONNECTING } else { options.connections };
    let mut peers = (0..count).map(|number| client.connect(number)).collect::<Result<Vec<_>, _>>()?;
    let before = server.processor_time();
    let answers = client.converse(&mut peers, options.time, load == Load::Connect)?;
    let spent = server.processor_time() - before;
    Ok(spent as f64 / (answers as f64 * (flight / line) as f64))
}

/// Resident bytes of an idle session that has answered a line, and what a busy one's line costs beside and without them.
fn measure_idle(server: &Server, options: &Options) -> Result<(f64, f64), String> {
    let alone = measure(server, Load::Ping, options)?;
    let before = server.resident();
    let client = Client::new(server.port, Load::Ping.shape())?;
    let mut idle = Vec::with_capacity(options.idle_sessions);
    let mut buffer = vec![0; 1 << 10];
    for number in 0..options.idle_sessions {
        let mut peer = client.connect(number)?;
        client.ask(&mut peer)?;
        let end = Instant::now() + PATIENCE;
        while !client.listen(&mut peer, &mut buffer)? {
            if Instant::now() > end {
                return Err(format!("answers {number} sessions, no more"));
            }
        }
        idle.push(peer);
    }
    let each = server.resident().saturating_sub(before) as f64 / options.idle_sessions as f64;
    let beside = measure(server, Load::Ping, options)?;
    drop(idle);
    Ok((each, beside / alone))
}

type Samples = BTreeMap<(Load, usize), Result<Vec<f64>, String>>;

fn run(options: &Options) -> Result<String, String> {
    let descriptors = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: descriptors.maximum, maximum: descriptors.maximum };
    setrlimit(Resource::Nofile, raised).map_err(|error| format!("cannot raise the descriptor limit: {error}"))?;
    pin(options.client_core)?;

    let mut running = Vec::new();
    for (_, command) in &options.servers {
        // Those that share a port run only while it is their turn.
        running.push(if command.contains("{port}") { Some(Server::start(command, options)?) } else { None });
    }
    let mut samples = Samples::new();
    let timed: Vec<Load> = options.loads.iter().copied().filter(|load| *load != Load::Idle).collect();
    for round in 0..options.rounds {
        for load in &timed {
            for turn in 0..options.servers.len() {
                let index = (turn + round) % options.servers.len();
                let sample = samples.entry((*load, index)).or_insert_with(|| Ok(Vec::new()));
                let Ok(values) = sample else { continue };
                eprint!(
                    "\rround {}/{}: {} of {}        ",
                    round + 1,
                    options.rounds,
                    load.name(),
                    options.servers[index].0
                );
                let measured = match &running[index] {
                    Some(server) => measure(server, *load, options),
                    None => Server::start(&options.servers[index].1, options)
                        .and_then(|server| measure(&server, *load, options)),
                };
                match measured {
                    Ok(value) => values.push(value),
                    Err(error) => *sample = Err(error),
                }
            }
        }
    }
    drop(running);
    let mut report = head(options);
    for load in timed {
        table(&mut report, load, options, &samples);
    }
    if options.loads.contains(&Load::Idle) {
        idle_table(&mut report, options);
    }
    Ok(report)
}

fn table(report: &mut String, load: Load, options: &Options, samples: &Samples) {
    let least = |index| match samples.get(&(load, index)) {
        Some(Ok(values)) => values.iter().copied().reduce(f64::min),
        _ => None,
    };
    let floor = least(0);
    let control = least(1).zip(floor).map_or(f64::NAN, |(again, floor)| (again / floor - 1.0) * 100.0);
    let verdict = if control.abs() <= CONTROL_PERCENT { "" } else { ": no verdict" };
    let _ = write!(
        report,
        "\n## {}\n\nControl, floor against floor: {control:+.1} %{verdict}.\n\n| server | least | median | over the floor |\n|---|--:|--:|--:|\n",
        load.title()
    );
    for (index, (name, _)) in options.servers.iter().enumerate() {
        let _ = match samples.get(&(load, index)) {
            Some(Ok(values)) if !values.is_empty() => {
                let mut sorted = values.clone();
                sorted.sort_by(f64::total_cmp);
                let over = floor.map_or(f64::NAN, |floor| (sorted[0] / floor - 1.0) * 100.0);
                writeln!(report, "| {name} | {:.1} | {:.1} | {over:+.1} % |", sorted[0], sorted[sorted.len() / 2])
            }
            Some(Err(error)) => writeln!(report, "| {name} | {error} | | |"),
            _ => writeln!(report, "| {name} | not measured | | |"),
        };
    }
}

fn idle_table(report: &mut String, options: &Options) {
    let _ = write!(
        report,
        "\n## {}\n\n{} sessions, each of which has answered one line. The last column is the cost of a ping-pong line on \
         {} further connections with them, over that without.\n\n| server | bytes each | busy ones beside them |\n|---|--:|--:|\n",
        Load::Idle.title(),
        options.idle_sessions,
        options.connections
    );
    for (name, command) in &options.servers {
        eprint!("\ridle sessions of {name}        ");
        // A process of its own, whose memory nothing has used yet.
        let measured = Server::start(command, options).and_then(|server| measure_idle(&server, options));
        let _ = match measured {
            Ok((each, beside)) => writeln!(report, "| {name} | {each:.0} | {:+.1} % |", (beside - 1.0) * 100.0),
            Err(error) => writeln!(report, "| {name} | {error} | |"),
        };
    }
}

/// Date, machine and command: without them the numbers say nothing.
fn head(options: &Options) -> String {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let field = |name: &str| {
        cpu.lines().find(|line| line.starts_with(name)).and_then(|line| line.split(": ").nth(1)).unwrap_or("?")
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from).max(cpu.matches("processor\t").count());
    let kernel = read("/proc/sys/kernel/osrelease");
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    // File names of this machine mean nothing elsewhere.
    let bare = |word: &str| match word.rsplit_once('/') {
        Some((path, name)) => path.rsplit_once('=').map_or(name.to_owned(), |(before, _)| format!("{before}={name}")),
        None => word.to_owned(),
    };
    let mut command = String::new();
    for argument in &arguments {
        let words: Vec<String> = argument.split(' ').map(bare).collect();
        let words = words.join(" ");
        let _ = if words.contains(' ') { write!(command, " '{words}'") } else { write!(command, " {words}") };
    }
    format!(
        "# Processor time of line servers\n\n- {}\n- {}, {cores} cores, Linux {}\n- `cargo bench --bench server --{command}`\n- {} \
         rounds of {:?} for each load and server, least and median of them\n",
        date(),
        field("model name"),
        kernel.trim(),
        options.rounds,
        options.time,
    )
}

/// Today, in UTC.
fn date() -> String {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64 / 86_400;
    // Days to a date of the Gregorian calendar, counted in eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}
