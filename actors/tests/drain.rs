//! C5: a drain ends by its deadline, says how far it is and what became of each session.

mod support;

use std::{
    io::Write,
    net,
    sync::{Arc, OnceLock},
    time::Duration,
};

use actix::{
    Actor, AsyncContext, Context, Handler,
    fut::{ActorFutureExt, wrap_future},
};
use actix_lines::{
    CloseReason, Line, LineContext, LineHandler, LineServer,
    control::{Drain, DrainProgress, SessionEvent, Subscribe},
    limits::{Limits, OverLimit, Rate, RateLimit},
};
use support::{Echo, PATIENCE, Peer, Server, eventually, pause, within};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::mpsc, time::Instant};

/// Passes on how far a drain is.
struct Watcher(mpsc::UnboundedSender<DrainProgress>);

impl Actor for Watcher {
    type Context = Context<Self>;
}

impl Handler<SessionEvent> for Watcher {
    type Result = ();
    fn handle(&mut self, event: SessionEvent, _: &mut Self::Context) {
        if let SessionEvent::Draining(progress) = event {
            let _ = self.0.send(progress);
        }
    }
}

async fn with_peers(
    server: LineServer<Echo, impl Fn(&actix_lines::Connection) -> Echo + Clone + Send + 'static>,
    count: usize,
) -> (Server, Vec<Peer>) {
    let server = Server::start(server).await;
    let mut peers = Vec::new();
    for _ in 0..count {
        let mut peer = server.connect().await;
        peer.send(b"hello\n").await;
        peer.expect(b"hello\n").await;
        peers.push(peer);
    }
    (server, peers)
}

#[actix::test]
async fn a_handle_knows_how_far_a_drain_is() {
    let (server, peers) = with_peers(LineServer::new(|_| Echo).workers(2), 3).await;
    let handle = server.handle.clone();
    assert_eq!(handle.draining(), None);
    let draining = actix_rt::spawn({
        let handle = handle.clone();
        async move { handle.drain(PATIENCE).await }
    });
    eventually("the drain to begin", async || handle.draining().is_some_and(|drain| drain.left <= 3)).await;
    drop(peers);
    let report = within("the drain to end", draining).await.expect("a task").expect("a report");
    let last = handle.draining().expect("the last moment");
    assert_eq!((last.ended + last.cut, last.left), (report.ended + report.cut, 0));
}

#[actix::test]
async fn every_session_hears_the_goodbye_behind_its_answers() {
    let (server, mut peers) = with_peers(LineServer::new(|_| Echo).workers(2), 10).await;
    let drain = Drain { goodbye: "goodbye\n".into(), ..Drain::within(PATIENCE) };
    let report = server.handle.supervisor().send(drain);
    let report = actix_rt::spawn(report);
    for peer in &mut peers {
        assert_eq!(peer.rest().await, b"goodbye\n");
    }
    drop(peers);
    let report = within("the drain", report).await.unwrap().unwrap();
    assert_eq!((report.ended, report.cut), (10, 0));
}

#[actix::test]
async fn a_drain_that_is_spread_ends_sessions_one_after_the_other_and_tells_how_far_it_is() {
    pause();
    let (mut server, mut peers) = with_peers(LineServer::new(|_| Echo).on_current_arbiter(), 100).await;
    let (sender, mut progress) = mpsc::unbounded_channel();
    server.handle.supervisor().send(Subscribe::new(Watcher(sender).start().recipient())).await.unwrap();
    let begin = Instant::now();
    let spread = Duration::from_secs(10);
    let drain = Drain { spread, ..Drain::within(Duration::from_secs(60)) };
    let report = actix_rt::spawn(server.handle.supervisor().send(drain));
    // Whoever was not told yet is served as ever.
    peers[99].send(b"hello\n").await;
    peers[99].expect(b"hello\n").await;
    let mut ends = Vec::new();
    for mut peer in peers {
        peer.expect_eof().await;
        ends.push(begin.elapsed());
    }
    let report = within("the drain", report).await.unwrap().unwrap();
    assert_eq!((report.ended, report.cut), (100, 0));
    for (at, end) in ends.iter().enumerate() {
        let due = spread * at as u32 / 100;
        assert!((due..due + Duration::from_millis(400)).contains(end), "session {at} ended after {end:?}");
    }
    let mut said = Vec::new();
    while let Ok(progress) = progress.try_recv() {
        assert_eq!(progress.ended + progress.cut + progress.left, 100);
        said.push(progress.left);
    }
    assert!(said.len() >= 9 && said.is_sorted_by(|a, b| a >= b), "{said:?}");
    assert_eq!(said.last(), Some(&0));
    for _ in 0..100 {
        assert_eq!(server.report().await.reason, CloseReason::Drained);
    }
}

