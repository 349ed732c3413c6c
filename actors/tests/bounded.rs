//! D5: a peer that does not read costs a bounded amount of memory, for ever; one that reads slowly gets everything.

mod support;

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use actix::{Actor, ActorContext, ActorFuture, Addr, AsyncContext, Handler, Message};
use actix_lines::{
    CloseReason, CloseReport, Framing, Line, LineContext, LineHandler, LineServer, Rot13, Transport,
    limits::{Limits, Watermarks},
};
use bytes::Bytes;
use support::{Echo, Log, Peer, Server, eventually, is_direct, pass, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    time::Instant,
};

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
            ctx.write(PIECE);
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

/// A peer with a small receive buffer: what it does not read stays with the server.
async fn connect_with_little_room(address: SocketAddr) -> Peer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    Peer { stream: within("a connection", socket.connect(address)).await.unwrap() }
}

/// What the kernel holds for the server's end of each connection: bytes to be sent, bytes to be read.
#[cfg(target_os = "linux")]
fn queues(server: SocketAddr) -> Vec<(usize, usize)> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!("0100007F:{:04X}", server.port());
    let connections = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let queue = |text: &str| usize::from_str_radix(text, 16).unwrap();
    connections
        // State 0A is the listener itself, 06 a connection of somebody who had the port before.
        .filter(|columns| columns[1] == local && !matches!(columns[3], "06" | "0A"))
        .map(|columns| columns[4].split_once(':').unwrap())
        .map(|(send, receive)| (queue(send), queue(receive)))
        .collect()
}

#[cfg(target_os = "linux")]
#[actix::test]
async fn the_kernel_holds_a_bounded_amount_for_a_peer_that_never_reads() {
    if !is_direct() {
        return; // The kernel holds bytes for the tunnel, too.
    }
    let mut server = Server::start(LineServer::new(|_| Echo)).await;
    let mut peer = connect_with_little_room(server.address()).await;
    peer.send_until_stuck(&server, &[b"x".repeat(999), b"\n".to_vec()].concat(), 16 * 1024).await;
    let (send, receive) = queues(server.address())[0];
    // Without a bound of ours these grow to net.ipv4.tcp_wmem and tcp_rmem, megabytes each.
    assert!((1..=256 << 10).contains(&send), "{send} bytes to be sent");
    assert!((1..=256 << 10).contains(&receive), "{receive} bytes to be read");
    drop(peer);
    server.report().await;
    server.end().await;
}

/// Answers its first line at length.
struct Reader;

/// More than the kernel takes at once.
const LONG_REPLY: usize = 1 << 20;

impl Actor for Reader {
    type Context = LineContext<Self>;
}

impl LineHandler for Reader {
    fn line(&mut self, _: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(vec![b'x'; LONG_REPLY]);
    }
}

/// Bytes that the kernel holds for the peer of the only session; `None` if that is not known.
fn held_by_the_kernel(server: SocketAddr) -> Option<usize> {
    #[cfg(target_os = "linux")]
    return queues(server).first().map(|(send, _)| *send);
    #[cfg(not(target_os = "linux"))]
    return None;
}

/// True once the kernel takes no more of the only session, which may not be accepted yet.
async fn is_full(server: &Server) -> bool {
    server.sessions().await.first().is_some_and(|session| session.outbox_bytes > 0)
}

/// The report of the only session, whose peer reads nothing, and how long before it the peer's kernel last took some more. That
/// is asked now and then whether it has room, by the time of day, and may have.
async fn stalled(server: &mut Server) -> (CloseReport, Duration) {
    let address = server.address();
    let mut last = (Instant::now(), held_by_the_kernel(address));
    let looks = async {
        loop {
            pass(Duration::from_millis(500)).await;
            let held = held_by_the_kernel(address);
            if held.is_some() && held != last.1 {
                last = (Instant::now(), held);
            }
        }
    };
    let report = tokio::select! {
        report = server.report() => report,
        () = looks => unreachable!("it goes on"),
    };
    (report, last.0.elapsed())
}

