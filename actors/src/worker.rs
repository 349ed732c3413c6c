//! A worker: what the sessions of one arbiter share, and the task that looks after them.
//!
//! Everything here stays on its thread. The scratch buffers are taken out while they are used, so that no user code ever
//! runs under a borrow of them. The slots hold what a session needs only now and then; its future stays small.
//! Not here: what a session does in its turn (`context`), who is told of its end (`supervisor`).

use std::{
    cell::{Cell, RefCell},
    net::{SocketAddr, TcpStream},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
    time::Duration,
};

use actix::Addr;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior},
};

use crate::{
    CloseReason, CloseReport, Connection, Limits, ListenerId, SessionId, Supervisor,
    admission::Place,
    framing::SLACK_BYTES,
    limits::{CARRY_BYTES, SCRATCH_BYTES},
    outbox::Outbox,
    supervisor::{Answer, Batch, SessionInfo, Totals},
};

/// How often deadlines are looked at; they are met within twice that.
const SWEEP: Duration = Duration::from_millis(250);
/// Slots looked at before the sessions get a turn again.
const SWEEP_SLICE: usize = 4096;
/// How long an end may wait for others before the supervisor hears of it, and how many at most.
const REPORT_DELAY: Duration = Duration::from_millis(10);
const REPORT_BATCH: usize = 256;
/// Sessions in one piece of the slot table: it grows by as much, and what exists is never moved.
const CHUNK: usize = 256;

/// What a session is told from outside its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Drain = 1,
    Abort = 2,
    Deadline = 4,
}

/// What was said to a session since its last turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Commands(u8);

impl Commands {
    pub(crate) fn has(self, command: Command) -> bool {
        self.0 & command as u8 != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The part of a session that its turns seldom touch.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) id: SessionId,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) listener: Option<ListenerId>,
    pub(crate) reason: Option<CloseReason>,
    commands: Commands,
    closing: bool,
    opened: Instant,
    /// In milliseconds of the worker's clock; 0 is none.
    deadline: u32,
    outbox_len: u32,
    waker: Option<Waker>,
    lines_in: u64,
    bytes_in: u64,
    bytes_out: u64,
    /// Rare, so it is not here.
    losses: Option<Box<Losses>>,
    /// Given back with the slot.
    _place: Option<Place>,
}

#[derive(Debug, Default)]
struct Losses {
    unsent: u64,
    undelivered: u64,
    tail: u64,
}

/// What one turn adds to a session's counters.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) lines_in: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

#[derive(Debug, Default)]
struct Slots {
    chunks: Vec<Vec<Option<Slot>>>,
    free: Vec<u32>,
}

impl Slots {
    fn insert(&mut self, slot: Slot) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
                self.chunks.push(Vec::with_capacity(CHUNK));
            }
            let full = (self.chunks.len() - 1) * CHUNK;
            let last = self.chunks.last_mut().expect("a chunk was just made sure of");
            last.push(None);
            u32::try_from(full + last.len() - 1).expect("fewer sessions than descriptors")
        });
        *self.at(index) = Some(slot);
        index
    }

    fn at(&mut self, index: u32) -> &mut Option<Slot> {
        let index = index as usize;
        &mut self.chunks[index / CHUNK][index % CHUNK]
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.chunks.iter_mut().flatten().flatten()
    }
}

/// The way from a worker to the rest of its server.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) supervisor: Addr<Supervisor>,
    /// Sessions here and on their way here: the acceptor picks the least loaded worker.
    pub(crate) load: Arc<AtomicUsize>,
}

pub(crate) struct Worker {
    index: usize,
    pub(crate) limits: Limits,
    epoch: Instant,
    scratch: Cell<Vec<u8>>,
    loan: Cell<Option<Box<Outbox>>>,
    slots: RefCell<Slots>,
    live: Cell<usize>,
    /// Sessions that have not yet heard what they were told: while there is none, a turn need not look.
    told: Cell<usize>,
    draining: Cell<bool>,
    /// Its task runs: without it no deadline is met.
    is_looked_after: Cell<bool>,
    reports: RefCell<Vec<CloseReport>>,
    reports_ready: Notify,
    upstream: Option<Upstream>,
}

