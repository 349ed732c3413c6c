//! Several `rot13d` on one Redis: the console of each lists, tells and ends the sessions of all, and each goes on alone while the
//! store is not there.

#[path = "support/http.rs"]
mod client;
#[path = "support/console.rs"]
mod console;
#[path = "../actors/tests/support/redis.rs"]
mod redis;
mod support;

use client::get;
use console::{Folder, ctl};
use redis::{Program, StoreServer};
use rustix::process::Signal;
use serde_json::Value;
use support::{Server, connect, eventually, expect, greet, reserve, rest};

/// A node, with its console.
struct Node {
    server: Server,
    folder: Folder,
}

impl Node {
    fn start(name: &str, url: &str, more: &[&str]) -> Self {
        let folder = Folder::new(&format!("cluster-{name}"));
        let address = folder.console();
        let mut arguments =
            vec!["--cluster", url, "--cluster-node", name, "--cluster-lease", "3s", "--console", &address];
        arguments.extend(more);
        Self { server: Server::start(&arguments), folder }
    }

    fn joined(&self) -> &Self {
        self.server.log_line("cluster: joined as ");
        self
    }

    /// Runs a command of the console.
    #[track_caller]
    fn ctl(&self, command: &str) -> (Option<i32>, String, String) {
        let address = self.folder.console();
        let mut arguments = vec!["--connect", &address];
        arguments.extend(command.split(' '));
        ctl(&arguments, "")
    }

    /// The answer to a command that succeeds.
    #[track_caller]
    fn ask(&self, command: &str) -> String {
        let (code, said, error) = self.ctl(command);
        assert_eq!(code, Some(0), "{command}: {said}{error}");
        said
    }

    /// Waits until a count over nodes is so many: rows are written a moment later.
    #[track_caller]
    fn counts(&self, words: &str, count: u64) {
        let expected = format!("sessions  {count}\n");
        let command = format!("count {words}");
        eventually(&format!("{command} to be {count}"), || (self.ctl(&command).1 == expected).then_some(()));
    }
}

fn nodes(store: &StoreServer) -> [Node; 3] {
    let nodes = ["a", "b", "c"].map(|name| Node::start(name, &store.url(), &[]));
    for node in &nodes {
        node.joined();
    }
    nodes
}

