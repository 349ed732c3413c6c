//! `linescript record`: what happens between peers and a server becomes a script. A proxy in the middle, or a session that is
//! typed here.
//!
//! Rule: what is seen is written down before it is passed on, so that the order in the script is one in which it could happen.
//! Not here: the script's text (`actix_lines::record`).

use std::{
    cell::{Cell, RefCell},
    fs::{self, OpenOptions},
    io::{self, BufRead, Write},
    num::NonZeroU32,
    path::PathBuf,
    pin::Pin,
    rc::Rc,
    str::FromStr,
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use actix_lines::record::{Event, Writer};
use rustix::net::sockopt::set_socket_linger;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, mpsc},
    task::{JoinSet, LocalSet},
};

use crate::{HOLDS, WRONG, output};

/// Bytes of one read.
const READ: usize = 16 * 1024;

/// How sessions are recorded.
#[derive(Debug, clap::Args)]
pub(crate) struct Record {
    /// The server: `host:port` or `unix:PATH`.
    #[arg(long, value_name = "ADDRESS")]
    connect: Place,
    /// Listen here, and pass everything on between those who connect and the server, until SIGINT. Without this a session is
    /// typed: each line is sent, end of file (^D) half-closes.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<Place>,
    /// The script to make; a file that is there is left alone. `-` is standard output.
    #[arg(short, long = "output", value_name = "FILE")]
    output: String,
    /// End after so many connections. A single one is a peer without a name.
    #[arg(long, value_name = "N", requires = "listen")]
    connections: Option<NonZeroU32>,
    /// Leave out times in which nothing happened.
    #[arg(long)]
    no_gaps: bool,
    /// End typed lines with CR LF, as telnet does.
    #[arg(long, conflicts_with = "listen")]
    crlf: bool,
}

/// Where somebody listens.
#[derive(Clone, Debug)]
enum Place {
    Tcp(String),
    Unix(PathBuf),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(Self::Tcp(text.to_owned())),
            _ => Err("write host:port, [IPv6]:port or unix:PATH".to_owned()),
        }
    }
}

