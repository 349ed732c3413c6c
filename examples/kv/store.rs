//! The items, shared by the sessions of all workers.
//!
//! Any session may ask for any key, so the store is the one thing that the workers share. It is split by the hash of the
//! key into shards, each behind a lock of its own: a lock is held for one key's lookup and copy, never while anything
//! waits, and two workers meet at one only if they want the same shard at the same moment. A store for each worker would
//! need no lock, but a key would have to live with one of them, and most commands would pay a message to another thread
//! and back.
//!
//! Memory is bounded: each shard has its part of the bytes, and drops what was not used for the longest time to stay within
//! it. Expired items are dropped when somebody asks for them, and by [`Store::tick`], one shard at a time.
//! Not here: what commands look like (`protocol`), the clock's hands (`main`).

use std::{
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use lru::LruCache;

// Not `crate`: the tests of this file are run as a part of `tests/kv.rs`.
use super::protocol::{Delta, MAX_VALUE, Mode};

/// Far more than workers, so that they seldom meet; few enough that the largest value is a small part of a shard.
const SHARDS: usize = 16;

/// What an item takes besides its key and its data: its node, its places in the table, and what an allocator rounds up.
const ITEM_OVERHEAD: usize = 160;

/// The least memory that can be asked for: each shard has room for a value of the longest length and some others.
pub(crate) const MIN_MEMORY: u64 = SHARDS as u64 * 2 * MAX_VALUE as u64;

/// From here on an exptime is a date, not a time from now. Unit: seconds.
const LONGEST_RELATIVE: i64 = 60 * 60 * 24 * 30;

/// The time at which an item with exptime 0 expires.
const NEVER: u64 = u64::MAX;

pub(crate) struct Store {
    shards: [Mutex<Shard>; SHARDS],
    /// Random for each process: who sends keys cannot choose those that collide.
    hasher: lru::DefaultHasher,
    /// Unix time in seconds, of the last tick. As coarse as memcached's.
    clock: AtomicU64,
    flush_at: AtomicU64,
    /// Bytes of values that are coming, of all sessions, and the most of them.
    coming: AtomicUsize,
    max_coming: usize,
}

struct Shard {
    items: LruCache<Box<[u8]>, Item>,
    bytes: usize,
    max_bytes: usize,
    last_unique: u64,
    counts: Counts,
}

pub(crate) struct Item {
    pub(crate) flags: u32,
    /// With the CR LF behind it, as it comes and goes.
    pub(crate) block: Bytes,
    /// Another one after each change of the data, and no other item's.
    pub(crate) unique: u64,
    expires: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Stored,
    NotStored,
    Exists,
    NotFound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArithmeticError {
    NotFound,
    NonNumeric,
}

/// What `stats` shows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) stored: u64,
    pub(crate) evicted: u64,
    pub(crate) expired: u64,
    pub(crate) items: u64,
    pub(crate) bytes: u64,
}

/// A value that comes in pieces. What has come of all of them takes no more than the items may.
pub(crate) struct Received {
    bytes: Vec<u8>,
    store: Arc<Store>,
}

impl Received {
    pub(crate) fn new(store: &Arc<Store>) -> Self {
        Self { bytes: Vec::new(), store: Arc::clone(store) }
    }

    /// False if there is no room for it.
    pub(crate) fn extend(&mut self, chunk: &[u8]) -> bool {
        let before = self.store.coming.fetch_add(chunk.len(), Ordering::Relaxed);
        if before + chunk.len() > self.store.max_coming {
            self.store.coming.fetch_sub(chunk.len(), Ordering::Relaxed);
            return false;
        }
        self.bytes.extend_from_slice(chunk);
        true
    }

    /// The value, of which `last` is the end.
    pub(crate) fn finish(mut self, last: &[u8]) -> Bytes {
        // Most come in one piece: then this is the only copy.
        if self.bytes.is_empty() {
            return Bytes::copy_from_slice(last);
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        self.store.coming.fetch_sub(bytes.len(), Ordering::Relaxed);
        bytes.extend_from_slice(last);
        bytes.into_boxed_slice().into()
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.store.coming.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl Store {
    /// With room for `memory` bytes, at least [`MIN_MEMORY`]; `now` is Unix time in seconds.
    pub(crate) fn new(memory: u64, now: u64) -> Self {
        let max_bytes = usize::try_from(memory.max(MIN_MEMORY)).unwrap_or(usize::MAX) / SHARDS;
        let shard = |index: usize| Shard {
            items: LruCache::unbounded(),
            bytes: 0,
            max_bytes,
            last_unique: index as u64,
            counts: Counts::default(),
        };
        Self {
            shards: std::array::from_fn(|index| Mutex::new(shard(index))),
            hasher: lru::DefaultHasher::default(),
            clock: AtomicU64::new(now),
            flush_at: AtomicU64::new(NEVER),
            coming: AtomicUsize::new(0),
            max_coming: max_bytes * SHARDS,
        }
    }

    /// Moves the clock to `now`, does what is due, and drops the expired items of one shard.
    pub(crate) fn tick(&self, now: u64) {
        let before = self.clock.swap(now, Ordering::Relaxed);
        if self.flush_at.load(Ordering::Relaxed) <= now {
            self.flush();
        }
        if before != now {
            lock(&self.shards[now as usize % SHARDS]).sweep(now);
        }
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    /// When something with this exptime expires: 0 is never, a negative one is already, and one above 30 days is a date.
    pub(crate) fn expiry(&self, exptime: i64) -> u64 {
        match exptime {
            0 => NEVER,
            ..0 => 0,
            1..=LONGEST_RELATIVE => self.now() + exptime as u64,
            _ => exptime as u64,
        }
    }

    /// Shows the item of `key` to `hit`, if there is one; it expires at `expires` from now on, if that is given.
    pub(crate) fn get(&self, key: &[u8], expires: Option<u64>, hit: impl FnOnce(&Item)) {
        let now = self.now();
        let mut shard = self.shard(key);
        let found = match shard.items.get_mut(key) {
            Some(item) if item.expires > now => {
                hit(item);
                item.expires = expires.unwrap_or(item.expires);
                true
            }
            Some(_) => {
                shard.expire(key);
                false
            }
            None => false,
        };
        shard.counts.hits += u64::from(found);
        shard.counts.misses += u64::from(!found);
    }

    /// Stores `block`, which ends with CR LF.
    pub(crate) fn store(&self, mode: Mode, key: Box<[u8]>, flags: u32, expires: u64, block: Bytes) -> Outcome {
        let mut shard = self.shard(&key);
        let (flags, expires, block) = match (mode, shard.live(&key, self.now())) {
            (Mode::Set, _) | (Mode::Add, None) | (Mode::Replace, Some(_)) => (flags, expires, block),
            (Mode::Cas(unique), Some(old)) if old.unique == unique => (flags, expires, block),
            (Mode::Cas(_), Some(_)) => return Outcome::Exists,
            (Mode::Cas(_), None) => return Outcome::NotFound,
            (Mode::Append | Mode::Prepend, Some(old)) => {
                let (first, second) = if mode == Mode::Append { (&old.block, &block) } else { (&block, &old.block) };
                let joined = [data(first), second].concat();
                if data(&joined).len() > MAX_VALUE {
                    return Outcome::NotStored;
                }
                (old.flags, old.expires, joined.into())
            }
            (Mode::Add, Some(_)) | (Mode::Replace | Mode::Append | Mode::Prepend, None) => return Outcome::NotStored,
        };
        shard.put(key, flags, expires, block);
        shard.counts.stored += 1;
        Outcome::Stored
    }

    /// Whether there was something to delete.
    pub(crate) fn delete(&self, key: &[u8]) -> bool {
        let mut shard = self.shard(key);
        shard.live(key, self.now()).is_some() && shard.remove(key)
    }

    /// Whether there was something to touch.
    pub(crate) fn touch(&self, key: &[u8], expires: u64) -> bool {
        self.shard(key).live(key, self.now()).map(|item| item.expires = expires).is_some()
    }

    /// Adds to a number, which wraps, or takes from it, which ends at 0; returns the new one. The data keep their length
    /// and are filled with spaces, unless they have to be longer.
    pub(crate) fn arithmetic(&self, key: &[u8], delta: Delta) -> Result<u64, ArithmeticError> {
        let mut shard = self.shard(key);
        let item = shard.live(key, self.now()).ok_or(ArithmeticError::NotFound)?;
        let old = leading_number(data(&item.block)).ok_or(ArithmeticError::NonNumeric)?;
        let new = match delta {
            Delta::Increment(amount) => old.wrapping_add(amount),
            Delta::Decrement(amount) => old.saturating_sub(amount),
        };
        let width = data(&item.block).len();
        let mut block = new.to_string().into_bytes();
        block.resize(width.max(block.len()), b' ');
        block.extend_from_slice(b"\r\n");
        let (flags, expires) = (item.flags, item.expires);
        shard.put(key.into(), flags, expires, block.into());
        Ok(new)
    }

    /// Drops everything at `at`, and no longer at any other time.
    pub(crate) fn flush_at(&self, at: u64) {
        self.flush_at.store(at, Ordering::Relaxed);
        if at <= self.now() {
            self.flush();
        }
    }

    fn flush(&self) {
        self.flush_at.store(NEVER, Ordering::Relaxed);
        for shard in &self.shards {
            let items = lock(shard).take_all();
            // To free them takes a while, which nobody else has to wait for.
            drop(items);
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.shards.iter().fold(Counts::default(), |sum, shard| {
            let shard = lock(shard);
            Counts {
                hits: sum.hits + shard.counts.hits,
                misses: sum.misses + shard.counts.misses,
                stored: sum.stored + shard.counts.stored,
                evicted: sum.evicted + shard.counts.evicted,
                expired: sum.expired + shard.counts.expired,
                items: sum.items + shard.items.len() as u64,
                bytes: sum.bytes + shard.bytes as u64,
            }
        })
    }

    pub(crate) fn max_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| lock(shard).max_bytes as u64).sum()
    }

    fn shard(&self, key: &[u8]) -> MutexGuard<'_, Shard> {
        // The shard's table goes by the low bits.
        lock(&self.shards[(self.hasher.hash_one(key) >> 32) as usize % SHARDS])
    }
}

/// A panic under the lock can only be ours, in a lookup: the shard is then still a cache.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    /// The item, unless it has expired. It counts as used.
    fn live(&mut self, key: &[u8], now: u64) -> Option<&mut Item> {
        if self.items.peek(key).is_some_and(|item| item.expires <= now) {
            self.expire(key);
        }
        self.items.get_mut(key)
    }

    fn put(&mut self, key: Box<[u8]>, flags: u32, expires: u64, block: Bytes) {
        // Each shard has its own of each `SHARDS` numbers: to count together they would have to share a counter.
        self.last_unique += SHARDS as u64;
        let item = Item { flags, block, unique: self.last_unique, expires };
        let key_len = key.len();
        self.bytes += size(key_len, &item);
        if let Some(old) = self.items.put(key, item) {
            self.bytes -= size(key_len, &old);
        }
        while self.bytes > self.max_bytes
            && let Some((key, item)) = self.items.pop_lru()
        {
            self.bytes -= size(key.len(), &item);
            self.counts.evicted += 1;
        }
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        let removed = self.items.pop(key);
        self.bytes -= removed.as_ref().map_or(0, |item| size(key.len(), item));
        removed.is_some()
    }

    fn expire(&mut self, key: &[u8]) {
        self.counts.expired += u64::from(self.remove(key));
    }

    fn sweep(&mut self, now: u64) {
        let expired = self.items.iter().filter(|(_, item)| item.expires <= now).map(|(key, _)| key.clone());
        for key in expired.collect::<Vec<_>>() {
            self.expire(&key);
        }
    }

    fn take_all(&mut self) -> LruCache<Box<[u8]>, Item> {
        self.bytes = 0;
        std::mem::replace(&mut self.items, LruCache::unbounded())
    }
}

fn size(key_len: usize, item: &Item) -> usize {
    key_len + item.block.len() + ITEM_OVERHEAD
}

/// A block without its CR LF.
pub(crate) fn data(block: &[u8]) -> &[u8] {
    &block[..block.len() - 2]
}

/// The decimal number that data begin with: white space may be around it, and behind that, or a NUL, anything. So memcached
/// reads it.
fn leading_number(data: &[u8]) -> Option<u64> {
    let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'\x0b';
    let start = data.iter().position(|byte| !is_space(byte))?;
    let rest = &data[start..];
    let end = rest.iter().position(|byte| is_space(byte) || *byte == 0).unwrap_or(rest.len());
    let digits = std::str::from_utf8(&rest[..end]).ok()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn store() -> Store {
        Store::new(MIN_MEMORY, NOW)
    }

    fn set(store: &Store, key: &str, exptime: i64, value: &[u8]) {
        let block = [value, b"\r\n"].concat().into();
        let stored = store.store(Mode::Set, key.as_bytes().into(), 0, store.expiry(exptime), block);
        assert_eq!(stored, Outcome::Stored);
    }

    fn has(store: &Store, key: &str) -> bool {
        let mut found = false;
        store.get(key.as_bytes(), None, |_| found = true);
        found
    }

    #[test]
    fn exptimes_are_never_already_relative_or_dates() {
        let store = store();
        for (exptime, lives_for) in [
            (0, None),
            (-1, Some(0)),
            (1, Some(1)),
            (LONGEST_RELATIVE, Some(LONGEST_RELATIVE as u64)),
            (LONGEST_RELATIVE + 1, Some(0)),
            (NOW as i64 - 1, Some(0)),
            (NOW as i64 + 5_000_000, Some(5_000_000)),
        ] {
            store.tick(NOW);
            set(&store, "a", exptime, b"");
            assert_eq!(has(&store, "a"), lives_for != Some(0), "exptime {exptime}");
            let Some(lives_for) = lives_for.filter(|seconds| *seconds > 0) else { continue };
            store.clock.store(NOW + lives_for - 1, Ordering::Relaxed);
            assert!(has(&store, "a"), "exptime {exptime}, a second too early");
            store.clock.store(NOW + lives_for, Ordering::Relaxed);
            assert!(!has(&store, "a"), "exptime {exptime}, when it is time");
        }
    }

    #[test]
    fn what_has_expired_is_swept_though_nobody_asks_for_it() {
        let store = store();
        for number in 0..1000 {
            set(&store, &format!("short{number}"), 10, b"value");
        }
        set(&store, "long", 1000, b"value");
        for second in 1..10 + SHARDS as u64 {
            store.tick(NOW + second);
        }
        let counts = store.counts();
        assert_eq!((counts.items, counts.expired), (1, 1000));
        assert_eq!(counts.bytes, (4 + 7 + ITEM_OVERHEAD) as u64);
    }

    #[test]
    fn memory_is_bounded_by_dropping_what_was_not_used() {
        let store = store();
        let value = vec![b'x'; 10_000];
        set(&store, "used", 0, &value);
        for number in 0..20_000 {
            set(&store, &number.to_string(), 0, &value);
            assert!(has(&store, "used"), "after {number}");
        }
        let counts = store.counts();
        assert!(counts.bytes <= MIN_MEMORY && counts.bytes > MIN_MEMORY * 9 / 10, "{counts:?}");
        assert_eq!(counts.items + counts.evicted, 20_001);
        assert!(has(&store, "19999") && !has(&store, "0"));
    }

    #[test]
    fn a_delayed_flush_drops_what_is_there_when_it_is_due_and_another_replaces_it() {
        let store = store();
        set(&store, "a", 0, b"");
        store.flush_at(store.expiry(10));
        store.tick(NOW + 9);
        assert!(has(&store, "a"));
        set(&store, "b", 0, b"");
        store.tick(NOW + 10);
        assert!(!has(&store, "a") && !has(&store, "b"));
        set(&store, "c", 0, b"");
        store.flush_at(store.expiry(10));
        store.flush_at(store.expiry(20));
        store.tick(NOW + 25);
        assert!(has(&store, "c"));
        store.tick(NOW + 30);
        assert!(!has(&store, "c"));
        assert_eq!(store.counts().bytes, 0);
    }
}
