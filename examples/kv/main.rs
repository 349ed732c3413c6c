//! A cache that speaks memcached's text protocol: lines, with payloads between them.
//!
//! ```sh
//! cargo run --release --example kv                # --listen ADDRESS --workers N --memory SIZE
//! printf 'set a 0 0 5\r\nhello\r\nget a\r\n' | nc -N 127.0.0.1 11211
//! ```
//! Any memcached client that speaks the text protocol will do. What it shows: the value of a `set` is a payload inside the
//! line protocol, `ctx.payload(n)`, so it may hold any bytes, CR LF included; small answers are copied to the outbox, long ones
//! shared; the sessions of all workers share a store.
//!
//! All of memcached's `doc/protocol.txt` that is about storage, retrieval and times is here, as memcached 1.6.18 does it, which is
//! what `version` says. Different, on purpose:
//! - keys with control characters are refused, as the text says; memcached takes them. Numbers are what their type holds;
//!   memcached takes some that are too large, modulo 2^32, and white space around them;
//! - the data block of a storage command is never taken for commands when its length can be read, though the command is refused,
//!   as with memcached from 1.6.38 on; a length above 2 GiB is too large, not malformed;
//! - a line longer than 64 KiB is answered with an error before the connection is closed; memcached closes at 2 KiB
//!   without a word, but has no limit for `get`;
//! - a `gat` with a key that is too long touches nothing; memcached touches those before it;
//! - a value may have 1 MiB; with memcached some bytes of that are for the key and the rest of an item;
//! - no meta commands, `stats` without arguments, and nothing that is about memcached's own insides (slabs, lru, watch …).
//!
//! What a session has under way is bounded. Its outbox holds 64 KiB and a value at most: a `get` of more goes on when that is
//! sent. All outboxes together may hold as much as `--memory` is for items; then the session that holds the most is cut. All
//! values that are coming may take as much again; then a storage command is refused.
//!
//! Here: the session. Not here: what a line means (`protocol`); what is kept, for how long, and behind which locks (`store`).

mod protocol;
pub(crate) mod store;

use std::{
    error::Error,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use actix::ActorFuture;
use actix_lines::{limits::Watermarks, prelude::*};
use clap::Parser;

use self::{
    protocol::{Command, Mode, Refusal, Request, Words},
    store::{ArithmeticError, MIN_MEMORY, Outcome, Received, Store},
};

/// As in `rot13d`: glibc's allocator wastes some 190 bytes on each session's task.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The longest command line: a `get` of some 260 of the longest keys. Unit: bytes.
const MAX_LINE: usize = 64 * 1024;

/// A value up to this long is copied to the outbox: to send it from where it is would take a system call of its own.
/// Unit: bytes.
const COPY_BYTES: usize = 16 * 1024;

/// With more than `high` to be sent a `get` waits until it is `low`: it asks for little and gets much, perhaps values that
/// nobody else has any more.
const OUTBOX: Watermarks = Watermarks { low: 16 * 1024, high: 64 * 1024 };

/// The longest that a `get` may wait for its peer to read. One that reads nothing is cut long before.
const LONGEST_GET: Duration = Duration::from_secs(24 * 3600);

/// What clients are told: the memcached that this does as. Some take a number that begins with 0 for an error.
const VERSION: &[u8] = b"VERSION 1.6.18-kv\r\n";

/// How often the store's clock is set. It counts seconds.
const TICK: Duration = Duration::from_millis(250);

#[derive(Parser)]
#[command(about = "A cache that speaks memcached's text protocol", version)]
struct Args {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:11211")]
    listen: SocketAddr,
    /// Worker threads [default: one for each core]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Most memory for items; those not used for the longest time make room for others
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = memory)]
    memory: u64,
}

fn memory(text: &str) -> Result<u64, String> {
    let bytes = parse_size::parse_size(text).map_err(|error| format!("{error}; try 64MiB"))?;
    if bytes < MIN_MEMORY {
        return Err(format!("it takes at least {}MiB", MIN_MEMORY >> 20));
    }
    Ok(bytes)
}

pub(crate) struct Session {
    store: Arc<Store>,
    /// What the data block that is coming belongs to. `None` if nobody wants it.
    upload: Option<Box<Upload>>,
}

