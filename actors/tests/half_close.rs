//! D3: a peer that shuts down its writing half is still owed every reply, then a clean EOF. And so are we, when we do.

mod support;

use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, fut::wrap_future};
use actix_lines::{CloseReason, Line, LineContext, LineHandler, LineServer, Lines, Rot13};
use support::{Echo, Gate, Server, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[actix::test]
async fn replies_survive_the_peers_half_close() {
    let mut server = Server::start(LineServer::new(|_| Echo)).await;
    let mut peer = server.connect().await;
    peer.send(b"one\r\ntwo\r\n").await;
    peer.shutdown_write().await;
    peer.expect(b"one\r\ntwo\r\n").await;
    peer.expect_eof().await;
    assert_eq!(server.report().await.reason, CloseReason::PeerEof);
    server.end().await;
}

#[actix::test]
async fn a_tail_is_answered_before_the_eof() {
    let mut server = Server::start(LineServer::new(|_| Rot13)).await;
    let mut peer = server.connect().await;
    peer.send(b"one\nabc").await;
    peer.shutdown_write().await;
    assert_eq!(peer.rest().await, b"bar\nnop");
    let report = server.report().await;
    assert_eq!((report.lines_in, report.tail_bytes, report.undelivered_bytes), (2, 3, 0));
    server.end().await;
}

#[actix::test]
async fn a_peer_that_sends_nothing_gets_its_eof() {
    let mut server = Server::start(LineServer::new(|_| Rot13)).await;
    let mut peer = server.connect().await;
    peer.shutdown_write().await;
    peer.expect_eof().await;
    assert_eq!(server.report().await.bytes_in, 0);
    server.end().await;
}

#[actix::test]
async fn eight_megabytes_sent_before_a_byte_is_read_all_come_back() {
    let mut server = Server::start(LineServer::new(|_| Rot13)).await;
    let peer = server.connect().await;
    let input: Vec<u8> = (0..8 << 20).map(|at| if at % 61 == 60 { b'\n' } else { b'a' + (at % 26) as u8 }).collect();
    let expected: Vec<u8> =
        input.iter().map(|byte| if *byte == b'\n' { *byte } else { (byte - b'a' + 13) % 26 + b'a' }).collect();
    let (mut read, mut write) = peer.stream.into_split();
    let sender = actix_rt::spawn(async move {
        write.write_all(&input).await.unwrap();
        write.shutdown().await.unwrap();
        write
    });
    let mut got = Vec::new();
    within("8 MiB and EOF", read.read_to_end(&mut got)).await.unwrap();
    assert!(got == expected, "{} of {} bytes", got.len(), expected.len());
    drop(sender.await);
    assert_eq!(server.report().await.bytes_out, 8 << 20);
    server.end().await;
}

/// Answers each line after a while, through `ctx.wait`.
struct Slow;

impl Actor for Slow {
    type Context = LineContext<Self>;
}

impl LineHandler for Slow {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        use actix::ActorFutureExt;
        let line = line.to_vec();
        let later = async {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        };
        ctx.wait(wrap_future(later).map(move |(), _: &mut Self, ctx: &mut Self::Context| ctx.write(&line)));
    }
}

#[actix::test]
async fn a_reply_that_is_waited_for_is_owed_too() {
    let server = Server::start(LineServer::new(|_| Slow)).await;
    let mut peer = server.connect().await;
    peer.send(b"one\ntwo\nthree").await;
    peer.shutdown_write().await;
    assert_eq!(peer.rest().await, b"one\ntwo\nthree");
}

/// Stays open after the peer's EOF and says so a moment later.
struct Lasting;

impl Actor for Lasting {
    type Context = LineContext<Self>;
}

impl LineHandler for Lasting {
    fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {}

    fn eof(&mut self, ctx: &mut Self::Context) {
        ctx.write(b"still here\n");
        ctx.run_later(Duration::from_millis(20), |_, ctx| {
            ctx.write(b"goodbye\n");
            ctx.stop();
        });
    }
}

#[actix::test]
async fn a_handler_may_keep_the_session_after_the_peers_eof() {
    let mut server = Server::start(LineServer::new(|_| Lasting)).await;
    let mut peer = server.connect().await;
    peer.send(b"ignored\n").await;
    peer.shutdown_write().await;
    assert_eq!(peer.rest().await, b"still here\ngoodbye\n");
    assert_eq!(server.report().await.reason, CloseReason::PeerEof);
    server.end().await;
}

/// Asks, says that it will say no more, and answers all the same what it is told: a line each, or a block in place.
struct Asking {
    in_place: bool,
    gate: Gate,
}

impl Actor for Asking {
    type Context = LineContext<Self>;
}

impl LineHandler for Asking {
    fn opened(&mut self, ctx: &mut Self::Context) {
        ctx.write(b"question\n");
        ctx.half_close();
        // Before our FIN, as it was asked for before.
        ctx.wait(wrap_future::<_, Self>(self.gate.passed()).map(|(), _, ctx| ctx.write(b"and another\n")));
    }

    fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
        if self.in_place {
            return lines.answer_in_place(ctx, |_| {});
        }
        while let Some(line) = lines.next(ctx) {
            self.line(line, ctx);
        }
    }

    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
    }
}

#[actix::test]
async fn a_session_that_half_closes_gets_every_answer_and_counts_what_it_writes_then_as_unsent() {
    for in_place in [false, true] {
        let gate = Gate::default();
        let opened = gate.clone();
        let mut server = Server::start(LineServer::new(move |_| Asking { in_place, gate: gate.clone() })).await;
        let mut peer = server.connect().await;
        peer.expect(b"question\n").await;
        opened.open();
        assert_eq!(peer.rest().await, b"and another\n", "then our FIN");
        for answer in [&b"one\n"[..], b"two\nthr", b"ee\n"] {
            peer.send(answer).await;
        }
        eventually("the answers to be read", async || server.sessions().await[0].bytes_in == 14).await;
        assert_eq!(server.sessions().await[0].lines_in, 3, "it still gets lines");
        peer.shutdown_write().await;
        let report = server.report().await;
        assert_eq!((report.reason, report.cut), (CloseReason::PeerEof, false));
        assert_eq!((report.lines_in, report.undelivered_bytes), (3, 0));
        assert_eq!((report.bytes_out, report.unsent_bytes), (21, 14), "in place: {in_place}");
        server.end().await;
    }
}
