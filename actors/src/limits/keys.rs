//! Keys: each limit by a name and as a text, for operators who change one of a running server.
//!
//! Rule: a value that is written is read back as the same value; bounds are the builder's.
//! Not here: what a limit does (`limits`), commands (`console`).

use std::fmt;

use crate::{
    error::ConfigError,
    escape::Escaped,
    limits::{Limits, LimitsBuilder, OutboxLimit, OutboxPolicy, OverLimit, SoftLimit, Watermarks},
    rate::{Rate, RateLimit},
    source::{Peers, SourcePrefix},
    units::{self, written_size, written_time},
};

const OFF: &str = "off";

const COUNT: &str = "use 1 or more";
const OR_OFF: &str = "use a time, as 10s, 5m or 2h, or off";
const RATE: &str = "use 1 or more, as 100, with a burst as 100/500, or off";
const RATES: &str = "use 1 or more, as bytes=64KiB,lines=100, or one of both; with a burst as lines=100/500; or off";
const PEERS: &str = "use addresses or networks, as 192.0.2.0/24 or 2001:db8::/32, unix, uid:1000 or gid:100, with commas \
                     between them, or off";

/// A limit by its name, such as `idle-timeout`: how an operator reads and changes one. The names, and the texts of values,
/// are those of rot13d's settings. Needs the feature `console`.
///
/// ```
/// use actix_lines::limits::{LimitKey, Limits};
///
/// let key = LimitKey::find("idle-timeout").unwrap();
/// let shorter = key.set(&Limits::default(), "5m").unwrap();
/// assert_eq!((key.value(&Limits::default()), key.value(&shorter)), ("10m".to_owned(), "5m".to_owned()));
/// assert_eq!(key.set(&shorter, "soon").unwrap_err().to_string(), "use a time, as 10s, 5m or 2h, or off");
/// ```
#[derive(Clone, Copy)]
pub struct LimitKey(&'static Key);

struct Key {
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    advice: &'static str,
    /// `None` for a text that is no value.
    read: fn(&str, LimitsBuilder) -> Option<LimitsBuilder>,
    value: fn(&Limits) -> String,
}

/// A text is no value of a limit. The message says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// The text is no value.
    #[error("{advice}")]
    Value {
        /// Says how a value is written.
        advice: &'static str,
    },
    /// The value is out of its bounds, or contradicts another limit.
    #[error(transparent)]
    Limits(#[from] ConfigError),
}

impl LimitKey {
    /// Returns all keys.
    pub fn all() -> impl ExactSizeIterator<Item = Self> + Clone {
        KEYS.iter().map(Self)
    }

    /// Returns the key of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::all().find(|key| key.name() == name)
    }

    /// Returns the name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Returns the unit; empty where a value shows it.
    #[must_use]
    pub fn unit(self) -> &'static str {
        self.0.unit
    }

    /// Returns the meaning, in a few words.
    #[must_use]
    pub fn help(self) -> &'static str {
        self.0.help
    }

    /// Returns the value in `limits`.
    #[must_use]
    pub fn value(self, limits: &Limits) -> String {
        (self.0.value)(limits)
    }

    /// Returns `limits` with another value.
    ///
    /// # Errors
    /// Returns a [`LimitError`] if the text is no value, or the limits together are invalid.
    pub fn set(self, limits: &Limits, value: &str) -> Result<Limits, LimitError> {
        let set = (self.0.read)(value, limits.to_builder());
        Ok(set.ok_or(LimitError::Value { advice: self.0.advice })?.build()?)
    }
}

impl fmt::Debug for LimitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LimitKey").field(&self.0.name).finish()
    }
}

impl PartialEq for LimitKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for LimitKey {}

