//! The log as text and as JSON: an event is one line, which prints, whatever peers send; a JSON object has its fields.
//!
//! Not here: the forms themselves, with arbitrary messages (`src/logging/form`); a log that nobody reads (`log`).

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::{
    cell::Cell,
    fs::{self, File},
    io::{Read, Write},
    net::{Shutdown, SocketAddr},
    os::{
        fd::OwnedFd,
        linux::fs::MetadataExt,
        unix::{ffi::OsStringExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::Output,
};

use proptest::{prelude::*, test_runner::TestRunner};
use rustix::{net::SocketAddrUnix, process::Signal};
use serde_json::Value as Json;
use support::{Server, connect, eventually, finish, greet, rot13d};
use tls::Authority;

/// The object of a line. Its members that every event has are as promised.
#[track_caller]
fn object(line: &str) -> Json {
    let object: Json = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    let text = |key: &str| object[key].as_str().unwrap_or_else(|| panic!("no {key} in {line}"));
    assert!(text("time").ends_with('Z') && text("time").len() == "2026-01-01T00:00:00.000Z".len(), "{line}");
    assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&text("level")), "{line}");
    assert!(!text("target").is_empty() && !text("message").is_empty(), "{line}");
    object
}

/// The object of the first event whose message has `part`.
#[track_caller]
fn event(server: &Server, part: &str) -> Json {
    object(&server.log_line(part))
}

#[test]
fn an_event_has_the_numbers_of_its_text_as_fields() {
    let mut server = Server::start(&["--log-format", "json", "-v", "--max-sessions", "1", "--workers", "1"]);
    let listening = event(&server, "listening on ");
    assert_eq!((&listening["listener"], &listening["address"]), (&"0".into(), &server.address.to_string().into()));
    let mut peer = server.connect();
    let own = peer.local_addr().unwrap().to_string();
    greet(&mut peer);
    let refused = server.connect();
    let refusal = event(&server, " is refused: max-sessions");
    assert_eq!(refusal["peer"], refused.local_addr().unwrap().to_string());
    let warning = event(&server, "1 connection refused, the last for max-sessions");
    assert_eq!((&warning["level"], &warning["count"]), (&"WARN".into(), &1.into()), "{warning}");
    assert_eq!((&warning["listener"], &warning["reason"]), (&"0".into(), &"max-sessions".into()), "{warning}");
    drop((refused, peer));
    let closed = event(&server, " closed: peer-eof, ");
    let session = closed["session"].as_u64().unwrap();
    assert!(closed["message"].as_str().unwrap().starts_with(&format!("session #{session} from {own} closed: ")));
    let expected = [
        ("level", "DEBUG".into()),
        ("peer", own.into()),
        ("listener", "0".into()),
        ("reason", "peer-eof".into()),
        ("lines_in", 1.into()),
        ("bytes_in", 6.into()),
        ("bytes_out", 6.into()),
        ("unsent_bytes", 0.into()),
        ("undelivered_bytes", 0.into()),
        ("tail_bytes", 0.into()),
        ("cut", false.into()),
    ];
    expected.iter().for_each(|(key, value): &(_, Json)| assert_eq!(closed[key], *value, "{key}: {closed}"));
    assert!(closed["duration"].as_f64().is_some_and(|seconds| (0.0..600.0).contains(&seconds)), "{closed}");
    server.signal(Signal::USR1);
    let counters = event(&server, "counters: ");
    for (key, value) in [("live", 0), ("opened", 1), ("lines_in", 1), ("bytes_in", 6), ("bytes_out", 6)] {
        assert_eq!(counters[key], value, "{key}: {counters}");
    }
    server.signal(Signal::TERM);
    let (code, log) = server.wait();
    assert_eq!(code, Some(0));
    let drained = log.iter().map(|line| object(line)).find(|object| object.get("ended").is_some()).unwrap();
    assert_eq!((&drained["ended"], &drained["cut"]), (&0.into(), &0.into()), "{drained}");
}

