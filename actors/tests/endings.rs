//! A session's last words: `ending` is called once, whatever ends it but a cut or a panic, with the reason that the report
//! has; what it writes is the last that the peer reads. `idle` decides at the idle timeout.

mod support;

use std::{future::pending, io, time::Duration};

use actix::{Actor, ActorContext, ActorState, AsyncContext, Running, fut::ActorFutureExt, fut::wrap_future};
use actix_lines::{
    CloseReason, CloseReport, Framing, Idle, Line, LineContext, LineHandler, LineServer, LineSession, Lines, Overlong,
    Transport,
    connect::{Connector, Disconnect, GetSession},
    control::{Drain, SessionFilter},
    limits::{Limits, LimitsBuilder, OutboxLimit, OutboxPolicy},
    testing::{FaultyStream, MemoryCapacity, StreamCall, memory_pair},
};
use support::{Echo, PATIENCE, Server, pass, pause, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::Instant,
};

const SECOND: Duration = Duration::from_secs(1);

/// What a session does at its end, besides its words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Whim {
    #[default]
    None,
    /// Tries everything that might keep the session from ending.
    Clings,
    Aborts,
    Panics,
    /// Says so much that no socket takes it at once.
    Chatters,
    /// Stays at so many idle timeouts, and pings.
    Stays(u32),
    /// Panics at the idle timeout.
    PanicsIdle,
    /// Waits for a second at the idle timeout, then says so.
    WaitsIdle,
    /// Stops at the idle timeout, and stays.
    StopsIdle,
}

const CHATTER: usize = 6 << 20;

/// Echoes lines, does what they say, and tells of each hook of its end.
struct Witness {
    whim: Whim,
    tells: UnboundedSender<String>,
    vetoes: u32,
}

impl Witness {
    fn tell(&self, what: impl Into<String>) {
        // A test that has seen enough may be over.
        let _ = self.tells.send(what.into());
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.tell("dropped");
    }
}

impl Actor for Witness {
    type Context = LineContext<Self>;

    fn stopping(&mut self, _: &mut Self::Context) -> Running {
        self.tell("stopping");
        if self.vetoes > 0 {
            self.vetoes -= 1;
            return Running::Continue;
        }
        Running::Stop
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.tell("stopped");
    }
}

impl LineHandler for Witness {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
        match line.text() {
            b"stop" => ctx.stop(),
            b"veto" => {
                self.vetoes += 1;
                ctx.stop();
            }
            b"drain" => ctx.drain(),
            b"abort" => ctx.abort(),
            b"terminate" => ctx.terminate(),
            b"panic" => panic!("a fault on purpose"),
            b"half" => ctx.half_close(),
            b"flood" => ctx.write(vec![b'x'; CHATTER]),
            b"wait" => ctx.wait(wrap_future::<_, Self>(pending())),
            b"later" => ctx.wait(wrap_future::<_, Self>(pass(SECOND)).map(|(), _, ctx| ctx.write(b"the answer\n"))),
            _ => {}
        }
    }

    fn eof(&mut self, ctx: &mut Self::Context) {
        self.tell("eof");
        ctx.drain();
    }

    fn idle(&mut self, ctx: &mut Self::Context) -> Idle {
        self.tell("idle");
        match &mut self.whim {
            Whim::Stays(times @ 1..) => {
                *times -= 1;
                ctx.write(b"PING\n");
                Idle::Stay
            }
            Whim::PanicsIdle => panic!("a fault on purpose"),
            Whim::WaitsIdle => {
                let second = wrap_future::<_, Self>(pass(SECOND));
                ctx.wait(second.map(|(), _, ctx| ctx.write(b"waited\n")));
                Idle::End
            }
            Whim::StopsIdle => {
                ctx.stop();
                Idle::Stay
            }
            _ => Idle::End,
        }
    }

    fn ending(&mut self, reason: &CloseReason, ctx: &mut Self::Context) {
        self.tell(format!("ending {reason}"));
        ctx.write(format!("421 {reason}\n"));
        match self.whim {
            Whim::Clings => {
                assert_eq!(ctx.state(), ActorState::Stopping);
                ctx.stop();
                ctx.drain();
                ctx.half_close();
                ctx.pause();
                ctx.spawn(wrap_future(pending()));
                ctx.wait(wrap_future::<_, Self>(pending()));
                ctx.notify_later(Never, SECOND);
            }
            Whim::Aborts => ctx.abort(),
            Whim::Panics => panic!("a fault on purpose"),
            Whim::Chatters => ctx.write(vec![b'z'; CHATTER]),
            _ => {}
        }
    }

    fn closed(&mut self, report: &CloseReport) {
        self.tell(format!("closed {}", report.reason));
    }
}

