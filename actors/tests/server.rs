//! The builder and what it starts: listeners, errors before the start, C3's limit, where sessions run.

mod support;

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use actix::{Actor, System};
use actix_lines::{
    ConfigError, Connection, Framing, Line, LineContext, LineHandler, LineServer, Rot13, StartError,
    control::{SessionQuery, SessionState},
    limits::{Limits, OverLimit, Watermarks},
};
use support::{Counted, Echo, PATIENCE, Peer, Server, eventually, within};

#[actix::test]
async fn several_listeners_serve_and_know_their_number() {
    let server = LineServer::new(|connection| {
        assert!(connection.listener().is_some());
        Echo
    });
    let given = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = given.local_addr().unwrap();
    let server = server.bind("127.0.0.1:0").unwrap().listen(given).unwrap().start().unwrap();
    assert_eq!(server.local_addrs().len(), 2);
    assert_eq!(server.local_addrs()[1], address);
    let mut peers = Vec::new();
    for address in server.local_addrs() {
        let mut peer = Peer::connect(address).await;
        peer.send(b"hello\n").await;
        peer.expect(b"hello\n").await;
        peers.push(peer);
    }
    let listeners: Vec<_> = server
        .sessions(SessionQuery::default())
        .await
        .unwrap()
        .sessions
        .iter()
        .map(|session| session.listener.unwrap().get())
        .collect();
    assert_eq!(listeners, [0, 1]);
    within("the abort", server.abort()).await.unwrap();
}

#[actix::test]
async fn a_server_outlives_the_future_that_runs_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let running = actix_rt::spawn(LineServer::new(|_| Echo).listen(listener).unwrap().disable_signals().run());
    let mut peer = Peer::connect(address).await;
    peer.send(b"hello\n").await;
    peer.expect(b"hello\n").await;
    running.abort();
    assert!(within("the future to be dropped", running).await.unwrap_err().is_cancelled());
    peer.send(b"still there?\n").await;
    peer.expect(b"still there?\n").await;
    let mut other = Peer::connect(address).await;
    other.send(b"hello\n").await;
    other.expect(b"hello\n").await;
}

#[actix::test]
async fn a_port_in_use_is_refused_in_words() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = LineServer::new(|_| Rot13).bind(address).unwrap_err();
    let begin = format!(
        "cannot listen on {address}: address already in use; choose another port, or end whoever listens there"
    );
    let error = error.to_string();
    assert!(error.starts_with(&begin), "{error}");
    // The kernel chose it, so it is one of those.
    assert!(
        error.contains("an outgoing connection may have it") && error.contains("ip_local_reserved_ports"),
        "{error}"
    );
    let error = LineServer::new(|_| Rot13).bind("no such host.invalid:1").unwrap_err();
    assert!(error.to_string().starts_with("cannot look up \"no such host.invalid:1\": "), "{error}");
}

#[actix::test]
async fn the_wildcards_of_both_families_listen_on_one_port_whichever_comes_first() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("not tested: this machine has no IPv6");
        return;
    }
    for [first, second] in [["[::]", "0.0.0.0"], ["0.0.0.0", "[::]"], ["[::]", "127.0.0.1"], ["127.0.0.1", "[::]"]] {
        // One more on each side: places are kept.
        let server = LineServer::new(|_| Echo).bind("127.0.0.1:0").unwrap().bind(format!("{first}:0")).unwrap();
        let port = server.local_addrs()[1].port();
        let server = server.bind(format!("{second}:{port}")).unwrap().bind("127.0.0.1:0").unwrap().start().unwrap();
        let listeners: Vec<_> = server.listeners().iter().map(|listener| listener.local_addr.to_string()).collect();
        assert_eq!(listeners[1..3], [format!("{first}:{port}"), format!("{second}:{port}")]);
        let mut peers = Vec::new();
        for (address, family) in [("127.0.0.1", "0.0.0.0"), ("[::1]", "[::]")] {
            let mut peer = Peer::connect(format!("{address}:{port}").parse().unwrap()).await;
            peer.send(b"hello\n").await;
            peer.expect(b"hello\n").await;
            let session = server.sessions(SessionQuery::default()).await.unwrap().sessions.pop().unwrap();
            let is_v6 =
                server.listeners()[session.listener.unwrap().get()].local_addr.ip().is_some_and(|ip| ip.is_ipv6());
            assert_eq!(is_v6, family == "[::]", "{first} and {second}: {address}");
            peers.push(peer);
        }
        within("the abort", server.abort()).await.unwrap();
    }
}

