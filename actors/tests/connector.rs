//! The connector: it finds an address that answers, keeps a session to it, waits ever longer while it cannot, and ends
//! politely.
//!
//! On the paused clock the sockets of the loopback are as real as ever, and time jumps only while nobody has anything to do.

mod support;

use std::{
    cell::{Cell, RefCell},
    fs,
    future::{pending, ready},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, fut::wrap_future};
use actix_lines::{
    CloseReason, CloseReport, ConfigError, Line, LineContext, LineHandler, LineServer, ServerHandle,
    connect::{Backoff, ConnectError, Connector, ConnectorBuilder, ConnectorEvent, Disconnect, GetSession},
    control::Subscribe,
    limits::Limits,
};
use socket2::{Domain, Socket, Type};
use support::{Counted, Echo, Server, eventually, pass, pause, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::Instant,
};

const SECOND: Duration = Duration::from_secs(1);

/// So short that a test need not wait, so long that it is a wait.
const SHORT: Backoff = Backoff { initial: Duration::from_millis(20), factor: 1, max: Duration::from_millis(20) };

/// Tells what its hooks see; says what it is told to.
struct Client {
    nth: u64,
    seen: UnboundedSender<String>,
}

impl Client {
    fn see(&self, what: &str) {
        // A test that has seen enough may be over.
        let _ = self.seen.send(format!("{}: {what}", self.nth));
    }
}

impl Actor for Client {
    type Context = LineContext<Self>;
}

impl LineHandler for Client {
    fn opened(&mut self, _: &mut Self::Context) {
        self.see("opened");
    }

    fn line(&mut self, line: Line<'_>, _: &mut Self::Context) {
        assert!(line.text() != b"panic", "a fault on purpose");
        self.see(&String::from_utf8_lossy(line.text()));
    }

