//! Ten thousand handshakes that do not go on keep no good peer out, and cost what their bounds allow.
//!
//! The flood comes from a process of its own: this program, told so by a variable. Each process has one end of each
//! connection, so that the usual limit of descriptors is enough.

#[path = "support/tls.rs"]
mod authority;
mod support;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use actix_lines::{LineServer, Listener, Rot13, control::Stats, limits::Limits, limits::LimitsBuilder, tls::Tls};
use authority::Authority;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Server, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Where to, how many, and whether bytes trickle; with blanks between.
const VARIABLE: &str = "ACTIX_LINES_FLOOD";

/// Descriptors of the server beside those of the flood.
const OTHERS: u64 = 500;

/// The record of a hello that is as long as a record may be, and its first bytes.
const HELLO: &[u8] = &[22, 3, 1, 0x40, 0, 1, 0, 0x3F, 0xFC, 3, 3];

/// Connections in all: ten thousand, or fewer where there are not as many descriptors.
fn flood_size() -> u64 {
    let limit = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit });
    let size = limit.map_or(10_000, |limit| limit.saturating_sub(OTHERS).min(10_000));
    if size < 10_000 {
        eprintln!("{size} connections: there are not descriptors for ten thousand");
    }
    size
}

/// A process that floods until its input ends.
struct Flood(Child);

impl Flood {
    fn start(server: SocketAddr, count: u64, trickles: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "the_flood_itself"]).env(VARIABLE, format!("{server} {count} {trickles}"));
        Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_flood_itself() {
    let Ok(order) = std::env::var(VARIABLE) else { return };
    let words: Vec<_> = order.split(' ').collect();
    let (server, count): (SocketAddr, usize) = (words[0].parse().unwrap(), words[1].parse().unwrap());
    flood_size();
    let mut peers: Vec<TcpStream> = (0..count)
        .map(|number| {
            let mut peer = TcpStream::connect(server).unwrap();
            // One says nothing, others a part of a hello. The server may have had enough of it already.
            let _ = peer.write_all(&HELLO[..[0, 3, HELLO.len()][number % 3]]);
            peer
        })
        .collect();
    if words[2] == "true" {
        let (sender, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(std::io::stdin().read(&mut [0]).is_ok()));
        // A byte each: none of the handshakes is idle, and none ends.
        while ended.recv_timeout(Duration::from_millis(20)).is_err() {
            for peer in peers.iter_mut().skip(2).step_by(3) {
                let _ = peer.write_all(&[0]);
            }
        }
    }
    let _ = std::io::stdin().read(&mut [0]);
}

/// A server for the flood.
async fn serve(authority: &Authority, limits: LimitsBuilder) -> Server {
    let files = authority.issue("server", &["localhost"]);
    let tls = Tls::builder(files.certificate, files.key).build().unwrap();
    let limits = limits.max_sessions(50_000).max_sessions_per_source(50_000).build().unwrap();
    let server = LineServer::new(|_| Rot13).workers(1).limits(limits);
    Server::of(server.listen(Listener::tcp("127.0.0.1:0").tls(tls)).unwrap()).await
}

/// Has a peer that means well connect, and a line of it answered.
async fn serves_a_good_peer(server: &Server, authority: &Authority) {
    let mut peer = authority.client().connect(server.address(), "localhost").await;
    let mut answer = [0; 4];
    peer.write_all(b"one\n").await.unwrap();
    within("an answer", peer.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"bar\n");
    within("the end", async { peer.shutdown().await.unwrap() }).await;
}

async fn stats(server: &Server) -> Stats {
    within("the counters", server.handle.stats()).await.unwrap()
}

fn closed(stats: &Stats, reason: &str) -> u64 {
    stats.closed.get(reason).copied().unwrap_or(0)
}

#[actix::test]
async fn ten_thousand_half_open_handshakes_keep_no_good_peer_out() {
    let size = flood_size();
    let authority = Authority::new();
    let limits = Limits::builder().max_prefaces(20_000).preface_timeout(Duration::from_secs(3600));
    let server = serve(&authority, limits).await;
    let flood = Flood::start(server.address(), size, false);
    let mut good = 0;
    eventually("all of the flood to be half-open", async || {
        serves_a_good_peer(&server, &authority).await;
        good += 1;
        stats(&server).await.prefaces == size
    })
    .await;
    for _ in 0..10 {
        serves_a_good_peer(&server, &authority).await;
        good += 1;
    }
    let stats = stats(&server).await;
    assert_eq!((stats.prefaces, stats.opened), (size, size + good), "{stats:?}");
    assert_eq!(stats.refused.values().sum::<u64>(), 0);
    drop(flood);
    server.handle.abort().await.unwrap();
}

#[actix::test]
async fn a_flood_of_slow_handshakes_is_ended_within_its_bounds_and_counted() {
    let size = flood_size();
    const MOST: u64 = 1024;
    let authority = Authority::new();
    let limits = Limits::builder().max_prefaces(MOST as usize).preface_timeout(Duration::from_secs(5));
    let server = serve(&authority, limits).await;
    let flood = Flood::start(server.address(), size, true);
    let mut good = 0;
    eventually("all of the flood to be ended", async || {
        serves_a_good_peer(&server, &authority).await;
        good += 1;
        let stats = stats(&server).await;
        assert!(stats.prefaces <= MOST, "{stats:?}");
        closed(&stats, "preface-evicted") + closed(&stats, "preface-timeout") == size
    })
    .await;
    eventually("those who mean well to be counted", async || closed(&stats(&server).await, "peer-eof") == good).await;
    let stats = stats(&server).await;
    // Those who are too many go first; of the others the time is over, though each byte was in time.
    assert!(closed(&stats, "preface-evicted") >= size - MOST, "{stats:?}");
    assert!(closed(&stats, "preface-timeout") > 0, "{stats:?}");
    assert_eq!((stats.opened, stats.live), (size + good, 0), "{stats:?}");
    drop(flood);
    server.end_all().await;
}
