//! No session waits for ever: whatever held it back, it goes on or ends once that is gone, and its clocks run again.
//!
//! A model of a server: two workers with a real control path, sessions over memory, a paused clock. Each seed draws peers that stop
//! reading and go on, sessions that wait, pause, join and set rates, and an operator who changes every limit under them.
//! In the end what holds sessions back is lifted, or is left as it is where the deadlines that are on have to end them.
//! Here and not in a folder of tests: only the crate can start sessions of a server over memory.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering::SeqCst},
    time::{Duration, Instant as WallClock},
};

use actix::{Actor, ActorContext, Addr, AsyncContext, fut::wrap_future};
use actix_rt::Arbiter;
use futures::task::noop_waker_ref;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    address::Address,
    connection::{Connection, SessionId},
    control::{
        admission::listener::{ListenerAdmission, Ticket},
        messages::{Kick, ListSessions, Push, SetLimits},
        query::{SessionFilter, SessionQuery, SessionState},
        supervisor::{Supervisor, Unlaunched},
        ways::Control,
        workers::UnlaunchedWorker,
    },
    framing::Framing,
    limits::{Limits, ListenerLimits, OutboxLimit, OutboxPolicy, SoftLimit, Watermarks},
    rate::{Rate, RateGroup, RateLimit},
    report::{CloseReason, CloseReport},
    room::Room,
    session::{
        context::LineContext,
        handler::{Idle, LineHandler},
        lines::{Line, Payload},
        opening::Opening,
    },
    wire::transport::Transport,
    worker::{task, upstream::Upstream, worker::Worker},
};

/// Seeds that are always tried. `MODEL_SEED` tries one alone.
const SEEDS: std::ops::Range<u64> = 0..1000;
/// No new seed is begun after so much time of a busy machine.
const ENOUGH: Duration = Duration::from_secs(8);

const SESSIONS: usize = 6;
const STEPS: usize = 20;
/// How long a session may need to end when nothing holds it back.
const SOON: Duration = Duration::from_secs(60);
/// The same, when rates and peers that do not read are left as they are.
const LATE: Duration = Duration::from_secs(1200);

/// What may happen in a session. A world knows some of it only: what one kind of thing holds back another might set free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Write,
    Later,
    Wait,
    Pause,
    Rate,
    Group,
    Room,
    OutboxLimit,
    Raw,
    End,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Write,
        Self::Later,
        Self::Wait,
        Self::Pause,
        Self::Rate,
        Self::Group,
        Self::Room,
        Self::OutboxLimit,
        Self::Raw,
        Self::End,
    ];
}

/// What the sessions of one seed share.
struct World {
    rng: RefCell<fastrand::Rng>,
    groups: Vec<RateGroup>,
    rooms: Vec<Room>,
    /// What each session delivered, and its report.
    lines: RefCell<HashMap<usize, u64>>,
    reports: RefCell<HashMap<usize, CloseReport>>,
    /// The reasons that sessions were told at their end.
    endings: RefCell<HashMap<usize, CloseReason>>,
}

/// Does what its lines say.
struct Puppet {
    number: usize,
    world: Rc<World>,
    /// How many idle timeouts it stays for.
    stays: u8,
}

impl Actor for Puppet {
    type Context = LineContext<Self>;
}

fn milliseconds(text: &str) -> Duration {
    Duration::from_millis(text.parse().unwrap())
}

