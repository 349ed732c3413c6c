//! Wire: a session's transport, and its bytes on their way out.

pub(crate) mod filter;
pub(crate) mod filters;
pub(crate) mod guarded;
pub(crate) mod outbox;
#[cfg(feature = "proxy")]
pub(crate) mod proxy;
pub(crate) mod sealed;
pub(crate) mod socket;
pub(crate) mod stream;
pub(crate) mod tap;
pub(crate) mod tcp;
#[cfg(feature = "telnet")]
pub(crate) mod telnet;
#[cfg(feature = "tls")]
pub(crate) mod tls;
pub(crate) mod transport;
