//! Spells what came as the text of an expectation.
//!
//! Not here: where it is written (`bless`).

use crate::{
    script::{
        ast::{Kind, Matcher, Part, Statement},
        matching::Variables,
        parse::Parser,
    },
    shown::Shown,
};

/// What came, with variables where they hold it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Came {
    /// A line, and what ended it.
    Line(Vec<Part>, &'static [u8]),
    Bytes(Vec<Part>),
    Eof,
    Reset,
}

impl Came {
    /// A line if it is one and `is_exact` does not ask for bytes. What `old` wrote as variables stays one where that holds.
    pub(crate) fn new(bytes: &[u8], is_exact: bool, old: &[Part], variables: &Variables) -> Self {
        let line = bytes.strip_suffix(b"\n").filter(|line| !is_exact && !line.contains(&b'\n'));
        match line.map(|line| (line.strip_suffix(b"\r"), line)) {
            Some((Some(line), _)) => Self::Line(reuse(old, line, variables), b"\r\n"),
            Some((None, line)) => Self::Line(reuse(old, line, variables), b"\n"),
            None => Self::Bytes(reuse(old, bytes, variables)),
        }
    }

    /// The text behind `<` and a space. `None` for an end, which has none. Without quotes only if nothing follows.
    pub(crate) fn spelled(&self, is_last: bool) -> Option<String> {
        match self {
            Self::Line(parts, terminator) => {
                let plain = spell(parts, false);
                Some(if is_last && is_plain(&plain, parts) { plain } else { exact(parts, terminator) })
            }
            Self::Bytes(parts) => Some(exact(parts, b"")),
            Self::Eof | Self::Reset => None,
        }
    }
}

fn exact(parts: &[Part], terminator: &[u8]) -> String {
    let mut parts = parts.to_vec();
    match parts.last_mut() {
        Some(Part::Bytes(last)) => last.extend_from_slice(terminator),
        _ if terminator.is_empty() => {}
        _ => parts.push(Part::Bytes(terminator.to_vec())),
    }
    format!("\"{}\"", spell(&parts, true))
}

/// True if a text without quotes is read as just this.
fn is_plain(plain: &str, parts: &[Part]) -> bool {
    let mut parser = Parser::new();
    let statements = parser.file(String::new(), format!("< {plain}\n").into_bytes());
    match statements.as_slice() {
        [Statement { kind: Kind::Expect(expectation), .. }] if parser.errors.is_empty() => {
            matches!(&expectation.matcher, Matcher::Line(text) if text.parts == parts)
        }
        _ => false,
    }
}

fn spell(parts: &[Part], is_quoted: bool) -> String {
    let mut text = String::new();
    let mut parts = parts.iter().peekable();
    while let Some(part) = parts.next() {
        match part {
            Part::Bytes(bytes) => {
                let shown =
                    if is_quoted { Shown(bytes).to_string() } else { String::from_utf8_lossy(bytes).into_owned() };
                text.push_str(&shown.replace('$', "$$"));
            }
            Part::Variable(name) => {
                // Braces where the name would go on.
                let goes_on = match parts.peek() {
                    Some(Part::Bytes(bytes)) => {
                        bytes.first().is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
                    }
                    _ => false,
                };
                text.push_str(&if goes_on { format!("${{{name}}}") } else { format!("${name}") });
            }
            // What came is written out.
            Part::Times { .. } => {}
        }
    }
    text
}

/// A shorter value of a variable may be in a text by chance: it has to stand where it did. Unit: bytes.
const BY_CHANCE: usize = 3;

/// Cuts a text where it has what variables of another hold, in the same order.
fn reuse(old: &[Part], text: &[u8], variables: &Variables) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut at = 0;
    for (index, part) in old.iter().enumerate() {
        let Part::Variable(name) = part else { continue };
        let Some(value) = variables.get(name).filter(|value| !value.is_empty()) else { continue };
        let before: &[u8] = match index.checked_sub(1).map(|before| &old[before]) {
            Some(Part::Bytes(bytes)) => bytes,
            _ => b"",
        };
        let behind: &[u8] = match old.get(index + 1) {
            Some(Part::Bytes(bytes)) => bytes,
            _ => b"",
        };
        let like = |found: usize| {
            let front = text[at..found].iter().rev().zip(before.iter().rev()).take_while(|(a, b)| a == b).count();
            let back = text[found + value.len()..].iter().zip(behind).take_while(|(a, b)| a == b).count();
            let is_edge = (found == 0 && index == 0) || (found + value.len() == text.len() && index + 1 == old.len());
            front + back + usize::from(is_edge)
        };
        let places = (at..=text.len().saturating_sub(value.len())).filter(|place| text[*place..].starts_with(value));
        // The first of the best.
        let best =
            places.map(|place| (like(place), place)).max_by_key(|(like, place)| (*like, std::cmp::Reverse(*place)));
        let is_word = |place: usize| {
            let before = text[..place].last();
            let behind = text.get(place + value.len());
            !before.into_iter().chain(behind).any(u8::is_ascii_alphanumeric)
        };
        let is_meant = |(like, place): &(usize, usize)| value.len() >= BY_CHANCE || (*like > 0 && is_word(*place));
        let Some((_, place)) = best.filter(is_meant) else { continue };
        if place > at {
            parts.push(Part::Bytes(text[at..place].to_vec()));
        }
        parts.push(Part::Variable(name.clone()));
        at = place + value.len();
    }
    if at < text.len() {
        parts.push(Part::Bytes(text[at..].to_vec()));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_spelled(came: &[u8], spelled: &str) {
        let came = Came::new(came, false, &[], &Variables::new());
        assert_eq!(came.spelled(true).as_deref(), Some(spelled));
    }

    #[test]
    fn what_came_is_plain_where_that_says_it() {
        assert_spelled(b"Hello\n", "Hello");
        assert_spelled(b"Hello\r\n", "Hello");
        assert_spelled(b"\n", "");
        assert_spelled(b"costs $5\n", "costs $$5");
        assert_spelled(b"? maybe\n", "? maybe");
        assert_spelled(b"# no comment\n", "# no comment");
        assert_spelled(b"/path\n", "\"/path\\n\"");
        assert_spelled(b"\"quoted\"\n", "\"\\\"quoted\\\"\\n\"");
        assert_spelled(b" edge\r\n", "\" edge\\r\\n\"");
        assert_spelled(b"\xff\t\n", "\"\\xff\\t\\n\"");
        assert_spelled(b"prompt> ", "\"prompt> \"");
        assert_eq!(Came::new(b"a\n", false, &[], &Variables::new()).spelled(false).as_deref(), Some("\"a\\n\""));
    }

    #[test]
    fn what_a_variable_holds_stays_a_variable() {
        let variables: Variables = [("n", "2"), ("who", "alice")].map(|(n, v)| (n.to_owned(), v.into())).into();
        let bytes = |text: &str| Part::Bytes(text.into());
        let n = || Part::Variable("n".to_owned());
        let who = || Part::Variable("who".to_owned());
        let old = [who(), bytes(": "), n(), bytes(" or more of us?")];
        let spelled = |came: &[u8], old: &[Part]| Came::new(came, false, old, &variables).spelled(true).unwrap();
        assert_eq!(spelled(b"alice: 2 or fewer of us\n", &old), "$who: $n or fewer of us");
        assert_eq!(spelled(b"alice2: none\n", &old), "${who}2: none");
        // By chance.
        assert_eq!(spelled(b"in 2026\n", &[bytes("we are "), n()]), "in 2026");
    }
}
