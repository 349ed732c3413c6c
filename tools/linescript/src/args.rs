//! Arguments as typed, and what several subcommands share of them.
//!
//! Not here: the arguments of one subcommand, which stand in its file.

use std::num::NonZeroU32;

use actix_lines::script::{Script, ScriptOptions, Target};
use clap::{Parser, Subcommand};

use crate::{bless::Bless, compare, fuzz, output, record::Record, shrink::Shrink, tls::Tls};

/// Runs scripted telnet sessions against any line server.
///
/// A script reads as the transcript of a session: `> text` is sent, `< text` has to come. Exit codes: 0 if all scripts hold, 1
/// if one does not, 2 for a script that is none and for wrong usage.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run scripts against a server.
    Run(Run),
    /// Run each script again and again, cut elsewhere each time: its peers must receive the same.
    Fuzz(fuzz::Args),
    /// Make a script of what happens between peers and a server, or of a session that is typed.
    Record(Record),
    /// Write into scripts what comes instead of what they expect.
    Bless(Bless),
    /// Run scripts against several servers, and print a table of what holds where.
    Compare(compare::Args),
    /// Look for the smallest script that still fails in the same manner.
    Shrink(Shrink),
    /// Read scripts, and say what is wrong in them.
    Check {
        /// Scripts, and folders of `.session` files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<String>,
        #[command(flatten)]
        given: Given,
    },
}

/// How scripts run.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// Scripts, and folders of `.session` files.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<String>,
    #[command(flatten)]
    pub(crate) service: Service,
    /// Run so many scripts at once.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) jobs: NonZeroU32,
    /// Run each script so many times.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) repeat: NonZeroU32,
    /// Send everything in chunks of random sizes. The seed is printed: given again, it makes the same sizes.
    #[arg(long, value_name = "SEED", num_args = 0..=1, require_equals = true)]
    pub(crate) split: Option<Option<u64>>,
    #[command(flatten)]
    pub(crate) given: Given,
    /// Print results in the Test Anything Protocol, version 14.
    #[arg(long)]
    pub(crate) tap: bool,
    /// Write results to a file, too, as JUnit's XML: what continuous integration reads.
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<String>,
}

/// Which server: one of these, or none for scripts that start their own.
#[derive(Debug, clap::Args)]
pub(crate) struct Service {
    /// Connect to a server that runs: `host:port`, `unix:PATH`, or `tls:host:port`.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "server")]
    pub(crate) connect: Option<Target>,
    /// Start a server for each script, and stop it by SIGTERM. The shell reads the command; `$port` is a free port of
    /// 127.0.0.1, on which it has to listen, `$tmp` an empty folder that is removed at the end.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) server: Option<String>,
    #[command(flatten)]
    pub(crate) tls: Tls,
}

impl Service {
    /// The service that scripts talk to. `None` if one of them needs a server and none is given, which is said.
    pub(crate) fn target(&self, scripts: &[(String, Script)]) -> Option<Target> {
        let given = self.connect.clone().or_else(|| self.server.as_deref().map(Target::server));
        let lost = scripts.iter().find(|(_, script)| !script.brings_its_service());
        match (given, lost) {
            (None, Some((file, _))) => {
                output::complain(&format!(
                    "{file} starts no server: say which one it talks to, by --connect or --server"
                ));
                None
            }
            (given, _) => Some(given.unwrap_or_else(Target::none)),
        }
    }
}

/// What scripts are told from outside.
#[derive(Debug, clap::Args)]
pub(crate) struct Given {
    /// Set a variable; repeatable.
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = variable)]
    variables: Vec<Variable>,
    /// Say that something is there, for scripts that need it (`needs NAME`); repeatable.
    #[arg(long = "feature", value_name = "NAME")]
    features: Vec<String>,
}

impl Given {
    pub(crate) fn options(&self) -> ScriptOptions {
        let options = self.features.iter().fold(ScriptOptions::default(), ScriptOptions::feature);
        self.variables
            .iter()
            .fold(options, |options, Variable { name, value }| options.variable(name, value.as_bytes()))
    }
}

/// A variable and what it holds.
#[derive(Clone, Debug)]
struct Variable {
    name: String,
    value: String,
}

fn variable(text: &str) -> Result<Variable, String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    if !ScriptOptions::is_variable(name) {
        return Err(format!("`{name}` is no name: letters, digits and `_`, and no digit first"));
    }
    Ok(Variable { name: name.to_owned(), value: value.to_owned() })
}
