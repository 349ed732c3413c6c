//! Addresses: where a peer connects to, as scripts and command lines write them.
//!
//! Not here: the connections to them (`connect`, `target`).

use std::{fmt, path::PathBuf};

use crate::{
    script::{ast::Span, report::Diagnostic},
    shown::Shown,
};

/// How addresses are written.
pub(crate) const HELP: &str = "write host:port, [IPv6]:port, unix:PATH or tls:host:port";

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Address {
    Tcp(String),
    Unix(PathBuf),
    /// TLS over TCP.
    Tls(String),
}

impl Address {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return (!path.is_empty()).then(|| Self::Unix(path.into()));
        }
        let tls = text.strip_prefix("tls:");
        let (host, port) = tls.unwrap_or(text).rsplit_once(':')?;
        let is_host = !host.is_empty() && !host.contains(char::is_whitespace);
        (is_host && port.parse::<u16>().is_ok()).then(|| match tls {
            Some(address) => Self::Tls(address.to_owned()),
            None => Self::Tcp(text.to_owned()),
        })
    }

    /// The name of its transport, as `needs` has it.
    pub(crate) fn transport(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Unix(_) => "unix",
            Self::Tls(_) => "tls",
        }
    }

    /// Reads an address whose variables are replaced.
    pub(crate) fn resolved(bytes: &[u8], span: Span) -> Result<Self, Diagnostic> {
        std::str::from_utf8(bytes).ok().and_then(Self::parse).ok_or_else(|| {
            let title = format!("\"{}\" is no address", Shown(bytes));
            Diagnostic::new(title, span, "expected an address").help(HELP)
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tls(address) => write!(f, "tls:{address}"),
        }
    }
}
