//! A trace has every byte that a session reads and writes, in order, or says how many it has not; the session is as before.

#[path = "support/frames.rs"]
mod frames;
mod support;

use std::time::Duration;

use actix_lines::{
    CloseReason, LineServer, Listener, Rot13, SessionId,
    control::{Trace, TraceLimits, Traced},
};
use proptest::prelude::*;
use support::{Echo, Server, pass, pause, within};

async fn trace(server: &Server, id: SessionId, limits: TraceLimits) -> Trace {
    within("a trace", server.handle.trace(id, limits)).await.unwrap().expect("a session that lives")
}

/// The number of the only session.
async fn only(server: &Server) -> SessionId {
    support::eventually("a session", async || server.sessions().await.len() == 1).await;
    server.sessions().await[0].id
}

/// What a trace had: bytes in, bytes out, bytes lost of each, and how it ended.
#[derive(Debug, Default, PartialEq, Eq)]
struct Had {
    bytes_in: Vec<u8>,
    bytes_out: Vec<u8>,
    lost: (u64, u64),
    reason: Option<CloseReason>,
}

/// Receives until a piece is the one that is waited for, or the trace ends.
async fn receive(trace: &mut Trace, had: &mut Had, mut until: impl FnMut(&Had) -> bool) {
    while !until(had) {
        match within("a piece", trace.recv()).await {
            Some(Traced::In { bytes, .. }) => had.bytes_in.extend_from_slice(&bytes),
            Some(Traced::Out { bytes, .. }) => had.bytes_out.extend_from_slice(&bytes),
            Some(Traced::Lost { bytes_in, bytes_out }) => had.lost = (had.lost.0 + bytes_in, had.lost.1 + bytes_out),
            Some(Traced::Closed(report)) => had.reason = Some(report.reason),
            Some(other) => panic!("{other:?}"),
            None => return,
        }
    }
}

#[actix::test]
async fn a_trace_has_what_a_live_session_reads_and_writes_from_then_on_and_its_end() {
    let mut server = Server::start(LineServer::new(|_| Rot13).workers(2)).await;
    let mut peer = server.connect().await;
    peer.send(b"before\n").await;
    peer.expect(b"orsber\n").await;
    let id = only(&server).await;
    let mut trace = trace(&server, id, TraceLimits::default()).await;
    assert_eq!(trace.session(), id);
    peer.send(b"hello\n").await;
    peer.expect(b"uryyb\n").await;
    peer.send(b"half").await;
    let mut had = Had::default();
    receive(&mut trace, &mut had, |had| had.bytes_in.ends_with(b"half")).await;
    drop(peer);
    receive(&mut trace, &mut had, |_| false).await;
    let expected = Had {
        bytes_in: b"hello\nhalf".to_vec(),
        bytes_out: b"uryyb\nunys".to_vec(),
        lost: (0, 0),
        reason: Some(CloseReason::PeerEof),
    };
    assert_eq!(String::from_utf8_lossy(&had.bytes_out), String::from_utf8_lossy(&expected.bytes_out));
    assert_eq!(had, expected);
    let report = server.report().await;
    assert_eq!((report.bytes_in, report.bytes_out), (7 + 10, 7 + 10));
    assert!(
        within("an answer", server.handle.trace(id, TraceLimits::default())).await.unwrap().is_none(),
        "it is gone"
    );
    server.end().await;
}

#[actix::test]
async fn a_session_is_traced_by_several_and_goes_on_when_they_are_gone() {
    let server = Server::start(LineServer::new(|_| Rot13).workers(1)).await;
    let mut peer = server.connect().await;
    let id = only(&server).await;
    let mut first = trace(&server, id, TraceLimits::default()).await;
    let mut second = trace(&server, id, TraceLimits::default()).await;
    peer.send(b"one\n").await;
    peer.expect(b"bar\n").await;
    let (mut one, mut other) = (Had::default(), Had::default());
    receive(&mut first, &mut one, |had| had.bytes_out == b"bar\n").await;
    drop(first);
    peer.send(b"two\n").await;
    peer.expect(b"gjb\n").await;
    receive(&mut second, &mut other, |had| had.bytes_out == b"bar\ngjb\n").await;
    assert_eq!((one.bytes_in, other.bytes_in), (b"one\n".to_vec(), b"one\ntwo\n".to_vec()));
    drop(second);
    peer.send(b"three\n").await;
    peer.expect(b"guerr\n").await;
    drop(peer);
    server.end_all().await;
}

