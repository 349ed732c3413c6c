//! Histogram: how many of the measured times were how long.
//!
//! Its bounds are fixed, so histograms of several workers add up, and counting one more is an increment.
//! Not here: measuring (`worker`), metrics of it (`metrics`).

use std::time::Duration;

/// Upper bounds of the lengths of sessions: from one that is refused at once to one of a week.
pub(crate) const SESSION_TIMES: &[Duration] = &[
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(600),
    Duration::from_secs(3600),
    Duration::from_secs(6 * 3600),
    Duration::from_secs(24 * 3600),
    Duration::from_secs(7 * 24 * 3600),
];

/// Upper bounds of times to an answer: from a system call to what nobody waits for.
pub(crate) const ANSWER_TIMES: &[Duration] = &[
    Duration::from_micros(25),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
];

/// Upper bounds of the lengths of turns: the clock that times them moves every 1 to 10 ms.
pub(crate) const TURN_TIMES: &[Duration] = &[
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

/// A distribution of measured times: how many were at most as long as each of some fixed bounds, and their sum.
///
/// ```
/// # use actix_lines::{LineServer, Rot13};
/// # #[actix::main]
/// # async fn main() -> std::io::Result<()> {
/// # let server = LineServer::new(|_| Rot13).bind("127.0.0.1:0")?.start()?;
/// let durations = server.stats().await?.session_durations;
/// for (bound, count) in durations.bounds().iter().zip(durations.counts()) {
///     println!("{count} sessions lasted up to {bound:?}, and longer than the bound before");
/// }
/// println!("nine of ten were over within {:?}", durations.quantile(0.9));
/// # server.abort().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    bounds: &'static [Duration],
    /// One more than bounds; empty while nothing was measured.
    counts: Vec<u64>,
    sum: Duration,
}

impl Histogram {
    /// Makes one of times that were not measured yet.
    pub(crate) fn new(bounds: &'static [Duration]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: Duration::ZERO }
    }

    /// Returns the bounds, from the shortest to the longest. A time that is as long as a bound is within it. Of a
    /// [default](Default) there are none.
    #[must_use]
    pub fn bounds(&self) -> &[Duration] {
        self.bounds
    }

    /// Returns the number of times within each bound and above the bound before, and last that of those above all bounds.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Returns the number of all times that were measured.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the sum of all times that were measured.
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// Returns the smallest bound that this part of all times is within, from 0 to 1: 0.5 is the median.
    /// [`Duration::MAX`] if they are above all bounds; `None` if nothing was measured.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let count = self.count();
        // At least one, and at most all.
        let wanted = ((part * count as f64).ceil() as u64).min(count).max(1);
        let mut seen = 0;
        let position = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(self.bounds.get(position).copied().unwrap_or(Duration::MAX))
    }

    /// Counts a time; `bounds` are those of all times here.
    pub(crate) fn record(&mut self, bounds: &'static [Duration], time: Duration) {
        if self.counts.is_empty() {
            *self = Self::new(bounds);
        }
        let bucket = self.bounds.partition_point(|bound| *bound < time);
        self.counts[bucket] += 1;
        self.sum = self.sum.saturating_add(time);
    }

    /// Counts so many times of no length.
    pub(crate) fn record_zeros(&mut self, bounds: &'static [Duration], times: u64) {
        if self.counts.is_empty() {
            *self = Self::new(bounds);
        }
        self.counts[0] += times;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        if self.counts.is_empty() {
            self.clone_from(other);
        } else if !other.counts.is_empty() {
            self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
            self.sum = self.sum.saturating_add(other.sum);
        }
    }
}

/// Serialized as its bounds in seconds, its counts, and its sum in seconds.
#[cfg(feature = "serde")]
impl serde::Serialize for Histogram {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        use crate::seconds;

        let bounds: Vec<f64> = self.bounds.iter().copied().map(seconds::of).collect();
        let mut fields = serializer.serialize_struct("Histogram", 3)?;
        fields.serialize_field("bounds", &bounds)?;
        fields.serialize_field("counts", &self.counts)?;
        fields.serialize_field("sum", &seconds::of(self.sum))?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: &[Duration] = &[Duration::from_secs(1), Duration::from_secs(10)];

    #[test]
    fn a_time_is_within_its_bound_and_histograms_add_up() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.count(), histogram.quantile(0.5)), (0, None));
        for milliseconds in [0, 1000, 1001, 10_000, 10_001] {
            histogram.record(BOUNDS, Duration::from_millis(milliseconds));
        }
        assert_eq!((histogram.counts(), histogram.bounds()), (&[2, 2, 1][..], BOUNDS));
        assert_eq!((histogram.count(), histogram.sum()), (5, Duration::from_millis(22_002)));
        let mut sum = Histogram::default();
        sum.add(&histogram);
        sum.add(&Histogram::default());
        sum.add(&histogram);
        sum.record_zeros(BOUNDS, 3);
        assert_eq!((sum.counts(), sum.sum()), (&[7, 4, 2][..], Duration::from_millis(44_004)));
    }

    #[test]
    fn a_quantile_is_the_bound_that_holds_it() {
        let mut histogram = Histogram::new(BOUNDS);
        assert_eq!(histogram.quantile(0.5), None);
        for seconds in [1, 1, 5, 20] {
            histogram.record(BOUNDS, Duration::from_secs(seconds));
        }
        let quantiles = [0.0, 0.5, 0.51, 0.75, 0.76, 1.0].map(|part| histogram.quantile(part).unwrap());
        let (second, ten) = (BOUNDS[0], BOUNDS[1]);
        assert_eq!(quantiles, [second, second, ten, ten, Duration::MAX, Duration::MAX]);
    }
}