#[actix::test]
async fn sessions_that_do_not_end_are_cut_at_the_deadline() {
    pause();
    let limits = Limits::builder().linger_timeout(Duration::from_secs(600)).build().unwrap();
    let (mut server, mut peers) = with_peers(LineServer::new(|_| Echo).limits(limits).on_current_arbiter(), 10).await;
    let begin = Instant::now();
    let spread = Duration::from_secs(600);
    let report =
        actix_rt::spawn(server.handle.supervisor().send(Drain { spread, ..Drain::within(Duration::from_secs(20)) }));
    for peer in &mut peers[..4] {
        peer.expect_eof().await;
    }
    // Four close in time; the others read, but do not close.
    peers.drain(..4);
    let report = within("the drain", report).await.unwrap().unwrap();
    assert_eq!((report.ended, report.cut), (4, 6));
    let took = begin.elapsed();
    assert!((Duration::from_secs(20)..Duration::from_millis(20_500)).contains(&took), "{took:?}");
    for _ in 0..10 {
        assert_eq!(server.report().await.reason, CloseReason::Drained);
    }
}

/// Has `count` connections that have sent a line wait in the backlog.
async fn waiting(server: &Server, count: usize) -> Vec<Peer> {
    for listener in server.handle.listeners() {
        assert!(within("the pause", server.handle.pause(listener.id)).await.unwrap());
    }
    let mut peers = Vec::new();
    for _ in 0..count {
        let mut peer = server.connect().await;
        peer.send(b"hello\n").await;
        peers.push(peer);
    }
    assert_eq!(server.handle.stats().await.unwrap().opened, 0);
    peers
}

#[actix::test]
async fn what_lies_in_the_backlog_is_accepted_and_answered_before_the_listener_is_closed() {
    let server = || LineServer::new(|_| Echo);
    for server in [server().on_current_arbiter(), server().workers(1), server().workers(2)] {
        let server = Server::start(server).await;
        let mut peers = waiting(&server, 300).await;
        let report = actix_rt::spawn(server.handle.supervisor().send(Drain::within(PATIENCE)));
        for peer in &mut peers {
            assert_eq!(peer.rest().await, b"hello\n");
        }
        drop(peers);
        let report = within("the drain", report).await.unwrap().unwrap();
        assert_eq!((report.ended, report.cut), (300, 0));
        assert!(TcpStream::connect(server.address()).await.is_err(), "the listener is closed");
    }
}

#[actix::test]
async fn who_would_have_to_wait_behind_a_drain_is_told_that_he_is_refused() {
    pause();
    let refusal = b"too many connections, try again later\r\n";
    let rate = Some(Rate { per_second: 1, burst: 3 });
    for limits in [
        Limits::builder().max_sessions(3).over_limit(OverLimit::Wait),
        Limits::builder().accept_rate(rate).over_limit(OverLimit::Wait),
    ] {
        let limits = limits.build().unwrap();
        let server = Server::start(LineServer::new(|_| Echo).limits(limits).on_current_arbiter()).await;
        let mut peers = waiting(&server, 13).await;
        let report = actix_rt::spawn(server.handle.supervisor().send(Drain::within(Duration::from_secs(20))));
        for peer in &mut peers[3..] {
            assert_eq!(peer.rest().await, refusal);
        }
        // The drain has an eye on those that stay; they have a second.
        for peer in peers.drain(..3) {
            drop(peer);
        }
        let begin = Instant::now();
        let report = within("the drain", report).await.unwrap().unwrap();
        assert_eq!(report.ended + report.cut, 3);
        assert!(begin.elapsed() <= Duration::from_secs(2), "{:?}", begin.elapsed());
        assert_eq!(server.handle.stats().await.unwrap().refused.values().sum::<u64>(), 10);
    }
}