#[test]
#[ignore = "needs redis-server; tests/run runs it"]
fn a_console_finds_tells_and_ends_the_sessions_of_all_nodes() {
    let store = StoreServer::start(Program::Redis);
    let [a, b, c] = nodes(&store);
    let mut peers: Vec<_> = [&a, &b, &b, &c].iter().map(|node| connect(node.server.address)).collect();
    peers.iter_mut().for_each(greet);
    a.counts("node=*", 4);
    c.counts("node=b", 2);
    let listed = a.ask("list nodes --json");
    let names: Vec<_> = listed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
    let names: Vec<_> =
        names.iter().map(|node| (node["node"].as_str().unwrap(), node["is_own"].as_bool().unwrap())).collect();
    assert_eq!(names, [("a", true), ("b", false), ("c", false)]);

    let all = a.ask("list all --json");
    assert_eq!(all.lines().count(), 4, "{all}");
    let of_b: Vec<Value> =
        c.ask("list node=b --json").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ports: Vec<_> = of_b.iter().map(|row| row["peer"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ports, [1, 2].map(|at| peers[at].local_addr().unwrap().to_string()));
    let id = of_b[0]["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("b."), "{id}");
    assert!(c.ask(&format!("show {id}")).contains(&ports[0]));

    // To one by its id, and to all.
    assert!(c.ask(&format!("push {id} -- for you")).contains('b'));
    expect(&mut peers[1], "for you\r\n");
    a.ask("push node=* all -- for all");
    peers.iter_mut().for_each(|peer| expect(peer, "for all\r\n"));
    let kicked = a.ask(&format!("kick {id} -- bye"));
    assert!(kicked.contains('b') && kicked.contains('1'), "{kicked}");
    assert_eq!(rest(&mut peers[1]), b"bye\r\n");
    a.counts("node=b", 1);
    let (code, _, error) = a.ctl(&format!("kick {id}"));
    assert_eq!((code, error.as_str()), (Some(0), ""), "nobody there any more is an answer");

    // A node that hangs is named, and what the others say is there.
    c.server.signal(Signal::STOP);
    let (code, said, error) = a.ctl("kick node=* all -- all of you");
    assert_eq!(code, Some(1), "{said}{error}");
    assert!(error.contains("not all nodes have answered: c: "), "{error}");
    assert!(said.contains('a') && said.contains('b'), "{said}");
    assert_eq!(rest(&mut peers[0]), b"all of you\r\n");
    assert_eq!(rest(&mut peers[2]), b"all of you\r\n");
    // Its lease ends, and so do its rows.
    a.counts("node=*", 0);
    c.server.signal(Signal::CONT);
    c.server.log_line("is fenced: ");
    greet(&mut peers[3]);
    a.counts("node=c", 1);

    assert_eq!(
        a.ctl("list node=x!").2.trim_end(),
        "rot13d ctl: \"node=x!\" is no node: use a name, as node=b, or node=* for all; list nodes has them"
    );
    assert!(a.ctl("list node=b idle>1s").2.contains("a list over nodes does not know idle"));
    assert!(a.ctl("kick node=b 7").2.contains("is a session of one node: write its id"));
}

#[test]
#[ignore = "needs redis-server; tests/run runs it"]
fn a_node_goes_on_without_its_store_and_joins_again() {
    let mut store = StoreServer::start(Program::Redis);
    let (_reserved, http) = reserve();
    let node = Node::start("a", &store.url(), &["--http", &http.to_string()]);
    node.joined();
    eventually("readiness", || (get(http, "/readyz") == (200, "ok\n".to_owned())).then_some(()));
    let mut peer = connect(node.server.address);
    greet(&mut peer);
    node.counts("node=*", 1);
    store.kill();
    node.server.log_line("cluster: store lost");
    eventually("readiness", || (get(http, "/readyz") == (200, "cluster: store lost\n".to_owned())).then_some(()));
    greet(&mut peer);
    let mut second = connect(node.server.address);
    greet(&mut second);
    let (code, _, error) = node.ctl("list all");
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("the store"), "{error}");
    assert!(node.ask("count").contains('2'), "this node's own");
    // It has forgotten everything.
    store.start_again();
    node.server.log_line("cluster: store found");
    node.counts("node=*", 2);
    assert_eq!(get(http, "/readyz"), (200, "ok\n".to_owned()));
    assert_eq!(node.server.log_lines("cluster: store lost", 1).len(), 1, "said once");
}

#[test]
#[ignore = "needs redis-server; tests/run runs it"]
fn a_store_that_is_not_there_at_the_start_is_waited_for() {
    let (_reserved, address) = reserve();
    let node = Node::start("a", &format!("redis://{address}"), &[]);
    node.server.log_line("cluster: store lost");
    let mut peer = connect(node.server.address);
    greet(&mut peer);
    let mut store = StoreServer::start(Program::Redis);
    store.move_to(address.port());
    node.joined();
    node.counts("node=*", 1);
}

#[test]
fn the_log_of_a_lost_store_says_that_connections_are_refused_if_they_are() {
    let (_reserved, address) = reserve();
    let closed = ["--cluster-max-sessions", "5", "--cluster-on-partition", "closed"];
    for (flags, said) in [
        (&closed[..2], "; lists and limits are this node's own, rooms reach this node alone"),
        (&closed[..], "; new connections are refused, lists are this node's own, rooms reach this node alone"),
    ] {
        let node = Node::start("a", &format!("redis://{address}"), flags);
        let line = node.server.log_line("cluster: store lost");
        assert!(line.ends_with(said), "{line}");
    }
}

#[test]
fn a_server_without_a_cluster_says_how_to_have_one() {
    let folder = Folder::new("no-cluster");
    let address = folder.console();
    let _server = Server::start(&["--console", &address]);
    for command in [
        "list nodes",
        "list node=*",
        "kick node=* -- bye",
        "push a.1f3a5c7d.17 -- x",
        "count node=b",
        "show a.1f3a5c7d.17",
    ] {
        let mut arguments = vec!["--connect", &address];
        arguments.extend(command.split(' '));
        let (code, said, error) = ctl(&arguments, "");
        let expected = "rot13d ctl: no cluster: start with --cluster URL\n";
        assert_eq!((code, said.as_str(), error.as_str()), (Some(1), "", expected), "{command}");
    }
    // Everybody here, as ever.
    assert_eq!(ctl(&["--connect", &address, "count", "all"], ""), (Some(0), "sessions  0\n".to_owned(), String::new()));
}
