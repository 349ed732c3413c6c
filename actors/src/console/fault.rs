//! Fault: why a command over nodes has failed, or is a part of what was asked for.
//!
//! Not here: the commands (`nodes`).

use crate::cluster::{answers::AskError, query::ListError, store::StoreError};

/// Why a command over nodes has failed, or is a part of what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("no cluster: start with --cluster URL")]
    NoCluster,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    List(#[from] ListError),
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The answers that there are were written.
    #[error("not all nodes have answered: {0}")]
    Partial(String),
    #[error("sessions of these nodes are missing: {0}")]
    Unread(String),
}
