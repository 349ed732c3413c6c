//! Settings: what flags and the configuration file have in common. Each has one name, one way to write its value, and one
//! place that says what it means.
//!
//! What is typed overrules the file; what neither says is the library's default.
//! Not here: reading the file (`config`), what a limit does (`actix-lines`).

use std::{fmt, str::FromStr, time::Duration};

use actix_lines::{
    ConfigError, Connection, Framing, Limits, LimitsBuilder, LineHandler, LineServer, OutboxLimit, OverLimit, Overlong,
    Prefix, Rate, RateLimit, SourcePrefix, Watermarks,
};
use clap::{Args, Command, ValueEnum};
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};

/// What the kernel and the library take.
const LONGEST_KEEPALIVE: Duration = Duration::from_secs(9 * 3600);
const SOCKET_BUFFERS: std::ops::RangeInclusive<usize> = 4 * 1024..=1 << 30;

/// How long a drain may take by default.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time that the library's clocks tell.
const LONGEST_TIME: Duration = Duration::from_secs(24 * 24 * 3600);

// What help says of `[::]` is no link.
#[allow(rustdoc::broken_intra_doc_links)]
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Settings {
    /// Address to listen on; again for more: 0.0.0.0:40713 is IPv4, [::]:40713 is IPv6, and IPv4 too unless an IPv4 address
    /// has the same port. A port of 0 asks for a free one, which the log then names [default: 127.0.0.1:40713].
    #[arg(long, value_name = "ADDR:PORT")]
    #[serde(deserialize_with = "many")]
    pub(crate) listen: Vec<Listen>,

    /// Threads that run sessions [default: one for each core].
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "one")]
    pub(crate) workers: Option<Workers>,

    /// Connections that the kernel holds before they are accepted; it caps this at net.core.somaxconn [default: 4096].
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "one")]
    pub(crate) backlog: Option<Backlog>,

    /// After how long a silence the kernel asks a peer whether it is still there; off never asks
    /// [default: 5m].
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "one")]
    pub(crate) keepalive: Option<Switch<Keepalive>>,

    /// Longest line, in bytes without its newline, as 16384 or 16KiB. An incomplete line may need that much memory
    /// [default: 16384].
    #[arg(long, value_name = "SIZE")]
    #[serde(deserialize_with = "one")]
    pub(crate) max_line: Option<MaxLine>,

    /// What to do with a longer line [default: pieces].
    #[arg(long, value_name = "POLICY", value_enum)]
    #[serde(deserialize_with = "one")]
    pub(crate) overlong: Option<OverlongArg>,

    /// Most sessions at once [default: what the descriptor limit allows].
    #[arg(long, value_name = "N", help_heading = ADMISSION)]
    #[serde(deserialize_with = "one")]
    pub(crate) max_sessions: Option<Count>,

    /// Most sessions of one source at once, or off; a connection over it is refused [default: 100].
    #[arg(long, value_name = "N", help_heading = ADMISSION)]
    #[serde(deserialize_with = "one")]
    pub(crate) max_sessions_per_source: Option<Switch<Count>>,

    /// How many leading bits of an IPv4 and of an IPv6 address make a source [default: 32,64].
    #[arg(long, value_name = "V4,V6", help_heading = ADMISSION)]
    #[serde(deserialize_with = "one")]
    pub(crate) source_prefix: Option<SourcePrefixArg>,

    /// Most connections a second, and how many at once after a rest [default: off].
    #[arg(long, value_name = "N[/BURST]", help_heading = ADMISSION)]
    #[serde(deserialize_with = "one")]
    pub(crate) accept_rate: Option<Switch<RateArg>>,

    /// The same for one source; a connection over it is refused [default: off].
    #[arg(long, value_name = "N[/BURST]", help_heading = ADMISSION)]
    #[serde(deserialize_with = "one")]
    pub(crate) accept_rate_per_source: Option<Switch<RateArg>>,

    /// What becomes of connections over --max-sessions or --accept-rate [default: refuse].
    #[arg(long, value_name = "POLICY", value_enum, help_heading = ADMISSION)]
    #[serde(deserialize_with = "one")]
    pub(crate) over_limit: Option<OverLimitArg>,

    /// What a refused connection is told; a newline follows [default: too many connections, try again later].
    #[arg(long, value_name = "TEXT", help_heading = ADMISSION)]
    #[serde(deserialize_with = "one")]
    pub(crate) refuse_line: Option<String>,

    /// Who may connect, as 192.0.2.0/24; again for more [default: everybody].
    #[arg(long, value_name = "PREFIX", help_heading = ADMISSION)]
    #[serde(deserialize_with = "many")]
    pub(crate) allow: Vec<Prefix>,

    /// Who may not connect, whatever --allow says; again for more.
    #[arg(long, value_name = "PREFIX", help_heading = ADMISSION)]
    #[serde(deserialize_with = "many")]
    pub(crate) deny: Vec<Prefix>,

    /// Whom the limits of a source do not hold for; again for more, off for nobody. Without it, for this machine's own
    /// addresses, 127.0.0.0/8 and ::1.
    #[arg(long, value_name = "PREFIX", help_heading = ADMISSION)]
    #[serde(deserialize_with = "many")]
    pub(crate) exempt: Vec<Switch<PrefixArg>>,

    /// How long a session may go without a line [default: 10m].
    #[arg(long, value_name = "TIME", help_heading = TIME)]
    #[serde(deserialize_with = "one")]
    pub(crate) idle_timeout: Option<Switch<Time>>,

    /// How long a line may take from its first byte to its newline [default: 1m].
    #[arg(long, value_name = "TIME", help_heading = TIME)]
    #[serde(deserialize_with = "one")]
    pub(crate) line_timeout: Option<Switch<Time>>,

    /// How long a session may have bytes to send of which its peer takes none [default: 1m].
    #[arg(long, value_name = "TIME", help_heading = TIME)]
    #[serde(deserialize_with = "one")]
    pub(crate) write_timeout: Option<Switch<Time>>,

    /// How old a session may grow [default: off].
    #[arg(long, value_name = "TIME", help_heading = TIME)]
    #[serde(deserialize_with = "one")]
    pub(crate) max_age: Option<Switch<Time>>,

    /// How long we wait for the peer to close after we did; it has no off [default: 5s].
    #[arg(long, value_name = "TIME", help_heading = TIME)]
    #[serde(deserialize_with = "one")]
    pub(crate) linger_timeout: Option<Time>,

    /// How much we read and discard after we closed before the peer is reset [default: 1MiB].
    #[arg(long, value_name = "SIZE", help_heading = MEMORY)]
    #[serde(deserialize_with = "one")]
    pub(crate) linger_bytes: Option<LingerBytes>,

    /// How fast each session may be read, as bytes=64KiB,lines=100, or one of both; each with a burst if it is not a
    /// second's worth, as lines=100/500 [default: off].
    #[arg(long, value_name = "RATES", help_heading = RATES)]
    #[serde(deserialize_with = "one")]
    pub(crate) session_rate: Option<Switch<SessionRateArg>>,

    /// How long sessions have to end by themselves after SIGINT or SIGTERM [default: 10s].
    #[arg(long, value_name = "TIME", help_heading = DRAIN)]
    #[serde(deserialize_with = "one")]
    pub(crate) drain_timeout: Option<Time>,

    /// Sessions are told to end one after the other over this time, at most half of --drain-timeout [default: 0s].
    #[arg(long, value_name = "TIME", help_heading = DRAIN)]
    #[serde(deserialize_with = "one")]
    pub(crate) drain_spread: Option<Time>,

    /// What each session is told before it ends in a drain; a newline follows [default: nothing].
    #[arg(long, value_name = "TEXT", help_heading = DRAIN)]
    #[serde(deserialize_with = "one")]
    pub(crate) drain_goodbye: Option<String>,

    /// With more than this to send a session reads no more [default: 64KiB].
    #[arg(long, value_name = "SIZE", help_heading = MEMORY)]
    #[serde(deserialize_with = "one")]
    pub(crate) write_high: Option<Size>,

    /// With this or less to send it reads again [default: 16KiB].
    #[arg(long, value_name = "SIZE", help_heading = MEMORY)]
    #[serde(deserialize_with = "one")]
    pub(crate) write_low: Option<Size>,

    /// With more than this in the buffers of all sessions the source that holds the most loses sessions; off for no budget
    /// [default: 256MiB].
    #[arg(long, value_name = "SIZE", help_heading = MEMORY)]
    #[serde(deserialize_with = "one")]
    pub(crate) memory_budget: Option<Switch<Size>>,

    /// How much of a session's output the kernel may hold; off leaves it to the kernel, megabytes [default: 256KiB].
    #[arg(long, value_name = "SIZE", help_heading = MEMORY)]
    #[serde(deserialize_with = "one")]
    pub(crate) send_buffer: Option<Switch<SocketBuffer>>,

    /// How much of a session's input the kernel may hold; off leaves it to the kernel, megabytes [default: 256KiB].
    #[arg(long, value_name = "SIZE", help_heading = MEMORY)]
    #[serde(deserialize_with = "one")]
    pub(crate) receive_buffer: Option<Switch<SocketBuffer>>,
}

