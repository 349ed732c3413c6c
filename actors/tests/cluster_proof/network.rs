//! A network of its own for a node, with a cable to this one and a packet filter on it.

use std::process::{Command, Stdio};

use rustix::process::geteuid;

use crate::fleet::{Form, Node};

/// This end of the cable, and the node's.
pub(crate) const HERE: &str = "10.97.15.1";
const THERE: &str = "10.97.15.2";

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(arguments).env("PATH", path).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let says = || format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.status.success().then_some(()).ok_or_else(says)
}

/// Why there can be no network here.
pub(crate) fn missing() -> Option<String> {
    if !geteuid().is_root() {
        return Some("only root can make networks".to_owned());
    }
    // A filter in a network of its own touches nobody's packets.
    run("unshare", &["--net", "sh", "-c", "ip link && iptables -A OUTPUT -p tcp --dport 1 -j DROP"]).err()
}

/// Starts a node whose network reaches this one by a cable alone.
pub(crate) fn node_behind_a_cable(name: &str, store: &str, form: Form) -> Node {
    let mut command = Command::new("unshare");
    command.arg("--net").arg(std::env::current_exe().unwrap());
    let node = Node::start_at(THERE, command, name, store, form);
    let id = node.child.id().to_string();
    let inside = format!("--net=/proc/{id}/ns/net");
    // A name that no other run of this test has.
    let cable = format!("lines{id}");
    for words in [
        &["ip", "link", "add", "name", &cable, "type", "veth", "peer", "name", "cable", "netns", &id][..],
        &["ip", "address", "add", &format!("{HERE}/24"), "dev", &cable],
        &["ip", "link", "set", &cable, "up"],
        &["nsenter", &inside, "ip", "address", "add", &format!("{THERE}/24"), "dev", "cable"],
        &["nsenter", &inside, "ip", "link", "set", "cable", "up"],
    ] {
        run(words[0], &words[1..]).unwrap();
    }
    node
}

/// Drops all packets of a node to and from a port, or none any more.
pub(crate) fn filter(node: &Node, port: Option<u16>) {
    let inside = format!("--net=/proc/{}/ns/net", node.child.id());
    let iptables = |words: &[&str]| run("nsenter", &[&[&*inside, "iptables"], words].concat()).unwrap();
    match port.map(|port| port.to_string()) {
        Some(port) => {
            iptables(&["-A", "OUTPUT", "-p", "tcp", "--dport", &port, "-j", "DROP"]);
            iptables(&["-A", "INPUT", "-p", "tcp", "--sport", &port, "-j", "DROP"]);
        }
        None => iptables(&["-F"]),
    }
}
