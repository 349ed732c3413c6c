//! D4: whenever we close first the peer gets every byte written before, then FIN, and never a reset over unread input.

mod support;

use std::{net::TcpListener, sync::Arc, time::Duration};

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, WrapFuture};
use actix_lines::{
    CloseReason, Framing, Line, LineContext, LineHandler, LineServer, Lines, Overlong, control::SessionFilter,
    limits::Limits,
};
use support::{PATIENCE, Server, eventually, is_direct, pass, pause, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
};

/// A reply larger than any socket buffer will take at once.
const LONG_REPLY: usize = 6 << 20;

/// Answers the first line at length, and ends in the way it names.
struct Ending;

impl Actor for Ending {
    type Context = LineContext<Self>;
}

impl LineHandler for Ending {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(vec![b'x'; LONG_REPLY]);
        match line.text() {
            b"stop" => ctx.stop(),
            b"drain" => ctx.drain(),
            _ => {}
        }
    }

    fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
        if let Some(line) = lines.next(ctx) {
            self.line(line, ctx);
        }
    }

    fn overlong(&mut self, ctx: &mut Self::Context) {
        ctx.write(b"too long\n");
    }
}

/// Keeps sending while it reads the reply slowly; returns what it read, which has to end in a clean EOF.
async fn reply_under_fire(server: &Server, first: &[u8]) -> Vec<u8> {
    let peer = server.connect().await;
    let (mut read, mut write) = peer.stream.into_split();
    write.write_all(first).await.unwrap();
    let fire = actix_rt::spawn(async move {
        // Unread input of the server's; it may stop being read at any time. Less than it discards after its FIN.
        let _ = write.write_all(&vec![b'y'; 1 << 20]).await;
        let _ = write.shutdown().await;
        write
    });
    let mut got = Vec::new();
    within("the reply and a clean EOF", read.read_to_end(&mut got)).await.expect("no reset");
    drop(within("the sender", fire).await);
    got
}

#[actix::test]
async fn every_byte_arrives_when_the_handler_stops_or_drains() {
    // Room for all that comes under fire: a piece of it would be a line that was read, and a drain delivers those.
    let framing = Framing::lf().max_line(16 << 20).unwrap();
    let mut server = Server::start(LineServer::new(|_| Ending).framing(framing)).await;
    for how in ["stop\n", "drain\n"] {
        let got = reply_under_fire(&server, how.as_bytes()).await;
        assert_eq!(got.len(), LONG_REPLY, "{how}");
        let report = server.report().await;
        assert_eq!((report.reason, report.cut), (CloseReason::ClosedByHandler, false), "{how}");
        assert_eq!((report.bytes_out, report.unsent_bytes), (LONG_REPLY as u64, 0), "{how}");
    }
    server.end().await;
}

#[actix::test]
async fn every_byte_arrives_when_a_line_is_too_long() {
    let framing = Framing::lf().max_line(1000).unwrap().overlong(Overlong::Close);
    let mut server = Server::start(LineServer::new(|_| Ending).framing(framing)).await;
    let got = reply_under_fire(&server, b"answer this\n").await;
    assert_eq!(got.len(), LONG_REPLY + "too long\n".len());
    assert!(got.ends_with(b"xtoo long\n"));
    assert_eq!(server.report().await.reason, CloseReason::Overlong);
    server.end().await;
}

#[actix::test]
async fn every_byte_arrives_when_the_server_drains() {
    let mut server = Server::start(LineServer::new(|_| Ending)).await;
    let mut peer = server.connect().await;
    peer.send(b"answer this\nincomplete").await;
    eventually("the line to be answered", async || server.sessions().await.iter().any(|session| session.lines_in == 1))
        .await;
    let handle = server.handle.clone();
    let draining = actix_rt::spawn(async move { handle.drain(PATIENCE).await });
    let got = peer.rest().await;
    assert_eq!(got.len(), LONG_REPLY);
    drop(peer);
    let drained = within("the drain", draining).await.unwrap().unwrap();
    assert_eq!((drained.ended, drained.cut), (1, 0));
    let report = server.report().await;
    assert_eq!((report.reason, report.tail_bytes, report.undelivered_bytes), (CloseReason::Drained, 10, 10));
    server.end().await;
}