#[actix::test]
async fn the_ipv6_wildcard_alone_serves_both_families() {
    let Ok(server) = LineServer::new(|_| Echo).bind("[::]:0") else {
        eprintln!("not tested: this machine has no IPv6");
        return;
    };
    let server = server.start().unwrap();
    let port = server.local_addrs()[0].port();
    for address in ["127.0.0.1", "[::1]"] {
        let mut peer = Peer::connect(format!("{address}:{port}").parse().unwrap()).await;
        peer.send(b"hello\n").await;
        peer.expect(b"hello\n").await;
    }
    within("the abort", server.abort()).await.unwrap();
}

#[actix::test]
async fn what_cannot_be_meant_is_said_before_anything_runs() {
    let server = || LineServer::new(|_| Rot13);
    let invalid = |server: LineServer<_, _>| match server.start() {
        Err(StartError::Config(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(invalid(server()), ConfigError::NoListener);
    let bound = || server().bind("127.0.0.1:0").unwrap();
    assert_eq!(invalid(bound().workers(0)), ConfigError::Workers { workers: 0 });
    assert_eq!(invalid(bound().workers(5000)), ConfigError::Workers { workers: 5000 });
    assert_eq!(invalid(bound().backlog(0)), ConfigError::Backlog { backlog: 0 });
    assert_eq!(Limits::builder().max_sessions(0).build(), Err(ConfigError::MaxSessions));
    let even = Watermarks { low: 5, high: 5 };
    assert_eq!(Limits::builder().outbox(even).build(), Err(ConfigError::Watermarks { low: 5, high: 5 }));
    for bytes in [0, Framing::MAX_LINE_LIMIT + 1] {
        assert_eq!(Framing::lf().max_line(bytes), Err(ConfigError::MaxLine { bytes }));
    }
    assert_eq!(ConfigError::MaxLine { bytes: 0 }.to_string(), "max line is 0 bytes: use 1 to 1073741824");
}

#[test]
fn a_server_that_is_started_outside_of_a_system_says_what_to_do() {
    let start = |place: &str| {
        let new = || LineServer::new(|_| Rot13);
        for server in [new().workers(2), new().on_current_arbiter()] {
            let error = server.bind("127.0.0.1:0").unwrap().start().unwrap_err();
            assert!(matches!(error, StartError::NoSystem), "{place}: {error:?}");
            assert!(error.to_string().ends_with("start the server inside of #[actix::main] or System::block_on"));
        }
    };
    start("on a plain thread");
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async { start("on a runtime of tokio alone") });
    let error = tokio.block_on(LineServer::new(|_| Rot13).bind("127.0.0.1:0").unwrap().run()).unwrap_err();
    assert!(error.to_string().starts_with("no actix system runs on this thread"), "{error}");
    System::new().block_on(async {});
    start("after the system");
    let _system = System::new();
    let early = LineServer::new(|_| Rot13).drain_on_signals(Duration::ZERO).bind("127.0.0.1:0").unwrap().start();
    assert!(matches!(early, Err(StartError::NoSystem)), "no runtime hears signals before the system runs: {early:?}");
}

#[test]
fn a_server_may_be_started_before_its_system_runs() {
    for place in [|server| server, LineServer::on_current_arbiter] {
        let system = System::new();
        let server = place(LineServer::new(|_| Echo).workers(2)).bind("127.0.0.1:0").unwrap().start().unwrap();
        system.block_on(async {
            let mut peer = Peer::connect(server.local_addrs()[0]).await;
            peer.send(b"hello\n").await;
            peer.expect(b"hello\n").await;
            within("the abort", server.abort()).await.unwrap();
            within("the end", server.wait()).await.unwrap();
        });
    }
}

#[actix::test]
async fn sessions_over_the_limit_wait_in_the_backlog_and_are_served_later() {
    let limits = Limits::builder().max_sessions(3).over_limit(OverLimit::Wait).build().unwrap();
    let mut server = Server::start(LineServer::new(|_| Echo).limits(limits).workers(2)).await;
    let mut peers = Vec::new();
    for _ in 0..10 {
        let mut peer = server.connect().await;
        peer.send(b"hello\n").await;
        peers.push(peer);
    }
    // Served in the order of arrival: the next one only when one of three has ended.
    for (at, mut peer) in peers.into_iter().enumerate() {
        peer.expect(b"hello\n").await;
        let stats = server.handle.stats().await.unwrap();
        assert!(stats.live <= 3, "{stats:?}");
        assert!(stats.opened <= at as u64 + 3, "{stats:?}");
        drop(peer);
        server.report().await;
    }
    let stats = server.handle.stats().await.unwrap();
    assert_eq!((stats.opened, stats.live, stats.lines_in), (10, 0, 10));
    server.end().await;
}

#[actix::test]
async fn a_lingering_session_counts_against_the_limit() {
    struct Stop;
    impl Actor for Stop {
        type Context = LineContext<Self>;
    }
    impl LineHandler for Stop {
        fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
            ctx.write(&line);
            actix::ActorContext::stop(ctx);
        }
    }
    let limits = Limits::builder()
        .max_sessions(1)
        .over_limit(OverLimit::Wait)
        .linger_timeout(Duration::from_secs(600))
        .build()
        .unwrap();
    let mut server = Server::start(LineServer::new(|_| Stop).limits(limits)).await;
    let mut first = server.connect().await;
    first.send(b"one\n").await;
    assert_eq!(first.rest().await, b"one\n");
    let mut second = server.connect().await;
    second.send(b"two\n").await;
    let stats = server.handle.stats().await.unwrap();
    assert_eq!((stats.opened, stats.live), (1, 1), "the first still lingers");
    assert_eq!(server.sessions().await[0].state, SessionState::Closing);
    drop(first);
    assert_eq!(second.rest().await, b"two\n");
    drop(second);
    server.report().await;
    server.report().await;
    server.end().await;
}

#[actix::test]
async fn connections_go_to_the_least_loaded_worker() {
    let server = Server::start(LineServer::new(|_| Echo).workers(3)).await;
    let mut peers = Vec::new();
    for _ in 0..30 {
        let mut peer = server.connect().await;
        peer.send(b"hello\n").await;
        peer.expect(b"hello\n").await;
        peers.push(peer);
    }
    let sessions = server.sessions().await;
    for worker in 0..3 {
        assert_eq!(sessions.iter().filter(|session| session.worker == worker).count(), 10);
    }
    let ids: BTreeSet<_> = sessions.iter().map(|session| session.id).collect();
    assert_eq!(ids.len(), 30);
    drop(peers);
    eventually("all to end", async || server.handle.stats().await.unwrap().live == 0).await;
}

#[actix::test]
async fn sessions_may_run_on_the_current_arbiter() {
    let here = std::thread::current().id();
    let factory = move |_: &_| {
        assert_eq!(std::thread::current().id(), here);
        Echo
    };
    let mut server = Server::start(LineServer::new(factory).on_current_arbiter()).await;
    let mut peer = server.connect().await;
    peer.send(b"hello\n").await;
    peer.expect(b"hello\n").await;
    drop(peer);
    server.report().await;
    server.end().await;
}

#[actix::test]
async fn an_ended_server_still_answers_what_it_knows() {
    let server = Server::start(LineServer::new(|_| Echo)).await;
    let mut peer = server.connect().await;
    peer.send(b"hello\n").await;
    peer.expect(b"hello\n").await;
    drop(peer);
    let report = within("the drain", server.handle.drain(PATIENCE)).await.unwrap();
    assert_eq!(report.cut, 0);
    within("the end", server.handle.wait()).await.unwrap();
    let stats = within("the counters", server.handle.stats()).await.unwrap();
    assert_eq!((stats.opened, stats.live, stats.lines_in), (1, 0, 1));
    within("a second drain", server.handle.drain(PATIENCE)).await.unwrap();
    assert!(tokio::net::TcpStream::connect(server.address()).await.is_err(), "the listener is closed");
}

#[actix::test]
async fn a_server_that_has_ended_leaves_nothing_behind() {
    for on_current_arbiter in [true, false] {
        let token = Arc::new(());
        let held = Arc::clone(&token);
        let server = LineServer::new(move |_| {
            let _ = &held;
            Echo
        });
        let server = if on_current_arbiter { server.on_current_arbiter() } else { server.workers(2) };
        let server = server.bind("127.0.0.1:0").unwrap().start().unwrap();
        within("the drain", server.drain(PATIENCE)).await.unwrap();
        within("the end", server.wait()).await.unwrap();
        // Nobody else can make a session any more.
        eventually("the factory to be dropped", async || Arc::strong_count(&token) == 1).await;
    }
}

#[actix::test]
async fn the_limit_is_one_for_all_workers_and_listeners_and_is_used_up() {
    const LIMIT: usize = 5;
    const PEERS: usize = 200;
    let live = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let factory = {
        let (live, most) = (Arc::clone(&live), Arc::clone(&most));
        move |_: &_| {
            most.fetch_max(live.fetch_add(1, SeqCst) + 1, SeqCst);
            Counted(Arc::clone(&live))
        }
    };
    let limits = Limits::builder().max_sessions(LIMIT).over_limit(OverLimit::Wait).build().unwrap();
    let server = LineServer::new(factory).limits(limits).workers(3).bind("127.0.0.1:0").unwrap();
    let mut server = Server::start(server).await;
    let mut held = Vec::new();
    for at in 0..LIMIT {
        let mut peer = Peer::connect(server.handle.local_addrs()[at % 2]).await;
        peer.send(b"hello\n").await;
        peer.expect(b"hello\n").await;
        held.push(peer);
    }
    let mut peers = Vec::new();
    for at in LIMIT..PEERS {
        let address = server.handle.local_addrs()[at % 2];
        peers.push(actix_rt::spawn(async move {
            let mut peer = Peer::connect(address).await;
            peer.send(b"hello\n").await;
            peer.expect(b"hello\n").await;
        }));
    }
    drop(held);
    for peer in peers {
        within("a peer to be served", peer).await.unwrap();
    }
    for _ in 0..PEERS {
        server.report().await;
    }
    assert_eq!(most.load(SeqCst), LIMIT, "the most sessions at once");
    assert_eq!(live.load(SeqCst), 0);
    server.end().await;
}

/// Makes a listening socket one that no longer listens, behind the back of whoever accepts on it.
fn break_listener(socket: &TcpListener) {
    socket2::SockRef::from(socket).shutdown(std::net::Shutdown::Both).unwrap();
}

/// A listener on a port that was asked for by number: the kernel takes any other away when the socket stops listening.
fn listener_with_its_own_port() -> TcpListener {
    // Nobody else gets it meanwhile.
    let ours = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    ours.set_reuse_address(true).unwrap();
    ours.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    TcpListener::bind(ours.local_addr().unwrap().as_socket().unwrap()).unwrap()
}

#[actix::test]
async fn an_acceptor_that_fails_is_replaced_and_sessions_go_on() {
    for workers in [1, 2] {
        let socket = listener_with_its_own_port();
        let again = socket.try_clone().unwrap();
        let server = LineServer::new(|_| Echo).workers(workers).listen(socket).unwrap().start().unwrap();
        let mut early = Peer::connect(server.local_addrs()[0]).await;
        early.send(b"hello\n").await;
        early.expect(b"hello\n").await;
        break_listener(&again);
        let mut late = None;
        eventually("the listener to listen again", async || {
            early.send(b"hello\n").await;
            early.expect(b"hello\n").await;
            late = tokio::net::TcpStream::connect(server.local_addrs()[0]).await.ok();
            late.is_some()
        })
        .await;
        let mut late = Peer { stream: late.unwrap() };
        late.send(b"hello\n").await;
        late.expect(b"hello\n").await;
        assert!(
            server
                .pause(server.sessions(SessionQuery::default()).await.unwrap().sessions[0].listener.unwrap())
                .await
                .unwrap()
        );
        let drained = within("the drain", server.drain(Duration::ZERO)).await.unwrap();
        assert_eq!(drained.cut, 2);
        within("the end", server.wait()).await.unwrap();
    }
}

#[actix::test]
async fn an_acceptor_that_fails_again_and_again_ends_the_server_with_an_error() {
    let socket = listener_with_its_own_port();
    let again = socket.try_clone().unwrap();
    let server = LineServer::new(|_| Echo).workers(2).listen(socket).unwrap();
    let server = server.bind("127.0.0.1:0").unwrap().start().unwrap();
    let (address, other) = (server.local_addrs()[0], server.local_addrs()[1]);
    let mut failures = 0;
    let ended = within("the end", async {
        loop {
            tokio::select! {
                ended = server.wait() => break ended,
                connection = tokio::net::TcpStream::connect(address) => if connection.is_ok() {
                    // It listens: one more failure.
                    break_listener(&again);
                    failures += 1;
                } else {
                    tokio::task::yield_now().await;
                },
            }
        }
    });
    let error = ended.await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot go on accepting on {address}: look above for what failed"));
    assert!(failures >= 6, "{failures}");
    for address in [address, other] {
        assert!(tokio::net::TcpStream::connect(address).await.is_err(), "every listener is closed");
    }
}

/// What the kernel's timers do for the server's ends of its connections; 02 is a keepalive.
#[cfg(target_os = "linux")]
fn timers(server: std::net::SocketAddr) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!("0100007F:{:04X}", server.port());
    let established = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    established
        .filter(|columns| columns[1] == local && columns[3] == "01")
        .map(|columns| columns[5].split_once(':').unwrap().0.to_owned())
        .collect()
}

