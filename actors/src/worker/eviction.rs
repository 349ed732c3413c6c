//! Eviction: cuts sessions when the memory budget is spent.
//!
//! Not here: the ranking of sources and the budget (`control/budget`), the bytes that one session holds (`held`).

use crate::{
    control::budget::{Holder, Ranking, Sources, Weight},
    log_limit::Kind,
    plural::Counted,
    worker::{command::Commands, upstream::Upstream, worker::Worker},
};

const EVICTED: Kind = Kind("session evicted", "sessions evicted");

/// Sessions that are evicted before the others get a turn again.
const EVICTIONS_PER_SLICE: usize = 1024;

impl Worker {
    /// Ranks the sessions of one slice by what they hold. False behind the last slice.
    fn rank(&self, ranking: &mut Ranking, sources: &Sources, slice: usize) -> bool {
        let mut slots = self.slots.borrow_mut();
        for (index, slot) in slots.slice(slice) {
            #[cfg(test)]
            self.memory.looked_at.set(self.memory.looked_at.get() + 1);
            if let Some(slot) = slot.filter(|slot| slot.memory.bytes() > 0) {
                let key = sources.key(slot.id, slot.peer());
                ranking.add(key, Holder { held: slot.memory.bytes(), slot: index, id: slot.id });
            }
        }
        slots.has_more(slice)
    }

    /// Ranks all sessions by what they hold, and publishes the weight of the heaviest source.
    async fn rank_all(&self, upstream: &Upstream) {
        let mut ranking = Ranking::default();
        if self.memory.held() > 0 {
            let sources = upstream.sources();
            let mut slice = 0;
            while self.rank(&mut ranking, &sources, slice) {
                slice += 1;
                tokio::task::yield_now().await;
            }
            ranking.finish();
        }
        upstream.budget().set_heaviest(self.index, ranking.heaviest());
        self.memory.ranking.replace(ranking);
    }

    /// Publishes what every other worker has to know to leave it to the one with the heaviest source. Once a sweep.
    pub(super) async fn weigh(&self) {
        if let Some(upstream) = &self.upstream
            && upstream.budget().has_limit()
        {
            self.memory.publish(upstream.budget());
            if !upstream.budget().is_short() {
                // To look at all sessions is for when it may be needed. What was seen before is not so any more, and by the time
                // it is needed this worker may sleep.
                let is_any = self.memory.held() > 0;
                upstream.budget().set_heaviest(self.index, if is_any { Weight::UNKNOWN } else { Weight::default() });
                return;
            }
            self.rank_all(upstream).await;
            self.evict().await;
            // Not needed before memory is short again, and then it is looked at anew.
            self.memory.ranking.take();
        }
    }

