//! Whatever happens to nodes and their store, in whatever order: K1 to K5 hold against a model that knows no store.
//!
//! Servers of this process share a store in memory, on the paused clock. What happens is drawn from a seed, which is printed if
//! something does not hold: `CLUSTER_SEED=N` repeats it, `CLUSTER_SEEDS=N` tries so many others.
//! Not here: real stores and real processes (`cluster_proof`), each promise by itself (`cluster_lease` and its neighbours).

#[path = "support/members.rs"]
mod members;
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use actix::Addr;
use actix_lines::{
    LineServer, Room,
    cluster::{
        Cluster, ClusterFilter, ClusterQuery, FleetLimits, NodeId, Outcome, Store as _,
        memory::{Fault, Memory},
    },
};
use members::{Heard, Member, Nameable};
use support::{Peer, Server, at_once, eventually, pass, pause, within};
use tokio::{io::AsyncReadExt, time::Instant};

/// Most sessions of all nodes.
const MOST: usize = 14;
const STEPS: usize = 80;
const LEASE: Duration = Cluster::DEFAULT_LEASE;
/// Ends of sessions and their rows are on their way no longer than this while the store answers.
const WRITTEN: Duration = Duration::from_millis(500);
/// Longer than it takes to find out and begin again: a renewal, a call that is not answered, a pause, a probe.
const RECOVERY: Duration = Duration::from_secs(20);

/// A peer, and what the model knows of its session.
struct Person {
    peer: Peer,
    address: String,
    name: Option<String>,
    /// Lines that may have been pushed: it is not known.
    perhaps: BTreeSet<String>,
}

impl Person {
    async fn read_line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        loop {
            match at_once("a line", self.peer.stream.read_u8()).await {
                Ok(b'\n') => return Some(String::from_utf8(line).unwrap()),
                Ok(byte) => line.push(byte),
                Err(_) => return None,
            }
        }
    }

    /// The next line that is no push of which it is unknown whether it was done; each of these comes once at most.
    async fn expect(&mut self, expected: &str) {
        loop {
            let line = self.read_line().await;
            if line.as_deref() == Some(expected) {
                return;
            }
            let line = line.unwrap_or_else(|| panic!("{} has ended before {expected:?}", self.address));
            assert!(self.perhaps.remove(&line), "{}: {line:?} instead of {expected:?}", self.address);
        }
    }

    /// Says a line, which is answered at once: no time passes (K5).
    async fn say(&mut self, line: &str) {
        self.peer.send(format!("{line}\n").as_bytes()).await;
        self.expect(line).await;
    }
}

struct Node {
    name: &'static str,
    cluster: Cluster,
    server: Server,
    /// Its way to the store.
    store: Memory,
    people: Vec<Person>,
    room: Room,
    /// Somebody in the room, and what it heard, as far as it was looked at.
    _member: Addr<Member>,
    heard: Heard,
    /// The last number that was heard of each node.
    last: BTreeMap<String, u64>,
}

impl Node {
    async fn start(name: &'static str, store: &Memory) -> Self {
        let store = store.view();
        let limits = FleetLimits::builder().max_sessions(MOST as u64).build().unwrap();
        let cluster = Cluster::builder(store.clone()).node(name).limits(limits).build().unwrap();
        let server = LineServer::new(|_| Nameable).on_current_arbiter().cluster(&cluster).unwrap();
        let server = Server::start(server).await;
        let room = cluster.room("lobby").unwrap();
        let (member, heard) = Member::enter(&room);
        Self { name, cluster, server, store, people: Vec::new(), room, _member: member, heard, last: BTreeMap::new() }
    }

    /// Looks at what was heard since: each line once at most, in order for each node (K2).
    fn listen(&mut self) {
        for line in self.heard.take() {
            let (node, number) = line.split_once(' ').unwrap();
            let number: u64 = number.parse().unwrap();
            let before = self.last.insert(node.to_owned(), number);
            assert!(before < Some(number), "{}: {line:?} after number {before:?}", self.name);
        }
    }

    /// Addresses of the sessions that the server has.
    async fn truth(&self) -> BTreeSet<String> {
        self.server.sessions().await.into_iter().map(|session| session.peer.to_string()).collect()
    }

    fn addresses(&self) -> BTreeSet<String> {
        self.people.iter().map(|person| person.address.clone()).collect()
    }

