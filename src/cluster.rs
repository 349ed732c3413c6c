//! Cluster: the node that this process is, where `--cluster` asks for it.
//!
//! Rule: settings are checked before anything runs, and a store that is not there keeps nobody from starting: the node
//! joins later. SIGHUP changes the limits over nodes and the passwords of the store, and nothing else of it.
//! Not here: what a node does (`actix-lines`), the settings (`settings`).

use std::{io, path::Path};

#[cfg(feature = "console")]
use actix_lines::console::Console;
#[cfg(feature = "http")]
use actix_lines::http::Admin;
#[cfg(feature = "tls")]
use actix_lines::tls::{TlsClient, TlsError};
use actix_lines::{
    ConfigError, Connection, Escaped, LineHandler, LineServer,
    agent_check::AgentCheck,
    cluster::{
        Cluster, NodeName, OnPartition,
        redis::{Redis, RedisConfigError},
    },
    limits::Rate,
};

use crate::{
    secret,
    settings::{self, ClusterSettings, Invalid, Settings},
};

pub(crate) use actix_lines::cluster::FleetLimits;

/// The store, and the passwords in its files.
pub(crate) struct Store {
    redis: Redis,
    password: Option<String>,
    sentinel_password: Option<String>,
}

impl Store {
    /// Returns true if it has a password.
    pub(crate) fn has_passwords(&self) -> bool {
        self.password.is_some() || self.sentinel_password.is_some()
    }

    /// Takes over the passwords of another one, for connections from now on, but not those of these settings. Returns the settings whose
    /// passwords were others.
    pub(crate) fn take_passwords(&self, other: &Self, but: &[&str]) -> Vec<&'static str> {
        let is_other = |name: &str, password: &Option<String>, set: fn(&Redis, String) -> bool| {
            !but.contains(&name) && password.clone().is_some_and(|password| set(&self.redis, password))
        };
        let [name, of_sentinels] = ["cluster-password-file", "cluster-sentinel-password-file"];
        let mut changed = Vec::new();
        if is_other(name, &other.password, Redis::set_password) {
            changed.push(name);
        }
        if is_other(of_sentinels, &other.sentinel_password, Redis::set_sentinel_password) {
            changed.push(of_sentinels);
        }
        changed
    }
}

/// The node, if there is one.
#[derive(Clone, Debug)]
#[cfg_attr(not(any(feature = "console", feature = "http")), allow(dead_code, reason = "nobody asks for it there"))]
pub(crate) struct Node(Option<Cluster>);

/// Makes the store of its settings, and connects nowhere.
///
/// # Errors
/// Returns the setting that is wrong, and what to do.
pub(crate) fn store(wanted: &ClusterSettings<'_>) -> Result<Store, Invalid> {
    let mut store = Redis::at(wanted.url).prefix(wanted.prefix);
    let read = |name, file: Option<&Path>| file.map(password).transpose().map_err(|advice| Invalid { name, advice });
    let password = read("cluster-password-file", wanted.password_file)?;
    let sentinel_password = read("cluster-sentinel-password-file", wanted.sentinel_password_file)?;
    if let Some(user) = wanted.user {
        store = store.username(user);
    }
    if let Some(password) = &password {
        store = store.password(password);
    }
    if let Some(password) = &sentinel_password {
        store = store.sentinel_password(wanted.sentinel_user, password);
    }
    #[cfg(feature = "tls")]
    if let Some(file) = wanted.ca {
        let invalid = |name, error: TlsError| Invalid { name, advice: error.to_string() };
        let mut tls = TlsClient::builder(file).build().map_err(|error| invalid("cluster-ca", error))?;
        if let Some([certificate, key]) = wanted.pair {
            let with_pair = TlsClient::builder(file).certificate(certificate, key).build();
            tls = with_pair.map_err(|error| invalid(name_of(&error, key), error))?;
        }
        store = store.tls(&tls);
    }
    #[cfg(not(feature = "tls"))]
    if wanted.ca.is_some() || wanted.pair.is_some() {
        let advice = "this rot13d was built without TLS: build it with --features tls, or take it away";
        return Err(Invalid { name: "cluster-ca", advice: advice.to_owned() });
    }
    let redis = store.build().map_err(|error| {
        let name = match error {
            RedisConfigError::Prefix { .. } => "cluster-prefix",
            RedisConfigError::TlsNotAsked | RedisConfigError::TlsOverUnix | RedisConfigError::TlsWithoutAuthorities => {
                "cluster-ca"
            }
            _ => "cluster",
        };
        Invalid { name, advice: error.to_string() }
    })?;
    Ok(Store { redis, password, sentinel_password })
}

