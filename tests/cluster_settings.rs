//! Settings of a cluster: SIGHUP changes its limits, a wrong one says what to do, and its secrets are said nowhere.

#[path = "support/http.rs"]
mod client;
#[path = "support/console.rs"]
mod console;
#[path = "../actors/tests/support/redis.rs"]
mod redis;
mod support;
#[path = "support/tls.rs"]
mod tls;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};

use client::get;
use console::{Folder, ctl};
use redis::{PERMISSIONS, Program, StoreServer};
use rustix::process::Signal;
use support::{Server, eventually, greet};
use tls::Authority;

/// A server with a file of settings, whose node has a store.
struct Node {
    server: Server,
    file: PathBuf,
    /// What stands in the file in any case.
    fixed: String,
    /// Changes that are in force.
    hangups: usize,
    _folder: Folder,
}

impl Node {
    fn start(name: &str, store: &str, settings: &str, more: &[&str]) -> Self {
        let folder = Folder::new(&format!("cluster-settings-{name}"));
        let file = folder.path("rot13d.toml");
        let fixed = format!("cluster = {store:?}\ncluster-node = {name:?}\n");
        fs::write(&file, format!("{fixed}{settings}")).unwrap();
        let server = Server::start(&[&["--config", file.to_str().unwrap()], more].concat());
        Self { server, file, fixed, hangups: 0, _folder: folder }
    }

    /// Has it read a file with these settings, beside those of its place.
    fn hangup(&self, settings: &str) {
        fs::write(&self.file, format!("{}{settings}", self.fixed)).unwrap();
        self.server.signal(Signal::HUP);
    }

    /// The same, and waits until it is in force. Returns what is said to have changed.
    #[track_caller]
    fn change(&mut self, settings: &str) -> String {
        let before = self.server.log().len();
        self.hangup(settings);
        self.hangups += 1;
        self.server.log_lines(" is in force; 0 sessions end by it", self.hangups);
        let log = self.server.log();
        let changed = log[before..].iter().find_map(|line| line.split_once("SIGHUP: changed: "));
        changed.map(|(_, changed)| changed.to_owned()).unwrap_or_default()
    }

    /// Connects. `None` if it is refused.
    fn enter(&self) -> Option<TcpStream> {
        let mut peer = self.server.connect();
        // It may be refused by then.
        let _ = peer.write_all(b"Hello\n");
        let mut answer = [0; 6];
        (peer.read_exact(&mut answer).is_ok() && answer == *b"Uryyb\n").then_some(peer)
    }

    #[track_caller]
    fn serves(&self) -> TcpStream {
        self.enter().expect("a session")
    }

    #[track_caller]
    fn refuses(&self) {
        assert!(self.enter().is_none(), "nobody is refused");
    }
}

/// A store that nobody serves: each node decides alone.
fn nowhere() -> String {
    let (socket, address) = support::reserve();
    // As long as the program runs nobody else gets it.
    std::mem::forget(socket);
    format!("redis://{address}")
}

#[test]
fn a_hangup_changes_the_limits_over_nodes() {
    let (_reserved, http) = support::reserve();
    let mut node = Node::start("a", &nowhere(), "cluster-max-sessions = 1\n", &["--http", &http.to_string()]);
    node.server.log_line("cluster: store lost");
    let _first = node.serves();
    node.refuses();
    assert_eq!(node.change("cluster-max-sessions = 2\n"), "cluster-max-sessions 1 -> 2");
    let _second = node.serves();
    node.refuses();
    assert_eq!(node.change("cluster-max-sessions = 2\n"), "");
    // This machine is exempt from the limits of a source, until it is not.
    assert_eq!(
        node.change(
            "max-sessions = 40\ncluster-max-sessions-per-source = 2\ncluster-accept-rate-per-source = \"70/80\"\n"
        )
        .split_once(", ")
        .map(|(_, of_the_cluster)| of_the_cluster),
        Some(
            "cluster-max-sessions 2 -> off, cluster-max-sessions-per-source off -> 2, \
             cluster-accept-rate-per-source off -> 70/80"
        )
    );
    let third = node.serves();
    let changed = node.change("max-sessions = 40\ncluster-max-sessions-per-source = 3\nexempt = \"off\"\n");
    let of_the_cluster = "cluster-max-sessions-per-source 2 -> 3, cluster-accept-rate-per-source 70/80 -> off";
    assert!(changed.starts_with("exempt ") && changed.ends_with(of_the_cluster), "{changed}");
    node.refuses();
    drop(third);
    let _third = eventually("a place of the source", || node.enter());

    assert_eq!(get(http, "/readyz"), (200, "cluster: store lost\n".to_owned()));
    let closed = "max-sessions = 40\nexempt = \"off\"\ncluster-max-sessions-per-source = 30\ncluster-on-partition = \"closed\"\n";
    assert_eq!(node.change(closed), "cluster-max-sessions-per-source 3 -> 30, cluster-on-partition open -> closed");
    node.refuses();
    assert_eq!(get(http, "/readyz").0, 503);
    assert_eq!(
        node.change("exempt = \"off\"\nmax-sessions = 40\n"),
        "cluster-max-sessions-per-source 30 -> off, cluster-on-partition closed -> open"
    );
    let _fourth = node.serves();
    assert_eq!(get(http, "/readyz").0, 200);
}

