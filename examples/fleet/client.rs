//! Load and proof for a fleet: sessions that stream lines through a load balancer, verify every byte of the answers, and connect
//! again whenever they are told goodbye.
//!
//! `cargo run --release --example fleet_client -- 127.0.0.1:40713 --sessions 1000`. SIGINT, SIGTERM or `--seconds` ends it: it waits
//! for the answers that are owed, prints one line of JSON, and exits with 0 if nothing was wrong or lost, nobody was refused and
//! every session is there again.
//!
//! Each session sends lines of every byte but the newline, made of its number, and answers are held against a ROT13 of this program's
//! own. An answer is *owed* for each line that the server has read. A session that ends politely, by a FIN behind whole answers and
//! the goodbye if there is one, may leave lines unanswered that the server had not read by then: `unread_lines`. Whatever else is
//! missing is lost.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io::Write,
    process::ExitCode,
    rc::Rc,
    time::{Duration, Instant},
};

use actix::{Actor, Context, Handler};
use actix_lines::{
    CloseReason, CloseReport, Line, LineContext, LineHandler, Lines,
    connect::{Connector, ConnectorEvent, Disconnect},
};
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Longest line. Unit: bytes.
const LONGEST: u64 = 200;
/// Time for the answers that are owed at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(20);

/// Streams lines through a load balancer, and verifies every byte of the answers.
#[derive(Parser)]
struct Args {
    /// Where the load balancer listens
    target: String,
    /// Sessions at once
    #[arg(long, default_value_t = 100)]
    sessions: usize,
    /// Lines on their way in each session
    #[arg(long, default_value_t = 8)]
    window: u64,
    /// Milliseconds from the answers of a session to its next lines; 0 sends at once
    #[arg(long, default_value_t = 0)]
    pause: u64,
    /// Line by which the server says goodbye
    #[arg(long, default_value = "")]
    goodbye: String,
    /// Seconds to run; 0 runs until a signal comes
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// Seed of the lines
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What one stream is, over all of its connections.
#[derive(Clone, Copy, Default)]
struct Stream {
    is_answered: bool,
    lost_at: Option<Instant>,
}

#[derive(Default)]
struct Counts {
    connects: u64,
    live: u64,
    refused: u64,
    lines_sent: u64,
    lines_answered: u64,
    bytes_answered: u64,
    wrong_bytes: u64,
    lost_lines: u64,
    unread_lines: u64,
    ends: BTreeMap<&'static str, u64>,
    /// From the end of a session to the first answer of the next.
    gaps: Vec<Duration>,
    streams: Vec<Stream>,
}

impl Counts {
    /// Lines whose answers are still to come.
    fn owed(&self) -> u64 {
        self.lines_sent - self.lines_answered - self.lost_lines - self.unread_lines
    }
}

/// What all sessions share.
struct Shared {
    args: Args,
    counts: RefCell<Counts>,
    is_ending: Cell<bool>,
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Writes line `number` of a connection.
fn make_line(seed: u64, number: u64, line: &mut Vec<u8>) {
    line.clear();
    let mut random = Random(seed ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93));
    let length = random.next() % LONGEST;
    while (line.len() as u64) < length {
        line.extend_from_slice(&random.next().to_le_bytes());
    }
    line.truncate(length as usize);
    line.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b'n');
    line.push(b'\n');
}

/// The model: written otherwise than the server's.
fn rot13(byte: u8) -> u8 {
    const FROM: &[u8] = b"abcdefghijklmABCDEFGHIJKLM";
    const TO: &[u8] = b"nopqrstuvwxyzNOPQRSTUVWXYZ";
    let found = |in_: &[u8], out: &[u8]| in_.iter().position(|letter| *letter == byte).map(|at| out[at]);
    found(FROM, TO).or_else(|| found(TO, FROM)).unwrap_or(byte)
}

/// One connection of a stream.
struct Session {
    shared: Rc<Shared>,
    stream: usize,
    seed: u64,
    sent: u64,
    answered: u64,
    has_goodbye: bool,
    is_torn: bool,
    is_waiting: bool,
    line: Vec<u8>,
}

