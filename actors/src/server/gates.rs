//! Gates of a server: who sets them, and which listeners have none.
//!
//! Not here: what a gate is (`gate`), waiting for its answer (`session/gated`).

use std::future::Future;

use crate::{
    connection::Connection, gate::Permit, listen::listener::Listener, report::RefuseReason,
    server::builder::LineServer, session::handler::LineHandler,
};

impl<A, F> LineServer<A, F>
where
    A: LineHandler,
    F: Fn(&Connection) -> A + Clone + Send + 'static,
{
    /// Adds a gate: asked of each connection whether it becomes a session, for what takes time to find out, as the word of
    /// another service. Default: none, which costs nothing. Gates are asked one after the other, in the order in which they
    /// are added; the first one that refuses ends it.
    ///
    /// A connection comes to the gates last: its addresses are those of the real peer, all limits have let it in, handshakes
    /// are over. It is asked on the worker that will run the session: a gate must not block. While an answer is on its way the
    /// connection counts as a session, in limits as in lists, can be kicked, and waits through a drain; nothing of it is read,
    /// and what has come is delivered to the session. All gates together have the time of a
    /// [`preface_timeout`](crate::limits::LimitsBuilder::preface_timeout); then the connection is refused as
    /// [`GateTimeout`](RefuseReason::GateTimeout).
    ///
    /// What a gate refuses is told the server's [refuse line](crate::limits::LimitsBuilder::refuse_line), unless the reason is
    /// [`Denied`](RefuseReason::Denied), and is counted, logged and reported by its reason:
    /// [`Gate`](RefuseReason::Gate) is there for gates of your own. If a gate panics, its connection is closed and reported
    /// like a session whose handler panicked.
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    ///
    /// use actix_lines::{LineServer, Permit, Rot13, control::RefuseReason};
    /// use tokio::sync::Semaphore;
    ///
    /// # #[actix::main]
    /// # async fn main() -> std::io::Result<()> {
    /// // At most 100 sessions; who comes when all places are taken waits for one for a second.
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
        self.gates = self.gates.with(move |connection| Box::pin(gate(connection)));
        self
    }
}

impl Listener {
    /// Lets the connections of this listener in without asking the server's [gates](LineServer::gate): for operators and for
    /// checks of its health, who are to come in whatever a gate says.
    pub fn without_gates(mut self) -> Self {
        self.own.is_ungated = true;
        self
    }
}
