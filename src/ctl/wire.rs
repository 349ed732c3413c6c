//! Wire: a connection to the console. Commands go out as lines; an answer is lines up to an empty one.
//!
//! Rule: whoever waits for a line is told of all else that happens meanwhile: a signal, a key, a reader that is gone.
//! Not here: where the console is (`place`), what its lines say (`record`).

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use signal_hook::{
    consts::{SIGINT, SIGTERM, SIGWINCH},
    flag,
    low_level::pipe,
};

use crate::reason::reason;

/// The longest line that is taken: far more than any answer has.
const LONGEST_LINE: usize = 1 << 24;

/// Bytes read at once.
const CHUNK: usize = 1 << 16;

/// Why there is no further line.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("the console closed the connection")]
    Closed,
    #[error("the console does not end its answer")]
    Silent,
    #[error("a line of its answer is longer than {LONGEST_LINE} bytes: is that a console of rot13d?")]
    TooLong,
    #[error("the connection to the console is lost: {}", reason(.0))]
    Failed(#[source] io::Error),
}

/// What happens while a line is awaited.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A line, without its end.
    Line(String),
    /// The empty line that ends an answer.
    End,
    /// Nothing, for as long as was asked.
    Quiet,
    Signal(Signal),
    /// The terminal has something to read.
    Key,
    /// Nobody reads standard output any more.
    NoReader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Interrupt,
    Terminate,
    Resize,
}

/// Signals that are told instead of what they do otherwise.
#[derive(Debug)]
pub(super) struct Signals {
    wake: UnixStream,
    flags: Vec<(Signal, Arc<AtomicBool>)>,
}

impl Signals {
    pub(super) fn new(signals: &[Signal]) -> io::Result<Self> {
        let (wake, writer) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let mut flags = Vec::new();
        for signal in signals {
            let number = match signal {
                Signal::Interrupt => SIGINT,
                Signal::Terminate => SIGTERM,
                Signal::Resize => SIGWINCH,
            };
            let flag = Arc::new(AtomicBool::new(false));
            // Set before the wake-up, or that would be for nothing.
            flag::register(number, flag.clone())?;
            pipe::register(number, writer.try_clone()?)?;
            flags.push((*signal, flag));
        }
        Ok(Self { wake, flags })
    }

    /// Returns a signal that came and was not told yet.
    pub(super) fn take(&self) -> Option<Signal> {
        self.flags.iter().find(|(_, flag)| flag.swap(false, Ordering::SeqCst)).map(|(signal, _)| *signal)
    }

    fn clear_wake(&self) {
        let mut bytes = [0; 64];
        while matches!((&self.wake).read(&mut bytes), Ok(1..)) {}
    }
}

/// What is awaited besides a line.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waits<'a> {
    pub(super) signals: Option<&'a Signals>,
    /// Also standard input.
    pub(super) keys: bool,
    /// `None` is for ever.
    pub(super) timeout: Option<Duration>,
}

/// A connection to the console.
#[derive(Debug)]
pub(super) struct Wire {
    socket: File,
    input: Vec<u8>,
    /// Bytes of `input` that were told already.
    told: usize,
    /// Bytes of `input` that have no end of a line.
    searched: usize,
}

impl Wire {
    pub(super) fn new(socket: File) -> Self {
        Self { socket, input: Vec::new(), told: 0, searched: 0 }
    }