#[test]
fn a_hangup_with_an_error_changes_no_limit_over_nodes() {
    let node = Node::start("a", &nowhere(), "cluster-max-sessions = 1\n", &[]);
    node.server.log_line("cluster: store lost");
    let _first = node.serves();
    let (_reserved, taken) = support::reserve();
    let _occupied = std::net::TcpListener::bind(taken).expect("the address is ours");
    let bad = [
        ("cluster-on-partition = \"shut\"\n".to_owned(), "for cluster-on-partition: use open or closed"),
        ("cluster-max-sessions-per-source = 0\n".to_owned(), "for cluster-max-sessions-per-source: use 1 or more"),
        ("cluster-password-file = \"/no/such\"\n".to_owned(), "invalid cluster-password-file: cannot read /no/such: "),
        (format!("[[listener]]\nname = \"bad\"\naddress = \"{taken}\"\n"), "listener bad: "),
    ];
    for (at, (wrong, why)) in bad.iter().enumerate() {
        node.hangup(&format!("cluster-max-sessions = 5\n{wrong}"));
        let said = node.server.log_lines("SIGHUP: nothing is changed: ", at + 1).pop().unwrap();
        assert!(said.contains(why), "{said}");
        node.refuses();
    }
}

#[test]
fn a_hangup_says_what_of_a_cluster_only_a_restart_changes() {
    let mut node = Node::start("a", &nowhere(), "cluster-max-sessions = 1\n", &[]);
    node.server.log_line("cluster: store lost");
    node.fixed = format!("cluster = {:?}\n", nowhere());
    let others = "cluster-node = \"b\"\ncluster-prefix = \"talk:\"\ncluster-lease = \"30s\"\ncluster-user = \"u\"\n";
    assert_eq!(node.change(&format!("{others}cluster-max-sessions = 2\n")), "cluster-max-sessions 1 -> 2");
    let differ = |name: &str| {
        let said = format!("SIGHUP: {name} differs; only a restart changes it");
        node.server.log().iter().filter(|line| line.ends_with(&said)).count()
    };
    for name in ["cluster", "cluster-node", "cluster-prefix", "cluster-lease", "cluster-user"] {
        assert_eq!(differ(name), 1, "{name}");
    }
    assert_eq!(differ("cluster-max-sessions"), 0);
    // Without a cluster in the file the node stays one, and has no limit over nodes.
    node.fixed.clear();
    assert_eq!(node.change(""), "cluster-max-sessions 2 -> off");
    // Nor does a server become a node that was none.
    let folder = Folder::new("cluster-none");
    let file = folder.path("rot13d.toml");
    fs::write(&file, "").unwrap();
    let server = Server::start(&["--config", file.to_str().unwrap()]);
    fs::write(&file, format!("cluster = {:?}\ncluster-max-sessions = 1\n", nowhere())).unwrap();
    server.signal(Signal::HUP);
    server.log_line("SIGHUP: cluster differs; only a restart changes it");
    server.log_line(" is in force; 0 sessions end by it");
    assert!(!server.log().iter().any(|line| line.contains("changed: ")), "{:#?}", server.log());
    let mut peers = [server.connect(), server.connect()];
    peers.iter_mut().for_each(greet);
}

