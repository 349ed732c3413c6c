//! Transport: a session's connection. A stream, or a stream behind filters, which carries plain bytes again.
//!
//! A filter is boxed, so that a session without one pays nothing; several are nested. Plain bytes stay in the session's
//! outbox until all of their wire bytes were taken, so that a report counts only bytes that left. They are sealed when
//! they are to be sent, and only when nothing sealed waits: the order on the wire is the order of sealing.
//! Not here: the stream itself (`stream`), a filter's work (`filter`), reading and writing in a turn (`session`).

use std::{
    fmt, io, mem,
    task::{Context, Poll, ready},
};

use tokio::{
    io::ReadBuf,
    net::{TcpStream, UnixStream},
};

use crate::{
    address::Address,
    connection::{ConnectionInfo, SessionId},
    escape::Escaped,
    wire::{
        filter::{Eof, Fault, Filter, Flow, Inflow},
        guarded::Guarded,
        sealed::{PIECE_BYTES, PIECES, Sealed, borrow_buffer, return_buffer},
        socket::Socket,
        stream::{ByteStream, Stream},
        tcp::SendQueue,
    },
};

/// Bytes of waiting replies above which the wire is not read.
const REPLIES_BYTES: usize = 64 * 1024;

/// The longest preface of one filter. Unit: bytes.
const MAX_PREFACE_BYTES: u32 = 64 * 1024;

/// With more plain bytes than this waiting for the session its filter is not driven on for a writer. Unit: bytes.
const PLAIN_BYTES: usize = 64 * 1024;

/// Bytes that are read at once of a preface that is waited for by a writer.
const PREFACE_BYTES: usize = 4 * 1024;

/// Reads of it in one go.
const PREFACE_READS: usize = 8;

/// A session's connection: two byte streams, one in each direction.
pub struct Transport(Kind);

enum Kind {
    Plain(Stream),
    Filtered(Box<Filtered>),
}

/// The way in which reading has ended, other than by the peer's EOF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Truncated,
    Failed,
}

impl Transport {
    /// Makes a transport of any two-way byte stream.
    pub fn new(stream: impl ByteStream) -> Self {
        Self::plain(Stream::Other(Box::new(stream)))
    }

    fn plain(stream: Stream) -> Self {
        Self(Kind::Plain(stream))
    }

    /// Adds a filter between the transport and its session. The first of several is nearest to the wire.
    ///
    /// For the connections of a listener use [`Listener::filter`](crate::Listener::filter).
    #[must_use]
    pub fn with_filter(self, filter: impl Filter) -> Self {
        self.with_boxed_filter(Box::new(filter))
    }

    /// The same with a filter in a box.
    pub(crate) fn with_boxed_filter(self, filter: Box<dyn Filter>) -> Self {
        Self(Kind::Filtered(Box::new(Filtered::new(self, filter))))
    }

    /// Makes a transport that is closed already.
    pub(crate) fn closed() -> Self {
        Self::plain(Stream::Closed)
    }

    /// Gives up the stream; what is returned closes it when it is dropped.
    pub(crate) fn take(&mut self) -> Self {
        mem::replace(self, Self::closed())
    }

