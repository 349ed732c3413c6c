//! Behind TLS a session keeps every promise, and knows its peer. Certificates are replaced while sessions live.
//!
//! The peers are tokio-rustls, over sockets; other peers are in `tls_peers`.

#[path = "support/tls.rs"]
mod authority;
mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use actix::{Actor, ActorContext, AsyncContext, Handler, Message, fut::wrap_future};
use actix_lines::{
    CloseReason, CloseReport, ConfigError, Connection, Line, LineContext, LineHandler, LineServer, LineSession,
    Listener, Transport,
    connect::{ConnectError, Connector, ConnectorEvent, Disconnect, GetSession},
    limits::Limits,
    testing::{FaultyStream, MemoryCapacity, StreamCall, memory_pair},
    tls::{ClientAuth, Pem, Tls, TlsClient, TlsError, TlsInfo, TlsVersion, TlsWarning, rustls},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, oneshot},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    authority::{Authority, Files, connect_with},
    support::{Gate, PATIENCE, Peer, Server, at_once, eventually, pass, pause, within},
};

/// Answers each line with itself; some mean more.
#[derive(Default)]
struct Echo {
    report: Option<oneshot::Sender<CloseReport>>,
    gate: Gate,
}

impl Actor for Echo {
    type Context = LineContext<Self>;
}

impl LineHandler for Echo {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
        match line.text() {
            b"wait" => ctx.wait(wrap_future::<_, Self>(self.gate.passed())),
            b"much" => {
                ctx.write(vec![b'x'; MUCH]);
                ctx.stop();
            }
            b"half" => ctx.half_close(),
            b"who" => {
                let connection = ctx.connection();
                let name = connection.tls().and_then(TlsInfo::server_name).unwrap_or("nobody");
                ctx.write(format!("{name}\n"));
            }
            _ => {}
        }
    }

    fn closed(&mut self, report: &CloseReport) {
        let _ = self.report.take().map(|closed| closed.send(report.clone()));
    }
}

/// More than the kernel's buffers of a connection.
const MUCH: usize = 12 * 1024 * 1024;

#[derive(Message)]
#[rtype(result = "()")]
struct Say(Vec<u8>);

impl Handler<Say> for Echo {
    type Result = ();
    fn handle(&mut self, Say(bytes): Say, ctx: &mut Self::Context) {
        ctx.write(&bytes);
    }
}

fn tls(files: &Files) -> Tls {
    Tls::builder(files.certificate.clone(), files.key.clone()).build().unwrap()
}

async fn serve(listener: Listener) -> Server {
    Server::of(LineServer::new(|_| Echo::default()).workers(1).listen(listener).unwrap()).await
}

/// The same on the arbiter, and the clock, of the test.
async fn serve_here(listener: Listener) -> Server {
    Server::of(LineServer::new(|_| Echo::default()).on_current_arbiter().listen(listener).unwrap()).await
}

async fn serve_tls(tls: &Tls) -> Server {
    serve(Listener::tcp("127.0.0.1:0").tls(tls)).await
}

/// A server that says of each connection what was found out when its actor was made.
async fn serve_and_tell(tls: &Tls) -> (Server, mpsc::UnboundedReceiver<TlsInfo>) {
    let (sender, infos) = mpsc::unbounded_channel();
    let make = move |connection: &Connection| {
        sender.send(connection.tls().expect("the handshake is over").clone()).unwrap();
        Echo::default()
    };
    let listener = Listener::tcp("127.0.0.1:0").tls(tls);
    (Server::of(LineServer::new(make).workers(1).listen(listener).unwrap()).await, infos)
}

const VERSIONS: [(&rustls::SupportedProtocolVersion, TlsVersion); 2] =
    [(&rustls::version::TLS12, TlsVersion::Tls12), (&rustls::version::TLS13, TlsVersion::Tls13)];

async fn send(peer: &mut TlsStream<TcpStream>, bytes: &[u8]) {
    within("the server to read", peer.write_all(bytes)).await.unwrap();
    within("the server to read", peer.flush()).await.unwrap();
}

