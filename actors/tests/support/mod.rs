//! What the tests of promises share: a server whose reports can be awaited, and a peer who says what it expects.
//!
//! Every wait is bounded and says what it waited for.
// Each test file is a program of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

use std::{
    cell::{Cell, RefCell},
    future::Future,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use actix::{Actor, Context, Handler};
use actix_lines::{
    CloseReport, Connection, Framing, Line, LineContext, LineHandler, LineServer, Listener, ListenerInfo, ServerHandle,
    Transport,
    control::{SessionEvent, SessionInfo, SessionQuery, SessionState, Subscribe},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

/// How long an event may take before a test gives it up. A guard and no measure: however busy the machine, nothing here takes
/// so long. On the paused clock it is longer than any time that has to pass.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often a property is tried.
pub const CASES: u32 = 300;

/// Returns true if nothing stands between a peer and its session. In `behind` there are filters and a tunnel: tests that are
/// about the peer's own socket have nothing to say there.
pub fn is_direct() -> bool {
    true
}

/// Returns true if a server knows the addresses of a peer's own socket.
pub fn knows_peer() -> bool {
    true
}

thread_local! {
    static IS_PAUSED: Cell<bool> = const { Cell::new(false) };
}

/// Pauses tokio's clock: it jumps to the next timer whenever nobody here has anything to do.
/// Where somebody always has, it stands, and no bound on it is ever reached: a fault that may be a loop needs a count as its bound.
pub fn pause() {
    tokio::time::pause();
    IS_PAUSED.set(true);
}

/// While this lives a paused clock stands still, also when nobody here has anything to do.
///
/// For what the kernel does: bytes that are on their way from one socket to another are nobody's task and nobody's timer, so
/// the clock would jump over them, and a busy machine takes its time.
pub struct Still {
    _until: Option<std::sync::mpsc::Sender<()>>,
}

/// Lets a paused clock stand still.
pub fn still() -> Still {
    let until = IS_PAUSED.get().then(|| {
        let (until, is_over) = std::sync::mpsc::channel::<()>();
        // As long as something blocks tokio's clock does not jump. If what is waited for does not come, time goes on.
        tokio::task::spawn_blocking(move || is_over.recv_timeout(PATIENCE));
        until
    });
    Still { _until: until }
}

/// Waits for an `event` of the kernel, but not for ever: a paused clock stands still until it comes.
pub async fn at_once<T>(what: &str, event: impl Future<Output = T>) -> T {
    let _still = still();
    within(what, event).await
}

/// Waits for `event`, but not for ever; on a paused clock time passes meanwhile.
pub async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, event).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}

/// Lets `time` pass on tokio's paused clock, which costs none: for tests whose subject is that time. Panics if the clock
/// runs, so that it is never a wait for something that may have happened by then.
pub async fn pass(time: Duration) {
    // Panics unless it is paused.
    tokio::time::resume();
    tokio::time::pause();
    tokio::time::sleep(time).await;
}

/// Holds its thread for so long, as a handler must not.
pub fn hold(time: Duration) {
    let begin = std::time::Instant::now();
    while begin.elapsed() < time {
        std::thread::yield_now();
    }
}

/// What actors wait for until the test opens it; never again after that.
#[derive(Clone)]
pub struct Gate(Arc<tokio::sync::Semaphore>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(tokio::sync::Semaphore::new(0)))
    }
}

impl Gate {
    pub fn open(&self) {
        self.0.close();
    }

    /// Is over once it is open, in a later turn than the one that asks.
    pub fn passed(&self) -> impl Future<Output = ()> + use<> {
        let gate = self.clone();
        async move {
            let _ = gate.0.acquire().await;
            tokio::task::yield_now().await;
        }
    }
}

/// Returns the number that is written with the digits of a time: another way to it than by adding or dividing floats, which
/// differ in the last digit.
pub fn seconds(time: Duration) -> f64 {
    format!("{}.{:09}", time.as_secs(), time.subsec_nanos()).parse().unwrap()
}

/// Waits until `condition` holds, letting everything else run meanwhile.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    // A condition that takes longer than a tick leaves all others their turns, too.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    within(what, async {
        while !condition().await {
            ticks.tick().await;
        }
    })
    .await;
}

/// A server on a free port, and every close report that it makes.
pub struct Server {
    pub handle: ServerHandle,
    reports: mpsc::UnboundedReceiver<CloseReport>,
}

struct Reporter(mpsc::UnboundedSender<CloseReport>);

impl Actor for Reporter {
    type Context = Context<Self>;
}

