//! Engine: what a store in memory holds, and what its calls do to it.
//!
//! Each call first forgets the nodes whose leases are over, so all that is found is alive.
//! Not here: faults (`memory`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::Instant,
};

use crate::cluster::{
    id::NodeId,
    memory::faults::{Calls, Fault},
    store::{Change, Cursor, Held, Message, NamedRows, NodeRecord, RateLimit, Row, RowPage, StoreError, Verdict, Want},
};

/// Most rows on a page.
const PAGE: usize = 2000;
/// No lease lasts longer: a clock that cannot tell the end of one would end it at once.
const LONGEST_LEASE: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// A token. Unit: what comes in within a nanosecond at one token a second, so that nothing is rounded.
const TOKEN: u128 = 1_000_000_000;

#[derive(Default)]
pub(super) struct Engine {
    ways: Vec<Way>,
    lives: BTreeMap<NodeId, Life>,
    rates: HashMap<String, Bucket>,
    /// With more buckets than this, those that are full are forgotten.
    most_rates: usize,
    subscribers: BTreeMap<u64, Subscriber>,
    last_subscriber: u64,
}

#[derive(Default)]
pub(super) struct Way {
    pub(super) fault: Fault,
    pub(super) calls: Calls,
}

/// A node under its lease.
struct Life {
    about: String,
    ends: Instant,
    is_partial: bool,
    rows: BTreeMap<u64, Row>,
    names: HashMap<String, BTreeSet<u64>>,
    held: HashMap<String, u64>,
    /// Number of the last call that set what is held.
    serial: u64,
}

/// Tokens that all nodes share.
struct Bucket {
    /// What was missing until it was full. Unit: `TOKEN` for each.
    missing: u128,
    /// When that was so.
    since: Instant,
    per_second: u32,
}

impl Bucket {
    fn missing(&self, now: Instant) -> u128 {
        let came = now.duration_since(self.since).as_nanos() * u128::from(self.per_second);
        self.missing.saturating_sub(came)
    }
}

struct Subscriber {
    way: usize,
    to: mpsc::Sender<Message>,
    channels: HashSet<String>,
    /// Messages that it had no room for.
    dropped: Arc<AtomicU64>,
}

impl Life {
    fn put(&mut self, row: &Row) {
        self.remove(row.session);
        if let Some(name) = &row.name {
            self.names.entry(name.clone()).or_default().insert(row.session);
        }
        self.rows.insert(row.session, row.clone());
    }

    fn remove(&mut self, session: u64) {
        let Some(Row { name: Some(name), .. }) = self.rows.remove(&session) else { return };
        if let Some(sessions) = self.names.get_mut(&name) {
            sessions.remove(&session);
            if sessions.is_empty() {
                self.names.remove(&name);
            }
        }
    }

    fn hold(&mut self, resource: &str, count: u64) {
        if count == 0 {
            self.held.remove(resource);
        } else if let Some(held) = self.held.get_mut(resource) {
            *held = count;
        } else {
            self.held.insert(resource.to_owned(), count);
        }
    }

    fn held(&self, resource: &str) -> u64 {
        self.held.get(resource).copied().unwrap_or(0)
    }
}

impl Engine {
    pub(super) fn add_way(&mut self) -> usize {
        self.ways.push(Way::default());
        self.ways.len() - 1
    }

    pub(super) fn way(&self, way: usize) -> &Way {
        &self.ways[way]
    }

    pub(super) fn way_mut(&mut self, way: usize) -> &mut Way {
        &mut self.ways[way]
    }

    pub(super) fn set_fault(&mut self, way: usize, fault: Fault) {
        self.ways[way].fault = fault;
        if fault == Fault::Lost {
            self.end_subscriptions(Some(way));
        }
    }

    pub(super) fn forget(&mut self) {
        self.lives.clear();
        self.rates.clear();
    }

    /// Ends those of one way, or all.
    pub(super) fn end_subscriptions(&mut self, of: Option<usize>) {
        self.subscribers.retain(|_, subscriber| of.is_some_and(|way| subscriber.way != way));
    }

    fn bury(&mut self) {
        let now = Instant::now();
        self.lives.retain(|_, life| life.ends > now);
    }

    pub(super) fn register(&mut self, node: &NodeId, change: &Change) -> Result<(), StoreError> {
        self.bury();
        let ends = Instant::now() + change.lease.min(LONGEST_LEASE);
        if let Some(begin) = &change.begins {
            let about = begin.about.clone();
            let (rows, names, held) = (BTreeMap::new(), HashMap::new(), HashMap::new());
            let mut life = Life { about, ends, is_partial: false, rows, names, held, serial: 0 };
            for share in &begin.shares {
                life.hold(&share.resource, share.count);
            }
            self.lives.insert(node.clone(), life);
        }
        let life = self.lives.get_mut(node).ok_or(StoreError::Fenced)?;
        life.ends = ends;
        life.is_partial = change.is_partial.unwrap_or(life.is_partial);
        change.put.iter().for_each(|row| life.put(row));
        change.remove.iter().for_each(|session| life.remove(*session));
        Ok(())
    }

    pub(super) fn unregister(&mut self, node: &NodeId) {
        self.lives.remove(node);
    }

