//! What an operation costs the example `kv`, as a ratio to memcached: processor time, both on one core with one worker.
//!
//! The client, its loads and its way to measure are the same for both. memcached runs twice: where memcached against
//! memcached is off by more than 2 %, there is no verdict.
//! Not here: servers of lines (`server`), contention between workers.

mod support;

use std::{
    fmt::{self, Write as _},
    io::{Read, Write as _},
    mem::MaybeUninit,
    net::{Ipv4Addr, TcpStream},
    os::fd::OwnedFd,
    process::ExitCode,
    time::{Duration, Instant},
};

use rustix::{
    event::{Timespec, epoll},
    net::{RecvFlags, SendFlags},
};
use support::{PATIENCE, Server, number};

const USAGE: &str = "\
usage: cargo bench --bench kv -- --floor 'memcached …' --server 'kv=…' [options]

  --loads LIST        of get, mixed, multiget; default: all
  --connections N     default 64
  --seconds S         of each load in each round; default 0.5
";

const TIME: Duration = Duration::from_millis(500);
const KEYS: usize = 1000;
const VALUE_BYTES: usize = 100;
/// Commands of `mixed` that are under way on a connection, and one in so many of them is a `set`.
const PIPELINED: usize = 16;
const SET_EVERY: usize = 10;
/// Keys of one `multiget`.
const KEYS_AT_ONCE: usize = 20;

type Options = support::Options<Own>;

struct Own {
    loads: Vec<Load>,
    connections: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Load {
    Get,
    Mixed,
    Multiget,
}

impl Load {
    const ALL: [(Load, &str, &str); 3] = [
        (Load::Get, "get", "get, 100-byte values, one in flight: ns a get"),
        (Load::Mixed, "mixed", "9 get : 1 set, 100-byte values, 16 in flight: ns a command"),
        (Load::Multiget, "multiget", "get of 20 keys, 100-byte values, one in flight: ns a key"),
    ];

    /// What a connection sends at once, in turns.
    fn exchanges(self) -> Vec<Exchange> {
        let operations = |from: usize, count: usize| (from..from + count).map(|at| at * 7919 % KEYS);
        match self {
            Load::Get => (0..KEYS).map(|at| Exchange::get(operations(at, 1))).collect(),
            Load::Multiget => (0..KEYS).map(|at| Exchange::get(operations(at * KEYS_AT_ONCE, KEYS_AT_ONCE))).collect(),
            Load::Mixed => (0..KEYS)
                .map(|batch| {
                    let from = batch * PIPELINED;
                    let keys = operations(from, PIPELINED).enumerate();
                    keys.fold(Exchange::default(), |all, (index, key)| {
                        let is_set = (from + index) % SET_EVERY == SET_EVERY - 1;
                        all.and(if is_set { Exchange::set(key) } else { Exchange::get(std::iter::once(key)) })
                    })
                })
                .collect(),
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[*self as usize].1)
    }
}

/// What is sent at once, and what has to come back.
#[derive(Default)]
struct Exchange {
    question: Vec<u8>,
    answer: Vec<u8>,
    operations: u64,
}

impl Exchange {
    fn get(keys: impl Iterator<Item = usize> + Clone) -> Self {
        let names: Vec<String> = keys.clone().map(name).collect();
        let items: String =
            keys.map(|key| format!("VALUE {} 0 {VALUE_BYTES}\r\n{}\r\n", name(key), value(key))).collect();
        Self {
            question: format!("get {}\r\n", names.join(" ")).into_bytes(),
            answer: format!("{items}END\r\n").into_bytes(),
            operations: names.len() as u64,
        }
    }

    fn set(key: usize) -> Self {
        let question = format!("set {} 0 0 {VALUE_BYTES}\r\n{}\r\n", name(key), value(key)).into_bytes();
        Self { question, answer: b"STORED\r\n".to_vec(), operations: 1 }
    }

    fn and(mut self, next: Self) -> Self {
        self.question.extend(next.question);
        self.answer.extend(next.answer);
        self.operations += next.operations;
        self
    }
}

fn name(key: usize) -> String {
    format!("key:{key:012}")
}

fn value(key: usize) -> String {
    format!("{key:0VALUE_BYTES$}")
}

/// Stores every key.
fn fill(port: u16) -> Result<(), String> {
    let all = (0..KEYS).map(Exchange::set).fold(Exchange::default(), Exchange::and);
    let talk = || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&all.question)?;
        let mut answer = vec![0; all.answer.len()];
        stream.read_exact(&mut answer)?;
        Ok(answer == all.answer)
    };
    match talk() {
        Ok(true) => Ok(()),
        Ok(false) => Err("stores nothing".to_owned()),
        Err(error) => Err(error_text(error)),
    }
}

