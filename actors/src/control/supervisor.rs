//! Supervisor: the control path. Counts sessions, answers questions about them, drains them.
//!
//! No line passes through here, and nothing is kept here that would be missed: a supervisor that ends is replaced. It holds
//! no session's address; whoever asks about sessions asks their workers.
//! Not here: admission (`admission`), the state that outlives it (`control`), what a drain means to one connection
//! (`context`).

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, MessageResult, ResponseActFuture, ResponseFuture,
    WrapFuture,
    dev::channel::{AddressReceiver, channel},
};
use futures::future::OptionFuture;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    control::{
        control::{Closing, Control, Draining, Finished},
        messages::{
            Drain, GetLimits, GetStats, Kick, LimitsChange, ListSessions, PauseListener, Push, Pushed, SessionEvent,
            SetLimits, Subscribe,
        },
        orders::{Answer, Answered, Batch, Order, Question},
        query::SessionPage,
        stats::{DrainProgress, DrainReport, Stats},
    },
    limits::{LONGEST_TIMEOUT, MAILBOX_CAPACITY},
    listen::acceptor::HearPause,
    shared::SharedBytes,
};

/// How often sources are forgotten that need not be remembered.
const TIDY: Duration = Duration::from_secs(10);
/// How often a drain says how far it is.
const PROGRESS: Duration = Duration::from_secs(1);

/// A question that some workers have yet to answer.
struct Asked {
    missing: Vec<usize>,
    so_far: Answered,
    done: oneshot::Sender<Answered>,
}

/// The control-path actor of one server. Reached through [`ServerHandle::supervisor`](crate::ServerHandle::supervisor).
///
/// If it ends without having been asked, by a panic of its own, sessions and acceptors go on, and a new one takes over,
/// with the same counters and subscribers, and with the drain if one was under way.
pub struct Supervisor {
    /// Kept by the workers, the acceptors and the handles: once they are gone there is nothing to supervise.
    control: Weak<Control>,
    questions: HashMap<u64, Asked>,
}

impl Supervisor {
    /// Starts one on the current arbiter.
    pub(crate) fn launch(control: &Arc<Control>) -> Addr<Self> {
        let (sender, mailbox) = channel(MAILBOX_CAPACITY);
        Self::launch_with(control, mailbox);
        Addr::new(sender)
    }

    /// The same, for a mailbox that others know already.
    pub(crate) fn launch_with(control: &Arc<Control>, mailbox: AddressReceiver<Self>) {
        Context::with_receiver(mailbox).run(Self { control: Arc::downgrade(control), questions: HashMap::new() });
    }

    fn ask(&mut self, question: &Question) -> impl Future<Output = Answered> + use<> {
        let (done, answer) = oneshot::channel();
        if let Some(control) = self.control.upgrade() {
            let token = control.next_token();
            let missing = control.state().order(|| Order::Answer { token, question: question.clone() });
            self.questions.insert(token, Asked { missing, so_far: Answered::default(), done });
            self.settle(token);
        }
        // Without an answer the supervisor is gone, and with it whoever could be told so.
        async { answer.await.unwrap_or_default() }
    }

    /// Answers a question that no worker is missing from.
    fn settle(&mut self, token: u64) {
        if self.questions.get(&token).is_some_and(|asked| asked.missing.is_empty())
            && let Some(asked) = self.questions.remove(&token)
        {
            // Whoever asked may have lost interest.
            let _ = asked.done.send(asked.so_far);
        }
    }

    /// Has a drain that is in the state go on: from its beginning, or from where another supervisor left it.
    fn drain_on(&mut self, ctx: &mut Context<Self>) {
        let Some(control) = self.control.upgrade() else { return };
        let left = {
            let state = control.state();
            let Some(draining) = &state.draining else { return };
            draining.until.saturating_duration_since(Instant::now())
        };
        ctx.run_later(left, |supervisor, _| supervisor.abort_if_late());
        ctx.run_interval(PROGRESS, |supervisor, _| {
            supervisor.tell_progress();
            supervisor.consider_end();
        });
        control.close_listeners(if left.is_zero() { Closing::AtOnce } else { Closing::AfterBacklog });
        let mut closed = control.closed();
        let closed = async move {
            // The control, and with it the other end, may be gone.
            let _ = closed.wait_for(|closed| *closed).await;
        };
        ctx.spawn(closed.into_actor(self).map(|(), supervisor, _| supervisor.order_drain()));
    }

