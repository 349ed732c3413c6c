//! Behind a proxy that sends PROXY headers the real peer is the peer, and whoever is no proxy is none.

mod support;
#[path = "support/who.rs"]
mod who;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use actix::Actor;
use actix_lines::{
    Address, BindError, CloseReason, ConfigError, Connection, Line, LineContext, LineHandler, LineServer, LineSession,
    Listener, Transport,
    connect::Connector,
    control::SessionEvent,
    limits::{Limits, OverLimit, Rate},
    proxy::{Proxy, ProxyHeader, ProxyVersion, SendProxy},
    testing::{MemoryCapacity, memory_pair},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use crate::{
    support::{Peer, Server, eventually, pass, pause, within},
    who::Asks,
};

/// Answers each line with itself; some ask for the connection.
#[derive(Default)]
struct Echo {
    greeting: &'static str,
}

impl Actor for Echo {
    type Context = LineContext<Self>;
}

impl LineHandler for Echo {
    fn opened(&mut self, ctx: &mut Self::Context) {
        ctx.write(self.greeting);
    }

    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        match line.text() {
            b"who" => {
                let answer = who(&ctx.connection());
                ctx.write(answer);
            }
            _ => ctx.write(&line),
        }
    }
}

/// A connection as the tests look at it.
fn who(connection: &Connection) -> String {
    let via = connection.via().map_or("nobody", |via| if via.ip().is_some() { "a proxy" } else { "another" });
    let authority = connection.proxy().and_then(ProxyHeader::authority).unwrap_or("none");
    format!("{} at {} via {via}, {authority}\n", connection.peer_addr(), connection.local_addr())
}

const REAL: &str = "192.0.2.7:1024 at 198.51.100.1:443 via a proxy, none\n";
const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 1024 443\r\n";

fn ends() -> (SocketAddr, SocketAddr) {
    ("192.0.2.7:1024".parse().unwrap(), "198.51.100.1:443".parse().unwrap())
}

fn header() -> ProxyHeader {
    let (peer, local) = ends();
    ProxyHeader::of(peer, local)
}

fn v2(header: &ProxyHeader) -> Vec<u8> {
    header.encode(ProxyVersion::V2).unwrap()
}

/// The header of a peer with this address.
fn from(peer: Ipv4Addr) -> Vec<u8> {
    format!("PROXY TCP4 {peer} 198.51.100.1 1024 443\r\n").into_bytes()
}

fn required() -> Proxy {
    Proxy::required().trust(["127.0.0.0/8".parse().unwrap()]).timeout(support::PATIENCE)
}

fn optional() -> Proxy {
    Proxy::optional().trust(["127.0.0.0/8".parse().unwrap()])
}

async fn serve_with(proxy: Proxy, limits: Limits) -> Server {
    let listener = Listener::tcp("127.0.0.1:0").proxy(proxy);
    Server::of(LineServer::new(|_| Echo::default()).on_current_arbiter().limits(limits).listen(listener).unwrap()).await
}

async fn serve(proxy: Proxy) -> Server {
    serve_with(proxy, Limits::default()).await
}

async fn converse(server: &mut Server, bytes: &[u8], answer: &[u8]) {
    let mut peer = server.connect().await;
    peer.send(bytes).await;
    peer.expect(answer).await;
    peer.shutdown_write().await;
    peer.expect_eof().await;
    let report = server.report().await;
    assert_eq!((report.reason, report.bytes_out), (CloseReason::PeerEof, answer.len() as u64), "{report}");
}

/// The reason of a connection that sends `bytes`, and its FIN.
async fn refused(server: &mut Server, bytes: &[u8], shuts: bool) -> &'static str {
    let mut peer = server.connect().await;
    // It may be closed already.
    let _ = peer.stream.write_all(bytes).await;
    if shuts {
        let _ = peer.stream.shutdown().await;
    }
    let mut rest = Vec::new();
    let _ = within("the end", peer.stream.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
    server.report().await.reason.name()
}

// The header.

