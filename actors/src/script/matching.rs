//! What has to come, held against what came: a pure function of the bytes behind the cursor.
//!
//! Not here: whose bytes they are, and what waits for them (`run`).

use std::{cell::Cell, collections::BTreeMap};

use crate::{
    script::{
        ast::{Expectation, Matcher, Part, Pattern, Span, Text},
        literal::{pattern_variables, regex},
        report::Diagnostic,
        scope::unset,
    },
    shown::Shown,
};

/// Of one text, with all that is repeated in it. A script that says more means something else. Unit: bytes.
const MAX_REPEATED: usize = 1 << 30;

/// How the bytes of the service ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    Eof,
    Reset,
    /// TCP ended before TLS did: somebody in between may have ended it.
    Truncated,
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
    Truncated,
}

/// An expectation that waits to be met.
pub(crate) struct Pending {
    /// Its place among the peers.
    pub(crate) peer: usize,
    pub(crate) wanted: Wanted,
    /// What comes before it is skipped.
    pub(crate) is_until: bool,
    pub(crate) span: Span,
    looked: Cell<Looked>,
}

/// How far an expectation has looked at what came: nothing is looked at twice, however it comes.
#[derive(Clone, Copy, Default)]
struct Looked {
    /// Where that begins which it looks at: a line, or its bytes.
    at: usize,
    /// Up to here there is no end of the line; or the bytes are those that are wanted.
    to: usize,
}

/// What must not come, until its block ends.
pub(crate) struct Never {
    wanted: Wanted,
    pub(crate) span: Span,
    /// Where that begins which was not looked at.
    at: usize,
}

pub(crate) enum Attempt {
    /// So many bytes are it, and what it captured.
    Match(usize, Variables),
    /// It depends on what comes next.
    Wait,
    Differs,
}

pub(crate) fn resolve(text: &Text, variables: &Variables) -> Result<Vec<u8>, Diagnostic> {
    resolve_parts(&text.parts, text.span, variables)
}

fn resolve_parts(parts: &[Part], span: Span, variables: &Variables) -> Result<Vec<u8>, Diagnostic> {
    let mut bytes = Vec::new();
    for part in parts {
        match part {
            Part::Bytes(part) => bytes.extend_from_slice(part),
            Part::Variable(name) => {
                let value = variables.get(name).ok_or_else(|| unset(name, span))?;
                // Variables that hold others, again and again, soon hold more than any memory.
                if bytes.len() + value.len() > MAX_REPEATED {
                    let title = format!("a text of {} bytes", bytes.len() + value.len());
                    return Err(Diagnostic::new(title, span, "more than 1 GiB in all"));
                }
                bytes.extend_from_slice(value);
            }
            Part::Times { parts, count } => {
                let digits = resolve_parts(std::slice::from_ref(count), span, variables)?;
                let times = std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse::<usize>().ok());
                let once = resolve_parts(parts, span, variables)?;
                let len = times.and_then(|times| once.len().checked_mul(times)).filter(|len| *len <= MAX_REPEATED);
                let (Some(times), Some(_)) = (times, len) else {
                    let title = format!("cannot repeat {} bytes \"{}\" times", once.len(), Shown(&digits));
                    return Err(Diagnostic::new(title, span, "no number, or more than 1 GiB in all"));
                };
                bytes.extend(once.repeat(times));
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
            Matcher::Truncated => Self::Truncated,
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
            Self::Truncated => "a truncation",
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
            Self::Truncated => "a truncation".to_owned(),
        }
    }

    /// What it wants, for a program. `None` for an end.
    pub(crate) fn expected(&self) -> Option<Vec<u8>> {
        match self {
            Self::Line(bytes) | Self::Prefix(bytes) | Self::Bytes(bytes) => Some(bytes.clone()),
            Self::Pattern(pattern) => Some(pattern.as_str().as_bytes().to_vec()),
            Self::Eof | Self::Reset | Self::Truncated => None,
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
            Self::Bytes(_) | Self::Eof | Self::Reset | Self::Truncated => None,
        }
    }
}

/// Work, where a test counts it. Unit: bytes.
fn count(_bytes: usize) {
    #[cfg(test)]
    tests::LOOKED.with(|looked| looked.set(looked.get() + _bytes));
}

/// Where the bytes are first found.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    count(bytes.len());
    memchr::memmem::find(bytes, wanted)
}

