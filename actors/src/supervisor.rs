//! Supervisor: the control path. Counts sessions, answers questions about them, drains them.
//!
//! No line passes through here: losing this actor costs the answers and the drain, never data. It holds no session's
//! address; what it knows of an end it hears in batches, from the worker that kept the session's slot.
//! Not here: admission (`admission`), and what a drain means to one connection (`context`).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, MessageResult, Recipient, ResponseActFuture,
    ResponseFuture, WrapFuture,
};
use bytes::Bytes;
use futures::future::OptionFuture;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use crate::{
    CloseReport, Limits, ListenerId,
    acceptor::{Acceptor, CloseListener, SetPaused, WorkerHandle},
    admission::Admission,
    query::{SessionFilter, SessionInfo, SessionPage, SessionQuery},
    worker::{Order, Question},
};

/// How often a drain says how far it is.
const PROGRESS: Duration = Duration::from_secs(1);

/// The server's counters. Consistent in themselves: `opened` is `live` and all of `closed`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Sessions since the start.
    pub opened: u64,
    /// Sessions now, those that linger included.
    pub live: u64,
    /// Sessions ended, by [`CloseReason::name`](crate::CloseReason::name).
    pub closed: BTreeMap<&'static str, u64>,
    /// Lines given to handlers, by the live and the ended.
    pub lines_in: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes that the kernel took.
    pub bytes_out: u64,
    /// Bytes written that the kernel never took, by the ended.
    pub unsent_bytes: u64,
    /// Bytes read that no handler saw, by the ended.
    pub undelivered_bytes: u64,
    /// Bytes that the kernel has yet to take, of the live.
    pub outbox_bytes: u64,
    /// Connections that did not become sessions, by [`RefuseReason::name`](crate::RefuseReason::name).
    pub refused: BTreeMap<&'static str, u64>,
    /// Events that a subscriber was too slow for.
    pub events_lost: u64,
}

/// What became of the sessions in a drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Sessions that ended by themselves, every byte sent.
    pub ended: u64,
    /// Sessions that we closed before their peers did, at the deadline or at the end of their linger time.
    pub cut: u64,
    /// From the request to the last end.
    pub duration: Duration,
}

/// What happens to sessions, as it happens. For [`Subscribe`].
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
#[non_exhaustive]
pub enum SessionEvent {
    /// A session has ended.
    Closed(CloseReport),
    /// A drain goes on: said once a second, and once at its end.
    Draining(DrainProgress),
}

/// How far a drain is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainProgress {
    /// Sessions that have ended by themselves so far.
    pub ended: u64,
    /// Sessions that were cut so far.
    pub cut: u64,
    /// Sessions that are left.
    pub left: u64,
    /// Since the request.
    pub duration: Duration,
}

/// Asks for the counters.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Stats")]
pub struct GetStats;

/// Asks for a page of live sessions.
#[derive(Clone, Copy, Debug, Default, Message)]
#[rtype(result = "SessionPage")]
pub struct ListSessions(pub SessionQuery);

/// Ends sessions politely; answers how many. A session that waits for a future ends as soon as that has ended, or at
/// its deadline.
#[derive(Clone, Debug, Message)]
#[rtype(result = "u64")]
pub struct Kick {
    /// Which.
    pub whom: SessionFilter,
    /// Written to each before; nothing if empty. The newline is yours.
    pub goodbye: Bytes,
}

/// Writes bytes to sessions, behind what their handlers have written so far. All sessions share the bytes. It reaches a
/// session that waits or is paused, too.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Pushed")]
pub struct Push {
    /// Which.
    pub whom: SessionFilter,
    /// What. The newline is yours.
    pub bytes: Bytes,
}

/// What became of a [`Push`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pushed {
    /// Sessions that will write it.
    pub sessions: u64,
    /// Sessions whose outbox had no room for it under [`push_limit`](crate::LimitsBuilder::push_limit).
    pub dropped: u64,
}

/// Stops or resumes accepting on one listener; while it is paused the backlog holds what comes. False if there is none
/// with this number.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "bool")]
pub struct PauseListener {
    /// Which.
    pub listener: ListenerId,
    /// Whether it is to be paused.
    pub paused: bool,
}

/// Asks for the limits in force.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Limits")]
pub struct GetLimits;

/// Changes the limits, for the sessions that live as well. Lists may end sessions, and so may times; numbers of sessions
/// and rates are for those to come.
#[derive(Clone, Debug, Message)]
#[rtype(result = "LimitsChange")]
pub struct SetLimits {
    /// All limits as they are to be: start from [`GetLimits`] to change some.
    pub limits: Limits,
    /// Change nothing, only say whom it would end.
    pub dry_run: bool,
}

