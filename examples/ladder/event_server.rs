//! Rung 5, an event loop: the kernel keeps the list of sockets, and tells only what has changed.
//!
//! `cargo run --release --example event_server`, then `nc 127.0.0.1 40713`.
//!
//! It teaches to say once what is waited for, when a connection comes, instead of in each turn. `mio` does so by epoll, kqueue
//! or what else there is, and is what tokio, and so the actors of the last rung, stand on.
//! It costs a line the same beside ten idle peers and beside ten thousand: they are in the kernel's list and nowhere else. The
//! price is that a change is told once. What is not used up has to be remembered: a session has to know whether its
//! socket may have more to read, and stand in a queue of our own as long as it was not its turn.
//! What breaks it is not the number of peers but the programmer: readiness, queue, buffer and phase of the session are one
//! state machine by now, in which a forgotten flag is a connection that hangs for ever. The next rung puts it away
//! behind buffers and callbacks.
//!
//! Promises: exact, in order, half-close, bounded and polite close as `rot13d`. SIGTERM and SIGINT drain: nobody new is
//! accepted, what was read is answered, and each peer has five seconds to take it and close.
//! Not here: deadlines; a peer that neither speaks nor leaves keeps its place.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr},
    process::ExitCode,
    time::{Duration, Instant},
};

