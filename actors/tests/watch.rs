//! Whoever watches by a console is told what happens, in order, or how much of it he was not told; and costs bounded memory.

mod support;

use std::{path::PathBuf, time::Duration};

use actix_lines::{LineServer, Listener, Rot13, ServerHandle, console::Console, control::Stats};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{PATIENCE, Peer, at_once, events, eventually, within};
use tikv_jemalloc_ctl::{epoch, stats};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A server with a listener, and a console beside it.
struct Watched {
    server: ServerHandle,
    console: ServerHandle,
    path: PathBuf,
}

impl Watched {
    fn start() -> Self {
        Self::with(|console| console)
    }

    fn with(console: impl FnOnce(Console) -> Console) -> Self {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let nth = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("actix-lines-watch-{}-{nth}.sock", std::process::id()));
        let server = LineServer::new(|_| Rot13).workers(2).listen(Listener::tcp("127.0.0.1:0").name("public")).unwrap();
        let server = server.start().unwrap();
        let console = console(Console::at(Listener::unix(&path))).serve(&server).unwrap();
        Self { server, console, path }
    }

    async fn ask(&self, command: &str) -> Reader {
        let mut stream = at_once("the console", UnixStream::connect(&self.path)).await.unwrap();
        stream.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        Reader(BufReader::new(stream))
    }

    /// A session with so many lines, which has ended.
    async fn session(&self, lines: usize) {
        let mut peer = Peer::connect(self.server.local_addrs()[0]).await;
        for _ in 0..lines {
            peer.send(b"hello\n").await;
            peer.expect(b"uryyb\n").await;
        }
        peer.shutdown_write().await;
        peer.expect_eof().await;
    }

    async fn stats(&self) -> Stats {
        self.server.stats().await.unwrap()
    }

    /// Waits until the console has taken a command of so many consoles.
    async fn has_lines(&self, lines: u64) {
        eventually("the commands", async || self.console.stats().await.unwrap().lines_in >= lines).await;
        // The hub subscribes behind the first of them.
        for _ in 0..3 {
            self.stats().await;
        }
    }

    async fn end(self) {
        within("the end", self.server.abort()).await.unwrap();
        within("the end of the console", self.server.wait()).await.unwrap();
        within("its own end", self.console.wait()).await.unwrap();
    }
}

/// The peer of a console.
struct Reader(BufReader<UnixStream>);

impl Reader {
    async fn line(&mut self) -> String {
        let mut line = String::new();
        within("a line", self.0.read_line(&mut line)).await.unwrap();
        line.strip_suffix('\n').unwrap_or_else(|| panic!("a whole line, not {line:?}")).to_owned()
    }

    async fn json(&mut self) -> Value {
        let line = self.line().await;
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).await.unwrap();
    }

    /// Ends a command that goes on, and shows that the next one is answered.
    async fn stop(&mut self) {
        self.send(b"\n").await;
        while !self.line().await.is_empty() {}
        self.send(b"version\n").await;
        assert!(self.line().await.starts_with("actix-lines "));
        assert_eq!(self.line().await, "");
    }
}

/// A line without the time of day in front of it.
fn timeless(line: &str) -> &str {
    let (time, rest) = line.split_once(' ').unwrap_or_else(|| panic!("no time: {line:?}"));
    assert_eq!(time.len(), 8, "{line:?}");
    rest
}

#[actix::test]
async fn who_watches_is_told_what_happens_until_he_sends_a_line() {
    let watched = Watched::start();
    let mut text = watched.ask("watch").await;
    let mut json = watched.ask("json watch").await;
    watched.has_lines(2).await;
    watched.session(2).await;
    let (opened, closed) = (text.line().await, text.line().await);
    assert!(timeless(&opened).starts_with("opened #"), "{opened}");
    assert!(closed.contains(" public peer-eof: 2 lines and 12 bytes in, 12 bytes out, "), "{closed}");
    let (opened, closed) = (json.json().await, json.json().await);
    assert_eq!((&opened["event"], &closed["event"]), (&json!("opened"), &json!("closed")));
    assert_eq!((&opened["id"], &closed["lines_in"]), (&closed["id"], &json!(2)));
    assert!(closed["at"].as_f64().is_some_and(|at| at > 1.7e9), "{closed}");
    let public = watched.server.listeners()[0].id;
    watched.server.pause(public).await.unwrap();
    assert!(timeless(&text.line().await).starts_with("listener public paused 127.0.0.1:"));
    let limits = watched.server.limits().await.unwrap().to_builder().max_sessions(77).build().unwrap();
    watched.server.set_limits(limits).await.unwrap();
    let line = text.line().await;
    assert!(timeless(&line).starts_with("limits max-sessions ") && line.ends_with(" -> 77, ends 0 sessions"), "{line}");
    text.stop().await;
    json.stop().await;
    watched.end().await;
}

