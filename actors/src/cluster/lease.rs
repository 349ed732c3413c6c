//! Lease: begins the lives of a node, and renews the lease of each until that is lost.
//!
//! A lease is over by the node's own monotonic clock, counted from when the last renewal was sent, without asking anybody:
//! so a node that was stopped or cut off claims nothing, and jumps of the wall clock change nothing.
//! Not here: rows (`rows`), what else a lost life means (the parts watch `Core::life`).

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::cluster::{
    core::{BACKOFF, Core},
    id::NodeId,
    limits,
    store::{Begin, Change, StoreError},
};

/// A renewal comes this part of a lease after the one before, as much later or earlier as is random: nodes that have begun
/// together do not renew together for long.
const RENEWAL: f64 = 0.3;
const JITTER: f64 = 0.1;

/// Least time from one renewal to the next that another failed call asks for.
const LEAST: Duration = Duration::from_millis(500);

/// Time that the subscription has to hear the control channel of a life before that begins without.
const HEARD: Duration = Duration::from_secs(1);

/// Time that workers have to say whether there are sessions before a life begins without their answer.
const ANSWERED: Duration = Duration::from_millis(500);

/// Failed calls after which a pause has its greatest length.
const LONG_LOST: u32 = 6;

/// Why a lease is over, if nobody knows it better.
const LAPSED: &str = "its lease was not renewed in time";

/// Runs until it is dropped.
pub(crate) async fn run(core: Arc<Core>) {
    loop {
        let id = begin(&core).await;
        log::info!(node:% = id; "cluster: joined as {id}");
        let why = tokio::select! {
            why = renew(&core, &id) => why,
            never = watch_namesakes(&core, &id) => match never {},
        };
        core.counts.times_fenced.one();
        core.end_life();
        log::warn!(node:% = id; "cluster: {id} is fenced: {why}; its sessions go on, and are listed again in another life");
    }
}

/// Begins a life, however long that takes.
async fn begin(core: &Core) -> NodeId {
    // A store that was lost for a lease is asked as seldom as before.
    let mut failed = if core.health.is_lost() { LONG_LOST } else { 0 };
    // The store answers all else: it is found when a life begins, and not again and again until then.
    let mut is_refused = false;
    loop {
        match try_to_begin(core, &mut is_refused).await {
            Ok(Some(id)) => return id,
            // It has taken longer than a lease: at once again.
            Ok(None) => tokio::task::yield_now().await,
            Err(error) => {
                core.health.lose(&error, core.ledger.limits().refuse_alone());
                failed += 1;
                sleep(BACKOFF.wait(failed)).await;
            }
        }
    }
}

async fn try_to_begin(core: &Core, is_refused: &mut bool) -> Result<Option<NodeId>, StoreError> {
    // Another one each time: a call that was given up may arrive yet, and would undo what this life has written.
    let id = NodeId { name: core.settings.name.clone(), incarnation: fastrand::u32(..) };
    // Former lives go first. That also asks whether the store is there by a call that may arrive late without harm: one that
    // begins a life would leave a node behind that has this one's shares.
    let mut former = core.traces();
    if former.is_empty() {
        former.push(id.clone());
    }
    for id in &former {
        core.unregister(id).await?;
        core.remove_trace(id);
    }
    if !*is_refused {
        core.health.find();
    }
    core.hub.set_control(Core::control_channel(&id));
    // A store that publishes nothing may list sessions nevertheless.
    let _ = timeout(HEARD, core.hub.control_heard()).await;

    // Rows come later: whoever lists the node before is told that some are missing.
    let is_partial = match core.server.get() {
        // A worker that somebody's code blocks does not answer, and keeps no life from beginning. Nor does a lost supervisor.
        Some(server) => {
            !timeout(ANSWERED, server.stats()).await.is_ok_and(|stats| stats.is_ok_and(|stats| stats.live == 0))
        }
        None => false,
    };
    core.is_partial.store(is_partial, Relaxed);
    core.add_trace(id.clone());
    let begins = Begin { about: core.settings.about.clone(), shares: limits::shares(core) };
    let is_partial = Some(is_partial);
    let change = Change { begins: Some(begins), lease: core.settings.lease, is_partial, ..Change::default() };
    let sent = Instant::now();
    let begun = core.begin(&id, &change).await;
    *is_refused = matches!(begun, Err(StoreError::Refused { .. } | StoreError::Garbled { .. }));
    begun?;
    core.health.find();
    Ok(core.begin_life(&id, sent).then_some(id))
}

/// Renews the lease of a life until that is over. Returns why it is.
async fn renew(core: &Core, id: &NodeId) -> &'static str {
    let mut failed = 0;
    loop {
        if let Err(why) = renewal_due(core, failed).await {
            return why;
        }
        // The clock first: what was said before the process was stopped counts no more.
        let Some(lease) = core.lease().filter(|lease| Instant::now() < lease.until) else { continue };
        let change = Change { lease: core.settings.lease, ..Change::default() };
        let Ok(renewed) = timeout_at(lease.until, core.register(id, &change)).await else { continue };
        match renewed {
            Ok(()) => {
                failed = 0;
                core.health.find();
            }
            Err(StoreError::Fenced | StoreError::Late) => {}
            Err(error) => {
                core.health.lose(&error, core.ledger.limits().refuse_alone());
                failed += 1;
            }
        }
    }
}

/// Waits until the lease is to be renewed, after so many failed attempts.
///
/// # Errors
/// Returns why it is over, if it is.
async fn renewal_due(core: &Core, failed: u32) -> Result<(), &'static str> {
    let part = RENEWAL * (1.0 - JITTER + 2.0 * JITTER * fastrand::f64());
    let again = Instant::now() + BACKOFF.wait(failed);
    loop {
        let lease = core.lease().ok_or(LAPSED)?;
        let now = Instant::now();
        if now >= lease.until {
            return Err(lease.over.unwrap_or(LAPSED));
        }
        let due = match failed {
            0 if lease.is_doubtful => lease.sent + LEAST,
            0 => lease.sent + core.settings.lease.mul_f64(part),
            // Each failed call asks to look at the lease, this one's, too: the next one comes in its time all the same.
            _ => again,
        };
        if now >= due {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = core.look_at_lease() => {}
            () = sleep_until(due.min(lease.until)) => {}
        }
    }
}

/// Warns of another node of this name, which is there for longer than a life of this node before it could be.
async fn watch_namesakes(core: &Core, id: &NodeId) -> std::convert::Infallible {
    let others = async || {
        let nodes = core.nodes().await.unwrap_or_default();
        nodes.into_iter().map(|node| node.id).filter(|node| node.name == id.name && node != id).collect::<Vec<_>>()
    };
    let before = others().await;
    if !before.is_empty() {
        sleep(core.settings.lease + Duration::from_secs(1)).await;
        if let Some(other) = others().await.iter().find(|other| before.contains(other))
            && !core.has_namesake.swap(true, Relaxed)
        {
            log::warn!(
                node:% = id, other:% = other;
                "cluster: another live node has the name {name}, as {other}: give each node a name of its own, or lists cannot \
                 tell them apart",
                name = id.name
            );
        }
    }
    std::future::pending().await
}
