//! Runs a script: peers act in the order of its lines, all of them read at all times, and each line has its time.
//!
//! One future, over any driver and either clock. Not here: connections (`target`), what meets an expectation (`matching`).

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use crate::{
    script::{
        ast::{Action, Data, Expectation, Kind, Newline, Span, Statement, Time},
        kind::{FailureKind, Mismatch},
        matching::{Attempt, End, Pending, Variables, Wanted, next_line, resolve},
        peer::{Peer, end_of},
        report::{Diagnostic, side_by_side},
        target::{Driver, Wire},
    },
    shown::Shown,
};

/// Boxed, since it is seldom there.
type Held<T> = Result<T, Box<Diagnostic>>;

pub(crate) struct Runner<D> {
    pub(crate) driver: D,
    pub(crate) peers: Vec<Peer>,
    pub(crate) variables: Variables,
    pub(crate) newline: Newline,
    pub(crate) timeout: Duration,
    /// Cuts what is sent at random, if there is one.
    pub(crate) random: Option<fastrand::Rng>,
}

/// What is found behind a peer's cursor.
enum Found {
    Wanted(usize, usize, Variables),
    Optional(usize, usize, Variables),
    Wait,
    Differs,
}

/// Lets the other side look at what it was sent, where it runs on this thread.
async fn let_others_run() {
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
}

impl<D: Driver> Runner<D> {
    pub(crate) async fn script(&mut self, statements: &[Statement]) -> Held<()> {
        self.statements(statements).await?;
        self.finish().await
    }

    fn statements<'a>(&'a mut self, statements: &'a [Statement]) -> Pin<Box<dyn Future<Output = Held<()>> + 'a>> {
        Box::pin(async move {
            for statement in statements {
                self.statement(statement).await?;
            }
            Ok(())
        })
    }

    async fn statement(&mut self, statement: &Statement) -> Held<()> {
        let span = statement.span;
        match &statement.kind {
            Kind::Send { peer, data } => {
                let bytes = match data {
                    Data::Line(text) => [resolve(text, &self.variables)?.as_slice(), self.newline.bytes()].concat(),
                    Data::Bytes(text) => resolve(text, &self.variables)?,
                    Data::Hex(bytes) => bytes.clone(),
                };
                let peer = self.connected(peer, span).await?;
                self.send(peer, &bytes, span).await
            }
            Kind::Expect(expectation) => self.expect(std::slice::from_ref(expectation), true).await,
            Kind::Unordered(expectations) => self.expect(expectations, true).await,
            Kind::OneOf(expectations) => self.expect(expectations, false).await,
            Kind::Optional(expectation) => {
                let pending = self.pending(expectation).await?;
                self.peers[pending.peer].optional.push(pending);
                Ok(())
            }
            Kind::Act { peer, action } => self.act(peer, *action, span).await,
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
                for _ in 0..times {
                    self.statements(body).await?;
                }
                Ok(())
            }
            Kind::Include { body, .. } => {
                // What holds for lines to come holds in the file that says so.
                let before = (self.newline, self.timeout);
                self.statements(body).await?;
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
        }
    }

    async fn act(&mut self, peer: &str, action: Action, span: Span) -> Held<()> {
        if matches!(action, Action::Connect) {
            return self.connect(peer, span).await;
        }
        let at = self.connected(peer, span).await?;
        let peer = &mut self.peers[at];
        match action {
            Action::Connect => {}
            Action::Fin => self.half_close(at, span).await?,
            Action::Close => {
                self.nothing_is_left(at, span).await?;
                drop(self.peers[at].close());
                let_others_run().await;
            }
            Action::Reset => {
                // What was sent before it is to arrive before it.
                let_others_run().await;
                let peer = &mut self.peers[at];
                // Who resets does not say what he has read.
                peer.received.truncate(peer.cursor);
                if let Some(wire) = peer.close() {
                    wire.reset();
                }
                let_others_run().await;
            }
            Action::Quiet(time) => self.quiet(at, time, span).await?,
            Action::Pause => peer.is_paused = true,
            Action::Resume => peer.is_paused = false,
            Action::Split(size) => peer.split = size,
        }
        Ok(())
    }

