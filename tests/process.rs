//! rot13d as a process: flags, exit codes, log, signals.

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::{Command, Output},
    time::{Duration, Instant},
};

use rustix::{
    net::{Shutdown, shutdown, sockopt::socket_acceptconn},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open},
};
use support::{
    Server, UNHURRIED, address_in, converse, eventually, expect, finish, greet, offer, reserve, rest, rot13d, tr,
};

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = rot13d();
    command.args(arguments);
    let Output { status, stdout, stderr } = finish(command, b"");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn with_rust_log(filter: &str, arguments: &[&str]) -> Command {
    let mut command = rot13d();
    command.args(["--listen", "127.0.0.1:0"]).args(arguments).env("RUST_LOG", filter);
    command
}

/// Ends the server; returns all that it has logged.
#[track_caller]
fn drained(mut server: Server) -> Vec<String> {
    server.signal(Signal::TERM);
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log:#?}");
    log
}

fn count(log: &[String], part: &str) -> usize {
    log.iter().filter(|line| line.contains(part)).count()
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
        "16KiB",
        "--overlong",
        "pieces",
        "split",
        "truncate",
        "discard",
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
        (&["--overlong", "shrink"], "pieces, split, truncate, discard, close"),
        (&["--workers", "0"], "'--workers <N>': use 1 to 1024, or auto"),
        (&["--workers", "1025"], "use 1 to 1024, or auto"),
        (&["--max-line", "0"], "use 1 to 1GiB, as 65536, 64KiB or 1MiB"),
        (&["--max-line", "1073741825"], "use 1 to 1GiB, as 65536, 64KiB or 1MiB"),
        (&["--max-line", "many"], "use 1 to 1GiB, as 65536, 64KiB or 1MiB"),
        (&["--max-sessions", "0"], "use 1 or more, or auto"),
        (&["--backlog", "0"], "use 1 to 2147483647"),
        (&["--drain-timeout", "soon"], "'--drain-timeout <TIME>': use 0s to 24 days, as 10s, 5m or 2h"),
        (&["--listen", "localhost"], "the port is missing"),
        (&["--listen", "localhost:http"], "no port"),
        (&["--listen", "localhost:65536"], "no port"),
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
        let begin = format!(
            "rot13d: cannot listen on {address}: address already in use; choose another port, or end whoever listens there"
        );
        assert!(stderr.starts_with(&begin) && stderr.lines().count() == 1, "{stderr}");
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
    for line in server.log_lines("listening on ", 2) {
        assert_eq!(converse(address_in(&line), b"Hello\n"), b"Uryyb\n");
    }
}

#[test]
fn a_closed_session_is_one_line_of_the_verbose_log_and_none_of_the_usual() {
    for (level, lines) in [(&[][..], 0), (&["-v"], 2), (&["-vv"], 2)] {
        let server = Server::start(level);
        let mut stream = server.connect();
        let peer = stream.local_addr().unwrap();
        stream.write_all(b"Secret\nmore").unwrap();
        expect(&mut stream, "Frperg\n");
        drop(stream);
        converse(server.address, b"Hello\n");
        // A worker may hear of the end of a peer later than of a signal.
        server.log_lines(" closed: ", lines);
        let log = drained(server);
        assert_eq!(count(&log, " closed: "), lines, "{level:?}: {log:#?}");
        let numbers = format!(" from {peer} closed: peer-eof, 2 lines and 11 bytes in, ");
        assert_eq!(count(&log, &numbers), lines / 2, "{level:?}: {log:#?}");
        let text = log.concat();
        assert!(!text.contains("Secret") && !text.contains("Frperg"), "a peer's data is not for the log: {text}");
    }
}

#[test]
fn rust_log_chooses_what_is_logged_and_flags_overrule_it() {
    let server = Server::spawn(with_rust_log("actix_lines=debug", &[]));
    converse(server.address, b"Hello\n");
    assert_eq!(count(&drained(server), " closed: "), 1);

    let server = Server::spawn_silent(with_rust_log("off", &[]));
    converse(server.address, b"Hello\n");
    assert_eq!(drained(server), [""; 0]);

    let server = Server::spawn(with_rust_log("off", &["-v"]));
    converse(server.address, b"Hello\n");
    assert_eq!(count(&drained(server), " closed: "), 1);

    let server = Server::spawn_silent(with_rust_log("trace", &["-q"]));
    converse(server.address, b"Hello\n");
    assert_eq!(drained(server), [""; 0]);
}

