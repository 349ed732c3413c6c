//! What can go wrong before a server runs, each with what to do about it.
//!
//! Not here: why one session ended ([`CloseReason`](crate::CloseReason)).

use std::{io, net::SocketAddr, time::Duration};

/// A setting that cannot be meant. Nothing has been started when it is returned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The longest line allowed is zero, or longer than [`MAX_LINE_LIMIT`](crate::MAX_LINE_LIMIT).
    #[error("max line is {bytes} bytes: use 1 to {}", crate::MAX_LINE_LIMIT)]
    MaxLine {
        /// What was asked for.
        bytes: usize,
    },
    /// The low watermark is not under the high one.
    #[error("outbox watermarks are low {low} and high {high}: use a low one under the high one")]
    Watermarks {
        /// Where reading resumes, in bytes.
        low: usize,
        /// Where reading pauses, in bytes.
        high: usize,
    },
    /// No session at all would be admitted.
    #[error("max sessions is 0: use 1 or more, or leave it out for no limit")]
    MaxSessions,
    /// No session of any source would be admitted.
    #[error("max sessions per source is 0: use 1 or more, or leave it out for no limit")]
    MaxSessionsPerSource,
    /// More bits than an address has.
    #[error("source prefix is {v4},{v6}: use at most 32 bits for IPv4 and 128 for IPv6")]
    SourcePrefix {
        /// Bits of an IPv4 address.
        v4: u8,
        /// Bits of an IPv6 address.
        v6: u8,
    },
    /// A rate at which nothing would ever happen.
    #[error("{limit} is 0: use 1 or more a second, or leave it out for no limit")]
    Rate {
        /// Which one.
        limit: &'static str,
    },
    /// More than fits any empty socket.
    #[error("the refuse line has {bytes} bytes: use at most 1024")]
    RefuseLine {
        /// Its length.
        bytes: usize,
    },
    /// Less than a few sessions need.
    #[error("memory budget is {bytes} bytes: use 1 MiB or more, or leave it out for no limit")]
    MemoryBudget {
        /// What was asked for.
        bytes: usize,
    },
    /// Shorter than the clock can tell, or longer.
    #[error("{limit} is {timeout:?}: use 1 s to 24 days, or none")]
    Timeout {
        /// Which one.
        limit: &'static str,
        /// What was asked for.
        timeout: Duration,
    },
    /// No address, or no network of addresses.
    #[error("{text:?} is no address or network: write it as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32")]
    Prefix {
        /// As it was given.
        text: String,
    },
    /// No worker at all, or more than [`MAX_WORKERS`](crate::MAX_WORKERS).
    #[error("{workers} workers: use 1 to {}, or leave it out for one a core", crate::MAX_WORKERS)]
    Workers {
        /// What was asked for.
        workers: usize,
    },
    /// A backlog that the kernel cannot be asked for.
    #[error("backlog is {backlog}: use 1 to {}", i32::MAX)]
    Backlog {
        /// What was asked for.
        backlog: u32,
    },
    /// There is nothing to accept on.
    #[error("no listener: call bind() or listen() before the start")]
    NoListener,
}

impl From<ConfigError> for io::Error {
    fn from(error: ConfigError) -> Self {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

/// A listener could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The address could not be understood or looked up.
    #[error("cannot look up {address}: {source}")]
    Resolve {
        /// As it was given.
        address: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The kernel refused the socket, the address, or the listen call.
    #[error("cannot listen on {address}: {}", reason(source))]
    Listen {
        /// The address that was refused.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// More listeners than can be numbered.
    #[error("too many listeners: use at most 65535")]
    TooMany,
}

impl From<BindError> for io::Error {
    fn from(error: BindError) -> Self {
        let kind = match &error {
            BindError::Resolve { source, .. } | BindError::Listen { source, .. } => source.kind(),
            BindError::TooMany => io::ErrorKind::InvalidInput,
        };
        io::Error::new(kind, error)
    }
}

/// The kernel's reason in the words of `strerror`, in lower case and without the number: it ends a sentence.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => text.to_owned(),
    }
}

/// The server that a handle belongs to has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server has ended: its handle can no longer be asked")]
pub struct ServerEnded;

impl From<ServerEnded> for io::Error {
    fn from(error: ServerEnded) -> Self {
        io::Error::new(io::ErrorKind::NotConnected, error)
    }
}
