//! Seconds: how a time is told to programs (JSON, metrics, fields of the log), as a number with its fraction; the time since 1970.

use std::time::Duration;
#[cfg(any(feature = "serde", feature = "metrics"))]
use std::time::{SystemTime, UNIX_EPOCH};

#[cfg(feature = "serde")]
use serde::Serializer;

/// Returns the number of seconds that is nearest. `Duration::as_secs_f64` adds two numbers, and has 1.7309999999999999 for
/// 1.731.
#[expect(clippy::cast_precision_loss, reason = "exact below 104 days")]
pub(crate) fn of(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e9
}

#[cfg(feature = "serde")]
pub(crate) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(of(*time))
}

/// The same of a time that there may be.
#[cfg(feature = "cluster")]
#[expect(clippy::ref_option, reason = "as serde calls it")]
pub(crate) fn if_any<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&time.map(of), serializer)
}

/// Serializes a moment: seconds since 1970.
#[cfg(feature = "serde")]
pub(crate) fn serialize_since_1970<S: Serializer>(
    moment: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&moment.map(since_1970), serializer)
}

/// Returns the seconds of a moment since 1970, below zero before.
#[cfg(any(feature = "serde", feature = "metrics"))]
pub(crate) fn since_1970(moment: SystemTime) -> f64 {
    match moment.duration_since(UNIX_EPOCH) {
        Ok(after) => of(after),
        Err(before) => -of(before.duration()),
    }
}

/// Returns the time since 1970, by the wall clock; zero if that is set before.
#[cfg(any(feature = "cluster", feature = "console", feature = "http"))]
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_with_the_digits_that_it_has() {
        for millis in (0..100_000).chain([86_400_001, 1_795_723_301_731]) {
            let written = of(Duration::from_millis(millis)).to_string();
            let fraction = format!("{}.{:03}", millis / 1000, millis % 1000);
            assert_eq!(written, fraction.trim_end_matches('0').trim_end_matches('.'));
        }
    }

    #[test]
    fn a_time_of_some_months_is_the_nearest_number_to_the_nanosecond() {
        for step in 0..100_000 {
            let nanos = 1_501_000_341 + step * step * 837_193;
            let digits = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
            assert_eq!(digits.parse(), Ok(of(Duration::from_nanos(nanos))));
        }
    }
}