#[actix::test]
async fn lines_that_lie_in_the_kernel_are_answered_before_the_goodbye() {
    for workers in [1, 2] {
        for rate in [RateLimit::default(), RateLimit { bytes: Some(Rate::per_second(6)), lines: None }] {
            let limits = Limits::builder().session_rate(rate).build().unwrap();
            let (mut server, mut peers) =
                with_peers(LineServer::new(|_| Echo).limits(limits).workers(workers), 20).await;
            let drain = Drain { goodbye: "goodbye\n".into(), ..Drain::within(Duration::from_secs(60)) };
            for peer in &peers {
                // Not a call of the reactor's: nobody has seen these when the drain is asked for.
                assert_eq!(peer.stream.try_write(b"one\ntwo\nbegun").unwrap(), 13);
            }
            server.handle.supervisor().do_send(drain);
            for peer in &mut peers {
                assert_eq!(String::from_utf8_lossy(&peer.rest().await), "one\ntwo\ngoodbye\n");
            }
            drop(peers);
            for _ in 0..20 {
                let report = server.report().await;
                assert_eq!((report.reason, report.lines_in, report.undelivered_bytes), (CloseReason::Drained, 3, 5));
            }
            within("the end", server.handle.wait()).await.unwrap();
        }
    }
}

#[actix::test]
async fn a_peer_that_had_closed_before_the_drain_has_its_tail_answered() {
    let (mut server, mut peers) = with_peers(LineServer::new(|_| Echo), 1).await;
    let peer = &mut peers[0];
    assert_eq!(peer.stream.try_write(b"one\nthe tail").unwrap(), 12);
    peer.stream.shutdown().await.unwrap();
    server.handle.supervisor().do_send(Drain::within(Duration::from_secs(60)));
    assert_eq!(String::from_utf8_lossy(&peer.rest().await), "one\nthe tail");
    assert_eq!(server.report().await.undelivered_bytes, 0);
}

/// Waits at each line, then answers it. A peer that is given sends another line instead whenever one waits.
struct Waiting(Arc<OnceLock<net::TcpStream>>);

impl Actor for Waiting {
    type Context = LineContext<Self>;
}

impl LineHandler for Waiting {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        let mut answer = line.to_vec();
        if let Some(mut peer) = self.0.get() {
            peer.write_all(b"more\n").unwrap();
            answer.clear();
        }
        let waits = wrap_future::<_, Self>(tokio::task::yield_now());
        ctx.wait(waits.map(move |(), _, ctx| ctx.write(&answer)));
    }
}

#[actix::test]
async fn a_peer_that_sends_on_while_its_lines_wait_does_not_keep_a_drain_from_its_end() {
    let peer = Arc::new(OnceLock::new());
    let known = Arc::clone(&peer);
    let mut server = Server::start(LineServer::new(move |_| Waiting(Arc::clone(&known))).workers(1)).await;
    let mut stream = peer.get_or_init(|| net::TcpStream::connect(server.address()).unwrap());
    stream.write_all(b"more\n").unwrap();
    eventually("lines to come", async || server.sessions().await.iter().any(|session| session.lines_in > 10)).await;
    // Its deadline is further away than the patience of the test.
    let drained = within("the drain", server.handle.drain(4 * PATIENCE)).await.unwrap();
    assert_eq!((drained.ended, drained.cut), (1, 0));
    assert_eq!(server.report().await.reason, CloseReason::Drained);
}

#[actix::test]
async fn a_tail_behind_a_line_that_waits_is_answered_in_a_drain_too() {
    let nobody = Arc::new(OnceLock::new());
    let mut server = Server::start(LineServer::new(move |_| Waiting(Arc::clone(&nobody)))).await;
    let mut peer = server.connect().await;
    peer.send(b"hello\n").await;
    peer.expect(b"hello\n").await;
    assert_eq!(peer.stream.try_write(b"one\nthe tail").unwrap(), 12);
    peer.stream.shutdown().await.unwrap();
    server.handle.supervisor().do_send(Drain::within(Duration::from_secs(60)));
    assert_eq!(String::from_utf8_lossy(&peer.rest().await), "one\nthe tail");
    assert_eq!(server.report().await.undelivered_bytes, 0);
}

const DELAY: Duration = Duration::from_secs(5);

