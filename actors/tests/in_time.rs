//! T1: what arrived in time is served, however late we look.
//!
//! A process may stand still: a debugger, a snapshot, SIGSTOP, a handler that blocks. Here its clock jumps over every
//! deadline while bytes wait in the kernel that nobody has looked at.

mod support;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use actix::{Actor, ActorContext, AsyncContext, fut::wrap_future};
use actix_lines::{CloseReason, Line, LineContext, LineHandler, LineServer, limits::Limits};
use support::{PATIENCE, Server};
use tokio::sync::oneshot;

/// Longer than any time that is set here.
const STANDSTILL: Duration = Duration::from_secs(3600);

/// Answers each line with itself, or does what it says.
#[derive(Default)]
struct Told {
    promise: Option<oneshot::Receiver<()>>,
}

impl Actor for Told {
    type Context = LineContext<Self>;
}

impl LineHandler for Told {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
        match line.text() {
            b"much" => ctx.write(vec![b'x'; MUCH]),
            b"stop" => ctx.stop(),
            b"wait" => {
                if let Some(promise) = self.promise.take() {
                    ctx.wait(wrap_future::<_, Self>(async move { drop(promise.await) }));
                }
            }
            _ => {}
        }
    }
}

/// More than the kernel takes at once.
const MUCH: usize = 4 << 20;

/// A peer whose calls do not let the server run: what it sends lies in the kernel.
struct Peer(TcpStream);

impl Peer {
    async fn connect(to: SocketAddr) -> Self {
        let stream = tokio::net::TcpStream::connect(to).await.unwrap().into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // Or the kernel would hold the rest of a line back until its beginning is acknowledged, by a clock that is not paused.
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Reads the answer, while the server runs.
    async fn expect(&mut self, expected: &[u8]) {
        let mut got = vec![0; expected.len()];
        self.read_exact(&mut got).await;
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
    }

    async fn read_exact(&mut self, mut into: &mut [u8]) {
        self.0.set_nonblocking(true).unwrap();
        support::eventually("an answer", async || {
            while !into.is_empty() {
                match self.0.read(into) {
                    Ok(0) => panic!("EOF, with {} bytes to come", into.len()),
                    Ok(count) => into = &mut std::mem::take(&mut into)[count..],
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
                    Err(error) => panic!("{error}, with {} bytes to come", into.len()),
                }
            }
            true
        })
        .await;
        self.0.set_nonblocking(false).unwrap();
    }

    /// Takes what lies in the kernel now. Returns how much that was.
    fn take(&mut self) -> usize {
        self.0.set_nonblocking(true).unwrap();
        let mut taken = 0;
        let mut buffer = vec![0; 1 << 16];
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => panic!("EOF instead of the rest, {taken}"),
                Ok(count) => taken += count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error} instead of the rest"),
            }
        }
        self.0.set_nonblocking(false).unwrap();
        taken
    }
}

fn server(limits: Limits) -> LineServer<Told, impl Fn(&actix_lines::Connection) -> Told + Clone + Send + 'static> {
    LineServer::new(|_| Told::default()).limits(limits).on_current_arbiter()
}

fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

#[actix::test]
async fn a_line_that_came_while_nobody_looked_is_answered_and_its_session_lives_on() {
    tokio::time::pause();
    for before in [&b""[..], b"begun "] {
        let limits = Limits::builder().idle_timeout(seconds(10)).line_timeout(seconds(10)).build().unwrap();
        let mut server = Server::start(server(limits)).await;
        let mut peer = Peer::connect(server.address()).await;
        peer.send(b"hello\n");
        peer.expect(b"hello\n").await;
        peer.send(before);
        let begun = async || server.sessions().await[0].bytes_in == 6 + before.len() as u64;
        support::eventually("the beginning of the line to be read", begun).await;
        peer.send(b"in time\n");
        tokio::time::advance(STANDSTILL).await;
        peer.expect(&[before, b"in time\n"].concat()).await;
        // Its time begins anew with the line.
        support::pass(Duration::from_secs(9)).await;
        peer.send(b"still there\n");
        peer.expect(b"still there\n").await;
        drop(peer);
        assert_eq!(server.report().await.reason, CloseReason::PeerEof);
        server.end().await;
    }
}