    #[inline]
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Plain(stream) => stream.poll_read(cx, buffer),
            Kind::Filtered(_) => self.poll_read_filtered(cx, buffer, false),
        }
    }

    /// Reads what is there at this moment, also if the reactor does not know of it yet: a socket that has just come to it
    /// counts as empty until it has asked the kernel.
    pub(crate) fn poll_read_now(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Plain(stream) => stream.poll_read_now(cx, buffer),
            Kind::Filtered(_) => self.poll_read_filtered(cx, buffer, true),
        }
    }

    fn poll_read_filtered(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        asks: bool,
    ) -> Poll<io::Result<()>> {
        let Kind::Filtered(filtered) = &mut self.0 else { return self.poll_read(cx, buffer) };
        match filtered.take_inner_if_done() {
            None => filtered.poll_read(cx, buffer, asks),
            Some(inner) => {
                *self = inner;
                if asks { self.poll_read_now(cx, buffer) } else { self.poll_read(cx, buffer) }
            }
        }
    }

    /// Returns true if the peer's EOF would be read next. Always false for other transports than sockets, which cannot
    /// be checked without reading.
    pub(crate) fn is_at_eof(&self) -> bool {
        matches!(&self.0, Kind::Plain(stream) if stream.is_at_eof())
    }

    #[inline]
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Plain(stream) => stream.poll_write(cx, bytes),
            Kind::Filtered(filtered) => filtered.poll_write(cx, bytes),
        }
    }

    /// Flushes buffers of the transport's own. Sockets have none.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Plain(stream) => stream.poll_flush(cx),
            Kind::Filtered(filtered) => filtered.poll_flush(cx),
        }
    }

    /// Sends the FIN.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Plain(stream) => stream.poll_shutdown(cx),
            Kind::Filtered(filtered) => filtered.poll_shutdown(cx),
        }
    }

    /// Returns true if dropping it does all that a shutdown would, once the peer's EOF was read.
    pub(crate) fn closes_when_dropped(&self) -> bool {
        matches!(&self.0, Kind::Plain(stream) if stream.closes_when_dropped())
    }

    /// Writes as much as the kernel takes at this moment, outside of a task's turn: the last chance before the socket
    /// is closed.
    pub(crate) fn write_now(&mut self, bytes: &[u8]) -> usize {
        match &mut self.0 {
            Kind::Plain(stream) => stream.write_now(bytes),
            Kind::Filtered(filtered) => filtered.write_now(bytes),
        }
    }

    /// The stream below all filters.
    fn stream(&self) -> &Stream {
        match &self.0 {
            Kind::Plain(stream) => stream,
            Kind::Filtered(filtered) => filtered.inner.stream(),
        }
    }

    /// Returns the state of the kernel's send queue. `None` for other transports than TCP.
    pub(crate) fn send_queue(&self) -> Option<SendQueue> {
        self.stream().send_queue()
    }

    /// Makes the close a reset: bytes in the kernel, in both directions, are dropped, and the peer is told.
    pub(crate) fn reset_at_close(&self) {
        self.stream().reset_at_close();
    }

    pub(crate) fn peer(&self) -> Address {
        self.stream().peer()
    }

    pub(crate) fn local(&self) -> Address {
        self.stream().local()
    }

    fn filtered(&self) -> Option<&Filtered> {
        if let Kind::Filtered(filtered) = &self.0 { Some(filtered) } else { None }
    }

    fn filtered_mut(&mut self) -> Option<&mut Filtered> {
        if let Kind::Filtered(filtered) = &mut self.0 { Some(filtered) } else { None }
    }

    pub(crate) fn is_filtered(&self) -> bool {
        self.filtered().is_some()
    }

    /// Returns true if bytes may be written: no filter waits for its peer first.
    pub(crate) fn is_open(&self) -> bool {
        self.filtered().is_none_or(Filtered::is_open)
    }

    /// Drives prefaces on. Ready when they are over, in whatever way.
    pub(crate) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.filtered_mut().map_or(Poll::Ready(Ok(())), |filtered| filtered.poll_open(cx))
    }

    /// Returns true if a filter takes nothing any more, so that a write fails though the peer may be there.
    pub(crate) fn is_unwritable(&self) -> bool {
        self.filtered().is_some_and(Filtered::is_unwritable)
    }

    /// Returns the way in which reading has ended, if a filter has ended it. Called when a read brought nothing.
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.filtered().and_then(Filtered::ending)
    }

    /// Logs the fault of a filter, once.
    #[cold]
    pub(crate) fn log_fault(&mut self, session: SessionId) {
        if let Some(fault) = self.take_fault() {
            log::debug!("session {session}: a filter failed: {}", Escaped::new(&fault));
        }
    }

    pub(crate) fn take_fault(&mut self) -> Option<String> {
        self.filtered_mut().and_then(Filtered::take_fault)
    }

    /// Adds what filters have found out, the first that of the one nearest to the wire.
    pub(crate) fn learned(&self, info: &mut ConnectionInfo) {
        if let Some(filtered) = self.filtered() {
            filtered.learned(info);
        }
    }

    /// Forgets what filters had found out that are done, once somebody else has it: then nothing is left of these.
    pub(crate) fn forget_learned(&mut self) {
        if let Some(filtered) = self.filtered_mut() {
            filtered.forget_learned();
        }
    }

    /// Bytes of the wire that filters have read and that are nobody's yet.
    #[inline]
    pub(crate) fn held(&self) -> usize {
        self.filtered().map_or(0, Filtered::held)
    }

    /// Memory that the buffers of filters take.
    #[inline]
    pub(crate) fn memory(&self) -> usize {
        self.filtered().map_or(0, Filtered::memory)
    }

    /// Returns true if filters have something to send that no write has to be asked for again.
    #[inline]
    pub(crate) fn is_unflushed(&self) -> bool {
        self.filtered().is_some_and(Filtered::is_unflushed)
    }

    /// Returns true if a filter has sent the peer something of its own.
    pub(crate) fn has_spoken(&self) -> bool {
        self.filtered().is_some_and(Filtered::has_spoken)
    }

    /// Tells the filters that their session has ended.
    #[cold]
    pub(crate) fn tell_closed(&mut self, report: &crate::report::CloseReport) {
        let Some(filtered) = self.filtered_mut() else { return };
        filtered.call(|filter| {
            filter.closed(report);
            Ok(())
        });
        filtered.inner.tell_closed(report);
    }

    /// Has what is read from here on be for discarding. Returns whether a filter has said the peer's end before its wire
    /// has ended, so that there may be something.
    pub(crate) fn linger(&mut self) -> bool {
        self.filtered_mut().is_some_and(Filtered::linger)
    }
}

