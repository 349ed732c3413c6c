//! A client by HTTP/1.1, for one request each.
// Each test file is a program of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

use std::{io::Write, net::SocketAddr};

use crate::support::{connect, rest};

/// Status and body of an answer.
#[track_caller]
pub fn send(http: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = connect(http);
    stream.write_all(request.as_bytes()).unwrap();
    let text = String::from_utf8(rest(&mut stream)).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status in {head:?}")), body.to_owned())
}

#[track_caller]
pub fn get(http: SocketAddr, path: &str) -> (u16, String) {
    send(http, &format!("GET {path} HTTP/1.1\r\nHost: {http}\r\n\r\n"))
}
