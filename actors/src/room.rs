//! Rooms: what one session says, all others of a room are written, whatever worker they run on.
//!
//! A message goes to each worker that has members, not to each member: the bytes are shared, and a worker writes them to
//! its own members as it would a push, with the pressure policy of each. So saying costs what its members' writes cost.
//! A worker that does not keep up holds back those who say something, and is never owed more than a bounded amount.
//! Not here: the slots that members are known by (`worker`), what becomes of pushed bytes (`context`).

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst},
    },
    task::Waker,
};

use bytes::Bytes;
use slab::Slab;
use tokio::sync::mpsc;

use crate::{SessionId, shared::SharedBytes};

/// With more than this to deliver, a worker has those who say more read nothing until it has caught up to a quarter of it.
/// Unit: bytes. It is a high watermark's worth for sixteen sessions.
const CROWDED_BYTES: usize = 1024 * 1024;
/// With more than this to deliver, a worker is given no more: what is said without reading cannot be held back.
const MOST_BYTES: usize = 4 * CROWDED_BYTES;
/// What a message weighs besides its bytes, so that empty ones weigh something. About the size of its place in the queue.
const MESSAGE_BYTES: usize = 64;

/// Members looked at before the sessions of a worker get a turn again, and bytes that each of them may have been given by
/// then: they have to get rid of what they have, or it would be too much for their outbox.
pub(crate) const DELIVERIES_PER_SLICE: usize = 1024;
pub(crate) const BYTES_PER_SLICE: usize = 64 * 1024;

/// Sessions that hear what is said to them all: publish and subscribe. A clone is the same room.
///
/// Members may run on any workers, of any servers of this process, or without a server. They leave when they end. What one
/// session says arrives at each member in the order it was said; what several say, in any order. A member that does not
/// read is treated by its [`Pressure`](crate::Pressure), so it is never waited for.
///
/// ```
/// use actix::Actor;
/// use actix_lines::{Line, LineContext, LineHandler, LineServer, Room};
///
/// struct Chatter(Room);
///
/// impl Actor for Chatter {
///     type Context = LineContext<Self>;
/// }
///
/// impl LineHandler for Chatter {
///     fn opened(&mut self, ctx: &mut Self::Context) {
///         ctx.join(&self.0);
///     }
///
///     fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
///         ctx.say(&self.0, line.to_vec());
///     }
/// }
///
/// let room = Room::new();
/// let server = LineServer::new(move |_| Chatter(room.clone()));
/// # drop(server);
/// ```
#[derive(Clone)]
pub struct Room(Arc<Shared>);

struct Shared {
    id: RoomId,
    /// The workers that have members.
    seats: RwLock<Vec<Seat>>,
    lost: AtomicU64,
}

struct Seat {
    inbox: Arc<Inbox>,
    members: AtomicUsize,
}

/// Which room, for the tables of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RoomId(u64);

