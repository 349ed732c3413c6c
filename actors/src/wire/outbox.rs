//! Outbox: a session's bytes that the kernel has not taken yet, in order.
//!
//! During a turn the outbox is on loan from the worker, with room to spare; bytes that are left at the end of the turn
//! are copied to memory of their size, so that an idle session owns none.
//! Not here: watermarks and flushing (`session`).

use std::collections::VecDeque;

use crate::shared::SharedBytes;

/// Shared bytes up to this long are copied: a reference to them would cost as much.
pub(crate) const COPY_BYTES: usize = 512;

/// Room of an outbox on loan, kept from turn to turn. One grown above it is given back to the allocator.
const LOAN_BYTES: usize = 64 * 1024;
const LOAN_MAX_BYTES: usize = 4 * LOAN_BYTES;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Older than `tail`.
    queue: VecDeque<SharedBytes>,
    /// The newest bytes; those before `sent` are gone already.
    tail: Vec<u8>,
    sent: usize,
    len: usize,
}

impl Outbox {
    /// One to lend: with room for a turn's answers.
    pub(crate) fn with_room() -> Box<Self> {
        Box::new(Self { tail: Vec::with_capacity(LOAN_BYTES), ..Self::default() })
    }

    /// Returns true if it is worth keeping for the next turn.
    pub(crate) fn is_lendable(&self) -> bool {
        self.len == 0 && (LOAN_BYTES..=LOAN_MAX_BYTES).contains(&self.tail.capacity()) && self.queue.capacity() <= 64
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Memory that its bytes take, spare room included; shared bytes count as if they were its own.
    pub(crate) fn memory(&self) -> usize {
        self.tail.capacity() + (self.len - (self.tail.len() - self.sent))
    }

    #[inline]
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.sent > 0 {
            self.reclaim();
        }
        self.tail.extend_from_slice(bytes);
        self.len += bytes.len();
    }

    pub(crate) fn push_shared(&mut self, bytes: SharedBytes) {
        if bytes.len() <= COPY_BYTES {
            return self.push(&bytes);
        }
        if self.tail.len() > self.sent {
            self.queue.push_back(SharedBytes::copy_from_slice(&self.tail[self.sent..]));
        }
        self.tail.clear();
        self.sent = 0;
        self.len += bytes.len();
        self.queue.push_back(bytes);
    }

    /// Puts `bytes` before everything else.
    pub(crate) fn push_front(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        self.queue.push_front(SharedBytes::copy_from_slice(bytes));
    }

    /// The oldest bytes, as many as lie together; empty only if there are none.
    pub(crate) fn front(&self) -> &[u8] {
        self.queue.front().map_or(&self.tail[self.sent..], |chunk| chunk)
    }

    /// Forgets the `count` oldest bytes: the kernel has them. No more than [`front`](Self::front) showed.
    pub(crate) fn advance(&mut self, count: usize) {
        self.len -= count;
        match self.queue.front_mut() {
            Some(chunk) if chunk.len() > count => chunk.advance(count),
            Some(_) => drop(self.queue.pop_front()),
            None => {
                self.sent += count;
                if self.sent == self.tail.len() {
                    self.tail.clear();
                    self.sent = 0;
                }
            }
        }
    }

    /// Forgets all but the `keep` oldest bytes.
    pub(crate) fn truncate(&mut self, keep: usize) {
        let mut excess = self.len.saturating_sub(keep);
        self.len -= excess;
        let of_tail = excess.min(self.tail.len() - self.sent);
        self.tail.truncate(self.tail.len() - of_tail);
        excess -= of_tail;
        while excess > 0
            && let Some(chunk) = self.queue.pop_back()
        {
            let kept = chunk.len().saturating_sub(excess);
            excess -= chunk.len() - kept;
            if kept > 0 {
                self.queue.push_back(chunk.slice(0..kept));
            }
        }
    }

    /// The same bytes in as little memory as they need; `self` is left empty.
    pub(crate) fn take_fitted(&mut self) -> Box<Self> {
        let fitted = Self {
            queue: std::mem::take(&mut self.queue),
            tail: self.tail[self.sent..].to_vec(),
            sent: 0,
            len: self.len,
        };
        self.clear();
        Box::new(fitted)
    }

    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.tail.clear();
        self.sent = 0;
        self.len = 0;
    }

    /// Makes room of what was sent, once it is more than what is left: each byte is moved at most once for each byte
    /// that went.
    fn reclaim(&mut self) {
        if self.sent * 2 >= self.tail.len() {
            self.tail.drain(..self.sent);
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn drain(outbox: &mut Outbox, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while outbox.len() > 0 {
            let front = outbox.front();
            let count = front.len().min(step);
            all.extend_from_slice(&front[..count]);
            outbox.advance(count);
        }
        assert!(outbox.front().is_empty());
        all
    }

    #[test]
    fn bytes_leave_in_the_order_they_came_however_they_came() {
        let shared = SharedBytes::from(Bytes::from(vec![b's'; COPY_BYTES + 1]));
        for step in [1, 7, 1000] {
            let mut outbox = Outbox::default();
            outbox.push(b"one");
            outbox.push_shared(shared.clone());
            outbox.push_shared(Bytes::from_static(b"two").into());
            outbox.push_front(b"zero");
            let expected = [b"zeroone".as_slice(), &shared, b"two"].concat();
            assert_eq!(outbox.len(), expected.len());
            assert_eq!(drain(&mut outbox, step), expected);
        }
    }

    #[test]
    fn of_a_truncated_outbox_the_oldest_bytes_are_left_however_they_came() {
        let shared = SharedBytes::from(Bytes::from(vec![b's'; COPY_BYTES + 1]));
        let expected = [b"eroone".as_slice(), &shared, b"two"].concat();
        for keep in 0..=expected.len() + 1 {
            let mut outbox = Outbox::default();
            outbox.push(b"one");
            outbox.push_shared(shared.clone());
            outbox.push(b"two");
            outbox.push_front(b"zero");
            outbox.advance(1);
            outbox.truncate(keep);
            outbox.push(b"end");
            let kept = &expected[..keep.min(expected.len())];
            assert_eq!(outbox.len(), kept.len() + 3);
            assert_eq!(drain(&mut outbox, 1000), [kept, b"end"].concat(), "{keep}");
        }
    }

    #[test]
    fn a_fitted_outbox_has_the_rest_and_the_loan_is_empty() {
        let mut loan = Outbox::with_room();
        loan.push(b"abcdef");
        loan.advance(2);
        let mut fitted = loan.take_fitted();
        assert!(loan.is_lendable());
        fitted.push(b"gh");
        assert_eq!(drain(&mut fitted, 3), b"cdefgh");
    }

    #[test]
    fn what_was_sent_does_not_stay() {
        let mut outbox = Outbox::default();
        for _ in 0..10_000 {
            outbox.push(&[b'x'; 100]);
            if outbox.len() > 1000 {
                outbox.advance(100);
            }
        }
        assert!(outbox.tail.capacity() < 8 * 1024, "capacity {}", outbox.tail.capacity());
    }
}
