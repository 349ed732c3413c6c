//! The examples as processes: each does what its header says, to the clients that it names.

mod support;

// Its actor, for a test that has it panic.
#[allow(dead_code)]
#[path = "../examples/chat.rs"]
mod chat;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    process::Command,
    time::Duration,
};

use actix::{AsyncContext, fut::wrap_future};
use actix_lines::{
    LineSession, Transport,
    cluster::{Begin, Change, Cluster, ClusterQuery, Row, Store, memory::Memory},
    limits::Limits,
};
use rustix::process::{Pid, Signal, kill_process};
use support::{Server, address_in, connect, converse, eventually, example, expect, finish, rest};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::oneshot,
};

fn start(name: &str) -> Server {
    let mut command = example(name);
    command.args(["--listen", "127.0.0.1:0"]);
    Server::spawn(command)
}

/// What a peer is answered that sends all at once and half-closes.
fn answer(server: &Server, question: &str) -> String {
    String::from_utf8(converse(server.address, question.as_bytes())).unwrap()
}

/// Each that answers a line.
const ANSWERING: [&str; 6] = ["ask_another_actor", "chat", "echo", "kv", "rot13_by_line", "shout"];

/// A connection that has been answered: the server runs.
fn answered(server: &Server) -> TcpStream {
    let mut peer = server.connect();
    peer.write_all(b"version\n").unwrap();
    peer.read_exact(&mut [0]).expect("an answer");
    peer
}

#[test]
fn an_example_listens_at_any_address() {
    let with_tls = cfg!(feature = "tls").then_some("smtp_sink");
    for name in ["ask_another_actor", "chat", "echo", "rot13_by_line", "shout"].into_iter().chain(with_tls) {
        let path = std::env::temp_dir().join(format!("rot13d-example-{name}-{}", std::process::id()));
        let mut command = example(name);
        command.arg("--listen").arg(format!("unix:{}", path.display()));
        let mut server = Server::launch(command);
        let mut peer = eventually("the path to be listened on", || UnixStream::connect(&path).ok());
        peer.set_read_timeout(Some(support::PATIENCE)).unwrap();
        peer.write_all(b"version\r\n").unwrap();
        peer.read_exact(&mut [0]).expect("an answer");
        drop(peer);
        server.signal(Signal::TERM);
        assert_eq!(server.wait().0, Some(0), "{name}: {:#?}", server.log());
        assert!(!path.exists(), "{name}");
    }
}

#[test]
fn sigterm_and_sigint_drain_an_example() {
    for name in ANSWERING {
        for signal in [Signal::TERM, Signal::INT] {
            let mut server = start(name);
            let mut peer = answered(&server);
            server.signal(signal);
            // The rest of its answer, perhaps.
            rest(&mut peer);
            drop(peer);
            assert_eq!(server.wait().0, Some(0), "{name}, {signal:?}");
        }
    }
}

/// A process alone in a namespace of its own has number 1, for which the kernel ignores signals that nobody handles.
#[test]
fn sigterm_ends_an_example_that_is_process_1_of_a_container() {
    let alone = |program: &Command| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child"]);
        command.arg(program.get_program()).args(program.get_args());
        command
    };
    if !alone(&Command::new("true")).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: namespaces cannot be made here");
        return;
    }
    for name in ANSWERING {
        let mut program = example(name);
        program.args(["--listen", "127.0.0.1:0"]);
        let mut server = Server::spawn(alone(&program));
        let peer = answered(&server);
        let id = server.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let child = children.trim().parse().ok().and_then(Pid::from_raw).unwrap();
        kill_process(child, Signal::TERM).unwrap();
        drop(peer);
        assert_eq!(server.wait().0, Some(0), "{name}");
    }
}

#[test]
fn echo_answers_each_line_with_itself() {
    let server = start("echo");
    assert_eq!(answer(&server, "hello\r\nhow are you?\ntail"), "hello\r\nhow are you?\ntail");
}

