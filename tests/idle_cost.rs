//! R1: an idle session costs under 700 bytes of heap, everything on.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use actix_lines::{
    Connection, LineServer, Listener, Rot13,
    cluster::{
        Change, Cluster, Cursor, FleetLimits, Held, Message, NamedRows, NodeId, NodeRecord, RowPage, Store,
        StoreAnswer, StoreError, Subscription, Verdict, Want,
    },
    limits::{Limits, LimitsBuilder, Rate, RateLimit},
};
use bytes::Bytes;
use rustix::{
    net::{AddressFamily, SocketType, bind, connect, socket},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tikv_jemalloc_ctl::{epoch, stats, thread};
use tokio::sync::mpsc;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Bytes in use, as the allocator rounds them up.
fn allocated() -> usize {
    epoch::advance().unwrap();
    stats::allocated::read().unwrap()
}

/// Connections of which both ends fit this process.
fn room() -> usize {
    let limit = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit });
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(20_000);
    (descriptors.min(20_000) as usize - 100) / 2
}

/// A connection from an address that no other has: the most that counting by source can cost.
fn connect_from_its_own_address(number: usize, to: SocketAddr) -> TcpStream {
    let [_, _, high, low] = (number as u32 + 256).to_be_bytes();
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::new(127, 9, high, low), 0)).unwrap();
    connect(&socket, &to).unwrap();
    TcpStream::from(socket)
}

/// Every limit and every time, none of which is reached.
fn everything_on() -> LimitsBuilder {
    let rate = Some(Rate::per_second(1_000_000));
    let day = Some(Duration::from_secs(24 * 3600));
    Limits::builder()
        .max_sessions(100_000)
        .max_sessions_per_source(1000)
        .accept_rate(rate)
        // A source is forgotten when its rate has recovered, which here is at once.
        .accept_rate_per_source(Some(Rate { per_second: 1_000_000, burst: 1 }))
        .deny(["192.0.2.0/24".parse().unwrap()])
        .idle_timeout(day)
        .line_timeout(day)
        .write_timeout(day)
        .max_age(day)
        .session_rate(RateLimit { bytes: rate, lines: rate })
}

type Server = LineServer<Rot13, fn(&Connection) -> Rot13>;

/// Waits until no other test measures: the allocator counts for the whole process, and so do descriptors.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is allocated for so many idle sessions of a server, once it has done what is to be done for them.
fn used(sessions: usize, with: impl FnOnce(Server) -> Server, is_done: impl Fn() -> bool) -> usize {
    let _alone = alone();
    let patience = Duration::from_secs(60);
    actix_rt::System::new().block_on(async {
        let server: Server = LineServer::new(|_| Rot13);
        let server = with(server.limits(everything_on().build().unwrap()))
            .on_current_arbiter()
            .bind("127.0.0.1:0")
            .unwrap()
            .start()
            .unwrap();
        let address = server.local_addrs()[0];
        let live = async |count: u64| {
            let mut ticks = tokio::time::interval(Duration::from_millis(5));
            let all = async {
                while server.stats().await.unwrap().live != count {
                    ticks.tick().await;
                }
            };
            tokio::time::timeout(patience, all).await.unwrap_or_else(|_| panic!("waited in vain for {count} sessions"));
        };
        // Warm: the scratch, the outbox on loan, the first chunk of slots.
        let mut peers = Vec::with_capacity(sessions + 1);
        peers.push(TcpStream::connect(address).unwrap());
        live(1).await;
        let before = allocated();
        for batch in 0..sessions.div_ceil(1000) {
            for _ in batch * 1000..sessions.min((batch + 1) * 1000) {
                let mut peer = connect_from_its_own_address(peers.len(), address);
                peer.write_all(b"a line, and the beginning of another\nwhich then").unwrap();
                peers.push(peer);
            }
            live(peers.len() as u64).await;
        }
        // Each has answered a line, held the beginning of another, and been given its end.
        for peer in &mut peers[1..] {
            peer.write_all(b" ends\n").unwrap();
        }
        for peer in &mut peers[1..] {
            peer.set_nonblocking(true).unwrap();
            let mut answer = Vec::new();
            let mut buffer = [0; 100];
            let whole = async {
                while answer.len() < "a line, and the beginning of another\nwhich then ends\n".len() {
                    match peer.read(&mut buffer) {
                        Ok(count) => answer.extend_from_slice(&buffer[..count]),
                        Err(_) => tokio::task::yield_now().await,
                    }
                }
            };
            tokio::time::timeout(patience, whole).await.expect("an answer");
        }
        let done = async {
            while !is_done() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(patience, done).await.expect("what is to be done for idle sessions");
        let used = allocated().saturating_sub(before);
        drop(peers);
        live(0).await;
        server.abort().await.unwrap();
        used
    })
}

#[test]
fn an_idle_session_costs_under_700_bytes_of_heap() {
    let sessions = room();
    let each = used(sessions, |server| server, || true) / sessions;
    eprintln!("{each} bytes for each of {sessions} idle sessions");
    assert!(each < 700, "{each} bytes for each of {sessions} idle sessions");
    assert!(each > 256, "{each} bytes each: that is less than the task, so something was not measured");
}

/// Bytes that a node without limits over nodes allocates for each accept, whatever becomes of them, on a listener with its gate or one
/// without.
fn spent(listener: Listener) -> u64 {
    const ACCEPTS: u64 = 1000;
    let _alone = alone();
    actix_rt::System::new().block_on(async {
        let cluster = Cluster::builder(KeepsNothing).node("a").build().unwrap();
        let server = LineServer::new(|_| Rot13).listen(listener).unwrap().cluster(&cluster).unwrap();
        let server = server.on_current_arbiter().start().unwrap();
        let address = server.local_addrs()[0];
        // Nothing here waits by a timer, which allocates: each peer asks until it is answered.
        let greet = async || {
            let mut peer = TcpStream::connect(address).unwrap();
            peer.write_all(b"Hello\n").unwrap();
            peer.set_nonblocking(true).unwrap();
            let mut answer = [0; 6];
            let answered = async {
                while peer.read(&mut answer).is_err() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), answered).await.expect("an answer");
            assert_eq!(&answer, b"Uryyb\n");
            peer
        };
        let mut peers = Vec::with_capacity(2 * ACCEPTS as usize);
        for _ in 0..ACCEPTS {
            peers.push(greet().await);
        }
        // Warm by now. What has ended leaves its room to the next ones.
        peers.clear();
        let here = thread::allocatedp::read().unwrap();
        let before = here.get();
        for _ in 0..ACCEPTS {
            drop(greet().await);
        }
        let spent = here.get() - before;
        server.abort().await.unwrap();
        spent / ACCEPTS
    })
}

