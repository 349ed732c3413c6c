//! Arguments: the command line, parsed.
//!
//! Rule: an error in one is reported before anything runs, with exit code 2.
//! Not here: the settings, which the configuration file has as well (`settings`).

use std::path::PathBuf;
#[cfg(feature = "console")]
use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    process::exit,
};

#[cfg(feature = "console")]
use actix_lines::console;
#[cfg(feature = "console")]
use clap::Subcommand;
use clap::{ArgAction, Parser};
use log::LevelFilter;

#[cfg(feature = "console")]
use crate::ctl;
use crate::settings::Given;

/// Answers every line with its ROT13.
///
/// Each connection is an actor of its own. What a peer sends comes back as `tr 'A-Za-z' 'N-ZA-Mn-za-m'` would print it,
/// byte for byte and in order, however long a line is; a peer that half-closes gets every answer it is owed, then EOF.
#[derive(Clone, Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    subcommand_value_name = "COMMAND",
    after_help = "Try it:\n  rot13d &\n  printf 'Hello\\n' | nc -N 127.0.0.1 40713\n\n\
                  SIGINT or SIGTERM drains: no new connection, every line that was read is answered. A second one aborts.\n\
                  SIGHUP reads the --config file again, SIGUSR1 logs the counters.\n\
                  rot13d ctl lists its sessions, ends them and changes its limits: see rot13d ctl --help.\n\
                  Exit codes: 0 ended as asked, 1 could not run or go on, 2 bad usage.\n\
                  The log goes to standard error; RUST_LOG filters it unless -v or -q is given.\n\
                  -h is short; --help says of each setting when to change it, and when SIGHUP does."
)]
pub(crate) struct Args {
    #[cfg(feature = "console")]
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) settings: Given,

    /// File of settings, in TOML: each other flag that takes a value is a key, as idle-timeout = "5m". A flag overrules it.
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    pub(crate) config: Option<PathBuf>,

    /// Check flags and file, and exit with 0 if a server could start with them, with 2 if not.
    #[arg(long, help_heading = "Configuration")]
    pub(crate) check_config: bool,

    /// Log more: a line for each closed session; repeated, everything.
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,

    /// Log less: warnings and errors; repeated, errors only.
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "verbose")]
    quiet: u8,
}

/// Something else to do than to run the server.
#[cfg(feature = "console")]
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    Ctl(ctl::Options),
}

impl Args {
    /// Parses the arguments of this process. Tells what is wrong with them, and exits.
    pub(crate) fn read() -> Self {
        #[cfg(feature = "console")]
        {
            let words = ctl::arguments(env::args_os());
            Self::try_parse_from(&words).unwrap_or_else(|error| {
                if let Some(advice) = misplaced(&words).filter(|_| error.use_stderr()) {
                    // A closed standard error is no reason to panic.
                    let _ = writeln!(io::stderr(), "rot13d: {advice}");
                    exit(crate::BAD_USAGE.into());
                }
                error.exit()
            })
        }
        #[cfg(not(feature = "console"))]
        Self::parse()
    }

    /// Returns the level of `-v` and `-q`; `None` leaves it to `RUST_LOG`.
    pub(crate) fn level(&self) -> Option<LevelFilter> {
        match (self.verbose, self.quiet) {
            (0, 0) => None,
            (1, _) => Some(LevelFilter::Debug),
            (2.., _) => Some(LevelFilter::Trace),
            (0, 1) => Some(LevelFilter::Warn),
            (0, 2..) => Some(LevelFilter::Error),
        }
    }
}

/// What to type instead of a command of the console's, or of one that is nearly `ctl`.
#[cfg(feature = "console")]
fn misplaced(words: &[OsString]) -> Option<String> {
    let mut words = words.iter().skip(1).map(|word| word.to_string_lossy());
    let first = words.next().filter(|word| word != "ctl")?;
    let is_command = |word: &str| console::commands().any(|(name, _)| name == word);
    if is_command(&first) {
        return Some(format!("{first} is a command for a running server: write rot13d ctl {first}"));
    }
    let second = words.next().filter(|word| !first.starts_with('-') && is_command(word))?;
    Some(format!("\"{}\" is no command: did you mean rot13d ctl {second}?", first.escape_debug()))
}
