//! Listen: the address that a listener is given, in the one syntax of flags, files and code.
//!
//! Rule: what was parsed displays as a text that parses to the same.
//! Not here: binding it (`listen/listener`), the address that a socket really has (`address`).

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

/// Most bytes of a unix socket's path or name: the kernel has room for 108, and one of them is a NUL.
const MOST_OF_UNIX: usize = 107;

/// Most characters of the name of a service manager's socket, systemd's `FDNAME_MAX`.
const MOST_OF_NAME: usize = 255;

/// The address of a listener before it is bound.
///
/// | text | meaning |
/// |---|---|
/// | `127.0.0.1:40713`, `[::1]:40713` | an IP address and a port; port 0 asks for a free one |
/// | `localhost:40713` | a name that is looked up when the listener is bound, and a port |
/// | `unix:/run/lines.sock`, `unix:lines.sock` | the path of a unix socket |
/// | `unix:@lines` | an abstract unix socket, which has no file. A path that begins with `@` is written `unix:./@lines` |
/// | `fd:3` | a socket that the process was started with, by its descriptor |
/// | `systemd:lines` | a socket of a service manager, by its `FileDescriptorName=` |
///
/// A host whose name is `unix`, `fd` or `systemd` is written with the dot of the root, `unix.:40713`.
///
/// ```
/// use actix_lines::ListenAddress;
///
/// let address: ListenAddress = "unix:/run/lines.sock".parse()?;
/// assert_eq!(address, ListenAddress::Unix("/run/lines.sock".into()));
/// assert_eq!(address.to_string().parse(), Ok(address));
/// assert_eq!(
///     "::1:40713".parse::<ListenAddress>().unwrap_err().to_string(),
///     "an IPv6 address goes in brackets: use [::1]:40713"
/// );
/// # Ok::<(), actix_lines::ListenAddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ListenAddress {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A name and a port. Of several addresses the first that can be bound is used.
    Name {
        /// The name.
        host: String,
        /// The port; 0 asks for a free one.
        port: u16,
    },
    /// The path of a unix socket.
    Unix(PathBuf),
    /// An abstract unix socket, by its name: Linux only. Whoever is in the same network namespace may connect to it.
    Abstract(String),
    /// A socket that the process was started with, by its descriptor.
    Fd(u32),
    /// A socket of a service manager, by its name.
    Systemd(String),
}

impl ListenAddress {
    /// Describes the syntax in a few words, for help and errors.
    pub const SYNTAX: &str = "an address and a port, as 127.0.0.1:40713 or [::1]:40713, or one of unix:/PATH, unix:@NAME, \
                              fd:3 and systemd:NAME";

    /// Returns true for a unix socket that is bound here, with a path or without.
    #[must_use]
    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_) | Self::Abstract(_))
    }
}

/// A text is no address of a listener. Each message says how it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListenAddressError {
    /// There is no colon.
    #[error("the port is missing: use {}", ListenAddress::SYNTAX)]
    NoPort,
    /// There is nothing before the port.
    #[error("the address is missing: use 0.0.0.0:{port} for all of IPv4, [::]:{port} for all of IPv6")]
    NoHost {
        /// The text behind the colon.
        port: String,
    },
    /// An IPv6 address is not in brackets.
    #[error("an IPv6 address goes in brackets: use [{host}]:{port}")]
    NoBrackets {
        /// The text before the last colon.
        host: String,
        /// The text behind it.
        port: String,
    },
    /// The text before the port is neither an IP address nor a name.
    #[error("{host:?} is no address: use {}", ListenAddress::SYNTAX)]
    Host {
        /// The text before the last colon.
        host: String,
    },
    /// The port is no number of 16 bits.
    #[error("{port:?} is no port: use 0 to 65535")]
    Port {
        /// The text behind the last colon.
        port: String,
    },
    /// The path of a unix socket is empty, too long, or has a NUL.
    #[error("{path:?} is no path of a socket: use 1 to {MOST_OF_UNIX} bytes without a NUL, as unix:/run/lines.sock")]
    UnixPath {
        /// The text behind `unix:`.
        path: String,
    },
    /// The name of an abstract unix socket is empty, too long, or has a NUL.
    #[error("{name:?} is no name of a socket: use 1 to {MOST_OF_UNIX} bytes without a NUL, as unix:@lines")]
    AbstractName {
        /// The text behind `unix:@`.
        name: String,
    },
    /// The text is no number of a descriptor.
    #[error("{text:?} is no descriptor: use its number, as fd:3")]
    Descriptor {
        /// The text behind `fd:`.
        text: String,
    },
    /// The text cannot be the name of a service manager's socket.
    #[error(
        "{name:?} is no name of a socket: use its FileDescriptorName=, 1 to {MOST_OF_NAME} printable characters without a \
         colon, as systemd:lines"
    )]
    SystemdName {
        /// The text behind `systemd:`.
        name: String,
    },
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path);
        }
        if let Some(number) = text.strip_prefix("fd:") {
            return match number.bytes().all(|byte| byte.is_ascii_digit()) {
                // The kernel's own type, of which no number is negative.
                true => number.parse::<i32>().ok().and_then(|number| u32::try_from(number).ok()).map(Self::Fd),
                false => None,
            }
            .ok_or_else(|| ListenAddressError::Descriptor { text: number.to_owned() });
        }
        if let Some(name) = text.strip_prefix("systemd:") {
            let is_name = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b':';
            let fits = (1..=MOST_OF_NAME).contains(&name.len()) && name.bytes().all(is_name);
            let name = name.to_owned();
            return if fits { Ok(Self::Systemd(name)) } else { Err(ListenAddressError::SystemdName { name }) };
        }
        match text.parse() {
            Ok(address) => Ok(Self::Ip(address)),
            Err(_) => host_and_port(text),
        }
    }
}

