//! A gate decides in its own time whether a connection becomes a session: no byte is lost meanwhile, a refusal is what any refusal
//! is, and a permit lives exactly as long as its session's socket and report.
//!
//! Not here: the limits of a cluster, which are a gate (`cluster_limits`).

mod support;

use std::{
    os::fd::AsFd,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use actix_lines::{
    CloseReason, Connection, LineHandler, LineServer, Permit, Rot13,
    control::{RefuseReason, SessionFilter, SessionState},
    limits::Limits,
};
use support::{Echo, Peer, Server, eventually, free, greet, ip, pass, pause, talk, within};
use tokio::sync::{mpsc, oneshot};

type Answer = Result<Permit, RefuseReason>;

/// A connection at the gate, and the way for the answer.
struct Asked {
    connection: Connection,
    answer: oneshot::Sender<Answer>,
}

impl Asked {
    /// Lets it in, with a permit that can be watched.
    fn admit(self) -> Weak<()> {
        let held = Arc::new(());
        let watched = Arc::downgrade(&held);
        let _ = self.answer.send(Ok(Permit::new(held)));
        watched
    }

    fn refuse(self, reason: RefuseReason) {
        let _ = self.answer.send(Err(reason));
    }
}

/// Whom the gate asks.
struct Porter(mpsc::UnboundedReceiver<Asked>);

impl Porter {
    async fn asked(&mut self) -> Asked {
        within("the gate to ask", self.0.recv()).await.expect("the gate lives as long as its server")
    }
}

/// Adds a gate whose answers a porter gives.
fn gated<A, F>(server: LineServer<A, F>) -> (LineServer<A, F>, Porter)
where
    A: LineHandler,
    F: Fn(&Connection) -> A + Clone + Send + 'static,
{
    let (sender, receiver) = mpsc::unbounded_channel();
    let server = server.gate(move |connection| {
        let (answer, answered) = oneshot::channel();
        let _ = sender.send(Asked { connection: connection.clone(), answer });
        async move { answered.await.unwrap_or(Err(RefuseReason::Gate)) }
    });
    (server, Porter(receiver))
}

fn rot13() -> LineServer<Rot13, impl Fn(&Connection) -> Rot13 + Clone + Send + 'static> {
    LineServer::new(|_: &Connection| Rot13).on_current_arbiter()
}

async fn serve() -> (Server, Porter) {
    let (server, porter) = gated(rot13());
    (Server::start(server).await, porter)
}

async fn refused(server: &Server, reason: RefuseReason) -> u64 {
    server.handle.stats().await.unwrap().refused.get(reason.name()).copied().unwrap_or(0)
}

const REFUSE_LINE: &[u8] = b"too many connections, try again later\r\n";

fn is_held(permit: &Weak<()>) -> bool {
    permit.strong_count() > 0
}

#[actix::test]
async fn a_connection_at_the_gate_is_a_session_to_be_of_which_nothing_is_read_and_no_byte_is_lost() {
    let (mut server, mut porter) = serve().await;
    let mut peer = server.connect().await;
    peer.send(b"one\ntwo\nthr").await;
    peer.shutdown_write().await;
    let asked = porter.asked().await;
    assert_eq!(asked.connection.peer_addr().socket_addr(), Some(peer.stream.local_addr().unwrap()));
    let sessions = server.sessions().await;
    assert_eq!(sessions.iter().map(|session| session.id).collect::<Vec<_>>(), [asked.connection.id()]);
    let stats = server.handle.stats().await.unwrap();
    assert_eq!((stats.live, stats.bytes_in, stats.lines_in), (1, 0, 0));
    let permit = asked.admit();
    peer.expect(b"bar\ngjb\ngue").await;
    peer.expect_eof().await;
    let report = server.report().await;
    assert_eq!((report.reason, report.lines_in, report.bytes_in), (CloseReason::PeerEof, 3, 11));
    assert!(!is_held(&permit));
    server.end().await;
}

#[actix::test]
async fn who_waits_at_the_gate_holds_up_nobody_else() {
    let (server, mut porter) = serve().await;
    let _first = server.connect().await;
    let waits = porter.asked().await;
    let mut second = server.connect().await;
    let permit = porter.asked().await.admit();
    talk(&mut second).await;
    assert!(is_held(&permit));
    drop(waits);
    server.end_all().await;
}

