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
//! 3. give it two values in `EACH` of the tests, and a line in `each_setting_arrives_where_it_is_meant_to`;
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
#[cfg(test)]
mod tests;

use actix_lines::{
    Framing, LineServer, ListenAddress, Overlong, Peers, SourcePrefix,
    limits::{OverLimit, Rate, RateLimit},
};

#[cfg(feature = "tls")]
pub(crate) use self::value::TlsVersion;
pub(crate) use self::{
    listener::{Listener, ListenerSettings, OwnLimits, PairSettings, Tls, TlsSettings, is_of_listeners},
    meaning::{ClusterSettings, ConsoleAddress, ConsoleSettings, Http, Unusable},
    setting::{Given, Invalid, Reload, Setting},
    value::{Auto, FilePath, LogFormat, OnPartition, Requirement},
};
use self::{
    setting::About,
    value::{
        Amount, Budget, Folder, HostName, Keepalive, KeyPrefix, Name, Number, Pause, Size, SocketBuffer, StoreUrl,
        StoreUser, Time, Timeout,
    },
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
const BALANCER: &str = "Load balancer";
const RECORD: &str = "Recording";
const CONSOLE: &str = "Console";
const HTTP: &str = "HTTP";
const CLUSTER: &str = "Cluster";

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

        drain_delay: Pause = About {
            name: "drain-delay",
            value: "TIME",
            unit: "",
            default: &["0s"],
            group: DRAIN,
            reload: Reload::AtOnce,
            help: "Time from SIGINT or SIGTERM to the beginning of the drain, in which whoever comes is still served",
            advice: "Use a few intervals of the load balancer's checks, so that it sends nobody any more: meanwhile `--agent-check` says drain, \
                     and `/readyz` is not ready. A second signal ends it",
        },

        agent_check: Option<ListenAddress> = About {
            name: "agent-check",
            value: "ADDRESS",
            unit: "",
            default: &["off"],
            group: BALANCER,
            reload: Reload::Restart,
            help: "Address that answers HAProxy's agent checks: up with a weight by load, or drain",
            advice: "Use an address that the load balancers alone reach: whoever asks sees how full the server is. fleet.md has HAProxy's side",
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
            reload: Reload::Contents,
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
            reload: Reload::Contents,
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

        cluster: Option<StoreUrl> = About {
            name: "cluster",
            value: "URL",
            unit: "",
            default: &["off"],
            group: CLUSTER,
            reload: Reload::Restart,
            help: "Store that the nodes of a cluster share, on Redis or Valkey",
            advice: "Each node's console then lists, tells and ends the sessions of all. Without the store each node goes on alone, and joins \
                     again by itself",
        },
        cluster_node: Auto<Name> = About {
            name: "cluster-node",
            value: "NAME",
            unit: "",
            default: &["auto"],
            group: CLUSTER,
            reload: Reload::Restart,
            help: "Name of this node, which no other has; `auto` is the host's name and the port of the first listener",
            advice: "Set it where hosts have the same name, as in containers, or to find a node again behind another port",
        },
        cluster_user: Option<StoreUser> = About {
            name: "cluster-user",
            value: "USER",
            unit: "",
            default: &["off"],
            group: CLUSTER,
            reload: Reload::Restart,
            help: "User that the store knows this node by",
            advice: "`off` is the store's default user, or the one in the URL; operating.md has the rights that it needs",
        },
        cluster_password_file: Option<FilePath> = About {
            name: "cluster-password-file",
            value: "FILE",
            unit: "",
            default: &["off"],
            group: CLUSTER,
            reload: Reload::Contents,
            help: "File with the password of the store",
            advice: "Write nothing else into it, and `chmod 600` it",
        },
        cluster_ca: Option<FilePath> = About {
            name: "cluster-ca",
            value: "FILE",
            unit: "",
            default: &["off"],
            group: CLUSTER,
            reload: Reload::Restart,
            help: "Certificates of the authorities that sign the store's certificate, in PEM",
            advice: "For a `rediss://` URL; `off` trusts those that this machine trusts",
        },
        cluster_cert: Option<FilePath> = About {
            name: "cluster-cert",
            value: "FILE",
            unit: "",
            default: &["off"],
            group: CLUSTER,
            reload: Reload::Restart,
            help: "Certificate that this node shows to a store that asks for one, in PEM",
            advice: "Intermediate certificates follow it in the file; needs `--cluster-key` and `--cluster-ca`",
        },
        cluster_key: Option<FilePath> = About {
            name: "cluster-key",
            value: "FILE",
            unit: "",
            default: &["off"],
            group: CLUSTER,
            reload: Reload::Restart,
            help: "Private key of `--cluster-cert`, in PEM",
            advice: "`chmod 600` it",
        },
        cluster_sentinel_user: Option<StoreUser> = About {
            name: "cluster-sentinel-user",
            value: "USER",
            unit: "",
            default: &["off"],
            group: CLUSTER,
            reload: Reload::Restart,
            help: "User that Sentinels know this node by",
            advice: "For a `redis-sentinel://` URL; `off` is the default user",
        },
        cluster_sentinel_password_file: Option<FilePath> = About {
            name: "cluster-sentinel-password-file",
            value: "FILE",
            unit: "",
            default: &["off"],
            group: CLUSTER,
            reload: Reload::Contents,
            help: "File with the password of the Sentinels",
            advice: "That of the store is none of theirs. Write nothing else into it, and `chmod 600` it",
        },
        cluster_prefix: KeyPrefix = About {
            name: "cluster-prefix",
            value: "TEXT",
            unit: "",
            default: &["lines:"],
            group: CLUSTER,
            reload: Reload::Restart,
            help: "Beginning of all keys and channels in the store",
            advice: "Clusters with different prefixes share a store and nothing else",
        },
        cluster_lease: Time<1, 3600> = About {
            name: "cluster-lease",
            value: "TIME",
            unit: "",
            default: &["10s"],
            group: CLUSTER,
            reload: Reload::Restart,
            help: "Time after which a node that the store does not hear of is gone for the others",
            advice: "A shorter time finds a dead node sooner, and takes a slow one for dead; a node renews its lease about three times in it",
        },
        cluster_max_sessions: Option<Count> = About {
            name: "cluster-max-sessions",
            value: "N",
            unit: "sessions",
            default: &["off"],
            group: CLUSTER,
            reload: Reload::NewConnections,
            help: "Most sessions of all nodes together, beside the limits of each; the same on all nodes",
            advice: "A connection waits for the store's answer, some milliseconds, before it becomes a session",
        },
        cluster_max_sessions_per_source: Option<Count> = About {
            name: "cluster-max-sessions-per-source",
            value: "N",
            unit: "sessions",
            default: &["off"],
            group: CLUSTER,
            reload: Reload::NewConnections,
            help: "Most sessions of one source on all nodes together; the same on all nodes",
            advice: "Use it against peers that go to another node when one refuses them; peers of `--exempt` do not count",
        },
        cluster_accept_rate_per_source: Option<Rate> = About {
            name: "cluster-accept-rate-per-source",
            value: "N[/BURST]",
            unit: "connections a second",
            default: &["off"],
            group: CLUSTER,
            reload: Reload::NewConnections,
            help: "Most connections of one source that become sessions each second on all nodes together; the same on all nodes",
            advice: "Use it against peers that connect again and again, now here and now there",
        },
        cluster_on_partition: OnPartition = About {
            name: "cluster-on-partition",
            value: "POLICY",
            unit: "",
            default: &["open"],
            group: CLUSTER,
            reload: Reload::NewConnections,
            help: "Treatment of new connections that these limits hold for while the store is lost; sessions that are there go on in any case",
            advice: "`closed` keeps the limits exact, and refuses everybody whom they hold for until the store is back; `/readyz` is not ready then",
        },
    }
}