fn unix(path: &str) -> Result<ListenAddress, ListenAddressError> {
    let fits = |text: &str| (1..=MOST_OF_UNIX).contains(&text.len()) && !text.contains('\0');
    match path.strip_prefix('@') {
        Some(name) if fits(name) => Ok(ListenAddress::Abstract(name.to_owned())),
        Some(name) => Err(ListenAddressError::AbstractName { name: name.to_owned() }),
        None if fits(path) => Ok(ListenAddress::Unix(path.into())),
        None => Err(ListenAddressError::UnixPath { path: path.to_owned() }),
    }
}

fn host_and_port(text: &str) -> Result<ListenAddress, ListenAddressError> {
    let (host, port) = text.rsplit_once(':').ok_or(ListenAddressError::NoPort)?;
    let (host, port) = (host.to_owned(), port.to_owned());
    if host.is_empty() {
        return Err(ListenAddressError::NoHost { port });
    }
    if host.contains(':') && !host.starts_with('[') {
        return Err(ListenAddressError::NoBrackets { host, port });
    }
    if host.contains(['[', ']', '/']) || host.contains(char::is_control) {
        return Err(ListenAddressError::Host { host });
    }
    // Without a sign, which the standard library allows.
    let number = port.parse().ok().filter(|_| port.bytes().all(|byte| byte.is_ascii_digit()));
    let port = number.ok_or(ListenAddressError::Port { port })?;
    Ok(match host.parse::<IpAddr>() {
        Ok(ip) => ListenAddress::Ip((ip, port).into()),
        Err(_) => ListenAddress::Name { host, port },
    })
}

impl TryFrom<&str> for ListenAddress {
    type Error = ListenAddressError;

