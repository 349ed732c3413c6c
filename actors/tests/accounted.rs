//! D6: the close report, to the byte. What was read was delivered or is counted; what was written was sent or is counted.

mod support;

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use actix::{Actor, ActorContext, AsyncContext};
use actix_lines::{
    CloseReason, CloseReport, Framing, Line, LineContext, LineHandler, LineServer, Lines, Overlong, Transport,
};
use proptest::prelude::*;
use support::{Log, Server, converse, cut, eventually};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Takes what it is told to and counts what it saw and wrote.
struct Counting {
    /// Stops, drains or aborts at the line with this number.
    end_at: Option<(usize, End)>,
    lines: usize,
    delivered: u64,
    written: u64,
    seen: Log<(u64, u64, CloseReport)>,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Stop,
    Drain,
    Abort,
}

impl Actor for Counting {
    type Context = LineContext<Self>;
}

impl LineHandler for Counting {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        self.lines += 1;
        self.delivered += line.len() as u64;
        self.written += 2 * line.len() as u64;
        ctx.write(&line);
        ctx.write_bytes(line.to_vec().into());
        match self.end_at {
            Some((at, End::Stop)) if at == self.lines => ctx.stop(),
            Some((at, End::Drain)) if at == self.lines => ctx.drain(),
            Some((at, End::Abort)) if at == self.lines => ctx.abort(),
            _ => {}
        }
    }

    fn closed(&mut self, report: &CloseReport) {
        self.seen.borrow_mut().push((self.delivered, self.written, report.clone()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: support::CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_byte_goes_without_a_count(
        input in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'a'), Just(b'\r')], 0..150),
        sizes in prop::collection::vec(1_usize..30, 1..5),
        max in 1_usize..12,
        policy in prop::sample::select(vec![Overlong::Pieces, Overlong::Truncate, Overlong::Discard, Overlong::Close]),
        end_at in prop::option::of((1_usize..6, prop::sample::select(vec![End::Stop, End::Drain, End::Abort]))),
    ) {
        let seen = Log::default();
        let actor = Counting { end_at, lines: 0, delivered: 0, written: 0, seen: Rc::clone(&seen) };
        let framing = Framing::lf().max_line(max).unwrap().overlong(policy);
        let got = actix_rt::System::new().block_on(converse(framing, actor, &cut(&input, &sizes)));
        let reports = seen.take();
        prop_assert_eq!(reports.len(), 1);
        let (delivered, written, report) = &reports[0];
        prop_assert_eq!(report.bytes_in, delivered + report.undelivered_bytes, "{:?}", report);
        prop_assert_eq!(*written, report.bytes_out + report.unsent_bytes, "{:?}", report);
        prop_assert_eq!(report.bytes_out, got.len() as u64, "{:?}", report);
        if end_at.is_none() && policy != Overlong::Close {
            prop_assert_eq!(report.bytes_in, input.len() as u64);
            prop_assert_eq!(report.reason, CloseReason::PeerEof);
        }
        if end_at.is_none() && matches!(policy, Overlong::Pieces | Overlong::Truncate) {
            let ends = input.iter().filter(|byte| **byte == b'\n').count();
            let tail = input.last().is_some_and(|byte| *byte != b'\n');
            prop_assert_eq!(report.lines_in, (ends + usize::from(tail)) as u64, "{:?}", report);
        }
    }
}

/// Stops at the first line of a batch.
struct OneLine;

impl Actor for OneLine {
    type Context = LineContext<Self>;
}

impl LineHandler for OneLine {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
        ctx.stop();
    }
}

#[actix::test]
async fn lines_that_a_stop_left_undelivered_are_counted() {
    let mut server = Server::start(LineServer::new(|_| OneLine)).await;
    let mut peer = server.connect().await;
    peer.send(b"one\ntwo\nthree\npart").await;
    peer.expect(b"one\n").await;
    peer.expect_eof().await;
    peer.send(b"late").await;
    drop(peer);
    let report = server.report().await;
    assert_eq!(report.reason, CloseReason::ClosedByHandler);
    assert_eq!((report.lines_in, report.bytes_in, report.bytes_out), (1, 22, 4));
    assert_eq!((report.undelivered_bytes, report.unsent_bytes, report.cut), (18, 0, false));
    assert_eq!(report.tail_bytes, 4, "the incomplete line, without what was discarded later");
    server.end().await;
}

/// A peer that has sent `input`, takes so many bytes, and then is gone.
struct Vanishing {
    input: Vec<u8>,
    takes: usize,
}

impl AsyncRead for Vanishing {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.input.is_empty() {
            return Poll::Pending;
        }
        let input = std::mem::take(&mut self.input);
        buffer.put_slice(&input);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Vanishing {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.takes == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let count = bytes.len().min(self.takes);
        self.takes -= count;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Answers two lines: in place, or through the outbox; and aborts then if told to.
struct TwoLines {
    in_place: bool,
    aborts: bool,
    seen: Log<CloseReport>,
}

impl Actor for TwoLines {
    type Context = LineContext<Self>;
}

impl LineHandler for TwoLines {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
    }

    fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
        if self.in_place {
            lines.answer_in_place(ctx, |_| {});
            ctx.write(b"more\n");
        } else {
            while let Some(line) = lines.next(ctx) {
                self.line(line, ctx);
            }
            ctx.write(b"more\n");
        }
        if self.aborts {
            ctx.abort();
        }
    }

