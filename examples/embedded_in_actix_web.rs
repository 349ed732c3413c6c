//! One process, one actix system: an HTTP API and a line port that share their state.
//!
//! `cargo run --release --example embedded_in_actix_web`, then
//!
//! ```text
//! nc 127.0.0.1 40719                                    what is said here ...
//! curl 127.0.0.1:40720/lines                            ... is read here, and
//! curl -d 'the kettle is on' 127.0.0.1:40720/say        the other way round
//! curl 127.0.0.1:40720/sessions                         who is connected
//! curl -X DELETE 127.0.0.1:40720/sessions/1             and is so no longer
//! ```
//!
//! SIGTERM ends both: what was asked over HTTP is answered, the line sessions drain, and neither is begun any more.

use std::{
    collections::VecDeque,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actix_lines::{
    SessionId,
    control::{SessionFilter, SessionInfo},
    prelude::*,
};
use actix_web::{App, HttpResponse, HttpServer, Responder, delete, get, post, web};
use clap::Parser;

#[derive(Parser)]
struct Args {
    /// Where to listen for lines.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:40719")]
    listen: String,
    /// Where to listen for HTTP.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:40720")]
    http: String,
}

/// Lines that are remembered.
const REMEMBERED: usize = 100;

/// The longest that may be said at once. Unit: bytes.
const MAX_TEXT: usize = 1000;

/// How long both may take to end.
const DEADLINE: Duration = Duration::from_secs(30);

/// What both sides share.
#[derive(Clone, Default)]
pub(crate) struct Board {
    room: Room,
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl Board {
    /// Remembers what is said, and returns it as a line of its own, whatever it is made of: the next speaker's begins on the
    /// next. `None` if it is too long.
    fn remember(&self, text: &[u8]) -> Option<String> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let text = String::from_utf8_lossy(text);
        let line = text.trim_end().replace(char::is_control, " ") + "\n";
        let mut remembered = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.push_back(line.clone());
        if remembered.len() > REMEMBERED {
            remembered.pop_front();
        }
        Some(line)
    }
}

pub(crate) struct Reader(pub(crate) Board);

impl Actor for Reader {
    type Context = LineContext<Self>;
}

impl LineHandler for Reader {
    fn opened(&mut self, ctx: &mut Self::Context) {
        ctx.join(&self.0.room);
    }

    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        match self.0.remember(line.text()) {
            Some(line) => ctx.say(&self.0.room, line),
            None => writeln!(ctx, "at most {MAX_TEXT} bytes, please"),
        }
    }
}

#[get("/lines")]
async fn lines(board: web::Data<Board>) -> impl Responder {
    let remembered = board.lines.lock().unwrap_or_else(PoisonError::into_inner);
    remembered.iter().map(String::as_str).collect::<String>()
}

#[post("/say")]
async fn say(board: web::Data<Board>, text: web::Bytes) -> impl Responder {
    match board.remember(&text) {
        Some(line) => {
            board.room.say(line);
            HttpResponse::NoContent().finish()
        }
        None => HttpResponse::PayloadTooLarge().body(format!("at most {MAX_TEXT} bytes, please\n")),
    }
}

#[get("/sessions")]
async fn sessions(server: web::Data<ServerHandle>) -> impl Responder {
    let Ok(page) = server.sessions(SessionFilter::default()).await else {
        return HttpResponse::ServiceUnavailable().body("the line server has ended\n");
    };
    let line = |of: SessionInfo| format!("{} {} {} lines, {} bytes in\n", of.id, of.peer, of.lines_in, of.bytes_in);
    HttpResponse::Ok().body(page.sessions.into_iter().map(line).collect::<String>())
}

#[delete("/sessions/{id}")]
async fn end_session(server: web::Data<ServerHandle>, id: web::Path<String>) -> impl Responder {
    let Ok(id) = id.parse::<SessionId>() else {
        return HttpResponse::BadRequest().body("a session is a number: see /sessions\n");
    };
    match server.kick(SessionFilter::id(id), "ended by an administrator\n").await {
        Ok(0) => HttpResponse::NotFound().body("no such session\n"),
        Ok(_) => HttpResponse::NoContent().finish(),
        Err(_) => HttpResponse::ServiceUnavailable().body("the line server has ended\n"),
    }
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let board = Board::default();
    let of_sessions = board.clone();
    // What is too long arrives with one byte more than it may have.
    let framing = Framing::lf().max_line(MAX_TEXT + 1)?.overlong(Overlong::Truncate);
    let line_server = LineServer::new(move |_connection| Reader(of_sessions.clone()))
        .framing(framing)
        .drain_on_signals(DEADLINE)
        .bind(&*args.listen)?
        .start()?;
    let handle = line_server.clone();
    let http_server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(board.clone()))
            .app_data(web::Data::new(handle.clone()))
            .service(lines)
            .service(say)
            .service(sessions)
            .service(end_session)
    })
    .workers(1)
    .shutdown_timeout(DEADLINE.as_secs())
    .bind(&*args.http)?;
    eprintln!("HTTP on {}", http_server.addrs()[0]);
    for address in line_server.local_addrs() {
        eprintln!("listening on {address}");
    }

    // Each hears the signals by itself; should one end for another reason, so does the other.
    let http_server = http_server.run();
    let http_handle = http_server.handle();
    let http_ends = async {
        let ended = http_server.await;
        let _ = line_server.drain(DEADLINE).await;
        ended
    };
    let lines_end = async {
        let ended = line_server.wait().await;
        http_handle.stop(true).await;
        ended
    };
    let (http_ended, lines_ended) = tokio::join!(http_ends, lines_end);
    Ok(http_ended.and(lines_ended)?)
}
