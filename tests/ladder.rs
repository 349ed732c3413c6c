//! The rungs of the ladder keep the promises of `rot13d`, as far as their models allow; where one does not, the test says so.

mod support;

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    process::Command,
    thread,
    time::Duration,
};

use Rung::{BufferedEvent, BusyPoll, ByLine, Event, Fork, Rot13d, Select};
use rustix::{
    net::sockopt,
    process::{Resource, Rlimit, Signal, getrlimit, setrlimit},
};
use support::{
    Server, assert_same, connect, converse, converse_over, eventually, example, expect, greet, offer, rest, rot13d,
    settle, tr,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Rung {
    Fork,
    BusyPoll,
    Select,
    Event,
    BufferedEvent,
    ByLine,
    Rot13d,
}

const LADDER: [Rung; 7] = [Fork, BusyPoll, Select, Event, BufferedEvent, ByLine, Rot13d];

impl Rung {
    /// How it is started to listen on a free port.
    fn command(self) -> Command {
        let (mut command, arguments) = match self {
            Fork => (example("fork_server"), &["--listen", "127.0.0.1:0"][..]),
            BusyPoll => (example("busy_poll_server"), &["--listen", "127.0.0.1:0"][..]),
            Select => (example("select_server"), &["--listen", "127.0.0.1:0"][..]),
            Event => (example("event_server"), &["--listen", "127.0.0.1:0"][..]),
            BufferedEvent => (example("buffered_event_server"), &["--listen", "127.0.0.1:0"][..]),
            ByLine => (example("rot13_by_line"), &["--listen", "127.0.0.1:0"][..]),
            Rot13d => (rot13d(), &["--listen", "127.0.0.1:0", "--workers", "1"][..]),
        };
        command.args(arguments);
        command
    }

    fn start(self) -> Server {
        Server::spawn(self.command())
    }

    /// With room for few descriptors.
    fn start_poor(self) -> Server {
        let command = self.command();
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -n 40; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
        Server::spawn(shell)
    }
}

/// The processes of a server: itself, and its children, those included that have ended and were not waited for.
fn processes(server: &Server) -> Vec<u32> {
    let mut processes = vec![server.id()];
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // The name of the program may have any bytes, parentheses included; the parent is the second field after it.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        if fields.split(' ').nth(1) == Some(&server.id().to_string()) {
            processes.push(id);
        }
    }
    processes
}

/// Resident memory of all of them, in bytes.
fn resident(server: &Server) -> u64 {
    let each = processes(server).into_iter().map(|id| {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|size| size.parse::<u64>().ok()).unwrap_or(0) * 1024
    });
    each.sum()
}

/// Open descriptors of the server itself.
fn descriptors(server: &Server) -> usize {
    fs::read_dir(format!("/proc/{}/fd", server.id())).unwrap().count()
}

/// Bytes of every value in no order, from a fixed seed.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Lines that tell their places.
fn numbered(count: usize) -> Vec<u8> {
    (0..count).flat_map(|number| format!("line number {number} of many\n").into_bytes()).collect()
}

#[test]
fn d1_every_byte_comes_back_as_tr_prints_it() {
    let cases = [
        ("nothing", vec![]),
        ("one letter", b"N".to_vec()),
        ("one newline", b"\n".to_vec()),
        ("a tail", b"a line\nno newline".to_vec()),
        ("NULs", vec![0; 100_000]),
        ("newlines", vec![b'\n'; 100_000]),
        ("noise", noise(1 << 20)),
        ("a line of 20,000 bytes", [vec![b'q'; 20_000], b"\nok\n".to_vec()].concat()),
        ("a line of 3 MiB", [vec![b'q'; 3 << 20], b"\nnext".to_vec()].concat()),
    ];
    let expected: Vec<_> = cases.iter().map(|(_, input)| tr(input)).collect();
    for rung in LADDER {
        let server = rung.start();
        for ((name, input), expected) in cases.iter().zip(&expected) {
            assert_same(&format!("{rung:?}, {name}"), &converse(server.address, input), expected);
        }
    }
}

#[test]
fn d1_lines_in_pieces_of_any_length_come_back_whole() {
    let input = numbered(400);
    let expected = tr(&input);
    for rung in LADDER {
        let server = rung.start();
        for size in [1, 7, 1000] {
            let mut stream = server.connect();
            stream.set_nodelay(true).unwrap();
            // A byte has nothing behind it, so a partial line is always pending.
            for piece in input.chunks(size) {
                stream.write_all(piece).unwrap();
            }
            stream.shutdown(Shutdown::Write).unwrap();
            assert_same(&format!("{rung:?}, pieces of {size}"), &rest(&mut stream), &expected);
        }
    }
}

