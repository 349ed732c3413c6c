//! Client: runs a command of the console, and shows its answer.
//!
//! Rule: what was not answered is not sent again; whoever asked decides. A connection is made when there is a command for it.
//! Not here: lines and signals (`wire`), tables (`show`).

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use actix_lines::{Escaped, ListenAddress};

use super::{
    BAD_USAGE, FAILED, INTERRUPTED, TERMINATED, UNREACHABLE,
    place::{Place, TOKEN, Unreachable},
    record::{Said, Value, field},
    show::{Color, Form, Show, Style},
    units::{printable, printable_json},
    wire::{Event, Lost, Signal, Signals, Waits, Wire},
};
use crate::reason::reason;

/// Silence after which what was held for a table is shown.
const LULL: Duration = Duration::from_millis(100);

/// Longest wait for what comes at once: the end of an answer that we have ended, the word for a token.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for the first byte of an answer that comes at once.
const FIRST_TIMEOUT: Duration = Duration::from_secs(5);

/// Most letters of what a stranger said.
const QUOTED: usize = 60;

/// Commands that go on until they are told to end.
const ENDLESS: [&str; 3] = ["watch", "top", "trace"];

/// Why a command was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// The words of the command line are wrong.
    Usage(String),
    Unreachable(Unreachable),
    /// What answers is no console: what it said; empty if it said nothing.
    Stranger(String),
    /// The console's word about a token that it misses, or another than its own.
    Token(String),
    /// The console's word.
    Refused(String),
    /// A command of a script, by the number of its line.
    Line(usize, Box<Failure>),
    /// Commands of a script failed, and were told of.
    Several,
    Lost(Lost),
    /// The text is the command's advice.
    Interrupted(Option<&'static str>),
    /// SIGTERM.
    Terminated,
    Input(io::Error),
    Output(io::Error),
    /// Nobody reads our output any more: no failure of anybody.
    NoReader,
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

/// For output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::NoReader } else { Self::Output(error) }
    }
}

impl Failure {
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => BAD_USAGE,
            Self::Unreachable(_) | Self::Stranger(_) | Self::Token(_) => UNREACHABLE,
            Self::Line(_, failure) => failure.code(),
            Self::Interrupted(_) => INTERRUPTED,
            Self::Terminated => TERMINATED,
            Self::NoReader => 0,
            Self::Refused(_) | Self::Several | Self::Lost(_) | Self::Input(_) | Self::Output(_) => FAILED,
        }
    }

    /// Says it on standard error.
    pub(super) fn tell(&self, style: Style) {
        if let Some(message) = self.message() {
            let before = style.paint(Color::Red, "rot13d ctl:");
            // A closed standard error is no reason to panic.
            let _ = writeln!(io::stderr(), "{before} {message}");
        }
    }

    fn message(&self) -> Option<String> {
        Some(match self {
            Self::Usage(message) => message.clone(),
            Self::Refused(message) => printable(message).into_owned(),
            Self::Unreachable(unreachable) => unreachable.to_string(),
            Self::Stranger(said) if said.is_empty() => format!(
                "no answer within {} s: that is no console, or its server is stuck; give the address that rot13d logged at \
                 its start",
                FIRST_TIMEOUT.as_secs()
            ),
            Self::Stranger(said) => {
                let (quoted, rest) = match said.char_indices().nth(QUOTED) {
                    Some((end, _)) => (&said[..end], "..."),
                    None => (said.as_str(), ""),
                };
                format!("that is no console: it answered \"{}{rest}\"", Escaped::new(quoted))
            }
            Self::Token(message) => {
                format!("{}; this console wants a token: --token FILE or {TOKEN}", printable(message))
            }
            Self::Line(line, failure) => format!("line {line}: {}", failure.message()?),
            Self::Lost(lost) => lost.to_string(),
            Self::Interrupted(advice) => (*advice)?.to_owned(),
            Self::Input(error) => format!("cannot read commands: {}", reason(error)),
            Self::Output(error) => format!("cannot write to standard output: {}", reason(error)),
            Self::Several | Self::NoReader | Self::Terminated => return None,
        })
    }
}

/// The console's command, and whether its own word for JSON stood before it.
pub(super) fn without_json<'a>(line: &'a str, style: &mut Style) -> &'a str {
    match line.trim().split_once(char::is_whitespace) {
        Some(("json", command)) => {
            style.is_json = true;
            command.trim_start()
        }
        _ => line.trim(),
    }
}

/// Returns the first word of a command.
pub(super) fn first_word(command: &str) -> &str {
    command.split_whitespace().next().unwrap_or("")
}

