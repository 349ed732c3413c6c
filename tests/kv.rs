//! The example `kv`: what it answers is what memcached's protocol text says, in any chunking, and what memcached answers.

mod support;

// Its session, store and parser; here `main` is this file.
#[allow(dead_code)]
#[path = "../examples/kv/main.rs"]
mod kv;

use std::{
    fmt::Debug,
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::Arc,
    thread,
};

use actix_lines::{
    LineSession,
    script::{self, Fuzz, ScriptOptions, Target},
};
use kv::store;
use proptest::{
    prelude::*,
    test_runner::{TestError, TestRunner},
};
use support::{Server, assert_same, connect, converse, eventually, example, expect, finish, rest};

/// The example, as a process.
fn kv(arguments: &[&str]) -> Command {
    let mut command = example("kv");
    command.args(["--listen", "127.0.0.1:0"]).args(arguments);
    command
}

fn start() -> Server {
    Server::spawn(kv(&["--workers", "2"]))
}

/// Debian's memcached on a free port of its choice.
fn memcached() -> Server {
    let mut command = Command::new("memcached");
    // Only root has to say who to be; others may. Without its newer LRU: that holds items for a moment after they were read, and
    // then `incr` does not keep their length.
    command.args(["-l", "127.0.0.1", "-p", "-1", "-U", "0", "-t", "1", "-u", "nobody", "-o", "no_modern"]);
    Server::spawn_silent(command)
}

/// Lines, and what has to come back for them.
type Script = [(&'static str, &'static str)];

