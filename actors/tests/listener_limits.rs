//! A listener has limits and counters of its own: exact over all workers, and what is counted of listeners is what is
//! counted of the server.

use std::{net::SocketAddr, time::Duration};

use actix_lines::{
    BindError, ConfigError, Connection, LineServer, Listener, Rot13,
    control::{ListenerStats, RefuseReason, Stats},
    limits::{Limits, LimitsBuilder, OverLimit},
};

mod support;
use support::{Peer, Server, eventually, free, greet, ip, talk, within};

async fn start(limits: LimitsBuilder, workers: usize) -> Server {
    let limits = limits.linger_timeout(Duration::ZERO).build().unwrap();
    Server::start(LineServer::new(|_: &Connection| Rot13).workers(workers).limits(limits)).await
}

/// What a peer that sends a line gets: true for an answer, false for a refusal.
async fn is_served(address: SocketAddr) -> Option<Peer> {
    let mut peer = Peer::connect(address).await;
    let mut first = [0; 1];
    // One that is refused may be reset, since its line is not read.
    let _ = tokio::io::AsyncWriteExt::write_all(&mut peer.stream, b"hello\n").await;
    let read = within("an answer or a refusal", tokio::io::AsyncReadExt::read(&mut peer.stream, &mut first)).await;
    (read.is_ok_and(|count| count == 1) && first == *b"u").then_some(peer)
}

/// The counters, if those of listeners add up to those of the server.
async fn stats(server: &Server) -> Stats {
    let stats = within("the counters", server.handle.stats()).await.unwrap();
    let all = || stats.listeners.values().chain([&stats.former_listeners]);
    let sum = |of: fn(&ListenerStats) -> u64| all().map(of).sum::<u64>();
    assert_eq!(sum(|listener| listener.opened), stats.opened);
    assert_eq!(sum(|listener| listener.live), stats.live);
    assert_eq!(sum(|listener| listener.prefaces), stats.prefaces);
    assert_eq!(sum(|listener| listener.lines_in), stats.lines_in);
    assert_eq!(sum(|listener| listener.bytes_in), stats.bytes_in);
    assert_eq!(sum(|listener| listener.bytes_out), stats.bytes_out);
    assert_eq!(sum(|listener| listener.unsent_bytes), stats.unsent_bytes);
    assert_eq!(sum(|listener| listener.undelivered_bytes), stats.undelivered_bytes);
    assert_eq!(sum(|listener| listener.outbox_bytes), stats.outbox_bytes);
    for (reason, count) in &stats.closed {
        let closed: u64 = all().filter_map(|listener| listener.closed.get(reason)).sum();
        assert_eq!(closed, *count, "{reason}");
    }
    for (reason, count) in &stats.refused {
        let refused: u64 = all().filter_map(|listener| listener.refused.get(reason)).sum();
        assert_eq!(refused, *count, "{reason}");
    }
    for listener in all() {
        assert_eq!(listener.opened, listener.live + listener.closed.values().sum::<u64>(), "{stats:#?}");
    }
    stats
}

#[actix::test]
async fn counters_of_listeners_add_up_to_those_of_the_server_at_any_time() {
    let mut server = start(Limits::builder(), 2).await;
    let first = server.handle.listeners().remove(0);
    let second = server.handle.listen(free().name("second").max_sessions(3)).await.unwrap();
    let mut peers = Vec::new();
    for round in 0..30 {
        let address = ip(if round % 3 == 0 { &first } else { &second });
        if let Some(peer) = is_served(address).await {
            peers.push(peer);
        }
        if round % 5 == 4 {
            peers.remove(0).reset();
        }
        stats(&server).await;
    }
    drop(peers);
    eventually("all to have ended", async || stats(&server).await.live == 0).await;
    let stats = stats(&server).await;
    let [of_first, of_second] = [first.id, second.id].map(|id| stats.listeners[&id].clone());
    assert_eq!((of_first.opened, of_first.refused.len()), (10, 0));
    assert_eq!(of_second.opened + of_second.refused["listener-full"], 20);
    assert!(of_second.refused["listener-full"] > 0 && of_second.opened > 3, "{of_second:?}");
    assert_eq!(of_first.bytes_in, 60);
    assert_eq!(of_first.lines_in, 10);
    for _ in 0..stats.opened {
        let report = server.report().await;
        let has_name = report.listener == Some(second.id);
        assert_eq!(report.to_string().ends_with(", listener second"), has_name, "{report}");
    }
    server.end_all().await;
}

