//! A recorded session is a script that holds when it is run again, and no session is any worse for being recorded.

mod support;

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};

use actix::{Actor, ActorContext, AsyncContext, fut::wrap_future};
use actix_lines::{
    Address, CloseReason, Connection, Line, LineContext, LineHandler, LineServer, LineSession, Listener, Rot13,
    Transport,
    control::Drain,
    filter::{Eof, Fault, Filter, Flow, Inflow},
    limits::Limits,
    record::{Event, RecordLimits, Recorder, Writer},
    script::{Script, ScriptOptions, Target},
    testing::{FaultyStream, MemoryCapacity, StreamCall, memory_pair},
};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{PATIENCE, Server, eventually, pass, pause, within};

/// A folder of this test's own, which is removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        let name = format!("record-{}-{}", std::process::id(), LAST.fetch_add(1, Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn recorder(&self, limits: RecordLimits) -> Recorder {
        Recorder::open(&self.0, limits).unwrap()
    }

    /// Its files in the order of their names, which is that of time.
    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// The text of its only file, once everything is written.
    fn text(&self, recorder: &Recorder) -> String {
        flush(recorder);
        let files = self.files();
        assert_eq!(files.len(), 1, "{files:?}");
        fs::read_to_string(&files[0]).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn flush(recorder: &Recorder) {
    assert!(recorder.flush(PATIENCE), "the recorder did not write");
}

/// The statements of a recording.
fn statements(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

fn holds(text: &str, target: &Target) -> Result<(), TestCaseError> {
    let script = Script::parse("recorded.session", text);
    let ran = script.map_err(|error| error.to_string()).and_then(|script| {
        let ran = script.run(target, &ScriptOptions::default().timeout(PATIENCE));
        ran.map(drop).map_err(|failure| failure.to_string())
    });
    ran.map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))
}

fn assert_holds(text: &str, target: &Target) {
    holds(text, target).unwrap();
}

/// A service with a prompt, ends of several kinds, and answers that take their time.
struct Menu;

impl Actor for Menu {
    type Context = LineContext<Self>;
}

impl LineHandler for Menu {
    fn opened(&mut self, ctx: &mut Self::Context) {
        ctx.write(b"your name? ");
    }

    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        match line.text() {
            b"later" => {
                ctx.run_later(Duration::from_secs(3), |_, ctx| ctx.write(b"later\r\n"));
            }
            b"wait" => {
                ctx.wait(wrap_future::<_, Self>(pass(Duration::from_secs(2))));
                ctx.write(b"waited\n");
            }
            b"quit" => {
                ctx.write(b"bye\r\n");
                ctx.stop();
            }
            b"half" => {
                ctx.write(b"that was all\n");
                ctx.half_close();
            }
            b"abort" => ctx.terminate(),
            b"panic" => {
                ctx.write(b"a fault\n");
                panic!("a fault on purpose");
            }
            text => {
                ctx.write(text);
                ctx.write(if text.len() % 3 == 0 { &b"\r\n> "[..] } else { b"\n" });
            }
        }
    }
}

fn patient() -> Limits {
    Limits::builder().idle_timeout(Some(Duration::from_secs(10))).build().unwrap()
}

fn menu() -> Target {
    Target::memory(|transport| {
        LineSession::new(transport).limits(patient()).start(Menu);
    })
}

fn rot13() -> Target {
    Target::memory(|transport| {
        LineSession::new(transport).start(Rot13);
    })
}

#[derive(Clone, Debug)]
enum Step {
    Send(Vec<u8>),
    Sleep(u64),
}

#[derive(Clone, Copy, Debug)]
enum End {
    Fin,
    Close,
    Reset,
}

/// Those behind the sixth mean nothing to the menu.
const WORDS: &[&str] =
    &["later", "wait", "quit", "half", "abort", "panic", "hello", "", " blank ", "$name ${x} $$", "/a/", "\"b\"", "#"];

