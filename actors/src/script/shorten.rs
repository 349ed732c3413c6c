//! Shorter texts: letters are left out of what is sent, and of what is expected for it.
//!
//! An answer that echoes, rotates or quotes what was sent loses the letters at the same places; any other stays as it is.
//! Not here: whole statements (`shrink`).

use crate::script::{
    ast::{Data, Kind, Matcher, Part, Statement, Text},
    search::{Search, leave_out},
};

/// How many statements behind a send may be its answer.
const REACH: usize = 8;

/// The bytes of a text that has no variables.
fn plain(text: &Text) -> Option<&[u8]> {
    match text.parts.as_slice() {
        [Part::Bytes(bytes)] => Some(bytes),
        _ => None,
    }
}

fn sent(statement: &Statement) -> Option<&Text> {
    match &statement.kind {
        Kind::Send { data: Data::Line(text) | Data::Bytes(text), .. } => Some(text),
        _ => None,
    }
}

fn expected(statement: &Statement) -> Option<&Text> {
    match &statement.kind {
        Kind::Expect(one) => match &one.matcher {
            Matcher::Line(text) | Matcher::Prefix(text) | Matcher::Bytes(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

fn text_mut(statement: &mut Statement) -> Option<&mut Text> {
    match &mut statement.kind {
        Kind::Send { data: Data::Line(text) | Data::Bytes(text), .. } => Some(text),
        Kind::Expect(one) => match &mut one.matcher {
            Matcher::Line(text) | Matcher::Prefix(text) | Matcher::Bytes(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// How letters of an answer are paired with those that were sent: counted from the front, or from the back.
#[derive(Clone, Copy)]
enum From {
    Front(usize),
    Back,
}

fn keep(old: &[u8], sent: usize, kept: &[usize], from: From) -> Vec<u8> {
    let goes = |at: usize| {
        let place = match from {
            From::Front(skip) => at.checked_sub(skip),
            From::Back => (at + sent).checked_sub(old.len()),
        };
        place.is_some_and(|place| place < sent && kept.binary_search(&place).is_err())
    };
    old.iter().enumerate().filter(|(at, _)| !goes(*at)).map(|(_, byte)| *byte).collect()
}

/// The statements with fewer letters in one that sends. Others change with it, from one end or the other, or not at all.
fn with(statements: &[Statement], at: usize, kept: &[usize], from: Option<From>) -> Option<Vec<Statement>> {
    let mut all = statements.to_vec();
    let bytes = plain(sent(&statements[at])?)?;
    let len = bytes.len();
    let shorter: Vec<u8> = kept.iter().map(|place| bytes[*place]).collect();
    // A text stays one.
    if std::str::from_utf8(bytes).is_ok() && std::str::from_utf8(&shorter).is_err() {
        return None;
    }
    put(&mut all[at], shorter);
    if let Some(from) = from {
        for statement in all.iter_mut().skip(at + 1).take(REACH) {
            if sent(statement).is_some() {
                break;
            }
            let Some(old) = expected(statement).and_then(plain).map(<[u8]>::to_vec) else { continue };
            let shorter = keep(&old, len, kept, from);
            // Nothing is no expectation, but of a line.
            let is_line = matches!(&statement.kind, Kind::Expect(one) if matches!(one.matcher, Matcher::Line(_)));
            if shorter.is_empty() && !is_line {
                return None;
            }
            put(statement, shorter);
        }
    }
    Some(all)
}

fn put(statement: &mut Statement, bytes: Vec<u8>) {
    if let Some(text) = text_mut(statement) {
        text.parts = if bytes.is_empty() { Vec::new() } else { vec![Part::Bytes(bytes)] };
    }
}

/// Leaves letters out of each text that is sent, as long as the failure stays.
pub(crate) fn shorten(search: &mut Search<'_>, mut statements: Vec<Statement>) -> Vec<Statement> {
    for at in 0..statements.len() {
        let Some(bytes) = sent(&statements[at]).and_then(plain) else { continue };
        let len = bytes.len();
        // An answer that begins otherwise than what was sent, as with a name.
        let skip = statements.get(at + 1).and_then(expected).and_then(plain).map(|text| text.len().saturating_sub(len));
        let ways = [Some(From::Front(0)), Some(From::Back), skip.map(From::Front), None];
        for from in ways {
            let Some(now) = sent(&statements[at]).and_then(plain) else { break };
            let before = statements.clone();
            let kept = leave_out((0..now.len()).collect(), |kept| {
                with(&before, at, kept, from).is_some_and(|shorter| search.fails(&shorter))
            });
            if let Some(shorter) = with(&before, at, &kept, from) {
                statements = shorter;
            }
        }
    }
    statements
}
