//! Slots: the part of each session that its turns seldom touch, in a table.
//!
//! A slot is made of parts, one for each aspect of a session; each part has a file of its own, which does the
//! computing. The table grows in chunks and never moves a slot. It owns the count of sessions that have commands to
//! take, so a command can be sent to any slot that it hands out.
//! Not here: the worker's parts (`worker`), its task (`task`).

use std::{
    cell::{Cell, RefCell, RefMut},
    num::NonZeroU64,
    ops::{Deref, DerefMut, Range},
    sync::Arc,
    task::Waker,
};

use tokio::{sync::oneshot, time::Instant};

use crate::{
    address::Address,
    connection::{Connection, ConnectionInfo, ListenerId, SessionId},
    control::{
        admission::listener::{ListenerAdmission, Place},
        query::SessionInfo,
    },
    limits::OutboxLimit,
    names::{NameError, Names},
    rate::{Grant, RateLimit, Unit},
    report::{CloseReason, CloseReport, RefuseReason},
    room::Inbox,
    shared::SharedBytes,
    wire::tap::Tap,
    worker::{
        clock::{Moment, SessionClock},
        command::{Commanded, Commands},
        delays::Asked,
        delivery::{Messages, Moved},
        held::HeldMemory,
        pushes::{OutboxLevel, Pushed, Pushes},
        rates::{OwnRates, SessionRates},
        reports::{Counters, Counts, Leftovers},
        rooms::SessionRooms,
    },
};

/// Slots in one piece of the table: it grows by as much.
pub(super) const CHUNK: usize = 256;
/// Chunks that are looked at before the sessions get a turn again.
const CHUNKS_PER_SLICE: usize = 16;

/// One session, as its worker knows it.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) id: SessionId,
    pub(crate) listener: Option<ListenerId>,
    pub(crate) reason: Option<CloseReason>,
    /// Not yet taken.
    commands: Commands,
    waker: Option<Waker>,
    pub(super) clock: SessionClock,
    pub(super) rates: SessionRates,
    pub(super) memory: HeldMemory,
    pub(super) outbox: OutboxLevel,
    pub(super) counters: Counters,
    /// Boxed: most sessions never need it.
    rare: Option<Box<Rare>>,
    /// Given back with the slot.
    place: Place,
}

/// The parts that most sessions never need.
#[derive(Debug, Default)]
pub(super) struct Rare {
    pub(super) leftovers: Leftovers,
    pub(super) pushed: Pushed,
    pub(super) rates: OwnRates,
    pub(super) rooms: SessionRooms,
    /// One more than the bytes that the peer had acknowledged when that was last asked.
    acknowledged: Option<NonZeroU64>,
    /// Bytes of a payload that have yet to come.
    payload: u64,
    /// An answer that is being measured and is not with the kernel yet. Boxed: it is seldom measured.
    asked: Option<Box<Asked>>,
    behind: Option<Box<Behind>>,
    /// Boxed: seldom set where the rest is needed.
    names: Option<Box<Names>>,
}

/// What filters that are done have found out about a session, addresses that are not its place's, and taps.
#[derive(Debug, Default)]
struct Behind {
    /// Its peer, while it is charged to nobody. Boxed: that is seldom so.
    peer: Option<Box<Address>>,
    local: Option<Address>,
    info: ConnectionInfo,
    /// Of traces that it has yet to begin.
    taps: Vec<Tap>,
}

impl Slot {
    pub(super) fn new(connection: &Connection, place: Option<Place>, clock: SessionClock, rates: SessionRates) -> Self {
        let place = place.unwrap_or_else(|| Place::outside(connection.peer.clone()));
        let is_charged = *place.peer() == connection.peer;
        let mut slot = Self {
            id: connection.id,
            listener: connection.listener,
            reason: None,
            commands: Commands::empty(),
            waker: None,
            clock,
            rates,
            memory: HeldMemory::default(),
            outbox: OutboxLevel::default(),
            counters: Counters::default(),
            rare: None,
            place,
        };
        if !is_charged {
            slot.behind().peer = Some(Box::new(connection.peer.clone()));
        }
        slot
    }

