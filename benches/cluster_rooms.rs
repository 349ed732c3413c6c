//! What it costs to say something to a room on three nodes: the time until its last member has it, and processor time of all
//! processes for each message and member, beside a Redis and a NATS server with as many subscribers.
//!
//! This program is the nodes, too: three of one worker each, and one Redis between them. Each measurement has fresh servers,
//! all pinned to one core; the client is pinned to another. It speaks to a member's server as text, and reads whatever comes.
//! Not here: a room of one process (`rooms`).

mod support;

use std::{fmt::Write as _, fs, io, net::Ipv4Addr, path::PathBuf, process::ExitCode, time::Duration};

use actix_lines::cluster::{Cluster, redis::Redis};
use support::{
    Server,
    crowd::{self, Burst, Crowd, Load, MESSAGE_BYTES, NATS, REDIS, Talk, version_of},
};

// As in rot13d.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
usage: cargo bench --bench cluster_rooms -- [options]

  --members LIST      default 30,600,6000
  --bursts LIST       messages said at once; default 1,10
  --seconds S         of each load in each round; default 0.5
";

const TIME: Duration = Duration::from_millis(500);
const NODES: usize = 3;
/// Nodes listen to their room by then.
const SETTLED: Duration = Duration::from_secs(1);

const ROOM: &str = "room on 3 nodes";

type Options = support::Options<Own>;

struct Own {
    members: Vec<usize>,
    bursts: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Processor time of all servers for each message and member. Unit: nanoseconds.
    each: f64,
    /// Processor time of the store among them.
    store: f64,
    /// From the first byte said until the last member has all. Unit: milliseconds; the median of a load's bursts, and the most.
    time: f64,
    most: f64,
}

fn serve_node(port: u16, redis: u16) -> io::Result<()> {
    actix_rt::System::new().block_on(async {
        let store = Redis::at(format!("redis://127.0.0.1:{redis}")).build().map_err(io::Error::other)?;
        let cluster = Cluster::builder(store).node(format!("node-{port}")).build()?;
        let server = crowd::server(cluster.room("room")?)?.cluster(&cluster).map_err(io::Error::other)?;
        server.bind((Ipv4Addr::LOCALHOST, port))?.run().await
    })
}

/// All processes that serve one measurement.
struct Fleet {
    /// Where members connect, in turns.
    servers: Vec<Server>,
    /// What stands between them.
    store: Option<Server>,
    /// A directory of its own.
    _files: Files,
}

