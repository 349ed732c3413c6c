//! The configuration file, the signals that read it again, and what `--check-config` says.

mod support;

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Output},
};

use rustix::process::Signal;
use support::{Server, connect, eventually, finish, greet, rest, rot13d};

/// A file of this test alone, removed with it.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rot13d-{}-{name}.toml", std::process::id()));
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn write(&self, text: &str) {
        fs::write(&self.0, text).unwrap();
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn check(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = rot13d();
    command.arg("--check-config").args(arguments);
    let Output { status, stdout, stderr } = finish(command, b"");
    assert_eq!(stdout, b"");
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn the_example_file_is_good_as_it_is_and_with_each_default_spelled_out() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/rot13d.toml");
    assert_eq!(check(&["--config", example]), (Some(0), String::new()));
    let text = fs::read_to_string(example).unwrap();
    let spelled_out: String = text
        .lines()
        .filter_map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')))
        .map(|line| format!("{line}\n"))
        .collect();
    let file = File::new("example", &spelled_out);
    assert_eq!(check(&["--config", file.path()]), (Some(0), String::new()), "{spelled_out}");
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_line_and_code_2() {
    for (text, line, words) in [
        ("max-sessions = 10\n\nmax-session = 3\n", 3, "unknown key \"max-session\": use max-sessions"),
        ("# \u{fc}\u{df}\nidle_timeout = \"1m\"\n", 2, "unknown key \"idle_timeout\": use idle-timeout"),
        ("z = 1\n[limits]\na = 1\n", 1, "unknown key \"z\": use a flag of --help that takes a value"),
        ("workers = 1\nworkers = 1\n", 2, "duplicate key"),
        (
            "deny = [\n  \"192.0.2.0/24\",\n  \"here\",\n]\n",
            3,
            "invalid value \"here\" for deny: use an address or a network, as",
        ),
        ("max-age = true\n", 1, "invalid value for max-age: use a text or a number, as for --max-age"),
        ("linger-timeout = 5\n", 1, "invalid value \"5\" for linger-timeout: use 0s to 24 days, as 10s, 5m or 2h"),
        ("workers = 2\nidle-timeout = \"100ms\"\nline-timeout = \"1s\"", 2, "for idle-timeout: use 1s to 24 days, "),
        ("memory-budget = \"64KiB\"\n", 1, "use 1MiB or more, as 65536, 64KiB or 1MiB, or off"),
        // What only the library can say.
        ("workers = 2\noutbox-low = \"64KiB\"\n", 2, "use a low one under the high one"),
        (
            "workers = 2\nexempt = [\"off\", \"192.0.2.0/24\"]\n",
            2,
            "invalid exempt: off stands beside other values: use either",
        ),
        ("idle-timeout = \"soon\"\n", 1, "use 1s to 24 days, as 10s, 5m or 2h, or off"),
        ("# nothing\noutbox-high = \"64KB of it\"\n", 2, "use 0 to 1GiB, as 65536, 64KiB or 1MiB"),
        ("max-sessions = 0\n", 1, "invalid value \"0\" for max-sessions: use 1 or more, or auto"),
        ("accept-rate = \"0/5\"\n", 1, "use 1 or more, as 100, with a burst as 100/500, or off"),
        ("deny = [\"192.0.2.0/24\", \"localhost\"]\n", 1, "invalid value \"localhost\" for deny: use"),
        ("source-prefix = \"33,64\"\n", 1, "use 0 to 32 for IPv4 and 0 to 128 for IPv6, as 32,64"),
        ("over-limit = \"shrug\"\n", 1, "use wait or refuse"),
        ("keepalive = \"500ms\"\n", 1, "use 1s to 9h"),
        ("send-buffer = 1\n", 1, "use 4KiB to 1GiB, as"),
        ("receive-buffer = \"8GiB\"\n", 1, "use 4KiB to 1GiB, as"),
        ("workers = [1]\n", 1, "a text or a number"),
        ("\ndeny = [\"192.0.2.7\", true]\n", 2, "a text or a number, as for --deny, or a list of these"),
        ("listen = []\n", 1, "invalid listen: use an address and a port"),
        ("listen = \"127.0.0.1\"\n", 1, "the port is missing"),
        ("\nworkers 3\n", 2, ""),
    ] {
        let file = File::new("bad", text);
        let (code, stderr) = check(&["--config", file.path()]);
        assert_eq!(code, Some(2), "{text:?}: {stderr}");
        let begin = format!("rot13d: {}:{line}: ", file.path());
        assert!(stderr.starts_with(&begin) && stderr.contains(words), "{text:?}: {begin}...{words}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        // Without --check-config it is the same.
        let mut command = rot13d();
        command.args(["--config", file.path()]);
        let output = finish(command, b"");
        assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (code, stderr));
    }
}

#[test]
fn invalid_settings_are_said_with_code_2_wherever_they_stand() {
    for (arguments, words) in [
        (&["--outbox-high", "1KiB"][..], "use a low one under the high one"),
        (&["--idle-timeout", "100ms"], "'--idle-timeout <TIME>': use 1s to 24 days, as 10s, 5m or 2h, or off"),
        (&["--memory-budget", "1KiB"], "'--memory-budget <SIZE>': use 1MiB or more, "),
        (&["--outbox-high", "4GiB"], "use 0 to 1GiB"),
        (&["--drain-timeout", "25days"], "use 0s to 24 days"),
        (&["--linger-timeout", "1year"], "use 0s to 24 days"),
        (
            &["--exempt", "off", "--exempt", "192.0.2.0/24"],
            "rot13d: invalid exempt: off stands beside other values: use either",
        ),
        (
            &["--deny", "192.0.2.0/24", "--deny", "off"],
            "rot13d: invalid deny: off stands beside other values: use either",
        ),
        (&["--deny", "::ffff:10.0.0.0/8"], "write a network of IPv4 as 10.0.0.0/8"),
        (
            &["--config", "no-such-file.toml"],
            "cannot read no-such-file.toml: no such file or directory: check --config\n",
        ),
        (&["--refuse-line", &"x".repeat(2000)], "the refuse line has 2002 bytes: use at most 1024"),
        (
            &["--deny", "everybody"],
            "use an address or a network, as 192.0.2.0/24 or 2001:db8::/32, or one of unix, uid:1000 and gid:100, or off",
        ),
    ] {
        let (code, stderr) = check(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(words), "{arguments:?} should say {words:?}: {stderr}");
    }
    let good = ["--idle-timeout", "off", "--accept-rate", "100/500", "--max-line", "64KiB", "--source-prefix", "24,48"];
    assert_eq!(check(&good), (Some(0), String::new()));
    let edges =
        ["--outbox-high", "1GiB", "--linger-timeout", "0s", "--max-age", "24days", "--deny", "::ffff:10.0.0.0/104"];
    assert_eq!(check(&edges), (Some(0), String::new()));
}

#[test]
fn a_line_is_named_only_if_the_file_is_to_blame() {
    // Neither is wrong in itself: the file is to blame only if it says one of them.
    let file = File::new("blame", "workers = 2\noutbox-high = \"8KiB\"\n");
    let refuse = ["--refuse-line", &"x".repeat(1023)];
    let (code, stderr) = check(&[&["--config", file.path(), "--outbox-low", "1KiB"], &refuse[..]].concat());
    assert_eq!((code, stderr.as_str()), (Some(2), "rot13d: the refuse line has 1025 bytes: use at most 1024\n"));
    // One half is typed, the other one in the file.
    let (code, stderr) = check(&["--config", file.path(), "--outbox-low", "9KiB"]);
    let begin = format!("rot13d: {}:2: outbox watermarks are low 9216 and high 8192: ", file.path());
    assert!(code == Some(2) && stderr.starts_with(&begin), "{stderr}");
    assert_eq!(check(&["--config", file.path(), "--outbox-low", "1KiB"]), (Some(0), String::new()));
    // A flag overrules also what would be invalid together.
    file.write("outbox-low = \"64KiB\"\n");
    assert_eq!(check(&["--config", file.path(), "--outbox-low", "1KiB"]), (Some(0), String::new()));
}

#[test]
fn what_is_typed_overrules_the_file() {
    let file = File::new("typed", "over-limit = \"refuse\"\nrefuse-line = \"from the file\"\nmax-sessions = 1\n");
    let server = Server::start(&["--config", file.path(), "--refuse-line", "typed"]);
    let mut served = server.connect();
    greet(&mut served);
    assert_eq!(rest(&mut server.connect()), b"typed\r\n");
}

#[test]
fn a_hangup_reads_the_file_again_and_a_bad_one_changes_nothing() {
    let file = File::new("hangup", "over-limit = \"refuse\"\nmax-sessions = 1\n");
    let server = Server::start(&["--config", file.path(), "--workers", "2"]);
    let mut served = server.connect();
    greet(&mut served);
    let refused = b"too many connections, try again later\r\n";
    assert_eq!(rest(&mut server.connect()), refused);

    file.write("over-limit = \"refuse\"\nmax-sessions = 2\nno-such-key = 1\n");
    server.signal(Signal::HUP);
    let line = server.log_line("SIGHUP: nothing is changed: ");
    assert!(line.contains(&format!("{}:3: unknown key \"no-such-key\"", file.path())), "{line}");
    assert_eq!(rest(&mut server.connect()), refused);

    file.write("over-limit = \"refuse\"\nmax-sessions = 2\nworkers = 3\n");
    server.signal(Signal::HUP);
    server.log_line("SIGHUP: changed: max-sessions 1 -> 2");
    server.log_line("is in force; 0 sessions end by it");
    // What is typed overrules the file now as before, so nothing differs there.
    assert_eq!(server.log().iter().filter(|line| line.contains("only a restart")).count(), 0, "{:#?}", server.log());
    let mut second = server.connect();
    greet(&mut second);
    greet(&mut served);
    assert_eq!(rest(&mut server.connect()), refused);

    fs::remove_file(file.path()).unwrap();
    server.signal(Signal::HUP);
    server.log_line(&format!("SIGHUP: nothing is changed: cannot read {}: ", file.path()));
    assert_eq!(rest(&mut server.connect()), refused);

    file.write("deny = \"127.0.0.0/8\"\nbacklog = 9\ndrain-timeout = \"3s\"\n");
    server.signal(Signal::HUP);
    let line = server.log_line(", deny off -> 127.0.0.0/8, drain-timeout");
    assert!(line.contains("SIGHUP: changed: max-sessions 2 -> "), "{line}");
    server.log_line("is in force; 2 sessions end by it");
    server.log_line("SIGHUP: backlog differs; only a restart changes it");
    assert_eq!(rest(&mut served), b"");
    assert_eq!(rest(&mut second), b"");
}

#[test]
fn what_needs_a_restart_is_said_at_each_hangup_until_it_is_as_it_runs() {
    let file = File::new("restart", "");
    let server = Server::start(&["--config", file.path(), "--workers", "1"]);
    let hangups = |count, text: &str| {
        file.write(text);
        server.signal(Signal::HUP);
        server.log_lines("is in force", count);
        server.log().iter().filter(|line| line.contains("differs; only a restart changes it")).count()
    };
    let different = "listen = \"127.0.0.1:1\"\nworkers = 9\nmax-line = 4\noverlong = \"split\"\nbacklog = 8\n";
    // What is typed overrules the file: listen and workers are as they run.
    assert_eq!(hangups(1, different), 3, "{:#?}", server.log());
    assert_eq!(support::converse(server.address, b"Hello\n"), b"Uryyb\n", "max-line is as it was");
    assert_eq!(hangups(2, different), 6, "{:#?}", server.log());
    assert_eq!(hangups(3, "max-line = \"16KiB\"\noverlong = \"pieces\"\n"), 6, "{:#?}", server.log());
    assert_eq!(hangups(4, ""), 6, "{:#?}", server.log());
}

#[test]
fn a_drain_is_as_the_file_says_when_it_begins() {
    let file = File::new("drain", "drain-timeout = \"1h\"\ndrain-goodbye = \"see you\"\n");
    let reload = |server: &Server, text: &str| {
        file.write(text);
        server.signal(Signal::HUP);
        server.log_line("is in force");
    };
    let mut server = Server::start(&["--config", file.path(), "--linger-timeout", "1h"]);
    let mut polite = server.connect();
    greet(&mut polite);
    reload(&server, "drain-timeout = \"2h\"\ndrain-goodbye = \"back in a minute\"\n");
    server.signal(Signal::TERM);
    assert_eq!(rest(&mut polite), b"back in a minute\r\n");
    drop(polite);
    let (code, log) = server.wait();
    assert_eq!(code, Some(0));
    assert!(log.iter().any(|line| line.contains("drained: 1 session ended, 0 cut")), "{log:#?}");

    // One that does not end, of whom only the deadline can tell.
    let mut server = Server::start(&["--config", file.path()]);
    let mut stuck = server.connect();
    support::offer(&mut stuck, &[b"x".repeat(999), b"\n".to_vec()].concat().repeat(64), usize::MAX);
    reload(&server, "drain-timeout = \"700ms\"\n");
    server.signal(Signal::TERM);
    let (code, log) = server.wait();
    assert_eq!(code, Some(0));
    assert!(log.iter().any(|line| line.contains("drained: 0 sessions ended, 1 cut")), "{log:#?}");
}

#[test]
fn a_drain_goes_on_while_counters_are_asked_for_and_the_file_is_read_again() {
    let file = File::new("draining", "drain-timeout = \"1h\"\n");
    let mut server = Server::start(&["--config", file.path()]);
    let mut stuck = server.connect();
    support::offer(&mut stuck, &[b"x".repeat(999), b"\n".to_vec()].concat().repeat(64), usize::MAX);
    server.signal(Signal::TERM);
    server.log_line("SIGTERM: draining");
    server.signal(Signal::USR1);
    server.log_line("counters: 1 live, 1 opened, closed: none; ");
    server.signal(Signal::HUP);
    server.log_line("SIGHUP: nothing is changed: the server drains");
    server.signal(Signal::INT);
    let (code, log) = server.wait();
    assert_eq!(code, Some(0));
    assert!(log.iter().any(|line| line.contains("SIGINT again: aborting")), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("is in force")), "{log:#?}");
}

#[test]
fn a_file_that_cannot_be_read_at_once_stops_nothing() {
    let file = File::new("pipe", "over-limit = \"refuse\"\nmax-sessions = 2\n");
    let mut server = Server::start(&["--config", file.path(), "--workers", "1", "--drain-timeout", "1h"]);
    let mut peer = server.connect();
    greet(&mut peer);
    // Whoever opens a named pipe to read it waits until somebody opens it to write.
    let pipe = File(file.0.with_extension("fifo"));
    let mut mkfifo = Command::new("mkfifo");
    mkfifo.arg(pipe.path());
    assert!(finish(mkfifo, b"").status.success());
    let settings = File(file.0.with_extension("saved"));
    fs::rename(file.path(), settings.path()).unwrap();
    fs::rename(pipe.path(), file.path()).unwrap();

    let readers = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", server.id())).unwrap().flatten();
        // One that has ended has no name any more.
        tasks
            .filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "rot13d|file\n"))
            .count()
    };
    let swap = |from: &File, to: &File| fs::rename(from.path(), to.path()).unwrap();
    let too_late = format!("SIGHUP: nothing is changed: {} could not be read within 5s", file.path());
    server.signal(Signal::HUP);
    eventually("the file to be read", || (readers() == 1).then_some(()));
    server.signal(Signal::HUP);
    server.log_line("is still being read");
    greet(&mut peer);
    greet(&mut server.connect());
    assert_eq!(readers(), 1, "one thread reads, whoever asks for more");

    // Who asked meanwhile gets the file as it is by then, though the first reader hangs on.
    swap(&file, &pipe);
    settings.write("over-limit = \"refuse\"\nmax-sessions = 1\n");
    swap(&settings, &file);
    server.log_line(&too_late);
    server.log_line("is in force; 0 sessions end by it");
    assert_eq!(rest(&mut server.connect()), b"too many connections, try again later\r\n");
    eventually("the second reader to end, and the first to wait on", || (readers() == 1).then_some(()));

    // No more than three hang, whatever is asked.
    swap(&file, &settings);
    swap(&pipe, &file);
    for late in 2..=3 {
        server.signal(Signal::HUP);
        server.log_lines(&too_late, late);
    }
    server.signal(Signal::HUP);
    server.log_line("SIGHUP: nothing is changed: 3 earlier reads of ");
    assert_eq!(readers(), 3);
    greet(&mut peer);
    // What comes too late is not taken.
    file.write("max-sessions = 3\n");
    eventually("the readers to end", || (readers() == 0).then_some(()));
    swap(&file, &pipe);
    swap(&settings, &file);
    server.signal(Signal::HUP);
    server.log_lines("is in force; 0 sessions end by it", 2);
    assert_eq!(rest(&mut server.connect()), b"too many connections, try again later\r\n");

    // Nor does the end of the process wait for it.
    fs::rename(pipe.path(), file.path()).unwrap();
    server.signal(Signal::HUP);
    eventually("the file to be read", || (readers() == 1).then_some(()));
    server.signal(Signal::TERM);
    server.log_line("SIGHUP: nothing is changed: the server drains");
    assert_eq!(rest(&mut peer), b"");
    drop(peer);
    assert_eq!(server.wait().0, Some(0));
}

