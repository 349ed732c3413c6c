//! Limits: lets connections in by what all nodes have together, and tells the store what this one holds.
//!
//! One call is on its way at a time, with all that has come meanwhile, so that a store's round trip bounds no rate of accepts.
//! A connection waits a while for the store, then it is decided without it.
//! Not here: the counts (`ledger`), the limits themselves (`fleet_limits`), the wait of a connection (`session/gated`).

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};

use crate::{
    cluster::{
        core::{BACKOFF, Core},
        ledger::{Asked, Due, Hold},
        store::{Share, StoreError},
    },
    connection::Connection,
    gate::{Answer, Permit},
    report::RefuseReason,
};

/// Longest wait of a connection for the store; half of what is left of its time at the gates, if that is less: the policy is
/// to decide, and not the end of that time.
const PATIENCE: Duration = Duration::from_millis(500);

/// Time in which ends of sessions are gathered.
const GATHERED: Duration = Duration::from_millis(50);

/// Decides on a connection, in the time that it has left: the node's gate. At once, unless the store is to be asked.
pub(super) fn admit(core: &Arc<Core>, connection: &Connection, left: Duration) -> Answer {
    let permitted = |decided: Result<Hold, RefuseReason>| decided.map(Permit::new);
    let (peer, is_probe) = (&connection.peer, connection.info.is_probe());
    let is_lost = core.health.is_lost();
    let answer = match core.ledger.ask(peer, is_probe, is_lost) {
        Asked::Free(hold) => return Answer::Now(permitted(Ok(hold))),
        Asked::Refused(refused) => return Answer::Now(permitted(Err(refused))),
        Asked::Blind(result) => return Answer::Now(permitted(blind(core, result))),
        Asked::Waits(answer) => answer,
    };
    let (core, peer, patience) = (Arc::clone(core), peer.clone(), PATIENCE.min(left / 2));
    Answer::Later(Box::pin(async move {
        permitted(match timeout(patience, answer).await {
            Ok(Ok(result)) => result,
            // Whoever asks the store has no answer, or has stumbled.
            Err(_) | Ok(Err(_)) => blind(&core, core.ledger.without_store(&peer, is_probe)),
        })
    }))
}

/// Counts a decision without the store.
fn blind(core: &Core, result: Result<Hold, RefuseReason>) -> Result<Hold, RefuseReason> {
    if result.is_ok() {
        core.counts.admitted_blind.one();
    }
    result
}

/// Runs until it is dropped.
pub(super) async fn run(core: Arc<Core>) {
    let ledger = &core.ledger;
    // If it has run before, a call may have been on its way.
    ledger.forget_flights();
    let mut lives = core.life.subscribe();
    let mut failed = 0;
    loop {
        let Some(id) = core.life() else {
            // It is never closed: the core has it.
            let _ = lives.changed().await;
            continue;
        };
        match ledger.due() {
            Due::Nothing => {
                ledger.work.notified().await;
                continue;
            }
            Due::Telling => tokio::select! {
                () = sleep(GATHERED) => {}
                () = ledger.asked.notified() => {}
            },
            Due::Asking => {}
        }
        let Some(batch) = ledger.take() else { continue };
        let result = core.acquire(&id, &batch.held, &batch.wants).await;
        match &result {
            Ok(_) => failed = 0,
            // Another life begins.
            Err(StoreError::Fenced) => {}
            Err(_) => failed += 1,
        }
        core.counts.admitted.add(ledger.settle(batch, result.ok()));
        if failed > 0 {
            tokio::select! {
                () = sleep(BACKOFF.wait(failed)) => {}
                () = core.health.found() => {}
            }
        }
    }
}

/// Returns what the node's live sessions hold, for a life that begins with it.
pub(super) fn shares(core: &Core) -> Vec<Share> {
    core.ledger.begin()
}
