//! Behind TLS with peers that others wrote: OpenSSL, GnuTLS, Python, socat, and a scanner of what is offered.

#[path = "support/tls.rs"]
mod authority;
mod support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Output, Stdio},
};

use actix::{Actor, AsyncContext, fut::wrap_future};
use actix_lines::{
    CloseReason, Line, LineContext, LineHandler, LineServer, Listener,
    tls::{ClientAuth, Tls, TlsInfo},
};
use authority::Authority;
use support::{Gate, Server, within};

/// Answers each line with itself; some mean more.
struct Echo(Gate);

impl Actor for Echo {
    type Context = LineContext<Self>;
}

impl LineHandler for Echo {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
        match line.text() {
            b"wait" => ctx.wait(wrap_future::<_, Self>(self.0.passed())),
            b"who" => {
                let connection = ctx.connection();
                let certificate = connection.tls().and_then(TlsInfo::peer_certificate);
                let who = certificate.as_ref().map_or("nobody", |certificate| certificate.subject());
                ctx.write(format!("{who}\n"));
            }
            _ => {}
        }
    }
}

/// A server that asks for certificates, and what its peers need.
async fn serve() -> (Server, Authority) {
    serve_at(&Gate::default()).await
}

/// The same, where waits are over when the gate is open.
async fn serve_at(gate: &Gate) -> (Server, Authority) {
    let gate = gate.clone();
    let authority = Authority::new();
    let files = authority.issue("server", &["localhost"]);
    let tls = Tls::builder(files.certificate, files.key).client_certificates(ClientAuth::Optional, authority.file());
    let listener = Listener::tcp("127.0.0.1:0").tls(tls.build().unwrap());
    (Server::of(LineServer::new(move |_| Echo(gate.clone())).workers(1).listen(listener).unwrap()).await, authority)
}

/// Runs something that blocks.
async fn run<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    within(what, tokio::task::spawn_blocking(work)).await.unwrap()
}

/// A program with all of its input at once.
fn finish(command: Command, input: Vec<u8>) -> Output {
    finish_then(command, input, || ())
}

/// The same, and something is done once it has all of its input.
fn finish_then(mut command: Command, input: Vec<u8>, then: impl FnOnce() + Send + 'static) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        let written = stdin.write_all(&input);
        drop(stdin);
        then();
        written
    });
    let output = child.wait_with_output().unwrap();
    let _ = writer.join();
    output
}

/// A program that is talked to.
struct Talk {
    child: Child,
    out: BufReader<std::io::PipeReader>,
    all: String,
}

impl Talk {
    fn start(mut command: Command) -> Self {
        let (out, both) = std::io::pipe().unwrap();
        let errors = both.try_clone().unwrap();
        let child = command.stdin(Stdio::piped()).stdout(both).stderr(errors).spawn().unwrap();
        // Or its end would not be the end of the pipe.
        drop(command);
        let out = BufReader::new(out);
        Self { child, out, all: String::new() }
    }

    fn say(&mut self, line: &str) {
        self.child.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    }

    /// Reads to a line that ends so.
    fn hear(&mut self, line: &str) {
        loop {
            let mut read = String::new();
            assert!(self.out.read_line(&mut read).unwrap() > 0, "no {line:?} in:\n{}", self.all);
            self.all.push_str(&read);
            if read == line {
                return;
            }
        }
    }

    /// Ends its input; returns the rest of its output.
    fn end(mut self) -> String {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap();
        std::mem::take(&mut self.all) + &rest
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

/// A program that gets no longer than a minute, or its test would never end.
fn program(name: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["50", name]);
    command
}

fn openssl(port: u16, authority: &Authority, arguments: &[&str]) -> Command {
    let mut command = program("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", "localhost"]);
    command.args(["-verify_hostname", "localhost", "-verify_return_error", "-CAfile"]).arg(authority.file());
    command.args(arguments);
    command
}

#[actix::test]
#[ignore = "needs openssl: run tests/run"]
async fn openssl_talks_shows_a_certificate_and_says_the_end() {
    let (mut server, authority) = serve().await;
    let port = server.address().port();
    let own = authority.issue("alice", &["alice.example"]);
    for version in ["-tls1_2", "-tls1_3"] {
        let mut command = openssl(port, &authority, &["-quiet", "-no_ign_eof", version]);
        command.arg("-cert").arg(&own.certificate).arg("-key").arg(&own.key);
        run("openssl", move || {
            let mut talk = Talk::start(command);
            talk.say("one\n");
            talk.hear("one\n");
            talk.say("who\n");
            talk.hear("who\n");
            talk.hear("O=Tests,CN=alice\n");
            talk.end();
        })
        .await;
        let report = server.report().await;
        assert_eq!(
            (report.reason, report.lines_in, report.bytes_in),
            (CloseReason::PeerEof, 2, 8),
            "{version}: {report}"
        );
    }
    server.end().await;
}