fn error_text(error: std::io::Error) -> String {
    format!("cannot be filled: {error}")
}

/// The client's end of one connection.
struct Peer {
    socket: OwnedFd,
    /// The exchange under way, and how much of its answer has come.
    exchange: usize,
    received: usize,
}

impl Peer {
    fn ask(&mut self, exchanges: &[Exchange]) -> Result<(), String> {
        let question = &exchanges[self.exchange].question;
        match rustix::net::send(&self.socket, question, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == question.len() => Ok(()),
            Ok(sent) => Err(format!("only {sent} bytes fitted the socket")),
            Err(error) => Err(format!("cannot send: {error}")),
        }
    }

    /// Reads what has come. True when the answer is whole.
    fn listen(&mut self, exchanges: &[Exchange], buffer: &mut [u8]) -> Result<bool, String> {
        let count = match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
            Ok((0, _)) => return Err("closes too early".to_owned()),
            Ok((count, _)) => count,
            Err(rustix::io::Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(format!("cannot receive: {error}")),
        };
        let answer = &exchanges[self.exchange].answer;
        if answer.get(self.received..self.received + count) != Some(&buffer[..count]) {
            return Err("wrong bytes".to_owned());
        }
        self.received += count;
        Ok(self.received == answer.len())
    }
}

/// One load on one server: nanoseconds of its processor for each operation.
fn measure(server: &Server, load: Load, options: &Options) -> Result<f64, String> {
    fill(server.port)?;
    let exchanges = load.exchanges();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| format!("epoll: {error}"))?;
    let connect = |number: usize| {
        let socket = support::connect(server.port)?;
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&epoll, &socket, data, epoll::EventFlags::IN)?;
        // Each begins elsewhere.
        Ok(Peer { socket, exchange: number * 31 % exchanges.len(), received: 0 })
    };
    let peers = (0..options.own.connections).map(connect).collect::<Result<Vec<_>, rustix::io::Errno>>();
    let mut peers = peers.map_err(|error| format!("cannot connect: {error}"))?;
    let mut buffer = vec![0; 64 << 10];
    let mut waiting = peers.len();
    let mut operations = 0;
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let mut space = [MaybeUninit::<epoll::Event>::uninit(); 256];
    let before = server.scheduled();
    let end = Instant::now() + options.time;
    peers.iter_mut().try_for_each(|peer| peer.ask(&exchanges))?;
    while waiting > 0 {
        let (events, _) =
            epoll::wait(&epoll, &mut space, Some(&patience)).map_err(|error| format!("epoll: {error}"))?;
        if events.is_empty() {
            return Err("hangs".to_owned());
        }
        let go_on = Instant::now() < end;
        for event in &*events {
            let peer = &mut peers[event.data.u64() as usize];
            if !peer.listen(&exchanges, &mut buffer)? {
                continue;
            }
            operations += exchanges[peer.exchange].operations;
            if go_on {
                (peer.exchange, peer.received) = ((peer.exchange + 1) % exchanges.len(), 0);
                peer.ask(&exchanges)?;
            } else {
                waiting -= 1;
            }
        }
    }
    Ok(server.scheduled().since(before).ran as f64 / operations as f64)
}

fn main() -> ExitCode {
    let loads = Load::ALL.iter().map(|(load, ..)| *load).collect();
    support::main(USAGE, TIME, Own { loads, connections: 64 }, own, run)
}

fn own(own: &mut Own, flag: &str, value: &str) -> Result<bool, String> {
    match flag {
        "--loads" => {
            let known = |name| Load::ALL.iter().find(|(_, known, _)| *known == name).map(|(load, ..)| *load);
            let loads = value.split(',').map(|name| known(name).ok_or_else(|| format!("no load is called {name:?}")));
            own.loads = loads.collect::<Result<_, _>>()?;
        }
        "--connections" => own.connections = number(flag, value)?.max(1),
        _ => return Ok(false),
    }
    Ok(true)
}

fn run(options: &Options) -> Result<String, String> {
    let loads = &options.own.loads;
    let samples = support::rounds(options, loads, |server, load| measure(server, load, options))?;
    let mut report = support::head("Processor time of kv and memcached", "kv");
    let _ = writeln!(
        report,
        "- {} connections, {KEYS} keys; {} rounds of {:?} for each load and server, least and median of them; \
         the floor is memcached",
        options.own.connections, options.rounds, options.time
    );
    for load in loads {
        let of_memcached = |least, floor| format!("{:.0} %", floor / least * 100.0);
        let column = "throughput of a core, of memcached's by the least";
        support::table(&mut report, options, &samples, (*load, Load::ALL[*load as usize].2), (column, of_memcached));
    }
    Ok(report)
}