/// In the order of rot13d's settings; those that it has not come last.
const KEYS: &[Key] = &[
    Key {
        name: "max-sessions",
        unit: "sessions",
        help: "Most sessions at once",
        advice: "use 1 or more, or off",
        read: |text, limits| Some(limits.max_sessions(count_or_off(text)?)),
        value: |limits| written_count(limits.admission.max_sessions),
    },
    Key {
        name: "max-sessions-per-source",
        unit: "sessions",
        help: "Most sessions of one source at once",
        advice: "use 1 or more, or off",
        read: |text, limits| Some(limits.max_sessions_per_source(count_or_off(text)?)),
        value: |limits| written_count(limits.admission.max_sessions_per_source),
    },
    Key {
        name: "source-prefix",
        unit: "bits",
        help: "Leading bits of an IPv4 and of an IPv6 address that make a source",
        advice: "use 0 to 32 for IPv4 and 0 to 128 for IPv6, as 32,64",
        read: |text, limits| {
            let (v4, v6) = text.split_once(',')?;
            Some(limits.source_prefix(SourcePrefix { v4: v4.trim().parse().ok()?, v6: v6.trim().parse().ok()? }))
        },
        value: |limits| {
            let SourcePrefix { v4, v6 } = limits.admission.source_prefix;
            format!("{v4},{v6}")
        },
    },
    Key {
        name: "accept-rate",
        unit: "connections a second",
        help: "Most connections that become sessions each second",
        advice: RATE,
        read: |text, limits| Some(limits.accept_rate(or_off(text, accepts)?)),
        value: |limits| written_or_off(limits.admission.accept_rate, |rate| written_rate(rate, |n| n.to_string())),
    },
    Key {
        name: "accept-rate-per-source",
        unit: "connections a second",
        help: "Most connections of one source that become sessions each second",
        advice: RATE,
        read: |text, limits| Some(limits.accept_rate_per_source(or_off(text, accepts)?)),
        value: |limits| {
            written_or_off(limits.admission.accept_rate_per_source, |rate| written_rate(rate, |n| n.to_string()))
        },
    },
    Key {
        name: "over-limit",
        unit: "",
        help: "Treatment of connections over max-sessions or accept-rate: wait or refuse",
        advice: "use wait or refuse",
        read: |text, limits| {
            Some(limits.over_limit(match text {
                "wait" => OverLimit::Wait,
                "refuse" => OverLimit::Refuse,
                _ => return None,
            }))
        },
        value: |limits| {
            let policy = match limits.admission.over_limit {
                OverLimit::Wait => "wait",
                OverLimit::Refuse => "refuse",
            };
            policy.to_owned()
        },
    },
    Key {
        name: "refuse-line",
        unit: "",
        help: "Line that a refused connection is sent; an empty one sends nothing",
        advice: "use a text of one line, or an empty one for none",
        read: |text, limits| {
            let line = if text.is_empty() { String::new() } else { format!("{text}\r\n") };
            Some(limits.refuse_line(line))
        },
        value: |limits| {
            let line: &[u8] = &limits.admission.refuse_line;
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            Escaped::new(line.strip_suffix(b"\r").unwrap_or(line)).to_string()
        },
    },
    Key {
        name: "allow",
        unit: "",
        help: "Peers that may connect; off allows all",
        advice: PEERS,
        read: |text, limits| Some(limits.allow(peers(text)?)),
        value: |limits| written_peers(&limits.admission.allow),
    },
    Key {
        name: "deny",
        unit: "",
        help: "Peers that may not connect, even if allow has them",
        advice: PEERS,
        read: |text, limits| Some(limits.deny(peers(text)?)),
        value: |limits| written_peers(&limits.admission.deny),
    },
    Key {
        name: "exempt",
        unit: "",
        help: "Peers exempt from the limits of a source",
        advice: PEERS,
        read: |text, limits| Some(limits.exempt(peers(text)?)),
        value: |limits| written_peers(&limits.admission.exempt),
    },
    Key {
        name: "max-prefaces",
        unit: "connections",
        help: "Most connections of a worker that wait for their peers in a handshake",
        advice: COUNT,
        read: |text, limits| Some(limits.max_prefaces(number(text)?)),
        value: |limits| limits.session.max_prefaces.to_string(),
    },
    Key {
        name: "idle-timeout",
        unit: "",
        help: "Longest time from one line to the beginning of the next",
        advice: OR_OFF,
        read: |text, limits| Some(limits.idle_timeout(or_off(text, units::time)?)),
        value: |limits| written_or_off(limits.session.idle_timeout, written_time),
    },
    Key {
        name: "line-timeout",
        unit: "",
        help: "Longest time from a line's first byte to its newline",
        advice: OR_OFF,
        read: |text, limits| Some(limits.line_timeout(or_off(text, units::time)?)),
        value: |limits| written_or_off(limits.session.line_timeout, written_time),
    },
    Key {
        name: "write-timeout",
        unit: "",
        help: "Longest time that a peer with output waiting may acknowledge nothing",
        advice: OR_OFF,
        read: |text, limits| Some(limits.write_timeout(or_off(text, units::time)?)),
        value: |limits| written_or_off(limits.session.write_timeout, written_time),
    },
    Key {
        name: "max-age",
        unit: "",
        help: "Age at which a session drains",
        advice: OR_OFF,
        read: |text, limits| Some(limits.max_age(or_off(text, units::time)?)),
        value: |limits| written_or_off(limits.session.max_age, written_time),
    },
    Key {
        name: "preface-timeout",
        unit: "",
        help: "Longest time from the accept to the end of the handshakes that a listener asks for",
        advice: units::TIME,
        read: |text, limits| Some(limits.preface_timeout(units::time(text)?)),
        value: |limits| written_time(limits.session.preface_timeout),
    },
    Key {
        name: "linger-timeout",
        unit: "",
        help: "Longest wait for the peer's close after ours",
        advice: units::TIME,
        read: |text, limits| Some(limits.linger_timeout(units::time(text)?)),
        value: |limits| written_time(limits.session.linger_timeout),
    },
    Key {
        name: "session-rate",
        unit: "bytes and lines a second",
        help: "Most bytes and lines read from each session each second",
        advice: RATES,
        read: |text, limits| Some(limits.session_rate(or_off(text, session_rate)?.unwrap_or_default())),
        value: |limits| written_session_rate(limits.session.rate),
    },
    Key {
        name: "outbox-high",
        unit: "bytes",
        help: "Output waiting for a peer above which its session stops reading",
        advice: units::SIZE,
        read: |text, limits| {
            let marks = Watermarks { high: amount(text)?, ..limits.limits.session.outbox };
            // Or it could not be raised by itself.
            let limit = limits.limits.session.outbox_limit;
            let limit = OutboxLimit { hard: limit.hard.max(marks.high), ..limit };
            Some(limits.outbox(marks).outbox_limit(limit))
        },
        value: |limits| written_size(limits.session.outbox.high),
    },
    Key {
        name: "outbox-low",
        unit: "bytes",
        help: "Output waiting for a peer at or below which its session reads again",
        advice: units::SIZE,
        read: |text, limits| {
            let marks = Watermarks { low: amount(text)?, ..limits.limits.session.outbox };
            Some(limits.outbox(marks))
        },
        value: |limits| written_size(limits.session.outbox.low),
    },
    Key {
        name: "memory-budget",
        unit: "bytes",
        help: "Most bytes in the buffers of all sessions",
        advice: "use a size, as 256MiB, or off",
        read: |text, limits| Some(limits.memory_budget(or_off(text, units::size)?)),
        value: |limits| written_or_off(limits.memory_budget, written_size),
    },
    Key {
        name: "linger-bytes",
        unit: "bytes",
        help: "Most bytes read and discarded after our close; then the peer is reset",
        advice: units::SIZE,
        read: |text, limits| Some(limits.linger_bytes(amount(text)?.try_into().ok()?)),
        value: |limits| written_size(limits.session.linger_bytes as usize),
    },
    Key {
        name: "wait-timeout",
        unit: "",
        help: "Longest time that a session may wait for a future",
        advice: units::TIME,
        read: |text, limits| Some(limits.wait_timeout(units::time(text)?)),
        value: |limits| written_time(limits.session.wait_timeout),
    },
    Key {
        name: "outbox-hard",
        unit: "bytes",
        help: "Most output waiting for a peer, what others push into its session included",
        advice: units::SIZE,
        read: |text, limits| {
            let limit = OutboxLimit { hard: amount(text)?, ..limits.limits.session.outbox_limit };
            Some(limits.outbox_limit(limit))
        },
        value: |limits| written_size(limits.session.outbox_limit.hard),
    },
    Key {
        name: "outbox-policy",
        unit: "",
        help: "Treatment of what does not fit under outbox-hard: drop-newest, disconnect or accept",
        advice: "use drop-newest, disconnect or accept",
        read: |text, limits| {
            let policy = match text {
                "disconnect" => OutboxPolicy::Disconnect,
                "drop-newest" => OutboxPolicy::DropNewest,
                "accept" => OutboxPolicy::Accept,
                _ => return None,
            };
            let limit = OutboxLimit { policy, ..limits.limits.session.outbox_limit };
            Some(limits.outbox_limit(limit))
        },
        value: |limits| {
            let policy = match limits.session.outbox_limit.policy {
                OutboxPolicy::Disconnect => "disconnect",
                OutboxPolicy::DropNewest => "drop-newest",
                OutboxPolicy::Accept => "accept",
            };
            policy.to_owned()
        },
    },
    Key {
        name: "outbox-soft",
        unit: "bytes for a time",
        help: "Output waiting for a peer that cuts its session if it lasts",
        advice: "use a size and a time, as 256KiB/30s, or off",
        read: |text, limits| {
            let soft = or_off(text, |text| {
                let (bytes, time) = text.split_once('/')?;
                Some(SoftLimit { bytes: amount(bytes)?, time: units::time(time)? })
            })?;
            let limit = OutboxLimit { soft, ..limits.limits.session.outbox_limit };
            Some(limits.outbox_limit(limit))
        },
        value: |limits| {
            let written = |SoftLimit { bytes, time }| format!("{}/{}", written_size(bytes), written_time(time));
            written_or_off(limits.session.outbox_limit.soft, written)
        },
    },
];

