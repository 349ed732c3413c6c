//! Redis: a store that nodes on several machines share, by the protocol of Redis 7 and Valkey. Feature `redis`.
//!
//! Each call is one command: a script of Lua where it is more than one step. Calls share a connection, which is made when the first
//! one needs it and anew when it is lost; a subscription has a connection of its own.
//! Not here: the connection (`redis/link`, `redis/connection`), scripts (`redis/scripts`), answers (`redis/answer`).

mod answer;
mod connection;
mod link;
mod scripts;
mod subscription;
#[cfg(test)]
mod tests;
mod url;

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::mpsc, time::Instant};

pub use self::url::RedisConfigError;
use self::{
    connection::{Dialer, Passwords},
    link::{Arguments, Link},
    subscription::Subscribed,
    url::{Place, Secret, Target},
};
use crate::cluster::{
    id::NodeId,
    store::{
        Begin, Change, Cursor, Held, Message, NamedRows, NodeRecord, Row, RowPage, Share, Store, StoreAnswer,
        StoreError, Subscription, Verdict, Want,
    },
};
#[cfg(feature = "tls")]
use crate::wire::tls::client::TlsClient;

/// Most rows that one script writes: others wait for it no longer than a few milliseconds.
const ROWS_A_CALL: usize = 500;
/// Most shares that one script writes, for the same reason. Lua takes not many more words at once.
const SHARES_A_CALL: usize = 2000;
/// Rows that one call reads, some more or less.
const ROWS_A_PAGE: usize = 500;

/// A store on a server that speaks the protocol of Redis: Redis 7.0, Valkey 7.2, or later. A clone shares the connection.
///
/// Make one for each node: the thread that calls first runs the connections of all clones. Nodes of one process that share it would
/// wait for that thread, and lose their store for a moment when it ends.
///
/// ```
/// use actix_lines::cluster::redis::Redis;
///
/// let store = Redis::at("redis://store.example.org:6379").prefix("chat:").build()?;
/// # let _ = store;
/// # Ok::<(), actix_lines::cluster::redis::RedisConfigError>(())
/// ```
///
/// Nothing connects before the first call; that comes from a tokio runtime, which then runs the connection. The server may be one of
/// several with Sentinel; after a failover calls go to the new master. A Redis Cluster will not do: all keys have to be on one
/// server.
#[derive(Clone)]
pub struct Redis {
    link: Arc<Link>,
    keys: Keys,
}

/// How keys and channels begin.
#[derive(Clone)]
struct Keys {
    /// The prefix in braces, so that all keys were in one slot.
    prefix: Arc<str>,
    leases: Arc<str>,
    /// A server has the same channels in all of its databases: those of another one than 0 are named.
    channels: Arc<str>,
}

impl Keys {
    fn new(prefix: &str, database: u32) -> Self {
        let channels = if database == 0 { format!("{{{prefix}}}") } else { format!("{{{prefix}}}{database}:") };
        Self {
            prefix: format!("{{{prefix}}}").into(),
            leases: format!("{{{prefix}}}leases").into(),
            channels: channels.into(),
        }
    }
}

impl Redis {
    /// Starts from the URL of the server:
    ///
    /// | URL | server |
    /// |---|---|
    /// | `redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]` | one, by TCP |
    /// | `rediss://…` | one, by TLS; needs the feature `tls` |
    /// | `unix:///PATH[?db=DATABASE&user=USER&pass=PASSWORD]` | one, by a unix socket |
    /// | `redis-sentinel://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]…]/MASTER[/DATABASE]` | the master of this name, found by the Sentinels at these hosts |
    /// | `rediss-sentinel://…` | the same, by TLS to Sentinels and to servers |
    ///
    /// `valkey` may stand for `redis`. Bytes that mean something in a URL are written as `%XX`.
    pub fn at(url: impl Into<String>) -> RedisBuilder {
        RedisBuilder {
            url: Secret::new(&url.into()),
            prefix: "lines:".to_owned(),
            username: None,
            password: None,
            sentinel: (None, None),
            #[cfg(feature = "tls")]
            tls: None,
            timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
        }
    }

    /// Sets the password of the server for the connections that are made from now on, such as after the server was given
    /// another: a server asks for it only when a connection begins, so those that are there go on. A line's end behind it is not part of it.
    /// It holds for all clones of this store. Returns true if the password was another.
    ///
    /// Give a server both passwords for as long as nodes have the former one, or a node that is disconnected meanwhile waits for the new one:
    /// `ACL SETUSER USER >NEW`, then this on each node, then `ACL SETUSER USER <OLD`.
    pub fn set_password(&self, password: impl Into<String>) -> bool {
        let password = secret(&password.into());
        self.link.change_password(|dialer| dialer.set_password(password))
    }