#[actix::test]
#[ignore = "needs openssl: run tests/run"]
async fn openssl_updates_its_keys_and_may_not_renegotiate() {
    let (mut server, authority) = serve().await;
    let port = server.address().port();
    let command = openssl(port, &authority, &["-tls1_3"]);
    run("openssl", move || {
        let mut talk = Talk::start(command);
        talk.say("one\n");
        talk.hear("one\n");
        for _ in 0..5 {
            // A command is what is read at once.
            talk.say("K\n");
            talk.hear("KEYUPDATE\n");
            talk.say("two\n");
            talk.hear("two\n");
        }
        talk.say("Q\n");
        talk.end();
    })
    .await;
    let report = server.report().await;
    assert_eq!((report.reason, report.lines_in), (CloseReason::PeerEof, 6), "{report}");

    let command = openssl(port, &authority, &["-tls1_2"]);
    let said = run("openssl", move || {
        let mut talk = Talk::start(command);
        talk.say("one\n");
        talk.hear("one\n");
        talk.say("R\n");
        talk.end()
    })
    .await;
    assert!(said.contains("RENEGOTIATING") && said.matches("Cipher is").count() == 1, "{said}");
    let report = server.report().await;
    assert_eq!(report.lines_in, 1, "{report}");
    server.end().await;
}

