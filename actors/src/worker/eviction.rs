//! Eviction: who goes when the memory of all sessions together is spent.

use crate::{
    control::{
        budget::{self, Holder, Ranking, Sources, Weight},
        control::Control,
        orders::Order,
    },
    worker::{
        command::Commands,
        slot::{CHUNK, Slot},
        task::SWEEP_SLICE,
        worker::{Upstream, Worker},
    },
};

/// Sessions cut for want of memory before the others get a turn again.
pub(super) const CUTS_PER_SLICE: usize = 1024;

impl Worker {
    /// One session holds `after` bytes where it held `before`.
    pub(super) fn hold(&self, before: usize, after: usize) {
        let held = self.held.get() + after - before;
        self.held.set(held);
        let published = self.published.get();
        if held.abs_diff(published) < budget::STEP {
            return;
        }
        if let Some(upstream) = &self.upstream {
            self.published.set(held);
            upstream.control.ledger.budget.publish(published, held);
            if held > published && upstream.control.ledger.budget.excess() > 0 {
                self.reports_ready.notify_one();
            }
        }
    }

    /// Says exactly how much is held here.
    pub(super) fn publish(&self) {
        if let Some(upstream) = &self.upstream {
            let held = self.held.get();
            upstream.control.ledger.budget.publish(self.published.replace(held), held);
        }
    }

    /// Looks at the sessions of one slice for what they hold; false behind the last slice.
    pub(super) fn rank(&self, ranking: &mut Ranking, sources: &Sources, slice: usize) -> bool {
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
    pub(super) async fn rank_all(&self, control: &Control) {
        let mut ranking = Ranking::default();
        if self.held.get() > 0 {
            let sources = Sources::new(&control.ledger.books().limits.admission);
            let mut slice = 0;
            while self.rank(&mut ranking, &sources, slice) {
                slice += 1;
                tokio::task::yield_now().await;
            }
            ranking.finish();
        }
        control.ledger.budget.set_heaviest(self.index, ranking.heaviest());
        self.ranking.replace(ranking);
    }

    /// What every other worker has to know to leave it to the one with the heaviest source. Once a sweep.
    pub(super) async fn weigh(&self) {
        if let Some(Upstream { control, .. }) = &self.upstream
            && control.ledger.budget.has_limit()
        {
            self.publish();
            if !control.ledger.budget.is_short() {
                // To look at all sessions is for when it may be needed. What was seen before is not so any more.
                control.ledger.budget.set_heaviest(self.index, Weight::default());
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
    pub(super) async fn evict(&self) {
        let Some(Upstream { control, .. }) = &self.upstream else { return };
        while control.ledger.budget.excess() > 0 {
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
    pub(super) fn cut_heaviest(&self, control: &Control) -> bool {
        let mut cut = None;
        let mut goes_on = true;
        let mut leave_to = None;
        self.publish();
        {
            let mut ranking = self.ranking.borrow_mut();
            let mut slots = self.slots.borrow_mut();
            for _ in 0..CUTS_PER_SLICE {
                let excess = control.ledger.budget.excess();
                if excess == 0 || (ranking.is_worn() && !ranking.is_empty()) {
                    break;
                }
                let heaviest = ranking.heaviest();
                control.ledger.budget.set_heaviest(self.index, heaviest);
                leave_to = control.ledger.budget.heavier_than(heaviest, self.index);
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
                    slot.send(Commands::EVICT, &self.told);
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
        if let Some(worker) = leave_to {
            control.order_one(worker, Order::Evict);
        }
        goes_on
    }
}

#[cfg(test)]
mod tests {
    use crate::connection::Connection;
    use crate::connection::SessionId;
    use crate::control::control::Control;
    use crate::control::orders::Order;
    use crate::control::orders::WorkerHandle;
    use crate::control::supervisor::Unlaunched;
    use crate::limits::Limits;
    use crate::worker::clock::Standing;
    use crate::worker::command::Commands;
    use crate::worker::reports::Counts;
    use crate::worker::task::look_after;
    use crate::worker::worker::Upstream;
    use crate::worker::worker::Worker;
    use actix_rt::Arbiter;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::sync::mpsc;

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
        let supervisor = Unlaunched::new().address().recipient();
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
        slots.iter_mut().filter(|slot| slot.commands.contains(Commands::EVICT)).map(|slot| slot.id).collect()
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
            assert_eq!(control.ledger.budget.excess(), 0);
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
            while control.ledger.budget.excess() > 0 {
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
        assert_eq!(control.ledger.budget.excess(), 0);
        for _ in 0..20 {
            hold(&workers[0].0, "192.0.2.1:7", 100_000);
        }
        workers[0].0.publish();
        workers[0].0.evict().await;
        assert_eq!((control.ledger.budget.excess(), evicted(&workers[0].0).len()), (0, 10));
    }
}