impl From<TcpStream> for Transport {
    fn from(stream: TcpStream) -> Self {
        Self::plain(Stream::Tcp(stream))
    }
}

/// Registers it with the reactor of the current arbiter.
impl TryFrom<Socket> for Transport {
    type Error = io::Error;

    fn try_from(socket: Socket) -> io::Result<Self> {
        Stream::try_from(socket).map(Self::plain)
    }
}

impl From<UnixStream> for Transport {
    fn from(stream: UnixStream) -> Self {
        Self::plain(Stream::Unix(stream))
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Plain(stream) => f.debug_tuple("Transport").field(stream).finish(),
            Kind::Filtered(filtered) => f.debug_tuple("Filtered").field(&filtered.inner).finish(),
        }
    }
}

/// How bytes are written to the stream below: in a turn, or outside of one.
type Sink<'a> = dyn FnMut(&mut Transport, &[u8]) -> Poll<io::Result<usize>> + 'a;

/// A transport behind a filter.
struct Filtered {
    inner: Transport,
    filter: Guarded,
    flow: Flow,
    /// Decoded, and not given to the session yet.
    plain: Vec<u8>,
    sealed: Sealed,
    ending: Option<Ending>,
    /// Of a write that had taken whole pieces before.
    error: Option<io::Error>,
    /// Bytes of the wire that the filter has read before it was open.
    preface: u32,
    /// The filter had its first call.
    has_begun: bool,
    /// The next read asks the kernel: what is held may have been cut at an urgent byte.
    asks: bool,
    /// The wire has ended.
    at_eof: bool,
    /// Our end was said.
    has_finished: bool,
    /// What comes is discarded by whoever reads it.
    lingers: bool,
    /// It wrote something that was not the session's.
    has_spoken: bool,
    /// The stream below may hold bytes that it has taken.
    needs_flush: bool,
}

impl Filtered {
    fn new(inner: Transport, filter: Box<dyn Filter>) -> Self {
        Self {
            inner,
            filter: Guarded::new(filter),
            flow: Flow::Preface,
            plain: Vec::new(),
            sealed: Sealed::default(),
            ending: None,
            error: None,
            preface: 0,
            has_begun: false,
            asks: false,
            at_eof: false,
            has_finished: false,
            lingers: false,
            has_spoken: false,
            needs_flush: false,
        }
    }

    /// Returns the stream below if nothing is left to be done to it.
    fn take_inner_if_done(&mut self) -> Option<Transport> {
        let is_done = self.flow == Flow::Done && !self.at_eof && self.plain.is_empty() && self.sealed.len() == 0;
        (is_done && self.filter.learned.is_none()).then(|| self.inner.take())
    }

    /// Returns true if bytes may be written.
    fn is_open(&self) -> bool {
        self.flow != Flow::Preface && self.inner.is_open()
    }

