//! Header: what a PROXY header says, received or to be sent.
//!
//! Not here: finding one in bytes (`parse`).

use std::{
    ffi::OsStr,
    net::{IpAddr, SocketAddr},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use proxy_header::{ProxiedAddress, SslInfo, Tlv};

use crate::{
    address::{Address, UnixAddress},
    connection::Connection,
    wire::proxy::format::{self, CRC32C, MAX_V2, UNIX_PATH},
};

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;
const NAMESPACE: u8 = 0x30;

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ProxyVersion {
    /// A line of text: addresses of TCP, and nothing else.
    V1,
    /// Binary: any addresses, and fields.
    V2,
}

/// A PROXY header: whose connection a proxy passes on. [`Connection::proxy`] returns the one that was received.
///
/// ```
/// use actix_lines::proxy::{ProxyHeader, ProxyVersion};
/// use std::net::SocketAddr;
///
/// let (peer, local) = ("192.0.2.7:1024".parse::<SocketAddr>()?, "198.51.100.1:40713".parse::<SocketAddr>()?);
/// let header = ProxyHeader::of(peer, local);
/// assert_eq!(header.encode(ProxyVersion::V1)?, b"PROXY TCP4 192.0.2.7 198.51.100.1 1024 40713\r\n");
/// let header = header.with_authority("lines.example");
/// assert_eq!(header.authority(), Some("lines.example"));
/// assert!(header.encode(ProxyVersion::V1).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    pub(super) version: ProxyVersion,
    pub(super) is_local: bool,
    pub(super) ends: Option<(Address, Address)>,
    /// Whole fields, one behind the other.
    pub(super) fields: Box<[u8]>,
}

/// The reason why a header cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// One address is of IP and the other is not, or one is none.
    #[error("a PROXY header cannot go from {source_addr} to {destination}: use two IP addresses, or two unix sockets")]
    Families {
        /// The address that the connection comes from.
        source_addr: Address,
        /// The address that it goes to.
        destination: Address,
    },
    /// Version 1 has no fields and no unix sockets.
    #[error("version 1 of the PROXY protocol has nothing but TCP addresses: use version 2 for fields and unix sockets")]
    Version1,
    /// The header is longer than a receiver has to take, or one of its fields or paths is.
    #[error("the PROXY header has {bytes} bytes: use at most 4096, and paths of at most 108")]
    TooLong {
        /// Its length, or that of the field.
        bytes: usize,
    },
}

impl ProxyHeader {
    /// Makes the header of a connection that is the sender's own, such as a probe: `LOCAL`, in version 1 `UNKNOWN`.
    #[must_use]
    pub fn local() -> Self {
        Self { version: ProxyVersion::V2, is_local: true, ends: None, fields: Box::default() }
    }

    /// Makes the header of a connection that came from `source` to `destination`.
    pub fn of(source: impl Into<Address>, destination: impl Into<Address>) -> Self {
        let ends = Some((source.into(), destination.into()));
        Self { version: ProxyVersion::V2, is_local: false, ends, fields: Box::default() }
    }

    /// Adds a field. Values above 64 KiB are cut; [`encode`](Self::encode) takes much less.
    #[must_use]
    pub fn with_field(self, kind: u8, value: &[u8]) -> Self {
        let value = &value[..value.len().min(usize::from(u16::MAX))];
        let mut fields = self.fields.into_vec();
        fields.push(kind);
        fields.extend((value.len() as u16).to_be_bytes());
        fields.extend_from_slice(value);
        Self { fields: fields.into(), ..self }
    }

    /// Adds the name of the host that the peer has asked for.
    #[must_use]
    pub fn with_authority(self, host: &str) -> Self {
        self.with_field(AUTHORITY, host.as_bytes())
    }

    /// Adds the application protocol.
    #[must_use]
    pub fn with_alpn(self, protocol: &[u8]) -> Self {
        self.with_field(ALPN, protocol)
    }

    /// Adds an id of the connection, at most 128 bytes.
    #[must_use]
    pub fn with_unique_id(self, id: &[u8]) -> Self {
        self.with_field(UNIQUE_ID, id)
    }