impl LineHandler for Puppet {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        *self.world.lines.borrow_mut().entry(self.number).or_default() += 1;
        let text = String::from_utf8_lossy(line.text()).into_owned();
        let mut words = text.split(' ');
        let (word, argument) = (words.next().unwrap_or_default(), words.next().unwrap_or("0"));
        let amount: usize = argument.parse().unwrap_or(0);
        match word {
            "write" => ctx.write(vec![b'w'; amount]),
            "later" => {
                ctx.run_later(Duration::from_millis(700), move |_, ctx| ctx.write(vec![b'l'; amount]));
            }
            "wait" => ctx.wait(wrap_future(tokio::time::sleep(milliseconds(argument)))),
            "pause" => {
                ctx.pause();
                ctx.run_later(milliseconds(argument), |_, ctx| ctx.resume());
            }
            "rate" => {
                let limit = rate_limit(&mut self.world.rng.borrow_mut());
                // While it is held back, and at once.
                ctx.set_rate(limit).unwrap();
                let again = if amount.is_multiple_of(2) { RateLimit::default() } else { limit };
                ctx.run_later(Duration::from_millis(900), move |_, ctx| ctx.set_rate(again).unwrap());
                // What it sets itself nobody else lifts.
                ctx.run_later(Duration::from_millis(1900), |_, ctx| ctx.set_rate(RateLimit::default()).unwrap());
            }
            "group" => {
                ctx.join_rate_group(&self.world.groups[amount % self.world.groups.len()]);
                if amount.is_multiple_of(3) {
                    ctx.run_later(Duration::from_millis(1100), |_, ctx| ctx.leave_rate_group());
                }
            }
            "ungroup" => ctx.leave_rate_group(),
            "enter" => ctx.join(&self.world.rooms[amount % self.world.rooms.len()]),
            "exit" => ctx.leave(&self.world.rooms[amount % self.world.rooms.len()]),
            "say" => ctx.say(&self.world.rooms[amount % self.world.rooms.len()], vec![b's'; amount]),
            "outbox_limit" => ctx.set_outbox_limit(outbox_limit(&mut self.world.rng.borrow_mut())).unwrap(),
            "raw" => ctx.payload(amount as u64),
            "half" => ctx.half_close(),
            "drain" => ctx.drain(),
            "stop" => ctx.stop(),
            _ => ctx.write(b"?\n"),
        }
    }

    fn payload(&mut self, _: Payload<'_>, ctx: &mut Self::Context) {
        ctx.write(b".");
    }

    fn idle(&mut self, ctx: &mut Self::Context) -> Idle {
        if self.stays == 0 {
            return Idle::End;
        }
        self.stays -= 1;
        ctx.write(b"ping\n");
        Idle::Stay
    }

    fn ending(&mut self, reason: &CloseReason, ctx: &mut Self::Context) {
        ctx.write(b"bye\n");
        let before = self.world.endings.borrow_mut().insert(self.number, *reason);
        assert_eq!(before, None, "two endings of session {}", self.number);
    }

    fn closed(&mut self, report: &CloseReport) {
        let before = self.world.reports.borrow_mut().insert(self.number, report.clone());
        assert!(before.is_none(), "two reports of session {}", self.number);
    }
}

fn rate(rng: &mut fastrand::Rng, slowest: u32) -> Option<Rate> {
    let per_second = slowest * rng.u32(1..20);
    rng.bool().then(|| Rate { per_second, burst: per_second.max(1) * rng.u32(1..3) })
}

fn rate_limit(rng: &mut fastrand::Rng) -> RateLimit {
    RateLimit { bytes: rate(rng, 100), lines: rate(rng, 2) }
}

fn outbox_limit(rng: &mut fastrand::Rng) -> OutboxLimit {
    let policies = [OutboxPolicy::DropNewest, OutboxPolicy::Accept, OutboxPolicy::Disconnect];
    let soft =
        rng.bool().then(|| SoftLimit { bytes: rng.usize(1000..100_000), time: Duration::from_secs(rng.u64(1..5)) });
    OutboxLimit { policy: policies[rng.usize(0..3)], hard: rng.usize(150_000..2_000_000), soft }
}

/// Limits of any kind. All deadlines are on, so that whatever they are sessions have to end.
fn limits(rng: &mut fastrand::Rng) -> Limits {
    let low = [0, 1000, 16_384, 80_000][rng.usize(0..4)];
    let timeout = |rng: &mut fastrand::Rng| Some(Duration::from_secs(rng.u64(1..20)));
    Limits::builder()
        .outbox(Watermarks { low, high: low + rng.usize(1..50_000) })
        .outbox_limit(outbox_limit(rng))
        .session_rate(if rng.bool() { rate_limit(rng) } else { RateLimit::default() })
        .idle_timeout(timeout(rng))
        .line_timeout(timeout(rng))
        .write_timeout(timeout(rng))
        .wait_timeout(Duration::from_secs(rng.u64(1..20)))
        .linger_timeout(Duration::from_secs(rng.u64(1..5)))
        .max_age(rng.bool().then_some(Duration::from_secs(600)))
        .memory_budget(rng.bool().then(|| rng.usize(1 << 20..4 << 20)))
        .build()
        .unwrap()
}