#[actix::test]
async fn a_permit_is_given_back_behind_the_socket_and_before_anybody_hears_of_the_end() {
    let (mut server, mut porter) = serve().await;
    let mut peer = server.connect().await;
    let permit = porter.asked().await.admit();
    talk(&mut peer).await;
    assert!(is_held(&permit));
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::PeerEof);
    assert!(!is_held(&permit));
    server.end().await;
}

#[actix::test]
async fn a_gates_refusal_is_told_counted_and_reported_by_its_reason() {
    let (mut server, mut porter) = serve().await;
    for reason in [RefuseReason::Gate, RefuseReason::ClusterFull, RefuseReason::StoreLost] {
        let mut peer = server.connect().await;
        // Bytes that are not read must not destroy the line by a reset.
        peer.send(&b"hello\n".repeat(1000)).await;
        porter.asked().await.refuse(reason);
        peer.expect(REFUSE_LINE).await;
        peer.expect_eof().await;
        drop(peer);
        let report = server.report().await;
        assert_eq!((report.reason, report.lines_in), (CloseReason::Refused(reason), 0));
        assert_eq!(refused(&server, reason).await, 1);
    }
    let mut peer = server.connect().await;
    porter.asked().await.refuse(RefuseReason::Denied);
    peer.expect_eof().await;
    assert_eq!(server.report().await.reason, CloseReason::Refused(RefuseReason::Denied));
    assert_eq!(server.handle.stats().await.unwrap().live, 0);
    server.end().await;
}

#[actix::test]
async fn who_is_refused_and_lingers_is_closing_is_told_nothing_and_is_ended_by_a_kick() {
    let (mut server, mut porter) = serve().await;
    let mut peer = server.connect().await;
    porter.asked().await.refuse(RefuseReason::ClusterFull);
    peer.expect(REFUSE_LINE).await;
    let sessions = server.sessions().await;
    assert_eq!(sessions.iter().map(|session| session.state).collect::<Vec<_>>(), [SessionState::Closing]);
    let pushed = server.handle.push(SessionFilter::default(), "hello\n").await.unwrap();
    assert_eq!((pushed.sessions, pushed.dropped), (0, 0));
    assert_eq!(server.handle.kick(SessionFilter::default(), "bye\n").await.unwrap(), 1);
    peer.expect_eof().await;
    assert_eq!(server.report().await.reason, CloseReason::Refused(RefuseReason::ClusterFull));
    server.end().await;
}

#[actix::test]
async fn a_gate_that_never_answers_has_the_time_of_a_preface() {
    pause();
    let (mut server, mut porter) = serve().await;
    let mut peer = server.connect().await;
    let asked = porter.asked().await;
    let begin = tokio::time::Instant::now();
    peer.expect_later(REFUSE_LINE).await;
    assert!(begin.elapsed() >= Duration::from_secs(10), "{:?}", begin.elapsed());
    assert!(asked.answer.is_closed(), "the answer is not waited for any more");
    peer.expect_eof().await;
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::Refused(RefuseReason::GateTimeout));
    assert_eq!(refused(&server, RefuseReason::GateTimeout).await, 1);
    server.end().await;
}

#[actix::test]
async fn idle_time_is_no_time_at_the_gate() {
    pause();
    let limits = Limits::builder().idle_timeout(Some(Duration::from_secs(5))).build().unwrap();
    let (server, mut porter) = gated(rot13().limits(limits));
    let mut server = Server::start(server).await;
    let mut peer = server.connect().await;
    let asked = porter.asked().await;
    pass(Duration::from_secs(9)).await;
    let _permit = asked.admit();
    pass(Duration::from_secs(4)).await;
    talk(&mut peer).await;
    peer.rest().await;
    assert_eq!(server.report().await.reason, CloseReason::IdleTimeout);
    server.end().await;
}

#[actix::test]
async fn a_gate_that_panics_ends_its_connection_alone() {
    let asked = Arc::new(AtomicUsize::new(0));
    let server = rot13().gate(move |_| {
        let turn = asked.fetch_add(1, SeqCst);
        assert_ne!(turn, 0, "a fault on purpose, where a gate is asked");
        async move {
            tokio::task::yield_now().await;
            assert_ne!(turn, 1, "a fault on purpose, where a gate answers");
            Ok(Permit::free())
        }
    });
    let mut server = Server::start(server).await;
    for _ in 0..2 {
        let mut peer = server.connect().await;
        peer.expect_eof().await;
        assert_eq!(server.report().await.reason, CloseReason::HandlerPanicked);
    }
    greet(server.address()).await;
    assert_eq!(server.report().await.reason, CloseReason::PeerEof);
    server.end().await;
}

