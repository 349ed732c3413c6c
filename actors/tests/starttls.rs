//! A session may get TLS, or any filter, in its middle: what was written before leaves in clear, whole; what comes behind it comes
//! through it; and nothing that the peer sent in clear behind the command is ever taken for something else.
//!
//! The other ends are tokio-rustls, and filters of tests; clients that nobody here wrote drive the example `smtp_sink`.

#[path = "support/tls.rs"]
mod authority;
#[path = "support/frames.rs"]
mod frames;
mod support;

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

use actix::{Actor, ActorContext, Addr, AsyncContext, Handler, Message, fut::wrap_future};
use actix_lines::{
    CloseReason, CloseReport, Framing, Line, LineContext, LineHandler, LineServer, LineSession, Lines, Overlong,
    Payload, Transport, UpgradeError,
    connect::{Connector, Disconnect},
    control::SessionFilter,
    filter::{Eof, Fault, Filter, Flow, Inflow},
    limits::{Limits, OverLimit},
    testing::{Faults, FaultyStream, MemoryCapacity, MemoryStream, StreamCall, memory_pair},
    tls::{Tls, TlsClient, rustls},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    authority::{Authority, Client, Files},
    frames::Frames,
    support::{Gate, Log, Server, cut, eventually, pass, pause, within},
};

const VERSIONS: [&rustls::SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// How the filter comes.
type Push = fn(&Upgrader, &mut LineContext<Upgrader>) -> Result<(), UpgradeError>;

/// Echoes lines; some mean more.
struct Upgrader {
    tls: Tls,
    push: Push,
    log: Log<String>,
    gate: Gate,
    by_batch: bool,
    at_overlong: bool,
    report: Option<oneshot::Sender<CloseReport>>,
}

fn start_tls(upgrader: &Upgrader, ctx: &mut LineContext<Upgrader>) -> Result<(), UpgradeError> {
    ctx.start_tls(&upgrader.tls)
}

impl Actor for Upgrader {
    type Context = LineContext<Self>;
}

impl Upgrader {
    fn new(tls: &Tls) -> Self {
        Self {
            tls: tls.clone(),
            push: start_tls,
            log: Log::default(),
            gate: Gate::default(),
            by_batch: false,
            at_overlong: false,
            report: None,
        }
    }

    /// Grants it, and says what becomes of that.
    fn upgrade(&mut self, ctx: &mut LineContext<Self>) {
        ctx.write("go\n");
        if let Err(error) = (self.push)(self, ctx) {
            self.log.borrow_mut().push(error.to_string());
        }
    }
}

impl LineHandler for Upgrader {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        self.log.borrow_mut().push(String::from_utf8_lossy(line.text()).into_owned());
        match line.text() {
            b"starttls" => self.upgrade(ctx),
            b"starttls and more" => {
                self.upgrade(ctx);
                ctx.write("for the filter\n");
            }
            b"twice" => {
                self.upgrade(ctx);
                self.upgrade(ctx);
            }
            b"stop and upgrade" => {
                ctx.stop();
                self.upgrade(ctx);
            }
            b"drain and upgrade" => {
                ctx.drain();
                self.upgrade(ctx);
            }
            b"half and upgrade" => {
                ctx.half_close();
                self.upgrade(ctx);
            }
            b"much" => {
                ctx.write(vec![b'x'; MUCH]);
                self.upgrade(ctx);
                ctx.write("for the filter\n");
            }
            b"wait and upgrade" => {
                ctx.wait_for(self.gate.passed(), |upgrader: &mut Self, (), ctx| upgrader.upgrade(ctx));
            }
            b"upgrade and wait" => {
                self.upgrade(ctx);
                ctx.wait(wrap_future::<_, Self>(self.gate.passed()));
            }
            b"half" => ctx.half_close(),
            b"stop" => ctx.stop(),
            b"payload" => ctx.payload(4),
            b"payload and upgrade" => {
                ctx.payload(4);
                self.upgrade(ctx);
            }
            b"upgrade and payload" => {
                self.upgrade(ctx);
                ctx.payload(4);
            }
            b"pause" | b"ppaauussee" => ctx.pause(),
            _ => ctx.write(&line),
        }
    }

    fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
        if self.by_batch && lines.rest().starts_with(b"in place") {
            let block = lines.rest().len();
            lines.answer_in_place(ctx, |bytes| bytes.make_ascii_uppercase());
            self.log.borrow_mut().push(format!("{block} in place"));
            self.upgrade(ctx);
            ctx.write("for the filter\n");
        }
        while let Some(line) = lines.next(ctx) {
            self.line(line, ctx);
        }
        if self.by_batch {
            lines.answer_in_place(ctx, |_| panic!("no line is wanted here"));
        }
    }

    fn payload(&mut self, chunk: Payload<'_>, ctx: &mut Self::Context) {
        self.log.borrow_mut().push(format!("{} of a payload", chunk.len()));
        self.upgrade(ctx);
    }

    fn overlong(&mut self, ctx: &mut Self::Context) {
        if self.at_overlong {
            self.upgrade(ctx);
        }
    }

    fn eof(&mut self, ctx: &mut Self::Context) {
        if self.by_batch {
            self.upgrade(ctx);
        }
        ctx.drain();
    }

    fn upgraded(&mut self, ctx: &mut Self::Context) {
        self.log.borrow_mut().push("upgraded".to_owned());
        let is_tls = ctx.connection().tls().is_some();
        ctx.write(if is_tls { "secure\n" } else { "upgraded\n" });
    }

    fn closed(&mut self, report: &CloseReport) {
        let _ = self.report.take().map(|closed| closed.send(report.clone()));
    }
}

