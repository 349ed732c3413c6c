//! A worker: what the sessions of one arbiter share, and the task that looks after them.
//!
//! Everything here stays on its thread. The scratch buffers are taken out while they are used, so that no user code ever
//! runs under a borrow of them. The slots hold what a session needs only now and then; its future stays small.
//! Not here: what a session does in its turn (`context`), who is told of its end (`supervisor`).

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, MissedTickBehavior},
};

use crate::{
    connection::{Connection, ListenerId, SessionId},
    control::{
        admission::Place,
        budget::{self, Holder, Ranking, Sources, Weight},
        control::Control,
        orders::{Admitted, Answer, Answered, Batch, Order, Question},
        query::{SessionInfo, SessionState},
        stats::Stats,
    },
    framing::SLACK_BYTES,
    limits::{CARRY_BYTES, OutboxLimit, OutboxPolicy, SCRATCH_BYTES, SessionLimits},
    log_limit::LogLimit,
    rate::{Allowance, Grant, Member, RateGroup, RateLimit, Unit},
    report::{CloseReason, CloseReport},
    room::{Inbox, Room, Stuck, Wait},
    shared::SharedBytes,
    wire::outbox::Outbox,
    worker::delivery::{self, Hearing, Members, Messages, Moved},
};

/// How often deadlines are looked at; they are met within three times that.
const SWEEP: Duration = Duration::from_millis(250);
/// How often a session is looked at while it has more to read, before a verdict: as many sweeps as it takes to read what
/// the largest receive buffers hold.
const MOST_LOOKS: u8 = 16;
/// How often a drain that is spread over time tells more sessions.
const SPREAD_TICK: Duration = Duration::from_millis(50);
/// Slots looked at before the sessions get a turn again.
const SWEEP_SLICE: usize = 4096;
/// Sessions cut for want of memory before the others get a turn again.
const CUTS_PER_SLICE: usize = 1024;
/// How long an end may wait for others before the supervisor hears of it, and how many at most.
const REPORT_DELAY: Duration = Duration::from_millis(10);
const REPORT_BATCH: usize = 256;
/// Sessions in one piece of the slot table: it grows by as much, and what exists is never moved.
const CHUNK: usize = 256;

/// What a session is told from outside its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Drain = 1,
    Abort = 1 << 1,
    /// The end of a linger or of a wait.
    Deadline = 1 << 2,
    /// No line for too long.
    Idle = 1 << 3,
    /// A line that takes too long.
    Line = 1 << 4,
    /// The outbox makes no progress.
    Stall = 1 << 5,
    Age = 1 << 6,
    Kick = 1 << 7,
    /// Bytes to write are in the slot.
    Push = 1 << 8,
    /// The outbox holds more than it may.
    Overflow = 1 << 9,
    /// It holds the most, and all together hold too much.
    Evict = 1 << 10,
    /// What holds it back may be gone: its bucket was filled, or its limits are others.
    Refill = 1 << 11,
    /// Nothing more will be written; lines still come.
    HalfClose = 1 << 12,
    /// The kernel is to be asked how much of the output the peer has acknowledged.
    Probe = 1 << 13,
    /// One of its times is up: what has come until now counts.
    Look = 1 << 14,
}

/// What was said to a session since its last turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Commands(u16);

impl Commands {
    pub(crate) fn has(self, command: Command) -> bool {
        self.0 & command as u16 != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What a turn leaves a session in, as the sweep has to know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing(u8);

impl Standing {
    /// It reads on as far as its actor is concerned: not draining, not closing.
    pub(crate) const OPEN: Self = Self(1);
    /// A line has begun.
    pub(crate) const PARTIAL: Self = Self(1 << 1);
    /// Bytes, or the FIN, have yet to leave.
    pub(crate) const WRITING: Self = Self(1 << 2);
    /// It is not its peer who keeps lines from coming.
    pub(crate) const STILL: Self = Self(1 << 3);
    /// There was more to read than one turn reads.
    pub(crate) const READING: Self = Self(1 << 4);

    pub(crate) fn with(self, other: Self, holds: bool) -> Self {
        Self(self.0 | if holds { other.0 } else { 0 })
    }

    fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// How long what may last, in milliseconds; longer than any time where it may last for ever.
#[derive(Clone, Copy, Debug)]
struct Timeouts {
    idle: u32,
    line: u32,
    write: u32,
    age: Duration,
}

impl Timeouts {
    fn new(limits: &SessionLimits) -> Self {
        let milliseconds = |timeout: Option<Duration>| {
            timeout.map_or(u32::MAX, |timeout| timeout.as_millis().try_into().unwrap_or(u32::MAX))
        };
        Self {
            idle: milliseconds(limits.idle_timeout),
            line: milliseconds(limits.line_timeout),
            write: milliseconds(limits.write_timeout),
            age: limits.max_age.unwrap_or(Duration::MAX),
        }
    }
}

/// One moment, on both clocks that slots have stamps of.
#[derive(Clone, Copy, Debug)]
struct Moment {
    /// In milliseconds of the worker's clock.
    stamp: u32,
    instant: Instant,
}

impl Moment {
    /// Milliseconds since `stamp`; 0 if that is still to come. It may wrap: no timeout is longer than half of the clock.
    fn since(self, stamp: u32) -> u32 {
        let elapsed = self.stamp.wrapping_sub(stamp);
        if elapsed > u32::MAX / 2 { 0 } else { elapsed }
    }
}

/// The part of a session that its turns seldom touch.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) id: SessionId,
    pub(crate) listener: Option<ListenerId>,
    pub(crate) reason: Option<CloseReason>,
    commands: Commands,
    closing: bool,
    /// It has read as much as its rate allows, and has to be told when it may go on.
    throttled: bool,
    /// It was cut for want of memory: what it holds until its next turn counts no more.
    is_evicted: bool,
    standing: Standing,
    /// Sweeps that found one of its times up, in a row.
    looks: u8,
    opened: Instant,
    /// In milliseconds of the worker's clock; 0 is none.
    deadline: u32,
    /// When the last line was delivered or the next one began, and when the kernel last took something; in milliseconds of
    /// the worker's clock, never too early.
    heard: u32,
    wrote: u32,
    /// Since when the outbox holds more than its soft limit; 0 if it does not.
    above: u32,
    outbox_len: u32,
    /// Memory of its buffers, in bytes.
    memory: u32,
    waker: Option<Waker>,
    lines_in: u64,
    bytes_in: u64,
    bytes_out: u64,
    /// What it may still read.
    allowance: Allowance,
    /// Seldom there, so it is not here.
    rare: Option<Box<Rare>>,
    /// Given back with the slot.
    place: Place,
}

#[derive(Debug, Default)]
struct Rare {
    unsent: u64,
    undelivered: u64,
    tail: u64,
    /// Pushed by others, to be written in the next turn.
    pushed: Pushes,
    pushed_len: usize,
    /// Messages that were dropped since the last one that was pushed.
    missed: u64,
    /// Its handler's own choice.
    outbox_limit: Option<OutboxLimit>,
    /// The same, for how fast it is read.
    rate: Option<RateLimit>,
    member: Option<Member>,
    /// Bytes of a payload that have yet to come.
    payload: u64,
    /// What the peer had acknowledged when that was last looked at.
    acknowledged: Option<u64>,
    /// Bytes discarded since our FIN.
    discarded: u64,
    /// The rooms that it is in, and whom it waits for before it says more in one.
    rooms: Vec<delivery::Place>,
    crowded: Option<(Arc<Inbox>, Wait)>,
    /// Who waits for its report besides the supervisor.
    report_to: Option<oneshot::Sender<CloseReport>>,
}

/// Bytes that others push, and how many messages before them were dropped.
#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) missed: u64,
    pub(crate) bytes: SharedBytes,
}

/// In the order in which they came. Most often there is one: it takes no memory of its own.
#[derive(Debug, Default)]
pub(crate) struct Pushes {
    first: Option<Push>,
    others: Vec<Push>,
}

impl Pushes {
    fn add(&mut self, push: Push) {
        if self.first.is_none() {
            self.first = Some(push);
        } else {
            self.others.push(push);
        }
    }
}

impl IntoIterator for Pushes {
    type Item = Push;
    type IntoIter = std::iter::Chain<std::option::IntoIter<Push>, std::vec::IntoIter<Push>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.others)
    }
}

