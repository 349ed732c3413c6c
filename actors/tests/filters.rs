//! Behind a filter a session keeps every promise.
//!
//! The filter of these tests frames bytes, holds back what is not whole, and answers some frames by itself: `support/frames`.

#[path = "support/frames.rs"]
mod frames;
mod support;

use std::{
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use actix::{Actor, ActorContext, AsyncContext, Handler, Message, fut::wrap_future};
use actix_lines::{
    CloseReason, CloseReport, Connection, Half, Line, LineContext, LineHandler, LineServer, LineSession, Listener,
    Transport,
    control::SessionFilter,
    filter::{Eof, Fault, Filter, Flow, Inflow},
    limits::{Limits, Rate, RateLimit},
    testing::{Faults, FaultyStream, MemoryCapacity, MemoryStream, StreamCall, memory_pair},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use crate::{
    frames::{BAD, BOMB, CARRIED, Frames, HELLO, PING, Sent, ended, frame, frames, read},
    support::{PATIENCE, Peer, Server, at_once, cut, eventually, pass, pause, within},
};

/// Lines of many lengths, and a tail.
const TEXT: &[u8] = b"one\n\ntwo and more\r\nthree\nfour\0five\xff\nsix\n7\n8\n9\nten ten ten ten\nand a tail";

/// Answers each line with itself; some mean more.
#[derive(Default)]
struct Echo {
    report: Option<oneshot::Sender<CloseReport>>,
    greeting: &'static [u8],
}

impl Actor for Echo {
    type Context = LineContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.write(self.greeting);
    }
}

impl LineHandler for Echo {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
        match line.text() {
            b"wait" => ctx.wait(wrap_future::<_, Self>(pass(Duration::from_millis(20)))),
            b"stop" => ctx.stop(),
            b"half" => ctx.half_close(),
            _ => {}
        }
    }

    fn closed(&mut self, report: &CloseReport) {
        let _ = self.report.take().map(|closed| closed.send(report.clone()));
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Say(Vec<u8>);

impl Handler<Say> for Echo {
    type Result = ();
    fn handle(&mut self, Say(bytes): Say, ctx: &mut Self::Context) {
        ctx.write(&bytes);
    }
}

/// A session over memory, its peer, and what it leaves.
struct Conversation {
    peer: MemoryStream,
    faults: Faults,
    report: oneshot::Receiver<CloseReport>,
    address: actix::Addr<Echo>,
}

impl Conversation {
    fn start(capacity: MemoryCapacity, greeting: &'static [u8], filter: impl Filter) -> Self {
        Self::limited(capacity, greeting, Limits::default(), |transport| transport.with_filter(filter))
    }

    fn limited(
        capacity: MemoryCapacity,
        greeting: &'static [u8],
        limits: Limits,
        filter: impl FnOnce(Transport) -> Transport,
    ) -> Self {
        let (ours, peer) = memory_pair(capacity);
        let (ours, faults) = FaultyStream::new(ours);
        let (closed, report) = oneshot::channel();
        let echo = Echo { report: Some(closed), greeting };
        let address = LineSession::new(filter(Transport::new(ours))).limits(limits).start(echo);
        Self { peer, faults, report, address }
    }

    fn with(filter: impl Filter) -> Self {
        Self::start(MemoryCapacity::default(), b"", filter)
    }

    async fn send(&mut self, bytes: &[u8]) {
        within("the session to read", self.peer.write_all(bytes)).await.unwrap();
    }

    async fn expect(&mut self, expected: &[u8]) {
        let mut got = vec![0; expected.len()];
        within("an answer", self.peer.read_exact(&mut got)).await.unwrap();
        assert_eq!(got, expected);
    }

    /// All that is still sent, and the report.
    async fn end(mut self) -> (Sent, CloseReport) {
        let mut rest = Vec::new();
        within("the end", self.peer.read_to_end(&mut rest)).await.unwrap();
        drop(self.peer);
        (read(&rest), within("the report", self.report).await.unwrap())
    }
}

/// Sends `wire` in chunks, then the FIN; returns what came back, and the report.
async fn converse(filter: impl Filter, wire: &[u8], sizes: &[usize], writes: usize) -> (Sent, CloseReport) {
    let Conversation { peer, faults, report, address: _address } = Conversation::with(filter);
    faults.limit(Half::Write, writes);
    let (mut reader, mut writer) = tokio::io::split(peer);
    let send = async {
        for chunk in cut(wire, sizes) {
            // A session that closed early reads no more.
            if writer.write_all(chunk).await.is_err() {
                break;
            }
            // The session's turn.
            tokio::task::yield_now().await;
        }
        let _ = writer.shutdown().await;
    };
    let mut rest = Vec::new();
    within("the end", async { tokio::join!(send, reader.read_to_end(&mut rest)).1.unwrap() }).await;
    drop((reader, writer));
    (read(&rest), within("the report", report).await.unwrap())
}

/// A server whose only listener has a filter.
async fn serve(workers: usize, listener: Listener) -> Server {
    Server::of(LineServer::new(|_| Echo::default()).workers(workers).listen(listener).unwrap()).await
}

/// A small generator of numbers, for cuts that can be had again.
fn random(seed: &mut u64) -> usize {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    (*seed >> 33) as usize
}

fn assert_exact((sent, report): &(Sent, CloseReport), text: &[u8], what: &str) {
    assert_eq!(String::from_utf8_lossy(&sent.plain), String::from_utf8_lossy(text), "{what}");
    assert!(sent.is_ended && sent.rest.is_empty(), "{what}: {sent:?}");
    let len = text.len() as u64;
    assert_eq!(
        (report.reason, report.bytes_in, report.bytes_out),
        (CloseReason::PeerEof, len, len),
        "{what}: {report}"
    );
    assert_eq!((report.unsent_bytes, report.undelivered_bytes, report.cut), (0, 0, false), "{what}: {report}");
}

// D1, D2: exact and in order, however the wire is cut.

#[actix::test]
async fn answers_are_exact_and_in_order_wherever_the_wire_is_cut() {
    for sizes in [[1].as_slice(), &[7, 1, 3], &[1000]] {
        let wire = ended(TEXT, sizes);
        for at in 1..wire.len() {
            let got = converse(Frames::default(), &wire, &[at, wire.len()], 0).await;
            assert_exact(&got, TEXT, &format!("frames of {sizes:?}, cut at {at}"));
        }
        let got = converse(Frames::default(), &wire, &[1], 1).await;
        assert_exact(&got, TEXT, &format!("frames of {sizes:?}, byte by byte"));
    }
}

#[actix::test]
async fn answers_are_exact_for_random_frames_cuts_and_writes() {
    let text = TEXT.repeat(40);
    for round in 1..=60 {
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(round);
        let mut sizes = |most: usize| -> Vec<usize> { (0..20).map(|_| 1 + random(&mut seed) % most).collect() };
        let (framed, cuts, writes) = (sizes(300), sizes(200), sizes(100)[0]);
        let wire = ended(&text, &framed);
        let got = converse(Frames::default(), &wire, &cuts, writes).await;
        assert_exact(&got, &text, &format!("round {round}"));
    }
}

#[actix::test]
async fn a_frame_with_more_than_a_rate_grants_comes_in_parts() {
    pause();
    let bytes = Some(Rate { per_second: 400, burst: 1 });
    let limits = Limits::builder().session_rate(RateLimit { bytes, lines: None }).build().unwrap();
    let text = TEXT.repeat(20);
    let mut conversation = Conversation::limited(MemoryCapacity::default(), b"", limits, |transport| {
        transport.with_filter(Frames::default())
    });
    conversation.send(&ended(&text, &[text.len()])).await;
    let (sent, report) = conversation.end().await;
    assert_eq!((sent.plain == text, sent.is_ended), (true, true), "{sent:?}");
    assert_eq!((report.reason, report.bytes_in), (CloseReason::PeerEof, text.len() as u64), "{report}");
    assert!(report.duration > Duration::from_secs(3), "{report}");
}

#[actix::test]
async fn a_preface_is_read_before_anything_is_written_wherever_it_is_cut() {
    let wire = [HELLO, &ended(TEXT, &[9])].concat();
    for at in 1..wire.len() {
        let conversation = Conversation::start(MemoryCapacity::default(), b"welcome\n", Frames::after_hello());
        let Conversation { mut peer, report, address: _address, .. } = conversation;
        let mut rest = Vec::new();
        within("the end", async {
            for chunk in cut(&wire, &[at, wire.len()]) {
                peer.write_all(chunk).await.unwrap();
                tokio::task::yield_now().await;
            }
            peer.shutdown().await.unwrap();
            peer.read_to_end(&mut rest).await.unwrap();
        })
        .await;
        let frames = rest.strip_prefix(HELLO).expect("the filter's answer comes first");
        assert_eq!(read(frames).plain, [b"welcome\n", TEXT].concat(), "cut at {at}");
        let report = report.await.unwrap();
        assert_eq!(
            (report.bytes_in, report.bytes_out, report.unsent_bytes),
            (TEXT.len() as u64, TEXT.len() as u64 + 8, 0)
        );
    }
}

#[actix::test]
async fn a_session_that_has_much_to_say_first_does_not_wait_for_its_filter_for_ever() {
    // Above the high watermark it does not read, but its filter has to.
    const GREETING: &[u8] = &[b'x'; 200 * 1024];
    let conversation = Conversation::start(MemoryCapacity::default(), GREETING, Frames::after_hello());
    let Conversation { mut peer, report, address: _address, .. } = conversation;
    tokio::task::yield_now().await;
    peer.write_all(HELLO).await.unwrap();
    peer.write_all(&ended(b"bye\n", &[2])).await.unwrap();
    let mut rest = Vec::new();
    within("the greeting", peer.read_to_end(&mut rest)).await.unwrap();
    drop(peer);
    let sent = read(rest.strip_prefix(HELLO).expect("the filter's answer comes first"));
    assert_eq!((sent.plain.len(), sent.is_ended), (GREETING.len() + 4, true));
    assert_eq!(report.await.unwrap().reason, CloseReason::PeerEof);
}

// D3: half-close, by the filter's own end.

#[actix::test]
async fn the_end_of_the_filters_own_is_a_half_close() {
    pause();
    let mut conversation = Conversation::with(Frames::default());
    // No FIN: the filter's end is the peer's end.
    conversation.send(&ended(b"wait\none\ntail", &[5, 2])).await;
    let mut rest = vec![0; read_len(&[b"wait\n", b"one\n", b"tail"])];
    within("every reply owed", conversation.peer.read_exact(&mut rest)).await.unwrap();
    let sent = read(&rest);
    assert_eq!((sent.plain.as_slice(), sent.is_ended), (b"wait\none\ntail".as_slice(), true));
    let (_, report) = conversation.end().await;
    assert_eq!((report.reason, report.lines_in, report.tail_bytes), (CloseReason::PeerEof, 3, 4));
}

/// Bytes of the wire for frames of these and the end, if each is one frame.
fn read_len(frames: &[&[u8]]) -> usize {
    frames.iter().map(|plain| plain.len() + 2).sum::<usize>() + 2
}

#[actix::test]
async fn a_session_may_end_its_side_and_read_on() {
    let mut conversation = Conversation::with(Frames::default());
    conversation.send(&frames(b"half\n", &[2])).await;
    let mut rest = Vec::new();
    within("the session's end", conversation.peer.read_to_end(&mut rest)).await.unwrap();
    assert_eq!((read(&rest).plain.as_slice(), read(&rest).is_ended), (b"half\n".as_slice(), true));
    conversation.send(&ended(b"one\ntwo\n", &[3])).await;
    let (_, report) = conversation.end().await;
    assert_eq!((report.reason, report.lines_in, report.bytes_in), (CloseReason::PeerEof, 3, 13));
    assert_eq!((report.bytes_out, report.unsent_bytes), (5, 8), "what is written after our end is unsent");
}

// D4: polite close.

#[actix::test]
async fn a_close_of_ours_sends_what_was_written_then_the_filters_end_then_the_fin() {
    let mut conversation = Conversation::with(Frames::default());
    conversation.send(&[frames(b"one\nstop\n", &[4]), frames(b"late\n", &[5])].concat()).await;
    let mut rest = Vec::new();
    within("the end", conversation.peer.read_to_end(&mut rest)).await.unwrap();
    let sent = read(&rest);
    assert_eq!((sent.plain.as_slice(), sent.is_ended), (b"one\nstop\n".as_slice(), true));
    // It lingers: this is discarded, and counted as what it is in plain.
    conversation.send(&ended(b"much later\n", &[3])).await;
    let (_, report) = conversation.end().await;
    assert_eq!((report.reason, report.bytes_in, report.undelivered_bytes), (CloseReason::ClosedByHandler, 25, 16));
    assert!(!report.cut, "{report}");
}

#[actix::test]
async fn bytes_behind_the_end_of_the_filters_own_make_no_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (closed, report) = oneshot::channel();
    let transport = Transport::from(listener.accept().await.unwrap().0).with_filter(Frames::default());
    LineSession::new(transport).start(Echo { report: Some(closed), greeting: b"" });
    let mut peer = Peer { stream: peer };
    peer.send(&[ended(b"one\n", &[4]), b"junk".repeat(100_000)].concat()).await;
    let sent = read(&peer.rest().await);
    assert_eq!((sent.plain.as_slice(), sent.is_ended), (b"one\n".as_slice(), true));
    drop(peer);
    let report = within("the report", report).await.unwrap();
    assert_eq!((report.reason, report.cut), (CloseReason::PeerEof, false), "{report}");
    // All but what came with the first read was read, so that nothing lies there when the socket is closed.
    assert!(report.undelivered_bytes > 300_000, "{report}");
}

// D5: bounded.

#[actix::test]
async fn a_peer_that_does_not_read_is_not_read_and_gets_everything_when_it_does() {
    let mut server = serve(1, Listener::tcp("127.0.0.1:0").filter(|_| Frames::default())).await;
    let mut peer = server.connect().await;
    let wire = frame(b"0123456789abcdef0123456789abcdef\n");
    let taken = peer.send_until_stuck(&server, &wire, 64 * 1024).await;
    let session = server.sessions().await.remove(0);
    // A watermark, the answers of one read, and what is sealed of it.
    assert!(session.outbox_bytes <= 2 * 64 * 1024 + 64, "{session:?}");
    let (mut read_half, mut write_half) = peer.stream.split();
    let lines = taken.div_ceil(wire.len());
    let rest = [&wire[taken % wire.len()..], &[0, 0]].concat();
    let rest = if taken % wire.len() == 0 { vec![0, 0] } else { rest };
    let mut answers = Vec::new();
    within("every answer", async {
        tokio::join!(async { write_half.write_all(&rest).await.unwrap() }, read_half.read_to_end(&mut answers))
            .1
            .unwrap();
    })
    .await;
    let sent = read(&answers);
    assert_eq!((sent.plain.len(), sent.is_ended), (lines * 33, true));
    drop(peer);
    let report = server.report().await;
    assert_eq!((report.bytes_in, report.bytes_out), ((lines * 33) as u64, (lines * 33) as u64), "{report}");
    server.end().await;
}

#[actix::test]
async fn replies_of_the_filter_that_nobody_reads_are_bounded() {
    let capacity = MemoryCapacity { to_session: 1024, to_peer: 16 };
    let mut conversation = Conversation::start(capacity, b"", Frames::default());
    let pings = PING.to_be_bytes().repeat(1000);
    let mut taken = 0;
    let mut stuck = 0;
    // A turn of the session takes what lies there, if it takes anything.
    while stuck < 100 {
        match tokio::time::timeout(Duration::ZERO, conversation.peer.write(&pings)).await {
            Ok(count) => (taken, stuck) = (taken + count.unwrap(), 0),
            Err(_) => stuck += 1,
        }
        tokio::task::yield_now().await;
        assert!(taken < 300_000, "it reads on and on");
    }
    assert!(taken > 64 * 1024, "{taken}");
    // Read, they all come.
    let Conversation { mut peer, .. } = conversation;
    let (mut reader, mut writer) = tokio::io::split(&mut peer);
    let rest = if taken % 2 == 1 { vec![0xFF, 0, 0] } else { vec![0, 0] };
    let mut all = Vec::new();
    within("every reply", async {
        tokio::join!(async { writer.write_all(&rest).await.unwrap() }, reader.read_to_end(&mut all)).1.unwrap();
    })
    .await;
    let sent = read(&all);
    assert_eq!((sent.pings, sent.is_ended), (taken.div_ceil(2), true));
}

#[actix::test]
async fn what_a_filter_holds_is_a_line_that_was_begun() {
    pause();
    let limits = Limits::builder().line_timeout(Some(Duration::from_secs(5))).idle_timeout(None).build().unwrap();
    let mut conversation = Conversation::limited(MemoryCapacity::default(), b"", limits, |transport| {
        transport.with_filter(Frames::default())
    });
    pass(Duration::from_secs(20)).await;
    conversation.send(&frame(b"line\n")).await;
    conversation.expect(&frame(b"line\n")).await;
    pass(Duration::from_secs(20)).await;
    conversation.send(&frame(b"line\n")[..5]).await;
    let (sent, report) = conversation.end().await;
    assert!(sent.is_ended && sent.plain.is_empty(), "{sent:?}");
    assert_eq!((report.reason, report.bytes_in), (CloseReason::LineTimeout, 5));
    assert!(report.duration < Duration::from_secs(50), "{report}");
}

// D6: accounted, in plain.

#[actix::test]
async fn bytes_are_out_when_all_that_they_are_on_the_wire_was_taken() {
    // An answer of 100,000 bytes is pieces of 16 KiB, each with two bytes of its own.
    const PIECE: u64 = 16 * 1024;
    for (taken, out) in
        [(0, 0), (1, 0), (PIECE + 1, 0), (PIECE + 2, PIECE), (2 * PIECE + 3, PIECE), (2 * PIECE + 4, 2 * PIECE)]
    {
        let capacity = MemoryCapacity { to_peer: 1024 * 1024, ..MemoryCapacity::default() };
        let conversation = Conversation::start(capacity, b"", Frames::default());
        conversation.faults.fail_after(StreamCall::Write, taken, ErrorKind::ConnectionReset);
        conversation.address.do_send(Say(vec![b'x'; 100_000]));
        let (_, report) = conversation.end().await;
        assert_eq!(
            (report.reason, report.bytes_out, report.unsent_bytes),
            (CloseReason::PeerReset, out, 100_000 - out)
        );
    }
}

#[actix::test]
async fn an_abort_counts_as_unsent_what_is_sealed_and_waits() {
    #[derive(Message)]
    #[rtype(result = "()")]
    struct Abort;
    impl Handler<Abort> for Echo {
        type Result = ();
        fn handle(&mut self, _: Abort, ctx: &mut Self::Context) {
            ctx.terminate();
        }
    }
    let capacity = MemoryCapacity { to_peer: 20_000, ..MemoryCapacity::default() };
    let conversation = Conversation::start(capacity, b"", Frames::default());
    conversation.address.send(Say(vec![b'x'; 50_000])).await.unwrap();
    tokio::task::yield_now().await;
    conversation.address.do_send(Abort);
    let (sent, report) = conversation.end().await;
    assert_eq!((sent.plain.len(), sent.is_ended, sent.rest.len()), (16 * 1024, false, 20_000 - 16 * 1024 - 2));
    assert_eq!((report.bytes_out, report.unsent_bytes), (16 * 1024, 50_000 - 16 * 1024));
}

// Ends that only a filter knows.

#[actix::test]
async fn a_fin_without_the_filters_end_is_a_truncation() {
    for (wire, out, tail) in [
        (frames(b"one\ntwo\n", &[3]), 8, 0),
        (frames(b"one\ntwo\nthr", &[3]), 8, 3),
        ([frames(b"one\ntwo\nthr", &[3]), frame(b"ee\n")[..4].to_vec()].concat(), 8, 3),
    ] {
        let (sent, report) = converse(Frames::default(), &wire, &[4], 0).await;
        assert_eq!(
            (sent.plain.as_slice(), sent.is_ended),
            (b"one\ntwo\n".as_slice(), true),
            "whole lines are answered"
        );
        assert_eq!((report.reason, report.bytes_out, report.lines_in), (CloseReason::Truncated, out, 2), "{report}");
        assert_eq!((report.tail_bytes, report.undelivered_bytes, report.unsent_bytes), (tail, tail, 0), "{report}");
    }
}

#[actix::test]
async fn a_fault_delivers_the_lines_before_it_and_sends_the_filters_reply() {
    let mut conversation = Conversation::with(Frames::default());
    conversation.send(&frame(b"one\n")).await;
    conversation.expect(&frame(b"one\n")).await;
    conversation.send(&[frames(b"two\nthr", &[4]), BAD.to_be_bytes().to_vec(), b"never read".to_vec()].concat()).await;
    let (sent, report) = conversation.end().await;
    assert_eq!((sent.bads, sent.is_ended, sent.plain.len()), (1, false, 0));
    assert_eq!((report.reason, report.lines_in, report.bytes_in), (CloseReason::FilterFailed, 2, 11));
    assert_eq!((report.bytes_out, report.unsent_bytes), (4, 4), "nobody can write the second answer");
    assert_eq!((report.tail_bytes, report.undelivered_bytes, report.cut), (3, 3, false), "{report}");
}

#[actix::test]
async fn a_fault_ends_a_session_that_does_not_read() {
    pause();
    let mut conversation = Conversation::with(Frames::failing_after(10));
    conversation.send(&frame(b"wait\n")).await;
    conversation.expect(&frame(b"wait\n")).await;
    conversation.address.do_send(Say(b"12345".to_vec()));
    conversation.expect(&frame(b"12345")).await;
    conversation.address.do_send(Say(vec![b'x'; 100_000]));
    let (sent, report) = conversation.end().await;
    assert_eq!((sent.plain.len(), sent.is_ended), (0, false));
    assert_eq!((report.reason, report.bytes_out, report.unsent_bytes), (CloseReason::FilterFailed, 10, 100_000));
}

#[actix::test]
async fn a_filter_that_panics_ends_its_session_alone() {
    let mut server = serve(1, Listener::tcp("127.0.0.1:0").filter(|_| Frames::default())).await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    second.send(&frame(b"one\n")).await;
    second.expect(&frame(b"one\n")).await;
    first.send(&[frame(b"one\n"), BOMB.to_be_bytes().to_vec()].concat()).await;
    first.expect_eof().await;
    drop(first);
    let report = server.report().await;
    assert_eq!((report.reason, report.lines_in, report.unsent_bytes), (CloseReason::FilterFailed, 1, 4), "{report}");
    second.send(&frame(b"two\n")).await;
    second.expect(&frame(b"two\n")).await;
    second.send(&[0, 0]).await;
    assert!(read(&second.rest().await).is_ended);
    drop(second);
    assert_eq!(server.report().await.reason, CloseReason::PeerEof);
    server.end().await;
}

#[actix::test]
async fn a_preface_that_is_none_ends_the_session() {
    let mut conversation = Conversation::start(MemoryCapacity::default(), b"welcome\n", Frames::after_hello());
    conversation.send(b"help\n").await;
    let (sent, report) = conversation.end().await;
    assert_eq!(sent, Sent::default());
    assert_eq!((report.reason, report.bytes_in, report.unsent_bytes), (CloseReason::FilterFailed, 0, 8));
}

#[actix::test]
async fn a_preface_that_ends_too_soon_ends_the_session() {
    for greeting in [b"".as_slice(), b"welcome\n"] {
        let mut conversation = Conversation::start(MemoryCapacity::default(), greeting, Frames::after_hello());
        conversation.send(&HELLO[..3]).await;
        conversation.peer.shutdown().await.unwrap();
        let (_, report) = conversation.end().await;
        assert_eq!((report.reason, report.unsent_bytes), (CloseReason::Truncated, greeting.len() as u64));
    }
}

// Several filters, and filters that go.

/// Counts what passes, and is done after so many bytes.
struct Header(Vec<u8>);

impl Filter for Header {
    fn read(&mut self, wire: &mut Inflow<'_>, _: &mut Vec<u8>, _: &mut Vec<u8>) -> Result<Flow, Fault> {
        while !self.0.ends_with(b"\n") {
            match wire.take(1) {
                [] => return Ok(Flow::Preface),
                byte => self.0.extend_from_slice(byte),
            }
        }
        Ok(Flow::Done)
    }

    fn write(&mut self, _: &[u8], _: &mut Vec<u8>) -> Result<(), Fault> {
        unreachable!("it is never open")
    }

    fn eof(&mut self) -> Eof {
        if self.0.is_empty() { Eof::Clean } else { Eof::Truncated }
    }

    fn finish(&mut self, _: &mut Vec<u8>) {
        unreachable!("it is never open")
    }

    fn held(&self) -> usize {
        self.0.len()
    }
}

#[actix::test]
async fn filters_stand_one_behind_the_other_and_leave_when_they_are_done() {
    let inner = ended(TEXT, &[11]);
    let wire = [b"header\n".to_vec(), HELLO.to_vec(), ended(&inner, &[5])].concat();
    for at in 1..wire.len() {
        let conversation =
            Conversation::limited(MemoryCapacity::default(), b"welcome\n", Limits::default(), |transport| {
                transport
                    .with_filter(Header(Vec::new()))
                    .with_filter(Frames::after_hello())
                    .with_filter(Frames::default())
            });
        let Conversation { mut peer, report, address: _address, .. } = conversation;
        let mut rest = Vec::new();
        within("the end", async {
            for chunk in cut(&wire, &[at, wire.len()]) {
                peer.write_all(chunk).await.unwrap();
                tokio::task::yield_now().await;
            }
            peer.shutdown().await.unwrap();
            peer.read_to_end(&mut rest).await.unwrap();
        })
        .await;
        let outer = read(rest.strip_prefix(HELLO).expect("the answer of the outer one"));
        assert!(outer.is_ended, "{outer:?}");
        let inner = read(&outer.plain);
        assert_eq!((inner.plain, inner.is_ended), ([b"welcome\n", TEXT].concat(), true), "cut at {at}");
        let report = report.await.unwrap();
        assert_eq!((report.reason, report.bytes_in), (CloseReason::PeerEof, TEXT.len() as u64), "{report}");
        assert_eq!(report.bytes_out, TEXT.len() as u64 + 8, "{report}");
    }
}

#[actix::test]
async fn a_fault_of_the_inner_filter_ends_the_outer_one_as_it_should() {
    let inner = [frames(b"one\n", &[4]), BAD.to_be_bytes().to_vec()].concat();
    let mut conversation = Conversation::limited(MemoryCapacity::default(), b"", Limits::default(), |transport| {
        transport.with_filter(Frames::default()).with_filter(Frames::default())
    });
    conversation.send(&frames(&inner, &[3])).await;
    let (outer, report) = conversation.end().await;
    assert!(outer.is_ended, "{outer:?}");
    assert_eq!(read(&outer.plain).bads, 1);
    assert_eq!((report.reason, report.lines_in), (CloseReason::FilterFailed, 1));
}

#[actix::test]
async fn a_fault_of_the_outer_filter_ends_the_session_though_the_inner_one_has_bytes_to_send() {
    let mut conversation = Conversation::limited(MemoryCapacity::default(), b"", Limits::default(), |transport| {
        transport.with_filter(Frames::default()).with_filter(Frames::default())
    });
    conversation.send(&[frames(&frame(b"one\n"), &[3]), BAD.to_be_bytes().to_vec()].concat()).await;
    let (outer, report) = conversation.end().await;
    assert_eq!((outer.bads, outer.is_ended), (1, false), "{outer:?}");
    assert_eq!((report.reason, report.lines_in, report.unsent_bytes), (CloseReason::FilterFailed, 1, 4));
}

#[actix::test]
async fn a_probe_that_says_nothing_is_no_truncation() {
    let mut conversation = Conversation::start(MemoryCapacity::default(), b"welcome\n", Header(Vec::new()));
    conversation.peer.shutdown().await.unwrap();
    let (_, report) = conversation.end().await;
    assert_eq!((report.reason, report.unsent_bytes), (CloseReason::PeerEof, 8));
}

// C1, and the doors.

#[actix::test]
async fn sessions_of_a_listener_with_a_filter_leave_one_report_each() {
    let mut server = serve(2, Listener::tcp("127.0.0.1:0").filter(|_| Frames::default())).await;
    for _ in 0..20 {
        let mut peer = server.connect().await;
        peer.send(&ended(TEXT, &[6])).await;
        let sent = read(&peer.rest().await);
        assert_eq!((sent.plain.as_slice(), sent.is_ended), (TEXT, true));
        drop(peer);
        let report = server.report().await;
        assert_eq!((report.reason, report.bytes_in), (CloseReason::PeerEof, TEXT.len() as u64));
    }
    server.end().await;
}

#[actix::test]
async fn a_drain_answers_what_is_whole() {
    let mut server = serve(1, Listener::tcp("127.0.0.1:0").filter(|_| Frames::default())).await;
    let mut peer = server.connect().await;
    peer.send(&frame(b"one\n")).await;
    peer.expect(&frame(b"one\n")).await;
    peer.send(&[frames(b"two\nthree", &[2]), frame(b"!!\n")[..3].to_vec()].concat()).await;
    let drain = server.handle.drain(PATIENCE);
    let (sent, drained) = within("the drain", async {
        tokio::join!(
            async {
                let sent = read(&peer.rest().await);
                drop(peer);
                sent
            },
            drain
        )
    })
    .await;
    drained.unwrap();
    assert!(sent.is_ended && [b"".as_slice(), b"two\n"].contains(&sent.plain.as_slice()), "{sent:?}");
    assert_eq!(server.report().await.reason, CloseReason::Drained);
}

#[actix::test]
async fn a_filter_is_called_with_all_bytes_once() {
    CARRIED.set((0, 0));
    let text = TEXT.repeat(3000);
    let got = converse(Frames::default(), &ended(&text, &[1, 5000, 17]), &[70_000, 1, 3], 0).await;
    assert_exact(&got, &text, "much");
    assert_eq!(CARRIED.get(), (text.len(), text.len()));
}

#[actix::test]
async fn a_connection_whose_filter_cannot_be_made_is_closed_and_reported() {
    let mut server = serve(
        1,
        Listener::tcp("127.0.0.1:0").filter(|_| -> Frames { panic!("a fault on purpose, where a filter is made") }),
    )
    .await;
    let mut peer = server.connect().await;
    peer.expect_eof().await;
    assert_eq!(server.report().await.reason, CloseReason::FilterFailed);
    eventually("its place to be free", async || server.sessions().await.is_empty()).await;
    at_once("another connection", Peer::connect(server.address())).await;
    assert_eq!(server.report().await.reason, CloseReason::FilterFailed);
    server.end().await;
}

// The preface of a listener's connection, before there is an actor.

/// A server whose filters have a preface, and the number of actors that it has made.
async fn serve_after_hello() -> (Server, Arc<AtomicUsize>) {
    let made = Arc::new(AtomicUsize::new(0));
    let factory = {
        let made = Arc::clone(&made);
        move |_: &Connection| {
            made.fetch_add(1, SeqCst);
            Echo { report: None, greeting: b"welcome\n" }
        }
    };
    let listener = Listener::tcp("127.0.0.1:0").filter(|_| Frames::after_hello());
    let server = LineServer::new(factory).on_current_arbiter().listen(listener).unwrap();
    (Server::of(server).await, made)
}

#[actix::test]
async fn an_actor_is_made_when_its_filters_are_open() {
    let (mut server, made) = serve_after_hello().await;
    let mut peer = server.connect().await;
    peer.send(&HELLO[..3]).await;
    eventually("the connection", async || server.sessions().await.len() == 1).await;
    assert_eq!(made.load(SeqCst), 0);
    // Lines come with the end of the preface; they are not lost.
    peer.send(&[&HELLO[3..], &ended(b"one\ntwo\n", &[3])].concat()).await;
    let answer = peer.rest().await;
    let sent = read(answer.strip_prefix(HELLO).expect("the filter's answer comes first"));
    assert_eq!((sent.plain.as_slice(), sent.is_ended), (b"welcome\none\ntwo\n".as_slice(), true));
    assert_eq!(made.load(SeqCst), 1);
    drop(peer);
    let report = server.report().await;
    assert_eq!((report.reason, report.bytes_in, report.bytes_out), (CloseReason::PeerEof, 8, 16), "{report}");
    server.end().await;
}

#[actix::test]
async fn a_preface_that_fails_leaves_a_report_and_no_actor() {
    let (mut server, made) = serve_after_hello().await;
    for (bytes, reason) in [
        (b"".as_slice(), CloseReason::Truncated),
        (b"hell", CloseReason::Truncated),
        (b"help", CloseReason::FilterFailed),
    ] {
        let mut peer = server.connect().await;
        peer.send(bytes).await;
        peer.shutdown_write().await;
        peer.expect_eof().await;
        let report = server.report().await;
        assert_eq!((report.reason, report.bytes_in, report.bytes_out), (reason, 0, 0), "{report}");
    }
    assert_eq!(made.load(SeqCst), 0);
    server.end().await;
}

#[actix::test]
async fn a_preface_ends_by_its_deadline_by_a_kick_and_by_a_drain() {
    pause();
    let (mut server, made) = serve_after_hello().await;
    let mut peer = server.connect().await;
    peer.send(&HELLO[..3]).await;
    peer.expect_eof().await;
    let report = server.report().await;
    assert_eq!(report.reason, CloseReason::PrefaceTimeout);
    assert!(report.duration >= Duration::from_secs(10), "{report}");
    let mut peer = server.connect().await;
    eventually("the connection", async || server.sessions().await.len() == 1).await;
    server.handle.kick(SessionFilter::default(), "").await.unwrap();
    peer.expect_eof().await;
    assert_eq!(server.report().await.reason, CloseReason::Kicked);
    let mut peer = server.connect().await;
    eventually("the connection", async || server.sessions().await.len() == 1).await;
    within("the drain", server.handle.drain(PATIENCE)).await.unwrap();
    peer.expect_eof().await;
    assert_eq!(server.report().await.reason, CloseReason::Drained);
    assert_eq!(made.load(SeqCst), 0);
}

/// A preface that never ends. It says what each byte is worth: plain bytes, and a reply.
struct Endless(fn(&[u8], &mut Vec<u8>, &mut Vec<u8>));

impl Filter for Endless {
    fn read(&mut self, wire: &mut Inflow<'_>, plain: &mut Vec<u8>, reply: &mut Vec<u8>) -> Result<Flow, Fault> {
        (self.0)(wire.take(usize::MAX), plain, reply);
        Ok(Flow::Preface)
    }

    fn write(&mut self, _: &[u8], _: &mut Vec<u8>) -> Result<(), Fault> {
        unreachable!("it is never open")
    }

    fn eof(&mut self) -> Eof {
        Eof::Clean
    }

    fn finish(&mut self, _: &mut Vec<u8>) {
        unreachable!("it is never open")
    }

    fn held(&self) -> usize {
        0
    }
}

#[actix::test]
async fn a_preface_without_end_is_bounded_and_its_last_word_arrives() {
    let mut server =
        serve(1, Listener::tcp("127.0.0.1:0").filter(|_| Endless(|_, _, reply| reply.extend_from_slice(b"more"))))
            .await;
    let mut peer = server.connect().await;
    peer.send(&vec![b'x'; 80 * 1024]).await;
    let answer = peer.rest().await;
    assert!(answer.starts_with(b"moremore"), "{answer:?}");
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::FilterFailed);
    server.end().await;
}