    /// The same for the password of Sentinels.
    pub fn set_sentinel_password(&self, password: impl Into<String>) -> bool {
        let password = secret(&password.into());
        self.link.change_password(|dialer| dialer.set_sentinel_password(password))
    }

    fn arguments(&self, node: &NodeId) -> Arguments {
        let mut arguments = Arguments::default();
        arguments.push(&*self.keys.prefix).number(node);
        arguments
    }

    async fn run(&self, program: &scripts::Program, arguments: &Arguments) -> Result<::redis::Value, StoreError> {
        self.link.run(program, self.keys.leases.as_bytes(), arguments).await
    }

    async fn register_part(
        &self,
        node: &NodeId,
        lease: Duration,
        begins: Option<(&Begin, &Staged<'_>)>,
        put: &[Row],
        remove: &[u64],
        is_partial: Option<bool>,
    ) -> Result<(), StoreError> {
        let mut arguments = self.arguments(node);
        arguments.number(lease.as_millis());
        arguments.push(if begins.is_some() { "1" } else { "0" });
        arguments.push(begins.map_or("", |(begin, _)| &begin.about));
        arguments.push(is_partial.map_or("", |is_partial| if is_partial { "1" } else { "0" }));
        arguments.push(begins.map_or("", |(_, staged)| &staged.key));
        arguments.number(begins.map_or(0, |(_, staged)| staged.there));
        push_shares(&mut arguments, begins.map_or(&[], |(_, staged)| staged.rest));
        arguments.number(put.len());
        for row in put {
            let json = serde_json::to_vec(row).map_err(|error| StoreError::Garbled { what: error.to_string() })?;
            let name = row.name.as_ref().map(|name| format!("={name}")).unwrap_or_default();
            arguments.number(row.session).push(name).push(json);
        }
        arguments.number(remove.len());
        for session in remove {
            arguments.number(session);
        }
        answer::registered(self.run(&scripts::REGISTER, &arguments).await?)
    }

    /// Writes many shares in pieces where no sum looks, all but the last ones: the call that begins the life makes all of them count
    /// at once. One after the other, not for longer than a lease.
    async fn stage<'a>(&self, node: &NodeId, lease: Duration, shares: &'a [Share]) -> Result<Staged<'a>, StoreError> {
        let mut pieces = shares.chunks(SHARES_A_CALL);
        let mut staged = Staged { rest: pieces.next_back().unwrap_or(&[]), ..Staged::default() };
        if pieces.len() == 0 {
            return Ok(staged);
        }
        staged.key = format!("begins:{node}:{:016x}", fastrand::u64(..));
        let begun = Instant::now();
        for piece in pieces {
            let mut arguments = Arguments::default();
            arguments.push(&*self.keys.prefix).push(staged.key.as_str()).number(staged.there).number(lease.as_millis());
            for Share { resource, count } in piece {
                arguments.push(resource.as_str()).number(count);
            }
            staged.there = answer::staged(self.run(&scripts::STAGE, &arguments).await?)?;
            // The lease counts from here, for whoever asks for it.
            if begun.elapsed() >= lease {
                return Err(StoreError::Slow { after: lease });
            }
        }
        Ok(staged)
    }
}

/// Shares of a life that is about to begin.
#[derive(Default)]
struct Staged<'a> {
    /// The key of those that the store has, without the prefix; empty if it has none.
    key: String,
    /// Number of them.
    there: u64,
    /// Those that it is yet to be told.
    rest: &'a [Share],
}

fn push_shares(arguments: &mut Arguments, shares: &[Share]) {
    arguments.number(shares.len());
    for Share { resource, count } in shares {
        arguments.push(resource.as_str()).number(count);
    }
}

