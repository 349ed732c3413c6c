//! Memory: a store for several servers of one process, with faults that tests inject.
//!
//! It knows no time but tokio's: on the paused clock it does the same each time.
//! Not here: what it holds (`memory/engine`), what may fail (`memory/faults`).

mod engine;
mod faults;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::mpsc;

use self::engine::Engine;
pub use self::faults::{Calls, Fault};
use crate::cluster::{
    id::NodeId,
    store::{
        Change, Cursor, Held, Message, NamedRows, NodeRecord, RowPage, Store, StoreAnswer, StoreError, Subscription,
        Verdict, Want,
    },
};

/// Longest time that a call takes.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A store for several servers of one process, and for tests of what is written for a cluster. A clone is the same store,
/// reached by the same way; [`view`](Self::view) makes another way to it, whose faults are its own.
///
/// It forgets when it is dropped. Its leases run by tokio's clock, and so stand still while that is paused.
///
/// ```
/// use actix_lines::cluster::{
///     Store,
///     memory::{Fault, Memory},
/// };
///
/// # #[actix::main]
/// # async fn main() {
/// let a = Memory::new();
/// let b = a.view();
/// b.fail(Fault::Lost);
/// assert!(a.nodes().await.is_ok());
/// assert!(b.nodes().await.is_err());
/// b.heal();
/// assert!(b.nodes().await.is_ok());
/// assert_eq!(b.calls().nodes, 2);
/// # }
/// ```
#[derive(Clone)]
pub struct Memory {
    engine: Arc<Mutex<Engine>>,
    /// The number of its way.
    way: usize,
}

impl Memory {
    /// Makes an empty store.
    #[must_use]
    pub fn new() -> Self {
        let mut engine = Engine::default();
        let way = engine.add_way();
        Self { engine: Arc::new(Mutex::new(engine)), way }
    }

    /// Returns another way to the same store: one for each node, whose faults and counters are its own. It begins without faults.
    #[must_use]
    pub fn view(&self) -> Self {
        let way = self.lock().add_way();
        Self { engine: self.engine.clone(), way }
    }

    /// Begins a fault of this way, in place of the one before.
    pub fn fail(&self, fault: Fault) {
        self.lock().set_fault(self.way, fault);
    }

    /// Ends the fault of this way.
    pub fn heal(&self) {
        self.fail(Fault::None);
    }

    /// Forgets all leases, rows, shares and rates, as a store does whose writes were lost in a failover. Subscriptions go on.
    pub fn forget(&self) {
        self.lock().forget();
    }

    /// Forgets all, and ends all subscriptions, as a store that was killed and has started empty.
    pub fn restart(&self) {
        let mut engine = self.lock();
        engine.forget();
        engine.end_subscriptions(None);
    }

    /// Ends the lease of a node now, with all that is beneath it.
    pub fn end_lease(&self, node: &NodeId) {
        self.lock().unregister(node);
    }

    /// Ends the subscriptions that came by this way.
    pub fn end_subscriptions(&self) {
        self.lock().end_subscriptions(Some(self.way));
    }

    /// Returns the number of calls that came by this way.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.lock().way(self.way).calls
    }

    fn lock(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call, and does it, or does not, as the fault of this way says when it arrives.
    fn call<'a, T: Send + 'a>(
        &'a self,
        counter: fn(&mut Calls) -> &mut u64,
        effect: impl FnOnce(&mut Engine) -> Result<T, StoreError> + Send + 'a,
    ) -> StoreAnswer<'a, T> {
        Box::pin(async move {
            let fault = {
                let mut engine = self.lock();
                let way = engine.way_mut(self.way);
                *counter(&mut way.calls) += 1;
                way.fault
            };
            // A store is never asked and has answered within one turn.
            tokio::task::yield_now().await;
            let slow = StoreError::Slow { after: TIMEOUT };
            match fault {
                Fault::None | Fault::Deaf => effect(&mut self.lock()),
                Fault::Lost => Err(StoreError::Lost { reason: "a fault of a test".to_owned() }),
                Fault::Refusing => Err(StoreError::Refused { reason: "a fault of a test".to_owned() }),
                Fault::Hanging | Fault::Partitioned => {
                    tokio::time::sleep(TIMEOUT).await;
                    Err(slow)
                }
                Fault::Unanswered => {
                    // What it answers is lost; a subscription ends by the engine, whose lock must be free then.
                    let lost = effect(&mut self.lock());
                    drop(lost);
                    tokio::time::sleep(TIMEOUT).await;
                    Err(slow)
                }
                Fault::Slow(time) => {
                    let there = (time / 2).min(TIMEOUT);
                    tokio::time::sleep(there).await;
                    let answer = effect(&mut self.lock());
                    tokio::time::sleep(time.min(TIMEOUT) - there).await;
                    if time > TIMEOUT { Err(slow) } else { answer }
                }
            }
        })
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("way", &self.way).finish_non_exhaustive()
    }
}

