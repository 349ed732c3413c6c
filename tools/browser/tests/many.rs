//! Ten thousand sessions do not freeze the page: it holds and asks for those in sight, and answers to whoever uses it.
//!
//! No time is measured: what is asked of the page comes, rows and requests are counted.

mod support;

use browser::key;
use rustix::process::{Resource, getrlimit, setrlimit};
use support::{Page, Server, say};

/// Sessions. Unit: as many as ten thousand promise.
const MANY: usize = 10_000;

/// Most rows in the document: those of a tall screen.
const MOST_ROWS: u64 = 150;

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn ten_thousand_sessions_are_listed_scrolled_and_sorted() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("as many as are allowed");
    let server = Server::start(&["--idle-timeout", "off", "--max-sessions", "12000"]);
    let mut peers: Vec<_> = (0..MANY).map(|_| server.connect()).collect();
    let page = Page::of(&server);
    page.shows("#live", "10000");
    page.shows("#matching", "10,000");
    let rows = || page.script("return document.querySelectorAll('#rows tr').length").as_u64().expect("a number");
    assert!(rows() < MOST_ROWS, "{} rows", rows());
    assert_eq!(page.script("return document.getElementById('table').getAttribute('aria-rowcount')"), "10001");

    // To the end, by one key; the last session is there and has the focus.
    let ids = server.get("/api/sessions?offset=9999&limit=1")["sessions"][0]["id"].to_string();
    page.script("document.getElementById('table').focus()");
    page.press(&[key::END]);
    let active =
        "const row = document.getElementById(document.getElementById('table').getAttribute('aria-activedescendant'));
                  return [row?.getAttribute('aria-rowindex'), row?.cells[0].textContent]";
    page.eventually("the last session", active, |row| row[0] == "10001" && row[1] == format!("#{ids}"));
    page.press(&[key::UP, key::UP, key::PAGE_DOWN]);
    page.eventually("the last session again", active, |row| row[0] == "10001");
    page.picture("many");

    // Wild scrolling: each place is drawn, rows stay few, and one request for the list is open at once.
    page.script(
        "window.wild = (async () => {
           const scroll = document.getElementById('scroll');
           for (let step = 0; step < 200; step += 1) {
             scroll.scrollTop = (step * 7919) % 10_000 * 25;
             await new Promise(requestAnimationFrame);
           }
           scroll.scrollTop = 0;
           return 'done';
         })();
         window.wild.then((how) => { window.how = how; });",
    );
    page.eventually("the end of the scrolling", "return window.how ?? ''", |how| how == "done");
    page.eventually(
        "the first session",
        "return document.querySelector('#rows tr[data-place]')?.cells[0].textContent",
        |first| first.as_str().is_some_and(|first| first.starts_with('#')),
    );
    assert!(rows() < MOST_ROWS, "{} rows", rows());
    let seen = page.script("return window.seen");
    assert!(seen["most"].as_u64() <= Some(1), "requests for the list at once: {seen}");
    assert!(seen["aborted"].as_u64() > Some(0), "none was given up: {seen}");

    // Sorted: the one that says most stands first.
    let loud = peers[4321].local_addr().expect("an address").to_string();
    (0..50).for_each(|_| say(&mut peers[4321], "and another line\n"));
    page.click("[data-sort=lines]");
    page.eventually(
        "the loudest first",
        "return document.querySelector('#rows tr[data-place=\"0\"]')?.cells[1].textContent",
        |first| first.as_str() == Some(&loud),
    );
    assert_eq!(page.script("return document.querySelector('[data-sort=lines]').closest('th').ariaSort"), "descending");

    // While it lists all of them it answers: typed text stands in the field, letter by letter.
    page.fill("#words", "state=open age>1ms");
    assert_eq!(page.script("return document.getElementById('words').value"), "state=open age>1ms");
    page.shows("#matching", "10,000 fit the filter");
    page.press(&[key::TAB]);

    // All of them end; so do their rows.
    drop(peers);
    page.eventually("nobody", "return document.getElementById('live').textContent", |live| live == "0");
    page.wait_visible("#no-sessions", true);
    assert_eq!(page.text("#matching"), "0 fit the filter");
    assert_eq!(page.script("return document.querySelectorAll('#rows tr[data-place]').length"), 0);
    assert_eq!(page.script("return document.getElementById('ends').children.length"), 100);
}
