//! What the benchmarks of servers share: options, servers as processes on a core of their own, rounds, head of a report.
//!
//! Not here: the loads, and what is counted of them.
// Each benchmark is a program of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

pub mod client;
pub mod crowd;

use std::{
    collections::BTreeMap,
    fmt::{Display, Write as _},
    fs, io,
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, sockopt},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_setaffinity},
};

/// Follows what each benchmark says about itself.
const USAGE: &str = "  --rounds N          default 15
  --server-core N, --client-core N   default 0 and 1
  --report FILE       write the tables there, too
";
/// And this, where servers are chosen on the command line.
const SERVERS_USAGE: &str = "
COMMAND is started as it is, with {port} replaced by a free port; without {port} it has to listen on 40713.
Without --server, rot13d with one worker is measured.
";

/// No answer for this long is a hang.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The port of the servers that cannot be told one.
const FIXED_PORT: u16 = 40713;
/// How far the control may be off. Unit: per cent.
const CONTROL_PERCENT: f64 = 2.0;
/// Source addresses tried for one connection.
const SOURCE_TRIES: usize = 10_000;

/// What is asked for: of every benchmark, and of one in `own`.
pub struct Options<Own> {
    /// Name and command; where there is a floor it is the first and, as the control, the second.
    pub servers: Vec<(String, String)>,
    pub rounds: usize,
    pub time: Duration,
    pub cores: Cores,
    pub report: Option<String>,
    pub own: Own,
}

/// Where the servers and the client run.
#[derive(Clone, Copy)]
pub struct Cores {
    pub server: usize,
    pub client: usize,
}

/// The whole program of a benchmark whose servers are chosen on the command line. `own` is offered each option that is
/// not everybody's and says whether it is one of its own.
pub fn main<Own>(
    usage: &str,
    time: Duration,
    defaults: Own,
    own: impl Fn(&mut Own, &str, &str) -> Result<bool, String>,
    run: impl FnOnce(&Options<Own>) -> Result<String, String>,
) -> ExitCode {
    program(&format!("{usage}{USAGE}{SERVERS_USAGE}"), options(time, None, defaults, own), run)
}

/// [`main`], of one that brings its servers, name and command each.
pub fn main_of_these<Own>(
    usage: &str,
    time: Duration,
    servers: Vec<(String, String)>,
    defaults: Own,
    own: impl Fn(&mut Own, &str, &str) -> Result<bool, String>,
    run: impl FnOnce(&Options<Own>) -> Result<String, String>,
) -> ExitCode {
    program(&format!("{usage}{USAGE}"), options(time, Some(servers), defaults, own), run)
}

fn program<Own>(
    usage: &str,
    options: Result<Option<Options<Own>>, String>,
    run: impl FnOnce(&Options<Own>) -> Result<String, String>,
) -> ExitCode {
    let options = match options {
        Ok(Some(options)) => options,
        Ok(None) => {
            eprint!("{usage}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprint!("{error}\n{usage}");
            return ExitCode::from(2);
        }
    };
    match raise_descriptors().and_then(|()| pin(options.cores.client)).and_then(|()| run(&options)) {
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
fn options<Own>(
    time: Duration,
    servers: Option<Vec<(String, String)>>,
    defaults: Own,
    own: impl Fn(&mut Own, &str, &str) -> Result<bool, String>,
) -> Result<Option<Options<Own>>, String> {
    let has_floor = servers.is_none();
    let mut options = Options {
        servers: servers.unwrap_or_default(),
        rounds: 15,
        time,
        cores: Cores { server: 0, client: 1 },
        report: None,
        own: defaults,
    };
    let mut floor = None;
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench").peekable();
    if arguments.peek().is_none() {
        return Ok(None);
    }
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--floor" if has_floor => floor = Some(value),
            "--server" if has_floor => {
                let (name, command) = value.split_once('=').ok_or("--server needs NAME=COMMAND")?;
                options.servers.push((name.to_owned(), command.to_owned()));
            }
            "--rounds" => options.rounds = number(&flag, &value)?.max(1),
            "--seconds" => {
                let seconds = value.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                options.time = seconds.ok_or_else(|| format!("--seconds needs a time, not {value:?}"))?;
            }
            "--server-core" => options.cores.server = number(&flag, &value)?,
            "--client-core" => options.cores.client = number(&flag, &value)?,
            "--report" => options.report = Some(value),
            _ if own(&mut options.own, &flag, &value)? => {}
            _ => return Err(format!("{flag} is not known")),
        }
    }
    if !has_floor {
        return Ok(Some(options));
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

/// The number that an option was given.
pub fn number(flag: &str, value: &str) -> Result<usize, String> {
    value.parse().map_err(|_| format!("{flag} needs a number, not {value:?}"))
}

fn raise_descriptors() -> Result<(), String> {
    let descriptors = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: descriptors.maximum, maximum: descriptors.maximum };
    setrlimit(Resource::Nofile, raised).map_err(|error| format!("cannot raise the descriptor limit: {error}"))
}

fn pin(core: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).map_err(|error| format!("cannot run on core {core}: {error}"))
}

/// A port on which nobody listens.
pub fn free_port() -> Result<u16, String> {
    // Free at all addresses: a server may listen on all, and a connection in TIME_WAIT on another has the port.
    let free = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|listener| listener.local_addr());
    Ok(free.map_err(|error| format!("no free port: {error}"))?.port())
}

