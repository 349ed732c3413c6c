//! What goes through the proxy, or is typed, is a script that holds when it is run again.

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use actix::{Actor, ActorContext};
use actix_lines::{Line, LineContext, LineHandler, LineServer, Room};
use rustix::{
    net::shutdown,
    process::{Pid, Signal, kill_process},
};
use support::{command, folder, linescript, rot13, stderr, stdout};

/// Longer than any machine takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A proxy that records.
struct Proxy {
    process: Child,
    log: BufReader<ChildStderr>,
    address: SocketAddr,
}

impl Proxy {
    fn start(folder: &Path, server: SocketAddr, more: &[&str]) -> Self {
        let server = server.to_string();
        let mut args = vec!["record", "--listen", "127.0.0.1:0", "--connect", &server, "-o", "made.session"];
        args.extend(more);
        let mut process = command(folder, &args).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("linescript: listening on ");
        let address = address.unwrap_or_else(|| panic!("{line}")).parse().unwrap();
        Self { process, log, address }
    }

    fn connect(&self) -> TcpStream {
        let peer = TcpStream::connect(self.address).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        peer
    }

    fn stop(&self) {
        kill_process(Pid::from_child(&self.process), Signal::INT).unwrap();
    }

    /// Waits for its end; returns its exit code and what it said last.
    fn wait(mut self) -> (Option<i32>, String) {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "waited in vain for the proxy to end");
            thread::sleep(Duration::from_millis(5));
        };
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        (status.code(), log)
    }

    #[track_caller]
    fn ends_well(self) {
        let (code, log) = self.wait();
        assert_eq!(code, Some(0), "{log}");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn made(folder: &Path) -> String {
    fs::read_to_string(folder.join("made.session")).unwrap()
}

#[track_caller]
fn holds(folder: &Path, server: SocketAddr) {
    let output = linescript(folder, &["run", "made.session", "--connect", &server.to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}{}\n{}", stdout(&output), stderr(&output), made(folder));
}

#[track_caller]
fn expect(peer: &mut TcpStream, text: &str) {
    let mut got = vec![0; text.len()];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(String::from_utf8_lossy(&got), text);
}

fn rest(peer: &mut TcpStream) -> String {
    let mut rest = String::new();
    peer.read_to_string(&mut rest).unwrap();
    rest
}

/// A chat: asks for a name, tells the others of each line, and ends at `bye`.
struct Talker {
    room: Room,
    name: Option<String>,
}

impl Actor for Talker {
    type Context = LineContext<Self>;
}

impl LineHandler for Talker {
    fn opened(&mut self, ctx: &mut Self::Context) {
        ctx.write(b"Your name? ");
    }

    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        let text = String::from_utf8_lossy(line.text()).into_owned();
        match (&self.name, text.as_str()) {
            (None, _) => {
                ctx.write(format!("Welcome, {text}\r\n").as_bytes());
                ctx.say(&self.room, format!("* {text} is here\r\n"));
                ctx.join(&self.room);
                self.name = Some(text);
            }
            (Some(_), "bye") => {
                ctx.write(b"Bye\r\n");
                ctx.stop();
            }
            (Some(_), "cut") => ctx.terminate(),
            (Some(name), _) => ctx.say(&self.room, format!("{name}: {text}\r\n")),
        }
    }
}

/// A chat server, for as long as this test runs.
fn chat() -> SocketAddr {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        actix_rt::System::new().block_on(async move {
            let room = Room::new();
            let server = LineServer::new(move |_| Talker { room: room.clone(), name: None });
            let server = server.workers(1).bind("127.0.0.1:0").unwrap().start().unwrap();
            tell.send(server.local_addrs()[0]).unwrap();
            let _ = server.wait().await;
        });
    });
    told.recv().unwrap()
}

#[test]
fn a_connection_through_the_proxy_is_a_script_that_holds() {
    let (folder, server) = (folder("record-one"), rot13());
    let proxy = Proxy::start(&folder, server, &["--connections", "1", "--no-gaps"]);
    let mut peer = proxy.connect();
    peer.write_all(b"Hello\nworld\r\n").unwrap();
    expect(&mut peer, "Uryyb\njbeyq\r\n");
    peer.write_all(b"$x \xff\0\na tail").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"$k \xff\0\nn gnvy", "the half-close passes, and the answers behind it");
    proxy.ends_well();
    let made = made(&folder);
    assert!(made.starts_with("> Hello\n> \"world\\r\\n\"\n< Uryyb\n< jbeyq\n> \"$$x \\xff\\0\\n\"\n"), "{made}");
    assert!(made.contains(": fin\n") && made.ends_with(": eof\n"), "{made}");
    holds(&folder, server);
}

