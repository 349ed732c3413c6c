//! Settings: every flag that is also a key of the configuration file.
//!
//! Rule: a setting is written once, below: its name as flag and key, its unit, default, help, and the time at which a
//! change in the file takes effect. `--help`, the tables of `docs/operating.md` and `docs/rot13d.toml` are made of
//! that. A value means the same as a flag and in the file; a flag overrules the file, and the file overrules the
//! default.
//!
//! To add a setting:
//! 1. write its field with its [`About`] into the list, beside those of its group; if none of the types in `value` has its
//!    form, add one there;
//! 2. use the field in `meaning`;
//! 3. give it two values in `EACH` of the tests below, and a line in `each_setting_arrives_where_it_is_meant_to`;
//! 4. `ROT13D_BLESS=1 cargo test -p rot13d --bin rot13d` writes it into the documentation.
//!
//! A table of settings within the file is one more struct made by `settings!`, in a file of its own, as `listener`.
//! Not here: turning the list into flags, keys and values (`setting`), the forms of values (`value`), the library's
//! limits made of them (`meaning`), the documentation (`tables`), reading the file (`config`).

mod listener;
#[cfg(any(test, feature = "dist"))]
pub(crate) mod listing;
mod meaning;
pub(crate) mod places;
mod setting;
mod value;

#[cfg(test)]
mod tables;

use actix_lines::{
    Framing, LineServer, ListenAddress, Overlong, Peers, SourcePrefix,
    limits::{OverLimit, Rate, RateLimit},
};

#[cfg(feature = "tls")]
pub(crate) use self::value::{PemFile, TlsVersion};
pub(crate) use self::{
    listener::{Listener, ListenerSettings, OwnLimits, PairSettings, Tls, TlsSettings, is_of_listeners},
    meaning::{ConsoleAddress, ConsoleSettings, Http, Unusable},
    setting::{Given, Invalid, Reload, Setting},
    value::{Auto, LogFormat, Requirement},
};
use self::{
    setting::About,
    value::{Amount, Budget, FilePath, Folder, HostName, Keepalive, Number, Pause, Size, SocketBuffer, Timeout},
};

/// A number of sessions.
type Count = Number<1, { usize::MAX }>;

const SERVER: &str = "Server";
const LINES: &str = "Lines";
const ADMISSION: &str = "Admission";
const TIMES: &str = "Times, as 500ms, 10s, 2h";
const RATES: &str = "Rates";
const MEMORY: &str = "Memory, as 65536, 64KiB, 1MiB";
const DRAIN: &str = "Drain";
const RECORD: &str = "Recording";
const CONSOLE: &str = "Console";
const HTTP: &str = "HTTP";

