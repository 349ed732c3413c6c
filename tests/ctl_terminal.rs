//! `rot13d ctl` at a terminal: a prompt with history and completion, and `top` on the whole screen, which leaves the terminal
//! as it was.
//!
//! Not here: single commands and scripts (`ctl`).

#[path = "support/console.rs"]
mod console;
mod support;

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    process::Command,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};

use console::{FakeConsole, Folder, Peer, ctl_command};
use nix::sys::{signal::Signal, wait::WaitStatus};
use rexpect::session::{PtySession, spawn_command};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};
use support::{PATIENCE, Server, eventually, greet, rest};

const PROMPT: &str = "rot13d> ";

/// `rot13d ctl` in a terminal of its own.
struct Terminal {
    session: PtySession,
    /// The terminal itself, which says how it is set.
    terminal: File,
}

impl Terminal {
    fn new(mut command: Command, folder: &Folder) -> Self {
        command.env("XDG_STATE_HOME", folder.path("state")).env("TERM", "xterm");
        let session = spawn_command(command, Some(PATIENCE.as_millis() as u64)).unwrap();
        let terminal = session.process().get_file_handle().unwrap();
        Self { session, terminal }
    }

    #[track_caller]
    fn expect(&mut self, text: &str) -> String {
        self.session.exp_string(text).unwrap_or_else(|error| panic!("{text:?} did not come: {error}"))
    }

    fn send(&mut self, text: &str) {
        self.session.send(text).unwrap();
        self.session.flush().unwrap();
    }

    /// Types a command at a prompt.
    #[track_caller]
    fn command(&mut self, text: &str) {
        self.expect(PROMPT);
        self.send(text);
        self.send("\r");
    }

    fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.terminal, size).unwrap();
    }

    fn settings(&self) -> Termios {
        tcgetattr(&self.terminal).unwrap()
    }

    /// Waits for the end; returns the exit code.
    #[track_caller]
    fn end(&mut self) -> i32 {
        self.session.exp_eof().unwrap();
        match self.session.process().wait().unwrap() {
            WaitStatus::Exited(_, code) => code,
            other => panic!("{other:?}"),
        }
    }
}

fn same(before: &Termios, after: &Termios) -> bool {
    (before.input_modes, before.output_modes, before.control_modes, before.local_modes)
        == (after.input_modes, after.output_modes, after.control_modes, after.local_modes)
}

#[test]
fn a_person_finds_a_session_and_tells_it_goodbye() {
    let folder = Folder::new("ctl-person");
    let server = Server::start(&["--console", &folder.console()]);
    let mut peer = server.connect();
    greet(&mut peer);
    let mut terminal = Terminal::new(ctl_command(&["--connect", &folder.console()]), &folder);
    terminal.expect(&format!("Connected to {}.", folder.console()));
    terminal.command("help kick");
    terminal.expect("Ends sessions politely");
    terminal.command("count peer=127.0.0.1");
    terminal.expect("1\r\n");
    terminal.command("lst");
    terminal.expect("did you mean list?");
    // The number of the one session is completed.
    terminal.expect(PROMPT);
    terminal.send("kick #\t");
    terminal.expect("kick #1 ");
    terminal.send("-- bye\r");
    terminal.expect("sessions");
    assert_eq!(String::from_utf8(rest(&mut peer)).unwrap(), "bye\r\n");
    terminal.expect(PROMPT);
    terminal.send("\x04");
    assert_eq!(terminal.end(), 0);
}

/// A console with a few commands and a listener.
fn some(line: &str, peer: &mut Peer) -> bool {
    match line {
        "" => true,
        "json help" => peer.say(
            "{\"command\":\"kick\",\"words\":\"FILTER... [dry-run] [-- GOODBYE]\"}\n\
             {\"command\":\"pause\",\"words\":\"LISTENER\"}\n{\"command\":\"watch\",\"words\":\"[KIND...]\"}\n\n",
        ),
        "json listeners" => peer.say("{\"id\":\"public\"}\n\n"),
        "json watch" => {
            peer.say("{\"event\":\"opened\",\"id\":7}\n");
            peer.hear();
            peer.say("\n")
        }
        "json die" => false,
        line => peer.say(&format!("{{\"heard\":\"{line}\"}}\n\n")),
    }
}

