//! A session has the name and the tags that its actor gave it last: lists, filters, events and the console all say the same of
//! them, whatever is set when.

#[cfg(feature = "console")]
#[path = "support/asking.rs"]
mod asking;
mod support;

use std::{collections::BTreeMap, sync::Arc};

use actix::{Actor, Addr, AsyncContext, Handler, Message};
use actix_lines::{
    Connection, Line, LineContext, LineHandler, LineServer, NameError, ServerHandle, SessionId,
    control::{EventRef, SessionFilter, SessionInfo, SessionQuery},
};
use proptest::prelude::*;
use support::{Server, within};
use tokio::sync::mpsc;

/// Sets what its lines say, and answers each with what it has then or with an error.
struct Named;

impl Actor for Named {
    type Context = LineContext<Self>;
}

#[derive(Message)]
#[rtype(result = "()")]
struct Call(&'static str);

impl Handler<Call> for Named {
    type Result = ();

    fn handle(&mut self, Call(name): Call, ctx: &mut Self::Context) {
        ctx.set_name(name).unwrap();
    }
}

impl LineHandler for Named {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        let text = std::str::from_utf8(line.text()).unwrap();
        let (word, value) = text.split_once(' ').unwrap_or((text, ""));
        let result = match word {
            "name" => ctx.set_name(value),
            "tag" => ctx.add_tag(value),
            "untag" => {
                ctx.remove_tag(value);
                Ok(())
            }
            "stop" => {
                actix::ActorContext::stop(ctx);
                // Behind the last line, and before the end.
                ctx.set_name(value)
            }
            word => panic!("{word}"),
        };
        match result {
            Ok(()) => writeln!(ctx, "{:?} {:?}", ctx.name(), ctx.tags()),
            Err(error) => writeln!(ctx, "{error}"),
        }
    }
}

/// What a session is called, by an independent account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    name: Option<String>,
    tags: Vec<String>,
}

impl Model {
    /// Does what a line says. Returns the answer.
    fn line(&mut self, word: &str, value: &str) -> String {
        let is_fit = |most: usize| value.len() <= most && !value.chars().any(char::is_control);
        match word {
            "name" | "stop" if !is_fit(128) => return error("name", value, 128),
            "tag" if !is_fit(32) => return error("tag", value, 32),
            "name" | "stop" => self.name = (!value.is_empty()).then(|| value.to_owned()),
            "tag" if value.is_empty() => return "a tag is empty: use 1 to 32 bytes".to_owned(),
            "tag" if self.tags.iter().any(|tag| tag == value) => {}
            "tag" if self.tags.len() == 8 => return "a session has 8 tags at most: remove one first".to_owned(),
            "tag" => self.tags.push(value.to_owned()),
            "untag" => self.tags.retain(|tag| tag != value),
            word => panic!("{word}"),
        }
        format!("{:?} {:?}", self.name, self.tags)
    }
}

fn error(what: &str, value: &str, most: usize) -> String {
    match value.len() > most {
        true => format!("a {what} has {} bytes: use at most {most}", value.len()),
        false => format!("a {what} has a control character: use text without line ends, tabs and escapes"),
    }
}

fn of(name: Option<&Arc<str>>, tags: &[Arc<str>]) -> Model {
    Model { name: name.map(|name| name.to_string()), tags: tags.iter().map(|tag| tag.to_string()).collect() }
}

async fn list(server: &ServerHandle, filter: SessionFilter) -> Vec<SessionInfo> {
    within("a list", server.sessions(SessionQuery::from(filter))).await.unwrap().sessions
}

fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(vec!["", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "alice", "\u{e9} x", "\"", "a\tb"]).prop_map(str::to_owned),
        1 => (30_usize..35).prop_map(|len| "t".repeat(len)),
        1 => (126_usize..131).prop_map(|len| "n".repeat(len)),
    ]
}

fn words() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just("name"), 5 => Just("tag"), 2 => Just("untag")]
}

const SESSIONS: usize = 3;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn lists_filters_and_events_agree_with_what_was_set(
        steps in prop::collection::vec((0..SESSIONS, words(), values()), 1..60),
        last in values(),
    ) {
        actix::System::new().block_on(run(steps, last));
    }
}

