//! Peers connect, or are refused.
//!
//! Not here: what a connection is (`target`, `memory`).

use std::io;

use tokio::time::{Instant, timeout_at};

use crate::script::{
    address::Address,
    ast::{Span, Text, Time},
    driver::Driver,
    kind::FailureKind,
    matching::{End, resolve},
    peer::{Peer, end_of},
    report::{Diagnostic, Held, excerpt},
    run::Runner,
    scope::peer_title,
};

const NOWHERE: &str = "give the service to the run (`--connect`, `--server`), start one on $port (`server COMMAND`), or name an \
                       address: `: connect host:port`";

const UNTRUSTED: &str =
    "trust its certificate (`--tls-ca FILE`), name it (`--tls-name NAME`), or look at none (`--tls-insecure`)";

/// Nobody listens there.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

impl<D: Driver> Runner<D> {
    /// A peer that is to connect, and where to.
    fn connects(&mut self, name: &str, address: Option<&Text>, span: Span) -> Held<(usize, Option<Address>)> {
        let address = address.map(|address| Address::resolved(&resolve(address, &self.variables)?, address.span));
        let address = address.transpose()?.or_else(|| self.service.clone());
        if self.listens(name) {
            let title = format!("{} listens, and does not connect", peer_title(name));
            return Err(Box::new(
                Diagnostic::new(title, span, "connects here").help("`: accept` takes who connects to it"),
            ));
        }
        Ok((self.peer_to_connect(name, span)?, address))
    }

    /// A peer that has no connection, and is to have one.
    pub(crate) fn peer_to_connect(&mut self, name: &str, span: Span) -> Held<usize> {
        let at = self.peers.iter().position(|peer| peer.name == name).unwrap_or_else(|| {
            self.peers.push(Peer::new(name));
            self.peers.len() - 1
        });
        if self.peers[at].wire.is_some() {
            let title = format!("{} is connected already", self.peers[at].title());
            return Err(Box::new(
                Diagnostic::new(title, span, "connects again").help("`: close` or `: reset` it before"),
            ));
        }
        Ok(at)
    }

    /// Connects a peer. Returns its place among the peers.
    pub(crate) async fn connect(&mut self, name: &str, address: Option<&Text>, span: Span) -> Held<usize> {
        let (at, address) = self.connects(name, address, span)?;
        self.acts(at).await;
        let deadline = Instant::now() + self.timeout;
        let wire = loop {
            let mut help = None;
            let reason = match timeout_at(deadline, self.driver.connect(name, address.as_ref())).await {
                Ok(Ok(wire)) => break wire,
                Ok(Err(error)) if is_refusal(&error) && self.may_listen_soon(deadline).await => continue,
                Ok(Err(error)) => {
                    // What rustls says of a certificate.
                    help = (error.kind() == io::ErrorKind::InvalidData).then_some(UNTRUSTED);
                    error.to_string()
                }
                Err(_) => format!("no answer within {}", Time(self.timeout)),
            };
            let title = format!("{} could not connect: {reason}", self.peers[at].title());
            let diagnostic = Diagnostic::new(title, span, "connects here").kind(FailureKind::Connect);
            let is_nowhere = address.is_none() && self.driver.has_addresses();
            let help = help.or(is_nowhere.then_some(NOWHERE));
            return Err(Box::new(match help {
                Some(help) => diagnostic.help(help),
                None => diagnostic,
            }));
        };
        let peer = &mut self.peers[at];
        peer.connected(wire);
        peer.was_connected = true;
        peer.address = address;
        peer.last = span;
        Ok(at)
    }

    /// Connects, and has to be refused: at once, or by an end of the connection before a byte came.
    pub(crate) async fn refused(&mut self, name: &str, address: Option<&Text>, span: Span) -> Held<()> {
        let (at, address) = self.connects(name, address, span)?;
        self.acts(at).await;
        let title = self.peers[at].title().to_owned();
        let failed = |reason: String| {
            let title = format!("{title} expected to be refused, and {reason}");
            Box::new(Diagnostic::new(title, span, "expected a refusal").kind(FailureKind::Connect))
        };
        let deadline = Instant::now() + self.timeout;
        match timeout_at(deadline, self.driver.connect(name, address.as_ref())).await {
            Ok(Ok(wire)) => self.peers[at].connected(wire),
            Ok(Err(error)) if is_refusal(&error) || matches!(end_of(&error), End::Reset | End::Truncated) => {
                return Ok(());
            }
            Ok(Err(error)) => return Err(failed(format!("could not even try: {error}"))),
            Err(_) => return Err(failed(format!("got no answer within {}", Time(self.timeout)))),
        }
        loop {
            let peer = &mut self.peers[at];
            if !peer.rest().is_empty() {
                let note = format!("received: {}", excerpt(peer.rest()));
                let help = "where a line says why, expect it, and `: eof` behind it";
                return Err(Box::new(failed("received something".to_owned()).note(note).help(help)));
            }
            if peer.end.is_some() {
                peer.close();
                return Ok(());
            }
            if !self.next(deadline).await {
                return Err(failed(format!("was let in: nothing ended the connection within {}", Time(self.timeout))));
            }
        }
    }
}
