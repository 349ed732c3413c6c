//! Consoles for tests: that of a server, and one that answers as a test wants.
// Each test file is a program of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

#[path = "../../actors/tests/support/folder.rs"]
mod folder;

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    process::{Command, Output},
    sync::{Arc, Mutex},
    thread,
};

pub use folder::Folder;

use crate::support::{finish, rot13d};

impl Folder {
    /// The address of a console's socket in it.
    pub fn console(&self) -> String {
        format!("unix:{}", self.path("console.sock").display())
    }
}

/// Runs `rot13d ctl` to its end; returns exit code, standard output and standard error.
#[track_caller]
pub fn ctl(arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    said(finish(ctl_command(arguments), input.as_bytes()))
}

pub fn ctl_command(arguments: &[&str]) -> Command {
    let mut command = rot13d();
    command.arg("ctl").args(arguments);
    for variable in ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "ROT13D_CONSOLE_TOKEN", "NO_COLOR", "CLICOLOR_FORCE"] {
        command.env_remove(variable);
    }
    command
}

pub fn said(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A console that answers as a test wants, on a unix socket in a folder of its own.
pub struct FakeConsole {
    pub folder: Folder,
    heard: Arc<Mutex<Vec<String>>>,
}

/// The answer to a line. `false` closes the connection.
pub type Answer = fn(&str, &mut Peer) -> bool;

/// The other end of a connection.
pub struct Peer {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Peer {
    /// Says something. Whoever is gone hears nothing.
    pub fn say(&mut self, text: &str) -> bool {
        self.stream.write_all(text.as_bytes()).is_ok()
    }

    /// Waits for the next line.
    pub fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        (self.lines.read_line(&mut line).ok()? > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Returns true if a line has come that was not heard yet.
    pub fn is_told(&self) -> bool {
        let mut fds = [rustix::event::PollFd::new(&self.stream, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap() > 0
    }
}

impl FakeConsole {
    pub fn new(name: &str, answer: Answer) -> Self {
        let folder = Folder::new(name);
        let listener = UnixListener::bind(folder.path("console.sock")).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&heard);
        // It ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut peer = Peer { lines: BufReader::new(stream.try_clone().unwrap()), stream };
                let all = Arc::clone(&all);
                thread::spawn(move || {
                    while let Some(line) = peer.hear() {
                        all.lock().unwrap().push(line.clone());
                        if !answer(&line, &mut peer) {
                            break;
                        }
                    }
                });
            }
        });
        Self { folder, heard }
    }

    pub fn address(&self) -> String {
        self.folder.console()
    }

    /// All lines that came so far.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    #[track_caller]
    pub fn ctl(&self, arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
        ctl(&[&["--connect", &self.address()], arguments].concat(), input)
    }
}
