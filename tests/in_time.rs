//! T1, of the process: what arrived while it stood still is served as if it had come just now.

mod support;

use std::{thread, time::Duration};

use rustix::process::Signal;
use support::{Server, expect, greet};

/// Longer than the idle timeout that is set here, and that only: the clock of the process cannot be paused.
const STANDSTILL: Duration = Duration::from_secs(3);

#[test]
fn a_process_that_was_stopped_answers_what_has_come_meanwhile_and_ends_nobody() {
    let server = Server::start(&["--idle-timeout", "1s", "--line-timeout", "1s", "--workers", "2"]);
    let mut streams: Vec<_> = (0..20).map(|_| server.connect()).collect();
    streams.iter_mut().for_each(greet);
    server.signal(Signal::STOP);
    for stream in &mut streams {
        std::io::Write::write_all(stream, b"in time\n").expect("the kernel takes it");
    }
    thread::sleep(STANDSTILL);
    server.signal(Signal::CONT);
    for stream in &mut streams {
        expect(stream, "va gvzr\n");
    }
    // Nobody was told to end meanwhile.
    streams.iter_mut().for_each(greet);
}