#[test]
fn with_a_lease_shorter_than_three_calls_to_the_store_each_has_a_third_of_it() {
    let node = Node::start("a", &nowhere(), "cluster-lease = \"1s\"\n", &[]);
    node.server.log_line("cluster: store lost");
    node.serves();
}

#[test]
#[ignore = "needs redis-server; tests/run runs it"]
fn limits_that_a_hangup_sets_hold_for_the_sessions_of_all_nodes() {
    let store = StoreServer::start(Program::Redis);
    let mut nodes = ["a", "b"].map(|name| Node::start(name, &store.url(), "", &[]));
    let mut peers = Vec::new();
    for node in &nodes {
        node.server.log_line("cluster: joined as ");
        peers.push(node.serves());
    }
    for node in &mut nodes {
        assert_eq!(node.change("cluster-max-sessions = 2\n"), "cluster-max-sessions off -> 2");
    }
    // The sessions that were there count: a moment later the store knows them.
    for node in &nodes {
        eventually("the others to count", || node.enter().is_none().then_some(()));
    }
    for node in &mut nodes {
        assert_eq!(node.change("cluster-max-sessions = 3\n"), "cluster-max-sessions 2 -> 3");
    }
    // Who was let in until then is on the way out.
    peers.push(eventually("a free place", || nodes[0].enter()));
    nodes.iter().for_each(Node::refuses);
    // Nobody ends by a lower one.
    for node in &mut nodes {
        node.change("cluster-max-sessions = 1\n");
    }
    peers.iter_mut().for_each(greet);
}

#[test]
fn the_manual_names_the_rights_that_are_tested() {
    let tested: Vec<_> = PERMISSIONS.iter().map(|word| word.replace("{lines:*", "{lines:}*")).collect();
    let text = fs::read_to_string("docs/operating.md").unwrap();
    let lines: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("ACL SETUSER lines on >PASSWORD ")).collect();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].split(' ').collect::<Vec<_>>(), tested);
    let loose: Vec<_> = text.match_indices("+@").map(|(at, _)| &text[at..at + 10]).collect();
    assert!(loose.is_empty(), "rights of other commands, too: {loose:?}");
}

const PASSWORD: &str = "sesame-4711";

/// A store that lets in nobody but the user `lines`, with those rights.
fn guarded_store(permissions: &[&str]) -> StoreServer {
    let store = StoreServer::start(Program::Redis);
    store.allow("lines", PASSWORD, permissions);
    store.must(&["ACL", "SETUSER", "default", "-@all", "+acl", "+ping"]);
    store
}

/// Asks the console of a node.
#[track_caller]
fn ask(address: &str, command: &str) -> String {
    let mut arguments = vec!["--connect", address];
    arguments.extend(command.split(' '));
    let (code, said, error) = ctl(&arguments, "");
    assert_eq!((code, error.as_str()), (Some(0), ""), "{command}: {said}");
    said
}

/// Uses all that nodes do with a store.
fn use_all(nodes: &[Node; 2], consoles: &[String; 2]) {
    let [a, b] = nodes;
    for node in nodes {
        node.server.log_line("cluster: joined as ");
    }
    let mut peers = [a.serves(), b.serves()];
    eventually("both to be listed", || (ask(&consoles[0], "list all --json").lines().count() == 2).then_some(()));
    assert_eq!(ask(&consoles[0], "list nodes --json").lines().count(), 2);
    a.refuses();
    b.refuses();
    ask(&consoles[0], "push node=* all -- hello");
    peers.iter_mut().for_each(|peer| support::expect(peer, "hello\r\n"));
    ask(&consoles[1], "kick node=a all -- bye");
    assert_eq!(support::rest(&mut peers[0]), b"bye\r\n");
    let _third = eventually("a free place", || b.enter());
    for node in nodes {
        let log = node.server.log();
        assert!(!log.iter().any(|line| line.contains("store lost") || line.contains("permission")), "{log:#?}");
    }
}

