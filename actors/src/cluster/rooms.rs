//! Rooms over nodes: carries what is said here to the store, and what comes from there to the members here.
//!
//! Members of the same node hear each other without it. What has been said since the last turn is one frame a room, and one turn
//! is on its way to the store at a time: so a slow store makes frames longer, and a queue that is full, or a store that is
//! lost, makes a gap in the numbers, which whoever listens counts. Nothing is sent twice, and nothing is kept to be sent later.
//! Not here: a room's members (`room`), its queue (`uplink`), subscriptions (`hub`).

mod frame;
pub(crate) mod share;
pub(crate) mod table;
mod voices;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    future::Future,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    StreamExt,
    future::{FutureExt, LocalBoxFuture, join_all},
    stream::FuturesUnordered,
};
use tokio::{
    task::yield_now,
    time::{Instant, sleep_until},
};

use crate::{
    cluster::{
        core::Core,
        id::NodeId,
        mailbox::Mailbox,
        rooms::{
            frame::{Frame, Garbled},
            table::{Counters, Entry, count},
            voices::{Hearing, Voices},
        },
        store::{Message, StoreError},
    },
    room::Room,
    uplink::{Feed, News, Said},
    wire::outbox::COPY_BYTES,
};

/// Frames that wait for their turn, as long as their bytes have room; the others are gaps.
const MAILBOX: usize = 1024;

/// A frame, and a turn, has no more than this, or one message. Unit: bytes.
const TURN_BYTES: usize = 1024 * 1024;

/// A turn has no more messages.
const TURN_MESSAGES: usize = 16 * 1024;

/// Nor more rooms that come, change and go: they do so as fast as peers like.
const TURN_ROOMS: usize = 1024;

/// A room is listened to for so long after its last member: whoever comes back hears all.
const LINGER: Duration = Duration::from_secs(5);

/// Time until it is tried again to say where this node is, after messages were lost.
const AGAIN: Duration = Duration::from_secs(1);

/// A node that was not heard for so long is forgotten, if it has no lease: what it says after that is not held against what
/// was heard before.
const FORGET: Duration = Duration::from_secs(600);

/// Numbers are kept for so many rooms that nobody has any more: one of the same name goes on with them.
const MOST_OLD: usize = 4096;

/// Runs until it is dropped.
pub(crate) async fn run(core: Arc<Core>) {
    let mut feed = core.rooms.feed.lock().await;
    let (to, mut frames) = Mailbox::new(MAILBOX);
    let mut life = core.life.subscribe();
    let mut health = core.health.watch();
    let mut carrier = Carrier::new(Arc::clone(&core), to);
    carrier.begin_life();
    // If it has run before, it was told of these then, and nobody reads what it listened to.
    for key in core.rooms.known() {
        if let Some(entry) = core.rooms.entry(key)
            && entry.is_heard.swap(false, Relaxed)
        {
            core.hub.forget(&channel(&entry.name));
        }
        carrier.look(key);
    }
    loop {
        // Until the node's first life has begun, what is said waits.
        let may_speak = carrier.is_free() && (carrier.has_lived || health.borrow().bad_for().is_some());
        let due = carrier.due();
        tokio::select! {
            Some(frame) = frames.recv() => carrier.hear(&frame.message),
            Some(news) = feed.next(), if may_speak => {
                if carrier.turn(news, &mut feed) {
                    // Others of this thread have their turns.
                    yield_now().await;
                }
            }
            Some(done) = carrier.work.next(), if !carrier.work.is_empty() => carrier.done(done),
            Ok(()) = life.changed() => carrier.begin_life(),
            // Only to look at it again.
            Ok(()) = health.changed() => {}
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => carrier.tick(),
        }
    }
}

/// What a call to the store was for, and its result.
enum Done {
    /// Frames were published.
    Spoken(Vec<Published>),
    /// The lives that there are.
    Nodes(Result<HashSet<NodeId>, StoreError>),
}

/// The room of a frame, and the number of its messages.
type Owner = (Arc<Entry>, u64);

/// A frame was published, or not.
struct Published {
    name: Arc<str>,
    /// `None` for a frame without messages.
    messages: Option<Owner>,
    result: Result<u64, StoreError>,
}

