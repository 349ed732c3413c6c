//! Reads the text of a script into its tree, or says all that is wrong in it.
//!
//! A line is a statement; what is indented below one is its block. `docs/sessions.md` has the grammar.
//! Not here: what stands within a statement (`literal`, `peer_line`), what it does (`run`).

use std::{fs, io, path::Path};

use crate::script::{
    ast::{Data, Kind, Newline, Span, Statement},
    literal::{Literals, Parsed, name_len, variable, without_comment, word},
    peer_line::Line,
    report::{Diagnostic, Source},
};

/// Files that include files that include files.
const MAX_DEPTH: usize = 16;
/// Files in all, each as often as it is included: ten that include the next one ten times would fill any memory.
const MAX_FILES: usize = 1000;
/// Blocks within blocks: the tree is walked recursively.
const MAX_BLOCKS: usize = 32;
/// What one screen shows of a text that is no script at all.
const MAX_ERRORS: usize = 20;

const STATEMENTS: &str = "a statement begins with `>` (send), `<` (expect) or `:` (do), each with the peer's name in front \
                          where there are several, or with one of: repeat, one-of, unordered, include, let, newline, timeout, \
                          needs, server";
const SERVER: &str = "`server COMMAND` starts one, `server NAME = COMMAND` several; then `server: log /pattern/`, \
                      `server: signal TERM` and `server: exit 0`, or `server NAME: …`";

pub(crate) struct Parser {
    pub(crate) sources: Vec<Source>,
    pub(crate) errors: Vec<Diagnostic>,
    /// Files that are being read, outermost first.
    open: Vec<String>,
}

/// Reads a file that ends: a device need not.
fn read(path: &str) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.is_file() { fs::read(path) } else { Err(io::Error::other("it is no file")) }
}

/// What is read within one file.
struct Reader<'a> {
    parser: &'a mut Parser,
    literals: Literals,
}