#[test]
fn rot13_by_line_does_what_rot13d_does() {
    let server = start("rot13_by_line");
    assert_eq!(answer(&server, "Hello\ntail"), "Uryyb\ngnvy");
}

#[test]
fn shout_shouts_until_an_empty_line() {
    let server = start("shout");
    let greeting = "Speak up! An empty line ends it.\r\n";
    assert_eq!(answer(&server, "hello\r\ntail"), format!("{greeting}HELLO\r\nTAIL"));
    assert_eq!(answer(&server, "one\n\ntwo\n"), format!("{greeting}ONE\nBYE\r\n"));
}

#[test]
fn chat_has_names_and_hears_of_those_who_come_and_go() {
    let server = start("chat");
    let mut ann = server.connect();
    expect(&mut ann, "Your name?\r\n");
    ann.write_all(b"not a name\r\nann\r\n").unwrap();
    expect(
        &mut ann,
        "1 to 20 letters and digits, please. Your name?\r\nWelcome, ann. /who lists who is here, /quit leaves.\r\n",
    );
    let mut bob = server.connect();
    bob.write_all(b"ann\r\nbob\r\n").unwrap();
    expect(
        &mut bob,
        "Your name?\r\nThat name is taken. Your name?\r\nWelcome, bob. /who lists who is here, /quit leaves.\r\n",
    );
    expect(&mut ann, "* bob is here\r\n");
    ann.write_all(b"hello\r\n\r\n/who\r\n").unwrap();
    expect(&mut bob, "ann: hello\r\n");
    expect(&mut ann, "* ann, bob\r\n");
    // One goes as he should, the other does not.
    bob.write_all(b"/quit\r\n").unwrap();
    expect(&mut bob, "Goodbye.\r\n");
    assert_eq!(bob.read(&mut [0]).unwrap(), 0);
    expect(&mut ann, "* bob has left\r\n");
    let mut bob = server.connect();
    bob.write_all(b"bob\r\n").unwrap();
    expect(&mut bob, "Your name?\r\nWelcome, bob. /who lists who is here, /quit leaves.\r\n");
    drop(ann);
    expect(&mut bob, "* ann has left\r\n");
}

/// Two who chat, as far as that.
fn ann_and_bob(server: &Server) -> (TcpStream, TcpStream) {
    let mut ann = server.connect();
    ann.write_all(b"Ann\r\n").unwrap();
    expect(&mut ann, "Your name?\r\nWelcome, Ann. /who lists who is here, /quit leaves.\r\n");
    let mut bob = server.connect();
    bob.write_all(b"bob\r\n").unwrap();
    expect(&mut bob, "Your name?\r\nWelcome, bob. /who lists who is here, /quit leaves.\r\n");
    expect(&mut ann, "* bob is here\r\n");
    (ann, bob)
}

#[test]
fn chat_shows_nobody_what_would_control_a_terminal() {
    let server = start("chat");
    let (mut ann, mut bob) = ann_and_bob(&server);
    for (said, shown) in [
        // A line that begins anew, an escape, both of its forms in 8 bits, a bell, a NUL, a telnet command.
        (&b"hi\r* Ann has left"[..], "hi * Ann has left"),
        (b"\x1b[2Jgone\x1b]0;title\x07", "[2Jgone ]0;title"),
        (b"a\xc2\x9b2Jb\x9b2J", "a 2Jb\u{fffd}2J"),
        (b"tab\tnul\0del\x7f!", "tab nul del !"),
        (b"\xff\xf4\xff\xfd\x06end", "\u{fffd}\u{fffd}\u{fffd}\u{fffd} end"),
        ("\u{202e}txet\u{202c} \u{2028}* me".as_bytes(), "txet   * me"),
        ("grüße, 世界 👋".as_bytes(), "grüße, 世界 👋"),
    ] {
        bob.write_all(&[said, b"\r\n"].concat()).unwrap();
        expect(&mut ann, &format!("bob: {shown}\r\n"));
    }
    // Nothing is left of it.
    bob.write_all(b"\x1b\x07\r\nbye\r\n").unwrap();
    expect(&mut ann, "bob: bye\r\n");
    // Nor does a name.
    let mut eve = server.connect();
    eve.write_all(b"e\x1bve\r\n\xff\r\n").unwrap();
    let refused = "1 to 20 letters and digits, please. Your name?\r\n";
    expect(&mut eve, &format!("Your name?\r\n{refused}{refused}"));
}