#[actix::test]
async fn the_real_peer_is_the_peer_wherever_the_header_is_cut_and_what_is_behind_it_is_the_first_line() {
    let rich = header().with_authority("none").with_unique_id(b"id").with_field(0xe0, &[b'\n'; 50]).with_crc32c();
    for header in [V1.to_vec(), v2(&header()), v2(&rich)] {
        let bytes = [&header[..], b"who\none\n"].concat();
        for at in 1..=header.len() + 2 {
            let (ours, mut peer) = memory_pair(MemoryCapacity::default());
            let transport = Transport::new(ours).with_filter(Proxy::required().filter());
            let _session = LineSession::new(transport).start(Echo::default());
            peer.write_all(&bytes[..at]).await.unwrap();
            tokio::task::yield_now().await;
            peer.write_all(&bytes[at..]).await.unwrap();
            peer.shutdown().await.unwrap();
            let mut answer = String::new();
            within("the end", peer.read_to_string(&mut answer)).await.unwrap();
            assert_eq!(answer, REAL.replace("a proxy", "another") + "one\n", "cut at {at}");
        }
    }
}

#[actix::test]
async fn reports_lists_events_and_handlers_know_the_real_peer() {
    let mut server = serve(required()).await;
    let mut heard = server.events().await;
    let real = Address::Ip(ends().0);
    let mut peer = server.connect().await;
    let proxy = peer.stream.local_addr().unwrap();
    eventually("the list to have it under its proxy", async || {
        server.sessions().await.first().is_some_and(|session| session.peer == Address::Ip(proxy))
    })
    .await;
    peer.send(&v2(&header().with_authority("lines.example"))).await;
    peer.send(b"who\n").await;
    peer.expect(REAL.replace("none", "lines.example").as_bytes()).await;
    assert_eq!(server.sessions().await[0].peer, real);
    let Some(SessionEvent::Opened(opened)) = within("an event", heard.recv()).await else { panic!("no opening") };
    assert_eq!(opened[0].peer_addr(), &real);
    assert_eq!(opened[0].via(), Some(&Address::Ip(proxy)));
    assert_eq!(opened[0].local_addr(), &Address::Ip(ends().1));
    assert_eq!(opened[0].proxy().unwrap().authority(), Some("lines.example"));
    drop(peer);
    let report = server.report().await;
    assert_eq!((report.peer, report.lines_in), (real.clone(), 1));
    let Some(SessionEvent::Closed(closed)) = within("an event", heard.recv()).await else { panic!("no end") };
    assert_eq!(closed[0].peer, real);
    server.end().await;
}

// Who is believed.

#[actix::test]
async fn whoever_is_not_trusted_is_refused_at_once_or_its_bytes_are_data() {
    for trusted in [vec![], vec!["192.0.2.0/24".parse().unwrap()], vec!["::1".parse().unwrap()]] {
        let mut server = serve(Proxy::required().trust(trusted.clone())).await;
        // Without a byte.
        assert_eq!(refused(&mut server, b"", false).await, "proxy-untrusted");
        assert_eq!(refused(&mut server, V1, false).await, "proxy-untrusted");
        assert_eq!(server.handle.stats().await.unwrap().closed["proxy-untrusted"], 2);
        server.end().await;
        let mut server = serve(Proxy::optional().trust(trusted)).await;
        converse(&mut server, V1, V1).await;
        server.end().await;
    }
    for network in ["127.0.0.1", "::ffff:127.0.0.0/104"] {
        let mut server = serve(Proxy::required().trust([network.parse().unwrap()])).await;
        converse(&mut server, &[V1, b"who\n"].concat(), REAL.as_bytes()).await;
        server.end().await;
    }
}

#[actix::test]
async fn a_mapped_proxy_is_in_its_ipv4_network() {
    let Ok(listener) = std::net::TcpListener::bind("[::]:0") else { return };
    let port = listener.local_addr().unwrap().port();
    let listener = Listener::from(listener).proxy(required());
    let mut server =
        Server::of(LineServer::new(|_| Echo::default()).on_current_arbiter().listen(listener).unwrap()).await;
    let mut peer = Peer::connect(SocketAddr::from(([127, 0, 0, 1], port))).await;
    peer.send(&[V1, b"who\n"].concat()).await;
    peer.expect(REAL.as_bytes()).await;
    drop(peer);
    server.report().await;
    server.end().await;
}

