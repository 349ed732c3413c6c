//! Telnet's commands as scripts write them: `\{do echo}` stands for IAC DO ECHO.
//!
//! Names are those of the RFCs, in small letters; a number is any other option. Not here: what they do to a session.

use std::fmt;

const IAC: u8 = 255;

const COMMANDS: &[(&str, u8)] = &[
    ("se", 240),
    ("nop", 241),
    ("dm", 242),
    ("brk", 243),
    ("ip", 244),
    ("ao", 245),
    ("ayt", 246),
    ("ec", 247),
    ("el", 248),
    ("ga", 249),
];

/// Those with an option behind them.
const NEGOTIATIONS: &[(&str, u8)] = &[("sb", 250), ("will", 251), ("wont", 252), ("do", 253), ("dont", 254)];

const OPTIONS: &[(&str, u8)] = &[
    ("binary", 0),
    ("echo", 1),
    ("sga", 3),
    ("status", 5),
    ("tm", 6),
    ("ttype", 24),
    ("eor", 25),
    ("naws", 31),
    ("tspeed", 32),
    ("lflow", 33),
    ("linemode", 34),
    ("xdisploc", 35),
    ("new-environ", 39),
    ("charset", 42),
];

/// How they are written.
#[cfg(feature = "script")]
pub(crate) const HELP: &str = "`\\{do echo}`, `\\{will 99}`: do, dont, will, wont or sb and an option (binary, echo, sga, status, tm, ttype, eor, naws, \
                               tspeed, lflow, linemode, xdisploc, new-environ, charset, or a number); or one of se, nop, dm, brk, ip, ao, ayt, ec, el, ga";

#[cfg(feature = "script")]
fn code(table: &[(&str, u8)], name: &str) -> Option<u8> {
    table.iter().find(|(known, _)| *known == name).map(|(_, code)| *code)
}

fn name(table: &[(&'static str, u8)], code: u8) -> Option<&'static str> {
    table.iter().find(|(_, known)| *known == code).map(|(name, _)| *name)
}

/// The bytes of a command in words, if it is one.
#[cfg(feature = "script")]
pub(crate) fn negotiation(words: &str) -> Option<Vec<u8>> {
    let mut words = words.split(' ');
    let (command, option) = (words.next()?, words.next());
    if words.next().is_some() {
        return None;
    }
    match option {
        None => Some(vec![IAC, code(COMMANDS, command)?]),
        Some(option) => {
            let number = || option.parse().ok().filter(|_| option.bytes().all(|byte| byte.is_ascii_digit()));
            Some(vec![IAC, code(NEGOTIATIONS, command)?, code(OPTIONS, option).or_else(number)?])
        }
    }
}

/// A command at the beginning of some bytes.
pub(crate) struct Negotiation {
    command: &'static str,
    option: Option<u8>,
}

impl Negotiation {
    pub(crate) fn at(bytes: &[u8]) -> Option<Self> {
        let [IAC, code, rest @ ..] = bytes else { return None };
        if let Some(command) = name(COMMANDS, *code) {
            return Some(Self { command, option: None });
        }
        let command = name(NEGOTIATIONS, *code)?;
        rest.first().map(|option| Self { command, option: Some(*option) })
    }

    /// How many bytes it is.
    pub(crate) fn len(&self) -> usize {
        if self.option.is_some() { 3 } else { 2 }
    }
}

impl fmt::Display for Negotiation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\\{{{}", self.command)?;
        match self.option.map(|option| (option, name(OPTIONS, option))) {
            Some((_, Some(name))) => write!(f, " {name}}}"),
            Some((option, None)) => write!(f, " {option}}}"),
            None => f.write_str("}"),
        }
    }
}
