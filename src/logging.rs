//! Logging: records are queued, and a thread of its own writes them to standard error.
//!
//! Rule: logging never waits for the reader of the log. Lines that do not fit the queue are left out and counted, and the
//! count stands in their place. The thread ends when nothing has been logged for a while: in a process of one
//! thread each system call on a descriptor is cheaper.
//! Not here: the messages (each module has its own), the level as typed (`args`).

use std::{
    collections::VecDeque,
    env,
    io::{self, Write},
    panic::PanicHookInfo,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use actix_lines::Escaped;
use anstream::{AutoStream, ColorChoice};
use env_logger::{Target, WriteStyle, fmt::Formatter};
use log::{LevelFilter, Record};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

/// Most bytes of log that wait for the reader. At 100 bytes a line it is some 10,000 lines.
const QUEUE_BYTES: usize = 1 << 20;
/// Bytes written at once: as many as a pipe takes undivided (PIPE_BUF), for others may write to it as well.
const WRITE_BYTES: usize = 4096;
/// Time that the thread stays for the next line.
const REST: Duration = Duration::from_secs(1);
/// Time that the end of the process waits for a reader that takes nothing, and for one that takes little.
const FLUSH_STALL: Duration = Duration::from_secs(1);
const FLUSH_TIME: Duration = Duration::from_secs(5);
/// Panics logged within a time: each may be caused by a peer.
const MOST_PANICS: u32 = 5;
const PANICS_WITHIN: Duration = Duration::from_secs(10);

/// The log of the process. When dropped it is written to its end, if somebody reads it.
pub(crate) struct Log(Arc<Queue>);

impl Log {
    /// Starts it, for `level` and above; `None` leaves that to `RUST_LOG`. Panics are logged from here on.
    ///
    /// # Errors
    /// Without a thread for it.
    pub(crate) fn start(level: Option<LevelFilter>) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        queue.state().has_writer = true;
        queue.start_writer()?;
        let mut log = env_logger::Builder::new();
        log.filter_level(LevelFilter::Info);
        match level {
            Some(level) => log.filter_level(level),
            None => log.parse_default_env(),
        };
        log.target(Target::Pipe(Box::new(Enqueue(Arc::clone(&queue)))))
            .write_style(style())
            .format(write_record)
            .init();
        std::panic::set_hook(Box::new(log_panic));
        Ok(Self(queue))
    }

    /// Writes a line at any level, however full the queue is.
    pub(crate) fn print(&self, line: &str) {
        self.0.add(format!("{line}\n").as_bytes(), usize::MAX);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// Colours where standard error shows them: env_logger does not look, since it writes to a queue.
fn style() -> WriteStyle {
    match env::var("RUST_LOG_STYLE").as_deref() {
        Ok("always") => WriteStyle::Always,
        Ok("never") => WriteStyle::Never,
        _ => match AutoStream::choice(&io::stderr()) {
            ColorChoice::Always | ColorChoice::AlwaysAnsi => WriteStyle::Always,
            ColorChoice::Auto | ColorChoice::Never => WriteStyle::Never,
        },
    }
}

/// Writes a record as env_logger does by itself, which would bring a library of time zones for the stamp.
fn write_record(line: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    let (level, target) = (record.level(), record.target());
    let style = line.default_level_style(level);
    write!(line, "[{now} {style}{level:<5}{style:#} {target}] ")?;
    // A text of several lines is indented, so that no line of it passes for a record.
    let text = record.args().to_string();
    writeln!(line, "{}", text.replace('\n', "\n    "))
}

/// Panics that are logged: the first few of a flood tell what is wrong.
#[derive(Default)]
struct Panics {
    since: Option<Instant>,
    logged: u32,
    left_out: u64,
}

static PANICS: Mutex<Panics> = Mutex::new(Panics { since: None, logged: 0, left_out: 0 });

impl Panics {
    /// Counts a panic. If it is to be logged, returns how many before it were not.
    fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now - since >= PANICS_WITHIN) {
            (self.since, self.logged) = (Some(now), 0);
        }
        if self.logged == MOST_PANICS {
            self.left_out += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// A panic is one line, as everything else; the session it ended is named by the line that follows.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let text = Escaped::new(text.unwrap_or("a value that is no text"));
    let others = match PANICS.lock().unwrap_or_else(PoisonError::into_inner).pass(Instant::now()) {
        None => return,
        Some(0) => String::new(),
        Some(others) => format!(" (and {others} more since the last message like this)"),
    };
    match panic.location() {
        Some(location) => log::error!("panicked at {location}: {text}{others}"),
        None => log::error!("panicked: {text}{others}"),
    }
}

/// Whole lines, on their way to standard error.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    written: Condvar,
}

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    /// Lines that did not fit, behind those that wait.
    left_out: u64,
    /// Times that standard error took something.
    writes: u64,
    /// Somebody has bytes that standard error has not taken yet.
    is_writing: bool,
    /// There is a thread that writes, or is about to be one.
    has_writer: bool,
    /// It has to be woken, which costs a system call.
    is_idle: bool,
}

