//! Kill: cuts sessions that were kicked over nodes and have not ended in time, so that every kick is the end of its sessions.
//!
//! Otherwise a peer that takes a byte now and then keeps a session that may not read any more for as long as it likes.
//! Not here: the kick (`ask`), the cut (`worker/answers`).

use std::sync::Arc;

use tokio::time::sleep_until;

use crate::cluster::{core::Core, kicks::Kicked};

/// Runs until it is dropped.
pub(crate) async fn run(core: Arc<Core>) {
    loop {
        match core.kicks.next_due() {
            Some(due) => sleep_until(due).await,
            None => core.kicks.added().await,
        }
        while let Some(Kicked { whom, last, .. }) = core.kicks.take_due() {
            let Some(server) = core.server.get() else { continue };
            // Without a server there are no sessions.
            core.counts.kicks_cut.add(server.cut_kicked(whom, last).await.unwrap_or(0));
        }
    }
}
