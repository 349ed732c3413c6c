//! One answer for each line, made of its text: what most services look like.
//!
//! `cargo run --release --example shout`, then `nc 127.0.0.1 40716`.

use actix_lines::prelude::*;
use clap::Parser;

#[derive(Parser)]
struct Args {
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:40716")]
    listen: String,
}

pub(crate) struct Shout;

impl Actor for Shout {
    type Context = LineContext<Self>;
}

impl LineHandler for Shout {
    fn opened(&mut self, ctx: &mut Self::Context) {
        ctx.write(b"Speak up! An empty line ends it.\r\n");
    }

    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        if line.text().is_empty() {
            ctx.write(b"BYE\r\n");
            ctx.stop();
            return;
        }
        ctx.write(line.text().to_ascii_uppercase());
        // As the line ended: with LF, with CR LF, or with the end of the peer's bytes.
        ctx.write(line.terminator());
    }
}

#[actix::main]
async fn main() -> std::io::Result<()> {
    let server = LineServer::new(|_connection| Shout).bind(&*Args::parse().listen)?;
    for address in server.local_addrs() {
        eprintln!("listening on {address}");
    }
    server.run().await
}
