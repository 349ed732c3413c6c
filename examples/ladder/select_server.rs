//! Rung 4, readiness: the kernel says who has something to say, and the program asks only them.
//!
//! `cargo run --release --example select_server`, then `nc 127.0.0.1 40713`.
//!
//! It teaches to wait for many sockets in one call, and to wait for the right thing: a session that owes bytes waits until
//! it can write, any other until it can read. That is backpressure: who does not read is not read from.
//! It costs a list of all sockets, written by us, read and answered by the kernel, and read again by us, for every turn
//! of the loop. So a line from one peer costs more the more others there are, who say nothing.
//! What breaks it is the size of that list: `FD_SETSIZE`, 1024 here, is compiled into the C library, and a descriptor
//! beyond has no place in it. Whoever would get one of the last 32 is told so and closed politely.
//!
//! Promises: exact, in order, half-close, bounded and polite close as `rot13d`. SIGTERM and SIGINT drain: nobody new is
//! accepted, what was read is answered, and each peer has five seconds to take it and close. Signals arrive through a
//! pipe, because `select` has to see them too: between a look at a flag and the call there is room for a signal.
//! Not here: deadlines; a peer that neither speaks nor leaves keeps its place, and here places are few.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    process::ExitCode,
    time::{Duration, Instant},
};

use actix_lines::rot13;
use clap::Parser;
use nix::{
    errno::Errno,
    sys::{
        select::{FD_SETSIZE, FdSet, select},
        time::{TimeVal, TimeValLike},
    },
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    low_level::pipe,
};

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
/// The last descriptors that fit a set are for telling peers that no others do: to do that politely takes waiting, too.
const REFUSALS: usize = 32;
const REFUSAL: &[u8] = b"too many connections, try again later\n";
/// How long such a peer may take to read that and to close.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// A ROT13 line server: readiness by `select`.
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
            eprintln!("select_server: cannot serve {listen}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(listen: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let (signals, writer) = UnixStream::pair()?;
    pipe::register(SIGTERM, writer.try_clone()?)?;
    pipe::register(SIGINT, writer)?;
    // Only a program started with many descriptors open gets there.
    if [listener.as_raw_fd(), signals.as_raw_fd()].iter().any(|fd| *fd as usize >= FD_SETSIZE) {
        return Err(io::Error::other("select has no place for its descriptors: start it with fewer open ones"));
    }
    eprintln!("listening on {}", listener.local_addr()?);
    let mut acceptor = Some(Acceptor { listener, rest_until: None, is_short: false });
    let mut sessions: Vec<Session> = Vec::new();
    let mut scratch = vec![0; READ];
    while acceptor.is_some() || !sessions.is_empty() {
        // The whole world, written down anew for each turn.
        let (mut readable, mut writable) = (FdSet::new(), FdSet::new());
        let mut highest = 0;
        for session in &sessions {
            let set = if session.owes() { &mut writable } else { &mut readable };
            set.insert(session.stream.as_fd());
            highest = highest.max(session.stream.as_raw_fd());
        }
        let mut next = sessions.iter().filter_map(|session| session.deadline).min();
        if let Some(acceptor) = &acceptor {
            readable.insert(signals.as_fd());
            highest = highest.max(signals.as_raw_fd());
            let refused = sessions.iter().filter(|session| session.deadline.is_some()).count();
            if let Some(rest) = acceptor.rest_until.filter(|rest| Instant::now() < *rest) {
                next = Some(next.map_or(rest, |next| next.min(rest)));
            } else if refused < REFUSALS {
                readable.insert(acceptor.listener.as_fd());
                highest = highest.max(acceptor.listener.as_raw_fd());
            }
        }
        // Rounded up, or the loop would spin for the rest of a millisecond.
        let wait = |next: Instant| next.saturating_duration_since(Instant::now()).as_millis() as i64 + 1;
        let mut timeout = next.map(|next| TimeVal::milliseconds(wait(next)));
        match select(highest + 1, &mut readable, &mut writable, None, timeout.as_mut()) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        // Then read again, from end to end. Each socket was in one of the sets.
        let is_ready = |socket| readable.contains(socket) || writable.contains(socket);
        let ready: Vec<bool> = sessions.iter().map(|session| is_ready(session.stream.as_fd())).collect();
        let is_called = acceptor.as_ref().is_some_and(|acceptor| is_ready(acceptor.listener.as_fd()));
        let is_told_to_end = is_ready(signals.as_fd());
        let mut ready = ready.into_iter();
        let now = Instant::now();
        sessions.retain_mut(|session| {
            let is_ready = ready.next().unwrap_or(false);
            // An error is the end of its own session only.
            session.deadline.is_none_or(|end| now < end) && (!is_ready || session.turn(&mut scratch).unwrap_or(false))
        });
        if is_told_to_end {
            acceptor = None;
            sessions.retain_mut(|session| session.close(now + DRAIN).unwrap_or(false));
        } else if let Some(acceptor) = acceptor.as_mut().filter(|_| is_called) {
            acceptor.accept(&mut sessions);
        }
    }
    Ok(())
}

