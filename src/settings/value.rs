//! Values: the forms that settings are written in.
//!
//! Rule: the texts that a form allows are described once, by its [`Value`]; help, tables and errors show that. The
//! library's own types are parsed by the library.
//! Not here: the form of each setting (`settings`), checks of several settings together (`meaning`).

mod cluster;
mod listener;

use std::{fmt, path::PathBuf, time::Duration};

use actix_lines::{
    ConfigError, ListenAddress, Overlong, Peers, SourcePrefix,
    limits::{OverLimit, Rate, RateLimit},
};

pub(crate) use self::cluster::{KeyPrefix, OnPartition, StoreUrl, StoreUser};
pub(crate) use self::listener::{Alpn, FileMode, Members, Name, Owner, Requirement, ServerName, TlsVersion};

/// A form of values.
pub(crate) trait Value: Clone + fmt::Debug + PartialEq {
    /// The only texts that are allowed, each with its meaning; none where others are.
    const CHOICES: &'static [(&'static str, &'static str)] = &[];

    /// True for a list: its flag may be repeated, its key may have an array.
    const IS_LIST: bool = false;

    /// True for a value that the file writes as `true` or `false`.
    const IS_SWITCH: bool = false;

    /// True if a number in the file would not mean what the same digits in a text do.
    const IS_TEXT: bool = false;

    /// True if a wrong one may have a secret in it, which no error may repeat.
    const MAY_BE_SECRET: bool = false;

    /// Says what is allowed, in words that fit after "use".
    fn allowed() -> String;

    /// Reads a text, for a list one item of it.
    ///
    /// # Errors
    /// Says what to do instead.
    fn read(text: &str) -> Result<Self, String>;

    /// Reads what is written for one setting: a single text, for a list its items.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_all(texts: &[&str]) -> Result<Self, String> {
        match texts {
            [text] => Self::read(text),
            _ => Err("use one value".to_owned()),
        }
    }
}

/// A list in the order in which it is written.
impl<T: Value> Value for Vec<T> {
    const IS_LIST: bool = true;
    const IS_TEXT: bool = T::IS_TEXT;
    const MAY_BE_SECRET: bool = T::MAY_BE_SECRET;

    fn allowed() -> String {
        T::allowed()
    }

    fn read(text: &str) -> Result<Self, String> {
        Ok(vec![T::read(text)?])
    }

    fn read_all(texts: &[&str]) -> Result<Self, String> {
        match texts {
            [] => Err(format!("use {}", Self::allowed())),
            texts => texts.iter().copied().map(T::read).collect(),
        }
    }
}

const OFF: &str = "off";

/// A value or `off`, which is `None`.
impl<T: Value> Value for Option<T> {
    const IS_LIST: bool = T::IS_LIST;
    const IS_SWITCH: bool = T::IS_SWITCH;
    const IS_TEXT: bool = T::IS_TEXT;
    const MAY_BE_SECRET: bool = T::MAY_BE_SECRET;

    fn allowed() -> String {
        format!("{}, or off", T::allowed())
    }

    fn read(text: &str) -> Result<Self, String> {
        match text {
            OFF => Ok(None),
            text => T::read(text).map(Some).map_err(|advice| format!("{advice}, or off")),
        }
    }

    fn read_all(texts: &[&str]) -> Result<Self, String> {
        match texts {
            // An empty list in the file.
            [] if T::IS_LIST => Ok(None),
            [text] => Self::read(text),
            texts if texts.contains(&OFF) => Err("off stands beside other values: use either off or those".to_owned()),
            texts => T::read_all(texts).map(Some),
        }
    }
}

/// A value or `auto`: what the machine allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Auto<T> {
    Auto,
    Set(T),
}

impl<T: Value> Value for Auto<T> {
    fn allowed() -> String {
        format!("{}, or auto", T::allowed())
    }

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            text => T::read(text).map(Self::Set).map_err(|advice| format!("{advice}, or auto")),
        }
    }
}

/// A whole number; `usize::MAX` is no bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Number<const MIN: usize, const MAX: usize>(pub(crate) usize);

impl<const MIN: usize, const MAX: usize> Value for Number<MIN, MAX> {
    fn allowed() -> String {
        if MAX == usize::MAX { format!("{MIN} or more") } else { format!("{MIN} to {MAX}") }
    }

