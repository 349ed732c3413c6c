//! What a peer's line says: its name, an operator, the rest.
//!
//! Not here: texts and patterns (`literal`), blocks and settings (`parse`).

use crate::script::{
    ast::{Action, Data, Expectation, Kind, Matcher, Span},
    literal::{Literals, Parsed, without_comment, word},
    report::Diagnostic,
};

const ACTIONS: &str = "one of: connect, fin, close, reset, eof, reset by peer, quiet TIME, after TIME, pause, resume, \
                       split BYTES, split off, hex BYTES";

/// A line that says something.
#[derive(Clone, Copy)]
pub(crate) struct Line<'a> {
    /// Where its text begins, indentation aside.
    pub(crate) start: usize,
    pub(crate) indent: usize,
    pub(crate) text: &'a str,
}

impl Literals {
    fn action(&self, peer: String, text: &str, start: usize, span: Span) -> Parsed<Kind> {
        let text = without_comment(text);
        let (word, argument, at) = word(text, start);
        let act = |action| Ok(Kind::Act { peer: peer.clone(), action });
        let expect =
            |matcher| Ok(Kind::Expect(Expectation { peer: peer.clone(), matcher, span: self.span(start, text.len()) }));
        let bytes = |what: &str| Diagnostic::new(what, self.span(at, argument.len()), "here");
        match (word, argument) {
            ("connect", "") => act(Action::Connect),
            ("fin", "") => act(Action::Fin),
            ("close", "") => act(Action::Close),
            ("reset", "") => act(Action::Reset),
            ("pause", "") => act(Action::Pause),
            ("resume", "") => act(Action::Resume),
            ("eof", "") => expect(Matcher::Eof),
            ("reset", "by peer") => expect(Matcher::Reset),
            ("quiet", time) => act(Action::Quiet(self.time(time, at)?)),
            ("after", time) => Ok(Kind::After(self.time(time, at)?)),
            ("split", "off") => act(Action::Split(None)),
            ("split", size) => {
                match size.parse() {
                    Ok(size @ 1..) => act(Action::Split(Some(size))),
                    _ => Err(bytes("not a size of chunks")
                        .help("`split N` sends in chunks of N bytes, `split off` ends that")),
                }
            }
            ("hex", digits) => {
                let digits: Vec<_> = digits.bytes().filter(|byte| *byte != b' ').collect();
                let byte = |pair: &[u8]| match pair {
                    [high, low] => {
                        let digit = |byte: u8| char::from(byte).to_digit(16);
                        Some((digit(*high)? * 16 + digit(*low)?) as u8)
                    }
                    _ => None,
                };
                let sent: Option<Vec<_>> = digits.chunks(2).map(byte).collect();
                match sent.filter(|sent| !sent.is_empty()) {
                    Some(sent) => Ok(Kind::Send { peer, data: Data::Hex(sent) }),
                    None => Err(bytes("not bytes in hexadecimal").help("two digits a byte: `: hex 48 69 0d 0a`")),
                }
            }
            _ => {
                let span = if text.is_empty() { span } else { self.span(start, text.len()) };
                Err(Diagnostic::new("unknown action", span, "not an action").help(ACTIONS))
            }
        }
    }

    fn matcher(&self, text: &str, start: usize, prefix: bool) -> Parsed<Matcher> {
        if prefix {
            let begins = self.text(text, start)?;
            if begins.parts.is_empty() {
                let span = self.span(start, text.len());
                return Err(Diagnostic::new("an empty prefix", span, "begins all lines").help("any line is `< /.*/`"));
            }
            return Ok(Matcher::Prefix(begins));
        }
        if text.starts_with('/') {
            return self.pattern(text, start).map(Matcher::Pattern);
        }
        if text.starts_with('"') {
            let bytes = self.text(text, start)?;
            if bytes.parts.is_empty() {
                let help = "an empty line is `<` alone";
                return Err(Diagnostic::new("no bytes to expect", bytes.span, "empty").help(help));
            }
            return Ok(Matcher::Bytes(bytes));
        }
        self.plain(text, start).map(Matcher::Line)
    }

    /// A statement of a peer: its name, an operator, the rest.
    pub(crate) fn of_peer(&self, line: Line<'_>, name: usize) -> Parsed<Kind> {
        let span = self.span(line.start, line.text.trim_end_matches(' ').len());
        let peer = line.text[..name].to_owned();
        let mut rest = &line.text[name + 1..];
        match line.text.as_bytes()[name] {
            b'>' => {
                let text = rest.trim_start_matches(' ');
                let start = line.start + line.text.len() - text.len();
                let sent = self.text(text, start)?;
                let data = if text.starts_with('"') { Data::Bytes(sent) } else { Data::Line(sent) };
                Ok(Kind::Send { peer, data })
            }
            b'<' => {
                let may = rest.strip_prefix('?');
                rest = may.unwrap_or(rest);
                let prefix = rest.strip_prefix('^');
                rest = prefix.unwrap_or(rest);
                let text = rest.trim_start_matches(' ');
                if !text.is_empty() && text.len() == rest.len() && (may.is_some() || prefix.is_some()) {
                    let span = self.span(line.start + name, line.text.len() - text.len() - name);
                    return Err(Diagnostic::new("no space behind the operator", span, "ends where?")
                        .help("a text is parted by a space from `<?`, `<^` and `<?^`"));
                }
                let start = line.start + line.text.len() - text.len();
                let matcher = self.matcher(text, start, prefix.is_some())?;
                let span = if text.is_empty() { span } else { self.span(start, text.trim_end_matches(' ').len()) };
                let expectation = Expectation { peer, matcher, span };
                Ok(if may.is_some() { Kind::Optional(expectation) } else { Kind::Expect(expectation) })
            }
            _ => {
                let text = rest.trim_start_matches(' ');
                self.action(peer, text, line.start + line.text.len() - text.len(), span)
            }
        }
    }
}
