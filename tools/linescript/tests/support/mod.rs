//! What tests of the command share: scripts in files, a ROT13 server, the program itself.

#![allow(dead_code, reason = "each test uses some of it")]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::mpsc,
    thread,
};

use actix_lines::{LineServer, Rot13};

/// A folder of this test's own, empty.
pub(crate) fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("the folder above is there");
    path
}

/// The program, run in a folder.
pub(crate) fn linescript(folder: &Path, args: &[&str]) -> Output {
    command(folder, args).output().expect("it runs")
}

pub(crate) fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linescript"));
    command.args(args).current_dir(folder);
    command
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// A ROT13 server, for as long as this test runs.
pub(crate) fn rot13() -> SocketAddr {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        actix_rt::System::new().block_on(async move {
            let server = LineServer::new(|_| Rot13).bind("127.0.0.1:0").expect("a free port");
            let server = server.start().expect("it starts");
            tell.send(server.local_addrs()[0]).expect("the test waits");
            let _ = server.wait().await;
        });
    });
    told.recv().expect("an address")
}

/// Compares a text with a file of `tests/golden`, or writes it there.
#[track_caller]
pub(crate) fn compare(file: &str, now: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    if std::env::var_os("LINESCRIPT_BLESS").is_some() {
        fs::write(&path, now).expect("the folder is there");
        return;
    }
    let listed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        now == listed,
        "{file} differs; if that is meant: LINESCRIPT_BLESS=1 cargo test -p linescript\nnow:\n{now}\nlisted:\n{listed}"
    );
}
