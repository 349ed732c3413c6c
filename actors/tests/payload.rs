//! Payloads inside a line protocol: the bytes asked for come as data, lines go on behind them, and nothing is lost or
//! seen twice between the two, however it is cut.

mod support;

use std::{rc::Rc, time::Duration};

use actix::{Actor, ActorContext, AsyncContext, fut::wrap_future};
use actix_lines::{
    CloseReason, CloseReport, Delimiter, Framing, Line, LineContext, LineHandler, LineServer, Overlong, Payload,
    Transport,
    control::SessionFilter,
    limits::{Limits, Rate, RateLimit},
};
use proptest::prelude::*;
use support::{Log, Server, converse, cut, eventually, pass, pause};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

/// Answers a line in brackets, a payload in braces. A line of digits asks for a payload of as many bytes; other letters at
/// the front of a line, or as the last byte of a payload, ask for something more.
#[derive(Default)]
struct Mixed {
    /// Within a payload, whose brace is open.
    is_open: bool,
    end: Log<(u64, Option<CloseReport>)>,
}

impl Actor for Mixed {
    type Context = LineContext<Self>;
}

impl Mixed {
    fn ask(&self, word: u8, ctx: &mut LineContext<Self>) {
        match word {
            b'n' => ctx.set_framing(long(Framing::nul())),
            b's' => ctx.set_framing(long(Framing::new(Delimiter::Byte(b';')))),
            b'l' => ctx.set_framing(long(Framing::lf())),
            b'w' => ctx.wait(wrap_future::<_, Self>(tokio::task::yield_now())),
            b'p' => {
                ctx.pause();
                ctx.notify(Resume);
            }
            b'd' => ctx.drain(),
            _ => {}
        }
    }
}

/// No line is overlong here.
fn long(framing: Framing) -> Framing {
    framing.max_line(1 << 20).unwrap()
}

#[derive(actix::Message)]
#[rtype(result = "()")]
struct Resume;

impl actix::Handler<Resume> for Mixed {
    type Result = ();
    fn handle(&mut self, _: Resume, ctx: &mut Self::Context) {
        ctx.resume();
    }
}

impl LineHandler for Mixed {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(b"[");
        ctx.write(line.text());
        ctx.write(b"]");
        if let Some(bytes) = std::str::from_utf8(line.text()).ok().and_then(|text| text.parse().ok()) {
            ctx.payload(bytes);
        }
        self.ask(line.text().first().copied().unwrap_or(b' '), ctx);
    }

    fn payload(&mut self, chunk: Payload<'_>, ctx: &mut Self::Context) {
        assert!(!chunk.is_empty(), "there is no chunk of nothing");
        assert_eq!(chunk.left(), ctx.payload_left());
        if !self.is_open {
            ctx.write(b"{");
        }
        ctx.write(&chunk);
        self.is_open = !chunk.is_last();
        if chunk.is_last() {
            ctx.write(b"}");
            self.ask(*chunk.last().unwrap(), ctx);
        }
    }

    fn eof(&mut self, ctx: &mut Self::Context) {
        self.end.borrow_mut().push((ctx.payload_left(), None));
        ctx.drain();
    }

    fn closed(&mut self, report: &CloseReport) {
        self.end.borrow_mut().push((0, Some(report.clone())));
    }
}

/// What `Mixed` has to answer, worked out from the whole input at once.
fn model(input: &[u8]) -> Vec<u8> {
    let (mut answer, mut rest, mut delimiter) = (Vec::new(), input, b'\n');
    let change = |word: u8| match word {
        b'n' => Some(0),
        b's' => Some(b';'),
        b'l' => Some(b'\n'),
        _ => None,
    };
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == delimiter);
        let (line, after) = end.map_or((rest, &rest[rest.len()..]), |end| (&rest[..end], &rest[end + 1..]));
        // A CR before the LF belongs to the terminator.
        let text = match line {
            [text @ .., b'\r'] if end.is_some() && delimiter == b'\n' => text,
            text => text,
        };
        answer.extend([b"[", text, b"]"].concat());
        rest = after;
        delimiter = text.first().and_then(|word| change(*word)).unwrap_or(delimiter);
        if let Some(bytes) = std::str::from_utf8(text).ok().and_then(|text| text.parse::<usize>().ok())
            && bytes > 0
            && !rest.is_empty()
        {
            let (payload, after) = rest.split_at(bytes.min(rest.len()));
            answer.push(b'{');
            answer.extend_from_slice(payload);
            rest = after;
            if payload.len() == bytes {
                answer.push(b'}');
                delimiter = payload.last().and_then(|word| change(*word)).unwrap_or(delimiter);
            }
        }
    }
    answer
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[nslwpx;\r]{0,6}\n",
        2 => "[nslwpx]{0,3};",
        2 => "[nslwpx]{0,3}\0",
        4 => (0_usize..40).prop_map(|bytes| format!("{bytes}\n")),
        1 => (0_usize..40).prop_map(|bytes| format!("{bytes};")),
        1 => (100_usize..70_000).prop_map(|bytes| format!("{bytes}\n{}", "y\n;".repeat(bytes / 3))),
    ]
    .prop_map(String::into_bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(support::CASES))]
    #[test]
    fn payloads_and_lines_in_any_framing_come_as_they_were_sent_in_any_chunking(
        input in prop::collection::vec(piece(), 0..12).prop_map(|pieces| pieces.concat()),
        sizes in prop::collection::vec(prop_oneof![1_usize..4, 1_usize..200, 1_usize..100_000], 1..5),
    ) {
        let expected = model(&input);
        let framing = long(Framing::lf());
        let answer = actix_rt::System::new().block_on(converse(framing, Mixed::default(), &cut(&input, &sizes)));
        let differs = answer.iter().zip(&expected).position(|(got, expected)| got != expected);
        prop_assert_eq!((differs, answer.len()), (None, expected.len()));
    }
}