impl Handler<SessionEvent> for Reporter {
    type Result = ();
    fn handle(&mut self, event: SessionEvent, _: &mut Self::Context) {
        if let SessionEvent::Closed(reports) = event {
            reports.iter().for_each(|report| drop(self.0.send(report.clone())));
        }
    }
}

/// Passes on all events.
struct Ear(mpsc::UnboundedSender<SessionEvent>);

impl Actor for Ear {
    type Context = Context<Self>;
}

impl Handler<SessionEvent> for Ear {
    type Result = ();
    fn handle(&mut self, event: SessionEvent, _: &mut Self::Context) {
        let _ = self.0.send(event);
    }
}

/// All events of a server from now on.
pub async fn events(server: &ServerHandle) -> mpsc::UnboundedReceiver<SessionEvent> {
    let (sender, events) = mpsc::unbounded_channel();
    server.supervisor().send(Subscribe::lossless(Ear(sender).start().recipient())).await.unwrap();
    events
}

impl Server {
    /// Starts `server` on a free port of the loopback address.
    pub async fn start<A, F>(server: LineServer<A, F>) -> Self
    where
        A: LineHandler,
        F: Fn(&Connection) -> A + Clone + Send + 'static,
    {
        Self::of(server.bind("127.0.0.1:0").unwrap()).await
    }

    /// Starts `server` on the listeners that it has.
    pub async fn of<A, F>(server: LineServer<A, F>) -> Self
    where
        A: LineHandler,
        F: Fn(&Connection) -> A + Clone + Send + 'static,
    {
        let handle = server.start().unwrap();
        let (sender, reports) = mpsc::unbounded_channel();
        handle.supervisor().send(Subscribe::lossless(Reporter(sender).start().recipient())).await.unwrap();
        Self { handle, reports }
    }

    pub fn address(&self) -> SocketAddr {
        self.handle.local_addrs()[0]
    }

    /// The first thousand live sessions, in the order of their numbers.
    pub async fn sessions(&self) -> Vec<SessionInfo> {
        within("the list of sessions", self.handle.sessions(SessionQuery::default())).await.unwrap().sessions
    }

    /// All events from now on.
    pub async fn events(&self) -> mpsc::UnboundedReceiver<SessionEvent> {
        events(&self.handle).await
    }

    pub async fn connect(&self) -> Peer {
        Peer::connect(self.address()).await
    }

    /// The next close report.
    pub async fn report(&mut self) -> CloseReport {
        within("a close report", self.reports.recv()).await.expect("the supervisor reports as long as it lives")
    }

    /// A close report that has come already.
    pub fn report_if_any(&mut self) -> Option<CloseReport> {
        self.reports.try_recv().ok()
    }

    /// Ends the server, with whatever sessions it has.
    pub async fn end_all(self) {
        within("the end of the server", self.handle.abort()).await.unwrap();
        within("the end of the workers", self.handle.wait()).await.unwrap();
    }

    /// Ends the server; no session may have left a report that nobody asked for.
    pub async fn end(mut self) {
        within("the end of the server", self.handle.abort()).await.unwrap();
        within("the end of the workers", self.handle.wait()).await.unwrap();
        assert_eq!(self.reports.try_recv().ok(), None, "a report that was not expected");
    }
}

/// The other end of a session, over TCP.
pub struct Peer {
    pub stream: TcpStream,
}

