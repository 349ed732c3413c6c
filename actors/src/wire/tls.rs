//! TLS by rustls, as a filter: what a listener or a connector is given, and what a handshake has found.
//!
//! All types of rustls stay in these files, but for the two configurations that a user may bring. Its interface for
//! buffers of others is used, so that an idle session holds no buffer.
//! Not here: calling the filter (`transport`), the deadline and the number of handshakes (`session/preface`).

pub(crate) mod certificate;
pub(crate) mod client;
pub(crate) mod error;
pub(crate) mod filter;
pub(crate) mod info;
pub(crate) mod pem;
pub(crate) mod server;
mod words;

#[cfg(test)]
mod tests;
