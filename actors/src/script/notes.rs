//! Notes on what a script should have said, made while it runs.
//!
//! Not here: when something is noted (`amend`), what becomes of it (`bless`).

use std::collections::BTreeMap;

use crate::script::{
    ast::Span,
    kind::FailureKind,
    report::{Diagnostic, Held},
    spell::Came,
};

/// Tries of one statement, each behind what came before it: a silence may be broken again and again.
const MAX_AGAIN: usize = 10;
/// Acts of peers that are remembered, to find where something that came early belongs.
const MAX_MARKS: usize = 100;

/// What a statement should have said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Note {
    /// A line of its own before it: the peer, and what came.
    Before(String, Came),
    /// Behind it.
    Behind(String, Came),
    /// In its block, at the end.
    Within(String, Came),
    /// Instead of the expectation that begins there.
    Instead(usize, Came),
    /// The expectation that begins there goes.
    Nothing(usize),
}

impl Note {
    pub(crate) fn behind(self) -> Self {
        match self {
            Self::Before(peer, came) => Self::Behind(peer, came),
            note => note,
        }
    }
}

/// How far a peer was when somebody acted.
#[derive(Debug)]
pub(crate) struct Mark {
    pub(crate) span: Span,
    /// Of each peer: the cursor, and how much it had received.
    pub(crate) peers: Vec<(usize, usize)>,
}

/// A statement, and the notes of each time that it was come to.
pub(crate) type Noted = (Span, Vec<Vec<Note>>);

/// The notes of a run, and where each peer was meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Amending {
    /// By file, and where a statement begins.
    notes: BTreeMap<(usize, usize), Noted>,
    /// Notes on the end of the script.
    pub(crate) end: Vec<Note>,
    /// The acts of peers in the block at hand.
    pub(crate) marks: Vec<Mark>,
    /// Where each peer was when the statement began.
    pub(crate) began: Vec<usize>,
    /// The statement by which each peer took something last.
    pub(crate) took: Vec<Option<Span>>,
    /// Blocks around the statement.
    pub(crate) depth: usize,
    /// On the statement that is still to hold: where it begins, the notes, and how often it was come to.
    pub(crate) again: (usize, Vec<Note>, usize),
    /// Lines in a row that did not come in time.
    pub(crate) late: usize,
    /// True once a peer received something, or an end.
    pub(crate) heard: bool,
    /// Notes so far.
    pub(crate) count: usize,
}

impl Amending {
    pub(crate) fn execution(&mut self, span: Span) -> &mut Vec<Vec<Note>> {
        &mut self.notes.entry((span.file, span.start)).or_insert_with(|| (span, Vec::new())).1
    }

    /// Books a run of a statement, with its notes and those from before it.
    pub(crate) fn went(&mut self, span: Span, notes: Vec<Note>) {
        self.count += notes.len();
        let (_, mut all, _) = std::mem::take(&mut self.again);
        all.extend(notes);
        self.execution(span).push(all);
    }

    /// Somebody acts.
    pub(crate) fn mark(&mut self, mark: Mark) {
        self.marks.push(mark);
        if self.marks.len() > MAX_MARKS {
            self.marks.remove(0);
        }
    }

    /// The statement took something.
    pub(crate) fn takes(&mut self, at: usize, span: Span) {
        if self.took.len() <= at {
            self.took.resize(at + 1, None);
        }
        self.took[at] = Some(span);
    }

    /// Where something belongs that a peer had received at `had`, while it was at `cursor`: behind the line that it took
    /// last, or behind who acted since. True if it belongs behind the statement, and not before it.
    pub(crate) fn earlier(&self, at: usize, cursor: usize, had: usize) -> Option<(Span, bool)> {
        let mut before = self.took.get(at).copied().flatten();
        for mark in &self.marks {
            let (was, had_then) = mark.peers.get(at).copied().unwrap_or_default();
            if was == cursor && had_then >= had {
                return Some(before.map_or((mark.span, false), |span| (span, true)));
            }
            if was == cursor {
                before = Some(mark.span);
            }
        }
        None
    }

    /// Adds a note to the last time of a statement.
    pub(crate) fn add(&mut self, span: Span, note: Note) {
        self.count += 1;
        if let Some(last) = self.execution(span).last_mut() {
            last.push(note);
        }
    }

    /// Notes something before a statement that is run once more. False if that was done often enough.
    pub(crate) fn again(&mut self, span: Span, notes: Vec<Note>) -> bool {
        let (start, all, times) = &mut self.again;
        if *start != span.start {
            (*times, *start) = (0, span.start);
        }
        *times += 1;
        self.count += notes.len();
        all.extend(notes);
        *times <= MAX_AGAIN
    }

    /// The notes on each statement of the script itself, in its order.
    pub(crate) fn statements(&self) -> Held<Vec<(Span, &[Note])>> {
        let mut all = Vec::new();
        for (span, executions) in self.notes.values() {
            let Some((first, others)) = executions.split_first() else { continue };
            if executions.iter().all(Vec::is_empty) {
                continue;
            }
            let refusal = |title: &str, help: &str| {
                Err(Box::new(Diagnostic::new(title, *span, "cannot be blessed").help(help).kind(FailureKind::Differs)))
            };
            if span.file != 0 {
                let help = "bless it by hand: other scripts may include it as well";
                return refusal("something else came than what an included file expects", help);
            }
            if !self.heard && first.iter().any(|note| matches!(note, Note::Nothing(_))) {
                return refusal("nothing came", "does the service answer at all?");
            }
            if others.iter().any(|other| other != first) {
                let help = "write a pattern that holds for all of them, or the rounds one by one";
                return refusal("not the same came in each round", help);
            }
            all.push((*span, first.as_slice()));
        }
        Ok(all)
    }
}
