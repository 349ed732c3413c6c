//! The search for scripts that fail in the same manner as another: what the same manner is, and how far the search goes.
//!
//! Not here: which scripts are tried (`shrink`, `shorten`).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::script::{
    ast::Statement,
    fuzz::Fuzz,
    kind::FailureKind,
    report::ScriptFailure,
    target::Target,
    text::{Script, ScriptOptions},
};

/// The settings of a search for a smaller script: how far it goes, and what it runs.
#[derive(Clone, Debug)]
#[must_use]
pub struct Shrink {
    max_runs: usize,
    pub(crate) max_time: Option<Duration>,
    pub(crate) tries: u32,
    pub(crate) fuzz: Option<Fuzz>,
}

impl Default for Shrink {
    fn default() -> Self {
        Self { max_runs: 2000, max_time: Some(Duration::from_secs(60)), tries: 1, fuzz: None }
    }
}

impl Shrink {
    /// Sets how often scripts are run at most. Default: 2000.
    pub fn max_runs(mut self, runs: usize) -> Self {
        self.max_runs = runs;
        self
    }

    /// Sets the time after which no further run begins; `None` is no bound. Default: 60 s.
    pub fn max_time(mut self, time: Option<Duration>) -> Self {
        self.max_time = time;
        self
    }

    /// Sets how often a script has to hold until it counts as one that holds: more than once for failures that come by chance.
    /// Default: 1; 0 counts as 1.
    pub fn tries(mut self, tries: u32) -> Self {
        self.tries = tries.max(1);
        self
    }

    /// Shrinks a script that holds as it is, and fails when it is fuzzed so. Default: none, the script itself fails.
    pub fn fuzz(mut self, fuzz: Fuzz) -> Self {
        self.fuzz = Some(fuzz);
        self
    }
}

/// The signature of a failure. Scripts whose failures have the same one are taken to have the same fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) kind: FailureKind,
    title: String,
    /// The statement, by its file and where it begins. `None` where all of the script is meant.
    pub(crate) place: Option<(usize, usize)>,
    /// What was expected and what came, without what both begin and end with.
    differs: (Vec<u8>, Vec<u8>),
    /// Only when it is fuzzed.
    is_fuzzed: bool,
}

fn without_terminator(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

impl Signature {
    pub(crate) fn of(failure: &ScriptFailure, is_fuzzed: bool) -> Self {
        let first = failure.0.diagnostics.first();
        let title = first.map(|first| first.title.clone()).unwrap_or_default();
        let differs = failure.mismatch().map(|mismatch| {
            let (expected, came) = match &mismatch.expected {
                Some(expected) if expected.ends_with(b"\n") => (expected.as_slice(), mismatch.received.as_slice()),
                Some(expected) => (expected.as_slice(), without_terminator(&mismatch.received)),
                None => (&b""[..], mismatch.received.as_slice()),
            };
            let front = expected.iter().zip(came).take_while(|(a, b)| a == b).count();
            let (expected, came) = (&expected[front..], &came[front..]);
            let back = expected.iter().rev().zip(came.iter().rev()).take_while(|(a, b)| a == b).count();
            (expected[..expected.len() - back].to_vec(), came[..came.len() - back].to_vec())
        });
        // The last statement of a peer is another when that one is left out.
        let is_at_end = title.starts_with("the script ends");
        let place = first.filter(|_| !is_at_end).map(|first| (first.span.file, first.span.start));
        Self { kind: failure.kind(), title, place, differs: differs.unwrap_or_default(), is_fuzzed }
    }

    /// Whether it is the same one, in a text where places are others.
    pub(crate) fn is_elsewhere(&self, other: &Self) -> bool {
        Self { place: None, ..self.clone() } == Self { place: None, ..other.clone() }
    }
}

/// Runs candidates, within the bounds of the search.
pub(crate) struct Search<'a> {
    pub(crate) script: &'a Script,
    pub(crate) target: &'a Target,
    pub(crate) options: ScriptOptions,
    pub(crate) how: &'a Shrink,
    pub(crate) signature: Signature,
    pub(crate) runs: usize,
    pub(crate) end: Option<Instant>,
    /// The candidates that were tried, by their text: whether each failed in the same manner.
    pub(crate) tried: BTreeMap<String, bool>,
}

impl Search<'_> {
    pub(crate) fn is_over(&self) -> bool {
        self.runs >= self.how.max_runs || self.end.is_some_and(|end| Instant::now() >= end)
    }

    /// True if these statements fail in the same manner.
    pub(crate) fn fails(&mut self, statements: &[Statement]) -> bool {
        let candidate = self.script.with_statements(statements.to_vec());
        let text = candidate.to_string();
        if let Some(known) = self.tried.get(&text) {
            return *known;
        }
        if candidate.check(&self.options).is_err() {
            return false;
        }
        let mut fails = false;
        for _ in 0..self.how.tries {
            if self.is_over() {
                return false;
            }
            self.runs += 1;
            let failed = fail(&candidate, self.target, &self.options, self.how.fuzz.as_ref());
            fails = failed.is_ok_and(|failed| {
                failed.is_some_and(|(failure, is_fuzzed)| Signature::of(&failure, is_fuzzed) == self.signature)
            });
            if fails {
                break;
            }
        }
        self.tried.insert(text, fails);
        fails
    }
}

/// How a script fails, and whether it does so only when it is fuzzed. `Err` if it is skipped.
pub(crate) fn fail(
    script: &Script,
    target: &Target,
    options: &ScriptOptions,
    fuzz: Option<&Fuzz>,
) -> Result<Option<(ScriptFailure, bool)>, String> {
    match fuzz {
        None => match script.run(target, options) {
            Ok(run) => run.skipped.map_or(Ok(None), Err),
            Err(failure) => Ok(Some((failure, false))),
        },
        Some(fuzz) => match script.fuzz(target, options, fuzz) {
            Ok(report) => report.skipped.map_or(Ok(None), Err),
            Err(failure) => Ok(Some((failure.failure().clone(), failure.case().is_some()))),
        },
    }
}

/// Leaves out what can be left out of a list: halves, quarters, and so on to single ones, from the end.
pub(crate) fn leave_out<T: Clone>(mut items: Vec<T>, mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut size = items.len().next_power_of_two();
    loop {
        let mut end = items.len();
        let mut left_out = false;
        while end > 0 {
            let start = end.saturating_sub(size);
            let fewer = [&items[..start], &items[end..]].concat();
            if fails(&fewer) {
                items = fewer;
                left_out = true;
            }
            end = start;
        }
        // Single ones until none can be left out.
        if size > 1 {
            size /= 2;
        } else if !left_out {
            return items;
        }
    }
}
