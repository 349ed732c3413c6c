//! A client that survives its server's restarts: it sends the lines of its standard input, and prints the answers, byte for
//! byte.
//!
//! `cargo run --release --example connector -- 127.0.0.1:40713`. What is typed while there is no connection waits for the
//! next one. A line that was sent when the connection broke may be lost: only the server could know.
//!
//! At the end of the input, at SIGTERM and at SIGINT it waits for the answers that are owed, ten seconds at most. It exits with
//! 0 if the server had everything sent to it by then, otherwise with 1 and the reason.

use std::{
    error::Error,
    io::{self, BufRead, Write},
    pin::Pin,
    process::ExitCode,
    task::{self, Poll},
    time::Duration,
};

use actix::{Actor, ActorFuture, Addr, Context, Handler, Message, ResponseActFuture};
use actix_lines::{
    Line, LineContext, LineHandler,
    connect::{Connector, ConnectorEvent, Disconnect, GetSession},
};
use bytes::Bytes;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// With more than this on its way no further line is taken. Unit: bytes.
const UNDER_WAY: usize = 64 * 1024;

struct Client;

impl Actor for Client {
    type Context = LineContext<Self>;
}

impl LineHandler for Client {
    fn line(&mut self, answer: Line<'_>, _: &mut Self::Context) {
        if let Err(error) = io::stdout().lock().write_all(&answer) {
            eprintln!("nobody reads the answers any more: {error}");
            std::process::exit(1);
        }
    }
}

/// Answered when the line is written.
#[derive(Clone, Message)]
#[rtype(result = "()")]
struct Say(Bytes);

impl Handler<Say> for Client {
    type Result = ResponseActFuture<Self, ()>;
    fn handle(&mut self, line: Say, _: &mut Self::Context) -> Self::Result {
        Box::pin(line)
    }
}

impl ActorFuture<Client> for Say {
    type Output = ();
    fn poll(
        self: Pin<&mut Self>,
        _: &mut Client,
        ctx: &mut LineContext<Client>,
        _: &mut task::Context<'_>,
    ) -> Poll<()> {
        if ctx.outbox_len() > UNDER_WAY {
            // A server that does not read costs no memory: it is polled again when the outbox has fallen.
            return Poll::Pending;
        }
        ctx.write(&self.0);
        Poll::Ready(())
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

/// Reading a terminal blocks, so a thread does it; it reads on only once a line has been sent.
fn input() -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            // The last line may have no end.
            let mut line = Vec::new();
            let read = match input.read_until(b'\n', &mut line) {
                Ok(0) => return,
                read => read.map(|_| Bytes::from(line)),
            };
            if sender.blocking_send(read).is_err() {
                return;
            }
        }
    });
    lines
}

async fn say_all(connector: &Addr<Connector<Client>>) -> Result<(), Box<dyn Error>> {
    let mut lines = input();
    while let Some(line) = lines.recv().await {
        let line = Say(line.map_err(|error| format!("the input cannot be read: {error}"))?);
        // The session may end between the two: then the line was not written, and the next session gets it.
        while let Some(session) = connector.send(GetSession::when_connected()).await? {
            if session.send(line.clone()).await.is_ok() {
                break;
            }
        }
    }
    Ok(())
}

async fn talk(target: String) -> Result<(), Box<dyn Error>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let connector =
        Connector::builder(target, |_connection, _nth| Client).subscribe(Status.start().recipient()).start()?;
    tokio::select! {
        said = say_all(&connector) => said?,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    match connector.send(Disconnect::within(Duration::from_secs(10))).await? {
        Some(report) if report.cut || report.unsent_bytes > 0 => {
            Err(format!("not everything has reached the server: {report}").into())
        }
        _ => Ok(()),
    }
}

#[actix::main]
async fn main() -> ExitCode {
    let target = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:40713".to_owned());
    match talk(target).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