/// The largest amount that one session may hold.
const GIB: usize = 1 << 30;

fn amount(text: &str) -> Option<usize> {
    units::size(text).filter(|bytes| *bytes <= GIB)
}

fn number(text: &str) -> Option<usize> {
    text.parse().ok()
}

fn or_off<T>(text: &str, read: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    if text == OFF { Some(None) } else { read(text).map(Some) }
}

fn count_or_off(text: &str) -> Option<usize> {
    or_off(text, number).map(|count| count.unwrap_or(usize::MAX))
}

fn accepts(text: &str) -> Option<Rate> {
    rate(text, |text| text.parse().ok())
}

/// A rate, and behind a slash a burst that is no second's worth of it.
fn rate(text: &str, number: impl Fn(&str) -> Option<u32>) -> Option<Rate> {
    let number = |text: &str| number(text.trim()).filter(|number| *number > 0);
    match text.split_once('/') {
        Some((rate, burst)) => Some(Rate { per_second: number(rate)?, burst: number(burst)? }),
        None => number(text).map(Rate::per_second),
    }
}

fn session_rate(text: &str) -> Option<RateLimit> {
    let amount = |text: &str| u32::try_from(units::size(text)?).ok();
    let mut limit = RateLimit::default();
    for part in text.split(',') {
        let (unit, number) = part.split_once('=')?;
        let place = match unit.trim() {
            "bytes" => &mut limit.bytes,
            "lines" => &mut limit.lines,
            _ => return None,
        };
        // Written twice, it is not clear which holds.
        if place.replace(rate(number, amount)?).is_some() {
            return None;
        }
    }
    Some(limit)
}

