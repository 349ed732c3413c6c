//! What firehoses do to typists on one worker: how long a typed line waits for its answer, and what the firehoses get
//! through meanwhile, both as ratios to the least that a readiness-based server does.
//!
//! Servers take turns as in the other benchmark, the floor twice. One client thread plays all peers, so it must not be
//! what the typists wait for: it never sleeps, it looks at them before each step of a firehose, and a step is one read
//! and one write of a block at most. Nor may it be slower than a server, or queues form on its side: of what firehoses
//! receive it has the kernel discard most, and compares the rest. How long its steps took is in the report.
//! Not here: what a line costs (`server`).

mod support;

use std::{
    fmt::Write as _,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
    time::{Duration, Instant},
};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
    net::{RecvFlags, SendFlags},
};
use support::{PATIENCE, Scheduled, Server, number};

const USAGE: &str = "\
usage: cargo bench --bench fairness -- --floor COMMAND [--server NAME=COMMAND]... [options]

  --firehoses N       default 8
  --typists N         default 32
  --interval-ms N     from one line of a typist to the next, half to one and a half times; default 2
  --seconds S         of each server in each round, after a warm-up of a quarter of it; default 1
";

/// Of each server in each round.
const TIME: Duration = Duration::from_secs(1);
/// The one load.
const MIXED: &str = "the mixed load";
/// Length of a line, of firehoses and typists.
const LINE: usize = 64;
/// What a firehose has under way at most: sent, and not yet received. It sends once a block of it is free.
const FLIGHT: u64 = 1 << 20;
/// What one step of a firehose reads and writes at most.
const BLOCK: usize = 64 << 10;
/// One of so many reads of a firehose is compared with what has to come.
const COMPARED: u32 = 8;
/// After so many bytes the text of the lines repeats: their 64 bytes and an alphabet of 26.
const PERIOD: usize = 832;
/// Share of a round's time that others may have had the server's or the client's processor.
const DISTURBED: f64 = 0.01;
/// How far the control may be off: the tail of a latency scatters more than processor time does.
const CONTROL: f64 = 0.1;
/// The promise: the typists' p99 at most, and the firehoses' bytes at least, as ratios to the floor.
const SLOWEST: f64 = 1.0;
const FEWEST: f64 = 0.9;

type Options = support::Options<Own>;
type Samples = support::Samples<&'static str, Round>;

struct Own {
    firehoses: usize,
    typists: usize,
    interval: Duration,
}

fn main() -> ExitCode {
    support::main(USAGE, TIME, Own { firehoses: 8, typists: 32, interval: Duration::from_millis(2) }, own, run)
}

fn own(own: &mut Own, flag: &str, value: &str) -> Result<bool, String> {
    match flag {
        "--firehoses" => own.firehoses = number(flag, value)?,
        "--typists" => own.typists = number(flag, value)?.max(1),
        "--interval-ms" => own.interval = Duration::from_millis(number(flag, value)? as u64),
        _ => return Ok(false),
    }
    Ok(true)
}

/// Sends as fast as it is let.
struct Firehose {
    socket: OwnedFd,
    sent: u64,
    received: u64,
    reads: u32,
    /// The kernel took less than it was given: it says when it takes more.
    is_full: bool,
}

/// Sends a line at times of its own, however fast the answers come, but none before the answer to the last: so no server
/// is asked more because it answers sooner.
struct Typist {
    socket: OwnedFd,
    /// When it sent the line under way; after the answer, when the next is due.
    at: Instant,
    /// Bytes of the answer that have not come yet.
    missing: usize,
}

/// One client thread on one core that plays all peers.
struct Client {
    /// A set for each kind, so that typists can be looked at by themselves.
    firehose_events: OwnedFd,
    typist_events: OwnedFd,
    firehoses: Vec<Firehose>,
    typists: Vec<Typist>,
    /// Any block of a firehose lies in these as one piece, and the typists' line at the start.
    question: Vec<u8>,
    answer: Vec<u8>,
    buffer: Vec<u8>,
    interval: Duration,
    /// State of the generator of intervals.
    dice: u32,
    /// Lines are counted that are sent in between, bytes that come in between.
    from: Instant,
    until: Instant,
    /// Nanoseconds from sending a line to its whole answer.
    waits: Vec<u32>,
    /// Nanoseconds of each firehose's step.
    steps: Vec<u32>,
    bytes: u64,
    progress: Instant,
}

