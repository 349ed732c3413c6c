//! The server says that it is about to end before it does: to HAProxy, to probes, to its service manager.

mod support;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
};

use rustix::process::Signal;
use support::{PATIENCE, Server, address_in, connect, converse, eventually, finish, greet, rest, rot13d};

/// A server that answers agent checks, and where.
fn start(arguments: &[&str]) -> (Server, SocketAddr) {
    let server = Server::start(&[&["--agent-check", "127.0.0.1:0"][..], arguments].concat());
    let agent = address_in(&server.log_line(" as agent-check"));
    (server, agent)
}

/// What HAProxy does.
fn ask(agent: SocketAddr) -> String {
    String::from_utf8(rest(&mut connect(agent))).unwrap()
}

#[test]
fn a_server_is_up_with_a_weight_by_its_sessions() {
    let (server, agent) = start(&["--max-sessions", "4"]);
    assert_eq!(ask(agent), "up ready 100%\n");
    let mut peer = server.connect();
    greet(&mut peer);
    assert_eq!(ask(agent), "up ready 75%\n");
    drop(peer);
    eventually("the weight to rise again", || (ask(agent) == "up ready 100%\n").then_some(()));
}

#[test]
fn a_signal_is_said_before_the_drain_begins_and_a_second_one_begins_it() {
    let (mut server, agent) = start(&["--drain-delay", "1h", "--drain-goodbye", "bye", "--http", "127.0.0.1:0"]);
    let line = server.log_line("http: served at");
    let (_, http) = line.split_once("http://").unwrap();
    let http: SocketAddr = http.trim_end_matches('/').parse().unwrap();
    let mut peer = server.connect();
    greet(&mut peer);
    server.signal(Signal::TERM);
    server.log_line("SIGTERM: draining in 3600s, then for at most 10s; a second signal begins at once");
    assert_eq!(ask(agent), "drain\n");
    let mut probe = connect(http);
    probe.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").unwrap();
    let answer = String::from_utf8(rest(&mut probe)).unwrap();
    assert!(answer.starts_with("HTTP/1.0 503") && answer.contains("the server is about to drain"), "{answer}");
    // Whoever is there is served, and whoever comes.
    greet(&mut peer);
    assert_eq!(converse(server.address, b"Hello\n"), b"Uryyb\n");
    server.signal(Signal::TERM);
    assert_eq!(rest(&mut peer), b"bye\r\n");
    drop(peer);
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log:#?}");
    assert!(log.iter().any(|line| line.contains("SIGTERM: draining at once")), "{log:#?}");
    assert!(log.iter().any(|line| line.contains("drained: ") && line.contains(" ended, 0 cut, in ")), "{log:#?}");
    assert!(TcpStream::connect(agent).is_err(), "nobody answers for a server that has ended");
}

#[test]
fn a_drain_begins_by_itself_when_its_delay_is_over() {
    let (mut server, agent) = start(&["--drain-delay", "50ms"]);
    let mut peer = server.connect();
    greet(&mut peer);
    server.signal(Signal::TERM);
    assert_eq!(rest(&mut peer), b"");
    drop(peer);
    assert_eq!(server.wait().0, Some(0));
    assert!(TcpStream::connect(agent).is_err());
}

#[test]
fn a_third_signal_aborts() {
    let (mut server, _) = start(&["--drain-delay", "1h", "--drain-timeout", "1h", "--linger-timeout", "1h"]);
    let mut peer = server.connect();
    greet(&mut peer);
    for said in ["draining in", "draining at once"] {
        server.signal(Signal::TERM);
        server.log_line(said);
    }
    // A peer that does not close.
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().0, Some(0));
}

#[test]
fn a_place_that_it_cannot_have_is_named_with_what_to_do() {
    let said = |arguments: &[&str]| {
        let mut command = rot13d();
        command.args(arguments);
        let output = finish(command, b"");
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, error) = said(&["--agent-check", "nowhere"]);
    assert!(code == Some(2) && error.contains("for '--agent-check <ADDRESS>': the port is missing: use "), "{error}");
    // Two of ours, before anything is bound.
    for (flag, whose) in [("--listen", "listen"), ("--http", "http"), ("--console", "console")] {
        let (code, error) = said(&[flag, "127.0.0.1:1", "--agent-check", "127.0.0.1:1", "--check-config"]);
        let expected = format!(
            "rot13d: invalid agent-check: the system does not give it beside 127.0.0.1:1 of {whose}: use another, or take one of \
             them away\n"
        );
        assert_eq!((code, error), (Some(2), expected));
    }
    // Somebody else's.
    let (_reserved, taken) = support::reserve();
    let _occupied = TcpListener::bind(taken).expect("the address is ours");
    let (code, error) = said(&["--listen", "127.0.0.1:0", "--agent-check", &taken.to_string()]);
    let expected =
        format!("rot13d: agent-check: cannot listen on {taken}: address already in use; choose another port");
    assert!(code == Some(1) && error.contains(&expected), "{error}");
}

#[cfg(all(feature = "systemd", target_os = "linux"))]
#[test]
fn a_service_manager_hears_when_the_drain_begins() {
    let folder = std::env::temp_dir().join(format!("rot13d-agent-check-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = rot13d();
    command.args(["--listen", "127.0.0.1:0", "--drain-delay", "1h"]).env("NOTIFY_SOCKET", &path);
    let mut server = Server::spawn(command);
    let hear = |part: &str| {
        eventually(part, || {
            let mut buffer = [0; 4096];
            let length = manager.recv(&mut buffer).expect("a notification");
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            text.contains(part).then_some(text)
        })
    };
    hear("READY=1");
    server.signal(Signal::TERM);
    assert!(hear("STOPPING=1").contains("EXTEND_TIMEOUT_USEC="));
    let status = hear("STATUS=drains in ");
    assert!(status.contains(" s: 0 sessions") && status.contains("EXTEND_TIMEOUT_USEC="), "{status}");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().0, Some(0));
    let _ = std::fs::remove_dir_all(folder);
}
