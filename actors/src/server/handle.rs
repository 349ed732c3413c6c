//! Handle: `ServerHandle`, the questions and orders to a running server.
//!
//! Not here: answering (`control/supervisor`).

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use actix::{Addr, Handler, Message};
use actix_rt::ArbiterHandle;
use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    connection::{Connection, ListenerId, SessionId},
    control::{
        listeners::ListenerInfo,
        messages::{
            Drain, GetLimits, GetStats, Kick, LimitsChange, ListSessions, PauseListener, Push, Pushed, SetLimits,
            TraceSession,
        },
        orders::Closing,
        query::{SessionFilter, SessionInfo, SessionPage, SessionQuery},
        stats::{DrainProgress, DrainReport, Stats},
        supervisor::Supervisor,
        trace::Trace,
        ways::{Control, Finished},
    },
    error::{BindError, ServerEnded},
    limits::Limits,
    listen::listener::Listener,
    server::{companion::Companion, doors::Doors, protocol::Served},
    session::handler::LineHandler,
    shared::SharedBytes,
    wire::tap::TraceLimits,
};

/// Longest wait of a question for a new supervisor when its own has ended: after it, the system has ended, too.
const TAKE_OVER: Duration = Duration::from_secs(1);

/// A handle of a running server. Cheap to clone; dropping it does not end the server.
#[derive(Clone, Debug)]
pub struct ServerHandle {
    pub(super) control: Arc<Control>,
    pub(super) supervisors: watch::Receiver<Addr<Supervisor>>,
    pub(super) arbiters: Vec<ArbiterHandle>,
}