    /// The listeners are closed: now all sessions that there will be are there, or on their way to a worker.
    fn order_drain(&mut self) {
        let Some(control) = self.control.upgrade() else { return };
        let mut state = control.state();
        if let Some(draining) = state.draining.as_mut().filter(|draining| !draining.is_ordered) {
            draining.is_ordered = true;
            let over = draining.spread.min((draining.until - draining.since) / 2);
            let goodbye = draining.goodbye.clone();
            state.order(|| Order::Drain { over, goodbye: goodbye.clone() });
        }
        drop(state);
        self.abort_if_late();
        self.consider_end();
    }

    /// Aborts what has not ended by the deadline.
    fn abort_if_late(&mut self) {
        let Some(control) = self.control.upgrade() else { return };
        {
            let state = control.state();
            if !state.draining.as_ref().is_some_and(Draining::is_late) {
                return;
            }
            state.order(|| Order::Abort);
        }
        control.close_listeners(Closing::AtOnce);
        self.consider_end();
    }

    fn tell_progress(&mut self) {
        let Some(control) = self.control.upgrade() else { return };
        if control.has_finished() {
            return;
        }
        let mut state = control.state();
        let Some(Draining { report: DrainReport { ended, cut, .. }, since, .. }) = state.draining else { return };
        let left = control.admission.admitted().saturating_sub(state.ended);
        state.tell(&SessionEvent::Draining(DrainProgress { ended, cut, left, duration: since.elapsed() }));
        // A log may take its time, and all workers need the lock.
        drop(state);
        if left > 0 {
            log::info!("draining: {ended} sessions ended, {cut} cut, {left} left");
        }
    }

    /// Says that a worker is gone which nobody has stopped; without any the server ends.
    fn miss_workers(&self, lost: Option<usize>) {
        let Some(control) = self.control.upgrade() else { return };
        if control.has_finished() {
            return;
        }
        let all_are_lost = {
            let state = control.state();
            if state.draining.is_some() {
                return;
            }
            state.workers.iter().all(Option::is_none)
        };
        if let Some(worker) = lost {
            log::error!("worker {worker} has stopped; its sessions are gone");
        }
        if all_are_lost {
            log::error!("every worker has stopped: the server ends");
            control.finish(Finished::LostWorkers);
        }
    }

    /// Ends the server, if nothing of it is left to wait for.
    fn consider_end(&mut self) {
        let Some(control) = self.control.upgrade() else { return };
        if control.has_finished() {
            return;
        }
        let (report, waiting) = {
            let mut state = control.state();
            let all_ended = state.ended == control.admission.admitted();
            // Whoever is being refused has a moment to hear so, as others have to read what they were answered.
            let all_refused = control.admission.refusing() == 0;
            let Some(draining) = state
                .draining
                .as_mut()
                .filter(|draining| draining.is_ordered && all_ended && (all_refused || draining.is_late()))
            else {
                return;
            };
            draining.report.duration = draining.since.elapsed();
            (draining.report, std::mem::take(&mut draining.waiting))
        };
        self.tell_progress();
        for waiting in waiting {
            let _ = waiting.send(report);
        }
        control.finish(Finished::AsAsked);
    }
}

/// Its state is in the control, so whoever takes over goes on.
impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Some(control) = self.control.upgrade()
            && !control.has_finished()
        {
            control.replace_supervisor();
        }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(TIDY, |supervisor, _| {
            if let Some(control) = supervisor.control.upgrade() {
                control.admission.tidy();
            }
        });
        self.drain_on(ctx);
        self.miss_workers(None);
    }
}

impl Handler<Batch> for Supervisor {
    type Result = ();

    fn handle(&mut self, Batch { worker, answer, last }: Batch, _: &mut Self::Context) {
        if let Some(Answer { token, answered }) = answer
            && let Some(asked) = self.questions.get_mut(&token)
        {
            asked.missing.retain(|missing| *missing != worker);
            asked.so_far.add(answered);
            self.settle(token);
        }
        if last {
            for asked in self.questions.values_mut() {
                asked.missing.retain(|missing| *missing != worker);
            }
            let tokens: Vec<_> = self.questions.keys().copied().collect();
            tokens.into_iter().for_each(|token| self.settle(token));
            self.miss_workers(Some(worker));
        }
        self.consider_end();
    }
}

