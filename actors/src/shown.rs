//! Shown: bytes as a script writes them between quotes, and as its reports show them.
//!
//! Every character that does not print is an escape, so that a text stays one line and looks like nothing else.
//! Not here: texts for logs, which are bounded (`escape`), and variables (`script`).

use std::fmt::{self, Write};

/// Bytes as reports show them, and as a script writes them between quotes, but for dollar signs.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
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
}
