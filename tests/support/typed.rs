//! Scripts typed by a real `telnet` in a pseudo-terminal: a relay between the runner and the keyboard.
//!
//! Rule: to the runner it is a server; behind it each connection is a telnet of its own. What a peer sends is typed, what the
//! screen shows is what the peer receives. Local echo is off, so that the screen shows what telnet prints and nothing else.
//! A script can be typed if it consists of what a person has at a telnet: see [`can_be_typed`].
//! Not here: what a script expects (the runner).

use std::{
    collections::BTreeSet,
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use actix_lines::script::Script;
use rexpect::process::PtyProcess;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::support::eventually;

const ESCAPE: &[u8] = b"\x1d";
const GREETING: &[u8] = b"Escape character is '^]'.\r\n";
const PROMPT: &[u8] = b"telnet> ";
const FAREWELL: &[u8] = b"Connection closed by foreign host.\r\n";
/// A terminal gives a program no longer line.
const LONGEST_LINE: usize = 1000;

/// Says whether a script can be typed: all bytes that are sent or expected are printable ASCII and plain newlines, nothing is
/// expected while a line is not ended or after a half-close, which is typed by leaving telnet, and there is no reset and no
/// process.
pub(crate) fn can_be_typed(script: &Script) -> bool {
    let text = script.to_string();
    let mut peers = Peers { repeats: text.contains("repeat"), ..Peers::default() };
    text.lines().all(|line| peers.can_type(line.trim_start()))
}

#[derive(Default)]
struct Peers<'t> {
    /// Their line has not ended.
    unfinished: BTreeSet<&'t str>,
    /// They have left.
    gone: BTreeSet<&'t str>,
    repeats: bool,
}

impl<'t> Peers<'t> {
    /// Looks at one line of a script as the library writes it.
    fn can_type(&mut self, line: &'t str) -> bool {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let (peer, rest) = line.split_at(line.bytes().take_while(|byte| is_name(*byte)).count());
        if let Some(sent) = rest.strip_prefix('>') {
            let sent = sent.trim_start();
            // A plain text has a newline of its own.
            if !sent.starts_with('"') || sent.ends_with("\\n\"") {
                self.unfinished.remove(peer);
            } else if self.repeats {
                // How long would it become?
                return false;
            } else {
                self.unfinished.insert(peer);
            }
            return is_shown(sent) && !self.gone.contains(peer);
        }
        if let Some(wanted) = rest.strip_prefix('<') {
            let wanted = wanted.trim_start_matches(['?', '^']).trim_start();
            return is_shown(wanted) && !self.unfinished.contains(peer) && !self.gone.contains(peer);
        }
        if let Some(action) = rest.strip_prefix(": ") {
            let word = action.split(' ').next().unwrap_or_default();
            return match word {
                "eof" => !self.unfinished.contains(peer),
                "fin" => !self.unfinished.contains(peer) && self.gone.insert(peer),
                "connect" | "close" | "pause" | "resume" => action == word,
                "quiet" | "after" | "split" => true,
                _ => false,
            };
        }
        let word = line.split(' ').next().unwrap_or_default();
        matches!(word, "repeat" | "one-of" | "unordered" | "let" | "timeout") || line == "newline lf"
    }
}

/// A text, quoted or not, of printable ASCII; between quotes newlines are the only escapes.
fn is_shown(text: &str) -> bool {
    let plain = match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\\n", "").replace("\\\"", ""),
        None => text.to_owned(),
    };
    let is_pattern = text.starts_with('/');
    plain.len() <= LONGEST_LINE
        && plain.bytes().all(|byte| matches!(byte, b' '..=b'~') && (byte != b'\\' || is_pattern))
}

/// Starts a relay whose peers speak to `server` by telnet; returns its address. It ends with the test.
pub(crate) fn relay(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for peer in listener.incoming() {
            let peer = peer.expect("the runner connects");
            thread::spawn(move || converse(&peer, server));
        }
    });
    address
}