/// Runs `Mixed` on `input`, which is followed by EOF; returns its answer, how much of a payload was missing at EOF, and
/// the report.
async fn mixed(framing: Framing, input: &[u8]) -> (String, Option<u64>, CloseReport) {
    let end = Log::default();
    let answer = converse(framing, Mixed { end: Rc::clone(&end), ..Mixed::default() }, &[input]).await;
    eventually("the end", async || end.borrow().last().is_some_and(|(_, report)| report.is_some())).await;
    let end = end.borrow();
    let left = end.iter().find(|(_, report)| report.is_none()).map(|(left, _)| *left);
    (String::from_utf8(answer).unwrap(), left, end.last().unwrap().1.clone().unwrap())
}

#[actix::test]
async fn an_eof_within_a_payload_is_no_tail_and_says_what_is_missing() {
    let (answer, left, report) = mixed(Framing::lf(), b"hi\n10\nabc\nd").await;
    assert_eq!((&*answer, left), ("[hi][10]{abc\nd", Some(5)));
    assert_eq!((report.reason, report.lines_in, report.bytes_in), (CloseReason::PeerEof, 2, 11));
    assert_eq!((report.tail_bytes, report.undelivered_bytes), (0, 0));
    let (answer, left, _) = mixed(Framing::lf(), b"5\nabcdetail").await;
    assert_eq!((&*answer, left), ("[5]{abcde}[tail]", Some(0)));
}

#[actix::test]
async fn a_drain_delivers_of_a_payload_what_was_read_and_a_stop_counts_the_rest() {
    // `d` as the last byte of a payload drains: the lines behind it were read, so they are answered.
    let (answer, left, report) = mixed(Framing::lf(), b"2\nxdone\n4\nab").await;
    assert_eq!((&*answer, left), ("[2]{xd}[one][4]{ab", None));
    assert_eq!((report.reason, report.undelivered_bytes), (CloseReason::ClosedByHandler, 0));

    struct Stops(Log<CloseReport>);
    impl Actor for Stops {
        type Context = LineContext<Self>;
    }
    impl LineHandler for Stops {
        fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
            ctx.payload(line.len() as u64);
            ctx.stop();
        }
        fn closed(&mut self, report: &CloseReport) {
            self.0.borrow_mut().push(report.clone());
        }
    }
    let reports = Log::default();
    converse(Framing::lf(), Stops(Rc::clone(&reports)), &[b"four\n1\n34five\nsix"]).await;
    eventually("the report", async || !reports.borrow().is_empty()).await;
    let report = reports.borrow()[0].clone();
    assert_eq!((report.undelivered_bytes, report.tail_bytes), (12, 3), "{report:?}");
    let reports = Log::default();
    converse(Framing::lf(), Stops(Rc::clone(&reports)), &[b"four\n12"]).await;
    eventually("the report", async || !reports.borrow().is_empty()).await;
    let report = reports.borrow()[0].clone();
    assert_eq!((report.undelivered_bytes, report.tail_bytes), (2, 0), "a payload has no tail: {report:?}");
}