#[test]
fn a_line_is_answered_when_it_is_whole_and_not_before() {
    for rung in LADDER {
        let server = rung.start();
        let mut stream = server.connect();
        stream.write_all(b"first\nsec").unwrap();
        expect(&mut stream, "svefg\n");
        // It has read the beginning, too.
        settle(&stream);
        stream.set_nonblocking(true).unwrap();
        let early = stream.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(early, Err(ErrorKind::WouldBlock), "{rung:?} answers the beginning of a line");
        stream.set_nonblocking(false).unwrap();
        stream.write_all(b"ond\n").unwrap();
        expect(&mut stream, "frpbaq\n");
    }
}

#[test]
fn d2_answers_come_in_order_to_whom_they_belong() {
    const CLIENTS: usize = 20;
    for rung in LADDER {
        let server = rung.start();
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let server = &server;
                scope.spawn(move || {
                    let input = [format!("I am client {client}\n").into_bytes(), numbered(3000)].concat();
                    assert_same(&format!("{rung:?}, client {client}"), &converse(server.address, &input), &tr(&input));
                });
            }
        });
    }
}

#[test]
fn d3_who_half_closes_before_reading_gets_every_answer_and_a_clean_eof() {
    // What the kernel takes without anybody reading, on any machine.
    let input = [numbered(4000), b"and a tail".to_vec()].concat();
    let expected = tr(&input);
    for rung in LADDER {
        let server = rung.start();
        let mut stream = server.connect();
        stream.write_all(&input).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_same(&format!("{rung:?}"), &rest(&mut stream), &expected);
    }
}

#[test]
fn d4_a_server_that_is_told_to_end_answers_what_it_has_read_and_closes_politely() {
    let line = b"some line or other\n".repeat(1000);
    for rung in [BusyPoll, Select, Event, BufferedEvent, Rot13d] {
        let mut server = rung.start();
        let mut idle = server.connect();
        greet(&mut idle);
        let mut stuck = server.connect();
        let taken = offer(&mut stuck, &line, 64 << 20);
        server.signal(Signal::TERM);
        // There is no answer for what was not read, but no answer is lost, or cut in two, either.
        let got = rest(&mut stuck);
        assert_eq!(rest(&mut idle), b"", "{rung:?}");
        let sent: Vec<u8> = line.iter().copied().cycle().take(taken).collect();
        assert_same(&format!("{rung:?}"), &got, &tr(&sent[..got.len()]));
        assert!(got.len() > 1 << 16 && got.ends_with(b"\n"), "{rung:?}: {} bytes of {taken}", got.len());
        let refused = TcpStream::connect(server.address).map_err(|error| error.kind());
        assert_eq!(refused.map(drop), Err(ErrorKind::ConnectionRefused), "{rung:?} still listens");
        drop((idle, stuck));
        assert_eq!(server.wait().0, Some(0), "{rung:?}");
    }
}

/// D4 where a session is a program of its own: it never closes first.
#[test]
fn a_session_of_the_fork_server_outlives_it_and_ends_with_its_peer() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Fork.start();
        let mut stream = server.connect();
        greet(&mut stream);
        server.signal(signal);
        let refused = || TcpStream::connect(server.address).err().map(|error| error.kind());
        assert_eq!(eventually("the listener to be gone", refused), ErrorKind::ConnectionRefused);
        greet(&mut stream);
        let input = numbered(1000);
        assert_same("after the end of the server", &converse_over(&mut stream, &input), &tr(&input));
        // Standard error is complete when the last process that has it is gone.
        assert_eq!(server.wait().0, None, "ended by the signal");
    }
}

/// `ByLine` is not here: `LineServer::run` leaves signals to whoever asks for them, and its nine lines do not.
#[test]
fn a_server_without_sessions_ends_at_once() {
    for rung in [Fork, BusyPoll, Select, Event, BufferedEvent, Rot13d] {
        for signal in [Signal::TERM, Signal::INT] {
            let mut server = rung.start();
            server.signal(signal);
            // A signal that nobody handles ends a process without a code.
            let expected = if rung == Fork { None } else { Some(0) };
            assert_eq!(server.wait().0, expected, "{rung:?}");
        }
    }
}

