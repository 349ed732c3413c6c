//! What `rot13d` promises, as scripts: each file of `tests/sessions` holds against the process over TCP, against the library over
//! a unix socket, and in memory on a paused clock, there cut at random as well; peers receive the same bytes, whichever it is.
//!
//! A folder is a service: `rot13d` with the settings of the `rot13d.toml` in it, and the library with limits that mean the same.
//! The scripts of the folder above have the defaults. A script that can only be one of the three says what it `needs`.
//! Those that can be typed are typed, too, by a real telnet. `SESSIONS_REPEAT=500` runs each so many times.
//! Not here: scripts for other servers (`sessions/others`).

mod support;
#[path = "support/typed.rs"]
mod typed;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{self, ExitCode},
    sync::{Arc, OnceLock, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use actix_lines::{
    Framing, LineServer, LineSession, Listener, Overlong, Rot13,
    limits::{Limits, Rate, RateLimit, Watermarks},
    script::{Fuzz, Script, ScriptOptions, ScriptRun, Target},
};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::process::Signal;
use support::{PATIENCE, Server};

/// So many scripts are there at least, and so many are typed: no change takes them away unnoticed.
const SCRIPTS: usize = 80;
const TYPED: usize = 25;
/// Cases of the fuzz of each script: all of a short one. Of a long one as many as there is time for.
const CASES: usize = 100;
const FUZZ: Duration = Duration::from_secs(2);

/// A folder of scripts, and how it is served.
struct Service {
    settings: PathBuf,
    framing: Framing,
    limits: Limits,
    /// Started by the first script that needs it.
    process: OnceLock<Server>,
    library: OnceLock<Library>,
}

/// A server of the library on a unix socket, on a thread of its own.
struct Library {
    path: PathBuf,
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Library {
    fn start(framing: Framing, limits: Limits, number: usize) -> Self {
        let path = env::temp_dir().join(format!("actix-lines-sessions-{}-{number}", process::id()));
        let (stop, stopped) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let listener = Listener::unix(&path);
        let thread = thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let server = LineServer::new(|_| Rot13).framing(framing).limits(limits).workers(1);
                let server = server.listen(listener).expect("a path of its own").start().expect("it starts");
                tell.send(()).expect("the test waits");
                let _ = tokio::task::spawn_blocking(move || stopped.recv()).await;
                let _ = server.abort().await;
            });
        });
        told.recv().expect("it listens");
        Self { path, stop, thread }
    }

    fn stop(self) {
        drop(self.stop);
        self.thread.join().expect("no panic in the library's server");
        let _ = fs::remove_file(self.path);
    }
}

/// Reads settings as `rot13d` does, as far as the scripts have any.
fn meaning(settings: &Path) -> (Framing, Limits) {
    let mut max_line = Framing::DEFAULT_MAX_LINE;
    let mut overlong = Overlong::Pieces;
    let mut outbox = Watermarks::default();
    let mut limits = Limits::exposed().to_builder();
    let text = if settings.exists() { fs::read_to_string(settings).expect("a file") } else { String::new() };
    for (key, value) in text.parse::<toml::Table>().expect("settings in TOML") {
        let text = value.as_str().unwrap_or_default();
        let time = || humantime::parse_duration(text).expect("a time");
        let size = || parse_size::parse_size(text).expect("a size") as usize;
        match key.as_str() {
            "max-line" => max_line = value.as_integer().expect("a number") as usize,
            "overlong" => {
                let policies =
                    [Overlong::Pieces, Overlong::Split, Overlong::Truncate, Overlong::Discard, Overlong::Close];
                let named = policies.into_iter().find(|policy| format!("{policy:?}").eq_ignore_ascii_case(text));
                overlong = named.expect("a policy");
            }
            "idle-timeout" => limits = limits.idle_timeout(Some(time())),
            "line-timeout" => limits = limits.line_timeout(Some(time())),
            "write-timeout" => limits = limits.write_timeout(Some(time())),
            "max-age" => limits = limits.max_age(Some(time())),
            "outbox-high" => outbox.high = size(),
            "outbox-low" => outbox.low = size(),
            "session-rate" => {
                let lines = text.strip_prefix("lines=").and_then(|lines| lines.parse().ok()).expect("lines=N");
                limits = limits.session_rate(RateLimit { lines: Some(Rate::per_second(lines)), bytes: None });
            }
            _ => panic!("{}: say here what `{key}` means to the library", settings.display()),
        }
    }
    let framing = Framing::lf().max_line(max_line).expect("a length").overlong(overlong);
    (framing, limits.outbox(outbox).build().expect("limits that can work"))
}

impl Service {
    fn new(folder: &Path) -> Self {
        let settings = folder.join("rot13d.toml");
        let (framing, limits) = meaning(&settings);
        Self { settings, framing, limits, process: OnceLock::new(), library: OnceLock::new() }
    }

    fn process(&self) -> &Server {
        self.process.get_or_init(|| {
            let config = self.settings.display().to_string();
            let arguments = ["--config", &config];
            Server::start(if self.settings.exists() { &arguments } else { &[] })
        })
    }

    fn tcp(&self) -> Target {
        Target::tcp(self.process().address.to_string())
    }

    fn unix(&self, number: usize) -> Target {
        Target::unix(&self.library.get_or_init(|| Library::start(self.framing, self.limits.clone(), number)).path)
    }

    fn memory(&self) -> Target {
        let (framing, limits) = (self.framing, self.limits.clone());
        Target::memory(move |transport| {
            LineSession::new(transport).framing(framing).limits(limits.clone()).start(Rot13);
        })
    }