/// A server as a process. Killed when dropped.
pub struct Server {
    child: Child,
    pub port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub fn start(command: &str, cores: Cores) -> Result<Self, String> {
        let port = if command.contains("{port}") { free_port()? } else { FIXED_PORT };
        Self::start_at(command, port, cores)
    }

    /// The same with a port that a file of the server's names.
    pub fn start_at(command: &str, port: u16, cores: Cores) -> Result<Self, String> {
        let command = command.replace("{port}", &port.to_string());
        let mut words = command.split_whitespace();
        let program = words.next().ok_or("an empty command")?;
        // A child inherits the core.
        pin(cores.server)?;
        let child =
            Command::new(program).args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        pin(cores.client)?;
        let server = Self { child: child.map_err(|error| format!("cannot start {command}: {error}"))?, port };
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if Instant::now() > end {
                return Err(format!("{command} does not listen on port {port}"));
            }
            std::thread::yield_now();
        }
        Ok(server)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Since the start, of all threads that still live.
    pub fn scheduled(&self) -> Scheduled {
        Scheduled::of(self.id())
    }

    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

/// What the scheduler did for a thread or some, in nanoseconds.
#[derive(Clone, Copy, Default)]
pub struct Scheduled {
    /// On a processor.
    pub ran: u64,
    /// Ready to run, while others had the processor.
    pub waited: u64,
}

impl Scheduled {
    /// Of the thread that calls.
    pub fn own() -> Self {
        Self::read("/proc/thread-self")
    }

    /// Of all threads of a process that still live.
    pub fn of(process: u32) -> Self {
        let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else { return Self::default() };
        let times = tasks.flatten().map(|task| Self::read(task.path()));
        times.fold(Self::default(), |sum, task| Self { ran: sum.ran + task.ran, waited: sum.waited + task.waited })
    }

    fn read(thread: impl AsRef<Path>) -> Self {
        let text = fs::read_to_string(thread.as_ref().join("schedstat")).unwrap_or_default();
        let mut times = text.split(' ').map(|time| time.parse().unwrap_or(0));
        Self { ran: times.next().unwrap_or(0), waited: times.next().unwrap_or(0) }
    }

