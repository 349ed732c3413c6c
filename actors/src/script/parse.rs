//! Reads the text of a script into its tree, or says all that is wrong in it.
//!
//! A line is a statement; what is indented below one is its block. `docs/sessions.md` has the grammar.
//! Not here: what a statement does (`run`).

use std::{fs, path::Path, time::Duration};

use regex::bytes::RegexBuilder;

use crate::script::{
    ast::{Action, Data, Expectation, Kind, Matcher, Newline, Part, Pattern, Span, Statement, Text},
    report::{Diagnostic, Source},
};

/// Files that include files that include files.
const MAX_DEPTH: usize = 16;
/// Blocks within blocks: the tree is walked recursively.
const MAX_BLOCKS: usize = 32;
/// What one screen shows of a text that is no script at all.
const MAX_ERRORS: usize = 20;

const STATEMENTS: &str = "a statement begins with `>` (send), `<` (expect) or `:` (do), each with the peer's name in front \
                          where there are several, or with one of: repeat, one-of, unordered, include, let, newline, timeout";
const ACTIONS: &str = "one of: connect, fin, close, reset, eof, reset by peer, quiet TIME, after TIME, pause, resume, \
                       split BYTES, split off, hex BYTES";

/// A line that says something.
#[derive(Clone, Copy)]
struct Line<'a> {
    /// Where its text begins, indentation aside.
    start: usize,
    indent: usize,
    text: &'a str,
}

pub(crate) struct Parser {
    pub(crate) sources: Vec<Source>,
    pub(crate) errors: Vec<Diagnostic>,
    /// Files that are being read, outermost first.
    open: Vec<String>,
}

type Parsed<T> = Result<T, Diagnostic>;

fn is_name_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_'
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The name at the beginning of a text. Peers' names may have a hyphen.
fn name_len(text: &str, hyphens: bool) -> usize {
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(|first| is_name_start(*first)) {
        return 0;
    }
    bytes.iter().take_while(|byte| is_name_byte(**byte) || (hyphens && **byte == b'-')).count()
}

/// Whether a text can be the name of a variable.
pub(crate) fn is_variable(name: &str) -> bool {
    !name.is_empty() && name_len(name, false) == name.len()
}

/// A variable at the beginning of a text, and how long it is: `$name` or `${name}`.
pub(crate) fn variable(text: &str) -> Option<(&str, usize)> {
    let rest = text.strip_prefix('$')?;
    if let Some(braced) = rest.strip_prefix('{') {
        let len = name_len(braced, false);
        return (len > 0 && braced[len..].starts_with('}')).then(|| (&braced[..len], len + 3));
    }
    let len = name_len(rest, false);
    (len > 0).then(|| (&rest[..len], len + 1))
}

/// The variables of a pattern, and where they stand in it.
pub(crate) fn pattern_variables(source: &str) -> Vec<(&str, usize, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = source[at..].find(['\\', '$']).map(|next| at + next) {
        if let Some((name, len)) = variable(&source[next..]) {
            found.push((name, next, next + len));
            at = next + len;
        } else {
            // A backslash and what it escapes; or an end of line.
            let escaped = source[next..].starts_with('\\');
            let skip = source[next + 1..].chars().next().filter(|_| escaped).map_or(0, char::len_utf8);
            at = next + 1 + skip;
        }
    }
    found
}

/// Bytes and lines, not characters: `.` is any byte but a newline.
pub(crate) fn regex(source: &str) -> Result<regex::bytes::Regex, regex::Error> {
    RegexBuilder::new(source).unicode(false).size_limit(1 << 20).build()
}

fn push(parts: &mut Vec<Part>, bytes: &[u8]) {
    match parts.last_mut() {
        Some(Part::Bytes(last)) => last.extend_from_slice(bytes),
        _ => parts.push(Part::Bytes(bytes.to_vec())),
    }
}