#[actix::test]
async fn a_listener_has_never_more_sessions_than_its_limit_whichever_worker_they_are_on() {
    let server = start(Limits::builder(), 3).await;
    let limited = server.handle.listen(free().name("limited").max_sessions(5)).await.unwrap();
    assert_eq!(limited.max_sessions, Some(5));
    let storm: Vec<_> = (0..60).map(|_| actix_rt::spawn(is_served(ip(&limited)))).collect();
    let mut served = Vec::new();
    for peer in storm {
        served.extend(within("a peer", peer).await.unwrap());
    }
    assert_eq!(served.len(), 5);
    let of_limited = stats(&server).await.listeners[&limited.id].clone();
    assert_eq!((of_limited.live, of_limited.opened), (5, 5));
    assert_eq!(of_limited.refused, [("listener-full", 55)].into());
    assert_eq!(RefuseReason::ListenerFull.name(), "listener-full");
    // Others go on, and a place that is given back is taken again.
    let _other = greet(server.address()).await;
    drop(served.pop());
    eventually("a place to be free", async || stats(&server).await.listeners[&limited.id].live == 4).await;
    eventually("it to be taken", async || {
        served.extend(is_served(ip(&limited)).await);
        served.len() == 5
    })
    .await;
    assert_eq!(stats(&server).await.listeners[&limited.id].live, 5);
    server.end_all().await;
}

#[actix::test]
async fn whoever_waits_for_a_place_of_a_listener_comes_when_one_is_free_or_the_limit_is_raised() {
    let server = start(Limits::builder().over_limit(OverLimit::Wait), 2).await;
    let limited = server.handle.listen(free().name("limited").max_sessions(1)).await.unwrap();
    let first = greet(ip(&limited)).await;
    let mut second = Peer::connect(ip(&limited)).await;
    second.send(b"hello\n").await;
    let mut third = Peer::connect(ip(&limited)).await;
    third.send(b"hello\n").await;
    // The other listener is not held up.
    let _other = greet(server.address()).await;
    assert_eq!(stats(&server).await.listeners[&limited.id].live, 1);
    drop(first);
    second.expect(b"uryyb\n").await;
    assert_eq!(stats(&server).await.listeners[&limited.id].live, 1);
    let raised = server.handle.replace_listener(limited.id, free().max_sessions(2)).await.unwrap();
    assert_eq!((raised.id, raised.max_sessions), (limited.id, Some(2)));
    third.expect(b"uryyb\n").await;
    // Both count that began before it was lowered; none is ended.
    server.handle.replace_listener(limited.id, free().max_sessions(1)).await.unwrap();
    let mut fourth = Peer::connect(ip(&limited)).await;
    fourth.send(b"hello\n").await;
    drop(second);
    eventually("the second to have ended", async || stats(&server).await.listeners[&limited.id].live == 1).await;
    talk(&mut third).await;
    assert_eq!(stats(&server).await.listeners[&limited.id].opened, 3);
    // Those that wait are refused from now on, if the server says so.
    let refuse = server.handle.limits().await.unwrap().to_builder().over_limit(OverLimit::Refuse).build().unwrap();
    server.handle.set_limits(refuse).await.unwrap();
    eventually("the fourth to be refused", async || {
        stats(&server).await.listeners[&limited.id].refused.get("listener-full") == Some(&1)
    })
    .await;
    server.end_all().await;
}

