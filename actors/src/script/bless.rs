//! Blesses a script: writes what came into it where something else was expected.
//!
//! Only the lines that differ change: patterns, variables, comments and columns of all others stay. The new text is run again
//! before anybody gets it. Not here: what came (`amend`), how it is spelled (`spell`).

use std::{collections::BTreeMap, ops::Range};

use crate::script::{
    ast::{Expectation, Kind, Matcher, Span, Statement},
    manner::Manner,
    notes::Note,
    report::{ScriptError, ScriptFailure},
    spell::Came,
    target::Target,
    text::{Script, ScriptOptions},
};

/// Runs that note something, until the text holds. Most need one; more where a late line shows only behind another.
const MAX_RUNS: usize = 4;

/// A script that expects what came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Blessed {
    /// The new text, which holds; the old one where nothing else came.
    pub text: String,
    /// The old text.
    pub before: String,
    /// True if the two differ.
    pub is_changed: bool,
}

/// The reason why a script was not blessed. Nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlessError {
    /// The script cannot be mended by what came: the failure says where, and why.
    #[error("{0}")]
    Refused(ScriptFailure),
    /// The answers differ from run to run: with those of one run the script does not hold in the next.
    #[error("what comes differs from run to run: write a pattern, as `< /.*/`, or a variable\n\n{0}")]
    Unstable(ScriptFailure),
    /// Something that the script needs is not there: the reason.
    #[error("the script was skipped: {0}")]
    Skipped(String),
    /// The text with what came in it is no script: a fault of this library, which is worth a report.
    #[error("what came makes no script, which is a fault of the library:\n\n{0}")]
    NoScript(ScriptError),
}

impl BlessError {
    /// Returns its text with the colours of a terminal.
    #[must_use]
    pub fn to_coloured_string(&self) -> String {
        match self {
            Self::Refused(failure) => failure.to_coloured_string(),
            Self::Unstable(failure) => self.to_string().replace(&failure.to_string(), &failure.to_coloured_string()),
            Self::NoScript(error) => self.to_string().replace(&error.to_string(), &error.to_coloured_string()),
            Self::Skipped(_) => self.to_string(),
        }
    }
}

impl Script {
    /// Writes into the script what came instead of what it expected, and runs it again to be sure that it holds.
    ///
    /// Patterns, beginnings and variables that still hold stay as they are, and so do comments and columns. A line instead of
    /// which nothing came goes; what nothing expected gets a line. Blocks that begin with `one-of` get one more choice.
    ///
    /// Blocks until it is done, as [`run`](Self::run) does.
    ///
    /// # Errors
    /// [`BlessError`], and nothing is changed: where something else differs than what was expected, where a pattern that sets a
    /// variable does not match, where an included file would have to change, where not the same comes in each run.
    pub fn bless(&self, target: &Target, options: &ScriptOptions) -> Result<Blessed, BlessError> {
        let (name, before) = self.source();
        let mut script = self.clone();
        let mut runs = 0;
        loop {
            let failure = match script.run(target, options) {
                Ok(run) => {
                    if let Some(reason) = run.skipped {
                        return Err(BlessError::Skipped(reason));
                    }
                    let text = script.source().1.to_owned();
                    let before = before.to_owned();
                    return Ok(Blessed { is_changed: text != before, text, before });
                }
                Err(failure) => failure,
            };
            if runs == MAX_RUNS {
                return Err(BlessError::Unstable(failure));
            }
            let text = script.amended(target, options).map_err(BlessError::Refused)?;
            if text == script.source().1 {
                return Err(BlessError::Unstable(failure));
            }
            script = Self::parse(name, text).map_err(BlessError::NoScript)?;
            runs += 1;
        }
    }

    /// The text with what comes in one run.
    fn amended(&self, target: &Target, options: &ScriptOptions) -> Result<String, ScriptFailure> {
        self.check(options).map_err(|ScriptError(report)| ScriptFailure(report))?;
        let manner = Manner { cuts: options.cuts(), amends: true, ..Manner::default() };
        let ran = self.on_a_thread(|| self.run_once(target, options, self.statements(), manner))?;
        let amending = ran?.1.amending;
        let notes = amending.statements().map_err(|diagnostic| self.failure(*diagnostic))?;
        let mut editor = Editor::new(self.source().1, self.statements());
        for (span, notes) in notes {
            editor.notes(span, notes);
        }
        editor.end(&amending.end);
        Ok(editor.text())
    }
}