/// Returns true for a command that goes on until it is told to end.
pub(super) fn is_endless(command: &str) -> bool {
    let mut words = command.split_whitespace().take_while(|word| *word != "--");
    words.next().is_some_and(|first| ENDLESS.contains(&first)) && !words.any(|word| word == "once")
}

/// A client of the console.
#[derive(Debug)]
pub(super) struct Client {
    place: Place,
    wire: Option<Wire>,
    /// Where the last connection led.
    address: Option<ListenAddress>,
    /// The last connection was closed here, or its loss was told.
    is_expected: bool,
    signals: Option<Signals>,
    /// Also a key ends what goes on and on.
    pub(super) has_keys: bool,
}

impl Client {
    pub(super) fn new(place: Place) -> Self {
        Self { place, wire: None, address: None, is_expected: false, signals: None, has_keys: false }
    }

    /// Runs a command, and shows its answer.
    pub(super) fn run(&mut self, command: &str, style: Style, out: &mut impl Write) -> Result<(), Failure> {
        // Pasted at a prompt; each further line would be a command whose answer is taken for that of the next.
        if command.contains('\n') {
            return Err(Failure::Usage("a command is one line: nothing is done; paste one after the other".to_owned()));
        }
        if is_endless(command) && self.signals.is_none() {
            self.take_signals()?;
        }
        let mut result = self.answer(command, style, out);
        if command == "quit" && matches!(result, Err(Failure::Lost(Lost::Closed))) {
            result = Ok(());
        }
        // What is unread would be taken for the answer to the next command.
        let is_unread = matches!(
            result,
            Err(Failure::Lost(_)
                | Failure::Stranger(_)
                | Failure::Token(_)
                | Failure::Interrupted(_)
                | Failure::Output(_)
                | Failure::NoReader)
        );
        if is_unread || command == "quit" {
            self.close();
        }
        match (result, out.flush()) {
            (Ok(()), flushed) => flushed.map_err(Failure::from),
            (Err(failure), _) => Err(failure),
        }
    }

    /// Has SIGINT end a command instead of this process.
    pub(super) fn take_signals(&mut self) -> Result<(), Failure> {
        if self.signals.is_none() {
            self.signals = Some(Signals::new(&[Signal::Interrupt]).map_err(Failure::Input)?);
        }
        Ok(())
    }

    /// Returns a connection for a command: that of the last one, or if it is lost, another.
    pub(super) fn connected(&mut self) -> Result<&mut Wire, Failure> {
        if self.wire.as_mut().is_some_and(Wire::is_closed) {
            self.wire = None;
        }
        let wire = match self.wire.take() {
            Some(wire) => wire,
            None => {
                let (socket, address) = self.place.connect().map_err(Failure::Unreachable)?;
                let mut wire = Wire::new(socket);
                if let Some(token) = self.place.token() {
                    authenticate(&mut wire, token)?;
                }
                if self.address.replace(address.clone()).is_some() && !self.is_expected {
                    let address = address.to_string();
                    let _ = writeln!(
                        io::stderr(),
                        "The connection was lost; connected again to {}.",
                        Escaped::new(&address)
                    );
                }
                self.is_expected = false;
                wire
            }
        };
        Ok(self.wire.insert(wire))
    }

    /// Returns the address of the last connection.
    pub(super) fn address(&self) -> Option<&ListenAddress> {
        self.address.as_ref()
    }

    /// Forgets a SIGINT that somebody else was told of as well.
    pub(super) fn forget_signals(&mut self) {
        while self.signals.as_ref().and_then(Signals::take).is_some() {}
    }

    /// Closes the connection: no loss to speak of.
    pub(super) fn close(&mut self) {
        self.wire = None;
        self.is_expected = true;
    }

    fn answer(&mut self, command: &str, style: Style, out: &mut impl Write) -> Result<(), Failure> {
        self.connected()?;
        let Some(wire) = &mut self.wire else { return Ok(()) };
        let mut show = Show::new(style, Form::of(first_word(command)));
        let mut notes = Notes::default();
        // Its help for people is more than its help for programs.
        let is_text = first_word(command) == "help" && !style.is_json;
        wire.send(&if is_text { command.to_owned() } else { format!("json {command}") })?;
        let waits = Waits { signals: self.signals.as_ref(), keys: self.has_keys, timeout: None };
        let error = receive(wire, command, waits, &mut show, &mut notes, out);
        // What came of an answer that was cut short is shown, too.
        if !matches!(error, Err(Failure::Output(_) | Failure::NoReader)) {
            show.flush(out)?;
        }
        if let Some(message) = error? {
            return Err(Failure::Refused(message));
        }
        if style.is_json { Ok(()) } else { self.explain(command, &notes, style, out) }
    }

