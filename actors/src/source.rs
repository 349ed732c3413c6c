//! Source: the part of a peer's address that limits and lists compare.
//!
//! An IPv4 address is the same whether it came by an IPv4 or an IPv6 listener.
//! Not here: how many sessions a source has (`control/admission`).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{address::Address, error::ConfigError};

/// A network of addresses, written as `192.0.2.0/24` or `2001:db8::/32`; an address alone is a network of one.
///
/// An IPv4 address or network is the same in either notation: `::ffff:192.0.2.0/120` is `192.0.2.0/24`. `0.0.0.0/0` is
/// all of IPv4; `::/0` is all of IPv6 and nothing of IPv4.
///
/// ```
/// use actix_lines::Prefix;
///
/// let network: Prefix = "192.0.2.0/24".parse()?;
/// assert!(network.contains("192.0.2.7".parse().unwrap()));
/// assert!(network.contains("::ffff:192.0.2.7".parse().unwrap()), "the same, as an IPv6 listener sees it");
/// assert_eq!("::ffff:192.0.2.0/120".parse(), Ok(network));
/// assert!("192.0.2.0/33".parse::<Prefix>().is_err());
/// # Ok::<(), actix_lines::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix(IpNet);

impl Prefix {
    /// This machine's own addresses: `127.0.0.0/8` and `::1`.
    pub const LOOPBACK: [Self; 2] = [
        Self(IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8))),
        Self(IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128))),
    ];

    /// Returns true if `address` is in the network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Prefix {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let network = text.parse().or_else(|_| text.parse().map(|address: IpAddr| address.into()));
        let network: IpNet = network.map_err(|_| ConfigError::Prefix { text: text.to_owned() })?;
        let (address, bits) = (network.addr().to_canonical(), network.prefix_len());
        // Peers are compared as IPv4, however they came.
        let bits = match address.is_ipv4() && network.addr().is_ipv6() {
            true => bits.checked_sub(96).ok_or_else(|| ConfigError::MappedPrefix { text: text.to_owned() })?,
            false => bits,
        };
        let network = IpNet::new(address, bits).map_err(|_| ConfigError::Prefix { text: text.to_owned() })?;
        Ok(Self(network.trunc()))
    }
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        Self(address.to_canonical().into())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of peers, for the lists of [`Limits`](crate::limits::Limits) and for
/// [`SessionFilter`](crate::control::SessionFilter)s.
///
/// | text | peers |
/// |---|---|
/// | `192.0.2.0/24`, `::1` | of a network: a [`Prefix`]. No peer of a unix socket is in one |
/// | `unix` | of any unix socket |
/// | `uid:1000` | of a unix socket, whose process had this user id when it connected |
/// | `gid:100` | of a unix socket, whose process had this group id: its primary one, not one of its others |
///
/// A peer whose credentials the system does not tell is in `unix` alone.
///
/// ```
/// use actix_lines::{Address, Credentials, Peers, UnixAddress};
///
/// let peers: Peers = "uid:1000".parse()?;
/// let credentials = Credentials { pid: Some(12), uid: 1000, gid: 100 };
/// assert!(peers.contains(&UnixAddress::of(credentials).into()));
/// assert!(!peers.contains(&Address::Ip(([192, 0, 2, 7], 1024).into())));
/// assert_eq!(peers.to_string(), "uid:1000");
/// # Ok::<(), actix_lines::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Peers {
    /// Those of a network.
    Network(Prefix),
    /// Those of unix sockets.
    Unix,
    /// Those of unix sockets whose process had this user id.
    Uid(u32),
    /// Those of unix sockets whose process had this group id.
    Gid(u32),
}

impl Peers {
    /// This machine's own: `127.0.0.0/8`, `::1` and `unix`.
    pub const LOCAL: [Self; 3] = [Self::Network(Prefix::LOOPBACK[0]), Self::Network(Prefix::LOOPBACK[1]), Self::Unix];

    /// Returns true if the peer with this address is one of them.
    #[must_use]
    pub fn contains(&self, peer: &Address) -> bool {
        let credentials = || peer.unix().and_then(|peer| peer.credentials());
        match self {
            Self::Network(prefix) => peer.ip().is_some_and(|peer| prefix.contains(peer)),
            Self::Unix => peer.unix().is_some(),
            Self::Uid(uid) => credentials().is_some_and(|credentials| credentials.uid == *uid),
            Self::Gid(gid) => credentials().is_some_and(|credentials| credentials.gid == *gid),
        }
    }
}

