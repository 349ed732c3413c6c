//! Text that may hold a peer's bytes, as the log may show it.
//!
//! Not here: what is logged, and when (whoever logs).

use std::fmt::{self, Write};

/// Characters shown of one text.
const SHOWN: usize = 1000;

/// A text in one line of bounded length. What does not print (newlines, escape sequences, marks that turn the direction of
/// writing) is written as in a Rust literal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut letters = self.0.chars();
        for letter in letters.by_ref().take(SHOWN) {
            match letter {
                '"' | '\'' => f.write_char(letter)?,
                _ => write!(f, "{}", letter.escape_debug())?,
            }
        }
        match letters.as_str().len() {
            0 => Ok(()),
            left => write!(f, "... ({left} bytes more)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stays_one_line_that_moves_no_cursor() {
        let escaped = |text| Escaped(text).to_string();
        assert_eq!(escaped("it's \"fine\": \u{e9}\u{4e2d}"), "it's \"fine\": \u{e9}\u{4e2d}");
        assert_eq!(escaped("a\r\nb\x1b[2Jc\0\x7f"), r"a\r\nb\u{1b}[2Jc\0\u{7f}");
        // C1 control, right-to-left override, line separator; a backslash, or all of it could be faked.
        assert_eq!(escaped("\u{9b}\u{202e}\u{2028}\\"), r"\u{9b}\u{202e}\u{2028}\\");
    }

    #[test]
    fn a_text_without_end_is_cut_and_counted() {
        let escaped = Escaped(&"\u{e9}".repeat(SHOWN + 3)).to_string();
        assert_eq!(escaped, "\u{e9}".repeat(SHOWN) + "... (6 bytes more)");
        assert_eq!(Escaped(&"x".repeat(SHOWN)).to_string(), "x".repeat(SHOWN));
    }
}
