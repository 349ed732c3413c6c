//! Backoff: the waits of a connector between two attempts.
//!
//! Pure but for its random numbers.
//! Not here: waiting (`connector`).

use std::time::Duration;

use crate::limits::LONGEST_TIMEOUT;

/// The waits of a connector between two attempts: a random time up to a ceiling, which begins at `initial` and grows by
/// `factor` up to `max` with each failed attempt. A connection that has lasted for `max` starts over from `initial`.
///
/// A connection that ends sooner counts as a failed attempt. Otherwise the connector would call without a pause a
/// server that accepts and hangs up, because it refuses or because its first line makes the handler panic.
///
/// # Source
/// "Full jitter" of Marc Brooker's "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: of the methods
/// compared there it makes the fewest calls when many clients have lost the same server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The ceiling of the first wait. Default: 500 ms.
    pub initial: Duration,
    /// The factor by which the ceiling grows. Default: 2.
    pub factor: u32,
    /// The highest ceiling. Default: 30 s.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_millis(500), factor: 2, max: Duration::from_secs(30) }
    }
}

impl Backoff {
    pub(super) fn is_valid(self) -> bool {
        let range = Duration::from_millis(1)..=LONGEST_TIMEOUT;
        range.contains(&self.initial) && range.contains(&self.max) && self.initial <= self.max && self.factor > 0
    }

    /// Returns the longest wait after this many failed attempts, counted from 1.
    pub(super) fn ceiling(self, failed: u32) -> Duration {
        let grown = self.factor.checked_pow(failed.saturating_sub(1)).and_then(|times| self.initial.checked_mul(times));
        grown.map_or(self.max, |ceiling| ceiling.min(self.max))
    }

    pub(crate) fn wait(self, failed: u32) -> Duration {
        self.ceiling(failed).mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_from_half_a_second_to_half_a_minute() {
        let ceilings: Vec<_> =
            [0, 1, 2, 3, 6, 7, 8, 1000].map(|failed| Backoff::default().ceiling(failed).as_millis()).into();
        assert_eq!(ceilings, [500, 500, 1000, 2000, 16_000, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn waits_are_spread_over_all_of_the_time_below_the_ceiling() {
        let waits: Vec<_> = (0..1000).map(|_| Backoff::default().wait(1).as_millis()).collect();
        assert!(waits.iter().all(|wait| *wait <= 500), "{waits:?}");
        for tenth in 0..10 {
            // Each tenth gets a hundred of the thousand; that one gets none has a chance of 1e-45.
            assert!(waits.iter().any(|wait| wait / 50 == tenth), "none in tenth {tenth}: {waits:?}");
        }
    }
}