impl Store for Memory {
    fn register<'a>(&'a self, node: &'a NodeId, change: &'a Change) -> StoreAnswer<'a, ()> {
        self.call(|calls| &mut calls.register, move |engine| engine.register(node, change))
    }

    fn unregister<'a>(&'a self, node: &'a NodeId) -> StoreAnswer<'a, ()> {
        self.call(
            |calls| &mut calls.unregister,
            move |engine| {
                engine.unregister(node);
                Ok(())
            },
        )
    }

    fn nodes(&self) -> StoreAnswer<'_, Vec<NodeRecord>> {
        self.call(|calls| &mut calls.nodes, |engine| Ok(engine.nodes()))
    }

    fn list<'a>(&'a self, node: &'a NodeId, after: Option<Cursor>) -> StoreAnswer<'a, RowPage> {
        self.call(|calls| &mut calls.list, move |engine| Ok(engine.list(node, after)))
    }

    fn lookup<'a>(&'a self, name: &'a str) -> StoreAnswer<'a, NamedRows> {
        self.call(|calls| &mut calls.lookup, move |engine| Ok(engine.lookup(name)))
    }

    fn publish<'a>(&'a self, channel: &'a str, bytes: Bytes) -> StoreAnswer<'a, u64> {
        self.call(|calls| &mut calls.publish, move |engine| Ok(engine.publish(channel, &bytes)))
    }

    fn subscribe(&self, to: mpsc::Sender<Message>) -> StoreAnswer<'_, Box<dyn Subscription>> {
        self.call(
            |calls| &mut calls.subscribe,
            move |engine| {
                let (number, dropped) = engine.subscribe(self.way, to);
                Ok(Box::new(Subscribed { memory: self.clone(), number, dropped }) as Box<dyn Subscription>)
            },
        )
    }

    fn acquire<'a>(&'a self, node: &'a NodeId, held: &'a Held, wants: &'a [Want]) -> StoreAnswer<'a, Vec<Verdict>> {
        self.call(|calls| &mut calls.acquire, move |engine| engine.acquire(node, held, wants))
    }

    fn release<'a>(&'a self, node: &'a NodeId, held: &'a Held) -> StoreAnswer<'a, ()> {
        self.call(|calls| &mut calls.release, move |engine| engine.acquire(node, held, &[]).map(drop))
    }
}

/// A subscription, by its number in the engine.
#[derive(Debug)]
struct Subscribed {
    memory: Memory,
    number: u64,
    dropped: Arc<AtomicU64>,
}

impl Subscription for Subscribed {
    fn add<'a>(&'a mut self, channels: &'a [String]) -> StoreAnswer<'a, ()> {
        let number = self.number;
        self.memory.call(|calls| &mut calls.subscribe, move |engine| engine.add_channels(number, channels))
    }

    fn remove<'a>(&'a mut self, channels: &'a [String]) -> StoreAnswer<'a, ()> {
        let number = self.number;
        self.memory.call(|calls| &mut calls.subscribe, move |engine| engine.remove_channels(number, channels))
    }

    fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.memory.lock().unsubscribe(self.number);
    }
}
