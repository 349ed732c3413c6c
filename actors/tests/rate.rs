//! Rates: a session is read no faster than its rate says, a group of them no faster than its own, and nothing is lost.
//!
//! On tokio's paused clock: what takes ten seconds here takes no time.

mod support;

use std::{rc::Rc, time::Duration};

use actix::{Actor, AsyncContext};
use actix_lines::{
    CloseReason, CloseReport, ConfigError, Framing, Line, LineContext, LineHandler, LineServer, LineSession, Overlong,
    Rot13, Transport,
    control::{SessionFilter, SessionState},
    limits::{Limits, Rate, RateGroup, RateLimit},
};
use support::{Log, Server, cut, eventually, pass, pause, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::Instant,
};

fn bytes(per_second: u32, burst: u32) -> RateLimit {
    RateLimit { bytes: Some(Rate { per_second, burst }), lines: None }
}

fn lines(per_second: u32, burst: u32) -> RateLimit {
    RateLimit { lines: Some(Rate { per_second, burst }), bytes: None }
}

/// Answers each line with itself, at a rate of its own and in a group if it has one.
#[derive(Default)]
struct Paced {
    own: Option<RateLimit>,
    group: Option<RateGroup>,
    reports: Log<CloseReport>,
}

impl Actor for Paced {
    type Context = LineContext<Self>;
    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(limit) = self.own {
            ctx.set_rate(limit).unwrap();
        }
        if let Some(group) = &self.group {
            ctx.join_rate_group(group);
        }
    }
}

impl LineHandler for Paced {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
        match line.text() {
            b"faster" => ctx.set_rate(bytes(100_000, 100_000)).unwrap(),
            b"leave" => ctx.leave_rate_group(),
            b"drain" => ctx.drain(),
            _ => {}
        }
    }

    fn closed(&mut self, report: &CloseReport) {
        self.reports.borrow_mut().push(report.clone());
    }
}

/// Starts a session over a pair that holds everything at once, with `input` and the peer's EOF already in it.
async fn start(actor: Paced, input: &[u8]) -> DuplexStream {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    theirs.write_all(input).await.unwrap();
    theirs.shutdown().await.unwrap();
    LineContext::start(Transport::new(ours), Framing::lf(), actor);
    theirs
}

async fn rest(peer: &mut DuplexStream) -> Vec<u8> {
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).await.unwrap();
    rest
}

/// Reads for as long as something comes until `moment`; returns how much.
async fn read_until(peer: &mut DuplexStream, moment: Instant) -> usize {
    let mut count = 0;
    let mut buffer = vec![0; 65_536];
    while let Ok(read) = tokio::time::timeout_at(moment, peer.read(&mut buffer)).await {
        match read.unwrap() {
            0 => break,
            read => count += read,
        }
    }
    count
}

#[track_caller]
fn assert_took(begin: Instant, seconds: f64) {
    let took = begin.elapsed().as_secs_f64();
    // A bucket is filled every quarter of a second.
    assert!((seconds - 0.3..=seconds + 0.5).contains(&took), "took {took} s instead of {seconds} s");
}

#[actix::test]
async fn a_session_is_read_at_its_rate_after_its_burst() {
    pause();
    let input = b"0123456789abcde\n".repeat(6250);
    let begin = Instant::now();
    let reports = Log::default();
    let paced = Paced { own: Some(bytes(10_000, 20_000)), reports: Rc::clone(&reports), ..Paced::default() };
    let mut peer = start(paced, &input).await;
    assert_eq!(read_until(&mut peer, begin + Duration::from_millis(200)).await, 20_000, "the burst at once");
    assert_eq!(rest(&mut peer).await.len(), 80_000);
    assert_took(begin, 8.0);
    drop(peer);
    eventually("the report", async || !reports.borrow().is_empty()).await;
    let report = reports.borrow()[0].clone();
    assert_eq!((report.bytes_in, report.bytes_out, report.lines_in), (100_000, 100_000, 6250));
}

