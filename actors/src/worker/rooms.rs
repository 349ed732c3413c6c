//! Rooms: the memberships of each session, and the members of all rooms on a worker.
//!
//! Not here: offering messages to members (`delivery`), messages on their way to the worker (`room`).

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
    task::Waker,
};

use crate::{
    connection::SessionId,
    room::{Inbox, Room, Stuck, Wait},
    shared::SharedBytes,
    worker::delivery::{Delivery, Members, Membership, Messages, Moved},
};

/// A session's part that most never need.
#[derive(Debug, Default)]
pub(super) struct SessionRooms {
    memberships: Vec<Membership>,
    /// A worker that does not keep up: the session waits for it before it says more.
    crowded: Option<(Arc<Inbox>, Wait)>,
}

impl SessionRooms {
    pub(super) fn take_memberships(&mut self) -> Vec<Membership> {
        std::mem::take(&mut self.memberships)
    }

    /// Notes that its session is elsewhere in a room's table.
    pub(super) fn note(&mut self, moved: &Moved) {
        moved.note(&mut self.memberships);
    }

    /// Waits for `inbox` to have less to deliver. False if that is so already.
    pub(super) fn wait_for(&mut self, inbox: Arc<Inbox>, waker: &Waker) -> bool {
        let before = self.crowded.take().filter(|(known, _)| Arc::ptr_eq(known, &inbox));
        let wait = inbox.wait(waker, before.map(|(_, wait)| wait));
        self.crowded = wait.map(|wait| (inbox, wait));
        self.crowded.is_some()
    }

    /// Returns true if the worker that the session waits for still does not keep up.
    pub(super) fn is_crowded(&mut self, waker: Option<&Waker>) -> bool {
        let Some((inbox, wait)) = self.crowded.take() else { return false };
        // It may have been woken, and others have said something before its turn.
        let wait = waker.and_then(|waker| inbox.wait(waker, Some(wait)));
        self.crowded = wait.map(|wait| (inbox, wait));
        self.crowded.is_some()
    }
}

/// The result of sending a message to the workers that have members.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// A worker that has it, but does not keep up.
    pub(super) crowded: Option<Arc<Inbox>>,
    /// The sender's own worker was not given it.
    pub(super) is_lost_here: bool,
}

/// The worker's part.
pub(super) struct WorkerRooms {
    /// Messages of the rooms that have members here.
    inbox: Arc<Inbox>,
    members: RefCell<Members>,
    /// Until the worker's task takes it.
    delivery: Cell<Option<Delivery>>,
}

impl Default for WorkerRooms {
    fn default() -> Self {
        let (inbox, delivery) = Delivery::new();
        Self { inbox, members: RefCell::default(), delivery: Cell::new(Some(delivery)) }
    }
}

impl WorkerRooms {
    /// Takes what delivers to the members here. A worker has one task, so it is there.
    pub(super) fn take_delivery(&self) -> Delivery {
        self.delivery.take().unwrap_or_else(|| Delivery::new().1)
    }

    /// The session in `slot` enters a room.
    pub(super) fn join(&self, rooms: &mut SessionRooms, id: SessionId, slot: u32, room: &Room) {
        self.members.borrow_mut().join(&mut rooms.memberships, id, slot, room, &self.inbox);
    }

    /// Takes a session's membership of a room, to be [ended](Self::end).
    pub(super) fn take_membership(&self, rooms: &mut SessionRooms, room: &Room) -> Option<Membership> {
        self.members.borrow_mut().take_membership(&mut rooms.memberships, room)
    }

    /// Ends memberships. `moved` is given the members that are elsewhere now.
    pub(super) fn end(&self, memberships: impl IntoIterator<Item = Membership>, mut moved: impl FnMut(&Moved)) {
        let mut members = self.members.borrow_mut();
        for membership in memberships {
            members.give_up(membership, &self.inbox, |member| moved(&member));
        }
    }

    /// Sends a message of the session with this number to all workers with members. Nothing may be borrowed: the bytes
    /// may be dropped here.
    pub(super) fn send(&self, room: &Room, bytes: SharedBytes, from: SessionId) -> Sent {
        let mut sent = Sent::default();
        room.send(bytes, Some(from), |inbox, stuck| match stuck {
            Stuck::Crowded => sent.crowded = Some(Arc::clone(inbox)),
            Stuck::Full => sent.is_lost_here |= Arc::ptr_eq(inbox, &self.inbox),
        });
        sent
    }

    /// The same for several rooms. `lost_here` is told of those whose members here were not given it.
    pub(super) fn send_to_all<'a>(
        &self,
        rooms: impl IntoIterator<Item = &'a Room>,
        bytes: &SharedBytes,
        from: SessionId,
        mut lost_here: impl FnMut(&Room),
    ) -> Option<Arc<Inbox>> {
        let mut crowded = None;
        Room::send_to_all(rooms, bytes, Some(from), |room, inbox, stuck| match stuck {
            Stuck::Crowded => crowded = Some(Arc::clone(inbox)),
            Stuck::Full if Arc::ptr_eq(inbox, &self.inbox) => lost_here(room),
            Stuck::Full => {}
        });
        crowded
    }

    /// The sender of a message that was lost here did not miss it.
    pub(super) fn forgive(&self, rooms: Option<&SessionRooms>, room: &Room) {
        self.members.borrow_mut().forgive(rooms.map_or(&[], |rooms| &rooms.memberships), room);
    }

    /// Delivers one slice. True if others should get their turns before the next one. `offer` is as in
    /// [`Delivery::deliver`].
    pub(super) fn deliver(&self, delivery: &mut Delivery, offer: impl FnMut(u32, u64, Messages<'_>) -> u64) -> bool {
        delivery.deliver(&mut self.members.borrow_mut(), offer)
    }
}
