//! `linescript run`: each script as often as asked, as many at once as asked, and a line for each.
//!
//! Not here: how one script runs (the library), the line that shows how far it is (`progress`), JUnit's XML (`junit`).

use std::{
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use actix_lines::script::{FailureKind, Script, ScriptFailure, ScriptOptions, Target};

use crate::{
    Bad, FAILS, HOLDS, WRONG,
    args::Run,
    junit::{Junit, Verdict},
    output,
    progress::Progress,
    scripts,
};

/// How one run went.
enum Outcome {
    Holds,
    /// Something that it needs is not there: the reason.
    Skipped(String),
    Fails(Box<ScriptFailure>),
    /// The server did not start: nothing is known of the script.
    NoServer(String),
}

fn one(script: &Script, target: &Target, options: &ScriptOptions) -> Outcome {
    match script.run(target, options) {
        Ok(run) => run.skipped.map_or(Outcome::Holds, Outcome::Skipped),
        Err(failure) if failure.kind() == FailureKind::NotRun => Outcome::NoServer(failure.to_string()),
        Err(failure) => Outcome::Fails(Box::new(failure)),
    }
}

impl Outcome {
    fn verdict(&self) -> Verdict<'_> {
        match self {
            Self::Holds => Verdict::Holds,
            Self::Skipped(reason) => Verdict::Skipped(reason),
            Self::Fails(failure) => Verdict::Fails(failure),
            Self::NoServer(reason) => Verdict::Error("server", reason),
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Holds | Self::Skipped(_) => HOLDS,
            Self::Fails(_) => FAILS,
            Self::NoServer(_) => WRONG,
        }
    }

    /// The lines that say it. `number` is that of its result in TAP.
    fn lines(&self, name: &str, number: Option<usize>) -> String {
        let report = match self {
            Self::Holds => String::new(),
            Self::Skipped(reason) => {
                return match number {
                    Some(number) => format!("ok {number} - {} # SKIP {}", escaped(name), escaped(reason)),
                    None => format!("skip {name}: {reason}"),
                };
            }
            Self::Fails(failure) => failure.to_coloured_string(),
            Self::NoServer(reason) => reason.clone(),
        };
        let holds = matches!(self, Self::Holds);
        let word = if holds { "ok" } else { "not ok" };
        match number {
            Some(number) => {
                let lines = report.lines().map(|line| format!("\n# {line}"));
                format!("{word} {number} - {}", escaped(name)) + &lines.collect::<String>()
            }
            None if holds => format!("{word} {name}"),
            None => format!("{word} {name}\n{report}\n"),
        }
    }
}

/// `#` begins a directive of TAP.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('#', "\\#")
}

pub(crate) fn run(args: &Run) -> u8 {
    let start = Instant::now();
    // First of all: no report of an earlier run stays where this one's is looked for.
    let mut junit = match args.junit.as_deref().map(Junit::create).transpose() {
        Ok(junit) => junit,
        Err(reason) => {
            output::complain(&reason);
            return WRONG;
        }
    };
    let mut code = match scripts(&args.files, &args.given.options()) {
        Ok(scripts) => all(args, &scripts, junit.as_mut()),
        Err(bad) => {
            if let Some(junit) = &mut junit {
                bad.iter().for_each(|Bad { file, reason }| {
                    junit.case(file, None, Duration::ZERO, &Verdict::Error("script", reason));
                });
            }
            WRONG
        }
    };
    if let Some(Err(reason)) = junit.map(|junit| junit.write(start.elapsed())) {
        output::complain(&reason);
        code = WRONG;
    }
    code
}

fn all(args: &Run, scripts: &[(String, Script)], mut junit: Option<&mut Junit>) -> u8 {
    let options = args.given.options();
    let Some(options) = args.service.tls.add(options) else { return WRONG };
    let Some(target) = args.service.target(scripts) else { return WRONG };
    let seed = args.split.map(|seed| seed.unwrap_or_else(|| fastrand::u64(..)));
    let repeat = args.repeat.get() as usize;
    let runs = scripts.len() * repeat;
    if args.tap {
        output::say(&format!("TAP version 14\n1..{runs}"));
    }
    if let Some(seed) = seed {
        output::say(&format!("{}split by seed {seed}: --split={seed}", if args.tap { "# " } else { "" }));
    }
    let next = AtomicUsize::new(0);
    let progress = Progress::new(runs);
    let (done, results) = mpsc::channel();
    let mut code = HOLDS;
    let (mut held, mut skipped) = (0, 0);
    thread::scope(|scope| {
        for _ in 0..(args.jobs.get() as usize).min(runs) {
            let (done, next, options, progress, target) = (done.clone(), &next, &options, &progress, &target);
            scope.spawn(move || {
                loop {
                    let run = next.fetch_add(1, Ordering::Relaxed);
                    if run >= runs {
                        break;
                    }
                    let (file, script) = &scripts[run / repeat];
                    let repetition = run % repeat;
                    let options = match seed {
                        // Each repetition cuts elsewhere; the first one as the seed says.
                        Some(seed) => options.clone().split(seed.wrapping_add(repetition as u64)),
                        None => options.clone(),
                    };
                    let number = (repeat > 1).then_some(repetition + 1);
                    let name = number.map_or_else(|| file.clone(), |number| format!("{file} #{number}"));
                    progress.begins(&name);
                    let start = Instant::now();
                    let outcome = one(script, target, &options);
                    let _ = done.send((file, number, name, start.elapsed(), outcome));
                }
            });
        }
        drop(done);
        scope.spawn(|| progress.show());
        for (ended, (file, repetition, name, time, outcome)) in results.into_iter().enumerate() {
            code = code.max(outcome.code());
            held += usize::from(matches!(outcome, Outcome::Holds));
            skipped += usize::from(matches!(outcome, Outcome::Skipped(_)));
            progress.ends(&name, outcome.code() != HOLDS, || {
                output::say(&outcome.lines(&name, args.tap.then_some(ended + 1)));
            });
            if let Some(junit) = &mut junit {
                junit.case(file, repetition, time, &outcome.verdict());
            }
        }
        progress.over();
    });
    if !args.tap {
        let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
        output::say(&format!("{held} of {runs} hold{skipped}"));
    }
    code
}
