//! Format: what writing and reading headers of version 2 have in common.
//!
//! Not here: writing (`header`), reading (`parse`).

use std::iter;

/// The first bytes of a header of version 2.
pub(super) const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header of version 2 that is read, signature and all; the protocol itself allows 64 KiB.
pub(super) const MAX_V2: usize = 4096;
/// Bytes of the path of a unix socket in a header.
pub(super) const UNIX_PATH: usize = 108;
/// The kind of the field with the checksum.
pub(super) const CRC32C: u8 = 0x03;
/// Bytes of a field before its value.
const FIELD: usize = 3;

/// The kinds of the whole fields in front, each with where its value begins.
pub(super) fn positions(fields: &[u8]) -> impl Iterator<Item = (u8, usize)> {
    let mut next = 0;
    iter::from_fn(move || {
        let kind = *fields.get(next)?;
        let at = next + FIELD;
        next = at + value_len(fields.get(..at)?);
        (next <= fields.len()).then_some((kind, at))
    })
}

/// The length of a value that follows these bytes.
pub(super) fn value_len(before: &[u8]) -> usize {
    match before {
        [.., high, low] => usize::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    }
}

/// The CRC32C of a header, with zeros for the four bytes of the checksum itself.
pub(super) fn crc32c(header: &[u8], checksum: usize) -> u32 {
    let zeroed = header.iter().enumerate();
    let bytes = zeroed.map(|(at, byte)| if (checksum..checksum + 4).contains(&at) { 0 } else { *byte });
    !bytes.fold(!0, |sum: u32, byte| CRC_TABLE[usize::from((sum as u8) ^ byte)] ^ (sum >> 8))
}

/// Castagnoli's polynomial, reflected.
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let (mut sum, mut bit) = (at as u32, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { 0x82F6_3B78 ^ (sum >> 1) } else { sum >> 1 };
            bit += 1;
        }
        table[at] = sum;
        at += 1;
    }
    table
};
