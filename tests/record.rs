//! `--record`: sessions as scripts, for an operator who wants to know what peers do.

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
};

use rustix::process::Signal;
use support::{Server, eventually, finish, greet, rot13d, tr};

/// A path in which there is nothing.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    path
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn greeted(server: &Server) -> TcpStream {
    let mut peer = server.connect();
    greet(&mut peer);
    peer
}

fn statements(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn each_session_is_a_file_and_a_signal_in_the_middle_loses_none() {
    let folder = folder("recorded");
    let mut server = Server::start(&["--record", folder.to_str().unwrap(), "--workers", "2"]);
    let warning = server.log_line("recording sessions in ");
    assert!(warning.contains("WARN") && warning.contains("passwords"), "{warning}");
    let mut peers: Vec<_> = (0..10).map(|_| greeted(&server)).collect();
    server.signal(Signal::USR1);
    let counters = server.log_line("counters: ");
    assert!(
        counters.contains("; 10 sessions recorded, 0 cut at their size, 0 for want of time, 0 failed, "),
        "{counters}"
    );
    server.signal(Signal::TERM);
    for peer in &mut peers {
        peer.read_to_end(&mut Vec::new()).unwrap();
    }
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log:#?}");
    let files = files(&folder);
    assert_eq!(files.len(), 10);
    for file in &files {
        let statements = statements(file);
        assert_eq!(statements.last().map(String::as_str), Some(": reset"), "{statements:?}");
        assert!(statements.len() >= 3, "{statements:?}");
        let text = fs::read_to_string(file).unwrap();
        assert!(text.contains("# ended: drained"), "{text}");
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_server_that_is_killed_leaves_whole_scripts() {
    let folder = folder("killed");
    let mut server = Server::start(&["--record", folder.to_str().unwrap()]);
    let _peers: Vec<_> = (0..5).map(|_| greeted(&server)).collect();
    eventually("the files", || (fs::read_dir(&folder).unwrap().count() == 5).then_some(()));
    eventually("their texts", || files(&folder).iter().all(|file| statements(file).len() >= 3).then_some(()));
    server.signal(Signal::KILL);
    server.wait();
    for file in files(&folder) {
        assert_eq!(statements(&file).last().map(String::as_str), Some(": reset"));
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn bounds_hold_and_sighup_changes_them() {
    let folder = folder("bounded");
    let config = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("record-{}.toml", std::process::id()));
    let write = |files: u32| {
        let text = format!("record = {folder:?}\nrecord-session = \"2KiB\"\nrecord-files = {files}\n");
        fs::write(&config, text).unwrap();
    };
    write(5);
    let mut server = Server::start(&["--config", config.to_str().unwrap()]);
    let talk = |server: &Server| {
        let mut peer = greeted(server);
        let line = [&[b'x'; 9999][..], b"\n"].concat();
        peer.write_all(&line).unwrap();
        let mut answer = vec![0; line.len()];
        peer.read_exact(&mut answer).unwrap();
        assert_eq!(answer, tr(&line));
    };
    (0..8).for_each(|_| talk(&server));
    let is = |count: usize| {
        eventually("the number of files", || (files(&folder).len() == count).then_some(()));
    };
    is(5);
    write(2);
    server.signal(Signal::HUP);
    server.log_line("is in force");
    talk(&server);
    is(2);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().0, Some(0));
    for file in files(&folder) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.len() <= 2048 && text.contains("# cut here after "), "{text}");
    }
    fs::remove_dir_all(folder).unwrap();
    fs::remove_file(config).unwrap();
}

#[test]
fn a_folder_that_cannot_be_used_is_exit_code_1_and_a_sentence() {
    let file = folder("none");
    fs::write(&file, "a file").unwrap();
    let mut command = rot13d();
    command.args(["--listen", "127.0.0.1:0", "--record", file.to_str().unwrap()]);
    let Output { status, stderr, .. } = finish(command, b"");
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("rot13d: cannot record in ") && last.contains("use a folder that"), "{last}");
    fs::remove_file(file).unwrap();
}