/// A preface whose filter says something at once, then waits for a second.
struct Patient {
    begun: bool,
    timeout: fn() -> Option<Duration>,
}

impl Filter for Patient {
    fn read(&mut self, wire: &mut Inflow<'_>, _: &mut Vec<u8>, reply: &mut Vec<u8>) -> Result<Flow, Fault> {
        wire.advance(usize::MAX);
        if !std::mem::replace(&mut self.begun, true) {
            reply.extend_from_slice(b"who?");
        }
        Ok(Flow::Preface)
    }

    fn write(&mut self, _: &[u8], _: &mut Vec<u8>) -> Result<(), Fault> {
        unreachable!("it is never open")
    }

    fn eof(&mut self) -> Eof {
        Eof::Clean
    }

    fn timeout(&self) -> Option<Duration> {
        (self.timeout)()
    }

    fn expired(&mut self) -> Result<(), Fault> {
        Err(Fault::named("says-nothing", "the peer says nothing"))
    }

    fn finish(&mut self, _: &mut Vec<u8>) {}

    fn held(&self) -> usize {
        0
    }
}

#[actix::test]
async fn a_peer_that_stays_behind_the_fault_of_a_filter_does_not_keep_its_place() {
    pause();
    let timeouts: [(fn() -> _, _); 2] = [
        (|| Some(Duration::from_secs(1)), "says-nothing"),
        (|| panic!("a fault on purpose, where a filter is asked for its time"), "filter-failed"),
    ];
    for (timeout, reason) in timeouts {
        let listener = Listener::tcp("127.0.0.1:0").filter(move |_| Patient { begun: false, timeout });
        let server = LineServer::new(|_| Echo::default()).on_current_arbiter().listen(listener).unwrap();
        let mut server = Server::of(server).await;
        let mut peer = server.connect().await;
        // It reads on, and never closes.
        assert_eq!(peer.rest().await, b"who?");
        let report = server.report().await;
        assert_eq!(report.reason.name(), reason);
        assert!(report.duration < Duration::from_secs(10), "{report}");
        server.end().await;
        drop(peer);
    }
}