    /// The peer of a name, which is connected if it never was.
    async fn connected(&mut self, name: &str, span: Span) -> Held<usize> {
        let known = self.peers.iter().position(|peer| peer.name == name);
        if let Some(at) = known.filter(|at| self.peers[*at].was_connected) {
            let peer = &mut self.peers[at];
            if peer.wire.is_none() {
                let title = format!("{} has closed its connection", peer.title());
                return Err(Box::new(
                    Diagnostic::new(title, span, "needs a connection").help("`: connect` opens another"),
                ));
            }
            peer.last = span;
            return Ok(at);
        }
        self.connect(name, span).await?;
        Ok(self.peers.iter().position(|peer| peer.name == name).unwrap_or_default())
    }

    async fn connect(&mut self, name: &str, span: Span) -> Held<()> {
        let at = self.peers.iter().position(|peer| peer.name == name).unwrap_or_else(|| {
            self.peers.push(Peer::new(name));
            self.peers.len() - 1
        });
        let title = self.peers[at].title().to_owned();
        if self.peers[at].wire.is_some() {
            let title = format!("{title} is connected already");
            return Err(Box::new(
                Diagnostic::new(title, span, "connects again").help("`: close` or `: reset` it before"),
            ));
        }
        let deadline = Instant::now() + self.timeout;
        let wire = match timeout_at(deadline, self.driver.connect()).await {
            Ok(connected) => connected.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {}", Time(self.timeout))),
        };
        let wire = wire.map_err(|reason| {
            let title = format!("{title} could not connect: {reason}");
            Box::new(Diagnostic::new(title, span, "connects here").kind(FailureKind::Connect))
        })?;
        let peer = &mut self.peers[at];
        peer.wire = Some(wire);
        peer.was_connected = true;
        peer.has_half_closed = false;
        peer.end = None;
        peer.last = span;
        Ok(())
    }

    /// Waits until somebody received something. False once it is `deadline`.
    async fn next(&mut self, deadline: Instant) -> bool {
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
        let title = self.peers[at].title().to_owned();
        if self.peers[at].has_half_closed {
            let title = format!("{title} has half-closed its connection");
            return Err(Box::new(Diagnostic::new(title, span, "sends here")));
        }
        while !bytes.is_empty() {
            let split = self.peers[at].split.or_else(|| {
                let most = 1 + bytes.len() / 4;
                self.random.as_mut().map(|random| random.usize(1..=most))
            });
            let (mut chunk, rest) = bytes.split_at(split.unwrap_or(bytes.len()).min(bytes.len()));
            bytes = rest;
            while !chunk.is_empty() {
                let sent = match self.with_wire(at, |wire, cx| wire.poll_write(cx, chunk)).await {
                    Some(Ok(sent)) => sent,
                    Some(Err(error)) => {
                        let reason = match end_of(&error) {
                            End::Reset => "the service has closed the connection".to_owned(),
                            _ => error.to_string(),
                        };
                        let title = format!("{title} could not send: {reason}");
                        return Err(Box::new(Diagnostic::new(title, span, "sends here").kind(FailureKind::Send)));
                    }
                    None => {
                        let title = format!("{title} could not send: nobody read it within {}", Time(self.timeout));
                        return Err(Box::new(Diagnostic::new(title, span, "sends here").kind(FailureKind::Send)));
                    }
                };
                chunk = &chunk[sent..];
            }
            if split.is_some() {
                let_others_run().await;
            }
        }
        Ok(())
    }

