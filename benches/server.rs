//! What a line costs a server: processor time for each line, as a ratio to the least that a readiness-based server spends.
//!
//! Each server is a process pinned to one core, the client is pinned to another. Loads and servers take turns, round by
//! round, so that whatever the machine does meanwhile hits all alike; the least of all rounds counts. The floor runs twice:
//! where floor against floor is off by more than 2 %, there is no verdict.
//! Not here: the framing and the kernel by themselves (the library's benches), latency under a mixed load.

mod support;

use std::{
    fmt::{self, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use support::{PATIENCE, Server, client::Client, number};

const USAGE: &str = "\
usage: cargo bench --bench server -- --floor COMMAND [--server NAME=COMMAND]... [options]

  --loads LIST        of ping, stream64, stream1k, connect, idle; default: all
  --connections N     of ping and the streams; default 64
  --idle-sessions N   default 15000
  --seconds S         of each load in each round; default 0.5
";

/// Of each load in each round.
const TIME: Duration = Duration::from_millis(500);
/// Connections under way at once in `connect`.
const CONNECTING: usize = 16;

type Options = support::Options<Own>;

struct Own {
    loads: Vec<Load>,
    connections: usize,
    idle_sessions: usize,
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

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[*self as usize].1)
    }
}

fn main() -> ExitCode {
    let loads = Load::ALL.iter().map(|(load, ..)| *load).collect();
    support::main(USAGE, TIME, Own { loads, connections: 64, idle_sessions: 15_000 }, own, run)
}

fn own(own: &mut Own, flag: &str, value: &str) -> Result<bool, String> {
    match flag {
        "--loads" => {
            let known = |name| Load::ALL.iter().find(|(_, known, _)| *known == name).map(|(load, ..)| *load);
            let loads = value.split(',').map(|name| known(name).ok_or_else(|| format!("no load is called {name:?}")));
            own.loads = loads.collect::<Result<_, _>>()?;
        }
        "--connections" => own.connections = number(flag, value)?.max(1),
        "--idle-sessions" => own.idle_sessions = number(flag, value)?.max(1),
        _ => return Ok(false),
    }
    Ok(true)
}

/// One load on one server: nanoseconds of its processor for each line or connection.
fn measure(server: &Server, load: Load, options: &Options) -> Result<f64, String> {
    let (line, flight) = load.shape();
    let client = Client::new(server.port, (line, flight))?;
    let count = if load == Load::Connect { CONNECTING } else { options.own.connections };
    let mut peers = (0..count).map(|number| client.connect(number)).collect::<Result<Vec<_>, _>>()?;
    let before = server.scheduled();
    let answers = client.converse(&mut peers, options.time, load == Load::Connect)?;
    let spent = server.scheduled().since(before).ran;
    Ok(spent as f64 / (answers as f64 * (flight / line) as f64))
}

/// Resident bytes of an idle session that has answered a line, and what a busy one's line costs beside them, over what it
/// costs in a server of the same kind without them: in turns, the least of each.
fn measure_idle(server: &Server, without: &Server, options: &Options) -> Result<(f64, f64), String> {
    let before = server.resident();
    let client = Client::new(server.port, Load::Ping.shape())?;
    let mut idle = Vec::with_capacity(options.own.idle_sessions);
    let mut buffer = vec![0; 1 << 10];
    for number in 0..options.own.idle_sessions {
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
    let each = server.resident().saturating_sub(before) as f64 / options.own.idle_sessions as f64;
    let (mut alone, mut beside) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..options.rounds {
        alone = alone.min(measure(without, Load::Ping, options)?);
        beside = beside.min(measure(server, Load::Ping, options)?);
    }
    drop(idle);
    Ok((each, beside / alone))
}

fn run(options: &Options) -> Result<String, String> {
    let timed: Vec<Load> = options.own.loads.iter().copied().filter(|load| *load != Load::Idle).collect();
    let samples = support::rounds(options, &timed, |server, load| measure(server, load, options))?;
    let mut report = support::head("Processor time of line servers", "server");
    let _ = writeln!(
        report,
        "- {} rounds of {:?} for each load and server, least and median of them",
        options.rounds, options.time
    );
    for load in timed {
        let over = |least, floor| format!("{:+.1} %", (least / floor - 1.0) * 100.0);
        support::table(&mut report, options, &samples, (load, load.title()), ("over the floor", over));
    }
    if options.own.loads.contains(&Load::Idle) {
        idle_table(&mut report, options);
    }
    Ok(report)
}

fn idle_table(report: &mut String, options: &Options) {
    let _ = write!(
        report,
        "\n## {}\n\n{} sessions, each of which has answered one line. The last column is the cost of a ping-pong line on \
         {} further connections with them, over that of a second server without: in turns, the least of each.\n\n| server | bytes each | busy ones beside them |\n|---|--:|--:|\n",
        Load::Idle.title(),
        options.own.idle_sessions,
        options.own.connections
    );
    for (name, command) in &options.servers {
        eprint!("\ridle sessions of {name}        ");
        // Processes of their own, whose memory nothing has used yet.
        let start = || Server::start(command, options.cores);
        let measured = start().and_then(|server| measure_idle(&server, &start()?, options));
        let _ = match measured {
            Ok((each, beside)) => writeln!(report, "| {name} | {each:.0} | {:+.1} % |", (beside - 1.0) * 100.0),
            Err(error) => writeln!(report, "| {name} | {error} | |"),
        };
    }
}
