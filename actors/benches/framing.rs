//! The parts of a line's cost that need no socket: the kernel, and a session's turn over an in-memory pair.
//!
//! `cargo bench -p actix-lines`. Not here: what a whole server spends (the server's bench).

use actix::Actor;
use actix_lines::{Framing, Line, LineContext, LineHandler, Rot13, Transport, rot13};
use divan::{Bencher, black_box, counter::BytesCount};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn main() {
    divan::main();
}

/// ROT13 of a block in place.
#[divan::bench(args = [63, 64, 1024, 16 << 10, 64 << 10])]
fn kernel(bencher: Bencher<'_, '_>, len: usize) {
    bencher
        .counter(BytesCount::new(len))
        .with_inputs(|| (0..len).map(|at| b"Hello, world\n"[at % 13]).collect::<Vec<u8>>())
        .bench_local_refs(|block| rot13(black_box(block)));
}

/// Handles each line by itself.
struct ByLine;

impl Actor for ByLine {
    type Context = LineContext<Self>;
}

impl LineHandler for ByLine {
    fn line(&mut self, mut line: Line<'_>, ctx: &mut Self::Context) {
        rot13(&mut line);
        ctx.write(&line);
    }
}

/// A flight of lines through a session and back.
fn session<A: LineHandler>(bencher: Bencher<'_, '_>, line: usize, actor: fn() -> A) {
    const FLIGHT: usize = 16 << 10;
    let system = actix_rt::System::new();
    let mut peer = system.block_on(async {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        LineContext::start(Transport::new(ours), Framing::lf(), actor());
        theirs
    });
    let flight: Vec<u8> = (0..FLIGHT).map(|at| if at % line == line - 1 { b'\n' } else { b'a' }).collect();
    let mut answer = vec![0; FLIGHT];
    bencher.counter(BytesCount::new(FLIGHT)).bench_local(|| {
        system.block_on(async {
            peer.write_all(&flight).await.expect("the session reads");
            peer.read_exact(&mut answer).await.expect("the session answers");
        });
    });
}

/// Lines answered as a block, in place.
#[divan::bench(args = [16, 64, 1024])]
fn by_block(bencher: Bencher<'_, '_>, line: usize) {
    session(bencher, line, || Rot13);
}

/// The same lines answered one by one.
#[divan::bench(args = [16, 64, 1024])]
fn by_line(bencher: Bencher<'_, '_>, line: usize) {
    session(bencher, line, || ByLine);
}
