//! A chat: whoever has said his name hears the others. `/who` lists names, `/quit` leaves.
//!
//! `cargo run --release --example chat`, then `telnet 127.0.0.1 40717` from several terminals.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use actix::{Actor, ActorContext, Running};
use actix_lines::{Line, LineContext, LineHandler, LineServer, Room};
use clap::Parser;

#[derive(Parser)]
struct Args {
    /// Where to listen.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:40717")]
    listen: String,
}

/// What all sessions share.
#[derive(Clone, Default)]
struct Lobby {
    room: Room,
    names: Arc<Mutex<BTreeSet<String>>>,
}

impl Lobby {
    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Chatter {
    lobby: Lobby,
    name: Option<String>,
}

impl Actor for Chatter {
    type Context = LineContext<Self>;

    /// However it ends, the others hear of it and the name is free again.
    fn stopping(&mut self, ctx: &mut Self::Context) -> Running {
        if let Some(name) = self.name.take() {
            self.lobby.names().remove(&name);
            ctx.say(&self.lobby.room, format!("* {name} has left\r\n"));
        }
        Running::Stop
    }
}

impl Chatter {
    fn enter(&mut self, name: &str, ctx: &mut LineContext<Self>) {
        let is_name = (1..=20).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_name {
            return ctx.write(b"1 to 20 letters and digits, please. Your name?\r\n");
        }
        if !self.lobby.names().insert(name.to_owned()) {
            return ctx.write(b"That name is taken. Your name?\r\n");
        }
        ctx.join(&self.lobby.room);
        ctx.write(format!("Welcome, {name}. There are {} here.\r\n", self.lobby.room.members()).as_bytes());
        ctx.say(&self.lobby.room, format!("* {name} is here\r\n"));
        self.name = Some(name.to_owned());
    }
}

impl LineHandler for Chatter {
    fn opened(&mut self, ctx: &mut Self::Context) {
        ctx.write(b"Your name?\r\n");
    }

    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        let text = String::from_utf8_lossy(line.text());
        match (&self.name, text.trim()) {
            (None, name) => self.enter(name, ctx),
            (Some(_), "") => {}
            (Some(_), "/quit") => {
                ctx.write(b"Goodbye.\r\n");
                ctx.stop();
            }
            (Some(_), "/who") => {
                let names = self.lobby.names().iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                ctx.write(format!("* {names}\r\n").as_bytes());
            }
            (Some(name), text) => ctx.say(&self.lobby.room, format!("{name}: {text}\r\n")),
        }
    }
}

#[actix::main]
async fn main() -> std::io::Result<()> {
    let lobby = Lobby::default();
    let server = LineServer::new(move |_connection| Chatter { lobby: lobby.clone(), name: None });
    let server = server.bind(&*Args::parse().listen)?;
    eprintln!("listening on {}", server.addresses()[0]);
    server.run().await
}