/// What a change of limits does, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitsChange {
    /// The sessions that it ends, those whose time would have been up anyway included.
    pub ends: Vec<SessionInfo>,
}

/// Sends every [`SessionEvent`] from now on. What does not fit the subscriber's mailbox is lost, and counted in
/// [`Stats::events_lost`].
#[derive(Message)]
#[rtype(result = "()")]
pub struct Subscribe(pub Recipient<SessionEvent>);

/// Accept no more, answer what was read, flush, close; after `deadline` abort the rest. The server ends with it. Sending
/// it twice shortens the time if the second deadline comes first, and changes nothing else.
#[derive(Clone, Debug, Message)]
#[rtype(result = "DrainReport")]
pub struct Drain {
    /// How long sessions have.
    pub deadline: Duration,
    /// Written to each session before; nothing if empty. The newline is yours.
    pub goodbye: Bytes,
    /// Sessions are told to end one after the other over this time, so that their peers do not all come back at once
    /// elsewhere. Zero tells all at once; half of the deadline is the most, so that the last has time, too.
    pub spread: Duration,
}

impl Drain {
    /// All at once, without a goodbye.
    #[must_use]
    pub fn within(deadline: Duration) -> Self {
        Self { deadline, goodbye: Bytes::new(), spread: Duration::ZERO }
    }
}

/// From a worker: sessions that ended, and the answer to a question if one was asked.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Batch {
    pub(crate) worker: usize,
    pub(crate) reports: Vec<CloseReport>,
    pub(crate) answer: Option<Answer>,
    /// The worker is no more.
    pub(crate) last: bool,
}

/// One worker's answer to [`Order::Answer`].
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) token: u64,
    pub(crate) totals: Totals,
    pub(crate) sessions: Vec<SessionInfo>,
}

/// Sums over sessions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) sessions: u64,
    pub(crate) lines_in: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) outbox_bytes: u64,
    /// Sessions that had no room for what was pushed.
    pub(crate) dropped: u64,
}

/// A question that some workers have yet to answer.
struct Asked {
    missing: Vec<usize>,
    so_far: Answered,
    done: oneshot::Sender<Answered>,
}

/// The workers' answers, added up.
#[derive(Default)]
struct Answered {
    totals: Totals,
    sessions: Vec<SessionInfo>,
}

struct Draining {
    since: Instant,
    listeners_closed: bool,
    /// The deadline is past.
    aborting: bool,
    report: DrainReport,
    waiting: Vec<oneshot::Sender<DrainReport>>,
}

/// The control-path actor of one server. Reached through [`ServerHandle::supervisor`](crate::ServerHandle::supervisor).
pub struct Supervisor {
    admission: Arc<Admission>,
    /// In the order of the listeners' numbers.
    acceptors: Vec<Addr<Acceptor>>,
    /// `None` for a worker that is no more.
    workers: Vec<Option<WorkerHandle>>,
    arbiters: Vec<actix_rt::Arbiter>,
    ended: u64,
    stats: Stats,
    subscribers: Vec<Recipient<SessionEvent>>,
    limits: Limits,
    questions: HashMap<u64, Asked>,
    next_token: u64,
    draining: Option<Draining>,
    finished: watch::Sender<Option<Finished>>,
}

/// How the server ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished {
    /// Every worker stopped without having been asked.
    pub(crate) lost_workers: bool,
}

impl Supervisor {
    pub(crate) fn new(
        limits: Limits,
        admission: Arc<Admission>,
        acceptors: Vec<Addr<Acceptor>>,
        workers: Vec<WorkerHandle>,
        arbiters: Vec<actix_rt::Arbiter>,
        finished: watch::Sender<Option<Finished>>,
    ) -> Self {
        Self {
            limits,
            admission,
            acceptors,
            workers: workers.into_iter().map(Some).collect(),
            arbiters,
            ended: 0,
            stats: Stats::default(),
            subscribers: Vec::new(),
            questions: HashMap::new(),
            next_token: 0,
            draining: None,
            finished,
        }
    }

    /// Sends an order to every worker; returns those that got it.
    fn order(&mut self, order: impl Fn() -> Order) -> Vec<usize> {
        let mut reached = Vec::new();
        for (index, worker) in self.workers.iter().enumerate() {
            if worker.as_ref().is_some_and(|worker| worker.orders.send(order()).is_ok()) {
                reached.push(index);
            }
        }
        reached
    }