    /// Waits until the server has the sessions that the model has.
    async fn agrees(&self) {
        eventually("the server to agree with the model", async || self.truth().await == self.addresses()).await;
    }
}

struct World {
    rng: fastrand::Rng,
    /// A way to the store that nothing is wrong with.
    store: Memory,
    nodes: Vec<Node>,
    /// Lives of nodes that were killed, and when.
    killed: Vec<(NodeId, Instant)>,
    /// Something was wrong since all was quiet.
    is_dirty: bool,
    /// The store has forgotten leases since then.
    has_forgotten: bool,
    /// When a session last ended.
    ended: Instant,
    /// Numbers of what was said and pushed.
    said: BTreeMap<&'static str, u64>,
    pushed: u64,
}

const NAMES: [&str; 3] = ["a", "b", "c"];
const PEOPLE: [&str; 3] = ["ann", "ben", "cid"];

impl World {
    async fn new(seed: u64) -> Self {
        pause();
        let mut world = Self {
            rng: fastrand::Rng::with_seed(seed),
            store: Memory::new(),
            nodes: Vec::new(),
            killed: Vec::new(),
            is_dirty: true,
            has_forgotten: false,
            ended: Instant::now(),
            said: BTreeMap::new(),
            pushed: 0,
        };
        for name in NAMES {
            let node = Node::start(name, &world.store).await;
            world.nodes.push(node);
        }
        world.quiet().await;
        world
    }

    fn total(&self) -> usize {
        self.nodes.iter().map(|node| node.people.len()).sum()
    }

    async fn open(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        let mut peer = Peer::connect(node.server.address()).await;
        peer.send(b"hello\n").await;
        let mut answer = [0; 6];
        // A store that does not answer is waited for.
        let read = within("an answer to a new peer", peer.stream.read_exact(&mut answer)).await;
        let is_in = read.is_ok() && answer == *b"hello\n";
        let total = self.total();
        let node = &mut self.nodes[place];
        if is_in {
            let address = peer.stream.local_addr().unwrap().to_string();
            node.people.push(Person { peer, address, name: None, perhaps: BTreeSet::new() });
            assert!(node.people.len() <= MOST, "no node alone lets in more than all may");
            assert!(self.is_dirty || total < MOST, "{total} there were of {MOST} (K4)");
        } else {
            let is_known = self.ended.elapsed() > WRITTEN;
            assert!(self.is_dirty || !is_known || total >= MOST, "refused, with {total} of {MOST} (K4)");
        }
    }

    async fn close(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        if !node.people.is_empty() {
            let person = node.people.swap_remove(self.rng.usize(..node.people.len()));
            drop(person);
            node.agrees().await;
            self.ended = Instant::now();
        }
    }

    /// Somebody says a line, or a new name.
    async fn talk(&mut self, place: usize) {
        let people = &mut self.nodes[place].people;
        if people.is_empty() {
            return;
        }
        let person = self.rng.choice(people).unwrap();
        if self.rng.bool() {
            let name = *self.rng.choice(&PEOPLE).unwrap();
            person.say(&format!("!name {name}")).await;
            person.name = Some(name.to_owned());
        } else {
            person.say("how do you do?").await;
        }
    }

