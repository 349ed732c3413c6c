//! Outgoing sessions: an actor that connects, makes a session of the connection, and connects again when it is lost.
//!
//! [`Connector::builder`] is where to begin. Files from the ground: waits (`backoff`), messages, addresses tried at the same
//! time (`race`), one attempt (`target`), the actor (`connector`), its builder.

pub(crate) mod backoff;
pub(crate) mod builder;
pub(crate) mod connector;
pub(crate) mod messages;
pub(crate) mod race;
pub(crate) mod target;

pub use crate::{
    connect::{
        backoff::Backoff,
        builder::ConnectorBuilder,
        connector::Connector,
        messages::{ConnectorEvent, Disconnect, GetSession},
    },
    error::ConnectError,
};
