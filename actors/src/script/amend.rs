//! Goes on where something else came than what was expected, and notes what the script should have said.
//!
//! What came until a peer acts again is held against all that was expected until then. Not here: how the script is written
//! anew (`bless`), which of what came belongs to what (`align`).

use std::time::Duration;

use tokio::time::Instant;

use crate::script::{
    align::{Step, Unit, align, fits, token},
    ast::{Action, Expectation, Kind, Matcher, Part, Span, Statement},
    driver::Driver,
    kind::FailureKind,
    literal::pattern_variables,
    matching::{End, Wanted},
    notes::{Mark, Note},
    peer::Peer,
    report::{Diagnostic, Held, excerpt},
    run::Runner,
    spell::Came,
};

/// Silence that ends an answer over sockets.
const SILENCE: Duration = Duration::from_millis(200);
/// A service that never falls silent is not waited for longer.
const MAX_ANSWER: Duration = Duration::from_secs(5);
/// Lines in a row that did not come, until nothing is expected of the service any more: each takes its time.
const MAX_LATE: usize = 3;
/// Notes on one script. A person is to look at them.
const MAX_NOTES: usize = 10_000;

/// Something else: what may be noted. All else is no matter of what was expected.
fn may_be_noted(diagnostic: &Diagnostic) -> bool {
    let kind = diagnostic.failure.as_ref().map(|failure| failure.0);
    matches!(
        kind,
        Some(FailureKind::Differs | FailureKind::Ended | FailureKind::Lost | FailureKind::Late | FailureKind::Leftover)
    )
}

/// Whether somebody does something, where others only wait for what comes.
fn acts(statement: &Statement) -> bool {
    match &statement.kind {
        Kind::Expect(_) | Kind::Optional(_) | Kind::OneOf(_) | Kind::Unordered(_) | Kind::Until(_) | Kind::Never(_) => {
            false
        }
        Kind::Act { action, .. } => !matches!(action, Action::Quiet(_)),
        _ => true,
    }
}

fn parts_of(matcher: &Matcher) -> &[Part] {
    match matcher {
        Matcher::Line(text) | Matcher::Prefix(text) | Matcher::Bytes(text) => &text.parts,
        _ => &[],
    }
}

fn holds(part: &Part, is_one: &dyn Fn(&str) -> bool) -> bool {
    match part {
        Part::Bytes(_) => false,
        Part::Variable(name) => is_one(name),
        Part::Times { parts, count } => holds(count, is_one) || parts.iter().any(|part| holds(part, is_one)),
    }
}

fn uses(matcher: &Matcher, is_one: impl Fn(&str) -> bool) -> bool {
    match matcher {
        Matcher::Pattern(pattern) => pattern_variables(&pattern.source).iter().any(|(name, _, _)| is_one(name)),
        _ => parts_of(matcher).iter().any(|part| holds(part, &is_one)),
    }
}

/// A pattern that sets variables is not replaced: what uses them would have nothing.
fn replaceable(expectation: &Expectation, came: Option<&[u8]>) -> Held<()> {
    let Matcher::Pattern(pattern) = &expectation.matcher else { return Ok(()) };
    let Some(name) = pattern.captures.first() else { return Ok(()) };
    let title = format!("a pattern that sets `${name}` does not match any more");
    let help = "write it anew by hand";
    let diagnostic =
        Diagnostic::new(title, expectation.span, "cannot be blessed").help(help).kind(FailureKind::Differs);
    Err(Box::new(match came {
        Some(came) => diagnostic.note(format!("received: {}", excerpt(came))),
        None => diagnostic,
    }))
}

fn ending(end: Option<&End>) -> Came {
    if matches!(end, Some(End::Eof)) { Came::Eof } else { Came::Reset }
}

/// The lines of one peer among several.
struct Own {
    /// Which they are.
    lines: Vec<usize>,
    wanted: Vec<Wanted>,
    is_optional: Vec<bool>,
    span: Span,
}

impl Own {
    fn new<D>(runner: &Runner<D>, at: usize, statements: &[Statement], all: &[&Expectation]) -> Held<Self> {
        let peer = &runner.peers[at].name;
        let lines: Vec<usize> = (0..all.len()).filter(|index| all[*index].peer == *peer).collect();
        let mut wanted = Vec::new();
        for index in &lines {
            wanted.push(Wanted::new(all[*index], &runner.variables)?);
        }
        let is_optional = lines.iter().map(|index| matches!(statements[*index].kind, Kind::Optional(_))).collect();
        let span = lines.first().map_or(Span::default(), |index| all[*index].span);
        Ok(Self { lines, wanted, is_optional, span })
    }

