//! Connector: the actor for outgoing sessions. It looks up, connects, and makes a session of each connection; when that
//! ends it starts again, until it is told to disconnect.
//!
//! No line passes through it: the session is an actor like those of a server, on the connector's arbiter.
//! Not here: trying several addresses (`race`), the session itself (`session`).

use std::{fmt, net::SocketAddr, rc::Rc, time::Duration};

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Recipient, ResponseFuture,
    dev::MessageResponse, fut::wrap_future,
};
use tokio::sync::oneshot;

use crate::{
    address::Origin,
    connect::{
        backoff::Backoff,
        messages::{Asker, Askers, ConnectorEvent, Disconnect, GetSession, SessionAnswer},
        target::Way,
    },
    connection::{Connection, SessionId},
    control::messages::Subscribe,
    error::ConnectError,
    escape::Escaped,
    framing::Framing,
    limits::SessionLimits,
    plural::Counted,
    report::CloseReport,
    seconds,
    session::{
        handler::LineHandler,
        opening::{Opening, SessionRef},
    },
    wire::transport::Transport,
    worker::{command::Commands, task},
};

pub(super) type Factory<A> = Box<dyn FnMut(&Connection, u64) -> A>;

/// An actor that keeps one outgoing session: it connects, makes a session actor of the connection, and connects again
/// when the session has ended, for whatever reason.
///
/// The session is your own actor, with the same [`LineContext`](crate::LineContext) as in a server: its
/// [`opened`](LineHandler::opened) is called once connected, its [`closed`](LineHandler::closed) gets the reason of its
/// end. The next connection gets a new actor; the factory is given the connection's number.
///
/// Other actors ask for the session's address ([`GetSession`]), subscribe to its events ([`ConnectorEvent`]), and end
/// it ([`Disconnect`]). Nothing is kept for the next session: bytes that a lost one had not sent are counted in its
/// report, and messages to it come back as [`MailboxError`](actix::MailboxError).
///
/// ```
/// use actix::{Actor, AsyncContext, Handler, Message};
/// use actix_lines::{
///     Line, LineContext, LineHandler, LineServer, Rot13, connect::{Connector, Disconnect, GetSession},
/// };
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
///         ctx.write(question);
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
    pub(super) way: Rc<Way>,
    pub(super) framing: Framing,
    pub(super) limits: SessionLimits,
    pub(super) backoff: Backoff,
    pub(super) max_attempts: Option<u32>,
    pub(super) factory: Factory<A>,
    pub(super) subscribers: Vec<Recipient<ConnectorEvent>>,
    /// Number of the current or next attempt: 1 is the first since the start, or since a connection that lasted.
    pub(super) attempt: u32,
    pub(super) connections: u64,
    pub(super) live: Option<Live<A>>,
    pub(super) waiting: Askers<A>,
    /// Waiting [`Disconnect`]s, once there was one.
    pub(super) disconnecting: Option<Vec<oneshot::Sender<CloseReport>>>,
}

/// The session, and the ways to reach it.
pub(super) struct Live<A: LineHandler> {
    session: Addr<A>,
    peer: SocketAddr,
    at: SessionRef,
}

impl<A: LineHandler> fmt::Debug for Connector<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("target", &self.way.target)
            .field("session", &self.live.as_ref().map(|live| live.at.id))
            .field("attempt", &self.attempt)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

impl<A: LineHandler> Connector<A> {
    fn publish(&mut self, event: &ConnectorEvent) {
        // `do_send` skips the mailbox's limit; the pauses between attempts bound how many there can be.
        self.subscribers.retain(|subscriber| {
            subscriber.do_send(event.clone());
            subscriber.connected()
        });
    }

    fn connect(&mut self, ctx: &mut Context<Self>) {
        let attempt = wrap_future::<_, Self>(Rc::clone(&self.way).attempt());
        ctx.spawn(attempt.map(|result, connector, ctx| match result {
            Ok((peer, transport)) => connector.open(peer, transport, ctx),
            Err(error) => connector.fail(error, ctx),
        }));
    }