    fn closed(&mut self, report: &CloseReport) {
        self.see(report.reason.name());
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Say(String);

impl Say {
    fn line(text: &str) -> Self {
        Self(format!("{text}\n"))
    }
}

impl Handler<Say> for Client {
    type Result = ();
    fn handle(&mut self, Say(text): Say, ctx: &mut Self::Context) {
        ctx.write(text.as_bytes());
    }
}

/// Hands events on, with the moment when they came.
struct Watcher(UnboundedSender<(Instant, ConnectorEvent)>);

impl Actor for Watcher {
    type Context = Context<Self>;
}

impl Handler<ConnectorEvent> for Watcher {
    type Result = ();
    fn handle(&mut self, event: ConnectorEvent, _: &mut Self::Context) {
        let _ = self.0.send((Instant::now(), event));
    }
}

/// A connector of [`Client`]s, what they see, and what it tells.
struct Connected {
    connector: Addr<Connector<Client>>,
    seen: UnboundedReceiver<String>,
    events: UnboundedReceiver<(Instant, ConnectorEvent)>,
}

fn start(target: &str, change: impl FnOnce(ConnectorBuilder<Client>) -> ConnectorBuilder<Client>) -> Connected {
    let (see, seen) = unbounded_channel();
    let (watch, events) = unbounded_channel();
    let builder = Connector::builder(target, move |_, nth| Client { nth, seen: see.clone() });
    let connector = change(builder.subscribe(Watcher(watch).start().recipient())).start().unwrap();
    Connected { connector, seen, events }
}

/// [`start`], to these addresses.
fn start_to(
    addresses: Vec<SocketAddr>,
    change: impl FnOnce(ConnectorBuilder<Client>) -> ConnectorBuilder<Client>,
) -> Connected {
    start("somewhere", |builder| change(builder.resolver(move |_| ready(Ok(addresses.clone())))))
}

impl Connected {
    async fn session(&self) -> Addr<Client> {
        within("a session", self.connector.send(GetSession::when_connected())).await.unwrap().expect("a session")
    }

    async fn session_if_any(&self) -> Option<Addr<Client>> {
        self.connector.send(GetSession::now()).await.unwrap()
    }

    #[track_caller]
    fn expect<const N: usize>(&mut self, seen: [&str; N]) -> impl Future<Output = ()> + use<'_, N> {
        let seen = seen.map(str::to_owned);
        let caller = std::panic::Location::caller();
        async move {
            for what in seen {
                let got = within(&format!("{what:?} at {caller}"), self.seen.recv()).await;
                assert_eq!(got.as_deref(), Some(&*what), "at {caller}");
            }
        }
    }

    /// The next event, and when it came.
    async fn event(&mut self) -> (Instant, ConnectorEvent) {
        within("an event", self.events.recv()).await.expect("the last event has come already")
    }

    async fn connected(&mut self) -> (SocketAddr, u64) {
        match self.event().await.1 {
            ConnectorEvent::Connected { peer, nth, .. } => (peer, nth),
            other => panic!("not connected: {other:?}"),
        }
    }

    async fn lost(&mut self) -> (CloseReport, Option<Duration>) {
        match self.event().await.1 {
            ConnectorEvent::Lost { report, retry_in } => (report, retry_in),
            other => panic!("not lost: {other:?}"),
        }
    }

    async fn failed(&mut self) -> (Instant, ConnectError, Option<Duration>) {
        match self.event().await {
            (when, ConnectorEvent::Failed { error, retry_in, .. }) => (when, error, retry_in),
            other => panic!("not failed: {other:?}"),
        }
    }

    async fn disconnect(&self, deadline: Duration) -> Option<CloseReport> {
        within("the end of the connector", self.connector.send(Disconnect::within(deadline))).await.unwrap()
    }

    /// After its last event it is gone, and tells no more.
    async fn expect_gone(mut self) {
        eventually("the connector to be gone", async || !self.connector.connected()).await;
        assert!(self.connector.send(GetSession::when_connected()).await.is_err(), "nobody answers any more");
        assert!(within("the end of events", self.events.recv()).await.is_none(), "nothing comes after the last event");
    }

    async fn end(self) {
        self.disconnect(Duration::ZERO).await;
    }
}

fn serve<A: LineHandler>(address: SocketAddr, factory: impl Fn() -> A + Clone + Send + 'static) -> ServerHandle {
    LineServer::new(move |_| factory()).on_current_arbiter().bind(address).unwrap().start().unwrap()
}

/// An address of the loopback where nobody listens. Its port is kept from others, also as a port to call from, until a
/// server of ours listens there.
fn refusing(ip: impl Into<IpAddr>) -> (Socket, SocketAddr) {
    let address = SocketAddr::from((ip.into(), 0));
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// An address of the loopback that never answers: its listener's queue is full, so the kernel drops every SYN.
struct Silent {
    address: SocketAddr,
    _listener: Socket,
    _queue: std::net::TcpStream,
}

impl Silent {
    fn new(ip: impl Into<IpAddr>) -> Self {
        let address = SocketAddr::from((ip.into(), 0));
        let domain = Domain::for_address(address);
        let listener = Socket::new(domain, Type::STREAM, None).unwrap();
        listener.bind(&address.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        // A queue of none is full with one.
        let queue = std::net::TcpStream::connect(address).unwrap();
        while !sockets(address, 1).iter().any(|fields| fields[3] == LISTEN && fields[4].ends_with(":00000001")) {
            std::thread::yield_now();
        }
        Self { address, _listener: listener, _queue: queue }
    }

    /// Whether somebody still tries to connect.
    fn is_called(&self) -> bool {
        sockets_to(self.address).iter().any(|fields| fields[3] == SYN_SENT)
    }
}

/// States of sockets, as the kernel names them.
const ESTABLISHED: &str = "01";
const SYN_SENT: &str = "02";
const LISTEN: &str = "0A";

/// The kernel's lines about sockets whose other end this is.
fn sockets_to(address: SocketAddr) -> Vec<Vec<String>> {
    sockets(address, 2)
}

/// The kernel's lines about sockets that have this address in that field: 1 is their own end, 2 the other.
fn sockets(address: SocketAddr, field: usize) -> Vec<Vec<String>> {
    let table = if address.is_ipv6() { "/proc/net/tcp6" } else { "/proc/net/tcp" };
    // Numbers of this machine's order, but for the port.
    let octets = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = octets.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap()));
    let ip: String = words.map(|word| format!("{word:08X}")).collect();
    let address = format!("{ip}:{:04X}", address.port());
    let table = fs::read_to_string(table).unwrap();
    // Other tests may have left a hundred thousand of them.
    let lines = table.lines().filter(|line| line.contains(&address));
    let lines = lines.map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    lines.filter(|fields| fields[field] == address).collect()
}

#[actix::test]
async fn it_talks_with_a_server_and_ends_when_told_to() {
    let mut server = Server::start(LineServer::new(|_| Echo)).await;
    let mut client = start(&server.address().to_string(), |builder| builder);
    assert!(client.session_if_any().await.is_none(), "it cannot be connected yet");
    let session = client.session().await;
    client.expect(["1: opened"]).await;
    session.send(Say::line("hello")).await.unwrap();
    client.expect(["1: hello"]).await;
    assert_eq!(client.connected().await, (server.address(), 1));
    let late = unbounded_channel();
    client.connector.send(Subscribe::new(Watcher(late.0).start().recipient())).await.unwrap();
    let mut late = late.1;
    let first = within("the state", late.recv()).await.unwrap().1;
    assert!(matches!(first, ConnectorEvent::Connected { nth: 1, .. }), "who subscribes late is told: {first:?}");

    let report = client.disconnect(20 * SECOND).await.expect("a session's report");
    assert_eq!((report.reason, &report.peer, report.cut), (CloseReason::Drained, &server.address().into(), false));
    assert_eq!((report.bytes_out, report.bytes_in, report.unsent_bytes), (6, 6, 0));
    client.expect(["1: drained"]).await;
    assert_eq!(client.lost().await, (report, None));
    assert!(matches!(client.event().await.1, ConnectorEvent::Disconnected));
    client.expect_gone().await;
    assert_eq!(server.report().await.reason, CloseReason::PeerEof);
    server.end().await;
}

#[actix::test]
async fn a_name_is_looked_up() {
    let server = serve((Ipv4Addr::LOCALHOST, 0).into(), || Echo);
    let port = server.local_addrs()[0].port();
    let mut client = start(&format!("localhost:{port}"), |builder| builder);
    assert_eq!(client.connected().await, (server.local_addrs()[0], 1), "whatever else localhost may be");
    client.end().await;
    server.abort().await.unwrap();
}

#[actix::test]
async fn it_reconnects_when_its_server_comes_back() {
    let (_ours, address) = refusing(Ipv4Addr::LOCALHOST);
    let server = serve(address, || Echo);
    let mut client = start(&address.to_string(), |builder| builder.backoff(SHORT));
    let first = client.session().await;
    assert_eq!(client.connected().await, (address, 1));
    server.abort().await.unwrap();
    let (report, retry_in) = client.lost().await;
    assert!(matches!(report.reason, CloseReason::PeerEof | CloseReason::PeerReset), "{report}");
    assert!(retry_in.unwrap() <= SHORT.max);
    client.expect(["1: opened", &format!("1: {}", report.reason.name())]).await;
    assert!(first.send(Say::line("too late")).await.is_err(), "a lost session answers nobody");
    for _ in 0..2 {
        let (_, error, _) = client.failed().await;
        assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
        assert!(client.session_if_any().await.is_none());
    }

    let server = serve(address, || Echo);
    let second = client.session().await;
    client.expect(["2: opened"]).await;
    second.send(Say::line("hello again")).await.unwrap();
    client.expect(["2: hello again"]).await;
    loop {
        match client.event().await.1 {
            ConnectorEvent::Failed { .. } => {}
            ConnectorEvent::Connected { peer, nth, .. } => break assert_eq!((peer, nth), (address, 2)),
            other => panic!("{other:?}"),
        }
    }
    client.end().await;
    server.abort().await.unwrap();
}

#[actix::test]
async fn addresses_are_looked_up_anew_at_each_attempt() {
    let (_ours, refusing) = refusing(Ipv4Addr::LOCALHOST);
    let server = serve((Ipv4Addr::LOCALHOST, 0).into(), || Echo);
    let moved_to = server.local_addrs()[0];
    let asked = Rc::new(Cell::new(0));
    let count = Rc::clone(&asked);
    let mut client = start("a name that moves", |builder| {
        builder.backoff(SHORT).resolver(move |target| {
            assert_eq!(target, "a name that moves");
            count.set(count.get() + 1);
            ready(Ok(vec![if count.get() < 3 { refusing } else { moved_to }]))
        })
    });
    client.failed().await;
    client.failed().await;
    assert_eq!(client.connected().await, (moved_to, 1));
    assert_eq!(asked.get(), 3);
    client.end().await;
    server.abort().await.unwrap();
}

#[actix::test]
async fn it_waits_for_a_random_time_below_a_growing_ceiling() {
    pause();
    let begin = Instant::now();
    let mut client =
        start("nowhere", |builder| builder.resolver(|_| ready(Err(io::ErrorKind::ConnectionRefused.into()))));
    let ceilings = [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000, 30_000];
    let mut expected = begin;
    for ceiling in ceilings {
        let (when, _, retry_in) = client.failed().await;
        // The clock has steps of a millisecond, and each timer is late by up to one.
        assert!(when >= expected, "{:?} sooner than announced", expected - when);
        let late = when - expected;
        assert!(late <= Duration::from_millis(2), "{late:?} later than announced");
        let retry_in = retry_in.unwrap();
        assert!(retry_in <= Duration::from_millis(ceiling), "{retry_in:?} is longer than {ceiling} ms");
        expected = when + retry_in;
    }
    // Waits that did not grow would be 5 s at most together; those that do are under a twentieth of the ceilings' sum once
    // in two million times.
    let (waited, sum) = (expected.duration_since(begin), Duration::from_millis(ceilings.iter().sum()));
    assert!(waited > sum / 20, "{waited:?} of {sum:?}");
    client.end().await;
}

/// Pauses the clock, and keeps it from jumping far at once: what the kernel has not done yet nobody waits for, so time could
/// jump over it.
fn pause_with_ticks() {
    pause();
    tokio::task::spawn_local(async {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        loop {
            ticks.tick().await;
        }
    });
}

/// Serves each connection with `line`, holds it for a time, and closes it; counts them.
fn hold(listener: TcpListener, line: &'static [u8], times: Vec<Duration>) -> Rc<Cell<usize>> {
    let count = Rc::new(Cell::new(0));
    let counted = Rc::clone(&count);
    tokio::task::spawn_local(async move {
        for time in times {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(line).await.unwrap();
            pass(time).await;
            counted.set(counted.get() + 1);
        }
    });
    count
}

#[actix::test]
async fn a_connection_that_does_not_last_is_a_failed_attempt_whatever_it_brought() {
    pause_with_ticks();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = hold(listener, b"too many connections, try again later\n", vec![SECOND; 8]);
    let mut client = start_to(vec![address], |builder| builder.max_attempts(8));
    let mut longest = Duration::ZERO;
    for (attempt, ceiling) in [500, 1000, 2000, 4000, 8000, 16_000, 30_000].into_iter().enumerate() {
        assert_eq!(client.connected().await.1, attempt as u64 + 1);
        let (report, retry_in) = client.lost().await;
        assert_eq!((report.reason, report.lines_in), (CloseReason::PeerEof, 1));
        assert!(retry_in.unwrap() <= Duration::from_millis(ceiling), "{retry_in:?}, not within {ceiling} ms");
        longest = longest.max(retry_in.unwrap());
    }
    client.connected().await;
    assert_eq!(client.lost().await.1, None, "that was the last");
    assert!(matches!(client.event().await.1, ConnectorEvent::GaveUp { attempts: 8 }));
    client.expect_gone().await;
    assert_eq!(served.get(), 8);
    // With ceilings that grow, that is so but for once in two million times.
    assert!(longest > Duration::from_millis(500), "{longest:?}");
}

#[actix::test]
async fn a_connection_that_lasts_starts_over_from_the_shortest_wait() {
    pause_with_ticks();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut times = vec![SECOND; 5];
    times.extend([31 * SECOND, SECOND]);
    hold(listener, b"", times);
    let mut client = start_to(vec![address], |builder| builder.max_attempts(6));
    for _ in 0..5 {
        client.connected().await;
        client.lost().await;
    }
    client.connected().await;
    let (report, retry_in) = client.lost().await;
    assert!(report.duration >= 30 * SECOND, "{report}");
    // The sixth attempt would have been the last, and a wait as long as its ceiling of 16 s.
    assert!(retry_in.expect("a connection that lasts is no failed attempt") <= Duration::from_millis(500));
    client.connected().await;
    client.end().await;
}

async fn expect_winner(addresses: Vec<SocketAddr>, winner: SocketAddr) {
    let mut client = start_to(addresses, |builder| builder);
    assert_eq!(client.connected().await, (winner, 1));
    client.session().await.send(Say::line("hello")).await.unwrap();
    client.expect(["1: opened", "1: hello"]).await;
    client.end().await;
}

#[actix::test]
async fn of_two_families_the_one_that_lives_wins_when_the_other_refuses() {
    let families: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()),
        (Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()),
    ];
    for (alive, dead) in families {
        let server = serve((alive, 0).into(), || Echo);
        let alive = server.local_addrs()[0];
        let (_ours, dead) = refusing(dead);
        expect_winner(vec![dead, alive], alive).await;
        expect_winner(vec![alive, dead], alive).await;
        server.abort().await.unwrap();
    }
}

