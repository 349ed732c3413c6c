//! What the tests of the page share: the server as a process, and the page in a browser.
// Each test file is a program of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use browser::{
    Browser,
    http::{Answer, Request},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// How long an event may take before a test gives it up. A guard and no measure.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The secret of those who may change something.
pub const TOKEN: &str = "correct-horse-battery-staple";

/// One browser at a time: each is a dozen processes.
static TURN: Mutex<()> = Mutex::new(());

/// A number for each file that a test makes.
static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// `rot13d` as a process, with its page.
pub struct Server {
    process: Child,
    log: Receiver<String>,
    pub address: SocketAddr,
    pub page: SocketAddr,
}

fn scratch(name: &str) -> PathBuf {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{number}", std::process::id()))
}

/// The server's binary, which other packages' tests are not told of.
fn rot13d() -> Command {
    let test = env::current_exe().expect("a program has a path");
    // The test itself is in `deps`, beside the binaries.
    let path = test.parent().and_then(Path::parent).expect("a target folder").join("rot13d");
    assert!(path.exists(), "{path:?} is missing: run `cargo build` first, in the same profile");
    let mut command = Command::new(path);
    command.env_remove("RUST_LOG").env_remove("RUST_LOG_STYLE").env_remove("RUST_BACKTRACE");
    command
}

