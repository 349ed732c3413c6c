//! Unix sockets of rot13d as a process: who gets a path, who may connect to it, and who comes in by it.
//!
//! Not here: a path's fate within one process (the library's own tests), sockets of a service manager (`service`).

#[path = "../actors/tests/support/folder.rs"]
mod folder;
mod support;

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::MetadataExt,
            net::{SocketAddr, UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::Command,
    sync::Barrier,
    thread,
};

use folder::Folder;
use rustix::{
    net::{Shutdown, shutdown},
    process::{Signal, getegid, geteuid},
};
use support::{PATIENCE, Server, finish, reserve, rot13d};

/// A user and a group that nobody here is, and another user of the same group.
const STRANGER: u32 = 4711;
const MEMBER: u32 = 4712;
const GROUP: u32 = 4713;

impl Folder {
    fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    /// A path that a server left behind.
    fn stale(&self) -> PathBuf {
        let listener = UnixListener::bind(self.socket()).unwrap();
        // A process that another test begins may have it for a moment yet.
        shutdown(&listener, Shutdown::Both).unwrap();
        drop(listener);
        assert_eq!(UnixStream::connect(self.socket()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        self.socket()
    }

    /// A file with one listener, at the socket.
    fn file(&self, settings: &str) -> String {
        let text = format!("[[listener]]\nname = \"local\"\naddress = \"unix:{}\"\n", self.socket().display());
        self.write(&(text + settings))
    }

    fn write(&self, text: &str) -> String {
        let path = self.path("rot13d.toml");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// rot13d at this path, which may be another's: it listens, or it ends.
fn at(path: &Path) -> Server {
    launch(&["-v", "--workers", "1", "--listen", &format!("unix:{}", path.display())])
}

fn launch(arguments: &[&str]) -> Server {
    let mut command = rot13d();
    command.args(arguments);
    Server::launch(command)
}

/// Waits until it listens at a path, or has ended.
#[track_caller]
fn listens(server: &Server) -> bool {
    server.logs("listening on unix:")
}

/// A connection whose reads and writes are bounded.
#[track_caller]
fn connect(path: &Path) -> UnixStream {
    bounded(UnixStream::connect(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

fn bounded(peer: UnixStream) -> UnixStream {
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer.set_write_timeout(Some(PATIENCE)).unwrap();
    peer
}

#[track_caller]
fn greet(peer: &mut UnixStream) {
    peer.write_all(b"Hello\n").expect("the server reads");
    let mut answer = [0; 6];
    peer.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, *b"Uryyb\n");
}

/// Ends the server by a drain.
#[track_caller]
fn end(mut server: Server) -> Vec<String> {
    server.signal(Signal::TERM);
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log:#?}");
    log
}

/// The server has not started; the end of its log is this message.
#[track_caller]
fn assert_refused(mut server: Server, message: &str) {
    let (code, log) = server.wait();
    assert_eq!((code, log.last().map(String::as_str)), (Some(1), Some(message)), "{log:#?}");
}

/// A line sent by socat, as another user; returns what came back, and whether socat could connect.
fn socat_as(user: u32, group: u32, address: &str) -> (String, bool) {
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={user}"), &format!("--regid={group}"), "--clear-groups", "socat", "-t", "60"]);
    command.args(["-", address]);
    let output = finish(command, b"Hello\n");
    let said = String::from_utf8_lossy(&output.stderr);
    (String::from_utf8(output.stdout).unwrap(), !said.contains("Permission denied"))
}

fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        eprintln!("skipped: only root can become another user");
    }
    is_root
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn of_two_servers_that_start_at_once_on_a_stale_path_exactly_one_gets_it() {
    let folder = Folder::new("unix-race");
    let path = folder.stale();
    for round in 0..50 {
        let start = Barrier::new(2);
        let servers = thread::scope(|scope| {
            let launches = [(); 2].map(|()| {
                scope.spawn(|| {
                    start.wait();
                    at(&path)
                })
            });
            launches.map(|launch| launch.join().unwrap())
        });
        // Nobody is ended before both have tried.
        let won = [listens(&servers[0]), listens(&servers[1])];
        assert!(won[0] != won[1], "round {round}: {won:?}");
        let [first, second] = servers;
        let (winner, loser) = if won[0] { (first, second) } else { (second, first) };
        let message = format!(
            "rot13d: cannot listen on unix:{}: another process listens there; end it, or choose another path",
            path.display()
        );
        assert_refused(loser, &message);
        greet(&mut connect(&path));
        // It is killed, and its path is the next round's.
        drop(winner);
        assert!(path.exists(), "round {round}");
    }
}

#[test]
fn a_path_that_is_listened_on_is_an_error_and_its_server_does_not_notice() {
    let folder = Folder::new("unix-live");
    let path = folder.socket();
    let live = at(&path);
    assert!(listens(&live));
    let message = format!(
        "rot13d: cannot listen on unix:{}: another process listens there; end it, or choose another path",
        path.display()
    );
    assert_refused(at(&path), &message);
    let mut command = rot13d();
    command.args(["--config", &folder.file("")]);
    assert_refused(Server::launch(command), &message.replace("rot13d: ", "rot13d: listener local: "));
    greet(&mut connect(&path));
    live.log_line("closed: peer-eof");
    let log = end(live);
    assert_eq!(log.iter().filter(|line| line.contains(" closed: ")).count(), 1, "nobody else connected: {log:#?}");
    assert!(!path.exists());
}

#[test]
fn the_path_of_a_killed_server_is_taken_over() {
    let folder = Folder::new("unix-killed");
    let path = folder.socket();
    let mut killed = at(&path);
    assert!(listens(&killed));
    greet(&mut connect(&path));
    killed.signal(Signal::KILL);
    killed.wait();
    assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let next = at(&path);
    assert!(listens(&next), "{:#?}", next.log());
    greet(&mut connect(&path));
    end(next);
    assert!(!path.exists());
}

#[test]
fn a_file_that_is_no_socket_stays_as_it_is() {
    let folder = Folder::new("unix-file");
    let path = folder.socket();
    fs::write(&path, "precious").unwrap();
    let message = format!(
        "rot13d: cannot listen on unix:{}: what is there is no socket, and stays; remove it, or choose another path",
        path.display()
    );
    assert_refused(at(&path), &message);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn the_path_is_gone_at_the_end_however_the_server_ends() {
    let folder = Folder::new("unix-end");
    let path = folder.socket();
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = at(&path);
        assert!(listens(&server));
        greet(&mut connect(&path));
        server.signal(signal);
        assert_eq!(server.wait().0, Some(0));
        assert!(!path.exists(), "{signal:?}");
    }
    // Aborted by a second signal, with a session that would not end.
    let mut server = launch(&["--listen", &format!("unix:{}", path.display()), "--drain-timeout", "1h"]);
    assert!(listens(&server));
    let mut stuck = connect(&path);
    stuck.set_nonblocking(true).unwrap();
    // It sends until nothing more is taken, and does not read.
    while stuck.write(&b"Hello\n".repeat(1000)).is_ok() {}
    server.signal(Signal::TERM);
    server.log_line("draining");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().0, Some(0));
    assert!(!path.exists());
    // Another listener of it could not be bound.
    let (_ours, taken) = reserve();
    let _busy = std::net::TcpListener::bind(taken).expect("the address is ours");
    let mut server = launch(&["--listen", &format!("unix:{}", path.display()), "--listen", &taken.to_string()]);
    assert_eq!(server.wait().0, Some(1));
    assert!(!path.exists());
}

#[test]
fn a_path_that_is_anothers_by_the_end_is_left_to_it() {
    let folder = Folder::new("unix-replaced");
    let path = folder.socket();
    let first = at(&path);
    assert!(listens(&first));
    let mut session = connect(&path);
    greet(&mut session);
    fs::remove_file(&path).unwrap();
    let second = at(&path);
    assert!(listens(&second), "{:#?}", second.log());
    greet(&mut session);
    let ino = fs::symlink_metadata(&path).unwrap().ino();
    drop(session);
    end(first);
    assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), ino);
    greet(&mut connect(&path));
    end(second);
    assert!(!path.exists());
    // So is one that is no socket.
    let server = at(&path);
    assert!(listens(&server));
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    end(server);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_path_is_the_users_alone_whatever_the_umask() {
    let folder = Folder::new("unix-umask");
    let path = folder.socket();
    for umask in ["000", "022", "077", "777"] {
        let mut command = Command::new("sh");
        command.args(["-c", "umask \"$0\" && exec \"$@\"", umask, env!("CARGO_BIN_EXE_rot13d")]);
        command.args(["--listen", &format!("unix:{}", path.display())]).env_remove("RUST_LOG");
        let server = Server::launch(command);
        assert!(listens(&server), "{:#?}", server.log());
        assert_eq!(format!("{:o}", mode(&path)), "600", "umask {umask}");
        end(server);
    }
}

#[test]
fn mode_and_group_of_the_file_are_those_of_the_path() {
    let folder = Folder::new("unix-group");
    let path = folder.socket();
    // Root may give it to any group, everybody else to one of their own.
    let group = if geteuid().is_root() { GROUP } else { getegid().as_raw() };
    let server = launch(&["--config", &folder.file(&format!("mode = \"0660\"\ngroup = \"{group}\"\n"))]);
    assert!(listens(&server), "{:#?}", server.log());
    let file = fs::symlink_metadata(&path).unwrap();
    assert_eq!((mode(&path), file.uid(), file.gid()), (0o660, geteuid().as_raw(), group));
    greet(&mut connect(&path));
    end(server);
    let mut server = launch(&["--config", &folder.file("group = \"no-such-group\"\n")]);
    let (code, log) = server.wait();
    assert!(code == Some(2) && log.last().unwrap().contains("no-such-group"), "{code:?} {log:#?}");
    assert!(!path.exists());
}

#[test]
fn an_abstract_name_has_no_file_and_is_free_again_when_its_server_is_killed() {
    let name = format!("rot13d-unix-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    for _ in 0..2 {
        let server = launch(&["--listen", &format!("unix:@{name}")]);
        server.log_line(&format!("listening on unix:@{name}"));
        greet(&mut bounded(UnixStream::connect_addr(&address).unwrap()));
        let message = format!(
            "rot13d: cannot listen on unix:@{name}: another process listens there; end it, or choose another path"
        );
        assert_refused(launch(&["--listen", &format!("unix:@{name}")]), &message);
        // It is killed.
        drop(server);
    }
}

#[test]
fn the_log_has_process_user_and_group_of_each_peer() {
    let folder = Folder::new("unix-log");
    let path = folder.socket();
    let server = at(&path);
    assert!(listens(&server));
    greet(&mut connect(&path));
    let line = server.log_line(" closed: peer-eof");
    let peer = format!("(pid {}, uid {}, gid {})", std::process::id(), geteuid().as_raw(), getegid().as_raw());
    assert!(line.contains(&format!(" from unix {peer} closed: ")), "{line}");
    end(server);
}

#[test]
fn a_user_that_is_denied_is_closed_without_an_answer_and_by_a_hangup_loses_its_session() {
    let folder = Folder::new("unix-lists");
    let path = folder.socket();
    let uid = geteuid().as_raw();
    let file = |lists: &str| {
        folder.write(&format!("listen = [\"unix:{}\"]\nexempt = \"off\"\n{lists}", path.display()));
    };
    file("allow = [\"unix\"]\n");
    let server = launch(&["-v", "--config", folder.path("rot13d.toml").to_str().unwrap()]);
    assert!(listens(&server));
    let mut session = connect(&path);
    greet(&mut session);
    let reload = |lists: &str, times| {
        file(lists);
        server.signal(Signal::HUP);
        server.log_lines("is in force", times);
    };
    reload(&format!("deny = [\"uid:{uid}\"]\n"), 1);
    assert!(is_closed(&mut session), "the session of one who is denied now");
    assert!(is_closed(&mut connect(&path)));
    for (times, lists, gets_in) in [
        (2, format!("allow = [\"uid:{uid}\"]\n"), true),
        (3, format!("allow = [\"uid:{}\"]\n", uid + 1), false),
        (4, format!("allow = [\"gid:{}\"]\n", getegid().as_raw()), true),
        (5, "allow = [\"127.0.0.0/8\"]\n".to_owned(), false),
        (6, "allow = [\"127.0.0.0/8\", \"unix\"]\n".to_owned(), true),
        (7, format!("deny = [\"uid:{}\", \"0.0.0.0/0\", \"::/0\"]\n", uid + 1), true),
    ] {
        reload(&lists, times);
        let mut peer = connect(&path);
        match gets_in {
            true => greet(&mut peer),
            false => assert!(is_closed(&mut peer), "{lists}"),
        }
    }
    end(server);
}

/// True if there is an end and nothing before it.
fn is_closed(peer: &mut UnixStream) -> bool {
    // It may be closed by then.
    let _ = peer.write_all(b"Hello\n");
    let mut rest = Vec::new();
    match peer.read_to_end(&mut rest) {
        Ok(_) => rest.is_empty(),
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
#[ignore = "needs socat: run tests/run"]
fn socat_gets_its_answers_by_path_and_by_name() {
    let folder = Folder::new("unix-socat");
    let path = folder.socket();
    let name = format!("rot13d-socat-{}", std::process::id());
    let server = launch(&["--listen", &format!("unix:{}", path.display()), "--listen", &format!("unix:@{name}")]);
    server.log_lines("listening on unix:", 2);
    for address in [format!("UNIX-CONNECT:{}", path.display()), format!("ABSTRACT-CONNECT:{name}")] {
        let mut socat = Command::new("socat");
        socat.args(["-t", "60", "-", &address]);
        let output = finish(socat, b"Hello\nof socat\n");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "Uryyb\nbs fbpng\n", "{address}: {output:?}");
    }
    end(server);
}

#[test]
#[ignore = "takes root, to become another user, and needs setpriv and socat: run tests/run"]
fn other_users_are_kept_out_by_the_mode_and_let_in_by_the_group() {
    if !is_root() {
        return;
    }
    let folder = Folder::new("unix-users");
    let address = format!("UNIX-CONNECT:{}", folder.socket().display());
    for (settings, stranger, member) in [
        (String::new(), false, false),
        (format!("mode = \"0660\"\ngroup = \"{GROUP}\"\n"), false, true),
        (format!("owner = \"{STRANGER}\"\n"), true, false),
        ("mode = \"0666\"\n".to_owned(), true, true),
    ] {
        let server = launch(&["--config", &folder.file(&settings)]);
        assert!(listens(&server), "{:#?}", server.log());
        for (user, group, gets_in) in [(STRANGER, STRANGER, stranger), (MEMBER, GROUP, member)] {
            let expected = (if gets_in { "Uryyb\n" } else { "" }.to_owned(), gets_in);
            assert_eq!(socat_as(user, group, &address), expected, "{user} of {group} with {settings:?}");
        }
        greet(&mut connect(&folder.socket()));
        end(server);
    }
}

#[test]
#[ignore = "takes root, to become another user, and needs setpriv and socat: run tests/run"]
fn other_users_are_kept_out_and_let_in_by_the_lists_and_named_in_the_log() {
    if !is_root() {
        return;
    }
    let folder = Folder::new("unix-listed");
    let (path, address) = (folder.socket(), format!("UNIX-CONNECT:{}", folder.socket().display()));
    for (lists, stranger, member) in [
        (format!("deny = [\"uid:{STRANGER}\"]\n"), false, true),
        (format!("allow = [\"uid:{STRANGER}\"]\n"), true, false),
        (format!("allow = [\"gid:{GROUP}\"]\n"), false, true),
        (format!("allow = [\"unix\"]\ndeny = [\"gid:{GROUP}\"]\n"), true, false),
    ] {
        let listener =
            format!("[[listener]]\nname = \"local\"\naddress = \"unix:{}\"\nmode = \"0666\"\n", path.display());
        let server = launch(&["-v", "--config", &folder.write(&(lists.clone() + &listener))]);
        assert!(listens(&server), "{:#?}", server.log());
        for (user, group, gets_in) in [(STRANGER, STRANGER, stranger), (MEMBER, GROUP, member)] {
            let (answer, connects) = socat_as(user, group, &address);
            assert!(connects, "the mode lets everybody in");
            assert_eq!(answer, if gets_in { "Uryyb\n" } else { "" }, "{user} of {group} with {lists:?}");
            if gets_in {
                let line = server.log_line(" closed: peer-eof");
                assert!(line.contains(&format!(", uid {user}, gid {group}) closed: ")), "{line}");
            }
        }
        end(server);
    }
}
