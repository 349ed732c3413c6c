//! A session that a proxy passes on is one as any other: over TLS and unix sockets, when it is kicked, drained or late, in events,
//! and under limits while hundreds come at once.
//!
//! Not here: headers themselves (`proxy`), proxies that others wrote (`proxy_peers`).

#[path = "support/tls.rs"]
mod authority;
#[path = "support/folder.rs"]
mod folder;
mod support;
#[path = "support/who.rs"]
mod who;

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use actix::Actor;
use actix_lines::{
    Address, CloseReason, Connection, Line, LineContext, LineHandler, LineServer, Listener, Peers,
    connect::{Connector, Disconnect},
    control::{SessionEvent, SessionFilter},
    filter::{Eof, Fault, Filter, Flow, Inflow},
    limits::Limits,
    proxy::{Proxy, ProxyHeader, ProxyVersion},
    tls::{Tls, TlsClient, TlsInfo},
};
use authority::Authority;
use folder::Folder;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpStream, UnixStream},
    sync::mpsc,
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

use crate::{
    support::{Gate, PATIENCE, Server, eventually, pass, pause, within},
    who::{Asks, Who, via},
};

fn who(connection: &Connection) -> String {
    let via = via(connection);
    let name = connection.tls().and_then(TlsInfo::server_name).unwrap_or("none").to_owned();
    format!("{} via {via}, {name}\n", connection.peer_addr())
}

const REAL: &str = "192.0.2.7:1024";

fn real() -> Address {
    Address::Ip(REAL.parse().unwrap())
}

fn header() -> ProxyHeader {
    let local: SocketAddr = "198.51.100.1:443".parse().unwrap();
    ProxyHeader::of(REAL.parse::<SocketAddr>().unwrap(), local)
}

fn v2() -> Vec<u8> {
    header().encode(ProxyVersion::V2).unwrap()
}

fn from(source: usize) -> Vec<u8> {
    format!("PROXY TCP4 192.0.2.{source} 198.51.100.1 1024 443\r\n").into_bytes()
}

fn required() -> Proxy {
    Proxy::required().trust(["127.0.0.0/8".parse().unwrap()])
}

async fn serve_with(listener: Listener, limits: Limits) -> Server {
    Server::of(LineServer::new(|_| Who(who)).on_current_arbiter().limits(limits).listen(listener).unwrap()).await
}

async fn serve(listener: Listener) -> Server {
    serve_with(listener, Limits::default()).await
}

fn tcp() -> Listener {
    Listener::tcp("127.0.0.1:0").proxy(required())
}

fn tls() -> (Tls, Authority) {
    let authority = Authority::new();
    let files = authority.issue("server", &["localhost"]);
    (Tls::builder(files.certificate, files.key).build().unwrap(), authority)
}

async fn waits(server: &Server) {
    eventually("one to wait", async || server.handle.stats().await.unwrap().prefaces == 1).await;
}

// TLS.

/// A stream whose first write has a header in front, in one segment with it.
struct Prefixed {
    header: Vec<u8>,
    stream: TcpStream,
}