/// The node's side of all of its shared rooms.
struct Carrier {
    core: Arc<Core>,
    /// For the hub: where frames go.
    to: Mailbox,
    rooms: HashMap<u64, Shared>,
    /// The room whose channel it is.
    channels: HashMap<Arc<str>, u64>,
    /// How far this node is in each room that it has said something in, by name.
    spoken: HashMap<Arc<str>, Spoken>,
    /// Rooms that nobody has any more and that it has said something in, in the order in which they ended.
    old: BTreeMap<u64, Arc<str>>,
    /// The place of the next one there.
    ends: u64,
    work: FuturesUnordered<LocalBoxFuture<'static, Done>>,
    /// A turn is on its way.
    is_speaking: bool,
    /// The node has begun a life once.
    has_lived: bool,
    /// Rooms without members that are still listened to, since then.
    empty: BTreeSet<(Instant, u64)>,
    /// Rooms have lost messages, which others are to learn.
    again_at: Option<Instant>,
    /// Lives may be over by then that rooms have heard.
    forget_at: Option<Instant>,
}

/// A shared room.
struct Shared {
    entry: Arc<Entry>,
    channel: Arc<str>,
    voices: Voices,
    /// What this node has heard of itself.
    own: Voices,
    /// It has no members since then, but is still listened to.
    empty_since: Option<Instant>,
    /// Messages that its queue has lost, as far as they are numbered.
    lost: u64,
}

/// How far this node is in a room.
struct Spoken {
    channel: Arc<str>,
    speaker: u64,
    next: u64,
    /// Messages were lost, which others learn with the next frame.
    owes: bool,
    /// Its place among the rooms that nobody has any more, when it last was one.
    ended: Option<u64>,
}

/// Messages of one room, one behind the other.
struct Batch {
    entry: Arc<Entry>,
    first: u64,
    bytes: usize,
    messages: Vec<Said>,
}

/// What a turn publishes, by the names of rooms.
type Batches = HashMap<Arc<str>, Vec<Batch>>;

fn channel(name: &str) -> Arc<str> {
    format!("r:{name}").into()
}

impl Carrier {
    fn new(core: Arc<Core>, to: Mailbox) -> Self {
        Self {
            core,
            to,
            rooms: HashMap::new(),
            channels: HashMap::new(),
            spoken: HashMap::new(),
            old: BTreeMap::new(),
            ends: 0,
            work: FuturesUnordered::new(),
            is_speaking: false,
            has_lived: false,
            empty: BTreeSet::new(),
            again_at: None,
            forget_at: None,
        }
    }

    fn is_free(&self) -> bool {
        !self.is_speaking
    }

    fn due(&self) -> Option<Instant> {
        [self.leave_at(), self.again_at.filter(|_| self.is_free()), self.forget_at].into_iter().flatten().min()
    }

    /// Returns when the next room is to be left.
    fn leave_at(&self) -> Option<Instant> {
        self.empty.first().map(|(since, _)| *since + LINGER)
    }

    /// Returns what is known of a room; `None` if nobody has it any more.
    fn room(&mut self, key: u64) -> Option<&mut Shared> {
        if !self.rooms.contains_key(&key) {
            let entry = self.core.rooms.entry(key)?;
            let channel = channel(&entry.name);
            self.channels.insert(Arc::clone(&channel), key);
            let (voices, own) = (Voices::default(), Voices::default());
            self.rooms.insert(key, Shared { entry, channel, voices, own, empty_since: None, lost: 0 });
        }
        self.rooms.get_mut(&key)
    }

    /// Returns how far this node is in a room.
    fn spoken(&mut self, name: &Arc<str>) -> &mut Spoken {
        self.spoken.entry(Arc::clone(name)).or_insert_with(|| Spoken {
            channel: channel(name),
            speaker: fastrand::u64(..),
            next: 0,
            owes: false,
            ended: None,
        })
    }

