//! Scripts start servers, hear, signal and await them; no process outlives its script. Scripts are skipped where something is missing.
//!
//! The reports are compared as text with `script/servers.txt`. Not here: what needs no process (`script`).

use std::{
    env, fs,
    io::Write,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use actix_lines::{
    LineServer, Listener, Rot13,
    script::{FailureKind, Script, ScriptOptions, ScriptRun, Target},
};
use rustix::process::{Pid, test_kill_process};
use tokio::signal::unix::{SignalKind, signal};

#[path = "script/compare.rs"]
mod compare;
#[path = "script/service.rs"]
mod service;

const BLESS: &str = "ACTIX_LINES_BLESS=1 cargo test -p actix-lines --features script --test script_servers";

/// The server that scripts start: this program again.
#[test]
fn serve() {
    let Ok(port) = env::var("SCRIPT_SERVES") else { return };
    actix_rt::System::new().block_on(async move {
        let mut signal = signal(SignalKind::terminate()).expect("signals are there");
        let server = LineServer::new(|_| Rot13);
        let server = match port.parse::<u16>() {
            Ok(port) => server.bind(("127.0.0.1", port)).expect("the port is free"),
            Err(_) => server.listen(Listener::unix(&port)).expect("the path is free"),
        };
        let server = server.start().expect("it starts");
        server.local_addrs().iter().for_each(|address| eprintln!("listening on {address}"));
        let _ = signal.recv().await;
        let _ = server.abort().await;
    });
}

/// Its command, which listens on what the script calls `place`.
fn program(place: &str) -> String {
    let this = env::current_exe().expect("a path");
    format!("env SCRIPT_SERVES={place} '{}' --exact serve --nocapture", this.display())
}

/// As long as a machine may take to start a process, and whatever else is no test's subject.
fn options() -> ScriptOptions {
    ScriptOptions::default().timeout(Duration::from_secs(60))
}

fn script(text: &str) -> Script {
    Script::parse("test.session", text.replace("PROGRAM", &program("$port")))
        .unwrap_or_else(|error| panic!("\n{error}"))
}

#[track_caller]
fn holds(text: &str, target: &Target) -> ScriptRun {
    let run = script(text).run(target, &options()).unwrap_or_else(|failure| panic!("\n{failure}"));
    assert_eq!(run.skipped, None);
    run
}

#[track_caller]
fn fails(text: &str, target: &Target) -> String {
    script(text).run(target, &options()).expect_err("it does not hold").to_string()
}

fn file(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_file(&path);
    path
}

/// Waits until another process has done something.
#[track_caller]
fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "waited a minute in vain for {what}");
        // Between two looks.
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until the process whose number is in a file is no more.
#[track_caller]
fn gone(file: &Path) {
    let pid = fs::read_to_string(file).expect("it wrote its number");
    let pid = pid.trim().parse().ok().and_then(Pid::from_raw).expect("a number");
    until(&format!("the end of the process {pid:?} of {}", file.display()), || {
        // One that nobody has waited for yet is gone, too.
        let state = || fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
        test_kill_process(pid).is_err() || state().contains(") Z ")
    });
}

#[test]
fn a_script_starts_servers_hears_them_signals_them_and_sees_them_end() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/script/holds/servers.session");
    let script = Script::load(file).unwrap_or_else(|error| panic!("\n{error}"));
    let options = options().variable("program", program("$port"));
    let run = script.run(&Target::none(), &options).unwrap_or_else(|failure| panic!("\n{failure}"));
    assert_eq!(run.skipped, None);
    assert_eq!(run.transcripts[0].received, b"Uryyb\nntnva\n");
}

#[test]
fn peers_listen_and_accept_in_the_order_of_those_who_come() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/script/holds/listens.session");
    let script = Script::load(file).unwrap_or_else(|error| panic!("\n{error}"));
    let run = script.run(&Target::none(), &options()).unwrap_or_else(|failure| panic!("\n{failure}"));
    assert_eq!(run.skipped, None);
    let received =
        |name: &str| run.transcripts.iter().find(|peer| peer.peer == name).map(|peer| peer.received.as_slice());
    assert_eq!(received("backend"), Some(b"Hello\none\ntwo\n".as_slice()));
    let memory = Target::memory(drop);
    let skipped = script.run(&memory, &options()).expect("it is skipped").skipped;
    assert!(skipped.is_some(), "nobody comes from outside to sessions in memory");
}

