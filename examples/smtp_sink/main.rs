//! A server that takes mail and passes none on: SMTP, with STARTTLS, for tests of what sends mail.
//!
//! ```sh
//! cargo run --release --example smtp_sink        # --listen ADDRESS --certificate FILE --key FILE --dir FOLDER
//! swaks --server 127.0.0.1:2525 --to ann@example.org
//! ```
//! What it shows: commands that may come many at once, and are answered in order (PIPELINING); a text between them that ends
//! with a line of its own; TLS in the middle of a session; a disk that holds up its own client and nobody else.
//!
//! It is as strict as RFC 5321, and offers PIPELINING (2920), SIZE (1870), 8BITMIME (6152), STARTTLS (3207) if it has a
//! certificate, and ENHANCEDSTATUSCODES (2034). A message is `250` when its file is in the folder, under the name in the reply:
//! the envelope as `Return-Path` and `X-Original-To`, then the bytes as they came. Without a folder messages are counted.
//!
//! What a client costs is bounded: 200 KiB of memory; the largest message on the disk; 5 minutes without a line, one for a line,
//! an hour in all. A message that is too large is read to its end and refused; at twice the size the session ends.
//!
//! Here: the session. Not here: what a line means (`command`); files (`spool`).

mod command;
mod spool;

use std::{
    error::Error,
    io, mem,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use actix_lines::{ConfigError, prelude::*, tls::Tls};
use clap::Parser;
use tokio::task::spawn_blocking;

use self::{
    command::Command,
    spool::{Draft, Spool},
};

/// The longest line of a text: RFC 5321 has 1000 bytes, CR LF included. Commands may be as long.
const MAX_TEXT: usize = 998;

/// The most recipients of a message. RFC 5321 asks for at least so many.
const MAX_RECIPIENTS: usize = 100;

/// So much of a text goes to the disk at once. Unit: bytes.
const CHUNK: usize = 64 * 1024;

const TOO_LONG: &str = "500 5.5.2 Line too long";
const TOO_LARGE: &str = "552 5.3.4 Message too large";
const NOT_STORED: &str = "451 4.3.0 Cannot store it, try again later";

#[derive(Parser)]
#[command(about = "A server that takes mail and passes none on", version)]
struct Args {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:2525")]
    listen: String,
    /// File of a certificate chain, for STARTTLS
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// File of its key
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Folder for messages, a file each [default: none, they are counted]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Largest message
    #[arg(long, value_name = "SIZE", default_value = "10MiB", value_parser = size)]
    max_size: u64,
}

fn size(text: &str) -> Result<u64, String> {
    parse_size::parse_size(text).map_err(|error| format!("{error}; try 10MiB"))
}

/// What all sessions share.
pub(crate) struct Sink {
    pub(crate) tls: Option<Tls>,
    pub(crate) spool: Option<Arc<Spool>>,
    pub(crate) max_size: u64,
    pub(crate) taken: AtomicU64,
}

impl Sink {
    /// One that counts messages, and knows no TLS.
    pub(crate) fn counting(max_size: u64) -> Self {
        Self { tls: None, spool: None, max_size, taken: AtomicU64::new(0) }
    }
}

pub(crate) struct Session {
    sink: Arc<Sink>,
    phase: Phase,
}

/// How far the client has come. What a phase has is gone with it.
enum Phase {
    /// It has not said who it is.
    Connected,
    Greeted,
    /// It has said from whom a message comes.
    Mail(Box<Envelope>),
    /// Its lines are a text.
    Data(Box<Message>),
}

struct Envelope {
    /// Who sends it to whom, as lines in front of the message.
    head: Vec<u8>,
    recipients: usize,
}

struct Message {
    /// Where it goes, unless it is only counted. Meanwhile the disk may have it.
    draft: Option<Draft>,
    /// What the disk has not got yet.
    bytes: Vec<u8>,
    /// As RFC 1870 counts it: CR LF included, added dots not.
    size: u64,
    /// The reply to its end, if it is not taken. There is no way to say it earlier: the client is not listening.
    refusal: Option<&'static str>,
}

impl Message {
    fn refuse(&mut self, reply: &'static str) {
        self.refusal.get_or_insert(reply);
        (self.draft, self.bytes) = (None, Vec::new());
    }
}

impl Actor for Session {
    type Context = LineContext<Self>;
}

impl LineHandler for Session {
    fn opened(&mut self, ctx: &mut Self::Context) {
        ctx.write("220 localhost ESMTP smtp_sink\r\n");
    }

    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        if matches!(self.phase, Phase::Data(_)) {
            return match &*line {
                b".\r\n" => self.end_of_text(ctx),
                // A client adds a dot to each line that begins with one.
                [b'.', text @ ..] | text => self.text(text, ctx),
            };
        }
        match command::parse(line.text()) {
            Ok(command) => self.command(command, ctx),
            Err(refusal) => write!(ctx, "{refusal}\r\n"),
        }
    }

    fn overlong(&mut self, ctx: &mut Self::Context) {
        match &mut self.phase {
            Phase::Data(message) => {
                message.refuse(TOO_LONG);
                self.count(MAX_TEXT, ctx);
            }
            _ => write!(ctx, "{TOO_LONG}\r\n"),
        }
    }

    /// Half a command is no command, and a dot without its CR LF ends no text.
    fn tail(&mut self, _tail: Line<'_>, _ctx: &mut Self::Context) {}

    /// All that was said before may have been said by somebody on the way: the client has to begin anew.
    fn upgraded(&mut self, _ctx: &mut Self::Context) {
        self.phase = Phase::Connected;
    }

    /// A client that hears 421 knows that it may come again.
    fn ending(&mut self, reason: &CloseReason, ctx: &mut Self::Context) {
        match reason {
            CloseReason::IdleTimeout | CloseReason::LineTimeout | CloseReason::MaxAge => {
                ctx.write("421 4.4.2 Timeout, closing\r\n");
            }
            CloseReason::Drained | CloseReason::Kicked | CloseReason::WaitTimeout => {
                ctx.write("421 4.3.2 Shutting down\r\n");
            }
            _ => {}
        }
    }
}

impl Session {
    pub(crate) fn new(sink: &Arc<Sink>) -> Self {
        Self { sink: Arc::clone(sink), phase: Phase::Connected }
    }

    /// Only CR LF ends a line: who takes a lone LF for an end as well can be talked into taking one message for two. A line
    /// that is too long is dropped, in a text with all the message. One byte is for the dot that may be added.
    pub(crate) fn framing() -> Result<Framing, ConfigError> {
        Ok(Framing::crlf().max_line(MAX_TEXT + 1)?.overlong(Overlong::Discard))
    }

    pub(crate) fn limits() -> Result<Limits, ConfigError> {
        Limits::exposed()
            .to_builder()
            .idle_timeout(Some(Duration::from_secs(5 * 60)))
            .line_timeout(Some(Duration::from_secs(60)))
            .max_age(Some(Duration::from_secs(60 * 60)))
            .refuse_line("421 4.3.2 Too many connections, try again later\r\n")
            .build()
    }

    fn command(&mut self, command: Command<'_>, ctx: &mut LineContext<Self>) {
        let reply = match (command, &mut self.phase) {
            (Command::Ehlo, phase) => {
                *phase = Phase::Greeted;
                return self.offer(ctx);
            }
            (Command::Helo, phase) => {
                *phase = Phase::Greeted;
                "250 localhost"
            }
            (Command::Noop, _) => "250 2.0.0 OK",
            (Command::Vrfy, _) => "252 2.5.2 Send it, and see",
            (Command::Help, _) => "214 2.0.0 RFC 5321 says it all",
            (Command::Rset, Phase::Connected) => "250 2.0.0 OK",
            (Command::Rset, phase) => {
                *phase = Phase::Greeted;
                "250 2.0.0 OK"
            }
            (Command::Quit, _) => {
                ctx.stop();
                "221 2.0.0 Bye"
            }
            (Command::Http, _) => {
                ctx.stop();
                "521 5.7.0 No web server"
            }
            (_, Phase::Connected) => "503 5.5.1 EHLO first",
            (Command::StartTls, _) => return self.start_tls(ctx),
            (Command::Mail { size: Some(size), .. }, Phase::Greeted) if size > self.sink.max_size => TOO_LARGE,
            (Command::Mail { from, .. }, phase @ Phase::Greeted) => {
                let head = format!("Return-Path: <{from}>\r\n").into_bytes();
                *phase = Phase::Mail(Box::new(Envelope { head, recipients: 0 }));
                "250 2.1.0 OK"
            }
            (Command::Mail { .. }, _) => "503 5.5.1 There is a sender, RSET forgets it",
            (Command::Rcpt { .. }, Phase::Mail(envelope)) if envelope.recipients == MAX_RECIPIENTS => {
                "452 4.5.3 Too many recipients, send it to the others anew"
            }
            (Command::Rcpt { to }, Phase::Mail(envelope)) => {
                envelope.recipients += 1;
                envelope.head.extend_from_slice(format!("X-Original-To: <{to}>\r\n").as_bytes());
                "250 2.1.5 OK"
            }
            (Command::Data, Phase::Mail(envelope)) if envelope.recipients == 0 => "503 5.5.1 RCPT first",
            (Command::Data, phase @ Phase::Mail(_)) => {
                let draft = self.sink.spool.as_ref().map(Spool::draft);
                let mut message = Box::new(Message { draft, bytes: Vec::new(), size: 0, refusal: None });
                if let Phase::Mail(envelope) = phase {
                    message.bytes = mem::take(&mut envelope.head);
                }
                *phase = Phase::Data(message);
                "354 Go on, end with a line that is a dot"
            }
            (Command::Rcpt { .. } | Command::Data, _) => "503 5.5.1 MAIL first",
        };
        write!(ctx, "{reply}\r\n");
    }

    fn offer(&self, ctx: &mut LineContext<Self>) {
        write!(ctx, "250-localhost\r\n250-PIPELINING\r\n250-SIZE {}\r\n250-8BITMIME\r\n", self.sink.max_size);
        if self.sink.tls.is_some() && ctx.connection().tls().is_none() {
            ctx.write("250-STARTTLS\r\n");
        }
        ctx.write("250 ENHANCEDSTATUSCODES\r\n");
    }

    /// The reply leaves in clear; all that is written later goes through TLS. What the client has sent in clear behind its
    /// command is never run: it ends the session.
    fn start_tls(&self, ctx: &mut LineContext<Self>) {
        match &self.sink.tls {
            None => ctx.write("502 5.5.1 Not offered\r\n"),
            Some(_) if ctx.connection().tls().is_some() => ctx.write("503 5.5.1 There is TLS\r\n"),
            Some(tls) => {
                ctx.write("220 2.0.0 Go ahead\r\n");
                if ctx.start_tls(tls).is_err() {
                    ctx.abort();
                }
            }
        }
    }

    /// A line of a text, its CR LF included.
    fn text(&mut self, text: &[u8], ctx: &mut LineContext<Self>) {
        let Phase::Data(message) = &mut self.phase else { return };
        if text.len() > MAX_TEXT + "\r\n".len() {
            message.refuse(TOO_LONG);
        }
        if message.draft.is_some() {
            message.bytes.extend_from_slice(text);
        }
        let is_chunk = message.bytes.len() >= CHUNK;
        self.count(text.len(), ctx);
        if is_chunk {
            self.save(ctx);
        }
    }

    /// Counts what has come of a text. One without an end gets one.
    fn count(&mut self, bytes: usize, ctx: &mut LineContext<Self>) {
        let Phase::Data(message) = &mut self.phase else { return };
        message.size += bytes as u64;
        if message.size > self.sink.max_size {
            message.refuse(TOO_LARGE);
        }
        if message.size / 2 > self.sink.max_size {
            write!(ctx, "{TOO_LARGE}\r\n");
            ctx.stop();
        }
    }

    /// Has the disk take what there is. Until it has done so no line is delivered, then nothing is read, and in the end the
    /// client waits: a slow disk costs no memory.
    fn save(&mut self, ctx: &mut LineContext<Self>) {
        let Phase::Data(message) = &mut self.phase else { return };
        let Some(mut draft) = message.draft.take() else { return };
        let bytes = mem::take(&mut message.bytes);
        let job = spawn_blocking(move || draft.append(&bytes).inspect_err(report).map(|()| draft));
        ctx.wait_for(job, |session, result, _ctx| {
            let Phase::Data(message) = &mut session.phase else { return };
            match result {
                Ok(Ok(draft)) => message.draft = Some(draft),
                Ok(Err(_)) | Err(_) => message.refuse(NOT_STORED),
            }
        });
    }

    /// From the 250 on the message is ours: it is said when nothing can be lost any more.
    fn end_of_text(&mut self, ctx: &mut LineContext<Self>) {
        let Phase::Data(message) = mem::replace(&mut self.phase, Phase::Greeted) else { return };
        let Message { draft, bytes, size, refusal } = *message;
        if let Some(refusal) = refusal {
            return write!(ctx, "{refusal}\r\n");
        }
        let Some(mut draft) = draft else {
            let number = self.sink.taken.fetch_add(1, Relaxed) + 1;
            return write!(ctx, "250 2.0.0 Message {number}, {size} bytes\r\n");
        };
        let job = spawn_blocking(move || draft.append(&bytes).and_then(|()| draft.publish()).inspect_err(report));
        ctx.wait_for(job, move |session, result, ctx| match result {
            Ok(Ok(name)) => {
                session.sink.taken.fetch_add(1, Relaxed);
                write!(ctx, "250 2.0.0 {name}, {size} bytes\r\n");
            }
            Ok(Err(_)) | Err(_) => write!(ctx, "{NOT_STORED}\r\n"),
        });
    }
}

fn report(error: &io::Error) {
    eprintln!("a message is not stored: {error}");
}

#[actix::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let tls = args.certificate.zip(args.key).map(|(certificate, key)| Tls::builder(certificate, key).build());
    let spool = args.dir.as_deref().map(Spool::open).transpose().map_err(|error| format!("--dir: {error}"))?;
    let sink = Sink { tls: tls.transpose()?, spool: spool.map(Arc::new), ..Sink::counting(args.max_size) };
    let sink = Arc::new(sink);
    let shared = Arc::clone(&sink);
    let server = LineServer::new(move |_connection| Session::new(&shared))
        .framing(Session::framing()?)
        .limits(Session::limits()?)
        .bind(&*args.listen)?;
    for address in server.local_addrs() {
        eprintln!("listening on {address}");
    }
    server.run().await?;
    eprintln!("{} messages", sink.taken.load(Relaxed));
    Ok(())
}
