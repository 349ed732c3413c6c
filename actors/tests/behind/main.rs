//! F1: all of the data promises hold behind filters, too: the suites, as they are, behind PROXY, TLS and telnet.
//!
//! The suites are links to the files that test plain sessions. Their `mod support` is the one of this folder: a server's
//! listener has filters, and a peer reaches it through a tunnel, which speaks to the server what the filters expect. So a
//! suite's peer is a plain socket all the same. The filters are all three, or those that `ACTIX_LINES_BEHIND` names: the
//! tests of this file run the suites behind each alone.
//! Not here: what differs by nature. A test that is about the peer's own socket (resets, what the kernel holds, when the
//! first byte comes) says so by `is_direct`.
// Each suite has its own `support`, of the same file.
#![allow(clippy::duplicate_mod)]

#[path = "accounted.rs"]
mod accounted;
#[path = "../support/tls.rs"]
mod authority;
mod behind;
#[path = "bounded.rs"]
mod bounded;
#[path = "exact.rs"]
mod exact;
#[path = "half_close.rs"]
mod half_close;
#[path = "one_report.rs"]
mod one_report;
#[path = "order.rs"]
mod order;
#[path = "panics.rs"]
mod panics;
#[path = "payload.rs"]
mod payload;
#[path = "../support/mod.rs"]
mod plain;
#[path = "polite_close.rs"]
mod polite_close;
mod support;
mod tunnel;

use std::{process::Command, sync::Mutex};

/// Runs the suites in a process of their own.
fn run(filters: &str) {
    // One after the other: each has as many threads as there are processors.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock();
    let suites = std::env::current_exe().unwrap();
    let output =
        Command::new(suites).args(["--skip", "the_suites_hold"]).env(behind::VARIABLE, filters).output().unwrap();
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "behind {filters}:\n{out}\n{errors}");
}

#[test]
fn the_suites_hold_behind_a_proxy_header() {
    run("proxy");
}

#[test]
fn the_suites_hold_behind_tls() {
    run("tls");
}

#[test]
fn the_suites_hold_behind_telnet() {
    run("telnet");
}
