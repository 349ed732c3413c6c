//! Handle: `ServerHandle`, the questions and orders to a running server.
//!
//! Not here: answering (`control/supervisor`).

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use actix::{Addr, Handler, Message};
use actix_rt::ArbiterHandle;
use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    address::Address,
    connection::{ListenerId, SessionId},
    control::{
        messages::{
            Drain, GetLimits, GetStats, Kick, LimitsChange, ListSessions, PauseListener, Push, Pushed, SetLimits,
        },
        query::{SessionFilter, SessionInfo, SessionPage, SessionQuery},
        stats::{DrainReport, Stats},
        supervisor::Supervisor,
        ways::{Control, Finished},
    },
    error::ServerEnded,
    limits::Limits,
    shared::SharedBytes,
};

/// Longest wait of a question for a new supervisor when its own has ended: after it, the system has ended, too.
const TAKE_OVER: Duration = Duration::from_secs(1);

/// A listener of a running server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerInfo {
    /// Its id, for [`ServerHandle::pause`] and [`SessionFilter`]s.
    pub id: ListenerId,
    /// The address that it is bound to, with its real port.
    pub local_addr: Address,
}

/// A handle of a running server. Cheap to clone; dropping it does not end the server.
#[derive(Clone, Debug)]
pub struct ServerHandle {
    pub(super) control: Arc<Control>,
    pub(super) supervisors: watch::Receiver<Addr<Supervisor>>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) listeners: Vec<ListenerInfo>,
    pub(super) arbiters: Vec<ArbiterHandle>,
}

impl ServerHandle {
    /// Returns the real addresses of the IP listeners, in the order in which they were added. Unix sockets are left
    /// out.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns all listeners with their ids and addresses, in the order in which they were added.
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
    pub fn listeners(&self) -> &[ListenerInfo] {
        &self.listeners
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

    /// Ends the server now: unsent bytes are dropped and counted.
    ///
    /// # Errors
    /// Returns [`ServerEnded`] once the system has stopped.
    pub async fn abort(&self) -> Result<DrainReport, ServerEnded> {
        self.drain(Duration::ZERO).await
    }

    /// Waits until the server has ended and its workers' threads are gone.
    ///
    /// # Errors
    /// Returns an error if every worker stopped without an order, a listener's acceptor failed six times within a
    /// minute, or the system stopped while the server was running.
    pub async fn wait(&self) -> io::Result<()> {
        let mut finished = self.control.when_finished();
        match finished.wait_for(Option::is_some).await.map(|how| how.clone()) {
            Ok(Some(Finished::AsAsked)) => Ok(()),
            Ok(Some(Finished::LostListener(address))) => {
                Err(io::Error::other(format!("cannot go on accepting on {address}: look above for what failed")))
            }
            Ok(_) => Err(io::Error::other("every worker has stopped: look above for the panic that ended it")),
            Err(_) => Err(ServerEnded.into()),
        }
    }
}