#[cfg(target_os = "linux")]
#[actix::test]
async fn a_silent_peer_is_asked_whether_it_is_still_there() {
    let server = || LineServer::new(|_| Echo);
    let servers = [(server(), "02"), (server().keepalive(None), "00")];
    for (server, timer) in servers {
        let server = Server::start(server).await;
        let mut peer = server.connect().await;
        peer.send(b"hello\n").await;
        peer.expect(b"hello\n").await;
        eventually("the answer to be acknowledged", async || timers(server.address()) == [timer]).await;
    }
}

/// What is wrong with the settings of a server that cannot be started.
fn refused(server: LineServer<Echo, impl Fn(&Connection) -> Echo + Clone + Send + 'static>) -> ConfigError {
    match server.start().unwrap_err() {
        StartError::Config(error) => error,
        other => panic!("{other}"),
    }
}

#[actix::test]
async fn socket_options_that_cannot_be_meant_are_refused_before_anything_runs() {
    let server = || LineServer::new(|_| Echo).bind("127.0.0.1:0").unwrap();
    for bytes in [0, 4095, (1 << 30) + 1] {
        let expected = |buffer| ConfigError::SocketBuffer { buffer, bytes };
        assert_eq!(refused(server().send_buffer(Some(bytes))), expected("send buffer"));
        assert_eq!(refused(server().receive_buffer(Some(bytes))), expected("receive buffer"));
    }
    for after in [Duration::ZERO, Duration::from_millis(999), Duration::from_secs(40_000)] {
        assert_eq!(refused(server().keepalive(Some(after))), ConfigError::Keepalive { after });
        let before = LineServer::new(|_| Echo).keepalive(Some(after)).bind("127.0.0.1:0").unwrap();
        assert_eq!(refused(before), ConfigError::Keepalive { after });
    }
}

#[test]
fn a_question_after_the_system_has_stopped_is_answered_at_once() {
    let system = System::new();
    let server = system.block_on(async {
        let server = LineServer::new(|_| Echo).on_current_arbiter().bind("127.0.0.1:0").unwrap().start().unwrap();
        within("an answer", server.stats()).await.unwrap();
        System::current().stop();
        server
    });
    system.run().unwrap();
    let after = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    after.block_on(async {
        let begin = tokio::time::Instant::now();
        server.stats().await.unwrap_err();
        assert_eq!(begin.elapsed(), Duration::ZERO, "no successor is waited for");
    });
}
