//! C2: a panic anywhere in user code ends that session only; earlier answers leave; nothing of that actor runs again.

mod support;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use actix::{Actor, ActorContext, AsyncContext, Handler, Message, Running, fut::wrap_future};
use actix_lines::{CloseReason, CloseReport, Framing, Line, LineContext, LineHandler, LineServer, Lines, Overlong};
use support::{Echo, Server, within};

/// The calls that an actor got, in order.
type Calls = Arc<Mutex<Vec<&'static str>>>;

/// Panics at the place that it is named after.
struct Faulty {
    place: &'static str,
    calls: Calls,
    drops: Arc<AtomicUsize>,
}

impl Faulty {
    fn at(&self, place: &'static str) {
        self.calls.lock().unwrap().push(place);
        assert!(place != self.place, "a fault on purpose, at {place}");
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.drops.fetch_add(1, SeqCst);
        self.at("drop");
    }
}

/// Panics when it is dropped.
struct Grenade;

impl Drop for Grenade {
    fn drop(&mut self) {
        panic!("a fault on purpose, in the destructor of a future");
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Poke;

impl Actor for Faulty {
    type Context = LineContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.write(b"hello\n");
        self.at("started");
    }

    fn stopping(&mut self, _: &mut Self::Context) -> Running {
        self.at("stopping");
        Running::Stop
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.at("stopped");
    }
}

impl LineHandler for Faulty {
    fn opened(&mut self, ctx: &mut Self::Context) {
        self.at("opened");
        match self.place {
            "message" => ctx.address().do_send(Poke),
            "notify" => ctx.notify(Poke),
            "future" => {
                ctx.spawn(wrap_future(async {
                    tokio::task::yield_now().await;
                    panic!("a fault on purpose, in a future");
                }));
            }
            "wait" => ctx.wait(wrap_future(async {
                tokio::task::yield_now().await;
                panic!("a fault on purpose, in a wait");
            })),
            "future's drop" => {
                ctx.spawn(wrap_future(async {
                    let _grenade = Grenade;
                    std::future::pending::<()>().await;
                }));
            }
            "finished future's drop" => {
                let grenade = Grenade;
                ctx.spawn(wrap_future(async move { drop(grenade) }));
            }
            "message's drop" => ctx.address().do_send(Live(Grenade)),
            "message never handled" => {
                ctx.address().do_send(Live(Grenade));
                ctx.stop();
            }
            "payload's drop" => ctx.notify(Live(Grenade)),
            "two grenades" => {
                for _ in 0..2 {
                    ctx.spawn(wrap_future(async {
                        let _grenade = Grenade;
                        std::future::pending::<()>().await;
                    }));
                }
            }
            _ => {}
        }
    }

    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
        if line.text() == b"second" {
            self.at("line");
        }
    }

    fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
        while let Some(line) = lines.next(ctx) {
            self.line(line, ctx);
        }
        self.at("batch");
        if self.place == "in place" {
            self.at("in place");
        }
    }

    fn tail(&mut self, _: Line<'_>, _: &mut Self::Context) {
        self.at("tail");
    }

    fn line_too_long(&mut self, _: &mut Self::Context) {
        self.at("line_too_long");
    }

    fn eof(&mut self, ctx: &mut Self::Context) {
        self.at("eof");
        ctx.drain();
    }

    fn closed(&mut self, _: &CloseReport) {
        self.at("closed");
    }
}

impl Handler<Poke> for Faulty {
    type Result = ();
    fn handle(&mut self, _: Poke, _: &mut Self::Context) {
        self.at(if self.place == "notify" { "notify" } else { "message" });
    }
}

/// A message that panics when it is dropped.
#[derive(Message)]
#[rtype(result = "()")]
struct Live(Grenade);

impl Handler<Live> for Faulty {
    type Result = ();
    fn handle(&mut self, live: Live, _: &mut Self::Context) {
        if self.place == "payload's drop" {
            std::panic::panic_any(live.0);
        }
    }
}

/// Has one session panic at `place`; returns what its peer got and the calls that the actor got.
async fn fault(place: &'static str) -> (Vec<u8>, Vec<&'static str>) {
    let calls = Calls::default();
    let drops = Arc::new(AtomicUsize::new(0));
    let (known, counted) = (Arc::clone(&calls), Arc::clone(&drops));
    let factory = move |_: &_| Faulty { place, calls: Arc::clone(&known), drops: Arc::clone(&counted) };
    let framing = Framing::lf().max_line(10).unwrap().overlong(Overlong::Pieces);
    let mut server = Server::start(LineServer::new(factory).framing(framing).workers(1)).await;

    let mut peer = server.connect().await;
    peer.send(b"first\nsecond\noverlong line\ntail").await;
    peer.shutdown_write().await;
    let got = peer.rest().await;
    let report = server.report().await;
    assert_eq!(report.reason, CloseReason::HandlerPanicked, "{place}");
    assert_eq!(report.bytes_out, got.len() as u64, "{place}");
    assert_eq!(drops.load(SeqCst), 1, "{place}: the actor is dropped once");
    let stats = server.handle.stats().await.unwrap();
    assert_eq!((stats.live, stats.closed["handler-panicked"]), (0, 1), "{place}");
    server.end().await;
    let calls = calls.lock().unwrap().clone();
    (got, calls)
}