impl Reader<'_> {
    fn span(&self, start: usize, len: usize) -> Span {
        self.literals.span(start, len)
    }

    fn statement(&mut self, line: Line<'_>, block: &[Line<'_>], depth: usize) -> Parsed<Kind> {
        let name = name_len(line.text, true);
        if &line.text[..name] == "server" {
            let kind = self.server(line)?;
            return self.without_block(kind, block);
        }
        if line.text.as_bytes().get(name).is_some_and(|byte| b"><:".contains(byte)) {
            let kind = match line.text[name..].strip_prefix(">>") {
                Some(path) => self.file(line.text[..name].to_owned(), path, line)?,
                None => self.literals.of_peer(line, name)?,
            };
            return self.without_block(kind, block);
        }
        let (word, _, at) = word(line.text, line.start);
        let raw = line.text[at - line.start..].trim_end_matches(' ');
        let argument = without_comment(raw);
        let whole = self.span(line.start, line.text.trim_end_matches(' ').len());
        let here = self.span(at, argument.len());
        let kind = match word {
            "repeat" => {
                let count = self.literals.plain(argument, at)?;
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
                self.literals.end(argument, at)?;
                let body = self.block(line, block, depth, whole)?;
                let mut expectations = Vec::new();
                for statement in body {
                    let Kind::Expect(expectation) = statement.kind else {
                        return Err(Diagnostic::new(format!("not in `{word}`"), statement.span, "expects nothing")
                            .help("such a block has lines with `<`, `: eof`, `: reset by peer` and `: truncated`"));
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
                let value = self.literals.text(value, at + raw.len() - value.len())?;
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
                let time = self.literals.time(argument, at)?;
                if time.is_zero() {
                    return Err(Diagnostic::new("no time at all", here, "zero").help("the least is 1ms"));
                }
                Kind::Timeout(time)
            }
            "needs" => {
                let names: Vec<_> = argument.split_ascii_whitespace().map(str::to_owned).collect();
                let is_name = |name: &String| name_len(name, true) == name.len();
                if names.is_empty() || !names.iter().all(is_name) {
                    return Err(Diagnostic::new("what does it need?", whole, "expected names")
                        .help("memory, tcp, unix, tls, processes, addresses, or a name that is given from outside"));
                }
                Kind::Needs(names)
            }
            _ => return Err(Diagnostic::new("not a statement", whole, "not understood").help(STATEMENTS)),
        };
        self.without_block(kind, block)
    }

    /// `>> FILE`: read here, so that a script that is read can be run.
    fn file(&self, peer: String, rest: &str, line: Line<'_>) -> Parsed<Kind> {
        let path = rest.trim_matches(' ');
        let start = line.start + line.text.len() - rest.trim_start_matches(' ').len();
        if path.is_empty() || path.contains(char::is_control) {
            let whole = self.span(line.start, line.text.trim_end_matches(' ').len());
            return Err(Diagnostic::new("which file?", whole, "expected a path")
                .help("`>> file` sends what is in it, looked for beside this one; a line that begins so: `> >text`"));
        }
        let span = self.span(start, path.len());
        let target = self.beside(path);
        let bytes =
            read(&target).map_err(|error| Diagnostic::new(format!("cannot read {target}"), span, error.to_string()))?;
        Ok(Kind::Send { peer, data: Data::File { path: path.to_owned(), bytes: bytes.into() } })
    }

    /// `server COMMAND`, `server NAME = COMMAND`, `server: ACTION` and `server NAME: ACTION`.
    fn server(&self, line: Line<'_>) -> Parsed<Kind> {
        let whole = self.span(line.start, line.text.trim_end_matches(' ').len());
        let rest = &line.text["server".len()..];
        let (mut name, mut text) = ("", rest.trim_start_matches(' '));
        let mut is_action = rest.starts_with(':');
        if is_action {
            text = rest[1..].trim_start_matches(' ');
        } else if !rest.is_empty() && !rest.starts_with(' ') {
            return Err(Diagnostic::new("a server is not a peer", whole, "no peer").help(SERVER));
        } else {
            let len = name_len(text, false);
            let behind = &text[len..];
            let is_word = |text: &str| text.is_empty() || text.starts_with(' ');
            let action = behind.strip_prefix(':').filter(|behind| is_word(behind));
            let command = behind.trim_start_matches(' ').strip_prefix('=').filter(|behind| is_word(behind));
            if let Some(behind) = action.or(command).filter(|_| len > 0) {
                name = &text[..len];
                is_action = action.is_some();
                text = behind.trim_start_matches(' ');
            }
        }
        let start = line.start + line.text.len() - text.len();
        let name = name.to_owned();
        if is_action {
            return Ok(Kind::OfServer { name, action: self.literals.server_action(text, start, whole)? });
        }
        if text.is_empty() {
            return Err(Diagnostic::new("which program?", whole, "expected a command").help(SERVER));
        }
        Ok(Kind::Server { name, command: self.literals.plain(text, start)? })
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

    /// A path as it is meant from this file.
    fn beside(&self, path: &str) -> String {
        let from = &self.parser.sources[self.literals.file].name;
        Path::new(from).with_file_name("").join(path).display().to_string()
    }

    fn include(&mut self, path: &str, span: Span) -> Parsed<Vec<Statement>> {
        let target = self.beside(path);
        // A file that includes itself by another name ends here, too.
        if self.parser.open.contains(&target) || self.parser.open.len() >= MAX_DEPTH {
            return Err(Diagnostic::new("files include each other without end", span, "includes this file"));
        }
        if self.parser.sources.len() >= MAX_FILES {
            let title = format!("more than {MAX_FILES} files in one script");
            return Err(Diagnostic::new(title, span, "includes one more"));
        }
        let text =
            read(&target).map_err(|error| Diagnostic::new(format!("cannot read {target}"), span, error.to_string()))?;
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
        let mut reader = Reader { parser: self, literals: Literals { file } };
        if let Some(line) = lines.first().filter(|line| line.indent > 0) {
            let span = reader.span(line.start, line.text.len());
            reader.parser.errors.push(Diagnostic::new("the first line is indented", span, "belongs to nothing"));
        }
        let statements = reader.statements(&lines, 0);
        self.open.pop();
        statements
    }
}
