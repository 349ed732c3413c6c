//! Admin: the settings of the routes, and what all of them share.
//!
//! Not here: the routes (`routes`), serving them without an application of one's own (`listener`).

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    control::messages::Drain,
    http::hub::Hub,
    log_limit::LogLimit,
    metrics::Metrics,
    seconds,
    server::{before_drain::BeforeDrain, handle::ServerHandle},
    token::Token,
};

/// Questions to the supervisor that all clients together may have open: a flood of requests is no flood of questions to
/// the workers.
const QUESTIONS: usize = 4;

/// Routes of actix-web by which an operator sees a server, and steers it if that is allowed. See the
/// [module](crate::http).
///
/// Cheap to clone: clones share the viewers and the last ends. In an application of one's own, whatever its other routes
/// and under whatever scope:
///
/// ```no_run
/// use actix_lines::{LineServer, Rot13, http::Admin};
/// use actix_web::{App, HttpServer, web};
///
/// # #[actix::main]
/// # async fn main() -> std::io::Result<()> {
/// let server = LineServer::new(|_| Rot13).bind("127.0.0.1:40713")?.start()?;
/// let admin = Admin::new(&server);
/// HttpServer::new(move || App::new().service(web::scope("/lines").configure(admin.routes())))
///     .bind("127.0.0.1:8080")?
///     .run()
///     .await
/// # }
/// ```
#[derive(Clone)]
#[must_use = "it does nothing until its routes are mounted or served"]
pub struct Admin {
    pub(super) settings: Settings,
    pub(super) shared: Arc<Shared>,
}

/// What was asked for.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) server: ServerHandle,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) token: Option<Token>,
    pub(super) hosts: Vec<String>,
    pub(super) max_viewers: usize,
    pub(super) before_drain: BeforeDrain,
    pub(super) metrics: Arc<Metrics>,
    #[cfg(feature = "cluster")]
    pub(super) cluster: Option<crate::cluster::builder::Cluster>,
}

/// What all workers of an HTTP server share.
pub(super) struct Shared {
    pub(super) hub: Hub,
    pub(super) questions: Semaphore,
    pub(super) failures: LogLimit,
    started: SystemTime,
    since: Instant,
}

impl Shared {
    /// Returns the time of the start in seconds of Unix, and the seconds since.
    pub(super) fn times(&self) -> (u64, f64) {
        let started = self.started.duration_since(UNIX_EPOCH).map_or(0, |started| started.as_secs());
        (started, seconds::of(self.since.elapsed()))
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { name, version, token, hosts, max_viewers, .. } = &self.settings;
        let mut admin = f.debug_struct("Admin");
        admin.field("name", name).field("version", version).field("control", &token.is_some());
        admin.field("hosts", hosts).field("max_viewers", max_viewers).finish_non_exhaustive()
    }
}

impl Admin {
    /// Most connections at once of [`serve`](Self::serve); others wait in the backlog.
    pub const MAX_CONNECTIONS: usize = 128;

    /// Default of [`max_viewers`](Self::max_viewers).
    pub const DEFAULT_MAX_VIEWERS: usize = 64;

    /// Makes routes that show `server`, and change nothing.
    pub fn new(server: &ServerHandle) -> Self {
        Self {
            settings: Settings {
                server: server.clone(),
                name: env!("CARGO_PKG_NAME").to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                token: None,
                hosts: Vec::new(),
                max_viewers: Self::DEFAULT_MAX_VIEWERS,
                before_drain: BeforeDrain::default(),
                metrics: Arc::new(Metrics::new(server)),
                #[cfg(feature = "cluster")]
                cluster: None,
            },
            shared: Arc::new(Shared {
                hub: Hub::default(),
                questions: Semaphore::new(QUESTIONS),
                failures: LogLimit::default(),
                started: SystemTime::now(),
                since: Instant::now(),
            }),
        }
    }

    /// Sets the program's name and version, to be shown. Default: this library's.
    pub fn program(mut self, name: impl Into<String>, version: impl Into<String>) -> Self {
        (self.settings.name, self.settings.version) = (name.into(), version.into());
        self
    }

    /// Sets what `/metrics` answers, with labels and metrics of the program's own. Default: [`Metrics::new`].
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.settings.metrics = Arc::new(metrics);
        self
    }

    /// Shows the node that the server is in a cluster: in `/api/server`, in `/readyz`, and, unless [`metrics`](Self::metrics)
    /// are the program's own, in `/metrics`. Call it behind [`metrics`](Self::metrics). Needs the feature `cluster`.
    #[cfg(feature = "cluster")]
    pub fn cluster(mut self, cluster: &crate::cluster::builder::Cluster) -> Self {
        // A program that has set some may have told them already.
        if let Some(metrics) = Arc::get_mut(&mut self.settings.metrics) {
            metrics.set_cluster(cluster);
        }
        self.settings.cluster = Some(cluster.clone());
        self
    }

    /// Allows whoever has `token` to kick sessions, pause listeners and drain the server: by POST with
    /// `Content-Type: application/json` and `Authorization: Bearer TOKEN`, from the page itself or without a browser.
    /// Default: nobody.
    ///
    /// The token goes over the wire as it is: use a loopback address, a unix socket, or TLS in front of it. Each change is
    /// logged with the address of who asked for it.
    pub fn control(mut self, token: Token) -> Self {
        self.settings.token = Some(token);
        self
    }

    /// Adds a name of the host by which browsers reach the routes: the name of a machine, or of a proxy in front.
    ///
    /// Requests for another `Host` are refused then, but for `localhost` and IP addresses. Without any name this holds on
    /// loopback addresses alone: there a name can only be one that some web page has bent to this machine.
    pub fn host(mut self, name: impl Into<String>) -> Self {
        self.settings.hosts.push(name.into());
        self
    }

    /// Sets how many may watch `/events` at once. Default: 64.
    pub fn max_viewers(mut self, viewers: usize) -> Self {
        self.settings.max_viewers = viewers;
        self
    }

    /// Sets what `/api/drain` does: `drain` is called with the time and the goodbye that were asked for, and returns the
    /// drain to carry out; it may do what has to be done before. Default: 30 s ([`Drain::DEFAULT_DEADLINE`]), without a
    /// goodbye.
    pub fn before_drain(
        mut self,
        drain: impl Fn(Option<Duration>, Option<Bytes>) -> Drain + Send + Sync + 'static,
    ) -> Self {
        self.settings.before_drain = BeforeDrain::new(drain);
        self
    }
}

/// The longest wait for an answer of the supervisor.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
