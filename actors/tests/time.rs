//! Deadlines, on tokio's paused clock: how long a session may be idle, take for a line, stall, grow old, linger and wait.
//!
//! A server on the current arbiter runs on the paused clock as a session over an in-memory pair does: it jumps to the next
//! timer whenever nobody has anything to do.

mod support;

use std::{rc::Rc, time::Duration};

use actix::{Actor, ActorContext, AsyncContext, fut::wrap_future};
use actix_lines::{
    CloseReason, CloseReport, Framing, Line, LineContext, LineHandler, LineServer, Transport,
    control::SessionFilter,
    limits::{Limits, LimitsBuilder},
};
use support::{Log, Peer, Server, eventually, pass, pause};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::Instant,
};

/// Stops, or waits for ever, as it is told; keeps the report and when it came.
struct Waiting(Log<(Instant, CloseReport)>);

impl Actor for Waiting {
    type Context = LineContext<Self>;
}

impl LineHandler for Waiting {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
        match line.text() {
            b"stop" => ctx.stop(),
            b"wait" => ctx.wait(wrap_future::<_, Self>(std::future::pending())),
            b"wait a little" => ctx.wait(wrap_future::<_, Self>(pass(Duration::from_secs(20)))),
            _ => {}
        }
    }

    fn closed(&mut self, report: &CloseReport) {
        self.0.borrow_mut().push((Instant::now(), report.clone()));
    }
}

fn start() -> (DuplexStream, Log<(Instant, CloseReport)>) {
    let reports = Log::default();
    let (ours, theirs) = tokio::io::duplex(1024);
    LineContext::start(Transport::new(ours), Framing::lf(), Waiting(Rc::clone(&reports)));
    (theirs, reports)
}

/// On a clock that jumps whenever nobody has anything to do, a minute is as good as for ever.
async fn the_report(reports: &Log<(Instant, CloseReport)>) -> (Instant, CloseReport) {
    eventually("the report", async || !reports.borrow().is_empty()).await;
    reports.borrow_mut().remove(0)
}

fn assert_between(what: &str, waited: Duration, least: u64, most: u64) {
    let range = Duration::from_secs(least)..=Duration::from_secs(most);
    assert!(range.contains(&waited), "{what} after {waited:?}, not within {range:?}");
}

#[actix::test]
async fn a_peer_that_does_not_close_is_lingered_for_five_seconds() {
    pause();
    let (mut peer, reports) = start();
    let begin = Instant::now();
    peer.write_all(b"stop\n").await.unwrap();
    let mut got = Vec::new();
    peer.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"stop\n", "the answer and our FIN come at once");
    assert_between("the FIN", begin.elapsed(), 0, 0);
    peer.write_all(b"still talking\n").await.unwrap();
    let (end, report) = the_report(&reports).await;
    assert_between("the close", end - begin, 5, 6);
    assert_eq!((report.reason, report.cut), (CloseReason::ClosedByHandler, true));
    assert_eq!((report.bytes_in, report.undelivered_bytes), (19, 14));
}

#[actix::test]
async fn a_peer_that_closes_ends_the_linger_at_once() {
    pause();
    let (mut peer, reports) = start();
    let begin = Instant::now();
    peer.write_all(b"stop\n").await.unwrap();
    let mut got = Vec::new();
    peer.read_to_end(&mut got).await.unwrap();
    peer.shutdown().await.unwrap();
    let (end, report) = the_report(&reports).await;
    assert_between("the close", end - begin, 0, 0);
    assert!(!report.cut);
}

#[actix::test]
async fn a_wait_that_never_ends_ends_the_session_after_thirty_seconds() {
    pause();
    let (mut peer, reports) = start();
    let begin = Instant::now();
    peer.write_all(b"wait\nnever delivered\n").await.unwrap();
    let mut got = Vec::new();
    peer.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"wait\n", "what was written before is sent");
    assert_between("the FIN", begin.elapsed(), 30, 31);
    drop(peer);
    let (_, report) = the_report(&reports).await;
    assert_eq!((report.reason, report.undelivered_bytes), (CloseReason::WaitTimeout, 16));
}

#[actix::test]
async fn each_wait_has_its_own_deadline() {
    pause();
    let (mut peer, reports) = start();
    let begin = Instant::now();
    peer.write_all(b"wait a little\nwait a little\nwait a little\n").await.unwrap();
    peer.shutdown().await.unwrap();
    let mut got = Vec::new();
    peer.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"wait a little\nwait a little\nwait a little\n");
    assert_between("the end", begin.elapsed(), 60, 61);
    drop(peer);
    assert_eq!(the_report(&reports).await.1.reason, CloseReason::PeerEof);
}

