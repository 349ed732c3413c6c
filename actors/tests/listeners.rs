//! Listeners: several in one server, each with its own name, address, framing, limits and protocol; TCP, unix or inherited.
//!
//! Not here: pausing them (`control`), what `[::]` and `0.0.0.0` do together (`server`).

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use actix::Actor;
use actix_lines::{
    Address, BindError, CloseReason, Framing, Line, LineContext, LineHandler, LineServer, ListenAddress, Listener,
    Rot13, ServerHandle,
    control::SessionFilter,
    limits::{Limits, OverLimit},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use crate::{
    folder::Folder,
    support::{Server, at_once, eventually, pass, pause, within},
};

#[path = "support/folder.rs"]
mod folder;
mod support;

impl Folder {
    fn socket(&self) -> PathBuf {
        self.path("socket")
    }
}

/// Says the name of its listener for each line.
struct WhereAmI;

impl Actor for WhereAmI {
    type Context = LineContext<Self>;
}

impl LineHandler for WhereAmI {
    fn line(&mut self, _: Line<'_>, ctx: &mut Self::Context) {
        let listener = ctx.connection().listener().expect("it came in by one");
        ctx.write(format!("{listener} {:?}\n", listener.name()).as_bytes());
    }
}

async fn ask(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), bytes: &[u8], expected: &str) {
    at_once("the server to read", stream.write_all(bytes)).await.unwrap();
    let mut answer = vec![0; expected.len()];
    at_once(expected, stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), expected);
}

fn address(server: &ServerHandle, name: &str) -> SocketAddr {
    let listener = server.listener(name).expect(name);
    listener.local_addr.socket_addr().expect("an IP address")
}

#[actix::test]
async fn each_has_a_name_and_a_framing_of_its_own() {
    let server = LineServer::new(|_| WhereAmI)
        .bind("127.0.0.1:0")
        .unwrap()
        .listen(Listener::tcp("127.0.0.1:0").name("machines").framing(Framing::nul()))
        .unwrap();
    let mut server = Server::of(server).await;
    let [first, machines] = &server.handle.listeners()[..] else { panic!("two listeners") };
    assert_eq!((first.id.get(), first.id.name(), first.id.to_string().as_str()), (0, None, "listener 0"));
    assert_eq!((machines.id.get(), machines.id.name()), (1, Some("machines")));
    let machines = machines.clone();
    let mut unnamed = TcpStream::connect(server.address()).await.unwrap();
    ask(&mut unnamed, b"a\0b\n", "listener 0 None\n").await;
    let mut named = TcpStream::connect(address(&server.handle, "machines")).await.unwrap();
    ask(&mut named, b"a\nb\0", "machines Some(\"machines\")\n").await;
    let filter = SessionFilter::default().listener(machines.id);
    let page = server.handle.sessions(filter).await.unwrap();
    assert_eq!((page.total, page.sessions[0].listener), (1, Some(machines.id)));
    drop(named);
    assert_eq!(server.report().await.listener, Some(machines.id));
    drop(unnamed);
    server.report().await;
    server.end().await;
}

#[actix::test]
async fn each_has_limits_of_its_own_that_a_change_of_the_servers_leaves_alone() {
    pause();
    let idle = |seconds| Limits::builder().idle_timeout(Some(Duration::from_secs(seconds))).build().unwrap();
    let server = LineServer::new(|_| Rot13)
        .limits(idle(1000))
        .on_current_arbiter()
        .bind("127.0.0.1:0")
        .unwrap()
        .listen(Listener::tcp("127.0.0.1:0").name("hasty").limits(idle(10)))
        .unwrap()
        .listen(Listener::tcp("127.0.0.1:0").name("patient").limits(idle(100)))
        .unwrap();
    let mut server = Server::of(server).await;
    let mut streams = Vec::new();
    for address in server.handle.local_addrs().to_vec() {
        let mut stream = at_once("a connection", TcpStream::connect(address)).await.unwrap();
        ask(&mut stream, b"hello\n", "uryyb\n").await;
        streams.push(stream);
    }
    pass(Duration::from_secs(12)).await;
    let hasty = server.report().await;
    assert_eq!((hasty.reason, hasty.listener.unwrap().name()), (CloseReason::IdleTimeout, Some("hasty")));
    let would_end = server.handle.preview_limits(idle(5)).await.unwrap().ends;
    assert_eq!(would_end.len(), 1, "only the server's own session is under the server's limits: {would_end:?}");
    server.handle.set_limits(idle(5)).await.unwrap();
    pass(Duration::from_secs(5)).await;
    assert_eq!(server.report().await.listener.unwrap().get(), 0);
    pass(Duration::from_secs(70)).await;
    assert!(server.report_if_any().is_none(), "the patient one has 100 s");
    pass(Duration::from_secs(20)).await;
    assert_eq!(server.report().await.listener.unwrap().name(), Some("patient"));
    server.end().await;
}

