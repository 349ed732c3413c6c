//! Task: the worker's own task. Starts sessions, carries out orders, sweeps, delivers, sends the reports.
//!
//! Not here: answers to questions (`answers`), the choice of sessions to evict (`eviction`).

use std::{
    cell::RefCell,
    collections::VecDeque,
    pin::pin,
    rc::{Rc, Weak},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    connection::ListenerId,
    control::orders::{Admitted, Lesson, Order},
    limits::{REPORT_DELAY, SessionLimits},
    worker::{clock::NEVER, command::Commands, delivery::Delivery, worker::Worker},
};

/// The time from one look to the next at a drain that is spread.
const SPREAD_TICK: Duration = Duration::from_millis(50);

impl Worker {
    /// Delivers one slice of waiting room messages. True if others should get their turns before the next one.
    fn deliver(&self, delivery: &mut Delivery) -> bool {
        let limit = self.limits().outbox_limit;
        let has_more = {
            let mut slots = self.slots.borrow_mut();
            self.rooms.deliver(delivery, |slot, missed, messages| match slots.get(slot) {
                Some(mut slot) if !slot.clock.is_closing() => {
                    slot.miss(missed);
                    slot.offer(&messages, limit)
                }
                _ => 0,
            })
        };
        delivery.let_go();
        has_more
    }

    fn abort_all(&self) {
        self.slots.borrow_mut().iter_mut().for_each(|mut slot| slot.send(Commands::ABORT));
    }

    /// Tells the sessions to drain whose time for that has come.
    fn drain_due(&self) {
        let mut slots = self.slots.borrow_mut();
        let due = self.drain.take_due(slots.len());
        slots.range(due).for_each(|mut slot| slot.send(Commands::DRAIN));
    }

    /// Sweeps one slice of the slots. False behind the last slice. `last` is the time of the sweep before this one.
    fn sweep(&self, slice: usize, last: u32) -> bool {
        let limits = self.limits();
        let sweep = self.clock.sweep(last, &limits);
        let mut slots = self.slots.borrow_mut();
        let mut due = NEVER;
        for mut slot in slots.slice(slice).filter_map(|(_, slot)| slot) {
            let outbox_limit = slot.outbox_limit(limits.outbox_limit);
            let overflows = slot.outbox.is_above_soft_limit(outbox_limit, sweep.moment);
            let commands = slot.clock.sweep(&sweep, overflows);
            slot.send(commands);
            due = due.min(slot.clock.due(&sweep));
            if self.rates.is_any() {
                let limit = slot.rate(limits.rate);
                if !slot.rates.refill(&limit, last, self.clock.swept()) {
                    due = 0;
                }
            }
            // Even if nobody has a rate any more: it may have had one when it was held back.
            if slot.release() {
                due = 0;
            }
        }
        self.clock.note_due(sweep.moment, due);
        slots.has_more(slice)
    }
}

/// Makes sessions of the connections that arrive at a worker.
pub(crate) trait Host {
    fn start(&self, admitted: Admitted);

    /// Learns of a listener whose connections may come from now on.
    fn learn(&self, lesson: Lesson);

    /// Forgets an opening of a listener, whose connections have all come.
    fn forget(&self, listener: ListenerId, serial: u64);
}

/// The worker's own task. Ends with its arbiter, or when no order can come any more and no session is left.
pub(crate) async fn look_after(worker: Rc<Worker>, mut orders: mpsc::UnboundedReceiver<Order>, host: impl Host) {
    let mut sweep = pin!(tokio::time::sleep_until(Instant::now()));
    let mut spread = tokio::time::interval(SPREAD_TICK);
    spread.set_missed_tick_behavior(MissedTickBehavior::Delay);
    worker.is_looked_after.set(true);
    let mut delivery = worker.rooms.take_delivery();
    let mut delivers = false;
    // An order may come; a worker whose listeners are closed needs none but for its sessions.
    let (mut open, mut is_retired) = (true, false);
    let mut send_at = None;
    let mut asked = VecDeque::new();
    while (open && !is_retired) || worker.slots.len() > 0 || send_at.is_some() || !asked.is_empty() {
        let next_sweep = worker.clock.next_sweep();
        if let Some(at) = next_sweep.filter(|at| *at != sweep.deadline()) {
            sweep.as_mut().reset(at);
        }
        tokio::select! {
            order = orders.recv(), if open => match order {
                Some(Order::Start(admitted)) => host.start(admitted),
                Some(Order::Learn(lesson)) => host.learn(lesson),
                Some(Order::Forget { listener, serial }) => host.forget(listener, serial),
                Some(Order::ForgetCounts(listeners)) => worker.reports.forget(&listeners),
                Some(Order::Retire) => is_retired = true,
                Some(Order::Drain { over, goodbye }) => {
                    // What has come until now is answered: the reactor is asked for it first.
                    tokio::task::yield_now().await;
                    worker.drain.begin(over, &goodbye);
                    worker.drain_due();
                }
                Some(Order::Abort) => {
                    // However late the order is: whoever can end by itself has a turn to do so.
                    tokio::task::yield_now().await;
                    worker.abort_all();
                }
                Some(Order::EndTrace { slot, session }) => worker.send(slot, session, Commands::TRACE),
                Some(Order::Evict) => worker.evict().await,
                Some(Order::Answer { token, question }) => worker.take_question(token, question, &mut asked),
                None => open = false,
            },
            () = tokio::task::yield_now(), if !asked.is_empty() => worker.answer_on(&mut asked),
            () = delivery.wait(), if !delivers => delivers = worker.deliver(&mut delivery),
            () = tokio::task::yield_now(), if delivers => delivers = worker.deliver(&mut delivery),
            () = worker.attention.notified() => {
                worker.evict().await;
                if !worker.reports.is_empty() {
                    send_at.get_or_insert_with(|| Instant::now() + REPORT_DELAY);
                }
            }
            () = tokio::time::sleep_until(send_at.unwrap_or_else(Instant::now)), if send_at.is_some() => {
                send_at = None;
                worker.send_reports(None);
            }
            _ = spread.tick(), if worker.drain.is_spread() => worker.drain_due(),
            () = worker.clock.roused() => {}
            // Or it was roused at the very moment.
            () = &mut sweep, if next_sweep.is_some() => if worker.clock.next_sweep() == next_sweep {
                let last = worker.clock.tick();
                let mut slice = 0;
                while worker.sweep(slice, last) {
                    slice += 1;
                    tokio::task::yield_now().await;
                }
                worker.weigh().await;
                worker.clock.settle();
            }
        }
    }
    worker.is_looked_after.set(false);
}

thread_local! {
    /// The workers of sessions that were started without a server: one for each set of limits.
    static STANDALONE: RefCell<Vec<Weak<Worker>>> = const { RefCell::new(Vec::new()) };
}

/// Of a worker whose sessions come without a server.
pub(crate) struct NoHost;

impl Host for NoHost {
    fn start(&self, _: Admitted) {}

    fn learn(&self, _: Lesson) {}

    fn forget(&self, _: ListenerId, _: u64) {}
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
        actix_rt::spawn(look_after(Rc::clone(&worker), orders, NoHost));
        worker
    })
}
