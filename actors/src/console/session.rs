//! Session: the actor of one console.
//!
//! Rule: commands are answered one after the other, each whole; a line that is too long, or without its newline, is never
//! taken for a command.
//! Not here: the commands (`commands`), who may connect (`builder`).

use std::{sync::Arc, time::Duration};

use actix::{Actor, ActorContext, AsyncContext, Handler, fut::ActorFutureExt};

use crate::{
    address::Address,
    connection::Connection,
    console::{
        asked::Asked,
        commands::{Command, Prepared, QUIT},
        out::{Answering, Out},
        request::{self, Request},
        setup::{MAX_LINE, Setup},
        strangers::{Known, Leave},
    },
    escape::Escaped,
    log_limit::Kind,
    report::CloseReason,
    session::{context::LineContext, handler::LineHandler, lines::Line},
    words::WrongWord,
};

/// Time that a peer has to send the token.
const TOKEN_TIME: Duration = Duration::from_secs(10);

/// Time that a peer has to read why it was turned away.
const READING_TIME: Duration = Duration::from_secs(1);

/// The answer to a peer that there is no place for.
pub(crate) const TOO_MANY: &str = "error: too many consoles: close one, then connect again\n\n";

const STRANGER: Kind = Kind("peer turned away", "peers turned away");

pub(crate) struct Session {
    setup: Arc<Setup>,
    who: Address,
    /// False until the token has come, where there is one.
    is_known: bool,
    /// Its place, where there is a token.
    place: Option<Known>,
    /// It was turned away, and has a moment to read why.
    is_leaving: bool,
    /// The command that goes on by itself.
    live: Option<Out>,
}

impl Session {
    pub(crate) fn new(setup: Arc<Setup>, connection: &Connection) -> Self {
        let is_known = setup.token.is_none();
        Self { setup, who: connection.peer_addr().clone(), is_known, place: None, is_leaving: false, live: None }
    }

    /// Turns the peer away. What else it has sent is not looked at.
    fn turn_away(&self, why: &str, ctx: &mut LineContext<Self>) {
        self.warn(why);
        ctx.stop();
    }

    fn warn(&self, why: &str) {
        if let Some(events) = self.setup.turned_away.pass(&STRANGER, "console: ") {
            log::warn!(who:% = self.who, count = events; "console: {}: {why}{events}", self.who);
        }
    }

    /// Turns a peer without the token away, which is told why. It does not linger: it has to leave at any time for others.
    fn refuse(&mut self, wrong: WrongWord, why: &str, ctx: &mut LineContext<Self>) {
        Self::fail(false, wrong, ctx);
        self.warn(why);
        self.is_leaving = true;
        ctx.half_close();
        ctx.run_later(READING_TIME, |_, ctx| ctx.terminate());
    }

    fn fail(is_json: bool, wrong: WrongWord, ctx: &mut LineContext<Self>) {
        let out = Out::new(is_json);
        out.fail(&wrong.into());
        out.end();
        ctx.write(out.take());
    }

    fn meet(&mut self, line: &[u8], ctx: &mut LineContext<Self>) {
        let secret = line.strip_prefix(b"token ").map(<[u8]>::trim_ascii);
        match secret {
            Some(secret) if self.setup.token.as_ref().is_some_and(|token| token.is(secret)) => {
                match self.setup.strangers.know(self.setup.max_known) {
                    Some(place) => {
                        (self.is_known, self.place) = (true, Some(place));
                        ctx.write(b"\n");
                    }
                    None => {
                        ctx.write(TOO_MANY.as_bytes());
                        ctx.stop();
                    }
                }
            }
            // Never the secret itself.
            Some(_) => self.refuse(
                WrongWord::new("token", "has the wrong secret behind it: use that of this console"),
                "a wrong token: closed",
                ctx,
            ),
            None => self.refuse(
                WrongWord::new("token", "and the secret of this console have to be the first line"),
                "no token: closed",
                ctx,
            ),
        }
    }

