//! ROT13: the reference service, and the vector code under it.
//!
//! The code answers whole blocks in place, so it never looks for a delimiter. The compiler vectorises it; the widest
//! instruction set of the machine is chosen at run time, once.
//! Not here: lines (`framing`), sockets and counting (`session`).

use actix::Actor;
use multiversion::multiversion;

use crate::session::{
    context::LineContext,
    handler::LineHandler,
    lines::{Line, Lines},
};

/// Replaces each ASCII letter by the one 13 places further in the alphabet, in place; leaves every other byte.
///
/// Applying it twice gives the input again. It is `tr 'A-Za-z' 'N-ZA-Mn-za-m'` in the C locale.
///
/// ```
/// let mut line = *b"Hello, \xe9t\xe9!\n";
/// actix_lines::rot13(&mut line);
/// assert_eq!(&line, b"Uryyb, \xe9g\xe9!\n");
/// ```
// A plain x86-64 build is SSE2, which costs 11 % on 1 KiB lines; `multiversion` picks the widest of these at run time
// and keeps the `unsafe` that such a call needs in its own, tested, expansion.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn rot13(bytes: &mut [u8]) {
    // Chunks of a vector's width: a third faster at the ends of short lines than what the compiler makes of a plain loop.
    let (chunks, rest) = bytes.as_chunks_mut::<64>();
    for chunk in chunks {
        for byte in chunk {
            *byte = rot13_byte(*byte);
        }
    }
    for byte in rest {
        *byte = rot13_byte(*byte);
    }
}

/// Does what [`rot13`] does. Returns how many of the bytes were `counted` before.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn rot13_counting(bytes: &mut [u8], counted: u8) -> u64 {
    let mut total = 0;
    let (chunks, rest) = bytes.as_chunks_mut::<64>();
    // A lane counts to 255 before it would wrap.
    for part in chunks.chunks_mut(255) {
        let mut lanes = [0_u8; 64];
        for chunk in part {
            for (byte, lane) in chunk.iter_mut().zip(&mut lanes) {
                *lane += u8::from(*byte == counted);
                *byte = rot13_byte(*byte);
            }
        }
        total += lanes.iter().map(|lane| u64::from(*lane)).sum::<u64>();
    }
    for byte in rest {
        total += u64::from(*byte == counted);
        *byte = rot13_byte(*byte);
    }
    total
}

/// Without a branch, so that it becomes vector instructions.
#[inline(always)]
fn rot13_byte(byte: u8) -> u8 {
    // 0..=25 for a letter of either case, more for anything else.
    let letter = (byte | 0x20).wrapping_sub(b'a');
    let turned = byte.wrapping_add(if letter < 13 { 13 } else { 13_u8.wrapping_neg() });
    if letter < 26 { turned } else { byte }
}

/// Answers every line with its ROT13: the service of `rot13d`.
///
/// It works on blocks, so that a line costs a vector instruction and no call:
///
/// ```no_run
/// use actix_lines::{LineServer, Rot13};
///
/// #[actix::main]
/// async fn main() -> std::io::Result<()> {
///     LineServer::new(|_connection| Rot13).bind("127.0.0.1:40713")?.run().await
/// }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Rot13;

impl Actor for Rot13 {
    type Context = LineContext<Self>;
}

impl LineHandler for Rot13 {
    fn line(&mut self, mut line: Line<'_>, ctx: &mut Self::Context) {
        rot13(&mut line);
        ctx.write(&line);
    }

    fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
        lines.answer_in_place_counting(ctx, rot13_counting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_changes_the_same_bytes_and_counts_what_was_there() {
        for len in [0, 1, 63, 64, 65, 255 * 64, 255 * 64 + 1, 70_000] {
            // Runs of the counted byte, long enough for a lane that wraps to show.
            for (counted, period) in [(b'\n', 1), (b'\n', 7), (b'a', 3), (b'n', 2)] {
                let input: Vec<u8> = (0..len).map(|at| if at % period == 0 { counted } else { at as u8 }).collect();
                let (mut plain, mut counting) = (input.clone(), input.clone());
                rot13(&mut plain);
                let total = rot13_counting(&mut counting, counted);
                assert!(counting == plain, "length {len}");
                assert_eq!(total, input.iter().filter(|byte| **byte == counted).count() as u64, "length {len}");
            }
        }
    }
}