#[test]
fn d5_who_does_not_read_costs_next_to_nothing_and_gets_everything_in_the_end() {
    const OFFERED: usize = 64 << 20;
    let lines = numbered(1000);
    for rung in LADDER {
        let server = rung.start();
        let mut stuck = server.connect();
        greet(&mut stuck);
        // The buffers are warm.
        expect_all(&mut stuck, &lines.repeat(10));
        let before = resident(&server);
        let taken = offer(&mut stuck, &lines, OFFERED);
        assert!(taken < OFFERED, "{rung:?} read everything: there is no backpressure");
        let grown = resident(&server).saturating_sub(before);
        assert!(grown < 1 << 20, "{rung:?}: memory grew by {grown} bytes, with {taken} taken");
        greet(&mut server.connect());
        stuck.shutdown(Shutdown::Write).unwrap();
        let sent: Vec<u8> = lines.iter().copied().cycle().take(taken).collect();
        assert_same(&format!("{rung:?}"), &rest(&mut stuck), &tr(&sent));
    }
}

/// Sends while it reads as many bytes, and compares them.
#[track_caller]
fn expect_all(stream: &mut TcpStream, input: &[u8]) {
    let mut writer = stream.try_clone().unwrap();
    let mut got = vec![0; input.len()];
    thread::scope(|scope| {
        scope.spawn(move || writer.write_all(input).expect("the server reads"));
        stream.read_exact(&mut got).expect("as many bytes");
    });
    assert_same("what came back", &got, &tr(input));
}

#[test]
fn a_peer_that_dies_harms_nobody() {
    for rung in LADDER {
        let server = rung.start();
        let mut other = server.connect();
        greet(&mut other);
        for _ in 0..20 {
            let mut dead = server.connect();
            // There are answers under way, for which nobody is there.
            dead.write_all(&numbered(2000)).unwrap();
            sockopt::set_socket_linger(&dead, Some(Duration::ZERO)).unwrap();
            drop(dead);
            greet(&mut other);
        }
        greet(&mut server.connect());
        eventually("the dead to be forgotten", || {
            let expected = if rung == Fork { 2 } else { 1 };
            (processes(&server).len() == expected).then_some(())
        });
    }
}

#[test]
fn many_connections_in_turn_leave_no_descriptor_and_no_zombie() {
    for rung in LADDER {
        let server = rung.start();
        converse(server.address, b"warm\n");
        let no_session = || (processes(&server).len() == 1).then(|| descriptors(&server));
        let before = eventually("the first session to be gone", no_session);
        for number in 0..150 {
            // To the EOF: who keeps a copy of the descriptor never gives one.
            let input = format!("I am number {number}\n");
            assert_eq!(converse(server.address, input.as_bytes()), tr(input.as_bytes()), "{rung:?}");
        }
        let same = || (processes(&server).len() == 1 && descriptors(&server) <= before).then_some(());
        eventually(&format!("{rung:?} to have {before} descriptors and no child"), same);
    }
}

/// A connection that was answered; what it was told instead, if it was not.
fn served(server: &Server) -> Result<TcpStream, Vec<u8>> {
    let mut stream = connect(server.address);
    stream.write_all(b"Hello\n").unwrap();
    let mut answer = vec![0; 6];
    match stream.read_exact(&mut answer) {
        Ok(()) if answer == b"Uryyb\n" => Ok(stream),
        Ok(()) => Err([answer, rest(&mut stream)].concat()),
        Err(error) => panic!("not even a clean EOF: {error}"),
    }
}

fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit });
    let room = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    assert!(room >= 4096, "this needs 4096 descriptors, and may have {room}: raise the hard limit with `ulimit -Hn`");
}

/// `Fork` is not here: it would take as many processes. It has no limit of its own.
#[test]
fn eleven_hundred_sessions_are_served_at_once() {
    raise_descriptors();
    for rung in [BusyPoll, Event, BufferedEvent, ByLine, Rot13d] {
        let server = rung.start();
        let mut sessions: Vec<_> = (0..1100).map(|_| served(&server).unwrap()).collect();
        sessions.iter_mut().for_each(greet);
    }
}

