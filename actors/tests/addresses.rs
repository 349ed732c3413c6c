//! Addresses of both families of IP: a listener takes IPv4 peers or not, and one that came by `[::]` is an IPv4 peer everywhere.
//!
//! Not here: `[::]` and `0.0.0.0` together (`server`), peers of unix sockets (`peers`).

use std::{io, net::SocketAddr};

use actix_lines::{
    BindError, LineServer, Listener, Peers, Rot13,
    control::{SessionFilter, SessionQuery},
    limits::{Limits, LimitsBuilder},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Server, at_once, within};

mod support;

const V4: &str = "127.0.0.1";
const V6: &str = "[::1]";

/// False on a machine without IPv6, where there is nothing to test.
fn has_ipv6() -> bool {
    let has_ipv6 = std::net::TcpListener::bind((V6.trim_matches(['[', ']']), 0)).is_ok();
    if !has_ipv6 {
        eprintln!("not tested: this machine has no IPv6");
    }
    has_ipv6
}

/// A server on `[::]` and on `127.0.0.1`, with these limits.
async fn both(limits: LimitsBuilder) -> Server {
    let server = LineServer::new(|_| Rot13).limits(limits.build().unwrap()).workers(1);
    Server::of(server.bind("[::]:0").unwrap().bind("127.0.0.1:0").unwrap()).await
}

/// A connection from this address to the listener of this number.
async fn connect(server: &Server, from: &str, listener: usize) -> TcpStream {
    let port = server.handle.local_addrs()[listener].port();
    at_once("a connection", TcpStream::connect(format!("{from}:{port}"))).await.unwrap()
}

/// True if the peer is served, false if it is closed without an answer of ours.
async fn is_served(peer: &mut TcpStream) -> bool {
    let _ = peer.write_all(b"hello\n").await;
    let mut answer = [0; 6];
    at_once("an answer or the end", peer.read_exact(&mut answer)).await.is_ok() && &answer == b"uryyb\n"
}

fn list(texts: &[&str]) -> Vec<Peers> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[actix::test]
async fn a_listener_for_ipv6_only_leaves_ipv4_and_its_port_to_others() {
    if !has_ipv6() {
        return;
    }
    // Somebody may have one port of IPv4 by chance.
    let mut attempts = (0..100).filter_map(|_| {
        let server = LineServer::new(|_| Rot13).listen(Listener::at("[::]:0").only_v6(true)).unwrap();
        let other = std::net::TcpListener::bind((V4, server.local_addrs()[0].port())).ok()?;
        Some((server, other))
    });
    let (server, other) = attempts.next().expect("it leaves its port of IPv4 to others");
    let mut server = Server::of(server).await;
    let peer = connect(&server, V4, 0).await;
    let (accepted, from) = other.accept().unwrap();
    assert_eq!(from, peer.local_addr().unwrap(), "the other one has got it");
    drop((accepted, other, peer));
    assert!(is_served(&mut connect(&server, V6, 0).await).await);
    assert!(server.report().await.peer.ip().unwrap().is_ipv6());
    server.end().await;
}

#[actix::test]
async fn a_listener_for_both_families_takes_ipv4_or_is_an_error() {
    if !has_ipv6() {
        return;
    }
    let dual = |port: u16| Listener::at(format!("[::]:{port}").as_str()).only_v6(false);
    let server = LineServer::new(|_| Rot13).listen(dual(0)).unwrap();
    let port = server.local_addrs()[0].port();
    let in_use = |error: BindError| assert_eq!(io::Error::from(error).kind(), io::ErrorKind::AddrInUse);
    let v4 = |port| format!("{V4}:{port}");
    // Without that word the former would leave IPv4 to the latter.
    in_use(LineServer::new(|_| Rot13).listen(dual(port)).map(drop).unwrap_err());
    let mut server = Server::of(server).await;
    for from in [V4, V6] {
        assert!(is_served(&mut connect(&server, from, 0).await).await, "{from}");
        assert_eq!(server.report().await.peer.ip().unwrap().is_ipv4(), from == V4);
    }
    in_use(LineServer::new(|_| Rot13).bind(v4(port).as_str()).map(drop).unwrap_err());
    server.end().await;
    // Of one server, in either order.
    let server = LineServer::new(|_| Rot13).listen(dual(0)).unwrap();
    let port = server.local_addrs()[0].port();
    in_use(server.bind(v4(port).as_str()).map(drop).unwrap_err());
    let server = LineServer::new(|_| Rot13).bind("0.0.0.0:0").unwrap();
    let port = server.local_addrs()[0].port();
    in_use(server.listen(dual(port)).map(drop).unwrap_err());
}

