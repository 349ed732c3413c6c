//! Units: values as people read them, and exactly.
//!
//! Rule: the name of a field says its unit, as those of the library do: `bytes_in`, `outbox_bytes`, `age`, `slow_turn_time`.
//! Not here: columns and colours (`show`).

use std::{
    borrow::Cow,
    time::{Duration, UNIX_EPOCH},
};

use super::record::Value;

/// The unit of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Bytes,
    Seconds,
    /// Seconds since 1970.
    Moment,
    /// A number without one.
    None,
}

impl Unit {
    fn of(field: &str) -> Self {
        let mut words = field.split('_');
        let last = field.rsplit('_').next().unwrap_or(field);
        if words.any(|word| word == "bytes") || ["memory", "budget"].contains(&last) {
            return Self::Bytes;
        }
        match last {
            "age" | "idle" | "duration" | "uptime" | "time" | "timeout" | "lag" | "every" | "seconds" => Self::Seconds,
            "in" if field == "begins_in" => Self::Seconds,
            "left" if field == "lease_left" => Self::Seconds,
            "started" | "expires" | "at" => Self::Moment,
            _ => Self::None,
        }
    }
}

/// Writes the value of a field in one line that moves no cursor: with units, or exactly.
pub(super) fn written(field: &str, value: &Value, exact: bool) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Text(text) => printable(text).into_owned(),
        Value::Number(number) => match (number.as_f64(), exact, Unit::of(field)) {
            (Some(bytes), false, Unit::Bytes) => with_rate(field, size(bytes)),
            (Some(seconds), false, Unit::Seconds) => time(seconds),
            (Some(seconds), false, Unit::Moment) => moment(seconds).unwrap_or_else(|| number.to_string()),
            (Some(rate), false, Unit::None) if !number.is_u64() && !number.is_i64() => with_rate(field, short(rate)),
            _ => number.to_string(),
        },
        Value::List(values) => joined(values.iter().map(|value| written(field, value, exact))),
        Value::Record(fields) => {
            joined(fields.iter().map(|(key, value)| format!("{} {}", printable(key), written(key, value, exact))))
        }
    }
}

fn joined(texts: impl Iterator<Item = String>) -> String {
    let texts: Vec<_> = texts.collect();
    if texts.is_empty() { "-".to_owned() } else { texts.join(", ") }
}

/// Writes characters that do not print as in a Rust literal. All else stays, backslashes too: the console has escaped what
/// peers sent, and this is for a console that did not.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let prints = |letter: char| matches!(letter, '\\' | '"' | '\'') || letter.escape_debug().len() == 1;
    if text.chars().all(prints) {
        return Cow::Borrowed(text);
    }
    let letters =
        text.chars().map(|letter| if prints(letter) { letter.into() } else { letter.escape_debug().to_string() });
    Cow::Owned(letters.collect())
}

/// Writes a line of JSON without characters that move a cursor, which can only be in its texts: it says the same.
pub(super) fn printable_json(line: &str) -> Cow<'_, str> {
    let prints = |letter: char| matches!(letter, '\\' | '"' | '\'') || letter.escape_debug().len() == 1;
    if line.chars().all(prints) {
        return Cow::Borrowed(line);
    }
    let mut units = [0; 2];
    let mut text = String::with_capacity(line.len());
    for letter in line.chars() {
        match prints(letter) {
            true => text.push(letter),
            false => letter.encode_utf16(&mut units).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    Cow::Owned(text)
}

/// Writes a distribution of times in a few words, or all of it. `None` for another value.
///
/// It is a record of upper bounds, in seconds, of how many there are up to each, and of the sum of all.
pub(super) fn histogram(value: &Value, exact: bool) -> Option<String> {
    let Value::Record(fields) = value else { return None };
    let [(bounds_name, Value::List(bounds)), (counts_name, Value::List(counts)), (sum_name, sum)] = fields.as_slice()
    else {
        return None;
    };
    if [bounds_name, counts_name, sum_name] != ["bounds", "counts", "sum"] {
        return None;
    }
    if exact {
        return Some(written("", value, true));
    }
    let counts: Vec<_> = counts.iter().map(|count| count.count().unwrap_or(0)).collect();
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return Some("-".to_owned());
    }
    let within = |part: f64| {
        let mut seen = 0;
        let at = counts.iter().position(|count| {
            seen += count;
            seen as f64 >= total as f64 * part
        });
        let bound = at.and_then(|at| bounds.get(at)).and_then(Value::number);
        match (bound, bounds.last().and_then(Value::number)) {
            (Some(bound), _) => format!("up to {}", time(bound)),
            (None, last) => format!("over {}", time(last.unwrap_or(0.0))),
        }
    };
    let mean = time(sum.number().unwrap_or(0.0) / total as f64);
    Some(format!("{total}, mean {mean}, half {}, 99 of 100 {}", within(0.5), within(0.99)))
}

fn is_rate(field: &str) -> bool {
    ["rate", "per_second", "per_s"].iter().any(|end| field.ends_with(end))
}

fn with_rate(field: &str, text: String) -> String {
    if is_rate(field) { text + "/s" } else { text }
}