    fn read(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|number| (MIN..=MAX).contains(number));
        number.map(Self).ok_or_else(|| format!("use {}", Self::allowed()))
    }
}

const DAY: u64 = 24 * 3600;

/// A time, its bounds in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Time<const MIN: u64, const MAX: u64>(pub(crate) Duration);

/// The longest time that the library's clocks tell is 24 days; a deadline is met within a second.
pub(crate) type Timeout = Time<1, { 24 * DAY }>;
/// A time that may be none at all.
pub(crate) type Pause = Time<0, { 24 * DAY }>;
/// The kernel takes no longer one.
pub(crate) type Keepalive = Time<1, { 9 * 3600 }>;

impl<const MIN: u64, const MAX: u64> Value for Time<MIN, MAX> {
    fn allowed() -> String {
        let [shortest, longest] = [MIN, MAX].map(|seconds| humantime::format_duration(Duration::from_secs(seconds)));
        format!("{shortest} to {longest}").replace("days", " days")
    }

    fn read(text: &str) -> Result<Self, String> {
        let range = Duration::from_secs(MIN)..=Duration::from_secs(MAX);
        let time = humantime::parse_duration(text).ok().filter(|time| range.contains(time));
        time.map(Self).ok_or_else(|| format!("use {}, as 10s, 5m or 2h", Self::allowed()))
    }
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// An amount of bytes; `u64::MAX` is no bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Size<const MIN: u64, const MAX: u64>(pub(crate) usize);

/// An amount that one session may hold, at most 1 GiB.
pub(crate) type Amount<const MIN: u64> = Size<MIN, GIB>;
/// A size that the kernel is asked for.
pub(crate) type SocketBuffer = Amount<{ 4 * KIB }>;
/// An amount for all sessions together.
pub(crate) type Budget = Size<MIB, { u64::MAX }>;

impl<const MIN: u64, const MAX: u64> Value for Size<MIN, MAX> {
    fn allowed() -> String {
        let written = |bytes: u64| match bytes {
            bytes if bytes >= GIB && bytes.is_multiple_of(GIB) => format!("{}GiB", bytes / GIB),
            bytes if bytes >= MIB && bytes.is_multiple_of(MIB) => format!("{}MiB", bytes / MIB),
            bytes if bytes >= KIB && bytes.is_multiple_of(KIB) => format!("{}KiB", bytes / KIB),
            bytes => bytes.to_string(),
        };
        if MAX == u64::MAX {
            format!("{} or more", written(MIN))
        } else {
            format!("{} to {}", written(MIN), written(MAX))
        }
    }

    fn read(text: &str) -> Result<Self, String> {
        let bytes = parse_size::parse_size(text).ok().filter(|bytes| (MIN..=MAX).contains(bytes));
        let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
        bytes.map(Self).ok_or_else(|| format!("use {}, as 65536, 64KiB or 1MiB", Self::allowed()))
    }
}

/// A text that peers are sent.
impl Value for String {
    fn allowed() -> String {
        "text, or empty for none".to_owned()
    }

    fn read(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

/// The path of a folder.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Value for Folder {
    fn allowed() -> String {
        "the path of a folder".to_owned()
    }

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err(format!("use {}", Self::allowed())) } else { Ok(Self(text.into())) }
    }
}

/// The path of a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FilePath(pub(crate) PathBuf);

impl Value for FilePath {
    const IS_TEXT: bool = true;

    fn allowed() -> String {
        "the path of a file".to_owned()
    }

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err(format!("use {}", Self::allowed())) } else { Ok(Self(text.into())) }
    }
}

/// The name of a host, without a port.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HostName(pub(crate) String);

impl Value for HostName {
    const IS_TEXT: bool = true;

    fn allowed() -> String {
        "the name of a host, as lines.example.org".to_owned()
    }

    fn read(text: &str) -> Result<Self, String> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let is_name = !text.is_empty() && text.bytes().all(fits);
        if is_name { Ok(Self(text.to_owned())) } else { Err(format!("use {}, without a port", Self::allowed())) }
    }
}

/// An address to listen on.
impl Value for ListenAddress {
    fn allowed() -> String {
        Self::SYNTAX.to_owned()
    }

    fn read(text: &str) -> Result<Self, String> {
        text.parse::<Self>().map_err(|error| error.to_string())
    }
}