/// Every command, every answer, every error.
const SCRIPT: &Script = &[
    ("get a\r\n", "END\r\n"),
    ("set a 5 0 5\r\nhello\r\n", "STORED\r\n"),
    ("get a\r\n", "VALUE a 5 5\r\nhello\r\nEND\r\n"),
    // An LF alone ends a line, spaces may be many.
    ("  get   a  \n", "VALUE a 5 5\r\nhello\r\nEND\r\n"),
    ("add a 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
    ("add b 0 0 0\r\n\r\n", "STORED\r\n"),
    ("get b nothing a\r\n", "VALUE b 0 0\r\n\r\nVALUE a 5 5\r\nhello\r\nEND\r\n"),
    ("replace b 4294967295 0 3\r\n\r\n\n\r\n", "STORED\r\n"),
    ("get b\r\n", "VALUE b 4294967295 3\r\n\r\n\n\r\nEND\r\n"),
    ("replace c 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
    // Flags and exptime of the item stay.
    ("append a 7 -1 6\r\n world\r\n", "STORED\r\n"),
    ("prepend a 7 -1 1\r\n>\r\n", "STORED\r\n"),
    ("get a\r\n", "VALUE a 5 12\r\n>hello world\r\nEND\r\n"),
    ("append c 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
    ("prepend c 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
    ("cas c 0 0 1 1\r\nx\r\n", "NOT_FOUND\r\n"),
    ("cas a 0 0 1 0\r\nx\r\n", "EXISTS\r\n"),
    ("cas a 0 0 1 99999999\r\nx\r\n", "EXISTS\r\n"),
    ("delete a\r\n", "DELETED\r\n"),
    ("delete a\r\n", "NOT_FOUND\r\n"),
    ("delete a 0\r\n", "NOT_FOUND\r\n"),
    ("delete a 1\r\n", "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n"),
    ("incr a 1\r\n", "NOT_FOUND\r\n"),
    ("set n 3 0 2\r\n98\r\n", "STORED\r\n"),
    ("incr n 1\r\nincr n 1\r\nget n\r\n", "99\r\n100\r\nVALUE n 3 3\r\n100\r\nEND\r\n"),
    ("decr n 1\r\nget n\r\n", "99\r\nVALUE n 3 3\r\n99 \r\nEND\r\n"),
    ("decr n 1000\r\nget n\r\n", "0\r\nVALUE n 3 3\r\n0  \r\nEND\r\n"),
    ("set n 0 0 20\r\n18446744073709551615\r\nincr n 6\r\n", "STORED\r\n5\r\n"),
    ("set n 0 0 20\r\n18446744073709551616\r\n", "STORED\r\n"),
    ("incr n 1\r\n", "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"),
    ("decr b 1\r\n", "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"),
    ("incr n x\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n"),
    ("decr n -1\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n"),
    ("touch b 100\r\n", "TOUCHED\r\n"),
    ("touch c 100\r\n", "NOT_FOUND\r\n"),
    ("touch b x\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
    ("gat 100 b\r\n", "VALUE b 4294967295 3\r\n\r\n\n\r\nEND\r\n"),
    ("gat x b\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
    ("gat -1 b\r\nget b\r\n", "VALUE b 4294967295 3\r\n\r\n\n\r\nEND\r\nEND\r\n"),
    ("set t 0 0 1\r\nx\r\ntouch t -1\r\nget t\r\n", "STORED\r\nTOUCHED\r\nEND\r\n"),
    ("set t 0 -1 1\r\nx\r\nget t\r\nadd t 0 0 1\r\ny\r\n", "STORED\r\nEND\r\nSTORED\r\n"),
    ("set t 0 2592001 1\r\nx\r\nget t\r\n", "STORED\r\nEND\r\n"),
    // Nobody is told.
    ("set q 0 0 1 noreply\r\n1\r\nadd q 0 0 1 noreply\r\n2\r\nget q\r\n", "VALUE q 0 1\r\n1\r\nEND\r\n"),
    ("incr q 5 noreply\r\ndecr q 1 noreply\r\nget q\r\n", "VALUE q 0 1\r\n5\r\nEND\r\n"),
    ("append q 0 0 1 noreply\r\n6\r\nprepend q 0 0 1 noreply\r\n4\r\nget q\r\n", "VALUE q 0 3\r\n456\r\nEND\r\n"),
    ("touch q 0 noreply\r\ncas q 0 0 1 1 noreply\r\nx\r\ndelete q noreply\r\nget q\r\n", "END\r\n"),
    ("delete q 0 noreply\r\nincr q x noreply\r\nset q 0 0 x noreply\r\nverbosity 1 noreply\r\n", ""),
    // Not a key, not a command.
    ("set \u{7f} 0 0 1\r\n?\r\nget a\r\n", "CLIENT_ERROR bad command line format\r\nEND\r\n"),
    ("get a \u{1} b\r\n", "CLIENT_ERROR bad command line format\r\n"),
    (
        "set a x 0 1\r\n?\r\nset a 0 x 1\r\n?\r\nset a 0 0 x\r\n",
        "CLIENT_ERROR bad command line format\r\nCLIENT_ERROR bad command line format\r\nCLIENT_ERROR bad command line format\r\n",
    ),
    (
        "set a 0 0 -1\r\nset a 0 0 18446744073709551616\r\n",
        "CLIENT_ERROR bad command line format\r\nCLIENT_ERROR bad command line format\r\n",
    ),
    (
        "set a 4294967296 0 1\r\n?\r\ncas a 0 0 1 x\r\n?\r\n",
        "CLIENT_ERROR bad command line format\r\nCLIENT_ERROR bad command line format\r\n",
    ),
    (
        "\r\n\nget\r\nset\r\nset a 0 0\r\nset a 0 0 1 2 3\r\n?\r\ncas a 0 0 1\r\n?\r\n",
        "ERROR\r\nERROR\r\nERROR\r\nERROR\r\nERROR\r\nERROR\r\nERROR\r\n",
    ),
    (
        "GET a\r\ngets\r\nincr a\r\ntouch a\r\ndelete\r\nwhatever\r\n",
        "ERROR\r\nERROR\r\nERROR\r\nERROR\r\nERROR\r\nERROR\r\n",
    ),
    ("flush_all 1 2 3\r\nverbosity\r\nverbosity x\r\n", "ERROR\r\nERROR\r\nCLIENT_ERROR bad command line format\r\n"),
    // As many bytes are taken as were announced; what is behind them is a line.
    ("set a 0 0 2\r\nabcd\r\n", "CLIENT_ERROR bad data chunk\r\nERROR\r\n"),
    ("set a 0 0 4\r\nab\r\nget a\r\n", "CLIENT_ERROR bad data chunk\r\nERROR\r\n"),
    ("get a\r\n", "END\r\n"),
    ("set a 0 0 1\r\nx\r\nset b 0 0 1\r\ny\r\n", "STORED\r\nSTORED\r\n"),
    ("flush_all 1000\r\nget a\r\n", "OK\r\nVALUE a 0 1\r\nx\r\nEND\r\n"),
    ("flush_all x\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
    ("flush_all\r\nget a b\r\n", "OK\r\nEND\r\n"),
    ("set a 0 0 1\r\nx\r\nflush_all noreply\r\nget a\r\n", "STORED\r\nEND\r\n"),
    ("set a 0 0 1\r\nx\r\nflush_all 0 noreply\r\nget a\r\n", "STORED\r\nEND\r\n"),
    ("verbosity 1\r\n", "OK\r\n"),
    ("version\r\n", "VERSION 1.6.18-kv\r\n"),
    ("quit\r\nget a\r\n", ""),
];

#[test]
fn every_command_is_answered_as_the_protocol_says_in_any_chunking() {
    let input: String = SCRIPT.iter().map(|(line, _)| *line).collect();
    for size in [1, 2, 3, 7, 64, 1000, input.len()] {
        let server = start();
        let mut stream = server.connect();
        stream.set_nodelay(true).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let answer = thread::scope(|scope| {
            scope.spawn(|| input.as_bytes().chunks(size).try_for_each(|chunk| writer.write_all(chunk)));
            rest(&mut stream)
        });
        let answer = String::from_utf8(answer).unwrap();
        let mut left = answer.as_str();
        for (line, expected) in SCRIPT {
            left = left.strip_prefix(expected).unwrap_or_else(|| {
                panic!("in chunks of {size}: {line:?} has to be answered with {expected:?}, not {:?}", left.get(..80))
            });
        }
        assert_eq!(left, "", "in chunks of {size}: nothing follows a quit");
    }
}

#[test]
fn values_of_any_bytes_and_any_length_come_back() {
    let server = start();
    let all: Vec<u8> = (0..=255).chain(*b"\r\nget a\r\n\r\n").collect();
    for len in [0, 1, 511, 512, 16_383, 16_384, 65_536, 100_000, 1 << 20] {
        let value: Vec<u8> = all.iter().copied().cycle().take(len).collect();
        let set = [format!("set a 0 0 {len}\r\n").as_bytes(), &value, b"\r\nget a a\r\n"].concat();
        let item = [format!("VALUE a 0 {len}\r\n").as_bytes(), &value, b"\r\n"].concat();
        let expected = [b"STORED\r\n", &*item, &item, b"END\r\n"].concat();
        assert_same(&format!("{len} bytes"), &converse(server.address, &set), &expected);
    }
}

#[test]
fn what_is_too_long_is_swallowed_refused_or_ends_the_connection() {
    let server = start();
    let (most, above) = (1 << 20, (1 << 20) + 1);
    let value = "get a\r\n".repeat(above / 7 + 1);
    // The line behind the block is a command again, none inside of it was; what was there is gone.
    let input = format!("set a 0 0 1\r\nx\r\nset a 0 0 {above}\r\n{}\r\nget a\r\n", &value[..above]);
    let expected = "STORED\r\nSERVER_ERROR object too large for cache\r\nEND\r\n";
    assert_eq!(String::from_utf8(converse(server.address, input.as_bytes())).unwrap(), expected);
    // `add` leaves it, as everything else does.
    let input = format!("set a 0 0 1\r\nx\r\nadd a 0 0 {above}\r\n{}\r\nget a\r\n", &value[..above]);
    let expected = "STORED\r\nSERVER_ERROR object too large for cache\r\nVALUE a 0 1\r\nx\r\nEND\r\n";
    assert_eq!(String::from_utf8(converse(server.address, input.as_bytes())).unwrap(), expected);
    let input = format!("set b 0 0 {most}\r\n{}\r\nappend b 0 0 1\r\nx\r\n", &value[..most]);
    assert_eq!(converse(server.address, input.as_bytes()), b"STORED\r\nNOT_STORED\r\n");
    let (longest, longer) = ("k".repeat(250), "k".repeat(251));
    let input = format!("set {longest} 0 0 1\r\nx\r\nget {longest}\r\nget a {longer}\r\nset {longer} 0 0 1\r\nx\r\n");
    let refused = "CLIENT_ERROR bad command line format\r\n";
    let expected = format!("STORED\r\nVALUE {longest} 0 1\r\nx\r\nEND\r\n{refused}{refused}");
    assert_eq!(String::from_utf8(converse(server.address, input.as_bytes())).unwrap(), expected);
    let many = format!("get {}\r\n", vec![longest; 250].join(" "));
    let answer = String::from_utf8(converse(server.address, many.as_bytes())).unwrap();
    assert_eq!(answer.matches("VALUE").count(), 250);
    let mut stream = server.connect();
    stream.write_all("version\r\nget ".as_bytes()).unwrap();
    // Not all of it may be taken.
    let _ = stream.write_all("k ".repeat(40_000).as_bytes());
    let answer = String::from_utf8(rest(&mut stream)).unwrap();
    assert!(answer.ends_with("\r\nCLIENT_ERROR line too long\r\n"), "{answer:?}");
}

#[test]
fn the_block_of_a_refused_command_is_never_taken_for_commands() {
    let server = start();
    let format = "CLIENT_ERROR bad command line format\r\n";
    let (many, large) = ("k".repeat(251), "SERVER_ERROR object too large for cache\r\n");
    for (head, refused) in [
        ("set b\u{1} 0 0 9", format),
        (&*format!("add {many} 0 0 9"), format),
        ("replace b x 0 9", format),
        ("append b 0 x 9", format),
        ("prepend b -1 0 9", format),
        ("cas b 0 0 9 x", format),
        ("set b 4294967296 0 9", format),
        ("cas b 0 0 9", "ERROR\r\n"),
        ("set b 0 0 9 1 2", "ERROR\r\n"),
        ("set b 0 0 9 1 2 3 4 5 6 7 8", "ERROR\r\n"),
        ("set b\u{1} 0 0 9 noreply", ""),
        ("replace b x 0 9 noreply", ""),
    ] {
        let input = format!("set a 0 0 1\r\nx\r\n{head}\r\nflush_all\r\nget a\r\n");
        let expected = format!("STORED\r\n{refused}VALUE a 0 1\r\nx\r\nEND\r\n");
        assert_eq!(String::from_utf8(converse(server.address, input.as_bytes())).unwrap(), expected, "{head:?}");
    }
    // However long it is said to be.
    for length in [3_000_000_000, u64::MAX - 2, u64::MAX] {
        let input = format!("set b 0 0 {length}\r\nflush_all\r\n{}", "flush_all\r\n".repeat(100_000));
        assert_eq!(String::from_utf8(converse(server.address, input.as_bytes())).unwrap(), large);
    }
    assert_eq!(converse(server.address, b"get a\r\n"), b"VALUE a 0 1\r\nx\r\nEND\r\n");
}

#[test]
fn a_number_in_any_width_is_counted_up() {
    let server = start();
    for spaces in [0, 1, 65_535, 65_536, 70_000, (1 << 20) - 1] {
        let value = format!("9{}", " ".repeat(spaces));
        let input = format!("set n 0 0 {}\r\n{value}\r\nincr n 1\r\nget n\r\n", value.len());
        let expected = "10".to_owned() + &" ".repeat(spaces.saturating_sub(1));
        let expected = format!("STORED\r\n10\r\nVALUE n 0 {}\r\n{expected}\r\nEND\r\n", expected.len());
        assert_same(&format!("{spaces} spaces"), &converse(server.address, input.as_bytes()), expected.as_bytes());
    }
}

#[test]
fn a_get_of_more_than_fits_an_outbox_comes_in_order_and_is_followed_by_the_next_command() {
    let server = start();
    let (small, large) = ("s".repeat(10_000), "l".repeat(1 << 20));
    let sets = format!("set s 3 0 10000\r\n{small}\r\nset l 0 0 1048576\r\n{large}\r\n");
    assert_eq!(converse(server.address, sets.as_bytes()), b"STORED\r\nSTORED\r\n");
    let input = format!("get {}\r\nversion\r\ngat 0 {}\r\n", "s l none ".repeat(40), "s ".repeat(1000));
    let (small, large) = (format!("VALUE s 3 10000\r\n{small}\r\n"), format!("VALUE l 0 1048576\r\n{large}\r\n"));
    let expected =
        (small.clone() + &large).repeat(40) + "END\r\nVERSION 1.6.18-kv\r\n" + &small.repeat(1000) + "END\r\n";
    assert_same("the answers", &converse(server.address, input.as_bytes()), expected.as_bytes());
}

#[test]
fn values_replaced_while_slow_readers_hold_them_stay_bounded() {
    const KEYS: usize = 24;
    let server = Server::spawn(kv(&["--memory", "64MiB", "--workers", "1"]));
    let value = "x".repeat(1 << 20);
    let sets: String = (0..KEYS).map(|key| format!("set k{key} 0 0 1048576 noreply\r\n{value}\r\n")).collect();
    let get = format!("get {}\r\n", (0..KEYS).map(|key| format!("k{key} ")).collect::<String>());
    let mut writer = Client::new(server.address);
    let mut readers = Vec::new();
    for _ in 0..12 {
        assert_eq!(writer.ask(sets.as_bytes()), b"");
        let mut reader = server.connect();
        reader.write_all(get.as_bytes()).unwrap();
        // It has been answered, as far as that goes.
        expect(&mut reader, "VALUE k");
        readers.push(reader);
    }
    writer.ask(sets.as_bytes());
    let resident = server.resident();
    assert!(resident < 160 << 20, "{} MiB", resident >> 20);
}

#[test]
fn values_that_are_coming_stay_bounded_and_what_is_too_much_is_refused() {
    const SESSIONS: usize = 80;
    let server = Server::spawn(kv(&["--memory", "32MiB", "--workers", "1"]));
    let block = "x".repeat(1 << 20);
    // All but the end of it.
    let mut sessions: Vec<_> = (0..SESSIONS).map(|_| server.connect()).collect();
    for session in &mut sessions {
        session.write_all(format!("set a 0 0 {}\r\n{block}", block.len()).as_bytes()).unwrap();
    }
    let is_answered = |session: &TcpStream| {
        session.set_nonblocking(true).unwrap();
        let is_answered = session.peek(&mut [0]).is_ok();
        session.set_nonblocking(false).unwrap();
        is_answered
    };
    eventually("most to be refused", || {
        (sessions.iter().filter(|session| is_answered(session)).count() >= SESSIONS - 34).then_some(())
    });
    let resident = server.resident();
    assert!(resident < 100 << 20, "{} MiB", resident >> 20);
    let mut stored = 0;
    for mut session in sessions {
        session.write_all(b"\r\nquit\r\n").unwrap();
        match &*rest(&mut session) {
            b"STORED\r\n" => stored += 1,
            answer => assert_eq!(answer, b"SERVER_ERROR out of memory storing object\r\n"),
        }
    }
    assert!((1..=34).contains(&stored), "{stored} stored");
    // Nothing of it is left.
    let set = format!("set a 0 0 {}\r\n{block}\r\n", block.len());
    for _ in 0..SESSIONS {
        assert_eq!(converse(server.address, set.as_bytes()), b"STORED\r\n");
    }
}

#[test]
fn what_was_cut_off_does_nothing() {
    let server = start();
    assert_eq!(converse(server.address, b"set a 0 0 1\r\nx\r\n"), b"STORED\r\n");
    // Of "delete ab", of a block and of its end.
    for input in ["delete a", "set a 0 0 5\r\nyyy", "set a 0 0 5\r\nyyyyy\r"] {
        assert_eq!(converse(server.address, input.as_bytes()), b"", "{input:?}");
    }
    assert_eq!(converse(server.address, b"get a\r\n"), b"VALUE a 0 1\r\nx\r\nEND\r\n");
    // A browser's form is not executed.
    assert_eq!(converse(server.address, b"POST / HTTP/1.1\r\ndelete a\r\n\r\n"), b"");
    assert_eq!(converse(server.address, b"delete a\r\n"), b"DELETED\r\n");
}

#[test]
fn a_second_is_a_second_and_a_delayed_flush_comes() {
    let server = start();
    assert_eq!(converse(server.address, b"set a 0 1 1\r\nx\r\nset b 0 100 1\r\nx\r\n"), b"STORED\r\nSTORED\r\n");
    eventually("the item to expire", || (converse(server.address, b"get a\r\n") == b"END\r\n").then_some(()));
    assert_eq!(converse(server.address, b"get b\r\nflush_all 1\r\n"), b"VALUE b 0 1\r\nx\r\nEND\r\nOK\r\n");
    eventually("the flush", || (converse(server.address, b"get b\r\n") == b"END\r\n").then_some(()));
}

#[test]
fn memory_is_bounded_and_the_least_is_told() {
    let server = Server::spawn(kv(&["--memory", "32MiB", "--workers", "1"]));
    let block = format!("{}\r\n", "x".repeat(100_000));
    let sets: String = (0..1000).map(|key| format!("set {key} 0 0 100000 noreply\r\n{block}")).collect();
    let answer = String::from_utf8(converse(server.address, format!("{sets}stats\r\n").as_bytes())).unwrap();
    let stat = |name: &str| {
        let line = answer.lines().find_map(|line| line.strip_prefix(&format!("STAT {name} ")));
        line.and_then(|value| value.parse::<usize>().ok()).unwrap_or_else(|| panic!("no {name} in {answer}"))
    };
    assert_eq!((stat("cmd_set"), stat("limit_maxbytes")), (1000, 32 << 20));
    assert_eq!(stat("curr_items") + stat("evictions"), 1000);
    assert!((20 << 20..=32 << 20).contains(&stat("bytes")), "{answer}");
    let output = finish(kv(&["--memory", "1MiB"]), b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("it takes at least 32MiB"), "{output:?}");
}

/// A connection that is asked line by line.
struct Client(BufReader<TcpStream>);

impl Client {
    fn new(address: SocketAddr) -> Self {
        let stream = connect(address);
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    #[track_caller]
    fn ask(&mut self, question: &[u8]) -> Vec<u8> {
        // `version` comes with it, and its answer says that this one is whole.
        self.0.get_mut().write_all(&[question, b"version\r\n"].concat()).unwrap();
        let mut answer = Vec::new();
        loop {
            let before = answer.len();
            let count = self.0.read_until(b'\n', &mut answer).unwrap();
            assert!(count > 0, "an EOF after {}", String::from_utf8_lossy(&answer));
            if answer[before..].starts_with(b"VERSION ") {
                answer.truncate(before);
                return answer;
            }
        }
    }

    /// A value of text, and its cas unique.
    fn gets(&mut self, key: &str) -> Option<(String, u64)> {
        let answer = String::from_utf8(self.ask(format!("gets {key}\r\n").as_bytes())).unwrap();
        let mut lines = answer.lines();
        let unique = lines.next()?.strip_prefix("VALUE ")?.rsplit(' ').next()?.parse().ok()?;
        Some((lines.next()?.to_owned(), unique))
    }
}

#[test]
fn cas_loses_no_change_of_any_connection() {
    const CLIENTS: usize = 8;
    const CHANGES: usize = 100;
    let server = start();
    assert_eq!(converse(server.address, b"set n 0 0 1\r\n0\r\n"), b"STORED\r\n");
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = Client::new(server.address);
                let mut changes = 0;
                while changes < CHANGES {
                    let (value, unique) = client.gets("n").unwrap();
                    let value = (value.parse::<usize>().unwrap() + 1).to_string();
                    let cas = format!("cas n 0 0 {} {unique}\r\n{value}\r\n", value.len());
                    match &*client.ask(cas.as_bytes()) {
                        b"STORED\r\n" => changes += 1,
                        answer => assert_eq!(answer, b"EXISTS\r\n"),
                    }
                }
            });
        }
    });
    let (value, _) = Client::new(server.address).gets("n").unwrap();
    assert_eq!(value, (CLIENTS * CHANGES).to_string());
}

/// A part of a script. `UNIQUE` stands for the number that the last `gets` showed, of whatever item.
fn command() -> impl Strategy<Value = Vec<u8>> {
    let key = || prop_oneof![8 => "[abc]", 1 => "[abc]{250}", 1 => "[abc]{251}"];
    let number = || prop_oneof!["[0-9]{1,3}", "[0-9]{18,20}", "[a-z]", Just(u64::MAX.to_string())];
    let exptime =
        || prop_oneof![6 => Just("0"), 1 => Just("-1"), 1 => Just("1000"), 1 => Just("2592001"), 1 => Just("x")];
    let noreply = || prop_oneof![5 => Just(""), 1 => Just(" noreply"), 1 => Just(" x")];
    // Behind white space alone memcached reads on, into whatever lies there.
    let has_number_or_text =
        |value: &Vec<u8>| value.is_empty() || !value.iter().all(|byte| byte.is_ascii_whitespace() || *byte == 0x0b);
    let value = || {
        prop_oneof![
            3 => "[0-9]{1,4}".prop_map(String::into_bytes),
            1 => "[0-9 ]{0,6}[a-z]?".prop_map(String::into_bytes),
            2 => prop::collection::vec(any::<u8>(), 0..40),
            1 => prop::collection::vec(any::<u8>(), 0..1500),
        ]
        .prop_filter("it is white space", has_number_or_text)
    };
    // What memcached 1.6.18 refuses as a storage command it does not swallow the block of; later ones do, as we.
    let stored = || prop_oneof![8 => "[abc]", 1 => "[abc]{250}"];
    let dated = || prop_oneof![6 => Just("0"), 1 => Just("-1"), 1 => Just("1000"), 1 => Just("2592001")];
    let mode = prop_oneof![Just("set"), Just("add"), Just("replace"), Just("append"), Just("prepend")];
    let flags = || "[0-9]{1,9}";
    let end = || prop_oneof![9 => Just("\r\n"), 1 => Just("\n\n"), 1 => Just("xy")];
    let block = |(head, value, end): (String, Vec<u8>, &str)| [head.as_bytes(), &value, end.as_bytes()].concat();
    let unique = prop_oneof![4 => Just("UNIQUE"), 1 => Just("0"), 1 => Just("99999999")];
    let whole = "flush_all( 0| -1| x| 0 1| 0 1 2)?|verbosity( 1| x)?";
    let broken = "(set|add|cas|get|gets|gat|incr|decr|touch|delete|a|foo|)( [a-cx]){0,8} {0,2}\r?\n";
    let line = |(get, keys): (String, Vec<String>)| format!("{get} {}\r\n", keys.join(" ")).into_bytes();
    prop_oneof![
        6 => (mode, stored(), flags(), dated(), value(), noreply(), end()).prop_map(
            move |(mode, key, flags, exptime, value, noreply, end)| {
                block((format!("{mode} {key} {flags} {exptime} {}{noreply}\r\n", value.len()), value, end))
            }
        ),
        2 => (stored(), dated(), value(), unique, noreply(), end())
            .prop_map(move |(key, exptime, value, unique, noreply, end)| {
                block((format!("cas {key} 1 {exptime} {} {unique}{noreply}\r\n", value.len()), value, end))
            }),
        5 => ("gets?", prop::collection::vec(key(), 0..4)).prop_map(line),
        // Of one that it refuses memcached touches the keys before the one that is too long.
        2 => ("gats? 0|gat -1", prop::collection::vec("[abc]".boxed(), 0..4)).prop_map(line),
        3 => ("incr|decr", key(), number(), noreply()).prop_map(|(name, key, number, noreply)| {
            format!("{name} {key} {number}{noreply}\r\n").into_bytes()
        }),
        2 => (key(), "|| 0| 1", noreply())
            .prop_map(|(key, zero, noreply)| format!("delete {key}{zero}{noreply}\r\n").into_bytes()),
        2 => (key(), exptime(), noreply())
            .prop_map(|(key, exptime, noreply)| format!("touch {key} {exptime}{noreply}\r\n").into_bytes()),
        1 => (whole, noreply()).prop_map(|(line, noreply)| format!("{line}{noreply}\r\n").into_bytes()),
        1 => broken.prop_map(String::into_bytes),
    ]
}

fn runner() -> TestRunner {
    TestRunner::new(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })
}

/// With the numbers behind values replaced by how often the server has shown another.
fn normalised(answer: &[u8], uniques: &mut Vec<Vec<u8>>) -> Vec<u8> {
    let mut result = Vec::new();
    let mut rest = answer;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = rest.split_at(end + 1);
        rest = after;
        let words: Vec<&[u8]> = line.trim_ascii_end().split(|byte| *byte == b' ').collect();
        let [b"VALUE", _, _, bytes, unique @ ..] = &*words else {
            result.extend_from_slice(line);
            continue;
        };
        let bytes = std::str::from_utf8(bytes).unwrap().parse::<usize>().unwrap() + 2;
        result.extend(words[..4].join(&b' '));
        if let [unique] = unique {
            let known = uniques.iter().position(|known| known == unique);
            let known = known.unwrap_or_else(|| {
                uniques.push(unique.to_vec());
                uniques.len() - 1
            });
            // The newest is the one to use.
            let newest = uniques.remove(known);
            uniques.push(newest);
            result.extend(format!(" unique{}", uniques.len() - known).into_bytes());
        }
        result.extend_from_slice(b"\r\n");
        result.extend_from_slice(&rest[..bytes]);
        rest = &rest[bytes..];
    }
    result.extend_from_slice(rest);
    result
}

fn replaced(command: &[u8], unique: &[u8]) -> Vec<u8> {
    let line = command.iter().position(|byte| *byte == b'\n').unwrap_or(command.len());
    match command[..line].windows(6).position(|window| window == b"UNIQUE") {
        Some(at) => [&command[..at], unique, &command[at + 6..]].concat(),
        None => command.to_vec(),
    }
}

/// What a failing script looks like.
struct Shown<'a>(&'a [Vec<u8>]);

