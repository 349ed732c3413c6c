//! Telnet, as a filter: commands are stripped and answered, options negotiated, bytes that mean something escaped.
//!
//! Of RFC 854 and 855 the commands, of 857 (ECHO), 858 (SUPPRESS-GO-AHEAD) and 1073 (NAWS) the options; every other option is
//! refused. Nothing of the data is kept here, and nothing is allocated.
//! Not here: the codes (`telnet_codes`), calling the filter (`transport`).

pub(crate) mod event;
pub(crate) mod filter;
mod negotiation;
pub(crate) mod settings;

#[cfg(test)]
mod tests;
