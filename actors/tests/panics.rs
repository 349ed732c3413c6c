//! C2: a panic anywhere in user code ends that session only; earlier answers leave; nothing of that actor runs again.

mod support;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use actix::{Actor, ActorContext, AsyncContext, Handler, Message, Running, fut::wrap_future};
use actix_lines::{
    CloseReason, CloseReport, Framing, Line, LineContext, LineHandler, LineServer, LineSession, Lines, Overlong, Room,
    Transport,
    control::SessionFilter,
    limits::{Limits, OutboxLimit, OverLimit},
};
use bytes::Bytes;
use support::{Echo, Peer, Server, eventually, within};

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

    fn stopped(&mut self, ctx: &mut Self::Context) {
        self.at("stopped");
        if self.place == "begun when stopped" {
            for _ in 0..2 {
                ctx.spawn(wrap_future(async {
                    let _grenade = Grenade;
                    std::future::pending::<()>().await;
                }));
                ctx.address().do_send(Live(Grenade));
            }
        }
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
            "messages never handled" => {
                for _ in 0..3 {
                    ctx.address().do_send(Live(Grenade));
                }
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

    fn overlong(&mut self, _: &mut Self::Context) {
        self.at("overlong");
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
        "started", "opened", "batch", "in place", "line", "overlong", "tail", "eof", "stopping", "closed", "stopped",
        "message", "notify",
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
        "messages never handled",
        "begun when stopped",
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
async fn what_a_panic_of_the_factory_carries_may_panic_as_well() {
    /// A fault on purpose, in the destructor of the panic's payload.
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("a fault on purpose, in a payload");
        }
    }
    for workers in [1, 2] {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let factory = move |_: &_| {
            if counted.fetch_add(1, SeqCst) < 10 {
                std::panic::panic_any(Bomb);
            }
            Echo
        };
        let mut server = Server::start(LineServer::new(factory).workers(workers)).await;
        for _ in 0..10 {
            server.connect().await.expect_eof().await;
            assert_eq!(server.report().await.reason, CloseReason::HandlerPanicked);
        }
        let mut last = server.connect().await;
        last.send(b"hello\n").await;
        last.expect(b"hello\n").await;
        drop(last);
        server.report().await;
        server.end().await;
    }
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
        within("the end", server.handle.wait()).await.unwrap_err();
        let calls = calls.lock().unwrap();
        assert_eq!(calls.iter().filter(|call| **call == "drop").count(), 3, "{place}: {calls:?}");
    }
}

/// Owns bytes and panics when the last reference to them is gone, which is counted.
struct Owner(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.1.fetch_add(1, SeqCst);
        panic!("a fault on purpose, in the destructor of bytes");
    }
}

/// A line of so many bytes, shared or copied by its length.
fn owned(len: usize, gone: &Arc<AtomicUsize>) -> Bytes {
    let mut line = vec![b'x'; len];
    line[len - 1] = b'\n';
    Bytes::from_owner(Owner(line, Arc::clone(gone)))
}

/// Short enough to be copied into an outbox, and long enough to be shared.
const LENGTHS: [usize; 2] = [10, 5000];

/// Answers a number with a line of so many bytes whose owner panics in its destructor; the first word says what it does then.
struct Lender(Arc<AtomicUsize>);

impl Actor for Lender {
    type Context = LineContext<Self>;
}

impl LineHandler for Lender {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        let text = String::from_utf8_lossy(line.text()).into_owned();
        let Some((word, len)) = text.split_once(' ') else { return ctx.write(&line) };
        let len = len.parse().unwrap();
        for _ in 0..2 {
            ctx.write_bytes(owned(len, &self.0));
        }
        match word {
            "abort" => ctx.abort(),
            "stop" => ctx.stop(),
            "panic" => panic!("a fault on purpose, after bytes were written"),
            _ => {}
        }
    }
}

async fn expect_service(peer: &mut Peer) {
    peer.send(b"there?\n").await;
    peer.expect(b"there?\n").await;
}

async fn all_gone(gone: &AtomicUsize, count: usize, what: &str) {
    eventually(what, async || gone.load(SeqCst) >= count).await;
    assert_eq!(gone.swap(0, SeqCst), count, "{what}");
}