impl AsyncRead for Prefixed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let header = std::mem::take(&mut self.header);
        let all = [&header[..], bytes].concat();
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &all))?;
        assert!(written >= header.len(), "an empty socket takes a header");
        Poll::Ready(Ok(written - header.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[actix::test]
async fn a_header_before_tls_names_the_peer_of_the_handshake_behind_it() {
    let (tls, authority) = tls();
    let mut server = serve(tcp().tls(tls)).await;
    for is_one_segment in [true, false] {
        let mut peer = server.connect().await;
        let header = if is_one_segment {
            v2()
        } else {
            peer.send(&v2()).await;
            Vec::new()
        };
        let stream = Prefixed { header, stream: peer.stream };
        let connector = TlsConnector::from(authority.client().config());
        let handshake = connector.connect("localhost".try_into().unwrap(), stream);
        let mut peer = within("the handshake", handshake).await.unwrap();
        peer.write_all(b"who\nand a tail").await.unwrap();
        peer.shutdown().await.unwrap();
        let mut answer = String::new();
        within("the answer", peer.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer, format!("{REAL} via ip, localhost\nand a tail"));
        let report = server.report().await;
        assert_eq!((report.reason, report.peer, report.bytes_in), (CloseReason::PeerEof, real(), 14));
    }
    server.end().await;
}

#[actix::test]
async fn a_connector_sends_its_header_before_tls() {
    let (tls, authority) = tls();
    let mut server = serve(tcp().tls(tls)).await;
    let (sender, mut heard) = mpsc::unbounded_channel();
    let target = format!("localhost:{}", server.address().port());
    let to = server.address();
    let connector = Connector::builder(target, move |_, _| Asks(sender.clone()))
        .resolver(move |_| async move { Ok(vec![to]) })
        .tls(TlsClient::builder(authority.file()).build().unwrap())
        .proxy(ProxyVersion::V2, &header().with_crc32c())
        .start()
        .unwrap();
    assert_eq!(within("an answer", heard.recv()).await, Some(format!("{REAL} via ip, localhost\n")));
    within("the end", connector.send(Disconnect::within(PATIENCE))).await.unwrap();
    assert_eq!(server.report().await.peer, real());
    server.end().await;
}

#[actix::test]
async fn who_is_denied_behind_a_proxy_gets_no_handshake() {
    let (tls, _authority) = tls();
    let limits = Limits::builder().deny(["192.0.2.7".parse().unwrap()]).refuse_line("too many\n").build().unwrap();
    let mut server = serve_with(tcp().tls(tls), limits).await;
    let mut peer = server.connect().await;
    peer.send(&v2()).await;
    let mut rest = Vec::new();
    let _ = within("the end", peer.stream.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"", "neither a line in clear nor a byte of TLS");
    let report = server.report().await;
    assert_eq!((report.reason.to_string().as_str(), report.peer), ("refused: denied", real()));
    server.end().await;
}

// Time.

/// A filter that waits for a byte for two seconds at most.
struct Knock;

impl Filter for Knock {
    fn read(&mut self, wire: &mut Inflow<'_>, _: &mut Vec<u8>, _: &mut Vec<u8>) -> Result<Flow, Fault> {
        Ok(if wire.take(1).is_empty() { Flow::Preface } else { Flow::Done })
    }

    fn write(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Fault> {
        wire.extend_from_slice(plain);
        Ok(())
    }

    fn eof(&mut self) -> Eof {
        Eof::Clean
    }

    fn timeout(&self) -> Option<Duration> {
        Some(Duration::from_secs(2))
    }

    fn expired(&mut self) -> Result<(), Fault> {
        Err(Fault::named("knock-timeout", "no knock"))
    }

    fn finish(&mut self, _: &mut Vec<u8>) {}

    fn held(&self) -> usize {
        0
    }
}

#[actix::test]
async fn the_time_of_a_header_ends_with_it_and_the_next_filters_begins() {
    let seconds = Duration::from_secs;
    let limits = Limits::builder().preface_timeout(seconds(6)).build().unwrap();
    // The header comes after this time; the reason, and about when it is.
    for (header_after, with_tls, reason, at) in [
        (0, true, "preface-timeout", 6),
        (2, true, "preface-timeout", 6),
        (0, false, "knock-timeout", 2),
        (2, false, "knock-timeout", 4),
        (9, true, "proxy-timeout", 3),
        (9, false, "proxy-timeout", 3),
    ] {
        let (tls, _authority) = tls();
        let listener = if with_tls { tcp().tls(tls) } else { tcp().filter(|_| Knock) };
        pause();
        let mut server = serve_with(listener, limits.clone()).await;
        let mut peer = server.connect().await;
        waits(&server).await;
        let late = async {
            pass(seconds(header_after)).await;
            let _ = peer.stream.write_all(&v2()).await;
        };
        let (report, ()) = tokio::join!(server.report(), late);
        assert_eq!(report.reason.name(), reason, "{header_after}, {with_tls}");
        let lasted = report.duration;
        assert!(lasted >= seconds(at) && lasted <= seconds(at) + seconds(1), "{lasted:?}: {header_after}, {with_tls}");
        let is_known = header_after < 9;
        assert_eq!(report.peer == real(), is_known, "{report}");
        server.end().await;
        tokio::time::resume();
    }
}

// Unix sockets.

#[actix::test]
async fn a_proxy_at_a_unix_socket_is_trusted_by_its_user() {
    let folder = Folder::new("proxy-user");
    let uid = rustix::process::getuid().as_raw();
    let path = |name: &str| folder.path(name);
    for (at, trusted, is_trusted) in [
        (0, "unix".to_owned(), true),
        (1, format!("uid:{uid}"), true),
        (2, format!("uid:{}", uid + 1), false),
        (3, "127.0.0.0/8".to_owned(), false),
        (4, "0.0.0.0/0".to_owned(), false),
    ] {
        let socket = path(&at.to_string());
        let proxy = Proxy::required().trust([trusted.parse::<Peers>().unwrap()]);
        let mut server = serve(Listener::unix(&socket).proxy(proxy)).await;
        let mut peer = UnixStream::connect(&socket).await.unwrap();
        // It may be closed already.
        let _ = peer.write_all(&[&v2()[..], b"who\n"].concat()).await;
        let _ = peer.shutdown().await;
        let mut answer = String::new();
        let ended = within("the end", peer.read_to_string(&mut answer)).await;
        let report = server.report().await;
        if is_trusted {
            ended.unwrap();
            assert_eq!(answer, format!("{REAL} via unix, none\n"), "{trusted}");
            assert_eq!((report.reason, report.peer), (CloseReason::PeerEof, real()));
        } else {
            assert_eq!((answer.as_str(), report.reason.name()), ("", "proxy-untrusted"), "{trusted}");
            assert!(report.peer.unix().is_some(), "{report}");
        }
        server.end().await;
    }
}

#[actix::test]
async fn a_real_peer_may_be_one_of_a_unix_socket_whom_no_limit_of_a_source_holds_for() {
    let limits = Limits::builder().max_sessions_per_source(1).build().unwrap();
    let mut server = serve_with(tcp(), limits).await;
    let source: Address = actix_lines::UnixAddress::at("/run/peer.sock").into();
    let header = ProxyHeader::of(source.clone(), actix_lines::UnixAddress::at("/run/proxy.sock"));
    let header = header.encode(ProxyVersion::V2).unwrap();
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut peer = server.connect().await;
        peer.send(&[&header[..], b"who\n"].concat()).await;
        peer.expect(b"unix:/run/peer.sock via ip, none\n").await;
        held.push(peer);
    }
    drop(held);
    for _ in 0..3 {
        assert_eq!(server.report().await.peer, source);
    }
    server.end().await;
}

// Ends before the session.

#[actix::test]
async fn a_connection_whose_header_fails_is_heard_of_with_its_end() {
    let mut server = serve(tcp()).await;
    let mut heard = server.events().await;
    for (bytes, reason) in [(b"PING\r\n".to_vec(), "proxy-missing"), (b"PROXY x\r\n".to_vec(), "proxy-invalid")] {
        let mut peer = server.connect().await;
        let socket = Address::Ip(peer.stream.local_addr().unwrap());
        waits(&server).await;
        assert!(heard.try_recv().is_err(), "not before");
        peer.send(&bytes).await;
        let mut rest = Vec::new();
        let _ = within("the end", peer.stream.read_to_end(&mut rest)).await;
        let report = server.report().await;
        assert_eq!((report.reason.name(), &report.peer), (reason, &socket), "{report}");
        let SessionEvent::Opened(opened) = within("an event", heard.recv()).await.unwrap() else {
            panic!("no opening")
        };
        assert_eq!((opened.len(), opened[0].id(), opened[0].peer_addr()), (1, report.id, &socket));
        assert!(opened[0].via().is_none() && opened[0].proxy().is_none());
        let SessionEvent::Closed(closed) = within("an event", heard.recv()).await.unwrap() else { panic!("no end") };
        assert_eq!((closed.len(), closed[0].id, closed[0].reason.name()), (1, report.id, reason));
        assert_eq!((closed[0].bytes_in, closed[0].bytes_out), (0, 0), "no byte of it was the session's");
    }
    let stats = server.handle.stats().await.unwrap();
    assert_eq!((stats.opened, stats.live, stats.prefaces), (2, 0, 0), "both had a place");
    assert!(heard.try_recv().is_err());
    server.end().await;
}

#[actix::test]
async fn a_connection_that_waits_for_its_header_is_listed_kicked_and_its_place_is_anothers() {
    let (tls, _authority) = tls();
    // Before the header, and between it and the handshake.
    for has_header in [false, true] {
        let limits = Limits::builder().max_sessions(1).max_sessions_per_source(1).build().unwrap();
        let listener = if has_header { tcp().tls(tls.clone()) } else { tcp() };
        let mut server = serve_with(listener, limits).await;
        for _ in 0..3 {
            let mut peer = server.connect().await;
            let known = if has_header {
                peer.send(&v2()).await;
                real()
            } else {
                Address::Ip(peer.stream.local_addr().unwrap())
            };
            eventually("it to be listed", async || {
                server.sessions().await.first().is_some_and(|session| session.peer == known)
            })
            .await;
            waits(&server).await;
            let id = server.sessions().await[0].id;
            assert_eq!(server.handle.kick(SessionFilter::id(id), "bye\n").await.unwrap(), 1);
            peer.expect_eof().await;
            let report = server.report().await;
            assert_eq!((report.id, report.reason, report.peer), (id, CloseReason::Kicked, known));
            eventually("its place to be given back", async || server.handle.stats().await.unwrap().live == 0).await;
        }
        server.end().await;
    }
}

#[actix::test]
async fn a_drain_ends_those_whose_header_has_come_and_whose_handshake_has_not() {
    let (tls, _authority) = tls();
    let mut server = serve(tcp().tls(tls)).await;
    let mut peer = server.connect().await;
    peer.send(&v2()).await;
    eventually("its peer to be known", async || {
        server.sessions().await.first().is_some_and(|session| session.peer == real())
    })
    .await;
    within("the drain", server.handle.drain(Duration::from_secs(60))).await.unwrap();
    peer.expect_eof().await;
    let report = server.report().await;
    assert_eq!((report.reason, report.peer), (CloseReason::Drained, real()));
}

// A storm.

const SOURCES: usize = 5;
const MOST: usize = 7;

/// Live actors of each source.
type Counts = Arc<[AtomicUsize; SOURCES]>;

/// Counts itself with its source for as long as it lives.
struct Counted(Counts, usize);

impl Counted {
    fn new(counts: &Counts, connection: &Connection) -> Self {
        let Some(std::net::IpAddr::V4(ip)) = connection.peer_addr().ip() else { panic!("{connection:?}") };
        let source = usize::from(ip.octets()[3]);
        let now = counts[source].fetch_add(1, SeqCst) + 1;
        assert!(now <= MOST, "{now} of source {source}");
        Self(Arc::clone(counts), source)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0[self.1].fetch_sub(1, SeqCst);
    }
}

impl Actor for Counted {
    type Context = LineContext<Self>;
}

impl LineHandler for Counted {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
    }
}

/// Comes by way of a proxy, with its bytes in two pieces. Returns its stream if it was let in.
async fn come(to: SocketAddr, source: usize, cut: usize) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(to).await.ok()?;
    let bytes = [&from(source)[..], b"one\n"].concat();
    let (first, second) = bytes.split_at(cut % bytes.len());
    stream.write_all(first).await.ok()?;
    tokio::task::yield_now().await;
    stream.write_all(second).await.ok()?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.ok()?;
    (answer == *b"one\n").then_some(stream)
}