/// The exception: a set of `select` has no place for descriptors from 1024 on.
#[test]
fn select_tells_whom_it_has_no_place_for() {
    raise_descriptors();
    let server = Select.start();
    let mut sessions = Vec::new();
    let refusal = loop {
        match served(&server) {
            Ok(stream) => sessions.push(stream),
            Err(refusal) => break refusal,
        }
    };
    let refusal = String::from_utf8(refusal).unwrap();
    assert_eq!(refusal, "too many connections, try again later\n");
    assert!((980..=1024 - 32).contains(&sessions.len()), "{} sessions", sessions.len());
    // More at once than there are places for refusals, each with something unread: nobody is reset, nobody is left waiting.
    let mut refused: Vec<_> = (0..100).map(|_| connect(server.address)).collect();
    for stream in &mut refused {
        stream.write_all(&numbered(100)).unwrap();
    }
    for stream in &mut refused {
        assert_eq!(String::from_utf8(rest(stream)).unwrap(), refusal);
    }
    drop(refused);
    sessions.iter_mut().for_each(greet);
    // A place that is free again is taken again.
    sessions.truncate(900);
    eventually("a place", || served(&server).ok());
}

#[test]
fn without_descriptors_sessions_are_served_callers_wait_and_nothing_spins() {
    for rung in [BusyPoll, Select, Event, BufferedEvent] {
        let server = rung.start_poor();
        let mut sessions: Vec<_> = (0..20).map(|_| served(&server).unwrap()).collect();
        let mut waiting: Vec<_> = (0..40).map(|_| connect(server.address)).collect();
        server.log_line("cannot accept");
        for stream in &mut waiting {
            stream.write_all(b"Hello\n").unwrap();
        }
        // It would spin anyway.
        assert!(rung == BusyPoll || server.sleeps(), "{rung:?} spins without a descriptor");
        sessions.iter_mut().for_each(greet);
        let said = server.log().iter().filter(|line| line.contains("cannot accept")).count();
        assert_eq!(said, 1, "{rung:?} says once that it cannot accept, however often it tries");
        drop(sessions);
        // There is room for all but a few of them now, and as each goes the next comes.
        for stream in &mut waiting {
            expect(stream, "Uryyb\n");
            stream.shutdown(Shutdown::Both).unwrap();
        }
        greet(&mut server.connect());
    }
}

/// The exception: each session has a process of its own, and with it a limit of descriptors of its own.
#[test]
fn the_fork_server_has_more_sessions_than_descriptors() {
    let server = Fork.start_poor();
    let mut sessions: Vec<_> = (0..60).map(|_| served(&server).unwrap()).collect();
    sessions.iter_mut().for_each(greet);
    assert!(descriptors(&server) < 10, "{} descriptors: it keeps those of its sessions", descriptors(&server));
}

#[test]
fn only_the_naive_one_uses_a_processor_while_nobody_speaks() {
    for rung in LADDER {
        let server = rung.start();
        let _idle: Vec<_> = (0..10).map(|_| served(&server).unwrap()).collect();
        assert_eq!(server.sleeps(), rung != BusyPoll, "{rung:?}");
    }
}

/// Only buffered events, and `rot13d`, have a clock.
#[test]
fn buffered_events_end_the_idle_politely_and_cut_the_stuck() {
    let mut command = BufferedEvent.command();
    command.args(["--idle-timeout", "2s", "--write-timeout", "1s"]);
    let server = Server::spawn(command);
    let before = descriptors(&server);
    let mut idle = server.connect();
    idle.write_all(b"Hello\nand no more").unwrap();
    assert_eq!(rest(&mut idle), b"Uryyb\n");
    drop(idle);
    let mut stuck = server.connect();
    stuck.set_nonblocking(true).unwrap();
    // It takes no byte back, so it is cut however much the kernel takes.
    let lines = numbered(1000);
    eventually("both to be gone", || {
        while stuck.write(&lines).is_ok() {}
        (descriptors(&server) <= before).then_some(())
    });
    greet(&mut server.connect());
}

#[test]
fn bad_usage_and_a_port_in_use_are_said_in_words() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for name in ["fork_server", "busy_poll_server", "select_server", "event_server", "buffered_event_server"] {
        for (listen, code, words) in [
            (address.as_str(), 1, format!("{name}: cannot serve {address}: ")),
            ("localhost", 2, "--listen <ADDR:PORT>".to_owned()),
        ] {
            let mut command = example(name);
            command.args(["--listen", listen]);
            let output = support::finish(command, b"");
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(code), "{name}: {stderr}");
            assert!(stderr.contains(&words) && !stderr.contains("panicked"), "{name}: {stderr}");
        }
    }
}
