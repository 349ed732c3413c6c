//! Listeners of the file: names, limits of their own, TLS; and what a SIGHUP does to them.

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    process::{Child, Command, Output, Stdio},
};

use rcgen::date_time_ymd;
use rustix::process::Signal;
use support::{Server, address_in, connect, finish, greet, rot13d};
use tls::{Authority, TlsPeer};

/// Starts rot13d with the file of an authority's folder; waits until so many listeners listen. Returns where, in the order of the file.
fn start(file: &str, listeners: usize) -> (Server, Vec<SocketAddr>) {
    let mut command = rot13d();
    command.args(["--config", file, "--workers", "2"]);
    let server = Server::launch(command);
    let mut lines = server.log_lines("listening on ", listeners);
    lines.sort_by_key(|line| server.log().iter().position(|other| other == line));
    let addresses = lines.iter().map(|line| address_in(line)).collect();
    (server, addresses)
}

/// Asks for the counters until they say this: a peer may see its end before it is counted.
#[track_caller]
fn await_counter(server: &Server, says: &str) {
    let mut asked = 0;
    support::eventually(&format!("counters with {says:?}"), || {
        asked += 1;
        server.signal(Signal::USR1);
        server.log_lines("counters: ", asked);
        server.log().iter().any(|line| line.contains("] counters") && line.contains(says)).then_some(())
    });
}

