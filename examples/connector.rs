//! A client that survives its server's restarts: it sends the lines of its standard input, and prints the answers.
//!
//! `cargo run --release --example connector -- 127.0.0.1:40713`. What is typed while there is no connection waits for the
//! next one. A line that was sent when the connection broke may be lost: only the server could know.

use std::{io::Write, time::Duration};

use actix::{Actor, Context, Handler, Message};
use actix_lines::{Connector, ConnectorEvent, Disconnect, GetSession, Line, LineContext, LineHandler};
use tokio::sync::mpsc;

struct Client;

impl Actor for Client {
    type Context = LineContext<Self>;
}

impl LineHandler for Client {
    fn line(&mut self, answer: Line<'_>, _: &mut Self::Context) {
        if std::io::stdout().lock().write_all(&answer).is_err() {
            // Nobody reads the answers any more.
            std::process::exit(1);
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Say(String);

impl Handler<Say> for Client {
    type Result = ();
    fn handle(&mut self, Say(line): Say, ctx: &mut Self::Context) {
        ctx.write(line.as_bytes());
    }
}

/// Tells the user how it stands.
struct Status;

impl Actor for Status {
    type Context = Context<Self>;
}

impl Handler<ConnectorEvent> for Status {
    type Result = ();
    fn handle(&mut self, event: ConnectorEvent, _: &mut Self::Context) {
        match event {
            ConnectorEvent::Connected { peer, .. } => eprintln!("connected to {peer}"),
            ConnectorEvent::Lost { report, retry_in: Some(wait) } => eprintln!("{report}; again in {wait:.1?}"),
            ConnectorEvent::Failed { error, retry_in: Some(wait), .. } => eprintln!("{error}; again in {wait:.1?}"),
            _ => {}
        }
    }
}

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:40713".to_owned());
    let connector =
        Connector::builder(target, |_connection, _nth| Client).subscribe(Status.start().recipient()).start()?;

    // Reading a terminal blocks, so a thread does it; it reads on only once a line has been sent.
    let (sender, mut lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line + "\n").is_err() {
                break;
            }
        }
    });
    while let Some(line) = lines.recv().await {
        // The session may end between the two: then the line was not written, and the next session gets it.
        while let Some(session) = connector.send(GetSession::when_connected()).await? {
            if session.send(Say(line.clone())).await.is_ok() {
                break;
            }
        }
    }
    connector.send(Disconnect::within(Duration::from_secs(10))).await?;
    Ok(())
}
