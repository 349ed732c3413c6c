//! C4: without descriptors the server neither spins nor stalls its sessions, and heals by itself.

mod support;

use std::{
    io::{Read, Write},
    process::Command,
    time::Duration,
};

use support::{Server, connect, eventually, expect, measure_for};

/// The server with room for few descriptors, and an admission that does not know.
fn poor_server() -> Server {
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n 40; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_rot13d")])
        .args(["--listen", "127.0.0.1:0", "--max-sessions", "1000", "-v"])
        .env_remove("RUST_LOG");
    Server::spawn(command)
}

#[test]
fn a_server_without_descriptors_rests_serves_and_recovers() {
    let server = poor_server();
    server.log_line("--max-sessions 1000 is more than the descriptor limit has room for");
    let mut served = Vec::new();
    // Connects until one is not served: closed at once by means of the reserve.
    eventually("the descriptors to run out", || {
        let mut stream = connect(server.address);
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let _ = stream.write_all(b"Hello\n");
        let mut answer = [0; 6];
        match stream.read_exact(&mut answer) {
            Ok(()) => {
                assert_eq!(&answer, b"Uryyb\n");
                served.push(stream);
                None
            }
            Err(_) => Some(()),
        }
    });
    assert!(served.len() > 10, "only {} were served", served.len());
    server.log_line("cannot accept");

    // Connections keep coming, and the server keeps still.
    let waiting: Vec<_> = (0..20).map(|_| connect(server.address)).collect();
    let before = server.processor_time();
    let window = Duration::from_millis(1500);
    measure_for(window);
    let spent = server.processor_time() - before;
    assert!(spent < window / 10, "{spent:?} of processor time in {window:?} with nothing to do");

    for stream in &mut served {
        stream.write_all(b"Still there?\n").unwrap();
        expect(stream, "Fgvyy gurer?\n");
    }
    drop((waiting, served));
    eventually("a new connection to be served", || {
        let mut stream = connect(server.address);
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        let _ = stream.write_all(b"Hello\n");
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).is_ok().then_some(())
    });
    server.log_line("accepts again after");
    let warnings = server.log().iter().filter(|line| line.contains("cannot accept")).count();
    let recoveries = server.log().iter().filter(|line| line.contains("accepts again")).count();
    assert!(warnings <= recoveries + 1 && warnings < 10, "{warnings} warnings, {recoveries} recoveries");
}