const ADMISSION: &str = "Admission";
const TIME: &str = "Times, as 500ms, 10s, 2h, or off";
const RATES: &str = "Rates";
const DRAIN: &str = "Drain";
const MEMORY: &str = "Memory, as 65536, 64KiB, 1MiB";

impl Settings {
    /// These, and where they say nothing, `others`.
    pub(crate) fn or(self, others: Self) -> Self {
        fn first<T>(mine: Vec<T>, other: Vec<T>) -> Vec<T> {
            if mine.is_empty() { other } else { mine }
        }
        Self {
            listen: if self.listen.is_empty() { others.listen } else { self.listen },
            workers: self.workers.or(others.workers),
            backlog: self.backlog.or(others.backlog),
            keepalive: self.keepalive.or(others.keepalive),
            max_line: self.max_line.or(others.max_line),
            overlong: self.overlong.or(others.overlong),
            max_sessions: self.max_sessions.or(others.max_sessions),
            max_sessions_per_source: self.max_sessions_per_source.or(others.max_sessions_per_source),
            source_prefix: self.source_prefix.or(others.source_prefix),
            accept_rate: self.accept_rate.or(others.accept_rate),
            accept_rate_per_source: self.accept_rate_per_source.or(others.accept_rate_per_source),
            over_limit: self.over_limit.or(others.over_limit),
            refuse_line: self.refuse_line.or(others.refuse_line),
            allow: first(self.allow, others.allow),
            deny: first(self.deny, others.deny),
            exempt: first(self.exempt, others.exempt),
            idle_timeout: self.idle_timeout.or(others.idle_timeout),
            line_timeout: self.line_timeout.or(others.line_timeout),
            write_timeout: self.write_timeout.or(others.write_timeout),
            max_age: self.max_age.or(others.max_age),
            linger_timeout: self.linger_timeout.or(others.linger_timeout),
            linger_bytes: self.linger_bytes.or(others.linger_bytes),
            session_rate: self.session_rate.or(others.session_rate),
            drain_timeout: self.drain_timeout.or(others.drain_timeout),
            drain_spread: self.drain_spread.or(others.drain_spread),
            drain_goodbye: self.drain_goodbye.or(others.drain_goodbye),
            write_high: self.write_high.or(others.write_high),
            write_low: self.write_low.or(others.write_low),
            memory_budget: self.memory_budget.or(others.memory_budget),
            send_buffer: self.send_buffer.or(others.send_buffer),
            receive_buffer: self.receive_buffer.or(others.receive_buffer),
        }
    }