impl ServerHandle {
    /// Returns the real addresses of the IP listeners that the server has now, in the order in which they were added. Unix
    /// sockets are left out.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners().iter().filter_map(|listener| listener.local_addr.socket_addr()).collect()
    }

    /// Returns the listeners that the server has now, in the order in which they were added. A server that is drained, or
    /// has ended, returns those that it had last.
    ///
    /// ```
    /// # use actix_lines::{LineServer, Rot13};
    /// # #[actix::main]
    /// # async fn main() -> std::io::Result<()> {
    /// # let server = LineServer::new(|_| Rot13).bind("127.0.0.1:0")?.start()?;
    /// for listener in server.listeners() {
    ///     server.pause(listener.id).await?;
    ///     println!("{} is paused", listener.local_addr);
    /// }
    /// # server.abort().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn listeners(&self) -> Vec<ListenerInfo> {
        self.control.listeners()
    }

    /// Returns the listener of this name, if the server has one now. Its id is what [`pause`](Self::pause),
    /// [`close_listener`](Self::close_listener), [`Stats::listeners`] and
    /// [`SessionFilter::listener`] take: so each of them is by name.
    ///
    /// ```
    /// # use actix_lines::{LineServer, Listener, Rot13, control::SessionFilter};
    /// # #[actix::main]
    /// # async fn main() -> std::io::Result<()> {
    /// # let server = LineServer::new(|_| Rot13).listen(Listener::tcp("127.0.0.1:0").name("public"))?.start()?;
    /// if let Some(public) = server.listener("public") {
    ///     let live = server.stats().await?.listeners[&public.id].live;
    ///     println!("{live} sessions of {public} are asked to end", public = public.id);
    ///     server.pause(public.id).await?;
    ///     server.kick(SessionFilter::default().listener(public.id), "moved to another port\n").await?;
    /// }
    /// # server.abort().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<ListenerInfo> {
        self.listeners().into_iter().find(|listener| listener.id.name() == Some(name))
    }

    /// Adds a listener, whose sessions are actors of the server's own factory. It listens when this returns.
    ///
    /// It gets the next number, which no listener of the server ever had; a name may be used again when the listener that
    /// had it is closed. The name of a host is looked up meanwhile, on this thread.
    ///
    /// ```
    /// # use actix_lines::{LineServer, Listener, Rot13};
    /// # #[actix::main]
    /// # async fn main() -> std::io::Result<()> {
    /// # let server = LineServer::new(|_| Rot13).bind("127.0.0.1:0")?.start()?;
    /// let added = server.listen(Listener::tcp("127.0.0.1:0").name("second")).await?;
    /// println!("{} is at {}", added.id, added.local_addr);
    /// // Its sessions go on.
    /// assert!(server.close_listener(added.id).await);
    /// # server.abort().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns a [`BindError`] if it cannot be bound, its name is taken, or the server ends. Nothing has changed then.
    #[expect(clippy::unused_async, reason = "a later one may wait for its workers")]
    pub async fn listen(&self, listener: impl Into<Listener>) -> Result<ListenerInfo, BindError> {
        Doors::of(&self.control)?.add(&self.control, listener.into(), None)
    }

    /// Adds a listener whose sessions are actors that `factory` makes: as [`listen`](Self::listen).
    ///
    /// # Errors
    /// As [`listen`](Self::listen).
    #[expect(clippy::unused_async, reason = "a later one may wait for its workers")]
    pub async fn listen_with<A, F>(&self, listener: impl Into<Listener>, factory: F) -> Result<ListenerInfo, BindError>
    where
        A: LineHandler,
        F: Fn(&Connection) -> A + Clone + Send + 'static,
    {
        let protocol = Box::new(Served::new(factory));
        Doors::of(&self.control)?.add(&self.control, listener.into(), Some(protocol))
    }

    /// Gives a listener the settings of another: framing, filters, limits and lists of its own, recorder. It keeps its number, its name, its
    /// factory, and whether it is paused; its sessions go on as they began.
    ///
    /// If `listener` is at the same address the socket stays, and no connection is lost; the path of a unix socket gets the
    /// mode, owner and group that it asks for, or the defaults. Otherwise the new address is bound
    /// first, then the old one is closed as by [`close_listener`](Self::close_listener). Port 0 is the port that it has. A
    /// socket that is [inherited](Listener::inherited) always takes the place of the one before. Returns when nobody is
    /// accepted by the settings before any more.
    ///
    /// # Errors
    /// Returns a [`BindError`] if there is no such listener, it would get another name, its address cannot be bound, or the
    /// server ends. Nothing has changed then.
    pub async fn replace_listener(
        &self,
        id: ListenerId,
        listener: impl Into<Listener>,
    ) -> Result<ListenerInfo, BindError> {
        let replaced = Doors::of(&self.control)?.replace(&self.control, id, listener.into(), None)?;
        self.control.when_replaced(id).await;
        Ok(replaced)
    }

    /// Replaces a listener, and its factory: as [`replace_listener`](Self::replace_listener).
    ///
    /// # Errors
    /// As [`replace_listener`](Self::replace_listener).
    pub async fn replace_listener_with<A, F>(
        &self,
        id: ListenerId,
        listener: impl Into<Listener>,
        factory: F,
    ) -> Result<ListenerInfo, BindError>
    where
        A: LineHandler,
        F: Fn(&Connection) -> A + Clone + Send + 'static,
    {
        let protocol = Box::new(Served::new(factory));
        let replaced = Doors::of(&self.control)?.replace(&self.control, id, listener.into(), Some(protocol))?;
        self.control.when_replaced(id).await;
        Ok(replaced)
    }

    /// Removes a listener. The connections in its backlog are accepted first, by the rule of a drain; those that would
    /// have to wait are refused. Its sessions go on, and keep the listener in lists and reports. Returns when its socket is
    /// closed; false if there is no listener with this id.
    ///
    /// A server without listeners goes on until it is drained.
    pub async fn close_listener(&self, id: ListenerId) -> bool {
        self.end_listener(id, Closing::AfterBacklog).await
    }

    /// Removes a listener at once: the connections in its backlog are reset. Otherwise as
    /// [`close_listener`](Self::close_listener).
    pub async fn abort_listener(&self, id: ListenerId) -> bool {
        self.end_listener(id, Closing::AtOnce).await
    }

    async fn end_listener(&self, id: ListenerId, how: Closing) -> bool {
        let Some(closed) = self.control.close_listener(id, how) else { return false };
        closed.await;
        if let Ok(doors) = Doors::of(&self.control) {
            doors.forget_removed(&self.control);
        }
        true
    }

    /// Returns the supervisor's address, for messages: [`GetStats`], [`ListSessions`], [`Drain`],
    /// [`Subscribe`](crate::control::messages::Subscribe).
    #[must_use]
    pub fn supervisor(&self) -> Addr<Supervisor> {
        self.supervisors.borrow().clone()
    }

    /// Asks the supervisor, or its successor if that has ended by a panic.
    async fn ask<M>(&self, message: M) -> Result<M::Result, ServerEnded>
    where
        M: Message + Clone + Send + 'static,
        M::Result: Send,
        Supervisor: Handler<M>,
    {
        let mut supervisors = self.supervisors.clone();
        loop {
            let supervisor = supervisors.borrow_and_update().clone();
            if let Ok(answer) = supervisor.send(message.clone()).await {
                return Ok(answer);
            }
            if !matches!(tokio::time::timeout(TAKE_OVER, supervisors.changed()).await, Ok(Ok(()))) {
                return Err(ServerEnded);
            }
        }
    }

    /// Has the supervisor be who this says.
    #[cfg(all(test, feature = "cluster"))]
    pub(crate) fn with_supervisors(mut self, supervisors: watch::Receiver<Addr<Supervisor>>) -> Self {
        self.supervisors = supervisors;
        self
    }

    #[cfg(test)]
    pub(crate) fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Returns the workers' arbiters, in the order of their numbers.
    #[must_use]
    pub fn arbiters(&self) -> &[ArbiterHandle] {
        &self.arbiters
    }

    /// Returns the counters.
    ///
    /// # Errors
    /// Returns [`ServerEnded`] once the system has stopped.
    pub async fn stats(&self) -> Result<Stats, ServerEnded> {
        self.ask(GetStats).await
    }

    /// Returns a page of the live sessions. [`SessionQuery::default`] is the first thousand.
    ///
    /// # Errors
    /// Returns [`ServerEnded`] once the system has stopped.
    pub async fn sessions(&self, query: impl Into<SessionQuery>) -> Result<SessionPage, ServerEnded> {
        self.ask(ListSessions(query.into())).await
    }

    /// Returns one session; `None` if it does not live.
    ///
    /// # Errors
    /// Returns [`ServerEnded`] once the system has stopped.
    pub async fn session(&self, id: SessionId) -> Result<Option<SessionInfo>, ServerEnded> {
        Ok(self.sessions(SessionFilter::id(id)).await?.sessions.pop())
    }

    /// Traces a live session: what it reads and writes from now on, in clear also where it has TLS. `None` if it does not
    /// live.
    ///
    /// A session that is not traced pays nothing for it; one that is pays for two copies of its bytes, and waits for nobody.
    ///
    /// ```
    /// # use actix_lines::{Escaped, LineServer, Rot13, control::{SessionFilter, TraceLimits, Traced}};
    /// # #[actix::main]
    /// # async fn main() -> std::io::Result<()> {
    /// # let server = LineServer::new(|_| Rot13).bind("127.0.0.1:0")?.start()?;
    /// # let first = server.sessions(SessionFilter::default()).await?.sessions.pop().map(|session| session.id);
    /// if let Some(id) = first
    ///     && let Some(mut trace) = server.trace(id, TraceLimits::default()).await?
    /// {
    ///     while let Some(piece) = trace.recv().await {
    ///         match piece {
    ///             Traced::In { bytes, .. } => println!("> {}", Escaped::new(&bytes)),
    ///             Traced::Out { bytes, .. } => println!("< {}", Escaped::new(&bytes)),
    ///             other => println!("{other:?}"),
    ///         }
    ///     }
    /// }
    /// # server.abort().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ServerEnded`] once the system has stopped.
    pub async fn trace(&self, session: SessionId, limits: TraceLimits) -> Result<Option<Trace>, ServerEnded> {
        self.ask(TraceSession { session, limits }).await
    }

    /// Writes bytes to the sessions that `whom` selects: to one, to those of a network, or to all. The sessions share
    /// the bytes.
    ///
    /// ```
    /// # use actix_lines::{LineServer, Rot13, control::SessionFilter};
    /// # #[actix::main]
    /// # async fn main() -> std::io::Result<()> {
    /// # let server = LineServer::new(|_| Rot13).bind("127.0.0.1:0")?.start()?;
    /// let pushed = server.push(SessionFilter::default(), "the server restarts at noon\n").await?;
    /// println!("{} sessions were told, {} do not read", pushed.sessions, pushed.dropped);
    /// # server.abort().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ServerEnded`] once the system has stopped.
    pub async fn push(&self, whom: SessionFilter, bytes: impl Into<Bytes>) -> Result<Pushed, ServerEnded> {
        self.ask(Push { whom, bytes: SharedBytes::from(bytes.into()).into_bytes() }).await
    }

    /// Ends the sessions that `whom` selects, politely, each with `goodbye` if that is not empty. Returns their number.
    ///
    /// # Errors
    /// Returns [`ServerEnded`] once the system has stopped.
    pub async fn kick(&self, whom: SessionFilter, goodbye: impl Into<Bytes>) -> Result<u64, ServerEnded> {
        self.ask(Kick { whom, goodbye: SharedBytes::from(goodbye.into()).into_bytes() }).await
    }

    /// Aborts the sessions that a kick by `whom` has told to end, the last of which had this number, if they have not ended.
    /// Returns their number.
    #[cfg(feature = "cluster")]
    pub(crate) async fn cut_kicked(&self, whom: SessionFilter, last: SessionId) -> Result<u64, ServerEnded> {
        self.ask(crate::control::messages::CutKicked { whom, last }).await
    }

    /// Stops accepting on a listener: the backlog holds new connections. Returns false if there is no listener with
    /// this id; [`listeners`](Self::listeners) has the ids. The pause also holds for an acceptor that replaces a failed
    /// one.
    ///
    /// # Errors
    /// Returns [`ServerEnded`] once the system has stopped.
    pub async fn pause(&self, listener: ListenerId) -> Result<bool, ServerEnded> {
        self.ask(PauseListener { listener, paused: true }).await
    }

    /// Ends a [`pause`](Self::pause). Returns false if there is no listener with this id.
    ///
    /// # Errors
    /// Returns [`ServerEnded`] once the system has stopped.
    pub async fn resume(&self, listener: ListenerId) -> Result<bool, ServerEnded> {
        self.ask(PauseListener { listener, paused: false }).await
    }

    /// Returns how far a drain is; `None` while the server is not asked to end. At the end it is that of the last moment.
    #[must_use]
    pub fn draining(&self) -> Option<DrainProgress> {
        self.control.ledger.draining()
    }

    /// Returns the limits in force.
    ///
    /// # Errors
    /// Returns [`ServerEnded`] once the system has stopped.
    pub async fn limits(&self) -> Result<Limits, ServerEnded> {
        self.ask(GetLimits).await
    }

    /// Changes the limits, for live sessions too. Returns the sessions that this ends.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use actix_lines::{LineServer, Rot13};
    /// # #[actix::main]
    /// # async fn main() -> std::io::Result<()> {
    /// # let server = LineServer::new(|_| Rot13).bind("127.0.0.1:0")?.start()?;
    /// let shorter = server.limits().await?.to_builder().idle_timeout(Some(Duration::from_secs(60))).build()?;
    /// let would_end = server.preview_limits(shorter.clone()).await?.ends.len();
    /// if would_end < 100 {
    ///     server.set_limits(shorter).await?;
    /// }
    /// # server.abort().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ServerEnded`] once the system has stopped.
    pub async fn set_limits(&self, limits: Limits) -> Result<LimitsChange, ServerEnded> {
        self.ask(SetLimits { limits, dry_run: false }).await
    }

    /// Returns the sessions that [`set_limits`](Self::set_limits) would end, and changes nothing.
    ///
    /// # Errors
    /// Returns [`ServerEnded`] once the system has stopped.
    pub async fn preview_limits(&self, limits: Limits) -> Result<LimitsChange, ServerEnded> {
        self.ask(SetLimits { limits, dry_run: true }).await
    }

    /// Ends the server: accepts no more, lets every session answer what it has read, flush and close; aborts the
    /// remaining sessions at the deadline. A [`Duration`] is that deadline; a [`Drain`] can add a goodbye and spread
    /// the ends over time.
    ///
    /// # Errors
    /// Returns [`ServerEnded`] once the system has stopped.
    pub async fn drain(&self, drain: impl Into<Drain>) -> Result<DrainReport, ServerEnded> {
        let mut drain = drain.into();
        drain.goodbye = SharedBytes::from(drain.goodbye).into_bytes();
        self.ask(drain).await
    }

    /// Leaves the progress of a drain out of the log.
    #[cfg(any(feature = "agent-check", feature = "console"))]
    pub(crate) fn drain_quietly(&self) {
        self.control.ledger.books().is_quiet = true;
    }

    /// Ends the server now: unsent bytes are dropped and counted.
    ///
    /// # Errors
    /// Returns [`ServerEnded`] once the system has stopped.
    pub async fn abort(&self) -> Result<DrainReport, ServerEnded> {
        self.drain(Duration::ZERO).await
    }

    /// Returns a companion: [`wait`](Self::wait) is over only once it is dropped.
    pub fn companion(&self) -> Companion {
        Companion::new(self.control.companions().clone(), self.control.when_finished())
    }

    /// Waits until the server has ended, its workers' threads are gone, and its [companions](Self::companion) have ended.
    ///
    /// # Errors
    /// Returns an error if every worker stopped without an order, a listener's acceptor failed six times within a
    /// minute, or the system stopped while the server was running.
    pub async fn wait(&self) -> io::Result<()> {
        let mut finished = self.control.when_finished();
        let how = finished.wait_for(Option::is_some).await.map(|how| how.clone());
        // Its other end is in the control.
        let _ = self.control.companions().subscribe().wait_for(|companions| *companions == 0).await;
        match how {
            Ok(Some(Finished::AsAsked)) => Ok(()),
            Ok(Some(Finished::LostListener(listener))) => {
                Err(io::Error::other(format!("cannot go on accepting on {listener}: look above for what failed")))
            }
            Ok(_) => Err(io::Error::other("every worker has stopped: look above for the panic that ended it")),
            Err(_) => Err(ServerEnded.into()),
        }
    }
}