#[actix::test]
async fn lines_are_delivered_at_their_rate_however_they_are_taken() {
    pause();
    let input = b"one\ntwo\nthree\nfour\n".repeat(250);
    let begin = Instant::now();
    let mut peer = start(Paced { own: Some(lines(100, 50)), ..Paced::default() }, &input).await;
    assert_eq!(rest(&mut peer).await, input);
    assert_took(begin, 9.5);

    // One that takes whole blocks and answers them where they are.
    let limits = Limits::builder().session_rate(lines(100, 50)).build().unwrap();
    let server = Server::start(LineServer::new(|_| Rot13).limits(limits).on_current_arbiter()).await;
    let mut peer = server.connect().await;
    let begin = Instant::now();
    peer.send(&input).await;
    peer.shutdown_write().await;
    let mut answer = Vec::new();
    peer.stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"bar\ngjb\nguerr\nsbhe\n".repeat(250));
    assert_took(begin, 9.5);
    drop(server);
}

#[actix::test]
async fn a_burst_of_less_than_comes_between_two_looks_does_not_lower_a_rate() {
    pause();
    let input = b"one\ntwo\nthree\nfour\n".repeat(200);
    let group = |limit| Some(RateGroup::new(limit).unwrap());
    // Each with what comes at once: a group holds what comes in half a second at least.
    for (what, paced, at_once) in [
        ("lines", Paced { own: Some(lines(100, 10)), ..Paced::default() }, 46),
        ("bytes", Paced { own: Some(bytes(475, 4)), ..Paced::default() }, 4),
        ("lines of a group", Paced { group: group(lines(100, 10)), ..Paced::default() }, 236),
        ("bytes of a group", Paced { group: group(bytes(475, 4)), ..Paced::default() }, 236),
    ] {
        let begin = Instant::now();
        let mut peer = start(paced, &input).await;
        assert_eq!(read_until(&mut peer, begin + Duration::from_millis(200)).await, at_once, "{what}");
        assert_eq!(rest(&mut peer).await.len(), input.len() - at_once, "{what}");
        // 475 bytes, and 100 lines, a second.
        assert_took(begin, (input.len() - at_once) as f64 / 475.0);
    }
}

#[actix::test]
async fn members_of_a_group_share_its_lines_evenly_however_they_are_cut() {
    pause();
    let (short, long) = (b"one\ntwo\nthree\nfour\n".repeat(200), vec![b'x'; 800]);
    let split = Framing::lf().max_line(1).unwrap().overlong(Overlong::Split);
    for (input, framing) in [(short, Framing::lf()), (long, split)] {
        let group = RateGroup::new(lines(100, 1)).unwrap();
        let begin = Instant::now();
        let (mut peers, reports) = (Vec::new(), Log::default());
        for _ in 0..4 {
            let (ours, mut theirs) = tokio::io::duplex(1 << 20);
            theirs.write_all(&input).await.unwrap();
            theirs.shutdown().await.unwrap();
            let paced = Paced { group: Some(group.clone()), reports: Rc::clone(&reports), ..Paced::default() };
            LineContext::start(Transport::new(ours), framing, paced);
            peers.push(theirs);
        }
        // None is done long before the others, though each wants it all at once.
        for peer in &mut peers {
            let got = rest(peer).await;
            assert!(got.len() >= input.len());
            let took = begin.elapsed().as_secs_f64();
            assert!((30.0..=32.5).contains(&took), "took {took} s instead of 32 s");
        }
        eventually("the reports", async || reports.borrow().len() == 4).await;
        assert!(reports.borrow().iter().all(|report| report.lines_in == 800), "{:?}", reports.borrow());
    }
}

#[actix::test]
async fn both_rates_hold_and_neither_loses_a_byte_in_any_chunking_under_any_policy() {
    pause();
    let long = [&b"x".repeat(70)[..], b"\nshort\n\n\nlonger than that\r\n"].concat().repeat(20);
    let both = RateLimit { bytes: bytes(700, 300).bytes, lines: lines(40, 9).lines };
    for policy in [Overlong::Pieces, Overlong::Split, Overlong::Truncate] {
        let framing = Framing::lf().max_line(32).unwrap().overlong(policy);
        for sizes in [&[1][..], &[2, 3, 5], &[64], &[10_000]] {
            let mut answers = Vec::new();
            for own in [None, Some(both)] {
                let (ours, mut theirs) = tokio::io::duplex(1 << 20);
                LineContext::start(Transport::new(ours), framing, Paced { own, ..Paced::default() });
                let begin = Instant::now();
                for chunk in cut(&long, sizes) {
                    theirs.write_all(chunk).await.unwrap();
                    tokio::task::yield_now().await;
                }
                theirs.write_all(b"tail").await.unwrap();
                theirs.shutdown().await.unwrap();
                answers.push(rest(&mut theirs).await);
                let least = if own.is_some() { (long.len() - 300) as f64 / 700.0 } else { 0.0 };
                assert!(begin.elapsed().as_secs_f64() >= least - 0.3, "too fast: {:?}", begin.elapsed());
            }
            assert_eq!(
                String::from_utf8_lossy(&answers[1]),
                String::from_utf8_lossy(&answers[0]),
                "{policy:?} {sizes:?}"
            );
        }
    }
}

