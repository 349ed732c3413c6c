//! OutboxLimit: what becomes of bytes for a peer that does not read, by the session's own policy or the server's.

mod support;

use std::time::Duration;

use actix::{Actor, AsyncContext};
use actix_lines::{
    CloseReason, CloseReport, Line, LineContext, LineHandler, LineServer,
    control::SessionFilter,
    limits::{Limits, OutboxLimit, OutboxPolicy, SoftLimit},
};
use support::{Peer, Server, eventually, pass, pause, within};

const HARD: usize = 200_000;
const CHUNK: usize = 10_000;

/// Answers each line with itself; chooses its own outbox policy, or begins to write without end, when a line says so.
struct Choosy;

impl Actor for Choosy {
    type Context = LineContext<Self>;
}

impl LineHandler for Choosy {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
        let of = |policy| OutboxLimit { policy, hard: HARD, soft: None };
        match line.text() {
            b"disconnect" => ctx.set_outbox_limit(of(OutboxPolicy::Disconnect)).unwrap(),
            b"drop" => ctx.set_outbox_limit(of(OutboxPolicy::DropNewest)).unwrap(),
            b"take" => ctx.set_outbox_limit(of(OutboxPolicy::Accept)).unwrap(),
            b"pour" => drop(ctx.run_interval(Duration::from_millis(1), |_, ctx| ctx.write([b'x'; CHUNK]))),
            _ => {}
        }
    }
}

async fn choosy(server: &Server, line: &str) -> Peer {
    let mut peer = server.connect().await;
    peer.send(format!("{line}\n").as_bytes()).await;
    peer.expect(format!("{line}\n").as_bytes()).await;
    peer
}

#[actix::test]
async fn each_policy_does_what_it_says_to_a_session_that_does_not_read() {
    let mut server = Server::start(LineServer::new(|_| Choosy).workers(1)).await;
    let disconnected = choosy(&server, "disconnect").await;
    let mut dropped = choosy(&server, "drop").await;
    let mut taken = choosy(&server, "take").await;
    let ids: Vec<_> = server.sessions().await.iter().map(|session| session.id).collect();
    let chunk = bytes::Bytes::from(vec![b'x'; CHUNK]);
    let mut got = [0, 0, 0];
    // What the kernel takes is not in the outbox, so it takes some to fill one.
    eventually("the outboxes to fill", async || {
        for (got, id) in got.iter_mut().zip(&ids) {
            *got += server.handle.push(SessionFilter::id(*id), chunk.clone()).await.unwrap().sessions as usize;
        }
        let sessions = server.sessions().await;
        sessions.iter().any(|session| session.id == ids[2] && session.outbox_bytes > 3 * HARD)
    })
    .await;
    let report = server.report().await;
    assert_eq!((report.id, report.reason, report.cut), (ids[0], CloseReason::OutboxFull, true));
    assert!((1..=HARD as u64).contains(&report.unsent_bytes), "{report:?}");
    assert_eq!(report.bytes_out + report.unsent_bytes, (got[0] * CHUNK) as u64 + "disconnect\n".len() as u64);
    drop(disconnected);
    let sessions = server.sessions().await;
    assert!(sessions[0].id == ids[1] && sessions[0].outbox_bytes <= HARD, "{sessions:?}");
    assert!(got[1] < got[2], "{got:?}");
    // Those that live get what they were promised.
    for (peer, count) in [(&mut dropped, got[1]), (&mut taken, got[2])] {
        peer.shutdown_write().await;
        assert_eq!(peer.rest().await.len(), count * CHUNK);
    }
    drop((dropped, taken));
    for _ in 0..2 {
        assert_eq!(server.report().await.unsent_bytes, 0);
    }
    server.end().await;
}

#[actix::test]
async fn a_handler_that_pours_into_a_deaf_peer_is_disconnected_where_that_is_the_policy() {
    let outbox_limit = OutboxLimit { policy: OutboxPolicy::Disconnect, hard: HARD, soft: None };
    let limits = Limits::builder().outbox_limit(outbox_limit).build().unwrap();
    let mut server = Server::start(LineServer::new(|_| Choosy).limits(limits).workers(1)).await;
    let peer = choosy(&server, "pour").await;
    let report = server.report().await;
    assert_eq!(report.reason, CloseReason::OutboxFull);
    // Of a timer that is late several ticks come in one turn: it starts over 64 times at most.
    assert!((HARD as u64..(HARD + 66 * CHUNK) as u64).contains(&report.unsent_bytes), "{report:?}");
    drop(peer);
    server.end().await;
}

#[actix::test]
async fn an_outbox_above_the_soft_limit_is_forgiven_for_a_time_only() {
    pause();
    let soft = Some(SoftLimit { bytes: 50_000, time: Duration::from_secs(10) });
    let limits = Limits::builder().outbox_limit(OutboxLimit { soft, hard: 1 << 30, ..OutboxLimit::default() });
    let server = LineServer::new(|_| Choosy).limits(limits.build().unwrap()).on_current_arbiter();
    let mut server = Server::start(server).await;
    let mut peer = choosy(&server, "hello").await;
    let all = SessionFilter::default();
    let chunk = bytes::Bytes::from(vec![b'x'; 10 * CHUNK]);
    let mut got = 0;
    for above in [false, true] {
        // More than the kernel may yet take while nobody reads, or the outbox would not stay above.
        let most = if above { 8_000_000 } else { 200_000 };
        eventually("the outbox to fill", async || {
            got += 10 * server.handle.push(all.clone(), chunk.clone()).await.unwrap().sessions as usize;
            server.sessions().await[0].outbox_bytes > most
        })
        .await;
        if above {
            break;
        }
        // In time it reads: nothing happens.
        pass(Duration::from_secs(8)).await;
        peer.expect(&vec![b'x'; got * CHUNK]).await;
        got = 0;
        pass(Duration::from_secs(30)).await;
        assert_eq!(server.sessions().await[0].outbox_bytes, 0);
    }
    let begin = tokio::time::Instant::now();
    let report = within("the end", server.report()).await;
    let took = begin.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(11)).contains(&took), "{took:?}");
    assert_eq!(report.reason, CloseReason::OutboxFull);
    server.end().await;
}

