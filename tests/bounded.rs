//! D5 as an operator sees it: resident memory, while a peer sends and never reads.

mod support;

use std::{
    io::{Read, Write},
    net::Shutdown,
    thread,
    time::Duration,
};

use support::{Server, assert_same, converse, greet, measure_for, offer, tr};

const OFFERED: usize = 200 << 20;

#[track_caller]
fn two_hundred_megabytes_cost_under_one(line: &[u8]) {
    let server = Server::start(&["--workers", "1", "-v"]);
    // The allocator and the scratch are warm.
    converse(server.address, &line.repeat(100));
    let before = server.resident();
    let mut stuck = server.connect();
    let taken = offer(&mut stuck, line, OFFERED);
    assert!(taken < OFFERED, "the server read everything: there is no backpressure");
    greet(&mut server.connect());
    let grown = server.resident().saturating_sub(before);
    assert!(grown < 1 << 20, "resident memory grew by {grown} bytes, with {taken} taken");
    drop(stuck);
    server.log_line(" closed: peer-reset");
    greet(&mut server.connect());
}

#[test]
fn short_lines_from_a_peer_that_does_not_read_cost_nothing() {
    two_hundred_megabytes_cost_under_one(&[vec![b'a'; 63], vec![b'\n']].concat().repeat(1024));
}

#[test]
fn one_endless_line_from_a_peer_that_does_not_read_costs_nothing() {
    two_hundred_megabytes_cost_under_one(&[b'a'; 1 << 16]);
}

#[test]
fn a_slow_reader_gets_all_of_it() {
    let server = Server::start(&["--workers", "1"]);
    let letter = |at: usize| if at % 80 == 79 { b'\n' } else { b'a' + (at / 80 % 26) as u8 };
    let input: Vec<u8> = (0..40 << 20).map(letter).collect();
    let expected = tr(&input);
    let mut stream = server.connect();
    // It begins only when the server has stopped reading because of it.
    let taken = offer(&mut stream, &input, input.len());
    assert!(taken < input.len(), "the server has not had to wait for its reader");
    let mut writer = stream.try_clone().unwrap();
    let mut got = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&input[taken..]).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut piece = vec![0; 64 << 10];
        loop {
            // Now and then, not as fast as it can.
            measure_for(Duration::from_micros(500));
            match stream.read(&mut piece).unwrap() {
                0 => break,
                count => got.extend_from_slice(&piece[..count]),
            }
        }
    });
    assert_same("what was read slowly", &got, &expected);
}