#[actix::test]
async fn an_address_that_is_silent_has_a_head_start_and_is_called_no_more_once_another_has_won() {
    for (alive, silent) in [
        (SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Silent::new(Ipv6Addr::LOCALHOST)),
        (SocketAddr::from((Ipv6Addr::LOCALHOST, 0)), Silent::new(Ipv4Addr::LOCALHOST)),
    ] {
        let server = serve(alive, || Echo);
        let alive = server.local_addrs()[0];
        let begin = Instant::now();
        expect_winner(vec![silent.address, alive], alive).await;
        assert!(begin.elapsed() >= Duration::from_millis(250), "no head start: {:?}", begin.elapsed());
        assert!(!silent.is_called(), "the loser is closed");
        server.abort().await.unwrap();
    }
}

#[actix::test]
async fn without_any_answer_an_attempt_ends_by_its_timeout() {
    pause();
    let silent = Silent::new(Ipv4Addr::LOCALHOST);
    let begin = Instant::now();
    let mut client = start_to(vec![silent.address], |builder| builder.connect_timeout(3 * SECOND));
    eventually("the call", async || silent.is_called()).await;
    let (when, error, _) = client.failed().await;
    assert!((3000..=3020).contains(&when.duration_since(begin).as_millis()), "{:?}", when.duration_since(begin));
    assert!(
        matches!(&error, ConnectError::TimedOut { addresses, timeout, .. }
            if *addresses == [silent.address] && *timeout == 3 * SECOND),
        "{error:?}"
    );
    assert_eq!(
        error.to_string(),
        "no answer from somewhere within 3s; check that no firewall drops it, or allow a longer connect timeout"
    );
    client.end().await;
}