    /// Evicts sessions until all are within the budget again, the largest of the heaviest source first; those of another
    /// worker, if they weigh more.
    pub(super) async fn evict(&self) {
        let Some(upstream) = &self.upstream else { return };
        while upstream.budget().excess() > 0 {
            if self.memory.ranking.borrow().is_worn() {
                self.rank_all(upstream).await;
            }
            if !self.evict_heaviest(upstream) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Evicts some of the sessions that hold the most. False if there is nothing more to be done here.
    fn evict_heaviest(&self, upstream: &Upstream) -> bool {
        let budget = upstream.budget();
        let mut evicted = None;
        let mut goes_on = true;
        let mut leave_to = None;
        self.memory.publish(budget);
        {
            let mut ranking = self.memory.ranking.borrow_mut();
            let mut slots = self.slots.borrow_mut();
            for _ in 0..EVICTIONS_PER_SLICE {
                let excess = budget.excess();
                if excess == 0 || (ranking.is_worn() && !ranking.is_empty()) {
                    break;
                }
                let heaviest = ranking.heaviest();
                budget.set_heaviest(self.index, heaviest);
                leave_to = budget.heavier_than(heaviest, self.index);
                if leave_to.is_some() || heaviest.source == 0 {
                    goes_on = false;
                    break;
                }
                let held = |holder: Holder| {
                    let slot = slots.get_by_id(holder.slot, holder.id);
                    slot.map_or(0, |slot| slot.memory.bytes())
                };
                let Some(holder) = ranking.take(held) else { continue };
                if let Some(mut slot) = slots.get(holder.slot) {
                    slot.memory.evict();
                    slot.send(Commands::EVICT);
                }
                // It gives that back in its next turn. Counted as given back now, so that nobody else has to go for it.
                self.memory.book(holder.held, 0);
                self.memory.publish(budget);
                self.memory.evictions.count();
                evicted = Some((holder, excess));
            }
        }
        if let Some((Holder { id, held, .. }, excess)) = evicted
            && let Some(events) = self.memory.evictions.due(&EVICTED, "")
        {
            let (bytes, more) = (Counted(held, "byte"), Counted(excess, "byte"));
            log::warn!(
                session = id.get(), held_bytes = held, count = events;
                "session {id}: evicted with the {bytes} that it holds, because its source holds the most and all \
                 together hold {more} more than the memory budget{events}"
            );
        }
        if let Some(worker) = leave_to {
            upstream.order_eviction(worker);
        }
        goes_on
    }
}

#[cfg(test)]
mod tests {
    use std::{rc::Rc, sync::Arc, time::Duration};

    use actix_rt::Arbiter;
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        address::Address,
        connection::{Connection, SessionId},
        control::{orders::Order, supervisor::Unlaunched, ways::Control, workers::UnlaunchedWorker},
        limits::Limits,
        worker::{
            clock::Standing,
            reports::Counts,
            task::{NoHost, look_after},
        },
    };

    type WithOrders = (Rc<Worker>, mpsc::UnboundedReceiver<Order>);

    /// Workers of a server that has nothing else, and the orders that they are given.
    fn workers(count: usize, budget: usize) -> (Arc<Control>, Vec<WithOrders>) {
        let limits = Limits::builder().memory_budget(Some(budget)).build().unwrap();
        let session = limits.session;
        let supervisor = Unlaunched::new().address().recipient();
        let control = Control::new(limits, count, vec![], Arbiter::current(), supervisor);
        let workers = control.add_workers().into_iter().map(|UnlaunchedWorker { index, thread, load, orders }| {
            let upstream = Upstream { control: Arc::clone(&control), load, thread, has_own_limits: false };
            (Worker::new(index, session, Some(upstream)), orders)
        });
        let workers = workers.collect();
        (control, workers)
    }

    /// A session of `peer` that holds so much.
    fn hold(worker: &Worker, peer: &str, memory: usize) -> SessionId {
        let peer = Address::Ip(peer.parse().unwrap());
        let connection = Connection::between(peer, Address::Memory);
        let index = worker.open(&connection, None);
        worker.end_turn(index, &Counts::default(), 0, memory, Standing::default());
        connection.id
    }

    fn publish(worker: &Worker) {
        worker.memory.publish(worker.upstream.as_ref().unwrap().budget());
    }

    fn evicted(worker: &Worker) -> Vec<SessionId> {
        let mut slots = worker.slots.borrow_mut();
        slots.iter_mut().filter(|slot| slot.has(Commands::EVICT)).map(|slot| slot.id).collect()
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
            let all = worker.memory.held();
            worker.evict().await;
            assert!(
                worker.memory.held() <= BUDGET && worker.memory.held() > BUDGET - 1007,
                "{} left",
                worker.memory.held()
            );
            assert_eq!(control.ledger.budget.excess(), 0);
            let gone = evicted(worker).len();
            assert!(gone * 1000 <= all - worker.memory.held() && gone > 18_900, "{gone}");
            let looked_at = worker.memory.looked_at.get();
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
            publish(worker);
            worker.evict().await;
        }
        assert_eq!(evicted(worker).len(), 1000);
        let looked_at = worker.memory.looked_at.get();
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
            publish(&worker);
            known.push(Rc::clone(&worker));
            actix_rt::spawn(look_after(worker, orders, NoHost));
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
        let looked_at: usize = known.iter().map(|worker| worker.memory.looked_at.get()).sum();
        assert!(looked_at < 100 * 601, "{looked_at} slots looked at");
    }

    #[actix::test]
    async fn a_worker_that_sleeps_weighs_its_sessions_when_another_has_to_evict() {
        tokio::time::pause();
        let (control, workers) = workers(3, 2 << 20);
        let known: Vec<_> = workers.iter().map(|(worker, _)| Rc::clone(worker)).collect();
        for (worker, orders) in workers {
            actix_rt::spawn(look_after(worker, orders, NoHost));
        }
        let [worker, other, third] = [0, 1, 2].map(|index| &known[index]);
        hold(worker, "192.0.2.1:7", 100_000);
        let heavy = hold(worker, "192.0.2.2:7", 900_000);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(worker.sweeps(), 1);
        hold(third, "192.0.2.4:7", 500_000);
        for _ in 0..10 {
            hold(other, "192.0.2.3:7", 70_000);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(control.ledger.budget.excess(), 0);
        assert_eq!([worker, other, third].map(|worker| evicted(worker)), [vec![heavy], vec![], vec![]]);
    }

    #[actix::test]
    async fn a_worker_that_is_no_more_is_not_left_to_cut_anybody() {
        let (control, mut workers) = workers(2, 1 << 20);
        hold(&workers[1].0, "192.0.2.2:7", 3_000_000);
        publish(&workers[1].0);
        let other = Rc::clone(&workers[1].0);
        other.rank_all(other.upstream.as_ref().unwrap()).await;
        drop(other);
        workers.truncate(1);
        assert_eq!(control.ledger.budget.excess(), 0);
        for _ in 0..20 {
            hold(&workers[0].0, "192.0.2.1:7", 100_000);
        }
        publish(&workers[0].0);
        workers[0].0.evict().await;
        assert_eq!((control.ledger.budget.excess(), evicted(&workers[0].0).len()), (0, 10));
    }
}
