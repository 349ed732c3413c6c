//! D5 as an operator sees it: resident memory, while a peer sends and never reads.

mod support;

use std::{io::Write, net::TcpStream, thread, time::Duration};

use support::{Server, connect, converse, expect};

const OFFERED: usize = 200 << 20;

/// Sends until no more is taken for a while; returns how much was.
fn offer(stream: &mut TcpStream, line: &[u8], most: usize) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut taken = 0;
    while taken < most {
        match stream.write(line) {
            Ok(count) => taken += count,
            Err(_) => break,
        }
    }
    taken
}

#[test]
fn two_hundred_megabytes_offered_by_a_peer_that_does_not_read_cost_under_one() {
    for line in [vec![b'a'; 1 << 16], [vec![b'a'; 63], vec![b'\n']].concat().repeat(1024)] {
        let server = Server::start(&["--workers", "1"]);
        // The allocator and the scratch are warm.
        converse(server.address, &line.repeat(100));
        let before = server.resident();
        let mut stuck = server.connect();
        let taken = offer(&mut stuck, &line, OFFERED);
        assert!(taken < OFFERED, "the server read everything: there is no backpressure");
        let grown = server.resident().saturating_sub(before);
        assert!(grown < 1 << 20, "resident memory grew by {grown} bytes, with {taken} taken");
        let mut other = connect(server.address);
        other.write_all(b"Still there?\n").unwrap();
        expect(&mut other, "Fgvyy gurer?\n");
    }
}

#[test]
fn a_slow_reader_gets_all_of_it() {
    let server = Server::start(&["--workers", "1"]);
    let input: Vec<u8> =
        (0..20_u32 << 20).map(|at| if at % 80 == 79 { b'\n' } else { b'a' + (at / 80 % 26) as u8 }).collect();
    let expected = support::tr(&input);
    let mut stream = server.connect();
    let mut writer = stream.try_clone().unwrap();
    let mut got = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&input).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut piece = vec![0; 64 << 10];
        loop {
            // Now and then, not as fast as it can.
            support::measure_for(Duration::from_micros(500));
            match std::io::Read::read(&mut stream, &mut piece).unwrap() {
                0 => break,
                count => got.extend_from_slice(&piece[..count]),
            }
        }
    });
    assert!(got == expected, "{} of {} bytes", got.len(), expected.len());
}
