//! R1: an idle session costs under 700 bytes of heap, everything on.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    time::Duration,
};

use actix_lines::{
    LineServer, Rot13,
    limits::{Limits, LimitsBuilder, Rate, RateLimit},
};
use rustix::{
    net::{AddressFamily, SocketType, bind, connect, socket},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tikv_jemalloc_ctl::{epoch, stats};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Bytes in use, as the allocator rounds them up.
fn allocated() -> usize {
    epoch::advance().unwrap();
    stats::allocated::read().unwrap()
}

/// Connections of which both ends fit this process.
fn room() -> usize {
    let limit = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit });
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(20_000);
    (descriptors.min(20_000) as usize - 100) / 2
}

/// A connection from an address that no other has: the most that counting by source can cost.
fn connect_from_its_own_address(number: usize, to: SocketAddr) -> TcpStream {
    let [_, _, high, low] = (number as u32 + 256).to_be_bytes();
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::new(127, 9, high, low), 0)).unwrap();
    connect(&socket, &to).unwrap();
    TcpStream::from(socket)
}

/// Every limit and every time, none of which is reached.
fn everything_on() -> LimitsBuilder {
    let rate = Some(Rate::per_second(1_000_000));
    let day = Some(Duration::from_secs(24 * 3600));
    Limits::builder()
        .max_sessions(100_000)
        .max_sessions_per_source(1000)
        .accept_rate(rate)
        // A source is forgotten when its rate has recovered, which here is at once.
        .accept_rate_per_source(Some(Rate { per_second: 1_000_000, burst: 1 }))
        .deny(["192.0.2.0/24".parse().unwrap()])
        .idle_timeout(day)
        .line_timeout(day)
        .write_timeout(day)
        .max_age(day)
        .session_rate(RateLimit { bytes: rate, lines: rate })
}

#[test]
fn an_idle_session_costs_under_700_bytes_of_heap() {
    use std::io::{Read, Write};

    let sessions = room();
    let patience = Duration::from_secs(60);
    let used = actix_rt::System::new().block_on(async {
        let server = LineServer::new(|_| Rot13).limits(everything_on().build().unwrap());
        let server = server.on_current_arbiter().bind("127.0.0.1:0").unwrap().start().unwrap();
        let address = server.local_addrs()[0];
        let live = async |count: u64| {
            let mut ticks = tokio::time::interval(Duration::from_millis(5));
            let all = async {
                while server.stats().await.unwrap().live != count {
                    ticks.tick().await;
                }
            };
            tokio::time::timeout(patience, all).await.unwrap_or_else(|_| panic!("waited in vain for {count} sessions"));
        };
        // Warm: the scratch, the outbox on loan, the first chunk of slots.
        let mut peers = Vec::with_capacity(sessions + 1);
        peers.push(TcpStream::connect(address).unwrap());
        live(1).await;
        let before = allocated();
        for batch in 0..sessions.div_ceil(1000) {
            for _ in batch * 1000..sessions.min((batch + 1) * 1000) {
                let mut peer = connect_from_its_own_address(peers.len(), address);
                peer.write_all(b"a line, and the beginning of another\nwhich then").unwrap();
                peers.push(peer);
            }
            live(peers.len() as u64).await;
        }
        // Each has answered a line, held the beginning of another, and been given its end.
        for peer in &mut peers[1..] {
            peer.write_all(b" ends\n").unwrap();
        }
        for peer in &mut peers[1..] {
            peer.set_nonblocking(true).unwrap();
            let mut answer = Vec::new();
            let mut buffer = [0; 100];
            let whole = async {
                while answer.len() < "a line, and the beginning of another\nwhich then ends\n".len() {
                    match peer.read(&mut buffer) {
                        Ok(count) => answer.extend_from_slice(&buffer[..count]),
                        Err(_) => tokio::task::yield_now().await,
                    }
                }
            };
            tokio::time::timeout(patience, whole).await.expect("an answer");
        }
        let used = allocated().saturating_sub(before);
        drop(peers);
        live(0).await;
        server.abort().await.unwrap();
        used
    });
    let each = used / sessions;
    eprintln!("{each} bytes for each of {sessions} idle sessions");
    assert!(each < 700, "{each} bytes for each of {sessions} idle sessions");
    assert!(each > 256, "{each} bytes each: that is less than the task, so something was not measured");
}
