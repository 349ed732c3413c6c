//! What it costs to say something to a room whose members are sockets: processor time for each message and member, as a
//! ratio to a bare loop that writes what came in one read to each, and beside Redis, where that is installed.
//!
//! This program is the servers, too: a room with one worker, and the loop. Each measurement has a fresh server, pinned to one
//! core; the client is pinned to another. Loads and servers take turns; the loop runs twice, as the control.
//! Not here: members without sockets (the library's `room`), rooms over several workers.

mod support;

use std::{
    fmt::Write as _,
    io,
    mem::MaybeUninit,
    net::{Ipv4Addr, TcpListener},
    process::ExitCode,
    time::{Duration, Instant},
};

use actix_lines::Room;
use rustix::{
    event::epoll,
    net::{RecvFlags, SendFlags},
};
use support::{
    Server,
    client::send,
    crowd::{self, Burst, Crowd, Load, MESSAGE_BYTES, REDIS, Talk, version_of},
};

// As in rot13d.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
usage: cargo bench --bench rooms -- [options]

  --members LIST      default 100,505,520,1000,5000
  --bursts LIST       messages said at once; default 10,1
  --joins LIST        members that come at once; default 1000,5000
  --seconds S         of each load in each round; default 0.5
";

const TIME: Duration = Duration::from_millis(500);
/// Rounds of members that come at once.
const JOIN_ROUNDS: usize = 3;

const ROOM: &str = "room";

type Options = support::Options<Own>;

struct Own {
    members: Vec<usize>,
    bursts: Vec<usize>,
    joins: Vec<usize>,
}

fn serve_room(port: u16) -> io::Result<()> {
    actix_rt::System::new()
        .block_on(async { crowd::server(Room::new())?.bind((Ipv4Addr::LOCALHOST, port))?.run().await })
}

/// The least that a fan-out is: what one read brings is one write to each other socket.
fn serve_loop(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    // Room for as many as connect at once.
    rustix::net::listen(&listener, 4096)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(u64::MAX), epoll::EventFlags::IN)?;
    let (mut sockets, mut members) = (Vec::new(), Vec::<usize>::new());
    let mut buffer = vec![0; 64 << 10];
    let mut space = [MaybeUninit::<epoll::Event>::uninit(); 256];
    loop {
        let (events, _) = epoll::wait(&epoll, &mut space, None)?;
        for event in &*events {
            if event.data.u64() == u64::MAX {
                let (socket, _) = listener.accept()?;
                socket.set_nodelay(true)?;
                epoll::add(&epoll, &socket, epoll::EventData::new_u64(sockets.len() as u64), epoll::EventFlags::IN)?;
                sockets.push(Some(socket));
                continue;
            }
            let speaker = event.data.u64() as usize;
            let Some(socket) = &sockets[speaker] else { continue };
            let (count, _) = rustix::net::recv(socket, &mut *buffer, RecvFlags::empty()).unwrap_or_default();
            match &buffer[..count] {
                b"" => {
                    sockets[speaker] = None;
                    members.retain(|member| *member != speaker);
                }
                b"join\n" => {
                    rustix::net::send(socket, b"joined\n", SendFlags::NOSIGNAL)?;
                    members.push(speaker);
                }
                said => {
                    for socket in members.iter().filter(|member| **member != speaker) {
                        let Some(socket) = &sockets[*socket] else { continue };
                        let _ = rustix::net::send(socket, said, SendFlags::NOSIGNAL);
                    }
                }
            }
        }
    }
}

/// One load on a fresh server: nanoseconds of its processor for each message and member.
fn measure(name: &str, command: &str, load: Load, options: &Options) -> Result<f64, String> {
    let server = Server::start(command, options.cores)?;
    let mut crowd = Crowd::connect(&[server.port], load.members)?;
    let talk = Talk::with(name);
    crowd.join(&talk)?;
    let burst = Burst::of(&talk, load);
    // The first is for buffers that have to be made.
    crowd.say(&burst)?;
    let before = server.scheduled();
    let bursts = crowd.say_for(options.time, &burst)?.len();
    Ok(server.scheduled().since(before).ran as f64 / (bursts * load.burst * load.members) as f64)
}

