//! A fuzz of a script tries every case there is, says what it left out, and finds nothing where nothing is wrong.
//!
//! Services here are wrong in one manner each, or lawfully answer in another manner when their bytes are cut. Not here: faults as
//! they happen (`planted_faults`).

use std::{
    cell::Cell,
    io::{Read, Write},
    net::TcpListener,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use actix_lines::{
    LineSession, Rot13,
    limits::Limits,
    script::{FailureKind, Fuzz, FuzzCase, FuzzFailure, FuzzReport, Script, ScriptOptions, ServiceStream, Target},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[path = "script/service.rs"]
mod service;

fn fuzz(text: &str, target: &Target, how: &Fuzz) -> Result<FuzzReport, FuzzFailure> {
    let script = Script::parse("test.session", text).unwrap_or_else(|error| panic!("\n{error}"));
    script.fuzz(target, &ScriptOptions::default(), how)
}

#[track_caller]
fn holds(text: &str, target: &Target) -> FuzzReport {
    fuzz(text, target, &Fuzz::default()).unwrap_or_else(|failure| panic!("\n{failure}"))
}

fn rot13() -> Target {
    Target::memory(|transport| {
        LineSession::new(transport).start(Rot13);
    })
}

/// A service that answers each read by what `answer` makes of it and of the number of reads before it on this connection.
fn by_read(answer: fn(&[u8], usize) -> Vec<u8>) -> Target {
    Target::streams(move || {
        move |mut stream: ServiceStream| {
            actix_rt::spawn(async move {
                let mut space = [0; 4096];
                let mut reads = 0;
                while let Ok(count @ 1..) = stream.read(&mut space).await {
                    let _ = stream.write_all(&answer(&space[..count], reads)).await;
                    reads += 1;
                }
                let _ = stream.shutdown().await;
            });
        }
    })
}

#[test]
fn a_case_is_a_word_that_is_read_again() {
    let words = [
        "bytes",
        "slow",
        "split:3",
        "split:3,17",
        "split:alice:3,17:bob-2:5",
        "split:1:alice:3",
        "early:2",
        "stall:read:3",
        "stall:alice:shutdown:1",
        "stall:write:each",
        "stall:flush:1",
        "reads:1",
        "writes:7",
        "window:13",
    ];
    for word in words {
        let case: FuzzCase = word.parse().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(case.to_string(), word);
    }
    for none in [
        "",
        "split",
        "split:",
        "split:0",
        "split:alice",
        "split:alice:",
        "stall:3",
        "stall:alice:nap:3",
        "early:x",
        "reads:0",
        "bytes:1",
    ] {
        let error = none.parse::<FuzzCase>().expect_err(none).to_string();
        assert!(error.contains(&format!("`{none}` is no case: write split:PEER:BYTES")), "{error}");
    }
}

/// Of a few bytes each place between two, and each call, is a case of its own.
#[test]
fn every_split_and_every_call_is_tried() {
    let seen = Arc::new(std::sync::Mutex::new(std::collections::BTreeSet::new()));
    let target = {
        let seen = Arc::clone(&seen);
        Target::streams(move || {
            let seen = Arc::clone(&seen);
            move |mut stream: ServiceStream| {
                let seen = Arc::clone(&seen);
                actix_rt::spawn(async move {
                    let mut space = [0; 4096];
                    let mut pieces = Vec::new();
                    while let Ok(count @ 1..) = stream.read(&mut space).await {
                        pieces.push(String::from_utf8_lossy(&space[..count]).into_owned());
                    }
                    let _ = stream.shutdown().await;
                    seen.lock().unwrap().insert(pieces);
                });
            }
        })
    };
    let how = Fuzz::default().random_cases(0);
    let report = fuzz("> abc\n: fin\n: eof\n", &target, &how).unwrap_or_else(|failure| panic!("\n{failure}"));
    // Each byte, slow peers, two sizes of reads and of writes, each of four calls, two windows; three splits; one read brings the
    // line, one EOF; one shutdown.
    assert_eq!((report.cases, report.left_out.len()), (1 + 1 + 4 + 4 + 2 + 3 + 2 + 1, 0), "{report}");
    let seen = seen.lock().unwrap();
    for pieces in [&["abc\n"][..], &["a", "bc\n"], &["ab", "c\n"], &["abc", "\n"], &["a", "b", "c", "\n"]] {
        assert!(seen.contains(&pieces.iter().map(ToString::to_string).collect::<Vec<_>>()), "{pieces:?} of {seen:?}");
    }
}

/// It answers otherwise from its fourth read on.
#[test]
fn of_many_cuts_those_are_left_that_are_needed() {
    let target = by_read(|bytes, reads| if reads >= 3 { b"!".to_vec() } else { bytes.to_vec() });
    let failure =
        fuzz("> a line of some length\n< \"a line of some length\\n\"\n", &target, &Fuzz::default()).unwrap_err();
    let case = failure.case().expect("a case").to_string();
    assert_eq!(case.matches(',').count(), 2, "{case}");
    // It fails again, and alone.
    let again = Fuzz::default().case(case.parse().unwrap());
    let failure = fuzz("> a line of some length\n< \"a line of some length\\n\"\n", &target, &again).unwrap_err();
    assert_eq!(failure.case().unwrap().to_string(), case);
    assert_eq!(failure.failure().kind(), FailureKind::Differs);
    let other = Fuzz::default().case("split:5".parse().unwrap());
    let report = fuzz("> a line of some length\n< \"a line of some length\\n\"\n", &target, &other).unwrap();
    assert_eq!(report.cases, 1);
}

/// The number of reads is in its answer, which the script does not look at.
#[test]
fn a_run_that_holds_has_to_bring_the_same_bytes() {
    let target = by_read(
        |bytes, reads| if bytes.ends_with(b"\n") { format!("after {reads}\n").into_bytes() } else { Vec::new() },
    );
    let failure = fuzz("> hello\n< /^after \\d+$/\n", &target, &Fuzz::default()).unwrap_err();
    assert_eq!(failure.case().unwrap().to_string(), "split:1");
    let text = failure.to_string();
    let said = "error: the peer received something else than in one piece\n --> test.session:2:3\n";
    assert!(text.starts_with(said), "{text}");
    assert!(text.contains("expected: after 0\\n\n          received: after 1\\n\n"), "{text}");
    assert!(
        text.contains("not when what the peer sends is cut between \"h\" and \"ello\\n\", at test.session:1\n"),
        "{text}"
    );
    assert!(text.contains("case: split:1"), "{text}");
}

#[test]
fn what_a_script_leaves_open_is_not_compared() {
    let optional = by_read(|bytes, reads| match (reads, bytes.ends_with(b"\n")) {
        (0, true) => b"done\n".to_vec(),
        (0, false) => b"more?\n".to_vec(),
        (_, true) => b"done\n".to_vec(),
        _ => Vec::new(),
    });
    holds("> hello\n<? more?\n< done\n", &optional);
    let one_of = by_read(|bytes, reads| match (bytes.ends_with(b"\n"), reads) {
        (true, 0) => b"in one piece\n".to_vec(),
        (true, _) => b"in several\n".to_vec(),
        _ => Vec::new(),
    });
    holds("> hello\none-of\n  < in one piece\n  < in several\n", &one_of);
    let unordered = by_read(|bytes, reads| match (bytes.ends_with(b"\n"), reads) {
        (true, 0) => b"a\nb\n".to_vec(),
        (true, _) => b"b\na\n".to_vec(),
        _ => Vec::new(),
    });
    holds("> hello\nunordered\n  < a\n  < b\n", &unordered);
    assert!(fuzz("> hello\n< /a|b/\n< /a|b/\n", &unordered, &Fuzz::default()).is_err());
}

#[test]
fn a_peer_whose_bytes_are_others_each_time_is_named_and_has_to_hold() {
    let target = {
        let runs = Arc::new(AtomicUsize::new(0));
        Target::streams(move || {
            let runs = Arc::clone(&runs);
            move |mut stream: ServiceStream| {
                let number = runs.fetch_add(1, Ordering::Relaxed);
                actix_rt::spawn(async move {
                    let _ = stream.write_all(format!("you are number {number}\n").as_bytes()).await;
                    let _ = stream.shutdown().await;
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                });
            }
        })
    };
    let report = holds("< /^you are number \\d+$/\n: eof\n", &target);
    assert_eq!(report.left_out, ["the bytes of the peer: they are others each time, as it is"]);
    let failure = fuzz("< /^you are number \\d$/\n: eof\n", &target, &Fuzz::default()).unwrap_err();
    assert!(failure.to_string().contains("/^you are number \\d$/"), "{failure}");
}

/// Chance may bring the same bytes in the runs that are compared first.
#[test]
fn a_case_is_not_blamed_for_what_is_not_the_same_each_time_without_it() {
    let runs = Arc::new(AtomicUsize::new(0));
    let target = Target::streams(move || {
        let runs = Arc::clone(&runs);
        move |mut stream: ServiceStream| {
            let number = runs.fetch_add(1, Ordering::Relaxed) / 4;
            actix_rt::spawn(async move {
                let _ = stream.write_all(format!("you are in group {number}\n").as_bytes()).await;
                let _ = stream.shutdown().await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            });
        }
    });
    let report = holds("> hello\n< /^you are in group \\d+$/\n: eof\n", &target);
    assert_eq!(report.left_out, ["the bytes of the peer: they are others each time, as it is"]);
}

/// The service keeps who was there in what all runs share.
#[test]
fn a_script_that_holds_only_once_is_not_fuzzed() {
    let target = {
        let runs = Arc::new(AtomicUsize::new(0));
        Target::streams(move || {
            let runs = Arc::clone(&runs);
            move |mut stream: ServiceStream| {
                let text: &[u8] = if runs.fetch_add(1, Ordering::Relaxed) == 0 { b"STORED\n" } else { b"EXISTS\n" };
                actix_rt::spawn(async move {
                    let _ = stream.write_all(text).await;
                    let _ = stream.shutdown().await;
                });
            }
        })
    };
    let failure = fuzz("< STORED\n", &target, &Fuzz::default()).unwrap_err();
    assert_eq!(failure.case(), None);
    assert!(failure.to_string().contains("the script held once, but not a second time"), "{failure}");
}

/// A call that is held back ends before another peer acts, before a reset or a close, before the clock moves.
#[test]
fn what_is_held_back_changes_no_order_between_peers_and_takes_no_time() {
    let text = "alice: connect\nbob: connect\ncarol: connect\n\
        alice> all from alice\nbob> all from bob\ncarol< from alice\ncarol< from bob\n\
        alice< from alice\nalice< from bob\nbob< from alice\nbob< from bob\n\
        alice> all the last word\nalice: reset\nbob> all after the reset\n\
        carol< the last word\ncarol< after the reset\nbob< the last word\nbob< after the reset\n\
        bob> later\nbob: quiet 2s\nbob: after 1s\nbob< later\n\
        bob> all bye\nbob< bye\nbob: close\ncarol< bye\n";
    let report = holds(text, &service::obedient());
    assert!(report.left_out.is_empty(), "{report}");
}

/// Nine of the ten seconds that a peer may be idle, again and again; and the four that a line may take.
#[test]
fn time_is_the_same_in_every_case() {
    let target = Target::memory(|transport| {
        let limits = Limits::builder().idle_timeout(Some(Duration::from_secs(10)));
        let limits = limits.line_timeout(Some(Duration::from_secs(4))).build().unwrap();
        LineSession::new(transport).limits(limits).start(Rot13);
    });
    let text = "> hello\n< uryyb\n: after 9s\n> still here\n< fgvyy urer\n: quiet 9s\n: after 2s\n: eof\n";
    assert!(holds(text, &target).cases > 50);
    holds("> \"begun\"\n: after 3s\n> \" and ended\\n\"\n< ortha naq raqrq\n", &target);
}

/// More than the buffers hold, to a peer that reads later; and several that send at once.
#[test]
fn a_slow_peer_loses_nothing() {
    let line = "x".repeat(1000);
    let answer = "k".repeat(1000);
    let text = format!("repeat 40\n  > {line}\nrepeat 40\n  < {answer}\n: fin\n: eof\n");
    let how = Fuzz::default().max_cases(30);
    let report = fuzz(&text, &rot13(), &how).unwrap_or_else(|failure| panic!("\n{failure}"));
    assert_eq!(report.cases, 30);
    let text = format!(": pause\nrepeat 40\n  > {line}\n: resume\nrepeat 40\n  < {answer}\n: fin\n: eof\n");
    let report = fuzz(&text, &rot13(), &how).unwrap_or_else(|failure| panic!("\n{failure}"));
    assert!(report.left_out[0].starts_with("small windows: a peer pauses"), "{report}");
}

#[test]
fn what_is_not_tried_is_said() {
    let text = "> hello\n< uryyb\n> world\n< jbeyq\n";
    let report = fuzz(text, &rot13(), &Fuzz::default().max_cases(30).random_cases(4).seed(7)).unwrap();
    assert_eq!((report.cases, report.seed), (30, 7));
    let said = report.to_string();
    assert!(
        said.starts_with("30 cases hold, seed 7; left out: ") && said.contains("stalls: at most 30 cases"),
        "{said}"
    );
    let report = fuzz(text, &rot13(), &Fuzz::default().max_time(Some(Duration::ZERO))).unwrap();
    assert_eq!(report.cases, 0);
    assert!(report.left_out[0].ends_with(" cases: the time was over"), "{report}");
    // The same seed chooses the same.
    let how = Fuzz::default().random_cases(8).seed(3);
    assert_eq!(fuzz(text, &rot13(), &how).unwrap(), fuzz(text, &rot13(), &how).unwrap());
}

/// Each run has a thread, a clock and tasks of its own.
#[test]
fn nothing_of_a_run_is_left_for_the_next() {
    thread_local! {
        static RUNS: Cell<usize> = const { Cell::new(0) };
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    struct Counts(Arc<AtomicUsize>);
    impl Drop for Counts {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let target = {
        let dropped = Arc::clone(&dropped);
        Target::memory_service(move || {
            assert_eq!(RUNS.replace(1), 0, "a thread that is not new");
            // A task that never ends.
            let held = Rc::new(Counts(Arc::clone(&dropped)));
            actix_rt::spawn(async move {
                let _held = held;
                std::future::pending::<()>().await;
            });
            let limits = Limits::builder().idle_timeout(None).build().unwrap();
            move |transport| {
                LineSession::new(transport).limits(limits.clone()).start(Rot13);
            }
        })
    };
    let report = holds("> hello\n< uryyb\n: close\n", &target);
    // With the two as it is.
    assert_eq!(dropped.load(Ordering::Relaxed), report.cases + 2);
}

/// A server that takes what one read returned for a line.
#[test]
fn over_tcp_what_peers_send_is_cut_and_peers_are_slow() {
    fn server(by_line: bool) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::tcp(listener.local_addr().unwrap().to_string());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let (mut space, mut begun) = ([0; 4096], Vec::new());
                    while let Ok(count @ 1..) = stream.read(&mut space) {
                        begun.extend_from_slice(&space[..count]);
                        if !by_line || begun.ends_with(b"\n") {
                            let _ = stream.write_all(format!("{} bytes\n", begun.len()).as_bytes());
                            begun.clear();
                        }
                    }
                });
            }
        });
        target
    }
    let text = "> hello\n< 6 bytes\n> world!\n< 7 bytes\n: fin\n: eof\n";
    let report = holds(text, &server(true));
    assert!(report.cases > 20 && report.left_out.is_empty(), "{report}");
    let failure = fuzz(text, &server(false), &Fuzz::default()).unwrap_err();
    assert!(failure.case().unwrap().to_string().starts_with("split:"), "{failure}");
    let how = Fuzz::default().case("reads:1".parse().unwrap());
    let failure = fuzz(text, &server(true), &how).unwrap_err();
    assert_eq!(failure.failure().kind(), FailureKind::NotRun);
    assert!(failure.to_string().contains("reads:1 tries nothing here: the service is not in memory"), "{failure}");
}

#[test]
fn a_case_that_changes_nothing_is_no_case_that_holds() {
    let target = by_read(|bytes, _| bytes.to_vec());
    let text = "> hello\n< hello\n";
    for (case, reason) in [
        ("split:6", "the peer sends 6 bytes"),
        ("split:alice:1", "alice sends 0 bytes"),
        ("early:1", "it has 0 lines that others speak before"),
        ("stall:read:99", "on connections of the peer the calls of read are "),
    ] {
        let failure = fuzz(text, &target, &Fuzz::default().case(case.parse().unwrap())).expect_err(case);
        assert_eq!(failure.failure().kind(), FailureKind::NotRun, "{failure}");
        assert!(failure.to_string().contains(&format!("{case} tries nothing here: {reason}")), "{failure}");
    }
    let report = fuzz(text, &target, &Fuzz::default().case("split:5".parse().unwrap())).unwrap();
    assert_eq!(report.to_string(), "1 case holds, seed 0");
}