/// More than the kernel's buffers of a connection, and than the high watermark.
const MUCH: usize = 12 * 1024 * 1024;

#[derive(Message)]
#[rtype(result = "()")]
struct Upgrade;

impl Handler<Upgrade> for Upgrader {
    type Result = ();
    fn handle(&mut self, _: Upgrade, ctx: &mut Self::Context) {
        self.upgrade(ctx);
    }
}

fn server_tls(files: &Files) -> Tls {
    Tls::builder(files.certificate.clone(), files.key.clone()).build().unwrap()
}

/// An authority, and TLS of a server that it vouches for.
fn parties() -> (Authority, Tls) {
    let authority = Authority::new();
    let tls = server_tls(&authority.issue("server", &["localhost"]));
    (authority, tls)
}

async fn expect(peer: &mut (impl AsyncRead + Unpin), expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    within("an answer", peer.read_exact(&mut got)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
}

/// The client's side of an upgrade.
async fn secure<S: AsyncRead + AsyncWrite + Unpin>(stream: S, client: &Client) -> TlsStream<S> {
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    within("a handshake", TlsConnector::from(client.config()).connect(name, stream)).await.unwrap()
}

/// A session over memory, its peer, and what it leaves.
struct Conversation {
    peer: MemoryStream,
    faults: Faults,
    report: oneshot::Receiver<CloseReport>,
    log: Log<String>,
    gate: Gate,
    address: Addr<Upgrader>,
}

impl Conversation {
    fn with(upgrader: Upgrader, change: impl FnOnce(LineSession) -> LineSession, filters: &[fn() -> Frames]) -> Self {
        Self::over(upgrader, change, |transport| {
            filters.iter().fold(transport, |inner, make| inner.with_filter(make()))
        })
    }

    fn over(
        mut upgrader: Upgrader,
        change: impl FnOnce(LineSession) -> LineSession,
        filter: impl FnOnce(Transport) -> Transport,
    ) -> Self {
        let (ours, peer) = memory_pair(MemoryCapacity::default());
        let (ours, faults) = FaultyStream::new(ours);
        let (closed, report) = oneshot::channel();
        upgrader.report = Some(closed);
        let (log, gate) = (upgrader.log.clone(), upgrader.gate.clone());
        let address = change(LineSession::new(filter(Transport::new(ours)))).start(upgrader);
        Self { peer, faults, report, log, gate, address }
    }

    fn start(tls: &Tls) -> Self {
        Self::with(Upgrader::new(tls), |session| session, &[])
    }

    async fn send(&mut self, bytes: &[u8]) {
        within("the session to read", self.peer.write_all(bytes)).await.unwrap();
    }

    async fn expect(&mut self, expected: &[u8]) {
        expect(&mut self.peer, expected).await;
    }

    /// Waits until the handler has got this line.
    async fn heard(&self, line: &str) {
        eventually(line, async || self.log.borrow().iter().any(|heard| heard == line)).await;
    }

    /// All that is still sent, to a FIN; then the report, and what the handler was given.
    async fn end(mut self) -> (Vec<u8>, CloseReport, Vec<String>) {
        let mut rest = Vec::new();
        within("the end", self.peer.read_to_end(&mut rest)).await.unwrap();
        drop(self.peer);
        let report = within("the report", self.report).await.unwrap();
        (rest, report, self.log.borrow().clone())
    }
}

fn log(of: &[&str]) -> Vec<String> {
    of.iter().map(|text| (*text).to_owned()).collect()
}

// The upgrade.

#[actix::test]
async fn lines_are_exact_behind_it_and_end_as_the_peers_bytes_do() {
    let (authority, tls) = parties();
    let mut text = Vec::new();
    for length in 0..600_usize {
        text.extend((0..length).map(|at| (at * 31 + length) as u8).filter(|byte| *byte != b'\n'));
        text.extend_from_slice(if length % 3 == 0 { b"\r\n" } else { b"\n" });
    }
    text.extend_from_slice(b"and a tail\0");
    for version in VERSIONS {
        let made = tls.clone();
        let mut server = Server::start(LineServer::new(move |_| Upgrader::new(&made)).workers(1)).await;
        let mut client = authority.client();
        client.versions = vec![version];
        let mut peer = server.connect().await;
        peer.send(b"in clear\nstarttls and more\n").await;
        peer.expect(b"in clear\ngo\n").await;
        let mut peer = secure(peer.stream, &client).await;
        expect(&mut peer, b"for the filter\nsecure\n").await;
        let (mut reader, mut writer) = tokio::io::split(peer);
        let mut answer = Vec::new();
        within("the answer", async {
            let send = async {
                for chunk in cut(&text, &[1, 3000, 17, 20_000]) {
                    writer.write_all(chunk).await.unwrap();
                }
                writer.shutdown().await.unwrap();
            };
            tokio::join!(send, reader.read_to_end(&mut answer)).1.expect("a close_notify")
        })
        .await;
        assert!(answer == text, "{} bytes of {} came back, or others", answer.len(), text.len());
        drop((reader, writer));
        let report = server.report().await;
        let len = text.len() as u64;
        assert_eq!((report.reason, report.cut), (CloseReason::PeerEof, false), "{report}");
        assert_eq!((report.bytes_in, report.undelivered_bytes), (9 + 18 + len, 0), "{report}");
        assert_eq!((report.bytes_out, report.unsent_bytes), (9 + 3 + 15 + 7 + len, 0), "{report}");
        server.end().await;
    }
}

#[actix::test]
async fn what_was_written_before_leaves_in_clear_to_its_last_byte_however_slowly_the_peer_reads() {
    let (authority, tls) = parties();
    let mut session = Conversation::start(&tls);
    session.send(b"much\n").await;
    for _ in 0..MUCH / 1024 {
        session.expect(&[b'x'; 1024]).await;
    }
    session.expect(b"go\n").await;
    let mut peer = secure(session.peer, &authority.client()).await;
    expect(&mut peer, b"for the filter\nsecure\n").await;
    peer.write_all(b"one\n").await.unwrap();
    expect(&mut peer, b"one\n").await;
    drop(peer);
    let report = within("the report", session.report).await.unwrap();
    assert_eq!((report.reason, report.bytes_out), (CloseReason::Truncated, MUCH as u64 + 3 + 15 + 7 + 4), "{report}");
}

#[actix::test]
async fn an_answer_in_place_before_it_leaves_in_clear_whatever_the_kernel_takes_of_it() {
    let (authority, tls) = parties();
    for taken in [1, 5, 9, 1000] {
        let upgrader = Upgrader { by_batch: true, ..Upgrader::new(&tls) };
        let mut session = Conversation::with(upgrader, |session| session, &[]);
        session.faults.limit(actix_lines::Half::Write, taken);
        session.send(b"in place\n").await;
        session.expect(b"IN PLACE\ngo\n").await;
        session.faults.limit(actix_lines::Half::Write, usize::MAX);
        let mut peer = secure(session.peer, &authority.client()).await;
        expect(&mut peer, b"for the filter\nsecure\n").await;
    }
}

#[actix::test]
async fn it_may_be_asked_for_in_a_hook_a_message_and_at_the_end_of_a_wait() {
    let (authority, tls) = parties();
    let client = authority.client();
    // A message.
    let mut session = Conversation::start(&tls);
    session.send(b"one\n").await;
    session.expect(b"one\n").await;
    session.address.send(Upgrade).await.unwrap();
    session.expect(b"go\n").await;
    let mut peer = secure(session.peer, &client).await;
    expect(&mut peer, b"secure\n").await;
    // The end of a wait.
    let mut session = Conversation::start(&tls);
    session.send(b"wait and upgrade\n").await;
    session.gate.open();
    session.expect(b"go\n").await;
    let mut peer = secure(session.peer, &client).await;
    expect(&mut peer, b"secure\n").await;
    // Before a wait: the handshake goes on meanwhile, and the hook comes behind.
    let mut session = Conversation::start(&tls);
    session.send(b"upgrade and wait\n").await;
    session.expect(b"go\n").await;
    let mut peer = secure(session.peer, &client).await;
    peer.write_all(b"one\n").await.unwrap();
    assert_eq!(*session.log.borrow(), log(&["upgrade and wait"]));
    session.gate.open();
    expect(&mut peer, b"secure\none\n").await;
    // The last chunk of a payload; then a payload behind it.
    let mut session = Conversation::start(&tls);
    session.send(b"payload\nabcd").await;
    session.expect(b"go\n").await;
    let mut peer = secure(session.peer, &client).await;
    expect(&mut peer, b"secure\n").await;
    let mut session = Conversation::start(&tls);
    session.send(b"upgrade and payload\n").await;
    session.expect(b"go\n").await;
    let mut peer = secure(session.peer, &client).await;
    expect(&mut peer, b"secure\n").await;
    peer.write_all(b"abcdone\n").await.unwrap();
    // The payload asks for it once more, in vain.
    expect(&mut peer, b"go\none\n").await;
    assert!(session.log.borrow()[3].contains("has TLS already"), "{:?}", session.log);
}

#[actix::test]
async fn it_joins_below_the_filters_that_are_there() {
    let (authority, tls) = parties();
    let mut session = Conversation::with(Upgrader::new(&tls), |session| session, &[Frames::default]);
    session.send(&frames::frame(b"starttls\n")).await;
    session.expect(&frames::frame(b"go\n")).await;
    let mut peer = secure(session.peer, &authority.client()).await;
    expect(&mut peer, &frames::frame(b"secure\n")).await;
    for chunk in frames::ended(b"one\ntwo\ntail", &[1, 5, 2]).chunks(3) {
        peer.write_all(chunk).await.unwrap();
    }
    let mut rest = Vec::new();
    within("the end", peer.read_to_end(&mut rest)).await.expect("a close_notify");
    let sent = frames::read(&rest);
    assert_eq!((sent.plain.as_slice(), sent.is_ended), (b"one\ntwo\ntail".as_slice(), true));
    drop(peer);
    let report = within("the report", session.report).await.unwrap();
    assert_eq!((report.reason, report.bytes_in, report.bytes_out), (CloseReason::PeerEof, 21, 22), "{report}");
}

#[actix::test]
async fn any_filter_may_join_in() {
    let (_authority, tls) = parties();
    let makers: [(Push, &[u8]); 2] = [
        (|_, ctx| ctx.push_filter(Frames::default()), b""),
        (|_, ctx| ctx.push_filter(Frames::after_hello()), frames::HELLO),
    ];
    for (push, hello) in makers {
        let upgrader = Upgrader { push, ..Upgrader::new(&tls) };
        let mut session = Conversation::with(upgrader, |session| session, &[]);
        session.send(b"starttls and more\n").await;
        session.expect(b"go\n").await;
        session.send(hello).await;
        session.send(&frames::ended(b"one\n", &[2])).await;
        let (rest, report, lines) = session.end().await;
        let sent = frames::read(rest.strip_prefix(hello).unwrap());
        assert_eq!(String::from_utf8_lossy(&sent.plain), "for the filter\nupgraded\none\n");
        assert_eq!((sent.is_ended, sent.rest), (true, Vec::new()));
        assert_eq!((report.reason, report.bytes_in, report.bytes_out), (CloseReason::PeerEof, 22, 31), "{report}");
        assert_eq!(lines[1..], ["upgraded", "one"]);
    }
}

// The peers of a connector.

/// Asks a server for TLS, and says who is there.
struct Caller {
    tls: TlsClient,
    name: &'static str,
    lines: mpsc::UnboundedSender<String>,
}

impl Actor for Caller {
    type Context = LineContext<Self>;
}

impl LineHandler for Caller {
    fn opened(&mut self, ctx: &mut Self::Context) {
        ctx.write("starttls\n");
    }

    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        let _ = self.lines.send(String::from_utf8_lossy(line.text()).into_owned());
        if line.text() == b"go"
            && let Err(error) = ctx.start_tls_client(&self.tls, self.name)
        {
            let _ = self.lines.send(error.to_string());
            ctx.stop();
        }
    }

    fn upgraded(&mut self, ctx: &mut Self::Context) {
        let connection = ctx.connection();
        let certificate = connection.tls().and_then(|tls| tls.peer_certificate());
        let subject = certificate.as_ref().and_then(|certificate| certificate.common_name()).unwrap_or("nobody");
        let _ = self.lines.send(format!("upgraded with {subject}"));
        ctx.write("in secret\n");
    }

    fn closed(&mut self, report: &CloseReport) {
        let _ = self.lines.send(format!("{}, {} undelivered", report.reason, report.undelivered_bytes));
    }
}