/// Lines of a script, and what becomes of them.
struct Editor<'a> {
    text: &'a str,
    statements: &'a [Statement],
    /// Where the first line of each statement of any block begins.
    known: BTreeMap<usize, &'a Statement>,
    /// Edits, by where they begin.
    edits: Vec<(Range<usize>, String)>,
    /// Where lines begin that go.
    gone: Vec<usize>,
    /// Where statements begin that get more.
    kept: Vec<usize>,
}

fn walk<'a>(statements: &'a [Statement], visit: &mut impl FnMut(&'a Statement)) {
    for statement in statements {
        visit(statement);
        if let Kind::Repeat { body, .. } = &statement.kind {
            walk(body, visit);
        }
    }
}

fn expectations(statement: &Statement) -> &[Expectation] {
    match &statement.kind {
        Kind::Expect(one) | Kind::Optional(one) => std::slice::from_ref(one),
        Kind::OneOf(all) | Kind::Unordered(all) => all,
        _ => &[],
    }
}

/// The place of the text behind the operator and its blanks. `None` for an end, which has no text.
fn place(matcher: &Matcher) -> Option<Range<usize>> {
    let span = match matcher {
        Matcher::Line(text) | Matcher::Prefix(text) | Matcher::Bytes(text) => text.span,
        Matcher::Pattern(pattern) => pattern.span,
        _ => return None,
    };
    Some(span.start..span.end)
}

impl<'a> Editor<'a> {
    fn new(text: &'a str, statements: &'a [Statement]) -> Self {
        let mut known = BTreeMap::new();
        walk(statements, &mut |statement| {
            known.insert(statement.span.start, statement);
        });
        Self { text, statements, known, edits: Vec::new(), gone: Vec::new(), kept: Vec::new() }
    }

    /// The line of a place, without what ends it.
    fn line(&self, at: usize) -> Range<usize> {
        let start = self.text[..at].rfind('\n').map_or(0, |end| end + 1);
        let end = self.text[at..].find('\n').map_or(self.text.len(), |end| at + end);
        let end = if self.text[start..end].ends_with('\r') { end - 1 } else { end };
        start..end
    }

    /// Where the next line begins, or the text ends.
    fn next_line(&self, at: usize) -> usize {
        self.text[at..].find('\n').map_or(self.text.len(), |end| at + end + 1)
    }

    /// The last line of a statement and its block.
    fn last(statement: &Statement) -> usize {
        let own = statement.span.start;
        match &statement.kind {
            Kind::Repeat { body, .. } => body.last().map_or(own, Self::last),
            _ => expectations(statement).last().map_or(own, |last| last.span.start).max(own),
        }
    }

