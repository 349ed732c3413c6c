//! Whoever looks at a server that is a node of a cluster sees how that is: by readiness, the page's data and the metrics.

#[path = "support/exposition.rs"]
mod exposition;
mod support;

use std::time::Duration;

use actix_lines::{
    LineServer, Listener, Rot13,
    cluster::{
        Cluster, FleetLimits, OnPartition,
        memory::{Fault, Memory},
    },
    http::{Admin, HttpListener, Serving},
    metrics::Metrics,
};
use exposition::Exposition;
use serde_json::Value;
use support::{Server, eventually, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A node, and what is served of it by HTTP.
struct Seen {
    server: Server,
    http: Serving,
    cluster: Cluster,
    store: Memory,
}

impl Seen {
    async fn start() -> Self {
        Self::with(FleetLimits::default()).await
    }

    async fn with(limits: FleetLimits) -> Self {
        let store = Memory::new();
        let cluster =
            Cluster::builder(store.clone()).node("a").lease(Duration::from_secs(3)).limits(limits).build().unwrap();
        let builder = LineServer::new(|_| Rot13).cluster(&cluster).unwrap();
        let server = Server::of(builder.listen(Listener::tcp("127.0.0.1:0").name("public")).unwrap()).await;
        let admin = Admin::new(&server.handle).cluster(&cluster);
        let http = admin.serve(HttpListener::bind("127.0.0.1:0").unwrap()).await.unwrap();
        Self { server, http, cluster, store }
    }

    /// The status and the body of an answer.
    async fn get(&self, path: &str) -> (u16, String) {
        let address = self.http.local_addr().socket_addr().unwrap();
        let mut stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within("an answer", stream.read_to_string(&mut answer)).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.trim_end().to_owned())
    }

    async fn cluster(&self) -> Value {
        let (_, body) = self.get("/api/server").await;
        serde_json::from_str::<Value>(&body).unwrap()["cluster"].clone()
    }

    /// Waits until readiness says so.
    async fn until(&self, status: u16, body: &str) {
        eventually(body, async || self.get("/readyz").await == (status, body.to_owned())).await;
    }

    async fn end(self) {
        self.http.stop().await;
        self.server.end_all().await;
    }
}

#[actix::test]
async fn a_node_on_its_own_is_ready_and_says_that_it_is_alone() {
    let seen = Seen::start().await;
    seen.until(200, "ok").await;
    let joined = seen.cluster().await;
    assert_eq!((&joined["name"], &joined["health"]["state"]), (&"a".into(), &"connected".into()));
    assert_eq!(joined["node"].as_str(), Some(seen.cluster.node().unwrap().to_string().as_str()));
    seen.store.fail(Fault::Hanging);
    seen.until(200, "cluster: store lost").await;
    let lost = seen.cluster().await;
    assert_eq!(lost["health"]["state"], "lost");
    assert!(lost["health"]["why"].as_str().is_some_and(|why| why.contains("did not answer")), "{lost}");
    seen.store.heal();
    seen.until(200, "ok").await;
    seen.end().await;
}

#[actix::test]
async fn a_node_that_lets_nobody_in_on_its_own_is_not_ready_then() {
    let limits = FleetLimits::builder().max_sessions(7).on_partition(OnPartition::Closed).build().unwrap();
    let seen = Seen::with(limits).await;
    seen.until(200, "ok").await;
    seen.store.fail(Fault::Hanging);
    seen.until(503, "cluster: store lost").await;
    seen.store.heal();
    seen.until(200, "ok").await;
    seen.end().await;
}

#[actix::test]
async fn metrics_have_the_health_of_the_store_and_what_was_asked_of_it() {
    let seen = Seen::start().await;
    seen.until(200, "ok").await;
    let scrape = async || Exposition::parse(&format!("{}\n", seen.get("/metrics").await.1));
    let all = scrape().await;
    let state = |all: &Exposition, state| all.get("actix_lines_cluster_store", &[("state", state)]);
    assert_eq!((state(&all, "connected"), state(&all, "lost"), state(&all, "deaf")), (Some(1.0), Some(0.0), Some(0.0)));
    let calls = |all: &Exposition, result| all.get("actix_lines_cluster_store_calls_total", &[("result", result)]);
    assert!(calls(&all, "ok").is_some_and(|ok| ok >= 2.0));
    assert_eq!((calls(&all, "slow"), all.get("actix_lines_cluster_lives_total", &[])), (Some(0.0), Some(1.0)));
    assert!(all.get("actix_lines_cluster_lease_seconds", &[]).is_some_and(|left| left > 0.0 && left <= 3.0));
    seen.store.fail(Fault::Hanging);
    seen.until(200, "cluster: store lost").await;
    eventually("the lease to be over", async || seen.cluster.node().is_none()).await;
    let all = scrape().await;
    assert_eq!((state(&all, "connected"), state(&all, "lost")), (Some(0.0), Some(1.0)));
    assert!(calls(&all, "slow").is_some_and(|slow| slow >= 1.0));
    assert_eq!(all.get("actix_lines_cluster_lease_seconds", &[]), Some(0.0));
    assert!(all.get("actix_lines_cluster_store_silence_seconds", &[]).is_some_and(|silence| silence > 0.0));
    // Without the word there is nothing of it.
    let plain = Metrics::new(&seen.server.handle).encode().await.unwrap();
    assert!(!plain.contains("actix_lines_cluster"), "{plain}");
    seen.end().await;
}
