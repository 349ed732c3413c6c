//! A fleet behind HAProxy is restarted node by node under load, and no peer is refused, misled or kept waiting for an answer.

mod support;

use std::{
    fs,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use support::{connect, converse_over, example, reserve};

/// A folder for a fleet, whose processes end with the test.
struct Fleet {
    folder: PathBuf,
    address: SocketAddr,
    redis: SocketAddr,
    _ports: [OwnedFd; 2],
}

impl Fleet {
    fn new(name: &str) -> Self {
        // A socket in it has a short path.
        let folder = std::env::temp_dir().join(format!("rot13d-fleet-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let ((port, address), (other_port, redis)) = (reserve(), reserve());
        Self { folder, address, redis, _ports: [port, other_port] }
    }

    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/fleet").join(name));
        command
            .env("ROT13D", env!("CARGO_BIN_EXE_rot13d"))
            .env("FLEET_CLIENT", example("fleet_client").get_program())
            .env("FLEET_LISTEN", self.address.to_string())
            .env("FLEET_REDIS_PORT", self.redis.port().to_string())
            .env("FLEET_DRAIN_DELAY", "2s")
            .env("FLEET_DRAIN_SPREAD", "1s");
        command
    }

    /// Runs a script with its folder behind `arguments`, and returns what it says.
    fn run(
        &self,
        name: &str,
        arguments: &[&str],
        more: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> (bool, String, String) {
        let mut command = self.script(name);
        command.args(arguments).arg(&self.folder).args(more);
        change(&mut command);
        let Output { status, stdout, stderr } = command.output().expect("bash");
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.success(), text(stdout), text(stderr))
    }

    /// Runs a script, of whose first output nobody reads anything. Returns whether it has done what it does, and its errors.
    fn run_unread(&self, name: &str, arguments: &[&str], more: &[&str]) -> (bool, String) {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let (is_fine, _, said) = self.run(name, arguments, more, |command| {
            command.stdout(writer);
        });
        (is_fine, said)
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_default()
    }

    /// All that its processes have said.
    fn logs(&self) -> String {
        let names = ["a", "b", "c"].map(|node| [format!("{node}.log.old"), format!("{node}.log")]).concat();
        let others = ["haproxy.log", "client.log"].map(str::to_owned);
        let logs = names.into_iter().chain(others);
        logs.map(|name| format!("--- {name}\n{}", self.file(&name))).collect()
    }

    fn processes(&self) -> [String; 4] {
        ["a", "b", "c", "haproxy"].map(|name| self.file(&format!("{name}.pid")))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Processes that have ended are no processes.
        self.run("fleet", &["stop"], &[], |_| {});
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
#[ignore = "needs haproxy and socat; tests/run runs it"]
fn a_rolling_restart_costs_no_peer_a_byte_and_refuses_nobody() {
    let fleet = Fleet::new("proof");
    let (is_fine, report, said) = fleet.run("prove", &["--sessions", "60", "--pause", "20"], &[], |command| {
        command.env("RUST_LOG", "info,actix_lines::worker=debug");
    });
    let everything = || format!("{report}\n{said}\n{}", fleet.logs());
    assert!(is_fine, "{}", everything());
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    for (name, count) in [("wrong_bytes", 0), ("lost_lines", 0), ("refused_connects", 0), ("live_at_end", 60)] {
        assert_eq!(report[name], count, "{name}: {}", everything());
    }
    // Each session was on some node, and each node was restarted.
    assert!(report["reconnects"].as_u64().unwrap() >= 60, "{}", everything());
    for node in ["a", "b", "c"] {
        assert!(said.contains(&format!("node {node}: back in the balance")), "{}", everything());
        let log = fleet.file(&format!("{node}.log.old"));
        let ends: Vec<_> = log.lines().filter(|line| line.contains(" closed: drained, ")).collect();
        // Of all connections the process counts one as cut, too, that was a check of HAProxy when the drain began.
        let is_whole = log.contains(" drained: ") && !ends.is_empty() && !ends.iter().any(|end| end.contains(", cut"));
        assert!(is_whole, "{}", everything());
    }
}

#[test]
#[ignore = "needs haproxy and socat; tests/run runs it"]
fn a_rolling_restart_stops_at_a_node_that_does_not_come_back() {
    let fleet = Fleet::new("stopped");
    let (is_up, _, said) = fleet.run("fleet", &["start"], &[], |_| {});
    assert!(is_up, "{said}\n{}", fleet.logs());
    let before = fleet.processes();

    // Started twice it is what it was, or nobody could stop what the first one has started.
    let redis = fleet.file("redis.pid");
    let (is_up, _, said) = fleet.run("fleet", &["start"], &[], |_| {});
    assert!(!is_up && said.contains("runs already"), "{said}");
    assert_eq!((fleet.processes(), fleet.file("redis.pid")), (before.clone(), redis));

    // Nor does a proof end what it has not started.
    let (is_fine, _, said) = fleet.run("prove", &["--sessions", "1"], &[], |_| {});
    assert!(!is_fine && said.contains("a runs already"), "{said}");
    assert_eq!(converse_over(&mut connect(fleet.address), b"Hello\n"), b"Uryyb\n");

    let (is_fine, plan, said) = fleet.run("rolling-restart", &["--dry-run"], &[], |_| {});
    assert!(is_fine && plan.lines().filter(|line| line.contains("would be restarted")).count() == 3, "{plan}\n{said}");
    assert_eq!(fleet.processes(), before);

    let (is_fine, _, said) = fleet.run("rolling-restart", &[], &[], |command| {
        command.env("FLEET_START", "echo the disk is full >&2; false");
    });
    assert!(!is_fine && said.contains("stopped at node a: it could not be started"), "{said}\n{}", fleet.logs());
    assert!(said.contains("The nodes behind it are untouched"), "{said}");
    assert_eq!(fleet.processes()[1..], before[1..]);
    assert_eq!(converse_over(&mut connect(fleet.address), b"Hello\n"), b"Uryyb\n");

    // With a node missing no other one is touched.
    let (is_fine, _, said) = fleet.run("rolling-restart", &["--timeout", "2"], &["b"], |_| {});
    assert!(!is_fine && said.contains("node a is not in the balance: the agent of a says ''"), "{said}");
    assert!(said.contains("/a.log. It and the nodes behind it are untouched"), "{said}");
    assert_eq!(fleet.processes()[1..], before[1..]);

    // Once it is there again the rest can be done.
    let (is_up, _, said) = fleet.run("fleet", &["start"], &["a"], |_| {});
    assert!(is_up, "{said}");
    assert_eq!(converse_over(&mut connect(fleet.address), b"Hello\n"), b"Uryyb\n");
}

/// As in `rolling-restart DIR | head -n 1`.
#[test]
#[ignore = "needs haproxy and socat; tests/run runs it"]
fn whoever_reads_only_the_beginning_ends_no_restart_and_no_start() {
    let fleet = Fleet::new("unread");
    let quietly = (true, String::new());
    assert_eq!(fleet.run_unread("fleet", &["start"], &[]), quietly, "{}", fleet.logs());
    assert_eq!(fleet.run_unread("fleet", &["status"], &[]), quietly);
    let before = fleet.processes();
    assert_eq!(fleet.run_unread("rolling-restart", &["--dry-run"], &[]), quietly);
    assert_eq!(fleet.processes(), before);
    assert_eq!(fleet.run_unread("rolling-restart", &[], &["a", "b"]), quietly, "{}", fleet.logs());
    let after = fleet.processes();
    assert!(after[0] != before[0] && after[1] != before[1], "{before:?} {after:?}");
    assert_eq!(after[2..], before[2..]);
    let (_, status, said) = fleet.run("fleet", &["status"], &[], |_| {});
    let up = status.lines().filter(|line| line.contains("agent says 'up ready ") && line.contains("HAProxy 'UP "));
    assert_eq!(up.count(), 3, "{status}\n{said}");
}

#[test]
#[ignore = "needs haproxy, socat and redis-server; tests/run runs it"]
fn a_fleet_that_cannot_start_says_what_failed_and_leaves_nothing_running() {
    let fleet = Fleet::new("failed");
    let is_empty = |said: &str| {
        // Processes whose numbers are gone could not be ended by anybody: look for those that have the folder in their command.
        let folder = fleet.folder.display().to_string();
        let processes = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let is_ours = command.contains(&folder) || command.contains(&format!("127.0.0.1:{}", fleet.redis.port()));
            is_ours.then_some(command)
        });
        let running: Vec<_> = processes.collect();
        assert!(running.is_empty(), "{running:?}\n{said}");
        assert!(["a", "b", "c", "haproxy", "redis"].iter().all(|name| fleet.file(&format!("{name}.pid")).is_empty()));
    };
    // A node: a program that begins, and ends at its second start.
    fs::create_dir_all(&fleet.folder).unwrap();
    let program = fleet.folder.join("second-fails");
    let text = format!(
        "#!/bin/sh\n[ \"$1\" != --help ] || exec {real} --help\n\
         case $2 in */b.toml) echo 'no room for b' >&2; exit 1 ;; esac\nexec {real} \"$@\"\n",
        real = env!("CARGO_BIN_EXE_rot13d")
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (is_up, _, said) = fleet.run("fleet", &["start"], &[], |command| {
        command.env("ROT13D", &program);
    });
    assert!(!is_up && said.contains("node b has ended: no room for b"), "{said}");
    assert!(said.contains("what was started has ended again: redis a b"), "{said}");
    is_empty(&said);
    // The balancer: somebody has its port.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (is_up, _, said) = fleet.run("fleet", &["start"], &[], |command| {
        command.env("FLEET_LISTEN", taken.local_addr().unwrap().to_string());
    });
    assert!(!is_up && said.contains("haproxy has ended: "), "{said}");
    is_empty(&said);
    // The store: somebody has its port, who may answer as it does.
    let (is_up, _, said) = fleet.run("fleet", &["start"], &[], |command| {
        command.env("FLEET_REDIS_PORT", taken.local_addr().unwrap().port().to_string());
    });
    assert!(!is_up && said.contains("redis-server has ended: ") && said.contains("listen"), "{said}");
    is_empty(&said);
    // Nothing of it is in the way of the next one.
    let (is_up, _, said) = fleet.run("fleet", &["start"], &[], |_| {});
    assert!(is_up, "{said}\n{}", fleet.logs());
    assert_eq!(converse_over(&mut connect(fleet.address), b"Hello\n"), b"Uryyb\n");
}

#[test]
#[ignore = "needs shellcheck; tests/run runs it"]
fn scripts_of_the_fleet_have_no_fault_that_shellcheck_finds() {
    let mut command = Command::new("shellcheck");
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/fleet"));
    let Output { status, stdout, .. } =
        command.args(["-x", "common.sh", "fleet", "prove", "rolling-restart"]).output().expect("shellcheck");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stdout));
}

