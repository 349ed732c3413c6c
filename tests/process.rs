//! rot13d as a process: flags, exit codes, log, signals.

mod support;

use std::{
    io::Write,
    net::TcpListener,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use support::{Server, connect, converse, eventually, expect, rest, rot13d};

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = rot13d().args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn version_and_help_are_said_on_standard_output() {
    let (code, version, _) = run(&["--version"]);
    assert_eq!((code, version.as_str()), (Some(0), concat!("rot13d ", env!("CARGO_PKG_VERSION"), "\n")));
    let (code, help, _) = run(&["--help"]);
    assert_eq!(code, Some(0));
    for part in [
        "--listen",
        "127.0.0.1:40713",
        "--workers",
        "--max-line",
        "16384",
        "--overlong",
        "pieces",
        "split",
        "truncate",
        "close",
        "--backlog",
        "4096",
        "--max-sessions",
        "--drain-timeout",
        "10s",
        "--verbose",
        "--quiet",
        "Exit codes",
        "SIGTERM",
        "RUST_LOG",
    ] {
        assert!(help.contains(part), "{part} is not in the help:\n{help}");
    }
}

#[test]
fn bad_usage_is_answered_in_words_with_code_2() {
    for (arguments, words) in [
        (&["--no-such-flag"][..], "--no-such-flag"),
        (&["--overlong", "shrink"], "pieces, split, truncate, close"),
        (&["--workers", "0"], "0 is not in 1..=1024"),
        (&["--max-line", "0"], "use 1 to 1073741824 bytes"),
        (&["--max-line", "many"], "use 1 to 1073741824 bytes"),
        (&["--max-sessions", "0"], "0 is not in 1.."),
        (&["--backlog", "0"], "0 is not in 1.."),
        (&["--drain-timeout", "soon"], "--drain-timeout"),
        (&["--listen", "localhost"], "the port is missing"),
        (&["--listen", "localhost:http"], "no port"),
        (&["--listen", ":40713"], "the address is missing"),
        (&["--listen", "::1:40713"], "[::1]:40713"),
        (&["-v", "-q"], "cannot be used with"),
        (&["extra"], "extra"),
    ] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(words), "{arguments:?} should say {words:?}:\n{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn a_port_in_use_is_said_with_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for level in [&[][..], &["-qq"]] {
        let (code, _, stderr) = run(&[&["--listen", &address][..], level].concat());
        assert_eq!(code, Some(1));
        assert_eq!(stderr, format!("rot13d: cannot listen on {address}: address already in use\n"));
    }
}

#[test]
fn a_name_that_does_not_resolve_is_said_with_code_1() {
    let (code, _, stderr) = run(&["--listen", "no-such-host.invalid:0"]);
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("rot13d: cannot look up \"no-such-host.invalid:0\": "), "{stderr}");
}

#[test]
fn several_listeners_are_served_at_once() {
    let server = Server::start(&["--listen", "127.0.0.1:0", "--workers", "2"]);
    let lines = eventually("two listeners", || {
        let lines: Vec<_> = server.log().into_iter().filter(|line| line.contains("listening on")).collect();
        (lines.len() == 2).then_some(lines)
    });
    for line in lines {
        let address = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert_eq!(converse(address, b"Hello\n"), b"Uryyb\n");
    }
}

#[test]
fn the_log_says_what_its_level_is_for() {
    let server = Server::start(&[]);
    converse(server.address, b"Hello\n");
    assert!(!server.log().iter().any(|line| line.contains("closed")), "closed sessions are for -v");

    let server = Server::start(&["-v"]);
    let mut stream = connect(server.address);
    let own = stream.local_addr().unwrap();
    stream.write_all(b"Secret\nmore").unwrap();
    expect(&mut stream, "Frperg\n");
    drop(stream);
    let line = server.log_line(" closed: ");
    assert!(line.contains(&format!("from {own} closed: peer-eof, 2 lines and 11 bytes in")), "{line}");
    assert!(!server.log().concat().contains("Secret"), "a peer's data is not for the log");

    let mut command = rot13d();
    command.args(["--listen", "127.0.0.1:0"]).env("RUST_LOG", "actix_lines=debug");
    let server = Server::spawn(command);
    converse(server.address, b"Hello\n");
    server.log_line(" closed: ");
}

