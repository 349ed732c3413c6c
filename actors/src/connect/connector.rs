//! `Connector`: the actor for outgoing sessions. It looks up, connects, and makes a session of each connection; when that
//! ends it does so again, until it is told to disconnect.
//!
//! No line passes through it: the session is an actor like those of a server, on the connector's arbiter.
//! Not here: how several addresses are tried (`race`), what a session is (`context`).

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    io,
    marker::PhantomData,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, Recipient, ResponseFuture,
    dev::{MessageResponse, OneshotSender},
    fut::wrap_future,
};
use futures::FutureExt;
use tokio::{
    net::TcpStream,
    sync::oneshot,
    time::{Instant, timeout_at},
};

use crate::{
    caught::dispose,
    connect::race::{self, interleave, race},
    connection::{Connection, SessionId},
    control::messages::Subscribe,
    error::{ConfigError, ConnectError},
    escape::Escaped,
    framing::Framing,
    limits::{LONGEST_TIMEOUT, Limits, SessionLimits},
    report::CloseReport,
    session::{handler::LineHandler, turn::Session},
    wire::{tcp, transport::Transport},
    worker::{command::Command, task, worker::Worker},
};

/// How long an attempt to connect may take, by default. Linux repeats a SYN after 1, 3 and 7 seconds, so three lost ones
/// are forgiven.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// After how long a silence the peer's machine is asked whether it is still there, by default.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// For how many who wait for a session there is room before the list of them is looked through.
const LEAST_ASKERS: usize = 16;

/// How long a connector waits between two attempts: a random time up to a ceiling, which is `initial` at first and grows
/// with each attempt. A connection that has lasted for `max` starts over from `initial`.
///
/// A connection that ends sooner is an attempt that failed. Otherwise a server that accepts and hangs up, be it that it
/// refuses or that its first line makes our handler panic, would be called without end.
///
/// # Source
/// "Full jitter" of Marc Brooker's "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: of the ways compared
/// there it is the one with which many clients that lost the same server make the fewest calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The ceiling of the first wait. Default: 500 ms.
    pub initial: Duration,
    /// By how much the ceiling grows. Default: 2.
    pub factor: u32,
    /// The highest ceiling. Default: 30 s.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_millis(500), factor: 2, max: Duration::from_secs(30) }
    }
}

impl Backoff {
    fn is_valid(self) -> bool {
        let range = Duration::from_millis(1)..=LONGEST_TIMEOUT;
        range.contains(&self.initial) && range.contains(&self.max) && self.initial <= self.max && self.factor > 0
    }

    /// The longest wait after so many failed attempts, the first being 1.
    fn ceiling(self, failed: u32) -> Duration {
        let grown = self.factor.checked_pow(failed.saturating_sub(1)).and_then(|times| self.initial.checked_mul(times));
        grown.map_or(self.max, |ceiling| ceiling.min(self.max))
    }

    fn wait(self, failed: u32) -> Duration {
        self.ceiling(failed).mul_f64(fastrand::f64())
    }
}

type Resolve = Box<dyn Fn(String) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>>>>>;

type Factory<A> = Box<dyn FnMut(&Connection, u64) -> A>;

/// Makes a [`Connector`]: what it connects to, and how.
#[must_use = "a connector does nothing until it is started"]
pub struct ConnectorBuilder<A> {
    target: String,
    resolve: Option<Resolve>,
    connect_timeout: Duration,
    keepalive: Option<Duration>,
    framing: Framing,
    limits: Limits,
    backoff: Backoff,
    max_attempts: Option<u32>,
    subscribers: Vec<Recipient<ConnectorEvent>>,
    factory: Factory<A>,
}

impl<A> fmt::Debug for ConnectorBuilder<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectorBuilder")
            .field("target", &self.target)
            .field("connect_timeout", &self.connect_timeout)
            .field("backoff", &self.backoff)
            .field("max_attempts", &self.max_attempts)
            .finish_non_exhaustive()
    }
}

impl<A: LineHandler> ConnectorBuilder<A> {
    /// Has every [`ConnectorEvent`] sent to `recipient`, from the first on. Later ones: [`Subscribe`].
    pub fn subscribe(mut self, recipient: Recipient<ConnectorEvent>) -> Self {
        self.subscribers.push(recipient);
        self
    }

