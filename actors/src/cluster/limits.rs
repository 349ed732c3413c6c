//! Limits: to come.
//!
//! Not here: the rest of a node (`agent`).

use std::sync::Arc;

use crate::cluster::{core::Core, store::Share};

/// Runs until it is dropped.
pub(crate) async fn run(core: Arc<Core>) {
    drop(core);
    std::future::pending().await
}

/// Returns what the node's live sessions hold, for a life that begins with it.
pub(crate) fn shares(_core: &Core) -> Vec<Share> {
    Vec::new()
}
