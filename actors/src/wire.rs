//! Wire: what a session talks through, and what it has yet to send.

pub(crate) mod filter;
pub(crate) mod outbox;
pub(crate) mod sealed;
pub(crate) mod socket;
pub(crate) mod stream;
pub(crate) mod tcp;
pub(crate) mod transport;