#[actix::test]
async fn a_resolver_may_fail_hang_panic_or_know_nothing() {
    pause();
    let asked = Cell::new(0);
    let mut client = start("nowhere", |builder| {
        builder.resolver(move |_| {
            asked.set(asked.get() + 1);
            let which = asked.get();
            assert!(which != 1, "a fault on purpose, at once");
            async move {
                assert!(which != 2, "a fault on purpose, later");
                match which {
                    3 => Err(io::Error::other("no such name")),
                    4 => Ok(Vec::new()),
                    _ => pending().await,
                }
            }
        })
    });
    for _ in 0..2 {
        let (_, error, _) = client.failed().await;
        assert!(matches!(error, ConnectError::Panicked { what: "resolver", .. }), "{error:?}");
    }
    let (_, error, _) = client.failed().await;
    assert_eq!(
        error.to_string(),
        "cannot look up nowhere: no such name; check the name, and whether this machine's resolver answers"
    );
    let (when, error, retry_in) = client.failed().await;
    assert!(matches!(error, ConnectError::NoAddress { .. }), "{error:?}");
    let (later, error, _) = client.failed().await;
    let took = later.duration_since(when + retry_in.unwrap());
    assert!((10_000..=10_020).contains(&took.as_millis()), "{took:?}");
    assert!(
        matches!(&error, ConnectError::Resolve { source, .. } if source.kind() == io::ErrorKind::TimedOut),
        "{error:?}"
    );
    client.end().await;
}

