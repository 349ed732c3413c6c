//! Whatever comes on a console is answered, line by line, however it is cut into reads: a model says how often.

use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    address::Address,
    connection::Connection,
    console::{
        session::Session,
        setup::{MAX_LINE, Setup},
    },
    framing::{Framing, Overlong},
    rot13::Rot13,
    server::{builder::LineServer, handle::ServerHandle},
    session::context::LineContext,
    wire::transport::Transport,
};

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

fn server() -> ServerHandle {
    LineServer::new(|_| Rot13).on_current_arbiter().bind("127.0.0.1:0").unwrap().start().unwrap()
}

/// Sends the bytes to a console, of which each read takes at most so many; returns all that comes back.
async fn converse(server: &ServerHandle, input: &[u8], read: usize) -> String {
    let setup = Setup { server: OnceLock::from(server.clone()), ..Setup::new() };
    let (ours, theirs) = tokio::io::duplex(read);
    let session = Session::new(Arc::new(setup), &Connection::between(Address::Memory, Address::Memory));
    let framing = Framing::lf().max_line(MAX_LINE).unwrap().overlong(Overlong::Discard);
    LineContext::start(Transport::new(ours), framing, session);
    let (mut back, mut forth) = tokio::io::split(theirs);
    let talk = async {
        let answers = async {
            let mut answers = Vec::new();
            back.read_to_end(&mut answers).await.unwrap();
            answers
        };
        let lines = async {
            // It may close before it has read all.
            if forth.write_all(input).await.is_ok() {
                let _ = forth.shutdown().await;
            }
        };
        let (answers, ()) = tokio::join!(answers, lines);
        String::from_utf8(answers).expect("UTF-8")
    };
    tokio::time::timeout(PATIENCE, talk).await.expect("the end of a console")
}

/// The number of answers that the lines have, and whether the console reads all of them.
fn answers(input: &[u8]) -> usize {
    let mut count = 0;
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        let is_whole = line.ends_with(b"\n");
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = if is_whole { text.strip_suffix(b"\r").unwrap_or(text) } else { text };
        let is_blank = text.trim_ascii().is_empty();
        let first = text.trim_ascii().split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let is_long = text.len() > MAX_LINE;
        if is_long {
            count += 1;
        } else if is_whole && (text.trim_ascii_start().starts_with(b"GET /") || first.eq_ignore_ascii_case(b"host:")) {
            return count;
        } else if is_whole && first == b"quit" {
            return count + 1;
        } else if !is_blank {
            count += 1;
        }
    }
    count
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "count",
        "json count",
        "limits",
        "json limits",
        "listeners",
        "help",
        "help set",
        "json help list",
        "list",
        "json list",
        "show 4000000",
        "list idel>5m",
        "json",
        "",
        " \t",
        "kick",
        "set idle-timeout",
        "set deny",
        "push all -- x",
        "wall hello",
        "pause nobody",
        "-- --",
        "token x",
        "quit",
        "GET / HTTP/1.1",
        "Host: x",
        "count all all",
        "list limit 0",
        "list sort",
    ]);
    let known = known.prop_map(|line| line.as_bytes().to_vec());
    let garbage = prop::collection::vec(any::<u8>().prop_filter("no newline", |byte| *byte != b'\n'), 0..40);
    let nuls = (0_usize..5).prop_map(|count| vec![0; count]);
    let long = (MAX_LINE - 2..MAX_LINE + 3).prop_map(|count| vec![b'x'; count]);
    let mixed = (known.clone(), garbage.clone()).prop_map(|(line, more)| [line, more].concat());
    prop_oneof![8 => known, 3 => garbage, 1 => nuls, 1 => long, 2 => mixed]
}

/// Lines whose garbage the model understands as the console does.
fn is_clear(input: &[u8]) -> bool {
    // A method, or `HTTP/`, that came about by chance.
    let others = [&b" HTTP/"[..], b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE"];
    input.split(|byte| *byte == b'\n').all(|line| {
        line.starts_with(b"GET / HTTP/1.1") && line.len() == 14
            || !others.iter().chain([&&b"GET"[..]]).any(|word| line.windows(word.len()).any(|part| part == *word))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn every_line_has_one_answer_however_it_comes(
        lines in prop::collection::vec(line(), 0..8),
        has_end in any::<bool>(),
        reads in prop::collection::vec(prop_oneof![1_usize..20, 20_usize..5000, Just(1_usize << 20)], 2),
    ) {
        let mut input = lines.join(&b'\n');
        if has_end {
            input.push(b'\n');
        }
        prop_assume!(is_clear(&input));
        let expected = answers(&input);
        actix_rt::System::new().block_on(async {
            let server = server();
            let whole = converse(&server, &input, 1 << 20).await;
            let count = whole.split_terminator('\n').filter(|line| line.is_empty()).count();
            prop_assert_eq!(count, expected, "{:?}", whole);
            for read in reads {
                prop_assert_eq!(&converse(&server, &input, read).await, &whole, "reads of {}", read);
            }
            server.abort().await.unwrap();
            server.wait().await.unwrap();
            Ok(())
        })?;
    }
}

#[actix::test]
async fn every_split_of_a_few_commands_is_answered_alike() {
    let server = server();
    let input = b"count\r\njson count\n\nlist idel>5m\nset max-age 1h dry-run\nhelp kick\nhalf";
    let whole = converse(&server, input, 1 << 20).await;
    assert!(whole.starts_with("0\n\n{\"sessions\":0}\n\nerror: \"idel>5m\""), "{whole}");
    assert!(whole.ends_with("error: \"half\" has no newline: nothing is done\n\n"), "{whole}");
    for read in 1..input.len() {
        assert_eq!(converse(&server, input, read).await, whole, "reads of {read}");
    }
    server.abort().await.unwrap();
}

#[actix::test]
async fn lines_of_a_megabyte_are_refused_one_by_one() {
    let server = server();
    let mut input = Vec::new();
    for byte in [b'x', b' ', 0, 0xff] {
        input.extend(std::iter::repeat_n(byte, 1 << 20));
        input.extend(b"\ncount\n");
    }
    let whole = converse(&server, &input, 1 << 16).await;
    let error = format!("error: the line is longer than {MAX_LINE} bytes: nothing is done\n\n0\n\n");
    assert_eq!(whole, error.repeat(4));
    server.abort().await.unwrap();
}

#[actix::test]
async fn a_list_of_many_pages_has_each_session_once() {
    let server = server();
    let mut peers = Vec::new();
    let connect = || async { tokio::net::TcpStream::connect(server.local_addrs()[0]).await.unwrap() };
    for _ in 0..40 {
        peers.push(connect().await);
    }
    while server.stats().await.unwrap().live < 40 {
        tokio::task::yield_now().await;
    }
    for (command, count, last) in [
        ("list", 40, "40 of 40 sessions"),
        ("list limit 21", 21, "21 of 40 sessions"),
        ("list offset 9 limit 15", 15, "15 of 40 sessions"),
        ("list sort idle", 40, "40 of 40 sessions"),
        ("list sort lines offset 5 limit 30", 30, "30 of 40 sessions"),
        ("list limit 0", 0, "0 of 40 sessions"),
        ("list offset 50", 0, "0 of 40 sessions"),
    ] {
        let answer = converse(&server, format!("{command}\n").as_bytes(), 1 << 16).await;
        let lines: Vec<_> = answer.lines().collect();
        let mut ids: Vec<_> = lines[1..].iter().filter(|line| line.starts_with('#')).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!((ids.len(), lines[lines.len() - 2]), (count, last), "{command}");
    }
    server.abort().await.unwrap();
}