fn line_end(bytes: &[u8]) -> Option<usize> {
    let end = memchr::memchr(b'\n', bytes);
    count(end.unwrap_or(bytes.len()));
    end
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

impl Pending {
    pub(crate) fn new(
        peer: usize,
        expectation: &Expectation,
        is_until: bool,
        variables: &Variables,
    ) -> Result<Self, Diagnostic> {
        let wanted = Wanted::new(expectation, variables)?;
        Ok(Self { peer, wanted, is_until, span: expectation.span, looked: Cell::default() })
    }

    /// What it captures in a line, if it wants lines, and this is one.
    pub(crate) fn line(&self, line: &[u8]) -> Option<Variables> {
        self.wanted.line(without_cr(line.strip_suffix(b"\n")?))
    }

    /// True if it wants an end, and no bytes.
    pub(crate) fn is_end(&self) -> bool {
        matches!(self.wanted, Wanted::Eof | Wanted::Reset | Wanted::Truncated)
    }

    /// Holds it against what a peer received, from the cursor on.
    pub(crate) fn attempt(&self, received: &[u8], cursor: usize, end: Option<&End>) -> Attempt {
        let mut looked = self.looked.get();
        if looked.at < cursor {
            let is_bytes = matches!(self.wanted, Wanted::Bytes(_));
            looked = Looked { at: cursor, to: if is_bytes { cursor } else { looked.to.max(cursor) } };
        }
        let attempt = self.attempt_from(&mut looked, received, cursor, end);
        self.looked.set(looked);
        attempt
    }

    fn attempt_from(&self, looked: &mut Looked, received: &[u8], cursor: usize, end: Option<&End>) -> Attempt {
        let waits = if end.is_some() { Attempt::Differs } else { Attempt::Wait };
        match &self.wanted {
            Wanted::Bytes(bytes) if self.is_until => match find(&received[looked.at..], bytes) {
                Some(found) => Attempt::Match(looked.at + found + bytes.len() - cursor, Variables::new()),
                None => {
                    // They may begin in the last ones.
                    looked.at = looked.at.max((received.len() + 1).saturating_sub(bytes.len().max(1)));
                    waits
                }
            },
            Wanted::Bytes(bytes) => {
                let to = received.len().min(looked.at + bytes.len());
                count(to - looked.to);
                if received[looked.to..to] != bytes[looked.to - looked.at..to - looked.at] {
                    return Attempt::Differs;
                }
                looked.to = to;
                if to == looked.at + bytes.len() { Attempt::Match(to - cursor, Variables::new()) } else { waits }
            }
            Wanted::Eof | Wanted::Reset | Wanted::Truncated => match end {
                _ if cursor < received.len() => Attempt::Differs,
                Some(End::Eof) if matches!(self.wanted, Wanted::Eof) => Attempt::Match(0, Variables::new()),
                Some(End::Reset) if matches!(self.wanted, Wanted::Reset) => Attempt::Match(0, Variables::new()),
                Some(End::Truncated) if matches!(self.wanted, Wanted::Truncated) => Attempt::Match(0, Variables::new()),
                _ => waits,
            },
            Wanted::Line(_) | Wanted::Prefix(_) | Wanted::Pattern(_) => loop {
                let Some(len) = line_end(&received[looked.to..]) else {
                    looked.to = received.len();
                    return waits;
                };
                looked.to += len;
                let line = without_cr(&received[looked.at..looked.to]);
                if let Some(captures) = self.wanted.line(line) {
                    return Attempt::Match(looked.to + 1 - cursor, captures);
                }
                if !self.is_until {
                    return Attempt::Differs;
                }
                looked.to += 1;
                looked.at = looked.to;
            },
        }
    }
}

impl Never {
    pub(crate) fn new(at: usize, expectation: &Expectation, variables: &Variables) -> Result<Self, Diagnostic> {
        Ok(Self { wanted: Wanted::new(expectation, variables)?, span: expectation.span, at })
    }

    /// What came until here was of another connection.
    pub(crate) fn begin(&mut self, here: usize) {
        self.at = here;
    }

    /// Finds it in what was taken, up to the cursor; half a line is one at the end only.
    pub(crate) fn find<'r>(&mut self, received: &'r [u8], cursor: usize, is_end: bool) -> Option<&'r [u8]> {
        if let Wanted::Bytes(bytes) = &self.wanted {
            let found = find(&received[self.at..cursor], bytes).map(|found| self.at + found);
            self.at = self.at.max((cursor + 1).saturating_sub(bytes.len().max(1)));
            return found.map(|found| &received[found..found + bytes.len()]);
        }
        while let Some(len) = line_end(&received[self.at..cursor]) {
            let line = &received[self.at..=self.at + len];
            self.at += len + 1;
            if self.wanted.line(without_cr(&line[..len])).is_some() {
                return Some(line);
            }
        }
        let rest = &received[self.at..cursor];
        (is_end && !rest.is_empty() && self.wanted.line(without_cr(rest)).is_some()).then_some(rest)
    }
}

