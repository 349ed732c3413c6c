//! Connections in memory that stall and fail on command, and what a session makes of each fault, in virtual time.

mod support;

use std::{
    io::{self, ErrorKind},
    time::Duration,
};

use actix::{Actor, ActorContext};
use actix_lines::{
    CloseReason, CloseReport, Half, Line, LineContext, LineHandler, LineSession, Transport,
    limits::Limits,
    testing::{Faults, FaultyStream, MemoryCapacity, MemoryStream, StreamCall, memory_pair},
};
use support::{pass, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
    time::{Instant, timeout},
};

const FIVE_SECONDS: Duration = Duration::from_secs(5);

/// Answers each line with itself, ends at `stop`, and hands out its report.
struct Echo(Option<oneshot::Sender<CloseReport>>);

impl Actor for Echo {
    type Context = LineContext<Self>;
}

impl LineHandler for Echo {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
        if line.text() == b"stop" {
            ctx.stop();
        }
    }

    fn closed(&mut self, report: &CloseReport) {
        let _ = self.0.take().expect("a session is closed once").send(report.clone());
    }
}

struct Session {
    peer: MemoryStream,
    faults: Faults,
    report: oneshot::Receiver<CloseReport>,
    begin: Instant,
}

/// A session whose peer has five seconds to take something.
fn start(capacity: MemoryCapacity) -> Session {
    let (ours, peer) = memory_pair(capacity);
    let (ours, faults) = FaultyStream::new(ours);
    let (closed, report) = oneshot::channel();
    let limits = Limits::builder().write_timeout(Some(FIVE_SECONDS)).build().unwrap();
    LineSession::new(Transport::new(ours)).limits(limits.clone()).start(Echo(Some(closed)));
    Session { peer, faults, report, begin: Instant::now() }
}

impl Session {
    fn new() -> Self {
        start(MemoryCapacity::default())
    }

    async fn send(&mut self, bytes: &[u8]) {
        within("the session to read", self.peer.write_all(bytes)).await.unwrap();
    }

    async fn expect(&mut self, expected: &[u8]) {
        let mut got = vec![0; expected.len()];
        within("an answer", self.peer.read_exact(&mut got)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
    }

    /// What the peer reads to the EOF, the report, and when it came.
    async fn end(mut self) -> (Vec<u8>, CloseReport, Duration) {
        let mut rest = Vec::new();
        within("EOF", self.peer.read_to_end(&mut rest)).await.unwrap();
        let _ = self.peer.shutdown().await;
        let report = within("the report", self.report).await.unwrap();
        (rest, report, self.begin.elapsed())
    }
}

fn assert_met(deadline: Duration, elapsed: Duration) {
    assert!((deadline..=deadline + Duration::from_secs(1)).contains(&elapsed), "{elapsed:?}, not {deadline:?}");
}

// ---- The streams themselves ----

#[actix::test]
async fn each_direction_has_its_capacity() {
    tokio::time::pause();
    let (mut ours, mut peer) = memory_pair(MemoryCapacity { to_session: 8, to_peer: 4 });
    assert_eq!(peer.write(&[1; 100]).await.unwrap(), 8);
    assert_eq!(ours.write(&[2; 100]).await.unwrap(), 4);
    timeout(FIVE_SECONDS, peer.write(&[1])).await.expect_err("it is full");
    timeout(FIVE_SECONDS, ours.write(&[2])).await.expect_err("it is full");
    let mut buffer = [0; 100];
    assert_eq!(ours.read(&mut buffer).await.unwrap(), 8);
    assert_eq!(buffer[..8], [1; 8]);
    assert_eq!(peer.write(&[1; 100]).await.unwrap(), 8, "there is room again");
    timeout(FIVE_SECONDS, ours.write(&[2])).await.expect_err("it is full still");
}

#[actix::test]
async fn an_end_may_be_shut_down_and_dropped() {
    let (mut ours, mut peer) = memory_pair(MemoryCapacity::default());
    peer.write_all(b"last").await.unwrap();
    peer.shutdown().await.unwrap();
    let mut got = Vec::new();
    ours.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"last");
    ours.write_all(b"answer").await.unwrap();
    drop(ours);
    peer.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"lastanswer");

    let (mut ours, peer) = memory_pair(MemoryCapacity::default());
    drop(peer);
    assert_eq!(ours.write(b"nobody is there").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[actix::test]
async fn without_faults_it_is_the_stream_that_it_is_made_of() {
    let (ours, mut peer) = memory_pair(MemoryCapacity::default());
    let (mut ours, _) = FaultyStream::new(ours);
    ours.write_all(&[7; 5000]).await.unwrap();
    ours.flush().await.unwrap();
    ours.shutdown().await.unwrap();
    let mut got = Vec::new();
    peer.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, [7; 5000]);
    peer.write_all(&got).await.unwrap();
    drop(peer);
    let mut back = vec![1];
    ours.read_to_end(&mut back).await.unwrap();
    assert_eq!((back.len(), back[5000]), (5001, 7));
}

