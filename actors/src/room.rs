//! Rooms: messages of one session to all others of a room, on any workers.
//!
//! A message goes to each worker that has members, not to each member: the bytes are shared, and a worker writes them
//! to its own members as it would a push, with the outbox policy of each. So a message costs about as much as the
//! writes of its members. A worker that does not keep up holds back the senders, and a bounded amount waits for it at
//! most.
//! Not here: delivery to a worker's members (`worker/delivery`), outbox limits (`worker/pushes`), what else hears of messages
//! (`uplink`).

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst},
    },
    task::Waker,
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::{
    connection::SessionId,
    shared::SharedBytes,
    uplink::{Link, LinkState, Uplink},
};

/// Amount waiting for a worker above which sessions that say more read nothing, until it has caught up to a quarter of
/// this. Unit: bytes. It is a high watermark's worth for sixteen sessions.
const CROWDED_BYTES: usize = 1024 * 1024;
/// Amount waiting for a worker above which it is given no more: senders that do not read lines cannot be held back.
/// Unit: bytes.
const MOST_BYTES: usize = 4 * CROWDED_BYTES;
/// Weight of a message besides its bytes, so that empty ones count. About the size of its place in the queue.
const MESSAGE_BYTES: usize = 64;

/// A set of sessions that get the same messages: publish and subscribe. A clone is the same room.
///
/// Members may run on any workers, of any servers of this process, or without a server. They leave when they end.
/// Messages of one session arrive at each member in the order in which they were sent; messages of several sessions in
/// any order. A member that does not read is treated by its [`OutboxLimit`](crate::limits::OutboxLimit), so no message waits
/// for it without bound; its actor can tell the peer how many messages are [missing](crate::LineHandler::missed).
///
/// A room belongs to one process, unless a cluster shares it with the rooms of the same name on other nodes.
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
pub struct Room(Arc<RoomState>);

struct RoomState {
    id: RoomId,
    name: Option<Arc<str>>,
    /// Hears what is said, too.
    link: OnceLock<Link>,
    /// The workers that have members.
    seats: RwLock<Vec<Seat>>,
    lost: AtomicU64,
    /// Messages that workers were not given. No less than any seat's own count.
    skipped: AtomicU64,
}

struct Seat {
    inbox: Arc<Inbox>,
    members: AtomicUsize,
    /// Messages that this worker was not given: it only grows, also from one seat of a worker to its next.
    skipped: AtomicU64,
}

/// Which room, for the tables of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RoomId(u64);

impl Room {
    /// Makes a room without members.
    #[must_use]
    pub fn new() -> Self {
        Self::make(None)
    }