fn check(file: &str) -> (Option<i32>, String) {
    let mut command = rot13d();
    command.args(["--check-config", "--config", file]);
    let Output { status, stdout, stderr } = finish(command, b"");
    assert_eq!(stdout, b"");
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// A table of TLS by the certificate `server`.
const TLS: &str = "[listener.tls]\ncertificate = \"server.pem\"\nkey = \"server-key.pem\"\n";

/// A listener with TLS on a free port.
fn secure(name: &str) -> String {
    format!("[[listener]]\nname = \"{name}\"\naddress = \"127.0.0.1:0\"\n{TLS}")
}

#[test]
fn each_wrong_table_is_said_with_listener_key_line_and_advice() {
    let authority = Authority::new();
    authority.issue("server", &["localhost"]);
    authority.issue("other", &["example.org"]);
    authority.issue_with("old", &["localhost"], |params| params.not_after = date_time_ymd(2021, 5, 6));
    authority.write("empty.pem", "");
    let listener = "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n";
    let golden = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/listeners/errors.txt")).unwrap();
    let (mut cases, mut wrong) = (0, Vec::new());
    for case in golden.split("\n====\n") {
        let (text, expected) = case.split_once("\n----\n").expect("a file and its message");
        let text = format!("{text}\n").replace("@TLS\n", TLS).replace("@LISTENER\n", listener);
        let file = authority.write("bad.toml", &text);
        let (code, said) = check(&file);
        let said = said.replace(&format!("{}/", authority.path("").display().to_string().trim_end_matches('/')), "");
        if (code, said.trim_end()) != (Some(2), expected.trim_end()) {
            wrong.push(format!("{text}\nsays {said}instead of\n{expected}"));
        }
        cases += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(cases > 20, "{cases}");
}

#[test]
fn a_checked_file_has_its_certificates_loaded_and_binds_nothing() {
    let authority = Authority::new();
    authority.issue("server", &["localhost"]);
    // Nobody may listen there.
    let file = format!("[[listener]]\nname = \"a\"\naddress = \"192.0.2.1:1\"\n{TLS}");
    let file = authority.write("good.toml", &file);
    assert_eq!(check(&file), (Some(0), String::new()));
    fs::remove_file(authority.path("server-key.pem")).unwrap();
    let (code, said) = check(&file);
    assert!(code == Some(2) && said.contains("good.toml:6: listener \"a\": cannot read "), "{said}");
}

#[test]
fn a_file_with_listeners_opens_these_alone_and_flags_add_plain_ones() {
    let authority = Authority::new();
    let text = "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n";
    let file = authority.write("rot13d.toml", text);
    let (server, addresses) = start(&file, 1);
    greet(&mut connect(addresses[0]));
    assert_eq!(server.log().iter().filter(|line| line.contains("listening on")).count(), 1);
    let mut command = rot13d();
    command.args(["--config", &file, "--listen", "127.0.0.1:0"]);
    let both = Server::launch(command);
    for line in both.log_lines("listening on ", 2) {
        greet(&mut connect(address_in(&line)));
    }
}

#[test]
fn a_listener_that_cannot_be_bound_is_named() {
    let authority = Authority::new();
    let (_taken, address) = support::reserve();
    let busy = std::net::TcpListener::bind(address).expect("the address is ours");
    let file = authority.write("rot13d.toml", &format!("[[listener]]\nname = \"a\"\naddress = \"{address}\"\n"));
    let mut command = rot13d();
    command.args(["--config", &file]);
    let Output { status, stderr, .. } = finish(command, b"");
    let said = String::from_utf8(stderr).unwrap();
    assert!(status.code() == Some(1) && said.contains("rot13d: listener a: "), "{said}");
    drop(busy);
}

#[test]
fn a_limit_of_a_listener_is_its_own() {
    let authority = Authority::new();
    let file = authority.write(
        "rot13d.toml",
        "max-line = 4\noverlong = \"truncate\"\n\
         [[listener]]\nname = \"short\"\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"long\"\naddress = \"127.0.0.1:0\"\nmax-line = 8\n",
    );
    let (_server, addresses) = start(&file, 2);
    assert_eq!(support::converse(addresses[0], b"Hello, world\n"), b"Uryy\n");
    assert_eq!(support::converse(addresses[1], b"Hello, world\n"), b"Uryyb, j\n");
}

#[test]
fn each_name_has_its_pair() {
    let authority = Authority::new();
    authority.issue("server", &["localhost"]);
    authority.issue("org", &["example.org", "*.example.org"]);
    let pair = "[[listener.tls.sni]]\nname = [\"Example.org\", \"*.example.org\"]\ncertificate = \"org.pem\"\nkey = \"org-key.pem\"\n";
    let (_server, addresses) = start(&authority.write("rot13d.toml", &(secure("a") + pair)), 1);
    for (name, file) in [("localhost", "server.pem"), ("example.org", "org.pem"), ("www.example.org", "org.pem")] {
        let mut peer = TlsPeer::connect(&authority.client(), addresses[0], name);
        peer.greet();
        assert!(peer.was_shown(&authority.path(file)), "{name}");
    }
}

#[test]
fn clients_show_a_certificate_where_they_have_to() {
    let authority = Authority::new();
    authority.issue("server", &["localhost"]);
    authority.issue("alice", &["alice"]);
    let required = secure("required") + "client-ca = \"ca.pem\"\n";
    let optional = secure("optional") + "client-ca = \"ca.pem\"\nclient-auth = \"optional\"\n";
    let (server, addresses) = start(&authority.write("rot13d.toml", &(required + &optional)), 2);
    for address in &addresses {
        TlsPeer::connect(&authority.client_with("alice"), *address, "localhost").greet();
    }
    TlsPeer::connect(&authority.client(), addresses[1], "localhost").greet();
    let stranger = TlsPeer::try_connect(&authority.client(), addresses[0], "localhost");
    assert!(stranger.and_then(|mut peer| peer.try_greet()).is_err());
    await_counter(&server, "tls-no-certificate 1");
}

#[test]
fn protocols_and_versions_are_as_the_file_says() {
    let authority = Authority::new();
    authority.issue("server", &["localhost"]);
    let text = secure("a") + "alpn = [\"rot13\", \"rot13/2\"]\nversions = \"1.3\"\ntickets = false\n";
    let (_server, addresses) = start(&authority.write("rot13d.toml", &text), 1);
    let mut client = authority.client();
    client.alpn_protocols = vec![b"rot13/2".to_vec()];
    let mut peer = TlsPeer::connect(&client, addresses[0], "localhost");
    peer.greet();
    assert_eq!(peer.alpn(), Some(&b"rot13/2"[..]));
    client.alpn_protocols = vec![b"h2".to_vec()];
    assert!(TlsPeer::try_connect(&client, addresses[0], "localhost").is_err());
}

#[test]
fn a_plain_peer_of_a_secure_listener_gets_an_alert() {
    let authority = Authority::new();
    authority.issue("server", &["localhost"]);
    let (_server, addresses) = start(&authority.write("rot13d.toml", &secure("a")), 1);
    // An alert begins with 21.
    assert_eq!(support::converse(addresses[0], b"Hello\n").first(), Some(&21));
}

#[test]
fn a_changed_certificate_is_for_the_next_connection_and_a_bad_one_changes_nothing() {
    let authority = Authority::new();
    authority.issue("server", &["localhost"]);
    let text = secure("a") + "[[listener]]\nname = \"b\"\naddress = \"127.0.0.1:0\"\n";
    let file = authority.write("rot13d.toml", &text);
    let (server, addresses) = start(&file, 2);
    let client = authority.client();
    fs::copy(authority.path("server.pem"), authority.path("first.pem")).unwrap();
    let mut old = TlsPeer::connect(&client, addresses[0], "localhost");
    old.greet();

    // A key that is another's, beside a setting that would be good.
    authority.issue("other", &["localhost"]);
    fs::rename(authority.path("other-key.pem"), authority.path("server-key.pem")).unwrap();
    authority.write("rot13d.toml", &format!("max-sessions = 1\n{text}"));
    server.signal(Signal::HUP);
    let said = server.log_line("SIGHUP: nothing is changed: ");
    assert!(said.contains("rot13d.toml:7: listener \"a\": the key in ") && said.contains(" does not fit "), "{said}");
    let mut other = TlsPeer::connect(&client, addresses[0], "localhost");
    other.greet();
    assert!(other.was_shown(&authority.path("first.pem")));

    authority.write("rot13d.toml", &text);
    authority.issue("server", &["localhost"]);
    server.signal(Signal::HUP);
    server.log_line("is in force; 0 sessions end by it");
    let mut new = TlsPeer::connect(&client, addresses[0], "localhost");
    assert!(new.was_shown(&authority.path("server.pem")) && !new.was_shown(&authority.path("first.pem")));
    for peer in [&mut old, &mut other, &mut new] {
        peer.greet();
    }
}

#[test]
fn who_may_read_a_key_and_what_expires_soon_is_said_at_the_start_and_at_each_hangup() {
    let authority = Authority::new();
    authority.issue_with("server", &["localhost"], |params| {
        params.not_after = std::time::SystemTime::now().into();
        params.not_after += std::time::Duration::from_secs(13 * 24 * 3600);
    });
    fs::set_permissions(authority.path("server-key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    let (server, _) = start(&authority.write("rot13d.toml", &secure("public")), 1);
    for times in 1..=2 {
        let key = server.log_lines(
            "WARN  rot13d::listeners] listener public: everybody on this machine may use the key in ",
            times,
        );
        assert_eq!(key.len(), times);
        server.log_lines("WARN  rot13d::listeners] listener public: the certificate of \"CN=server\" in ", times);
        server.signal(Signal::HUP);
        server.log_lines("is in force", times);
    }
    server.signal(Signal::USR1);
    let line = server.log_line("counters: ");
    let seconds: u64 = line
        .split("; certificate of listener public expires in ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!((12 * 24 * 3600..=13 * 24 * 3600).contains(&seconds), "{line}");
}

/// Plain listeners on free ports.
fn plain(names: &[&str]) -> String {
    names.iter().map(|name| format!("[[listener]]\nname = \"{name}\"\naddress = \"127.0.0.1:0\"\n")).collect()
}

/// A session that is used all the while: each byte is answered, in order.
struct Busy {
    stream: TcpStream,
    sent: Vec<u8>,
    got: Vec<u8>,
}

impl Busy {
    fn new(address: SocketAddr) -> Self {
        Self { stream: connect(address), sent: Vec::new(), got: Vec::new() }
    }

    /// Sends the end of a line, a line, and the beginning of another.
    fn send(&mut self) {
        let text = format!(" end {0}\nline {0}\nbeginning", self.sent.len());
        self.stream.write_all(text.as_bytes()).expect("the session lives");
        self.sent.extend(text.as_bytes());
    }

    /// Reads all answers up to the last whole line.
    #[track_caller]
    fn receive(&mut self) {
        let whole = self.sent.iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        let mut answers = vec![0; whole - self.got.len()];
        self.stream.read_exact(&mut answers).expect("the session lives");
        self.got.extend(answers);
        support::assert_same("the answers", &self.got, &support::tr(&self.sent[..whole]));
    }
}

#[test]
fn a_listener_that_serves_nobody_says_why_and_what_to_do() {
    let authority = Authority::new();
    authority.issue("server", &["localhost"]);
    let listeners = format!(
        "{}{}[[listener]]\nname = \"front\"\naddress = \"127.0.0.1:0\"\nproxy = \"required\"\nproxy-from = [\"127.0.0.1\"]\n\
         [[listener]]\nname = \"strange\"\naddress = \"127.0.0.1:0\"\nproxy = \"required\"\nproxy-from = [\"192.0.2.1\"]\n",
        secure("plain"),
        secure("unknown")
    );
    let file = authority.write("rot13d.toml", &listeners);
    // Without -v.
    let (server, _) = start(&file, 4);
    let address = |name: &str| address_in(&server.log_line(&format!(" as {name}")));
    let said = |name: &str, fault: &str, advice: &str| {
        let line =
            server.log_line(&format!("listener {name}: no connection gets through; the last one from 127.0.0.1:"));
        assert!(line.contains(" WARN ") && line.contains(&format!(" has failed by {fault}: {advice}")), "{line}");
    };
    for name in ["plain", "front", "strange"] {
        let mut peer = connect(address(name));
        peer.write_all(b"Hello, who is there?\n").unwrap();
        // Or it is reset.
        let _ = peer.read_to_end(&mut Vec::new());
    }
    said("plain", "tls-not-tls", "have its peers speak TLS");
    said("front", "proxy-missing", "have the proxy send its header");
    said("strange", "proxy-untrusted", "trust the proxy's address here");
    let stranger = Authority::new();
    TlsPeer::try_connect(&stranger.client(), address("unknown"), "localhost")
        .and_then(|mut peer| peer.try_greet())
        .unwrap_err();
    said("unknown", "tls-rejected", "mostly, peers do not trust the certificate");
    // Of one that serves others a stranger is no news; see the library's own test for many.
    TlsPeer::connect(&authority.client(), address("plain"), "localhost").greet();
    assert_eq!(server.log().iter().filter(|line| line.contains("no connection gets through")).count(), 4);
}

#[test]
fn a_listener_whose_address_stays_is_not_said_to_listen_again() {
    let authority = Authority::new();
    let file = authority.write("rot13d.toml", &plain(&["changes"]));
    let (server, addresses) = start(&file, 1);
    authority.write("rot13d.toml", &(plain(&["changes"]) + "max-line = 4\noverlong = \"truncate\"\n"));
    server.signal(Signal::HUP);
    server.log_line("is in force; ");
    assert_eq!(support::converse(addresses[0], b"Hello\n"), b"Uryy\n");
    let said = server.log();
    assert_eq!(said.iter().filter(|line| line.contains("listening on")).count(), 1, "{said:#?}");
}

#[test]
fn an_address_that_goes_over_into_a_wider_one_is_an_error_that_says_how() {
    let authority = Authority::new();
    let (_reserved, address) = support::reserve();
    let table = |address: &str| format!("[[listener]]\nname = \"a\"\naddress = \"{address}\"\n");
    for (before, after, whose) in [
        (
            format!("listen = \"{address}\"\n"),
            format!("listen = \"0.0.0.0:{}\"\n", address.port()),
            format!("listener {address}"),
        ),
        (table(&address.to_string()), table(&format!("0.0.0.0:{}", address.port())), "listener a".to_owned()),
    ] {
        let file = authority.write("rot13d.toml", &before);
        let mut command = rot13d();
        command.args(["--config", &file]);
        let server = Server::spawn(command);
        authority.write("rot13d.toml", &after);
        server.signal(Signal::HUP);
        let line = server.log_line("SIGHUP: nothing is changed: ");
        let advice = format!(
            "{whose} is in its way until this change is done: take that out of the file and SIGHUP, then write 0.0.0.0:{} into it and \
             SIGHUP again, or restart",
            address.port()
        );
        assert!(line.ends_with(&advice), "{line}");
        greet(&mut server.connect());
    }
}

#[test]
fn counters_of_a_listener_without_a_name_go_by_its_address() {
    let mut command = rot13d();
    command.args(["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"]);
    let server = Server::launch(command);
    let lines = server.log_lines("listening on ", 2);
    server.signal(Signal::USR1);
    for line in &lines {
        server.log_line(&format!("] counters of listener {}: 0 live, ", address_in(line)));
    }
}

#[test]
fn a_hangup_adds_changes_and_closes_listeners_while_sessions_keep_every_byte() {
    let authority = Authority::new();
    authority.issue("server", &["localhost"]);
    let file = authority.write("rot13d.toml", &plain(&["stays", "changes", "moves", "goes"]));
    let (server, addresses) = start(&file, 4);
    let mut busy: Vec<_> = addresses.iter().map(|address| Busy::new(*address)).collect();
    busy.iter_mut().for_each(Busy::send);

    let (_reserved, elsewhere) = support::reserve();
    let changed =
        "[[listener]]\nname = \"changes\"\naddress = \"127.0.0.1:0\"\nmax-line = 4\noverlong = \"truncate\"\n";
    let moved = format!("[[listener]]\nname = \"moves\"\naddress = \"{elsewhere}\"\n");
    authority.write("rot13d.toml", &(plain(&["new", "stays"]) + changed + &moved + &secure("secret")));
    server.signal(Signal::HUP);
    server.log_line("is in force; 0 sessions end by it");
    for said in [
        "SIGHUP: listener new is new",
        "SIGHUP: listener secret is new",
        "SIGHUP: listener changes is changed",
        "SIGHUP: listener moves is changed",
        "SIGHUP: listener goes is closed; its sessions go on",
    ] {
        assert_eq!(server.log_lines(said, 1).len(), 1);
    }
    assert!(!server.log().iter().any(|line| line.contains("SIGHUP: listener stays")), "{:#?}", server.log());
    for session in &mut busy {
        session.send();
        session.receive();
    }
    assert!(TcpStream::connect(addresses[3]).is_err(), "nobody listens where it was");
    assert!(TcpStream::connect(addresses[2]).is_err(), "nor where one has moved from");
    greet(&mut connect(addresses[0]));
    assert_eq!(support::converse(addresses[1], b"Hello\n"), b"Uryy\n");
    greet(&mut connect(elsewhere));
    let listening = server.log_lines("listening on ", 7);
    let new = listening.iter().map(|line| address_in(line)).filter(|new| !addresses.contains(new) && *new != elsewhere);
    let new: Vec<_> = new.collect();
    assert_eq!(new.len(), 2, "{listening:#?}");
    let is_secure = |address: &SocketAddr| support::converse(*address, b"Hello\n").first() == Some(&21);
    let secret = new.iter().copied().find(is_secure).expect("one of the new ones speaks TLS");
    TlsPeer::connect(&authority.client(), secret, "localhost").greet();

    // And back again.
    authority.write("rot13d.toml", &plain(&["stays", "changes", "moves", "goes"]));
    server.signal(Signal::HUP);
    server.log_lines("is in force; 0 sessions end by it", 2);
    assert_eq!(support::converse(addresses[1], b"Hello\n"), b"Uryyb\n");
    for session in &mut busy {
        session.send();
        session.receive();
    }
}

#[test]
fn a_listener_that_cannot_be_bound_at_a_hangup_changes_nothing() {
    let authority = Authority::new();
    let text = plain(&["a", "b"]);
    let file = authority.write("rot13d.toml", &text);
    let (server, addresses) = start(&file, 2);
    let mut busy: Vec<_> = addresses.iter().map(|address| Busy::new(*address)).collect();
    busy.iter_mut().for_each(Busy::send);
    let (_reserved, taken) = support::reserve();
    let occupied = std::net::TcpListener::bind(taken).expect("the address is ours");
    let (_also_reserved, free) = support::reserve();

    // One is changed, one is closed, one is added, and one cannot be.
    let bad = format!(
        "max-sessions = 1\n[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\nmax-line = 4\noverlong = \"truncate\"\n\
         [[listener]]\nname = \"new\"\naddress = \"{free}\"\n[[listener]]\nname = \"bad\"\naddress = \"{taken}\"\n"
    );
    authority.write("rot13d.toml", &bad);
    server.signal(Signal::HUP);
    server.log_line("SIGHUP: nothing is changed: listener bad: ");
    for (session, address) in busy.iter_mut().zip(&addresses) {
        session.send();
        session.receive();
        assert_eq!(support::converse(*address, b"Hello\n"), b"Uryyb\n");
    }
    assert!(TcpStream::connect(free).is_err(), "what was added is closed again");

    // With the address free the same file is good.
    // A process that another test begins may have it for a moment yet.
    rustix::net::shutdown(&occupied, rustix::net::Shutdown::Both).unwrap();
    drop(occupied);
    server.signal(Signal::HUP);
    server.log_line("is in force; 0 sessions end by it");
    assert!(TcpStream::connect(addresses[1]).is_err());
    busy.iter_mut().for_each(Busy::receive);
}

#[test]
fn an_address_goes_from_one_listener_to_another() {
    let authority = Authority::new();
    let (_reserved, address) = support::reserve();
    let named = |name: &str| format!("[[listener]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    let file = authority.write("rot13d.toml", &named("before"));
    let (server, _) = start(&file, 1);
    let mut session = Busy::new(address);
    session.send();
    authority.write("rot13d.toml", &named("after"));
    server.signal(Signal::HUP);
    server.log_line("SIGHUP: listener after is new");
    server.log_line("SIGHUP: listener before is closed");
    greet(&mut connect(address));
    session.receive();
}

#[test]
fn an_address_without_a_name_is_opened_and_closed_at_a_hangup_too() {
    let authority = Authority::new();
    let [(_first, one), (_second, other)] = [support::reserve(), support::reserve()];
    let file = authority.write("rot13d.toml", &format!("listen = \"{one}\"\n"));
    let (server, _) = start(&file, 1);
    let mut session = Busy::new(one);
    session.send();
    authority.write("rot13d.toml", &format!("listen = \"{other}\"\n"));
    server.signal(Signal::HUP);
    server.log_line(&format!("SIGHUP: listener {other} is new"));
    server.log_line(&format!("SIGHUP: listener {one} is closed"));
    greet(&mut connect(other));
    assert!(TcpStream::connect(one).is_err());
    session.receive();
}

/// A listener on a free port, behind proxies on this machine.
fn behind(requirement: &str) -> String {
    format!(
        "[[listener]]\nname = \"{requirement}\"\naddress = \"127.0.0.1:0\"\nproxy = \"{requirement}\"\n\
         proxy-from = [\"127.0.0.0/8\"]\n"
    )
}

/// A header of version 1 that names a peer.
fn header(peer: &str) -> Vec<u8> {
    format!("PROXY TCP4 {peer} 192.0.2.1 1024 40713\r\n").into_bytes()
}

#[test]
fn the_peer_of_a_proxys_header_is_the_peer_in_lists_and_in_the_log() {
    let authority = Authority::new();
    let text = "deny = \"192.0.2.66\"\n".to_owned() + &behind("required") + &behind("optional");
    let mut command = rot13d();
    command.args(["-v", "--config", &authority.write("rot13d.toml", &text)]);
    let server = Server::launch(command);
    let addresses: Vec<_> = server.log_lines("listening on ", 2).iter().map(|line| address_in(line)).collect();
    for address in &addresses {
        let hello = [header("192.0.2.7"), b"Hello\n".to_vec()].concat();
        assert_eq!(support::converse(*address, &hello), b"Uryyb\n");
        let denied = [header("192.0.2.66"), b"Hello\n".to_vec()].concat();
        assert_eq!(support::converse(*address, &denied), b"");
    }
    for line in server.log_lines("from 192.0.2.7:1024", 2) {
        assert!(line.contains("peer-eof"), "{line}");
    }
    await_counter(&server, "refused: denied 2");
}

#[test]
fn a_header_is_required_or_optional_and_believed_of_proxies_alone() {
    let authority = Authority::new();
    let strangers = behind("optional")
        .replace("\"optional\"\naddress", "\"strangers\"\naddress")
        .replace("127.0.0.0/8", "192.0.2.0/24");
    let text = behind("required") + "proxy-timeout = \"1s\"\n" + &behind("optional") + &strangers;
    let (server, addresses) = start(&authority.write("rot13d.toml", &text), 3);
    assert_eq!(support::converse(addresses[0], b"Hello\n"), b"");
    await_counter(&server, "proxy-missing 1");
    let mut silent = connect(addresses[0]);
    assert_eq!(support::rest(&mut silent), b"");
    await_counter(&server, "proxy-timeout 1");
    assert_eq!(support::converse(addresses[0], b"PROXY TCP4 192.0.2.7\r\n"), b"");
    await_counter(&server, "proxy-invalid 1");
    assert_eq!(support::converse(addresses[1], b"Hello\n"), b"Uryyb\n");
    assert_eq!(support::converse(addresses[2], &header("192.0.2.7")), support::tr(&header("192.0.2.7")));
}

#[test]
fn a_header_comes_before_tls_and_tls_before_telnet() {
    const IAC: u8 = 255;
    const AYT: u8 = 246;
    let authority = Authority::new();
    authority.issue("server", &["localhost"]);
    let file = authority.write("rot13d.toml", &(behind("required") + "telnet = true\n" + TLS));
    let (_server, addresses) = start(&file, 1);
    let mut stream = connect(addresses[0]);
    stream.write_all(&header("192.0.2.7")).unwrap();
    let mut peer = TlsPeer::over(&authority.client(), stream, "localhost").expect("a handshake behind the header");
    assert_eq!([peer.line(&[IAC, AYT]), peer.line(b"")].concat(), b"\r\n[Yes]\r\n");
    peer.greet();
}

#[test]
fn proxies_on_a_unix_socket_are_believed_by_their_user() {
    let authority = Authority::new();
    let path = authority.path("a.sock");
    let text = format!(
        "[[listener]]\nname = \"a\"\naddress = \"unix:{}\"\nproxy = \"required\"\nproxy-from = \"uid:{}\"\n",
        path.display(),
        rustix::process::geteuid().as_raw()
    );
    let mut command = rot13d();
    command.args(["--config", &authority.write("rot13d.toml", &text)]);
    let server = Server::launch(command);
    server.log_line("listening on ");
    let mut stream = UnixStream::connect(&path).expect("it listens");
    stream.write_all(&[header("192.0.2.7"), b"Hello\n".to_vec()].concat()).unwrap();
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"Uryyb\n");
}

#[test]
fn who_may_connect_to_a_listener_is_its_own_and_so_are_its_counters() {
    let authority = Authority::new();
    let one = plain(&["full"]) + "max-sessions = 1\n";
    let text =
        format!("{one}{}allow = \"192.0.2.0/24\"\n{}deny = \"192.0.2.66\"\n", plain(&["closed"]), behind("optional"));
    let (server, addresses) = start(&authority.write("rot13d.toml", &text), 3);
    let mut session = connect(addresses[0]);
    greet(&mut session);
    assert_eq!(support::converse(addresses[0], b"Hello\n"), b"too many connections, try again later\r\n");
    assert_eq!(support::rest(&mut connect(addresses[1])), b"");
    let hello = |peer: &str| [header(peer), b"Hello\n".to_vec()].concat();
    assert_eq!(support::converse(addresses[2], &hello("192.0.2.7")), b"Uryyb\n");
    assert_eq!(support::converse(addresses[2], &hello("192.0.2.66")), b"");
    for counted in [
        "of listener full: 1 live, 1 opened, closed: none; refused: listener-full 1; 1 line and 6 bytes in, 6 bytes out",
        "of listener closed: 0 live, 0 opened, closed: none; refused: denied 1; 0 lines",
        "of listener optional: 0 live, 2 opened, closed: peer-eof 1, refused 1; refused: denied 1; 1 line and 6 bytes in",
    ] {
        await_counter(&server, counted);
    }

    // More for those who come from now on.
    authority.write("rot13d.toml", &text.replace("max-sessions = 1", "max-sessions = 2"));
    server.signal(Signal::HUP);
    server.log_line("SIGHUP: listener full is changed");
    greet(&mut connect(addresses[0]));
    greet(&mut session);
}

#[test]
fn a_hangup_turns_headers_on_and_off_for_connections_to_come() {
    let authority = Authority::new();
    let (with, without) = (behind("required"), plain(&["required"]));
    let file = authority.write("rot13d.toml", &with);
    let (server, addresses) = start(&file, 1);
    let hello = [header("192.0.2.7"), b"Hello\n".to_vec()].concat();
    let mut session = connect(addresses[0]);
    session.write_all(&header("192.0.2.7")).unwrap();
    greet(&mut session);
    authority.write("rot13d.toml", &without);
    server.signal(Signal::HUP);
    server.log_line("SIGHUP: listener required is changed");
    assert_eq!(support::converse(addresses[0], &hello), support::tr(&hello));
    authority.write("rot13d.toml", &with);
    server.signal(Signal::HUP);
    server.log_lines("SIGHUP: listener required is changed", 2);
    assert_eq!(support::converse(addresses[0], &hello), b"Uryyb\n");
    greet(&mut session);
}

/// A block of the manual in this language.
fn of_the_manual(language: &str) -> String {
    let manual = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operating.md")).unwrap();
    let (_, behind) = manual.split_once("**Behind a proxy.**").expect("the section");
    let (_, block) = behind.split_once(&format!("```{language}\n")).expect("the block");
    block.split_once("```").expect("its end").0.to_owned()
}

/// A process that ends with this.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs haproxy and nginx; tests/run runs it"]
fn the_manuals_configurations_of_proxies_work() {
    let authority = Authority::new();
    let file = authority.write("rot13d.toml", &of_the_manual("toml").replace("40714", "0"));
    let mut command = rot13d();
    command.args(["-v", "--config", &file]);
    let server = Server::launch(command);
    let to = address_in(&server.log_line("listening on "));
    for (program, language, before, arguments) in [
        ("haproxy", "haproxy", "", &["-db", "-f"][..]),
        (
            "nginx",
            "nginx",
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\nmaster_process off;\npid nginx.pid;\n\
             error_log stderr;\nevents {}\n",
            &["-e", "stderr", "-p", ".", "-c"],
        ),
    ] {
        let (_reserved, front) = support::reserve();
        let text = of_the_manual(language).replace("127.0.0.1:40714", &to.to_string());
        let text =
            text.replace("bind :40713", &format!("bind {front}")).replace("listen 40713", &format!("listen {front}"));
        let file = authority.write(&format!("{program}.conf"), &format!("{before}{text}"));
        let mut command = Command::new(program);
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        command.args(arguments).arg(&file).env("PATH", path).current_dir(authority.path(""));
        let _proxy = Killed(command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("the proxy starts"));
        let mut stream = support::eventually("the proxy to listen", || TcpStream::connect(front).ok());
        let peer = stream.local_addr().unwrap();
        // All of it, and the answers behind a half-close.
        let answers = support::converse_over(&mut stream, b"Hello\nworld\n");
        assert_eq!(answers, b"Uryyb\njbeyq\n", "{program}");
        server.log_line(&format!("from {peer}"));
    }
    await_counter(&server, "probe ");
}

#[test]
fn a_hangup_changes_the_mode_of_a_path_in_place_and_says_what_it_cannot_change() {
    let authority = Authority::new();
    let path = authority.path("a.sock");
    let text = |mode: &str, v6only: &str| {
        format!(
            "[[listener]]\nname = \"local\"\naddress = \"unix:{}\"\nmode = \"{mode}\"\n\
             [[listener]]\nname = \"all\"\naddress = \"[::]:0\"\nv6only = {v6only}\n",
            path.display()
        )
    };
    let is = || {
        let file = fs::symlink_metadata(&path).unwrap();
        (file.ino(), file.mode() & 0o777)
    };
    let file = authority.write("rot13d.toml", &text("0660", "false"));
    let mut command = rot13d();
    command.args(["--config", &file]);
    let server = Server::launch(command);
    server.log_lines("listening on ", 2);
    let (inode, _) = is();
    authority.write("rot13d.toml", &text("0606", "false"));
    server.signal(Signal::HUP);
    server.log_line("is in force");
    assert_eq!(is(), (inode, 0o606));
    // What was changed before the error is as it was.
    authority.write("rot13d.toml", &text("0666", "true"));
    server.signal(Signal::HUP);
    let said = server.log_line("SIGHUP: nothing is changed: listener all: ");
    assert!(said.ends_with("close the listener, then add it again"), "{said}");
    assert_eq!(is(), (inode, 0o606));
}

#[test]
fn a_unix_socket_has_the_mode_of_the_file_and_is_gone_at_the_end() {
    let authority = Authority::new();
    let path = authority.path("a.sock");
    let text = format!("[[listener]]\nname = \"a\"\naddress = \"unix:{}\"\nmode = \"0620\"\n", path.display());
    let mut command = rot13d();
    command.args(["--config", &authority.write("rot13d.toml", &text)]);
    let mut server = Server::launch(command);
    server.log_line("listening on unix:");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
    let mut peer = UnixStream::connect(&path).unwrap();
    peer.set_read_timeout(Some(support::PATIENCE)).unwrap();
    peer.write_all(b"Hello\n").unwrap();
    let mut answer = [0; 6];
    peer.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"Uryyb\n");
    drop(peer);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().0, Some(0));
    assert!(!path.exists(), "the path is removed at the end");
}

#[test]
fn telnet_is_behind_tls_and_off_unless_asked_for() {
    let authority = Authority::new();
    authority.issue("server", &["localhost"]);
    let plain = "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\n";
    let telnet = secure("telnet").replace("[listener.tls]", "telnet = true\n[listener.tls]");
    let (_server, addresses) = start(&authority.write("rot13d.toml", &(plain.to_owned() + &telnet)), 2);
    // IAC AYT, IAC IAC.
    let sent = b"\xFF\xF6Hello\xFF\xFF\n";
    assert_eq!(support::converse(addresses[0], sent), b"\xFF\xF6Uryyb\xFF\xFF\n");
    let mut peer = TlsPeer::connect(&authority.client(), addresses[1], "localhost");
    assert_eq!(peer.line(b"\xFF\xF1Hello\xFF\xFF\n"), b"Uryyb\xFF\xFF\n");
}

#[test]
#[ignore = "needs openssl; tests/run runs it"]
fn openssl_gets_its_answers() {
    let authority = Authority::new();
    authority.issue("server", &["localhost"]);
    let (_server, addresses) = start(&authority.write("rot13d.toml", &secure("a")), 1);
    for version in ["-tls1_2", "-tls1_3"] {
        let mut command = Command::new("timeout");
        command.args([
            "60",
            "openssl",
            "s_client",
            version,
            "-quiet",
            "-verify_return_error",
            "-servername",
            "localhost",
        ]);
        command.arg("-CAfile").arg(authority.path("ca.pem")).args(["-connect", &addresses[0].to_string()]);
        let mut openssl = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        // It ends at the end of its input, without a look at what comes.
        let mut input = openssl.stdin.take().unwrap();
        input.write_all(b"Hello\n").unwrap();
        let mut answer = [0; 6];
        openssl.stdout.take().unwrap().read_exact(&mut answer).expect("an answer within a minute");
        assert_eq!(answer, *b"Uryyb\n", "{version}");
        openssl.kill().unwrap();
        openssl.wait().unwrap();
    }
}
