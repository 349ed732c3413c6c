//! Reports: what is wrong in a script, or with what came, in the manner of a compiler.
//!
//! Not here: what is an error (`parse`), what is a failure (`run`).

use std::{error::Error, fmt, ops::Range, sync::Arc};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::{
    script::{
        ast::Span,
        kind::{FailureKind, Mismatch},
    },
    shown::Shown,
};

/// A file, or what was given instead of one.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub(crate) struct Diagnostic {
    pub(crate) title: String,
    pub(crate) span: Span,
    /// Stands beside the place.
    pub(crate) label: Box<str>,
    pub(crate) notes: Vec<String>,
    pub(crate) help: Option<Box<str>>,
    /// What a program may ask. Boxed: errors of scripts have none.
    pub(crate) failure: Option<Box<(FailureKind, Option<Mismatch>)>>,
}

/// The outcome of a statement that holds, or says why not. Boxed: failures are rare, and large.
pub(crate) type Held<T> = Result<T, Box<Diagnostic>>;

impl Diagnostic {
    pub(crate) fn new(title: impl Into<String>, span: Span, label: impl Into<Box<str>>) -> Self {
        Self { title: title.into(), span, label: label.into(), notes: Vec::new(), help: None, failure: None }
    }

    pub(crate) fn kind(mut self, kind: FailureKind) -> Self {
        self.failure.get_or_insert_default().0 = kind;
        self
    }

    pub(crate) fn mismatch(mut self, mismatch: Mismatch) -> Self {
        self.failure.get_or_insert_default().1 = Some(mismatch);
        self
    }

    pub(crate) fn help(mut self, help: impl Into<Box<str>>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    fn render(&self, sources: &[Source], renderer: &Renderer) -> String {
        let mut group = Group::with_title(Level::ERROR.primary_title(&self.title));
        if let Some(source) = sources.get(self.span.file) {
            let range = place(&source.text, self.span);
            let annotation = AnnotationKind::Primary.span(range).label(&*self.label);
            group = group.element(Snippet::source(&source.text).path(&source.name).annotation(annotation));
        }
        for note in &self.notes {
            group = group.element(Level::NOTE.message(note));
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(&**help));
        }
        renderer.render(&[group])
    }
}

/// The bytes that are marked: on whole characters, and in the text whatever the span says.
fn place(text: &str, span: Span) -> Range<usize> {
    let mut start = span.start.min(text.len());
    let mut end = span.end.clamp(start, text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    while !text.is_char_boundary(end) {
        end += 1;
    }
    start..end
}

/// Most of what a report shows of what came: a peer that sends megabytes fails a script in one screen. Unit: bytes, or
/// characters where they are escaped already.
const SHOWN: usize = 200;

/// The first of some bytes, as many as a report shows.
pub(crate) fn excerpt(bytes: &[u8]) -> Shown<'_> {
    Shown(&bytes[..bytes.len().min(SHOWN)])
}

/// Expected and received, one above the other, with a mark where they part.
pub(crate) fn side_by_side(expected: &str, received: &[u8]) -> String {
    let received = Shown(received).to_string();
    let common = expected.chars().zip(received.chars()).take_while(|(a, b)| a == b).count();
    // What is the same in both may be long as well: begin shortly before they part.
    let skip = if common > SHOWN / 2 { common - SHOWN / 4 } else { 0 };
    let cut = |text: &str| {
        let mut shown: String = text.chars().skip(skip).take(SHOWN).collect();
        if skip > 0 {
            shown.insert_str(0, "...");
        }
        if text.chars().count() > skip + SHOWN {
            shown.push_str("...");
        }
        shown
    };
    let before = common - skip + if skip > 0 { 3 } else { 0 };
    format!("expected: {}\nreceived: {}\n          {}^ differs", cut(expected), cut(&received), " ".repeat(before))
}

/// A script that is none: what is wrong in it, with file, line and column. Its text is all of it.
#[derive(Clone, Debug)]
pub struct ScriptError(pub(crate) Report);

/// A script that does not hold: what was expected, where, and what came instead. Its text is all of it.
#[derive(Clone, Debug)]
pub struct ScriptFailure(pub(crate) Report);

#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) sources: Arc<Vec<Source>>,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

impl Report {
    fn render(&self, renderer: &Renderer) -> String {
        let reports: Vec<_> =
            self.diagnostics.iter().map(|diagnostic| diagnostic.render(&self.sources, renderer)).collect();
        reports.join("\n\n")
    }
}

macro_rules! reports {
    ($($name:ident),*) => {$(
        impl $name {
            /// Returns its text with the colours of a terminal.
            #[must_use]
            pub fn to_coloured_string(&self) -> String {
                self.0.render(&Renderer::styled())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0.render(&Renderer::plain()))
            }
        }

        impl Error for $name {}
    )*};
}

reports!(ScriptError, ScriptFailure);

impl ScriptFailure {
    fn first(&self) -> Option<&Diagnostic> {
        self.0.diagnostics.first()
    }

    pub(crate) fn add_note(&mut self, note: String) {
        if let Some(first) = self.0.diagnostics.first_mut() {
            first.notes.push(note);
        }
    }

    /// Returns in which manner the script does not hold.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        self.first().and_then(|first| first.failure.as_ref()).map_or(FailureKind::default(), |failure| failure.0)
    }

    /// Returns the file and the line, counted from 1, of the statement that does not hold. `None` if it is in none.
    #[must_use]
    pub fn place(&self) -> Option<(&str, usize)> {
        let span = self.first()?.span;
        let source = self.0.sources.get(span.file)?;
        let before = &source.text.as_bytes()[..place(&source.text, span).start];
        Some((&source.name, 1 + before.iter().filter(|byte| **byte == b'\n').count()))
    }

    /// Returns expected and received where they part. `None` where there is nothing to compare.
    #[must_use]
    pub fn mismatch(&self) -> Option<&Mismatch> {
        self.first()?.failure.as_ref()?.1.as_ref()
    }
}
