//! Supervisor: the actor of the control path. Counts sessions, answers questions about them, drains them.
//!
//! No line passes through here, and all lasting state is in the ledger: a supervisor that ends is replaced. It holds no
//! session's address; questions about sessions go to their workers.
//! Not here: admission (`admission`), what outlives it (`ledger`, `control`), a session's part of a drain (`session`).

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use actix::{
    Actor, ActorContext, ActorFutureExt, ActorStreamExt, Addr, AsyncContext, Context, Handler, MessageResult,
    ResponseFuture, WrapFuture, WrapStream,
    dev::channel::{AddressReceiver, channel},
};
use futures::{future::OptionFuture, stream};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use crate::{
    control::{
        ledger::Draining,
        messages::{
            Drain, GetLimits, GetStats, Kick, LimitsChange, ListSessions, PauseListener, Push, Pushed, SetLimits,
            Subscribe, TraceSession,
        },
        orders::{Answered, Closing, Order, Question, WorkerGone},
        query::SessionPage,
        stats::{DrainProgress, DrainReport, Stats},
        trace::Trace,
        ways::{Control, Finished},
    },
    limits::{LONGEST_TIMEOUT, MAILBOX_CAPACITY},
    plural::Counted,
    shared::SharedBytes,
    wire::tap::tap,
};

/// Interval at which recovered sources are forgotten.
const TIDY: Duration = Duration::from_secs(10);
/// Interval at which a drain's progress is published.
const PROGRESS: Duration = Duration::from_secs(1);

/// The control-path actor of one server. [`ServerHandle::supervisor`](crate::ServerHandle::supervisor) returns its
/// address.
///
/// If it ends by a panic, sessions and acceptors go on, and a new one takes over, with the same counters and
/// subscribers, and with the drain if one was under way.
pub struct Supervisor {
    /// Owned by the workers, the acceptors and the handles: once they are gone there is nothing to supervise.
    control: Weak<Control>,
    /// Holds the address of the current supervisor.
    addresses: watch::Sender<Addr<Self>>,
}

/// A supervisor that has not started.
pub(crate) struct Unlaunched {
    mailbox: AddressReceiver<Supervisor>,
    addresses: watch::Sender<Addr<Supervisor>>,
}

impl Unlaunched {
    pub(crate) fn new() -> Self {
        let (sender, mailbox) = channel(MAILBOX_CAPACITY);
        Self { mailbox, addresses: watch::Sender::new(Addr::new(sender)) }
    }

    /// Returns a watch on the address of the current supervisor, which changes when another takes over.
    pub(crate) fn addresses(&self) -> watch::Receiver<Addr<Supervisor>> {
        self.addresses.subscribe()
    }

    pub(crate) fn address(&self) -> Addr<Supervisor> {
        self.addresses.borrow().clone()
    }

    /// Starts it on the current arbiter.
    pub(crate) fn launch(self, control: &Arc<Control>) {
        let Self { mailbox, addresses } = self;
        let control = Arc::downgrade(control);
        Context::with_receiver(mailbox).run(Supervisor { control, addresses });
    }
}

impl Supervisor {
    /// Starts a successor on the same arbiter.
    fn replace(&self, control: &Control) {
        let (addresses, known) = (self.addresses.clone(), Weak::clone(&self.control));
        // Where the arbiter is ending nothing comes of it, which is right.
        control.home().spawn_fn(move || {
            if let Some(control) = known.upgrade() {
                log::error!("the supervisor has ended without being asked: a new one takes over");
                let (sender, mailbox) = channel(MAILBOX_CAPACITY);
                let address = Addr::new(sender);
                control.set_supervisor(address.clone().recipient());
                addresses.send_replace(address);
                Unlaunched { mailbox, addresses }.launch(&control);
            }
        });
    }