#[actix::test]
async fn it_gives_up_after_as_many_attempts_as_it_may_make() {
    let (_ours, address) = refusing(Ipv4Addr::LOCALHOST);
    let mut client = start_to(vec![address], |builder| builder.max_attempts(3).backoff(SHORT));
    let waiting = client.connector.send(GetSession::when_connected());
    assert!(client.failed().await.2.is_some());
    assert!(client.failed().await.2.is_some());
    let (_, error, retry_in) = client.failed().await;
    assert_eq!(retry_in, None);
    assert_eq!(
        error.to_string(),
        format!(
            "cannot connect to somewhere: {address}: connection refused; check that its server runs, and listens there"
        )
    );
    assert!(matches!(client.event().await.1, ConnectorEvent::GaveUp { attempts: 3 }));
    assert!(within("the answer", waiting).await.unwrap().is_none(), "who waits is told that it is in vain");
    client.expect_gone().await;
}

#[actix::test]
async fn it_can_be_ended_while_it_connects() {
    let silent = Silent::new(Ipv4Addr::LOCALHOST);
    let mut client = start_to(vec![silent.address], |builder| builder);
    eventually("the call", async || silent.is_called()).await;
    assert_eq!(client.disconnect(20 * SECOND).await, None);
    assert!(matches!(client.event().await.1, ConnectorEvent::Disconnected));
    eventually("the end of the call", async || !silent.is_called()).await;
    client.expect_gone().await;
}

