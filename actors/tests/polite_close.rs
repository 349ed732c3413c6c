//! D4: whenever we close first the peer gets every byte written before, then FIN, and never a reset over unread input.

mod support;

use std::{net::TcpListener, sync::Arc, time::Duration};

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, WrapFuture};
use actix_lines::{CloseReason, Framing, Line, LineContext, LineHandler, LineServer, Lines, Overlong};
use support::{PATIENCE, Server, eventually, within};
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
        ctx.write(&vec![b'x'; LONG_REPLY]);
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

    fn line_too_long(&mut self, ctx: &mut Self::Context) {
        ctx.write(b"too long\n");
    }
}

/// Keeps sending while it reads the reply slowly; returns what it read, which has to end in a clean EOF.
async fn reply_under_fire(server: &Server, first: &[u8]) -> Vec<u8> {
    let peer = server.connect().await;
    let (mut read, mut write) = peer.stream.into_split();
    write.write_all(first).await.unwrap();
    let fire = actix_rt::spawn(async move {
        // Unread input of the server's; it may stop being read at any time.
        let _ = write.write_all(&vec![b'y'; 4 << 20]).await;
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
    assert_eq!(server.report().await.reason, CloseReason::LineTooLong);
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
    let draining = actix_rt::spawn(async move { handle.drain(Duration::from_secs(10)).await });
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
        eventually("the listener to close", async || TcpListener::bind(server.address()).is_ok()).await;
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

#[actix::test]
async fn a_peer_that_talks_on_and_on_gets_its_answer_too() {
    let mut server = Server::start(LineServer::new(|_| Ending)).await;
    let peer = server.connect().await;
    let (mut read, mut write) = peer.stream.into_split();
    write.write_all(b"stop\n").await.unwrap();
    // Never stops by itself: only our FIN, and the end of the reply, make it stop.
    let (done, mut when_done) = tokio::sync::oneshot::channel::<()>();
    let talker = actix_rt::spawn(async move {
        let block = vec![b'y'; 10_000];
        while when_done.try_recv().is_err() {
            if write.write_all(&block).await.is_err() {
                return false;
            }
        }
        write.shutdown().await.is_ok()
    });
    let mut got = Vec::new();
    within("the reply and a clean EOF", read.read_to_end(&mut got)).await.expect("no reset");
    assert_eq!(got.len(), LONG_REPLY);
    done.send(()).unwrap();
    assert!(within("the talker", talker).await.unwrap(), "it was read until it closed");
    let report = server.report().await;
    assert!(!report.cut && report.undelivered_bytes > 0, "{report}");
    server.end().await;
}
