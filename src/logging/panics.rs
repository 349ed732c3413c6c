//! Panics: one line each, the first few of a flood and the number of the others.
//!
//! Rule: each may be caused by a peer. A panic is no session: which one it has ended is in the library's message behind it.
//! Not here: what a panic ends (the library).

use std::{
    mem,
    panic::PanicHookInfo,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use actix_lines::Escaped;

/// Panics logged within a time.
const MOST: u32 = 5;
const WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Panics {
    since: Option<Instant>,
    logged: u32,
    left_out: u64,
    /// A thread waits for the end of the flood.
    has_thread: bool,
}

static PANICS: Mutex<Panics> = Mutex::new(Panics::NONE);

fn panics() -> MutexGuard<'static, Panics> {
    PANICS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Panics {
    const NONE: Self = Self { since: None, logged: 0, left_out: 0, has_thread: false };

    /// Counts a panic. If it is to be logged, returns the number that its message stands for, those before it that were
    /// left out among them.
    fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.wait(now).is_none() {
            (self.since, self.logged) = (Some(now), 0);
        }
        if self.logged == MOST {
            self.left_out += 1;
            return None;
        }
        self.logged += 1;
        Some(mem::take(&mut self.left_out) + 1)
    }

    /// Returns how long the time goes on within which a few are logged.
    fn wait(&self, now: Instant) -> Option<Duration> {
        let left = (self.since? + WITHIN).saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Returns true if somebody has to wait for the end of the flood.
    fn needs_thread(&mut self) -> bool {
        self.left_out > 0 && !mem::replace(&mut self.has_thread, true)
    }
}

/// Logs a panic, as its hook.
pub(super) fn log(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let text = Escaped::new(text.unwrap_or("a value that is no text"));
    let mut panics = panics();
    let passed = panics.pass(Instant::now());
    let needs_thread = panics.needs_thread();
    drop(panics);
    if needs_thread {
        // Without one the next panic says how many there were.
        let _ = thread::Builder::new().name("rot13d|panics".to_owned()).spawn(wait_for_end);
    }
    let Some(count) = passed else { return };
    let others = match count - 1 {
        0 => String::new(),
        others => format!(" (and {others} more since the last message like this)"),
    };
    match panic.location() {
        Some(location) => log::error!(count = count; "panicked at {location}: {text}{others}"),
        None => log::error!(count = count; "panicked: {text}{others}"),
    }
}

fn wait_for_end() {
    loop {
        let mut panics = panics();
        let Some(wait) = panics.wait(Instant::now()).filter(|_| panics.left_out > 0) else {
            panics.has_thread = false;
            break;
        };
        drop(panics);
        thread::sleep(wait);
    }
    log_left_out();
}

/// Logs how many panics were left out, if any were.
pub(super) fn log_left_out() {
    let count = mem::take(&mut panics().left_out);
    if count > 0 {
        log::error!(count = count; "panicked {count} more times since the last message about that");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_panics_is_a_few_lines_and_a_number() {
        let mut panics = Panics::NONE;
        let begin = Instant::now();
        let passed: Vec<_> = (0..100).filter_map(|ms| panics.pass(begin + Duration::from_millis(ms))).collect();
        assert_eq!(passed, [1; MOST as usize]);
        assert_eq!([panics.needs_thread(), panics.needs_thread()], [true, false]);
        assert_eq!(panics.pass(begin + WITHIN), Some(96));
        assert_eq!(panics.pass(begin + WITHIN), Some(1));
    }

    #[test]
    fn the_end_of_a_flood_says_how_many_were_left_out() {
        let mut panics = Panics::NONE;
        let begin = Instant::now();
        assert_eq!((0..MOST + 3).filter_map(|_| panics.pass(begin)).sum::<u64>(), u64::from(MOST));
        assert_eq!((panics.wait(begin), panics.left_out), (Some(WITHIN), 3));
        assert_eq!(panics.wait(begin + WITHIN), None);
    }
}
