//! Send: the filter that sends a header before anything else.
//!
//! Not here: what is in it (`header`).

use std::sync::Arc;

use crate::wire::{
    filter::{Eof, Fault, Filter, Flow, Inflow},
    proxy::header::{ProxyError, ProxyHeader, ProxyVersion},
};

/// The filter that sends a PROXY header before anything else, for a [`Transport`](crate::Transport) of a
/// [`LineSession`](crate::LineSession); for a connector see
/// [`ConnectorBuilder::proxy`](crate::connect::ConnectorBuilder::proxy).
///
/// It is the first filter, nearest to the wire, if there are others.
#[derive(Clone, Debug)]
pub struct SendProxy(Arc<[u8]>);

impl SendProxy {
    /// Sends this header in this version.
    ///
    /// # Errors
    /// Returns a [`ProxyError`] if the version cannot express the header.
    pub fn new(version: ProxyVersion, header: &ProxyHeader) -> Result<Self, ProxyError> {
        Ok(Self(header.encode(version)?.into()))
    }
}

impl Filter for SendProxy {
    fn read(&mut self, _: &mut Inflow<'_>, _: &mut Vec<u8>, reply: &mut Vec<u8>) -> Result<Flow, Fault> {
        reply.extend_from_slice(&self.0);
        Ok(Flow::Done)
    }

    /// Never called: it is done with its first call.
    fn write(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Fault> {
        wire.extend_from_slice(plain);
        Ok(())
    }

    fn eof(&mut self) -> Eof {
        Eof::Clean
    }

    fn finish(&mut self, _: &mut Vec<u8>) {}

    fn held(&self) -> usize {
        0
    }
}