#[actix::test]
async fn it_can_be_ended_while_it_waits_for_the_next_attempt() {
    pause();
    let asked = Rc::new(Cell::new(0));
    let count = Rc::clone(&asked);
    let mut client = start("somewhere", |builder| {
        builder.resolver(move |_| {
            count.set(count.get() + 1);
            ready(Ok(Vec::new()))
        })
    });
    client.failed().await;
    let before = asked.get();
    assert_eq!(client.disconnect(20 * SECOND).await, None);
    assert!(matches!(client.event().await.1, ConnectorEvent::Disconnected));
    client.expect_gone().await;
    pass(60 * SECOND).await;
    assert!(asked.get() <= before + 1, "it goes on trying");
    assert_eq!(Rc::strong_count(&asked), 1, "its resolver is dropped with it");
}

#[actix::test]
async fn after_a_loss_it_is_not_taken_for_connected() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let day = Duration::from_secs(24 * 3600);
    let mut client = start(&listener.local_addr().unwrap().to_string(), |builder| {
        builder.backoff(Backoff { initial: day, factor: 1, max: day })
    });
    drop(within("the connection", listener.accept()).await.unwrap());
    client.connected().await;
    client.lost().await;
    assert!(client.session_if_any().await.is_none());
    let (watch, mut late) = unbounded_channel();
    client.connector.send(Subscribe::new(Watcher(watch).start().recipient())).await.unwrap();
    assert_eq!(client.disconnect(20 * SECOND).await, None, "there is no session to wait for");
    let first = within("the last event", late.recv()).await.unwrap().1;
    assert!(matches!(first, ConnectorEvent::Disconnected), "{first:?}");
}

/// Answers each line in a turn of its own.
struct Slow;

impl Actor for Slow {
    type Context = LineContext<Self>;
}

impl LineHandler for Slow {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
        ctx.wait(wrap_future::<_, Self>(tokio::task::yield_now()));
    }
}

#[actix::test]
async fn when_it_is_ended_what_was_said_leaves_and_every_answer_comes() {
    let server = serve((Ipv4Addr::LOCALHOST, 0).into(), || Slow);
    let mut client = start(&server.local_addrs()[0].to_string(), |builder| builder);
    let session = client.session().await;
    // More messages than a turn handles.
    for number in 0..100 {
        session.do_send(Say::line(&number.to_string()));
    }
    let report = client.disconnect(20 * SECOND).await.unwrap();
    assert_eq!((report.reason, report.cut), (CloseReason::Drained, false));
    assert_eq!((report.unsent_bytes, report.undelivered_bytes, report.lines_in), (0, 0, 100));
    client.expect(["1: opened"]).await;
    for number in 0..100 {
        client.expect([&format!("1: {number}")]).await;
    }
    client.expect(["1: drained"]).await;
    server.abort().await.unwrap();
}

