//! Info: what a handshake has found out about a connection.
//!
//! Made when somebody asks, so that an idle session does not hold it twice.

use rustls::{CipherSuite, CommonState, HandshakeKind, ProtocolVersion, pki_types::CertificateDer};

use crate::{connection::Connection, wire::tls::certificate::CertificateInfo};

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2, RFC 5246.
    Tls12,
    /// TLS 1.3, RFC 8446.
    Tls13,
}

/// The outcome of a TLS handshake: [`Connection::tls`](crate::Connection::tls) returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    server_name: Option<String>,
    alpn: Option<Vec<u8>>,
    version: TlsVersion,
    cipher_suite: Option<CipherSuite>,
    peer_certificates: Vec<CertificateDer<'static>>,
    is_resumed: bool,
}

impl TlsInfo {
    pub(super) fn new(state: &CommonState, server_name: Option<&str>) -> Self {
        Self {
            server_name: server_name.map(str::to_owned),
            alpn: state.alpn_protocol().map(<[u8]>::to_vec),
            version: match state.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
                _ => TlsVersion::Tls13,
            },
            cipher_suite: state.negotiated_cipher_suite().map(|suite| suite.suite()),
            peer_certificates: state.peer_certificates().unwrap_or_default().to_vec(),
            is_resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }

    /// Returns the server's name as the client has asked for it (SNI), in lower case. `None` if it gave none, as for an
    /// address.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// Returns the application protocol that was agreed upon. `None` if one side named none.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.alpn.as_deref()
    }

    /// Returns the version of TLS.
    #[must_use]
    pub fn version(&self) -> TlsVersion {
        self.version
    }

    /// Returns the name of the cipher suite, such as `"TLS13_AES_256_GCM_SHA384"`.
    #[must_use]
    pub fn cipher_suite(&self) -> &'static str {
        self.cipher_suite.and_then(|suite| suite.as_str()).unwrap_or("unknown")
    }

    /// Returns the peer's certificates in DER, its own first. Empty if it showed none. Whatever is here was verified.
    #[must_use]
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        &self.peer_certificates
    }

    /// Returns the subject and the times of the peer's own certificate. `None` if it showed none.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<CertificateInfo> {
        CertificateInfo::parse(self.peer_certificates.first()?)
    }

    /// Returns true if the handshake was a short one, with the keys of an earlier connection.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }
}

impl Connection {
    /// Returns what the TLS handshake has found out. `None` without TLS. Needs the feature `tls`.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.info()
    }
}