// Filters that break the rules.

/// A method of a filter in which something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Held,
    Memory,
    Write,
    Eof,
    Finish,
    Drop,
}

/// Passes bytes on unchanged, until it panics.
struct Panics {
    at: Method,
    has_read: bool,
}

impl Panics {
    fn at(at: Method) -> Self {
        Self { at, has_read: false }
    }

    fn come(&self, method: Method) {
        assert!(self.at != method, "a fault on purpose, in a filter's {method:?}");
    }
}

impl Filter for Panics {
    fn read(&mut self, wire: &mut Inflow<'_>, plain: &mut Vec<u8>, _: &mut Vec<u8>) -> Result<Flow, Fault> {
        self.has_read |= !wire.is_empty();
        plain.extend_from_slice(wire.rest());
        wire.advance(usize::MAX);
        Ok(Flow::Open)
    }

    fn write(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Fault> {
        self.come(Method::Write);
        wire.extend_from_slice(plain);
        Ok(())
    }

    fn eof(&mut self) -> Eof {
        self.come(Method::Eof);
        Eof::Clean
    }

    fn finish(&mut self, _: &mut Vec<u8>) {
        self.come(Method::Finish);
    }

    fn held(&self) -> usize {
        if self.has_read {
            self.come(Method::Held);
        }
        0
    }

    fn memory(&self) -> usize {
        if self.has_read {
            self.come(Method::Memory);
        }
        0
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        self.come(Method::Drop);
    }
}

#[actix::test]
async fn a_filter_that_panics_in_any_of_its_methods_ends_its_session_alone() {
    for at in [Method::Held, Method::Memory, Method::Write, Method::Eof, Method::Finish, Method::Drop] {
        let mut conversation = Conversation::limited(MemoryCapacity::default(), b"", Limits::default(), |transport| {
            // Two of them: each is dropped, whatever becomes of the other.
            transport.with_filter(Panics::at(at)).with_filter(Panics::at(at))
        });
        conversation.send(b"one\n").await;
        conversation.peer.shutdown().await.unwrap();
        let mut answer = Vec::new();
        within("the end", conversation.peer.read_to_end(&mut answer)).await.unwrap();
        drop(conversation.peer);
        let report = within("the report", conversation.report).await.unwrap();
        let is_answered = !matches!(at, Method::Held | Method::Memory | Method::Write);
        let expected = match at {
            // Nobody is left to whom it would matter.
            Method::Finish | Method::Drop => CloseReason::PeerEof,
            _ => CloseReason::FilterFailed,
        };
        assert_eq!((report.reason, report.lines_in, report.bytes_in), (expected, 1, 4), "{at:?}: {report}");
        let (out, unsent): (&[u8], _) = if is_answered { (b"one\n", 0) } else { (b"", 4) };
        assert_eq!((answer.as_slice(), report.unsent_bytes), (out, unsent), "{at:?}: {report}");
    }
}

#[actix::test]
async fn filters_that_are_made_already_are_dropped_where_the_next_one_cannot_be_made() {
    let listener = Listener::tcp("127.0.0.1:0")
        .filter(|_| Panics::at(Method::Drop))
        .filter(|_| -> Frames { panic!("a fault on purpose, where a filter is made") });
    let mut server = serve(1, listener).await;
    for _ in 0..2 {
        server.connect().await.expect_eof().await;
        assert_eq!(server.report().await.reason, CloseReason::FilterFailed);
    }
    server.end().await;
}

/// What a filter does with bytes that it should not.
#[derive(Clone, Copy, Debug)]
enum Trick {
    /// Takes back what it wrote before.
    Retract,
    /// Says that it holds more than there is.
    Exaggerate,
}

struct Tricky(Trick);

impl Filter for Tricky {
    fn read(&mut self, wire: &mut Inflow<'_>, plain: &mut Vec<u8>, _: &mut Vec<u8>) -> Result<Flow, Fault> {
        plain.extend_from_slice(wire.rest());
        wire.advance(usize::MAX);
        Ok(Flow::Open)
    }