/// What one turn adds to a session's counters.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// A line, or a piece of one, was delivered.
    pub(crate) delivered: bool,
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

    /// A member of a room is elsewhere in the room's table.
    fn note(&mut self, moved: &Moved) {
        if let Some(rare) = self.at(moved.slot).as_mut().and_then(|slot| slot.rare.as_mut()) {
            moved.note(&mut rare.rooms);
        }
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.chunks.iter_mut().flatten().flatten()
    }
}

/// The way from a worker to the rest of its server.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) control: Arc<Control>,
    /// Sessions here and on their way here: the acceptor picks the least loaded worker.
    pub(crate) load: Arc<AtomicUsize>,
}

/// A drain that tells sessions one after the other.
#[derive(Clone, Copy, Debug)]
struct Spread {
    since: Instant,
    over: Duration,
    /// Slots told so far.
    told: usize,
}

pub(crate) struct Worker {
    index: usize,
    limits: Cell<SessionLimits>,
    /// The outbox's watermarks again, where each write finds them.
    high: Cell<usize>,
    low: Cell<usize>,
    epoch: Instant,
    /// The clock as it was at the last sweep; what a turn stamps.
    clock: Cell<u32>,
    /// Without a line timeout a byte counts as activity.
    bytes_count: Cell<bool>,
    spread: Cell<Option<Spread>>,
    /// What each session says last in a drain.
    goodbye: RefCell<SharedBytes>,
    /// The sweep at hand asks how sessions that make no progress get on.
    probes: Cell<bool>,
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
    /// Of the sessions that have ended here.
    counters: RefCell<Stats>,
    turns_cut: Cell<u64>,
    throttled: Cell<u64>,
    /// Panics of handlers here: a peer may have found a line that makes them.
    pub(crate) panics: LogLimit,
    /// Sessions that have a rate of their own or are in a group, and one more if there is a rate for all: while it is 0
    /// nobody's rate has to be looked up.
    rated: Cell<usize>,
    /// Bytes in the buffers of all sessions here, and what of it the budget knows.
    held: Cell<usize>,
    published: Cell<usize>,
    /// Who holds it, while memory is short.
    ranking: RefCell<Ranking>,
    /// Sessions cut for want of it: they may be many.
    evictions: LogLimit,
    #[cfg(test)]
    looked_at: Cell<usize>,
    reports_ready: Notify,
    /// What is said in rooms that have members here.
    inbox: Arc<Inbox>,
    said: Cell<Option<Hearing>>,
    members: RefCell<Members>,
    upstream: Option<Upstream>,
}

