//! Shortage: accepting without descriptors or memory.
//!
//! No shortage ends an acceptor: it waits, longer each time, and closes connections that it cannot serve.
//! Not here: which errors are a shortage (`socket`).

use std::{fmt, os::fd::OwnedFd, pin::Pin, time::Duration};

use tokio::time::{Instant, Sleep};

use crate::{
    listen::socket::{ACCEPTS_PER_TURN, ListeningSocket},
    log_limit::{Events, Kind, LogLimit},
};

/// First pause after an accept that failed for lack of descriptors or memory; doubled up to the longest.
pub(crate) const FIRST_BACK_OFF: Duration = Duration::from_millis(50);
pub(crate) const LONGEST_BACK_OFF: Duration = Duration::from_secs(1);

const SHORTAGE: Kind = Kind("time without a descriptor to accept with", "times without a descriptor to accept with");

/// The state of a listener's shortage of descriptors or memory.
#[derive(Debug, Default)]
pub(crate) struct Shortage {
    /// A descriptor in reserve: given up for a moment, it lets a connection that cannot be served be accepted and
    /// closed.
    pub(crate) reserve: Option<OwnedFd>,
    pub(crate) back_off: Option<Pin<Box<Sleep>>>,
    since: Option<Instant>,
    /// Connections closed unserved since a shortage was last logged.
    shed: u64,
    /// True if its beginning was logged, so that its end will be.
    is_logged: bool,
    delay: Duration,
}

impl Shortage {
    /// Books an accept that failed. Returns the number of shortages if their beginning is to be logged now.
    pub(crate) fn begin(&mut self, log: &LogLimit, about: impl fmt::Display) -> Option<Events> {
        if self.since.is_none() {
            self.since = Some(Instant::now());
            self.is_logged = false;
            self.delay = FIRST_BACK_OFF;
            log.count();
        } else {
            self.delay = (self.delay * 2).min(LONGEST_BACK_OFF);
        }
        self.back_off = Some(Box::pin(tokio::time::sleep(self.delay)));
        // One that came too soon after another is logged if it lasts.
        let events = if self.is_logged { None } else { log.due(&SHORTAGE, about) };
        self.is_logged |= events.is_some();
        events
    }

    /// Closes connections that cannot be served, so that their peers do not wait for an answer.
    pub(crate) fn shed(&mut self, listener: &ListeningSocket) {
        self.reserve = None;
        let mut shed = 0;
        while shed < ACCEPTS_PER_TURN as u64 && listener.accept().is_ok() {
            shed += 1;
        }
        self.reserve = listener.duplicate().ok();
        self.shed += shed;
    }

    /// Books an accept that worked. Returns the duration of the shortage and the number of connections closed, if its
    /// end is to be logged.
    pub(crate) fn is_over(&mut self) -> Option<(Duration, u64)> {
        let since = self.since.take().filter(|_| self.is_logged)?;
        Some((since.elapsed(), std::mem::take(&mut self.shed)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::log_limit::{Events, LogLimit};

    #[tokio::test(start_paused = true)]
    async fn a_shortage_that_comes_and_goes_is_logged_once_with_how_often() {
        let (mut shortage, log) = (Shortage::default(), LogLimit::default());
        let mut flap = || {
            let begin = shortage.begin(&log, "");
            shortage.shed += 3;
            (begin, shortage.is_over())
        };
        assert_eq!(flap(), (Some(Events(1)), Some((Duration::ZERO, 3))));
        for _ in 0..99 {
            assert_eq!(flap(), (None, None));
        }
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(flap(), (Some(Events(100)), Some((Duration::ZERO, 300))));
        // One that stays is logged in the end, and so is its end.
        assert_eq!(shortage.begin(&log, ""), None);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(shortage.begin(&log, ""), Some(Events(1)));
        assert_eq!(shortage.begin(&log, ""), None);
        assert_eq!(shortage.is_over(), Some((Duration::from_secs(10), 0)));
    }
}