/// What one server did in one round. Times are in microseconds.
struct Round {
    median: f64,
    p99: f64,
    longest: f64,
    lines: usize,
    megabytes: f64,
    /// Share of the time that the server was on its processor.
    server_busy: f64,
    /// Share of the time that the server or the client, whichever is more, wanted its processor while others had it.
    disturbed: f64,
    step_p99: f64,
    step_longest: f64,
}

fn nanos(time: Duration) -> u32 {
    u32::try_from(time.as_nanos()).unwrap_or(u32::MAX)
}

/// Receives up to all of `answer`, and compares what comes with it. No bytes if there are none yet.
fn receive(socket: impl AsFd, buffer: &mut [u8], answer: &[u8]) -> Result<usize, String> {
    let count = taken(rustix::net::recv(socket, &mut buffer[..answer.len()], RecvFlags::empty()))?;
    if buffer[..count] == answer[..count] { Ok(count) } else { Err("wrong bytes".to_owned()) }
}

/// Has the kernel throw away up to `most` bytes that have come.
fn discard(socket: impl AsFd, buffer: &mut [u8], most: usize) -> Result<usize, String> {
    taken(rustix::net::recv(socket, &mut buffer[..most], RecvFlags::TRUNC))
}

fn taken(received: Result<(usize, usize), Errno>) -> Result<usize, String> {
    match received {
        Ok((0, _)) => Err("closes too early".to_owned()),
        Ok((count, _)) => Ok(count),
        Err(Errno::AGAIN) => Ok(0),
        Err(error) => Err(format!("cannot receive: {error}")),
    }
}

/// Takes what is ready now, without waiting.
fn ready<'a>(events: &OwnedFd, space: &'a mut [MaybeUninit<epoll::Event>]) -> Result<&'a mut [epoll::Event], String> {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    epoll::wait(events, space, Some(&at_once)).map(|(events, _)| events).map_err(|error| format!("epoll: {error}"))
}

impl Client {
    fn new(port: u16, options: &Options) -> Result<Self, String> {
        let (question, answer) = support::lines(LINE, PERIOD + BLOCK);
        let set = || epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| format!("epoll: {error}"));
        let (firehose_events, typist_events) = (set()?, set()?);
        let connect = |events: &OwnedFd, number: usize| {
            let connect = || {
                let socket = support::connect(port)?;
                epoll::add(events, &socket, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
                Ok(socket)
            };
            connect().map_err(|error: Errno| format!("cannot connect: {error}"))
        };
        let firehose = |number| {
            Ok(Firehose { socket: connect(&firehose_events, number)?, sent: 0, received: 0, reads: 0, is_full: false })
        };
        let firehoses = (0..options.own.firehoses).map(firehose).collect::<Result<_, String>>()?;
        let now = Instant::now();
        // They do not begin all at once.
        let first = |number| now + options.own.interval * number as u32 / options.own.typists as u32;
        let typist = |number| Ok(Typist { socket: connect(&typist_events, number)?, at: first(number), missing: 0 });
        let typists = (0..options.own.typists).map(typist).collect::<Result<_, String>>()?;
        let now = Instant::now();
        let from = now + options.time / 4;
        Ok(Self {
            firehose_events,
            typist_events,
            firehoses,
            typists,
            question,
            answer,
            buffer: vec![0; BLOCK],
            interval: options.own.interval,
            dice: 0x2545_f491,
            from,
            until: from + options.time,
            waits: Vec::with_capacity(1 << 16),
            steps: Vec::with_capacity(1 << 16),
            bytes: 0,
            progress: now,
        })
    }

