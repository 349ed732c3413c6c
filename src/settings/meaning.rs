//! Meaning: turns settings into the library's limits and options.
//!
//! Rule: every [`Settings`] was checked here, so a server can be started with it.
//! Not here: the limits themselves (`actix-lines`), the room for sessions on this machine (`descriptors`).

use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use actix_lines::{
    ConfigError, Connection, Framing, LineHandler, LineServer, ListenAddress,
    control::Drain,
    limits::{Limits, OutboxLimit, Rate, Watermarks},
    record::RecordLimits,
};

use super::{Auto, Given, Invalid, LogFormat, OnPartition, Settings, places};

/// The reason why a server cannot be started with settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    #[error(transparent)]
    Value(#[from] Invalid),
    /// Several settings contradict each other, or the library forbids one.
    #[error(transparent)]
    Together(#[from] ConfigError),
}

impl Given {
    /// The format of the log as far as these say it: what is wrong with them is said in it.
    pub(crate) fn log_format(&self) -> LogFormat {
        self.value(&Settings::log_format).unwrap_or(LogFormat::Text)
    }
}

/// The settings of the console.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "console"), allow(dead_code))]
pub(crate) struct ConsoleSettings {
    pub(crate) address: ConsoleAddress,
    /// The file of the token.
    pub(crate) token: Option<PathBuf>,
    pub(crate) may_trace: bool,
}

/// The place of the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConsoleAddress {
    Off,
    /// In the runtime directory, if there is one.
    Auto,
    At(ListenAddress),
}

/// A node's place in a cluster.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "cluster"), allow(dead_code, reason = "a build without clusters refuses the first of them"))]
pub(crate) struct ClusterSettings<'a> {
    pub(crate) url: &'a str,
    /// `None` takes the host's name and a port.
    pub(crate) node: Option<&'a str>,
    pub(crate) user: Option<&'a str>,
    pub(crate) password_file: Option<&'a Path>,
    pub(crate) ca: Option<&'a Path>,
    /// The files of a certificate and its key.
    pub(crate) pair: Option<[&'a Path; 2]>,
    pub(crate) sentinel_user: Option<&'a str>,
    pub(crate) sentinel_password_file: Option<&'a Path>,
    pub(crate) prefix: &'a str,
    pub(crate) lease: Duration,
    pub(crate) max_sessions: Option<u64>,
    pub(crate) max_sessions_per_source: Option<u64>,
    pub(crate) accept_rate_per_source: Option<Rate>,
    pub(crate) on_partition: OnPartition,
}

/// What is served by HTTP.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "http"), allow(dead_code, reason = "a build without HTTP only looks whether it is asked for"))]
pub(crate) struct Http<'a> {
    pub(crate) address: &'a ListenAddress,
    pub(crate) token_file: Option<&'a Path>,
    pub(crate) hosts: Vec<&'a str>,
}

impl Http<'_> {
    /// Says why nobody may have a token, and what to do.
    pub(crate) const IN_CLEAR: &'static str = "the token would go over the network in clear: use http at a loopback address or a unix socket, with a proxy that \
         speaks TLS before it";
}

impl Settings {
    /// The settings that are `given`, the others by default.
    pub(crate) fn new(given: &Given) -> Result<Self, Unusable> {
        let settings = Self::read(given)?;
        if let Some([one, other]) = places::colliding(&settings.listen) {
            let advice = match one == other {
                true => format!("{one} stands there twice: write it once"),
                false => format!("{one}: {}", places::advice(other, "listen")),
            };
            return Err(Invalid { name: "listen", advice }.into());
        }
        if let Auto::Set(Some(ListenAddress::Ip(address))) = &settings.console
            && settings.console_token.is_none()
            && !address.ip().to_canonical().is_loopback()
        {
            let advice = format!(
                "without a token {address} is open to whoever reaches it: use --console-token, an address of this machine \
                 as 127.0.0.1:{}, or unix:/PATH",
                address.port()
            );
            return Err(Invalid { name: "console", advice }.into());
        }
        settings.check_http()?;
        settings.check_cluster()?;
        settings.framing()?;
        settings.limits(None)?;
        Ok(settings)
    }

    /// Checks what is set for HTTP as far as the settings tell.
    fn check_http(&self) -> Result<(), Invalid> {
        let invalid = |name, advice| Err(Invalid { name, advice });
        let Some(address) = &self.http else {
            let needless = [("http-control", self.http_control.is_some()), ("http-host", self.http_host.is_some())];
            return match needless.into_iter().find(|(_, is_set)| *is_set) {
                Some((name, _)) => invalid(name, "it does nothing without http: set that as well".to_owned()),
                None => Ok(()),
            };
        };
        if let ListenAddress::Ip(ip) = address
            && self.http_control.is_some()
            && !ip.ip().to_canonical().is_loopback()
        {
            return invalid("http-control", Http::IN_CLEAR.to_owned());
        }
        Ok(())
    }

