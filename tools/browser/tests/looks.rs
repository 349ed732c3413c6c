//! The live page for everyone: any width, dark and light, by keyboard alone, by screen reader, without motion.
//!
//! The rules are those of WCAG 2.2 AA that a program can check: names, headings, contrast, focus, reflow at 360 pixels.
//! Pictures are kept in `target/screenshots`.

mod support;

use browser::key;
use serde_json::{Value, json};
use support::{Page, Server, TOKEN};

fn start() -> (Server, Vec<std::net::TcpStream>, Page) {
    let server = Server::start_with_control(&["--max-sessions", "40"]);
    let peers: Vec<_> = (0..40).map(|_| server.connect()).collect();
    let _refused = std::net::TcpStream::connect(server.address).expect("it is told so");
    let page = Page::of(&server);
    page.eventually("an end", "return document.getElementById('live').textContent", |live| live == "40");
    (server, peers, page)
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn no_width_needs_to_be_scrolled_sideways() {
    let (_server, mut peers, page) = start();
    peers.truncate(30);
    for scheme in ["light", "dark"] {
        page.look(scheme);
        for (width, height) in [
            (360, 800),
            (400, 800),
            (640, 900),
            (768, 1024),
            (1024, 768),
            (1200, 900),
            (1440, 900),
            (1920, 1080),
            (3840, 2160),
        ] {
            page.resize(width, height);
            page.pass(1);
            let widths = page.script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]");
            assert!(widths[0].as_u64() <= widths[1].as_u64(), "{width} pixels: {widths}");
            // Nothing sticks out of its card either, but for what can be scrolled.
            let cut = page.script(
                "return [...document.querySelectorAll('.card')].filter((card) => card.scrollWidth > card.clientWidth + 1).map((card) => card.textContent.slice(0, 30).trim())",
            );
            assert_eq!(cut, json!([]), "{width} pixels");
            page.picture(&format!("{scheme}-{width}"));
        }
    }
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn where_columns_are_missing_the_order_is_a_list() {
    let (_server, _peers, page) = start();
    page.resize(1440, 900);
    page.wait_visible("#order", false);
    page.resize(360, 800);
    page.wait_visible("#order", true);
    page.script(
        "const order = document.getElementById('order'); order.value = 'outbox'; order.dispatchEvent(new Event('change'))",
    );
    page.eventually(
        "the order",
        "return document.querySelector('[data-sort=outbox]').closest('th').ariaSort",
        |sort| sort == "descending",
    );
    assert_eq!(page.script("return location.hash"), "#sort=outbox");
}

/// Texts whose contrast is too low, and borders of what can be pressed or typed in.
const CONTRAST: &str = r"
const parse = (text) => { const n = text.match(/[\d.]+/g).map(Number); return { rgb: n.slice(0, 3), alpha: n[3] ?? 1 }; };
const luminance = ({ rgb }) => {
  const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ratio = (a, b) => {
  const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
  return (high + 0.05) / (low + 0.05);
};
const ground = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = parse(getComputedStyle(e).backgroundColor);
    if (colour.alpha === 1) return colour;
    if (colour.alpha > 0) throw new Error('a colour that shines through: ' + e.className);
  }
  throw new Error('no ground');
};
const found = [];
let looked = 0;
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const element = texts.currentNode.parentElement;
  if (!texts.currentNode.data.trim() || !element.checkVisibility() || element.closest('.hidden, script, noscript, :disabled')) continue;
  const style = getComputedStyle(element);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  const have = ratio(parse(style.color), ground(element));
  looked += 1;
  if (have < (large ? 3 : 4.5)) found.push(`${have.toFixed(2)} ${texts.currentNode.data.trim()}`);
}
for (const element of document.querySelectorAll('input, button')) {
  if (!element.checkVisibility() || element.disabled) continue;
  const style = getComputedStyle(element);
  const around = ground(element.parentElement);
  if (parseFloat(style.borderTopWidth) > 0 && ratio(parse(style.borderTopColor), around) < 3) found.push(`border of ${element.id || element.textContent}`);
  if (element.placeholder) {
    const have = ratio(parse(getComputedStyle(element, '::placeholder').color), ground(element));
    if (have < 4.5) found.push(`${have.toFixed(2)} ${element.placeholder}`);
  }
}
// Lines of plots, against the card that they are drawn on.
const style = getComputedStyle(document.documentElement);
const probe = document.body.appendChild(document.createElement('i'));
for (const name of ['--accent', '--second']) {
  probe.style.color = style.getPropertyValue(name);
  if (ratio(parse(getComputedStyle(probe).color), ground(document.querySelector('.card'))) < 3) found.push(name);
}
probe.remove();
return [looked, found];
";

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn every_text_can_be_told_from_its_ground_in_both_schemes() {
    let (server, _peers, mut page) = start();
    page.expect_errors("ERR_");
    page.expect_errors("400 (Bad Request)");
    let check = |when: &str| {
        for scheme in ["light", "dark"] {
            page.look(scheme);
            let answer = page.script(CONTRAST);
            assert!(answer[0].as_u64() > Some(50), "only {} texts", answer[0]);
            assert_eq!(answer[1], json!([]), "{when}, {scheme}");
        }
    };
    page.fill("#words", "stat=open");
    page.shows("#words-error", "stat");
    page.click("details.help summary");
    check("with an error");
    page.fill("#words", " ");
    page.wait_visible("#words-error", false);
    page.click("#rows tr[data-place]");
    check("with a session");
    page.click("#session-kick");
    page.click("#confirm-go");
    page.shows("#confirm-error", "token");
    check("with a question");
    page.click("#confirm-cancel");
    page.click("#listeners button");
    page.fill("#token", TOKEN);
    page.click("#confirm-go");
    page.shows("#listeners", "paused");
    check("paused");
    drop(server);
    page.wait_visible("#lost", true);
    check("lost");
}