#[test]
fn quiet_says_nothing_of_what_goes_well() {
    // Nothing is logged, so the port has to be known from elsewhere.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut child = rot13d()
        .args(["-q", "--listen", &free.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stream = eventually("the server to listen", || std::net::TcpStream::connect(free).ok());
    stream.write_all(b"Hello\n").unwrap();
    expect(&mut stream, "Uryyb\n");
    drop(stream);
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, Signal::TERM).unwrap();
    eventually("the server to exit", || child.try_wait().unwrap());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    assert_eq!((status.code(), stdout, String::from_utf8(stderr).unwrap()), (Some(0), vec![], String::new()));
}

#[test]
fn an_idle_server_ends_at_once_with_code_0() {
    for signal in [Signal::TERM, Signal::INT] {
        for workers in ["1", "2"] {
            let mut server = Server::start(&["--workers", workers]);
            let begin = Instant::now();
            server.signal(signal);
            assert_eq!(server.wait().code(), Some(0), "{signal:?}");
            assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
            server.log_line("drained: 0 sessions ended, 0 cut");
        }
    }
}

#[test]
fn a_drain_answers_what_was_read_then_closes() {
    let mut server = Server::start(&["--workers", "2"]);
    let mut streams: Vec<_> = (0..10).map(|_| server.connect()).collect();
    for stream in &mut streams {
        stream.write_all(b"Hello\npart").unwrap();
        expect(stream, "Uryyb\n");
    }
    server.signal(Signal::TERM);
    server.log_line("draining");
    for mut stream in streams {
        assert_eq!(rest(&mut stream), b"");
    }
    assert_eq!(server.wait().code(), Some(0));
    server.log_line("drained: 10 sessions ended, 0 cut");
}

#[test]
fn nobody_is_accepted_while_a_drain_goes_on() {
    let mut server = Server::start(&["--drain-timeout", "20s"]);
    let mut stream = server.connect();
    stream.write_all(b"Hello\n").unwrap();
    expect(&mut stream, "Uryyb\n");
    server.signal(Signal::TERM);
    assert_eq!(rest(&mut stream), b"");
    // It lingers for us; the listener is gone.
    let refused = std::net::TcpStream::connect(server.address).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    drop(stream);
    assert_eq!(server.wait().code(), Some(0));
}

/// A connection that sends until nothing more is taken, and does not read.
fn stuck_peer(server: &Server) -> std::net::TcpStream {
    let mut stream = server.connect();
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let line = [vec![b'x'; 999], vec![b'\n']].concat();
    while stream.write_all(&line).is_ok() {}
    stream
}

#[test]
fn a_session_that_does_not_end_is_cut_at_the_drains_deadline() {
    let mut server = Server::start(&["--drain-timeout", "700ms"]);
    let _stuck = stuck_peer(&server);
    let begin = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert!(begin.elapsed() >= Duration::from_millis(700), "{:?}", begin.elapsed());
    server.log_line("drained: 0 sessions ended, 1 cut");
}

#[test]
fn a_second_signal_aborts() {
    let mut server = Server::start(&["--drain-timeout", "1h"]);
    let _stuck = stuck_peer(&server);
    server.signal(Signal::TERM);
    server.log_line("draining");
    server.signal(Signal::INT);
    assert_eq!(server.wait().code(), Some(0));
    server.log_line("aborting");
}

#[test]
fn a_peer_that_vanishes_in_the_middle_of_an_answer_harms_nobody() {
    let server = Server::start(&["-v"]);
    for _ in 0..5 {
        let stuck = stuck_peer(&server);
        // With unread bytes there, this is a reset: the server's next write fails, where SIGPIPE lurks.
        drop(stuck);
    }
    assert_eq!(converse(server.address, b"Hello\n"), b"Uryyb\n");
    eventually("five ends", || {
        (server.log().iter().filter(|line| line.contains(" closed: peer-reset")).count() == 5).then_some(())
    });
}

#[test]
fn a_connection_over_the_limit_is_served_when_another_ends() {
    let server = Server::start(&["--max-sessions", "2", "--workers", "2"]);
    let mut served: Vec<_> = (0..2).map(|_| server.connect()).collect();
    for stream in &mut served {
        stream.write_all(b"Hello\n").unwrap();
        expect(stream, "Uryyb\n");
    }
    let mut waiting = server.connect();
    waiting.write_all(b"Me too\n").unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut byte = [0];
    assert!(std::io::Read::read(&mut waiting, &mut byte).is_err(), "it should wait");
    waiting.set_read_timeout(Some(support::PATIENCE)).unwrap();
    drop(served.pop());
    expect(&mut waiting, "Zr gbb\n");
}

#[test]
fn overlong_lines_are_treated_as_the_flag_says() {
    for (policy, expected) in [
        ("pieces", "nopqrstuvw\nbx\nnop\n"),
        ("split", "nopq\nrstu\nvw\nbx\nnop\n"),
        ("truncate", "nopq\nbx\nnop\n"),
        ("close", ""),
    ] {
        let server = Server::start(&["--max-line", "4", "--overlong", policy]);
        let got = converse(server.address, b"abcdefghij\nok\nabc\n");
        assert_eq!(String::from_utf8_lossy(&got), expected, "{policy}");
    }
}
