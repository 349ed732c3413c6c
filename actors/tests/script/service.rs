//! A service that does what it is told: what the runner is to see, on demand.

use std::time::Duration;

use actix::{Actor, ActorContext, AsyncContext};
use actix_lines::{Line, LineContext, LineHandler, LineSession, Room, Transport, script::Target};

/// Says what the others of its room say, and obeys.
struct Obedient(Room);

impl Actor for Obedient {
    type Context = LineContext<Self>;
}

impl LineHandler for Obedient {
    fn opened(&mut self, ctx: &mut Self::Context) {
        ctx.join(&self.0);
    }

    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        let text = line.text();
        let (word, rest) =
            text.iter().position(|byte| *byte == b' ').map_or((text, &b""[..]), |at| (&text[..at], &text[at + 1..]));
        let with_end = |bytes: &[u8]| [bytes, b"\n"].concat();
        match word {
            b"say" => ctx.write(with_end(rest)),
            b"raw" => ctx.write(rest),
            b"lines" => rest.split(|byte| *byte == b' ').for_each(|line| ctx.write(with_end(line))),
            b"all" => self.0.say(with_end(rest)),
            b"later" => {
                ctx.run_later(Duration::from_secs(3), |_, ctx| ctx.write(b"later\n"));
            }
            b"close" => ctx.stop(),
            b"abort" => ctx.terminate(),
            _ => ctx.write([b"unknown: ", text, b"\n"].concat()),
        }
    }
}

/// It, in memory: a room for each script.
pub(crate) fn obedient() -> Target {
    Target::memory_service(|| {
        let room = Room::new();
        move |transport: Transport| {
            LineSession::new(transport).start(Obedient(room.clone()));
        }
    })
}