async fn next(lines: &mut mpsc::UnboundedReceiver<String>) -> String {
    within("a line", lines.recv()).await.unwrap()
}

#[actix::test]
async fn a_session_of_a_connector_asks_for_it_and_knows_the_server() {
    let (authority, tls) = parties();
    let server = Server::start(LineServer::new(move |_| Upgrader::new(&tls)).workers(1)).await;
    let trust = TlsClient::builder(authority.file()).build().unwrap();
    let (sender, mut lines) = mpsc::unbounded_channel();
    let connector = Connector::builder(server.address().to_string(), move |_, _| Caller {
        tls: trust.clone(),
        name: "localhost:25",
        lines: sender.clone(),
    })
    .start()
    .unwrap();
    for line in ["go", "upgraded with server", "secure", "in secret"] {
        assert_eq!(next(&mut lines).await, line);
    }
    let report = within("the end", connector.send(Disconnect::within(Duration::from_secs(20)))).await.unwrap().unwrap();
    assert_eq!((report.lines_in, report.bytes_out, report.unsent_bytes), (3, 9 + 10, 0), "{report}");
    server.end_all().await;
}

#[actix::test]
async fn a_server_that_nobody_vouches_for_or_that_is_no_name_is_refused() {
    let (_authority, tls) = parties();
    let trust = TlsClient::builder(Authority::new().file()).build().unwrap();
    for (name, expected) in
        [("localhost", "tls-bad-certificate, 0 undelivered"), ("no name", "\"no name\" is no name of a server")]
    {
        let mut server = Server::start({
            let tls = tls.clone();
            LineServer::new(move |_| Upgrader::new(&tls)).workers(1)
        })
        .await;
        let (sender, mut lines) = mpsc::unbounded_channel();
        let stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
        LineSession::new(stream).start(Caller { tls: trust.clone(), name, lines: sender });
        assert_eq!(next(&mut lines).await, "go");
        let got = next(&mut lines).await;
        assert!(got.starts_with(expected), "{got}");
        server.report().await;
        server.end().await;
    }
}

