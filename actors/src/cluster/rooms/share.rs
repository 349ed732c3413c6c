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
    /// This node shares another room of its name.
    #[error("this node shares another room named {name:?}: use that one, as cluster.room({name:?}) returns it")]
    Taken {
        /// The name.
        name: String,
    },
    /// It has an uplink already: another cluster's, or one of the application's.
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

    /// Returns the room of this name that the node shares with all others of the cluster: the same one as long as somebody has
    /// it, and a new one otherwise.
    ///
    /// Whatever is said in it anywhere all its members hear, on whatever node they are: those of the same node at once, and
    /// others when the store has passed it on, at most once, in order for each node that it is said on. What is on its way is
    /// lost with the store: then members are [told](crate::LineHandler::missed) how many messages are missing, with the next
    /// one that comes. A member hears what is said from a moment after the first member of its node has joined.
    ///
    /// To say something costs the store one message for each of the nodes that have members; several that are said at about the
    /// same time cost as much as one. A room where nothing is said costs nothing.
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

    /// Makes a [named](Room::named) room that there is the node's [room](Self::room) of its name: for programs that may run
    /// without a cluster, too. Once more for the same room changes nothing.
    ///
    /// # Errors
    /// Returns a [`ShareError`] if it has no fit name, if the node shares another room of its name, or if it has an uplink
    /// already.
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

    /// Returns the rooms that this node shares, by name. All of them together are in [`stats`](Self::stats).
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
