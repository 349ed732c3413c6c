//! A server whose sessions are idle sleeps: it wakes for what is due, and for nothing else.

mod support;

use std::{collections::BTreeMap, ffi::OsString, fs};

use support::{Server, eventually, greet, offer};

/// Sweeps that a worker with something to look after makes meanwhile, at least.
const SWEEPS: u64 = 24;

/// How often each thread of a server has gone to sleep by itself.
fn sleeps(server: &Server) -> BTreeMap<OsString, u64> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.id())).unwrap().map(|task| task.unwrap());
    let count = |task: &fs::DirEntry| {
        // It may have ended.
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse().ok()
    };
    tasks.filter_map(|task| Some((task.file_name(), count(&task)?))).collect()
}

/// The same since `before`.
fn sleeps_since(server: &Server, before: &BTreeMap<OsString, u64>) -> u64 {
    sleeps(server).iter().map(|(thread, count)| count - before.get(thread).unwrap_or(&0)).sum()
}

#[test]
fn a_server_whose_sessions_are_idle_sleeps_while_one_with_output_that_waits_looks_after_it() {
    let timeouts = ["--idle-timeout", "2h", "--line-timeout", "2h", "--max-age", "1d", "--session-rate", "lines=1000"];
    let idle = Server::start(&[&["--workers", "2"], &timeouts[..]].concat());
    let busy = Server::start(&["--workers", "1", "--write-timeout", "off"]);
    let mut streams: Vec<_> = (0..100).map(|_| idle.connect()).collect();
    streams.iter_mut().for_each(greet);
    let mut deaf = busy.connect();
    offer(&mut deaf, &[&[b'x'; 1023][..], b"\n"].concat(), usize::MAX);

    let pass = |sweeps: u64| {
        let before = sleeps(&busy);
        eventually("the other server's sweeps", || (sleeps_since(&busy, &before) >= sweeps).then_some(()));
    };
    // Until all has settled that came with the sessions.
    pass(SWEEPS / 4);
    let before = [&idle, &busy].map(sleeps);
    pass(SWEEPS);
    let [slept, swept] = [sleeps_since(&idle, &before[0]), sleeps_since(&busy, &before[1])];
    // Each 10 s the supervisor forgets sources.
    assert!(slept <= swept / 4, "it woke {slept} times where {swept} sweeps were made");
    // And it is there.
    streams.iter_mut().for_each(greet);
}