    fn behind(&mut self) -> &mut Behind {
        self.rare().behind.get_or_insert_default()
    }

    fn behind_if_any(&self) -> Option<&Behind> {
        self.rare.as_ref()?.behind.as_deref()
    }

    /// Charges the session to its real peer. Over a limit of that it is charged to nobody, has the peer all the same, and has
    /// to end.
    pub(crate) fn recharge(&mut self, peer: &Address) -> Result<(), RefuseReason> {
        let result = self.place.recharge(peer.clone());
        if result.is_err() {
            self.behind().peer = Some(Box::new(peer.clone()));
        } else if let Some(behind) = self.rare.as_mut().and_then(|rare| rare.behind.as_mut()) {
            behind.peer = None;
        }
        result
    }

    /// The admission of its listener, if it has one.
    pub(crate) fn admission(&self) -> Option<&Arc<ListenerAdmission>> {
        self.place.admission()
    }

    /// Returns true if its place is charged to this peer.
    pub(crate) fn is_charged_to(&self, peer: &Address) -> bool {
        self.place.peer() == peer
    }

    /// Returns true if it is charged to nobody: its real peer is not known yet, or it is no client's. The lists of those who
    /// may connect do not name its peer.
    pub(super) fn is_charged_to_nobody(&self) -> bool {
        self.behind_if_any().is_some_and(|behind| behind.peer.is_some())
    }

    /// Charges the session to nobody: it is no client's.
    pub(crate) fn excuse(&mut self) {
        let peer = self.peer().clone();
        self.behind().peer = Some(Box::new(peer));
        self.place.excuse();
    }

    /// Notes that the session is no client's.
    pub(crate) fn set_probe(&mut self) {
        self.behind().info.set_probe();
        self.excuse();
    }

    /// Keeps what filters that are done have found out.
    pub(crate) fn set_learned(&mut self, connection: &Connection, info: ConnectionInfo) {
        if !info.is_empty() {
            let behind = self.behind();
            behind.local = info.local().map(|_| connection.local.clone());
            behind.info = info.without_addresses();
        }
    }

    /// The connection as it is known here, over a socket with this address of ours.
    pub(crate) fn connection(&self, local: Address) -> Connection {
        let behind = self.behind_if_any();
        let local = behind.and_then(|behind| behind.local.clone()).unwrap_or(local);
        let mut connection = Connection::new(self.id, self.peer().clone(), local, self.listener);
        connection.info = behind.map(|behind| behind.info.clone()).unwrap_or_default();
        connection
    }

    /// The parts that most sessions never need, made if they are not there.
    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// The parts that most sessions never need, if they are there.
    pub(super) fn rare_if_any(&mut self) -> Option<&mut Rare> {
        self.rare.as_deref_mut()
    }

    /// The peer's address.
    pub(crate) fn peer(&self) -> &Address {
        self.behind_if_any().and_then(|behind| behind.peer.as_deref()).unwrap_or(self.place.peer())
    }

    /// Has commands wake the session's task from here on.
    pub(crate) fn set_waker(&mut self, waker: &Waker) {
        self.waker = Some(waker.clone());
    }

    /// Sets the reason of the end. The first cause counts.
    pub(crate) fn set_reason(&mut self, reason: CloseReason) {
        self.reason.get_or_insert(reason);
    }

    /// The reason as the report has it, unless something worse comes in between.
    pub(crate) fn reason_so_far(&self) -> CloseReason {
        let reason = self.reason.unwrap_or(CloseReason::WorkerStopped);
        let is_by_peer = matches!(
            reason,
            CloseReason::PeerEof | CloseReason::PeerReset | CloseReason::Truncated | CloseReason::Io(..)
        );
        // A probe has said nothing, or nothing that is a line, however it closed.
        let is_probe = is_by_peer
            && self.counters.lines_in == 0
            && self.behind_if_any().is_some_and(|behind| behind.info.is_probe());
        if is_probe { CloseReason::Probe } else { reason }
    }