#[actix::test]
async fn a_payload_may_be_asked_for_anew_ended_early_and_asked_for_from_anywhere() {
    /// Each chunk is asked for byte by byte; `.` ends the payload, `+` makes it longer.
    #[derive(Default)]
    struct Fickle(Log<String>);
    impl Actor for Fickle {
        type Context = LineContext<Self>;
    }
    impl LineHandler for Fickle {
        fn opened(&mut self, ctx: &mut Self::Context) {
            // Before there is a line: a protocol may begin with a payload.
            ctx.payload(1);
        }
        fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
            self.0.borrow_mut().push(format!("line {}", String::from_utf8_lossy(line.text())));
            if line.text() == b"later" {
                // Asked for when the beginning of what should be a payload has been taken for that of a line.
                ctx.run_later(Duration::from_secs(1), |actor, ctx| {
                    actor.0.borrow_mut().push("now".to_owned());
                    ctx.payload(6);
                });
            }
        }
        fn payload(&mut self, chunk: Payload<'_>, ctx: &mut Self::Context) {
            self.0.borrow_mut().push(format!("data {}", String::from_utf8_lossy(&chunk)));
            match chunk.first() {
                Some(b'.') => ctx.payload(0),
                Some(b'+') => ctx.payload(chunk.left() + 3),
                _ if chunk.is_last() && chunk.len() == 1 => ctx.payload(1),
                _ => {}
            }
        }
    }
    pause();
    let log = Log::default();
    let (ours, mut theirs) = tokio::io::duplex(1024);
    LineContext::start(Transport::new(ours), Framing::lf(), Fickle(Rc::clone(&log)));
    theirs.write_all(b"ab+12.line\nlater\nabc\r\nde").await.unwrap();
    eventually("the request", async || log.borrow().iter().any(|event| event == "now")).await;
    theirs.write_all(b"f\nend\n").await.unwrap();
    theirs.shutdown().await.unwrap();
    theirs.read_to_end(&mut Vec::new()).await.unwrap();
    let log = log.borrow();
    let expected = [
        "data a",
        "data b",
        "data +",
        "data 12.",
        "line line",
        "line later",
        "line abc",
        "now",
        "data de",
        "data f\nen",
        "line d",
    ];
    assert_eq!(*log, expected);
}

#[actix::test]
async fn a_payload_within_an_overlong_line_ends_that_line() {
    // In pieces of four: the digits are a piece of their own.
    let framing = Framing::lf().max_line(4).unwrap().overlong(Overlong::Pieces);
    let (answer, ..) = mixed(framing, b"0003abcdefgh\nok\n").await;
    assert_eq!(answer, "[0003]{abc}[defg][h][ok]");
}

#[actix::test]
async fn a_payload_has_the_rate_of_bytes_and_between_its_chunks_the_line_timeout() {
    pause();
    let rate = RateLimit { bytes: Some(Rate::per_second(1000)), lines: Some(Rate::per_second(1)) };
    let limits = Limits::builder().session_rate(rate).line_timeout(Some(Duration::from_secs(5))).build().unwrap();
    let server = LineServer::new(|_| Mixed::default()).limits(limits).on_current_arbiter();
    let mut server = Server::start(server).await;
    let mut peer = server.connect().await;
    peer.stream.set_nodelay(true).unwrap();
    let begin = Instant::now();
    let payload = b"\n".repeat(10_000);
    peer.send(b"10000\n").await;
    peer.send(&payload).await;
    peer.expect_later(b"[10000]{").await;
    peer.expect_later(&payload).await;
    peer.expect_later(b"}").await;
    assert!((8.5..10.0).contains(&begin.elapsed().as_secs_f64()), "{:?}", begin.elapsed());
    // A byte each four seconds is slow, and a payload all the same; then none comes.
    peer.send(b"100\n").await;
    peer.expect_later(b"[100]").await;
    for answer in [&b"{z"[..], b"z", b"z", b"z", b"z"] {
        pass(Duration::from_secs(4)).await;
        peer.send(b"z").await;
        peer.expect_later(answer).await;
    }
    let begin = Instant::now();
    assert_eq!(peer.stream.read(&mut [0]).await.unwrap(), 0);
    assert!((5.0..6.0).contains(&begin.elapsed().as_secs_f64()), "{:?}", begin.elapsed());
    drop(peer);
    let report = server.report().await;
    assert_eq!((report.reason, report.lines_in, report.undelivered_bytes), (CloseReason::LineTimeout, 2, 0));
    server.end().await;
}

#[actix::test]
async fn a_long_payload_to_a_slow_reader_is_bounded_by_the_watermark() {
    const BYTES: usize = 64 << 20;
    let server = Server::start(LineServer::new(|_| Mixed::default()).workers(1)).await;
    let mut peer = server.connect().await;
    peer.send(format!("{BYTES}\n").as_bytes()).await;
    peer.expect(format!("[{BYTES}]").as_bytes()).await;
    let (mut read, mut write) = peer.stream.split();
    let chunk = vec![b'x'; 1 << 20];
    let mut answer = vec![0; 1 << 16];
    let mut total = 0;
    let send = async {
        for _ in 0..BYTES / chunk.len() {
            write.write_all(&chunk).await.unwrap();
        }
    };
    let receive = async {
        while total < BYTES {
            let session = server.handle.sessions(SessionFilter::default()).await.unwrap().sessions[0].clone();
            assert!(session.outbox_bytes <= 3 * 64 * 1024, "{session:?}");
            total += read.read(&mut answer).await.unwrap();
        }
    };
    tokio::join!(send, receive);
    server.handle.kick(SessionFilter::default(), "").await.unwrap();
}
