//! What a scrape costs: time to ask the workers and to encode, with many sessions and with few.
//! `cargo bench -p actix-lines --features metrics --bench metrics`.
//!
//! The server runs on the arbiter that scrapes, so the time is all that a scrape takes of processors. The least of all rounds
//! counts. Peers are the other ends of sockets here: half of the descriptors of a process is as many as there can be.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use actix_lines::{
    LineServer, Rot13,
    metrics::{Metrics, TextFormat},
};
use tokio::net::TcpStream;

const SESSIONS: [usize; 4] = [1, 100, 1_000, 9_000];
const ROUNDS: usize = 200;

/// Times of a question alone, and of a whole scrape; and its length.
async fn measure(
    metrics: &Metrics,
    server: &actix_lines::ServerHandle,
    format: TextFormat,
) -> (Duration, Duration, usize) {
    let (mut asked, mut scraped, mut length) = (Duration::MAX, Duration::MAX, 0);
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        server.stats().await.expect("counters");
        asked = asked.min(begin.elapsed());
        let begin = Instant::now();
        length = metrics.encode_as(format).await.expect("metrics").len();
        scraped = scraped.min(begin.elapsed());
    }
    (asked, scraped, length)
}

fn main() {
    actix_rt::System::new().block_on(async {
        println!("| sessions | format | counters alone | scrape | bytes |\n|--:|---|--:|--:|--:|");
        let server = LineServer::new(|_| Rot13).on_current_arbiter().bind("127.0.0.1:0").expect("a listener");
        let server = server.start().expect("a server");
        let metrics = Metrics::new(&server);
        let mut peers = Vec::new();
        for sessions in SESSIONS {
            while peers.len() < sessions {
                match TcpStream::connect(server.local_addrs()[0]).await {
                    Ok(peer) => peers.push(peer),
                    Err(error) => return eprintln!("no more than {} sessions: {error}", peers.len()),
                }
            }
            while server.stats().await.expect("counters").live != sessions as u64 {
                tokio::task::yield_now().await;
            }
            for format in [TextFormat::OpenMetrics, TextFormat::Prometheus] {
                let (asked, scraped, length) = measure(&metrics, &server, format).await;
                println!("| {sessions} | {format:?} | {asked:.1?} | {scraped:.1?} | {length} |");
            }
        }
    });
}