/// Answers each line with itself; may pause, wait or chatter for as many seconds as a line says.
struct Timed;

impl Actor for Timed {
    type Context = LineContext<Self>;
}

impl LineHandler for Timed {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
        let text = String::from_utf8_lossy(line.text()).into_owned();
        let Some((what, seconds)) = text.split_once(' ') else { return };
        let time = Duration::from_secs(seconds.parse().unwrap());
        match what {
            "pause" => {
                ctx.pause();
                ctx.run_later(time, |_, ctx| ctx.resume());
            }
            "wait" => ctx.wait(wrap_future::<_, Self>(pass(time))),
            "chatter" => drop(ctx.run_interval(time, |_, ctx| ctx.write(b"."))),
            _ => unreachable!("{text}"),
        }
    }
}

/// A server on the paused clock, none of whose times runs but those that `limits` sets.
async fn timed(limits: impl FnOnce(LimitsBuilder) -> LimitsBuilder) -> Server {
    let none = Limits::builder().idle_timeout(None).line_timeout(None).write_timeout(None);
    let server = LineServer::new(|_| Timed).limits(limits(none).build().unwrap()).on_current_arbiter();
    Server::start(server).await
}

fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

/// Reads to the EOF. Without a bound of its own, which the clock would jump to: the times that are tested are longer.
async fn eof(peer: &mut Peer) {
    let mut got = Vec::new();
    peer.stream.read_to_end(&mut got).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&got), "");
}

/// Sends one byte a second, until the server closes or `most` are sent.
async fn trickle(peer: &mut Peer, most: usize) {
    // Or the kernel would hold each byte back until the one before is acknowledged, in a time that no clock of ours pauses.
    peer.stream.set_nodelay(true).unwrap();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    for _ in 0..most {
        ticks.tick().await;
        if peer.stream.write_all(b"x").await.is_err() {
            break;
        }
    }
}

#[actix::test]
async fn a_session_without_a_line_ends_at_the_idle_timeout_and_no_sooner() {
    pause();
    let mut server = timed(|limits| limits.idle_timeout(seconds(10))).await;
    let mut peer = server.connect().await;
    for _ in 0..5 {
        let begin = Instant::now();
        peer.send(b"hello\n").await;
        peer.expect(b"hello\n").await;
        tokio::time::sleep_until(begin + Duration::from_secs(9)).await;
    }
    let begin = Instant::now();
    peer.send(b"last\n").await;
    peer.expect(b"last\n").await;
    eof(&mut peer).await;
    assert_between("the end", begin.elapsed(), 10, 11);
    drop(peer);
    let report = server.report().await;
    assert_eq!((report.reason, report.lines_in, report.cut), (CloseReason::IdleTimeout, 6, false));
    // One that never said anything.
    let begin = Instant::now();
    let mut peer = server.connect().await;
    eof(&mut peer).await;
    assert_between("the end", begin.elapsed(), 10, 11);
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::IdleTimeout);
    server.end().await;
}

#[actix::test]
async fn what_is_written_to_a_session_does_not_make_it_less_idle() {
    pause();
    let mut server = timed(|limits| limits.idle_timeout(seconds(10))).await;
    let mut peer = server.connect().await;
    let begin = Instant::now();
    peer.send(b"chatter 1\n").await;
    for _ in 0..3 {
        pass(Duration::from_secs(2)).await;
        server.handle.push(SessionFilter::default(), "pushed\n").await.unwrap();
    }
    let got = peer.rest().await;
    assert_between("the end", begin.elapsed(), 10, 11);
    assert!(got.iter().filter(|byte| **byte == b'.').count() >= 9, "{}", String::from_utf8_lossy(&got));
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::IdleTimeout);
    server.end().await;
}

#[actix::test]
async fn a_line_that_trickles_ends_its_session_at_the_line_timeout() {
    pause();
    let mut server = timed(|limits| limits.line_timeout(seconds(5)).idle_timeout(seconds(3))).await;
    let mut peer = server.connect().await;
    peer.send(b"hello\n").await;
    peer.expect(b"hello\n").await;
    let begin = Instant::now();
    trickle(&mut peer, 5).await;
    eof(&mut peer).await;
    assert_between("the end", begin.elapsed(), 5, 6);
    drop(peer);
    let report = server.report().await;
    assert_eq!((report.reason, report.tail_bytes, report.undelivered_bytes), (CloseReason::LineTimeout, 5, 5));
    server.end().await;
}

#[actix::test]
async fn a_line_that_takes_its_time_within_the_timeout_is_answered() {
    pause();
    let server = timed(|limits| limits.line_timeout(seconds(20)).idle_timeout(seconds(3))).await;
    let mut peer = server.connect().await;
    for _ in 0..5 {
        trickle(&mut peer, 15).await;
        peer.send(b"\n").await;
        peer.expect(b"xxxxxxxxxxxxxxx\n").await;
    }
    drop(peer);
}

