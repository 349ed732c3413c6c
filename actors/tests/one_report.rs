//! C1: exactly one report for each admitted session, in every end; and counters that balance.

mod support;

use std::{collections::BTreeMap, time::Duration};

use actix::{Actor, ActorContext, AsyncContext, fut::wrap_future};
use actix_lines::{CloseReason, CloseReport, Line, LineContext, LineHandler, LineServer};
use support::{Echo, PATIENCE, Server, eventually, within};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Ends its session in the way that a line names.
struct Obedient;

impl Actor for Obedient {
    type Context = LineContext<Self>;
}

impl LineHandler for Obedient {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        match line.text() {
            b"stop" => ctx.stop(),
            b"drain" => ctx.drain(),
            b"abort" => ctx.abort(),
            b"terminate" => ctx.terminate(),
            b"panic" => panic!("a fault on purpose"),
            b"spawn a panic" => {
                ctx.spawn(wrap_future(async { panic!("a fault on purpose") }));
            }
            _ => ctx.write(&line),
        }
    }
}

#[actix::test]
async fn each_way_to_end_has_its_reason_and_one_report() {
    let mut server = Server::start(LineServer::new(|_| Obedient)).await;
    let ways: [(&[u8], CloseReason); 6] = [
        (b"stop\n", CloseReason::ClosedByHandler),
        (b"drain\n", CloseReason::ClosedByHandler),
        (b"abort\n", CloseReason::Aborted),
        (b"terminate\n", CloseReason::Aborted),
        (b"panic\n", CloseReason::HandlerPanicked),
        (b"spawn a panic\n", CloseReason::HandlerPanicked),
    ];
    for (line, reason) in ways {
        let mut peer = server.connect().await;
        peer.send(line).await;
        peer.expect_eof().await;
        drop(peer);
        assert_eq!(server.report().await.reason, reason, "{}", String::from_utf8_lossy(line));
    }
    let stats = server.handle.stats().await.unwrap();
    assert_eq!((stats.opened, stats.live), (6, 0));
    assert_eq!(stats.closed, BTreeMap::from([("aborted", 2), ("closed-by-handler", 2), ("handler-panicked", 2)]));
    server.end().await;
}

#[actix::test]
async fn a_peer_that_closes_and_one_that_resets_are_told_apart() {
    let mut server = Server::start(LineServer::new(|_| Echo)).await;
    let mut peer = server.connect().await;
    peer.send(b"hello\n").await;
    peer.expect(b"hello\n").await;
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::PeerEof);
    let mut peer = server.connect().await;
    peer.send(b"hello\n").await;
    peer.expect(b"hello\n").await;
    peer.reset();
    let report = server.report().await;
    assert_eq!((report.reason, report.cut), (CloseReason::PeerReset, false));
    server.end().await;
}

#[actix::test]
async fn a_reset_while_the_outbox_is_stuck_is_noticed() {
    let mut server = Server::start(LineServer::new(|_| Echo)).await;
    let mut peer = server.connect().await;
    let line = [vec![b'x'; 999], vec![b'\n']].concat();
    peer.send_until_stuck(&server, &line, 16 * 1024).await;
    peer.reset();
    let report = server.report().await;
    assert_eq!(report.reason, CloseReason::PeerReset);
    assert!(report.unsent_bytes > 0, "{report:?}");
    server.end().await;
}

#[actix::test]
async fn a_drained_and_an_aborted_server_report_each_session() {
    for (deadline, reason) in [(PATIENCE, CloseReason::Drained), (Duration::ZERO, CloseReason::Aborted)] {
        let mut server = Server::start(LineServer::new(|_| Echo).workers(2)).await;
        let mut peers = Vec::new();
        for _ in 0..20 {
            let mut peer = server.connect().await;
            peer.send(b"hello\n").await;
            peer.expect(b"hello\n").await;
            peers.push(peer);
        }
        let handle = server.handle.clone();
        let draining = actix_rt::spawn(async move { handle.drain(deadline).await.unwrap() });
        for peer in &mut peers {
            peer.expect_eof().await;
        }
        drop(peers);
        let drained = within("the drain", draining).await.unwrap();
        assert_eq!(drained.ended + drained.cut, 20);
        assert_eq!(drained.cut, if deadline.is_zero() { 20 } else { 0 });
        let mut ids = Vec::new();
        for _ in 0..20 {
            let report = server.report().await;
            assert_eq!(report.reason, reason);
            ids.push(report.id);
        }
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 20, "each session once");
        server.end().await;
    }
}

#[actix::test]
async fn an_arbiter_that_stops_under_its_sessions_leaves_their_reports() {
    let mut server = Server::start(LineServer::new(|_| Echo).workers(2)).await;
    let mut peers = Vec::new();
    for _ in 0..10 {
        let mut peer = server.connect().await;
        peer.send(b"hello\n").await;
        peer.expect(b"hello\n").await;
        peers.push(peer);
    }
    server.handle.arbiters()[0].stop();
    for _ in 0..5 {
        assert_eq!(server.report().await.reason, CloseReason::WorkerStopped);
    }
    let stats = server.handle.stats().await.unwrap();
    assert_eq!((stats.opened, stats.live, stats.closed["worker-stopped"]), (10, 5, 5));
    // New connections go to the worker that is left.
    let mut late = server.connect().await;
    late.send(b"hello\n").await;
    late.expect(b"hello\n").await;
    drop((late, peers));
    for _ in 0..6 {
        assert_eq!(server.report().await.reason, CloseReason::PeerEof);
    }
    server.end().await;
}

