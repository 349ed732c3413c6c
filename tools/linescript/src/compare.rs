//! `linescript compare`: scripts against several servers, as a table in Markdown.
//!
//! A server is started anew for each script, so that none suffers from what another did to it. Servers that cannot choose their
//! port take turns. Not here: how one script runs (the library).

use std::{
    num::NonZeroU32,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use actix_lines::script::{FailureKind, Script, ScriptFailure, ScriptOptions, Target};

use crate::{HOLDS, WRONG, args::Given, output, scripts};

/// Arguments of `linescript compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Scripts, and folders of `.session` files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// A server, and its name in the table; repeatable. The shell reads the command, `$port` is a free port of 127.0.0.1. For
    /// a program that has a port of its own, that stands behind the name.
    #[arg(long = "server", required = true, value_name = "NAME[:PORT]=COMMAND", value_parser = server)]
    servers: Vec<Server>,
    /// Ask so many servers at once.
    #[arg(long, value_name = "N", default_value = "1")]
    jobs: NonZeroU32,
    /// How many seconds each wait may last, in scripts that do not say so themselves.
    #[arg(long, value_name = "SECONDS", default_value = "5")]
    timeout: NonZeroU32,
    #[command(flatten)]
    given: Given,
}

#[derive(Clone, Debug)]
struct Server {
    name: String,
    port: Option<u16>,
    command: String,
}

fn server(text: &str) -> Result<Server, String> {
    let (name, command) = text.split_once('=').ok_or("write NAME=COMMAND, or NAME:PORT=COMMAND")?;
    let (name, port) = match name.split_once(':') {
        Some((name, port)) => (name, Some(port.parse().map_err(|_| format!("`{port}` is no port"))?)),
        None => (name, None),
    };
    if name.is_empty() || name.contains('|') || command.is_empty() {
        return Err("write NAME=COMMAND; a name has no `|`".to_owned());
    }
    Ok(Server { name: name.to_owned(), port, command: command.to_owned() })
}

/// One place of the table.
enum Verdict {
    Holds,
    Skipped,
    /// In which manner it fails.
    Fails(&'static str),
    /// The server did not start: nothing is known.
    NoServer,
}

impl Verdict {
    fn of(failure: &ScriptFailure) -> Self {
        // Nothing that was to come has a text if it is an end.
        let wanted_end = failure.mismatch().is_some_and(|mismatch| mismatch.expected.is_none());
        Self::Fails(match failure.kind() {
            FailureKind::NotRun => return Self::NoServer,
            FailureKind::Differs if wanted_end => "extra bytes",
            FailureKind::Differs => "other bytes",
            FailureKind::Ended => "ends early",
            FailureKind::Lost => "reset",
            FailureKind::Late if wanted_end => "no EOF",
            FailureKind::Late => "hangs",
            FailureKind::Leftover => "extra bytes",
            FailureKind::NoEof => "no EOF",
            FailureKind::Connect => "no connection",
            FailureKind::Send => "takes no more",
            FailureKind::Server => "server ends",
            other => other.name(),
        })
    }

    fn shown(&self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Skipped => "–",
            Self::Fails(manner) => manner,
            Self::NoServer => "not started",
        }
    }
}

impl Server {
    fn run(&self, name: &str, script: &Script, options: &ScriptOptions) -> Verdict {
        // A script's own servers say nothing about this one.
        if script.brings_its_service() {
            return Verdict::Skipped;
        }
        let target = match self.port {
            Some(port) => Target::server_on(port, &self.command),
            None => Target::server(&self.command),
        };
        match script.run(&target, options) {
            Ok(run) if run.skipped.is_some() => Verdict::Skipped,
            Ok(_) => Verdict::Holds,
            Err(failure) => {
                let verdict = Verdict::of(&failure);
                output::report(&format!(
                    "{}, {name}: {}\n{}",
                    self.name,
                    verdict.shown(),
                    failure.to_coloured_string()
                ));
                verdict
            }
        }
    }
}

