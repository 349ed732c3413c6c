//! A chat: whoever has said his name hears the others. `/who` lists names, `/quit` leaves.
//!
//! `cargo run --release --example chat`, then `telnet 127.0.0.1 40717` from several terminals.
//!
//! Over several processes, on one machine or on many, which share a Redis: each with `--cluster redis://127.0.0.1`, and here
//! with `--listen 127.0.0.1:40727` and so on. A name is there once on all of them together.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use actix_lines::{
    cluster::{Claim, ClaimError, Cluster, ClusterPage, ClusterQuery, redis::Redis},
    prelude::*,
};
use clap::Parser;

/// A chat: whoever has said his name hears the others. `/who` lists names, `/quit` leaves.
#[derive(Parser)]
struct Args {
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:40717")]
    listen: String,
    /// The store of a chat over several nodes, as redis://127.0.0.1.
    #[arg(long, value_name = "URL")]
    cluster: Option<String>,
    /// The name of this node among them. By default one of its process's number, which containers have in common: name it there.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

/// The longest line that is passed on. Unit: bytes. A longer one is refused as a whole: to cut it could cut a letter.
const MAX_TEXT: usize = 1000;

const TAKEN: &str = "That name is taken. Your name?\r\n";

/// What all sessions share.
#[derive(Clone)]
pub(crate) struct Lobby {
    room: Room,
    /// The other nodes, if there may be any.
    cluster: Option<Cluster>,
    /// By what they are in lower case: `Ann` is taken when `ann` is.
    names: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Default for Lobby {
    fn default() -> Self {
        Self { room: Room::named("lobby"), cluster: None, names: Arc::default() }
    }
}

impl Lobby {
    fn names(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, name: &str, claim: Option<Claim>) -> Option<Taken> {
        match self.names().entry(name.to_lowercase()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(free) => {
                free.insert(name.to_owned());
                Some(Taken { name: name.to_owned(), lobby: self.clone(), _claim: claim })
            }
        }
    }
}

/// A name that is taken until this is dropped, which happens in any case, after a panic as well: then the others hear of it.
struct Taken {
    name: String,
    lobby: Lobby,
    /// That no other node has it.
    _claim: Option<Claim>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.lobby.names().remove(&self.name.to_lowercase());
        self.lobby.room.say(format!("* {} has left\r\n", self.name));
    }
}

pub(crate) struct Chatter {
    lobby: Lobby,
    name: Option<Taken>,
}

impl Actor for Chatter {
    type Context = LineContext<Self>;
}

/// What a line may do to the terminals of others: nothing. What controls them or turns the direction of writing becomes a
/// space, bytes that are no UTF-8 become U+FFFD.
fn printable(text: &[u8]) -> String {
    let shown = |letter: char| match letter {
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => ' ',
        letter if letter.is_control() => ' ',
        letter => letter,
    };
    String::from_utf8_lossy(text).chars().map(shown).collect()
}

impl Chatter {
    pub(crate) fn new(lobby: Lobby) -> Self {
        Self { lobby, name: None }
    }

    fn enter(&mut self, name: &str, ctx: &mut LineContext<Self>) {
        let is_name = (1..=20).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_name {
            return ctx.write("1 to 20 letters and digits, please. Your name?\r\n");
        }
        let Some(cluster) = self.lobby.cluster.clone() else { return self.welcome(name, None, ctx) };
        let (name, claimed) = (name.to_owned(), name.to_lowercase());
        ctx.wait_for(async move { cluster.claim(&claimed).await }, move |chatter, claim, ctx| match claim {
            Ok(claim) => chatter.welcome(&name, Some(claim), ctx),
            Err(ClaimError::Taken { .. }) => ctx.write(TAKEN),
            // Without the store a name is there once on each node.
            Err(_) => chatter.welcome(&name, None, ctx),
        });
    }