/// Without a deadline for what is held back: only a wake-up helps.
fn patient(limits: &Limits) -> Limits {
    limits.to_builder().write_timeout(None).max_age(None).build().unwrap()
}

/// What a peer says next, of the `kinds` of things that this world knows: whole lines, and payloads behind those that
/// announce them.
fn words(rng: &mut fastrand::Rng, kinds: &[Kind]) -> Vec<u8> {
    let mut said = String::new();
    for _ in 0..rng.usize(1..12) {
        let amount = rng.usize(0..20_000);
        let short = rng.usize(0..3000);
        match kinds.get(rng.usize(0..kinds.len() + 3)) {
            None => writeln!(said, "{}", "x".repeat(rng.usize(0..300))),
            Some(Kind::Write) => writeln!(said, "write {amount}"),
            Some(Kind::Later) => writeln!(said, "later {amount}"),
            Some(Kind::Wait) => writeln!(said, "wait {short}"),
            Some(Kind::Pause) => writeln!(said, "pause {short}"),
            Some(Kind::Rate) => writeln!(said, "rate {short}"),
            Some(Kind::Group) => writeln!(said, "{}group {short}", if rng.usize(0..3) == 0 { "un" } else { "" }),
            Some(Kind::Room) => match rng.usize(0..4) {
                0 => writeln!(said, "exit {short}"),
                1 => writeln!(said, "say {amount}"),
                _ => writeln!(said, "enter {short}"),
            },
            Some(Kind::OutboxLimit) => writeln!(said, "outbox_limit"),
            Some(Kind::Raw) => writeln!(said, "raw {short}").map(|()| said.push_str(&"r".repeat(short))),
            // Seldom, or none would live to the end.
            Some(Kind::End) if rng.usize(0..20) == 0 => {
                writeln!(said, "{}", ["half", "drain", "stop"][rng.usize(0..3)])
            }
            Some(Kind::End) => Ok(()),
        }
        .unwrap();
    }
    said.into_bytes()
}

/// A session's other end.
struct Peer {
    session: SessionId,
    says: mpsc::UnboundedSender<Vec<u8>>,
    reads: watch::Sender<bool>,
    sent: Rc<Cell<u64>>,
    /// Ends with what it has read.
    life: JoinHandle<u64>,
}

impl Peer {
    fn new(stream: DuplexStream, session: SessionId) -> Self {
        let (says, mut said) = mpsc::unbounded_channel::<Vec<u8>>();
        let (reads, mut may_read) = watch::channel(true);
        let (mut reader, mut writer) = tokio::io::split(stream);
        let sent = Rc::new(Cell::new(0));
        let counted = Rc::clone(&sent);
        let writing = tokio::task::spawn_local(async move {
            while let Some(bytes) = said.recv().await {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let Ok(count) = writer.write(rest).await else { return };
                    counted.set(counted.get() + count as u64);
                    rest = &rest[count..];
                }
            }
            std::future::pending::<()>().await;
        });
        let life = tokio::task::spawn_local(async move {
            let mut read = 0;
            let mut buffer = [0; 4096];
            loop {
                may_read.wait_for(|may| *may).await.unwrap();
                match reader.read(&mut buffer).await {
                    Ok(count) if count > 0 => read += count as u64,
                    _ => break,
                }
            }
            // It closes when it has heard that the other side has: its bytes end here.
            writing.abort();
            let _ = writing.await;
            read
        });
        Self { session, says, reads, sent, life }
    }
}

struct Model {
    world: Rc<World>,
    control: Arc<Control>,
    supervisor: Addr<Supervisor>,
    workers: Vec<Rc<Worker>>,
    peers: Vec<Peer>,
    kinds: Vec<Kind>,
}

