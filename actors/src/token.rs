//! Token: the secret of those who may steer a server.
//!
//! Rule: it is not shown, and a comparison takes a time that says nothing but its length.
//! Not here: who has to have it (`console`, `http`).

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use subtle::ConstantTimeEq;

use crate::error::ConfigError;

/// The secret of those who may steer a server: for `Console::token` and `Admin::control`. Needs the feature `console` or
/// `http`.
///
/// ```
/// use actix_lines::Token;
///
/// // As `openssl rand -hex 32` prints one.
/// assert!(Token::new("b1946ac92492d2347c6235b4d2611184").is_ok());
/// assert!(Token::new("sesame").is_err());
/// ```
///
/// A clone is the same one: a [replaced](Self::replace) secret is that of all of them.
#[derive(Clone)]
pub struct Token(Arc<RwLock<Box<str>>>);

impl Token {
    /// Shortest one. Unit: bytes.
    pub const SHORTEST: usize = 16;

    /// Longest one. Unit: bytes.
    pub const LONGEST: usize = 1024;

    /// Makes a token of its text.
    ///
    /// # Errors
    /// Returns [`ConfigError::Token`] unless it has [`SHORTEST`](Self::SHORTEST) to [`LONGEST`](Self::LONGEST) printable
    /// ASCII characters without blanks.
    pub fn new(text: impl Into<String>) -> Result<Self, ConfigError> {
        let text = text.into();
        let fits = (Self::SHORTEST..=Self::LONGEST).contains(&text.len());
        if !fits || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ConfigError::Token);
        }
        Ok(Self(Arc::new(RwLock::new(text.into()))))
    }

    /// Takes over the secret of another token, also in all clones of this one, such as that of a console that runs: who comes from then on
    /// needs the new one. Console sessions that have sent the former one go on. Returns true if the secret was another.
    pub fn replace(&self, by: &Self) -> bool {
        let new = by.secret();
        let is_other = !self.is(new.as_bytes());
        if is_other {
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
        }
        is_other
    }

    fn secret(&self) -> Box<str> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns true if this is it.
    pub(crate) fn is(&self, given: &[u8]) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_bytes().ct_eq(given).into()
    }
}

/// Does not show it.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}