    /// Makes a room with a name and without members. Another call with the same name makes another room: the name only counts
    /// where rooms are shared with other processes.
    #[must_use]
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        Self::make(Some(name.into()))
    }

    fn make(name: Option<Arc<str>>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(Arc::new(RoomState {
            id: RoomId(NEXT.fetch_add(1, Relaxed)),
            name,
            link: OnceLock::new(),
            seats: RwLock::default(),
            lost: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
        }))
    }

    /// Returns the name, if the room was [made](Self::named) with one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    /// Writes `bytes` to all members; may be called from anywhere. Within a session use
    /// [`LineContext::say`](crate::LineContext::say), which leaves out the session itself and holds it back while the
    /// members' workers do not keep up. Other callers have to limit themselves, or bytes will be [lost](Self::lost).
    pub fn say(&self, bytes: impl Into<Bytes>) {
        self.send(bytes.into().into(), None, |_, _| {});
    }

    /// Writes `bytes` to the members in this process, and does not tell the [uplink](Self::link). Otherwise as
    /// [`say`](Self::say).
    pub fn say_here(&self, bytes: impl Into<Bytes>) {
        self.send_here(bytes.into().into(), None, |_, _| {});
    }

    /// Counts messages that were said elsewhere and did not arrive here: each member is
    /// [told](crate::LineHandler::missed) of them before its next message. They count as [lost](Self::lost).
    pub fn note_missing(&self, messages: u64) {
        // A seat that is new meanwhile would count them twice.
        let seats = self.seats();
        self.0.skipped.fetch_add(messages, Relaxed);
        for seat in seats.iter() {
            seat.skipped.fetch_add(messages, Relaxed);
            self.add_lost(messages.saturating_mul(seat.members.load(Relaxed) as u64));
        }
    }

    /// Links the room to an uplink, for as long as there is the room: whatever is said in it from now on goes to the uplink
    /// under this `key`, and so does the news that its first member has joined or its last one has left. Returns false, and
    /// changes nothing, if the room is linked already.
    pub fn link(&self, uplink: &Uplink, key: u64) -> bool {
        self.link_up(uplink, key).is_some()
    }

    /// As [`link`](Self::link). Returns what is known of the link, if there is a new one.
    pub(crate) fn link_up(&self, uplink: &Uplink, key: u64) -> Option<Arc<LinkState>> {
        if self.0.link.get().is_some() {
            return None;
        }
        let mut is_new = false;
        let link = self.0.link.get_or_init(|| {
            is_new = true;
            Link::new(uplink, key)
        });
        is_new.then(|| {
            link.look();
            Arc::clone(link.state())
        })
    }

    /// Returns a reference that does not keep the room alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakRoom {
        WeakRoom(Arc::downgrade(&self.0))
    }

    /// Writes `bytes` to all members of several rooms, once to each, in however many of the rooms it is; may be called
    /// from anywhere. The message keeps its place among those of each room. Within a session use
    /// [`LineContext::say_to_all`](crate::LineContext::say_to_all).
    pub fn say_to_all<'a>(rooms: impl IntoIterator<Item = &'a Room>, bytes: impl Into<Bytes>) {
        Self::send_to_all(rooms, &bytes.into().into(), None, |_, _, _| {});
    }

    /// Returns the number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seats().iter().map(|seat| seat.members.load(Relaxed)).sum()
    }

    /// Returns true if there are no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Asks the workers for the members. Returns their numbers in order. A session that joins or leaves meanwhile may
    /// or may not be among them. It takes as long as the slowest worker takes until its next turn.
    ///
    /// ```
    /// # actix_rt::System::new().block_on(async {
    /// let room = actix_lines::Room::new();
    /// assert!(room.members().await.is_empty());
    /// # });
    /// ```
    pub async fn members(&self) -> Vec<SessionId> {
        // Those that do not answer have ended.
        let lists = futures::future::join_all(self.ask_members()).await;
        let mut members: Vec<SessionId> = lists.into_iter().flatten().flatten().collect();
        members.sort_unstable();
        members
    }

    fn ask_members(&self) -> Vec<oneshot::Receiver<Vec<SessionId>>> {
        let ask = |seat: &Seat| {
            let (answer, answered) = oneshot::channel();
            // A worker that has ended drops the question.
            let _ = seat.inbox.sender.send(Told::Ask { room: self.id(), answer });
            answered
        };
        self.seats().iter().map(ask).collect()
    }

    /// Returns the number of messages that members did not get: because their outbox was full, by the policy of their
    /// [`OutboxLimit`](crate::limits::OutboxLimit), because more than 4 MiB of messages waited for their worker, or because
    /// they did not come from [elsewhere](Self::note_missing).
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Relaxed)
    }

    pub(crate) fn id(&self) -> RoomId {
        self.0.id
    }

    /// Sends it to the workers that have members, and up; `stuck` is told of workers that do not keep up.
    pub(crate) fn send(&self, bytes: SharedBytes, except: Option<SessionId>, stuck: impl FnMut(&Arc<Inbox>, Stuck)) {
        if let Some(link) = self.0.link.get() {
            link.offer(bytes.clone());
        }
        self.send_here(bytes, except, stuck);
    }

    fn send_here(&self, bytes: SharedBytes, except: Option<SessionId>, mut stuck: impl FnMut(&Arc<Inbox>, Stuck)) {
        for seat in self.seats().iter() {
            let skipped = seat.skipped.load(Relaxed);
            let said =
                Said { room: self.clone(), bytes: bytes.clone(), except, skipped, others: Vec::new(), heard: None };
            match seat.inbox.put(said) {
                Ok(()) => {}
                Err(Stuck::Crowded) => stuck(&seat.inbox, Stuck::Crowded),
                Err(Stuck::Full) => {
                    self.skip(seat);
                    stuck(&seat.inbox, Stuck::Full);
                }
            }
        }
    }

    /// The same for several rooms: a worker that has members of any is sent it once, with those of the rooms that it has
    /// members of. `stuck` is told which room, too, each time.
    pub(crate) fn send_to_all<'a>(
        rooms: impl IntoIterator<Item = &'a Room>,
        bytes: &SharedBytes,
        except: Option<SessionId>,
        mut stuck: impl FnMut(&Room, &Arc<Inbox>, Stuck),
    ) {
        let mut known = HashSet::new();
        let mut workers: Vec<(Arc<Inbox>, Parts)> = Vec::new();
        for room in rooms {
            if !known.insert(room.id()) {
                continue;
            }
            if let Some(link) = room.0.link.get() {
                link.offer(bytes.clone());
            }
            for seat in room.seats().iter() {
                let part = (room.clone(), seat.skipped.load(Relaxed));
                match workers.iter_mut().find(|(inbox, _)| Arc::ptr_eq(inbox, &seat.inbox)) {
                    Some((_, parts)) => parts.push(part),
                    None => workers.push((Arc::clone(&seat.inbox), vec![part])),
                }
            }
        }
        for (inbox, mut others) in workers {
            let rooms: Vec<Room> = others.iter().map(|(room, _)| room.clone()).collect();
            let Some((room, skipped)) = others.pop() else { continue };
            let said = Said { room, bytes: bytes.clone(), except, skipped, others, heard: None };
            let Err(how) = inbox.put(said) else { continue };
            for room in &rooms {
                if how == Stuck::Full
                    && let Some(seat) = room.seats().iter().find(|seat| Arc::ptr_eq(&seat.inbox, &inbox))
                {
                    room.skip(seat);
                }
                stuck(room, &inbox, how);
            }
        }
    }

    /// A worker was not given a message.
    fn skip(&self, seat: &Seat) {
        self.0.skipped.fetch_add(1, Relaxed);
        seat.skipped.fetch_add(1, Relaxed);
        self.add_lost(seat.members.load(Relaxed) as u64);
    }

    pub(crate) fn add_lost(&self, messages: u64) {
        self.0.lost.fetch_add(messages, Relaxed);
    }

    /// A member did not lose what it said itself.
    pub(crate) fn forgive_lost(&self) {
        self.0.lost.fetch_sub(1, Relaxed);
    }

    fn seats(&self) -> RwLockReadGuard<'_, Vec<Seat>> {
        // Nothing is ever left half done under the lock.
        self.0.seats.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker has one member more. Only the worker itself gives up its seat, so it cannot be gone in between. Returns how
    /// many messages it was not given until now.
    pub(crate) fn enter(&self, inbox: &Arc<Inbox>) -> u64 {
        if let Some(seat) = self.seats().iter().find(|seat| Arc::ptr_eq(&seat.inbox, inbox)) {
            seat.members.fetch_add(1, Relaxed);
            return seat.skipped.load(Relaxed);
        }
        let mut seats = self.0.seats.write().unwrap_or_else(PoisonError::into_inner);
        let skipped = self.0.skipped.load(Relaxed);
        let (members, skipped_here) = (AtomicUsize::new(1), AtomicU64::new(skipped));
        let is_first = seats.is_empty();
        seats.push(Seat { inbox: Arc::clone(inbox), members, skipped: skipped_here });
        drop(seats);
        if is_first {
            self.members_changed();
        }
        skipped
    }

    pub(crate) fn exit(&self, inbox: &Arc<Inbox>) {
        let is_mine = |seat: &Seat| Arc::ptr_eq(&seat.inbox, inbox);
        let left = self.seats().iter().find(|seat| is_mine(seat)).map(|seat| seat.members.fetch_sub(1, Relaxed) - 1);
        if left == Some(0) {
            let mut seats = self.0.seats.write().unwrap_or_else(PoisonError::into_inner);
            seats.retain(|seat| !is_mine(seat));
            let is_last = seats.is_empty();
            drop(seats);
            if is_last {
                self.members_changed();
            }
        }
    }

    fn members_changed(&self) {
        if let Some(link) = self.0.link.get() {
            link.look();
        }
    }
}