impl FromStr for Peers {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let number = |number: &str| {
            let number = number.parse().ok().filter(|_| !number.starts_with('+'));
            number.ok_or_else(|| ConfigError::PeerId { text: text.to_owned() })
        };
        match text.split_once(':') {
            _ if text == "unix" => Ok(Self::Unix),
            Some(("uid", uid)) => number(uid).map(Self::Uid),
            Some(("gid", gid)) => number(gid).map(Self::Gid),
            _ => text.parse().map(Self::Network),
        }
    }
}

impl From<Prefix> for Peers {
    fn from(prefix: Prefix) -> Self {
        Self::Network(prefix)
    }
}

impl From<IpAddr> for Peers {
    fn from(address: IpAddr) -> Self {
        Self::Network(address.into())
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(prefix) => prefix.fmt(f),
            Self::Unix => f.write_str("unix"),
            Self::Uid(uid) => write!(f, "uid:{uid}"),
            Self::Gid(gid) => write!(f, "gid:{gid}"),
        }
    }
}

/// The number of leading bits of an address that make a source: addresses that share them count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePrefix {
    /// Bits of an IPv4 address, at most 32. Default: 32, each address by itself.
    pub v4: u8,
    /// Bits of an IPv6 address, at most 128. Default: 64, the network that one customer commonly gets.
    pub v6: u8,
}

impl Default for SourcePrefix {
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

impl SourcePrefix {
    /// Returns true if `address` is a source by itself, because all its bits count.
    pub(crate) fn is_exact(self, peer: PeerId) -> bool {
        let PeerId::Ip(address) = peer else { return true };
        if address.is_v4() { self.v4 == 32 } else { self.v6 == 128 }
    }

    /// Returns the source of `address`, which is the same for all addresses that count as one.
    pub(crate) fn source(self, peer: PeerId) -> PeerId {
        let PeerId::Ip(address) = peer else { return peer };
        let bits = if address.is_v4() { u32::from(self.v4) + 96 } else { u32::from(self.v6) };
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        PeerId::Ip(PackedAddr::from_bits(address.to_bits() & mask))
    }

    /// Returns the source of `peer` as a text that no other source has: an address, a network or `uid:1000`.
    #[cfg(feature = "cluster")]
    pub(crate) fn text(self, peer: PeerId) -> String {
        match self.source(peer) {
            PeerId::User(uid) => Peers::Uid(uid).to_string(),
            PeerId::Ip(source) if self.is_exact(peer) => source.ip().to_string(),
            PeerId::Ip(source) => format!("{}/{}", source.ip(), if source.is_v4() { self.v4 } else { self.v6 }),
        }
    }
}

/// An IP address of either kind in 16 bytes that need no alignment: one is kept for each session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PackedAddr([u32; 4]);

impl PackedAddr {
    fn from_bits(bits: u128) -> Self {
        Self(std::array::from_fn(|at| (bits >> (32 * at)) as u32))
    }

    fn to_bits(self) -> u128 {
        self.0.iter().rev().fold(0, |bits, word| bits << 32 | u128::from(*word))
    }

    #[cfg(feature = "cluster")]
    fn ip(self) -> IpAddr {
        Ipv6Addr::from_bits(self.to_bits()).to_canonical()
    }

    fn is_v4(self) -> bool {
        Ipv6Addr::from_bits(self.to_bits()).to_ipv4_mapped().is_some()
    }
}

impl From<IpAddr> for PackedAddr {
    fn from(address: IpAddr) -> Self {
        Self::from_bits(match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits(),
        })
    }
}

/// The part of a peer's address that limits of a source count by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PeerId {
    Ip(PackedAddr),
    /// The user id of the process at the other end of a unix socket.
    User(u32),
}

impl PeerId {
    /// Returns `None` for a peer that no limit of a source holds for: without an address, or without credentials.
    pub(crate) fn of(peer: &Address) -> Option<Self> {
        match peer {
            Address::Ip(address) => Some(address.ip().into()),
            Address::Unix(address) => address.credentials().map(|credentials| Self::User(credentials.uid)),
            Address::Memory => None,
        }
    }
}

impl From<IpAddr> for PeerId {
    fn from(address: IpAddr) -> Self {
        Self::Ip(address.into())
    }
}

