//! Shrinks a script: looks for the smallest one that still fails in the same manner.
//!
//! Statements, rounds, peers and letters are left out as long as the failure stays: halves first, single ones last, always in
//! the same order. Not here: what becomes of texts (`shorten`), what the same manner is (`search`).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::script::{
    ast::{Action, Expectation, Kind, Newline, Part, Span, Statement, Text},
    kind::FailureKind,
    report::ScriptFailure,
    search::{Search, Shrink, Signature, fail, leave_out},
    shorten::shorten,
    target::Target,
    text::{DEFAULT_TIMEOUT, Script, ScriptOptions},
};

/// Rounds through all of it, each of which leaves out less.
const MAX_ROUNDS: usize = 8;
/// Statements of which pairs are left out: a send and what it asks for may stand apart.
const MAX_PAIRS: usize = 24;
/// Waits that do not matter to the failure are this many times as long as all of the script, at least [`MIN_PATIENCE`].
const PATIENCE: u32 = 20;
const MIN_PATIENCE: Duration = Duration::from_millis(250);

/// A script that was shrunk.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Shrunk {
    /// The smallest one that was found.
    pub script: Script,
    /// The failure of the smallest one, at its own places; at those of the script before if the last run failed otherwise.
    pub failure: ScriptFailure,
    /// True if the last run failed in the same manner; false for failures that come by chance.
    pub fails_again: bool,
    /// The number of statements before and after, those of blocks and included files with them.
    pub statements: (usize, usize),
    /// The number of runs.
    pub runs: usize,
    /// True if nothing more can be left out; false if the search ended before, by its runs or its time.
    pub is_smallest: bool,
}

/// The reason why a script was not shrunk.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShrinkError {
    /// The script does not fail.
    #[error("it holds: nothing to shrink")]
    Holds,
    /// It failed once, and not again.
    #[error("it does not fail each time: run each smaller one several times, by `--tries N`\n\n{0}")]
    ByChance(ScriptFailure),
    /// Nothing of the script runs: no server starts, or nobody is there where the first peer connects.
    #[error("nothing of it runs: nothing to shrink\n\n{0}")]
    NotRun(ScriptFailure),
    /// Something that the script needs is not there: the reason.
    #[error("the script was skipped: {0}")]
    Skipped(String),
}

impl ShrinkError {
    /// Returns its text with the colours of a terminal.
    #[must_use]
    pub fn to_coloured_string(&self) -> String {
        match self {
            Self::ByChance(failure) | Self::NotRun(failure) => {
                self.to_string().replace(&failure.to_string(), &failure.to_coloured_string())
            }
            _ => self.to_string(),
        }
    }
}

pub(crate) fn count(statements: &[Statement]) -> usize {
    let of = |statement: &Statement| match &statement.kind {
        Kind::Repeat { body, .. } | Kind::Include { body, .. } => 1 + count(body),
        Kind::OneOf(all) | Kind::Unordered(all) => 1 + all.len(),
        _ => 1,
    };
    statements.iter().map(of).sum()
}

/// Included files as lines of the script; what they set ends with them.
fn flat(statements: &[Statement], before: &mut (Newline, Duration)) -> Vec<Statement> {
    let mut all = Vec::new();
    for statement in statements {
        match &statement.kind {
            Kind::Include { body, .. } => {
                let outer = *before;
                all.extend(flat(body, before));
                let set = |kind| Statement { kind, span: statement.span };
                if before.0 != outer.0 {
                    all.push(set(Kind::Newline(outer.0)));
                }
                if before.1 != outer.1 {
                    all.push(set(Kind::Timeout(outer.1)));
                }
                *before = outer;
            }
            Kind::Repeat { count, body } => {
                let kind = Kind::Repeat { count: count.clone(), body: flat(body, before) };
                all.push(Statement { kind, span: statement.span });
            }
            other => {
                match other {
                    Kind::Newline(newline) => before.0 = *newline,
                    Kind::Timeout(timeout) => before.1 = *timeout,
                    _ => {}
                }
                all.push(statement.clone());
            }
        }
    }
    all
}

fn peer(statement: &Statement) -> Option<&str> {
    match &statement.kind {
        Kind::Send { peer, .. } | Kind::Act { peer, .. } => Some(peer),
        Kind::Expect(one) | Kind::Optional(one) | Kind::Until(one) | Kind::Never(one) => Some(&one.peer),
        _ => None,
    }
}

fn peers(statements: &[Statement], found: &mut Vec<String>) {
    for statement in statements {
        match &statement.kind {
            Kind::Repeat { body, .. } => peers(body, found),
            Kind::OneOf(all) | Kind::Unordered(all) => found.extend(all.iter().map(|one| one.peer.clone())),
            _ => found.extend(peer(statement).map(str::to_owned)),
        }
    }
    found.sort_unstable();
    found.dedup();
}

