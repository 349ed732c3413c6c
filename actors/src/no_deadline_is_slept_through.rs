//! No deadline is slept through: a worker on which nothing happens does not sweep, and yet each session ends in time.
//!
//! A model of one worker, with sessions over memory and a paused clock. Each seed draws timeouts from a second to weeks, and what
//! happens to sessions at gaps as wide: lines, bytes, waits, pauses, peers that stop reading, idle timeouts that are stayed
//! for, an operator who changes the timeouts. No session may end before what it ends by is over, or be there a second
//! later, and the sweeps have to be few.
//! Here and not in a folder of tests: only the crate can count sweeps and wind its clock.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant as WallClock},
};

use actix::{Actor, ActorContext, Addr, AsyncContext, Handler, Message, fut::wrap_future};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    sync::{Mutex, mpsc, watch},
    time::{Instant, sleep},
};

use crate::{
    address::Address,
    connection::Connection,
    control::orders::{Order, Question},
    framing::Framing,
    limits::{Limits, OutboxLimit, OutboxPolicy, SoftLimit},
    rate::{Rate, RateLimit},
    report::{CloseReason, CloseReport},
    session::{
        context::LineContext,
        handler::{Idle, LineHandler},
        lines::Line,
        opening::Opening,
    },
    wire::{
        filter::{Eof, Fault, Filter, Flow, Inflow},
        transport::Transport,
    },
    worker::{task, worker::Worker},
};

/// Seeds that are always tried. `MODEL_SEED` tries one alone.
const SEEDS: std::ops::Range<u64> = 0..400;
/// No new seed is begun after so much time of a busy machine.
const ENOUGH: Duration = Duration::from_secs(5);
const STEPS: usize = 60;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// What the longest of the gaps and the timeouts take.
const WEEKS: f64 = 14.0 * 24.0 * 3600.0;
/// How late a deadline may be met.
const LATE: Duration = SECOND;
/// What a peer that reads nothing is sent: above the high watermark.
const FLOOD: usize = 200_000;
/// A time in which all that is at hand is done.
const MOMENT: Duration = Duration::from_millis(2);

/// A worker of sessions over memory.
struct Bench {
    worker: Rc<Worker>,
    orders: mpsc::UnboundedSender<Order>,
}

impl Bench {
    fn new(limits: &Limits) -> Self {
        let worker = Worker::new(0, limits.session, None);
        let (orders, receiver) = mpsc::unbounded_channel();
        actix_rt::spawn(task::look_after(Rc::clone(&worker), receiver, task::NoHost));
        Self { worker, orders }
    }

    fn opening(&self, transport: Transport) -> Opening {
        Opening::new(
            &self.worker,
            transport,
            Connection::between(Address::Memory, Address::Memory),
            None,
            Framing::lf(),
        )
    }

    /// Opens a session of `actor`. Returns its address, and the peer's end.
    fn open(&self, actor: Puppet) -> (Addr<Puppet>, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1024);
        let opened = self.opening(Transport::new(ours)).open(|ctx| (actor, ctx.address()));
        let Ok((_, address)) = opened else { panic!("the factory has panicked") };
        (address, theirs)
    }

    async fn set(&self, limits: Limits) {
        let question = Question::Limits { limits: Arc::new(limits), dry_run: false };
        self.orders.send(Order::Answer { token: 0, question }).unwrap();
        sleep(MOMENT).await;
    }

    /// Sweeps while `time` passes.
    async fn sweeps_in(&self, time: Duration) -> usize {
        let before = self.worker.sweeps();
        sleep(time).await;
        self.worker.sweeps() - before
    }
}

/// What a session was seen to do.
#[derive(Default)]
struct Seen {
    lines: Cell<usize>,
    /// When it was asked whether it stays.
    idle: RefCell<Vec<Instant>>,
    end: RefCell<Option<(Instant, CloseReason)>>,
}

/// Does as it is told by messages, which count as no activity.
struct Puppet {
    seen: Rc<Seen>,
    /// How many idle timeouts it stays for.
    stays: usize,
}

