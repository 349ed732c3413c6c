//! Places: addresses that two listeners cannot have at once.
//!
//! Rule: what a look at the addresses tells, before any is bound. Names of hosts are not looked up.
//! Not here: other programs' addresses, which only binding tells (`actix-lines`).

use std::{net::SocketAddr, path::absolute};

use actix_lines::ListenAddress;

/// Returns true if the system does not give out both.
pub(crate) fn collide(one: &ListenAddress, other: &ListenAddress) -> bool {
    match (one, other) {
        (ListenAddress::Ip(one), ListenAddress::Ip(other)) => ip_collide(*one, *other),
        // Port 0 is another port for each.
        (ListenAddress::Name { port: 0, .. }, _) => false,
        (ListenAddress::Unix(one), ListenAddress::Unix(other)) => match (absolute(one), absolute(other)) {
            (Ok(one), Ok(other)) => one == other,
            _ => one == other,
        },
        (one, other) => one == other,
    }
}

fn ip_collide(one: SocketAddr, other: SocketAddr) -> bool {
    let [one_ip, other_ip] = [one, other].map(|address| address.ip().to_canonical());
    // All addresses of a family are each of them. The library takes care of `[::]` beside IPv4.
    let are_same = one_ip == other_ip
        || (one_ip.is_ipv4() == other_ip.is_ipv4() && (one_ip.is_unspecified() || other_ip.is_unspecified()));
    one.port() == other.port() && one.port() != 0 && are_same
}

/// Returns the first two of these that collide.
pub(crate) fn colliding(addresses: &[ListenAddress]) -> Option<[&ListenAddress; 2]> {
    let pairs = addresses
        .iter()
        .enumerate()
        .flat_map(|(number, one)| addresses[..number].iter().map(move |other| [one, other]));
    pairs.into_iter().find(|[one, other]| collide(one, other))
}

/// Says what to do about an address that cannot be had beside another.
pub(crate) fn advice(other: &ListenAddress, whose: &str) -> String {
    format!("the system does not give it beside {other} of {whose}: use another, or take one of them away")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_listeners_collide_where_the_kernel_says_so() {
        let collide = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|text| text.parse::<ListenAddress>().unwrap());
            assert_eq!(super::collide(&one, &other), super::collide(&other, &one));
            super::collide(&one, &other)
        };
        for (one, other) in [
            ("127.0.0.1:7", "127.0.0.1:7"),
            ("127.0.0.1:7", "0.0.0.0:7"),
            ("127.0.0.1:7", "[::ffff:127.0.0.1]:7"),
            ("[::1]:7", "[::]:7"),
            ("localhost:7", "localhost:7"),
            ("unix:a", "unix:./a"),
            ("unix:@a", "unix:@a"),
            ("fd:3", "fd:3"),
        ] {
            assert!(collide(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("127.0.0.1:7", "127.0.0.1:8"),
            ("127.0.0.1:7", "127.0.0.2:7"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("localhost:0", "localhost:0"),
            // As it is documented.
            ("[::]:7", "0.0.0.0:7"),
            ("[::]:7", "127.0.0.1:7"),
            ("unix:a", "unix:@a"),
            ("unix:a", "unix:b/a"),
        ] {
            assert!(!collide(one, other), "{one} {other}");
        }
    }

    #[test]
    fn the_kernel_agrees_about_addresses_of_this_machine() {
        let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        for other in ["127.0.0.1", "0.0.0.0"] {
            let other = format!("{other}:{port}");
            assert!(std::net::TcpListener::bind(&other).is_err());
            let at = |text: &str| text.parse::<ListenAddress>().unwrap();
            assert!(collide(&at(&format!("127.0.0.1:{port}")), &at(&other)));
        }
    }
}
