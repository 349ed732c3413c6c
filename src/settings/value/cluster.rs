//! Values of a cluster's settings.
//!
//! Not here: what they do (`cluster`), the rest of a URL, which the library reads.

use super::{Value, one_of};

/// The place of a store. It has no password: command lines and files of settings are read by others.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoreUrl(pub(crate) String);

impl StoreUrl {
    const SCHEMES: [&'static str; 9] = [
        "redis://",
        "rediss://",
        "unix://",
        "redis-sentinel://",
        "rediss-sentinel://",
        "valkey://",
        "valkeys://",
        "valkey-sentinel://",
        "valkeys-sentinel://",
    ];
}

impl Value for StoreUrl {
    const IS_TEXT: bool = true;
    const MAY_BE_SECRET: bool = true;

    fn allowed() -> String {
        "a URL, as redis://HOST:6379, rediss://HOST:6379 for TLS, unix:///PATH, or redis-sentinel://HOST:26379,HOST:26379/MASTER"
            .to_owned()
    }

    fn read(text: &str) -> Result<Self, String> {
        let Some(scheme) = Self::SCHEMES.iter().find(|scheme| text.starts_with(**scheme)) else {
            return Err(format!("use {}", Self::allowed()));
        };
        let authority = &text[scheme.len()..];
        let credentials = authority.rsplit_once('@').map(|(credentials, _)| credentials);
        if credentials.is_some_and(|credentials| credentials.contains(':')) || text.contains("pass=") {
            return Err(
                "leave the password out, which others could read here: cluster-password-file names its file".to_owned()
            );
        }
        Ok(Self(text.to_owned()))
    }
}

/// The user that a store knows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoreUser(pub(crate) String);

impl Value for StoreUser {
    const IS_TEXT: bool = true;

    fn allowed() -> String {
        "the name of a user".to_owned()
    }

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err(format!("use {}", Self::allowed())) } else { Ok(Self(text.to_owned())) }
    }
}

/// How all keys of a cluster begin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeyPrefix(pub(crate) String);

impl Value for KeyPrefix {
    const IS_TEXT: bool = true;

    fn allowed() -> String {
        "1 to 128 printable characters without blanks, braces, backslashes and the wildcards *?[, as lines:".to_owned()
    }

    fn read(text: &str) -> Result<Self, String> {
        let is_fit = |byte: u8| byte.is_ascii_graphic() && !b"{}*?[\\".contains(&byte);
        match (1..=128).contains(&text.len()) && text.bytes().all(is_fit) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("use {}", Self::allowed())),
        }
    }
}

/// Treatment of new connections while the store is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnPartition {
    Open,
    Closed,
}

impl Value for OnPartition {
    const CHOICES: &'static [(&'static str, &'static str)] =
        &[("open", "lets them in by this node's own limits"), ("closed", "refuses them")];

    fn allowed() -> String {
        one_of(Self::CHOICES)
    }

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "open" => Ok(Self::Open),
            "closed" => Ok(Self::Closed),
            _ => Err(format!("use {}", Self::allowed())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_store_has_no_password() {
        for fine in
            ["redis://a:1", "redis://user@a:1/2", "unix:///run/redis.sock?db=1", "redis-sentinel://a:1,[::1]:2/m"]
        {
            assert_eq!(StoreUrl::read(fine), Ok(StoreUrl(fine.to_owned())));
        }
        for secret in ["redis://:x@a:1", "redis://user:x@a", "unix:///run/redis.sock?pass=x"] {
            assert!(StoreUrl::read(secret).unwrap_err().contains("cluster-password-file"), "{secret}");
        }
        for wrong in ["", "a:6379", "http://a", "redis:a"] {
            assert!(StoreUrl::read(wrong).unwrap_err().starts_with("use a URL, as redis://HOST:6379"), "{wrong}");
        }
        for prefix in ["", "a{b}", "a*", "a?", "[ab]", "a\\"] {
            assert!(KeyPrefix::read(prefix).is_err(), "{prefix}");
        }
        assert!(KeyPrefix::read("chat:").is_ok());
    }
}