    /// Checks at each end whether it was the last, and stops the supervisor once nothing is left that could book one.
    fn watch_ends(&self, control: &Control, ctx: &mut Context<Self>) {
        let ends = stream::unfold(control.ledger.ends(), |mut ends| async {
            ends.changed().await.ok()?;
            Some(((), ends))
        });
        let each = ends.into_actor(self).map(|(), supervisor: &mut Self, _| supervisor.consider_end());
        ctx.spawn(each.finish().map(|(), _, ctx| ctx.stop()));
    }

    /// Asks the workers. The answer goes to whoever asked by a task of its own, whatever becomes of the supervisor: so nobody
    /// has to ask again, and nothing is done twice.
    fn ask(&self, question: &Question) -> impl Future<Output = Answered> + use<> {
        let asked = OptionFuture::from(self.control.upgrade().map(|control| control.ask(question)));
        // Without a control there are no workers.
        async { asked.await.unwrap_or_default() }
    }

    /// Continues the drain in the ledger: from its announcement, or from where another supervisor left it.
    fn resume_drain(&mut self, ctx: &mut Context<Self>) {
        let Some(control) = self.control.upgrade() else { return };
        if control.ledger.books().draining.is_none() {
            return;
        }
        ctx.run_interval(PROGRESS, |supervisor, _| {
            supervisor.report_progress();
            supervisor.consider_end();
        });
        self.schedule_drain(ctx);
    }

    /// Begins the drain in the ledger at its time, and aborts what is left at its deadline.
    fn schedule_drain(&mut self, ctx: &mut Context<Self>) {
        let Some(control) = self.control.upgrade() else { return };
        let now = Instant::now();
        let (delay, left) = {
            let books = control.ledger.books();
            let Some(draining) = &books.draining else { return };
            (draining.since.saturating_duration_since(now), draining.until.saturating_duration_since(now))
        };
        ctx.run_later(left, |supervisor, _| supervisor.abort_if_late());
        if delay.is_zero() {
            self.begin_drain(ctx);
        } else {
            ctx.run_later(delay, |supervisor, ctx| supervisor.begin_drain(ctx));
        }
    }

    /// Closes the listeners, then has the workers drain. Doing so again changes nothing.
    fn begin_drain(&mut self, ctx: &mut Context<Self>) {
        let Some(control) = self.control.upgrade() else { return };
        let left = {
            let books = control.ledger.books();
            let Some(draining) = &books.draining else { return };
            draining.until.saturating_duration_since(Instant::now())
        };
        control.close_listeners(if left.is_zero() { Closing::AtOnce } else { Closing::AfterBacklog });
        let mut closed = control.closed();
        let closed = async move {
            // The control, and with it the other end, may be gone.
            let _ = closed.wait_for(|closed| *closed).await;
        };
        ctx.spawn(closed.into_actor(self).map(|(), supervisor, _| supervisor.order_drain()));
    }

    /// Orders the workers to drain. The listeners are closed: every session is on its worker or on its way there.
    fn order_drain(&mut self) {
        let Some(control) = self.control.upgrade() else { return };
        let drain = {
            let mut books = control.ledger.books();
            books.draining.as_mut().filter(|draining| !draining.is_ordered).map(|draining| {
                draining.is_ordered = true;
                (draining.spread.min((draining.until - draining.since) / 2), draining.goodbye.clone())
            })
        };
        if let Some((over, goodbye)) = drain {
            control.order(|| Order::Drain { over, goodbye: goodbye.clone() });
        }
        self.abort_if_late();
        self.consider_end();
    }

    /// Aborts the sessions that have not ended by the deadline.
    fn abort_if_late(&mut self) {
        let Some(control) = self.control.upgrade() else { return };
        if !control.ledger.books().draining.as_ref().is_some_and(Draining::is_late) {
            return;
        }
        control.order(|| Order::Abort);
        control.close_listeners(Closing::AtOnce);
        self.consider_end();
    }

