//! The command: exit codes, results in words and in TAP, a server of its own, chunks by a seed.

mod support;

use std::{
    env, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Output,
    thread,
};

use actix_lines::{LineServer, Rot13};
use support::{rot13, stderr, stdout};

/// A script in a file of its own.
fn script(name: &str, text: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.session"));
    fs::write(&path, text).expect("the folder is there");
    path
}

fn linescript(args: &[&str]) -> Output {
    support::linescript(Path::new("."), args)
}

/// The server that `--server` starts: this program again.
#[test]
fn serve() {
    if env::var_os("LINESCRIPT_SERVES").is_none() {
        return;
    }
    let port = env::var("port").expect("the port to listen on").parse::<u16>().expect("a number");
    eprintln!("listening");
    actix_rt::System::new().block_on(async move {
        let server = LineServer::new(|_| Rot13).bind(("127.0.0.1", port)).expect("the port is free");
        server.run().await.expect("it serves");
    });
}

fn command() -> String {
    let this = env::current_exe().expect("a path");
    format!("env LINESCRIPT_SERVES=$port '{}' --exact serve --nocapture", this.display())
}

const GOOD: &str = "> Hello, world\n< Uryyb, jbeyq\n: fin\n: eof\n";

#[test]
fn scripts_that_hold_are_exit_code_0() {
    let good = script("good", GOOD);
    let output = linescript(&["run", good.to_str().unwrap(), "--connect", &rot13().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert_eq!(stdout(&output), format!("ok {}\n1 of 1 hold\n", good.display()));
}

#[test]
fn a_script_that_does_not_hold_is_exit_code_1_and_a_report() {
    let (good, bad) = (script("holds", GOOD), script("fails", "> Hello\n< Hello\n"));
    let files = [good.to_str().unwrap(), bad.to_str().unwrap()];
    let output = linescript(&["run", files[0], files[1], "--connect", &rot13().to_string()]);
    assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
    let text = stdout(&output);
    assert!(
        text.contains("not ok ") && text.contains("received: Uryyb\\n") && text.ends_with("1 of 2 hold\n"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "no colours where none show: {text}");
}

#[test]
fn a_script_that_is_none_is_exit_code_2_and_nothing_runs() {
    let (good, bad) = (script("runs", GOOD), script("none", "> Hello\nwhat\n"));
    let files = [good.to_str().unwrap(), bad.to_str().unwrap()];
    for args in [&["check", files[0], files[1]][..], &["run", files[0], files[1], "--connect", "127.0.0.1:1"]] {
        let output = linescript(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert_eq!(stdout(&output), "", "{args:?}");
        assert!(stderr(&output).contains("none.session:2:1"), "{}", stderr(&output));
    }
    assert_eq!(linescript(&["check", files[0]]).status.code(), Some(0));
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let good = script("usage", GOOD);
    let good = good.to_str().unwrap();
    for args in [
        // It starts no server.
        &["run", good][..],
        &["run", good, "--connect", "nowhere"],
        &["run", good, "--connect", "127.0.0.1:1", "--server", "true"],
        &["run", good, "--connect", "127.0.0.1:1", "--var", "3=4"],
        &["run", good, "--connect", "tls:localhost:1", "--tls-ca", "not/there.pem"],
        &["run", good, "--connect", "tls:localhost:1", "--tls-name", "no name"],
        &["run", good, "--connect", "tls:localhost:1", "--tls-cert", "alone.pem"],
        &["run", "not_there.session", "--connect", "127.0.0.1:1"],
    ] {
        let output = linescript(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn each_script_has_a_server_of_its_own() {
    let good = script("served", GOOD);
    let arguments = ["run", good.to_str().unwrap(), "--repeat", "3", "--jobs", "2", "--server", &command()];
    let output = linescript(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).ends_with("3 of 3 hold\n"), "{}", stdout(&output));
}

#[test]
fn what_a_server_said_is_in_the_report_and_none_is_exit_code_2() {
    let bad = script("says", "> Hello\n< Hello\n");
    let output = linescript(&["run", bad.to_str().unwrap(), "--server", &command()]);
    assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
    let report = stdout(&output);
    let words = report.split_once("the server's last words:\n").map_or("", |(_, words)| words);
    assert!(words.lines().any(|line| line.trim() == "listening"), "{}", stdout(&output));
    let output = linescript(&["run", bad.to_str().unwrap(), "--server", "false"]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert!(
        stdout(&output).contains("the server ended before it listened on $port: exit code 1"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn chunks_come_from_a_seed_that_is_printed() {
    let good = script("split", GOOD);
    let address = rot13().to_string();
    let output = linescript(&["run", good.to_str().unwrap(), "--split", "--connect", &address]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    let text = stdout(&output);
    let seed = text.lines().next().and_then(|line| line.rsplit_once(": ")).expect("the seed first").1;
    let again = linescript(&["run", good.to_str().unwrap(), seed, "--connect", &address]);
    assert_eq!(stdout(&again), text);
}

#[test]
fn variables_come_from_the_command_line() {
    let script = script("variables", "> $what\n< $answer\n");
    let (file, address) = (script.to_str().unwrap(), rot13().to_string());
    let set = ["--var", "what=Hello=", "--var", "answer=Uryyb="];
    let output = linescript(&[&["run", file, "--connect", &address][..], &set].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert_eq!(linescript(&[&["check", file][..], &set].concat()).status.code(), Some(0));
    assert_eq!(linescript(&["check", file]).status.code(), Some(2));
}

#[test]
fn results_are_printed_as_tap() {
    let bad = script("tap", "> Hello\n< Hello\n");
    let output =
        linescript(&["run", bad.to_str().unwrap(), "--tap", "--repeat", "2", "--connect", &rot13().to_string()]);
    let text = stdout(&output);
    let mut lines = text.lines();
    assert_eq!((lines.next(), lines.next()), (Some("TAP version 14"), Some("1..2")));
    let file = bad.display();
    assert!(text.contains(&format!("\nnot ok 1 - {file} \\#1\n# error: ")), "{text}");
    assert!(text.contains(&format!("\nnot ok 2 - {file} \\#2\n# error: ")), "{text}");
    assert!(lines.all(|line| line.starts_with("not ok ") || line.starts_with("# ")), "{text}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_server_that_nobody_runs_fails_the_script() {
    let good = script("nobody", GOOD);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = linescript(&["run", good.to_str().unwrap(), "--connect", &free.to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("could not connect"), "{}", stdout(&output));
}

/// A server that answers each read with its length, as if it were a line.
fn counts_reads() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut space = [0; 100];
                while let Ok(count @ 1..) = stream.read(&mut space) {
                    let _ = stream.write_all(format!("{count}\n").as_bytes());
                }
            });
        }
    });
    address
}

#[test]
fn fuzz_says_which_case_does_not_hold_and_tries_it_again() {
    let file = script("fuzzed", "> hello\n< uryyb\n: fin\n: eof\n");
    let file = file.to_str().expect("a path");
    let sound = rot13().to_string();
    let output = linescript(&["fuzz", file, "--connect", &sound, "--seed", "5"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains(" cases hold, seed 5\n1 of 1 hold\n"), "{text}");

    let counted = script("counted", "> hello\n< 6\n: fin\n: eof\n");
    let counted = counted.to_str().expect("a path");
    let faulty = counts_reads().to_string();
    let output = linescript(&["fuzz", counted, "--connect", &faulty, "--turn", "500"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("is cut between \"h\" and \"ello\\n\"") && text.contains("\nagain: --case split:1\n"),
        "{text}"
    );
    let output = linescript(&["fuzz", counted, "--connect", &faulty, "--turn", "500", "--case", "split:2"]);
    assert!(stdout(&output).contains("case: split:2"), "{}", stdout(&output));

    for wrong in [
        &["fuzz", counted, "--connect", &faulty, "--case", "split:99"][..],
        &["fuzz", counted, "--connect", &faulty, "--case", "reads:1"],
        &["fuzz", counted],
        &["fuzz", counted, "--connect", &faulty, "--case", "split"],
        &["fuzz", "nothing.session", "--connect", &faulty],
    ] {
        let output = linescript(wrong);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    }
}

#[test]
fn a_fuzz_that_tried_nothing_does_not_hold() {
    let script = script("tries_nothing", "> Hello\n< Uryyb\n");
    let script = script.to_str().expect("text");
    let address = rot13().to_string();
    let output = linescript(&["fuzz", script, "--connect", &address, "--case", "stall:read:each"]);
    assert_eq!(output.status.code(), Some(2), "it was asked for: {}", stderr(&output));
    let output = linescript(&["fuzz", script, "--connect", &address, "--runs", "0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("no case was tried"), "{}", stdout(&output));
}
