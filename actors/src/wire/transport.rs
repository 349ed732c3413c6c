//! Transport: a session's connection. A stream, or a stream behind filters, which carries plain bytes again.
//!
//! A filter is boxed, so that a session without one pays nothing; several are nested. Plain bytes stay in the session's
//! outbox until all of their wire bytes were taken, so that a report counts only bytes that left. They are sealed when
//! they are to be sent, and only when nothing sealed waits: the order on the wire is the order of sealing.
//! Not here: what a filter's transport does (`filtered`), the stream itself (`stream`), a filter's work (`filter`), reading and writing in a turn (`session`).

use std::{
    any::Any,
    fmt, io, mem,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::ReadBuf,
    net::{TcpStream, UnixStream},
};

use crate::{
    address::Address,
    connection::{ConnectionInfo, SessionId},
    escape::Escaped,
    report::{CloseReason, CloseReport, FaultName},
    wire::{
        filter::{Filter, Flow, Notice},
        guarded::{Guarded, Slot},
        sealed::Sealed,
        socket::Socket,
        stream::{ByteStream, Stream},
        tap::{Direction, Tap},
        tcp::SendQueue,
    },
};

mod filtered;

/// A session's connection: two byte streams, one in each direction.
pub struct Transport(Kind);

enum Kind {
    Plain(Stream),
    Filtered(Box<Filtered>),
    /// Next to the session, as long as it is traced.
    Tapped(Box<Tapped>),
}

/// A transport with taps: they see what passes, and change nothing.
struct Tapped {
    inner: Transport,
    taps: Vec<Tap>,
}

/// The way in which reading has ended, other than by the peer's EOF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Truncated,
    /// With the name of the fault, if it has one.
    Failed(Option<FaultName>),
}

