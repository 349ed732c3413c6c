//! Table: the rooms that a node shares with others, and what is counted of them.
//!
//! Passive: whoever shares a room says so here, and the node's part for rooms carries what is said.
//! Not here: carrying it (`rooms`), the public words (`share`).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use serde::Serialize;

use crate::{
    room::{Room, WeakRoom},
    uplink::{Feed, LinkState, Uplink},
};

/// Bytes that wait for the store at most; what is said above that is lost for other nodes.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// With fewer rooms nobody looks for those that are gone.
const FEW: usize = 64;

/// The rooms of a node.
#[derive(Debug)]
pub(crate) struct Rooms {
    uplink: Uplink,
    /// Whoever carries what is said has it for as long.
    pub(super) feed: tokio::sync::Mutex<Feed>,
    table: Mutex<Table>,
    pub(super) totals: Counters,
}

#[derive(Debug, Default)]
struct Table {
    by_name: HashMap<Arc<str>, Arc<Entry>>,
    by_key: HashMap<u64, Arc<Entry>>,
    next_key: u64,
    /// With so many rooms those that are gone are looked for: each time that there are twice as many, so that it costs little.
    prune_at: usize,
}

impl Table {
    /// Takes out the rooms that nobody has any more, and of which nothing is told any more.
    fn prune(&mut self) {
        self.by_key.retain(|_, entry| !entry.link.is_over());
        self.by_name.retain(|_, entry| !entry.link.is_over());
        self.prune_at = FEW.max(2 * self.by_key.len());
    }
}

/// A shared room.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: u64,
    pub(super) name: Arc<str>,
    pub(super) room: WeakRoom,
    link: Arc<LinkState>,
    pub(super) counters: Counters,
    /// Its channel is listened to.
    pub(super) is_heard: AtomicBool,
}

/// A room is not shared because of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unshared {
    /// Another room of this node has its name.
    Taken,
    /// It has an uplink already.
    Linked,
}

/// What has come of messages.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) published: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) heard: AtomicU64,
    pub(super) missing: AtomicU64,
    pub(super) gaps: AtomicU64,
    pub(super) repeated: AtomicU64,
    pub(super) unreturned: AtomicU64,
    pub(super) garbled: AtomicU64,
}

/// Counters of messages between nodes, of one room or of all rooms of a node that it shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RoomCounts {
    /// Messages of this node that the store has passed on.
    pub published: u64,
    /// Messages of this node that did not get to the store, as far as it is known: more than 4 MiB waited for it, or it was lost
    /// or too slow.
    pub lost: u64,
    /// Messages of other nodes that the members here were offered.
    pub heard: u64,
    /// Messages of other nodes that did not come, though the room was listened to.
    pub missing: u64,
    /// Number of gaps that these make.
    pub gaps: u64,
    /// Messages of other nodes that came a second time, or too late, and were not delivered.
    pub repeated: u64,
    /// Messages of this node that did not come back to it, though it listened to the room: others may have missed them, too.
    pub unreturned: u64,
    /// Publications that could not be read: another program, or a later version of this one, uses the same channels.
    pub garbled: u64,
}

/// A room that a node shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RoomStats {
    /// Its name.
    pub name: String,
    /// Its members on this node.
    pub members: usize,
    /// The node listens to it: it has members, or had some a moment ago.
    pub is_heard: bool,
    /// Its messages, from its first member on this node on.
    #[serde(flatten)]
    pub counts: RoomCounts,
}

impl Counters {
    pub(super) fn counts(&self) -> RoomCounts {
        RoomCounts {
            published: self.published.load(Relaxed),
            lost: self.lost.load(Relaxed),
            heard: self.heard.load(Relaxed),
            missing: self.missing.load(Relaxed),
            gaps: self.gaps.load(Relaxed),
            repeated: self.repeated.load(Relaxed),
            unreturned: self.unreturned.load(Relaxed),
            garbled: self.garbled.load(Relaxed),
        }
    }
}

impl Default for Rooms {
    fn default() -> Self {
        let (uplink, feed) = Uplink::new(MOST_BYTES);
        Self { uplink, feed: tokio::sync::Mutex::new(feed), table: Mutex::default(), totals: Counters::default() }
    }
}

impl Rooms {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing is ever left half done under the lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the room of this name, made if there is none.
    pub(super) fn room(&self, name: &str) -> Room {
        let mut table = self.table();
        if let Some(room) = table.by_name.get(name).and_then(|entry| entry.room.upgrade()) {
            return room;
        }
        let room = Room::named(name);
        // It is new: nobody else can have linked it.
        self.add(&mut table, name.into(), &room);
        room
    }