impl Room {
    /// Makes a room without members.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(Arc::new(Shared {
            id: RoomId(NEXT.fetch_add(1, Relaxed)),
            seats: RwLock::default(),
            lost: AtomicU64::new(0),
        }))
    }

    /// Has all members write `bytes`, from anywhere. A session says it to the others with
    /// [`LineContext::say`](crate::LineContext::say), which also holds it back when the members' workers cannot keep up;
    /// whoever calls this has to bound himself, or bytes will be [lost](Self::lost).
    pub fn say(&self, bytes: impl Into<Bytes>) {
        self.send(bytes.into().into(), None, |_| {});
    }

    /// How many members there are.
    #[must_use]
    pub fn members(&self) -> usize {
        self.seats().iter().map(|seat| seat.members.load(Relaxed)).sum()
    }

    /// How many messages members did not get: because their outbox held too much, by the policy of their
    /// [`Pressure`](crate::Pressure), or because their worker was owed more than 4 MiB of messages.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Relaxed)
    }

    /// Sends it to the workers that have members; `crowded` is told of those that do not keep up.
    pub(crate) fn send(&self, bytes: SharedBytes, except: Option<SessionId>, mut crowded: impl FnMut(&Arc<Inbox>)) {
        for seat in self.seats().iter() {
            let said = Said { room: self.clone(), bytes: bytes.clone(), except };
            match seat.inbox.put(said) {
                Put::Done => {}
                Put::Crowded => crowded(&seat.inbox),
                Put::Full => self.add_lost(seat.members.load(Relaxed) as u64),
            }
        }
    }

    pub(crate) fn add_lost(&self, messages: u64) {
        self.0.lost.fetch_add(messages, Relaxed);
    }

    fn seats(&self) -> RwLockReadGuard<'_, Vec<Seat>> {
        // Nothing is ever left half done under the lock.
        self.0.seats.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker has one member more. Only the worker itself gives up its seat, so it cannot be gone in between.
    fn enter(&self, inbox: &Arc<Inbox>) {
        if let Some(seat) = self.seats().iter().find(|seat| Arc::ptr_eq(&seat.inbox, inbox)) {
            seat.members.fetch_add(1, Relaxed);
            return;
        }
        let mut seats = self.0.seats.write().unwrap_or_else(PoisonError::into_inner);
        seats.push(Seat { inbox: Arc::clone(inbox), members: AtomicUsize::new(1) });
    }

    fn exit(&self, inbox: &Arc<Inbox>) {
        let is_mine = |seat: &Seat| Arc::ptr_eq(&seat.inbox, inbox);
        let left = self.seats().iter().find(|seat| is_mine(seat)).map(|seat| seat.members.fetch_sub(1, Relaxed) - 1);
        if left == Some(0) {
            self.0.seats.write().unwrap_or_else(PoisonError::into_inner).retain(|seat| !is_mine(seat));
        }
    }
}

impl Default for Room {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("members", &self.members()).field("lost", &self.lost()).finish_non_exhaustive()
    }
}

/// Something said, on its way to the members of one worker.
pub(crate) struct Said {
    pub(crate) room: Room,
    pub(crate) bytes: SharedBytes,
    pub(crate) except: Option<SessionId>,
}

impl Said {
    fn weight(&self) -> usize {
        self.bytes.len() + MESSAGE_BYTES
    }
}

enum Put {
    Done,
    /// Taken, but whoever said it should say no more for now.
    Crowded,
    /// Not taken.
    Full,
}

/// What a worker has yet to deliver.
#[derive(Debug)]
pub(crate) struct Inbox {
    sender: mpsc::UnboundedSender<Said>,
    /// What all of it weighs.
    bytes: AtomicUsize,
    /// Nobody delivers any more.
    is_closed: AtomicBool,
    /// Sessions that wait until there is less; looked at only if there may be one.
    crowd: Mutex<Vec<Waker>>,
    has_crowd: AtomicBool,
}

impl Inbox {
    pub(crate) fn new() -> (Arc<Self>, Hearing) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let inbox = Arc::new(Self {
            sender,
            bytes: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
            crowd: Mutex::default(),
            has_crowd: AtomicBool::new(false),
        });
        (Arc::clone(&inbox), Hearing { inbox, receiver })
    }

    fn put(&self, said: Said) -> Put {
        let weight = said.weight();
        let before = self.bytes.fetch_add(weight, SeqCst);
        if before > MOST_BYTES || self.sender.send(said).is_err() {
            self.bytes.fetch_sub(weight, SeqCst);
            return Put::Full;
        }
        if before + weight > CROWDED_BYTES { Put::Crowded } else { Put::Done }
    }

    /// One has been delivered to all.
    fn took(&self, weight: usize) {
        let left = self.bytes.fetch_sub(weight, SeqCst) - weight;
        if left <= CROWDED_BYTES / 4 && self.has_crowd.load(SeqCst) {
            self.wake_crowd();
        }
    }

    #[cold]
    fn wake_crowd(&self) {
        let crowd = {
            let mut crowd = self.crowd.lock().unwrap_or_else(PoisonError::into_inner);
            self.has_crowd.store(false, SeqCst);
            std::mem::take(&mut *crowd)
        };
        crowd.into_iter().for_each(Waker::wake);
    }

    /// Whether those who say something should wait.
    pub(crate) fn is_crowded(&self) -> bool {
        self.bytes.load(SeqCst) > CROWDED_BYTES / 4 && !self.is_closed.load(SeqCst)
    }

    /// Has `waker` woken when there is less to deliver; false if that is so already.
    pub(crate) fn wait(&self, waker: &Waker) -> bool {
        let mut crowd = self.crowd.lock().unwrap_or_else(PoisonError::into_inner);
        crowd.push(waker.clone());
        self.has_crowd.store(true, SeqCst);
        // Looked at after it was said that somebody waits: one of both sides sees the other.
        self.is_crowded()
    }
}