/// The source that a session is weighed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SourceKey {
    Peer(PeerId),
    /// The session of this number alone: its peer has no address, or its address is that of many users.
    Alone(u64),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{Credentials, UnixAddress};

    #[test]
    fn a_network_of_ipv4_is_the_same_in_either_notation() {
        for (text, same) in [
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:a01:203/128", "10.1.2.3/32"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("0:0:0:0:0:FFFF:192.0.2.128/121", "192.0.2.128/25"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("::/80", "::/80"),
            ("::10.0.0.0/104", "::a00:0/104"),
            ("64:ff9b::10.0.0.0/104", "64:ff9b::a00:0/104"),
        ] {
            let prefix: Prefix = text.parse().unwrap();
            assert_eq!(prefix.to_string(), same, "{text}");
            assert_eq!(Ok(prefix), same.parse(), "{text}");
        }
        for text in ["::ffff:10.0.0.0/95", "::ffff:10.0.0.0/8", "::ffff:0:0/0"] {
            assert_eq!(text.parse::<Prefix>(), Err(ConfigError::MappedPrefix { text: text.to_owned() }));
        }
        for text in ["::ffff:10.0.0.0/129", "10.0.0.0/33", "10.0.0/8", ""] {
            assert_eq!(text.parse::<Prefix>(), Err(ConfigError::Prefix { text: text.to_owned() }));
        }
    }

    #[test]
    fn an_address_is_in_a_network_however_it_came() {
        let (all_of_v4, all_of_v6): (Prefix, Prefix) = ("0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap());
        let ten: Prefix = "::ffff:10.0.0.0/104".parse().unwrap();
        for (address, is_ten) in [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("11.1.2.3", false)] {
            let address = address.parse().unwrap();
            assert_eq!(ten.contains(address), is_ten, "{address}");
            assert!(all_of_v4.contains(address) && !all_of_v6.contains(address), "{address}");
        }
        let address = "2001:db8::1".parse().unwrap();
        assert!(!all_of_v4.contains(address) && all_of_v6.contains(address));
    }

    #[test]
    fn peers_are_of_a_network_a_user_a_group_or_any_unix_socket() {
        let ip = |text: &str| Address::from(text.parse::<std::net::SocketAddr>().unwrap());
        let unix = |uid, gid| UnixAddress::of(Credentials { pid: None, uid, gid }).into();
        let all = [
            ip("192.0.2.7:1"),
            ip("[::ffff:192.0.2.7]:1"),
            ip("[2001:db8::1]:1"),
            unix(1000, 100),
            unix(100, 1000),
            UnixAddress::at("/tmp/peer").into(),
            Address::Memory,
        ];
        for (text, are_in) in [
            ("192.0.2.0/24", "xx....."),
            ("0.0.0.0/0", "xx....."),
            ("::/0", "..x...."),
            ("unix", "...xxx."),
            ("uid:1000", "...x..."),
            ("gid:1000", "....x.."),
            ("uid:0", "......."),
        ] {
            let peers: Peers = text.parse().unwrap();
            let found: String = all.iter().map(|peer| if peers.contains(peer) { 'x' } else { '.' }).collect();
            assert_eq!((found.as_str(), peers.to_string().as_str()), (are_in, text));
        }
        for text in ["uid:", "uid:root", "gid:-1", "uid:4294967296", "uid:+1"] {
            assert_eq!(text.parse::<Peers>(), Err(ConfigError::PeerId { text: text.to_owned() }));
        }
        assert!(matches!("unix:".parse::<Peers>(), Err(ConfigError::Prefix { .. })));
    }

    #[test]
    fn a_user_is_a_source_of_its_own_under_every_prefix() {
        let user = |uid| PeerId::of(&UnixAddress::of(Credentials { pid: Some(1), uid, gid: 1 }).into()).unwrap();
        for prefix in [SourcePrefix::default(), SourcePrefix { v4: 0, v6: 0 }] {
            assert_eq!(prefix.source(user(7)), user(7));
            assert!(prefix.is_exact(user(7)));
        }
        assert_ne!(user(7), user(8));
        assert_eq!(PeerId::of(&UnixAddress::at("/tmp/peer").into()), None);
        assert_eq!(PeerId::of(&Address::Memory), None);
    }

    fn source(prefix: SourcePrefix, address: &str) -> String {
        let PeerId::Ip(source) = prefix.source(address.parse::<IpAddr>().unwrap().into()) else { unreachable!() };
        Ipv6Addr::from_bits(source.to_bits()).to_string()
    }

    #[test]
    fn addresses_that_share_the_prefix_are_one_source() {
        let default = SourcePrefix::default();
        assert_eq!(source(default, "192.0.2.7"), "::ffff:192.0.2.7");
        assert_eq!(source(default, "::ffff:192.0.2.7"), "::ffff:192.0.2.7");
        assert_eq!(source(default, "2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        let wide = SourcePrefix { v4: 24, v6: 32 };
        assert_eq!(source(wide, "192.0.2.7"), "::ffff:192.0.2.0");
        assert_eq!(source(wide, "2001:db8:1::1"), "2001:db8::");
        let all = SourcePrefix { v4: 0, v6: 0 };
        assert_eq!(source(all, "192.0.2.7"), "::ffff:0.0.0.0");
        assert_eq!(source(all, "2001:db8:1::1"), "::");
    }
}