/// A storage command whose data block has not come yet.
struct Upload {
    mode: Mode,
    key: Box<[u8]>,
    flags: u32,
    expires: u64,
    noreply: bool,
    /// What has come of the block. It grows with what comes: what is promised costs the peer nothing.
    received: Received,
}

impl Actor for Session {
    type Context = LineContext<Self>;
}

impl LineHandler for Session {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        let Request { command, block, noreply } = protocol::parse(line.text());
        if let Some(bytes) = block {
            ctx.payload(bytes);
        }
        let answer: &[u8] = match command {
            Err(refusal) => {
                if refusal == Refusal::Http {
                    ctx.stop();
                }
                refusal.text()
            }
            Ok(Command::Get { keys, with_unique, exptime }) => {
                let expires = exptime.map(|exptime| self.store.expiry(exptime));
                return Get { with_unique, expires }.start(self, keys, ctx);
            }
            Ok(Command::Store { mode, key, flags, exptime }) => {
                let (key, expires) = (key.into(), self.store.expiry(exptime));
                let upload = Upload { mode, key, flags, expires, noreply, received: Received::new(&self.store) };
                self.upload = Some(Box::new(upload));
                return;
            }
            Ok(Command::TooLarge(replaced)) => {
                if let Some(key) = replaced {
                    self.store.delete(key);
                }
                b"SERVER_ERROR object too large for cache\r\n"
            }
            Ok(Command::Delete(key)) if self.store.delete(key) => b"DELETED\r\n",
            Ok(Command::Touch { key, exptime }) if self.store.touch(key, self.store.expiry(exptime)) => b"TOUCHED\r\n",
            Ok(Command::Delete(_) | Command::Touch { .. }) => b"NOT_FOUND\r\n",
            Ok(Command::Arithmetic { key, delta }) => match self.store.arithmetic(key, delta) {
                Ok(number) => &[itoa::Buffer::new().format(number).as_bytes(), b"\r\n"].concat(),
                Err(ArithmeticError::NotFound) => b"NOT_FOUND\r\n",
                Err(ArithmeticError::NonNumeric) => b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
            },
            Ok(Command::FlushAll { delay }) => {
                self.store.flush_at(if delay > 0 { self.store.expiry(delay) } else { 0 });
                b"OK\r\n"
            }
            Ok(Command::Verbosity) => b"OK\r\n",
            Ok(Command::Version) => VERSION,
            Ok(Command::Stats) => return self.stats(ctx),
            Ok(Command::Quit) => return ctx.stop(),
        };
        if !noreply {
            ctx.write(answer);
        }
    }

    fn payload(&mut self, chunk: Payload<'_>, ctx: &mut Self::Context) {
        let Some(upload) = &mut self.upload else { return };
        if !chunk.is_last() {
            if !upload.received.extend(&chunk) {
                self.refuse(ctx);
            }
            return;
        }
        let Some(upload) = self.upload.take() else { return };
        let Upload { mode, key, flags, expires, noreply, received } = *upload;
        let block = received.finish(&chunk);
        let answer: &[u8] = if block.ends_with(b"\r\n") {
            match self.store.store(mode, key, flags, expires, block) {
                Outcome::Stored => b"STORED\r\n",
                Outcome::NotStored => b"NOT_STORED\r\n",
                Outcome::Exists => b"EXISTS\r\n",
                Outcome::NotFound => b"NOT_FOUND\r\n",
            }
        } else {
            // As many bytes as were announced are gone: what follows is taken for a command.
            b"CLIENT_ERROR bad data chunk\r\n"
        };
        if !noreply {
            ctx.write(answer);
        }
    }

    /// What has no end may have had more in it: half of a `delete` is no command.
    fn tail(&mut self, _tail: Line<'_>, _ctx: &mut Self::Context) {}

    fn overlong(&mut self, ctx: &mut Self::Context) {
        ctx.write(b"CLIENT_ERROR line too long\r\n");
    }
}

/// A `get`, `gets`, `gat` or `gats`.
struct Get {
    with_unique: bool,
    expires: Option<u64>,
}

