//! Live control: list, look up, push, kick, pause a listener, change limits, while sessions live.

mod support;

use std::time::Duration;

use actix::{Actor, AsyncContext, fut::wrap_future};
use actix_lines::{
    CloseReason, Line, LineContext, LineHandler, LineServer,
    control::{SessionFilter, SessionOrder, SessionQuery, SessionState},
    limits::{Limits, OutboxLimit},
};
use support::{Echo, Peer, Server, eventually, pass, pause, within};

/// Answers each line with itself; waits for ever, or pauses, when it is told to.
struct Obedient;

impl Actor for Obedient {
    type Context = LineContext<Self>;
}

impl LineHandler for Obedient {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
        match line.text() {
            b"wait" => ctx.wait(wrap_future::<_, Self>(std::future::pending())),
            b"pause" => ctx.pause(),
            _ => {}
        }
    }
}

async fn start() -> Server {
    Server::start(LineServer::new(|_| Obedient).workers(2)).await
}

async fn greeted(server: &Server, lines: usize) -> Peer {
    let mut peer = server.connect().await;
    for _ in 0..lines {
        peer.send(b"hello\n").await;
        peer.expect(b"hello\n").await;
    }
    peer
}

#[actix::test]
async fn sessions_are_listed_by_page_filter_and_order() {
    let server = start().await;
    let mut peers = Vec::new();
    for lines in 1..=7 {
        peers.push(greeted(&server, lines).await);
    }
    peers[2].send(b"pause\n").await;
    peers[2].expect(b"pause\n").await;
    let all = server.sessions().await;
    let ids: Vec<_> = all.iter().map(|session| session.id).collect();
    assert!(ids.is_sorted() && ids.len() == 7, "{ids:?}");

    let by_lines = SessionQuery::default().order(SessionOrder::Lines).limit(3);
    let mut lines = Vec::new();
    for offset in [0, 3, 6, 9] {
        let page = server.handle.sessions(by_lines.clone().offset(offset)).await.unwrap();
        assert_eq!(page.total, 7);
        lines.push(page.sessions.iter().map(|session| session.lines_in).collect::<Vec<_>>());
    }
    assert_eq!(lines, [vec![7, 6, 5], vec![4, 4, 2], vec![1], vec![]]);

    let held = SessionFilter::default().state(SessionState::Held);
    let page = server.handle.sessions(held).await.unwrap();
    assert_eq!((page.total, page.sessions[0].id), (1, ids[2]));

    let peer = all[4].peer.socket_addr().unwrap();
    assert_eq!(peer, peers[4].stream.local_addr().unwrap());
    assert_eq!(within("a look-up", server.handle.session(ids[4])).await.unwrap().unwrap().lines_in, 5);
    drop(peers.remove(4));
    eventually("it to be gone", async || server.handle.session(ids[4]).await.unwrap().is_none()).await;
}

#[actix::test]
async fn a_push_reaches_those_it_is_for_in_whatever_they_do() {
    let server = start().await;
    let mut peers = Vec::new();
    for line in ["hello\n", "wait\n", "pause\n"] {
        let mut peer = server.connect().await;
        peer.send(line.as_bytes()).await;
        peer.expect(line.as_bytes()).await;
        peers.push(peer);
    }
    let everybody = within("a broadcast", server.handle.push(SessionFilter::default(), "news\n")).await.unwrap();
    assert_eq!((everybody.sessions, everybody.dropped), (3, 0));
    let one = SessionFilter::id(server.sessions().await[1].id);
    assert_eq!(within("a push", server.handle.push(one, "for you\n")).await.unwrap().sessions, 1);
    peers[0].expect(b"news\n").await;
    peers[1].expect(b"news\nfor you\n").await;
    peers[2].expect(b"news\n").await;
    let nobody = SessionFilter::source("192.0.2.0/24".parse().unwrap());
    assert_eq!(within("a push", server.handle.push(nobody, "lost\n")).await.unwrap().sessions, 0);
    peers[0].send(b"hello\n").await;
    peers[0].expect(b"hello\n").await;
}

#[actix::test]
async fn a_session_that_does_not_read_is_pushed_no_more_than_the_limit() {
    const LIMIT: usize = 200_000;
    let limits = Limits::builder().outbox_limit(OutboxLimit { hard: LIMIT, ..OutboxLimit::default() }).build().unwrap();
    let mut server = Server::start(LineServer::new(|_| Echo).limits(limits).workers(1)).await;
    let mut deaf = greeted(&server, 1).await;
    let mut reads = greeted(&server, 1).await;
    let chunk = [vec![b'x'; 9_999], vec![b'\n']].concat();
    let (mut pushed, mut dropped) = (0, 0);
    while dropped < 10 {
        let result = server.handle.push(SessionFilter::default(), chunk.clone()).await.unwrap();
        assert_eq!(result.sessions + result.dropped, 2);
        pushed += 1;
        dropped += result.dropped;
        // Who reads gets every one.
        reads.expect(&chunk).await;
        assert!(server.sessions().await.iter().all(|session| session.outbox_bytes <= LIMIT), "{pushed}");
    }
    // And what was not dropped is not lost.
    let got = (pushed - dropped as usize) * chunk.len();
    deaf.shutdown_write().await;
    assert_eq!(deaf.rest().await.len(), got);
    drop((deaf, reads));
    for _ in 0..2 {
        assert_eq!(server.report().await.unsent_bytes, 0);
    }
    server.end().await;
}