    async fn half_close(&mut self, at: usize, span: Span) -> Held<()> {
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

    async fn pending(&mut self, expectation: &Expectation) -> Held<Pending> {
        let Expectation { peer, matcher: _, span } = expectation;
        let peer = self.connected(peer, *span).await?;
        Ok(Pending { peer, wanted: Wanted::new(expectation, &self.variables)?, span: *span })
    }

    async fn expect(&mut self, expectations: &[Expectation], all: bool) -> Held<()> {
        let mut pending = Vec::with_capacity(expectations.len());
        for expectation in expectations {
            pending.push(self.pending(expectation).await?);
        }
        let deadline = Instant::now() + self.timeout;
        loop {
            if self.settle(&mut pending, all)? {
                return Ok(());
            }
            if let Some(waiting) = pending.iter().find(|waiting| self.peers[waiting.peer].is_paused) {
                let title = format!("{} is paused, and would wait for ever", self.peers[waiting.peer].title());
                return Err(Box::new(
                    Diagnostic::new(title, waiting.span, "expects here").help("`: resume` goes on reading"),
                ));
            }
            if !self.next(deadline).await {
                return Err(self.too_late(&pending));
            }
        }
    }

    /// Takes what came by what is expected. True once that is all, or one if one is enough.
    fn settle(&mut self, pending: &mut Vec<Pending>, all: bool) -> Held<bool> {
        let mut peers: Vec<_> = pending.iter().map(|one| one.peer).collect();
        peers.sort_unstable();
        peers.dedup();
        for at in peers {
            while pending.iter().any(|one| one.peer == at) {
                match self.look(at, pending) {
                    Found::Wanted(which, len, captures) => {
                        pending.remove(which);
                        self.take(at, len, captures);
                        // They could come before it only.
                        self.peers[at].optional.clear();
                        if !all {
                            return Ok(true);
                        }
                    }
                    Found::Optional(which, len, captures) => {
                        self.take(at, len, captures);
                        self.peers[at].optional.drain(..=which);
                    }
                    Found::Wait => break,
                    Found::Differs => return Err(self.differs(at, pending)),
                }
            }
        }
        Ok(pending.is_empty())
    }

    fn look(&self, at: usize, pending: &[Pending]) -> Found {
        let peer = &self.peers[at];
        let attempt = |one: &Pending| one.wanted.attempt(peer.rest(), peer.end.as_ref());
        let mut waits = false;
        for (which, one) in pending.iter().enumerate().filter(|(_, one)| one.peer == at) {
            match attempt(one) {
                Attempt::Match(len, captures) => return Found::Wanted(which, len, captures),
                Attempt::Wait => waits = true,
                Attempt::Differs => {}
            }
        }
        for (which, one) in peer.optional.iter().enumerate() {
            match attempt(one) {
                Attempt::Match(len, captures) => return Found::Optional(which, len, captures),
                Attempt::Wait => waits = true,
                Attempt::Differs => {}
            }
        }
        if waits { Found::Wait } else { Found::Differs }
    }

    fn take(&mut self, at: usize, len: usize, captures: Variables) {
        self.peers[at].cursor += len;
        self.variables.extend(captures);
    }

    /// Optional lines that are there, where nothing is expected behind them.
    fn take_optional(&mut self, at: usize) {
        while let Found::Optional(which, len, captures) = self.look(at, &[]) {
            self.take(at, len, captures);
            self.peers[at].optional.drain(..=which);
        }
    }

    fn differs(&self, at: usize, pending: &[Pending]) -> Box<Diagnostic> {
        let peer = &self.peers[at];
        let title = peer.title();
        let wanted: Vec<_> = pending.iter().filter(|one| one.peer == at).collect();
        let Some(first) = wanted.first() else { return Box::new(Diagnostic::new(title, peer.last, "")) };
        let noun = if wanted.len() > 1 { "one of several" } else { first.wanted.noun() };
        let rest = peer.rest();
        let line = next_line(rest).map_or(rest, |(_, len)| &rest[..len]);
        let received = match &peer.end {
            Some(end) if rest.is_empty() => ending(end),
            _ if matches!(first.wanted, Wanted::Eof | Wanted::Reset) => "received more".to_owned(),
            _ => "received something else".to_owned(),
        };
        let kind = peer.end.as_ref().filter(|_| rest.is_empty()).map_or(FailureKind::Differs, kind_of);
        let mut diagnostic =
            Diagnostic::new(format!("{title} expected {noun} and {received}"), first.span, "expected").kind(kind);
        if rest.is_empty() {
            diagnostic = diagnostic.mismatch(Mismatch::new(&peer.name, first.wanted.expected(), rest));
            return Box::new(self.with_history(at, diagnostic));
        }
        // Of exact bytes as many as were expected, over lines.
        let received = match &first.wanted {
            Wanted::Bytes(bytes) if wanted.len() == 1 => &rest[..rest.len().min(bytes.len())],
            _ => line,
        };
        diagnostic = diagnostic.mismatch(Mismatch::new(&peer.name, first.wanted.expected(), received));
        if wanted.len() > 1 {
            let all: Vec<_> = wanted.iter().map(|one| format!("expected: {}", one.wanted.shown())).collect();
            diagnostic =
                diagnostic.note(format!("{}\nreceived: {}", all.join("\n"), Shown(&line[..line.len().min(200)])));
        } else {
            diagnostic = match first.wanted {
                Wanted::Pattern(_) | Wanted::Eof | Wanted::Reset => {
                    let received = Shown(&received[..received.len().min(200)]);
                    diagnostic.note(format!("expected: {}\nreceived: {received}", first.wanted.shown()))
                }
                _ => diagnostic.note(side_by_side(&first.wanted.shown(), received)),
            };
            if next_line(rest).is_none() && !matches!(first.wanted, Wanted::Bytes(_) | Wanted::Eof | Wanted::Reset) {
                diagnostic = diagnostic.help("what came has no newline: expect it between quotes");
            }
        }
        Box::new(self.with_history(at, diagnostic))
    }

    fn too_late(&self, pending: &[Pending]) -> Box<Diagnostic> {
        let Some(first) = pending.first() else { return Box::new(Diagnostic::new("too late", Span::default(), "")) };
        let peer = &self.peers[first.peer];
        let within = Time(self.timeout);
        let title = format!("{} expected {} that did not come within {within}", peer.title(), first.wanted.noun());
        let mut diagnostic = Diagnostic::new(title, first.span, "expected")
            .kind(FailureKind::Late)
            .mismatch(Mismatch::new(&peer.name, first.wanted.expected(), peer.rest()));
        if !peer.rest().is_empty() {
            diagnostic = diagnostic.note(side_by_side(&first.wanted.shown(), peer.rest()));
            if !matches!(first.wanted, Wanted::Bytes(_)) {
                diagnostic = diagnostic.help("what came has no newline: expect it between quotes");
            }
        }
        if pending.len() > 1 {
            diagnostic = diagnostic.note(format!("{} others of the block did not come either", pending.len() - 1));
        }
        Box::new(self.with_history(first.peer, diagnostic))
    }

    /// With the line before what is wrong.
    fn with_history(&self, at: usize, diagnostic: Diagnostic) -> Diagnostic {
        let peer = &self.peers[at];
        let before = &peer.received[..peer.cursor];
        let text = before.strip_suffix(b"\n").unwrap_or(before);
        let start = memchr::memrchr(b'\n', text).map_or(0, |end| end + 1);
        if before.is_empty() {
            return diagnostic;
        }
        let last = &before[start..];
        let shown = Shown(&last[..last.len().min(200)]);
        diagnostic.note(format!("{} had received {} bytes before, at last: {shown}", peer.title(), before.len()))
    }

    async fn quiet(&mut self, at: usize, time: Duration, span: Span) -> Held<()> {
        let had_ended = self.peers[at].end.is_some();
        let end = Instant::now() + time;
        let mut is_time = false;
        loop {
            self.take_optional(at);
            let peer = &self.peers[at];
            // An optional line may be half there.
            let is_open = !is_time && matches!(self.look(at, &[]), Found::Wait);
            if !peer.rest().is_empty() && !is_open {
                let title = format!("{} received something within {} of silence", peer.title(), Time(time));
                return Err(Box::new(self.leftover(at, title, span)));
            }
            if let Some(ended) = peer.end.as_ref().filter(|_| !had_ended) {
                let title = format!("{} expected silence and {}", peer.title(), ending(ended));
                let diagnostic = Diagnostic::new(title, span, "expected silence").kind(kind_of(ended));
                return Err(Box::new(self.with_history(at, diagnostic)));
            }
            if is_time {
                return Ok(());
            }
            is_time = !self.next(end).await;
        }
    }

    fn leftover(&self, at: usize, title: String, span: Span) -> Diagnostic {
        let rest = self.peers[at].rest();
        let line = next_line(rest).map_or(rest, |(_, len)| &rest[..len]);
        let more = rest.len() - line.len().min(200);
        let mut note = format!("received: {}", Shown(&line[..line.len().min(200)]));
        if more > 0 {
            note.push_str(&format!("\nand {more} bytes more"));
        }
        let diagnostic = Diagnostic::new(title, span, "nothing expected it")
            .note(note)
            .kind(FailureKind::Leftover)
            .mismatch(Mismatch::new(&self.peers[at].name, None, line));
        self.with_history(at, diagnostic)
    }

    /// Fails if something is there that nothing expected.
    async fn nothing_is_left(&mut self, at: usize, span: Span) -> Held<()> {
        let_others_run().await;
        self.next(Instant::now()).await;
        self.take_optional(at);
        let peer = &self.peers[at];
        if peer.rest().is_empty() {
            return Ok(());
        }
        let title = format!("{} closes, and has received what nothing expected", peer.title());
        Err(Box::new(self.leftover(at, title, span)))
    }

    /// The end of the script: each peer half-closes, and gets nothing more but EOF.
    async fn finish(&mut self) -> Held<()> {
        for at in 0..self.peers.len() {
            if self.peers[at].wire.is_none() {
                continue;
            }
            let span = self.peers[at].last;
            self.peers[at].is_paused = false;
            let had_reset = self.peers[at].end == Some(End::Reset);
            if !self.peers[at].has_half_closed && self.peers[at].end.is_none() {
                self.half_close(at, span).await?;
            }
            let deadline = Instant::now() + self.timeout;
            loop {
                self.take_optional(at);
                let peer = &self.peers[at];
                if !peer.rest().is_empty() && !matches!(self.look(at, &[]), Found::Wait) {
                    let title = format!("the script ends, and {} has received what nothing expected", peer.title());
                    return Err(Box::new(self.leftover(at, title, span)));
                }
                match &peer.end {
                    Some(End::Eof) => break,
                    // An expected one.
                    Some(End::Reset) if had_reset => break,
                    Some(end) => {
                        let title = format!("the script ends, and {} {}", peer.title(), ending(end));
                        let diagnostic = Diagnostic::new(title, span, "its last line").kind(kind_of(end));
                        return Err(Box::new(self.with_history(at, diagnostic)));
                    }
                    None => {}
                }
                if !self.next(deadline).await {
                    let within = Time(self.timeout);
                    let title = format!(
                        "the script ends, and {} got no EOF within {within} of its own",
                        self.peers[at].title()
                    );
                    let help = "where the service does not close by itself, end with `: close`";
                    let diagnostic = Diagnostic::new(title, span, "its last line").kind(FailureKind::NoEof).help(help);
                    return Err(Box::new(diagnostic));
                }
            }
        }
        Ok(())
    }
}

fn ending(end: &End) -> String {
    match end {
        End::Eof => "got EOF".to_owned(),
        End::Reset => "was reset".to_owned(),
        End::Failed(reason) => format!("lost its connection: {reason}"),
    }
}

fn kind_of(end: &End) -> FailureKind {
    match end {
        End::Eof => FailureKind::Ended,
        End::Reset | End::Failed(_) => FailureKind::Lost,
    }
}
