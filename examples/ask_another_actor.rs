//! Answers that another actor has to give, on an arbiter of its own: how often has this line been asked before?
//!
//! `cargo run --release --example ask_another_actor`, then `nc 127.0.0.1 40718`.
//!
//! A session waits for the answer with `ctx.wait_for`, so no later line overtakes it. All lines that came together are one
//! question: a round trip to another thread costs some 45 µs, a line in a batch next to nothing.

use std::collections::HashMap;

use actix::{Addr, Arbiter, Context, Handler, Message};
use actix_lines::prelude::*;
use clap::Parser;

#[derive(Parser)]
struct Args {
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:40718")]
    listen: String,
}

/// Remembers what was asked.
#[derive(Default)]
pub(crate) struct Memory(HashMap<Vec<u8>, u64>);

impl Actor for Memory {
    type Context = Context<Self>;
}

/// All lines that came together.
#[derive(Message)]
#[rtype(result = "Vec<u64>")]
struct Ask(Vec<Vec<u8>>);

impl Handler<Ask> for Memory {
    type Result = Vec<u64>;

    fn handle(&mut self, Ask(lines): Ask, _: &mut Self::Context) -> Vec<u64> {
        let mut count = |line| {
            let count = self.0.entry(line).or_default();
            *count += 1;
            *count - 1
        };
        lines.into_iter().map(&mut count).collect()
    }
}

pub(crate) struct Asker(pub(crate) Addr<Memory>);

impl Actor for Asker {
    type Context = LineContext<Self>;
}

impl Asker {
    fn ask(&self, lines: Vec<Vec<u8>>, ctx: &mut LineContext<Self>) {
        ctx.wait_for(self.0.send(Ask(lines)), |_, answers, ctx| match answers {
            Ok(answers) => answers.iter().for_each(|count| writeln!(ctx, "{count} times before")),
            // It has ended, which must not be taken for an answer.
            Err(error) => {
                writeln!(ctx, "no answer: {error}");
                ctx.drain();
            }
        });
    }
}

impl LineHandler for Asker {
    fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
        let mut asked = Vec::new();
        while let Some(line) = lines.next(ctx) {
            asked.push(line.text().to_vec());
        }
        self.ask(asked, ctx);
    }

    /// The tail, which comes alone.
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        self.ask(vec![line.text().to_vec()], ctx);
    }
}

#[actix::main]
async fn main() -> std::io::Result<()> {
    let memory = Memory::start_in_arbiter(&Arbiter::new().handle(), |_| Memory::default());
    let server = LineServer::new(move |_connection| Asker(memory.clone())).bind(&*Args::parse().listen)?;
    for address in server.local_addrs() {
        eprintln!("listening on {address}");
    }
    server.run().await
}
