//! The cost of a PROXY header to the connection that begins with it: its filter is made, reads the whole header, and is dropped.
//!
//! `cargo bench -p actix-lines --features proxy --bench proxy`. Not here: what a preface costs besides.

use std::net::SocketAddr;

use actix_lines::{
    filter::{ConnectionInfo, Filter, Flow, Inflow},
    proxy::{Proxy, ProxyHeader, ProxyVersion},
};
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

fn header(name: &str) -> Vec<u8> {
    let end = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let v4 = ProxyHeader::of(end("192.0.2.7:1024"), end("198.51.100.1:443"));
    let v6 = ProxyHeader::of(end("[2001:db8::7]:1024"), end("[2001:db8::1]:443"));
    let (header, version) = match name {
        "v1" => (v4, ProxyVersion::V1),
        "v1, IPv6" => (v6, ProxyVersion::V1),
        "v2" => (v4, ProxyVersion::V2),
        "v2, IPv6" => (v6, ProxyVersion::V2),
        "v2, fields" => {
            (v4.with_authority("lines.example").with_unique_id(&[7; 32]).with_alpn(b"lines"), ProxyVersion::V2)
        }
        _ => (v4.with_authority("lines.example").with_crc32c(), ProxyVersion::V2),
    };
    header.encode(version).expect("a header")
}

const HEADERS: [&str; 6] = ["v1", "v1, IPv6", "v2", "v2, IPv6", "v2, fields", "v2, CRC32C"];

/// The header is found, checked and kept.
#[divan::bench(args = HEADERS)]
fn read(bencher: Bencher<'_, '_>, name: &str) {
    let (proxy, mut bytes) = (Proxy::required(), header(name));
    bencher.bench_local(|| {
        let (mut filter, mut plain, mut reply) = (proxy.filter(), Vec::new(), Vec::new());
        let flow = filter.read(&mut Inflow::new(black_box(&mut bytes)), &mut plain, &mut reply);
        assert!(matches!(flow, Ok(Flow::Done)));
        filter
    });
}

/// The same, and the connection learns of it.
#[divan::bench(args = HEADERS)]
fn read_and_learn(bencher: Bencher<'_, '_>, name: &str) {
    let (proxy, mut bytes) = (Proxy::required(), header(name));
    bencher.bench_local(|| {
        let (mut filter, mut plain, mut reply) = (proxy.filter(), Vec::new(), Vec::new());
        let flow = filter.read(&mut Inflow::new(black_box(&mut bytes)), &mut plain, &mut reply);
        assert!(matches!(flow, Ok(Flow::Done)));
        let mut info = ConnectionInfo::default();
        filter.learned(&mut info);
        info
    });
}
