//! T1, of the process: what arrived while it stood still is served as if it had come just now.

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use support::{Server, eventually, expect, greet, rest};

/// Longer than the idle timeout that is set here, and that only: the clock of the process cannot be paused.
const STANDSTILL: Duration = Duration::from_secs(3);

/// A server that stands still, and sessions that it has answered and that have not ended.
fn stopped() -> (Server, Vec<TcpStream>) {
    // Where the machine is so busy that some have ended before, it is tried again.
    eventually("sessions that were answered within a second", || {
        let server = Server::start(&["--idle-timeout", "1s", "--line-timeout", "1s", "--workers", "2", "-v"]);
        let mut streams: Vec<_> = (0..20).map(|_| server.connect()).collect();
        for stream in &mut streams {
            // It may have ended.
            let _ = stream.write_all(b"Hello\n");
            let _ = stream.read_exact(&mut [0; 6]);
        }
        server.signal(Signal::STOP);
        let has_not_ended = |stream: &mut TcpStream| {
            stream.set_nonblocking(true).unwrap();
            let read = stream.read(&mut [0]).map_err(|error| error.kind());
            stream.set_nonblocking(false).unwrap();
            read == Err(ErrorKind::WouldBlock)
        };
        streams.iter_mut().all(has_not_ended).then_some((server, streams))
    })
}

#[test]
fn a_process_that_was_stopped_answers_what_has_come_meanwhile_and_ends_nobody() {
    let (server, mut streams) = stopped();
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.write_all(b"in time\n").expect("the kernel takes it");
        if number % 2 == 0 {
            stream.shutdown(Shutdown::Write).unwrap();
        }
    }
    thread::sleep(STANDSTILL);
    server.signal(Signal::CONT);
    for (number, stream) in streams.iter_mut().enumerate() {
        expect(stream, "va gvzr\n");
        if number % 2 == 0 {
            assert_eq!(rest(stream), b"");
        }
    }
    // Nobody was told to end meanwhile.
    server.log_lines(" closed: peer-eof, 2 lines and 14 bytes in", 10);
    greet(&mut server.connect());
}