const LIMITS: &str = "cluster-max-sessions = 2\ncluster-max-sessions-per-source = 2\ncluster-accept-rate-per-source = 90\nexempt = \"off\"\n";

#[test]
#[ignore = "needs redis-server; tests/run runs it"]
fn a_node_needs_no_other_rights_than_the_documents_name() {
    let store = guarded_store(&PERMISSIONS);
    let folder = Folder::new("cluster-rights");
    let file = folder.path("password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let settings = format!("cluster-user = \"lines\"\ncluster-password-file = {file:?}\n{LIMITS}");
    let consoles = ["a", "b"].map(|name| format!("unix:{}", folder.path(name).display()));
    let start = |at: usize| Node::start(["a", "b"][at], &store.url(), &settings, &["--console", &consoles[at]]);
    let mut nodes = [start(0), start(1)];
    use_all(&nodes, &consoles);
    // It takes itself out.
    nodes[0].server.signal(Signal::TERM);
    assert_eq!(nodes[0].server.wait().0, Some(0));
    eventually("one node to be left", || (ask(&consoles[1], "list nodes --json").lines().count() == 1).then_some(()));

    // What is wrong is said, and what to do.
    fs::write(&file, "open sesame").unwrap();
    let wrong = Node::start("c", &store.url(), &settings, &[]);
    let said = wrong.server.log_line("cluster: ");
    wrong.server.log_line("check the user and the password");
    assert!(!said.contains(PASSWORD), "{said}");
}

#[test]
#[ignore = "needs redis-server; tests/run runs it"]
fn a_store_is_reached_by_tls() {
    let mut store = StoreServer::start(Program::Redis);
    let authority = Authority::new();
    authority.issue("store", &["localhost"]);
    let port =
        store.tls_port(&authority.path("store.pem"), &authority.path("store-key.pem"), &authority.path("ca.pem"));
    let url = format!("rediss://localhost:{port}");
    let folder = Folder::new("cluster-tls");
    let consoles = ["a", "b"].map(|name| format!("unix:{}", folder.path(name).display()));
    let settings = format!("cluster-ca = {:?}\n{LIMITS}", authority.path("ca.pem"));
    let start = |at: usize| Node::start(["a", "b"][at], &url, &settings, &["--console", &consoles[at]]);
    use_all(&[start(0), start(1)], &consoles);

    // It asks for a certificate of ours.
    authority.issue("node", &["node.example"]);
    store.must(&["CONFIG", "SET", "tls-auth-clients", "yes"]);
    let pair = format!(
        "cluster-cert = {:?}\ncluster-key = {:?}\n",
        authority.path("node.pem"),
        authority.path("node-key.pem")
    );
    let start = |name: &str, pair: &str| Node::start(name, &url, &format!("{settings}{pair}"), &[]);
    start("e", &pair).server.log_line("cluster: joined as ");
    let said = start("f", "").server.log_line("cluster: store lost");
    assert!(said.contains("tls") || said.contains("TLS") || said.contains("ertificate"), "{said}");
    store.must(&["CONFIG", "SET", "tls-auth-clients", "no"]);

    // Nobody is trusted whom another authority signed, nor one of another name.
    let stranger = Authority::new();
    let node = Node::start("c", &url, &format!("cluster-ca = {:?}\n", stranger.path("ca.pem")), &[]);
    let said = node.server.log_line("cluster: store lost");
    assert!(said.contains("certificate"), "{said}");
    let node = Node::start("d", &format!("rediss://127.0.0.1:{port}"), &settings, &[]);
    let said = node.server.log_line("cluster: store lost");
    assert!(said.contains("127.0.0.1") && said.contains("certificate"), "{said}");
}

