//! Source: where a connection comes from, as limits and lists see it.
//!
//! An IPv4 address is the same whether it came by an IPv4 or an IPv6 listener.
//! Not here: how many sessions a source has (`admission`).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::ConfigError;

/// A network of addresses, as `192.0.2.0/24` or `2001:db8::/32`; an address alone is a network of one.
///
/// ```
/// use actix_lines::Prefix;
///
/// let network: Prefix = "192.0.2.0/24".parse()?;
/// assert!(network.contains("192.0.2.7".parse().unwrap()));
/// assert!(network.contains("::ffff:192.0.2.7".parse().unwrap()), "the same, as an IPv6 listener sees it");
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

    /// Whether `address` is one of the network's.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Prefix {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let network =
            text.parse().or_else(|_| text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical())));
        network.map(|network: IpNet| Self(network.trunc())).map_err(|_| ConfigError::Prefix { text: text.to_owned() })
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

/// How many leading bits of an address make a source: addresses that share them count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePrefix {
    /// Of an IPv4 address, at most 32. Default: 32, each address by itself.
    pub v4: u8,
    /// Of an IPv6 address, at most 128. Default: 64, the network that one customer commonly gets.
    pub v6: u8,
}

impl Default for SourcePrefix {
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

impl SourcePrefix {
    /// Whether `address` is a source by itself, because all its bits count.
    pub(crate) fn is_exact(self, address: Address) -> bool {
        if address.is_v4() { self.v4 == 32 } else { self.v6 == 128 }
    }

    /// The source of `address`: all that counts as one has the same.
    pub(crate) fn source(self, address: Address) -> Address {
        let bits = if address.is_v4() { u32::from(self.v4) + 96 } else { u32::from(self.v6) };
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        Address::from_bits(address.to_bits() & mask)
    }
}

/// An IP address of either kind in 16 bytes that need no alignment: one is kept for each session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address([u32; 4]);

impl Address {
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

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        Self::from_bits(match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(prefix: SourcePrefix, address: &str) -> String {
        Ipv6Addr::from_bits(prefix.source(Address::from(address.parse::<IpAddr>().unwrap())).to_bits()).to_string()
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