#[test]
fn quiet_says_nothing_of_what_goes_well() {
    for level in ["-q", "-qq"] {
        // Nothing is logged, so the port has to be known from elsewhere.
        let mut command = rot13d();
        command.args(["--listen", "127.0.0.1:0", level]);
        let server = Server::spawn_silent(command);
        greet(&mut server.connect());
        assert_eq!(drained(server), [""; 0]);
    }
}

#[test]
fn an_idle_server_ends_at_once_with_code_0() {
    for signal in [Signal::TERM, Signal::INT] {
        for workers in ["1", "2"] {
            let mut server = Server::start(&["--workers", workers, "--drain-timeout", "1h"]);
            server.signal(signal);
            let (code, log) = server.wait();
            assert_eq!(code, Some(0), "{signal:?}");
            assert_eq!(count(&log, "drained: 0 sessions ended, 0 cut"), 1, "{log:#?}");
        }
    }
}

#[test]
fn a_server_that_says_it_listens_has_its_signals_in_hand() {
    for workers in ["1", "2"] {
        for _ in 0..20 {
            let log = drained(Server::start(&["--workers", workers]));
            assert_eq!(count(&log, "SIGTERM: draining"), 1, "{log:#?}");
        }
    }
}

#[test]
fn a_drain_answers_what_was_read_then_closes() {
    let mut server = Server::start(&[&["--workers", "2"][..], &UNHURRIED].concat());
    let mut streams: Vec<_> = (0..10).map(|_| server.connect()).collect();
    for stream in &mut streams {
        stream.write_all(b"Hello\npart").unwrap();
        expect(stream, "Uryyb\n");
    }
    server.signal(Signal::TERM);
    for mut stream in streams {
        assert_eq!(rest(&mut stream), b"");
    }
    let (code, log) = server.wait();
    assert_eq!(code, Some(0));
    assert_eq!(count(&log, "drained: 10 sessions ended, 0 cut"), 1, "{log:#?}");
}

#[test]
fn a_drain_delivers_what_was_answered_to_a_peer_that_had_not_read_yet() {
    for workers in ["1", "2"] {
        let mut server = Server::start(&[&["-v", "--workers", workers][..], &UNHURRIED].concat());
        let mut stream = server.connect();
        let lines: Vec<u8> = (0..100_000).flat_map(|number| format!("Line {number} of many\n").into_bytes()).collect();
        let input = lines.repeat(20);
        let sent = offer(&mut stream, &input, input.len());
        assert!(sent < input.len(), "nothing is owed: the server has read it all");
        server.signal(Signal::TERM);
        server.log_line("SIGTERM: draining");
        let got = rest(&mut stream);
        drop(stream);
        assert!(got.len() > 128 << 10 && got.len() <= sent, "{} bytes came back of {sent}", got.len());
        support::assert_same("what was answered", &got, &tr(&input[..got.len()]));
        assert_eq!(got.last(), Some(&b'\n'), "an incomplete line is not answered");
        let answered = got.iter().filter(|byte| **byte == b'\n').count();
        let (code, log) = server.wait();
        assert_eq!(code, Some(0));
        assert_eq!(count(&log, &format!("closed: drained, {answered} lines and ")), 1, "{log:#?}");
        assert_eq!(count(&log, &format!(" {} bytes out, 0 unsent", got.len())), 1, "{log:#?}");
        assert_eq!(count(&log, "drained: 1 session ended, 0 cut"), 1, "{log:#?}");
    }
}

#[test]
fn lines_of_connections_that_wait_to_be_accepted_are_answered_before_the_end() {
    const PEERS: usize = 300;
    for workers in ["1", "2"] {
        let mut server = Server::start(&[&["--workers", workers][..], &UNHURRIED].concat());
        // It stands still, so that all of them and the signal are there when it looks.
        server.signal(Signal::STOP);
        let mut streams: Vec<_> = (0..PEERS).map(|_| server.connect()).collect();
        for stream in &mut streams {
            stream.write_all(b"Hello\n").unwrap();
        }
        server.signal(Signal::TERM);
        server.signal(Signal::CONT);
        for mut stream in streams {
            assert_eq!(String::from_utf8_lossy(&rest(&mut stream)), "Uryyb\n", "{workers} workers");
        }
        let (code, log) = server.wait();
        assert_eq!(code, Some(0));
        assert_eq!(count(&log, &format!("drained: {PEERS} sessions ended, 0 cut")), 1, "{log:#?}");
    }
}