impl Worker {
    pub(crate) fn new(index: usize, limits: Limits, upstream: Option<Upstream>) -> Rc<Self> {
        Rc::new(Self {
            index,
            limits,
            // A clock that never shows 0, which stands for 'no deadline'.
            epoch: Instant::now() - Duration::from_millis(1),
            scratch: Cell::default(),
            loan: Cell::default(),
            slots: RefCell::default(),
            live: Cell::new(0),
            told: Cell::new(0),
            draining: Cell::new(false),
            is_looked_after: Cell::new(false),
            reports: RefCell::default(),
            reports_ready: Notify::new(),
            upstream,
        })
    }

    /// The read buffer, taken out: a carried line, one read, and room for a made-up delimiter.
    pub(crate) fn take_scratch(&self) -> Vec<u8> {
        let scratch = self.scratch.take();
        if scratch.is_empty() { vec![0; CARRY_BYTES + SCRATCH_BYTES + SLACK_BYTES] } else { scratch }
    }

    pub(crate) fn put_scratch(&self, scratch: Vec<u8>) {
        self.scratch.set(scratch);
    }

    /// An empty outbox with room for a turn's answers.
    pub(crate) fn lend_outbox(&self) -> Box<Outbox> {
        self.loan.take().unwrap_or_else(Outbox::with_room)
    }

    pub(crate) fn return_outbox(&self, outbox: Box<Outbox>) {
        if outbox.is_lendable() {
            self.loan.set(Some(outbox));
        }
    }