    /// A node pushes to or kicks those of a name, and is answered (K3).
    async fn ask(&mut self, place: usize, is_kick: bool) {
        let name = *self.rng.choice(&PEOPLE).unwrap();
        self.pushed += 1;
        let line = format!("note {}", self.pushed);
        let cluster = self.nodes[place].cluster.clone();
        let filter = ClusterFilter::default().name(name);
        let answers = if is_kick {
            within("the answers to a kick", cluster.kick(filter, format!("{line}\n"))).await
        } else {
            within("the answers to a push", cluster.push(filter, format!("{line}\n"))).await
        };
        let answers = answers.expect("it is small, and the only one");
        assert!(self.is_dirty || answers.is_complete(), "{answers:?} where nothing is wrong");
        let own = self.nodes[place].name;
        for node in &mut self.nodes {
            let outcomes: Vec<_> = answers.nodes.iter().filter(|answer| *answer.node.as_str() == *node.name).collect();
            // One that has lost its lease and has another has two lives for a while, of which one is asked.
            let done = outcomes.iter().find_map(|answer| match answer.outcome {
                Outcome::Done { sessions, dropped } => Some(sessions + dropped),
                Outcome::NotFound => Some(0),
                _ => None,
            });
            let named = |person: &Person| person.name.as_deref() == Some(name);
            let count = node.people.iter().filter(|person| named(person)).count() as u64;
            match done {
                Some(done) => assert_eq!(done, count, "{name} at {}: {answers:?}", node.name),
                None => assert!(self.is_dirty && node.name != own, "{} does not answer: {answers:?}", node.name),
            }
            if count == 0 {
                continue;
            }
            if is_kick {
                if done.is_some() {
                    for person in node.people.iter_mut().filter(|person| named(person)) {
                        person.expect(&line).await;
                        assert_eq!(person.read_line().await, None, "a kick is an end");
                    }
                    node.people.retain(|person| !named(person));
                    node.agrees().await;
                } else {
                    // Unknown: by now it was done or never will be, or will be in a while.
                    pass(RECOVERY).await;
                    let truth = node.truth().await;
                    for person in node.people.iter_mut().filter(|person| named(person)) {
                        if !truth.contains(&person.address) {
                            person.expect(&line).await;
                        }
                    }
                    node.people.retain(|person| truth.contains(&person.address));
                }
                self.ended = Instant::now();
            } else {
                for person in node.people.iter_mut().filter(|person| named(person)) {
                    if done.is_some() {
                        person.expect(&line).await;
                    } else {
                        person.perhaps.insert(line.clone());
                    }
                }
            }
        }
    }

    fn say(&mut self, place: usize) {
        let node = &self.nodes[place];
        let number = self.said.entry(node.name).or_default();
        *number += 1;
        node.room.say(format!("{} {number}\n", node.name));
    }

    fn fail(&mut self, place: usize) {
        let faults = [
            Fault::None,
            Fault::Lost,
            Fault::Hanging,
            Fault::Unanswered,
            Fault::Slow(Duration::from_millis(self.rng.u64(..1500))),
            Fault::Refusing,
            Fault::Deaf,
            Fault::Partitioned,
        ];
        self.is_dirty = true;
        self.nodes[place].store.fail(*self.rng.choice(&faults).unwrap());
    }

    /// A node dies without a word to the store.
    async fn kill(&mut self, place: usize) {
        if self.nodes.len() < 2 {
            return;
        }
        self.is_dirty = true;
        let node = self.nodes.swap_remove(place);
        node.store.fail(Fault::Partitioned);
        let lives = self.store.nodes().await.unwrap().into_iter().map(|node| node.id);
        let now = Instant::now();
        self.killed.extend(lives.filter(|life| *life.name.as_str() == *node.name).map(|life| (life, now)));
        node.server.end_all().await;
        self.ended = Instant::now();
    }

    async fn join(&mut self) {
        let free = NAMES.into_iter().find(|name| self.nodes.iter().all(|node| node.name != *name));
        if let Some(name) = free {
            self.is_dirty = true;
            let node = Node::start(name, &self.store).await;
            self.nodes.push(node);
        }
    }

    async fn step(&mut self) {
        let place = self.rng.usize(..self.nodes.len());
        match self.rng.u32(..100) {
            0..22 => self.open(place).await,
            22..32 => self.close(place).await,
            32..47 => self.talk(place).await,
            47..53 => self.ask(place, false).await,
            53..58 => self.ask(place, true).await,
            58..72 => self.say(place),
            72..80 => self.fail(place),
            80..82 => {
                (self.is_dirty, self.has_forgotten) = (true, true);
                self.store.forget();
            }
            82..84 => {
                (self.is_dirty, self.has_forgotten) = (true, true);
                self.store.restart();
            }
            84..86 => self.kill(place).await,
            86..89 => self.join().await,
            89..92 => self.quiet().await,
            92..98 => pass(Duration::from_millis(self.rng.u64(..1_000))).await,
            _ => pass(Duration::from_millis(self.rng.u64(..15_000))).await,
        }
        self.always().await;
    }

