//! Delivery: hands the messages of rooms to the members on one worker.
//!
//! Waiting messages of a room are joined once, and all of them are offered to the members, a slice of members at a
//! time: so several messages are one write for each member, in a room of any size. Between slices other sessions get
//! their turns.
//! Not here: messages on their way to the worker (`room`), a member's outbox limit (`pushes`).

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::BytesMut;
use tokio::sync::{mpsc, oneshot};

use crate::{
    connection::SessionId,
    room::{Heard, Inbox, Room, RoomId, Said, Told},
    shared::SharedBytes,
};

/// Members that are offered messages before the sessions of a worker get a turn again, and bytes that each of them may have
/// been given by then: they have to get rid of what they have, or it would be too much for their outbox.
const MEMBERS_PER_SLICE: usize = 1024;
const BYTES_PER_SLICE: usize = 64 * 1024;
/// Messages joined at most, and looked at between two turns of others.
const MESSAGES_PER_SLICE: usize = 1024;
/// Room for so many members is not worth giving back.
const SPARE_MEMBERS: usize = 64;

/// The members of one worker, room by room.
#[derive(Default)]
pub(crate) struct Members(HashMap<RoomId, Table>);

/// The members of one room on one worker, without gaps.
#[derive(Default)]
struct Table {
    members: Vec<Member>,
    /// So many members, from the first on, have yet to be offered the burst at hand. Those who come meanwhile come behind them.
    pending: usize,
}

/// A session in a room.
#[derive(Clone, Copy)]
struct Member {
    id: SessionId,
    slot: u32,
    /// Where among the session's memberships the one is that stands for this.
    membership: u32,
    /// Messages that its worker was not given, and that it knows of.
    skipped: u64,
}

/// A session's membership of a room, on its worker.
#[derive(Debug)]
pub(crate) struct Membership {
    room: Room,
    /// Where in the room's table.
    at: u32,
}

/// A member is elsewhere in its room's table: its `membership`, among those of the session in `slot`, is [`at`](Self::at).
pub(crate) struct Moved {
    pub(crate) slot: u32,
    membership: u32,
    at: u32,
}

impl Moved {
    /// Notes it in the session's own memberships.
    pub(crate) fn note(&self, memberships: &mut [Membership]) {
        if let Some(membership) = memberships.get_mut(self.membership as usize) {
            membership.at = self.at;
        }
    }
}

impl Members {
    /// The session in `slot` enters a room, unless it is in it already.
    pub(crate) fn join(
        &mut self,
        memberships: &mut Vec<Membership>,
        id: SessionId,
        slot: u32,
        room: &Room,
        inbox: &Arc<Inbox>,
    ) {
        if memberships.iter().all(|membership| membership.room.id() != room.id()) {
            let table = self.0.entry(room.id()).or_default();
            let skipped = room.enter(inbox);
            memberships.push(Membership { room: room.clone(), at: table.members.len() as u32 });
            table.members.push(Member { id, slot, membership: memberships.len() as u32 - 1, skipped });
        }
    }

    /// Takes a session's membership of a room out of its others, to be [given up](Self::give_up).
    pub(crate) fn take_membership(&mut self, memberships: &mut Vec<Membership>, room: &Room) -> Option<Membership> {
        let index = memberships.iter().position(|membership| membership.room.id() == room.id())?;
        let membership = memberships.swap_remove(index);
        if let Some(moved) = memberships.get(index)
            && let Some(table) = self.0.get_mut(&moved.room.id())
        {
            table.members[moved.at as usize].membership = index as u32;
        }
        Some(membership)
    }

    /// A session leaves a room. `moved` is given the members that are elsewhere now.
    pub(crate) fn give_up(&mut self, membership: Membership, inbox: &Arc<Inbox>, moved: impl FnMut(Moved)) {
        if let Some(table) = self.0.get_mut(&membership.room.id()) {
            table.remove(membership.at as usize, moved);
            if table.members.is_empty() {
                self.0.remove(&membership.room.id());
                if self.0.capacity() > SPARE_MEMBERS.max(4 * self.0.len()) {
                    self.0.shrink_to(2 * self.0.len());
                }
            }
        }
        membership.room.exit(inbox);
    }

    /// The numbers of a room's members here.
    fn ids(&self, room: RoomId) -> Vec<SessionId> {
        self.0.get(&room).map_or_else(Vec::new, |table| table.members.iter().map(|member| member.id).collect())
    }

