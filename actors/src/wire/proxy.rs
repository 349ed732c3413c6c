//! Proxy: the PROXY protocol, versions 1 and 2, by which a proxy tells whose connection it passes on.
//!
//! The crate proxy-header knows addresses and fields; bounds, signatures, families and the checksum are ours.
//! Not here: what a real peer means to admission (`session/preface`).

mod format;
pub(crate) mod header;
mod parse;
pub(crate) mod receive;
pub(crate) mod send;
pub(crate) mod settings;