#[actix::test]
async fn lists_of_a_listener_hold_for_it_alone_and_beside_those_of_the_server() {
    let server = start(Limits::builder(), 2).await;
    let closed = free().name("closed").deny(["127.0.0.0/8".parse().unwrap()]);
    let closed = server.handle.listen(closed).await.unwrap();
    let others = free().name("others").allow(["192.0.2.0/24".parse().unwrap(), "unix".parse().unwrap()]);
    let others = server.handle.listen(others).await.unwrap();
    let open = free().name("open").allow(["127.0.0.1".parse().unwrap()]);
    let open = server.handle.listen(open).await.unwrap();
    assert!(is_served(ip(&closed)).await.is_none());
    assert!(is_served(ip(&others)).await.is_none());
    let mut kept = greet(ip(&open)).await;
    let _other = greet(server.address()).await;
    let counted = stats(&server).await;
    assert_eq!(counted.refused, [("denied", 2)].into());
    assert_eq!(counted.listeners[&closed.id].refused, [("denied", 1)].into());
    // A replacement has lists of its own; sessions go on.
    let replaced = free().deny(["127.0.0.1".parse().unwrap()]);
    server.handle.replace_listener(open.id, replaced).await.unwrap();
    eventually("the new list to hold", async || is_served(ip(&open)).await.is_none()).await;
    talk(&mut kept).await;
    server.handle.replace_listener(closed.id, free()).await.unwrap();
    eventually("no list to hold", async || is_served(ip(&closed)).await.is_some()).await;
    server.end_all().await;
}

#[actix::test]
async fn a_limit_of_no_session_is_an_error_where_the_listener_is_added_or_replaced() {
    let server = start(Limits::builder(), 1).await;
    let error = server.handle.listen(free().max_sessions(0)).await.unwrap_err();
    assert!(matches!(error, BindError::Setting(ConfigError::MaxSessions)), "{error}");
    let first = server.handle.listeners().remove(0);
    let error = server.handle.replace_listener(first.id, free().max_sessions(0)).await.unwrap_err();
    assert!(matches!(error, BindError::Setting(ConfigError::MaxSessions)), "{error}");
    let _peer = greet(server.address()).await;
    assert_eq!(server.handle.listeners(), [first]);
    server.end_all().await;
}

#[actix::test]
async fn counters_of_a_removed_listener_stay_until_its_last_session_has_ended_and_then_in_a_bounded_way() {
    let server = start(Limits::builder(), 2).await;
    let kept = server.handle.listen(free().name("kept").max_sessions(1)).await.unwrap();
    let mut peer = greet(ip(&kept)).await;
    assert!(is_served(ip(&kept)).await.is_none());
    assert!(within("its end", server.handle.close_listener(kept.id)).await);
    for round in 0..1000_u64 {
        // Workers of their own come and go with some.
        let limits = Limits::builder().idle_timeout(Some(Duration::from_secs(1000 + round % 7))).build().unwrap();
        let listener = free().name("other");
        let listener = if round % 100 == 50 { listener.limits(limits) } else { listener };
        let added = server.handle.listen(listener).await.unwrap();
        if round % 10 == 0 {
            drop(greet(ip(&added)).await);
        }
        assert!(within("its end", server.handle.close_listener(added.id)).await);
        if round % 50 == 0 {
            stats(&server).await;
        }
    }
    eventually("all but one to have ended", async || stats(&server).await.live == 1).await;
    // The next one that is added has the ended ones forgotten.
    let last = server.handle.listen(free()).await.unwrap();
    let counted = stats(&server).await;
    // The first, the last, the one that was kept, and those that ended last.
    assert!(counted.listeners.len() <= 3 + 64, "{} listeners", counted.listeners.len());
    assert!(counted.former_listeners.opened > 80 && counted.former_listeners.live == 0);
    assert_eq!(counted.opened, 101);
    let of_kept = &counted.listeners[&kept.id];
    assert_eq!((of_kept.live, of_kept.lines_in, &of_kept.refused), (1, 1, &[("listener-full", 1)].into()));
    talk(&mut peer).await;
    assert_eq!(stats(&server).await.listeners[&kept.id].lines_in, 2);
    drop(peer);
    eventually("its last session to have ended", async || stats(&server).await.live == 0).await;
    assert_eq!(stats(&server).await.listeners[&kept.id].closed, [("peer-eof", 1)].into());
    // Then others end after it.
    assert!(within("its end", server.handle.close_listener(last.id)).await);
    for _ in 0..70 {
        let added = server.handle.listen(free()).await.unwrap();
        assert!(within("its end", server.handle.close_listener(added.id)).await);
    }
    let counted = stats(&server).await;
    assert!(!counted.listeners.contains_key(&kept.id));
    assert_eq!(counted.former_listeners.refused, [("listener-full", 1)].into());
    assert_eq!(counted.refused, [("listener-full", 1)].into());
    assert_eq!(counted.opened, 101);
    server.end_all().await;
}

