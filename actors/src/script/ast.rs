//! The syntax tree of a script: the parser makes it, the runner walks it, and it is written down again here.
//!
//! A tree that is displayed parses to the same tree. Not here: how it is read (`parse`), what it does (`run`).

use std::{
    fmt::{self, Write},
    sync::Arc,
    time::Duration,
};

use rustix::process::Signal;

use crate::shown::Shown;

/// Where something stands: bytes `start..end` of a source.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    pub(crate) file: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Span {
    /// The place of what is in no file.
    pub(crate) fn nowhere() -> Self {
        Self { file: usize::MAX, start: 0, end: 0 }
    }
}

/// A span says where, not what: trees that say the same are equal wherever they were read.
impl PartialEq for Span {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Bytes with variables in between.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Text {
    pub(crate) parts: Vec<Part>,
    pub(crate) span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Part {
    Bytes(Vec<u8>),
    Variable(String),
    /// All of a text between quotes, again and again.
    Times {
        parts: Vec<Part>,
        /// A number, or a variable.
        count: Box<Part>,
    },
}

/// A regular expression, in which variables stand for their bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pattern {
    pub(crate) source: String,
    /// Names of its captures.
    pub(crate) captures: Vec<String>,
    pub(crate) span: Span,
}

/// What is sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Data {
    /// A text and the newline that holds.
    Line(Text),
    Bytes(Text),
    Hex(Vec<u8>),
    /// What a file had when the script was read.
    File {
        path: String,
        bytes: Arc<[u8]>,
    },
}

/// What has to come.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Matcher {
    /// A line, without its terminator.
    Line(Text),
    /// What a line begins with.
    Prefix(Text),
    /// Exact bytes, lines or not.
    Bytes(Text),
    /// A line in which the pattern is found.
    Pattern(Pattern),
    Eof,
    Reset,
    /// An end of TCP before TLS said that it ends.
    Truncated,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// To an address, or to the service.
    Connect(Option<Text>),
    /// Connects, and has to be refused.
    Refused(Option<Text>),
    /// Listens on a free port, where others connect to it.
    Listen,
    /// Takes the next who has connected to it.
    Accept,
    /// Half-close: the FIN.
    Fin,
    Close,
    Reset,
    Quiet(Duration),
    Pause,
    Resume,
    /// Chunks of so many bytes for what is sent from here on. `None`: in one piece.
    Split(Option<usize>),
    /// Cuts of what is sent next, each behind so many of its bytes.
    SplitAt(Vec<usize>),
}

/// Something that a peer has to receive.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expectation {
    pub(crate) peer: String,
    pub(crate) matcher: Matcher,
    pub(crate) span: Span,
}

/// What is done with a server, or has to come from it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ServerAction {
    Exit(Ending),
    Signal(SignalName),
    /// A line of what it says.
    Log(Pattern),
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ending {
    Code(u8),
    Signal(SignalName),
}

/// A signal, by its name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SignalName(pub(crate) &'static str, pub(crate) Signal);

