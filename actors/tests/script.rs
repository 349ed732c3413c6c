//! A script that does not hold, and a text that is no script, say so as a compiler would; time takes no time in memory.
//!
//! The reports are compared as text with `script/failures.txt` and `script/errors.txt`. Not here: what holds
//! (`script_harness`), rot13d's own promises (`tools/linescript`).

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::net::UnixListener,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use actix_lines::{
    LineSession, Rot13,
    limits::Limits,
    script::{FailureKind, Script, ScriptOptions, ServiceStream, Target},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[path = "script/compare.rs"]
mod compare;
#[path = "script/service.rs"]
mod service;

const BLESS: &str = "ACTIX_LINES_BLESS=1 cargo test -p actix-lines --features script --test script";

/// Each expectation, not met.
const FAILURES: &[(&str, &str)] = &[
    ("another line", "> say Hello, world\n< Hello, World\n"),
    ("another terminator", "> say a\n< \"a\\r\\n\"\n"),
    ("no line", "timeout 10m\n> later\n< later\n< sooner\n"),
    ("half a line", "> raw prompt>\n< prompt>\n"),
    ("half a line at the end", "> raw tail\n> close\n< tail\n"),
    ("other bytes", "> say abc\n< \"abd\"\n"),
    ("another beginning", "> say Goodbye\n<^ Good day\n"),
    ("no match", "> say 12 apples\n< /^(?<n>\\d+) pears$/\n"),
    ("captured otherwise", "> say 1\n< /(?<n>.)/\n> say 2\n< $n\n"),
    ("none of one-of", "> say edge\none-of\n  < heads\n  < tails\n"),
    ("one of unordered is missing", "alice> lines a c\nbob> say x\nunordered\n  alice< a\n  alice< b\n  bob< x\n"),
    ("unordered does not come", "alice> lines a\nunordered\n  alice< a\n  alice< b\n"),
    ("optional, then another", "> lines a c\n<? a\n< b\n"),
    ("a cut behind the end", ": split at 3 7\n> say x\n"),
    ("no number of repetitions", "let n = many\n> \"say x\" * $n\n"),
    ("too many repetitions", "let n = 4000000000\n> \"say x\" * $n\n"),
    ("other repetitions", "> say xxxx\n< \"xx\" * 3\n"),
    ("what telnet says", "> \"raw \\{will echo}\\{do 99}login: \\xff\\n\"\n< \"\\{will sga}\"\n"),
    ("what must not come", "<! /error/\n> lines a error-1 b\n< a\n<^ err\n< b\n"),
    ("what must not come, in half a line at the end", "repeat 1\n  <!^ tail\n  > raw tail\n  < \"tail\"\n"),
    (
        "bytes that must not come, over two expectations",
        "bob<! \"b\\nc\"\nbob> lines a b c\nbob< a\nbob< b\nbob: until c\n",
    ),
    ("what must not come is skipped", "<! b\n> lines a b c\n: until c\n"),
    ("until never", "> lines a b c\n: until /^d$/\n"),
    ("until EOF", "> lines a b\n> raw c\n> close\n: until ^ d\n"),
    ("until half a line", "> raw prompt>\n: until prompt>\n"),
    ("until a reset", "> abort\n: until never\n"),
    ("EOF instead of a line", "> close\n< bye\n"),
    ("a reset instead of EOF", "> abort\n: eof\n"),
    ("EOF instead of a truncation", "> close\n: truncated\n"),
    ("EOF instead of a reset", "> close\n: reset by peer\n"),
    ("more instead of EOF", "> say more\n> close\n: eof\n"),
    ("no EOF", "> say hello\n< hello\n: eof\n"),
    ("not quiet", "alice> later\nalice: quiet 5s\n"),
    ("an end instead of silence", "> close\n: quiet 1s\n"),
    ("a leftover at the end", "alice> lines a b\nalice< a\n"),
    ("a leftover at close", "bob> lines a b\nbob< a\nbob: close\n"),
    ("a reset at the end", "> abort\n"),
    ("a reset that nothing expected, before the end", "> abort\n: after 1s\n"),
    ("nothing is done", "# later\nrepeat 0\n  > say x\n"),
    (
        "what must not come begins a new connection",
        "<!^ error\n> raw login:\n< \"login:\"\n: close\n: connect\n> say error 1\n<? /./\n: quiet 1s\n",
    ),
    ("paused", "> say x\n: pause\n> say y\n< y\n"),
    ("sends when half-closed", ": fin\n> too late\n"),
    ("speaks when closed", ": close\n> too late\n"),
    ("connects twice", ": connect\n: connect\n"),
    ("sends to who has closed", "> close\n: eof\n> hello\n"),
    ("in a round", "repeat 3\n  > say x\n  < y\n"),
    ("a count that is none", "let n = many\nrepeat $n\n  > x\n"),
    (
        "a long line",
        "> say 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef!\n< 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef?\n",
    ),
];

/// Each way to write what is no script.
const ERRORS: &[(&str, &str)] = &[
    ("no statement", "hello\n"),
    ("an unknown action", "alice: dance\n"),
    ("no action", ":\n"),
    ("a bad time", ": quiet 5 minutes\n"),
    ("too long a time", ": after 99999999h\n"),
    ("blanks at the end", "> text  \n"),
    ("a control character", "< a\u{1b}[1m\n"),
    ("a quote without end", "> \"text\n"),
    ("a bad escape", "> \"\\q\"\n"),
    ("behind a quote", "> \"a\" b\n"),
    ("a pattern without end", "< /abc\n"),
    ("an empty pattern", "< //\n"),
    ("no regular expression", "< /a(b/\n"),
    ("behind a pattern", "< /a/ b\n"),
    ("no bytes", "< \"\"\n"),
    ("an empty prefix", "<^\n"),
    ("no space behind an operator", "<?maybe\n"),
    ("no space behind an until", ": until ^x\n"),
    ("until nothing", "bob: until\n"),
    ("never an empty prefix", "<!^\n"),
    ("never in one-of", "one-of\n  < a\n  <! b\n"),
    ("no places to cut", ": split at\n"),
    ("places that do not rise", ": split at 7 3\n"),
    ("a cut before the first byte", ": split at 0\n"),
    ("a file to send without a name", "bob>>\n"),
    ("a file to send that is not there", "bob>> not there.txt   \n"),
    ("a folder to send", ">> .\n"),
    ("no repetitions", "> \"x\" * 0\n"),
    ("repetitions without a number", "< \"x\" *\n"),
    ("behind repetitions", "let x = \"x\" * 3 more\n"),
    ("no telnet command", "> \"\\{do dance}\"\n"),
    ("a telnet command without an option", "< \"\\{will}\"\n"),
    ("a telnet command without an end", "< \"\\{do echo\"\n"),
    ("bad hex", ": hex 4g\n"),
    ("no chunks", ": split 0\n"),
    ("an empty block", "repeat 3\n> x\n"),
    ("no count", "repeat\n  > x\n"),
    ("a block where none is", "> x\n  < y\n"),
    ("an unknown column", "repeat 2\n    > x\n  > y\n"),
    ("the first line is indented", "  > x\n"),
    ("a tab", "repeat 2\n\t> x\n"),
    ("a send in one-of", "one-of\n  > x\n"),
    ("an unknown newline", "newline cr\n"),
    ("no timeout", "timeout 0s\n"),
    ("let without a name", "let = 3\n"),
    ("nobody listens", ": listen\n"),
    ("accepts what never listened", "backend: accept\n"),
    ("an address that is none", ": connect localhost\n"),
    ("an address that is none for a refusal", "bob: refused 127.0.0.1:port\n"),
    ("needs nothing", "needs\n"),
    ("needs what has no name", "needs a=b\n"),
    ("a server without a command", "server\n"),
    ("a named server without a command", "server redis =\n"),
    ("a server that speaks", "server> hello\n"),
    ("no action of a server", "server true\nserver:\n"),
    ("an unknown action of a server", "server a = true\nserver a: restart\n"),
    ("a log without a pattern", "server true\nserver: log hello\n"),
    ("an unknown signal", "server true\nserver: signal SIGHUP\n"),
    ("an end that is none", "server true\nserver: exit 256\n"),
    ("a server that was not started", "server: exit 0\nserver redis: exit 0\n"),
    ("a port of no server", "server other = true\n: connect 127.0.0.1:$port\n"),
    ("a file that is not there", "include not_there.lines\n"),
    ("several at once", "newline cr\n> x\nwhat\n: split x\n"),
    ("an unset variable", "> $who\n"),
    ("an unset variable in a pattern", "< /^$who$/\n"),
];

#[test]
fn each_expectation_that_is_not_met_says_what_was_expected_and_what_came() {
    let mut reports = String::new();
    for (name, text) in FAILURES {
        let script = Script::parse("test.session", *text).unwrap_or_else(|error| panic!("{name}:\n{error}"));
        let failure = script.run(&service::obedient(), &ScriptOptions::default());
        let failure = failure.expect_err(name);
        reports.push_str(&format!("== {name}\n{failure}\n\n"));
    }
    compare::compare("failures.txt", &reports, BLESS);
}

#[test]
fn a_failure_tells_a_program_its_kind_its_place_and_what_differs() {
    let kinds = [
        ("> say x\n< y\n", FailureKind::Differs, 2, Some((Some("y"), "x\n"))),
        ("> raw x\n< x\n", FailureKind::Late, 2, Some((Some("x"), "x"))),
        ("> close\n< bye\n", FailureKind::Ended, 2, Some((Some("bye"), ""))),
        ("> abort\n< bye\n", FailureKind::Lost, 2, Some((Some("bye"), ""))),
        ("\n> say x\n: close\n", FailureKind::Leftover, 3, Some((None, "x\n"))),
        (": connect\n: connect\n", FailureKind::Impossible, 2, None),
        ("> close\n: eof\n> x\n", FailureKind::Send, 3, None),
    ];
    for (text, kind, line, mismatch) in kinds {
        let script = Script::parse("test.session", text).unwrap_or_else(|error| panic!("\n{error}"));
        let failure = script.run(&service::obedient(), &ScriptOptions::default()).expect_err(text);
        assert_eq!((failure.kind(), failure.place()), (kind, Some(("test.session", line))), "\n{failure}");
        let found = failure.mismatch().map(|mismatch| {
            let expected = mismatch.expected.as_ref().map(|expected| String::from_utf8_lossy(expected).into_owned());
            (expected, String::from_utf8_lossy(&mismatch.received).into_owned())
        });
        let mismatch = mismatch
            .map(|(expected, received): (Option<&str>, &str)| (expected.map(str::to_owned), received.to_owned()));
        assert_eq!(found, mismatch, "\n{failure}");
    }
}

#[test]
fn a_text_that_is_no_script_is_an_error_with_file_line_and_column() {
    let mut reports = String::new();
    for (name, text) in ERRORS {
        let error = Script::parse("test.session", *text).and_then(|script| script.check(&ScriptOptions::default()));
        let error = error.expect_err(name);
        reports.push_str(&format!("== {name}\n{error}\n\n"));
    }
    compare::compare("errors.txt", &reports, BLESS);
}

#[test]
fn a_file_that_cannot_be_read_or_is_no_text_is_an_error() {
    let error = Script::load("not/there.session").expect_err("there is none").to_string();
    assert!(error.contains("cannot read not/there.session"), "{error}");
    let folder = env!("CARGO_TARGET_TMPDIR");
    let path = Path::new(folder).join("bytes.session");
    fs::write(&path, b"> caf\xe9\n").unwrap();
    let error = Script::load(&path).expect_err("no UTF-8").to_string();
    assert!(error.contains("bytes.session:1:6") && error.contains("UTF-8"), "{error}");
    let path = Path::new(folder).join("circle.session");
    fs::write(&path, "include circle.session\n").unwrap();
    let error = Script::load(&path).expect_err("a circle").to_string();
    assert!(error.contains("circle.session:1:9") && error.contains("without end"), "{error}");
}

/// Says `ab` to each line, in pieces of so many bytes, one a millisecond.
fn in_pieces(size: usize) -> Target {
    Target::streams(move || {
        move |mut stream: ServiceStream| {
            actix_rt::spawn(async move {
                let mut space = [0; 100];
                while let Ok(1..) = stream.read(&mut space).await {
                    for piece in b"ab".chunks(size) {
                        let _ = stream.write_all(piece).await;
                        let _ = stream.flush().await;
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                let _ = stream.shutdown().await;
            });
        }
    })
}

#[test]
fn a_script_means_the_same_however_the_bytes_of_the_service_come() {
    for (text, expected) in [
        ("> x\n<? \"a\"\n< \"ab\"\n: fin\n: eof\n", None),
        ("> x\none-of\n  < \"ab\"\n  < \"a\"\n: fin\n: eof\n", Some("the peer expected EOF and received more")),
        ("> x\nunordered\n  < \"ab\"\n  < \"a\"\n", Some("the peer expected bytes and received something else")),
    ] {
        for size in [1, 2] {
            let script = Script::parse("test.session", text).expect("it is one");
            let failure = script.run(&in_pieces(size), &ScriptOptions::default()).err();
            let title = failure.map(|failure| failure.to_string());
            let is_it = match (&title, expected) {
                (Some(title), Some(expected)) => title.contains(expected),
                (title, expected) => title.is_none() && expected.is_none(),
            };
            assert!(is_it, "{text}in pieces of {size}: {title:?}");
        }
    }
}

#[test]
fn files_that_include_many_are_counted() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("includes");
    fs::create_dir_all(&folder).expect("the folder is there");
    for level in 0..8 {
        let text = format!("include {}.lines\n", level + 1).repeat(10);
        fs::write(folder.join(format!("{level}.lines")), text).expect("the folder is there");
    }
    fs::write(folder.join("8.lines"), "> x\n").expect("the folder is there");
    let error = Script::load(folder.join("0.lines")).expect_err("a hundred million lines");
    assert!(error.to_string().contains("more than 1000 files in one script"), "{error}");
}

#[test]
fn an_hour_in_memory_is_none_outside() {
    let target = Target::memory(|transport| {
        let limits = Limits::builder().idle_timeout(None).build().unwrap();
        LineSession::new(transport).limits(limits).start(Rot13);
    });
    let script = Script::parse("time.session", "> before\n< orsber\n: after 1h\n> after\n< nsgre\n").unwrap();
    let start = Instant::now();
    script.run(&target, &ScriptOptions::default()).unwrap_or_else(|failure| panic!("\n{failure}"));
    assert!(start.elapsed() < Duration::from_secs(3600), "{:?}", start.elapsed());
}

#[test]
fn variables_come_from_outside() {
    let script = Script::parse("var.session", "> say $what\n< $what\n< /^x$what$/\n").unwrap();
    assert!(script.check(&ScriptOptions::default()).is_err());
    let options = ScriptOptions::default().variable("what", "a.b*[c]\nxa.b*[c]");
    // The text is taken as it is, in patterns too: of several lines only the first is one.
    let failure = script.run(&service::obedient(), &options).expect_err("two lines").to_string();
    assert!(failure.contains(r"expected: a.b*[c]\nxa.b*[c]"), "{failure}");
    let script = Script::parse("var.session", "> lines $what x$what\n< $what\n< /^x$what$/\n").unwrap();
    let options = ScriptOptions::default().variable("what", "a.b*[c]");
    script.run(&service::obedient(), &options).unwrap_or_else(|failure| panic!("\n{failure}"));
}

/// A service that answers one line on each connection, then resets it by closing with unread bytes.
#[test]
fn a_reset_is_told_from_eof_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::tcp(listener.local_addr().unwrap().to_string());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut word = [0; 4];
            stream.read_exact(&mut word).unwrap();
            stream.write_all(b"ok\n").unwrap();
            if &word == b"rude" {
                // One more byte is there: closing before it is read is a reset.
                stream.peek(&mut word).unwrap();
            } else {
                assert_eq!(stream.read(&mut word).unwrap(), 1);
            }
        }
    });
    let text = "rude> rude\nrude< ok\nrude: reset by peer\nnice> nice\nnice< ok\nnice: eof\n";
    let script = Script::parse("tcp.session", text).unwrap();
    let options = ScriptOptions::default().timeout(Duration::from_secs(60));
    script.run(&target, &options).unwrap_or_else(|failure| panic!("\n{failure}"));
    let wrong = Script::parse("tcp.session", text.replace("reset by peer", "eof")).unwrap();
    let failure = wrong.run(&target, &options).expect_err("a reset").to_string();
    assert!(failure.contains("rude expected EOF and was reset"), "{failure}");
}

#[test]
fn a_peer_that_cannot_connect_says_why() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::tcp(listener.local_addr().unwrap().to_string());
    drop(listener);
    let script = Script::parse("none.session", "> hello\n").unwrap();
    let failure = script.run(&target, &ScriptOptions::default()).expect_err("nobody listens").to_string();
    assert!(failure.contains("the peer could not connect: Connection refused"), "{failure}");
}

#[test]
fn a_script_talks_to_a_unix_socket() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("script.socket");
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        stream.write_all(&text).unwrap();
    });
    let script = Script::parse("unix.session", "> hello\n: fin\n< hello\n: eof\n").unwrap();
    script.run(&Target::unix(path), &ScriptOptions::default()).unwrap_or_else(|failure| panic!("\n{failure}"));
}

#[test]
fn a_script_runs_inside_an_actor_system_too() {
    actix_rt::System::new().block_on(async {
        let script = Script::parse("inside.session", "> say hello\n< hello\n").unwrap();
        script.run(&service::obedient(), &ScriptOptions::default()).unwrap_or_else(|failure| panic!("\n{failure}"));
    });
}