#[actix::test]
async fn a_call_fails_once_at_its_byte() {
    let (ours, mut peer) = memory_pair(MemoryCapacity::default());
    let (mut ours, faults) = FaultyStream::new(ours);
    let kind = |result: io::Result<usize>| result.map_err(|error| error.kind());
    let mut buffer = [0; 10];
    peer.write_all(b"0123456789").await.unwrap();

    faults.fail_after(StreamCall::Read, 4, ErrorKind::ConnectionReset);
    assert_eq!(kind(ours.read(&mut buffer).await), Ok(4));
    assert_eq!(kind(ours.read(&mut buffer).await), Err(ErrorKind::ConnectionReset));
    assert_eq!(kind(ours.read(&mut buffer).await), Ok(6), "nothing is lost");

    faults.fail_after(StreamCall::Write, 4, ErrorKind::TimedOut);
    faults.fail_after(StreamCall::Flush, 9, ErrorKind::StorageFull);
    assert_eq!(kind(ours.write(b"0123456789").await), Ok(4));
    ours.flush().await.unwrap();
    assert_eq!(kind(ours.write(b"456789").await), Err(ErrorKind::TimedOut));
    assert_eq!(kind(ours.write(b"456789").await), Ok(6));
    assert_eq!(ours.flush().await.unwrap_err().kind(), ErrorKind::StorageFull);

    faults.fail(StreamCall::Shutdown, ErrorKind::NotConnected);
    assert_eq!(ours.shutdown().await.unwrap_err().kind(), ErrorKind::NotConnected);
    ours.shutdown().await.unwrap();
    peer.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"0123456789");
}

#[actix::test]
async fn reads_and_writes_may_be_short() {
    let (ours, mut peer) = memory_pair(MemoryCapacity::default());
    let (mut ours, faults) = FaultyStream::new(ours);
    let mut buffer = [0; 100];
    peer.write_all(&[1; 100]).await.unwrap();
    faults.limit(Half::Read, 3);
    assert_eq!(ours.read(&mut buffer).await.unwrap(), 3);
    assert_eq!(ours.read(&mut buffer[..2]).await.unwrap(), 2);
    assert_eq!(ours.write(&[2; 100]).await.unwrap(), 100, "the other half is as it was");
    faults.limit(Half::Write, 7);
    assert_eq!(ours.write(&[2; 100]).await.unwrap(), 7);
    faults.limit(Half::Read, 0);
    assert_eq!(ours.read(&mut buffer).await.unwrap(), 95);
}

#[actix::test]
async fn whoever_waits_is_woken_by_a_fault_and_by_the_end_of_a_stall() {
    tokio::time::pause();
    let (ours, mut peer) = memory_pair(MemoryCapacity::default());
    let (mut ours, faults) = FaultyStream::new(ours);
    let later = |what: Box<dyn FnOnce(&Faults)>| {
        let faults = faults.clone();
        actix_rt::spawn(async move {
            pass(Duration::from_secs(1)).await;
            what(&faults);
        });
    };
    let mut buffer = [0; 4];
    let begin = Instant::now();
    later(Box::new(|faults| faults.fail(StreamCall::Read, ErrorKind::ConnectionReset)));
    let error = within("the fault", ours.read(&mut buffer)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "while there is nothing to read");
    assert_met(Duration::from_secs(1), begin.elapsed());

    for call in [StreamCall::Read, StreamCall::Write, StreamCall::Flush, StreamCall::Shutdown] {
        faults.stall(call);
        peer.write_all(b"four").await.unwrap();
        for fails in [true, false] {
            later(Box::new(
                move |faults| {
                    if fails { faults.fail(call, ErrorKind::TimedOut) } else { faults.resume(call) }
                },
            ));
            let begin = Instant::now();
            let result = within("the end of the stall", async {
                match call {
                    StreamCall::Read => ours.read_exact(&mut buffer).await.map(drop),
                    StreamCall::Write => ours.write_all(b"four").await,
                    StreamCall::Flush => ours.flush().await,
                    StreamCall::Shutdown => ours.shutdown().await,
                }
            })
            .await;
            assert_eq!(result.err().map(|error| error.kind()), fails.then_some(ErrorKind::TimedOut), "{call:?}");
            assert_met(Duration::from_secs(1), begin.elapsed());
        }
    }
}