    /// A member said something that its own worker was not given: it did not miss that.
    pub(crate) fn forgive(&mut self, memberships: &[Membership], room: &Room) {
        if let Some(membership) = memberships.iter().find(|membership| membership.room.id() == room.id())
            && let Some(table) = self.0.get_mut(&room.id())
        {
            table.members[membership.at as usize].skipped += 1;
            room.forgive_lost();
        }
    }
}

impl Table {
    /// All members have yet to be offered the next burst.
    fn begin(&mut self) -> &mut Self {
        self.pending = self.members.len();
        self
    }

    fn remove(&mut self, mut at: usize, mut moved: impl FnMut(Moved)) {
        if at < self.pending {
            // The last of those who have yet to be offered the burst fills the gap, or somebody would be offered it twice.
            self.pending -= 1;
            if at < self.pending {
                self.members.swap(at, self.pending);
                moved(self.moved(at));
                at = self.pending;
            }
        }
        self.members.swap_remove(at);
        if at < self.members.len() {
            moved(self.moved(at));
        }
        if self.members.capacity() > SPARE_MEMBERS.max(4 * self.members.len()) {
            self.members.shrink_to(2 * self.members.len());
        }
    }

    fn moved(&self, at: usize) -> Moved {
        let Member { slot, membership, .. } = self.members[at];
        Moved { slot, membership, at: at as u32 }
    }
}

/// Messages one behind the other, as one member is offered them.
pub(crate) struct Messages<'a> {
    /// All of them and perhaps others.
    joined: &'a SharedBytes,
    start: usize,
    /// Where each ends, in `joined`.
    ends: &'a [usize],
}

impl<'a> Messages<'a> {
    /// One message, with its length.
    pub(crate) fn one(bytes: &'a SharedBytes, len: &'a [usize; 1]) -> Self {
        Self { joined: bytes, start: 0, ends: len }
    }

    pub(crate) fn count(&self) -> usize {
        self.ends.len()
    }

    /// How many of them, from the first on, have no more than `bytes` bytes together.
    pub(crate) fn fitting(&self, bytes: usize) -> usize {
        match self.ends.last() {
            Some(end) if end - self.start > bytes => self.ends.partition_point(|end| end - self.start <= bytes),
            _ => self.ends.len(),
        }
    }

    /// The first `count` of them.
    pub(crate) fn first(&self, count: usize) -> SharedBytes {
        let end = count.checked_sub(1).map_or(self.start, |last| self.ends[last]);
        if self.start == 0 && end == self.joined.len() {
            self.joined.clone()
        } else {
            self.joined.slice(self.start..end)
        }
    }
}

/// Messages of one room that are delivered together.
struct Burst {
    room: Room,
    joined: SharedBytes,
    /// Where each ends, in `joined`.
    ends: Vec<usize>,
    /// Senders, who do not get their own messages, with the first and the end of messages that follow each other: sorted.
    own: Vec<(SessionId, u32, u32)>,
    /// Messages before these that the worker was not given.
    skipped: u64,
    /// Who has heard it in another room, if it is one message that was said to several.
    heard: Option<Arc<Heard>>,
    weight: usize,
}

impl Burst {
    /// Joins what waits. What is done with goes to `spent`.
    fn take(waiting: &mut VecDeque<Said>, spent: &mut Vec<Said>) -> Option<Self> {
        let first = waiting.front()?;
        let (skipped, heard) = (first.skipped, first.heard.clone());
        let (mut count, mut len, mut weight) = (0, 0, 0);
        let (mut ends, mut own) = (Vec::new(), Vec::<(SessionId, u32, u32)>::new());
        for said in waiting.iter().take(MESSAGES_PER_SLICE) {
            // Members learn of missing messages before the next one.
            if count > 0 && (len + said.bytes.len() > BYTES_PER_SLICE || said.skipped > skipped) {
                break;
            }
            len += said.bytes.len();
            weight += said.weight();
            ends.push(len);
            if let Some(id) = said.except {
                match own.last_mut() {
                    Some((last, _, end)) if *last == id && *end == count => *end += 1,
                    _ => own.push((id, count, count + 1)),
                }
            }
            count += 1;
        }
        own.sort_unstable();
        let first = spent.len();
        spent.extend(waiting.drain(..count as usize));
        let messages = &spent[first..];
        let joined = match messages {
            [only] => only.bytes.clone(),
            _ => {
                let mut joined = BytesMut::with_capacity(len);
                messages.iter().for_each(|said| joined.extend_from_slice(&said.bytes));
                joined.freeze().into()
            }
        };
        Some(Self { room: messages[0].room.clone(), joined, ends, own, skipped, heard, weight })
    }

