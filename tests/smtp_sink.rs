//! The example `smtp_sink`: a message is stored as it was sent or not at all, in clear and behind STARTTLS, by clients that
//! nobody here wrote.
//!
//! Not here: what it answers, cut at every place (`example_sessions`).

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::Command,
    sync::Arc,
};

use actix_lines::script::{Script, ScriptOptions, Target};
use rustix::process::Signal;
use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};
use support::{PATIENCE, Server, eventually, example, finish};
use tls::Authority;

/// What precedes each message of these tests.
const HEAD: &[u8] = b"Return-Path: <ann@example.org>\r\nX-Original-To: <bob@example.org>\r\n";

const ENVELOPE: &str = "MAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.org>\r\n";
const ENVELOPE_REPLIES: &str = "250 2.1.0 OK\r\n250 2.1.5 OK\r\n";
const GO_ON: &str = "354 Go on, end with a line that is a dot\r\n";

/// The example, with a certificate for localhost and a folder for its messages.
struct Sink {
    server: Server,
    authority: Authority,
}

impl Sink {
    fn start() -> Self {
        Self::with_max_size("9MB")
    }

    fn with_max_size(max_size: &str) -> Self {
        let authority = Authority::new();
        authority.issue("server", &["localhost"]);
        let mut command = example("smtp_sink");
        command.args(["--listen", "127.0.0.1:0", "--max-size", max_size]);
        command.arg("--certificate").arg(authority.path("server.pem"));
        command.arg("--key").arg(authority.path("server-key.pem"));
        command.arg("--dir").arg(authority.path("box"));
        Self { server: Server::spawn(command), authority }
    }

    fn connect(&self) -> Client<TcpStream> {
        let mut client = Client(BufReader::new(self.server.connect()));
        client.expect("220 localhost ESMTP smtp_sink\r\n");
        client.greet();
        client
    }

    fn folder(&self) -> PathBuf {
        self.authority.path("box")
    }

