//! Telnet's codes, and its commands as scripts write them: `\{do echo}` stands for IAC DO ECHO.
//!
//! Names are those of the RFCs, in small letters; a number is any other option.
//! Not here: what they do to a session (`wire/telnet`).

#[cfg(any(feature = "script", feature = "record"))]
use std::fmt;

/// Begins a command; twice it is a byte of the data.
pub(crate) const IAC: u8 = 255;

/// Commands, of RFC 854 and, the first three, RFC 1184.
#[cfg(feature = "telnet")]
pub(crate) mod command {
    pub(crate) const EOF: u8 = 236;
    pub(crate) const SUSP: u8 = 237;
    pub(crate) const ABORT: u8 = 238;
    pub(crate) const SE: u8 = 240;
    pub(crate) const BRK: u8 = 243;
    pub(crate) const IP: u8 = 244;
    pub(crate) const AO: u8 = 245;
    pub(crate) const AYT: u8 = 246;
    pub(crate) const EC: u8 = 247;
    pub(crate) const EL: u8 = 248;
    pub(crate) const SB: u8 = 250;
    pub(crate) const WILL: u8 = 251;
    pub(crate) const WONT: u8 = 252;
    pub(crate) const DO: u8 = 253;
    pub(crate) const DONT: u8 = 254;
}

/// Options, of RFC 857, 858 and 1073.
#[cfg(feature = "telnet")]
pub(crate) mod option {
    pub(crate) const ECHO: u8 = 1;
    pub(crate) const SGA: u8 = 3;
    pub(crate) const NAWS: u8 = 31;
}

#[cfg(any(feature = "script", feature = "record"))]
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
#[cfg(any(feature = "script", feature = "record"))]
const NEGOTIATIONS: &[(&str, u8)] = &[("sb", 250), ("will", 251), ("wont", 252), ("do", 253), ("dont", 254)];

#[cfg(any(feature = "script", feature = "record"))]
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

#[cfg(any(feature = "script", feature = "record"))]
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
#[cfg(any(feature = "script", feature = "record"))]
pub(crate) struct Negotiation {
    command: &'static str,
    option: Option<u8>,
}

#[cfg(any(feature = "script", feature = "record"))]
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

#[cfg(any(feature = "script", feature = "record"))]
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
