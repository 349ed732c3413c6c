//! Shown: bytes as a script writes them between quotes, and as its reports show them.
//!
//! Every character that does not print is an escape, so that a text stays one line and looks like nothing else.
//! Not here: texts for logs, which are bounded (`escape`), and variables (`script`).

use std::fmt::{self, Write};

use crate::telnet_codes::Negotiation;

/// Bytes as reports show them, and as a script writes them between quotes, but for dollar signs.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        // 255 is a byte of no text: it begins what telnet says.
        while let Some((at, command)) =
            memchr::memchr_iter(255, rest).find_map(|at| Some((at, Negotiation::at(&rest[at..])?)))
        {
            text(&rest[..at], f)?;
            write!(f, "{command}")?;
            rest = &rest[at + command.len()..];
        }
        text(rest, f)
    }
}

fn text(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '\'' => f.write_char(letter)?,
                _ => write!(f, "{}", letter.escape_debug())?,
            }
        }
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}