/// A reference to a room that does not keep it alive: [`Room::downgrade`].
#[derive(Clone)]
pub struct WeakRoom(Weak<RoomState>);

impl WeakRoom {
    /// Returns the room, or `None` if its last [`Room`] was dropped.
    #[must_use]
    pub fn upgrade(&self) -> Option<Room> {
        self.0.upgrade().map(Room)
    }
}

impl fmt::Debug for WeakRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakRoom").finish_non_exhaustive()
    }
}

impl Default for Room {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Room");
        if let Some(name) = &self.0.name {
            shown.field("name", name);
        }
        shown.field("members", &self.len()).field("lost", &self.lost()).finish_non_exhaustive()
    }
}

/// What a worker's inbox holds.
pub(crate) enum Told {
    Said(Said),
    /// Asks for the members of a room on this worker.
    Ask {
        room: RoomId,
        answer: oneshot::Sender<Vec<SessionId>>,
    },
}

/// Who on a worker has heard a message that was said to several rooms: a bit for each slot. Whoever has a slot after another
/// session was not there when it was said. Only that worker looks at it, so its lock is always free.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<Vec<u64>>);

impl Heard {
    /// Notes that the session in `slot` hears it. False if it has already.
    pub(crate) fn note(&self, slot: u32) -> bool {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (word, bit) = (slot as usize / 64, 1 << (slot % 64));
        if slots.len() <= word {
            slots.resize(word + 1, 0);
        }
        let is_new = slots[word] & bit == 0;
        slots[word] |= bit;
        is_new
    }
}