    /// Offers the burst to `most` members. Returns how many those were. `offer` has a slot miss some messages and then offers
    /// it others; it returns how many of these were lost.
    fn go_on(&self, table: &mut Table, most: usize, mut offer: impl FnMut(u32, u64, Messages<'_>) -> u64) -> usize {
        let from = table.pending.saturating_sub(most);
        let offered = table.pending - from;
        let mut lost = 0;
        for member in &mut table.members[from..table.pending] {
            if self.heard.as_ref().is_some_and(|heard| !heard.note(member.slot)) {
                continue;
            }
            // It learns of missing messages with the next ones.
            self.for_each_part(member.id, |part| {
                let missed = self.skipped.saturating_sub(member.skipped);
                member.skipped += missed;
                lost += offer(member.slot, missed, part);
            });
        }
        table.pending = from;
        if lost > 0 {
            self.room.add_lost(lost);
        }
        offered
    }

    /// Gives the messages for the session with this number to `offer`: all but its own.
    fn for_each_part(&self, id: SessionId, mut offer: impl FnMut(Messages<'_>)) {
        let mut next = 0_usize;
        let mut offer_until = |until: usize, resume: usize| {
            let start = next.checked_sub(1).map_or(0, |last| self.ends[last]);
            if next < until {
                offer(Messages { joined: &self.joined, start, ends: &self.ends[next..until] });
            }
            next = resume;
        };
        let own = self.own.partition_point(|(other, ..)| *other < id);
        for (_, first, end) in self.own[own..].iter().take_while(|(other, ..)| *other == id) {
            offer_until(*first as usize, *end as usize);
        }
        offer_until(self.ends.len(), self.ends.len());
    }
}

/// What waits for the members of one room.
#[derive(Default)]
struct Waiting {
    burst: Option<Burst>,
    messages: VecDeque<Said>,
}

/// The worker's end of an inbox. Once it is gone nobody waits for it.
pub(crate) struct Delivery {
    inbox: Arc<Inbox>,
    receiver: mpsc::UnboundedReceiver<Told>,
    rooms: HashMap<RoomId, Waiting>,
    /// Was said to several rooms: what came before it, in whatever room, is delivered first, and what comes behind it stays
    /// in the inbox until it is. So it has its place in each of them.
    joint: Option<Said>,
    /// It is being delivered.
    is_joint: bool,
    /// Who asks for the members of a room.
    questions: Vec<(RoomId, oneshot::Sender<Vec<SessionId>>)>,
    /// The rooms with something to be delivered take turns.
    turns: VecDeque<RoomId>,
    /// What is left of this slice.
    members_left: usize,
    bytes_left: usize,
    /// Delivered or joined: dropped when nothing is borrowed any more.
    spent: Vec<Said>,
    spent_bursts: Vec<Burst>,
}

impl Delivery {
    pub(crate) fn new() -> (Arc<Inbox>, Self) {
        let (inbox, receiver) = Inbox::new();
        let delivery = Self {
            inbox: Arc::clone(&inbox),
            receiver,
            rooms: HashMap::new(),
            joint: None,
            is_joint: false,
            questions: Vec::new(),
            turns: VecDeque::new(),
            members_left: MEMBERS_PER_SLICE,
            bytes_left: BYTES_PER_SLICE,
            spent: Vec::new(),
            spent_bursts: Vec::new(),
        };
        (inbox, delivery)
    }

    /// Waits until something is to be delivered.
    pub(crate) async fn wait(&mut self) {
        match self.receiver.recv().await {
            Some(told) => self.take_in(told),
            // The inbox has a sender itself.
            None => std::future::pending().await,
        }
    }

    fn take_in(&mut self, told: Told) {
        match told {
            Told::Said(said) if said.others.is_empty() => self.sort_in(said),
            Told::Said(said) => self.joint = Some(said),
            Told::Ask { room, answer } => self.questions.push((room, answer)),
        }
    }

    /// Has each of its rooms deliver a message that was said to several.
    fn sort_in_joint(&mut self, mut said: Said) {
        let others = std::mem::take(&mut said.others);
        let heard = Some(Arc::<Heard>::default());
        for (room, skipped) in others {
            let (bytes, except, heard) = (said.bytes.clone(), said.except, heard.clone());
            self.sort_in(Said { room, bytes, except, skipped, others: Vec::new(), heard });
        }
        self.sort_in(Said { heard, ..said });
        self.is_joint = true;
    }

    fn sort_in(&mut self, said: Said) {
        let id = said.room.id();
        let waiting = self.rooms.entry(id).or_insert_with(|| {
            self.turns.push_back(id);
            Waiting::default()
        });
        waiting.messages.push_back(said);
    }

    /// Delivers one slice. True if others should get their turns before the next one. `offer` is as in [`Burst::go_on`].
    pub(crate) fn deliver(
        &mut self,
        members: &mut Members,
        mut offer: impl FnMut(u32, u64, Messages<'_>) -> u64,
    ) -> bool {
        for _ in 0..MESSAGES_PER_SLICE {
            if self.joint.is_some() || self.is_joint {
                break;
            }
            let Ok(told) = self.receiver.try_recv() else { break };
            self.take_in(told);
        }
        for (room, answer) in self.questions.drain(..) {
            // Whoever asked may be gone.
            let _ = answer.send(members.ids(room));
        }
        loop {
            if self.deliver_waiting(members, &mut offer) {
                return true;
            }
            self.is_joint = false;
            match self.joint.take() {
                Some(said) => self.sort_in_joint(said),
                // The rest of this slice is for what comes before others had a turn.
                None => return false,
            }
        }
    }

    /// Delivers what waits in the rooms. True if the slice ends before.
    fn deliver_waiting(&mut self, members: &mut Members, mut offer: impl FnMut(u32, u64, Messages<'_>) -> u64) -> bool {
        while let Some(id) = self.turns.front().copied() {
            let waiting = self.rooms.entry(id).or_default();
            let table = members.0.get_mut(&id);
            let (burst, table) = match waiting.burst.take() {
                Some(burst) => (Some(burst), table),
                None => {
                    let burst = Burst::take(&mut waiting.messages, &mut self.spent);
                    (burst, table.map(Table::begin))
                }
            };
            let Some(burst) = burst else {
                self.rooms.remove(&id);
                self.turns.pop_front();
                continue;
            };
            if burst.weight > self.bytes_left && self.bytes_left < BYTES_PER_SLICE {
                waiting.burst = Some(burst);
                return self.end_slice();
            }
            self.turns.pop_front();
            let (offered, pending) = table.map_or((0, 0), |table| {
                let offered = burst.go_on(table, self.members_left, &mut offer);
                (offered, table.pending)
            });
            // What has no members left takes some time, too.
            self.members_left = self.members_left.saturating_sub(offered.max(1));
            self.bytes_left = self.bytes_left.saturating_sub(burst.weight);
            if pending > 0 {
                waiting.burst = Some(burst);
            } else {
                self.inbox.took(burst.weight);
                self.spent_bursts.push(burst);
            }
            if waiting.burst.is_none() && waiting.messages.is_empty() {
                self.rooms.remove(&id);
            } else {
                self.turns.push_back(id);
            }
            if self.members_left == 0 || self.bytes_left == 0 {
                return self.end_slice();
            }
        }
        false
    }

    fn end_slice(&mut self) -> bool {
        (self.members_left, self.bytes_left) = (MEMBERS_PER_SLICE, BYTES_PER_SLICE);
        true
    }

    /// Drops what was delivered. Its last holder may be here, so nothing may be borrowed.
    pub(crate) fn let_go(&mut self) {
        self.spent.clear();
        self.spent_bursts.clear();
        self.spent.shrink_to(MESSAGES_PER_SLICE);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.inbox.close();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn messages(delivery: &mut Delivery, room: &Room, speakers: &[Option<SessionId>]) -> Vec<Bytes> {
        let bytes: Vec<Bytes> = (0..speakers.len()).map(|number| Bytes::from(format!("{number} "))).collect();
        for (bytes, except) in bytes.iter().zip(speakers) {
            delivery.sort_in(Said {
                room: room.clone(),
                bytes: bytes.clone().into(),
                except: *except,
                skipped: 0,
                others: Vec::new(),
                heard: None,
            });
        }
        bytes
    }

    /// Sessions, by their slots, as a worker would have them.
    #[derive(Default)]
    struct Sessions {
        members: Members,
        memberships: Vec<Vec<Membership>>,
        ids: Vec<SessionId>,
    }

    impl Sessions {
        fn new(count: usize) -> Self {
            let memberships = std::iter::repeat_with(Vec::new).take(count).collect();
            Self { members: Members::default(), memberships, ids: (0..count).map(|_| SessionId::next()).collect() }
        }

        fn toggle(&mut self, slot: usize, room: &Room, inbox: &Arc<Inbox>) {
            let Self { members, memberships, ids } = self;
            if let Some(membership) = members.take_membership(&mut memberships[slot], room) {
                members.give_up(membership, inbox, |moved| moved.note(&mut memberships[moved.slot as usize]));
            } else {
                members.join(&mut memberships[slot], ids[slot], slot as u32, room, inbox);
            }
        }

        fn check(&self) {
            for (slot, memberships) in self.memberships.iter().enumerate() {
                for (index, membership) in memberships.iter().enumerate() {
                    let member = self.members.0[&membership.room.id()].members[membership.at as usize];
                    assert_eq!((member.slot as usize, member.membership as usize), (slot, index));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn each_hears_all_but_its_own(speakers in proptest::collection::vec(0..6_usize, 1..40)) {
            let ids: Vec<SessionId> = (0..6).map(|_| SessionId::next()).collect();
            let (_inbox, mut delivery) = Delivery::new();
            let room = Room::new();
            // Nobody's, where it is the last.
            let speakers: Vec<Option<SessionId>> = speakers.iter().map(|speaker| ids[..5].get(*speaker).copied()).collect();
            let said = messages(&mut delivery, &room, &speakers);
            let waiting = &mut delivery.rooms.get_mut(&room.id()).unwrap().messages;
            let burst = Burst::take(waiting, &mut Vec::new()).unwrap();
            for id in ids {
                let mut heard = Vec::new();
                burst.for_each_part(id, |part| {
                    assert_eq!(part.fitting(usize::MAX), part.count());
                    for count in 0..=part.count() {
                        assert_eq!(part.fitting(part.first(count).len()), count);
                    }
                    heard.extend_from_slice(&part.first(part.count()));
                });
                let others = said.iter().zip(&speakers).filter(|(_, speaker)| **speaker != Some(id));
                let expected: Vec<u8> = others.flat_map(|(bytes, _)| bytes.iter().copied()).collect();
                prop_assert_eq!(heard, expected);
            }
        }

        #[test]
        fn who_stays_hears_each_message_once_whoever_comes_and_goes(
            steps in proptest::collection::vec((0..30_usize, 0..3_usize, 0..4_usize), 1..200),
        ) {
            let (inbox, _delivery) = Delivery::new();
            let rooms = [Room::new(), Room::new(), Room::new()];
            let mut sessions = Sessions::new(30);
            // For each room the members that have yet to hear the burst, if they stay, and whether they did.
            let mut heard: Vec<Option<Vec<(usize, u32)>>> = vec![None; 3];
            let burst = |room: &Room| Burst {
                room: room.clone(),
                joined: Bytes::from_static(b"x").into(),
                ends: vec![1],
                own: Vec::new(),
                skipped: 0,
                heard: None,
                weight: 1,
            };
            for (slot, number, most) in steps {
                let room = &rooms[number];
                if most > 0 {
                    sessions.toggle(slot, room, &inbox);
                    sessions.check();
                    if let Some(heard) = &mut heard[number] {
                        heard.retain(|(other, _)| *other != slot);
                    }
                }
                let Some(table) = sessions.members.0.get_mut(&room.id()) else {
                    heard[number] = None;
                    continue;
                };
                let heard = &mut heard[number];
                if heard.is_none() {
                    *heard = Some(table.begin().members.iter().map(|member| (member.slot as usize, 0)).collect());
                }
                let all = heard.as_mut().unwrap();
                burst(room).go_on(table, most, |slot, _, _| {
                    // Who left and came back meanwhile need not hear it, and does not.
                    let (_, times) = all.iter_mut().find(|(other, _)| *other == slot as usize).expect("was there");
                    *times += 1;
                    0
                });
                prop_assert!(all.iter().all(|(_, times)| *times <= 1));
                if table.pending == 0 {
                    prop_assert!(all.iter().all(|(_, times)| *times == 1));
                    *heard = None;
                }
            }
        }
    }

    #[test]
    fn a_room_that_was_once_large_is_as_small_as_its_members() {
        let (inbox, mut delivery) = Delivery::new();
        let room = Room::new();
        let mut sessions = Sessions::new(100_000);
        for slot in 0..100_000 {
            sessions.toggle(slot, &room, &inbox);
        }
        for slot in 1..99_999 {
            sessions.toggle(slot, &room, &inbox);
        }
        sessions.check();
        assert!(sessions.members.0[&room.id()].members.capacity() <= 2 * SPARE_MEMBERS);
        room.say("hello");
        let mut told = 0;
        let is_cut = delivery.deliver(&mut sessions.members, |_, _, part| {
            told += part.count();
            0
        });
        assert_eq!((told, is_cut), (2, false), "in one slice");
    }
}
