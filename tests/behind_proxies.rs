//! Behind HAProxy and nginx rot13d serves the peers that are there, and knows who they are.
//!
//! Not here: headers that no proxy sends (the library's `proxy`).

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
};

use rustix::{
    net::{AddressFamily, SocketType, bind, connect, socket},
    process::Signal,
};
use support::{PATIENCE, Server, address_in, converse_over, eventually, greet, reserve, rest, rot13d, tr};
use tls::{Authority, TlsPeer};

/// A proxy in front, which ends with its test.
struct Proxy {
    process: Child,
    address: SocketAddr,
    _port: OwnedFd,
}

impl Proxy {
    /// Starts a proxy with a configuration that has `FRONT` where it is to listen.
    fn start(folder: &Authority, program: &str, arguments: &[&str], configuration: &str) -> Self {
        let (port, address) = reserve();
        let file = folder.write(program, &configuration.replace("FRONT", &address.to_string()));
        let mut command = Command::new("/usr/sbin/".to_owned() + program);
        command.args(arguments).arg(&file).current_dir(folder.path(""));
        let output = fs::File::create(folder.path(&format!("{program}.log"))).unwrap();
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let process = command.spawn().unwrap_or_else(|error| panic!("{program} does not start: {error}"));
        let proxy = Self { process, address, _port: port };
        eventually(&format!("{program} to listen: see {file}"), || TcpStream::connect(address).ok());
        proxy
    }

    fn haproxy(folder: &Authority, server: &str) -> Self {
        let configuration = format!(
            "defaults\n mode tcp\n timeout connect 20s\n timeout client 1h\n timeout server 1h\nlisten lines\n bind FRONT\n server rot13d {server}\n"
        );
        Self::start(folder, "haproxy", &["-db", "-f"], &configuration)
    }

