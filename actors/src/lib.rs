//! Line-oriented TCP sessions as actix actors.
//!
//! You write an actor, say what happens for one line, and its context owns the socket, the line buffer, the outbox, the
//! clock and the close. The session actor is your own: it handles any message, spawns, waits, has an address.
//!
//! ```no_run
//! use actix::Actor;
//! use actix_lines::{Line, LineContext, LineHandler, LineServer};
//!
//! #[derive(Default)]
//! struct Shout;
//!
//! impl Actor for Shout {
//!     type Context = LineContext<Self>;
//! }
//!
//! impl LineHandler for Shout {
//!     fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
//!         ctx.write(line.to_ascii_uppercase());
//!     }
//! }
//!
//! #[actix::main]
//! async fn main() -> std::io::Result<()> {
//!     LineServer::new(|_connection| Shout).bind("127.0.0.1:0")?.run().await
//! }
//! ```
//!
//! # Words
//!
//! An **actor** is a value that owns its state, has an address, and handles one thing at a time: a line, a message, a timer.
//! Nothing in it needs a lock. An **arbiter** is a thread with an event loop that actors run on; a **system** is all arbiters
//! of a process. These are [actix](https://docs.rs/actix)'s.
//!
//! A **session** is one connection's actor, and the connection's other end its **peer**. A session reads **lines**: bytes up to
//! a delimiter; the **tail** is what comes behind the last one. What it writes waits in its **outbox** until the kernel takes
//! it. A **listener** is a socket that peers connect to. A **worker** is an arbiter that runs sessions; the **supervisor** is
//! the actor that counts and ends them.
//!
//! ```text
//!                   control path:  Supervisor ── stats, sessions, push, kick, limits, drain
//!                                    │    ▲
//! listener ─▶ Acceptor ──admitted────┤    │ closed(report), batched per worker
//!             (one actor a listener) ▼    │
//!             worker 0..N (arbiters): session actor ◀── messages from the rest of your system
//!                                       LineContext:  socket ─▶ framing ─▶ LineHandler ─▶ outbox ─▶ socket
//!                   data path:        accept → session → lines → handler → writer, never leaving the session's worker
//! ```
//!
//! # Where to begin
//!
//! | to | see |
//! |---|---|
//! | have the names of most programs at once | [`prelude`] |
//! | answer lines | [`LineHandler`], [`LineContext`] |
//! | listen | [`LineServer`], [`Listener`] |
//! | say where lines end, and what to do with long ones | [`Framing`], [`Overlong`] |
//! | bound what a peer may cost | [`limits`] |
//! | watch and steer a running server | [`ServerHandle`], [`control`] |
//! | connect to another server, and again when it is lost | [`connect`] |
//! | run a session over any two-way byte stream | [`LineSession`], [`Transport`] |
//! | ask somebody else whether a connection may come in | [`LineServer::gate`] |
//! | put something between the wire and the lines | [`filter`], [`Listener::filter`] |
//! | speak TLS | `tls`, with the feature of that name |
//! | speak telnet | `telnet`, with the feature of that name |
//! | begin TLS in the middle of a session, or add a filter there | `LineContext::start_tls`, [`LineContext::push_filter`] |
//! | know peers that come by way of a proxy | `proxy`, with the feature of that name |
//! | say something to many sessions | [`Room`] |
//! | carry what is said in rooms elsewhere | [`uplink`] |
//! | record live sessions as scripts | the feature `record` |
//! | see and steer a server by a browser, and answer probes | `http`, with the feature of that name |
//! | let an operator see and steer a running server | `console`, with the feature of that name |
//! | hand metrics to Prometheus | `metrics`, with the feature of that name |
//! | list, tell, kick and limit sessions of several nodes as if there were one | `cluster`, with the feature of that name |
//! | answer the agent checks of HAProxy | `agent_check`, with the feature of that name |
//! | serialize counters, reports and lists of sessions | the feature `serde` |
//! | test without sockets and without waiting | [`testing`] |
//!
//! Unix only: listeners take sockets from the kernel themselves.
// Whatever a peer, a file or the system decides is an error to handle, not a panic.
#![warn(clippy::unwrap_used)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod address;
mod caught;
mod connection;
mod error;
mod escape;
mod framing;
mod gate;
mod log_limit;
mod logged;
mod names;
mod plural;
mod rate;
mod report;
mod room;
mod scan;
mod seconds;
mod shared;
#[cfg(any(feature = "script", feature = "record"))]
mod shown;
mod source;
#[cfg(any(feature = "script", feature = "record", feature = "telnet"))]
mod telnet_codes;
#[cfg(any(feature = "console", feature = "http"))]
mod token;
#[cfg(any(feature = "console", feature = "http"))]
#[allow(dead_code, reason = "each of the two features uses a part of it")]
mod units;
pub mod uplink;