#[actix::test]
async fn all_sessions_together_hold_no_more_than_the_budget_and_the_largest_goes_first() {
    const BUDGET: usize = 4 << 20;
    const ROUND: usize = 24 * CHUNK;
    let limits = Limits::builder()
        .outbox_limit(OutboxLimit { policy: OutboxPolicy::Accept, ..OutboxLimit::default() })
        .memory_budget(Some(BUDGET))
        .build()
        .unwrap();
    let mut server = Server::start(LineServer::new(|_| Choosy).limits(limits).workers(2)).await;
    let mut peers = Vec::new();
    for _ in 0..20 {
        peers.push(choosy(&server, "hello").await);
    }
    let sessions = server.sessions().await;
    let ids: Vec<_> = sessions.iter().map(|session| session.id).collect();
    // Of two workers the one that is reported first need not be the one that ended first.
    let neighbours: Vec<_> = sessions.iter().filter(|session| session.worker == sessions[7].worker).collect();
    let is_neighbour = |end: &CloseReport| neighbours.iter().any(|session| session.id == end.id);
    let chunk = bytes::Bytes::from(vec![b'x'; CHUNK]);
    let mut most = 0;
    let mut ends = Vec::new();
    let mut rounds = 0;
    while ends.len() < 10 {
        // Session 7 is pushed five times as much as the others, of which none reads.
        for (whom, times) in [(SessionFilter::default(), 1), (SessionFilter::id(ids[7]), 4)] {
            for _ in 0..times {
                within("a push", server.handle.push(whom.clone(), chunk.clone())).await.unwrap();
            }
        }
        most = most.max(server.handle.stats().await.unwrap().outbox_bytes);
        while let Some(report) = server.report_if_any() {
            ends.push(report);
        }
        rounds += 1;
        assert!(rounds < 20_000, "nobody is evicted");
    }
    for end in &ends {
        assert_eq!((end.reason, end.cut), (CloseReason::Evicted, true), "{end:?}");
    }
    let first = ends.iter().find(|end| is_neighbour(end));
    assert_eq!(first.map(|end| end.id), Some(ids[7]), "the largest goes first");
    // What two workers had not said yet, and what was pushed while the largest was looked for.
    let bound = BUDGET + 2 * 64 * 1024 + 2 * ROUND;
    assert!((BUDGET / 2..bound).contains(&(most as usize)), "at most {most} bytes of {BUDGET}");
    drop(peers);
    for _ in ends.len()..20 {
        server.report().await;
    }
    server.end().await;
}

#[actix::test]
async fn many_small_sessions_of_one_source_are_evicted_before_a_larger_one_of_another() {
    const BUDGET: usize = 4 << 20;
    let limits = Limits::builder()
        .outbox_limit(OutboxLimit { policy: OutboxPolicy::Accept, ..OutboxLimit::default() })
        .memory_budget(Some(BUDGET))
        .build()
        .unwrap();
    let mut server = Server::start(LineServer::new(|_| Choosy).limits(limits).workers(1)).await;
    // On Linux all of 127.0.0.0/8 is this host.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let honest = within("a connection", socket.connect(server.address())).await.unwrap();
    eventually("the first session", async || !server.sessions().await.is_empty()).await;
    let honest_id = server.sessions().await[0].id;
    let mut attackers = Vec::new();
    for _ in 0..12 {
        attackers.push(choosy(&server, "hello").await);
    }
    let ids: Vec<_> = server.sessions().await.iter().map(|session| session.id).collect();
    let chunk = bytes::Bytes::from(vec![b'x'; 5 * CHUNK]);
    // Nobody reads. What the kernel takes is not in the outbox; then the honest one is owed the most of all.
    for id in ids {
        let wanted = if id == honest_id { 1_500_000 } else { 150_000 };
        eventually("the outbox to fill", async || {
            within("a push", server.handle.push(SessionFilter::id(id), chunk.clone())).await.unwrap();
            server.handle.session(id).await.unwrap().unwrap().outbox_bytes >= wanted
        })
        .await;
    }
    let of_attackers = SessionFilter::source("127.0.0.1".parse().unwrap());
    let mut ends = Vec::new();
    eventually("evictions", async || {
        within("a push", server.handle.push(of_attackers.clone(), chunk.clone())).await.unwrap();
        ends.extend(server.report_if_any());
        ends.len() == 6
    })
    .await;
    for end in &ends {
        assert_eq!(end.reason, CloseReason::Evicted, "{end:?}");
        assert_ne!(end.id, honest_id, "the largest of all, but not of the heaviest source: {ends:?}");
    }
    drop((honest, attackers));
    for _ in ends.len()..13 {
        server.report().await;
    }
    server.end().await;
}
