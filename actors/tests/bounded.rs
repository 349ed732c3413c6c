//! D5: a peer that does not read costs a bounded amount of memory, for ever; one that reads slowly gets everything.

mod support;

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use actix::{Actor, ActorContext, ActorFuture, Addr, AsyncContext, Handler, Message};
use actix_lines::{Framing, Limits, Line, LineContext, LineHandler, LineServer, Rot13, Transport, Watermarks};
use bytes::Bytes;
use support::{Echo, Log, Server, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[actix::test]
async fn the_outbox_stays_under_the_high_watermark_and_one_answer() {
    let marks = Watermarks { low: 1000, high: 4000 };
    for line_len in [10, 3000, 16_000] {
        let limits = Limits::builder().outbox(marks).build().unwrap();
        let mut server = Server::start(LineServer::new(|_| Echo).limits(limits)).await;
        let mut peer = server.connect().await;
        let line = [vec![b'x'; line_len - 1], vec![b'\n']].concat();
        let taken = peer.send_until_stuck(&server, &line, marks.low).await;
        let session = server.sessions().await.remove(0);
        assert!(session.outbox_bytes <= marks.high + line_len, "{line_len}: {session:?}");
        // What it read and did not answer is at most one read.
        assert!(session.bytes_in - session.lines_in * line_len as u64 <= 64 * 1024 + line_len as u64, "{session:?}");
        drop(peer);
        assert!(server.report().await.bytes_in <= taken as u64);
        server.end().await;
    }
}

#[actix::test]
async fn a_block_answered_in_place_is_bounded_by_one_read_above_the_mark() {
    let limits = Limits::builder().outbox(Watermarks { low: 1000, high: 4000 }).build().unwrap();
    let mut server = Server::start(LineServer::new(|_| Rot13).limits(limits)).await;
    let mut peer = server.connect().await;
    peer.send_until_stuck(&server, &[b'a'; 5000], 1000).await;
    let session = server.sessions().await.remove(0);
    assert!((1001..=4000 + 64 * 1024 + 4096).contains(&session.outbox_bytes), "{session:?}");
    drop(peer);
    server.report().await;
    server.end().await;
}

#[actix::test]
async fn a_peer_that_reads_late_and_slowly_gets_everything() {
    let mut server = Server::start(LineServer::new(|_| Echo)).await;
    let peer = server.connect().await;
    let input: Vec<u8> =
        (0..12_u32 << 20).map(|at| if at % 50 == 49 { b'\n' } else { b'a' + (at / 50 % 26) as u8 }).collect();
    let expected = input.clone();
    let (mut read, mut write) = peer.stream.into_split();
    let sender = actix_rt::spawn(async move {
        write.write_all(&input).await.unwrap();
        write.shutdown().await.unwrap();
        write
    });
    eventually("the server to stop reading", async || {
        server.sessions().await.first().is_some_and(|session| session.outbox_bytes > 16 * 1024)
    })
    .await;
    let mut got = Vec::new();
    let mut piece = vec![0; 30_000];
    loop {
        match within("bytes or EOF", read.read(&mut piece)).await.unwrap() {
            0 => break,
            count => got.extend_from_slice(&piece[..count]),
        }
        tokio::task::yield_now().await;
    }
    assert!(got == expected, "{} of {} bytes", got.len(), expected.len());
    drop(sender.await);
    server.report().await;
    server.end().await;
}

/// Answers a line with far more than fits an outbox, a piece at a time.
struct Long {
    waits: bool,
}

const PIECES: usize = 5000;
const PIECE: [u8; 1000] = [b'x'; 1000];

impl Actor for Long {
    type Context = LineContext<Self>;
}

impl LineHandler for Long {
    fn line(&mut self, _: Line<'_>, ctx: &mut Self::Context) {
        let pieces = Pieces(PIECES);
        if self.waits {
            ctx.wait(pieces);
        } else {
            ctx.spawn(pieces);
        }
    }

    fn eof(&mut self, _: &mut Self::Context) {}
}

struct Pieces(usize);

impl ActorFuture<Long> for Pieces {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Long, ctx: &mut LineContext<Long>, _: &mut Context<'_>) -> Poll<()> {
        while self.0 > 0 {
            if ctx.outbox_len() > 4000 {
                return Poll::Pending;
            }
            ctx.write(&PIECE);
            self.0 -= 1;
        }
        ctx.stop();
        Poll::Ready(())
    }
}

#[actix::test]
async fn a_future_that_waits_for_the_low_watermark_goes_on_when_it_is_reached() {
    let limits = Limits::builder().outbox(Watermarks { low: 1000, high: 4000 }).build().unwrap();
    for waits in [true, false] {
        let mut server = Server::start(LineServer::new(move |_| Long { waits }).limits(limits.clone())).await;
        let mut peer = server.connect().await;
        peer.send(b"go\n").await;
        assert_eq!(peer.rest().await.len(), PIECES * PIECE.len(), "waits: {waits}");
        drop(peer);
        server.report().await;
        server.end().await;
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Push(Bytes);

/// Gives its address away, and writes what it is sent.
struct Member(Log<Addr<Member>>);

impl Actor for Member {
    type Context = LineContext<Self>;
    fn started(&mut self, ctx: &mut Self::Context) {
        self.0.borrow_mut().push(ctx.address());
    }
}

impl LineHandler for Member {
    fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {}
}

impl Handler<Push> for Member {
    type Result = ();
    fn handle(&mut self, Push(bytes): Push, ctx: &mut Self::Context) {
        ctx.write_bytes(bytes);
    }
}

#[actix::test]
async fn a_broadcast_to_slow_readers_arrives_in_order_and_is_shared() {
    let members = Log::default();
    let mut ends = Vec::new();
    for _ in 0..3 {
        let (ours, theirs) = tokio::io::duplex(10);
        LineContext::start(Transport::new(ours), Framing::lf(), Member(members.clone()));
        ends.push(theirs);
    }
    eventually("the members to start", async || members.borrow().len() == 3).await;
    let long = Bytes::from(vec![b'L'; 2000]);
    let messages = [Bytes::from_static(b"short one\n"), long.clone(), Bytes::from_static(b"short two\n"), long.clone()];
    for member in members.take() {
        for message in &messages {
            member.send(Push(message.clone())).await.unwrap();
        }
    }
    assert!(!long.is_unique(), "somebody still holds it");
    let expected = messages.concat();
    for end in &mut ends {
        let mut got = vec![0; expected.len()];
        within("the broadcast", end.read_exact(&mut got)).await.unwrap();
        assert!(got == expected);
    }
    drop(messages);
    eventually("the members to let go of what they sent", async || long.is_unique()).await;
}