    /// Milliseconds of this worker's clock; it wraps after 49 days, and deadlines are compared so that it may.
    fn now(&self) -> u32 {
        self.epoch.elapsed().as_millis() as u32
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    pub(crate) fn open(&self, connection: &Connection, place: Option<Place>) -> u32 {
        self.live.set(self.live.get() + 1);
        if self.live.get() == 1 {
            // The clock stands still while nobody needs it.
            self.reports_ready.notify_one();
        }
        self.slots.borrow_mut().insert(Slot {
            id: connection.id,
            peer: connection.peer,
            listener: connection.listener,
            reason: None,
            commands: Commands::default(),
            closing: false,
            opened: Instant::now(),
            deadline: 0,
            outbox_len: 0,
            waker: None,
            lines_in: 0,
            bytes_in: 0,
            bytes_out: 0,
            losses: None,
            _place: place,
        })
    }

    /// Looks into a session's slot. No user code runs in `look`.
    #[inline]
    pub(crate) fn slot<R>(&self, index: u32, look: impl FnOnce(&mut Slot) -> R) -> R {
        look(self.slots.borrow_mut().at(index).as_mut().expect("a session has its slot until it closes it"))
    }

    /// What a session was told since it last asked.
    #[inline]
    pub(crate) fn hear(&self, index: u32) -> Commands {
        if self.told.get() == 0 {
            return Commands::default();
        }
        self.slot(index, |slot| {
            if !slot.commands.is_empty() {
                self.told.set(self.told.get() - 1);
            }
            std::mem::take(&mut slot.commands)
        })
    }

    pub(crate) fn set_deadline(&self, index: u32, after: Duration) {
        let after = u32::try_from(after.as_millis()).unwrap_or(u32::MAX / 2).min(u32::MAX / 2);
        let deadline = self.now().wrapping_add(after).max(1);
        self.slot(index, |slot| slot.deadline = deadline);
    }

    /// Ends a session's slot: its report is made, and goes to the supervisor with the next batch.
    pub(crate) fn close(&self, index: u32, cut: bool) {
        let slot = {
            let mut slots = self.slots.borrow_mut();
            let slot = slots.at(index).take();
            slots.free.push(index);
            slot
        };
        let Some(slot) = slot else { return };
        if !slot.commands.is_empty() {
            self.told.set(self.told.get() - 1);
        }
        self.live.set(self.live.get() - 1);
        if let Some(upstream) = &self.upstream {
            upstream.load.fetch_sub(1, Relaxed);
        }
        let report = slot.report(cut);
        log::debug!("{report}");
        // The place is given back before anybody hears of the end.
        drop(slot);
        if self.upstream.is_none() {
            return;
        }
        let mut reports = self.reports.borrow_mut();
        reports.push(report);
        match reports.len() {
            1 => self.reports_ready.notify_one(),
            REPORT_BATCH.. => {
                drop(reports);
                self.send_reports(None);
            }
            _ => {}
        }
    }

    fn send_reports(&self, answer: Option<Answer>) {
        let reports = std::mem::take(&mut *self.reports.borrow_mut());
        if reports.is_empty() && answer.is_none() {
            return;
        }
        if let Some(upstream) = &self.upstream {
            upstream.supervisor.do_send(Batch { worker: self.index, reports, answer, last: false });
        }
    }

    fn command(&self, command: Command, mut whom: impl FnMut(&Slot) -> bool) {
        for slot in self.slots.borrow_mut().iter_mut() {
            if whom(slot) {
                slot.tell(command, &self.told);
            }
        }
    }

    pub(crate) fn drain_all(&self) {
        self.draining.set(true);
        self.command(Command::Drain, |_| true);
    }

    pub(crate) fn abort_all(&self) {
        self.command(Command::Abort, |_| true);
    }

    fn answer(&self, token: u64, list: bool) -> Answer {
        let mut answer = Answer { token, totals: Totals::default(), sessions: Vec::new() };
        for slot in self.slots.borrow_mut().iter_mut() {
            answer.totals.sessions += 1;
            answer.totals.lines_in += slot.lines_in;
            answer.totals.bytes_in += slot.bytes_in;
            answer.totals.bytes_out += slot.bytes_out;
            if list {
                answer.sessions.push(slot.info(self.index));
            }
        }
        answer
    }

    /// Tells the sessions of one slice whose time is up; false behind the last slice.
    fn sweep(&self, slice: usize) -> bool {
        let now = self.now();
        let mut slots = self.slots.borrow_mut();
        let chunks = SWEEP_SLICE / CHUNK;
        for slot in slots.chunks.iter_mut().skip(slice * chunks).take(chunks).flatten().flatten() {
            // The difference is small and positive when the deadline is past, whether the clock wrapped or not.
            if slot.deadline != 0 && now.wrapping_sub(slot.deadline) < u32::MAX / 2 {
                slot.deadline = 0;
                slot.tell(Command::Deadline, &self.told);
            }
        }
        (slice + 1) * chunks < slots.chunks.len()
    }
}

impl Slot {
    /// Says it and wakes the session; it listens at the start of its turn, whatever else it waits for.
    fn tell(&mut self, command: Command, told: &Cell<usize>) {
        if self.commands.is_empty() {
            told.set(told.get() + 1);
        }
        self.commands.0 |= command as u8;
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Has commands wake the session's task from here on.
    pub(crate) fn set_waker(&mut self, waker: &Waker) {
        self.waker = Some(waker.clone());
    }

    pub(crate) fn add(&mut self, counts: &Counts, outbox_len: usize) {
        self.lines_in += counts.lines_in;
        self.bytes_in += counts.bytes_in;
        self.bytes_out += counts.bytes_out;
        self.outbox_len = u32::try_from(outbox_len).unwrap_or(u32::MAX);
    }

    pub(crate) fn add_unsent(&mut self, bytes: usize) {
        self.losses.get_or_insert_default().unsent += bytes as u64;
    }

    pub(crate) fn add_undelivered(&mut self, bytes: usize) {
        if bytes > 0 {
            self.losses.get_or_insert_default().undelivered += bytes as u64;
        }
    }

    pub(crate) fn add_tail(&mut self, bytes: usize) {
        if bytes > 0 {
            self.losses.get_or_insert_default().tail += bytes as u64;
        }
    }

    /// The first cause counts.
    pub(crate) fn blame(&mut self, reason: CloseReason) {
        self.reason.get_or_insert(reason);
    }

    pub(crate) fn set_closing(&mut self) {
        self.closing = true;
    }

    pub(crate) fn clear_deadline(&mut self) {
        self.deadline = 0;
    }

    pub(crate) fn report(&self, cut: bool) -> CloseReport {
        let losses = self.losses.as_deref();
        CloseReport {
            id: self.id,
            peer: self.peer,
            listener: self.listener,
            reason: self.reason.unwrap_or(CloseReason::WorkerStopped),
            lines_in: self.lines_in,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            unsent_bytes: losses.map_or(0, |losses| losses.unsent),
            tail_bytes: losses.map_or(0, |losses| losses.tail),
            undelivered_bytes: losses.map_or(0, |losses| losses.undelivered),
            duration: self.opened.elapsed(),
            cut,
        }
    }

    fn info(&self, worker: usize) -> SessionInfo {
        SessionInfo {
            id: self.id,
            peer: self.peer,
            listener: self.listener,
            worker,
            age: self.opened.elapsed(),
            lines_in: self.lines_in,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            outbox_bytes: self.outbox_len as usize,
            closing: self.closing,
        }
    }
}

/// The last batch: sent when the last session and the worker's task are gone, in whatever order an ending arbiter drops
/// them. Thread-locals may be gone by then, so none is used.
impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(upstream) = &self.upstream {
            let reports = std::mem::take(self.reports.get_mut());
            upstream.supervisor.do_send(Batch { worker: self.index, reports, answer: None, last: true });
        }
    }
}