    /// Sends a line. An empty one ends what goes on and on.
    pub(super) fn send(&mut self, line: &str) -> Result<(), Lost> {
        let mut bytes = Vec::with_capacity(line.len() + 1);
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
        self.socket.write_all(&bytes).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Lost::Closed,
            _ => Lost::Failed(error),
        })
    }

    /// Waits for the next line of an answer, or for something else.
    pub(super) fn next(&mut self, waits: Waits<'_>) -> Result<Event, Lost> {
        let deadline = waits.timeout.map(|timeout| Instant::now() + timeout);
        loop {
            if let Some(signal) = waits.signals.and_then(Signals::take) {
                return Ok(Event::Signal(signal));
            }
            if let Some(line) = self.line()? {
                return Ok(if line.is_empty() { Event::End } else { Event::Line(line) });
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if let Some(event) = self.wait(waits, left)? {
                return Ok(event);
            }
        }
    }

    /// Returns true if the console has closed the connection. For use between answers.
    pub(super) fn is_closed(&mut self) -> bool {
        let nothing = Waits { timeout: Some(Duration::ZERO), ..Waits::default() };
        loop {
            match self.next(nothing) {
                Ok(Event::Line(_) | Event::End) => {}
                Ok(_) => return false,
                Err(_) => return true,
            }
        }
    }

    fn line(&mut self) -> Result<Option<String>, Lost> {
        let Some(end) = newline(&self.input[self.searched..]) else {
            self.searched = self.input.len();
            return if self.searched - self.told > LONGEST_LINE { Err(Lost::TooLong) } else { Ok(None) };
        };
        let line = &self.input[self.told..self.searched + end];
        let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned();
        self.told = self.searched + end + 1;
        self.searched = self.told;
        Ok(Some(line))
    }

    /// Waits for anything; what was read from the console is in the buffer when it returns `None`.
    fn wait(&mut self, waits: Waits<'_>, left: Option<Duration>) -> Result<Option<Event>, Lost> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        let mut fds = vec![PollFd::new(&self.socket, PollFlags::IN)];
        // Without wishes: an error is told nevertheless, as when the reader of a pipe is gone.
        fds.push(PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::empty()));
        if let Some(signals) = waits.signals {
            fds.push(PollFd::from_borrowed_fd(signals.wake.as_fd(), PollFlags::IN));
        }
        if waits.keys {
            fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        }
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => return Ok(Some(Event::Quiet)),
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(None),
            Err(error) => return Err(Lost::Failed(error.into())),
        }
        let happened: Vec<_> = fds.iter().map(PollFd::revents).collect();
        if let Some(signals) = waits.signals {
            signals.clear_wake();
        }
        if waits.keys && happened.last().is_some_and(|happened| !happened.is_empty()) {
            return Ok(Some(Event::Key));
        }
        if happened[0].is_empty() {
            // A terminal that hangs up is told by reading from it, or by SIGHUP.
            return Ok(happened[1].contains(PollFlags::ERR).then_some(Event::NoReader));
        }
        self.read().map(|()| None)
    }

    fn read(&mut self) -> Result<(), Lost> {
        self.input.drain(..self.told);
        self.searched -= self.told;
        self.told = 0;
        let before = self.input.len();
        self.input.resize(before + CHUNK, 0);
        let read = self.socket.read(&mut self.input[before..]);
        self.input.truncate(before + read.as_ref().map_or(0, |read| *read));
        match read {
            Ok(0) => Err(Lost::Closed),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(Lost::Closed),
            Err(error) => Err(Lost::Failed(error)),
        }
    }
}

fn newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    fn wire() -> (Wire, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Wire::new(File::from(OwnedFd::from(ours))), theirs)
    }

    fn next(wire: &mut Wire) -> Result<Event, Lost> {
        wire.next(Waits { timeout: Some(Duration::ZERO), ..Waits::default() })
    }

    #[test]
    fn a_line_is_the_same_however_it_comes() {
        let (mut wire, mut console) = wire();
        let mut events = Vec::new();
        for byte in b"{\"id\":1}\r\n\xff\n\r\n" {
            console.write_all(&[*byte]).unwrap();
            match next(&mut wire).unwrap() {
                Event::Quiet => {}
                event => events.push(event),
            }
        }
        let lines = [Event::Line("{\"id\":1}".to_owned()), Event::Line("\u{fffd}".to_owned()), Event::End];
        assert_eq!(events, lines);
    }

    #[test]
    fn lines_are_told_one_by_one_and_then_that_nobody_is_there() {
        let (mut wire, mut console) = wire();
        console.write_all(b"{\"id\":1}\r\ntwo\n\nunfinished").unwrap();
        assert_eq!(next(&mut wire).unwrap(), Event::Line("{\"id\":1}".to_owned()));
        assert_eq!(next(&mut wire).unwrap(), Event::Line("two".to_owned()));
        assert_eq!(next(&mut wire).unwrap(), Event::End);
        assert_eq!(next(&mut wire).unwrap(), Event::Quiet);
        assert!(!wire.is_closed());
        drop(console);
        assert!(matches!(next(&mut wire), Err(Lost::Closed)));
        assert!(wire.is_closed());
    }
}