/// The worker's end of an inbox. Once it is gone nobody waits for it.
#[derive(Debug)]
pub(crate) struct Hearing {
    inbox: Arc<Inbox>,
    receiver: mpsc::UnboundedReceiver<Said>,
}

impl Hearing {
    pub(crate) async fn next(&mut self) -> Option<Said> {
        self.receiver.recv().await
    }

    pub(crate) fn next_now(&mut self) -> Option<Said> {
        self.receiver.try_recv().ok()
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.inbox.is_closed.store(true, SeqCst);
        self.inbox.wake_crowd();
    }
}

/// The members of one worker, room by room, by their slots.
#[derive(Default)]
pub(crate) struct Members(HashMap<RoomId, Slab<u32>>);

/// A session's place in a room, on its worker.
#[derive(Debug)]
pub(crate) struct Place {
    room: Room,
    key: usize,
}

impl Members {
    /// The session in `slot` enters a room, unless it is in it already.
    pub(crate) fn join(&mut self, places: &mut Vec<Place>, slot: u32, room: &Room, inbox: &Arc<Inbox>) {
        if places.iter().all(|place| place.room.0.id != room.0.id) {
            let key = self.0.entry(room.0.id).or_default().insert(slot);
            places.push(Place { room: room.clone(), key });
            room.enter(inbox);
        }
    }

    pub(crate) fn leave(&mut self, places: &mut Vec<Place>, room: &Room, inbox: &Arc<Inbox>) {
        if let Some(at) = places.iter().position(|place| place.room.0.id == room.0.id) {
            self.give_up(places.swap_remove(at), inbox);
        }
    }

    /// A session that ends gives up its place.
    pub(crate) fn give_up(&mut self, place: Place, inbox: &Arc<Inbox>) {
        let id = place.room.0.id;
        if let Some(members) = self.0.get_mut(&id) {
            members.remove(place.key);
            if members.is_empty() {
                self.0.remove(&id);
            }
        }
        place.room.exit(inbox);
    }
}

/// A message that is being delivered, some members at a time.
pub(crate) struct Delivery {
    said: Said,
    /// Where in the room's table it is. Members that come meanwhile may or may not hear of it; none does twice.
    next: usize,
}

impl Delivery {
    pub(crate) fn new(said: Said) -> Self {
        Self { said, next: 0 }
    }

    /// Length of the message, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.said.bytes.len()
    }

    /// Delivers it to `most` places at most. `offer` writes to a slot, or says that it did not. Returns the places looked
    /// at, or `None` when all were.
    pub(crate) fn go_on(
        &mut self,
        members: &Members,
        inbox: &Inbox,
        most: usize,
        mut offer: impl FnMut(u32, &Said) -> bool,
    ) -> Option<usize> {
        let table = members.0.get(&self.said.room.0.id);
        let end = table.map_or(0, Slab::capacity);
        let until = end.min(self.next.saturating_add(most));
        let mut lost = 0;
        for slot in (self.next..until).filter_map(|key| table?.get(key)) {
            if !offer(*slot, &self.said) {
                lost += 1;
            }
        }
        if lost > 0 {
            self.said.room.add_lost(lost);
        }
        let looked_at = until.saturating_sub(self.next);
        self.next = until;
        if until < end {
            return Some(looked_at);
        }
        inbox.took(self.said.weight());
        None
    }
}