    pub(super) fn nodes(&mut self) -> Vec<NodeRecord> {
        self.bury();
        let now = Instant::now();
        let record = |(id, life): (&NodeId, &Life)| NodeRecord {
            id: id.clone(),
            about: life.about.clone(),
            sessions: life.rows.len() as u64,
            lease_left: life.ends - now,
        };
        self.lives.iter().map(record).collect()
    }

    pub(super) fn list(&mut self, node: &NodeId, after: Option<Cursor>) -> RowPage {
        self.bury();
        let Some(life) = self.lives.get(node) else { return RowPage::default() };
        let begin = after.map_or(Bound::Unbounded, |Cursor(session)| Bound::Excluded(session));
        let mut rest = life.rows.range((begin, Bound::Unbounded));
        let rows: Vec<_> = rest.by_ref().take(PAGE).map(|(_, row)| row.clone()).collect();
        let next = rest.next().and(rows.last()).map(|row| Cursor(row.session));
        RowPage { rows, is_partial: life.is_partial, unknown: 0, next }
    }

    pub(super) fn lookup(&mut self, name: &str) -> NamedRows {
        self.bury();
        let mut found = NamedRows::default();
        for (id, life) in &self.lives {
            let sessions = life.names.get(name).into_iter().flatten();
            found.rows.extend(sessions.filter_map(|session| Some((id.clone(), life.rows.get(session)?.clone()))));
            found.partial.extend(life.is_partial.then(|| id.clone()));
        }
        found
    }

    pub(super) fn publish(&mut self, channel: &str, bytes: &Bytes) -> u64 {
        self.subscribers.retain(|_, subscriber| !subscriber.to.is_closed());
        let message = Message { channel: Arc::from(channel), bytes: bytes.clone() };
        let mut receivers = 0;
        for subscriber in self.subscribers.values().filter(|subscriber| subscriber.channels.contains(channel)) {
            receivers += 1;
            if !matches!(self.ways[subscriber.way].fault, Fault::Deaf | Fault::Partitioned)
                && let Err(TrySendError::Full(_)) = subscriber.to.try_send(message.clone())
            {
                subscriber.dropped.fetch_add(1, Relaxed);
            }
        }
        receivers
    }

    /// Returns its number, and the count of what is lost for it.
    pub(super) fn subscribe(&mut self, way: usize, to: mpsc::Sender<Message>) -> (u64, Arc<AtomicU64>) {
        self.last_subscriber += 1;
        let dropped = Arc::<AtomicU64>::default();
        let subscriber = Subscriber { way, to, channels: HashSet::new(), dropped: Arc::clone(&dropped) };
        self.subscribers.insert(self.last_subscriber, subscriber);
        (self.last_subscriber, dropped)
    }

    pub(super) fn unsubscribe(&mut self, number: u64) {
        self.subscribers.remove(&number);
    }

    fn subscriber(&mut self, number: u64) -> Result<&mut Subscriber, StoreError> {
        let lost = || StoreError::Lost { reason: "the subscription has ended".to_owned() };
        self.subscribers.get_mut(&number).ok_or_else(lost)
    }

    pub(super) fn add_channels(&mut self, number: u64, channels: &[String]) -> Result<(), StoreError> {
        self.subscriber(number)?.channels.extend(channels.iter().cloned());
        Ok(())
    }

    pub(super) fn remove_channels(&mut self, number: u64, channels: &[String]) -> Result<(), StoreError> {
        let subscriber = self.subscriber(number)?;
        channels.iter().for_each(|channel| {
            subscriber.channels.remove(channel);
        });
        Ok(())
    }

    pub(super) fn acquire(&mut self, node: &NodeId, held: &Held, wants: &[Want]) -> Result<Vec<Verdict>, StoreError> {
        self.bury();
        let life = self.lives.get_mut(node).ok_or(StoreError::Fenced)?;
        if held.serial <= life.serial {
            return Err(StoreError::Late);
        }
        life.serial = held.serial;
        held.counts.iter().for_each(|share| life.hold(&share.resource, share.count));
        Ok(wants.iter().map(|want| self.take(node, want)).collect())
    }

    fn take(&mut self, node: &NodeId, want: &Want) -> Verdict {
        for (place, limit) in want.counts.iter().enumerate() {
            let all = self.lives.values().map(|life| life.held(&limit.resource)).fold(0, u64::saturating_add);
            if all >= limit.most {
                return Verdict::Count(place);
            }
        }
        let now = Instant::now();
        let missing =
            |limit: &RateLimit| self.rates.get(&limit.resource).map_or(0, |bucket| bucket.missing(now)) + TOKEN;
        let taken: Vec<_> = want.rates.iter().map(missing).collect();
        let is_exhausted = |(limit, missing): (&RateLimit, &u128)| *missing > TOKEN * u128::from(limit.burst);
        if let Some(place) = want.rates.iter().zip(&taken).position(is_exhausted) {
            return Verdict::Rate(place);
        }
        for (limit, missing) in want.rates.iter().zip(taken) {
            let bucket = Bucket { missing, since: now, per_second: limit.per_second };
            self.rates.insert(limit.resource.clone(), bucket);
        }
        if self.rates.len() > self.most_rates {
            self.rates.retain(|_, bucket| bucket.missing(now) > 0);
            self.most_rates = (2 * self.rates.len()).max(64);
        }
        if let Some(life) = self.lives.get_mut(node) {
            want.counts.iter().for_each(|limit| life.hold(&limit.resource, life.held(&limit.resource) + 1));
        }
        Verdict::Granted
    }
}