#[cfg(feature = "console")]
#[test]
fn a_change_at_the_console_names_who_asked_and_for_what() {
    let folder = Authority::new();
    let socket = folder.path("console.sock");
    let server = Server::start(&["--log-format", "json", "--console", &format!("unix:{}", socket.display())]);
    let mut console = UnixStream::connect(&socket).unwrap();
    console.write_all(b"pause 0\nquit\n").unwrap();
    let _ = console.read_to_end(&mut Vec::new());
    let change = event(&server, "\"message\":\"console: ");
    assert_eq!((&change["level"], &change["command"]), (&"INFO".into(), &"pause".into()), "{change}");
    let who = change["who"].as_str().unwrap();
    assert!(who.contains(&format!("pid {}", std::process::id())) && who.contains("uid "), "{change}");
}

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = rot13d();
    command.args(arguments);
    let Output { status, stderr, .. } = finish(command, b"");
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn why_it_cannot_start_is_an_event_as_soon_as_the_format_is_known() {
    let folder = Authority::new();
    let (code, said) = run(&["--log-format=json", "--listen", "192.0.2.1:1"]);
    let last = object(said.trim_end());
    assert_eq!((code, &last["level"], &last["target"]), (Some(1), &"ERROR".into(), &"rot13d".into()), "{said}");
    assert!(last["message"].as_str().unwrap().contains("192.0.2.1:1"), "{said}");
    // Typed, it is known before the file is read.
    let bad = folder.write("bad.toml", "log-format = \"json\"\nidle-timeout = \"soon\"\n");
    let (code, said) = run(&["--config", &bad, "--log-format=json"]);
    assert_eq!(code, Some(2));
    assert!(object(said.trim_end())["message"].as_str().unwrap().contains("bad.toml:2: "), "{said}");
    // A file with an error says nothing.
    let (code, said) = run(&["--config", &bad]);
    assert!(code == Some(2) && said.starts_with("rot13d: ") && said.contains("bad.toml:2: "), "{said}");
    let good = folder.write("good.toml", "log-format = \"json\"\nlisten = \"192.0.2.1:1\"\n");
    let (code, said) = run(&["--config", &good]);
    assert_eq!((code, &object(said.trim_end())["level"]), (Some(1), &"ERROR".into()), "{said}");
    // What is wrong with the flags themselves is clap's to say.
    let (code, said) = run(&["--log-format=json", "--idle-timeout=soon"]);
    assert!(code == Some(2) && said.starts_with("error: invalid value 'soon'"), "{said}");
}

#[test]
fn a_file_that_is_read_again_changes_the_format_at_once() {
    let folder = Authority::new();
    let file = folder.write("rot13d.toml", "");
    let server = Server::start(&["--config", &file]);
    assert!(server.log_line("listening on ").starts_with('['));
    folder.write("rot13d.toml", "log-format = \"json\"\n");
    server.signal(Signal::HUP);
    let said = event(&server, "is in force; ");
    assert_eq!((&said["level"], &said["count"]), (&"INFO".into(), &0.into()));
    folder.write("rot13d.toml", "log-format = \"text\"\n");
    server.signal(Signal::HUP);
    let lines = server.log_lines("is in force; 0 sessions end by it", 2);
    assert!(lines[1].starts_with('['), "{lines:?}");
}

/// A server whose standard error is the journal, as far as it can tell.
fn under_the_journal(format: &str, is_true: bool) -> Server {
    let (reader, writer) = std::io::pipe().unwrap();
    let file = File::from(OwnedFd::from(writer.try_clone().unwrap()));
    let pipe = file.metadata().unwrap();
    drop(file);
    let inode = pipe.st_ino() + u64::from(!is_true);
    let mut command = rot13d();
    command.args(["--listen", "127.0.0.1:0", "-v", "--log-format", format]);
    command.env("JOURNAL_STREAM", format!("{}:{inode}", pipe.st_dev())).stderr(writer);
    let mut server = Server::launch_unread(command);
    server.read_log(reader);
    server.find_address();
    server
}

#[test]
fn the_journal_gets_levels_as_it_takes_them_and_no_second_time() {
    let server = under_the_journal("text", true);
    greet(&mut server.connect());
    assert!(server.log_line("listening on ").starts_with("<6>[INFO  actix_lines::"), "{:?}", server.log());
    assert!(server.log_line(" closed: ").starts_with("<7>[DEBUG actix_lines::"), "{:?}", server.log());
    let server = under_the_journal("json", true);
    let line = server.log_line("listening on ");
    object(line.strip_prefix("<6>").unwrap_or_else(|| panic!("no level: {line}")));
    // Inherited by a process whose standard error goes elsewhere.
    let server = under_the_journal("text", false);
    assert!(server.log_line("listening on ").starts_with("[20"), "{:?}", server.log());
}

/// A listener of each kind by which peers can say something of themselves.
struct Listening {
    server: Server,
    unix: PathBuf,
    proxied: SocketAddr,
    secure: SocketAddr,
    telnet: SocketAddr,
    folder: Authority,
}

impl Listening {
    fn new(format: &str) -> Self {
        let folder = Authority::new();
        folder.issue("server", &["localhost"]);
        let unix = folder.path("socket");
        let text = format!(
            "log-format = \"{format}\"\npreface-timeout = \"1s\"\nidle-timeout = \"5s\"\n\
             [[listener]]\nname = \"local\"\naddress = \"unix:{}\"\n\
             [[listener]]\nname = \"proxied\"\naddress = \"127.0.0.1:0\"\nproxy = \"required\"\nproxy-from = [\"127.0.0.1\"]\n\
             [[listener]]\nname = \"secure\"\naddress = \"127.0.0.1:0\"\n[listener.tls]\ncertificate = \"server.pem\"\n\
             key = \"server-key.pem\"\n\
             [[listener]]\nname = \"telnet\"\naddress = \"127.0.0.1:0\"\ntelnet = true\n",
            unix.display()
        );
        let file = folder.write("rot13d.toml", &text);
        let mut command = rot13d();
        command.args(["--config", &file, "-vv", "--workers", "1"]);
        let server = Server::launch(command);
        let address = |name: &str| support::address_in(&server.log_line(&format!(" as {name}")));
        let (proxied, secure, telnet) = (address("proxied"), address("secure"), address("telnet"));
        server.log_line(" as local");
        Self { server, unix, proxied, secure, telnet, folder }
    }

