//! Behind telnet a session sees its lines and nothing else; what a peer says by commands comes in order with them.

mod support;

use std::sync::{Arc, Mutex};

use actix::{Actor, AsyncContext, Handler, Message, fut::wrap_future};
use actix_lines::{
    CloseReason, CloseReport, Framing, Line, LineContext, LineHandler, LineServer, LineSession, Listener, Rot13,
    Transport,
    filter::Notice,
    telnet::{Echo, Telnet, TelnetEvent, WindowSize},
    testing::{MemoryCapacity, memory_pair},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
};

use crate::support::{Server, cut, eventually, pause, within};

const IP: &[u8] = b"\xff\xf4";
const AYT: &[u8] = b"\xff\xf6";

/// What it was told, in order.
type Log = Arc<Mutex<Vec<String>>>;

#[derive(Default)]
struct Desk {
    log: Log,
    report: Option<oneshot::Sender<CloseReport>>,
    /// Waits after each line and each notice.
    waits: bool,
}

impl Desk {
    fn note(&self, what: String, ctx: &mut LineContext<Self>) {
        self.log.lock().unwrap().push(what);
        if self.waits {
            ctx.wait(wrap_future::<_, Self>(tokio::task::yield_now()));
        }
    }
}

impl Actor for Desk {
    type Context = LineContext<Self>;
}