impl Worker {
    pub(crate) fn new(index: usize, limits: SessionLimits, upstream: Option<Upstream>) -> Rc<Self> {
        let (inbox, said) = Hearing::new();
        Rc::new(Self {
            index,
            limits: Cell::new(limits),
            high: Cell::new(limits.outbox.high),
            low: Cell::new(limits.outbox.low),
            clock: Cell::new(0),
            bytes_count: Cell::new(limits.line_timeout.is_none()),
            spread: Cell::new(None),
            goodbye: RefCell::default(),
            probes: Cell::new(false),
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
            counters: RefCell::default(),
            turns_cut: Cell::new(0),
            throttled: Cell::new(0),
            panics: LogLimit::default(),
            rated: Cell::new(usize::from(!limits.rate.is_none())),
            held: Cell::new(0),
            published: Cell::new(0),
            ranking: RefCell::default(),
            evictions: LogLimit::default(),
            #[cfg(test)]
            looked_at: Cell::new(0),
            reports_ready: Notify::new(),
            inbox,
            said: Cell::new(Some(said)),
            members: RefCell::default(),
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

    /// The high watermark, in bytes.
    #[inline]
    pub(crate) fn high(&self) -> usize {
        self.high.get()
    }

    /// The low watermark, in bytes.
    #[inline]
    pub(crate) fn low(&self) -> usize {
        self.low.get()
    }

    pub(crate) fn limits(&self) -> SessionLimits {
        self.limits.get()
    }

    fn set_limits(&self, limits: SessionLimits, slots: &mut Slots) {
        let before = self.limits.replace(limits).rate;
        self.rated.set(self.rated.get() + usize::from(!limits.rate.is_none()) - usize::from(!before.is_none()));
        for slot in slots.iter_mut() {
            if slot.own_rate().is_none() {
                slot.allowance.change(&before, &limits.rate);
            }
            slot.look_again(&self.told);
        }
        self.high.set(limits.outbox.high);
        self.low.set(limits.outbox.low);
        self.bytes_count.set(limits.line_timeout.is_none());
    }

    /// A stamp that is not too early: the clock may be a sweep old.
    fn stamp(&self) -> u32 {
        self.clock.get().wrapping_add(SWEEP.as_millis() as u32)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// What a session says last in a drain; empty is nothing.
    pub(crate) fn goodbye(&self) -> SharedBytes {
        self.goodbye.borrow().clone()
    }

    /// The peer has acknowledged `acknowledged` bytes. Any more than at the last look is progress, and so is the first
    /// look, since which the time is known.
    pub(crate) fn book_acknowledged(&self, index: u32, acknowledged: u64) {
        let stamp = self.stamp();
        self.slot(index, |slot| {
            if slot.rare().acknowledged.replace(acknowledged).is_none_or(|before| before < acknowledged) {
                slot.wrote = stamp;
                slot.looks = 0;
            }
        });
    }

    /// Adds what a lingering session has discarded. False once it is more than may be.
    pub(crate) fn discard(&self, index: u32, bytes: usize) -> bool {
        let most = self.limits.get().linger_bytes;
        self.slot(index, |slot| {
            slot.add_undelivered(bytes);
            let rare = slot.rare();
            rare.discarded += bytes as u64;
            rare.discarded <= u64::from(most)
        })
    }

    pub(crate) fn open(&self, connection: &Connection, place: Option<Place>) -> u32 {
        self.live.set(self.live.get() + 1);
        if self.live.get() == 1 {
            // The clock stands still while nobody needs it.
            self.reports_ready.notify_one();
            self.clock.set(self.now());
        }
        self.slots.borrow_mut().insert(Slot {
            id: connection.id,
            listener: connection.listener,
            reason: None,
            commands: Commands::default(),
            closing: false,
            throttled: false,
            looks: 0,
            is_evicted: false,
            opened: Instant::now(),
            standing: Standing::OPEN,
            deadline: 0,
            heard: self.stamp(),
            wrote: 0,
            above: 0,
            outbox_len: 0,
            memory: 0,
            waker: None,
            lines_in: 0,
            bytes_in: 0,
            bytes_out: 0,
            allowance: Allowance::full(&self.limits.get().rate),
            rare: None,
            place: place.unwrap_or_else(|| Place::outside(connection.peer)),
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
        let Some(mut slot) = slot else { return };
        if !slot.commands.is_empty() {
            self.told.set(self.told.get() - 1);
        }
        self.hold(slot.held(), 0);
        self.rated.set(self.rated.get() - usize::from(slot.has_rate()));
        self.live.set(self.live.get() - 1);
        if let Some(upstream) = &self.upstream {
            upstream.load.fetch_sub(1, Relaxed);
        }
        let report = slot.report(cut);
        log::debug!("{report}");
        self.counters.borrow_mut().count(&report);
        let report_to = slot.rare.as_mut().and_then(|rare| rare.report_to.take());
        // The place is given back before anybody hears of the end.
        drop(slot);
        if let Some(report_to) = report_to {
            // Whoever waited may be gone.
            let _ = report_to.send(report.clone());
        }
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
            upstream.control.book(reports);
            upstream.control.notify(Batch { worker: self.index, answer, last: false });
        }
    }

    /// A turn ended because others come first.
    pub(crate) fn count_cut(&self) {
        self.turns_cut.set(self.turns_cut.get() + 1);
    }

    /// Whether any session here has a rate to keep to.
    #[inline]
    pub(crate) fn is_rated(&self) -> bool {
        self.rated.get() > 0
    }

    /// How much a session may take in now: at most `most`, and no more than `wanted()` where it is limited. What it has
    /// spent in this turn is known at the turn's end only.
    pub(crate) fn grant(
        &self,
        index: u32,
        unit: Unit,
        spent: u64,
        most: usize,
        wanted: impl FnOnce() -> usize,
    ) -> Grant {
        let default = self.limits.get().rate;
        let grant = self.slot(index, |slot| slot.grant(&default, unit, spent, most, wanted));
        if grant.amount == 0 {
            self.throttled.set(self.throttled.get() + 1);
        }
        grant
    }

    /// Gives back what was granted by a group and not used.
    pub(crate) fn give_back(&self, index: u32, unit: Unit, unused: usize) {
        self.slot(index, |slot| {
            if let Some(member) = slot.rare.as_ref().and_then(|rare| rare.member.as_ref()) {
                member.give_back(unit, unused);
            }
        });
    }

    pub(crate) fn set_rate(&self, index: u32, limit: RateLimit) {
        let default = self.limits.get().rate;
        self.change_rates(index, |slot| {
            let before = slot.rare().rate.replace(limit);
            slot.allowance.change(&before.unwrap_or(default), &limit);
            before != Some(limit)
        });
    }

    pub(crate) fn set_rate_group(&self, index: u32, group: Option<&RateGroup>) {
        self.change_rates(index, |slot| {
            let is_same = match (slot.rare.as_ref().and_then(|rare| rare.member.as_ref()), group) {
                (Some(member), Some(group)) => member.is_in(group),
                (member, group) => member.is_none() && group.is_none(),
            };
            if !is_same {
                slot.rare().member = group.map(Member::new);
            }
            !is_same
        });
    }

    /// `change` says whether it changed anything: a future may set the same again whenever it is polled, which alone is no
    /// reason to be polled again.
    fn change_rates(&self, index: u32, change: impl FnOnce(&mut Slot) -> bool) {
        let (had, has) = self.slot(index, |slot| {
            let had = slot.has_rate();
            if change(slot) {
                slot.look_again_if_throttled(&self.told);
            }
            (had, slot.has_rate())
        });
        self.rated.set(self.rated.get() + usize::from(has) - usize::from(had));
    }

    pub(crate) fn join(&self, index: u32, room: &Room) {
        let mut members = self.members.borrow_mut();
        self.slot(index, |slot| {
            let id = slot.id;
            members.join(&mut slot.rare().rooms, id, index, room, &self.inbox);
        });
    }

    pub(crate) fn leave(&self, index: u32, room: &Room) {
        let mut members = self.members.borrow_mut();
        let take = |slot: &mut Slot| members.take_place(&mut slot.rare.as_mut()?.rooms, room);
        if let Some(place) = self.slot(index, take) {
            let mut slots = self.slots.borrow_mut();
            members.give_up(place, &self.inbox, |moved| slots.note(&moved));
        }
    }

    /// A session that ends leaves its rooms.
    pub(crate) fn leave_rooms(&self, index: u32) {
        let rooms = self.slot(index, |slot| slot.rare.as_mut().map(|rare| std::mem::take(&mut rare.rooms)));
        let mut members = self.members.borrow_mut();
        let mut slots = self.slots.borrow_mut();
        for place in rooms.unwrap_or_default() {
            members.give_up(place, &self.inbox, |moved| slots.note(&moved));
        }
    }

    /// Has the other members of a room write `bytes`. True if the session should say no more for now.
    pub(crate) fn say(&self, index: u32, room: &Room, bytes: SharedBytes) -> bool {
        let id = self.slot(index, |slot| slot.id);
        let mut crowded = None;
        let mut is_lost_here = false;
        room.send(bytes, Some(id), |inbox, stuck| match stuck {
            Stuck::Crowded => crowded = Some(Arc::clone(inbox)),
            Stuck::Full => is_lost_here |= Arc::ptr_eq(inbox, &self.inbox),
        });
        if is_lost_here {
            let mut members = self.members.borrow_mut();
            self.slot(index, |slot| members.forgive(slot.rare.as_ref().map_or(&[], |rare| &rare.rooms), room));
        }
        let Some(inbox) = crowded else { return false };
        self.slot(index, |slot| {
            let Some(waker) = slot.waker.clone() else { return false };
            let crowded = &mut slot.rare().crowded;
            let before = crowded.take().filter(|(known, _)| Arc::ptr_eq(known, &inbox));
            let wait = inbox.wait(&waker, before.map(|(_, wait)| wait));
            *crowded = wait.map(|wait| (inbox, wait));
            crowded.is_some()
        })
    }

    /// Whether whom a session waits for before it says more still does not keep up.
    pub(crate) fn is_crowded(&self, index: u32) -> bool {
        self.slot(index, |slot| {
            let Some(rare) = &mut slot.rare else { return false };
            let Some((inbox, wait)) = rare.crowded.take() else { return false };
            // It may have been woken, and others have said something before its turn.
            let wait = slot.waker.as_ref().and_then(|waker| inbox.wait(waker, Some(wait)));
            rare.crowded = wait.map(|wait| (inbox, wait));
            rare.crowded.is_some()
        })
    }

    /// Delivers of what was said in rooms a slice; true if others should get their turns before the next one.
    fn deliver(&self, said: &mut Hearing) -> bool {
        let default = self.limits.get().outbox_limit;
        let is_cut = {
            let mut members = self.members.borrow_mut();
            let mut slots = self.slots.borrow_mut();
            said.deliver(&mut members, |slot, missed, messages| match slots.at(slot) {
                Some(slot) if !slot.closing => {
                    slot.miss(missed);
                    slot.offer_messages(&messages, default, &self.told)
                }
                _ => 0,
            })
        };
        said.let_go();
        is_cut
    }

    /// The counters of this worker, its living sessions included.
    fn stats(&self) -> Stats {
        let mut stats = self.counters.borrow().clone();
        stats.turns_cut = self.turns_cut.get();
        stats.throttled = self.throttled.get();
        for slot in self.slots.borrow_mut().iter_mut() {
            stats.opened += 1;
            stats.live += 1;
            stats.lines_in += slot.lines_in;
            stats.bytes_in += slot.bytes_in;
            stats.bytes_out += slot.bytes_out;
            stats.outbox_bytes += u64::from(slot.outbox_len);
        }
        stats
    }

    /// Books what a turn counted and how it leaves the session.
    #[inline]
    pub(crate) fn end_turn(&self, index: u32, counts: &Counts, outbox_len: usize, memory: usize, standing: Standing) {
        let stamp = self.stamp();
        let bytes_count = self.bytes_count.get();
        let is_rated = self.is_rated();
        let (before, after) = self.slot(index, |slot| {
            let before = slot.held();
            slot.lines_in += counts.lines_in;
            slot.bytes_in += counts.bytes_in;
            slot.bytes_out += counts.bytes_out;
            if is_rated {
                slot.allowance.spend(Unit::Bytes, counts.bytes_in);
                slot.allowance.spend(Unit::Lines, counts.lines_in);
            }
            slot.outbox_len = u32::try_from(outbox_len).unwrap_or(u32::MAX);
            slot.memory = if slot.is_evicted { 0 } else { u32::try_from(memory).unwrap_or(u32::MAX) };
            let has_changed = Standing(slot.standing.0 ^ standing.0);
            if counts.delivered || has_changed.has(Standing::PARTIAL) || (bytes_count && counts.bytes_in > 0) {
                slot.heard = stamp;
            }
            if standing.has(Standing::WRITING) && (counts.bytes_out > 0 || has_changed.has(Standing::WRITING)) {
                slot.wrote = stamp;
            }
            slot.standing = standing;
            (before, slot.held())
        });
        if before != after {
            self.hold(before, after);
        }
    }

    /// One session holds `after` bytes where it held `before`.
    fn hold(&self, before: usize, after: usize) {
        let held = self.held.get() + after - before;
        self.held.set(held);
        let published = self.published.get();
        if held.abs_diff(published) < budget::STEP {
            return;
        }
        if let Some(upstream) = &self.upstream {
            self.published.set(held);
            upstream.control.budget.publish(published, held);
            if held > published && upstream.control.budget.excess() > 0 {
                self.reports_ready.notify_one();
            }
        }
    }

    /// Says exactly how much is held here.
    fn publish(&self) {
        if let Some(upstream) = &self.upstream {
            let held = self.held.get();
            upstream.control.budget.publish(self.published.replace(held), held);
        }
    }

    /// Looks at the sessions of one slice for what they hold; false behind the last slice.
    fn rank(&self, ranking: &mut Ranking, sources: &Sources, slice: usize) -> bool {
        let mut slots = self.slots.borrow_mut();
        let before = slice * SWEEP_SLICE;
        let chunks = SWEEP_SLICE / CHUNK;
        for (index, slot) in slots.chunks.iter_mut().skip(slice * chunks).take(chunks).flatten().enumerate() {
            #[cfg(test)]
            self.looked_at.set(self.looked_at.get() + 1);
            if let Some(slot) = slot.as_ref().filter(|slot| slot.held() > 0) {
                let key = sources.key(slot.id, slot.peer().map(|peer| peer.ip()));
                ranking.add(key, Holder { held: slot.held(), slot: (before + index) as u32, id: slot.id });
            }
        }
        (slice + 1) * chunks < slots.chunks.len()
    }

    /// Looks at all sessions for what they hold, and says what the heaviest source does.
    async fn rank_all(&self, control: &Control) {
        let mut ranking = Ranking::default();
        if self.held.get() > 0 {
            let sources = Sources::new(&control.state().limits.admission);
            let mut slice = 0;
            while self.rank(&mut ranking, &sources, slice) {
                slice += 1;
                tokio::task::yield_now().await;
            }
            ranking.finish();
        }
        control.budget.set_heaviest(self.index, ranking.heaviest());
        self.ranking.replace(ranking);
    }

    /// What every other worker has to know to leave it to the one with the heaviest source. Once a sweep.
    async fn weigh(&self) {
        if let Some(Upstream { control, .. }) = &self.upstream
            && control.budget.has_limit()
        {
            self.publish();
            if !control.budget.is_short() {
                // To look at all sessions is for when it may be needed. What was seen before is not so any more.
                control.budget.set_heaviest(self.index, Weight::default());
                return;
            }
            self.rank_all(control).await;
            self.evict().await;
            // Not needed before memory is short again, and then it is looked at anew.
            self.ranking.take();
        }
    }

    /// Cuts sessions until all are within the budget again, the largest of the heaviest source first; those of another
    /// worker, if they weigh more.
    async fn evict(&self) {
        let Some(Upstream { control, .. }) = &self.upstream else { return };
        while control.budget.excess() > 0 {
            if self.ranking.borrow().is_worn() {
                self.rank_all(control).await;
            }
            if !self.cut_heaviest(control) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Cuts some of those who hold the most; false if there is nothing more to be done here.
    fn cut_heaviest(&self, control: &Control) -> bool {
        let mut cut = None;
        let mut goes_on = true;
        let mut leave_to = None;
        self.publish();
        {
            let mut ranking = self.ranking.borrow_mut();
            let mut slots = self.slots.borrow_mut();
            for _ in 0..CUTS_PER_SLICE {
                let excess = control.budget.excess();
                if excess == 0 || (ranking.is_worn() && !ranking.is_empty()) {
                    break;
                }
                let heaviest = ranking.heaviest();
                control.budget.set_heaviest(self.index, heaviest);
                leave_to = control.budget.heavier_than(heaviest, self.index);
                if leave_to.is_some() || heaviest.source == 0 {
                    goes_on = false;
                    break;
                }
                let held = |holder: Holder| {
                    let slot = slots.at(holder.slot).as_ref().filter(|slot| slot.id == holder.id);
                    slot.map_or(0, Slot::held)
                };
                let Some(holder) = ranking.take(held) else { continue };
                if let Some(slot) = slots.at(holder.slot) {
                    slot.is_evicted = true;
                    slot.memory = 0;
                    slot.tell(Command::Evict, &self.told);
                }
                // It gives that back in its next turn. Counted as given back now, so that nobody else has to go for it.
                self.held.set(self.held.get() - holder.held);
                self.publish();
                self.evictions.count();
                cut = Some((holder, excess));
            }
        }
        if let Some((Holder { id, held, .. }, excess)) = cut
            && let Some(events) = self.evictions.due()
        {
            log::warn!(
                "session {id}: cut with the {held} bytes that it holds, because its source holds the most and all together \
                 hold {excess} bytes more than the memory budget{events}"
            );
        }
        if let Some(worker) = leave_to
            && let Some(Some(worker)) = control.state().workers.get(worker)
        {
            let _ = worker.orders.send(Order::Evict);
        }
        goes_on
    }

    /// Tells one session, if it still lives.
    pub(crate) fn tell(&self, index: u32, id: SessionId, command: Command) {
        if let Some(slot) = self.slots.borrow_mut().at(index).as_mut().filter(|slot| slot.id == id) {
            slot.tell(command, &self.told);
        }
    }

    fn abort_all(&self) {
        for slot in self.slots.borrow_mut().iter_mut() {
            slot.tell(Command::Abort, &self.told);
        }
    }

    /// Has the sessions drain, all now or one after the other.
    fn drain(&self, over: Duration, goodbye: &SharedBytes) {
        self.draining.set(true);
        drop(self.goodbye.replace(goodbye.clone()));
        self.spread.set(Some(Spread { since: Instant::now(), over, told: 0 }));
        self.drain_on();
    }

    /// Tells those whose time has come in a drain that is spread; false when all are told.
    fn drain_on(&self) -> bool {
        let Some(spread) = self.spread.get() else { return false };
        let mut slots = self.slots.borrow_mut();
        let all: usize = slots.chunks.iter().map(Vec::len).sum();
        let part = spread.since.elapsed().as_secs_f64() / spread.over.as_secs_f64().max(f64::MIN_POSITIVE);
        let due = if part < 1.0 { (all as f64 * part) as usize } else { all };
        for slot in slots.chunks.iter_mut().flatten().take(due).skip(spread.told).flatten() {
            slot.tell(Command::Drain, &self.told);
        }
        self.spread.set((due < all).then_some(Spread { told: due.max(spread.told), ..spread }));
        due < all
    }

    fn answer(&self, token: u64, question: &Question) -> Answer {
        let mut answer = Answered::default();
        if let Question::Totals = question {
            answer.stats = self.stats();
        }
        let moment = self.moment();
        let limits = self.limits.get();
        let mut slots = self.slots.borrow_mut();
        let sessions = slots.iter_mut();
        match question {
            Question::Totals => {}
            Question::List(query) => {
                let infos = sessions.map(|slot| slot.info(self.index, moment)).filter(|info| query.filter.has(info));
                answer.sessions.extend(infos);
                answer.count = answer.sessions.len() as u64;
                query.cut_to_page(&mut answer.sessions, 0);
            }
            Question::Kick { whom, goodbye } => {
                for slot in sessions.filter(|slot| !slot.closing && whom.has(&slot.info(self.index, moment))) {
                    if !goodbye.is_empty() {
                        slot.push(goodbye.clone(), &self.told);
                    }
                    slot.tell(Command::Kick, &self.told);
                    answer.count += 1;
                }
            }
            Question::Push { whom, bytes } => {
                for slot in sessions.filter(|slot| !slot.closing && whom.has(&slot.info(self.index, moment))) {
                    match slot.offer(bytes, limits.outbox_limit, &self.told) {
                        true => answer.count += 1,
                        false => answer.dropped += 1,
                    }
                }
            }
            Question::Limits { limits, dry_run } => {
                let timeouts = Timeouts::new(&limits.session);
                for slot in sessions {
                    let denied = slot.peer().is_some_and(|peer| limits.admission.denies(peer.ip())) && !slot.closing;
                    if denied || slot.overdue(&timeouts, moment).is_some() {
                        answer.count += 1;
                        answer.sessions.push(slot.info(self.index, moment));
                    }
                    if denied && !*dry_run {
                        slot.tell(Command::Kick, &self.told);
                    }
                }
                if !*dry_run {
                    self.set_limits(limits.session, &mut slots);
                }
            }
        }
        Answer { token, answered: answer }
    }

    /// Whether nothing is left of its sessions: no place, no byte, no command.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        (self.live.get(), self.told.get(), self.held.get()) == (0, 0, 0)
    }

    fn moment(&self) -> Moment {
        Moment { stamp: self.now(), instant: Instant::now() }
    }

    /// Tells the sessions of one slice whose time is up; false behind the last slice. `last` is when the sweep before
    /// this began.
    fn sweep(&self, slice: usize, last: u32) -> bool {
        let moment = self.moment();
        let limits = self.limits.get();
        let timeouts = Timeouts::new(&limits);
        let mut slots = self.slots.borrow_mut();
        let chunks = SWEEP_SLICE / CHUNK;
        for slot in slots.chunks.iter_mut().skip(slice * chunks).take(chunks).flatten().flatten() {
            slot.renew_stamps(last, moment);
            if slot.standing.has(Standing::STILL) {
                // The clock stands still: what has gone by since the last sweep does not count.
                let gone = moment.since(last);
                slot.heard = slot.heard.wrapping_add(gone.min(moment.since(slot.heard)));
            }
            let is_stuck = slot.standing.has(Standing::WRITING) && moment.since(slot.wrote) >= SWEEP.as_millis() as u32;
            if is_stuck && self.probes.get() {
                slot.tell(Command::Probe, &self.told);
            }
            let is_late = slot.deadline != 0 && moment.stamp.wrapping_sub(slot.deadline) < u32::MAX / 2;
            let overdue = slot.overdue(&timeouts, moment);
            let overflows = slot.is_above_soft_limit(limits.outbox_limit, moment);
            if is_late || overdue.is_some() || overflows {
                if slot.may_be_judged(&self.told) {
                    if is_late {
                        slot.deadline = 0;
                        slot.tell(Command::Deadline, &self.told);
                    }
                    overdue.into_iter().for_each(|command| slot.tell(command, &self.told));
                    if overflows {
                        slot.tell(Command::Overflow, &self.told);
                    }
                }
            } else {
                slot.looks = 0;
            }
            if self.is_rated() {
                let limit = slot.own_rate().unwrap_or(limits.rate);
                slot.allowance.refill(&limit, last, self.clock.get());
            }
            // Even if nobody has a rate any more: it may have had one when it was held back.
            slot.look_again_if_throttled(&self.told);
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
        self.commands.0 |= command as u16;
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Has a session that its rate holds back ask for more.
    fn look_again_if_throttled(&mut self, told: &Cell<usize>) {
        if std::mem::take(&mut self.throttled) {
            self.tell(Command::Refill, told);
        }
    }

    /// Has a session that is held back, by whatever it is, look whether that still holds.
    fn look_again(&mut self, told: &Cell<usize>) {
        self.look_again_if_throttled(told);
        if self.standing.has(Standing::STILL) || self.standing.has(Standing::WRITING) {
            self.tell(Command::Refill, told);
        }
    }

    /// Has commands wake the session's task from here on.
    pub(crate) fn set_waker(&mut self, waker: &Waker) {
        self.waker = Some(waker.clone());
    }

    /// Puts stamps right that were given since the sweep at `last`: they are of a clock that this sweep moves on, which may
    /// have stood for as long as the process did.
    fn renew_stamps(&mut self, last: u32, moment: Moment) {
        let given = last.wrapping_add(SWEEP.as_millis() as u32);
        for stamp in [&mut self.heard, &mut self.wrote] {
            if *stamp == given && moment.since(given) > 0 {
                *stamp = moment.stamp;
            }
        }
    }

    /// Whether a session whose time is up had its chance: since the sweep that found it first, the reactor was asked what
    /// had come, and the session had a turn with it. It has another while it has more to read than one turn does.
    fn may_be_judged(&mut self, told: &Cell<usize>) -> bool {
        let looks = self.looks;
        self.looks = looks.saturating_add(1);
        let may = looks > 0 && (!self.standing.has(Standing::READING) || looks >= MOST_LOOKS);
        if !may {
            self.tell(Command::Look, told);
        }
        may
    }

    /// Which of its times is up, if one is.
    fn overdue(&self, timeouts: &Timeouts, moment: Moment) -> Option<Command> {
        if self.standing.has(Standing::WRITING) && moment.since(self.wrote) >= timeouts.write {
            return Some(Command::Stall);
        }
        if !self.standing.has(Standing::OPEN) {
            return None;
        }
        if moment.instant - self.opened >= timeouts.age {
            return Some(Command::Age);
        }
        let (command, timeout) = match self.standing.has(Standing::PARTIAL) {
            true if timeouts.line != u32::MAX => (Command::Line, timeouts.line),
            _ => (Command::Idle, timeouts.idle),
        };
        (!self.standing.has(Standing::STILL) && moment.since(self.heard) >= timeout).then_some(command)
    }

    /// The peer's address; `None` for a transport without one.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.place.peer()
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub(crate) fn add_unsent(&mut self, bytes: usize) {
        self.rare().unsent += bytes as u64;
    }

    pub(crate) fn add_undelivered(&mut self, bytes: usize) {
        if bytes > 0 {
            self.rare().undelivered += bytes as u64;
        }
    }

    pub(crate) fn add_tail(&mut self, bytes: usize) {
        if bytes > 0 {
            self.rare().tail += bytes as u64;
        }
    }

    /// The rate that was set for it alone.
    fn own_rate(&self) -> Option<RateLimit> {
        self.rare.as_ref()?.rate
    }

    /// Whether it has a rate to keep to that the others have not.
    fn has_rate(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.rate.is_some() || rare.member.is_some())
    }

    fn grant(
        &mut self,
        default: &RateLimit,
        unit: Unit,
        spent: u64,
        most: usize,
        wanted: impl FnOnce() -> usize,
    ) -> Grant {
        let limit = self.own_rate().unwrap_or(*default);
        let left = self.allowance.left(&limit, unit, spent);
        let member = self.rare.as_mut().and_then(|rare| rare.member.as_mut());
        if member.is_none() && left >= most {
            return Grant::own(most);
        }
        let mut grant = Grant::own(left.min(wanted()));
        if grant.amount > 0
            && let Some(member) = member
        {
            grant = member.take(unit, grant.amount);
        }
        self.throttled = grant.amount == 0;
        grant
    }

    pub(crate) fn payload(&self) -> u64 {
        self.rare.as_ref().map_or(0, |rare| rare.payload)
    }

    pub(crate) fn set_payload(&mut self, bytes: u64) {
        self.rare().payload = bytes;
    }

    pub(crate) fn outbox_limit(&self, default: OutboxLimit) -> OutboxLimit {
        self.rare.as_ref().and_then(|rare| rare.outbox_limit).unwrap_or(default)
    }

    pub(crate) fn set_outbox_limit(&mut self, outbox_limit: OutboxLimit) {
        self.rare().outbox_limit = Some(outbox_limit);
    }

    pub(crate) fn set_report_to(&mut self, report_to: oneshot::Sender<CloseReport>) {
        self.rare().report_to = Some(report_to);
    }

    /// Whether its outbox has been above the soft limit for too long. To be asked at each sweep.
    fn is_above_soft_limit(&mut self, default: OutboxLimit, moment: Moment) -> bool {
        let Some(soft) = self.outbox_limit(default).soft.filter(|soft| self.outbox_len as usize > soft.bytes) else {
            self.above = 0;
            return false;
        };
        if self.above == 0 {
            self.above = moment.stamp.max(1);
        }
        u128::from(moment.since(self.above)) >= soft.time.as_millis()
    }

    /// Memory that its buffers hold, in bytes.
    fn held(&self) -> usize {
        self.memory as usize
    }

    /// How many more bytes others may have waiting in this session; `None` where it is over that already.
    fn room_left(&self, limit: usize) -> Option<usize> {
        let pushed = self.rare.as_ref().map_or(0, |rare| rare.pushed_len);
        limit.checked_sub(self.outbox_len as usize + pushed)
    }

    /// Has the session write `bytes` in its next turn, unless its outbox holds too much: then its policy says what
    /// becomes of it, and this is false.
    fn offer(&mut self, bytes: &SharedBytes, default: OutboxLimit, told: &Cell<usize>) -> bool {
        self.offer_messages(&Messages::one(bytes, &[bytes.len()]), default, told) == 0
    }

    /// The same for some messages, of which those that fit are taken. Returns how many were not.
    fn offer_messages(&mut self, messages: &Messages<'_>, default: OutboxLimit, told: &Cell<usize>) -> u64 {
        let OutboxLimit { policy, hard, .. } = self.outbox_limit(default);
        let taken = match (policy, self.room_left(hard)) {
            (OutboxPolicy::Accept, _) => messages.count(),
            (_, Some(bytes)) => messages.fitting(bytes),
            (_, None) => 0,
        };
        if taken > 0 {
            self.push(messages.first(taken), told);
        }
        let lost = (messages.count() - taken) as u64;
        if lost > 0 {
            self.miss(lost);
            if policy == OutboxPolicy::Disconnect {
                self.tell(Command::Overflow, told);
            }
        }
        lost
    }

    /// It is told of these before the next bytes that others push.
    pub(crate) fn miss(&mut self, messages: u64) {
        if messages > 0 {
            self.rare().missed += messages;
        }
    }

    /// Has the session write `bytes` in its next turn.
    fn push(&mut self, bytes: SharedBytes, told: &Cell<usize>) {
        let rare = self.rare();
        rare.pushed_len += bytes.len();
        rare.pushed.add(Push { missed: std::mem::take(&mut rare.missed), bytes });
        self.tell(Command::Push, told);
    }

    /// What others had pushed since it was last taken.
    pub(crate) fn take_pushed(&mut self) -> Pushes {
        let Some(rare) = &mut self.rare else { return Pushes::default() };
        rare.pushed_len = 0;
        std::mem::take(&mut rare.pushed)
    }

    /// The first cause counts.
    pub(crate) fn blame(&mut self, reason: CloseReason) {
        self.reason.get_or_insert(reason);
    }

    /// Bytes that the kernel took until the turn at hand.
    pub(crate) fn bytes_out(&self) -> u64 {
        self.bytes_out
    }

    /// Whether its peer was just found to have taken something: nothing that was found before holds.
    pub(crate) fn has_progress(&self) -> bool {
        self.looks == 0
    }

    pub(crate) fn set_closing(&mut self) {
        self.closing = true;
    }

    pub(crate) fn clear_deadline(&mut self) {
        self.deadline = 0;
    }

    pub(crate) fn report(&self, cut: bool) -> CloseReport {
        let rare = self.rare.as_deref();
        CloseReport {
            id: self.id,
            peer: self.peer(),
            listener: self.listener,
            reason: self.reason.unwrap_or(CloseReason::WorkerStopped),
            lines_in: self.lines_in,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            // What was pushed and never written is unsent as well.
            unsent_bytes: rare.map_or(0, |rare| rare.unsent + rare.pushed_len as u64),
            tail_bytes: rare.map_or(0, |rare| rare.tail),
            undelivered_bytes: rare.map_or(0, |rare| rare.undelivered),
            duration: self.opened.elapsed(),
            cut,
        }
    }

    fn info(&self, worker: usize, moment: Moment) -> SessionInfo {
        SessionInfo {
            id: self.id,
            peer: self.peer(),
            listener: self.listener,
            worker,
            age: moment.instant.saturating_duration_since(self.opened),
            idle: Duration::from_millis(moment.since(self.heard).into()),
            lines_in: self.lines_in,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            outbox_bytes: self.outbox_len as usize,
            state: match (self.closing, self.standing.has(Standing::OPEN)) {
                (true, _) => SessionState::Closing,
                (false, false) => SessionState::Draining,
                (false, true) if self.standing.has(Standing::STILL) => SessionState::Held,
                (false, true) => SessionState::Open,
            },
        }
    }
}

/// The last batch: sent when the last session and the worker's task are gone, in whatever order an ending arbiter drops
/// them. Thread-locals may be gone by then, so none is used.
impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(upstream) = &self.upstream {
            upstream.control.book(std::mem::take(self.reports.get_mut()));
            let counters = self.counters.get_mut();
            counters.turns_cut = self.turns_cut.get();
            counters.throttled = self.throttled.get();
            upstream.control.lose_worker(self.index, self.counters.get_mut());
            // Or the others would leave it to this one to cut somebody.
            upstream.control.budget.set_heaviest(self.index, Weight::default());
            upstream.control.budget.publish(self.published.get(), 0);
            upstream.control.notify(Batch { worker: self.index, answer: None, last: true });
        }
    }
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
    let mut spread = tokio::time::interval(SPREAD_TICK);
    spread.set_missed_tick_behavior(MissedTickBehavior::Delay);
    worker.is_looked_after.set(true);
    // A worker has one such task, so they are there.
    let mut said = worker.said.take().unwrap_or_else(|| Hearing::new().1);
    let mut delivers = false;
    let mut open = true;
    let mut send_at = None;
    while open || worker.live.get() > 0 || send_at.is_some() {
        tokio::select! {
            order = orders.recv(), if open => match order {
                Some(Order::Start(admitted)) => start(admitted),
                Some(Order::Drain { over, goodbye }) => {
                    // What has come until now is answered: the reactor is asked for it first.
                    tokio::task::yield_now().await;
                    worker.drain(over, &goodbye);
                }
                Some(Order::Abort) => {
                    // However late the order is: whoever can end by itself has a turn to do so.
                    tokio::task::yield_now().await;
                    worker.abort_all();
                }
                Some(Order::Evict) => worker.evict().await,
                Some(Order::Answer { token, question }) => worker.send_reports(Some(worker.answer(token, &question))),
                None => open = false,
            },
            () = said.wait(), if !delivers => delivers = worker.deliver(&mut said),
            () = tokio::task::yield_now(), if delivers => delivers = worker.deliver(&mut said),
            () = worker.reports_ready.notified() => {
                worker.evict().await;
                if !worker.reports.borrow().is_empty() {
                    send_at.get_or_insert_with(|| Instant::now() + REPORT_DELAY);
                }
            }
            () = tokio::time::sleep_until(send_at.unwrap_or_else(Instant::now)), if send_at.is_some() => {
                send_at = None;
                worker.send_reports(None);
            }
            _ = spread.tick(), if worker.spread.get().is_some() => {
                worker.drain_on();
            }
            _ = sweep.tick(), if worker.live.get() > 0 => {
                let last = worker.clock.replace(worker.now());
                worker.probes.set(!worker.probes.get());
                let mut slice = 0;
                while worker.sweep(slice, last) {
                    slice += 1;
                    tokio::task::yield_now().await;
                }
                worker.weigh().await;
            }
        }
    }
    worker.is_looked_after.set(false);
}

thread_local! {
    /// The workers of sessions that were started without a server: one for each set of limits.
    static STANDALONE: RefCell<Vec<Weak<Worker>>> = const { RefCell::new(Vec::new()) };
}

/// The current arbiter's worker for sessions without a server that have these limits.
pub(crate) fn standalone(limits: SessionLimits) -> Rc<Worker> {
    STANDALONE.with_borrow_mut(|known| {
        known.retain(|worker| worker.upgrade().is_some_and(|worker| worker.is_looked_after.get()));
        if let Some(worker) = known.iter().filter_map(Weak::upgrade).find(|worker| worker.limits() == limits) {
            return worker;
        }
        let worker = Worker::new(0, limits, None);
        worker.is_looked_after.set(true);
        known.push(Rc::downgrade(&worker));
        let (_, orders) = mpsc::unbounded_channel();
        actix_rt::spawn(look_after(Rc::clone(&worker), orders, |_| {}));
        worker
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::orders::WorkerHandle;
    use crate::limits::Limits;
    use actix::{Addr, dev::channel::channel};
    use actix_rt::Arbiter;

    type WithOrders = (Rc<Worker>, mpsc::UnboundedReceiver<Order>);

    /// Workers of a server that has nothing else, and the orders that they are given.
    fn workers(count: usize, budget: usize) -> (Arc<Control>, Vec<WithOrders>) {
        let limits = Limits::builder().memory_budget(Some(budget)).build().unwrap();
        let session = limits.session;
        let (handles, orders): (Vec<_>, Vec<_>) = (0..count)
            .map(|_| {
                let (orders, receiver) = mpsc::unbounded_channel();
                (WorkerHandle { orders, load: Arc::default() }, receiver)
            })
            .unzip();
        let supervisor = Addr::new(channel(16).0);
        let control = Control::new(limits, 0, handles, vec![], Arbiter::current(), supervisor);
        let worker = |index| {
            let upstream = Upstream { control: Arc::clone(&control), load: Arc::default() };
            Worker::new(index, session, Some(upstream))
        };
        let workers = orders.into_iter().enumerate().map(|(index, orders)| (worker(index), orders)).collect();
        (control, workers)
    }

    /// A session of `peer` that holds so much.
    fn hold(worker: &Worker, peer: &str, memory: usize) -> SessionId {
        let peer = peer.parse().ok();
        let connection = Connection { id: SessionId::next(), peer, local: None, listener: None };
        let index = worker.open(&connection, None);
        worker.end_turn(index, &Counts::default(), 0, memory, Standing::default());
        connection.id
    }

    fn evicted(worker: &Worker) -> Vec<SessionId> {
        let mut slots = worker.slots.borrow_mut();
        slots.iter_mut().filter(|slot| slot.commands.has(Command::Evict)).map(|slot| slot.id).collect()
    }

    #[actix::test]
    async fn evictions_cost_a_look_at_each_session_for_each_half_that_goes() {
        const SESSIONS: usize = 20_000;
        const BUDGET: usize = 1 << 20;
        for sources in [1, 100, SESSIONS] {
            let (control, workers) = workers(1, BUDGET);
            let worker = &workers[0].0;
            for number in 0..SESSIONS {
                let source = number % sources;
                hold(worker, &format!("10.0.{}.{}:7", source / 256, source % 256), 1000 + number % 7);
            }
            let all = worker.held.get();
            worker.evict().await;
            assert!(worker.held.get() <= BUDGET && worker.held.get() > BUDGET - 1007, "{} left", worker.held.get());
            assert_eq!(control.budget.excess(), 0);
            let gone = evicted(worker).len();
            assert!(gone * 1000 <= all - worker.held.get() && gone > 18_900, "{gone}");
            let looked_at = worker.looked_at.get();
            assert!(looked_at <= 6 * SESSIONS, "{looked_at} slots looked at for {gone} evictions, {sources} sources");
        }
    }

    #[actix::test]
    async fn memory_that_runs_short_again_and_again_does_not_cost_a_look_at_all_sessions_each_time() {
        const SESSIONS: usize = 20_000;
        let (_control, workers) = workers(1, SESSIONS * 1000);
        let worker = &workers[0].0;
        for _ in 0..SESSIONS {
            hold(worker, "192.0.2.1:7", 1000);
        }
        // Each takes as much as makes one of the others go.
        for _ in 0..1000 {
            hold(worker, "192.0.2.1:8", 1000);
            worker.publish();
            worker.evict().await;
        }
        assert_eq!(evicted(worker).len(), 1000);
        let looked_at = worker.looked_at.get();
        assert!(looked_at <= 2 * (SESSIONS + 1000), "{looked_at} slots looked at");
    }

    #[actix::test]
    async fn many_small_sessions_of_one_source_go_before_a_larger_one_of_another_on_any_worker() {
        let (control, workers) = workers(2, 2 << 20);
        let honest = hold(&workers[0].0, "203.0.113.9:7", 500_000);
        for _ in 0..300 {
            for (worker, _) in &workers {
                hold(worker, "192.0.2.1:7", 10_000);
            }
        }
        let mut known = Vec::new();
        for (worker, orders) in workers {
            worker.publish();
            known.push(Rc::clone(&worker));
            actix_rt::spawn(look_after(worker, orders, |_| {}));
        }
        let done = async {
            while control.budget.excess() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), done).await.expect("memory to be enough");
        let gone: Vec<_> = known.iter().map(|worker| evicted(worker)).collect();
        assert!(!gone[0].contains(&honest));
        // The attacker's are cut on both, and no more of them than need be.
        assert!(gone.iter().all(|gone| gone.len() > 100), "{} and {}", gone[0].len(), gone[1].len());
        assert_eq!(gone[0].len() + gone[1].len(), (6_500_000_usize - (2 << 20)).div_ceil(10_000));
        let looked_at: usize = known.iter().map(|worker| worker.looked_at.get()).sum();
        assert!(looked_at < 100 * 601, "{looked_at} slots looked at");
    }

    #[actix::test]
    async fn a_worker_that_is_no_more_is_not_left_to_cut_anybody() {
        let (control, mut workers) = workers(2, 1 << 20);
        hold(&workers[1].0, "192.0.2.2:7", 3_000_000);
        workers[1].0.publish();
        workers[1].0.rank_all(&control).await;
        workers.truncate(1);
        assert_eq!(control.budget.excess(), 0);
        for _ in 0..20 {
            hold(&workers[0].0, "192.0.2.1:7", 100_000);
        }
        workers[0].0.publish();
        workers[0].0.evict().await;
        assert_eq!((control.budget.excess(), evicted(&workers[0].0).len()), (0, 10));
    }
}
