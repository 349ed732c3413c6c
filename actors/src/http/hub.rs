//! Hub: what the viewers see now, how many there are, and the last ends.
//!
//! Rule: one view for all of them; nothing is kept for one that does not look.
//! Not here: making the views, showing them (`events`).

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use actix_web::web::Bytes;
use tokio::sync::watch;

use crate::http::ends::Ends;

/// What the viewers see now.
#[derive(Clone, Debug)]
pub(super) enum View {
    /// There is no event yet.
    Nothing,
    Event {
        number: u64,
        text: Bytes,
    },
    /// There is none to come.
    End,
}

#[derive(Debug, Default)]
struct Viewers {
    count: usize,
    /// There is a task that makes events.
    is_running: bool,
}

#[derive(Debug)]
pub(super) struct Hub {
    viewers: Mutex<Viewers>,
    view: watch::Sender<View>,
    /// Events so far.
    events: AtomicU64,
    pub(super) ends: Ends,
}

impl Default for Hub {
    fn default() -> Self {
        let view = watch::Sender::new(View::Nothing);
        Self { viewers: Mutex::default(), view, events: AtomicU64::default(), ends: Ends::default() }
    }
}

impl Hub {
    fn viewers(&self) -> MutexGuard<'_, Viewers> {
        self.viewers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many there are.
    pub(super) fn watching(&self) -> usize {
        self.viewers().count
    }

    /// Adds a viewer, unless there are `most`. Returns also whether somebody has to begin to make events.
    pub(super) fn join(&self, most: usize) -> Option<(watch::Receiver<View>, bool)> {
        let mut viewers = self.viewers();
        if viewers.count >= most {
            return None;
        }
        viewers.count += 1;
        let is_first = !std::mem::replace(&mut viewers.is_running, true);
        if is_first {
            self.view.send_replace(View::Nothing);
        }
        Some((self.view.subscribe(), is_first))
    }

    pub(super) fn leave(&self) {
        self.viewers().count -= 1;
    }

    /// Returns the number of an event that is made now.
    pub(super) fn next_number(&self) -> u64 {
        // One task makes them.
        self.events.fetch_add(1, Relaxed) + 1
    }

    pub(super) fn show(&self, number: u64, text: Bytes) {
        self.view.send_replace(View::Event { number, text });
    }

    /// Returns true if there is nobody to make events for; the next viewer begins again.
    pub(super) fn is_done(&self) -> bool {
        let mut viewers = self.viewers();
        viewers.is_running = viewers.count > 0;
        !viewers.is_running
    }

    /// Nobody makes events any more: the viewers go, and may come again.
    pub(super) fn end(&self) {
        let mut viewers = self.viewers();
        viewers.is_running = false;
        self.view.send_replace(View::End);
    }
}