// ---- Sessions ----

#[actix::test]
async fn a_peer_that_takes_nothing_is_cut_after_the_write_timeout() {
    tokio::time::pause();
    let mut session = Session::new();
    session.send(b"one\n").await;
    session.expect(b"one\n").await;
    pass(Duration::from_secs(3)).await;
    session.faults.stall(StreamCall::Write);
    session.send(b"hello\n").await;
    session.begin = Instant::now();
    let (rest, report, elapsed) = session.end().await;
    assert_met(FIVE_SECONDS, elapsed);
    assert_eq!(rest, b"");
    assert_eq!((report.reason, report.cut), (CloseReason::WriteStalled, true));
    assert_eq!((report.lines_in, report.bytes_out, report.unsent_bytes), (2, 4, 6));
}

#[actix::test]
async fn a_peer_that_reads_nothing_is_cut_once_its_capacity_is_full() {
    tokio::time::pause();
    let mut session = start(MemoryCapacity { to_peer: 4, ..MemoryCapacity::default() });
    session.send(b"hello\n").await;
    let report = within("the report", &mut session.report).await.unwrap();
    assert_met(FIVE_SECONDS, session.begin.elapsed());
    assert_eq!((report.reason, report.bytes_out, report.unsent_bytes), (CloseReason::WriteStalled, 4, 2));
    session.expect(b"hell").await;
}

#[actix::test]
async fn a_peer_that_goes_on_in_time_gets_everything() {
    tokio::time::pause();
    let mut session = Session::new();
    session.faults.stall(StreamCall::Write);
    for _ in 0..10 {
        session.send(&b"line\n".repeat(1000)).await;
    }
    pass(Duration::from_secs(3)).await;
    session.faults.resume(StreamCall::Write);
    session.peer.shutdown().await.unwrap();
    let (rest, report, elapsed) = session.end().await;
    assert_eq!(rest, b"line\n".repeat(10_000));
    assert_eq!((report.reason, report.lines_in, report.unsent_bytes), (CloseReason::PeerEof, 10_000, 0));
    assert_met(Duration::from_secs(3), elapsed);
}

#[actix::test]
async fn a_read_that_fails_in_the_middle_of_a_line_is_the_reason_with_its_counts() {
    tokio::time::pause();
    for (kind, reason) in [
        (ErrorKind::ConnectionReset, CloseReason::PeerReset),
        (ErrorKind::TimedOut, CloseReason::Io(Half::Read, ErrorKind::TimedOut)),
        (ErrorKind::HostUnreachable, CloseReason::Io(Half::Read, ErrorKind::HostUnreachable)),
    ] {
        let mut session = Session::new();
        session.faults.fail_after(StreamCall::Read, 9, kind);
        session.send(b"hello\nworld\n").await;
        let (rest, report, _) = session.end().await;
        assert_eq!(rest, b"hello\n", "{kind:?}");
        assert_eq!((report.reason, report.lines_in, report.bytes_in), (reason, 1, 9), "{kind:?}");
        assert_eq!((report.undelivered_bytes, report.tail_bytes), (3, 3), "{kind:?}");
        assert_eq!((report.bytes_out, report.unsent_bytes), (6, 0), "{kind:?}");
    }
}