#[actix::test]
async fn an_abort_is_not_polite_and_says_so() {
    let mut server = Server::start(LineServer::new(|_| Ending)).await;
    let mut peer = server.connect().await;
    peer.send(b"answer this\n").await;
    eventually("the reply to be stuck", async || {
        server.sessions().await.iter().any(|session| session.outbox_bytes > 0)
    })
    .await;
    within("the abort", server.handle.abort()).await.unwrap();
    let report = server.report().await;
    assert_eq!((report.reason, report.cut), (CloseReason::Aborted, true));
    assert_eq!(report.bytes_out + report.unsent_bytes, LONG_REPLY as u64);
    assert!(report.unsent_bytes > 0);
    server.end().await;
}

/// Holds its answers back: it waits for a sign at each line, or pauses at the first and never goes on.
struct Held {
    sign: Arc<Semaphore>,
    pauses: bool,
}

impl Actor for Held {
    type Context = LineContext<Self>;
}

impl LineHandler for Held {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        if self.pauses {
            ctx.write(&line);
            return ctx.pause();
        }
        let (line, sign) = (line.to_vec(), Arc::clone(&self.sign));
        let wait = async move { sign.acquire().await.unwrap().forget() }.into_actor(self);
        ctx.wait(wait.map(move |(), _, ctx| ctx.write(&line)));
    }
}

#[actix::test]
async fn a_drain_answers_what_was_read_also_where_a_session_waits_or_has_paused() {
    for pauses in [false, true] {
        let sign = Arc::new(Semaphore::new(0));
        let given = Arc::clone(&sign);
        let factory = move |_: &_| Held { sign: Arc::clone(&given), pauses };
        let mut server = Server::start(LineServer::new(factory)).await;
        let mut peer = server.connect().await;
        peer.send(b"one\ntwo\nthree\npart").await;
        eventually("the lines to be read", async || {
            server.sessions().await.iter().any(|session| session.bytes_in == 18)
        })
        .await;
        let handle = server.handle.clone();
        let draining = actix_rt::spawn(async move { handle.drain(PATIENCE).await });
        // The listener closes first, so once another can have its place the drain has begun.
        eventually("the listener to close", async || TcpListener::bind(server.handle.local_addrs()[0]).is_ok()).await;
        sign.add_permits(3);
        assert_eq!(peer.rest().await, b"one\ntwo\nthree\n", "pauses: {pauses}");
        drop(peer);
        let drained = within("the drain", draining).await.unwrap().unwrap();
        assert_eq!((drained.ended, drained.cut), (1, 0));
        let report = server.report().await;
        assert_eq!((report.reason, report.lines_in, report.undelivered_bytes), (CloseReason::Drained, 3, 4));
        server.end().await;
    }
}

/// Bytes that a server discards after its FIN by default, and what one read more may bring.
const DISCARDED: u64 = (1 << 20) + (64 << 10);

#[actix::test]
async fn a_peer_that_talks_on_and_on_gets_its_answer_too_and_then_a_reset() {
    if !is_direct() {
        return; // It is the tunnel that is reset.
    }
    let mut server = Server::start(LineServer::new(|_| Ending)).await;
    let peer = server.connect().await;
    let (mut read, mut write) = peer.stream.into_split();
    write.write_all(b"stop\n").await.unwrap();
    // Never stops by itself: only our FIN, and the end of the reply, make it stop.
    let talker = actix_rt::spawn(async move {
        let block = vec![b'y'; 10_000];
        while write.write_all(&block).await.is_ok() {}
    });
    let mut got = Vec::new();
    within("the reply and a clean EOF", read.read_to_end(&mut got)).await.expect("no reset");
    assert_eq!(got.len(), LONG_REPLY);
    within("the talker to learn that nobody reads", talker).await.unwrap();
    let report = server.report().await;
    assert_eq!((report.reason, report.cut), (CloseReason::ClosedByHandler, true));
    // Of the undelivered bytes some were read before the handler stopped.
    assert!((1..=DISCARDED + (64 << 10)).contains(&report.undelivered_bytes), "{report}");
    server.end().await;
}