/// One telnet, from its start to its end.
fn converse(peer: &TcpStream, server: SocketAddr) {
    let mut command = Command::new("telnet");
    command.args([server.ip().to_string(), server.port().to_string()]);
    let telnet = PtyProcess::new(command).expect("telnet starts");
    let screen = telnet.get_file_handle().expect("a terminal");
    let keyboard = telnet.get_file_handle().expect("a terminal");
    let quits = Arc::new(AtomicBool::new(false));
    let mut screen = Screen { terminal: screen, shown: Vec::new(), quits: Arc::clone(&quits) };
    screen.find(GREETING);
    // Telnet turns the echo on once it has greeted; a terminal of rexpect has none before.
    let mut modes = eventually("telnet to have its terminal", || {
        let modes = tcgetattr(&screen.terminal).expect("a terminal");
        modes.local_modes.contains(LocalModes::ECHO).then_some(modes)
    });
    modes.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&screen.terminal, OptionalActions::Now, &modes).expect("a terminal");
    thread::scope(|scope| {
        scope.spawn(|| {
            screen.pass_on(peer);
            let _ = peer.shutdown(Shutdown::Write);
        });
        type_all(peer, &keyboard, &quits);
    });
}

/// Types what the peer sends, and at its end leaves telnet as a person does.
fn type_all(mut peer: &TcpStream, mut keyboard: &File, quits: &AtomicBool) {
    let mut space = [0; 4096];
    loop {
        let count = match peer.read(&mut space) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => 0,
        };
        if count == 0 {
            quits.store(true, Ordering::SeqCst);
            // A telnet whose server has gone has gone too.
            let _ = keyboard.write_all(ESCAPE);
            return;
        }
        if keyboard.write_all(&space[..count]).is_err() {
            return;
        }
    }
}

struct Screen {
    terminal: File,
    /// Shown, and not passed on yet.
    shown: Vec<u8>,
    quits: Arc<AtomicBool>,
}

impl Screen {
    /// Reads more; false at the end. A terminal that nobody has open any more is an error on Linux.
    fn read(&mut self) -> bool {
        let mut space = [0; 4096];
        loop {
            match self.terminal.read(&mut space) {
                Ok(0) => return false,
                Ok(count) => {
                    self.shown.extend_from_slice(&space[..count]);
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    fn place_of(&self, part: &[u8]) -> Option<usize> {
        self.shown.windows(part.len()).position(|window| window == part)
    }

    /// Waits for a text, and forgets all up to its end.
    fn find(&mut self, part: &[u8]) {
        loop {
            if let Some(at) = self.place_of(part) {
                self.shown.drain(..at + part.len());
                return;
            }
            assert!(self.read(), "telnet ended: {}", String::from_utf8_lossy(&self.shown));
        }
    }

    /// Hands the lines that are shown to the peer, each with a newline of its own instead of the terminal's.
    fn pass_on(&mut self, mut peer: &TcpStream) {
        let mut send = |line: &[u8]| {
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            let ended = line.len() > text.len();
            // A peer that is gone wants nothing.
            let _ = peer.write_all(&[text, if ended { b"\n" } else { b"" }].concat());
        };
        loop {
            let is_open = self.read();
            if self.quits.load(Ordering::SeqCst) {
                break;
            }
            while let Some(end) = self.shown.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = self.shown.drain(..=end).collect();
                if line != FAREWELL {
                    send(&line);
                }
            }
            if !is_open {
                return send(&self.shown);
            }
        }
        // The prompt comes on a line of its own: what is before that is the session's.
        let prompt = [b"\r\n", PROMPT].concat();
        let end = loop {
            if let Some(at) = self.place_of(&prompt).or_else(|| self.place_of(FAREWELL)) {
                break at;
            }
            if !self.read() {
                break self.shown.len();
            }
        };
        self.shown[..end].split_inclusive(|byte| *byte == b'\n').for_each(&mut send);
        let _ = self.terminal.write_all(b"quit\n");
        while self.read() {}
    }
}
