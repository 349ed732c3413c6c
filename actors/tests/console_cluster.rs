//! The console of one node speaks for all: it finds, tells and ends the sessions of a cluster, and says which answers are missing.

#[path = "support/asking.rs"]
mod asking;
#[path = "support/members.rs"]
mod members;
mod support;

use std::{path::PathBuf, sync::atomic::AtomicUsize, time::Duration};

use actix_lines::{
    LineServer, Listener, ServerHandle,
    cluster::{
        Cluster, FleetLimits, OnPartition,
        memory::{Fault, Memory},
    },
    console::Console,
};
use asking::Asking;
use members::Nameable;
use serde_json::{Value, json};
use support::{Peer, eventually, within};
use tokio::net::UnixStream;

/// A node with its console, and its own way to the store.
struct Node {
    server: ServerHandle,
    console: ServerHandle,
    cluster: Cluster,
    store: Memory,
    path: PathBuf,
}

impl Node {
    fn start(name: &str, store: &Memory) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let nth = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("actix-lines-nodes-{}-{nth}.sock", std::process::id()));
        let store = store.view();
        let cluster = Cluster::builder(store.clone()).node(name).lease(Duration::from_secs(5)).about("test");
        let cluster = cluster.build().unwrap();
        let server = LineServer::new(|_| Nameable).workers(1).cluster(&cluster).unwrap();
        let server = server.listen(Listener::tcp("127.0.0.1:0").name("public")).unwrap().start().unwrap();
        let console = Console::at(Listener::unix(&path)).cluster(&cluster).serve(&server).unwrap();
        Self { server, console, cluster, store, path }
    }

    async fn joined(&self) {
        eventually("the lease", async || self.cluster.node().is_some()).await;
    }

    /// A session with this name.
    async fn peer(&self, name: &str) -> Peer {
        let mut peer = Peer::connect(self.server.local_addrs()[0]).await;
        let line = format!("!name {name}\n");
        peer.send(line.as_bytes()).await;
        peer.expect(line.as_bytes()).await;
        peer
    }

    async fn console(&self) -> Asking<UnixStream> {
        Asking::new(within("the console", UnixStream::connect(&self.path)).await.unwrap())
    }

    async fn ask(&self, command: &str) -> Vec<String> {
        self.console().await.ask(command).await
    }

    async fn json(&self, command: &str) -> Vec<Value> {
        self.console().await.json(command).await
    }

    /// Waits until a count over nodes is so many: rows are written a moment later.
    async fn counts(&self, words: &str, count: usize) {
        let expected = [count.to_string()];
        eventually(words, async || self.ask(&format!("count {words}")).await == expected).await;
    }

    async fn end(self) {
        within("the end", self.server.abort()).await.unwrap();
        within("the end", self.server.wait()).await.unwrap();
        within("the end of the console", self.console.wait()).await.unwrap();
    }
}

#[actix::test]
async fn a_console_finds_tells_and_ends_the_sessions_of_all_nodes() {
    let store = Memory::new();
    let (a, b) = (Node::start("a", &store), Node::start("b", &store));
    a.joined().await;
    b.joined().await;
    let mut peers = [a.peer("alice").await, b.peer("alice").await, b.peer("Bob B").await];
    a.counts("node=*", 3).await;
    a.counts("node=* name=alice", 2).await;
    a.counts("node=b name=alice", 1).await;
    assert_eq!(a.ask("count").await, ["1"], "this node alone");
    assert_eq!(a.ask("count all").await, ["3"]);

    let nodes = a.json("list nodes").await;
    let names: Vec<_> = nodes.iter().map(|node| (&node["node"], &node["sessions"], &node["is_own"])).collect();
    assert_eq!(names, [(&json!("a"), &json!(1), &json!(true)), (&json!("b"), &json!(2), &json!(false))]);
    let text = a.ask("list nodes").await;
    assert!(text[1].starts_with("a ") && text[1].ends_with(" test (this one)"), "{text:?}");
    assert_eq!(text.last().map(String::as_str), Some("2 nodes, this one is a"));

    let listed = a.ask("list all").await;
    assert_eq!(listed.len(), 5, "{listed:?}");
    assert!(listed[3].ends_with(" name=\"Bob B\"") && listed[4] == "3 of 3 sessions", "{listed:?}");
    let rows = a.json("list node=b sort age limit 1").await;
    assert_eq!((rows.len(), &rows[0]["name"]), (1, &json!("alice")));
    let id = rows[0]["id"].as_str().unwrap();
    assert!(id.starts_with(&b.cluster.node().unwrap().to_string()), "{id}");
    let shown = a.ask(&format!("show {id}")).await;
    assert_eq!(shown[0], format!("id           {id}"));
    assert!(shown.contains(&"name         alice".to_owned()), "{shown:?}");

    assert_eq!(a.ask(&format!("push {id} -- for you")).await, ["b: 1 session"]);
    peers[1].expect(b"for you\r\n").await;
    assert_eq!(a.ask("push node=* name=alice -- for alices").await, ["a: 1 session", "b: 1 session"]);
    for peer in &mut peers[..2] {
        peer.expect(b"for alices\r\n").await;
    }
    let dry = a.ask("kick node=* name=\"Bob B\" dry-run -- bye").await;
    assert_eq!((dry.len(), dry[0].as_str()), (3, "would end 1 session"));
    assert_eq!(a.ask("kick node=* name=\"Bob B\" -- bye").await, ["a: not found", "b: 1 session"]);
    peers[2].expect(b"bye\r\n").await;
    let answers = a.json(&format!("kick {id}")).await;
    assert_eq!((answers.len(), &answers[0]["node"]), (1, &json!("b")));
    assert_eq!(answers[0]["outcome"]["done"]["sessions"], 1);
    b.counts("node=*", 1).await;
    let gone = a.ask(&format!("show {id}")).await;
    assert_eq!(gone, [format!("error: \"{id}\" is no live session: list all has them all")]);
    drop(peers);
    a.end().await;
    b.end().await;
}

