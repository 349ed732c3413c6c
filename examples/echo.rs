//! The smallest line server: every line comes back as it came.
//!
//! `cargo run --release --example echo`, then `nc 127.0.0.1 40714`.

use actix_lines::prelude::*;
use clap::Parser;

#[derive(Parser)]
struct Args {
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:40714")]
    listen: String,
}

pub(crate) struct Echo;

impl Actor for Echo {
    type Context = LineContext<Self>;
}

impl LineHandler for Echo {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
    }
}

#[actix::main]
async fn main() -> std::io::Result<()> {
    let server = LineServer::new(|_connection| Echo).bind(&*Args::parse().listen)?;
    for address in server.local_addrs() {
        eprintln!("listening on {address}");
    }
    server.run().await
}