    /// Says what a table or a number alone does not: how many there are, and which a dry run means.
    fn explain(&mut self, command: &str, notes: &Notes, style: Style, out: &mut impl Write) -> Result<(), Failure> {
        let Some(wire) = &mut self.wire else { return Ok(()) };
        let words: Vec<_> = command.split_whitespace().collect();
        match words[..] {
            ["list", ..] if notes.records == 0 => writeln!(out, "{}", sessions(0))?,
            ["list", ..] if words.contains(&"limit") => {
                if let Some(Said::Record(fields)) =
                    ask(wire, &counting(&words), END_TIMEOUT).unwrap_or_default().first()
                    && let Some(all) = field(fields, "sessions").and_then(Value::count)
                {
                    writeln!(out, "{} of {}", notes.records, sessions(all))?;
                }
            }
            _ => {}
        }
        let mut table = Show::new(style, Form::Table);
        for id in &notes.first {
            // One that has ended meanwhile has no row.
            let Ok(answer) = ask(wire, &format!("show {id}"), END_TIMEOUT) else { break };
            for said in answer {
                if let Said::Record(fields) = said {
                    table.record(fields, out)?;
                }
            }
        }
        Ok(table.flush(out)?)
    }

    /// Asks for records that nobody is shown, as completions. Nothing where it takes too long or fails.
    pub(super) fn ask(&mut self, command: &str, patience: Duration) -> Vec<Said> {
        let Ok(wire) = self.connected() else { return Vec::new() };
        ask(wire, command, patience).unwrap_or_else(|records| {
            // Late lines would be taken for another answer.
            self.close();
            records
        })
    }
}

/// What was seen of an answer, for what is said behind it.
#[derive(Debug, Default)]
struct Notes {
    records: u64,
    /// The sessions that a dry run names, each by its number or its id.
    first: Vec<String>,
}

impl Notes {
    /// Takes note of a record; returns the sentence that is shown in its place.
    fn take(&mut self, command: &str, fields: &[(String, Value)]) -> Option<String> {
        self.records += 1;
        if let Some(sentence) = answer_of_node(fields) {
            return Some(sentence);
        }
        let count = |name| field(fields, name).and_then(Value::count);
        let text = |name| field(fields, name).and_then(Value::text);
        if field(fields, "dry_run") == Some(&Value::Bool(true)) {
            let would = match first_word(command) {
                "kick" => format!("would end {}", sessions(count("sessions")?)),
                "set" => {
                    let change = format!("{} {} -> {}", text("key")?, text("from")?, text("to")?);
                    format!("{change} would end {}", sessions(count("ends")?))
                }
                _ => return None,
            };
            if let Some(Value::List(ids)) = field(fields, "first") {
                self.first = ids
                    .iter()
                    .filter_map(|id| id.text().map(str::to_owned).or_else(|| Some(id.count()?.to_string())))
                    .collect();
            }
            return Some(would);
        }
        let is_none = first_word(command) == "kick" && count("sessions") == Some(0);
        is_none.then(|| format!("{}: no live one is meant by that, list shows them", sessions(0)))
    }
}

/// What has become of a command on one node, in the console's own words: `web-2: 3 sessions`.
fn answer_of_node(fields: &[(String, Value)]) -> Option<String> {
    let node = field(fields, "node")?.text()?;
    let outcome = match field(fields, "outcome")? {
        Value::Text(word) => word.replace('-', " "),
        Value::Record(inner) => match inner.first()? {
            (done, Value::Record(counts)) if done == "done" => {
                let count = |name| field(counts, name).and_then(Value::count).unwrap_or(0);
                match count("dropped") {
                    0 => sessions(count("sessions")),
                    dropped => format!("{}, {dropped} dropped", sessions(count("sessions"))),
                }
            }
            (failed, Value::Record(why)) => format!("{}: {}", failed.replace('-', " "), why.first()?.1.text()?),
            _ => return None,
        },
        _ => return None,
    };
    Some(format!("{node}: {outcome}"))
}

fn sessions(count: u64) -> String {
    if count == 1 { "1 session".to_owned() } else { format!("{count} sessions") }
}

/// The command that counts what a `list` takes from.
fn counting(list: &[&str]) -> String {
    let mut command = "count".to_owned();
    let mut words = list.iter().skip(1);
    while let Some(word) = words.next() {
        if ["sort", "limit", "offset"].contains(word) {
            words.next();
        } else {
            command = [&command, " ", word].concat();
        }
    }
    command
}

