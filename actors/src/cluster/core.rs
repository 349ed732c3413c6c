//! Core: what the parts of a node share: its settings, its store, its life, its counters.
//!
//! Passive. Every call to the store goes through here, so that it is bounded in time, counted, and a loss is found out once.
//! Not here: the parts (`agent` starts them), what users see of it (`builder`).

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, timeout},
};

use crate::{
    cluster::{
        answers::Asks,
        channels::Channels,
        health::Pulse,
        id::{NodeId, NodeName},
        kicks::Kicks,
        ledger::Ledger,
        rooms::table::Rooms,
        stats::{ClusterStats, Counts},
        store::{
            Change, Cursor, Held, Message, NamedRows, NodeRecord, RowPage, Store, StoreError, Subscription, Verdict,
            Want,
        },
    },
    connect::backoff::Backoff,
    server::handle::ServerHandle,
};

/// The waits between two calls to a store that is lost: with a call of 1 s that is under way and gets no answer, it is found at
/// most 2 s after its return; and many nodes that have lost the same store do not all call at once.
pub(crate) const BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(100), factor: 2, max: Duration::from_secs(1) };

/// Most shares of a life that begins within the time of one call.
const FEW_SHARES: usize = 1000;

/// Settings of a node.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) name: NodeName,
    pub(crate) about: String,
    pub(crate) lease: Duration,
    /// The longest wait for an answer of the store, whatever its engine thinks of it.
    pub(crate) call_timeout: Duration,
    /// The longest wait for the answers of other nodes.
    pub(crate) ask_timeout: Duration,
    /// The time that sessions have to end, once a kick over nodes has told them.
    pub(crate) kick_timeout: Duration,
}

/// A node of a cluster.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) settings: Settings,
    /// The server that is the node; set before any part runs.
    pub(crate) server: OnceLock<ServerHandle>,
    /// There is a server that is the node, or is about to be.
    pub(crate) is_taken: AtomicBool,
    /// The node's life while it holds its lease, for whoever waits for it to begin or end. [`Core::life`] is exact.
    pub(crate) life: watch::Sender<Option<NodeId>>,
    pub(crate) hub: Channels,
    pub(crate) health: Pulse,
    pub(crate) rooms: Rooms,
    pub(crate) counts: Counts,
    pub(crate) asks: Asks,
    pub(crate) kicks: Kicks,
    pub(crate) ledger: Arc<Ledger>,
    lease: Mutex<Option<Lease>>,
    /// The lease is to be looked at: it may be over, or the store lost.
    look: Notify,
    /// The store says of the node's life that live sessions lack their rows.
    pub(crate) is_partial: AtomicBool,
    /// Another node has this one's name, and that was said.
    pub(crate) has_namesake: AtomicBool,
    /// Lives that the store may have entries of.
    traces: Mutex<Vec<NodeId>>,
}