#[actix::test]
async fn sessions_of_all_count_together_and_are_spread_over_the_same_workers() {
    let own = Limits::builder().idle_timeout(None).build().unwrap();
    let limits = Limits::builder().max_sessions(8).over_limit(OverLimit::Wait).build().unwrap();
    let server = LineServer::new(|_| Rot13)
        .limits(limits)
        .workers(2)
        .bind("127.0.0.1:0")
        .unwrap()
        .listen(Listener::tcp("127.0.0.1:0").limits(own))
        .unwrap();
    let mut server = Server::of(server).await;
    let addresses = server.handle.local_addrs().to_vec();
    let mut streams = Vec::new();
    for nth in 0..8 {
        let mut stream = TcpStream::connect(addresses[nth % 2]).await.unwrap();
        ask(&mut stream, b"hello\n", "uryyb\n").await;
        streams.push(stream);
    }
    let sessions = server.sessions().await;
    for number in 0..2 {
        let of_listener = sessions.iter().filter(|session| session.listener.unwrap().get() == number).count();
        let on_worker = sessions.iter().filter(|session| session.worker == number).count();
        assert_eq!((of_listener, on_worker), (4, 4), "listener and worker {number}: {sessions:?}");
    }
    let mut ninth = TcpStream::connect(addresses[1]).await.unwrap();
    at_once("the kernel", ninth.write_all(b"hello\n")).await.unwrap();
    let stats = server.handle.stats().await.unwrap();
    assert_eq!((stats.live, stats.opened), (8, 8), "one place for all");
    drop(streams.remove(0));
    server.report().await;
    let mut answer = [0; 6];
    within("the ninth session", ninth.read_exact(&mut answer)).await.unwrap();
    drop((streams, ninth));
    for _ in 0..8 {
        server.report().await;
    }
    server.end().await;
}

#[actix::test]
async fn one_may_speak_another_protocol_than_the_others() {
    let server = LineServer::new(|_| Rot13)
        .bind("127.0.0.1:0")
        .unwrap()
        .listen_with(Listener::tcp("127.0.0.1:0").name("console"), |_| WhereAmI)
        .unwrap();
    let mut server = Server::of(server).await;
    let mut public = TcpStream::connect(server.address()).await.unwrap();
    ask(&mut public, b"hello\n", "uryyb\n").await;
    let mut console = TcpStream::connect(address(&server.handle, "console")).await.unwrap();
    ask(&mut console, b"hello\n", "console Some(\"console\")\n").await;
    drop((public, console));
    server.report().await;
    server.report().await;
    server.end().await;
}

async fn unix(path: &Path) -> UnixStream {
    at_once("a connection", UnixStream::connect(path)).await.unwrap()
}

#[actix::test]
async fn a_unix_socket_serves_as_tcp_does_and_knows_its_peers() {
    let folder = Folder::new("serves");
    let path = folder.socket();
    let server = LineServer::new(|_| Rot13).listen(Listener::unix(&path).name("local")).unwrap();
    let mut server = Server::of(server).await;
    assert!(server.handle.local_addrs().is_empty());
    assert_eq!(server.handle.listeners()[0].local_addr.to_string(), format!("unix:{}", path.display()));
    let mut peer = unix(&path).await;
    ask(&mut peer, b"hello\n", "uryyb\n").await;
    let info = server.sessions().await.remove(0);
    let credentials = info.peer.unix().expect("a unix socket").credentials();
    if cfg!(target_os = "linux") {
        assert_eq!(credentials.expect("the kernel knows").pid, Some(std::process::id()));
    }
    // Half-close: the tail is answered, then our end comes.
    at_once("the server to read", peer.write_all(b"tail")).await.unwrap();
    peer.shutdown().await.unwrap();
    let mut rest = String::new();
    at_once("the tail and EOF", peer.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, "gnvy");
    let report = server.report().await;
    assert_eq!((report.reason, report.bytes_in, report.bytes_out), (CloseReason::PeerEof, 10, 10));
    assert_eq!((&report.peer, report.cut), (&info.peer, false));
    assert!(path.exists());
    server.end().await;
    assert!(!path.exists(), "it is removed with the listener");
}

