//! ROT13 line by line: what `rot13d` does for blocks, written as most services are written.
//!
//! `cargo run --release --example rot13_by_line -- 127.0.0.1:40715`, then `nc 127.0.0.1 40715`.

use actix::Actor;
use actix_lines::{Line, LineContext, LineHandler, LineServer, rot13};

/// As in `rot13d`: glibc's allocator wastes some 190 bytes on each session's task.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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

#[actix::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:40715".to_owned());
    let server = LineServer::new(|_connection| ByLine).workers(1).bind(address.as_str())?;
    eprintln!("listening on {}", server.addresses()[0]);
    server.run().await
}
