//! Worker: the sessions of one arbiter, and the resources that they share.
//!
//! A worker is made of parts, one for each aspect of its sessions, and has a method for each request of a session.
//! Everything here stays on its thread.
//! Not here: the parts (their own files), the worker's task (`task`), a session's turn (`session`).

use std::{cell::Cell, rc::Rc, time::Duration};

use tokio::sync::Notify;

use crate::{
    address::{Address, Origin},
    connection::{Connection, SessionId},
    control::{
        admission::{Refusal, listener::Place},
        budget::Weight,
        event::RefusedConnection,
        orders::Answer,
        query::SessionState,
        stats::{Stats, WorkerStats},
    },
    gate::Permit,
    limits::{Limits, SessionLimits},
    log_limit::{Kind, LogLimit},
    logged::Site,
    plural::Counted,
    rate::{Grant, RateGroup, RateLimit, Unit},
    report::{CloseReason, RefuseReason},
    room::Room,
    seconds,
    shared::SharedBytes,
    wire::outbox::Outbox,
    worker::{
        buffers::Buffers,
        clock::{SessionClock, Standing, WorkerClock},
        command::Commands,
        delays::Delays,
        drain::WorkerDrain,
        held::WorkerMemory,
        permits::Permits,
        prefaces::Prefaces,
        rates::{SessionRates, WorkerRates},
        reports::{self, Counts, Reports},
        rooms::WorkerRooms,
        slot::{Slot, SlotMut, Slots},
        slow::{Began, SlowTurns},
        upstream::Upstream,
    },
};

const SLOW_TURN: Kind = Kind("slow turn", "slow turns");
const REFUSED: Kind = Kind("connection by way of a proxy refused", "connections by way of proxies refused");
const STOPPED: Kind = Kind("connection refused at a gate", "connections refused at gates");
const CROWDED: Kind = Kind("time that handshakes were ended for others", "times that handshakes were ended for others");
/// Panics of handlers, and of what makes them and their filters.
pub(crate) const PANIC: Kind = Kind("session whose code panicked", "sessions whose code panicked");

pub(crate) struct Worker {
    pub(super) index: usize,
    limits: Cell<SessionLimits>,
    /// The outbox's watermarks again, where each write finds them.
    high: Cell<usize>,
    low: Cell<usize>,
    pub(super) slots: Slots,
    pub(super) clock: WorkerClock,
    buffers: Buffers,
    pub(super) rates: WorkerRates,
    pub(super) memory: WorkerMemory,
    pub(super) rooms: WorkerRooms,
    pub(super) drain: WorkerDrain,
    pub(super) reports: Reports,
    pub(super) prefaces: Prefaces,
    permits: Permits,
    /// Bounds log messages about panics of handlers: a peer may have found a line that causes them.
    pub(crate) panics: LogLimit,
    slow: SlowTurns,
    delays: Delays,
    /// Its task runs: without it no deadline is met.
    pub(super) is_looked_after: Cell<bool>,
    /// Wakes its task: reports wait, or memory is short.
    pub(super) attention: Notify,
    pub(super) upstream: Option<Upstream>,
}

impl Worker {
    pub(crate) fn new(index: usize, limits: SessionLimits, upstream: Option<Upstream>) -> Rc<Self> {
        Rc::new(Self {
            index,
            limits: Cell::new(limits),
            high: Cell::new(limits.outbox.high),
            low: Cell::new(limits.outbox.low),
            slots: Slots::default(),
            clock: WorkerClock::new(&limits),
            buffers: Buffers::default(),
            rates: WorkerRates::new(&limits.rate),
            memory: WorkerMemory::default(),
            rooms: WorkerRooms::default(),
            drain: WorkerDrain::default(),
            reports: Reports::default(),
            prefaces: Prefaces::default(),
            permits: Permits::default(),
            panics: LogLimit::default(),
            slow: SlowTurns::default(),
            delays: Delays::default(),
            is_looked_after: Cell::new(false),
            attention: Notify::new(),
            upstream,
        })
    }

    /// The read buffer, taken out.
    pub(crate) fn take_scratch(&self) -> Vec<u8> {
        self.buffers.take_scratch()
    }

