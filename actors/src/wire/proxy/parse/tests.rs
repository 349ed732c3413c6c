//! Tests of reading headers, against bytes written by hand from the specification.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::address::UnixAddress;

const PART: Found = Found::Part { is_signature: false };
const SIGNATURE: Found = Found::Part { is_signature: true };

fn socket(text: &str) -> Address {
    Address::Ip(text.parse::<SocketAddr>().unwrap())
}

/// A header of version 2.
fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, family]);
    bytes.extend((block.len() as u16).to_be_bytes());
    bytes.extend_from_slice(block);
    bytes
}

fn whole(bytes: &[u8]) -> ProxyHeader {
    match parse(bytes) {
        Ok(Found::Header(header, len)) if len == bytes.len() => header,
        other => panic!("{other:?} in {:?}", String::from_utf8_lossy(bytes)),
    }
}

#[test]
fn version_1_is_read_as_it_is_specified() {
    for (line, source, destination) in [
        ("TCP4 192.0.2.7 198.51.100.1 1024 443", "192.0.2.7:1024", "198.51.100.1:443"),
        ("TCP4 255.255.255.255 255.255.255.255 65535 65535", "255.255.255.255:65535", "255.255.255.255:65535"),
        ("TCP4 192.0.2.7 198.51.100.1 0 443", "192.0.2.7:0", "198.51.100.1:443"),
        ("TCP6 2001:DB8::7 ::1 1024 443", "[2001:db8::7]:1024", "[::1]:443"),
        ("TCP6 ::ffff:192.0.2.7 ::ffff:c633:6401 1024 443", "192.0.2.7:1024", "198.51.100.1:443"),
    ] {
        let header = whole(format!("PROXY {line}\r\n").as_bytes());
        assert_eq!(header.ends, Some((socket(source), socket(destination))), "{line}");
    }
    for line in ["UNKNOWN", "UNKNOWN ffff::f...f:ffff ffff 65535 65535"] {
        assert_eq!(whole(format!("PROXY {line}\r\n").as_bytes()).ends, None);
    }
    for line in [
        "TCP4 192.0.2.7 198.51.100.1 1024",
        "TCP4 192.0.2.7 198.51.100.1 1024 443 ",
        "TCP4 192.0.2.7 198.51.100.1 1024 443 1",
        "TCP4 192.0.2.7 198.51.100.1 +1 443",
        "TCP4 192.0.2.7 198.51.100.1 1024 +443",
        "TCP4 192.0.2.7 198.51.100.1 01 443",
        "TCP4 192.0.2.7 198.51.100.1 1024 65536",
        "TCP4 192.0.2.07 198.51.100.1 1024 443",
        "TCP4 2001:db8::7 ::1 1024 443",
        "TCP6 192.0.2.7 198.51.100.1 1024 443",
        "TCP4  192.0.2.7 198.51.100.1 1024 443",
        "UDP4 192.0.2.7 198.51.100.1 1024 443",
        "tcp4 192.0.2.7 198.51.100.1 1024 443",
        "",
    ] {
        assert!(parse(format!("PROXY {line}\r\n").as_bytes()).is_err(), "{line}");
    }
    assert!(parse(b"PROXY TCP4 192.0.2.7 198.51.100.1 1024 443\n").is_err(), "no CR");
    assert!(parse(b"PROXY TCP4 192.0.2.7 198.51.100.1 1024 443\rX\n").is_err());
}

#[test]
fn version_1_has_107_bytes_however_they_are_cut() {
    for (padding, is_short) in [(90, true), (91, true), (92, false), (300, false)] {
        let line = [b"PROXY UNKNOWN ".as_slice(), &vec![b'x'; padding], b"\r\n"].concat();
        assert_eq!(line.len() <= MAX_V1, is_short);
        let at_once = parse(&line);
        assert_eq!(matches!(at_once, Ok(Found::Header(..))), is_short, "{padding}");
        // In pieces: the first verdict is the same.
        let verdict =
            (1..=line.len()).map(|len| parse(&line[..len])).find(|found| !matches!(found, Ok(Found::Part { .. })));
        assert_eq!(verdict, Some(at_once), "{padding}");
    }
}

