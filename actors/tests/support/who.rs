//! What tests of peers behind a proxy share: an actor that says who its peer is, and one that asks.
// Each test file is a program of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

use actix::Actor;
use actix_lines::{Connection, Line, LineContext, LineHandler};
use tokio::sync::mpsc;

/// Answers each line with itself, and `who` with what is known of its connection.
pub struct Who(pub fn(&Connection) -> String);

impl Actor for Who {
    type Context = LineContext<Self>;
}

impl LineHandler for Who {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        match line.text() {
            b"who" => {
                let answer = (self.0)(&ctx.connection());
                ctx.write(answer);
            }
            _ => ctx.write(&line),
        }
    }
}

/// The way by which a peer came, in a word.
pub fn via(connection: &Connection) -> &'static str {
    match connection.via() {
        None => "nobody",
        Some(actix_lines::Address::Ip(_)) => "ip",
        Some(_) => "unix",
    }
}

/// Asks who it is, and says what it hears.
pub struct Asks(pub mpsc::UnboundedSender<String>);

impl Actor for Asks {
    type Context = LineContext<Self>;
}

impl LineHandler for Asks {
    fn opened(&mut self, ctx: &mut Self::Context) {
        ctx.write("who\n");
    }

    fn line(&mut self, line: Line<'_>, _: &mut Self::Context) {
        let _ = self.0.send(String::from_utf8_lossy(&line).into_owned());
    }
}