#[actix::test]
async fn the_last_events_of_a_server_are_told_before_its_end() {
    const PEERS: usize = 20;
    let watched = Watched::start();
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let mut peer = Peer::connect(watched.server.local_addrs()[0]).await;
        peer.send(b"hello\n").await;
        peer.expect(b"uryyb\n").await;
        peers.push(peer);
    }
    let mut consoles = [watched.ask("json watch closed").await, watched.ask("json watch closed limits").await];
    watched.has_lines(2).await;
    let draining = actix_rt::spawn({
        let server = watched.server.clone();
        async move { server.drain(PATIENCE).await }
    });
    for mut peer in peers {
        peer.expect_eof().await;
    }
    assert_eq!(within("the end", draining).await.unwrap().unwrap().ended, PEERS as u64);
    for console in &mut consoles {
        for _ in 0..PEERS {
            assert_eq!(console.json().await["event"], json!("closed"));
        }
        assert_eq!(console.line().await, "");
    }
    drop(consoles);
    within("the end of the console", watched.server.wait()).await.unwrap();
}

#[actix::test]
async fn kinds_and_a_filter_say_what_is_watched_and_a_wrong_word_is_named() {
    let watched = Watched::start();
    let other = watched.server.listen(Listener::tcp("127.0.0.1:0").name("other")).await.unwrap();
    let mut public = watched.ask("watch closed refused listener=public").await;
    let mut others = watched.ask("watch listener=other").await;
    watched.has_lines(2).await;
    watched.session(1).await;
    drop(Peer::connect(other.local_addr.socket_addr().unwrap()).await);
    watched.session(1).await;
    for _ in 0..2 {
        let line = public.line().await;
        assert!(timeless(&line).starts_with("closed #") && line.contains(" public "), "{line}");
    }
    for kind in ["opened #", "closed #"] {
        let line = others.line().await;
        assert!(timeless(&line).starts_with(kind) && line.contains(" other"), "{line}");
    }
    for (command, error) in [
        ("watch clsed", "error: \"clsed\" is no kind of event: did you mean closed?"),
        ("watch idle>5m", "error: \"idle>5m\" is of no use here: watch selects by kind, ID, peer= and listener="),
        ("watch listener=publi", "error: \"listener=publi\" is no listener: did you mean public?"),
    ] {
        let mut wrong = watched.ask(command).await;
        assert_eq!((wrong.line().await.as_str(), wrong.line().await.as_str()), (error, ""));
    }
    watched.end().await;
}

#[actix::test]
async fn a_console_watches_when_the_one_before_is_gone() {
    let watched = Watched::start();
    let mut first = watched.ask("watch").await;
    watched.has_lines(1).await;
    watched.session(1).await;
    first.line().await;
    first.stop().await;
    drop(first);
    eventually("the last console to be gone", async || self_stats(&watched.console).await.live == 0).await;
    let mut again = watched.ask("watch opened").await;
    watched.has_lines(4).await;
    watched.session(1).await;
    assert!(timeless(&again.line().await).starts_with("opened #"), "it works again");
    assert_eq!(watched.stats().await.events_lost, 0);
    watched.end().await;
}

async fn self_stats(server: &ServerHandle) -> Stats {
    server.stats().await.unwrap()
}

/// Bytes that are allocated.
fn allocated() -> usize {
    epoch::advance().unwrap();
    stats::allocated::read().unwrap()
}

