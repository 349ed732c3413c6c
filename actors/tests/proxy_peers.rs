//! Behind proxies that others wrote: HAProxy and nginx; socat says a header by hand.

#[path = "support/tls.rs"]
mod authority;
#[path = "support/folder.rs"]
mod folder;
#[path = "support/logged.rs"]
mod logged;
mod support;
#[path = "support/who.rs"]
mod who;

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use actix_lines::{
    Address, CloseReason, Connection, LineServer, Listener, Peers,
    proxy::{Proxy, ProxyHeader, ProxySsl},
};
use authority::Authority;
use folder::Folder;
use log::LevelFilter;
use logged::{keep_log, take_logged_here};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    support::{Peer, Server, eventually, within},
    who::{Who, via},
};

/// The peer, by what way it came, and what the header says of the proxy's TLS.
fn who(connection: &Connection) -> String {
    let via = via(connection);
    let header = connection.proxy();
    let ssl = header.and_then(ProxyHeader::ssl);
    let tls = ssl.as_ref().map_or("no TLS".to_owned(), |ssl| {
        let name = if ssl.is_verified() { ssl.common_name() } else { None };
        let has_cipher = ssl.cipher().is_some_and(|cipher| cipher.contains("GCM") || cipher.contains("CHACHA20"));
        format!("{} {} cipher {has_cipher}", ssl.version().unwrap_or("none"), name.unwrap_or("nobody"))
    });
    assert!(ssl.as_ref().is_none_or(ProxySsl::is_tls));
    let authority = header.and_then(ProxyHeader::authority).unwrap_or("none");
    let id = header.and_then(ProxyHeader::unique_id).map_or("none".to_owned(), |id| String::from_utf8_lossy(id).into());
    let has_sum = header.is_some_and(|header| header.field(0x03).is_some());
    format!(
        "{} at {} via {via}, {tls}, {authority}, id {id}, sum {has_sum}\n",
        connection.peer_addr(),
        connection.local_addr()
    )
}

impl Folder {
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }
}

/// A proxy that runs until this is dropped.
struct Running {
    child: Child,
    address: SocketAddr,
    _folder: Folder,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Starts a proxy whose configuration is made for the address that it listens at.
    async fn start(command: impl Fn(&Folder, SocketAddr) -> Command) -> Self {
        // Somebody else may take the port before the proxy does.
        for _ in 0..10 {
            let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let folder = Folder::new("proxies");
            let mut command = command(&folder, address);
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let mut running = Self { child, address, _folder: folder };
            let mut has_ended = false;
            eventually("the proxy to listen", async || {
                has_ended = running.child.try_wait().unwrap().is_some();
                has_ended || is_listening(running.child.id(), address)
            })
            .await;
            if !has_ended {
                return running;
            }
        }
        panic!("the proxy does not start");
    }

    async fn haproxy(frontend: &str, server: &str) -> Self {
        let (frontend, server) = (frontend.to_owned(), server.to_owned());
        Self::start(move |folder, address| {
            let text = format!(
                "global\n  nbthread 1\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 20s\n  timeout client 1h\n  \
                 timeout server 1h\n  timeout check 20s\nfrontend front\n  bind {address} {frontend}\n  default_backend \
                 back\nbackend back\n  server lines {server}\n"
            );
            let mut command = Command::new(find("haproxy"));
            command.args(["-db", "-f"]).arg(folder.write("haproxy.cfg", &text));
            command
        })
        .await
    }
}

/// Looks whether a process itself listens there, without a connection, which it would pass on.
fn is_listening(process: u32, address: SocketAddr) -> bool {
    let SocketAddr::V4(address) = address else { return false };
    let end = format!(":{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let inodes = table.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        (fields.get(1)?.ends_with(&end) && *fields.get(3)? == "0A").then(|| format!("socket:[{}]", fields[9]))
    });
    let inodes: Vec<_> = inodes.collect();
    let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    let mut links = descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    links.any(|link| inodes.iter().any(|inode| link == Path::new(inode)))
}

/// Where Debian has a server, which is not in the path of every user.
fn find(name: &str) -> PathBuf {
    let places = ["/usr/sbin", "/usr/local/sbin", "/usr/bin"].map(|folder| Path::new(folder).join(name));
    places.into_iter().find(|path| path.exists()).unwrap_or_else(|| panic!("{name} is not installed: run tests/run"))
}