#[test]
fn chat_passes_a_line_as_a_whole_or_not_at_all() {
    let server = start("chat");
    let (mut ann, mut bob) = ann_and_bob(&server);
    // 1000 bytes, of letters that have two; then one byte more, and many.
    let longest = "é".repeat(500);
    bob.write_all(format!("{longest}\r\n").as_bytes()).unwrap();
    expect(&mut ann, &format!("bob: {longest}\r\n"));
    for longer in [format!("x{longest}"), "é".repeat(100_000)] {
        bob.write_all(format!("{longer}\r\n").as_bytes()).unwrap();
        expect(&mut bob, "At most 1000 bytes a line, please.\r\n");
    }
    // What has no end is said, in a line of its own.
    bob.write_all(b"tail").unwrap();
    bob.shutdown(Shutdown::Write).unwrap();
    expect(&mut ann, "bob: tail\r\n* bob has left\r\n");
}

#[test]
fn chat_takes_names_that_differ_in_case_for_the_same() {
    let server = start("chat");
    let (mut ann, mut bob) = ann_and_bob(&server);
    let mut other = server.connect();
    other.write_all(b"aNN\r\nBOB\r\n").unwrap();
    let taken = "That name is taken. Your name?\r\n";
    expect(&mut other, &format!("Your name?\r\n{taken}{taken}"));
    bob.write_all(b"/who\r\n").unwrap();
    expect(&mut bob, "* Ann, bob\r\n");
    drop(bob);
    expect(&mut ann, "* bob has left\r\n");
    other.write_all(b"Bob\r\n").unwrap();
    expect(&mut other, "Welcome, Bob. /who lists who is here, /quit leaves.\r\n");
    expect(&mut ann, "* Bob is here\r\n");
}

#[actix::test]
async fn chat_lists_names_of_other_nodes_without_what_controls_a_terminal_and_says_if_there_are_more() {
    let store = Memory::new();
    let cluster = Cluster::builder(store.view()).node("a").build().unwrap();
    let row = |session: u64, name: &str| Row { session, name: Some(name.to_owned()), ..Row::default() };
    let begins = Some(Begin::default());
    let lease = support::PATIENCE;
    let mut change = Change { begins, lease, put: vec![row(1, "b\x1b[2Jen"), row(2, "ann")], ..Change::default() };
    let b = "b.00000001".parse().unwrap();
    store.register(&b, &change).await.unwrap();
    let page = async || cluster.list(ClusterQuery::default()).await.unwrap();
    assert_eq!(chat::everywhere(&page().await), "ann, b [2Jen");
    change = Change { begins: None, put: (3..=1001).map(|session| row(session, "ann")).collect(), ..change };
    store.register(&b, &change).await.unwrap();
    assert_eq!(chat::everywhere(&page().await), "ann, b [2Jen, and perhaps others");
}

#[actix::test]
async fn chat_gives_a_name_back_after_a_panic() {
    let lobby = chat::Lobby::default();
    let (panic, panics) = oneshot::channel::<()>();
    let (ours, mut ann) = duplex(1024);
    LineSession::new(Transport::new(ours)).create(|ctx| {
        ctx.spawn(wrap_future(async {
            let _ = panics.await;
            panic!("as asked");
        }));
        chat::Chatter::new(lobby.clone())
    });
    let (ours, mut bob) = duplex(1024);
    LineSession::new(Transport::new(ours)).start(chat::Chatter::new(lobby.clone()));
    for (peer, name) in [(&mut ann, "ann"), (&mut bob, "bob")] {
        peer.write_all(format!("{name}\n").as_bytes()).await.unwrap();
        hear(peer, &format!("Your name?\r\nWelcome, {name}. /who lists who is here, /quit leaves.\r\n")).await;
    }
    panic.send(()).unwrap();
    hear(&mut bob, "* ann has left\r\n").await;
    bob.write_all(b"/who\n").await.unwrap();
    hear(&mut bob, "* bob\r\n").await;
}