    /// The names of all settings, which are flags and keys.
    pub(crate) fn names() -> Vec<String> {
        let flags = Self::augment_args(Command::new("settings"));
        flags.get_arguments().filter_map(|flag| flag.get_long().map(str::to_owned)).collect()
    }

    /// Whether a server can be started with these.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        self.framing()?;
        self.limits(None).map(drop)
    }

    /// The names of those among the settings that only a restart changes, of which `others` differ.
    pub(crate) fn fixed_that_differ(&self, others: &Self) -> Vec<&'static str> {
        [
            ("listen", self.listen() != others.listen()),
            ("workers", self.workers() != others.workers()),
            ("backlog", self.backlog() != others.backlog()),
            ("keepalive", self.keepalive() != others.keepalive()),
            ("max-line", self.max_line() != others.max_line()),
            ("overlong", self.overlong() != others.overlong()),
            ("send-buffer", buffer(self.send_buffer) != buffer(others.send_buffer)),
            ("receive-buffer", buffer(self.receive_buffer) != buffer(others.receive_buffer)),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }

    /// These, except for what only a restart changes: that stays as it is in `running`.
    pub(crate) fn with_fixed_of(self, running: &Self) -> Self {
        Self {
            listen: running.listen.clone(),
            workers: running.workers,
            backlog: running.backlog,
            keepalive: running.keepalive,
            max_line: running.max_line,
            overlong: running.overlong,
            send_buffer: running.send_buffer,
            receive_buffer: running.receive_buffer,
            ..self
        }
    }

    pub(crate) fn listen(&self) -> Vec<&str> {
        match &self.listen[..] {
            [] => vec!["127.0.0.1:40713"],
            some => some.iter().map(|address| address.0.as_str()).collect(),
        }
    }

    pub(crate) fn workers(&self) -> usize {
        self.workers.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), |workers| workers.0)
    }

    pub(crate) fn backlog(&self) -> u32 {
        self.backlog.map_or(LineServer::DEFAULT_BACKLOG, |backlog| backlog.0)
    }

    /// Sets on `server` what its connections' sockets have.
    pub(crate) fn sockets<A, F>(&self, server: LineServer<A, F>) -> LineServer<A, F>
    where
        A: LineHandler,
        F: Fn(&Connection) -> A + Clone + Send + 'static,
    {
        let server = server.keepalive(self.keepalive());
        server.send_buffer(buffer(self.send_buffer)).receive_buffer(buffer(self.receive_buffer))
    }

    fn keepalive(&self) -> Option<Duration> {
        self.keepalive.map_or(Some(LineServer::DEFAULT_KEEPALIVE), |time| time.on().map(|time| time.0))
    }

    fn max_line(&self) -> usize {
        self.max_line.map_or(Framing::DEFAULT_MAX_LINE, |bytes| bytes.0)
    }

    fn overlong(&self) -> Overlong {
        self.overlong.map(Overlong::from).unwrap_or_default()
    }

    pub(crate) fn framing(&self) -> Result<Framing, ConfigError> {
        Ok(Framing::lf().max_line(self.max_line())?.overlong(self.overlong()))
    }

    /// The limits, for as many sessions as there is room for.
    pub(crate) fn limits(&self, room: Option<usize>) -> Result<Limits, ConfigError> {
        let mut limits = Limits::exposed().to_builder();
        if let Some(sessions) = self.max_sessions.map(|sessions| sessions.0).or(room) {
            limits = limits.max_sessions(sessions);
        }
        if let Some(sessions) = self.max_sessions_per_source {
            limits = limits.max_sessions_per_source(sessions.on().map_or(usize::MAX, |sessions| sessions.0));
        }
        if let Some(SourcePrefixArg(prefix)) = self.source_prefix {
            limits = limits.source_prefix(prefix);
        }
        if let Some(rate) = self.accept_rate {
            limits = limits.accept_rate(rate.on().map(|rate| rate.0));
        }
        if let Some(rate) = self.accept_rate_per_source {
            limits = limits.accept_rate_per_source(rate.on().map(|rate| rate.0));
        }
        if let Some(policy) = self.over_limit {
            limits = limits.over_limit(policy.into());
        }
        if let Some(text) = &self.refuse_line {
            limits = limits.refuse_line(line(text));
        }
        let time = |limits: LimitsBuilder, time: Option<Switch<Time>>, set: fn(_, _) -> LimitsBuilder| match time {
            Some(time) => set(limits, time.on().map(|time| time.0)),
            None => limits,
        };
        limits = time(limits, self.idle_timeout, LimitsBuilder::idle_timeout);
        limits = time(limits, self.line_timeout, LimitsBuilder::line_timeout);
        limits = time(limits, self.write_timeout, LimitsBuilder::write_timeout);
        limits = time(limits, self.max_age, LimitsBuilder::max_age);
        if let Some(rate) = self.session_rate {
            limits = limits.session_rate(rate.on().map_or(RateLimit::default(), |rate| rate.0));
        }
        if let Some(Time(timeout)) = self.linger_timeout {
            limits = limits.linger_timeout(timeout);
        }
        if let Some(LingerBytes(bytes)) = self.linger_bytes {
            limits = limits.linger_bytes(bytes);
        }
        if !self.exempt.is_empty() {
            limits = limits.exempt(self.exempt.iter().filter_map(|prefix| Some(prefix.on()?.0)));
        }
        let default = Watermarks::default();
        let marks = Watermarks {
            low: self.write_low.map_or(default.low, |size| size.0),
            high: self.write_high.map_or(default.high, |size| size.0),
        };
        if let Some(budget) = self.memory_budget {
            limits = limits.memory_budget(budget.on().map(|size| size.0));
        }
        // Nothing is pushed here but a goodbye: no reason for a limit of its own.
        let outbox_limit = OutboxLimit { hard: OutboxLimit::default().hard.max(marks.high), ..OutboxLimit::default() };
        limits
            .outbox(marks)
            .outbox_limit(outbox_limit)
            .allow(self.allow.iter().copied())
            .deny(self.deny.iter().copied())
            .build()
    }

    pub(crate) fn drain(&self) -> actix_lines::Drain {
        actix_lines::Drain {
            deadline: self.drain_timeout.map_or(DRAIN_TIMEOUT, |time| time.0),
            goodbye: self.drain_goodbye.as_deref().map(line).unwrap_or_default().into(),
            spread: self.drain_spread.map_or(Duration::ZERO, |time| time.0),
        }
    }
}