#[test]
fn several_peers_of_a_chat_are_one_script_in_the_order_of_what_happened() {
    let folder = folder("record-chat");
    let proxy = Proxy::start(&folder, chat(), &["--connections", "3"]);
    let enter = |name: &str| {
        let mut peer = proxy.connect();
        expect(&mut peer, "Your name? ");
        peer.write_all(format!("{name}\r\n").as_bytes()).unwrap();
        expect(&mut peer, &format!("Welcome, {name}\r\n"));
        peer
    };
    let mut alice = enter("alice");
    let mut bob = enter("bob");
    expect(&mut alice, "* bob is here\r\n");
    bob.write_all(b"hello\r\n").unwrap();
    expect(&mut alice, "bob: hello\r\n");
    let mut carol = enter("carol");
    expect(&mut alice, "* carol is here\r\n");
    expect(&mut bob, "* carol is here\r\n");
    alice.write_all(b"bye\r\n").unwrap();
    assert_eq!(rest(&mut alice), "Bye\r\n");
    alice.shutdown(Shutdown::Write).unwrap();
    carol.write_all(b"who is left?\r\n").unwrap();
    expect(&mut bob, "carol: who is left?\r\n");
    bob.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut bob), "");
    carol.write_all(b"cut\r\n").unwrap();
    // A connection that was given up ends, or is reset, as the service's kernel says.
    let _ = carol.read_to_end(&mut Vec::new());
    drop(carol);
    proxy.ends_well();
    let made = made(&folder);
    for line in
        ["peer1< \"Your name? \"", "newline crlf", "peer2> bob", "peer1< bob: hello", "peer1: eof", "peer3> cut"]
    {
        assert!(made.lines().any(|made| made == line), "{line}\n{made}");
    }
    // Nobody else may be in the room.
    holds(&folder, chat());
}

#[test]
fn a_signal_ends_the_recording_of_those_who_are_still_there() {
    let (folder, server) = (folder("record-signal"), rot13());
    let proxy = Proxy::start(&folder, server, &["--no-gaps"]);
    let mut peers = [proxy.connect(), proxy.connect()];
    for peer in &mut peers {
        peer.write_all(b"Hello\n").unwrap();
        expect(peer, "Uryyb\n");
    }
    proxy.stop();
    let (code, log) = proxy.wait();
    assert_eq!((code, log.as_str()), (Some(0), "linescript: recorded 2 connections in made.session\n"));
    let made = made(&folder);
    assert!(made.ends_with("# the recording was stopped here\npeer1: reset\npeer2: reset\n"), "{made}");
    holds(&folder, server);
}