impl LineHandler for Desk {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
        match line.text() {
            b"login" => assert!(ctx.tell_filter(&Echo(true))),
            b"secret" => assert!(ctx.tell_filter(&Echo(false))),
            b"word" => assert!(!ctx.tell_filter(&"which nobody knows")),
            b"pause" => ctx.pause(),
            b"size" => writeln!(ctx, "{:?}", ctx.connection().info::<WindowSize>()),
            _ => {}
        }
        self.note(String::from_utf8_lossy(&line).into_owned(), ctx);
    }

    fn notice(&mut self, notice: &Notice, ctx: &mut Self::Context) {
        assert_ne!(notice.get(), Some(&TelnetEvent::Abort), "a fault on purpose, in a notice");
        ctx.write(notice.answer());
        self.note(format!("{:?}", notice.get::<TelnetEvent>().unwrap()), ctx);
    }

    fn closed(&mut self, report: &CloseReport) {
        let _ = self.report.take().map(|closed| closed.send(report.clone()));
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Resume;

impl Handler<Resume> for Desk {
    type Result = ();
    fn handle(&mut self, _: Resume, ctx: &mut Self::Context) {
        ctx.resume();
    }
}

/// Sends `wire` in chunks, then the FIN. Returns what came back, what the handler was told, and the report.
async fn converse(telnet: Telnet, waits: bool, wire: &[u8], sizes: &[usize]) -> (Vec<u8>, Vec<String>, CloseReport) {
    let (ours, peer) = memory_pair(MemoryCapacity::default());
    let (closed, report) = oneshot::channel();
    let desk = Desk { report: Some(closed), waits, ..Desk::default() };
    let log = Arc::clone(&desk.log);
    LineSession::new(Transport::new(ours).with_filter(telnet.filter())).start(desk);
    let (mut reader, mut writer) = tokio::io::split(peer);
    let send = async {
        for chunk in cut(wire, sizes) {
            if writer.write_all(chunk).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let _ = writer.shutdown().await;
    };
    let mut answer = Vec::new();
    within("the end", async { tokio::join!(send, reader.read_to_end(&mut answer)).1.unwrap() }).await;
    drop((reader, writer));
    let report = within("the report", report).await.unwrap();
    let log = log.lock().unwrap().clone();
    (answer, log, report)
}

#[actix::test]
async fn rot13_behind_telnet_is_exact_for_every_byte() {
    let listener = Listener::tcp("127.0.0.1:0").telnet(Telnet::new());
    let mut server = Server::of(LineServer::new(|_| Rot13).listen(listener).unwrap()).await;
    for (wire, answer) in [
        (b"a\r\n".as_slice(), b"n\r\n".as_slice()),
        (b"a\n", b"n\n"),
        (b"a\r\0b\n", b"n\r\0o\n"),
        (b"\xff\xff\xff\xff a\n", b"\xff\xff\xff\xff n\n"),
        (b"\xff\xfb\x18a\xff\xf1b\n", b"\xff\xfe\x18no\n"),
        (b"a tail\xff", b"n gnvy"),
    ] {
        let mut peer = server.connect().await;
        peer.send(wire).await;
        peer.stream.shutdown().await.unwrap();
        let mut got = Vec::new();
        within("the answer", peer.stream.read_to_end(&mut got)).await.unwrap();
        assert_eq!(got.escape_ascii().to_string(), answer.escape_ascii().to_string());
        assert_eq!(server.report().await.reason, CloseReason::PeerEof);
    }
    server.end().await;
}

#[actix::test]
async fn what_a_peer_says_comes_in_order_with_its_lines_wherever_the_wire_is_cut_and_whatever_is_waited_for() {
    pause();
    let wire =
        [b"one\r\n".as_slice(), IP, b"two\nthr", b"\xff\xf3", b"ee\n", AYT, b"\xff\xf8\xff\xf7\xff\xf5", b"end\n", AYT]
            .concat();
    let told = [
        "one\r\n",
        "Interrupt",
        "two\n",
        "Break",
        "three\n",
        "AreYouThere",
        "EraseLine",
        "EraseCharacter",
        "AbortOutput",
        "end\n",
        "AreYouThere",
    ];
    let answer = b"one\r\ntwo\nthree\n\r\n[Yes]\r\nend\n\r\n[Yes]\r\n";
    for waits in [false, true] {
        for at in 1..=wire.len() {
            for sizes in [[at, wire.len()].as_slice(), &[at]] {
                let (sent, log, report) = converse(Telnet::new(), waits, &wire, sizes).await;
                let what = format!("in chunks of {sizes:?}, waits: {waits}");
                assert_eq!(log, told, "{what}");
                assert_eq!(sent.escape_ascii().to_string(), answer.escape_ascii().to_string(), "{what}");
                assert_eq!((report.reason, report.lines_in, report.bytes_in), (CloseReason::PeerEof, 4, 19), "{what}");
                assert_eq!((report.bytes_out, report.unsent_bytes), (answer.len() as u64, 0), "{what}");
            }
        }
    }
}

#[actix::test]
async fn what_a_peer_says_waits_as_its_lines_do_while_a_session_is_paused() {
    let wire = [b"one\npause\n".as_slice(), AYT, b"two\npause\n", IP, IP, b"end\n"].concat();
    let parts: [&[&str]; 3] =
        [&["one\n", "pause\n"], &["AreYouThere", "two\n", "pause\n"], &["Interrupt", "Interrupt", "end\n"]];
    for at in 1..=wire.len() {
        let (ours, mut peer) = memory_pair(MemoryCapacity::default());
        let (closed, report) = oneshot::channel();
        let desk = Desk { report: Some(closed), ..Desk::default() };
        let log = Arc::clone(&desk.log);
        let desk = LineSession::new(Transport::new(ours).with_filter(Telnet::new().filter())).start(desk);
        for chunk in cut(&wire, &[at, wire.len()]) {
            peer.write_all(chunk).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut told: Vec<&str> = Vec::new();
        for part in parts {
            told.extend(part);
            eventually("what comes before the pause", async || log.lock().unwrap().len() >= told.len()).await;
            // A message, and the turn that handles it: nothing else comes meanwhile.
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            assert_eq!(*log.lock().unwrap(), told, "cut at {at}");
            desk.send(Resume).await.unwrap();
        }
        drop(peer);
        let report = within("the report", report).await.unwrap();
        assert_eq!((report.lines_in, report.undelivered_bytes), (5, 0), "cut at {at}: {report}");
    }
}

#[actix::test]
async fn the_size_of_the_window_is_asked_for_told_at_each_change_and_known_to_the_connection() {
    let wire = b"\xff\xfb\x1fsize\n\xff\xfa\x1f\0\x50\0\x18\xff\xf0\xff\xfa\x1f\0\x50\0\x18\xff\xf0size\n\
        \xff\xfa\x1f\x01\xff\xff\0\x19\xff\xf0\xff\xfa\x1fbad\xff\xf0size\n";
    let telnet = Telnet::new().window_size(true);
    let (sent, log, _) = converse(telnet, false, wire, &[wire.len()]).await;
    let told = |columns, rows| format!("{:?}", TelnetEvent::WindowSize(WindowSize { columns, rows }));
    assert_eq!(log, ["size\n", &told(80, 24), "size\n", &told(511, 25), "size\n"]);
    let text = String::from_utf8_lossy(&sent[3..]).into_owned();
    let known = |columns, rows| format!("size\n{:?}\n", Some(WindowSize { columns, rows }));
    assert!(
        text.ends_with(&[known(80, 24), known(511, 25)].concat()) || text.ends_with(&known(511, 25).repeat(2)),
        "{text}"
    );
    assert_eq!(sent[..3], *b"\xff\xfd\x1f", "it is asked for once");
    let (sent, log, _) = converse(Telnet::new(), false, wire, &[wire.len()]).await;
    assert_eq!((&sent[..3], log), (b"\xff\xfe\x1f".as_slice(), vec!["size\n".to_owned(); 3]), "nobody asked");
}

#[actix::test]
async fn a_handler_has_the_echo_turned_off_and_on_and_a_word_that_no_filter_knows_is_refused() {
    let listener = Listener::tcp("127.0.0.1:0").telnet(Telnet::new());
    let server = Server::of(LineServer::new(|_| Desk::default()).listen(listener).unwrap()).await;
    let mut peer = server.connect().await;
    for (sent, answer) in [
        (b"word\n".as_slice(), b"word\n".as_slice()),
        (b"login\n", b"\xff\xfb\x01login\n"),
        // Its answer is not answered.
        (b"\xff\xfd\x01login\n", b"login\n"),
        (b"secret\n", b"\xff\xfc\x01secret\n"),
        (b"\xff\xfe\x01login\n", b"\xff\xfb\x01login\n"),
        // One that refuses.
        (b"\xff\xfe\x01secret\n", b"secret\n"),
    ] {
        peer.send(sent).await;
        let mut got = vec![0; answer.len()];
        within("an answer", peer.stream.read_exact(&mut got)).await.unwrap();
        assert_eq!(got.escape_ascii().to_string(), answer.escape_ascii().to_string());
    }
}

#[actix::test]
async fn a_panic_in_a_notice_ends_its_session_alone_and_what_was_written_before_is_sent() {
    let listener = Listener::tcp("127.0.0.1:0").telnet(Telnet::new());
    let mut server = Server::of(LineServer::new(|_| Desk::default()).workers(1).listen(listener).unwrap()).await;
    let (mut peer, mut other) = (server.connect().await, server.connect().await);
    peer.send(b"one\n\xff\xeetwo\n").await;
    let mut sent = Vec::new();
    within("the end", peer.stream.read_to_end(&mut sent)).await.unwrap();
    assert_eq!(sent, b"one\n");
    drop(peer);
    let report = server.report().await;
    assert_eq!((report.reason, report.lines_in), (CloseReason::HandlerPanicked, 1));
    other.send(AYT).await;
    let mut answer = [0; 9];
    within("an answer", other.stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"\r\n[Yes]\r\n");
}

#[actix::test]
async fn a_flood_of_questions_is_answered_whole_and_leaves_others_their_turns() {
    let listener = Listener::tcp("127.0.0.1:0").framing(Framing::lf()).telnet(Telnet::new());
    let server = Server::of(LineServer::new(|_| Desk::default()).workers(1).listen(listener).unwrap()).await;
    const QUESTIONS: usize = 20_000;
    let (mut flood, mut typist) = (server.connect().await, server.connect().await);
    let (mut reader, mut writer) = flood.stream.split();
    let questions = AYT.repeat(QUESTIONS);
    let ask = async {
        writer.write_all(&questions).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut answers = Vec::new();
    let types = async {
        for _ in 0..20 {
            typist.stream.write_all(b"hello\n").await.unwrap();
            let mut echo = [0; 6];
            typist.stream.read_exact(&mut echo).await.unwrap();
            assert_eq!(&echo, b"hello\n");
        }
    };
    within("both", async { tokio::join!(ask, reader.read_to_end(&mut answers), types).1.unwrap() }).await;
    assert!(answers == b"\r\n[Yes]\r\n".repeat(QUESTIONS), "{} bytes", answers.len());
}