#[actix::test]
async fn a_long_line_that_came_while_nobody_looked_is_read_to_its_end() {
    tokio::time::pause();
    let limits = Limits::builder().line_timeout(seconds(10)).build().unwrap();
    let framing = actix_lines::Framing::lf().max_line(1 << 20).unwrap();
    let mut server = Server::start(server(limits).framing(framing)).await;
    let mut peer = Peer::connect(server.address()).await;
    peer.send(b"hello\nbegun");
    peer.expect(b"hello\n").await;
    // More than one read brings, and no more than fits the kernel's buffer.
    let rest = [vec![b'x'; 90_000], vec![b'\n']].concat();
    peer.send(&rest);
    tokio::time::advance(STANDSTILL).await;
    peer.expect(&[b"begun", &rest[..]].concat()).await;
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::PeerEof);
    server.end().await;
}

#[actix::test]
async fn a_peer_that_read_while_nobody_looked_gets_the_rest() {
    tokio::time::pause();
    let limits = Limits::builder().idle_timeout(None).write_timeout(seconds(10)).build().unwrap();
    let mut server = Server::start(server(limits)).await;
    let mut peer = Peer::connect(server.address()).await;
    peer.send(b"much\n");
    peer.expect(b"much\n").await;
    support::eventually("the kernel to be full", async || server.sessions().await[0].outbox_bytes > 0).await;
    let mut left = MUCH;
    while left > 0 {
        support::eventually("more of the answer", async || {
            let taken = peer.take();
            left -= taken;
            taken > 0
        })
        .await;
        // All that came is read; nobody looks for an hour.
        tokio::time::advance(STANDSTILL).await;
    }
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::PeerEof);
    server.end().await;
}

#[actix::test]
async fn a_wait_that_ended_while_nobody_looked_has_ended_in_time() {
    tokio::time::pause();
    let (keep, promise) = oneshot::channel();
    let promise = std::sync::Mutex::new(Some(promise));
    let promise = std::sync::Arc::new(promise);
    let factory = move |_: &_| Told { promise: promise.lock().unwrap().take() };
    let mut server = Server::start(LineServer::new(factory).on_current_arbiter()).await;
    let mut peer = Peer::connect(server.address()).await;
    peer.send(b"wait\nthen\n");
    peer.expect(b"wait\n").await;
    // The answer comes from another thread; the clock says that half a minute is over before anybody is woken for it.
    std::thread::spawn(move || keep.send(()).unwrap()).join().unwrap();
    tokio::time::advance(STANDSTILL).await;
    peer.expect(b"then\n").await;
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::PeerEof);
    server.end().await;
}

#[actix::test]
async fn a_peer_that_closed_while_nobody_looked_was_not_cut() {
    tokio::time::pause();
    let mut server = Server::start(server(Limits::default())).await;
    let mut peer = Peer::connect(server.address()).await;
    peer.send(b"stop\n");
    peer.expect(b"stop\n").await;
    assert_eq!(peer.0.read(&mut [0]).unwrap(), 0, "our FIN");
    drop(peer);
    tokio::time::advance(STANDSTILL).await;
    let report = server.report().await;
    assert_eq!((report.reason, report.cut), (CloseReason::ClosedByHandler, false));
    server.end().await;
}

#[actix::test]
async fn a_session_that_could_end_when_the_drains_deadline_was_over_is_not_aborted() {
    tokio::time::pause();
    let mut server = Server::start(server(Limits::default())).await;
    let mut peer = Peer::connect(server.address()).await;
    peer.send(b"hello\n");
    peer.expect(b"hello\n").await;
    let handle = server.handle.clone();
    let drained = actix_rt::spawn(async move { handle.drain(Duration::from_secs(2)).await });
    support::eventually("our FIN", async || {
        peer.0.set_nonblocking(true).unwrap();
        matches!(peer.0.read(&mut [0]), Ok(0))
    })
    .await;
    drop(peer);
    tokio::time::advance(STANDSTILL).await;
    let drained = support::within("the drain", drained).await.unwrap().unwrap();
    assert_eq!((drained.ended, drained.cut), (1, 0));
    assert_eq!(server.report().await.reason, CloseReason::Drained);
    server.end().await;
}