#[actix::test]
async fn an_optional_header_is_a_header_or_data_exactly() {
    let mut server = serve(optional()).await;
    converse(&mut server, &[V1, b"who\n"].concat(), REAL.as_bytes()).await;
    for data in [b"PING\n".as_slice(), b"PROXY\n", b"PROXYx y\n", b"\r\n\r\nQ\n", b"P\n", b"\n"] {
        converse(&mut server, data, data).await;
        // Byte by byte.
        let mut peer = server.connect().await;
        peer.stream.set_nodelay(true).unwrap();
        for byte in data {
            peer.send(&[*byte]).await;
            tokio::task::yield_now().await;
        }
        peer.expect(data).await;
        drop(peer);
        server.report().await;
    }
    // The peer ends in what may become a signature.
    for part in [b"PRO".as_slice(), b"\r\n\r\n\0\r\nQUIT"] {
        let mut peer = server.connect().await;
        peer.send(part).await;
        peer.shutdown_write().await;
        peer.rest().await;
        let report = server.report().await;
        assert_eq!((report.reason, report.bytes_in), (CloseReason::PeerEof, part.len() as u64), "{report}");
    }
    assert_eq!(refused(&mut server, b"PROXY nonsense\r\n", false).await, "proxy-invalid");
    server.end().await;
}

#[actix::test]
async fn each_refusal_has_a_name_of_its_own() {
    let mut server = serve(required()).await;
    let wrong_sum = {
        let mut bytes = v2(&header().with_crc32c());
        *bytes.last_mut().unwrap() ^= 1;
        bytes
    };
    for (bytes, shuts, name) in [
        (b"PING\r\n".as_slice(), false, "proxy-missing"),
        (b"\x16\x03\x01", false, "proxy-missing"),
        (b"PRO", true, "proxy-missing"),
        (b"PROXY TCP4 x\r\n", false, "proxy-invalid"),
        (&V1[..20], true, "proxy-invalid"),
        (&wrong_sum, false, "proxy-invalid"),
        (&[b'P'; 1], true, "proxy-missing"),
        (b"", true, "probe"),
    ] {
        assert_eq!(refused(&mut server, bytes, shuts).await, name, "{:?}", String::from_utf8_lossy(bytes));
    }
    let closed = server.handle.stats().await.unwrap().closed;
    assert_eq!((closed["proxy-missing"], closed["proxy-invalid"]), (4, 3), "{closed:?}");
    server.end().await;
}