impl Get {
    fn start(self, session: &Session, mut keys: Words<'_>, ctx: &mut LineContext<Session>) {
        if !self.answer(session, &mut keys, ctx) {
            ctx.wait(Rest { get: self, keys: keys.text().to_vec(), at: 0 });
        }
    }

    /// Writes values until there are enough to be sent; true when that is all.
    fn answer(&self, session: &Session, keys: &mut Words<'_>, ctx: &mut LineContext<Session>) -> bool {
        let mut number = itoa::Buffer::new();
        loop {
            let rest = keys.clone();
            let Some(key) = keys.next() else {
                ctx.write(b"END\r\n");
                return true;
            };
            if ctx.outbox_len() > OUTBOX.high {
                *keys = rest;
                return false;
            }
            session.store.get(key, self.expires, |item| {
                ctx.write(b"VALUE ");
                ctx.write(key);
                ctx.write(b" ");
                ctx.write(number.format(item.flags));
                ctx.write(b" ");
                ctx.write(number.format(store::data(&item.block).len()));
                if self.with_unique {
                    ctx.write(b" ");
                    ctx.write(number.format(item.unique));
                }
                ctx.write(b"\r\n");
                if item.block.len() <= COPY_BYTES {
                    ctx.write(&item.block);
                } else {
                    ctx.write_bytes(item.block.clone());
                }
            });
        }
    }
}

/// What a [`Get`] has yet to answer. It is polled again when the outbox has fallen to its low watermark.
struct Rest {
    get: Get,
    keys: Vec<u8>,
    at: usize,
}

impl ActorFuture<Session> for Rest {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        session: &mut Session,
        ctx: &mut LineContext<Session>,
        _: &mut task::Context<'_>,
    ) -> Poll<()> {
        let mut keys = Words::new(&self.keys[self.at..]);
        let is_done = self.get.answer(session, &mut keys, ctx);
        self.at = self.keys.len() - keys.text().len();
        if is_done { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Session {
    pub(crate) fn new(store: &Arc<Store>) -> Self {
        Self { store: Arc::clone(store), upload: None }
    }

    /// Drops what has come of a value. What follows is swallowed.
    fn refuse(&mut self, ctx: &mut LineContext<Self>) {
        let Some(upload) = self.upload.take() else { return };
        if upload.mode == Mode::Set {
            self.store.delete(&upload.key);
        }
        if !upload.noreply {
            ctx.write(b"SERVER_ERROR out of memory storing object\r\n");
        }
    }

    fn stats(&self, ctx: &mut LineContext<Self>) {
        let counts = self.store.counts();
        for (name, value) in [
            ("pid", u64::from(std::process::id())),
            ("time", self.store.now()),
            ("curr_items", counts.items),
            ("bytes", counts.bytes),
            ("limit_maxbytes", self.store.max_bytes()),
            ("cmd_set", counts.stored),
            ("get_hits", counts.hits),
            ("get_misses", counts.misses),
            ("evictions", counts.evicted),
            ("expired_unfetched", counts.expired),
        ] {
            write!(ctx, "STAT {name} {value}\r\n");
        }
        ctx.write(b"END\r\n");
    }
}

#[actix::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    // The date of the start and a clock that is never set: a corrected date expires nothing.
    let (date, start) = (SystemTime::now().duration_since(UNIX_EPOCH)?, Instant::now());
    let now = move || (date + start.elapsed()).as_secs();
    let store = Arc::new(Store::new(args.memory, now()));
    let ticked = Arc::clone(&store);
    actix_rt::spawn(async move {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            ticks.tick().await;
            ticked.tick(now());
        }
    });

    // Connections to a cache are kept for as long as their client lives.
    let limits = Limits::builder()
        .idle_timeout(None)
        .outbox(OUTBOX)
        .wait_timeout(LONGEST_GET)
        .memory_budget(usize::try_from(args.memory).ok())
        .build()?;
    let framing = Framing::lf().max_line(MAX_LINE)?.overlong(Overlong::Close);
    let mut server =
        LineServer::new(move |_connection| Session::new(&store)).framing(framing).limits(limits).bind(args.listen)?;
    if let Some(workers) = args.workers {
        server = server.workers(workers);
    }
    eprintln!("listening on {}", server.local_addrs()[0]);
    Ok(server.run().await?)
}
