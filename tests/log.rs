//! The log of rot13d: whoever does not read it stops nobody, and what is lost of it is said.

mod support;

use std::{
    io::{PipeReader, PipeWriter, pipe},
    thread,
};

use rustix::{
    io::{Errno, ioctl_fionbio},
    process::Signal,
};
use support::{Server, connect, eventually, greet, offer, rot13d};

/// As many short sessions as it takes to fill the queue of the log, of 1 MiB, with `-v`.
const SESSIONS: usize = 9000;

/// A pipe that takes nothing until it is read.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    ioctl_fionbio(&writer, true).unwrap();
    for size in [4096, 1] {
        let filling = vec![b'\n'; size];
        while rustix::io::write(&writer, &filling) != Err(Errno::AGAIN) {}
    }
    ioctl_fionbio(&writer, false).unwrap();
    (reader, writer)
}

/// A server whose standard error is `stderr`, and in nobody else's hands.
fn unread(stderr: PipeWriter, arguments: &[&str]) -> Server {
    let mut command = rot13d();
    command.args(["--listen", "127.0.0.1:0"]).args(arguments).stderr(stderr);
    let mut server = Server::launch_unread(command);
    server.find_address();
    server
}

/// Serves one connection after the other, as many as it takes.
fn serve_many(server: &Server) {
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..SESSIONS / 4 {
                    greet(&mut connect(server.address));
                }
            });
        }
    });
}

#[test]
fn a_log_that_nobody_reads_stops_neither_sessions_nor_accepts_nor_signals() {
    for workers in ["1", "2"] {
        let (_reader, writer) = full_pipe();
        let mut server = unread(writer, &["-vv", "--workers", workers, "--drain-timeout", "1h"]);
        let mut first = server.connect();
        greet(&mut first);
        serve_many(&server);
        greet(&mut first);
        let mut stuck = server.connect();
        offer(&mut stuck, &[b"x".repeat(999), b"\n".to_vec()].concat().repeat(64), usize::MAX);
        server.signal(Signal::USR1);
        server.signal(Signal::TERM);
        // It drains: nobody is accepted any more, whoever is there is let go.
        assert_eq!(support::rest(&mut first), b"");
        drop(first);
        server.signal(Signal::TERM);
        assert_eq!(server.wait().0, Some(0), "the second signal aborts");
    }
}

#[test]
fn a_drain_ends_the_process_though_nobody_reads_the_log() {
    let (_reader, writer) = full_pipe();
    let mut server = unread(writer, &["-v"]);
    let mut peer = server.connect();
    greet(&mut peer);
    server.signal(Signal::TERM);
    assert_eq!(support::rest(&mut peer), b"");
    drop(peer);
    assert_eq!(server.wait().0, Some(0));
}

#[test]
fn what_the_log_leaves_out_is_counted_where_it_would_have_stood() {
    let (reader, writer) = full_pipe();
    let mut server = unread(writer, &["-v"]);
    serve_many(&server);
    let mut last = server.connect();
    greet(&mut last);
    // Its peers' ends are known once the counters say so, and those have to wait for the log.
    server.read_log(reader);
    let note = " lines of the log were left out: nobody read it";
    server.log_line(note);
    server.signal(Signal::USR1);
    let counters = server.log_line("counters: ");
    // Each turn that was slow, as many are on a busy machine, may have said so, and once more how many there were.
    let slow =
        counters.split_once(" slow ones").and_then(|(before, _)| before.rsplit(' ').next()?.parse::<usize>().ok());
    let most = SESSIONS + 1 + 2 * slow.unwrap_or_else(|| panic!("no slow turns in {counters}"));
    drop(last);
    eventually("all to be logged", || {
        let log = server.log();
        let left_out = log.iter().filter_map(|line| line.strip_suffix(note)?.rsplit(' ').next()?.parse::<usize>().ok());
        let closed = log.iter().filter(|line| line.contains(" closed: peer-eof, ")).count();
        (closed > 5000 && (SESSIONS + 1..=most).contains(&(closed + left_out.sum::<usize>()))).then_some(())
    });
    let log = server.log();
    let at = |part: &str| log.iter().position(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {log:#?}"));
    assert!(at("listening on ") < at(note) && at(note) < at("counters: "));
    // Nothing is cut: each is a line of the log.
    let odd = log.iter().find(|line| !line.is_empty() && !line.starts_with("[20"));
    assert_eq!(odd, None);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().0, Some(0));
    assert!(
        server.log().last().unwrap().contains("drained: "),
        "the last words are missing: {:?}",
        server.log().last()
    );
}

#[test]
fn a_log_whose_reader_is_gone_harms_nobody() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let mut server = unread(writer.try_clone().unwrap(), &["-vv"]);
    greet(&mut server.connect());
    server.signal(Signal::TERM);
    assert_eq!(server.wait().0, Some(0));
    // Nor does an error that nobody hears become another one.
    for (arguments, code) in [(&["--listen", "192.0.2.1:1"][..], 1), (&["--idle-timeout", "100ms"], 2)] {
        let mut command = rot13d();
        command.args(arguments).stderr(writer.try_clone().unwrap());
        let mut server = Server::launch_unread(command);
        assert_eq!(server.wait().0, Some(code), "{arguments:?}");
    }
}

#[test]
fn a_reader_that_takes_its_time_gets_all_of_it() {
    // A shell that reads only when the server has ended; in between it is all in the pipe and in the queue.
    let (reader, writer) = pipe().unwrap();
    // The other end of the pipe is non-blocking for whoever has it.
    ioctl_fionbio(&writer, true).unwrap();
    let mut server = unread(writer, &["-v"]);
    for _ in 0..2000 {
        greet(&mut connect(server.address));
    }
    server.read_log(reader);
    server.log_lines(" closed: peer-eof, ", 2000);
    server.signal(Signal::TERM);
    let (code, log) = server.wait();
    assert_eq!(code, Some(0));
    assert!(!log.iter().any(|line| line.contains("left out")));
    assert!(log.last().unwrap().contains("drained: "), "{:?}", log.last());
}

#[test]
fn the_log_has_colours_only_where_they_are_asked_for() {
    for (style, coloured) in [(None, false), (Some("auto"), false), (Some("never"), false), (Some("always"), true)] {
        let mut command = rot13d();
        command.args(["--listen", "127.0.0.1:0"]);
        if let Some(style) = style {
            command.env("RUST_LOG_STYLE", style);
        }
        let line = Server::spawn(command).log_line("listening on ");
        assert_eq!(line.contains('\u{1b}'), coloured, "{style:?}: {line:?}");
    }
}

#[test]
fn the_thread_of_the_log_is_there_only_while_something_is_logged() {
    let server = Server::start(&["-v", "--workers", "1"]);
    let threads = || std::fs::read_dir(format!("/proc/{}/task", server.id())).unwrap().count();
    for sessions in 1..=2 {
        eventually("the process to have one thread", || (threads() == 1).then_some(()));
        greet(&mut server.connect());
        server.log_lines(" closed: peer-eof, ", sessions);
    }
}