    /// Takes what has been said, and has it published. Returns true if there may be more.
    fn turn(&mut self, news: News, feed: &mut Feed) -> bool {
        let (mut bytes, mut messages, mut rooms) = (0, 0, 0);
        let mut batches = Batches::new();
        let mut gone = Vec::new();
        let mut next = Some(news);
        let mut is_full = false;
        while let Some(news) = next {
            rooms += usize::from(!matches!(news, News::Said(_)));
            match news {
                News::Said(said) => {
                    bytes += said.bytes().len();
                    messages += 1;
                    self.number(said, &mut batches);
                }
                News::Lost { key, lost } => {
                    self.lose_above(key, lost);
                    self.look(key);
                }
                News::Members { key } => self.look(key),
                News::Gone { key } => gone.push(key),
            }
            is_full = bytes >= TURN_BYTES || messages >= TURN_MESSAGES || rooms >= TURN_ROOMS;
            next = if is_full { None } else { feed.try_next() };
        }
        self.speak(batches);
        gone.into_iter().for_each(|key| self.end(key));
        is_full
    }

    /// Gives a message its number, behind those that were lost before it.
    fn number(&mut self, said: Said, batches: &mut Batches) {
        let key = said.key();
        self.lose_above(key, said.lost_before());
        let Some(room) = self.room(key) else { return };
        let entry = Arc::clone(&room.entry);
        let spoken = self.spoken(&entry.name);
        let first = spoken.next;
        spoken.next += 1;
        let len = said.bytes().len();
        let batches = batches.entry(Arc::clone(&entry.name)).or_default();
        match batches.last_mut() {
            Some(batch)
                if batch.entry.key == key
                    && batch.first + batch.messages.len() as u64 == first
                    && batch.bytes + len <= TURN_BYTES =>
            {
                batch.bytes += len;
                batch.messages.push(said);
            }
            _ => batches.push(Batch { entry, first, bytes: len, messages: vec![said] }),
        }
    }

    /// The queue has lost so many messages of a room, in all.
    fn lose_above(&mut self, key: u64, lost: u64) {
        let Some(room) = self.room(key) else { return };
        let more = lost.saturating_sub(room.lost);
        if more > 0 {
            room.lost = lost;
            let entry = Arc::clone(&room.entry);
            self.spoken(&entry.name).next += more;
            // In all, the queue counts them.
            entry.counters.lost.fetch_add(more, Relaxed);
            self.owe(&entry.name);
        }
    }

    /// Messages of a room do not get to others, who are to learn of it.
    fn lose(&mut self, entry: &Entry, messages: u64) {
        count([&self.core.rooms.totals, &entry.counters], |counters| &counters.lost, messages);
        self.owe(&entry.name);
    }

    fn owe(&mut self, name: &Arc<str>) {
        // One that was forgotten while its frame was on its way has nobody who listens.
        let Some(spoken) = self.spoken.get_mut(name) else { return };
        spoken.owes = true;
        self.again_at.get_or_insert_with(|| Instant::now() + AGAIN);
    }

    /// Returns the life in whose name something can be published now.
    fn life(&self) -> Option<String> {
        let life = self.core.life.borrow().as_ref().map(NodeId::to_string);
        life.filter(|_| !self.core.health.is_lost())
    }

    /// Has frames published: those of a room one after the other, those of all rooms at once.
    fn speak(&mut self, batches: Batches) {
        let Some(life) = self.life() else {
            for batch in batches.into_values().flatten() {
                self.lose(&batch.entry, batch.messages.len() as u64);
            }
            return;
        };
        let mut all = Vec::with_capacity(batches.len());
        for (name, batches) in batches {
            let spoken = self.spoken(&name);
            // The first numbers tell it, but for what was lost behind the last message.
            let end = batches.last().map(|last| last.first + last.messages.len() as u64);
            spoken.owes = end.is_some_and(|end| end < spoken.next);
            let (speaker, channel) = (spoken.speaker, Arc::clone(&spoken.channel));
            let encode = |batch: Batch| {
                let frame = Frame::encode(&life, speaker, batch.first, batch.messages.iter().map(Said::bytes));
                (Some((batch.entry, batch.messages.len() as u64)), frame)
            };
            let frames = batches.into_iter().map(encode).collect();
            all.push(publish(Arc::clone(&self.core), name, channel, frames));
        }
        self.wait_for(all);
    }