struct Files(PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Fleet {
    fn start(name: &str, options: &Options) -> Result<Self, String> {
        let files = std::env::temp_dir().join(format!("cluster-rooms-{}", std::process::id()));
        fs::create_dir_all(&files).map_err(|error| format!("no directory for servers: {error}"))?;
        let with = |name: &str, config: &str, command: &str| {
            let file = files.join(name);
            let written = fs::write(&file, config).map_err(|error| format!("cannot write {name}: {error}"));
            written.map(|()| format!("{command} {}", file.display()))
        };
        let redis = format!("dir {}\nsave \"\"\nappendonly no\nmaxclients 15000\n", files.display());
        let redis = with("redis.conf", &redis, "redis-server")? + " --port {port} --bind 127.0.0.1 --protected-mode no";
        // No ping but the first one while it is measured.
        let nats = "ping_interval: \"10m\"\nmax_connections: 15000\n";
        let nats = with("nats.conf", nats, "nats-server --addr 127.0.0.1 --port {port} --config")?;
        let start = |command: &str| Server::start(command, options.cores);
        let (servers, store) = match name {
            REDIS => (vec![start(&redis)?], None),
            NATS => (vec![start(&nats)?], None),
            _ => {
                let store = start(&redis)?;
                let program = std::env::current_exe().map_err(|error| error.to_string())?;
                let command = format!("{} serve-node {{port}} {}", program.display(), store.port);
                let nodes = (0..NODES).map(|_| start(&command)).collect::<Result<_, _>>()?;
                (nodes, Some(store))
            }
        };
        Ok(Self { servers, store, _files: Files(files) })
    }

    /// Processor time of all, and of the store among them.
    fn ran(&self) -> (u64, u64) {
        let store = self.store.as_ref().map_or(0, |store| store.scheduled().ran);
        (self.servers.iter().map(|server| server.scheduled().ran).sum::<u64>() + store, store)
    }
}

/// One load on fresh servers.
fn measure(name: &str, load: Load, options: &Options) -> Result<Sample, String> {
    let fleet = Fleet::start(name, options)?;
    let ports: Vec<u16> = fleet.servers.iter().map(|server| server.port).collect();
    let mut crowd = Crowd::connect(&ports, load.members)?;
    let talk = Talk::with(name);
    crowd.join(&talk)?;
    if fleet.store.is_some() {
        std::thread::sleep(SETTLED);
    }
    let burst = Burst::of(&talk, load);
    // The first is for buffers that have to be made.
    crowd.say(&burst)?;
    let before = fleet.ran();
    let mut times = crowd.say_for(options.time, &burst)?;
    let ran = fleet.ran();
    let deliveries = (times.len() * load.burst * load.members) as f64;
    times.sort_by(f64::total_cmp);
    Ok(Sample {
        each: (ran.0 - before.0) as f64 / deliveries,
        store: (ran.1 - before.1) as f64 / deliveries,
        time: times[times.len() / 2],
        most: times[times.len() - 1],
    })
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some("serve-node") {
        return compare();
    }
    let mut port = || arguments.next().and_then(|port| port.parse().ok());
    let (Some(own), Some(redis)) = (port(), port()) else {
        eprintln!("serve-node needs two ports");
        return ExitCode::FAILURE;
    };
    match serve_node(own, redis) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn compare() -> ExitCode {
    let mut servers = Vec::new();
    if version_of("redis-server").is_some() {
        servers.extend([ROOM, REDIS]);
    } else {
        eprintln!("there is no redis-server, so there are no nodes; on Debian: apt-get install redis-server");
    }
    if version_of("nats-server").is_some() {
        servers.push(NATS);
    } else {
        eprintln!("there is no nats-server, so nothing is compared with it; on Debian: apt-get install nats-server");
    }
    let servers = servers.into_iter().map(|name| (name.to_owned(), String::new())).collect();
    let own = Own { members: vec![30, 600, 6000], bursts: vec![1, 10] };
    support::main_of_these(USAGE, TIME, servers, own, parse, run)
}

fn parse(own: &mut Own, flag: &str, value: &str) -> Result<bool, String> {
    let list = match flag {
        "--members" => &mut own.members,
        "--bursts" => &mut own.bursts,
        _ => return Ok(false),
    };
    *list = crowd::list(flag, value)?;
    Ok(true)
}

fn run(options: &Options) -> Result<String, String> {
    let Own { members, bursts } = &options.own;
    let samples = crowd::rounds(options, &Load::all(bursts, members), |name, _, load| measure(name, load, options));
    let mut report = support::head("Rooms over nodes", "cluster_rooms");
    let version = |program| version_of(program).unwrap_or_else(|| "not there".to_owned());
    let _ = writeln!(
        report,
        "- messages of {MESSAGE_BYTES} bytes; {} rounds of {:?} for each load and server; all servers on one core, a third of the \
         members on each node; redis {}, nats {}",
        options.rounds,
        options.time,
        version("redis-server"),
        version("nats-server")
    );
    for burst in bursts {
        table(&mut report, &Load::title(*burst), *burst, options, &samples);
    }
    Ok(report)
}

fn table(report: &mut String, title: &str, burst: usize, options: &Options, samples: &support::Samples<Load, Sample>) {
    let _ = write!(
        report,
        "\n## {title}\n\n| members | server | ns a message and member: least | median | of them the store's | ms until the last has it: \
         median | most |\n|--:|---|--:|--:|--:|--:|--:|\n"
    );
    for members in &options.own.members {
        let load = Load { burst, members: *members };
        for (index, (name, _)) in options.servers.iter().enumerate() {
            let members = if index == 0 { members.to_string() } else { String::new() };
            let _ = match samples.get(&(load, index)) {
                Some(Ok(values)) if !values.is_empty() => {
                    let sorted = |of: fn(&Sample) -> f64| {
                        let mut sorted: Vec<f64> = values.iter().map(of).collect();
                        sorted.sort_by(f64::total_cmp);
                        sorted
                    };
                    let (each, store) = (sorted(|sample| sample.each), sorted(|sample| sample.store));
                    let (time, most) = (sorted(|sample| sample.time), sorted(|sample| sample.most));
                    let middle = values.len() / 2;
                    writeln!(
                        report,
                        "| {members} | {name} | {:.0} | {:.0} | {:.0} | {:.2} | {:.2} |",
                        each[0],
                        each[middle],
                        store[middle],
                        time[middle],
                        most[most.len() - 1]
                    )
                }
                Some(Err(error)) => writeln!(report, "| {members} | {name} | {error} | | | | |"),
                _ => writeln!(report, "| {members} | {name} | not measured | | | | |"),
            };
        }
    }
}