/// Each thing that a server does not do. The reports hold no port and no number of a process.
const FAILURES: &[(&str, &str)] = &[
    ("ends before it listens", "server sh -c 'echo no; echo port $port >/dev/null; exit 3'\n> hello\n"),
    (
        "ends by itself",
        // The other one ends when it is known to have.
        "server sh -c 'echo $$$$ > $tmp/pid; echo goodbye; exit 3'\nserver: log /goodbye/\nserver other = sh -c 'pid=$$(cat $tmp/pid); while kill -0 $$pid && ! grep \") Z\" /proc/$$pid/stat; do sleep 0.01; done >/dev/null 2>&1'\nserver other: exit 0\n",
    ),
    (
        "says something else",
        "server sh -c 'echo one; echo two; sleep 1000'\nserver: log /^two$/\ntimeout 50ms\nserver: log /^three$/\n",
    ),
    ("ends and never said that", "server sh -c 'echo one; exit 1'\nserver: log /^two$/\n"),
    (
        "said it before what was heard last",
        "server sh -c 'echo one; echo two; sleep 1000'\nserver: log /two/\ntimeout 50ms\nserver: log /one/\n",
    ),
    (
        "crashes when it is asked to end",
        "server sh -c 'exec 2>/dev/null; trap \"kill -SEGV $$$$\" TERM; echo up; while :; do sleep 0.01; done'\nserver: log /up/\n",
    ),
    (
        "crashes when the script has signalled it",
        // A shell that begins with a signal ignored, as under nohup, cannot trap it.
        "server env --default-signal=HUP sh -c 'exec 2>/dev/null; trap : TERM; trap \"kill -ABRT $$$$\" HUP; echo up; while :; do sleep 0.01; done'\nserver: log /up/\nserver: signal HUP\n",
    ),
    ("another exit code", "server sh -c 'exit 2'\nserver: exit 0\n"),
    ("a signal instead of an exit code", "server sleep 1000\nserver: signal TERM\nserver: exit 0\n"),
    ("an exit code instead of a signal", "server sh -c 'exit 2'\nserver: exit TERM\n"),
    ("does not end", "timeout 50ms\nserver sleep 1000\nserver: exit 0\n"),
    ("a signal for who has ended", "server true\nserver: exit 0\nserver: signal HUP\n"),
    ("nobody comes to a peer that listens", "timeout 50ms\nbackend: listen\nbackend< hello\n"),
    ("a server ends, and will not come", "backend: listen\nserver sh -c 'echo no backend; exit 1'\nbackend< hello\n"),
    ("listens twice", "backend: listen\nbackend: listen\n"),
    ("connects and listens", "backend: refused 127.0.0.1:1\nbackend: listen\n"),
    ("listens and connects", "backend: listen\nbackend: connect\n"),
    (
        "accepts with a connection",
        "backend: listen\nclient: connect 127.0.0.1:$backend_port\nbackend: accept\nbackend: accept\n",
    ),
    (
        "goes on without a connection",
        "backend: listen\nclient: connect 127.0.0.1:$backend_port\nbackend: accept\nbackend: close\nbackend> more\n",
    ),
    ("starts twice", "server sleep 1000\nserver sleep 1000\n"),
    ("no service", "server sleep 1000\n> hello\n"),
    ("a variable that is no address", "let where = nowhere\nserver sleep 1000\n: connect $where\n"),
];

#[test]
fn what_a_server_does_not_do_is_reported_with_its_last_words() {
    let mut reports = String::new();
    for (name, text) in FAILURES {
        reports.push_str(&format!("== {name}\n{}\n\n", fails(text, &Target::none())));
    }
    compare::compare("servers.txt", &reports, BLESS);
}

