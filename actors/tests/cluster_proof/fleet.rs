//! Nodes, their peers, and what has to be true of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use actix_lines::cluster::{Store as _, redis::Redis};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    load::{Load, Peers, try_session},
    node::{self, WORDS},
    support::{eventually, within},
};

/// Sizes and times: those of every run, and those of the long form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// Sessions of each node.
    pub(crate) sessions: usize,
    /// Those of them who type.
    pub(crate) typists: usize,
    pub(crate) lease: Duration,
    /// How long a store is gone.
    pub(crate) outage: Duration,
}

impl Form {
    /// The long form if the environment asks for it.
    pub(crate) fn of_run() -> Self {
        if std::env::var_os("CLUSTER_LONG").is_some() {
            let (lease, outage) = (Duration::from_secs(10), Duration::from_secs(30));
            Self { sessions: 2_000, typists: 20, lease, outage }
        } else {
            let (lease, outage) = (Duration::from_secs(3), Duration::from_secs(5));
            Self { sessions: 200, typists: 5, lease, outage }
        }
    }
}

/// A node's process.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    control: SocketAddr,
}

impl Drop for Node {
    fn drop(&mut self) {
        // Ends one that is stopped, too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Node {
    pub(crate) fn start(name: &str, store: &str, form: Form) -> Self {
        Self::start_by(Command::new(std::env::current_exe().unwrap()), name, store, form)
    }

    /// Starts a node by a command that ends with this program.
    pub(crate) fn start_by(command: Command, name: &str, store: &str, form: Form) -> Self {
        Self::start_at("127.0.0.1", command, name, store, form)
    }

    /// The same in a network of its own, where it listens on all addresses, of which this is one.
    pub(crate) fn start_at(ip: &str, mut command: Command, name: &str, store: &str, form: Form) -> Self {
        let listen = if ip == "127.0.0.1" { "127.0.0.1:0" } else { "0.0.0.0:0" };
        let words = json!({ "name": name, "store": store, "lease": form.lease.as_millis() as u64, "listen": listen });
        command.args(["--exact", "node::serves", "--nocapture"]).env(WORDS, words.to_string());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let line = output
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("node ").map(|(_, line)| line.to_owned()))
            .expect("a node says where it listens");
        // What the harness of tests writes later has to go somewhere.
        std::thread::spawn(move || output.map_while(Result::ok).for_each(drop));
        let line = line.replace("0.0.0.0", ip);
        let (address, control) = line.split_once(' ').expect("two addresses");
        Self { name: name.to_owned(), child, address: address.parse().unwrap(), control: control.parse().unwrap() }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) async fn ask(&self, question: &str) -> Value {
        node::ask(self.control, question).await.unwrap_or_else(|error| panic!("{} {question}: {error}", self.name))
    }

    /// The life that it claims.
    pub(crate) async fn life(&self) -> Option<String> {
        self.ask("node").await["node"].as_str().map(str::to_owned)
    }

    pub(crate) async fn is_connected(&self) -> bool {
        let answer = self.ask("node").await;
        answer["health"] == "connected" && answer["node"].is_string()
    }
}

/// Nodes with their peers.
pub(crate) struct Fleet {
    pub(crate) form: Form,
    pub(crate) load: Load,
    pub(crate) nodes: BTreeMap<String, (Node, Peers)>,
    /// Number of what was last said in the room.
    said: u64,
}

impl Fleet {
    /// Starts three nodes, each with the store that it reaches by a URL of its own, and waits until all is written.
    pub(crate) async fn start(form: Form, urls: &[String; 3], reader: &Redis) -> Self {
        let mut fleet = Self { form, load: Load::start(), nodes: BTreeMap::new(), said: 0 };
        for (name, url) in ["a", "b", "c"].into_iter().zip(urls) {
            fleet.add(Node::start(name, url, form)).await;
        }
        fleet.is_true(reader, "the fleet to be written").await;
        fleet
    }

    /// Adds a node, and connects its peers.
    pub(crate) async fn add(&mut self, node: Node) {
        let peers = self.load.peers(node.address, self.form.sessions, self.form.typists).await;
        self.nodes.insert(node.name.clone(), (node, peers));
    }

    pub(crate) fn node(&self, name: &str) -> &Node {
        &self.nodes[name].0
    }

    pub(crate) fn peers(&mut self, name: &str) -> &mut Peers {
        &mut self.nodes.get_mut(name).expect("a node").1
    }

    /// Takes a node away with its process, whose typists have to have stopped.
    pub(crate) fn remove(&mut self, name: &str) -> (Node, Peers) {
        self.nodes.remove(name).expect("a node")
    }

    /// Waits until each typist has been answered so many lines more: no line waits for the store.
    pub(crate) async fn type_on(&self) {
        let goals: Vec<_> = self.nodes.values().map(|(_, peers)| (peers, peers.goals(20))).collect();
        for (peers, goals) in goals {
            peers.reach(goals).await;
        }
    }

    /// Waits until lists of the store are exactly what is there: each session of each node, by its peer, and nothing else.
    /// Returns how long that took.
    pub(crate) async fn is_true(&self, reader: &Redis, what: &str) -> Duration {
        let begin = Instant::now();
        let mut expected: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for (name, (_, peers)) in &self.nodes {
            expected.insert(name, peers.addresses().map(|address| address.to_string()).collect());
        }
        eventually(what, async || {
            rows(reader).await.is_ok_and(|found| {
                found.len() == expected.len()
                    && found.iter().zip(&expected).all(|((life, rows), (name, expected))| {
                        life.rsplit_once('.').is_some_and(|(found, _)| found == *name) && rows == expected
                    })
            })
        })
        .await;
        begin.elapsed()
    }