#[actix::test]
async fn a_panic_in_any_hook_ends_the_session_and_no_hook_runs_after_it() {
    for place in [
        "started",
        "opened",
        "batch",
        "in place",
        "line",
        "line_too_long",
        "tail",
        "eof",
        "stopping",
        "closed",
        "stopped",
        "message",
        "notify",
    ] {
        let (got, calls) = fault(place).await;
        let at = calls.iter().position(|call| *call == place).unwrap_or_else(|| panic!("{place} was never called"));
        assert_eq!(calls[at + 1..], ["drop"], "{place}: calls after the panic");
        assert!(got.starts_with(b"hello\n"), "{place}: what was written before is sent, not {got:?}");
        if ["eof", "stopping", "closed", "stopped"].contains(&place) {
            assert_eq!(got, b"hello\nfirst\nsecond\noverlong line\n", "{place}: every answer was written before");
        }
        if place == "line" {
            assert_eq!(got, b"hello\nfirst\nsecond\n");
        }
    }
}

#[actix::test]
async fn a_panic_in_a_future_or_a_destructor_ends_the_session_only() {
    for place in [
        "future",
        "wait",
        "future's drop",
        "finished future's drop",
        "message's drop",
        "message never handled",
        "payload's drop",
        "two grenades",
        "drop",
    ] {
        let (got, calls) = fault(place).await;
        assert!(got.starts_with(b"hello\n"), "{place}");
        assert_eq!(calls.last(), Some(&"drop"), "{place}");
    }
}

#[actix::test]
async fn others_are_served_while_sessions_of_the_same_worker_panic() {
    struct Split(Option<Echo>);
    impl Actor for Split {
        type Context = LineContext<Self>;
    }
    impl LineHandler for Split {
        fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
            assert!(line.text() != b"panic", "a fault on purpose");
            ctx.write(&line);
            if line.text() == b"stop" {
                self.0.take();
                ctx.stop();
            }
        }
    }
    let mut server = Server::start(LineServer::new(|_| Split(Some(Echo))).workers(1)).await;
    let mut steady = server.connect().await;
    for _ in 0..50 {
        let mut victim = server.connect().await;
        victim.send(b"before\npanic\nafter\n").await;
        steady.send(b"still there?\n").await;
        steady.expect(b"still there?\n").await;
        victim.expect(b"before\n").await;
        victim.expect_eof().await;
        drop(victim);
        let report = server.report().await;
        assert_eq!((report.reason, report.undelivered_bytes), (CloseReason::HandlerPanicked, 6));
    }
    steady.send(b"stop\n").await;
    assert_eq!(steady.rest().await, b"stop\n");
    drop(steady);
    assert_eq!(server.report().await.reason, CloseReason::ClosedByHandler);
    assert_eq!(server.handle.stats().await.unwrap().closed["handler-panicked"], 50);
    server.end().await;
}

#[actix::test]
async fn a_factory_that_panics_costs_its_connection_only() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let factory = move |_: &_| {
        assert!(counted.fetch_add(1, SeqCst) != 0, "a fault on purpose, in the factory");
        Echo
    };
    let mut server = Server::start(LineServer::new(factory)).await;
    let mut first = server.connect().await;
    first.expect_eof().await;
    assert_eq!(server.report().await.reason, CloseReason::HandlerPanicked);
    let mut second = server.connect().await;
    second.send(b"hello\n").await;
    second.expect(b"hello\n").await;
    drop(second);
    server.report().await;
    server.end().await;
}

#[actix::test]
async fn a_panic_while_the_arbiter_ends_costs_no_report() {
    for place in ["stopping", "closed", "stopped", "future's drop", "drop"] {
        let calls = Calls::default();
        let known = Arc::clone(&calls);
        let factory = move |_: &_| Faulty { place, calls: Arc::clone(&known), drops: Arc::default() };
        let mut server = Server::start(LineServer::new(factory).workers(1)).await;
        let mut peers = Vec::new();
        for _ in 0..3 {
            let mut peer = server.connect().await;
            peer.send(b"first\n").await;
            peer.expect(b"hello\nfirst\n").await;
            peers.push(peer);
        }
        server.handle.arbiters()[0].stop();
        for _ in 0..3 {
            assert_eq!(server.report().await.reason, CloseReason::HandlerPanicked, "{place}");
        }
        within("the end", server.handle.finished()).await.unwrap_err();
        let calls = calls.lock().unwrap();
        assert_eq!(calls.iter().filter(|call| **call == "drop").count(), 3, "{place}: {calls:?}");
    }
}
