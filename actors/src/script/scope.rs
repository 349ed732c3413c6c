//! Variables: which are used before anything has set them, found without running the script.
//!
//! Not here: what they hold (`run`).

use std::collections::BTreeSet;

use crate::script::{
    ast::{Data, Expectation, Kind, Matcher, Part, Span, Statement, Text},
    literal::pattern_variables,
    report::Diagnostic,
};

/// The variables that are set at one point of a script.
pub(crate) struct Scope {
    pub(crate) bound: BTreeSet<String>,
    pub(crate) errors: Vec<Diagnostic>,
}

pub(crate) fn unset(name: &str, span: Span) -> Diagnostic {
    let help = format!(
        "set it by `let {name} = …`, from outside (`--var {name}=…`), or by a pattern above with `(?<{name}>…)`; a dollar sign is `$$`"
    );
    Diagnostic::new(format!("nothing has set `${name}`"), span, "used here").help(help)
}

impl Scope {
    fn uses(&mut self, name: &str, span: Span) {
        if !self.bound.contains(name) {
            self.errors.push(unset(name, span));
        }
    }

    fn text(&mut self, text: &Text) {
        for part in &text.parts {
            if let Part::Variable(name) = part {
                self.uses(name, text.span);
            }
        }
    }

    fn expectations(&mut self, all: &[Expectation]) {
        for expectation in all {
            match &expectation.matcher {
                Matcher::Line(text) | Matcher::Prefix(text) | Matcher::Bytes(text) => self.text(text),
                Matcher::Pattern(pattern) => {
                    for (name, _, _) in pattern_variables(&pattern.source) {
                        self.uses(name, pattern.span);
                    }
                }
                Matcher::Eof | Matcher::Reset => {}
            }
        }
        // What a block captures is set behind it.
        for expectation in all {
            if let Matcher::Pattern(pattern) = &expectation.matcher {
                self.bound.extend(pattern.captures.iter().cloned());
            }
        }
    }

    pub(crate) fn statements(&mut self, statements: &[Statement]) {
        for statement in statements {
            match &statement.kind {
                Kind::Send { data: Data::Line(text) | Data::Bytes(text), .. } => self.text(text),
                Kind::Expect(one) | Kind::Optional(one) => self.expectations(std::slice::from_ref(one)),
                Kind::OneOf(all) | Kind::Unordered(all) => self.expectations(all),
                Kind::Repeat { count, body } => {
                    self.text(count);
                    self.statements(body);
                }
                Kind::Include { body, .. } => self.statements(body),
                Kind::Let { name, value } => {
                    self.text(value);
                    self.bound.insert(name.clone());
                }
                Kind::Send { data: Data::Hex(_), .. }
                | Kind::Act { .. }
                | Kind::After(_)
                | Kind::Newline(_)
                | Kind::Timeout(_) => {}
            }
        }
    }
}