pub(crate) const SIGNALS: &[SignalName] = &[
    SignalName("ABRT", Signal::ABORT),
    SignalName("ALRM", Signal::ALARM),
    SignalName("BUS", Signal::BUS),
    SignalName("CONT", Signal::CONT),
    SignalName("FPE", Signal::FPE),
    SignalName("HUP", Signal::HUP),
    SignalName("ILL", Signal::ILL),
    SignalName("INT", Signal::INT),
    SignalName("KILL", Signal::KILL),
    SignalName("PIPE", Signal::PIPE),
    SignalName("QUIT", Signal::QUIT),
    SignalName("SEGV", Signal::SEGV),
    SignalName("STOP", Signal::STOP),
    SignalName("TERM", Signal::TERM),
    SignalName("USR1", Signal::USR1),
    SignalName("USR2", Signal::USR2),
    SignalName("WINCH", Signal::WINCH),
];

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Newline {
    Lf,
    CrLf,
    None,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Send {
        peer: String,
        data: Data,
    },
    Expect(Expectation),
    /// May come before the next thing that has to.
    Optional(Expectation),
    /// Has to come; what comes before it is skipped.
    Until(Expectation),
    /// Must not come until the end of the block.
    Never(Expectation),
    OneOf(Vec<Expectation>),
    Unordered(Vec<Expectation>),
    Act {
        peer: String,
        action: Action,
    },
    After(Duration),
    Repeat {
        count: Text,
        body: Vec<Statement>,
    },
    Include {
        path: String,
        body: Vec<Statement>,
    },
    Let {
        name: String,
        value: Text,
    },
    Newline(Newline),
    Timeout(Duration),
    /// Names of what has to be there.
    Needs(Vec<String>),
    /// Starts a program. Its name is empty where there is one.
    Server {
        name: String,
        command: Text,
    },
    OfServer {
        name: String,
        action: ServerAction,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Statement {
    pub(crate) kind: Kind,
    pub(crate) span: Span,
}

impl Newline {
    pub(crate) fn bytes(self) -> &'static [u8] {
        match self {
            Self::Lf => b"\n",
            Self::CrLf => b"\r\n",
            Self::None => b"",
        }
    }
}

impl Text {
    /// Whether a variable stands in it.
    pub(crate) fn uses(&self, name: &str) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Variable(variable) if variable == name))
    }

    /// A text that needs no quotes to be read as it is.
    fn is_plain(&self) -> bool {
        let plain = |part: &Part| match part {
            Part::Variable(_) => true,
            Part::Times { .. } => false,
            Part::Bytes(bytes) => std::str::from_utf8(bytes).is_ok_and(|text| !text.contains(char::is_control)),
        };
        let edge = |part: Option<&Part>, last: bool| match part {
            Some(Part::Bytes(bytes)) => {
                let at_edge = if last { bytes.last() } else { bytes.first() };
                at_edge.is_some_and(|byte| *byte != b' ' && (last || *byte != b'"'))
            }
            Some(Part::Variable(_)) => true,
            Some(Part::Times { .. }) | None => false,
        };
        self.parts.iter().all(plain) && edge(self.parts.first(), false) && edge(self.parts.last(), true)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, quoted: bool) -> fmt::Result {
        Self::write_parts(&self.parts, f, quoted)
    }

    fn write_parts(parts: &[Part], f: &mut fmt::Formatter<'_>, quoted: bool) -> fmt::Result {
        for part in parts {
            match part {
                Part::Bytes(bytes) => {
                    let shown =
                        if quoted { Shown(bytes).to_string() } else { String::from_utf8_lossy(bytes).into_owned() };
                    f.write_str(&shown.replace('$', "$$"))?;
                }
                Part::Variable(name) => write!(f, "${{{name}}}")?,
                // Only ever all of a text: see `quoted`.
                Part::Times { parts, .. } => Self::write_parts(parts, f, quoted)?,
            }
        }
        Ok(())
    }

    /// As plain text, whatever it begins and ends with.
    fn unquoted(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, false)
    }

    fn quoted(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        self.write(f, true)?;
        f.write_char('"')?;
        if let [Part::Times { count, .. }] = self.parts.as_slice() {
            f.write_str(" * ")?;
            Self::write_parts(std::slice::from_ref(count), f, true)?;
        }
        Ok(())
    }
}

/// As plain text where that is possible, between quotes elsewhere.
impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_plain() { self.write(f, false) } else { self.quoted(f) }
    }
}

/// A time in the largest unit that says it exactly.
pub(crate) struct Time(pub(crate) Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];
        let (unit, name) =
            units.into_iter().find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit)).unwrap_or((1, "ms"));
        write!(f, "{}{name}", millis / unit)
    }
}

/// With the space that parts it from its operator.
struct Spaced<'a>(&'a Text);

impl fmt::Display for Spaced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.parts.is_empty() { Ok(()) } else { write!(f, " {}", self.0) }
    }
}

impl Expectation {
    /// `may` stands behind the operator.
    fn write(&self, f: &mut fmt::Formatter<'_>, may: &str) -> fmt::Result {
        let peer = &self.peer;
        match &self.matcher {
            Matcher::Line(text) => write!(f, "{peer}<{may}{}", Spaced(text)),
            Matcher::Prefix(text) => write!(f, "{peer}<{may}^{}", Spaced(text)),
            Matcher::Bytes(text) => {
                write!(f, "{peer}<{may} ")?;
                text.quoted(f)
            }
            Matcher::Pattern(pattern) => write!(f, "{peer}<{may} /{}/", pattern.source),
            Matcher::Eof => write!(f, "{peer}: eof"),
            Matcher::Reset => write!(f, "{peer}: reset by peer"),
            Matcher::Truncated => write!(f, "{peer}: truncated"),
        }
    }
}

