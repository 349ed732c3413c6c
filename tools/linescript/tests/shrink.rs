//! `linescript shrink`: a script that fails becomes the smallest that fails so, on standard output or in a file.

mod support;

use std::{fs, net::TcpListener};

use support::{compare, folder, linescript, rot13, stderr, stdout};

#[test]
fn the_smallest_script_is_printed_with_how_it_fails() {
    let folder = folder("shrink");
    let many: String = (0..60).map(|n| format!("alice> {n}\nalice< {n}\nbob> Hello {n}\nbob< Uryyb {n}\n")).collect();
    let text = format!("include greet.lines\n{many}bob> Hello, world\nbob< Uryyb, jbeyk\n{many}");
    fs::write(folder.join("greet.lines"), "newline crlf\nalice> Hello\nalice< Uryyb\n").unwrap();
    fs::write(folder.join("long.session"), &text).unwrap();
    fs::write(folder.join("holds.session"), "> Hello\n< Uryyb\n").unwrap();
    let address = rot13().to_string();

    let output = linescript(&folder, &["shrink", "long.session", "--connect", &address]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    let runs =
        stderr(&output).replace(|letter: char| letter.is_ascii_digit(), "N").replace("NN", "N").replace("NN", "N");
    compare("shrink.txt", &format!("{}{runs}", stdout(&output)));

    // Into a file, which fails in the same manner when it is run.
    let output = linescript(&folder, &["shrink", "long.session", "-o", "small.session", "--connect", &address]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), ""), "{}", stderr(&output));
    let small = fs::read_to_string(folder.join("small.session")).unwrap();
    assert_eq!(small, "bob> d\nbob< k\n");
    let output = linescript(&folder, &["run", "small.session", "--connect", &address]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));

    let output = linescript(&folder, &["shrink", "holds.session", "--connect", &address]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert_eq!(stderr(&output), "linescript: holds.session: it holds: nothing to shrink\n");
}

#[test]
fn a_file_that_is_there_is_left_alone_and_what_does_not_run_is_not_shrunk() {
    let folder = folder("shrink-not");
    fs::write(folder.join("bad.session"), "> Hello\n< Hello\n").unwrap();
    fs::write(folder.join("mine.session"), "mine").unwrap();
    let address = rot13().to_string();
    let output = linescript(&folder, &["shrink", "bad.session", "-o", "mine.session", "--connect", &address]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert_eq!(stderr(&output), "linescript: mine.session is there already: remove it, or name another\n");
    assert_eq!(fs::read_to_string(folder.join("mine.session")).unwrap(), "mine");

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for service in [["--connect", &free], ["--server", "exit 3 # $port"]] {
        let output = linescript(&folder, &["shrink", "bad.session", service[0], service[1]]);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), ""), "{}", stderr(&output));
        assert!(
            stderr(&output).contains("bad.session: nothing of it runs: nothing to shrink\n"),
            "{}",
            stderr(&output)
        );
    }
}
