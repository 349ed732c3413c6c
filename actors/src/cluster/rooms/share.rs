//! Share: how a room of this process becomes one of all nodes.
//!
//! Not here: what is done for it (`rooms`), rooms of one process (`room`).

use std::io;

use crate::{
    cluster::{
        builder::Cluster,
        rooms::table::{RoomStats, Unshared},
    },
    room::Room,
};

/// A room cannot be shared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// It has no name, or an empty one.
    #[error("a room without a name cannot be shared: make it by Room::named")]
    NoName,
    /// Its name is too long.
    #[error("a room's name has {bytes} bytes: use {limit} at most", limit = Cluster::MAX_ROOM_NAME)]
    NameTooLong {
        /// Length of the name. Unit: bytes.
        bytes: usize,
    },
    /// This node shares another room of the same name.
    #[error("this node shares another room named {name:?}: use that one, as cluster.room({name:?}) returns it")]
    Taken {
        /// The name.
        name: String,
    },
    /// It is linked to another uplink: another cluster's, or the application's own.
    #[error("the room {name:?} has another uplink: make a room for each")]
    Linked {
        /// The name.
        name: String,
    },
}

impl From<ShareError> for io::Error {
    fn from(error: ShareError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

impl Cluster {
    /// Longest name of a room that is shared. Unit: bytes.
    pub const MAX_ROOM_NAME: usize = 128;

    /// Returns the room of this name that all nodes of the cluster share: the one that this node has already, as long as somebody
    /// keeps it, and otherwise a new one.
    ///
    /// All members hear what is said in the room on any node. Members on the same node hear it at once. Those on other nodes hear
    /// it when the store has passed it on: at most once, and in order for each node that it is said on. Messages on their way
    /// are lost with the store; members are [told](crate::LineHandler::missed) how many are missing before the next one that
    /// comes. A node begins to listen a moment after its first member has joined.
    ///
    /// A message costs one publication, which the store sends to each node that has members; messages of about the same moment
    /// share one. A room in which nothing is said costs nothing.
    ///
    /// # Errors
    /// Returns [`ShareError::NoName`] for an empty name, and [`ShareError::NameTooLong`] above
    /// [`MAX_ROOM_NAME`](Self::MAX_ROOM_NAME) bytes.
    ///
    /// ```
    /// use actix_lines::cluster::{Cluster, memory::Memory};
    ///
    /// let cluster = Cluster::builder(Memory::new()).node("a").build()?;
    /// let lobby = cluster.room("lobby")?;
    /// lobby.say("hello, wherever you are\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn room(&self, name: &str) -> Result<Room, ShareError> {
        check(name)?;
        Ok(self.core.rooms.room(name))
    }

    /// Makes a [named](Room::named) room the [room](Self::room) of its name, for programs that may also run without a cluster.
    /// A second call for the same room changes nothing.
    ///
    /// # Errors
    /// Returns a [`ShareError`] if its name is missing or too long, if the node shares another room of the same name, or if it is
    /// linked to another uplink.
    pub fn share(&self, room: &Room) -> Result<(), ShareError> {
        let name = room.name().unwrap_or_default();
        check(name)?;
        self.core.rooms.share(name, room).map_err(|why| {
            let name = name.to_owned();
            match why {
                Unshared::Taken => ShareError::Taken { name },
                Unshared::Linked => ShareError::Linked { name },
            }
        })
    }

    /// Returns the rooms that this node shares, in the order of their names, with the counters of each. The sums are in
    /// [`stats`](Self::stats).
    #[must_use]
    pub fn rooms(&self) -> Vec<RoomStats> {
        self.core.rooms.stats()
    }
}

fn check(name: &str) -> Result<(), ShareError> {
    match name.len() {
        0 => Err(ShareError::NoName),
        1..=Cluster::MAX_ROOM_NAME => Ok(()),
        bytes => Err(ShareError::NameTooLong { bytes }),
    }
}