#[actix::test]
async fn a_header_has_its_own_time_which_bytes_one_by_one_do_not_lengthen() {
    pause();
    let mut server = serve(required().timeout(Duration::from_secs(3))).await;
    let mut silent = server.connect().await;
    let mut slow = server.connect().await;
    eventually("both to wait", async || server.handle.stats().await.unwrap().prefaces == 2).await;
    let begun = tokio::time::Instant::now();
    let drip = async {
        for byte in V1 {
            if slow.stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            pass(Duration::from_millis(500)).await;
        }
    };
    let (report, ()) = tokio::join!(server.report(), drip);
    let other = server.report().await;
    for report in [report, other] {
        assert_eq!(report.reason.name(), "proxy-timeout");
        let lasted = report.duration;
        assert!(lasted >= Duration::from_secs(3) && lasted <= Duration::from_secs(4), "{lasted:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(60));
    silent.rest().await;
    server.end().await;
}

#[actix::test]
async fn a_peer_that_need_not_send_a_header_and_waits_is_greeted_when_its_time_is_over() {
    pause();
    let listener = Listener::tcp("127.0.0.1:0").proxy(optional());
    let mut server =
        Server::of(LineServer::new(|_| Echo { greeting: "welcome\n" }).on_current_arbiter().listen(listener).unwrap())
            .await;
    let mut peer = server.connect().await;
    peer.expect_later(b"welcome\n").await;
    peer.send(b"who\n").await;
    let local = peer.stream.local_addr().unwrap();
    let answer = format!("{local} at {} via nobody, none\n", server.address());
    peer.expect(answer.as_bytes()).await;
    drop(peer);
    server.report().await;
    server.end().await;
}

#[actix::test]
async fn a_time_that_cannot_be_kept_is_an_error_where_the_listener_is_bound() {
    let listener = Listener::tcp("127.0.0.1:0").proxy(required().timeout(Duration::from_millis(10)));
    let Err(error) = LineServer::new(|_| Echo::default()).listen(listener) else { panic!("it listens") };
    assert!(matches!(error, BindError::Setting(ConfigError::Timeout { limit: "proxy timeout", .. })));
}

// Limits and lists.

#[actix::test]
async fn limits_and_lists_hold_for_the_real_peer_and_not_for_the_proxy() {
    let limits = Limits::builder()
        .max_sessions_per_source(2)
        .deny(["127.0.0.0/8".parse().unwrap(), "192.0.2.66".parse().unwrap()])
        .exempt(["192.0.2.9".parse().unwrap()])
        .refuse_line("too many\n");
    let mut server = serve_with(required(), limits.build().unwrap()).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut peer = server.connect().await;
        peer.send(&[&from([192, 0, 2, 7].into())[..], b"one\n"].concat()).await;
        peer.expect(b"one\n").await;
        held.push(peer);
    }
    // Any number wait for their headers, though they are all of one address, which is even denied.
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(server.connect().await);
    }
    eventually("all to wait", async || server.handle.stats().await.unwrap().prefaces == 20).await;
    let mut third = server.connect().await;
    third.send(&[&from([192, 0, 2, 7].into())[..], b"one\n"].concat()).await;
    assert_eq!(third.rest().await, b"too many\n");
    let report = server.report().await;
    assert_eq!(
        (report.reason.name(), report.reason.to_string().as_str()),
        ("refused", "refused: max-sessions-per-source")
    );
    assert_eq!((report.peer.ip(), report.lines_in), (Some([192, 0, 2, 7].into()), 0));
    let mut denied = server.connect().await;
    denied.send(&from([192, 0, 2, 66].into())).await;
    let mut rest = Vec::new();
    let _ = within("the end", denied.stream.read_to_end(&mut rest)).await;
    assert_eq!((rest.as_slice(), server.report().await.reason.to_string().as_str()), (&b""[..], "refused: denied"));
    for (at, mut peer) in waiting.into_iter().enumerate() {
        // Exempt, or each its own.
        let real = if at % 2 == 0 { [192, 0, 2, 9] } else { [198, 51, 100, at as u8] };
        peer.send(&[&from(real.into())[..], b"one\n"].concat()).await;
        peer.expect(b"one\n").await;
        held.push(peer);
    }
    let refused = server.handle.stats().await.unwrap().refused;
    assert_eq!((refused["denied"], refused["max-sessions-per-source"]), (1, 1), "{refused:?}");
    // Places of sources are given back.
    held.truncate(0);
    for _ in 0..22 {
        server.report().await;
    }
    for _ in 0..3 {
        converse(&mut server, &[&from([192, 0, 2, 7].into())[..], b"one\n"].concat(), b"one\n").await;
    }
    server.end().await;
}

#[actix::test]
async fn a_source_has_its_accept_rate_whichever_proxy_it_comes_by() {
    pause();
    let rate = Some(Rate { per_second: 1, burst: 2 });
    let limits = Limits::builder().accept_rate_per_source(rate).build().unwrap();
    let mut server = serve_with(required(), limits).await;
    for _ in 0..3 {
        for last in [1, 2] {
            let mut peer = server.connect().await;
            peer.send(&from([192, 0, 2, last].into())).await;
            peer.shutdown_write().await;
            peer.rest().await;
        }
    }
    let mut reasons = Vec::new();
    for _ in 0..6 {
        reasons.push(server.report().await.reason.name());
    }
    assert_eq!(reasons.iter().filter(|reason| **reason == "refused").count(), 2, "{reasons:?}");
    assert_eq!(server.handle.stats().await.unwrap().refused["accept-rate-per-source"], 2);
    server.end().await;
}