    /// Sets who looks up the addresses, at each attempt anew. Default: the system's resolver, and the target has to be
    /// written as `HOST:PORT`.
    ///
    /// `resolve` gets the target as it was given, so it may be the name of anything: a service record, a key in a
    /// registry. Its addresses are tried in their order, the two families taking turns.
    ///
    /// ```
    /// # use actix_lines::{Connector, Rot13};
    /// let connector = Connector::builder("the nearest rot13d", |_connection, _nth| Rot13)
    ///     .resolver(async |_target| Ok(vec!["[2001:db8::7]:40713".parse().unwrap(), "192.0.2.7:40713".parse().unwrap()]));
    /// # let _ = connector;
    /// ```
    pub fn resolver<F, R>(mut self, resolve: F) -> Self
    where
        F: Fn(String) -> R + 'static,
        R: Future<Output = io::Result<Vec<SocketAddr>>> + 'static,
    {
        self.resolve = Some(Box::new(move |target| Box::pin(resolve(target))));
        self
    }

    /// Sets how long one attempt may take, from the look-up to the connection, over all addresses. Default: 10 s.
    ///
    /// A look-up by the system's resolver cannot be interrupted: it is then forgotten, on a thread of its own.
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::ConnectTimeout`] unless it is 1 ms to 24 days.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets after how long a silence the kernel asks the peer's machine whether it is still there; then it does so every
    /// sixth of that time, and ends the connection when several of these probes, nine on Linux, are not answered. Without
    /// it a session that only listens does not notice that its peer's machine is gone. Default: 60 s.
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::Keepalive`] unless it is 1 s to 9 hours, or none.
    pub fn keepalive(mut self, after: Option<Duration>) -> Self {
        self.keepalive = after;
        self
    }

    /// Sets how bytes are cut into lines. Default: [`Framing::lf`].
    pub fn framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// Sets the limits. Only those of a single session count here: watermarks, outbox limit, timeouts, read rate. Default:
    /// [`Limits::default`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets how long to wait between attempts. Default: up to 500 ms, doubled up to 30 s: see [`Backoff`].
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::Backoff`] for a wait under 1 ms or over 24 days, a factor of 0, or a
    /// first wait longer than the longest.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets how many attempts in a row may fail before the connector gives up. A connection that ends before
    /// [`Backoff::max`] is over is one of them. Default: it never does.
    ///
    /// # Errors
    /// [`start`](Self::start) returns [`ConfigError::MaxAttempts`] for 0.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// Starts the connector on the current arbiter; its sessions run there too.
    ///
    /// It lives until it is told to [`Disconnect`], or gives up, whether anybody keeps its address or not.
    ///
    /// # Errors
    /// [`ConfigError`], before anything has been started.
    ///
    /// # Panics
    /// Outside of an actix arbiter, as [`Actor::start`] does.
    pub fn start(self) -> Result<Addr<Connector<A>>, ConfigError> {
        let is_timeout = |timeout| (Duration::from_millis(1)..=LONGEST_TIMEOUT).contains(&timeout);
        if self.resolve.is_none() && !is_address(&self.target) {
            return Err(ConfigError::Target { target: self.target });
        }
        if !is_timeout(self.connect_timeout) {
            return Err(ConfigError::ConnectTimeout { timeout: self.connect_timeout });
        }
        self.keepalive.map_or(Ok(()), tcp::check_keepalive)?;
        let Backoff { initial, factor, max } = self.backoff;
        if !self.backoff.is_valid() {
            return Err(ConfigError::Backoff { initial, max, factor });
        }
        if self.max_attempts == Some(0) {
            return Err(ConfigError::MaxAttempts);
        }
        let resolve = self.resolve.unwrap_or_else(|| {
            Box::new(|target| Box::pin(async move { Ok(tokio::net::lookup_host(target).await?.collect()) }))
        });
        let Self { target, connect_timeout, keepalive, .. } = self;
        let connector = Connector {
            way: Rc::new(Way { target, resolve, connect_timeout, keepalive }),
            framing: self.framing,
            limits: self.limits.session,
            backoff: self.backoff,
            max_attempts: self.max_attempts,
            factory: self.factory,
            subscribers: self.subscribers,
            attempt: 1,
            connections: 0,
            live: None,
            waiting: Askers::default(),
            disconnecting: None,
        };
        Ok(connector.start())
    }
}

/// Whether it is `HOST:PORT`, and no more than that: a name, an IPv4 address, or an IPv6 address in brackets.
fn is_address(target: &str) -> bool {
    if let Ok(address) = target.parse::<SocketAddr>() {
        return address.port() != 0;
    }
    target.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains([':', '[', ']', '/']) && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

/// The way to the other side.
struct Way {
    target: String,
    resolve: Resolve,
    connect_timeout: Duration,
    keepalive: Option<Duration>,
}

impl Way {
    /// One attempt: look up, then race.
    async fn attempt(self: Rc<Self>) -> Result<(SocketAddr, TcpStream), ConnectError> {
        let target = || self.target.clone();
        let deadline = Instant::now() + self.connect_timeout;
        let resolve = AssertUnwindSafe(async { (self.resolve)(self.target.clone()).await }).catch_unwind();
        let addresses = match timeout_at(deadline, resolve).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(payload)) => {
                dispose(payload);
                return Err(ConnectError::Panicked { target: target(), what: "resolver" });
            }
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let addresses = addresses
            .map_err(|source| ConnectError::Resolve { target: target(), source: Arc::new(source) })
            .map(interleave)?;
        if addresses.is_empty() {
            return Err(ConnectError::NoAddress { target: target() });
        }
        let connect = |address| race::connect(address, self.keepalive);
        match timeout_at(deadline, race(addresses.clone(), connect)).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(failures)) => Err(ConnectError::Refused {
                target: target(),
                failures: failures.into_iter().map(|(address, error)| (address, Arc::new(error))).collect(),
            }),
            Err(_) => Err(ConnectError::TimedOut { target: target(), addresses, timeout: self.connect_timeout }),
        }
    }
}

/// An actor that keeps one outgoing session: it connects, makes a session actor of the connection, and when that has
/// ended, whatever the reason, does so again.
///
/// The session is the user's own actor, with the same [`LineContext`](crate::LineContext) as in a server: its
/// [`opened`](LineHandler::opened) is called once connected, its [`closed`](LineHandler::closed) says why it was lost. The
/// next connection gets a new actor, which learns from the factory that it is not the first.
///
/// Others ask for the session's address ([`GetSession`]), subscribe to what happens ([`ConnectorEvent`]), and end it
/// ([`Disconnect`]). Nothing is kept for a next session: what a lost one had not sent is counted in its report, and
/// messages to it come back as [`MailboxError`](actix::MailboxError).
///
/// ```
/// use actix::{Actor, AsyncContext, Handler, Message};
/// use actix_lines::{Connector, Disconnect, GetSession, Line, LineContext, LineHandler, LineServer, Rot13};
/// use std::time::Duration;
///
/// struct Client;
///
/// impl Actor for Client {
///     type Context = LineContext<Self>;
/// }
///
/// impl LineHandler for Client {
///     fn line(&mut self, line: Line<'_>, _ctx: &mut Self::Context) {
///         println!("{}", line.escape_ascii());
///     }
/// }
///
/// #[derive(Message)]
/// #[rtype(result = "()")]
/// struct Ask(&'static str);
///
/// impl Handler<Ask> for Client {
///     type Result = ();
///     fn handle(&mut self, Ask(question): Ask, ctx: &mut Self::Context) {
///         ctx.write(question.as_bytes());
///     }
/// }
///
/// # #[actix::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = LineServer::new(|_connection| Rot13).bind("127.0.0.1:0")?.start()?;
/// let connector = Connector::builder(server.local_addrs()[0].to_string(), |_connection, nth| {
///     println!("connected for the {nth}. time");
///     Client
/// })
/// .start()?;
///
/// let session = connector.send(GetSession::when_connected()).await?.expect("it never gives up");
/// session.send(Ask("Hello\n")).await?;
/// let report = connector.send(Disconnect::within(Duration::from_secs(5))).await?.expect("it was connected");
/// assert_eq!((report.lines_in, report.bytes_out), (1, 6));
/// # server.abort().await?;
/// # Ok(())
/// # }
/// ```
pub struct Connector<A: LineHandler> {
    way: Rc<Way>,
    framing: Framing,
    limits: SessionLimits,
    backoff: Backoff,
    max_attempts: Option<u32>,
    factory: Factory<A>,
    subscribers: Vec<Recipient<ConnectorEvent>>,
    /// The attempt under way or to come next: 1 is the first since the start, or since a connection that lasted.
    attempt: u32,
    connections: u64,
    live: Option<Live<A>>,
    waiting: Askers<A>,
    /// Who waits for the end, once it has been asked for.
    disconnecting: Option<Vec<oneshot::Sender<CloseReport>>>,
}