#[actix::test]
async fn an_end_does_not_outlast_its_deadline() {
    pause_with_ticks();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = start(&listener.local_addr().unwrap().to_string(), |builder| builder);
    client.session().await;
    let (mut peer, _) = within("the connection", listener.accept()).await.unwrap();
    let begin = Instant::now();
    let first = client.connector.send(Disconnect::within(60 * SECOND));
    let second = client.connector.send(Disconnect::within(3 * SECOND));
    let (first, second) = within("both ends", futures::future::join(first, second)).await;
    let report = first.unwrap().unwrap();
    assert_eq!(Some(&report), second.unwrap().as_ref());
    assert!(report.cut && report.reason == CloseReason::Drained, "{report}");
    assert!((3000..=3020).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
    assert_eq!(within("our FIN", peer.read(&mut [0; 8])).await.unwrap(), 0);
}

#[actix::test]
async fn a_panic_of_the_factory_is_a_failed_attempt_and_one_of_the_handler_a_lost_session() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (see, mut seen) = unbounded_channel();
    let (watch, events) = unbounded_channel();
    let mut calls = 0;
    let connector = Connector::builder(listener.local_addr().unwrap().to_string(), move |_, nth| {
        calls += 1;
        assert!(calls != 1, "a fault on purpose");
        Client { nth, seen: see.clone() }
    })
    .backoff(SHORT)
    .subscribe(Watcher(watch).start().recipient())
    .start()
    .unwrap();
    let mut client = Connected { connector, seen: unbounded_channel().1, events };

    let (mut peer, _) = within("the first connection", listener.accept()).await.unwrap();
    let (_, error, _) = client.failed().await;
    assert!(matches!(error, ConnectError::Panicked { what: "factory", .. }), "{error:?}");
    assert_eq!(within("its end", peer.read(&mut [0; 8])).await.unwrap(), 0);

    let (mut peer, _) = within("the second connection", listener.accept()).await.unwrap();
    assert_eq!(client.connected().await.1, 1, "there was no session before");
    peer.write_all(b"panic\n").await.unwrap();
    assert_eq!(within("its end", peer.read(&mut [0; 8])).await.unwrap(), 0);
    drop(peer);
    assert_eq!(client.lost().await.0.reason, CloseReason::HandlerPanicked);

    let (mut peer, _) = within("the third connection", listener.accept()).await.unwrap();
    assert_eq!(client.connected().await.1, 2);
    peer.write_all(b"hello\n").await.unwrap();
    for expected in ["1: opened", "2: opened", "2: hello"] {
        assert_eq!(within(expected, seen.recv()).await.unwrap(), expected);
    }
    drop(peer);
    client.end().await;
}

/// States in which the kernel still has a descriptor of ours: established, FIN sent, FIN received.
fn open_sockets_to(address: SocketAddr) -> usize {
    sockets_to(address).iter().filter(|fields| matches!(&*fields[3], "01" | "02" | "08")).count()
}

#[actix::test]
async fn many_reconnections_leave_nothing_behind() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let actors = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&actors);
    let addresses = Rc::new(RefCell::new(Vec::new()));
    let wait = Backoff { initial: Duration::from_millis(1), factor: 1, max: Duration::from_millis(1) };
    // With limits each connection gets a worker of its own.
    for limits in [None, Some(Limits::default())] {
        let counted = Arc::clone(&counted);
        let mut builder = Connector::builder(address.to_string(), move |_, _| {
            counted.fetch_add(1, SeqCst);
            Counted(Arc::clone(&counted))
        })
        .backoff(wait);
        if let Some(limits) = limits {
            builder = builder.limits(limits);
        }
        let connector = builder.start().unwrap();
        for _ in 0..200 {
            let (mut peer, _) = within("a connection", listener.accept()).await.unwrap();
            peer.write_all(b"hello\n").await.unwrap();
            within("the answer", peer.read_exact(&mut [0; 6])).await.unwrap();
            let session = connector.send(GetSession::now()).await.unwrap().expect("it has answered");
            addresses.borrow_mut().push(session);
        }
        eventually("the last session", async || actors.load(SeqCst) <= 1).await;
        within("the end", connector.send(Disconnect::within(Duration::ZERO))).await.unwrap();
        eventually("the end of the connector", async || !connector.connected()).await;
    }
    eventually("the end of every actor", async || actors.load(SeqCst) == 0).await;
    eventually("the end of every socket", async || open_sockets_to(address) == 0).await;
    assert!(addresses.borrow().iter().all(|session| !session.connected()), "no mailbox is left");
}

