//! rot13d under a service manager: it is handed sockets, says how it is, feeds a watchdog, and has its sockets kept for the
//! next process.
#![cfg(all(feature = "systemd", target_os = "linux"))]

mod support;

use std::{
    fs,
    io::IoSliceMut,
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio, id},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use rustix::{
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
    process::Signal,
};
use support::{PATIENCE, Server, converse, eventually, finish, greet, rot13d, tr};

/// A service manager that does no more than to listen.
struct Manager {
    socket: UnixDatagram,
    address: String,
    /// Removed in the end.
    path: Option<PathBuf>,
}

/// A message to it: lines, and a descriptor.
#[derive(Debug)]
struct Told {
    lines: Vec<String>,
    socket: Option<OwnedFd>,
}

fn unique(name: &str) -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("rot13d-service-{}-{}-{name}", id(), LAST.fetch_add(1, Relaxed))
}

impl Manager {
    fn at_path() -> Self {
        let path = std::env::temp_dir().join(unique("notify"));
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, address: path.to_str().unwrap().to_owned(), path: Some(path) }.bounded()
    }

    fn abstract_one() -> Self {
        let name = unique("notify");
        let socket = UnixDatagram::bind_addr(&UnixAddr::from_abstract_name(&name).unwrap()).unwrap();
        Self { socket, address: format!("@{name}"), path: None }.bounded()
    }

    fn bounded(self) -> Self {
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        self
    }

    fn next(&self) -> Told {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC);
        let received = received.expect("waited in vain for a message to the service manager");
        let socket = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        });
        let text = String::from_utf8(bytes[..received.bytes].to_vec()).unwrap();
        Told { lines: text.lines().map(str::to_owned).collect(), socket }
    }

    /// Waits for a message with a line that begins so.
    #[track_caller]
    fn told(&self, begin: &str) -> Told {
        loop {
            let told = self.next();
            if told.lines.iter().any(|line| line.starts_with(begin)) {
                return told;
            }
        }
    }

    /// The binary, under this service manager.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = rot13d();
        command.env("NOTIFY_SOCKET", &self.address).args(arguments);
        command
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

/// The command with at most two sockets as its descriptors 3 and 4. They come by standard input and output, which nobody
/// else inherits meanwhile; a shell moves them, and tells its own number as that of the program that takes its place.
fn handing(command: &Command, names: &str, sockets: Vec<OwnedFd>) -> Command {
    let count = sockets.len();
    let moves = ["", "3<&0 0</dev/null", "3<&0 0</dev/null 4>&1 1>/dev/null"][count];
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("exec {moves}; export LISTEN_PID=$$; exec \"$0\" \"$@\""));
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.env("LISTEN_FDS", count.to_string()).env("LISTEN_FDNAMES", names);
    let mut sockets = sockets.into_iter().map(Stdio::from);
    shell.stdin(sockets.next().unwrap_or_else(Stdio::null)).stdout(sockets.next().unwrap_or_else(Stdio::null));
    shell
}

fn plain(arguments: &[&str]) -> Command {
    let mut command = rot13d();
    command.args(arguments);
    command
}

fn listening() -> (OwnedFd, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener.into(), address)
}

fn end(server: &mut Server) -> Vec<String> {
    server.signal(Signal::TERM);
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log:#?}");
    log
}

