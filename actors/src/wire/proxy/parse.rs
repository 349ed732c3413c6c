//! Parse: finds a header at the beginning of bytes.
//!
//! What it finds depends on the bytes alone, not on how they are cut: each bound is ours.
//! Not here: keeping bytes until there are enough (`receive`).

use proxy_header::{ParseConfig, ProxyHeader as Parsed};

use crate::{
    address::Address,
    wire::proxy::{
        format::{CRC32C, MAX_V2, SIGNATURE_V2, UNIX_PATH, crc32c, positions, value_len},
        header::{ProxyHeader, ProxyVersion, canonical, unix},
    },
};

const SIGNATURE_V1: &[u8] = b"PROXY ";
/// The longest header of version 1, with CR LF.
const MAX_V1: usize = 107;
/// Bytes of a header of version 2 before its addresses.
const FIXED_V2: usize = 16;

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A header of so many bytes.
    Header(ProxyHeader, usize),
    /// None.
    Absent,
    /// So far they may become one.
    Part {
        /// Or may be something else.
        is_signature: bool,
    },
}

/// Reads a header. An error says what is wrong with one.
pub(super) fn parse(bytes: &[u8]) -> Result<Found, &'static str> {
    for (signature, read) in [(SIGNATURE_V1, v1 as fn(&[u8]) -> _), (SIGNATURE_V2, v2)] {
        if bytes.starts_with(signature) {
            return read(bytes);
        }
        if signature.starts_with(bytes) {
            return Ok(Found::Part { is_signature: true });
        }
    }
    Ok(Found::Absent)
}

fn v1(bytes: &[u8]) -> Result<Found, &'static str> {
    let Some(at) = memchr::memchr(b'\n', &bytes[..bytes.len().min(MAX_V1)]) else {
        return match bytes.len() {
            MAX_V1.. => Err("version 1 with more than 107 bytes"),
            _ => Ok(Found::Part { is_signature: false }),
        };
    };
    let (line, invalid) = (&bytes[..=at], "version 1 that is not well-formed");
    let (header, len) = Parsed::parse(line, ParseConfig::default()).map_err(|_| invalid)?;
    let ends = header.proxied_address().map(|ends| {
        let [source, destination] = [ends.source, ends.destination].map(|end| Address::Ip(canonical(end)));
        (source, destination)
    });
    // Numbers as they must be written: the crate takes a sign and zeros.
    let mut ports = line.trim_ascii_end().rsplit(|byte| *byte == b' ').take(2);
    let is_number = |port: &[u8]| port.iter().all(u8::is_ascii_digit) && (port.len() == 1 || !port.starts_with(b"0"));
    if len != line.len() || (ends.is_some() && !ports.all(is_number)) {
        return Err(invalid);
    }
    let header = ProxyHeader { version: ProxyVersion::V1, is_local: false, ends, fields: Box::default() };
    Ok(Found::Header(header, len))
}

fn v2(bytes: &[u8]) -> Result<Found, &'static str> {
    let is_local = match bytes.get(12) {
        None => return Ok(Found::Part { is_signature: false }),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err("version 2 with an unknown version or command"),
    };
    let Some([family, high, low]) = bytes.get(13..FIXED_V2) else { return Ok(Found::Part { is_signature: false }) };
    let len = FIXED_V2 + usize::from(u16::from_be_bytes([*high, *low]));
    if len > MAX_V2 {
        return Err("version 2 with more than 4096 bytes");
    }
    let Some(header) = bytes.get(..len) else { return Ok(Found::Part { is_signature: false }) };
    let block = &header[FIXED_V2..];
    let addresses = match family {
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 2 * UNIX_PATH,
        // Whatever the family is: it is ignored.
        _ if is_local => len,
        _ => return Err("version 2 with an unknown family"),
    };
    let ends = match family {
        _ if is_local => None,
        _ if block.len() < addresses => return Err("version 2 without room for its addresses"),
        0x11 | 0x21 => {
            let config = ParseConfig { include_tlvs: false, allow_v1: false, ..ParseConfig::default() };
            let parsed = Parsed::parse(header, config).map_err(|_| "version 2 that is not well-formed")?;
            parsed.0.proxied_address().map(|ends| {
                let [source, destination] = [ends.source, ends.destination].map(|end| Address::Ip(canonical(end)));
                (source, destination)
            })
        }
        0x31 => Some((unix(&block[..UNIX_PATH]), unix(&block[UNIX_PATH..2 * UNIX_PATH]))),
        // A datagram's, of which there are none here: as if the proxy had told nothing.
        _ => None,
    };
    let fields = block.get(addresses..).unwrap_or_default();
    let are_whole = positions(fields).last().map_or(0, |(_, at)| at + value_len(&fields[..at])) == fields.len();
    if !are_whole && ends.is_some() {
        return Err("version 2 with a field that is not whole");
    }
    let fields = if are_whole { fields } else { &[] };
    for (kind, at) in positions(fields) {
        if kind == CRC32C {
            let sum = fields.get(at..at + value_len(&fields[..at])).and_then(|sum| sum.try_into().ok());
            let at = len - fields.len() + at;
            if sum.map(u32::from_be_bytes) != Some(crc32c(header, at)) {
                return Err("version 2 whose checksum is wrong");
            }
        }
    }
    let header = ProxyHeader { version: ProxyVersion::V2, is_local, ends, fields: fields.into() };
    Ok(Found::Header(header, len))
}

#[cfg(test)]
mod tests;