/// Seconds since 1970 of a time as openssl writes it.
fn seconds(time: &str) -> u64 {
    let output = Command::new("date").args(["-u", "+%s", "-d", time]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

#[test]
#[ignore = "needs openssl: run tests/run"]
fn openssl_reads_the_same_subject_and_end_in_certificates_that_it_made() {
    let authority = Authority::new();
    let (certificate, key) = (authority.path("made.pem"), authority.path("made.key.pem"));
    for (subject, days, key_kind) in [
        ("/CN=alice", 1, "ec"),
        ("/C=AT/ST=Wien/L=Wien/O=Lines, Ltd./OU=a <b> \"c\"; d/CN=#1 = alice", 400, "ec"),
        // Beyond 2050 a time is written in another way.
        ("/O=\u{e4}\u{20ac}\u{1F511}/CN= blank at both ends ", 20_000, "rsa"),
    ] {
        let mut make = program("openssl");
        make.args(["req", "-x509", "-utf8", "-nodes", "-subj", subject, "-days", &days.to_string()]);
        make.args(if key_kind == "ec" {
            &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"][..]
        } else {
            &["-newkey", "rsa:2048"]
        });
        let made = make.arg("-keyout").arg(&key).arg("-out").arg(&certificate).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let tls = Tls::builder(certificate.clone(), key.clone()).build().unwrap();
        let info = &tls.certificates()[0].info;
        let mut show = program("openssl");
        show.args(["x509", "-noout", "-subject", "-enddate", "-startdate", "-nameopt", "RFC2253,-esc_msb", "-in"]);
        let shown = String::from_utf8(show.arg(&certificate).output().unwrap().stdout).unwrap();
        let value = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert_eq!(info.subject(), value("subject="), "{shown}");
        for (time, name) in [(info.not_after(), "notAfter="), (info.not_before(), "notBefore=")] {
            let since = time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
            assert_eq!(since, seconds(value(name)), "{shown}");
        }
    }
}

#[actix::test]
#[ignore = "needs gnutls-cli: run tests/run"]
async fn gnutls_half_closes_and_is_answered_to_the_tail() {
    for priority in ["NORMAL:-VERS-ALL:+VERS-TLS1.2", "NORMAL:-VERS-ALL:+VERS-TLS1.3"] {
        let gate = Gate::default();
        let (mut server, authority) = serve_at(&gate).await;
        let port = server.address().port();
        let mut command = program("gnutls-cli");
        command.args(["--port", &port.to_string(), "--priority", priority, "--x509cafile"]).arg(authority.file());
        command.arg("localhost");
        let input = b"one\nwait\ntwo\nwait\nand a tail".to_vec();
        let output = run("gnutls-cli", move || finish_then(command, input, move || gate.open())).await;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("one\nwait\ntwo\nwait\nand a tail"), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let report = server.report().await;
        assert_eq!((report.reason, report.lines_in, report.bytes_out), (CloseReason::PeerEof, 5, 28), "{report}");
        server.end().await;
    }
}

/// Sends everything and its end before it reads anything, which `unwrap()` of a socket cannot do.
const PYTHON: &str = r#"
import socket, ssl, sys, threading
port, ca, size, version = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
context = ssl.create_default_context(cafile=ca)
context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
wire = socket.create_connection(("127.0.0.1", port))
while True:
    try:
        tls.do_handshake()
        break
    except ssl.SSLWantReadError:
        wire.sendall(outgoing.read())
        incoming.write(wire.recv(65536))
line = bytes(range(32, 127)) * 10 + b"\n"
data = line * (size // len(line)) + b"and a tail"
tls.write(data)
try:
    tls.unwrap()
except ssl.SSLWantReadError:
    pass
sealed = outgoing.read()
sender = threading.Thread(target=lambda: (wire.sendall(sealed), wire.shutdown(socket.SHUT_WR)))
sender.start()
answer = bytearray()
while True:
    try:
        part = tls.read(65536)
        if not part:
            break
        answer += part
    except ssl.SSLWantReadError:
        more = wire.recv(65536)
        if not more:
            sys.exit("a FIN without close_notify")
        incoming.write(more)
    except ssl.SSLZeroReturnError:
        break
sender.join()
sys.exit(0 if bytes(answer) == data else "other bytes: %d of %d" % (len(answer), len(data)))
"#;

#[actix::test]
#[ignore = "needs python3: run tests/run"]
async fn python_gets_everything_though_it_has_ended_its_own() {
    let (mut server, authority) = serve().await;
    let port = server.address().port();
    for version in ["TLSv1_2", "TLSv1_3"] {
        let mut command = program("python3");
        command.args(["-c", PYTHON, &port.to_string()]).arg(authority.file()).args(["8000000", version]);
        let output = run("python", move || finish(command, Vec::new())).await;
        assert!(output.status.success(), "{version}: {}", String::from_utf8_lossy(&output.stderr));
        let report = server.report().await;
        assert_eq!((report.reason, report.unsent_bytes), (CloseReason::PeerEof, 0), "{report}");
        assert!(report.bytes_in > 7_900_000 && report.bytes_in == report.bytes_out, "{report}");
    }
    server.end().await;
}

#[actix::test]
#[ignore = "needs socat: run tests/run"]
async fn socat_sends_a_file_and_gets_it_back() {
    let (mut server, authority) = serve().await;
    let to = format!(
        "OPENSSL:127.0.0.1:{},cafile={},commonname=localhost,openssl-min-proto-version=TLS1.2",
        server.address().port(),
        authority.file().display()
    );
    let input: Vec<u8> = (0..300_000_u32).flat_map(|number| format!("{number}\n").into_bytes()).collect();
    let mut command = program("socat");
    command.args(["-t", "60", "-", &to]);
    let sent = input.clone();
    let output = run("socat", move || finish(command, sent)).await;
    assert!(output.stdout == input, "{} bytes, {}", output.stdout.len(), String::from_utf8_lossy(&output.stderr));
    let report = server.report().await;
    assert_eq!((report.lines_in, report.bytes_out), (300_000, input.len() as u64), "{report}");
    server.end().await;
}

#[actix::test]
#[ignore = "needs sslscan: run tests/run"]
async fn a_scanner_finds_nothing_that_is_weak() {
    let (server, _authority) = serve().await;
    let target = format!("127.0.0.1:{}", server.address().port());
    let mut command = program("sslscan");
    command.args(["--no-colour", "--sni-name=localhost", &target]);
    let output = run("sslscan", move || finish(command, Vec::new())).await;
    let text = String::from_utf8_lossy(&output.stdout);
    for line in ["SSLv2     disabled", "SSLv3     disabled", "TLSv1.0   disabled", "TLSv1.1   disabled"] {
        assert!(text.contains(line), "{line}:\n{text}");
    }
    for line in ["TLSv1.2   enabled", "TLSv1.3   enabled", "not vulnerable to heartbleed"] {
        assert!(text.contains(line), "{line}:\n{text}");
    }
    assert!(
        !text.contains("renegotiation supported\n") || text.contains("Session renegotiation not supported"),
        "{text}"
    );
    let offered: Vec<_> =
        text.lines().filter(|line| line.starts_with("Preferred ") || line.starts_with("Accepted ")).collect();
    assert!(offered.len() >= 6, "{text}");
    for line in offered {
        // Forward secrecy, and ciphers that authenticate.
        let is_good =
            (line.contains("TLSv1.3") || line.contains("ECDHE")) && (line.contains("GCM") || line.contains("CHACHA20"));
        assert!(is_good, "{line}");
    }
    server.handle.abort().await.unwrap();
}
