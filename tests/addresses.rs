//! IP addresses of rot13d as a process: listeners of both families, IPv4 peers of IPv6 listeners, options of their sockets.
//!
//! Not here: lists and limits of IPv4 peers (the library's own tests), unix sockets (`unix`).

mod support;

use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use rustix::{
    net::{getpeername, sockopt},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open},
};
use support::{Server, connect, greet, rot13d};

/// False on a machine without IPv6, where there is nothing to test.
fn has_ipv6() -> bool {
    let has_ipv6 = TcpListener::bind("[::1]:0").is_ok();
    if !has_ipv6 {
        eprintln!("not tested: this machine has no IPv6");
    }
    has_ipv6
}

fn start(arguments: &[&str]) -> Server {
    let mut command = rot13d();
    command.args(arguments);
    Server::spawn(command)
}

fn with_file(settings: &str) -> Server {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = LAST.fetch_add(1, Relaxed);
    let path = std::env::temp_dir().join(format!("rot13d-addresses-{}-{number}.toml", std::process::id()));
    fs::write(&path, format!("[[listener]]\nname = \"a\"\naddress = \"[::]:0\"\n{settings}")).unwrap();
    let mut command = rot13d();
    command.args(["-v", "--config"]).arg(&path);
    let mut server = Server::launch(command);
    let line = server.log_line("listening on ");
    fs::remove_file(&path).unwrap();
    let port = line.rsplit_once(':').unwrap().1.split(' ').next().unwrap().parse().unwrap();
    server.address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    server
}

#[test]
fn a_listener_of_the_file_takes_ipv4_peers_unless_it_is_for_ipv6_only() {
    if !has_ipv6() {
        return;
    }
    for settings in ["", "v6only = false\n"] {
        let server = with_file(settings);
        greet(&mut server.connect());
        assert_eq!(TcpListener::bind(server.address).unwrap_err().kind(), ErrorKind::AddrInUse, "{settings:?}");
    }
    // Somebody may have one port of IPv4 by chance.
    let mut attempts = (0..20).filter_map(|_| {
        let server = with_file("v6only = true\n");
        let other = TcpListener::bind(server.address).ok()?;
        Some((server, other))
    });
    let (server, other) = attempts.next().expect("it leaves its port of IPv4 to others");
    let peer = server.connect();
    assert_eq!(other.accept().unwrap().1, peer.local_addr().unwrap(), "the other one has got it");
    greet(&mut connect(SocketAddr::from((Ipv6Addr::LOCALHOST, server.address.port()))));
}

#[test]
fn the_log_has_an_ipv4_peer_of_an_ipv6_listener_as_one() {
    if !has_ipv6() {
        return;
    }
    let server = with_file("");
    let mut peer = server.connect();
    greet(&mut peer);
    let address = peer.local_addr().unwrap();
    drop(peer);
    let line = server.log_line(" closed: ");
    assert!(line.contains(&format!(" from {address} closed: peer-eof")), "{line}");
    let mut peer = connect(SocketAddr::from((Ipv6Addr::LOCALHOST, server.address.port())));
    greet(&mut peer);
    let address = peer.local_addr().unwrap();
    drop(peer);
    let line = server.log_lines(" closed: ", 2).remove(1);
    assert!(line.contains(&format!(" from {address} closed: peer-eof")), "{line}");
}

/// Another descriptor of the server's end of a connection.
fn other_end(server: &Server, peer: &TcpStream) -> OwnedFd {
    let process = pidfd_open(Pid::from_raw(server.id() as i32).unwrap(), PidfdFlags::empty()).unwrap();
    let address = peer.local_addr().unwrap();
    let numbers = fs::read_dir(format!("/proc/{}/fd", server.id())).unwrap();
    numbers
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter_map(|number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok())
        .find(|socket| {
            let other = getpeername(socket).ok().flatten().and_then(|other| SocketAddr::try_from(other).ok());
            other == Some(address)
        })
        .expect("a session with this peer")
}

#[test]
#[ignore = "takes a descriptor of another process, which sandboxes may forbid: run tests/run"]
fn sessions_have_the_keepalive_and_the_user_timeout_of_the_flags() {
    let seconds = Duration::from_secs;
    for (flags, expected) in [
        (&[][..], Some((seconds(300), seconds(50), 6, seconds(600)))),
        (&["--keepalive", "2m"], Some((seconds(120), seconds(20), 6, seconds(240)))),
        (
            &["--keepalive", "2m", "--keepalive-interval", "7s", "--keepalive-count", "9"],
            Some((seconds(120), seconds(7), 9, seconds(183))),
        ),
        (&["--user-timeout", "90s"], Some((seconds(300), seconds(50), 6, seconds(90)))),
        (&["--user-timeout", "off"], Some((seconds(300), seconds(50), 6, Duration::ZERO))),
        (&["--keepalive", "off"], None),
    ] {
        let server = start(&[&["--listen", "127.0.0.1:0"], flags].concat());
        let mut peer = server.connect();
        greet(&mut peer);
        let socket = other_end(&server, &peer);
        let timeout = Duration::from_millis(sockopt::tcp_user_timeout(&socket).unwrap().into());
        let is_kept = sockopt::socket_keepalive(&socket).unwrap();
        let keepalive = is_kept.then(|| {
            let time = sockopt::tcp_keepidle(&socket).unwrap();
            (time, sockopt::tcp_keepintvl(&socket).unwrap(), sockopt::tcp_keepcnt(&socket).unwrap(), timeout)
        });
        assert_eq!(keepalive, expected, "{flags:?}");
        assert!(is_kept || timeout.is_zero(), "{flags:?}: the kernel's own");
        server.signal(Signal::KILL);
    }
}