use actix_lines::rot13;
use clap::Parser;
use mio::{
    Events, Interest, Poll, Registry, Token,
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

/// A ROT13 line server: an event loop.
#[derive(Parser)]
struct Arguments {
    /// Where to listen; port 0 is a free one.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:40713")]
    listen: SocketAddr,
}

fn main() -> ExitCode {
    let Arguments { listen } = Arguments::parse();
    match serve(listen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("event_server: cannot serve {listen}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(listen: SocketAddr) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(listen)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (mut signals, writer) = UnixStream::pair()?;
    poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
    let writer = std::os::fd::OwnedFd::from(writer);
    pipe::register(SIGTERM, writer.try_clone()?)?;
    pipe::register(SIGINT, writer)?;
    eprintln!("listening on {}", listener.local_addr()?);
    let mut acceptor = Some(Acceptor { listener, has_callers: false, rest_until: None, is_short: false });
    let mut sessions = Slab::new();
    // Those that may have something to do, each once.
    let mut queue: Vec<usize> = Vec::new();
    let mut end = None;
    let mut events = Events::with_capacity(EVENTS);
    let mut scratch = vec![0; READ];
    while acceptor.is_some() || !sessions.is_empty() {
        let now = Instant::now();
        if end.is_some_and(|end| end <= now) {
            break;
        }
        let next = acceptor.as_ref().map_or(end, Acceptor::next_turn);
        let next = if queue.is_empty() { next } else { Some(now) };
        match poll.poll(&mut events, next.map(|next| next.saturating_duration_since(now))) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            match (event.token(), &mut acceptor) {
                (LISTENER, Some(acceptor)) => acceptor.has_callers = true,
                (SIGNALS, Some(_)) => {
                    // Closes the listener, too.
                    acceptor = None;
                    end = Some(now + DRAIN);
                    sessions.retain(|_, session: &mut Session| session.close().unwrap_or(false));
                }
                (Token(key), _) => {
                    if let Some(session) = sessions.get_mut(key) {
                        session.note(event);
                        enqueue(&mut queue, key, session);
                    }
                }
            }
        }
        for key in std::mem::take(&mut queue) {
            let Some(session) = sessions.get_mut(key) else { continue };
            session.is_queued = false;
            match session.turn(&mut scratch) {
                Ok(Next::Turn) => enqueue(&mut queue, key, session),
                Ok(Next::Event) => {}
                // An error is the end of its own session only. The kernel's list forgets a socket that is closed.
                Ok(Next::Nothing) | Err(_) => drop(sessions.remove(key)),
            }
        }
        if let Some(acceptor) = &mut acceptor {
            acceptor.accept(poll.registry(), &mut sessions);
        }
    }
    Ok(())
}

/// At the end of the queue, unless it is in it.
fn enqueue(queue: &mut Vec<usize>, key: usize, session: &mut Session) {
    if !std::mem::replace(&mut session.is_queued, true) {
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

    fn accept(&mut self, registry: &Registry, sessions: &mut Slab<Session>) {
        if !self.has_callers || self.rest_until.is_some_and(|end| Instant::now() < end) {
            return;
        }
        self.rest_until = None;
        for _ in 0..ACCEPTS {
            match self.listener.accept() {
                Ok((mut stream, _)) => {
                    self.is_short = false;
                    // It fails only if the peer has gone, which the session will see.
                    let _ = stream.set_nodelay(true);
                    let place = sessions.vacant_entry();
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    if registry.register(&mut stream, Token(place.key()), interest).is_ok() {
                        place.insert(Session::new(stream));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.has_callers = false;
                    return;
                }
                // Of one connection, which has gone.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(error) => {
                    if !std::mem::replace(&mut self.is_short, true) {
                        eprintln!("event_server: cannot accept: {error}; connections wait");
                    }
                    self.rest_until = Some(Instant::now() + REST);
                    return;
                }
            }
        }
    }
}

/// What a session waits for after its turn.
enum Next {
    /// Its next turn: there may be more to read.
    Turn,
    /// A change that the kernel tells.
    Event,
    /// It is over.
    Nothing,
}

/// A connection. It does one thing at a time: as long as it owes bytes it writes them, else it reads more. That is
/// backpressure: who does not read is not read from.
struct Session {
    stream: TcpStream,
    /// Turned bytes: those before `sent` are sent, those before `owed` are to be sent, the rest begins a line.
    buffer: Vec<u8>,
    sent: usize,
    owed: usize,
    phase: Phase,
    /// What the kernel has told of the socket, and no call has refuted: there may be bytes; the peer has sent its last.
    is_readable: bool,
    has_ended: bool,
    is_queued: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Open,
    /// The peer's bytes have ended: send what is owed, then close.
    Ended,
    /// We end it: send what is owed, then FIN.
    Closing,
    /// FIN is sent. What still comes is read and dropped, until the peer closes too: unread bytes at a close are answered
    /// with a reset, which destroys what is on its way to the peer.
    Lingering,
}

impl Session {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            sent: 0,
            owed: 0,
            phase: Phase::Open,
            is_readable: false,
            has_ended: false,
            is_queued: false,
        }
    }

    fn owes(&self) -> bool {
        self.sent < self.owed
    }

    /// That it is writable needs no note: whoever owes bytes tries.
    fn note(&mut self, event: &Event) {
        self.is_readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.has_ended |= event.is_read_closed() || event.is_error();
    }

    /// One read at most, and what it asks for.
    fn turn(&mut self, scratch: &mut [u8]) -> io::Result<Next> {
        if self.flush()? && self.is_readable && self.phase != Phase::Ended {
            self.read(scratch)?;
            self.flush()?;
        }
        Ok(match self.phase {
            _ if self.owes() => Next::Event,
            Phase::Ended => Next::Nothing,
            _ if self.is_readable => Next::Turn,
            _ => Next::Event,
        })
    }

    fn read(&mut self, scratch: &mut [u8]) -> io::Result<()> {
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
        if count == 0 {
            // A tail is answered, too.
            self.owed = self.buffer.len();
            self.phase = Phase::Ended;
        } else if self.phase == Phase::Open {
            let piece = &mut scratch[..count];
            rot13(piece);
            let newline = piece.iter().rposition(|byte| *byte == b'\n');
            // How much it is was the peer's decision, so it may fail.
            self.buffer.try_reserve(count)?;
            self.owed = newline.map_or(0, |at| self.buffer.len() + at + 1);
            self.buffer.extend_from_slice(piece);
            if self.buffer.len() - self.owed > MAX_LINE {
                self.owed = self.buffer.len();
            }
        }
        Ok(())
    }

    /// True when nothing is owed any more.
    fn flush(&mut self) -> io::Result<bool> {
        while self.owes() {
            match self.stream.write(&self.buffer[self.sent..self.owed]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.buffer.drain(..self.sent);
        (self.sent, self.owed) = (0, 0);
        if self.buffer.is_empty() {
            // An idle session has no buffer.
            self.buffer = Vec::new();
        }
        if self.phase == Phase::Closing {
            self.stream.shutdown(Shutdown::Write)?;
            self.phase = Phase::Lingering;
        }
        Ok(true)
    }

    /// Ends it politely: what was read is answered, the beginning of a line is dropped.
    fn close(&mut self) -> io::Result<bool> {
        if self.phase == Phase::Open {
            self.buffer.truncate(self.owed);
            self.phase = Phase::Closing;
        }
        self.flush()?;
        Ok(self.phase != Phase::Ended || self.owes())
    }
}
