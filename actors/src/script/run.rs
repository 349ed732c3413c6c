//! Runs a script: peers act in the order of its lines, all of them read at all times, and each line has its time.
//!
//! One future, over any driver and either clock. Not here: connections (`target`), what has to come (`expect`).

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use crate::{
    script::{
        address::Address,
        ast::{Action, Data, Kind, Newline, Span, Statement, Time},
        driver::{Driver, Turn, Wire},
        kind::FailureKind,
        manner::{Cuts, Observed, Sent},
        matching::{End, Variables, resolve},
        notes::Amending,
        peer::{Listener, Peer, end_of},
        report::{Diagnostic, Held, Source},
        servers::Servers,
    },
    shown::Shown,
};

pub(crate) struct Runner<D> {
    pub(crate) driver: D,
    pub(crate) peers: Vec<Peer>,
    pub(crate) variables: Variables,
    pub(crate) newline: Newline,
    pub(crate) timeout: Duration,
    /// Where peers connect that name no address. `None` in memory.
    pub(crate) service: Option<Address>,
    pub(crate) servers: Servers,
    pub(crate) listeners: Vec<Listener>,
    /// The files of the script: what they name is looked for beside them.
    pub(crate) sources: Arc<Vec<Source>>,
    pub(crate) cuts: Cuts,
    /// The peer that did something last.
    pub(crate) acting: usize,
    /// What happened, if this run is to be compared with others.
    pub(crate) observed: Option<Observed>,
    /// What the script should have said, if it is to be blessed.
    pub(crate) amending: Option<Box<Amending>>,
}

/// Says in which round of a block something failed.
fn in_round(mut diagnostic: Box<Diagnostic>, round: u32, times: u32) -> Box<Diagnostic> {
    if times > 1 {
        diagnostic.notes.push(format!("in round {round} of {times}"));
    }
    diagnostic
}

impl<D: Driver> Runner<D> {
    pub(crate) async fn script(&mut self, statements: &[Statement]) -> Held<()> {
        self.statements(statements).await?;
        loop {
            match self.finish().await {
                Ok(()) => break,
                Err(diagnostic) => self.amend_end(diagnostic)?,
            }
        }
        self.servers.have_held()
    }

    fn statements<'a>(&'a mut self, statements: &'a [Statement]) -> Pin<Box<dyn Future<Output = Held<()>> + 'a>> {
        Box::pin(async move {
            let mut rest = statements;
            while let Some((statement, behind)) = rest.split_first() {
                self.mark(statement).await;
                rest = match self.statement(statement).await {
                    Ok(()) => {
                        self.went(statement);
                        behind
                    }
                    Err(diagnostic) => self.amend(diagnostic, rest).await?,
                };
            }
            Ok(())
        })
    }

    /// Runs a block: what it forbids may come again behind it.
    async fn block(&mut self, body: &[Statement]) -> Held<()> {
        let before = self.forbidden();
        self.statements(body).await?;
        self.allow_again(&before)
    }

