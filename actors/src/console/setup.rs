//! Setup: what all sessions of a console share.
//!
//! Not here: making it (`builder`), a session's own (`session`).

use std::{fmt, sync::OnceLock};

use tokio::{sync::Mutex, time::Instant};

use crate::{
    console::{hub::Watching, snapshots::Snapshots, strangers::Strangers},
    log_limit::LogLimit,
    server::{before_drain::BeforeDrain, handle::ServerHandle},
    token::Token,
};

/// Longest line of a command. Unit: bytes.
pub(crate) const MAX_LINE: usize = 64 * 1024;

pub(crate) struct Setup {
    /// Set before the first session comes.
    pub(crate) server: OnceLock<ServerHandle>,
    pub(crate) token: Option<Token>,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) may_trace: bool,
    #[cfg(feature = "cluster")]
    pub(crate) cluster: Option<crate::cluster::builder::Cluster>,
    pub(crate) before_drain: BeforeDrain,
    pub(crate) watching: Watching,
    pub(crate) snapshots: Snapshots,
    pub(crate) since: Instant,
    /// Held while limits are read, changed and written: of two operators none undoes the other's change.
    pub(crate) changing: Mutex<()>,
    /// Most sessions that have sent the token, where there is one.
    pub(crate) max_known: usize,
    pub(crate) strangers: Strangers,
    /// Peers that were turned away.
    pub(crate) turned_away: LogLimit,
}

impl Setup {
    /// Makes one without a token, for nobody's server yet.
    pub(crate) fn new() -> Self {
        Self {
            server: OnceLock::new(),
            token: None,
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            may_trace: false,
            #[cfg(feature = "cluster")]
            cluster: None,
            before_drain: BeforeDrain::default(),
            watching: Watching::default(),
            snapshots: Snapshots::default(),
            since: Instant::now(),
            changing: Mutex::new(()),
            max_known: usize::MAX,
            strangers: Strangers::default(),
            turned_away: LogLimit::default(),
        }
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup")
            .field("name", &self.name)
            .field("has_token", &self.token.is_some())
            .finish_non_exhaustive()
    }
}