#[actix::test]
async fn a_drain_with_a_delay_is_said_at_once_and_serves_whoever_comes_until_it_begins() {
    pause();
    let (server, mut peers) = with_peers(LineServer::new(|_| Echo).on_current_arbiter(), 1).await;
    let handle = server.handle.clone();
    let begin = Instant::now();
    let drain = Drain::within(Duration::from_secs(60)).goodbye("goodbye\n").delay(DELAY);
    let report = actix_rt::spawn(async move { handle.drain(drain).await });
    eventually("the drain to be announced", async || server.handle.draining().is_some()).await;
    let progress = server.handle.draining().expect("a drain");
    assert!(!progress.has_begun() && progress.begins_in <= DELAY, "{progress:?}");
    assert_eq!((progress.duration, progress.left), (Duration::ZERO, 1));
    support::pass(DELAY / 2).await;
    // A session that ends meanwhile has not ended by the drain.
    drop(server.connect().await);
    let mut late = server.connect().await;
    late.send(b"hello\n").await;
    late.expect(b"hello\n").await;
    peers.push(late);
    eventually("the end of the one that left", async || server.sessions().await.len() == 2).await;
    assert!(begin.elapsed() < DELAY);
    for mut peer in peers {
        within("the goodbye", async {
            assert_eq!(peer.rest().await, b"goodbye\n");
        })
        .await;
        assert!((DELAY..DELAY + Duration::from_millis(400)).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    }
    let report = within("the drain", report).await.unwrap().unwrap();
    assert_eq!((report.ended, report.cut), (2, 0));
    assert!(report.duration < Duration::from_secs(1), "{report:?}");
    within("the end", server.handle.wait()).await.unwrap();
}

#[actix::test]
async fn a_second_drain_without_a_delay_begins_at_once() {
    pause();
    let (server, mut peers) = with_peers(LineServer::new(|_| Echo).on_current_arbiter(), 1).await;
    let begin = Instant::now();
    let drain = Drain::within(Duration::from_secs(60)).delay(Duration::from_secs(3600));
    let first = actix_rt::spawn(server.handle.supervisor().send(drain.clone()));
    support::pass(DELAY).await;
    // Whoever asks again for the same changes nothing.
    let again = actix_rt::spawn(server.handle.supervisor().send(drain.clone()));
    support::pass(DELAY).await;
    assert!(server.handle.draining().is_some_and(|progress| !progress.has_begun()));
    let hurried = actix_rt::spawn(server.handle.supervisor().send(drain.delay(Duration::ZERO)));
    peers[0].expect_eof().await;
    assert!(begin.elapsed() < 3 * DELAY, "{:?}", begin.elapsed());
    drop(peers);
    for report in [first, again, hurried] {
        let report = within("a report", report).await.unwrap().unwrap();
        assert_eq!((report.ended, report.cut), (1, 0));
    }
}

#[actix::test]
async fn the_deadline_counts_from_the_end_of_the_delay_and_an_abort_waits_for_neither() {
    const DEADLINE: Duration = Duration::from_secs(20);
    pause();
    let limits = || Limits::builder().linger_timeout(Duration::from_secs(600)).build().unwrap();
    let serve = || LineServer::new(|_| Echo).limits(limits()).on_current_arbiter();
    let (server, peers) = with_peers(serve(), 1).await;
    let begin = Instant::now();
    let report = within("the drain", server.handle.drain(Drain::within(DEADLINE).delay(DELAY))).await.unwrap();
    assert_eq!((report.ended, report.cut, begin.elapsed().as_secs()), (0, 1, (DELAY + DEADLINE).as_secs()));
    assert_eq!(report.duration.as_secs(), DEADLINE.as_secs());
    drop(peers);

    let (server, _peers) = with_peers(serve(), 1).await;
    let begin = Instant::now();
    let delayed = actix_rt::spawn(server.handle.supervisor().send(Drain::within(DEADLINE).delay(DELAY)));
    support::pass(DELAY / 5).await;
    let report = within("the abort", server.handle.abort()).await.unwrap();
    assert!(begin.elapsed() < DELAY, "{:?}", begin.elapsed());
    assert_eq!(report.cut, 1);
    assert_eq!(within("the other report", delayed).await.unwrap().unwrap(), report);
}