#[derive(actix::Message)]
#[rtype(result = "()")]
struct Never;

impl actix::Handler<Never> for Witness {
    type Result = ();
    fn handle(&mut self, Never: Never, _: &mut Self::Context) {
        self.tell("a message");
    }
}

/// What witnesses have told.
struct Told(UnboundedReceiver<String>);

impl Told {
    /// All that one session told until it was dropped.
    async fn all(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        while all.last().is_none_or(|last| last != "dropped") {
            all.push(
                within("what the session tells", self.0.recv()).await.expect("a session tells until it is dropped"),
            );
        }
        all
    }

    /// A session that had its last words: all hooks of its end, in their order.
    #[track_caller]
    fn expect_all(&mut self, reason: &'static str) -> impl Future<Output = ()> + use<'_> {
        let caller = std::panic::Location::caller();
        async move {
            let hooks = [
                "stopping".into(),
                format!("ending {reason}"),
                format!("closed {reason}"),
                "stopped".into(),
                "dropped".into(),
            ];
            assert_eq!(self.all().await, hooks, "at {caller}");
        }
    }

    /// A session that was cut: nothing could be written any more.
    #[track_caller]
    fn expect_cut(&mut self, reason: &'static str) -> impl Future<Output = ()> + use<'_> {
        let caller = std::panic::Location::caller();
        async move {
            assert_eq!(self.all().await, [&*format!("closed {reason}"), "stopped", "dropped"], "at {caller}");
        }
    }
}

/// The limits that a session has by default.
fn by_default(limits: LimitsBuilder) -> LimitsBuilder {
    limits
}

fn framing() -> Framing {
    Framing::lf().max_line(100).unwrap().overlong(Overlong::Close)
}

/// A server of witnesses, with a worker of its own or, for the paused clock, on this arbiter.
async fn serve(whim: Whim, limits: impl FnOnce(LimitsBuilder) -> LimitsBuilder, own_worker: bool) -> (Server, Told) {
    let (tells, told) = unbounded_channel();
    let server = LineServer::new(move |_| Witness { whim, tells: tells.clone(), vetoes: 0 })
        .framing(framing())
        .limits(limits(Limits::builder()).build().unwrap());
    let server = if own_worker { server.workers(1) } else { server.on_current_arbiter() };
    (Server::start(server).await, Told(told))
}

/// A witness over memory.
fn start(whim: Whim, limits: impl FnOnce(LimitsBuilder) -> LimitsBuilder) -> (DuplexStream, Told) {
    let (tells, told) = unbounded_channel();
    let (ours, theirs) = tokio::io::duplex(1024);
    LineSession::new(Transport::new(ours))
        .framing(framing())
        .limits(limits(Limits::builder()).build().unwrap())
        .start(Witness { whim, tells, vetoes: 0 });
    (theirs, Told(told))
}

/// Reads to the EOF, without a bound of its own: the paused clock would jump to it.
async fn rest(peer: &mut DuplexStream) -> String {
    let mut got = Vec::new();
    peer.read_to_end(&mut got).await.unwrap();
    String::from_utf8(got).unwrap()
}

/// Says something, reads all that comes and closes.
async fn ask(mut peer: DuplexStream, said: &str) -> String {
    peer.write_all(said.as_bytes()).await.unwrap();
    rest(&mut peer).await
}

#[actix::test]
async fn a_stop_delivers_no_more_lines_and_has_the_last_words() {
    let (peer, mut told) = start(Whim::None, by_default);
    assert_eq!(ask(peer, "one\nstop\ntwo\n").await, "one\nstop\n421 closed-by-handler\n");
    told.expect_all("closed-by-handler").await;
}

#[actix::test]
async fn a_drain_of_the_handler_has_the_last_words_behind_each_answer() {
    let (peer, mut told) = start(Whim::None, by_default);
    let answers = ask(peer, "one\ndrain\ntwo\nthree\n").await;
    assert_eq!(answers, "one\ndrain\ntwo\nthree\n421 closed-by-handler\n");
    told.expect_all("closed-by-handler").await;
}

#[actix::test]
async fn a_stop_that_is_vetoed_ends_nothing() {
    let (mut peer, mut told) = start(Whim::None, by_default);
    peer.write_all(b"veto\n").await.unwrap();
    assert_eq!(within("the veto", told.0.recv()).await.as_deref(), Some("stopping"));
    peer.write_all(b"two\nstop\n").await.unwrap();
    assert_eq!(rest(&mut peer).await, "veto\ntwo\nstop\n421 closed-by-handler\n");
    drop(peer);
    told.expect_all("closed-by-handler").await;
}

#[actix::test]
async fn after_the_peers_eof_the_last_words_come_behind_the_tail_and_eof() {
    let (mut peer, mut told) = start(Whim::None, by_default);
    peer.write_all(b"one\ntail ").await.unwrap();
    peer.shutdown().await.unwrap();
    assert_eq!(rest(&mut peer).await, "one\ntail 421 peer-eof\n");
    assert_eq!(within("the hook", told.0.recv()).await.as_deref(), Some("eof"));
    told.expect_all("peer-eof").await;
}

#[actix::test]
async fn words_behind_our_own_fin_are_counted_as_unsent() {
    let (mut server, mut told) = serve(Whim::None, by_default, true).await;
    let mut peer = server.connect().await;
    peer.send(b"half\n").await;
    assert_eq!(peer.rest().await, b"half\n", "our FIN");
    peer.send(b"two\n").await;
    peer.shutdown_write().await;
    let report = server.report().await;
    assert_eq!((report.lines_in, report.unsent_bytes), (2, "two\n421 peer-eof\n".len() as u64));
    assert_eq!(within("the hook", told.0.recv()).await.as_deref(), Some("eof"));
    told.expect_all("peer-eof").await;
    server.end().await;
}

#[actix::test]
async fn an_overlong_line_has_the_last_words_behind_what_came_before_it() {
    let (peer, mut told) = start(Whim::None, by_default);
    let answers = ask(peer, &format!("one\n{}", "x".repeat(200))).await;
    assert_eq!(answers, "one\n421 overlong\n");
    told.expect_all("overlong").await;
}

#[actix::test]
async fn a_handler_that_takes_no_lines_has_the_last_words() {
    /// Takes one line, then none.
    struct Sated(UnboundedSender<String>, bool);

    impl Actor for Sated {
        type Context = LineContext<Self>;
    }

    impl LineHandler for Sated {
        fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
            ctx.write(&line);
        }

        fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
            if !std::mem::replace(&mut self.1, true)
                && let Some(line) = lines.next(ctx)
            {
                self.line(line, ctx);
            }
        }

        fn ending(&mut self, reason: &CloseReason, ctx: &mut Self::Context) {
            ctx.write(b"421\n");
            let _ = self.0.send(reason.to_string());
        }
    }

