//! The reference service: ROT13, and the kernel it runs on.
//!
//! The kernel answers whole blocks in place, so it never looks for a delimiter. The compiler vectorises it; the
//! widest instruction set of the machine is chosen at run time, once.
//! Not here: lines (`framing`), sockets and counting (`context`).

use actix::Actor;
use multiversion::multiversion;

use crate::{LineContext, LineHandler, Lines};

/// Replaces each ASCII letter by the one 13 places on, in place; every other byte stays.
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
    fn line(&mut self, mut line: crate::Line<'_>, ctx: &mut Self::Context) {
        rot13(&mut line);
        ctx.write(&line);
    }

    fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
        lines.answer_in_place(ctx, rot13);
    }
}
