//! ROT13 line by line: what `rot13d` does for blocks, written as most services are written.
//!
//! `cargo run --release --example rot13_by_line`, then `nc 127.0.0.1 40715`.

use actix_lines::{prelude::*, rot13};
use clap::Parser;

/// As in `rot13d`: glibc's allocator wastes some 190 bytes on each session's task.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Args {
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:40715")]
    listen: String,
}

pub(crate) struct ByLine;

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
    let server = LineServer::new(|_connection| ByLine).workers(1).bind(&*Args::parse().listen)?;
    for address in server.local_addrs() {
        eprintln!("listening on {address}");
    }
    server.run().await
}
