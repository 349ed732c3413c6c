//! Of a flood of events the log has one message each ten seconds, and behind the last one the number that it left out.

mod support;

use std::sync::{Mutex, MutexGuard};

use actix::Actor;
use actix_lines::{Line, LineContext, LineHandler, LineServer};
use support::{Server, eventually, pause};

/// Messages, each with its `count`.
static LOGGED: Mutex<Vec<(String, Option<u64>)>> = Mutex::new(Vec::new());

struct Keep;

impl log::Log for Keep {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let count = record.key_values().get("count".into()).and_then(|count| count.to_u64());
        logged().push((record.args().to_string(), count));
    }

    fn flush(&self) {}
}

fn logged() -> MutexGuard<'static, Vec<(String, Option<u64>)>> {
    LOGGED.lock().unwrap()
}

/// Panics at every line.
struct Picky;

impl Actor for Picky {
    type Context = LineContext<Self>;
}

impl LineHandler for Picky {
    fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {
        panic!("as a parser may");
    }
}

#[actix::test]
async fn the_events_of_a_flood_are_all_counted_when_it_is_over() {
    log::set_logger(&Keep).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    pause();
    let mut server = Server::start(LineServer::new(|_| Picky).on_current_arbiter()).await;
    for _ in 0..5 {
        let mut peer = server.connect().await;
        peer.send(b"x\n").await;
        drop(peer);
        server.report().await;
    }
    let panics = |begin: &str| -> Vec<_> {
        let is_it = |(text, _): &&(String, Option<u64>)| text.contains("panicked") && text.contains(begin);
        logged().iter().filter(is_it).map(|(_, count)| *count).collect()
    };
    // The clock jumps as often as nobody has anything to do, so some may have come more than ten seconds later.
    let total = || logged().iter().filter_map(|(text, count)| count.filter(|_| text.contains("panicked"))).sum::<u64>();
    assert!(!panics("session #").is_empty(), "{:?}", logged());
    eventually("all to be counted", async || total() == 5).await;
    server.end().await;
    assert_eq!(total(), 5, "{:?}", logged());

    // One whose server ends before it is over is counted, too.
    let mut server = Server::start(LineServer::new(|_| Picky).on_current_arbiter()).await;
    for _ in 0..3 {
        let mut peer = server.connect().await;
        peer.send(b"x\n").await;
        drop(peer);
        server.report().await;
    }
    server.end().await;
    eventually("all to be counted", async || total() == 8).await;
    let lasts = panics(" more session");
    assert!(!lasts.is_empty(), "no message ends a flood: {:?}", logged());
}