fn escape(text: &str, span: impl Fn(usize) -> Span) -> Parsed<(Vec<u8>, usize)> {
    let unknown = |len| {
        Diagnostic::new("unknown escape", span(len), "no escape")
            .help(r#"escapes are \n \r \t \0 \\ \" \' \xHH and \u{HEX}"#)
    };
    let simple = match text.as_bytes().get(1) {
        Some(b'n') => b'\n',
        Some(b'r') => b'\r',
        Some(b't') => b'\t',
        Some(b'0') => 0,
        Some(byte @ (b'\\' | b'"' | b'\'')) => *byte,
        Some(b'x') => {
            let digits = text.get(2..4).ok_or_else(|| unknown(2))?;
            let byte = u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'));
            return Ok((vec![byte.ok_or_else(|| unknown(4))?], 4));
        }
        Some(b'u') => {
            let digits = text[2..].strip_prefix('{').and_then(|rest| rest.split_once('}')).map(|(digits, _)| digits);
            let digits = digits.filter(|digits| digits.len() <= 6 && !digits.starts_with('+'));
            let digits = digits.ok_or_else(|| unknown(2))?;
            let letter = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
            let letter = letter.ok_or_else(|| unknown(digits.len() + 4))?;
            return Ok((letter.to_string().into_bytes(), digits.len() + 4));
        }
        _ => return Err(unknown(1 + text[1..].chars().next().map_or(0, char::len_utf8))),
    };
    Ok((vec![simple], 2))
}

/// What is read within one file.
struct Reader<'a> {
    parser: &'a mut Parser,
    file: usize,
}