#[actix::test]
async fn a_peer_of_a_unix_socket_that_does_not_read_is_held_back() {
    let folder = Folder::new("held");
    let server = LineServer::new(|_| Rot13).listen(Listener::unix(folder.socket())).unwrap();
    let mut server = Server::of(server).await;
    let mut peer = unix(&folder.socket()).await;
    let line = [b'x'; 1023].iter().chain(b"\n").copied().collect::<Vec<_>>();
    let mut taken = 0;
    let mut last = None;
    eventually("the server to stop reading", async || {
        while let Ok(count) = peer.try_write(&line[taken % line.len()..]) {
            taken += count;
        }
        let now = server.sessions().await.first().map(|session| (taken, session.bytes_in));
        now.is_some() && std::mem::replace(&mut last, now) == now
    })
    .await;
    assert!(taken < 4 << 20, "{taken}");
    let whole = taken / line.len() * line.len();
    let mut answers = vec![0; whole];
    within("all answers", peer.read_exact(&mut answers)).await.unwrap();
    assert!(answers.chunks(line.len()).all(|answer| answer == [&[b'k'; 1023][..], b"\n"].concat()));
    drop(peer);
    server.report().await;
    server.end().await;
}

/// The bytes that the kernel takes for a peer that reads none.
async fn taken_for_a_deaf_peer(buffer: usize) -> u64 {
    let folder = Folder::new(&format!("deaf-{buffer}"));
    let server = LineServer::new(|_| Rot13).send_buffer(Some(buffer)).listen(Listener::unix(folder.socket())).unwrap();
    let mut server = Server::of(server).await;
    let mut peer = unix(&folder.socket()).await;
    let line = [&[b'x'; 1023][..], b"\n"].concat();
    let mut last = None;
    eventually("the server to stop reading", async || {
        while peer.try_write(&line).is_ok() {}
        let sessions = server.sessions().await;
        let Some(session) = sessions.first() else { return false };
        let now = Some((session.bytes_in, session.bytes_out));
        std::mem::replace(&mut last, now) == now && session.outbox_bytes > 0
    })
    .await;
    let taken = server.sessions().await[0].bytes_out;
    at_once("the end of our bytes", peer.shutdown()).await.unwrap();
    drop(peer);
    server.report().await;
    server.end().await;
    taken
}

#[actix::test]
async fn the_kernel_holds_no_more_for_a_peer_of_a_unix_socket_than_the_buffer_that_was_set() {
    let (small, large) = (taken_for_a_deaf_peer(16 * 1024).await, taken_for_a_deaf_peer(256 * 1024).await);
    assert!(small <= 16 * 1024 && large > 2 * small, "{small} and {large}");
}

#[actix::test]
async fn who_is_refused_at_a_unix_socket_is_told_so() {
    let folder = Folder::new("refused");
    let limits = Limits::builder().max_sessions(1).over_limit(OverLimit::Refuse).refuse_line("too many\n");
    let server = LineServer::new(|_| Rot13).limits(limits.build().unwrap()).listen(Listener::unix(folder.socket()));
    let mut server = Server::of(server.unwrap()).await;
    let mut first = unix(&folder.socket()).await;
    ask(&mut first, b"hello\n", "uryyb\n").await;
    let mut second = unix(&folder.socket()).await;
    at_once("the kernel", second.write_all(b"hello\n")).await.unwrap();
    let mut told = String::new();
    at_once("the refuse line", second.read_to_string(&mut told)).await.unwrap();
    assert_eq!(told, "too many\n");
    drop((first, second));
    server.report().await;
    server.end().await;
}

#[actix::test]
async fn a_path_that_is_anothers_by_then_stays() {
    let folder = Folder::new("stays");
    let path = folder.socket();
    let server = LineServer::new(|_| Rot13).listen(Listener::unix(&path)).unwrap().start().unwrap();
    fs::remove_file(&path).unwrap();
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    within("the end of the server", server.abort()).await.unwrap();
    within("the end of the workers", server.wait()).await.unwrap();
    assert!(path.exists());
    drop(other);
}