impl Puppet {
    fn new(stays: usize) -> (Self, Rc<Seen>) {
        let seen = Rc::<Seen>::default();
        (Self { seen: Rc::clone(&seen), stays }, seen)
    }
}

impl Actor for Puppet {
    type Context = LineContext<Self>;
}

impl LineHandler for Puppet {
    fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {
        self.seen.lines.set(self.seen.lines.get() + 1);
    }

    fn idle(&mut self, _: &mut Self::Context) -> Idle {
        if self.stays == 0 {
            return Idle::End;
        }
        self.stays -= 1;
        self.seen.idle.borrow_mut().push(Instant::now());
        Idle::Stay
    }

    fn closed(&mut self, report: &CloseReport) {
        let before = self.seen.end.borrow_mut().replace((Instant::now(), report.reason));
        assert!(before.is_none(), "two reports");
    }
}

#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
enum Do {
    Wait(Duration),
    Pause(Duration),
    Flood,
    Stop,
}

impl Handler<Do> for Puppet {
    type Result = ();

    fn handle(&mut self, what: Do, ctx: &mut Self::Context) {
        match what {
            Do::Wait(time) => ctx.wait(wrap_future(sleep(time))),
            Do::Pause(time) => {
                ctx.pause();
                ctx.run_later(time, |_, ctx| ctx.resume());
            }
            Do::Flood => ctx.write(vec![b'f'; FLOOD]),
            Do::Stop => {
                // Where nothing was written there is no linger.
                ctx.write(b"bye\n");
                ctx.stop();
            }
        }
    }
}

/// A session's other end. It reads to the EOF while it is not deaf, and then closes.
struct Peer {
    /// Until it closes.
    writer: Rc<Mutex<Option<WriteHalf<DuplexStream>>>>,
    hears: watch::Sender<bool>,
    /// Unless it stays.
    closes: watch::Sender<bool>,
}

impl Peer {
    fn new(stream: DuplexStream) -> Self {
        let (mut reader, writer): (ReadHalf<_>, _) = tokio::io::split(stream);
        let writer = Rc::new(Mutex::new(Some(writer)));
        let ours = Rc::clone(&writer);
        let (hears, mut may_read) = watch::channel(true);
        let (closes, mut may_close) = watch::channel(true);
        actix_rt::spawn(async move {
            let mut buffer = [0; 4096];
            while may_read.wait_for(|may| *may).await.is_ok()
                && reader.read(&mut buffer).await.is_ok_and(|read| read > 0)
            {}
            let _ = may_close.wait_for(|may| *may).await;
            drop(ours.lock().await.take());
        });
        Self { writer, hears, closes }
    }

    async fn write(&self, bytes: &[u8]) {
        // It may have ended by now.
        if let Some(writer) = &mut *self.writer.lock().await {
            let _ = writer.write_all(bytes).await;
        }
    }
}

/// One session, and what is known of its clocks.
struct Session {
    address: Addr<Puppet>,
    peer: Peer,
    seen: Rc<Seen>,
    opened: Instant,
    /// When its idle or line clock began, and for how long that has stood still since then.
    active: Instant,
    still: Duration,
    is_partial: bool,
    /// Until when a wait or a pause takes, and when the wait is too long.
    held_until: Instant,
    wait_until: Option<Instant>,
    /// Since when the peer takes nothing.
    stalled: Option<Instant>,
    linger_until: Option<Instant>,
}

impl Session {
    fn open(bench: &Bench, stays: usize) -> Self {
        let (puppet, seen) = Puppet::new(stays);
        let (address, stream) = bench.open(puppet);
        let now = Instant::now();
        Self {
            address,
            peer: Peer::new(stream),
            seen,
            opened: now,
            active: now,
            still: Duration::ZERO,
            is_partial: false,
            held_until: now,
            wait_until: None,
            stalled: None,
            linger_until: None,
        }
    }

    fn has_ended(&self) -> bool {
        self.seen.end.borrow().is_some()
    }