#[test]
fn nobody_is_accepted_while_a_drain_goes_on() {
    let mut server = Server::start(&UNHURRIED);
    let mut stream = server.connect();
    greet(&mut stream);
    server.signal(Signal::TERM);
    assert_eq!(rest(&mut stream), b"");
    // It lingers for us; the listener is gone.
    let refused = TcpStream::connect(server.address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    drop(stream);
    assert_eq!(server.wait().0, Some(0));
}

/// A connection that sends until nothing more is taken, and does not read.
fn stuck_peer(server: &Server) -> TcpStream {
    let mut stream = server.connect();
    let line = [vec![b'x'; 999], vec![b'\n']].concat().repeat(64);
    offer(&mut stream, &line, usize::MAX);
    stream
}

#[test]
fn a_session_that_does_not_end_is_cut_at_the_drains_deadline() {
    for workers in ["1", "2"] {
        let mut server = Server::start(&["--drain-timeout", "700ms", "--workers", workers]);
        let _stuck = stuck_peer(&server);
        let begin = Instant::now();
        server.signal(Signal::TERM);
        let (code, log) = server.wait();
        assert_eq!(code, Some(0));
        assert!(begin.elapsed() >= Duration::from_millis(700), "{:?}", begin.elapsed());
        assert_eq!(count(&log, "drained: 0 sessions ended, 1 cut"), 1, "{log:#?}");
    }
}

#[test]
fn a_second_signal_aborts_at_once() {
    for (first, second) in [(Signal::TERM, Signal::INT), (Signal::INT, Signal::INT)] {
        let mut server = Server::start(&["--drain-timeout", "1h"]);
        let _stuck = stuck_peer(&server);
        server.signal(first);
        server.log_line("draining");
        server.signal(second);
        let (code, log) = server.wait();
        assert_eq!(code, Some(0));
        assert_eq!(count(&log, "SIGINT again: aborting"), 1, "{log:#?}");
        assert_eq!(count(&log, "drained: 0 sessions ended, 1 cut"), 1, "{log:#?}");
    }
}

#[test]
fn a_peer_that_vanishes_in_the_middle_of_an_answer_harms_nobody() {
    let server = Server::start(&["-v"]);
    for _ in 0..5 {
        // With unread bytes there, this is a reset: the server's next write fails, where SIGPIPE lurks.
        drop(stuck_peer(&server));
    }
    assert_eq!(converse(server.address, b"Hello\n"), b"Uryyb\n");
    server.log_lines(" closed: peer-reset", 5);
}

#[test]
fn a_sigpipe_does_nothing() {
    let server = Server::start(&[]);
    server.signal(Signal::PIPE);
    assert_eq!(converse(server.address, b"Hello\n"), b"Uryyb\n");
}

#[test]
fn a_connection_over_the_limit_is_served_when_another_ends() {
    let server = Server::start(&["--max-sessions", "2", "--workers", "2", "--over-limit", "wait"]);
    let mut served: Vec<_> = (0..2).map(|_| server.connect()).collect();
    for stream in &mut served {
        greet(stream);
    }
    let mut waiting = server.connect();
    waiting.write_all(b"Me too\n").unwrap();
    // The server has done all that it can, and has not accepted it.
    let mut watch = server.watch();
    eventually("the server to have nothing to do", || watch.are_done().then_some(()));
    for stream in &mut served {
        greet(stream);
    }
    server.signal(Signal::USR1);
    server.log_line("counters: 2 live, 2 opened, ");
    waiting.set_nonblocking(true).unwrap();
    let answer = waiting.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(answer, Err(ErrorKind::WouldBlock), "it should wait");
    waiting.set_nonblocking(false).unwrap();
    drop(served.pop());
    expect(&mut waiting, "Zr gbb\n");
}

#[test]
fn overlong_lines_are_treated_as_the_flag_says() {
    for (policy, expected) in [
        ("pieces", "uv\nnopqrstuvw\nbx\nnopq\n"),
        ("split", "uv\nnopq\nrstu\nvw\nbx\nnopq\n\n"),
        ("truncate", "uv\nnopq\nbx\nnopq\n"),
        ("close", "uv\n"),
    ] {
        let server = Server::start(&["--max-line", "4", "--overlong", policy]);
        let got = converse(server.address, b"hi\nabcdefghij\nok\nabcd\n");
        assert_eq!(String::from_utf8_lossy(&got), expected, "{policy}");
    }
}

/// Another descriptor of the server's listening socket.
fn listener_of(server: &Server) -> OwnedFd {
    let process = pidfd_open(Pid::from_raw(server.id() as i32).unwrap(), PidfdFlags::empty()).unwrap();
    let numbers = std::fs::read_dir(format!("/proc/{}/fd", server.id())).unwrap();
    numbers
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter_map(|number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok())
        .find(|descriptor| socket_acceptconn(descriptor) == Ok(true))
        .expect("a listening socket among the server's descriptors")
}

#[test]
#[ignore = "takes a descriptor of another process, which sandboxes may forbid: run tests/run"]
fn a_listener_that_fails_again_and_again_ends_the_process_with_1_and_a_clear_line() {
    // A port that was asked for by number: the kernel takes any other away when the socket stops listening.
    let (_ours, address) = reserve();
    let address = address.to_string();
    let mut command = rot13d();
    command.args(["--listen", &address]);
    let mut server = Server::spawn(command);
    let mut session = server.connect();
    greet(&mut session);
    let listener = listener_of(&server);
    for failures in 1..=6 {
        shutdown(&listener, Shutdown::Both).unwrap();
        if failures < 6 {
            server.log_lines("another takes over", failures);
            eventually("the listener to listen again", || TcpStream::connect(&address).ok());
            greet(&mut session);
        }
    }
    let (code, log) = server.wait();
    assert_eq!(code, Some(1), "{log:#?}");
    assert!(
        log.iter().any(|line| line.contains("its acceptor has failed 6 times within 60s: the server ends")),
        "{log:#?}"
    );
    assert_eq!(
        log.last().unwrap(),
        &format!("rot13d: cannot go on accepting on {address}: look above for what failed"),
        "{log:#?}"
    );
}

#[test]
#[ignore = "takes root, to become a user who may have few threads, and needs setpriv and prlimit: run tests/run"]
fn too_few_threads_to_start_are_said_with_code_1() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can become another user, whose threads are counted");
    }
    // Nobody else may have threads of this user, and it has to find the program.
    let user = 1_000_000 + std::process::id();
    let program = std::env::temp_dir().join(format!("rot13d-{user}"));
    std::fs::copy(env!("CARGO_BIN_EXE_rot13d"), &program).unwrap();
    let mut served = 0;
    for threads in 1..=8 {
        let mut command = Command::new("setpriv");
        command
            .args([&format!("--reuid={user}"), "--clear-groups", "prlimit", &format!("--nproc={threads}:{threads}")])
            .arg(&program)
            .args(["--listen", "127.0.0.1:0", "--workers", "3", "--console", "off"])
            .env_remove("RUST_LOG");
        let mut server = Server::launch(command);
        if server.listens() {
            greet(&mut server.connect());
            served += 1;
            // It takes one more thread to join the workers.
            server.signal(Signal::TERM);
            assert_eq!(server.wait().0, Some(0), "with {threads}");
            continue;
        }
        let (code, log) = server.wait();
        assert_eq!((code, served, log.len()), (Some(1), 0, 1), "with {threads}: {log:#?}");
        let begins = match threads {
            1 => "rot13d: cannot start a thread for the log: ",
            _ => "rot13d: cannot start worker ",
        };
        assert!(log[0].starts_with(begins) && log[0].contains("raise the thread limit (ulimit -u, "), "{log:#?}");
    }
    std::fs::remove_file(&program).unwrap();
    // Main, log and three workers are five; the log needs its own only while something is logged.
    assert!((4..=5).contains(&served), "{served}");
}
