//! C3: limits are exact and global; over them a connection waits or is refused with a line. Sources, rates, lists.

mod support;

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use actix_lines::{
    CloseReason, LineServer, SourcePrefix,
    control::SessionFilter,
    limits::{Limits, LimitsBuilder, OverLimit, Rate},
};
use support::{Counted, Echo, Peer, Server, at_once, eventually, pass, pause, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    task::JoinSet,
    time::Instant,
};

const REFUSED: &[u8] = b"too many connections, try again later\r\n";

async fn start(limits: LimitsBuilder) -> Server {
    Server::start(LineServer::new(|_| Echo).limits(limits.build().unwrap()).workers(2)).await
}

/// A connection from one of the loopback network's many addresses.
async fn connect_from(source: &str, to: SocketAddr) -> Peer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
    Peer { stream: at_once("a connection", socket.connect(to)).await.unwrap() }
}

/// Whether a connection is served; if not it has to be told so, and closed.
async fn is_served(peer: &mut Peer, refusal: &[u8]) -> bool {
    // In flight before the refusal: closing over it at once would reset the connection.
    peer.send(b"hello\n").await;
    let mut first = [0];
    if at_once("an answer", peer.stream.peek(&mut first)).await.unwrap() == 1 && first[0] == b'h' {
        peer.expect(b"hello\n").await;
        return true;
    }
    assert_eq!(String::from_utf8_lossy(&peer.rest().await), String::from_utf8_lossy(refusal));
    false
}

#[actix::test]
async fn a_source_has_no_more_sessions_than_it_may() {
    let mut server = start(Limits::builder().max_sessions_per_source(2)).await;
    let mut first = connect_from("127.0.0.1", server.address()).await;
    let mut second = connect_from("127.0.0.1", server.address()).await;
    assert!(is_served(&mut first, REFUSED).await && is_served(&mut second, REFUSED).await);
    let mut third = connect_from("127.0.0.1", server.address()).await;
    assert!(!is_served(&mut third, REFUSED).await);
    let mut elsewhere = connect_from("127.0.0.2", server.address()).await;
    assert!(is_served(&mut elsewhere, REFUSED).await, "another source");
    drop(first);
    server.report().await;
    let mut fourth = connect_from("127.0.0.1", server.address()).await;
    assert!(is_served(&mut fourth, REFUSED).await, "a place was given back");
    let stats = server.handle.stats().await.unwrap();
    assert_eq!((stats.opened, stats.live, stats.refused["max-sessions-per-source"]), (4, 3, 1));
    drop((second, third, fourth, elsewhere));
    for _ in 0..3 {
        server.report().await;
    }
    server.end().await;
}

#[actix::test]
async fn addresses_that_share_the_prefix_share_the_limit_unless_they_are_exempt() {
    let limits = Limits::builder()
        .max_sessions_per_source(1)
        .source_prefix(SourcePrefix { v4: 24, v6: 64 })
        .exempt(["127.0.0.64/26".parse().unwrap()]);
    let server = start(limits).await;
    let mut served = Vec::new();
    for (source, expected) in [
        ("127.0.0.1", true),
        ("127.0.0.2", false),
        ("127.0.1.2", true),
        ("127.0.0.65", true),
        ("127.0.0.66", true),
        ("127.0.0.65", true),
    ] {
        let mut peer = connect_from(source, server.address()).await;
        assert_eq!(is_served(&mut peer, REFUSED).await, expected, "{source}");
        served.push(peer);
    }
}

#[actix::test]
async fn over_the_limit_a_connection_is_refused_with_the_line_where_that_is_the_policy() {
    let limits = Limits::builder().max_sessions(2).over_limit(OverLimit::Refuse).refuse_line("come back later\n");
    let mut server = start(limits).await;
    let mut served = Vec::new();
    for _ in 0..2 {
        let mut peer = server.connect().await;
        assert!(is_served(&mut peer, b"").await);
        served.push(peer);
    }
    for _ in 0..20 {
        assert!(!is_served(&mut server.connect().await, b"come back later\n").await);
    }
    served.pop();
    server.report().await;
    assert!(is_served(&mut server.connect().await, b"").await);
    server.report().await;
    let stats = server.handle.stats().await.unwrap();
    assert_eq!((stats.opened, stats.live, stats.refused["max-sessions"]), (3, 1, 20));
    drop(served);
    server.report().await;
    server.end().await;
}

