//! The console: each command does what the typed handle does, and says so in text and in JSON.

#[path = "support/asking.rs"]
mod asking;
#[path = "support/folder.rs"]
mod folder;
mod support;

use std::{path::PathBuf, time::Duration};

use actix_lines::{
    LineServer, Listener, Rot13, ServerHandle, Token,
    console::{Console, ConsoleError},
    control::SessionQuery,
    limits::LimitKey,
};
use asking::Asking;
use folder::Folder;
use serde_json::{Value, json};
use support::{Peer, eventually, pass, pause, within};
use tokio::{io::AsyncWriteExt, net::UnixStream};

impl Folder {
    fn socket(&self) -> PathBuf {
        self.path("console.sock")
    }
}

/// That of all consoles here that have one.
fn token() -> Token {
    Token::new("c0ffee-c0ffee-c0ffee").unwrap()
}

/// A server of two workers with two listeners, and a console beside it.
struct Watched {
    server: ServerHandle,
    console: ServerHandle,
    folder: Folder,
}

impl Watched {
    fn start() -> Self {
        Self::with(|console| console)
    }

    fn with(console: impl FnOnce(Console) -> Console) -> Self {
        let folder = Folder::new("console");
        let server = LineServer::new(|_| Rot13)
            .workers(2)
            .listen(Listener::tcp("127.0.0.1:0").name("public"))
            .unwrap()
            .bind("127.0.0.1:0")
            .unwrap()
            .start()
            .unwrap();
        let at = Console::at(Listener::unix(folder.socket())).program("test", "1.2");
        let console = console(at).serve(&server).unwrap();
        Self { server, console, folder }
    }

    async fn ask(&self) -> Asking<UnixStream> {
        Asking::new(UnixStream::connect(self.folder.socket()).await.unwrap())
    }

    /// Sessions of the first listener that have sent so many lines each.
    async fn peers(&self, lines: &[usize]) -> Vec<Peer> {
        let mut peers = Vec::new();
        for lines in lines {
            let mut peer = Peer::connect(self.server.local_addrs()[0]).await;
            for _ in 0..*lines {
                peer.send(b"hello\n").await;
                peer.expect(b"uryyb\n").await;
            }
            peers.push(peer);
        }
        let all = lines.len() as u64;
        eventually("the sessions", async || self.server.stats().await.unwrap().live == all).await;
        peers
    }

    async fn ids(&self) -> Vec<u64> {
        let page = self.server.sessions(SessionQuery::default()).await.unwrap();
        page.sessions.iter().map(|session| session.id.get()).collect()
    }

    async fn end(self) {
        within("the end", self.server.abort()).await.unwrap();
        within("the end of the console", self.server.wait()).await.unwrap();
        within("its own end", self.console.wait()).await.unwrap();
    }
}

#[actix::test]
async fn version_stats_and_listeners_are_those_of_the_handle() {
    let watched = Watched::start();
    let _peers = watched.peers(&[1, 2]).await;
    let mut console = watched.ask().await;
    let version = console.line("version").await;
    assert!(version.starts_with("test 1.2, up "), "{version}");
    let object = &console.json("version").await[0];
    assert_eq!((&object["name"], &object["version"]), (&json!("test"), &json!("1.2")));

    let mut stats = watched.server.stats().await.unwrap();
    // How late its threads were moves by itself.
    eventually("the same counters", async || {
        stats = watched.server.stats().await.unwrap();
        console.json("stats").await == [serde_json::to_value(&stats).unwrap()]
    })
    .await;
    let text = console.ask("stats").await;
    let value = |name: &str| text.iter().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    assert_eq!((value("live"), value("lines-in"), value("bytes-out")), (Some(2), Some(3), Some(18)), "{text:?}");

    let listeners = console.json("listeners").await;
    let expected: Vec<_> = watched.server.listeners();
    assert_eq!(listeners.len(), 2);
    for (listener, expected) in listeners.iter().zip(expected) {
        assert_eq!(listener["id"], serde_json::to_value(expected.id).unwrap());
        assert_eq!(listener["local_addr"], json!(expected.local_addr.to_string()));
        assert_eq!(listener["stats"], serde_json::to_value(&stats.listeners[&expected.id]).unwrap());
    }
    let text = console.ask("listeners").await;
    assert!(
        text[0].starts_with("LISTENER ") && text[1].starts_with("public ") && text[2].starts_with("1 "),
        "{text:?}"
    );
    watched.end().await;
}