async fn expect(peer: &mut TlsStream<TcpStream>, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    within("an answer", peer.read_exact(&mut got)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
}

/// All that comes, as far as the server's close_notify: without it, or after a reset, this panics.
async fn rest(peer: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let mut rest = Vec::new();
    within("the end", peer.read_to_end(&mut rest)).await.expect("a close_notify");
    rest
}

// D1 to D4.

#[actix::test]
async fn answers_are_exact_and_end_as_the_peers_bytes_do() {
    let authority = Authority::new();
    let files = authority.issue("server", &["localhost"]);
    let mut text = Vec::new();
    for length in 0..900_usize {
        text.extend((0..length).map(|at| (at * 31 + length) as u8).filter(|byte| *byte != b'\n'));
        text.extend_from_slice(if length % 3 == 0 { b"\r\n" } else { b"\n" });
    }
    text.extend_from_slice(b"wait\nand a tail\0");
    for (version, _) in VERSIONS {
        let gate = Gate::default();
        let opened = gate.clone();
        let server = LineServer::new(move |_| Echo { gate: gate.clone(), ..Echo::default() }).workers(1);
        let mut server = Server::of(server.listen(Listener::tcp("127.0.0.1:0").tls(tls(&files))).unwrap()).await;
        let mut client = authority.client();
        client.versions = vec![version];
        let peer = client.connect(server.address(), "localhost").await;
        let (mut reader, mut writer) = tokio::io::split(peer);
        let mut answer = Vec::new();
        within("the answer", async {
            let send = async {
                for (chunk, size) in text.chunks(3000).zip((1..).cycle()) {
                    writer.write_all(&chunk[..size.min(chunk.len())]).await.unwrap();
                    writer.write_all(&chunk[size.min(chunk.len())..]).await.unwrap();
                }
                // A close_notify and a FIN; the other direction stays open.
                writer.shutdown().await.unwrap();
                opened.open();
            };
            tokio::join!(send, reader.read_to_end(&mut answer)).1.expect("a close_notify")
        })
        .await;
        assert!(answer == text, "{} bytes of {} came back, or others", answer.len(), text.len());
        drop((reader, writer));
        let report = server.report().await;
        let len = text.len() as u64;
        assert_eq!((report.reason, report.cut), (CloseReason::PeerEof, false), "{report}");
        assert_eq!((report.bytes_in, report.bytes_out, report.unsent_bytes), (len, len, 0), "plain bytes: {report}");
        server.end().await;
    }
}

#[actix::test]
async fn our_half_may_close_first() {
    let authority = Authority::new();
    let mut server = serve_tls(&tls(&authority.issue("server", &["localhost"]))).await;
    let mut peer = authority.client().connect(server.address(), "localhost").await;
    send(&mut peer, b"half\n").await;
    assert_eq!(rest(&mut peer).await, b"half\n");
    // In TLS 1.3 the other half goes on.
    send(&mut peer, b"one\ntwo\n").await;
    peer.shutdown().await.unwrap();
    drop(peer);
    let report = server.report().await;
    assert_eq!(
        (report.reason, report.lines_in, report.bytes_out, report.unsent_bytes),
        (CloseReason::PeerEof, 3, 5, 8)
    );
    server.end().await;
}

#[actix::test]
async fn a_close_of_ours_loses_nothing_though_bytes_are_unread() {
    let authority = Authority::new();
    for (version, _) in VERSIONS {
        let mut server = serve_tls(&tls(&authority.issue("server", &["localhost"]))).await;
        let mut client = authority.client();
        client.versions = vec![version];
        let mut peer = client.connect(server.address(), "localhost").await;
        send(&mut peer, &[b"much\n".as_slice(), &b"never read\n".repeat(2000)].concat()).await;
        let rest = rest(&mut peer).await;
        assert_eq!((&rest[..5], rest.len()), (b"much\n".as_slice(), 5 + MUCH));
        drop(peer);
        let report = server.report().await;
        assert_eq!(
            (report.reason, report.cut, report.unsent_bytes),
            (CloseReason::ClosedByHandler, false, 0),
            "{report}"
        );
        assert_eq!((report.lines_in, report.bytes_out), (1, 5 + MUCH as u64));
        server.end().await;
    }
}

// D5: a peer that does not read.

#[actix::test]
async fn a_peer_that_does_not_read_is_not_read_from_and_then_gets_everything() {
    let authority = Authority::new();
    let mut server = serve_tls(&tls(&authority.issue("server", &["localhost"]))).await;
    let mut peer = authority.client().connect(server.address(), "localhost").await;
    let line = [&[b'y'; 999][..], b"\n"].concat();
    let mut taken = 0;
    let mut last = (0, 0);
    // Sent until nothing moves, with new keys now and then.
    for round in 0.. {
        if round % 64 == 0 {
            peer.get_mut().1.refresh_traffic_keys().unwrap();
        }
        match tokio::time::timeout(Duration::from_millis(50), peer.write_all(&line)).await {
            Ok(sent) => {
                sent.unwrap();
                taken += line.len();
                assert!(taken < 200 * 1024 * 1024, "it reads on and on");
                continue;
            }
            Err(_) => {
                let session = server.sessions().await.remove(0);
                let now = (session.bytes_in, session.outbox_bytes);
                if now == last && now.1 > 0 {
                    break;
                }
                last = now;
            }
        }
    }
    let session = server.sessions().await.remove(0);
    assert!(session.outbox_bytes < 256 * 1024, "{session:?}");
    drop(peer);
    let report = server.report().await;
    assert!(report.unsent_bytes > 0 && report.bytes_in > 0, "{report}");
    server.end().await;

    // One that reads later gets all of it.
    let server = serve_tls(&tls(&authority.issue("server", &["localhost"]))).await;
    let peer = authority.client().connect(server.address(), "localhost").await;
    let (mut reader, mut writer) = tokio::io::split(peer);
    let text = line.repeat(8000);
    let mut answer = Vec::new();
    within("all of it", async {
        let send = async {
            writer.write_all(&text).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let read = async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            reader.read_to_end(&mut answer).await.unwrap();
        };
        tokio::join!(send, read)
    })
    .await;
    assert!(answer == text);
    drop(server);
}

// D6: plain bytes, and only those of whole records.

#[actix::test]
async fn bytes_are_out_when_their_record_was_taken() {
    const PIECE: u64 = 16 * 1024;
    // Header, the inner type, and the tag.
    const RECORD: u64 = PIECE + 5 + 1 + 16;
    let authority = Authority::new();
    let tls = tls(&authority.issue("server", &["localhost"]));
    for (taken, out) in
        [(0, 0), (1, 0), (RECORD - 1, 0), (RECORD, PIECE), (2 * RECORD - 1, PIECE), (2 * RECORD, 2 * PIECE)]
    {
        let (ours, peer) = memory_pair(MemoryCapacity { to_peer: 1024 * 1024, ..MemoryCapacity::default() });
        let (ours, faults) = FaultyStream::new(ours);
        let (closed, report) = oneshot::channel();
        let address = LineSession::new(Transport::new(ours).with_tls(&tls))
            .start(Echo { report: Some(closed), ..Echo::default() });
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let mut client = authority.client();
        client.versions = vec![&rustls::version::TLS13];
        let peer = within("a handshake", TlsConnector::from(client.config()).connect(name, peer)).await;
        let mut peer = peer.unwrap();
        peer.write_all(b"who\n").await.unwrap();
        let mut answer = [0; 14];
        within("an answer", peer.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"who\nlocalhost\n");
        faults.fail_after(StreamCall::Write, taken, std::io::ErrorKind::ConnectionReset);
        address.do_send(Say(vec![b'x'; 100_000]));
        let report = within("the report", report).await.unwrap();
        assert_eq!(
            (report.reason, report.bytes_out, report.unsent_bytes),
            (CloseReason::PeerReset, 14 + out, 100_000 - out),
            "{taken} taken"
        );
    }
}

#[actix::test]
async fn a_fin_without_close_notify_is_a_truncation() {
    let authority = Authority::new();
    for (version, _) in VERSIONS {
        let mut server = serve_tls(&tls(&authority.issue("server", &["localhost"]))).await;
        let mut client = authority.client();
        client.versions = vec![version];
        let mut peer = client.connect(server.address(), "localhost").await;
        send(&mut peer, b"one\nperhaps not all of tw").await;
        expect(&mut peer, b"one\n").await;
        peer.get_mut().0.shutdown().await.unwrap();
        assert_eq!(rest(&mut peer).await, b"", "our own end is said all the same");
        drop(peer);
        let report = server.report().await;
        assert_eq!((report.reason, report.lines_in, report.tail_bytes), (CloseReason::Truncated, 1, 21), "{report}");
        server.end().await;
    }
}

#[actix::test]
async fn a_drain_answers_what_is_whole_and_says_the_end() {
    let authority = Authority::new();
    let mut server = serve_tls(&tls(&authority.issue("server", &["localhost"]))).await;
    let mut peer = authority.client().connect(server.address(), "localhost").await;
    send(&mut peer, b"one\ntw").await;
    expect(&mut peer, b"one\n").await;
    let drain = server.handle.drain(PATIENCE);
    let read = async {
        let rest = rest(&mut peer).await;
        drop(peer);
        rest
    };
    let (rest, drained) = within("the drain", async { tokio::join!(read, drain) }).await;
    assert_eq!((rest, drained.unwrap().cut), (Vec::new(), 0));
    assert_eq!(server.report().await.reason, CloseReason::Drained);
}

// The handshake: who it is, and who is none.

#[actix::test]
async fn what_the_handshake_found_is_known_when_the_actor_is_made() {
    let authority = Authority::new();
    let files = authority.issue("server", &["localhost", "other.example"]);
    let tls = Tls::builder(files.certificate, files.key)
        .client_certificates(ClientAuth::Optional, authority.file())
        .alpn(["lines", "irc"])
        .build()
        .unwrap();
    let (server, mut infos) = serve_and_tell(&tls).await;
    for (version, name) in VERSIONS {
        let mut client = authority.client();
        client.versions = vec![version];
        client.alpn = vec![b"irc".to_vec()];
        client.own = Some(authority.issue("alice", &["alice.example"]));
        let mut peer = client.connect(server.address(), "Other.Example").await;
        send(&mut peer, b"who\n").await;
        expect(&mut peer, b"who\nother.example\n").await;
        let info = infos.recv().await.unwrap();
        assert_eq!((info.version(), info.server_name(), info.alpn()), (name, Some("other.example"), Some(&b"irc"[..])));
        assert!(info.cipher_suite().starts_with("TLS"), "{}", info.cipher_suite());
        assert_eq!(info.peer_certificates().len(), 1);
        let certificate = info.peer_certificate().unwrap();
        assert_eq!((certificate.subject(), certificate.common_name()), ("O=Tests,CN=alice", Some("alice")));

        // One that shows nothing.
        let _peer = authority.client().connect(server.address(), "localhost").await;
        let info = infos.recv().await.unwrap();
        assert_eq!((info.alpn(), info.peer_certificate()), (None, None));
    }
    drop(server);
}

#[actix::test]
async fn a_client_without_the_certificate_that_is_required_is_refused() {
    let authority = Authority::new();
    let files = authority.issue("server", &["localhost"]);
    let tls = Tls::builder(files.certificate, files.key)
        .client_certificates(ClientAuth::Required, authority.file())
        .build()
        .unwrap();
    let mut server = serve_tls(&tls).await;
    let others = Authority::new();
    for (own, reason) in
        [(None, "tls-no-certificate"), (Some(others.issue("mallory", &["mallory.example"])), "tls-bad-certificate")]
    {
        let mut client = authority.client();
        client.own = own;
        // In TLS 1.3 a client hears of it when it reads.
        let refused = match client.try_connect(server.address(), "localhost").await {
            Ok(mut peer) => within("the refusal", peer.read(&mut [0])).await.map(drop),
            Err(error) => Err(error),
        };
        assert!(refused.unwrap_err().to_string().contains("alert"));
        let report = server.report().await;
        assert_eq!((report.reason.name(), report.lines_in), (reason, 0));
    }
    let mut client = authority.client();
    client.own = Some(authority.issue("alice", &["alice.example"]));
    let mut peer = client.connect(server.address(), "localhost").await;
    send(&mut peer, b"one\n").await;
    expect(&mut peer, b"one\n").await;
    drop(peer);
    server.report().await;
    server.end().await;
}

#[actix::test]
async fn a_client_that_offers_other_protocols_is_told_so() {
    let authority = Authority::new();
    let files = authority.issue("server", &["localhost"]);
    let mut server = serve_tls(&Tls::builder(files.certificate, files.key).alpn(["lines"]).build().unwrap()).await;
    let mut client = authority.client();
    client.alpn = vec![b"h2".to_vec()];
    let error = client.try_connect(server.address(), "localhost").await.unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    assert_eq!(server.report().await.reason.name(), "tls-failed");
    server.end().await;
}

#[actix::test]
async fn the_certificate_is_the_one_for_the_name_that_the_client_asks_for() {
    let authority = Authority::new();
    let pair = |file: &str, name: &str| authority.issue(file, &[name]);
    let (default, one, wild) =
        (pair("default", "default.example"), pair("one", "one.example"), pair("wild", "*.wild.example"));
    let tls = Tls::builder(default.certificate, default.key)
        .server_name("One.Example", one.certificate, one.key)
        .server_name("*.wild.example", wild.certificate, wild.key)
        .build()
        .unwrap();
    let mut server = serve_tls(&tls).await;
    for name in ["default.example", "one.example", "ONE.example", "any.wild.example"] {
        let mut peer = authority.client().connect(server.address(), name).await;
        send(&mut peer, b"who\n").await;
        expect(&mut peer, format!("who\n{}\n", name.to_lowercase()).as_bytes()).await;
        drop(peer);
        server.report().await;
    }
    for name in ["two.example", "wild.example", "two.any.wild.example"] {
        let error = authority.client().try_connect(server.address(), name).await.unwrap_err();
        assert!(error.to_string().contains("not valid for name"), "{name}: {error}");
        server.report().await;
    }
    assert_eq!(
        tls.certificates().iter().map(|certificate| certificate.server_name.as_deref()).collect::<Vec<_>>(),
        [None, Some("one.example"), Some("*.wild.example")]
    );
    server.end().await;
}

#[actix::test]
async fn a_peer_that_does_not_speak_tls_gets_an_alert_and_an_end_and_no_reset() {
    let authority = Authority::new();
    let mut server = serve_tls(&tls(&authority.issue("server", &["localhost"]))).await;
    let http = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
    for bytes in [b"hi\n".as_slice(), &http, b"SSH-2.0-OpenSSH_9.2\r\n", &[0x80, 0x2E, 1, 0, 2, 0, 0x15, 0]] {
        let mut peer = server.connect().await;
        peer.send(bytes).await;
        let alert = peer.rest().await;
        assert!(alert.starts_with(&[21, 3]) && alert.len() == 7, "{alert:?}");
        drop(peer);
        let report = server.report().await;
        assert_eq!((report.reason.name(), report.bytes_in, report.bytes_out), ("tls-not-tls", 0, 0));
    }
    assert_eq!(server.handle.stats().await.unwrap().closed["tls-not-tls"], 4);
    server.end().await;
}

#[actix::test]
async fn a_handshake_that_does_not_go_on_ends_by_its_deadline() {
    pause();
    let authority = Authority::new();
    let mut server =
        serve_here(Listener::tcp("127.0.0.1:0").tls(tls(&authority.issue("server", &["localhost"])))).await;
    let mut peer = server.connect().await;
    peer.send(&[22, 3, 1, 1]).await;
    at_once("the connection", async {
        while server.handle.stats().await.unwrap().live == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    pass(Duration::from_secs(9)).await;
    assert_eq!(server.report_if_any(), None);
    pass(Duration::from_secs(2)).await;
    let report = server.report().await;
    assert_eq!((report.reason, report.bytes_in), (CloseReason::PrefaceTimeout, 0));
    server.end().await;
}

#[actix::test]
async fn a_probe_that_says_nothing_is_no_failure() {
    let authority = Authority::new();
    let mut server = serve_tls(&tls(&authority.issue("server", &["localhost"]))).await;
    let mut peer = server.connect().await;
    peer.shutdown_write().await;
    peer.expect_eof().await;
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::PeerEof);
    server.end().await;
}

// Tickets.

#[actix::test]
async fn a_client_that_comes_again_has_a_shorter_handshake() {
    let authority = Authority::new();
    let files = authority.issue("server", &["localhost"]);
    for (version, _) in VERSIONS {
        for tickets in [true, false] {
            let builder = Tls::builder(files.certificate.clone(), files.key.clone()).tickets(tickets);
            let tls = builder.build().unwrap();
            let (server, mut infos) = serve_and_tell(&tls).await;
            let mut client = authority.client();
            client.versions = vec![version];
            let config = client.config();
            for round in 0..3 {
                let mut peer = connect_with(&config, server.address(), "localhost").await.unwrap();
                // The ticket comes with the first answer.
                send(&mut peer, b"one\n").await;
                expect(&mut peer, b"one\n").await;
                let info = infos.recv().await.unwrap();
                assert_eq!(info.is_resumed(), tickets && round > 0, "{version:?}, round {round}");
                assert_eq!(info.server_name(), Some("localhost"));
                if round == 1 {
                    // A reload does not cost them.
                    tls.reload().unwrap();
                }
            }
        }
    }
}

// Reloading, and what is wrong with files.

#[actix::test]
async fn a_reload_is_for_those_who_come_later_and_a_bad_pair_changes_nothing() {
    let authority = Authority::new();
    let files = authority.issue("server", &["old.example"]);
    let tls = tls(&files);
    let mut server = serve_tls(&tls).await;
    let mut old = authority.client().connect(server.address(), "old.example").await;

    // A certificate without its key.
    let new = authority.issue("new", &["new.example"]);
    fs::copy(&new.certificate, &files.certificate).unwrap();
    assert!(matches!(tls.reload(), Err(TlsError::Mismatch { .. })));
    fs::write(&files.certificate, "").unwrap();
    assert!(matches!(tls.reload(), Err(TlsError::NoCertificate { .. })));
    let mut peer = authority.client().connect(server.address(), "old.example").await;
    send(&mut peer, b"one\n").await;
    expect(&mut peer, b"one\n").await;
    drop(peer);
    server.report().await;

    fs::copy(&new.certificate, &files.certificate).unwrap();
    fs::copy(&new.key, &files.key).unwrap();
    let expires = tls.expires();
    tls.reload().unwrap();
    assert_eq!(tls.expires(), expires);
    let mut peer = authority.client().connect(server.address(), "new.example").await;
    send(&mut peer, b"one\n").await;
    expect(&mut peer, b"one\n").await;
    send(&mut old, b"still here\n").await;
    expect(&mut old, b"still here\n").await;
    drop((old, peer));
    server.report().await;
    server.report().await;

    // By the settings of another.
    let third = authority.issue("third", &["third.example"]);
    tls.replace(&self::tls(&third));
    drop(authority.client().connect(server.address(), "third.example").await);
    server.report().await;
    server.end().await;
}

#[actix::test]
async fn tickets_of_clients_with_certificates_end_with_a_reload() {
    let authority = Authority::new();
    let files = authority.issue("server", &["localhost"]);
    let builder = Tls::builder(files.certificate, files.key);
    let tls = builder.client_certificates(ClientAuth::Required, authority.file()).build().unwrap();
    let (server, mut infos) = serve_and_tell(&tls).await;
    let mut client = authority.client();
    client.own = Some(authority.issue("alice", &["alice.example"]));
    let config = client.config();
    for (round, is_resumed) in [false, true, false].into_iter().enumerate() {
        let mut peer = connect_with(&config, server.address(), "localhost").await.unwrap();
        send(&mut peer, b"one\n").await;
        expect(&mut peer, b"one\n").await;
        let info = infos.recv().await.unwrap();
        assert_eq!(info.is_resumed(), is_resumed, "round {round}");
        assert_eq!(info.peer_certificate().unwrap().common_name(), Some("alice"));
        if round == 1 {
            tls.reload().unwrap();
        }
    }
    drop(server);
}

#[test]
fn an_error_names_the_file_and_what_to_do() {
    let authority = Authority::new();
    let (good, other) = (authority.issue("good", &["good.example"]), authority.issue("other", &["other.example"]));
    let build = |certificate: &std::path::Path, key: &std::path::Path| Tls::builder(certificate, key).build();
    let write = |name: &str, text: &str| {
        let path = authority.path(name);
        fs::write(&path, text).unwrap();
        path
    };
    let shown = |path: &std::path::Path| path.display().to_string();

    let missing = authority.path("missing.pem");
    let error = build(&missing, &good.key).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot read {}: no such file or directory; check the path, and that this process may read it",
            shown(&missing)
        )
    );
    assert!(matches!(build(&good.key, &good.key), Err(TlsError::NoCertificate { file }) if file == shown(&good.key)));
    assert!(matches!(build(&good.certificate, &good.certificate), Err(TlsError::NoKey { .. })));
    assert!(matches!(build(&good.certificate, &other.key), Err(TlsError::Mismatch { .. })));
    let encrypted =
        write("encrypted.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    assert!(matches!(build(&good.certificate, &encrypted), Err(TlsError::EncryptedKey { .. })));
    let damaged = write("damaged.pem", "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n");
    assert!(matches!(build(&damaged, &good.key), Err(TlsError::Malformed { .. })));
    let short = write("short.pem", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n");
    assert!(matches!(build(&short, &good.key), Err(TlsError::Malformed { .. })));
    let odd = write("odd.pem", "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n");
    assert!(matches!(build(&good.certificate, &odd), Err(TlsError::UnsupportedKey { .. })));
    let expired = authority.issue_with("expired", &["expired.example"], |params| {
        params.not_after = rcgen::date_time_ymd(2021, 5, 6);
    });
    assert_eq!(
        build(&expired.certificate, &expired.key).unwrap_err().to_string(),
        format!(
            "the certificate of \"O=Tests,CN=expired\" in {} has expired on 2021-05-06 00:00:00 UTC: renew it",
            shown(&expired.certificate)
        )
    );
    let builder = || Tls::builder(good.certificate.clone(), good.key.clone());
    let named = |name: &str| builder().server_name(name, good.certificate.clone(), good.key.clone()).build();
    assert!(named("good.example").is_ok());
    assert!(matches!(named("bad.example"), Err(TlsError::WrongName { .. })));
    assert!(matches!(named("*.good.example"), Err(TlsError::WrongName { .. })));
    assert!(matches!(named("no name"), Err(TlsError::ServerName { .. })));
    assert!(matches!(named("192.0.2.7"), Err(TlsError::ServerName { .. })));
    let twice = builder().server_name("good.example", good.certificate.clone(), good.key.clone());
    let twice = twice.server_name("GOOD.example", good.certificate.clone(), good.key.clone()).build();
    assert!(matches!(twice, Err(TlsError::DuplicateName { name }) if name == "good.example"));
    assert!(matches!(builder().versions([]).build(), Err(TlsError::NoVersion)));
    assert!(matches!(builder().alpn([""]).build(), Err(TlsError::Alpn { bytes: 0 })));
    let clients = builder().client_certificates(ClientAuth::Required, missing.clone()).build();
    assert!(matches!(clients, Err(TlsError::Read { .. })));
    // Bytes are never shown.
    let bytes = Pem::bytes(fs::read(&good.key).unwrap());
    let shown = format!("{bytes:?} {:?}", Tls::builder(good.certificate.clone(), bytes.clone()));
    assert!(!shown.contains("PRIVATE"), "{shown}");
    assert!(Tls::builder(Pem::bytes(fs::read(&good.certificate).unwrap()), bytes).build().is_ok());
}

#[test]
fn a_key_that_everybody_may_read_and_a_certificate_that_ends_soon_are_warnings() {
    let authority = Authority::new();
    let files = authority.issue("good", &["good.example"]);
    assert_eq!(tls(&files).warnings(), []);
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = tls(&files).warnings();
    assert!(matches!(&warnings[..], [TlsWarning::KeyReadable { mode: 0o644, .. }]), "{warnings:?}");
    assert!(warnings[0].to_string().contains("chmod 600"));

    let soon = SystemTime::now() + Duration::from_secs(13 * 24 * 3600);
    let files = authority.issue_with("soon", &["soon.example"], |params| params.not_after = soon.into());
    let tls = tls(&files);
    assert!(matches!(&tls.warnings()[..], [TlsWarning::ExpiresSoon { .. }]));
    let expires = tls.expires().unwrap();
    assert!(soon.duration_since(expires).unwrap() < Duration::from_secs(1), "{expires:?}");
    assert_eq!(tls.certificates()[0].info.not_after(), expires);
}

#[test]
fn a_certificate_of_the_chain_that_has_expired_is_a_warning_and_the_servers_own_decides() {
    let authority = Authority::new();
    let good = authority.issue("good", &["good.example"]);
    let old = authority.issue_with("old", &["old.example"], |params| {
        params.not_after = rcgen::date_time_ymd(2021, 5, 6);
    });
    let [good_pem, old_pem] = [&good, &old].map(|files| fs::read_to_string(&files.certificate).unwrap());
    let chain = authority.path("chain.pem");
    fs::write(&chain, format!("{good_pem}{old_pem}")).unwrap();
    let tls = Tls::builder(chain.clone(), good.key.clone()).build().unwrap();
    let warnings = tls.warnings();
    assert!(matches!(&warnings[..], [TlsWarning::Expired { .. }]), "{warnings:?}");
    assert!(warnings[0].to_string().contains("has expired on 2021-05-06 00:00:00 UTC"), "{}", warnings[0]);
    assert!(tls.expires().unwrap() > SystemTime::now());
    fs::write(&chain, format!("{old_pem}{good_pem}")).unwrap();
    assert!(matches!(Tls::builder(chain, old.key).build(), Err(TlsError::Expired { .. })));
}

#[actix::test]
async fn a_configuration_of_rustls_is_taken_as_it_is() {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let authority = Authority::new();
    let files = authority.issue("server", &["localhost"]);
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&files.certificate).unwrap()],
            PrivateKeyDer::from_pem_file(&files.key).unwrap(),
        )
        .unwrap();
    let mut broken = config.clone();
    let tls = Tls::from(Arc::new(config));
    let mut server = serve_tls(&tls).await;
    let mut peer = authority.client().connect(server.address(), "localhost").await;
    send(&mut peer, b"who\n").await;
    expect(&mut peer, b"who\nlocalhost\n").await;
    drop(peer);
    server.report().await;
    assert!(matches!(tls.reload(), Err(TlsError::NoFiles)));
    // One that cannot work ends each connection with its reason, and nothing else.
    broken.max_fragment_size = Some(1);
    tls.replace(&Arc::new(broken).into());
    Peer::expect_eof(&mut server.connect().await).await;
    assert_eq!(server.report().await.reason, CloseReason::FilterFailed);
    server.end().await;
}