/// A connection on its way to its worker. Dropped on the way, it leaves a report like any other session.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) stream: Option<TcpStream>,
    pub(crate) connection: Connection,
    pub(crate) place: Option<Place>,
    pub(crate) supervisor: Arc<Addr<Supervisor>>,
    pub(crate) worker: usize,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if self.stream.take().is_some() {
            // The place first, as in `Worker::close`.
            self.place = None;
            let report = CloseReport {
                id: self.connection.id,
                peer: self.connection.peer,
                listener: self.connection.listener,
                reason: CloseReason::WorkerStopped,
                lines_in: 0,
                bytes_in: 0,
                bytes_out: 0,
                unsent_bytes: 0,
                tail_bytes: 0,
                undelivered_bytes: 0,
                duration: Duration::ZERO,
                cut: true,
            };
            self.supervisor.do_send(Batch { worker: self.worker, reports: vec![report], answer: None, last: false });
        }
    }
}

/// What a worker is asked to do.
#[derive(Debug)]
pub(crate) enum Order {
    Start(Admitted),
    Drain,
    Abort,
    Answer { token: u64, list: bool },
}

/// The worker's own task: starts sessions, runs the clock, sends the reports. Ends with its arbiter, or when nobody can
/// give it an order and no session is left.
pub(crate) async fn look_after(
    worker: Rc<Worker>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    start: impl Fn(Admitted),
) {
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    worker.is_looked_after.set(true);
    let mut open = true;
    let mut send_at = None;
    while open || worker.live.get() > 0 || send_at.is_some() {
        tokio::select! {
            order = orders.recv(), if open => match order {
                Some(Order::Start(admitted)) => start(admitted),
                Some(Order::Drain) => worker.drain_all(),
                Some(Order::Abort) => worker.abort_all(),
                Some(Order::Answer { token, list }) => worker.send_reports(Some(worker.answer(token, list))),
                None => open = false,
            },
            () = worker.reports_ready.notified() => {
                if !worker.reports.borrow().is_empty() {
                    send_at.get_or_insert_with(|| Instant::now() + REPORT_DELAY);
                }
            }
            () = tokio::time::sleep_until(send_at.unwrap_or_else(Instant::now)), if send_at.is_some() => {
                send_at = None;
                worker.send_reports(None);
            }
            _ = sweep.tick(), if worker.live.get() > 0 => {
                let mut slice = 0;
                while worker.sweep(slice) {
                    slice += 1;
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    worker.is_looked_after.set(false);
}

thread_local! {
    /// The worker of sessions that were started without a server.
    static STANDALONE: RefCell<std::rc::Weak<Worker>> = RefCell::default();
}

/// The current arbiter's worker for sessions without a server.
pub(crate) fn standalone() -> Rc<Worker> {
    STANDALONE.with(|known| {
        if let Some(worker) = known.borrow().upgrade().filter(|worker| worker.is_looked_after.get()) {
            return worker;
        }
        let worker = Worker::new(0, Limits::default(), None);
        worker.is_looked_after.set(true);
        *known.borrow_mut() = Rc::downgrade(&worker);
        let (_, orders) = mpsc::unbounded_channel();
        actix_rt::spawn(look_after(Rc::clone(&worker), orders, |_| {}));
        worker
    })
}