    fn is_held(&self) -> bool {
        self.stalled.is_some() || self.linger_until.is_some() || self.held_until > Instant::now()
    }

    fn restart(&mut self, at: Instant) {
        self.active = at;
        self.still = Duration::ZERO;
    }

    /// What may end the session, when at the earliest, and when it is due.
    fn deadlines(&self, limits: &Limits) -> Vec<(CloseReason, Instant, Instant)> {
        if let Some(until) = self.linger_until {
            return vec![(CloseReason::ClosedByHandler, until, until)];
        }
        let mut deadlines = Vec::new();
        let mut add = |reason, at: Option<Instant>, due: Instant| {
            deadlines.extend(at.map(|at| (reason, at, at.max(due))));
        };
        let limits = limits.session;
        let after = |begin: Instant, timeout: Option<Duration>| timeout.map(|timeout| begin + timeout);
        if let Some(stalled) = self.stalled {
            add(CloseReason::WriteStalled, after(stalled, limits.write_timeout), stalled);
            add(CloseReason::OutboxFull, after(stalled, limits.outbox_limit.soft.map(|soft| soft.time)), stalled);
            return deadlines;
        }
        // A wait that is over by the verdict is none any more.
        add(CloseReason::WaitTimeout, self.wait_until.filter(|until| *until + LATE < self.held_until), self.opened);
        let free_at = self.wait_until.map_or(self.opened, |until| until.min(self.held_until));
        add(CloseReason::MaxAge, after(self.opened, limits.max_age), free_at);
        let (reason, timeout) = match (self.is_partial, limits.line_timeout) {
            (true, Some(timeout)) => (CloseReason::LineTimeout, Some(timeout)),
            _ => (CloseReason::IdleTimeout, limits.idle_timeout),
        };
        let runs_out = after(self.active + self.still, timeout).map(|at| at.max(self.held_until));
        add(reason, runs_out, self.opened);
        deadlines
    }

    /// Nothing was early, and nothing is late. A change of limits at `changed` counts from then on.
    fn check(&mut self, seed: u64, limits: &Limits, changed: Instant) {
        for at in self.seen.idle.take() {
            let deadlines = self.deadlines(limits);
            let idle = deadlines.iter().find(|(reason, ..)| *reason == CloseReason::IdleTimeout);
            let (_, least, due) = *idle.unwrap_or_else(|| panic!("seed {seed}: idle without an idle timeout"));
            assert!(at >= least, "seed {seed}: idle {:?} early", least - at);
            assert!(at <= due.max(changed) + LATE, "seed {seed}: idle {:?} late", at - due.max(changed));
            self.restart(at);
        }
        let deadlines = self.deadlines(limits);
        let end = *self.seen.end.borrow();
        let until = end.map_or_else(Instant::now, |(at, _)| at);
        for (reason, least, due) in deadlines {
            let due = due.max(changed);
            assert!(until <= due + LATE, "seed {seed}: {reason} {:?} late, end {end:?}", until - due);
            if end.is_some_and(|(_, ended_by)| ended_by == reason) {
                assert!(until >= least, "seed {seed}: {reason} {:?} early", least - until);
            }
        }
    }
}

/// A time from a second to weeks, as often short as long.
fn time(rng: &mut fastrand::Rng, longest: f64) -> Duration {
    Duration::from_millis((1000.0 * longest.powf(rng.f64())) as u64)
}

fn limits(rng: &mut fastrand::Rng) -> Limits {
    let timeout = |rng: &mut fastrand::Rng, longest| (rng.u8(0..4) > 0).then(|| time(rng, longest));
    let soft = timeout(rng, 60.0).map(|time| SoftLimit { bytes: FLOOD / 2, time });
    Limits::builder()
        .idle_timeout(timeout(rng, WEEKS))
        .line_timeout(timeout(rng, WEEKS))
        .write_timeout(timeout(rng, 60.0))
        .max_age(timeout(rng, WEEKS))
        .wait_timeout(time(rng, WEEKS))
        .linger_timeout(time(rng, WEEKS))
        .outbox_limit(OutboxLimit { policy: OutboxPolicy::Accept, soft, ..OutboxLimit::default() })
        .build()
        .unwrap()
}