#[actix::test]
async fn of_too_many_that_wait_the_oldest_end_and_no_good_one_is_kept_out() {
    let limits = Limits::builder().max_prefaces(100).build().unwrap();
    let mut server = serve_with(required(), limits).await;
    let mut waiting = Vec::new();
    for at in 0..1000 {
        waiting.push(server.connect().await);
        if at % 100 == 99 {
            converse_among(&server).await;
        }
    }
    eventually("the bound to hold", async || {
        let stats = server.handle.stats().await.unwrap();
        stats.prefaces <= 100 && stats.opened >= 1010
    })
    .await;
    drop(waiting);
    let mut evicted = 0;
    for _ in 0..1010 {
        evicted += usize::from(server.report().await.reason == CloseReason::PrefaceEvicted);
    }
    assert!(evicted >= 900, "{evicted}");
    server.end().await;
}

async fn converse_among(server: &Server) {
    let mut peer = server.connect().await;
    peer.send(&[V1, b"who\n"].concat()).await;
    peer.expect(REAL.as_bytes()).await;
}

// Probes.

#[actix::test]
async fn a_probe_is_no_client_and_no_failed_session() {
    let limits = Limits::builder().max_sessions_per_source(1).build().unwrap();
    let mut server = serve_with(required(), limits).await;
    let mut held = Vec::new();
    for (at, header) in [v2(&ProxyHeader::local()), b"PROXY UNKNOWN\r\n".to_vec()].iter().cycle().take(20).enumerate() {
        let mut peer = server.connect().await;
        peer.send(header).await;
        match at % 3 {
            0 => peer.reset(),
            1 => drop(peer),
            _ => {
                // It may also talk: no source is charged for it.
                peer.send(b"who\n").await;
                let local = peer.stream.local_addr().unwrap();
                peer.expect(format!("{local} at {} via nobody, none\n", server.address()).as_bytes()).await;
                held.push(peer);
                continue;
            }
        }
        let report = server.report().await;
        assert_eq!((report.reason, report.lines_in, report.cut), (CloseReason::Probe, 0, false), "{at}: {report}");
    }
    assert_eq!(server.handle.stats().await.unwrap().closed["probe"], 14);
    assert_eq!(server.sessions().await.len(), held.len());
    for peer in held {
        drop(peer);
        // It had a line, so it was more than a probe.
        assert_ne!(server.report().await.reason, CloseReason::Probe);
    }
    server.end().await;
}

#[actix::test]
async fn a_proxy_that_names_itself_checks_whether_we_live_and_is_counted_as_anybody() {
    let limits = Limits::builder().max_sessions_per_source(1).build().unwrap();
    let mut server = serve_with(required(), limits).await;
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        for says in [0, 1, 2] {
            let mut peer = server.connect().await;
            let own = peer.stream.local_addr().unwrap();
            peer.send(&ProxyHeader::of(own, server.address()).encode(version).unwrap()).await;
            match says {
                0 => peer.reset(),
                1 => drop(peer),
                _ => {
                    peer.send(b"who\n").await;
                    peer.expect(format!("{own} at {} via nobody, none\n", server.address()).as_bytes()).await;
                    // Its source is charged for it.
                    let mut second = server.connect().await;
                    let own = second.stream.local_addr().unwrap();
                    second.send(&ProxyHeader::of(own, server.address()).encode(version).unwrap()).await;
                    second.rest().await;
                    assert_eq!(server.report().await.reason.name(), "refused");
                    drop(peer);
                }
            }
            let report = server.report().await;
            assert_eq!((report.reason == CloseReason::Probe, report.peer), (says < 2, Address::Ip(own)), "{says}");
        }
    }
    server.end().await;
}

