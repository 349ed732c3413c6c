//! Deadlines, on tokio's paused clock: how long we linger, how long a session may wait.

mod support;

use std::{rc::Rc, time::Duration};

use actix::{Actor, ActorContext, AsyncContext, fut::wrap_future};
use actix_lines::{CloseReason, CloseReport, Framing, Line, LineContext, LineHandler, Transport};
use support::{Log, eventually};
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
            b"wait a little" => ctx.wait(wrap_future::<_, Self>(tokio::time::sleep(Duration::from_secs(20)))),
            _ => {}
        }
    }

    fn closed(&mut self, report: &CloseReport) {
        self.0.borrow_mut().push((Instant::now(), report.clone()));
    }
}

fn start() -> (DuplexStream, Log<(Instant, CloseReport)>) {
    tokio::time::pause();
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
    let (mut peer, reports) = start();
    let begin = Instant::now();
    peer.write_all(b"wait\nnever delivered\n").await.unwrap();
    let mut got = Vec::new();
    // `eventually` has less patience than the deadline; the clock jumps, so this costs no time.
    peer.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"wait\n", "what was written before is sent");
    assert_between("the FIN", begin.elapsed(), 30, 31);
    drop(peer);
    let (_, report) = the_report(&reports).await;
    assert_eq!((report.reason, report.undelivered_bytes), (CloseReason::WaitTimeout, 16));
}

#[actix::test]
async fn each_wait_has_its_own_deadline() {
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
