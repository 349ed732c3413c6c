//! The chat over nodes: three processes of the example and one Redis between them.
//!
//! Not here: the chat in one process (`examples`), rooms over nodes with all that may go wrong (the library's
//! `cluster_rooms`).

mod support;

#[path = "../actors/tests/support/redis.rs"]
mod redis;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use redis::{Program, StoreServer};
use support::{Server, eventually, example, expect};

fn node(name: &str, store: &StoreServer) -> Server {
    let mut command = example("chat");
    command.args(["--listen", "127.0.0.1:0", "--node", name, "--cluster", &store.url()]);
    let server = Server::spawn(command);
    // Before that a name is there once on each node.
    server.log_line("cluster: joined as");
    server
}

fn enter(server: &Server, name: &str) -> TcpStream {
    let mut peer = server.connect();
    peer.write_all(format!("{name}\r\n").as_bytes()).unwrap();
    expect(&mut peer, &format!("Your name?\r\nWelcome, {name}. /who lists who is here, /quit leaves.\r\n"));
    peer
}

/// Reads what comes within a moment. Returns all that was heard.
fn listen<'a>(peer: &mut TcpStream, heard: &'a mut String) -> &'a str {
    peer.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut bytes = [0; 10_000];
    let count = peer.read(&mut bytes).unwrap_or(0);
    heard.push_str(&String::from_utf8_lossy(&bytes[..count]));
    heard
}

/// Has `speaker` say something until `listener` hears it: from then on it hears all, in order.
fn hears(listener: &mut TcpStream, speaker: &mut TcpStream, word: &str) {
    let (mut number, mut heard) = (0, String::new());
    eventually("to be heard", || {
        speaker.write_all(format!("{word} {number}\r\n").as_bytes()).unwrap();
        number += 1;
        listen(listener, &mut heard).contains(&format!(": {word} ")).then_some(())
    });
    let last = format!("the last {word}\r\n");
    speaker.write_all(last.as_bytes()).unwrap();
    eventually("the last word", || listen(listener, &mut heard).contains(&last).then_some(()));
    let said = format!(": {word} ");
    let words: Vec<usize> = heard.lines().filter_map(|line| line.split_once(&said)?.1.parse().ok()).collect();
    assert!(words.windows(2).all(|pair| pair[1] == pair[0] + 1), "once, in order: {words:?}");
    assert_eq!(words.last(), Some(&(number - 1)), "from the first one that is heard all are");
}

#[test]
#[ignore = "needs redis-server or valkey-server; tests/run runs it"]
fn three_nodes_are_one_chat() {
    for program in Program::installed() {
        let mut store = StoreServer::start(program);
        let nodes = ["a", "b", "c"].map(|name| node(name, &store));
        let [mut ann, mut ben, mut cid] =
            [(0, "ann"), (1, "ben"), (2, "cid")].map(|(at, name)| enter(&nodes[at], name));
        // A name is there once on all nodes, however it is written, and free again when who had it has left.
        let mut other = nodes[1].connect();
        other.write_all(b"Ann\r\ndan\r\n").unwrap();
        let taken = "Your name?\r\nThat name is taken. Your name?\r\nWelcome, dan.";
        expect(&mut other, &format!("{taken} /who lists who is here, /quit leaves.\r\n"));
        other.write_all(b"/quit\r\n").unwrap();
        expect(&mut other, "Goodbye.\r\n");
        let mut heard = String::new();
        eventually("the name to be free on another node", || {
            let mut again = nodes[2].connect();
            again.write_all(b"DAN\r\n/quit\r\n").unwrap();
            // It has an end also where the name is not free yet, and `/quit` is no name.
            again.shutdown(Shutdown::Write).unwrap();
            heard.clear();
            again.read_to_string(&mut heard).is_ok().then(|| heard.contains("Welcome, DAN.").then_some(()))?
        });
        hears(&mut ben, &mut ann, "apple");
        hears(&mut cid, &mut ann, "pear");
        hears(&mut ann, &mut cid, "plum");
        eventually("all names of all nodes", || {
            cid.write_all(b"/who\r\n").unwrap();
            listen(&mut cid, &mut String::new()).contains("* ann, ben, cid\r\n").then_some(())
        });
        // Without the store those of one node hear each other, and when it is back all do.
        store.kill();
        let mut dan = nodes[1].connect();
        dan.write_all(b"dan\r\nstill here\r\n").unwrap();
        let mut heard = String::new();
        eventually("one of the same node", || listen(&mut ben, &mut heard).contains("dan: still here").then_some(()));
        nodes[0].log_line("store lost");
        store.start_again();
        nodes[0].log_line("store found");
        eventually("one of another node", || {
            ann.write_all(b"back again\r\n").unwrap();
            listen(&mut ben, &mut heard).contains("ann: back again").then_some(())
        });
    }
}