#[actix::test]
async fn an_answer_that_is_a_part_names_what_is_missing() {
    let store = Memory::new();
    let (a, b) = (Node::start("a", &store), Node::start("b", &store));
    a.joined().await;
    b.joined().await;
    let mut peer = a.peer("alice").await;
    a.counts("node=*", 1).await;
    // It hears nothing, and nobody hears it.
    b.store.fail(Fault::Partitioned);
    let answers = a.ask("push node=* all -- hello").await;
    peer.expect(b"hello\r\n").await;
    assert_eq!(answers.len(), 3, "{answers:?}");
    assert_eq!(answers[0], "a: 1 session");
    assert!(answers[1].starts_with("b: "), "{answers:?}");
    assert_eq!(answers[2], format!("error: not all nodes have answered: {}", answers[1]));
    // Alone it does its own part.
    a.store.fail(Fault::Partitioned);
    let answers = a.ask("push node=* all -- still here").await;
    peer.expect(b"still here\r\n").await;
    assert_eq!(answers[0], "a: 1 session");
    assert!(answers.last().is_some_and(|last| last.starts_with("error: not all nodes have answered: ")), "{answers:?}");
    let listed = a.ask("list all").await;
    assert!(listed.last().is_some_and(|last| last.starts_with("error: the store ")), "{listed:?}");
    a.end().await;
    b.end().await;
}

