//! What it costs to say something to a room on three nodes: the time until its last member has it, and processor time of all
//! processes for each message and member, beside a Redis and a NATS server with as many subscribers.
//!
//! This program is the nodes, too: three of one worker each, and one Redis between them. Each measurement has fresh servers,
//! all pinned to one core; the client is pinned to another. It speaks to a member's server as text, and reads whatever comes.
//! Not here: a room of one process (`rooms`).

mod support;

use std::{
    fmt::{self, Write as _},
    fs, io,
    mem::MaybeUninit,
    net::Ipv4Addr,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use actix::Actor;
use actix_lines::{
    Framing, Line, LineContext, LineHandler, LineServer, Room,
    cluster::{Cluster, redis::Redis},
    limits::Limits,
};
use rustix::{
    event::{Timespec, epoll},
    io::Errno,
    net::{RecvFlags, SendFlags},
};
use support::{PATIENCE, Server, number};

// As in rot13d.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
usage: cargo bench --bench cluster_rooms -- [options]

  --members LIST      default 30,600,6000
  --bursts LIST       messages said at once; default 1,10
  --seconds S         of each load in each round; default 0.5
";

const TIME: Duration = Duration::from_millis(500);
/// Length of a message, the newline included.
const MESSAGE_BYTES: usize = 64;
const NODES: usize = 3;
/// Nodes listen to their room by then.
const SETTLED: Duration = Duration::from_secs(1);

const ROOM: &str = "room on 3 nodes";
const REDIS: &str = "redis";
const NATS: &str = "nats";

type Options = support::Options<Own>;

struct Own {
    members: Vec<usize>,
    bursts: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    burst: usize,
    members: usize,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} members, bursts of {}", self.members, self.burst)
    }
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Processor time of all servers for each message and member. Unit: nanoseconds.
    each: f64,
    /// Processor time of the store among them.
    store: f64,
    /// From the first byte said until the last member has all. Unit: milliseconds; the median of a load's bursts, and the most.
    time: f64,
    most: f64,
}

/// Whoever says `join` is in the room, and all else is for the others.
struct Member(Room);

impl Actor for Member {
    type Context = LineContext<Self>;
}

impl LineHandler for Member {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        match line.text() {
            b"join" => {
                ctx.join(&self.0);
                ctx.write(b"joined\n");
            }
            _ => ctx.say(&self.0, line.to_vec()),
        }
    }
}

fn serve_node(port: u16, redis: u16) -> io::Result<()> {
    actix_rt::System::new().block_on(async {
        let store = Redis::at(format!("redis://127.0.0.1:{redis}")).build().map_err(io::Error::other)?;
        let cluster = Cluster::builder(store).node(format!("node-{port}")).build()?;
        let room = cluster.room("room")?;
        let limits = Limits::builder()
            .max_sessions(usize::MAX)
            .max_sessions_per_source(usize::MAX)
            .accept_rate(None)
            .accept_rate_per_source(None);
        let limits = limits.build().map_err(io::Error::other)?;
        let server = LineServer::new(move |_| Member(room.clone())).framing(Framing::lf()).limits(limits).workers(1);
        server.cluster(&cluster).map_err(io::Error::other)?.bind((Ipv4Addr::LOCALHOST, port))?.run().await
    })
}

/// All processes that serve one measurement.
struct Fleet {
    /// Where members connect, in turns.
    servers: Vec<Server>,
    /// What stands between them.
    store: Option<Server>,
    /// A directory of its own.
    _files: Files,
}

