//! Target: the address of a connector's server, and one attempt to connect.
//!
//! Not here: trying several addresses (`race`), the session of the connection (`connector`).

use std::{future::poll_fn, io, net::SocketAddr, panic::AssertUnwindSafe, pin::Pin, rc::Rc, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::time::{Instant, timeout_at};

#[cfg(feature = "proxy")]
use crate::wire::proxy::send::SendProxy;
use crate::{
    caught::dispose,
    connect::race::{self, interleave, race},
    error::ConnectError,
    wire::transport::{Layer, Transport},
};

/// Makes the filter of a connection, which has its handshake before there is a session.
pub(super) type MakeFilter = Box<dyn Fn() -> Layer>;

pub(super) type Resolve = Box<dyn Fn(String) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>>>>>;

/// Returns true if it is exactly `HOST:PORT`: a name, an IPv4 address, or an IPv6 address in brackets.
pub(super) fn is_address(target: &str) -> bool {
    if let Ok(address) = target.parse::<SocketAddr>() {
        return address.port() != 0;
    }
    target.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains([':', '[', ']', '/']) && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

/// The settings of an attempt.
pub(super) struct Way {
    pub(super) target: String,
    pub(super) resolve: Resolve,
    pub(super) connect_timeout: Duration,
    pub(super) keepalive: Option<Duration>,
    #[cfg(feature = "proxy")]
    pub(super) proxy: Option<SendProxy>,
    pub(super) filter: Option<MakeFilter>,
}

impl Way {
    /// Does one attempt: looks up, races, and waits for the handshake of a filter.
    pub(super) async fn attempt(self: Rc<Self>) -> Result<(SocketAddr, Transport), ConnectError> {
        let target = || self.target.clone();
        let deadline = Instant::now() + self.connect_timeout;
        let resolve = AssertUnwindSafe(async { (self.resolve)(self.target.clone()).await }).catch_unwind();
        let addresses = match timeout_at(deadline, resolve).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(payload)) => {
                dispose(payload);
                return Err(ConnectError::Panicked { target: target(), what: "resolver" });
            }
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let addresses = addresses
            .map_err(|source| ConnectError::Resolve { target: target(), source: Arc::new(source) })
            .map(interleave)?;
        if addresses.is_empty() {
            return Err(ConnectError::NoAddress { target: target() });
        }
        let connect = |address| race::connect(address, self.keepalive);
        match timeout_at(deadline, race(addresses.clone(), connect)).await {
            Ok(Ok((peer, stream))) => self.open(peer, Transport::from(stream), deadline).await,
            Ok(Err(failures)) => Err(ConnectError::Refused {
                target: target(),
                failures: failures.into_iter().map(|(address, error)| (address, Arc::new(error))).collect(),
            }),
            Err(_) => Err(ConnectError::TimedOut { target: target(), addresses, timeout: self.connect_timeout }),
        }
    }
}

impl Way {
    /// Puts the filter around a connection, and waits until it is open.
    async fn open(
        &self,
        peer: SocketAddr,
        transport: Transport,
        deadline: Instant,
    ) -> Result<(SocketAddr, Transport), ConnectError> {
        let mut transport = transport;
        #[cfg(feature = "proxy")]
        if let Some(proxy) = &self.proxy {
            transport = transport.with_filter(proxy.clone());
        }
        if let Some(filter) = &self.filter {
            transport = transport.with_layer(filter());
        }
        let opened = timeout_at(deadline, poll_fn(|cx| transport.poll_open(cx))).await;
        let reason = match opened {
            Ok(Ok(())) if transport.is_open() => {
                transport.drop_done();
                return Ok((peer, transport));
            }
            Ok(Ok(())) => transport.take_fault().unwrap_or_else(|| "the server closed the connection".to_owned()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {:?}", self.connect_timeout),
        };
        Err(ConnectError::Handshake { target: self.target.clone(), peer, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_connected_to_is_told_from_what_cannot() {
        for good in ["localhost:1", "example.org:65535", "192.0.2.7:7", "[::1]:7"] {
            assert!(is_address(good), "{good}");
        }
        for bad in
            ["", "localhost", "localhost:", ":7", "localhost:0", "localhost:65536", "::1:7", "[::1]", "http://a:7"]
        {
            assert!(!is_address(bad), "{bad}");
        }
        assert!(!is_address("127.0.0.1:0"));
    }
}
