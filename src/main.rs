//! rot13d: the ROT13 line server. Reads its arguments, starts the library's server, turns its end into an exit code.
//!
//! No protocol here: lines are `actix-lines`' business.
// Whatever a peer, a file or the system decides is an error to handle, not a panic.
#![warn(clippy::unwrap_used)]

mod args;
mod descriptors;

use std::{io, process::ExitCode};

use actix_lines::{Limits, LineServer, Rot13};
use clap::Parser;
use log::LevelFilter;

use crate::args::Args;

/// glibc's allocator wastes some 190 bytes on each task cell, which is aligned to 128.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    start_log(args.level());
    log_panics();
    match actix_rt::System::new().block_on(serve(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Said to whoever started us, whatever the log leaves out.
            eprintln!("rot13d: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: &Args) -> io::Result<()> {
    let workers =
        args.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64));
    let mut limits = Limits::builder();
    let room = descriptors::raise_limit()
        .map(|limit| descriptors::room_for_sessions(limit, workers, args.listen.len() as u64));
    if let (Some(asked), Some(room)) = (args.max_sessions, room)
        && asked > room
    {
        log::warn!("--max-sessions {asked} is more than the descriptor limit has room for ({room}): raise ulimit -n");
    }
    if let Some(sessions) = args.max_sessions.or(room) {
        limits = limits.max_sessions(usize::try_from(sessions).unwrap_or(usize::MAX));
    }
    let mut server = LineServer::new(|_connection| Rot13)
        .framing(args.framing()?)
        .limits(limits.build()?)
        .workers(usize::try_from(workers).unwrap_or(usize::MAX))
        .backlog(args.backlog)
        .drain_on_signals(args.drain_timeout);
    for address in &args.listen {
        server = server.bind(address.as_str())?;
    }
    server.run().await
}

fn start_log(level: Option<LevelFilter>) {
    let mut log = env_logger::Builder::new();
    log.filter_level(LevelFilter::Info);
    match level {
        Some(level) => log.filter_level(level),
        None => log.parse_default_env(),
    };
    log.init();
}

/// A panic is one line in the log, as everything else; the session it ended is named by the line that follows.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
}