    /// Notes that the end has begun: nobody pushes to this session or asks it to end.
    pub(crate) fn set_closing(&mut self) {
        self.clock.set_closing();
    }

    pub(crate) fn has_deadline(&self) -> bool {
        self.clock.has_deadline()
    }

    pub(crate) fn clear_deadline(&mut self) {
        self.clock.clear_deadline();
    }

    /// Books that the peer has acknowledged `bytes` in all. Any more than at the last look is progress at `stamp`, and so
    /// is the first look, since which the time is known.
    pub(super) fn book_acknowledged(&mut self, bytes: u64, stamp: u32) {
        let now = NonZeroU64::MIN.saturating_add(bytes);
        if self.rare().acknowledged.replace(now).is_none_or(|before| before < now) {
            self.clock.book_progress(stamp);
        }
    }

    /// Returns true if the peer was just found to have taken something: nothing that was found before holds.
    pub(crate) fn has_progress(&self) -> bool {
        self.clock.has_progress()
    }

    /// Bytes that the kernel took until the turn at hand.
    pub(crate) fn bytes_out(&self) -> u64 {
        self.counters.bytes_out
    }

    pub(crate) fn add_unsent(&mut self, bytes: usize) {
        self.rare().leftovers.unsent += bytes as u64;
    }

    pub(crate) fn add_undelivered(&mut self, bytes: usize) {
        if bytes > 0 {
            self.rare().leftovers.undelivered += bytes as u64;
        }
    }

    pub(crate) fn add_tail(&mut self, bytes: usize) {
        if bytes > 0 {
            self.rare().leftovers.tail += bytes as u64;
        }
    }

    /// Takes over the counters of a session that began elsewhere, and when that was.
    pub(crate) fn resume(&mut self, counts: &Counts, opened: Option<Instant>) {
        self.counters.add(counts);
        self.clock.resume(opened);
    }

    /// Has the report sent to `report_to`, besides the supervisor.
    pub(crate) fn set_report_to(&mut self, report_to: oneshot::Sender<CloseReport>) {
        self.rare().leftovers.set_report_to(report_to);
    }

    /// Takes the answer that is being measured.
    pub(crate) fn take_asked(&mut self) -> Option<Asked> {
        self.rare_if_any()?.asked.take().map(|asked| *asked)
    }

    /// Keeps an answer that is being measured for another turn.
    pub(crate) fn set_asked(&mut self, asked: Asked) {
        self.rare().asked = Some(Box::new(asked));
    }

    pub(crate) fn payload(&self) -> u64 {
        self.rare.as_ref().map_or(0, |rare| rare.payload)
    }

    pub(crate) fn set_payload(&mut self, bytes: u64) {
        self.rare().payload = bytes;
    }

    /// The rates that this session has to keep to and others have not, if there are any.
    pub(super) fn own_rates(&self) -> Option<&OwnRates> {
        self.rare.as_ref().map(|rare| &rare.rates).filter(|rates| !rates.is_none())
    }

    /// The rate in force for this session.
    pub(super) fn rate(&self, default: RateLimit) -> RateLimit {
        self.own_rates().and_then(OwnRates::limit).unwrap_or(default)
    }

    /// Sets the session's own rate. Returns whether that changed anything.
    pub(super) fn set_rate(&mut self, default: &RateLimit, limit: RateLimit) -> bool {
        let own = &mut self.rare.get_or_insert_default().rates;
        self.rates.set_own(own, default, limit)
    }

    /// Goes from one rate for all sessions to another, unless this one has its own.
    pub(super) fn change_default_rate(&mut self, from: &RateLimit, to: &RateLimit) {
        if self.own_rates().and_then(OwnRates::limit).is_none() {
            self.rates.change(from, to);
        }
    }