/// Something happens to a session that nothing holds back.
async fn act(rng: &mut fastrand::Rng, session: &mut Session, limits: &Limits) {
    let now = Instant::now();
    let time = time(rng, WEEKS);
    let what = rng.u8(0..12);
    match what {
        0..3 => session.peer.write(b"line\n").await,
        3..5 => session.peer.write(b"x").await,
        5 => session.address.do_send(Do::Wait(time)),
        6..8 => session.address.do_send(Do::Pause(time)),
        8 => {
            session.peer.hears.send_replace(false);
            session.address.do_send(Do::Flood);
        }
        9 if rng.bool() => {
            session.peer.closes.send_replace(false);
            session.address.do_send(Do::Stop);
        }
        _ => return,
    }
    sleep(MOMENT).await;
    if session.has_ended() {
        return;
    }
    match what {
        0..3 => {
            session.restart(now);
            session.is_partial = false;
        }
        3..5 => {
            if !session.is_partial || limits.session.line_timeout.is_none() {
                session.restart(now);
            }
            session.is_partial = true;
        }
        5..8 => {
            session.still += time;
            session.held_until = now + time;
            session.wait_until = (what == 5).then_some(now + limits.session.wait_timeout);
        }
        8 => session.stalled = Some(now),
        _ => session.linger_until = Some(now + limits.session.linger_timeout),
    }
}

/// Runs one seed. Returns how many sessions came to their end.
async fn run(seed: u64) -> usize {
    let rng = &mut fastrand::Rng::with_seed(seed);
    let mut limits_now = limits(rng);
    let bench = Bench::new(&limits_now);
    let begin = Instant::now();
    let mut changed = begin;
    let mut sessions = Vec::<Session>::new();
    let (mut events, mut ended, mut stalled) = (0_u32, 0, Duration::ZERO);
    for _ in 0..STEPS {
        events += 1;
        match rng.usize(0..8) {
            0..2 if sessions.len() < 4 => sessions.push(Session::open(&bench, rng.usize(0..3))),
            2 => {
                limits_now = limits(rng);
                bench.set(limits_now.clone()).await;
                changed = Instant::now();
            }
            _ if !sessions.is_empty() => {
                let at = rng.usize(0..sessions.len());
                let session = &mut sessions[at];
                if let Some(since) = session.stalled.filter(|_| rng.bool()) {
                    session.peer.hears.send_replace(true);
                    sleep(MOMENT).await;
                    if !session.has_ended() {
                        session.stalled = None;
                        session.held_until = Instant::now();
                        session.still += since.elapsed();
                        // What was owed meanwhile is owed now.
                        session.wait_until = None;
                        changed = changed.max(session.held_until);
                    }
                } else if !session.is_held() {
                    act(rng, session, &limits_now).await;
                }
            }
            _ => {}
        }
        let is_stalled = sessions.iter().any(|session| session.stalled.is_some());
        // A worker sweeps on while a peer takes nothing of what it is sent.
        let gap = time(rng, if is_stalled { 20.0 } else { WEEKS });
        if is_stalled {
            stalled += gap + SECOND;
        }
        sleep(gap).await;
        for session in &mut sessions {
            let idle = session.seen.idle.borrow().len();
            events += idle as u32;
            session.check(seed, &limits_now, changed);
        }
        let before = sessions.len();
        sessions.retain(|session| !session.has_ended());
        ended += before - sessions.len();
        events += (before - sessions.len()) as u32;
    }
    let sweeps = bench.worker.sweeps() as f64;
    let quarters = stalled.as_secs_f64() * 4.0;
    let checks = begin.elapsed().as_secs_f64() / (6.0 * HOUR.as_secs_f64());
    // When each was to begin, was judged, and when its linger was over.
    let most = f64::from(events) * 8.0 + quarters + checks;
    assert!(sweeps <= most, "seed {seed}: {sweeps} sweeps for {events} events in {:?}", begin.elapsed());
    ended
}

