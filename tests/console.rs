//! The console of rot13d as a process: where it is, who may use it, and what it changes there.
//!
//! Not here: the commands themselves (the library's own tests), `rot13d ctl`.

#[path = "../actors/tests/support/folder.rs"]
mod folder;
mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    process::Command,
};

use folder::Folder;
use rustix::process::{Signal, geteuid};
use support::{PATIENCE, Server, eventually, finish, greet, reserve, rest, rot13d};

impl Folder {
    fn socket(&self) -> PathBuf {
        self.path("console.sock")
    }

    fn address(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    fn file(&self, text: &str, mode: u32) -> String {
        let path = self.path("token");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// The peer of a console.
struct Console<S: Read + Write>(BufReader<S>);

impl Console<UnixStream> {
    fn at(path: &Path) -> Self {
        let stream = eventually("the console", || UnixStream::connect(path).ok());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }
}

impl<S: Read + Write> Console<S> {
    fn send(&mut self, line: &str) {
        self.0.get_mut().write_all(line.as_bytes()).unwrap();
    }

    fn answer(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "it closes: {lines:?}");
            match line.trim_end_matches('\n') {
                "" => return lines,
                line => lines.push(line.to_owned()),
            }
        }
    }

    fn ask(&mut self, command: &str) -> Vec<String> {
        self.send(&format!("{command}\n"));
        self.answer()
    }

    fn rest(mut self) -> String {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).unwrap();
        rest
    }
}

/// A server in this environment, on a free port.
fn server(environment: &[(&str, &Path)], arguments: &[&str]) -> Server {
    let mut command = rot13d();
    command.args(["--listen", "127.0.0.1:0"]).args(arguments);
    command.envs(environment.iter().copied());
    Server::spawn(command)
}

fn version() -> String {
    format!("rot13d {}, up ", env!("CARGO_PKG_VERSION"))
}

#[test]
fn the_console_is_its_users_alone_in_the_runtime_directory() {
    let folder = Folder::new("console");
    let mut server = server(&[("XDG_RUNTIME_DIR", &folder.0)], &[]);
    let place = folder.path("rot13d");
    let mut console = Console::at(&place.join("console.sock"));
    assert!(console.ask("version")[0].starts_with(&version()));
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&place), mode(&place.join("console.sock"))), (0o700, 0o600));
    server.signal(Signal::TERM);
    assert_eq!(console.rest(), "");
    assert_eq!(server.wait().0, Some(0));
    assert!(!place.join("console.sock").exists());
}

#[test]
fn the_runtime_directory_of_a_service_comes_first() {
    let (service, user) = (Folder::new("console"), Folder::new("console"));
    let _server = server(&[("RUNTIME_DIRECTORY", &service.0), ("XDG_RUNTIME_DIR", &user.0)], &[]);
    assert_eq!(Console::at(&service.socket()).ask("count"), ["0"]);
    assert!(!user.0.join("rot13d").exists());
}

#[test]
fn a_console_that_stays_is_none_of_the_sessions_that_a_drain_is_logged_to_wait_for() {
    let folder = Folder::new("console");
    let mut server = server(&[("RUNTIME_DIRECTORY", &folder.0)], &[]);
    let mut console = Console::at(&folder.socket());
    let answer = console.ask("drain 5s");
    assert!(answer[0].starts_with("drained: 0 sessions ended, 0 cut, in "), "{answer:?}");
    // Its peer does not close: it is waited for, longer than it takes to log how far a drain is.
    assert_eq!(server.wait().0, Some(0));
    let log = server.log();
    assert!(!log.iter().any(|line| line.contains(" left")), "{log:?}");
    drop(console);
}

#[test]
fn a_second_server_has_no_console_by_default_and_starts_all_the_same() {
    let folder = Folder::new("console");
    let environment: [(&str, &Path); 1] = [("RUNTIME_DIRECTORY", &folder.0)];
    let _first = server(&environment, &[]);
    drop(Console::at(&folder.socket()));
    let second = server(&environment, &[]);
    second.log_line("no console: cannot listen on unix:");
    greet(&mut second.connect());
    // One that was asked for has to be there.
    let mut third = rot13d();
    third.args(["--listen", "127.0.0.1:0", "--console", &folder.address()]);
    let output = finish(third, b"");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("another process listens there"), "{text}");
}