    /// Grants input: see [`SessionRates::grant`].
    pub(super) fn grant(
        &mut self,
        default: &RateLimit,
        unit: Unit,
        spent: u64,
        most: usize,
        wanted: impl FnOnce() -> usize,
    ) -> Grant {
        let own = self.rare.as_mut().map(|rare| &mut rare.rates);
        self.rates.grant(own, default, unit, spent, most, wanted)
    }

    /// The outbox limit in force for this session.
    pub(crate) fn outbox_limit(&self, default: OutboxLimit) -> OutboxLimit {
        self.rare.as_ref().and_then(|rare| rare.pushed.limit()).unwrap_or(default)
    }

    pub(crate) fn set_outbox_limit(&mut self, outbox_limit: OutboxLimit) {
        self.rare().pushed.set_limit(outbox_limit);
    }

    /// Takes the taps of traces that the session has yet to begin.
    pub(crate) fn take_taps(&mut self) -> Vec<Tap> {
        let behind = self.rare.as_mut().and_then(|rare| rare.behind.as_mut());
        behind.map(|behind| std::mem::take(&mut behind.taps)).unwrap_or_default()
    }

    /// Its name and tags, if it was given any.
    pub(crate) fn names(&self) -> Option<&Names> {
        self.rare.as_ref()?.names.as_deref()
    }

    /// Changes its name and tags, and keeps them if there are any then.
    pub(super) fn change_names(
        &mut self,
        change: impl FnOnce(&mut Names) -> Result<bool, NameError>,
    ) -> Result<bool, NameError> {
        let mut names = self.rare.as_mut().and_then(|rare| rare.names.take()).unwrap_or_default();
        let result = change(&mut names);
        if !names.is_empty() {
            self.rare().names = Some(names);
        }
        result
    }

    /// Counts messages that the session is told of before the next bytes that others push.
    pub(crate) fn miss(&mut self, messages: u64) {
        if messages > 0 {
            self.rare().pushed.miss(messages);
        }
    }

    /// Takes what others have pushed.
    pub(crate) fn take_pushed(&mut self) -> Pushes {
        self.rare_if_any().map_or_else(Pushes::default, |rare| rare.pushed.take())
    }

    /// Waits for a worker that does not keep up with a room. False if it does by now.
    pub(super) fn wait_for_room(&mut self, inbox: Arc<Inbox>) -> bool {
        let Some(waker) = &self.waker else { return false };
        self.rare.get_or_insert_default().rooms.wait_for(inbox, waker)
    }

    /// Returns true if the worker that the session waits for still does not keep up.
    pub(super) fn is_crowded(&mut self) -> bool {
        self.rare.as_mut().is_some_and(|rare| rare.rooms.is_crowded(self.waker.as_ref()))
    }

    /// The close report, as things are.
    pub(crate) fn report(&self, cut: bool) -> CloseReport {
        let rare = self.rare.as_deref();
        CloseReport {
            id: self.id,
            peer: self.peer().clone(),
            listener: self.listener,
            reason: self.reason_so_far(),
            lines_in: self.counters.lines_in,
            bytes_in: self.counters.bytes_in,
            bytes_out: self.counters.bytes_out,
            // What was pushed and never written is unsent as well.
            unsent_bytes: rare.map_or(0, |rare| rare.leftovers.unsent + rare.pushed.len() as u64),
            tail_bytes: rare.map_or(0, |rare| rare.leftovers.tail),
            undelivered_bytes: rare.map_or(0, |rare| rare.leftovers.undelivered),
            duration: self.clock.opened().elapsed(),
            cut,
        }
    }