    /// Adds a checksum, computed when the header is encoded.
    #[must_use]
    pub fn with_crc32c(self) -> Self {
        self.with_field(CRC32C, &[0; 4])
    }

    /// Returns the version that it was received in; for one made here version 2.
    #[must_use]
    pub fn version(&self) -> ProxyVersion {
        self.version
    }

    /// Returns true if the connection is the proxy's own: `LOCAL`.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// Returns the real peer. `None` if the proxy does not tell it.
    #[must_use]
    pub fn source(&self) -> Option<&Address> {
        self.ends.as_ref().map(|(source, _)| source)
    }

    /// Returns the address that the real peer has connected to. `None` if the proxy does not tell it.
    #[must_use]
    pub fn destination(&self) -> Option<&Address> {
        self.ends.as_ref().map(|(_, destination)| destination)
    }

    /// Returns the name of the host that the peer has asked for, as by TLS's SNI.
    #[must_use]
    pub fn authority(&self) -> Option<&str> {
        str::from_utf8(self.field(AUTHORITY)?).ok()
    }

    /// Returns the application protocol of the peer's connection.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.field(ALPN)
    }

    /// Returns the proxy's id of the connection.
    #[must_use]
    pub fn unique_id(&self) -> Option<&[u8]> {
        self.field(UNIQUE_ID)
    }

    /// Returns the name of the network namespace.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        str::from_utf8(self.field(NAMESPACE)?).ok()
    }

    /// Returns the peer's TLS, which the proxy has ended. `None` if the proxy says nothing of it.
    #[must_use]
    pub fn ssl(&self) -> Option<ProxySsl<'_>> {
        match Tlv::decode(SSL, self.field(SSL)?) {
            Ok(Tlv::Ssl(ssl)) => Some(ProxySsl(ssl)),
            _ => None,
        }
    }

    /// Returns the value of the first field of a kind, also of one that has no name here.
    #[must_use]
    pub fn field(&self, kind: u8) -> Option<&[u8]> {
        self.fields().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// Iterates over the kinds and values of all fields.
    pub fn fields(&self) -> ProxyFields<'_> {
        ProxyFields(&self.fields)
    }

    /// Returns the header's bytes.
    ///
    /// # Errors
    /// Returns a [`ProxyError`] if this version cannot express it.
    pub fn encode(&self, version: ProxyVersion) -> Result<Vec<u8>, ProxyError> {
        let ends = match &self.ends {
            None => None,
            Some((Address::Ip(source), Address::Ip(destination))) => Some(same_family(*source, *destination)),
            Some((Address::Unix(source), Address::Unix(destination))) if version == ProxyVersion::V2 => {
                return self.encode_unix([source, destination]);
            }
            Some((Address::Unix(_), Address::Unix(_))) => return Err(ProxyError::Version1),
            Some((source, destination)) => {
                return Err(ProxyError::Families { source_addr: source.clone(), destination: destination.clone() });
            }
        };
        let mut header = match ends {
            Some((source, destination)) => {
                proxy_header::ProxyHeader::with_address(ProxiedAddress::stream(source, destination))
            }
            None => proxy_header::ProxyHeader::with_local(),
        };
        self.fields().for_each(|(kind, value)| header.append_tlv(Tlv::Custom(kind, value.into())));
        let mut bytes = Vec::new();
        let encoded = match version {
            ProxyVersion::V1 => header.encode_v1(&mut bytes),
            ProxyVersion::V2 => header.encode_v2(&mut bytes),
        };
        match encoded {
            Ok(()) => self.finish(bytes),
            Err(proxy_header::Error::HeaderTooBig) => Err(ProxyError::TooLong { bytes: self.fields.len() }),
            Err(_) => Err(ProxyError::Version1),
        }
    }

    /// Encodes addresses that the crate does not know.
    fn encode_unix(&self, ends: [&UnixAddress; 2]) -> Result<Vec<u8>, ProxyError> {
        let mut bytes = format::SIGNATURE_V2.to_vec();
        let len = 2 * UNIX_PATH + self.fields.len();
        let announced = u16::try_from(len).map_err(|_| ProxyError::TooLong { bytes: len })?;
        bytes.extend([0x21, 0x31]);
        bytes.extend(announced.to_be_bytes());
        for end in ends {
            let path = end.path().map_or(&[][..], |path| path.as_os_str().as_bytes());
            if path.len() > UNIX_PATH {
                return Err(ProxyError::TooLong { bytes: path.len() });
            }
            bytes.extend_from_slice(path);
            bytes.resize(bytes.len() + UNIX_PATH - path.len(), 0);
        }
        bytes.extend_from_slice(&self.fields);
        self.finish(bytes)
    }

    /// Fills in the checksum.
    fn finish(&self, mut bytes: Vec<u8>) -> Result<Vec<u8>, ProxyError> {
        if bytes.len() > MAX_V2 {
            return Err(ProxyError::TooLong { bytes: bytes.len() });
        }
        if let Some((kind, at)) = format::positions(&self.fields).find(|(kind, _)| *kind == CRC32C)
            && self.field(kind).is_some_and(|value| value.len() == 4)
        {
            let at = bytes.len() - self.fields.len() + at;
            let sum = format::crc32c(&bytes, at);
            bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
        }
        Ok(bytes)
    }
}