fn without_peer(statements: &[Statement], name: &str) -> Vec<Statement> {
    let others = |all: &[Expectation]| -> Vec<_> { all.iter().filter(|one| one.peer != name).cloned().collect() };
    let mut left = Vec::new();
    for statement in statements {
        let kind = match &statement.kind {
            Kind::Repeat { count, body } => Kind::Repeat { count: count.clone(), body: without_peer(body, name) },
            Kind::OneOf(all) => Kind::OneOf(others(all)),
            Kind::Unordered(all) => Kind::Unordered(others(all)),
            other => other.clone(),
        };
        let is_empty = match &kind {
            Kind::Repeat { body, .. } => body.is_empty(),
            Kind::OneOf(all) | Kind::Unordered(all) => all.is_empty(),
            _ => peer(statement) == Some(name),
        };
        if !is_empty {
            left.push(Statement { kind, span: statement.span });
        }
    }
    left
}

/// What somebody does, and what is waited for until somebody does something again.
fn exchanges(statements: &[Statement]) -> Vec<Vec<Statement>> {
    let mut all: Vec<Vec<Statement>> = Vec::new();
    let mut waits = true;
    for statement in statements {
        let now = match &statement.kind {
            Kind::Expect(_) | Kind::Optional(_) | Kind::Until(_) | Kind::OneOf(_) | Kind::Unordered(_) => true,
            Kind::Act { action, .. } => matches!(action, Action::Quiet(_)),
            _ => false,
        };
        match all.last_mut() {
            Some(last) if now || !waits => last.push(statement.clone()),
            _ => all.push(vec![statement.clone()]),
        }
        waits = now;
    }
    all
}

/// A tree without what can be left out of a list in it: `put` makes the tree of a list.
fn within(
    search: &mut Search<'_>,
    statements: Vec<Statement>,
    put: &dyn Fn(&[Statement]) -> Vec<Statement>,
) -> Vec<Statement> {
    let groups = exchanges(&statements);
    let groups = leave_out(groups, |groups| search.fails(&put(&groups.concat())));
    let mut statements = leave_out(groups.concat(), |fewer| search.fails(&put(fewer)));
    for at in 0..statements.len() {
        let Some(statement) = statements.get(at).cloned() else { break };
        let with = |now: &[Statement], all: &[Statement]| [&all[..at], now, &all[at + 1..]].concat();
        match &statement.kind {
            Kind::Repeat { count, body } => {
                // Once, without the block; or fewer times.
                let once = with(body, &statements);
                if search.fails(&put(&once)) {
                    statements = once;
                    continue;
                }
                let repeat = |count: &Text, body: &[Statement]| Statement {
                    kind: Kind::Repeat { count: count.clone(), body: body.to_vec() },
                    span: statement.span,
                };
                let mut count = count.clone();
                for less in fewer_times(&count) {
                    if search.fails(&put(&with(&[repeat(&less, body)], &statements))) {
                        count = less;
                        break;
                    }
                }
                let outer = statements.clone();
                let body = within(search, body.clone(), &|body| match body {
                    [] => put(&with(&[], &outer)),
                    _ => put(&with(&[repeat(&count, body)], &outer)),
                });
                statements = match body.as_slice() {
                    [] => with(&[], &statements),
                    _ => with(&[repeat(&count, &body)], &statements),
                };
            }
            Kind::OneOf(all) | Kind::Unordered(all) => {
                let is_unordered = matches!(statement.kind, Kind::Unordered(_));
                let block = |all: &[Expectation]| -> Vec<Statement> {
                    let kind = match all {
                        [] => return Vec::new(),
                        _ if is_unordered => Kind::Unordered(all.to_vec()),
                        _ => Kind::OneOf(all.to_vec()),
                    };
                    vec![Statement { kind, span: statement.span }]
                };
                let all = leave_out(all.clone(), |fewer| search.fails(&put(&with(&block(fewer), &statements))));
                let mut now = block(&all);
                if let [one] = all.as_slice() {
                    let alone = [Statement { kind: Kind::Expect(one.clone()), span: statement.span }];
                    if search.fails(&put(&with(&alone, &statements))) {
                        now = alone.to_vec();
                    }
                }
                statements = with(&now, &statements);
            }
            _ => {}
        }
    }
    statements
}

/// Smaller counts, the smallest first.
fn fewer_times(count: &Text) -> Vec<Text> {
    let [Part::Bytes(digits)] = count.parts.as_slice() else { return Vec::new() };
    let Some(times) = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u32>().ok()) else {
        return Vec::new();
    };
    let less = std::iter::successors(Some(1_u32), |less| less.checked_mul(2)).take_while(|less| *less < times);
    let less: Vec<_> = less.collect();
    // Halves between the last that is too small and what there was come by going through it again.
    less.into_iter()
        .chain(times.checked_sub(1).filter(|less| *less > 1))
        .map(|less| Text { parts: vec![Part::Bytes(less.to_string().into_bytes())], span: count.span })
        .collect()
}