/// The size of a socket's buffer; `None` leaves it to the kernel.
fn buffer(size: Option<Switch<SocketBuffer>>) -> Option<usize> {
    size.map_or(Some(LineServer::DEFAULT_SOCKET_BUFFER), |size| size.on().map(|size| size.0))
}

/// `text` as a line; nothing stays nothing.
fn line(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{text}\r\n") }
}

/// A value, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch<T> {
    Off,
    On(T),
}

impl<T> Switch<T> {
    fn on(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::On(value) => Some(value),
        }
    }
}

impl<T: FromStr<Err = String>> FromStr for Switch<T> {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::On).map_err(|error| format!("{error}, or off"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time(Duration);

impl FromStr for Time {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let time = humantime::parse_duration(text)
            .map_err(|_| format!("{text:?} is no time: write it as 500ms, 10s or 2h"))?;
        if time > LONGEST_TIME { Err(format!("{text} is too long: use at most 24 days")) } else { Ok(Self(time)) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(usize);

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let size = parse_size::parse_size(text).ok().and_then(|size| usize::try_from(size).ok());
        size.map(Self).ok_or_else(|| format!("{text:?} is no size: write it as 65536, 64KiB or 1MiB"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keepalive(Duration);

impl FromStr for Keepalive {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let range = Duration::from_secs(1)..=LONGEST_KEEPALIVE;
        let time = text.parse().ok().filter(|Time(time)| range.contains(time));
        time.map(|Time(time)| Self(time)).ok_or_else(|| format!("{text:?} is no keepalive time: use 1s to 9h"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketBuffer(usize);

impl FromStr for SocketBuffer {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let size = text.parse().ok().filter(|Size(bytes)| SOCKET_BUFFERS.contains(bytes));
        size.map(|Size(bytes)| Self(bytes)).ok_or_else(|| format!("{text:?} is no buffer size: use 4KiB to 1GiB"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LingerBytes(u32);

impl FromStr for LingerBytes {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let size = text.parse().ok().and_then(|Size(bytes)| u32::try_from(bytes).ok());
        size.map(Self).ok_or_else(|| format!("{text:?} is no size: use less than 4GiB, as 65536, 64KiB or 1MiB"))
    }
}

/// [`Prefix`], as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PrefixArg(Prefix);

impl FromStr for PrefixArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error: ConfigError| error.to_string())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MaxLine(usize);

impl FromStr for MaxLine {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let size = text.parse().ok().filter(|Size(bytes)| (1..=Framing::MAX_LINE_LIMIT).contains(bytes));
        size.map(|Size(bytes)| Self(bytes))
            .ok_or_else(|| format!("use 1 to {} bytes, as 16384 or 16KiB", Framing::MAX_LINE_LIMIT))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count(pub(crate) usize);

impl FromStr for Count {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        number(text, 1..=usize::MAX).map(Self)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Workers(usize);

impl FromStr for Workers {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        number(text, 1..=LineServer::MAX_WORKERS).map(Self)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backlog(pub(crate) u32);

impl FromStr for Backlog {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        number(text, 1..=i32::MAX as u32).map(Self)
    }
}

fn number<T: FromStr + PartialOrd + fmt::Display + Bounded>(
    text: &str,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| match range.end().is_max() {
        true => format!("{text} is not in {}..", range.start()),
        false => format!("{text} is not in {}..={}", range.start(), range.end()),
    })
}

/// Whether a number is the largest of its type: no bound that anybody has to be told of.
trait Bounded {
    fn is_max(&self) -> bool;
}

impl Bounded for usize {
    fn is_max(&self) -> bool {
        *self == Self::MAX
    }
}

impl Bounded for u32 {
    fn is_max(&self) -> bool {
        *self == Self::MAX
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateArg(Rate);

impl FromStr for RateArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let at_least_one = |text: &str| text.trim().parse().ok().filter(|number| *number > 0);
        let rate = match text.split_once('/') {
            Some((rate, burst)) => at_least_one(rate).zip(at_least_one(burst)),
            None => at_least_one(text).map(|rate| (rate, rate)),
        };
        rate.map(|(per_second, burst)| Self(Rate { per_second, burst }))
            .ok_or_else(|| format!("{text:?} is no rate: write it as 100, or 100/500 with a burst"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionRateArg(RateLimit);

impl FromStr for SessionRateArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let at_least_one = |text: &str| {
            let number = text.trim().parse().ok().and_then(|Size(number)| u32::try_from(number).ok());
            number.filter(|number| *number > 0)
        };
        let rate = |text: &str| match text.split_once('/') {
            Some((rate, burst)) => Some(Rate { per_second: at_least_one(rate)?, burst: at_least_one(burst)? }),
            None => at_least_one(text).map(Rate::per_second),
        };
        let mut limit = RateLimit::default();
        let understood = text.split(',').try_for_each(|part| {
            let (unit, number) = part.split_once('=')?;
            let place = match unit.trim() {
                "bytes" => &mut limit.bytes,
                "lines" => &mut limit.lines,
                _ => return None,
            };
            // Said twice, it is not clear which is meant.
            place.replace(rate(number)?).is_none().then_some(())
        });
        understood.map(|()| Self(limit)).ok_or_else(|| {
            format!("{text:?} are no rates: write them as bytes=64KiB,lines=100, or lines=100/500 with a burst")
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourcePrefixArg(SourcePrefix);

impl FromStr for SourcePrefixArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bits = |text: &str, most: u8| text.trim().parse().ok().filter(|bits| *bits <= most);
        text.split_once(',')
            .and_then(|(v4, v6)| Some(Self(SourcePrefix { v4: bits(v4, 32)?, v6: bits(v6, 128)? })))
            .ok_or_else(|| format!("{text:?} are no prefix lengths: write them as 32,64, at most 32,128"))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listen(String);

impl FromStr for Listen {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err("the port is missing: write ADDR:PORT, as 127.0.0.1:40713 or [::1]:40713".to_owned());
        };
        if host.is_empty() {
            return Err(format!(
                "the address is missing: write 0.0.0.0:{port} for all of IPv4, [::]:{port} for all of IPv6"
            ));
        }
        if host.contains(':') && !host.starts_with('[') {
            return Err(format!("an IPv6 address goes in brackets: write [{host}]:{port}"));
        }
        port.parse::<u16>().map_err(|_| format!("{port:?} is no port: use 0 to 65535"))?;
        Ok(Self(text.to_owned()))
    }
}

/// [`Overlong`], as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OverlongArg {
    /// Answer it in pieces: not a byte is lost or added.
    Pieces,
    /// Put a newline after every max-line bytes without one.
    Split,
    /// Answer its first max-line bytes and the newline, drop the rest.
    Truncate,
    /// Answer the lines before it, then close.
    Close,
}

impl FromStr for OverlongArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        <Self as ValueEnum>::from_str(text, false)
            .map_err(|_| format!("{text:?} is not pieces, split, truncate or close"))
    }
}

impl From<OverlongArg> for Overlong {
    fn from(policy: OverlongArg) -> Self {
        match policy {
            OverlongArg::Pieces => Self::Pieces,
            OverlongArg::Split => Self::Split,
            OverlongArg::Truncate => Self::Truncate,
            OverlongArg::Close => Self::Close,
        }
    }
}

/// [`OverLimit`], as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OverLimitArg {
    /// The backlog holds them.
    Wait,
    /// They are told so, and closed.
    Refuse,
}

impl FromStr for OverLimitArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        <Self as ValueEnum>::from_str(text, false).map_err(|_| format!("{text:?} is not wait or refuse"))
    }
}

impl From<OverLimitArg> for OverLimit {
    fn from(policy: OverLimitArg) -> Self {
        match policy {
            OverLimitArg::Wait => Self::Wait,
            OverLimitArg::Refuse => Self::Refuse,
        }
    }
}

/// A value of the file, understood as if it had been typed: a text or a number.
struct Typed<T>(T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Typed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TypedVisitor<T>(std::marker::PhantomData<T>);
        impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for TypedVisitor<T> {
            type Value = Typed<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a number, as for the flag of this name")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map(Typed).map_err(E::custom)
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Self::Value, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(TypedVisitor(std::marker::PhantomData))
    }
}

fn one<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Typed::deserialize(deserializer).map(|Typed(value)| Some(value))
}

/// A list, or one value.
fn many<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct ManyVisitor<T>(std::marker::PhantomData<T>);
    impl<'de, T: FromStr<Err: fmt::Display>> Visitor<'de> for ManyVisitor<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text, or a list of texts")
        }
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            text.parse().map(|value| vec![value]).map_err(E::custom)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Vec<T>, A::Error> {
            let values = Vec::<Typed<T>>::deserialize(SeqAccessDeserializer::new(list))?;
            Ok(values.into_iter().map(|Typed(value)| value).collect())
        }
    }
    deserializer.deserialize_any(ManyVisitor(std::marker::PhantomData))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        settings: Settings,
    }

    /// Each setting, a value that is neither its default nor another's, and one more.
    const EACH: [(&str, &str, &str); 31] = [
        ("listen", "[::1]:1", "127.0.0.1:2"),
        ("workers", "3", "4"),
        ("backlog", "5", "6"),
        ("keepalive", "45s", "off"),
        ("max-line", "7KiB", "8"),
        ("overlong", "split", "close"),
        ("max-sessions", "9", "10"),
        ("max-sessions-per-source", "11", "off"),
        ("source-prefix", "12,13", "14,15"),
        ("accept-rate", "16/17", "off"),
        ("accept-rate-per-source", "18", "19/20"),
        ("over-limit", "refuse", "wait"),
        ("refuse-line", "no room", ""),
        ("allow", "192.0.2.0/24", "2001:db8::/32"),
        ("deny", "192.0.2.21", "192.0.2.22"),
        ("exempt", "192.0.2.23", "off"),
        ("idle-timeout", "25s", "off"),
        ("line-timeout", "26m", "27h"),
        ("write-timeout", "28s", "off"),
        ("max-age", "29s", "30s"),
        ("linger-timeout", "31s", "32ms"),
        ("linger-bytes", "46KiB", "0"),
        ("session-rate", "bytes=42KiB/43KiB,lines=44", "off"),
        ("drain-timeout", "33s", "34s"),
        ("drain-spread", "35s", "36s"),
        ("drain-goodbye", "bye", ""),
        ("write-high", "37KiB", "38MiB"),
        ("write-low", "39", "40"),
        ("memory-budget", "41MiB", "off"),
        ("send-buffer", "47KiB", "off"),
        ("receive-buffer", "48KiB", "off"),
    ];

    fn first() -> impl Iterator<Item = (&'static str, &'static str)> {
        EACH.into_iter().map(|(name, value, _)| (name, value))
    }

    fn typed<'a>(settings: impl IntoIterator<Item = (&'a str, &'a str)>) -> Settings {
        let flags = settings.into_iter().map(|(name, value)| format!("--{name}={value}"));
        Typed::try_parse_from(std::iter::once("rot13d".to_owned()).chain(flags)).unwrap().settings
    }

    fn in_file<'a>(settings: impl IntoIterator<Item = (&'a str, &'a str)>) -> Settings {
        let lines: String = settings.into_iter().map(|(name, value)| format!("{name} = {value:?}\n")).collect();
        toml::from_str(&lines).unwrap()
    }

    /// All that settings come to.
    fn meant(settings: &Settings) -> (Limits, Framing, String, Vec<&str>, usize, u32) {
        let (limits, framing) = (settings.limits(None).unwrap(), settings.framing().unwrap());
        let drain = format!("{:?}", settings.drain());
        (limits, framing, drain, settings.listen(), settings.workers(), settings.backlog())
    }

    #[test]
    fn a_setting_is_the_same_typed_and_in_the_file() {
        let names: Vec<_> = first().map(|(name, _)| name).collect();
        assert_eq!(names, Settings::names());
        for (name, value, other) in EACH {
            for setting in [(name, value), (name, other)] {
                assert_eq!(typed([setting]), in_file([setting]), "{setting:?}");
                assert_ne!(typed([setting]), Settings::default(), "{setting:?}");
            }
        }
        let numbers = "workers = 3\nmax-line = 7168\naccept-rate = 16\ndeny = [\"192.0.2.1\", \"192.0.2.2\"]\n";
        let same = [
            ("workers", "3"),
            ("max-line", "7KiB"),
            ("accept-rate", "16/16"),
            ("deny", "192.0.2.1"),
            ("deny", "192.0.2.2"),
        ];
        assert_eq!(toml::from_str::<Settings>(numbers).unwrap(), typed(same));
    }

    #[test]
    fn what_is_typed_overrules_the_file_setting_by_setting() {
        let all = typed(first());
        assert_eq!(all.clone().or(in_file(EACH.map(|(name, _, other)| (name, other)))), all);
        for setting in first() {
            assert_eq!(typed([setting]).or(Settings::default()), typed([setting]));
            assert_eq!(Settings::default().or(in_file([setting])), in_file([setting]));
        }
    }

    #[test]
    fn each_setting_arrives_where_it_is_meant_to() {
        let (seconds, minutes) = (Duration::from_secs, |minutes: u64| Duration::from_secs(60 * minutes));
        let prefixes = |text: &str| [text.parse::<Prefix>().unwrap()];
        let limits = Limits::builder()
            .max_sessions(9)
            .max_sessions_per_source(11)
            .source_prefix(SourcePrefix { v4: 12, v6: 13 })
            .accept_rate(Some(Rate { per_second: 16, burst: 17 }))
            .accept_rate_per_source(Some(Rate::per_second(18)))
            .over_limit(OverLimit::Refuse)
            .refuse_line("no room\r\n")
            .allow(prefixes("192.0.2.0/24"))
            .deny(prefixes("192.0.2.21"))
            .exempt(prefixes("192.0.2.23"))
            .idle_timeout(Some(seconds(25)))
            .line_timeout(Some(minutes(26)))
            .write_timeout(Some(seconds(28)))
            .max_age(Some(seconds(29)))
            .linger_timeout(seconds(31))
            .session_rate(RateLimit {
                bytes: Some(Rate { per_second: 42 * 1024, burst: 43 * 1024 }),
                lines: Some(Rate::per_second(44)),
            })
            .outbox(Watermarks { low: 39, high: 37 * 1024 })
            .linger_bytes(46 * 1024)
            .memory_budget(Some(41 * 1024 * 1024))
            .build()
            .unwrap();
        let framing = Framing::lf().max_line(7 * 1024).unwrap().overlong(Overlong::Split);
        let drain = actix_lines::Drain { deadline: seconds(33), goodbye: "bye\r\n".into(), spread: seconds(35) };
        let all = typed(first());
        assert_eq!(meant(&all), (limits, framing, format!("{drain:?}"), vec!["[::1]:1"], 3, 5));
        let off = ["idle-timeout", "line-timeout", "write-timeout", "max-age"].map(|name| (name, "off"));
        let limits =
            Limits::exposed().to_builder().idle_timeout(None).line_timeout(None).write_timeout(None).build().unwrap();
        assert_eq!(typed(off).limits(None), Ok(limits));
    }

    #[test]
    fn rates_of_a_session_say_what_they_count() {
        let limit = |bytes, lines| Ok(SessionRateArg(RateLimit { bytes, lines }));
        let burst = Some(Rate { per_second: 5, burst: 60 });
        assert_eq!("lines=5/60".parse(), limit(None, burst));
        assert_eq!("lines=5, bytes = 1KiB".parse(), limit(Some(Rate::per_second(1024)), Some(Rate::per_second(5))));
        for text in ["", "5", "lines", "lines=0", "lines=5/0", "words=5", "lines=5,lines=6", "bytes=4GiB", "lines=5,"] {
            let error = text.parse::<SessionRateArg>().unwrap_err();
            assert!(error.contains("bytes=64KiB,lines=100"), "{text}: {error}");
        }
    }

    #[test]
    fn without_a_limit_of_sessions_there_are_as_many_as_there_is_room_for() {
        let room = Limits::exposed().to_builder().max_sessions(42).build();
        assert_eq!(Settings::default().limits(Some(42)), room);
        assert_eq!(typed([("max-sessions", "42")]).limits(Some(7)), room, "who asks for more is warned");
    }

    #[test]
    fn the_defaults_that_help_and_example_name_are_those_in_force() {
        let of_the_machine = ["workers", "max-sessions"];
        let flags = Settings::augment_args(Command::new("settings"));
        let help: Vec<_> = flags
            .get_arguments()
            .filter_map(|flag| Some((flag.get_long()?.to_owned(), flag.get_help()?.to_string())))
            .filter_map(|(name, help)| Some((name, help.split_once("[default: ")?.1.trim_end_matches(']').to_owned())))
            .filter(|(name, default)| {
                !of_the_machine.contains(&&**name) && !["no limit", "everybody", "nothing"].contains(&&**default)
            })
            .collect();
        assert_eq!(help.len(), 25, "{help:#?}");
        let help = typed(help.iter().map(|(name, value)| (&**name, &**value)));
        assert_eq!(meant(&help), meant(&Settings::default()));

        let example = include_str!("../docs/rot13d.toml").lines();
        let keys: String = example
            .filter_map(|line| line.strip_prefix('#').filter(|key| key.contains(" = ") && !key.starts_with(' ')))
            .filter(|line| !of_the_machine.iter().any(|name| line.starts_with(&format!("{name} ="))))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(keys.lines().count(), EACH.len() - of_the_machine.len());
        assert_eq!(meant(&toml::from_str(&keys).unwrap()), meant(&Settings::default()));
    }
}