impl Peer {
    pub async fn connect(address: SocketAddr) -> Self {
        Self { stream: at_once("a connection", TcpStream::connect(address)).await.unwrap() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        at_once("the server to read", self.stream.write_all(bytes)).await.unwrap();
    }

    /// Sends `line` over and over, until the server takes no more because over `low` bytes of answers wait to be read
    /// here. Returns how many bytes it took.
    pub async fn send_until_stuck(&mut self, server: &Server, line: &[u8], low: usize) -> usize {
        let mut taken = 0;
        let mut same = 0;
        let mut last = None;
        eventually("the server to stop reading", async || {
            while let Ok(count) = self.stream.try_write(&line[taken % line.len()..]) {
                taken += count;
            }
            // The worker answers this between two turns of its session.
            let sessions = server.sessions().await;
            let state = sessions.first().map(|session| (taken, session.bytes_in, session.outbox_bytes));
            same = if state == last { same + 1 } else { 0 };
            last = state;
            same >= 5 && state.is_some_and(|(_, _, outbox)| outbox > low)
        })
        .await;
        taken
    }

    /// Sends of `bytes` what the server takes, whose only session this is, until it is held back. Returns how many that were.
    pub async fn send_until_held(&mut self, server: &Server, bytes: &[u8]) -> usize {
        let mut taken = 0;
        let mut last = None;
        eventually("the server to stop reading", async || {
            while let Ok(count) = self.stream.try_write(&bytes[taken..])
                && count > 0
            {
                taken += count;
            }
            // The worker answers this between two turns of its session.
            let sessions = server.sessions().await;
            // It may not be accepted yet.
            let Some(session) = sessions.first() else { return false };
            let state = (session.state == SessionState::Held).then_some((taken, session.bytes_in));
            let is_same = state.is_some() && state == last;
            last = state;
            is_same
        })
        .await;
        taken
    }

    pub async fn shutdown_write(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Reads exactly as many bytes and compares them. On a paused clock they have to come at once.
    #[track_caller]
    pub fn expect(&mut self, expected: &[u8]) -> impl Future<Output = ()> + use<'_> {
        let later = self.expect_later(expected);
        async move {
            let _still = still();
            later.await;
        }
    }

    /// Reads exactly as many bytes and compares them; on a paused clock time passes meanwhile.
    #[track_caller]
    pub fn expect_later(&mut self, expected: &[u8]) -> impl Future<Output = ()> + use<'_> {
        let expected = expected.to_vec();
        let caller = std::panic::Location::caller();
        async move {
            let mut got = vec![0; expected.len()];
            let what = format!("{:?} at {caller}", String::from_utf8_lossy(&expected));
            within(&what, self.stream.read_exact(&mut got)).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&expected), "at {caller}");
        }
    }

    /// Reads to the EOF, which has to come without an error.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        within("EOF", self.stream.read_to_end(&mut rest)).await.expect("a clean EOF, no reset");
        rest
    }

    pub async fn expect_eof(&mut self) {
        let rest = self.rest().await;
        assert_eq!(String::from_utf8_lossy(&rest), "", "bytes where the EOF should be");
    }

    /// Closes with a reset instead of a FIN.
    pub fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }
}

/// Runs one session over an in-memory pair: sends the chunks, one read each as far as it can be done from outside, then
/// EOF; returns all that came back.
pub async fn converse<A: LineHandler>(framing: Framing, actor: A, chunks: &[&[u8]]) -> Vec<u8> {
    let (ours, theirs) = tokio::io::duplex(128 * 1024);
    LineContext::start(Transport::new(ours), framing, actor);
    let (mut read, mut write) = tokio::io::split(theirs);
    let answer = tokio::task::spawn_local(async move {
        let mut answer = Vec::new();
        read.read_to_end(&mut answer).await.unwrap();
        answer
    });
    for chunk in chunks {
        // A session that closed early reads no more.
        if write.write_all(chunk).await.is_err() {
            break;
        }
        // The session's turn.
        tokio::task::yield_now().await;
    }
    let _ = write.shutdown().await;
    within("the answer", answer).await.unwrap()
}

/// Cuts `bytes` into chunks whose sizes come from `sizes`, over and over.
pub fn cut<'a>(bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    let mut rest = bytes;
    let mut sizes = sizes.iter().copied().cycle();
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(sizes.next().unwrap_or(1).clamp(1, rest.len()));
        chunks.push(chunk);
        rest = later;
    }
    chunks
}

/// What a session did, for whoever asks afterwards.
pub type Log<T> = Rc<RefCell<Vec<T>>>;

/// Answers each line with itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Actor for Echo {
    type Context = LineContext<Self>;
}

impl LineHandler for Echo {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
    }
}

/// Answers each line with itself, and counts itself for as long as it lives.
pub struct Counted(pub Arc<AtomicUsize>);

impl Actor for Counted {
    type Context = LineContext<Self>;
}

impl LineHandler for Counted {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// A listener on a free port.
pub fn free() -> Listener {
    Listener::tcp("127.0.0.1:0")
}

/// Where a listener listens on an IP address.
pub fn ip(listener: &ListenerInfo) -> SocketAddr {
    listener.local_addr.socket_addr().expect("an IP address")
}

/// Has ROT13 answer a line.
pub async fn talk(peer: &mut Peer) {
    peer.send(b"hello\n").await;
    peer.expect(b"uryyb\n").await;
}

/// Connects to ROT13, and has it answer a line.
pub async fn greet(address: SocketAddr) -> Peer {
    let mut peer = Peer::connect(address).await;
    talk(&mut peer).await;
    peer
}
