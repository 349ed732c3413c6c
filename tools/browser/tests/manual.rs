//! The picture in the manual is one of the page: `PAGE_BLESS=1 cargo test -p browser --test manual -- --ignored` makes it anew,
//! from five minutes of traffic. `pngquant --force --strip --quality 85-100 --output docs/page.png docs/page.png` makes it small.

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;
use support::{Page, Server};

/// Most bytes of the picture.
const MOST: u64 = 150_000;

fn file(path: &str) -> String {
    format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_manual_shows_the_page_and_says_what_it_shows() {
    let picture = fs::read(file("docs/page.png")).expect("docs/page.png");
    assert!(picture.starts_with(b"\x89PNG\r\n\x1a\n"));
    assert!((picture.len() as u64) < MOST, "{} bytes", picture.len());
    let manual = fs::read_to_string(file("docs/operating.md")).expect("the manual");
    let (before, _) = manual.split_once("](page.png)").expect("the picture in the manual");
    let (_, described) = before.rsplit_once("![").expect("an image");
    assert!(described.len() > 60, "{described:?} does not say what is to be seen");
}

#[test]
#[ignore = "needs chromium; tests/run runs it"]
fn the_picture_is_made_from_a_server_with_traffic() {
    // Five minutes of traffic are for the picture alone.
    if std::env::var_os("PAGE_BLESS").is_none() {
        return;
    }
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("as many as are allowed");
    let server = Server::start_with_control(&["--max-age", "4m", "--workers", "2", "--max-sessions", "1300"]);
    let page = Page::of(&server);
    page.devtools("Emulation.setScrollbarsHidden", &json!({"hidden": true}));
    let mut peers: Vec<_> = (0..1000).map(|_| server.connect()).collect();
    for tenth in 0..3100_u32 {
        let wave = (f64::from(tenth) / 300.0).sin();
        // Peers come and go in a long wave, and talk in a shorter one.
        let wanted = (1000.0 + 320.0 * wave) as usize;
        while peers.len() > wanted.min(1300) {
            peers.swap_remove(fastrand(tenth) % peers.len());
        }
        for _ in peers.len()..wanted {
            if peers.len() < 1300 {
                peers.push(server.connect());
            } else {
                let _ = std::net::TcpStream::connect(server.address);
            }
        }
        let lines = 60 + (40.0 * (f64::from(tenth) / 70.0).sin()) as u32;
        for line in 0..lines {
            let length = 20 + fastrand(tenth * 331 + line) % 60;
            let at = fastrand(tenth * 97 + line) % peers.len();
            if !talk(&mut peers[at], &format!("{}\n", "ebg ".repeat(length / 4))) {
                peers.swap_remove(at);
            }
        }
        match tenth {
            500 | 1500 | 3000 => {
                let id = server.get("/api/sessions?limit=1&sort=idle")["sessions"][0]["id"].clone();
                server.post("/api/kick", &json!({"q": format!("#{id}"), "goodbye": "so long"}));
            }
            3050 => page.click("[data-sort=lines]"),
            3099 => drop(fs::copy(page.picture("manual"), file("docs/page.png")).expect("the manual can be written")),
            _ => {}
        }
        thread::sleep(Duration::from_millis(80));
    }
}

/// Sends a line and reads what comes; false if the session has ended.
fn talk(peer: &mut TcpStream, line: &str) -> bool {
    let mut answer = [0; 256];
    peer.write_all(line.as_bytes()).and_then(|()| peer.read(&mut answer)).is_ok_and(|bytes| bytes > 0)
}

/// Numbers that look like chance and are always the same.
fn fastrand(of: u32) -> usize {
    (of.wrapping_mul(2_654_435_761) >> 8) as usize
}
