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
        let text = String::from_utf8_lossy(line.text()).into_owned();
        let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
        match word {
            "say" => ctx.write(format!("{rest}\n").as_bytes()),
            "raw" => ctx.write(rest.as_bytes()),
            "lines" => rest.split(' ').for_each(|line| ctx.write(format!("{line}\n").as_bytes())),
            "all" => self.0.say(format!("{rest}\n")),
            "later" => {
                ctx.run_later(Duration::from_secs(3), |_, ctx| ctx.write(b"later\n"));
            }
            "close" => ctx.stop(),
            "abort" => ctx.terminate(),
            _ => ctx.write(format!("unknown: {text}\n").as_bytes()),
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