    /// Sends what a peer could, in all the ways there are.
    fn offend(&self, nth: usize, name: &[u8], bytes: &[u8], tlv: u8) {
        // A path of a peer's own, in the folder: no NUL and no slash.
        let mut path: Vec<u8> = name.iter().copied().filter(|byte| !matches!(byte, 0 | b'/')).take(20).collect();
        path.extend(nth.to_string().as_bytes());
        let path = self.folder.path("x").with_file_name(std::ffi::OsString::from_vec(path));
        send_from(&path, &self.unix, bytes);
        let _ = fs::remove_file(&path);
        let header = |family: u8, addresses: &[u8]| {
            let mut tlvs = vec![tlv, (bytes.len() >> 8) as u8, bytes.len() as u8];
            tlvs.extend(bytes);
            let length = addresses.len() + tlvs.len();
            let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
            header.extend([family, (length >> 8) as u8, length as u8]);
            [&header[..], addresses, &tlvs, b"line\n"].concat()
        };
        let mut addresses = [0; 216];
        addresses[..name.len().min(107)].copy_from_slice(&name[..name.len().min(107)]);
        for sent in [
            header(0x31, &addresses),
            header(0x11, &[192, 0, 2, 7, 192, 0, 2, 1, 4, 0, 8, 0]),
            [b"PROXY ", name, b"\r\n", bytes].concat(),
            [b"PROXY TCP4 ", bytes].concat(),
        ] {
            send(self.proxied, &sent);
        }
        send(self.secure, &hello(name));
        send(self.secure, bytes);
        send(self.telnet, &[&[255, 250, 24, 0], name, &[255, 240], bytes, b"\n"].concat());
    }
}

fn send(to: SocketAddr, bytes: &[u8]) {
    let mut stream = connect(to);
    // It may be reset in the middle of it, which is as well.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// From a path of its own.
fn send_from(path: &Path, to: &Path, bytes: &[u8]) {
    let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(to).unwrap()).unwrap();
    let mut stream = UnixStream::from(socket);
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// A ClientHello for a server of this name.
fn hello(name: &[u8]) -> Vec<u8> {
    let two = |length: usize| [(length >> 8) as u8, length as u8];
    let names = [&[0][..], &two(name.len()), name].concat();
    let list = [&two(names.len())[..], &names].concat();
    let extensions = [&[0, 0][..], &two(list.len()), &list].concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(two(extensions.len()));
    body.extend(extensions);
    let handshake = [&[1, 0][..], &two(body.len()), &body].concat();
    [&[22, 3, 1][..], &two(handshake.len()), &handshake].concat()
}

#[test]
fn whatever_peers_send_an_event_stays_one_line_that_prints() {
    let evil = b"\x1b[2J\r\n[2026-01-01T00:00:00Z ERROR rot13d] \"all\" \\ is well\xe2\x80\xae\x9b\x07\xff".to_vec();
    for format in ["json", "text"] {
        let listening = Listening::new(format);
        listening.offend(0, &evil, &evil, 2);
        let mut runner = TestRunner::new(ProptestConfig { cases: 24, ..ProptestConfig::default() });
        let sent = Cell::new(1);
        let anything =
            (prop::collection::vec(any::<u8>(), 0..80), prop::collection::vec(any::<u8>(), 0..300), any::<u8>());
        let result = runner.run(&anything, |(name, bytes, tlv)| {
            listening.offend(sent.get(), &name, &bytes, tlv);
            sent.set(sent.get() + 1);
            Ok(())
        });
        result.unwrap();
        // All of it has been logged once each end is.
        let ends = 8 * sent.get();
        let log = eventually("the ends", || {
            let log = listening.server.log();
            (log.iter().filter(|line| line.contains(" closed: ")).count() >= ends).then_some(log)
        });
        for line in &log {
            let odd = line.chars().find(|letter| letter.is_control() || ['\u{202e}', '\u{fffd}'].contains(letter));
            assert_eq!(odd, None, "{line:?}");
            if format == "json" {
                let object = object(line);
                let texts = object.as_object().unwrap().values().filter_map(Json::as_str);
                assert!(
                    texts.flat_map(str::chars).all(|letter| !letter.is_control() && letter != '\u{202e}'),
                    "{line}"
                );
            } else {
                // Not one is the rest of another.
                let level = line.strip_prefix("[20").and_then(|rest| rest.split(' ').nth(1)).unwrap_or_default();
                assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level), "{line}");
            }
        }
        let all = log.join("\n");
        let shown = if format == "json" { r"\\u{1b}[2J" } else { r"\u{1b}[2J" };
        assert!(all.contains(shown), "nothing of what was sent is shown: {all}");
        assert!(!log.iter().any(|line| line.starts_with("[2026-01-01")), "a peer has forged a line");
        greet(&mut connect(listening.telnet));
    }
}
