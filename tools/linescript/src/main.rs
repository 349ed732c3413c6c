//! `linescript`: scripted telnet sessions from the command line.
//!
//! The format, and how a script runs, are the library's (`actix_lines::script`). Here is what a command adds: which files,
//! against which server, how often, how many at once, and what is printed.

mod args;
mod bless;
mod compare;
mod fuzz;
mod junit;
mod output;
mod progress;
mod record;
mod run;
mod shrink;
mod tls;

use std::{fs, io, path::Path, process::ExitCode};

use actix_lines::script::{Script, ScriptOptions};
use clap::Parser;

use crate::args::{Args, Command, Given};

/// The exit code where all scripts hold.
const HOLDS: u8 = 0;
/// The exit code where one does not.
const FAILS: u8 = 1;
/// A script that is none, a server that does not start, or wrong usage, for which clap exits with the same code.
const WRONG: u8 = 2;

fn main() -> ExitCode {
    let code = match Args::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Fuzz(args) => fuzz::fuzz(&args),
        Command::Record(args) => record::record(args),
        Command::Bless(args) => bless::bless(&args),
        Command::Compare(args) => compare::compare(&args),
        Command::Shrink(args) => shrink::shrink(&args),
        Command::Check { files, given } => check(&files, &given),
    };
    ExitCode::from(code)
}

/// A file that is no script, and why.
struct Bad {
    file: String,
    reason: String,
}

/// The scripts of the command line: files, and all of a folder.
///
/// # Errors
/// Those that are none, each of which is said.
fn scripts(paths: &[String], options: &ScriptOptions) -> Result<Vec<(String, Script)>, Vec<Bad>> {
    let mut files = Vec::new();
    let mut bad = Vec::new();
    for path in paths {
        let before = files.len();
        let reason = match find(Path::new(path), &mut files) {
            Err(error) => format!("cannot read {path}: {error}"),
            Ok(()) if files.len() == before => format!("no .session file in {path}"),
            Ok(()) => continue,
        };
        output::complain(&reason);
        bad.push(Bad { file: path.clone(), reason });
    }
    let mut scripts = Vec::new();
    for file in files {
        let checked = Script::load(&file).and_then(|script| script.check(options).map(|()| script));
        match checked {
            Ok(script) => scripts.push((file, script)),
            Err(error) => {
                output::report(&error.to_coloured_string());
                bad.push(Bad { file, reason: error.to_string() });
            }
        }
    }
    if bad.is_empty() { Ok(scripts) } else { Err(bad) }
}

fn find(path: &Path, files: &mut Vec<String>) -> io::Result<()> {
    if !path.is_dir() {
        files.push(path.display().to_string());
        return Ok(());
    }
    let mut entries: Vec<_> =
        fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    entries.sort();
    for entry in entries {
        if entry.is_dir() || entry.extension().is_some_and(|extension| extension == "session") {
            find(&entry, files)?;
        }
    }
    Ok(())
}

fn check(files: &[String], given: &Given) -> u8 {
    if scripts(files, &given.options()).is_ok() { HOLDS } else { WRONG }
}