    /// What holds at any time.
    async fn always(&mut self) {
        let live: BTreeSet<NodeId> = self.store.nodes().await.unwrap().into_iter().map(|node| node.id).collect();
        for (life, at) in &self.killed {
            // A call that was on its way when it died may have renewed it.
            let is_over = at.elapsed() > LEASE + Duration::from_secs(2);
            assert!(!is_over || !live.contains(life), "{life} is dead for {:?} (K1)", at.elapsed());
        }
        for node in &mut self.nodes {
            node.listen();
            if let Some(life) = node.cluster.node() {
                assert!(self.has_forgotten || live.contains(&life), "{life} claims without a lease (K1)");
            }
        }
    }

    /// All faults end, and some time later everything is true.
    async fn quiet(&mut self) {
        self.nodes.iter().for_each(|node| node.store.heal());
        pass(RECOVERY).await;
        let live = self.store.nodes().await.unwrap();
        let names = |nodes: BTreeSet<&str>| nodes.into_iter().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            names(live.iter().map(|node| node.id.name.as_str()).collect()),
            names(self.nodes.iter().map(|node| node.name).collect()),
            "each node lives once (K1)"
        );
        assert_eq!(live.len(), self.nodes.len());

        let expected: BTreeSet<_> = self
            .nodes
            .iter()
            .flat_map(|node| {
                node.people.iter().map(|person| (node.name.to_owned(), person.address.clone(), person.name.clone()))
            })
            .collect();
        for node in &self.nodes {
            node.agrees().await;
            let page = node.cluster.list(ClusterQuery::default().limit(1000)).await.unwrap();
            assert!(page.unread.is_empty(), "{page:?}");
            let listed: BTreeSet<_> = page
                .sessions
                .iter()
                .map(|session| {
                    (session.id.node.name.to_string(), session.peer.clone(), session.name.as_deref().map(str::to_owned))
                })
                .collect();
            assert_eq!(listed, expected, "as {} lists them (K1)", node.name);
            for name in PEOPLE {
                let found = node.cluster.lookup(name).await.unwrap().sessions.len();
                assert_eq!(found, expected.iter().filter(|row| row.2.as_deref() == Some(name)).count(), "{name}");
            }
            let claimed = node.cluster.node();
            assert!(live.iter().any(|node| Some(&node.id) == claimed.as_ref()), "{claimed:?}");
        }
        (self.is_dirty, self.has_forgotten) = (false, false);
        self.killed.clear();

        // What is said now everybody hears (K2).
        for place in 0..self.nodes.len() {
            self.say(place);
        }
        pass(WRITTEN).await;
        let said: Vec<_> = self.nodes.iter().map(|node| (node.name, self.said[node.name])).collect();
        for node in &mut self.nodes {
            node.listen();
            for (name, number) in &said {
                assert_eq!(node.last.get(*name), Some(number), "{} hears {name} (K2)", node.name);
            }
        }
        // There are as many places as there should be (K4).
        while self.total() > MOST {
            let most = (0..self.nodes.len()).max_by_key(|place| self.nodes[*place].people.len());
            self.close(most.expect("a node")).await;
        }
        pass(WRITTEN).await;
        while self.total() < MOST {
            let (before, place) = (self.total(), self.rng.usize(..self.nodes.len()));
            self.open(place).await;
            assert_eq!(self.total(), before + 1, "there is a place (K4)");
        }
        for place in 0..self.nodes.len() {
            self.open(place).await;
            assert_eq!(self.total(), MOST, "there is no place (K4)");
        }
        // Room for what comes.
        for _ in 0..self.rng.usize(..=MOST) {
            let place = self.rng.usize(..self.nodes.len());
            self.close(place).await;
        }
        pass(WRITTEN).await;
    }
}

/// Says which seed it was when something does not hold.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("CLUSTER_SEED={} repeats this", self.0);
        }
    }
}

fn run(seed: u64) {
    let seed = Seed(seed);
    actix_rt::System::new().block_on(async {
        let mut world = World::new(seed.0).await;
        for _ in 0..STEPS {
            world.step().await;
        }
        world.quiet().await;
        for node in world.nodes {
            node.server.end_all().await;
        }
        assert_eq!(world.store.nodes().await.unwrap().len(), 0, "who ends well leaves nothing");
    });
}

#[test]
fn whatever_happens_all_promises_hold_against_a_model() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("CLUSTER_SEED") {
        return run(seed);
    }
    for _ in 0..number("CLUSTER_SEEDS").unwrap_or(8) {
        run(fastrand::u64(..1_000_000_000));
    }
}
