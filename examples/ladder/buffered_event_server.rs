//! Rung 6, buffered events: the loop reads and writes, the program is called with what has come.
//!
//! `cargo run --release --example buffered_event_server`, then `nc 127.0.0.1 40713`.
//!
//! It teaches to cut the state machine of the last rung in two. Below, `BufferedEvent` knows sockets, readiness, deadlines
//! and how to close; above, `Rot13` knows lines, in forty lines, and is called back: there is input, the output has gone,
//! something has happened. Between them are two buffers and their watermarks.
//! It costs two buffers while there is something in them, and the habit of thinking in callbacks.
//! What breaks it is the callback that wants to wait, for another peer or a database: it has to return, and what it was
//! about to do has to be kept somewhere until it is called again. So has what connections have to say to each other. That is
//! what the last rung's actors have addresses, mailboxes and futures for.
//!
//! Promises: exact, in order, half-close, bounded and polite close as `rot13d`, and deadlines: idle peers are closed politely,
//! those that take nothing are cut. SIGTERM and SIGINT drain: nobody new is accepted, what was read is
//! answered, and each peer has five seconds to take it and close.
//! Not here: limits for all sessions together or for one source, panics that end one session only, more than one thread.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr},
    process::ExitCode,
    time::{Duration, Instant},
};

use actix_lines::rot13;
use clap::Parser;
use mio::{
    Events, Interest, Poll, Token,
    event::Event,
    net::{TcpListener, TcpStream, UnixStream},
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    low_level::pipe,
};
use slab::Slab;

/// Bytes of one read. A session gets one a turn, so that a fast peer cannot keep the others waiting.
const READ: usize = 64 << 10;
/// A longer line is answered in pieces, so that no line costs more memory than this.
const MAX_LINE: usize = 16 << 10;
/// Input that waits for its callback, at most.
const READ_HIGH: usize = 64 << 10;
/// Above the one, output stops the reading; at the other it goes on.
const WRITE_HIGH: usize = 64 << 10;
const WRITE_LOW: usize = 16 << 10;
/// How long a peer has to close after our FIN.
const LINGER: Duration = Duration::from_secs(5);
/// How often deadlines are looked at: each is met this much late at most.
const SWEEP: Duration = Duration::from_millis(250);
/// Connections accepted in one turn.
const ACCEPTS: usize = 64;
/// How long nothing is accepted after there was no descriptor to be had.
const REST: Duration = Duration::from_millis(100);
/// How long peers may take to read what they are owed and to close, once the server ends.
const DRAIN: Duration = Duration::from_secs(5);
/// Changes that the kernel tells at once.
const EVENTS: usize = 256;

/// Sessions have the tokens from zero on.
const LISTENER: Token = Token(usize::MAX - 1);
const SIGNALS: Token = Token(usize::MAX - 2);

/// A ROT13 line server: buffers and callbacks.
#[derive(Parser)]
struct Arguments {
    /// Where to listen; port 0 is a free one.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:40713")]
    listen: SocketAddr,
    /// How long a peer may say nothing.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    idle_timeout: Duration,
    /// How long a peer may take nothing of what it is sent.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    write_timeout: Duration,
}