/// The session, and where it is told things.
struct Live<A: LineHandler> {
    session: Addr<A>,
    id: SessionId,
    peer: SocketAddr,
    worker: Rc<Worker>,
    slot: u32,
}

impl<A: LineHandler> Live<A> {
    fn tell(&self, command: Command) {
        self.worker.send(self.slot, self.id, command);
    }
}

impl<A: LineHandler> fmt::Debug for Connector<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("target", &self.way.target)
            .field("session", &self.live.as_ref().map(|live| live.id))
            .field("attempt", &self.attempt)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

impl<A: LineHandler> Connector<A> {
    /// Starts from the defaults: tries for ever, each attempt 10 s at most, [`Framing::lf`], [`Limits::default`].
    ///
    /// `target` is `HOST:PORT`, unless there is a [`resolver`](ConnectorBuilder::resolver). `factory` makes the actor of
    /// each connection, and is told which one it is, counted from 1. If it panics, that connection is closed and the
    /// attempt has failed; it will be called again for the next.
    pub fn builder(
        target: impl Into<String>,
        factory: impl FnMut(&Connection, u64) -> A + 'static,
    ) -> ConnectorBuilder<A> {
        ConnectorBuilder {
            target: target.into(),
            resolve: None,
            connect_timeout: CONNECT_TIMEOUT,
            keepalive: Some(KEEPALIVE),
            framing: Framing::default(),
            limits: Limits::default(),
            backoff: Backoff::default(),
            max_attempts: None,
            subscribers: Vec::new(),
            factory: Box::new(factory),
        }
    }

