//! Peers of scripts speak TLS: the same lines, a certificate that is looked at, and an end that is told from a truncation.
//!
//! Against rustls here, and in an ignored test against OpenSSL. Not here: TLS of sessions (`transports`).

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use actix_lines::script::{Script, ScriptOptions, Target, TlsOptions, TlsOptionsError};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
        server::WebPkiClientVerifier,
    },
};

/// A certificate in files of its own: it, and its key.
struct Certificate {
    key: CertifiedKey<rcgen::KeyPair>,
    file: PathBuf,
    key_file: PathBuf,
}

/// In base64, between the lines that PEM has.
fn pem(kind: &str, der: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in der.chunks(3) {
        let bits = three.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - three.len()));
        for letter in 0..4 {
            let shown = letter <= three.len();
            text.push(if shown { char::from(LETTERS[bits >> (18 - 6 * letter) & 63]) } else { '=' });
        }
    }
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
}

impl Certificate {
    fn new(name: &str) -> Self {
        let key = generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("a key");
        let path = |end: &str| Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.{end}"));
        let (file, key_file) = (path("pem"), path("key"));
        fs::write(&file, pem("CERTIFICATE", key.cert.der())).expect("it can be written");
        fs::write(&key_file, pem("PRIVATE KEY", &key.signing_key.serialize_der())).expect("it can be written");
        Self { key, file, key_file }
    }
}

/// A server that answers each line by itself, and ends as it is told. It asks for a certificate of `client`.
fn server(certificate: &Certificate, client: Option<&Certificate>) -> SocketAddr {
    let provider = Arc::new(ring::default_provider());
    let config =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let config = match client {
        Some(client) => {
            let mut roots = RootCertStore::empty();
            roots.add(client.key.cert.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            config.with_client_cert_verifier(verifier)
        }
        None => config.with_no_client_auth(),
    };
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(certificate.key.signing_key.serialize_der()));
    let config = config.with_single_cert(vec![certificate.key.cert.der().clone()], key).unwrap();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = TlsAcceptor::from(Arc::new(config.clone()));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let mut stream = BufReader::new(stream);
                    let mut line = Vec::new();
                    while stream.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
                        if line == b"truncate\n" {
                            // The FIN of TCP without an end of TLS.
                            let (tcp, _) = stream.get_mut().get_mut();
                            tcp.shutdown().await.unwrap();
                            let _ = stream.read_until(b'\n', &mut line).await;
                            return;
                        }
                        stream.write_all(&line).await.unwrap();
                        stream.flush().await.unwrap();
                        if line == b"bye\n" {
                            break;
                        }
                        line.clear();
                    }
                    let _ = stream.shutdown().await;
                });
            }
        });
    });
    told.recv().expect("it listens")
}

fn run(text: &str, target: &Target, tls: TlsOptions) -> Result<Vec<u8>, String> {
    let script = Script::parse("test.session", text).unwrap_or_else(|error| panic!("\n{error}"));
    let run = script
        .run(target, &ScriptOptions::default().timeout(Duration::from_secs(60)).tls(tls))
        .map_err(|failure| failure.to_string())?;
    assert_eq!(run.skipped, None);
    Ok(run.transcripts.into_iter().next().map(|transcript| transcript.received).unwrap_or_default())
}

const TALK: &str = "needs tls\n> hello\n< hello\n: split 1\n> in pieces\n< in pieces\n> \"x\\n\" * 1000\nrepeat 1000\n  < x\n: fin\n: eof\n";

#[test]
fn a_script_says_the_same_over_tls() {
    let certificate = Certificate::new("same");
    let address = server(&certificate, None);
    let trusts = || TlsOptions::default().ca_file(&certificate.file).unwrap();
    let received = run(TALK, &Target::tls(format!("localhost:{}", address.port())), trusts()).unwrap();
    assert_eq!(received.len(), 2016);
    // An address of a script, as a name and as a number.
    for host in ["localhost", "127.0.0.1"] {
        let text = format!(": connect tls:{host}:{}\n> hello\n< hello\n", address.port());
        assert_eq!(run(&text, &Target::none(), trusts()), Ok(b"hello\n".to_vec()));
    }
}

