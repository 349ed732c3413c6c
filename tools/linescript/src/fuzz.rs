//! `linescript fuzz`: each script as it is, then cut at every place of what its peers send, and so on. A line for each.
//!
//! Not here: what is tried, and how runs are compared: the library's (`actix_lines::script::Fuzz`).

use std::time::Duration;

use actix_lines::script::{FailureKind, Fuzz, FuzzCase};

use crate::{
    FAILS, HOLDS, WRONG,
    args::{Given, Service},
    output, scripts,
};

/// Arguments of `linescript fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Scripts, and folders of `.session` files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    #[command(flatten)]
    service: Service,
    /// Most cases to try of each script. Of more there are, cuts near the ends of lines come first, the others by chance.
    #[arg(long, value_name = "N", default_value = "10000")]
    runs: usize,
    /// Begin no other case of a script after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    time: u64,
    /// The seed of all that is chosen by chance. Default: a random one, which is printed.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Milliseconds that the server has to read each piece before the next leaves.
    #[arg(long, value_name = "MS", default_value = "1")]
    turn: u64,
    /// Try this case, as a failure names it, and no others; repeatable.
    #[arg(long = "case", value_name = "CASE")]
    cases: Vec<FuzzCase>,
    #[command(flatten)]
    given: Given,
}

pub(crate) fn fuzz(args: &Args) -> u8 {
    let options = args.given.options();
    let Some(options) = args.service.tls.add(options) else { return WRONG };
    let Ok(scripts) = scripts(&args.files, &options) else { return WRONG };
    let Some(target) = args.service.target(&scripts) else { return WRONG };
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    let how = Fuzz::default().seed(seed).max_cases(args.runs).max_time(Some(Duration::from_secs(args.time)));
    let how = how.turn(Duration::from_millis(args.turn));
    let how = args.cases.iter().fold(how, |how, case| how.case(case.clone()));
    let (mut code, mut held) = (HOLDS, 0);
    for (file, script) in &scripts {
        match script.fuzz(&target, &options, &how) {
            Ok(report) if report.skipped.is_some() => output::say(&format!("skip {file}: {report}")),
            Ok(report) if report.cases == 0 => {
                code = code.max(FAILS);
                output::say(&format!("not ok {file}: no case was tried: {report}"));
            }
            Ok(report) => {
                held += 1;
                output::say(&format!("ok {file}: {report}"));
            }
            Err(failure) => {
                let is_run = failure.failure().kind() != FailureKind::NotRun;
                code = code.max(if is_run { FAILS } else { WRONG });
                let again =
                    failure.case().filter(|_| is_run).map(|case| format!("\nagain: --case {case}")).unwrap_or_default();
                output::say(&format!("not ok {file}, seed {seed}\n{}{again}\n", failure.to_coloured_string()));
            }
        }
    }
    output::say(&format!("{held} of {} hold", scripts.len()));
    code
}