struct Acceptor {
    listener: TcpListener,
    /// There was no descriptor to be had. The listener stays readable, so to look at it would be to spin.
    rest_until: Option<Instant>,
    is_short: bool,
}

impl Acceptor {
    fn accept(&mut self, sessions: &mut Vec<Session>) {
        for _ in 0..ACCEPTS {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Of one connection, which has gone.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => continue,
                Err(error) => {
                    if !std::mem::replace(&mut self.is_short, true) {
                        eprintln!("select_server: cannot accept: {error}; connections wait");
                    }
                    self.rest_until = Some(Instant::now() + REST);
                    return;
                }
            };
            self.is_short = false;
            // The kernel gives the lowest descriptor that is free, so one of the last means that the others are taken.
            let place = stream.as_raw_fd() as usize;
            // Beyond the last there is no way to wait, not even for the end of a refusal.
            if place >= FD_SETSIZE || stream.set_nonblocking(true).is_err() || sessions.try_reserve(1).is_err() {
                continue;
            }
            // It fails only if the peer has gone, which the session will see.
            let _ = stream.set_nodelay(true);
            let mut session = Session::new(stream);
            if place < FD_SETSIZE - REFUSALS {
                sessions.push(session);
                continue;
            }
            session.buffer.extend_from_slice(REFUSAL);
            session.owed = REFUSAL.len();
            if session.close(Instant::now() + REFUSAL_TIME).unwrap_or(false) {
                sessions.push(session);
            }
            // The caller has to see whether there is room for another refusal.
            return;
        }
    }
}

/// A connection. It waits for one thing at a time: as long as it owes bytes, to write them; else, to read more.
struct Session {
    stream: TcpStream,
    /// Turned bytes: those before `sent` are sent, those before `owed` are to be sent, the rest begins a line.
    buffer: Vec<u8>,
    sent: usize,
    owed: usize,
    phase: Phase,
    /// When it is closed whatever it waits for; set once it is we who want to end it.
    deadline: Option<Instant>,
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
        Self { stream, buffer: Vec::new(), sent: 0, owed: 0, phase: Phase::Open, deadline: None }
    }

    fn owes(&self) -> bool {
        self.sent < self.owed
    }

    /// One read at most, and what it asks for. False when nothing is left to do.
    fn turn(&mut self, scratch: &mut [u8]) -> io::Result<bool> {
        if self.flush()? && self.phase != Phase::Ended {
            self.read(scratch)?;
            self.flush()?;
        }
        Ok(self.phase != Phase::Ended || self.owes())
    }

    fn read(&mut self, scratch: &mut [u8]) -> io::Result<()> {
        let count = match self.stream.read(scratch) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            read => read?,
        };
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
    fn close(&mut self, deadline: Instant) -> io::Result<bool> {
        self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        if self.phase == Phase::Open {
            self.buffer.truncate(self.owed);
            self.phase = Phase::Closing;
        }
        self.flush()?;
        Ok(self.phase != Phase::Ended || self.owes())
    }
}
