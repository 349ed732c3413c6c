//! Filter: a stage between the wire and the lines of a session, such as a preface, TLS, telnet or a recorder.
//!
//! A filter gets bytes and returns bytes. It has no socket, no task and no clock; the transport calls it. So any number
//! of filters can be chained, and a test of a filter just calls it.
//! Not here: calling filters, and the use of their bytes (`transport`).

use std::{
    any::Any,
    error::Error,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use crate::{
    caught::{dispose, drop_caught},
    connection::ConnectionInfo,
    report::{CloseReport, FaultName},
};

/// Bytes from the wire for a filter to read.
///
/// They may be changed in place: they are not used again.
#[derive(Debug)]
pub struct Inflow<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Inflow<'a> {
    /// Wraps bytes, for example in a filter's own tests.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns the number of unread bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Returns true if all bytes were read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the unread bytes without taking them.
    pub fn rest(&mut self) -> &mut [u8] {
        &mut self.bytes[self.at..]
    }

    /// Takes the next `count` bytes, or all that are left if there are fewer.
    pub fn take(&mut self, count: usize) -> &mut [u8] {
        let begin = self.at;
        self.advance(count);
        &mut self.bytes[begin..self.at]
    }

    /// Skips the next `count` bytes, or all that are left if there are fewer.
    pub fn advance(&mut self, count: usize) {
        self.at += count.min(self.len());
    }
}

/// The state of a filter after a [`read`](Filter::read).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Flow {
    /// The filter needs more from the peer before anything can be written: a header, a handshake.
    Preface,
    /// Bytes flow in both directions.
    Open,
    /// The peer has ended its bytes by the filter's own means, as TLS does by `close_notify`. Later bytes of the peer
    /// are discarded; bytes are still written to it.
    Ended,
    /// The filter is finished and is dropped, for example after a header. Unread bytes go to the next filter, or to the
    /// session.
    Done,
}

/// The meaning of the wire's end for a filter that had not [`Ended`](Flow::Ended).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Eof {
    /// The peer's bytes have ended.
    Clean,
    /// Bytes are missing: the wire ended in the middle of a frame, or without the end that the protocol requires.
    Truncated,
}

/// The error of a filter that cannot read or write the wire any further; the session ends with
/// [`CloseReason::FilterFailed`](crate::CloseReason::FilterFailed), or with its [name](Self::named).
///
/// Its text goes to the log at debug level; characters that do not print are escaped.
#[derive(Debug)]
pub struct Fault {
    cause: Box<dyn Error + Send + Sync>,
    name: Option<FaultName>,
}

impl Fault {
    /// Makes a fault of an error, or of a text that describes it.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { cause: cause.into(), name: None }
    }

    /// Makes a fault that is reported and counted by a name, as
    /// [`CloseReason::FilterFault`](crate::CloseReason::FilterFault), such as `"proxy-missing"`. The first 255 names of the
    /// process count, others do not: a name is no place for data.
    pub fn named(name: &'static str, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { cause: cause.into(), name: FaultName::new(name) }
    }

    pub(crate) fn name(&self) -> Option<FaultName> {
        self.name
    }

    /// Returns the text, and drops the cause: both are the filter's code, which may panic.
    pub(crate) fn into_text(self) -> String {
        let text = catch_unwind(AssertUnwindSafe(|| self.to_string()));
        drop_caught(self);
        text.unwrap_or_else(|payload| {
            dispose(payload);
            "its text panicked".to_owned()
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.source()
    }
}

/// What a filter tells the handler of its session, between the lines that came before it on the wire and those that came
/// after: [`LineHandler::notice`](crate::LineHandler::notice).
pub struct Notice {
    value: Box<dyn Any + Send>,
    answer: &'static [u8],
}

impl Notice {
    /// Makes a notice of a value, whose type says what it is about.
    pub fn new<T: Any + Send>(value: T) -> Self {
        Self { value: Box::new(value), answer: b"" }
    }

    /// Sets what a handler writes that does not care.
    #[must_use]
    pub fn with_answer(mut self, answer: &'static [u8]) -> Self {
        self.answer = answer;
        self
    }

    /// Returns the value, if it is of this type.
    #[must_use]
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.value.downcast_ref()
    }

    /// Returns what a handler writes that does not care; as a rule nothing.
    #[must_use]
    pub fn answer(&self) -> &'static [u8] {
        self.answer
    }
}

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notice").field("answer", &self.answer.escape_ascii().to_string()).finish_non_exhaustive()
    }
}

