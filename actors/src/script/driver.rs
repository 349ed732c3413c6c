//! Drivers: how a script's peers reach the service, and what is known of it meanwhile.
//!
//! Not here: sockets (`target`), connections in memory (`memory`).

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{script::address::Address, wire::stream::ByteStream};

/// The number of calls of each kind that a service made: reads, writes, flushes, shutdowns.
pub(crate) type Counts = [usize; 4];

/// A peer's end of a connection.
pub(crate) trait Wire: ByteStream {
    /// Closes it by a reset.
    fn reset(self: Box<Self>);

    /// True if an EOF that was read is in truth a reset.
    fn eof_is_reset(&self) -> bool {
        false
    }
}

/// A pause of a script, in which its peers read.
pub(crate) type Turn = Pin<Box<dyn Future<Output = ()>>>;

/// Makes the connections of peers.
pub(crate) trait Driver {
    /// Makes one for a peer, to the service or to an address.
    async fn connect(&mut self, peer: &str, address: Option<&Address>) -> io::Result<Box<dyn Wire>>;

    /// True if connections go to addresses.
    fn has_addresses(&self) -> bool {
        false
    }

    /// Lasts until the service has looked at what it was sent, where that can be known.
    fn turn(&self) -> Turn;

    /// True if a turn ends when the service has nothing to do.
    fn knows_idle(&self) -> bool {
        false
    }

    /// Lasts until the service is done with what it was sent, where something holds it back.
    fn rest(&self) -> Option<Turn> {
        None
    }

    /// The service's calls on each peer's connections, where they are counted.
    fn counts(&self) -> BTreeMap<String, Counts> {
        BTreeMap::new()
    }
}

/// A connection of a peer that reads little and seldom.
pub(crate) struct Slow<W> {
    wire: W,
    pause: fn() -> Turn,
    /// The pause before the next read. `None` when it is over.
    wait: Option<Turn>,
}

impl<W> Slow<W> {
    /// Most bytes at once.
    const MOST: usize = 512;

    /// Waits for a `pause` before each read.
    pub(crate) fn new(wire: W, pause: fn() -> Turn) -> Self {
        Self { wire, pause, wait: Some(pause()) }
    }
}

impl<W: Wire> Wire for Slow<W> {
    fn reset(self: Box<Self>) {
        Box::new(self.wire).reset();
    }

    fn eof_is_reset(&self) -> bool {
        self.wire.eof_is_reset()
    }
}

impl<W: Wire> AsyncRead for Slow<W> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        let most = buffer.remaining().min(Self::MOST);
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
        let read = Pin::new(&mut self.wire).poll_read(cx, &mut part);
        let count = part.filled().len();
        buffer.advance(count);
        if read.is_ready() {
            self.wait = Some((self.pause)());
        }
        read
    }
}

impl<W: Wire> AsyncWrite for Slow<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}
