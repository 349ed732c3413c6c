//! Rung 2, a process for each connection: every conversation blocks as it likes, in a program of its own.
//!
//! `cargo run --release --example fork_server`, then `nc 127.0.0.1 40713`.
//!
//! It teaches that waiting for many peers can be left to the scheduler. The session is a filter: it reads its standard
//! input, writes its standard output, and does not know what a socket is. As under inetd, the server forks and executes
//! itself with the connection in their place; plain `fork` has no safe form (see `docs/decisions/ladder.md`).
//! It costs a process for each connection, busy or idle: its memory, its start, and a switch of processes for each line.
//! What breaks it is the number of peers. A thousand idle ones are a thousand processes, and who connects without end is a
//! fork bomb that only the system's limit on processes stops. Then the connection in hand waits until there is room, and
//! those behind it in the backlog.
//!
//! Promises: exact, in order, half-close and slow readers as `rot13d`; a peer that does not read blocks its own process.
//! It never closes first, so there is no polite close to keep. SIGTERM and SIGINT end the server at once and leave the
//! sessions to end with their peers, as sshd's do: each is a program of its own. Nobody is told, nobody is cut short.
//! Not here: limits, deadlines.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use actix_lines::rot13;
use clap::Parser;
use nix::sys::wait::{Id, WaitPidFlag, waitid};

/// Bytes of one read.
const READ: usize = 64 << 10;
/// A longer line is answered in pieces, so that no line costs more memory than this.
const MAX_LINE: usize = 16 << 10;
/// How long nothing is tried after there was no process or no descriptor to be had.
const REST: Duration = Duration::from_millis(100);

/// A ROT13 line server: a process for each connection.
#[derive(Parser)]
struct Arguments {
    /// Where to listen; port 0 is a free one.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:40713")]
    listen: SocketAddr,
    /// Be a session: answer standard input on standard output.
    #[arg(long, hide = true)]
    session: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = if arguments.session { session() } else { serve(arguments.listen) };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        // A peer that went away is nobody's fault.
        Err(_) if arguments.session => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fork_server: cannot serve {}: {error}", arguments.listen);
            ExitCode::FAILURE
        }
    }
}

/// One conversation, from the first byte to the last.
fn session() -> io::Result<()> {
    // Not `io::stdin` themselves: their buffers would hold back what they should pass on.
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut piece = vec![0; READ];
    // Turned bytes that no newline has followed yet.
    let mut line = Vec::with_capacity(MAX_LINE + READ);
    loop {
        let count = match input.read(&mut piece) {
            Ok(0) => return output.write_all(&line),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        rot13(&mut piece[..count]);
        line.extend_from_slice(&piece[..count]);
        let whole = line.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole = if line.len() - whole > MAX_LINE { line.len() } else { whole };
        // Blocks while the peer does not read, and so reads no more from it.
        output.write_all(&line[..whole])?;
        line.drain(..whole);
    }
}

fn serve(listen: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    eprintln!("listening on {}", listener.local_addr()?);
    let program = std::env::current_exe()?;
    let sessions = Arc::new(Sessions::default());
    let reaped = Arc::clone(&sessions);
    thread::Builder::new().spawn(move || reaped.reap())?;
    let mut is_short = false;
    // What cannot be had now may be had later; said once each time that it begins.
    let rest = |is_short: &mut bool, what: &str, error: io::Error| {
        if !std::mem::replace(is_short, true) {
            eprintln!("fork_server: {what}: {error}; connections wait");
        }
        thread::sleep(REST);
    };
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => continue,
            Err(error) => {
                rest(&mut is_short, "cannot accept", error);
                continue;
            }
        };
        while let Err(error) = start(&program, &stream, &sessions) {
            rest(&mut is_short, "cannot start a session", error);
        }
        is_short = false;
    }
}

/// Hands a connection to a process of its own. The server's copy of the descriptor is closed by whoever dropped `stream`,
/// or the peer would never see an EOF.
fn start(program: &Path, stream: &TcpStream, sessions: &Sessions) -> io::Result<()> {
    // It fails only if the peer has gone, which the session will see.
    let _ = stream.set_nodelay(true);
    let mut command = Command::new(program);
    command
        .arg("--session")
        .stdin(Stdio::from(OwnedFd::from(stream.try_clone()?)))
        .stdout(Stdio::from(OwnedFd::from(stream.try_clone()?)))
        // An interrupt typed at the server is not meant for the sessions.
        .process_group(0);
    sessions.insert(|| command.spawn())
}

/// The processes that live, and those that have ended and wait to be asked how: zombies, until they are.
#[derive(Default)]
struct Sessions {
    children: Mutex<HashMap<u32, Child>>,
    changed: Condvar,
}

impl Sessions {
    /// Nobody is reaped meanwhile: a child that ends at once has to be found in the map.
    fn insert(&self, spawn: impl FnOnce() -> io::Result<Child>) -> io::Result<()> {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        let child = spawn()?;
        children.insert(child.id(), child);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for each session that ends. Which one it was has to be asked without reaping it: a process that failed to
    /// start is std's to reap.
    fn reap(&self) {
        loop {
            let children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self.changed.wait_while(children, |children| children.is_empty());
            drop(waited.unwrap_or_else(PoisonError::into_inner));
            let Ok(status) = waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) else { continue };
            let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
            // The process has ended, so this does not block.
            let ended = status.pid().and_then(|pid| children.remove(&pid.as_raw().cast_unsigned()));
            let _ = ended.map(|mut child| child.wait());
        }
    }
}