#[test]
#[ignore = "needs python3: run tests/run"]
fn a_server_that_does_not_end_is_reported_with_the_peer_that_is_still_connected() {
    let command =
        "python3 -c 'import socket, time; s = socket.create_server((\"127.0.0.1\", $port)); time.sleep(1000)'";
    let text = format!("server {command}\nalice: connect\ntimeout 50ms\nserver: exit 0\n");
    let failure = fails(&text, &Target::none());
    assert!(failure.contains("= help: alice is still connected: `alice: close` it before"), "{failure}");
    let failure = fails(&text.replace("timeout", "alice: close\ntimeout"), &Target::none());
    assert!(failure.contains("still runs after") && !failure.contains("help"), "{failure}");
}

#[test]
fn a_server_ends_with_its_script_and_so_does_all_that_it_started() {
    for (name, end) in [("held", ""), ("failed", "server: log /never/\n")] {
        let (server, child) = (file(&format!("{name}.server")), file(&format!("{name}.child")));
        // The child hears no SIGTERM: it is killed.
        let command = format!(
            "sh -c 'sh -c \"trap : TERM; echo \\$\\$ > {}; while :; do sleep 0.01; done\" & echo $$$$ > {}; echo up; wait'",
            child.display(),
            server.display()
        );
        let text = format!(
            "server {command}\nserver: log /up/\nserver a = sh -c 'until test -s {}; do sleep 0.01; done'\nserver a: exit 0\ntimeout 50ms\n{end}",
            child.display()
        );
        let ran = script(&text).run(&Target::none(), &options());
        assert_eq!(ran.is_ok(), end.is_empty(), "{ran:?}");
        gone(&server);
        gone(&child);
    }
}

/// A script that runs until its runner is killed: this program again, started by the next test.
#[test]
fn run_for_ever() {
    let Ok(file) = env::var("SCRIPT_RUNS") else { return };
    let text = format!("server sh -c 'echo $tmp > {file}.tmp; echo $$$$ > {file}; exec sleep 1000'\n: after 1h\n");
    holds(&text, &Target::none());
}

#[test]
fn a_server_ends_when_who_runs_the_script_is_killed() {
    let file = file("orphan");
    let this = env::current_exe().expect("a path");
    let mut runner = Command::new(this);
    runner.args(["--exact", "run_for_ever"]).env("SCRIPT_RUNS", &file).stdout(Stdio::null());
    let mut runner = runner.spawn().expect("it runs");
    until("the server's start", || fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n')));
    runner.kill().expect("it runs");
    runner.wait().expect("it is ours");
    gone(&file);
    let folder = fs::read_to_string(file.with_extension("tmp")).expect("it wrote where its folder is");
    until(&format!("the end of the folder {folder}"), || !Path::new(folder.trim()).exists());
}

#[test]
fn a_server_that_ended_by_itself_is_not_started_again_as_if_nothing_had_been() {
    // The second one ends when the first is known to have.
    let text = "server a = sh -c 'echo $$$$ > $tmp/pid; exit 3'\n\
                server b = sh -c 'until grep -q \") Z\" /proc/$$(cat $tmp/pid)/stat; do sleep 0.01; done'\n\
                server b: exit 0\nserver a = sleep 1000\nserver a: signal TERM\nserver a: exit TERM\n";
    let end = Instant::now() + Duration::from_secs(60);
    let failure = loop {
        let failure = fails(text, &Target::none());
        // It is known a moment later.
        if !failure.contains("runs already") || Instant::now() > end {
            break failure;
        }
    };
    assert!(failure.contains("the server a ended by itself: exit code 3"), "{failure}");
}

#[test]
fn a_server_may_listen_on_a_path_in_a_folder_of_the_scripts_own() {
    let place = file("place");
    let text = format!(
        "server {}\nserver sh = sh -c 'echo $tmp > {}; test -w $tmp'\nserver sh: exit 0\n: connect unix:$tmp/socket\n> Hello\n< Uryyb\n",
        program("$tmp/socket"),
        place.display()
    );
    holds(&text, &Target::none());
    let place = fs::read_to_string(&place).expect("it was written");
    assert!(!Path::new(place.trim()).exists(), "{place} is still there");
}

#[test]
fn the_given_server_is_started_for_each_run() {
    let target = Target::server(program("$port"));
    let run = holds("> Hello\n< Uryyb\n", &target);
    assert_eq!(run.transcripts[0].received, b"Uryyb\n");
    let failure = script("> Hello\n").run(&Target::server("false"), &options()).expect_err("none");
    assert_eq!(failure.kind(), FailureKind::NotRun);
    assert!(failure.to_string().contains("ended before it listened on $port: exit code 1"), "{failure}");
    assert!(fails("> Hello\n< Hello\n", &target).contains("the server's last words:"));
}

#[test]
fn servers_are_started_in_the_folder_of_the_script() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("beside");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("words"), "beside the script\n").unwrap();
    let path = folder.join("beside.session");
    fs::write(&path, "server cat words\nserver: log /^beside the script$/\nserver: exit 0\n").unwrap();
    let script = Script::load(&path).unwrap_or_else(|error| panic!("\n{error}"));
    script.run(&Target::none(), &options()).unwrap_or_else(|failure| panic!("\n{failure}"));
}