#[actix::test]
async fn a_gate_that_panics_with_something_that_panics_again_ends_its_connection_alone() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("a fault on purpose, where what a gate panicked with is dropped");
        }
    }
    let has_panicked = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let server = rot13().gate(move |_| {
        if !has_panicked.swap(true, SeqCst) {
            std::panic::panic_any(Bomb);
        }
        async { Ok(Permit::free()) }
    });
    let mut server = Server::start(server).await;
    server.connect().await.expect_eof().await;
    assert_eq!(server.report().await.reason, CloseReason::HandlerPanicked);
    greet(server.address()).await;
    assert_eq!(server.report().await.reason, CloseReason::PeerEof);
    server.end().await;
}

#[actix::test]
async fn a_permit_whose_drop_panics_ends_nobody() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("a fault on purpose, where a permit is given back");
        }
    }
    let (mut server, mut porter) = serve().await;
    for _ in 0..2 {
        let mut peer = server.connect().await;
        let _ = porter.asked().await.answer.send(Ok(Permit::new(Bomb)));
        talk(&mut peer).await;
        drop(peer);
        assert_eq!(server.report().await.reason, CloseReason::PeerEof);
    }
    server.end().await;
}

/// Says when it is dropped whether the peer whose socket it has sees the end of its connection.
struct Looks(std::net::TcpStream, mpsc::UnboundedSender<bool>);

impl Drop for Looks {
    fn drop(&mut self) {
        self.1.send(matches!(self.0.peek(&mut [0]), Ok(0))).unwrap();
    }
}

#[actix::test]
async fn a_permit_is_given_back_if_no_session_comes_of_it() {
    let fails = |_: &Connection| -> Echo { panic!("a fault on purpose, where an actor is made") };
    let (server, mut porter) = gated(LineServer::new(fails).on_current_arbiter());
    let mut server = Server::start(server).await;
    let mut peer = server.connect().await;
    let other = std::net::TcpStream::from(peer.stream.as_fd().try_clone_to_owned().unwrap());
    let (sender, mut looked) = mpsc::unbounded_channel();
    let _ = porter.asked().await.answer.send(Ok(Permit::new(Looks(other, sender))));
    peer.expect_eof().await;
    assert_eq!(server.report().await.reason, CloseReason::HandlerPanicked);
    assert_eq!(looked.try_recv(), Ok(true), "given back, behind the socket");
    server.end().await;
}

#[actix::test]
async fn an_answer_behind_the_peers_end_is_a_session_of_which_the_peer_has_gone() {
    let (mut server, mut porter) = serve().await;
    let peer = server.connect().await;
    let asked = porter.asked().await;
    peer.reset();
    let permit = asked.admit();
    let report = server.report().await;
    assert_eq!((report.reason, report.lines_in), (CloseReason::PeerReset, 0));
    assert!(!is_held(&permit));
    server.end().await;
}

#[actix::test]
async fn who_waits_at_the_gate_can_be_kicked_and_what_comes_of_the_answer_is_given_back() {
    let (mut server, mut porter) = serve().await;
    let mut peer = server.connect().await;
    let asked = porter.asked().await;
    assert_eq!(server.handle.kick(SessionFilter::default(), "").await.unwrap(), 1);
    peer.expect_eof().await;
    assert_eq!(server.report().await.reason, CloseReason::Kicked);
    assert!(asked.answer.is_closed());
    assert!(!is_held(&asked.admit()));
    server.end().await;
}

#[actix::test]
async fn a_drain_answers_the_lines_of_whoever_still_gets_through_the_gate() {
    let (mut server, mut porter) = serve().await;
    let mut peer = server.connect().await;
    peer.send(b"hello\n").await;
    let asked = porter.asked().await;
    let drained = tokio::task::spawn_local({
        let handle = server.handle.clone();
        async move { handle.drain(Duration::from_secs(60)).await }
    });
    eventually("the drain to begin", async || server.handle.draining().is_some()).await;
    let permit = asked.admit();
    peer.expect(b"uryyb\n").await;
    peer.expect_eof().await;
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::Drained);
    assert!(!is_held(&permit));
    within("the drain", drained).await.unwrap().unwrap();
}

