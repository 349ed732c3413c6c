//! Tap: sees the bytes that a session reads and writes, next to the session, and hands copies of them to whoever traces it.
//!
//! It changes nothing and waits for nobody: what has no room is counted. A session that is not traced has none.
//! Not here: its place (`transport`), the receiver's end (`control/trace`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::mpsc, time::Instant};

use crate::report::CloseReport;

/// Bytes of a trace that may wait for its receiver, what each piece takes besides included.
const MOST_WAITING: usize = 256 * 1024;

/// Memory that a piece takes besides its bytes. Unit: bytes.
const PIECE: usize = 128;

/// A piece of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Traced {
    /// The session has read bytes from its peer, in clear also where they came by TLS.
    In {
        /// Time since the trace began.
        at: Duration,
        /// The bytes.
        bytes: Bytes,
    },
    /// Bytes of the session have left for its peer; in clear also where they left by TLS.
    Out {
        /// Time since the trace began.
        at: Duration,
        /// The bytes.
        bytes: Bytes,
    },
    /// Bytes that are missing here: they came faster than they were received, or than the trace may be.
    Lost {
        /// Bytes from the peer.
        bytes_in: u64,
        /// Bytes to the peer.
        bytes_out: u64,
    },
    /// The trace is as long as it may be. It is the last piece.
    Full,
    /// The session has ended. It is the last piece.
    Closed(Box<CloseReport>),
}

impl Traced {
    /// Returns what it takes of the room for waiting pieces.
    fn weight(&self) -> usize {
        match self {
            Self::In { bytes, .. } | Self::Out { bytes, .. } => bytes.len() + PIECE,
            Self::Lost { .. } | Self::Full | Self::Closed(_) => 0,
        }
    }
}

/// Bounds of a trace.
///
/// ```
/// use actix_lines::control::TraceLimits;
///
/// let limits = TraceLimits::default().bytes_per_second(10_000).total_bytes(1_000_000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceLimits {
    bytes_per_second: u64,
    total_bytes: u64,
}

impl Default for TraceLimits {
    fn default() -> Self {
        Self { bytes_per_second: 1024 * 1024, total_bytes: 64 * 1024 * 1024 }
    }
}

impl TraceLimits {
    /// Sets the most bytes of a second, both directions together; others are lost, and counted. Default: 1 MiB.
    #[must_use]
    pub fn bytes_per_second(mut self, bytes: u64) -> Self {
        self.bytes_per_second = bytes;
        self
    }

    /// Sets the most bytes of the trace, both directions together: with them it ends. Default: 64 MiB.
    #[must_use]
    pub fn total_bytes(mut self, bytes: u64) -> Self {
        self.total_bytes = bytes;
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    In,
    Out,
}

/// The session's end of a trace.
#[derive(Clone, Debug)]
pub(crate) struct Tap {
    pieces: mpsc::UnboundedSender<Traced>,
    /// What waits for the receiver.
    waiting: Arc<AtomicUsize>,
    limits: TraceLimits,
    since: Instant,
    /// Bytes that this second still has room for, and when that was true.
    room: u64,
    room_at: Instant,
    /// Bytes of the trace so far.
    total: u64,
    lost_in: u64,
    lost_out: u64,
    is_over: bool,
}

/// The receiver's end of a trace.
#[derive(Debug)]
pub(crate) struct TapReceiver {
    pub(crate) pieces: mpsc::UnboundedReceiver<Traced>,
    waiting: Arc<AtomicUsize>,
}

impl TapReceiver {
    #[cfg(test)]
    pub(crate) fn shared(&self) -> std::sync::Weak<AtomicUsize> {
        Arc::downgrade(&self.waiting)
    }

    /// Makes room for what comes.
    pub(crate) fn received(&self, piece: &Traced) {
        self.waiting.fetch_sub(piece.weight(), Relaxed);
    }
}

/// Makes both ends of a trace.
pub(crate) fn tap(limits: TraceLimits) -> (Tap, TapReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Arc::<AtomicUsize>::default();
    let now = Instant::now();
    let tap = Tap {
        pieces: sender,
        waiting: Arc::clone(&waiting),
        limits,
        since: now,
        room: limits.bytes_per_second,
        room_at: now,
        total: 0,
        lost_in: 0,
        lost_out: 0,
        is_over: false,
    };
    (tap, TapReceiver { pieces: receiver, waiting })
}

impl Tap {
    /// Returns true if nobody receives from it.
    pub(crate) fn is_closed(&self) -> bool {
        self.pieces.is_closed()
    }

