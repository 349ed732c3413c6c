//! Kicks: those that were carried out here for a cluster, and whose sessions may not have ended yet.
//!
//! Not here: cutting them (`kill`).

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{connection::SessionId, control::query::SessionFilter};

/// The kicks that have told sessions to end, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Kicks {
    waiting: Mutex<VecDeque<Kicked>>,
    added: Notify,
}

/// A kick that was carried out.
#[derive(Debug)]
pub(crate) struct Kicked {
    due: Instant,
    pub(crate) whom: SessionFilter,
    /// The last session that it may have told.
    pub(crate) last: SessionId,
}

impl Kicks {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Kicked>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one that has just been carried out. Its sessions have this time to end.
    pub(crate) fn add(&self, whom: SessionFilter, time: Duration) {
        self.waiting().push_back(Kicked { due: Instant::now() + time, whom, last: SessionId::last() });
        self.added.notify_one();
    }

    /// Returns when the time of the oldest one is over.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.waiting().front().map(|kicked| kicked.due)
    }

    /// Waits until one is added.
    pub(crate) async fn added(&self) {
        self.added.notified().await;
    }

    /// Takes the oldest one, if its time is over.
    pub(crate) fn take_due(&self) -> Option<Kicked> {
        let mut waiting = self.waiting();
        if waiting.front()?.due > Instant::now() {
            return None;
        }
        waiting.pop_front()
    }
}