impl Reader<'_> {
    fn span(&self, start: usize, len: usize) -> Span {
        Span { file: self.file, start, end: start + len }
    }

    /// Nothing may stand behind a statement but a comment.
    fn end(&self, rest: &str, start: usize) -> Parsed<()> {
        let trimmed = rest.trim_start_matches(' ');
        if trimmed.is_empty() || (trimmed.starts_with('#') && trimmed.len() < rest.len()) {
            return Ok(());
        }
        let start = start + rest.len() - trimmed.len();
        let span = self.span(start, trimmed.trim_end().len());
        Err(Diagnostic::new("unexpected text behind a statement", span, "not understood")
            .help("a comment begins with a space and `#`"))
    }

    /// A text between quotes, and what is behind it.
    fn quoted<'t>(&self, text: &'t str, start: usize) -> Parsed<(Text, &'t str)> {
        let mut parts = Vec::new();
        let mut at = 1;
        loop {
            let rest = &text[at..];
            let Some(letter) = rest.chars().next() else {
                let span = self.span(start, text.len());
                return Err(Diagnostic::new("a quoted text does not end", span, "begins here")
                    .help(r#"end it with `"`; within it a quote is `\"`"#));
            };
            match letter {
                '"' => {
                    let span = self.span(start, at + 1);
                    return Ok((Text { parts, span }, &rest[1..]));
                }
                '\\' => {
                    let (bytes, len) = escape(rest, |len| self.span(start + at, len))?;
                    push(&mut parts, &bytes);
                    at += len;
                }
                '$' => at += Self::dollar(rest, &mut parts),
                _ => {
                    push(&mut parts, &rest.as_bytes()[..letter.len_utf8()]);
                    at += letter.len_utf8();
                }
            }
        }
    }

    fn dollar(rest: &str, parts: &mut Vec<Part>) -> usize {
        if let Some((name, len)) = variable(rest) {
            parts.push(Part::Variable(name.to_owned()));
            len
        } else {
            push(parts, b"$");
            if rest.starts_with("$$") { 2 } else { 1 }
        }
    }

    /// A text to the end of the line.
    fn plain(&self, text: &str, start: usize) -> Parsed<Text> {
        if text.ends_with(' ') {
            let blanks = text.len() - text.trim_end_matches(' ').len();
            let span = self.span(start + text.len() - blanks, blanks);
            return Err(Diagnostic::new("a text ends in blanks, which nobody sees", span, "blanks")
                .help("remove them, or write the text between quotes with its newline: \"text \\n\""));
        }
        if let Some((at, letter)) = text.char_indices().find(|(_, letter)| letter.is_control()) {
            let span = self.span(start + at, letter.len_utf8());
            let escaped = letter.escape_debug();
            return Err(Diagnostic::new("a control character, which nobody sees", span, escaped.to_string())
                .help(format!("write the text between quotes, with `{escaped}`")));
        }
        let mut parts = Vec::new();
        let mut at = 0;
        while let Some(letter) = text[at..].chars().next() {
            if letter == '$' {
                at += Self::dollar(&text[at..], &mut parts);
            } else {
                push(&mut parts, &text.as_bytes()[at..at + letter.len_utf8()]);
                at += letter.len_utf8();
            }
        }
        Ok(Text { parts, span: self.span(start, text.len()) })
    }

    /// Plain, or between quotes.
    fn text(&self, text: &str, start: usize) -> Parsed<Text> {
        if text.starts_with('"') {
            let (quoted, rest) = self.quoted(text, start)?;
            self.end(rest, start + text.len() - rest.len())?;
            return Ok(quoted);
        }
        self.plain(text, start)
    }

    fn pattern(&self, text: &str, start: usize) -> Parsed<Pattern> {
        let mut escaped = false;
        let end = text[1..].find(|letter| {
            let is_end = letter == '/' && !escaped;
            escaped = letter == '\\' && !escaped;
            is_end
        });
        let Some(end) = end else {
            let span = self.span(start, text.len());
            return Err(Diagnostic::new("a pattern does not end", span, "begins here").help(
                "end it with `/`; within it a slash is `\\/`; a line that begins with a slash: `<^ /`, or \"/…\\n\"",
            ));
        };
        let source = &text[1..=end];
        let span = self.span(start, end + 2);
        if source.is_empty() {
            return Err(Diagnostic::new("an empty pattern", span, "matches all lines")
                .help("say what has to be in the line; any line is `/.*/`"));
        }
        self.end(&text[end + 2..], start + end + 2)?;
        // With a letter for each variable: it has to be well formed whatever they hold.
        let mut probe = source.to_owned();
        for (_, from, to) in pattern_variables(source).into_iter().rev() {
            probe.replace_range(from..to, "(?:x)");
        }
        let compiled = regex(&probe).map_err(|error| {
            let reason = error.to_string();
            let reason = reason.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            Diagnostic::new("not a regular expression", span, reason.trim_start_matches("error: ").to_owned())
        })?;
        let captures: Vec<_> = compiled.capture_names().flatten().map(str::to_owned).collect();
        if let Some(name) = captures.iter().find(|name| !is_variable(name)) {
            return Err(Diagnostic::new(format!("`{name}` cannot be the name of a variable"), span, "named here")
                .help("names consist of letters, digits and `_`"));
        }
        Ok(Pattern { source: source.to_owned(), captures, span })
    }

    fn time(&self, text: &str, start: usize) -> Parsed<Duration> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let unit = match &text[digits..] {
            "ms" => Some(1),
            "s" => Some(1000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            _ => None,
        };
        // A year is longer than anybody waits, and no clock overflows by it.
        let millis = unit.and_then(|unit| text[..digits].parse::<u64>().ok()?.checked_mul(unit));
        let millis = millis.filter(|millis| *millis <= 366 * 24 * 3_600_000);
        millis.map(Duration::from_millis).ok_or_else(|| {
            Diagnostic::new("not a time", self.span(start, text.len()), "expected a time")
                .help("a number and a unit, at most a year: 200ms, 5s, 10m, 1h")
        })
    }

    /// Parts a word from what follows, and says where that begins.
    fn word<'t>(&self, text: &'t str, start: usize) -> (&'t str, &'t str, usize) {
        let end = text.find(' ').unwrap_or(text.len());
        let rest = text[end..].trim_start_matches(' ');
        (&text[..end], rest, start + text.len() - rest.len())
    }

    fn without_comment(text: &str) -> &str {
        let end = if text.starts_with('#') { Some(0) } else { text.find(" #") };
        text[..end.unwrap_or(text.len())].trim_end_matches(' ')
    }

    fn action(&self, peer: String, text: &str, start: usize, span: Span) -> Parsed<Kind> {
        let text = Self::without_comment(text);
        let (word, argument, at) = self.word(text, start);
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
    fn of_peer(&self, line: Line<'_>, name: usize) -> Parsed<Kind> {
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

    fn statement(&mut self, line: Line<'_>, block: &[Line<'_>], depth: usize) -> Parsed<Kind> {
        let name = name_len(line.text, true);
        if line.text.as_bytes().get(name).is_some_and(|byte| b"><:".contains(byte)) {
            let kind = self.of_peer(line, name)?;
            return self.without_block(kind, block);
        }
        let (word, _, at) = self.word(line.text, line.start);
        let raw = line.text[at - line.start..].trim_end_matches(' ');
        let argument = Self::without_comment(raw);
        let whole = self.span(line.start, line.text.trim_end_matches(' ').len());
        let here = self.span(at, argument.len());
        let kind = match word {
            "repeat" => {
                let count = self.plain(argument, at)?;
                let number = |count: &str| count.parse::<u32>().is_ok();
                if count.parts.is_empty()
                    || (!number(argument) && variable(argument).is_none_or(|(_, len)| len < argument.len()))
                {
                    return Err(Diagnostic::new("how many times?", whole, "expected a number")
                        .help("`repeat 1000`, or a variable that holds a number: `repeat $n`"));
                }
                let body = self.block(line, block, depth, whole)?;
                return Ok(Kind::Repeat { count, body });
            }
            "one-of" | "unordered" => {
                self.end(argument, at)?;
                let body = self.block(line, block, depth, whole)?;
                let mut expectations = Vec::new();
                for statement in body {
                    let Kind::Expect(expectation) = statement.kind else {
                        return Err(Diagnostic::new(format!("not in `{word}`"), statement.span, "expects nothing")
                            .help("such a block has lines with `<`, `: eof` and `: reset by peer`"));
                    };
                    expectations.push(expectation);
                }
                return Ok(if word == "one-of" { Kind::OneOf(expectations) } else { Kind::Unordered(expectations) });
            }
            "include" => {
                let path = raw.to_owned();
                if path.is_empty() || path.contains(char::is_control) {
                    return Err(Diagnostic::new("which file?", whole, "expected a path")
                        .help("`include other.session`, relative to this file"));
                }
                let body = self.include(&path, self.span(at, raw.len()))?;
                Kind::Include { path, body }
            }
            "let" => {
                let len = name_len(raw, false);
                let value = raw[len..].trim_start_matches(' ').strip_prefix('=');
                let Some(value) = value.filter(|_| len > 0) else {
                    return Err(Diagnostic::new("not a variable", whole, "expected a name and a value")
                        .help("`let name = value`; the value ends with the line, or stands between quotes"));
                };
                let value = value.trim_start_matches(' ');
                let value = self.text(value, at + raw.len() - value.len())?;
                Kind::Let { name: raw[..len].to_owned(), value }
            }
            "newline" => Kind::Newline(match argument {
                "lf" => Newline::Lf,
                "crlf" => Newline::CrLf,
                "none" => Newline::None,
                _ => {
                    return Err(Diagnostic::new("unknown newline", whole, "which one?")
                        .help("what a sent line ends with: `newline lf`, `newline crlf`, `newline none`"));
                }
            }),
            "timeout" => {
                let time = self.time(argument, at)?;
                if time.is_zero() {
                    return Err(Diagnostic::new("no time at all", here, "zero").help("the least is 1ms"));
                }
                Kind::Timeout(time)
            }
            _ => return Err(Diagnostic::new("not a statement", whole, "not understood").help(STATEMENTS)),
        };
        self.without_block(kind, block)
    }

    fn without_block(&self, kind: Kind, block: &[Line<'_>]) -> Parsed<Kind> {
        match block.first() {
            None => Ok(kind),
            Some(line) => {
                let span = self.span(line.start, line.text.trim_end_matches(' ').len());
                Err(Diagnostic::new("indented below a statement that has no block", span, "indented")
                    .help("only `repeat`, `one-of` and `unordered` have blocks"))
            }
        }
    }

    fn block(&mut self, line: Line<'_>, block: &[Line<'_>], depth: usize, span: Span) -> Parsed<Vec<Statement>> {
        if block.is_empty() {
            return Err(Diagnostic::new("a block without lines", span, "nothing is indented below it")
                .help("indent what belongs to it"));
        }
        if depth >= MAX_BLOCKS {
            let title = format!("more than {MAX_BLOCKS} blocks within each other");
            return Err(Diagnostic::new(title, self.span(line.start, line.text.len()), "too deep"));
        }
        Ok(self.statements(block, depth + 1))
    }

    fn statements(&mut self, lines: &[Line<'_>], depth: usize) -> Vec<Statement> {
        let mut statements = Vec::new();
        let Some(first) = lines.first() else { return statements };
        let mut rest = lines;
        while let Some((line, below)) = rest.split_first() {
            let end = below.iter().position(|below| below.indent <= line.indent).unwrap_or(below.len());
            let (block, next) = below.split_at(end);
            rest = next;
            let span = self.span(line.start, line.text.trim_end_matches(' ').len());
            let kind = if line.indent == first.indent {
                self.statement(*line, block, depth)
            } else {
                Err(Diagnostic::new("indented as no line above it", span, "where does it belong?")
                    .help("lines of one block begin in the same column"))
            };
            match kind {
                Ok(kind) => statements.push(Statement { kind, span }),
                Err(error) => self.parser.errors.push(error),
            }
            if self.parser.errors.len() >= MAX_ERRORS {
                break;
            }
        }
        statements
    }

    fn include(&mut self, path: &str, span: Span) -> Parsed<Vec<Statement>> {
        let from = &self.parser.sources[self.file].name;
        let target = Path::new(from).with_file_name("").join(path).display().to_string();
        // A file that includes itself by another name ends here, too.
        if self.parser.open.contains(&target) || self.parser.open.len() >= MAX_DEPTH {
            return Err(Diagnostic::new("files include each other without end", span, "includes this file"));
        }
        let text = fs::read(&target)
            .map_err(|error| Diagnostic::new(format!("cannot read {target}"), span, error.to_string()))?;
        Ok(self.parser.file(target, text))
    }
}

impl Parser {
    pub(crate) fn new() -> Self {
        Self { sources: Vec::new(), errors: Vec::new(), open: Vec::new() }
    }

    /// Reads a file whose text is there. What is wrong in it is in `errors`.
    pub(crate) fn file(&mut self, name: String, text: Vec<u8>) -> Vec<Statement> {
        let file = self.sources.len();
        let text = match String::from_utf8(text) {
            Ok(text) => text,
            Err(error) => {
                let start = error.utf8_error().valid_up_to();
                let span = Span { file, start, end: start };
                let label = "a byte that is no text";
                self.errors.push(
                    Diagnostic::new("a script is UTF-8", span, label)
                        .help("write other bytes as \"\\xff\", between quotes"),
                );
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                self.sources.push(Source { name, text });
                return Vec::new();
            }
        };
        self.sources.push(Source { name: name.clone(), text: text.clone() });
        self.open.push(name);
        let mut lines = Vec::new();
        let mut start = 0;
        for whole in text.split_inclusive('\n') {
            let raw = whole.strip_suffix('\n').unwrap_or(whole);
            let raw = raw.strip_suffix('\r').unwrap_or(raw);
            let text = raw.trim_start_matches(' ');
            let indent = raw.len() - text.len();
            let at = start + indent;
            start += whole.len();
            if text.starts_with('\t') {
                let span = Span { file, start: at, end: at + 1 };
                self.errors
                    .push(Diagnostic::new("a tab at the beginning of a line", span, "tab").help("indent by spaces"));
            } else if !text.is_empty() && !text.starts_with('#') {
                lines.push(Line { start: at, indent, text });
            }
        }
        let mut reader = Reader { parser: self, file };
        if let Some(line) = lines.first().filter(|line| line.indent > 0) {
            let span = reader.span(line.start, line.text.len());
            reader.parser.errors.push(Diagnostic::new("the first line is indented", span, "belongs to nothing"));
        }
        let statements = reader.statements(&lines, 0);
        self.open.pop();
        statements
    }
}