#[test]
fn the_service_manager_hears_of_start_reload_and_end() {
    for manager in [Manager::at_path(), Manager::abstract_one()] {
        let file = std::env::temp_dir().join(unique("file.toml"));
        fs::write(&file, "max-sessions = 7\n").unwrap();
        let config = file.to_str().unwrap();
        let mut server = Server::launch(manager.command(&["--listen", "127.0.0.1:0", "--config", config]));
        assert_eq!(manager.told("READY=1").lines, ["READY=1", "STATUS=0 sessions"]);
        // Who is ready answers, and needs no more time for it.
        server.listens();
        assert_eq!(converse(server.address, b"Hello\n"), b"Uryyb\n");
        for (text, says) in [("max-sessions = 8\n", "is in force"), ("max-sessions = none\n", "nothing is changed")] {
            fs::write(&file, text).unwrap();
            server.signal(Signal::HUP);
            let lines = manager.told("RELOADING=1").lines;
            let now = lines[1].strip_prefix("MONOTONIC_USEC=").and_then(|now| now.parse::<u64>().ok());
            assert!(lines.len() == 2 && now.is_some_and(|now| now > 0), "{lines:?}");
            assert_eq!(manager.told("READY=1").lines, ["READY=1"]);
            server.log_line(says);
        }
        server.signal(Signal::TERM);
        let lines = manager.told("STOPPING=1").lines;
        assert_eq!(lines, ["STOPPING=1", "STATUS=draining", "EXTEND_TIMEOUT_USEC=15000000"]);
        assert_eq!(server.wait().0, Some(0));
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn the_status_says_why_a_reload_has_failed_until_one_succeeds() {
    let manager = Manager::at_path();
    let file = std::env::temp_dir().join(unique("file"));
    fs::write(&file, "").unwrap();
    let mut server = Server::launch(manager.command(&["--listen", "127.0.0.1:0", "--config", file.to_str().unwrap()]));
    manager.told("READY=1");
    fs::write(&file, "max-sessions = none\n").unwrap();
    server.signal(Signal::HUP);
    let status = manager.told("STATUS=reload failed: ").lines.remove(0);
    assert!(status.contains(&format!("{}:1: ", file.display())) && status.ends_with("; 0 sessions"), "{status}");
    fs::write(&file, "max-sessions = 8\n").unwrap();
    server.signal(Signal::HUP);
    assert_eq!(manager.told("STATUS=").lines, ["STATUS=0 sessions"]);
    end(&mut server);
    fs::remove_file(file).unwrap();
}

#[test]
fn a_reload_without_a_file_is_over_at_once() {
    let manager = Manager::at_path();
    let mut server = Server::launch(manager.command(&["--listen", "127.0.0.1:0"]));
    manager.told("READY=1");
    server.signal(Signal::HUP);
    manager.told("RELOADING=1");
    manager.told("READY=1");
    end(&mut server);
}

#[test]
fn the_status_has_sessions_and_refusals_and_in_a_drain_who_is_left() {
    let manager = Manager::at_path();
    let arguments =
        ["--listen", "127.0.0.1:0", "--max-sessions", "1", "--over-limit", "refuse", "--drain-timeout", "1h"];
    let mut server = Server::launch(manager.command(&arguments));
    server.listens();
    let mut peer = server.connect();
    greet(&mut peer);
    let mut refused = server.connect();
    support::rest(&mut refused);
    manager.told("STATUS=1 session, 1 since the start, 1 refused");
    // A drain ends it, but for its linger time, as long as its peer does not close.
    server.signal(Signal::TERM);
    manager.told("STOPPING=1");
    let lines = manager.told("STATUS=draining: 1 session left").lines;
    assert!(lines.contains(&"EXTEND_TIMEOUT_USEC=15000000".to_owned()), "{lines:?}");
    drop(peer);
    assert_eq!(server.wait().0, Some(0));
}

#[test]
fn the_watchdog_is_fed_while_the_workers_run() {
    let manager = Manager::at_path();
    let mut command = manager.command(&["--listen", "127.0.0.1:0", "--workers", "2"]);
    command.env("WATCHDOG_USEC", "200000").env_remove("WATCHDOG_PID");
    let mut server = Server::launch(command);
    for _ in 0..5 {
        assert_eq!(manager.told("WATCHDOG=1").lines, ["WATCHDOG=1"]);
    }
    let log = end(&mut server);
    assert!(!log.iter().any(|line| line.contains("invalid")), "{log:#?}");
}

#[test]
fn a_service_manager_that_is_gone_or_reads_nothing_holds_nothing_up() {
    let mut gone = plain(&["--listen", "127.0.0.1:0"]);
    gone.env("NOTIFY_SOCKET", "/nowhere/notify");
    let mut server = Server::spawn(gone);
    assert_eq!(converse(server.address, b"Hello\n"), b"Uryyb\n");
    let log = end(&mut server);
    let words = "the service manager hears nothing: NOTIFY_SOCKET=/nowhere/notify: no such file or directory";
    assert_eq!(log.iter().filter(|line| line.ends_with(words)).count(), 1, "{log:#?}");

    let manager = Manager::at_path();
    let mut command = manager.command(&["--listen", "127.0.0.1:0"]);
    command.env("WATCHDOG_USEC", "2000");
    let mut server = Server::spawn(command);
    server.log_line("the service manager does not take what it is told");
    assert_eq!(converse(server.address, b"Hello\n"), b"Uryyb\n");
    let log = end(&mut server);
    assert_eq!(log.iter().filter(|line| line.contains("does not take")).count(), 1, "{log:#?}");
}

#[test]
fn sockets_are_taken_by_name_and_by_number() {
    let (web, address) = listening();
    let path = std::env::temp_dir().join(unique("lines.sock"));
    let unix = UnixListener::bind(&path).unwrap();
    let command = plain(&["--listen", "systemd:web.socket", "--listen", "fd:4"]);
    let mut server = Server::launch_logged(handing(&command, "web.socket:local", vec![web, unix.into()]));
    server.log_lines("listening on ", 2);
    assert_eq!(converse(address, b"Hello\n"), b"Uryyb\n");
    let mut local = UnixStream::connect(&path).unwrap();
    std::io::Write::write_all(&mut local, b"Hello\n").unwrap();
    let mut answer = [0; 6];
    local.set_read_timeout(Some(PATIENCE)).unwrap();
    std::io::Read::read_exact(&mut local, &mut answer).unwrap();
    assert_eq!(&answer, b"Uryyb\n");
    drop(local);
    let log = end(&mut server);
    assert!(!log.iter().any(|line| line.contains("no listener uses it")), "{log:#?}");
    assert!(TcpStream::connect(address).is_err(), "the listener is closed, and something still listens");
    assert!(path.exists(), "the path is whose who bound it");
    fs::remove_file(path).unwrap();
}

#[test]
fn a_listener_of_a_socket_that_was_handed_over_keeps_it_when_another_wants_it_at_a_hangup() {
    let (socket, address) = listening();
    let file = std::env::temp_dir().join(unique("rot13d.toml"));
    let write = |name| {
        let text = format!("[[listener]]\nname = \"{name}\"\naddress = \"systemd:web\"\n");
        fs::write(&file, text).unwrap();
    };
    write("first");
    let command = plain(&["--config", file.to_str().unwrap()]);
    let mut server = Server::launch_logged(handing(&command, "web", vec![socket]));
    server.log_line("listening on ");
    for hangups in 1..=2 {
        write("second");
        server.signal(Signal::HUP);
        let said = server.log_lines("SIGHUP: ", hangups);
        let advice = "SIGHUP: nothing is changed: listener second: systemd:web is the socket of listener first: keep that \
                      name, or restart";
        assert!(said[hangups - 1].ends_with(advice), "{said:#?}");
        assert_eq!(converse(address, b"Hello\n"), b"Uryyb\n");
    }
    end(&mut server);
    fs::remove_file(file).unwrap();
}

#[test]
fn a_socket_that_no_listener_uses_is_named_and_closed() {
    let manager = Manager::at_path();
    let (unused, address) = listening();
    let command = manager.command(&["--listen", "127.0.0.1:0"]);
    let mut server = Server::launch_logged(handing(&command, "web", vec![unused]));
    server.log_line(&format!("the socket {address} (systemd:web, fd:3) was handed over and no listener uses it"));
    assert_eq!(manager.told("FDSTOREREMOVE=1").lines, ["FDSTOREREMOVE=1", "FDNAME=web"]);
    assert!(TcpStream::connect(address).is_err(), "somebody could wait for an answer for ever");
    end(&mut server);
}

#[test]
fn a_socket_that_is_in_the_way_is_named_in_the_error_and_nowhere_before() {
    let (unused, address) = listening();
    let wanted = format!("0.0.0.0:{}", address.port());
    let mut server = Server::launch_logged(handing(&plain(&["--listen", &wanted]), "web", vec![unused]));
    let (code, log) = server.wait();
    let [line] = &log[..] else { panic!("{log:#?}") };
    assert!(code == Some(1) && line.starts_with(&format!("rot13d: cannot listen on {wanted}: ")), "{line}");
    let advice = format!("; no listener uses what was handed over for {address} (systemd:web, fd:3)");
    assert!(line.ends_with(&advice), "{line}");
}

#[test]
fn a_socket_that_cannot_be_had_is_said_with_code_1() {
    let listener = || listening().0;
    let datagrams = || OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    let cases: [(&[&str], &str, Vec<OwnedFd>, &str); 5] = [
        (
            &["--listen", "systemd:wep"],
            "web:b",
            vec![listener(), listener()],
            "systemd:wep: no socket of this name was handed over; there are systemd:web, systemd:b; see \
             FileDescriptorName= in the .socket unit",
        ),
        (
            &["--listen", "systemd:web"],
            "web:web",
            vec![listener(), listener()],
            "systemd:web: several sockets have this name; use fd:3 and fd:4 instead",
        ),
        (
            &["--listen", "systemd:web"],
            "web",
            vec![datagrams()],
            "systemd:web: it is no stream socket; use ListenStream= in the .socket unit",
        ),
        (
            &["--listen", "systemd:web"],
            "a:b",
            vec![listener()],
            "LISTEN_FDNAMES=\"a:b\" in the environment is invalid; unset it, or let a service manager set it",
        ),
        (
            &["--listen", "systemd:web"],
            "",
            vec![],
            "systemd:web: no socket of this name was handed over; none was: start it by way of its .socket unit, or use \
             an address",
        ),
    ];
    for (arguments, names, sockets, words) in cases {
        let mut server = Server::launch_logged(handing(&plain(arguments), names, sockets));
        let (code, log) = server.wait();
        assert_eq!((code, log.last().map(String::as_str)), (Some(1), Some(&*format!("rot13d: {words}"))), "{log:#?}");
    }
    // One that is named twice is an error of the settings.
    let twice = plain(&["--listen", "systemd:web", "--listen", "systemd:web"]);
    let mut server = Server::launch_logged(handing(&twice, "web", vec![listener()]));
    let (code, log) = server.wait();
    let words = "rot13d: invalid listen: systemd:web stands there twice: write it once";
    assert_eq!((code, log.last().map(String::as_str)), (Some(2), Some(words)), "{log:#?}");
    // The sockets of whoever has started this one.
    let mut command = plain(&["--listen", "systemd:web"]);
    command.env("LISTEN_PID", "1").env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "web");
    let output = finish(command, b"");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.starts_with("rot13d: the sockets in LISTEN_FDS are for process 1 (LISTEN_PID), and this is "),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_restart_with_a_store_refuses_no_connection() {
    let manager = Manager::at_path();
    let mut first = Server::launch(manager.command(&["--listen", "127.0.0.1:0"]));
    let Told { lines, socket } = manager.told("FDSTORE=1");
    let stored = socket.expect("a descriptor comes with it");
    first.listens();
    let address = first.address;
    let name = address.to_string().replace(':', "_");
    assert_eq!(lines, ["FDSTORE=1", "FDPOLL=0", &*format!("FDNAME={name}")]);
    let is_over = Arc::new(AtomicBool::new(false));
    let peer = thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            let mut answered = 0;
            while !is_over.load(Relaxed) {
                let mut peer = TcpStream::connect(address).expect("a connection was refused");
                peer.set_read_timeout(Some(PATIENCE)).unwrap();
                greet(&mut peer);
                answered += 1;
            }
            answered
        }
    });
    end(&mut first);
    let mut waiting = TcpStream::connect(address).expect("nobody listens between the two");
    let command = manager.command(&["--listen", &address.to_string()]);
    let mut second = Server::launch_logged(handing(&command, &name, vec![stored.try_clone().unwrap()]));
    manager.told("READY=1");
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    greet(&mut waiting);
    second.listens();
    assert_eq!(second.address, address);
    is_over.store(true, Relaxed);
    assert!(peer.join().unwrap() > 0);
    drop(waiting);
    let log = end(&mut second);
    assert!(!log.iter().any(|line| line.contains("no listener uses it")), "{log:#?}");
}

