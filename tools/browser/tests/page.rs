//! The live page shows what the server says, in a real browser: its numbers, what begins and ends, and what is wrong.
//!
//! Pictures are kept in `target/screenshots`.
//! Not here: steering (`control`), many sessions (`many`), looks and access (`looks`).

mod support;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Page, Server, eventually, say};

/// A number as the page groups it.
fn number(value: &Value) -> String {
    let digits = value.as_u64().unwrap_or_else(|| panic!("{value} is no number")).to_string();
    let grouped: Vec<_> = digits.as_bytes().rchunks(3).rev().map(|three| String::from_utf8_lossy(three)).collect();
    grouped.join(",")
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn the_numbers_on_the_page_are_the_servers() {
    let server = Server::start(&["--max-sessions-per-source", "3", "--exempt", "off"]);
    let mut peers: Vec<_> = (0..3).map(|_| server.connect()).collect();
    peers.iter_mut().for_each(|peer| say(peer, "once more\n"));
    let _refused = std::net::TcpStream::connect(server.address).expect("it is told so");
    eventually("a refused connection", || match server.get("/api/server")["stats"]["refused"].as_object() {
        Some(refused) if !refused.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let page = Page::of(&server);
    page.pass(2);
    let told = server.get("/api/server");
    let stats = &told["stats"];
    // It stands alone, without anything to be taken off.
    assert_eq!(page.text("#live"), stats["live"].to_string());
    assert_eq!(page.text("#live"), "3");
    assert_eq!(page.text("#lines-total"), number(&stats["lines_in"]));
    assert_eq!(page.text("#refused-total"), number(&stats["refused"]["max-sessions-per-source"]));
    assert!(page.text("#refused").contains("max-sessions-per-source"));
    assert_eq!(page.text("#bytes-in-total"), format!("{} B", stats["bytes_in"]));
    assert_eq!(page.text("#bytes-out-total"), format!("{} B", stats["bytes_out"]));
    assert_eq!(page.text("#turns-cut"), number(&stats["turns_cut"]));
    assert_eq!(page.text("#throttled"), number(&stats["throttled"]));
    assert_eq!(page.text("#name"), told["server"]["name"]);
    assert_eq!(page.text("#version"), told["server"]["version"]);
    assert_eq!(page.text("#state-text"), "Running");
    let listener = page.text("#listeners");
    assert!(listener.contains(&server.address.to_string()) && listener.contains("accepting"), "{listener}");
    let sessions = server.get("/api/sessions");
    let matching = "return document.getElementById('matching').textContent";
    page.eventually("the list", matching, |matching| *matching == number(&sessions["total"]));
    for session in sessions["sessions"].as_array().expect("a list") {
        let row = page.shows("#rows", session["peer"].as_str().expect("an address"));
        assert!(row.contains(&format!("#{}", session["id"])), "{row}");
    }
    // With nothing going on, there are rates, and they are none.
    page.eventually("rates of nothing", "return ['opened', 'closed', 'lines', 'refused'].map((of) => document.getElementById(`${of}-rate`).textContent)", |rates| *rates == json!(["0", "0", "0", "0"]));
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn sessions_that_open_and_end_show() {
    let server = Server::start(&[]);
    let page = Page::of(&server);
    assert_eq!(page.text("#live"), "0");
    assert_eq!(page.text("#no-sessions"), "No session.");
    let peers: Vec<_> = (0..5).map(|_| server.connect()).collect();
    page.shows("#live", "5");
    page.shows("#rows", &peers[4].local_addr().expect("an address").to_string());
    let opened = "return document.getElementById('plot-sessions').ariaLabel";
    page.eventually("the plot's own words", opened, |label| {
        label.as_str().is_some_and(|label| label.contains("highest 5"))
    });
    drop(peers);
    page.eventually("nobody", "return document.getElementById('live').textContent", |live| live == "0");
    page.eventually("five ends", "return document.getElementById('ends').children.length", |ends| ends == 5);
    page.shows("#ends", "peer-eof");
    page.shows("#closed", "peer-eof");
    page.wait_visible("#no-sessions", true);
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn ends_from_before_the_page_are_there() {
    let server = Server::start(&[]);
    drop(server.connect());
    eventually("an end", || match server.get("/api/ends")["ends"].as_array() {
        Some(ends) if ends.len() == 1 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let page = Page::of(&server);
    page.shows("#ends", "peer-eof");
    assert_eq!(page.script("return document.getElementById('ends').children.length"), 1);
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn a_kick_shows_with_its_reason() {
    // A folder of a build may be too deep for the path of a socket.
    let console = format!("unix:{}/page-{}.sock", std::env::temp_dir().display(), std::process::id());
    let server = Server::start_with_control(&["--console", &console]);
    let _peers = [server.connect(), server.connect()];
    let page = Page::of(&server);
    page.shows("#live", "2");
    let sessions = server.get("/api/sessions");
    let id = |at: usize| format!("#{}", sessions["sessions"][at]["id"]);
    server.post("/api/kick", &json!({"q": id(0), "goodbye": "so long"}));
    let ends = page.shows("#ends", &id(0));
    assert!(ends.contains("kicked") && ends.contains("an operator ended it"), "{ends}");
    Server::order(&console, &["kick", &id(1)]);
    page.shows("#ends", &id(1));
    page.shows("#closed", "kicked\n2");
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn a_refusal_shows_while_one_looks() {
    let server = Server::start(&["--max-sessions", "1"]);
    let page = Page::of(&server);
    assert_eq!(page.text("#no-refused"), "Nobody so far.");
    let _peer = server.connect();
    let _refused = std::net::TcpStream::connect(server.address).expect("it is told so");
    page.shows("#refused", "max-sessions");
    page.shows("#refused-total", "1");
    page.wait_visible("#no-refused", false);
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn a_drain_shows_with_its_progress_and_its_end() {
    let server = Server::start_with_control(&["--linger-timeout", "1h", "--linger-bytes", "1GiB"]);
    let stays = server.connect();
    let mut page = Page::of(&server);
    page.expect_errors("ERR_");
    page.shows("#live", "1");
    server.post("/api/drain", &json!({"timeout": 3600}));
    page.shows("#state-text", "Draining");
    let progress = page.shows("#draining-text", "1 session left");
    assert!(progress.contains("New connections are not accepted"), "{progress}");
    assert!(page.is_visible("#draining-progress"));
    page.picture("draining");
    drop(stays);
    server.wait();
    page.shows("#lost-text", "The server has drained, and may have ended.");
    page.picture("lost");
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn a_server_that_goes_and_comes_back_is_missed_and_found() {
    let server = Server::start(&[]);
    let at = server.page;
    let peer = server.connect();
    drop(server.connect());
    let mut page = Page::of(&server);
    page.expect_errors("ERR_");
    page.shows("#live", "1");
    page.shows("#ends", "peer-eof");
    drop(server);
    page.wait_visible("#lost", true);
    let lost = page.text("#lost-text");
    assert!(lost.starts_with("Since ") && lost.contains("ago"), "{lost}");
    assert_eq!(page.text("#state-text"), "No connection");
    assert_eq!(page.text("#announce"), "State: No connection");
    drop(peer);

    let server = Server::start_at(at, &[]);
    let _peers = [server.connect(), server.connect()];
    page.click("#retry");
    page.wait_visible("#lost", false);
    page.shows("#live", "2");
    page.shows("#state-text", "Running");
    page.eventually("its sessions", "return document.querySelectorAll('#rows tr[data-place]').length", |rows| {
        *rows == 2
    });
    // Its counters begin at nothing: no rate is below that, and nothing is left of the other's ends.
    page.pass(2);
    assert_eq!(page.text("#opened-rate"), "0");
    assert_eq!(page.script("return document.getElementById('ends').children.length"), 0);
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn a_server_that_is_there_and_says_nothing_is_missed_as_well() {
    let server = Server::start(&[]);
    let _peer = server.connect();
    let mut page = Page::of(&server);
    page.expect_errors("ERR_");
    page.shows("#live", "1");
    server.signal(Signal::STOP);
    page.wait_visible("#lost", true);
    server.signal(Signal::CONT);
    page.wait_visible("#lost", false);
    page.shows("#state-text", "Running");
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn a_page_too_many_says_why_it_shows_nothing() {
    let server = Server::start(&[]);
    let mut page = Page::blank();
    page.expect_errors("503 (Service Unavailable)");
    let viewers: Vec<_> = (0..64).map(|_| server.watch()).collect();
    page.go(&server.url());
    page.shows("#lost-text", "The server says: 64 viewers watch already");
    drop(viewers);
    page.wait_visible("#lost", false);
    page.shows("#state-text", "Running");
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn a_filter_selects_and_a_wrong_word_is_named() {
    let server = Server::start(&[]);
    let peers = [server.connect(), server.connect()];
    let mut page = Page::of(&server);
    page.expect_errors("400 (Bad Request)");
    let id = server.get("/api/sessions")["sessions"][1]["id"].clone();
    page.fill("#words", &format!("#{id}"));
    page.shows("#matching", "1 fits the filter");
    let rows = page.shows("#rows", &peers[1].local_addr().expect("an address").to_string());
    assert!(!rows.contains(&peers[0].local_addr().expect("an address").to_string()), "{rows}");
    page.shows("#announce", "1 session listed");
    page.fill("#words", "stat=open");
    // Whoever types slowly is told of half a word before.
    let error = page.shows("#words-error", "\"stat=open\"");
    assert!(error.contains("state"), "{error}");
    assert_eq!(page.script("return document.getElementById('words').ariaInvalid"), "true");
    // It is not asked again and again.
    let asked = page.script("return window.seen.asked");
    page.pass(4);
    assert_eq!(page.script("return window.seen.asked"), asked);
    page.fill("#words", "state=open");
    page.wait_visible("#words-error", false);
    page.shows("#matching", "2 fit the filter");
    // What is filtered is in the address, to be passed on.
    assert_eq!(page.script("return location.hash"), "#q=state%3Dopen");
}

/// Text that would be noticed if it was taken for more than text.
const HOSTILE: &str = r#"<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>"#;

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn whatever_text_the_server_sends_stays_text() {
    let server = Server::start_with_control(&[]);
    let _peer = server.connect();
    drop(server.connect());
    let page = Page::blank();
    // Every text that the page is given, wherever it is, has the hostile one behind it.
    page.before(&format!(
        "const hostile = {};
         const known = ['id'];
         const spoil = (key, value) => typeof value === 'string' && !known.includes(key) ? value + hostile : value;
         const parse = JSON.parse;
         JSON.parse = (text) => {{
           const value = parse(text, spoil);
           for (const counts of [value?.stats?.refused, value?.stats?.closed]) if (counts) counts['a' + hostile] = 1;
           return value;
         }};",
        json!(HOSTILE)
    ));
    page.open(&server.url());
    for place in ["#name", "#version", "#listeners", "#refused", "#closed", "#rows", "#ends"] {
        page.shows(place, HOSTILE);
    }
    page.click("#rows tr[data-place]");
    page.shows("#session-facts", HOSTILE);
    page.pass(2);
    assert_eq!(
        page.script("return [document.querySelectorAll('img, body script').length, window.hacked ?? 0]"),
        json!([0, 0])
    );
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn a_link_puts_text_into_the_filter_and_nothing_else() {
    let server = Server::start(&[]);
    let mut page = Page::blank();
    page.expect_errors("400 (Bad Request)");
    page.open(&format!("{}#q={}&sort=%22%5D", server.url(), "%3Cimg%20src=x%20onerror=%22window.hacked=1%22%3E"));
    page.shows("#words-error", "<img");
    assert_eq!(page.script("return [document.querySelectorAll('img').length, window.hacked ?? 0]"), json!([0, 0]));
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn parts_that_a_server_does_not_tell_of_are_not_there() {
    let server = Server::start(&[]);
    let page = Page::blank();
    page.before(
        "const parse = JSON.parse;
         JSON.parse = (text) => {
           const value = parse(text);
           if (!sessionStorage.all) { delete value?.stats?.workers; delete value?.stats?.memory; }
           return value;
         };",
    );
    page.open(&server.url());
    assert!(!page.is_visible("#workers-part") && !page.is_visible("#memory-part"));
    page.script("sessionStorage.all = 1");
    page.wait_visible("#workers-part", true);
    page.wait_visible("#memory-part", true);
    page.shows("#memory-text", "in buffers");
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn the_page_asks_nobody_but_its_server() {
    let server = Server::start(&[]);
    let page = Page::of(&server);
    page.pass(3);
    let others = format!(
        "return performance.getEntriesByType('resource').map((entry) => entry.name).filter((name) => !name.startsWith('{}'))",
        server.url()
    );
    assert_eq!(page.script(&others), json!([]));
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn a_screen_reader_is_told_of_changes_and_not_of_every_second() {
    let server = Server::start(&[]);
    let page = Page::of(&server);
    page.pass(1);
    let before = page.script("return window.seen.says");
    let _peer = server.connect();
    page.shows("#live", "1");
    page.pass(3);
    assert_eq!(page.script("return window.seen.says"), before, "{}", page.text("#announce"));
    assert_eq!(page.text("#announce"), "State: Running");
}