/// Files as the table names them: without the ending, and without the folder that all of them are in.
fn names(files: &[&str]) -> Vec<String> {
    let mut folder = files.first().and_then(|file| Path::new(file).parent());
    while let Some(common) = folder.filter(|folder| !files.iter().all(|file| Path::new(file).starts_with(folder))) {
        folder = common.parent();
    }
    let name = |file: &&str| {
        let path = Path::new(file);
        let path = folder.and_then(|folder| path.strip_prefix(folder).ok()).unwrap_or(path);
        path.with_extension("").display().to_string()
    };
    files.iter().map(name).collect()
}

/// The servers' places, so that those of one port stand together: each group takes turns.
fn groups(servers: &[Server]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (at, server) in servers.iter().enumerate() {
        let same = |group: &&mut Vec<usize>| server.port.is_some() && servers[group[0]].port == server.port;
        match groups.iter_mut().find(same) {
            Some(group) => group.push(at),
            None => groups.push(vec![at]),
        }
    }
    groups
}

pub(crate) fn compare(args: &Args) -> u8 {
    let options = args.given.options().timeout(Duration::from_secs(args.timeout.get().into()));
    let Ok(scripts) = scripts(&args.files, &options) else { return WRONG };
    let files: Vec<_> = scripts.iter().map(|(file, _)| file.as_str()).collect();
    let names = names(&files);
    let groups = groups(&args.servers);
    let next = AtomicUsize::new(0);
    let columns: Mutex<Vec<Option<Vec<Verdict>>>> = Mutex::new(args.servers.iter().map(|_| None).collect());
    thread::scope(|scope| {
        for _ in 0..(args.jobs.get() as usize).min(groups.len()) {
            scope.spawn(|| {
                while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                    for &at in group {
                        let server = &args.servers[at];
                        let runs =
                            scripts.iter().zip(&names).map(|((_, script), name)| server.run(name, script, &options));
                        let column = runs.collect();
                        columns.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(column);
                    }
                }
            });
        }
    });
    let columns = columns.into_inner().unwrap_or_else(PoisonError::into_inner);
    let columns: Vec<_> = columns.into_iter().flatten().collect();
    output::say(&table(args, &names, &columns));
    if columns.iter().flatten().any(|verdict| matches!(verdict, Verdict::NoServer)) { WRONG } else { HOLDS }
}

fn table(args: &Args, names: &[String], columns: &[Vec<Verdict>]) -> String {
    let row = |first: &str, cells: &mut dyn Iterator<Item = String>| {
        cells.fold(format!("| {first} |"), |row, cell| format!("{row} {cell} |")) + "\n"
    };
    let mut table = row("script", &mut args.servers.iter().map(|server| server.name.clone()));
    table += &row("---", &mut columns.iter().map(|_| "---".to_owned()));
    let mut left_out = 0;
    for (at, name) in names.iter().enumerate() {
        if columns.iter().all(|column| matches!(column[at], Verdict::Skipped)) {
            left_out += 1;
            continue;
        }
        table += &row(name, &mut columns.iter().map(|column| column[at].shown().to_owned()));
    }
    table += &row(
        "**hold**",
        &mut columns.iter().map(|column| {
            let count = |is: fn(&Verdict) -> bool| column.iter().filter(|verdict| is(verdict)).count();
            let ran = column.len() - count(|verdict| matches!(verdict, Verdict::Skipped));
            format!("{} of {ran}", count(|verdict| matches!(verdict, Verdict::Holds)))
        }),
    );
    if left_out > 0 {
        let scripts = if left_out == 1 {
            "script is left out: it starts a server of its own, or needs"
        } else {
            "scripts are left out: they start servers of their own, or need"
        };
        table += &format!("\n{left_out} {scripts} what is not here.\n");
    }
    table.trim_end().to_owned()
}