fn required(trusted: &str) -> Proxy {
    Proxy::required().trust([trusted.parse::<Peers>().unwrap()])
}

async fn serve(listener: Listener) -> Server {
    Server::of(LineServer::new(|_| Who(who)).on_current_arbiter().listen(listener).unwrap()).await
}

async fn serve_tcp() -> Server {
    serve(Listener::tcp("127.0.0.1:0").proxy(required("127.0.0.0/8"))).await
}

/// Asks who it is by way of a proxy, and more, with a half-close; the report has the same peer.
async fn converse(server: &mut Server, proxy: SocketAddr, via: &str) {
    let mut peer = Peer::connect(proxy).await;
    let real = peer.stream.local_addr().unwrap();
    let payload = "a line of some length\n".repeat(5000);
    peer.send(b"who\n").await;
    peer.expect(format!("{real} at {proxy} via {via}, no TLS, none, id none, sum false\n").as_bytes()).await;
    let (mut read, mut write) = peer.stream.split();
    let sent = async {
        write.write_all(payload.as_bytes()).await.unwrap();
        write.write_all(b"and a tail").await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut answer = String::new();
    let (_, read) = within("the answer", async { tokio::join!(sent, read.read_to_string(&mut answer)) }).await;
    read.unwrap();
    assert_eq!(answer, payload + "and a tail");
    let report = server.report().await;
    assert_eq!((report.reason, report.peer, report.lines_in), (CloseReason::PeerEof, Address::Ip(real), 5002));
}

#[actix::test]
#[ignore = "needs haproxy: run tests/run"]
async fn haproxy_names_the_peer_by_both_versions_over_tcp_and_unix_sockets() {
    for options in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c"] {
        let mut server = serve_tcp().await;
        let proxy = Running::haproxy("", &format!("{} {options}", server.address())).await;
        for _ in 0..3 {
            if options.ends_with("crc32c") {
                let mut peer = Peer::connect(proxy.address).await;
                let real = peer.stream.local_addr().unwrap();
                peer.send(b"who\n").await;
                let at = proxy.address;
                peer.expect(format!("{real} at {at} via ip, no TLS, none, id none, sum true\n").as_bytes()).await;
                drop(peer);
                server.report().await;
            } else {
                converse(&mut server, proxy.address, "ip").await;
            }
        }
        drop(proxy);
        server.end().await;
    }
    for options in ["send-proxy", "send-proxy-v2"] {
        let folder = Folder::new("proxies");
        let socket = folder.path("lines.sock");
        let mut server = serve(Listener::unix(&socket).proxy(required("unix"))).await;
        let proxy = Running::haproxy("", &format!("unix@{} {options}", socket.display())).await;
        converse(&mut server, proxy.address, "unix").await;
        drop(proxy);
        server.end().await;
    }
}

#[actix::test]
#[ignore = "needs haproxy: run tests/run"]
async fn haproxy_tells_of_the_tls_that_it_ends() {
    let authority = Authority::new();
    let files = authority.issue("haproxy", &["localhost"]);
    let own = authority.issue("alice", &["alice.example"]);
    let mut server = serve_tcp().await;
    let both = authority.path("both.pem");
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    authority::write_key(&both, &(read(&files.certificate) + &read(&files.key)));
    let frontend = format!(
        "ssl crt {} ca-file {} verify optional\n  unique-id-format conversation-%pid",
        both.display(),
        authority.file().display()
    );
    let options = "send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,unique-id,crc32c,authority";
    let proxy = Running::haproxy(&frontend, &format!("{} {options}", server.address())).await;
    for (own, name) in [(Some(own), "alice"), (None, "nobody")] {
        for (version, text) in [
            (&actix_lines::tls::rustls::version::TLS12, "TLSv1.2"),
            (&actix_lines::tls::rustls::version::TLS13, "TLSv1.3"),
        ] {
            let mut client = authority.client();
            client.own = own.clone();
            client.versions = vec![version];
            let mut peer = client.connect(proxy.address, "localhost").await;
            let real = peer.get_ref().0.local_addr().unwrap();
            peer.write_all(b"who\n").await.unwrap();
            let expected = format!(
                "{real} at {} via ip, {text} {name} cipher true, localhost, id conversation-{}, sum true\n",
                proxy.address,
                proxy.child.id()
            );
            let mut answer = vec![0; expected.len()];
            within("an answer", peer.read_exact(&mut answer)).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&answer), expected);
            drop(peer);
            assert_eq!(server.report().await.peer, Address::Ip(real));
        }
    }
    drop(proxy);
    server.end().await;
}

