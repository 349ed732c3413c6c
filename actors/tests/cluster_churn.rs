//! Rooms of a cluster that come and go leave nothing, however many they are, and however seldom their node looks at them.
//!
//! Bytes in use are counted, and time plays no part. Not here: what is said in them (`cluster_rooms`).

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use actix_lines::{
    LineServer, Room, Rot13,
    cluster::{Cluster, RoomStats, memory::Memory},
    uplink::Uplink,
};
use tikv_jemalloc_ctl::{epoch, stats};
use tokio::task::yield_now;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const ROOMS: usize = 100_000;

/// Rooms that are there at the same time.
const AT_ONCE: usize = 100;

/// More than a node takes for the rooms of a turn. If each of all of them left a hundred bytes, it would be twice as much.
const FEW_BYTES: usize = 4 * 1024 * 1024;

/// More than what the node has yet to learn of 4096 rooms that are gone takes, and those that are gone without it.
const MANY_BYTES: usize = 16 * 1024 * 1024;

/// Waits until no other test measures: the allocator counts for the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes in use, as the allocator rounds them up.
fn allocated() -> usize {
    epoch::advance().unwrap();
    stats::allocated::read().unwrap()
}

/// The most bytes in use, beyond those of the beginning.
struct Most {
    begin: usize,
    most: usize,
}

impl Most {
    fn begin() -> Self {
        Self { begin: allocated(), most: 0 }
    }

    fn look(&mut self) {
        self.most = self.most.max(allocated().saturating_sub(self.begin));
    }

    #[track_caller]
    fn is_below(&self, bytes: usize, what: &str) {
        eprintln!("{what}: {} bytes", self.most);
        assert!(self.most < bytes, "{what}: {} bytes", self.most);
    }
}

fn cluster() -> Cluster {
    Cluster::builder(Memory::new()).node("a").build().unwrap()
}

/// Has rooms of these names come and go, some at a time. Returns the most bytes meanwhile.
fn churn(cluster: &Cluster, names: impl Iterator<Item = usize>, then: impl Fn(&Room)) -> Most {
    let mut most = Most::begin();
    let mut rooms = Vec::with_capacity(AT_ONCE);
    for name in names {
        let room = cluster.room(&format!("a room of the name {name}")).unwrap();
        then(&room);
        rooms.push(room);
        if rooms.len() == AT_ONCE {
            rooms.clear();
            if name % (10 * AT_ONCE) == AT_ONCE - 1 {
                most.look();
            }
        }
    }
    most.look();
    most
}

/// The same on three threads.
fn churn_on_threads(cluster: &Cluster) -> Vec<JoinHandle<Most>> {
    let part = |nth: usize| nth * ROOMS / 3..(nth + 1) * ROOMS / 3;
    let on_thread = |nth| {
        let cluster = cluster.clone();
        thread::spawn(move || churn(&cluster, part(nth), |_| {}))
    };
    (0..3).map(on_thread).collect()
}

fn join(threads: Vec<JoinHandle<Most>>, what: &str) {
    threads.into_iter().for_each(|thread| thread.join().unwrap().is_below(FEW_BYTES, what));
}

/// Runs the node of a cluster.
fn with_node<T>(cluster: &Cluster, then: impl AsyncFnOnce() -> T) -> T {
    actix_rt::System::new().block_on(async {
        let server = LineServer::new(|_| Rot13).on_current_arbiter().bind("127.0.0.1:0").unwrap();
        let server = server.cluster(cluster).unwrap().start().unwrap();
        while cluster.node().is_none() {
            yield_now().await;
        }
        let result = then().await;
        server.abort().await.unwrap();
        server.wait().await.unwrap();
        result
    })
}

async fn until_there_are_no_rooms(cluster: &Cluster) {
    while !cluster.rooms().is_empty() {
        yield_now().await;
    }
}

#[test]
fn rooms_that_come_and_go_before_the_node_starts_leave_nothing() {
    let _alone = alone();
    let cluster = cluster();
    churn(&cluster, 0..ROOMS, |_| {}).is_below(FEW_BYTES, "each with its name");
    churn(&cluster, (0..ROOMS).map(|_| 1), |_| {}).is_below(FEW_BYTES, "all with the same name");
    join(churn_on_threads(&cluster), "on three threads");
    assert_eq!(cluster.rooms(), []);
    // What waits for the node is bounded, and so is what it has to learn of rooms that are gone.
    let lobby = cluster.room("lobby").unwrap();
    while cluster.stats().rooms.lost == 0 {
        lobby.say(vec![b'x'; 1024]);
    }
    churn(&cluster, 0..ROOMS, |room| room.say("x")).is_below(MANY_BYTES, "what each has said is lost");
    assert_eq!(cluster.stats().rooms.lost, 1 + ROOMS as u64);
    with_node(&cluster, async || {
        let names = || cluster.rooms().into_iter().map(|RoomStats { name, .. }| name).collect::<Vec<_>>();
        while names() != ["lobby"] {
            yield_now().await;
        }
    });
}

#[test]
fn rooms_that_come_and_go_faster_than_the_node_looks_leave_nothing() {
    let _alone = alone();
    let cluster = cluster();
    with_node(&cluster, async || {
        churn(&cluster, 0..ROOMS, |_| {}).is_below(FEW_BYTES, "while it does not look");
        churn(&cluster, (0..ROOMS).map(|_| 1), |_| {}).is_below(FEW_BYTES, "all with the same name");
        join(churn_on_threads(&cluster), "on three threads, while it does not look");
        let threads = churn_on_threads(&cluster);
        while !threads.iter().all(JoinHandle::is_finished) {
            yield_now().await;
        }
        join(threads, "on three threads, while it looks now and then");
        until_there_are_no_rooms(&cluster).await;
    });
}

#[test]
fn rooms_that_the_node_has_seen_leave_nothing_when_they_are_gone() {
    let _alone = alone();
    let cluster = cluster();
    with_node(&cluster, async || {
        let mut most = Most::begin();
        for nth in 0..ROOMS / AT_ONCE {
            let rooms: Vec<_> =
                (0..AT_ONCE).map(|at| cluster.room(&(nth * AT_ONCE + at).to_string()).unwrap()).collect();
            yield_now().await;
            yield_now().await;
            drop(rooms);
            most.look();
        }
        until_there_are_no_rooms(&cluster).await;
        most.look();
        most.is_below(FEW_BYTES, "some seen, some not");
    });
}

#[test]
fn an_uplink_whose_feed_nobody_reads_keeps_nothing_of_rooms_that_are_gone() {
    let _alone = alone();
    let (uplink, _feed) = Uplink::new(1024);
    let mut most = Most::begin();
    for key in 0..ROOMS as u64 {
        assert!(Room::new().link(&uplink, key));
    }
    most.look();
    most.is_below(FEW_BYTES, "linked and gone");
}