async fn run(steps: Vec<(usize, &'static str, String)>, last: String) {
    let builder = LineServer::new(|_: &Connection| Named).on_current_arbiter();
    let server = Server::start(builder).await;
    let mut heard = server.events().await;
    let mut peers = Vec::new();
    for _ in 0..SESSIONS {
        let mut peer = server.connect().await;
        // In the order of their numbers.
        peer.send(b"name \n").await;
        peer.expect(b"None []\n").await;
        peers.push(peer);
    }
    let ids: Vec<SessionId> = list(&server.handle, SessionFilter::default()).await.iter().map(|info| info.id).collect();
    let mut models = vec![Model::default(); SESSIONS];
    for (at, word, value) in &steps {
        peers[*at].send(format!("{word} {value}\n").as_bytes()).await;
        let answer = models[*at].line(word, value);
        peers[*at].expect(format!("{answer}\n").as_bytes()).await;
    }
    let all = list(&server.handle, SessionFilter::default()).await;
    let told: Vec<_> = all.iter().map(|info| of(info.name.as_ref(), &info.tags)).collect();
    assert_eq!(told, models);
    for text in steps.iter().map(|(_, _, value)| value.as_str()).chain(["nobody"]) {
        let by = |has: fn(&Model, &str) -> bool| -> Vec<SessionId> {
            let of = ids.iter().zip(&models).filter(|(_, model)| has(model, text));
            of.map(|(id, _)| *id).collect()
        };
        let named = list(&server.handle, SessionFilter::default().name(text)).await;
        let named: Vec<_> = named.iter().map(|info| info.id).collect();
        assert_eq!(named, by(|model, text| model.name.as_deref() == Some(text)), "name {text:?}");
        let tagged = list(&server.handle, SessionFilter::default().tag(text)).await;
        let tagged: Vec<_> = tagged.iter().map(|info| info.id).collect();
        assert_eq!(tagged, by(|model, text| model.tags.iter().any(|tag| tag == text)), "tag {text:?}");
    }
    for (peer, model) in peers.iter_mut().zip(&mut models) {
        peer.send(format!("stop {last}\n").as_bytes()).await;
        let answer = model.line("stop", &last);
        peer.expect(format!("{answer}\n").as_bytes()).await;
        peer.expect_eof().await;
    }
    drop(peers);
    // Each session is opened, then named, then closed.
    let mut events: BTreeMap<SessionId, (Model, bool)> = BTreeMap::new();
    while !(events.len() == SESSIONS && events.values().all(|(_, is_closed)| *is_closed)) {
        let event = within("an event", heard.recv()).await.unwrap();
        for entry in event.entries() {
            match entry {
                EventRef::Opened(session) => assert_eq!(events.insert(session.id(), Default::default()), None),
                EventRef::Named(named) => {
                    let (model, is_closed) = events.get_mut(&named.id).expect("it was opened");
                    assert!(!*is_closed, "{named:?} behind its end");
                    *model = of(named.name.as_ref(), &named.tags);
                }
                EventRef::Closed(report) => events.get_mut(&report.id).expect("it was opened").1 = true,
                _ => {}
            }
        }
    }
    let told: Vec<_> = events.into_values().map(|(model, _)| model).collect();
    assert_eq!(told, models);
    server.end_all().await;
}

/// Names itself as soon as it is there, and again when it is called.
struct Early(mpsc::UnboundedSender<Addr<Early>>);

impl Actor for Early {
    type Context = LineContext<Self>;
}

impl Handler<Call> for Early {
    type Result = ();

    fn handle(&mut self, Call(name): Call, ctx: &mut Self::Context) {
        ctx.set_name(name).unwrap();
    }
}

impl LineHandler for Early {
    fn opened(&mut self, ctx: &mut Self::Context) {
        ctx.set_name("early").unwrap();
        ctx.add_tag("new").unwrap();
        let _ = self.0.send(ctx.address());
    }

    fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {}
}

#[actix::test]
async fn a_session_is_named_as_it_opens_and_by_a_message() {
    let (sender, mut sessions) = mpsc::unbounded_channel();
    let mut server = Server::start(LineServer::new(move |_: &Connection| Early(sender.clone()))).await;
    let mut heard = server.events().await;
    let peer = server.connect().await;
    let session = within("a session", sessions.recv()).await.unwrap();
    within("a message", session.send(Call("late"))).await.unwrap();
    let [info] = &list(&server.handle, SessionFilter::default().name("late").tag("new")).await[..] else {
        panic!("one session");
    };
    assert_eq!(of(info.name.as_ref(), &info.tags), Model { name: Some("late".into()), tags: vec!["new".into()] });
    assert_eq!(list(&server.handle, SessionFilter::default().name("early")).await, []);
    let kicked = within("a kick", server.handle.kick(SessionFilter::default().tag("new"), "bye\n")).await.unwrap();
    assert_eq!(kicked, 1);
    drop(peer);
    server.report().await;
    let mut names = Vec::new();
    'all: loop {
        let event = within("an event", heard.recv()).await.unwrap();
        for entry in event.entries() {
            match entry {
                EventRef::Named(named) => names.push(named.name.clone().unwrap().to_string()),
                EventRef::Closed(_) => break 'all,
                _ => {}
            }
        }
    }
    assert_eq!(names.last().map(String::as_str), Some("late"), "{names:?}");
    server.end().await;
}