#[test]
fn a_service_that_is_not_trusted_is_not_talked_to() {
    let (certificate, other) = (Certificate::new("trusted"), Certificate::new("other"));
    let target = Target::tls(server(&certificate, None).to_string());
    for tls in [TlsOptions::default(), TlsOptions::default().ca_file(&other.file).unwrap()] {
        let failure = run(": connect\n", &target, tls).expect_err("it is not trusted");
        assert!(failure.contains("could not connect: invalid peer certificate"), "{failure}");
        assert!(failure.contains("--tls-ca FILE"), "{failure}");
    }
    let wrong = TlsOptions::default().ca_file(&certificate.file).unwrap().server_name("example.org").unwrap();
    let failure = run(": connect\n", &target, wrong).expect_err("another name");
    assert!(failure.contains("not valid for name"), "{failure}");
    let named = TlsOptions::default().ca_file(&certificate.file).unwrap().server_name("localhost").unwrap();
    run("> hello\n< hello\n", &target, named).unwrap();
    run("> hello\n< hello\n", &target, TlsOptions::default().insecure()).unwrap();
}

#[test]
fn a_truncation_is_told_from_an_end() {
    let certificate = Certificate::new("truncation");
    let target = Target::tls(server(&certificate, None).to_string());
    let run = |text: &str| run(text, &target, TlsOptions::default().insecure());
    run("> bye\n< bye\n: eof\n").unwrap();
    run("> truncate\n: truncated\n").unwrap();
    run("> truncate\none-of\n  : eof\n  : truncated\n").unwrap();
    let failure = run("> truncate\n: eof\n").expect_err("a truncation");
    assert!(failure.contains("the peer expected EOF and was cut short: TCP ended, and TLS had not"), "{failure}");
    assert!(failure.contains("say `: truncated`"), "{failure}");
    let failure = run("> truncate\n").expect_err("a truncation");
    assert!(failure.contains("the script ends, and the peer was cut short"), "{failure}");
    let failure = run("> bye\n< bye\n: truncated\n").expect_err("an end");
    assert!(failure.contains("the peer expected a truncation and got EOF"), "{failure}");
}

#[test]
fn a_peer_shows_its_certificate_to_who_asks() {
    let (certificate, client) = (Certificate::new("asks"), Certificate::new("client"));
    let target = Target::tls(server(&certificate, Some(&client)).to_string());
    let trusts = || TlsOptions::default().ca_file(&certificate.file).unwrap();
    run("> hello\n< hello\n", &target, trusts().certificate(&client.file, &client.key_file).unwrap()).unwrap();
    let failure = run("> hello\n< hello\n", &target, trusts()).expect_err("it has none");
    assert!(failure.contains("ertificate"), "{failure}");
}

#[test]
fn a_refusal_over_tls_is_one_before_the_handshake() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    run(": refused\n", &Target::tls(address.to_string()), TlsOptions::default().insecure()).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::tls(listener.local_addr().unwrap().to_string());
    thread::spawn(move || listener.incoming().for_each(drop));
    run(": refused\n", &target, TlsOptions::default().insecure()).unwrap();
    let certificate = Certificate::new("refusal");
    let target = Target::tls(server(&certificate, None).to_string());
    let failure = run(": refused\n", &target, TlsOptions::default()).expect_err("that is no refusal");
    assert!(failure.contains("could not even try: invalid peer certificate"), "{failure}");
}

#[test]
fn files_that_are_of_no_use_are_errors() {
    let certificate = Certificate::new("files");
    let tls = TlsOptions::default;
    let none = Path::new("not/there.pem");
    assert!(matches!(tls().ca_file(none), Err(TlsOptionsError::File { file, .. }) if file == none));
    assert!(matches!(tls().ca_file(&certificate.key_file), Err(TlsOptionsError::File { .. })));
    assert!(matches!(tls().certificate(&certificate.file, &certificate.file), Err(TlsOptionsError::File { .. })));
    assert!(matches!(tls().server_name("no name"), Err(TlsOptionsError::Name(name)) if name == "no name"));
    let text = format!("{:?}", tls().certificate(&certificate.file, &certificate.key_file).unwrap());
    assert!(text.starts_with("TlsOptions {"), "{text}");
}

/// Another implementation: `openssl s_server -rev` answers each line with its letters in reverse.
#[test]
#[ignore = "needs openssl: run tests/run"]
fn openssl_is_talked_to_as_well() {
    let certificate = Certificate::new("openssl");
    let files = format!("-cert '{}' -key '{}'", certificate.file.display(), certificate.key_file.display());
    for version in ["-tls1_2", "-tls1_3"] {
        let text = format!(
            "server openssl s_server -rev {version} -accept 127.0.0.1:$port {files}\n: connect tls:localhost:$port\n> hello\n< olleh\n: close\n"
        );
        let tls = TlsOptions::default().ca_file(&certificate.file).unwrap();
        assert_eq!(run(&text, &Target::none(), tls), Ok(b"olleh\n".to_vec()), "{version}");
    }
}
