//! Each log message of the library is one line of bounded length, whatever a peer has sent.

#[path = "support/logged.rs"]
mod logged;
mod support;

use std::time::Duration;

use actix::Actor;
use actix_lines::{
    Line, LineContext, LineHandler, LineServer,
    connect::{Backoff, Connector},
};
use logged::logged;
use support::{Echo, Server, eventually, hold};

fn keep_log() {
    logged::keep_log("actix_lines", log::LevelFilter::Trace);
}

/// Waits for a message that begins so.
async fn message(begin: &str) -> String {
    let mut found = None;
    eventually(begin, async || {
        found = logged().iter().find(|line| line.starts_with(begin)).cloned();
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// A line that would clear a terminal, and stand in a log as if it were another one.
const EVIL: &str = "\u{1b}[2J\u{9b}1m\r[2026-01-01T00:00:00Z INFO rot13d] all is well\u{202e}\u{8}\0";

/// Panics with what the peer has sent, as a parser may.
struct Picky;

impl Actor for Picky {
    type Context = LineContext<Self>;
}

impl LineHandler for Picky {
    fn line(&mut self, line: Line<'_>, _: &mut Self::Context) {
        panic!("cannot parse {}", String::from_utf8_lossy(line.text()));
    }
}

#[actix::test]
async fn a_panic_that_quotes_the_peer_is_one_line_of_bounded_length() {
    keep_log();
    let mut server = Server::start(LineServer::new(|_| Picky)).await;
    let mut peer = server.connect().await;
    peer.send(format!("{EVIL}{}\n", "x".repeat(10_000)).as_bytes()).await;
    // Or the session would linger.
    drop(peer);
    let id = server.report().await.id;
    let message = message(&format!("session {id} from ")).await;
    assert!(message.contains(r": its handler panicked: cannot parse \u{1b}[2J\u{9b}1m\r[2026-01-"), "{message}");
    assert!(message.contains(r"all is well\u{202e}\u{8}\0xxx"), "{message}");
    assert!(!message.chars().any(char::is_control) && message.len() < 2000, "{message}");
    server.end().await;
}

/// Holds its worker for as many milliseconds as its line says, then ends if that is odd.
struct Holding;

impl Actor for Holding {
    type Context = LineContext<Self>;
}

impl LineHandler for Holding {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        let milliseconds = String::from_utf8_lossy(line.text()).parse().unwrap();
        hold(Duration::from_millis(milliseconds));
        ctx.write(line);
        if milliseconds % 2 == 1 {
            ctx.abort();
        }
    }
}

#[actix::test]
async fn a_session_that_holds_its_worker_is_counted_and_named() {
    keep_log();
    let mut server = Server::start(LineServer::new(|_| Holding).workers(1)).await;
    let mut peer = server.connect().await;
    peer.send(b"150\n").await;
    peer.expect(b"150\n").await;
    let id = server.sessions().await[0].id;
    let named = message(&format!("session {id} from ")).await;
    assert!(named.contains(" at listener 0: a turn took ") && named.contains("`ctx.wait_for`"), "{named}");
    let stats = server.handle.stats().await.unwrap();
    assert!(stats.slow_turns >= 1 && stats.slow_turn_time >= Duration::from_millis(100), "{stats:?}");
    // Each is counted, whether it is logged or not.
    peer.send(b"152\n").await;
    peer.expect(b"152\n").await;
    eventually("the second to be counted", async || server.handle.stats().await.unwrap().slow_turns > stats.slow_turns)
        .await;
    drop(peer);
    server.report().await;
    server.end().await;

    // One that ends in that turn is named, too.
    let mut server = Server::start(LineServer::new(|_| Holding).workers(1)).await;
    let mut peer = server.connect().await;
    peer.send(b"151\n").await;
    let id = server.report().await.id;
    let is_named = |line: &String| line.starts_with(&format!("session {id}")) && line.contains(" turn took ");
    eventually("the session to be named", async || logged().iter().any(is_named)).await;
    server.end().await;
}

#[actix::test]
async fn where_no_turn_is_timed_none_is_slow() {
    let mut server = Server::start(LineServer::new(|_| Holding).workers(1).slow_turn(None)).await;
    let mut peer = server.connect().await;
    peer.send(b"150\n").await;
    peer.expect(b"150\n").await;
    let stats = server.handle.stats().await.unwrap();
    assert_eq!((stats.slow_turns, stats.slow_turn_time), (0, Duration::ZERO));
    drop(peer);
    server.report().await;
    server.end().await;
}

#[actix::test]
async fn a_target_that_only_its_resolver_understands_is_logged_as_one_line() {
    keep_log();
    let backoff = Backoff { initial: Duration::from_millis(1), max: Duration::from_millis(1), ..Backoff::default() };
    let connector = Connector::builder(EVIL, |_, _| Echo).resolver(async |_| Err(std::io::Error::other(EVIL)));
    connector.max_attempts(2).backoff(backoff).start().unwrap();
    for begin in [r"giving up on \u{1b}[2J", r"cannot look up \u{1b}[2J"] {
        let message = message(begin).await;
        assert!(!message.chars().any(char::is_control), "{message:?}");
    }
}