    /// The session as queries see it.
    pub(super) fn info(&self, worker: usize, moment: Moment) -> SessionInfo {
        let Names { name, tags } = self.names().cloned().unwrap_or_default();
        SessionInfo {
            id: self.id,
            peer: self.peer().clone(),
            listener: self.listener,
            worker,
            age: moment.instant.saturating_duration_since(self.clock.opened()),
            idle: self.clock.idle(moment),
            lines_in: self.counters.lines_in,
            bytes_in: self.counters.bytes_in,
            bytes_out: self.counters.bytes_out,
            outbox_bytes: self.outbox.len(),
            state: self.clock.state(),
            name,
            tags,
        }
    }
}

/// A slot of a table: the session can be sent commands.
pub(crate) struct SlotMut<'a> {
    slot: &'a mut Slot,
    commanded: &'a Commanded,
}

impl Deref for SlotMut<'_> {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        self.slot
    }
}

impl DerefMut for SlotMut<'_> {
    fn deref_mut(&mut self) -> &mut Slot {
        self.slot
    }
}

impl SlotMut<'_> {
    /// Returns true if the session has yet to take these commands.
    #[cfg(test)]
    pub(super) fn has(&self, commands: Commands) -> bool {
        self.slot.commands.contains(commands)
    }

    /// Sends commands, if there are any, and wakes the session. It takes them at the start of its turn.
    pub(super) fn send(&mut self, commands: Commands) {
        self.commanded.add(&mut self.slot.commands, commands);
        if !commands.is_empty()
            && let Some(waker) = &self.slot.waker
        {
            waker.wake_by_ref();
        }
    }

    /// Has the session begin a trace.
    pub(super) fn add_tap(&mut self, tap: Tap) {
        self.slot.behind().taps.push(tap);
        self.send(Commands::TRACE);
    }

    /// Has a session that its rate holds back ask for more. Returns whether there was one.
    pub(super) fn release(&mut self) -> bool {
        let commands = self.slot.rates.release();
        self.send(commands);
        !commands.is_empty()
    }

    /// Has a session that is held back, by whatever it is, look whether that still holds.
    pub(super) fn look_again(&mut self) {
        self.release();
        if self.slot.clock.may_be_held_back() {
            self.send(Commands::REFILL);
        }
    }

    /// Offers messages, of which those that fit into the outbox are pushed. Returns how many were not.
    pub(super) fn offer(&mut self, messages: &Messages<'_>, default: OutboxLimit) -> u64 {
        let Slot { rare, outbox, .. } = &mut *self.slot;
        let (lost, commands) = rare.get_or_insert_default().pushed.offer(outbox, messages, default);
        self.send(commands);
        lost
    }

    /// Has the session write `bytes` in its next turn, whatever its outbox holds.
    pub(super) fn push(&mut self, bytes: SharedBytes) {
        let commands = self.slot.rare().pushed.push(bytes);
        self.send(commands);
    }
}

#[derive(Debug, Default)]
struct Table {
    chunks: Vec<Vec<Option<Slot>>>,
    free: Vec<u32>,
}

impl Table {
    fn insert(&mut self, slot: Slot) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
                self.chunks.push(Vec::with_capacity(CHUNK));
            }
            let full = (self.chunks.len() - 1) * CHUNK;
            let last = self.chunks.last_mut().expect("a chunk was just made sure of");
            last.push(None);
            u32::try_from(full + last.len() - 1).expect("fewer sessions than descriptors")
        });
        *self.at(index) = Some(slot);
        index
    }

    #[inline]
    fn at(&mut self, index: u32) -> &mut Option<Slot> {
        let index = index as usize;
        &mut self.chunks[index / CHUNK][index % CHUNK]
    }
}

/// The slots of all sessions of a worker.
#[derive(Debug, Default)]
pub(super) struct Slots {
    table: RefCell<Table>,
    live: Cell<usize>,
    commanded: Commanded,
}

impl Slots {
    /// The sessions that have a slot.
    pub(super) fn len(&self) -> usize {
        self.live.get()
    }

    pub(super) fn insert(&self, slot: Slot) -> u32 {
        self.live.set(self.live.get() + 1);
        self.table.borrow_mut().insert(slot)
    }