impl Session {
    fn send(&mut self, ctx: &mut LineContext<Self>) {
        if self.shared.is_ending.get() || self.has_goodbye {
            return;
        }
        let before = self.sent;
        while self.sent - self.answered < self.shared.args.window {
            make_line(self.seed, self.sent, &mut self.line);
            ctx.write(&self.line);
            self.sent += 1;
        }
        self.shared.counts.borrow_mut().lines_sent += self.sent - before;
    }

    fn check(&mut self, line: &[u8]) {
        let counts = &mut *self.shared.counts.borrow_mut();
        let goodbye = self.shared.args.goodbye.as_bytes();
        if !goodbye.is_empty() && line.trim_ascii_end() == goodbye {
            self.has_goodbye = true;
            return;
        }
        if self.has_goodbye || self.answered == self.sent {
            // Nothing comes behind it, and nobody asked.
            counts.wrong_bytes += line.len() as u64;
            return;
        }
        make_line(self.seed, self.answered, &mut self.line);
        let wrong = line.iter().zip(&self.line).filter(|(got, sent)| **got != rot13(**sent)).count();
        counts.wrong_bytes += (wrong + line.len().abs_diff(self.line.len())) as u64;
        counts.lines_answered += 1;
        counts.bytes_answered += line.len() as u64;
        self.answered += 1;
        let stream = &mut counts.streams[self.stream];
        stream.is_answered = true;
        if let Some(lost_at) = stream.lost_at.take() {
            counts.gaps.push(lost_at.elapsed());
        }
    }
}

impl Actor for Session {
    type Context = LineContext<Self>;
}

impl LineHandler for Session {
    fn opened(&mut self, ctx: &mut Self::Context) {
        self.send(ctx);
    }

    fn line(&mut self, line: Line<'_>, _: &mut Self::Context) {
        self.check(&line);
    }

    fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
        use actix::AsyncContext;
        while let Some(line) = lines.next(ctx) {
            self.check(&line);
        }
        if self.shared.args.pause == 0 {
            self.send(ctx);
        } else if !std::mem::replace(&mut self.is_waiting, true) {
            ctx.run_later(Duration::from_millis(self.shared.args.pause), |session, ctx| {
                session.is_waiting = false;
                session.send(ctx);
            });
        }
    }

    fn tail(&mut self, tail: Line<'_>, _: &mut Self::Context) {
        // Half an answer.
        self.is_torn = true;
        self.shared.counts.borrow_mut().wrong_bytes += tail.len() as u64;
    }

    fn closed(&mut self, report: &CloseReport) {
        let counts = &mut *self.shared.counts.borrow_mut();
        let unanswered = self.sent - self.answered;
        let is_own_end = self.shared.is_ending.get() && unanswered == 0;
        let is_polite = matches!(report.reason, CloseReason::PeerEof)
            && !self.is_torn
            && (self.has_goodbye || self.shared.args.goodbye.is_empty());
        if !is_own_end {
            *counts.ends.entry(report.reason.name()).or_default() += 1;
            let stream = &mut counts.streams[self.stream];
            (stream.is_answered, stream.lost_at) = (false, stream.lost_at.or_else(|| Some(Instant::now())));
        }
        if is_polite {
            counts.unread_lines += unanswered;
        } else if self.answered == 0 && !is_own_end {
            // The load balancer took it, and had nobody to serve it.
            counts.refused += 1;
            counts.lost_lines += unanswered;
        } else {
            counts.lost_lines += unanswered;
        }
    }
}

/// Hears of all connectors.
struct Watcher(Rc<Shared>);

impl Actor for Watcher {
    type Context = Context<Self>;
}

impl Handler<ConnectorEvent> for Watcher {
    type Result = ();
    fn handle(&mut self, event: ConnectorEvent, _: &mut Self::Context) {
        let counts = &mut *self.0.counts.borrow_mut();
        match event {
            ConnectorEvent::Connected { .. } => (counts.connects, counts.live) = (counts.connects + 1, counts.live + 1),
            ConnectorEvent::Lost { .. } => counts.live -= 1,
            ConnectorEvent::Failed { .. } => counts.refused += 1,
            _ => {}
        }
    }
}