#[actix::test]
async fn a_path_that_cannot_be_had_is_an_error_that_says_what_to_do() {
    let folder = Folder::new("errors");
    let listen =
        |path: &Path| LineServer::new(|_| Rot13).listen(Listener::unix(path)).map(drop).unwrap_err().to_string();
    let nowhere = folder.0.join("nowhere/socket");
    assert!(listen(&nowhere).ends_with("no such file or directory; make its directory first"), "{}", listen(&nowhere));
    let long = folder.0.join("x".repeat(200));
    assert!(listen(&long).ends_with("choose a path of 1 to 107 bytes, without a NUL"), "{}", listen(&long));
    assert!(listen(Path::new("")).ends_with("choose a path of 1 to 107 bytes, without a NUL"));
}

#[actix::test]
async fn a_socket_that_listens_already_is_taken_whatever_its_kind() {
    let folder = Folder::new("inherited");
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let unix_listener = std::os::unix::net::UnixListener::bind(folder.socket()).unwrap();
    let server =
        LineServer::new(|_| Rot13).listen(Listener::inherited(tcp).name("tcp")).unwrap().listen(unix_listener).unwrap();
    let mut server = Server::of(server).await;
    let mut peer = TcpStream::connect(address(&server.handle, "tcp")).await.unwrap();
    ask(&mut peer, b"hello\n", "uryyb\n").await;
    let mut other = unix(&folder.socket()).await;
    ask(&mut other, b"hello\n", "uryyb\n").await;
    drop((peer, other));
    server.report().await;
    server.report().await;
    server.end().await;
    assert!(folder.socket().exists(), "whoever made it removes it");
}

/// The text of the error.
fn error_of(listener: impl Into<Listener>) -> String {
    LineServer::new(|_| Rot13).bind(listener).map(drop).unwrap_err().to_string()
}

#[actix::test]
async fn an_address_is_given_in_whatever_form_it_is_there() {
    let folder = Folder::new("forms");
    let path = folder.socket();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let SocketAddr::V4(any_v4) = any else { unreachable!() };
    let (text, borrowed) = ("127.0.0.1:0".to_owned(), &any);
    let server = LineServer::new(|_| Rot13)
        .bind("127.0.0.1:0")
        .and_then(|server| server.bind("localhost:0"))
        .and_then(|server| server.bind(&text))
        .and_then(|server| server.bind(text.clone()))
        .and_then(|server| server.bind(("localhost", 0)))
        .and_then(|server| server.bind(("127.0.0.1".to_owned(), 0)))
        .and_then(|server| server.bind(any))
        .and_then(|server| server.bind(any_v4))
        .and_then(|server| server.bind(borrowed))
        .and_then(|server| server.bind((any.ip(), 0)))
        .and_then(|server| server.bind(&[any, any][..]))
        .and_then(|server| server.bind("127.0.0.1:0".parse::<ListenAddress>().unwrap()))
        .and_then(|server| server.bind(format!("unix:{}", path.display())))
        .and_then(|server| server.listen(Listener::at("127.0.0.1:0").name("last")))
        .unwrap();
    let mut server = Server::of(server).await;
    let addresses = server.handle.local_addrs().to_vec();
    assert_eq!((addresses.len(), server.handle.listeners().len()), (13, 14));
    for address in addresses {
        let mut peer = at_once("a connection", TcpStream::connect(address)).await.unwrap();
        ask(&mut peer, b"hello\n", "uryyb\n").await;
        drop(peer);
        server.report().await;
    }
    ask(&mut unix(&path).await, b"hello\n", "uryyb\n").await;
    server.report().await;
    server.end().await;
}

#[actix::test]
async fn what_is_no_address_is_an_error_that_says_how_one_is_written() {
    assert_eq!(
        error_of("localhost"),
        "cannot listen on \"localhost\": the port is missing: use an address and a port, as 127.0.0.1:40713 or \
         [::1]:40713, or one of unix:/PATH, unix:@NAME, fd:3 and systemd:NAME"
    );
    assert!(error_of("::1:0").ends_with("an IPv6 address goes in brackets: use [::1]:0"));
    assert!(error_of(("no such host.invalid", 1)).starts_with("cannot look up \"no such host.invalid:1\": "));
}

