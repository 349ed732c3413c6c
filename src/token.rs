//! Token: the secret of an operator, from its file.
//!
//! Rule: it is neither logged nor part of an error.
//! Not here: reading a file (`secret`), comparing it, and how long it has to be (`actix-lines`).

use std::path::Path;

use actix_lines::Escaped;
pub(crate) use actix_lines::Token;

use crate::secret;

/// Takes over the secret of a token that was read again. Returns true if it was another.
pub(crate) fn replace(running: Option<&Token>, by: Option<&Token>) -> bool {
    running.zip(by).is_some_and(|(running, by)| running.replace(by))
}

/// Reads a token from its file.
///
/// # Errors
/// Says what is wrong with the file or the token, and what to do.
pub(crate) fn load(path: &Path) -> Result<Token, String> {
    let text = read(path)?;
    Token::new(text).map_err(|error| format!("{}: {error}", Escaped::new(path.as_os_str().as_encoded_bytes())))
}

/// Reads the text of a file that has a token. Blanks around it are none of it.
///
/// # Errors
/// Says what is wrong with the file and what to do.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    secret::read(path, "token").map(|text| text.trim().to_owned())
}