    fn closed(&mut self, report: &CloseReport) {
        self.seen.borrow_mut().push(report.clone());
    }
}

#[actix::test]
async fn a_write_that_fails_or_is_aborted_in_mid_answer_leaves_the_lines_delivered_and_the_rest_unsent() {
    for in_place in [false, true] {
        for (aborts, takes) in [(false, 0), (false, 3), (false, 8), (true, 100)] {
            let seen = Log::default();
            let transport = Transport::new(Vanishing { input: b"one\ntwo\npart".to_vec(), takes });
            LineContext::start(transport, Framing::lf(), TwoLines { in_place, aborts, seen: Rc::clone(&seen) });
            eventually("the report", async || !seen.borrow().is_empty()).await;
            let report = seen.borrow_mut().remove(0);
            let (reason, sent) =
                if aborts { (CloseReason::Aborted, 0) } else { (CloseReason::PeerReset, takes as u64) };
            assert_eq!((report.reason, report.bytes_out, report.unsent_bytes), (reason, sent, 13 - sent), "{report}");
            assert_eq!((report.lines_in, report.bytes_in), (2, 12), "{report}");
            assert_eq!((report.undelivered_bytes, report.tail_bytes), (4, 4), "{report}");
        }
    }
}

/// Writes after its end.
struct TooLate;

impl Actor for TooLate {
    type Context = LineContext<Self>;

    fn stopped(&mut self, ctx: &mut Self::Context) {
        ctx.write(b"too late");
    }
}

impl LineHandler for TooLate {
    fn line(&mut self, _: Line<'_>, ctx: &mut Self::Context) {
        ctx.drain();
    }
}

#[actix::test]
async fn bytes_written_after_the_fin_are_unsent() {
    let mut server = Server::start(LineServer::new(|_| TooLate)).await;
    let mut peer = server.connect().await;
    peer.send(b"go\n").await;
    peer.expect_eof().await;
    drop(peer);
    let report = server.report().await;
    assert_eq!((report.bytes_out, report.unsent_bytes), (0, 8));
    server.end().await;
}

#[actix::test]
async fn the_report_says_who_and_how_long() {
    if !support::knows_peer() {
        return; // Behind a tunnel only a PROXY header tells it.
    }
    let mut server = Server::start(LineServer::new(|_| support::Echo)).await;
    let mut peer = server.connect().await;
    let own = peer.stream.local_addr().unwrap();
    peer.send(b"hello\n").await;
    peer.expect(b"hello\n").await;
    let listed = server.sessions().await;
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].peer, listed[0].lines_in, listed[0].bytes_out), (&own.into(), 1, 6));
    drop(peer);
    let report = server.report().await;
    assert_eq!((report.id, &report.peer), (listed[0].id, &own.into()));
    assert_eq!(report.listener.unwrap().get(), 0);
    assert!(report.duration >= listed[0].age && report.duration < Duration::from_secs(60));
    let text = report.to_string();
    assert!(
        text.starts_with(&format!("session {} from {own} closed: peer-eof, 1 line and 6 bytes in", report.id)),
        "{text}"
    );
    server.end().await;
}

/// Takes nothing of what it is offered.
struct Stubborn;

impl Actor for Stubborn {
    type Context = LineContext<Self>;
}

impl LineHandler for Stubborn {
    fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {}
    fn batch(&mut self, _: &mut Lines<'_>, _: &mut Self::Context) {}
}

#[actix::test]
async fn a_handler_that_takes_nothing_ends_with_a_reason_of_its_own() {
    let mut server = Server::start(LineServer::new(|_| Stubborn)).await;
    let mut peer = server.connect().await;
    peer.send(b"one\ntwo\n").await;
    peer.expect_eof().await;
    drop(peer);
    let report = server.report().await;
    assert_eq!((report.reason, report.undelivered_bytes), (CloseReason::HandlerStalled, 8));
    server.end().await;
}

/// Says who it is talking to.
struct WhoAmI;

impl Actor for WhoAmI {
    type Context = LineContext<Self>;
    fn started(&mut self, ctx: &mut Self::Context) {
        let connection = ctx.connection();
        let text = format!("{} {} {}\n", connection.id(), connection.peer_addr(), connection.local_addr());
        ctx.write(text.as_bytes());
        ctx.run_later(Duration::ZERO, |_, ctx| ctx.stop());
    }
}

impl LineHandler for WhoAmI {
    fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {}
}

#[actix::test]
async fn a_session_knows_both_ends_of_its_connection() {
    if !support::knows_peer() {
        return; // Behind a tunnel only a PROXY header tells it.
    }
    let mut server = Server::start(LineServer::new(|connection| {
        assert!(connection.local_addr().port().is_some());
        WhoAmI
    }))
    .await;
    let mut peer = server.connect().await;
    let (own, theirs) = (peer.stream.local_addr().unwrap(), server.address());
    let text = String::from_utf8(peer.rest().await).unwrap();
    drop(peer);
    let report = server.report().await;
    assert_eq!(text, format!("{} {own} {theirs}\n", report.id));
    server.end().await;
}