fn peers(text: &str) -> Option<Vec<Peers>> {
    if text == OFF {
        return Some(Vec::new());
    }
    let words = text.split([',', ' ']).filter(|word| !word.is_empty());
    let peers: Vec<_> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
    (!peers.is_empty()).then_some(peers)
}

fn written_count(count: usize) -> String {
    written_or_off(Some(count).filter(|count| *count < usize::MAX), |count| count.to_string())
}

fn written_or_off<T>(value: Option<T>, written: impl Fn(T) -> String) -> String {
    value.map_or_else(|| OFF.to_owned(), written)
}

fn written_rate(Rate { per_second, burst }: Rate, written: impl Fn(u32) -> String) -> String {
    let rate = written(per_second);
    if burst == per_second { rate } else { format!("{rate}/{}", written(burst)) }
}

fn written_session_rate(RateLimit { bytes, lines }: RateLimit) -> String {
    let bytes = bytes.map(|rate| format!("bytes={}", written_rate(rate, |bytes| written_size(bytes as usize))));
    let lines = lines.map(|rate| format!("lines={}", written_rate(rate, |lines| lines.to_string())));
    let both: Vec<_> = [bytes, lines].into_iter().flatten().collect();
    if both.is_empty() { OFF.to_owned() } else { both.join(",") }
}