/// True if a statement, or one in its block, begins at a place.
fn is_at(statement: &Statement, place: (usize, usize)) -> bool {
    let begins = |span: Span| span.file == place.0 && span.start == place.1;
    begins(statement.span)
        || match &statement.kind {
            Kind::Repeat { body, .. } | Kind::Include { body, .. } => body.iter().any(|inner| is_at(inner, place)),
            Kind::OneOf(all) | Kind::Unordered(all) => all.iter().any(|one| begins(one.span)),
            Kind::Expect(one) | Kind::Optional(one) | Kind::Until(one) | Kind::Never(one) => begins(one.span),
            _ => false,
        }
}

impl Script {
    /// Looks for the smallest script that fails in the same manner.
    ///
    /// That is: the same title, at the same statement, with the same difference between what was expected and what came. Where
    /// the end of the script fails, the statement may be another. Included files become lines of the script.
    ///
    /// The same failures make the same script. Blocks until it is done, as [`run`](Self::run) does.
    ///
    /// # Errors
    /// [`ShrinkError`] if the script holds, or fails by chance.
    pub fn shrink(&self, target: &Target, options: &ScriptOptions, how: &Shrink) -> Result<Shrunk, ShrinkError> {
        let start = Instant::now();
        let Some((failure, is_fuzzed)) =
            fail(self, target, options, how.fuzz.as_ref()).map_err(ShrinkError::Skipped)?
        else {
            return Err(ShrinkError::Holds);
        };
        if self.is_not_run(&failure) {
            return Err(ShrinkError::NotRun(failure));
        }
        let took = start.elapsed();
        let signature = Signature::of(&failure, is_fuzzed);
        let is_late = matches!(signature.kind, FailureKind::Late | FailureKind::NoEof);
        let mut options = options.clone();
        if !is_late && !options.has_timeout() {
            // A smaller script may wait for what never comes.
            options = options.timeout((took * PATIENCE).clamp(MIN_PATIENCE, DEFAULT_TIMEOUT));
        }
        let end = how.max_time.and_then(|time| start.checked_add(time));
        let place = signature.place;
        let patience = options.patience();
        let tried = BTreeMap::new();
        let mut search = Search { script: self, target, options, how, signature, runs: 1, end, tried };
        if !search.fails(self.statements()) {
            return Err(ShrinkError::ByChance(failure));
        }
        let mut statements = self.statements().to_vec();
        let lines = flat(&statements, &mut (Newline::Lf, patience));
        if search.fails(&lines) {
            statements = lines;
        }
        // What was never come to.
        let last = place.and_then(|place| statements.iter().position(|statement| is_at(statement, place)));
        if let Some(last) = last
            && search.fails(&statements[..=last])
        {
            statements.truncate(last + 1);
        }
        let mut names = Vec::new();
        peers(&statements, &mut names);
        for name in names {
            let fewer = without_peer(&statements, &name);
            if search.fails(&fewer) {
                statements = fewer;
            }
        }
        let mut is_smallest = false;
        for _ in 0..MAX_ROUNDS {
            let before = search.script.with_statements(statements.clone()).to_string();
            statements = within(&mut search, statements, &|all| all.to_vec());
            statements = pairs(&mut search, statements);
            statements = shorten(&mut search, statements);
            if search.script.with_statements(statements.clone()).to_string() == before {
                is_smallest = !search.is_over();
                break;
            }
        }
        let (name, runs) = (format!("{} (shrunk)", self.source().0), search.runs);
        let small = self.with_statements(statements);
        // As a text of its own it has places of its own.
        let script = Self::parse(name, small.to_string()).unwrap_or(small);
        let failed = (0..how.tries).find_map(|_| {
            let (failure, is_fuzzed) = fail(&script, target, &search.options, how.fuzz.as_ref()).ok().flatten()?;
            Signature::of(&failure, is_fuzzed).is_elsewhere(&search.signature).then_some(failure)
        });
        let fails_again = failed.is_some();
        let failure = failed.unwrap_or(failure);
        let statements = (count(self.statements()), count(script.statements()));
        Ok(Shrunk { script, failure, fails_again, statements, runs: runs + 1, is_smallest })
    }

    /// Whether a failure came before anything happened: no smaller script says more.
    fn is_not_run(&self, failure: &ScriptFailure) -> bool {
        let span = failure.0.diagnostics.first().map(|first| first.span);
        let first = self.statements().iter().find(|statement| peer(statement).is_some());
        match failure.kind() {
            FailureKind::NotRun => true,
            FailureKind::Connect => first.is_some_and(|first| {
                let is_refused = matches!(first.kind, Kind::Act { action: Action::Refused(_), .. });
                !is_refused && span.is_some_and(|span| is_at(first, (span.file, span.start)))
            }),
            _ => false,
        }
    }
}

fn pairs(search: &mut Search<'_>, mut statements: Vec<Statement>) -> Vec<Statement> {
    if statements.len() > MAX_PAIRS {
        return statements;
    }
    let mut first = 0;
    while first < statements.len() {
        let fewer = (first + 1..statements.len()).find_map(|second| {
            let mut fewer = statements.clone();
            fewer.remove(second);
            fewer.remove(first);
            search.fails(&fewer).then_some(fewer)
        });
        match fewer {
            Some(fewer) => statements = fewer,
            None => first += 1,
        }
    }
    statements
}