    /// Half to one and a half times the interval, so that typists fall into no step with each other.
    fn next_interval(&mut self) -> Duration {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 17;
        self.dice ^= self.dice << 5;
        self.interval.mul_f64(0.5 + f64::from(self.dice) / f64::from(u32::MAX))
    }

    /// Hears the answers that have come, then sends the lines that are due. True if no answer is awaited.
    fn look_after_typists(&mut self) -> Result<bool, String> {
        let mut space = [MaybeUninit::uninit(); 64];
        for event in ready(&self.typist_events, &mut space)? {
            let typist = &mut self.typists[event.data.u64() as usize];
            let from = LINE - typist.missing;
            typist.missing -= receive(&typist.socket, &mut self.buffer, &self.answer[from..LINE])?;
            if typist.missing > 0 {
                continue;
            }
            let (now, asked) = (Instant::now(), typist.at);
            if asked >= self.from && asked < self.until {
                self.waits.push(nanos(now - asked));
            }
            self.progress = now;
            self.typists[event.data.u64() as usize].at = asked + self.next_interval();
        }
        let now = Instant::now();
        let goes_on = now < self.until;
        let mut quiet = true;
        for typist in &mut self.typists {
            if goes_on && typist.missing == 0 && typist.at <= now {
                typist.at = Instant::now();
                typist.missing = LINE;
                match rustix::net::send(&typist.socket, &self.question[..LINE], SendFlags::NOSIGNAL) {
                    Ok(LINE) => {}
                    Ok(sent) => return Err(format!("only {sent} bytes of a line fitted the socket")),
                    Err(error) => return Err(format!("cannot send: {error}")),
                }
            }
            quiet &= typist.missing == 0;
        }
        Ok(quiet)
    }

    /// One read and one write of one firehose.
    fn step(&mut self, number: usize, begun: Instant) -> Result<(), String> {
        let firehose = &mut self.firehoses[number];
        // One byte more than can rightly come, so that it would be seen.
        let most = (firehose.sent - firehose.received + 1).min(BLOCK as u64) as usize;
        firehose.reads += 1;
        let count = if firehose.reads.is_multiple_of(COMPARED) {
            let from = (firehose.received % PERIOD as u64) as usize;
            receive(&firehose.socket, &mut self.buffer, &self.answer[from..from + most])?
        } else {
            discard(&firehose.socket, &mut self.buffer, most)?
        } as u64;
        if count > firehose.sent - firehose.received {
            return Err("sends more than it was sent".to_owned());
        }
        firehose.received += count;
        if begun >= self.from && begun < self.until {
            self.bytes += count;
        }
        if begun < self.until && firehose.sent - firehose.received <= FLIGHT - BLOCK as u64 {
            let from = (firehose.sent % PERIOD as u64) as usize;
            let sent =
                match rustix::net::send(&firehose.socket, &self.question[from..from + BLOCK], SendFlags::NOSIGNAL) {
                    Ok(sent) => sent,
                    Err(Errno::AGAIN) => 0,
                    Err(error) => return Err(format!("cannot send: {error}")),
                };
            firehose.sent += sent as u64;
            self.await_room(number, sent < BLOCK)?;
        } else {
            self.await_room(number, false)?;
        }
        let now = Instant::now();
        if begun >= self.from && begun < self.until {
            self.steps.push(nanos(now - begun));
        }
        self.progress = now;
        Ok(())
    }

