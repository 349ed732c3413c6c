//! `linescript`: scripted telnet sessions from the command line.
//!
//! The format, and how a script runs, are the library's (`actix_lines::script`). Here is what a command adds: which files,
//! against which server, how often, how many at once, and what is printed.

mod args;
mod output;
mod run;
mod server;

use std::{fs, io, path::Path, process::ExitCode};

use actix_lines::script::{Script, ScriptOptions};
use clap::Parser;

use crate::args::{Args, Command, Variable};

/// All scripts hold.
const HOLDS: u8 = 0;
/// One does not.
const FAILS: u8 = 1;
/// A script, or what was asked for, makes no sense; clap says the same of arguments.
const WRONG: u8 = 2;

fn main() -> ExitCode {
    let code = match Args::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Check { files, variables } => check(&files, &variables),
    };
    ExitCode::from(code)
}

fn options(variables: &[Variable]) -> ScriptOptions {
    variables
        .iter()
        .fold(ScriptOptions::default(), |options, Variable { name, value }| options.variable(name, value.as_bytes()))
}

/// The scripts of the command line: files, and all of a folder. `None` if one of them is none, which is said.
fn scripts(paths: &[String], options: &ScriptOptions) -> Option<Vec<(String, Script)>> {
    let mut files = Vec::new();
    let mut is_good = true;
    for path in paths {
        let before = files.len();
        if let Err(error) = find(Path::new(path), &mut files) {
            output::complain(&format!("cannot read {path}: {error}"));
            is_good = false;
        } else if files.len() == before {
            output::complain(&format!("no .session file in {path}"));
            is_good = false;
        }
    }
    let mut scripts = Vec::new();
    for file in files {
        let checked = Script::load(&file).and_then(|script| script.check(options).map(|()| script));
        match checked {
            Ok(script) => scripts.push((file, script)),
            Err(error) => {
                output::report(&error.to_coloured_string());
                is_good = false;
            }
        }
    }
    is_good.then_some(scripts)
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

fn check(files: &[String], variables: &[Variable]) -> u8 {
    if scripts(files, &options(variables)).is_some() { HOLDS } else { WRONG }
}