#[actix::test]
async fn bytes_of_a_server_behind_its_grant_end_the_session() {
    let (authority, _) = parties();
    let trust = TlsClient::builder(authority.file()).build().unwrap();
    for behind in ["250 you were never asked\n", "2"] {
        let (sender, mut lines) = mpsc::unbounded_channel();
        let (ours, mut peer) = memory_pair(MemoryCapacity::default());
        let caller = Caller { tls: trust.clone(), name: "localhost", lines: sender };
        LineSession::new(Transport::new(ours)).start(caller);
        expect(&mut peer, b"starttls\n").await;
        peer.write_all(format!("go\n{behind}").as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        within("the end", peer.read_to_end(&mut rest)).await.unwrap();
        drop(peer);
        assert_eq!(rest, b"", "not even a ClientHello");
        assert_eq!(next(&mut lines).await, "go");
        assert_eq!(next(&mut lines).await, format!("upgrade-injection, {} undelivered", behind.len()));
    }
}

// Bytes in clear behind the command, wherever they lie.

/// Ends as an injection of so many bytes, behind these lines and nothing else.
async fn ends_as_injection(session: Conversation, undelivered: usize, lines: &[&str]) {
    let (rest, report, got) = session.end().await;
    assert_eq!(rest, b"", "nothing behind the grant, in clear or otherwise");
    assert_eq!(got, log(lines));
    assert_eq!(
        (report.reason, report.undelivered_bytes, report.cut),
        (CloseReason::UpgradeInjection, undelivered as u64, false),
        "{report}"
    );
}

#[actix::test]
async fn lines_in_the_same_read_are_not_run() {
    let (_authority, tls) = parties();
    for by_batch in [false, true] {
        for command in ["starttls", "starttls and more"] {
            let upgrader = Upgrader { by_batch, ..Upgrader::new(&tls) };
            let mut session = Conversation::with(upgrader, |session| session, &[]);
            session.send(format!("one\n{command}\ntwo\nthree\nfo").as_bytes()).await;
            session.expect(b"one\ngo\n").await;
            ends_as_injection(session, 12, &["one", command]).await;
        }
    }
}

#[actix::test]
async fn a_part_of_a_line_is_not_continued() {
    let (_authority, tls) = parties();
    // Behind the command.
    let mut session = Conversation::start(&tls);
    session.send(b"starttls\nt").await;
    session.expect(b"go\n").await;
    ends_as_injection(session, 1, &["starttls"]).await;
    // In the session's own buffer: short, and longer than what is carried over.
    for part in [1, 40, 200_000] {
        let mut session = Conversation::with(
            Upgrader::new(&tls),
            |session| session.framing(Framing::lf().max_line(1 << 20).unwrap()),
            &[],
        );
        session.send(b"one\n").await;
        session.expect(b"one\n").await;
        session.send(&vec![b'x'; part]).await;
        // Read: what comes back is behind it.
        tokio::task::yield_now().await;
        session.address.send(Upgrade).await.unwrap();
        session.expect(b"go\n").await;
        let (rest, report, lines) = session.end().await;
        assert_eq!((rest.as_slice(), lines), (b"".as_slice(), log(&["one"])));
        assert_eq!(report.reason, CloseReason::UpgradeInjection, "{report}");
        assert_eq!(report.undelivered_bytes, part as u64, "{report}");
    }
    // Pieces of it were delivered already.
    let framing = Framing::lf().max_line(4).unwrap();
    let mut session = Conversation::with(Upgrader::new(&tls), |session| session.framing(framing), &[]);
    session.send(b"abcdefgh").await;
    session.expect(b"abcd").await;
    session.address.send(Upgrade).await.unwrap();
    session.expect(b"go\n").await;
    ends_as_injection(session, 4, &["abcd"]).await;
    // One that is too long, of which the rest is dropped, or has yet to come.
    for policy in [Overlong::Discard, Overlong::Truncate, Overlong::Pieces] {
        let framing = Framing::lf().max_line(4).unwrap().overlong(policy);
        let upgrader = Upgrader { at_overlong: true, ..Upgrader::new(&tls) };
        let mut session = Conversation::with(upgrader, |session| session.framing(framing), &[]);
        session.send(b"abcdefgh").await;
        session.expect(b"go\n").await;
        ends_as_injection(session, 8, &[]).await;
    }
}

/// Doubles each byte, and keeps every `?` to itself.
#[derive(Default)]
struct Doubling {
    held: usize,
}

impl Filter for Doubling {
    fn read(&mut self, wire: &mut Inflow<'_>, plain: &mut Vec<u8>, _: &mut Vec<u8>) -> Result<Flow, Fault> {
        for byte in wire.take(usize::MAX).iter().copied() {
            match byte {
                b'?' => self.held += 1,
                b'\n' => plain.push(byte),
                _ => plain.extend([byte, byte]),
            }
        }
        Ok(Flow::Open)
    }

    fn write(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Fault> {
        wire.extend_from_slice(plain);
        Ok(())
    }

    fn eof(&mut self) -> Eof {
        Eof::Clean
    }

    fn finish(&mut self, _: &mut Vec<u8>) {}

    fn held(&self) -> usize {
        self.held
    }
}

#[actix::test]
async fn what_a_filter_holds_is_not_forgotten() {
    let (_authority, tls) = parties();
    let start = || {
        let filter = |transport: Transport| transport.with_filter(Doubling::default());
        Conversation::over(Upgrader::new(&tls), |session| session, filter)
    };
    // Not decoded yet.
    let mut session = start();
    session.send(b"one\n?").await;
    session.expect(b"oonnee\n").await;
    session.address.send(Upgrade).await.unwrap();
    session.expect(b"go\n").await;
    // Bytes of the wire that were none of the session's.
    ends_as_injection(session, 0, &["oonnee"]).await;
    // Decoded, and not the session's yet: it comes out doubled, and a read takes 64 KiB.
    let mut session = start();
    session.send(&[b"pause\n".as_slice(), &[b'x'; 60_000]].concat()).await;
    session.heard("ppaauussee").await;
    session.address.send(Upgrade).await.unwrap();
    session.expect(b"go\n").await;
    ends_as_injection(session, 120_000, &["ppaauussee"]).await;
}

#[actix::test]
async fn what_is_still_in_the_kernel_is_no_handshake() {
    let (_authority, tls) = parties();
    let made = tls.clone();
    let mut server = Server::start(LineServer::new(move |_| Upgrader::new(&made)).workers(1)).await;
    let mut peer = server.connect().await;
    peer.send(b"starttls\n").await;
    peer.expect(b"go\n").await;
    peer.send(b"one\nRCPT TO:<x>\n").await;
    let alert = peer.rest().await;
    assert_eq!((alert[0], alert.len()), (21, 7), "an alert, then a FIN: {alert:?}");
    drop(peer);
    let report = server.report().await;
    assert_eq!((report.reason.name(), report.lines_in, report.bytes_in), ("tls-not-tls", 1, 9), "{report}");
    server.end().await;
}

#[actix::test]
async fn a_payload_is_not_read_on_behind_it() {
    let (_authority, tls) = parties();
    // Behind its last chunk.
    let mut session = Conversation::start(&tls);
    session.send(b"payload\nabcdone\n").await;
    session.expect(b"go\n").await;
    ends_as_injection(session, 4, &["payload", "4 of a payload"]).await;
    // Asked for behind the command: what is there of it came in clear.
    let mut session = Conversation::start(&tls);
    session.send(b"upgrade and payload\nab").await;
    session.expect(b"go\n").await;
    ends_as_injection(session, 2, &["upgrade and payload"]).await;
    // Half of it came in clear: an error, and the session goes on.
    let mut session = Conversation::start(&tls);
    session.send(b"payload\nab").await;
    session.expect(b"go\n").await;
    session.send(b"c").await;
    session.expect(b"go\n").await;
    session.peer.shutdown().await.unwrap();
    let (rest, report, lines) = session.end().await;
    assert_eq!((rest.as_slice(), report.reason), (b"".as_slice(), CloseReason::PeerEof));
    for (line, left) in [(2, 2), (4, 1)] {
        assert!(lines[line].starts_with(&format!("{left} bytes of a payload have yet to come")), "{lines:?}");
    }
    let mut session = Conversation::start(&tls);
    session.send(b"payload and upgrade\n").await;
    session.expect(b"go\n").await;
    assert!(session.log.borrow()[1].starts_with("4 bytes of a payload"), "{:?}", session.log);
}

#[actix::test]
async fn lines_that_are_held_back_are_not_run() {
    let (_authority, tls) = parties();
    // The handler waits, and asks at its end.
    let mut session = Conversation::start(&tls);
    session.send(b"wait and upgrade\ntwo\nth").await;
    session.gate.open();
    session.expect(b"go\n").await;
    ends_as_injection(session, 6, &["wait and upgrade"]).await;
    // It waits, and asks before.
    let mut session = Conversation::start(&tls);
    session.send(b"upgrade and wait\ntwo\n").await;
    session.expect(b"go\n").await;
    ends_as_injection(session, 4, &["upgrade and wait"]).await;
    // It is paused.
    let mut session = Conversation::start(&tls);
    session.send(b"pause\ntwo\n").await;
    session.heard("pause").await;
    session.address.send(Upgrade).await.unwrap();
    session.expect(b"go\n").await;
    ends_as_injection(session, 4, &["pause"]).await;
}

// What cannot be.

#[actix::test]
async fn it_is_refused_where_it_cannot_be_and_nothing_changes() {
    let (authority, tls) = parties();
    // A second one, at once and later.
    let mut session = Conversation::start(&tls);
    session.send(b"twice\n").await;
    session.expect(b"go\n").await;
    let mut peer = secure(session.peer, &authority.client()).await;
    peer.write_all(b"starttls\none\n").await.unwrap();
    expect(&mut peer, b"go\nsecure\ngo\none\n").await;
    let lines = session.log.borrow().clone();
    assert!(lines[1].starts_with("another filter is not open yet"), "{lines:?}");
    assert!(lines[4].starts_with("the connection has TLS already"), "{lines:?}");
    // Behind the listener's own.
    let filter = |transport: Transport| transport.with_tls(&tls);
    let session = Conversation::over(Upgrader::new(&tls), |session| session, filter);
    session.address.send(Upgrade).await.unwrap();
    assert!(session.log.borrow()[0].starts_with("another filter is not open yet"));
    let mut peer = secure(session.peer, &authority.client()).await;
    peer.write_all(b"starttls\none\n").await.unwrap();
    expect(&mut peer, b"go\ngo\none\n").await;
    assert!(session.log.borrow()[2].starts_with("the connection has TLS already"));
    // In one that ends.
    for command in ["stop and upgrade", "drain and upgrade", "half and upgrade", "eof"] {
        let upgrader = Upgrader { by_batch: command == "eof", ..Upgrader::new(&tls) };
        let mut session = Conversation::with(upgrader, |session| session, &[]);
        session.send(format!("{command}\n").as_bytes()).await;
        session.peer.shutdown().await.unwrap();
        let (rest, report, lines) = session.end().await;
        assert!(rest.ends_with(b"go\n"), "{command}: the session ends in clear");
        assert!(lines[1].starts_with("the session or one of its directions has ended"), "{command}: {lines:?}");
        assert_eq!(report.unsent_bytes, 0, "{command}: {report}");
    }
}

// Ends in between: nothing that was written for the filter leaves in clear.

/// A server on the test's clock, and a peer whose handshake does not go on.
async fn stalled(tls: &Tls) -> (Server, support::Peer) {
    let tls = tls.clone();
    let server = Server::start(LineServer::new(move |_| Upgrader::new(&tls)).on_current_arbiter()).await;
    let mut peer = server.connect().await;
    peer.send(b"starttls and more\n").await;
    peer.expect(b"go\n").await;
    // The beginning of a ClientHello.
    peer.send(&[22, 3, 1, 2, 0, 1]).await;
    (server, peer)
}

#[actix::test]
async fn a_handshake_has_the_time_of_a_preface_and_the_clocks_of_lines_stand_still() {
    pause();
    let (_authority, tls) = parties();
    let limits = Limits::builder()
        .idle_timeout(Some(Duration::from_secs(2)))
        .line_timeout(Some(Duration::from_secs(1)))
        .write_timeout(Some(Duration::from_secs(1)))
        .preface_timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    for waits in [false, true] {
        let begin = tokio::time::Instant::now();
        let limits = limits.clone();
        let mut session = Conversation::with(Upgrader::new(&tls), |session| session.limits(limits), &[]);
        session.send(if waits { b"wait and upgrade\n" } else { b"starttls and more\n" }).await;
        if waits {
            // The time begins behind it.
            pass(Duration::from_secs(20)).await;
            session.gate.open();
        }
        session.expect(b"go\n").await;
        session.send(&[22, 3, 1, 2, 0, 1]).await;
        let (rest, report, _) = session.end().await;
        let elapsed = begin.elapsed().as_secs_f64() - if waits { 20.0 } else { 0.0 };
        assert_eq!((rest.as_slice(), report.reason), (b"".as_slice(), CloseReason::UpgradeTimeout), "{report}");
        assert!((5.0..6.0).contains(&elapsed), "{elapsed}");
        assert_eq!((report.bytes_out, report.unsent_bytes), (3, if waits { 0 } else { 15 }), "{report}");
    }
}

#[actix::test]
async fn it_takes_as_long_as_it_may_and_then_the_idle_clock_begins_anew() {
    pause();
    let (authority, tls) = parties();
    let limits = Limits::builder().idle_timeout(Some(Duration::from_secs(20))).build().unwrap();
    let mut session = Conversation::with(Upgrader::new(&tls), |session| session.limits(limits), &[]);
    pass(Duration::from_secs(15)).await;
    session.send(b"starttls\n").await;
    session.expect(b"go\n").await;
    pass(Duration::from_secs(9)).await;
    let mut peer = secure(session.peer, &authority.client()).await;
    expect(&mut peer, b"secure\n").await;
    let begin = tokio::time::Instant::now();
    let mut rest = Vec::new();
    within("the idle timeout", peer.read_to_end(&mut rest)).await.expect("a close_notify");
    assert!(begin.elapsed() >= Duration::from_secs(10), "{:?}", begin.elapsed());
    drop(peer);
    assert_eq!(within("the report", session.report).await.unwrap().reason, CloseReason::IdleTimeout);
}

#[actix::test]
async fn a_session_ends_in_its_handshake_by_a_kick_a_drain_and_an_abort() {
    let (_authority, tls) = parties();
    for (end, reason) in
        [("kick", CloseReason::Kicked), ("drain", CloseReason::Drained), ("abort", CloseReason::Aborted)]
    {
        let (mut server, mut peer) = stalled(&tls).await;
        match end {
            "kick" => drop(within(end, server.handle.kick(SessionFilter::default(), "bye\n")).await.unwrap()),
            "drain" => drop(server.handle.drain(Duration::from_secs(30)).await),
            _ => drop(within(end, server.handle.abort()).await.unwrap()),
        }
        if reason == CloseReason::Aborted {
            let mut rest = Vec::new();
            let _ = within("the end", peer.stream.read_to_end(&mut rest)).await;
            assert_eq!(rest, b"");
        } else {
            peer.expect_eof().await;
        }
        drop(peer);
        let report = server.report().await;
        // A goodbye is for the filter as well.
        let unsent = if end == "kick" { 15 + 4 } else { 15 };
        assert_eq!((report.reason, report.bytes_out, report.unsent_bytes), (reason, 3, unsent), "{end}: {report}");
        server.end_all().await;
    }
}

/// Peers that may be stalled in their handshake, on one worker.
async fn limited(tls: &Tls, limits: Limits) -> Server {
    let tls = tls.clone();
    Server::start(LineServer::new(move |_| Upgrader::new(&tls)).limits(limits).workers(1)).await
}

#[actix::test]
async fn the_bytes_of_its_unfinished_handshakes_are_in_the_memory_budget() {
    let (authority, tls) = parties();
    let limits = Limits::builder().memory_budget(Some(1024 * 1024)).preface_timeout(support::PATIENCE);
    let mut server = limited(&tls, limits.build().unwrap()).await;
    // A hello of 48 KiB and more, of which the end does not come.
    let hello = [&[1, 0, 0xFF, 0][..], &[0; 48 * 1024]].concat();
    let records = hello.chunks(16 * 1024).flat_map(|part| {
        let len = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[22, 3, 1, len[0], len[1]], part].concat()
    });
    let records: Vec<u8> = records.collect();
    let mut peers = Vec::new();
    for _ in 0..60 {
        let mut peer = server.connect().await;
        peer.send(b"starttls and more\n").await;
        peer.expect(b"go\n").await;
        // It may be evicted meanwhile.
        let _ = within("the session to read", peer.stream.write_all(&records)).await;
        peers.push(peer);
    }
    for _ in 0..30 {
        let report = server.report().await;
        assert_eq!((report.reason, report.bytes_out, report.unsent_bytes), (CloseReason::Evicted, 3, 15), "{report}");
    }
    let mut peer = server.connect().await;
    peer.send(b"starttls\n").await;
    peer.expect(b"go\n").await;
    let mut peer = secure(peer.stream, &authority.client()).await;
    expect(&mut peer, b"secure\n").await;
    drop((peer, peers));
    server.handle.abort().await.unwrap();
}

#[actix::test]
async fn a_session_counts_as_one_in_its_handshake() {
    let (authority, tls) = parties();
    let limits = Limits::builder().max_sessions(1).over_limit(OverLimit::Refuse).refuse_line("full\n");
    let mut server = limited(&tls, limits.build().unwrap()).await;
    let mut stalled = server.connect().await;
    stalled.send(b"starttls\n").await;
    stalled.expect(b"go\n").await;
    assert_eq!(server.connect().await.rest().await, b"full\n");
    let mut peer = secure(stalled.stream, &authority.client()).await;
    expect(&mut peer, b"secure\n").await;
    assert_eq!(server.connect().await.rest().await, b"full\n");
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::Truncated);
    eventually("a free place", async || server.sessions().await.is_empty()).await;
    // Also after a handshake that fails.
    let mut stalled = server.connect().await;
    stalled.send(b"starttls\n").await;
    stalled.expect(b"go\n").await;
    stalled.send(b"no hello\n").await;
    stalled.rest().await;
    drop(stalled);
    assert_eq!(server.report().await.reason.name(), "tls-not-tls");
    eventually("a free place", async || server.sessions().await.is_empty()).await;
    let mut peer = server.connect().await;
    peer.send(b"one\n").await;
    peer.expect(b"one\n").await;
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::PeerEof);
    server.end_all().await;
}

