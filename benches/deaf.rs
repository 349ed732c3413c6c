//! What peers cost that send and never read: resident memory of the server, and what the kernel holds for its sockets.
//!
//! They are what one hostile host can bring: as many connections as it is allowed, each of which takes all that it is given
//! room for. What the kernel holds for the peers' own ends is not counted: elsewhere it is their memory.
//! Not here: processor time (`server`).

mod support;

use std::{
    fmt::Write as _,
    fs,
    os::fd::OwnedFd,
    process::ExitCode,
    time::{Duration, Instant},
};

use support::{PATIENCE, Server, number};

const USAGE: &str = "\
usage: cargo bench --bench deaf -- --floor COMMAND [--server NAME=COMMAND]... [options]

  --peers N           default 100
";

/// How long nobody may have taken anything before all are held to be full.
const QUIET: Duration = Duration::from_millis(500);

type Options = support::Options<usize>;

fn main() -> ExitCode {
    let own = |peers: &mut usize, flag: &str, value: &str| {
        let is_own = flag == "--peers";
        if is_own {
            *peers = number(flag, value)?.max(1);
        }
        Ok(is_own)
    };
    support::main(USAGE, Duration::ZERO, 100, own, run)
}

/// Bytes of each peer: of the server's memory, and of the kernel's for its end of the connection, to be sent and to be read.
struct Cost {
    resident: f64,
    send: f64,
    receive: f64,
}

fn measure(server: &Server, count: usize) -> Result<Cost, String> {
    let connect = |_| support::connect(server.port).map_err(|error| format!("cannot connect: {error}"));
    let before = server.resident();
    let peers = (0..count).map(connect).collect::<Result<Vec<_>, _>>()?;
    let (question, _) = support::lines(1000, 1 << 16);
    let mut taken = vec![0; count];
    let mut last = Instant::now();
    let begin = last;
    while last.elapsed() < QUIET {
        for (peer, taken) in peers.iter().zip(&mut taken) {
            let sent = send(peer, &question[*taken % question.len()..]);
            if sent > 0 {
                *taken += sent;
                last = Instant::now();
            }
        }
        if begin.elapsed() > 6 * PATIENCE {
            return Err("its peers are never full".to_owned());
        }
    }
    let each = |bytes: u64| bytes as f64 / count as f64;
    let (send, receive) = queues(server.port);
    Ok(Cost { resident: each(server.resident().saturating_sub(before)), send: each(send), receive: each(receive) })
}

fn send(peer: &OwnedFd, bytes: &[u8]) -> usize {
    rustix::net::send(peer, bytes, rustix::net::SendFlags::NOSIGNAL).unwrap_or(0)
}

/// Bytes that the kernel holds for the connections of a server.
fn queues(port: u16) -> (u64, u64) {
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let local = format!(":{port:04X}");
    let queue = |text: &str| u64::from_str_radix(text, 16).unwrap_or(0);
    let of_server = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    of_server
        // State 0A is the listener, whose queue is its backlog.
        .filter(|columns| columns.get(1).is_some_and(|address| address.ends_with(&local)) && columns[3] != "0A")
        .filter_map(|columns| columns[4].split_once(':'))
        .fold((0, 0), |(sent, read), (send, receive)| (sent + queue(send), read + queue(receive)))
}

fn run(options: &Options) -> Result<String, String> {
    let mut report = support::head("What a peer costs that never reads", "deaf");
    let _ = write!(
        report,
        "- {} peers, each of which sends lines until nobody takes more\n\nBytes each.\n\n| server | resident | kernel, to be \
         sent | kernel, to be read |\n|---|--:|--:|--:|\n",
        options.own
    );
    // The floor is no control here: it does not matter who is measured when.
    for (name, command) in options.servers.iter().filter(|(name, _)| name != "floor, again") {
        eprint!("\rdeaf peers of {name}        ");
        let measured = Server::start(command, options.cores).and_then(|server| measure(&server, options.own));
        let _ = match measured {
            Ok(Cost { resident, send, receive }) => {
                writeln!(report, "| {name} | {resident:.0} | {send:.0} | {receive:.0} |")
            }
            Err(error) => writeln!(report, "| {name} | {error} | | |"),
        };
    }
    Ok(report)
}
