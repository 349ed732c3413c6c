//! Rung 3, non-blocking sockets and a loop that asks each of them, without end: the naive one.
//!
//! `cargo run --release --example busy_poll_server`, then `nc 127.0.0.1 40713` and look at `top`.
//!
//! It teaches what a non-blocking call is: it says "not now" instead of waiting, so one thread can look after many
//! conversations. What state a conversation is in, which the process of the last rung kept in where it stood, is now a
//! struct.
//! It costs a whole core, always: with no peer at all it asks the listener some millions of times a second whether one has
//! come. And each turn of the loop is a system call for each connection, so a line costs more the more peers are idle.
//! What breaks it is the electricity bill, and a battery, and whatever else wants that core; long before the number of
//! peers, of which it holds as many as there are descriptors.
//!
//! Promises: exact, in order, half-close, bounded and polite close as `rot13d`. SIGTERM and SIGINT drain: nobody new is
//! accepted, what was read is answered, and each peer has five seconds to take it and close. The loop looks at a flag: here
//! alone that is enough, because it never sleeps. It never sleeps without descriptors either: asked in vain it
//! asks again, like all the others that it asks in vain.
//! Not here: deadlines; a peer that neither speaks nor leaves keeps its place.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use actix_lines::rot13;
use clap::Parser;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

/// Bytes of one read. A session gets one a turn, so that a fast peer cannot keep the others waiting.
const READ: usize = 64 << 10;
/// A longer line is answered in pieces, so that no line costs more memory than this.
const MAX_LINE: usize = 16 << 10;
/// Connections accepted in one turn.
const ACCEPTS: usize = 64;
/// How long peers may take to read what they are owed and to close, once the server ends.
const DRAIN: Duration = Duration::from_secs(5);
/// A ROT13 line server: a loop that never waits.
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
            eprintln!("busy_poll_server: cannot serve {listen}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(listen: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let is_told_to_end = Arc::new(AtomicBool::new(false));
    flag::register(SIGTERM, Arc::clone(&is_told_to_end))?;
    flag::register(SIGINT, Arc::clone(&is_told_to_end))?;
    eprintln!("listening on {}", listener.local_addr()?);
    let mut sessions: Vec<Session> = Vec::new();
    let mut scratch = vec![0; READ];
    let mut is_short = false;
    while !is_told_to_end.load(Relaxed) {
        is_short = accept(&listener, &mut sessions, is_short);
        // Each is asked, whether it has anything to say or not. An error is the end of its own session only.
        sessions.retain_mut(|session| session.turn(&mut scratch).unwrap_or(false));
    }
    drop(listener);
    let end = Instant::now() + DRAIN;
    sessions.retain_mut(|session| session.close().unwrap_or(false));
    while !sessions.is_empty() && Instant::now() < end {
        sessions.retain_mut(|session| session.turn(&mut scratch).unwrap_or(false));
    }
    Ok(())
}

/// Says when there is no descriptor to be had, once each time that it begins; returns whether it is so.
fn accept(listener: &TcpListener, sessions: &mut Vec<Session>, mut is_short: bool) -> bool {
    for _ in 0..ACCEPTS {
        match listener.accept() {
            Ok((stream, _)) => {
                is_short = false;
                if stream.set_nonblocking(true).is_ok() && sessions.try_reserve(1).is_ok() {
                    // It fails only if the peer has gone, which the session will see.
                    let _ = stream.set_nodelay(true);
                    sessions.push(Session::new(stream));
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            // Of one connection, which has gone.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
            Err(error) => {
                if !std::mem::replace(&mut is_short, true) {
                    eprintln!("busy_poll_server: cannot accept: {error}; connections wait");
                }
                break;
            }
        }
    }
    is_short
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
        Self { stream, buffer: Vec::new(), sent: 0, owed: 0, phase: Phase::Open }
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
    fn close(&mut self) -> io::Result<bool> {
        if self.phase == Phase::Open {
            self.buffer.truncate(self.owed);
            self.phase = Phase::Closing;
        }
        self.flush()?;
        Ok(self.phase != Phase::Ended || self.owes())
    }
}