#[actix::test]
async fn an_ipv4_peer_is_one_source_by_whichever_listener_it_comes() {
    if !has_ipv6() {
        return;
    }
    let mut server = both(Limits::builder().max_sessions_per_source(1)).await;
    for (first, second) in [(0, 1), (1, 0), (0, 0)] {
        let mut held = connect(&server, V4, first).await;
        assert!(is_served(&mut held).await);
        assert!(!is_served(&mut connect(&server, V4, second).await).await, "{first}, then {second}");
        assert!(is_served(&mut connect(&server, V6, 0).await).await, "another source");
        drop(held);
        for _ in 0..2 {
            server.report().await;
        }
    }
    server.end().await;
}

#[actix::test]
async fn lists_take_an_ipv4_peer_of_an_ipv6_listener_for_one() {
    if !has_ipv6() {
        return;
    }
    for (allow, deny, v4, v6) in [
        (&["127.0.0.0/8"][..], &[][..], true, false),
        (&["::ffff:127.0.0.0/104"], &[], true, false),
        (&["::ffff:127.0.0.1"], &[], true, false),
        (&["0.0.0.0/0"], &[], true, false),
        (&["::/0"], &[], false, true),
        (&["::1"], &[], false, true),
        (&[], &["127.0.0.1"], false, true),
        (&[], &["::ffff:127.0.0.1"], false, true),
        (&[], &["::/0"], true, false),
        (&["0.0.0.0/0", "::/0"], &["127.0.0.0/8"], false, true),
    ] {
        let mut server = both(Limits::builder().allow(list(allow)).deny(list(deny))).await;
        for (from, listener, expected) in [(V4, 0, v4), (V4, 1, v4), (V6, 0, v6)] {
            let served = is_served(&mut connect(&server, from, listener).await).await;
            assert_eq!(served, expected, "allow {allow:?}, deny {deny:?}: {from} at listener {listener}");
            if served {
                server.report().await;
            }
        }
        server.end().await;
    }
    // Exempt from the limits of a source.
    for (exempt, second) in [("127.0.0.0/8", true), ("::ffff:127.0.0.1", true), ("::/0", false)] {
        let limits = Limits::builder().max_sessions_per_source(1).exempt(list(&[exempt]));
        let server = both(limits).await;
        let mut peers = [connect(&server, V4, 0).await, connect(&server, V4, 0).await];
        assert!(is_served(&mut peers[0]).await);
        assert_eq!(is_served(&mut peers[1]).await, second, "{exempt}");
        server.end_all().await;
    }
}

#[actix::test]
async fn an_ipv4_peer_of_an_ipv6_listener_is_listed_and_reported_as_one() {
    if !has_ipv6() {
        return;
    }
    let mut server = both(Limits::builder()).await;
    let mut peers = Vec::new();
    for (from, listener) in [(V4, 0), (V4, 1), (V6, 0)] {
        let mut peer = connect(&server, from, listener).await;
        assert!(is_served(&mut peer).await);
        peers.push(peer);
    }
    let own: Vec<SocketAddr> = peers.iter().map(|peer| peer.local_addr().unwrap()).collect();
    let shown = |peer: &actix_lines::Address| peer.socket_addr().unwrap();
    let listed: Vec<_> = server.sessions().await.iter().map(|session| shown(&session.peer)).collect();
    assert_eq!(listed, own, "as they know themselves");
    for (source, found) in [
        ("127.0.0.1", &own[..2]),
        ("::ffff:127.0.0.0/104", &own[..2]),
        ("0.0.0.0/0", &own[..2]),
        ("::/0", &own[2..]),
        ("::1", &own[2..]),
    ] {
        let query = SessionQuery::from(SessionFilter::source(source.parse().unwrap()));
        let page = within("the list", server.handle.sessions(query)).await.unwrap();
        let peers: Vec<_> = page.sessions.iter().map(|session| shown(&session.peer)).collect();
        assert_eq!(peers, found, "{source}");
    }
    drop(peers);
    let mut reported = Vec::new();
    for _ in &own {
        reported.push(shown(&server.report().await.peer));
    }
    reported.sort();
    let mut own = own;
    own.sort();
    assert_eq!(reported, own);
    server.end().await;
}