#[actix::test]
async fn a_rate_changes_while_its_sessions_live() {
    pause();
    let slow = Limits::builder().session_rate(bytes(1000, 1000)).build().unwrap();
    let server = Server::start(LineServer::new(|_| Paced::default()).limits(slow).on_current_arbiter()).await;
    let (mut peer, mut own) = (server.connect().await, server.connect().await);
    let input = b"0123456789abcde\n".repeat(1000);
    let begin = Instant::now();
    // One says that it has a rate of its own.
    own.send(b"faster\n").await;
    own.send(&input).await;
    own.expect_later(b"faster\n").await;
    own.expect_later(&input).await;
    assert_took(begin, 0.0);
    peer.send(&input).await;
    peer.expect_later(&input[..4000]).await;
    assert_took(begin, 3.0);
    let held = server.sessions().await.into_iter().filter(|session| session.state == SessionState::Held).count();
    assert_eq!(held, 1, "one of the two is held back");
    assert!(server.handle.stats().await.unwrap().throttled > 0);
    server.handle.set_limits(Limits::builder().session_rate(bytes(4000, 4000)).build().unwrap()).await.unwrap();
    let begin = Instant::now();
    peer.expect_later(&input[4000..]).await;
    assert_took(begin, 3.0);
    server.handle.set_limits(Limits::default()).await.unwrap();
    let begin = Instant::now();
    peer.send(&input).await;
    peer.expect_later(&input).await;
    assert_took(begin, 0.0);
    // And on again: it begins with a full bucket.
    server.handle.set_limits(Limits::builder().session_rate(bytes(1000, 8000)).build().unwrap()).await.unwrap();
    peer.send(&input).await;
    peer.expect_later(&input).await;
    assert_took(begin, 8.0);
}

#[actix::test]
async fn members_of_a_group_share_its_rate_evenly() {
    pause();
    let group = RateGroup::new(bytes(30_000, 30_000)).unwrap();
    let member = || Paced { group: Some(group.clone()), ..Paced::default() };
    let input = b"0123456789abcde\n".repeat(25_000);
    let mut peers = Vec::new();
    let begin = Instant::now();
    for _ in 0..3 {
        peers.push(start(member(), &input).await);
    }
    let mut counts = [0; 3];
    let end = begin + Duration::from_millis(10_100);
    let mut reads: Vec<_> = peers.iter_mut().map(|peer| Box::pin(read_until(peer, end))).collect();
    for (count, read) in counts.iter_mut().zip(&mut reads) {
        *count = read.await;
    }
    drop(reads);
    let total: usize = counts.iter().sum();
    assert!((320_000..=340_000).contains(&total), "{counts:?}");
    // The burst went to whoever came first; what came later was shared.
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(most - least <= 40_000, "{counts:?}");
    // A member that ends, or leaves, leaves its share to the others.
    drop(peers.pop());
    drop(peers.pop());
    let begin = Instant::now();
    let count = read_until(&mut peers[0], begin + Duration::from_millis(3000)).await;
    assert!((80_000..=95_000).contains(&count), "alone it is read at the whole rate, not {count} in 3 s");
    // What is granted and not needed is given back: a typist does not cost the group a read's worth with each line.
    let typist = RateGroup::new(bytes(1000, 1000)).unwrap();
    let (ours, mut typing) = tokio::io::duplex(1024);
    LineContext::start(Transport::new(ours), Framing::lf(), Paced { group: Some(typist), ..Paced::default() });
    let begin = Instant::now();
    for _ in 0..90 {
        typing.write_all(b"0123456789\n").await.unwrap();
        typing.read_exact(&mut [0; 11]).await.unwrap();
    }
    assert_took(begin, 0.0);
    group.set(bytes(3000, 3000)).unwrap();
    assert_eq!(group.limit(), bytes(3000, 3000));
    let begin = Instant::now();
    let count = read_until(&mut peers[0], begin + Duration::from_secs(2)).await;
    assert!((5000..=10_000).contains(&count), "{count}");
}

