//! What watching costs the data path: processor time of the workers for each session that comes and goes, with many live
//! ones, while nobody watches and while a hundred consoles do.
//!
//! This program is the server, too. Counted is the time that the workers' threads have run, by the kernel's own account
//! (schedstat). Consoles are on the main thread, with the acceptor; its time is shown beside. With one worker on the main
//! thread all of it is one number, the consoles' own work included. Without, with, and without again take turns: the last is
//! the control.
//! Then a typist's answers, beside nobody and beside a console that lists all sessions over and over.
//! Not here: the cost of lines (`server`).

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use actix_lines::{LineServer, Listener, Rot13, console::Console, limits::Limits};

// As in rot13d.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
usage: cargo bench --bench watch -- [options]

  --sessions N        that live; default 15000
  --consoles N        that watch; default 100
  --rate N            sessions that end, and as many that begin, a second; default 1000
  --seconds S         of each measurement; default 5
  --rounds N          default 5
  --workers LIST      default 2,0 (0: one, on the thread of the console)
  --command WORDS     what consoles ask for; default watch
  --asleep            consoles do not read
";

#[derive(Clone)]
struct Options {
    sessions: usize,
    consoles: usize,
    rate: u32,
    seconds: f64,
    rounds: usize,
    workers: Vec<usize>,
    command: String,
    is_asleep: bool,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        sessions: 15_000,
        consoles: 100,
        rate: 1000,
        seconds: 5.0,
        rounds: 5,
        workers: vec![2, 0],
        command: "watch".to_owned(),
        is_asleep: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} has no value"));
        let number = |text: String| text.parse::<usize>().map_err(|_| format!("{text} is no number"));
        match word.as_str() {
            "--sessions" => options.sessions = number(value()?)?,
            "--consoles" => options.consoles = number(value()?)?,
            "--rate" => options.rate = number(value()?)?.clamp(1, 100_000) as u32,
            "--seconds" => options.seconds = value()?.parse().map_err(|_| "no number of seconds".to_owned())?,
            "--rounds" => options.rounds = number(value()?)?.max(1),
            "--workers" => {
                options.workers = value()?.split(',').map(|text| number(text.to_owned())).collect::<Result<_, _>>()?;
            }
            "--command" => options.command = value()?,
            "--asleep" => options.is_asleep = true,
            // By cargo.
            "--bench" => {}
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().collect();
    if let [_, serve, workers, path] = &words[..]
        && serve == "--serve"
    {
        return match self::serve(workers.parse().unwrap_or(0), Path::new(path)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    match options().and_then(|options| run(&options)) {
        Ok(report) => {
            // Whoever reads may be gone.
            let _ = std::io::stdout().write_all(report.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the server until the other end of its standard input is closed.
fn serve(workers: usize, path: &Path) -> std::io::Result<()> {
    actix::System::new().block_on(async {
        let limits =
            Limits::builder().max_sessions(100_000).idle_timeout(None).build().map_err(std::io::Error::other)?;
        let server = LineServer::new(|_| Rot13).limits(limits).disable_signals();
        let server = if workers == 0 { server.on_current_arbiter() } else { server.workers(workers) };
        let server = server.bind("127.0.0.1:0")?.start()?;
        Console::at(Listener::unix(path)).max_sessions(10_000).serve(&server)?;
        writeln!(std::io::stdout(), "{}", server.local_addrs()[0])?;
        thread::spawn(|| {
            let _ = std::io::stdin().read(&mut [0]);
            std::process::exit(0);
        });
        server.wait().await
    })
}

struct Server {
    child: Child,
    address: SocketAddr,
    path: PathBuf,
}

impl Server {
    fn start(workers: usize) -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("bench-watch-{}.sock", std::process::id()));
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.arg("--serve").arg(workers.to_string()).arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or("no output")?;
        BufReader::new(stdout).read_line(&mut line).map_err(|error| error.to_string())?;
        let address = line.trim().parse().map_err(|_| "the server has not started".to_owned())?;
        Ok(Self { child, address, path })
    }

    /// Time that the workers' threads have run, and the main thread.
    fn times(&self) -> (Duration, Duration) {
        let (mut workers, mut main) = (Duration::ZERO, Duration::ZERO);
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        for task in tasks.into_iter().flatten().flatten() {
            let stat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let ran = Duration::from_nanos(stat.split(' ').next().and_then(|time| time.parse().ok()).unwrap_or(0));
            let is_main = task.file_name().to_str() == Some(self.child.id().to_string().as_str());
            *(if is_main { &mut main } else { &mut workers }) += ran;
        }
        (workers, main)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.path);
    }
}

/// Sessions that live, the oldest first.
struct Load {
    address: SocketAddr,
    live: VecDeque<TcpStream>,
}

impl Load {
    fn new(address: SocketAddr, sessions: usize) -> std::io::Result<Self> {
        let mut load = Self { address, live: VecDeque::new() };
        for _ in 0..sessions {
            load.begin()?;
        }
        Ok(load)
    }

    /// A session with a line.
    fn begin(&mut self) -> std::io::Result<()> {
        let mut peer = TcpStream::connect(self.address)?;
        peer.set_nodelay(true)?;
        peer.write_all(b"hello\n")?;
        peer.read_exact(&mut [0; 6])?;
        // Its port is free at once.
        rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO))?;
        self.live.push_back(peer);
        Ok(())
    }

    /// Has sessions come and go at a rate. Returns their number.
    fn churn(&mut self, rate: u32, time: Duration) -> std::io::Result<u32> {
        let begin = Instant::now();
        let mut count = 0;
        while begin.elapsed() < time {
            let due = begin + Duration::from_secs(1) * count / rate;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            drop(self.live.pop_front());
            self.begin()?;
            count += 1;
        }
        Ok(count)
    }
}

/// Consoles that watch, and the bytes that they were told.
struct Consoles {
    streams: Vec<UnixStream>,
    bytes: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Consoles {
    fn new(path: &Path, options: &Options) -> std::io::Result<Self> {
        let mut streams = Vec::new();
        for _ in 0..options.consoles {
            let mut stream = UnixStream::connect(path)?;
            stream.write_all(format!("{}\n", options.command).as_bytes())?;
            streams.push(stream);
        }
        let (bytes, is_over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let reader = if options.is_asleep {
            None
        } else {
            let mut readers = streams.iter().map(UnixStream::try_clone).collect::<Result<Vec<_>, _>>()?;
            let (bytes, is_over) = (Arc::clone(&bytes), Arc::clone(&is_over));
            Some(thread::spawn(move || {
                let mut buffer = vec![0; 256 * 1024];
                for reader in &readers {
                    let _ = reader.set_nonblocking(true);
                }
                while !is_over.load(Relaxed) {
                    for reader in &mut readers {
                        while let Ok(count) = reader.read(&mut buffer)
                            && count > 0
                        {
                            bytes.fetch_add(count as u64, Relaxed);
                        }
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            }))
        };
        Ok(Self { streams, bytes, is_over, reader })
    }
}

impl Drop for Consoles {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.streams.clear();
    }
}

/// Processor time for each session that has come and gone, of the workers and of the main thread. Unit: microseconds.
fn measure(server: &Server, load: &mut Load, options: &Options) -> Result<(f64, f64), String> {
    thread::sleep(Duration::from_millis(500));
    let (workers, main) = server.times();
    let churned =
        load.churn(options.rate, Duration::from_secs_f64(options.seconds)).map_err(|error| error.to_string())?;
    let (workers_now, main_now) = server.times();
    let each = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(churned.max(1));
    Ok((each(workers_now - workers), each(main_now - main)))
}

/// Times of a typist's answers, one each 2 ms. Unit: microseconds.
fn typist(server: &Server, time: Duration) -> std::io::Result<Vec<f64>> {
    let mut peer = TcpStream::connect(server.address)?;
    peer.set_nodelay(true)?;
    let begin = Instant::now();
    let mut times = Vec::new();
    while begin.elapsed() < time {
        let asked = Instant::now();
        peer.write_all(b"hello\n")?;
        peer.read_exact(&mut [0; 6])?;
        times.push(asked.elapsed().as_secs_f64() * 1e6);
        thread::sleep(Duration::from_millis(2));
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(times)
}

/// Lists all sessions over and over until it is over. Returns the time of each answer. Unit: milliseconds.
fn lister(server: &Server, is_over: &AtomicBool) -> std::io::Result<Vec<f64>> {
    let mut console = BufReader::new(UnixStream::connect(&server.path)?);
    let mut times = Vec::new();
    while !is_over.load(Relaxed) {
        let asked = Instant::now();
        console.get_mut().write_all(b"list\n")?;
        let mut line = String::new();
        while console.read_line(&mut line)? > 1 {
            line.clear();
        }
        times.push(asked.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// A typist alone, beside a lister, and alone again: the row of a table.
fn beside_a_lister(server: &Server, workers: usize, seconds: f64) -> std::io::Result<String> {
    let time = Duration::from_secs_f64(seconds);
    let alone = typist(server, time)?;
    let is_over = AtomicBool::new(false);
    let (beside, lists) = thread::scope(|scope| {
        let lister = scope.spawn(|| lister(server, &is_over));
        let beside = typist(server, time);
        is_over.store(true, Relaxed);
        (beside, lister.join())
    });
    let (beside, lists) = (beside?, lists.map_err(|_| std::io::Error::other("the lister panicked"))??);
    let again = typist(server, time)?;
    let at = |times: &[f64], part: f64| times[((times.len() - 1) as f64 * part) as usize];
    let pair = |times: &[f64]| format!("{:.0} / {:.0}", at(times, 0.5), at(times, 0.99));
    let (alone, beside, again, list) = (pair(&alone), pair(&beside), pair(&again), median(lists));
    Ok(format!("| {workers} | {alone} | {beside} | {again} | {list:.1} ms |\n"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn run(options: &Options) -> Result<String, String> {
    let mut report = format!(
        "# What watching costs the data path\n\n{} sessions live, {} a second come and go with a line each; {} consoles: `{}`{}. \
         {} rounds of {} s.\n\nProcessor time for each that comes and goes, in microseconds: medians, and medians of the ratios of \
         a round.\n\n| workers | counted | nobody | consoles | ratio | control | told a second |\n|---|---|--:|--:|--:|--:|--:|\n",
        options.sessions,
        options.rate,
        options.consoles,
        options.command,
        if options.is_asleep { ", which do not read" } else { "" },
        options.rounds,
        options.seconds
    );
    let mut lists =
        "\nA typist's answers in microseconds, median / 99 %, and the time of a whole list.\n\n| workers | alone | \
                     beside a lister | alone again | a list |\n|---|--:|--:|--:|--:|\n"
            .to_owned();
    for &workers in &options.workers {
        let server = Server::start(workers)?;
        let mut load = Load::new(server.address, options.sessions).map_err(|error| error.to_string())?;
        // Of the workers and of the main thread: nobody, consoles, nobody again.
        let mut rounds: Vec<[(f64, f64); 3]> = Vec::new();
        let mut told = Vec::new();
        for round in 0..options.rounds {
            eprint!("\r{workers} workers, round {round}   ");
            let nobody = measure(&server, &mut load, options)?;
            let consoles = Consoles::new(&server.path, options).map_err(|error| error.to_string())?;
            let watched = measure(&server, &mut load, options)?;
            told.push(consoles.bytes.load(Relaxed) as f64 / options.seconds);
            drop(consoles);
            rounds.push([nobody, watched, measure(&server, &mut load, options)?]);
        }
        let told = median(told) / 1024.0;
        let mut row = |counted: &str, of: fn(&(f64, f64)) -> f64| {
            let column = |at: usize| median(rounds.iter().map(|round| of(&round[at])).collect());
            let ratio = |at: usize| {
                median(rounds.iter().map(|round| 2.0 * of(&round[at]) / (of(&round[0]) + of(&round[2]))).collect())
            };
            let control = median(rounds.iter().map(|round| of(&round[2]) / of(&round[0])).collect());
            report += &format!(
                "| {workers} | {counted} | {:.1} | {:.1} | {:.3} | {control:.3} | {told:.0} KiB |\n",
                column(0),
                column(1),
                ratio(1),
            );
        };
        if workers > 0 {
            row("the workers' threads", |times| times.0);
        }
        row("the main thread", |times| times.1);
        lists += &beside_a_lister(&server, workers, options.seconds).map_err(|error| error.to_string())?;
    }
    Ok(report + &lists)
}
