//! The driver in memory: connections to sessions on the script's own thread, and what may be done to their calls.
//!
//! A call that is held back goes on when nobody else on the thread has anything to do, before the clock moves: what a
//! service does then may come in another order, but never later. Not here: which calls are (`fuzz`).

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    report::Half,
    script::{
        address::Address,
        driver::{Counts, Driver, Slow, Turn, Wire},
        idle::{Idle, IdleFor, idle},
    },
    testing::{Faults, FaultyStream, MemoryCapacity, MemoryStream, StreamCall, memory_pair},
    wire::transport::Transport,
};

/// The calls of a service that are counted and may be held back.
pub(crate) const CALLS: [StreamCall; 4] =
    [StreamCall::Read, StreamCall::Write, StreamCall::Flush, StreamCall::Shutdown];

/// Its place in [`CALLS`].
pub(crate) fn call_index(call: StreamCall) -> usize {
    match call {
        StreamCall::Read => 0,
        StreamCall::Write => 1,
        StreamCall::Flush => 2,
        StreamCall::Shutdown => 3,
    }
}

/// Calls that are held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stall {
    /// One: which of its kind on all of a peer's connections, from 1.
    One { peer: String, call: StreamCall, nth: usize },
    /// Each of a kind, on all connections.
    Each(StreamCall),
}

/// Disturbances of a service's calls, beside what the script says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disturbance {
    pub(crate) stall: Option<Stall>,
    /// Most bytes at once; 0 is no limit.
    pub(crate) read_limit: usize,
    pub(crate) write_limit: usize,
    /// Most bytes that the service sends and the peer has not read. Default: that of a memory pair.
    pub(crate) window: Option<usize>,
    /// Peers read when nobody has anything else to do.
    pub(crate) slow_peers: bool,
}

impl Disturbance {
    /// True if something may still be under way when the service has had its turn.
    fn holds_back(&self) -> bool {
        self.stall.is_some() || self.slow_peers || self.window.is_some()
    }
}

/// The service: it is given the stream of each connection.
pub(crate) type Service = Box<dyn FnMut(ServiceStream)>;

pub(crate) struct MemoryDriver {
    service: Service,
    disturbance: Rc<Disturbance>,
    /// By the names of peers.
    counts: BTreeMap<String, Rc<Cell<Counts>>>,
}

impl MemoryDriver {
    pub(crate) fn new(service: Service, disturbance: Disturbance) -> Self {
        Self { service, disturbance: Rc::new(disturbance), counts: BTreeMap::new() }
    }
}

impl Driver for MemoryDriver {
    async fn connect(&mut self, peer: &str, address: Option<&Address>) -> io::Result<Box<dyn Wire>> {
        if address.is_some() {
            return Err(io::Error::other("sessions in memory have no addresses"));
        }
        let disturbance = &self.disturbance;
        let capacity = match disturbance.window {
            // What peers send has the usual room: who waits for room to send would let time go by.
            Some(bytes) => MemoryCapacity { to_peer: bytes, ..MemoryCapacity::default() },
            None => MemoryCapacity::default(),
        };
        let (theirs, ours) = memory_pair(capacity);
        let (stream, faults) = FaultyStream::new(theirs);
        faults.limit(Half::Read, disturbance.read_limit);
        faults.limit(Half::Write, disturbance.write_limit);
        let was_reset = Rc::new(Cell::new(false));
        let counts = Rc::clone(self.counts.entry(peer.to_owned()).or_default());
        let gate = disturbance.stall.is_some().then(|| peer.to_owned());
        let gate = gate.map(|peer| Gate { peer, disturbance: Rc::clone(disturbance), held: RefCell::default() });
        let theirs = ServiceStream {
            stream,
            is_session: false,
            has_shut_down: false,
            was_reset: Rc::clone(&was_reset),
            counts,
            gate,
        };
        (self.service)(theirs);
        let end = PeerEnd { stream: ours, faults, was_reset };
        Ok(if disturbance.slow_peers {
            Box::new(Slow::new(end, || Box::pin(idle(IdleFor::Stall))))
        } else {
            Box::new(end)
        })
    }

