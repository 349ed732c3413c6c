//! A command line of memcached's text protocol → what it asks for.
//!
//! Pure: it looks at one line, and borrows from it. memcached's `doc/protocol.txt` says what is valid; where it leaves
//! something open (how many words are too many, what `noreply` silences), this does what memcached 1.6 does.
//! Not here: the data block behind a storage command (`main`), what a command does (`store`).

/// The longest key, in bytes.
const MAX_KEY: usize = 250;

/// The longest value, in bytes without its CR LF.
pub(crate) const MAX_VALUE: usize = 1024 * 1024;

/// The most words that a command other than `get` may have behind its name.
const MAX_ARGUMENTS: usize = 6;

/// A command, or why there is none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(crate) command: Result<Command<'a>, Refusal>,
    /// How many bytes of a data block follow, with its CR LF: also where the command is refused, or they would be taken for
    /// commands. `None` if nobody can say.
    pub(crate) block: Option<u64>,
    /// Neither an answer nor an error is wanted.
    pub(crate) noreply: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command<'a> {
    Get {
        keys: Words<'a>,
        /// Each value's cas unique is wanted, too.
        with_unique: bool,
        /// For `gat` and `gats`: the expiry that each item gets.
        exptime: Option<i64>,
    },
    /// A data block follows.
    Store {
        mode: Mode,
        key: &'a [u8],
        flags: u32,
        exptime: i64,
    },
    /// As `Store`, with a value that is too long: of a `set` the key, which should no longer have the value it has.
    TooLarge(Option<&'a [u8]>),
    Delete(&'a [u8]),
    Arithmetic {
        key: &'a [u8],
        delta: Delta,
    },
    Touch {
        key: &'a [u8],
        exptime: i64,
    },
    FlushAll {
        delay: i64,
    },
    Stats,
    Version,
    Verbosity,
    Quit,
}

/// When a storage command stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Set,
    /// Only what is not there.
    Add,
    /// Only what is there, as the next two.
    Replace,
    Append,
    Prepend,
    /// Only what has this cas unique still.
    Cas(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delta {
    Increment(u64),
    Decrement(u64),
}

/// Why a line is no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Unknown,
    Format,
    DeleteFormat,
    Exptime,
    Delta,
    /// A browser was talked into sending us something: nobody should execute the lines that come behind it.
    Http,
}

impl Refusal {
    pub(crate) fn text(self) -> &'static [u8] {
        match self {
            Refusal::Unknown => b"ERROR\r\n",
            Refusal::Format => b"CLIENT_ERROR bad command line format\r\n",
            Refusal::DeleteFormat => b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n",
            Refusal::Exptime => b"CLIENT_ERROR invalid exptime argument\r\n",
            Refusal::Delta => b"CLIENT_ERROR invalid numeric delta argument\r\n",
            Refusal::Http => b"",
        }
    }
}

/// The words of a line: what is between spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self(text)
    }

    /// What is left.
    pub(crate) fn text(&self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.0.iter().position(|byte| *byte != b' ')?;
        let rest = &self.0[start..];
        let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
        let (word, rest) = rest.split_at(end);
        self.0 = rest;
        Some(word)
    }
}

