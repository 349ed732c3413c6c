//! Testing: connections in memory and faults on command, for tests of handlers with or without tokio's paused clock.
//!
//! [`tokio::io::duplex`] carries the bytes. This file adds a capacity for each direction, and a stream that stalls,
//! fails, and reads and writes in small pieces when told to.
//! Not here: sessions over such streams (`standalone`).

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, Join, ReadBuf};

use crate::report::Half;

/// Bytes that each direction of a [`memory_pair`] holds, as the buffers of a socket do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryCapacity {
    /// Bytes that the peer may send before the session reads. Default: 64 KiB.
    pub to_session: usize,
    /// Bytes that the session may send before the peer reads. Default: 64 KiB.
    pub to_peer: usize,
}

impl Default for MemoryCapacity {
    fn default() -> Self {
        Self { to_session: 64 * 1024, to_peer: 64 * 1024 }
    }
}

/// One end of a [`memory_pair`]: reads return what the other end has written.
///
/// Shutting it down is a half-close. When it is dropped, the other end reads what is left, then EOF, and cannot write.
pub type MemoryStream = Join<DuplexStream, DuplexStream>;

/// Makes a connection in memory. Returns the session's end and the peer's end.
///
/// To test a peer that does not read, do not read from its end: the session can send `to_peer` bytes, then nothing. The
/// streams return no errors by themselves; wrap one in a [`FaultyStream`] for that.
///
/// ```
/// use actix_lines::{LineSession, Rot13, Transport, testing::{MemoryCapacity, memory_pair}};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # actix_rt::System::new().block_on(async {
/// let (ours, mut peer) = memory_pair(MemoryCapacity { to_peer: 4, ..MemoryCapacity::default() });
/// LineSession::new(Transport::new(ours)).start(Rot13);
/// peer.write_all(b"Hello\n").await?;
/// peer.shutdown().await?;
/// let mut answer = String::new();
/// peer.read_to_string(&mut answer).await?;
/// assert_eq!(answer, "Uryyb\n");
/// # Ok::<(), std::io::Error>(()) }).unwrap();
/// ```
#[must_use]
pub fn memory_pair(capacity: MemoryCapacity) -> (MemoryStream, MemoryStream) {
    let (session_reads, peer_writes) = tokio::io::duplex(capacity.to_session);
    let (peer_reads, session_writes) = tokio::io::duplex(capacity.to_peer);
    (tokio::io::join(session_reads, session_writes), tokio::io::join(peer_reads, peer_writes))
}

/// A call to a stream, which [`Faults`] may stall or fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamCall {
    /// `poll_read`.
    Read,
    /// `poll_write`.
    Write,
    /// `poll_flush`: sends the bytes that a stream buffers, as a TLS stream does.
    Flush,
    /// `poll_shutdown`: sends the FIN.
    Shutdown,
}

/// A stream that stalls, fails, and works in small pieces, as its [`Faults`] tell it to. Until then it behaves as the
/// stream that it wraps.
///
/// ```
/// use std::{io::ErrorKind, time::Duration};
///
/// use actix::Actor;
/// use actix_lines::{
///     CloseReason, CloseReport, Line, LineContext, LineHandler, LineSession, Transport,
///     testing::{FaultyStream, MemoryCapacity, StreamCall, memory_pair},
/// };
/// use tokio::{io::AsyncWriteExt, sync::oneshot};
///
/// struct Echo(Option<oneshot::Sender<CloseReport>>);
///
/// impl Actor for Echo {
///     type Context = LineContext<Self>;
/// }
///
/// impl LineHandler for Echo {
///     fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
///         ctx.write(&line);
///     }
///     fn closed(&mut self, report: &CloseReport) {
///         let _ = self.0.take().map(|closed| closed.send(report.clone()));
///     }
/// }
///
/// # actix_rt::System::new().block_on(async {
/// // A minute passes at once.
/// tokio::time::pause();
/// let (ours, mut peer) = memory_pair(MemoryCapacity::default());
/// let (ours, faults) = FaultyStream::new(ours);
/// let (closed, report) = oneshot::channel();
/// LineSession::new(Transport::new(ours)).start(Echo(Some(closed)));
///
/// // The peer takes nothing for half a minute, then three bytes, then it resets the connection.
/// faults.fail_after(StreamCall::Write, 3, ErrorKind::ConnectionReset);
/// faults.stall(StreamCall::Write);
/// peer.write_all(b"hello\n").await?;
/// tokio::time::sleep(Duration::from_secs(30)).await;
/// faults.resume(StreamCall::Write);
///
/// let report = report.await?;
/// assert_eq!((report.reason, report.bytes_out, report.unsent_bytes), (CloseReason::PeerReset, 3, 3));
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct FaultyStream<S> {
    stream: S,
    faults: Faults,
}