    let (tells, mut told) = unbounded_channel();
    let (ours, peer) = tokio::io::duplex(1024);
    LineSession::new(Transport::new(ours)).start(Sated(tells, false));
    assert_eq!(ask(peer, "one\ntwo\n").await, "one\n421\n");
    assert_eq!(within("the reason", told.recv()).await.as_deref(), Some("handler-stalled"));
    assert_eq!(within("the end", told.recv()).await, None, "called once");
}

#[actix::test]
async fn a_kick_has_the_last_words_behind_the_operators() {
    let (server, mut told) = serve(Whim::None, by_default, true).await;
    let mut peer = server.connect().await;
    peer.send(b"one\n").await;
    peer.expect(b"one\n").await;
    assert_eq!(within("the kick", server.handle.kick(SessionFilter::default(), "bye\n")).await.unwrap(), 1);
    assert_eq!(String::from_utf8_lossy(&peer.rest().await), "bye\n421 kicked\n");
    drop(peer);
    told.expect_all("kicked").await;
}

#[actix::test]
async fn a_drain_of_the_server_has_the_last_words_behind_each_answer_and_the_goodbye() {
    pause();
    let (mut server, mut told) = serve(Whim::None, by_default, false).await;
    let mut peer = server.connect().await;
    peer.send(b"later\n").await;
    peer.expect(b"later\n").await;
    let drain = Drain { goodbye: "bye\n".into(), ..Drain::within(PATIENCE) };
    let drained = actix_rt::spawn(server.handle.supervisor().send(drain));
    peer.expect_later(b"the answer\nbye\n421 drained\n").await;
    peer.expect_eof().await;
    drop(peer);
    told.expect_all("drained").await;
    assert_eq!(within("the drain", drained).await.unwrap().unwrap().cut, 0);
    assert_eq!(server.report().await.reason, CloseReason::Drained);
}

