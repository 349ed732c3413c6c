//! Uplink: what is said in rooms here, for whoever carries it elsewhere.
//!
//! Whoever says something never waits for an uplink, and no code of others runs where it is said: it is put into a bounded
//! queue, or counted as lost. Each message knows how many of its room were lost before it, so that whoever carries them can
//! number them without a gap in the wrong place.
//! Not here: rooms (`room`), carrying anything to other nodes (`cluster/rooms`).

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use tokio::sync::mpsc;

use crate::shared::SharedBytes;

/// Weight of a message besides its bytes, so that empty ones count.
const MESSAGE_BYTES: usize = 64;

/// A queue of what is said in the rooms that are [linked](crate::Room::link) to it. Its other end, the [`Feed`], belongs to
/// whoever carries these messages elsewhere: to other nodes, to a log. A clone is the same uplink.
///
/// It never blocks: a message that the queue has no room for is lost and counted, and members in this process hear it all the same.
///
/// ```
/// use actix_lines::{Room, uplink::{News, Uplink}};
///
/// # actix_rt::System::new().block_on(async {
/// let (uplink, mut feed) = Uplink::new(1024 * 1024);
/// let room = Room::named("lobby");
/// assert!(room.link(&uplink, 7));
/// room.say("hello\n");
/// room.say_here("from elsewhere, so it does not go up again\n");
/// assert!(matches!(feed.next().await, Some(News::Members { key: 7 })));
/// assert!(matches!(feed.next().await, Some(News::Said(said)) if said.bytes() == b"hello\n"));
/// drop(room);
/// assert!(matches!(feed.next().await, Some(News::Gone { key: 7 })));
/// # });
/// ```
#[derive(Clone)]
pub struct Uplink(Arc<State>);

struct State {
    sender: mpsc::UnboundedSender<Event>,
    /// What all messages in the queue weigh.
    bytes: AtomicUsize,
    most_bytes: usize,
    lost: AtomicU64,
}

impl Uplink {
    /// Makes an uplink and its feed. While more than `most_bytes` wait in the queue, messages are lost. A message counts with its
    /// length and 64 bytes.
    #[must_use]
    pub fn new(most_bytes: usize) -> (Self, Feed) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let state = Arc::new(State { sender, bytes: AtomicUsize::new(0), most_bytes, lost: AtomicU64::new(0) });
        (Self(Arc::clone(&state)), Feed { state, receiver })
    }

    /// Returns the number of messages that were lost: the queue had no room for them, or the [`Feed`] was dropped before it had
    /// returned them.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Relaxed)
    }

    /// Returns the length of all messages in the queue, and 64 bytes for each. Unit: bytes.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.0.bytes.load(Relaxed)
    }
}

impl fmt::Debug for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uplink")
            .field("waiting_bytes", &self.waiting_bytes())
            .field("lost", &self.lost())
            .finish_non_exhaustive()
    }
}

/// The other end of an [`Uplink`]. Once it is dropped, all messages are lost, those that wait in the queue included.
pub struct Feed {
    state: Arc<State>,
    receiver: mpsc::UnboundedReceiver<Event>,
}

impl Feed {
    /// Waits for the next news. Returns `None` once the uplink and all rooms that were linked to it are gone.
    pub async fn next(&mut self) -> Option<News> {
        // An event without news was told by an earlier one already.
        loop {
            let event = self.receiver.recv().await?;
            if let Some(news) = self.open(event) {
                return Some(news);
            }
        }
    }

    /// Returns the next news, or `None` if there is none at the moment.
    pub fn try_next(&mut self) -> Option<News> {
        loop {
            let event = self.receiver.try_recv().ok()?;
            if let Some(news) = self.open(event) {
                return Some(news);
            }
        }
    }

    fn open(&self, event: Event) -> Option<News> {
        match event {
            Event::Said(said) => {
                self.state.bytes.fetch_sub(said.weight(), SeqCst);
                Some(News::Said(said))
            }
            Event::Look(link) => {
                link.is_looked_for.store(false, SeqCst);
                let key = link.key;
                // Both may have been meant; who has lost nothing new is looked at for its members.
                let lost = link.lost.load(SeqCst);
                let told = link.told.swap(lost, SeqCst);
                Some(if lost == told { News::Members { key } } else { News::Lost { key, lost } })
            }
            Event::Gone(key) => Some(News::Gone { key }),
        }
    }
}

/// What waits then is lost as what is said later.
impl Drop for Feed {
    fn drop(&mut self) {
        self.end();
    }
}

impl Feed {
    /// Does what it means to drop it.
    pub(crate) fn end(&mut self) {
        self.receiver.close();
        while let Ok(event) = self.receiver.try_recv() {
            if let Event::Said(said) = event {
                self.state.bytes.fetch_sub(said.weight(), SeqCst);
                self.state.lost.fetch_add(1, Relaxed);
            }
        }
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}

/// What a [`Feed`] tells. `key` is the room's, as it was [linked](crate::Room::link).
#[derive(Debug)]
#[non_exhaustive]
pub enum News {
    /// Something was said.
    Said(Said),
    /// The room's first member in this process has joined, or the last one has left: look at [`Room::is_empty`](crate::Room::is_empty).
    Members {
        /// The room.
        key: u64,
    },
    /// The uplink has lost messages of the room. Its members may have changed as well.
    Lost {
        /// The room.
        key: u64,
        /// Number of the room's messages that were lost so far.
        lost: u64,
    },
    /// The room is gone: its last [`Room`](crate::Room) was dropped.
    Gone {
        /// The room.
        key: u64,
    },
}

/// A message that was said in a room.
pub struct Said {
    key: u64,
    lost_before: u64,
    bytes: SharedBytes,
}

impl Said {
    /// Returns the room's key.
    #[must_use]
    pub fn key(&self) -> u64 {
        self.key
    }

