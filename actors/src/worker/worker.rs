//! A worker: what the sessions of one arbiter share, and the task that looks after them.
//!
//! Everything here stays on its thread. The scratch buffers are taken out while they are used, so that no user code ever
//! runs under a borrow of them. The slots hold what a session needs only now and then; its future stays small.
//! Not here: what a session does in its turn (`context`), who is told of its end (`supervisor`).

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    connection::{Connection, SessionId},
    control::{
        admission::Place,
        budget::{Ranking, Weight},
        control::Control,
        orders::Answer,
        stats::Stats,
    },
    framing::SLACK_BYTES,
    limits::{CARRY_BYTES, SCRATCH_BYTES, SessionLimits},
    log_limit::LogLimit,
    rate::{Allowance, Grant, Member, RateGroup, RateLimit, Unit},
    report::CloseReport,
    room::{Inbox, Room, Stuck},
    shared::SharedBytes,
    wire::outbox::Outbox,
    worker::{
        clock::{Moment, SWEEP, Standing},
        command::Commands,
        delivery::{Hearing, Members},
        reports::Counts,
        slot::{Slot, Slots},
    },
};

/// How many ends wait for others before they are booked, at most.
const REPORT_BATCH: usize = 256;

/// The way from a worker to the rest of its server.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) control: Arc<Control>,
    /// Sessions here and on their way here: the acceptor picks the least loaded worker.
    pub(crate) load: Arc<AtomicUsize>,
}

/// A drain that tells sessions one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    pub(super) since: Instant,
    pub(super) over: Duration,
    /// Slots told so far.
    pub(super) told: usize,
}

pub(crate) struct Worker {
    pub(super) index: usize,
    pub(super) limits: Cell<SessionLimits>,
    /// The outbox's watermarks again, where each write finds them.
    pub(super) high: Cell<usize>,
    pub(super) low: Cell<usize>,
    pub(super) epoch: Instant,
    /// The clock as it was at the last sweep; what a turn stamps.
    pub(super) clock: Cell<u32>,
    /// Without a line timeout a byte counts as activity.
    pub(super) bytes_count: Cell<bool>,
    pub(super) spread: Cell<Option<Spread>>,
    /// What each session says last in a drain.
    pub(super) goodbye: RefCell<SharedBytes>,
    /// The sweep at hand asks how sessions that make no progress get on.
    pub(super) probes: Cell<bool>,
    pub(super) scratch: Cell<Vec<u8>>,
    pub(super) loan: Cell<Option<Box<Outbox>>>,
    pub(super) slots: RefCell<Slots>,
    pub(super) live: Cell<usize>,
    /// Sessions that have not yet heard what they were told: while there is none, a turn need not look.
    pub(super) told: Cell<usize>,
    pub(super) draining: Cell<bool>,
    /// Its task runs: without it no deadline is met.
    pub(super) is_looked_after: Cell<bool>,
    pub(super) reports: RefCell<Vec<CloseReport>>,
    /// Of the sessions that have ended here.
    pub(super) counters: RefCell<Stats>,
    pub(super) turns_cut: Cell<u64>,
    pub(super) throttled: Cell<u64>,
    /// Panics of handlers here: a peer may have found a line that makes them.
    pub(crate) panics: LogLimit,
    /// Sessions that have a rate of their own or are in a group, and one more if there is a rate for all: while it is 0
    /// nobody's rate has to be looked up.
    pub(super) rated: Cell<usize>,
    /// Bytes in the buffers of all sessions here, and what of it the budget knows.
    pub(super) held: Cell<usize>,
    pub(super) published: Cell<usize>,
    /// Who holds it, while memory is short.
    pub(super) ranking: RefCell<Ranking>,
    /// Sessions cut for want of it: they may be many.
    pub(super) evictions: LogLimit,
    #[cfg(test)]
    pub(super) looked_at: Cell<usize>,
    pub(super) reports_ready: Notify,
    /// What is said in rooms that have members here.
    pub(super) inbox: Arc<Inbox>,
    pub(super) said: Cell<Option<Hearing>>,
    pub(super) members: RefCell<Members>,
    pub(super) upstream: Option<Upstream>,
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
    pub(super) fn now(&self) -> u32 {
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

    pub(super) fn set_limits(&self, limits: SessionLimits, slots: &mut Slots) {
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
    pub(super) fn stamp(&self) -> u32 {
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
    pub(crate) fn take_commands(&self, index: u32) -> Commands {
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

    pub(super) fn send_reports(&self, answer: Option<Answer>) {
        let reports = std::mem::take(&mut *self.reports.borrow_mut());
        if reports.is_empty() && answer.is_none() {
            return;
        }
        if let Some(upstream) = &self.upstream {
            upstream.control.ledger.book(reports);
            if let Some(answer) = answer {
                upstream.control.answer(self.index, answer);
            }
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
    pub(super) fn change_rates(&self, index: u32, change: impl FnOnce(&mut Slot) -> bool) {
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
        let take = |slot: &mut Slot| members.take_membership(&mut slot.rare.as_mut()?.rooms, room);
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

    /// The counters of this worker, its living sessions included.
    pub(super) fn stats(&self) -> Stats {
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
            let has_changed = slot.standing ^ standing;
            if counts.delivered || has_changed.contains(Standing::PARTIAL) || (bytes_count && counts.bytes_in > 0) {
                slot.heard = stamp;
            }
            if standing.contains(Standing::WRITING) && (counts.bytes_out > 0 || has_changed.contains(Standing::WRITING))
            {
                slot.wrote = stamp;
            }
            slot.standing = standing;
            (before, slot.held())
        });
        if before != after {
            self.hold(before, after);
        }
    }

    /// Tells one session, if it still lives.
    pub(crate) fn send(&self, index: u32, id: SessionId, command: Commands) {
        if let Some(slot) = self.slots.borrow_mut().at(index).as_mut().filter(|slot| slot.id == id) {
            slot.send(command, &self.told);
        }
    }

    /// Whether nothing is left of its sessions: no place, no byte, no command.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        (self.live.get(), self.told.get(), self.held.get()) == (0, 0, 0)
    }

    pub(super) fn moment(&self) -> Moment {
        Moment { stamp: self.now(), instant: Instant::now() }
    }
}

/// The last batch: sent when the last session and the worker's task are gone, in whatever order an ending arbiter drops
/// them. Thread-locals may be gone by then, so none is used.
impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(upstream) = &self.upstream {
            let Upstream { control, .. } = upstream;
            control.ledger.book(std::mem::take(self.reports.get_mut()));
            // Or the others would leave it to this one to cut somebody.
            control.ledger.budget.set_heaviest(self.index, Weight::default());
            control.ledger.budget.publish(self.published.get(), 0);
            let counters = self.counters.get_mut();
            counters.turns_cut = self.turns_cut.get();
            counters.throttled = self.throttled.get();
            control.lose_worker(self.index, counters);
        }
    }
}
