//! `linescript shrink`: the smallest script that still fails in the same manner.
//!
//! Not here: what may be left out, and what the same manner is (`actix_lines::script`).

use std::{fs::OpenOptions, io::Write, path::Path, time::Duration};

use actix_lines::script::{Fuzz, FuzzCase, Shrink as How, ShrinkError};

use crate::{
    FAILS, HOLDS, WRONG,
    args::{Given, Service},
    output, scripts,
};

/// How a script is shrunk.
#[derive(Debug, clap::Args)]
pub(crate) struct Shrink {
    /// A script that fails.
    #[arg(value_name = "FILE")]
    file: String,
    #[command(flatten)]
    service: Service,
    /// Write the smaller script to a file, not to standard output; a file that is there is left alone.
    #[arg(short, long, value_name = "FILE")]
    output: Option<String>,
    /// Run scripts so often at most.
    #[arg(long, value_name = "N", default_value = "2000")]
    runs: usize,
    /// Begin no other run after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    time: u64,
    /// Run each script so often until it counts as one that holds, for failures that come by chance.
    #[arg(long, value_name = "N", default_value = "1")]
    tries: u32,
    /// Send everything in chunks of random sizes, as `run` does by the same seed.
    #[arg(long, value_name = "SEED", require_equals = true)]
    split: Option<u64>,
    /// Shrink a script that fails when it is fuzzed; the seed is that of `fuzz`.
    #[arg(long, value_name = "SEED", num_args = 0..=1, require_equals = true, conflicts_with = "split")]
    fuzz: Option<Option<u64>>,
    /// Shrink a script that fails in this case, as `fuzz` names it; repeatable.
    #[arg(long = "case", value_name = "CASE", conflicts_with = "split")]
    cases: Vec<FuzzCase>,
    #[command(flatten)]
    given: Given,
}

impl Shrink {
    fn how(&self) -> How {
        let mut how =
            How::default().max_runs(self.runs).max_time(Some(Duration::from_secs(self.time))).tries(self.tries);
        if self.fuzz.is_some() || !self.cases.is_empty() {
            let fuzz = self.cases.iter().fold(Fuzz::default(), |fuzz, case| fuzz.case(case.clone()));
            how = how.fuzz(self.fuzz.flatten().map_or(fuzz.clone(), |seed| fuzz.seed(seed)));
        }
        how
    }
}

pub(crate) fn shrink(args: &Shrink) -> u8 {
    // Before a minute has gone into it.
    if let Some(path) = args.output.as_ref().filter(|path| Path::new(path).symlink_metadata().is_ok()) {
        output::complain(&format!("{path} is there already: remove it, or name another"));
        return WRONG;
    }
    let mut options = args.given.options();
    if let Some(seed) = args.split {
        options = options.split(seed);
    }
    let Some(options) = args.service.tls.add(options) else { return WRONG };
    let Ok(scripts) = scripts(std::slice::from_ref(&args.file), &options) else { return WRONG };
    let Some(target) = args.service.target(&scripts) else { return WRONG };
    let [(file, script)] = scripts.as_slice() else {
        output::complain(&format!("{}: one script at a time", args.file));
        return WRONG;
    };
    match script.shrink(&target, &options, &args.how()) {
        Ok(shrunk) => {
            let text = shrunk.script.to_string();
            if let Some(path) = &args.output {
                let file = OpenOptions::new().write(true).create_new(true).open(path);
                if let Err(error) = file.and_then(|mut file| file.write_all(text.as_bytes())) {
                    output::complain(&format!("cannot write {path}: {error}"));
                    return WRONG;
                }
            } else {
                output::say(text.trim_end());
            }
            let (before, after) = shrunk.statements;
            let rest = if shrunk.is_smallest { "" } else { "; more might be left out with more --runs or --time" };
            output::report(&shrunk.failure.to_coloured_string());
            if !shrunk.fails_again {
                output::complain(&format!(
                    "{file}: run once more, the smaller script did not fail so: the report is that of the script before; try --tries N"
                ));
            }
            output::complain(&format!("{file}: {after} of {before} statements, {} runs{rest}", shrunk.runs));
            HOLDS
        }
        Err(error) => {
            output::complain(&format!("{file}: {}", error.to_coloured_string()));
            if matches!(error, ShrinkError::ByChance(_)) { FAILS } else { WRONG }
        }
    }
}
