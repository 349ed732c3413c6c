//! What has to come: peers wait for it, take it, and have nothing left.
//!
//! Not here: what meets an expectation (`matching`), how a failure reads (`failure`).

use std::time::Duration;

use tokio::time::Instant;

use crate::script::{
    ast::{Expectation, Span, Time},
    driver::Driver,
    failure::{TRUNCATED, ending, kind_of},
    kind::FailureKind,
    matching::{Attempt, End, Never, Pending, Variables},
    peer::Peer,
    report::{Diagnostic, Held},
    run::Runner,
};

/// What is found behind a peer's cursor.
enum Found {
    Wanted(usize, usize, Variables),
    Optional(usize, usize, Variables),
    Wait,
    Differs,
}

impl<D: Driver> Runner<D> {
    async fn pending(&mut self, expectation: &Expectation, is_until: bool) -> Held<Pending> {
        let peer = self.connected(&expectation.peer, expectation.span).await?;
        Ok(Pending::new(peer, expectation, is_until, &self.variables)?)
    }

    /// Something may come before the next thing that has to.
    pub(crate) async fn allow(&mut self, expectation: &Expectation) -> Held<()> {
        let pending = self.pending(expectation, false).await?;
        self.peers[pending.peer].optional.push(pending);
        Ok(())
    }

    /// Something must not come from here on.
    pub(crate) async fn forbid(&mut self, expectation: &Expectation) -> Held<()> {
        let peer = self.connected(&expectation.peer, expectation.span).await?;
        let peer = &mut self.peers[peer];
        peer.nevers.push(Never::new(peer.cursor, expectation, &self.variables)?);
        Ok(())
    }

    /// How many things must not come to each peer.
    pub(crate) fn forbidden(&self) -> Vec<usize> {
        self.peers.iter().map(|peer| peer.nevers.len()).collect()
    }

    /// Ends a block: what it forbade may come again.
    pub(crate) fn allow_again(&mut self, before: &[usize]) -> Held<()> {
        for at in 0..self.peers.len() {
            self.nothing_forbidden(at, true)?;
            self.peers[at].nevers.truncate(before.get(at).copied().unwrap_or_default());
        }
        Ok(())
    }

    /// Fails if something was taken that must not come.
    fn nothing_forbidden(&mut self, at: usize, is_end: bool) -> Held<()> {
        let Peer { nevers, received, cursor, .. } = &mut self.peers[at];
        let found =
            nevers.iter_mut().find_map(|never| Some((never.span, never.find(received, *cursor, is_end)?.to_vec())));
        match found {
            Some((span, line)) => Err(self.came(at, span, &line)),
            None => Ok(()),
        }
    }

    pub(crate) async fn expect(&mut self, expectations: &[Expectation], all: bool) -> Held<()> {
        let mut pending = Vec::with_capacity(expectations.len());
        for expectation in expectations {
            pending.push(self.pending(expectation, false).await?);
        }
        self.await_all(pending, all).await
    }

    /// Skips what comes before something.
    pub(crate) async fn until_comes(&mut self, expectation: &Expectation) -> Held<()> {
        let pending = self.pending(expectation, true).await?;
        self.peers[pending.peer].optional.clear();
        self.await_all(vec![pending], true).await
    }

    async fn await_all(&mut self, mut pending: Vec<Pending>, all: bool) -> Held<()> {
        let deadline = Instant::now() + self.timeout;
        let before = self.observed.as_ref().map_or(0, |observed| observed.taken.len());
        loop {
            if self.settle(&mut pending, all)? {
                if let Some(observed) = &mut self.observed {
                    observed.leave_open(before, all);
                }
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
                        let span = pending.remove(which).span;
                        if let Some(observed) = &mut self.observed {
                            observed.take(at, span, &self.peers[at].rest()[..len]);
                        }
                        self.take(at, len, captures)?;
                        // They could come before it only.
                        self.peers[at].optional.clear();
                        if !all {
                            return Ok(true);
                        }
                    }
                    Found::Optional(which, len, captures) => {
                        self.take(at, len, captures)?;
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
        let attempt = |one: &Pending| one.attempt(&peer.received, peer.cursor, peer.end.as_ref());
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

    fn take(&mut self, at: usize, len: usize, captures: Variables) -> Held<()> {
        self.peers[at].cursor += len;
        self.variables.extend(captures);
        self.nothing_forbidden(at, false)
    }

    /// Optional lines that are there, where nothing is expected behind them.
    fn take_optional(&mut self, at: usize) -> Held<()> {
        while let Found::Optional(which, len, captures) = self.look(at, &[]) {
            self.take(at, len, captures)?;
            self.peers[at].optional.drain(..=which);
        }
        Ok(())
    }

    pub(crate) async fn quiet(&mut self, at: usize, time: Duration, span: Span) -> Held<()> {
        let had_ended = self.peers[at].end.is_some();
        let end = Instant::now() + time;
        let mut is_time = false;
        loop {
            self.take_optional(at)?;
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

    /// Fails if something is there that nothing expected.
    pub(crate) async fn nothing_is_left(&mut self, at: usize, span: Span) -> Held<()> {
        self.let_others_finish().await;
        self.next(Instant::now()).await;
        self.take_optional(at)?;
        let peer = &self.peers[at];
        if peer.rest().is_empty() {
            return Ok(());
        }
        let title = format!("{} closes, and has received what nothing expected", peer.title());
        Err(Box::new(self.leftover(at, title, span)))
    }

    /// The end of the script: each peer half-closes, and gets nothing more but EOF.
    pub(crate) async fn finish(&mut self) -> Held<()> {
        for at in 0..self.peers.len() {
            if self.peers[at].wire.is_none() {
                continue;
            }
            let span = self.peers[at].last;
            self.peers[at].is_paused = false;
            let had_ended = self.peers[at].end.clone();
            if !self.peers[at].has_half_closed && self.peers[at].end.is_none() {
                self.half_close(at, span).await?;
            }
            let deadline = Instant::now() + self.timeout;
            loop {
                self.take_optional(at)?;
                let peer = &self.peers[at];
                if !peer.rest().is_empty() && !matches!(self.look(at, &[]), Found::Wait) {
                    let title = format!("the script ends, and {} has received what nothing expected", peer.title());
                    return Err(Box::new(self.leftover(at, title, span)));
                }
                match &peer.end {
                    Some(End::Eof) => break,
                    // An expected one.
                    Some(End::Reset | End::Truncated) if peer.end == had_ended => break,
                    Some(end) => {
                        let title = format!("the script ends, and {} {}", peer.title(), ending(end));
                        let mut diagnostic = Diagnostic::new(title, span, "its last line").kind(kind_of(end));
                        if *end == End::Truncated {
                            diagnostic = diagnostic.help(TRUNCATED);
                        }
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
        self.allow_again(&[])
    }
}