    fn report_progress(&mut self) {
        let Some(control) = self.control.upgrade() else { return };
        if control.has_finished() {
            return;
        }
        let Some(DrainProgress { ended, cut, left, begins_in, .. }) = control.ledger.publish_progress() else { return };
        // A log may take its time, and all workers need the ledger: it is not locked here.
        if left > 0 && begins_in.is_zero() && !control.ledger.books().is_quiet {
            let sessions = Counted(ended, "session");
            log::info!(ended = ended, cut = cut, left = left; "draining: {sessions} ended, {cut} cut, {left} left");
        }
    }

    /// Logs that a worker stopped without an order; ends the server if none is left.
    fn miss_workers(&self, lost: Option<usize>) {
        let Some(control) = self.control.upgrade() else { return };
        if control.has_finished() || control.ledger.books().draining.as_ref().is_some_and(Draining::has_begun) {
            return;
        }
        if let Some(worker) = lost {
            log::error!("worker {worker} has stopped; its sessions are gone");
        }
        if control.has_lost_workers() {
            log::error!("every worker has stopped: the server ends");
            control.finish(Finished::LostWorkers);
        }
    }

    /// Ends the server, if nothing is left to wait for.
    fn consider_end(&mut self) {
        let Some(control) = self.control.upgrade() else { return };
        if control.has_finished() {
            return;
        }
        let Some((report, waiting)) = control.ledger.drained() else { return };
        self.report_progress();
        for waiting in waiting {
            let _ = waiting.send(report);
        }
        control.finish(Finished::AsAsked);
    }
}

/// Has a successor take over: the state is in the control.
impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Some(control) = self.control.upgrade()
            && !control.has_finished()
        {
            self.replace(&control);
        }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(TIDY, |supervisor, _| {
            if let Some(control) = supervisor.control.upgrade() {
                control.ledger.admission.tidy();
                control.forget_ended_listeners();
            }
        });
        if let Some(control) = self.control.upgrade() {
            self.watch_ends(&control, ctx);
        }
        self.resume_drain(ctx);
        self.miss_workers(None);
    }
}

impl Handler<WorkerGone> for Supervisor {
    type Result = ();

    fn handle(&mut self, WorkerGone { worker, is_retired }: WorkerGone, _: &mut Self::Context) {
        self.miss_workers(Some(worker).filter(|_| !is_retired));
    }
}

impl Handler<GetStats> for Supervisor {
    type Result = ResponseFuture<Stats>;

    fn handle(&mut self, _: GetStats, _: &mut Self::Context) -> Self::Result {
        let answer = self.ask(&Question::Totals);
        let control = Weak::clone(&self.control);
        Box::pin(async move {
            let mut stats = answer.await.stats;
            if let Some(control) = control.upgrade() {
                control.complete(&mut stats);
            }
            stats
        })
    }
}

impl Handler<ListSessions> for Supervisor {
    type Result = ResponseFuture<SessionPage>;

    fn handle(&mut self, ListSessions(query): ListSessions, _: &mut Self::Context) -> Self::Result {
        let answer = self.ask(&Question::List(query.clone()));
        Box::pin(async move {
            let Answered { mut sessions, count, .. } = answer.await;
            query.cut_to_page(&mut sessions);
            SessionPage { sessions, total: count }
        })
    }
}

impl Handler<Kick> for Supervisor {
    type Result = ResponseFuture<u64>;

    fn handle(&mut self, Kick { whom, goodbye }: Kick, _: &mut Self::Context) -> Self::Result {
        let answer = self.ask(&Question::Kick { whom, goodbye: goodbye.into() });
        Box::pin(async { answer.await.count })
    }
}

#[cfg(feature = "cluster")]
impl Handler<crate::control::messages::CutKicked> for Supervisor {
    type Result = ResponseFuture<u64>;

    fn handle(&mut self, cut: crate::control::messages::CutKicked, _: &mut Self::Context) -> Self::Result {
        let answer = self.ask(&Question::CutKicked { whom: cut.whom, last: cut.last });
        Box::pin(async { answer.await.count })
    }
}

