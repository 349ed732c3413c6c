//! Agent: runs the parts of a node beside its server, from its start until it has ended.
//!
//! On the arbiter that starts the server, each part in a task of its own. No line and no accept passes here.
//! Not here: what the parts do.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use actix_rt::Arbiter;
use futures::future::{FutureExt, LocalBoxFuture, join_all};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    cluster::{ask, core::Core, hub, kill, lease, limits, rooms, rows},
    server::{companion::Companion, handle::ServerHandle},
};

/// Time that a node has to take itself out of the store, when its server has ended.
const LAST_CALL: Duration = Duration::from_secs(1);

/// Time until a part that has panicked runs again.
const AGAIN: Duration = Duration::from_secs(1);

type Part = (&'static str, fn(Arc<Core>) -> LocalBoxFuture<'static, ()>);

/// The parts of a node. Each runs until it is dropped.
const PARTS: &[Part] = &[
    ("hub", |core| hub::run(core).boxed_local()),
    ("ask", |core| ask::run(core).boxed_local()),
    ("kill", |core| kill::run(core).boxed_local()),
    ("rooms", |core| rooms::run(core).boxed_local()),
    ("limits", |core| limits::run(core).boxed_local()),
    ("rows", |core| rows::run(core).boxed_local()),
    ("lease", |core| lease::run(core).boxed_local()),
];

/// Makes a server that has just started here the node.
pub(crate) fn start(core: Arc<Core>, server: &ServerHandle) {
    // It has started here, so there is one.
    let Some(home) = Arbiter::try_current() else { return };
    // Nobody else sets it: there is one claim.
    let _ = core.server.set(server.clone());
    let companion = server.companion();
    home.spawn_fn(move || drop(actix_rt::spawn(run(core, companion))));
}

async fn run(core: Arc<Core>, mut companion: Companion) {
    let mut parts = JoinSet::new();
    for part in PARTS {
        parts.spawn_local(run_part(*part, Arc::clone(&core)));
    }
    companion.server_ended().await;
    parts.shutdown().await;
    core.end_life();
    let traces = core.traces();
    let unregistered = join_all(traces.iter().map(|id| core.unregister(id)));
    match timeout(LAST_CALL, unregistered).await {
        Ok(results) if results.iter().all(Result::is_ok) => {}
        _ => log::warn!(
            "cluster: node {} could not take itself out of the store: it is listed until its lease is over",
            core.settings.name
        ),
    }
    core.rooms.end().await;
    core.health.end();
    drop(companion);
}

/// Runs a part, and again if it panics: a node without one would be half dead.
async fn run_part((name, part): Part, core: Arc<Core>) {
    while AssertUnwindSafe(part(Arc::clone(&core))).catch_unwind().await.is_err() {
        log::error!("cluster: {name} has panicked, and begins anew: please report this");
        sleep(AGAIN).await;
    }
}
