//! A network of its own for a node, with a cable to this one and a packet filter on it.

use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
};

use rustix::process::geteuid;

use crate::fleet::{Form, Node};

/// Ends of the cable: this one, and the node's. No other run of this test has the same, and nobody else's network is there.
fn ends() -> [Ipv4Addr; 2] {
    let network = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + std::process::id() % (1 << 15) * 4;
    [1, 2].map(|end| Ipv4Addr::from(network + end))
}

/// The address by which the node reaches this network.
pub(crate) fn here() -> Ipv4Addr {
    ends()[0]
}

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
    let [here, there] = ends();
    let node = Node::start_at(&there.to_string(), command, name, store, form);
    let id = node.child.id().to_string();
    let inside = format!("--net=/proc/{id}/ns/net");
    // A name that no other run of this test has.
    let cable = format!("lines{id}");
    for words in [
        &["ip", "link", "add", "name", &cable, "type", "veth", "peer", "name", "cable", "netns", &id][..],
        &["ip", "address", "add", &format!("{here}/30"), "dev", &cable],
        &["ip", "link", "set", &cable, "up"],
        &["nsenter", &inside, "ip", "address", "add", &format!("{there}/30"), "dev", "cable"],
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