#[test]
fn without_a_runtime_directory_there_is_no_console() {
    let without = server(&[], &[]);
    without.log_line("no console: cannot make /dev/null/rot13d: ");
    greet(&mut without.connect());
    let folder = Folder::new("console");
    let off = server(&[("RUNTIME_DIRECTORY", &folder.0)], &["--console", "off"]);
    greet(&mut off.connect());
    let log = off.log();
    assert!(!folder.socket().exists() && !log.iter().any(|line| line.contains("console")), "{log:?}");
}

#[test]
fn a_console_costs_no_thread() {
    let folder = Folder::new("console");
    let threads = |server: &Server| fs::read_dir(format!("/proc/{}/task", server.id())).unwrap().count();
    let with = server(&[("RUNTIME_DIRECTORY", &folder.0)], &["--workers", "1"]);
    assert_eq!(Console::at(&folder.socket()).ask("count"), ["0"]);
    let without = server(&[], &["--workers", "1", "--console", "off"]);
    greet(&mut without.connect());
    // While something is logged there is one more.
    eventually("as many threads", || (threads(&with) == threads(&without)).then_some(()));
}

#[test]
fn over_ip_a_token_comes_first() {
    let folder = Folder::new("console");
    let (_port, address) = reserve();
    let address = address.to_string();
    let token = folder.file("c0ffee-c0ffee-c0ffee\n", 0o604);
    let server = server(&[], &["--console", &address, "--console-token", &token]);
    server.log_line(" has mode 604: others can read the token");
    let connect = || {
        let stream = eventually("the console", || TcpStream::connect(&address).ok());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Console(BufReader::new(stream))
    };
    let mut console = connect();
    assert_eq!(console.ask("token c0ffee-c0ffee-c0ffee"), [""; 0]);
    assert_eq!(console.ask("count"), ["0"]);
    for first in ["token c0ffee-c0ffee-c0ffe\ncount\n", "count\ntoken c0ffee-c0ffee-c0ffee\n"] {
        let mut console = connect();
        console.send(first);
        let rest = console.rest();
        assert!(rest.starts_with("error: \"token\" ") && rest.ends_with("\n\n") && rest.lines().count() == 2, "{rest}");
    }
    let line = server.log_line("token: closed");
    assert!(line.contains("console: 127.0.0.1:") && !line.contains("c0ffe"), "{line}");

    let refused = |arguments: &[&str]| {
        let mut command = rot13d();
        command.args(["--listen", "127.0.0.1:0"]).args(arguments);
        let output = finish(command, b"");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = refused(&["--console", "0.0.0.0:0"]);
    assert!(
        code == Some(2) && text.contains("invalid console: without a token 0.0.0.0:0 is open to whoever"),
        "{text}"
    );
    let empty = folder.file(" \n", 0o600);
    let (code, text) = refused(&["--console", &address, "--console-token", &empty]);
    assert!(
        code == Some(2) && text.contains("invalid console-token: ") && text.contains("the token is no secret: use 16"),
        "{text}"
    );
    let (code, text) = refused(&["--console-token", "/nowhere/token"]);
    assert!(code == Some(2) && text.contains("invalid console-token: cannot read /nowhere/token: "), "{text}");
}

#[test]
fn a_drain_by_the_console_is_that_of_sigterm() {
    let folder = Folder::new("console");
    let manager = UnixDatagram::bind(folder.path("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let environment: [(&str, &Path); 2] = [("RUNTIME_DIRECTORY", &folder.0), ("NOTIFY_SOCKET", &folder.path("notify"))];
    let mut server = server(&environment, &["--drain-goodbye", "back at noon"]);
    let mut peer = server.connect();
    greet(&mut peer);
    let mut console = Console::at(&folder.socket());
    console.send("drain\n");
    assert_eq!(rest(&mut peer), b"back at noon\r\n");
    drop(peer);
    let answer = console.answer();
    assert!(answer.last().unwrap().starts_with("drained: 1 session ended, 0 cut, in "), "{answer:?}");
    assert_eq!(console.rest(), "");
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log:#?}");
    let who = format!("uid {}", geteuid().as_raw());
    let is_logged =
        |line: &String| line.contains("console: ") && line.contains(&who) && line.contains(": drain within 10s");
    assert!(log.iter().any(is_logged), "{log:#?}");
    let mut said = String::new();
    let mut state = [0; 4096];
    while !said.contains("STOPPING=1") {
        let count = manager.recv(&mut state).unwrap();
        said.push_str(std::str::from_utf8(&state[..count]).unwrap());
    }
}

/// Sends lines without a pause until the session ends. Returns all that it was told.
fn be_noisy(mut peer: TcpStream) -> Vec<u8> {
    let mut told = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        // The last ones find nobody.
        let _ = peer.write_all(b"me, me, me\n");
        match peer.read(&mut chunk) {
            Ok(count) if count > 0 => told.extend_from_slice(&chunk[..count]),
            _ => return told,
        }
    }
}

#[test]
fn in_one_sitting_the_noisiest_peer_is_found_and_ended_a_limit_is_lowered_and_the_server_drained() {
    let folder = Folder::new("console");
    let mut server = server(&[("RUNTIME_DIRECTORY", &folder.0)], &[]);
    let mut quiet: Vec<_> = (0..5).map(|_| server.connect()).collect();
    quiet.iter_mut().for_each(greet);
    let noisy = server.connect();
    let address = noisy.local_addr().unwrap().to_string();
    let noisy = std::thread::spawn(move || be_noisy(noisy));

    let mut console = Console::at(&folder.socket());
    let help = console.ask("help").join("\n");
    for word in ["top", "push", "kick", "set", "dry-run", "drain"] {
        assert!(help.contains(word), "{word} is in no line of {help}");
    }
    let top = console.ask("top once limit 1");
    let row = top.iter().find(|line| line.starts_with('#')).unwrap_or_else(|| panic!("no session in {top:#?}"));
    let mut cells = row.split_whitespace();
    let id = cells.next().unwrap();
    assert_eq!(cells.next(), Some(address.as_str()), "{top:#?}");
    assert_eq!(console.ask(&format!("push {id} -- too loud")).len(), 1);
    let dry = console.ask(&format!("kick {id} dry-run"));
    assert_eq!(dry.first().map(String::as_str), Some("would end 1 session"));
    assert_eq!(console.ask("count"), ["6"], "a dry run ends nothing");
    console.ask(&format!("kick {id} -- goodbye"));
    let told = String::from_utf8(noisy.join().unwrap()).unwrap();
    let (loud, goodbye) = (told.find("too loud\r\n"), told.find("goodbye\r\n"));
    assert!(loud.is_some() && loud < goodbye && told.ends_with("goodbye\r\n"), "{told:?}");

    let dry = console.ask("set idle-timeout 5m dry-run");
    assert!(dry[0].starts_with("idle-timeout 10m -> 5m would end 0 sessions"), "{dry:#?}");
    let unchanged = |line: &String| line.starts_with("idle-timeout ") && line.contains("10m");
    assert!(console.ask("limits").iter().any(unchanged));
    let done = console.ask("set idle-timeout 5m");
    assert!(done[0].starts_with("idle-timeout 10m -> 5m ends 0 sessions"), "{done:#?}");
    quiet.iter_mut().for_each(greet);
    drop(quiet);
    let drained = console.ask("drain");
    assert!(drained.last().is_some_and(|line| line.starts_with("drained: ")), "{drained:#?}");
    assert_eq!(server.wait().0, Some(0));
}

#[test]
fn sigterm_shortens_a_drain_by_the_console() {
    let folder = Folder::new("console");
    let mut server = server(&[("RUNTIME_DIRECTORY", &folder.0)], &["--drain-timeout", "0s", "--linger-timeout", "1h"]);
    let mut peer = server.connect();
    greet(&mut peer);
    let mut console = Console::at(&folder.socket());
    console.send("drain 1h\n");
    // It stays open: its session lingers.
    server.log_line("drain within 3600s");
    server.signal(Signal::HUP);
    server.log_line("SIGHUP: nothing is changed: the server drains");
    server.signal(Signal::TERM);
    let answer = console.answer();
    assert!(answer.last().unwrap().starts_with("drained: 0 sessions ended, 1 cut, in "), "{answer:?}");
    assert_eq!(server.wait().0, Some(0));
    drop(peer);
}

#[test]
fn a_change_is_logged_with_who_asked_and_holds_until_sighup() {
    let folder = Folder::new("console");
    let settings = folder.path("rot13d.toml");
    fs::write(&settings, "idle-timeout = \"7m\"\n").unwrap();
    let arguments = ["--config", settings.to_str().unwrap()];
    let server = server(&[("RUNTIME_DIRECTORY", &folder.0)], &arguments);
    let mut peer = server.connect();
    greet(&mut peer);
    let mut console = Console::at(&folder.socket());
    let who = format!("console: unix (pid {}, uid {}, ", std::process::id(), geteuid().as_raw());
    assert_eq!(console.ask("set idle-timeout 5m"), ["idle-timeout 7m -> 5m ends 0 sessions"]);
    let line = server.log_line("set idle-timeout 5m: was 7m");
    assert!(line.contains(&who), "{line}");
    server.signal(Signal::HUP);
    server.log_line("SIGHUP: changed: idle-timeout 5m -> 7m");
    server.log_line("is in force");
    assert_eq!(console.ask("set idle-timeout 5m dry-run"), ["idle-timeout 7m -> 5m would end 0 sessions"]);
    assert_eq!(console.ask("kick peer=127.0.0.0/8 -- bye"), ["1 session"]);
    assert_eq!(rest(&mut peer), b"bye\r\n");
    let line = server.log_line("kick: peer=127.0.0.0/8: 1 session: #");
    assert!(line.contains(&who), "{line}");
    let mut peer = server.connect();
    greet(&mut peer);
    assert_eq!(console.ask("set deny 127.0.0.0/8"), ["deny off -> 127.0.0.0/8 ends 1 session"]);
    assert_eq!(rest(&mut peer), b"");
    let line = server.log_line("set: deny 127.0.0.0/8 has ended: 1 session: #");
    assert!(line.contains(&who), "{line}");
}

#[test]
fn the_session_in_the_manual_is_true() {
    let manual = include_str!("../docs/operating.md");
    let (_, session) = manual.split_once("$ printf '").unwrap();
    let (session, _) = session.split_once("```").unwrap();
    let (commands, rest) = session.split_once("' | ").unwrap();
    let (_, expected) = rest.split_once('\n').unwrap();
    let folder = Folder::new("console");
    let _server = server(&[("RUNTIME_DIRECTORY", &folder.0)], &[]);
    let mut console = Console::at(&folder.socket());
    console.send(&commands.replace("\\n", "\n"));
    console.send("quit\n");
    assert_eq!(console.rest(), format!("{expected}\n"));
}

/// Runs a client of Debian with these commands as its input; returns what it prints.
fn client(mut command: Command, input: &str) -> String {
    let output = finish(
        {
            command.env("LC_ALL", "C");
            command
        },
        input.as_bytes(),
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs socat and nc; tests/run runs it"]
fn socat_and_netcat_drive_it() {
    let folder = Folder::new("console");
    let _server = server(&[("RUNTIME_DIRECTORY", &folder.0)], &[]);
    drop(Console::at(&folder.socket()));
    let commands = "count\nset max-age 1h\njson count\nquit\n";
    let expected = "0\n\nmax-age off -> 1h ends 0 sessions\n\n{\"sessions\":0}\n\n\n";
    let mut socat = Command::new("socat");
    socat.args(["-t", "60", "-", &format!("UNIX-CONNECT:{}", folder.socket().display())]);
    assert_eq!(client(socat, commands), expected);
    let mut nc = Command::new("nc");
    nc.args(["-N", "-U"]).arg(folder.socket());
    assert_eq!(client(nc, commands), expected.replace("off", "1h"));
    // Without `quit` the end of the input ends the session, behind the last answer.
    let mut nc = Command::new("nc");
    nc.args(["-N", "-U"]).arg(folder.socket());
    assert_eq!(client(nc, "count\nversion\n").lines().count(), 4);
}

#[test]
#[ignore = "needs telnet; tests/run runs it"]
fn telnet_drives_it() {
    let (_port, address) = reserve();
    let server = server(&[], &["--console", &address.to_string()]);
    drop(eventually("the console", || TcpStream::connect(address).ok()));
    let mut command = Command::new("telnet");
    command.args(["127.0.0.1", &address.port().to_string()]).env("LC_ALL", "C");
    let mut telnet = rexpect::session::spawn_command(command, Some(PATIENCE.as_millis() as u64)).unwrap();
    telnet.exp_string("Escape character").unwrap();
    telnet.send_line("version").unwrap();
    telnet.exp_string(&version()).unwrap();
    telnet.send_line("lsit").unwrap();
    telnet.exp_string("error: \"lsit\" is no command: did you mean list?").unwrap();
    let mut peer = server.connect();
    greet(&mut peer);
    telnet.send_line("list peer=127.0.0.0/8").unwrap();
    telnet.exp_string("1 of 1 session").unwrap();
    telnet.send_line("kick all -- bye").unwrap();
    assert_eq!(rest(&mut peer), b"bye\r\n");
    telnet.send_line("quit").unwrap();
    telnet.exp_string("Connection closed by foreign host").unwrap();
}