#[actix::test]
#[ignore = "needs haproxy: run tests/run"]
async fn checks_of_haproxy_are_probes_and_neither_failures_nor_in_the_log() {
    keep_log("", LevelFilter::Info);
    for options in ["send-proxy check-send-proxy", "send-proxy-v2 check-send-proxy"] {
        let mut server = serve_tcp().await;
        take_logged_here();
        let server_options = format!("{} check inter 50ms {options}", server.address());
        let proxy = Running::haproxy("", &server_options).await;
        for _ in 0..10 {
            let report = server.report().await;
            assert_eq!((report.reason, report.lines_in), (CloseReason::Probe, 0), "{options}: {report}");
        }
        assert_eq!(take_logged_here(), Vec::<String>::new(), "{options}");
        // HAProxy is content: it still passes connections on.
        let mut peer = Peer::connect(proxy.address).await;
        let real = peer.stream.local_addr().unwrap();
        peer.send(b"who\n").await;
        let at = proxy.address;
        peer.expect(format!("{real} at {at} via ip, no TLS, none, id none, sum false\n").as_bytes()).await;
        drop((peer, proxy));
        let closed = server.handle.stats().await.unwrap().closed;
        assert!(closed.keys().all(|reason| *reason == "probe" || *reason == "peer-eof"), "{closed:?}");
        server.end_all().await;
    }
}

#[actix::test]
#[ignore = "needs nginx and libnginx-mod-stream: run tests/run"]
async fn nginx_names_the_peer_over_tcp_and_unix_sockets() {
    const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let folder = Folder::new("proxies");
    let socket = folder.path("lines.sock");
    let tcp = serve_tcp().await;
    let unix = serve(Listener::unix(&socket).unix_mode(0o666).proxy(required("unix"))).await;
    let to = [tcp.address().to_string(), format!("unix:{}", socket.display())];
    for ((mut server, to), via) in [tcp, unix].into_iter().zip(to).zip(["ip", "unix"]) {
        let proxy = Running::start(|folder, address| {
            let load = if Path::new(MODULE).exists() { format!("load_module {MODULE};\n") } else { String::new() };
            let path = |name: &str| folder.path(name).display().to_string();
            let text = format!(
                "{load}daemon off;\nmaster_process off;\npid {};\nerror_log {} crit;\nevents {{ worker_connections 64; \
                 }}\nstream {{\n  access_log off;\n  server {{\n    listen {address};\n    proxy_protocol on;\n    \
                 proxy_half_close on;\n    proxy_timeout 1h;\n    proxy_pass {to};\n  }}\n}}\n",
                path("nginx.pid"),
                path("nginx.log"),
            );
            let mut command = Command::new(find("nginx"));
            command.arg("-c").arg(folder.write("nginx.conf", &text));
            command.arg("-e").arg(folder.path("nginx.log"));
            command
        })
        .await;
        for _ in 0..3 {
            converse(&mut server, proxy.address, via).await;
        }
        drop(proxy);
        server.end().await;
    }
}

#[actix::test]
#[ignore = "needs socat: run tests/run"]
async fn a_header_by_hand_through_socat_is_one_however_it_comes() {
    let mut server = serve_tcp().await;
    let header = "PROXY TCP6 2001:db8::7 2001:db8::1 1024 443\r\n";
    let to = format!("TCP:{}", server.address());
    let run = async |input: String| {
        let mut command = Command::new("timeout");
        // Byte by byte on its way: socat reads as little at once.
        command.args(["50", "socat", "-b", "1", "-t", "60", "-", &to]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let ended = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            // It may have ended already.
            let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
            child.wait_with_output().unwrap()
        });
        String::from_utf8_lossy(&within("socat", ended).await.unwrap().stdout).into_owned()
    };
    let answer = run(format!("{header}who\nand a tail")).await;
    let expected = "[2001:db8::7]:1024 at [2001:db8::1]:443 via ip, no TLS, none, id none, sum false\nand a tail";
    assert_eq!(answer, expected);
    let report = server.report().await;
    assert_eq!(report.peer.to_string(), "[2001:db8::7]:1024");
    assert_eq!(run("who\n".to_owned()).await, "");
    assert_eq!(server.report().await.reason.name(), "proxy-missing");
    server.end().await;
}