#[test]
fn a_file_without_end_or_that_is_none_is_refused() {
    for (path, says) in
        [("/dev/zero", "it is larger than 1048576 bytes"), ("/", "is a directory: check"), ("/bin/sh", "no UTF-8")]
    {
        let (code, stderr) = check(&["--config", path]);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.starts_with(&format!("rot13d: cannot read {path}: ")) && stderr.contains(says), "{stderr}");
    }
}

#[test]
fn sessions_fit_the_descriptors_also_after_a_hangup() {
    // 32 for the process, 8 for its worker, 4 for its listener and as many for its console, an eighth of all for refusals.
    const ROOM: usize = 60 - 32 - 8 - 4 - 4 - 60 / 8;
    let file = File::new("room", "over-limit = \"refuse\"\nmax-sessions = 1\nworkers = 1\n");
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n 60; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_rot13d")])
        .args(["--listen", "127.0.0.1:0", "--config", file.path()])
        .env_remove("RUST_LOG")
        .env_remove("RUST_LOG_STYLE");
    let server = Server::spawn(command);
    let refused = b"too many connections, try again later\r\n";
    let mut served = vec![server.connect()];
    greet(&mut served[0]);
    assert_eq!(rest(&mut server.connect()), refused);
    // It goes on with one worker, so that is what room is made for.
    file.write("over-limit = \"refuse\"\nworkers = 3\n");
    server.signal(Signal::HUP);
    server.log_line("is in force");
    for _ in 1..ROOM {
        let mut stream = server.connect();
        greet(&mut stream);
        served.push(stream);
    }
    assert_eq!(rest(&mut server.connect()), refused);
    file.write("max-sessions = 1000\nworkers = 3\n");
    server.signal(Signal::HUP);
    server.log_line(&format!("max-sessions 1000 is more than the descriptor limit has room for ({ROOM})"));
}