impl Handler<Push> for Supervisor {
    type Result = ResponseFuture<Pushed>;

    fn handle(&mut self, Push { whom, bytes }: Push, _: &mut Self::Context) -> Self::Result {
        let answer = self.ask(&Question::Push { whom, bytes: bytes.into() });
        Box::pin(async {
            let Answered { count, dropped, .. } = answer.await;
            Pushed { sessions: count, dropped }
        })
    }
}

impl Handler<PauseListener> for Supervisor {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, PauseListener { listener, paused }: PauseListener, _: &mut Self::Context) -> Self::Result {
        let paused = self.control.upgrade().and_then(|control| control.pause(listener, paused));
        let Some(heard) = paused else { return Box::pin(async { false }) };
        Box::pin(async {
            // One that has ended accepts nothing, and the next one knows.
            let _ = OptionFuture::from(heard).await;
            true
        })
    }
}

impl Handler<GetLimits> for Supervisor {
    type Result = MessageResult<GetLimits>;

    fn handle(&mut self, _: GetLimits, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.control.upgrade().map(|control| control.ledger.books().limits.clone()).unwrap_or_default())
    }
}

impl Handler<SetLimits> for Supervisor {
    type Result = ResponseFuture<LimitsChange>;

    fn handle(&mut self, SetLimits { limits, dry_run }: SetLimits, _: &mut Self::Context) -> Self::Result {
        let changed = self.control.upgrade().filter(|_| !dry_run).map(|control| {
            // Before the workers look at the living, so that nobody comes in between by the old lists.
            let before = control.set_limits(limits.clone());
            (control, before, limits.clone())
        });
        let answer = self.ask(&Question::Limits { limits: Arc::new(limits), dry_run });
        Box::pin(async {
            let mut ends = answer.await.sessions;
            if let Some((control, before, limits)) = changed {
                control.ledger.tell_limits(before, limits, ends.len() as u64);
            }
            ends.sort_unstable_by_key(|session| session.id);
            LimitsChange { ends }
        })
    }
}

impl Handler<TraceSession> for Supervisor {
    type Result = ResponseFuture<Option<Trace>>;

    fn handle(&mut self, TraceSession { session, limits }: TraceSession, _: &mut Self::Context) -> Self::Result {
        let (tap, receiver) = tap(limits);
        let answer = self.ask(&Question::Trace { session, tap });
        let control = Weak::clone(&self.control);
        Box::pin(async move {
            let (worker, slot) = answer.await.traced?;
            Some(Trace::new(session, receiver, move || {
                if let Some(control) = control.upgrade() {
                    control.order_one(worker, Order::EndTrace { slot, session });
                }
            }))
        })
    }
}

impl Handler<Subscribe> for Supervisor {
    type Result = ();

    fn handle(&mut self, subscriber: Subscribe, _: &mut Self::Context) {
        if let Some(control) = self.control.upgrade() {
            control.ledger.subscribe(subscriber);
        }
    }
}

impl Handler<Drain> for Supervisor {
    type Result = ResponseFuture<DrainReport>;

    fn handle(&mut self, Drain { deadline, goodbye, spread, delay }: Drain, ctx: &mut Self::Context) -> Self::Result {
        let Some(control) = self.control.upgrade() else {
            return Box::pin(async { DrainReport::default() });
        };
        let goodbye = SharedBytes::from(goodbye);
        let (done, report) = oneshot::channel();
        let since = Instant::now() + delay.min(LONGEST_TIMEOUT);
        let until = since + deadline.min(LONGEST_TIMEOUT);
        let (is_first, had_begun, so_far) = {
            let mut books = control.ledger.books();
            let is_first = books.draining.is_none();
            let had_begun = books.draining.as_ref().is_some_and(Draining::has_begun);
            let draining = books.draining.get_or_insert_with(|| Draining {
                since,
                until,
                goodbye: goodbye.clone(),
                spread,
                is_ordered: false,
                report: DrainReport::default(),
                waiting: Vec::new(),
            });
            draining.since = draining.since.min(since);
            draining.until = draining.until.min(until);
            draining.waiting.push(done);
            (is_first, had_begun, draining.report)
        };
        if is_first {
            self.resume_drain(ctx);
        } else if had_begun {
            ctx.run_later(until - Instant::now(), |supervisor, _| supervisor.abort_if_late());
        } else {
            self.schedule_drain(ctx);
        }
        if deadline.is_zero() {
            self.abort_if_late();
        }
        let already = control.has_finished();
        self.consider_end();
        Box::pin(async move { if already { so_far } else { report.await.unwrap_or(so_far) } })
    }
}