    fn wait_for(&mut self, all: Vec<impl Future<Output = Vec<Published>> + 'static>) {
        if !all.is_empty() {
            self.is_speaking = true;
            self.work.push(async { Done::Spoken(join_all(all).await.into_iter().flatten().collect()) }.boxed_local());
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Spoken(all) => {
                self.is_speaking = false;
                for Published { name, messages, result } in all {
                    match (messages, result) {
                        (Some((entry, messages)), Ok(_)) => {
                            let counters = [&self.core.rooms.totals, &entry.counters];
                            count(counters, |counters| &counters.published, messages);
                        }
                        // They may arrive all the same, and those who hear a later frame first leave them out.
                        (Some((entry, messages)), Err(_)) => self.lose(&entry, messages),
                        (None, Ok(_)) => {}
                        (None, Err(_)) => self.owe(&name),
                    }
                }
            }
            Done::Nodes(Ok(live)) => {
                // Nothing was heard before the clock began.
                if let Some(before) = Instant::now().checked_sub(FORGET) {
                    self.rooms.values_mut().for_each(|room| room.voices.forget(&live, before));
                }
            }
            Done::Nodes(Err(_)) => self.forget_later(),
        }
    }

    /// A life of this node has begun or ended. Others forget a voice with the life that they have heard it in.
    fn begin_life(&mut self) {
        if self.core.life.borrow().is_some() {
            self.has_lived = true;
            self.spoken.values_mut().for_each(|spoken| spoken.owes |= spoken.next > 0);
            self.again_at = Some(Instant::now());
        }
    }

    /// Does what has a time.
    fn tick(&mut self) {
        let now = Instant::now();
        self.leave_empty(now);
        if self.again_at.is_some_and(|at| at <= now) && self.is_free() {
            self.say_where();
        }
        if self.forget_at.is_some_and(|at| at <= now) {
            self.forget_at = None;
            let core = Arc::clone(&self.core);
            let nodes = async move {
                let nodes = core.nodes().await;
                Done::Nodes(nodes.map(|nodes| nodes.into_iter().map(|node| node.id).collect()))
            };
            self.work.push(nodes.boxed_local());
        }
    }

    /// Publishes how far this node is in each room that has lost messages.
    fn say_where(&mut self) {
        self.again_at = None;
        let owing = self.spoken.iter_mut().filter(|(_, spoken)| spoken.owes);
        let Some(life) = self.core.life.borrow().as_ref().filter(|_| !self.core.health.is_lost()).cloned() else {
            if owing.count() > 0 {
                self.again_at = Some(Instant::now() + AGAIN);
            }
            return;
        };
        let life = life.to_string();
        let say = |(name, spoken): (&Arc<str>, &mut Spoken)| {
            spoken.owes = false;
            let frame = Frame::encode(&life, spoken.speaker, spoken.next, [].into_iter());
            publish(Arc::clone(&self.core), Arc::clone(name), Arc::clone(&spoken.channel), vec![(None, frame)])
        };
        let all = owing.map(say).collect();
        self.wait_for(all);
    }

    /// Looks at a room's members, and listens if there are any.
    fn look(&mut self, key: u64) {
        let core = Arc::clone(&self.core);
        let to = self.to.clone();
        let Some(room) = self.room(key) else { return };
        let has_members = room.entry.room.upgrade().is_some_and(|room| !room.is_empty());
        let is_heard = room.entry.is_heard.load(Relaxed);
        match (has_members, is_heard) {
            (true, true) => {
                if let Some(since) = room.empty_since.take() {
                    self.empty.remove(&(since, key));
                }
            }
            (true, false) => {
                room.voices.come_back();
                room.own.come_back();
                room.entry.is_heard.store(true, Relaxed);
                core.hub.listen(room.channel.to_string(), to);
                let channel = Arc::clone(&room.channel);
                self.channels.insert(channel, key);
            }
            (false, true) => {
                let since = *room.empty_since.get_or_insert_with(Instant::now);
                self.empty.insert((since, key));
            }
            (false, false) => {}
        }
    }

    /// Leaves the rooms that have had no members for long enough.
    fn leave_empty(&mut self, now: Instant) {
        while self.leave_at().is_some_and(|at| at <= now)
            && let Some((_, key)) = self.empty.pop_first()
        {
            let Some(room) = self.rooms.get_mut(&key) else { continue };
            room.empty_since = None;
            // One that has members is about to be looked at.
            if room.entry.room.upgrade().is_none_or(|room| room.is_empty()) {
                room.entry.is_heard.store(false, Relaxed);
                self.core.hub.forget(&room.channel);
            }
        }
    }