    fn tell(&mut self, event: &ConnectorEvent) {
        // `do_send` skips the mailbox's limit; the pauses between attempts bound how many there can be.
        self.subscribers.retain(|subscriber| {
            subscriber.do_send(event.clone());
            subscriber.connected()
        });
    }

    fn connect(&mut self, ctx: &mut Context<Self>) {
        let attempt = wrap_future::<_, Self>(Rc::clone(&self.way).attempt());
        ctx.spawn(attempt.map(|result, connector, ctx| match result {
            Ok((peer, stream)) => connector.open(peer, stream, ctx),
            Err(error) => connector.fail(error, ctx),
        }));
    }

    /// Makes a session of a connection.
    fn open(&mut self, peer: SocketAddr, stream: TcpStream, ctx: &mut Context<Self>) {
        let transport = Transport::from(stream);
        let connection =
            Connection { id: SessionId::next(), peer: Some(peer), local: transport.local(), listener: None };
        let nth = self.connections + 1;
        let actor = match catch_unwind(AssertUnwindSafe(|| (self.factory)(&connection, nth))) {
            Ok(actor) => actor,
            Err(payload) => {
                dispose(payload);
                let target = self.way.target.clone();
                return self.fail(ConnectError::Panicked { target, what: "factory" }, ctx);
            }
        };
        self.connections = nth;
        let worker = task::standalone(self.limits);
        let (session, slot, report) = Session::start_watched(&worker, transport, &connection, self.framing, actor);
        log::info!("connected to {} at {peer}: session {}", Escaped(&self.way.target), connection.id);
        self.waiting.answer(Some(&session));
        self.live = Some(Live { session, id: connection.id, peer, worker, slot });
        self.tell_connected();
        ctx.spawn(wrap_future::<_, Self>(report).map(|report, connector, ctx| match report {
            Ok(report) => connector.close(report, ctx),
            // Only with its arbiter can a session go without a report.
            Err(_) => ctx.stop(),
        }));
    }

    fn connected(&self) -> Option<ConnectorEvent> {
        let Live { id, peer, .. } = self.live.as_ref()?;
        Some(ConnectorEvent::Connected { session: *id, peer: *peer, nth: self.connections })
    }

    fn tell_connected(&mut self) {
        if let Some(event) = self.connected() {
            self.tell(&event);
        }
    }