#[actix::test]
async fn of_5000_connections_at_once_never_more_than_1000_are_sessions() {
    const LIMIT: usize = 1000;
    const PEERS: usize = 5000;

    for policy in [OverLimit::Wait, OverLimit::Refuse] {
        let (live, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let factory = {
            let (live, most) = (Arc::clone(&live), Arc::clone(&most));
            move |_: &_| {
                most.fetch_max(live.fetch_add(1, SeqCst) + 1, SeqCst);
                Counted(Arc::clone(&live))
            }
        };
        let limits = Limits::builder().max_sessions(LIMIT).over_limit(policy).build().unwrap();
        let server = Server::start(LineServer::new(factory).limits(limits).workers(2)).await;
        let address = server.address();
        let mut peers = JoinSet::new();
        for at in 0..PEERS {
            peers.spawn_local(async move {
                // So many that none has more than its share of those that are being refused.
                let mut peer = connect_from(&format!("127.0.1.{}", at % 250), address).await;
                peer.send(b"hello\n").await;
                let mut first = [0];
                within("an answer", peer.stream.peek(&mut first)).await.unwrap();
                (first[0] == b'h', peer)
            });
        }
        let mut refused = 0;
        // Where others are refused nobody makes room; where they wait, all do once the limit is reached.
        let mut held = Vec::new();
        while let Some(peer) = within("each to be served or refused", peers.join_next()).await {
            let (is_served, mut peer) = peer.unwrap();
            if is_served {
                held.push(peer);
            } else {
                assert_eq!(peer.rest().await, REFUSED);
                refused += 1;
            }
            if policy == OverLimit::Wait && held.len() == LIMIT {
                held.clear();
            }
        }
        drop(held);
        eventually("all counters to balance", async || {
            let stats = server.handle.stats().await.unwrap();
            assert_eq!(stats.opened, stats.live + stats.closed.values().sum::<u64>());
            stats.live == 0
        })
        .await;
        let stats = server.handle.stats().await.unwrap();
        let expected = if policy == OverLimit::Wait { (PEERS, 0) } else { (LIMIT, PEERS - LIMIT) };
        assert_eq!((stats.opened as usize, refused), expected, "{policy:?}");
        assert_eq!(stats.refused.values().sum::<u64>() as usize, refused);
        assert_eq!(most.load(SeqCst), LIMIT, "the most sessions at once");
        assert_eq!(live.load(SeqCst), 0);
        within("the end", server.handle.abort()).await.unwrap();
    }
}

#[actix::test]
async fn at_the_accept_rate_connections_wait() {
    pause();
    let limits = Limits::builder()
        .accept_rate(Some(Rate { per_second: 2, burst: 3 }))
        .over_limit(OverLimit::Wait)
        .build()
        .unwrap();
    let server = Server::start(LineServer::new(|_| Echo).limits(limits).on_current_arbiter()).await;
    // So long that the bucket is full, however often the listener turned out to have nothing.
    pass(Duration::from_secs(10)).await;
    let begin = Instant::now();
    let mut peers = Vec::new();
    let mut times = Vec::new();
    for _ in 0..9 {
        let mut peer = server.connect().await;
        peer.send(b"hello\n").await;
        peer.expect_later(b"hello\n").await;
        times.push(begin.elapsed().as_millis() / 100);
        peers.push(peer);
    }
    assert_eq!(times, [0, 0, 0, 5, 10, 15, 20, 25, 30], "in tenths of a second");
    assert!(server.handle.stats().await.unwrap().refused.is_empty());
}

#[actix::test]
async fn over_the_accept_rate_connections_are_refused_where_that_is_the_policy() {
    pause();
    let rate = Some(Rate { per_second: 1, burst: 2 });
    let limits = Limits::builder().accept_rate(rate).over_limit(OverLimit::Refuse).build().unwrap();
    let server = Server::start(LineServer::new(|_| Echo).limits(limits).on_current_arbiter()).await;
    let mut served = Vec::new();
    for expected in [true, true, false, false] {
        let mut peer = server.connect().await;
        assert_eq!(is_served(&mut peer, REFUSED).await, expected);
        served.push(peer);
    }
    pass(Duration::from_secs(1)).await;
    assert!(is_served(&mut server.connect().await, REFUSED).await, "the bucket fills again");
    assert_eq!(server.handle.stats().await.unwrap().refused["accept-rate"], 2);
}

#[actix::test]
async fn a_source_over_its_accept_rate_is_refused_and_others_are_not() {
    pause();
    let limits = Limits::builder().accept_rate_per_source(Some(Rate { per_second: 1, burst: 2 })).build().unwrap();
    let server = Server::start(LineServer::new(|_| Echo).limits(limits).on_current_arbiter()).await;
    for (source, expected) in
        [("127.0.0.1", true), ("127.0.0.1", true), ("127.0.0.1", false), ("127.0.0.2", true), ("127.0.0.1", false)]
    {
        let mut peer = connect_from(source, server.address()).await;
        assert_eq!(is_served(&mut peer, REFUSED).await, expected, "{source}");
    }
    pass(Duration::from_secs(1)).await;
    assert!(is_served(&mut connect_from("127.0.0.1", server.address()).await, REFUSED).await);
    assert_eq!(server.handle.stats().await.unwrap().refused["accept-rate-per-source"], 2);
}

#[actix::test]
async fn lists_say_who_may_connect_and_may_change_while_the_server_runs() {
    let mut server = start(Limits::builder().deny(["127.0.0.3".parse().unwrap()])).await;
    let mut peer = connect_from("127.0.0.3", server.address()).await;
    peer.expect_eof().await;
    let mut early = connect_from("127.0.0.2", server.address()).await;
    assert!(is_served(&mut early, b"").await);
    let mut other = connect_from("127.0.0.1", server.address()).await;
    assert!(is_served(&mut other, b"").await);

    let none = Limits::builder().allow(["127.0.0.0/30".parse().unwrap()]).deny(["127.0.0.2".parse().unwrap()]);
    let none = none.build().unwrap();
    let early_id = server.sessions().await[0].id;
    let would = within("a dry run", server.handle.preview_limits(none.clone())).await.unwrap();
    assert_eq!(would.ends.iter().map(|session| session.id).collect::<Vec<_>>(), [early_id]);
    assert!(is_served(&mut early, b"").await, "a dry run changes nothing");
    assert_ne!(server.handle.limits().await.unwrap(), none);

    let does = within("the change", server.handle.set_limits(none.clone())).await.unwrap();
    assert_eq!(does.ends.len(), 1);
    early.expect_eof().await;
    drop(early);
    let report = server.report().await;
    assert_eq!((report.id, report.reason), (early_id, CloseReason::Kicked));
    assert_eq!(server.handle.limits().await.unwrap(), none);
    for (source, expected) in [("127.0.0.1", true), ("127.0.0.2", false), ("127.0.0.3", true), ("127.0.0.4", false)] {
        let mut peer = connect_from(source, server.address()).await;
        if expected {
            assert!(is_served(&mut peer, b"").await, "{source}");
            drop(peer);
            server.report().await;
        } else {
            peer.expect_eof().await;
        }
    }
    assert_eq!(server.handle.stats().await.unwrap().refused["denied"], 3);
    drop(other);
    server.report().await;
    server.end().await;
}

#[actix::test]
async fn networks_of_ipv4_are_the_same_in_ipv6_notation_in_every_list_and_question() {
    let mapped = || ["::ffff:127.0.0.0/121".parse().unwrap()];
    let all_of_v6 = || ["::/0".parse().unwrap()];
    // IPv4 peers as they come by an IPv4 listener, and by one for both families, where this machine has IPv6.
    for listen in ["127.0.0.1:0", "[::]:0"] {
        for (what, limits, inside, outside) in [
            ("deny", Limits::builder().deny(mapped()), false, true),
            ("allow", Limits::builder().allow(mapped()), true, false),
            ("deny of all of IPv6", Limits::builder().deny(all_of_v6()), true, true),
            ("allow of all of IPv6", Limits::builder().allow(all_of_v6()), false, false),
            ("exempt", Limits::builder().max_sessions_per_source(1).exempt(mapped()), true, false),
        ] {
            let server = LineServer::new(|_| Echo).limits(limits.build().unwrap()).workers(1);
            let handle = match server.bind(listen) {
                Ok(server) => server.start().unwrap(),
                Err(error) if listen.starts_with('[') => {
                    eprintln!("not tried: {error}");
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            let to = SocketAddr::from(([127, 0, 0, 1], handle.local_addrs()[0].port()));
            for (source, expected) in [("127.0.0.5", inside), ("127.0.0.200", outside)] {
                let mut first = connect_from(source, to).await;
                // Of those for whom limits hold the second is one too many.
                let mut second = connect_from(source, to).await;
                if what == "exempt" {
                    assert!(is_served(&mut first, REFUSED).await, "{listen}, {what}: {source}");
                    assert_eq!(is_served(&mut second, REFUSED).await, expected, "{listen}, {what}: {source}");
                } else {
                    for peer in [&mut first, &mut second] {
                        assert_eq!(is_let_in(peer).await, expected, "{listen}, {what}: {source}");
                    }
                }
            }
            let of = |prefix: &str| SessionFilter::source(prefix.parse().unwrap());
            let count = async |prefix| handle.sessions(of(prefix)).await.unwrap().total;
            // All peers are gone by now.
            eventually("all sessions to end", async || count("0.0.0.0/0").await == 0).await;
            let mut peer = connect_from("127.0.0.5", to).await;
            if is_let_in(&mut peer).await {
                for (prefix, expected) in [
                    ("::ffff:127.0.0.0/121", 1),
                    ("::ffff:127.0.0.5", 1),
                    ("::ffff:0:0/96", 1),
                    ("::ffff:127.0.0.128/121", 0),
                    ("::/0", 0),
                ] {
                    assert_eq!(count(prefix).await, expected, "{listen}: {prefix}");
                }
            }
            within("the end", handle.abort()).await.unwrap();
        }
    }
}

/// Whether a connection is served, or closed without a word.
async fn is_let_in(peer: &mut Peer) -> bool {
    let _ = peer.stream.write_all(b"hello\n").await;
    // Closed with unread bytes it is reset.
    within("an answer", peer.stream.read_exact(&mut [0; 6])).await.is_ok()
}

#[actix::test]
async fn a_source_is_the_same_by_whatever_listener_it_comes() {
    let limits = Limits::builder().max_sessions_per_source(1).source_prefix(SourcePrefix { v4: 24, v6: 96 });
    let server = LineServer::new(|_| Echo).limits(limits.build().unwrap()).workers(1);
    let Ok(server) = server.bind("127.0.0.1:0").unwrap().bind("[::]:0") else {
        return eprintln!("not tried: there is no IPv6 here");
    };
    let handle = server.start().unwrap();
    let [v4, both] = [0, 1].map(|at| SocketAddr::from(([127, 0, 0, 1], handle.local_addrs()[at].port())));
    let mut first = connect_from("127.0.0.5", v4).await;
    let mut second = connect_from("127.0.0.6", both).await;
    let mut third = connect_from("127.0.1.6", both).await;
    assert!(is_served(&mut first, REFUSED).await, "the first of its source");
    assert!(!is_served(&mut second, REFUSED).await, "the same /24, as an IPv6 listener sees it");
    assert!(is_served(&mut third, REFUSED).await, "another source");
    drop((first, second, third));
    within("the end", handle.abort()).await.unwrap();
}

#[actix::test]
async fn many_that_are_refused_and_do_not_close_are_all_told() {
    pause();
    let limits = Limits::builder().max_sessions(1).over_limit(OverLimit::Refuse).build().unwrap();
    let server = Server::start(LineServer::new(|_| Echo).limits(limits).on_current_arbiter()).await;
    let mut served = server.connect().await;
    assert!(is_served(&mut served, b"").await);
    // More than there is room for at once: the others wait until these were given their second.
    let mut peers = Vec::new();
    for at in 0..700 {
        peers.push(connect_from(&format!("127.0.1.{}", at % 100), server.address()).await);
    }
    for peer in &mut peers {
        assert_eq!(peer.rest().await, REFUSED);
    }
    assert!(is_served(&mut served, b"").await, "meanwhile sessions go on");
    assert_eq!(server.handle.stats().await.unwrap().refused["max-sessions"], 700);
}

#[actix::test]
async fn a_limit_that_is_raised_lets_in_those_who_wait() {
    let server = start(Limits::builder().max_sessions(1).over_limit(OverLimit::Wait)).await;
    let mut first = server.connect().await;
    assert!(is_served(&mut first, b"").await);
    let mut second = server.connect().await;
    second.send(b"hello\n").await;
    let limits = server.handle.limits().await.unwrap().to_builder().max_sessions(2).build().unwrap();
    assert!(within("the change", server.handle.set_limits(limits)).await.unwrap().ends.is_empty());
    second.expect(b"hello\n").await;
}

/// Ten peers, each of whom comes behind twenty connections of `crowd`; how long each waits for its answer, in tenths of a
/// second.
async fn tenths_behind(crowd: &str, server: &Server) -> Vec<u128> {
    // Who comes now finds a full bucket.
    pass(Duration::from_secs(10)).await;
    let begin = Instant::now();
    let mut tenths = Vec::new();
    for at in 0..10 {
        let mut others = Vec::new();
        for _ in 0..20 {
            others.push(connect_from(crowd, server.address()).await);
        }
        let mut peer = connect_from(&format!("127.0.1.{at}"), server.address()).await;
        peer.send(b"hello\n").await;
        peer.expect_later(b"hello\n").await;
        tenths.push(begin.elapsed().as_millis() / 100);
    }
    tenths
}

#[actix::test]
async fn who_is_kept_out_by_himself_costs_the_others_nothing_of_the_accept_rate() {
    pause();
    let limits = Limits::builder()
        .accept_rate(Some(Rate { per_second: 10, burst: 1 }))
        .over_limit(OverLimit::Wait)
        .deny(["127.0.0.66".parse().unwrap()])
        .max_sessions_per_source(1);
    let limits = limits.build().unwrap();
    let server = Server::start(LineServer::new(|_| Echo).limits(limits).on_current_arbiter()).await;
    let mut one = connect_from("127.0.0.2", server.address()).await;
    assert!(is_served(&mut one, b"").await);
    for crowd in ["127.0.0.66", "127.0.0.2"] {
        assert_eq!(tenths_behind(crowd, &server).await, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], "{crowd}");
    }
    let refused = server.handle.stats().await.unwrap().refused;
    assert_eq!((refused["denied"], refused["max-sessions-per-source"]), (200, 200));
}

#[actix::test]
async fn without_room_to_refuse_others_who_may_come_are_admitted() {
    pause();
    let rate = Some(Rate { per_second: 10, burst: 1 });
    let limits = Limits::builder().accept_rate(rate).over_limit(OverLimit::Refuse).build().unwrap();
    let server = Server::start(LineServer::new(|_| Echo).limits(limits).on_current_arbiter()).await;
    let mut first = server.connect().await;
    assert!(is_served(&mut first, b"").await);
    let begin = Instant::now();
    // They hear so, and stay: for a second there is room for nobody else.
    let mut refused = Vec::new();
    for at in 0..256 {
        let mut peer = connect_from(&format!("127.0.1.{}", at % 8), server.address()).await;
        peer.expect(REFUSED).await;
        refused.push(peer);
    }
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
    let mut late = server.connect().await;
    late.send(b"hello\n").await;
    late.expect_later(b"hello\n").await;
    assert_eq!(begin.elapsed().as_millis() / 100, 1, "when the rate allows it");
}

#[actix::test]
async fn a_source_that_is_refused_and_stays_does_not_keep_others_from_hearing_why() {
    pause();
    let limits = Limits::builder().max_sessions(1).over_limit(OverLimit::Refuse).build().unwrap();
    let server = Server::start(LineServer::new(|_| Echo).limits(limits).on_current_arbiter()).await;
    let mut served = server.connect().await;
    assert!(is_served(&mut served, b"").await);
    let begin = Instant::now();
    let mut stay = Vec::new();
    for _ in 0..300 {
        stay.push(connect_from("127.0.0.66", server.address()).await);
    }
    for _ in 0..10 {
        assert!(!is_served(&mut server.connect().await, REFUSED).await);
    }
    // Those over the share of their source are told as well, but not waited for.
    for peer in &mut stay {
        assert_eq!(peer.rest().await, REFUSED);
    }
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_eq!(server.handle.stats().await.unwrap().refused["max-sessions"], 310);
}

#[actix::test]
async fn a_refused_connection_that_sends_on_or_stays_is_reset() {
    pause();
    let limits = Limits::builder().max_sessions(1).over_limit(OverLimit::Refuse).build().unwrap();
    let server = Server::start(LineServer::new(|_| Echo).limits(limits).on_current_arbiter()).await;
    let mut served = server.connect().await;
    assert!(is_served(&mut served, b"").await);

    let begin = Instant::now();
    let mut sends_on = server.connect().await;
    let flood = vec![b'x'; 256 * 1024];
    let error = within("a reset", async {
        loop {
            if let Err(error) = tokio::io::AsyncWriteExt::write_all(&mut sends_on.stream, &flood).await {
                break error;
            }
        }
    });
    let kind = error.await.kind();
    assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{kind:?}");
    assert_eq!(begin.elapsed(), Duration::ZERO, "what it sends is not read for a second");

    let mut stays = server.connect().await;
    stays.send(b"hello\n").await;
    assert_eq!(stays.rest().await, REFUSED);
    assert_eq!(stays.stream.take_error().unwrap().map(|error| error.kind()), None);
    pass(Duration::from_secs(2)).await;
    let error = stays.stream.take_error().unwrap().map(|error| error.kind());
    assert!(matches!(error, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)), "{error:?}");
}
