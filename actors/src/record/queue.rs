//! Queue: the way from sessions to the thread that writes their recordings.
//!
//! Rule: no session waits. What the thread has not taken yet is bounded in bytes; a session whose bytes find no room is cut
//! there. Its end always finds room: that was paid for when it began.
//! Not here: what is done with it (`recorder`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::report::CloseReport;

/// Most bytes that wait for the thread, besides ends of sessions.
pub(super) const MOST_WAITING: usize = 4 << 20;

/// An estimate of what a message takes besides its bytes.
const MESSAGE: usize = 128;

/// Something of a session, on its way to the thread.
pub(super) enum Message {
    Opened {
        id: u64,
        at: Instant,
        /// The name of its file, and the comment in its first line.
        name: String,
        title: String,
    },
    Sent {
        id: u64,
        at: Instant,
        bytes: Vec<u8>,
    },
    Received {
        id: u64,
        at: Instant,
        bytes: Vec<u8>,
    },
    Fin {
        id: u64,
        at: Instant,
    },
    Eof {
        id: u64,
        at: Instant,
    },
    /// The last of a session, exactly one for each that was opened.
    Ended {
        id: u64,
        at: Instant,
        end: End,
    },
    /// Everything before is to be on the disk; then the sender is told.
    Flush(SyncSender<()>),
}

/// How a recording ends.
pub(super) enum End {
    Closed(Box<CloseReport>),
    /// The session goes on, and is long enough.
    TooLong,
    /// The session goes on; the queue had no room.
    Overrun,
    /// Its transport was dropped without a report.
    Dropped,
}

impl Message {
    fn cost(&self) -> usize {
        match self {
            // With its end.
            Self::Opened { name, title, .. } => 2 * MESSAGE + name.len() + title.len() + size_of::<CloseReport>(),
            Self::Sent { bytes, .. } | Self::Received { bytes, .. } => MESSAGE + bytes.len(),
            Self::Fin { .. } | Self::Eof { .. } => MESSAGE,
            Self::Ended { .. } | Self::Flush(_) => 0,
        }
    }
}

/// Counters of a [`Recorder`](crate::record::Recorder).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordStats {
    /// Sessions whose recording was begun.
    pub sessions: u64,
    /// Recordings that were cut because they were as long as they may be.
    pub cut: u64,
    /// Sessions that were not recorded, or not to their end, because their bytes came faster than they could be written.
    pub overrun: u64,
    /// Recordings that a disk or a folder did not take.
    pub failed: u64,
    /// Files that were removed to make room for newer ones.
    pub removed: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) sessions: AtomicU64,
    pub(super) cut: AtomicU64,
    pub(super) overrun: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) removed: AtomicU64,
}

impl Counters {
    pub(super) fn stats(&self) -> RecordStats {
        let Self { sessions, cut, overrun, failed, removed } = self;
        let [sessions, cut, overrun, failed, removed] =
            [sessions, cut, overrun, failed, removed].map(|count| count.load(Relaxed));
        RecordStats { sessions, cut, overrun, failed, removed }
    }
}

/// The sending end. Each session has a clone.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    sender: Sender<Message>,
    waiting: Arc<AtomicUsize>,
}

/// The receiving end.
pub(super) struct Inbox {
    receiver: Receiver<Message>,
    waiting: Arc<AtomicUsize>,
}

pub(super) fn queue() -> (Queue, Inbox) {
    let (sender, receiver) = mpsc::channel();
    let waiting = Arc::<AtomicUsize>::default();
    (Queue { sender, waiting: Arc::clone(&waiting) }, Inbox { receiver, waiting })
}

impl Queue {
    /// Sends a message, if there is room for it.
    pub(super) fn send(&self, message: Message) -> bool {
        let cost = message.cost();
        let before = self.waiting.fetch_add(cost, Relaxed);
        if cost > 0 && before + cost > MOST_WAITING {
            self.waiting.fetch_sub(cost, Relaxed);
            return false;
        }
        self.sender.send(message).is_ok()
    }
}

impl Inbox {
    /// Waits for a message; for ever, or until `patience` is over.
    pub(super) fn wait(&self, patience: Option<Duration>) -> Result<Message, RecvTimeoutError> {
        let message = match patience {
            Some(patience) => self.receiver.recv_timeout(patience),
            None => self.receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        message.inspect(|message| self.taken(message))
    }

    /// Returns the next message if there is one.
    pub(super) fn next(&self) -> Option<Message> {
        self.receiver.try_recv().ok().inspect(|message| self.taken(message))
    }

    fn taken(&self, message: &Message) {
        self.waiting.fetch_sub(message.cost(), Relaxed);
    }
}

/// What sessions and the thread of a recorder share: counters, and bounds that may change.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) counters: Counters,
    pub(super) session_bytes: AtomicU64,
    pub(super) files: AtomicU64,
    pub(super) total_bytes: AtomicU64,
    pub(super) has_no_gaps: AtomicBool,
}