/// Asks for records, and returns them. Nobody may listen to the console any more after an error, which has what came.
fn ask(wire: &mut Wire, command: &str, patience: Duration) -> Result<Vec<Said>, Vec<Said>> {
    let mut records = Vec::new();
    if wire.send(&format!("json {command}")).is_err() {
        return Err(records);
    }
    loop {
        match wire.next(Waits { timeout: Some(patience), ..Waits::default() }) {
            Ok(Event::Line(line)) => records.push(Said::new(&line)),
            Ok(Event::End) => return Ok(records),
            _ => return Err(records),
        }
    }
}

fn authenticate(wire: &mut Wire, token: &str) -> Result<(), Failure> {
    wire.send(&format!("token {token}"))?;
    let until = Instant::now() + END_TIMEOUT;
    let mut error = None;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // Whoever goes on talking has no answer for us.
        if left.is_zero() {
            return Err(Failure::Lost(Lost::Silent));
        }
        match wire.next(Waits { timeout: Some(left), ..Waits::default() }) {
            Ok(Event::Line(line)) => match Said::new(&line) {
                Said::Error(message) => error = Some(message),
                _ => return Err(Failure::Stranger(line)),
            },
            Ok(Event::End) if error.is_none() => return Ok(()),
            // It is closed behind an error.
            Ok(Event::End) | Err(_) if error.is_some() => return Err(Failure::Token(error.unwrap_or_default())),
            Err(lost) => return Err(lost.into()),
            Ok(Event::Quiet) => return Err(Failure::Stranger(String::new())),
            Ok(_) => {}
        }
    }
}

/// Returns true for what a console says to whoever did not begin with its token.
fn is_about_token(message: &str) -> bool {
    message.starts_with("\"token\" ") && message.contains("secret")
}

/// Shows an answer as it comes, to its end. Returns the error in it.
fn receive(
    wire: &mut Wire,
    command: &str,
    waits: Waits<'_>,
    show: &mut Show,
    notes: &mut Notes,
    out: &mut impl Write,
) -> Result<Option<String>, Failure> {
    let is_endless = is_endless(command);
    let takes_time = is_endless || ["top", "drain"].contains(&first_word(command));
    let is_help = first_word(command) == "help" && !show.is_json();
    let (mut is_first, mut wants_token) = (true, false);
    let (mut error, mut is_ending, mut is_flushed) = (None, false, true);
    loop {
        let timeout = match (is_ending, is_flushed && !show.holds()) {
            (true, _) => Some(END_TIMEOUT),
            // Whoever answers help and does not end it is no console.
            (false, true) if !takes_time && (is_first || is_help) => Some(FIRST_TIMEOUT),
            (false, true) => None,
            (false, false) => Some(LULL),
        };
        match wire.next(Waits { timeout, keys: waits.keys && is_endless && !is_ending, ..waits })? {
            Event::Line(line) => {
                is_flushed = false;
                is_first = false;
                match Said::new(&line) {
                    Said::Error(message) => {
                        wants_token |= is_about_token(&message) && !line.starts_with('{');
                        error = Some(message);
                    }
                    Said::Text(_) if !is_help || line.starts_with("HTTP/") => return Err(Failure::Stranger(line)),
                    _ if show.is_json() => writeln!(out, "{}", printable_json(&line))?,
                    Said::Record(fields) => match notes.take(command, &fields) {
                        Some(sentence) => writeln!(out, "{}", printable(&sentence))?,
                        None => show.record(fields, out)?,
                    },
                    Said::Text(text) => {
                        show.flush(out)?;
                        writeln!(out, "{}", printable(&text))?;
                    }
                }
            }
            Event::End if wants_token => return Err(Failure::Token(error.unwrap_or_default())),
            Event::End => return Ok(error),
            Event::Quiet if is_ending => return Err(Failure::Lost(Lost::Silent)),
            Event::Quiet if timeout == Some(FIRST_TIMEOUT) => return Err(Failure::Stranger(String::new())),
            Event::Quiet => {
                show.flush(out)?;
                out.flush()?;
                is_flushed = true;
            }
            Event::Signal(_) if is_endless && !is_ending => {
                wire.send("")?;
                is_ending = true;
            }
            Event::Key => {
                let mut line = String::new();
                io::stdin().read_line(&mut line).map_err(Failure::Input)?;
                wire.send("")?;
                is_ending = true;
            }
            Event::Signal(_) => {
                let advice = (first_word(command) == "drain").then_some("the server goes on to drain");
                return Err(Failure::Interrupted(advice));
            }
            Event::NoReader => return Err(Failure::NoReader),
        }
    }
}