/// Rooms of one worker, each with the messages that the worker was not given.
type Parts = Vec<(Room, u64)>;

/// Something said, on its way to the members of one worker.
pub(crate) struct Said {
    pub(crate) room: Room,
    pub(crate) bytes: SharedBytes,
    pub(crate) except: Option<SessionId>,
    /// Messages before this one that the worker was not given.
    pub(crate) skipped: u64,
    /// The other rooms with members there that it was said to, as `room` and `skipped`.
    pub(crate) others: Parts,
    /// Who has heard it in another room, once it is delivered room by room.
    pub(crate) heard: Option<Arc<Heard>>,
}

impl Said {
    pub(crate) fn weight(&self) -> usize {
        // In each room as if it was said there alone.
        (1 + self.others.len()) * (self.bytes.len() + MESSAGE_BYTES)
    }
}

/// How a worker does not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stuck {
    /// It has the message, but whoever said it should say no more for now.
    Crowded,
    /// It has not.
    Full,
}

/// What a worker has yet to deliver.
#[derive(Debug)]
pub(crate) struct Inbox {
    sender: mpsc::UnboundedSender<Told>,
    /// What all of it weighs.
    bytes: AtomicUsize,
    /// Nobody delivers any more.
    is_closed: AtomicBool,
    /// Looked at only if somebody may be in it.
    crowd: Mutex<Crowd>,
    has_crowd: AtomicBool,
}

/// Sessions that wait until there is less to deliver.
#[derive(Debug, Default)]
struct Crowd {
    wakers: Vec<Waker>,
    /// How often all were woken.
    woken: u64,
}

/// A place in a crowd, until it is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait(u64);