#[test]
fn the_signature_is_looked_at_from_the_first_byte() {
    for other in [b"PING\r\n".as_slice(), b"PROXY\r\n", b"PROXYx", b"Q", b"\r\n\r\nGET", b"\r\n\r\n\0\r\nQUIT\r", b"\n"]
    {
        assert_eq!(parse(other), Ok(Found::Absent), "{:?}", String::from_utf8_lossy(other));
    }
    for part in [b"".as_slice(), b"P", b"PROXY", b"\r", b"\r\n\r\n\0\r\nQUIT"] {
        assert_eq!(parse(part), Ok(SIGNATURE), "{:?}", String::from_utf8_lossy(part));
    }
    for part in [b"PROXY ".as_slice(), b"PROXY TCP4 192.0", b"\r\n\r\n\0\r\nQUIT\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"]
    {
        assert_eq!(parse(part), Ok(PART), "{:?}", String::from_utf8_lossy(part));
    }
}

const V4: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 4, 0, 1, 187];

#[test]
fn version_2_is_read_as_it_is_specified() {
    let header = whole(&binary(0x21, 0x11, V4));
    assert_eq!(header.ends, Some((socket("192.0.2.7:1024"), socket("198.51.100.1:443"))));
    assert!(!header.is_local && header.version == ProxyVersion::V2);
    let mut v6 = [0; 36];
    v6[..16].copy_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    v6[31] = 1;
    v6[32..].copy_from_slice(&[4, 0, 1, 187]);
    assert_eq!(whole(&binary(0x21, 0x21, &v6)).ends, Some((socket("[2001:db8::7]:1024"), socket("[::1]:443"))));
    // Mapped.
    v6[..16].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 192, 0, 2, 7]);
    assert_eq!(whole(&binary(0x21, 0x21, &v6)).source(), Some(&socket("192.0.2.7:1024")));
    let mut paths = [0; 216];
    paths[..5].copy_from_slice(b"/run/");
    paths[108..].fill(b'x');
    let long = UnixAddress::at("x".repeat(108)).into();
    assert_eq!(whole(&binary(0x21, 0x31, &paths)).ends, Some((UnixAddress::at("/run/").into(), long)));
    // A datagram's, and nothing told: as if unknown.
    for (family, len) in [(0x12, 12), (0x22, 36), (0x32, 216), (0x00, 0), (0x00, 7)] {
        let header = whole(&binary(0x21, family, &vec![0; len]));
        assert!(header.ends.is_none() && !header.is_local, "{family:x}");
    }
}

#[test]
fn version_2_that_is_whole_and_has_no_room_for_what_it_says_is_invalid() {
    for (family, least) in [(0x11, 12), (0x12, 12), (0x21, 36), (0x22, 36), (0x31, 216), (0x32, 216)] {
        assert!(parse(&binary(0x21, family, &vec![0; least])).is_ok());
        assert!(parse(&binary(0x21, family, &vec![0; least - 1])).is_err(), "{family:x}");
    }
    for (command, family) in [(0x11, 0x11), (0x22, 0x11), (0x31, 0x11), (0x21, 0x41), (0x21, 0x13), (0x21, 0x01)] {
        assert!(parse(&binary(command, family, &[0; 216])).is_err(), "{command:x} {family:x}");
    }
    for field in
        [b"\x04".as_slice(), b"\x04\0", b"\x04\0\x01", b"\x04\0\0\x05\0\x02x", b"\x03\0\0", b"\x03\0\x04\0\0\0\0"]
    {
        assert!(parse(&binary(0x21, 0x11, &[V4, field].concat())).is_err(), "{field:?}");
    }
}

#[test]
fn version_2_is_bounded_by_what_it_announces() {
    let fits = binary(0x21, 0, &vec![0; MAX_V2 - FIXED_V2]);
    assert_eq!(whole(&fits).fields.len(), MAX_V2 - FIXED_V2 - (MAX_V2 - FIXED_V2) % 3);
    let header = binary(0x21, 0, &vec![0; MAX_V2 - FIXED_V2 + 1]);
    assert!(parse(&header[..FIXED_V2]).is_err(), "said before any of it has come");
}

#[test]
fn the_family_of_a_local_header_is_ignored() {
    for family in [0x00, 0x11, 0x21, 0x31, 0x32, 0x77, 0xff] {
        for len in [0, 5, 12, 36, 216] {
            let header = whole(&binary(0x20, family, &vec![0; len]));
            assert!(header.is_local && header.ends.is_none(), "{family:x} {len}");
        }
    }
    let header = whole(&binary(0x20, 0, b"\x05\0\x02id"));
    assert_eq!(header.unique_id(), Some(b"id".as_slice()));
}

