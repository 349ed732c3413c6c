//! Logged: keeps what the library logs, for tests that look at it.
// Each test file is a program of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

use std::{
    cell::RefCell,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use log::{LevelFilter, Log, Metadata, Record};

static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

thread_local! {
    /// The part of it that this thread has logged.
    static HERE: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// The beginning of the targets that are kept.
static TARGET: OnceLock<&'static str> = OnceLock::new();

struct Keep;

impl Log for Keep {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if TARGET.get().is_some_and(|target| record.target().starts_with(target)) {
            let message = record.args().to_string();
            // A thread that ends has none any more.
            let _ = HERE.try_with(|here| here.borrow_mut().push(message.clone()));
            logged().push(message);
        }
    }

    fn flush(&self) {}
}

/// Returns the messages that were kept so far.
pub fn logged() -> MutexGuard<'static, Vec<String>> {
    LOGGED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the messages of this thread: those of one test, if all that it looks at runs on its own arbiter.
pub fn take_logged_here() -> Vec<String> {
    HERE.take()
}

/// Keeps the messages of targets that begin so, at this level and above. All tests of a program have the same.
pub fn keep_log(target: &'static str, level: LevelFilter) {
    let kept = TARGET.get_or_init(|| target);
    assert_eq!(*kept, target, "one target for all tests of a program");
    // Another test may have done so.
    let _ = log::set_logger(&Keep);
    log::set_max_level(level);
}