/// The setting of the file that is to blame.
#[cfg(feature = "tls")]
fn name_of(error: &TlsError, key: &Path) -> &'static str {
    match error {
        TlsError::NoKey { .. }
        | TlsError::EncryptedKey { .. }
        | TlsError::UnsupportedKey { .. }
        | TlsError::Mismatch { .. } => "cluster-key",
        TlsError::Read { file, .. } | TlsError::Malformed { file, .. } if Path::new(file) == key => "cluster-key",
        _ => "cluster-cert",
    }
}

/// Reads a password from its file. Blanks are part of it.
fn password(path: &Path) -> Result<String, String> {
    let text = secret::read(path, "password")?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => {
            let shown = Escaped::new(path.as_os_str().as_encoded_bytes());
            Err(format!("{shown} is empty: write a password into it"))
        }
        password => Ok(password.to_owned()),
    }
}

/// Makes a server, whose listeners are bound, the node.
pub(crate) fn join<A, F>(
    server: LineServer<A, F>,
    store: Option<&Store>,
    settings: &Settings,
) -> io::Result<(LineServer<A, F>, Node)>
where
    A: LineHandler,
    F: Fn(&Connection) -> A + Clone + Send + 'static,
{
    let (Some(Store { redis, .. }), Some(wanted)) = (store, settings.cluster_settings()) else {
        return Ok((server, Node(None)));
    };
    let port = server.local_addrs().first().map(|address| address.port());
    let name = wanted.node.map_or_else(|| default_name(&host(), port), str::to_owned);
    let call_timeout = Cluster::DEFAULT_CALL_TIMEOUT.min(wanted.lease / 3);
    let about = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));
    let cluster =
        Cluster::builder(redis.clone()).node(&name).about(about).lease(wanted.lease).call_timeout(call_timeout);
    let limits = limits(settings).map_err(io::Error::other)?.unwrap_or_default();
    let cluster = cluster.limits(limits).build()?;
    log::info!(node = name; "cluster: this is node {name}, by the store at {}", Escaped::new(wanted.url));
    Ok((server.cluster(&cluster)?, Node(Some(cluster))))
}

/// Returns the limits that hold for all nodes together, if this is a node.
///
/// # Errors
/// Returns a [`ConfigError`] for an invalid limit.
pub(crate) fn limits(settings: &Settings) -> Result<Option<FleetLimits>, ConfigError> {
    let Some(wanted) = settings.cluster_settings() else { return Ok(None) };
    let on_partition = match wanted.on_partition {
        settings::OnPartition::Open => OnPartition::Open,
        settings::OnPartition::Closed => OnPartition::Closed,
    };
    let mut limits = FleetLimits::builder()
        .accept_rate_per_source(wanted.accept_rate_per_source)
        .source_prefix(settings.source_prefix)
        .exempt(settings.exempt.iter().flatten().copied())
        .on_partition(on_partition);
    if let Some(sessions) = wanted.max_sessions {
        limits = limits.max_sessions(sessions);
    }
    if let Some(sessions) = wanted.max_sessions_per_source {
        limits = limits.max_sessions_per_source(sessions);
    }
    limits.build().map(Some)
}