#[actix::test]
async fn a_check_whose_reset_overtakes_its_header_is_a_probe_as_one_that_sends_none() {
    let rate = Some(Rate { per_second: 1, burst: 4 });
    let limits = Limits::builder().accept_rate(rate).over_limit(OverLimit::Refuse).build().unwrap();
    for proxy in [required(), optional()] {
        let mut server = serve_with(proxy, limits.clone()).await;
        // More than the rate allows, which none of them uses up.
        for at in 0..12 {
            let peer = server.connect().await;
            eventually("it to wait", async || server.handle.stats().await.unwrap().prefaces == 1).await;
            if at % 2 == 0 {
                peer.reset()
            } else {
                drop(peer)
            }
            let report = server.report().await;
            assert_eq!((report.reason, report.bytes_in, report.cut), (CloseReason::Probe, 0, false), "{report}");
        }
        assert_eq!(server.handle.stats().await.unwrap().closed["probe"], 12);
        server.end().await;
    }
}

#[actix::test]
async fn a_probe_that_waits_for_a_greeting_gets_it() {
    let listener = Listener::tcp("127.0.0.1:0").proxy(required());
    let mut server = Server::of(
        LineServer::new(|_| Echo { greeting: "220 ready\n" }).on_current_arbiter().listen(listener).unwrap(),
    )
    .await;
    let mut peer = server.connect().await;
    peer.send(&v2(&ProxyHeader::local())).await;
    peer.expect(b"220 ready\n").await;
    peer.reset();
    assert_eq!(server.report().await.reason, CloseReason::Probe);
    server.end().await;
}

#[actix::test]
async fn a_check_that_has_said_nothing_is_no_session_that_a_drain_cuts() {
    let mut server = serve(required()).await;
    let _peer = server.connect().await;
    eventually("it to wait", async || server.handle.stats().await.unwrap().prefaces == 1).await;
    let drained = within("the drain", server.handle.drain(Duration::from_secs(20))).await.unwrap();
    assert_eq!((drained.ended, drained.cut), (1, 0));
    let report = server.report().await;
    assert_eq!((report.reason, report.cut), (CloseReason::Drained, false));
}

// The other end.

#[actix::test]
async fn a_connector_sends_what_a_listener_receives() {
    for (version, header, answer) in [
        (ProxyVersion::V1, header(), REAL.to_owned()),
        (ProxyVersion::V2, header(), REAL.to_owned()),
        (ProxyVersion::V2, header().with_authority("b.example").with_crc32c(), REAL.replace("none", "b.example")),
    ] {
        let mut server = serve(required()).await;
        let (sender, mut heard) = mpsc::unbounded_channel();
        let connector = Connector::builder(server.address().to_string(), move |_, _| Asks(sender.clone()))
            .proxy(version, &header)
            .start()
            .unwrap();
        assert_eq!(within("an answer", heard.recv()).await, Some(answer));
        connector.send(actix_lines::connect::Disconnect::within(Duration::from_secs(20))).await.unwrap();
        let report = server.report().await;
        assert_eq!((report.peer, report.reason), (Address::Ip(ends().0), CloseReason::PeerEof));
        server.end().await;
    }
    let fields = Connector::builder("127.0.0.1:1", |_, _| Echo::default())
        .proxy(ProxyVersion::V1, &header().with_crc32c())
        .start();
    assert!(matches!(fields, Err(ConfigError::ProxyHeader { .. })));
}

#[actix::test]
async fn a_session_over_any_stream_sends_a_header_before_anything_else() {
    let (ours, mut peer) = memory_pair(MemoryCapacity::default());
    let transport = Transport::new(ours).with_filter(SendProxy::new(ProxyVersion::V1, &header()).unwrap());
    let _session = LineSession::new(transport).start(Echo { greeting: "hello\n" });
    let mut got = vec![0; V1.len() + 6];
    within("the header", peer.read_exact(&mut got)).await.unwrap();
    assert_eq!(got, [V1, b"hello\n"].concat());
}

#[actix::test]
async fn a_drain_ends_those_who_wait_for_their_header() {
    let mut server = serve(required()).await;
    let mut peer = server.connect().await;
    eventually("it to wait", async || server.handle.stats().await.unwrap().prefaces == 1).await;
    within("the drain", server.handle.drain(Duration::from_secs(60))).await.unwrap();
    peer.expect_eof().await;
    assert_eq!(server.report().await.reason, CloseReason::Drained);
}