    /// Ends what was started: at SIGTERM a process ends with 0.
    fn stop(mut self) {
        if let Some(mut server) = self.process.take() {
            server.signal(Signal::TERM);
            let (code, log) = server.wait();
            assert_eq!(code, Some(0), "{log:#?}");
        }
        if let Some(library) = self.library.take() {
            library.stop();
        }
    }
}

fn options() -> ScriptOptions {
    ScriptOptions::default().timeout(PATIENCE).variable("rot13d", env!("CARGO_BIN_EXE_rot13d"))
}

fn failed(how: &str, report: impl ToString) -> Failed {
    // On a line of its own: its columns count.
    Failed::from(format!("{how}:\n{}", report.to_string()))
}

fn run(how: &str, script: &Script, target: &Target, options: &ScriptOptions) -> Result<ScriptRun, Failed> {
    script.run(target, options).map_err(|failure| failed(how, failure))
}

/// Runs a script in all ways: it holds in each, and peers receive the same bytes.
fn in_all_ways(file: &Path, service: &Service, number: usize) -> Result<(), Failed> {
    let script = Script::load(file).map_err(|error| failed("it is no script", error))?;
    let cut = options().split(number as u64);
    let ways = [
        ("over TCP", service.tcp(), options()),
        ("over a unix socket", service.unix(number), options()),
        ("in memory", service.memory(), options()),
        ("in memory, cut at random", service.memory(), cut),
    ];
    // All at once: some of them wait for a timeout.
    let runs: Vec<_> = thread::scope(|scope| {
        let start = |(how, target, options)| {
            let script = &script;
            scope.spawn(move || (how, run(how, script, &target, &options)))
        };
        let threads: Vec<_> = ways.into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("a runner does not panic")).collect()
    });
    let mut ran: Vec<(&str, ScriptRun)> = Vec::new();
    let mut skipped = Vec::new();
    for (how, run) in runs {
        let run = run?;
        match &run.skipped {
            Some(reason) => skipped.push(format!("{how}: {reason}")),
            None => ran.push((how, run)),
        }
    }
    let Some((first, rest)) = ran.split_first().filter(|_| skipped.is_empty() || says_where(&script)) else {
        return Err(failed("it is skipped, and does not say that it needs anything", skipped.join("\n")));
    };
    for (how, run) in rest {
        if run.transcripts != first.1.transcripts {
            let both = format!("{:?}\n{how}:\n{:?}", first.1.transcripts, run.transcripts);
            return Err(failed(&format!("peers do not receive the same, {}", first.0), both));
        }
    }
    Ok(())
}

/// Runs a script in memory, cut and held back at many places, the same at each run.
fn fuzzed(file: &Path, service: &Service, number: usize) -> Result<Completion, Failed> {
    let script = Script::load(file).map_err(|error| failed("it is no script", error))?;
    let how = Fuzz::default().max_cases(CASES).max_time(Some(FUZZ)).seed(number as u64);
    let report = script.fuzz(&service.memory(), &options(), &how).map_err(|failure| failed("in memory", failure))?;
    Ok(report.skipped.map_or(Completion::Completed, Completion::ignored_with))
}

/// True for a script that is for some of the ways only, and says so.
fn says_where(script: &Script) -> bool {
    script.to_string().lines().any(|line| line.starts_with("needs ") || line.starts_with("server "))
}

/// Files and folders of a folder, in the order of their names.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut entries: Vec<_> = entries.collect();
    entries.sort();
    entries
}

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sessions");
    let mut services = BTreeMap::new();
    let folders = entries(&root).into_iter().filter(|path| path.is_dir() && !path.ends_with("others"));
    let mut scripts = Vec::new();
    for folder in std::iter::once(root.clone()).chain(folders) {
        let service = Arc::new(Service::new(&folder));
        let files =
            entries(&folder).into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "session"));
        scripts.extend(files.map(|file| (file, Arc::clone(&service))));
        services.insert(folder, service);
    }
    let repeat = env::var("SESSIONS_REPEAT").map_or(1, |times| times.parse().expect("SESSIONS_REPEAT is a number"));
    let mut trials = Vec::new();
    for (number, (file, service)) in scripts.iter().enumerate() {
        let name = file.strip_prefix(&root).unwrap_or(file).with_extension("").display().to_string();
        let script = Script::load(file);
        let (path, of_it) = (file.clone(), Arc::clone(service));
        let all = move || (0..repeat).try_for_each(|_| in_all_ways(&path, &of_it, number));
        trials.push(Trial::test(&*name, all));
        let (path, of_it) = (file.clone(), Arc::clone(service));
        trials.push(Trial::ignorable_test(format!("fuzz/{name}"), move || fuzzed(&path, &of_it, number)));
        if let Some(script) = script.ok().filter(typed::can_be_typed) {
            let service = Arc::clone(service);
            let typed = move || {
                let relay = typed::relay(service.process().address);
                run("typed", &script, &Target::tcp(relay.to_string()), &options()).map(|_| ())
            };
            trials.push(Trial::test(format!("typed/{name}"), typed).with_ignored_flag(true));
        }
    }
    assert!(scripts.len() >= SCRIPTS, "only {} scripts were found", scripts.len());
    let typed = trials.len() - 2 * scripts.len();
    assert!(typed >= TYPED, "only {typed} of {} scripts can be typed", scripts.len());
    let mut arguments = Arguments::from_args();
    // Most of the time they wait, for a clock or for each other.
    arguments.test_threads = arguments.test_threads.or(Some(8));
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(scripts);
    for (_, service) in services {
        // No trial is left that has it.
        Arc::into_inner(service).expect("trials are done").stop();
    }
    conclusion.exit_code()
}