    fn welcome(&mut self, name: &str, claim: Option<Claim>, ctx: &mut LineContext<Self>) {
        self.name = self.lobby.take(name, claim);
        if self.name.is_none() {
            return ctx.write(TAKEN);
        }
        // For lists over nodes.
        if let Err(error) = ctx.set_name(name) {
            return writeln!(ctx, "{error}");
        }
        ctx.join(&self.lobby.room);
        write!(ctx, "Welcome, {name}. /who lists who is here, /quit leaves.\r\n");
        ctx.say(&self.lobby.room, format!("* {name} is here\r\n"));
    }

    fn who(&self, ctx: &mut LineContext<Self>) {
        let here = self.lobby.names().values().map(String::as_str).collect::<Vec<_>>().join(", ");
        let Some(cluster) = self.lobby.cluster.clone() else { return write!(ctx, "* {here}\r\n") };
        // No other line is handled meanwhile. Names come from the store, which learns of a new one within a moment.
        ctx.wait_for(async move { cluster.list(ClusterQuery::default()).await }, move |_, page, ctx| match page {
            Ok(page) => write!(ctx, "* {}\r\n", everywhere(&page)),
            Err(_) => write!(ctx, "* {here}, and nobody knows who is elsewhere\r\n"),
        });
    }
}

/// The names on a page of the sessions of all nodes, and whether there may be more. Printable ones: others may write into the store.
pub(crate) fn everywhere(page: &ClusterPage) -> String {
    let names = page.sessions.iter().filter_map(|session| session.name.as_deref());
    let names: BTreeSet<_> = names.map(|name| printable(name.as_bytes())).collect();
    let is_all = page.unread.is_empty() && page.total == page.sessions.len() as u64;
    names.into_iter().collect::<Vec<_>>().join(", ") + if is_all { "" } else { ", and perhaps others" }
}

impl LineHandler for Chatter {
    fn opened(&mut self, ctx: &mut Self::Context) {
        ctx.write("Your name?\r\n");
    }

    /// Who does not read for a while sees where something is missing.
    fn missed(&mut self, messages: u64, ctx: &mut Self::Context) {
        write!(ctx, "* {messages} messages missed\r\n");
    }

    fn overlong(&mut self, ctx: &mut Self::Context) {
        write!(ctx, "At most {MAX_TEXT} bytes a line, please.\r\n");
    }

    /// Earlier than the actor is dropped: its peer may take a while to close.
    fn ending(&mut self, reason: &CloseReason, ctx: &mut Self::Context) {
        ctx.leave(&self.lobby.room);
        self.name = None;
        if *reason == CloseReason::IdleTimeout {
            ctx.write("Nothing to say? Goodbye.\r\n");
        }
    }

    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        let text = printable(line.text());
        match (&self.name, text.trim()) {
            (None, name) => self.enter(name, ctx),
            (Some(_), "") => {}
            (Some(_), "/quit") => {
                ctx.write("Goodbye.\r\n");
                ctx.stop();
            }
            (Some(_), "/who") => self.who(ctx),
            (Some(Taken { name, .. }), text) => ctx.say(&self.lobby.room, format!("{name}: {text}\r\n")),
        }
    }
}

#[actix::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    // The library says where it listens, and when the store is lost and found.
    env_logger::init_from_env(env_logger::Env::default().default_filter_or("info"));
    let mut lobby = Lobby::default();
    if let Some(url) = args.cluster {
        let node = args.node.unwrap_or_else(|| format!("chat-{}", std::process::id()));
        let cluster = Cluster::builder(Redis::at(url).build()?).node(node).build()?;
        cluster.share(&lobby.room)?;
        lobby.cluster = Some(cluster);
    }
    let cluster = lobby.cluster.clone();
    let framing = Framing::lf().max_line(MAX_TEXT)?.overlong(Overlong::Discard);
    let mut server = LineServer::new(move |_connection| Chatter::new(lobby.clone())).framing(framing);
    if let Some(cluster) = &cluster {
        server = server.cluster(cluster)?;
    }
    Ok(server.bind(&*args.listen)?.run().await?)
}