/// Three digits at most, and a fraction where there is room.
fn short(number: f64) -> String {
    let decimals = if number == 0.0 || number >= 99.95 { 0 } else { 1 };
    format!("{number:.decimals$}")
}

/// `999 B`, `1.5 KiB`, `310 MiB`.
pub(super) fn size(bytes: f64) -> String {
    // 1000 to 1023 of a unit are one of the next: that is as exact as three digits are.
    if bytes < 999.5 {
        return format!("{bytes:.0} B");
    }
    let (mut number, mut unit) = (bytes / 1024.0, "KiB");
    for next in ["MiB", "GiB", "TiB"] {
        if number >= 999.5 {
            (number, unit) = (number / 1024.0, next);
        }
    }
    format!("{} {unit}", short(number))
}

/// `0s`, `420ms`, `12.3s`, `5m03s`, `2h05m`, `3d04h`.
pub(super) fn time(seconds: f64) -> String {
    let Ok(time) = Duration::try_from_secs_f64(seconds) else { return format!("{seconds}s") };
    let (millis, whole) = (time.as_millis(), time.as_secs());
    match whole {
        0 if millis == 0 && time.as_micros() > 0 => format!("{}us", time.as_micros()),
        0 if millis == 0 => "0s".to_owned(),
        0 => format!("{millis}ms"),
        // No digit of it is rounded up to a minute.
        1..60 => format!("{whole}.{}s", millis / 100 % 10),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86400 => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
        _ => format!("{}d{:02}h", whole / 86400, whole / 3600 % 24),
    }
}

/// `13:45:02`, of UTC.
pub(super) fn time_of_day(seconds: f64) -> String {
    moment(seconds).and_then(|moment| moment.get(11..19).map(str::to_owned)).unwrap_or_else(|| seconds.to_string())
}

fn moment(seconds: f64) -> Option<String> {
    let since = Duration::try_from_secs_f64(seconds).ok()?;
    // The last moment of year 9999, which is the last that is written so.
    let moment = UNIX_EPOCH.checked_add(since).filter(|_| since.as_secs() < 253_402_300_800)?;
    Some(humantime::format_rfc3339_seconds(moment).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_and_a_unit() {
        for (bytes, text) in [
            (0.0, "0 B"),
            (1.0, "1 B"),
            (999.0, "999 B"),
            (1000.0, "1.0 KiB"),
            (1536.0, "1.5 KiB"),
            (102_300.0, "99.9 KiB"),
            (102_400.0, "100 KiB"),
            (1_048_575.0, "1.0 MiB"),
            (3.5 * 1024.0 * 1024.0 * 1024.0, "3.5 GiB"),
            (5e15, "4547 TiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn times_have_their_two_largest_units() {
        for (seconds, text) in [
            (0.0, "0s"),
            (0.000_000_4, "0s"),
            (0.0004, "400us"),
            (0.42, "420ms"),
            (1.0, "1.0s"),
            (59.999, "59.9s"),
            (60.0, "1m00s"),
            (303.7, "5m03s"),
            (7500.0, "2h05m"),
            (86_399.0, "23h59m"),
            (273_600.0, "3d04h"),
            (-1.0, "-1s"),
        ] {
            assert_eq!(time(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn the_name_of_a_field_says_its_unit() {
        let number = |text: &str| Value::Number(text.parse().unwrap());
        let human = |field, text| written(field, &number(text), false);
        assert_eq!(human("bytes_in", "2048"), "2.0 KiB");
        assert_eq!(human("outbox_bytes", "7"), "7 B");
        assert_eq!(human("slow_turn_time", "0.25"), "250ms");
        assert_eq!(human("begins_in", "2.5"), "2.5s");
        assert_eq!(human("lease_left", "8.04"), "8.0s");
        assert_eq!(human("started", "1700000000"), "2023-11-14T22:13:20Z");
        assert_eq!(human("lines_in", "12345678"), "12345678");
        assert_eq!(human("bytes_in_per_second", "1536.5"), "1.5 KiB/s");
        assert_eq!(human("lines_per_second", "12.25"), "12.2/s");
        assert_eq!(written("bytes_in", &number("2048"), true), "2048");
        assert_eq!(written("age", &number("1.25"), true), "1.25");
    }

    #[test]
    fn a_line_of_json_moves_no_cursor_and_says_the_same() {
        let line = "{\"a\":\"\u{9b}2J\u{7f}\u{202e}\u{e0001} \\u001b \u{e9}\"}";
        let shown = printable_json(line);
        assert_eq!(shown, r#"{"a":"\u009b2J\u007f\u202e\udb40\udc01 \u001b é"}"#.replace("\\\\", "\\"));
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&shown), value(line));
        assert_eq!(printable_json("hello \x1b[2J"), "hello \\u001b[2J");
    }

    #[test]
    fn a_text_moves_no_cursor() {
        assert_eq!(printable("it's \\x1b \"fine\" \u{e9}"), "it's \\x1b \"fine\" \u{e9}");
        assert_eq!(printable("a\x1b[2J\r\n\u{202e}"), "a\\u{1b}[2J\\r\\n\\u{202e}");
    }
}