impl Value for Peers {
    fn allowed() -> String {
        "an address or a network, as 192.0.2.0/24 or 2001:db8::/32, or one of unix, uid:1000 and gid:100".to_owned()
    }

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error| match error {
            ConfigError::Prefix { .. } => format!("use {}", Self::allowed()),
            error => error.to_string(),
        })
    }
}

impl Value for SourcePrefix {
    fn allowed() -> String {
        "0 to 32 for IPv4 and 0 to 128 for IPv6, as 32,64".to_owned()
    }

    fn read(text: &str) -> Result<Self, String> {
        let bits = |text: &str, most: u8| text.trim().parse().ok().filter(|bits| *bits <= most);
        let prefix = text.split_once(',').and_then(|(v4, v6)| Some(Self { v4: bits(v4, 32)?, v6: bits(v6, 128)? }));
        prefix.ok_or_else(|| format!("use {}", Self::allowed()))
    }
}

impl Value for Rate {
    fn allowed() -> String {
        "1 or more, as 100, with a burst as 100/500".to_owned()
    }

    fn read(text: &str) -> Result<Self, String> {
        rate(text, |text| text.parse().ok()).ok_or_else(|| format!("use {}", Self::allowed()))
    }
}

impl Value for RateLimit {
    fn allowed() -> String {
        "1 or more, as bytes=64KiB,lines=100, or one of both; with a burst as lines=100/500".to_owned()
    }

    fn read(text: &str) -> Result<Self, String> {
        let amount = |text: &str| u32::try_from(parse_size::parse_size(text).ok()?).ok();
        let mut limit = Self::default();
        let understood = text.split(',').try_for_each(|part| {
            let (unit, number) = part.split_once('=')?;
            let place = match unit.trim() {
                "bytes" => &mut limit.bytes,
                "lines" => &mut limit.lines,
                _ => return None,
            };
            // Said twice, it is not clear which holds.
            place.replace(rate(number, amount)?).is_none().then_some(())
        });
        understood.map(|()| limit).ok_or_else(|| format!("use {}", Self::allowed()))
    }
}

/// A rate, and behind a slash a burst that is no second's worth of it.
fn rate(text: &str, number: impl Fn(&str) -> Option<u32>) -> Option<Rate> {
    let number = |text: &str| number(text.trim()).filter(|number| *number > 0);
    match text.split_once('/') {
        Some((rate, burst)) => Some(Rate { per_second: number(rate)?, burst: number(burst)? }),
        None => number(text).map(Rate::per_second),
    }
}

/// The form of an event in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl Value for LogFormat {
    const CHOICES: &'static [(&'static str, &'static str)] =
        &[("text", "a line for people"), ("json", "a JSON object on a line, with a field for each number in the text")];

    fn allowed() -> String {
        one_of(Self::CHOICES)
    }

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("use {}", Self::allowed())),
        }
    }
}

impl Value for Overlong {
    const CHOICES: &'static [(&'static str, &'static str)] = &[
        ("pieces", "answers it in pieces: not a byte is lost or added"),
        ("split", "puts a newline after every max-line bytes without one"),
        ("truncate", "answers its first max-line bytes and the newline, drops the rest"),
        ("discard", "drops all of it, and goes on with the next"),
        ("close", "answers the lines before it, then closes"),
    ];

    fn allowed() -> String {
        one_of(Self::CHOICES)
    }

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "pieces" => Ok(Self::Pieces),
            "split" => Ok(Self::Split),
            "truncate" => Ok(Self::Truncate),
            "discard" => Ok(Self::Discard),
            "close" => Ok(Self::Close),
            _ => Err(format!("use {}", Self::allowed())),
        }
    }
}

impl Value for OverLimit {
    const CHOICES: &'static [(&'static str, &'static str)] =
        &[("wait", "leaves them in the backlog"), ("refuse", "sends them the refuse line and closes")];

    fn allowed() -> String {
        one_of(Self::CHOICES)
    }

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "wait" => Ok(Self::Wait),
            "refuse" => Ok(Self::Refuse),
            _ => Err(format!("use {}", Self::allowed())),
        }
    }
}