    fn write(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Fault> {
        if matches!(self.0, Trick::Retract) {
            wire.clear();
        }
        // The second piece is shorter than the first.
        wire.extend_from_slice(&plain[..plain.len() / (1 + usize::from(plain.len() < 16 * 1024))]);
        Ok(())
    }

    fn eof(&mut self) -> Eof {
        Eof::Clean
    }

    fn finish(&mut self, _: &mut Vec<u8>) {}

    fn held(&self) -> usize {
        if matches!(self.0, Trick::Exaggerate) { usize::MAX } else { 0 }
    }
}

#[actix::test]
async fn a_filter_that_takes_back_what_it_wrote_has_failed() {
    let mut conversation = Conversation::start(MemoryCapacity::default(), &[b'x'; 20_000], Tricky(Trick::Retract));
    conversation.peer.shutdown().await.unwrap();
    let mut rest = Vec::new();
    within("the end", conversation.peer.read_to_end(&mut rest)).await.unwrap();
    drop(conversation.peer);
    let report = within("the report", conversation.report).await.unwrap();
    assert_eq!((report.reason, report.bytes_out, report.unsent_bytes), (CloseReason::FilterFailed, 0, 20_000));
}

#[actix::test]
async fn a_filter_that_says_it_holds_more_than_there_is_harms_nobody() {
    let mut conversation = Conversation::limited(MemoryCapacity::default(), b"", Limits::default(), |transport| {
        transport.with_filter(Tricky(Trick::Exaggerate)).with_filter(Tricky(Trick::Exaggerate))
    });
    conversation.peer.shutdown().await.unwrap();
    let (_, report) = conversation.end().await;
    assert_eq!(report.reason, CloseReason::PeerEof);
}

#[actix::test]
async fn a_preface_that_never_ends_is_bounded_whatever_waits_to_be_written() {
    const MUCH: &[u8] = &[b'x'; 200 * 1024];
    for answers in [true, false] {
        for greeting in [b"".as_slice(), b"welcome\n", MUCH] {
            if !answers && greeting != MUCH {
                // The session takes all of it.
                continue;
            }
            let capacity = MemoryCapacity { to_session: 1024, to_peer: 16 };
            // Each byte is answered by two, or is the session's.
            let endless = Endless(match answers {
                true => |bytes, _, reply| reply.extend_from_slice(&bytes.repeat(2)),
                false => |bytes, plain, _| plain.extend_from_slice(bytes),
            });
            let mut conversation = Conversation::start(capacity, greeting, endless);
            let (mut taken, mut stuck) = (0, 0);
            // A turn of the session takes what lies there, if it takes anything.
            while stuck < 100 {
                match tokio::time::timeout(Duration::ZERO, conversation.peer.write(&[b'y'; 1000])).await {
                    Ok(Ok(count)) => (taken, stuck) = (taken + count, 0),
                    // It has ended: a preface has a bound of its own.
                    Ok(Err(_)) => break,
                    Err(_) => stuck += 1,
                }
                tokio::task::yield_now().await;
                assert!(taken < 200 * 1024, "{answers}, {} bytes to write: it reads on and on", greeting.len());
            }
        }
    }
}

/// Is open, until the peer sends `?`, which is answered by `!`; then it waits for a `.`.
#[derive(Default)]
struct Reopens {
    waits: bool,
}

impl Filter for Reopens {
    fn read(&mut self, wire: &mut Inflow<'_>, plain: &mut Vec<u8>, reply: &mut Vec<u8>) -> Result<Flow, Fault> {
        for byte in wire.take(usize::MAX) {
            match *byte {
                b'?' => {
                    reply.push(b'!');
                    self.waits = true;
                }
                b'.' => self.waits = false,
                byte => plain.push(byte),
            }
        }
        Ok(if self.waits { Flow::Preface } else { Flow::Open })
    }

