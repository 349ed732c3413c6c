//! Supervisor: the control path. Counts sessions, answers questions about them, drains them.
//!
//! No line passes through here: losing this actor costs the answers and the drain, never data. It holds no session's
//! address; what it knows of an end it hears in batches, from the worker that kept the session's slot.
//! Not here: admission (`admission`), and what a drain means to one connection (`context`).

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, Recipient, ResponseFuture, WrapFuture,
};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use crate::{
    CloseReport, ListenerId, SessionId,
    acceptor::{Acceptor, CloseListener, WorkerHandle},
    admission::Admission,
    worker::Order,
};

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
    /// Events that a subscriber was too slow for.
    pub events_lost: u64,
}

/// What is known of a live session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionInfo {
    /// The session's number.
    pub id: SessionId,
    /// The peer's address; `None` for a transport without one.
    pub peer: Option<SocketAddr>,
    /// The listener that it came in by.
    pub listener: Option<ListenerId>,
    /// The worker that runs it, from 0.
    pub worker: usize,
    /// Since its admission.
    pub age: Duration,
    /// Lines given to its handler.
    pub lines_in: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes that the kernel took.
    pub bytes_out: u64,
    /// Bytes that the kernel has yet to take.
    pub outbox_bytes: usize,
    /// Its handler has nothing more to say: it flushes or lingers.
    pub closing: bool,
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
}

/// Asks for the counters.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Stats")]
pub struct GetStats;

/// Asks for all live sessions, in the order of their numbers.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Vec<SessionInfo>")]
pub struct ListSessions;

/// Sends every [`SessionEvent`] from now on. What does not fit the subscriber's mailbox is lost, and counted in
/// [`Stats::events_lost`].
#[derive(Message)]
#[rtype(result = "()")]
pub struct Subscribe(pub Recipient<SessionEvent>);

/// Accept no more, answer what was read, flush, close; after `deadline` abort the rest. The server ends with it. Sending
/// it twice shortens the time if the second deadline comes first, and changes nothing else.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "DrainReport")]
pub struct Drain {
    /// How long sessions have.
    pub deadline: Duration,
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
}

/// A question that some workers have yet to answer.
struct Question {
    missing: Vec<usize>,
    totals: Totals,
    sessions: Vec<SessionInfo>,
    done: oneshot::Sender<(Stats, Vec<SessionInfo>)>,
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
    acceptors: Vec<Addr<Acceptor>>,
    /// `None` for a worker that is no more.
    workers: Vec<Option<WorkerHandle>>,
    arbiters: Vec<actix_rt::Arbiter>,
    ended: u64,
    stats: Stats,
    subscribers: Vec<Recipient<SessionEvent>>,
    questions: HashMap<u64, Question>,
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
        admission: Arc<Admission>,
        acceptors: Vec<Addr<Acceptor>>,
        workers: Vec<WorkerHandle>,
        arbiters: Vec<actix_rt::Arbiter>,
        finished: watch::Sender<Option<Finished>>,
    ) -> Self {
        Self {
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

    fn ask(&mut self, list: bool) -> oneshot::Receiver<(Stats, Vec<SessionInfo>)> {
        let token = self.next_token;
        self.next_token += 1;
        let missing = self.order(|| Order::Answer { token, list });
        let (done, answer) = oneshot::channel();
        self.questions.insert(token, Question { missing, totals: Totals::default(), sessions: Vec::new(), done });
        self.settle(token);
        answer
    }

    /// Answers a question that no worker is missing from.
    fn settle(&mut self, token: u64) {
        if self.questions.get(&token).is_some_and(|question| question.missing.is_empty())
            && let Some(mut question) = self.questions.remove(&token)
        {
            let mut stats = self.stats.clone();
            stats.live = question.totals.sessions;
            stats.opened = self.ended + stats.live;
            stats.lines_in += question.totals.lines_in;
            stats.bytes_in += question.totals.bytes_in;
            stats.bytes_out += question.totals.bytes_out;
            question.sessions.sort_unstable_by_key(|session| session.id);
            // Whoever asked may have lost interest.
            let _ = question.done.send((stats, question.sessions));
        }
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
        let lost = &mut self.stats.events_lost;
        self.subscribers.retain(|subscriber| {
            if subscriber.try_send(SessionEvent::Closed(report.clone())).is_err() {
                *lost += 1;
            }
            subscriber.connected()
        });
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
        for waiting in draining.waiting.drain(..) {
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
        for report in batch.reports {
            self.count(report);
        }
        if let Some(answer) = batch.answer
            && let Some(question) = self.questions.get_mut(&answer.token)
        {
            question.missing.retain(|worker| *worker != batch.worker);
            question.totals.sessions += answer.totals.sessions;
            question.totals.lines_in += answer.totals.lines_in;
            question.totals.bytes_in += answer.totals.bytes_in;
            question.totals.bytes_out += answer.totals.bytes_out;
            question.sessions.extend(answer.sessions);
            self.settle(answer.token);
        }
        if batch.last {
            self.workers[batch.worker] = None;
            let tokens: Vec<_> = self.questions.keys().copied().collect();
            for token in tokens {
                if let Some(question) = self.questions.get_mut(&token) {
                    question.missing.retain(|worker| *worker != batch.worker);
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

impl Handler<GetStats> for Supervisor {
    type Result = ResponseFuture<Stats>;

    fn handle(&mut self, _: GetStats, _: &mut Self::Context) -> Self::Result {
        let answer = self.ask(false);
        Box::pin(async { answer.await.map(|(stats, _)| stats).unwrap_or_default() })
    }
}

impl Handler<ListSessions> for Supervisor {
    type Result = ResponseFuture<Vec<SessionInfo>>;

    fn handle(&mut self, _: ListSessions, _: &mut Self::Context) -> Self::Result {
        let answer = self.ask(true);
        Box::pin(async { answer.await.map(|(_, sessions)| sessions).unwrap_or_default() })
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

    fn handle(&mut self, Drain { deadline }: Drain, ctx: &mut Self::Context) -> Self::Result {
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
            let closed = futures::future::join_all(closing).into_actor(self).map(|_, supervisor, _| {
                supervisor.order(|| Order::Drain);
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
