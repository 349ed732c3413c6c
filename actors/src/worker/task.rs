//! The worker's own task: starts sessions, runs the clock, sends the reports.

use crate::{
    control::orders::{Admitted, Answer, Answered, Order, Question},
    limits::SessionLimits,
    shared::SharedBytes,
    worker::{
        clock::{SWEEP, Standing, Timeouts},
        command::Commands,
        delivery::Hearing,
        slot::CHUNK,
        worker::{Spread, Worker},
    },
};
use std::cell::RefCell;
use std::rc::Rc;
use std::rc::Weak;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio::time::MissedTickBehavior;

/// How often a drain that is spread over time tells more sessions.
pub(super) const SPREAD_TICK: Duration = Duration::from_millis(50);
/// Slots looked at before the sessions get a turn again.
pub(super) const SWEEP_SLICE: usize = 4096;

/// How long an end may wait for others before it is booked.
pub(super) const REPORT_DELAY: Duration = Duration::from_millis(10);

impl Worker {
    /// Delivers of what was said in rooms a slice; true if others should get their turns before the next one.
    pub(super) fn deliver(&self, said: &mut Hearing) -> bool {
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

    pub(super) fn abort_all(&self) {
        for slot in self.slots.borrow_mut().iter_mut() {
            slot.send(Commands::ABORT, &self.told);
        }
    }

    /// Has the sessions drain, all now or one after the other.
    pub(super) fn drain(&self, over: Duration, goodbye: &SharedBytes) {
        self.draining.set(true);
        drop(self.goodbye.replace(goodbye.clone()));
        self.spread.set(Some(Spread { since: Instant::now(), over, told: 0 }));
        self.drain_due();
    }

    /// Tells those whose time has come in a drain that is spread; false when all are told.
    pub(super) fn drain_due(&self) -> bool {
        let Some(spread) = self.spread.get() else { return false };
        let mut slots = self.slots.borrow_mut();
        let all: usize = slots.chunks.iter().map(Vec::len).sum();
        let part = spread.since.elapsed().as_secs_f64() / spread.over.as_secs_f64().max(f64::MIN_POSITIVE);
        let due = if part < 1.0 { (all as f64 * part) as usize } else { all };
        for slot in slots.chunks.iter_mut().flatten().take(due).skip(spread.told).flatten() {
            slot.send(Commands::DRAIN, &self.told);
        }
        self.spread.set((due < all).then_some(Spread { told: due.max(spread.told), ..spread }));
        due < all
    }

    pub(super) fn answer(&self, token: u64, question: &Question) -> Answer {
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
                    slot.send(Commands::KICK, &self.told);
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
                        slot.send(Commands::KICK, &self.told);
                    }
                }
                if !*dry_run {
                    self.set_limits(limits.session, &mut slots);
                }
            }
        }
        Answer { token, answered: answer }
    }

    /// Tells the sessions of one slice whose time is up; false behind the last slice. `last` is when the sweep before
    /// this began.
    pub(super) fn sweep(&self, slice: usize, last: u32) -> bool {
        let moment = self.moment();
        let limits = self.limits.get();
        let timeouts = Timeouts::new(&limits);
        let mut slots = self.slots.borrow_mut();
        let chunks = SWEEP_SLICE / CHUNK;
        for slot in slots.chunks.iter_mut().skip(slice * chunks).take(chunks).flatten().flatten() {
            slot.renew_stamps(last, moment);
            if slot.standing.contains(Standing::STILL) {
                // The clock stands still: what has gone by since the last sweep does not count.
                let gone = moment.since(last);
                slot.heard = slot.heard.wrapping_add(gone.min(moment.since(slot.heard)));
            }
            let is_stuck =
                slot.standing.contains(Standing::WRITING) && moment.since(slot.wrote) >= SWEEP.as_millis() as u32;
            if is_stuck && self.probes.get() {
                slot.send(Commands::PROBE, &self.told);
            }
            let is_late = slot.deadline != 0 && moment.stamp.wrapping_sub(slot.deadline) < u32::MAX / 2;
            let overdue = slot.overdue(&timeouts, moment);
            let overflows = slot.is_above_soft_limit(limits.outbox_limit, moment);
            if is_late || overdue.is_some() || overflows {
                if slot.may_be_judged(&self.told) {
                    if is_late {
                        slot.deadline = 0;
                        slot.send(Commands::DEADLINE, &self.told);
                    }
                    overdue.into_iter().for_each(|command| slot.send(command, &self.told));
                    if overflows {
                        slot.send(Commands::OVERFLOW, &self.told);
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
                worker.drain_due();
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