    /// Makes a session of a connection.
    fn open(&mut self, peer: SocketAddr, transport: Transport, ctx: &mut Context<Self>) {
        let mut connection = Connection::new(SessionId::next(), peer.into(), transport.local(), None);
        transport.learned(&mut connection.info);
        let nth = self.connections + 1;
        let worker = task::standalone(self.limits);
        let mut opening = Opening::new(&worker, transport, connection.clone(), None, self.framing);
        let report = opening.watch();
        let factory = &mut self.factory;
        let (at, session) = match opening.open(|ctx| (factory(&connection, nth), ctx.address())) {
            Ok(opened) => opened,
            Err(panicked) => {
                panicked.log();
                let target = self.way.target.clone();
                return self.fail(ConnectError::Panicked { target, what: "factory" }, ctx);
            }
        };
        self.connections = nth;
        log::info!(
            session = connection.id.get(), peer:% = peer;
            "connected to {} at {peer}: session {}", Escaped::new(&self.way.target), connection.id
        );
        self.waiting.answer(Some(&session));
        self.live = Some(Live { session, peer, at });
        self.publish_connected();
        ctx.spawn(wrap_future::<_, Self>(report).map(|report, connector, ctx| match report {
            Ok(report) => connector.close(report, ctx),
            // Only with its arbiter can a session go without a report.
            Err(_) => ctx.stop(),
        }));
    }

    fn connected(&self) -> Option<ConnectorEvent> {
        let Live { at, peer, .. } = self.live.as_ref()?;
        Some(ConnectorEvent::Connected { session: at.id, peer: *peer, nth: self.connections })
    }

    fn publish_connected(&mut self) {
        if let Some(event) = self.connected() {
            self.publish(&event);
        }
    }

    /// Handles the end of its session.
    fn close(&mut self, report: CloseReport, ctx: &mut Context<Self>) {
        self.live = None;
        if let Some(askers) = self.disconnecting.take() {
            askers.into_iter().for_each(|asker| drop(asker.send(report.clone())));
            self.publish(&ConnectorEvent::Lost { report, retry_in: None });
            return self.end(&ConnectorEvent::Disconnected, ctx);
        }
        if report.duration >= self.backoff.max {
            self.attempt = 0;
        }
        let retry_in = self.retry_in();
        log::info!(
            session = report.id.get(), peer = Origin(&report.peer), reason = report.reason.name(),
            duration = seconds::of(report.duration);
            "lost {}: {report}", Escaped::new(&self.way.target)
        );
        self.publish(&ConnectorEvent::Lost { report, retry_in });
        self.retry(retry_in, ctx);
    }

    /// Handles an attempt that brought no session.
    fn fail(&mut self, error: ConnectError, ctx: &mut Context<Self>) {
        let (attempt, retry_in) = (self.attempt, self.retry_in());
        log::warn!("{}", Escaped::new(&error.to_string()));
        self.publish(&ConnectorEvent::Failed { error, attempt, retry_in });
        self.retry(retry_in, ctx);
    }

    /// Returns the wait after the attempts so far; `None` if they were the last.
    fn retry_in(&self) -> Option<Duration> {
        let may_retry = self.max_attempts.is_none_or(|most| self.attempt < most);
        may_retry.then(|| self.backoff.wait(self.attempt))
    }

    fn retry(&mut self, wait: Option<Duration>, ctx: &mut Context<Self>) {
        self.waiting.forget_the_gone();
        let Some(wait) = wait else {
            let attempts = Counted(self.attempt, "attempt");
            log::error!(count = self.attempt; "giving up on {} after {attempts}", Escaped::new(&self.way.target));
            return self.end(&ConnectorEvent::GaveUp { attempts: self.attempt }, ctx);
        };
        self.attempt = self.attempt.saturating_add(1);
        ctx.run_later(wait, Self::connect);
    }

    fn end(&mut self, last: &ConnectorEvent, ctx: &mut Context<Self>) {
        self.publish(last);
        ctx.stop();
    }
}

impl<A: LineHandler> Actor for Connector<A> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.connect(ctx);
    }
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

/// Tells all who wait, however it ended, that there will be no session.
impl<A: LineHandler> Drop for Connector<A> {
    fn drop(&mut self) {
        self.waiting.answer(None);
    }
}

impl<A: LineHandler> Handler<Subscribe<ConnectorEvent>> for Connector<A> {
    type Result = ();

    fn handle(&mut self, Subscribe { recipient, .. }: Subscribe<ConnectorEvent>, _: &mut Self::Context) {
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
                    live.at.send(Commands::ABORT);
                } else {
                    live.at.send(Commands::HALF_CLOSE);
                    ctx.run_later(deadline, |connector, _| {
                        connector.live.iter().for_each(|live| live.at.send(Commands::ABORT));
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
    use crate::address::Address;
    use std::io;

    use actix::Message;
    use futures::FutureExt;

    use super::*;
    use crate::{connect::messages::LEAST_ASKERS, limits::Limits, rot13::Rot13};

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
        let connection = Connection::between(Address::Memory, Address::Memory);
        let mut opening = Opening::new(&worker, Transport::new(ours), connection, None, Framing::lf());
        let report = opening.watch();
        assert!(opening.open(|_| (Rot13, ())).is_ok());
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
