//! Form: the way in which an event of the log is written, as a line of text or as a JSON object.
//!
//! Rule: an event is one line, and every character in it prints, whatever its message or its fields are made of. To make a
//! peer's bytes short and unmistakable is the business of whoever logs them (`Escaped`).
//! Not here: who writes the lines (`queue`), the fields of each event (the library, and whoever logs).

use std::{
    env,
    fmt::{self, Write},
    io,
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::SystemTime,
};

use log::{
    Level, Record,
    kv::{Error, Key, Source, Value, VisitSource, VisitValue},
};

use crate::settings::LogFormat;

/// How events are written. The words of the text are those of the JSON object's `message`.
#[derive(Debug)]
pub(crate) struct Form {
    is_json: AtomicBool,
    /// Standard error is the journal, which knows the time and takes the level as a prefix.
    is_journal: bool,
}

impl Form {
    pub(super) fn new(format: LogFormat) -> Self {
        let form = Self { is_json: AtomicBool::default(), is_journal: is_journal() };
        form.set(format);
        form
    }

    pub(super) fn set(&self, format: LogFormat) {
        self.is_json.store(format == LogFormat::Json, Relaxed);
    }

    /// Writes a record, its level by `paint`, as a line with its newline.
    pub(super) fn record(&self, record: &Record<'_>, paint: impl FnOnce(Level) -> String) -> String {
        let mut line = String::with_capacity(160);
        self.begin(&mut line, record.level());
        if self.is_json.load(Relaxed) {
            let message = record.args().to_string();
            json(&mut line, record.level(), record.target(), &message, &record.key_values());
        } else {
            let (level, target) = (paint(record.level()), Clean(record.target()));
            line.push('[');
            if !self.is_journal {
                let _ = write!(line, "{} ", humantime::format_rfc3339_seconds(SystemTime::now()));
            }
            let _ = write!(line, "{level} {target}] {}", Clean(&record.args().to_string()));
        }
        line.push('\n');
        line
    }

    /// Writes an event of the log itself, with the number of lines that it stands for.
    pub(super) fn note(&self, level: Level, message: fmt::Arguments<'_>, count: u64) -> String {
        let record = &[("count", count)];
        let record = Record::builder().level(level).target("rot13d").key_values(record).args(message).build();
        self.record(&record, padded)
    }

    /// Writes the words by which the process ends.
    pub(super) fn last_words(&self, failure: &str) -> String {
        let mut line = String::new();
        self.begin(&mut line, Level::Error);
        if self.is_json.load(Relaxed) {
            json(&mut line, Level::Error, "rot13d", failure, &None::<(&str, u64)>);
        } else {
            let _ = write!(line, "rot13d: {}", Clean(failure));
        }
        line.push('\n');
        line
    }

    /// As sd-daemon(3) wants it; the journal takes it off.
    fn begin(&self, line: &mut String, level: Level) {
        if self.is_journal {
            line.push_str(match level {
                Level::Error => "<3>",
                Level::Warn => "<4>",
                Level::Info => "<6>",
                Level::Debug | Level::Trace => "<7>",
            });
        }
    }
}

/// The level as wide as the longest.
pub(super) fn padded(level: Level) -> String {
    format!("{level:<5}")
}

/// Returns true if the service manager says that standard error is its journal, and it still is.
fn is_journal() -> bool {
    let Ok(journal) = env::var("JOURNAL_STREAM") else { return false };
    let stderr = rustix::fs::fstat(io::stderr().as_fd());
    stderr.is_ok_and(|stderr| journal == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

fn json(line: &mut String, level: Level, target: &str, message: &str, fields: &dyn Source) {
    let time = humantime::format_rfc3339_millis(SystemTime::now());
    let _ = write!(line, "{{\"time\":\"{time}\",\"level\":\"{level}\"");
    text(line, "target", target);
    text(line, "message", message);
    // A field that cannot be shown is left out.
    let _ = fields.visit(&mut Fields { line, key: String::new() });
    line.push('}');
}

/// Adds a field that is a text.
fn text(line: &mut String, key: &str, value: impl fmt::Display) {
    let _ = write!(line, ",\"{}\":\"{}\"", Quoted(key), Quoted(&value.to_string()));
}

/// The fields of an event: numbers and truths as such, all else as texts, none for a value that is not there.
struct Fields<'a> {
    line: &'a mut String,
    key: String,
}

impl Fields<'_> {
    fn add(&mut self, value: impl fmt::Display) -> Result<(), Error> {
        let _ = write!(self.line, ",\"{}\":{value}", Quoted(&self.key));
        Ok(())
    }
}

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        key.as_str().clone_into(&mut self.key);
        value.visit(self)
    }
}

impl<'v> VisitValue<'v> for Fields<'_> {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), Error> {
        text(self.line, &self.key, value);
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), Error> {
        self.add(value)
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), Error> {
        self.add(value)
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), Error> {
        // JSON has no other numbers.
        if value.is_finite() { self.add(value) } else { self.visit_str(&value.to_string()) }
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), Error> {
        self.add(value)
    }

    fn visit_str(&mut self, value: &str) -> Result<(), Error> {
        text(self.line, &self.key, value);
        Ok(())
    }
}

/// A text in which every character prints; one that does not is as in a Rust literal.
struct Clean<'a>(&'a str);

