//! What has to come: peers wait for it, take it, and have nothing left.
//!
//! Not here: what meets an expectation (`matching`), how a failure reads (`failure`).

use std::time::Duration;

use tokio::time::Instant;

use crate::script::{
    ast::{Expectation, Span, Time},
    driver::Driver,
    failure::{ending, kind_of},
    kind::FailureKind,
    matching::{Attempt, End, Pending, Variables, Wanted},
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
    pub(crate) async fn pending(&mut self, expectation: &Expectation) -> Held<Pending> {
        let Expectation { peer, matcher: _, span } = expectation;
        let peer = self.connected(peer, *span).await?;
        Ok(Pending { peer, wanted: Wanted::new(expectation, &self.variables)?, span: *span })
    }

    pub(crate) async fn expect(&mut self, expectations: &[Expectation], all: bool) -> Held<()> {
        let mut pending = Vec::with_capacity(expectations.len());
        for expectation in expectations {
            pending.push(self.pending(expectation).await?);
        }
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

    pub(crate) async fn quiet(&mut self, at: usize, time: Duration, span: Span) -> Held<()> {
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

    /// Fails if something is there that nothing expected.
    pub(crate) async fn nothing_is_left(&mut self, at: usize, span: Span) -> Held<()> {
        self.let_others_finish().await;
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
    pub(crate) async fn finish(&mut self) -> Held<()> {
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
