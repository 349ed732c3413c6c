//! C4: without descriptors the server neither spins nor stalls its sessions, and heals by itself.

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
};

use rustix::process::Signal;
use support::{Server, connect, eventually, expect, greet, rest};

/// The server with room for few descriptors, and an admission that does not know.
fn poor_server() -> Server {
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n 40; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_rot13d")])
        .args(["--listen", "127.0.0.1:0", "--max-sessions", "1000", "--workers", "2", "-v"])
        .env_remove("RUST_LOG")
        .env_remove("RUST_LOG_STYLE");
    Server::spawn(command)
}

/// A connection that was answered; `None` if it was closed instead.
fn served(server: &Server) -> Option<TcpStream> {
    let mut stream = connect(server.address);
    let mut answer = [0; 6];
    stream.write_all(b"Hello\n").and_then(|()| stream.read_exact(&mut answer)).ok()?;
    assert_eq!(&answer, b"Uryyb\n");
    Some(stream)
}

#[test]
fn a_server_without_descriptors_rests_serves_and_recovers() {
    let server = poor_server();
    server.log_line("max-sessions 1000 is more than the descriptor limit has room for");
    let mut sessions = Vec::new();
    while let Some(stream) = served(&server) {
        sessions.push(stream);
    }
    assert!((8..40).contains(&sessions.len()), "{} were served", sessions.len());
    server.log_line("cannot accept");

    // More wait than it can turn away before it was looked at often enough: there is always one that it could try to accept.
    let mut waiting: Vec<_> = (0..400).map(|_| connect(server.address)).collect();
    assert!(server.sleeps(), "it spins without a descriptor to spare");

    for stream in &mut sessions {
        stream.write_all(b"Still there?\n").unwrap();
        expect(stream, "Fgvyy gurer?\n");
    }
    // Nobody is left hanging: each is turned away in the end.
    for stream in &mut waiting {
        assert_eq!(rest(stream), b"");
    }
    let ended = sessions.len();
    drop(sessions);
    server.log_lines(" closed: peer-eof", ended);

    eventually("a new connection to be served", || served(&server));
    server.log_line("accepts again after");
    let count = |part| server.log().iter().filter(|line| line.contains(part)).count();
    assert_eq!((count("cannot accept"), count("accepts again")), (1, 1), "{:#?}", server.log());
}

#[test]
fn too_few_descriptors_to_start_are_said_with_code_1() {
    for workers in ["1", "2"] {
        let mut served = 0;
        // With 3 the program cannot even be loaded: standard streams have them.
        for descriptors in 4..=40 {
            let mut command = Command::new("sh");
            command
                .args(["-c", &format!("ulimit -n {descriptors}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_rot13d")])
                .args(["--listen", "127.0.0.1:0", "--workers", workers])
                .env_remove("RUST_LOG");
            let mut server = Server::launch(command);
            if server.listens() {
                greet(&mut server.connect());
                served += 1;
                server.signal(Signal::TERM);
                assert_eq!(server.wait().0, Some(0), "with {descriptors}");
                continue;
            }
            let (code, log) = server.wait();
            assert_eq!((code, served, log.len()), (Some(1), 0, 1), "with {descriptors}: {log:#?}");
            let begin = format!("rot13d: cannot start: too many open files: with --workers {workers} it takes ");
            let limit = format!(", and the limit is {descriptors}; raise it (ulimit -n, ");
            assert!(log[0].starts_with(&begin) && log[0].contains(&limit), "{log:#?}");
        }
        // Few more than the least that it takes.
        assert!(served > 11, "only {served} of the limits were enough for {workers} workers");
    }
}