impl Debug for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|command| write!(f, "\n{}", command.escape_ascii()))
    }
}

#[test]
#[ignore = "needs memcached: run tests/run"]
fn random_conversations_are_those_that_memcached_has() {
    let (ours, theirs) = (start(), memcached());
    let scripts = prop::collection::vec(command(), 1..30);
    let result = runner().run(&scripts, |script| {
        let mut clients = [&ours, &theirs].map(|server| (Client::new(server.address), Vec::new()));
        for (index, command) in std::iter::once(&b"flush_all\r\n".to_vec()).chain(&script).enumerate() {
            let answers = clients.each_mut().map(|(client, uniques)| {
                let unique = uniques.last().cloned().unwrap_or(b"0".to_vec());
                // Data that were refused are lines, whose last one may have no end.
                let question = [&*replaced(command, &unique), b"\r\n"].concat();
                normalised(&client.ask(&question), uniques)
            });
            let [ours, theirs] = answers.map(|answer| answer.escape_ascii().to_string());
            prop_assert_eq!(ours, theirs, "after {:?}", Shown(&script[..index]));
        }
        Ok(())
    });
    if let Err(TestError::Fail(reason, _) | TestError::Abort(reason)) = result {
        panic!("{reason}");
    }
}

#[test]
#[ignore = "needs memcached: run tests/run"]
fn random_pipelines_are_answered_as_memcached_does() {
    let (ours, theirs) = (start(), memcached());
    // memcached keeps the length of a number only while no answer with the old one is under way, and forgets answers
    // under way when a `get` has a key that is too long.
    let is_steady = |command: &Vec<u8>| {
        let name = command.split(|byte| *byte == b' ').next().unwrap_or_default();
        let of_length = matches!(name, b"incr" | b"decr");
        let of_uniques = matches!(name, b"gets" | b"gats" | b"cas");
        let of_keys = matches!(name, b"get" | b"gat") && command.len() > 250;
        !of_length && !of_uniques && !of_keys
    };
    let scripts = prop::collection::vec(command().prop_filter("it depends on more", is_steady), 1..30);
    let result = runner().run(&scripts, |script| {
        let input = [b"flush_all\r\n".to_vec(), script.concat(), b"quit\r\n".to_vec()].concat();
        let [ours, theirs] = [&ours, &theirs].map(|server| converse(server.address, &input).escape_ascii().to_string());
        prop_assert_eq!(ours, theirs);
        Ok(())
    });
    if let Err(TestError::Fail(reason, _) | TestError::Abort(reason)) = result {
        panic!("{reason}");
    }
}

