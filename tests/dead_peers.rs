//! Peers whose machine or network is gone, without a FIN: the kernel finds them, by probes or by what is not acknowledged.
//!
//! Each server and each peer has a network of its own, with a cable between them.
//! Not here: the options of the sockets (`addresses`), deadlines of sessions (`sessions`, and the library's own tests).

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdout, Command, Stdio},
};

use rustix::process::{Signal, geteuid};
use support::{Server, eventually, finish};

const SERVER: &str = "10.97.13.1/24";
const PEER: &str = "10.97.13.2/24";

/// A peer in a network of its own; killed at the end.
struct Peer {
    socat: Child,
    output: BufReader<ChildStdout>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.socat.kill();
        let _ = self.socat.wait();
    }
}

impl Peer {
    fn send(&mut self, text: &str) {
        let mut input = self.socat.stdin.as_ref().expect("it is piped");
        input.write_all(text.as_bytes()).unwrap();
    }

    #[track_caller]
    fn expect(&mut self, line: &str) {
        let mut got = String::new();
        self.output.read_line(&mut got).unwrap();
        assert_eq!(got, line);
    }

    /// Its machine has this address no more: whatever is sent there is dropped, and nobody says so.
    fn vanish(&self) {
        ip(self.socat.id(), &["address", "del", PEER, "dev", "cable"]);
    }
}

/// Runs ip in the network of a process.
#[track_caller]
fn ip(process: u32, arguments: &[&str]) {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{process}/ns/net")).arg("ip").args(arguments);
    let output = finish(command, b"");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Why there can be no networks here: root may lack what it takes.
fn missing() -> Option<String> {
    if !geteuid().is_root() {
        return Some("only root can make networks".to_owned());
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "ip", "link", "add", "name", "cable", "type", "veth", "peer", "name", "other"]);
    let output = finish(command, b"");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
}

/// A server with these flags and no deadline of its own, and a peer that has been answered.
fn connected(flags: &[&str]) -> Option<(Server, Peer)> {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(["--net", env!("CARGO_BIN_EXE_rot13d"), "-v", "--listen", "0.0.0.0:0", "--workers", "1"]);
    command.args(["--idle-timeout", "off", "--write-timeout", "off", "--line-timeout", "off"]).args(flags);
    command.env_remove("RUST_LOG");
    let server = Server::spawn(command);
    let target = format!("TCP:10.97.13.1:{}", server.address.port());
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "echo ready; read go; exec socat - \"$0\"", &target]);
    let mut socat = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(socat.stdout.take().expect("it is piped"));
    let mut peer = Peer { socat, output };
    peer.expect("ready\n");
    let (ours, theirs) = (server.id(), peer.socat.id());
    let other = theirs.to_string();
    ip(ours, &["link", "add", "name", "cable", "type", "veth", "peer", "name", "cable", "netns", &other]);
    for (process, address) in [(ours, SERVER), (theirs, PEER)] {
        ip(process, &["address", "add", address, "dev", "cable"]);
        ip(process, &["link", "set", "cable", "up"]);
    }
    peer.send("go\nHello\n");
    peer.expect("Uryyb\n");
    Some((server, peer))
}

/// Bytes that wait for the server to read them.
fn unread(server: &Server) -> u64 {
    let table = fs::read_to_string(format!("/proc/{}/net/tcp", server.id())).unwrap();
    let connected = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, unread) = fields.get(4).filter(|_| fields[3] == "01")?.split_once(':')?;
        u64::from_str_radix(unread, 16).ok()
    });
    connected.sum()
}

#[test]
#[ignore = "takes root, to make networks, and needs ip, nsenter and socat: run tests/run"]
fn a_silent_peer_that_is_gone_is_found_by_its_missing_answers_to_probes() {
    let flags = ["--keepalive", "1s", "--keepalive-interval", "1s", "--keepalive-count", "2"];
    let Some((server, peer)) = connected(&flags) else { return };
    peer.vanish();
    let line = server.log_line(" closed: ");
    assert!(
        line.contains(" from 10.97.13.2:") && line.contains(" closed: read failed: timed out, 1 line and 6 bytes in"),
        "{line}"
    );
}

#[test]
#[ignore = "takes root, to make networks, and needs ip, nsenter and socat: run tests/run"]
fn a_peer_that_is_gone_before_it_has_acknowledged_its_answer_is_found_by_the_user_timeout() {
    for flags in [
        &["--keepalive", "off", "--user-timeout", "2s"][..],
        // As long as keepalive takes, which does not probe meanwhile.
        &["--keepalive", "1s", "--keepalive-interval", "1s", "--keepalive-count", "1"],
    ] {
        let Some((server, mut peer)) = connected(flags) else { return };
        // It stands still, so that its answer comes too late.
        server.signal(Signal::STOP);
        peer.send("Me too\n");
        eventually("the line to arrive", || (unread(&server) == 7).then_some(()));
        peer.vanish();
        server.signal(Signal::CONT);
        let line = server.log_line(" closed: ");
        assert!(
            line.contains(" closed: read failed: timed out, 2 lines and 13 bytes in, 13 bytes out"),
            "{flags:?}: {line}"
        );
    }
}
