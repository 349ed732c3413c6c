//! What has to come: peers wait for it, take it, and have nothing left.
//!
//! Not here: what meets an expectation (`matching`), how a failure reads (`failure`).

use std::{ops::Range, time::Duration};

use tokio::time::Instant;

use crate::script::{
    ast::{Expectation, Span, Time},
    driver::Driver,
    failure::{TRUNCATED, ending, kind_of},
    kind::FailureKind,
    matching::{Attempt, End, Never, Pending, Variables, next_line},
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

/// The first to be complete: of several the shortest, however the bytes are cut on their way.
fn first_complete<'a>(
    all: impl Iterator<Item = (usize, &'a Pending)>,
    attempt: impl Fn(&Pending) -> Attempt,
    waits: &mut bool,
) -> Option<(usize, usize, Variables)> {
    let mut first: Option<(usize, usize, Variables)> = None;
    for (which, one) in all {
        match attempt(one) {
            Attempt::Match(len, captures) if first.as_ref().is_none_or(|first| len < first.1) => {
                first = Some((which, len, captures));
            }
            Attempt::Match(..) | Attempt::Differs => {}
            Attempt::Wait => *waits = true,
        }
    }
    first
}

/// An expectation of a block that has taken a line.
struct Taken {
    pending: Pending,
    /// Where the line is in what its peer has received.
    line: Range<usize>,
}

/// Finds which of `free` is met where a peer's line is given to one of its block: those that have taken lines may take others
/// for it. Lines are given anew only where that is found.
fn give_anew(
    at: usize,
    line: &Range<usize>,
    received: &[u8],
    free: &[Pending],
    taken: &mut [Taken],
    was_asked: &mut [bool],
) -> Option<(usize, Range<usize>)> {
    let takes = |one: &Pending| one.peer == at && one.line(&received[line.clone()]).is_some();
    if let Some(which) = free.iter().position(takes) {
        return Some((which, line.clone()));
    }
    for other in 0..taken.len() {
        if was_asked[other] || !takes(&taken[other].pending) {
            continue;
        }
        was_asked[other] = true;
        let given_up = taken[other].line.clone();
        if let Some(found) = give_anew(at, &given_up, received, free, taken, was_asked) {
            taken[other].line.clone_from(line);
            return Some(found);
        }
    }
    None
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
        let mut taken = Vec::new();
        loop {
            if self.settle(&mut pending, &mut taken, all)? {
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
                // What waited for the rest of something else is there all the same.
                for one in &pending {
                    self.take_optional(one.peer)?;
                }
                return Err(self.too_late(&pending));
            }
        }
    }

    /// Takes what came by what is expected. True once that is all, or one if one is enough.
    fn settle(&mut self, pending: &mut Vec<Pending>, taken: &mut Vec<Taken>, all: bool) -> Held<bool> {
        let mut peers: Vec<_> = pending.iter().map(|one| one.peer).collect();
        peers.sort_unstable();
        peers.dedup();
        for at in peers {
            while pending.iter().any(|one| one.peer == at) {
                match self.look(at, pending) {
                    Found::Wanted(which, len, captures) => {
                        let met = pending.remove(which);
                        let peer = &mut self.peers[at];
                        peer.is_end_taken |= met.is_end();
                        if let Some(observed) = &mut self.observed {
                            observed.take(at, met.span, &peer.rest()[..len]);
                        }
                        let line = peer.cursor..peer.cursor + len;
                        taken.push(Taken { pending: met, line });
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
                    Found::Differs if self.take_anew(at, pending, taken)? => {}
                    Found::Differs => return Err(self.differs(at, pending)),
                }
            }
        }
        Ok(pending.is_empty())
    }

    /// Takes a line that fits only what has taken another one, where that one fits something else. False if there is no such way.
    fn take_anew(&mut self, at: usize, pending: &mut Vec<Pending>, taken: &mut Vec<Taken>) -> Held<bool> {
        let peer = &self.peers[at];
        let Some((_, len)) = next_line(peer.rest()) else { return Ok(false) };
        let line = peer.cursor..peer.cursor + len;
        let mut was_asked = vec![false; taken.len()];
        let Some((which, given)) = give_anew(at, &line, &peer.received, pending, taken, &mut was_asked) else {
            return Ok(false);
        };
        taken.push(Taken { pending: pending.remove(which), line: given });
        for Taken { pending, line } in taken.iter().filter(|one| one.pending.peer == at) {
            let line = &peer.received[line.clone()];
            let Some(captures) = pending.line(line) else { continue };
            self.variables.extend(captures);
            if let Some(observed) = &mut self.observed {
                observed.take_instead(at, pending.span, line);
            }
        }
        self.peers[at].optional.clear();
        self.take(at, len, Variables::new())?;
        Ok(true)
    }

    fn look(&self, at: usize, pending: &[Pending]) -> Found {
        let peer = &self.peers[at];
        let attempt = |one: &Pending| one.attempt(&peer.received, peer.cursor, peer.end.as_ref());
        let mut waits = false;
        let wanted = pending.iter().enumerate().filter(|(_, one)| one.peer == at);
        if let Some((which, len, captures)) = first_complete(wanted, attempt, &mut waits) {
            return Found::Wanted(which, len, captures);
        }
        // What comes may be the beginning of what is wanted: that takes it first.
        if waits {
            return Found::Wait;
        }
        if let Some((which, len, captures)) = first_complete(peer.optional.iter().enumerate(), attempt, &mut waits) {
            return Found::Optional(which, len, captures);
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
                    Some(_) if peer.is_end_taken => break,
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
