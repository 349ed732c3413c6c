//! The examples answer as their scripts say, and the same however their peers' bytes come: cut at every place, and held back.
//!
//! In memory where an example is an actor; those of the ladder as processes. Not here: `kv`, whose test is `kv`; what else the
//! examples do (`examples`).

mod support;
#[cfg(feature = "tls")]
#[path = "support/tls.rs"]
mod tls;

#[allow(dead_code)]
#[path = "../examples/ask_another_actor.rs"]
mod ask_another_actor;
#[allow(dead_code)]
#[path = "../examples/chat.rs"]
mod chat;
#[allow(dead_code)]
#[path = "../examples/echo.rs"]
mod echo;
#[allow(dead_code)]
#[path = "../examples/embedded_in_actix_web.rs"]
mod embedded_in_actix_web;
#[allow(dead_code)]
#[path = "../examples/rot13_by_line.rs"]
mod rot13_by_line;
#[allow(dead_code)]
#[path = "../examples/shout.rs"]
mod shout;
#[cfg(feature = "tls")]
#[allow(dead_code)]
#[path = "../examples/smtp_sink/main.rs"]
mod smtp_sink;

use std::process::ExitCode;

use actix::Actor;
use actix_lines::{
    Framing, LineHandler, LineSession, Overlong, Transport,
    script::{Fuzz, Harness, Target},
};
use support::{Server, example};

/// Sessions that share nothing.
fn each<A: LineHandler>(actor: fn() -> A) -> Target {
    Target::memory(move |transport| {
        LineSession::new(transport).start(actor());
    })
}

fn chat() -> Target {
    Target::memory_service(|| {
        let lobby = chat::Lobby::default();
        let framing = Framing::lf().max_line(1000).expect("a length").overlong(Overlong::Discard);
        move |transport: Transport| {
            LineSession::new(transport).framing(framing).start(chat::Chatter::new(lobby.clone()));
        }
    })
}

fn ask_another_actor() -> Target {
    Target::memory_service(|| {
        // On the script's own thread: of another the clock knows nothing.
        let memory = ask_another_actor::Memory::default().start();
        move |transport: Transport| {
            LineSession::new(transport).start(ask_another_actor::Asker(memory.clone()));
        }
    })
}

fn embedded_in_actix_web() -> Target {
    Target::memory_service(|| {
        let board = embedded_in_actix_web::Board::default();
        move |transport: Transport| {
            LineSession::new(transport).start(embedded_in_actix_web::Reader(board.clone()));
        }
    })
}

/// It offers STARTTLS; scripts cannot go on behind that. Messages are counted.
#[cfg(feature = "tls")]
fn smtp_sink(tls: &actix_lines::tls::Tls) -> Target {
    let tls = tls.clone();
    Target::memory_service(move || {
        let sink = std::sync::Arc::new(smtp_sink::Sink { tls: Some(tls.clone()), ..smtp_sink::Sink::counting(2000) });
        move |transport: Transport| {
            let session = LineSession::new(transport).framing(smtp_sink::Session::framing().expect("a length"));
            let limits = smtp_sink::Session::limits().expect("times");
            session.limits(limits).start(smtp_sink::Session::new(&sink));
        }
    })
}

const LADDER: [&str; 5] = ["fork_server", "busy_poll_server", "select_server", "event_server", "buffered_event_server"];

fn main() -> ExitCode {
    let folder = |name: &str| format!("{}/examples/sessions/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut harness = Harness::new()
        .service("ask_another_actor", folder("ask_another_actor"), &ask_another_actor())
        .service("chat", folder("chat"), &chat())
        .service("echo", folder("echo"), &each(|| echo::Echo))
        .service("embedded_in_actix_web", folder("embedded_in_actix_web"), &embedded_in_actix_web())
        .service("rot13_by_line", folder("rot13"), &each(|| rot13_by_line::ByLine))
        .service("shout", folder("shout"), &each(|| shout::Shout));
    #[cfg(feature = "tls")]
    let authority = tls::Authority::new();
    #[cfg(feature = "tls")]
    {
        authority.issue("server", &["localhost"]);
        let tls = actix_lines::tls::Tls::builder(authority.path("server.pem"), authority.path("server-key.pem"));
        let target = smtp_sink(&tls.build().expect("a certificate"));
        harness = harness.service("smtp_sink", folder("smtp_sink"), &target);
    }
    // They end with this process's last value.
    let servers = LADDER.map(|name| {
        let mut command = example(name);
        command.args(["--listen", "127.0.0.1:0"]);
        (name, Server::spawn(command))
    });
    for (name, server) in &servers {
        harness = harness.service(*name, folder("rot13"), &Target::tcp(server.address.to_string()));
    }
    harness.fuzz(Fuzz::default()).run()
}