/// What a random peer may send: some of it means something to the menu.
fn chunk() -> impl Strategy<Value = Vec<u8>> {
    let newline = prop_oneof![3 => Just("\n"), 1 => Just("\r\n"), 1 => Just("")];
    let word = (prop::sample::select(WORDS), newline).prop_map(|(word, end)| format!("{word}{end}").into_bytes());
    let harmless = (prop::sample::select(&WORDS[6..]), prop::sample::select(vec!["\n", "\r\n", "\r", ""]));
    let harmless = harmless.prop_map(|(word, end)| format!("{word}{end}").into_bytes());
    prop_oneof![
        2 => word,
        4 => harmless,
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => any::<String>().prop_map(String::into_bytes),
        1 => (1_usize..9000).prop_map(|len| "long \u{e9}".bytes().cycle().take(len).collect()),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![5 => chunk().prop_map(Step::Send), 1 => (0_u64..5000).prop_map(Step::Sleep)];
    prop::collection::vec(step, 0..10)
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![3 => Just(End::Fin), 1 => Just(End::Close), 1 => Just(End::Reset)]
}

/// Lets a session in memory live through this; returns what was recorded.
fn recorded_in_memory(start: fn(Transport), steps: &[Step], end: End, limits: RecordLimits) -> String {
    let folder = Folder::new();
    let recorder = folder.recorder(limits);
    actix_rt::System::new().block_on(async {
        tokio::time::pause();
        let (theirs, peer) = memory_pair(MemoryCapacity::default());
        let (theirs, faults) = FaultyStream::new(theirs);
        let connection = Connection::between(Address::Memory, Address::Memory);
        start(Transport::new(theirs).with_filter(recorder.session(&connection)));
        let (mut reader, mut writer) = tokio::io::split(peer);
        let read = actix_rt::spawn(async move {
            let _ = reader.read_to_end(&mut Vec::new()).await;
            reader
        });
        for step in steps {
            match step {
                Step::Send(bytes) => {
                    // Who is closed by the service says no more.
                    let _ = writer.write_all(bytes).await;
                    for _ in 0..3 {
                        tokio::task::yield_now().await;
                    }
                }
                Step::Sleep(millis) => pass(Duration::from_millis(*millis)).await,
            }
        }
        match end {
            End::Fin => {
                let _ = writer.shutdown().await;
                let _ = read.await;
            }
            End::Close => read.abort(),
            End::Reset => {
                faults.fail(StreamCall::Read, io::ErrorKind::ConnectionReset);
                faults.fail(StreamCall::Write, io::ErrorKind::ConnectionReset);
            }
        }
        drop(writer);
        // Timers, timeouts, lingering.
        pass(Duration::from_secs(100)).await;
    });
    folder.text(&recorder)
}

fn start_menu(transport: Transport) {
    LineSession::new(transport).limits(patient()).start(Menu);
}

fn start_rot13(transport: Transport) {
    LineSession::new(transport).start(Rot13);
}

/// The menu on TCP.
fn menu_on_tcp() -> Target {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    let address = ADDRESS.get_or_init(|| {
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let server = LineServer::new(|_| Menu).workers(1).bind("127.0.0.1:0").unwrap().start().unwrap();
                tell.send(server.local_addrs()[0]).unwrap();
                server.wait().await
            })
        });
        told.recv().unwrap()
    });
    Target::tcp(address.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_session_that_was_recorded_holds_when_it_is_run_again(steps in steps(), end in end()) {
        let text = recorded_in_memory(start_menu, &steps, end, RecordLimits::default());
        holds(&text, &menu())?;
    }

    #[test]
    fn any_session_with_rot13_holds_up_to_its_eof(steps in steps(), end in end()) {
        let text = recorded_in_memory(start_rot13, &steps, end, RecordLimits::default());
        holds(&text, &rot13())?;
        if let End::Fin = end {
            prop_assert_eq!(statements(&text).last().copied(), Some(": eof"), "{}", text);
        }
    }

    #[test]
    fn a_session_that_was_cut_holds_and_is_no_longer_than_it_may_be(steps in steps(), end in end(), most in 1024_u64..4000) {
        let limits = RecordLimits::default().session_bytes(most);
        let text = recorded_in_memory(start_menu, &steps, end, limits);
        prop_assert!(text.len() as u64 <= most, "{} of {}", text.len(), most);
        holds(&text, &menu())?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_session_holds_over_tcp_too(
        steps in steps().prop_map(|steps| steps.into_iter().filter(|step| match step {
            // What takes time takes it on a real clock.
            Step::Send(bytes) => bytes != b"later\n" && !bytes.starts_with(b"wait") && bytes != b"later\r\n",
            Step::Sleep(_) => false,
        }).collect::<Vec<_>>()),
        end in end(),
    ) {
        let text = recorded_in_memory(start_menu, &steps, end, RecordLimits::default().gaps(false));
        holds(&text, &menu_on_tcp())?;
    }
}

#[test]
fn a_recording_reads_as_what_happened() {
    let send = |text: &str| Step::Send(text.as_bytes().to_vec());
    let steps = [
        send("ali"),
        send("ce\n"),
        send("$x\r\ny\n"),
        Step::Sleep(2500),
        send("  blank\n"),
        send("\0\x07"),
        send("\n"),
        send("later\n"),
        Step::Sleep(4000),
    ];
    let text = recorded_in_memory(start_menu, &steps, End::Fin, RecordLimits::default());
    let expected = [
        "< \"your name? \"",
        "> alice",
        "< alice",
        "> \"$$x\\r\\n\"",
        "> y",
        "< $$x",
        "< y",
        ": after 2s",
        "> \"  blank\\n\"",
        "< \"  blank\\n\"",
        "> \"\\0\\u{7}\"",
        "> \"\\n\"",
        "< \"\\0\\u{7}\\n\"",
        "> later",
        ": after 3s",
        "< later",
        ": after 1s",
        ": fin",
        ": eof",
    ];
    let statements = statements(&text);
    // `$x` alone would be a variable; what is quoted has its own terminator.
    assert_eq!(statements[..3], expected[..3], "{text}");
    assert_eq!(statements[statements.len() - 6..], expected[expected.len() - 6..], "{text}");
    assert!(statements.contains(&"> \"$$x\\r\\n\"") && statements.contains(&"> \"  blank\\n\""), "{text}");
    assert!(statements.contains(&": after 2s"), "{text}");
    assert!(text.starts_with("# session "), "{text}");
    assert!(text.ends_with(" unsent\n") && text.contains("\n# ended: peer-eof, after 6.5"), "{text}");
}

#[test]
fn times_are_left_out_on_request_and_then_a_timeouts_end_is_not_expected() {
    let steps = [Step::Send(b"hello\n".to_vec()), Step::Sleep(20_000)];
    let text = recorded_in_memory(start_menu, &steps, End::Fin, RecordLimits::default());
    assert!(text.contains("\n: after 10s\n: eof\n"), "{text}");
    let text = recorded_in_memory(start_menu, &steps, End::Fin, RecordLimits::default().gaps(false));
    assert!(!text.contains(": after"), "{text}");
    let text = recorded_in_memory(start_menu, &steps, End::Reset, RecordLimits::default().gaps(false));
    assert_holds(&text, &menu());
}

#[test]
fn several_peers_share_a_script_by_name_in_the_order_of_what_happened() {
    let second = Duration::from_secs(1);
    let mut writer = Writer::new(Vec::new());
    let events: &[(&str, u32, Event<'_>)] = &[
        ("alice", 0, Event::Connect),
        ("bob", 0, Event::Connect),
        ("alice", 0, Event::Sent(b"hel")),
        ("bob", 0, Event::Received(b"welcome\r\n")),
        ("alice", 0, Event::Sent(b"lo\r\nall\r\n")),
        ("bob", 3, Event::Sent(b"x\n")),
        ("alice", 3, Event::Sent(b"y\r\n")),
        ("alice", 3, Event::Fin),
        ("bob", 63, Event::ResetByPeer),
        ("carol", 63, Event::Connect),
    ];
    for (peer, at, event) in events {
        writer.event(peer, second * *at, *event).unwrap();
    }
    writer.comment("a \u{202e} remark\nin two lines").unwrap();
    let text = String::from_utf8(writer.finish().unwrap()).unwrap();
    let expected = "alice: connect\nbob: connect\nalice> \"hel\"\nbob< welcome\nnewline crlf\nalice> lo\nalice> all\n: after 3s\n\
                    newline lf\nbob> x\nnewline crlf\nalice> y\nalice: fin\n: after 1m\nbob: reset by peer\ncarol: connect\n\
                    # a \\u{202e} remark\\nin two lines\nalice: reset\ncarol: reset\n";
    assert_eq!(text, expected);
    Script::parse("peers.session", text).unwrap();
}

#[test]
fn a_script_has_the_bytes_of_both_sides_however_they_were_cut() {
    let text = "na\u{ef}ve \u{1f980}\r\n".repeat(300);
    let line = "\u{1f980}".repeat(3000);
    for size in [1, 2, 3, 7, 1000, 5000, 100_000] {
        let mut writer = Writer::new(Vec::new());
        let mut send = |is_ours: bool, bytes: &[u8]| {
            for chunk in bytes.chunks(size) {
                let event = if is_ours { Event::Sent(chunk) } else { Event::Received(chunk) };
                writer.event("", Duration::ZERO, event).unwrap();
            }
        };
        send(true, text.as_bytes());
        send(false, text.as_bytes());
        send(true, line.as_bytes());
        send(false, line.as_bytes());
        let script = String::from_utf8(writer.finish().unwrap()).unwrap();
        assert_eq!(script.matches("> na\u{ef}ve \u{1f980}\n").count(), 300, "{size}");
        assert_eq!(script.matches("< na\u{ef}ve \u{1f980}\n").count(), 300, "{size}");
        assert_eq!(
            script.matches('\u{1f980}').count(),
            2 * 300 + 2 * 3000,
            "no character was cut, in chunks of {size}"
        );
        Script::parse("bytes.session", script).unwrap();
    }
}

/// A server whose sessions are recorded.
async fn recorded(folder: &Folder, limits: RecordLimits) -> (Server, Recorder) {
    // A busy machine takes its time.
    let recorder = folder.recorder(limits.gaps(false));
    let server = LineServer::new(|_| Rot13).record(&recorder).listen(Listener::tcp("127.0.0.1:0").name("a/b")).unwrap();
    (Server::start(server).await, recorder)
}

#[actix::test]
async fn a_servers_sessions_have_a_file_each_that_names_peer_listener_and_end() {
    let folder = Folder::new();
    let (mut server, recorder) = recorded(&folder, RecordLimits::default()).await;
    for _ in 0..3 {
        let mut peer = server.connect().await;
        peer.send(b"Hello\n").await;
        peer.expect(b"Uryyb\n").await;
        peer.shutdown_write().await;
        peer.expect_eof().await;
        assert_eq!(server.report().await.reason, CloseReason::PeerEof);
    }
    flush(&recorder);
    let files = folder.files();
    assert_eq!(files.len(), 3);
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        assert_eq!(statements(&text), ["> Hello", "< Uryyb", ": fin", ": eof"], "{text}");
        assert!(text.starts_with("# session "), "{text}");
        assert!(text.contains(" of listener a/b, peer 127.0.0.1:"), "{text}");
        assert!(text.contains("\n# ended: peer-eof, after "), "{text}");
        assert!(text.contains(": 1 line and 6 bytes in, 6 bytes out, 0 unsent\n"), "{text}");
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(name.ends_with("-a-b.session") && name.starts_with("20"), "{name}");
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_holds(&text, &rot13());
    }
    assert_eq!(fs::metadata(&folder.0).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(recorder.stats().sessions, 3);
    server.end().await;
}

#[actix::test]
async fn a_listener_has_a_recorder_of_its_own_and_others_are_not_recorded() {
    let folder = Folder::new();
    let recorder = folder.recorder(RecordLimits::default().gaps(false));
    let server = LineServer::new(|_| Rot13)
        .bind("127.0.0.1:0")
        .unwrap()
        .listen(Listener::tcp("127.0.0.1:0").record(&recorder))
        .unwrap()
        .on_current_arbiter()
        .start()
        .unwrap();
    for address in server.local_addrs() {
        let mut peer = tokio::net::TcpStream::connect(address).await.unwrap();
        peer.write_all(b"a\n").await.unwrap();
        peer.shutdown().await.unwrap();
        within("the answer", peer.read_to_end(&mut Vec::new())).await.unwrap();
    }
    server.drain(PATIENCE).await.unwrap();
    let text = folder.text(&recorder);
    assert_eq!(statements(&text), ["> a", "< n", ": fin", ": eof"], "{text}");
    assert!(text.contains(" of listener 1, "), "{text}");
}

/// Waits for the reports of sessions, and ends their server.
async fn over(mut server: Server, sessions: usize) {
    for _ in 0..sessions {
        server.report().await;
    }
    server.end().await;
}

/// A filter whose wire is its plain bytes with all bits turned, and what it makes of the wire's end.
struct Turned(Eof);

impl Filter for Turned {
    fn read(&mut self, wire: &mut Inflow<'_>, plain: &mut Vec<u8>, _: &mut Vec<u8>) -> Result<Flow, Fault> {
        plain.extend(wire.take(usize::MAX).iter().map(|byte| !byte));
        Ok(Flow::Open)
    }
    fn write(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Fault> {
        wire.extend(plain.iter().map(|byte| !byte));
        Ok(())
    }
    fn eof(&mut self) -> Eof {
        self.0
    }
    fn finish(&mut self, _: &mut Vec<u8>) {}
    fn held(&self) -> usize {
        0
    }
}

#[actix::test]
async fn what_is_recorded_are_the_plain_bytes_behind_all_filters() {
    let folder = Folder::new();
    let recorder = folder.recorder(RecordLimits::default().gaps(false));
    let listener = Listener::tcp("127.0.0.1:0").record(&recorder).filter(|_| Turned(Eof::Clean));
    let server = Server::start(LineServer::new(|_| Rot13).listen(listener).unwrap()).await;
    let mut peer = server.connect().await;
    let turned = |text: &[u8]| text.iter().map(|byte| !byte).collect::<Vec<_>>();
    peer.send(&turned(b"Hello\n")).await;
    peer.expect(&turned(b"Uryyb\n")).await;
    peer.shutdown_write().await;
    peer.expect_eof().await;
    over(server, 1).await;
    assert_eq!(statements(&folder.text(&recorder)), ["> Hello", "< Uryyb", ": fin", ": eof"]);
}

#[actix::test]
async fn an_end_that_only_a_filter_saw_is_none_that_a_script_expects() {
    let folder = Folder::new();
    let recorder = folder.recorder(RecordLimits::default().gaps(false));
    let listener = Listener::tcp("127.0.0.1:0").record(&recorder).filter(|_| Turned(Eof::Truncated));
    let mut server = Server::start(LineServer::new(|_| Rot13).listen(listener).unwrap()).await;
    let mut peer = server.connect().await;
    peer.send(&b"Hello\n".map(|byte| !byte)).await;
    peer.shutdown_write().await;
    peer.rest().await;
    assert_eq!(server.report().await.reason, CloseReason::Truncated);
    server.end().await;
    let text = folder.text(&recorder);
    assert_eq!(statements(&text), ["> Hello", "< Uryyb", ": reset"], "{text}");
    assert_holds(&text, &rot13());
}

#[actix::test]
async fn a_drain_in_the_middle_loses_nothing_and_is_no_end_that_a_script_expects() {
    let folder = Folder::new();
    let (server, recorder) = recorded(&folder, RecordLimits::default()).await;
    let mut peers = Vec::new();
    for _ in 0..20 {
        let mut peer = server.connect().await;
        peer.send(b"Hello\nhalf a li").await;
        peer.expect(b"Uryyb\n").await;
        peers.push(peer);
    }
    let handle = server.handle.clone();
    let drained = actix_rt::spawn(async move { handle.drain(Drain::within(PATIENCE)).await });
    for mut peer in peers {
        peer.expect_eof().await;
    }
    within("the drain", drained).await.unwrap().unwrap();
    flush(&recorder);
    let files = folder.files();
    assert_eq!(files.len(), 20);
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        assert_eq!(statements(&text), ["> Hello", "> \"half a li\"", "< Uryyb", ": reset"], "{text}");
        assert!(text.contains("# ended: drained, "), "{text}");
        assert_holds(&text, &rot13());
    }
}

#[actix::test]
async fn whatever_ends_a_session_its_recording_holds() {
    let folder = Folder::new();
    let recorder = folder.recorder(RecordLimits::default().gaps(false));
    let server = Server::start(LineServer::new(|_| Menu).record(&recorder).bind("127.0.0.1:0").unwrap()).await;
    let mut server = server;
    for (said, end) in [("quit\n", "closed-by-handler"), ("abort\n", "aborted"), ("panic\n", "handler-panicked")] {
        let mut peer = server.connect().await;
        peer.expect(b"your name? ").await;
        peer.send(said.as_bytes()).await;
        let report = server.report().await;
        assert_eq!(report.reason.name(), end);
    }
    // A reset, while an answer is under way.
    let mut peer = server.connect().await;
    peer.expect(b"your name? ").await;
    peer.reset();
    assert_eq!(server.report().await.reason, CloseReason::PeerReset);
    flush(&recorder);
    let texts: Vec<_> = folder.files().iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let prompt = "< \"your name? \"";
    assert_eq!(statements(&texts[0])[..4], [prompt, "> quit", "< bye", ": eof"], "{}", texts[0]);
    assert_eq!(statements(&texts[1]), [prompt, "> abort", ": reset"], "{}", texts[1]);
    assert_eq!(statements(&texts[2])[..4], [prompt, "> panic", "< a fault", ": eof"], "{}", texts[2]);
    assert_eq!(statements(&texts[3]), [prompt, ": reset"], "{}", texts[3]);
    for text in &texts {
        assert_holds(text, &menu());
    }
    server.end().await;
}

/// Its ROT13.
fn turned(mut bytes: Vec<u8>) -> Vec<u8> {
    actix_lines::rot13(&mut bytes);
    bytes
}

/// What a peer sends and gets back by itself, on a thread.
fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let peer = TcpStream::connect(address).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut writer = peer.try_clone().unwrap();
    let bytes = bytes.to_vec();
    let sends = thread::spawn(move || {
        writer.write_all(&bytes).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut answer = Vec::new();
    (&peer).read_to_end(&mut answer).unwrap();
    sends.join().unwrap();
    answer
}

#[actix::test]
async fn garbage_and_a_line_without_end_are_answered_whole_and_cut_in_the_recording() {
    let folder = Folder::new();
    let (server, recorder) = recorded(&folder, RecordLimits::default().session_bytes(10_000)).await;
    let garbage: Vec<u8> = (0..300_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let nuls = vec![0; 100_000];
    let endless = vec![b'a'; 1 << 20];
    let address = server.address();
    let answers = tokio::task::spawn_blocking(move || {
        [garbage, nuls, endless].map(|bytes| exchange(address, &bytes) == turned(bytes))
    });
    assert_eq!(within("the answers", answers).await.unwrap(), [true; 3]);
    over(server, 3).await;
    flush(&recorder);
    let files = folder.files();
    assert_eq!(files.len(), 3);
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        assert!(text.len() <= 10_000 && text.len() > 5_000, "{}", text.len());
        assert!(text.contains("\n# cut here after ") && text.ends_with("\n: reset\n"), "{text}");
        assert!(text.lines().all(|line| line.len() < 5000));
        assert_holds(&text, &rot13());
    }
    assert_eq!(recorder.stats().cut, 3);
}

#[actix::test]
async fn a_thousand_sessions_at_once_leave_no_more_files_and_bytes_than_they_may() {
    const SESSIONS: usize = 1000;
    let folder = Folder::new();
    let limits = RecordLimits::default().files(100).total_bytes(20_000);
    let (server, recorder) = recorded(&folder, limits).await;
    let mut peers = Vec::new();
    for number in 0..SESSIONS {
        let mut peer = server.connect().await;
        peer.send(format!("I am {number}\n").as_bytes()).await;
        peers.push(peer);
    }
    let check = || {
        // One may be on its way out.
        let files: Vec<_> = folder.files().into_iter().filter_map(|file| fs::metadata(file).ok()).collect();
        assert!(files.len() <= 101, "{} files", files.len());
        let bytes: u64 = files.iter().map(|file| file.len()).sum();
        assert!(bytes <= 22_000, "{bytes} bytes");
    };
    for (number, peer) in peers.iter_mut().enumerate() {
        let answer = turned(format!("I am {number}\n").into_bytes());
        peer.expect(&answer).await;
        peer.shutdown_write().await;
        peer.expect_eof().await;
        if number % 100 == 0 {
            check();
        }
    }
    over(server, SESSIONS).await;
    flush(&recorder);
    check();
    let stats = recorder.stats();
    assert_eq!((stats.sessions, stats.failed, stats.overrun), (SESSIONS as u64, 0, 0), "{stats:?}");
    assert!(stats.removed >= (SESSIONS - 100) as u64, "{stats:?}");
    for file in folder.files().into_iter().take(10) {
        assert_holds(&fs::read_to_string(file).unwrap(), &rot13());
    }
}

#[actix::test]
async fn a_folder_that_takes_nothing_harms_no_session_and_is_counted() {
    let folder = Folder::new();
    let (server, recorder) = recorded(&folder, RecordLimits::default()).await;
    fs::remove_dir_all(&folder.0).unwrap();
    for _ in 0..5 {
        let mut peer = server.connect().await;
        peer.send(b"Hello\n").await;
        peer.expect(b"Uryyb\n").await;
        peer.shutdown_write().await;
        peer.expect_eof().await;
    }
    over(server, 5).await;
    flush(&recorder);
    let stats = recorder.stats();
    assert_eq!((stats.sessions, stats.failed), (5, 5), "{stats:?}");
    // Once it is there again there are recordings again.
    fs::create_dir(&folder.0).unwrap();
    let server = LineServer::new(|_| Rot13).record(&recorder).bind("127.0.0.1:0").unwrap();
    let server = Server::start(server).await;
    drop(server.connect().await);
    over(server, 1).await;
    assert!(folder.text(&recorder).starts_with("# session "));
}

/// A disk that is soon full. Not there without the right to mount one.
struct SmallDisk(Folder);

impl SmallDisk {
    fn new() -> Option<Self> {
        let folder = Folder::new();
        fs::create_dir(&folder.0).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&folder.0).output();
        mounted.is_ok_and(|mounted| mounted.status.success()).then_some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0.0).status();
    }
}

#[actix::test]
async fn a_full_disk_harms_no_session_and_leaves_whole_scripts() {
    let Some(disk) = SmallDisk::new() else {
        eprintln!("not tested: only root may mount a disk");
        return;
    };
    let folder = &disk.0;
    let (server, recorder) = recorded(folder, RecordLimits::default()).await;
    let mut peers = Vec::new();
    for _ in 0..20 {
        peers.push(server.connect().await);
    }
    let line = [&[b'a'; 999][..], b"\n"].concat();
    for _ in 0..10 {
        for peer in &mut peers {
            peer.send(&line).await;
            peer.expect(&turned(line.clone())).await;
        }
    }
    for mut peer in peers {
        peer.shutdown_write().await;
        peer.expect_eof().await;
    }
    over(server, 20).await;
    flush(&recorder);
    let stats = recorder.stats();
    // Each once, however many of its writes come too late.
    assert!(stats.failed > 0 && stats.failed <= 20, "{stats:?}");
    let mut cut = 0;
    for file in folder.files() {
        let text = fs::read_to_string(&file).unwrap();
        cut += usize::from(text.ends_with("# recorded until here\n: reset\n"));
        assert_holds(&text, &rot13());
    }
    assert!(cut > 0, "none was cut in its middle");
}

#[test]
fn a_folder_that_cannot_be_used_is_an_error_at_the_start() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("no-folder-{}", std::process::id()));
    fs::write(&file, "a file").unwrap();
    assert!(Recorder::open(&file, RecordLimits::default()).is_err());
    assert!(Recorder::open(file.join("below"), RecordLimits::default()).is_err());
    fs::remove_file(file).unwrap();
}