#[actix::test]
async fn lists_counts_and_single_sessions_are_those_of_the_handle() {
    let watched = Watched::start();
    let peers = watched.peers(&[1, 3, 2]).await;
    let mut console = watched.ask().await;
    let ids = watched.ids().await;

    let listed: Vec<_> = console.json("list").await.iter().map(|one| one["id"].as_u64().unwrap()).collect();
    assert_eq!(listed, ids);
    let sorted: Vec<_> = console.json("list sort lines limit 2").await;
    assert_eq!(sorted.iter().map(|one| one["lines_in"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 2]);
    let text = console.ask("list sort lines offset 1").await;
    assert_eq!(text.len(), 4, "{text:?}");
    assert!(text[0].starts_with("ID ") && text[1].starts_with(&format!("#{} ", ids[2])), "{text:?}");
    assert_eq!(text[3], "2 of 3 sessions");
    let port = peers[1].stream.local_addr().unwrap();
    assert!(console.ask("list").await[2].contains(&port.to_string()));

    assert_eq!(console.line("count").await, "3");
    assert_eq!(console.line("count listener=public peer=127.0.0.1").await, "3");
    assert_eq!(console.line("count listener=1").await, "0");
    assert_eq!(console.json("count age>1h").await, [json!({ "sessions": 0 })]);

    let info = watched.server.session(format!("#{}", ids[1]).parse().unwrap()).await.unwrap().unwrap();
    let shown = &console.json(&format!("show {}", ids[1])).await[0];
    assert_eq!((&shown["id"], &shown["lines_in"]), (&json!(ids[1]), &json!(info.lines_in)));
    let text = console.ask(&format!("show #{}", ids[1])).await;
    assert!(text.contains(&format!("{:<12} {}", "lines-in", 3)), "{text:?}");
    assert_eq!(console.line("show 4000000").await, "error: \"4000000\" is no live session: list has them all");
    watched.end().await;
}

#[actix::test]
async fn a_kick_a_push_and_a_wall_reach_those_they_are_for() {
    let watched = Watched::start();
    let mut peers = watched.peers(&[1, 1, 1]).await;
    let mut console = watched.ask().await;
    let ids = watched.ids().await;

    assert_eq!(console.line(&format!("push {} -- for  you", ids[1])).await, "1 session, 0 dropped");
    assert_eq!(console.json("wall news of the day").await, [json!({ "sessions": 3, "dropped": 0 })]);
    peers[1].expect(b"for  you\r\nnews of the day\r\n").await;
    peers[0].expect(b"news of the day\r\n").await;

    let dry = console.ask("kick all dry-run -- bye").await;
    assert_eq!((dry[0].as_str(), dry.len()), ("would end 3 sessions", 5), "{dry:?}");
    let dry = console.json("kick dry-run peer=127.0.0.0/8").await;
    assert_eq!(dry, [json!({ "dry_run": true, "sessions": 3, "first": ids })]);
    assert_eq!(watched.server.stats().await.unwrap().live, 3);

    assert_eq!(console.line(&format!("kick #{} -- see you", ids[0])).await, "1 session");
    assert_eq!(peers[0].rest().await, b"see you\r\n");
    assert_eq!(console.json("kick listener=public").await, [json!({ "sessions": 2 })]);
    assert_eq!(peers[1].rest().await, b"");
    for command in ["kick", "kick -- bye", "push -- hello", "kick dry-run"] {
        let error = console.line(command).await;
        assert!(error.contains("stands alone: write a filter, or all for every session,"), "{error}");
    }
    assert!(console.line("push all").await.starts_with("error: \"push\" has no text: write it behind --"));
    watched.end().await;
}

#[actix::test]
async fn a_listener_is_paused_and_accepts_again() {
    let watched = Watched::start();
    let mut console = watched.ask().await;
    assert_eq!(console.line("pause public").await, "public paused: the backlog holds new connections");
    assert!(watched.server.listeners()[0].is_paused);
    assert!(console.ask("listeners").await[1].contains(" paused "));
    assert_eq!(console.json("resume 0").await, [json!({ "listener": "public", "paused": false })]);
    assert!(!watched.server.listeners()[0].is_paused);
    let nameless = watched.server.listeners()[1].local_addr.to_string();
    assert_eq!(console.line(&format!("pause {nameless}")).await, "1 paused: the backlog holds new connections");
    assert!(watched.server.listeners()[1].is_paused);
    assert_eq!(console.line("pause pulbic").await, "error: \"pulbic\" is no listener: did you mean public?");
    watched.end().await;
}

#[actix::test]
async fn each_limit_is_shown_and_changed() {
    let watched = Watched::start();
    let mut console = watched.ask().await;
    let shown = console.json("limits").await;
    let limits = watched.server.limits().await.unwrap();
    assert_eq!(shown.len(), LimitKey::all().len());
    for (shown, key) in shown.iter().zip(LimitKey::all()) {
        let expected = (json!(key.name()), json!(key.value(&limits)), json!(key.unit()));
        assert_eq!((shown["key"].clone(), shown["value"].clone(), shown["unit"].clone()), expected);
    }
    assert!(console.ask("limits").await.iter().any(|line| line == &format!("{:<24} {}", "idle-timeout", "10m")));

    assert_eq!(console.line("set idle-timeout 5m").await, "idle-timeout 10m -> 5m ends 0 sessions");
    let five = Duration::from_secs(300);
    let expected = limits.to_builder().idle_timeout(Some(five)).build().unwrap();
    assert_eq!(watched.server.limits().await.unwrap(), expected);
    assert_eq!(
        console.line("set refuse-line come back  later").await,
        "refuse-line too many connections, try again later -> come back later ends 0 sessions"
    );
    console.line("set refuse-line -- come  back").await;
    assert_eq!(
        watched.server.limits().await.unwrap(),
        expected.to_builder().refuse_line("come  back\r\n").build().unwrap()
    );

    let error = console.line("set idle-timeout soon").await;
    assert_eq!(error, "error: \"soon\" is no value of idle-timeout: use a time, as 10s, 5m or 2h, or off");
    assert_eq!(
        console.line("set idel-timeout 5m").await,
        "error: \"idel-timeout\" is no limit: did you mean idle-timeout?"
    );
    assert_eq!(
        console.line("set idle-timeout").await,
        "error: \"idle-timeout\" stands alone: write its value behind it"
    );
    assert!(console.line("set outbox-low 64KiB").await.contains("is no value of outbox-low"));
    watched.end().await;
}

#[actix::test]
async fn a_dry_run_says_who_would_end_and_changes_nothing() {
    let watched = Watched::start();
    let mut peers = watched.peers(&[1; 12]).await;
    let mut console = watched.ask().await;
    let limits = watched.server.limits().await.unwrap();
    let ids = watched.ids().await;
    let text = console.ask("set deny 127.0.0.0/8 dry-run").await;
    assert_eq!((text[0].as_str(), text.len()), ("deny off -> 127.0.0.0/8 would end 12 sessions", 12), "{text:?}");
    let object = &console.json("set deny 127.0.0.0/8 dry-run").await[0];
    let expected = json!({
        "key": "deny", "from": "off", "to": "127.0.0.0/8", "dry_run": true, "ends": 12, "first": ids[..10],
    });
    assert_eq!(*object, expected);
    assert_eq!(watched.server.limits().await.unwrap(), limits);
    assert_eq!(console.line("count").await, "12");
    assert_eq!(console.line("set deny 127.0.0.0/8").await, "deny off -> 127.0.0.0/8 ends 12 sessions");
    for peer in &mut peers {
        peer.expect_eof().await;
    }
    watched.end().await;
}

#[actix::test]
async fn whoever_asks_for_a_dry_run_gets_one_or_an_error() {
    let watched = Watched::start();
    let peers = watched.peers(&[1, 1]).await;
    let mut console = watched.ask().await;
    let (limits, id) = (watched.server.limits().await.unwrap(), watched.ids().await[0]);
    for spelling in ["dry-run", "--dry-run", "dryrun", "--dryrun", "DRY-RUN", "dry_run"] {
        assert_eq!(console.ask(&format!("kick {id} {spelling}")).await[0], "would end 1 session");
        assert_eq!(console.ask(&format!("kick {spelling} all -- bye")).await[0], "would end 2 sessions");
        let drain = "would end the server, and tell 2 sessions to end";
        assert_eq!(console.line(&format!("drain {spelling}")).await, drain);
        assert_eq!(console.line(&format!("drain 5s {spelling} -- bye")).await, drain);
        assert_eq!(
            console.line(&format!("set refuse-line busy {spelling}")).await,
            "refuse-line too many connections, try again later -> busy would end 0 sessions"
        );
        for command in [
            format!("kick {id} -- {spelling}"),
            format!("kick all -- be quiet {spelling} "),
            format!("drain 5s -- bye {spelling}"),
            format!("set refuse-line -- busy {spelling}"),
        ] {
            let expected = format!(
                "error: \"{spelling}\" would be the end of the text, and nothing is done: for a dry run write dry-run \
                 before --, or end the text otherwise"
            );
            assert_eq!(console.line(&command).await, expected, "{command}");
        }
        for command in [format!("push all -- bye {spelling}"), format!("wall bye {spelling}")] {
            let error = console.line(&command).await;
            assert!(error.contains("nothing is done: this command has no dry run; count says"), "{error}");
        }
        let error = console.line(&format!("push all {spelling} -- bye")).await;
        assert!(error.contains("is no filter: only kick, set and drain have a dry run"), "{error}");
    }
    assert_eq!(console.json("drain dry-run").await, [json!({ "dry_run": true, "sessions": 2 })]);
    assert_eq!(watched.server.limits().await.unwrap(), limits);
    assert_eq!(watched.server.stats().await.unwrap().bytes_out, 12);
    assert_eq!(console.line("count").await, "2");
    // A text may speak of one.
    assert_eq!(console.line(&format!("kick {id} -- the dry-run is over")).await, "1 session");
    drop(peers);
    watched.end().await;
}

#[actix::test]
async fn a_drain_is_answered_before_the_server_is_over() {
    let watched = Watched::start();
    let mut peers = watched.peers(&[1]).await;
    let mut console = watched.ask().await;
    let waiting = actix_rt::spawn({
        let server = watched.server.clone();
        async move { server.wait().await }
    });
    console.send(b"drain 10s -- back soon\nversion\n").await;
    assert_eq!(peers[0].rest().await, b"back soon\r\n");
    drop(peers);
    let answer = console.answer().await.unwrap();
    let last = answer.last().unwrap();
    assert!(last.starts_with("drained: 1 session ended, 0 cut, in "), "{answer:?}");
    // What was asked behind it is answered, too.
    assert!(console.answer().await.unwrap()[0].starts_with("test 1.2"));
    assert_eq!(console.rest().await, "");
    drop(console);
    within("the end", waiting).await.unwrap().unwrap();
    assert_eq!(watched.console.stats().await.unwrap().live, 0);
}

#[actix::test]
async fn a_drain_shows_how_far_it_is() {
    let watched = Watched::start();
    // It never closes, and lingers.
    let peers = watched.peers(&[1]).await;
    let mut console = watched.ask().await;
    console.send(b"json drain 3s\n").await;
    let answer: Vec<Value> =
        console.answer().await.unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let left: Vec<_> = answer.iter().filter_map(|record| record["left"].as_u64()).collect();
    assert!(left.len() >= 2 && left.iter().all(|left| *left == 1), "{answer:?}");
    assert_eq!(answer.last().unwrap()["cut"], json!(1));
    drop(peers);
}

#[actix::test]
async fn a_server_that_ends_otherwise_closes_its_consoles_politely() {
    let watched = Watched::start();
    let mut console = watched.ask().await;
    assert_eq!(console.line("count").await, "0");
    within("the end", watched.server.abort()).await.unwrap();
    assert_eq!(console.rest().await, "");
    drop(console);
    within("the wait", watched.server.wait()).await.unwrap();
}

#[actix::test]
async fn errors_name_the_word_and_say_what_to_write() {
    let watched = Watched::start();
    let mut console = watched.ask().await;
    for (line, error) in [
        ("lsit", r#""lsit" is no command: did you mean list?"#),
        ("frobnicate", r#""frobnicate" is no command: help lists them"#),
        ("kill 7", r#""kill" is no command: did you mean kick?"#),
        ("ban 192.0.2.7", r#""ban" is no command: did you mean set deny?"#),
        ("exit", r#""exit" is no command: did you mean quit?"#),
        ("shutdown", r#""shutdown" is no command: did you mean drain?"#),
        ("stop", r#""stop" is no command: did you mean drain?"#),
        ("sessions", r#""sessions" is no command: did you mean list?"#),
        ("?", r#""?" is no command: did you mean help?"#),
        ("push all hello", r#""push" has no text: write it behind --, as push all -- hello"#),
        ("push all --", r#""push" has no text: write it behind --, as push all -- hello"#),
        (
            "watch foo",
            r#""foo" is no kind of event: use opened, named, closed, refused, limits, listeners or draining"#,
        ),
        ("watch opend", r#""opend" is no kind of event: did you mean opened?"#),
        ("kick 1 2 7", r#""2" is a second session: write one, and the command again for each other"#),
        (
            "set drain-timeout 5s",
            r#""drain-timeout" is no limit: drain takes its time behind it, as drain 30s; without one it is that of the settings"#,
        ),
        ("set idle-timeout 0s", r#""0s" is no value of idle-timeout: idle timeout is 0ns: use 1 s to 24 days, or off"#),
        (
            "set max-sessions auto",
            r#""auto" is no value of max-sessions: use 1 or more, or off; what it was at the start comes back by a restart or reload"#,
        ),
        ("stats all", r#""all" is too much: stats stands alone"#),
        ("list -- x", r#""--" is too much: list has no text"#),
        ("list idel>5m", r#""idel>5m" is no filter: did you mean idle>5m?"#),
        ("count state=opne", r#""state=opne" is no state: did you mean state=open?"#),
        ("show", r#""show" stands alone: write a session's number, as 7, behind it"#),
        ("show x", r#""x" is no session: use its number, as 7 or #7"#),
        ("show 1 2", r#""2" is too much: show has one session"#),
        ("pause", r#""pause" stands alone: write the name or number of a listener behind it"#),
        ("wall", r#""wall" stands alone: write a text behind it"#),
        ("set", r#""set" stands alone: write a key and a value, as set idle-timeout 5m, behind it"#),
        ("drain soon", r#""soon" is no time: use a time, as 10s, 5m or 2h"#),
        ("json", r#""json" stands alone: write a command behind it"#),
        ("help lsit", r#""lsit" is no command: did you mean list?"#),
        ("\u{1b}[2J", r#""\u{1b}[2J" is no command: help lists them"#),
    ] {
        let expected = match line {
            "json" => serde_json::to_string(&json!({ "error": error, "word": "json" })).unwrap(),
            _ => format!("error: {error}"),
        };
        assert_eq!(console.line(line).await, expected);
    }
    let object = console.json("list idel>5m").await;
    assert_eq!(object, [json!({ "error": r#""idel>5m" is no filter: did you mean idle>5m?"#, "word": "idel>5m" })]);
    watched.end().await;
}

#[actix::test]
async fn help_explains_every_command_by_an_example_that_works() {
    let watched = Watched::start();
    let mut console = watched.ask().await;
    let commands = console.json("help").await;
    let text = console.ask("help").await;
    for command in &commands {
        let name = command["command"].as_str().unwrap();
        assert!(text.iter().any(|line| line.split(' ').next() == Some(name)), "{name}: {text:?}");
        let example = command["example"].as_str().unwrap();
        let help = console.ask(&format!("help {name}")).await;
        assert_eq!(help.last().unwrap(), &format!("  Example: {example}"), "{help:?}");
        assert_eq!(example.split(' ').next(), Some(name));
        if ["drain", "quit", "watch", "top", "trace"].contains(&name) {
            continue;
        }
        let answer = console.ask(example).await;
        let is_error = answer.first().is_some_and(|line| line.starts_with("error: "));
        // There is no such session.
        assert_eq!(is_error, name == "show", "{example}: {answer:?}");
    }
    watched.end().await;
}

#[actix::test]
async fn help_of_watch_has_the_filters_that_it_takes() {
    let watched = Watched::start();
    let mut console = watched.ask().await;
    let (watch, list) = (console.ask("help watch").await.join("\n"), console.ask("help list").await.join("\n"));
    for (word, is_taken) in [("peer=", true), ("listener=", true), ("state=", false), ("age>", false), ("idle>", false)]
    {
        let row = format!("\n    {word} ");
        assert_eq!((watch.contains(&row), list.contains(&row)), (is_taken, true), "{word}: {watch}");
    }
    watched.end().await;
}

#[actix::test]
async fn a_limit_below_what_lives_says_that_nobody_gets_in() {
    let watched = Watched::start();
    let peers = watched.peers(&[1, 1]).await;
    let mut console = watched.ask().await;
    assert!(console.line("set max-sessions 3").await.ends_with(" -> 3 ends 0 sessions"));
    let full = "max-sessions 3 -> 1 ends 0 sessions; 2 live: no new one gets in until there are fewer than 1";
    assert_eq!(console.line("set max-sessions 1").await, full);
    drop(peers);
    watched.end().await;
}

#[actix::test]
async fn a_session_of_a_console_is_none_of_the_server() {
    let watched = Watched::start();
    let mut first = watched.ask().await;
    let mut second = watched.ask().await;
    assert_eq!(first.line("count").await, "0");
    assert_eq!(second.json("stats").await[0]["opened"], json!(0));
    assert_eq!(watched.console.stats().await.unwrap().live, 2);
    // Nothing but an answer is ever sent.
    second.send(b"\n \r\n\ncount\r\n").await;
    assert_eq!(second.answer().await.unwrap(), ["0"]);
    second.send(b"quit\n").await;
    assert_eq!(second.rest().await, "\n");
    assert_eq!(first.line("count").await, "0");
    watched.end().await;
}

#[actix::test]
async fn the_builder_starts_a_console_with_its_server() {
    let folder = Folder::new("console");
    let server = LineServer::new(|_| Rot13)
        .bind("127.0.0.1:0")
        .unwrap()
        .console(Console::at(Listener::unix(folder.socket())))
        .unwrap()
        .start()
        .unwrap();
    let mut console = Asking::new(UnixStream::connect(folder.socket()).await.unwrap());
    assert_eq!(console.line("count").await, "0");
    assert!(console.line("version").await.starts_with("actix-lines "));
    console.send(b"drain 1s\n").await;
    assert!(console.answer().await.unwrap()[0].starts_with("drained: 0 sessions ended, 0 cut, in "));
    within("the end", server.wait()).await.unwrap();
}

#[actix::test]
async fn only_loopback_and_unix_sockets_need_no_token() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let error = Console::at(address).bind().unwrap_err();
        assert!(matches!(error, ConsoleError::Exposed { .. }), "{error}");
        assert!(error.to_string().contains("give it a token, use a loopback address, or a unix socket"), "{error}");
        assert!(Console::at(address).token(token()).bind().is_ok());
    }
    assert!(!Console::at("127.0.0.1:0").bind().unwrap().local_addrs().is_empty());
    assert!(matches!(Console::at("127.0.0.1").bind().unwrap_err(), ConsoleError::Bind(_)));
    assert!(matches!(Console::at("127.0.0.1:0").max_sessions(0).bind().unwrap_err(), ConsoleError::Config(_)));
}

#[actix::test]
async fn without_the_token_nothing_is_done() {
    let watched = Watched::with(|console| console.token(token()));
    let _peers = watched.peers(&[1]).await;
    let mut console = watched.ask().await;
    assert_eq!(console.ask("token c0ffee-c0ffee-c0ffee").await, [""; 0]);
    assert_eq!(console.line("count").await, "1");
    // Once more is no harm.
    assert_eq!(console.ask("token c0ffee-c0ffee-c0ffee").await, [""; 0]);
    for first in [
        "token c0ffee-c0ffee-c0ffe",
        "token c0ffee-c0ffee-c0ffee1",
        "token ",
        "token",
        "TOKEN c0ffee",
        "kick all",
        "json kick all",
    ] {
        let mut console = watched.ask().await;
        console.send(format!("{first}\nkick all\n").as_bytes()).await;
        let rest = console.rest().await;
        assert!(rest.starts_with("error: \"token\" ") && rest.lines().count() == 2, "{first}: {rest}");
        assert!(!rest.contains("c0ffe"), "{rest}");
    }
    let mut console = watched.ask().await;
    console.send(&[b'x'; 100_000]).await;
    assert_eq!(console.rest().await, "");
    assert_eq!(watched.server.stats().await.unwrap().live, 1);
    watched.end().await;
}

#[actix::test]
async fn a_peer_without_a_token_does_not_keep_its_place() {
    let watched = Watched::with(|console| console.token(token()).max_sessions(2));
    let (mut known, mut silent) = (watched.ask().await, watched.ask().await);
    assert_eq!(known.ask("token c0ffee-c0ffee-c0ffee").await, [""; 0]);
    pause();
    assert_eq!(silent.rest().await, "");
    drop(silent);
    pass(Duration::from_secs(3600)).await;
    // The server's workers have threads and clocks of their own.
    tokio::time::resume();
    assert_eq!(known.line("count").await, "0");
    watched.end().await;
}

#[actix::test]
async fn who_has_no_token_keeps_nobody_out_who_has_it() {
    const STRANGERS: u64 = 150;
    let watched = Watched::with(|console| console.token(token()).max_sessions(2));
    let mut strangers = Vec::new();
    for nth in 1..=STRANGERS {
        let mut stranger = watched.ask().await;
        if nth % 2 == 0 {
            stranger.send(b"token guessed\n").await;
        }
        strangers.push(stranger);
        eventually("the stranger", async || {
            let stats = watched.console.stats().await.unwrap();
            stats.opened + stats.refused.values().sum::<u64>() == nth
        })
        .await;
    }
    eventually("the eldest to leave", async || watched.console.stats().await.unwrap().live <= 32).await;
    let mut operators = [watched.ask().await, watched.ask().await];
    for operator in &mut operators {
        assert_eq!(operator.ask("token c0ffee-c0ffee-c0ffee").await, [""; 0]);
        assert_eq!(operator.line("count").await, "0");
    }
    let mut third = watched.ask().await;
    assert_eq!(
        third.line("token c0ffee-c0ffee-c0ffee").await,
        "error: too many consoles: close one, then connect again"
    );
    assert_eq!(third.rest().await, "");
    // A place is there again for whoever comes next.
    let [first, _second] = operators;
    drop(first);
    eventually("a place", async || {
        let mut next = watched.ask().await;
        next.ask("token c0ffee-c0ffee-c0ffee").await.is_empty()
    })
    .await;
    drop((strangers, third));
    watched.end().await;
}

#[actix::test]
async fn http_is_no_command() {
    let watched = Watched::start();
    let _peers = watched.peers(&[1]).await;
    for request in [
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\r\nkick all\r\n",
        "GET /kick HTTP/1.1\r\nkick all\r\n",
        "Host: localhost\nkick all\n",
        "count\nPOST / HTTP/1.1\nkick all\n",
    ] {
        let mut console = watched.ask().await;
        console.send(request.as_bytes()).await;
        let rest = console.rest().await;
        assert_eq!(rest, if request.starts_with("count") { "1\n\n" } else { "" }, "{request}");
    }
    assert_eq!(watched.server.stats().await.unwrap().live, 1);
    watched.end().await;
}

#[actix::test]
async fn a_text_for_peers_may_speak_of_http() {
    let watched = Watched::start();
    let mut peers = watched.peers(&[1]).await;
    let mut console = watched.ask().await;
    assert_eq!(console.line("wall we speak HTTP/2 from now on").await, "1 session, 0 dropped");
    assert_eq!(console.line("kick all -- use GET / HTTP/1.1 instead").await, "1 session");
    assert_eq!(peers[0].rest().await, b"we speak HTTP/2 from now on\r\nuse GET / HTTP/1.1 instead\r\n");
    watched.end().await;
}

#[actix::test]
async fn no_word_of_a_change_is_left_out() {
    let watched = Watched::start();
    let mut console = watched.ask().await;
    let before = watched.server.limits().await.unwrap();
    let error = "error: \"7\" is too much: the value is behind -- already";
    assert_eq!(console.line("set max-sessions 7 -- 8").await, error);
    assert_eq!(watched.server.limits().await.unwrap(), before);
    assert_eq!(console.line("set max-sessions -- 8").await.split(" -> ").last(), Some("8 ends 0 sessions"));
    watched.end().await;
}

#[actix::test]
async fn a_block_of_top_is_no_longer_than_a_thousand_sessions_and_nothing_is_less_than_none() {
    let watched = Watched::start();
    let mut console = watched.ask().await;
    let error = "error: \"1001\" sessions are too many: use 1000 at most, or list";
    assert_eq!(console.line("top limit 1001 once").await, error);
    let none = &console.ask("top limit 1000 once").await[0];
    assert!(none.starts_with("0 sessions, 0.0 lines/s, 0.0 bytes/s in, 0.0 bytes/s out, "), "{none}");
    watched.end().await;
}

#[actix::test]
async fn a_line_that_is_too_long_or_has_no_end_is_not_done() {
    let watched = Watched::start();
    let _peers = watched.peers(&[1]).await;
    let mut console = watched.ask().await;
    let long = ["count\nkick all", &" ".repeat(64 * 1024), "\ncount\n"].concat();
    console.send(long.as_bytes()).await;
    assert_eq!(console.answer().await.unwrap(), ["1"]);
    assert_eq!(console.answer().await.unwrap(), ["error: the line is longer than 65536 bytes: nothing is done"]);
    assert_eq!(console.answer().await.unwrap(), ["1"]);
    // The longest that is one.
    let longest = ["count ", &" ".repeat(64 * 1024 - 6), "\n"].concat();
    console.send(longest.as_bytes()).await;
    assert_eq!(console.answer().await.unwrap(), ["1"]);
    console.send(b"kick all").await;
    console.0.get_mut().shutdown().await.unwrap();
    assert_eq!(console.answer().await.unwrap(), ["error: \"kick all\" has no newline: nothing is done"]);
    assert_eq!(console.rest().await, "");
    assert_eq!(watched.server.stats().await.unwrap().live, 1);
    watched.end().await;
}

#[actix::test]
async fn whoever_half_closes_gets_every_answer() {
    let watched = Watched::start();
    let _peers = watched.peers(&[1]).await;
    let mut console = watched.ask().await;
    console.send(b"count\njson count\nset max-age 1h\nkick all -- bye\n").await;
    console.0.get_mut().shutdown().await.unwrap();
    let expected = "1\n\n{\"sessions\":1}\n\nmax-age off -> 1h ends 0 sessions\n\n1 session\n\n";
    assert_eq!(console.rest().await, expected);
    watched.end().await;
}

#[actix::test]
async fn consoles_are_as_many_as_allowed() {
    let watched = Watched::with(|console| console.max_sessions(2));
    let (mut first, second) = (watched.ask().await, watched.ask().await);
    eventually("both", async || watched.console.stats().await.unwrap().live == 2).await;
    let mut third = watched.ask().await;
    assert_eq!(third.answer().await.unwrap(), ["error: too many consoles: close one, then connect again"]);
    assert_eq!(third.rest().await, "");
    drop((second, third));
    eventually("a place", async || watched.console.stats().await.unwrap().live == 1).await;
    assert_eq!(first.line("count").await, "0");
    assert_eq!(watched.ask().await.line("count").await, "0");
    watched.end().await;
}

#[actix::test]
async fn a_console_that_does_not_read_costs_bounded_memory_and_holds_up_nobody() {
    const LISTS: usize = 300;
    // Of a command's page, of the lines of one read, and of what the watermark allows.
    const BOUND: usize = 256 * 1024;
    let watched = Watched::start();
    let mut peers = watched.peers(&[1; 50]).await;
    let mut slow = watched.ask().await;
    slow.send("json list\n".repeat(LISTS).as_bytes()).await;
    let mut console = watched.ask().await;
    let slow_one = async || {
        let page = watched.console.sessions(SessionQuery::default()).await.unwrap();
        page.sessions.into_iter().find(|session| session.bytes_in > 1000)
    };
    let mut last = 0;
    let mut same = 0;
    eventually("it to be held", async || {
        assert_eq!(console.line("count").await, "50");
        let Some(session) = slow_one().await else { return false };
        assert!(session.outbox_bytes < BOUND, "{}", session.outbox_bytes);
        same = if session.bytes_out == last && session.outbox_bytes > 0 { same + 1 } else { 0 };
        last = session.bytes_out;
        same > 20
    })
    .await;
    peers[0].send(b"hello\n").await;
    peers[0].expect(b"uryyb\n").await;
    for _ in 0..LISTS {
        assert_eq!(slow.answer().await.unwrap().len(), 50);
    }
    watched.end().await;
}