impl Ending {
    /// Returns the reason of the session's end.
    pub(crate) fn reason(self) -> CloseReason {
        match self {
            Self::Truncated => CloseReason::Truncated,
            Self::Failed(name) => name.map_or(CloseReason::FilterFailed, CloseReason::FilterFault),
        }
    }
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
        self.with_layer(Layer::new(filter))
    }

    /// The same with a filter that has its layer already.
    pub(crate) fn with_layer(self, Layer(mut filtered): Layer) -> Self {
        filtered.inner = self;
        Self(Kind::Filtered(filtered))
    }

    /// Adds a filter nearest to the wire, below those that are there. Nothing of these may wait to be sent.
    #[cold]
    pub(crate) fn push_layer(&mut self, layer: Layer) {
        match &mut self.0 {
            Kind::Plain(_) => *self = self.take().with_layer(layer),
            Kind::Filtered(filtered) => filtered.inner.push_layer(layer),
            Kind::Tapped(tapped) => tapped.inner.push_layer(layer),
        }
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
            Kind::Tapped(tapped) => tapped.poll_read(cx, buffer, false),
        }
    }

    /// Reads what is there at this moment, also if the reactor does not know of it yet: a socket that has just come to it
    /// counts as empty until it has asked the kernel.
    pub(crate) fn poll_read_now(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Plain(stream) => stream.poll_read_now(cx, buffer),
            Kind::Filtered(_) => self.poll_read_filtered(cx, buffer, true),
            Kind::Tapped(tapped) => tapped.poll_read(cx, buffer, true),
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
        match &self.0 {
            Kind::Plain(stream) => stream.is_at_eof(),
            Kind::Filtered(_) => false,
            Kind::Tapped(tapped) => tapped.inner.is_at_eof(),
        }
    }

    /// Returns true if the peer's EOF or a reset would be read next, as far as that can be known.
    pub(crate) fn is_at_end(&self) -> bool {
        match &self.0 {
            Kind::Plain(stream) => stream.is_at_end(),
            Kind::Filtered(_) => false,
            Kind::Tapped(tapped) => tapped.inner.is_at_end(),
        }
    }

    #[inline]
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Plain(stream) => stream.poll_write(cx, bytes),
            Kind::Filtered(filtered) => filtered.poll_write(cx, bytes),
            Kind::Tapped(tapped) => tapped.poll_write(cx, bytes),
        }
    }

    /// Flushes buffers of the transport's own. Sockets have none.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Plain(stream) => stream.poll_flush(cx),
            Kind::Filtered(filtered) => filtered.poll_flush(cx),
            Kind::Tapped(tapped) => tapped.inner.poll_flush(cx),
        }
    }

    /// Sends the FIN.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Plain(stream) => stream.poll_shutdown(cx),
            Kind::Filtered(filtered) => filtered.poll_shutdown(cx),
            Kind::Tapped(tapped) => tapped.inner.poll_shutdown(cx),
        }
    }

    /// Returns true if dropping it does all that a shutdown would, once the peer's EOF was read.
    pub(crate) fn closes_when_dropped(&self) -> bool {
        match &self.0 {
            Kind::Plain(stream) => stream.closes_when_dropped(),
            Kind::Filtered(_) => false,
            Kind::Tapped(tapped) => tapped.inner.closes_when_dropped(),
        }
    }

    /// Writes as much as the kernel takes at this moment, outside of a task's turn: the last chance before the socket
    /// is closed.
    pub(crate) fn write_now(&mut self, bytes: &[u8]) -> usize {
        match &mut self.0 {
            Kind::Plain(stream) => stream.write_now(bytes),
            Kind::Filtered(filtered) => filtered.write_now(bytes),
            Kind::Tapped(tapped) => tapped.write_now(bytes),
        }
    }

    /// The stream below all filters.
    fn stream(&self) -> &Stream {
        match &self.0 {
            Kind::Plain(stream) => stream,
            Kind::Filtered(filtered) => filtered.inner.stream(),
            Kind::Tapped(tapped) => tapped.inner.stream(),
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
        match &self.0 {
            Kind::Plain(_) => None,
            Kind::Filtered(filtered) => Some(filtered),
            Kind::Tapped(tapped) => tapped.inner.filtered(),
        }
    }

    fn filtered_mut(&mut self) -> Option<&mut Filtered> {
        match &mut self.0 {
            Kind::Plain(_) => None,
            Kind::Filtered(filtered) => Some(filtered),
            Kind::Tapped(tapped) => tapped.inner.filtered_mut(),
        }
    }

    /// Adds taps next to the session, and drops those that nobody receives from.
    #[cold]
    pub(crate) fn set_taps(&mut self, mut taps: Vec<Tap>) {
        if let Kind::Tapped(tapped) = &mut self.0 {
            taps.append(&mut tapped.taps);
            *self = tapped.inner.take();
        }
        taps.retain(|tap| !tap.is_closed());
        if !taps.is_empty() {
            let inner = self.take();
            *self = Self(Kind::Tapped(Box::new(Tapped { inner, taps })));
        }
    }

    /// Returns true if somebody on the way wants to hear that the session has ended.
    pub(crate) fn hears_of_close(&self) -> bool {
        !matches!(self.0, Kind::Plain(_))
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
            log::debug!(session = session.get(); "session {session}: a filter failed: {}", Escaped::new(&fault));
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

    /// Takes what filters have found out that are done: then nothing is left of these.
    pub(crate) fn take_learned(&mut self, info: &mut ConnectionInfo) {
        if let Some(filtered) = self.filtered_mut() {
            filtered.take_learned(info);
        }
    }

    /// Takes what a filter tells the handler. Called when a read was interrupted: all that came before it is delivered.
    #[cold]
    pub(crate) fn take_notice(&mut self) -> Option<Notice> {
        self.filtered_mut().and_then(Filtered::take_notice)
    }

    /// Tells the filters a word, the one next to the session first. Returns whether it was meant for one of them.
    #[cold]
    pub(crate) fn tell(&mut self, word: &dyn Any) -> bool {
        self.filtered_mut().is_some_and(|filtered| filtered.tell(word))
    }

    /// Drops filters that are done, and behind which nothing is left to be done.
    pub(crate) fn drop_done(&mut self) {
        if let Kind::Tapped(tapped) = &mut self.0 {
            return tapped.inner.drop_done();
        }
        while let Some(inner) = self.filtered_mut().and_then(Filtered::take_inner_if_done) {
            *self = inner;
        }
    }

    /// The filter that waits for its peer: how many there are behind it, and how long it may wait.
    pub(crate) fn waiting(&mut self) -> Option<(usize, Option<Duration>)> {
        self.filtered_mut().and_then(Filtered::waiting)
    }

    /// The filter that waits for its peer has no more time. Returns whether it is done, or the name of its fault; `None` if
    /// there is none that waits.
    pub(crate) fn expire(&mut self) -> Option<Result<(), Option<FaultName>>> {
        self.filtered_mut().and_then(Filtered::expire)
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

    /// Tells the filters and the taps that their session has ended.
    #[cold]
    pub(crate) fn tell_closed(&mut self, report: &CloseReport) {
        if let Kind::Tapped(tapped) = &mut self.0 {
            tapped.taps.iter_mut().for_each(|tap| tap.close(report));
            return tapped.inner.tell_closed(report);
        }
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
            Kind::Tapped(tapped) => f.debug_tuple("Tapped").field(&tapped.inner).finish(),
        }
    }
}

impl Tapped {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>, asks: bool) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = match asks {
            true => self.inner.poll_read_now(cx, buffer),
            false => self.inner.poll_read(cx, buffer),
        };
        self.taps.iter_mut().for_each(|tap| tap.see(Direction::In, &buffer.filled()[before..]));
        poll
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = self.inner.poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = poll {
            self.taps.iter_mut().for_each(|tap| tap.see(Direction::Out, &bytes[..count]));
        }
        poll
    }

    fn write_now(&mut self, bytes: &[u8]) -> usize {
        let count = self.inner.write_now(bytes);
        self.taps.iter_mut().for_each(|tap| tap.see(Direction::Out, &bytes[..count]));
        count
    }
}

/// A filter with all that a transport needs of it, not around one yet.
pub(crate) struct Layer(Box<Filtered>);

impl Layer {
    pub(crate) fn new(filter: impl Filter) -> Self {
        Self(Box::new(Filtered::new(filter)))
    }
}

/// A transport behind a filter, which is in the same box: an idle session has one block less.
struct Filtered<S: Slot + ?Sized = dyn Slot> {
    inner: Transport,
    flow: Flow,
    /// Decoded, and not given to the session yet.
    plain: Vec<u8>,
    sealed: Sealed,
    ending: Option<Ending>,
    /// Boxed: seldom is there any.
    told: Option<Box<Told>>,
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
    filter: Guarded<S>,
}

/// What a filter tells the handler, and what it left unread behind it.
struct Told {
    notice: Option<Notice>,
    /// The session was stopped for it once: then it has taken it, or nobody is there who would.
    is_offered: bool,
    /// Read before `at`.
    rest: Vec<u8>,
    at: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Slot for Nobody {
        fn get(&self) -> Option<&dyn Filter> {
            None
        }

        fn get_mut(&mut self) -> Option<&mut dyn Filter> {
            None
        }

        fn clear(&mut self) {}
    }

    #[test]
    fn a_transport_is_no_larger_for_its_filters() {
        assert_eq!(size_of::<Transport>(), size_of::<Stream>());
        // The cost of a filter besides itself.
        assert!(size_of::<Filtered<Nobody>>() <= 128, "{}", size_of::<Filtered<Nobody>>());
    }
}