    fn write(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Fault> {
        assert!(!self.waits, "nothing may be written");
        wire.extend_from_slice(plain);
        Ok(())
    }

    fn eof(&mut self) -> Eof {
        Eof::Clean
    }

    fn finish(&mut self, _: &mut Vec<u8>) {}

    fn held(&self) -> usize {
        0
    }
}

#[actix::test]
async fn what_was_sealed_is_sent_though_its_filter_waits_for_the_peer_again() {
    const SEALED: usize = 40_000;
    let capacity = MemoryCapacity { to_peer: 100, ..MemoryCapacity::default() };
    let mut conversation = Conversation::start(capacity, b"", Reopens::default());
    conversation.address.send(Say(vec![b'x'; SEALED])).await.unwrap();
    tokio::task::yield_now().await;
    conversation.send(b"?").await;
    tokio::task::yield_now().await;
    conversation.address.send(Say(b"later\n".to_vec())).await.unwrap();
    // The peer says no more before it has the answer, which stands behind what was sealed.
    let mut answer = vec![0; SEALED + 1];
    within("what was sealed", conversation.peer.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer.iter().position(|byte| *byte != b'x'), Some(SEALED));
    assert_eq!(answer[SEALED], b'!');
    conversation.send(b".").await;
    conversation.expect(b"later\n").await;
    conversation.peer.shutdown().await.unwrap();
    let (_, report) = conversation.end().await;
    let expected = (CloseReason::PeerEof, SEALED as u64 + 6, 0);
    assert_eq!((report.reason, report.bytes_out, report.unsent_bytes), expected, "{report}");
}

/// An error whose text and destructor panic.
#[derive(Debug)]
struct Grenade;

impl std::fmt::Display for Grenade {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("a fault on purpose, in the text of an error");
    }
}

impl std::error::Error for Grenade {}

impl Drop for Grenade {
    fn drop(&mut self) {
        panic!("a fault on purpose, in the destructor of an error");
    }
}

/// Fails with the first bytes.
struct Throws;

impl Filter for Throws {
    fn read(&mut self, wire: &mut Inflow<'_>, _: &mut Vec<u8>, _: &mut Vec<u8>) -> Result<Flow, Fault> {
        if wire.is_empty() { Ok(Flow::Open) } else { Err(Fault::new(Grenade)) }
    }