/// Reads a line without its terminator.
pub(crate) fn parse(line: &[u8]) -> Request<'_> {
    let mut words = Words(line);
    let name = words.next().unwrap_or_default();
    match name {
        b"get" => return get(words, false, false),
        b"gets" => return get(words, true, false),
        b"gat" => return get(words, false, true),
        b"gats" => return get(words, true, true),
        _ => {}
    }
    let mut arguments = [&b""[..]; MAX_ARGUMENTS + 1];
    let count = arguments.iter_mut().zip(words).map(|(argument, word)| *argument = word).count();
    let arguments = &arguments[..count];
    // It is the last word of any valid command, and silences errors in the others.
    let noreply = arguments.last() == Some(&&b"noreply"[..]);
    let mode = match name {
        b"set" => Some(Mode::Set),
        b"add" => Some(Mode::Add),
        b"replace" => Some(Mode::Replace),
        b"append" => Some(Mode::Append),
        b"prepend" => Some(Mode::Prepend),
        b"cas" => Some(Mode::Cas(0)),
        _ => None,
    };
    if let Some(mode) = mode {
        let length: Option<u64> = arguments.get(3).and_then(|word| number(word));
        let command = store(mode, arguments, length);
        let noreply = noreply && command != Err(Refusal::Unknown);
        return Request { command, block: length.map(|length| length.saturating_add(2)), noreply };
    }
    let command = match (name, count) {
        (b"delete", 1) => return said(key(arguments[0]).map(Command::Delete)),
        (b"delete", 2 | 3) => delete(arguments, noreply),
        (b"incr", 2 | 3) => arithmetic(Delta::Increment, arguments),
        (b"decr", 2 | 3) => arithmetic(Delta::Decrement, arguments),
        (b"touch", 2 | 3) => key(arguments[0]).and_then(|key| {
            let exptime = number(arguments[1]).ok_or(Refusal::Exptime)?;
            Ok(Command::Touch { key, exptime })
        }),
        (b"flush_all", 0..=2) => match &arguments[..count - usize::from(noreply)] {
            [] => Ok(Command::FlushAll { delay: 0 }),
            [delay, ..] => number(delay).map(|delay| Command::FlushAll { delay }).ok_or(Refusal::Exptime),
        },
        (b"verbosity", 1 | 2) => number::<u32>(arguments[0]).map(|_| Command::Verbosity).ok_or(Refusal::Format),
        (b"stats", 0) => return said(Ok(Command::Stats)),
        (b"version", _) => return said(Ok(Command::Version)),
        (b"quit", _) => return said(Ok(Command::Quit)),
        _ if arguments.last().is_some_and(|word| word.starts_with(b"HTTP/")) => return said(Err(Refusal::Http)),
        _ => return said(Err(Refusal::Unknown)),
    };
    Request { command, block: None, noreply }
}

/// A request that is answered in any case.
fn said(command: Result<Command<'_>, Refusal>) -> Request<'_> {
    Request { command, block: None, noreply: false }
}

fn get(mut words: Words<'_>, with_unique: bool, touches: bool) -> Request<'_> {
    if words.clone().next().is_none() {
        return said(Err(Refusal::Unknown));
    }
    let mut exptime = None;
    if touches {
        exptime = words.next().and_then(number);
        if exptime.is_none() {
            return said(Err(Refusal::Exptime));
        }
    }
    // Before anything is answered: with one bad key there is no answer but the error.
    match words.clone().find_map(|word| key(word).err()) {
        Some(refusal) => said(Err(refusal)),
        None => said(Ok(Command::Get { keys: words, with_unique, exptime })),
    }
}

fn store<'a>(mode: Mode, arguments: &[&'a [u8]], length: Option<u64>) -> Result<Command<'a>, Refusal> {
    let (mode, optional) = match (mode, arguments) {
        (Mode::Cas(_), [_, _, _, _, unique, optional @ ..]) => (number(unique).map(Mode::Cas), optional),
        (Mode::Cas(_), _) => return Err(Refusal::Unknown),
        (mode, [_, _, _, _, optional @ ..]) => (Some(mode), optional),
        _ => return Err(Refusal::Unknown),
    };
    if optional.len() > 1 {
        return Err(Refusal::Unknown);
    }
    let mode = mode.ok_or(Refusal::Format)?;
    let key = key(arguments[0])?;
    let flags = number(arguments[1]).ok_or(Refusal::Format)?;
    let exptime = number(arguments[2]).ok_or(Refusal::Format)?;
    if length.ok_or(Refusal::Format)? > MAX_VALUE as u64 {
        return Ok(Command::TooLarge((mode == Mode::Set).then_some(key)));
    }
    Ok(Command::Store { mode, key, flags, exptime })
}

/// `delete` once took a time, which may still be there if it is 0.
fn delete<'a>(arguments: &[&'a [u8]], noreply: bool) -> Result<Command<'a>, Refusal> {
    match (arguments, noreply) {
        ([name, _], true) | ([name, b"0"], false) | ([name, b"0", _], true) => key(name).map(Command::Delete),
        _ => Err(Refusal::DeleteFormat),
    }
}

fn arithmetic<'a>(delta: fn(u64) -> Delta, arguments: &[&'a [u8]]) -> Result<Command<'a>, Refusal> {
    let key = key(arguments[0])?;
    let amount = number(arguments[1]).ok_or(Refusal::Delta)?;
    Ok(Command::Arithmetic { key, delta: delta(amount) })
}

fn key(word: &[u8]) -> Result<&[u8], Refusal> {
    let is_valid = word.len() <= MAX_KEY && !word.iter().any(u8::is_ascii_control);
    if is_valid { Ok(word) } else { Err(Refusal::Format) }
}

fn number<T: std::str::FromStr>(word: &[u8]) -> Option<T> {
    std::str::from_utf8(word).ok()?.parse().ok()
}