    fn obey(&mut self, line: &[u8], ctx: &mut LineContext<Self>) {
        let request = match Request::new(line) {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err((is_json, wrong)) => return Self::fail(is_json, wrong, ctx),
        };
        if request.name == "token" {
            // Where there is none, or it has come already, nothing is wrong with it.
            return ctx.write(b"\n");
        }
        let out = Out::new(request.is_json);
        let prepared = Command::find(&request.name).and_then(|command| {
            // Set before the first session comes.
            let server = self.setup.server.get().cloned();
            let server = server.ok_or_else(|| WrongWord::new(&request.name, "is too early: try again"))?;
            command.prepare(&request, |name| Asked {
                name,
                words: Vec::new(),
                text: None,
                server,
                setup: Arc::clone(&self.setup),
                who: self.who.clone(),
                out: out.clone(),
            })
        });
        let Prepared { is_live, run } = match prepared {
            Ok(prepared) => prepared,
            Err(wrong) => return Self::fail(request.is_json, wrong, ctx),
        };
        if request.name == QUIT {
            ctx.write(b"\n");
            return ctx.stop();
        }
        let answer = {
            let out = out.clone();
            async move {
                if let Err(failure) = run.await {
                    out.fail(&failure);
                }
                out.end();
            }
        };
        if is_live {
            self.live = Some(out.clone());
            ctx.spawn(Answering::new(answer, out).map(|(), session: &mut Self, ctx: &mut LineContext<Self>| {
                session.live = None;
                ctx.resume();
            }));
        } else {
            ctx.wait(Answering::new(answer, out));
        }
    }
}

impl Actor for Session {
    type Context = LineContext<Self>;
}

impl Handler<Leave> for Session {
    type Result = ();

    fn handle(&mut self, _: Leave, ctx: &mut Self::Context) {
        if self.is_leaving {
            ctx.terminate();
        } else if !self.is_known {
            // Nothing was written: it does not linger.
            self.turn_away("no token yet, and others wait: closed", ctx);
        }
    }
}

impl LineHandler for Session {
    fn opened(&mut self, ctx: &mut Self::Context) {
        if !self.is_known {
            self.setup.strangers.come(ctx.address().recipient());
            ctx.run_later(TOKEN_TIME, |session, ctx| {
                if !session.is_known {
                    session.turn_away("no token in time: closed", ctx);
                }
            });
        }
    }

    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        if self.is_leaving {
            // What it sends behind its token is not looked at.
            return;
        }
        if let Some(live) = &self.live {
            live.stop();
            // Until the answer has ended.
            return ctx.pause();
        }
        let line = line.text();
        if request::is_http(line) {
            return self.turn_away("HTTP where commands are expected: closed", ctx);
        }
        if self.is_known { self.obey(line, ctx) } else { self.meet(line, ctx) }
    }

    fn tail(&mut self, tail: Line<'_>, ctx: &mut Self::Context) {
        // It may be half of a command.
        if self.live.is_none() && !self.is_leaving && !tail.text().trim_ascii().is_empty() {
            let shown = Escaped::new(tail.text()).to_string();
            let message = format!("\"{shown}\" has no newline: nothing is done");
            Self::fail(false, WrongWord { word: shown, message }, ctx);
        }
    }

    fn overlong(&mut self, ctx: &mut Self::Context) {
        if self.is_leaving {
            return;
        }
        if let Some(live) = &self.live {
            live.stop();
            return ctx.pause();
        }
        if !self.is_known {
            return self.turn_away("a long line instead of a token: closed", ctx);
        }
        let message = format!("the line is longer than {} bytes: nothing is done", MAX_LINE);
        Self::fail(false, WrongWord { word: String::new(), message }, ctx);
    }

    fn ending(&mut self, _: &CloseReason, ctx: &mut Self::Context) {
        if self.live.take().is_some() {
            ctx.write(b"\n");
        }
    }
}