/// What the browser tells a screen reader: role and name of everything that is not left out.
fn accessible(page: &Page) -> Vec<(String, String)> {
    page.devtools("Accessibility.enable", &json!({}));
    let tree = page.devtools("Accessibility.getFullAXTree", &json!({}));
    let nodes = tree["nodes"].as_array().expect("a tree").iter().filter(|node| node["ignored"] == false);
    let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
    nodes.map(|node| (text(&node["role"]), text(&node["name"]))).collect()
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn a_screen_reader_finds_landmarks_headings_names_and_tables() {
    let (_server, _peers, page) = start();
    page.pass(1);
    let nodes = accessible(&page);
    let has = |role: &str, name: &str| nodes.iter().any(|(of, called)| of == role && called.contains(name));
    const NAMED: [&str; 13] = [
        "button",
        "link",
        "textbox",
        "searchbox",
        "image",
        "canvas",
        "meter",
        "progressbar",
        "grid",
        "columnheader",
        "region",
        "search",
        "dialog",
    ];
    for (role, name) in nodes.iter().filter(|(role, _)| NAMED.contains(&role.as_str())) {
        // The list of what a filter may say is opened by its own words.
        assert!(!name.trim().is_empty(), "a {role} without a name: {nodes:?}");
    }
    for role in ["banner", "main", "search", "status", "meter"] {
        assert!(has(role, ""), "no {role}: {nodes:?}");
    }
    assert!(
        has("heading", "rot13d") && has("heading", "Sessions") && has("grid", "Sessions") && has("region", "Last ends")
    );
    assert!(has("button", "Pause listener") && has("button", "Drain"), "{nodes:?}");
    assert!(has("link", "Skip to the sessions"));
    assert!(nodes.iter().any(|(_, name)| name.starts_with("Live sessions, last 1 minute: now 40")), "{nodes:?}");

    // One heading of the first level, and no level left out.
    let levels = page.script("return [...document.querySelectorAll('h1, h2, h3, h4')].filter((h) => !h.closest('dialog')).map((h) => Number(h.tagName[1]))");
    let levels: Vec<_> = levels.as_array().expect("a list").iter().filter_map(Value::as_u64).collect();
    assert_eq!(levels.iter().filter(|level| **level == 1).count(), 1);
    assert!(levels[0] == 1 && levels.windows(2).all(|two| two[1] <= two[0] + 1), "{levels:?}");

    let semantics = page.script(
        "const of = (selector) => [...document.querySelectorAll(selector)];
         return {
           language: document.documentElement.lang,
           twice: of('[id]').map((e) => e.id).filter((id, at, all) => all.indexOf(id) !== at),
           dangling: of('[aria-labelledby], [aria-describedby], label[for]')
             .flatMap((e) => ['aria-labelledby', 'aria-describedby', 'for'].map((name) => e.getAttribute(name))).filter((id) => id && !document.getElementById(id)),
           scopes: of('table th').filter((th) => !th.scope).length,
           places: of('#rows tr[data-place]').map((row) => Number(row.getAttribute('aria-rowindex'))).every((index, at) => index === at + 2),
           sorted: of('th[aria-sort]').map((th) => th.ariaSort),
           rows: document.getElementById('table').getAttribute('aria-rowcount'),
         }",
    );
    let sorted = ["ascending", "none", "none", "none", "none", "none"];
    let expected = json!({"language": "en", "twice": [], "dangling": [], "scopes": 0, "places": true, "sorted": sorted, "rows": "41"});
    assert_eq!(semantics, expected);
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn the_keyboard_alone_reaches_everything() {
    let (_server, _peers, page) = start();
    page.pass(1);
    // The first stop leads past all numbers.
    page.press(&[key::TAB]);
    assert_eq!(page.focus(), "Skip to the sessions");
    page.picture("skip");
    page.press(&[key::ENTER]);
    page.eventually("the sessions to have the focus", "return document.activeElement.id", |id| id == "sessions");

    // Every stop is seen, and they come in the order of the page.
    let mut stops = Vec::new();
    let ring = "const s = getComputedStyle(document.activeElement); const r = getComputedStyle(document.querySelector('#table tr[aria-selected=true] td') ?? document.body);
                return s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2 || document.activeElement.id === 'table'";
    while !stops.iter().any(|stop| stop == "table") {
        page.press(&[key::TAB]);
        stops.push(page.focus());
        assert_eq!(page.script(ring), true, "the focus is not to be seen on {stops:?}");
        assert!(stops.len() < 30, "{stops:?}");
    }
    assert!(stops.iter().any(|stop| stop == "words"), "{stops:?}");

    // Arrows move in the table; Enter opens, Escape closes, and the focus is back.
    let active = "return document.getElementById(document.getElementById('table').getAttribute('aria-activedescendant'))?.ariaRowIndex ?? ''";
    page.press(&[key::DOWN, key::DOWN, key::DOWN, key::UP]);
    page.eventually("the second session", active, |row| row == "3");
    let seen =
        page.script("return getComputedStyle(document.querySelector('#table tr[aria-selected=true] td')).boxShadow");
    assert_ne!(seen, "none", "the row that keys move from has no ring");
    let id = page.text("#table tr[aria-selected=true] td");
    page.press(&[key::ENTER]);
    page.shows("#session-title", &id);
    page.press(&[key::ESCAPE]);
    page.wait_visible("#session", false);
    assert_eq!(page.focus(), "table");
    page.press(&[key::END]);
    page.eventually("the last session", active, |row| row == "41");
    page.press(&[key::HOME]);
    page.eventually("the first session", active, |row| row == "2");

    // Sorted by a button of the table: the focus stays on it.
    page.script("document.querySelector('[data-sort=lines]').focus()");
    page.press(&[key::ENTER]);
    page.eventually("the order", "return document.querySelector('[data-sort=lines]').closest('th').ariaSort", |sort| {
        sort == "descending"
    });
    assert_eq!(page.focus(), "Lines");

    // A session is kicked without a pointer.
    page.script("document.getElementById('table').focus()");
    page.press(&[key::HOME, key::ENTER]);
    page.wait_visible("#session", true);
    assert_eq!(page.focus(), "session-kick");
    page.press(&[key::ENTER]);
    page.wait_visible("#confirm", true);
    assert_eq!(page.focus(), "option");
    page.press(&[key::TAB, TOKEN, key::ENTER]);
    page.wait_visible("#confirm", false);
    page.shows("#ends", "kicked");
    assert_eq!(page.focus(), "table");

    // Back out of it, too.
    page.press(&[key::SHIFT, key::TAB]);
    assert_ne!(page.focus(), "table");
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn nothing_moves_for_those_who_want_no_motion() {
    let server = Server::start_with_control(&["--linger-timeout", "1h", "--linger-bytes", "1GiB"]);
    let _stays = server.connect();
    let page = Page::of(&server);
    server.post("/api/drain", &json!({"timeout": 3600}));
    page.shows("#state-text", "Draining");
    let moving = "return document.getAnimations().filter((one) => one.playState === 'running').length";
    page.prefer(&[("prefers-reduced-motion", "no-preference")]);
    page.eventually("the dot to move", moving, |moving| *moving == 1);
    page.prefer(&[("prefers-reduced-motion", "reduce")]);
    page.eventually("nothing to move", moving, |moving| *moving == 0);
}