#[cfg(target_os = "linux")]
#[actix::test]
async fn an_abstract_unix_socket_serves_has_no_file_and_is_free_again_at_its_end() {
    use std::os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixStream},
    };
    let name = format!("actix-lines-abstract-{}", std::process::id());
    let address = format!("unix:@{name}");
    for _ in 0..2 {
        let mut server = Server::of(LineServer::new(|_| Rot13).bind(&address).unwrap()).await;
        assert_eq!(server.handle.listeners()[0].local_addr.to_string(), address);
        let peer = UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        peer.set_nonblocking(true).unwrap();
        let mut peer = tokio::net::UnixStream::from_std(peer).unwrap();
        ask(&mut peer, b"hello\n", "uryyb\n").await;
        let error = error_of(&address);
        assert!(
            error.starts_with(&format!("cannot listen on {address}: another process listens there; end it, ")),
            "{error}"
        );
        drop(peer);
        server.report().await;
        server.end().await;
    }
    assert!(!Path::new(&format!("@{name}")).exists());
}

#[actix::test]
async fn a_descriptor_that_does_not_listen_is_an_error() {
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let error = LineServer::new(|_| Rot13).listen(Listener::inherited(ours)).map(drop).unwrap_err();
    assert!(matches!(&error, BindError::NotListening { address: Address::Unix(_) }), "{error:?}");
    let error = LineServer::new(|_| Rot13)
        .listen(Listener::inherited(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()))
        .map(drop)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("not a listening stream socket; hand over a SOCK_STREAM that listen(2) was called for"),
        "{error}"
    );
}

#[actix::test]
async fn a_listening_socket_of_packets_is_an_error() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
    let folder = Folder::new("packets");
    let packets = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    bind(&packets, &SocketAddrUnix::new(folder.socket()).unwrap()).unwrap();
    listen(&packets, 1).unwrap();
    let error = LineServer::new(|_| Rot13).listen(Listener::inherited(packets)).map(drop).unwrap_err();
    assert!(matches!(&error, BindError::NotListening { .. }), "{error:?}");
}

#[actix::test]
async fn a_listener_of_another_server_cannot_be_paused() {
    let server = |name| {
        let listener = Listener::tcp("127.0.0.1:0").name(name);
        LineServer::new(|_| Rot13).workers(1).listen(listener).unwrap().start().unwrap()
    };
    let (first, second) = (server("first"), server("second"));
    assert!(!first.pause(second.listeners()[0].id).await.unwrap());
    assert!(first.pause(first.listeners()[0].id).await.unwrap());
    for server in [first, second] {
        server.abort().await.unwrap();
        within("the end of the workers", server.wait()).await.unwrap();
    }
}

#[actix::test]
async fn an_urgent_byte_over_a_unix_socket_is_a_byte_like_the_others() {
    use rustix::net::{SendFlags, send};
    let folder = Folder::new("urgent");
    let server = LineServer::new(|_| Rot13).workers(1).listen(Listener::unix(folder.socket())).unwrap();
    let mut server = Server::of(server).await;
    let mut peer = unix(&folder.socket()).await;
    send(&peer, b"ab", SendFlags::OOB).unwrap();
    ask(&mut peer, b"c\n", "nop\n").await;
    drop(peer);
    assert_eq!(server.report().await.bytes_in, 4);
    server.end().await;
}

#[actix::test]
async fn whoever_is_handed_a_socket_knows_when_its_listener_is_closed() {
    let held = std::sync::Arc::new(());
    let seen = std::sync::Arc::new(std::sync::Mutex::new(None));
    let (hold, see) = (held.clone(), seen.clone());
    let listener = Listener::tcp("127.0.0.1:0").when_listening(move |socket, address| {
        *see.lock().unwrap() = Some((socket.try_clone_to_owned().unwrap(), address.clone()));
        hold
    });
    let server = LineServer::new(|_| Rot13).workers(2).listen(listener).unwrap();
    assert!(seen.lock().unwrap().is_none(), "it was called before the start");
    let server = server.start().unwrap();
    let address = server.local_addrs()[0];
    let (socket, said) = seen.lock().unwrap().take().expect("it was not called");
    assert_eq!(said, address.into());
    drop(tokio::net::TcpStream::connect(address).await.unwrap());
    support::eventually("the session", async || server.stats().await.unwrap().opened == 1).await;
    assert_eq!(std::sync::Arc::strong_count(&held), 2, "it was dropped while the listener accepts");
    server.abort().await.unwrap();
    server.wait().await.unwrap();
    assert_eq!(std::sync::Arc::strong_count(&held), 1, "it outlives the listener");
    assert!(std::net::TcpStream::connect(address).is_ok(), "the duplicate listens no more");
    drop(socket);
}