    /// Nobody has the room any more.
    fn end(&mut self, key: u64) {
        self.core.rooms.remove(key);
        let Some(room) = self.rooms.remove(&key) else { return };
        if let Some(since) = room.empty_since {
            self.empty.remove(&(since, key));
        }
        // Another room of its name may have its channel by now.
        let heir = self.channels.get(&room.channel).and_then(|key| self.rooms.get(key));
        if !heir.is_some_and(|heir| heir.entry.is_heard.load(Relaxed)) {
            self.core.hub.forget(&room.channel);
        }
        if heir.is_none() {
            self.channels.remove(&room.channel);
        }
        self.put_last(Arc::clone(&room.entry.name));
        // One more than has come, so that those above the bound which somebody has go when nobody has them any more.
        for _ in 0..2 {
            if self.old.len() <= MOST_OLD {
                break;
            }
            let Some((_, oldest)) = self.old.pop_first() else { break };
            if self.core.rooms.has(&oldest) {
                // Somebody has it again, and it may end without a word.
                self.put_last(oldest);
            } else {
                self.spoken.remove(&oldest);
            }
        }
    }

    /// Makes a room, if it has said something, the last of those that nobody has.
    fn put_last(&mut self, name: Arc<str>) {
        if let Some(spoken) = self.spoken.get_mut(&name) {
            // Once for each name: a room that comes and goes keeps its numbers, and takes no place of others.
            spoken.ended.replace(self.ends).and_then(|before| self.old.remove(&before));
            self.old.insert(self.ends, name);
            self.ends += 1;
        }
    }

    /// Hears a frame, or counts what came as garbled.
    fn hear(&mut self, message: &Message) {
        // It may come for a moment after its room was left.
        let Some(room) = self.channels.get(&message.channel).and_then(|key| self.rooms.get_mut(key)) else { return };
        let counters = [&self.core.rooms.totals, &room.entry.counters];
        let spoken = self.spoken.get(&room.entry.name);
        let heard = Frame::decode(message.bytes.clone()).and_then(|frame| {
            let is_own = spoken.is_some_and(|spoken| spoken.speaker == frame.speaker);
            let voices = if is_own { &mut room.own } else { &mut room.voices };
            let hearing = voices.hear(&frame, Instant::now())?;
            Ok((frame, is_own, hearing))
        });
        match heard {
            Err(Garbled) => count(counters, |counters| &counters.garbled, 1),
            Ok((_, true, hearing)) => count(counters, |counters| &counters.unreturned, hearing.missing),
            Ok((frame, false, hearing)) => {
                if let Some(room) = room.entry.room.upgrade() {
                    pass_on(&frame, hearing, &room, counters);
                }
                if hearing.is_new {
                    self.forget_later();
                }
            }
        }
    }

    fn forget_later(&mut self) {
        self.forget_at.get_or_insert_with(|| Instant::now() + FORGET + self.core.settings.lease);
    }
}

/// Publishes frames of one room, one after the other.
async fn publish(
    core: Arc<Core>,
    name: Arc<str>,
    channel: Arc<str>,
    frames: Vec<(Option<Owner>, Bytes)>,
) -> Vec<Published> {
    let mut all = Vec::with_capacity(frames.len());
    for (messages, frame) in frames {
        let result = core.publish(&channel, frame).await;
        all.push(Published { name: Arc::clone(&name), messages, result });
    }
    all
}

/// Offers the messages of a frame to the members here.
fn pass_on(frame: &Frame, hearing: Hearing, room: &Room, counters: [&Counters; 2]) {
    let Hearing { repeated, missing, .. } = hearing;
    if missing > 0 {
        count(counters, |counters| &counters.gaps, 1);
        count(counters, |counters| &counters.missing, missing);
        room.note_missing(missing);
    }
    count(counters, |counters| &counters.repeated, repeated);
    count(counters, |counters| &counters.heard, frame.count() - repeated);
    // One that an outbox does not copy may wait there for long, and would keep the whole frame.
    let keeps_all = |message: &Bytes| message.len() > COPY_BYTES && frame.count() > 1;
    let own = |message: Bytes| if keeps_all(&message) { Bytes::copy_from_slice(&message) } else { message };
    frame.messages(repeated).for_each(|message| room.say_here(own(message)));
}