    async fn statement(&mut self, statement: &Statement) -> Held<()> {
        let span = statement.span;
        match &statement.kind {
            Kind::Send { peer, data } => {
                let bytes = match data {
                    Data::Line(text) => [resolve(text, &self.variables)?.as_slice(), self.newline.bytes()].concat(),
                    Data::Bytes(text) => resolve(text, &self.variables)?,
                    Data::Hex(bytes) => bytes.clone(),
                    Data::File { bytes, .. } => bytes.to_vec(),
                };
                let peer = self.connected(peer, span).await?;
                self.send(peer, &bytes, span).await
            }
            Kind::Expect(expectation) => self.expect(std::slice::from_ref(expectation), true).await,
            Kind::Unordered(expectations) => self.expect(expectations, true).await,
            Kind::OneOf(expectations) => self.expect(expectations, false).await,
            Kind::Optional(expectation) => self.allow(expectation).await,
            Kind::Until(expectation) => self.until_comes(expectation).await,
            Kind::Never(expectation) => self.forbid(expectation).await,
            Kind::Act { peer, action } => self.act(peer, action, span).await,
            Kind::After(time) => {
                let end = Instant::now() + *time;
                while self.next(end).await {}
                Ok(())
            }
            Kind::Repeat { count, body } => {
                let digits = resolve(count, &self.variables)?;
                let times = std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse::<u32>().ok());
                let times = times.ok_or_else(|| {
                    let title = format!("cannot repeat \"{}\" times", Shown(&digits));
                    Box::new(Diagnostic::new(title, count.span, "no number, or too large a one"))
                })?;
                for round in 1..=times {
                    self.block(body).await.map_err(|diagnostic| in_round(diagnostic, round, times))?;
                }
                Ok(())
            }
            Kind::Include { body, .. } => {
                // What holds for lines to come holds in the file that says so.
                let before = (self.newline, self.timeout);
                self.block(body).await?;
                (self.newline, self.timeout) = before;
                Ok(())
            }
            Kind::Let { name, value } => {
                let value = resolve(value, &self.variables)?;
                self.variables.insert(name.clone(), value);
                Ok(())
            }
            Kind::Newline(newline) => {
                self.newline = *newline;
                Ok(())
            }
            Kind::Timeout(time) => {
                self.timeout = *time;
                Ok(())
            }
            // Looked at before anything runs.
            Kind::Needs(_) => Ok(()),
            Kind::Server { name, command } => self.start(name, command, span).await,
            Kind::OfServer { name, action } => self.of_server(name, action, span).await,
        }
    }

    async fn act(&mut self, peer: &str, action: &Action, span: Span) -> Held<()> {
        match action {
            Action::Connect(address) => return self.connect(peer, address.as_ref(), span).await.map(drop),
            Action::Refused(address) => return self.refused(peer, address.as_ref(), span).await,
            Action::Listen => return self.listen(peer, span).await,
            Action::Accept => return self.accept(peer, span).await.map(drop),
            _ => {}
        }
        let at = self.connected(peer, span).await?;
        let peer = &mut self.peers[at];
        match action {
            Action::Connect(_) | Action::Refused(_) | Action::Listen | Action::Accept => {}
            Action::Fin => self.half_close(at, span).await?,
            Action::Close => {
                self.nothing_is_left(at, span).await?;
                drop(self.peers[at].close());
                self.let_others_run().await;
            }
            Action::Reset => {
                // What was sent before it is to arrive before it.
                self.let_others_finish().await;
                let peer = &mut self.peers[at];
                // Bytes that came and that nothing expected are forgotten: a reset does not say what was read.
                peer.received.truncate(peer.cursor);
                if let Some(wire) = peer.close() {
                    wire.reset();
                }
                self.let_others_run().await;
            }
            Action::Quiet(time) => self.quiet(at, *time, span).await?,
            Action::Pause => peer.is_paused = true,
            Action::Resume => peer.is_paused = false,
            Action::Split(size) => peer.split = *size,
            Action::SplitAt(cuts) => peer.cuts.clone_from(cuts),
        }
        Ok(())
    }

    /// Lets the service look at what it was sent, where that can be known. All peers read meanwhile.
    pub(crate) async fn let_others_run(&mut self) {
        let turn = self.driver.turn();
        self.read_during(turn).await;
    }

    /// Lets the service deal with all that it was sent, where that can be known.
    pub(crate) async fn let_others_finish(&mut self) {
        self.let_others_run().await;
        if let Some(rest) = self.driver.rest() {
            self.read_during(rest).await;
        }
    }

    pub(crate) async fn read_during(&mut self, mut turn: Turn) {
        poll_fn(|cx| {
            self.peers.iter_mut().for_each(|peer| {
                peer.poll_read(cx);
            });
            turn.as_mut().poll(cx)
        })
        .await;
    }

    /// Lets the service deal with what others sent, where something may hold that back, before this peer does something:
    /// peers act in the order of the script.
    pub(crate) async fn acts(&mut self, at: usize) {
        if std::mem::replace(&mut self.acting, at) != at
            && let Some(rest) = self.driver.rest()
        {
            self.read_during(rest).await;
        }
    }

    /// The peer of a name, which is connected if it never was.
    pub(crate) async fn connected(&mut self, name: &str, span: Span) -> Held<usize> {
        let known = self.peers.iter().position(|peer| peer.name == name);
        if let Some(at) = known.filter(|at| self.peers[*at].was_connected) {
            let peer = &self.peers[at];
            if peer.wire.is_none() {
                let title = format!("{} has closed its connection", peer.title());
                let help = if self.listens(name) { "`: accept` takes the next" } else { "`: connect` opens another" };
                return Err(Box::new(Diagnostic::new(title, span, "needs a connection").help(help)));
            }
            self.peers[at].last = span;
            return Ok(at);
        }
        if self.listens(name) { self.accept(name, span).await } else { self.connect(name, None, span).await }
    }

    /// Waits until somebody received something. False once it is `deadline`.
    pub(crate) async fn next(&mut self, deadline: Instant) -> bool {
        let peers = &mut self.peers;
        let progress = poll_fn(|cx| {
            let progress = peers.iter_mut().fold(false, |progress, peer| peer.poll_read(cx) | progress);
            if progress { Poll::Ready(()) } else { Poll::Pending }
        });
        timeout_at(deadline, progress).await.is_ok()
    }

    /// Does something with a peer's connection, while everybody reads.
    async fn with_wire(
        &mut self,
        at: usize,
        mut poll: impl FnMut(Pin<&mut dyn Wire>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Option<io::Result<usize>> {
        let deadline = Instant::now() + self.timeout;
        let peers = &mut self.peers;
        let done = poll_fn(|cx| {
            peers.iter_mut().for_each(|peer| {
                peer.poll_read(cx);
            });
            match &mut peers[at].wire {
                Some(wire) => poll(Pin::new(&mut **wire), cx),
                None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            }
        });
        timeout_at(deadline, done).await.ok()
    }

    async fn send(&mut self, at: usize, mut bytes: &[u8], span: Span) -> Held<()> {
        if self.peers[at].has_half_closed {
            let title = format!("{} has half-closed its connection", self.peers[at].title());
            return Err(Box::new(Diagnostic::new(title, span, "sends here")));
        }
        let cuts = std::mem::take(&mut self.peers[at].cuts);
        if let Some(cut) = cuts.iter().find(|cut| **cut >= bytes.len()) {
            let title = format!("cannot split {} bytes behind {cut}", bytes.len());
            return Err(Box::new(Diagnostic::new(title, span, "sends here")));
        }
        let before = self.peers[at].sent;
        self.acts(at).await;
        if let Some(observed) = &mut self.observed {
            observed.sent.push(Sent { peer: at, span, bytes: bytes.to_vec() });
        }
        while !bytes.is_empty() {
            let peer = &mut self.peers[at];
            let cut = self.cuts.next(&peer.name, peer.sent, bytes.len());
            let sent = peer.sent - before;
            let own = cuts.iter().find(|cut| **cut > sent).map(|cut| cut - sent);
            let split = cut.into_iter().chain(own).chain(peer.split).min();
            let (mut chunk, rest) = bytes.split_at(split.unwrap_or(bytes.len()).min(bytes.len()));
            peer.sent += chunk.len();
            bytes = rest;
            while !chunk.is_empty() {
                match self.with_wire(at, |wire, cx| wire.poll_write(cx, chunk)).await {
                    Some(Ok(sent)) => chunk = &chunk[sent..],
                    failed => return Err(self.not_sent(at, failed.and_then(Result::err), span)),
                }
            }
            // TLS keeps what the kernel did not take at once.
            match self.with_wire(at, |wire, cx| wire.poll_flush(cx).map_ok(|()| 0)).await {
                Some(Ok(_)) => {}
                failed => return Err(self.not_sent(at, failed.and_then(Result::err), span)),
            }
            if split.is_some() {
                self.let_others_run().await;
            }
        }
        Ok(())
    }

    /// The failure of a peer that could not send: by an error, or because its time was over.
    fn not_sent(&self, at: usize, error: Option<io::Error>, span: Span) -> Box<Diagnostic> {
        let reason = match error {
            None => format!("nobody read it within {}", Time(self.timeout)),
            Some(error) if end_of(&error) == End::Reset => "the service has closed the connection".to_owned(),
            Some(error) => error.to_string(),
        };
        let title = format!("{} could not send: {reason}", self.peers[at].title());
        Box::new(Diagnostic::new(title, span, "sends here").kind(FailureKind::Send))
    }

    pub(crate) async fn half_close(&mut self, at: usize, span: Span) -> Held<()> {
        self.acts(at).await;
        self.peers[at].has_half_closed = true;
        match self.with_wire(at, |wire, cx| wire.poll_shutdown(cx).map_ok(|()| 0)).await {
            // Who was closed by the service has nothing to end.
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) if matches!(end_of(&error), End::Reset) || error.kind() == io::ErrorKind::NotConnected => {
                Ok(())
            }
            failed => {
                let reason = failed.map_or("it took too long".to_owned(), |done| {
                    done.map_or_else(|error| error.to_string(), |_| String::new())
                });
                let title = format!("{} could not half-close: {reason}", self.peers[at].title());
                Err(Box::new(Diagnostic::new(title, span, "half-closes here").kind(FailureKind::Send)))
            }
        }
    }
}