#[actix::test]
async fn whatever_happens_before_and_in_a_sleep_each_session_ends_in_time_and_none_early() {
    tokio::time::pause();
    if let Some(seed) = std::env::var("MODEL_SEED").ok().and_then(|seed| seed.parse().ok()) {
        run(seed).await;
        return;
    }
    let begin = WallClock::now();
    let (mut tried, mut ended) = (0, 0);
    for seed in SEEDS {
        if begin.elapsed() > ENOUGH {
            break;
        }
        ended += run(seed).await;
        tried += 1;
    }
    assert!(ended >= 2 * tried, "only {ended} sessions of {tried} seeds came to their end");
}

fn untimed() -> crate::limits::LimitsBuilder {
    Limits::builder().idle_timeout(None).line_timeout(None).write_timeout(None)
}

#[actix::test]
async fn a_worker_of_idle_sessions_sweeps_when_they_have_come_and_when_their_time_is_over() {
    tokio::time::pause();
    // One sweep behind what has happened; one that finds them, and one that ends them; one behind the end.
    for (idle, in_an_hour, in_two) in [(None, 1, 1), (Some(2 * HOUR), 1, 4), (Some(HOUR / 12), 4, 4)] {
        let bench = Bench::new(&untimed().idle_timeout(idle).build().unwrap());
        let sessions: Vec<_> = (0..300).map(|_| Session::open(&bench, 0)).collect();
        assert_eq!(bench.sweeps_in(HOUR).await, in_an_hour, "{idle:?}");
        assert_eq!(sessions[0].has_ended(), idle == Some(HOUR / 12));
        sleep(HOUR + SECOND).await;
        assert_eq!(bench.worker.sweeps(), in_two, "{idle:?}");
        assert_eq!(sessions[299].has_ended(), idle.is_some());
    }
}

#[actix::test]
async fn a_line_an_hour_costs_a_sweep_an_hour() {
    tokio::time::pause();
    let bench = Bench::new(&untimed().idle_timeout(Some(2 * HOUR)).max_age(Some(20 * DAY)).build().unwrap());
    let mut sessions: Vec<_> = (0..10).map(|_| Session::open(&bench, 0)).collect();
    let _ = bench.sweeps_in(HOUR).await;
    for _ in 0..10 {
        for session in &mut sessions {
            session.peer.write(b"line\n").await;
        }
        assert_eq!(bench.sweeps_in(HOUR).await, 1);
    }
    assert!(sessions.iter().all(|session| session.seen.lines.get() == 10 && !session.has_ended()));
}

#[actix::test]
async fn a_clock_that_stands_still_needs_no_sweep_and_goes_on_where_it_stood() {
    tokio::time::pause();
    let bench = Bench::new(&untimed().idle_timeout(Some(HOUR)).wait_timeout(20 * DAY).build().unwrap());
    for what in [Do::Pause(5 * DAY), Do::Wait(5 * DAY)] {
        let session = Session::open(&bench, 0);
        sleep(HOUR / 2).await;
        session.address.do_send(what);
        let sweeps = bench.sweeps_in(5 * DAY).await;
        assert!(sweeps <= 22, "{sweeps} sweeps");
        sleep(HOUR / 2 - SECOND).await;
        assert!(!session.has_ended(), "{what:?}");
        sleep(2 * SECOND).await;
        assert!(session.has_ended(), "{what:?}");
    }
}

#[actix::test]
async fn an_idle_time_of_months_is_shown_as_weeks() {
    tokio::time::pause();
    let bench = Bench::new(&untimed().build().unwrap());
    let session = Session::open(&bench, 0);
    for day in 1..150 {
        sleep(DAY).await;
        let idle = bench.worker.idle_times()[0];
        assert!(idle + SECOND >= DAY * day.min(24) && idle <= DAY * day, "{idle:?} after {day} days");
    }
    assert!(!session.has_ended());
}

