//! Url: a store's address as text, and secrets that nothing shows.
//!
//! Read here and not by a crate: Sentinels are several hosts, and no error may repeat a password.
//! Not here: connecting (`connection`), the builder (`redis`).

use std::{fmt, path::PathBuf, sync::Arc};

/// The place of a store: servers, a database, and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) target: Target,
    pub(super) is_tls: bool,
    pub(super) database: u32,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
}

/// Where the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Tcp(Host),
    Unix(PathBuf),
    /// Sentinels know which of the servers is the master.
    Sentinel {
        sentinels: Vec<Host>,
        master: String,
    },
}

/// A name or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) port: u16,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, port } = self;
        if name.contains(':') { write!(f, "[{name}]:{port}") } else { write!(f, "{name}:{port}") }
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(Arc<str>);

impl Secret {
    pub(super) fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The URL or the settings of a store are wrong. No password is in any of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedisConfigError {
    /// The URL has no known scheme.
    #[error(
        "{scheme:?} is no scheme of a store: write redis://HOST:PORT, rediss://HOST:PORT for TLS, unix:///PATH, or \
         redis-sentinel://HOST:PORT,HOST:PORT/MASTER"
    )]
    Scheme {
        /// The text before `://`.
        scheme: String,
    },
    /// A host is missing or invalid.
    #[error(
        "{host:?} is no host: write a name or an address, as in redis://store.example.org:6379 or redis://[::1]:6379"
    )]
    Host {
        /// The text in its place, up to the first `:`.
        host: String,
    },
    /// A port is invalid. It is not shown: it may be a password that lacks the `@HOST` behind it.
    #[error("there is no port behind the host's `:`: use 1 to 65535, as in redis://USER:PASSWORD@HOST:6379")]
    Port,
    /// A database is not a number.
    #[error("{database:?} is no database: write its number, as in redis://HOST:PORT/0")]
    Database {
        /// The text in its place.
        database: String,
    },
    /// The user or the password has `%` without two hexadecimal digits, or is not UTF-8.
    #[error(
        "the user or the password is not encoded: write %XX for each byte of `%`, `/`, `@`, `:`, `?` and `#` in them"
    )]
    Encoding,
    /// The URL names Sentinels, but no master.
    #[error("the master has no name: write it behind the sentinels, as in redis-sentinel://HOST:PORT,HOST:PORT/MASTER")]
    Master,
    /// The path of a unix socket is missing or not absolute.
    #[error("{path:?} is no path of a socket: write unix:///run/redis/redis.sock")]
    Path {
        /// The text in its place.
        path: String,
    },
    /// The URL has a part that is not known.
    #[error("the URL has {what}: remove it")]
    Unknown {
        /// The part.
        what: &'static str,
    },
    /// A password for Sentinels is given, and the URL names none.
    #[error(
        "a password for Sentinels is given, and the URL names none: write redis-sentinel://HOST:PORT,HOST:PORT/MASTER"
    )]
    SentinelNotAsked,
    /// Certificates are given, and the URL is that of a unix socket.
    #[error("there is no TLS over a unix socket: leave out the certificates, or use rediss://")]
    TlsOverUnix,
    /// Certificates are given, and the URL is one without TLS.
    #[error("certificates are given, and the URL asks for no TLS: write rediss:// or rediss-sentinel://")]
    TlsNotAsked,
    /// The URL asks for TLS, which is not built in.
    #[error("TLS is not built in: build with the feature `tls`, or write redis://")]
    TlsNotBuilt,
    /// The URL asks for TLS, no authorities are given, and this machine has none where systems keep them.
    #[error("TLS has no authorities: name the file of those that sign the store's certificate")]
    TlsWithoutAuthorities,
    /// A certificate cannot be used.
    #[error("{reason}")]
    Tls {
        /// The error of TLS, with its advice.
        reason: String,
    },
    /// The prefix of keys is empty, too long, or has characters that do not print, braces, or wildcards of patterns.
    #[error(
        "{prefix:?} is no prefix of keys: use 1 to 128 printable characters without spaces, braces and the wildcards `*?[\\`, \
         as in lines:"
    )]
    Prefix {
        /// The text that was given.
        prefix: String,
    },
    /// A time is zero.
    #[error("{what} is 0: use a time in which a store can answer, such as 1 s")]
    Time {
        /// The setting.
        what: &'static str,
    },
}

