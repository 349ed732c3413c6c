//! `ServerHandle`: what a running server is asked and told.
//!
//! Not here: who answers (`control/supervisor`).

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

/// How long a question waits for a new supervisor when its own has ended: until then the system has.
const TAKE_OVER: Duration = Duration::from_secs(1);

/// A listener of a running server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerInfo {
    /// Its number, for [`ServerHandle::pause`] and [`SessionFilter`]s.
    pub id: ListenerId,
    /// The address that it is bound to, with its real port.
    pub local_addr: Address,
}

/// A running server. Cheap to clone; dropping it changes nothing.
#[derive(Clone, Debug)]
pub struct ServerHandle {
    pub(super) control: Arc<Control>,
    pub(super) supervisors: watch::Receiver<Addr<Supervisor>>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) listeners: Vec<ListenerInfo>,
    pub(super) arbiters: Vec<ArbiterHandle>,
}

impl ServerHandle {
    /// The listeners' real addresses, in the order they were added.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The listeners with their numbers, in the order they were added.
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

    /// The supervisor, for those who send messages: [`GetStats`], [`ListSessions`], [`Drain`],
    /// [`Subscribe`](crate::Subscribe).
    #[must_use]
    pub fn supervisor(&self) -> Addr<Supervisor> {
        self.supervisors.borrow().clone()
    }

    /// Asks the supervisor; should that have ended unasked, its successor.
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

    /// The workers' arbiters, in the order of their numbers.
    #[must_use]
    pub fn arbiters(&self) -> &[ArbiterHandle] {
        &self.arbiters
    }

    /// The counters now.
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn stats(&self) -> Result<Stats, ServerEnded> {
        self.ask(GetStats).await
    }

    /// A page of the live sessions; [`SessionQuery::default`] is the first thousand.
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn sessions(&self, query: impl Into<SessionQuery>) -> Result<SessionPage, ServerEnded> {
        self.ask(ListSessions(query.into())).await
    }

    /// One session, if it lives.
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn session(&self, id: SessionId) -> Result<Option<SessionInfo>, ServerEnded> {
        Ok(self.sessions(SessionFilter::id(id)).await?.sessions.pop())
    }

    /// Writes bytes to the sessions that `whom` says: to one, to those of a network, or to all, which share them.
    ///
    /// ```
    /// # use actix_lines::{LineServer, Rot13, SessionFilter};
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
    /// [`ServerEnded`] once the system has stopped.
    pub async fn push(&self, whom: SessionFilter, bytes: impl Into<Bytes>) -> Result<Pushed, ServerEnded> {
        self.ask(Push { whom, bytes: SharedBytes::from(bytes.into()).into_bytes() }).await
    }

    /// Ends the sessions that `whom` says, politely, each with `goodbye` if that is not empty; returns how many.
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn kick(&self, whom: SessionFilter, goodbye: impl Into<Bytes>) -> Result<u64, ServerEnded> {
        self.ask(Kick { whom, goodbye: SharedBytes::from(goodbye.into()).into_bytes() }).await
    }

    /// Stops accepting on a listener: the backlog holds what comes. [`listeners`](Self::listeners) has the numbers; false
    /// if there is none with this one. It holds for whichever acceptor comes after one that failed.
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn pause(&self, listener: ListenerId) -> Result<bool, ServerEnded> {
        self.ask(PauseListener { listener, paused: true }).await
    }

    /// Undoes [`pause`](Self::pause).
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn resume(&self, listener: ListenerId) -> Result<bool, ServerEnded> {
        self.ask(PauseListener { listener, paused: false }).await
    }

    /// The limits in force.
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn limits(&self) -> Result<Limits, ServerEnded> {
        self.ask(GetLimits).await
    }

    /// Changes the limits, for the sessions that live as well, and says which of those it ends.
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
    /// [`ServerEnded`] once the system has stopped.
    pub async fn set_limits(&self, limits: Limits) -> Result<LimitsChange, ServerEnded> {
        self.ask(SetLimits { limits, dry_run: false }).await
    }

    /// Says which sessions [`set_limits`](Self::set_limits) would end, and changes nothing.
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn preview_limits(&self, limits: Limits) -> Result<LimitsChange, ServerEnded> {
        self.ask(SetLimits { limits, dry_run: true }).await
    }

    /// Ends the server: accepts no more, lets every session answer what it has read, flush and close; aborts what is left
    /// after a deadline. A [`Duration`] is that deadline; a [`Drain`] has a goodbye and is spread over time besides.
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn drain(&self, drain: impl Into<Drain>) -> Result<DrainReport, ServerEnded> {
        let mut drain = drain.into();
        drain.goodbye = SharedBytes::from(drain.goodbye).into_bytes();
        self.ask(drain).await
    }

    /// Ends the server now: unsent bytes are dropped and counted.
    ///
    /// # Errors
    /// [`ServerEnded`] once the system has stopped.
    pub async fn abort(&self) -> Result<DrainReport, ServerEnded> {
        self.drain(Duration::ZERO).await
    }

    /// Waits until the server has ended and its workers' threads are gone.
    ///
    /// # Errors
    /// If every worker stopped without having been asked to, a listener's acceptor failed again and again, or the system
    /// stopped under the server.
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
