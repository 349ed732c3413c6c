//! The first byte of a line leaves before others speak: a script with one line cut in two, and the first part moved up.
//!
//! Half a line is no line, so that to a line service nothing else has changed. Not here: who compares the runs (`fuzz`).

use crate::script::ast::{Data, Expectation, Kind, Matcher, Part, Span, Statement, Text};

/// A script with one line that begins earlier, and that line.
pub(crate) struct Early {
    pub(crate) statements: Vec<Statement>,
    pub(crate) span: Span,
}

/// The script in which the `nth` line that can, from 1, begins earlier. `None` if there are fewer.
pub(crate) fn early(statements: &[Statement], nth: usize) -> Option<Early> {
    change(statements, &mut nth.checked_sub(1)?)
}

/// The number of lines that can begin earlier.
pub(crate) fn count(statements: &[Statement]) -> usize {
    let below = |statement: &Statement| match &statement.kind {
        Kind::Repeat { body, .. } | Kind::Include { body, .. } => count(body),
        _ => 0,
    };
    statements.iter().map(below).sum::<usize>()
        + (0..statements.len()).filter(|at| possible(statements, *at).is_some()).count()
}

fn change(statements: &[Statement], skip: &mut usize) -> Option<Early> {
    for (at, statement) in statements.iter().enumerate() {
        let mut changed = statements.to_vec();
        match &mut changed[at].kind {
            Kind::Repeat { body, .. } | Kind::Include { body, .. } => {
                if let Some(below) = change(body, skip) {
                    *body = below.statements;
                    return Some(Early { statements: changed, span: below.span });
                }
            }
            _ => {
                let Some((to, first, rest)) = possible(statements, at) else { continue };
                if *skip == 0 {
                    changed[at] = Statement { kind: rest, span: statement.span };
                    changed.insert(to, Statement { kind: first, span: statement.span });
                    return Some(Early { statements: changed, span: statement.span });
                }
                *skip -= 1;
            }
        }
    }
    None
}

/// Where the first byte of a statement may go, and both parts of it.
fn possible(statements: &[Statement], at: usize) -> Option<(usize, Kind, Kind)> {
    let Kind::Send { peer, data } = &statements[at].kind else { return None };
    let (first, rest) = divided(data)?;
    let is_its = |expectation: &Expectation| expectation.peer == *peer;
    let mut others_speak = false;
    for (before, statement) in statements[..at].iter().enumerate().rev() {
        match &statement.kind {
            Kind::Send { peer: other, .. } if other != peer => others_speak = true,
            Kind::Expect(expectation) | Kind::Optional(expectation) if !is_its(expectation) => {}
            // It is connected then.
            Kind::Send { .. } if others_speak => {}
            Kind::Expect(expectation)
                if others_speak
                    && !matches!(expectation.matcher, Matcher::Eof | Matcher::Reset | Matcher::Truncated) => {}
            _ => return None,
        }
        let is_own = match &statement.kind {
            Kind::Send { peer: other, .. } => other == peer,
            Kind::Expect(expectation) => is_its(expectation),
            _ => false,
        };
        if is_own {
            let send = |data| Kind::Send { peer: peer.clone(), data };
            return Some((before + 1, send(first), send(rest)));
        }
    }
    None
}

/// The first byte and all others. `None` where it is not known, ends a line, or there are no others.
fn divided(data: &Data) -> Option<(Data, Data)> {
    let divide = |bytes: &[u8]| {
        let (first, rest) = bytes.split_first()?;
        (!b"\r\n\0".contains(first)).then(|| (vec![*first], rest.to_vec()))
    };
    let divide_text = |text: &Text| {
        let Some(Part::Bytes(bytes)) = text.parts.first() else { return None };
        let (first, rest) = divide(bytes)?;
        let mut parts = text.parts.clone();
        if rest.is_empty() {
            parts.remove(0);
        } else {
            parts[0] = Part::Bytes(rest);
        }
        Some((Text { parts: vec![Part::Bytes(first)], span: text.span }, Text { parts, span: text.span }))
    };
    match data {
        // Of a line at least the newline is left.
        Data::Line(text) => divide_text(text).map(|(first, rest)| (Data::Bytes(first), Data::Line(rest))),
        Data::Bytes(text) => divide_text(text)
            .filter(|(_, rest)| !rest.parts.is_empty())
            .map(|(first, rest)| (Data::Bytes(first), Data::Bytes(rest))),
        // All of it, or another file.
        Data::File { .. } => None,
        Data::Hex(bytes) => {
            divide(bytes).filter(|(_, rest)| !rest.is_empty()).map(|(first, rest)| (Data::Hex(first), Data::Hex(rest)))
        }
    }
}