    /// Returns the number of the room's messages that the uplink has lost before this one, since it was linked.
    #[must_use]
    pub fn lost_before(&self) -> u64 {
        self.lost_before
    }

    /// Returns the message.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn weight(&self) -> usize {
        self.bytes.len() + MESSAGE_BYTES
    }
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the text: it is a peer's.
        f.debug_struct("Said").field("key", &self.key).field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

enum Event {
    Said(Said),
    /// The room's members or the number of its lost messages have changed.
    Look(Arc<LinkState>),
    Gone(u64),
}

struct LinkState {
    key: u64,
    lost: AtomicU64,
    /// The number of lost messages that the feed was told.
    told: AtomicU64,
    /// A `Look` waits in the queue: a room has one there at most.
    is_looked_for: AtomicBool,
}

/// A room's end of an uplink.
pub(crate) struct Link {
    uplink: Uplink,
    state: Arc<LinkState>,
}

impl Link {
    pub(crate) fn new(uplink: &Uplink, key: u64) -> Self {
        let (lost, told) = (AtomicU64::new(0), AtomicU64::new(0));
        let state = Arc::new(LinkState { key, lost, told, is_looked_for: AtomicBool::new(false) });
        Self { uplink: uplink.clone(), state }
    }

    /// Puts a message into the queue, or counts it as lost.
    pub(crate) fn offer(&self, bytes: SharedBytes) {
        let State { sender, bytes: waiting, most_bytes, .. } = &*self.uplink.0;
        let said = Said { key: self.state.key, lost_before: self.state.lost.load(SeqCst), bytes };
        let weight = said.weight();
        let take = |bytes| (bytes <= *most_bytes).then_some(bytes + weight);
        if waiting.fetch_update(SeqCst, SeqCst, take).is_err() {
            self.lose();
        } else if sender.send(Event::Said(said)).is_err() {
            waiting.fetch_sub(weight, SeqCst);
            self.lose();
        }
    }

    #[cold]
    fn lose(&self) {
        self.uplink.0.lost.fetch_add(1, Relaxed);
        self.state.lost.fetch_add(1, SeqCst);
        self.look();
    }

    /// Has the feed look at the room.
    pub(crate) fn look(&self) {
        if !self.state.is_looked_for.swap(true, SeqCst) {
            // Without a feed there is nobody to tell.
            let _ = self.uplink.0.sender.send(Event::Look(Arc::clone(&self.state)));
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = self.uplink.0.sender.send(Event::Gone(self.state.key));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn bytes(len: usize) -> SharedBytes {
        Bytes::from(vec![b'x'; len]).into()
    }

    fn said(feed: &mut Feed) -> Option<(usize, u64)> {
        match feed.try_next()? {
            News::Said(said) => Some((said.bytes().len(), said.lost_before())),
            news => panic!("{news:?}"),
        }
    }

    /// Else a gap would be found where none was, or two times.
    #[test]
    fn each_message_knows_how_many_were_lost_before_it() {
        let (uplink, mut feed) = Uplink::new(100);
        let link = Link::new(&uplink, 3);
        // The first fits, and the second that begins below the bound.
        (0..5).for_each(|len| link.offer(bytes(len)));
        assert_eq!(uplink.lost(), 3);
        assert_eq!(said(&mut feed), Some((0, 0)));
        link.offer(bytes(9));
        assert_eq!(said(&mut feed), Some((1, 0)));
        assert!(matches!(feed.try_next(), Some(News::Lost { key: 3, lost: 3 })));
        assert_eq!(said(&mut feed), Some((9, 3)));
        assert_eq!(uplink.waiting_bytes(), 0);
        assert!(feed.try_next().is_none());
    }

    #[test]
    fn a_queue_holds_one_notice_a_room_however_often_something_happens() {
        let (uplink, mut feed) = Uplink::new(0);
        let link = Link::new(&uplink, 3);
        link.offer(bytes(1));
        (0..1000).for_each(|_| link.offer(bytes(1)));
        (0..1000).for_each(|_| link.look());
        assert_eq!(said(&mut feed), Some((1, 0)));
        assert!(matches!(feed.try_next(), Some(News::Lost { lost: 1000, .. })));
        assert!(feed.try_next().is_none());
        link.look();
        assert!(matches!(feed.try_next(), Some(News::Members { key: 3 })));
        drop(link);
        assert!(matches!(feed.try_next(), Some(News::Gone { key: 3 })));
        drop(uplink);
        assert!(feed.try_next().is_none());
    }

    #[test]
    fn what_nobody_takes_is_lost_and_weighs_nothing() {
        let (uplink, feed) = Uplink::new(1000);
        let link = Link::new(&uplink, 3);
        (0..5).for_each(|_| link.offer(bytes(50)));
        assert_eq!((uplink.lost(), uplink.waiting_bytes()), (0, 5 * (50 + MESSAGE_BYTES)));
        drop(feed);
        assert_eq!((uplink.lost(), uplink.waiting_bytes()), (5, 0), "those that waited");
        (0..5).for_each(|_| link.offer(bytes(50)));
        assert_eq!((uplink.lost(), uplink.waiting_bytes()), (10, 0));
    }
}