    /// Its session has ended.
    fn close(&mut self, report: CloseReport, ctx: &mut Context<Self>) {
        self.live = None;
        if let Some(askers) = self.disconnecting.take() {
            askers.into_iter().for_each(|asker| drop(asker.send(report.clone())));
            self.tell(&ConnectorEvent::Lost { report, retry_in: None });
            return self.end(&ConnectorEvent::Disconnected, ctx);
        }
        if report.duration >= self.backoff.max {
            self.attempt = 0;
        }
        let retry_in = self.retry_in();
        log::info!("lost {}: {report}", Escaped(&self.way.target));
        self.tell(&ConnectorEvent::Lost { report, retry_in });
        self.retry(retry_in, ctx);
    }

    /// An attempt brought no session.
    fn fail(&mut self, error: ConnectError, ctx: &mut Context<Self>) {
        let (attempt, retry_in) = (self.attempt, self.retry_in());
        log::warn!("{}", Escaped(&error.to_string()));
        self.tell(&ConnectorEvent::Failed { error, attempt, retry_in });
        self.retry(retry_in, ctx);
    }

    /// How long to wait after the attempts so far; none if they were the last.
    fn retry_in(&self) -> Option<Duration> {
        let may_retry = self.max_attempts.is_none_or(|most| self.attempt < most);
        may_retry.then(|| self.backoff.wait(self.attempt))
    }

    fn retry(&mut self, wait: Option<Duration>, ctx: &mut Context<Self>) {
        self.waiting.forget_the_gone();
        let Some(wait) = wait else {
            log::error!("giving up on {} after {} attempts", Escaped(&self.way.target), self.attempt);
            return self.end(&ConnectorEvent::GaveUp { attempts: self.attempt }, ctx);
        };
        self.attempt = self.attempt.saturating_add(1);
        ctx.run_later(wait, Self::connect);
    }

    fn end(&mut self, last: &ConnectorEvent, ctx: &mut Context<Self>) {
        self.tell(last);
        ctx.stop();
    }
}

impl<A: LineHandler> Actor for Connector<A> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.connect(ctx);
    }
}

/// What happens to a connector's session, as it happens. For [`ConnectorBuilder::subscribe`] and [`Subscribe`], which
/// begins with `Connected` if that is how it stands.
///
/// `Connected` and `Lost` take turns, with any number of `Failed` before each `Connected`. `GaveUp` or `Disconnected` is
/// the last.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
#[non_exhaustive]
pub enum ConnectorEvent {
    /// A session has begun.
    Connected {
        /// Its number.
        session: SessionId,
        /// Which of the addresses it was.
        peer: SocketAddr,
        /// The how many-th session it is, counted from 1: above that it is a reconnection.
        nth: u64,
    },
    /// The session has ended, for whatever reason.
    Lost {
        /// What it has left behind, with the reason and the bytes that were not sent.
        report: CloseReport,
        /// When the next attempt begins; none if there will be none.
        retry_in: Option<Duration>,
    },
    /// An attempt brought no session.
    Failed {
        /// Why.
        error: ConnectError,
        /// Which one it was since the start, or since the last session that lasted; from 1.
        attempt: u32,
        /// When the next attempt begins; none if there will be none.
        retry_in: Option<Duration>,
    },
    /// That was the last of [`max_attempts`](ConnectorBuilder::max_attempts); the connector has ended.
    GaveUp {
        /// How many were made.
        attempts: u32,
    },
    /// It was told to [`Disconnect`], and has ended.
    Disconnected,
}

/// Asks a connector for the address of its session.
///
/// The answer is `None` while there is none, and from a connector that has ended without one. An address outlives its
/// session: messages to it then come back as [`MailboxError::Closed`](actix::MailboxError::Closed), and this is to be
/// asked again.
pub struct GetSession<A> {
    wait: bool,
    actor: PhantomData<fn() -> A>,
}

impl<A> GetSession<A> {
    /// The session that is there now.
    #[must_use]
    pub fn now() -> Self {
        Self { wait: false, actor: PhantomData }
    }

    /// The session that is there, or the next one, however long that takes. `None` means that there will be none.
    #[must_use]
    pub fn when_connected() -> Self {
        Self { wait: true, actor: PhantomData }
    }
}

impl<A> fmt::Debug for GetSession<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GetSession").field("wait", &self.wait).finish()
    }
}

impl<A: LineHandler> Message for GetSession<A> {
    type Result = Option<Addr<A>>;
}

