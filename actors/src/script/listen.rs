//! Peers that listen: the script is the server, and what it tests is a proxy or a client that comes to it.
//!
//! Not here: peers that connect (`connect`), which ports are free (`process`).

use std::{future::poll_fn, time::Duration};

use tokio::{
    net::TcpListener,
    time::{Instant, timeout_at},
};

use crate::script::{
    ast::{Span, Time},
    driver::Driver,
    kind::FailureKind,
    peer::Listener,
    report::{Diagnostic, Held},
    run::Runner,
    scope::{listening_variable, peer_title},
};

/// The time between two looks at whether the servers still run.
const LOOK: Duration = Duration::from_millis(50);

impl<D: Driver> Runner<D> {
    /// Listens on a free port of 127.0.0.1. Who connects waits there until the peer accepts.
    pub(crate) async fn listen(&mut self, name: &str, span: Span) -> Held<()> {
        let title = peer_title(name);
        if self.listens(name) {
            let title = format!("{title} listens already");
            return Err(Box::new(Diagnostic::new(title, span, "listens again").help("`: accept` takes a connection")));
        }
        if self.peers.iter().any(|peer| peer.name == name) {
            let title = format!("{title} connects, and cannot listen");
            let help = "give the listener a name of its own";
            return Err(Box::new(Diagnostic::new(title, span, "listens here").help(help)));
        }
        let bound = TcpListener::bind(("127.0.0.1", 0)).await;
        let bound = bound.and_then(|listener| listener.local_addr().map(|address| (listener, address.port())));
        let (listener, port) = bound.map_err(|error| {
            let title = format!("{title} cannot listen: {error}");
            Box::new(Diagnostic::new(title, span, "listens here").kind(FailureKind::Connect))
        })?;
        self.variables.insert(listening_variable(name), port.to_string().into_bytes());
        self.listeners.push(Listener { peer: name.to_owned(), listener });
        Ok(())
    }

    pub(crate) fn listens(&self, name: &str) -> bool {
        self.listeners.iter().any(|listener| listener.peer == name)
    }

    /// Takes the next connection to a peer's port. All others read meanwhile. Returns its place among the peers.
    pub(crate) async fn accept(&mut self, name: &str, span: Span) -> Held<usize> {
        let Some(listening) = self.listeners.iter().position(|listener| listener.peer == name) else {
            let title = format!("{} does not listen", peer_title(name));
            return Err(Box::new(Diagnostic::new(title, span, "accepts here").help("`: listen` before it")));
        };
        let at = self.peer_to_connect(name, span)?;
        self.acts(at).await;
        let deadline = Instant::now() + self.timeout;
        let reason = loop {
            let (peers, listener) = (&mut self.peers, &self.listeners[listening].listener);
            let accepted = poll_fn(|cx| {
                let accepted = listener.poll_accept(cx);
                if accepted.is_pending() {
                    peers.iter_mut().for_each(|peer| {
                        peer.poll_read(cx);
                    });
                }
                accepted
            });
            match timeout_at(deadline.min(Instant::now() + LOOK), accepted).await {
                Ok(Ok((stream, _))) => {
                    // If that fails, small pieces arrive later, and nothing else changes.
                    let _ = stream.set_nodelay(true);
                    let peer = &mut self.peers[at];
                    peer.connected(Box::new(stream));
                    peer.was_connected = true;
                    peer.last = span;
                    return Ok(at);
                }
                Ok(Err(error)) => break error.to_string(),
                Err(_) if Instant::now() >= deadline => {
                    break format!("nobody connected within {}", Time(self.timeout));
                }
                // A server that has ended connects to nobody.
                Err(_) => self.servers.have_held()?,
            }
        };
        let title = format!("{} could not accept: {reason}", self.peers[at].title());
        Err(Box::new(Diagnostic::new(title, span, "accepts here").kind(FailureKind::Connect)))
    }
}