#[actix::test]
async fn chat_tells_who_says_nothing_why_it_ends_and_the_others_that_he_left() {
    tokio::time::pause();
    let lobby = chat::Lobby::default();
    let limits = Limits::builder().idle_timeout(Some(Duration::from_secs(2))).build().unwrap();
    let (ours, mut ann) = duplex(1024);
    LineSession::new(Transport::new(ours)).limits(limits).start(chat::Chatter::new(lobby.clone()));
    let (ours, mut bob) = duplex(1024);
    LineSession::new(Transport::new(ours)).start(chat::Chatter::new(lobby.clone()));
    for (peer, name) in [(&mut ann, "ann"), (&mut bob, "bob")] {
        peer.write_all(format!("{name}\n").as_bytes()).await.unwrap();
        hear(peer, &format!("Your name?\r\nWelcome, {name}. /who lists who is here, /quit leaves.\r\n")).await;
    }
    hear(&mut ann, "* bob is here\r\nNothing to say? Goodbye.\r\n").await;
    let end = tokio::time::Instant::now();
    hear(&mut bob, "* ann has left\r\n").await;
    assert!(end.elapsed().is_zero(), "she has yet to close");
    assert_eq!(ann.read(&mut [0]).await.unwrap(), 0);
}

#[actix::test]
async fn chat_tells_who_does_not_read_how_many_messages_are_missing() {
    const SAID: usize = 2000;
    let lobby = chat::Lobby::default();
    let mut peers = Vec::new();
    for name in ["ann", "bob", "eve"] {
        let (ours, mut peer) = duplex(4096);
        LineSession::new(Transport::new(ours)).start(chat::Chatter::new(lobby.clone()));
        peer.write_all(format!("{name}\n").as_bytes()).await.unwrap();
        hear(&mut peer, &format!("Your name?\r\nWelcome, {name}. /who lists who is here, /quit leaves.\r\n")).await;
        for other in &mut peers {
            hear(other, &format!("* {name} is here\r\n")).await;
        }
        peers.push(peer);
    }
    let [mut ann, mut bob, mut eve] = <[DuplexStream; 3]>::try_from(peers).unwrap();
    // More than an outbox may hold, while ann reads nothing and eve does.
    for number in 0..SAID {
        let text = format!("{number:0>900}");
        bob.write_all(format!("{text}\n").as_bytes()).await.unwrap();
        hear(&mut eve, &format!("bob: {text}\r\n")).await;
    }
    // Her line is looked at when she has read what there is.
    ann.write_all(b"/who\n").await.unwrap();
    let mut ann = tokio::io::BufReader::new(ann);
    let mut heard = 0;
    loop {
        let line = next_line(&mut ann).await;
        if line == "* ann, bob, eve\r\n" {
            break;
        }
        assert_eq!(line, format!("bob: {heard:0>900}\r\n"));
        heard += 1;
    }
    assert!(heard < SAID, "nothing is missing");
    bob.write_all(b"the end\n").await.unwrap();
    assert_eq!(next_line(&mut ann).await, format!("* {} messages missed\r\n", SAID - heard));
    assert_eq!(next_line(&mut ann).await, "bob: the end\r\n");
}

async fn next_line(peer: &mut tokio::io::BufReader<DuplexStream>) -> String {
    let mut line = String::new();
    let read = tokio::time::timeout(support::PATIENCE, peer.read_line(&mut line)).await;
    read.expect("waited in vain for a line").unwrap();
    line
}