/// The limits over nodes, each with its value as it is written.
fn written(wanted: &ClusterSettings<'_>) -> [(&'static str, String); 4] {
    let count = |count: Option<u64>| count.map_or_else(off, |count| count.to_string());
    let rate = |Rate { per_second, burst }| match burst == per_second {
        true => per_second.to_string(),
        false => format!("{per_second}/{burst}"),
    };
    let policy = match wanted.on_partition {
        settings::OnPartition::Open => "open",
        settings::OnPartition::Closed => "closed",
    };
    [
        ("cluster-max-sessions", count(wanted.max_sessions)),
        ("cluster-max-sessions-per-source", count(wanted.max_sessions_per_source)),
        ("cluster-accept-rate-per-source", wanted.accept_rate_per_source.map_or_else(off, rate)),
        ("cluster-on-partition", policy.to_owned()),
    ]
}

fn off() -> String {
    "off".to_owned()
}

impl Node {
    /// Returns true for the names of limits, which [`changes`](Self::changes) shows.
    pub(crate) fn knows_limit(name: &str) -> bool {
        name.starts_with("cluster-")
    }

    /// Returns each limit over nodes that differs, with its values. Without a node none of them does anything.
    pub(crate) fn changes(&self, before: &Settings, after: &Settings) -> Vec<String> {
        let (Some(_), Some(before), Some(after)) = (&self.0, before.cluster_settings(), after.cluster_settings())
        else {
            return Vec::new();
        };
        let each = written(&before).into_iter().zip(written(&after));
        let changed = each.filter(|((_, before), (_, after))| before != after);
        changed.map(|((name, before), (_, after))| format!("{name} {before} -> {after}")).collect()
    }

    /// Sets the limits over nodes, for connections from now on.
    pub(crate) fn set_limits(&self, limits: Option<FleetLimits>) {
        if let (Some(cluster), Some(limits)) = (&self.0, limits) {
            cluster.set_limits(limits);
        }
    }

    pub(crate) fn tell_agent(&self, agent: AgentCheck) -> AgentCheck {
        match &self.0 {
            Some(cluster) => agent.cluster(cluster),
            None => agent,
        }
    }

    #[cfg(feature = "console")]
    pub(crate) fn tell_console(&self, console: Console) -> Console {
        match &self.0 {
            Some(cluster) => console.cluster(cluster),
            None => console,
        }
    }

    #[cfg(feature = "http")]
    pub(crate) fn tell_admin(&self, admin: Admin) -> Admin {
        match &self.0 {
            Some(cluster) => admin.cluster(cluster),
            None => admin,
        }
    }
}

/// The name of this host, as far as there is one.
fn host() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}

/// The name of a node that has none: its host's, and the port that tells it from others there.
fn default_name(host: &str, port: Option<u16>) -> String {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let host: String = host.chars().map(|letter| if is_part(letter) { letter } else { '-' }).collect();
    let end = port.map(|port| format!("-{port}")).unwrap_or_default();
    let host = if host.is_empty() { "node" } else { &host[..host.len().min(NodeName::MAX_LEN - end.len())] };
    format!("{host}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_by_its_host_and_port() {
        assert_eq!(default_name("web1", Some(40713)), "web1-40713");
        assert_eq!(default_name("web1.example.org", None), "web1.example.org");
        assert_eq!(default_name("", Some(1)), "node-1");
        assert_eq!(default_name("b\u{fc}ro 1", None), "b-ro-1");
        for (host, port) in [("x".repeat(300), Some(65535)), ("x".repeat(64), None)] {
            assert!(default_name(&host, port).parse::<NodeName>().is_ok());
        }
    }

    #[test]
    fn a_password_keeps_its_blanks() {
        let file = std::env::temp_dir().join(format!("rot13d-password-{}", std::process::id()));
        std::fs::write(&file, " pass word \r\n").unwrap();
        let read = password(&file);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(read.as_deref(), Ok(" pass word "));
    }
}