/// Answers nothing, as a collector of logs does.
struct Silent;

impl Actor for Silent {
    type Context = LineContext<Self>;
}

impl LineHandler for Silent {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        if line.text() == b"answer" {
            ctx.write(b"once\n");
        }
    }
}

/// Sends lines for as long as somebody takes them.
async fn flood(peer: support::Peer) {
    let (mut read, mut write) = peer.stream.into_split();
    let block = b"nobody answers this\n".repeat(500);
    while write.write_all(&block).await.is_ok() {}
    drop(read.read(&mut [0]).await);
}

#[actix::test]
async fn a_one_way_sender_learns_at_once_that_nobody_reads_any_more() {
    if !is_direct() {
        return; // It is the tunnel that is reset.
    }
    for answered in [false, true] {
        let mut server = Server::start(LineServer::new(|_| Silent)).await;
        let mut peer = server.connect().await;
        if answered {
            peer.send(b"answer\n").await;
            peer.expect(b"once\n").await;
        }
        let sender = actix_rt::spawn(flood(peer));
        eventually("lines to come", async || server.sessions().await.iter().any(|session| session.lines_in > 1000))
            .await;
        // Nothing but the reset ends the sender; and the drain's deadline is further away than the patience of the test.
        let handle = server.handle.clone();
        let drained = within("the drain", handle.drain(4 * PATIENCE)).await.unwrap();
        within("the sender to learn of it", sender).await.unwrap();
        let report = server.report().await;
        assert_eq!(report.reason, CloseReason::Drained);
        // Where nothing was written nothing is discarded: what was read before was delivered, but for a line's beginning.
        let most = if answered { DISCARDED } else { 20 };
        assert!(report.undelivered_bytes <= most, "{report}");
        assert_eq!((drained.cut, report.cut), (u64::from(answered), answered));
        server.end().await;
    }
}

#[actix::test]
async fn how_much_is_discarded_after_our_fin_is_settable() {
    if !is_direct() {
        return; // It is the tunnel that is reset.
    }
    let limits = Limits::builder().linger_bytes(0).build().unwrap();
    let mut server = Server::start(LineServer::new(|_| Silent).limits(limits)).await;
    let mut peer = server.connect().await;
    peer.send(b"answer\n").await;
    peer.expect(b"once\n").await;
    assert_eq!(server.handle.kick(SessionFilter::default(), "bye\n").await.unwrap(), 1);
    peer.expect(b"bye\n").await;
    peer.expect_eof().await;
    // One read may come before the limit is known to be passed.
    eventually("a reset", async || peer.stream.write_all(b"more\n").await.is_err()).await;
    let report = server.report().await;
    assert_eq!((report.reason, report.cut), (CloseReason::Kicked, true));
    server.end().await;
}

#[cfg(target_os = "linux")]
#[actix::test]
async fn a_peer_that_has_taken_everything_may_close_later_than_the_write_timeout() {
    let limits =
        Limits::builder().write_timeout(Some(Duration::from_secs(20))).linger_timeout(Duration::from_secs(600));
    let server = LineServer::new(|_| Ending).limits(limits.build().unwrap()).on_current_arbiter();
    let mut server = Server::start(server).await;
    let mut peer = server.connect().await;
    peer.send(b"stop\n").await;
    assert_eq!(peer.rest().await.len(), LONG_REPLY);
    // The kernel's clock is not paused: it may put off the acknowledgement of a FIN by some milliseconds.
    let fin_is_acknowledged = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let local = format!("0100007F:{:04X}", server.handle.local_addrs()[0].port());
        let mut columns = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        // State 05 is FIN_WAIT2.
        columns.any(|columns| columns[1] == local && columns[3] == "05")
    };
    eventually("our FIN to be acknowledged", async || fin_is_acknowledged()).await;
    pause();
    pass(Duration::from_secs(120)).await;
    let ended = server.report_if_any();
    assert!(ended.is_none(), "it did not linger: {ended:?}");
    tokio::time::resume();
    drop(peer);
    let report = server.report().await;
    assert_eq!((report.reason, report.cut, report.unsent_bytes), (CloseReason::ClosedByHandler, false, 0));
    server.end().await;
}
