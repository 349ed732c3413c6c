//! Scan: the vector code that finds and counts bytes.
//!
//! Pure; results equal those of a plain loop.
//! Not here: delimiters (`framing`).

use multiversion::multiversion;
use wide::u8x16;

/// Bytes covered by one word of marks.
pub(crate) const MARKED_BYTES: usize = 64;

/// Returns a mask with one bit for each of the first 64 bytes: set where the byte is `wanted`.
#[inline]
pub(crate) fn mark_bytes(bytes: &[u8], wanted: u8) -> u64 {
    let mut padded = [!wanted; MARKED_BYTES];
    let chunk = match bytes.first_chunk::<MARKED_BYTES>() {
        Some(chunk) => chunk,
        None => {
            padded[..bytes.len()].copy_from_slice(bytes);
            &padded
        }
    };
    let wanted = u8x16::splat(wanted);
    let (quarters, _) = chunk.as_chunks::<16>();
    quarters
        .iter()
        .rev()
        .fold(0, |marks, quarter| marks << 16 | u64::from(u8x16::new(*quarter).simd_eq(wanted).to_bitmask() as u16))
}

/// Counts the bytes that are `wanted`. It is a pass over a block that is about to be answered in place, so it has to be
/// nearly free.
// `memchr` counts with AVX2 at most; the wider one takes half of the time on 16 KiB.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub(crate) fn count_byte(bytes: &[u8], wanted: u8) -> u64 {
    const LANES: usize = 256;
    let blocks = bytes.chunks_exact(LANES);
    let rest = blocks.remainder().iter().map(|byte| u8::from(*byte == wanted)).sum::<u8>();
    let mut total = u64::from(rest);
    // A lane counts to 255 before it would wrap; so does the remainder, which is shorter than that.
    for part in bytes[..bytes.len() - blocks.remainder().len()].chunks(255 * LANES) {
        let mut lanes = [0_u8; LANES];
        for block in part.chunks_exact(LANES) {
            for (lane, byte) in lanes.iter_mut().zip(block) {
                *lane += u8::from(*byte == wanted);
            }
        }
        total += lanes.iter().map(|lane| u64::from(*lane)).sum::<u64>();
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_counts_are_those_of_a_plain_loop() {
        for len in [0, 1, 15, 16, 17, 63, 64, 65, 255, 256, 257, 255 * 256 + 300] {
            for (wanted, period) in [(b'\n', 1), (b'\n', 5), (0, 64), (0xff, 3)] {
                let bytes: Vec<u8> = (0..len).map(|at| if at % period == 0 { wanted } else { b'x' }).collect();
                let expected = bytes.iter().filter(|byte| **byte == wanted).count() as u64;
                assert_eq!(count_byte(&bytes, wanted), expected, "length {len}");
                let marks = mark_bytes(&bytes, wanted);
                for at in 0..MARKED_BYTES {
                    let marked = bytes.get(at) == Some(&wanted);
                    assert_eq!(marks >> at & 1 == 1, marked, "length {len}, byte {at}");
                }
            }
        }
    }
}
