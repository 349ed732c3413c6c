//! Rows: to come.
//!
//! Not here: the rest of a node (`agent`).

use std::sync::Arc;

use crate::cluster::core::Core;

/// Runs until it is dropped.
pub(crate) async fn run(core: Arc<Core>) {
    drop(core);
    std::future::pending().await
}