    fn ask(&mut self, question: Question) -> impl Future<Output = Answered> + use<> {
        let token = self.next_token;
        self.next_token += 1;
        let missing = self.order(|| Order::Answer { token, question: question.clone() });
        let (done, answer) = oneshot::channel();
        self.questions.insert(token, Asked { missing, so_far: Answered::default(), done });
        self.settle(token);
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

    /// The counters, with what the workers say of the living.
    fn stats(&self, live: &Totals) -> Stats {
        let mut stats = self.stats.clone();
        stats.live = live.sessions;
        stats.opened = self.ended + stats.live;
        stats.lines_in += live.lines_in;
        stats.bytes_in += live.bytes_in;
        stats.bytes_out += live.bytes_out;
        stats.outbox_bytes = live.outbox_bytes;
        stats.refused = self.admission.refused();
        stats
    }

    fn tell(&mut self, event: &SessionEvent) {
        let lost = &mut self.stats.events_lost;
        self.subscribers.retain(|subscriber| {
            if subscriber.try_send(event.clone()).is_err() {
                *lost += 1;
            }
            subscriber.connected()
        });
    }

    fn tell_progress(&mut self) {
        let Some(draining) = &self.draining else { return };
        let DrainReport { ended, cut, .. } = draining.report;
        let left = self.admission.admitted().saturating_sub(self.ended);
        let progress = DrainProgress { ended, cut, left, duration: draining.since.elapsed() };
        if left > 0 {
            log::info!("draining: {ended} sessions ended, {cut} cut, {left} left");
        }
        self.tell(&SessionEvent::Draining(progress));
    }

    fn count(&mut self, report: CloseReport) {
        self.ended += 1;
        *self.stats.closed.entry(report.reason.name()).or_default() += 1;
        self.stats.lines_in += report.lines_in;
        self.stats.bytes_in += report.bytes_in;
        self.stats.bytes_out += report.bytes_out;
        self.stats.unsent_bytes += report.unsent_bytes;
        self.stats.undelivered_bytes += report.undelivered_bytes;
        if let Some(draining) = &mut self.draining {
            *if report.cut { &mut draining.report.cut } else { &mut draining.report.ended } += 1;
        }
        self.tell(&SessionEvent::Closed(report));
    }

    /// Aborts what has not ended yet.
    fn abort(&mut self) {
        if let Some(draining) = &mut self.draining {
            draining.aborting = true;
        }
        self.order(|| Order::Abort);
    }

    /// Ends the server, if nothing of it is left to wait for.
    fn consider_end(&mut self) {
        let all_ended = self.ended == self.admission.admitted();
        let Some(draining) = &mut self.draining else { return };
        if !draining.listeners_closed || !all_ended || self.finished.borrow().is_some() {
            return;
        }
        draining.report.duration = draining.since.elapsed();
        let report = draining.report;
        let waiting = std::mem::take(&mut draining.waiting);
        self.tell_progress();
        for waiting in waiting {
            let _ = waiting.send(report);
        }
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
        self.finish(false);
    }

    fn finish(&mut self, lost_workers: bool) {
        // A worker ends when nobody can give it an order: on an arbiter that lives on, it would stay otherwise.
        self.workers.fill_with(|| None);
        let arbiters = std::mem::take(&mut self.arbiters);
        let no_threads = arbiters.is_empty();
        let finished = self.finished.clone();
        // An arbiter that is not joined may be cut off in the middle of a destructor at the end of the process.
        let join = move || {
            for arbiter in arbiters {
                if arbiter.join().is_err() {
                    log::error!("a worker's thread panicked");
                }
            }
            finished.send_replace(Some(Finished { lost_workers }));
        };
        if no_threads {
            join();
        } else {
            drop(tokio::task::spawn_blocking(join));
        }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;
}

impl Handler<Batch> for Supervisor {
    type Result = ();

    fn handle(&mut self, batch: Batch, _: &mut Self::Context) {
        let token = batch.answer.as_ref().map(|answer| answer.token);
        for report in batch.reports {
            self.count(report);
        }
        if let Some(answer) = batch.answer
            && let Some(asked) = self.questions.get_mut(&answer.token)
        {
            asked.missing.retain(|worker| *worker != batch.worker);
            asked.so_far.add(answer);
        }
        if let Some(token) = token {
            self.settle(token);
        }
        if batch.last {
            self.workers[batch.worker] = None;
            let tokens: Vec<_> = self.questions.keys().copied().collect();
            for token in tokens {
                if let Some(asked) = self.questions.get_mut(&token) {
                    asked.missing.retain(|worker| *worker != batch.worker);
                }
                self.settle(token);
            }
            if self.draining.is_none() {
                log::error!("worker {} has stopped; its sessions are gone", batch.worker);
                if self.workers.iter().all(Option::is_none) {
                    log::error!("every worker has stopped: the server ends");
                    self.finish(true);
                }
            }
        }
        self.consider_end();
    }
}

impl Answered {
    fn add(&mut self, answer: Answer) {
        let Totals { sessions, lines_in, bytes_in, bytes_out, outbox_bytes, dropped } = answer.totals;
        self.totals.sessions += sessions;
        self.totals.lines_in += lines_in;
        self.totals.bytes_in += bytes_in;
        self.totals.bytes_out += bytes_out;
        self.totals.outbox_bytes += outbox_bytes;
        self.totals.dropped += dropped;
        self.sessions.extend(answer.sessions);
    }
}

impl Handler<GetStats> for Supervisor {
    type Result = ResponseActFuture<Self, Stats>;

    fn handle(&mut self, _: GetStats, _: &mut Self::Context) -> Self::Result {
        let answer = self.ask(Question::Totals).into_actor(self);
        // An end that was counted meanwhile came before its worker's answer, and is not in that.
        Box::pin(answer.map(|answered, supervisor, _| supervisor.stats(&answered.totals)))
    }
}

impl Handler<ListSessions> for Supervisor {
    type Result = ResponseFuture<SessionPage>;

    fn handle(&mut self, ListSessions(query): ListSessions, _: &mut Self::Context) -> Self::Result {
        let answer = self.ask(Question::List(Arc::new(query)));
        Box::pin(async move {
            let mut answered = answer.await;
            query.cut_to_page(&mut answered.sessions, query.offset);
            SessionPage { sessions: answered.sessions, total: answered.totals.sessions }
        })
    }
}

impl Handler<Kick> for Supervisor {
    type Result = ResponseFuture<u64>;

    fn handle(&mut self, Kick { whom, goodbye }: Kick, _: &mut Self::Context) -> Self::Result {
        let answer = self.ask(Question::Kick { whom, goodbye });
        Box::pin(async { answer.await.totals.sessions })
    }
}

impl Handler<Push> for Supervisor {
    type Result = ResponseFuture<Pushed>;

    fn handle(&mut self, Push { whom, bytes }: Push, _: &mut Self::Context) -> Self::Result {
        let answer = self.ask(Question::Push { whom, bytes });
        Box::pin(async {
            let Totals { sessions, dropped, .. } = answer.await.totals;
            Pushed { sessions, dropped }
        })
    }
}

impl Handler<PauseListener> for Supervisor {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, PauseListener { listener, paused }: PauseListener, _: &mut Self::Context) -> Self::Result {
        let told = self.acceptors.get(listener.get()).map(|acceptor| acceptor.send(SetPaused(paused)));
        Box::pin(async { matches!(OptionFuture::from(told).await, Some(Ok(()))) })
    }
}

impl Handler<GetLimits> for Supervisor {
    type Result = MessageResult<GetLimits>;