    /// What came since `before`.
    pub fn since(self, before: Self) -> Self {
        Self { ran: self.ran - before.ran, waited: self.waited - before.waited }
    }
}

/// What was measured of a load on the server of this index; the first error ends a pair's turns.
pub type Samples<Load, Sample> = BTreeMap<(Load, usize), Result<Vec<Sample>, String>>;

/// Lets loads and servers take turns, round by round, each round beginning with another server.
pub fn rounds<Own, Load: Copy + Ord + Display, Sample>(
    options: &Options<Own>,
    loads: &[Load],
    measure: impl Fn(&Server, Load) -> Result<Sample, String>,
) -> Result<Samples<Load, Sample>, String> {
    let mut running = Vec::new();
    for (_, command) in &options.servers {
        // Those that share a port run only while it is their turn.
        running.push(if command.contains("{port}") { Some(Server::start(command, options.cores)?) } else { None });
    }
    Ok(turns(options, loads, |index, load| match &running[index] {
        Some(server) => measure(server, load),
        None => Server::start(&options.servers[index].1, options.cores).and_then(|server| measure(&server, load)),
    }))
}

/// The same for servers that `measure`, which gets their index, starts.
pub fn turns<Own, Load: Copy + Ord + Display, Sample>(
    options: &Options<Own>,
    loads: &[Load],
    measure: impl Fn(usize, Load) -> Result<Sample, String>,
) -> Samples<Load, Sample> {
    let mut samples = Samples::new();
    for round in 0..options.rounds {
        for load in loads {
            for turn in 0..options.servers.len() {
                let index = (turn + round) % options.servers.len();
                let sample = samples.entry((*load, index)).or_insert_with(|| Ok(Vec::new()));
                let Ok(values) = sample else { continue };
                let name = &options.servers[index].0;
                eprint!("\rround {}/{}: {load} of {name}        ", round + 1, options.rounds);
                match measure(index, *load) {
                    Ok(value) => values.push(value),
                    Err(error) => *sample = Err(error),
                }
            }
        }
    }
    samples
}

/// The least and the median of what was measured; `None` if nothing was.
pub fn least_and_median(sample: Option<&Result<Vec<f64>, String>>) -> Option<(f64, f64)> {
    let mut sorted = sample?.as_ref().ok()?.clone();
    sorted.sort_by(f64::total_cmp);
    Some((*sorted.first()?, sorted[sorted.len() / 2]))
}

/// How far the floor is from itself, by the least of each, and whether that is too far for a verdict. NaN was not measured.
pub fn control(floor: f64, again: f64) -> String {
    let off = (again / floor - 1.0) * 100.0;
    let verdict = if off.abs() <= CONTROL_PERCENT { "" } else { ": no verdict" };
    format!("{off:+.1} %{verdict}")
}

/// The table of a load: least and median of each server, and in a column of that name what `compared` says of the least beside
/// the floor's.
pub fn table<Own, Load: Copy + Ord>(
    report: &mut String,
    options: &Options<Own>,
    samples: &Samples<Load, f64>,
    (load, title): (Load, &str),
    (column, compared): (&str, impl Fn(f64, f64) -> String),
) {
    let of = |index| least_and_median(samples.get(&(load, index)));
    let [floor, again] = [0, 1].map(|index| of(index).map_or(f64::NAN, |(least, _)| least));
    let _ = write!(
        report,
        "\n## {title}\n\nControl, floor against floor: {}.\n\n| server | least | median | {column} |\n|---|--:|--:|--:|\n",
        control(floor, again)
    );
    for (index, (name, _)) in options.servers.iter().enumerate() {
        let _ = match (of(index), samples.get(&(load, index))) {
            (Some((least, median)), _) => {
                writeln!(report, "| {name} | {least:.1} | {median:.1} | {} |", compared(least, floor))
            }
            (None, Some(Err(error))) => writeln!(report, "| {name} | {error} | | |"),
            (None, _) => writeln!(report, "| {name} | not measured | | |"),
        };
    }
}

/// Lines of `line` bytes, newline included, and what has to come back for them.
pub fn lines(line: usize, bytes: usize) -> (Vec<u8>, Vec<u8>) {
    let text = |at: usize| if at % line == line - 1 { b'\n' } else { b'a' + (at % 26) as u8 };
    let turned = |byte: u8| if byte == b'\n' { byte } else { (byte - b'a' + 13) % 26 + b'a' };
    let question: Vec<u8> = (0..bytes).map(text).collect();
    let answer = question.iter().map(|byte| turned(*byte)).collect();
    (question, answer)
}

/// A source address that no connection of this run had before: one address has too few ports for all of them, and the
/// kernel's own choice may be a port that a server wants to listen on. An earlier run's may still be in TIME_WAIT.
fn fresh_source() -> SocketAddrV4 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(100_003)) % 5_000_000;
    let (host, port) = (next % 250 + 1, 10_000 + next / 250 % 20_000);
    SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, host as u8), port as u16)
}

/// A connection to a server on this machine, which neither blocks nor delays what it sends.
pub fn connect(port: u16) -> Result<OwnedFd, Errno> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let mut tries = 0;
    while let Err(error) = rustix::net::bind(&socket, &fresh_source()) {
        tries += 1;
        if error != Errno::ADDRINUSE || tries == SOURCE_TRIES {
            return Err(error);
        }
    }
    rustix::net::connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

/// Title, date, machine and command: without them the numbers say nothing.
pub fn head(title: &str, bench: &str) -> String {
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
        "# {title}\n\n- {}\n- {}, {cores} cores, Linux {}\n- `cargo bench --bench {bench} --{command}`\n",
        date(),
        field("model name"),
        kernel.trim(),
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
