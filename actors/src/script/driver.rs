//! Drivers: how a script's peers reach the service, and what is known of it meanwhile.
//!
//! Not here: sockets (`target`), connections in memory (`memory`).

use std::{collections::BTreeMap, io, pin::Pin};

use crate::{script::address::Address, wire::stream::ByteStream};

/// How many calls of each kind a service made: reads, writes, flushes, shutdowns.
pub(crate) type Counts = [usize; 4];

/// A peer's end of a connection.
pub(crate) trait Wire: ByteStream {
    /// Closes it by a reset.
    fn reset(self: Box<Self>);

    /// Whether an EOF that was read is in truth a reset.
    fn eof_is_reset(&self) -> bool {
        false
    }
}

/// A pause of a script, in which its peers read.
pub(crate) type Turn = Pin<Box<dyn Future<Output = ()>>>;

/// What makes connections.
pub(crate) trait Driver {
    /// Makes one for a peer, to the service or to an address.
    async fn connect(&mut self, peer: &str, address: Option<&Address>) -> io::Result<Box<dyn Wire>>;

    /// Whether connections go to addresses.
    fn has_addresses(&self) -> bool {
        false
    }

    /// Lasts until the service has looked at what it was sent, where that can be known.
    fn turn(&self) -> Turn;

    /// Lasts until the service is done with what it was sent, where something holds it back.
    fn rest(&self) -> Option<Turn> {
        None
    }

    /// The service's calls on each peer's connections, where they are counted.
    fn counts(&self) -> BTreeMap<String, Counts> {
        BTreeMap::new()
    }
}
