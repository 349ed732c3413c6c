//! `linescript bless`: a script gets what came, and the difference is printed; what cannot be blessed stays as it is.

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    os::unix::fs::{PermissionsExt, symlink},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use support::{compare, folder, linescript, rot13, stderr, stdout};

const BEFORE: &str = "# How it was before version 2.\n\n> Hello\n<   Hello\n> world\n<^  jb\n: fin\n: eof\n";
const AFTER: &str = "# How it was before version 2.\n\n> Hello\n<   Uryyb\n> world\n<^  jb\n: fin\n: eof\n";

#[test]
fn what_came_is_written_and_the_difference_is_printed() {
    let folder = folder("bless");
    let script = folder.join("hello.session");
    fs::write(&script, BEFORE).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o640)).unwrap();
    symlink("hello.session", folder.join("link.session")).unwrap();
    let address = rot13().to_string();

    let check = linescript(&folder, &["bless", "hello.session", "--check", "--connect", &address]);
    assert_eq!(check.status.code(), Some(1), "{}{}", stdout(&check), stderr(&check));
    assert_eq!(fs::read_to_string(&script).unwrap(), BEFORE);

    let output = linescript(&folder, &["bless", "link.session", "--connect", &address]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert_eq!(fs::read_to_string(&script).unwrap(), AFTER);
    assert_eq!(fs::metadata(&script).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(fs::symlink_metadata(folder.join("link.session")).unwrap().is_symlink());
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "something was left behind");

    let again = linescript(&folder, &["bless", "hello.session", "--connect", &address]);
    assert_eq!(again.status.code(), Some(0), "{}{}", stdout(&again), stderr(&again));
    compare("bless.txt", &format!("{}\n{}\n{}", stdout(&check), stdout(&output), stdout(&again)));
}

/// A service that numbers its answers.
fn numbering() -> SocketAddr {
    static NUMBER: AtomicUsize = AtomicUsize::new(1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            for _ in lines.map_while(Result::ok) {
                writeln!(stream, "request {}", NUMBER.fetch_add(1, Ordering::Relaxed)).unwrap();
            }
        }
    });
    address
}

#[test]
fn what_differs_from_run_to_run_or_is_no_matter_of_lines_is_not_blessed() {
    let folder = folder("bless_not");
    let texts = [
        ("unstable", "> anything\n< request\n"),
        ("captures", "> anything\n< /^Request (?<n>\\d+)$/\n> about $n\n< /request/\n"),
        ("includes", "include hello.lines\n"),
    ];
    for (name, text) in texts {
        fs::write(folder.join(format!("{name}.session")), text).unwrap();
    }
    fs::write(folder.join("hello.lines"), "> anything\n< something\n").unwrap();
    let output = linescript(&folder, &["bless", ".", "--connect", &numbering().to_string()]);
    assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
    for (name, text) in texts {
        assert_eq!(fs::read_to_string(folder.join(format!("{name}.session"))).unwrap(), text);
    }
    // The numbers are chance: scripts are run several times.
    let text: String =
        stdout(&output).chars().map(|letter| if letter.is_ascii_digit() { 'N' } else { letter }).collect();
    compare("bless_not.txt", &text.replace("NN", "N"));
}

#[test]
fn a_script_that_is_gone_when_it_is_to_be_written_is_a_sentence_that_says_so() {
    let folder = folder("bless_gone");
    let file = folder.join("gone.session");
    fs::write(&file, "server rm -f gone.session\nserver: exit 0\n> Hello\n< Hello\n").unwrap();
    let output = linescript(&folder, &["bless", "gone.session", "--connect", &rot13().to_string()]);
    assert_eq!(output.status.code(), Some(2), "{}{}", stdout(&output), stderr(&output));
    let said = stderr(&output);
    assert!(said.starts_with("linescript: cannot read gone.session again: "), "{said}");
    assert!(!file.exists());
}