impl Expectation {
    fn write_until(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: until", self.peer)?;
        match &self.matcher {
            Matcher::Line(text) => write!(f, "{}", Spaced(text)),
            Matcher::Prefix(text) => write!(f, " ^{}", Spaced(text)),
            Matcher::Bytes(text) => {
                f.write_char(' ')?;
                text.quoted(f)
            }
            Matcher::Pattern(pattern) => write!(f, " /{}/", pattern.source),
            // The parser makes none of these.
            Matcher::Eof | Matcher::Reset | Matcher::Truncated => Ok(()),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(None) => f.write_str("connect"),
            Self::Refused(None) => f.write_str("refused"),
            Self::Connect(Some(address)) => {
                f.write_str("connect ")?;
                address.unquoted(f)
            }
            Self::Refused(Some(address)) => {
                f.write_str("refused ")?;
                address.unquoted(f)
            }
            Self::Listen => f.write_str("listen"),
            Self::Accept => f.write_str("accept"),
            Self::Fin => f.write_str("fin"),
            Self::Close => f.write_str("close"),
            Self::Reset => f.write_str("reset"),
            Self::Quiet(time) => write!(f, "quiet {}", Time(*time)),
            Self::Pause => f.write_str("pause"),
            Self::Resume => f.write_str("resume"),
            Self::Split(Some(size)) => write!(f, "split {size}"),
            Self::Split(None) => f.write_str("split off"),
            Self::SplitAt(cuts) => {
                f.write_str("split at")?;
                cuts.iter().try_for_each(|cut| write!(f, " {cut}"))
            }
        }
    }
}

impl fmt::Display for ServerAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(Ending::Code(code)) => write!(f, "exit {code}"),
            Self::Exit(Ending::Signal(signal)) => write!(f, "exit {}", signal.0),
            Self::Signal(signal) => write!(f, "signal {}", signal.0),
            Self::Log(pattern) => write!(f, "log /{}/", pattern.source),
        }
    }
}

impl Statement {
    /// Writes it as lines, so many steps to the right.
    pub(crate) fn write(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        let indent = "  ".repeat(depth);
        f.write_str(&indent)?;
        let mut block: &[Statement] = &[];
        let mut choices: &[Expectation] = &[];
        match &self.kind {
            Kind::Send { peer, data } => match data {
                Data::Line(text) => write!(f, "{peer}>{}", Spaced(text))?,
                Data::Bytes(text) => {
                    write!(f, "{peer}> ")?;
                    text.quoted(f)?;
                }
                Data::Hex(bytes) => {
                    write!(f, "{peer}: hex")?;
                    bytes.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
                }
                Data::File { path, .. } => write!(f, "{peer}>> {path}")?,
            },
            Kind::Expect(expectation) => expectation.write(f, "")?,
            Kind::Optional(expectation) => expectation.write(f, "?")?,
            Kind::Until(expectation) => expectation.write_until(f)?,
            Kind::Never(expectation) => expectation.write(f, "!")?,
            Kind::OneOf(body) => {
                f.write_str("one-of")?;
                choices = body;
            }
            Kind::Unordered(body) => {
                f.write_str("unordered")?;
                choices = body;
            }
            Kind::Act { peer, action } => write!(f, "{peer}: {action}")?,
            Kind::After(time) => write!(f, ": after {}", Time(*time))?,
            Kind::Repeat { count, body } => {
                write!(f, "repeat {count}")?;
                block = body;
            }
            Kind::Include { path, .. } => write!(f, "include {path}")?,
            Kind::Let { name, value } => {
                if value.parts.is_empty() {
                    write!(f, "let {name} = \"\"")?;
                } else {
                    write!(f, "let {name} = {value}")?;
                }
            }
            Kind::Newline(newline) => f.write_str(match newline {
                Newline::Lf => "newline lf",
                Newline::CrLf => "newline crlf",
                Newline::None => "newline none",
            })?,
            Kind::Timeout(time) => write!(f, "timeout {}", Time(*time))?,
            Kind::Needs(names) => write!(f, "needs {}", names.join(" "))?,
            Kind::Server { name, command } => {
                f.write_str("server ")?;
                if !name.is_empty() {
                    write!(f, "{name} = ")?;
                }
                command.unquoted(f)?;
            }
            Kind::OfServer { name, action } => {
                write!(f, "server{}{name}: {action}", if name.is_empty() { "" } else { " " })?;
            }
        }
        f.write_char('\n')?;
        for expectation in choices {
            write!(f, "{indent}  ")?;
            expectation.write(f, "")?;
            f.write_char('\n')?;
        }
        block.iter().try_for_each(|statement| statement.write(f, depth + 1))
    }
}