#[test]
#[ignore = "needs redis-server; tests/run runs it"]
fn sentinels_have_a_password_of_their_own() {
    let store = guarded_store(&PERMISSIONS);
    // The Sentinel looks at the store by that user's name, too.
    store.must(&["ACL", "SETUSER", "watcher", "on", ">look", "allkeys", "allchannels", "+@all"]);
    let watched = "sentinel auth-user m watcher\nsentinel auth-pass m look\nuser default off\n\
                   user node on >sesame-0815 allchannels -@all +sentinel|get-master-addr-by-name\n\
                   user tests on nopass allkeys allchannels +@all";
    let sentinel = StoreServer::start_sentinel_with("m", &store, watched);
    let folder = Folder::new("cluster-sentinel");
    let secret = |name: &str, text: &str| {
        let file = folder.path(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        file
    };
    let (password, other) = (secret("password", PASSWORD), secret("sentinel-password", "sesame-0815\n"));
    let settings = |of_sentinel: &PathBuf| {
        format!(
            "cluster-user = \"lines\"\ncluster-password-file = {password:?}\ncluster-sentinel-user = \"node\"\n\
             cluster-sentinel-password-file = {of_sentinel:?}\n"
        )
    };
    let url = format!("redis-sentinel://127.0.0.1:{}/m", sentinel.port());
    let node = Node::start("a", &url, &settings(&other), &[]);
    node.server.log_line("cluster: joined as ");
    let node = Node::start("b", &url, &settings(&password), &[]);
    node.server.log_line("check the user and the password");
}

#[test]
#[ignore = "needs redis-server; tests/run runs it"]
fn a_hangup_reads_the_password_of_the_store_again_and_the_node_comes_back_by_itself() {
    let store = guarded_store(&PERMISSIONS);
    store.must(&["ACL", "SETUSER", "default", "+client"]);
    let folder = Folder::new("cluster-rotation");
    let (file, other) = (folder.path("password"), folder.path("other"));
    let write = |file: &PathBuf, text: &str| {
        fs::write(file, text).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    };
    write(&file, PASSWORD);
    let settings = |file: &PathBuf| format!("cluster-user = \"lines\"\ncluster-password-file = {file:?}\n");
    let mut node = Node::start("a", &store.url(), &settings(&file), &[]);
    node.server.log_line("cluster: joined as ");
    assert_eq!(node.change(&settings(&file)), "", "it is the same one");

    // The former one is no longer good, and the connections are gone.
    store.must(&["ACL", "SETUSER", "lines", "resetpass", ">sesame-0816"]);
    store.must(&["CLIENT", "KILL", "USER", "lines"]);
    node.server.log_line("check the user and the password");
    // A file that is none of a password changes nothing.
    write(&file, "\n");
    node.hangup(&settings(&file));
    let said = node.server.log_line("nothing is changed: ");
    let expected = format!("{}:4: invalid cluster-password-file: {} is empty", node.file.display(), file.display());
    assert!(said.contains(&expected), "{said}");
    // Another file is for a restart.
    write(&file, PASSWORD);
    write(&other, "sesame-0816\n");
    assert_eq!(node.change(&settings(&other)), "");
    node.server.log_line("SIGHUP: cluster-password-file differs; only a restart changes it");
    assert_eq!(node.server.log().iter().filter(|line| line.contains("store found")).count(), 0);

    write(&file, "sesame-0816\n");
    assert_eq!(node.change(&settings(&file)), "cluster-password-file");
    node.server.log_line("cluster: store found after ");
    node.serves();
    node.server.signal(Signal::TERM);
    let (_, log) = node.server.wait();
    assert!(!log.iter().any(|line| line.contains("sesame")), "{log:#?}");
}

/// Settings that are wrong, which of them is named, and what to do.
type Wrong<'a> = (Vec<(&'a str, &'a str)>, &'a str, &'a str);

/// The error that a start ends with, by the file and by flags.
fn wrong(folder: &Folder, settings: &[(&str, &str)]) -> [String; 2] {
    let file = folder.path("wrong.toml");
    let text: String = settings.iter().map(|(name, value)| format!("{name} = {value:?}\n")).collect();
    fs::write(&file, text).unwrap();
    let flags: Vec<_> = settings.iter().map(|(name, value)| format!("--{name}={value}")).collect();
    [vec!["--config".to_owned(), file.to_str().unwrap().to_owned()], flags].map(|arguments| {
        let mut command = support::rot13d();
        command.args(["--check-config", "-vv"]).args(&arguments);
        let output = support::finish(command, b"");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &b""[..]), "{arguments:?}: {said}");
        said
    })
}

