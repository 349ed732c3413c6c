//! Progress is shown on a terminal, of long runs, and nowhere else.

mod support;

use std::{
    fs,
    io::Write,
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    thread,
};

use rexpect::session::{PtySession, spawn_command};
use support::{command, folder};

/// Longer than any machine takes. Unit: milliseconds.
const PATIENCE: u64 = 30_000;

/// A service that says what this test tells it.
struct Service(TcpListener);

impl Service {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn address(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    fn accept(&self) -> TcpStream {
        self.0.accept().unwrap().0
    }
}

fn say(mut peer: TcpStream, text: &str) {
    peer.write_all(text.as_bytes()).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
}

fn scripts(name: &str) -> std::path::PathBuf {
    let folder = folder(name);
    fs::write(folder.join("slow.session"), "timeout 10m\n< go\n").unwrap();
    folder
}

fn terminal(folder: &Path, service: &Service, variables: &[(&str, &str)]) -> PtySession {
    let mut command = command(folder, &["run", "slow.session", "--repeat", "3", "--connect", &service.address()]);
    command.env("TERM", "xterm").env_remove("CI").env_remove("NO_COLOR");
    variables.iter().for_each(|(name, value)| {
        command.env(name, value);
    });
    spawn_command(command, Some(PATIENCE)).unwrap()
}

#[test]
fn one_line_is_written_anew_and_results_stand_above_it() {
    let service = Service::new();
    let mut terminal = terminal(&scripts("progress"), &service, &[]);
    let first = service.accept();
    terminal.exp_string("\r\u{1b}[K0 of 3, 0:0").unwrap();
    terminal.exp_string(": slow.session #1").unwrap();
    say(first, "no\n");
    // The line goes, the result comes.
    terminal.exp_string("\r\u{1b}[Knot ok slow.session #1\r\n").unwrap();
    let second = service.accept();
    terminal.exp_string("\r\u{1b}[K1 of 3, 1 failing, 0:0").unwrap();
    terminal.exp_string(": slow.session #2").unwrap();
    say(second, "go\n");
    terminal.exp_string("\r\u{1b}[Kok slow.session #2\r\n").unwrap();
    say(service.accept(), "go\n");
    terminal.exp_string("ok slow.session #3\r\n").unwrap();
    let rest = terminal.exp_eof().unwrap();
    assert!(rest.ends_with("2 of 3 hold\r\n"), "{rest:?}");
    // Nothing of it is left on the screen.
    let last = rest.rsplit("\u{1b}[K").next().unwrap();
    assert!(!last.contains(" of 3, "), "{rest:?}");
}

/// The control: a run on a terminal, begun later than the others, has shown progress and drawn it anew.
fn until_another_shows_it() {
    let service = Service::new();
    let mut control = terminal(&scripts("progress_control"), &service, &[]);
    let first = service.accept();
    (0..8).for_each(|_| drop(control.exp_string("\r\u{1b}[K0 of 3, 0:").unwrap()));
    say(first, "go\n");
    (1..3).for_each(|_| say(service.accept(), "go\n"));
    control.exp_eof().unwrap();
}

#[test]
fn no_log_has_it() {
    let mut others = [("CI", "true"), ("TERM", "dumb")].map(|(name, value)| {
        let service = Service::new();
        let terminal = terminal(&scripts(&format!("progress_{name}")), &service, &[(name, value)]);
        (service.accept(), service, terminal)
    });
    // Standard error is a pipe.
    let service = Service::new();
    let folder = scripts("progress_pipe");
    let mut command = command(&folder, &["run", "slow.session", "--connect", &service.address()]);
    let run = thread::spawn(move || command.env("TERM", "xterm").env_remove("CI").output().unwrap());
    let peer = service.accept();
    until_another_shows_it();
    say(peer, "go\n");
    let output = run.join().unwrap();
    assert_eq!(support::stdout(&output), "ok slow.session\n1 of 1 hold\n");
    assert_eq!(support::stderr(&output), "");
    for (first, service, terminal) in &mut others {
        say(first.try_clone().unwrap(), "go\n");
        (1..3).for_each(|_| say(service.accept(), "go\n"));
        let all = terminal.exp_eof().unwrap();
        assert_eq!(all, "ok slow.session #1\r\nok slow.session #2\r\nok slow.session #3\r\n3 of 3 hold\r\n");
    }
}
