//! A command line of SMTP → what it asks for.
//!
//! Pure: it looks at one line, and borrows from it. It is as strict as the grammar of RFC 5321, section 4.1.2: a mailer that
//! is tested against the sink should hear of its mistakes here, not from a server that refuses them.
//! Not here: which command may come when, and what it does (`main`).

use std::fmt::{self, Display, Formatter};

/// The longest path, with its angle brackets. Unit: bytes. RFC 5321, 4.5.3.1.3.
const MAX_PATH: usize = 256;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command<'a> {
    Ehlo,
    Helo,
    StartTls,
    Mail {
        /// Empty for a bounce, which nobody answers.
        from: &'a str,
        /// How many bytes the client means to send.
        size: Option<u64>,
    },
    Rcpt {
        to: &'a str,
    },
    Data,
    Rset,
    Noop,
    Vrfy,
    Help,
    Quit,
    /// A browser was talked into sending us something: nobody should execute the lines that come behind it.
    Http,
}

/// Why a line is no command. It displays as the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Unknown,
    NotImplemented,
    /// A bare LF or CR in it, for one: it could be two commands to somebody else.
    NotPrintable,
    /// How the command is written.
    Syntax(&'static str),
    PathTooLong,
    Parameter,
}

impl Display for Refusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Unknown => f.write_str("500 5.5.2 Unknown command"),
            Refusal::NotImplemented => f.write_str("502 5.5.1 Not implemented"),
            Refusal::NotPrintable => f.write_str("500 5.5.2 A command is printable ASCII"),
            Refusal::Syntax(form) => write!(f, "501 5.5.4 Syntax: {form}"),
            Refusal::PathTooLong => f.write_str("501 5.1.7 Path too long"),
            Refusal::Parameter => f.write_str("555 5.5.4 Unknown parameter"),
        }
    }
}

/// Reads a line without its terminator.
pub(crate) fn parse(line: &[u8]) -> Result<Command<'_>, Refusal> {
    let line = line.trim_ascii_end();
    let line = str::from_utf8(line).ok().filter(|line| line.bytes().all(|byte| matches!(byte, b' '..=b'~')));
    let line = line.ok_or(Refusal::NotPrintable)?;
    let (verb, arguments) = line.split_once(' ').unwrap_or((line, ""));
    let alone = |command, form| if arguments.is_empty() { Ok(command) } else { Err(Refusal::Syntax(form)) };
    let with_word = |command, form| {
        let is_word = !arguments.is_empty() && !arguments.contains(' ');
        if is_word { Ok(command) } else { Err(Refusal::Syntax(form)) }
    };
    match verb.to_ascii_uppercase().as_str() {
        "EHLO" => with_word(Command::Ehlo, "EHLO name"),
        "HELO" => with_word(Command::Helo, "HELO name"),
        "STARTTLS" => alone(Command::StartTls, "STARTTLS"),
        "MAIL" => mail(arguments),
        "RCPT" => rcpt(arguments),
        "DATA" => alone(Command::Data, "DATA"),
        "RSET" => alone(Command::Rset, "RSET"),
        "QUIT" => alone(Command::Quit, "QUIT"),
        "VRFY" if arguments.is_empty() => Err(Refusal::Syntax("VRFY name")),
        "VRFY" => Ok(Command::Vrfy),
        "NOOP" => Ok(Command::Noop),
        "HELP" => Ok(Command::Help),
        "EXPN" => Err(Refusal::NotImplemented),
        "GET" | "HEAD" | "POST" | "PUT" | "OPTIONS" | "CONNECT" => Ok(Command::Http),
        _ => Err(Refusal::Unknown),
    }
}

fn mail(arguments: &str) -> Result<Command<'_>, Refusal> {
    const FORM: Refusal = Refusal::Syntax("MAIL FROM:<address> [SIZE=bytes] [BODY=7BIT|8BITMIME]");
    let (from, parameters) = path(arguments, "FROM:", FORM)?;
    if !(from.is_empty() || is_mailbox(from)) {
        return Err(FORM);
    }
    let mut size = None;
    for parameter in parameters {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name.to_ascii_uppercase().as_str() {
            // More than a number holds is too much in any case.
            "SIZE" if is_number(value) && size.is_none() => size = Some(value.parse().unwrap_or(u64::MAX)),
            "BODY" if value.eq_ignore_ascii_case("7BIT") || value.eq_ignore_ascii_case("8BITMIME") => {}
            "SIZE" | "BODY" => return Err(FORM),
            _ => return Err(Refusal::Parameter),
        }
    }
    Ok(Command::Mail { from, size })
}

fn rcpt(arguments: &str) -> Result<Command<'_>, Refusal> {
    const FORM: Refusal = Refusal::Syntax("RCPT TO:<address>");
    let (to, mut parameters) = path(arguments, "TO:", FORM)?;
    if !(is_mailbox(to) || to.eq_ignore_ascii_case("postmaster")) {
        return Err(FORM);
    }
    if parameters.next().is_some() { Err(Refusal::Parameter) } else { Ok(Command::Rcpt { to }) }
}

/// The address between angle brackets behind `keyword`, and the parameters behind that.
fn path<'a>(
    arguments: &'a str,
    keyword: &str,
    form: Refusal,
) -> Result<(&'a str, impl Iterator<Item = &'a str>), Refusal> {
    let begins = arguments.get(..keyword.len()).is_some_and(|word| word.eq_ignore_ascii_case(keyword));
    let text = arguments.get(keyword.len()..).filter(|_| begins).and_then(|text| text.strip_prefix('<')).ok_or(form)?;
    // A bracket in quotes ends nothing.
    let (mut is_quoted, mut is_escaped) = (false, false);
    let end = text.find(|letter| {
        let was_escaped = is_escaped;
        is_escaped = is_quoted && !was_escaped && letter == '\\';
        is_quoted ^= letter == '"' && !was_escaped;
        letter == '>' && !is_quoted
    });
    let end = end.ok_or(form)?;
    if end + 2 > MAX_PATH {
        return Err(Refusal::PathTooLong);
    }
    let (address, rest) = (&text[..end], &text[end + 1..]);
    if !(rest.is_empty() || rest.starts_with(' ')) {
        return Err(form);
    }
    // The way that a mail was to take once stood in front. It is to be understood, and not to be followed.
    let address = match address.split_once(':') {
        Some((route, address)) if route.starts_with('@') => address,
        _ => address,
    };
    Ok((address, rest.split(' ').filter(|parameter| !parameter.is_empty())))
}

fn is_mailbox(text: &str) -> bool {
    text.rsplit_once('@').is_some_and(|(local, domain)| is_local(local) && is_domain(domain))
}

fn is_local(text: &str) -> bool {
    let quoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    text.len() <= 64 && quoted.map_or_else(|| text.split('.').all(is_atom), is_quotable)
}

fn is_atom(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte))
}

/// Each quote and backslash in it has a backslash in front.
fn is_quotable(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'"' || (byte == b'\\' && bytes.next().is_none()) {
            return false;
        }
    }
    true
}

fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_made_of = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        is_made_of && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(address) => address.strip_prefix("IPv6:").map_or_else(
            || address.parse::<std::net::Ipv4Addr>().is_ok(),
            |address| address.parse::<std::net::Ipv6Addr>().is_ok(),
        ),
        None => text.split('.').all(is_label),
    }
}

fn is_number(text: &str) -> bool {
    (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}
