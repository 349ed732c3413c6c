//! Setup: what all sessions of a console share.
//!
//! Not here: making it (`builder`), a session's own (`session`).

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use subtle::ConstantTimeEq;
use tokio::{sync::Mutex, time::Instant};

use crate::{
    console::{hub::Watching, snapshots::Snapshots},
    control::messages::Drain,
    log_limit::LogLimit,
    server::handle::ServerHandle,
};

/// Longest line of a command. Unit: bytes.
pub(crate) const MAX_LINE: usize = 64 * 1024;

/// Makes a drain of what an operator has asked for: a time, and a goodbye with its newline.
pub(crate) type BeforeDrain = dyn Fn(Option<Duration>, Option<Bytes>) -> Drain + Send + Sync;

pub(crate) struct Setup {
    /// Set before the first session comes.
    pub(crate) server: OnceLock<ServerHandle>,
    pub(crate) token: Option<Vec<u8>>,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) may_trace: bool,
    pub(crate) before_drain: Option<Arc<BeforeDrain>>,
    pub(crate) watching: Watching,
    pub(crate) snapshots: Snapshots,
    pub(crate) since: Instant,
    /// Held while limits are read, changed and written: of two operators none undoes the other's change.
    pub(crate) changing: Mutex<()>,
    /// Peers that were turned away.
    pub(crate) strangers: LogLimit,
}

impl Setup {
    /// Returns true if it is the token; in a time that says nothing of how much of it is right.
    pub(crate) fn is_token(&self, secret: &[u8]) -> bool {
        self.token.as_ref().is_some_and(|token| token.ct_eq(secret).into())
    }

    /// Returns the drain that an operator asks for.
    pub(crate) fn drain(&self, deadline: Option<Duration>, goodbye: Option<Bytes>) -> Drain {
        match &self.before_drain {
            Some(before) => before(deadline, goodbye),
            None => Drain::within(deadline.unwrap_or(Drain::DEFAULT_DEADLINE)).goodbye(goodbye.unwrap_or_default()),
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