#[test]
fn a_reset_passes_in_both_directions_and_is_written_down() {
    let folder = folder("record-reset");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(&folder, listener.local_addr().unwrap(), &["--connections", "2", "--no-gaps"]);
    let reset = |stream: TcpStream| {
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    };
    // By the peer.
    let mut peer = proxy.connect();
    let mut service = listener.accept().unwrap().0;
    peer.write_all(b"one\n").unwrap();
    expect(&mut service, "one\n");
    reset(peer);
    assert_eq!(service.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // By the service.
    let mut peer = proxy.connect();
    let mut service = listener.accept().unwrap().0;
    service.write_all(b"two\n").unwrap();
    expect(&mut peer, "two\n");
    reset(service);
    assert_eq!(peer.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    proxy.ends_well();
    assert_eq!(made(&folder), "peer1> one\npeer1: reset\npeer2< two\npeer2: reset by peer\n");
}

#[test]
fn a_server_that_is_not_there_is_said_and_the_proxy_goes_on() {
    let folder = folder("record-refused");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    // Also where a process that another test begins has it still.
    shutdown(&listener, rustix::net::Shutdown::Both).unwrap();
    drop(listener);
    let proxy = Proxy::start(&folder, server, &["--connections", "1"]);
    let mut peer = proxy.connect();
    assert!(peer.read_to_end(&mut Vec::new()).is_err());
    let (code, log) = proxy.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("linescript: the peer could not connect: "), "{log}");
    assert!(made(&folder).starts_with("# the peer could not connect: "));
}

/// A client of Debian's, which waits for the answer to each line, and ends with its input.
fn client(mut command: Command, lines: &[&str]) {
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = client.stdin.take().unwrap();
    let mut output = BufReader::new(client.stdout.take().unwrap());
    for line in lines {
        input.write_all(line.as_bytes()).unwrap();
        // What telnet itself says comes before.
        let mut seen = String::new();
        while seen.trim_end() != rot13_of(line.trim_end()) {
            seen.clear();
            assert!(output.read_line(&mut seen).unwrap() > 0, "no answer to {line}");
        }
    }
    drop(input);
    client.wait().unwrap();
}

fn rot13_of(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    actix_lines::rot13(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

#[test]
#[ignore = "needs netcat-openbsd and telnet: run tests/run"]
fn debians_clients_go_through_the_proxy() {
    for (name, args) in [("nc", &["-N"][..]), ("telnet", &[])] {
        let (folder, server) = (folder(&format!("record-{name}")), rot13());
        let proxy = Proxy::start(&folder, server, &["--connections", "1", "--no-gaps"]);
        let mut command = Command::new(name);
        command.args(args).args(["127.0.0.1", &proxy.address.port().to_string()]);
        client(command, &["Hello\n", "how are you?\n"]);
        proxy.ends_well();
        let made = made(&folder);
        // telnet ends its lines with CR LF.
        let newline = if name == "telnet" { "newline crlf\n" } else { "" };
        let expected = format!("{newline}> Hello\n< Uryyb\n> how are you?\n< ubj ner lbh?\n: fin\n: eof\n");
        assert_eq!(made, expected, "{name}");
        holds(&folder, server);
    }
}

fn typed(folder: &Path, server: SocketAddr, input: &[u8], more: &[&str]) -> (Option<i32>, String, String) {
    let server = server.to_string();
    let mut args = vec!["record", "--connect", &server, "-o", "made.session"];
    args.extend(more);
    let mut command = command(folder, &args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = process.wait_with_output().unwrap();
    (output.status.code(), stdout(&output), stderr(&output))
}

#[test]
fn what_a_pipe_brings_is_a_typed_session() {
    let (folder, server) = (folder("record-pipe"), rot13());
    let (code, shown, said) = typed(&folder, server, b"Hello\nworld\na tail", &["--crlf"]);
    assert_eq!((code, shown.as_str()), (Some(0), "Uryyb\r\njbeyq\r\nn gnvy"), "{said}");
    let made = made(&folder);
    // How much of the pipe has gone before the first answer is the machine's business.
    let of = |operator: &str| made.lines().filter(|line| line.starts_with(operator)).collect::<Vec<_>>();
    assert_eq!(of(">"), ["> Hello", "> world", "> \"a tail\""], "{made}");
    assert_eq!(of("<"), ["< Uryyb", "< jbeyq", "< \"n gnvy\""], "{made}");
    assert!(made.starts_with("newline crlf\n") && made.ends_with(": eof\n"), "{made}");
    holds(&folder, server);
}

#[test]
fn a_session_typed_in_a_terminal_ends_by_control_d() {
    let (folder, server) = (folder("record-terminal"), rot13());
    let address = server.to_string();
    let command = command(&folder, &["record", "--connect", &address, "-o", "made.session"]);
    let mut terminal = rexpect::session::spawn_command(command, Some(PATIENCE.as_millis() as u64)).unwrap();
    terminal.send_line("Hello").unwrap();
    terminal.exp_string("Uryyb").unwrap();
    terminal.send_line("again").unwrap();
    terminal.exp_string("ntnva").unwrap();
    terminal.send_control('d').unwrap();
    terminal.exp_string("recorded 1 connection in made.session").unwrap();
    terminal.exp_eof().unwrap();
    let made: Vec<_> = made(&folder).lines().filter(|line| !line.starts_with(": after")).map(str::to_owned).collect();
    assert_eq!(made, ["> Hello", "< Uryyb", "> again", "< ntnva", ": fin", ": eof"]);
    holds(&folder, server);
}

#[test]
fn a_file_that_is_there_is_left_alone_and_wrong_usage_is_exit_code_2() {
    let (folder, server) = (folder("record-usage"), rot13());
    fs::write(folder.join("made.session"), "mine").unwrap();
    let (code, _, said) = typed(&folder, server, b"", &[]);
    assert_eq!(code, Some(2), "{said}");
    assert_eq!(said, "linescript: made.session is there already: remove it, or name another\n");
    assert_eq!(made(&folder), "mine");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for args in [
        &["record", "-o", "x.session"][..],
        &["record", "--connect", "127.0.0.1:1"],
        &["record", "--connect", "nowhere", "-o", "x.session"],
        &["record", "--connect", &nobody, "-o", "x.session"],
        &["record", "--connect", &nobody, "-o", "x.session", "--connections", "1"],
        &["record", "--connect", &nobody, "--listen", "192.0.2.1:1", "-o", "x.session"],
        &["record", "--connect", &nobody, "-o", "no/folder/x.session"],
    ] {
        let output = linescript(&folder, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(!folder.join("x.session").exists(), "{args:?}");
    }
}

#[test]
fn unix_sockets_stand_on_either_side() {
    let folder = folder("record-unix");
    let server = rot13();
    let mut args = vec!["record", "--listen", "unix:proxy", "--connections", "1", "--no-gaps", "-o", "made.session"];
    let address = server.to_string();
    args.extend(["--connect", &address]);
    let mut process = command(&folder, &args).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "linescript: listening on unix:proxy\n");
    let script = folder.join("hello.session");
    fs::write(&script, "> Hello\n< Uryyb\n: fin\n: eof\n").unwrap();
    let output = linescript(&folder, &["run", "hello.session", "--connect", "unix:proxy"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(process.wait().unwrap().success());
    assert_eq!(made(&folder), fs::read_to_string(&script).unwrap(), "a script through the proxy is the script again");
    assert!(!folder.join("proxy").exists());
}