#[actix::test]
async fn when_every_worker_stops_the_server_ends_and_says_so() {
    let mut server = Server::start(LineServer::new(|_| Echo).workers(1)).await;
    let mut peer = server.connect().await;
    peer.send(b"hello\n").await;
    peer.expect(b"hello\n").await;
    server.handle.arbiters()[0].stop();
    assert_eq!(server.report().await.reason, CloseReason::WorkerStopped);
    let error = within("the end of the server", server.handle.wait()).await.unwrap_err();
    assert!(error.to_string().contains("every worker has stopped"), "{error}");
}

/// Writes more than the kernel takes when its hooks are called at the end.
struct Farewell;

impl Actor for Farewell {
    type Context = LineContext<Self>;

    fn stopping(&mut self, ctx: &mut Self::Context) -> actix::Running {
        ctx.write(b"goodbye\n");
        actix::Running::Stop
    }
}

impl LineHandler for Farewell {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
    }

    fn closed(&mut self, report: &CloseReport) {
        assert_eq!(report.reason, CloseReason::WorkerStopped);
    }
}

#[actix::test]
async fn what_the_kernel_takes_is_sent_even_when_the_arbiter_stops() {
    let mut server = Server::start(LineServer::new(|_| Farewell).workers(1)).await;
    let mut peer = server.connect().await;
    peer.send(b"hello\n").await;
    peer.expect(b"hello\n").await;
    server.handle.arbiters()[0].stop();
    assert_eq!(peer.rest().await, b"goodbye\n");
    let report = server.report().await;
    assert_eq!((report.bytes_out, report.unsent_bytes), (14, 0));
}

#[actix::test]
async fn a_thousand_sessions_that_end_in_all_ways_balance() {
    let mut server = Server::start(LineServer::new(|_| Obedient).workers(2)).await;
    let lines: [&[u8]; 5] = [b"stop\n", b"abort\n", b"panic\n", b"drain\n", b"hello\n"];
    let mut peers = Vec::new();
    for at in 0..1000 {
        let mut peer = server.connect().await;
        peer.send(lines[at % lines.len()]).await;
        peers.push(peer);
        if peers.len() == 100 {
            peers.clear();
        }
    }
    drop(peers);
    eventually("all ends to be counted", async || {
        let stats = server.handle.stats().await.unwrap();
        assert_eq!(stats.opened, stats.live + stats.closed.values().sum::<u64>());
        stats.opened == 1000 && stats.live == 0
    })
    .await;
    for _ in 0..1000 {
        server.report().await;
    }
    server.end().await;
}

/// Says when it is dropped, and so does each of its futures.
struct Laden(UnboundedSender<&'static str>);

/// Sends its text when it is dropped.
struct Parting(UnboundedSender<&'static str>, &'static str);

impl Drop for Parting {
    fn drop(&mut self) {
        let _ = self.0.send(self.1);
    }
}

impl Actor for Laden {
    type Context = LineContext<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        let _ = self.0.send("stopped");
    }
}

impl LineHandler for Laden {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
        for wait in [false, true] {
            let parting = Parting(self.0.clone(), if wait { "wait" } else { "future" });
            let endless = wrap_future(async move {
                let _parting = parting;
                std::future::pending().await
            });
            if wait {
                ctx.wait(endless);
            } else {
                ctx.spawn(endless);
            }
        }
    }
}

#[actix::test]
async fn a_session_that_waits_is_reached_by_an_abort_and_by_the_end_of_its_arbiter() {
    for (how, reason) in [("abort", CloseReason::Aborted), ("arbiter", CloseReason::WorkerStopped)] {
        let (said, mut hear) = unbounded_channel();
        let mut server = Server::start(LineServer::new(move |_| Laden(said.clone())).workers(1)).await;
        let mut peer = server.connect().await;
        peer.send(b"wait for ever\nnever delivered\n").await;
        peer.expect(b"wait for ever\n").await;
        match how {
            "abort" => drop(within("the abort", server.handle.abort()).await.unwrap()),
            _ => drop(server.handle.arbiters()[0].stop()),
        }
        let report = server.report().await;
        assert_eq!((report.reason, report.lines_in, report.undelivered_bytes), (reason, 1, 16), "{how}");
        let mut heard = Vec::new();
        while heard.len() < 3 {
            heard.push(within("the state to be dropped", hear.recv()).await.unwrap());
        }
        heard.sort_unstable();
        assert_eq!(heard, ["future", "stopped", "wait"], "{how}");
    }
}

#[actix::test]
async fn a_server_on_the_current_arbiter_reports_as_any_other() {
    let mut server = Server::start(LineServer::new(|_| Obedient).on_current_arbiter()).await;
    for (line, reason) in [(b"stop\n", CloseReason::ClosedByHandler), (b"exit\n", CloseReason::PeerEof)] {
        let mut peer = server.connect().await;
        peer.send(line).await;
        peer.shutdown_write().await;
        peer.rest().await;
        drop(peer);
        assert_eq!(server.report().await.reason, reason);
    }
    let mut peer = server.connect().await;
    peer.send(b"hello\n").await;
    peer.expect(b"hello\n").await;
    let handle = server.handle.clone();
    let draining = actix_rt::spawn(async move { handle.drain(PATIENCE).await.unwrap() });
    peer.expect_eof().await;
    drop(peer);
    let drained = within("the drain", draining).await.unwrap();
    assert_eq!((drained.ended, drained.cut), (1, 0));
    assert_eq!(server.report().await.reason, CloseReason::Drained);
    server.end().await;
}