    /// All that is in its folder, by its names' order.
    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(self.folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// Checks that this and nothing else was stored.
    #[track_caller]
    fn assert_stored(&self, messages: &[&[u8]]) {
        let stored: Vec<_> = self.files().iter().map(|file| fs::read(file).unwrap()).collect();
        assert_eq!(stored.len(), messages.len(), "{:?}", self.files());
        for (stored, message) in stored.iter().zip(messages) {
            let body = stored.strip_prefix(HEAD).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(stored)));
            support::assert_same("the file", body, message);
        }
    }

    /// Runs a program of Python, which knows the port and the authority.
    #[track_caller]
    fn python(&self, program: &str) {
        let mut command = Command::new("python3");
        command.args(["-", &self.server.address.port().to_string()]).arg(self.authority.path("ca.pem"));
        let output = finish(command, format!("{PRELUDE}{program}").as_bytes());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

struct Client<S>(BufReader<S>);

impl<S: Read + Write> Client<S> {
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    #[track_caller]
    fn expect(&mut self, expected: &str) {
        let mut got = String::new();
        while got.len() < expected.len() {
            let line = self.line();
            assert!(!line.is_empty(), "the end behind {got:?}");
            got += &line;
        }
        assert_eq!(got, expected);
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line");
        line
    }

    /// Greets; returns what is offered.
    fn greet(&mut self) -> Vec<String> {
        self.send("EHLO client.example\r\n");
        let mut offers = Vec::new();
        while !offers.last().is_some_and(|line: &String| line.starts_with("250 ")) {
            offers.push(self.line().trim_end().to_owned());
        }
        offers
    }

    /// Sends a text with its envelope; returns the reply to it.
    fn mail(&mut self, text: &[u8]) -> String {
        self.send(format!("{ENVELOPE}DATA\r\n"));
        self.expect(ENVELOPE_REPLIES);
        self.expect(GO_ON);
        self.send([text, b".\r\n"].concat());
        self.line()
    }
}

#[test]
fn a_message_is_stored_as_it_was_sent() {
    let sink = Sink::start();
    // Every byte, and line ends that are none.
    let mut text: Vec<u8> = (0..=255).collect();
    text.extend_from_slice(b"\n.\n\r.\r\r\n\r\n");
    let long = b"As much as is more than a chunk, and does not end with one.\r\n".repeat(40_000);
    let mut client = sink.connect();
    for text in [&text, &long, &b"\r\n".to_vec()] {
        let reply = client.mail(text);
        let file = sink.files().pop().unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        assert_eq!(reply, format!("250 2.0.0 {name}, {} bytes\r\n", text.len()));
    }
    // As a group, added dots and all.
    client.send(format!("{ENVELOPE}DATA\r\n..\r\n..a\r\n...\r\na.\r\n.\r\nQUIT\r\n"));
    client.expect(ENVELOPE_REPLIES);
    client.expect(GO_ON);
    assert!(client.line().ends_with(".eml, 15 bytes\r\n"));
    client.expect("221 2.0.0 Bye\r\n");
    assert_eq!(client.line(), "");
    sink.assert_stored(&[&text, &long, b"\r\n", b".\r\n.a\r\n..\r\na.\r\n"]);
}

#[test]
fn a_message_that_does_not_come_whole_leaves_nothing() {
    let mut sink = Sink::start();
    let half = b"Half of a message.\r\n".repeat(10_000);
    for end in ["half-close", "close", "drain"] {
        let mut client = sink.connect();
        client.send(format!("{ENVELOPE}DATA\r\n"));
        client.expect(ENVELOPE_REPLIES);
        client.expect(GO_ON);
        client.send(&half);
        // Without its CR LF this ends nothing.
        client.send(b".");
        eventually("a file that is hidden", || {
            sink.files().iter().any(|file| file.file_name().unwrap().to_str().unwrap().starts_with('.')).then_some(())
        });
        match end {
            "half-close" => client.0.get_ref().shutdown(std::net::Shutdown::Write).unwrap(),
            "close" => drop(client),
            _ => {
                sink.server.signal(Signal::TERM);
                client.expect("421 4.3.2 Shutting down\r\n");
                assert_eq!(client.line(), "");
            }
        }
        eventually("the file to be removed", || sink.files().is_empty().then_some(()));
    }
    let (code, log) = sink.server.wait();
    assert_eq!((code, log.last().map(String::as_str)), (Some(0), Some("0 messages")));
}

#[test]
fn a_message_that_cannot_be_stored_is_not_taken() {
    let sink = Sink::start();
    let long = b"As much as is more than a chunk.\r\n".repeat(10_000);
    let mut client = sink.connect();
    fs::remove_dir(sink.folder()).unwrap();
    for text in [&b"Short.\r\n"[..], &long] {
        assert_eq!(client.mail(text), "451 4.3.0 Cannot store it, try again later\r\n");
        sink.server.log_line("a message is not stored: ");
    }
    fs::create_dir(sink.folder()).unwrap();
    assert!(client.mail(b"Again.\r\n").starts_with("250 "));
    sink.assert_stored(&[b"Again.\r\n"]);
}

#[test]
fn what_was_said_in_clear_is_forgotten_behind_starttls() {
    let sink = Sink::start();
    let mut client = sink.connect();
    assert!(client.greet().contains(&"250-STARTTLS".to_owned()));
    client.send(format!("{ENVELOPE}STARTTLS\r\n"));
    client.expect(ENVELOPE_REPLIES);
    client.expect("220 2.0.0 Go ahead\r\n");
    let name = ServerName::try_from("localhost").unwrap();
    let tls = ClientConnection::new(Arc::new(sink.authority.client()), name).unwrap();
    let mut client = Client(BufReader::new(StreamOwned::new(tls, client.0.into_inner())));
    client.send("DATA\r\n");
    client.expect("503 5.5.1 EHLO first\r\n");
    assert!(!client.greet().contains(&"250-STARTTLS".to_owned()));
    client.send("STARTTLS\r\nDATA\r\n");
    client.expect("503 5.5.1 There is TLS\r\n");
    client.expect("503 5.5.1 MAIL first\r\n");
    assert!(client.mail(b"In secret.\r\n").starts_with("250 "));
    sink.assert_stored(&[b"In secret.\r\n"]);
}

#[test]
fn what_comes_in_clear_behind_starttls_is_never_run() {
    let sink = Sink::start();
    let target = Target::tcp(sink.server.address.to_string());
    for entry in fs::read_dir("examples/sessions/starttls").unwrap() {
        let script = Script::load(entry.unwrap().path()).unwrap();
        script
            .run(&target, &ScriptOptions::default().timeout(PATIENCE))
            .unwrap_or_else(|failure| panic!("\n{failure}"));
    }
    sink.assert_stored(&[]);
}

#[test]
fn without_a_certificate_it_offers_no_tls() {
    let mut command = example("smtp_sink");
    command.args(["--listen", "127.0.0.1:0"]);
    let server = Server::spawn(command);
    let mut client = Client(BufReader::new(server.connect()));
    client.line();
    assert!(!client.greet().contains(&"250-STARTTLS".to_owned()));
    client.send("STARTTLS\r\n");
    client.expect("502 5.5.1 Not offered\r\n");
    assert_eq!(client.mail(b"One.\r\n"), "250 2.0.0 Message 1, 6 bytes\r\n");
}

#[test]
#[ignore = "needs swaks: run tests/run"]
fn swaks_sends_mail_in_clear_and_behind_starttls() {
    let sink = Sink::start();
    let ca = sink.authority.path("ca.pem").display().to_string();
    let cases: [&[&str]; 3] = [&[], &["--pipeline"], &["--tls", "--tls-verify", "--tls-ca-path", &ca]];
    for arguments in cases {
        let mut command = Command::new("swaks");
        command.args(["--server", &sink.server.address.to_string()]).args(arguments);
        command.args(["--from", "ann@example.org", "--to", "bob@example.org", "--data", "Subject: tea\n\n..\n.two\n"]);
        let output = finish(command, b"");
        let log = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{log}");
        assert_eq!(log.contains("=== TLS started"), arguments.contains(&"--tls"), "{log}");
    }
    sink.assert_stored(&[&b"Subject: tea\r\n\r\n..\r\n.two\r\n\r\n"[..]; 3]);
}

/// What the programs of Python have in common.
const PRELUDE: &str = r#"
import smtplib, ssl, sys
port, ca = int(sys.argv[1]), sys.argv[2]
ann, bob = "ann@example.org", ["bob@example.org"]
every = bytes(range(1, 256)) + b"\r\n"
dots = b".\r\n..\r\n.a\r\na.\r\n\r\n.\r\n"
large = (b"." + b"x" * 70 + b"\r\n") * 110_000

def connect():
    client = smtplib.SMTP("127.0.0.1", port, timeout=60)
    client._host = "localhost"
    return client
"#;

#[test]
#[ignore = "needs python3: run tests/run"]
fn smtplib_sends_any_bytes_in_clear_and_behind_starttls() {
    let sink = Sink::start();
    sink.python(
        r#"
for tls in False, True:
    with connect() as client:
        if tls:
            client.starttls(context=ssl.create_default_context(cafile=ca))
            client.ehlo()
            assert not client.has_extn("starttls")
        for text in every, dots, large:
            client.sendmail(ann, bob, text, mail_options=["BODY=8BITMIME"])
"#,
    );
    let every = [&(1..=255).collect::<Vec<u8>>()[..], b"\r\n"].concat();
    let dots = b".\r\n..\r\n.a\r\na.\r\n\r\n.\r\n";
    let large = [b".", &b"x".repeat(70)[..], b"\r\n"].concat().repeat(110_000);
    assert!(large.len() > 8_000_000);
    sink.assert_stored(&[&every, dots, &large, &every, dots, &large]);
}

#[test]
#[ignore = "needs python3: run tests/run"]
fn smtplib_is_told_what_is_too_large() {
    let sink = Sink::with_max_size("7MB");
    sink.python(
        r#"
for tls in False, True:
    with connect() as client:
        if tls:
            client.starttls(context=ssl.create_default_context(cafile=ca))
        try:
            client.sendmail(ann, bob, large)
            sys.exit("taken")
        except smtplib.SMTPSenderRefused as refused:
            assert refused.smtp_code == 552, refused
        client.rset()
        # One that does not say its size beforehand.
        client.mail(ann)
        client.rcpt(bob[0])
        assert client.data(large)[0] == 552
        client.sendmail(ann, bob, dots)
        client.putcmd("MAIL", "TO:<a@b>")
        assert client.getreply()[0] == 501
"#,
    );
    let dots = b".\r\n..\r\n.a\r\na.\r\n\r\n.\r\n";
    sink.assert_stored(&[dots, dots]);
}

#[test]
#[ignore = "needs openssl: run tests/run"]
fn openssl_goes_on_behind_starttls() {
    let sink = Sink::start();
    for version in ["-tls1_2", "-tls1_3"] {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-starttls", "smtp", "-quiet", "-verify_return_error", "-servername", "localhost"]);
        command.args([version, "-connect", &sink.server.address.to_string()]);
        command.arg("-CAfile").arg(sink.authority.path("ca.pem"));
        let input = format!("EHLO client.example\r\n{ENVELOPE}DATA\r\nBy {version}.\r\n.\r\nQUIT\r\n");
        let output = finish(command, input.as_bytes());
        let replies = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && replies.ends_with("221 2.0.0 Bye\r\n"), "{replies}");
    }
    sink.assert_stored(&[b"By -tls1_2.\r\n", b"By -tls1_3.\r\n"]);
}