    /// Returns true if nothing can be written any more, whatever becomes of the stream below.
    fn is_unwritable(&self) -> bool {
        self.ending == Some(Ending::Failed) || (self.at_eof && !self.is_open()) || self.inner.is_unwritable()
    }

    fn ending(&self) -> Option<Ending> {
        self.ending.or_else(|| self.inner.ending())
    }

    fn take_fault(&mut self) -> Option<String> {
        self.filter.fault.take().map(String::from).or_else(|| self.inner.take_fault())
    }

    fn learned(&self, info: &mut ConnectionInfo) {
        self.inner.learned(info);
        if self.flow != Flow::Preface {
            self.filter.learned(info);
        }
    }

    fn forget_learned(&mut self) {
        self.filter.learned = None;
        self.inner.forget_learned();
    }

    /// Bytes of the wire that are read and not the session's yet.
    fn held(&self) -> usize {
        self.plain.len() + self.filter.held() + self.inner.held()
    }

    fn memory(&self) -> usize {
        self.plain.capacity() + self.sealed.wire.capacity() + self.filter.memory() + self.inner.memory()
    }

    fn is_unflushed(&self) -> bool {
        self.sealed.len() > 0 || self.needs_flush || self.inner.is_unflushed()
    }

    /// Returns true if the peer was sent what no session wrote.
    fn has_spoken(&self) -> bool {
        self.has_spoken || self.inner.has_spoken()
    }

    /// From here on what is read is discarded. Returns whether the wire has not ended yet.
    fn linger(&mut self) -> bool {
        self.lingers = true;
        if self.inner.is_filtered() { self.inner.linger() } else { !self.at_eof }
    }

