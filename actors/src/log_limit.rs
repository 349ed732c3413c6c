//! Log limit: at most one message of a kind each ten seconds, with a count, where peers can cause it.
//!
//! Counters and reports have every event; the log only says that there are some. Behind the last message of a flood comes
//! one more, with the number of those that it left out: one task for all kinds waits for that, while there are any.
//! Not here: the messages (the callers).

use std::{
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use log::kv::{ToValue, Value};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep_until},
};

/// Least time between two messages of one kind: rare enough for a disk, often enough for an operator.
const INTERVAL: Duration = Duration::from_secs(10);
/// Time that a flood has for its next message, which has the count, before the count is logged alone.
const GRACE: Duration = Duration::from_secs(1);

/// What one event of a kind is called, and several: `connection refused`, `connections refused`.
#[derive(Debug)]
pub(crate) struct Kind(pub(crate) &'static str, pub(crate) &'static str);

/// Limits one kind of message. Its lock is held for a comparison and never while anything is logged.
///
/// ```text
/// if let Some(events) = self.evictions.pass(&EVICTED, "") {
///     log::warn!(count = events; "session {id}: evicted{events}");
/// }
/// ```
#[derive(Debug, Default)]
pub(crate) struct LogLimit(OnceLock<Arc<Mutex<State>>>);

#[derive(Debug, Default)]
struct State {
    /// Events since the last message.
    events: u64,
    logged: Option<Instant>,
    /// The task waits for the end of the flood, to log this.
    last: Option<Last>,
}

/// What is known of the last message of a flood before its count.
#[derive(Debug)]
struct Last {
    kind: &'static Kind,
    /// A listener and a colon, or nothing.
    about: String,
}

/// Number of events that one message stands for: at least 1. Printed behind a message about the last of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Events(pub(crate) u64);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LogLimit {
    pub(crate) const fn new() -> Self {
        Self(OnceLock::new())
    }

    fn limit(&self) -> &Arc<Mutex<State>> {
        // Most have nothing to limit ever.
        self.0.get_or_init(Arc::default)
    }

    /// Counts an event. Returns the events since the last message, this one included, if they are to be logged now.
    /// `about` begins the message of those that are not.
    pub(crate) fn pass(&self, kind: &'static Kind, about: impl fmt::Display) -> Option<Events> {
        self.count();
        self.due(kind, about)
    }

    /// Counts an event that is logged later.
    pub(crate) fn count(&self) {
        lock(self.limit()).events += 1;
    }

    /// Returns the events since the last message, if there are any and they are to be logged now.
    pub(crate) fn due(&self, kind: &'static Kind, about: impl fmt::Display) -> Option<Events> {
        let limit = self.limit();
        let mut state = lock(limit);
        if state.events == 0 {
            return None;
        }
        let now = Instant::now();
        if state.logged.is_none_or(|logged| now.duration_since(logged) >= INTERVAL) {
            state.logged = Some(now);
            return Some(Events(mem::take(&mut state.events)));
        }
        if state.last.is_none() {
            state.last = Some(Last { kind, about: about.to_string() });
            drop(state);
            wait_for_end(Arc::clone(limit));
        }
        None
    }
}

impl State {
    /// Returns the message that ends a flood, if it is over, or when to look again; neither if its last message had all.
    fn end(&mut self, now: Instant, is_last_chance: bool) -> (Option<(Last, u64)>, Option<Instant>) {
        let over = self.logged.map_or(now, |logged| logged + INTERVAL + GRACE);
        if self.events > 0 && now < over && !is_last_chance {
            return (None, Some(over));
        }
        let events = mem::take(&mut self.events);
        let message = self.last.take().filter(|_| events > 0).map(|last| (last, events));
        if message.is_some() {
            self.logged = Some(now);
        }
        (message, None)
    }
}

/// Limits that have left out events since their last message.
static FLOODS: Mutex<Floods> = Mutex::new(Floods { limits: Vec::new(), has_task: false });

struct Floods {
    limits: Vec<Arc<Mutex<State>>>,
    has_task: bool,
}

/// Sees to it that the count of a flood is logged, where there is a runtime. Elsewhere the next message of its kind has it.
fn wait_for_end(limit: Arc<Mutex<State>>) {
    let mut floods = lock(&FLOODS);
    floods.limits.push(limit);
    if let Ok(runtime) = Handle::try_current()
        && !mem::replace(&mut floods.has_task, true)
    {
        // A runtime that ends drops the task at once.
        drop(floods);
        let waiting = Waiting;
        runtime.spawn(waiting.log_ends());
    }
}

/// The task. Where its runtime ends, nothing waits any longer.
struct Waiting;

impl Waiting {
    async fn log_ends(self) {
        while let Some(next) = log_ends(false) {
            sleep_until(next).await;
        }
        mem::forget(self);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        log_ends(true);
    }
}

/// Logs the counts of the floods that are over, or of all. Returns when to look again; else there is no task any more.
fn log_ends(is_last_chance: bool) -> Option<Instant> {
    let now = Instant::now();
    let (mut messages, mut next) = (Vec::new(), None::<Instant>);
    let mut floods = lock(&FLOODS);
    floods.limits.retain(|limit| {
        let (message, again) = lock(limit).end(now, is_last_chance);
        messages.extend(message);
        next = next.into_iter().chain(again).min();
        again.is_some()
    });
    floods.has_task = next.is_some();
    drop(floods);
    for (Last { kind: Kind(one, many), about }, events) in messages {
        let what = if events == 1 { one } else { many };
        log::warn!(count = events; "{about}{events} more {what} since the last message about that");
    }
    next
}

impl fmt::Display for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 | 1 => Ok(()),
            events => write!(f, " (and {} more since the last message like this)", events - 1),
        }
    }
}

/// Logged as a number.
impl ToValue for Events {
    fn to_value(&self) -> Value<'_> {
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind("event", "events");

    fn pass(limit: &LogLimit) -> Option<Events> {
        limit.pass(&KIND, "")
    }

    fn end(limit: &LogLimit) -> Option<u64> {
        lock(limit.limit()).end(Instant::now(), false).0.map(|(_, events)| events)
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_one_message_each_ten_seconds_and_no_event_is_forgotten() {
        let limit = LogLimit::default();
        let (mut messages, mut said) = (Vec::new(), 0);
        for tenth in 0..350 {
            if let Some(Events(events)) = pass(&limit) {
                messages.push(tenth / 10);
                said += events;
            }
            assert_eq!(end(&limit), None, "it goes on");
            lock(limit.limit()).last.get_or_insert(Last { kind: &KIND, about: String::new() });
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(messages, [0, 10, 20, 30], "in seconds");
        tokio::time::advance(INTERVAL).await;
        assert_eq!(end(&limit).map(|events| said + events), Some(350));
        tokio::time::advance(INTERVAL).await;
        assert_eq!(limit.due(&KIND, ""), None, "nothing has happened since");
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_event_is_logged_at_once_and_as_one() {
        let limit = LogLimit::default();
        assert_eq!(pass(&limit), Some(Events(1)));
        assert_eq!(Events(1).to_string(), "");
        limit.count();
        assert_eq!(limit.due(&KIND, ""), None);
        tokio::time::advance(INTERVAL).await;
        assert_eq!(
            pass(&limit).map(|events| events.to_string()).as_deref(),
            Some(" (and 1 more since the last message like this)")
        );
    }
}