    fn handle(&mut self, _: GetLimits, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.limits.clone())
    }
}

impl Handler<SetLimits> for Supervisor {
    type Result = ResponseFuture<LimitsChange>;

    fn handle(&mut self, SetLimits { limits, dry_run }: SetLimits, _: &mut Self::Context) -> Self::Result {
        if !dry_run {
            // Before the workers look at the living, so that nobody comes in between by the old lists.
            self.admission.set(limits.admission.clone());
            self.limits = limits.clone();
        }
        let answer = self.ask(Question::Limits { limits: Arc::new(limits), dry_run });
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
        self.subscribers.push(recipient);
    }
}

impl Handler<Drain> for Supervisor {
    type Result = ResponseFuture<DrainReport>;

    fn handle(&mut self, Drain { deadline, goodbye, spread }: Drain, ctx: &mut Self::Context) -> Self::Result {
        let (done, report) = oneshot::channel();
        let first = self.draining.is_none();
        let draining = self.draining.get_or_insert_with(|| Draining {
            since: Instant::now(),
            listeners_closed: false,
            aborting: false,
            report: DrainReport::default(),
            waiting: Vec::new(),
        });
        draining.waiting.push(done);
        if first {
            let closing: Vec<_> = self.acceptors.drain(..).map(|acceptor| acceptor.send(CloseListener)).collect();
            ctx.run_interval(PROGRESS, |supervisor, _| supervisor.tell_progress());
            let closed = futures::future::join_all(closing).into_actor(self).map(move |_, supervisor: &mut Self, _| {
                supervisor.order(|| Order::Drain { over: spread.min(deadline / 2), goodbye: goodbye.clone() });
                if let Some(draining) = &mut supervisor.draining {
                    draining.listeners_closed = true;
                    if draining.aborting {
                        // For what was accepted meanwhile.
                        supervisor.order(|| Order::Abort);
                    }
                }
                supervisor.consider_end();
            });
            ctx.spawn(closed);
        }
        if deadline.is_zero() {
            self.abort();
        } else {
            ctx.run_later(deadline, |supervisor, _| supervisor.abort());
        }
        let already = self.finished.borrow().is_some();
        self.consider_end();
        let so_far = self.draining.as_ref().map(|draining| draining.report).unwrap_or_default();
        Box::pin(async move { if already { so_far } else { report.await.unwrap_or(so_far) } })
    }
}