fn one_of(choices: &[(&str, &str)]) -> String {
    let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
    match &names[..] {
        [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        names => names.concat(),
    }
}

#[cfg(test)]
mod tests {
    use actix_lines::Framing;

    use super::*;

    /// Returns what is allowed, and the error for `text`.
    fn said<T: Value>(text: &str) -> (String, String) {
        (T::allowed(), T::read(text).unwrap_err())
    }

    #[test]
    fn a_range_includes_its_ends_and_errors_name_both() {
        assert_eq!(Number::<1, 9>::read("9"), Ok(Number(9)));
        for text in ["0", "10", "-1", "", "many"] {
            assert_eq!(said::<Number<1, 9>>(text), ("1 to 9".to_owned(), "use 1 to 9".to_owned()));
        }
        assert_eq!(said::<Number<1, { usize::MAX }>>("0").1, "use 1 or more");
        assert_eq!(said::<Auto<Number<1, 9>>>("0").1, "use 1 to 9, or auto");

        assert_eq!(Timeout::read("24days"), Ok(Time(Duration::from_secs(24 * 24 * 3600))));
        assert_eq!(Pause::read("0s"), Ok(Time(Duration::ZERO)));
        for text in ["999ms", "24days 1s", "soon", "5"] {
            assert_eq!(said::<Option<Timeout>>(text).1, "use 1s to 24 days, as 10s, 5m or 2h, or off");
        }

        assert_eq!(SocketBuffer::read("4KiB"), Ok(Size(4096)));
        assert_eq!(SocketBuffer::read("1073741824"), Ok(Size(1 << 30)));
        for text in ["4095", "2GiB", "64KB of it"] {
            assert_eq!(said::<SocketBuffer>(text).1, "use 4KiB to 1GiB, as 65536, 64KiB or 1MiB");
        }
        assert_eq!(Budget::allowed(), "1MiB or more");
        assert_eq!(Amount::<1>::read(&Framing::MAX_LINE_LIMIT.to_string()), Ok(Size(Framing::MAX_LINE_LIMIT)));
        assert_eq!(Amount::<1>::read("16KiB"), Ok(Size(Framing::DEFAULT_MAX_LINE)));
    }

    #[test]
    fn rates_of_a_session_say_what_they_count() {
        let limit = |bytes, lines| Ok(RateLimit { bytes, lines });
        let burst = Some(Rate { per_second: 5, burst: 60 });
        assert_eq!(RateLimit::read("lines=5/60"), limit(None, burst));
        let both = limit(Some(Rate::per_second(1024)), Some(Rate::per_second(5)));
        assert_eq!(RateLimit::read("lines=5, bytes = 1KiB"), both);
        for text in ["", "5", "lines", "lines=0", "lines=5/0", "words=5", "lines=5,lines=6", "bytes=4GiB", "lines=5,"] {
            assert!(said::<RateLimit>(text).1.contains("bytes=64KiB,lines=100"), "{text}");
        }
    }

    #[test]
    fn a_list_is_its_items_or_off() {
        let networks = |texts: &[&str]| Option::<Vec<Peers>>::read_all(texts);
        let prefix: Peers = "192.0.2.0/24".parse().unwrap();
        assert_eq!(networks(&["192.0.2.0/24", "192.0.2.0/24"]), Ok(Some(vec![prefix, prefix])));
        assert_eq!(networks(&["off"]), Ok(None));
        assert_eq!(networks(&[]), Ok(None));
        assert!(Vec::<Peers>::read_all(&[]).unwrap_err().starts_with("use an address or a network"));
        for texts in [["off", "192.0.2.0/24"], ["192.0.2.0/24", "off"], ["off", "off"]] {
            assert!(networks(&texts).unwrap_err().contains("use either"), "{texts:?}");
        }
        assert!(Vec::<ListenAddress>::read_all(&[]).unwrap_err().starts_with("use an address and a port"));
    }

    #[test]
    fn each_choice_is_read_and_named_by_the_error() {
        fn all_read<T: Value>() {
            for (choice, _) in T::CHOICES {
                assert!(T::read(choice).is_ok(), "{choice}");
            }
        }
        all_read::<LogFormat>();
        all_read::<Overlong>();
        all_read::<OverLimit>();
        assert_eq!(said::<Overlong>("shrink").1, "use pieces, split, truncate, discard or close");
        assert_eq!(said::<OverLimit>("shrug").1, "use wait or refuse");
    }
}
