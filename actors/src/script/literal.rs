//! Literals: the names, variables, texts, patterns and times within a statement.
//!
//! Not here: what a line is (`parse`), what a peer's line says (`peer_line`).

use std::time::Duration;

use regex::bytes::RegexBuilder;

use crate::{
    script::{
        ast::{Part, Pattern, Span, Text},
        report::Diagnostic,
    },
    telnet_codes,
};

pub(crate) type Parsed<T> = Result<T, Diagnostic>;

fn is_name_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_'
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The name at the beginning of a text. Peers' names may have a hyphen.
pub(crate) fn name_len(text: &str, hyphens: bool) -> usize {
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(|first| is_name_start(*first)) {
        return 0;
    }
    bytes.iter().take_while(|byte| is_name_byte(**byte) || (hyphens && **byte == b'-')).count()
}

/// True if a text can be the name of a variable.
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
            .help(r#"escapes are \n \r \t \0 \\ \" \' \xHH, \u{HEX} and \{do echo}"#)
    };
    let simple = match text.as_bytes().get(1) {
        Some(b'n') => b'\n',
        Some(b'r') => b'\r',
        Some(b't') => b'\t',
        Some(b'0') => 0,
        Some(byte @ (b'\\' | b'"' | b'\'')) => *byte,
        Some(b'{') => {
            let words = text[2..].split_once('}').map(|(words, _)| words);
            let words = words.ok_or_else(|| unknown(2))?;
            let bytes = telnet_codes::negotiation(words).ok_or_else(|| {
                Diagnostic::new("no telnet command", span(words.len() + 3), "not known").help(telnet_codes::HELP)
            })?;
            return Ok((bytes, words.len() + 3));
        }
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

/// Reads what stands in one file, and says where.
#[derive(Clone, Copy)]
pub(crate) struct Literals {
    pub(crate) file: usize,
}

impl Literals {
    pub(crate) fn span(&self, start: usize, len: usize) -> Span {
        Span { file: self.file, start, end: start + len }
    }

    /// Nothing may stand behind a statement but a comment.
    pub(crate) fn end(&self, rest: &str, start: usize) -> Parsed<()> {
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
    pub(crate) fn plain(&self, text: &str, start: usize) -> Parsed<Text> {
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
    pub(crate) fn text(&self, text: &str, start: usize) -> Parsed<Text> {
        if text.starts_with('"') {
            let (quoted, rest) = self.quoted(text, start)?;
            let factor = rest.trim_start_matches(' ');
            if let Some(count) = factor.strip_prefix('*') {
                return self.times(quoted, count.trim_start_matches(' '), start + text.len());
            }
            self.end(rest, start + text.len() - rest.len())?;
            return Ok(quoted);
        }
        self.plain(text, start)
    }

    /// A text that is repeated. `end` is that of its line.
    fn times(&self, quoted: Text, rest: &str, end: usize) -> Parsed<Text> {
        let len = rest.find(' ').unwrap_or(rest.len());
        let (word, behind) = rest.split_at(len);
        let at = end - rest.len();
        let count = match variable(word) {
            Some((name, len)) if len == word.len() => Part::Variable(name.to_owned()),
            _ => {
                let count = word
                    .parse::<u32>()
                    .ok()
                    .filter(|count| *count > 0 && word.bytes().all(|byte| byte.is_ascii_digit()));
                let count = count.ok_or_else(|| {
                    Diagnostic::new("how many times?", self.span(at, len), "expected a number")
                        .help("`\"text\" * 1000`, or a variable that holds a number: `\"text\" * $n`")
                })?;
                Part::Bytes(count.to_string().into_bytes())
            }
        };
        self.end(behind, at + len)?;
        if quoted.parts.is_empty() {
            return Ok(quoted);
        }
        let span = Span { end: at + len, ..quoted.span };
        Ok(Text { parts: vec![Part::Times { parts: quoted.parts, count: Box::new(count) }], span })
    }

    pub(crate) fn pattern(&self, text: &str, start: usize) -> Parsed<Pattern> {
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

    pub(crate) fn time(&self, text: &str, start: usize) -> Parsed<Duration> {
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
}

/// Parts a word from what follows, and says where that begins.
pub(crate) fn word(text: &str, start: usize) -> (&str, &str, usize) {
    let end = text.find(' ').unwrap_or(text.len());
    let rest = text[end..].trim_start_matches(' ');
    (&text[..end], rest, start + text.len() - rest.len())
}

pub(crate) fn without_comment(text: &str) -> &str {
    let end = if text.starts_with('#') { Some(0) } else { text.find(" #") };
    text[..end.unwrap_or(text.len())].trim_end_matches(' ')
}
