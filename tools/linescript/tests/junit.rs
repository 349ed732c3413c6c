//! `--junit FILE`: every run is a case, whatever comes of it; a file that cannot be written is known before anything runs.

mod support;

use std::{fs, net::TcpListener, process::Command};

use support::{compare, folder, linescript, rot13, stderr, stdout};

/// A report without what differs from run to run.
fn timeless(report: &str) -> String {
    let mut text = String::new();
    let mut rest = report;
    while let Some(at) = rest.find(" time=\"") {
        let end = at + 7 + rest[at + 7..].find('"').expect("it ends");
        let seconds: f64 = rest[at + 7..end].parse().expect("a number");
        assert!((0.0..600.0).contains(&seconds), "{seconds}");
        text.push_str(&rest[..at]);
        text.push_str(" time=\"T");
        rest = &rest[end..];
    }
    text + rest
}

#[test]
fn each_run_is_a_case_of_its_folders_suite() {
    let folder = folder("junit");
    fs::create_dir_all(folder.join("deep/er")).unwrap();
    fs::write(folder.join("hello.session"), "> Hello\n< Uryyb\n").unwrap();
    fs::write(
        folder.join("deep/wrong.session"),
        "# A control character of the service's does no harm.\n> \"\\x01<&\\x1b[1m\\n\"\n< N\n",
    )
    .unwrap();
    fs::write(folder.join("deep/er/late.session"), "timeout 50ms\n> \"x\"\n< k\n").unwrap();
    let address = rot13().to_string();
    let arguments = ["run", "hello.session", "deep", "--jobs", "3", "--repeat", "2", "--junit", "report.xml"];
    let output = linescript(&folder, &[&arguments[..], &["--connect", &address]].concat());
    assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
    compare("junit.xml", &timeless(&fs::read_to_string(folder.join("report.xml")).unwrap()));
}

#[test]
fn what_could_not_run_is_an_error() {
    let folder = folder("junit_errors");
    fs::write(folder.join("good.session"), "> Hello\n< Uryyb\n").unwrap();
    fs::write(folder.join("bad.session"), "> Hello\nwhat\n").unwrap();
    let report = || timeless(&fs::read_to_string(folder.join("report.xml")).unwrap());
    let output = linescript(&folder, &["run", "bad.session", "--connect", "127.0.0.1:1", "--junit", "report.xml"]);
    assert_eq!(output.status.code(), Some(2), "{}{}", stdout(&output), stderr(&output));
    compare("junit_bad.xml", &report());
    let output = linescript(&folder, &["run", "good.session", "--server", "false", "--junit", "report.xml"]);
    assert_eq!(output.status.code(), Some(2), "{}{}", stdout(&output), stderr(&output));
    assert!(report().contains(r#"errors="1""#) && report().contains(r#"type="server""#), "{}", report());
    let output = linescript(&folder, &["run", "nothing", "--connect", "127.0.0.1:1", "--junit", "report.xml"]);
    assert_eq!(output.status.code(), Some(2), "{}{}", stdout(&output), stderr(&output));
    assert!(report().contains("cannot read nothing"), "{}", report());
}

#[test]
fn a_file_that_cannot_be_written_is_said_before_anything_runs() {
    let folder = folder("junit_unwritten");
    fs::write(folder.join("good.session"), "> Hello\n< Uryyb\n").unwrap();
    // Nobody accepts here: a script that ran would be seen in the backlog.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let output = linescript(&folder, &["run", "good.session", "--connect", &address, "--junit", "not/there.xml"]);
    assert_eq!(output.status.code(), Some(2), "{}{}", stdout(&output), stderr(&output));
    assert!(stderr(&output).contains("cannot write not/there.xml"), "{}", stderr(&output));
    assert_eq!(stdout(&output), "");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "a script ran");
}

#[test]
#[ignore = "needs python3-junitparser: run tests/run"]
fn another_reader_finds_the_same_cases() {
    let folder = folder("junit_reader");
    fs::write(folder.join("good.session"), "> Hello\n< Uryyb\n").unwrap();
    fs::write(folder.join("wrong.session"), "> Hello\n< Hello\n").unwrap();
    let output = linescript(
        &folder,
        &["run", "good.session", "wrong.session", "--connect", &rot13().to_string(), "--junit", "report.xml"],
    );
    assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
    let reader = "from junitparser import JUnitXml
for suite in JUnitXml.fromfile('report.xml'):
    print(suite.name, suite.tests, suite.failures, suite.errors, suite.skipped)
    for case in suite:
        print(case.classname, case.name, [type(result).__name__ for result in case.result], case.time > 0)
";
    let read = Command::new("/usr/bin/python3").args(["-c", reader]).current_dir(&folder).output().unwrap();
    let expected = ". 2 1 0 0\n. good [] True\n. wrong ['Failure'] True\n";
    assert_eq!(stdout(&read), expected, "{}", stderr(&read));
}