impl Inbox {
    pub(crate) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Told>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let inbox = Arc::new(Self {
            sender,
            bytes: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
            crowd: Mutex::default(),
            has_crowd: AtomicBool::new(false),
        });
        (inbox, receiver)
    }

    fn put(&self, said: Said) -> Result<(), Stuck> {
        let weight = said.weight();
        // What is not taken never weighs anything: whoever waits would not hear that it is gone again.
        let take = |bytes| (bytes <= MOST_BYTES).then_some(bytes + weight);
        let Ok(before) = self.bytes.fetch_update(SeqCst, SeqCst, take) else { return Err(Stuck::Full) };
        if self.sender.send(Told::Said(said)).is_err() {
            self.took(weight);
            return Err(Stuck::Full);
        }
        if before + weight > CROWDED_BYTES { Err(Stuck::Crowded) } else { Ok(()) }
    }

    /// So much has been delivered to all.
    pub(crate) fn took(&self, weight: usize) {
        let left = self.bytes.fetch_sub(weight, SeqCst) - weight;
        if left <= CROWDED_BYTES / 4 && self.has_crowd.load(SeqCst) {
            self.wake_crowd();
        }
    }

    /// Nobody delivers any more, and nobody waits for it.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, SeqCst);
        self.wake_crowd();
    }

    #[cold]
    fn wake_crowd(&self) {
        let wakers = {
            let mut crowd = self.crowd();
            self.has_crowd.store(false, SeqCst);
            crowd.woken += 1;
            std::mem::take(&mut crowd.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        // Nothing is ever left half done under the lock.
        self.crowd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if those who say something should wait.
    fn is_crowded(&self) -> bool {
        self.bytes.load(SeqCst) > CROWDED_BYTES / 4 && !self.is_closed.load(SeqCst)
    }

    /// Has `waker` woken when there is less to deliver; `None` if that is so already. Whoever was woken and finds that there
    /// is more again has to wait anew: `waits` is his place, which he may have lost.
    pub(crate) fn wait(&self, waker: &Waker, waits: Option<Wait>) -> Option<Wait> {
        let mut crowd = self.crowd();
        let wait = Wait(crowd.woken);
        if waits != Some(wait) {
            crowd.wakers.push(waker.clone());
            self.has_crowd.store(true, SeqCst);
        }
        // Looked at after it was said that somebody waits: one of both sides sees the other.
        self.is_crowded().then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::atomic::AtomicU32,
        task::{Wake, Waker},
    };

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    impl Woken {
        fn times(&self) -> u32 {
            self.0.load(SeqCst)
        }
    }

    fn said(len: usize) -> Said {
        Said {
            room: Room::new(),
            bytes: Bytes::from(vec![b'x'; len]).into(),
            except: None,
            skipped: 0,
            others: Vec::new(),
            heard: None,
        }
    }

    fn take_all(inbox: &Inbox, receiver: &mut mpsc::UnboundedReceiver<Told>) {
        while let Ok(Told::Said(said)) = receiver.try_recv() {
            inbox.took(said.weight());
        }
    }

    /// Else it could keep the sum above the mark when what was taken has been delivered, and nobody would be woken.
    #[test]
    fn what_is_not_taken_never_weighs_anything() {
        let (inbox, mut receiver) = Inbox::new();
        while inbox.put(said(10_000)) != Err(Stuck::Full) {}
        let full = inbox.bytes.load(SeqCst);
        let is_over = AtomicBool::new(false);
        let (room, bytes) = (Room::new(), Bytes::from(vec![b'x'; CROWDED_BYTES]));
        let weights = std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..500_000 {
                    let said = Said {
                        room: room.clone(),
                        bytes: bytes.clone().into(),
                        except: None,
                        skipped: 0,
                        others: Vec::new(),
                        heard: None,
                    };
                    assert_eq!(inbox.put(said), Err(Stuck::Full));
                }
                is_over.store(true, SeqCst);
            });
            let mut weights = BTreeSet::from([inbox.bytes.load(SeqCst)]);
            while !is_over.load(SeqCst) {
                weights.insert(inbox.bytes.load(SeqCst));
            }
            weights
        });
        assert_eq!(weights, BTreeSet::from([full]));
        take_all(&inbox, &mut receiver);
        assert_eq!(inbox.bytes.load(SeqCst), 0);
    }

    #[test]
    fn whoever_was_woken_in_vain_is_woken_again() {
        let (inbox, mut receiver) = Inbox::new();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        assert_eq!(inbox.put(said(2 * CROWDED_BYTES)), Err(Stuck::Crowded));
        let first = inbox.wait(&waker, None);
        assert!(first.is_some());
        // Looks again and again, and is in the crowd once.
        assert_eq!(inbox.wait(&waker, first), first);
        take_all(&inbox, &mut receiver);
        assert_eq!(woken.times(), 1);
        // Before it has its turn others have said something.
        assert_eq!(inbox.put(said(2 * CROWDED_BYTES)), Err(Stuck::Crowded));
        assert!(inbox.wait(&waker, first).is_some());
        take_all(&inbox, &mut receiver);
        assert_eq!(woken.times(), 2);
        assert_eq!(inbox.wait(&waker, None), None);
    }
}
