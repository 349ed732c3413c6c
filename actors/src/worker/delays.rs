//! Delays: how long a peer waits for an answer, where that is measured.
//!
//! One answer at a time is measured in each session: from the read that brought what it answers until the kernel has its
//! last byte. Reads while one is on its way belong to none.
//! Not here: when a session looks (`session/delay`).

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

/// An answer that is being measured. Bytes count from the beginning of the session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// The read.
    began: Instant,
    /// Bytes written before it.
    from: u64,
    /// Bytes written with the answer; `None` while something of it may have yet to be written.
    until: Option<u64>,
}

/// Bytes that a session has written by now, and how many of them the kernel has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) all: u64,
    pub(crate) sent: u64,
}

/// How an answer that is being measured stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delay {
    Pending,
    /// Nothing was written: there was no answer.
    Silent,
    Answered(Duration),
}

impl Asked {
    /// Begins with a read.
    pub(crate) fn new(now: Instant, written: Written) -> Self {
        Self { began: now, from: written.all, until: None }
    }

    /// Looks how it stands. `is_owed` says that more may have yet to be written.
    pub(crate) fn look(&mut self, now: Instant, written: Written, is_owed: bool) -> Delay {
        if self.until.is_none() && is_owed {
            return Delay::Pending;
        }
        let until = *self.until.get_or_insert(written.all);
        if until <= self.from {
            Delay::Silent
        } else if written.sent >= until {
            Delay::Answered(now.saturating_duration_since(self.began))
        } else {
            Delay::Pending
        }
    }
}

/// The worker's part: true if answers are measured.
#[derive(Debug, Default)]
pub(super) struct Delays(Cell<bool>);

impl Delays {
    pub(super) fn set(&self, measured: bool) {
        self.0.set(measured);
    }

    #[inline]
    pub(super) fn are_measured(&self) -> bool {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(all: u64, sent: u64) -> Written {
        Written { all, sent }
    }

    #[test]
    fn an_answer_is_over_when_the_kernel_has_its_last_byte_and_not_that_of_a_later_one() {
        let begin = Instant::now();
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        // Ten bytes of earlier answers still wait.
        let mut asked = Asked::new(begin, written(30, 20));
        assert_eq!(asked.look(at(1), written(35, 20), true), Delay::Pending, "a handler waits");
        assert_eq!(asked.look(at(2), written(40, 20), false), Delay::Pending);
        assert_eq!(asked.look(at(3), written(90, 39), true), Delay::Pending, "another line was answered");
        assert_eq!(asked.look(at(4), written(90, 40), true), Delay::Answered(Duration::from_millis(4)));
    }

    #[test]
    fn a_read_that_is_not_answered_is_none() {
        let begin = Instant::now();
        let mut asked = Asked::new(begin, written(30, 20));
        assert_eq!(asked.look(begin, written(30, 30), true), Delay::Pending);
        assert_eq!(asked.look(begin, written(30, 30), false), Delay::Silent);
    }
}
