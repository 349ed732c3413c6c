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
//! actix-web handles the signals; when it has ended, the line sessions drain.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actix::Actor;
use actix_lines::{
    Line, LineContext, LineHandler, LineServer, Room, ServerHandle, SessionFilter, SessionId, SessionQuery,
};
use actix_web::{App, HttpResponse, HttpServer, Responder, delete, get, post, web};
use clap::Parser;

#[derive(Parser)]
struct Args {
    /// Where to listen for lines.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:40719")]
    listen: String,
    /// Where to listen for HTTP.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:40720")]
    http: String,
}

/// Lines that are remembered.
const REMEMBERED: usize = 100;

/// What both sides share.
#[derive(Clone, Default)]
struct Board {
    room: Room,
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl Board {
    fn remember(&self, text: &str) {
        let mut remembered = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.push_back(format!("{text}\n"));
        if remembered.len() > REMEMBERED {
            remembered.pop_front();
        }
    }
}

struct Reader(Board);

impl Actor for Reader {
    type Context = LineContext<Self>;
}

impl LineHandler for Reader {
    fn opened(&mut self, ctx: &mut Self::Context) {
        ctx.join(&self.0.room);
    }

    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        self.0.remember(&String::from_utf8_lossy(line.text()));
        ctx.say(&self.0.room, line.to_vec());
    }
}

#[get("/lines")]
async fn lines(board: web::Data<Board>) -> impl Responder {
    let remembered = board.lines.lock().unwrap_or_else(PoisonError::into_inner);
    remembered.iter().map(String::as_str).collect::<String>()
}

#[post("/say")]
async fn say(board: web::Data<Board>, text: String) -> impl Responder {
    // One line, whatever it is made of.
    let text = text.lines().collect::<Vec<_>>().join(" ");
    board.remember(&text);
    board.room.say(format!("{text}\n"));
    HttpResponse::NoContent()
}

#[get("/sessions")]
async fn sessions(server: web::Data<ServerHandle>) -> impl Responder {
    let Ok(page) = server.sessions(SessionQuery::default()).await else {
        return HttpResponse::ServiceUnavailable().body("the line server has ended\n");
    };
    let mut list = String::new();
    for session in page.sessions {
        let peer = session.peer.map_or_else(|| "-".to_owned(), |peer| peer.to_string());
        let _ = writeln!(list, "{} {peer} {} lines, {} bytes in", session.id, session.lines_in, session.bytes_in);
    }
    HttpResponse::Ok().body(list)
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
async fn main() -> io::Result<()> {
    let args = Args::parse();
    let board = Board::default();
    let of_sessions = board.clone();
    let line_server = LineServer::new(move |_connection| Reader(of_sessions.clone())).bind(&*args.listen)?.start()?;
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
    .bind(&*args.http)?;
    eprintln!("HTTP on {}", http_server.addrs()[0]);
    eprintln!("listening on {}", line_server.addresses()[0]);
    http_server.run().await?;
    line_server.drain(Duration::from_secs(5)).await.map_err(io::Error::other)?;
    line_server.finished().await
}