    /// Takes a session's slot out. Nothing that it holds is dropped here.
    pub(super) fn remove(&self, index: u32) -> Option<Slot> {
        let mut table = self.table.borrow_mut();
        let mut slot = table.at(index).take()?;
        table.free.push(index);
        self.live.set(self.live.get() - 1);
        self.commanded.take(&mut slot.commands);
        Some(slot)
    }

    /// Looks into a session's slot. No user code runs in `look`.
    #[inline]
    pub(super) fn with<R>(&self, index: u32, look: impl FnOnce(&mut SlotMut<'_>) -> R) -> R {
        let mut table = self.table.borrow_mut();
        let slot = table.at(index).as_mut().expect("a session has its slot until it closes it");
        look(&mut SlotMut { slot, commanded: &self.commanded })
    }

    /// Takes the commands that a session was sent.
    #[inline]
    pub(super) fn take_commands(&self, index: u32) -> Commands {
        if self.commanded.is_none() {
            return Commands::empty();
        }
        self.with(index, |slot| self.commanded.take(&mut slot.commands))
    }

    /// Returns true if no session has a command to take.
    #[cfg(test)]
    pub(super) fn have_no_commands(&self) -> bool {
        self.commanded.is_none()
    }

    /// Borrows the table for a look at many slots.
    pub(super) fn borrow_mut(&self) -> SlotsMut<'_> {
        SlotsMut { table: self.table.borrow_mut(), commanded: &self.commanded }
    }
}

/// A borrowed table of slots.
pub(super) struct SlotsMut<'a> {
    table: RefMut<'a, Table>,
    commanded: &'a Commanded,
}

