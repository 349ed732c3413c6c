//! `tests/side_by_side` runs every test program, says of each how it ended, and leaves none behind.
//!
//! The programs here are scripts, and so is the `cargo` that has built them.

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use support::{eventually, finish};

/// Says that it runs, and does so until it is ended; so does a child of its own, which only SIGKILL ends while the script is there.
const HANGS: &str = "echo 'I hang'; (trap '' TERM; while [ -e $0 ]; do sleep 1; done) & echo $! >$0.child; wait";

/// A folder with a `cargo` and the programs that it has built, that is gone in the end.
struct Workspace(PathBuf);

impl Workspace {
    /// Each program has a name and a script.
    fn new(name: &str, programs: &[(&str, &str)]) -> Self {
        let it = Self(std::env::temp_dir().join(format!("rot13d-side-by-side-{name}-{}", std::process::id())));
        fs::create_dir_all(&it.0).unwrap();
        let mut built = String::from("case $* in *--doc*) exit; esac\n");
        for (name, script) in programs {
            it.write(name, script);
            let path = it.0.display();
            built += &format!(
                "echo '{{\"reason\": \"compiler-artifact\", \"profile\": {{\"test\": true}}, \"package_id\": \"path+file://{path}#p@0.1.0\", \
                 \"executable\": \"{path}/{name}\", \"manifest_path\": \"{path}/Cargo.toml\", \
                 \"target\": {{\"name\": \"{name}\", \"kind\": [\"test\"], \"src_path\": \"{path}/tests/{name}.rs\"}}}}'\n"
            );
        }
        it.write("cargo", &built);
        it
    }

    fn write(&self, name: &str, script: &str) {
        let path = self.0.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The command, which finds this `cargo` and gives a program so many seconds.
    fn command(&self, patience: u32) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/side_by_side"));
        let path = format!("{}:{}", self.0.display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("TEST_PATIENCE", patience.to_string()).arg("--include-ignored");
        command
    }

    /// Waits for the child of a program that hangs.
    fn child(&self, name: &str) -> Pid {
        let file = self.0.join(format!("{name}.child"));
        let number = eventually("a child", || fs::read_to_string(&file).ok()?.trim().parse().ok());
        Pid::from_raw(number).unwrap()
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn text(Output { stdout, stderr, .. }: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr))
}

/// Waits until a process is gone, or waits as a zombie for whoever inherited it.
fn is_gone(process: Pid) {
    eventually("the end of a child", || {
        let is_zombie = fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| stat.contains(") Z "));
        (is_zombie || test_kill_process(process).is_err()).then_some(())
    });
}

#[test]
#[ignore = "needs python3; tests/run runs it"]
fn each_program_that_fails_is_named_with_the_words_that_run_it_again() {
    let workspace = Workspace::new(
        "fails",
        &[("passes", "echo passed with \"$@\""), ("fails", "exit 3"), ("crashes", "kill -SEGV $$")],
    );
    let output = finish(workspace.command(600), b"");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(101), "{said}");
    assert!(said.contains("passed with --include-ignored\n"), "{said}");
    assert!(said.contains("to rerun pass `-p p --test fails` (exit status: 3)"), "{said}");
    assert!(said.contains("to rerun pass `-p p --test crashes` (signal: 11, SIGSEGV)"), "{said}");
    assert!(!said.contains("to rerun pass `-p p --test passes`"), "{said}");
    assert!(said.contains("4 programs, "), "those, and the examples of the docs: {said}");
    fs::write(workspace.0.join("fails"), "#!/bin/sh\n").unwrap();
    fs::write(workspace.0.join("crashes"), "#!/bin/sh\n").unwrap();
    let output = finish(workspace.command(600), b"");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
#[ignore = "needs python3; tests/run runs it"]
fn a_program_that_hangs_is_ended_with_all_that_it_has_started() {
    let workspace = Workspace::new("hangs", &[("passes", "echo passed"), ("hangs", HANGS)]);
    let output = finish(workspace.command(5), b"");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(101), "{said}");
    assert!(said.contains("I hang\n") && said.contains("passed\n"), "{said}");
    assert!(said.contains("`-p p --test hangs` (it had not ended after 5 s; signal: 15, SIGTERM)"), "{said}");
    is_gone(workspace.child("hangs"));
}

#[test]
#[ignore = "needs python3; tests/run runs it"]
fn a_signal_ends_all_programs_and_says_what_they_had_printed() {
    for (signal, name, code) in [(Signal::INT, "SIGINT", 130), (Signal::TERM, "SIGTERM", 143)] {
        let workspace = Workspace::new(name, &[("hangs", HANGS), ("hangs_too", HANGS)]);
        let run = workspace.command(600).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let children = ["hangs", "hangs_too"].map(|program| workspace.child(program));
        kill_process(Pid::from_child(&run), signal).unwrap();
        let output = run.wait_with_output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        for program in ["hangs", "hangs_too"] {
            assert!(said.contains(&format!("Ended by {name}: tests/{program}.rs")), "{said}");
        }
        assert_eq!(said.matches("I hang\n").count(), 2, "{said}");
        children.into_iter().for_each(is_gone);
    }
}