    pub(crate) fn put_scratch(&self, scratch: Vec<u8>) {
        self.buffers.put_scratch(scratch);
    }

    /// An empty outbox with room for a turn's answers.
    pub(crate) fn lend_outbox(&self) -> Box<Outbox> {
        self.buffers.lend_outbox()
    }

    pub(crate) fn return_outbox(&self, outbox: Box<Outbox>) {
        self.buffers.return_outbox(outbox);
    }

    /// Number of its thread in its server, from 0.
    pub(super) fn thread(&self) -> usize {
        self.upstream.as_ref().map_or(0, |upstream| upstream.thread)
    }

    /// The limits that sessions here have when `limits` are those of the server.
    pub(super) fn limits_under(&self, limits: &Limits) -> SessionLimits {
        let has_own = self.upstream.as_ref().is_some_and(|upstream| upstream.has_own_limits);
        if has_own { self.limits() } else { limits.session }
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

    /// Changes the limits of the sessions that live and of those to come.
    pub(super) fn set_limits(&self, limits: SessionLimits) {
        let before = self.limits.replace(limits).rate;
        self.rates.change(!before.is_none(), !limits.rate.is_none());
        for mut slot in self.slots.borrow_mut().iter_mut() {
            slot.change_default_rate(&before, &limits.rate);
            slot.look_again();
        }
        self.high.set(limits.outbox.high);
        self.low.set(limits.outbox.low);
        self.clock.set_limits(&limits);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain.has_begun()
    }

    /// The last bytes of each session in a drain; empty is none.
    pub(crate) fn goodbye(&self) -> SharedBytes {
        self.drain.goodbye()
    }

    /// Tells subscribers of a session, now that its peer is known.
    pub(crate) fn announce(&self, connection: &Connection) {
        if self.upstream.as_ref().is_some_and(Upstream::has_subscribers) {
            self.report_soon(self.reports.push_opened(connection));
        }
    }

    /// Opens a session's slot. Returns its index.
    pub(crate) fn open(&self, connection: &Connection, place: Option<Place>) -> u32 {
        let rates = SessionRates::full(&self.limits.get().rate);
        self.slots.insert(Slot::new(connection, place, SessionClock::new(&self.clock), rates))
    }

    /// Looks into a session's slot. No user code runs in `look`.
    #[inline]
    pub(crate) fn slot<R>(&self, index: u32, look: impl FnOnce(&mut SlotMut<'_>) -> R) -> R {
        self.slots.with(index, look)
    }

    /// Takes the commands that a session was sent since it last asked.
    #[inline]
    pub(crate) fn take_commands(&self, index: u32) -> Commands {
        self.slots.take_commands(index)
    }

    /// Sends one session commands, if it still lives.
    pub(crate) fn send(&self, index: u32, id: SessionId, commands: Commands) {
        if let Some(mut slot) = self.slots.borrow_mut().get_by_id(index, id) {
            slot.send(commands);
        }
    }

    pub(crate) fn set_deadline(&self, index: u32, after: Duration) {
        self.slot(index, |slot| slot.clock.set_deadline(after, &self.clock));
    }

    /// Starts the idle clock of a session anew.
    pub(crate) fn restart_idle_clock(&self, index: u32) {
        self.slot(index, |slot| slot.clock.restart_idle(&self.clock));
    }

    /// Books the bytes that the peer has acknowledged in all.
    pub(crate) fn book_acknowledged(&self, index: u32, bytes: u64) {
        self.slot(index, |slot| slot.book_acknowledged(bytes, self.clock.stamp()));
    }

    /// Books bytes that a lingering session has discarded. False once they are more than may be.
    pub(crate) fn discard(&self, index: u32, bytes: usize) -> bool {
        let most = u64::from(self.limits.get().linger_bytes);
        self.slot(index, |slot| slot.rare().leftovers.discard(bytes) <= most)
    }

    /// Books what a turn counted and how it leaves the session.
    #[inline]
    pub(crate) fn end_turn(&self, index: u32, counts: &Counts, outbox_len: usize, memory: usize, standing: Standing) {
        let (before, after) = self.slot(index, |slot| {
            slot.counters.add(counts);
            if self.rates.is_any() {
                slot.rates.spend(counts);
            }
            slot.outbox.set(outbox_len);
            slot.clock.end_turn(counts, standing, &self.clock);
            slot.memory.set(memory)
        });
        if before != after {
            self.book_memory(before, after);
        }
    }

    /// Books what the filters of a connection hold that is no session yet.
    pub(crate) fn hold_preface(&self, index: u32, memory: usize) {
        let (before, after) = self.slot(index, |slot| slot.memory.set(memory));
        if before != after {
            self.book_memory(before, after);
        }
    }

    /// Books that one session holds `after` bytes where it held `before`.
    fn book_memory(&self, before: usize, after: usize) {
        if self.memory.book(before, after)
            && let Some(upstream) = &self.upstream
            && self.memory.publish(upstream.budget())
            && upstream.budget().excess() > 0
        {
            self.attention.notify_one();
        }
    }

    /// Sets how long a turn may take before it is slow; `None` times none.
    pub(crate) fn set_slow_turn(&self, after: Option<Duration>) {
        self.slow.set(after);
    }

    /// Sets whether answers are measured.
    pub(crate) fn set_measures_answers(&self, measured: bool) {
        self.delays.set(measured);
    }

    /// Returns true if answers are measured.
    #[inline]
    pub(crate) fn measures_answers(&self) -> bool {
        self.delays.are_measured()
    }

    /// Counts an answer of a session that took so long.
    pub(crate) fn count_answer(&self, index: u32, time: Duration) {
        let listener = self.slot(index, |slot| slot.listener);
        self.reports.count_answer(listener, time);
    }

    /// Begins to time a turn.
    #[inline]
    pub(crate) fn begin_turn(&self) -> Began {
        self.slow.begin()
    }

    /// Counts a turn if it was slow, and says so.
    #[inline]
    pub(crate) fn check_turn(&self, index: u32, began: Began) {
        if let Some(took) = self.slow.end(began) {
            self.warn_of_slow_turn(index, took);
        }
    }

    #[cold]
    fn warn_of_slow_turn(&self, index: u32, took: Duration) {
        let Some(events) = self.slow.log.pass(&SLOW_TURN, "") else { return };
        let mut slots = self.slots.borrow_mut();
        let who = slots.get(index).map(|slot| (slot.id, slot.peer().clone(), slot.listener));
        drop(slots);
        let advice = "its worker's other sessions waited: let another thread do what takes long, and `ctx.wait_for` it";
        match (who, self.slow.last_closed.get()) {
            (Some((id, peer, Some(listener))), _) => {
                log::warn!(
                    session = id.get(), peer = Origin(&peer), listener = Site::from(listener),
                    duration = seconds::of(took), count = events;
                    "session {id}{} at {listener}: a turn took {took:?}; {advice}{events}", Origin(&peer)
                );
            }
            (Some((id, peer, None)), _) => {
                log::warn!(
                    session = id.get(), peer = Origin(&peer), duration = seconds::of(took), count = events;
                    "session {id}{}: a turn took {took:?}; {advice}{events}", Origin(&peer)
                );
            }
            (None, Some(id)) => log::warn!(
                session = id.get(), duration = seconds::of(took), count = events;
                "session {id}: its last turn took {took:?}; {advice}{events}"
            ),
            (None, None) => {}
        }
    }

    /// A preface waits for its peer. If too many do, some are ended.
    pub(crate) fn enter_preface(&self, id: SessionId, slot: u32) {
        if self.prefaces.enter(id, slot, self.limits.get().max_prefaces) {
            self.cut_prefaces();
        }
    }

    /// A preface is over.
    pub(crate) fn leave_preface(&self, id: SessionId) {
        self.prefaces.leave(id);
    }

    /// Logs that a connection is refused, whose peer was known only in its preface, and tells subscribers so.
    #[cold]
    pub(crate) fn log_refused(&self, connection: &Connection, reason: RefuseReason) {
        self.tell_refused(connection, reason);
        if let Some(events) = self.prefaces.refused.pass(&REFUSED, "") {
            let (refused, at, site) = (Counted(events.0, "connection"), at(connection), Site(connection.listener));
            log::warn!(
                listener = site, reason = reason.name(), count = events;
                "{refused} by way of proxies refused, the last{at} for {}", reason.name()
            );
        }
    }

    /// Keeps what a gate has given a session until that has ended.
    pub(crate) fn keep_permit(&self, session: SessionId, permit: Permit) {
        self.permits.keep(session, permit);
    }

    /// Counts and logs that a gate refuses a connection, and tells subscribers so.
    #[cold]
    pub(crate) fn refuse_at_gate(&self, index: u32, connection: &Connection, reason: RefuseReason) {
        if let Some(admission) = self.slot(index, |slot| slot.admission().cloned()) {
            admission.count_refused(reason);
        }
        self.tell_refused(connection, reason);
        if let Some(events) = self.permits.refused.pass(&STOPPED, "") {
            let (refused, at, site) = (Counted(events.0, "connection"), at(connection), Site(connection.listener));
            log::warn!(
                listener = site, reason = reason.name(), count = events;
                "{refused} refused at gates, the last{at} for {}", reason.name()
            );
        }
    }

    fn tell_refused(&self, connection: &Connection, reason: RefuseReason) {
        let Connection { id, peer, listener, .. } = connection;
        if let Some(upstream) = &self.upstream {
            upstream.tell_refused(|| RefusedConnection { peer: peer.clone(), listener: *listener, reason });
        }
        let (at, peer, site) = (at(connection), Origin(peer), Site(*listener));
        log::debug!(
            session = id.get(), peer = peer, listener = site, reason = reason.name();
            "session {id}{peer}{at} is refused: {}", reason.name()
        );
    }

    /// Room to tell one more refused connection of `peer` so, and the line for it; `None` if it is not told.
    pub(crate) fn refusal(&self, peer: &Address, reason: RefuseReason) -> Option<(Refusal, SharedBytes)> {
        let admission = &self.upstream.as_ref()?.control.ledger.admission;
        let line = admission.refuse_line();
        // Whoever is denied is not worth a word.
        if reason == RefuseReason::Denied || line.is_empty() {
            return None;
        }
        let mut room = admission.try_refusal()?;
        room.charge(peer).then_some((room, line))
    }

    #[cold]
    fn cut_prefaces(&self) {
        // A session without a server has no preface of its own.
        let Some(sources) = self.upstream.as_ref().map(Upstream::sources) else { return };
        let most = self.limits.get().max_prefaces;
        let mut slots = self.slots.borrow_mut();
        let cut = self.prefaces.cut(most, |(id, slot)| {
            let slot = slots.get_by_id(slot, id)?;
            Some(sources.key(id, slot.peer()))
        });
        for (id, slot) in &cut {
            if let Some(mut slot) = slots.get_by_id(*slot, *id) {
                slot.send(Commands::CROWD);
            }
        }
        drop(slots);
        if let Some(events) = self.prefaces.crowded.pass(&CROWDED, "") {
            log::warn!(
                count = cut.len();
                "{} ended in handshakes, because more than {most} waited for their peers; those of the source with the \
                 most go first{events}",
                Counted(cut.len(), "connection")
            );
        }
    }

    /// Counts a turn that ended with work left, because others come first.
    pub(crate) fn count_yield(&self) {
        self.reports.count_yield();
    }

    /// Returns true if any session here has a rate to keep to.
    #[inline]
    pub(crate) fn is_rated(&self) -> bool {
        self.rates.is_any()
    }

    /// Grants a session input: at most `most`, and no more than `wanted()` where a rate limits it. What was `spent` in
    /// this turn is booked at its end only.
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
        self.rates.count(&grant);
        grant
    }

    /// Gives back what was granted by a group and not used.
    pub(crate) fn give_back(&self, index: u32, unit: Unit, unused: usize) {
        self.slot(index, |slot| slot.own_rates().into_iter().for_each(|own| own.give_back(unit, unused)));
    }

    pub(crate) fn set_rate(&self, index: u32, limit: RateLimit) {
        let default = self.limits.get().rate;
        self.change_rates(index, |slot| slot.set_rate(&default, limit));
    }

    pub(crate) fn set_rate_group(&self, index: u32, group: Option<&RateGroup>) {
        self.change_rates(index, |slot| {
            let is_same = slot.own_rates().map_or(group.is_none(), |own| own.is_in(group));
            if !is_same {
                slot.rare().rates.set_group(group);
            }
            !is_same
        });
    }

    /// `change` returns whether it changed anything: a future may set the same again whenever it is polled, which alone is
    /// no reason to be polled again.
    fn change_rates(&self, index: u32, change: impl FnOnce(&mut SlotMut<'_>) -> bool) {
        let (had, has) = self.slot(index, |slot| {
            let had = slot.own_rates().is_some();
            if change(slot) {
                slot.release();
            }
            (had, slot.own_rates().is_some())
        });
        self.rates.change(had, has);
    }

    pub(crate) fn join(&self, index: u32, room: &Room) {
        self.slot(index, |slot| {
            let id = slot.id;
            self.rooms.join(&mut slot.rare().rooms, id, index, room);
        });
    }

    pub(crate) fn leave(&self, index: u32, room: &Room) {
        let take = |slot: &mut SlotMut<'_>| self.rooms.take_membership(&mut slot.rare_if_any()?.rooms, room);
        let membership = self.slot(index, take);
        let mut slots = self.slots.borrow_mut();
        self.rooms.end(membership, |moved| slots.note(moved));
    }

    /// Ends all memberships of a session that ends.
    pub(crate) fn leave_rooms(&self, index: u32) {
        let memberships = self.slot(index, |slot| slot.rare_if_any().map(|rare| rare.rooms.take_memberships()));
        let mut slots = self.slots.borrow_mut();
        self.rooms.end(memberships.unwrap_or_default(), |moved| slots.note(moved));
    }

    /// Sends `bytes` to the other members of a room. Returns true if the session should say no more for now.
    pub(crate) fn say(&self, index: u32, room: &Room, bytes: SharedBytes) -> bool {
        let id = self.slot(index, |slot| slot.id);
        let sent = self.rooms.send(room, bytes, id);
        if sent.is_lost_here {
            self.slot(index, |slot| self.rooms.forgive(slot.rare_if_any().map(|rare| &rare.rooms), room));
        }
        sent.crowded.is_some_and(|inbox| self.slot(index, |slot| slot.wait_for_room(inbox)))
    }

    /// Sends `bytes` to the members of several rooms, once to each. Returns true if the session should say no more for
    /// now.
    pub(crate) fn say_to_all<'a>(
        &self,
        index: u32,
        rooms: impl IntoIterator<Item = &'a Room>,
        bytes: &SharedBytes,
    ) -> bool {
        let id = self.slot(index, |slot| slot.id);
        let crowded = self.rooms.send_to_all(rooms, bytes, id, |room| {
            self.slot(index, |slot| self.rooms.forgive(slot.rare_if_any().map(|rare| &rare.rooms), room));
        });
        crowded.is_some_and(|inbox| self.slot(index, |slot| slot.wait_for_room(inbox)))
    }

    /// Returns true if the worker that a session waits for before it says more still does not keep up.
    pub(crate) fn is_crowded(&self, index: u32) -> bool {
        self.slot(index, |slot| slot.is_crowded())
    }

    /// Ends a session's slot: its report is made, and goes to the supervisor with the next batch.
    pub(crate) fn close(&self, index: u32, cut: bool) {
        let Some(mut slot) = self.slots.remove(index) else { return };
        // The task may have waited for no session but this one, and weighs what is left.
        self.clock.touch();
        self.book_memory(slot.memory.bytes(), 0);
        self.rates.change(slot.own_rates().is_some(), false);
        if let Some(upstream) = &self.upstream {
            upstream.release_load();
        }
        let report = slot.report(cut);
        self.slow.last_closed.set(Some(report.id));
        // Proxies probe every second or two.
        if report.reason != CloseReason::Probe {
            log::debug!(
                session = report.id.get(), peer = Origin(&report.peer), listener = Site(report.listener),
                reason = report.reason.name(), lines_in = report.lines_in, bytes_in = report.bytes_in,
                bytes_out = report.bytes_out, unsent_bytes = report.unsent_bytes,
                undelivered_bytes = report.undelivered_bytes, tail_bytes = report.tail_bytes,
                duration = seconds::of(report.duration), cut = report.cut;
                "{report}"
            );
        }
        self.reports.count(&report);
        let report_to = slot.rare_if_any().and_then(|rare| rare.leftovers.take_report_to());
        // The place is given back before anybody hears of the end, and so is what gates gave it.
        drop(slot);
        self.permits.give_back(report.id);
        if let Some(report_to) = report_to {
            // Whoever waited may be gone.
            let _ = report_to.send(report.clone());
        }
        if self.upstream.is_none() {
            return;
        }
        self.report_soon(self.reports.push(report));
    }

    /// So much waits to be sent: enough to do so now, or the first, which waits for others.
    pub(super) fn report_soon(&self, waiting: usize) {
        match waiting {
            1 => self.attention.notify_one(),
            reports::BATCH.. => self.send_reports(None),
            _ => {}
        }
    }

    /// Sends the reports that wait, and an answer behind them.
    pub(super) fn send_reports(&self, answer: Option<Answer>) {
        if let Some(upstream) = &self.upstream {
            upstream.book(self.reports.take_batch());
            if let Some(answer) = answer {
                upstream.answer(self.index, answer);
            }
        }
    }

    /// The counters of this worker, its living sessions included.
    pub(super) fn stats(&self) -> Stats {
        let mut stats = self.ended_stats();
        let mut slots = self.slots.borrow_mut();
        for slot in slots.iter_mut() {
            let is_held = slot.clock.state() == SessionState::Held;
            slot.counters.add_to(&mut stats, slot.listener, is_held, slot.outbox.len());
        }
        self.prefaces.for_each(|(id, slot)| {
            stats.prefaces += 1;
            if let Some(listener) = slots.get_by_id(slot, id).and_then(|slot| slot.listener) {
                stats.listeners.entry(listener).or_default().prefaces += 1;
            }
        });
        drop(slots);
        let (lag, max_lag) = self.clock.lag();
        let Stats { live, prefaces, held, .. } = stats;
        let memory_bytes = self.memory.held() as u64;
        stats.memory.bytes = memory_bytes;
        if let [worker] = &mut stats.workers[..] {
            *worker = WorkerStats { live, prefaces, held, memory_bytes, lag, max_lag, ..std::mem::take(worker) };
        }
        stats
    }

    /// The counters of this worker without its living sessions.
    fn ended_stats(&self) -> Stats {
        let (slow_turns, slow_turn_time) = self.slow.counts();
        let stats = self.reports.stats();
        let throttled = self.rates.throttled();
        let worker = WorkerStats {
            worker: self.thread(),
            turn_times: self.slow.times(),
            turns_cut: stats.turns_cut,
            slow_turns,
            slow_turn_time,
            throttled,
            ..WorkerStats::default()
        };
        Stats { throttled, slow_turns, slow_turn_time, workers: vec![worker], ..stats }
    }

    /// Returns how often it has swept.
    #[cfg(test)]
    pub(crate) fn sweeps(&self) -> usize {
        self.clock.sweeps.get()
    }

    /// Returns how long each of its sessions has been idle.
    #[cfg(test)]
    pub(crate) fn idle_times(&self) -> Vec<Duration> {
        let moment = self.clock.moment();
        self.slots.borrow_mut().iter_mut().map(|slot| slot.clock.idle(moment)).collect()
    }

    /// Returns true if nothing is left of its sessions: no place, no byte, no command.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.slots.len() == 0 && self.slots.have_no_commands() && self.memory.held() == 0
    }
}

/// Where a connection came in, behind a text about it.
fn at(connection: &Connection) -> String {
    connection.listener.map_or_else(String::new, |listener| format!(" at {listener}"))
}

/// The last batch: sent when the last session and the worker's task are gone, in whatever order an ending arbiter drops
/// them. Thread-locals may be gone by then, so none is used.
impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(upstream) = &self.upstream {
            // Or the others would leave it to this one to evict somebody.
            upstream.budget().set_heaviest(self.index, Weight::default());
            self.memory.withdraw(upstream.budget());
            upstream.lose_worker(self.index, self.ended_stats(), self.reports.take_batch());
        }
    }
}