#[actix::test]
async fn a_shorter_timeout_holds_for_who_sleeps() {
    tokio::time::pause();
    let bench = Bench::new(&untimed().build().unwrap());
    let session = Session::open(&bench, 0);
    sleep(HOUR).await;
    bench.set(untimed().idle_timeout(Some(HOUR + 10 * SECOND)).build().unwrap()).await;
    sleep(9 * SECOND).await;
    assert!(!session.has_ended());
    sleep(2 * SECOND).await;
    assert!(session.has_ended());
}

/// A filter that never opens.
struct Closed;

impl Filter for Closed {
    fn read(&mut self, wire: &mut Inflow<'_>, _: &mut Vec<u8>, _: &mut Vec<u8>) -> Result<Flow, Fault> {
        wire.rest();
        Ok(Flow::Preface)
    }

    fn write(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Fault> {
        wire.extend_from_slice(plain);
        Ok(())
    }

    fn eof(&mut self) -> Eof {
        Eof::Truncated
    }

    fn finish(&mut self, _: &mut Vec<u8>) {}

    fn held(&self) -> usize {
        0
    }
}

#[actix::test]
async fn a_preface_that_begins_while_its_worker_sleeps_has_its_deadline() {
    tokio::time::pause();
    let bench = Bench::new(&untimed().build().unwrap());
    let (ours, _theirs) = tokio::io::duplex(64);
    let mut opening = bench.opening(Transport::new(ours).with_filter(Closed));
    let report = opening.watch();
    assert_eq!(bench.sweeps_in(HOUR).await, 1);
    let begin = Instant::now();
    assert!(opening.preface().await.is_none());
    let took = begin.elapsed();
    assert!((10 * SECOND..=11 * SECOND).contains(&took), "{took:?}");
    assert_eq!(report.await.unwrap().reason, CloseReason::PrefaceTimeout);
}

#[actix::test]
async fn a_worker_whose_last_connection_was_no_session_ends_though_it_sleeps() {
    tokio::time::pause();
    let Bench { worker, orders } = Bench::new(&untimed().build().unwrap());
    let bench = Bench { worker: Rc::clone(&worker), orders: orders.clone() };
    let (ours, _theirs) = tokio::io::duplex(64);
    let opening = bench.opening(Transport::new(ours));
    drop((bench, orders));
    sleep(HOUR).await;
    assert_eq!(Rc::strong_count(&worker), 3, "the task, the opening, this test");
    drop(opening);
    sleep(SECOND).await;
    assert_eq!(Rc::strong_count(&worker), 1);
}

#[actix::test]
async fn a_bucket_is_filled_before_its_worker_sleeps_and_no_fuller_behind_it() {
    tokio::time::pause();
    for (rate, at_once) in [
        (Rate { per_second: 1, burst: 10 }, 10),
        // A bucket of one refill at least.
        (Rate { per_second: 100, burst: 1 }, 25),
    ] {
        let limits = untimed().session_rate(RateLimit { lines: Some(rate), bytes: None });
        let bench = Bench::new(&limits.build().unwrap());
        let session = Session::open(&bench, 0);
        sleep(SECOND).await;
        for _ in 0..3 {
            let before = session.seen.lines.get();
            session.peer.write(&b"\n".repeat(200)).await;
            sleep(MOMENT).await;
            assert_eq!(session.seen.lines.get() - before, at_once, "{rate:?}");
            // It sweeps for as long as lines wait and the bucket has room.
            let needed = (4 * 200 / rate.per_second) as usize;
            let sweeps = bench.sweeps_in(HOUR).await;
            assert!((needed - 2..=needed + 3).contains(&sweeps), "{rate:?}: {sweeps} sweeps, not {needed}");
            assert_eq!(session.seen.lines.get() - before, 200, "{rate:?}");
            // Longer than any sleep, and nothing has happened.
            sleep(7 * HOUR).await;
        }
    }
}