#[actix::test]
async fn a_member_has_its_own_rate_besides_and_may_leave() {
    pause();
    let group = RateGroup::new(bytes(50_000, 1000)).unwrap();
    let input = b"0123456789abcde\n".repeat(1000);
    let begin = Instant::now();
    let paced = Paced { own: Some(bytes(2000, 2000)), group: Some(group.clone()), ..Paced::default() };
    assert_eq!(rest(&mut start(paced, &input).await).await.len(), 16_000);
    assert_took(begin, 7.0);

    let slow = RateGroup::new(lines(1, 1)).unwrap();
    let begin = Instant::now();
    let input = [&b"one\nleave\n"[..], &input].concat();
    assert_eq!(rest(&mut start(Paced { group: Some(slow), ..Paced::default() }, &input).await).await, input);
    assert_took(begin, 1.0);
}

#[actix::test]
async fn the_clocks_of_a_session_that_is_held_back_stand_still() {
    pause();
    let timeout = Some(Duration::from_secs(3));
    let limits = Limits::builder().idle_timeout(timeout).line_timeout(timeout).session_rate(bytes(16, 16)).build();
    let mut server =
        Server::start(LineServer::new(|_| Paced::default()).limits(limits.unwrap()).on_current_arbiter()).await;
    let mut peer = server.connect().await;
    let begin = Instant::now();
    // One line that takes ten seconds at this rate.
    let line = [&b"x".repeat(175)[..], b"\n"].concat();
    peer.send(&line).await;
    peer.expect_later(&line).await;
    assert_took(begin, 10.0);
    assert_eq!(peer.stream.read(&mut [0]).await.unwrap(), 0);
    // A deadline is met within a second.
    assert_took(begin, 13.4);
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::IdleTimeout);
}

#[actix::test]
async fn what_was_read_is_answered_at_once_when_the_session_ends() {
    pause();
    let input = b"0123456789abcde\n".repeat(1000);
    // By its own handler, and by the server.
    let begin = Instant::now();
    let own = [b"drain\n", &input[..]].concat();
    let mut peer = start(Paced { own: Some(lines(1, 1)), ..Paced::default() }, &own).await;
    assert_eq!(rest(&mut peer).await, own);
    assert_took(begin, 0.0);

    let limits = Limits::builder().session_rate(lines(1, 10)).build().unwrap();
    let mut server = Server::start(LineServer::new(|_| Paced::default()).limits(limits).on_current_arbiter()).await;
    let mut peer = server.connect().await;
    peer.send(&input).await;
    peer.expect_later(&input[..160]).await;
    let begin = Instant::now();
    within("the kick", server.handle.kick(SessionFilter::default(), "bye\n")).await.unwrap();
    let rest = peer.rest().await;
    assert_took(begin, 0.0);
    assert_eq!(rest.len(), input.len() - 160 + 4, "what was read, and the goodbye");
    drop(peer);
    let report = server.report().await;
    assert_eq!((report.reason, report.lines_in, report.undelivered_bytes), (CloseReason::Kicked, 1000, 0));
    server.end().await;
}

#[test]
fn a_rate_of_nothing_is_an_error_that_names_it() {
    for limit in [bytes(0, 1), bytes(1, 0), lines(0, 1), lines(1, 0)] {
        let named = |limit| Err(ConfigError::Rate { limit });
        assert_eq!(Limits::builder().session_rate(limit).build().map(drop), named("session rate"));
        assert_eq!(RateGroup::new(limit).map(drop), named("rate of a group"));
        let group = RateGroup::new(bytes(5, 6)).unwrap();
        assert_eq!(group.set(limit), named("rate of a group"));
        assert_eq!(group.limit(), bytes(5, 6));
    }
}