    /// Everything works: each node kicks a session of another and is answered, lists all of them, and all together let in as
    /// many as there is room for, not one more.
    pub(crate) async fn works(&mut self, reader: &Redis) {
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for (place, asker) in names.iter().enumerate() {
            let owner = &names[(place + 1) % names.len()];
            let mut attempt = 0;
            // A node that has only just come back may not hear yet: that is answered, too.
            eventually("a kick to be done by another node", async || {
                attempt += 1;
                let name = format!("{owner} from {asker} {attempt}");
                let peers = &mut self.nodes.get_mut(owner).expect("a node").1;
                let (_, mut peer) = peers.held.pop().expect("one who stays");
                let line = format!("!name {name}\n");
                peer.write_all(line.as_bytes()).await.unwrap();
                let mut answer = vec![0; line.len()];
                peer.read_exact(&mut answer).await.unwrap();
                let answers = self.nodes[asker].0.ask(&format!("kick {name}")).await;
                let nodes = answers["nodes"].as_array().unwrap_or_else(|| panic!("{asker} is not answered: {answers}"));
                let is_done = |answer: &&Value| answer["node"] == **owner && answer["outcome"]["done"]["sessions"] == 1;
                if !nodes.iter().any(|answer| is_done(&answer)) {
                    return false;
                }
                let mut goodbye = String::new();
                within("a kicked session to end", peer.read_to_string(&mut goodbye)).await.unwrap();
                assert_eq!(goodbye, "goodbye\n");
                true
            })
            .await;
        }
        self.is_true(reader, "the kicked sessions to be gone").await;

        // A node that has only just come back may not be heard yet: what is said in a room is heard at most once.
        eventually("each node to be heard by all", async || {
            self.said += 1;
            for name in &names {
                self.nodes[name].0.ask(&format!("say {name} {}", self.said)).await;
            }
            let last = |line: &Value| line.as_str().is_some_and(|line| line.ends_with(&format!(" {}", self.said)));
            for (node, _) in self.nodes.values() {
                let heard =
                    async || node.ask("heard").await.as_array().map(|all| all.iter().filter(|line| last(line)).count());
                let (mut looks, mut ticks) = (0..50, tokio::time::interval(Duration::from_millis(2)));
                while heard().await != Some(names.len()) {
                    // It was lost: once more.
                    if looks.next().is_none() {
                        return false;
                    }
                    ticks.tick().await;
                }
            }
            true
        })
        .await;
        for (node, _) in self.nodes.values() {
            let mut last: BTreeMap<String, u64> = BTreeMap::new();
            for line in node.ask("heard").await.as_array().expect("lines") {
                let (name, number) = line.as_str().and_then(|line| line.split_once(' ')).expect("a name and a number");
                let before = last.insert(name.to_owned(), number.parse().expect("a number"));
                assert!(before < last.get(name).copied(), "{} hears {line} after {before:?}", node.name);
            }
        }

        let total: usize = self.nodes.values().map(|(_, peers)| peers.addresses().count()).sum();
        for (node, _) in self.nodes.values() {
            eventually("a list of all", async || node.ask("list").await["total"] == total).await;
            node.ask(&format!("limit {}", total + 10)).await;
        }
        let addresses: Vec<_> = self.nodes.values().map(|(node, _)| node.address).collect();
        let (mut next, mut let_in) = (addresses.iter().cycle(), Vec::new());
        // What has ended a moment ago is still on its way to the store.
        eventually("ten places", async || {
            let_in.extend(try_session(*next.next().expect("they cycle")).await);
            let_in.len() >= 10
        })
        .await;
        for address in &addresses {
            for _ in 0..3 {
                assert!(try_session(*address).await.is_none(), "there are ten places and no more");
            }
        }
        for (node, _) in self.nodes.values() {
            node.ask("no-limit").await;
        }
        drop(let_in);
        self.is_true(reader, "those who filled the limit to be gone").await;
    }

    /// Says how the typists fared, who have to have got everything.
    pub(crate) fn report(&self, what: &str) {
        for (name, (_, peers)) in &self.nodes {
            peers.typed.assert_exact();
            let lines = peers.typed.lines.load(std::sync::atomic::Ordering::SeqCst);
            eprintln!(
                "{what}: {lines} lines of typists at {name} answered exactly, each within {:?}",
                peers.typed.longest()
            );
        }
    }
}

/// Peers of the rows of all live nodes, by life.
pub(crate) async fn rows(reader: &Redis) -> Result<BTreeMap<String, BTreeSet<String>>, String> {
    let mut all = BTreeMap::new();
    for node in reader.nodes().await.map_err(|error| error.to_string())? {
        let (mut peers, mut after) = (BTreeSet::new(), None);
        loop {
            let page = reader.list(&node.id, after).await.map_err(|error| error.to_string())?;
            peers.extend(page.rows.into_iter().map(|row| row.peer));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        all.insert(node.id.to_string(), peers);
    }
    Ok(all)
}