#[actix::test]
async fn a_panic_in_the_destructor_of_bytes_that_were_pushed_ends_nobody() {
    let gone = Arc::new(AtomicUsize::new(0));
    let limits = Limits::builder().outbox_limit(OutboxLimit { hard: 100_000, ..OutboxLimit::default() });
    let limits = limits.refuse_line(owned(10, &gone)).max_sessions(4).over_limit(OverLimit::Refuse).build().unwrap();
    let lent = Arc::clone(&gone);
    let mut server =
        Server::start(LineServer::new(move |_| Lender(Arc::clone(&lent))).limits(limits.clone()).workers(1)).await;
    let mut steady = server.connect().await;
    expect_service(&mut steady).await;
    let steady_id = server.sessions().await[0].id;
    let all = SessionFilter::default();
    for len in LENGTHS {
        // Two at once, each to two sessions.
        let mut other = server.connect().await;
        expect_service(&mut other).await;
        for _ in 0..2 {
            assert_eq!(server.handle.push(all.clone(), owned(len, &gone)).await.unwrap().sessions, 2);
        }
        for peer in [&mut steady, &mut other] {
            let mut expected = vec![b'x'; 2 * len];
            expected[len - 1] = b'\n';
            expected[2 * len - 1] = b'\n';
            peer.expect(&expected).await;
        }
        all_gone(&gone, 2, "what was pushed and sent").await;
        // To nobody.
        let nobody = all.clone().outbox_at_least(usize::MAX);
        assert_eq!(server.handle.push(nobody, owned(len, &gone)).await.unwrap().sessions, 0);
        all_gone(&gone, 1, "what was pushed to nobody").await;
        // A goodbye.
        let id = server.sessions().await.into_iter().map(|session| session.id).find(|id| *id != steady_id).unwrap();
        assert_eq!(server.handle.kick(SessionFilter::id(id), owned(len, &gone)).await.unwrap(), 1);
        assert_eq!(other.rest().await.len(), len);
        drop(other);
        assert_eq!(server.report().await.reason, CloseReason::Kicked);
        all_gone(&gone, 1, "a goodbye").await;
        expect_service(&mut steady).await;
    }
    // More than an outbox may hold.
    assert_eq!(server.handle.push(all.clone(), owned(200_000, &gone)).await.unwrap().dropped, 1);
    all_gone(&gone, 1, "what was refused").await;
    // What refused connections were sent.
    drop(limits);
    server.handle.set_limits(Limits::default()).await.unwrap();
    all_gone(&gone, 1, "the line of limits that are no more").await;
    expect_service(&mut steady).await;
    let stats = server.handle.stats().await.unwrap();
    assert_eq!((stats.live, stats.closed["kicked"], stats.closed.len()), (1, 2, 1), "{stats:?}");
    // The goodbye of the end.
    let goodbye = actix_lines::control::Drain {
        goodbye: owned(5000, &gone),
        ..actix_lines::control::Drain::within(support::PATIENCE)
    };
    let drained = server.handle.supervisor().send(goodbye);
    let goodbyes = async {
        let rest = steady.rest().await;
        drop(steady);
        rest.len()
    };
    let (report, rest) = within("the drain", async { tokio::join!(drained, goodbyes) }).await;
    assert_eq!((report.unwrap().ended, rest), (1, 5000));
    within("the end of the workers", server.handle.wait()).await.unwrap();
    let handle = server.handle.clone();
    drop(server);
    drop(handle);
    all_gone(&gone, 1, "the last goodbye").await;
}

#[actix::test]
async fn a_panic_in_the_destructor_of_bytes_that_were_written_ends_nobody() {
    let gone = Arc::new(AtomicUsize::new(0));
    let lent = Arc::clone(&gone);
    let mut server = Server::start(LineServer::new(move |_| Lender(Arc::clone(&lent))).workers(1)).await;
    let mut steady = server.connect().await;
    for len in LENGTHS {
        // Sent: its session goes on.
        steady.send(format!("write {len}\n").as_bytes()).await;
        let mut expected = vec![b'x'; 2 * len];
        expected[len - 1] = b'\n';
        expected[2 * len - 1] = b'\n';
        steady.expect(&expected).await;
        all_gone(&gone, 2, "what was sent").await;
        for (word, reason, unsent) in [
            ("abort", CloseReason::Aborted, 2 * len),
            ("stop", CloseReason::ClosedByHandler, 0),
            ("panic", CloseReason::HandlerPanicked, 0),
        ] {
            let mut peer = server.connect().await;
            peer.send(format!("{word} {len}\n").as_bytes()).await;
            if word == "abort" {
                let mut rest = Vec::new();
                let _ = tokio::io::AsyncReadExt::read_to_end(&mut peer.stream, &mut rest).await;
            } else {
                assert_eq!(peer.rest().await.len(), 2 * len);
            }
            drop(peer);
            let report = server.report().await;
            assert_eq!((report.reason, report.unsent_bytes), (reason, unsent as u64), "{word} {len}");
            all_gone(&gone, 2, word).await;
            expect_service(&mut steady).await;
        }
        // Not sent when the arbiter, or whoever makes the actor, ends the session.
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let (ours, _theirs) = tokio::io::duplex(64);
            LineSession::new(Transport::new(ours)).create(|ctx: &mut LineContext<Echo>| -> Echo {
                ctx.write_bytes(owned(len, &gone));
                ctx.write_bytes(owned(len, &gone));
                panic!("a fault on purpose, where an actor is made");
            })
        }));
        assert!(made.is_err());
        all_gone(&gone, 2, "what was written by a session that was never made").await;
    }
    drop(steady);
    assert_eq!(server.report().await.reason, CloseReason::PeerEof);
    server.end().await;
}

#[actix::test]
async fn a_panic_in_the_destructor_of_bytes_in_a_deaf_peers_outbox_ends_nobody() {
    let gone = Arc::new(AtomicUsize::new(0));
    let mut server = Server::start(LineServer::new(|_| Echo).workers(1)).await;
    let mut steady = server.connect().await;
    expect_service(&mut steady).await;
    let deaf = server.connect().await;
    eventually("the second session", async || server.sessions().await.len() == 2).await;
    let id = server.sessions().await[1].id;
    let mut pushed = 0;
    // Until the kernel takes no more and the outbox has no room.
    while server.handle.push(SessionFilter::id(id), owned(50_000, &gone)).await.unwrap().sessions == 1 {
        pushed += 1;
        expect_service(&mut steady).await;
    }
    assert!(server.sessions().await[1].outbox_bytes > 500_000);
    deaf.reset();
    let report = server.report().await;
    assert_eq!(report.bytes_out + report.unsent_bytes, pushed * 50_000, "{report:?}");
    all_gone(&gone, pushed as usize + 1, "what was not read").await;
    expect_service(&mut steady).await;
    // Nor is anybody ended by what nobody hears.
    let room = Room::new();
    room.say(owned(5000, &gone));
    all_gone(&gone, 1, "what was said to nobody").await;
    drop(steady);
    server.report().await;
    server.end().await;
}