#[actix::test]
async fn a_trace_whose_bytes_are_not_received_holds_the_session_up_in_nothing_and_all_adds_up() {
    const LINES: usize = 40_000;
    let mut server = Server::start(LineServer::new(|_| Echo).workers(1)).await;
    let mut peer = server.connect().await;
    let id = only(&server).await;
    let limits = TraceLimits::default().bytes_per_second(u64::MAX).total_bytes(u64::MAX);
    let mut trace = trace(&server, id, limits).await;
    let block = b"a line that nobody receives\n".repeat(LINES / 100);
    for _ in 0..100 {
        peer.send(&block).await;
        peer.expect(&block).await;
    }
    drop(peer);
    let report = server.report().await;
    let mut had = Had::default();
    receive(&mut trace, &mut had, |_| false).await;
    assert_eq!(had.bytes_in.len() as u64 + had.lost.0, report.bytes_in);
    assert_eq!(had.bytes_out.len() as u64 + had.lost.1, report.bytes_out);
    assert!(had.lost.0 > 0 && had.lost.1 > 0 && !had.bytes_in.is_empty());
    assert!(had.bytes_in.len() + had.bytes_out.len() <= 256 * 1024, "what waits is bounded");
    assert_eq!(had.reason, Some(CloseReason::PeerEof));
    server.end().await;
}

#[actix::test]
async fn a_trace_says_when_and_keeps_to_its_rate() {
    pause();
    let server = Server::of(LineServer::new(|_| Echo).on_current_arbiter().bind("127.0.0.1:0").unwrap()).await;
    let mut peer = server.connect().await;
    let id = only(&server).await;
    let mut trace = trace(&server, id, TraceLimits::default().bytes_per_second(10)).await;
    for _ in 0..2 {
        peer.send(b"123\n").await;
        peer.expect(b"123\n").await;
        pass(Duration::from_secs(1)).await;
    }
    let mut ats = Vec::new();
    for _ in 0..4 {
        if let Some(Traced::In { at, .. } | Traced::Out { at, .. }) = trace.recv().await {
            ats.push(at);
        }
    }
    assert!(ats[2] - ats[1] >= Duration::from_secs(1), "{ats:?}");
    peer.send(b"more than ten bytes\n").await;
    peer.expect(b"more than ten bytes\n").await;
    let mut had = Had::default();
    drop(peer);
    receive(&mut trace, &mut had, |_| false).await;
    assert_eq!((&had.bytes_in[..], had.lost), (&b"more than "[..], (10, 20)));
    server.end_all().await;
}

#[actix::test]
async fn the_bytes_of_a_line_that_upgrades_are_traced_in_clear_behind_it() {
    let listener = Listener::tcp("127.0.0.1:0").filter(|_| frames::Frames::default());
    let server = Server::of(LineServer::new(|_| Rot13).workers(1).listen(listener).unwrap()).await;
    let mut peer = server.connect().await;
    let id = only(&server).await;
    let mut trace = trace(&server, id, TraceLimits::default()).await;
    peer.send(&frames::frame(b"hello\n")).await;
    let mut had = Had::default();
    receive(&mut trace, &mut had, |had| had.bytes_out.len() == 6).await;
    assert_eq!((had.bytes_in, had.bytes_out), (b"hello\n".to_vec(), b"uryyb\n".to_vec()), "not frames");
    server.end_all().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// The trace against the report and the peer's own account.
    #[test]
    fn however_bytes_are_cut_a_trace_that_is_received_has_them_all(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..20),
    ) {
        actix_rt::System::new().block_on(async {
            let mut server = Server::start(LineServer::new(|_| Echo).workers(1)).await;
            let mut peer = server.connect().await;
            let id = only(&server).await;
            let mut trace = trace(&server, id, TraceLimits::default()).await;
            for chunk in &chunks {
                peer.send(chunk).await;
                tokio::task::yield_now().await;
            }
            peer.shutdown_write().await;
            let answer = peer.rest().await;
            drop(peer);
            let report = server.report().await;
            let mut had = Had::default();
            receive(&mut trace, &mut had, |_| false).await;
            prop_assert_eq!(&had.bytes_in, &chunks.concat());
            prop_assert_eq!(&had.bytes_out, &answer);
            prop_assert_eq!((had.bytes_in.len() as u64, had.bytes_out.len() as u64), (report.bytes_in, report.bytes_out));
            server.end().await;
            Ok(())
        })?;
    }
}