    fn nginx(folder: &Authority, server: &str, more: &str) -> Self {
        let modules = fs::read_to_string("/usr/share/nginx/modules-available/mod-stream.conf").unwrap();
        // A relative path begins in the folder that it runs in.
        let modules = modules.replace(" modules/", " /usr/lib/nginx/modules/");
        let configuration = format!(
            "{modules}\ndaemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\nevents {{}}\nstream {{ server {{ listen FRONT; proxy_pass {server}; {more} }} }}\n"
        );
        Self::start(folder, "nginx", &["-p", ".", "-e", "stderr", "-c"], &configuration)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Connects from an address of this machine, so that several peers are several sources.
fn connect_from(source: [u8; 4], address: SocketAddr) -> TcpStream {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from((Ipv4Addr::from(source), 0))).unwrap();
    connect(&socket, &address).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Starts rot13d with a configuration file in the folder.
fn server(folder: &Authority, configuration: &str, arguments: &[&str]) -> Server {
    let file = folder.write("rot13d.toml", configuration);
    let mut command = rot13d();
    command
        .arg("--config")
        .arg(file)
        .args(["-v", "--drain-timeout", "1h"])
        .args(arguments)
        .current_dir(folder.path(""));
    let mut server = Server::launch(command);
    let line = server.log_line("listening on ");
    if !line.contains("unix:") {
        server.address = address_in(&line);
    }
    server
}

fn listener(more: &str) -> String {
    format!("[[listener]]\nname = \"lines\"\naddress = \"127.0.0.1:0\"\n{more}\n")
}

const TRUSTED: &str = "proxy = \"required\"\nproxy-from = [\"127.0.0.1\"]";

/// A megabyte of lines of every byte, and a tail.
fn text() -> Vec<u8> {
    (0..1_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).chain(*b"\nand a tail").collect()
}

/// The peer is answered exactly, and the log names it, not the proxy.
fn assert_served(proxy: &Proxy, server: &Server) {
    let text = text();
    let mut peer = connect_from([127, 0, 0, 2], proxy.address);
    let source = peer.local_addr().unwrap();
    assert_eq!(converse_over(&mut peer, &text), tr(&text));
    server.log_line(&format!("from {source}"));
}

#[test]
#[ignore = "needs haproxy; tests/run runs it"]
fn behind_haproxy_the_real_peer_is_served_and_named_with_either_version_of_the_header() {
    for version in
        ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options ssl,cert-cn,unique-id,crc32c,authority"]
    {
        let folder = Authority::new();
        let server = server(&folder, &listener(TRUSTED), &[]);
        let proxy = Proxy::haproxy(&folder, &format!("{} {version}", server.address));
        assert_served(&proxy, &server);
    }
}

#[test]
#[ignore = "needs haproxy; tests/run runs it"]
fn checks_of_haproxy_are_no_sessions_that_failed() {
    let folder = Authority::new();
    let server = server(&folder, &listener(TRUSTED), &[]);
    let proxy = Proxy::haproxy(&folder, &format!("{} send-proxy-v2 check check-send-proxy inter 20ms", server.address));
    assert_served(&proxy, &server);
    // The counters tell how many there were.
    let counted = eventually("twenty checks", || {
        server.signal(Signal::USR1);
        let line = server.log_line("counters:");
        let probes = server.log().iter().rev().find_map(|line| {
            let (_, probes) = line.split_once("probe ")?;
            probes.split(|other: char| !other.is_ascii_digit()).next()?.parse::<u32>().ok()
        });
        probes.filter(|probes| *probes >= 20).map(|_| line)
    });
    assert!(!counted.is_empty());
    // Of all that the log says, nothing is about them: two connections were none.
    let closed = || server.log().iter().filter(|line| line.contains(" closed: ") && line.contains("session")).count();
    eventually("the ends of both", || (closed() >= 2).then_some(()));
    assert_eq!((closed(), server.log().iter().any(|line| line.contains("failed"))), (2, false), "{:#?}", server.log());
}

#[test]
#[ignore = "needs haproxy; tests/run runs it"]
fn limits_of_a_source_hold_for_the_peers_behind_a_proxy_each_alone() {
    let folder = Authority::new();
    let limits = "max-sessions-per-source = 1\nexempt = \"off\"\ndeny = [\"127.0.0.9\"]\n";
    let server = server(&folder, &format!("{limits}{}", listener(TRUSTED)), &[]);
    let proxy = Proxy::haproxy(&folder, &format!("{} send-proxy-v2", server.address));
    let mut peers: Vec<_> = (2..8).map(|host| connect_from([127, 0, 0, host], proxy.address)).collect();
    peers.iter_mut().for_each(greet);
    let mut second = connect_from([127, 0, 0, 2], proxy.address);
    assert_eq!(rest(&mut second), b"too many connections, try again later\r\n");
    assert_eq!(rest(&mut connect_from([127, 0, 0, 9], proxy.address)), b"");
    peers.iter_mut().for_each(greet);
}

#[test]
#[ignore = "needs haproxy; tests/run runs it"]
fn a_peer_that_does_not_come_by_way_of_the_proxy_is_refused() {
    let folder = Authority::new();
    let server = server(&folder, &listener("proxy = \"required\"\nproxy-from = [\"127.0.0.7\"]"), &[]);
    let mut peer = connect_from([127, 0, 0, 1], server.address);
    let _ = peer.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\nHello\n");
    // At once, with what it sent unread: that is a reset.
    assert!(!matches!(peer.read(&mut [0]), Ok(1..)));
    server.log_line("proxy-untrusted");
}

#[test]
#[ignore = "needs haproxy; tests/run runs it"]
fn behind_haproxy_a_unix_socket_serves_as_a_port_does() {
    let folder = Authority::new();
    let path = folder.path("lines.sock");
    for (proxy, version) in [("", ""), ("proxy = \"required\"\nproxy-from = [\"unix\"]", "send-proxy-v2")] {
        let configuration = format!("[[listener]]\nname = \"lines\"\naddress = \"unix:{}\"\n{proxy}\n", path.display());
        let mut server = server(&folder, &configuration, &[]);
        let proxy = Proxy::haproxy(&folder, &format!("unix@{} {version}", path.display()));
        let text = text();
        let mut peer = connect_from([127, 0, 0, 2], proxy.address);
        let source = peer.local_addr().unwrap();
        assert_eq!(converse_over(&mut peer, &text), tr(&text));
        server.log_line(&if version.is_empty() { "from unix".to_owned() } else { format!("from {source}") });
        server.signal(Signal::TERM);
        assert_eq!(server.wait().0, Some(0));
        assert!(!path.exists(), "the path goes with its server");
    }
}

#[test]
#[ignore = "needs haproxy; tests/run runs it"]
fn tls_is_passed_through_behind_the_header() {
    let folder = Authority::new();
    folder.issue("server", &["localhost"]);
    let tls = "[listener.tls]\ncertificate = \"server.pem\"\nkey = \"server-key.pem\"\n";
    let server = server(&folder, &listener(&format!("{TRUSTED}\n{tls}")), &[]);
    let proxy = Proxy::haproxy(&folder, &format!("{} send-proxy-v2", server.address));
    TlsPeer::connect(&folder.client(), proxy.address, "localhost").greet();
    server.log_line("peer-eof");
}

#[test]
#[ignore = "needs nginx; tests/run runs it"]
fn behind_nginx_the_real_peer_is_served_and_named() {
    let folder = Authority::new();
    let server = server(&folder, &listener(TRUSTED), &[]);
    let proxy = Proxy::nginx(&folder, &server.address.to_string(), "proxy_protocol on; proxy_half_close on;");
    assert_served(&proxy, &server);
}