impl Handler<GetStats> for Supervisor {
    type Result = ResponseActFuture<Self, Stats>;

    fn handle(&mut self, _: GetStats, _: &mut Self::Context) -> Self::Result {
        let answer = self.ask(&Question::Totals).into_actor(self);
        Box::pin(answer.map(|answered, supervisor, _| {
            let mut stats = answered.stats;
            if let Some(control) = supervisor.control.upgrade() {
                let state = control.state();
                stats.add(&state.gone);
                stats.events_lost = state.events_lost;
                stats.refused = control.admission.refused();
            }
            stats
        }))
    }
}

impl Handler<ListSessions> for Supervisor {
    type Result = ResponseFuture<SessionPage>;

    fn handle(&mut self, ListSessions(query): ListSessions, _: &mut Self::Context) -> Self::Result {
        let answer = self.ask(&Question::List(query));
        Box::pin(async move {
            let mut answered = answer.await;
            query.cut_to_page(&mut answered.sessions, query.offset);
            SessionPage { sessions: answered.sessions, total: answered.count }
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
        // In the state before it is said: an acceptor that comes between the two finds it there.
        let acceptor = self.control.upgrade().and_then(|control| {
            let mut state = control.state();
            let known = state.listeners.get_mut(listener.get())?;
            known.is_paused = paused;
            Some(known.acceptor.clone())
        });
        let Some(acceptor) = acceptor else { return Box::pin(async { false }) };
        let heard = acceptor.map(|acceptor| acceptor.send(HearPause));
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
        MessageResult(self.control.upgrade().map(|control| control.state().limits.clone()).unwrap_or_default())
    }
}

impl Handler<SetLimits> for Supervisor {
    type Result = ResponseFuture<LimitsChange>;

    fn handle(&mut self, SetLimits { limits, dry_run }: SetLimits, _: &mut Self::Context) -> Self::Result {
        if let Some(control) = self.control.upgrade().filter(|_| !dry_run) {
            // Before the workers look at the living, so that nobody comes in between by the old lists.
            control.admission.set(limits.admission.clone());
            control.budget.set_limit(limits.memory_budget);
            // No lock is held when the old ones are dropped: they hold bytes of the user's.
            let old = std::mem::replace(&mut control.state().limits, limits.clone());
            drop(old);
        }
        let answer = self.ask(&Question::Limits { limits: Arc::new(limits), dry_run });
        Box::pin(async {
            let mut ends = answer.await.sessions;
            ends.sort_unstable_by_key(|session| session.id);
            LimitsChange { ends }
        })
    }
}

impl Handler<Subscribe> for Supervisor {
    type Result = ();

    fn handle(&mut self, Subscribe(recipient): Subscribe, _: &mut Self::Context) {
        if let Some(control) = self.control.upgrade() {
            control.state().subscribers.push(recipient);
        }
    }
}

impl Handler<Drain> for Supervisor {
    type Result = ResponseFuture<DrainReport>;

    fn handle(&mut self, Drain { deadline, goodbye, spread }: Drain, ctx: &mut Self::Context) -> Self::Result {
        let Some(control) = self.control.upgrade() else {
            return Box::pin(async { DrainReport::default() });
        };
        let goodbye = SharedBytes::from(goodbye);
        let (done, report) = oneshot::channel();
        let now = Instant::now();
        let until = now + deadline.min(LONGEST_TIMEOUT);
        let (is_first, so_far) = {
            let mut state = control.state();
            let is_first = state.draining.is_none();
            let draining = state.draining.get_or_insert_with(|| Draining {
                since: now,
                until,
                goodbye: goodbye.clone(),
                spread,
                is_ordered: false,
                report: DrainReport::default(),
                waiting: Vec::new(),
            });
            draining.until = draining.until.min(until);
            draining.waiting.push(done);
            (is_first, draining.report)
        };
        if is_first {
            self.drain_on(ctx);
        } else {
            ctx.run_later(until - now, |supervisor, _| supervisor.abort_if_late());
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
    use super::*;
    use crate::control::query::SessionQuery;
    use crate::{rot13::Rot13, server::builder::LineServer};
    use actix::Message;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
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
            while !server.control().state().draining.as_ref().is_some_and(|draining| draining.is_ordered) {
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
}
