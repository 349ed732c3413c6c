//! Metrics: the counters of a server as text, for Prometheus and whatever else reads its formats. Feature `metrics`.
//!
//! Everything is read when it is asked for: nothing of this is on the path of a line, and between two scrapes there is
//! nothing. Labels are listeners, reasons and threads, never peers. `docs/monitoring.md` of the repository says what each
//! metric means and what to be alarmed by.
//! Not here: counting (`worker`, `control`), a port for scrapers (`http`).

#[cfg(feature = "cluster")]
mod cluster;
mod families;
mod process;
mod server;
mod text;

use std::{borrow::Cow, fmt, time::SystemTime};

/// The crate that a program's own metrics are made with.
pub use prometheus_client;
use prometheus_client::registry::Registry;

pub use self::text::TextFormat;
use self::{process::Process, server::Snapshot};
use crate::{
    error::{ConfigError, ServerEnded},
    server::handle::ServerHandle,
};

type Label = (Cow<'static, str>, Cow<'static, str>);

/// The metrics of a server, of its process, and those that the program adds.
///
/// ```
/// use actix_lines::{
///     LineServer, Rot13,
///     metrics::{Metrics, prometheus_client::metrics::counter::Counter},
/// };
///
/// # #[actix::main]
/// # async fn main() -> std::io::Result<()> {
/// let server = LineServer::new(|_| Rot13).bind("127.0.0.1:0")?.start()?;
/// let mut metrics = Metrics::new(&server).label("environment", "staging")?;
/// // One of the program's own.
/// let orders: Counter = Counter::default();
/// metrics.registry().register("orders", "Orders that were taken", orders.clone());
/// orders.inc();
/// let text = metrics.encode().await?;
/// assert!(text.contains("actix_lines_sessions{environment=\"staging\",listener=\"0\"} 0\n"));
/// assert!(text.contains("orders_total 1\n") && text.ends_with("# EOF\n"));
/// # server.abort().await?;
/// # Ok(())
/// # }
/// ```
pub struct Metrics {
    server: ServerHandle,
    labels: Vec<Label>,
    certificates: Vec<Certificate>,
    /// False leaves the process out.
    has_process: bool,
    registry: Registry,
    #[cfg(feature = "cluster")]
    cluster: Option<crate::cluster::builder::Cluster>,
}

/// Certificates that no listener has of its own.
struct Certificate {
    name: String,
    expires: Box<dyn Fn() -> Option<SystemTime> + Send + Sync>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("labels", &self.labels)
            .field("registry", &self.registry)
            .finish_non_exhaustive()
    }
}

impl Metrics {
    /// The media type of what [`encode`](Self::encode) returns: the OpenMetrics text format 1.0.
    pub const CONTENT_TYPE: &str = TextFormat::OpenMetrics.content_type();

    /// Makes the metrics of a server.
    #[must_use]
    pub fn new(server: &ServerHandle) -> Self {
        Self {
            server: server.clone(),
            labels: Vec::new(),
            certificates: Vec::new(),
            has_process: true,
            registry: Registry::default(),
            #[cfg(feature = "cluster")]
            cluster: None,
        }
    }

    /// Adds the metrics of the node that the server is in a cluster. Needs the feature `cluster`.
    #[cfg(feature = "cluster")]
    #[must_use]
    pub fn cluster(mut self, cluster: &crate::cluster::builder::Cluster) -> Self {
        self.set_cluster(cluster);
        self
    }

    #[cfg(feature = "cluster")]
    pub(crate) fn set_cluster(&mut self, cluster: &crate::cluster::builder::Cluster) {
        self.cluster = Some(cluster.clone());
    }

    /// Adds a label to every metric of the server and of the process. The program's own have those of their registry.
    ///
    /// # Errors
    /// Returns [`ConfigError::Label`] unless the name has letters, digits and `_` only, begins with neither a digit nor `__`, and
    /// is not there yet.
    pub fn label(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Result<Self, ConfigError> {
        const TAKEN: [&str; 7] = ["listener", "reason", "worker", "le", "version", "state", "result"];
        let name = name.into();
        let has_form = !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !name.starts_with(|first: char| first.is_ascii_digit())
            && !name.starts_with("__");
        let is_taken = TAKEN.contains(&&*name) || self.labels.iter().any(|(known, _)| *known == name);
        if !has_form || is_taken {
            return Err(ConfigError::Label { name: name.into_owned() });
        }
        self.labels.push((name, value.into()));
        Ok(self)
    }

    /// Adds the expiry of certificates that no listener has of its own, as those of STARTTLS, under the label
    /// `listener="name"`. The certificates of listeners are there in any case.
    #[must_use]
    pub fn certificate(
        mut self,
        name: impl Into<String>,
        expires: impl Fn() -> Option<SystemTime> + Send + Sync + 'static,
    ) -> Self {
        self.certificates.push(Certificate { name: name.into(), expires: Box::new(expires) });
        self
    }

    /// Leaves out the metrics of the process, for a program that has its own. They are there on Linux only.
    #[must_use]
    pub fn without_process(mut self) -> Self {
        self.has_process = false;
        self
    }

    /// Returns the registry of the program's own metrics, which are encoded behind those of the server. Names that begin
    /// with `actix_lines_` or `process_` are taken.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// Returns all metrics as OpenMetrics text, of the media type [`CONTENT_TYPE`](Self::CONTENT_TYPE).
    ///
    /// # Errors
    /// Returns [`ServerEnded`] once the system has stopped.
    pub async fn encode(&self) -> Result<String, ServerEnded> {
        self.encode_as(TextFormat::OpenMetrics).await
    }

    /// Returns all metrics as text. A worker that does not get to its questions is waited for.
    ///
    /// # Errors
    /// Returns [`ServerEnded`] once the system has stopped.
    pub async fn encode_as(&self, format: TextFormat) -> Result<String, ServerEnded> {
        let stats = self.server.stats().await?;
        let limits = self.server.limits().await?;
        let certificates = self.certificates.iter().filter_map(|own| Some((own.name.clone(), (own.expires)()?)));
        let snapshot = Snapshot {
            stats,
            listeners: self.server.listeners(),
            max_sessions: limits.admission.max_sessions,
            is_draining: self.server.draining().is_some(),
            certificates: certificates.collect(),
        };
        let labels = || self.labels.iter().cloned();
        let mut own = Registry::with_prefix_and_labels("actix_lines", labels());
        own.register_collector(Box::new(snapshot));
        #[cfg(feature = "cluster")]
        if let Some(cluster) = &self.cluster {
            own.register_collector(Box::new(cluster::Node::of(cluster)));
        }
        let mut process = Registry::with_labels(labels());
        if self.has_process
            && let Some(of) = Process::read()
        {
            process.register_collector(Box::new(of));
        }
        Ok(text::encode(format, &[&own, &process, &self.registry]))
    }
}
