//! `rot13d ctl` does one command or those of a script, says how it went by its exit code, and shows what the console said.
//!
//! Not here: a person at a terminal (`ctl_terminal`), what commands do (the library's `console`).

#[path = "support/console.rs"]
mod console;
mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    process::{Command, Stdio},
};

use console::{FakeConsole, Folder, Peer, ctl, ctl_command, said};
use rustix::process::{Pid, Signal, kill_process};
use support::{Server, eventually, finish, greet, rest};

/// A server with a console in a folder of its own, and more arguments.
fn server(name: &str, arguments: &[&str]) -> (Server, Folder) {
    let folder = Folder::new(name);
    let server = Server::start(&[&["--console", &folder.console()], arguments].concat());
    (server, folder)
}

#[track_caller]
fn run(folder: &Folder, arguments: &[&str]) -> (Option<i32>, String, String) {
    ctl(&[&["--connect", &folder.console()], arguments].concat(), "")
}

#[test]
fn sessions_are_a_table_and_counters_a_card() {
    let (server, folder) = server("ctl-table", &[]);
    let mut peer = server.connect();
    greet(&mut peer);
    let (code, table, stderr) = run(&folder, &["list"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let [heading, row] = rows.as_slice() else { panic!("{table}") };
    assert_eq!(heading, &["ID", "PEER", "LISTENER", "W", "AGE", "IDLE", "LINES", "IN", "OUT", "OUTBOX", "STATE"]);
    let address = peer.local_addr().unwrap().to_string();
    assert_eq!((row[1], row[2], row.last()), (address.as_str(), "0", Some(&"open")), "{table}");
    // The heading of a text stands above its first letter, that of a number above its last.
    let (first, second) = table.split_once('\n').unwrap();
    assert_eq!(first.find("PEER"), second.find(&address), "{table}");
    assert_eq!(first.find("ID").map(|at| at + 2), second.find(row[0]).map(|at| at + row[0].len()), "{table}");

    let (code, card, _) = run(&folder, &["stats"]);
    let opened =
        card.lines().find(|line| line.starts_with("opened ")).map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!((code, opened), (Some(0), Some(vec!["opened", "1"])), "{card}");
    let (_, listeners, _) = run(&folder, &["listeners"]);
    assert!(listeners.contains(&server.address.to_string()), "{listeners}");
}

#[test]
fn json_is_what_the_console_says() {
    let (server, folder) = server("ctl-json", &[]);
    // Counters stay as they are while it stays.
    let mut peer = server.connect();
    greet(&mut peer);
    for command in ["listeners", "limits", "help", "count all"] {
        let mut console = UnixStream::connect(folder.path("console.sock")).unwrap();
        console.write_all(format!("json {command}\nquit\n").as_bytes()).unwrap();
        let mut all = String::new();
        console.read_to_string(&mut all).unwrap();
        let expected = all.strip_suffix("\n\n").unwrap();
        for arguments in [&["--json", command][..], &[command, "--json"], &["json", command]] {
            let (code, lines, stderr) = run(&folder, arguments);
            assert_eq!((code, lines.as_str(), stderr.as_str()), (Some(0), expected, ""), "{arguments:?}");
        }
    }
}

#[test]
fn a_text_for_peers_arrives_as_it_was_typed() {
    let (server, folder) = server("ctl-kick", &[]);
    let mut peer = server.connect();
    greet(&mut peer);
    let (code, pushed, stderr) = run(&folder, &["push", "all", "--", "two  blanks -- and dashes"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(pushed.contains("sessions  1\n"), "{pushed}");
    let (code, kicked, _) = run(&folder, &["kick", "all", "--", "bye", "now"]);
    assert_eq!((code, kicked.as_str()), (Some(0), "sessions  1\n"));
    assert_eq!(String::from_utf8(rest(&mut peer)).unwrap(), "two  blanks -- and dashes\r\nbye now\r\n");
}

#[test]
fn a_command_that_fails_is_said_with_code_1() {
    let (_server, folder) = server("ctl-fails", &[]);
    for (arguments, words) in [
        (&["lst"][..], "\"lst\" is no command: did you mean list?"),
        (&["list", "sort", "byts-in"], "did you mean bytes-in?"),
        (&["kick"], "kick"),
        (&["show", "4711"], "4711"),
        (&["--json", "lst"], "\"lst\" is no command: did you mean list?"),
        (&["help", "lst"], "\"lst\" is no command: did you mean list?"),
    ] {
        let (code, stdout, stderr) = run(&folder, arguments);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("rot13d ctl: ") && stderr.contains(words), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn bad_usage_is_said_with_code_2() {
    for (arguments, words) in [
        (&["--connect", "fd:3", "list"][..], "unix:/PATH"),
        (&["--connect", "console.sock", "list"], "the port is missing"),
        (&["--colour", "list"], "--color"),
        (&["--color", "blue", "list"], "always"),
        (&["list", "a\nkick all"], "a command is one line"),
        (&["--token", "/nothing/here", "list"], "cannot read /nothing/here: no such file or directory"),
        (&["--json", "--raw", "list"], "cannot be used with"),
    ] {
        let (code, stdout, stderr) = ctl(arguments, "");
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    }
    let (code, _, stderr) = said(finish(
        {
            let mut server = support::rot13d();
            server.args(["--listen", "127.0.0.1:0", "ctl", "list"]);
            server
        },
        b"",
    ));
    assert_eq!(code, Some(2), "flags of the server are none of ctl's: {stderr}");
}

#[test]
fn who_cannot_connect_reads_all_that_was_tried_with_code_3() {
    let folder = Folder::new("ctl-unreachable");
    let (code, stdout, stderr) = run(&folder, &["list"]);
    assert_eq!((code, stdout.as_str()), (Some(3), ""));
    let address = folder.console();
    let expected = format!(
        "rot13d ctl: cannot connect to the console at {address}: no such file or directory: start rot13d with --console \
         {address}, or give the address that it logged at its start\n"
    );
    assert_eq!(stderr, expected);

    fs::write(folder.path("console.sock"), "").unwrap();
    let (code, _, stderr) = run(&folder, &["list"]);
    assert!(code == Some(3) && stderr.contains("connection refused: that file is no socket: give"), "{stderr}");
    fs::remove_file(folder.path("console.sock")).unwrap();

    // A socket that nobody listens on any more.
    let listener = std::os::unix::net::UnixListener::bind(folder.path("console.sock")).unwrap();
    // A process that another test begins may have it for a moment yet.
    rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).unwrap();
    drop(listener);
    let (code, _, stderr) = run(&folder, &["list"]);
    assert_eq!(code, Some(3));
    assert!(stderr.contains("connection refused: the server of that socket has ended; start rot13d"), "{stderr}");

    // The last place is that of root: the console of whatever server this machine has.
    if UnixStream::connect("/run/rot13d/console.sock").is_ok() {
        return eprintln!("skipped: there is a server");
    }
    let mut command = ctl_command(&["list"]);
    command.env("XDG_RUNTIME_DIR", folder.path("run")).env("RUNTIME_DIRECTORY", folder.path("service"));
    let (code, _, stderr) = said(finish(command, b""));
    assert_eq!(code, Some(3), "{stderr}");
    for place in ["service/console.sock", "run/rot13d/console.sock"] {
        let address = format!("unix:{}", folder.path(place).display());
        assert!(stderr.contains(&format!("\n  {address}: no such file or directory\n")), "{stderr}");
    }
}

#[test]
#[ignore = "takes root, to become another user, and needs setpriv: run tests/run"]
fn who_may_not_connect_is_told_who_may() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can become another user");
    }
    // Everybody finds the socket and the program, but only its own user connects.
    let folder = std::env::temp_dir().join(format!("rot13d-ctl-denied-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join("rot13d");
    fs::copy(env!("CARGO_BIN_EXE_rot13d"), &program).unwrap();
    let address = format!("unix:{}", folder.join("console.sock").display());
    let _server = Server::start(&["--console", &address]);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--clear-groups"]).arg(&program).args(["ctl", "--connect", &address, "list"]);
    let (code, _, stderr) = said(finish(command, b""));
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(code, Some(3), "{stderr}");
    let advice = "permission denied: the socket is for user root: try again as that user, as with sudo -u\n";
    assert!(stderr.ends_with(advice), "{stderr}");
}

#[test]
fn without_an_address_the_console_is_where_it_is_by_default() {
    let folder = Folder::new("ctl-default");
    let mut command = support::rot13d();
    command.args(["--listen", "127.0.0.1:0"]).env("XDG_RUNTIME_DIR", &folder.0);
    let _server = Server::spawn(command);
    let mut command = ctl_command(&["count"]);
    command.env("XDG_RUNTIME_DIR", &folder.0);
    assert_eq!(said(finish(command, b"")), (Some(0), "sessions  0\n".to_owned(), String::new()));
}

#[test]
fn a_console_may_be_anywhere_and_may_ask_for_a_token() {
    let folder = Folder::new("ctl-token");
    let (file, wrong) = (folder.path("token"), folder.path("wrong"));
    fs::write(&file, "open-sesame-open-sesame\n").unwrap();
    fs::write(&wrong, "sesame-open-sesame-open\n").unwrap();
    for file in [&file, &wrong] {
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let (file, wrong) = (file.to_str().unwrap(), wrong.to_str().unwrap());
    let (_keep, free) = support::reserve();
    let abstract_name = format!("unix:@rot13d-ctl-{}", std::process::id());
    for address in [folder.console(), free.to_string(), format!("localhost:{}", free.port()), abstract_name] {
        let _server = Server::start(&["--console", &address, "--console-token", file]);
        let run = |arguments: &[&str]| ctl(&[&["--connect", &address], arguments].concat(), "");
        assert_eq!(run(&["--token", file, "count"]), (Some(0), "sessions  0\n".to_owned(), String::new()), "{address}");
        let mut command = ctl_command(&["--connect", &address, "count"]);
        command.env("ROT13D_CONSOLE_TOKEN", "open-sesame-open-sesame");
        assert_eq!(said(finish(command, b"")).0, Some(0), "{address}");
        for arguments in [&["count"][..], &["--token", wrong, "count"]] {
            let (code, stdout, stderr) = run(arguments);
            assert_eq!((code, stdout.as_str()), (Some(3), ""), "{address}: {stderr}");
            let advice = "this console wants a token: --token FILE or ROT13D_CONSOLE_TOKEN\n";
            assert!(stderr.ends_with(advice) && !stderr.contains("sesame"), "{address}: {stderr}");
        }
    }
}

#[test]
fn a_script_stops_at_the_first_command_that_fails_and_names_its_line() {
    let (_server, folder) = server("ctl-script", &[]);
    let address = folder.console();
    let script = "# how many?\n\ncount\nlst\ncount all\n";
    let (code, stdout, stderr) = ctl(&["--connect", &address], script);
    assert_eq!((code, stdout.as_str()), (Some(1), "sessions  0\n"));
    assert_eq!(stderr, "rot13d ctl: line 4: \"lst\" is no command: did you mean list?\n");
    let (code, stdout, stderr) = ctl(&["--connect", &address, "--keep-going"], script);
    assert_eq!((code, stdout.as_str()), (Some(1), "sessions  0\nsessions  0\n"));
    assert_eq!(stderr, "rot13d ctl: line 4: \"lst\" is no command: did you mean list?\n");
    let (code, stdout, _) = ctl(&["--connect", &address], "json count\nquit\nlst\n");
    assert_eq!((code, stdout.as_str()), (Some(0), "{\"sessions\":0}\n"));
}

#[test]
fn a_drain_is_answered_before_the_server_ends() {
    let (mut server, folder) = server("ctl-drain", &[]);
    let (code, stdout, stderr) = run(&folder, &["drain", "5s", "--", "back soon"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.contains("ended 0  cut 0"), "{stdout}");
    assert_eq!(server.wait().0, Some(0));
}

#[test]
fn a_watch_and_a_top_are_those_of_the_server() {
    let (server, folder) = server("ctl-live", &[]);
    let mut command = ctl_command(&["--connect", &folder.console(), "watch", "opened", "closed"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watch = command.spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    // What came before it watched is not told: ask until it does.
    let mut peers = vec![server.connect()];
    let first = std::thread::scope(|scope| {
        let first = scope.spawn(move || (lines.next().unwrap().unwrap(), lines));
        eventually("an event", || {
            peers.push(server.connect());
            first.is_finished().then_some(())
        });
        first.join().unwrap()
    });
    let (opened, mut lines) = first;
    assert!(opened.contains("  opened    #") && opened.contains("  peer 127.0.0.1:"), "{opened}");
    let (code, top, stderr) = run(&folder, &["top", "limit", "1"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(
        top.starts_with("every ") && top.contains("  total ") && top.contains("LINES/S") && top.lines().count() == 3,
        "{top}"
    );
    drop(peers);
    let closed = lines.by_ref().map(Result::unwrap).find(|line| line.contains("  closed  "));
    assert!(closed.is_some_and(|line| line.contains("reason peer-eof")));
    kill_process(Pid::from_child(&watch), Signal::INT).unwrap();
    lines.for_each(drop);
    assert_eq!(said(watch.wait_with_output().unwrap()), (Some(0), String::new(), String::new()));
}

/// Answers without an end, until nobody listens.
fn endless(line: &str, peer: &mut Peer) -> bool {
    match line {
        "json watch" => while peer.say("{\"event\":\"opened\",\"id\":7,\"peer\":\"192.0.2.1:1024\"}\n") {},
        _ => while peer.say("{\"id\":7,\"state\":\"open\"}\n") {},
    }
    false
}

#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    let console = FakeConsole::new("ctl-pipe", endless);
    for command in ["list", "watch"] {
        let mut command = ctl_command(&["--connect", &console.address(), command]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut some = [0; 64];
        child.stdout.take().unwrap().read_exact(&mut some).unwrap();
        // Its standard output is closed now.
        let output = child.wait_with_output().unwrap();
        assert_eq!(said(output), (Some(0), String::new(), String::new()));
    }
}

#[test]
fn a_watch_of_nothing_ends_with_its_reader() {
    let console = FakeConsole::new("ctl-silent", |_, peer| {
        peer.say("{\"event\":\"opened\",\"id\":7}\n");
        peer.hear().is_some()
    });
    let mut command = ctl_command(&["--connect", &console.address(), "watch"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut some = [0; 6];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    assert_eq!(&some, b"opened");
    // Nothing comes that it could write.
    let status = eventually("its end", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

/// Tells of one event, then waits to be told that it is enough.
fn quiet(line: &str, peer: &mut Peer) -> bool {
    assert_eq!(line, "json watch closed");
    peer.say("{\"event\":\"closed\",\"id\":7,\"reason\":\"peer-eof\"}\n");
    assert_eq!(peer.hear().as_deref(), Some(""));
    peer.say("{\"event\":\"lost\",\"events\":3}\n\n")
}

#[test]
fn sigint_ends_what_goes_on_and_on_with_code_0() {
    let console = FakeConsole::new("ctl-interrupt", quiet);
    let mut command = ctl_command(&["--connect", &console.address(), "watch", "closed"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let first = "closed    #7  reason peer-eof\n";
    let mut seen = vec![0; first.len()];
    // An event is there at once, though its console is silent afterwards.
    stdout.read_exact(&mut seen).unwrap();
    assert_eq!(String::from_utf8(seen).unwrap(), first);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let mut all = String::new();
    stdout.read_to_string(&mut all).unwrap();
    assert_eq!(all, "lost      events 3\n");
    let (code, _, stderr) = said(child.wait_with_output().unwrap());
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
}

/// A console of another version, and of other manners.
fn other(line: &str, peer: &mut Peer) -> bool {
    match line {
        "json novelty a=1 -- x" => peer.say("{\"colour\":\"blue\",\"since\":{\"day\":1,\"hour\":2}}\r\n\r\n"),
        "json rude" => {
            peer.say("{\"peer\":\"\\u001b[2Jcleared\\r\\nrow\",\"bad\\u0007\":[1],\"note\":\"plain \u{7f}text\"}\n\n")
        }
        "json broken" => peer.say("{\"id\":1}\n{\"error\":\"\\u001b]0;title\\u0007\"}\n\n"),
        "json cut" => {
            peer.say("{\"id\":1}\n");
            false
        }
        "json top once" => peer.say("{\"sessions\":[{\"id\":7,\"bytes_in_per_second\":2048.0}]}\n\n"),
        _ => panic!("{line}"),
    }
}

#[test]
fn a_command_of_another_version_is_passed_on_and_its_answer_shown() {
    let console = FakeConsole::new("ctl-other", other);
    let (code, stdout, stderr) = console.ctl(&["novelty", "a=1", "--", "x"], "");
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout, "colour  blue\nsince\n  day   1\n  hour  2\n");
    let (code, stdout, _) = console.ctl(&["top"], "");
    assert_eq!((code, stdout.as_str()), (Some(0), "ID  BYTES_IN_PER_SECOND\n 7            2.0 KiB/s\n"));
    assert_eq!(console.heard(), ["json novelty a=1 -- x", "json top once"]);
}

#[test]
fn nothing_that_a_console_says_moves_the_cursor() {
    let console = FakeConsole::new("ctl-rude", other);
    let (code, stdout, _) = console.ctl(&["--color", "never", "rude"], "");
    assert_eq!(code, Some(0));
    assert!(stdout.chars().all(|letter| letter == '\n' || !letter.is_control()), "{stdout:?}");
    assert!(stdout.contains(r"\u{1b}[2Jcleared\r\nrow") && stdout.contains(r"plain \u{7f}text"), "{stdout}");
    let (code, stdout, _) = console.ctl(&["--json", "rude"], "");
    assert_eq!(code, Some(0));
    assert!(stdout.chars().all(|letter| letter == '\n' || !letter.is_control()), "{stdout:?}");
    assert!(stdout.contains(r"plain \u007ftext"), "{stdout}");
    let (code, stdout, stderr) = console.ctl(&["broken"], "");
    assert_eq!((code, stdout.as_str()), (Some(1), "id  1\n"));
    assert_eq!(stderr, "rot13d ctl: \\u{1b}]0;title\\u{7}\n");
}

#[test]
fn an_answer_that_is_cut_short_is_shown_and_said_with_code_1() {
    let console = FakeConsole::new("ctl-cut", other);
    let (code, stdout, stderr) = console.ctl(&["cut"], "");
    assert_eq!((code, stdout.as_str()), (Some(1), "id  1\n"));
    assert_eq!(stderr, "rot13d ctl: the console closed the connection\n");
}

#[test]
fn colours_are_for_terminals_and_for_whom_asks() {
    let console = FakeConsole::new("ctl-colours", |_, peer| peer.say("{\"id\":7,\"state\":\"held\"}\n\n"));
    let plain = "ID  STATE\n 7  held\n";
    assert_eq!(console.ctl(&["list"], "").1, plain);
    assert_eq!(console.ctl(&["--color", "never", "list"], "").1, plain);
    let colours = "\x1b[1mID\x1b[0m  \x1b[1mSTATE\x1b[0m\n 7  \x1b[33mheld\x1b[0m\n";
    assert_eq!(console.ctl(&["--color", "always", "list"], "").1, colours);
    let exact = eventually("an answer", || Some(console.ctl(&["--raw", "list"], "").1));
    assert_eq!(exact, plain);
}

#[test]
fn a_flag_of_nobody_is_a_word_of_the_command() {
    let console = FakeConsole::new("ctl-words", |_, peer| peer.say("{\"sessions\":0}\n\n"));
    for (arguments, heard) in [
        (&["kick", "5", "--dry-run"][..], "json kick 5 dry-run"),
        (&["kick", "5", "--json", "--dryrun"], "json kick 5 dry-run"),
        (&["novelty", "--colour=blue", "-x", "--", "--dry-run"], "json novelty --colour=blue -x -- --dry-run"),
    ] {
        let (code, _, stderr) = console.ctl(arguments, "");
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert_eq!(console.heard().last().map(String::as_str), Some(heard));
    }
    let (server, folder) = server("ctl-dry", &[]);
    let mut peer = server.connect();
    greet(&mut peer);
    let (code, stdout, stderr) = run(&folder, &["kick", "all", "--dry-run"]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stdout.starts_with("would end 1 session\n"), "{stdout}");
    assert_eq!(run(&folder, &["count"]).1, "sessions  1\n", "nobody is kicked");
}

#[test]
fn answers_of_nodes_are_the_consoles_lines_and_a_dry_run_shows_sessions_of_all_of_them() {
    let console = FakeConsole::new("ctl-nodes", |line, peer| match line {
        "json kick node=* all" => peer.say(concat!(
            r#"{"node":"a","id":"a.1f3a5c7d","outcome":{"done":{"sessions":2,"dropped":0}}}"#,
            "\n",
            r#"{"node":"b","id":"b.1f3a5c7d","outcome":"not-found"}"#,
            "\n",
            r#"{"node":"c","id":"c.1f3a5c7d","outcome":{"store-lost":{"error":"the store is not reached"}}}"#,
            "\n",
            r#"{"error":"not all nodes have answered: c"}"#,
            "\n\n"
        )),
        "json kick a.1f3a5c7d.7" => {
            peer.say("{\"node\":\"a\",\"id\":null,\"outcome\":{\"done\":{\"sessions\":1,\"dropped\":1}}}\n\n")
        }
        "json kick node=* all dry-run" => {
            peer.say("{\"dry_run\":true,\"sessions\":12,\"first\":[\"a.1f3a5c7d.7\",\"b.1f3a5c7d.8\"]}\n\n")
        }
        "json show a.1f3a5c7d.7" => peer.say("{\"id\":\"a.1f3a5c7d.7\",\"opened\":1795718951213,\"age\":1.0}\n\n"),
        "json show b.1f3a5c7d.8" => peer.say("{\"id\":\"b.1f3a5c7d.8\",\"opened\":1795718951213,\"age\":2.0}\n\n"),
        _ => panic!("{line}"),
    });
    let (code, stdout, _) = console.ctl(&["kick", "node=*", "all"], "");
    assert_eq!(code, Some(1));
    assert_eq!(stdout, "a: 2 sessions\nb: not found\nc: store lost: the store is not reached\n");
    assert_eq!(console.ctl(&["kick", "a.1f3a5c7d.7"], "").1, "a: 1 session, 1 dropped\n");
    let (code, stdout, stderr) = console.ctl(&["kick", "node=*", "all", "dry-run"], "");
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout, "would end 12 sessions\nID             AGE\na.1f3a5c7d.7  1.0s\nb.1f3a5c7d.8  2.0s\n");
}

#[test]
fn help_needs_no_server() {
    let (_server, folder) = server("ctl-help", &[]);
    let nobody = Folder::new("ctl-helpless");
    for arguments in [&["help"][..], &["help", "kick"], &["kick", "--help"], &["--json", "help"]] {
        let (code, stdout, stderr) = run(&nobody, arguments);
        assert_eq!((code, &stdout), (Some(0), &run(&folder, arguments).1), "{arguments:?}: {stderr}");
        assert_eq!(stderr, "No console answers: this is the help of this version.\n");
    }
    let (code, stdout, stderr) = run(&nobody, &["help", "lst"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("did you mean list?"), "{stderr}");
}

#[test]
fn a_command_of_the_console_without_ctl_is_told_where_it_belongs() {
    for (arguments, words) in [
        (&["list"][..], "write rot13d ctl list\n"),
        (&["kick", "5"], "write rot13d ctl kick\n"),
        (&["clt", "list"], "\"clt\" is no command: did you mean rot13d ctl list?\n"),
    ] {
        let mut command = support::rot13d();
        command.args(arguments);
        let (code, _, stderr) = said(finish(command, b""));
        assert!(code == Some(2) && stderr.ends_with(words), "{arguments:?}: {stderr}");
    }
}

#[test]
fn what_is_no_console_is_said_with_code_3() {
    let server = Server::start(&["--http", "127.0.0.1:0"]);
    let address = server.address.to_string();
    let (code, stdout, stderr) = ctl(&["--connect", &address, "stats"], "");
    assert_eq!((code, stdout.as_str()), (Some(3), ""), "{stderr}");
    assert_eq!(stderr, "rot13d ctl: that is no console: it answered \"wfba fgngf\"\n");

    let http = FakeConsole::new("ctl-http", |_, peer| {
        peer.say("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        false
    });
    for command in ["stats", "help", "watch"] {
        let (code, stdout, stderr) = http.ctl(&[command], "");
        assert_eq!((code, stdout.as_str()), (Some(3), ""), "{command}: {stderr}");
        assert_eq!(stderr, "rot13d ctl: that is no console: it answered \"HTTP/1.1 400 Bad Request\"\n", "{command}");
    }
    let rude = FakeConsole::new("ctl-stranger", |_, peer| peer.say(&format!("\x1b[2J{}\n", "x".repeat(1000))));
    let (code, _, stderr) = rude.ctl(&["stats"], "");
    assert!(code == Some(3) && stderr.len() < 200 && stderr.contains("\\u{1b}[2Jxxx"), "{stderr:?}");

    let silent = FakeConsole::new("ctl-mute", |_, _| true);
    let (code, _, stderr) = silent.ctl(&["stats"], "");
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.starts_with("rot13d ctl: no answer within 5 s: that is no console, or its server"), "{stderr}");
}

#[test]
fn a_list_says_how_many_there_are_and_a_dry_run_whom_it_means() {
    let (server, folder) = server("ctl-many", &["--idle-timeout", "10m"]);
    assert_eq!(run(&folder, &["list"]).1, "0 sessions\n");
    let mut peers: Vec<_> = (0..3).map(|_| server.connect()).collect();
    peers.iter_mut().for_each(greet);
    let (_, stdout, stderr) = run(&folder, &["list", "peer=127.0.0.1", "sort", "id", "limit", "2"]);
    assert!(stdout.ends_with("\n2 of 3 sessions\n") && stdout.lines().count() == 4, "{stdout}{stderr}");
    assert_eq!(run(&folder, &["list"]).1.lines().count(), 4);
    let (_, stdout, stderr) = run(&folder, &["kick", "peer=127.0.0.1", "dry-run"]);
    assert!(stdout.starts_with("would end 3 sessions\n"), "{stdout}{stderr}");
    let address = peers[2].local_addr().unwrap().to_string();
    assert!(stdout.contains("ID  PEER ") && stdout.contains(&address) && stdout.lines().count() == 5, "{stdout}");
    let (_, stdout, _) = run(&folder, &["set", "idle-timeout", "5m", "dry-run"]);
    assert_eq!(stdout, "idle-timeout 10m -> 5m would end 0 sessions\n");
    let (code, stdout, _) = run(&folder, &["kick", "99999"]);
    assert_eq!((code, stdout.as_str()), (Some(0), "0 sessions: no live one is meant by that, list shows them\n"));
    assert_eq!(run(&folder, &["--json", "list", "limit", "2"]).1.lines().count(), 2);
}