    /// Reads plain bytes. None, without an error, are the end: the peer's, unless [`ending`](Self::ending) says otherwise.
    /// Bytes of the wire that are none of the session are [`io::ErrorKind::Interrupted`].
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>, asks: bool) -> Poll<io::Result<()>> {
        if self.lingers && (self.filter.is_gone() || self.flow == Flow::Ended || self.ending.is_some()) {
            return self.inner.poll_read(cx, buffer);
        }
        if self.plain.is_empty() {
            if self.has_ended() {
                return Poll::Ready(Ok(()));
            }
            self.send_replies(cx)?;
            if self.sealed.replies() > REPLIES_BYTES {
                return Poll::Pending;
            }
            let mut plain = borrow_buffer();
            let poll = self.poll_decode(cx, buffer, asks, &mut plain);
            // Bytes of the wire: the session sees none of them.
            buffer.set_filled(0);
            let count = plain.len().min(buffer.remaining());
            buffer.put_slice(&plain[..count]);
            if plain.len() > count {
                self.plain = plain[count..].to_vec();
            }
            return_buffer(plain);
            if count > 0 {
                return Poll::Ready(Ok(()));
            }
            ready!(poll)?;
            return if self.has_ended() {
                Poll::Ready(Ok(()))
            } else {
                Poll::Ready(Err(io::ErrorKind::Interrupted.into()))
            };
        }
        let count = self.plain.len().min(buffer.remaining());
        buffer.put_slice(&self.plain[..count]);
        self.plain.drain(..count);
        if self.plain.is_empty() {
            self.plain = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Returns true if no plain bytes come any more.
    fn has_ended(&self) -> bool {
        let is_over = self.ending.is_some() || (self.flow == Flow::Ended && !self.filter.is_gone());
        if self.lingers { self.at_eof } else { is_over || self.at_eof }
    }

    /// One read of the stream below, into `buffer`, and what the filter makes of it.
    fn poll_decode(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        asks: bool,
        plain: &mut Vec<u8>,
    ) -> Poll<io::Result<()>> {
        if !self.has_begun && self.inner.is_open() {
            self.has_begun = true;
            self.decode(&mut [], plain);
        } else {
            let asks = mem::take(&mut self.asks) || asks;
            ready!(if asks { self.inner.poll_read_now(cx, buffer) } else { self.inner.poll_read(cx, buffer) })?;
            let wire = buffer.filled_mut();
            if wire.is_empty() {
                self.at_eof = true;
                self.end();
                return Poll::Ready(Ok(()));
            }
            self.decode(wire, plain);
            self.asks = !asks && self.filter.held() > 0;
        }
        self.send_replies(cx)?;
        Poll::Ready(Ok(()))
    }

    /// Sends replies, unless bytes of the session are before them: of these a write has to hear.
    fn send_replies(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.sealed.len() > 0 && !self.sealed.has_plain() {
            let result = self.push(&mut |inner, bytes| inner.poll_write(cx, bytes));
            // Where the filter below has failed what it read is still delivered.
            if !self.inner.is_unwritable() {
                result?;
            }
        }
        Ok(())
    }

    /// The stream below has ended.
    #[cold]
    fn end(&mut self) {
        if self.ending.is_some() {
            return;
        }
        self.ending = self.inner.ending();
        if self.ending.is_none()
            && let Some(Ok(Eof::Truncated)) = self.call(|filter| Ok(filter.eof()))
        {
            self.ending = Some(Ending::Truncated);
        }
    }

    /// Has the filter read bytes of the wire.
    fn decode(&mut self, wire: &mut [u8], plain: &mut Vec<u8>) {
        let len = wire.len() as u32;
        let mut inflow = Inflow::new(wire);
        let mut reply = borrow_buffer();
        match self.call(|filter| filter.read(&mut inflow, plain, &mut reply)) {
            None => plain.extend_from_slice(inflow.rest()),
            Some(Ok(Flow::Done)) => {
                plain.extend_from_slice(inflow.rest());
                self.flow = Flow::Done;
                self.filter.finish();
            }
            Some(Ok(flow)) => {
                self.flow = flow;
                if flow == Flow::Preface {
                    self.preface = self.preface.saturating_add(len);
                }
                if flow != Flow::Ended && !inflow.is_empty() {
                    self.fail(Fault::new("the filter left bytes unread"));
                } else if flow == Flow::Preface && self.preface > MAX_PREFACE_BYTES {
                    self.fail(Fault::new(format!("its preface is longer than {MAX_PREFACE_BYTES} bytes")));
                }
            }
            Some(Err(())) => {}
        }
        if !self.has_finished && !reply.is_empty() {
            self.has_spoken = true;
            self.sealed.add_reply(&reply);
        }
        return_buffer(reply);
    }

    /// Calls the filter, which is gone when it fails. `None` if there is none.
    fn call<R>(&mut self, call: impl FnOnce(&mut dyn Filter) -> Result<R, Fault>) -> Option<Result<R, ()>> {
        let result = self.filter.call(call);
        if let Some(Err(())) = result {
            self.ending = Some(Ending::Failed);
        }
        result
    }

    #[cold]
    fn fail(&mut self, fault: Fault) {
        self.ending = Some(Ending::Failed);
        self.filter.fail(fault);
    }

    /// Drives a preface on, for whoever waits to write. Ready when it is over, in whatever way.
    #[cold]
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..PREFACE_READS {
            if self.is_open() || self.has_ended() {
                return Poll::Ready(Ok(()));
            }
            self.send_replies(cx)?;
            if self.sealed.replies() > REPLIES_BYTES || self.plain.len() > PLAIN_BYTES {
                return Poll::Pending;
            }
            let mut wire = [0; PREFACE_BYTES];
            let mut plain = mem::take(&mut self.plain);
            let poll = self.poll_decode(cx, &mut ReadBuf::new(&mut wire), false, &mut plain);
            self.plain = plain;
            match ready!(poll) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Poll::Ready(Err(error)),
                _ => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.is_open() && self.ending.is_none() {
            if self.sealed.has_plain() {
                // Sealed while it was open: what the filter waits for may be the answer to it.
                let gone = self.push(&mut |inner, bytes| inner.poll_write(cx, bytes))?;
                if gone > 0 {
                    return Poll::Ready(Ok(gone));
                }
                if self.sealed.has_plain() {
                    return Poll::Pending;
                }
            }
            ready!(self.poll_open(cx))?;
        }
        self.write(bytes, |inner, bytes| inner.poll_write(cx, bytes))
    }

    /// Writes what the kernel takes at this moment, outside of a task's turn.
    fn write_now(&mut self, bytes: &[u8]) -> usize {
        if !self.is_open() {
            return 0;
        }
        let written = self.write(bytes, |inner, bytes| match inner.write_now(bytes) {
            0 => Poll::Pending,
            count => Poll::Ready(Ok(count)),
        });
        if let Poll::Ready(Ok(count)) = written { count } else { 0 }
    }

    /// Seals and sends plain bytes. Those that are sealed already are the first of `bytes`, and are ready when they are gone.
    fn write(
        &mut self,
        bytes: &[u8],
        mut sink: impl FnMut(&mut Transport, &[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            if self.sealed.len() > 0 {
                let gone = self.push(&mut sink)?;
                if gone > 0 {
                    return Poll::Ready(Ok(gone));
                }
                if self.sealed.len() > 0 {
                    return Poll::Pending;
                }
            }
            if self.is_unwritable() {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if self.filter.is_gone() {
                return sink(&mut self.inner, bytes);
            }
            self.sealed.wire = borrow_buffer();
            for piece in bytes.chunks(PIECE_BYTES).take(PIECES) {
                let mut wire = mem::take(&mut self.sealed.wire);
                let before = wire.len();
                let result = self.call(|filter| {
                    filter.write(piece, &mut wire)?;
                    let is_whole = wire.len() >= before;
                    is_whole
                        .then_some(())
                        .ok_or_else(|| Fault::new("the filter removed bytes that were written before"))
                });
                match result {
                    Some(Ok(())) => self.sealed.add(piece.len(), wire.len() - before),
                    _ => wire.truncate(before),
                }
                self.sealed.wire = wire;
                if self.filter.is_gone() {
                    break;
                }
            }
            if self.sealed.len() == 0 {
                // Bytes that are nothing on the wire are gone.
                let gone = self.sealed.advance(0);
                return_buffer(mem::take(&mut self.sealed.wire));
                if gone > 0 {
                    return Poll::Ready(Ok(gone));
                }
            }
        }
    }

    /// Sends sealed bytes, as many as the stream below takes. Returns how many bytes of the session are gone by that.
    fn push(&mut self, sink: &mut Sink<'_>) -> io::Result<usize> {
        let mut gone = 0;
        while self.sealed.len() > 0 {
            let taken = match self.error.take() {
                Some(error) => Poll::Ready(Err(error)),
                None => sink(&mut self.inner, &self.sealed.wire[self.sealed.at..]),
            };
            let error = match taken {
                Poll::Ready(Ok(0)) => io::ErrorKind::WriteZero.into(),
                Poll::Ready(Ok(count)) => {
                    self.needs_flush = true;
                    gone += self.sealed.advance(count);
                    continue;
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                Poll::Ready(Err(error)) => error,
                Poll::Pending => {
                    self.sealed.fit();
                    return Ok(gone);
                }
            };
            if gone > 0 {
                // Said first; the error with the next attempt.
                self.error = Some(error);
                return Ok(gone);
            }
            if self.inner.is_unwritable() {
                self.sealed = Sealed::default();
            }
            return Err(error);
        }
        return_buffer(mem::take(&mut self.sealed.wire));
        self.sealed.at = 0;
        Ok(gone)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.sealed.len() > 0 {
            self.send_replies(cx)?;
            if self.sealed.len() > 0 {
                return Poll::Pending;
            }
        }
        ready!(self.inner.poll_flush(cx))?;
        self.needs_flush = false;
        Poll::Ready(Ok(()))
    }

    /// Says the end of our bytes, from the inside out, then sends the FIN.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !mem::replace(&mut self.has_finished, true) && self.is_open() && !self.is_unwritable() {
            let mut end = borrow_buffer();
            if let Some(Ok(())) = self.call(|filter| {
                filter.finish(&mut end);
                Ok(())
            }) && !end.is_empty()
            {
                self.has_spoken = true;
                self.sealed.add_reply(&end);
            }
            return_buffer(end);
        }
        let result = self.push(&mut |inner, bytes| inner.poll_write(cx, bytes));
        // A filter below that has failed takes nothing any more; the FIN is sent all the same.
        if !self.inner.is_unwritable() {
            result?;
        }
        if self.sealed.len() > 0 {
            return Poll::Pending;
        }
        self.inner.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transport_is_no_larger_for_its_filters() {
        assert_eq!(size_of::<Transport>(), size_of::<Stream>());
        // What one filter costs besides itself.
        assert!(size_of::<Filtered>() <= 224, "{}", size_of::<Filtered>());
    }
}