    fn indent(&self, at: usize) -> &'a str {
        let line = self.line(at);
        let text = &self.text[line];
        &text[..text.len() - text.trim_start_matches(' ').len()]
    }

    /// A line of its own that expects what came, spelled as the peer's line that is nearest.
    fn whole(&self, near: usize, peer: &str, came: &Came) -> String {
        let Some(text) = came.spelled(true) else {
            return format!("{peer}: {}", if matches!(came, Came::Eof) { "eof" } else { "reset by peer" });
        };
        let mut nearest: Option<(usize, &str)> = None;
        for statement in self.known.values() {
            for expectation in expectations(statement).iter().filter(|expectation| expectation.peer == peer) {
                let distance = near.abs_diff(expectation.span.start);
                let blanks = place(&expectation.matcher).filter(|place| !place.is_empty()).map(|place| {
                    let line = &self.text[self.line(place.start).start..place.start];
                    &line[line.trim_end_matches(' ').len()..]
                });
                if let Some(blanks) = blanks.filter(|_| nearest.is_none_or(|(least, _)| distance < least)) {
                    nearest = Some((distance, blanks));
                }
            }
        }
        let blanks = nearest.map_or(" ", |(_, blanks)| if blanks.is_empty() { " " } else { blanks });
        if text.is_empty() { format!("{peer}<") } else { format!("{peer}<{blanks}{text}") }
    }

    /// A line more, where a line begins.
    fn insert(&mut self, at: usize, indent: &str, line: &str) {
        let is_cr = self.text.contains("\r\n");
        let newline = if is_cr { "\r\n" } else { "\n" };
        // The last line may have no end.
        let front = if at > 0 && !self.text[..at].ends_with('\n') { newline } else { "" };
        self.edits.push((at..at, format!("{front}{indent}{line}{newline}")));
    }

    fn notes(&mut self, span: Span, notes: &[Note]) {
        let Some(statement) = self.known.get(&span.start).copied() else { return };
        for note in notes {
            let near = span.start;
            match note {
                Note::Before(peer, came) => {
                    let line = self.whole(near, peer, came);
                    self.insert(self.line(near).start, self.indent(near), &line);
                }
                Note::Behind(peer, came) => {
                    let line = self.whole(near, peer, came);
                    self.insert(self.next_line(Self::last(statement)), self.indent(near), &line);
                }
                Note::Within(peer, came) => {
                    let Some(last) = expectations(statement).last() else { continue };
                    let line = self.whole(last.span.start, peer, came);
                    self.insert(self.next_line(last.span.start), self.indent(last.span.start), &line);
                    self.kept.push(near);
                }
                Note::Instead(at, came) => {
                    if let Some(old) = expectations(statement).iter().find(|old| old.span.start == *at) {
                        self.replace(old, came);
                    }
                }
                Note::Nothing(at) => self.gone.push(self.line(*at).start),
            }
            if matches!(note, Note::Before(..) | Note::Behind(..)) {
                // A block that gets a line in front of its first is no empty one.
                self.kept.push(self.line(near).start);
            }
        }
    }

    fn replace(&mut self, old: &Expectation, came: &Came) {
        let line = self.line(old.span.start);
        let indent = self.indent(old.span.start);
        let Some(place) = place(&old.matcher).filter(|_| came.spelled(true).is_some()) else {
            let whole = self.whole(old.span.start, &old.peer, came);
            self.edits.push((line.start + indent.len()..line.end, whole));
            return;
        };
        let operator = line.start + indent.len() + old.peer.len() + 1;
        // A comment stands behind quotes and patterns only: a text would swallow it.
        let is_last = self.text[place.end..line.end].trim_end_matches(' ').is_empty();
        let text = came.spelled(is_last).unwrap_or_default();
        if text.is_empty() {
            self.edits.push((operator..line.end, String::new()));
            return;
        }
        let between = &self.text[operator..place.start];
        let blanks = match between.trim_start_matches('^') {
            "" => " ",
            blanks => blanks,
        };
        self.edits.push((operator..place.end, format!("{blanks}{text}")));
    }

    /// Lines behind all others but comments.
    fn end(&mut self, notes: &[Note]) {
        let Some(last) = self.statements.last() else { return };
        for note in notes {
            let (Note::Before(peer, came) | Note::Behind(peer, came)) = note else { continue };
            let line = self.whole(self.text.len(), peer, came);
            self.insert(self.next_line(Self::last(last)), "", &line);
        }
    }

    /// True if nothing of a statement is left.
    fn is_gone(&self, statement: &Statement) -> bool {
        let at = statement.span.start;
        match &statement.kind {
            Kind::Repeat { body, .. } => {
                let is_kept = |statement: &Statement| self.kept.contains(&self.line(statement.span.start).start);
                body.iter().all(|statement| self.is_gone(statement)) && !body.iter().any(is_kept)
            }
            Kind::OneOf(all) | Kind::Unordered(all) => {
                !self.kept.contains(&at) && all.iter().all(|one| self.gone.contains(&self.line(one.span.start).start))
            }
            _ => self.gone.contains(&self.line(at).start),
        }
    }

    fn text(mut self) -> String {
        let known: Vec<_> = self.known.values().copied().collect();
        for statement in known {
            if self.is_gone(statement) {
                self.gone.push(self.line(statement.span.start).start);
            }
        }
        self.gone.sort_unstable();
        self.gone.dedup();
        for start in std::mem::take(&mut self.gone) {
            self.edits.push((start..self.next_line(start), String::new()));
        }
        // Those at one place in the order in which they were made: lines that come, before the line itself.
        self.edits.sort_by_key(|(range, _)| (range.start, range.end));
        let mut text = String::new();
        let mut at = 0;
        for (range, new) in &self.edits {
            if range.start >= at {
                text.push_str(&self.text[at..range.start]);
                at = range.end;
            }
            text.push_str(new);
        }
        text.push_str(&self.text[at.min(self.text.len())..]);
        text
    }
}