/// So many that come at once, each of them announced to those who are there: seconds until the last has heard the last
/// word, and of the server's processor.
fn measure_joins(command: &str, members: usize, options: &Options) -> Result<(f64, f64), String> {
    let server = Server::start(command, options.cores)?;
    let mut crowd = Crowd::connect(&[server.port], members)?;
    let before = server.scheduled();
    let begin = Instant::now();
    crowd.members().iter().try_for_each(|member| send(member, b"enter\n"))?;
    // The last word is said when all are there.
    let mut answer = Vec::new();
    let mut is_said = false;
    let mut last = vec![0; members];
    let mut left = members;
    send(crowd.speaker(), b"count\n")?;
    let speaker = rustix::io::fcntl_dupfd_cloexec(crowd.speaker(), 0).map_err(|error| error.to_string())?;
    crowd.listen(|number, bytes| {
        if number == members {
            answer.extend_from_slice(bytes);
            if answer.ends_with(b"\n") {
                let there: usize = String::from_utf8_lossy(&answer).trim().parse().map_err(|_| "counts wrong")?;
                answer.clear();
                is_said = there == members;
                send(&speaker, if is_said { b"the last word!\n" } else { b"count\n" })?;
            }
            return Ok(false);
        }
        let before = if bytes.len() > 1 { bytes[bytes.len() - 2] } else { last[number] };
        last[number] = bytes[bytes.len() - 1];
        left -= usize::from(before == b'!' && last[number] == b'\n');
        Ok(left == 0)
    })?;
    let spent = server.scheduled().since(before).ran;
    Ok((begin.elapsed().as_secs_f64(), spent as f64 / 1e9))
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let served = match (arguments.next().as_deref(), arguments.next().and_then(|port| port.parse().ok())) {
        (Some("serve-room"), Some(port)) => serve_room(port),
        (Some("serve-loop"), Some(port)) => serve_loop(port),
        _ => return compare(),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn compare() -> ExitCode {
    let program = std::env::current_exe().map_or_else(|_| "rooms".to_owned(), |path| path.display().to_string());
    let mut servers: Vec<(String, String)> = [("loop", "loop"), ("loop, again", "loop"), (ROOM, "room")]
        .map(|(name, which)| (name.to_owned(), format!("{program} serve-{which} {{port}}")))
        .into();
    if version_of("redis-server").is_some() {
        let command =
            "redis-server --port {port} --bind 127.0.0.1 --protected-mode no --appendonly no --maxclients 15000";
        servers.push((REDIS.to_owned(), command.to_owned()));
    } else if std::env::args().len() > 2 {
        eprintln!("there is no redis-server, so nothing is compared with it; on Debian: apt-get install redis-server");
    }
    let own = Own { members: vec![100, 505, 520, 1000, 5000], bursts: vec![10, 1], joins: vec![1000, 5000] };
    support::main_of_these(USAGE, TIME, servers, own, parse, run)
}

fn parse(own: &mut Own, flag: &str, value: &str) -> Result<bool, String> {
    let list = match flag {
        "--members" => &mut own.members,
        "--bursts" => &mut own.bursts,
        "--joins" => &mut own.joins,
        _ => return Ok(false),
    };
    *list = crowd::list(flag, value)?;
    Ok(true)
}

fn run(options: &Options) -> Result<String, String> {
    let Own { members, bursts, joins } = &options.own;
    let samples = crowd::rounds(options, &Load::all(bursts, members), |name, command, load| {
        measure(name, command, load, options)
    });
    let mut report = support::head("Processor time of rooms", "rooms");
    let _ = writeln!(
        report,
        "- messages of {MESSAGE_BYTES} bytes; {} rounds of {:?} for each load and server, least and median of them; the floor is the \
         loop, and Redis is {}",
        options.rounds,
        options.time,
        version_of("redis-server").unwrap_or_else(|| "not there".to_owned())
    );
    for burst in bursts {
        table(&mut report, &Load::title(*burst), *burst, options, &samples);
    }
    joins_table(&mut report, joins, options);
    Ok(report)
}

fn table(report: &mut String, title: &str, burst: usize, options: &Options, samples: &support::Samples<Load, f64>) {
    let _ = write!(
        report,
        "\n## {title}: ns a message and member\n\n| members | control | server | least | median | over the floor | median over the floor's |\n\
         |--:|--:|---|--:|--:|--:|--:|\n"
    );
    for members in &options.own.members {
        let load = Load { burst, members: *members };
        let of = |index| support::least_and_median(samples.get(&(load, index)));
        let floor = of(0).unwrap_or((f64::NAN, f64::NAN));
        let control = support::control(floor.0, of(1).map_or(f64::NAN, |(least, _)| least));
        for (index, (name, _)) in options.servers.iter().enumerate() {
            let (members, control) = match index {
                0 => (members.to_string(), control.clone()),
                _ => (String::new(), String::new()),
            };
            let _ = match (of(index), samples.get(&(load, index))) {
                (Some((least, median)), _) => writeln!(
                    report,
                    "| {members} | {control} | {name} | {least:.0} | {median:.0} | {:.2} | {:.2} |",
                    least / floor.0,
                    median / floor.1
                ),
                (None, Some(Err(error))) => writeln!(report, "| {members} | {control} | {name} | {error} | | | |"),
                (None, _) => writeln!(report, "| {members} | {control} | {name} | not measured | | | |"),
            };
        }
    }
}

fn joins_table(report: &mut String, joins: &[usize], options: &Options) {
    let Some((_, command)) = options.servers.iter().find(|(name, _)| name == ROOM) else { return };
    if joins.is_empty() {
        return;
    }
    let _ = write!(
        report,
        "\n## Members that come at once\n\nEach is announced to all who are there; least of {JOIN_ROUNDS} rounds.\n\n\
         | members | seconds until all have heard the last word | of the server's processor |\n|--:|--:|--:|\n"
    );
    for members in joins {
        eprint!("\r{members} members come at once        ");
        let rounds: Result<Vec<_>, _> = (0..JOIN_ROUNDS).map(|_| measure_joins(command, *members, options)).collect();
        let _ = match rounds.map(|rounds| rounds.into_iter().min_by(|one, other| one.1.total_cmp(&other.1))) {
            Ok(Some((time, spent))) => writeln!(report, "| {members} | {time:.2} | {spent:.2} |"),
            Ok(None) => Ok(()),
            Err(error) => writeln!(report, "| {members} | {error} | |"),
        };
    }
}
