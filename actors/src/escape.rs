//! Escape: text with a peer's bytes, made safe for logs and terminals.
//!
//! Not here: logging (`log_limit` and its callers).

use std::fmt::{self, Write};

use crate::plural::Counted;

/// Most characters shown of one text.
const SHOWN: usize = 1000;

/// Displays text in one line of at most 1000 characters, for logs and terminals.
///
/// Characters that do not print (newlines, escape sequences, marks that change the direction of writing) are written as
/// in a Rust literal, bytes that are not UTF-8 as `\xff`. A longer text ends with the number of bytes left out.
///
/// ```
/// use actix_lines::Escaped;
///
/// let sent = b"GET /\x1b[2J\r\n\xff";
/// assert_eq!(Escaped::new(sent).to_string(), r"GET /\u{1b}[2J\r\n\xff");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(&'a [u8]);

impl<'a> Escaped<'a> {
    /// Wraps `text`: a string, a line, any bytes.
    #[must_use]
    pub fn new(text: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self(text.as_ref())
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let characters = self.0.utf8_chunks().flat_map(|chunk| {
            let others = chunk.invalid().iter().copied().map(Err);
            chunk.valid().chars().map(Ok).chain(others)
        });
        let mut left = self.0.len();
        for (shown, character) in characters.enumerate() {
            if shown == SHOWN {
                return write!(f, "... ({} more)", Counted(left, "byte"));
            }
            match character {
                Ok(quote @ ('"' | '\'')) => f.write_char(quote)?,
                Ok(letter) => write!(f, "{}", letter.escape_debug())?,
                Err(byte) => write!(f, "\\x{byte:02x}")?,
            }
            left -= character.map_or(1, char::len_utf8);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stays_one_line_that_moves_no_cursor() {
        let escaped = |text| Escaped::new(text).to_string();
        assert_eq!(escaped("it's \"fine\": \u{e9}\u{4e2d}"), "it's \"fine\": \u{e9}\u{4e2d}");
        assert_eq!(escaped("a\r\nb\x1b[2Jc\0\x7f"), r"a\r\nb\u{1b}[2Jc\0\u{7f}");
        // C1 control, right-to-left override, line separator; a backslash, or all of it could be faked.
        assert_eq!(escaped("\u{9b}\u{202e}\u{2028}\\"), r"\u{9b}\u{202e}\u{2028}\\");
        assert_eq!(Escaped::new(b"\xe9t\xc3\xa9\xe4\xb8").to_string(), "\\xe9t\u{e9}\\xe4\\xb8");
    }

    #[test]
    fn a_text_without_end_is_cut_and_counted() {
        let escaped = |text: &[u8]| Escaped::new(text).to_string();
        assert_eq!(escaped("\u{e9}".repeat(SHOWN + 3).as_bytes()), "\u{e9}".repeat(SHOWN) + "... (6 bytes more)");
        assert_eq!(escaped("x".repeat(SHOWN).as_bytes()), "x".repeat(SHOWN));
        assert_eq!(escaped(&[255; SHOWN + 1]), "\\xff".repeat(SHOWN) + "... (1 byte more)");
    }
}