impl Store for Redis {
    /// Writes more than 500 rows in parts, the first of which begins the life or renews the lease: if one fails, those before it
    /// were done. A life that begins is partial until the last one. More than 2000 shares are written in parts before that, and count
    /// all at once when the life begins.
    fn register<'a>(&'a self, node: &'a NodeId, change: &'a Change) -> StoreAnswer<'a, ()> {
        Box::pin(async move {
            let staged = match &change.begins {
                Some(begin) => self.stage(node, change.lease, &begin.shares).await?,
                None => Staged::default(),
            };
            let mut begins = change.begins.as_ref().map(|begin| (begin, &staged));
            let mut put = change.put.chunks(ROWS_A_CALL);
            let mut remove = change.remove.chunks(ROWS_A_CALL);
            let is_begun = begins.is_some();
            let mut is_first = true;
            loop {
                let some = put.next().unwrap_or(&[]);
                // What is put goes before what is removed.
                let gone = if put.len() == 0 { remove.next().unwrap_or(&[]) } else { &[] };
                let is_last = put.len() == 0 && remove.len() == 0;
                let is_partial = match (is_first, is_last) {
                    (_, true) => change.is_partial.or((is_begun && !is_first).then_some(false)),
                    (true, false) if is_begun => Some(true),
                    (true, false) => change.is_partial.filter(|is_partial| *is_partial),
                    (false, false) => None,
                };
                self.register_part(node, change.lease, begins.take(), some, gone, is_partial).await?;
                is_first = false;
                if is_last {
                    return Ok(());
                }
            }
        })
    }

    fn unregister<'a>(&'a self, node: &'a NodeId) -> StoreAnswer<'a, ()> {
        Box::pin(async move { answer::integer(self.run(&scripts::UNREGISTER, &self.arguments(node)).await?).map(drop) })
    }

    fn nodes(&self) -> StoreAnswer<'_, Vec<NodeRecord>> {
        Box::pin(async move {
            let mut arguments = Arguments::default();
            arguments.push(&*self.keys.prefix);
            answer::nodes(self.run(&scripts::NODES, &arguments).await?, &self.link.unknown)
        })
    }

    fn list<'a>(&'a self, node: &'a NodeId, after: Option<Cursor>) -> StoreAnswer<'a, RowPage> {
        Box::pin(async move {
            let mut arguments = self.arguments(node);
            arguments.number(after.map_or(0, |Cursor(place)| place)).number(ROWS_A_PAGE);
            answer::page(self.run(&scripts::LIST, &arguments).await?, &self.link.unknown)
        })
    }

    fn lookup<'a>(&'a self, name: &'a str) -> StoreAnswer<'a, NamedRows> {
        Box::pin(async move {
            let mut arguments = Arguments::default();
            arguments.push(&*self.keys.prefix).push(name);
            let mut found = answer::found(self.run(&scripts::LOOKUP, &arguments).await?, &self.link.unknown)?;
            found.rows.sort_unstable_by(|(a, row), (b, other)| (a, row.session).cmp(&(b, other.session)));
            Ok(found)
        })
    }

    fn publish<'a>(&'a self, channel: &'a str, bytes: Bytes) -> StoreAnswer<'a, u64> {
        Box::pin(async move {
            let mut command = ::redis::cmd("PUBLISH");
            command.arg(format!("{}{channel}", self.keys.channels)).arg(&bytes[..]);
            let receivers = answer::integer(self.link.ask(&command).await?)?;
            Ok(u64::try_from(receivers).unwrap_or(0))
        })
    }

    fn subscribe(&self, to: mpsc::Sender<Message>) -> StoreAnswer<'_, Box<dyn Subscription>> {
        Box::pin(async move {
            let subscribed = Subscribed::open(self.link.clone(), self.keys.channels.to_string(), to).await?;
            Ok(Box::new(subscribed) as Box<dyn Subscription>)
        })
    }

    fn acquire<'a>(&'a self, node: &'a NodeId, held: &'a Held, wants: &'a [Want]) -> StoreAnswer<'a, Vec<Verdict>> {
        Box::pin(async move {
            let mut arguments = self.arguments(node);
            arguments.number(held.serial);
            push_shares(&mut arguments, &held.counts);
            arguments.number(wants.len());
            for Want { counts, rates } in wants {
                arguments.number(counts.len());
                for limit in counts {
                    arguments.push(limit.resource.as_str()).number(limit.most);
                }
                arguments.number(rates.len());
                for limit in rates {
                    arguments.push(limit.resource.as_str()).number(limit.per_second.max(1)).number(limit.burst);
                }
            }
            let answer = self.run(&scripts::ACQUIRE, &arguments).await?;
            answer::verdicts(answer, wants.len(), &self.link.unknown)
        })
    }

    fn unknown(&self) -> u64 {
        self.link.unknown.get()
    }
}

/// Shows where the server is, and no password.
impl fmt::Display for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.link.dialer.place.fmt(f)
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("at", &self.to_string())
            .field("prefix", &self.keys.prefix)
            .finish_non_exhaustive()
    }
}

/// Builds a [`Redis`].
#[derive(Clone, Debug)]
#[must_use = "nothing is checked before build()"]
pub struct RedisBuilder {
    /// It may have a password.
    url: Secret,
    prefix: String,
    username: Option<String>,
    password: Option<Secret>,
    sentinel: (Option<String>, Option<Secret>),
    #[cfg(feature = "tls")]
    tls: Option<TlsClient>,
    timeout: Duration,
    connect_timeout: Duration,
}