/// Ends a connector: it connects no more, and its session, if there is one, is half-closed: it sends what was written and
/// its FIN, and gets the peer's lines until these end, as [`half_close`](crate::LineContext::half_close) does. What is
/// left after `deadline` is aborted. The answer is the session's report; `None` if there was none.
///
/// Sending it twice shortens the time if the second deadline comes first, and changes nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Option<CloseReport>")]
#[non_exhaustive]
pub struct Disconnect {
    /// How long the session may take. At zero it is aborted at once.
    pub deadline: Duration,
}

impl Disconnect {
    /// Gives the session so long to end.
    #[must_use]
    pub fn within(deadline: Duration) -> Self {
        Self { deadline }
    }
}

impl<A: LineHandler> Handler<GetSession<A>> for Connector<A> {
    type Result = SessionAnswer<A>;

    fn handle(&mut self, GetSession { wait, .. }: GetSession<A>, _: &mut Self::Context) -> Self::Result {
        match &self.live {
            // Nothing more can be written to it.
            _ if self.disconnecting.is_some() => SessionAnswer::Now(None),
            // Its report may be on its way here.
            Some(live) if live.session.connected() => SessionAnswer::Now(Some(live.session.clone())),
            _ if wait => SessionAnswer::Later(self.waiting.clone()),
            _ => SessionAnswer::Now(None),
        }
    }
}

/// The answer to a [`GetSession`].
///
/// Not a future: that would be kept until there is a session, whether the asker still waits for it or not.
pub enum SessionAnswer<A: LineHandler> {
    /// At once.
    Now(Option<Addr<A>>),
    /// When there is a session, or there will be none.
    Later(Askers<A>),
}

impl<A: LineHandler> MessageResponse<Connector<A>, GetSession<A>> for SessionAnswer<A> {
    fn handle(self, _: &mut Context<Connector<A>>, asker: Option<Asker<A>>) {
        let Some(asker) = asker else { return };
        match self {
            Self::Now(session) => drop(asker.send(session)),
            Self::Later(askers) => askers.add(asker),
        }
    }
}

/// Where an answer to [`GetSession`] goes.
type Asker<A> = OneshotSender<Option<Addr<A>>>;

/// Those who wait for the next session of a connector. A clone is the same list.
pub struct Askers<A: LineHandler>(Rc<RefCell<Vec<Asker<A>>>>);

impl<A: LineHandler> Askers<A> {
    /// Adds one. The gone are forgotten whenever the list would grow: it is at most twice as long as those who wait are
    /// many.
    fn add(&self, asker: Asker<A>) {
        let is_full = {
            let askers = self.0.borrow();
            askers.len() == askers.capacity()
        };
        if is_full {
            self.forget_the_gone();
            let mut askers = self.0.borrow_mut();
            let more = askers.len().max(LEAST_ASKERS);
            askers.reserve_exact(more);
        }
        self.0.borrow_mut().push(asker);
    }

    fn forget_the_gone(&self) {
        let mut askers = self.0.borrow_mut();
        askers.retain(|asker| !asker.is_closed());
        askers.shrink_to_fit();
    }

    /// Tells all of them what comes of it.
    fn answer(&self, session: Option<&Addr<A>>) {
        let askers = self.0.take();
        askers.into_iter().for_each(|asker| drop(asker.send(session.cloned())));
    }
}

impl<A: LineHandler> Clone for Askers<A> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<A: LineHandler> Default for Askers<A> {
    fn default() -> Self {
        Self(Rc::default())
    }
}

/// However it ended: there will be no session.
impl<A: LineHandler> Drop for Connector<A> {
    fn drop(&mut self) {
        self.waiting.answer(None);
    }
}

impl<A: LineHandler> Handler<Subscribe<ConnectorEvent>> for Connector<A> {
    type Result = ();

    fn handle(&mut self, Subscribe(recipient): Subscribe<ConnectorEvent>, _: &mut Self::Context) {
        if let Some(event) = self.connected() {
            recipient.do_send(event);
        }
        self.subscribers.push(recipient);
    }
}

impl<A: LineHandler> Handler<Disconnect> for Connector<A> {
    type Result = ResponseFuture<Option<CloseReport>>;