/// A lease that the node holds, or has held until now.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    id: NodeId,
    /// When the renewal that holds was sent, by the node's own monotonic clock: that of the store may have begun later, but
    /// not earlier.
    pub(crate) sent: Instant,
    /// It is over from then on, whatever the store says.
    pub(crate) until: Instant,
    /// Why it is over before its time, if it is.
    pub(crate) over: Option<&'static str>,
    /// Another call has failed in a way that the next renewal may fail, too.
    pub(crate) is_doubtful: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    pub(crate) fn new(store: Arc<dyn Store>, settings: Settings) -> Self {
        Self {
            store,
            settings,
            server: OnceLock::new(),
            is_taken: AtomicBool::new(false),
            life: watch::Sender::new(None),
            hub: Channels::default(),
            health: Pulse::default(),
            rooms: Rooms::default(),
            counts: Counts::default(),
            asks: Asks::default(),
            kicks: Kicks::default(),
            ledger: Arc::default(),
            lease: Mutex::default(),
            look: Notify::new(),
            is_partial: AtomicBool::new(false),
            has_namesake: AtomicBool::new(false),
            traces: Mutex::default(),
        }
    }

    /// Returns the node's life, if it holds its lease now: its own clock decides, so that a process that was stopped for
    /// longer claims nothing.
    pub(crate) fn life(&self) -> Option<NodeId> {
        self.lease().filter(|lease| Instant::now() < lease.until).map(|lease| lease.id)
    }

    /// Returns the control channel of a life of a node.
    pub(crate) fn control_channel(id: &NodeId) -> String {
        format!("c:{id}")
    }

    pub(crate) fn stats(&self) -> ClusterStats {
        let left = self.lease().map(|lease| lease.until.saturating_duration_since(Instant::now()));
        let left = left.filter(|left| !left.is_zero());
        let stats = self.counts.stats(self.health.now(), self.life(), left, self.rooms.counts());
        ClusterStats { shares_untold: self.ledger.untold(), entries_unknown: self.store.unknown(), ..stats }
    }

    /// Waits for a call, not longer than calls may take, and counts it.
    async fn call<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.call_within(self.settings.call_timeout, call).await
    }

    async fn call_within<T>(
        &self,
        after: Duration,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let sent = Instant::now();
        let result = timeout(after, call).await.unwrap_or(Err(StoreError::Slow { after }));
        self.counts.book(sent, result.as_ref().err());
        match &result {
            Ok(_) | Err(StoreError::Fenced | StoreError::Late) => {}
            Err(_) => self.doubt(),
        }
        result
    }

    /// As [`call`](Self::call), for a call in the name of a life: that ends if its lease is over. If it is so by the node's own
    /// clock, nobody is asked.
    async fn call_as<T>(
        &self,
        id: &NodeId,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if self.life().as_ref() != Some(id) {
            return Err(StoreError::Fenced);
        }
        let result = self.call(call).await;
        if let Err(StoreError::Fenced) = result {
            self.fence(id, "the store does not know its lease");
        }
        result
    }

    /// Begins a life: [`Store::register`]. With many shares it may take as long as a lease: one that takes longer is over.
    pub(crate) async fn begin(&self, id: &NodeId, change: &Change) -> Result<(), StoreError> {
        let shares = change.begins.as_ref().map_or(0, |begins| begins.shares.len());
        let after = if shares > FEW_SHARES { self.settings.lease } else { self.settings.call_timeout };
        self.call_within(after, self.store.register(id, change)).await
    }

    /// Renews the lease of a life, and writes rows beneath it: [`Store::register`].
    pub(crate) async fn register(&self, id: &NodeId, change: &Change) -> Result<(), StoreError> {
        let sent = Instant::now();
        self.call_as(id, self.store.register(id, change)).await?;
        self.renewed(id, sent);
        Ok(())
    }

    /// [`Store::unregister`].
    pub(crate) async fn unregister(&self, id: &NodeId) -> Result<(), StoreError> {
        self.call(self.store.unregister(id)).await
    }

    /// [`Store::nodes`].
    pub(crate) async fn nodes(&self) -> Result<Vec<NodeRecord>, StoreError> {
        self.call(self.store.nodes()).await
    }

    /// [`Store::list`].
    pub(crate) async fn list(&self, node: &NodeId, after: Option<Cursor>) -> Result<RowPage, StoreError> {
        self.call(self.store.list(node, after)).await
    }

    /// [`Store::lookup`].
    pub(crate) async fn lookup(&self, name: &str) -> Result<NamedRows, StoreError> {
        self.call(self.store.lookup(name)).await
    }

    /// [`Store::publish`].
    pub(crate) async fn publish(&self, channel: &str, bytes: Bytes) -> Result<u64, StoreError> {
        self.call(self.store.publish(channel, bytes)).await
    }

    /// [`Store::subscribe`]: for the hub alone, others [listen](Channels::listen) there.
    pub(crate) async fn subscribe(&self, to: mpsc::Sender<Message>) -> Result<Box<dyn Subscription>, StoreError> {
        self.call(self.store.subscribe(to)).await
    }

    /// [`Subscription::add`].
    pub(crate) async fn add(&self, subscription: &mut dyn Subscription, channels: &[String]) -> Result<(), StoreError> {
        self.call(subscription.add(channels)).await
    }

    /// [`Subscription::remove`].
    pub(crate) async fn remove(
        &self,
        subscription: &mut dyn Subscription,
        channels: &[String],
    ) -> Result<(), StoreError> {
        self.call(subscription.remove(channels)).await
    }

    /// [`Store::acquire`], in the name of a life.
    pub(crate) async fn acquire(&self, id: &NodeId, held: &Held, wants: &[Want]) -> Result<Vec<Verdict>, StoreError> {
        self.call_as(id, self.store.acquire(id, held, wants)).await
    }

    /// The store may be lost: the lease's renewal finds out.
    fn doubt(&self) {
        if let Some(lease) = &mut *lock(&self.lease) {
            lease.is_doubtful = true;
        }
        self.look.notify_one();
    }

    /// Ends the lease of this life, if it is not over, for a reason that the log says.
    pub(crate) fn fence(&self, id: &NodeId, why: &'static str) {
        if let Some(lease) = lock(&self.lease).as_mut().filter(|lease| lease.id == *id) {
            lease.until = lease.until.min(Instant::now());
            lease.over = Some(why);
        }
        self.look.notify_one();
    }

    /// A renewal of a lease was answered. One that is over by the node's own clock stays so: whoever has seen that went by it.
    fn renewed(&self, id: &NodeId, sent: Instant) {
        if let Some(lease) = lock(&self.lease).as_mut().filter(|lease| lease.id == *id)
            && Instant::now() < lease.until
        {
            lease.sent = lease.sent.max(sent);
            lease.until = lease.until.max(sent + self.settings.lease);
            lease.is_doubtful = false;
        }
    }

    /// A life has begun by a call that was sent then. Returns false if its lease is over already.
    pub(crate) fn begin_life(&self, id: &NodeId, sent: Instant) -> bool {
        let until = sent + self.settings.lease;
        if Instant::now() >= until {
            return false;
        }
        *lock(&self.lease) = Some(Lease { id: id.clone(), sent, until, over: None, is_doubtful: false });
        self.counts.lives.one();
        self.life.send_replace(Some(id.clone()));
        true
    }

    /// The node's life is over.
    pub(crate) fn end_life(&self) {
        *lock(&self.lease) = None;
        self.life.send_replace(None);
    }

    /// Returns the lease, as long as its life has not [ended](Self::end_life).
    pub(crate) fn lease(&self) -> Option<Lease> {
        lock(&self.lease).clone()
    }

    /// Waits until the lease is to be looked at before its time.
    pub(crate) async fn look_at_lease(&self) {
        self.look.notified().await;
    }

    /// From now on the store may have entries of this life.
    pub(crate) fn add_trace(&self, id: NodeId) {
        lock(&self.traces).push(id);
    }

    /// The store has no entries of this life any more.
    pub(crate) fn remove_trace(&self, id: &NodeId) {
        lock(&self.traces).retain(|trace| trace != id);
    }

    /// Returns the lives that the store may have entries of.
    pub(crate) fn traces(&self) -> Vec<NodeId> {
        lock(&self.traces).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{builder::Cluster, memory::Memory};

    fn core() -> Arc<Core> {
        tokio::time::pause();
        Cluster::builder(Memory::new()).node("a").build().unwrap().core
    }

    fn id(incarnation: u32) -> NodeId {
        NodeId { name: "a".parse().unwrap(), incarnation }
    }

    #[actix::test]
    async fn a_life_is_over_a_lease_after_its_last_renewal_was_sent_by_the_nodes_own_clock() {
        let (core, lease) = (core(), Cluster::DEFAULT_LEASE);
        let moment = Duration::from_millis(1);
        assert!(core.begin_life(&id(1), Instant::now()));
        tokio::time::advance(lease - moment).await;
        assert_eq!(core.life(), Some(id(1)));
        core.renewed(&id(1), Instant::now() - moment);
        tokio::time::advance(lease - 2 * moment).await;
        assert_eq!(core.life(), Some(id(1)));
        tokio::time::advance(moment).await;
        assert_eq!((core.life(), core.stats().lease_left), (None, None));
        // Whoever has seen that went by it.
        core.renewed(&id(1), Instant::now());
        assert_eq!(core.life(), None);
        // One that took a lease to begin has none.
        assert!(!core.begin_life(&id(2), Instant::now() - lease));
        assert!(core.begin_life(&id(2), Instant::now() - lease + moment));
        assert_eq!((core.life(), core.stats().lives), (Some(id(2)), 2));
    }

    #[actix::test]
    async fn what_comes_late_of_a_former_life_is_nothing_to_the_next_one() {
        let (core, lease) = (core(), Cluster::DEFAULT_LEASE);
        assert!(core.begin_life(&id(1), Instant::now()));
        core.end_life();
        assert!(core.begin_life(&id(2), Instant::now()));
        core.fence(&id(1), "a test");
        assert_eq!(core.life(), Some(id(2)));
        tokio::time::advance(lease / 2).await;
        core.renewed(&id(1), Instant::now());
        tokio::time::advance(lease / 2).await;
        assert_eq!(core.life(), None);
        // The store may have entries of each until it has said that it has none.
        core.add_trace(id(1));
        core.add_trace(id(2));
        core.remove_trace(&id(1));
        assert_eq!(core.traces(), [id(2)]);
    }
}