impl Server {
    /// Starts it on free ports, with more arguments; waits until it listens.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), arguments)
    }

    /// The same, with its page where it is told.
    pub fn start_at(page: SocketAddr, arguments: &[&str]) -> Self {
        let mut command = rot13d();
        command.args(["--listen", "127.0.0.1:0", "--http", &page.to_string()]).args(arguments);
        let mut process =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
        let stderr = process.stderr.take().expect("it is piped");
        let (sender, log) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("{line}");
                let _ = sender.send(line);
            }
        });
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut server = Self { process, log, address: nowhere, page: nowhere };
        while server.address == nowhere || server.page == nowhere {
            let line = server.next_line().expect("it listens");
            let address = |rest: &str| {
                let end = rest.find(|c: char| !c.is_ascii_digit() && !".:".contains(c)).unwrap_or(rest.len());
                rest[..end].trim_end_matches(':').parse().ok()
            };
            if let Some((_, rest)) = line.split_once("http://") {
                server.page = address(rest).unwrap_or_else(|| panic!("no address: {line}"));
            } else if let Some((before, rest)) = line.split_once("listening on ") {
                // Other doors say so with their names.
                let is_other = before.contains("http") || before.contains("console");
                server.address = address(rest).filter(|_| !is_other).unwrap_or(server.address);
            }
        }
        server
    }

    /// One that whoever has [`TOKEN`] may steer.
    pub fn start_with_control(arguments: &[&str]) -> Self {
        let file = scratch("token");
        let mut secret =
            fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&file).expect("a file of its own");
        writeln!(secret, "{TOKEN}").expect("the target folder can be written");
        let file = file.to_str().expect("a path of letters");
        Self::start(&[&["--http-control", file], arguments].concat())
    }

    /// Sends a command to the console at `address`, as an operator does.
    pub fn order(address: &str, words: &[&str]) {
        let output = rot13d().args(["ctl", "--connect", address]).args(words).output().expect("it starts");
        assert!(output.status.success(), "{words:?}: {output:?}");
    }

    fn next_line(&self) -> Option<String> {
        match self.log.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("waited in vain for a line in the log"),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.page)
    }

    /// Opens a session, which has had its first answer.
    pub fn connect(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        say(&mut stream, "hello\n");
        stream
    }

    /// Watches the events, as a page does; returns when it has the first.
    pub fn watch(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.page).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        write!(stream, "GET /events HTTP/1.1\r\nHost: {}\r\n\r\n", self.page).expect("the server reads");
        let mut lines = BufReader::new(stream.try_clone().expect("a descriptor")).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line.starts_with("event:"))), "no event has come");
        stream
    }

    /// Asks what the page asks.
    pub fn get(&self, path: &str) -> Value {
        let answer = Request { method: "GET", path, headers: &[], body: "" }.send(self.page).and_then(Answer::json);
        let Answer { status, body } = answer.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Changes something without the page.
    pub fn post(&self, path: &str, body: &Value) {
        let bearer = format!("Bearer {TOKEN}");
        let request = Request { method: "POST", path, headers: &[("Authorization", &bearer)], body: &body.to_string() };
        let answer = request.send(self.page).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(
            (200..300).contains(&answer.status),
            "{path}: {} {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("it runs");
    }

    /// Waits until it has ended.
    pub fn wait(mut self) {
        while self.next_line().is_some() {}
        self.process.wait().expect("it ends");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends a line, and reads its answer.
pub fn say(stream: &mut TcpStream, line: &str) {
    stream.write_all(line.as_bytes()).expect("the server reads");
    let mut answer = vec![0; line.len()];
    stream.read_exact(&mut answer).expect("the server answers");
}

/// Waits for something, however long it takes.
#[track_caller]
pub fn eventually<T>(what: &str, mut value: impl FnMut() -> Result<T, String>) -> T {
    let begin = Instant::now();
    loop {
        match value() {
            Ok(value) => return value,
            Err(last) => assert!(begin.elapsed() < PATIENCE, "waited in vain for {what}; last it was {last}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The page in a browser. When dropped, nothing may stand in the browser's console that was not expected.
pub struct Page {
    browser: Browser,
    profile: PathBuf,
    expected: Vec<&'static str>,
    _turn: MutexGuard<'static, ()>,
}

/// Counts the server's events, and requests for sessions that are open at once, before the page's own script runs.
const COUNTERS: &str = r"
window.seen = { events: 0, open: 0, most: 0, asked: 0, aborted: 0, says: 0 };
const Source = window.EventSource;
window.EventSource = class extends Source {
  constructor(...all) { super(...all); this.addEventListener('server', () => { window.seen.events += 1; }); }
};
const fetched = window.fetch;
window.fetch = async (path, options) => {
  if (!String(path).startsWith('api/sessions')) return fetched(path, options);
  const { seen } = window;
  seen.asked += 1;
  seen.open += 1;
  seen.most = Math.max(seen.most, seen.open);
  options?.signal?.addEventListener('abort', () => { seen.open -= 1; seen.aborted += 1; });
  try { return await fetched(path, options); } finally { if (!options?.signal?.aborted) seen.open -= 1; }
};
addEventListener('DOMContentLoaded', () => {
  new MutationObserver(() => { window.seen.says += 1; }).observe(document.getElementById('announce'), { childList: true, characterData: true, subtree: true });
});
";

impl Page {
    /// Starts a browser, on no page yet: 1440 × 900 pixels, light.
    pub fn blank() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let profile = scratch("profile");
        let browser =
            Browser::start(&profile).unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
        let page = Self { browser, profile, expected: Vec::new(), _turn: turn };
        page.resize(1440, 900);
        page.look("light");
        page.before(COUNTERS);
        page
    }

    /// Opens the page of a server, and waits for its first numbers.
    pub fn of(server: &Server) -> Self {
        let page = Self::blank();
        page.open(&server.url());
        page
    }

    /// Opens a page, and waits for nothing of it.
    pub fn go(&self, url: &str) {
        self.browser.open(url).expect("the page is there");
    }

    pub fn open(&self, url: &str) {
        self.go(url);
        self.eventually("the first numbers", "return document.getElementById('live').textContent", |live| live != "–");
    }

    /// Has a script run before those of each page.
    pub fn before(&self, script: &str) {
        self.devtools("Page.addScriptToEvaluateOnNewDocument", &json!({"source": script}));
    }

    /// Allows errors in the browser's console that have `part` in them.
    pub fn expect_errors(&mut self, part: &'static str) {
        self.expected.push(part);
    }

    #[track_caller]
    pub fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.browser.devtools(command, parameters).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    pub fn resize(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
    }

    /// Prefers a colour scheme.
    pub fn look(&self, scheme: &str) {
        self.prefer(&[("prefers-color-scheme", scheme)]);
    }

    pub fn prefer(&self, features: &[(&str, &str)]) {
        let features: Vec<_> = features.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        self.devtools("Emulation.setEmulatedMedia", &json!({"features": features}));
    }

    /// Runs a script, whose `return` is the answer.
    #[track_caller]
    pub fn script(&self, script: &str) -> Value {
        self.browser.script(script).unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Waits until the answer of a script is as wanted; returns it.
    #[track_caller]
    pub fn eventually(&self, what: &str, script: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || {
            let value = self.script(script);
            if is_so(&value) { Ok(value) } else { Err(value.to_string()) }
        })
    }

    /// The text of what a selector finds first.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        let text = self.script(&format!("return document.querySelector({})?.innerText", json!(selector)));
        text.as_str().unwrap_or_else(|| panic!("there is no {selector}")).to_owned()
    }

    /// Waits until that text has a part in it; returns it.
    #[track_caller]
    pub fn shows(&self, selector: &str, part: &str) -> String {
        let script = format!("return document.querySelector({})?.innerText ?? ''", json!(selector));
        let text = self.eventually(&format!("{part:?} in {selector}"), &script, |text| {
            text.as_str().unwrap_or_default().contains(part)
        });
        text.as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub fn is_visible(&self, selector: &str) -> bool {
        let script = format!("return document.querySelector({})?.checkVisibility() ?? false", json!(selector));
        self.script(&script).as_bool().unwrap_or_default()
    }

    #[track_caller]
    pub fn wait_visible(&self, selector: &str, visible: bool) {
        eventually(&format!("{selector} to be visible: {visible}"), || {
            if self.is_visible(selector) == visible { Ok(()) } else { Err(String::from("not so")) }
        });
    }

    #[track_caller]
    pub fn click(&self, selector: &str) {
        self.script(&format!("document.querySelector({}).click()", json!(selector)));
    }

    /// Moves the focus to an element, and types.
    #[track_caller]
    pub fn fill(&self, selector: &str, text: &str) {
        self.script(&format!("const e = document.querySelector({}); e.focus(); e.select?.()", json!(selector)));
        self.press(&[text]);
    }

    #[track_caller]
    pub fn press(&self, keys: &[&str]) {
        self.browser.press(keys).unwrap_or_else(|error| panic!("{keys:?}: {error}"));
    }

    /// What has the focus: its id, else its text.
    #[track_caller]
    pub fn focus(&self) -> String {
        let name = self.script("const e = document.activeElement; return e.id || e.textContent.trim() || e.tagName");
        name.as_str().unwrap_or_default().to_owned()
    }

    /// Waits for as many more events of the server.
    #[track_caller]
    pub fn pass(&self, events: u64) {
        let before = self.script("return window.seen.events").as_u64().expect("a number");
        self.eventually("more events", "return window.seen.events", |now| now.as_u64() >= Some(before + events));
    }

    /// Keeps a picture, in the target folder; returns its path.
    pub fn picture(&self, name: &str) -> PathBuf {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("screenshots");
        fs::create_dir_all(&folder).expect("the target folder can be written");
        let path = folder.join(format!("{name}.png"));
        fs::write(&path, self.browser.screenshot().expect("a picture")).expect("the target folder can be written");
        path
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.profile);
        if thread::panicking() {
            return;
        }
        let console = self.browser.console().expect("a console");
        let unexpected: Vec<_> =
            console.iter().filter(|line| !self.expected.iter().any(|part| line.contains(part))).collect();
        assert!(unexpected.is_empty(), "in the browser's console: {unexpected:#?}");
    }
}
