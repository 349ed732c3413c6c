//! Tests of the settings: each flag and key, its default, and where it arrives.

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
const EACH: [(&str, &str, &str); 65] = [
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
    ("drain-delay", "62s", "63s"),
    ("agent-check", "127.0.0.1:64", "unix:/run/agent.sock"),
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
    ("cluster", "redis-sentinel://127.0.0.1:60/m", "redis-sentinel://127.0.0.1:68/m"),
    ("cluster-node", "web-61", "web-62"),
    ("cluster-user", "rot13d", "lines"),
    ("cluster-password-file", "password", "/etc/rot13d/password"),
    ("cluster-ca", "ca.pem", "/etc/ssl/ca.pem"),
    ("cluster-cert", "node.pem", "/etc/rot13d/node.pem"),
    ("cluster-key", "node-key.pem", "/etc/rot13d/node-key.pem"),
    ("cluster-sentinel-user", "sentinel", "watcher"),
    ("cluster-sentinel-password-file", "sentinel-password", "/etc/rot13d/sentinel-password"),
    ("cluster-prefix", "chat:", "talk:"),
    ("cluster-lease", "63s", "1h"),
    ("cluster-max-sessions", "65", "66"),
    ("cluster-max-sessions-per-source", "67", "68"),
    ("cluster-accept-rate-per-source", "69/70", "71"),
    ("cluster-on-partition", "closed", "closed"),
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
    let needed = |name: &str| match name.split_once('-') {
        Some(("http", _)) => vec![("http", "127.0.0.1:59")],
        Some(("cluster", "on-partition")) => vec![("cluster", "redis://127.0.0.1"), ("cluster-max-sessions", "72")],
        Some(("cluster", "cert")) => vec![("cluster", "redis://127.0.0.1"), ("cluster-ca", "a"), ("cluster-key", "k")],
        Some(("cluster", "key")) => vec![("cluster", "redis://127.0.0.1"), ("cluster-ca", "a"), ("cluster-cert", "c")],
        Some(("cluster", "sentinel-user")) => {
            vec![("cluster", "redis-sentinel://127.0.0.1/m"), ("cluster-sentinel-password-file", "p")]
        }
        Some(("cluster", "sentinel-password-file")) => vec![("cluster", "redis-sentinel://127.0.0.1/m")],
        Some(("cluster", _)) => vec![("cluster", "redis://127.0.0.1")],
        _ => Vec::new(),
    };
    for (name, value, other) in EACH {
        // One of a pair is an error without the other.
        let without = Settings::new(&typed(needed(name))).ok();
        for setting in [(name, value), (name, other)] {
            let settings = || needed(name).into_iter().chain([setting]);
            assert_eq!(meant(&typed(settings())), meant(&in_file(settings())), "{setting:?}");
            // A switch has no third value.
            assert!(Some(meant(&typed(settings()))) != without || setting.1 == "false", "{setting:?}");
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
    let drain = Drain { deadline: seconds(33), goodbye: "bye\r\n".into(), spread: seconds(35), delay: seconds(62) };
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
    assert_eq!(all.agent_address().map(ToString::to_string).as_deref(), Some("127.0.0.1:64"));
    let cluster = all.cluster_settings().expect("a store");
    assert_eq!(
        (cluster.url, cluster.node, cluster.user),
        ("redis-sentinel://127.0.0.1:60/m", Some("web-61"), Some("rot13d"))
    );
    assert_eq!((cluster.password_file, cluster.ca), (Some(Path::new("password")), Some(Path::new("ca.pem"))));
    assert_eq!(cluster.pair, Some([Path::new("node.pem"), Path::new("node-key.pem")]));
    let sentinel = (cluster.sentinel_user, cluster.sentinel_password_file);
    assert_eq!(sentinel, (Some("sentinel"), Some(Path::new("sentinel-password"))));
    assert_eq!((cluster.prefix, cluster.lease), ("chat:", seconds(63)));
    let limits = (cluster.max_sessions, cluster.max_sessions_per_source, cluster.accept_rate_per_source);
    assert_eq!(limits, (Some(65), Some(67), Some(Rate { per_second: 69, burst: 70 })));
    assert_eq!(cluster.on_partition, OnPartition::Closed);
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
    let restart = Settings::ALL.iter().filter(|setting| setting.about.reload.is_fixed());
    let restart: Vec<_> = restart.map(|setting| setting.about.name).collect();
    assert_eq!(running.fixed_that_differ(&changed), restart);
    let names = Settings::ALL.iter().map(|setting| setting.about.name);
    // Some have the same value in both.
    let same = ["log-format", "over-limit", "cluster-on-partition"];
    let others: Vec<_> = names.filter(|name| !restart.contains(name) && !same.contains(name)).collect();
    assert_eq!(running.changed_in(&changed), others);
    let reloaded = changed.clone().with_fixed_of(&running);
    assert_eq!(running.fixed_that_differ(&reloaded), [""; 0]);
    assert_eq!(reloaded.limits(None), changed.limits(None));
    assert_eq!(reloaded.framing(), running.framing());
}

#[test]
fn what_http_needs_is_asked_for() {
    let said = |settings: &[(&str, &str)]| Settings::new(&typed(settings.iter().copied())).unwrap_err().to_string();
    assert_eq!(said(&[("http-control", "f")]), "invalid http-control: it does nothing without http: set that as well");
    assert_eq!(said(&[("http-host", "x")]), "invalid http-host: it does nothing without http: set that as well");
    let open = said(&[("http", "0.0.0.0:1"), ("http-control", "f")]);
    assert!(open.starts_with("invalid http-control: the token would go over the network in clear: use http"), "{open}");
    for fine in ["[::1]:1", "unix:http.sock", "localhost:1", "[::ffff:127.0.0.1]:1"] {
        meant(&typed([("http", fine), ("http-control", "f")]));
    }
}

#[test]
fn what_a_cluster_needs_is_asked_for() {
    let said = |settings: &[(&str, &str)]| Settings::new(&typed(settings.iter().copied())).unwrap_err().to_string();
    for (name, value) in [("cluster-node", "a"), ("cluster-user", "u"), ("cluster-max-sessions", "1")] {
        assert_eq!(
            said(&[(name, value)]),
            format!("invalid {name}: it does nothing without cluster: set that as well")
        );
    }
    let pairs = [
        ("cluster-cert", "cluster-key"),
        ("cluster-key", "cluster-cert"),
        ("cluster-sentinel-user", "cluster-sentinel-password-file"),
        ("cluster-sentinel-password-file", "a redis-sentinel:// URL"),
    ];
    for (name, needed) in pairs {
        let expected = format!("invalid {name}: it does nothing without {needed}: set that as well");
        assert_eq!(said(&[("cluster", "redis://a"), (name, "x")]), expected);
    }
    let without_ca = said(&[("cluster", "rediss://a"), ("cluster-cert", "c"), ("cluster-key", "k")]);
    assert_eq!(without_ca, "invalid cluster-cert: it does nothing without cluster-ca: set that as well");
    let closed = said(&[("cluster", "redis://a"), ("cluster-on-partition", "closed")]);
    assert!(closed.starts_with("invalid cluster-on-partition: closed keeps nobody out without a limit"), "{closed}");
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