    /// Passes on bytes, as far as there is room.
    pub(crate) fn see(&mut self, direction: Direction, bytes: &[u8]) {
        if bytes.is_empty() || self.is_over {
            return;
        }
        let now = Instant::now();
        self.refill(now);
        let left = self.limits.total_bytes - self.total;
        // A piece of which next to nothing would be left is lost as a whole: pieces cost more than their bytes.
        let wait = MOST_WAITING.saturating_sub(self.waiting.load(Relaxed) + PIECE);
        let most = usize::try_from(self.room.min(left)).unwrap_or(usize::MAX).min(wait).min(bytes.len());
        if most > 0 {
            self.send_lost();
            let at = now - self.since;
            let copy = Bytes::copy_from_slice(&bytes[..most]);
            self.send(match direction {
                Direction::In => Traced::In { at, bytes: copy },
                Direction::Out => Traced::Out { at, bytes: copy },
            });
            self.room -= most as u64;
            self.total += most as u64;
        }
        let lost = (bytes.len() - most) as u64;
        match direction {
            Direction::In => self.lost_in += lost,
            Direction::Out => self.lost_out += lost,
        }
        if self.total == self.limits.total_bytes {
            self.send_lost();
            self.send(Traced::Full);
            self.is_over = true;
        }
    }

    /// The session has ended.
    pub(crate) fn close(&mut self, report: &CloseReport) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.send_lost();
            self.send(Traced::Closed(Box::new(report.clone())));
        }
    }

    fn refill(&mut self, now: Instant) {
        let most = self.limits.bytes_per_second;
        let came = (now - self.room_at).as_nanos() * u128::from(most) / 1_000_000_000;
        // Less than a byte has to add up.
        if came > 0 {
            self.room = u64::try_from(came).unwrap_or(most).saturating_add(self.room).min(most);
            self.room_at = now;
        }
    }

    fn send_lost(&mut self) {
        let (bytes_in, bytes_out) = (std::mem::take(&mut self.lost_in), std::mem::take(&mut self.lost_out));
        if bytes_in + bytes_out > 0 {
            self.send(Traced::Lost { bytes_in, bytes_out });
        }
    }

    fn send(&mut self, piece: Traced) {
        self.waiting.fetch_add(piece.weight(), Relaxed);
        // Whoever received may be gone: then it is dropped soon.
        self.is_over |= self.pieces.send(piece).is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(receiver: &mut TapReceiver) -> Vec<Traced> {
        let next = || receiver.pieces.try_recv().ok();
        let pieces: Vec<_> = std::iter::from_fn(next).collect();
        pieces.iter().for_each(|piece| receiver.received(piece));
        pieces
    }

    fn bytes(pieces: &[Traced]) -> (usize, u64) {
        pieces.iter().fold((0, 0), |(kept, lost), piece| match piece {
            Traced::In { bytes, .. } | Traced::Out { bytes, .. } => (kept + bytes.len(), lost),
            Traced::Lost { bytes_in, bytes_out } => (kept, lost + bytes_in + bytes_out),
            _ => (kept, lost),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_faster_than_the_rate_is_counted_in_its_place() {
        let (mut tap, mut receiver) = tap(TraceLimits::default().bytes_per_second(100));
        tap.see(Direction::In, &[b'a'; 60]);
        tap.see(Direction::Out, &[b'b'; 60]);
        tap.see(Direction::Out, &[b'c'; 10]);
        tokio::time::advance(Duration::from_millis(500)).await;
        tap.see(Direction::In, &[b'd'; 10]);
        let pieces = received(&mut receiver);
        let half = Duration::from_millis(500);
        let piece = |byte: u8, count| Bytes::from(vec![byte; count]);
        assert_eq!(
            pieces,
            [
                Traced::In { at: Duration::ZERO, bytes: piece(b'a', 60) },
                Traced::Out { at: Duration::ZERO, bytes: piece(b'b', 40) },
                Traced::Lost { bytes_in: 0, bytes_out: 30 },
                Traced::In { at: half, bytes: piece(b'd', 10) },
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_does_not_receive_takes_bounded_memory_and_all_adds_up() {
        let (mut tap, mut receiver) = tap(TraceLimits::default().bytes_per_second(u64::MAX).total_bytes(u64::MAX));
        for size in (0..5000).map(|nth| nth % 700) {
            tap.see(Direction::In, &vec![b'x'; size]);
        }
        assert!(tap.waiting.load(Relaxed) <= MOST_WAITING);
        let first = received(&mut receiver);
        assert_eq!(tap.waiting.load(Relaxed), 0);
        tap.see(Direction::In, b"y");
        let rest = received(&mut receiver);
        let ((kept, lost), sent) = (bytes(&[first, rest].concat()), (0..5000).map(|nth| nth % 700).sum::<usize>() + 1);
        assert_eq!(kept as u64 + lost, sent as u64);
        assert!(lost > 0 && kept > MOST_WAITING / 2, "{kept} kept, {lost} lost");
    }

    #[tokio::test(start_paused = true)]
    async fn a_trace_that_is_as_long_as_it_may_be_says_so_and_ends() {
        let (mut tap, mut receiver) = tap(TraceLimits::default().total_bytes(10));
        tap.see(Direction::In, b"sixteen letters!");
        tap.see(Direction::Out, b"never seen");
        let pieces = received(&mut receiver);
        assert_eq!((bytes(&pieces), pieces.last()), ((10, 6), Some(&Traced::Full)));
        drop(receiver);
        assert!(tap.is_closed());
    }
}
