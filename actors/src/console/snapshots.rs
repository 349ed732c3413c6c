//! Snapshots: the counters of all sessions once a second, for all consoles that show rates.
//!
//! One list of sessions a second, however many look; none while nobody does.
//! Not here: rates, and how they are shown (`top`).

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::watch, time::Instant};

use crate::{
    control::query::{SessionFilter, SessionInfo, SessionQuery},
    error::ServerEnded,
    server::handle::ServerHandle,
};

/// Time from one to the next.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// Sessions that are asked for at once.
const PAGE: usize = 2000;

/// The sessions of a server at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) at: Instant,
    /// In the order of their numbers.
    pub(crate) sessions: Vec<SessionInfo>,
    /// Texts that were made of it, each for its words.
    texts: Mutex<Vec<(String, Bytes)>>,
}

impl Snapshot {
    async fn take(server: &ServerHandle) -> Result<Self, ServerEnded> {
        let at = Instant::now();
        let mut sessions = Vec::<SessionInfo>::new();
        loop {
            let filter = SessionFilter { after: sessions.last().map(|last| last.id), ..SessionFilter::default() };
            let page = server.sessions(SessionQuery::from(filter).limit(PAGE)).await?.sessions;
            let is_last = page.len() < PAGE;
            sessions.extend(page);
            if is_last {
                return Ok(Self { at, sessions, texts: Mutex::default() });
            }
        }
    }

    /// Returns what was made of it for these words, or makes it.
    pub(crate) fn text(&self, words: &str, make: impl FnOnce() -> Vec<u8>) -> Bytes {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, text)) = texts.iter().find(|(known, _)| known == words) {
            return text.clone();
        }
        let text = Bytes::from(make());
        texts.push((words.to_owned(), text.clone()));
        text
    }
}

/// The way of consoles to the snapshots.
#[derive(Debug, Default)]
pub(crate) struct Snapshots(Mutex<Weak<watch::Sender<Option<Arc<Snapshot>>>>>);

/// The snapshots, for as long as one of these is held.
#[derive(Debug)]
pub(crate) struct Looking {
    newest: watch::Receiver<Option<Arc<Snapshot>>>,
    /// Keeps them coming.
    _sender: Arc<watch::Sender<Option<Arc<Snapshot>>>>,
}

impl Snapshots {
    /// Begins to look. On the arbiter of the console, where they are taken.
    pub(crate) fn look(&self, server: &ServerHandle) -> Looking {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = known.upgrade().unwrap_or_else(|| {
            let sender = Arc::new(watch::Sender::new(None));
            *known = Arc::downgrade(&sender);
            actix_rt::spawn(take(Weak::clone(&known), server.clone()));
            sender
        });
        Looking { newest: sender.subscribe(), _sender: sender }
    }
}

async fn take(sender: Weak<watch::Sender<Option<Arc<Snapshot>>>>, server: ServerHandle) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while sender.strong_count() > 0 {
        // A server that has ended ends its consoles as well.
        let Ok(snapshot) = Snapshot::take(&server).await else { return };
        let Some(sender) = sender.upgrade() else { return };
        sender.send_replace(Some(Arc::new(snapshot)));
        drop(sender);
        ticks.tick().await;
    }
}

impl Looking {
    /// Waits for a snapshot at or behind a moment.
    pub(crate) async fn since(&mut self, moment: Instant) -> Arc<Snapshot> {
        loop {
            if let Some(snapshot) = self.newest.borrow_and_update().clone().filter(|snapshot| snapshot.at >= moment) {
                return snapshot;
            }
            if self.newest.changed().await.is_err() {
                // It is held here.
                return std::future::pending().await;
            }
        }
    }
}