#[test]
fn commands_filters_and_listeners_are_completed() {
    let console = FakeConsole::new("ctl-complete", some);
    let mut terminal = Terminal::new(ctl_command(&["--connect", &console.address()]), &console.folder);
    terminal.expect(PROMPT);
    terminal.send("pa\tpu\t\r");
    terminal.expect("json pause public");
    terminal.expect(PROMPT);
    terminal.send("k\tlis\tp\td\t\r");
    terminal.expect("json kick listener=public dry-run");
    terminal.expect(PROMPT);
    // Of several all are shown.
    terminal.send("kick s\t\x15kick \t");
    let shown = terminal.expect("state=\r\n");
    for word in ["age>", "all", "dry-run", "idle>", "listener=", "outbox>", "peer="] {
        assert!(shown.contains(word), "{shown}");
    }
    terminal.send("\x15\x04");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn commands_are_remembered_where_nobody_else_reads_them() {
    let console = FakeConsole::new("ctl-history", some);
    let connect = || ctl_command(&["--connect", &console.address()]);
    let mut terminal = Terminal::new(connect(), &console.folder);
    for command in ["first", "second", "token secret"] {
        terminal.command(command);
        terminal.expect(&format!("json {command}"));
    }
    terminal.command("quit");
    assert_eq!(terminal.end(), 0);
    let file = console.folder.path("state/rot13d/ctl_history");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("second\n") && !text.contains("secret"), "{text}");

    let mut terminal = Terminal::new(connect(), &console.folder);
    terminal.expect(PROMPT);
    // quit, second, first
    terminal.send("\x1b[A\x1b[A\x1b[A\r");
    terminal.expect("json first");
    terminal.expect(PROMPT);
    terminal.send("\x04");
    assert_eq!(terminal.end(), 0);

    // Without a home there is no file, and the prompt is there all the same.
    let mut command = connect();
    command.env_remove("HOME");
    let session = {
        command.env_remove("XDG_STATE_HOME").env("TERM", "xterm");
        spawn_command(command, Some(PATIENCE.as_millis() as u64)).unwrap()
    };
    let file = session.process().get_file_handle().unwrap();
    let mut terminal = Terminal { session, terminal: file };
    terminal.command("third");
    terminal.expect("json third");
    terminal.command("quit");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn ctrl_c_and_enter_end_a_watch_and_leave_the_prompt() {
    let console = FakeConsole::new("ctl-watch", some);
    let mut terminal = Terminal::new(ctl_command(&["--connect", &console.address()]), &console.folder);
    for end in ["\x03", "\r"] {
        terminal.command("watch");
        terminal.expect("opened");
        terminal.send(end);
        terminal.command("after");
        terminal.expect("json after");
    }
    terminal.command("quit");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn several_lines_at_once_are_no_command() {
    let console = FakeConsole::new("ctl-paste", some);
    let mut terminal = Terminal::new(ctl_command(&["--connect", &console.address()]), &console.folder);
    terminal.expect(PROMPT);
    // As a terminal sends what is pasted.
    terminal.send("\x1b[200~count\nkick all\x1b[201~\r");
    terminal.expect("a command is one line: nothing is done");
    terminal.command("after");
    let answer = terminal.expect("json after");
    assert!(!answer.contains("kick"), "{answer}");
    terminal.command("quit");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn a_lost_connection_is_said_and_made_again() {
    let folder = Folder::new("ctl-lost");
    let start = || Server::start(&["--console", &folder.console()]);
    let server = start();
    let mut terminal = Terminal::new(ctl_command(&["--connect", &folder.console()]), &folder);
    terminal.command("count");
    terminal.expect("sessions");
    terminal.expect(PROMPT);
    drop(server);
    terminal.send("count\r");
    terminal.expect("the server of that socket has ended");
    terminal.expect(PROMPT);
    let _server = start();
    terminal.send("count\r");
    terminal.expect(&format!("The connection was lost; connected again to {}.", folder.console()));
    terminal.expect("sessions");
    terminal.command("quit");
    assert_eq!(terminal.end(), 0);

    let console = FakeConsole::new("ctl-lost-meanwhile", some);
    let mut terminal = Terminal::new(ctl_command(&["--connect", &console.address()]), &console.folder);
    terminal.command("die");
    terminal.expect("the console closed the connection");
    terminal.command("after");
    terminal.expect("json after");
    terminal.command("quit");
    assert_eq!(terminal.end(), 0);
}

/// Says how top is asked for, in a block whenever a line comes, and before: one session more each time.
fn top(line: &str, peer: &mut Peer) -> bool {
    if line.is_empty() {
        return true;
    }
    if line.ends_with("sort lines") {
        return peer.say("{\"error\":\"no order of mine\"}\n\n");
    }
    let mut rows = Vec::new();
    for id in 1..=99 {
        rows.push(format!("{{\"id\":{id},\"peer\":\"peer-{id}-end\",\"outbox_bytes\":{}}}", id * 1024));
    }
    while !peer.is_told() {
        if !peer.say(&format!("{{\"asked\":\"{line}\",\"sessions\":[{}]}}\n", rows.join(","))) {
            return false;
        }
        support::measure_for(std::time::Duration::from_millis(50));
    }
    match peer.hear() {
        Some(line) if line.is_empty() => peer.say("\n"),
        _ => false,
    }
}

const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

fn topped(console: &FakeConsole) -> (Terminal, Termios) {
    // The settings that each terminal begins with, from one whose program changes none. Its echo is turned off by whoever made it.
    let untouched = Terminal::new(Command::new("cat"), &console.folder);
    let before = eventually("a terminal without an echo", || {
        let settings = untouched.settings();
        (!settings.local_modes.contains(LocalModes::ECHO)).then_some(settings)
    });
    let mut terminal =
        Terminal::new(ctl_command(&["--connect", &console.address(), "--color", "never", "top"]), &console.folder);
    terminal.resize(60, 10);
    terminal.expect(ENTER);
    terminal.expect("peer-1-end");
    (terminal, before)
}

#[test]
fn top_fills_the_terminal_and_leaves_it_as_it_was() {
    let console = FakeConsole::new("ctl-top", top);
    let (mut terminal, before) = topped(&console);
    terminal.expect("1 to 6 of 99");
    assert!(!same(&before, &terminal.settings()), "keys come one by one");
    terminal.resize(60, 20);
    terminal.expect("1 to 16 of 99");
    terminal.expect("peer-16-end");
    terminal.send("\x1b[B");
    terminal.expect("2 to 17 of 99");
    terminal.send("\x1b[6~");
    terminal.expect("18 to 33 of 99");
    terminal.send("\x1b[F");
    terminal.expect("84 to 99 of 99");
    terminal.send("\x1b[H");
    terminal.expect("1 to 16 of 99");
    terminal.send("p");
    terminal.expect("paused");
    terminal.send("p");
    terminal.send("s");
    terminal.expect("asked json top limit 500 sort bytes-out");
    // This console knows no order by lines: it says so, and the one before stays.
    terminal.send("s");
    terminal.expect("no order of mine");
    terminal.expect("by bytes-out");
    terminal.send("q");
    terminal.expect(LEAVE);
    assert_eq!(terminal.end(), 0);
    assert!(same(&before, &terminal.settings()));
    let asked: Vec<_> = console.heard().into_iter().filter(|line| !line.is_empty()).collect();
    let orders = ["", " sort bytes-out", " sort lines", " sort bytes-out"];
    assert_eq!(asked, orders.map(|order| format!("json top limit 500{order}")));
}

#[test]
fn top_leaves_the_terminal_as_it_was_however_it_ends() {
    let console = FakeConsole::new("ctl-top-ends", top);
    for (end, code) in [("\x03", 0), ("INT", 0), ("TERM", 143)] {
        let (mut terminal, before) = topped(&console);
        match end {
            "INT" => terminal.session.process_mut().signal(Signal::SIGINT).unwrap(),
            "TERM" => terminal.session.process_mut().signal(Signal::SIGTERM).unwrap(),
            key => terminal.send(key),
        }
        terminal.expect(LEAVE);
        assert_eq!(terminal.end(), code, "{end:?}");
        assert!(same(&before, &terminal.settings()), "{end:?}");
    }
    // Its server ends, once the screen is seen.
    static IS_SEEN: AtomicBool = AtomicBool::new(false);
    let console = FakeConsole::new("ctl-top-lost", |line, peer| {
        assert!(peer.say("{\"sessions\":[{\"id\":1,\"peer\":\"peer-1-end\"}]}\n"), "{line}");
        eventually("the screen to be seen", || IS_SEEN.load(SeqCst).then_some(()));
        false
    });
    let (mut terminal, before) = topped(&console);
    IS_SEEN.store(true, SeqCst);
    terminal.expect(LEAVE);
    terminal.expect("the console closed the connection");
    assert_eq!(terminal.end(), 1);
    assert!(same(&before, &terminal.settings()));
}

#[test]
fn top_is_drawn_anew_when_the_terminal_gets_another_size() {
    // Nothing comes by which it would be drawn.
    let console = FakeConsole::new("ctl-top-size", |line, peer| {
        peer.say("{\"sessions\":[{\"id\":1,\"peer\":\"peer-1-end\"},{\"id\":2},{\"id\":3}]}\n");
        peer.hear();
        assert_eq!(line, "json top limit 500");
        peer.say("\n")
    });
    let (mut terminal, _) = topped(&console);
    terminal.resize(60, 6);
    terminal.expect("1 to 2 of 3");
    terminal.send("q");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn top_at_a_prompt_comes_back_to_it() {
    let console = FakeConsole::new("ctl-top-prompt", top);
    let mut terminal = Terminal::new(ctl_command(&["--connect", &console.address()]), &console.folder);
    terminal.command("top");
    terminal.expect("peer-1-end");
    terminal.send("q");
    terminal.expect(LEAVE);
    terminal.expect(PROMPT);
    terminal.send("\x04");
    assert_eq!(terminal.end(), 0);
}