    fn handle(&mut self, Disconnect { deadline }: Disconnect, ctx: &mut Self::Context) -> Self::Result {
        let (sender, receiver) = oneshot::channel();
        self.waiting.answer(None);
        match &self.live {
            // An attempt, or the wait for one, is dropped with the actor's other futures.
            None => self.end(&ConnectorEvent::Disconnected, ctx),
            Some(live) => {
                if deadline.is_zero() {
                    live.tell(Command::Abort);
                } else {
                    live.tell(Command::HalfClose);
                    ctx.run_later(deadline, |connector, _| {
                        connector.live.iter().for_each(|live| live.tell(Command::Abort));
                    });
                }
                self.disconnecting.get_or_insert_default().push(sender);
            }
        }
        Box::pin(async move { receiver.await.ok() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rot13::Rot13;

    #[test]
    fn the_ceiling_doubles_from_half_a_second_to_half_a_minute() {
        let ceilings: Vec<_> =
            [0, 1, 2, 3, 6, 7, 8, 1000].map(|failed| Backoff::default().ceiling(failed).as_millis()).into();
        assert_eq!(ceilings, [500, 500, 1000, 2000, 16_000, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn waits_are_spread_over_all_of_the_time_below_the_ceiling() {
        let waits: Vec<_> = (0..1000).map(|_| Backoff::default().wait(1).as_millis()).collect();
        assert!(waits.iter().all(|wait| *wait <= 500), "{waits:?}");
        for tenth in 0..10 {
            // Each tenth gets a hundred of the thousand; that one gets none has a chance of 1e-45.
            assert!(waits.iter().any(|wait| wait / 50 == tenth), "none in tenth {tenth}: {waits:?}");
        }
    }

    #[test]
    fn what_can_be_connected_to_is_told_from_what_cannot() {
        for good in ["localhost:1", "example.org:65535", "192.0.2.7:7", "[::1]:7"] {
            assert!(is_address(good), "{good}");
        }
        for bad in
            ["", "localhost", "localhost:", ":7", "localhost:0", "localhost:65536", "::1:7", "[::1]", "http://a:7"]
        {
            assert!(!is_address(bad), "{bad}");
        }
        assert!(!is_address("127.0.0.1:0"));
    }

    /// How many are kept who wait for a session, gone or not.
    #[derive(Message)]
    #[rtype(result = "usize")]
    struct CountAskers;

    impl Handler<CountAskers> for Connector<Rot13> {
        type Result = usize;
        fn handle(&mut self, _: CountAskers, _: &mut Self::Context) -> usize {
            self.waiting.0.borrow().len()
        }
    }

    #[actix::test]
    async fn those_who_wait_for_a_session_no_longer_are_forgotten_by_the_next_who_ask_and_by_the_next_attempt() {
        tokio::time::pause();
        let fails = |_| async { Err(io::ErrorKind::NotFound.into()) };
        let connector = Connector::builder("nothing", |_, _| Rot13)
            .resolver(fails)
            .backoff(Backoff { initial: Duration::from_secs(600), factor: 1, max: Duration::from_secs(600) })
            .start()
            .unwrap();
        let ask = || connector.send(GetSession::when_connected());
        let mut patient: Vec<_> = (0..100).map(|_| Box::pin(ask())).collect();
        for asker in &mut patient {
            assert!(asker.as_mut().now_or_never().is_none());
        }
        for _ in 0..5_000 {
            assert!(tokio::time::timeout(Duration::ZERO, ask()).await.is_err());
            assert!(connector.send(CountAskers).await.unwrap() <= 2 * patient.len() + LEAST_ASKERS);
        }
        // By no more than attempts that fail: all but those who wait.
        let attempts = async {
            while connector.send(CountAskers).await.unwrap() > patient.len() {
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(86_400), attempts).await.expect("an attempt");
        // These are told that there will be none.
        connector.send(Disconnect::within(Duration::ZERO)).await.unwrap();
        for asker in patient {
            assert!(asker.await.unwrap().is_none());
        }
    }

    #[actix::test]
    async fn a_worker_for_one_session_ends_with_it() {
        let worker = task::standalone(Limits::default().session);
        let (ours, theirs) = tokio::io::duplex(64);
        let connection = Connection { id: SessionId::next(), peer: None, local: None, listener: None };
        let (_, _, report) = Session::start_watched(&worker, Transport::new(ours), &connection, Framing::lf(), Rot13);
        let left = Rc::downgrade(&worker);
        drop(worker);
        drop(theirs);
        report.await.unwrap();
        let end = async {
            while left.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), end).await.expect("its task ends");
    }
}
