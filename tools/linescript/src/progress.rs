//! One line on a terminal that says how far a long run has come. Nothing of it where standard error is none.
//!
//! Not here: results, which are printed above it (`output`).

use std::{
    env,
    io::{self, IsTerminal, Write},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A run that is over sooner shows no progress.
const PATIENCE: Duration = Duration::from_secs(1);
const REDRAW: Duration = Duration::from_millis(250);
/// Of so many the rest can be foretold.
const ENOUGH: usize = 10;
/// Goes to the first column, and clears the line.
const CLEAR: &str = "\r\x1b[K";

/// Told by those who work, shown by [`Progress::show`] on a thread of its own.
pub(crate) struct Progress {
    state: Mutex<State>,
    changed: Condvar,
    is_shown: bool,
}

struct State {
    all: usize,
    done: usize,
    failing: usize,
    running: Vec<String>,
    start: Instant,
    is_drawn: bool,
    is_over: bool,
}

impl Progress {
    pub(crate) fn new(all: usize) -> Self {
        let is_dumb = env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
        let is_ci = env::var_os("CI").is_some_and(|ci| !ci.is_empty() && ci != "false");
        let state = State {
            all,
            done: 0,
            failing: 0,
            running: Vec::new(),
            start: Instant::now(),
            is_drawn: false,
            is_over: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            is_shown: io::stderr().is_terminal() && !is_dumb && !is_ci,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begins(&self, name: &str) {
        self.state().running.push(name.to_owned());
    }

    /// Prints what there is to say of a run that is over, above the line.
    pub(crate) fn ends(&self, name: &str, fails: bool, print: impl FnOnce()) {
        let mut state = self.state();
        state.done += 1;
        state.failing += usize::from(fails);
        if let Some(at) = state.running.iter().position(|running| running == name) {
            state.running.remove(at);
        }
        self.clear(&mut state);
        print();
        self.draw(&mut state);
    }

    /// Draws until it is over.
    pub(crate) fn show(&self) {
        let mut state = self.state();
        while self.is_shown && !state.is_over {
            self.draw(&mut state);
            state = self.changed.wait_timeout(state, REDRAW).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Clears the line for ever.
    pub(crate) fn over(&self) {
        let mut state = self.state();
        state.is_over = true;
        self.clear(&mut state);
        self.changed.notify_all();
    }

    fn clear(&self, state: &mut State) {
        if std::mem::take(&mut state.is_drawn) {
            let _ = write!(io::stderr().lock(), "{CLEAR}");
        }
    }

    fn draw(&self, state: &mut State) {
        let elapsed = state.start.elapsed();
        if !self.is_shown || state.is_over || elapsed < PATIENCE {
            return;
        }
        // A terminal that does not know its size says 0.
        let width = rustix::termios::tcgetwinsize(io::stderr()).map_or(0, |size| usize::from(size.ws_col));
        let line = state.line(elapsed, if width == 0 { 80 } else { width });
        // In one piece: what others print is above or below it.
        let _ = write!(io::stderr().lock(), "{CLEAR}{line}");
        state.is_drawn = true;
    }
}

impl State {
    fn line(&self, elapsed: Duration, width: usize) -> String {
        let mut line = format!("{} of {}", self.done, self.all);
        if self.failing > 0 {
            line.push_str(&format!(", {} failing", self.failing));
        }
        line.push_str(&format!(", {}", clock(elapsed)));
        if self.done >= ENOUGH {
            let left = self.all.saturating_sub(self.done);
            let left = elapsed.mul_f64(left as f64 / self.done as f64);
            line.push_str(&format!(", about {} left", clock(left)));
        }
        // The one that runs for longest is what one waits for.
        if let Some(first) = self.running.first() {
            line.push_str(&format!(": {}", first.escape_debug()));
            if self.running.len() > 1 {
                line.push_str(&format!(" and {} more", self.running.len() - 1));
            }
        }
        // The last column stays empty: some terminals go to the next line behind it.
        line.chars().take(width.saturating_sub(1)).collect()
    }
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 3600 {
        format!("{}:{:02}", seconds / 60, seconds % 60)
    } else {
        format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is_and_fits_the_terminal() {
        let mut state = State {
            all: 200,
            done: 5,
            failing: 0,
            running: vec!["chat.session".to_owned()],
            start: Instant::now(),
            is_drawn: false,
            is_over: false,
        };
        assert_eq!(state.line(Duration::from_secs(12), 80), "5 of 200, 0:12: chat.session");
        state.done = 50;
        state.failing = 2;
        state.running.push("kv.session".to_owned());
        let line = state.line(Duration::from_secs(12), 80);
        assert_eq!(line, "50 of 200, 2 failing, 0:12, about 0:36 left: chat.session and 1 more");
        assert_eq!(state.line(Duration::from_secs(12), 11), "50 of 200,");
        assert_eq!(clock(Duration::from_secs(3725)), "1:02:05");
    }
}