fn main() -> ExitCode {
    let Arguments { listen, idle_timeout, write_timeout } = Arguments::parse();
    let settings = Settings {
        read: Watermarks { low: 1, high: READ_HIGH },
        write_low: WRITE_LOW,
        read_timeout: Some(idle_timeout),
        write_timeout: Some(write_timeout),
    };
    match EventLoop::new(listen, settings, || Rot13).and_then(EventLoop::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("buffered_event_server: cannot serve {listen}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The service: all that this program has to say about ROT13 and lines.
struct Rot13;

impl Callbacks for Rot13 {
    fn read(&mut self, event: &mut BufferedEvent) -> io::Result<()> {
        let input = event.input.bytes();
        let whole = input.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole = if input.len() - whole > MAX_LINE { input.len() } else { whole };
        answer(event, whole)?;
        // Or a peer that does not read would have all its answers kept here.
        if event.output.bytes().len() > WRITE_HIGH {
            event.set_reading(false);
        }
        Ok(())
    }

    fn written(&mut self, event: &mut BufferedEvent) -> io::Result<()> {
        event.set_reading(true);
        Ok(())
    }

    fn event(&mut self, event: &mut BufferedEvent, what: What) -> io::Result<()> {
        match what {
            // What is left is the tail. To drop the connection here would be to drop its output.
            What::Eof => {
                answer(event, event.input.bytes().len())?;
                event.finish();
            }
            What::ReadTimeout => event.finish(),
            What::WriteTimeout | What::Error => event.abort(),
        }
        Ok(())
    }
}

fn answer(event: &mut BufferedEvent, count: usize) -> io::Result<()> {
    rot13(&mut event.input.bytes_mut()[..count]);
    event.input.move_to(&mut event.output, count)
}

/// What a program does with a connection. An error ends it.
trait Callbacks {
    /// There is as much input as the low watermark asks for. What is left of it is there again with the next.
    fn read(&mut self, event: &mut BufferedEvent) -> io::Result<()>;
    /// Some output has gone, and what is left of it is at the low watermark or below.
    fn written(&mut self, event: &mut BufferedEvent) -> io::Result<()>;
    /// Something else has happened; unless it finishes or aborts the connection, that stays as it is.
    fn event(&mut self, event: &mut BufferedEvent, what: What) -> io::Result<()>;
}

#[derive(Clone, Copy)]
enum What {
    /// The peer has sent its last byte. It may still read.
    Eof,
    /// The socket is dead.
    Error,
    /// Nothing has come for as long as the settings say, and reading is on.
    ReadTimeout,
    /// The peer has taken nothing for as long as the settings say, and there is something to take.
    WriteTimeout,
}

/// Bytes that come in at one end and leave at the other.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    /// How much it is was a peer's decision, so it may fail.
    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.bytes.len() + bytes.len() > self.bytes.capacity() {
            self.bytes.drain(..self.start);
            self.start = 0;
            self.bytes.try_reserve(bytes.len())?;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// An empty buffer has no memory.
    fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.bytes.len() {
            *self = Self::default();
        }
    }

    /// Appends the first bytes to another buffer; without a copy, if they are all and the other has none.
    fn move_to(&mut self, other: &mut Self, count: usize) -> io::Result<()> {
        if count == self.bytes().len() && other.bytes().is_empty() {
            *other = std::mem::take(self);
        } else {
            other.push(&self.bytes()[..count])?;
            self.consume(count);
        }
        Ok(())
    }
}

/// What holds for a connection.
#[derive(Clone, Copy)]
struct Settings {
    read: Watermarks,
    /// The output at which more may be written.
    write_low: usize,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
}

/// Of the input: below `low` the callback is not called, from `high` on nothing is read.
#[derive(Clone, Copy)]
struct Watermarks {
    low: usize,
    high: usize,
}

/// A connection with a buffer for each direction.
struct BufferedEvent {
    stream: TcpStream,
    input: Buffer,
    output: Buffer,
    settings: Settings,
    phase: Phase,
    is_reading: bool,
    /// What the kernel has told of the socket, and no call has refuted: there may be bytes; the peer has sent its last.
    is_readable: bool,
    has_ended: bool,
    is_queued: bool,
    /// When something last came.
    heard: Instant,
    /// Since when the peer has taken nothing of what there is for it.
    is_stuck: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Open,
    /// The peer's bytes have ended.
    HalfClosed,
    /// Ends when the output has gone; with or without a wait for the peer's FIN.
    Finishing {
        linger: bool,
    },
    /// FIN is sent. What still comes is read and dropped, until the peer closes too: unread bytes at a close are answered
    /// with a reset, which destroys what is on its way to the peer.
    Lingering,
    Over,
}

/// What a connection waits for after its turn.
enum Next {
    /// Its next turn: there may be more to read.
    Turn,
    /// A change that the kernel tells.
    Event,
    /// It is over.
    Nothing,
}

impl BufferedEvent {
    fn new(stream: TcpStream, settings: Settings, now: Instant) -> Self {
        Self {
            stream,
            input: Buffer::default(),
            output: Buffer::default(),
            settings,
            phase: Phase::Open,
            is_reading: true,
            is_readable: false,
            has_ended: false,
            is_queued: false,
            heard: now,
            is_stuck: None,
        }
    }

    /// Off, the peer is not heard: not its bytes, not its end.
    fn set_reading(&mut self, is_reading: bool) {
        self.is_reading = is_reading;
    }

    /// Sends what is in the output, and closes politely. Input is dropped.
    fn finish(&mut self) {
        match self.phase {
            Phase::Open => self.phase = Phase::Finishing { linger: true },
            Phase::HalfClosed => self.phase = Phase::Finishing { linger: false },
            Phase::Finishing { .. } | Phase::Lingering | Phase::Over => {}
        }
        self.input = Buffer::default();
    }

    /// Closes now, whatever is in the output.
    fn abort(&mut self) {
        self.phase = Phase::Over;
    }

    /// That it is writable needs no note: whoever has output tries.
    fn note(&mut self, event: &Event) {
        self.is_readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.has_ended |= event.is_read_closed() || event.is_error();
    }

    fn may_read(&self) -> bool {
        self.is_readable
            && match self.phase {
                Phase::Open => self.is_reading && self.input.bytes().len() < self.settings.read.high,
                Phase::Lingering => true,
                Phase::HalfClosed | Phase::Finishing { .. } | Phase::Over => false,
            }
    }

    /// One read at most, and what it asks for. An error of the socket or of a callback is an event, and the end.
    fn turn(&mut self, callbacks: &mut impl Callbacks, scratch: &mut [u8], now: Instant) -> Next {
        if self.phase != Phase::Over && self.try_turn(callbacks, scratch, now).is_err() {
            let _ = callbacks.event(self, What::Error);
            self.abort();
        }
        match self.phase {
            Phase::Over => Next::Nothing,
            _ if self.may_read() => Next::Turn,
            _ => Next::Event,
        }
    }

    fn try_turn(&mut self, callbacks: &mut impl Callbacks, scratch: &mut [u8], now: Instant) -> io::Result<()> {
        self.write(callbacks, now)?;
        if self.may_read() {
            self.read(callbacks, scratch, now)?;
            self.write(callbacks, now)?;
        }
        Ok(())
    }

    fn read(&mut self, callbacks: &mut impl Callbacks, scratch: &mut [u8], now: Instant) -> io::Result<()> {
        let count = match self.stream.read(scratch) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.is_readable = false;
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            read => read?,
        };
        // Less than was asked for was all there was, and more would be told; but the end may have been told before.
        self.is_readable = count == scratch.len() || self.has_ended;
        self.heard = now;
        match (count, self.phase) {
            (0, Phase::Lingering) => self.phase = Phase::Over,
            (_, Phase::Lingering) => {}
            (0, _) => {
                self.phase = Phase::HalfClosed;
                callbacks.event(self, What::Eof)?;
            }
            _ => {
                self.input.push(&scratch[..count])?;
                if self.input.bytes().len() >= self.settings.read.low {
                    callbacks.read(self)?;
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, callbacks: &mut impl Callbacks, now: Instant) -> io::Result<()> {
        while self.phase != Phase::Over && !self.output.bytes().is_empty() {
            match self.stream.write(self.output.bytes()) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.output.consume(count);
                    self.is_stuck = None;
                    if self.output.bytes().len() <= self.settings.write_low {
                        callbacks.written(self)?;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_stuck.get_or_insert(now);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        match self.phase {
            Phase::Finishing { linger: false } => self.phase = Phase::Over,
            Phase::Finishing { linger: true } => {
                self.stream.shutdown(Shutdown::Write)?;
                self.phase = Phase::Lingering;
                self.is_stuck = Some(now);
            }
            Phase::Open | Phase::HalfClosed | Phase::Lingering | Phase::Over => {}
        }
        Ok(())
    }

    /// Looks at the deadlines; true if it has something to do because of one.
    fn sweep(&mut self, callbacks: &mut impl Callbacks, now: Instant) -> bool {
        let is_due = |since: Instant, time: Option<Duration>| time.is_some_and(|time| now - since >= time);
        let what = match (self.phase, self.is_stuck) {
            (Phase::Lingering, Some(fin)) if is_due(fin, Some(LINGER)) => {
                self.abort();
                return true;
            }
            (Phase::Lingering, _) => return false,
            (_, Some(since)) if is_due(since, self.settings.write_timeout) => What::WriteTimeout,
            (Phase::Open, None) if self.is_reading && is_due(self.heard, self.settings.read_timeout) => {
                What::ReadTimeout
            }
            _ => return false,
        };
        if callbacks.event(self, what).is_err() {
            self.abort();
        }
        true
    }
}

/// Waits, accepts, and gives each connection its turns.
struct EventLoop<Make, User> {
    poll: Poll,
    acceptor: Option<Acceptor>,
    /// Kept, or nobody would read the signals.
    signals: UnixStream,
    connections: Slab<(BufferedEvent, User)>,
    /// Those that may have something to do, each once.
    queue: Vec<usize>,
    settings: Settings,
    /// Makes the callbacks of a new connection.
    make: Make,
}

impl<Make: Fn() -> User, User: Callbacks> EventLoop<Make, User> {
    fn new(listen: SocketAddr, settings: Settings, make: Make) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(listen)?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let (mut signals, writer) = UnixStream::pair()?;
        poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
        let writer = std::os::fd::OwnedFd::from(writer);
        pipe::register(SIGTERM, writer.try_clone()?)?;
        pipe::register(SIGINT, writer)?;
        eprintln!("listening on {}", listener.local_addr()?);
        let acceptor = Some(Acceptor { listener, has_callers: false, rest_until: None, is_short: false });
        Ok(Self { poll, acceptor, signals, connections: Slab::new(), queue: Vec::new(), settings, make })
    }

    /// Returns when it was told to end and every connection has, or had the time to.
    fn run(mut self) -> io::Result<()> {
        let mut end = None;
        let mut next_sweep = Instant::now() + SWEEP;
        let mut events = Events::with_capacity(EVENTS);
        let mut scratch = vec![0; READ];
        while self.acceptor.is_some() || !self.connections.is_empty() {
            let now = Instant::now();
            if end.is_some_and(|end| end <= now) {
                break;
            }
            let accept = self.acceptor.as_ref().and_then(Acceptor::next_turn);
            let turn = Some(now).filter(|_| !self.queue.is_empty());
            let next = [accept, turn].into_iter().flatten().fold(next_sweep, Instant::min);
            match self.poll.poll(&mut events, Some(next.saturating_duration_since(now))) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let now = Instant::now();
            for event in &events {
                match (event.token(), &mut self.acceptor) {
                    (LISTENER, Some(acceptor)) => acceptor.has_callers = true,
                    (SIGNALS, Some(_)) => {
                        // Closes the listener, too.
                        self.acceptor = None;
                        end = Some(now + DRAIN);
                        for (key, (connection, _)) in &mut self.connections {
                            connection.finish();
                            enqueue(&mut self.queue, key, connection);
                        }
                    }
                    (Token(key), _) => {
                        if let Some((connection, _)) = self.connections.get_mut(key) {
                            connection.note(event);
                            enqueue(&mut self.queue, key, connection);
                        }
                    }
                }
            }
            if next_sweep <= now {
                next_sweep = now + SWEEP;
                for (key, (connection, user)) in &mut self.connections {
                    if connection.sweep(user, now) {
                        enqueue(&mut self.queue, key, connection);
                    }
                }
            }
            for key in std::mem::take(&mut self.queue) {
                let Some((connection, user)) = self.connections.get_mut(key) else { continue };
                connection.is_queued = false;
                match connection.turn(user, &mut scratch, now) {
                    Next::Turn => enqueue(&mut self.queue, key, connection),
                    Next::Event => {}
                    // The kernel's list forgets a socket that is closed.
                    Next::Nothing => drop(self.connections.remove(key)),
                }
            }
            self.accept(now);
        }
        drop(self.signals);
        Ok(())
    }

    fn accept(&mut self, now: Instant) {
        let Some(acceptor) = &mut self.acceptor else { return };
        for _ in 0..ACCEPTS {
            let Some(mut stream) = acceptor.accept(now) else { return };
            let place = self.connections.vacant_entry();
            let interest = Interest::READABLE | Interest::WRITABLE;
            if self.poll.registry().register(&mut stream, Token(place.key()), interest).is_ok() {
                place.insert((BufferedEvent::new(stream, self.settings, now), (self.make)()));
            }
        }
    }
}

/// At the end of the queue, unless it is in it.
fn enqueue(queue: &mut Vec<usize>, key: usize, connection: &mut BufferedEvent) {
    if !std::mem::replace(&mut connection.is_queued, true) {
        queue.push(key);
    }
}

struct Acceptor {
    listener: TcpListener,
    /// The kernel said so, and not all of them have been accepted.
    has_callers: bool,
    /// There was no descriptor to be had.
    rest_until: Option<Instant>,
    is_short: bool,
}

impl Acceptor {
    /// When there is something to accept, as far as is known.
    fn next_turn(&self) -> Option<Instant> {
        self.has_callers.then(|| self.rest_until.unwrap_or_else(Instant::now))
    }

    fn accept(&mut self, now: Instant) -> Option<TcpStream> {
        while self.has_callers && self.rest_until.is_none_or(|end| end <= now) {
            self.rest_until = None;
            match self.listener.accept() {
                Ok((stream, _)) => {
                    self.is_short = false;
                    // It fails only if the peer has gone, which its connection will see.
                    let _ = stream.set_nodelay(true);
                    return Some(stream);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.has_callers = false,
                // Of one connection, which has gone.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(error) => {
                    if !std::mem::replace(&mut self.is_short, true) {
                        eprintln!("buffered_event_server: cannot accept: {error}; connections wait");
                    }
                    self.rest_until = Some(now + REST);
                }
            }
        }
        None
    }
}
