//! Setup: whether peers and a listener expect the same of each other.
//!
//! A listener that asks for headers or TLS of peers that send none serves nobody. Each of their connections is a fault of a
//! peer, which only a verbose log has; all of them together are a mistake of the operator, and are said as one.
//! Not here: the faults (`wire/proxy`, `wire/tls`), their counts (`control/stats`).

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crate::{
    address::{Address, Origin},
    connection::{Connection, ListenerId},
    log_limit::{Kind, LogLimit},
    logged::Site,
    report::FaultName,
};

/// Connections that fail one after the other before that is said of a listener that has served somebody.
const IN_A_ROW: u32 = 10;

const FAILED: Kind = Kind("connection that does not get through", "connections that do not get through");

/// What is known of a listener since it was set up, or set up anew.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    has_served: AtomicBool,
    failed_in_a_row: AtomicU32,
    log: LogLimit,
}

impl Setup {
    /// It has been set up anew.
    pub(super) fn begin(&self) {
        self.has_served.store(false, Relaxed);
        self.failed_in_a_row.store(0, Relaxed);
    }

    /// A connection has got through all handshakes. Written to only where something changes: each connection comes here.
    pub(crate) fn serve(&self) {
        if !self.has_served.load(Relaxed) {
            self.has_served.store(true, Relaxed);
        }
        if self.failed_in_a_row.load(Relaxed) > 0 {
            self.failed_in_a_row.store(0, Relaxed);
        }
    }

    /// A connection has failed by a fault. Says what to do, if none gets through for a reason that lies in the setup.
    pub(crate) fn fail(&self, connection: &Connection, fault: FaultName) {
        let Some(advice) = advice(fault.as_str()) else { return };
        let in_a_row = self.failed_in_a_row.fetch_add(1, Relaxed).saturating_add(1);
        if self.has_served.load(Relaxed) && in_a_row < IN_A_ROW {
            return;
        }
        let Connection { peer, local, listener, .. } = connection;
        let label = label(*listener, local);
        if let Some(events) = self.log.pass(&FAILED, format_args!("listener {label}: ")) {
            log::warn!(
                listener = Site(*listener), peer = Origin(peer), reason = fault.as_str(), count = events;
                "listener {label}: no connection gets through; the last one{} has failed by {fault}: {advice}{events}",
                Origin(peer)
            );
        }
    }
}

fn label(listener: Option<ListenerId>, local: &Address) -> String {
    listener.and_then(ListenerId::name).map_or_else(|| local.to_string(), str::to_owned)
}

/// Returns what to do, for faults that all connections have where the setup is to blame.
fn advice(fault: &str) -> Option<&'static str> {
    Some(match fault {
        "proxy-missing" => {
            "have the proxy send its header (HAProxy: send-proxy-v2, nginx: proxy_protocol on), or do not require one here"
        }
        "proxy-untrusted" => "trust the proxy's address here, or do not require a header",
        "tls-not-tls" => "have its peers speak TLS, or serve them at a listener without it",
        "tls-rejected" => {
            "mostly, peers do not trust the certificate: send the whole chain, of an authority that they know and with the name \
             that they ask for"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::SessionId;

    fn connection() -> Connection {
        Connection::new(SessionId::next(), Address::Memory, Address::Memory, None)
    }

    /// Returns true if a message was due.
    fn fails(setup: &Setup, fault: &'static str) -> bool {
        let before = format!("{:?}", setup.log);
        setup.fail(&connection(), FaultName::new(fault).unwrap());
        before != format!("{:?}", setup.log)
    }

    #[test]
    fn who_never_served_anybody_hears_of_the_first_failure_and_others_of_many_in_a_row() {
        let setup = Setup::default();
        assert!(!fails(&setup, "tls-no-certificate"), "a peer's own");
        assert!(fails(&setup, "tls-not-tls"));
        setup.serve();
        for _ in 1..IN_A_ROW {
            assert!(!fails(&setup, "tls-not-tls"), "a stranger among those that are served");
        }
        assert!(fails(&setup, "tls-not-tls"));
        setup.serve();
        assert!(!fails(&setup, "proxy-missing"));
        setup.begin();
        assert!(fails(&setup, "proxy-missing"), "it was set up anew");
    }
}