impl SlotsMut<'_> {
    /// The slot with this index, if a session has it.
    #[inline]
    pub(super) fn get(&mut self, index: u32) -> Option<SlotMut<'_>> {
        let slot = self.table.at(index).as_mut()?;
        Some(SlotMut { slot, commanded: self.commanded })
    }

    /// The slot with this index, if the session with this number still has it.
    pub(super) fn get_by_id(&mut self, index: u32, id: SessionId) -> Option<SlotMut<'_>> {
        self.get(index).filter(|slot| slot.id == id)
    }

    /// Indexes of slots, taken or free.
    pub(super) fn len(&self) -> usize {
        self.table.chunks.iter().map(Vec::len).sum()
    }

    /// The sessions in these slots.
    pub(super) fn range(&mut self, range: Range<usize>) -> impl Iterator<Item = SlotMut<'_>> {
        let commanded = self.commanded;
        let slots = self.table.chunks.iter_mut().flatten().take(range.end).skip(range.start).flatten();
        slots.map(move |slot| SlotMut { slot, commanded })
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = SlotMut<'_>> {
        let commanded = self.commanded;
        self.table.chunks.iter_mut().flatten().flatten().map(move |slot| SlotMut { slot, commanded })
    }

    /// The slots of one slice with their indexes, free ones included: to look at more at once would keep sessions from
    /// their turns.
    pub(super) fn slice(&mut self, slice: usize) -> impl Iterator<Item = (u32, Option<SlotMut<'_>>)> {
        let commanded = self.commanded;
        let first = slice * CHUNKS_PER_SLICE;
        let slots = self.table.chunks.iter_mut().skip(first).take(CHUNKS_PER_SLICE).flatten();
        let slots = slots.map(move |slot| slot.as_mut().map(|slot| SlotMut { slot, commanded }));
        ((first * CHUNK) as u32..).zip(slots)
    }

    /// The sessions of `count` chunks from `first`, with the indexes of their slots.
    pub(super) fn chunks(&mut self, first: usize, count: usize) -> impl Iterator<Item = (u32, SlotMut<'_>)> {
        let commanded = self.commanded;
        let slots = self.table.chunks.iter_mut().skip(first).take(count).flatten();
        let slots = ((first * CHUNK) as u32..).zip(slots);
        slots.filter_map(move |(index, slot)| Some((index, SlotMut { slot: slot.as_mut()?, commanded })))
    }

    /// Returns true if there is a chunk of this number.
    pub(super) fn has_chunk(&self, chunk: usize) -> bool {
        chunk < self.table.chunks.len()
    }

    /// Returns true if there is a slice behind this one.
    pub(super) fn has_more(&self, slice: usize) -> bool {
        (slice + 1) * CHUNKS_PER_SLICE < self.table.chunks.len()
    }

    /// Notes that a member of a room is elsewhere in the room's table.
    pub(super) fn note(&mut self, moved: &Moved) {
        if let Some(mut slot) = self.get(moved.slot)
            && let Some(rare) = slot.rare_if_any()
        {
            rare.rooms.note(moved);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{limits::Limits, rate::RateLimit, worker::clock::WorkerClock};

    fn slot() -> Slot {
        let connection = Connection::between(Address::Memory, Address::Memory);
        let clock = SessionClock::new(&WorkerClock::new(&Limits::default().session));
        Slot::new(&connection, None, clock, SessionRates::full(&RateLimit::default()))
    }

    fn slots(count: usize) -> Slots {
        let slots = Slots::default();
        for index in 0..count {
            assert_eq!(slots.insert(slot()) as usize, index);
        }
        slots
    }

    #[test]
    fn a_slot_is_no_larger_than_what_a_million_sessions_may_cost() {
        assert!(size_of::<Option<Slot>>() <= 160, "{} bytes", size_of::<Option<Slot>>());
        // Allocators round all from 257 to 320 bytes up to the same.
        assert!(size_of::<Rare>() <= 320, "{} bytes", size_of::<Rare>());
    }

    #[test]
    fn whoever_has_a_slot_of_the_table_can_send_it_a_command_that_is_taken_once() {
        let slots = slots(3);
        slots.borrow_mut().get(1).unwrap().send(Commands::DRAIN);
        slots.with(1, |slot| slot.send(Commands::PROBE));
        assert_eq!(slots.take_commands(0), Commands::empty());
        assert_eq!(slots.take_commands(1), Commands::DRAIN | Commands::PROBE);
        assert_eq!(slots.take_commands(1), Commands::empty());
        assert!(slots.have_no_commands());
        // A session that ends before it takes them leaves nothing behind.
        slots.borrow_mut().iter_mut().for_each(|mut slot| slot.send(Commands::ABORT));
        for index in 0..3 {
            assert!(slots.remove(index).is_some());
        }
        assert!(slots.have_no_commands() && slots.len() == 0);
    }

    #[test]
    fn slices_have_each_slot_once_with_its_index() {
        let slots = slots(2 * CHUNK * CHUNKS_PER_SLICE + 7);
        assert!(slots.remove(5).is_some());
        let mut table = slots.borrow_mut();
        let (mut next, mut slice) = (0, 0);
        loop {
            for (index, slot) in table.slice(slice) {
                assert_eq!((index, slot.is_some()), (next, index != 5));
                next += 1;
            }
            if !table.has_more(slice) {
                break;
            }
            slice += 1;
        }
        assert_eq!((next as usize, slice, table.iter_mut().count()), (table.len(), 2, next as usize - 1));
        assert_eq!(table.range(4..7).count(), 2);
    }

    #[test]
    fn a_session_is_found_by_its_number_only_while_it_has_the_slot() {
        let slots = slots(1);
        let id = slots.with(0, |slot| slot.id);
        assert!(slots.borrow_mut().get_by_id(0, id).is_some());
        drop(slots.remove(0));
        assert!(slots.borrow_mut().get_by_id(0, id).is_none());
        assert!(slots.remove(0).is_none());
        // The next session gets the same slot.
        assert_eq!(slots.insert(slot()), 0);
        assert!(slots.borrow_mut().get_by_id(0, id).is_none());
    }
}