/// The next line without its terminator, and its length with it.
pub(crate) fn next_line(rest: &[u8]) -> Option<(&[u8], usize)> {
    let end = memchr::memchr(b'\n', rest)?;
    let line = &rest[..end];
    Some((without_cr(line), end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local! {
        pub(super) static LOOKED: Cell<usize> = const { Cell::new(0) };
    }

    /// Looks at what came each time that more of it did, as a runner does. Returns how it ended, and how many bytes it looked at.
    fn look(matcher: Matcher, is_until: bool, all: &[u8], step: usize) -> (Attempt, usize) {
        let expectation = Expectation { peer: String::new(), matcher, span: Span::default() };
        let pending =
            Pending::new(0, &expectation, is_until, &Variables::new()).unwrap_or_else(|_| panic!("no variables"));
        LOOKED.set(0);
        let mut attempt = Attempt::Wait;
        for end in (0..all.len()).step_by(step).chain([all.len()]) {
            attempt = pending.attempt(&all[..end], 0, None);
        }
        (attempt, LOOKED.get())
    }

    fn text(bytes: &[u8]) -> Text {
        Text { parts: vec![Part::Bytes(bytes.to_vec())], span: Span::default() }
    }

    /// The work is counted: time would tell of the machine.
    #[test]
    fn a_line_of_64_mib_that_comes_in_pieces_is_looked_at_once() {
        const LEN: usize = 64 << 20;
        let mut all = vec![b'x'; LEN];
        all.push(b'\n');
        let line = &all[..LEN];
        for (name, matcher, is_until) in [
            ("a line", Matcher::Line(text(line)), false),
            ("a prefix", Matcher::Prefix(text(b"xx")), false),
            ("bytes", Matcher::Bytes(text(&all)), false),
            ("a line that is awaited", Matcher::Line(text(line)), true),
            ("bytes that are awaited", Matcher::Bytes(text(b"x\n")), true),
        ] {
            let (attempt, looked) = look(matcher, is_until, &all, 16 << 10);
            assert!(matches!(attempt, Attempt::Match(len, _) if len == LEN + 1), "{name} is not found");
            assert!(looked <= all.len() + (1 << 20), "{name} of {} bytes: {looked} looked at", all.len());
        }
    }

    /// No page of the value is ever touched.
    #[test]
    fn a_text_of_variables_is_bounded() {
        let variables = Variables::from([("x".to_owned(), vec![0; MAX_REPEATED + 1])]);
        let text = Text { parts: vec![Part::Variable("x".to_owned())], span: Span::default() };
        let refused = resolve(&text, &variables).expect_err("more than there may be");
        assert_eq!(refused.title, "a text of 1073741825 bytes");
    }

    #[test]
    fn what_is_awaited_is_found_however_it_comes() {
        let all = b"one\r\ntwo: thr\nthree\nfour";
        for step in 1..=all.len() {
            for (matcher, len) in [
                (Matcher::Line(text(b"one")), 5),
                (Matcher::Line(text(b"three")), 20),
                (Matcher::Prefix(text(b"tw")), 14),
                (Matcher::Bytes(text(b"three")), 19),
                (Matcher::Bytes(text(b"thr")), 13),
                (Matcher::Bytes(text(b"\r\ntw")), 7),
                (Matcher::Bytes(text(b"r")), 13),
            ] {
                let shown = format!("{matcher:?} in steps of {step}");
                let (attempt, _) = look(matcher, true, all, step);
                let found = if let Attempt::Match(found, _) = attempt { Some(found) } else { None };
                // `\r` is the terminator's where it comes first.
                assert_eq!(found, Some(len), "{shown}");
            }
            assert!(matches!(look(Matcher::Line(text(b"four")), true, all, step).0, Attempt::Wait));
        }
    }
}
