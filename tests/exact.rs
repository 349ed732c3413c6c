//! D1 with real files, against the real `tr`.

mod support;

use std::{fs, path::Path, sync::Barrier, thread};

use support::{Server, assert_same, converse, converse_over, greet, tr};

/// Bytes of every value in no order, from a fixed seed.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[track_caller]
fn assert_comes_back(server: &Server, name: &str, input: &[u8]) {
    assert_same(name, &converse(server.address, input), &tr(input));
}

#[test]
fn every_file_comes_back_as_tr_prints_it() {
    let server = Server::start(&[]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("Cargo.lock"), env!("CARGO_BIN_EXE_rot13d").into()];
    if let Ok(licences) = fs::read_dir("/usr/share/common-licenses") {
        files.extend(licences.flatten().map(|entry| entry.path()));
    }
    for file in files {
        assert_comes_back(&server, &file.display().to_string(), &fs::read(&file).unwrap());
    }
}

#[test]
fn all_bytes_all_tails_and_the_longest_lines_come_back_as_tr_prints_them() {
    let server = Server::start(&[]);
    let noise = noise(3 << 20);
    assert!((0..=255).all(|byte| noise.contains(&byte)), "NUL and 8-bit bytes are there");
    for (name, input) in [
        ("nothing", vec![]),
        ("one letter", b"N".to_vec()),
        ("one newline", b"\n".to_vec()),
        ("a tail", b"a line\nno newline".to_vec()),
        ("NULs", vec![0; 100_000]),
        ("newlines", vec![b'\n'; 300_000]),
        ("noise", noise),
        ("a line of 10 MiB", [vec![b'q'; 10 << 20], b"\nnext".to_vec()].concat()),
    ] {
        assert_comes_back(&server, name, &input);
    }
}

#[test]
fn two_hundred_clients_at_once_each_get_their_own() {
    const CLIENTS: usize = 200;
    let server = Server::start(&["--workers", "2"]);
    let common = noise(200_000);
    let all_are_served = Barrier::new(CLIENTS);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (server, common, all_are_served) = (&server, &common, &all_are_served);
            scope.spawn(move || {
                let mut input = format!("I am client {client}\n").repeat(50).into_bytes();
                input.extend_from_slice(&common[client * 100..]);
                let mut stream = server.connect();
                greet(&mut stream);
                all_are_served.wait();
                assert_same(&format!("client {client}"), &converse_over(&mut stream, &input), &tr(&input));
            });
        }
    });
}