#[actix::test]
async fn a_file_is_a_whole_script_while_its_session_lives() {
    let folder = Folder::new();
    let (server, recorder) = recorded(&folder, RecordLimits::default()).await;
    let mut peer = server.connect().await;
    peer.send(b"Hello\n").await;
    peer.expect(b"Uryyb\n").await;
    let text = folder.text(&recorder);
    assert_eq!(statements(&text), ["> Hello", "< Uryyb", ": reset"], "{text}");
    assert_holds(&text, &rot13());
    peer.send(b"again\n").await;
    peer.expect(b"ntnva\n").await;
    // By itself within a second or so.
    eventually("the file to grow", async || fs::read_to_string(&folder.files()[0]).unwrap().contains("ntnva")).await;
    peer.shutdown_write().await;
    peer.expect_eof().await;
    over(server, 1).await;
    let text = folder.text(&recorder);
    assert_eq!(statements(&text), ["> Hello", "< Uryyb", "> again", "< ntnva", ": fin", ": eof"], "{text}");
}

#[actix::test]
async fn an_idle_hour_is_a_line_of_a_script() {
    pause();
    let folder = Folder::new();
    let recorder = folder.recorder(RecordLimits::default());
    let (theirs, mut peer) = memory_pair(MemoryCapacity::default());
    let connection = Connection::between(Address::Memory, Address::Memory);
    let limits = Limits::builder().idle_timeout(None).build().unwrap();
    LineSession::new(Transport::new(theirs).with_filter(recorder.session(&connection))).limits(limits).start(Rot13);
    peer.write_all(b"a\n").await.unwrap();
    peer.read_exact(&mut [0; 2]).await.unwrap();
    pass(Duration::from_secs(3600)).await;
    peer.shutdown().await.unwrap();
    peer.read_to_end(&mut Vec::new()).await.unwrap();
    drop(peer);
    pass(Duration::from_secs(10)).await;
    let text = folder.text(&recorder);
    assert_eq!(statements(&text), ["> a", "< n", ": after 1h", ": fin", ": eof"], "{text}");
}
