//! What an operator sees by HTTP is what the typed handle says, and only who has the token changes anything.

#[path = "support/logged.rs"]
mod logged;
mod support;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use actix_lines::{
    BindError, Framing, LineServer, Listener, Rot13, Token,
    control::{Drain, SessionFilter, SessionQuery},
    http::{Admin, HttpListener, Serving},
    metrics::Metrics,
};
use actix_web::{App, HttpServer, web};
use logged::logged;
use serde_json::{Value, json};
use support::{PATIENCE, Server, eventually, free, within};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

const TOKEN: &str = "correct-horse-battery-staple";

fn token() -> Token {
    Token::new(TOKEN).expect("a token")
}

/// An answer, its head taken apart.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn of(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(": "));
        Self {
            status: status.unwrap_or_else(|| panic!("no status in {head:?}")),
            headers: headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect(),
            body: body.to_owned(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Answer {
    let exchange = async {
        stream.write_all(request.as_bytes()).await.expect("a request is taken");
        let mut answer = Vec::new();
        // A request whose body is not read ends with a reset, perhaps.
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    let answer = within(&format!("the answer to {request:?}"), exchange).await;
    Answer::of(&String::from_utf8(answer).expect("answers are UTF-8"))
}

/// A server of sessions, and the routes that show it.
struct Shown {
    server: Server,
    http: Serving,
}

impl Shown {
    async fn start(set: impl FnOnce(Admin) -> Admin) -> Self {
        let listener = Listener::tcp("127.0.0.1:0").name("public");
        let server = Server::of(LineServer::new(|_| Rot13).workers(2).listen(listener).expect("a listener")).await;
        let admin = set(Admin::new(&server.handle).program("shown", "1.2.3"));
        let listener = HttpListener::bind("127.0.0.1:0").expect("a port");
        let http = admin.serve(listener).await.expect("threads");
        Self { server, http }
    }

    async fn controlled() -> Self {
        Self::start(|admin| admin.control(token())).await
    }

    fn address(&self) -> SocketAddr {
        self.http.local_addr().socket_addr().expect("TCP")
    }

    async fn send(&self, request: &str) -> Answer {
        exchange(TcpStream::connect(self.address()).await.expect("a connection"), request).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await
    }

    async fn post(&self, path: &str, headers: &str, body: &str) -> Answer {
        self.send(&post(path, headers, body)).await
    }

    /// As the page does, with the token.
    async fn order(&self, path: &str, body: &Value) -> Answer {
        self.post(path, &authorized(TOKEN), &body.to_string()).await
    }

    async fn events(&self) -> Events {
        Events::of(self.address()).await
    }

    async fn end(self) {
        self.server.end_all().await;
        within("the end of the HTTP server", self.http.stop()).await;
    }
}

fn post(path: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost:9713\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn authorized(token: &str) -> String {
    format!("Content-Type: application/json\r\nAuthorization: Bearer {token}\r\n")
}

/// A viewer of `/events`.
struct Events {
    stream: TcpStream,
    text: String,
}

impl Events {
    async fn of(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(b"GET /events HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n").await.expect("a request");
        let mut events = Self { stream, text: String::new() };
        let head = events.until("\r\n\r\n").await.expect("a head");
        assert!(head.starts_with("HTTP/1.0 200") && head.contains("content-type: text/event-stream"), "{head}");
        // HTTP/1.0 knows none.
        assert!(!head.contains("chunked"), "{head}");
        events
    }

    /// Reads to the next `end`; `None` at EOF.
    async fn until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some((text, rest)) = self.text.split_once(end) {
                let (text, rest) = (text.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(text);
            }
            let mut bytes = vec![0; 64 * 1024];
            let count = within("an event", self.stream.read(&mut bytes)).await.ok().filter(|count| *count > 0)?;
            self.text += std::str::from_utf8(&bytes[..count]).expect("events are ASCII");
        }
    }

    /// Returns the next event: its name and its data.
    async fn next(&mut self) -> Option<(String, Value)> {
        let text = self.until("\n\n").await?;
        assert!(text.lines().all(|line| line.contains(": ")), "{text}");
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        let data = field("data: ").map(|data| serde_json::from_str(&data).expect("JSON"));
        Some((field("event: ").unwrap_or_default(), data.unwrap_or_default()))
    }

    /// Returns the next event that is so.
    async fn wait_for(&mut self, what: &str, mut is_it: impl FnMut(&Value) -> bool) -> Value {
        within(what, async {
            loop {
                let (name, data) = self.next().await.unwrap_or_else(|| panic!("the events ended before {what}"));
                assert_eq!(name, "server");
                if is_it(&data) {
                    return data;
                }
            }
        })
        .await
    }
}

fn keep_log() {
    logged::keep_log("actix_lines::http", log::LevelFilter::Info);
}

#[track_caller]
fn assert_logged(part: &str) {
    let lines = logged();
    assert!(lines.iter().any(|line| line.contains(part)), "no {part:?} in {lines:?}");
}

#[actix::test]
async fn a_probe_is_told_whether_the_server_lives_and_whether_it_accepts() {
    let shown = Shown::start(|admin| admin).await;
    let server = shown.server.handle.clone();
    for probe in ["/healthz", "/readyz"] {
        let answer = shown.get(probe).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"), "{probe}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    let listener = server.listeners()[0].id;
    assert!(server.pause(listener).await.unwrap());
    let answer = shown.get("/readyz").await;
    assert_eq!((answer.status, answer.body.as_str()), (503, "the listener is paused\n"));
    // One that accepts is enough.
    server.listen(free()).await.unwrap();
    assert_eq!(shown.get("/readyz").await.status, 200);

    let mut peer = shown.server.connect().await;
    peer.send(b"abc\n").await;
    let drain = actix::spawn({
        let server = server.clone();
        async move { server.drain(PATIENCE).await }
    });
    eventually("the drain", async || server.draining().is_some()).await;
    let answer = shown.get("/readyz").await;
    assert_eq!((answer.status, answer.body.as_str()), (503, "the server drains\n"));
    assert_eq!(shown.get("/healthz").await.status, 200);
    drop(peer);
    within("the drain", drain).await.unwrap().unwrap();
    within("the end", shown.http.stop()).await;
}

#[actix::test]
async fn the_server_is_shown_as_its_handle_knows_it() {
    let shown = Shown::start(|admin| admin).await;
    let mut peers = Vec::new();
    for _ in 0..3 {
        let mut peer = shown.server.connect().await;
        peer.send(b"abc\n").await;
        peer.expect(b"nop\n").await;
        peers.push(peer);
    }
    let server = &shown.server.handle;
    let mut seen = Value::Null;
    // How late its threads were moves by itself.
    eventually("the same counters", async || {
        seen = shown.get("/api/server").await.json();
        seen["stats"] == json!(server.stats().await.unwrap())
    })
    .await;
    assert_eq!(seen["listeners"], json!(server.listeners()));
    assert_eq!(seen["stats"]["listeners"]["public"]["live"], 3);
    assert_eq!((&seen["server"]["name"], &seen["server"]["version"]), (&json!("shown"), &json!("1.2.3")));
    assert_eq!((&seen["draining"], &seen["control"]), (&Value::Null, &json!(false)));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let started = seen["server"]["started"].as_u64().unwrap();
    assert!(started <= now && now - started <= PATIENCE.as_secs() && seen["server"]["uptime"].is_f64(), "{seen}");
    shown.end().await;
}

#[actix::test]
async fn metrics_are_in_the_format_that_the_scraper_asks_for() {
    let shown = Shown::start(|admin| admin).await;
    let mut peer = shown.server.connect().await;
    peer.send(b"abc\n").await;
    peer.expect(b"nop\n").await;
    for (accept, begin, end) in [
        ("", "text/plain; version=0.0.4", ""),
        ("Accept: */*\r\n", "text/plain; version=0.0.4", ""),
        (
            "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n",
            "application/openmetrics-text; version=1.0.0",
            "# EOF\n",
        ),
        (
            "Accept: text/plain;q=0.5\r\nAccept: application/openmetrics-text\r\n",
            "application/openmetrics-text; version=1.0.0",
            "# EOF\n",
        ),
    ] {
        let answer = shown.send(&format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\n{accept}\r\n")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(
            answer.header("content-type").is_some_and(|content_type| content_type.starts_with(begin)),
            "{answer:?}"
        );
        assert!(answer.body.contains("actix_lines_sessions{listener=\"public\"} 1\n"), "{}", answer.body);
        assert!(answer.body.ends_with(end) && answer.body.contains("# EOF") != end.is_empty(), "{}", answer.body);
    }
    shown.end().await;

    let server = Server::start(LineServer::new(|_| Rot13)).await;
    let metrics = Metrics::new(&server.handle).label("environment", "test").expect("a name").without_process();
    let admin = Admin::new(&server.handle).metrics(metrics);
    let http = admin.serve(HttpListener::bind("127.0.0.1:0").unwrap()).await.unwrap();
    let stream = TcpStream::connect(http.local_addr().socket_addr().unwrap()).await.unwrap();
    let answer = exchange(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(answer.body.contains("actix_lines_sessions{environment=\"test\",listener=\"0\"} 0\n"), "{}", answer.body);
    server.end().await;
    within("the end", http.stop()).await;
}

#[actix::test]
async fn sessions_are_listed_by_the_words_of_the_console() {
    let shown = Shown::start(|admin| admin).await;
    let mut peers = Vec::new();
    for lines in 1..=5 {
        let mut peer = shown.server.connect().await;
        peer.send("abc\n".repeat(lines).as_bytes()).await;
        peer.expect("nop\n".repeat(lines).as_bytes()).await;
        peers.push(peer);
    }
    let all = shown.server.sessions().await;
    let ids = |page: &Value| -> Vec<u64> {
        page["sessions"].as_array().unwrap().iter().map(|session| session["id"].as_u64().unwrap()).collect()
    };
    let all_ids: Vec<_> = all.iter().map(|session| session.id.get()).collect();
    let page = shown.get("/api/sessions").await.json();
    assert_eq!((ids(&page), &page["total"]), (all_ids.clone(), &json!(5)));
    assert_eq!(page["sessions"][0]["peer"], all[0].peer.to_string());

    let page = shown.get("/api/sessions?sort=lines&limit=2&offset=1").await.json();
    assert_eq!((ids(&page), &page["total"]), (vec![all_ids[3], all_ids[2]], &json!(5)));
    let page = shown.get(&format!("/api/sessions?q=%23{}+listener%3Dpublic", all_ids[2])).await.json();
    assert_eq!((ids(&page), &page["total"]), (vec![all_ids[2]], &json!(1)));
    let page = shown.get("/api/sessions?q=listener=public%20age%3E1d&sort=").await.json();
    assert_eq!(page, json!({"sessions": [], "total": 0}));

    for (parameters, word, part) in [
        ("q=ide%3E5m", "ide>5m", "did you mean idle>5m?"),
        ("q=listener%3Dpubic", "listener=pubic", "did you mean public?"),
        ("sort=line", "line", "did you mean lines?"),
        ("limit=1001", "1001", "use 1000 and an offset"),
        ("limit=-1", "-1", "is no number"),
        ("offset=x", "x", "is no number"),
        ("page=2", "page", "is no parameter: use q, sort, offset or limit"),
        ("q=%1b%5b2J", "\\u{1b}[2J", "is no filter"),
    ] {
        let answer = shown.get(&format!("/api/sessions?{parameters}")).await;
        let error = answer.json();
        assert_eq!((answer.status, error["word"].as_str()), (400, Some(word)), "{parameters}");
        assert!(error["error"].as_str().is_some_and(|error| error.contains(part)), "{parameters}: {error}");
    }
    shown.end().await;
}

#[actix::test]
async fn the_last_ends_are_kept_for_whoever_comes_later() {
    let mut shown = Shown::start(|admin| admin).await;
    let mut reports = Vec::new();
    for lines in 0..103 {
        let mut peer = shown.server.connect().await;
        peer.send("abc\n".repeat(lines % 3).as_bytes()).await;
        peer.shutdown_write().await;
        peer.rest().await;
        reports.push(shown.server.report().await);
    }
    reports.reverse();
    let without_time = |end: &Value| {
        let mut end = end.clone();
        assert!(end.as_object_mut().unwrap().remove("ended").is_some_and(|ended| ended.is_u64()));
        end
    };
    eventually("the last end", async || {
        let ends = shown.get("/api/ends").await.json();
        ends["ends"].as_array().unwrap().first().is_some_and(|end| end["id"] == reports[0].id.get())
    })
    .await;
    let ends = shown.get("/api/ends").await.json();
    let ends: Vec<_> = ends["ends"].as_array().unwrap().iter().map(without_time).collect();
    assert_eq!(ends, reports[..100].iter().map(|report| json!(report)).collect::<Vec<_>>());
    shown.end().await;
}

#[actix::test]
async fn events_say_at_once_and_each_second_what_the_server_is_and_which_sessions_ended() {
    let shown = Shown::start(|admin| admin).await;
    let mut peer = shown.server.connect().await;
    peer.send(b"abc\n").await;
    peer.expect(b"nop\n").await;
    let id = shown.server.sessions().await[0].id.get();

    let mut events = shown.events().await;
    let (name, first) = events.next().await.expect("an event");
    assert_eq!(name, "server");
    let stats = json!(shown.server.handle.stats().await.unwrap());
    assert_eq!((&first["stats"]["listeners"], &first["server"]["name"]), (&stats["listeners"], &json!("shown")));
    assert_eq!((&first["ends"], &first["ends_left_out"]), (&json!([]), &json!(0)));

    assert_eq!(shown.server.handle.kick(SessionFilter::default(), "").await.unwrap(), 1);
    drop(peer);
    let event = events.wait_for("the kick", |event| event["ends"] != json!([])).await;
    let end = &event["ends"][0];
    assert_eq!((&end["id"], &end["reason"]), (&json!(id), &json!("kicked")));
    eventually("the counters", async || shown.server.handle.stats().await.unwrap().live == 0).await;
    let event = events.wait_for("nobody", |event| event["stats"]["live"] == 0).await;
    assert_eq!(event["stats"]["closed"], json!({"kicked": 1}));

    // All viewers see the same.
    let mut others = [shown.events().await, shown.events().await];
    for other in &mut others {
        let event = other.wait_for("an event", |_| true).await;
        assert_eq!(event["stats"]["opened"], 1);
    }
    drop(events);
    others[0].wait_for("an event after another viewer has gone", |_| true).await;
    shown.end().await;
}

#[actix::test]
async fn viewers_hear_of_a_drain_and_of_the_end() {
    let shown = Shown::start(|admin| admin).await;
    let mut peer = shown.server.connect().await;
    peer.send(b"abc\n").await;
    peer.expect(b"nop\n").await;
    let mut events = shown.events().await;
    let server = shown.server.handle.clone();
    let drain = actix::spawn(async move { server.drain(PATIENCE).await });
    // It holds the drain until it closes its end.
    let event = events.wait_for("the drain", |event| event["draining"] != Value::Null).await;
    assert_eq!(event["draining"]["left"], 1);
    drop(peer);
    within("the drain", drain).await.unwrap().unwrap();
    let last = within("the end", async {
        loop {
            let (name, _) = events.next().await.expect("an end");
            if name != "server" {
                return name;
            }
        }
    });
    assert_eq!(last.await, "end");
    assert_eq!(events.next().await, None);
    within("the end", shown.http.stop()).await;
}

#[actix::test]
async fn no_more_than_so_many_watch_at_once() {
    let shown = Shown::start(|admin| admin.max_viewers(2)).await;
    let mut viewers = vec![shown.events().await, shown.events().await];
    for viewer in &mut viewers {
        viewer.next().await.expect("an event");
    }
    let answer = shown.get("/events").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(answer.json()["error"], "2 viewers watch already: close one of them");
    // Those who go make room.
    viewers.pop();
    eventually("room", async || {
        let mut stream = TcpStream::connect(shown.address()).await.unwrap();
        stream.write_all(b"GET /events HTTP/1.0\r\n\r\n").await.unwrap();
        let mut status = [0; 12];
        within("a status", stream.read_exact(&mut status)).await.unwrap();
        &status[9..] == b"200"
    })
    .await;
    shown.end().await;
}

#[actix::test]
async fn answers_are_not_sniffed_framed_or_kept() {
    let shown = Shown::start(|admin| admin).await;
    for (path, content_type, cache) in [
        ("/", "text/html; charset=utf-8", "no-cache"),
        ("/page.css", "text/css; charset=utf-8", "no-cache"),
        ("/page.js", "text/javascript; charset=utf-8", "no-cache"),
        ("/icon.svg", "image/svg+xml", "no-cache"),
        ("/api/server", "application/json", "no-store"),
        ("/healthz", "text/plain; charset=utf-8", "no-store"),
        ("/nothing", "text/plain; charset=utf-8", "no-store"),
    ] {
        let answer = shown.get(path).await;
        assert_eq!(answer.status, if path == "/nothing" { 404 } else { 200 }, "{path}");
        assert_eq!(answer.header("content-type"), Some(content_type), "{path}");
        assert_eq!(answer.header("cache-control"), Some(cache), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'self';") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!((answer.header("server"), answer.header("access-control-allow-origin")), (None, None), "{path}");
        assert_eq!(answer.header("connection"), Some("close"), "{path}");

        let head = shown.send(&format!("HEAD {path} HTTP/1.1\r\nHost: [::1]:80\r\n\r\n")).await;
        assert_eq!((head.status, head.body.as_str()), (answer.status, ""), "{path}");
        if path != "/api/server" {
            assert_eq!(head.header("content-length"), answer.header("content-length"), "{path}");
        }
    }
    let head = shown.send("HEAD /events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!((head.status, head.header("content-type"), head.body.as_str()), (200, Some("text/event-stream"), ""));

    let page = shown.get("/").await;
    let tag = page.header("etag").unwrap().to_owned();
    for (known, status) in
        [(tag.clone(), 304), (format!("\"x\", W/{tag}"), 304), ("*".to_owned(), 304), ("\"x\"".to_owned(), 200)]
    {
        let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: {known}\r\n\r\n");
        let answer = shown.send(&request).await;
        assert_eq!((answer.status, answer.header("etag")), (status, Some(tag.as_str())), "{known}");
        assert_eq!(answer.body.is_empty(), status == 304);
    }
    shown.end().await;
}

#[actix::test]
async fn a_method_that_a_route_does_not_have_is_answered_with_those_that_it_has() {
    let shown = Shown::controlled().await;
    for (path, allowed) in
        [("/", "GET, HEAD"), ("/healthz", "GET, HEAD"), ("/events", "GET, HEAD"), ("/api/kick", "POST")]
    {
        for method in ["PUT", "DELETE", "OPTIONS", if allowed == "POST" { "GET" } else { "POST" }] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
            let answer = shown.send(&request).await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some(allowed)), "{method} {path}");
        }
    }
    shown.end().await;
}

#[actix::test]
async fn a_name_that_was_bent_to_this_machine_is_refused() {
    let status = async |shown: &Shown, host: &str| {
        shown.send(&format!("GET /api/server HTTP/1.1\r\nHost: {host}\r\n\r\n")).await.status
    };
    let shown = Shown::start(|admin| admin).await;
    for host in ["localhost", "LocalHost:1", "127.0.0.1:9713", "192.0.2.7", "[::1]", "[2001:db8::1]:80"] {
        assert_eq!(status(&shown, host).await, 200, "{host}");
    }
    for host in ["evil.example", "evil.example:9713", "localhost.evil.example", "127.0.0.1.evil.example", "[evil]"] {
        assert_eq!(status(&shown, host).await, 421, "{host}");
    }
    shown.end().await;
    let shown = Shown::start(|admin| admin.host("lines.example").host("other.example")).await;
    assert_eq!(status(&shown, "LINES.example:443").await, 200);
    assert_eq!(status(&shown, "other.example").await, 200);
    assert_eq!(status(&shown, "localhost").await, 200);
    assert_eq!(status(&shown, "evil.example").await, 421);
    shown.end().await;
}

#[actix::test]
async fn nobody_changes_anything_unless_it_was_allowed() {
    let shown = Shown::start(|admin| admin).await;
    for path in ["/api/kick", "/api/pause", "/api/drain"] {
        let answer = shown.order(path, &json!({"q": "all"})).await;
        assert_eq!((answer.status, &answer.json()["error"]), (403, &json!("control is off: the page only shows")));
    }
    let server = &shown.server.handle;
    for token in ["", "short", "with a blank in it", "fifteen-letters", "umlaut-\u{e4}\u{f6}\u{fc}-umlaut"] {
        let error = Token::new(token).unwrap_err().to_string();
        assert!(error.contains("use 16 to 1024 printable ASCII characters"), "{error}");
    }
    let admin = Admin::new(server).control(token());
    assert!(!format!("{admin:?}").contains(TOKEN), "{admin:?}");
    shown.end().await;
}

#[actix::test]
async fn only_the_token_in_a_request_of_the_page_itself_changes_anything() {
    keep_log();
    let shown = Shown::controlled().await;
    assert_eq!(shown.get("/api/server").await.json()["control"], true);
    let mut peer = shown.server.connect().await;
    peer.send(b"abc\n").await;
    peer.expect(b"nop\n").await;
    let (right, json) = (authorized(TOKEN), "Content-Type: application/json\r\n");
    let wrong = TOKEN.replace('c', "d");
    for (headers, status) in [
        (json.to_owned(), 401),
        (authorized(&wrong), 401),
        (authorized(&TOKEN[1..]), 401),
        (format!("{json}Authorization: Basic {TOKEN}\r\n"), 401),
        (format!("Authorization: Bearer {TOKEN}\r\n"), 415),
        (format!("Content-Type: text/plain\r\nAuthorization: Bearer {TOKEN}\r\n"), 415),
        (format!("{right}Origin: http://evil.example\r\n"), 403),
        (format!("{right}Origin: null\r\n"), 403),
        (format!("{right}Origin: http://localhost:1\r\n"), 403),
        (format!("{right}Sec-Fetch-Site: cross-site\r\n"), 403),
        (format!("{right}Sec-Fetch-Site: same-site\r\n"), 403),
        (format!("{right}Sec-Fetch-Site: none\r\n"), 403),
    ] {
        let answer = shown.post("/api/kick", &headers, r#"{"q": "all"}"#).await;
        assert_eq!(answer.status, status, "{headers}");
        assert_eq!(answer.header("www-authenticate"), (status == 401).then_some("Bearer"));
    }
    assert_logged(": wrong token");
    assert_eq!(shown.server.handle.stats().await.unwrap().live, 1);
    let headers = format!("{right}Origin: http://localhost:9713\r\nSec-Fetch-Site: same-origin\r\n");
    let answer = shown.post("/api/kick", &headers, r#"{"q": "all", "goodbye": "see you"}"#).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"kicked": 1})));
    peer.expect(b"see you\r\n").await;
    peer.expect_eof().await;
    shown.end().await;
}

#[actix::test]
async fn sessions_are_kicked_and_listeners_paused_as_the_handle_does_it() {
    keep_log();
    let shown = Shown::controlled().await;
    let mut peers = Vec::new();
    for _ in 0..3 {
        let mut peer = shown.server.connect().await;
        peer.send(b"abc\n").await;
        peer.expect(b"nop\n").await;
        peers.push(peer);
    }
    let id = shown.server.sessions().await[1].id.get();
    let answer = shown.order("/api/kick", &json!({"q": format!("#{id}")})).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"kicked": 1})));
    assert_logged("http: 127.0.0.1:");
    assert_logged(&format!(": kick #{id}: 1 session: #{id}"));

    for (path, body, part) in [
        ("/api/kick", r#"{"q": ""}"#, "use all, or a filter"),
        ("/api/kick", r#"{"q": " "}"#, "use all, or a filter"),
        ("/api/kick", r#"{"q": "al"}"#, "did you mean all?"),
        ("/api/kick", r#"{"q": "all", "goodbye": "a\nb"}"#, "leave its control characters out"),
        ("/api/kick", r#"{"q": "all dry-run"}"#, "for a dry run write \"dry_run\": true"),
        ("/api/kick", r#"{"q": "all", "goodbye": "bye --dry-run"}"#, "for a dry run write \"dry_run\": true"),
        ("/api/drain", r#"{"goodbye": "bye dryrun"}"#, "for a dry run write \"dry_run\": true"),
        ("/api/kick", r#"{"q": "all", "now": true}"#, "unknown field"),
        ("/api/kick", "{}", "missing field"),
        ("/api/kick", "", "EOF"),
        ("/api/kick", "q=all", "expected value"),
        ("/api/pause", r#"{"listener": "pubic", "paused": true}"#, "did you mean public?"),
        ("/api/drain", r#"{"timeout": -1}"#, "use seconds"),
        ("/api/drain", r#"{"timeout": 1e300}"#, "use seconds"),
        ("/api/drain", r#"{"timeout": "10"}"#, "invalid type"),
    ] {
        let answer = shown.post(path, &authorized(TOKEN), body).await;
        let error = answer.json();
        assert_eq!(answer.status, 400, "{body}: {error}");
        assert!(error["error"].as_str().is_some_and(|error| error.contains(part)), "{body}: {error}");
    }
    let long = shown.post("/api/kick", &authorized(TOKEN), &format!("{{\"q\": \"{}\"}}", "x".repeat(5000))).await;
    assert_eq!(long.status, 413);
    eventually("two", async || shown.server.handle.stats().await.unwrap().live == 2).await;
    let dry = shown.order("/api/kick", &json!({"q": "all", "dry_run": true})).await;
    let ids: Vec<_> = shown.server.sessions().await.iter().map(|session| session.id.get()).collect();
    assert_eq!((dry.status, dry.json()), (200, json!({"dry_run": true, "sessions": 2, "first": ids})));
    let dry = shown.order("/api/drain", &json!({"timeout": 5, "dry_run": true})).await;
    assert_eq!((dry.status, dry.json()), (200, json!({"dry_run": true, "sessions": 2})));

    for (listener, paused) in [("public", true), ("0", false)] {
        let body = json!({"listener": listener, "paused": paused});
        let answer = shown.order("/api/pause", &body).await;
        assert_eq!((answer.status, answer.json()), (200, body));
        assert_eq!(shown.server.handle.listeners()[0].is_paused, paused);
    }
    assert_logged(": pause public");
    assert_logged(": resume public");
    shown.end().await;
}

#[actix::test]
async fn a_drain_ends_the_server_as_its_owner_said() {
    keep_log();
    let shown = Shown::controlled().await;
    let mut peer = shown.server.connect().await;
    peer.send(b"abc\n").await;
    peer.expect(b"nop\n").await;
    let answer = shown.order("/api/drain", &json!({"timeout": PATIENCE.as_secs(), "goodbye": "closing"})).await;
    assert_eq!(answer.status, 202);
    peer.expect(b"closing\r\n").await;
    peer.expect_eof().await;
    drop(peer);
    within("the end", shown.server.handle.wait()).await.unwrap();
    assert_logged(": drain within 60s");
    eventually("the report", async || {
        logged().iter().any(|line| line.contains("drained: 1 session ended, 0 cut, in "))
    })
    .await;
    within("the end", shown.http.stop()).await;

    let shown = Shown::start(|admin| {
        admin.control(token()).before_drain(|deadline, goodbye| {
            assert_eq!((deadline, goodbye), (Some(Duration::from_millis(500)), None));
            Drain::within(PATIENCE).goodbye("as its owner says\n")
        })
    })
    .await;
    let mut peer = shown.server.connect().await;
    assert_eq!(shown.order("/api/drain", &json!({"timeout": 0.5})).await.status, 202);
    peer.expect(b"as its owner says\n").await;
    drop(peer);
    within("the end", shown.server.handle.wait()).await.unwrap();
    within("the end", shown.http.stop()).await;
}

/// A path that no other test has.
fn socket_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("actix-lines-http-{}-{name}.sock", std::process::id()))
}

#[actix::test]
async fn a_unix_socket_serves_the_same_and_knows_who_asks() {
    keep_log();
    let server = Server::start(LineServer::new(|_| Rot13)).await;
    let path = socket_path("unix");
    let admin = Admin::new(&server.handle).control(token());
    let http = admin.serve(HttpListener::bind(Listener::unix(&path)).unwrap()).await.unwrap();
    let connect = async || UnixStream::connect(&path).await.unwrap();
    // No browser bends a name to it.
    let answer = exchange(connect().await, "GET /healthz HTTP/1.1\r\nHost: whatever\r\n\r\n").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"));
    let order = post("/api/kick", &authorized(TOKEN), r#"{"q": "all"}"#);
    assert_eq!(exchange(connect().await, &order).await.json(), json!({"kicked": 0}));
    let uid = rustix::process::getuid().as_raw();
    assert!(
        logged().iter().any(|line| line.contains(&format!("uid {uid}")) && line.ends_with(": kick all: 0 sessions")),
        "{:?}",
        logged()
    );
    server.end().await;
    within("the end", http.stop()).await;
    assert!(!path.exists());
}

#[actix::test]
async fn an_application_mounts_the_routes_beside_its_own() {
    let server = Server::start(LineServer::new(|_| Rot13)).await;
    let admin = Admin::new(&server.handle);
    let http = HttpServer::new(move || {
        App::new()
            .service(web::scope("/lines").configure(admin.routes()))
            .route("/healthz", web::get().to(async || "mine"))
            .default_service(web::to(async || "other"))
    })
    .workers(2)
    .disable_signals()
    .bind("127.0.0.1:0")
    .unwrap();
    let address = http.addrs()[0];
    let http = http.run();
    let handle = http.handle();
    actix::spawn(http);
    let get = async |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        exchange(TcpStream::connect(address).await.unwrap(), &request).await
    };
    assert_eq!(get("/healthz").await.body, "mine");
    assert_eq!(get("/nothing").await.body, "other");
    assert_eq!(get("/lines/healthz").await.body, "ok\n");
    let moved = get("/lines").await;
    assert_eq!((moved.status, moved.header("location")), (308, Some("lines/")));
    let page = get("/lines/").await;
    assert!(page.status == 200 && page.body.contains("<html"), "{page:?}");
    // The page finds the rest from wherever it is.
    for absolute in ["href=\"/", "src=\"/", "fetch(\"/", "http://", "https://"] {
        assert!(!page.body.contains(absolute) && !get("/lines/page.js").await.body.contains(absolute), "{absolute}");
    }
    handle.stop(false).await;
    server.end().await;
}

#[actix::test]
async fn a_listener_that_is_made_for_lines_serves_no_http() {
    let bind = |listener: Listener| HttpListener::bind(listener).unwrap_err();
    for (listener, setting) in [
        (free().framing(Framing::nul()), "framing"),
        (free().max_sessions(3), "a limit or list of its own"),
        (free().deny(["192.0.2.7".parse().unwrap()]), "a limit or list of its own"),
    ] {
        let error = bind(listener);
        assert!(matches!(error, BindError::Unsuited { setting: found, .. } if found == setting), "{error}");
    }
    let taken = HttpListener::bind("127.0.0.1:0").unwrap();
    let error = bind(Listener::at(taken.local_addr().socket_addr().unwrap()));
    assert!(matches!(error, BindError::Listen { .. }), "{error}");
}

#[actix::test]
async fn a_client_that_is_slow_or_sends_anything_else_costs_nobody_his_answer() {
    let shown = Shown::start(|admin| admin).await;
    let mut slow = TcpStream::connect(shown.address()).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: loc").await.unwrap();
    for garbage in
        [&b"\0\xff\x16\x03\x01"[..], b"hello\r\n\r\n", b"GET\r\n\r\n", &[b'x'; 200_000], b"GET / HTTP/9.9\r\n\r\n"]
    {
        let mut stream = TcpStream::connect(shown.address()).await.unwrap();
        // It may be closed meanwhile.
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = within("the end of garbage", stream.read_to_end(&mut rest)).await;
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&rest));
    }
    assert_eq!(shown.get("/healthz").await.status, 200);
    let mut rest = Vec::new();
    within("the end of a slow head", slow.read_to_end(&mut rest)).await.unwrap();
    assert!(String::from_utf8_lossy(&rest).starts_with("HTTP/1.1 408"), "{:?}", String::from_utf8_lossy(&rest));
    shown.end().await;
}

#[actix::test]
async fn sessions_of_the_whole_server_are_counted_without_those_who_look() {
    let shown = Shown::start(|admin| admin).await;
    let mut events = shown.events().await;
    events.next().await.expect("an event");
    shown.get("/").await;
    let stats = shown.server.handle.stats().await.unwrap();
    assert_eq!((stats.opened, stats.live), (0, 0));
    assert_eq!(shown.server.handle.sessions(SessionQuery::default()).await.unwrap().total, 0);
    shown.end().await;
}
