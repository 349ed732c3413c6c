//! `--http`: the page, the API and the probes of a running rot13d, and what it takes to start with them.

#[path = "support/http.rs"]
mod client;
mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output},
};

use client::{get, send};
use rustix::process::Signal;
use serde_json::Value;
use support::{Server, connect, eventually, expect, finish, greet, reserve, rest, rot13d};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A file of this test alone, removed with it.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rot13d-http-{}-{name}", std::process::id()));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Starts it with `--http` on a free port. Returns where that is.
fn start(arguments: &[&str]) -> (Server, SocketAddr) {
    let server = Server::start(&[&["--http", "127.0.0.1:0"], arguments].concat());
    let http = address(&server);
    (server, http)
}

fn address(server: &Server) -> SocketAddr {
    let line = server.log_line("http: served at http://");
    let address = line.rsplit_once("http://").map(|(_, address)| address.trim_end_matches('/'));
    address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address in {line:?}"))
}

fn get_json(http: SocketAddr, path: &str) -> Value {
    let (status, body) = get(http, path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

fn order(http: SocketAddr, path: &str, body: &str) -> (u16, String) {
    let headers = format!("Content-Type: application/json\r\nAuthorization: Bearer {TOKEN}\r\n");
    let length = body.len();
    send(http, &format!("POST {path} HTTP/1.1\r\nHost: {http}\r\n{headers}Content-Length: {length}\r\n\r\n{body}"))
}

/// A viewer of the events.
fn view(http: SocketAddr) -> BufReader<TcpStream> {
    let mut stream = connect(http);
    stream.write_all(b"GET /events HTTP/1.0\r\n\r\n").unwrap();
    BufReader::new(stream)
}

/// The data of the next event.
fn next_event(viewer: &mut BufReader<TcpStream>) -> Option<Value> {
    let data = viewer.lines().map_while(Result::ok).find_map(|line| line.strip_prefix("data: ").map(str::to_owned));
    data.map(|data| serde_json::from_str(&data).unwrap())
}

fn check(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = rot13d();
    command.arg("--check-config").args(arguments);
    let Output { status, stderr, .. } = finish(command, b"");
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// The number of threads of a process.
fn threads(server: &Server) -> usize {
    fs::read_dir(format!("/proc/{}/task", server.id())).unwrap().count()
}

#[test]
fn the_server_is_shown_as_it_is() {
    let (server, http) = start(&["--workers", "2"]);
    assert_eq!(get(http, "/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(get(http, "/readyz"), (200, "ok\n".to_owned()));
    let mut peers: Vec<_> = (0..3).map(|_| server.connect()).collect();
    peers.iter_mut().for_each(greet);
    let seen = get_json(http, "/api/server");
    assert_eq!((&seen["server"]["name"], &seen["control"]), (&"rot13d".into(), &false.into()));
    assert_eq!(seen["server"]["version"], env!("CARGO_PKG_VERSION"));
    let mut viewer = view(http);
    for seen in [seen, next_event(&mut viewer).expect("an event")] {
        assert_eq!((&seen["stats"]["live"], &seen["stats"]["bytes_in"]), (&3.into(), &18.into()), "{seen}");
        assert_eq!(seen["listeners"][0]["local_addr"], server.address.to_string());
    }
    assert_eq!(get_json(http, "/api/sessions?sort=bytes-in&limit=2")["sessions"].as_array().map(Vec::len), Some(2));
    let (status, page) = get(http, "/");
    assert!(status == 200 && page.starts_with("<!doctype html>"), "{page}");
    let (status, text) = get(http, "/nothing");
    assert!(status == 404 && ["/metrics", "/api/server"].iter().all(|path| text.contains(path)), "{text}");
    assert_eq!(send(http, "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n").0, 421);
    // Nobody asked for it.
    assert_eq!(order(http, "/api/kick", r#"{"q": "all"}"#).0, 403);
    let of_its_server = |server: &Server| server.log().iter().any(|line| line.contains("actix_server"));
    assert!(!of_its_server(&server), "{:#?}", server.log());
    // It has something to say, which RUST_LOG asks for.
    let mut command = rot13d();
    command.env("RUST_LOG", "info,actix_server=info").args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    let asked = Server::spawn(command);
    address(&asked);
    asked.log_line("actix_server");
}

#[test]
fn who_does_not_ask_for_it_has_none_of_its_threads() {
    for workers in ["1", "2"] {
        let without = Server::start(&["--workers", workers]);
        greet(&mut without.connect());
        let (with, http) = start(&["--workers", workers]);
        greet(&mut with.connect());
        get(http, "/");
        // While something is logged there is one more.
        eventually("two threads more", || (threads(&with) == threads(&without) + 2).then_some(()));
    }
}

#[test]
fn a_drain_is_known_at_once_and_no_viewer_holds_the_end() {
    let (mut server, http) = start(&["--drain-timeout", "1h", "--linger-timeout", "1h"]);
    let mut peer = server.connect();
    greet(&mut peer);
    let mut viewer = view(http);
    next_event(&mut viewer).expect("an event");
    // One that never reads.
    let _deaf = view(http);
    server.signal(Signal::TERM);
    eventually("the drain", || (get(http, "/readyz") == (503, "the server drains\n".to_owned())).then_some(()));
    assert_eq!(get(http, "/healthz").0, 200);
    assert_eq!(get(http, "/").0, 200);
    eventually("the drain in an event", || next_event(&mut viewer).filter(|event| event["draining"]["left"] == 1));
    drop(peer);
    let (code, _) = server.wait();
    assert_eq!(code, Some(0));
    let mut last = String::new();
    viewer.read_to_string(&mut last).unwrap();
    assert!(last.ends_with("event: end\ndata: {}\n\n"), "{last}");
}

#[test]
fn who_has_the_token_ends_sessions_and_the_server() {
    let token = File::new("token", &format!("{TOKEN}\n"));
    let (mut server, http) = start(&["--http-control", token.path(), "--drain-goodbye", "closing"]);
    assert_eq!(get_json(http, "/api/server")["control"], true);
    let mut peers = [server.connect(), server.connect()];
    peers.iter_mut().for_each(greet);
    let id = get_json(http, "/api/sessions")["sessions"][0]["id"].as_u64().unwrap();
    let kick = format!(r##"{{"q": "#{id}", "goodbye": "see you"}}"##);
    assert_eq!(order(http, "/api/kick", &kick), (200, r#"{"kicked":1}"#.to_owned()));
    expect(&mut peers[0], "see you\r\n");
    assert_eq!(rest(&mut peers[0]), b"");
    let line = server.log_line(&format!(": kick #{id}"));
    assert!(line.contains("http: 127.0.0.1:"), "{line}");
    // As SIGTERM does it.
    assert_eq!(order(http, "/api/drain", "{}").0, 202);
    expect(&mut peers[1], "closing\r\n");
    assert_eq!(rest(&mut peers[1]), b"");
    drop(peers);
    let (code, log) = server.wait();
    assert_eq!(code, Some(0));
    assert!(log.iter().any(|line| line.contains(": drain within 10s")), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains(TOKEN)), "{log:#?}");
}

#[test]
fn a_hangup_reads_the_tokens_again_whether_a_file_or_flags_name_theirs() {
    [true, false].into_iter().for_each(hang_up_with_new_tokens);
}

fn hang_up_with_new_tokens(is_by_file: bool) {
    const NEW: &str = "fedcba9876543210fedcba9876543210";
    let (http_token, console_token) = (File::new("http-token", TOKEN), File::new("console-token", TOKEN));
    let (_port, console) = reserve();
    let settings = format!(
        "http-control = {:?}\nconsole-token = {:?}\nconsole = \"{console}\"\n",
        http_token.path(),
        console_token.path()
    );
    let file = File::new("hangup", &settings);
    let address = console.to_string();
    let (server, http) = match is_by_file {
        true => start(&["--config", file.path()]),
        false => start(
            &[
                &["--http-control", http_token.path(), "--console-token", console_token.path()][..],
                &["--console", &address],
            ]
            .concat(),
        ),
    };
    let mut hangups = 0;
    let mut hangup = |words: &str| {
        server.signal(Signal::HUP);
        hangups += 1;
        server.log_lines(words, hangups);
    };
    let orders = |token: &str| {
        let request = format!(
            "POST /api/kick HTTP/1.1\r\nHost: {http}\r\nContent-Type: application/json\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: 12\r\n\r\n{{\"q\": \"all\"}}"
        );
        send(http, &request).0
    };
    let asks = |token: &str| {
        let mut stream = connect(console);
        stream.write_all(format!("token {token}\ncount\nquit\n").as_bytes()).unwrap();
        String::from_utf8(rest(&mut stream)).unwrap().contains("0\n\n")
    };
    hangup(" is in force");
    assert_eq!((orders(TOKEN), asks(TOKEN)), (200, true));
    // One that is no secret changes nothing, the other one included.
    fs::write(http_token.path(), NEW).unwrap();
    fs::write(console_token.path(), "short").unwrap();
    server.signal(Signal::HUP);
    let said = server.log_line("nothing is changed: ");
    let place = if is_by_file { format!("{}:2: ", file.path()) } else { String::new() };
    assert!(said.contains(&format!("nothing is changed: {place}invalid console-token: ")), "{said}");
    assert_eq!((orders(TOKEN), asks(TOKEN), orders(NEW)), (200, true, 401));
    fs::write(console_token.path(), NEW).unwrap();
    hangup(" is in force");
    server.log_line("SIGHUP: changed: console-token, http-control");
    assert_eq!((orders(TOKEN), asks(TOKEN)), (401, false));
    assert_eq!((orders(NEW), asks(NEW)), (200, true));
    assert!(!server.log().iter().any(|line| line.contains(NEW)), "{:#?}", server.log());
}

#[test]
fn what_is_wrong_is_said_before_anything_starts() {
    let token = File::new("right", TOKEN);
    let short = File::new("short", "hush-hush\n");
    let long = File::new("long", &"x".repeat(5000));
    let missing = token.path().replace("right", "missing");
    for (arguments, part) in [
        (&["--http-control", token.path()][..], "invalid http-control: it does nothing without http"),
        (&["--http-host", "lines.example"], "invalid http-host: it does nothing without http"),
        (&["--http", "127.0.0.1:1", "--http-control", &missing], "cannot read"),
        (&["--http", "127.0.0.1:1", "--http-control", short.path()], "use 16 to 1024 printable ASCII characters"),
        (&["--http", "127.0.0.1:1", "--http-control", long.path()], "is larger than 4096 bytes"),
        (&["--http", "0.0.0.0:1", "--http-control", token.path()], "the token would go over the network in clear"),
        (
            &["--http", "127.0.0.1:7", "--listen", "0.0.0.0:7"],
            "invalid http: the system does not give it beside 0.0.0.0:7",
        ),
        (&["--http", "9713"], "the port is missing"),
        (&["--http", "127.0.0.1:1", "--http-host", "lines.example:80"], "without a port"),
    ] {
        let (code, error) = check(arguments);
        assert!(code == Some(2) && error.contains(part), "{arguments:?}: {error}");
        assert!(!error.contains("hush"), "{error}");
    }
    assert_eq!(check(&["--http", "127.0.0.1:1", "--http-control", token.path()]), (Some(0), String::new()));
    fs::set_permissions(token.path(), fs::Permissions::from_mode(0o644)).unwrap();
    let (code, warning) = check(&["--http", "127.0.0.1:1", "--http-control", token.path()]);
    assert!(code == Some(0) && warning.contains("has mode 644: others can read the token"), "{warning}");

    let name = token.path();
    for (text, line) in [
        (format!("workers = 1\nhttp = \"127.0.0.1:1\"\nhttp-control = \"{name}.missing\"\n"), 3),
        ("\nhttp = \"127.0.0.1:7\"\n[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:7\"\n".to_owned(), 2),
        ("workers = 1\n\nhttp-host = \"lines.example\"\n".to_owned(), 3),
    ] {
        let file = File::new("config.toml", &text);
        let (code, error) = check(&["--config", file.path()]);
        assert!(code == Some(2) && error.contains(&format!("{}:{line}: invalid http", file.path())), "{error}");
    }
}

#[test]
fn an_address_that_is_taken_keeps_the_server_from_starting() {
    let (_reserved, taken) = reserve();
    let _listener = std::net::TcpListener::bind(taken);
    let other = Server::start(&[]);
    let mut command = rot13d();
    command.args(["--listen", "127.0.0.1:0", "--http", &other.address.to_string()]);
    let Output { status, stderr, .. } = finish(command, b"");
    let error = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{error}");
    assert!(error.contains(&format!("rot13d: http: cannot listen on {}", other.address)), "{error}");
}

#[test]
fn everybody_sees_it_at_an_open_address_and_the_log_says_so() {
    let server = Server::start(&["--http", "0.0.0.0:0"]);
    let http = SocketAddr::from(([127, 0, 0, 1], address(&server).port()));
    server.log_line("sees all counters and the addresses of all peers");
    // Whatever the machine is called.
    assert_eq!(send(http, "GET /readyz HTTP/1.1\r\nHost: monitored.example:9713\r\n\r\n").0, 200);
    let server = Server::start(&["--http", "0.0.0.0:0", "--http-host", "lines.example"]);
    let http = SocketAddr::from(([127, 0, 0, 1], address(&server).port()));
    assert_eq!(send(http, "GET /readyz HTTP/1.1\r\nHost: lines.example\r\n\r\n").0, 200);
    assert_eq!(send(http, "GET /readyz HTTP/1.1\r\nHost: monitored.example\r\n\r\n").0, 421);
}

#[test]
fn neither_many_viewers_nor_slow_clients_disturb_the_sessions() {
    let (server, http) = start(&["--workers", "1"]);
    // Slow heads, and as many viewers as there are.
    let slow: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = connect(http);
            stream.write_all(b"GET / HTTP/1.1\r\nX: ").unwrap();
            stream
        })
        .collect();
    let mut viewers: Vec<_> = (0..64).map(|_| view(http)).collect();
    viewers.iter_mut().for_each(|viewer| assert!(next_event(viewer).is_some()));
    assert_eq!(get(http, "/events").0, 503);
    assert_eq!(get(http, "/healthz").0, 200);
    let mut peer = server.connect();
    (0..1000).for_each(|_| greet(&mut peer));
    assert!(server.sleeps());
    for mut stream in slow {
        assert!(String::from_utf8_lossy(&rest(&mut stream)).starts_with("HTTP/1.1 408"));
    }
    viewers.iter_mut().for_each(|viewer| assert!(next_event(viewer).is_some()));
}

#[test]
#[ignore = "needs curl; tests/run runs it"]
fn curl_asks_over_tcp_and_over_a_unix_socket() {
    let token = File::new("curl-token", TOKEN);
    let socket = token.path().replace("curl-token", "curl.sock");
    let (tcp, http) = start(&[]);
    let unix = Server::start(&["--http", &format!("unix:{socket}"), "--http-control", token.path()]);
    unix.log_line("http: served at unix:");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let curl = |arguments: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail-with-body", "--max-time", "60"]).args(arguments);
        let Output { status, stdout, stderr } = finish(command, b"");
        assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    };
    assert_eq!(curl(&[&format!("http://{http}/healthz")]), "ok\n");
    assert!(curl(&["--head", &format!("http://{http}/")]).contains("content-security-policy: default-src 'self'"));
    let listed = curl(&["--get", "--data-urlencode", "q=state=open idle>1h", &format!("http://{http}/api/sessions")]);
    assert_eq!(listed, r#"{"sessions":[],"total":0}"#);
    let over_unix = ["--unix-socket", &socket];
    assert_eq!(curl(&[&over_unix[..], &["http://rot13d/readyz"]].concat()), "ok\n");
    let body = ["--json", r#"{"q": "all"}"#, "--oauth2-bearer", TOKEN];
    assert_eq!(curl(&[&over_unix[..], &body, &["http://rot13d/api/kick"]].concat()), r#"{"kicked":0}"#);
    unix.log_line(": kick all");
    drop((tcp, unix));
}