#[cfg(test)]
mod tests {
    use actix::Message;
    use futures::future::join;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;
    use crate::{
        control::query::{SessionFilter, SessionQuery},
        limits::Limits,
        rot13::Rot13,
        server::builder::LineServer,
        wire::tap::TraceLimits,
    };

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A fault on purpose.
    #[derive(Message)]
    #[rtype(result = "()")]
    struct Panic;

    impl Handler<Panic> for Supervisor {
        type Result = ();
        fn handle(&mut self, _: Panic, _: &mut Self::Context) {
            panic!("a fault on purpose, in the supervisor");
        }
    }

    async fn greet(peer: &mut TcpStream) {
        let mut answer = [0; 6];
        peer.write_all(b"hello\n").await.unwrap();
        let whole = peer.read_exact(&mut answer);
        tokio::time::timeout(PATIENCE, whole).await.expect("an answer").unwrap();
        assert_eq!(&answer, b"uryyb\n");
    }

    #[actix::test]
    async fn sessions_go_on_without_their_supervisor_and_the_next_one_has_true_counts() {
        let server = LineServer::new(|_| Rot13).workers(2).bind("127.0.0.1:0").unwrap().start().unwrap();
        let address = server.local_addrs()[0];
        let mut peers = Vec::new();
        for _ in 0..10 {
            let mut peer = TcpStream::connect(address).await.unwrap();
            greet(&mut peer).await;
            peers.push(peer);
        }
        peers.truncate(7);
        for _ in 0..3 {
            server.supervisor().do_send(Panic);
            for peer in &mut peers {
                greet(peer).await;
            }
            greet(&mut TcpStream::connect(address).await.unwrap()).await;
        }
        let everybody = async {
            loop {
                let stats = server.stats().await.unwrap();
                assert_eq!(stats.opened, 13);
                if stats.live == 7 {
                    break stats;
                }
                tokio::task::yield_now().await;
            }
        };
        let stats = tokio::time::timeout(PATIENCE, everybody).await.expect("the ends to be counted");
        assert_eq!((stats.closed["peer-eof"], stats.lines_in), (6, 10 + 3 * 7 + 3));
        assert_eq!(server.sessions(SessionQuery::default()).await.unwrap().total, 7);
        // A drain that its supervisor does not live to see.
        let draining = actix_rt::spawn({
            let server = server.clone();
            async move { server.drain(PATIENCE).await }
        });
        let until_ordered = async {
            while !server.control().ledger.books().draining.as_ref().is_some_and(|draining| draining.is_ordered) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, until_ordered).await.expect("the drain to begin");
        server.supervisor().do_send(Panic);
        drop(peers);
        let report = tokio::time::timeout(PATIENCE, draining).await.expect("the drain to end");
        assert_eq!(report.unwrap().map(|report| report.ended + report.cut), Ok(7));
        server.wait().await.unwrap();
    }