#[actix::test]
async fn a_line_may_take_as_long_as_its_record() {
    pause();
    let authority = Authority::new();
    let limits = Limits::builder().line_timeout(Some(Duration::from_secs(5))).idle_timeout(None).build().unwrap();
    let listener = Listener::tcp("127.0.0.1:0").tls(tls(&authority.issue("server", &["localhost"]))).limits(limits);
    let mut server = serve_here(listener).await;
    let mut peer = at_once("a handshake", authority.client().connect(server.address(), "localhost")).await;
    at_once("an answer", async {
        send(&mut peer, b"one\n").await;
        expect(&mut peer, b"one\n").await;
        // The header of a record that does not come.
        peer.get_mut().0.write_all(&[23, 3, 3, 0x10]).await.unwrap();
    })
    .await;
    pass(Duration::from_secs(20)).await;
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::LineTimeout);
    server.end().await;
}

// Outgoing sessions.

/// Tells what the server has shown, and passes lines on.
struct Caller(mpsc::UnboundedSender<Vec<u8>>);

impl Actor for Caller {
    type Context = LineContext<Self>;
}

impl LineHandler for Caller {
    fn line(&mut self, line: Line<'_>, _: &mut Self::Context) {
        self.0.send(line.to_vec()).unwrap();
    }
}

