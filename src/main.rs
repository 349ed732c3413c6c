//! rot13d: the ROT13 line server. Reads its arguments, starts the library's server, turns its end into an exit code.
//!
//! No protocol here: lines are `actix-lines`' business.
// Whatever a peer, a file or the system decides is an error to handle, not a panic.
#![warn(clippy::unwrap_used)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod config;
mod descriptors;
mod settings;
mod signals;

use std::{io, process::ExitCode};

use actix_lines::{Framing, Limits, LineServer, Rot13};
use clap::Parser;
use log::LevelFilter;

use crate::{args::Args, settings::Settings, signals::Signals};

/// glibc's allocator wastes some 190 bytes on each task cell, which is aligned to 128.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit code of bad usage, as of clap.
const BAD_USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    start_log(args.level());
    log_panics();
    descriptors::raise_limit();
    let meant =
        config::load(&args).and_then(|settings| Ok((settings.framing()?, config::limits(&settings)?, settings)));
    // Said to whoever started us, whatever the log leaves out.
    let (framing, limits, settings) = match meant {
        Ok(meant) => meant,
        Err(problem) => {
            eprintln!("rot13d: {problem}");
            return ExitCode::from(BAD_USAGE);
        }
    };
    if args.check_config {
        return ExitCode::SUCCESS;
    }
    match actix_rt::System::new().block_on(serve(args, settings, framing, limits)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rot13d: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: Args, settings: Settings, framing: Framing, limits: Limits) -> io::Result<()> {
    // Before any listener says that it listens: whoever reads that may send a signal at once.
    let signals = Signals::new()?;
    let mut server = LineServer::new(|_connection| Rot13).framing(framing).limits(limits);
    server = match settings.workers() {
        // This thread has nothing else to do; see `LineServer::run`.
        1 => server.on_current_arbiter(),
        workers => server.workers(workers),
    };
    server = server.backlog(settings.backlog());
    for address in settings.listen() {
        server = server.bind(address)?;
    }
    let server = server.start()?;
    actix_rt::spawn(signals.obey(server.clone(), args, settings));
    server.finished().await
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