#[actix::test]
async fn a_hundred_consoles_that_do_not_read_cost_bounded_memory_and_nobody_else_anything() {
    const CONSOLES: usize = 100;
    let watched = Watched::start();
    let mut asleep = Vec::new();
    for _ in 0..CONSOLES {
        let stream = UnixStream::connect(&watched.path).await.unwrap();
        socket2::SockRef::from(&stream).set_recv_buffer_size(1).unwrap();
        asleep.push(stream);
    }
    for stream in &mut asleep {
        stream.write_all(b"json watch\n").await.unwrap();
    }
    let mut reader = watched.ask("json watch closed").await;
    watched.has_lines(CONSOLES as u64 + 1).await;
    for _ in 0..50 {
        watched.session(1).await;
    }
    let before = allocated();
    for _ in 0..1500 {
        watched.session(1).await;
    }
    let grown = allocated().saturating_sub(before);
    assert!(grown < 2 * 1024 * 1024, "{grown} bytes more");
    let outbox = watched.console.stats().await.unwrap().outbox_bytes;
    assert!(outbox < 1024 * 1024, "{outbox} bytes in their outboxes");
    // Who reads is told it all.
    let mut told = 0;
    while told < 1550 {
        let event = reader.json().await;
        told += event["count"].as_u64().unwrap_or(1);
    }
    drop(asleep);
    watched.end().await;
}

#[actix::test]
async fn what_a_console_is_told_is_a_part_of_what_has_happened_and_with_what_is_lost_all_of_it() {
    const SESSIONS: usize = 3000;
    let watched = Watched::start();
    let mut heard = events(&watched.server).await;
    // One reads, the other reads late.
    let mut reads = watched.ask("json watch").await;
    let mut late = watched.ask("json watch").await;
    watched.has_lines(2).await;
    let reading = actix_rt::spawn(async move {
        let mut told = Vec::new();
        let mut sum = 0;
        while sum < 2 * SESSIONS as u64 {
            told.push(reads.json().await);
            sum += told.last().map_or(0, |event| event["count"].as_u64().unwrap_or(1));
        }
        told
    });
    let address = watched.server.local_addrs()[0];
    for _ in 0..SESSIONS / 100 {
        // Many at once.
        let peers: Vec<_> = (0..100).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        drop(peers);
        tokio::task::yield_now().await;
    }
    eventually("the ends", async || watched.stats().await.closed.values().sum::<u64>() == SESSIONS as u64).await;
    let mut all = Vec::new();
    while all.len() < 2 * SESSIONS {
        let event = within("an event", heard.recv()).await.expect("the ear lives");
        all.extend(event.entries().map(|entry| serde_json::to_value(entry).unwrap()));
    }
    let first = within("all of it", reading).await.unwrap();
    let mut second = Vec::new();
    let mut sum = 0;
    while sum < 2 * SESSIONS as u64 {
        second.push(late.json().await);
        sum += second.last().map_or(0, |event| event["count"].as_u64().unwrap_or(1));
    }
    let lost = |told: &[Value]| told.iter().filter_map(|event| event["count"].as_u64()).sum::<u64>();
    for (who, told) in [("who reads", &first), ("who is late", &second)] {
        let mut rest = all.iter();
        for event in told.iter().filter(|event| event["event"] != "lost") {
            let mut event = event.clone();
            event.as_object_mut().unwrap().remove("at");
            assert!(rest.any(|happened| *happened == event), "{who}: {event} at this place, or at all");
        }
        let kept = told.iter().filter(|event| event["event"] != "lost").count() as u64;
        assert_eq!(kept + lost(told), 2 * SESSIONS as u64, "{who}");
        assert!(kept > 100, "{who}: {kept}");
    }
    assert!(lost(&second) > 0, "more than fits a socket");
    watched.end().await;
}