#[actix::test]
async fn a_session_without_a_server_has_names_of_its_own() {
    let (ours, theirs) = tokio::io::duplex(1000);
    let session = LineContext::start(actix_lines::Transport::new(ours), actix_lines::Framing::lf(), Named);
    session.send(Call("alone")).await.unwrap();
    let mut peer = tokio::io::BufReader::new(theirs);
    tokio::io::AsyncWriteExt::write_all(&mut peer, b"tag x\n").await.unwrap();
    let mut line = String::new();
    within("an answer", tokio::io::AsyncBufReadExt::read_line(&mut peer, &mut line)).await.unwrap();
    assert_eq!(line, "Some(\"alone\") [\"x\"]\n");
}

#[test]
fn an_error_says_what_to_write() {
    let error = NameError::TooLong { what: "name", bytes: 200, most: 128 };
    assert_eq!(error.to_string(), "a name has 200 bytes: use at most 128");
}

#[cfg(feature = "console")]
mod console {
    use actix_lines::{Listener, console::Console};
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        net::UnixStream,
    };

    use super::{
        asking::Asking,
        support::{Peer, eventually},
        *,
    };

    #[actix::test]
    async fn a_console_shows_names_and_selects_by_them_and_no_name_moves_its_cursor() {
        let path = std::env::temp_dir().join(format!("actix-lines-names-{}.sock", std::process::id()));
        let server = LineServer::new(|_: &Connection| Named).workers(1).bind("127.0.0.1:0").unwrap().start().unwrap();
        let console_server = Console::at(Listener::unix(&path)).serve(&server).unwrap();
        let mut console = Asking::new(UnixStream::connect(&path).await.unwrap());
        let mut watch = BufReader::new(UnixStream::connect(&path).await.unwrap());
        watch.get_mut().write_all(b"watch named\n").await.unwrap();
        eventually("the watch", async || console_server.stats().await.unwrap().lines_in >= 1).await;
        for _ in 0..3 {
            server.stats().await.unwrap();
        }
        let mut peers = Vec::new();
        for line in ["name Alice B", "name bob\u{202e}", "tag vip"] {
            let mut peer = Peer::connect(server.local_addrs()[0]).await;
            peer.send(format!("{line}\n").as_bytes()).await;
            let mut answer = String::new();
            let mut stream = BufReader::new(&mut peer.stream);
            within("an answer", stream.read_line(&mut answer)).await.unwrap();
            peers.push(peer);
        }
        peers[0].send(b"tag vip\n").await;
        peers[0].expect(b"Some(\"Alice B\") [\"vip\"]\n").await;

        let rows = console.ask("list").await;
        assert!(rows[1].ends_with(" name=\"Alice B\" #vip"), "{rows:?}");
        assert!(rows[2].ends_with(r" name=bob\u{202e}"), "{rows:?}");
        assert!(rows[3].ends_with(" #vip"), "{rows:?}");
        for (words, count) in [
            ("name=\"Alice B\"", 1),
            ("tag=vip", 2),
            ("tag=vip name=\"Alice B\"", 1),
            ("name=Alice", 0),
            ("tag=\"vip\"", 2),
        ] {
            assert_eq!(console.ask(&format!("count {words}")).await, [count.to_string()], "{words}");
        }
        let row = &console.json("list name=\"Alice B\"").await[0];
        assert_eq!((&row["name"], &row["tags"]), (&"Alice B".into(), &serde_json::json!(["vip"])));
        let id = &row["id"];
        let shown = console.ask(&format!("show {id}")).await;
        assert_eq!(shown[shown.len() - 2..], ["name         Alice B", "tags         vip"]);
        assert_eq!(
            console.ask("watch name=x").await,
            [r#"error: "name=x" is of no use here: watch selects by kind, ID, peer= and listener="#]
        );
        let mut line = String::new();
        within("an event", watch.read_line(&mut line)).await.unwrap();
        let (_, line) = line.trim_end().split_once(' ').unwrap();
        assert!(line.starts_with("named ") && line.ends_with(" 0 name=\"Alice B\""), "{line}");
        let kicked = console.ask("kick name=\"Alice B\" -- bye").await;
        assert_eq!(kicked, ["1 session"]);
        within("the end", server.abort()).await.unwrap();
        within("the end", server.wait()).await.unwrap();
        within("the end of the console", console_server.wait()).await.unwrap();
    }
}
