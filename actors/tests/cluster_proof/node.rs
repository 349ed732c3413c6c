//! A node of a cluster as a process of its own: this program again. Signals reach a real process that way.

use std::{
    env,
    io::{self, Write as _},
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use actix_lines::{
    LineServer,
    cluster::{Cluster, ClusterFilter, ClusterQuery, FleetLimits, OnPartition, redis::Redis},
};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::members::{Member, Nameable};

/// The words of a node: JSON.
pub(crate) const WORDS: &str = "CLUSTER_PROOF_NODE";

/// Runs a node, if this program was started as one.
#[test]
fn serves() {
    let Ok(words) = env::var(WORDS) else { return };
    // Whatever becomes of the test.
    set_parent_process_death_signal(Some(Signal::KILL)).expect("Linux does that");
    // Where a panic is caught its cause is seldom seen: here it is the end, and the test says that its node has gone.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        hook(panic);
        std::process::abort();
    }));
    let words = serde_json::from_str(&words).expect("the words of a node");
    actix_rt::System::new().block_on(serve(words));
}

/// More sessions than there are.
const MANY: u64 = 1_000_000;

fn limits(sessions: u64, policy: OnPartition) -> FleetLimits {
    FleetLimits::builder().max_sessions(sessions).on_partition(policy).build().expect("limits")
}

async fn serve(words: Value) {
    let text = |key: &str| words[key].as_str().expect(key).to_owned();
    let store = Redis::at(text("store")).build().expect("a store");
    let lease = Duration::from_millis(words["lease"].as_u64().expect("lease"));
    let cluster = Cluster::builder(store)
        .node(text("name"))
        .lease(lease)
        .limits(limits(MANY, OnPartition::Open))
        .call_timeout((lease / 3).min(Cluster::DEFAULT_CALL_TIMEOUT))
        .build()
        .expect("a cluster");
    let address = words["listen"].as_str().unwrap_or("127.0.0.1:0");
    let server = LineServer::new(|_| Nameable).workers(1).cluster(&cluster).expect("one server");
    let server = server.bind(address).expect("a free port").start().expect("it starts");
    let room = cluster.room("lobby").expect("a room");
    let (_member, heard) = Member::enter(&room);
    let listener = TcpListener::bind(address).await.expect("a free port");
    let control = listener.local_addr().expect("an address");
    writeln!(io::stdout(), "node {} {control}", server.local_addrs()[0]).expect("the test reads it");
    while let Ok((stream, _)) = listener.accept().await {
        let (cluster, room, heard) = (cluster.clone(), room.clone(), heard.clone());
        tokio::task::spawn_local(async move {
            let (read, mut write) = stream.into_split();
            let mut questions = BufReader::new(read).lines();
            while let Ok(Some(question)) = questions.next_line().await {
                let (word, rest) = question.split_once(' ').unwrap_or((&question, ""));
                let answer = match word {
                    "node" => json!({
                        "node": cluster.node(),
                        "health": cluster.health().name(),
                        "clock": SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs()),
                    }),
                    "stats" => serde_json::to_value(cluster.stats()).expect("JSON"),
                    "say" => {
                        room.say(format!("{rest}\n"));
                        json!({})
                    }
                    "heard" => json!(heard.lines()),
                    "limit" => {
                        // Exact also where the machine is so busy that the store is late.
                        cluster.set_limits(limits(rest.parse().expect("a number"), OnPartition::Closed));
                        json!({})
                    }
                    "no-limit" => {
                        cluster.set_limits(limits(MANY, OnPartition::Open));
                        json!({})
                    }
                    "kick" => match cluster.kick(ClusterFilter::default().name(rest), "goodbye\n").await {
                        Ok(answers) => serde_json::to_value(answers).expect("JSON"),
                        Err(error) => json!({ "error": error.to_string() }),
                    },
                    "list" => match cluster.list(ClusterQuery::default().limit(0)).await {
                        Ok(page) => json!({ "total": page.total }),
                        Err(error) => json!({ "error": error.to_string() }),
                    },
                    other => json!({ "unknown": other }),
                };
                if write.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Asks a node by its control port.
pub(crate) async fn ask(control: SocketAddr, question: &str) -> io::Result<Value> {
    let mut stream = TcpStream::connect(control).await?;
    stream.write_all(format!("{question}\n").as_bytes()).await?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await?;
    Ok(serde_json::from_str(&answer)?)
}