#[actix::test]
async fn top_shows_rates_the_largest_first_once_or_until_a_line_comes() {
    let watched = Watched::start();
    let mut busy = Peer::connect(watched.server.local_addrs()[0]).await;
    let idle = Peer::connect(watched.server.local_addrs()[0]).await;
    let talk = actix_rt::spawn(async move {
        loop {
            busy.send(b"hello\n").await;
            busy.expect(b"uryyb\n").await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    eventually("both", async || watched.stats().await.live == 2 && watched.stats().await.lines_in > 0).await;
    let mut once = watched.ask("json top once").await;
    let block = once.json().await;
    assert_eq!(once.line().await, "", "one block");
    assert_eq!((block["total"].as_u64(), block["sessions"].as_array().map(Vec::len)), (Some(2), Some(2)));
    let rate = |at: usize, name: &str| block["sessions"][at][name].as_f64().unwrap();
    assert!(rate(0, "lines_rate") > 0.0 && rate(1, "lines_rate") == 0.0, "{block}");
    assert_eq!(rate(0, "bytes_in_rate"), block["bytes_in_rate"].as_f64().unwrap(), "{block}");
    assert!(block["every"].as_f64().is_some_and(|every| every > 0.0), "{block}");

    let mut live = watched.ask("json top sort id limit 1 every 1s").await;
    for _ in 0..2 {
        let block = live.json().await;
        assert_eq!(
            (block["total"].as_u64(), block["sessions"].as_array().map(Vec::len)),
            (Some(2), Some(1)),
            "{block}"
        );
    }
    live.stop().await;
    let mut text = watched.ask("top").await;
    for _ in 0..2 {
        let line = text.line().await;
        assert!(line.starts_with("2 sessions, ") && line.contains(" lines/s, "), "{line}");
        assert!(text.line().await.starts_with("ID "));
        assert!(text.line().await.starts_with('#') && text.line().await.starts_with('#'));
        assert_eq!(text.line().await, "--");
    }
    text.stop().await;
    for (command, error) in [
        ("top every 10ms", "error: \"10ms\" is no interval: use 1s to 1h"),
        ("top every", "error: \"every\" stands alone: write a time, as 2s, behind it"),
        ("top srt lines", "error: \"srt\""),
    ] {
        let mut wrong = watched.ask(command).await;
        let line = wrong.line().await;
        assert!(line.starts_with(error), "{line}");
    }
    talk.abort();
    drop(idle);
    watched.end().await;
}

#[actix::test]
async fn a_trace_by_a_console_has_to_be_allowed_and_is_escaped_line_by_line() {
    let watched = Watched::start();
    let mut refused = watched.ask("trace 7").await;
    assert!(refused.line().await.starts_with("error: \"trace\" is not allowed: "), "not without being allowed");
    watched.end().await;

    let watched = Watched::with(Console::allow_trace);
    let mut peer = Peer::connect(watched.server.local_addrs()[0]).await;
    peer.send(b"x\n").await;
    peer.expect(b"k\n").await;
    let id = watched.server.sessions(actix_lines::control::SessionQuery::default()).await.unwrap().sessions[0].id;
    let mut text = watched.ask(&format!("trace {id}")).await;
    let mut json = watched.ask(&format!("json trace {}", id.get())).await;
    watched.has_lines(2).await;
    peer.send(b"one\r\n\x1b[2J\n").await;
    peer.expect(b"bar\r\n\x1b[2W\n").await;
    for expected in [r"> one\r\n", r"> \u{1b}[2J\n", r"< bar\r\n", r"< \u{1b}[2W\n"] {
        assert_eq!(text.line().await, expected);
    }
    let first = json.json().await;
    assert_eq!((&first["event"], &first["text"]), (&json!("in"), &json!(r"one\r\n")));
    assert!(first["at"].as_f64().is_some_and(|at| at > 1.7e9), "{first}");
    json.stop().await;
    peer.shutdown_write().await;
    let line = text.line().await;
    assert!(line.starts_with(&format!("session {id} ")) && line.contains("closed: peer-eof"), "{line}");
    assert_eq!(text.line().await, "", "the end");
    let mut gone = watched.ask(&format!("trace {id}")).await;
    assert!(gone.line().await.contains("is no live session"));
    watched.end().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever words are behind them, they are answered: by what was asked for, or by an error.
    #[test]
    fn no_words_behind_a_live_command_are_answered_by_nothing(words in "[a-z=>0-9 #-]{0,30}", command in 0_usize..3) {
        actix_rt::System::new().block_on(async {
            let watched = Watched::with(Console::allow_trace);
            let command = ["watch", "top", "trace"][command];
            let mut console = watched.ask(&format!("{command} {words}")).await;
            // Ends it where it goes on; otherwise an empty line is no command.
            console.send(b"\nversion\n").await;
            let answer = async {
                while !console.line().await.starts_with("actix-lines ") {}
            };
            tokio::time::timeout(PATIENCE, answer).await.expect("an answer");
            watched.end().await;
            Ok::<(), TestCaseError>(())
        })?;
    }
}