impl Model {
    fn new(seed: u64) -> Self {
        let world = Rc::new(World {
            rng: RefCell::new(fastrand::Rng::with_seed(seed ^ 0x5eed)),
            groups: (0..2).map(|_| RateGroup::new(RateLimit::default()).unwrap()).collect(),
            rooms: (0..2).map(|_| Room::new()).collect(),
            lines: RefCell::default(),
            reports: RefCell::default(),
            endings: RefCell::default(),
        });
        let unlaunched = Unlaunched::new();
        let supervisor = unlaunched.address();
        let limits = Limits::default();
        let control = Control::new(limits.clone(), 2, vec![], Arbiter::current(), supervisor.clone().recipient());
        let mut workers = Vec::new();
        for UnlaunchedWorker { index, thread, load, orders } in control.add_workers() {
            let upstream = Upstream { control: Arc::clone(&control), load, thread, has_own_limits: false };
            let worker = Worker::new(index, limits.session, Some(upstream));
            actix_rt::spawn(task::look_after(Rc::clone(&worker), orders, task::NoHost));
            workers.push(worker);
        }
        unlaunched.launch(&control);
        Self { world, control, supervisor, workers, peers: Vec::new(), kinds: Vec::new() }
    }

    fn connect(&mut self, rng: &mut fastrand::Rng) {
        let admission = ListenerAdmission::new(&self.control.ledger.admission, ListenerLimits::default());
        let Ticket::Place(mut place) = admission.ticket(noop_waker_ref()) else {
            panic!("no limit of sessions was set");
        };
        let peer = Address::Ip(SocketAddr::new(Ipv4Addr::new(192, 0, 2, rng.u8(1..4)).into(), 1024));
        place.admit(peer.clone()).unwrap();
        let worker = &self.workers[rng.usize(0..self.workers.len())];
        let (ours, theirs) = tokio::io::duplex(1 << rng.usize(6..15));
        let connection = Connection::between(peer, Address::Memory);
        let puppet = Puppet { number: self.peers.len(), world: Rc::clone(&self.world), stays: rng.u8(0..3) };
        let opening = Opening::new(worker, Transport::new(ours), connection.clone(), Some(place), Framing::lf());
        assert!(opening.open(|_| (puppet, ())).is_ok());
        self.peers.push(Peer::new(theirs, connection.id));
    }

    async fn set(&self, limits: Limits) {
        self.supervisor.send(SetLimits { limits, dry_run: false }).await.unwrap();
    }

    /// One thing that happens.
    async fn step(&mut self, rng: &mut fastrand::Rng) {
        let of = |rng: &mut fastrand::Rng, len: usize| rng.usize(0..len);
        match rng.usize(0..20) {
            0..5 => {
                let peer = of(rng, self.peers.len());
                let said = words(rng, &self.kinds);
                let _ = self.peers[peer].says.send(said);
            }
            5..8 => {
                let peer = of(rng, self.peers.len());
                self.peers[peer].reads.send_modify(|reads| *reads = !*reads);
            }
            8..13 => {
                let mut limits = limits(rng);
                if rng.bool() {
                    limits = patient(&limits);
                }
                self.set(limits).await;
            }
            13 => self.set(Limits::default()).await,
            14 | 15 => {
                let group = of(rng, self.world.groups.len());
                self.world.groups[group].set(rate_limit(rng)).unwrap();
            }
            16 => {
                let bytes = vec![b'p'; rng.usize(0..200_000)].into();
                self.supervisor.send(Push { whom: SessionFilter::default(), bytes }).await.unwrap();
            }
            17 => {
                let room = of(rng, self.world.rooms.len());
                self.world.rooms[room].say(vec![b'o'; rng.usize(0..100_000)]);
            }
            18 if rng.usize(0..10) == 0 => {
                let whom = SessionFilter::default().outbox_at_least(1);
                self.supervisor.send(Kick { whom, goodbye: "bye\n".into() }).await.unwrap();
            }
            _ => {}
        }
        if rng.bool() {
            tokio::time::sleep(Duration::from_millis(rng.u64(0..700))).await;
        }
    }
}

