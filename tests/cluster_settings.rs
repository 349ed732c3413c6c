//! Settings of a cluster: SIGHUP changes its limits, a wrong one says what to do, and its secrets are said nowhere.

#[path = "support/console.rs"]
mod console;
#[path = "../actors/tests/support/redis.rs"]
mod redis;
mod support;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
};

use console::Folder;
use redis::{Program, StoreServer, free_port};
use rustix::process::Signal;
use support::{Server, eventually, greet};

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
        let folder = Folder::new(&format!("cluster-settings-{name}-{}", free_port()));
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

/// The status and the body of an answer by HTTP.
fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.trim_end().to_owned())
}

/// A store that nobody serves: each node decides alone.
fn nowhere() -> String {
    format!("redis://127.0.0.1:{}", free_port())
}

#[test]
fn a_hangup_changes_the_limits_over_nodes() {
    let http = format!("127.0.0.1:{}", free_port());
    let mut node = Node::start("a", &nowhere(), "cluster-max-sessions = 1\n", &["--http", &http]);
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

    assert_eq!(get(&http, "/readyz"), (200, "cluster: store lost".to_owned()));
    let closed = "max-sessions = 40\nexempt = \"off\"\ncluster-max-sessions-per-source = 30\ncluster-on-partition = \"closed\"\n";
    assert_eq!(node.change(closed), "cluster-max-sessions-per-source 3 -> 30, cluster-on-partition open -> closed");
    node.refuses();
    assert_eq!(get(&http, "/readyz").0, 503);
    assert_eq!(
        node.change("exempt = \"off\"\nmax-sessions = 40\n"),
        "cluster-max-sessions-per-source 30 -> off, cluster-on-partition closed -> open"
    );
    let _fourth = node.serves();
    assert_eq!(get(&http, "/readyz").0, 200);
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
#[ignore = "needs redis; tests/run runs it"]
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
    peers.push(nodes[0].serves());
    nodes.iter().for_each(Node::refuses);
    // Nobody ends by a lower one.
    for node in &mut nodes {
        node.change("cluster-max-sessions = 1\n");
    }
    peers.iter_mut().for_each(greet);
}