#[test]
fn a_hangup_without_a_file_does_nothing_but_say_so() {
    let server = Server::start(&[]);
    server.signal(Signal::HUP);
    server.log_line("SIGHUP: there is no file to read again: start with --config");
    greet(&mut server.connect());
}

#[test]
fn the_counters_are_logged_when_they_are_asked_for() {
    let server = Server::start(&["--workers", "2", "--max-sessions-per-source", "2", "--exempt", "off", "-v"]);
    let mut streams: Vec<_> = (0..2).map(|_| server.connect()).collect();
    streams.iter_mut().for_each(greet);
    rest(&mut server.connect());
    drop(streams.pop());
    server.log_line(" closed: peer-eof");
    server.signal(Signal::USR1);
    let line = server.log_line("counters: ");
    for part in [
        "counters: 1 live, 2 opened, closed: peer-eof 1; refused: max-sessions-per-source 1; ",
        "2 lines and 12 bytes in, 12 bytes out, 0 to be sent, 0 unsent, 0 undelivered; 0 turns cut, ",
        ", 0 times held back by a rate, 0 events lost",
    ] {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn a_drain_says_goodbye_and_is_spread_over_time() {
    // One a second: the last would hear of it later than anybody has the patience to wait here.
    let drain = ["--drain-goodbye", "back in a minute", "--drain-spread", "100s", "--drain-timeout", "200s"];
    let mut server = Server::start(&[&drain[..], &["--linger-timeout", "1h", "--workers", "1", "-v"]].concat());
    let mut streams: Vec<_> = (0..100).map(|_| server.connect()).collect();
    streams.iter_mut().for_each(greet);
    server.signal(Signal::TERM);
    assert_eq!(rest(&mut streams.remove(0)), b"back in a minute\r\n");
    server.log_line(" closed: drained, ");
    // It says so behind the last answer, so the others are served until it is their turn.
    greet(streams.last_mut().unwrap());
    server.signal(Signal::TERM);
    let (code, log) = server.wait();
    assert_eq!(code, Some(0));
    let drained = log.iter().find_map(|line| line.split_once(" drained: ")).expect("what became of them").1;
    let [ended, cut] = [0, 3].map(|word| drained.split(' ').nth(word).unwrap().parse::<usize>().unwrap());
    assert!(ended >= 1 && cut >= 1 && ended + cut == 100, "{ended} ended, {cut} cut");
}

/// Sockets that a process holds, according to the kernel.
fn sockets(id: u32) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{id}/fd")).unwrap();
    let is_socket = |target: PathBuf| target.to_string_lossy().starts_with("socket:");
    descriptors
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|target| is_socket(target.clone()))
        .count()
}

