//! A session that came by way of a proxy costs what it keeps of its header, and no other session costs more for it.

mod support;

use std::{net::SocketAddr, time::Duration};

use actix_lines::{
    LineServer, Listener, Rot13,
    limits::Limits,
    proxy::{Proxy, ProxyHeader, ProxyVersion},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::within;
use tikv_jemalloc_ctl::{epoch, stats};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Many, since the worker's table grows by 256.
const SESSIONS: usize = 2048;

/// Most bytes that a session has more than another: the box of what is rare (320), its addresses (64), and in blocks of their own
/// the header (112), the proxy's address (48) and the list of both (32).
const MOST: usize = 640;

/// Bytes of the fields of one header.
const FIELDS: usize = 58;

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

/// The bytes for each idle session of a listener, whose peers begin with this.
async fn each(listener: Listener, header: &[u8]) -> usize {
    let day = Some(Duration::from_secs(24 * 3600));
    let limits = Limits::builder().max_sessions(100_000).max_sessions_per_source(100_000).idle_timeout(day);
    let server = LineServer::new(|_| Rot13).limits(limits.build().unwrap()).on_current_arbiter();
    let server = server.listen(listener).unwrap().start().unwrap();
    let to = server.local_addrs()[0];
    let mut peers = Vec::with_capacity(2 * SESSIONS);
    let mut before = 0;
    for number in 0..2 * SESSIONS {
        if number == SESSIONS {
            before = allocated();
        }
        let mut peer = TcpStream::connect(to).await.unwrap();
        peer.write_all(&[header, b"a line\n"].concat()).await.unwrap();
        within("an answer", peer.read_exact(&mut [0; 7])).await.unwrap();
        // Nothing of the client's but the socket.
        let peer = peer.into_std().unwrap();
        peers.push(peer);
    }
    let each = allocated().saturating_sub(before) / SESSIONS;
    assert_eq!(server.stats().await.unwrap().live, 2 * SESSIONS as u64);
    drop(peers);
    server.abort().await.unwrap();
    each
}

#[actix::test]
async fn a_session_by_way_of_a_proxy_costs_its_addresses_and_fields_more() {
    raise_descriptors();
    let header = || {
        let (peer, local) =
            ("192.0.2.7:1024".parse::<SocketAddr>().unwrap(), "198.51.100.1:443".parse::<SocketAddr>().unwrap());
        ProxyHeader::of(peer, local)
    };
    let proxied = || Listener::tcp("127.0.0.1:0").proxy(Proxy::required().trust(["127.0.0.0/8".parse().unwrap()]));
    let plain = each(Listener::tcp("127.0.0.1:0"), b"").await;
    let v1 = each(proxied(), &header().encode(ProxyVersion::V1).unwrap()).await;
    let v2 = each(proxied(), &header().encode(ProxyVersion::V2).unwrap()).await;
    let rich = header().with_authority("lines.example").with_unique_id(&[7; 32]).with_crc32c();
    let rich = each(proxied(), &rich.encode(ProxyVersion::V2).unwrap()).await;
    let local = each(proxied(), &ProxyHeader::local().encode(ProxyVersion::V2).unwrap()).await;
    eprintln!(
        "bytes for each idle session: plain {plain}, v1 {v1}, v2 {v2}, with {FIELDS} of fields {rich}, LOCAL {local}"
    );
    for (proxied, most) in [(v1, MOST), (v2, MOST), (rich, MOST + FIELDS + 16), (local, MOST)] {
        assert!((plain + 100..=plain + most).contains(&proxied), "{proxied} bytes, where a plain session has {plain}");
    }
}