struct Files(PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Fleet {
    fn start(name: &str, options: &Options) -> Result<Self, String> {
        let files = std::env::temp_dir().join(format!("cluster-rooms-{}", std::process::id()));
        fs::create_dir_all(&files).map_err(|error| format!("no directory for servers: {error}"))?;
        let with = |name: &str, config: &str, command: &str| {
            let file = files.join(name);
            let written = fs::write(&file, config).map_err(|error| format!("cannot write {name}: {error}"));
            written.map(|()| format!("{command} {}", file.display()))
        };
        let redis = format!("dir {}\nsave \"\"\nappendonly no\nmaxclients 15000\n", files.display());
        let redis = with("redis.conf", &redis, "redis-server")? + " --port {port} --bind 127.0.0.1 --protected-mode no";
        // No ping but the first one while it is measured.
        let nats = "ping_interval: \"10m\"\nmax_connections: 15000\n";
        let nats = with("nats.conf", nats, "nats-server --addr 127.0.0.1 --port {port} --config")?;
        let start = |command: &str| Server::start(command, options.cores);
        let (servers, store) = match name {
            REDIS => (vec![start(&redis)?], None),
            NATS => (vec![start(&nats)?], None),
            _ => {
                let store = start(&redis)?;
                let program = std::env::current_exe().map_err(|error| error.to_string())?;
                let command = format!("{} serve-node {{port}} {}", program.display(), store.port);
                let nodes = (0..NODES).map(|_| start(&command)).collect::<Result<_, _>>()?;
                (nodes, Some(store))
            }
        };
        Ok(Self { servers, store, _files: Files(files) })
    }

    /// Processor time of all, and of the store among them.
    fn ran(&self) -> (u64, u64) {
        let store = self.store.as_ref().map_or(0, |store| store.scheduled().ran);
        (self.servers.iter().map(|server| server.scheduled().ran).sum::<u64>() + store, store)
    }
}

/// What a client says to a server of one kind, and what comes of it.
struct Talk {
    /// What a member says first, and what all has come when it is one.
    join: Vec<u8>,
    joined: Vec<&'static str>,
    /// What one says who is no member, likewise.
    greet: Vec<u8>,
    greeted: Vec<&'static str>,
    /// A message as it is said, and as it is heard; what comes back to who said it.
    said: Vec<u8>,
    heard: usize,
    answer: Box<dyn Fn(usize) -> usize>,
}

impl Talk {
    fn with(server: &str) -> Self {
        let text = "x".repeat(MESSAGE_BYTES - 1);
        let hello = b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n".to_vec();
        match server {
            REDIS => Self {
                join: b"SUBSCRIBE room\r\n".to_vec(),
                joined: vec!["subscribe", ":1\r\n"],
                greet: Vec::new(),
                greeted: Vec::new(),
                said: format!("PUBLISH room {text}\r\n").into_bytes(),
                heard: format!("*3\r\n$7\r\nmessage\r\n$4\r\nroom\r\n${}\r\n{text}\r\n", text.len()).len(),
                answer: Box::new(|members| format!(":{members}\r\n").len()),
            },
            NATS => Self {
                join: [&hello[..], b"SUB room 1\r\nPING\r\n"].concat(),
                // It asks once, some seconds after it was greeted.
                joined: vec!["PONG\r\nPONG\r\n", "PING\r\n"],
                greet: hello,
                greeted: vec!["PONG\r\n", "PING\r\n"],
                said: format!("PUB room {}\r\n{text}\r\n", text.len()).into_bytes(),
                heard: format!("MSG room 1 {}\r\n{text}\r\n", text.len()).len(),
                answer: Box::new(|_| 0),
            },
            _ => Self {
                join: b"join\n".to_vec(),
                joined: vec!["joined\n"],
                greet: Vec::new(),
                greeted: Vec::new(),
                said: format!("{text}\n").into_bytes(),
                heard: MESSAGE_BYTES,
                answer: Box::new(|_| 0),
            },
        }
    }
}

/// All connections of a client: the last is who says something.
struct Client {
    epoll: OwnedFd,
    sockets: Vec<OwnedFd>,
    buffer: Vec<u8>,
}

impl Client {
    fn connect(fleet: &Fleet, count: usize) -> Result<Self, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut sockets = Vec::with_capacity(count);
        for number in 0..count {
            let socket = support::connect(fleet.servers[number % fleet.servers.len()].port)?;
            epoll::add(&epoll, &socket, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
            sockets.push(socket);
        }
        Ok(Self { epoll, sockets, buffer: vec![0; 64 << 10] })
    }

    fn send(&self, number: usize, bytes: &[u8]) -> Result<(), String> {
        match rustix::net::send(&self.sockets[number], bytes, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == bytes.len() => Ok(()),
            Ok(sent) => Err(format!("only {sent} bytes fitted the socket")),
            Err(error) => Err(format!("cannot send: {error}")),
        }
    }

    /// Reads whatever comes, until `heard`, which gets the number and the bytes, says that it was all. It polls: else a server
    /// would pay for waking it.
    fn listen(&mut self, mut heard: impl FnMut(usize, &[u8]) -> Result<bool, String>) -> Result<(), String> {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut end = Instant::now() + PATIENCE;
        let mut space = [MaybeUninit::<epoll::Event>::uninit(); 256];
        loop {
            let (events, _) = epoll::wait(&self.epoll, &mut space, Some(&now)).map_err(|error| error.to_string())?;
            if !events.is_empty() {
                end = Instant::now() + PATIENCE;
            } else if Instant::now() > end {
                return Err("hangs".to_owned());
            }
            for event in &*events {
                let number = event.data.u64() as usize;
                let count = match rustix::net::recv(&self.sockets[number], &mut *self.buffer, RecvFlags::empty()) {
                    Ok((0, _)) => return Err("closes too early".to_owned()),
                    Ok((count, _)) => count,
                    Err(Errno::AGAIN) => continue,
                    Err(error) => return Err(format!("cannot receive: {error}")),
                };
                if heard(number, &self.buffer[..count])? {
                    return Ok(());
                }
            }
        }
    }

    /// Has all but the last become members.
    fn join(&mut self, talk: &Talk) -> Result<(), String> {
        let last = self.sockets.len() - 1;
        let (mut texts, mut left) = (vec![String::new(); self.sockets.len()], 0);
        for number in 0..self.sockets.len() {
            let (words, expected) =
                if number == last { (&talk.greet, &talk.greeted) } else { (&talk.join, &talk.joined) };
            left += usize::from(!expected.is_empty());
            if !words.is_empty() {
                self.send(number, words)?;
            }
        }
        self.listen(|number, bytes| {
            let expected = if number == last { &talk.greeted } else { &talk.joined };
            let text = &mut texts[number];
            let is_there = |text: &str| expected.iter().all(|word| text.contains(word));
            let before = is_there(text);
            text.push_str(&String::from_utf8_lossy(bytes));
            left -= usize::from(!before && is_there(text));
            Ok(left == 0)
        })
    }

    /// Waits until each has heard so many bytes, and the last one `answer`.
    fn hear(&mut self, each: usize, answer: usize) -> Result<(), String> {
        let speaker = self.sockets.len() - 1;
        let mut missing = vec![each; speaker];
        missing.push(answer);
        let mut left = missing.iter().filter(|missing| **missing > 0).count();
        self.listen(|number, bytes| {
            let missing = &mut missing[number];
            *missing = missing.checked_sub(bytes.len()).ok_or("says too much")?;
            left -= usize::from(*missing == 0);
            Ok(left == 0)
        })
    }
}

/// One load on fresh servers.
fn measure(name: &str, load: Load, options: &Options) -> Result<Sample, String> {
    let fleet = Fleet::start(name, options)?;
    let talk = Talk::with(name);
    let mut client = Client::connect(&fleet, load.members + 1).map_err(|error| format!("cannot connect: {error}"))?;
    client.join(&talk)?;
    if fleet.store.is_some() {
        std::thread::sleep(SETTLED);
    }
    let burst = talk.said.repeat(load.burst);
    let (each, answer) = (talk.heard * load.burst, (talk.answer)(load.members) * load.burst);
    let mut say = || {
        let begin = Instant::now();
        client.send(load.members, &burst)?;
        client.hear(each, answer)?;
        Ok::<_, String>(begin.elapsed().as_secs_f64() * 1e3)
    };
    // The first is for buffers that have to be made.
    say()?;
    let before = fleet.ran();
    let end = Instant::now() + options.time;
    let mut times = Vec::new();
    while Instant::now() < end {
        times.push(say()?);
    }
    let ran = fleet.ran();
    let deliveries = (times.len() * load.burst * load.members) as f64;
    times.sort_by(f64::total_cmp);
    Ok(Sample {
        each: (ran.0 - before.0) as f64 / deliveries,
        store: (ran.1 - before.1) as f64 / deliveries,
        time: times[times.len() / 2],
        most: times[times.len() - 1],
    })
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some("serve-node") {
        return compare();
    }
    let mut port = || arguments.next().and_then(|port| port.parse().ok());
    let (Some(own), Some(redis)) = (port(), port()) else {
        eprintln!("serve-node needs two ports");
        return ExitCode::FAILURE;
    };
    match serve_node(own, redis) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn version_of(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_version =
        |word: &&str| word.trim_start_matches(['v', '=', ':']).starts_with(|letter: char| letter.is_ascii_digit());
    text.split_whitespace().find(is_version).map(|word| word.trim_start_matches(['v', '=', ':']).to_owned())
}

fn compare() -> ExitCode {
    let mut servers = Vec::new();
    if version_of("redis-server").is_some() {
        servers.extend([ROOM, REDIS]);
    } else {
        eprintln!("there is no redis-server, so there are no nodes; on Debian: apt-get install redis-server");
    }
    if version_of("nats-server").is_some() {
        servers.push(NATS);
    } else {
        eprintln!("there is no nats-server, so nothing is compared with it; on Debian: apt-get install nats-server");
    }
    let servers = servers.into_iter().map(|name| (name.to_owned(), String::new())).collect();
    let own = Own { members: vec![30, 600, 6000], bursts: vec![1, 10] };
    support::main_of_these(USAGE, TIME, servers, own, parse, run)
}

fn parse(own: &mut Own, flag: &str, value: &str) -> Result<bool, String> {
    let list = match flag {
        "--members" => &mut own.members,
        "--bursts" => &mut own.bursts,
        _ => return Ok(false),
    };
    let numbers = value.split(',').filter(|number| !number.is_empty());
    *list = numbers.map(|value| number(flag, value).map(|number| number.max(1))).collect::<Result<_, _>>()?;
    Ok(true)
}

fn run(options: &Options) -> Result<String, String> {
    let Own { members, bursts } = &options.own;
    let loads: Vec<Load> = bursts
        .iter()
        .flat_map(|burst| members.iter().map(|members| Load { burst: *burst, members: *members }))
        .collect();
    let mut samples = support::Samples::<Load, Sample>::new();
    for round in 0..options.rounds {
        for load in &loads {
            for turn in 0..options.servers.len() {
                let index = (turn + round) % options.servers.len();
                let sample = samples.entry((*load, index)).or_insert_with(|| Ok(Vec::new()));
                let Ok(values) = sample else { continue };
                let name = &options.servers[index].0;
                eprint!("\rround {}/{}: {load} of {name}        ", round + 1, options.rounds);
                match measure(name, *load, options) {
                    Ok(value) => values.push(value),
                    Err(error) => *sample = Err(error),
                }
            }
        }
    }
    let mut report = support::head("Rooms over nodes", "cluster_rooms");
    let version = |program| version_of(program).unwrap_or_else(|| "not there".to_owned());
    let _ = writeln!(
        report,
        "- messages of {MESSAGE_BYTES} bytes; {} rounds of {:?} for each load and server; all servers on one core, a third of the \
         members on each node; redis {}, nats {}",
        options.rounds,
        options.time,
        version("redis-server"),
        version("nats-server")
    );
    for burst in bursts {
        let title = if *burst == 1 { "Single messages".to_owned() } else { format!("Bursts of {burst}") };
        table(&mut report, &title, *burst, options, &samples);
    }
    Ok(report)
}

fn table(report: &mut String, title: &str, burst: usize, options: &Options, samples: &support::Samples<Load, Sample>) {
    let _ = write!(
        report,
        "\n## {title}\n\n| members | server | ns a message and member: least | median | of them the store's | ms until the last has it: \
         median | most |\n|--:|---|--:|--:|--:|--:|--:|\n"
    );
    for members in &options.own.members {
        let load = Load { burst, members: *members };
        for (index, (name, _)) in options.servers.iter().enumerate() {
            let members = if index == 0 { members.to_string() } else { String::new() };
            let _ = match samples.get(&(load, index)) {
                Some(Ok(values)) if !values.is_empty() => {
                    let sorted = |of: fn(&Sample) -> f64| {
                        let mut sorted: Vec<f64> = values.iter().map(of).collect();
                        sorted.sort_by(f64::total_cmp);
                        sorted
                    };
                    let (each, store) = (sorted(|sample| sample.each), sorted(|sample| sample.store));
                    let (time, most) = (sorted(|sample| sample.time), sorted(|sample| sample.most));
                    let middle = values.len() / 2;
                    writeln!(
                        report,
                        "| {members} | {name} | {:.0} | {:.0} | {:.0} | {:.2} | {:.2} |",
                        each[0],
                        each[middle],
                        store[middle],
                        time[middle],
                        most[most.len() - 1]
                    )
                }
                Some(Err(error)) => writeln!(report, "| {members} | {name} | {error} | | | | |"),
                _ => writeln!(report, "| {members} | {name} | not measured | | | | |"),
            };
        }
    }
}
