//! What `rot13d` promises, as scripts: each of `tests/sessions` holds over TCP and in memory, and peers receive the same bytes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use actix_lines::{
    LineServer, LineSession, Rot13,
    script::{Script, ScriptOptions, Target, Transcript},
};

fn scripts(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/sessions").join(folder);
    let entries = fs::read_dir(folder).expect("the scripts are there").map(|entry| entry.expect("a file").path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "session")).collect();
    files.sort();
    files
}

fn memory() -> Target {
    Target::memory(|transport| {
        LineSession::new(transport).start(Rot13);
    })
}

/// A server on a thread of its own, which ends when what is returned is dropped.
fn server() -> (Target, mpsc::Sender<()>) {
    let (tell, told) = mpsc::channel();
    let (stop, stopped) = mpsc::channel::<()>();
    thread::spawn(move || {
        actix_rt::System::new().block_on(async move {
            let server = LineServer::new(|_| Rot13).bind("127.0.0.1:0").expect("a free port");
            let server = server.start().expect("it starts");
            tell.send(server.local_addrs()[0]).expect("the test waits");
            let _ = tokio::task::spawn_blocking(move || stopped.recv()).await;
            let _ = server.abort().await;
        });
    });
    (Target::tcp(told.recv().expect("an address").to_string()), stop)
}

#[track_caller]
fn run(file: &Path, target: &Target, options: &ScriptOptions) -> Vec<Transcript> {
    let script = Script::load(file).unwrap_or_else(|error| panic!("\n{error}"));
    script.run(target, options).unwrap_or_else(|failure| panic!("\n{failure}")).transcripts
}

#[test]
fn peers_receive_the_same_bytes_over_tcp_and_in_memory() {
    let (tcp, _stop) = server();
    let files = scripts("");
    assert!(files.len() >= 10, "only {} scripts were found", files.len());
    for file in files {
        let options = ScriptOptions::default();
        let over_tcp = run(&file, &tcp, &options);
        assert_eq!(over_tcp, run(&file, &memory(), &options), "{}", file.display());
    }
}

#[test]
fn peers_receive_the_same_bytes_however_theirs_are_cut() {
    for file in scripts("") {
        let whole = run(&file, &memory(), &ScriptOptions::default());
        for seed in 0..10 {
            let cut = run(&file, &memory(), &ScriptOptions::default().split(seed));
            assert_eq!(cut, whole, "{} split by seed {seed}", file.display());
        }
    }
}

/// Minutes pass in them.
#[test]
fn what_takes_minutes_holds_in_memory() {
    let files = scripts("memory");
    assert!(!files.is_empty(), "no scripts");
    for file in files {
        run(&file, &memory(), &ScriptOptions::default());
    }
}