impl State {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.left_out == 0
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line, unless more than `most` bytes would wait.
    fn add(self: &Arc<Self>, line: &[u8], most: usize) {
        let mut state = self.state();
        // Once a line is missing all are, until it has been said where.
        if most != usize::MAX && (state.left_out > 0 || state.bytes.len() + line.len() > most) {
            state.left_out += 1;
        } else {
            state.bytes.extend(line);
        }
        if std::mem::take(&mut state.is_idle) {
            self.filled.notify_one();
        }
        self.have_written(state);
    }

    /// Sees to it that what waits is written.
    fn have_written(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if std::mem::replace(&mut state.has_writer, true) {
            return;
        }
        drop(state);
        if self.start_writer().is_err() {
            // There was one at the start. The next line tries again; until then, as much as is taken at once.
            while is_ready(&io::stderr()) && self.write_some(self.state()) {}
        }
    }

    /// Starts the thread that is about to be.
    fn start_writer(self: &Arc<Self>) -> io::Result<()> {
        let writer = Arc::clone(self);
        let started = thread::Builder::new().name("rot13d|log".to_owned()).spawn(move || writer.write_out());
        started.map(drop).inspect_err(|_| self.state().has_writer = false)
    }

    /// Takes lines from the queue, as many as are written at once. What was left out is said behind those that waited.
    fn take(state: &mut State, lines: &mut Vec<u8>) {
        let waiting = state.bytes.len().min(WRITE_BYTES);
        lines.clear();
        lines.extend(state.bytes.range(..waiting));
        if let Some(end) = lines.iter().rposition(|byte| *byte == b'\n') {
            lines.truncate(end + 1);
        }
        state.bytes.drain(..lines.len());
        if state.left_out > 0 {
            let count = std::mem::take(&mut state.left_out);
            let now = humantime::format_rfc3339_seconds(SystemTime::now());
            let note = format!("[{now} WARN  rot13d] {count} lines of the log were left out: nobody read it\n");
            state.bytes.extend(note.as_bytes());
        }
    }

    /// Writes to standard error what is added, until nothing has been for a while.
    fn write_out(&self) {
        loop {
            let mut state = self.state();
            if state.is_empty() || state.is_writing {
                state.is_idle = true;
                let waited = self.filled.wait_timeout(state, REST).unwrap_or_else(PoisonError::into_inner);
                state = waited.0;
                state.is_idle = false;
                if waited.1.timed_out() && state.is_empty() {
                    state.has_writer = false;
                    return;
                }
            }
            self.write_some(state);
        }
    }

    /// Writes what is written at once; false if there is nothing, or somebody else writes.
    fn write_some(&self, mut state: MutexGuard<'_, State>) -> bool {
        if state.is_empty() || state.is_writing {
            return false;
        }
        let mut lines = Vec::new();
        Self::take(&mut state, &mut lines);
        state.is_writing = true;
        drop(state);
        write_to_stderr(&lines);
        let mut state = self.state();
        state.is_writing = false;
        state.writes += 1;
        drop(state);
        self.written.notify_all();
        true
    }