    /// Shares a room that there is.
    pub(super) fn share(&self, name: &str, room: &Room) -> Result<(), Unshared> {
        let mut table = self.table();
        match table.by_name.get(name).and_then(|entry| entry.room.upgrade()) {
            Some(known) if known.id() == room.id() => Ok(()),
            Some(_) => Err(Unshared::Taken),
            None if self.add(&mut table, name.into(), room) => Ok(()),
            None => Err(Unshared::Linked),
        }
    }

    /// The node has ended: what is said from now on stays here.
    pub(crate) async fn end(&self) {
        self.feed.lock().await.end();
        let mut table = self.table();
        table.prune();
        table.by_key.values().for_each(|entry| entry.is_heard.store(false, Relaxed));
    }

    fn add(&self, table: &mut Table, name: Arc<str>, room: &Room) -> bool {
        if table.by_key.len() >= table.prune_at {
            table.prune();
        }
        let key = table.next_key;
        let Some(link) = room.link_up(&self.uplink, key) else { return false };
        table.next_key += 1;
        let (counters, is_heard) = (Counters::default(), AtomicBool::new(false));
        let entry = Arc::new(Entry { key, name: Arc::clone(&name), room: room.downgrade(), link, counters, is_heard });
        table.by_name.insert(name, Arc::clone(&entry));
        table.by_key.insert(key, entry);
        true
    }

    /// Returns a room's entry, as long as somebody has the room and a moment longer.
    pub(super) fn entry(&self, key: u64) -> Option<Arc<Entry>> {
        self.table().by_key.get(&key).cloned()
    }

    /// Returns true if there is a room of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.table().by_name.get(name).is_some_and(|entry| !entry.link.is_over())
    }

    /// Returns the rooms whose end will be told.
    pub(super) fn known(&self) -> Vec<u64> {
        self.table().by_key.values().filter(|entry| entry.link.is_known()).map(|entry| entry.key).collect()
    }

    /// Nobody has the room any more. There may be another of its name by now.
    pub(super) fn remove(&self, key: u64) {
        let mut table = self.table();
        if let Some(entry) = table.by_key.remove(&key)
            && table.by_name.get(&entry.name).is_some_and(|named| named.key == key)
        {
            table.by_name.remove(&entry.name);
        }
    }

    /// Returns the counters of all rooms together.
    pub(crate) fn counts(&self) -> RoomCounts {
        let counts = self.totals.counts();
        // Of those that the queue has lost only it knows at once.
        RoomCounts { lost: counts.lost + self.uplink.lost(), ..counts }
    }

    /// Returns the rooms, sorted by name.
    pub(super) fn stats(&self) -> Vec<RoomStats> {
        let is_left = |entry: &&Arc<Entry>| !entry.link.is_over();
        let entries: Vec<_> = self.table().by_name.values().filter(is_left).cloned().collect();
        let stats = |entry: Arc<Entry>| RoomStats {
            name: entry.name.to_string(),
            members: entry.room.upgrade().map_or(0, |room| room.len()),
            is_heard: entry.is_heard.load(Relaxed),
            counts: entry.counters.counts(),
        };
        let mut all: Vec<_> = entries.into_iter().map(stats).collect();
        all.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        all
    }
}

/// Counts the same for a room and for all.
pub(super) fn count(counters: [&Counters; 2], which: fn(&Counters) -> &AtomicU64, more: u64) {
    for counters in counters {
        which(counters).fetch_add(more, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn rooms_that_come_and_go_behind_the_nodes_end_leave_nothing() {
        let rooms = Rooms::default();
        let size = || {
            let table = rooms.table();
            (table.by_key.len(), table.by_name.len())
        };
        let (lobby, gone) = (rooms.room("lobby"), rooms.room("gone"));
        drop(gone);
        rooms.end().await;
        assert_eq!(size(), (1, 1), "what nobody took out before the end");
        for nth in 0..1000 {
            rooms.room("lobby").say("x");
            drop((rooms.room("same"), rooms.room(&format!("room {nth}"))));
            let (keys, names) = size();
            assert!(keys <= FEW && names <= FEW, "{keys} keys, {names} names");
        }
        assert_eq!(rooms.room("lobby").id(), lobby.id(), "as long as somebody keeps it");
        assert_eq!(rooms.counts().lost, 1000);
        assert!(rooms.feed.lock().await.try_next().is_none(), "nothing waits for nobody");
    }
}