    /// Checks what is set for a cluster as far as the settings tell.
    fn check_cluster(&self) -> Result<(), Invalid> {
        let needless = [
            ("cluster-node", self.cluster_node != Auto::Auto),
            ("cluster-user", self.cluster_user.is_some()),
            ("cluster-password-file", self.cluster_password_file.is_some()),
            ("cluster-ca", self.cluster_ca.is_some()),
            ("cluster-cert", self.cluster_cert.is_some()),
            ("cluster-key", self.cluster_key.is_some()),
            ("cluster-sentinel-user", self.cluster_sentinel_user.is_some()),
            ("cluster-sentinel-password-file", self.cluster_sentinel_password_file.is_some()),
            ("cluster-max-sessions", self.cluster_max_sessions.is_some()),
            ("cluster-max-sessions-per-source", self.cluster_max_sessions_per_source.is_some()),
            ("cluster-accept-rate-per-source", self.cluster_accept_rate_per_source.is_some()),
            ("cluster-on-partition", self.cluster_on_partition != OnPartition::Open),
        ];
        match needless.into_iter().find(|(_, is_set)| *is_set && self.cluster.is_none()) {
            Some((name, _)) => {
                let advice = "it does nothing without cluster: set that as well".to_owned();
                Err(Invalid { name, advice })
            }
            None if let Some((name, needed)) = self.cluster_lacks() => {
                Err(Invalid { name, advice: format!("it does nothing without {needed}: set that as well") })
            }
            None if self.cluster_on_partition == OnPartition::Closed && !self.has_cluster_limits() => Err(Invalid {
                name: "cluster-on-partition",
                advice: "closed keeps nobody out without a limit over nodes: set cluster-max-sessions, \
                         cluster-max-sessions-per-source or cluster-accept-rate-per-source as well"
                    .to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// Returns a setting of a cluster that needs another one, and that one.
    fn cluster_lacks(&self) -> Option<(&'static str, &'static str)> {
        let (cert, key) = (&self.cluster_cert, &self.cluster_key);
        let is_sentinel = self.cluster.as_ref().is_some_and(|url| url.0.contains("-sentinel://"));
        let password = &self.cluster_sentinel_password_file;
        let lacks = [
            ("cluster-cert", "cluster-key", cert.is_some() && key.is_none()),
            ("cluster-key", "cluster-cert", cert.is_none() && key.is_some()),
            ("cluster-cert", "cluster-ca", cert.is_some() && self.cluster_ca.is_none()),
            (
                "cluster-sentinel-user",
                "cluster-sentinel-password-file",
                self.cluster_sentinel_user.is_some() && password.is_none(),
            ),
            ("cluster-sentinel-password-file", "a redis-sentinel:// URL", password.is_some() && !is_sentinel),
        ];
        lacks.into_iter().find(|(_, _, lacks)| *lacks).map(|(name, needed, _)| (name, needed))
    }

    fn has_cluster_limits(&self) -> bool {
        self.cluster_max_sessions.is_some()
            || self.cluster_max_sessions_per_source.is_some()
            || self.cluster_accept_rate_per_source.is_some()
    }

    /// Returns the place in a cluster, if there is one.
    pub(crate) fn cluster_settings(&self) -> Option<ClusterSettings<'_>> {
        Some(ClusterSettings {
            url: &self.cluster.as_ref()?.0,
            node: if let Auto::Set(name) = &self.cluster_node { Some(&name.0) } else { None },
            user: self.cluster_user.as_ref().map(|user| &*user.0),
            password_file: self.cluster_password_file.as_ref().map(|file| &*file.0),
            ca: self.cluster_ca.as_ref().map(|file| &*file.0),
            pair: self.cluster_cert.as_ref().zip(self.cluster_key.as_ref()).map(|(cert, key)| [&*cert.0, &*key.0]),
            sentinel_user: self.cluster_sentinel_user.as_ref().map(|user| &*user.0),
            sentinel_password_file: self.cluster_sentinel_password_file.as_ref().map(|file| &*file.0),
            prefix: &self.cluster_prefix.0,
            lease: self.cluster_lease.0,
            max_sessions: self.cluster_max_sessions.map(|sessions| sessions.0 as u64),
            max_sessions_per_source: self.cluster_max_sessions_per_source.map(|sessions| sessions.0 as u64),
            accept_rate_per_source: self.cluster_accept_rate_per_source,
            on_partition: self.cluster_on_partition,
        })
    }

    /// Returns what is served by HTTP, if anything.
    pub(crate) fn served_by_http(&self) -> Option<Http<'_>> {
        let token_file = self.http_control.as_ref().map(|file| &*file.0);
        let hosts = self.http_host.as_deref().unwrap_or_default().iter().map(|host| host.0.as_str()).collect();
        Some(Http { address: self.http.as_ref()?, token_file, hosts })
    }

    pub(crate) fn addresses(&self) -> &[ListenAddress] {
        &self.listen
    }

    pub(crate) fn worker_threads(&self) -> usize {
        match self.workers {
            Auto::Auto => thread::available_parallelism().map_or(1, usize::from),
            Auto::Set(workers) => workers.0,
        }
    }

    /// Sets on `server` what its sockets have, and what is measured.
    pub(crate) fn sockets<A, F>(&self, server: LineServer<A, F>) -> LineServer<A, F>
    where
        A: LineHandler,
        F: Fn(&Connection) -> A + Clone + Send + 'static,
    {
        let server = server
            // No more than the kernel's own number, an i32.
            .backlog(self.backlog.0 as u32)
            .keepalive(self.keepalive.map(|after| after.0))
            .keepalive_count(self.keepalive_count.0 as u32)
            .measure_answers(self.measure_answers)
            .send_buffer(self.send_buffer.map(|size| size.0))
            .receive_buffer(self.receive_buffer.map(|size| size.0));
        let server = match self.keepalive_interval {
            Auto::Auto => server,
            Auto::Set(interval) => server.keepalive_interval(interval.0),
        };
        match self.user_timeout {
            Auto::Auto => server,
            Auto::Set(timeout) => server.user_timeout(timeout.map(|timeout| timeout.0)),
        }
    }

    pub(crate) fn framing(&self) -> Result<Framing, ConfigError> {
        Ok(Framing::lf().max_line(self.max_line.0)?.overlong(self.overlong))
    }

    /// The limits, on a machine that has room for so many sessions.
    pub(crate) fn limits(&self, room: Option<usize>) -> Result<Limits, ConfigError> {
        let sessions = match self.max_sessions {
            Auto::Auto => room.unwrap_or(usize::MAX),
            Auto::Set(sessions) => sessions.0,
        };
        let outbox = Watermarks { low: self.outbox_low.0, high: self.outbox_high.0 };
        // Nothing is pushed here but a goodbye: no reason for a limit of its own.
        let outbox_limit = OutboxLimit { hard: OutboxLimit::default().hard.max(outbox.high), ..OutboxLimit::default() };
        Limits::exposed()
            .to_builder()
            .max_sessions(sessions)
            .max_sessions_per_source(self.max_sessions_per_source.map_or(usize::MAX, |sessions| sessions.0))
            .source_prefix(self.source_prefix)
            .accept_rate(self.accept_rate)
            .accept_rate_per_source(self.accept_rate_per_source)
            .over_limit(self.over_limit)
            .refuse_line(line(&self.refuse_line))
            .allow(self.allow.iter().flatten().copied())
            .deny(self.deny.iter().flatten().copied())
            .exempt(self.exempt.iter().flatten().copied())
            .idle_timeout(self.idle_timeout.map(|time| time.0))
            .line_timeout(self.line_timeout.map(|time| time.0))
            .write_timeout(self.write_timeout.map(|time| time.0))
            .max_age(self.max_age.map(|time| time.0))
            .preface_timeout(self.preface_timeout.0)
            .max_prefaces(self.max_prefaces.0)
            .linger_timeout(self.linger_timeout.0)
            // At most 1 GiB.
            .linger_bytes(self.linger_bytes.0 as u32)
            .session_rate(self.session_rate.unwrap_or_default())
            .outbox(outbox)
            .outbox_limit(outbox_limit)
            .memory_budget(self.memory_budget.map(|size| size.0))
            .build()
    }

    /// The folder to record sessions in, if they are recorded.
    pub(crate) fn record_folder(&self) -> Option<&Path> {
        self.record.as_ref().map(|folder| &*folder.0)
    }

    pub(crate) fn record_limits(&self) -> RecordLimits {
        RecordLimits::default()
            .session_bytes(self.record_session.0 as u64)
            .files(self.record_files.0 as u64)
            .total_bytes(self.record_total.0 as u64)
    }

    pub(crate) fn console_settings(&self) -> ConsoleSettings {
        let address = match &self.console {
            Auto::Auto => ConsoleAddress::Auto,
            Auto::Set(None) => ConsoleAddress::Off,
            Auto::Set(Some(address)) => ConsoleAddress::At(address.clone()),
        };
        let token = self.console_token.as_ref().map(|file| file.0.clone());
        ConsoleSettings { address, token, may_trace: self.console_trace }
    }

    /// The number of listeners that are not among those of sessions.
    pub(crate) fn other_listeners(&self) -> usize {
        usize::from(cfg!(feature = "console") && self.console != Auto::Set(None))
            + usize::from(self.agent_check.is_some())
    }

    /// The address of HAProxy's agent checks, if they are answered.
    pub(crate) fn agent_address(&self) -> Option<&ListenAddress> {
        self.agent_check.as_ref()
    }

    pub(crate) fn drain(&self) -> Drain {
        Drain {
            deadline: self.drain_timeout.0,
            goodbye: line(&self.drain_goodbye).into(),
            spread: self.drain_spread.0,
            delay: self.drain_delay.0,
        }
    }
}

/// `text` as a line; nothing stays nothing.
fn line(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{text}\r\n") }
}
