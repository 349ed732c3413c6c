//! The format is general: scripts hold against servers that others wrote, of seven protocols. The scripts start them, as Debian's
//! packages have them, with configurations of their own.
//!
//! `tests/run` installs the packages. Without them the test fails where continuous integration runs it, and elsewhere says which.

use std::{
    env,
    path::Path,
    process::{Command, Output},
};

/// Which programs a folder of scripts needs, and the packages that have them.
fn hold(folder: &str, programs: &[(&str, &str)]) {
    // Where servers are that are not for everybody's shell.
    let path = format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default());
    let is_there = |program: &str| env::split_paths(&path).any(|folder| folder.join(program).is_file());
    let missing: Vec<_> =
        programs.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        return skip(&format!("{folder} needs the packages: {}; `tests/run` installs them", missing.join(" ")));
    }
    if folder == "exim" && !is_root() && !has_sudo() {
        return skip("exim needs root, or sudo without a password");
    }
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/sessions/others").join(folder);
    let output = run(&path, &scripts);
    let text = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}{complaints}");
    assert!(text.contains("\nok ") || text.starts_with("ok "), "none ran: {text}");
    assert!(!text.lines().any(|line| line.starts_with("skip ")), "{text}");
}

fn skip(reason: &str) {
    assert!(env::var_os("CI").is_none(), "{reason}");
    eprintln!("skipped: {reason}");
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn has_sudo() -> bool {
    Command::new("sudo").args(["-n", "true"]).output().is_ok_and(|output| output.status.success())
}

/// A mail server begins as root.
fn run(path: &str, scripts: &Path) -> Output {
    let linescript = env!("CARGO_BIN_EXE_linescript");
    let mut command = if is_root() || !scripts.ends_with("exim") {
        Command::new(linescript)
    } else {
        let mut command = Command::new("sudo");
        command.args(["-n", "env"]).arg(format!("PATH={path}")).arg(linescript);
        command
    };
    command.arg("run").arg(scripts).args(["--feature", "root", "--jobs", "4"]);
    command.env("PATH", path).output().expect("it starts")
}

#[test]
#[ignore = "needs the Debian packages socat and ncat: run tests/run"]
fn scripts_test_an_echo() {
    hold("echo", &[("socat", "socat"), ("ncat", "ncat")]);
}

#[test]
#[ignore = "needs the Debian package redis-server: run tests/run"]
fn scripts_test_redis() {
    hold("redis", &[("redis-server", "redis-server")]);
}

#[test]
#[ignore = "needs the Debian package memcached: run tests/run"]
fn scripts_test_memcached() {
    hold("memcached", &[("memcached", "memcached")]);
}

#[test]
#[ignore = "needs the Debian package haproxy: run tests/run"]
fn scripts_test_the_stats_socket_of_haproxy() {
    hold("haproxy-stats", &[("haproxy", "haproxy")]);
}

#[test]
#[ignore = "needs the Debian package haproxy: run tests/run"]
fn scripts_test_haproxy_from_both_of_its_sides() {
    hold("haproxy", &[("haproxy", "haproxy")]);
}

#[test]
#[ignore = "needs the Debian package exim4-daemon-light, and root: run tests/run"]
fn scripts_test_a_mail_server() {
    hold("exim", &[("exim4", "exim4-daemon-light")]);
}

#[test]
#[ignore = "needs the Debian package ngircd: run tests/run"]
fn scripts_test_an_irc_server() {
    hold("ngircd", &[("ngircd", "ngircd")]);
}
