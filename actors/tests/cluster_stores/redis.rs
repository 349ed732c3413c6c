//! Redis and Valkey, each by TCP, by a unix socket, and by TLS as a user who may do only what `docs/decisions/redis.md` names.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use actix_lines::{
    cluster::{
        Store,
        redis::{Redis, RedisBuilder},
    },
    tls::TlsClient,
};
use futures::future::BoxFuture;

use crate::Engine;

#[path = "../support/redis.rs"]
mod servers;
#[path = "../support/tls.rs"]
#[allow(clippy::duplicate_mod)]
mod tls;

use servers::{Program, StoreServer};

/// A part of a server of its own: its prefix is no other's.
struct Part(RedisBuilder);

impl Part {
    fn new(builder: &RedisBuilder) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        Self(builder.clone().prefix(format!("lines:{}:", NUMBER.fetch_add(1, Relaxed))))
    }
}

impl Engine for Part {
    fn store(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { Arc::new(self.0.clone().build().unwrap()) as _ })
    }
}

/// Longest time of a call. A guard and no measure.
const PATIENCE: Duration = Duration::from_secs(20);

async fn run_all(way: &str, builder: RedisBuilder) {
    eprintln!("by {way}");
    // A loaded machine is no store that hangs.
    let builder = builder.timeout(PATIENCE).connect_timeout(PATIENCE);
    crate::run_each!(async || Part::new(&builder));
}

async fn try_ways_to(program: Program) {
    let mut server = StoreServer::start(program);
    run_all("TCP", Redis::at(server.url())).await;
    run_all("a unix socket", Redis::at(server.unix_url())).await;

    server.allow("node", "sesame", &servers::PERMISSIONS);
    let authority = tls::Authority::new();
    let files = authority.issue("server", &["localhost"]);
    let port = server.tls_port(&files.certificate, &files.key, &authority.file());
    let client = TlsClient::builder(authority.file()).build().unwrap();
    let url = format!("rediss://node:sesame@localhost:{port}");
    run_all("TLS", Redis::at(url).tls(&client)).await;
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn redis_is_such_a_store() {
    try_ways_to(Program::Redis).await;
}

#[actix::test]
#[ignore = "needs valkey-server; tests/run runs it"]
async fn valkey_is_such_a_store() {
    if Program::installed().contains(&Program::Valkey) {
        try_ways_to(Program::Valkey).await;
    }
}
