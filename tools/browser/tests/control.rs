//! The live page steers only where that is allowed, only with the token, and only after it has said what will happen.
//!
//! Not here: what the server checks itself (`http` of the library).

mod support;

use std::io::Read;

use serde_json::json;
use support::{Page, Server, TOKEN};

/// The session that stands first in the list is opened, as a pointer does it.
fn open_first(page: &Page) {
    page.eventually(
        "a session in the list",
        "return document.querySelectorAll('#rows tr[data-place]:not(.loading)').length",
        |rows| rows.as_u64() > Some(0),
    );
    page.click("#rows tr[data-place]");
    page.wait_visible("#session", true);
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn without_control_there_is_nothing_to_press() {
    let server = Server::start(&[]);
    let _peer = server.connect();
    let page = Page::of(&server);
    page.pass(1);
    assert!(!page.is_visible("#drain") && !page.is_visible("#listeners button"));
    open_first(&page);
    assert!(!page.is_visible("#session-kick"));
    page.click("#session-close");
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn a_session_is_kicked_with_the_token_which_is_asked_for_once() {
    let server = Server::start_with_control(&[]);
    let peers = [server.connect(), server.connect(), server.connect()];
    let mut page = Page::of(&server);
    page.expect_errors("401 (Unauthorized)");
    page.shows("#live", "3");
    open_first(&page);
    let title = page.text("#session-title");
    let id = title.strip_prefix("Session ").expect("its number").to_owned();
    page.click("#session-kick");
    assert_eq!(page.text("#confirm-title"), format!("Kick session {id}"));
    assert!(page.text("#confirm-text").contains("closes"));
    page.picture("kick");

    // Nothing happens without a token, nor with a wrong one.
    page.click("#confirm-go");
    page.shows("#confirm-error", "Type the token");
    page.fill("#token", "a wrong one of some length");
    page.click("#confirm-go");
    page.shows("#confirm-error", "wrong token");
    assert!(page.is_visible("#confirm") && page.is_visible("#token"));
    assert_eq!(server.get("/api/server")["stats"]["live"], 3);

    page.fill("#option", "so long");
    page.fill("#token", TOKEN);
    page.click("#confirm-go");
    page.wait_visible("#confirm", false);
    page.shows("#announce", &format!("Session {id} was told to end"));
    let ends = page.shows("#ends", "kicked");
    assert!(ends.contains(&id), "{ends}");
    let mut said = String::new();
    let goodbye = peers.iter().any(|mut peer| {
        let mut buffer = [0; 64];
        let is_kicked = peer.set_nonblocking(true).is_ok() && std::io::Read::read(&mut peer, &mut buffer).is_ok();
        said += &String::from_utf8_lossy(&buffer);
        is_kicked
    });
    assert!(goodbye && said.contains("so long"), "{said:?}");

    // The next one does not ask again, and the token is nowhere but in the page's memory.
    page.eventually("two sessions", "return document.getElementById('live').textContent", |live| live == "2");
    page.eventually(
        "the list to be shorter",
        "return document.querySelectorAll('#rows tr[data-place]').length",
        |rows| *rows == 2,
    );
    open_first(&page);
    page.click("#session-kick");
    assert!(!page.is_visible("#token"));
    assert_eq!(page.script("return document.getElementById('token').value"), "");
    page.click("#confirm-go");
    page.wait_visible("#confirm", false);
    page.eventually("one session", "return document.getElementById('live').textContent", |live| live == "1");
    assert_eq!(page.script("return [localStorage.length, sessionStorage.length, document.cookie]"), json!([0, 0, ""]));
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn a_listener_is_paused_and_resumed() {
    let server = Server::start_with_control(&[]);
    let page = Page::of(&server);
    page.click("#listeners button");
    assert!(page.text("#confirm-text").contains("wait in the kernel's backlog"));
    // Who thinks better of it has changed nothing.
    page.click("#confirm-cancel");
    assert_eq!(server.get("/api/server")["listeners"][0]["is_paused"], false);
    page.click("#listeners button");
    page.fill("#token", TOKEN);
    page.click("#confirm-go");
    page.shows("#listeners", "paused");
    page.shows("#state-text", "Paused: no listener accepts");
    assert_eq!(server.get("/api/server")["listeners"][0]["is_paused"], true);
    page.shows("#listeners button", "Resume");
    page.click("#listeners button");
    page.click("#confirm-go");
    page.shows("#listeners", "accepting");
    page.shows("#state-text", "Running");
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn a_drain_is_confirmed_with_its_time() {
    let server = Server::start_with_control(&["--linger-timeout", "1h", "--linger-bytes", "1GiB"]);
    let mut stays = server.connect();
    let mut page = Page::of(&server);
    page.expect_errors("ERR_");
    page.shows("#live", "1");
    page.click("#drain");
    assert!(page.text("#confirm-text").contains("1 live session"), "{}", page.text("#confirm-text"));
    assert!(page.text("label[for=option]").contains("empty for the server's own"));
    page.fill("#token", TOKEN);
    page.fill("#option", "soon");
    page.click("#confirm-go");
    page.shows("#confirm-error", "a number of seconds");
    page.fill("#option", "3600");
    page.fill("#goodbye", "until tomorrow");
    page.click("#confirm-go");
    page.shows("#state-text", "Draining");
    page.wait_visible("#drain", false);
    let mut said = [0; 16];
    stays.read_exact(&mut said).expect("the goodbye");
    assert_eq!(&said, b"until tomorrow\r\n");
    drop(stays);
    server.wait();
    page.wait_visible("#lost", true);
}
