//! rot13d: the ROT13 line server. Reads its arguments, starts the library's server, turns its end into an exit code.
//!
//! Rule: a failure that a peer, a file or the system can cause is an error to handle, not a panic.
//! Not here: the protocol (`actix-lines`).
#![warn(clippy::unwrap_used)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
#[cfg_attr(not(feature = "tls"), path = "certificates/absent.rs")]
mod certificates;
#[cfg_attr(not(feature = "cluster"), path = "cluster/absent.rs")]
mod cluster;
mod config;
#[cfg_attr(not(feature = "console"), path = "console/absent.rs")]
mod console;
#[cfg(feature = "console")]
mod ctl;
mod descriptors;
mod ending;
#[cfg(feature = "dist")]
mod generate;
#[cfg_attr(not(feature = "http"), path = "http/absent.rs")]
mod http;
mod listeners;
mod logging;
mod plural;
mod reason;
mod recording;
#[cfg(any(feature = "cluster", feature = "console", feature = "http"))]
mod secret;
#[cfg_attr(not(all(feature = "systemd", target_os = "linux")), path = "service/absent.rs")]
mod service;
mod settings;
mod signals;
#[cfg_attr(not(any(feature = "console", feature = "http")), path = "token/absent.rs")]
mod token;

use std::{
    io::{self, Write},
    panic::catch_unwind,
    process::ExitCode,
};

use actix_lines::{Framing, LineServer, Listener, Rot13, agent_check::AgentCheck, limits::Limits};
use actix_rt::{Runtime, System, SystemRunner};

#[cfg(feature = "console")]
use crate::args::Command;
use crate::{
    args::Args,
    config::{Config, Problem, Secrets},
    ending::Ending,
    listeners::{Listeners, Wanted},
    logging::Log,
    reason::reason,
    settings::Settings,
    signals::{Running, Signals},
};

/// glibc's allocator wastes some 190 bytes on each task cell, which is aligned to 128.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit codes, those of clap among them.
const COULD_NOT_RUN: u8 = 1;
const BAD_USAGE: u8 = 2;

/// Why the process ends other than as it was asked to.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Usage(#[from] Problem),
    #[error(transparent)]
    Run(#[from] io::Error),
}

fn main() -> ExitCode {
    #[cfg(feature = "dist")]
    if let Some(folder) = generate::folder(std::env::args_os()) {
        return generate::run(&folder);
    }
    let args = Args::read();
    #[cfg(feature = "console")]
    if let Some(Command::Ctl(options)) = args.command {
        return ctl::run(options);
    }
    let log = match Log::start(args.level(), args.settings.log_format()) {
        Ok(log) => log,
        Err(error) => {
            let what = "cannot start a thread for the log";
            let advice = "raise the thread limit (ulimit -u, or TasksMax= of its service)";
            // A closed standard error is no reason to panic.
            let _ = writeln!(io::stderr(), "rot13d: {what}: {}; {advice}", reason(&error));
            return ExitCode::from(COULD_NOT_RUN);
        }
    };
    let Err(failure) = run(args) else { return ExitCode::SUCCESS };
    log.last_words(&failure.to_string());
    ExitCode::from(match failure {
        Failure::Usage(_) => BAD_USAGE,
        Failure::Run(_) => COULD_NOT_RUN,
    })
}

fn run(args: Args) -> Result<(), Failure> {
    descriptors::raise_limit();
    let Config { settings, listeners, secrets } = config::load(&args)?;
    logging::set_format(settings.log_format);
    let (framing, limits) = (
        settings.framing().map_err(Problem::from)?,
        config::limits(&settings, listeners.len()).map_err(Problem::from)?,
    );
    if args.check_config {
        return Ok(());
    }
    let others = settings.other_listeners();
    descriptors::check(settings.worker_threads(), listeners.len() + others, settings.served_by_http().is_some())?;
    Ok(system()?.block_on(serve(args, settings, listeners, secrets, framing, limits))?)
}

/// The actix system of this thread.
fn system() -> io::Result<SystemRunner> {
    // tokio panics where it cannot make the pipe that it hears of signals by. There was room for it a moment ago.
    let runtime = catch_unwind(Runtime::new).unwrap_or_else(|_| Err(io::Error::other("look above for the panic")));
    let runtime = runtime.map_err(|error| io::Error::new(error.kind(), format!("cannot start: {}", reason(&error))))?;
    Ok(System::with_tokio_rt(|| runtime))
}

/// Says which sockets may be in the way of a listener: those that were handed over and that no listener uses.
fn beside(error: io::Error, unused: &[String]) -> io::Error {
    match unused {
        sockets if error.kind() == io::ErrorKind::AddrInUse && !sockets.is_empty() => {
            let advice = format!("no listener uses what was handed over for {}", sockets.join(" and "));
            io::Error::new(error.kind(), format!("{error}; {advice}"))
        }
        _ => error,
    }
}

async fn serve(
    args: Args,
    settings: Settings,
    listeners: Vec<Wanted>,
    secrets: Secrets,
    framing: Framing,
    limits: Limits,
) -> io::Result<()> {
    // Before any listener logs that it listens: a signal may follow at once.
    let signals = Signals::new()?;
    let mut server = LineServer::new(|_connection| Rot13).framing(framing).limits(limits);
    server = match settings.worker_threads() {
        // This thread has nothing else to do; see `LineServer::run`.
        1 => server.on_current_arbiter(),
        workers => server.workers(workers),
    };
    server = settings.sockets(server);
    for wanted in &listeners {
        // A socket that is in the way of one is not there at the next start.
        let bound = server.listen(wanted.listener());
        server = bound.map_err(|error| beside(wanted.refused(error), &service::close_unused_sockets()))?;
    }
    let ending = Ending::new(settings.drain());
    let (joined, node) = cluster::join(server, secrets.store.as_ref(), &settings)?;
    server = joined;
    let console = console::open(settings.console_settings(), secrets.console.clone(), &node, &ending);
    let http = http::bind(&settings, secrets.http.clone());
    let agent = settings
        .agent_address()
        .map(|address| node.tell_agent(AgentCheck::at(Listener::at(address.clone()).name("agent-check"))).bind())
        .transpose();
    let unused = service::close_unused_sockets();
    let (console, http) =
        (console.map_err(|error| beside(error, &unused))?, http.map_err(|error| beside(error, &unused))?);
    let agent = agent.map_err(|error| {
        let error = io::Error::from(error);
        beside(io::Error::new(error.kind(), format!("agent-check: {error}")), &unused)
    })?;
    let recorder = recording::start(&settings)?;
    if let Some(recorder) = &recorder {
        server = server.record(recorder);
    }
    let server = server.start()?;
    console.start(&server)?;
    if let Some(agent) = agent {
        agent.start(&server)?;
    }
    let http = http::serve(http, &server, &node, &ending).await?;
    service::warn_of_unused_sockets(&unused);
    service::ready(&server);
    let listeners = Listeners::new(listeners, &server);
    listeners.log_certificates();
    let running = Running { settings, secrets, listeners, recorder: recorder.clone(), node, ending };
    actix_rt::spawn(signals.handle(server.clone(), args, running));
    let ended = server.wait().await;
    http::stop(http).await;
    if let Some(recorder) = recorder {
        recording::finish(&recorder);
    }
    ended
}