    fn turn(&self) -> Turn {
        Box::pin(idle(IdleFor::Turn))
    }

    fn knows_idle(&self) -> bool {
        true
    }

    fn rest(&self) -> Option<Turn> {
        self.disturbance.holds_back().then(|| -> Turn { Box::pin(idle(IdleFor::Rest)) })
    }

    fn counts(&self) -> BTreeMap<String, Counts> {
        self.counts.iter().map(|(peer, counts)| (peer.clone(), counts.get())).collect()
    }
}

/// The peer's end.
struct PeerEnd {
    stream: MemoryStream,
    faults: Faults,
    was_reset: Rc<Cell<bool>>,
}

impl Wire for PeerEnd {
    fn reset(self: Box<Self>) {
        self.faults.fail(StreamCall::Read, io::ErrorKind::ConnectionReset);
        self.faults.fail(StreamCall::Write, io::ErrorKind::ConnectionReset);
    }

    fn eof_is_reset(&self) -> bool {
        self.was_reset.get()
    }
}

/// Holds calls back.
#[derive(Debug)]
struct Gate {
    peer: String,
    disturbance: Rc<Disturbance>,
    /// Calls that wait, by kind.
    held: RefCell<[Option<Idle>; 4]>,
}

impl Gate {
    fn holds(&self, call: StreamCall, count: usize) -> bool {
        match &self.disturbance.stall {
            Some(Stall::One { peer, call: of, nth }) => *peer == self.peer && *of == call && *nth == count,
            Some(Stall::Each(of)) => *of == call,
            None => false,
        }
    }
}

/// A service's end of a connection in memory, from [`Target::streams`](super::Target::streams): bytes are read from it and
/// written to it as with a socket.
///
/// To shut it down is a half-close. Dropped while bytes of the peer are unread, it resets the connection.
#[derive(Debug)]
pub struct ServiceStream {
    stream: FaultyStream<MemoryStream>,
    /// Of a session, which ends its bytes before it closes, or aborts.
    is_session: bool,
    has_shut_down: bool,
    was_reset: Rc<Cell<bool>>,
    counts: Rc<Cell<Counts>>,
    gate: Option<Gate>,
}

impl ServiceStream {
    pub(crate) fn into_transport(mut self) -> Transport {
        self.is_session = true;
        Transport::new(self)
    }

    /// True if there are bytes that nobody has read: a kernel answers a close with a reset then.
    fn is_unread(&mut self) -> bool {
        let mut space = [0];
        let mut buffer = ReadBuf::new(&mut space);
        let read = Pin::new(&mut self.stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer);
        matches!(read, Poll::Ready(Ok(()))) && !buffer.filled().is_empty()
    }

    /// Counts a call, and holds it back where that is asked.
    fn enter(&self, call: StreamCall, cx: &mut Context<'_>) -> Poll<()> {
        let at = call_index(call);
        let Some(gate) = &self.gate else {
            self.count(at);
            return Poll::Ready(());
        };
        let mut held = gate.held.borrow_mut();
        if held[at].is_none() && gate.holds(call, self.count(at)) {
            held[at] = Some(idle(IdleFor::Stall));
        }
        if let Some(idle) = &mut held[at] {
            ready!(Pin::new(idle).poll(cx));
            held[at] = None;
        }
        Poll::Ready(())
    }

    fn count(&self, at: usize) -> usize {
        let mut counts = self.counts.get();
        counts[at] += 1;
        self.counts.set(counts);
        counts[at]
    }
}

impl Drop for ServiceStream {
    fn drop(&mut self) {
        // A session that ends in order has shut down, whatever its peer sent after that.
        let is_reset = if self.is_session { !self.has_shut_down } else { self.is_unread() };
        self.was_reset.set(is_reset);
    }
}

impl AsyncRead for ServiceStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.enter(StreamCall::Read, cx));
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ServiceStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.enter(StreamCall::Write, cx));
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.enter(StreamCall::Flush, cx));
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.enter(StreamCall::Shutdown, cx));
        self.has_shut_down = true;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for PeerEnd {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for PeerEnd {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