#[test]
#[ignore = "needs python3; tests/run runs it"]
fn who_reads_only_the_beginning_of_a_plan_ends_it_quietly() {
    let sizing = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/fleet/sizing");
    for (arguments, at_once) in [(["plan", "--tls"], "1"), (["plan", "--tls"], ""), (["storm", "--seed=1"], "")] {
        let mut command = Command::new("python3");
        command.arg(&sizing).args(arguments).env("PYTHONUNBUFFERED", at_once);
        command.stderr(std::process::Stdio::piped());
        let (reader, writer) = std::io::pipe().unwrap();
        let child = command.stdout(writer).spawn().expect("python3");
        // The writer's end is the command's, too.
        drop(command);
        drop(reader);
        let Output { status, stderr, .. } = child.wait_with_output().unwrap();
        assert!(stderr.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
        assert_eq!(status.code(), Some(128 + 13), "{arguments:?}");
    }
}

#[test]
#[ignore = "needs python3; tests/run runs it"]
fn a_plan_has_a_spare_node_and_says_what_a_number_has_to_be() {
    let sizing = |arguments: &[&str]| {
        let mut command = Command::new("python3");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/fleet/sizing")).args(arguments);
        let Output { status, stdout, stderr } = command.output().expect("python3");
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.success(), text(stdout), text(stderr))
    };
    let (is_fine, plan, said) = sizing(&["plan", "--sessions", "200000", "--per-node", "200000"]);
    assert!(is_fine && plan.contains("| 2 of 200,000, one of them spare |"), "{plan}{said}");
    for arguments in [["plan", "--sessions", "0"], ["plan", "--per-node", "0"], ["storm", "--lost", "-1"]] {
        let (is_fine, plan, said) = sizing(&arguments);
        let expected = format!("argument {}: '{}' is no number above 0", arguments[1], arguments[2]);
        assert!(!is_fine && said.contains(&expected) && !said.contains("Traceback"), "{plan}{said}");
    }
}