fn written_peers(peers: &[Peers]) -> String {
    let each: Vec<_> = peers.iter().map(Peers::to_string).collect();
    if each.is_empty() { OFF.to_owned() } else { each.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value of each key that is not its default.
    const EACH: [(&str, &str); 26] = [
        ("max-sessions", "9"),
        ("max-sessions-per-source", "11"),
        ("source-prefix", "12,13"),
        ("accept-rate", "16/17"),
        ("accept-rate-per-source", "18"),
        ("over-limit", "wait"),
        ("refuse-line", "no room"),
        ("allow", "192.0.2.0/24,unix"),
        ("deny", "192.0.2.21/32"),
        ("exempt", "uid:1000,gid:100"),
        ("max-prefaces", "24"),
        ("idle-timeout", "25s"),
        ("line-timeout", "1h30m"),
        ("write-timeout", "off"),
        ("max-age", "29s"),
        ("preface-timeout", "49s"),
        ("linger-timeout", "31ms"),
        ("session-rate", "bytes=42KiB/43KiB,lines=44"),
        ("outbox-high", "2MiB"),
        ("outbox-low", "39"),
        ("memory-budget", "41MiB"),
        ("linger-bytes", "46KiB"),
        ("wait-timeout", "47s"),
        ("outbox-hard", "3MiB"),
        ("outbox-policy", "disconnect"),
        ("outbox-soft", "256KiB/30s"),
    ];

    #[test]
    fn each_value_is_written_as_it_is_read() {
        let names: Vec<_> = LimitKey::all().map(LimitKey::name).collect();
        assert_eq!(names, EACH.map(|(name, _)| name));
        for limits in [Limits::default(), Limits::exposed()] {
            for (name, value) in EACH {
                let key = LimitKey::find(name).unwrap();
                let set = key.set(&limits, value).unwrap();
                assert_eq!(key.value(&set), value, "{name}");
                assert_ne!(set, limits, "{name}");
                let back = key.set(&set, &key.value(&limits)).unwrap();
                assert_eq!(key.value(&back), key.value(&limits), "{name}");
                // A high watermark that was raised has raised the hard limit with it.
                assert!(back == limits || name == "outbox-high", "{name}");
            }
        }
    }

    #[test]
    fn a_text_that_is_no_value_and_one_out_of_bounds_say_what_to_write() {
        let said = |name: &str, value: &str| {
            LimitKey::find(name).unwrap().set(&Limits::default(), value).unwrap_err().to_string()
        };
        assert_eq!(said("max-sessions", "auto"), "use 1 or more, or off");
        assert_eq!(said("idle-timeout", "5"), OR_OFF);
        assert!(said("idle-timeout", "10ms").contains("idle timeout"), "{}", said("idle-timeout", "10ms"));
        assert!(said("outbox-low", "64KiB").contains("low"), "{}", said("outbox-low", "64KiB"));
        for value in ["off,unix", ",", "", "here"] {
            assert_eq!(said("deny", value), PEERS, "{value}");
        }
        assert_eq!(said("session-rate", "lines=5,lines=6"), RATES);
        assert_eq!(LimitKey::find("idle"), None);
    }
}