/// The unit with another program.
fn unit_in(folder: &Path) -> PathBuf {
    let unit = fs::read_to_string("packaging/rot13d.service").unwrap();
    let unit = unit.replace("/usr/bin/rot13d", env!("CARGO_BIN_EXE_rot13d"));
    fs::create_dir_all(folder).unwrap();
    fs::copy("packaging/rot13d.socket", folder.join("rot13d.socket")).unwrap();
    fs::write(folder.join("rot13d.service"), unit).unwrap();
    folder.join("rot13d.service")
}

#[test]
#[ignore = "needs systemd-analyze; tests/run runs it"]
fn the_units_are_valid_and_hardened() {
    let folder = std::env::temp_dir().join(unique("units"));
    let service = unit_in(&folder);
    // Or no list could tell users of unix sockets apart.
    assert!(!fs::read_to_string(&service).unwrap().contains("\nPrivateUsers=yes"));
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&service).arg(folder.join("rot13d.socket"));
    let output = finish(verify, b"");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !text.contains("rot13d"), "{text}");
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--threshold=15"]).arg(&service);
    let output = finish(security, b"");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
#[ignore = "needs systemd-socket-activate; tests/run runs it"]
fn systemd_hands_over_tcp_and_unix_sockets_at_the_first_connection() {
    let path = std::env::temp_dir().join(unique("activated.sock"));
    let (_reserved, address) = support::reserve();
    let mut activate = Command::new("systemd-socket-activate");
    activate.args(["--listen", &address.to_string(), "--listen", path.to_str().unwrap()]);
    activate.args(["--fdname=web:local", env!("CARGO_BIN_EXE_rot13d")]);
    activate.args(["--listen", "systemd:web", "--listen", "systemd:local"]);
    let server = Server::launch(activate);
    server.log_line("Listening on");
    let mut local = eventually("the unix socket", || UnixStream::connect(&path).ok());
    std::io::Write::write_all(&mut local, b"Hello\n").unwrap();
    let mut answer = [0; 6];
    local.set_read_timeout(Some(PATIENCE)).unwrap();
    std::io::Read::read_exact(&mut local, &mut answer).unwrap();
    assert_eq!(&answer, b"Uryyb\n");
    let text = b"The quick brown fox\n";
    assert_eq!(converse(address, text), tr(text));
    drop(server);
    let _ = fs::remove_file(path);
}
