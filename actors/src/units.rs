//! Units: times and sizes as an operator writes and reads them.
//!
//! Rule: what is written is read back as the same value.
//! Not here: the bounds of a limit (`limits`), times for machines, which are numbers of seconds (`seconds`).

use std::time::Duration;

/// Advice for a text that is no time.
pub(crate) const TIME: &str = "use a time, as 10s, 5m or 2h";
/// Advice for a text that is no size.
pub(crate) const SIZE: &str = "use a size, as 65536, 64KiB or 1MiB";

/// Reads a time, as `10s`, `5m` or `1h 30m`.
pub(crate) fn time(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

/// Reads a size in bytes, as `65536`, `64KiB` or `1MiB`.
pub(crate) fn size(text: &str) -> Option<usize> {
    parse_size::parse_size(text).ok().and_then(|bytes| usize::try_from(bytes).ok())
}

/// Writes a time in full, without blanks, as `1h30m`.
#[cfg(feature = "console")]
pub(crate) fn written_time(time: Duration) -> String {
    humantime::format_duration(time).to_string().replace(' ', "")
}

/// Writes a time to the second, in at most two units, as `2h5m`; one of less than a second as `0s`.
#[cfg(feature = "console")]
pub(crate) fn rough_time(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(24 * 3600, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let Some(first) = units.iter().position(|(length, _)| seconds >= *length) else { return "0s".to_owned() };
    let mut left = seconds;
    let parts = units[first..].iter().take(2).map(|(length, name)| {
        let count = left / length;
        left %= length;
        if count > 0 { format!("{count}{name}") } else { String::new() }
    });
    parts.collect()
}

/// Writes a size with the largest unit that divides it, as `64KiB`.
#[cfg(feature = "console")]
pub(crate) fn written_size(bytes: usize) -> String {
    let units = [(1_usize << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

#[cfg(all(test, feature = "console"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for seconds in [0, 1, 59, 60, 90, 3600, 5430, 86_400, 24 * 86_400, 40 * 86_400] {
            let value = Duration::from_secs(seconds);
            assert_eq!(time(&written_time(value)), Some(value), "{}", written_time(value));
        }
        assert_eq!(written_time(Duration::from_millis(90_500)), "1m30s500ms");
        for bytes in [0, 1, 1023, 1024, 1025, 65_536, 1 << 20, (1 << 20) + 1, 3 << 30, usize::MAX] {
            assert_eq!(size(&written_size(bytes)), Some(bytes), "{}", written_size(bytes));
        }
    }

    #[test]
    fn a_rough_time_has_two_units_at_most() {
        let rough = |seconds| rough_time(Duration::from_secs(seconds));
        let texts = [0, 7, 60, 61, 3599, 3600, 3601, 7500, 86_400, 90_000, 100 * 86_400 + 59].map(rough);
        assert_eq!(texts, ["0s", "7s", "1m", "1m1s", "59m59s", "1h", "1h", "2h5m", "1d", "1d1h", "100d"]);
    }
}