    #[actix::test]
    async fn what_a_supervisor_does_not_live_to_answer_is_done_once_and_answered() {
        let server = LineServer::new(|_| Rot13).workers(2).bind("127.0.0.1:0").unwrap().start().unwrap();
        let mut peer = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
        greet(&mut peer).await;
        // It has asked the workers, and their answers come behind this.
        let panic = async { server.supervisor().do_send(Panic) };
        let (listed, ()) = join(server.sessions(SessionQuery::default()), panic).await;
        assert_eq!(listed.unwrap().total, 1);
        let panic = async { server.supervisor().do_send(Panic) };
        let (stats, ()) = join(server.stats(), panic).await;
        assert_eq!(stats.unwrap().live, 1);
        let panic = async { server.supervisor().do_send(Panic) };
        let (pushed, ()) = join(server.push(SessionFilter::default(), "pushed\n"), panic).await;
        assert_eq!(pushed, Ok(Pushed { sessions: 1, dropped: 0 }));
        let denies = Limits::builder().deny(["127.0.0.0/8".parse().unwrap()]).build().unwrap();
        let panic = async { server.supervisor().do_send(Panic) };
        let (change, ()) = join(server.preview_limits(denies), panic).await;
        assert_eq!(change.unwrap().ends.len(), 1);
        let panic = async { server.supervisor().do_send(Panic) };
        let id = SessionFilter::id(server.sessions(SessionQuery::default()).await.unwrap().sessions[0].id);
        let (kicked, ()) = join(server.kick(id, "bye\n"), panic).await;
        assert_eq!(kicked, Ok(1));
        let mut all = Vec::new();
        tokio::time::timeout(PATIENCE, peer.read_to_end(&mut all)).await.expect("the end").unwrap();
        assert_eq!(String::from_utf8_lossy(&all), "pushed\nbye\n", "each of them once");
        server.abort().await.unwrap();
    }

    #[actix::test]
    async fn a_drain_that_waits_for_its_time_begins_under_the_next_supervisor() {
        let server = LineServer::new(|_| Rot13).workers(1).bind("127.0.0.1:0").unwrap().start().unwrap();
        let mut peer = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
        greet(&mut peer).await;
        let drain = Drain::within(PATIENCE).delay(Duration::from_millis(200));
        let draining = actix_rt::spawn({
            let server = server.clone();
            async move { server.drain(drain).await }
        });
        while server.draining().is_none() {
            tokio::task::yield_now().await;
        }
        server.supervisor().do_send(Panic);
        let end = tokio::time::timeout(PATIENCE, peer.read(&mut [0])).await.expect("the drain to begin");
        assert_eq!(end.unwrap(), 0);
        drop(peer);
        let report = tokio::time::timeout(PATIENCE, draining).await.expect("the drain to end").unwrap();
        assert_eq!(report.map(|report| report.ended + report.cut), Ok(1));
    }

    #[actix::test]
    async fn a_supervisor_ends_when_workers_acceptors_and_handles_are_gone() {
        let server = LineServer::new(|_| Rot13).workers(2).bind("127.0.0.1:0").unwrap().start().unwrap();
        server.drain(PATIENCE).await.unwrap();
        server.wait().await.unwrap();
        let supervisor = server.supervisor();
        assert_eq!(server.stats().await.map(|stats| stats.live), Ok(0), "a handle keeps it");
        drop(server);
        let ends = async {
            while supervisor.connected() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, ends).await.expect("the supervisor to end");
    }

    #[actix::test]
    async fn nothing_of_a_trace_is_left_with_an_idle_session_once_it_is_dropped() {
        let server = LineServer::new(|_| Rot13).workers(1).bind("127.0.0.1:0").unwrap().start().unwrap();
        let mut peer = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
        greet(&mut peer).await;
        let id = server.sessions(SessionQuery::default()).await.unwrap().sessions[0].id;
        let trace = server.trace(id, TraceLimits::default()).await.unwrap().expect("it lives");
        let session_end = trace.session_end();
        assert!(session_end.upgrade().is_some());
        drop(trace);
        let is_gone = async {
            while session_end.upgrade().is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, is_gone)
            .await
            .expect("the session to let go of it, though its peer says nothing");
        greet(&mut peer).await;
        server.abort().await.unwrap();
    }
}