    /// Asks the kernel to say when a firehose may send, or to say so no more.
    fn await_room(&mut self, number: usize, is_full: bool) -> Result<(), String> {
        let firehose = &mut self.firehoses[number];
        if firehose.is_full == is_full {
            return Ok(());
        }
        firehose.is_full = is_full;
        let flags = if is_full { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
        let data = epoll::EventData::new_u64(number as u64);
        epoll::modify(&self.firehose_events, &firehose.socket, data, flags).map_err(|error| format!("epoll: {error}"))
    }

    /// Plays all peers until the time is over and every answer has come.
    fn play(&mut self, server: &Server) -> Result<Round, String> {
        for number in 0..self.firehoses.len() {
            // The first block; the others follow when the kernel says that there is room.
            self.step(number, Instant::now())?;
            self.await_room(number, true)?;
        }
        // Of the server and the client, when the time begins and when it ends.
        let mut scheduled = Vec::with_capacity(2);
        loop {
            let typists_are_quiet = self.look_after_typists()?;
            let now = Instant::now();
            if scheduled.len() < 2 && now >= [self.from, self.until][scheduled.len()] {
                scheduled.push([server.scheduled(), Scheduled::own()]);
            }
            // One event, and the kernel puts what it has shown last.
            let mut space = [MaybeUninit::uninit(); 1];
            if let Some(event) = ready(&self.firehose_events, &mut space)?.first() {
                self.step(event.data.u64() as usize, now)?;
                continue;
            }
            if scheduled.len() == 2 && typists_are_quiet && self.firehoses.iter().all(|hose| hose.sent == hose.received)
            {
                break;
            }
            if now > self.progress + PATIENCE {
                return Err("hangs".to_owned());
            }
        }
        let time = self.until - self.from;
        let share = |nanos: u64| nanos as f64 / time.as_nanos() as f64;
        let [of_server, of_client] = [0, 1].map(|at| scheduled[1][at].since(scheduled[0][at]));
        let lines = self.waits.len();
        let [median, p99, longest] = quantiles(&mut self.waits);
        let [_, step_p99, step_longest] = quantiles(&mut self.steps);
        Ok(Round {
            median,
            p99,
            longest,
            lines,
            megabytes: self.bytes as f64 / 1e6 / time.as_secs_f64(),
            server_busy: share(of_server.ran),
            disturbed: share(of_server.waited.max(of_client.waited)),
            step_p99,
            step_longest,
        })
    }
}

/// Median, 99th percentile and longest, in microseconds.
fn quantiles(nanos: &mut [u32]) -> [f64; 3] {
    nanos.sort_unstable();
    let last = nanos.len().saturating_sub(1);
    [last / 2, last * 99 / 100, last].map(|at| nanos.get(at).map_or(f64::NAN, |nanos| f64::from(*nanos) / 1e3))
}

/// Least, median and most of a value over the rounds.
fn over_rounds(rounds: &[Round], value: impl Fn(&Round) -> f64) -> [f64; 3] {
    let mut values: Vec<f64> = rounds.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    [0, values.len() / 2, last].map(|at| values.get(at).copied().unwrap_or(f64::NAN))
}

fn run(options: &Options) -> Result<String, String> {
    let samples = support::rounds(options, &[MIXED], |server, _| Client::new(server.port, options)?.play(server))?;
    let mut report = support::head("Firehoses and typists on one worker", "fairness");
    let _ = writeln!(
        report,
        "- {} rounds of {:?} for each server, after a warm-up of {:?}\n- {} firehoses, each with up to {} KiB of \
         {LINE}-byte lines in flight\n- {} typists, each with one {LINE}-byte line each {:?} to {:?}, or when the last is \
         answered if that is later; the time is from sending to the whole answer",
        options.rounds,
        options.time,
        options.time / 4,
        options.own.firehoses,
        FLIGHT >> 10,
        options.own.typists,
        options.own.interval / 2,
        options.own.interval * 3 / 2,
    );
    let _ = writeln!(
        report,
        "- not counted: a round in which server or client waited for its processor for more than {:.0} % of the time",
        DISTURBED * 100.0
    );
    tables(&mut report, options, samples);
    Ok(report)
}

fn tables(report: &mut String, options: &Options, mut samples: Samples) {
    let mut errors = vec![None; options.servers.len()];
    let mut counted: Vec<Vec<Round>> = Vec::new();
    for (index, error) in errors.iter_mut().enumerate() {
        let rounds = samples.remove(&(MIXED, index)).unwrap_or_else(|| Err("not measured".to_owned()));
        let mut rounds = rounds.unwrap_or_else(|text| {
            *error = Some(text);
            Vec::new()
        });
        rounds.retain(|round| round.disturbed <= DISTURBED);
        if rounds.is_empty() {
            error.get_or_insert_with(|| "no round counts".to_owned());
        }
        counted.push(rounds);
    }
    let rounds = |index: usize| counted[index].as_slice();
    let p99 = |index| over_rounds(rounds(index), |round| round.p99);
    let bytes = |index| over_rounds(rounds(index), |round| round.megabytes);

    report.push_str(
        "\n## Typists: µs a line\n\np50 and p99 are each round's; the longest is that of all rounds.\n\n\
         | server | p50, median | p99, least | p99, median | longest, median | longest | lines a round | rounds |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for (index, (name, _)) in options.servers.iter().enumerate() {
        if let Some(error) = &errors[index] {
            let _ = writeln!(report, "| {name} | {error} | | | | | | |");
            continue;
        }
        let [_, median, _] = over_rounds(rounds(index), |round| round.median);
        let [least, middle, _] = p99(index);
        let [_, longest_median, longest] = over_rounds(rounds(index), |round| round.longest);
        let [_, lines, _] = over_rounds(rounds(index), |round| round.lines as f64);
        let _ = writeln!(
            report,
            "| {name} | {median:.0} | {least:.0} | {middle:.0} | {longest_median:.0} | {longest:.0} | {lines:.0} | {} |",
            rounds(index).len()
        );
    }

    report.push_str(
        "\n## Firehoses: MB a second, of all together\n\nBusy is the share of the time on the processor. A step is what a typist may have to wait for in the client.\n\n\
         | server | most | median | server busy | client's step, p99 µs | longest µs |\n\
         |---|--:|--:|--:|--:|--:|\n",
    );
    for (index, (name, _)) in options.servers.iter().enumerate() {
        let [_, median, most] = bytes(index);
        let [_, server, _] = over_rounds(rounds(index), |round| round.server_busy * 100.0);
        let [_, step, _] = over_rounds(rounds(index), |round| round.step_p99);
        let [_, _, longest] = over_rounds(rounds(index), |round| round.step_longest);
        let _ = writeln!(report, "| {name} | {most:.0} | {median:.0} | {server:.0} % | {step:.0} | {longest:.0} |");
    }

    let _ = write!(
        report,
        "\n## Against the floor\n\nPromised are, by the medians, a p99 that is no worse, and {:.0} % of the bytes at least. The control is \
         floor against floor; off by more than {:.0} %, there is no verdict, and a p99 is no worse if it is not further \
         above the floor's than the control is off.\n\n| server | p99: least | median | | bytes: most | median | |\n\
         |---|--:|--:|---|--:|--:|---|\n",
        FEWEST * 100.0,
        CONTROL * 100.0
    );
    let latency = |index, at: usize| p99(index)[at] / p99(0)[at];
    let throughput = |index, at: usize| bytes(index)[at] / bytes(0)[at];
    // By the medians: the least p99 is that of a round in which the client happened to be the slower one.
    let off = [latency(1, 1), throughput(1, 1)].map(|control| (control - 1.0).abs());
    let verdict = |off: f64, is_kept: bool| match is_kept {
        _ if off.is_nan() || off > CONTROL => "no verdict",
        true => "kept",
        false => "missed",
    };
    for (index, (name, _)) in options.servers.iter().enumerate().skip(1) {
        let slow = [0, 1].map(|at| latency(index, at));
        let much = [2, 1].map(|at| throughput(index, at));
        let verdicts = match index {
            1 => ["control", "control"],
            _ => [verdict(off[0], slow[1] <= SLOWEST + off[0]), verdict(off[1], much[1] >= FEWEST)],
        };
        let _ = writeln!(
            report,
            "| {name} | {:.2} | {:.2} | {} | {:.2} | {:.2} | {} |",
            slow[0], slow[1], verdicts[0], much[0], much[1], verdicts[1]
        );
    }
}
