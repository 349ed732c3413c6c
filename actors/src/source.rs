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

use crate::error::ConfigError;

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
    pub(crate) fn is_exact(self, address: PackedAddr) -> bool {
        if address.is_v4() { self.v4 == 32 } else { self.v6 == 128 }
    }

    /// Returns the source of `address`, which is the same for all addresses that count as one.
    pub(crate) fn source(self, address: PackedAddr) -> PackedAddr {
        let bits = if address.is_v4() { u32::from(self.v4) + 96 } else { u32::from(self.v6) };
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        PackedAddr::from_bits(address.to_bits() & mask)
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

/// The source that a session is weighed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SourceKey {
    Address(PackedAddr),
    /// The session of this number alone: its peer has no address, or its address is that of many users.
    Alone(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn source(prefix: SourcePrefix, address: &str) -> String {
        Ipv6Addr::from_bits(prefix.source(PackedAddr::from(address.parse::<IpAddr>().unwrap())).to_bits()).to_string()
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
