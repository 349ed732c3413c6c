//! Bent: a way to a store that fails, dawdles or panics in some calls only.
// Each test file is a program of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actix_lines::cluster::{
    Change, Cursor, Held, Message, NamedRows, NodeId, NodeRecord, RowPage, Store, StoreAnswer, StoreError,
    Subscription, Verdict, Want, memory::Memory,
};
use bytes::Bytes;
use tokio::{sync::mpsc, time::sleep};

/// What becomes of a call.
#[derive(Clone, Debug)]
pub enum Bend {
    /// It is done after so long.
    Late(Duration),
    /// It fails at once.
    Fail(StoreError),
    /// It panics.
    Panic,
}

/// A way to a store in memory, of which calls with some names are bent: `register`, `add` and so on, as the traits call them;
/// `begin` is the `register` of a life that begins.
#[derive(Clone)]
pub struct Bent {
    store: Memory,
    bends: Arc<Mutex<Vec<(&'static str, Bend)>>>,
}

impl fmt::Debug for Bent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bent")
    }
}

impl Bent {
    pub fn new(store: &Memory) -> Self {
        Self { store: store.view(), bends: Arc::default() }
    }

    /// Bends the calls with this name from now on.
    pub fn bend(&self, call: &'static str, bend: Bend) {
        self.bends.lock().unwrap_or_else(PoisonError::into_inner).push((call, bend));
    }

    /// Bends no call any more.
    pub fn straighten(&self) {
        self.bends.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub fn calls(&self) -> actix_lines::cluster::memory::Calls {
        self.store.calls()
    }

    fn call<'a, T: 'a>(&self, name: &'static str, answer: StoreAnswer<'a, T>) -> StoreAnswer<'a, T> {
        let bends = self.bends.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let bend = bends.into_iter().find_map(|(bent, bend)| (bent == name).then_some(bend));
        Box::pin(async move {
            match bend {
                None => {}
                Some(Bend::Late(time)) => sleep(time).await,
                Some(Bend::Fail(error)) => return Err(error),
                Some(Bend::Panic) => panic!("a fault of a test: {name}"),
            }
            answer.await
        })
    }
}

impl Store for Bent {
    fn register<'a>(&'a self, node: &'a NodeId, change: &'a Change) -> StoreAnswer<'a, ()> {
        let name = if change.begins.is_some() { "begin" } else { "register" };
        self.call(name, self.store.register(node, change))
    }

    fn unregister<'a>(&'a self, node: &'a NodeId) -> StoreAnswer<'a, ()> {
        self.call("unregister", self.store.unregister(node))
    }

    fn nodes(&self) -> StoreAnswer<'_, Vec<NodeRecord>> {
        self.call("nodes", self.store.nodes())
    }

    fn list<'a>(&'a self, node: &'a NodeId, after: Option<Cursor>) -> StoreAnswer<'a, RowPage> {
        self.call("list", self.store.list(node, after))
    }

    fn lookup<'a>(&'a self, name: &'a str) -> StoreAnswer<'a, NamedRows> {
        self.call("lookup", self.store.lookup(name))
    }

    fn publish<'a>(&'a self, channel: &'a str, bytes: Bytes) -> StoreAnswer<'a, u64> {
        self.call("publish", self.store.publish(channel, bytes))
    }

    fn subscribe(&self, to: mpsc::Sender<Message>) -> StoreAnswer<'_, Box<dyn Subscription>> {
        let subscription = self.call("subscribe", self.store.subscribe(to));
        Box::pin(async move {
            let subscription = subscription.await?;
            Ok(Box::new(BentSubscription { subscription, bent: self.clone() }) as Box<dyn Subscription>)
        })
    }

    fn acquire<'a>(&'a self, node: &'a NodeId, held: &'a Held, wants: &'a [Want]) -> StoreAnswer<'a, Vec<Verdict>> {
        self.call("acquire", self.store.acquire(node, held, wants))
    }
}

#[derive(Debug)]
struct BentSubscription {
    subscription: Box<dyn Subscription>,
    bent: Bent,
}

impl Subscription for BentSubscription {
    fn add<'a>(&'a mut self, channels: &'a [String]) -> StoreAnswer<'a, ()> {
        self.bent.call("add", self.subscription.add(channels))
    }

    fn remove<'a>(&'a mut self, channels: &'a [String]) -> StoreAnswer<'a, ()> {
        self.bent.call("remove", self.subscription.remove(channels))
    }
}
