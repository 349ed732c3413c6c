//! Uplink: what is said in rooms here, for whoever carries it elsewhere.
//!
//! Whoever says something never waits for an uplink, and no code of others runs where it is said: it is put into a bounded
//! queue, or counted as lost. Each message knows how many of its room were lost before it, so that whoever carries them can
//! number them without a gap in the wrong place. A room that has come and gone before anything of it was told is never told of,
//! so that those which come and go faster than they are carried cost nothing.
//! Not here: rooms (`room`), carrying anything to other nodes (`cluster/rooms`).

use std::{
    collections::{BTreeMap, btree_map},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
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

/// Rooms that are gone, of which nothing is to be told but that messages were lost: so many at most.
const MOST_LOSERS: usize = 4096;

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
pub struct Uplink {
    sender: mpsc::UnboundedSender<Event>,
    /// Without the sender: the feed has it, too.
    state: Arc<State>,
}

struct State {
    /// What all messages in the queue weigh.
    bytes: AtomicUsize,
    most_bytes: usize,
    lost: AtomicU64,
    links: AtomicU64,
    /// For what is rare: not for what is said.
    notices: Mutex<Notices>,
}

/// Rooms of which something is to be told besides what is said in them.
#[derive(Default)]
struct Notices {
    /// By the numbers of their links.
    rooms: BTreeMap<u64, Arc<LinkState>>,
    /// An [`Event::Look`] is in the queue.
    is_queued: bool,
    /// Rooms among these that are gone, and were not told of before.
    losers: usize,
    /// Nobody is told anything any more.
    is_ended: bool,
}

impl State {
    fn notices(&self) -> MutexGuard<'_, Notices> {
        // Nothing is ever left half done under the lock.
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Uplink {
    /// Makes an uplink and its feed. While more than `most_bytes` wait in the queue, messages are lost. A message counts with its
    /// length and 64 bytes.
    #[must_use]
    pub fn new(most_bytes: usize) -> (Self, Feed) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let state = Arc::new(State {
            bytes: AtomicUsize::new(0),
            most_bytes,
            lost: AtomicU64::new(0),
            links: AtomicU64::new(0),
            notices: Mutex::default(),
        });
        let feed = Feed { state: Arc::clone(&state), receiver, rooms: BTreeMap::new().into_iter() };
        (Self { sender, state }, feed)
    }

    /// Returns the number of messages that were lost: the queue had no room for them, or the [`Feed`] was dropped before it had
    /// returned them.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.state.lost.load(Relaxed)
    }

    /// Returns the length of all messages in the queue, and 64 bytes for each. Unit: bytes.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.state.bytes.load(Relaxed)
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
///
/// A room that is linked and dropped before anything of it was told is not told of at all, unless something was said in it: so
/// whoever keeps a table of rooms looks through it for those that are [gone](crate::WeakRoom::upgrade) whenever it has doubled.
pub struct Feed {
    state: Arc<State>,
    receiver: mpsc::UnboundedReceiver<Event>,
    /// Those that an event has told to look at, before all that came behind it.
    rooms: btree_map::IntoIter<u64, Arc<LinkState>>,
}

impl Feed {
    /// Waits for the next news. Returns `None` once the uplink and all rooms that were linked to it are gone.
    pub async fn next(&mut self) -> Option<News> {
        loop {
            if let Some((_, link)) = self.rooms.next() {
                return Some(link.tell());
            }
            let event = self.receiver.recv().await?;
            if let Some(news) = self.open(event) {
                return Some(news);
            }
        }
    }

    /// Returns the next news, or `None` if there is none at the moment.
    pub fn try_next(&mut self) -> Option<News> {
        loop {
            if let Some((_, link)) = self.rooms.next() {
                return Some(link.tell());
            }
            let event = self.receiver.try_recv().ok()?;
            if let Some(news) = self.open(event) {
                return Some(news);
            }
        }
    }

    fn open(&mut self, event: Event) -> Option<News> {
        match event {
            Event::Said(said) => {
                self.state.bytes.fetch_sub(said.weight(), SeqCst);
                Some(News::Said(said))
            }
            Event::Look => {
                let mut notices = self.state.notices();
                notices.is_queued = false;
                notices.losers = 0;
                let rooms = std::mem::take(&mut notices.rooms);
                // From now on their ends are told, too.
                rooms.values().for_each(|link| link.is_known.store(true, SeqCst));
                self.rooms = rooms.into_iter();
                None
            }
            Event::Gone(link) => {
                link.is_over.store(true, SeqCst);
                Some(News::Gone { key: link.key })
            }
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
        let rooms = {
            let mut notices = self.state.notices();
            notices.is_ended = true;
            std::mem::take(&mut notices.rooms)
        };
        drop((rooms, std::mem::take(&mut self.rooms)));
        while let Ok(event) = self.receiver.try_recv() {
            match event {
                Event::Said(said) => {
                    self.state.bytes.fetch_sub(said.weight(), SeqCst);
                    self.state.lost.fetch_add(1, Relaxed);
                }
                Event::Gone(link) => link.is_over.store(true, SeqCst),
                Event::Look => {}
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
    /// The uplink has lost messages of the room. Its members may have changed as well. Of rooms that are gone, of which nothing
    /// else is to be told, 4096 wait for it at most; of others it is not told.
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
    /// There are [`Notices`].
    Look,
    /// A room is gone that was told of, or in which something was said.
    Gone(Arc<LinkState>),
}

/// What is known of a link, as long as anything of it is to be told, and as long as somebody asks.
#[derive(Debug)]
pub(crate) struct LinkState {
    key: u64,
    number: u64,
    lost: AtomicU64,
    /// The number of lost messages that the feed was told.
    told: AtomicU64,
    /// It is among the [`Notices`], or about to be told.
    is_looked_for: AtomicBool,
    /// Something of it was told, or waits in the queue: so its end will be told, too.
    is_known: AtomicBool,
    /// Nothing of it is told any more.
    is_over: AtomicBool,
}

impl LinkState {
    fn tell(&self) -> News {
        self.is_looked_for.store(false, SeqCst);
        let key = self.key;
        // Both may have been meant; who has lost nothing new is looked at for its members.
        let lost = self.lost.load(SeqCst);
        let told = self.told.swap(lost, SeqCst);
        if lost == told { News::Members { key } } else { News::Lost { key, lost } }
    }

    /// Returns true if the feed has told of the room, or will, and its end comes behind that.
    #[cfg(feature = "cluster")]
    pub(crate) fn is_known(&self) -> bool {
        self.is_known.load(SeqCst) && !self.is_over()
    }

    /// Returns true if the room is gone, and the feed tells nothing of it any more.
    #[cfg(any(feature = "cluster", test))]
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(SeqCst)
    }
}

/// A room's end of an uplink.
pub(crate) struct Link {
    uplink: Uplink,
    state: Arc<LinkState>,
}

impl Link {
    pub(crate) fn new(uplink: &Uplink, key: u64) -> Self {
        let state = Arc::new(LinkState {
            key,
            number: uplink.state.links.fetch_add(1, Relaxed),
            lost: AtomicU64::new(0),
            told: AtomicU64::new(0),
            is_looked_for: AtomicBool::new(false),
            is_known: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        });
        Self { uplink: uplink.clone(), state }
    }

    pub(crate) fn state(&self) -> &Arc<LinkState> {
        &self.state
    }

    /// Puts a message into the queue, or counts it as lost.
    pub(crate) fn offer(&self, bytes: SharedBytes) {
        let State { bytes: waiting, most_bytes, .. } = &*self.uplink.state;
        let said = Said { key: self.state.key, lost_before: self.state.lost.load(SeqCst), bytes };
        let weight = said.weight();
        let take = |bytes| (bytes <= *most_bytes).then_some(bytes + weight);
        if waiting.fetch_update(SeqCst, SeqCst, take).is_err() {
            self.lose();
        } else if self.uplink.sender.send(Event::Said(said)).is_err() {
            waiting.fetch_sub(weight, SeqCst);
            self.lose();
        } else if !self.state.is_known.load(Relaxed) {
            self.state.is_known.store(true, SeqCst);
        }
    }

    #[cold]
    fn lose(&self) {
        self.uplink.state.lost.fetch_add(1, Relaxed);
        self.state.lost.fetch_add(1, SeqCst);
        self.look();
    }

    /// Has the feed look at the room.
    pub(crate) fn look(&self) {
        if self.state.is_looked_for.swap(true, SeqCst) {
            return;
        }
        let mut notices = self.uplink.state.notices();
        if notices.is_ended {
            return;
        }
        notices.rooms.insert(self.state.number, Arc::clone(&self.state));
        if !std::mem::replace(&mut notices.is_queued, true) {
            // Under the lock: before the end of any room that is in there. Without a feed there is nobody to tell.
            let _ = self.uplink.sender.send(Event::Look);
        }
    }
}

/// Tells the end of a room of which something was told, or will be. Of another one nothing is left.
impl Drop for Link {
    fn drop(&mut self) {
        let mut notices = self.uplink.state.notices();
        let has_lost = self.state.lost.load(SeqCst) > 0;
        let is_told =
            !notices.is_ended && (self.state.is_known.load(SeqCst) || has_lost && notices.losers < MOST_LOSERS);
        if !is_told {
            notices.rooms.remove(&self.state.number);
            self.state.is_over.store(true, SeqCst);
            return;
        }
        if !self.state.is_known.swap(true, SeqCst) {
            notices.losers += 1;
        }
        if self.uplink.sender.send(Event::Gone(Arc::clone(&self.state))).is_err() {
            self.state.is_over.store(true, SeqCst);
        }
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
    fn a_room_that_comes_and_goes_untold_is_never_told_of_unless_it_has_said_something() {
        let (uplink, mut feed) = Uplink::new(0);
        let link = Link::new(&uplink, 1);
        link.look();
        let state = Arc::clone(link.state());
        drop(link);
        assert!(state.is_over() && uplink.state.notices().rooms.is_empty());
        assert!(feed.try_next().is_none());
        // One that has said something, and one that is told of meanwhile.
        let links = [2, 3, 4].map(|key| Link::new(&uplink, key));
        let states = links.each_ref().map(|link| Arc::clone(link.state()));
        links.iter().for_each(Link::look);
        let [said, told, untold] = links;
        said.offer(bytes(1));
        drop((said, untold));
        assert!(matches!(feed.try_next(), Some(News::Members { key: 2 })));
        drop(told);
        let news: Vec<_> = std::iter::from_fn(|| feed.try_next()).collect();
        assert!(
            matches!(news[..], [News::Members { key: 3 }, News::Said(_), News::Gone { key: 2 }, News::Gone { key: 3 }]),
            "{news:?}"
        );
        assert!(states.iter().all(|state| state.is_over()));
    }

    #[test]
    fn what_rooms_have_lost_that_are_gone_is_told_of_a_bounded_number() {
        let (uplink, mut feed) = Uplink::new(0);
        Link::new(&uplink, 0).offer(bytes(1));
        for key in 1..=MOST_LOSERS as u64 + 100 {
            let link = Link::new(&uplink, key);
            link.look();
            link.offer(bytes(1));
        }
        let (mut losers, mut gone) = (0, 0);
        while let Some(news) = feed.try_next() {
            losers += usize::from(matches!(news, News::Lost { lost: 1, .. }));
            gone += usize::from(matches!(news, News::Gone { .. }));
        }
        assert_eq!((losers, gone), (MOST_LOSERS, MOST_LOSERS + 1));
        assert_eq!(uplink.lost(), MOST_LOSERS as u64 + 100);
        // There is room for others now.
        Link::new(&uplink, 7).lose();
        assert!(matches!(feed.try_next(), Some(News::Lost { key: 7, lost: 1 })));
    }

    #[actix_rt::test]
    async fn a_feed_ends_behind_its_uplink_and_the_last_room() {
        let (uplink, mut feed) = Uplink::new(100);
        let link = Link::new(&uplink, 3);
        link.offer(bytes(1));
        drop((uplink, link));
        assert!(matches!(feed.next().await, Some(News::Said(_))));
        assert!(matches!(feed.next().await, Some(News::Gone { key: 3 })));
        assert!(feed.next().await.is_none());
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