#[actix::test]
async fn a_kicked_session_hears_goodbye_and_ends_politely() {
    let mut server = start().await;
    let (mut first, mut second) = (greeted(&server, 1).await, greeted(&server, 1).await);
    let id = server.sessions().await[0].id;
    assert_eq!(within("the kick", server.handle.kick(SessionFilter::id(id), "goodbye\n")).await.unwrap(), 1);
    assert_eq!(first.rest().await, b"goodbye\n");
    drop(first);
    let report = server.report().await;
    assert_eq!((report.id, report.reason, report.cut), (id, CloseReason::Kicked, false));
    second.send(b"hello\n").await;
    second.expect(b"hello\n").await;
    let network = SessionFilter::source("127.0.0.0/8".parse().unwrap());
    assert_eq!(within("the kick", server.handle.kick(network.clone(), "")).await.unwrap(), 1);
    second.expect_eof().await;
    drop(second);
    assert_eq!(server.report().await.reason, CloseReason::Kicked);
    assert_eq!(within("a kick of nobody", server.handle.kick(network, "")).await.unwrap(), 0);
    server.end().await;
}

#[actix::test]
async fn a_paused_listener_leaves_connections_in_the_backlog() {
    let server = LineServer::new(|_| Echo).workers(2).bind("127.0.0.1:0").unwrap();
    let mut server = Server::start(server).await;
    let mut early = server.connect().await;
    early.send(b"hello\n").await;
    early.expect(b"hello\n").await;
    let listener = server.sessions().await[0].listener.unwrap();
    assert!(within("the pause", server.handle.pause(listener)).await.unwrap());
    let mut late = server.connect().await;
    late.send(b"hello\n").await;
    let mut other = Peer::connect(server.handle.local_addrs()[1]).await;
    other.send(b"hello\n").await;
    other.expect(b"hello\n").await;
    early.send(b"hello\n").await;
    early.expect(b"hello\n").await;
    assert_eq!(server.handle.stats().await.unwrap().opened, 2, "the late one waits");
    assert!(within("the resumption", server.handle.resume(listener)).await.unwrap());
    late.expect(b"hello\n").await;
    drop((early, late, other));
    for _ in 0..3 {
        server.report().await;
    }
    server.end().await;
}

#[actix::test]
async fn a_listener_can_be_paused_before_anybody_has_connected() {
    let server = LineServer::new(|_| Echo).workers(2).bind("127.0.0.1:0").unwrap();
    let mut server = Server::start(server).await;
    let listeners = server.handle.listeners().to_vec();
    assert_eq!(
        listeners.iter().filter_map(|listener| listener.local_addr.socket_addr()).collect::<Vec<_>>(),
        server.handle.local_addrs()
    );
    assert!(within("the pause", server.handle.pause(listeners[1].id)).await.unwrap());
    let mut late = Peer::connect(listeners[1].local_addr.socket_addr().unwrap()).await;
    late.send(b"hello\n").await;
    let early = greeted(&server, 1).await;
    let sessions = server.sessions().await;
    assert_eq!(sessions.iter().map(|session| session.listener).collect::<Vec<_>>(), [Some(listeners[0].id)]);
    assert!(within("the resumption", server.handle.resume(listeners[1].id)).await.unwrap());
    late.expect(b"hello\n").await;
    drop((early, late));
    for _ in 0..2 {
        server.report().await;
    }
    server.end().await;
}

#[actix::test]
async fn times_that_are_changed_hold_for_the_living() {
    pause();
    let mut server = Server::start(LineServer::new(|_| Echo).on_current_arbiter()).await;
    let mut early = greeted(&server, 1).await;
    pass(Duration::from_secs(30)).await;
    let mut late = greeted(&server, 1).await;
    let limits = server.handle.limits().await.unwrap().to_builder().idle_timeout(Some(Duration::from_secs(20)));
    let limits = limits.build().unwrap();
    let ids: Vec<_> = server.sessions().await.iter().map(|session| session.id).collect();
    let would = server.handle.preview_limits(limits.clone()).await.unwrap();
    assert_eq!(would.ends.iter().map(|session| session.id).collect::<Vec<_>>(), [ids[0]]);
    assert!(would.ends[0].idle >= Duration::from_secs(29), "{would:?}");
    early.send(b"hello\n").await;
    early.expect(b"hello\n").await;
    pass(Duration::from_secs(15)).await;
    server.handle.set_limits(limits).await.unwrap();
    let begin = tokio::time::Instant::now();
    early.expect_eof().await;
    late.expect_eof().await;
    let ended = begin.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(7)).contains(&ended), "{ended:?}");
    drop((early, late));
    for _ in 0..2 {
        assert_eq!(server.report().await.reason, CloseReason::IdleTimeout);
    }
    server.end().await;
}
