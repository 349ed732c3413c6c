//! What scripts cost in memory: a thousand of ten exchanges, every split of 2 KiB, an hour that passes.
//! `cargo bench -p actix-lines --features script --bench scripts`.
//!
//! Each is done several times. Processor time counts: runs are one after the other, each on a thread of its own.
#![allow(clippy::print_stdout)]

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use actix_lines::{
    LineSession, Rot13,
    limits::Limits,
    rot13,
    script::{Fuzz, Script, ScriptOptions, Target},
};
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 5;

fn target() -> Target {
    Target::memory(|transport| {
        let limits = Limits::builder().idle_timeout(None).build().expect("they can work");
        LineSession::new(transport).limits(limits).start(Rot13);
    })
}

/// Lines and their answers, one after the other: so many exchanges of so many bytes.
fn script(exchanges: usize, len: usize) -> Script {
    let mut text = String::new();
    for exchange in 0..exchanges {
        let line = format!("{exchange:0width$}", width = len - 1).replace('0', "a");
        let mut answer = line.clone().into_bytes();
        rot13(&mut answer);
        let _ = write!(text, "> {line}\n< {}\n", String::from_utf8_lossy(&answer));
    }
    text.push_str(": fin\n: eof\n");
    parse(&text)
}

fn parse(text: &str) -> Script {
    Script::parse("bench.session", text).unwrap_or_else(|error| panic!("\n{error}"))
}

fn run(script: &Script, target: &Target) {
    script.run(target, &ScriptOptions::default()).unwrap_or_else(|failure| panic!("\n{failure}"));
}

/// Processor time of this process.
fn processor() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn measure(name: &str, goal: &str, mut what: impl FnMut()) {
    what();
    let mut times: Vec<(Duration, Duration)> = (0..ROUNDS)
        .map(|_| {
            let (begin, used) = (Instant::now(), processor());
            what();
            (processor() - used, begin.elapsed())
        })
        .collect();
    times.sort_unstable();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let elapsed = times.iter().map(|(_, elapsed)| *elapsed).min().unwrap_or_default();
    println!("| {name} | {:.2} | {:.2} | {:.2} | {goal} |", ms(times[0].0), ms(times[ROUNDS / 2].0), ms(elapsed));
}

fn main() {
    let target = target();
    println!("| what | processor, least, ms | median | elapsed, least, ms | goal |\n|---|--:|--:|--:|--:|");
    let ten = script(10, 32);
    measure("1,000 scripts of ten exchanges", "2,000", || (0..1000).for_each(|_| run(&ten, &target)));
    // Single cuts behind each of its bytes but the last: the cases that begin with `split:` and have one number.
    let long = script(32, 64);
    let splits = (1..2048).map(|cut| format!("split:{cut}").parse().expect("a case"));
    let every_split = splits.fold(Fuzz::default(), Fuzz::case);
    measure("every split of 2 KiB in 32 exchanges", "2,000", || {
        let report = long.fuzz(&target, &ScriptOptions::default(), &every_split);
        let report = report.unwrap_or_else(|failure| panic!("\n{failure}"));
        assert_eq!((report.cases, report.left_out.len()), (2047, 0), "{report}");
    });
    measure("every case of ten exchanges of 32 bytes", "", || {
        let report = ten.fuzz(&target, &ScriptOptions::default(), &Fuzz::default());
        let report = report.unwrap_or_else(|failure| panic!("\n{failure}"));
        assert!(report.left_out.is_empty(), "{report}");
    });
    let hour = parse("> before\n< orsber\n: after 1h\n> after\n< nsgre\n");
    measure("`after 1h`", "5", || run(&hour, &target));
}