#[actix::test]
async fn a_drain_that_is_spread_has_each_sessions_last_words_once() {
    pause();
    let (server, mut told) = serve(Whim::None, by_default, false).await;
    let mut peers = Vec::new();
    for _ in 0..3 {
        let mut peer = server.connect().await;
        peer.send(b"one\n").await;
        peer.expect(b"one\n").await;
        peers.push(peer);
    }
    let drain = Drain { spread: 10 * SECOND, ..Drain::within(PATIENCE) };
    let drained = actix_rt::spawn(server.handle.supervisor().send(drain));
    for mut peer in peers {
        peer.expect_later(b"421 drained\n").await;
        peer.expect_eof().await;
        drop(peer);
        told.expect_all("drained").await;
    }
    assert_eq!(within("the drain", drained).await.unwrap().unwrap().ended, 3);
    assert!(told.0.try_recv().is_err(), "nothing is told twice");
}

#[actix::test]
async fn the_deadline_of_a_drain_cuts_without_last_words() {
    pause();
    let (server, mut told) = serve(Whim::None, by_default, false).await;
    let mut peer = server.connect().await;
    peer.send(b"wait\n").await;
    peer.expect(b"wait\n").await;
    let drained = actix_rt::spawn(server.handle.supervisor().send(Drain::within(5 * SECOND)));
    assert_eq!(within("the drain", drained).await.unwrap().unwrap().cut, 1);
    told.expect_cut("drained").await;
}

/// Has a session over memory end by a time, on the paused clock. Returns what the peer read.
async fn end_in_time(limits: impl FnOnce(LimitsBuilder) -> LimitsBuilder, said: &str, reason: &'static str) -> String {
    pause();
    let (mut peer, mut told) = start(Whim::None, |builder| limits(builder.idle_timeout(None).line_timeout(None)));
    peer.write_all(said.as_bytes()).await.unwrap();
    let got = rest(&mut peer).await;
    drop(peer);
    let mut all = told.all().await;
    all.retain(|what| what != "idle");
    let hooks = ["stopping".to_owned(), format!("ending {reason}"), format!("closed {reason}")];
    assert_eq!(all[..3], hooks);
    got
}

#[actix::test]
async fn an_idle_session_has_the_last_words() {
    let got = end_in_time(|limits| limits.idle_timeout(Some(5 * SECOND)), "one\n", "idle-timeout").await;
    assert_eq!(got, "one\n421 idle-timeout\n");
}

#[actix::test]
async fn a_line_that_takes_too_long_has_the_last_words() {
    let got = end_in_time(|limits| limits.line_timeout(Some(5 * SECOND)), "one\ntw", "line-timeout").await;
    assert_eq!(got, "one\n421 line-timeout\n");
}

#[actix::test]
async fn a_session_that_is_too_old_has_the_last_words() {
    let got = end_in_time(|limits| limits.max_age(Some(5 * SECOND)), "one\n", "max-age").await;
    assert_eq!(got, "one\n421 max-age\n");
}

#[actix::test]
async fn a_wait_that_takes_too_long_has_the_last_words() {
    let got = end_in_time(|limits| limits.wait_timeout(5 * SECOND), "one\nwait\n", "wait-timeout").await;
    assert_eq!(got, "one\nwait\n421 wait-timeout\n");
}

#[actix::test]
async fn a_peer_that_takes_nothing_is_cut_without_last_words() {
    pause();
    let (mut peer, mut told) = start(Whim::None, |limits| limits.write_timeout(Some(5 * SECOND)));
    peer.write_all(b"flood\n").await.unwrap();
    told.expect_cut("write-stalled").await;
}

#[actix::test]
async fn an_outbox_that_is_too_full_is_cut_without_last_words() {
    let outbox_limit = OutboxLimit { policy: OutboxPolicy::Disconnect, hard: 1 << 20, soft: None };
    let (mut peer, mut told) = start(Whim::None, |limits| limits.outbox_limit(outbox_limit));
    peer.write_all(b"flood\n").await.unwrap();
    told.expect_cut("outbox-full").await;
}