#[actix::test]
async fn the_peers_end_in_its_handshake_is_an_end() {
    let (_authority, tls) = parties();
    for (bytes, reason) in [(b"".as_slice(), CloseReason::PeerEof), (&[22, 3, 1, 2, 0, 1], CloseReason::Truncated)] {
        let mut session = Conversation::start(&tls);
        session.send(b"starttls and more\n").await;
        session.expect(b"go\n").await;
        session.send(bytes).await;
        session.peer.shutdown().await.unwrap();
        let (rest, report, lines) = session.end().await;
        assert_eq!((rest.as_slice(), lines), (b"".as_slice(), log(&["starttls and more"])));
        assert_eq!((report.reason, report.unsent_bytes), (reason, 15), "{report}");
    }
    // A reset.
    let (mut server, peer) = stalled(&tls).await;
    peer.reset();
    let report = server.report().await;
    assert_eq!((report.reason, report.unsent_bytes), (CloseReason::PeerReset, 15), "{report}");
    server.end().await;
}

#[actix::test]
async fn one_that_ends_before_its_grant_has_left_sends_the_grant_and_nothing_else() {
    let (_authority, tls) = parties();
    for is_aborted in [false, true] {
        let mut session = Conversation::start(&tls);
        session.faults.stall(StreamCall::Write);
        session.send(b"starttls and more\n").await;
        session.heard("starttls and more").await;
        session.address.do_send(End(is_aborted));
        tokio::task::yield_now().await;
        eventually("the end to begin", async || !session.address.connected()).await;
        session.faults.resume(StreamCall::Write);
        let (rest, report, _) = session.end().await;
        let (sent, unsent) = if is_aborted { ("", 18) } else { ("go\n", 15) };
        assert_eq!(String::from_utf8_lossy(&rest), sent);
        assert_eq!((report.bytes_out, report.unsent_bytes), (sent.len() as u64, unsent), "{report}");
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct End(bool);

impl Handler<End> for Upgrader {
    type Result = ();
    fn handle(&mut self, End(is_aborted): End, ctx: &mut Self::Context) {
        if is_aborted { ctx.abort() } else { ctx.drain() }
    }
}

#[test]
fn an_arbiter_that_stops_sends_nothing_in_clear_that_was_written_for_the_filter() {
    let (_authority, tls) = parties();
    let peer = actix::System::new().block_on(async move {
        let mut session = Conversation::start(&tls);
        session.faults.stall(StreamCall::Write);
        session.send(b"starttls and more\n").await;
        session.heard("starttls and more").await;
        session.faults.resume(StreamCall::Write);
        session.peer
    });
    let mut peer = peer;
    let rest = actix::System::new().block_on(async move {
        let mut rest = Vec::new();
        let _ = within("the end", peer.read_to_end(&mut rest)).await;
        rest
    });
    assert!(b"go\n".starts_with(rest.as_slice()), "{:?}", String::from_utf8_lossy(&rest));
}

#[actix::test]
async fn a_filter_that_panics_ends_its_session_alone() {
    let (authority, tls) = parties();
    static HAS_PANICKED: AtomicBool = AtomicBool::new(false);
    /// Panics where it is dropped, if it was never begun.
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !HAS_PANICKED.swap(true, SeqCst) {
                panic!("a fault on purpose, where a filter is dropped");
            }
        }
    }
    impl Filter for Bomb {
        fn read(&mut self, _: &mut Inflow<'_>, _: &mut Vec<u8>, _: &mut Vec<u8>) -> Result<Flow, Fault> {
            panic!("a fault on purpose, in a filter")
        }
        fn write(&mut self, _: &[u8], _: &mut Vec<u8>) -> Result<(), Fault> {
            Ok(())
        }
        fn eof(&mut self) -> Eof {
            Eof::Clean
        }
        fn finish(&mut self, _: &mut Vec<u8>) {}
        fn held(&self) -> usize {
            0
        }
    }
    for behind in ["", "injected\n"] {
        HAS_PANICKED.store(false, SeqCst);
        let push: Push = |_, ctx| ctx.push_filter(Bomb);
        let mut session = Conversation::with(Upgrader { push, ..Upgrader::new(&tls) }, |session| session, &[]);
        session.send(format!("starttls and more\n{behind}").as_bytes()).await;
        let (rest, report, _) = session.end().await;
        let reason = if behind.is_empty() { CloseReason::FilterFailed } else { CloseReason::UpgradeInjection };
        assert_eq!((rest.as_slice(), report.reason), (b"go\n".as_slice(), reason), "{report}");
        assert_eq!(report.unsent_bytes, 15, "{report}");
    }
    // Another goes on.
    let mut session = Conversation::start(&tls);
    session.send(b"starttls\n").await;
    session.expect(b"go\n").await;
    let mut peer = secure(session.peer, &authority.client()).await;
    expect(&mut peer, b"secure\n").await;
}