    fn try_from(text: &str) -> Result<Self, ListenAddressError> {
        text.parse()
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

/// Writes the text that parses to the same; of a path that is no UTF-8, one that reads alike.
impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) if path.as_os_str().as_encoded_bytes().starts_with(b"@") => {
                write!(f, "unix:./{}", path.display())
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
            Self::Fd(number) => write!(f, "fd:{number}"),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<ListenAddress, String> {
        text.parse::<ListenAddress>().map_err(|error| error.to_string())
    }

    #[test]
    fn each_form_is_told_by_how_it_begins() {
        let name = |host: &str, port| ListenAddress::Name { host: host.to_owned(), port };
        for (text, address) in [
            ("127.0.0.1:40713", ListenAddress::Ip("127.0.0.1:40713".parse().unwrap())),
            ("[::]:0", ListenAddress::Ip("[::]:0".parse().unwrap())),
            ("[fe80::1%2]:7", ListenAddress::Ip("[fe80::1%2]:7".parse().unwrap())),
            ("localhost:65535", name("localhost", 65535)),
            ("unix.:7", name("unix.", 7)),
            ("unix:/run/lines.sock", ListenAddress::Unix("/run/lines.sock".into())),
            ("unix:lines.sock", ListenAddress::Unix("lines.sock".into())),
            ("unix:40713", ListenAddress::Unix("40713".into())),
            ("unix:./@lines", ListenAddress::Unix("./@lines".into())),
            ("unix:@lines/one", ListenAddress::Abstract("lines/one".to_owned())),
            ("fd:3", ListenAddress::Fd(3)),
            ("systemd:lines.socket", ListenAddress::Systemd("lines.socket".to_owned())),
        ] {
            assert_eq!(parsed(text), Ok(address.clone()), "{text}");
            assert_eq!(address.to_string(), text);
        }
        assert_eq!(ListenAddress::Unix("@lines".into()).to_string(), "unix:./@lines");
    }

    #[test]
    fn what_is_wrong_with_a_text_is_said_with_what_is_right() {
        let long = "x".repeat(108);
        for (text, part) in [
            ("", "the port is missing: use an address and a port, as 127.0.0.1:40713"),
            ("localhost", "the port is missing: use an address and a port, as 127.0.0.1:40713"),
            (":7", "use 0.0.0.0:7 for all of IPv4, [::]:7 for all of IPv6"),
            ("::1:7", "an IPv6 address goes in brackets: use [::1]:7"),
            ("[::1]", "\"[:\" is no address: use an address and a port"),
            ("[::1", "\"[:\" is no address"),
            ("/run/lines.sock:7", "\"/run/lines.sock\" is no address"),
            ("localhost:", "\"\" is no port: use 0 to 65535"),
            ("localhost:65536", "\"65536\" is no port"),
            ("localhost:+7", "\"+7\" is no port"),
            ("unix:", "\"\" is no path of a socket: use 1 to 107 bytes without a NUL, as unix:/run/lines.sock"),
            ("unix:a\0b", "is no path of a socket"),
            (&format!("unix:{long}"), "is no path of a socket"),
            ("unix:@", "\"\" is no name of a socket: use 1 to 107 bytes without a NUL, as unix:@lines"),
            (&format!("unix:@{long}"), "is no name of a socket"),
            ("fd:", "\"\" is no descriptor: use its number, as fd:3"),
            ("fd:+3", "\"+3\" is no descriptor"),
            ("fd:2147483648", "\"2147483648\" is no descriptor"),
            ("systemd:", "\"\" is no name of a socket: use its FileDescriptorName="),
            ("systemd:a:b", "\"a:b\" is no name of a socket"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    fn any_address() -> impl Strategy<Value = ListenAddress> {
        let text = |most| proptest::collection::vec(any::<char>().prop_filter("a NUL", |c| *c != '\0'), 1..most);
        let text = move || text(25).prop_map(|text| text.into_iter().collect::<String>());
        prop_oneof![
            any::<(u32, u16)>()
                .prop_map(|(ip, port)| ListenAddress::Ip(SocketAddrV4::new(Ipv4Addr::from_bits(ip), port).into())),
            any::<(u128, u16, u32)>().prop_map(|(ip, port, scope)| ListenAddress::Ip(
                SocketAddrV6::new(Ipv6Addr::from_bits(ip), port, 0, scope).into()
            )),
            ("[a-z]([a-z0-9.-]{0,20}[a-z0-9])?", any::<u16>())
                .prop_filter("a form of its own", |(host, _)| !["unix", "fd", "systemd"].contains(&host.as_str()))
                .prop_map(|(host, port)| ListenAddress::Name { host, port }),
            text()
                .prop_filter("abstract", |path| !path.starts_with('@'))
                .prop_map(|path| ListenAddress::Unix(path.into())),
            text().prop_map(ListenAddress::Abstract),
            (0..=i32::MAX as u32).prop_map(ListenAddress::Fd),
            "[ -9;-~]{1,255}".prop_map(ListenAddress::Systemd),
        ]
    }

    proptest! {
        #[test]
        fn an_address_displays_as_what_it_is_parsed_of(address in any_address()) {
            prop_assert_eq!(parsed(&address.to_string()), Ok(address));
        }

        #[test]
        fn whatever_parses_displays_as_what_parses_to_the_same(
            text in "(unix:|fd:|systemd:|\\[)?[@./a-f0-9:%\\[\\]]{0,20}(:[0-9]{1,5})?"
        ) {
            if let Ok(address) = parsed(&text) {
                prop_assert_eq!(parsed(&address.to_string()), Ok(address));
            }
        }
    }
}