#[actix::test]
async fn words_over_nodes_are_checked_before_anything_is_done() {
    let store = Memory::new();
    let a = Node::start("a", &store);
    a.joined().await;
    for (command, error) in [
        ("list node=a!", r#""node=a!" is no node: use a name, as node=b, or node=* for all; list nodes has them"#),
        ("list node=a node=b", r#""node=" is the second of its kind: write one"#),
        ("kick node=a 7", r#""7" is a session of one node: write its id, as a.1f3a5c7d.17; list all has them"#),
        ("list node=* sort bytes-in", r#""bytes-in" is no order of a list over nodes: use id or age"#),
        ("list node=* sort", r#""sort" stands alone: write id or age behind it"#),
        ("list nodes all", r#""all" is too much: list nodes stands alone"#),
        ("push node=a", r#""push" has no text: write it behind --, as push all -- hello"#),
        (
            "kick node=*",
            r#""node=*" says only where: write a filter too, or all for every session there, as kick node=* all"#,
        ),
        (
            "kick node=a dry-run",
            r#""node=a" says only where: write a filter too, or all for every session there, as kick node=a all"#,
        ),
        (
            "push node=* -- x",
            r#""node=*" says only where: write a filter too, or all for every session there, as push node=* all"#,
        ),
        ("kick node=* limit 1", r#""limit" is for list: kick takes filters alone"#),
        ("show nope.1", r#""nope.1" is no session: use its number, as 7 or #7, or its id, as a.1f3a5c7d.17"#),
        (
            "set cluster-max-sessions 5",
            r#""cluster-max-sessions" is a limit over nodes: set it by the file and SIGHUP, on every node"#,
        ),
        ("top node=*", r#""node=*" is of no use here: this is not over nodes, ask each node"#),
        ("watch node=a", r#""node=a" is of no use here: this is not over nodes, ask each node"#),
        ("count node", r#""node" is no filter: use node=NAME, or node=* for all nodes"#),
        ("count node=a perr=unix", r#""perr=unix" is no filter: did you mean peer=unix?"#),
    ] {
        assert_eq!(a.ask(command).await, [format!("error: {error}")], "{command}");
    }
    let momentary = a.ask("list node=* idle>5m").await;
    assert!(momentary.last().unwrap().starts_with("error: a list over nodes does not know idle"), "{momentary:?}");
    let others = a.ask("count whatever").await;
    assert!(others[0].contains("use ID, all, node=NAME, peer=NETWORK, "), "{others:?}");
    let others = a.ask("top whatever").await;
    assert!(others[0].contains("use ID, all, peer=NETWORK, "), "{others:?}");
    let help = a.ask("help list").await;
    assert!(help.contains(&"  In a cluster all are the sessions of all nodes.".to_owned()), "{help:?}");
    let help = a.ask("help kick").await;
    assert!(help.iter().any(|line| line.starts_with("    node=        ")), "{help:?}");
    a.end().await;
}

#[actix::test]
async fn a_node_that_does_not_exist_is_an_error_of_every_command() {
    let store = Memory::new();
    let (a, b) = (Node::start("web-1", &store), Node::start("web-2", &store));
    a.joined().await;
    b.joined().await;
    for command in [
        "list node=",
        "count node=",
        "kick name=alice node=",
        "kick dry-run all node=",
        "push all -- x",
        "push all node=",
    ] {
        let asked = |name: &str| match command.split_once(" -- ") {
            Some((words, text)) => format!("{words} node={name} -- {text}"),
            None if command.starts_with("push") => format!("{command}{name} -- x"),
            None => format!("{command}{name}"),
        };
        let error = r#"error: "nope" is no node with a lease: list nodes lists them"#;
        assert_eq!(a.ask(&asked("nope")).await, [error], "{command}");
        let error = r#"error: "web-3" is no node with a lease: did you mean web-1?"#;
        assert_eq!(a.ask(&asked("web-3")).await, [error], "{command}");
        let json = a.json(&asked("nope")).await;
        assert_eq!((json.len(), &json[0]["word"]), (1, &json!("nope")), "{command}");
        // One that has nobody for it is one.
        let answer = a.ask(&asked("web-2")).await;
        assert!(!answer.iter().any(|line| line.starts_with("error: ")), "{command}: {answer:?}");
    }
    a.end().await;
    b.end().await;
}

#[actix::test]
async fn a_session_that_has_ended_is_no_error_of_a_kick_and_one_of_an_earlier_life_is_since_it_may_live_on() {
    let store = Memory::new();
    let (a, b) = (Node::start("a", &store), Node::start("b", &store));
    a.joined().await;
    b.joined().await;
    let old = b.cluster.node().unwrap();
    b.end().await;
    assert_eq!(a.ask("kick 7").await, ["0 sessions"]);
    let gone = a.ask(&format!("kick {old}.7")).await;
    assert_eq!(gone[0], "b: node gone", "{gone:?}");
    let b = Node::start("b", &store);
    b.joined().await;
    for node in [&a, &b] {
        let gone = node.ask(&format!("kick {old}.7")).await;
        assert_eq!(gone, ["b: node gone", "error: not all nodes have answered: b: node gone"]);
    }
    let new = b.cluster.node().unwrap();
    assert_eq!(a.ask(&format!("kick {new}.7")).await, ["b: not found"]);
    a.end().await;
    b.end().await;
}

#[actix::test]
async fn stats_say_how_the_store_is_and_which_limits_hold_over_nodes() {
    let store = Memory::new();
    let a = Node::start("a", &store);
    a.joined().await;
    let _peer = a.peer("alice").await;
    a.cluster.set_limits(FleetLimits::builder().max_sessions(5).on_partition(OnPartition::Closed).build().unwrap());
    let line = |text: &str, name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    let text = a.ask("stats").await.join("\n");
    assert!(line(&text, "cluster-store ").ends_with(" connected"), "{text}");
    let limits = "max-sessions 5, max-sessions-per-source off, accept-rate-per-source off, on-partition closed";
    assert!(line(&text, "cluster-limits ").ends_with(limits), "{text}");
    a.counts("node=*", 1).await;
    let id = a.json("list all").await[0]["id"].as_str().unwrap().to_owned();
    a.store.fail(Fault::Partitioned);
    eventually("the loss", async || a.json("stats").await[0]["cluster"]["store"]["state"] == "lost").await;
    let cluster = a.json("stats").await[0]["cluster"].take();
    assert_eq!((&cluster["node"], &cluster["limits"]["max_sessions"]), (&json!("a"), &json!(5)));
    assert!(line(&a.ask("stats").await.join("\n"), "cluster-store ").contains(" lost for "));
    let shown = a.ask(&format!("show {id}")).await;
    assert!(shown.contains(&"name         alice".to_owned()), "asked of itself: {shown:?}");
    a.end().await;
}

#[actix::test]
async fn without_a_cluster_the_console_says_how_to_have_one() {
    let path = std::env::temp_dir().join(format!("actix-lines-no-nodes-{}.sock", std::process::id()));
    let server = LineServer::new(|_| Nameable).workers(1).bind("127.0.0.1:0").unwrap().start().unwrap();
    let console = Console::at(Listener::unix(&path)).serve(&server).unwrap();
    let cluster = Cluster::builder(Memory::new()).node("unused").build().unwrap();
    let node = Node { server, console, cluster, store: Memory::new(), path };
    for command in ["list nodes", "list node=*", "count node=a", "show a.1f3a5c7d.1", "kick node=a", "push node=* -- x"]
    {
        assert_eq!(node.ask(command).await, ["error: no cluster: start with --cluster URL"], "{command}");
    }
    assert_eq!(node.ask("count all").await, ["0"], "everybody here");
    node.end().await;
}
