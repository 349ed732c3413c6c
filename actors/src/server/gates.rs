//! Gates of a server: who sets them, and which listeners have none.
//!
//! Not here: what a gate is (`gate`), waiting for its answer (`session/gated`).

use std::future::Future;
#[cfg(feature = "cluster")]
use std::time::Duration;

use crate::{
    connection::Connection,
    gate::{Answer, Permit},
    listen::listener::Listener,
    report::RefuseReason,
    server::builder::LineServer,
    session::handler::LineHandler,
};

impl<A, F> LineServer<A, F>
where
    A: LineHandler,
    F: Fn(&Connection) -> A + Clone + Send + 'static,
{
    /// Adds a gate: a function that decides for each connection whether it becomes a session, and may take time for it, such as
    /// the time to ask another service. Default: none, which costs nothing. Gates are asked one after the other, in the order in
    /// which they were added, until one refuses.
    ///
    /// A connection comes to the gates last: its addresses are those of the real peer, all limits have let it in, and its
    /// handshakes are over. A gate runs on the worker that will run the session, so it must not block. Until it has answered,
    /// the connection counts as a session in limits and lists, it can be kicked, and a drain waits for it. Nothing of it is
    /// read: what its peer has sent is delivered to the session. All gates of a connection together have one
    /// [`preface_timeout`](crate::limits::LimitsBuilder::preface_timeout); then it is refused as
    /// [`GateTimeout`](RefuseReason::GateTimeout).
    ///
    /// A connection that is refused gets the server's [refuse line](crate::limits::LimitsBuilder::refuse_line), unless the reason
    /// is [`Denied`](RefuseReason::Denied), and is counted, logged and reported by its reason. [`Gate`](RefuseReason::Gate) is the
    /// reason for gates of your own. If a gate panics, its connection is closed and reported like a session whose handler
    /// panicked.
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    ///
    /// use actix_lines::{LineServer, Permit, Rot13, control::RefuseReason};
    /// use tokio::sync::Semaphore;
    ///
    /// # #[actix::main]
    /// # async fn main() -> std::io::Result<()> {
    /// // At most 100 sessions. Whoever comes when all places are taken waits up to a second for one.
    /// let places = Arc::new(Semaphore::new(100));
    /// let server = LineServer::new(|_connection| Rot13).gate(move |_connection| {
    ///     let place = Arc::clone(&places).acquire_owned();
    ///     async {
    ///         match tokio::time::timeout(Duration::from_secs(1), place).await {
    ///             Ok(Ok(place)) => Ok(Permit::new(place)),
    ///             _ => Err(RefuseReason::Gate),
    ///         }
    ///     }
    /// });
    /// # server.bind("127.0.0.1:0")?.start()?.abort().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn gate<G, W>(mut self, gate: G) -> Self
    where
        G: Fn(&Connection) -> W + Send + Sync + 'static,
        W: Future<Output = Result<Permit, RefuseReason>> + 'static,
    {
        self.gates = self.gates.with(move |connection, _| Answer::Later(Box::pin(gate(connection))));
        self
    }

    /// As [`gate`](Self::gate), for one that answers in the time that is left for all gates, or at once.
    #[cfg(feature = "cluster")]
    pub(crate) fn gate_in_time<G>(mut self, gate: G) -> Self
    where
        G: Fn(&Connection, Duration) -> Answer + Send + Sync + 'static,
    {
        self.gates = self.gates.with(gate);
        self
    }
}

impl Listener {
    /// Sets that connections of this listener are let in without asking the server's [gates](LineServer::gate). It is for
    /// operators and health checks, which have to get in whatever gates say.
    pub fn without_gates(mut self) -> Self {
        self.own.is_ungated = true;
        self
    }
}