/// Both as IPv4 if they are, or else both as IPv6.
fn same_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (from, to) = (canonical(source), canonical(destination));
    if from.is_ipv4() == to.is_ipv4() {
        return (from, to);
    }
    let as_v6 = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    (as_v6(from), as_v6(to))
}

/// An IPv4 address that is mapped into IPv6 is one of IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The address of a unix socket as a header has it: a path up to the first NUL, which begins an abstract name.
pub(super) fn unix(bytes: &[u8]) -> Address {
    let name_len = match bytes.first() {
        Some(0) => bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1),
        _ => bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()),
    };
    match name_len {
        0 => UnixAddress::new(None, None).into(),
        len => UnixAddress::at(Path::new(OsStr::from_bytes(&bytes[..len]))).into(),
    }
}

/// The fields of a header: kinds and values.
#[derive(Clone, Debug)]
pub struct ProxyFields<'a>(&'a [u8]);

impl<'a> Iterator for ProxyFields<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (kind, at) = format::positions(self.0).next()?;
        let (value, rest) = self.0[at..].split_at(format::value_len(&self.0[..at]));
        self.0 = rest;
        Some((kind, value))
    }
}

/// The peer's TLS as a proxy tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySsl<'a>(SslInfo<'a>);

impl ProxySsl<'_> {
    /// Returns true if the peer has connected by TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.0.client_ssl()
    }

    /// Returns true if the peer has shown a certificate, in this connection or in an earlier one of the same TLS session.
    #[must_use]
    pub fn has_certificate(&self) -> bool {
        self.0.client_cert_conn() || self.0.client_cert_sess()
    }

    /// Returns true if the peer has shown a certificate, and the proxy has verified it.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.has_certificate() && self.0.verify() == 0
    }

    /// Returns the version of TLS, as `"TLSv1.3"`.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.0.version()
    }

    /// Returns the common name of the peer's certificate. It is worth what [`is_verified`](Self::is_verified) says.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        self.0.cn()
    }

    /// Returns the name of the cipher suite.
    #[must_use]
    pub fn cipher(&self) -> Option<&str> {
        self.0.cipher()
    }

    /// Returns the algorithm of the signature of the proxy's certificate.
    #[must_use]
    pub fn signature_algorithm(&self) -> Option<&str> {
        self.0.sig_alg()
    }

    /// Returns the algorithm of the key of the proxy's certificate.
    #[must_use]
    pub fn key_algorithm(&self) -> Option<&str> {
        self.0.key_alg()
    }
}

impl Connection {
    /// Returns the PROXY header of a connection that came by way of a proxy. `None` without one. Needs the feature `proxy`.
    #[must_use]
    pub fn proxy(&self) -> Option<&ProxyHeader> {
        self.info()
    }
}
