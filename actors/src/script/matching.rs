//! What has to come, held against what came: a pure function of the bytes behind the cursor.
//!
//! Not here: whose bytes they are, and what waits for them (`run`).

use std::collections::BTreeMap;

use crate::{
    script::{
        ast::{Expectation, Matcher, Part, Pattern, Span, Text},
        literal::{pattern_variables, regex},
        report::Diagnostic,
        scope::unset,
    },
    shown::Shown,
};

/// How the bytes of the service ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    Eof,
    Reset,
    Failed(String),
}

pub(crate) type Variables = BTreeMap<String, Vec<u8>>;

/// A matcher whose variables are replaced by what they hold.
pub(crate) enum Wanted {
    Line(Vec<u8>),
    Prefix(Vec<u8>),
    Bytes(Vec<u8>),
    Pattern(regex::bytes::Regex),
    Eof,
    Reset,
}

/// An expectation that waits to be met.
pub(crate) struct Pending {
    /// Its place among the peers.
    pub(crate) peer: usize,
    pub(crate) wanted: Wanted,
    pub(crate) span: Span,
}

pub(crate) enum Attempt {
    /// So many bytes are it, and what it captured.
    Match(usize, Variables),
    /// It depends on what comes next.
    Wait,
    Differs,
}

pub(crate) fn resolve(text: &Text, variables: &Variables) -> Result<Vec<u8>, Diagnostic> {
    let mut bytes = Vec::new();
    for part in &text.parts {
        match part {
            Part::Bytes(part) => bytes.extend_from_slice(part),
            Part::Variable(name) => {
                bytes.extend_from_slice(variables.get(name).ok_or_else(|| unset(name, text.span))?);
            }
        }
    }
    Ok(bytes)
}

/// A regular expression that matches exactly these bytes, within any other.
fn escaped(bytes: &[u8]) -> String {
    let escape = |byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b' ' => char::from(*byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    format!("(?:(?-iu:{}))", bytes.iter().map(escape).collect::<String>())
}

impl Wanted {
    pub(crate) fn new(expectation: &Expectation, variables: &Variables) -> Result<Self, Diagnostic> {
        Ok(match &expectation.matcher {
            Matcher::Line(text) => Self::Line(resolve(text, variables)?),
            Matcher::Prefix(text) => Self::Prefix(resolve(text, variables)?),
            Matcher::Bytes(text) => Self::Bytes(resolve(text, variables)?),
            Matcher::Pattern(pattern) => Self::pattern(pattern, variables)?,
            Matcher::Eof => Self::Eof,
            Matcher::Reset => Self::Reset,
        })
    }

    pub(crate) fn pattern(pattern: &Pattern, variables: &Variables) -> Result<Self, Diagnostic> {
        let mut source = pattern.source.clone();
        for (name, from, to) in pattern_variables(&pattern.source).into_iter().rev() {
            let bytes = variables.get(name).ok_or_else(|| unset(name, pattern.span))?;
            source.replace_range(from..to, &escaped(bytes));
        }
        let compiled = regex(&source);
        compiled
            .map(Self::Pattern)
            .map_err(|error| Diagnostic::new("the pattern is too large", pattern.span, error.to_string()))
    }

    /// What it is, for a sentence.
    pub(crate) fn noun(&self) -> &'static str {
        match self {
            Self::Line(_) | Self::Prefix(_) | Self::Pattern(_) => "a line",
            Self::Bytes(_) => "bytes",
            Self::Eof => "EOF",
            Self::Reset => "a reset",
        }
    }

    /// What it wants, as reports show it.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Line(line) => Shown(line).to_string(),
            Self::Prefix(prefix) => Shown(prefix).to_string(),
            Self::Bytes(bytes) => Shown(bytes).to_string(),
            Self::Pattern(pattern) => format!("/{pattern}/"),
            Self::Eof => "EOF".to_owned(),
            Self::Reset => "a reset".to_owned(),
        }
    }

    /// What it wants, for a program. `None` for an end.
    pub(crate) fn expected(&self) -> Option<Vec<u8>> {
        match self {
            Self::Line(bytes) | Self::Prefix(bytes) | Self::Bytes(bytes) => Some(bytes.clone()),
            Self::Pattern(pattern) => Some(pattern.as_str().as_bytes().to_vec()),
            Self::Eof | Self::Reset => None,
        }
    }

    pub(crate) fn attempt(&self, rest: &[u8], end: Option<&End>) -> Attempt {
        match self {
            Self::Bytes(bytes) => {
                if rest.starts_with(bytes) {
                    Attempt::Match(bytes.len(), Variables::new())
                } else if bytes.starts_with(rest) && end.is_none() {
                    Attempt::Wait
                } else {
                    Attempt::Differs
                }
            }
            Self::Eof | Self::Reset => match end {
                _ if !rest.is_empty() => Attempt::Differs,
                None => Attempt::Wait,
                Some(End::Eof) if matches!(self, Self::Eof) => Attempt::Match(0, Variables::new()),
                Some(End::Reset) if matches!(self, Self::Reset) => Attempt::Match(0, Variables::new()),
                Some(_) => Attempt::Differs,
            },
            Self::Line(_) | Self::Prefix(_) | Self::Pattern(_) => {
                let Some((line, len)) = next_line(rest) else {
                    return if end.is_some() { Attempt::Differs } else { Attempt::Wait };
                };
                self.line(line).map_or(Attempt::Differs, |captures| Attempt::Match(len, captures))
            }
        }
    }

    /// What it captures in a line, if that is it.
    pub(crate) fn line(&self, line: &[u8]) -> Option<Variables> {
        match self {
            Self::Line(wanted) => (wanted == line).then(Variables::new),
            Self::Prefix(prefix) => line.starts_with(prefix).then(Variables::new),
            Self::Pattern(pattern) => {
                let captures = pattern.captures(line)?;
                // A group that took no part captured nothing.
                let capture = |name: &str| captures.name(name).map_or(Vec::new(), |found| found.as_bytes().to_vec());
                Some(pattern.capture_names().flatten().map(|name| (name.to_owned(), capture(name))).collect())
            }
            Self::Bytes(_) | Self::Eof | Self::Reset => None,
        }
    }
}

/// The next line without its terminator, and its length with it.
pub(crate) fn next_line(rest: &[u8]) -> Option<(&[u8], usize)> {
    let end = memchr::memchr(b'\n', rest)?;
    let line = &rest[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}