    /// Behind those that may come from before.
    fn units<'a>(&'a self, peer: &'a Peer) -> Vec<Unit<'a>> {
        let earlier = peer.optional.iter().map(|one| Unit { wanted: &one.wanted, is_optional: true });
        let these = self.wanted.iter().zip(&self.is_optional);
        earlier.chain(these.map(|(wanted, is_optional)| Unit { wanted, is_optional: *is_optional })).collect()
    }

    fn steps(&self, peer: &Peer, is_open: bool) -> Held<Vec<Step>> {
        align(&self.units(peer), peer.rest(), peer.end.as_ref(), is_open)
            .ok_or_else(|| Box::new(Diagnostic::new("too much came to be compared", self.span, "cannot be blessed")))
    }
}

impl<D: Driver> Runner<D> {
    /// Before a statement of the run: who has received what, when somebody acts.
    pub(crate) async fn mark(&mut self, statement: &Statement) {
        let acts = acts(statement);
        let Some(amending) = &mut self.amending else { return };
        amending.began = self.peers.iter().map(|peer| peer.cursor).collect();
        if !acts {
            return;
        }
        // Nobody else runs meanwhile: a script that is watched is to do what it does when it is not.
        self.read_during(Box::pin(std::future::ready(()))).await;
        let peers = self.peers.iter().map(|peer| (peer.cursor, peer.received.len())).collect();
        let is_block = matches!(statement.kind, Kind::Repeat { .. } | Kind::Include { .. });
        if let Some(amending) = &mut self.amending {
            if is_block {
                amending.marks.clear();
                amending.depth += 1;
            } else {
                amending.mark(Mark { span: statement.span, peers });
            }
        }
    }

    /// Behind a statement that held.
    pub(crate) fn went(&mut self, statement: &Statement) {
        if let Some(amending) = &mut self.amending {
            match statement.kind {
                // What is in them was noted.
                Kind::Repeat { .. } | Kind::Include { .. } => {
                    amending.marks.clear();
                    amending.depth = amending.depth.saturating_sub(1);
                }
                _ => {
                    for (at, peer) in self.peers.iter().enumerate() {
                        amending.heard |= peer.was_heard();
                        if peer.cursor > amending.began.get(at).copied().unwrap_or_default() {
                            amending.takes(at, statement.span);
                        }
                    }
                    amending.went(statement.span, Vec::new());
                }
            }
        }
    }