impl Place {
    async fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(address) => Stream::tcp(TcpStream::connect(address).await?),
            Self::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    /// Its path is removed when it is dropped.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    async fn bind(place: &Place) -> io::Result<(Self, String)> {
        Ok(match place {
            Place::Tcp(address) => {
                let listener = TcpListener::bind(address).await?;
                let address = listener.local_addr()?.to_string();
                (Self::Tcp(listener), address)
            }
            Place::Unix(path) => {
                (Self::Unix(UnixListener::bind(path)?, path.clone()), format!("unix:{}", path.display()))
            }
        })
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => Stream::tcp(listener.accept().await?.0),
            Self::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = fs::remove_file(path);
        }
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    /// Closes it by a reset. Unix sockets have none.
    fn reset(self) {
        if let Self::Tcp(stream) = self {
            let _ = set_socket_linger(&stream, Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// The script that is being written.
struct Tape {
    writer: RefCell<Writer<Box<dyn Write>>>,
    began: Instant,
    connections: Cell<u32>,
    /// Why it could not be written: then there is nothing more to do.
    error: RefCell<Option<io::Error>>,
    failed: Notify,
}

impl Tape {
    fn new(args: &Record) -> io::Result<Self> {
        let out: Box<dyn Write> = match args.output.as_str() {
            "-" => Box::new(io::stdout()),
            file => Box::new(OpenOptions::new().write(true).create_new(true).open(file)?),
        };
        Ok(Self {
            writer: RefCell::new(Writer::new(out).gaps(!args.no_gaps)),
            began: Instant::now(),
            connections: Cell::new(0),
            error: RefCell::new(None),
            failed: Notify::new(),
        })
    }

    fn event(&self, peer: &str, event: Event<'_>) {
        self.note(self.writer.borrow_mut().event(peer, self.began.elapsed(), event));
    }

    fn comment(&self, text: &str) {
        self.note(self.writer.borrow_mut().comment(text));
    }

    fn note(&self, written: io::Result<()>) {
        if let Err(error) = written {
            self.error.borrow_mut().get_or_insert(error);
            self.failed.notify_one();
        }
    }

    fn connected(&self, peer: &str) {
        self.connections.set(self.connections.get() + 1);
        self.event(peer, Event::Connect);
    }
}

/// How the bytes of one direction ended.
enum Ended {
    Eof,
    Reset,
}

/// Passes on what comes from one side, until it ends.
async fn pass_on(
    from: &mut ReadHalf<Stream>,
    to: &mut WriteHalf<Stream>,
    tape: &Tape,
    peer: &str,
    is_peers: bool,
) -> Ended {
    let mut bytes = vec![0; READ];
    let (eof, reset, reset_by_other) = match is_peers {
        true => (Event::Fin, Event::Reset, Event::ResetByPeer),
        false => (Event::Eof, Event::ResetByPeer, Event::Reset),
    };
    loop {
        match from.read(&mut bytes).await {
            Ok(0) => {
                tape.event(peer, eof);
                // Who is gone needs no end.
                let _ = to.shutdown().await;
                return Ended::Eof;
            }
            Ok(count) => {
                let bytes = &bytes[..count];
                tape.event(peer, if is_peers { Event::Sent(bytes) } else { Event::Received(bytes) });
                if to.write_all(bytes).await.is_err() {
                    tape.event(peer, reset_by_other);
                    return Ended::Reset;
                }
            }
            Err(_) => {
                tape.event(peer, reset);
                return Ended::Reset;
            }
        }
    }
}

/// One connection through the proxy.
async fn connection(accepted: Stream, args: Rc<Record>, tape: Rc<Tape>, peer: String) {
    let server = match args.connect.connect().await {
        Ok(server) => server,
        Err(error) => {
            let text = format!("{} could not connect: {error}", if peer.is_empty() { "the peer" } else { &peer });
            output::complain(&text);
            tape.comment(&text);
            return accepted.reset();
        }
    };
    tape.connected(&peer);
    let (mut from_peer, mut to_peer) = tokio::io::split(accepted);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let was_reset = {
        let mut up = Box::pin(pass_on(&mut from_peer, &mut to_server, &tape, &peer, true));
        let mut down = Box::pin(pass_on(&mut from_server, &mut to_peer, &tape, &peer, false));
        let (first, rest) = tokio::select! {
            ended = &mut up => (ended, &mut down),
            ended = &mut down => (ended, &mut up),
        };
        matches!(first, Ended::Reset) || matches!(rest.await, Ended::Reset)
    };
    if was_reset {
        from_peer.unsplit(to_peer).reset();
        from_server.unsplit(to_server).reset();
    }
}

/// Is between peers and the server until it is told to end.
async fn proxy(args: Rc<Record>, place: &Place, tape: Rc<Tape>, mut stop: Stop) -> Result<(), String> {
    let bound = Listener::bind(place).await;
    let (listener, address) = bound.map_err(|error| format!("cannot listen: {error}; use another --listen"))?;
    output::complain(&format!("listening on {address}"));
    let mut connections = JoinSet::new();
    let mut number = 0;
    let most = args.connections.map_or(u32::MAX, NonZeroU32::get);
    loop {
        tokio::select! {
            () = stop.told() => {
                tape.comment("the recording was stopped here");
                return Ok(());
            }
            () = tape.failed.notified() => return Ok(()),
            accepted = listener.accept(), if number < most => match accepted {
                Ok(accepted) => {
                    number += 1;
                    let peer = if most == 1 { String::new() } else { format!("peer{number}") };
                    connections.spawn_local(connection(accepted, Rc::clone(&args), Rc::clone(&tape), peer));
                }
                Err(error) => return Err(format!("cannot accept: {error}")),
            },
            Some(_) = connections.join_next() => {
                if number == most && connections.is_empty() {
                    return Ok(());
                }
            }
        }
    }
}

/// Lines of standard input, as they are typed, from a thread that the end of the process does not wait for.
fn typed(crlf: bool) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(64);
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            let mut line = Vec::new();
            match input.read_until(b'\n', &mut line) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
            if crlf && line.ends_with(b"\n") && !line.ends_with(b"\r\n") {
                line.insert(line.len() - 1, b'\r');
            }
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A session that is typed.
async fn session(args: &Record, tape: &Tape, mut stop: Stop) -> Result<(), String> {
    let server = args.connect.connect().await;
    let server = server.map_err(|error| format!("cannot connect: {error}; is --connect the server's address?"))?;
    tape.connected("");
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let mut shown: Box<dyn Write> = if args.output == "-" { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
    let mut lines = typed(args.crlf);
    let mut bytes = vec![0; READ];
    let mut has_fin = false;
    loop {
        tokio::select! {
            () = stop.told() => return Ok(()),
            () = tape.failed.notified() => return Ok(()),
            line = lines.recv(), if !has_fin => match line {
                Some(line) => {
                    tape.event("", Event::Sent(&line));
                    // Of a server that is gone the next read says how.
                    let _ = to_server.write_all(&line).await;
                }
                None => {
                    has_fin = true;
                    tape.event("", Event::Fin);
                    let _ = to_server.shutdown().await;
                }
            },
            read = from_server.read(&mut bytes) => match read {
                Ok(0) => {
                    tape.event("", Event::Eof);
                    return Ok(());
                }
                Ok(count) => {
                    tape.event("", Event::Received(&bytes[..count]));
                    let _ = shown.write_all(&bytes[..count]).and_then(|()| shown.flush());
                }
                Err(_) => {
                    tape.event("", Event::ResetByPeer);
                    return Ok(());
                }
            },
        }
    }
}

/// Signals that end a recording.
struct Stop(Signal, Signal);

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    }

    async fn told(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

pub(crate) fn record(args: Record) -> u8 {
    match recorded(args) {
        Ok(said) => {
            output::complain(&said);
            HOLDS
        }
        Err(reason) => {
            output::complain(&reason);
            WRONG
        }
    }
}

fn recorded(args: Record) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    let (args, tape) = LocalSet::new().block_on(&runtime, async {
        let stop = Stop::new().map_err(|error| format!("cannot handle signals: {error}"))?;
        let tape = Tape::new(&args).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => format!("{} is there already: remove it, or name another", args.output),
            _ => format!("cannot write {}: {error}", args.output),
        })?;
        let (args, tape) = (Rc::new(args), Rc::new(tape));
        let outcome = match &args.listen {
            Some(place) => proxy(Rc::clone(&args), place, Rc::clone(&tape), stop).await,
            None => session(&args, &tape, stop).await,
        };
        if outcome.is_err() && tape.connections.get() == 0 && args.output != "-" {
            // There is nothing in it.
            let _ = fs::remove_file(&args.output);
        }
        outcome.map(|()| (args, tape))
    })?;
    // Connections that are left end with their tasks.
    drop(runtime);
    let tape = Rc::into_inner(tape).ok_or("a connection outlived its recording")?;
    let unwritten = |error: io::Error| format!("{} is not whole: {error}", args.output);
    if let Some(error) = tape.error.into_inner() {
        return Err(unwritten(error));
    }
    tape.writer.into_inner().finish().map_err(unwritten)?;
    let connections = tape.connections.get();
    let several = if connections == 1 { "" } else { "s" };
    Ok(format!("recorded {connections} connection{several} in {}", args.output))
}
