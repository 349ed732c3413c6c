//! Filters: what stands between the wire and the lines of a session, as a preface, TLS, telnet or a recorder.
//!
//! A filter is given bytes and gives bytes. It has no socket, no task and no clock; whoever has those asks it, so that any number
//! of filters stand one behind the other, and a filter is tested by calling it.
//! Not here: when a filter is asked, and what becomes of its bytes (`filtered`).

use std::{error::Error, fmt, sync::Arc};

use crate::connection::Connection;

/// Bytes from the wire that a filter is to read.
///
/// They may be changed in place: nobody looks at them again.
#[derive(Debug)]
pub struct Inflow<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Inflow<'a> {
    /// Makes one of bytes at hand, as in a filter's own tests.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns the number of bytes that are left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Returns whether all was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns what is left, and leaves it there.
    pub fn rest(&mut self) -> &mut [u8] {
        &mut self.bytes[self.at..]
    }

    /// Takes the next `count` bytes, or all that are left if those are fewer.
    pub fn take(&mut self, count: usize) -> &mut [u8] {
        let begin = self.at;
        self.advance(count);
        &mut self.bytes[begin..self.at]
    }

    /// Passes over the next `count` bytes, or over all that are left if those are fewer.
    pub fn advance(&mut self, count: usize) {
        self.at += count.min(self.len());
    }
}

/// How far a filter is after a [`read`](Filter::read).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Flow {
    /// It needs more from the peer before anything can be written: a header, a handshake.
    Preface,
    /// Bytes flow in both directions.
    Open,
    /// The peer has ended its bytes by the filter's own means, as TLS does by `close_notify`. What it sends from here on is
    /// discarded; it is still written to.
    Ended,
    /// The filter has nothing more to do and is dropped, as one that has read a header. What it left unread goes to the next
    /// filter, or is the session's.
    Done,
}

/// How the wire's end looks to a filter that had not [`Ended`](Flow::Ended).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Eof {
    /// As the peer's end of bytes.
    Clean,
    /// As if something was cut off: in the middle of a frame, or without the end that belongs to the protocol.
    Truncated,
}

/// The wire cannot be read or written any further: the reason of a [`CloseReason::FilterFailed`](crate::CloseReason::FilterFailed).
///
/// Its text goes to the log at debug level, with everything escaped that is not printable.
#[derive(Debug)]
pub struct Fault(Box<dyn Error + Send + Sync>);

impl Fault {
    /// Makes one of an error, or of a text that says what is wrong.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// A filter of one connection: wire in, plain bytes out, and back.
///
/// A session behind a filter keeps every promise; bytes are counted as the session sees them, in plain. After an error, and after
/// a panic, which ends this session alone, a filter is not called again.
pub trait Filter: 'static {
    /// Reads all of `wire`: appends to `plain` what is the session's, and to `reply` what is to go to the peer before anything
    /// that is written later. What it cannot decode yet it keeps.
    ///
    /// Called once with nothing to read when the filter begins, so that it may speak first and say how far it is. It may leave
    /// bytes unread only with [`Flow::Done`]. One read is at most 64 KiB. What is appended should be bounded by what was read
    /// and held: a filter that makes more of it bounds itself.
    ///
    /// # Errors
    /// [`Fault`] if the wire cannot be read. What was appended counts all the same: lines are delivered, the reply is sent, then
    /// the session closes.
    fn read(&mut self, wire: &mut Inflow<'_>, plain: &mut Vec<u8>, reply: &mut Vec<u8>) -> Result<Flow, Fault>;

    /// Appends to `wire` what `plain`, at most 16 KiB, is there. Called only when the filter is [`Open`](Flow::Open) or
    /// [`Ended`](Flow::Ended), and never after [`finish`](Self::finish).
    ///
    /// # Errors
    /// [`Fault`] if nothing can be written any more; what was appended in this call is not sent, and the session closes.
    fn write(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Fault>;

    /// Says what the end of the wire means, which came before an [`Ended`](Flow::Ended) or a [`Done`](Flow::Done).
    fn eof(&mut self) -> Eof;

    /// Appends the end of our bytes to `wire`, behind which our FIN is sent. Called at most once.
    fn finish(&mut self, wire: &mut Vec<u8>);

    /// Returns how many bytes of the wire it has read and not decoded yet. While there are some the session's line is begun:
    /// [`line_timeout`](crate::LimitsBuilder::line_timeout) runs.
    fn held(&self) -> usize;

    /// Returns the bytes of memory that its buffers take; they count in the
    /// [memory budget](crate::LimitsBuilder::memory_budget).
    fn memory(&self) -> usize {
        self.held()
    }
}

/// What makes the filters of a listener's connections, from the wire inwards. It is the same on all workers.
#[derive(Clone, Default)]
pub(crate) struct Filters(Vec<Arc<MakeFilter>>);

type MakeFilter = dyn Fn(&Connection) -> Box<dyn Filter> + Send + Sync;

impl Filters {
    pub(crate) fn push<F: Filter>(&mut self, factory: impl Fn(&Connection) -> F + Send + Sync + 'static) {
        self.0.push(Arc::new(move |connection| Box::new(factory(connection))));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes those of one connection.
    pub(crate) fn make(&self, connection: &Connection) -> impl Iterator<Item = Box<dyn Filter>> {
        self.0.iter().map(|factory| factory(connection))
    }
}

impl fmt::Debug for Filters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} filters", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inflow_is_taken_in_pieces_and_never_beyond_its_end() {
        let mut bytes = *b"abcdef";
        let mut inflow = Inflow::new(&mut bytes);
        assert_eq!(inflow.take(2), b"ab");
        assert_eq!(inflow.len(), 4);
        inflow.rest()[0] = b'C';
        inflow.advance(0);
        assert_eq!(inflow.take(3), b"Cde");
        assert_eq!(inflow.take(9), b"f");
        inflow.advance(9);
        assert!(inflow.is_empty() && inflow.rest().is_empty());
    }
}