#[actix::test]
async fn without_a_line_timeout_a_byte_counts_as_activity() {
    pause();
    let mut server = timed(|limits| limits.idle_timeout(seconds(3))).await;
    let mut peer = server.connect().await;
    trickle(&mut peer, 60).await;
    let begin = Instant::now();
    eof(&mut peer).await;
    assert_between("the end", begin.elapsed(), 2, 4);
    drop(peer);
    let report = server.report().await;
    assert_eq!((report.reason, report.tail_bytes), (CloseReason::IdleTimeout, 60));
    server.end().await;
}

#[actix::test]
async fn idle_and_line_clocks_stand_still_while_a_session_waits_or_is_paused() {
    pause();
    for line in ["wait 25\n", "pause 100\n"] {
        for begun in ["", "x"] {
            let mut server = timed(|limits| limits.idle_timeout(seconds(5)).line_timeout(seconds(5))).await;
            let mut peer = server.connect().await;
            let begin = Instant::now();
            peer.send(format!("{line}{begun}").as_bytes()).await;
            peer.expect(line.as_bytes()).await;
            eof(&mut peer).await;
            let still = if line.starts_with("wait") { 25 } else { 100 };
            assert_between(&format!("{line:?} {begun:?}"), begin.elapsed(), still + 4, still + 6);
            drop(peer);
            let reason = if begun.is_empty() { CloseReason::IdleTimeout } else { CloseReason::LineTimeout };
            assert_eq!(server.report().await.reason, reason);
            server.end().await;
        }
    }
}

#[actix::test]
async fn the_oldest_session_there_may_be_drains() {
    pause();
    let mut server = timed(|limits| limits.max_age(seconds(30))).await;
    let begin = Instant::now();
    let mut peer = server.connect().await;
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    for _ in 0..30 {
        ticks.tick().await;
        peer.send(b"hello\n").await;
        peer.expect(b"hello\n").await;
    }
    eof(&mut peer).await;
    assert_between("the end", begin.elapsed(), 30, 31);
    drop(peer);
    let report = server.report().await;
    assert_eq!((report.reason, report.lines_in, report.cut), (CloseReason::MaxAge, 30, false));
    server.end().await;
}

#[actix::test]
async fn a_peer_that_reads_nothing_is_cut_at_the_write_timeout() {
    pause();
    for half_closes in [false, true] {
        let (mut peer, reports) = start();
        let begin = Instant::now();
        // The pair holds 1024 bytes in each direction.
        peer.write_all(&b"a line of sixteen\n".repeat(100)).await.unwrap();
        if half_closes {
            peer.shutdown().await.unwrap();
        }
        pass(Duration::from_secs(62)).await;
        let (end, report) = the_report(&reports).await;
        assert_between("the end", end - begin, 60, 61);
        assert_eq!((report.reason, report.cut, report.bytes_out), (CloseReason::WriteStalled, true, 1024));
        assert_eq!(report.bytes_out + report.unsent_bytes + report.undelivered_bytes, report.bytes_in);
        assert!(report.unsent_bytes > 0, "{report:?}");
    }
}

#[actix::test]
async fn a_peer_that_reads_a_byte_now_and_then_gets_everything() {
    pause();
    let (mut peer, reports) = start();
    let begin = Instant::now();
    let input = b"a line of sixteen\n".repeat(60);
    peer.write_all(&input).await.unwrap();
    peer.shutdown().await.unwrap();
    let mut got = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(50));
    for _ in 0..20 {
        ticks.tick().await;
        got.push(peer.read_u8().await.unwrap());
    }
    peer.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, input);
    assert_between("the end", begin.elapsed(), 950, 1000);
    drop(peer);
    let (_, report) = the_report(&reports).await;
    assert_eq!((report.reason, report.unsent_bytes), (CloseReason::PeerEof, 0));
}

#[actix::test]
async fn a_session_whose_fin_cannot_leave_does_not_stay_for_ever() {
    pause();
    let (mut peer, reports) = start();
    let begin = Instant::now();
    // The answers fill the pair, so what `stop` owes never leaves.
    peer.write_all(&b"a line of sixteen\n".repeat(70)).await.unwrap();
    peer.write_all(b"stop\n").await.unwrap();
    pass(Duration::from_secs(62)).await;
    let (end, report) = the_report(&reports).await;
    assert_between("the end", end - begin, 60, 61);
    assert!(report.cut && report.unsent_bytes > 0, "{report:?}");
    assert_eq!(report.reason, CloseReason::ClosedByHandler, "the first cause");
}