#[test]
fn a_wrong_setting_is_named_with_what_to_do_and_without_a_secret() {
    let folder = Folder::new("cluster-wrong");
    let authority = Authority::new();
    authority.issue("node", &["node.example"]);
    authority.issue("other", &["node.example"]);
    let path = |name: &str| authority.path(name).to_str().unwrap().to_owned();
    let (ca, cert, key, other) = (path("ca.pem"), path("node.pem"), path("node-key.pem"), path("other-key.pem"));
    let empty = folder.path("empty");
    fs::write(&empty, "\n").unwrap();
    let large = folder.path("large");
    fs::write(&large, "x".repeat(5000)).unwrap();
    let no_text = folder.path("no-text");
    fs::write(&no_text, b"\xff\xfe").unwrap();
    let [empty, large, no_text] = [&empty, &large, &no_text].map(|path| path.to_str().unwrap());
    let (url, tls, sentinel) = ("redis://127.0.0.1:1", "rediss://127.0.0.1:1", "redis-sentinel://127.0.0.1:1/m");
    let at = |name: &'static str, value: &'static str| vec![("cluster", url), (name, value)];
    let cases: Vec<Wrong<'_>> = vec![
        (vec![("cluster", "127.0.0.1:1")], "cluster", "use a URL, as redis://HOST:6379"),
        (vec![("cluster", "http://u:sesame@h")], "cluster", "use a URL, as redis://HOST:6379"),
        (vec![("cluster", "redis://u:sesame@h")], "cluster", "cluster-password-file names its file"),
        (vec![("cluster", "redis://:sesame@h:1/0")], "cluster", "cluster-password-file names its file"),
        (vec![("cluster", "unix:///s?pass=sesame")], "cluster", "cluster-password-file names its file"),
        (vec![("cluster", "redis://u:sesame")], "cluster", "use 1 to 65535"),
        (vec![("cluster", "redis://h:1?password=sesame")], "cluster", "remove it"),
        (vec![("cluster", "redis://h:1/x")], "cluster", "write its number, as in redis://HOST:PORT/0"),
        (vec![("cluster", "redis-sentinel://h:1")], "cluster", "write it behind the sentinels"),
        (vec![("cluster", "unix://relative")], "cluster", "write unix:///run/redis/redis.sock"),
        (at("cluster-node", "no/name"), "cluster-node", "use 1 to 64 letters, digits, dots, dashes or underscores"),
        (at("cluster-user", ""), "cluster-user", "use the name of a user"),
        (at("cluster-password-file", "/no/such"), "cluster-password-file", "cannot read /no/such: "),
        (vec![("cluster", url), ("cluster-password-file", empty)], "cluster-password-file", "write a password into it"),
        (vec![("cluster", url), ("cluster-password-file", large)], "cluster-password-file", "and nothing else"),
        (
            vec![("cluster", url), ("cluster-password-file", no_text)],
            "cluster-password-file",
            "write a password into it",
        ),
        (vec![("cluster", url), ("cluster-ca", &ca)], "cluster-ca", "write rediss://"),
        (vec![("cluster", "unix:///s"), ("cluster-ca", &ca)], "cluster-ca", "there is no TLS over a unix socket"),
        (vec![("cluster", tls), ("cluster-ca", "/no/such")], "cluster-ca", "check the path"),
        (vec![("cluster", tls), ("cluster-ca", empty)], "cluster-ca", "BEGIN CERTIFICATE"),
        (vec![("cluster", tls), ("cluster-ca", &ca), ("cluster-cert", &cert)], "cluster-cert", "set that as well"),
        (vec![("cluster", tls), ("cluster-cert", &cert), ("cluster-key", &key)], "cluster-cert", "without cluster-ca"),
        (
            vec![("cluster", tls), ("cluster-ca", &ca), ("cluster-cert", "/no"), ("cluster-key", &key)],
            "cluster-cert",
            "check the path",
        ),
        (
            vec![("cluster", tls), ("cluster-ca", &ca), ("cluster-cert", &cert), ("cluster-key", "/no")],
            "cluster-key",
            "check the path",
        ),
        (
            vec![("cluster", tls), ("cluster-ca", &ca), ("cluster-cert", &cert), ("cluster-key", &other)],
            "cluster-key",
            "use the key that it was made with",
        ),
        (
            vec![("cluster", tls), ("cluster-ca", &ca), ("cluster-cert", &cert), ("cluster-key", empty)],
            "cluster-key",
            "BEGIN PRIVATE KEY",
        ),
        (at("cluster-sentinel-password-file", "/no"), "cluster-sentinel-password-file", "a redis-sentinel:// URL"),
        (
            vec![("cluster", sentinel), ("cluster-sentinel-password-file", empty)],
            "cluster-sentinel-password-file",
            "write a password into it",
        ),
        (at("cluster-prefix", "a{b}"), "cluster-prefix", "without blanks, braces, backslashes and the wildcards"),
        (at("cluster-lease", "0s"), "cluster-lease", "1s to 1h"),
        (at("cluster-max-sessions", "0"), "cluster-max-sessions", "use 1 or more"),
        (at("cluster-max-sessions-per-source", "x"), "cluster-max-sessions-per-source", "use 1 or more"),
        (at("cluster-accept-rate-per-source", "1/0"), "cluster-accept-rate-per-source", "use 1 or more, as 100"),
        (at("cluster-on-partition", "closed"), "cluster-on-partition", "set cluster-max-sessions"),
        (at("cluster-on-partition", "shut"), "cluster-on-partition", ""),
        (vec![("cluster-node", "a")], "cluster-node", "set that as well"),
        (vec![("agent-check", "nowhere")], "agent-check", "use "),
    ];
    for (settings, name, advice) in cases {
        for said in wrong(&folder, &settings) {
            let is_named = said.contains(&format!("{name}:")) || said.contains(&format!("'--{name} <"));
            assert!(is_named && said.contains(advice), "{settings:?} of {name}, {advice:?}: {said}");
            assert!(!said.contains("sesame"), "{said}");
        }
    }
}