async fn hear(peer: &mut DuplexStream, expected: &str) {
    let mut got = vec![0; expected.len()];
    let read = tokio::time::timeout(support::PATIENCE, peer.read_exact(&mut got)).await;
    read.unwrap_or_else(|_| panic!("waited in vain for {expected:?}")).unwrap();
    assert_eq!(String::from_utf8_lossy(&got), expected);
}

#[test]
fn ask_another_actor_keeps_the_order_however_many_lines_come_together() {
    let server = start("ask_another_actor");
    let mut peer = server.connect();
    peer.write_all(b"a\nb\n").unwrap();
    expect(&mut peer, "0 times before\n0 times before\n");
    let (mut question, mut expected) = (String::new(), String::new());
    for number in 0..5000 {
        question += if number % 5 == 0 { "a\n" } else { "b\n" };
        let before = if number % 5 == 0 { number / 5 } else { number - number / 5 - 1 };
        expected += &format!("{} times before\n", before + 1);
    }
    assert_eq!(answer(&server, &question), expected);
    assert_eq!(answer(&server, "a"), "1001 times before\n", "the tail is asked, too");
}

/// A request as a browser makes it; returns the status and the body.
fn http(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = connect(address);
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn with_http() -> (Server, SocketAddr) {
    let mut command = example("embedded_in_actix_web");
    command.args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    let server = Server::spawn(command);
    let address = address_in(&server.log_line("HTTP on "));
    (server, address)
}

#[test]
fn embedded_in_actix_web_shares_its_state_and_drains_when_it_is_told_to_end() {
    let (mut server, api) = with_http();
    let mut other = server.connect();
    other.write_all(b"I am here\n").unwrap();
    // It hears the others from when its own line is there.
    eventually("a line to be there", || http(api, "GET", "/lines", "").1.contains("I am here").then_some(()));
    let mut peer = server.connect();
    peer.write_all(b"from a line\n").unwrap();
    expect(&mut other, "from a line\n");
    assert_eq!(http(api, "GET", "/lines", ""), (200, "I am here\nfrom a line\n".to_owned()));
    assert_eq!(http(api, "POST", "/say", "from\nHTTP").0, 204);
    expect(&mut peer, "from HTTP\n");
    expect(&mut other, "from HTTP\n");
    assert_eq!(http(api, "GET", "/lines", "").1, "I am here\nfrom a line\nfrom HTTP\n");
    let (status, list) = http(api, "GET", "/sessions", "");
    assert_eq!((status, list.lines().count()), (200, 2), "{list}");
    let mine = peer.local_addr().unwrap().to_string();
    let line = list.lines().find(|line| line.contains(&mine)).unwrap();
    assert!(line.ends_with("1 lines, 12 bytes in"), "{line}");
    let id = line.split(' ').next().unwrap().trim_start_matches('#');
    assert_eq!(http(api, "DELETE", &format!("/sessions/{id}"), "").0, 204);
    expect(&mut peer, "ended by an administrator\n");
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    assert_eq!(http(api, "DELETE", "/sessions/123456", "").0, 404);
    assert_eq!(http(api, "DELETE", "/sessions/seven", "").0, 400);
    server.signal(Signal::TERM);
    assert_eq!(other.read(&mut [0]).unwrap(), 0, "a polite end");
    drop((peer, other));
    assert_eq!(server.wait().0, Some(0));
}

#[test]
fn embedded_in_actix_web_gives_each_speaker_a_line_of_his_own() {
    let (server, api) = with_http();
    let mut listener = server.connect();
    listener.write_all(b"I listen\n").unwrap();
    eventually("a line to be there", || http(api, "GET", "/lines", "").1.contains("I listen").then_some(()));
    assert_eq!(converse(server.address, b"a tail"), b"");
    expect(&mut listener, "a tail\n");
    let long = format!("{}\nshort\n", "x".repeat(100_000));
    assert_eq!(answer(&server, &long), "at most 1000 bytes, please\n");
    expect(&mut listener, "short\n");
    converse(server.address, b"a lone\rCR and \x1b[2J\r\n");
    expect(&mut listener, "a lone CR and  [2J\n");
    assert_eq!(http(api, "POST", "/say", "from\r\x1bHTTP\r\n").0, 204);
    expect(&mut listener, "from  HTTP\n");
    assert_eq!(http(api, "POST", "/say", &"x".repeat(1001)).0, 413);
    let all = "I listen\na tail\nshort\na lone CR and  [2J\nfrom  HTTP\n";
    assert_eq!(http(api, "GET", "/lines", "").1, all);
}

#[test]
fn embedded_in_actix_web_begins_nothing_new_while_it_ends_what_there_is() {
    let (mut server, api) = with_http();
    let mut peer = server.connect();
    peer.write_all(b"I am here\n").unwrap();
    eventually("a line to be there", || http(api, "GET", "/lines", "").1.contains("I am here").then_some(()));
    // A request that is under way: its body is not whole.
    let mut request = connect(api);
    let head = "POST /say HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\nExpect: 100-continue\r\n\r\n";
    request.write_all(head.as_bytes()).unwrap();
    expect(&mut request, "HTTP/1.1 100 Continue\r\n\r\n");
    request.write_all(b"last").unwrap();
    server.signal(Signal::TERM);
    assert_eq!(peer.read(&mut [0]).unwrap(), 0, "a polite end");
    eventually("the line port to be closed", || TcpStream::connect(server.address).is_err().then_some(()));
    request.write_all(b"word").unwrap();
    let response = String::from_utf8(rest(&mut request)).unwrap();
    assert!(response.contains(" 204 "), "{response}");
    drop((peer, request));
    assert_eq!(server.wait().0, Some(0));
}

#[test]
#[ignore = "needs curl and nc: run tests/run"]
fn embedded_in_actix_web_talks_to_curl_and_nc() {
    let (server, api) = with_http();
    let curl = |arguments: &[&str], path: &str| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail", "--max-time", "60"]).args(arguments).arg(format!("{api}{path}"));
        let output = finish(command, b"");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let mut nc = Command::new("nc");
    nc.args(["-N", "127.0.0.1", &server.address.port().to_string()]);
    assert!(finish(nc, b"what is said here\n").status.success());
    assert_eq!(curl(&[], "/lines"), "what is said here\n");
    let mut listening = BufReader::new(server.connect());
    listening.get_mut().write_all(b"I am here\n").unwrap();
    eventually("a line to be there", || curl(&[], "/lines").contains("I am here").then_some(()));
    curl(&["-d", "the kettle is on"], "/say");
    let mut line = String::new();
    listening.read_line(&mut line).unwrap();
    assert_eq!(line, "the kettle is on\n");
    let list = curl(&[], "/sessions");
    let id = list.split(' ').next().unwrap().trim_start_matches('#');
    curl(&["-X", "DELETE"], &format!("/sessions/{id}"));
    line.clear();
    listening.read_line(&mut line).unwrap();
    assert_eq!(line, "ended by an administrator\n");
}

#[test]
#[ignore = "needs telnet: run tests/run"]
fn chat_talks_to_two_telnets() {
    let server = start("chat");
    let telnet = |name: &str| {
        let mut command = Command::new("telnet");
        command.args(["127.0.0.1", &server.address.port().to_string()]);
        let patience = Some(support::PATIENCE.as_millis() as u64);
        let mut telnet = rexpect::session::spawn_command(command, patience).unwrap();
        telnet.exp_string("Your name?").unwrap();
        telnet.send_line(name).unwrap();
        telnet.exp_string(&format!("Welcome, {name}")).unwrap();
        telnet
    };
    let mut ann = telnet("ann");
    let mut bob = telnet("bob");
    ann.exp_string("* bob is here").unwrap();
    bob.send_line("good morning").unwrap();
    ann.exp_string("bob: good morning").unwrap();
    bob.send_line("/quit").unwrap();
    bob.exp_string("Goodbye.").unwrap();
    bob.exp_eof().unwrap();
    ann.exp_string("* bob has left").unwrap();
}