async fn until(what: impl Fn(&Counts) -> bool, shared: &Shared, within: Duration) -> bool {
    let end = Instant::now() + within;
    while Instant::now() < end {
        if what(&shared.counts.borrow()) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

fn milliseconds(gaps: &[Duration], share: f64) -> u128 {
    let at = (gaps.len() as f64 * share) as usize;
    gaps.get(at.min(gaps.len().saturating_sub(1))).map_or(0, Duration::as_millis)
}

async fn run(args: Args) -> std::io::Result<bool> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let counts = Counts { streams: vec![Stream::default(); args.sessions], ..Counts::default() };
    let shared = Rc::new(Shared { args, counts: RefCell::new(counts), is_ending: Cell::new(false) });
    let args = &shared.args;
    let watcher = Watcher(Rc::clone(&shared)).start();
    let mut connectors = Vec::with_capacity(args.sessions);
    for stream in 0..args.sessions {
        let of_stream = Rc::clone(&shared);
        let factory = move |_: &_, nth: u64| Session {
            seed: of_stream.args.seed ^ ((stream as u64) << 32) ^ nth.wrapping_mul(0xa076_1d64_78bd_642f),
            shared: Rc::clone(&of_stream),
            stream,
            sent: 0,
            answered: 0,
            has_goodbye: false,
            is_torn: false,
            is_waiting: false,
            line: Vec::new(),
        };
        let connector = Connector::builder(args.target.as_str(), factory).subscribe(watcher.clone().recipient());
        connectors.push(connector.start().map_err(std::io::Error::other)?);
        if stream % 100 == 99 {
            // Not more at once than a backlog holds.
            until(|counts| counts.connects + counts.refused > stream as u64, &shared, LAST_ANSWERS).await;
        }
    }
    let all_answered = |counts: &Counts| counts.streams.iter().all(|stream| stream.is_answered);
    let begin = Instant::now();
    if until(all_answered, &shared, LAST_ANSWERS).await {
        eprintln!("ready: every session has had an answer");
    } else {
        eprintln!("some sessions have no answer yet");
    }
    let time = Duration::from_secs(if args.seconds == 0 { u64::from(u32::MAX) } else { args.seconds });
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    let are_all_back = until(all_answered, &shared, LAST_ANSWERS).await;
    let seconds = begin.elapsed().as_secs_f64();
    shared.is_ending.set(true);
    until(|counts| counts.owed() == 0, &shared, LAST_ANSWERS).await;
    let live = shared.counts.borrow().live;
    futures::future::join_all(connectors.iter().map(|connector| connector.send(Disconnect::within(LAST_ANSWERS))))
        .await;

    let mut counts = shared.counts.take();
    let lost_lines = counts.lost_lines + counts.owed();
    counts.gaps.sort_unstable();
    let is_fine = counts.wrong_bytes == 0
        && lost_lines == 0
        && counts.refused == 0
        && are_all_back
        && live == args.sessions as u64;
    let gaps = &counts.gaps;
    let report = serde_json::json!({
        "is_fine": is_fine,
        "sessions": args.sessions,
        "seconds": (seconds * 10.0).round() / 10.0,
        "connects": counts.connects,
        "reconnects": counts.connects.saturating_sub(args.sessions as u64),
        "refused_connects": counts.refused,
        "live_at_end": live,
        "answered_at_end": counts.streams.iter().filter(|stream| stream.is_answered).count(),
        "lines_sent": counts.lines_sent,
        "lines_answered": counts.lines_answered,
        "bytes_answered": counts.bytes_answered,
        "wrong_bytes": counts.wrong_bytes,
        "lost_lines": lost_lines,
        "unread_lines": counts.unread_lines,
        "ends": counts.ends,
        "gap_ms": { "p50": milliseconds(gaps, 0.5) as u64, "p99": milliseconds(gaps, 0.99) as u64, "max": milliseconds(gaps, 1.0) as u64 },
    });
    writeln!(std::io::stdout(), "{report}")?;
    Ok(is_fine)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let most = getrlimit(Resource::Nofile).maximum;
    // With fewer descriptors some connects fail, which is counted.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
    match actix::System::new().block_on(run(args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
