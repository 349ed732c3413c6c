//! Receive: the filter that takes a header off the beginning of a connection.
//!
//! A header that is whole in one read is read where it lies; only a part of one is kept.
//! Not here: whose header is believed (`settings`).

use std::time::Duration;

use crate::{
    connection::ConnectionInfo,
    wire::{
        filter::{Eof, Fault, Filter, Flow, Inflow},
        proxy::{
            header::ProxyHeader,
            parse::{Found, parse},
        },
    },
};

/// Names of faults: they are counted by them.
const MISSING: &str = "proxy-missing";
const INVALID: &str = "proxy-invalid";
const UNTRUSTED: &str = "proxy-untrusted";
const TIMEOUT: &str = "proxy-timeout";

/// The filter that takes a PROXY header off the beginning of a connection, made by
/// [`Proxy::filter`](crate::proxy::Proxy::filter).
#[derive(Debug)]
pub struct ReceiveProxy {
    is_required: bool,
    is_trusted: bool,
    timeout: Duration,
    /// A part of a header.
    pending: Vec<u8>,
    header: Option<Box<ProxyHeader>>,
}

impl ReceiveProxy {
    pub(super) fn new(is_required: bool, is_trusted: bool, timeout: Duration) -> Self {
        Self { is_required, is_trusted, timeout, pending: Vec::new(), header: None }
    }

    /// Takes what was found; `None` if there is more to come. The rest of what was kept is the session's.
    fn take(&mut self, found: Result<Found, &'static str>) -> Result<Option<usize>, Fault> {
        match found.map_err(|fault| Fault::named(INVALID, format!("a PROXY header of {fault}")))? {
            Found::Header(header, len) => {
                self.header = Some(Box::new(header));
                Ok(Some(len))
            }
            Found::Absent if self.is_required => Err(missing()),
            Found::Absent => Ok(Some(0)),
            Found::Part { .. } => Ok(None),
        }
    }
}

fn missing() -> Fault {
    Fault::named(MISSING, "the proxy has sent no PROXY header: have it send one, or set proxy to optional")
}

impl Filter for ReceiveProxy {
    fn read(&mut self, wire: &mut Inflow<'_>, plain: &mut Vec<u8>, _: &mut Vec<u8>) -> Result<Flow, Fault> {
        if !self.is_trusted {
            return Err(Fault::named(UNTRUSTED, "a PROXY header is required, and the peer is no trusted proxy"));
        }
        if wire.is_empty() {
            return Ok(Flow::Preface);
        }
        if self.pending.is_empty() {
            return Ok(match self.take(parse(wire.rest()))? {
                Some(len) => {
                    wire.advance(len);
                    Flow::Done
                }
                None => {
                    self.pending = wire.take(usize::MAX).to_vec();
                    Flow::Preface
                }
            });
        }
        self.pending.extend_from_slice(wire.take(usize::MAX));
        let found = parse(&self.pending);
        Ok(match self.take(found)? {
            Some(len) => {
                plain.extend_from_slice(&self.pending[len..]);
                self.pending = Vec::new();
                Flow::Done
            }
            None => Flow::Preface,
        })
    }

    /// Never called: it is done, or waits.
    fn write(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Fault> {
        wire.extend_from_slice(plain);
        Ok(())
    }

    fn eof(&mut self) -> Eof {
        Eof::Clean
    }

    fn preface_eof(&mut self, plain: &mut Vec<u8>) -> Result<Eof, Fault> {
        match parse(&self.pending) {
            _ if self.pending.is_empty() => {}
            Ok(Found::Part { is_signature: true }) if self.is_required => return Err(missing()),
            Ok(Found::Part { is_signature: true }) => plain.append(&mut self.pending),
            _ => return Err(Fault::named(INVALID, "the peer has closed in the middle of its PROXY header")),
        }
        Ok(Eof::Clean)
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.timeout)
    }

    /// A peer that says nothing, and need not send a header, waits for our first word.
    fn expired(&mut self) -> Result<(), Fault> {
        if !self.is_required && self.pending.is_empty() {
            return Ok(());
        }
        Err(Fault::named(TIMEOUT, format!("no whole PROXY header within {:?}", self.timeout)))
    }

    fn finish(&mut self, _: &mut Vec<u8>) {}

    fn learned(&self, info: &mut ConnectionInfo) {
        let Some(header) = &self.header else { return };
        match &header.ends {
            Some((source, destination)) => {
                info.set_peer(source.clone());
                info.set_local(destination.clone());
            }
            None => info.set_probe(),
        }
        info.insert(ProxyHeader::clone(header));
    }

    fn held(&self) -> usize {
        self.pending.len()
    }

    fn memory(&self) -> usize {
        self.pending.capacity()
    }
}
