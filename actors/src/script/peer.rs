//! A peer: its connection, all it has received, and how far the script has come in that.
//!
//! Not here: what it is to receive (`matching`), in which order peers act (`run`).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{io::ReadBuf, net::TcpListener};

use crate::script::{
    address::Address,
    ast::Span,
    driver::Wire,
    matching::{End, Never, Pending},
    scope::peer_title,
};

/// Read ahead of the script. A service that sends for ever is left to wait.
const MAX_AHEAD: usize = 64 << 20;
/// Reads at once, before the script is looked at.
const MAX_READS: usize = 16;

pub(crate) struct Peer {
    pub(crate) name: String,
    /// `None` before it connects and after it closes.
    pub(crate) wire: Option<Box<dyn Wire>>,
    pub(crate) received: Vec<u8>,
    /// What the script has accounted for.
    pub(crate) cursor: usize,
    pub(crate) end: Option<End>,
    /// The script has said that it ends so.
    pub(crate) is_end_taken: bool,
    pub(crate) is_paused: bool,
    pub(crate) has_half_closed: bool,
    pub(crate) was_connected: bool,
    /// Where it connected. `None` in memory, and for one that accepted.
    pub(crate) address: Option<Address>,
    /// Bytes that it has sent.
    pub(crate) sent: usize,
    /// Chunks of what it sends.
    pub(crate) split: Option<usize>,
    /// Cuts of what it sends next.
    pub(crate) cuts: Vec<usize>,
    /// What may come before the next thing that has to.
    pub(crate) optional: Vec<Pending>,
    /// What must not come, until the block ends.
    pub(crate) nevers: Vec<Never>,
    /// The last statement that is about it.
    pub(crate) last: Span,
}

pub(crate) fn end_of(error: &io::Error) -> End {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => End::Reset,
        // Only TLS knows of an end that it did not expect.
        io::ErrorKind::UnexpectedEof => End::Truncated,
        _ => End::Failed(error.to_string()),
    }
}

/// A peer's listener. It stays when the peer's connection ends, and is closed at the end of the script.
pub(crate) struct Listener {
    pub(crate) peer: String,
    pub(crate) listener: TcpListener,
}

impl Peer {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            wire: None,
            received: Vec::new(),
            cursor: 0,
            end: None,
            is_end_taken: false,
            is_paused: false,
            has_half_closed: false,
            was_connected: false,
            address: None,
            sent: 0,
            split: None,
            cuts: Vec::new(),
            optional: Vec::new(),
            nevers: Vec::new(),
            last: Span::default(),
        }
    }

    /// A connection is there.
    pub(crate) fn connected(&mut self, wire: Box<dyn Wire>) {
        self.wire = Some(wire);
        self.has_half_closed = false;
        self.end = None;
        self.is_end_taken = false;
        // No line goes on in another connection.
        let here = self.received.len();
        self.nevers.iter_mut().for_each(|never| never.begin(here));
    }

    /// How reports call it.
    pub(crate) fn title(&self) -> &str {
        peer_title(&self.name)
    }

    /// Something came, or an end.
    pub(crate) fn was_heard(&self) -> bool {
        !self.received.is_empty() || self.end.is_some()
    }

    pub(crate) fn rest(&self) -> &[u8] {
        &self.received[self.cursor..]
    }

    /// Reads what is there. True if there was something, or the end.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(wire) = &mut self.wire else { return false };
        if self.is_paused || self.end.is_some() || self.received.len() - self.cursor > MAX_AHEAD {
            return false;
        }
        let mut space = [0; 16 * 1024];
        for read in 0..MAX_READS {
            let mut buffer = ReadBuf::new(&mut space);
            match Pin::new(&mut **wire).poll_read(cx, &mut buffer) {
                Poll::Pending => return read > 0,
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    self.end = Some(if wire.eof_is_reset() { End::Reset } else { End::Eof });
                    return true;
                }
                Poll::Ready(Ok(())) => self.received.extend_from_slice(buffer.filled()),
                Poll::Ready(Err(error)) => {
                    self.end = Some(end_of(&error));
                    return true;
                }
            }
        }
        cx.waker().wake_by_ref();
        true
    }

    /// Gives up the connection.
    pub(crate) fn close(&mut self) -> Option<Box<dyn Wire>> {
        self.optional.clear();
        self.is_paused = false;
        self.wire.take()
    }
}
