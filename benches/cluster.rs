//! What it takes to list and to kick the sessions of a fleet, and what the store has to do for sessions that are idle.
//!
//! Each node is a process of its own: this program again. It asks itself as one node more, without sessions. All share one
//! `redis-server`. Times are those of one call after the other; operations are the store's own count.
//! Not here: rooms (`cluster_rooms`), lines (`server`).

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use actix::Actor;
use actix_lines::{
    Line, LineContext, LineHandler, LineServer,
    cluster::{Cluster, ClusterFilter, ClusterQuery, GlobalId, redis::Redis},
    limits::Limits,
};

use crate::support::{Scheduled, free_port, head};

// As in rot13d.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long nodes may take until all sessions are listed. A guard and no measure.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longer than from one renewal of a lease to the next.
const SETTLED: Duration = Duration::from_secs(5);

const USAGE: &str = "\
usage: cargo bench --bench cluster -- [options]

  --nodes N           default 3
  --sessions N        of each node; default 2000
  --lists N           default 200
  --kicks N           default 1000
  --seconds S         without anything, while the store's operations are counted; default 30
  --report FILE       beside standard output
";

struct Options {
    nodes: usize,
    sessions: usize,
    lists: usize,
    kicks: usize,
    seconds: u64,
    report: Option<String>,
}