/// Held back for ever by its first line, unless it is freed by a timer of its own, in the way that it is named after.
struct Freed(&'static str, RateGroup);

impl Actor for Freed {
    type Context = LineContext<Self>;
    fn started(&mut self, ctx: &mut Self::Context) {
        let never = lines(1, 1);
        match self.0 {
            "a rate of its own" => ctx.set_rate(never).unwrap(),
            _ => ctx.join_rate_group(&self.1),
        }
        ctx.run_later(Duration::from_millis(1100), |freed, ctx| match freed.0 {
            "a rate of its own" => ctx.set_rate(RateLimit::default()).unwrap(),
            "a group that it leaves" => ctx.leave_rate_group(),
            "a group that it leaves for another" => {
                ctx.join_rate_group(&RateGroup::new(lines(100_000, 100_000)).unwrap());
            }
            _ => freed.1.set(RateLimit::default()).unwrap(),
        });
    }
}

impl LineHandler for Freed {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
    }
}

#[actix::test]
async fn whoever_is_held_back_goes_on_when_the_rate_is_another_and_has_its_deadlines_again() {
    pause();
    let input = b"0123456789abcde\n".repeat(1000);
    for (what, milliseconds) in [
        ("a rate of its own", 1100..1150),
        ("a group that it leaves", 1100..1150),
        ("a group that it leaves for another", 1100..1150),
        // From any thread: whoever waits looks at it when buckets are filled.
        ("a group with another rate", 1100..1600),
    ] {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        theirs.write_all(&input).await.unwrap();
        let begin = Instant::now();
        let limits = Limits::builder().idle_timeout(Some(Duration::from_secs(3))).build().unwrap();
        let freed = Freed(what, RateGroup::new(lines(1, 1)).unwrap());
        LineSession::new(Transport::new(ours)).limits(limits.clone()).start(freed);
        let mut answer = vec![0; input.len()];
        within(what, theirs.read_exact(&mut answer)).await.unwrap();
        let took = begin.elapsed().as_millis();
        assert!(milliseconds.contains(&took), "{what}: after {took} ms");
        assert_eq!(rest(&mut theirs).await, b"", "{what}");
        assert!(begin.elapsed() < Duration::from_secs(6), "{what}: idle after {:?}", begin.elapsed());
    }

    // Limits of all.
    let slow =
        Limits::builder().session_rate(bytes(16, 16)).idle_timeout(Some(Duration::from_secs(3))).build().unwrap();
    let limits = slow.clone();
    let mut server = Server::start(LineServer::new(|_| Paced::default()).limits(limits).on_current_arbiter()).await;
    let mut peer = server.connect().await;
    peer.send(&input).await;
    peer.expect_later(&input[..32]).await;
    server.handle.set_limits(slow.to_builder().session_rate(RateLimit::default()).build().unwrap()).await.unwrap();
    let begin = Instant::now();
    peer.expect_later(&input[32..]).await;
    assert_took(begin, 0.0);
    peer.expect_eof().await;
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::IdleTimeout);
    server.end().await;
}

/// Joins a group in the midst of lines that another granted.
#[derive(Default)]
struct Turncoat(Vec<RateGroup>);

impl Actor for Turncoat {
    type Context = LineContext<Self>;
    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.join_rate_group(&self.0[0]);
    }
}

impl LineHandler for Turncoat {
    fn line(&mut self, _: Line<'_>, ctx: &mut Self::Context) {
        ctx.join_rate_group(&self.0[1]);
        ctx.pause();
        ctx.run_later(Duration::from_secs(1), |_, ctx| ctx.resume());
    }
}

#[actix::test]
async fn a_group_is_given_back_only_what_it_gave() {
    pause();
    let groups = [RateGroup::new(lines(1000, 1000)).unwrap(), RateGroup::new(lines(1, 500)).unwrap()];
    // Somebody uses up what the second one has.
    let used = b"\n".repeat(500);
    let mut first = start(Paced { group: Some(groups[1].clone()), ..Paced::default() }, &used).await;
    assert_eq!(rest(&mut first).await, used);
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    theirs.write_all(&b"\n".repeat(1000)).await.unwrap();
    LineContext::start(Transport::new(ours), Framing::lf(), Turncoat(groups.to_vec()));
    pass(Duration::from_millis(100)).await;
    // It was granted a thousand lines of the first, took one, and is in the second now.
    let mut second = start(Paced { group: Some(groups[1].clone()), ..Paced::default() }, &used).await;
    let count = read_until(&mut second, Instant::now() + Duration::from_secs(5)).await;
    assert!(count < 20, "{count} lines of a group that fills with one a second");
}