impl Place {
    /// Reads a URL.
    pub(super) fn parse(url: &str) -> Result<Self, RedisConfigError> {
        let unknown = |what| RedisConfigError::Unknown { what };
        let Some((scheme, rest)) = url.split_once(':') else {
            // The whole text may be anything, a password too.
            return Err(RedisConfigError::Scheme { scheme: String::new() });
        };
        let (is_sentinel, is_tls) = match scheme {
            "redis" | "valkey" => (false, false),
            "rediss" | "valkeys" => (false, true),
            "redis-sentinel" | "valkey-sentinel" => (true, false),
            "rediss-sentinel" | "valkeys-sentinel" => (true, true),
            "unix" | "redis+unix" | "valkey+unix" => return Self::parse_unix(rest),
            // Whoever has left it out has a user or a password here.
            _ if rest.contains('@') || scheme.contains('@') => {
                return Err(RedisConfigError::Scheme { scheme: String::new() });
            }
            _ => return Err(RedisConfigError::Scheme { scheme: shown(scheme) }),
        };
        let rest = rest.strip_prefix("//").ok_or_else(|| RedisConfigError::Host { host: String::new() })?;
        // The last `@`: a password may have one that is not encoded.
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        if rest.contains(['?', '#']) {
            return Err(unknown("something behind `?` or `#`"));
        }
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (username, password) = user.map_or(Ok((None, None)), user_and_password)?;
        let default_port = if is_sentinel { 26379 } else { 6379 };
        let hosts = hosts.split(',').map(|host| Host::parse(host, default_port)).collect::<Result<Vec<_>, _>>()?;
        let path = path.strip_suffix('/').unwrap_or(path);
        let (target, database) = if is_sentinel {
            let (master, database) = path.split_once('/').unwrap_or((path, ""));
            let master = decoded(master).ok_or(RedisConfigError::Master)?;
            if master.is_empty() {
                return Err(RedisConfigError::Master);
            }
            (Target::Sentinel { sentinels: hosts, master }, database)
        } else {
            let [host] = <[Host; 1]>::try_from(hosts)
                .map_err(|_| unknown("several hosts, and no redis-sentinel:// before them"))?;
            (Target::Tcp(host), path)
        };
        Ok(Self { target, is_tls, database: number(database)?, username, password })
    }

    /// `unix:/PATH`, `unix:///PATH`, with `?db=1&user=NAME&pass=PASSWORD`.
    fn parse_unix(rest: &str) -> Result<Self, RedisConfigError> {
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = decoded(path).ok_or(RedisConfigError::Encoding)?;
        if !path.starts_with('/') || path.len() == 1 {
            return Err(RedisConfigError::Path { path: shown(&path) });
        }
        let (mut database, mut username, mut password) = (0, None, None);
        for word in query.split('&').filter(|word| !word.is_empty()) {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let text = decoded(value).ok_or(RedisConfigError::Encoding)?;
            match key {
                "db" => database = number(&text)?,
                "user" => username = Some(text),
                "pass" => password = Some(Secret::new(&text)),
                _ => return Err(RedisConfigError::Unknown { what: "more behind `?` than db, user and pass" }),
            }
        }
        Ok(Self { target: Target::Unix(path.into()), is_tls: false, database, username, password })
    }
}

impl fmt::Display for Place {
    /// Writes the URL without a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = if self.is_tls { "s" } else { "" };
        match &self.target {
            Target::Tcp(host) => write!(f, "redis{tls}://{host}")?,
            Target::Unix(path) => write!(f, "unix://{}", path.display())?,
            Target::Sentinel { sentinels, master } => {
                let hosts: Vec<_> = sentinels.iter().map(Host::to_string).collect();
                write!(f, "redis{tls}-sentinel://{}/{master}", hosts.join(","))?;
            }
        }
        match (self.database, &self.target) {
            (0, _) => Ok(()),
            (database, Target::Unix(_)) => write!(f, "?db={database}"),
            (database, _) => write!(f, "/{database}"),
        }
    }
}

impl Host {
    fn parse(text: &str, default_port: u16) -> Result<Self, RedisConfigError> {
        let error = || RedisConfigError::Host { host: shown(text.split(':').next().unwrap_or_default()) };
        let (name, port) = if let Some(rest) = text.strip_prefix('[') {
            let (name, port) = rest.split_once(']').ok_or_else(error)?;
            if name.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(error());
            }
            (name, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(error)?) })
        } else {
            match text.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            }
        };
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:%".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_fit) {
            return Err(error());
        }
        let port = match port {
            None => default_port,
            Some(port) => match port.parse() {
                Ok(number @ 1..) if port.bytes().all(|byte| byte.is_ascii_digit()) => number,
                _ => return Err(RedisConfigError::Port),
            },
        };
        Ok(Self { name: name.to_owned(), port })
    }
}

fn user_and_password(text: &str) -> Result<(Option<String>, Option<Secret>), RedisConfigError> {
    let (user, password) = match text.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (text, None),
    };
    let user = decoded(user).ok_or(RedisConfigError::Encoding)?;
    let password = password.map(|password| decoded(password).ok_or(RedisConfigError::Encoding)).transpose()?;
    Ok((Some(user).filter(|user| !user.is_empty()), password.map(|password| Secret::new(&password))))
}

fn number(text: &str) -> Result<u32, RedisConfigError> {
    if text.is_empty() {
        return Ok(0);
    }
    match text.parse() {
        Ok(number) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
        _ => Err(RedisConfigError::Database { database: shown(text) }),
    }
}

/// Returns the text with each `%XX` as its byte; `None` if it is none or not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let [high, low, behind @ ..] = rest else { return None };
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        bytes.push(digit(*high)? << 4 | digit(*low)?);
        rest = behind;
    }
    String::from_utf8(bytes).ok()
}

/// Cut, so that an error stays a line.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}