/// Runs one seed. Its last step is either that all that holds sessions back is lifted, or nothing.
async fn run(seed: u64) {
    let rng = &mut fastrand::Rng::with_seed(seed);
    let mut model = Model::new(seed);
    model.kinds.extend(Kind::ALL.into_iter().filter(|_| rng.bool()));
    model.set(patient(&limits(rng))).await;
    for _ in 0..SESSIONS {
        model.connect(rng);
        let _ = model.peers.last().unwrap().says.send(words(rng, &model.kinds));
    }
    for _ in 0..STEPS {
        model.step(rng).await;
    }
    let is_lifted = rng.bool();
    let mut free = HashSet::new();
    let patience = if is_lifted {
        // All that holds sessions back but peers that do not read, whose bytes have room now.
        let lifted = Limits::builder()
            .outbox(Watermarks { low: (1 << 30) - 1, high: 1 << 30 })
            .outbox_limit(OutboxLimit { hard: 1 << 30, ..OutboxLimit::default() })
            .idle_timeout(None)
            .line_timeout(None)
            .write_timeout(None)
            .build()
            .unwrap();
        model.set(lifted.clone()).await;
        model.world.groups.iter().for_each(|group| group.set(RateLimit::default()).unwrap());
        tokio::time::sleep(Duration::from_secs(60)).await;
        let sessions = model.supervisor.send(ListSessions(SessionQuery::default())).await.unwrap().sessions;
        for session in sessions {
            let sent = model.peers.iter().find(|peer| peer.session == session.id).unwrap().sent.get();
            assert_ne!(
                session.state,
                SessionState::Held,
                "seed {seed}: held by nothing, of {sent} bytes: {session:#?}"
            );
            if session.state == SessionState::Open {
                assert_eq!(session.bytes_in, sent, "seed {seed}: {session:#?}");
                free.insert(session.id);
            }
        }
        // And what keeps them from ending.
        let timeout = Some(Duration::from_secs(3));
        model.set(lifted.to_builder().idle_timeout(timeout).line_timeout(timeout).build().unwrap()).await;
        for peer in &model.peers {
            peer.reads.send_replace(true);
        }
        SOON
    } else {
        let last = limits(rng);
        model.set(last).await;
        LATE
    };
    let until = Instant::now() + patience;
    while model.world.reports.borrow().len() < SESSIONS && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let ended = model.world.reports.borrow().len();
    if ended < SESSIONS {
        let left = model.supervisor.send(ListSessions(SessionQuery::default())).await.unwrap().sessions;
        panic!("seed {seed}: {} sessions wait for ever, lifted: {is_lifted}: {left:#?}", left.len());
    }
    // Whoever did not read does so now: nothing was lost on the way.
    let mut served = 0;
    for (number, peer) in model.peers.drain(..).enumerate() {
        let _ = peer.reads.send(true);
        let wants = peer.sent.get();
        let read = tokio::time::timeout(SOON, peer.life).await.expect("an EOF for each peer").unwrap();
        let report = model.world.reports.borrow()[&number].clone();
        let lines = model.world.lines.borrow().get(&number).copied().unwrap_or(0);
        assert_eq!(report.lines_in, lines, "seed {seed}, session {number}: {report}");
        let told = model.world.endings.borrow().get(&number).copied();
        match report.reason {
            // A stall may come behind the end of another reason.
            CloseReason::WriteStalled => {}
            CloseReason::OutboxFull | CloseReason::Evicted => assert_eq!(told, None, "seed {seed}, {number}: {report}"),
            // One that was to end may be aborted before it has said so, by its outbox limit or the memory budget.
            _ if told.is_none() => assert!(report.cut, "seed {seed}, session {number}: {report}"),
            reason => assert_eq!(told, Some(reason), "seed {seed}, session {number}: {report}"),
        }
        assert_eq!(report.bytes_out, read, "seed {seed}, session {number}: {report}");
        if report.reason == CloseReason::IdleTimeout && free.contains(&peer.session) {
            served += 1;
            assert_eq!((report.bytes_in, report.undelivered_bytes), (wants, 0), "seed {seed}, {number}: {report}");
        }
    }
    assert_eq!(model.workers.iter().map(|worker| worker.is_idle()).collect::<Vec<_>>(), [true; 2], "seed {seed}");
    SERVED.fetch_add(served, SeqCst);
}

static SERVED: AtomicUsize = AtomicUsize::new(0);

#[actix::test]
async fn whatever_held_a_session_back_it_goes_on_or_ends_once_that_is_gone() {
    tokio::time::pause();
    if let Some(seed) = std::env::var("MODEL_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return run(seed).await;
    }
    let begin = WallClock::now();
    let mut tried = 0;
    for seed in SEEDS {
        if begin.elapsed() > ENOUGH {
            break;
        }
        run(seed).await;
        tried += 1;
    }
    // Most sessions live until all is lifted, or this would prove nothing.
    let served = SERVED.load(SeqCst);
    assert!(served >= tried, "only {served} sessions of {tried} seeds were served to their end");
}