#[actix::test]
async fn a_write_that_fails_counts_what_is_unsent() {
    tokio::time::pause();
    for (kind, reason) in [
        (ErrorKind::BrokenPipe, CloseReason::PeerReset),
        (ErrorKind::ConnectionReset, CloseReason::PeerReset),
        (ErrorKind::TimedOut, CloseReason::Io(Half::Write, ErrorKind::TimedOut)),
    ] {
        // At once, and from the outbox.
        for stalls in [false, true] {
            let mut session = Session::new();
            if stalls {
                session.faults.stall(StreamCall::Write);
            }
            session.faults.fail_after(StreamCall::Write, 100, kind);
            session.send(&b"lines\n".repeat(50)).await;
            pass(Duration::from_secs(1)).await;
            session.faults.resume(StreamCall::Write);
            let (rest, report, _) = session.end().await;
            assert_eq!(rest.len(), 100, "{kind:?}");
            assert_eq!((report.reason, report.lines_in), (reason, 50), "{kind:?}");
            assert_eq!((report.bytes_out, report.unsent_bytes), (100, 200), "{kind:?}");
        }
    }
}

#[actix::test]
async fn a_reset_ends_a_stall() {
    tokio::time::pause();
    let mut session = Session::new();
    session.faults.stall(StreamCall::Write);
    session.send(b"hello\n").await;
    pass(Duration::from_secs(1)).await;
    session.faults.fail(StreamCall::Write, ErrorKind::ConnectionReset);
    let (_, report, elapsed) = session.end().await;
    assert_met(Duration::from_secs(1), elapsed);
    assert_eq!((report.reason, report.unsent_bytes), (CloseReason::PeerReset, 6));
}

#[actix::test]
async fn an_interrupted_call_is_made_again() {
    tokio::time::pause();
    for call in [StreamCall::Read, StreamCall::Write] {
        let mut session = Session::new();
        session.faults.fail_after(call, 2, ErrorKind::Interrupted);
        session.send(b"hello\n").await;
        session.expect(b"hello\n").await;
        session.peer.shutdown().await.unwrap();
        assert_eq!(session.end().await.1.reason, CloseReason::PeerEof, "{call:?}");
    }
}

#[actix::test]
async fn short_reads_and_writes_change_nothing() {
    tokio::time::pause();
    let input = b"one\r\ntwo\n\nthree with more of it\ntail";
    for reads in 1..=8 {
        for writes in 1..=8 {
            let mut session = Session::new();
            session.faults.limit(Half::Read, reads);
            session.faults.limit(Half::Write, writes);
            session.send(input).await;
            session.peer.shutdown().await.unwrap();
            let (rest, report, _) = session.end().await;
            assert_eq!(rest, input, "reads of {reads}, writes of {writes}");
            assert_eq!((report.lines_in, report.bytes_in, report.bytes_out), (5, 36, 36));
        }
    }
}

#[actix::test]
async fn a_flush_that_does_not_come_to_an_end_is_a_stalled_write() {
    tokio::time::pause();
    let mut session = Session::new();
    session.faults.stall(StreamCall::Flush);
    session.send(b"hello\n").await;
    let (rest, report, elapsed) = session.end().await;
    assert_eq!(rest, b"hello\n");
    assert_met(FIVE_SECONDS, elapsed);
    assert_eq!((report.reason, report.cut), (CloseReason::WriteStalled, true));
}

#[actix::test]
async fn a_shutdown_that_does_not_come_to_an_end_is_cut() {
    tokio::time::pause();
    let mut session = Session::new();
    session.faults.stall(StreamCall::Shutdown);
    session.send(b"stop\n").await;
    let (rest, report, elapsed) = session.end().await;
    assert_eq!(rest, b"stop\n");
    assert_met(FIVE_SECONDS, elapsed);
    assert_eq!((report.reason, report.cut, report.unsent_bytes), (CloseReason::ClosedByHandler, true, 0));
}

#[actix::test]
async fn a_flush_or_a_shutdown_that_fails_ends_the_session() {
    tokio::time::pause();
    for (call, reason) in [
        (StreamCall::Flush, CloseReason::Io(Half::Write, ErrorKind::StorageFull)),
        // The reason is the first cause.
        (StreamCall::Shutdown, CloseReason::ClosedByHandler),
    ] {
        let mut session = Session::new();
        session.faults.fail(call, ErrorKind::StorageFull);
        session.send(b"stop\n").await;
        let (rest, report, elapsed) = session.end().await;
        assert_eq!((rest.as_slice(), report.reason), (&b"stop\n"[..], reason), "{call:?}");
        assert_met(Duration::ZERO, elapsed);
    }
}