#[actix::test]
async fn limits_are_those_of_its_sessions() {
    pause_with_ticks();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let limits = Limits::builder().idle_timeout(Some(5 * SECOND)).build().unwrap();
    let mut client = start(&listener.local_addr().unwrap().to_string(), |builder| builder.limits(limits));
    let (mut peer, _) = within("the connection", listener.accept()).await.unwrap();
    client.connected().await;
    assert_eq!(within("our FIN", peer.read(&mut [0; 8])).await.unwrap(), 0);
    drop(peer);
    assert_eq!(client.lost().await.0.reason, CloseReason::IdleTimeout);
    client.end().await;
}

#[actix::test]
async fn a_silent_peer_is_asked_whether_it_is_there_unless_that_is_switched_off() {
    const KEEPALIVE: &str = "02:";
    for (keepalive, expected) in [(Some(60 * SECOND), true), (None, false)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = start_to(vec![address], |builder| builder.keepalive(keepalive));
        client.session().await;
        // Not those of somebody who was there before.
        let sockets: Vec<_> = sockets_to(address).into_iter().filter(|fields| fields[3] == ESTABLISHED).collect();
        assert_eq!(sockets.len(), 1, "{sockets:?}");
        assert_eq!(sockets[0][5].starts_with(KEEPALIVE), expected, "{sockets:?}");
        client.end().await;
    }
}

#[actix::test]
async fn settings_that_cannot_be_meant_are_refused_before_anything_starts() {
    type Change = fn(ConnectorBuilder<Echo>) -> ConnectorBuilder<Echo>;
    let changes: [(&str, Change, &str); 5] = [
        (
            "localhost",
            |builder| builder,
            "\"localhost\" is no address: write it as example.org:40713, \
            192.0.2.7:40713 or [2001:db8::7]:40713",
        ),
        (
            "localhost:7",
            |builder| builder.max_attempts(0),
            "max attempts is 0: use 1 or more, or leave it out to try \
            for ever",
        ),
        (
            "localhost:7",
            |builder| builder.connect_timeout(Duration::ZERO),
            "connect timeout is 0ns: use 1 ms to 24 days",
        ),
        (
            "localhost:7",
            |builder| builder.keepalive(Some(Duration::from_millis(1))),
            "keepalive is 1ms: use 1 s to 9 \
            hours, or none",
        ),
        (
            "localhost:7",
            |builder| builder.backoff(Backoff { initial: SECOND, factor: 2, max: SECOND / 2 }),
            "backoff is 1s to 500ms, times 2: use 1 ms or more, at most 24 days, and 1 or more times",
        ),
    ];
    for (target, change, says) in changes {
        let error = change(Connector::builder(target, |_, _| Echo)).start().map(drop).unwrap_err();
        assert_eq!(error.to_string(), says);
    }
    let any = Connector::builder("any name at all", |_, _| Echo).resolver(|_| ready(Ok(Vec::new())));
    assert_ne!(any.start().map(drop), Err(ConfigError::Target { target: "any name at all".to_owned() }));
}

#[actix::test]
async fn nobody_need_hold_its_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = start(&listener.local_addr().unwrap().to_string(), |builder| builder.backoff(SHORT));
    let Connected { connector, .. } = client;
    drop(connector);
    for _ in 0..2 {
        let (stream, _): (TcpStream, _) = within("a connection", listener.accept()).await.unwrap();
        drop(stream);
    }
}