#[actix::test]
async fn a_drain_answers_what_came_with_a_header_before_it() {
    let server = || LineServer::new(|_| Echo::default());
    for server in [server().on_current_arbiter(), server().workers(1), server().workers(2)] {
        let listener = Listener::tcp("127.0.0.1:0").proxy(required());
        let mut server = Server::of(server.listen(listener).unwrap()).await;
        let listener = server.handle.listeners()[0].id;
        assert!(server.handle.pause(listener).await.unwrap());
        let mut peers = Vec::new();
        for _ in 0..100 {
            let mut peer = server.connect().await;
            peer.send(&[V1, b"one\n"].concat()).await;
            peers.push(peer);
        }
        let report = actix_rt::spawn({
            let handle = server.handle.clone();
            async move { handle.drain(Duration::from_secs(60)).await }
        });
        let mut answered = 0;
        for peer in &mut peers {
            answered += usize::from(peer.rest().await == b"one\n");
        }
        assert_eq!(answered, 100);
        drop(peers);
        within("the drain", report).await.unwrap().unwrap();
        for _ in 0..100 {
            assert_eq!(server.report().await.reason, CloseReason::Drained);
        }
    }
}

#[actix::test]
async fn changed_limits_end_nobody_whose_real_peer_is_not_known_or_is_no_client() {
    let limits = Limits::builder().allow(["192.0.2.0/24".parse().unwrap()]).build().unwrap();
    let mut server = serve_with(required(), limits.clone()).await;
    let mut waiting = server.connect().await;
    let mut probe = server.connect().await;
    probe.send(&[&v2(&ProxyHeader::local())[..], b"one\n"].concat()).await;
    probe.expect(b"one\n").await;
    eventually("it to wait", async || server.handle.stats().await.unwrap().prefaces == 1).await;
    assert_eq!(server.handle.preview_limits(limits.clone()).await.unwrap().ends, []);
    assert_eq!(server.handle.set_limits(limits.clone()).await.unwrap().ends, []);
    waiting.send(&[V1, b"one\n"].concat()).await;
    waiting.expect(b"one\n").await;
    probe.send(b"two\n").await;
    probe.expect(b"two\n").await;
    // The real peer is who counts.
    let without = limits.to_builder().deny(["192.0.2.7".parse().unwrap()]).build().unwrap();
    assert_eq!(server.handle.set_limits(without).await.unwrap().ends.len(), 1);
    waiting.expect_eof().await;
    assert_eq!(server.report().await.reason, CloseReason::Kicked);
    drop(probe);
    server.report().await;
    server.end().await;
}

#[actix::test]
async fn lists_hold_for_those_who_came_by_a_proxys_listener_while_it_was_replaced_by_a_plain_one() {
    let limits = Limits::builder().deny(["127.0.0.0/8".parse().unwrap()]).build().unwrap();
    let server = LineServer::new(|_| Echo::default()).limits(limits).workers(2);
    let server = Server::of(server.listen(Listener::tcp("127.0.0.1:0").proxy(required())).unwrap()).await;
    let (id, address) = (server.handle.listeners()[0].id, server.address());
    // No header is sent and 127.0.0.1 is denied, so nobody is answered.
    let peers = tokio::task::spawn_blocking(move || {
        for _ in 0..1000 {
            let mut peer = std::net::TcpStream::connect(address).unwrap();
            peer.set_read_timeout(Some(support::PATIENCE)).unwrap();
            let _ = std::io::Write::write_all(&mut peer, b"one\n");
            let _ = peer.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = std::io::Read::read_to_end(&mut peer, &mut answer);
            assert_eq!(answer, b"");
        }
    });
    while !peers.is_finished() {
        server.handle.replace_listener(id, Listener::at(address)).await.unwrap();
        tokio::task::yield_now().await;
        server.handle.replace_listener(id, Listener::at(address).proxy(required())).await.unwrap();
        tokio::task::yield_now().await;
    }
    within("the peers", peers).await.unwrap();
    server.end_all().await;
}
