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

#[cfg(test)]
mod tests {
    use tokio::{net::TcpStream, sync::watch};

    use super::*;
    use crate::{
        cluster::{builder::Cluster, id::NodeId, memory::Memory, store::Store},
        control::supervisor::Unlaunched,
        rot13::Rot13,
        server::builder::LineServer,
    };

    const TURN: Duration = Duration::from_millis(50);

    #[actix::test]
    async fn supervisors_that_are_gone_for_long_cost_the_store_no_row() {
        let server = LineServer::new(|_| Rot13).on_current_arbiter().bind("127.0.0.1:0").unwrap().start().unwrap();
        let address = server.local_addrs()[0];
        let (memory, live, gone) = (Memory::new(), server.supervisor(), Unlaunched::new().address());
        let core = Cluster::builder(memory.clone()).node("a").build().unwrap().core;
        tokio::time::pause();
        // The rows that the store has of another life than this one.
        let until = async |what: &str, count: usize, former: Option<&NodeId>| {
            for _ in 0..1000 {
                sleep(TURN).await;
                let Some(id) = core.life().filter(|id| Some(id) != former) else { continue };
                let page = memory.list(&id, None).await.unwrap();
                if page.rows.len() == count && !page.is_partial {
                    return id;
                }
            }
            panic!("{what}: no life has {count} rows");
        };
        let open = async |count| {
            let peer = TcpStream::connect(address).await.unwrap();
            while server.stats().await.unwrap().live < count {
                sleep(TURN).await;
            }
            peer
        };
        let _first = open(1).await;

        // When the node begins, and for longer than a question waits for a successor.
        let supervisors = watch::Sender::new(gone.clone());
        start(Arc::clone(&core), &server.clone().with_supervisors(supervisors.subscribe()));
        sleep(Duration::from_secs(5)).await;
        supervisors.send_replace(live.clone());
        let id = until("behind the begin", 1, None).await;
        let _second = open(2).await;
        until("a session that is heard of", 2, None).await;

        // When a life begins.
        supervisors.send_replace(gone);
        core.fence(&id, "a test");
        sleep(Duration::from_secs(5)).await;
        supervisors.send_replace(live);
        until("behind a life's begin", 2, Some(&id)).await;
        server.abort().await.unwrap();
    }
}