/// A filter of one connection: it turns wire bytes into plain bytes, and plain bytes into wire bytes.
///
/// A session behind a filter keeps every promise. Its counters are of plain bytes. After an error or a panic, which
/// ends only its session, a filter is not called again.
pub trait Filter: 'static {
    /// Reads all of `wire`. Appends the session's bytes to `plain`, and to `reply` bytes that are sent to the peer
    /// before anything that is written later. The filter keeps bytes that it cannot decode yet.
    ///
    /// Called once without bytes when the filter begins, so that it can send first and return its state. It may leave
    /// bytes unread only with [`Flow::Done`], or with a [`notice`](Self::notice). One read is at most 64 KiB. The appended
    /// bytes should be bounded by the bytes read and held: a filter that expands its input has to bound itself.
    ///
    /// # Errors
    /// Returns a [`Fault`] if the wire cannot be read. Appended bytes count all the same: lines are delivered, the
    /// reply is sent, then the session closes.
    fn read(&mut self, wire: &mut Inflow<'_>, plain: &mut Vec<u8>, reply: &mut Vec<u8>) -> Result<Flow, Fault>;

    /// Takes what the filter has to tell the handler. Called after each [`read`](Self::read) that left it
    /// [`Open`](Flow::Open). Bytes that the filter then leaves unread are offered again, once the handler was told and wants
    /// more: a filter that stops reading at what it has to tell keeps the order, and nobody has to store a second one.
    /// Default: nothing.
    fn notice(&mut self) -> Option<Notice> {
        None
    }

    /// Hears a word of its session's handler, of [`LineContext::tell_filter`](crate::LineContext::tell_filter); appends to
    /// `reply` as [`read`](Self::read) does. Returns whether the word was meant for it. Called between its opening and
    /// [`finish`](Self::finish). Default: no word is.
    fn tell(&mut self, word: &dyn Any, reply: &mut Vec<u8>) -> bool {
        let _ = (word, reply);
        false
    }

    /// Appends to `wire` the encoded bytes of `plain`, which are at most 16 KiB. Called only when the filter is
    /// [`Open`](Flow::Open) or [`Ended`](Flow::Ended), and never after [`finish`](Self::finish).
    ///
    /// # Errors
    /// Returns a [`Fault`] if nothing can be written any more. Bytes appended in this call are not sent, and the
    /// session closes.
    fn write(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Fault>;

    /// Returns the meaning of the wire's end. Called if the wire ends before the filter has [`Ended`](Flow::Ended) or
    /// is [`Done`](Flow::Done).
    fn eof(&mut self) -> Eof;

    /// The same for a filter that is in its [`Preface`](Flow::Preface). It may append to `plain` bytes that it has held back:
    /// then it is done, and they are the session's, with the peer's EOF behind them. Default: [`eof`](Self::eof).
    ///
    /// # Errors
    /// Returns a [`Fault`] if the wire must not end here.
    fn preface_eof(&mut self, plain: &mut Vec<u8>) -> Result<Eof, Fault> {
        let _ = plain;
        Ok(self.eof())
    }

    /// Returns how long its [`Preface`](Flow::Preface) may last, from when the filter begins to wait for the peer; it is over
    /// at the [`preface_timeout`](crate::limits::LimitsBuilder::preface_timeout) in any case, and met within a second. Asked
    /// for while the filter waits, of the connections of a listener. Default: as long as that.
    fn timeout(&self) -> Option<Duration> {
        None
    }

    /// Its [`timeout`](Self::timeout) is over. `Ok` is for a filter that can do without what it waits for: it is done. It is
    /// dropped behind this call.
    ///
    /// # Errors
    /// Returns the [`Fault`] that ends the connection; one without a name is
    /// [`PrefaceTimeout`](crate::CloseReason::PrefaceTimeout). The default.
    fn expired(&mut self) -> Result<(), Fault> {
        Err(Fault::new("its time is over"))
    }

    /// Appends the protocol's end of our bytes to `wire`; our FIN is sent after it. Called at most once.
    fn finish(&mut self, wire: &mut Vec<u8>);

    /// Adds what it has found out about the connection, for the factory of the session's actor and for its handler.
    /// Called when the filter is [`Open`](Flow::Open) or [`Done`](Flow::Done), and again when a handler asks for its
    /// [`connection`](crate::LineContext::connection). If it panics, nothing was found out.
    fn learned(&self, info: &mut ConnectionInfo) {
        let _ = info;
    }

    /// Returns the number of wire bytes read and not decoded yet. While it is not 0 they count as an incomplete line of
    /// the session: [`line_timeout`](crate::limits::LimitsBuilder::line_timeout) runs. Asked for after each call that succeeded.
    fn held(&self) -> usize;

    /// Returns the bytes of memory that its buffers take; they count in the
    /// [memory budget](crate::limits::LimitsBuilder::memory_budget). Asked for as [`held`](Self::held) is.
    fn memory(&self) -> usize {
        self.held()
    }

    /// Called last, with the report of the session, unless the filter is [`Done`](Flow::Done) or has failed. The connection
    /// is closed after it. Default: nothing.
    fn closed(&mut self, report: &CloseReport) {
        let _ = report;
    }
}

/// A filter that could not be made: every connection ends with the reason.
#[cfg(feature = "tls")]
pub(crate) struct Broken(String);

#[cfg(feature = "tls")]
impl Broken {
    pub(crate) fn new(reason: impl fmt::Display) -> Self {
        Self(reason.to_string())
    }
}

#[cfg(feature = "tls")]
impl Filter for Broken {
    fn read(&mut self, _: &mut Inflow<'_>, _: &mut Vec<u8>, _: &mut Vec<u8>) -> Result<Flow, Fault> {
        Err(Fault::new(self.0.as_str()))
    }

    fn write(&mut self, _: &[u8], _: &mut Vec<u8>) -> Result<(), Fault> {
        Err(Fault::new(self.0.as_str()))
    }

    fn eof(&mut self) -> Eof {
        Eof::Clean
    }

    fn finish(&mut self, _: &mut Vec<u8>) {}

    fn held(&self) -> usize {
        0
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