    /// Notes what the first of some statements should have said, and returns those that are still to be run.
    pub(crate) async fn amend<'a>(
        &mut self,
        diagnostic: Box<Diagnostic>,
        statements: &'a [Statement],
    ) -> Held<&'a [Statement]> {
        let Some((statement, behind)) = statements.split_first() else { return Err(diagnostic) };
        let Some(amending) = &mut self.amending else { return Err(diagnostic) };
        if !may_be_noted(&diagnostic) || amending.count > MAX_NOTES {
            return Err(diagnostic);
        }
        let is_late = diagnostic.failure.as_ref().is_some_and(|failure| failure.0 == FailureKind::Late);
        amending.late = if is_late { amending.late + 1 } else { 0 };
        amending.heard |= self.peers.iter().any(Peer::was_heard);
        if amending.late > MAX_LATE && !self.driver.knows_idle() {
            return Err(Box::new(
                diagnostic.help("so it was with the lines before it: does the service answer at all?"),
            ));
        }
        if !is_late {
            self.answers_end().await;
        }
        match &statement.kind {
            Kind::Expect(_) => self.amend_lines(diagnostic, statements, is_late),
            Kind::OneOf(choices) => self.amend_choice(statement, choices).map(|()| behind),
            Kind::Unordered(all) => self.amend_unordered(statement, all, behind).map(|()| behind),
            Kind::Act { peer, action: Action::Quiet(_) | Action::Close } => {
                match self.peers.iter().position(|known| known.name == *peer) {
                    Some(at) => self.amend_before(at, diagnostic, statements),
                    None => Err(diagnostic),
                }
            }
            _ => Err(diagnostic),
        }
    }

    /// What a peer has received when the script ends, and nothing expected.
    pub(crate) fn amend_end(&mut self, diagnostic: Box<Diagnostic>) -> Held<()> {
        let Some(amending) = &self.amending else { return Err(diagnostic) };
        if !may_be_noted(&diagnostic) || amending.count > MAX_NOTES {
            return Err(diagnostic);
        }
        let fails = |peer: &Peer| {
            let is_it = peer.last.file == diagnostic.span.file && peer.last.start == diagnostic.span.start;
            peer.wire.is_some() && is_it && (!peer.rest().is_empty() || peer.end == Some(End::Reset))
        };
        let Some(at) = self.peers.iter().position(fails) else { return Err(diagnostic) };
        let cursor = self.peers[at].cursor;
        let notes = if self.peers[at].rest().is_empty() {
            // It ended otherwise than by EOF, and is done with.
            self.peers[at].end = Some(End::Eof);
            vec![Note::Before(self.peers[at].name.clone(), Came::Reset)]
        } else {
            self.rest_as_notes(at, diagnostic.span)?
        };
        if let Some(amending) = &mut self.amending {
            // Nobody acted since it took something.
            let is_behind = !amending.marks.iter().any(|mark| mark.peers.get(at).is_none_or(|peer| peer.0 == cursor));
            match amending.took.get(at).copied().flatten().filter(|_| is_behind) {
                Some(span) => notes.into_iter().for_each(|note| amending.add(span, note.behind())),
                None => {
                    amending.count += notes.len();
                    amending.end.extend(notes);
                }
            }
        }
        Ok(())
    }

    /// Waits until nothing more comes: where it is known, until the service has nothing to do.
    async fn answers_end(&mut self) {
        if self.driver.knows_idle() {
            self.let_others_finish().await;
            return;
        }
        let end = Instant::now() + MAX_ANSWER;
        while Instant::now() < end && self.next(Instant::now() + SILENCE).await {}
    }

    /// All that a peer has and nothing expected.
    fn rest_as_notes(&mut self, at: usize, span: Span) -> Held<Vec<Note>> {
        let peer = &mut self.peers[at];
        let mut notes = Vec::new();
        while !peer.rest().is_empty() {
            let rest = peer.rest();
            let len = token(rest);
            let came = Came::new(&rest[..len], false, &[], &self.variables);
            notes.push(Note::Before(peer.name.clone(), came));
            peer.cursor += len;
        }
        if notes.len() > MAX_NOTES {
            return Err(Box::new(Diagnostic::new("more came than a script should expect", span, "here")));
        }
        if notes.is_empty() && peer.end.is_some() {
            peer.is_end_taken = true;
            notes.push(Note::Before(peer.name.clone(), ending(peer.end.as_ref())));
        }
        Ok(notes)
    }

    /// Notes all that a peer has before the first statement, which is to hold behind that.
    fn amend_before<'a>(
        &mut self,
        at: usize,
        diagnostic: Box<Diagnostic>,
        statements: &'a [Statement],
    ) -> Held<&'a [Statement]> {
        let notes = self.rest_as_notes(at, diagnostic.span)?;
        let (Some(amending), Some(first)) = (&mut self.amending, statements.first()) else { return Err(diagnostic) };
        if notes.is_empty() || !amending.again(first.span, notes) {
            return Err(diagnostic);
        }
        Ok(statements)
    }

    /// Expectations one after the other, of however many peers, until somebody acts or a block begins.
    fn amend_lines<'a>(
        &mut self,
        diagnostic: Box<Diagnostic>,
        statements: &'a [Statement],
        is_late: bool,
    ) -> Held<&'a [Statement]> {
        let mut set: Vec<&str> = Vec::new();
        let mut lines: Vec<&Expectation> = Vec::new();
        for statement in statements {
            let (Kind::Expect(expectation) | Kind::Optional(expectation)) = &statement.kind else { break };
            // What is set on the way is not known yet.
            let is_known = !uses(&expectation.matcher, |name| set.contains(&name));
            let is_connected = self.peers.iter().any(|peer| peer.name == expectation.peer && peer.wire.is_some());
            if !is_known || !is_connected {
                break;
            }
            if let Matcher::Pattern(pattern) = &expectation.matcher {
                set.extend(pattern.captures.iter().map(String::as_str));
            }
            lines.push(expectation);
        }
        if lines.is_empty() {
            return Err(diagnostic);
        }
        // Somebody acts: what came until then belongs to these.
        let is_inner = self.amending.as_ref().is_some_and(|amending| amending.depth > 0);
        let mut is_open = statements.get(lines.len()).map_or(is_inner, |next| !acts(next));
        if !is_late {
            // What did not come yet may still come: it has its time.
            let mut open = lines.len();
            for at in 0..self.peers.len() {
                if self.peers[at].end.is_none() {
                    open = open.min(self.first_open(at, statements, &lines, is_open)?);
                }
            }
            if open == 0 {
                return match self.peers.iter().position(|peer| peer.name == lines[0].peer) {
                    Some(at) => self.amend_before(at, diagnostic, statements),
                    None => Err(diagnostic),
                };
            }
            is_open &= open == lines.len();
            lines.truncate(open);
        }
        let (these, behind) = statements.split_at(lines.len());
        let mut notes: Vec<Vec<Note>> = vec![Vec::new(); these.len()];
        let mut marked: Vec<(Span, Note)> = Vec::new();
        for at in 0..self.peers.len() {
            self.amend_peer(at, these, &lines, is_open, &mut notes, &mut marked)?;
        }
        let Some(amending) = &mut self.amending else { return Err(diagnostic) };
        for (span, note) in marked {
            amending.add(span, note);
        }
        for ((statement, notes), line) in these.iter().zip(notes).zip(&lines) {
            amending.went(statement.span, notes);
            if let Some(at) = self.peers.iter().position(|peer| peer.name == line.peer) {
                amending.takes(at, statement.span);
            }
        }
        Ok(behind)
    }

    /// The first of the lines of which it is not known whether they come.
    fn first_open(&self, at: usize, statements: &[Statement], lines: &[&Expectation], is_open: bool) -> Held<usize> {
        let own = Own::new(self, at, statements, lines)?;
        let mut first = lines.len();
        if own.lines.is_empty() {
            return Ok(first);
        }
        for step in own.steps(&self.peers[at], is_open)?.into_iter().rev() {
            match step {
                Step::Remove { unit } => first = own.lines[unit - self.peers[at].optional.len()],
                Step::Skip { .. } => {}
                _ => break,
            }
        }
        Ok(first)
    }

    fn amend_peer(
        &mut self,
        at: usize,
        statements: &[Statement],
        lines: &[&Expectation],
        is_open: bool,
        notes: &mut [Vec<Note>],
        marked: &mut Vec<(Span, Note)>,
    ) -> Held<()> {
        let name = self.peers[at].name.clone();
        let own = Own::new(self, at, statements, lines)?;
        let Some(last) = own.lines.last().copied() else { return Ok(()) };
        let peer = &self.peers[at];
        let units = own.units(peer);
        let earlier = peer.optional.len();
        let steps = own.steps(peer, is_open)?;
        let own = &own.lines;
        let start = peer.cursor;
        let mut cursor = start;
        let mut is_end_taken = false;
        // The unit before which something is inserted.
        let mut next = 0;
        let mut is_front = true;
        let mut set = Vec::new();
        for step in steps {
            let rest = &peer.received[cursor..];
            is_end_taken |= matches!(step, Step::Match { len: 0, .. } | Step::Replace { len: 0, .. });
            match step {
                Step::Match { unit, len } => {
                    set.extend(fits(units[unit].wanted, rest, peer.end.as_ref()).map(|(_, captures)| captures));
                    cursor += len;
                }
                Step::Replace { unit, len } => {
                    let index = own[unit - earlier];
                    let expectation = lines[index];
                    replaceable(expectation, Some(&rest[..len]))?;
                    let is_exact = matches!(expectation.matcher, Matcher::Bytes(_));
                    let came = match len {
                        0 => ending(peer.end.as_ref()),
                        _ => Came::new(&rest[..len], is_exact, parts_of(&expectation.matcher), &self.variables),
                    };
                    notes[index].push(Note::Instead(expectation.span.start, came));
                    cursor += len;
                }
                Step::Remove { unit } => {
                    let expectation = lines[own[unit - earlier]];
                    replaceable(expectation, None)?;
                    notes[own[unit - earlier]].push(Note::Nothing(expectation.span.start));
                }
                Step::Skip { .. } => {}
                Step::Insert { len } => {
                    let came = Came::new(&rest[..len], false, &[], &self.variables);
                    cursor += len;
                    // It was there before somebody acted.
                    let amending = self.amending.as_ref().filter(|_| is_front);
                    let earlier_place = amending.and_then(|amending| amending.earlier(at, start, cursor));
                    match (earlier_place, own.get(next.max(earlier) - earlier)) {
                        (Some((span, true)), _) => marked.push((span, Note::Behind(name.clone(), came))),
                        (Some((span, false)), _) => marked.push((span, Note::Before(name.clone(), came))),
                        (None, Some(index)) => notes[*index].push(Note::Before(name.clone(), came)),
                        (None, None) => notes[last].push(Note::Behind(name.clone(), came)),
                    }
                }
            }
            if let Step::Match { unit, .. } | Step::Replace { unit, .. } | Step::Remove { unit } | Step::Skip { unit } =
                step
            {
                next = unit + 1;
                is_front &= matches!(step, Step::Skip { .. });
            }
        }
        let peer = &mut self.peers[at];
        peer.cursor = cursor;
        peer.is_end_taken |= is_end_taken;
        peer.optional.clear();
        set.into_iter().for_each(|captured| self.variables.extend(captured));
        Ok(())
    }

    /// None of several came: what came is one more.
    fn amend_choice(&mut self, statement: &Statement, choices: &[Expectation]) -> Held<()> {
        let mut notes = Vec::new();
        let who = choices
            .iter()
            .find_map(|choice| self.peers.iter().position(|peer| peer.name == choice.peer && !peer.rest().is_empty()));
        let who = who.or_else(|| {
            choices
                .iter()
                .find_map(|choice| self.peers.iter().position(|peer| peer.name == choice.peer && peer.end.is_some()))
        });
        match who {
            Some(at) => {
                let peer = &mut self.peers[at];
                let len = token(peer.rest());
                let came = match len {
                    0 => ending(peer.end.as_ref()),
                    _ => Came::new(&peer.rest()[..len], false, &[], &self.variables),
                };
                peer.cursor += len;
                peer.is_end_taken |= len == 0;
                peer.optional.clear();
                notes.push(Note::Within(peer.name.clone(), came));
                if let Some(amending) = &mut self.amending {
                    amending.takes(at, statement.span);
                }
            }
            None => {
                for choice in choices {
                    replaceable(choice, None)?;
                    notes.push(Note::Nothing(choice.span.start));
                }
            }
        }
        if let Some(amending) = &mut self.amending {
            amending.went(statement.span, notes);
        }
        Ok(())
    }

    /// Not all of several came, or others.
    fn amend_unordered(&mut self, statement: &Statement, all: &[Expectation], behind: &[Statement]) -> Held<()> {
        let mut notes = Vec::new();
        let acts = behind.first().is_some_and(acts);
        // Some of them were taken before the first that did not come: they have to be looked for again.
        for at in 0..self.peers.len() {
            let name = self.peers[at].name.clone();
            let mut missing = Vec::new();
            for expectation in all.iter().filter(|expectation| expectation.peer == name) {
                missing.push((expectation, Wanted::new(expectation, &self.variables)?));
            }
            let Some(expected) = Some(missing.len()).filter(|expected| *expected > 0) else { continue };
            let start = self.amending.as_ref().and_then(|amending| amending.began.get(at)).copied().unwrap_or_default();
            let peer = &self.peers[at];
            let mut cursor = start;
            let mut others = Vec::new();
            let mut taken = 0;
            let mut set = Vec::new();
            while cursor < peer.received.len() {
                let rest = &peer.received[cursor..];
                let found = missing
                    .iter()
                    .enumerate()
                    .find_map(|(which, (_, wanted))| Some((which, fits(wanted, rest, peer.end.as_ref())?)));
                let len = match found {
                    Some((which, (len, captures))) => {
                        missing.remove(which);
                        set.push(captures);
                        taken += 1;
                        len
                    }
                    // As many as were expected; what follows belongs to what follows, unless somebody acts.
                    None if !acts && taken + others.len() >= expected => break,
                    None => {
                        let len = token(rest);
                        others.push(cursor..cursor + len);
                        len
                    }
                };
                cursor += len;
            }
            let is_all = cursor == peer.received.len();
            let before = missing.len();
            missing.retain(|(_, wanted)| !is_all || fits(wanted, b"", peer.end.as_ref()).is_none());
            let is_end_taken = missing.len() < before;
            let mut others = others.into_iter();
            for (expectation, wanted) in missing {
                let is_end = matches!(wanted, Wanted::Eof | Wanted::Reset | Wanted::Truncated);
                match others.next().filter(|_| !is_end) {
                    Some(range) => {
                        let bytes = &peer.received[range];
                        replaceable(expectation, Some(bytes))?;
                        let is_exact = matches!(expectation.matcher, Matcher::Bytes(_));
                        let came = Came::new(bytes, is_exact, parts_of(&expectation.matcher), &self.variables);
                        notes.push(Note::Instead(expectation.span.start, came));
                    }
                    None => {
                        replaceable(expectation, None)?;
                        notes.push(Note::Nothing(expectation.span.start));
                    }
                }
            }
            for range in others {
                let came = Came::new(&peer.received[range], false, &[], &self.variables);
                notes.push(Note::Within(name.clone(), came));
            }
            let peer = &mut self.peers[at];
            peer.cursor = cursor;
            peer.is_end_taken |= is_end_taken;
            peer.optional.clear();
            set.into_iter().for_each(|captured| self.variables.extend(captured));
            if let Some(amending) = &mut self.amending {
                amending.takes(at, statement.span);
            }
        }
        if let Some(amending) = &mut self.amending {
            amending.went(statement.span, notes);
        }
        Ok(())
    }
}