#[test]
fn the_kernel_never_sees_more_sessions_than_the_limit() {
    const LIMIT: usize = 100;
    let command = |policy| ["--max-sessions", "100", "--workers", "2", "--over-limit", policy];
    for policy in ["wait", "refuse"] {
        let server = Server::start(&command(policy));
        // The listener, its duplicates, and what the runtime has of its own.
        let before = sockets(server.id());
        let mut streams: Vec<_> = (0..500).map(|_| connect(server.address)).collect();
        let mut most = 0;
        for stream in &mut streams {
            // Those that are refused may be gone already.
            let _ = stream.write_all(b"Hello\n");
            most = most.max(sockets(server.id()) - before);
        }
        let mut served = 0;
        let mut kept = Vec::new();
        for mut stream in streams {
            let mut first = [0];
            match std::io::Read::read(&mut stream, &mut first) {
                Ok(1) if first == *b"U" => {
                    served += 1;
                    kept.push(stream);
                }
                Ok(1) => assert_eq!(first, *b"t", "the refuse line"),
                other => panic!("neither served nor refused: {other:?}"),
            }
            most = most.max(sockets(server.id()) - before);
            // Those who wait come when all places were taken; where others are refused nobody makes room.
            if policy == "wait" && kept.len() == LIMIT {
                kept.clear();
            }
        }
        // Refusals hold up to 256 more while they hear why.
        let bound = if policy == "wait" { LIMIT } else { LIMIT + 256 };
        assert!((LIMIT..=bound).contains(&most), "{policy}: {most} sockets");
        assert_eq!(served, if policy == "wait" { 500 } else { LIMIT }, "{policy}");
    }
}

#[test]
fn a_command_line_that_is_checked_binds_nothing() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rot13d"));
    // Nobody may listen there, so it would fail.
    command.args(["--check-config", "--listen", "192.0.2.1:1"]);
    assert_eq!(finish(command, b"").status.code(), Some(0));
}
