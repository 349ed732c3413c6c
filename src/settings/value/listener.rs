//! Listener: the forms of values that only the tables of listeners have.
//!
//! Not here: the settings of that form (`settings/listener`).

use nix::unistd::{Group, User};

use super::{Value, one_of};

/// A listener's name. It stands in log lines, so that it has no spaces.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Name(pub(crate) String);

impl Value for Name {
    fn allowed() -> String {
        "1 to 64 letters, digits, dots, dashes or underscores".to_owned()
    }

    fn read(text: &str) -> Result<Self, String> {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        match (1..=64).contains(&text.len()) && text.bytes().all(is_part) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("use {}", Self::allowed())),
        }
    }
}

/// Permissions of a unix socket's path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FileMode(pub(crate) u32);

impl Value for FileMode {
    // TOML's 660 would be another number than chmod's.
    const IS_TEXT: bool = true;

    fn allowed() -> String {
        "octal digits, as \"0660\"".to_owned()
    }

    fn read(text: &str) -> Result<Self, String> {
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777 && text.len() >= 3);
        mode.map(Self).ok_or_else(|| format!("use {}", Self::allowed()))
    }
}

/// A user, by number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Owner(pub(crate) u32);

impl Value for Owner {
    fn allowed() -> String {
        "a user of this machine, by name or number".to_owned()
    }

    fn read(text: &str) -> Result<Self, String> {
        let by_name = || Some(User::from_name(text).ok()??.uid.as_raw());
        text.parse().ok().or_else(by_name).map(Self).ok_or_else(|| format!("use {}", Self::allowed()))
    }
}

/// A group, by number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Members(pub(crate) u32);

impl Value for Members {
    fn allowed() -> String {
        "a group of this machine, by name or number".to_owned()
    }

    fn read(text: &str) -> Result<Self, String> {
        let by_name = || Some(Group::from_name(text).ok()??.gid.as_raw());
        text.parse().ok().or_else(by_name).map(Self).ok_or_else(|| format!("use {}", Self::allowed()))
    }
}

/// A name that clients ask for. The library checks it beside its certificate.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServerName(pub(crate) String);

impl Value for ServerName {
    const IS_TEXT: bool = true;

    fn allowed() -> String {
        "a name, as example.org or *.example.org".to_owned()
    }

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err(format!("use {}", Self::allowed())) } else { Ok(Self(text.to_ascii_lowercase())) }
    }
}

/// The name of an application protocol.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Alpn(pub(crate) String);

impl Value for Alpn {
    const IS_TEXT: bool = true;

    fn allowed() -> String {
        "1 to 255 bytes".to_owned()
    }

    fn read(text: &str) -> Result<Self, String> {
        match (1..=255).contains(&text.len()) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("use {}", Self::allowed())),
        }
    }
}

/// Treatment of peers that do not begin with what is expected: a header, a certificate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Requirement {
    Required,
    Optional,
}

impl Value for Requirement {
    const CHOICES: &'static [(&'static str, &'static str)] =
        &[("required", "refuses those without one"), ("optional", "serves them, too")];

    fn allowed() -> String {
        one_of(Self::CHOICES)
    }

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "required" => Ok(Self::Required),
            "optional" => Ok(Self::Optional),
            _ => Err(format!("use {}", Self::allowed())),
        }
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum TlsVersion {
    Tls12,
    Tls13,
}

impl Value for TlsVersion {
    const IS_TEXT: bool = true;

    fn allowed() -> String {
        "1.2 or 1.3, as a text".to_owned()
    }

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "1.2" => Ok(Self::Tls12),
            "1.3" => Ok(Self::Tls13),
            _ => Err(format!("use {}", Self::allowed())),
        }
    }
}

impl Value for bool {
    const CHOICES: &'static [(&'static str, &'static str)] = &[("true", "does it"), ("false", "does not")];
    const IS_SWITCH: bool = true;

    fn allowed() -> String {
        one_of(Self::CHOICES)
    }

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("use {}", Self::allowed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_stand_in_a_line_of_the_log() {
        for name in ["public", "tls-2.example_org", "7", &"n".repeat(64)] {
            assert_eq!(Name::read(name), Ok(Name(name.to_owned())));
        }
        for name in ["", "two words", "a\nb", "a:b", "ü", &"n".repeat(65)] {
            assert_eq!(Name::read(name), Err(format!("use {}", Name::allowed())), "{name:?}");
        }
    }

    #[test]
    fn a_mode_is_octal_and_owners_have_names() {
        assert_eq!((FileMode::read("0660"), FileMode::read("600")), (Ok(FileMode(0o660)), Ok(FileMode(0o600))));
        for text in ["", "6", "0888", "01777", "rw-"] {
            assert_eq!(FileMode::read(text), Err(format!("use {}", FileMode::allowed())), "{text:?}");
        }
        assert_eq!((Owner::read("root"), Owner::read("7")), (Ok(Owner(0)), Ok(Owner(7))));
        assert_eq!((Members::read("root"), Members::read("7")), (Ok(Members(0)), Ok(Members(7))));
        assert!(Owner::read("no such user").is_err() && Members::read("no such group").is_err());
    }

    #[test]
    fn a_switch_is_true_or_false() {
        assert_eq!((bool::read("true"), bool::read("false")), (Ok(true), Ok(false)));
        assert_eq!(bool::read("yes"), Err("use true or false".to_owned()));
    }
}