#[actix::test]
async fn no_source_exceeds_its_limit_while_hundreds_come_at_once_on_several_workers() {
    let counts = Counts::default();
    let limits =
        Limits::builder().max_sessions(1000).max_sessions_per_source(MOST).refuse_line("no\n").build().unwrap();
    let counting = Arc::clone(&counts);
    let factory = move |connection: &Connection| Counted::new(&counting, connection);
    let server = LineServer::new(factory).workers(4).limits(limits).listen(tcp()).unwrap();
    let mut server = Server::of(server).await;
    let to = server.address();
    let (mut came, mut refused) = (0, 0);
    for round in 0..3 {
        let (all, leave) = (Gate::default(), Gate::default());
        let mut peers = JoinSet::new();
        let arrived = Arc::new(AtomicUsize::new(0));
        for number in 0..200 {
            let (all, leave, arrived) = (all.clone(), leave.clone(), Arc::clone(&arrived));
            peers.spawn(async move {
                all.passed().await;
                let mut stream = come(to, number % SOURCES, number + round).await;
                // Half of those who were let in end at once, and come again.
                if number % 2 == 0 && stream.is_some() {
                    drop(stream);
                    stream = come(to, number % SOURCES, number).await;
                }
                arrived.fetch_add(1, SeqCst);
                leave.passed().await;
                stream.is_some()
            });
        }
        all.open();
        eventually("all to be let in or refused", async || arrived.load(SeqCst) == 200).await;
        leave.open();
        let let_in = within("all to leave", peers.join_all()).await.into_iter().filter(|is_in| *is_in).count();
        assert!((1..=SOURCES * MOST).contains(&let_in), "{let_in}");
        eventually("the server to be empty", async || server.handle.stats().await.unwrap().live == 0).await;
        let stats = server.handle.stats().await.unwrap();
        while came < stats.opened {
            let report = server.report().await;
            refused += u64::from(matches!(report.reason, CloseReason::Refused(_)));
            came += 1;
        }
        assert!(refused > 0);
        assert_eq!(stats.refused["max-sessions-per-source"], refused, "each is counted once");
        assert_eq!(stats.closed["refused"], refused);
        assert!(counts.iter().all(|count| count.load(SeqCst) == 0));
    }
    // All that was counted is forgotten: each source has its whole share again, and no more.
    let mut held = Vec::new();
    for source in 0..SOURCES {
        for number in 0..MOST {
            held.push(within("an answer", come(to, source, number)).await.expect("a place is free"));
        }
        assert!(within("a refusal", come(to, source, 0)).await.is_none());
    }
    // The last that was refused is closing.
    let live = async || server.handle.stats().await.unwrap().live;
    eventually("those alone who were let in", async || live().await == (SOURCES * MOST) as u64).await;
    drop(held);
    server.end_all().await;
}