    fn write(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Fault> {
        wire.extend_from_slice(plain);
        Ok(())
    }

    fn eof(&mut self) -> Eof {
        Eof::Clean
    }

    fn finish(&mut self, _: &mut Vec<u8>) {}

    fn held(&self) -> usize {
        0
    }

    fn memory(&self) -> usize {
        0
    }
}

#[actix::test]
async fn a_fault_whose_text_or_destructor_panics_ends_its_session_alone() {
    let mut server = serve(1, Listener::tcp("127.0.0.1:0").filter(|_| Throws)).await;
    for _ in 0..2 {
        let mut peer = server.connect().await;
        peer.send(b"one\n").await;
        peer.expect_eof().await;
        assert_eq!(server.report().await.reason, CloseReason::FilterFailed);
    }
    server.end().await;
}

/// Passes bytes on, unless it waits for ever, and sends what it hears at the end.
struct Hears {
    waits: bool,
    heard: tokio::sync::mpsc::UnboundedSender<CloseReport>,
}

impl Filter for Hears {
    fn read(&mut self, wire: &mut Inflow<'_>, plain: &mut Vec<u8>, _: &mut Vec<u8>) -> Result<Flow, Fault> {
        plain.extend_from_slice(wire.take(usize::MAX));
        Ok(if self.waits { Flow::Preface } else { Flow::Open })
    }