impl fmt::Display for Clean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(|letter: char| !(' '..='~').contains(&letter)) {
            let (before, from) = rest.split_at(at);
            f.write_str(before)?;
            let mut letters = from.chars();
            if let Some(letter) = letters.next() {
                write!(f, "{}", letter.escape_debug())?;
            }
            rest = letters.as_str();
        }
        f.write_str(rest)
    }
}

/// The same between quotes of JSON.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clean = Clean(self.0).to_string();
        let mut parts = clean.split_inclusive(['"', '\\']);
        parts.try_for_each(|part| match part.char_indices().next_back() {
            Some((at, special @ ('"' | '\\'))) => write!(f, "{}\\{special}", &part[..at]),
            _ => f.write_str(part),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value as Json;

    use super::*;

    fn form(format: LogFormat) -> Form {
        let form = Form { is_json: AtomicBool::default(), is_journal: false };
        form.set(format);
        form
    }

    fn record(form: &Form, target: &str, message: &str, fields: &dyn Source) -> String {
        let mut record = Record::builder();
        let record = record.level(Level::Warn).target(target).key_values(&fields);
        form.record(&record.args(format_args!("{message}")).build(), padded)
    }

    /// Every character prints, but for the newline at the end.
    fn assert_is_one_line(line: &str) {
        let body = line.strip_suffix('\n').unwrap_or_else(|| panic!("no line: {line:?}"));
        let odd = body.chars().find(|letter| letter.is_control() || *letter != ' ' && letter.is_whitespace());
        assert_eq!(odd, None, "{line:?}");
        assert!(!body.contains(['\u{202e}', '\u{200f}', '\u{feff}']), "{line:?}");
    }

    #[test]
    fn an_event_is_a_json_object_with_its_fields() {
        let form = form(LogFormat::Json);
        let fields: [(&str, Value<'_>); 7] = [
            ("session", 7_u64.into()),
            ("peer", "unix:\"a\\b\"".into()),
            ("left", (-3_i64).into()),
            ("duration", 1.5.into()),
            ("control", true.into()),
            ("nothing", Value::null()),
            ("odd", f64::NAN.into()),
        ];
        let line = record(&form, "rot13d::x", "it's \"so\"\nand \\n so", &fields.as_slice());
        assert_is_one_line(&line);
        let object: Json = serde_json::from_str(&line).unwrap();
        let time = object["time"].as_str().unwrap();
        assert!(time.len() == 24 && time.ends_with('Z') && humantime::parse_rfc3339(time).is_ok(), "{time}");
        let expected = serde_json::json!({
            "time": time, "level": "WARN", "target": "rot13d::x", "message": "it's \"so\"\\nand \\n so", "session": 7,
            "peer": "unix:\"a\\b\"", "left": -3, "duration": 1.5, "control": true, "odd": "NaN",
        });
        assert_eq!(object, expected);
        let keys = ["time", "level", "target", "message", "session"].map(|key| line.find(&format!("\"{key}\":")));
        assert!(keys.is_sorted() && keys[0] == Some(1), "{line}");
    }

    #[test]
    fn a_text_has_no_fields_and_is_one_line() {
        let line = record(&form(LogFormat::Text), "rot13d", "one\n[2026-01-01T00:00:00Z INFO  x] two", &("session", 7));
        let (time, rest) = line.split_at(22);
        assert!(time.starts_with("[20") && time.ends_with("Z "), "{line}");
        assert_eq!(rest, "WARN  rot13d] one\\n[2026-01-01T00:00:00Z INFO  x] two\n");
    }

    #[test]
    fn the_journal_gets_the_level_before_each_line_and_no_second_time() {
        let (mut text, mut json) = (form(LogFormat::Text), form(LogFormat::Json));
        (text.is_journal, json.is_journal) = (true, true);
        assert_eq!(record(&text, "rot13d", "why", &("a", 1)), "<4>[WARN  rot13d] why\n");
        assert_eq!(text.last_words("no"), "<3>rot13d: no\n");
        // Its time is one of the fields that whoever reads the object counts on.
        assert!(record(&json, "rot13d", "why", &("a", 1)).starts_with("<4>{\"time\":\"20"));
    }

    proptest! {
        #[test]
        fn whatever_is_logged_is_one_line_that_prints_and_as_json_means_the_same(
            target in any::<String>(), message in any::<String>(), key in any::<String>(), value in any::<String>(),
            bytes in any::<Vec<u8>>(),
        ) {
            // As a caller that forgot to escape would.
            let message = message + &String::from_utf8_lossy(&bytes);
            let text = record(&form(LogFormat::Text), &target, &message, &(&*key, &*value));
            assert_is_one_line(&text);
            let line = record(&form(LogFormat::Json), &target, &message, &(&*key, &*value));
            assert_is_one_line(&line);
            let object: Json = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(object["message"].as_str(), Some(&*Clean(&message).to_string()));
            let its_own = ["time", "level", "target", "message"];
            if !its_own.contains(&&*key) {
                prop_assert_eq!(object[&Clean(&key).to_string()].as_str(), Some(&*Clean(&value).to_string()));
            }
            let end = format!("] {}\n", Clean(&message));
            prop_assert!(text.ends_with(&end), "{}", text);
            assert_is_one_line(&form(LogFormat::Json).last_words(&message));
        }

        #[test]
        fn what_prints_is_written_as_it_is(message in "[ -~äöü中]*") {
            prop_assert_eq!(Clean(&message).to_string(), message);
        }
    }
}