#[actix::test]
async fn an_abort_ends_who_waits_at_the_gate() {
    let (mut server, mut porter) = serve().await;
    let mut peer = server.connect().await;
    let asked = porter.asked().await;
    within("the abort", server.handle.abort()).await.unwrap();
    assert_eq!(server.report().await.reason, CloseReason::Aborted);
    assert_eq!(peer.stream.try_read(&mut [0; 16]).map_err(|error| error.kind()).unwrap_or(0), 0);
    peer.rest().await;
    assert!(asked.answer.is_closed());
}

#[actix::test]
async fn permits_are_given_back_when_their_worker_stops() {
    let (server, mut porter) = gated(LineServer::new(|_: &Connection| Rot13).workers(1));
    let mut server = Server::start(server).await;
    let mut peer = server.connect().await;
    let permit = porter.asked().await.admit();
    let _waiting = server.connect().await;
    let mut asked = porter.asked().await;
    assert!(is_held(&permit));
    talk(&mut peer).await;
    server.handle.arbiters()[0].stop();
    for _ in 0..2 {
        assert_eq!(server.report().await.reason, CloseReason::WorkerStopped);
    }
    assert!(!is_held(&permit));
    within("the gate to be asked for nothing any more", asked.answer.closed()).await;
}

#[actix::test]
async fn gates_are_asked_in_order_and_the_first_that_refuses_ends_it() {
    let (server, mut first) = gated(rot13());
    let (server, mut second) = gated(server);
    let mut server = Server::start(server).await;
    let mut peer = server.connect().await;
    let held = first.asked().await.admit();
    let also = second.asked().await.admit();
    talk(&mut peer).await;
    assert!(is_held(&held) && is_held(&also));
    drop(peer);
    server.report().await;
    assert!(!is_held(&held) && !is_held(&also));

    let mut peer = server.connect().await;
    let held = first.asked().await.admit();
    let asked = second.asked().await;
    assert!(is_held(&held));
    asked.refuse(RefuseReason::Gate);
    peer.rest().await;
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::Refused(RefuseReason::Gate));
    assert!(!is_held(&held));

    let mut peer = server.connect().await;
    first.asked().await.refuse(RefuseReason::Gate);
    peer.rest().await;
    drop(peer);
    server.report().await;
    second.0.try_recv().map(|asked| asked.connection).unwrap_err();
    server.end().await;
}

#[actix::test]
async fn a_listener_without_gates_lets_in_whom_the_others_would_not() {
    let server = rot13().gate(|_| async { Err(RefuseReason::Gate) });
    let server = server.listen(free()).unwrap().listen(free().name("operators").without_gates()).unwrap();
    let server = Server::of(server).await;
    let listeners = server.handle.listeners();
    greet(ip(&listeners[1])).await;
    let mut peer = Peer::connect(ip(&listeners[0])).await;
    peer.expect(REFUSE_LINE).await;
    server.end_all().await;
}

#[cfg(feature = "proxy")]
#[actix::test]
async fn a_gate_is_told_the_real_peer_behind_a_proxy_and_no_line_behind_the_header_is_lost() {
    let proxy = actix_lines::proxy::Proxy::required().trust(["127.0.0.0/8".parse().unwrap()]);
    let (server, mut porter) = gated(rot13());
    let mut server = Server::of(server.listen(free().proxy(proxy)).unwrap()).await;
    let mut peer = server.connect().await;
    peer.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 1024 443\r\nhel").await;
    let asked = porter.asked().await;
    assert_eq!(asked.connection.peer_addr().to_string(), "192.0.2.7:1024");
    assert!(asked.connection.via().is_some());
    peer.send(b"lo\n").await;
    let permit = asked.admit();
    peer.expect(b"uryyb\n").await;
    drop(peer);
    let report = server.report().await;
    assert_eq!((report.peer.to_string().as_str(), report.lines_in), ("192.0.2.7:1024", 1));
    assert!(!is_held(&permit));

    let mut peer = server.connect().await;
    peer.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 1024 443\r\nhello\n").await;
    porter.asked().await.refuse(RefuseReason::ClusterSource);
    peer.expect(REFUSE_LINE).await;
    peer.expect_eof().await;
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::Refused(RefuseReason::ClusterSource));
    server.end().await;
}
