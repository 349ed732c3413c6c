//! Log limit: at most one message of a kind each ten seconds, with a count, where peers can cause it.
//!
//! Counters and reports have every event; the log only says that there are some.
//! Not here: the messages (the callers).

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Least time between two messages of one kind: rare enough for a disk, often enough for an operator.
const INTERVAL: Duration = Duration::from_secs(10);

/// Limits one kind of message. Its lock is held for a comparison and never while anything is logged.
///
/// ```text
/// if let Some(events) = self.evictions.pass() {
///     log::warn!("session {id}: evicted{events}");
/// }
/// ```
#[derive(Debug, Default)]
pub(crate) struct LogLimit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Events since the last message.
    events: u64,
    logged: Option<Instant>,
}

/// Number of events that one message stands for: at least 1. Printed behind a message about the last of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Events(pub(crate) u64);

impl LogLimit {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an event. Returns the events since the last message, this one included, if they are to be logged now.
    pub(crate) fn pass(&self) -> Option<Events> {
        self.count();
        self.due()
    }

    /// Counts an event that is logged later.
    pub(crate) fn count(&self) {
        self.state().events += 1;
    }

    /// Returns the events since the last message, if there are any and they are to be logged now.
    pub(crate) fn due(&self) -> Option<Events> {
        let mut state = self.state();
        let now = Instant::now();
        if state.events == 0 || state.logged.is_some_and(|logged| now.duration_since(logged) < INTERVAL) {
            return None;
        }
        state.logged = Some(now);
        Some(Events(std::mem::take(&mut state.events)))
    }
}

impl fmt::Display for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 | 1 => Ok(()),
            events => write!(f, " (and {} more since the last message like this)", events - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_one_message_each_ten_seconds_and_no_event_is_forgotten() {
        let limit = LogLimit::default();
        let (mut messages, mut said) = (Vec::new(), 0);
        for tenth in 0..350 {
            if let Some(Events(events)) = limit.pass() {
                messages.push(tenth / 10);
                said += events;
            }
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(messages, [0, 10, 20, 30], "in seconds");
        tokio::time::advance(INTERVAL).await;
        assert_eq!(limit.due().map(|Events(events)| said + events), Some(350));
        tokio::time::advance(INTERVAL).await;
        assert_eq!(limit.due(), None, "nothing has happened since");
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_event_is_logged_at_once_and_as_one() {
        let limit = LogLimit::default();
        assert_eq!(limit.pass(), Some(Events(1)));
        assert_eq!(Events(1).to_string(), "");
        limit.count();
        assert_eq!(limit.due(), None);
        tokio::time::advance(INTERVAL).await;
        assert_eq!(
            limit.pass().map(|events| events.to_string()).as_deref(),
            Some(" (and 1 more since the last message like this)")
        );
    }
}