#[test]
fn a_script_is_skipped_where_what_it_needs_is_not_there() {
    let memory = service::obedient();
    let skipped = |text: &str, target: &Target, options: &ScriptOptions| {
        script(text).run(target, options).unwrap_or_else(|failure| panic!("\n{failure}")).skipped
    };
    let none = options();
    let net = Target::tcp("127.0.0.1:1");
    for (text, target, expected) in [
        ("needs memory\n> say x\n< x\n", &memory, None),
        ("needs memory\n> say x\n", &net, Some("needs memory")),
        ("needs memory\n> say x\n", &Target::unix("/nowhere"), Some("needs memory")),
        ("needs tcp\n> say x\n", &memory, Some("needs tcp")),
        ("needs tcp\n: refused\n", &net, None),
        ("needs tcp processes\n: refused 127.0.0.1:1\n", &Target::none(), None),
        ("needs unix\n> x\n", &net, Some("needs unix")),
        ("needs unix\n: refused\n", &Target::unix("/nowhere"), None),
        ("server true\nserver: exit 0\n", &memory, Some("needs processes")),
        (": connect 127.0.0.1:1\n", &memory, Some("needs addresses")),
        ("repeat 2\n  : refused 127.0.0.1:1\n", &memory, Some("needs addresses")),
        ("> $unset\nneeds magic\n", &net, Some("needs magic")),
    ] {
        assert_eq!(skipped(text, target, &none).as_deref(), expected, "{text} over {target:?}");
    }
    let magic = options().feature("magic");
    assert_eq!(skipped("needs magic\n: refused\n", &net, &magic), None);
}

/// A listener that does with each connection what it is told.
fn listener(mut each: impl FnMut(TcpStream) + Send + 'static) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let target = Target::tcp(listener.local_addr().expect("an address").to_string());
    thread::spawn(move || listener.incoming().flatten().for_each(&mut each));
    target
}

#[test]
fn a_refusal_is_no_connection_or_one_that_ends_before_a_byte() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    holds(": refused\nbob: refused\n", &Target::tcp(free.to_string()));
    holds(&format!(": refused unix:{}\n", file("nobody").display()), &Target::none());
    holds(": refused\n: refused\n", &listener(drop));
    holds(": refused\n", &listener(|stream| socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap()));
    let failure = fails("alice: refused\n", &listener(|mut stream| stream.write_all(b"busy\n").unwrap()));
    assert!(failure.contains("alice expected to be refused, and received something"), "{failure}");
    let mut kept = Vec::new();
    let failure = fails("timeout 50ms\n: refused\n", &listener(move |stream| kept.push(stream)));
    assert!(failure.contains("the peer expected to be refused, and was let in"), "{failure}");
    let failure = fails(": connect\n: refused\n", &listener(drop));
    assert!(failure.contains("the peer is connected already"), "{failure}");
}

#[test]
fn a_refusal_in_memory_is_a_connection_that_nobody_serves() {
    holds(": refused\n: refused\n", &Target::memory(drop));
    let failure = fails(": refused\n", &service::obedient());
    assert!(failure.contains("was let in: nothing ended the connection within 1m"), "{failure}");
}