#[actix::test]
async fn an_evicted_session_is_cut_without_last_words() {
    let (server, mut told) = serve(Whim::None, |limits| limits.memory_budget(Some(1 << 20)), true).await;
    let mut peer = server.connect().await;
    peer.send(b"flood\n").await;
    told.expect_cut("evicted").await;
    drop(peer);
}

#[actix::test]
async fn an_abort_skips_the_last_words() {
    for way in ["abort\n", "terminate\n"] {
        let (peer, mut told) = start(Whim::None, by_default);
        assert_eq!(ask(peer, way).await, "");
        told.expect_cut("aborted").await;
    }
}

#[actix::test]
async fn after_a_panic_only_destructors_run() {
    let (peer, mut told) = start(Whim::None, by_default);
    assert_eq!(ask(peer, "one\npanic\n").await, "one\npanic\n");
    assert_eq!(told.all().await, ["dropped"]);
}

#[actix::test]
async fn a_socket_that_fails_ends_as_any_and_the_last_words_are_unsent() {
    let (mut server, mut told) = serve(Whim::None, by_default, true).await;
    let mut peer = server.connect().await;
    peer.send(b"one\n").await;
    peer.expect(b"one\n").await;
    peer.reset();
    let report = server.report().await;
    assert_eq!((report.reason, report.unsent_bytes), (CloseReason::PeerReset, "421 peer-reset\n".len() as u64));
    told.expect_all("peer-reset").await;
    server.end().await;
}

#[actix::test]
async fn a_transport_that_fails_to_write_has_its_error_as_the_reason() {
    let (tells, told) = unbounded_channel();
    let (ours, mut peer) = memory_pair(MemoryCapacity::default());
    let (ours, faults) = FaultyStream::new(ours);
    faults.fail(StreamCall::Write, io::ErrorKind::TimedOut);
    LineSession::new(Transport::new(ours)).start(Witness { whim: Whim::None, tells, vetoes: 0 });
    peer.write_all(b"one\n").await.unwrap();
    Told(told).expect_all("write failed: timed out").await;
}

#[actix::test]
async fn the_end_of_its_worker_has_the_last_words() {
    let (server, mut told) = serve(Whim::None, by_default, true).await;
    let mut peer = server.connect().await;
    peer.send(b"one\n").await;
    peer.expect(b"one\n").await;
    server.handle.arbiters()[0].stop();
    assert_eq!(String::from_utf8_lossy(&peer.rest().await), "421 worker-stopped\n");
    told.expect_all("worker-stopped").await;
}

#[actix::test]
async fn a_connector_that_disconnects_has_half_closed_before_the_last_words() {
    let server = Server::start(LineServer::new(|_| Echo).workers(1)).await;
    let (tells, told) = unbounded_channel();
    let mut told = Told(told);
    let target = server.address().to_string();
    let connector = Connector::<Witness>::builder(&*target, move |_, _| Witness {
        whim: Whim::None,
        tells: tells.clone(),
        vetoes: 0,
    });
    let connector = connector.start().unwrap();
    within("a session", connector.send(GetSession::when_connected())).await.unwrap();
    let report = within("the end", connector.send(Disconnect::within(PATIENCE))).await.unwrap().unwrap();
    assert_eq!((report.reason, report.bytes_out), (CloseReason::Drained, 0));
    assert_eq!(report.unsent_bytes, "421 drained\n".len() as u64);
    assert_eq!(within("the hook", told.0.recv()).await.as_deref(), Some("eof"));
    told.expect_all("drained").await;
}

#[actix::test]
async fn nothing_that_the_last_words_ask_for_keeps_the_session() {
    let (peer, mut told) = start(Whim::Clings, by_default);
    assert_eq!(ask(peer, "stop\n").await, "stop\n421 closed-by-handler\n");
    told.expect_all("closed-by-handler").await;
    let (peer, mut told) = start(Whim::Clings, by_default);
    assert_eq!(ask(peer, "drain\n").await, "drain\n421 closed-by-handler\n");
    told.expect_all("closed-by-handler").await;
}

#[actix::test]
async fn an_abort_in_the_last_words_drops_them() {
    let (peer, mut told) = start(Whim::Aborts, by_default);
    // The answer has left by then.
    assert_eq!(ask(peer, "drain\n").await, "drain\n");
    let all = told.all().await;
    assert_eq!(all, ["stopping", "ending closed-by-handler", "closed closed-by-handler", "stopped", "dropped"]);
}

