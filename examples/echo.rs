//! The smallest line server: every line comes back as it came.
//!
//! `cargo run --release --example echo -- 127.0.0.1:40714`, then `nc 127.0.0.1 40714`.

use actix::Actor;
use actix_lines::{Line, LineContext, LineHandler, LineServer};

struct Echo;

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
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:40714".to_owned());
    let server = LineServer::new(|_connection| Echo).bind(address.as_str())?;
    eprintln!("listening on {}", server.addresses()[0]);
    server.run().await
}