impl Handler<Say> for Caller {
    type Result = ();
    fn handle(&mut self, Say(bytes): Say, ctx: &mut Self::Context) {
        ctx.write(&bytes);
    }
}

struct Events(mpsc::UnboundedSender<ConnectorEvent>);

impl Actor for Events {
    type Context = actix::Context<Self>;
}

impl Handler<ConnectorEvent> for Events {
    type Result = ();
    fn handle(&mut self, event: ConnectorEvent, _: &mut Self::Context) {
        let _ = self.0.send(event);
    }
}

#[actix::test]
async fn a_connector_has_its_session_when_the_handshake_is_over() {
    let authority = Authority::new();
    let files = authority.issue("server", &["localhost"]);
    let tls = Tls::builder(files.certificate, files.key)
        .client_certificates(ClientAuth::Required, authority.file())
        .alpn(["lines"])
        .build()
        .unwrap();
    let mut server = serve_tls(&tls).await;
    let own = authority.issue("alice", &["alice.example"]);
    let client = TlsClient::builder(authority.file()).certificate(own.certificate, own.key).alpn(["lines"]);
    let client = client.build().unwrap();
    let (lines, mut heard) = mpsc::unbounded_channel();
    let make = move |connection: &Connection, _| {
        let tls = connection.tls().expect("the handshake is over");
        assert_eq!((tls.alpn(), tls.version()), (Some(&b"lines"[..]), TlsVersion::Tls13));
        assert_eq!(tls.peer_certificate().unwrap().common_name(), Some("server"));
        Caller(lines.clone())
    };
    let target = format!("localhost:{}", server.address().port());
    let to = server.address();
    let connector =
        Connector::builder(target, make).resolver(move |_| async move { Ok(vec![to]) }).tls(&client).start().unwrap();
    let session = within("a session", connector.send(GetSession::when_connected())).await.unwrap().unwrap();
    session.send(Say(b"who\n".to_vec())).await.unwrap();
    assert_eq!(within("a line", heard.recv()).await.unwrap(), b"who\n");
    assert_eq!(within("a line", heard.recv()).await.unwrap(), b"localhost\n");
    let report = within("the end", connector.send(Disconnect::within(PATIENCE))).await.unwrap().unwrap();
    assert_eq!((report.reason, report.bytes_out), (CloseReason::Drained, 4), "{report}");
    let report = server.report().await;
    assert_eq!((report.reason, report.bytes_in), (CloseReason::PeerEof, 4), "{report}");
    server.end().await;
}