#[test]
#[ignore = "needs python3-pymemcache: run tests/run"]
fn a_real_client_finds_a_memcached() {
    let server = start();
    // Debian's, which has Debian's packages.
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", PYMEMCACHE, &server.address.port().to_string()]);
    let output = finish(python, b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "needs memccapable: run tests/run"]
fn libmemcacheds_own_tests_find_a_memcached() {
    let server = start();
    let mut command = Command::new("memccapable");
    command.args(["-a", "-t", "20", "-h", "127.0.0.1", "-p", &server.address.port().to_string()]);
    let output = finish(command, b"");
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(said.contains("All tests passed"), "{said}");
}

const PYMEMCACHE: &str = r#"
import sys, threading, time
from pymemcache.client.base import Client, PooledClient
from pymemcache.exceptions import MemcacheClientError, MemcacheServerError
address = ("127.0.0.1", int(sys.argv[1]))
c = Client(address, timeout=30, default_noreply=False)
assert c.version().count(b".") == 2
assert c.get("a") is None
assert c.set("a", b"\r\n\x00\xff") and c.get("a") == b"\r\n\x00\xff"
assert not c.add("a", b"x") and c.add("b", b"1") and c.replace("b", b"2") and not c.replace("c", b"x")
assert c.append("b", b"3") and c.prepend("b", b"1") and c.get("b") == b"123"
value, unique = c.gets("b")
assert c.cas("b", b"9", unique) and not c.cas("b", b"8", unique) and c.cas("nothing", b"8", b"1") is None
assert c.incr("b", 1) == 10 and c.decr("b", 11) == 0 and c.incr("nothing", 1) is None
assert c.set_many({f"k{i}": b"v%d" % i for i in range(500)}) == []
assert c.get_many([f"k{i}" for i in range(500)] + ["none"]) == {f"k{i}": b"v%d" % i for i in range(500)}
assert c.gets_many(["k1"])["k1"][0] == b"v1"
assert c.touch("k1", 100) and not c.touch("nothing", 100)
assert c.delete("k1") and not c.delete("k1") and c.delete_many(["k2", "k3"]) and c.get("k2") is None
c.set("big", b"x" * 1000000)
assert len(c.get("big")) == 1000000
try:
    c.set("big", b"x" * 2000000)
    raise AssertionError("it is too large")
except MemcacheServerError as error:
    assert b"too large" in error.args[0] or "too large" in str(error), error
assert c.get("big") is None
c.set("quiet", b"1", noreply=True)
c.incr("quiet", 1, noreply=True)
assert c.get("quiet") == b"2"
c.set("short", b"1", expire=1)
end = time.monotonic() + 30
while c.get("short") is not None:
    assert time.monotonic() < end, "it does not expire"
assert int(c.stats()[b"curr_items"]) > 400
pool = PooledClient(address, max_pool_size=8, timeout=30)
pool.set("n", b"0", noreply=False)
threads = [threading.Thread(target=lambda: [pool.incr("n", 1) for _ in range(200)]) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
assert c.get("n").strip() == b"1600", c.get("n")
assert c.flush_all() and c.get("n") is None
c.quit()
"#;

/// Its scripts, in one piece and in every other way.
#[test]
fn the_answers_are_the_same_however_bytes_come() {
    let target = Target::memory_service(|| {
        let store = Arc::new(store::Store::new(store::MIN_MEMORY, 1));
        move |transport| {
            LineSession::new(transport).start(kv::Session::new(&store));
        }
    });
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/sessions/kv");
    let mut scripts = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let script = script::Script::load(entry.unwrap().path()).unwrap_or_else(|error| panic!("\n{error}"));
        let report = script.fuzz(&target, &ScriptOptions::default(), &Fuzz::default());
        let report = report.unwrap_or_else(|failure| panic!("\n{failure}"));
        assert!(report.cases > 50 && report.left_out.is_empty(), "{report}");
        scripts += 1;
    }
    assert_eq!(scripts, 3);
}