setting::settings! {
    /// The settings of a server that can be started with them.
    pub(crate) struct Settings {
        listen: Vec<ListenAddress> = About {
            name: "listen",
            value: "ADDRESS",
            unit: "",
            default: &["127.0.0.1:40713"],
            group: SERVER,
            reload: Reload::NewConnections,
            help: "Address to listen on; repeatable",
            advice: "`0.0.0.0:40713` is every IPv4 address, `[::]:40713` every IPv6 address, and every IPv4 address too \
                     unless an IPv4 address, even `127.0.0.1`, has the same port. Port 0 takes a free port, which the log names. A unix socket is open to this user alone",
        },
        workers: Auto<Number<1, { LineServer::MAX_WORKERS }>> = About {
            name: "workers",
            value: "N",
            unit: "threads",
            default: &["auto"],
            group: SERVER,
            reload: Reload::Restart,
            help: "Threads that run sessions; `auto` is one for each core",
            advice: "Fewer threads leave cores to other programs; 1 costs the least for each connection",
        },
        backlog: Number<1, { i32::MAX as usize }> = About {
            name: "backlog",
            value: "N",
            unit: "connections",
            default: &["4096"],
            group: SERVER,
            reload: Reload::Restart,
            help: "Connections that the kernel holds for each listener until they are accepted",
            advice: "The kernel caps it at `net.core.somaxconn`",
        },
        keepalive: Option<Keepalive> = About {
            name: "keepalive",
            value: "TIME",
            unit: "",
            default: &["5m"],
            group: SERVER,
            reload: Reload::Restart,
            help: "Silence after which the kernel probes whether a peer is still there",
            advice: "A shorter time finds vanished peers sooner; `off` leaves them to the idle timeout",
        },
        keepalive_interval: Auto<Keepalive> = About {
            name: "keepalive-interval",
            value: "TIME",
            unit: "",
            default: &["auto"],
            group: SERVER,
            reload: Reload::Restart,
            help: "Time from one of these probes to the next; `auto` is a sixth of `--keepalive`",
            advice: "A longer time sends fewer probes to peers that do not answer",
        },
        keepalive_count: Number<1, 127> = About {
            name: "keepalive-count",
            value: "N",
            unit: "probes",
            default: &["6"],
            group: SERVER,
            reload: Reload::Restart,
            help: "Probes without an answer after which a connection is lost",
            advice: "With the default interval a vanished peer is found after twice `--keepalive`",
        },
        user_timeout: Auto<Option<Timeout>> = About {
            name: "user-timeout",
            value: "TIME",
            unit: "",
            default: &["auto"],
            group: SERVER,
            reload: Reload::Restart,
            help: "Longest time that output may stay unacknowledged; `auto` is as long as keepalive takes to find a peer",
            advice: "`off` leaves it to the kernel, some 15 minutes. A time shorter than keepalive takes cuts its probes short",
        },
        log_format: LogFormat = About {
            name: "log-format",
            value: "FORMAT",
            unit: "",
            default: &["text"],
            group: SERVER,
            reload: Reload::AtOnce,
            help: "Form of an event in the log",
            advice: "Use `json` where a program reads the log; operating.md has the fields",
        },
        measure_answers: bool = About {
            name: "measure-answers",
            value: "BOOL",
            unit: "",
            default: &["false"],
            group: SERVER,
            reload: Reload::Restart,
            help: "Measures how long peers wait for answers, for the metrics and the page",
            advice: "It reads the clock twice for each read of a session; monitoring.md says what for",
        },

        max_line: Size<1, { Framing::MAX_LINE_LIMIT as u64 }> = About {
            name: "max-line",
            value: "SIZE",
            unit: "bytes",
            default: &["16KiB"],
            group: LINES,
            reload: Reload::Restart,
            help: "Longest line, in bytes without its newline",
            advice: "Each session may hold this much memory for an incomplete line",
        },
        overlong: Overlong = About {
            name: "overlong",
            value: "POLICY",
            unit: "",
            default: &["pieces"],
            group: LINES,
            reload: Reload::Restart,
            help: "Treatment of a longer line",
            advice: "Only `pieces` is exact; D1 in semantics.md says what the others add or drop",
        },

        max_sessions: Auto<Count> = About {
            name: "max-sessions",
            value: "N",
            unit: "sessions",
            default: &["auto"],
            group: ADMISSION,
            reload: Reload::NewConnections,
            help: "Most sessions at once; `auto` is what the descriptor limit allows",
            advice: "A lower number bounds the memory; `--over-limit` sets the treatment of connections over it",
        },
        max_sessions_per_source: Option<Count> = About {
            name: "max-sessions-per-source",
            value: "N",
            unit: "sessions",
            default: &["100"],
            group: ADMISSION,
            reload: Reload::NewConnections,
            help: "Most sessions of one source at once; a connection over it is refused",
            advice: "A higher number or `off` serves many users behind one address, such as a proxy or a NAT; \
                     operating.md has the cost of one host",
        },
        source_prefix: SourcePrefix = About {
            name: "source-prefix",
            value: "V4,V6",
            unit: "bits",
            default: &["32,64"],
            group: ADMISSION,
            reload: Reload::AtOnce,
            help: "Leading bits of an IPv4 and of an IPv6 address that make a source; of a unix socket it is the user",
            advice: "Fewer bits count the many addresses of one attacker as one source",
        },
        accept_rate: Option<Rate> = About {
            name: "accept-rate",
            value: "N[/BURST]",
            unit: "connections a second",
            default: &["off"],
            group: ADMISSION,
            reload: Reload::NewConnections,
            help: "Most connections that become sessions each second; a burst is allowed after a rest",
            advice: "Use it where an accept storm would starve the sessions",
        },
        accept_rate_per_source: Option<Rate> = About {
            name: "accept-rate-per-source",
            value: "N[/BURST]",
            unit: "connections a second",
            default: &["off"],
            group: ADMISSION,
            reload: Reload::NewConnections,
            help: "Most connections of one source that become sessions each second; a connection over it is refused",
            advice: "Use it against peers that connect again and again",
        },
        over_limit: OverLimit = About {
            name: "over-limit",
            value: "POLICY",
            unit: "",
            default: &["refuse"],
            group: ADMISSION,
            reload: Reload::NewConnections,
            help: "Treatment of connections over `--max-sessions` or `--accept-rate`",
            advice: "`wait` lets a short peak pass unnoticed, but tells nothing to a peer that waits in the backlog",
        },
        refuse_line: String = About {
            name: "refuse-line",
            value: "TEXT",
            unit: "at most 1022 bytes",
            default: &["too many connections, try again later"],
            group: ADMISSION,
            reload: Reload::NewConnections,
            help: "Line that a refused connection is sent; an empty one sends nothing",
            advice: "Change it for peers of another protocol. A newline is added",
        },
        allow: Option<Vec<Peers>> = About {
            name: "allow",
            value: "PEERS",
            unit: "",
            default: &["off"],
            group: ADMISSION,
            reload: Reload::AtOnce,
            help: "Peers that may connect; repeatable; `off` allows all",
            advice: "All others are closed without a reply: networks alone keep out unix sockets, unless `unix` stands beside them. `0.0.0.0/0` is all of IPv4, `::/0` all of IPv6 and nothing of IPv4; \
                     `::ffff:10.0.0.0/104` is `10.0.0.0/8`",
        },
        deny: Option<Vec<Peers>> = About {
            name: "deny",
            value: "PEERS",
            unit: "",
            default: &["off"],
            group: ADMISSION,
            reload: Reload::AtOnce,
            help: "Peers that may not connect, even if `--allow` has them; repeatable",
            advice: "They are closed without a reply, also those that have a session when SIGHUP adds them",
        },
        exempt: Option<Vec<Peers>> = About {
            name: "exempt",
            value: "PEERS",
            unit: "",
            default: &["127.0.0.0/8", "::1", "unix"],
            group: ADMISSION,
            reload: Reload::AtOnce,
            help: "Peers exempt from the limits of a source; repeatable; replaces the default",
            advice: "Use it for the one address of many users, or for a health check",
        },

        max_prefaces: Count = About {
            name: "max-prefaces",
            value: "N",
            unit: "connections",
            default: &["1024"],
            group: ADMISSION,
            reload: Reload::NewConnections,
            help: "Most connections of a worker that wait for their peers in a handshake",
            advice: "With one more the oldest of the source that has the most is closed, so that a flood of silent connections \
                     keeps nobody out",
        },

        idle_timeout: Option<Timeout> = About {
            name: "idle-timeout",
            value: "TIME",
            unit: "",
            default: &["10m"],
            group: TIMES,
            reload: Reload::AtOnce,
            help: "Longest time from one line to the beginning of the next",
            advice: "A longer time or `off` suits peers that listen and seldom send: output to them does not count",
        },
        line_timeout: Option<Timeout> = About {
            name: "line-timeout",
            value: "TIME",
            unit: "",
            default: &["1m"],
            group: TIMES,
            reload: Reload::AtOnce,
            help: "Longest time from a line's first byte to its newline",
            advice: "A shorter time suits a hostile network: it ends sessions that send a byte now and then",
        },
        write_timeout: Option<Timeout> = About {
            name: "write-timeout",
            value: "TIME",
            unit: "",
            default: &["1m"],
            group: TIMES,
            reload: Reload::AtOnce,
            help: "Longest time that a peer with output waiting may acknowledge nothing",
            advice: "A shorter time frees the memory of dead peers sooner; a peer that reads slowly makes progress \
                     and stays",
        },
        max_age: Option<Timeout> = About {
            name: "max-age",
            value: "TIME",
            unit: "",
            default: &["off"],
            group: TIMES,
            reload: Reload::AtOnce,
            help: "Age at which a session drains",
            advice: "Use it behind a load balancer, so that it spreads its peers again from time to time",
        },
        preface_timeout: Timeout = About {
            name: "preface-timeout",
            value: "TIME",
            unit: "",
            default: &["10s"],
            group: TIMES,
            reload: Reload::AtOnce,
            help: "Longest time from the accept to the end of the handshakes that a listener asks for",
            advice: "It is for listeners with TLS or `proxy`. A shorter time bounds what silent connections cost",
        },
        linger_timeout: Pause = About {
            name: "linger-timeout",
            value: "TIME",
            unit: "",
            default: &["5s"],
            group: TIMES,
            reload: Reload::AtOnce,
            help: "Longest wait for the peer's close after ours",
            advice: "The last answers arrive meanwhile; `0s` may lose them",
        },

        session_rate: Option<RateLimit> = About {
            name: "session-rate",
            value: "RATES",
            unit: "bytes and lines a second",
            default: &["off"],
            group: RATES,
            reload: Reload::AtOnce,
            help: "Most bytes and lines read from each session each second",
            advice: "Use it against peers that send without a pause. Nothing is lost: the peer is read later. The \
                     number after the slash is the burst; a small one does not lower the rate",
        },

        outbox_high: Amount<0> = About {
            name: "outbox-high",
            value: "SIZE",
            unit: "bytes",
            default: &["64KiB"],
            group: MEMORY,
            reload: Reload::AtOnce,
            help: "Output waiting for a peer above which its session stops reading",
            advice: "A session whose peer does not read holds this much and the answer to one read (64 KiB)",
        },
        outbox_low: Amount<0> = About {
            name: "outbox-low",
            value: "SIZE",
            unit: "bytes",
            default: &["16KiB"],
            group: MEMORY,
            reload: Reload::AtOnce,
            help: "Output waiting for a peer at or below which its session reads again",
            advice: "It has to be less than `--outbox-high`",
        },
        memory_budget: Option<Budget> = About {
            name: "memory-budget",
            value: "SIZE",
            unit: "bytes",
            default: &["256MiB"],
            group: MEMORY,
            reload: Reload::AtOnce,
            help: "Most bytes in the buffers of all sessions",
            advice: "Above it the source that holds the most loses its largest session, and so on",
        },
        send_buffer: Option<SocketBuffer> = About {
            name: "send-buffer",
            value: "SIZE",
            unit: "bytes",
            default: &["256KiB"],
            group: MEMORY,
            reload: Reload::Restart,
            help: "Output of a session that the kernel may hold; `off` lets the kernel choose, up to megabytes",
            advice: "A larger buffer or `off` suits distant peers that are sent much: each gets at most one buffer in \
                     a round trip. The kernel caps it at twice `net.core.wmem_max`",
        },
        receive_buffer: Option<SocketBuffer> = About {
            name: "receive-buffer",
            value: "SIZE",
            unit: "bytes",
            default: &["256KiB"],
            group: MEMORY,
            reload: Reload::Restart,
            help: "Input of a session that the kernel may hold; `off` lets the kernel choose, up to megabytes",
            advice: "A larger buffer or `off` suits distant peers that send much. The kernel caps it at twice \
                     `net.core.rmem_max`",
        },
        linger_bytes: Amount<0> = About {
            name: "linger-bytes",
            value: "SIZE",
            unit: "bytes",
            default: &["1MiB"],
            group: MEMORY,
            reload: Reload::AtOnce,
            help: "Most bytes read and discarded after our close; then the peer is reset",
            advice: "The reset tells a peer that keeps sending that nobody reads",
        },

        drain_timeout: Pause = About {
            name: "drain-timeout",
            value: "TIME",
            unit: "",
            default: &["10s"],
            group: DRAIN,
            reload: Reload::AtOnce,
            help: "Time that sessions have to end by themselves after SIGINT or SIGTERM",
            advice: "Sessions that are left then are aborted",
        },
        drain_spread: Pause = About {
            name: "drain-spread",
            value: "TIME",
            unit: "",
            default: &["0s"],
            group: DRAIN,
            reload: Reload::AtOnce,
            help: "Time over which sessions are told to end, one after the other",
            advice: "Use it with many peers that reconnect elsewhere. At most half of `--drain-timeout` counts",
        },
        drain_goodbye: String = About {
            name: "drain-goodbye",
            value: "TEXT",
            unit: "",
            default: &[""],
            group: DRAIN,
            reload: Reload::AtOnce,
            help: "Line that each session is sent before it ends in a drain; an empty one sends nothing",
            advice: "It comes after the last answer. A newline is added",
        },

        record: Option<Folder> = About {
            name: "record",
            value: "DIR",
            unit: "",
            default: &["off"],
            group: RECORD,
            reload: Reload::Restart,
            help: "Folder for recordings of sessions, each a script that linescript runs again",
            advice: "Use it to find out what peers do. It stores everything that they say, passwords too; files are for \
                     this user only. The folder is made if it is not there",
        },
        record_session: Amount<1024> = About {
            name: "record-session",
            value: "SIZE",
            unit: "bytes",
            default: &["64KiB"],
            group: RECORD,
            reload: Reload::NewConnections,
            help: "Longest recording of one session; a longer one is cut, and says so",
            advice: "The session itself goes on, and costs nothing more from there on",
        },
        record_files: Count = About {
            name: "record-files",
            value: "N",
            unit: "files",
            default: &["1000"],
            group: RECORD,
            reload: Reload::AtOnce,
            help: "Most recordings in the folder; the oldest are removed, those of earlier processes too",
            advice: "Copy what you want to keep",
        },
        record_total: Budget = About {
            name: "record-total",
            value: "SIZE",
            unit: "bytes",
            default: &["64MiB"],
            group: RECORD,
            reload: Reload::AtOnce,
            help: "Most bytes of all recordings together; the oldest are removed",
            advice: "It bounds the disk that recordings take, whatever the number of files",
        },

        console: Auto<Option<ListenAddress>> = About {
            name: "console",
            value: "ADDRESS",
            unit: "",
            default: &["auto"],
            group: CONSOLE,
            reload: Reload::Restart,
            help: "Address of the console, by which `rot13d ctl` shows sessions and steers the server; `auto` is a unix socket \
                   in the runtime directory",
            advice: "A unix socket is for its user alone. An IP address is this machine's own, or needs `--console-token`",
        },
        console_token: Option<FilePath> = About {
            name: "console-token",
            value: "FILE",
            unit: "",
            default: &["off"],
            group: CONSOLE,
            reload: Reload::Restart,
            help: "File with the secret that consoles have to send first",
            advice: "Make it long and random, as `openssl rand -hex 32` does, and `chmod 600` the file",
        },
        console_trace: bool = About {
            name: "console-trace",
            value: "BOOL",
            unit: "",
            default: &["false"],
            group: CONSOLE,
            reload: Reload::Restart,
            help: "Allows the console's `trace`, which shows what a session says and is told",
            advice: "Everything that peers say can be seen then, passwords too; each use is logged",
        },

        http: Option<ListenAddress> = About {
            name: "http",
            value: "ADDRESS",
            unit: "",
            default: &["off"],
            group: HTTP,
            reload: Reload::Restart,
            help: "Address of the live page, the metrics and the probes, by HTTP",
            advice: "Use `127.0.0.1:9713`, or a unix socket behind a proxy that asks for a password: whoever reaches it sees \
                     all counters, and the addresses of all peers",
        },
        http_control: Option<FilePath> = About {
            name: "http-control",
            value: "FILE",
            unit: "",
            default: &["off"],
            group: HTTP,
            reload: Reload::Restart,
            help: "File with the token by which the page, or another program, may end sessions, pause listeners and drain",
            advice: "Make one by `openssl rand -hex 32`, with mode 600. It takes `--http` at a loopback address or a unix socket, \
                     since the token is sent in clear",
        },
        http_host: Option<Vec<HostName>> = About {
            name: "http-host",
            value: "NAME",
            unit: "",
            default: &["off"],
            group: HTTP,
            reload: Reload::Restart,
            help: "Name of this machine, or of a proxy before it, by which browsers reach `--http`; repeatable",
            advice: "At a loopback address, and wherever one is set, other names than these and `localhost` are refused: web \
                     pages could bend them to this machine",
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use actix_lines::{
        control::Drain,
        limits::{Limits, Watermarks},
        record::RecordLimits,
    };
    use clap::Parser;

    use super::{value::Time, *};

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        settings: Given,
    }

    /// Each setting, a value that is neither its default nor another's, and one more.
    const EACH: [(&str, &str, &str); 48] = [
        ("listen", "[::1]:1", "127.0.0.1:2"),
        ("workers", "3", "4"),
        ("backlog", "5", "6"),
        ("keepalive", "45s", "off"),
        ("keepalive-interval", "46s", "47s"),
        ("keepalive-count", "48", "49"),
        ("user-timeout", "56s", "off"),
        ("log-format", "json", "json"),
        ("measure-answers", "true", "false"),
        ("max-line", "7KiB", "8"),
        ("overlong", "split", "close"),
        ("max-sessions", "9", "10"),
        ("max-sessions-per-source", "11", "off"),
        ("source-prefix", "12,13", "14,15"),
        ("accept-rate", "16/17", "18"),
        ("accept-rate-per-source", "18", "19/20"),
        ("over-limit", "wait", "wait"),
        ("refuse-line", "no room", ""),
        ("allow", "192.0.2.0/24", "2001:db8::/32"),
        ("deny", "192.0.2.21", "192.0.2.22"),
        ("exempt", "192.0.2.23", "off"),
        ("max-prefaces", "24", "25"),
        ("idle-timeout", "25s", "off"),
        ("line-timeout", "26m", "27h"),
        ("write-timeout", "28s", "off"),
        ("max-age", "29s", "30s"),
        ("preface-timeout", "49s", "50s"),
        ("linger-timeout", "31s", "32ms"),
        ("session-rate", "bytes=42KiB/43KiB,lines=44", "lines=45"),
        ("outbox-high", "37KiB", "38MiB"),
        ("outbox-low", "39", "40"),
        ("memory-budget", "41MiB", "off"),
        ("send-buffer", "47KiB", "off"),
        ("receive-buffer", "48KiB", "off"),
        ("linger-bytes", "46KiB", "0"),
        ("drain-timeout", "33s", "34s"),
        ("drain-spread", "35s", "36s"),
        ("drain-goodbye", "bye", "see you"),
        ("record", "recordings", "/var/lib/recordings"),
        ("record-session", "50KiB", "51KiB"),
        ("record-files", "52", "53"),
        ("record-total", "54MiB", "55MiB"),
        ("console", "127.0.0.1:57", "off"),
        ("console-token", "token", "/etc/rot13d/token"),
        ("console-trace", "true", "false"),
        ("http", "127.0.0.1:58", "unix:/run/http.sock"),
        ("http-control", "secret", "/etc/secret"),
        ("http-host", "lines.example", "other.example"),
    ];

    fn first() -> impl Iterator<Item = (&'static str, &'static str)> {
        EACH.into_iter().map(|(name, value, _)| (name, value))
    }

    fn typed<'a>(settings: impl IntoIterator<Item = (&'a str, &'a str)>) -> Given {
        let flags = settings.into_iter().map(|(name, value)| format!("--{name}={value}"));
        Typed::try_parse_from(std::iter::once("rot13d".to_owned()).chain(flags)).unwrap().settings
    }

    fn in_file<'a>(settings: impl IntoIterator<Item = (&'a str, &'a str)>) -> Given {
        let lines: String = settings.into_iter().map(|(name, value)| format!("{name} = {value:?}\n")).collect();
        crate::config::given(&lines).unwrap()
    }

    fn meant(given: &Given) -> Settings {
        Settings::new(given).unwrap()
    }

    fn default() -> Settings {
        meant(&Given::default())
    }

    #[test]
    fn a_setting_is_the_same_typed_and_in_the_file() {
        let names: Vec<_> = first().map(|(name, _)| name).collect();
        assert_eq!(names, Settings::ALL.iter().map(|setting| setting.about.name).collect::<Vec<_>>());
        // Some are an error by themselves.
        let needed = |name: &str| name.starts_with("http-").then_some(("http", "127.0.0.1:59"));
        for (name, value, other) in EACH {
            let without = meant(&typed(needed(name)));
            for setting in [(name, value), (name, other)] {
                let settings = || needed(name).into_iter().chain([setting]);
                assert_eq!(meant(&typed(settings())), meant(&in_file(settings())), "{setting:?}");
                // A switch has no third value.
                assert!(meant(&typed(settings())) != without || setting.1 == "false", "{setting:?}");
            }
        }
        let numbers =
            "workers = 3\nmax-line = 7_168\nbacklog = 0x10\naccept-rate = 16\ndeny = [\"192.0.2.1\", \"192.0.2.2\"]\n";
        let same = [
            ("workers", "3"),
            ("max-line", "7KiB"),
            ("backlog", "16"),
            ("accept-rate", "16/16"),
            ("deny", "192.0.2.1"),
            ("deny", "192.0.2.2"),
        ];
        assert_eq!(meant(&crate::config::given(numbers).unwrap()), meant(&typed(same)));
    }

    #[test]
    fn what_is_typed_overrules_the_file_setting_by_setting() {
        let all = typed(first());
        assert_eq!(all.clone().or(&in_file(EACH.map(|(name, _, other)| (name, other)))), all);
        for setting in first() {
            assert_eq!(typed([setting]).or(&Given::default()), typed([setting]));
            assert_eq!(Given::default().or(&in_file([setting])), in_file([setting]));
        }
        let lists = in_file([("allow", "192.0.2.0/24"), ("deny", "192.0.2.7")]);
        assert_eq!(meant(&typed([("allow", "off"), ("deny", "off")]).or(&lists)), default());
    }

    #[test]
    fn each_setting_arrives_where_it_is_meant_to() {
        let (seconds, minutes) = (Duration::from_secs, |minutes: u64| Duration::from_secs(60 * minutes));
        let prefixes = |text: &str| [text.parse::<Peers>().unwrap()];
        let limits = Limits::builder()
            .max_sessions(9)
            .max_sessions_per_source(11)
            .source_prefix(SourcePrefix { v4: 12, v6: 13 })
            .accept_rate(Some(Rate { per_second: 16, burst: 17 }))
            .accept_rate_per_source(Some(Rate::per_second(18)))
            .over_limit(OverLimit::Wait)
            .refuse_line("no room\r\n")
            .allow(prefixes("192.0.2.0/24"))
            .deny(prefixes("192.0.2.21"))
            .exempt(prefixes("192.0.2.23"))
            .idle_timeout(Some(seconds(25)))
            .line_timeout(Some(minutes(26)))
            .write_timeout(Some(seconds(28)))
            .max_age(Some(seconds(29)))
            .preface_timeout(seconds(49))
            .max_prefaces(24)
            .linger_timeout(seconds(31))
            .session_rate(RateLimit {
                bytes: Some(Rate { per_second: 42 * 1024, burst: 43 * 1024 }),
                lines: Some(Rate::per_second(44)),
            })
            .outbox(Watermarks { low: 39, high: 37 * 1024 })
            .linger_bytes(46 * 1024)
            .memory_budget(Some(41 * 1024 * 1024))
            .build();
        let all = meant(&typed(first()));
        assert_eq!(all.limits(None), limits);
        assert_eq!(all.framing(), Framing::lf().max_line(7 * 1024).map(|framing| framing.overlong(Overlong::Split)));
        let drain = Drain { deadline: seconds(33), goodbye: "bye\r\n".into(), spread: seconds(35) };
        assert_eq!(format!("{:?}", all.drain()), format!("{drain:?}"));
        assert_eq!((all.addresses(), all.worker_threads()), (&["[::1]:1".parse().unwrap()][..], 3));
        let recording = RecordLimits::default().session_bytes(50 * 1024).files(52).total_bytes(54 * 1024 * 1024);
        assert_eq!((all.record_folder(), all.record_limits()), (Some(Path::new("recordings")), recording));
        assert_eq!((all.log_format, typed(first()).log_format()), (LogFormat::Json, LogFormat::Json));
        let console = all.console_settings();
        let address = ConsoleAddress::At("127.0.0.1:57".parse().unwrap());
        assert_eq!((console.address, console.token, console.may_trace), (address, Some("token".into()), true));
        let http = all.served_by_http().expect("an address");
        assert_eq!((http.address.to_string(), http.hosts), ("127.0.0.1:58".to_owned(), vec!["lines.example"]));
        assert_eq!(http.token_file, Some(Path::new("secret")));
        // What `sockets` sets has no way to be asked for.

        let off = ["idle-timeout", "line-timeout", "write-timeout", "max-age", "exempt"].map(|name| (name, "off"));
        let limits = Limits::exposed().to_builder().idle_timeout(None).line_timeout(None).write_timeout(None);
        assert_eq!(meant(&typed(off)).limits(None), limits.exempt([]).build());
    }

    #[cfg(feature = "console")]
    #[test]
    fn a_limit_is_written_in_the_console_as_in_the_settings() {
        use actix_lines::limits::LimitKey;

        // The library's own, which are no settings here, and the words for what it does not know.
        let own = ["wait-timeout", "outbox-hard", "outbox-policy", "outbox-soft"];
        let limits = default().limits(None).unwrap();
        for key in LimitKey::all().filter(|key| !own.contains(&key.name())) {
            let name = key.name();
            let setting = Settings::ALL.iter().find(|setting| setting.about.name == name).unwrap();
            let (_, value, other) = EACH.iter().find(|(each, ..)| *each == name).unwrap();
            let values = [
                *value,
                *other,
                setting.about.default[0],
                "off",
                "1",
                "0",
                "5",
                "1s",
                "1500ms",
                "10m",
                "64KiB",
                "soon",
                "",
                "1,2",
                "uid:1,unix",
            ];
            for text in values.into_iter().filter(|text| !["auto", "uid:1,unix"].contains(text) || name == "deny") {
                // A list has commas there.
                let texts: Vec<_> = if setting.is_list { text.split(',').collect() } else { vec![text] };
                let given = texts.iter().all(|text| setting.check(text).is_ok());
                let given = given.then(|| typed(texts.into_iter().map(|text| (name, text))));
                let settings = given.and_then(|given| Settings::new(&given).ok()?.limits(None).ok());
                let set = key.set(&limits, text).ok();
                // A number of sessions may be without a limit, for programs that know their descriptors.
                if (name, text) != ("max-sessions", "off") {
                    assert_eq!(set, settings, "{name} {text:?}");
                }
            }
        }
    }

    #[test]
    fn without_a_limit_of_sessions_there_are_as_many_as_there_is_room_for() {
        let room = Limits::exposed().to_builder().max_sessions(42).build();
        assert_eq!(default().limits(Some(42)), room);
        assert_eq!(meant(&typed([("max-sessions", "42")])).limits(Some(7)), room, "who asks for more is warned");
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        assert_eq!(default().limits(None), Ok(Limits::exposed()));
        assert_eq!(default().framing(), Ok(Framing::lf()));
        let Settings { backlog, keepalive, send_buffer, receive_buffer, .. } = default();
        assert_eq!(backlog, Number(LineServer::DEFAULT_BACKLOG as usize));
        assert_eq!(keepalive, Some(Time(LineServer::DEFAULT_KEEPALIVE)));
        assert_eq!(default().keepalive_count, Number(LineServer::DEFAULT_KEEPALIVE_COUNT as usize));
        assert_eq!([send_buffer, receive_buffer], [Some(Size(LineServer::DEFAULT_SOCKET_BUFFER)); 2]);
        assert_eq!((default().record_folder(), default().record_limits()), (None, RecordLimits::default()));
    }

    #[test]
    fn only_a_restart_changes_what_says_so() {
        let running = meant(&typed(first()));
        let changed = meant(&typed(EACH.map(|(name, _, other)| (name, other))));
        let restart = Settings::ALL.iter().filter(|setting| setting.about.reload == Reload::Restart);
        let restart: Vec<_> = restart.map(|setting| setting.about.name).collect();
        assert_eq!(running.fixed_that_differ(&changed), restart);
        let reloaded = changed.clone().with_fixed_of(&running);
        assert_eq!(running.fixed_that_differ(&reloaded), [""; 0]);
        assert_eq!(reloaded.limits(None), changed.limits(None));
        assert_eq!(reloaded.framing(), running.framing());
    }

    #[test]
    fn what_http_needs_is_asked_for() {
        let said = |settings: &[(&str, &str)]| Settings::new(&typed(settings.iter().copied())).unwrap_err().to_string();
        assert_eq!(
            said(&[("http-control", "f")]),
            "invalid http-control: it does nothing without http: set that as well"
        );
        assert_eq!(said(&[("http-host", "x")]), "invalid http-host: it does nothing without http: set that as well");
        let open = said(&[("http", "0.0.0.0:1"), ("http-control", "f")]);
        assert!(
            open.starts_with("invalid http-control: the token would go over the network in clear: use http"),
            "{open}"
        );
        for fine in ["[::1]:1", "unix:http.sock", "localhost:1", "[::ffff:127.0.0.1]:1"] {
            meant(&typed([("http", fine), ("http-control", "f")]));
        }
    }

    #[test]
    fn values_that_contradict_each_other_are_named() {
        let said = |settings: &[(&str, &str)]| Settings::new(&typed(settings.iter().copied())).unwrap_err().to_string();
        let exempt = said(&[("exempt", "off"), ("exempt", "192.0.2.0/24")]);
        assert_eq!(exempt, "invalid exempt: off stands beside other values: use either off or those");
        assert!(said(&[("outbox-low", "64KiB")]).contains("use a low one under the high one"));
        for address in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1"] {
            assert!(said(&[("console", address)]).contains("open to whoever reaches it"), "{address}");
        }
    }
}