#[test]
#[ignore = "needs redis-server; tests/run runs it"]
fn the_password_of_a_store_is_said_nowhere() {
    let store = guarded_store(&PERMISSIONS);
    let folder = Folder::new("cluster-secret");
    let file = folder.path("password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    // Others may read it, which is worth a warning.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let (_reserved, http) = support::reserve();
    let console = folder.console();
    let settings = format!("cluster-user = \"lines\"\ncluster-password-file = {file:?}\n{LIMITS}");
    let mut node =
        Node::start("a", &store.url(), &settings, &["-vv", "--http", &http.to_string(), "--console", &console]);
    node.server.log_line("cluster: joined as ");
    node.server.log_line("has mode 644: others can read the password; use chmod 600");
    let peer = node.serves();
    eventually("the row", || (ask(&console, "list all --json").lines().count() == 1).then_some(()));
    let mut said = Vec::new();
    for command in ["help", "list nodes --json", "show", "limits", "stats", "listeners", "list all --json"] {
        let mut arguments = vec!["--connect", &console];
        arguments.extend(command.split(' '));
        let (_, answer, error) = ctl(&arguments, "");
        said.push((command.to_owned(), answer + &error));
    }
    for path in ["/", "/api/server", "/api/sessions", "/metrics", "/readyz", "/healthz", "/api"] {
        said.push((path.to_owned(), get(http, path).1));
    }
    // It is lost, and then it does not know the password any more.
    store.must(&["ACL", "DELUSER", "lines"]);
    node.server.log_line("check the user and the password");
    drop(peer);
    node.server.signal(Signal::USR1);
    node.server.log_line("counters: ");
    assert_eq!(
        node.change(&format!("cluster-user = \"lines\"\ncluster-password-file = {file:?}\n"))
            .matches(" -> off")
            .count(),
        3
    );
    said.extend(["cmdline", "environ"].map(|name| {
        let bytes = fs::read(format!("/proc/{}/{name}", node.server.id())).unwrap();
        (name.to_owned(), String::from_utf8_lossy(&bytes).into_owned())
    }));
    node.server.signal(Signal::TERM);
    let (_, log) = node.server.wait();
    said.push(("log".to_owned(), log.join("\n")));
    for (place, text) in said {
        assert!(!text.is_empty() && !text.contains(PASSWORD), "{place}: {text}");
    }
}