#[actix::test]
async fn a_panic_in_the_last_words_leaves_those_that_were_said() {
    let (mut server, mut told) = serve(Whim::Panics, by_default, true).await;
    let mut peer = server.connect().await;
    peer.send(b"stop\n").await;
    assert_eq!(String::from_utf8_lossy(&peer.rest().await), "stop\n421 closed-by-handler\n");
    drop(peer);
    assert_eq!(server.report().await.reason, CloseReason::HandlerPanicked);
    assert_eq!(told.all().await, ["stopping", "ending closed-by-handler", "dropped"]);
    server.end().await;
}

#[actix::test]
async fn last_words_of_any_length_leave_before_our_fin() {
    let (mut server, mut told) = serve(Whim::Chatters, by_default, true).await;
    let mut peer = server.connect().await;
    peer.send(b"stop\n").await;
    let got = peer.rest().await;
    assert_eq!(got.len(), "stop\n421 closed-by-handler\n".len() + CHATTER);
    drop(peer);
    assert_eq!(server.report().await.unsent_bytes, 0);
    told.expect_all("closed-by-handler").await;
    server.end().await;
}

#[actix::test]
async fn a_session_that_stays_is_asked_once_a_timeout_until_it_ends() {
    pause();
    let (mut peer, mut told) = start(Whim::Stays(3), |limits| limits.idle_timeout(Some(10 * SECOND)));
    let begin = Instant::now();
    assert_eq!(rest(&mut peer).await, "PING\nPING\nPING\n421 idle-timeout\n");
    assert!(begin.elapsed() >= 40 * SECOND, "{:?}", begin.elapsed());
    drop(peer);
    for _ in 0..4 {
        assert_eq!(within("the hook", told.0.recv()).await.as_deref(), Some("idle"));
    }
    told.expect_all("idle-timeout").await;
}

#[actix::test]
async fn a_line_starts_the_idle_clock_anew_for_a_session_that_stays() {
    pause();
    let (mut peer, mut told) = start(Whim::Stays(1), |limits| limits.idle_timeout(Some(10 * SECOND)));
    let mut got = [0; 5];
    peer.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"PING\n");
    pass(5 * SECOND).await;
    let begin = Instant::now();
    peer.write_all(b"PONG\n").await.unwrap();
    assert_eq!(rest(&mut peer).await, "PONG\n421 idle-timeout\n");
    assert!(begin.elapsed() >= 10 * SECOND, "{:?}", begin.elapsed());
    drop(peer);
    assert_eq!(told.all().await.iter().filter(|what| *what == "idle").count(), 2);
}

#[actix::test]
async fn a_session_that_always_stays_is_ended_by_its_age() {
    pause();
    let limits = |limits: LimitsBuilder| limits.idle_timeout(Some(10 * SECOND)).max_age(Some(95 * SECOND));
    let (mut peer, mut told) = start(Whim::Stays(u32::MAX), limits);
    assert_eq!(rest(&mut peer).await, format!("{}421 max-age\n", "PING\n".repeat(9)));
    drop(peer);
    assert_eq!(told.all().await.iter().filter(|what| *what == "idle").count(), 9);
}

#[actix::test]
async fn what_an_idle_session_waits_for_is_owed_before_the_last_words() {
    pause();
    let (mut peer, mut told) = start(Whim::WaitsIdle, |limits| limits.idle_timeout(Some(10 * SECOND)));
    assert_eq!(rest(&mut peer).await, "waited\n421 idle-timeout\n");
    drop(peer);
    assert_eq!(within("the hook", told.0.recv()).await.as_deref(), Some("idle"));
    told.expect_all("idle-timeout").await;
}

#[actix::test]
async fn an_idle_session_that_stops_itself_has_its_own_reason() {
    pause();
    let (mut peer, mut told) = start(Whim::StopsIdle, |limits| limits.idle_timeout(Some(10 * SECOND)));
    assert_eq!(rest(&mut peer).await, "421 closed-by-handler\n");
    drop(peer);
    assert_eq!(within("the hook", told.0.recv()).await.as_deref(), Some("idle"));
    told.expect_all("closed-by-handler").await;
}

#[actix::test]
async fn a_panic_at_the_idle_timeout_ends_the_session() {
    pause();
    let (mut peer, mut told) = start(Whim::PanicsIdle, |limits| limits.idle_timeout(Some(10 * SECOND)));
    assert_eq!(rest(&mut peer).await, "");
    drop(peer);
    assert_eq!(told.all().await, ["idle", "dropped"]);
}