    /// Waits until all is written, or the reader takes nothing for too long.
    fn flush(self: &Arc<Self>) {
        let end = Instant::now() + FLUSH_TIME;
        if !self.state().is_empty() {
            self.have_written(self.state());
        }
        let mut state = self.state();
        while !state.is_empty() || state.is_writing {
            let before = state.writes;
            let left = end.saturating_duration_since(Instant::now()).min(FLUSH_STALL);
            let waited = self.written.wait_timeout_while(state, left, |state| state.writes == before);
            let (now, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() {
                return;
            }
            state = now;
        }
    }
}

/// True if a pipe takes as much as is written at once.
fn is_ready(stderr: &io::Stderr) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(stderr, PollFlags::OUT)], Some(&now)) == Ok(1)
}

/// Writes without std's lock, which others would wait for.
fn write_to_stderr(mut lines: &[u8]) {
    let stderr = io::stderr();
    while !lines.is_empty() {
        match rustix::io::write(&stderr, lines) {
            Ok(count) => lines = &lines[count..],
            Err(Errno::INTR) => {}
            // Inherited as non-blocking.
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None)),
            // There is nowhere to report it.
            Err(_) => return,
        }
    }
}

/// The way from env_logger to the queue; each record comes whole.
struct Enqueue(Arc<Queue>);

impl Write for Enqueue {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        self.0.add(record, QUEUE_BYTES);
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue that only the test takes from.
    fn queue() -> Arc<Queue> {
        let queue = Arc::new(Queue::default());
        queue.state().has_writer = true;
        queue
    }

    fn taken(queue: &Queue) -> String {
        let mut lines = Vec::new();
        Queue::take(&mut queue.state(), &mut lines);
        String::from_utf8(lines).unwrap()
    }

    #[test]
    fn whole_lines_are_written_at_once() {
        let queue = queue();
        let line = format!("{}\n", "x".repeat(99));
        for _ in 0..100 {
            queue.add(line.as_bytes(), QUEUE_BYTES);
        }
        assert_eq!(taken(&queue), line.repeat(40));
        assert_eq!(taken(&queue), line.repeat(40));
        assert_eq!(taken(&queue), line.repeat(20));
        // One that is longer than that is cut, for it cannot be written undivided anyway.
        queue.add(format!("{}\n", "y".repeat(5000)).as_bytes(), QUEUE_BYTES);
        assert_eq!(taken(&queue), "y".repeat(WRITE_BYTES));
        assert_eq!(taken(&queue), format!("{}\n", "y".repeat(5000 - WRITE_BYTES)));
        assert!(queue.state().is_empty());
    }

    #[test]
    fn what_does_not_fit_is_counted_where_it_would_have_stood() {
        let queue = queue();
        for line in ["one\n", "two\n", "three\n", "four\n", "5\n"] {
            queue.add(line.as_bytes(), 10);
        }
        queue.add(b"the last word\n", usize::MAX);
        assert_eq!(taken(&queue), "one\ntwo\nthe last word\n");
        queue.add(b"six\n", 1000);
        let rest = taken(&queue);
        let (note, rest) = rest.split_once('\n').unwrap();
        assert!(note.ends_with(" WARN  rot13d] 3 lines of the log were left out: nobody read it"), "{note}");
        assert_eq!(rest, "six\n");
        // A line that fits no queue is missing, too, and wakes whoever says so.
        queue.add(b"seven\n", 3);
        assert!(!queue.state().is_empty());
        assert_eq!(taken(&queue), "");
        assert!(taken(&queue).contains(" 1 lines of the log were left out"));
    }

    #[test]
    fn a_flood_of_panics_is_a_few_lines_and_a_number() {
        let mut panics = Panics::default();
        let begin = Instant::now();
        let passed: Vec<_> = (0..100).filter_map(|ms| panics.pass(begin + Duration::from_millis(ms))).collect();
        assert_eq!(passed, [0; MOST_PANICS as usize]);
        assert_eq!(panics.pass(begin + PANICS_WITHIN), Some(95));
        assert_eq!(panics.pass(begin + PANICS_WITHIN), Some(0));
    }
}