/// Controls a [`FaultyStream`], from any thread, even while the stream waits.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<FaultsState>>);

#[derive(Debug, Default)]
struct FaultsState {
    read: Call,
    write: Call,
    flush: Call,
    shutdown: Call,
    bytes_read: u64,
    bytes_written: u64,
}

/// The faults of one call, and the task that waits for it.
#[derive(Debug, Default)]
struct Call {
    is_stalled: bool,
    /// The number of bytes in all after which it fails, and the error.
    fault: Option<(u64, io::ErrorKind)>,
    /// Most bytes at once; 0 is no limit.
    limit: usize,
    waker: Option<Waker>,
}

impl Call {
    /// Fails, waits, or returns the most bytes to go on with, after `done` bytes.
    fn poll(&mut self, done: u64, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        // Before anything else is looked at: whoever changes it meanwhile has to find somebody to wake.
        self.waker = Some(cx.waker().clone());
        let before_fault = match self.fault {
            Some((at, kind)) if at <= done => {
                self.fault = None;
                return Poll::Ready(Err(kind.into()));
            }
            Some((at, _)) => usize::try_from(at - done).unwrap_or(usize::MAX),
            None => usize::MAX,
        };
        if self.is_stalled {
            return Poll::Pending;
        }
        let limit = if self.limit == 0 { usize::MAX } else { self.limit };
        Poll::Ready(Ok(limit.min(before_fault)))
    }
}

impl FaultsState {
    fn call(&mut self, call: StreamCall) -> &mut Call {
        match call {
            StreamCall::Read => &mut self.read,
            StreamCall::Write => &mut self.write,
            StreamCall::Flush => &mut self.flush,
            StreamCall::Shutdown => &mut self.shutdown,
        }
    }

    /// Returns the bytes that went in the direction of a call.
    fn done(&self, call: StreamCall) -> u64 {
        if call == StreamCall::Read { self.bytes_read } else { self.bytes_written }
    }
}

impl Faults {
    /// Makes every such call wait from now on. A call that waits already keeps waiting.
    pub fn stall(&self, call: StreamCall) {
        self.lock().call(call).is_stalled = true;
    }

    /// Ends a [`stall`](Self::stall).
    pub fn resume(&self, call: StreamCall) {
        self.change(call, |call, _| call.is_stalled = false);
    }

    /// Makes the next such call fail, stalled or not; later calls work again.
    pub fn fail(&self, call: StreamCall, kind: io::ErrorKind) {
        self.fail_after(call, 0, kind);
    }

    /// Makes one such call fail: a read after `bytes` more have been read, each other call after `bytes` more have been
    /// written. Replaces an earlier failure of this call that has not happened yet.
    pub fn fail_after(&self, call: StreamCall, bytes: u64, kind: io::ErrorKind) {
        self.change(call, |call, done| call.fault = Some((done.saturating_add(bytes), kind)));
    }

    /// Limits each read or each write to at most `bytes`; 0 is no limit.
    pub fn limit(&self, half: Half, bytes: usize) {
        let call = match half {
            Half::Read => StreamCall::Read,
            Half::Write => StreamCall::Write,
        };
        self.change(call, |call, _| call.limit = bytes);
    }

    fn change(&self, call: StreamCall, change: impl FnOnce(&mut Call, u64)) {
        let waker = {
            let mut shared = self.lock();
            let done = shared.done(call);
            let call = shared.call(call);
            change(call, done);
            call.waker.take()
        };
        // Not under the lock: it may run the task at once.
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, call: StreamCall, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        let mut shared = self.lock();
        let done = shared.done(call);
        shared.call(call).poll(done, cx)
    }

    fn lock(&self) -> MutexGuard<'_, FaultsState> {
        // Nothing here is ever left half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Faults").field(&*self.lock()).finish()
    }
}

impl<S> FaultyStream<S> {
    /// Wraps any stream. Returns the wrapped stream and the control of its faults.
    pub fn new(stream: S) -> (Self, Faults) {
        let faults = Faults::default();
        (Self { stream, faults: faults.clone() }, faults)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FaultyStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let limit = ready!(this.faults.poll(StreamCall::Read, cx))?.min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(limit));
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
        let count = part.filled().len();
        buffer.advance(count);
        this.faults.lock().bytes_read += count as u64;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FaultyStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let limit = ready!(this.faults.poll(StreamCall::Write, cx))?.min(bytes.len());
        let count = ready!(Pin::new(&mut this.stream).poll_write(cx, &bytes[..limit]))?;
        this.faults.lock().bytes_written += count as u64;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.faults.poll(StreamCall::Flush, cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.faults.poll(StreamCall::Shutdown, cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