impl RedisBuilder {
    /// Sets the prefix, in braces, of all keys and channels. Clusters with different prefixes, or in different databases, share a
    /// store and nothing else.
    /// Default: `lines:`.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`RedisConfigError::Prefix`] if it is empty, longer than 128 bytes, or has
    /// characters that do not print, braces, or one of `*?[\`, which would widen the patterns of an ACL.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets the user, in place of the one in the URL. Default: the one in the URL, or the server's `default`.
    pub fn username(mut self, name: impl Into<String>) -> Self {
        self.username = Some(name.into());
        self
    }

    /// Sets the password, in place of the one in the URL. Line ends behind it are left out, so that it may be the content of a file.
    /// It is in no error, no log and no `Debug`. Default: the one in the URL, or none.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(secret(&password.into()));
        self
    }

    /// Sets the user and the password for Sentinels; those for the server do not count there. Line ends behind the password are
    /// left out. Default: none.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`RedisConfigError::SentinelNotAsked`] if the URL names no Sentinels.
    pub fn sentinel_password(mut self, username: Option<&str>, password: impl Into<String>) -> Self {
        self.sentinel = (username.map(str::to_owned), Some(secret(&password.into())));
        self
    }

    /// Sets the authorities that TLS trusts, and the certificate that is shown to a server that asks for one. Needs the feature
    /// `tls`. Default: the authorities that this machine trusts, and no certificate.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`RedisConfigError::TlsNotAsked`] or [`RedisConfigError::TlsOverUnix`] if the URL asks for no
    /// TLS.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: &TlsClient) -> Self {
        self.tls = Some(tls.clone());
        self
    }

    /// Sets the longest time of a call, the wait for a connection included. Default: 1 s.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`RedisConfigError::Time`] for 0.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = time;
        self
    }

    /// Sets the longest time to connect, which includes look-ups of names, Sentinels, TLS and log-in. Default: 1 s.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`RedisConfigError::Time`] for 0.
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.connect_timeout = time;
        self
    }

    /// Checks everything, and connects nowhere.
    ///
    /// # Errors
    /// Returns a [`RedisConfigError`] that names the part of the URL or the setting.
    pub fn build(self) -> Result<Redis, RedisConfigError> {
        let mut place = Place::parse(self.url.as_str())?;
        place.username = self.username.or(place.username);
        // Braces say which part of a key chooses its slot; the others are wildcards in the patterns of an ACL.
        let is_fit = |byte: u8| byte.is_ascii_graphic() && !b"{}*?[\\".contains(&byte);
        if !(1..=128).contains(&self.prefix.len()) || !self.prefix.bytes().all(is_fit) {
            return Err(RedisConfigError::Prefix { prefix: self.prefix.chars().take(80).collect() });
        }
        for (what, time) in [("timeout", self.timeout), ("connect timeout", self.connect_timeout)] {
            if time.is_zero() {
                return Err(RedisConfigError::Time { what });
            }
        }
        if self.sentinel.1.is_some() && !matches!(place.target, Target::Sentinel { .. }) {
            return Err(RedisConfigError::SentinelNotAsked);
        }
        #[cfg(feature = "tls")]
        let tls = tls_of(&place, self.tls)?;
        #[cfg(not(feature = "tls"))]
        if place.is_tls {
            return Err(RedisConfigError::TlsNotBuilt);
        }
        let password = self.password.or(place.password.take());
        let (sentinel_user, sentinel_password) = self.sentinel;
        let keys = Keys::new(&self.prefix, place.database);
        let dialer = Dialer {
            place,
            sentinel_user,
            passwords: Passwords::new(password, sentinel_password).into(),
            #[cfg(feature = "tls")]
            tls,
            within: self.connect_timeout,
        };
        Ok(Redis { link: Arc::new(Link::new(dialer, self.timeout)), keys })
    }
}

fn secret(text: &str) -> Secret {
    Secret::new(text.trim_end_matches(['\r', '\n']))
}

/// Where systems keep the authorities that they trust, in one file.
#[cfg(feature = "tls")]
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

#[cfg(feature = "tls")]
fn tls_of(place: &Place, given: Option<TlsClient>) -> Result<Option<TlsClient>, RedisConfigError> {
    match (place.is_tls, given) {
        (false, None) => Ok(None),
        (false, Some(_)) if matches!(place.target, Target::Unix(_)) => Err(RedisConfigError::TlsOverUnix),
        (false, Some(_)) => Err(RedisConfigError::TlsNotAsked),
        (true, Some(tls)) => Ok(Some(tls)),
        (true, None) => {
            let bundle = BUNDLES.into_iter().find(|file| std::path::Path::new(file).is_file());
            let bundle = bundle.ok_or(RedisConfigError::TlsWithoutAuthorities)?;
            let tls = TlsClient::builder(bundle).build();
            tls.map(Some).map_err(|error| RedisConfigError::Tls { reason: error.to_string() })
        }
    }
}