#[test]
fn an_accept_of_a_node_without_limits_over_nodes_waits_at_no_gate_and_costs_a_permit_more() {
    let listener = || Listener::tcp("127.0.0.1:0");
    let (without, with) = (spent(listener().without_gates()), spent(listener()));
    eprintln!("{with} bytes for an accept of a node, {without} without its gate");
    let more = with.saturating_sub(without);
    // A task and a future would be more than a thousand. What else a node does meanwhile is some ten bytes for each accept.
    assert!(more < 400, "{more} bytes more: that is more than a permit");
    assert!(with > 256, "{with} bytes: that is less than the task of a session, so something was not measured");
}

#[test]
fn an_idle_session_of_a_node_costs_its_permit_its_row_and_its_source_more() {
    let sessions = room();
    let plain = used(sessions, |server| server, || true) / sessions;
    let node = |limits: FleetLimits| {
        let cluster = Cluster::builder(KeepsNothing).node("a").limits(limits).build().unwrap();
        let are_written = || cluster.stats().rows_written >= sessions as u64;
        used(sessions, |server| server.cluster(&cluster).unwrap(), are_written) / sessions - plain
    };
    let without = node(FleetLimits::default());
    let with = node(FleetLimits::builder().max_sessions(100_000).max_sessions_per_source(1000).build().unwrap());
    eprintln!("{without} bytes more for each of {sessions} idle sessions of a node, {with} with limits over nodes");
    assert!(without < 400, "{without} bytes more for each of {sessions} idle sessions of a node");
    assert!(with < 700, "{with} bytes more for each of {sessions} idle sessions of a node with limits over nodes");
    assert!(without > 50 && with > without, "{without} and {with} bytes: something was not measured");
}

/// A store that grants everything and remembers nothing, so that only the node's own memory is measured.
#[derive(Debug)]
struct KeepsNothing;

fn done<'a, T: Send + 'a>(value: T) -> StoreAnswer<'a, T> {
    Box::pin(std::future::ready(Ok(value)))
}

impl Store for KeepsNothing {
    fn register<'a>(&'a self, _: &'a NodeId, _: &'a Change) -> StoreAnswer<'a, ()> {
        done(())
    }

    fn unregister<'a>(&'a self, _: &'a NodeId) -> StoreAnswer<'a, ()> {
        done(())
    }

    fn nodes(&self) -> StoreAnswer<'_, Vec<NodeRecord>> {
        done(Vec::new())
    }

    fn list<'a>(&'a self, _: &'a NodeId, _: Option<Cursor>) -> StoreAnswer<'a, RowPage> {
        done(RowPage::default())
    }

    fn lookup<'a>(&'a self, _: &'a str) -> StoreAnswer<'a, NamedRows> {
        done(NamedRows::default())
    }

    fn publish<'a>(&'a self, _: &'a str, _: Bytes) -> StoreAnswer<'a, u64> {
        done(1)
    }

    fn subscribe(&self, _: mpsc::Sender<Message>) -> StoreAnswer<'_, Box<dyn Subscription>> {
        Box::pin(std::future::ready(Err(StoreError::Refused { reason: "nothing is published here".to_owned() })))
    }

    fn acquire<'a>(&'a self, _: &'a NodeId, _: &'a Held, wants: &'a [Want]) -> StoreAnswer<'a, Vec<Verdict>> {
        done(vec![Verdict::Granted; wants.len()])
    }
}