mod wire;

pub mod limits;

pub mod control;
#[cfg(any(feature = "console", feature = "http"))]
#[allow(dead_code, reason = "each of the two features uses a part of it")]
mod words;

mod listen;
mod worker;

mod session;

#[cfg(feature = "agent-check")]
pub mod agent_check;
#[cfg(feature = "cluster")]
pub mod cluster;
pub mod connect;
#[cfg(feature = "console")]
pub mod console;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod prelude;
#[cfg(feature = "record")]
pub mod record;
mod rot13;
#[cfg(feature = "script")]
pub mod script;
mod server;
mod standalone;
pub mod testing;

#[cfg(any(feature = "console", feature = "http"))]
pub use crate::token::Token;
pub use crate::{
    address::{
        Address, Credentials, UnixAddress,
        listen::{ListenAddress, ListenAddressError},
    },
    connection::{Connection, ListenerId, SessionId},
    control::listeners::ListenerInfo,
    error::{BindError, ConfigError, InheritError, ServerEnded, StartError, Unfit},
    escape::Escaped,
    framing::{Delimiter, Framing, Overlong},
    gate::Permit,
    listen::listener::Listener,
    names::NameError,
    report::{CloseReason, CloseReport, FaultName, Half},
    room::{Room, WeakRoom},
    rot13::{Rot13, rot13},
    server::{builder::LineServer, companion::Companion, handle::ServerHandle, signals::EndSignals},
    session::{
        context::LineContext,
        handler::{Idle, LineHandler},
        lines::{Line, Lines, Payload},
        upgrade::UpgradeError,
    },
    source::{Peers, Prefix, SourcePrefix},
    standalone::LineSession,
    wire::{stream::ByteStream, transport::Transport},
};

/// Filters: what stands between the wire and the lines of a session.
pub mod filter {
    pub use crate::{
        connection::ConnectionInfo,
        wire::filter::{Eof, Fault, Filter, Flow, Inflow, Notice},
    };
}

/// Sockets that a service manager hands over. Feature `systemd`, on Linux.
#[cfg(all(feature = "systemd", target_os = "linux"))]
pub mod systemd {
    pub use crate::listen::inherited::{UnusedSocket, close_unused};
}

/// The telnet protocol for listeners: RFC 854, 855, 857, 858 and 1073. Feature `telnet`.
#[cfg(feature = "telnet")]
pub mod telnet {
    pub use crate::wire::telnet::{
        event::{Echo, TelnetEvent, WindowSize},
        settings::Telnet,
    };
}

/// The PROXY protocol: the real peers of connections that come by way of a proxy. Feature `proxy`.
#[cfg(feature = "proxy")]
pub mod proxy {
    pub use crate::wire::proxy::{
        header::{ProxyError, ProxyFields, ProxyHeader, ProxySsl, ProxyVersion},
        receive::ReceiveProxy,
        send::SendProxy,
        settings::Proxy,
    };
}

/// TLS for listeners and connectors, by rustls 0.23 with ring. Feature `tls`.
#[cfg(feature = "tls")]
pub mod tls {
    pub use rustls;

    pub use crate::wire::tls::{
        certificate::CertificateInfo,
        client::{TlsClient, TlsClientBuilder},
        error::{TlsError, TlsWarning},
        info::{TlsInfo, TlsVersion},
        pem::Pem,
        server::{ClientAuth, LoadedCertificate, Tls, TlsBuilder},
    };
}

#[cfg(test)]
mod no_deadline_is_slept_through;

#[cfg(test)]
mod no_session_waits_for_ever;

/// The guide, whose examples are tested as if they stood here.
#[cfg(doctest)]
#[doc = include_str!("../embedding.md")]
struct Guide;

/// The guide to filters, likewise.
#[cfg(doctest)]
#[doc = include_str!("../filters.md")]
struct FilterGuide;
