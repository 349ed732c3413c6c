//! Lines of peers: a name, an operator, the rest.
//!
//! Not here: texts and patterns (`literal`), blocks and settings (`parse`).

use crate::script::{
    address::Address,
    ast::{Action, Data, Ending, Expectation, Kind, Matcher, Part, SIGNALS, ServerAction, Span, Text},
    literal::{Literals, Parsed, without_comment, word},
    report::Diagnostic,
};

const ACTIONS: &str = "one of: connect, connect ADDRESS, refused, listen, accept, fin, close, reset, eof, reset by peer, truncated, \
                       until TEXT, quiet TIME, after TIME, pause, resume, split BYTES, split off, split at BYTES, hex BYTES";

/// A line that says something.
#[derive(Clone, Copy)]
pub(crate) struct Line<'a> {
    /// Where its text begins, indentation aside.
    pub(crate) start: usize,
    pub(crate) indent: usize,
    pub(crate) text: &'a str,
}

fn unknown_signal(title: &str, span: Span) -> Diagnostic {
    let names: Vec<_> = SIGNALS.iter().map(|signal| signal.0).collect();
    Diagnostic::new(title, span, "not known").help(format!("one of: {}", names.join(", ")))
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
            ("connect", "") => act(Action::Connect(None)),
            ("refused", "") => act(Action::Refused(None)),
            ("connect", address) => act(Action::Connect(Some(self.address(address, at)?))),
            ("refused", address) => act(Action::Refused(Some(self.address(address, at)?))),
            ("listen", "") if peer.is_empty() => Err(Diagnostic::new("who listens?", span, "no name")
                .help("`backend: listen`: its port is `$backend_port`, and what connects there is `backend`")),
            ("listen", "") => act(Action::Listen),
            ("accept", "") => act(Action::Accept),
            ("fin", "") => act(Action::Fin),
            ("close", "") => act(Action::Close),
            ("reset", "") => act(Action::Reset),
            ("pause", "") => act(Action::Pause),
            ("resume", "") => act(Action::Resume),
            ("eof", "") => expect(Matcher::Eof),
            ("reset", "by peer") => expect(Matcher::Reset),
            ("truncated", "") => expect(Matcher::Truncated),
            ("quiet", time) => act(Action::Quiet(self.time(time, at)?)),
            ("after", time) => Ok(Kind::After(self.time(time, at)?)),
            ("split", "off") => act(Action::Split(None)),
            ("split", cuts) if cuts == "at" || cuts.starts_with("at ") => {
                let cuts: Option<Vec<usize>> =
                    cuts["at".len()..].split_ascii_whitespace().map(|cut| cut.parse().ok()).collect();
                let rise =
                    |cuts: &Vec<usize>| cuts.first().is_some_and(|first| *first > 0) && cuts.is_sorted_by(|a, b| a < b);
                match cuts.filter(rise) {
                    Some(cuts) => act(Action::SplitAt(cuts)),
                    None => Err(bytes("not places to cut").help(
                        "`split at 3 7` cuts what is sent next behind its third and its seventh byte: numbers that rise",
                    )),
                }
            }
            ("split", size) => match size.parse() {
                Ok(size @ 1..) => act(Action::Split(Some(size))),
                _ => Err(bytes("not a size of chunks").help(
                    "`split N` sends in chunks of N bytes, `split off` ends that; `split at N` cuts what is sent next",
                )),
            },
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

    /// What is said of a server.
    pub(crate) fn server_action(&self, text: &str, start: usize, whole: Span) -> Parsed<ServerAction> {
        let (what, raw, at) = word(text, start);
        let argument = without_comment(raw);
        let span = if argument.is_empty() { whole } else { self.span(at, argument.len()) };
        let signal = |name: &str| SIGNALS.iter().find(|signal| signal.0 == name).copied();
        match what {
            "log" if raw.starts_with('/') => self.pattern(raw, at).map(ServerAction::Log),
            "log" => Err(Diagnostic::new("not a pattern", span, "expected a pattern")
                .help("`server: log /pattern/` waits for a line in which it is found")),
            "signal" => {
                signal(argument).map(ServerAction::Signal).ok_or_else(|| unknown_signal("unknown signal", span))
            }
            "exit" => {
                let code = argument.parse().ok().filter(|_| argument.bytes().all(|byte| byte.is_ascii_digit()));
                let ending = code.map(Ending::Code).or_else(|| signal(argument).map(Ending::Signal));
                ending.map(ServerAction::Exit).ok_or_else(|| {
                    unknown_signal("not an end of a program", span)
                        .help("`server: exit 0` for an exit code, `server: exit TERM` for a signal that ended it")
                })
            }
            _ => {
                let span = if text.is_empty() { whole } else { self.span(start, what.len()) };
                Err(Diagnostic::new("unknown action of a server", span, "not an action")
                    .help("one of: log /pattern/, signal NAME, exit CODE, exit NAME"))
            }
        }
    }

    fn address(&self, text: &str, start: usize) -> Parsed<Text> {
        let address = self.plain(text, start)?;
        // One with variables is looked at when it is used.
        if let [Part::Bytes(bytes)] = address.parts.as_slice() {
            Address::resolved(bytes, address.span)?;
        }
        Ok(address)
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

    /// What comes before this is skipped.
    fn until(&self, peer: String, text: &str, start: usize, whole: Span) -> Parsed<Kind> {
        let help = "`: until text`, `: until ^ beginning`, `: until /pattern/`, `: until \"bytes\"`";
        if text.is_empty() {
            return Err(Diagnostic::new("until what?", whole, "expected a text").help(help));
        }
        let prefix = text.strip_prefix('^');
        if prefix.is_some_and(|prefix| !prefix.starts_with(' ')) {
            return Err(
                Diagnostic::new("no beginning of a line", self.span(start, text.len()), "ends where?").help(help)
            );
        }
        let begins = prefix.unwrap_or(text).trim_start_matches(' ');
        let matcher = self.matcher(begins, start + text.len() - begins.len(), prefix.is_some())?;
        let span = self.span(start, text.trim_end_matches(' ').len());
        Ok(Kind::Until(Expectation { peer, matcher, span }))
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
                let may = rest.strip_prefix(['?', '!']);
                let is_never = rest.starts_with('!');
                rest = may.unwrap_or(rest);
                let prefix = rest.strip_prefix('^');
                rest = prefix.unwrap_or(rest);
                let text = rest.trim_start_matches(' ');
                if !text.is_empty() && text.len() == rest.len() && (may.is_some() || prefix.is_some()) {
                    let span = self.span(line.start + name, line.text.len() - text.len() - name);
                    return Err(Diagnostic::new("no space behind the operator", span, "ends where?")
                        .help("a text is parted by a space from `<?`, `<!`, `<^`, `<?^` and `<!^`"));
                }
                let start = line.start + line.text.len() - text.len();
                let matcher = self.matcher(text, start, prefix.is_some())?;
                let span = if text.is_empty() { span } else { self.span(start, text.trim_end_matches(' ').len()) };
                let expectation = Expectation { peer, matcher, span };
                Ok(match may {
                    None => Kind::Expect(expectation),
                    Some(_) if is_never => Kind::Never(expectation),
                    Some(_) => Kind::Optional(expectation),
                })
            }
            _ => {
                let text = rest.trim_start_matches(' ');
                if let Some(awaited) =
                    text.strip_prefix("until").filter(|text| text.is_empty() || text.starts_with(' '))
                {
                    let awaited = awaited.trim_start_matches(' ');
                    return self.until(peer, awaited, line.start + line.text.len() - awaited.len(), span);
                }
                self.action(peer, text, line.start + line.text.len() - text.len(), span)
            }
        }
    }
}
