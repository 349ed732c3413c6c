//! Whoever means ill in a handshake, and files that are not what they should be, cost what they may and let nobody in.
//!
//! The peers are bare sockets and tokio-rustls; what good peers get is in `tls`.

#[path = "support/tls.rs"]
mod authority;
mod support;

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use actix::Actor;
use actix_lines::{
    CloseReason, Connection, LineServer, Listener, Rot13,
    connect::{ConnectError, Connector, ConnectorEvent},
    limits::Limits,
    tls::{ClientAuth, Tls, TlsClient, TlsError, TlsInfo, rustls},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::client::TlsStream;

use crate::{
    authority::{Authority, Files, connect_with, write_key},
    support::{PATIENCE, Server, eventually, within},
};

const VERSIONS: [&rustls::SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

fn tls(files: &Files) -> Tls {
    Tls::builder(files.certificate.clone(), files.key.clone()).build().unwrap()
}

/// Sends a line, and returns true if it is answered.
async fn is_served(peer: &mut TlsStream<TcpStream>) -> bool {
    within("an answer or an end", async {
        let mut answer = [0; 4];
        peer.write_all(b"one\n").await.is_ok() && peer.read_exact(&mut answer).await.is_ok() && answer == *b"bar\n"
    })
    .await
}

// Tickets.

#[actix::test]
async fn a_certificate_that_has_expired_does_not_come_in_by_a_ticket() {
    let authority = Authority::new();
    let files = authority.issue("server", &["localhost"]);
    for version in VERSIONS {
        let builder = Tls::builder(files.certificate.clone(), files.key.clone());
        let tls = builder.client_certificates(ClientAuth::Required, authority.file()).build().unwrap();
        let (sender, mut infos) = mpsc::unbounded_channel();
        let make = move |connection: &Connection| {
            sender.send(connection.tls().map(TlsInfo::is_resumed)).unwrap();
            Rot13
        };
        let server = LineServer::new(make).workers(1).listen(Listener::tcp("127.0.0.1:0").tls(&tls)).unwrap();
        let mut server = Server::of(server).await;
        let expires = SystemTime::now() + Duration::from_secs(10);
        let mut client = authority.client();
        client.versions = vec![version];
        client.own =
            Some(authority.issue_with("alice", &["alice.example"], |params| params.not_after = expires.into()));
        let config = client.config();
        for is_resumed in [false, true] {
            let mut peer = connect_with(&config, server.address(), "localhost").await.unwrap();
            assert!(is_served(&mut peer).await);
            assert_eq!(infos.recv().await.unwrap(), Some(is_resumed));
            drop(peer);
            server.report().await;
        }
        eventually("the certificate to expire", async || SystemTime::now() > expires).await;
        if let Ok(mut peer) = connect_with(&config, server.address(), "localhost").await {
            assert!(!is_served(&mut peer).await);
        }
        let report = server.report().await;
        assert_eq!((report.reason.name(), report.lines_in), ("tls-bad-certificate", 0), "{report}");
        assert!(infos.try_recv().is_err(), "no session is made");
        server.end().await;
    }
}

// The costs of handshakes that do not go on.

#[actix::test]
async fn the_bytes_of_unfinished_handshakes_are_in_the_memory_budget() {
    let authority = Authority::new();
    let limits = Limits::builder().memory_budget(Some(1024 * 1024)).preface_timeout(PATIENCE).build().unwrap();
    let server = LineServer::new(|_| Rot13).workers(1).limits(limits);
    let listener = Listener::tcp("127.0.0.1:0").tls(tls(&authority.issue("server", &["localhost"])));
    let mut server = Server::of(server.listen(listener).unwrap()).await;
    // A hello of nearly 64 KiB, of which the end does not come.
    let mut hello = [&[1, 0, 0xFF, 0][..], &[0; 48 * 1024]].concat();
    hello = hello.chunks(16 * 1024).fold(Vec::new(), |mut wire, part| {
        wire.extend_from_slice(&[22, 3, 1, (part.len() >> 8) as u8, part.len() as u8]);
        wire.extend_from_slice(part);
        wire
    });
    let mut peers = Vec::new();
    for _ in 0..60 {
        let mut peer = server.connect().await;
        peer.send(&hello).await;
        peers.push(peer);
    }
    for _ in 0..30 {
        assert_eq!(server.report().await.reason, CloseReason::Evicted);
    }
    let mut peer = authority.client().connect(server.address(), "localhost").await;
    assert!(is_served(&mut peer).await);
    drop((peer, peers));
    server.handle.abort().await.unwrap();
}

#[actix::test]
async fn a_flood_of_handshakes_keeps_nobody_out_of_any_worker() {
    let authority = Authority::new();
    let limits = Limits::builder().max_prefaces(64).build().unwrap();
    let server = LineServer::new(|_| Rot13).workers(2).limits(limits);
    let listener = Listener::tcp("127.0.0.1:0").tls(tls(&authority.issue("server", &["localhost"])));
    let server = Server::of(server.listen(listener).unwrap()).await;
    let mut stalled = Vec::new();
    for number in 0..2000_usize {
        let mut peer = server.connect().await;
        match number % 3 {
            0 => peer.send(&[22, 3, 1]).await,
            // What is no hello, and is sent an alert that it does not read.
            1 => peer.send(b"GET / HTTP/1.1\r\n\r\n").await,
            _ => {}
        }
        stalled.push(peer);
        if number % 100 == 99 {
            let mut peer = authority.client().connect(server.address(), "localhost").await;
            assert!(is_served(&mut peer).await, "after {number}");
        }
    }
    eventually("no more than twice the bound to be left", async || {
        let stats = server.handle.stats().await.unwrap();
        stats.prefaces <= 128 && stats.live <= 128
    })
    .await;
    server.handle.abort().await.unwrap();
}

#[actix::test]
async fn a_drain_and_an_abort_end_handshakes_with_one_report_each() {
    let authority = Authority::new();
    let tls = tls(&authority.issue("server", &["localhost"]));
    for aborts in [false, true] {
        let server = LineServer::new(|_| Rot13).workers(1).listen(Listener::tcp("127.0.0.1:0").tls(&tls)).unwrap();
        let mut server = Server::of(server).await;
        let mut peers = Vec::new();
        for _ in 0..8 {
            let mut peer = server.connect().await;
            peer.send(&[22, 3, 1, 1]).await;
            peers.push(peer);
        }
        eventually("all to wait", async || server.handle.stats().await.unwrap().prefaces == 8).await;
        let ended = async {
            match aborts {
                false => drop(server.handle.drain(PATIENCE).await.unwrap()),
                true => drop(server.handle.abort().await),
            }
        };
        within("the end", ended).await;
        for _ in 0..8 {
            let reason = server.report().await.reason;
            assert!(matches!(reason, CloseReason::Drained | CloseReason::Aborted), "{reason:?}");
        }
        assert_eq!(server.report_if_any(), None);
    }
}

// Servers.

struct Events(mpsc::UnboundedSender<ConnectorEvent>);

impl Actor for Events {
    type Context = actix::Context<Self>;
}

impl actix::Handler<ConnectorEvent> for Events {
    type Result = ();
    fn handle(&mut self, event: ConnectorEvent, _: &mut Self::Context) {
        let _ = self.0.send(event);
    }
}

/// The error of an attempt to connect that may take so long.
async fn attempt(authority: &Authority, port: u16, timeout: Duration) -> ConnectError {
    let (sender, mut events) = mpsc::unbounded_channel();
    let connector = Connector::builder(format!("127.0.0.1:{port}"), |_, _| -> Rot13 { panic!("no session is made") })
        .subscribe(Events(sender).start().recipient())
        .max_attempts(1)
        .connect_timeout(timeout)
        .tls(TlsClient::builder(authority.file()).build().unwrap())
        .start()
        .unwrap();
    let event = within("a failure", events.recv()).await.unwrap();
    let ConnectorEvent::Failed { error, .. } = event else { panic!("{event:?}") };
    drop(connector);
    error
}

#[actix::test]
async fn a_server_that_leaves_or_is_silent_in_the_handshake_is_a_failed_attempt_that_says_so() {
    let authority = Authority::new();
    for (first, stays, reason) in [
        (&b""[..], false, "closed"),
        (&[22, 3, 3, 0, 100, 2], false, "closed"),
        (&[21, 3, 3, 0, 2, 2, 40], false, "the alert \"handshake failure\""),
        (&[], true, "no answer within"),
        (&[22, 3, 3], true, "no answer within"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = async {
            let (mut stream, _) = within("a connection", listener.accept()).await.unwrap();
            stream.write_all(first).await.unwrap();
            assert!(within("a hello", stream.read(&mut [0; 8192])).await.unwrap() > 0);
            stays.then_some(stream)
        };
        let timeout = if stays { Duration::from_secs(1) } else { PATIENCE };
        let (_stream, error) = tokio::join!(serve, attempt(&authority, port, timeout));
        assert!(matches!(error, ConnectError::Handshake { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

// Files.

/// Builds on a thread of its own, so that a wait without end is a failure.
fn build(certificate: &Path, key: &Path) -> Result<Tls, TlsError> {
    let builder = Tls::builder(certificate, key);
    let (sender, result) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(builder.build()));
    result.recv_timeout(PATIENCE).expect("it is read, or it is not, but it does not wait")
}

#[test]
fn a_file_that_waits_or_has_no_end_is_not_read() {
    let authority = Authority::new();
    let good = authority.issue("good", &["good.example"]);
    let pipe = authority.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let large = authority.path("large.pem");
    fs::File::create(&large).unwrap().set_len(100 * 1024 * 1024).unwrap();
    let folder = authority.path("folder");
    fs::create_dir(&folder).unwrap();
    for (path, reason) in [
        (&*pipe, "no regular file"),
        (&large, "larger than 16 MiB"),
        (&folder, "is a directory"),
        (Path::new("/dev/zero"), "no regular file"),
    ] {
        for error in [build(path, &good.key).unwrap_err(), build(&good.certificate, path).unwrap_err()] {
            assert!(matches!(error, TlsError::Read { .. }), "{error}");
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}

#[test]
fn a_pem_file_is_read_whatever_stands_around_its_sections() {
    let authority = Authority::new();
    let good = authority.issue("good", &["good.example"]);
    let (certificate, key) = (fs::read_to_string(&good.certificate).unwrap(), fs::read_to_string(&good.key).unwrap());
    let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let file = authority.path("all.pem");
    for text in [
        format!("{key}{certificate}"),
        format!("{certificate}{parameters}{key}"),
        format!("\u{FEFF}{certificate}\n\n{key}").replace('\n', "\r\n"),
        format!("subject=CN = good\nBag Attributes: <none>\n{certificate}\n  text\n{key}\nand a tail"),
        format!("{certificate}{key}").trim_end().to_owned(),
    ] {
        write_key(&file, &text);
        if let Err(error) = build(&file, &file) {
            panic!("{error}:\n{text}");
        }
    }
}

#[test]
fn a_key_under_a_passphrase_is_named_so_in_the_old_form_too() {
    let authority = Authority::new();
    let good = authority.issue("good", &["good.example"]);
    let old = authority.path("old.pem");
    let text = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: \
                AES-128-CBC,00112233445566778899AABBCCDDEEFF\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    write_key(&old, text);
    let error = build(&good.certificate, &old).unwrap_err();
    assert!(matches!(error, TlsError::EncryptedKey { .. }), "{error}");
}
