//! An idle session behind TLS costs at most 4.1 KiB of heap, or 4.25 with TLS 1.3, as the allocator rounds it up; a connection
//! that waits in its handshake costs little more.

#[path = "support/tls.rs"]
mod authority;
mod support;

use std::{net::TcpStream, sync::Arc, time::Duration};

use actix_lines::{
    LineServer, Listener, Rot13, ServerHandle,
    limits::{Limits, Rate, RateLimit},
    tls::{Tls, rustls},
};
use authority::{Authority, connect_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{eventually, within};
use tikv_jemalloc_ctl::{epoch, stats};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Mutex,
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Many, since the worker's table grows by 256.
const SESSIONS: usize = 2000;

/// Held by whoever counts bytes: the allocator counts those of the whole process.
static COUNTING: Mutex<()> = Mutex::const_new(());

/// Most bytes for each idle session: 4.1 KiB. Of TLS 1.3 rustls alone takes 3424, in blocks that cannot be given back: a connection
/// of 1088, two ciphers and the room for handshake messages of 640 each, 224 for its secrets and 192 for its queues.
const MOST: [(&rustls::SupportedProtocolVersion, usize); 2] =
    [(&rustls::version::TLS12, 4198), (&rustls::version::TLS13, 4352)];

/// Most bytes for each connection that has sent nothing, a part of a hello, and a whole one.
const MOST_WAITING: [usize; 3] = [3584, 3840, 6144];

/// Room for both ends of each.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit });
}

/// Bytes in use, as the allocator rounds them up.
fn allocated() -> usize {
    epoch::advance().unwrap();
    stats::allocated::read().unwrap()
}

/// Connects, has a line answered, and forgets everything but the socket.
async fn idle(config: &Arc<rustls::ClientConfig>, to: std::net::SocketAddr) -> TcpStream {
    let mut peer = connect_with(config, to, "localhost").await.unwrap();
    peer.write_all(b"a line, and the beginning of another\nwhich then").await.unwrap();
    let mut answer = [0; 37];
    within("an answer", peer.read_exact(&mut answer)).await.unwrap();
    peer.write_all(b" ends\n").await.unwrap();
    within("an answer", peer.read_exact(&mut answer[..16])).await.unwrap();
    peer.into_inner().0.into_std().unwrap()
}

/// A server with every limit on, none of which is reached.
fn start(tls: &Tls) -> ServerHandle {
    let rate = Some(Rate::per_second(1_000_000));
    let day = Some(Duration::from_secs(24 * 3600));
    let limits = Limits::builder().max_sessions(100_000).max_sessions_per_source(100_000);
    let limits = limits.idle_timeout(day).line_timeout(day).write_timeout(day).max_age(day).max_prefaces(100_000);
    let limits = limits.preface_timeout(Duration::from_secs(3600));
    let limits = limits.session_rate(RateLimit { bytes: rate, lines: rate }).build().unwrap();
    let server = LineServer::new(|_| Rot13).limits(limits).on_current_arbiter();
    server.listen(Listener::tcp("127.0.0.1:0").tls(tls)).unwrap().start().unwrap()
}

#[actix::test]
async fn an_idle_session_behind_tls_costs_4_1_kib_of_heap() {
    let _alone = COUNTING.lock().await;
    raise_descriptors();
    let authority = Authority::new();
    let files = authority.issue("server", &["localhost"]);
    let tls = Tls::builder(files.certificate, files.key).build().unwrap();
    for (version, most) in MOST {
        let server = start(&tls);
        let to = server.local_addrs()[0];
        let mut client = authority.client();
        client.versions = vec![version];
        let mut config = rustls::ClientConfig::clone(&client.config());
        config.resumption = rustls::client::Resumption::disabled();
        let config = Arc::new(config);
        let mut peers = Vec::with_capacity(SESSIONS + 20);
        // Warm: scratch, outbox on loan, buffers of the thread.
        for _ in 0..20 {
            peers.push(idle(&config, to).await);
        }
        let before = allocated();
        for _ in 0..SESSIONS {
            peers.push(idle(&config, to).await);
        }
        let each = allocated().saturating_sub(before) / SESSIONS;
        assert_eq!(server.stats().await.unwrap().live, SESSIONS as u64 + 20);
        eprintln!("{version:?}: {each} bytes for each of {SESSIONS} idle sessions");
        assert!((2048..=most).contains(&each), "{each} bytes for each idle session with {version:?}");
        drop(peers);
        server.abort().await.unwrap();
    }
}

#[actix::test]
async fn the_memory_of_a_connection_in_its_handshake_is_known() {
    use std::io::Write;
    let _alone = COUNTING.lock().await;
    raise_descriptors();
    let authority = Authority::new();
    let files = authority.issue("server", &["localhost"]);
    let tls = Tls::builder(files.certificate, files.key).build().unwrap();
    let mut hello = Vec::new();
    let name = "localhost".try_into().unwrap();
    rustls::ClientConnection::new(authority.client().config(), name).unwrap().write_tls(&mut hello).unwrap();
    for (sent, most) in [&[][..], &hello[..hello.len() / 2], &hello].into_iter().zip(MOST_WAITING) {
        let server = start(&tls);
        let mut peers = Vec::with_capacity(SESSIONS);
        let mut before = 0;
        for number in 1..=SESSIONS as u64 + 100 {
            let mut peer = TcpStream::connect(server.local_addrs()[0]).unwrap();
            peer.write_all(sent).unwrap();
            peers.push(peer);
            if number % 100 == 0 {
                eventually("all to wait", async || server.stats().await.unwrap().prefaces == number).await;
            }
            if number == 100 {
                before = allocated();
            }
        }
        if sent.len() == hello.len() {
            // The server's whole answer is there: it waits for the client's next message.
            for peer in &peers {
                peer.set_nonblocking(true).unwrap();
                eventually("an answer", async || peer.peek(&mut [0; 64]).is_ok()).await;
            }
        }
        let each = allocated().saturating_sub(before) / SESSIONS;
        eprintln!("{each} bytes for each of {SESSIONS} connections that have sent {} bytes", sent.len());
        assert!((1024..=most).contains(&each), "{each} bytes for each connection in its handshake");
        drop(peers);
        server.abort().await.unwrap();
    }
}