#[actix::test]
async fn a_peer_that_reads_a_little_each_second_is_not_cut() {
    if !is_direct() {
        return; // The kernel holds bytes for the tunnel, too.
    }
    tokio::time::pause();
    let limits = Limits::builder().write_timeout(Some(Duration::from_secs(20))).idle_timeout(None).build().unwrap();
    let mut server = Server::start(LineServer::new(|_| Reader).limits(limits).on_current_arbiter()).await;
    let mut peer = connect_with_little_room(server.address()).await;
    peer.send(b"talk\n").await;
    eventually("the kernel to be full", async || is_full(&server).await).await;
    let mut got = 0;
    let mut buffer = [0; 1024];
    // At this pace the kernel has room for more once in a minute: being writable is not what shows that a peer reads.
    for _ in 0..200 {
        pass(Duration::from_secs(1)).await;
        got += peer.stream.read(&mut buffer).await.unwrap();
    }
    assert_eq!(server.sessions().await.len(), 1);
    let mut buffer = vec![0; 1 << 16];
    while got < LONG_REPLY {
        got += within("more", peer.stream.read(&mut buffer)).await.unwrap();
    }
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::PeerEof);
    server.end().await;
}

#[actix::test]
async fn a_peer_that_stops_reading_is_reset_after_the_write_timeout() {
    if !is_direct() {
        return; // The kernel holds bytes for the tunnel, too.
    }
    tokio::time::pause();
    let limits = Limits::builder().write_timeout(Some(Duration::from_secs(10))).idle_timeout(None).build().unwrap();
    let mut server = Server::start(LineServer::new(|_| Reader).limits(limits).on_current_arbiter()).await;
    let mut peer = connect_with_little_room(server.address()).await;
    peer.send(b"talk\n").await;
    eventually("the kernel to be full", async || is_full(&server).await).await;
    let begin = Instant::now();
    let (report, since) = stalled(&mut server).await;
    assert_eq!((report.reason, report.cut), (CloseReason::WriteStalled, true));
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(10) && since < Duration::from_millis(11_500), "{took:?}, {since:?}");
    // What the kernel held for it is gone, and it knows.
    let mut got = Vec::new();
    let end = within("the reset", peer.stream.read_to_end(&mut got)).await;
    assert_eq!(end.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
    server.end().await;
}

#[actix::test]
async fn a_session_keeps_its_place_until_its_peer_has_taken_what_the_kernel_holds() {
    if !is_direct() {
        return; // The kernel holds bytes for the tunnel, too.
    }
    tokio::time::pause();
    for reads in [true, false] {
        let limits = Limits::builder()
            .max_sessions(1)
            .write_timeout(Some(Duration::from_secs(20)))
            .linger_timeout(Duration::from_secs(5));
        let server = LineServer::new(|_| Reader).limits(limits.build().unwrap()).on_current_arbiter();
        let mut server = Server::start(server).await;
        let mut peer = connect_with_little_room(server.address()).await;
        peer.send(b"talk\n").await;
        peer.shutdown_write().await;
        eventually("the kernel to be full", async || is_full(&server).await).await;
        let mut got = vec![0; LONG_REPLY];
        // The peer takes all but what the kernel can hold, and nothing more.
        let mut at = 0;
        eventually("the kernel to have the rest", async || {
            if server.sessions().await[0].outbox_bytes > 0 {
                at += peer.stream.read(&mut got[at..at + 8192]).await.unwrap();
                return false;
            }
            true
        })
        .await;
        pass(Duration::from_secs(10)).await;
        assert_eq!(server.sessions().await.len(), 1, "its place is still taken");
        if reads {
            within("the rest", peer.stream.read_exact(&mut got[at..])).await.unwrap();
            peer.expect_eof().await;
            let report = server.report().await;
            assert_eq!((report.reason, report.cut), (CloseReason::PeerEof, false));
        } else {
            let (report, since) = stalled(&mut server).await;
            assert_eq!((report.reason, report.cut), (CloseReason::WriteStalled, true));
            assert!(since < Duration::from_millis(21_500), "{since:?}");
            assert!(within("the reset", peer.stream.read_exact(&mut got[at..])).await.is_err());
        }
        server.end().await;
    }
}
