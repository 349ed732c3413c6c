//! Queue: lines on their way to standard error, and the thread that writes them.
//!
//! Rule: nobody who adds a line waits. Lines that do not fit are left out and counted, and the count stands in their place.
//! The thread ends when nothing has been logged for a while: in a process of one thread each system call on a descriptor
//! is cheaper.
//! Not here: how a line is written (`form`).

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use log::Level;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::form::Form;

/// Most bytes of log that wait for the reader. At 100 bytes a line it is some 10,000 lines.
pub(super) const QUEUE_BYTES: usize = 1 << 20;
/// Bytes written at once: as many as a pipe takes undivided (PIPE_BUF), for others may write to it as well.
const WRITE_BYTES: usize = 4096;
/// Time that the thread stays for the next line.
const REST: Duration = Duration::from_secs(1);
/// Time that the end of the process waits for a reader that takes nothing, and for one that takes little.
const FLUSH_STALL: Duration = Duration::from_secs(1);
const FLUSH_TIME: Duration = Duration::from_secs(5);

/// Whole lines, on their way to standard error.
pub(super) struct Queue {
    pub(super) form: Form,
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
    pub(super) fn new(form: Form) -> Self {
        Self { form, state: Mutex::default(), filled: Condvar::new(), written: Condvar::new() }
    }

    /// Starts the thread that writes.
    ///
    /// # Errors
    /// Without a thread for it.
    pub(super) fn start(self: &Arc<Self>) -> io::Result<()> {
        self.state().has_writer = true;
        self.start_writer()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line, unless more than `most` bytes would wait.
    pub(super) fn add(self: &Arc<Self>, line: &[u8], most: usize) {
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
    fn take(&self, state: &mut State, lines: &mut Vec<u8>) {
        let waiting = state.bytes.len().min(WRITE_BYTES);
        lines.clear();
        lines.extend(state.bytes.range(..waiting));
        if let Some(end) = lines.iter().rposition(|byte| *byte == b'\n') {
            lines.truncate(end + 1);
        }
        state.bytes.drain(..lines.len());
        if state.left_out > 0 {
            let count = std::mem::take(&mut state.left_out);
            let lines = if count == 1 { "1 line of the log was" } else { &*format!("{count} lines of the log were") };
            let note = self.form.note(Level::Warn, format_args!("{lines} left out: nobody read it"), count);
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
        self.take(&mut state, &mut lines);
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
    pub(super) fn flush(self: &Arc<Self>) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::LogFormat;

    /// A queue that only the test takes from.
    fn queue() -> Arc<Queue> {
        let queue = Arc::new(Queue::new(Form::new(LogFormat::Text)));
        queue.state().has_writer = true;
        queue
    }

    fn taken(queue: &Queue) -> String {
        let mut lines = Vec::new();
        queue.take(&mut queue.state(), &mut lines);
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
        assert!(taken(&queue).contains(" 1 line of the log was left out"));
    }
}