#[test]
fn a_checksum_is_that_of_rfc_3720() {
    let sum = |bytes: &[u8]| crc32c(bytes, bytes.len());
    assert_eq!(sum(&[0; 32]), 0x8a91_36aa);
    assert_eq!(sum(&[0xff; 32]), 0x62a8_ab43);
    assert_eq!(sum(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
    assert_eq!(sum(b"123456789"), 0xe306_9283);
    // One that another implementation has made.
    let known = b"\r\n\r\n\0\r\nQUIT\n \0\0\x0f\x03\0\x04\x88\x9d\xa1\xdf \0\x05\0\0\0\0\0";
    assert!(whole(known).is_local);
}

fn rich() -> ProxyHeader {
    let ssl = b"\x07\0\0\0\0\x21\0\x07TLSv1.3\x22\0\x04anna\x23\0\x06AES256\x24\0\x06SHA256\x25\0\x07RSA2048";
    ProxyHeader::of("192.0.2.7:1024".parse::<SocketAddr>().unwrap(), "198.51.100.1:443".parse::<SocketAddr>().unwrap())
        .with_alpn(b"lines")
        .with_authority("lines.example")
        .with_field(0x04, &[0; 7])
        .with_unique_id(b"\0\x01id")
        .with_field(0x20, ssl)
        .with_field(0x30, b"blue")
        .with_field(0xe0, b"own")
        .with_crc32c()
}

#[test]
fn every_field_is_reachable() {
    let header = whole(&rich().encode(ProxyVersion::V2).unwrap());
    assert_eq!((header.alpn(), header.authority()), (Some(b"lines".as_slice()), Some("lines.example")));
    assert_eq!((header.unique_id(), header.namespace()), (Some(b"\0\x01id".as_slice()), Some("blue")));
    assert_eq!((header.field(0xe0), header.field(0xe1)), (Some(b"own".as_slice()), None));
    let kinds: Vec<_> = header.fields().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [1, 2, 4, 5, 0x20, 0x30, 0xe0, 3]);
    let ssl = header.ssl().unwrap();
    assert!(ssl.is_tls() && ssl.has_certificate() && ssl.is_verified());
    assert_eq!((ssl.version(), ssl.common_name(), ssl.cipher()), (Some("TLSv1.3"), Some("anna"), Some("AES256")));
    assert_eq!((ssl.signature_algorithm(), ssl.key_algorithm()), (Some("SHA256"), Some("RSA2048")));
    // Not verified, and no certificate: both say 0 or not in their own way.
    let plain = ProxyHeader::local().with_field(0x20, b"\x01\0\0\0\x01");
    assert!(!plain.ssl().unwrap().is_verified());
    assert!(!ProxyHeader::local().with_field(0x20, b"\x01\0\0\0\0").ssl().unwrap().is_verified());
    assert!(ProxyHeader::local().with_field(0x20, b"\x01").ssl().is_none());
    assert_eq!(ProxyHeader::local().with_field(2, b"\xff").authority(), None);
}

#[test]
fn any_flipped_bit_of_a_header_with_a_checksum_is_found() {
    let bytes = rich().encode(ProxyVersion::V2).unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << bit;
            match parse(&bytes) {
                // In the signature, or a length that now says more.
                Ok(Found::Absent | Found::Part { .. }) | Err(_) => {}
                // Where it says no longer that it has one, or has less to be said.
                Ok(Found::Header(header, _)) => {
                    let has_sum = header.field(CRC32C).is_some();
                    assert!(!has_sum, "bit {bit} of byte {at}");
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_expressed_is_an_error() {
    use crate::wire::proxy::header::ProxyError;
    let (ip, unix) = (socket("192.0.2.7:1024"), Address::from(UnixAddress::at("/run/a")));
    let of = |from: Address, to: Address| ProxyHeader::of(from, to);
    assert_eq!(of(ip.clone(), ip.clone()).with_crc32c().encode(ProxyVersion::V1), Err(ProxyError::Version1));
    assert_eq!(of(unix.clone(), unix.clone()).encode(ProxyVersion::V1), Err(ProxyError::Version1));
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        assert!(matches!(of(ip.clone(), unix.clone()).encode(version), Err(ProxyError::Families { .. })));
        assert!(matches!(of(Address::Memory, ip.clone()).encode(version), Err(ProxyError::Families { .. })));
    }
    let long = Address::from(UnixAddress::at("x".repeat(109)));
    assert_eq!(of(long, unix.clone()).encode(ProxyVersion::V2), Err(ProxyError::TooLong { bytes: 109 }));
    for bytes in [5000, 70_000] {
        let header = of(ip.clone(), ip.clone()).with_field(5, &vec![0; bytes]);
        assert!(matches!(header.encode(ProxyVersion::V2), Err(ProxyError::TooLong { .. })));
        let header = of(unix.clone(), unix.clone()).with_field(5, &vec![0; bytes]);
        assert!(matches!(header.encode(ProxyVersion::V2), Err(ProxyError::TooLong { .. })));
    }
    // Of two families: both are IPv6.
    let mixed = of(ip, socket("[2001:db8::1]:7")).encode(ProxyVersion::V1).unwrap();
    assert_eq!(whole(&mixed).ends, Some((socket("192.0.2.7:1024"), socket("[2001:db8::1]:7"))));
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from),
        (any::<[u8; 16]>(), any::<u16>()).prop_map(SocketAddr::from),
    ]
}

fn header() -> impl Strategy<Value = ProxyHeader> {
    let fields = prop::collection::vec((4_u8.., prop::collection::vec(any::<u8>(), 0..40)), 0..6);
    let path = "/[a-z]{1,107}";
    let ends = prop_oneof![
        Just(None::<(Address, Address)>),
        (address(), address()).prop_map(|(from, to)| Some((from.into(), to.into()))),
        (path, path).prop_map(|(from, to)| Some((UnixAddress::at(from).into(), UnixAddress::at(to).into()))),
    ];
    (ends, fields, any::<bool>()).prop_map(|(ends, fields, has_sum)| {
        let header = match ends {
            None => ProxyHeader::local(),
            Some((from, to)) => ProxyHeader::of(from, to),
        };
        let header = fields.iter().fold(header, |header, (kind, value)| header.with_field(*kind, value));
        if has_sum { header.with_crc32c() } else { header }
    })
}

proptest! {
    #[test]
    fn a_header_comes_back_as_it_was_made_and_no_part_of_it_is_one(header in header(), behind in any::<[u8; 3]>()) {
        let mut bytes = header.encode(ProxyVersion::V2).unwrap();
        let len = bytes.len();
        for part in 0..len {
            prop_assert!(matches!(parse(&bytes[..part]), Ok(Found::Part { .. })), "{} of {}", part, len);
        }
        bytes.extend(behind);
        let Ok(Found::Header(read, read_len)) = parse(&bytes) else { panic!("{:?}", parse(&bytes)) };
        prop_assert_eq!(read_len, len);
        prop_assert_eq!(read.is_local, header.is_local);
        let canon = |address: &Address| address.socket_addr().map_or(address.clone(), |ip| Address::Ip(canonical(ip)));
        let ends = |header: &ProxyHeader| header.ends.as_ref().map(|(from, to)| (canon(from), canon(to)));
        prop_assert_eq!(ends(&read), ends(&header));
        let fields = |header: &ProxyHeader| {
            let fields = header.fields().map(|(kind, value)| (kind, value.to_vec()));
            fields.filter(|(kind, _)| *kind != CRC32C).collect::<Vec<_>>()
        };
        prop_assert_eq!(fields(&read), fields(&header));
    }

    #[test]
    fn no_bytes_panic_and_the_verdict_does_not_depend_on_what_follows(
        begin in prop_oneof![Just(SIGNATURE_V1), Just(SIGNATURE_V2), Just(b"".as_slice())],
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        more in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [begin, &bytes].concat();
        match parse(&bytes) {
            Ok(Found::Part { .. }) => {}
            verdict => prop_assert_eq!(verdict, parse(&[bytes, more].concat())),
        }
    }

    #[test]
    fn a_flipped_byte_never_panics(header in header(), at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let mut bytes = header.encode(ProxyVersion::V2).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(Found::Header(header, len)) = parse(&bytes) {
            prop_assert!(len <= bytes.len());
            let _ = (header.ssl(), header.authority(), header.fields().count());
        }
    }
}