    fn write(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Fault> {
        wire.extend_from_slice(plain);
        Ok(())
    }

    fn eof(&mut self) -> Eof {
        Eof::Clean
    }

    fn finish(&mut self, _: &mut Vec<u8>) {}

    fn held(&self) -> usize {
        0
    }

    fn closed(&mut self, report: &CloseReport) {
        self.heard.send(report.clone()).unwrap();
        panic!("a fault on purpose, in the last call of a filter");
    }
}

#[actix::test]
async fn each_filter_hears_of_the_end_once_with_the_sessions_report() {
    let (heard, mut reports) = tokio::sync::mpsc::unbounded_channel();
    for waits in [false, true] {
        let heard = heard.clone();
        let listener = Listener::tcp("127.0.0.1:0")
            .filter({
                let heard = heard.clone();
                move |_| Hears { waits: false, heard: heard.clone() }
            })
            .filter(move |_| Hears { waits, heard: heard.clone() });
        let mut server = serve(1, listener).await;
        let mut peer = server.connect().await;
        peer.send(b"one\ntail").await;
        peer.shutdown_write().await;
        peer.rest().await;
        let report = server.report().await;
        assert_eq!(report.reason, CloseReason::PeerEof);
        for _ in 0..2 {
            let mut heard = within("a filter to hear of the end", reports.recv()).await.unwrap();
            heard.duration = report.duration;
            assert_eq!(heard, report);
        }
        server.end().await;
    }
    assert!(reports.try_recv().is_err(), "it heard twice");
}