#[actix::test]
async fn a_server_that_is_not_trusted_is_a_failed_attempt_that_says_why() {
    let authority = Authority::new();
    let mut server = serve_tls(&tls(&authority.issue("server", &["other.example"]))).await;
    let plain = Server::start(LineServer::new(|_| Echo::default()).workers(1)).await;
    let stranger = Authority::new();
    for (port, ca, reason) in [
        (server.address().port(), authority.file(), "not valid for name"),
        (server.address().port(), stranger.file(), "invalid peer certificate"),
        (plain.address().port(), authority.file(), "no TLS"),
    ] {
        let client = TlsClient::builder(ca).build().unwrap();
        let (sender, mut events) = mpsc::unbounded_channel();
        let connector = Connector::builder(format!("127.0.0.1:{port}"), |_, _| Echo::default())
            .subscribe(Events(sender).start().recipient())
            .max_attempts(1)
            .tls(client)
            .start()
            .unwrap();
        let event = within("a failure", events.recv()).await.unwrap();
        let ConnectorEvent::Failed { error, .. } = event else { panic!("{event:?}") };
        assert!(matches!(error, ConnectError::Handshake { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
        drop(connector);
        if port == server.address().port() {
            assert_eq!(server.report().await.reason.name(), "tls-rejected");
        }
    }
    server.end().await;
    drop(plain);
    let client = TlsClient::builder(authority.file()).build().unwrap();
    let nameless = Connector::builder("the nearest one", |_, _| Echo::default())
        .resolver(|_| async { Ok(Vec::new()) })
        .tls(client)
        .start();
    assert!(matches!(nameless, Err(ConfigError::ServerName { .. })));
}

// The number of handshakes.

#[actix::test]
async fn handshakes_that_do_not_go_on_keep_nobody_out() {
    let authority = Authority::new();
    let limits = Limits::builder().max_prefaces(32).preface_timeout(PATIENCE).build().unwrap();
    let server = LineServer::new(|_| Echo::default()).workers(1).limits(limits);
    let listener = Listener::tcp("127.0.0.1:0").tls(tls(&authority.issue("server", &["localhost"])));
    let mut server = Server::of(server.listen(listener).unwrap()).await;
    let mut stalled = Vec::new();
    let mut good = 0;
    for number in 0..400_usize {
        // One says nothing, one the beginning of a hello.
        let mut peer = server.connect().await;
        if number % 2 == 0 {
            peer.send(&[22, 3, 1]).await;
        }
        stalled.push(peer);
        if number % 50 == 49 {
            let mut peer = authority.client().connect(server.address(), "localhost").await;
            send(&mut peer, b"one\n").await;
            expect(&mut peer, b"one\n").await;
            good += 1;
            drop(peer);
        }
    }
    let stats = within("the counters", server.handle.stats()).await.unwrap();
    assert!((16..=32).contains(&stats.prefaces) && stats.live <= 34, "{stats:?}");
    let mut evicted = 0;
    for _ in 0..400 - stats.prefaces as usize + good {
        match server.report().await.reason {
            CloseReason::PrefaceEvicted => evicted += 1,
            reason => assert_eq!(reason, CloseReason::Truncated),
        }
    }
    assert_eq!(evicted, 400 - stats.prefaces as usize);
    // A preface that is over leaves room.
    drop(stalled);
    eventually("all to end", async || server.handle.stats().await.unwrap().prefaces == 0).await;
    server.handle.abort().await.unwrap();
}

#[actix::test]
async fn a_source_that_begins_many_handshakes_pays_for_them_alone() {
    let authority = Authority::new();
    let limits = Limits::builder().max_prefaces(16).preface_timeout(PATIENCE).build().unwrap();
    let server = LineServer::new(|_| Echo::default()).workers(1).limits(limits);
    let listener = Listener::tcp("0.0.0.0:0").tls(tls(&authority.issue("server", &["localhost"])));
    let mut server = Server::of(server.listen(listener).unwrap()).await;
    let port = server.address().port();
    // Slow, but of another source, and there before all others.
    let mut slow = Peer::connect(([127, 0, 0, 2], port).into()).await;
    slow.send(&[22]).await;
    let mut many = Vec::new();
    let source = std::net::SocketAddr::from(([127, 0, 0, 9], 0));
    for _ in 0..100 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(source).unwrap();
        many.push(within("a connection", socket.connect(([127, 0, 0, 1], port).into())).await.unwrap());
    }
    for _ in 0..80 {
        let report = server.report().await;
        assert_eq!(report.reason, CloseReason::PrefaceEvicted);
        assert_eq!(report.peer.ip(), Some(source.ip()));
    }
    slow.send(&[3, 1, 0, 0]).await;
    assert!(slow.rest().await.starts_with(&[21, 3]), "an alert: it was heard");
    server.handle.abort().await.unwrap();
}

// C6.

#[actix::test]
async fn firehoses_of_whole_records_leave_a_typist_of_the_same_worker_his_turn() {
    let authority = Authority::new();
    let files = authority.issue("server", &["localhost"]);
    let server = serve_tls(&tls(&files)).await;
    let client = authority.client();
    let mut firehoses = Vec::new();
    for _ in 0..4 {
        let (mut read, mut write) = tokio::io::split(client.connect(server.address(), "localhost").await);
        firehoses.push(actix_rt::spawn(async move {
            let block = [[b'a'; 63].as_slice(), b"\n"].concat().repeat(1000);
            while write.write_all(&block).await.is_ok() {}
        }));
        firehoses.push(actix_rt::spawn(async move {
            let mut block = vec![0; 64_000];
            while read.read(&mut block).await.is_ok_and(|count| count > 0) {}
        }));
    }
    eventually("each firehose to have answers", async || {
        let sessions = server.sessions().await;
        sessions.len() == 4 && sessions.iter().all(|firehose| firehose.bytes_out > 1_000_000)
    })
    .await;
    let mut typist = client.connect(server.address(), "localhost").await;
    for _ in 0..100 {
        send(&mut typist, b"hello\n").await;
        expect(&mut typist, b"hello\n").await;
    }
    within("the abort", server.handle.abort()).await.unwrap();
    for firehose in firehoses {
        within("a firehose to end", firehose).await.unwrap();
    }
}
