//! D1 with real files, against the real `tr`.

mod support;

use std::{fs, path::Path, thread};

use support::{Server, converse, tr};

/// Compares, and says where the first difference is instead of showing megabytes.
#[track_caller]
fn assert_same(what: &str, got: &[u8], expected: &[u8]) {
    let differ = got.iter().zip(expected).position(|(got, expected)| got != expected);
    assert_eq!(differ, None, "{what}: the first difference");
    assert_eq!(got.len(), expected.len(), "{what}: the length");
}

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

fn inputs() -> Vec<(String, Vec<u8>)> {
    let mut inputs = vec![
        ("nothing".to_owned(), vec![]),
        ("a tail".to_owned(), b"no newline".to_vec()),
        ("newlines".to_owned(), vec![b'\n'; 300_000]),
        ("noise".to_owned(), noise(3 << 20)),
        ("a line of 10 MiB".to_owned(), [vec![b'q'; 10 << 20], b"\nnext".to_vec()].concat()),
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("Cargo.lock"), env!("CARGO_BIN_EXE_rot13d").into()];
    if let Ok(licences) = fs::read_dir("/usr/share/common-licenses") {
        files.extend(licences.flatten().map(|entry| entry.path()));
    }
    for file in files {
        inputs.push((file.display().to_string(), fs::read(&file).unwrap()));
    }
    inputs
}

#[test]
fn every_file_comes_back_as_tr_prints_it() {
    let server = Server::start(&[]);
    for (name, input) in inputs() {
        assert_same(&name, &converse(server.address, &input), &tr(&input));
    }
}

#[test]
fn two_hundred_clients_at_once_each_get_their_own() {
    let server = Server::start(&["--workers", "2"]);
    let common = noise(200_000);
    thread::scope(|scope| {
        for client in 0..200 {
            let (server, common) = (&server, &common);
            scope.spawn(move || {
                let input =
                    [format!("I am client {client}\n").repeat(50).into_bytes(), common[client * 100..].to_vec()]
                        .concat();
                assert_same(&format!("client {client}"), &converse(server.address, &input), &tr(&input));
            });
        }
    });
}
