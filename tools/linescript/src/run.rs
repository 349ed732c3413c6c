//! `linescript run`: each script as often as asked, as many at once as asked, and a line for each.

use std::{
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use actix_lines::script::{Script, ScriptOptions, Target};

use crate::{FAILS, HOLDS, WRONG, args::Run, options, output, scripts, server::Server};

/// How one run went.
enum Outcome {
    Holds,
    /// Something that it needs is not there: the reason.
    Skipped(String),
    /// The report.
    Fails(String),
    /// The server did not start: nothing is known of the script.
    NoServer(String),
}

fn one(script: &Script, args: &Run, options: &ScriptOptions) -> Outcome {
    let (server, target) = match (&args.service.server, &args.service.connect) {
        (Some(command), _) => match Server::start(command) {
            Ok(server) => {
                let target = Target::tcp(server.address().to_string());
                (Some(server), target)
            }
            Err(reason) => return Outcome::NoServer(reason),
        },
        (None, Some(target)) => (None, target.clone()),
        (None, None) => return Outcome::NoServer("neither --connect nor --server".to_owned()),
    };
    let ran = script.run(&target, options);
    let log = server.map(Server::stop).unwrap_or_default();
    match ran {
        Ok(run) => run.skipped.map_or(Outcome::Holds, Outcome::Skipped),
        Err(failure) => {
            let mut report = failure.to_coloured_string();
            if !log.is_empty() {
                report.push_str("\nthe server's last words:\n");
                log.iter().for_each(|line| report.push_str(&format!("  {line}\n")));
            }
            Outcome::Fails(report)
        }
    }
}

pub(crate) fn run(args: &Run) -> u8 {
    let options = options(&args.variables);
    let Some(scripts) = scripts(&args.files, &options) else { return WRONG };
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
    let (done, results) = mpsc::channel();
    let mut code = HOLDS;
    let (mut held, mut skipped) = (0, 0);
    thread::scope(|scope| {
        for _ in 0..(args.jobs.get() as usize).min(runs) {
            let (done, next, scripts, options) = (done.clone(), &next, &scripts, &options);
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
                    let name = if repeat == 1 { file.clone() } else { format!("{file} #{}", repetition + 1) };
                    let _ = done.send((name, one(script, args, &options)));
                }
            });
        }
        drop(done);
        for (number, (name, outcome)) in results.into_iter().enumerate() {
            let number = number + 1;
            // `#` begins a directive, and is escaped.
            let escaped = |text: &str| text.replace('\\', "\\\\").replace('#', "\\#");
            let (holds, report) = match outcome {
                Outcome::Holds => (true, String::new()),
                Outcome::Skipped(reason) => {
                    skipped += 1;
                    output::say(&if args.tap {
                        format!("ok {number} - {} # SKIP {}", escaped(&name), escaped(&reason))
                    } else {
                        format!("skip {name}: {reason}")
                    });
                    continue;
                }
                Outcome::Fails(report) => {
                    code = code.max(FAILS);
                    (false, report)
                }
                Outcome::NoServer(reason) => {
                    code = WRONG;
                    (false, reason)
                }
            };
            held += usize::from(holds);
            let word = if holds { "ok" } else { "not ok" };
            if args.tap {
                output::say(&format!("{word} {number} - {}", escaped(&name)));
                report.lines().for_each(|line| output::say(&format!("# {line}")));
            } else {
                output::say(&format!("{word} {name}"));
                if !holds {
                    output::say(&format!("{report}\n"));
                }
            }
        }
    });
    if !args.tap {
        let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
        output::say(&format!("{held} of {runs} hold{skipped}"));
    }
    code
}