fn options() -> Result<Options, String> {
    let mut options = Options { nodes: 3, sessions: 2000, lists: 200, kicks: 1000, seconds: 30, report: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} has no value"));
        let number = |text: String| support::number(&word, &text);
        match word.as_str() {
            "--nodes" => options.nodes = number(value()?)?.max(1),
            "--sessions" => options.sessions = number(value()?)?,
            "--lists" => options.lists = number(value()?)?.max(1),
            "--kicks" => options.kicks = number(value()?)?.max(1),
            "--seconds" => options.seconds = number(value()?)? as u64,
            "--report" => options.report = Some(value()?),
            // By cargo.
            "--bench" => {}
            _ => return Err(USAGE.to_owned()),
        }
    }
    if options.kicks > options.nodes * options.sessions {
        return Err("there are fewer sessions than kicks".to_owned());
    }
    Ok(options)
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().collect();
    let result = match &words[..] {
        [_, word, name, url] if word == "--node" => node(name, url),
        _ => options().and_then(|options| run(&options)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A session that calls itself what its peer says.
struct Named;

impl Actor for Named {
    type Context = LineContext<Self>;
}

impl LineHandler for Named {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        let answer = match ctx.set_name(&String::from_utf8_lossy(line.text())) {
            Ok(()) => "named\n".to_owned(),
            Err(error) => format!("{error}\n"),
        };
        ctx.write(answer);
    }
}

fn cluster(name: &str, url: &str) -> Result<Cluster, String> {
    let store = Redis::at(url).build().map_err(|error| error.to_string())?;
    Cluster::builder(store).node(name).build().map_err(|error| error.to_string())
}

/// Serves as a node until standard input ends.
fn node(name: &str, url: &str) -> Result<(), String> {
    let run = async {
        let cluster = cluster(name, url)?;
        let limits = Limits::builder().max_sessions(20_000).build().map_err(|error| error.to_string())?;
        let server = LineServer::new(|_| Named).limits(limits).bind((Ipv4Addr::LOCALHOST, 0));
        let server = server.map_err(|error| error.to_string())?.cluster(&cluster).map_err(|error| error.to_string())?;
        let server = server.on_current_arbiter().start().map_err(|error| error.to_string())?;
        let mut stdout = std::io::stdout();
        writeln!(stdout, "{}", server.local_addrs()[0])
            .and_then(|()| stdout.flush())
            .map_err(|error| error.to_string())?;
        std::thread::spawn(|| {
            // It ends with whoever has started it.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(0);
        });
        server.wait().await.map_err(|error| error.to_string())
    };
    actix_rt::System::new().block_on(run)
}

/// A process that is killed when it is dropped.
struct Process {
    child: Child,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a node. Returns where it listens.
fn start_node(name: &str, url: &str) -> Result<(Process, SocketAddr), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(["--node", name, url]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut node = Process { child: command.spawn().map_err(|error| error.to_string())? };
    let mut line = String::new();
    let stdout = node.child.stdout.take().ok_or("no output")?;
    BufReader::new(stdout).read_line(&mut line).map_err(|error| error.to_string())?;
    Ok((node, line.trim().parse().map_err(|_| format!("the node {name} has not started"))?))
}

/// The store, and a connection that asks it what it did.
struct Store {
    process: Process,
    url: String,
    asks: BufReader<TcpStream>,
}

impl Store {
    fn start() -> Result<Self, String> {
        let port = free_port()?;
        let mut command = Command::new("redis-server");
        command.args(["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--maxclients", "100", "--port"]);
        command.arg(port.to_string()).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().map_err(|error| format!("cannot start redis-server: {error}"))?;
        let process = Process { child };
        let begun = Instant::now();
        loop {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                Ok(asks) => {
                    return Ok(Self { process, url: format!("redis://127.0.0.1:{port}"), asks: BufReader::new(asks) });
                }
                Err(error) if begun.elapsed() > PATIENCE => {
                    return Err(format!("redis-server does not listen: {error}"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Number of commands that it has carried out, those of scripts included, but for the question.
    fn operations(&mut self) -> std::io::Result<u64> {
        self.asks.get_mut().write_all(b"INFO commandstats\r\n")?;
        let mut line = String::new();
        self.asks.read_line(&mut line)?;
        let length: usize = line.trim().trim_start_matches('$').parse().map_err(std::io::Error::other)?;
        let mut text = vec![0; length + 2];
        self.asks.read_exact(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        let calls = text.lines().filter(|line| !line.starts_with("cmdstat_info:"));
        let calls = calls.filter_map(|line| line.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok());
        Ok(calls.sum())
    }

    fn scheduled(&self) -> Scheduled {
        Scheduled::of(self.process.child.id())
    }
}

/// Opens a session and gives it a name.
fn peer(address: SocketAddr, name: &str) -> std::io::Result<TcpStream> {
    let mut peer = TcpStream::connect(address)?;
    peer.write_all(format!("{name}\n").as_bytes())?;
    let mut answer = [0; 6];
    peer.read_exact(&mut answer)?;
    if answer != *b"named\n" {
        return Err(std::io::Error::other(format!("{name} is not taken for a name")));
    }
    Ok(peer)
}

/// Some times, in milliseconds: median, 99 %, and the longest.
fn row(what: &str, mut times: Vec<f64>) -> String {
    times.sort_unstable_by(f64::total_cmp);
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    format!("| {what} | {} | {:.2} | {:.2} | {:.2} |\n", times.len(), at(0.5), at(0.99), at(1.0))
}

async fn until_listed(cluster: &Cluster, sessions: usize) -> Result<Vec<GlobalId>, String> {
    let begun = Instant::now();
    loop {
        // The first moments are those of a store that is not connected yet.
        let seen = match cluster.list(ClusterQuery::default().limit(ClusterQuery::MAX_PAGE)).await {
            Ok(page) if page.total == sessions as u64 && page.unread.is_empty() => {
                return Ok(page.sessions.into_iter().map(|session| session.id).collect());
            }
            Ok(page) => format!("{} of {sessions} sessions are listed", page.total),
            Err(error) => error.to_string(),
        };
        if begun.elapsed() > PATIENCE {
            return Err(seen);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn run(options: &Options) -> Result<(), String> {
    let report = actix_rt::System::new().block_on(measure(options))?;
    print_to(options, &report).map_err(|error| error.to_string())
}

fn print_to(options: &Options, report: &str) -> std::io::Result<()> {
    std::io::stdout().write_all(report.as_bytes())?;
    options.report.as_ref().map_or(Ok(()), |file| fs::write(file, report))
}

async fn measure(options: &Options) -> Result<String, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut store = Store::start()?;
    let cluster = cluster("asker", &store.url)?;
    let server = LineServer::new(|_| Named).bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    let server = server.cluster(&cluster).map_err(|error| error.to_string())?.on_current_arbiter().start();
    let server = server.map_err(|error| error.to_string())?;
    let mut nodes = Vec::new();
    for number in 0..options.nodes {
        nodes.push(start_node(&format!("node{number}"), &store.url)?);
    }
    until_listed(&cluster, 0).await?;
    // Lives have begun, and scripts are loaded.
    tokio::time::sleep(SETTLED).await;
    let nothing = count(&mut store, options.seconds).await.map_err(text)?;

    let before = store.operations().map_err(text)?;
    let mut peers = Vec::new();
    for number in 0..options.sessions {
        for (node, (_, address)) in nodes.iter().enumerate() {
            peers.push(peer(*address, &format!("user-{node}-{number}")).map_err(text)?);
        }
        // The agent of this node has its turns.
        tokio::task::yield_now().await;
    }
    let sessions = peers.len();
    let ids = until_listed(&cluster, sessions).await?;
    let opened = store.operations().map_err(text)? - before;
    let idle = count(&mut store, options.seconds).await.map_err(text)?;

    let (mut lists, mut pages) = (Vec::new(), Vec::new());
    let begun = store.scheduled();
    for _ in 0..options.lists {
        let asked = Instant::now();
        let query = ClusterQuery::default().limit(ClusterQuery::MAX_PAGE);
        let page = cluster.list(query).await.map_err(|error| error.to_string())?;
        lists.push(asked.elapsed().as_secs_f64() * 1e3);
        if page.sessions.len() != sessions {
            return Err(format!("a list has {} of {sessions} sessions", page.sessions.len()));
        }
    }
    let of_a_list = store.scheduled().since(begun).ran as f64 / 1e6 / options.lists as f64;
    for number in 0..options.lists {
        let name = format!("user-{}-{}", number % options.nodes, number % options.sessions);
        let asked = Instant::now();
        let found = cluster.lookup(&name).await.map_err(|error| error.to_string())?;
        pages.push(asked.elapsed().as_secs_f64() * 1e3);
        if found.total != 1 {
            return Err(format!("{} sessions are called {name}", found.total));
        }
    }

    let (mut by_id, mut by_name) = (Vec::new(), Vec::new());
    // One of each node after the other.
    let mut ids: Vec<_> =
        (0..ids.len()).map(|place| &ids[place % options.nodes * options.sessions + place / options.nodes]).collect();
    ids.truncate(options.kicks / 2);
    for id in &ids {
        let asked = Instant::now();
        let answers = cluster.kick((*id).clone(), "bye\n").await.map_err(|error| error.to_string())?;
        by_id.push(asked.elapsed().as_secs_f64() * 1e3);
        if answers.sessions() != 1 || !answers.is_complete() {
            return Err(format!("the kick of {id} is answered {answers:?}"));
        }
    }
    for number in 0..options.kicks / 2 {
        let node = number % options.nodes;
        let name = format!("user-{node}-{}", options.sessions - 1 - number / options.nodes);
        let asked = Instant::now();
        let answers = cluster
            .kick(ClusterFilter::default().name(name.as_str()), "bye\n")
            .await
            .map_err(|error| error.to_string())?;
        by_name.push(asked.elapsed().as_secs_f64() * 1e3);
        if answers.sessions() != 1 || !answers.is_complete() {
            return Err(format!("the kick of {name} is answered {answers:?}"));
        }
    }
    let left = until_listed(&cluster, sessions - by_id.len() - by_name.len()).await?.len();
    server.abort().await.map_err(|error| error.to_string())?;

    let nodes = options.nodes;
    let mut report = head("What it takes to list and to kick over nodes", "cluster");
    report += &format!(
        "\n{nodes} nodes with {} sessions each, one node more that asks, one redis-server.\n\nMilliseconds from the call to its answer, \
         one call after the other.\n\n| call | times | median | 99 % | longest |\n|---|--:|--:|--:|--:|\n",
        options.sessions
    );
    report += &row(&format!("list of {sessions}"), lists);
    report += &row("look-up of a name", pages);
    report += &row("kick by id: its node is asked", by_id);
    report += &row("kick by name: all nodes are asked", by_name);
    report += &format!(
        "\nThe store's processor time for a list: {of_a_list:.2} ms. {left} sessions are left, as many as were not kicked.\n\n\
         Operations of the store, those of its scripts included.\n\n| | operations |\n|---|--:|\n\
         | {} nodes without a session, a second | {nothing:.2} |\n| the same with {sessions} idle sessions, a second | {idle:.2} |\n\
         | for each session that comes and takes a name | {:.3} |\n",
        nodes + 1,
        opened as f64 / sessions as f64,
    );
    Ok(report)
}

/// Operations of the store a second, while nothing is done.
async fn count(store: &mut Store, seconds: u64) -> std::io::Result<f64> {
    let before = store.operations()?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    Ok((store.operations()? - before) as f64 / seconds.max(1) as f64)
}