#[actix::test]
async fn an_added_listener_goes_on_with_its_limits_and_counters_when_its_acceptor_fails() {
    let server = start(Limits::builder(), 2).await;
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap();
    drop(socket);
    // A port that was asked for by number: the kernel takes any other away when the socket stops listening.
    let socket = std::net::TcpListener::bind(port).unwrap();
    let again = socket.try_clone().unwrap();
    let added = Listener::inherited(socket).name("added").max_sessions(1);
    let added = server.handle.listen(added).await.unwrap();
    let mut peer = greet(ip(&added)).await;
    assert!(is_served(ip(&added)).await.is_none());
    socket2::SockRef::from(&again).shutdown(std::net::Shutdown::Both).unwrap();
    eventually("another acceptor to refuse", async || {
        tokio::net::TcpStream::connect(ip(&added)).await.is_ok()
            && stats(&server).await.listeners[&added.id].refused["listener-full"] > 1
    })
    .await;
    talk(&mut peer).await;
    drop(peer);
    eventually("a place to be free", async || is_served(ip(&added)).await.is_some()).await;
    assert_eq!(server.handle.listener("added"), Some(added));
    server.end_all().await;
}

#[cfg(feature = "proxy")]
#[actix::test]
async fn behind_a_proxy_the_lists_of_a_listener_are_for_the_real_peer_and_its_places_for_all() {
    use actix_lines::proxy::Proxy;

    let server = start(Limits::builder(), 2).await;
    let proxy = Proxy::required().trust(["127.0.0.0/8".parse().unwrap()]);
    let behind = free().name("behind").proxy(proxy).max_sessions(2);
    let behind = behind.allow(["192.0.2.0/24".parse().unwrap()]).deny(["192.0.2.66".parse().unwrap()]);
    let behind = server.handle.listen(behind).await.unwrap();
    let connect = async |real: &str| {
        let mut peer = Peer::connect(ip(&behind)).await;
        peer.send(format!("PROXY TCP4 {real} 198.51.100.1 1024 443\r\nhello\n").as_bytes()).await;
        peer
    };
    let mut first = connect("192.0.2.1").await;
    first.expect(b"uryyb\n").await;
    for denied in ["192.0.2.66", "198.51.100.9", "127.0.0.1"] {
        let mut rest = Vec::new();
        let mut peer = connect(denied).await;
        let read = tokio::io::AsyncReadExt::read_to_end(&mut peer.stream, &mut rest);
        let _ = within("the end", read).await;
        assert_eq!(rest, b"");
        eventually("its place to be free", async || stats(&server).await.live == 1).await;
    }
    eventually("all to be denied", async || {
        stats(&server).await.listeners[&behind.id].refused == [("denied", 3)].into()
    })
    .await;
    // A place is taken by whoever has yet to say who it is.
    let _silent = Peer::connect(ip(&behind)).await;
    eventually("it to wait", async || stats(&server).await.listeners[&behind.id].prefaces == 1).await;
    assert!(is_served(ip(&behind)).await.is_none());
    eventually("it to be counted", async || {
        stats(&server).await.listeners[&behind.id].refused.get("listener-full") == Some(&1)
    })
    .await;
    talk(&mut first).await;
    server.end_all().await;
}
