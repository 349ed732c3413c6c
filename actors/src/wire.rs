//! Wire: what a session talks through, and what it has yet to send.

pub(crate) mod outbox;
pub(crate) mod socket;
pub(crate) mod tcp;
pub(crate) mod transport;
