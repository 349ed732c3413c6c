//! A session's context is an actix context: spawn, wait, cancel, timers, messages, stop and its veto, besides the socket.

mod support;

use std::{cell::Cell, rc::Rc, time::Duration};

use actix::{
    Actor, ActorContext, ActorState, Addr, AsyncContext, Handler, Message, Running, SpawnHandle, StreamHandler,
    fut::wrap_future,
};
use actix_lines::{CloseReason, CloseReport, Framing, Line, LineContext, LineHandler, LineServer, Transport};
use support::{Log, Server, converse, eventually, pass, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

type Ctx<'a> = &'a mut LineContext<Scripted>;

/// An actor whose hooks are closures, so that each test reads as a script.
struct Scripted {
    calls: Log<String>,
    opened: fn(&mut Scripted, Ctx),
    line: fn(&mut Scripted, Line<'_>, Ctx),
    veto: Rc<Cell<u32>>,
    handle: Option<SpawnHandle>,
}

impl Scripted {
    fn new(opened: fn(&mut Scripted, Ctx), line: fn(&mut Scripted, Line<'_>, Ctx)) -> (Self, Log<String>) {
        let calls = Log::default();
        (Self { calls: Rc::clone(&calls), opened, line, veto: Rc::default(), handle: None }, calls)
    }

    fn call(&self, what: impl Into<String>) {
        self.calls.borrow_mut().push(what.into());
    }
}

impl Actor for Scripted {
    type Context = LineContext<Self>;

    fn started(&mut self, ctx: Ctx) {
        assert_eq!(ctx.state(), ActorState::Running);
        self.call("started");
    }

    fn stopping(&mut self, ctx: Ctx) -> Running {
        assert_ne!(ctx.state(), ActorState::Running);
        self.call("stopping");
        match self.veto.get() {
            0 => Running::Stop,
            left => {
                self.veto.set(left - 1);
                Running::Continue
            }
        }
    }

    fn stopped(&mut self, ctx: Ctx) {
        assert_eq!(ctx.state(), ActorState::Stopped);
        self.call("stopped");
    }
}

impl LineHandler for Scripted {
    fn opened(&mut self, ctx: Ctx) {
        self.call("opened");
        (self.opened)(self, ctx);
    }

    fn line(&mut self, line: Line<'_>, ctx: Ctx) {
        self.call(format!("line {}", String::from_utf8_lossy(line.text())));
        (self.line)(self, line, ctx);
    }

    fn tail(&mut self, tail: Line<'_>, _: Ctx) {
        self.call(format!("tail {}", String::from_utf8_lossy(&tail)));
    }

    fn overlong(&mut self, _: Ctx) {
        self.call("overlong");
    }

    fn eof(&mut self, ctx: Ctx) {
        self.call("eof");
        ctx.drain();
    }

    fn closed(&mut self, report: &CloseReport) {
        self.call(format!("closed {}", report.reason));
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.call("drop");
    }
}

#[derive(Message)]
#[rtype(result = "usize")]
struct Note(&'static str);

impl Handler<Note> for Scripted {
    type Result = usize;
    fn handle(&mut self, Note(text): Note, ctx: Ctx) -> usize {
        self.call(format!("note {text}"));
        ctx.write(text.as_bytes());
        text.len()
    }
}

impl StreamHandler<u32> for Scripted {
    fn handle(&mut self, item: u32, _: Ctx) {
        self.call(format!("item {item}"));
    }
    // The default would stop the session at the end of the stream.
    fn finished(&mut self, _: Ctx) {
        self.call("finished");
    }
}

fn nothing(_: &mut Scripted, _: Ctx) {}

fn echo(_: &mut Scripted, line: Line<'_>, ctx: Ctx) {
    ctx.write(&line);
}

/// Starts a session over an in-memory pair, on a clock that jumps to the next timer whenever nobody has anything to do.
fn start(actor: Scripted) -> DuplexStream {
    tokio::time::pause();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    LineContext::start(Transport::new(ours), Framing::lf(), actor);
    theirs
}

async fn expect(peer: &mut DuplexStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    within(&String::from_utf8_lossy(expected), peer.read_exact(&mut got)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
}

async fn expect_end(mut peer: DuplexStream, expected: &[u8], calls: &Log<String>) {
    let mut got = Vec::new();
    within("EOF", peer.read_to_end(&mut got)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
    drop(peer);
    eventually("the actor to be dropped", async || calls.borrow().last().is_some_and(|call| call == "drop")).await;
}

#[actix::test]
async fn whatever_is_bytes_and_whatever_is_formatted_is_written_in_its_place() {
    // Both in scope: `write!` is neither's.
    use std::{fmt::Write as _, io::Write as _};

    struct Broken;
    impl std::fmt::Display for Broken {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("half of it, ")?;
            Err(std::fmt::Error)
        }
    }
    let (actor, _) = Scripted::new(nothing, |_, line, ctx| {
        ctx.write("text, ");
        ctx.write(String::from("a string, "));
        ctx.write(b"bytes, ");
        ctx.write(vec![b'a'; 3]);
        writeln!(ctx, " {}: {:>5}", line.len(), 4.5);
        write!(ctx, "no arguments, ");
        write!(ctx, "{Broken} and no more");
        ctx.write_all(b"io, ").unwrap();
        ctx.write_char('\u{e9}').unwrap();
        ctx.flush().unwrap();
        writeln!(ctx);
    });
    let expected = "text, a string, bytes, aaa 5:   4.5\nno arguments, half of it, io, \u{e9}\n";
    assert_eq!(String::from_utf8_lossy(&converse(Framing::lf(), actor, &[b"line\n"]).await), expected);
}

#[actix::test]
async fn hooks_come_in_their_order() {
    let (actor, calls) = Scripted::new(nothing, echo);
    let framing = Framing::lf().max_line(5).unwrap();
    assert_eq!(converse(framing, actor, &[b"one\ntoo long\ntail"]).await, b"one\ntoo long\n");
    eventually("the end", async || calls.borrow().last().is_some_and(|call| call == "drop")).await;
    let expected = "started, opened, line one, overlong, line too l, line ong, tail tail, eof, stopping, \
                    closed peer-eof, stopped, drop";
    assert_eq!(calls.take().join(", "), expected);
}

#[actix::test]
async fn a_veto_keeps_the_session_going_with_every_line() {
    let (actor, calls) = Scripted::new(nothing, |_, line, ctx| {
        ctx.write(&line);
        ctx.stop();
    });
    actor.veto.set(2);
    let mut peer = start(actor);
    peer.write_all(b"one\ntwo\nthree\nfour\n").await.unwrap();
    expect_end(peer, b"one\ntwo\nthree\n", &calls).await;
    assert_eq!(calls.borrow().iter().filter(|call| *call == "stopping").count(), 3);
}

#[actix::test]
async fn terminate_asks_nobody_and_sends_nothing_more() {
    let (actor, calls) = Scripted::new(nothing, |actor, line, ctx| {
        ctx.write(&line);
        actor.veto.set(9);
        ctx.terminate();
        assert_eq!(ctx.state(), ActorState::Stopped);
    });
    let mut peer = start(actor);
    peer.write_all(b"one\ntwo\n").await.unwrap();
    expect_end(peer, b"", &calls).await;
    assert_eq!(calls.take(), ["started", "opened", "line one", "closed aborted", "stopped", "drop"]);
}

#[actix::test]
async fn a_drain_is_not_asked_about_and_delivers_what_was_read() {
    let (actor, calls) = Scripted::new(nothing, |actor, line, ctx| {
        actor.veto.set(9);
        ctx.write(&line);
        ctx.drain();
    });
    let mut peer = start(actor);
    peer.write_all(b"one\ntwo\npart").await.unwrap();
    expect_end(peer, b"one\ntwo\n", &calls).await;
}

#[actix::test]
async fn spawned_futures_run_can_be_cancelled_and_end_with_the_session() {
    let (actor, calls) = Scripted::new(
        |actor, ctx| {
            ctx.spawn(wrap_future(async {}).map_call("first"));
            let never = ctx.spawn(wrap_future(pass(Duration::from_millis(5))).map_call("cancelled"));
            actor.handle = Some(never);
            ctx.spawn(wrap_future(std::future::pending()).map_call("endless"));
        },
        |actor, line, ctx| {
            assert!(ctx.cancel_future(actor.handle.take().unwrap()));
            ctx.write(&line);
            ctx.run_later(Duration::from_millis(20), |_, ctx| ctx.write(b"later\n"));
        },
    );
    let mut peer = start(actor);
    peer.write_all(b"one\n").await.unwrap();
    expect(&mut peer, b"one\nlater\n").await;
    peer.shutdown().await.unwrap();
    expect_end(peer, b"", &calls).await;
    let calls = calls.take();
    assert!(calls.contains(&"first".to_owned()), "{calls:?}");
    assert!(!calls.contains(&"cancelled".to_owned()) && !calls.contains(&"endless".to_owned()), "{calls:?}");
}

/// `future.map(|..| actor.call(what))`, in fewer words.
trait MapCall {
    fn map_call(self, what: &'static str) -> impl actix::ActorFuture<Scripted, Output = ()> + 'static;
}

impl<F: actix::ActorFuture<Scripted, Output = ()> + 'static> MapCall for F {
    fn map_call(self, what: &'static str) -> impl actix::ActorFuture<Scripted, Output = ()> + 'static {
        actix::ActorFutureExt::map(self, move |(), actor: &mut Scripted, _: Ctx| actor.call(what))
    }
}

#[actix::test]
async fn a_future_may_cancel_itself_and_others_while_they_are_polled() {
    let (actor, calls) = Scripted::new(
        |actor, ctx| {
            let canceller = wrap_future(async {});
            ctx.spawn(actix::ActorFutureExt::map(canceller, |(), actor: &mut Scripted, ctx: Ctx| {
                actor.call("cancels");
                ctx.cancel_future(actor.handle.take().unwrap());
            }));
            actor.handle = Some(ctx.spawn(wrap_future(async {}).map_call("cancelled")));
        },
        echo,
    );
    assert_eq!(converse(Framing::lf(), actor, &[b"one\n"]).await, b"one\n");
    assert!(calls.borrow().contains(&"cancels".to_owned()));
    assert!(!calls.borrow().contains(&"cancelled".to_owned()));
}

#[actix::test]
async fn while_one_waits_nothing_else_happens_and_the_newest_wait_comes_first() {
    tokio::time::pause();
    let (actor, calls) = Scripted::new(
        |_, ctx| {
            ctx.spawn(wrap_future(async {}).map_call("future"));
            ctx.notify(Note("self"));
            ctx.wait(wrap_future(pass(Duration::from_millis(10))).map_call("older wait"));
            ctx.wait(actix::ActorFutureExt::map(
                wrap_future(pass(Duration::from_millis(10))),
                |(), actor: &mut Scripted, ctx: Ctx| {
                    assert!(ctx.waiting());
                    actor.call("newer wait");
                    ctx.wait(wrap_future(tokio::task::yield_now()).map_call("nested wait"));
                },
            ));
            assert!(ctx.waiting());
        },
        echo,
    );
    assert_eq!(converse(Framing::lf(), actor, &[b"one\n"]).await, b"selfone\n");
    assert_eq!(
        calls.borrow()[..8],
        ["started", "opened", "newer wait", "nested wait", "older wait", "future", "note self", "line one"]
    );
}

/// Where a session's address goes.
type Address = Rc<Cell<Option<Addr<Giver>>>>;

/// Gives its address away in the middle of a batch, and counts what it is sent.
struct Giver {
    address: Address,
    pokes: usize,
}

impl Actor for Giver {
    type Context = LineContext<Self>;
}

impl LineHandler for Giver {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        match line.text() {
            b"give" => self.address.set(Some(ctx.address())),
            b"count" => ctx.write(format!("{}\n", self.pokes).as_bytes()),
            _ => ctx.write(&line),
        }
    }
}

#[derive(Message)]
#[rtype(result = "usize")]
struct Poke;

impl Handler<Poke> for Giver {
    type Result = usize;
    fn handle(&mut self, _: Poke, _: &mut Self::Context) -> usize {
        self.pokes += 1;
        self.pokes
    }
}

#[actix::test]
async fn an_address_made_inside_a_line_works_and_losing_it_does_not_end_the_session() {
    let address = Address::default();
    let (ours, mut peer) = tokio::io::duplex(1024);
    LineContext::start(Transport::new(ours), Framing::lf(), Giver { address: Rc::clone(&address), pokes: 0 });
    peer.write_all(b"give\nhello\n").await.unwrap();
    expect(&mut peer, b"hello\n").await;
    let giver = address.take().unwrap();
    assert_eq!(within("an answer", giver.send(Poke)).await.unwrap(), 1);
    let weak = giver.downgrade();
    drop(giver);
    peer.write_all(b"count\n").await.unwrap();
    expect(&mut peer, b"1\n").await;
    assert_eq!(within("an answer", weak.upgrade().unwrap().send(Poke)).await.unwrap(), 2);
    peer.shutdown().await.unwrap();
    let mut rest = Vec::new();
    within("EOF", peer.read_to_end(&mut rest)).await.unwrap();
    drop(peer);
    eventually("the session to be gone", async || weak.upgrade().is_none()).await;
}

#[actix::test]
async fn a_flood_of_messages_does_not_keep_the_socket_waiting() {
    let address = Address::default();
    let (ours, mut peer) = tokio::io::duplex(1024);
    LineContext::start(Transport::new(ours), Framing::lf(), Giver { address: Rc::clone(&address), pokes: 0 });
    peer.write_all(b"give\nhello\n").await.unwrap();
    expect(&mut peer, b"hello\n").await;
    let giver = address.take().unwrap();
    for _ in 0..100_000 {
        giver.do_send(Poke);
    }
    peer.write_all(b"count\n").await.unwrap();
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.push(within("the count", peer.read_u8()).await.unwrap());
    }
    let count: usize = String::from_utf8(line).unwrap().trim().parse().unwrap();
    assert!(count < 10_000, "{count} messages came before the line");
    assert_eq!(within("an answer", giver.send(Poke)).await.unwrap(), 100_001, "none is lost");
}

#[actix::test]
async fn streams_and_timers_are_those_of_actix() {
    let (actor, calls) = Scripted::new(
        |_, ctx| {
            ctx.add_stream(futures::stream::iter([1, 2, 3]));
            ctx.notify_later(Note("late "), Duration::from_millis(10));
            ctx.run_interval(Duration::from_millis(5), |actor, ctx| {
                actor.call("tick");
                if actor.calls.borrow().iter().filter(|call| *call == "tick").count() == 4 {
                    ctx.write(b"four ticks\n");
                    ctx.stop();
                }
            });
        },
        echo,
    );
    let peer = start(actor);
    expect_end(peer, b"late four ticks\n", &calls).await;
    let calls = calls.take();
    let streamed: Vec<_> = calls.iter().filter(|call| call.starts_with("item") || *call == "finished").collect();
    assert_eq!(streamed, ["item 1", "item 2", "item 3", "finished"]);
}

#[actix::test]
async fn pause_stops_the_delivery_and_resume_goes_on_where_it_was() {
    tokio::time::pause();
    let (actor, calls) = Scripted::new(nothing, |_, line, ctx| {
        ctx.write(&line);
        if line.text() == b"pause" {
            ctx.pause();
            ctx.run_later(Duration::from_millis(20), |actor, ctx| {
                actor.call("resumes");
                ctx.resume();
            });
        }
    });
    assert_eq!(converse(Framing::lf(), actor, &[b"one\npause\ntwo\n", b"three\n"]).await, b"one\npause\ntwo\nthree\n");
    let calls = calls.take();
    let at = |what: &str| calls.iter().position(|call| call == what).unwrap();
    assert!(at("line pause") < at("resumes") && at("resumes") < at("line two"), "{calls:?}");
}

#[actix::test]
async fn the_framing_may_change_between_two_lines_of_one_read() {
    let (actor, calls) = Scripted::new(nothing, |_, line, ctx| match line.text() {
        b"nul" => ctx.set_framing(Framing::nul()),
        b"lf" => ctx.set_framing(Framing::lf()),
        _ => ctx.write(&line),
    });
    let input = b"one\nnul\ntwo\nstill two\0lf\0three\n";
    let expected = b"one\ntwo\nstill two\0three\n";
    assert_eq!(converse(Framing::lf(), actor, &[input]).await, expected);
    let (actor, again) = Scripted::new(nothing, |_, line, ctx| match line.text() {
        b"nul" => ctx.set_framing(Framing::nul()),
        b"lf" => ctx.set_framing(Framing::lf()),
        _ => ctx.write(&line),
    });
    let bytewise: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(converse(Framing::lf(), actor, &bytewise).await, expected);
    assert_eq!(*calls.borrow(), *again.borrow());
}

#[actix::test]
async fn the_framing_may_change_from_a_message_while_bytes_are_held() {
    let (actor, calls) = Scripted::new(
        |_, ctx| {
            ctx.run_later(Duration::from_millis(10), |_, ctx| {
                ctx.set_framing(Framing::new(actix_lines::Delimiter::Byte(b';')))
            });
        },
        echo,
    );
    let mut peer = start(actor);
    peer.write_all(b"one;two;part").await.unwrap();
    expect(&mut peer, b"one;two;").await;
    drop(peer);
    eventually("the end", async || calls.borrow().last().is_some_and(|call| call == "drop")).await;
}

#[actix::test]
async fn a_stop_may_come_from_a_wait_a_future_and_a_timer_and_each_may_be_vetoed() {
    let from: [fn(&mut Scripted, Ctx); 3] = [
        |_, ctx| {
            ctx.wait(actix::ActorFutureExt::map(wrap_future(async {}), |(), _: &mut Scripted, ctx: Ctx| ctx.stop()))
        },
        |_, ctx| {
            ctx.spawn(actix::ActorFutureExt::map(wrap_future(async {}), |(), _: &mut Scripted, ctx: Ctx| ctx.stop()));
        },
        |_, ctx| {
            ctx.run_later(Duration::from_millis(1), |_, ctx| ctx.stop());
        },
    ];
    tokio::time::pause();
    for (at, opened) in from.into_iter().enumerate() {
        for veto in [0, 1] {
            let (actor, calls) = Scripted::new(opened, echo);
            actor.veto.set(veto);
            let (ours, mut peer) = tokio::io::duplex(1024);
            LineContext::start(Transport::new(ours), Framing::lf(), actor);
            eventually("the question", async || calls.borrow().iter().any(|call| call == "stopping")).await;
            // After a veto the session is as before, and stops for the peer's EOF.
            if veto > 0 {
                peer.write_all(b"still here\n").await.unwrap();
                expect(&mut peer, b"still here\n").await;
                peer.shutdown().await.unwrap();
            }
            expect_end(peer, b"", &calls).await;
            let asked = calls.borrow().iter().filter(|call| *call == "stopping").count();
            assert_eq!(asked, veto as usize + 1, "way {at}: {:?}", calls.borrow());
        }
    }
}

/// Calls everything there is at its end.
struct Unruly {
    calls: Log<&'static str>,
    address: Rc<Cell<Option<Addr<Unruly>>>>,
}

impl Unruly {
    fn call_everything(ctx: &mut LineContext<Self>) {
        ctx.spawn(wrap_future(std::future::pending()));
        ctx.wait(wrap_future(std::future::pending()));
        ctx.run_interval(Duration::from_millis(1), |_, _| panic!("the session has ended"));
        ctx.set_framing(Framing::nul());
        ctx.pause();
        ctx.drain();
        ctx.stop();
        ctx.resume();
        ctx.cancel_future(SpawnHandle::default());
        assert!(ctx.connection().id().get() > 0);
    }
}

impl Actor for Unruly {
    type Context = LineContext<Self>;

    fn stopping(&mut self, ctx: &mut Self::Context) -> Running {
        self.calls.borrow_mut().push("stopping");
        Self::call_everything(ctx);
        ctx.write(b"bye\n");
        Running::Stop
    }

    fn stopped(&mut self, ctx: &mut Self::Context) {
        self.calls.borrow_mut().push("stopped");
        Self::call_everything(ctx);
        self.address.set(Some(ctx.address()));
        ctx.terminate();
        assert_eq!(ctx.outbox_len(), 0);
    }
}

impl LineHandler for Unruly {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
        if line.text() == b"stop" {
            ctx.stop();
        }
    }

    fn closed(&mut self, _: &CloseReport) {
        self.calls.borrow_mut().push("closed");
    }
}

#[actix::test]
async fn whatever_is_called_at_the_end_changes_nothing() {
    for input in [&b"stop\n"[..], b"end\n"] {
        let calls = Log::default();
        let address = Rc::default();
        let actor = Unruly { calls: Rc::clone(&calls), address: Rc::clone(&address) };
        let got = converse(Framing::lf(), actor, &[input]).await;
        assert_eq!(got, [input, b"bye\n"].concat());
        eventually("the end", async || calls.borrow().len() == 3).await;
        assert_eq!(calls.take(), ["stopping", "closed", "stopped"]);
        let late = address.take().unwrap();
        eventually("the late address to know", async || !late.connected()).await;
    }
}

/// Ends its session from a timer.
struct Ending;

impl Actor for Ending {
    type Context = LineContext<Self>;
}

impl LineHandler for Ending {
    fn opened(&mut self, ctx: &mut Self::Context) {
        ctx.run_later(Duration::from_millis(5), |_, ctx| {
            ctx.write(b"time is up\n");
            ctx.drain();
            ctx.drain();
        });
    }
    fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {}
}

#[actix::test]
async fn a_session_may_end_from_a_timer_while_its_peer_is_silent() {
    let mut server = Server::start(LineServer::new(|_| Ending)).await;
    let mut peer = server.connect().await;
    assert_eq!(peer.rest().await, b"time is up\n");
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::ClosedByHandler);
    server.end().await;
}
