//! Budget: how many bytes the buffers of all sessions may hold together, and which of them goes when it is spent.
//!
//! Each worker adds up its own and publishes the sum in steps, so the budget is exceeded by less than a step for each
//! worker before one of them looks for the largest session.
//! Not here: the largest session of one worker, and its end (`worker`).

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A worker says what its sessions hold when it has changed by this much. Unit: bytes.
pub(crate) const STEP: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Budget {
    limit: AtomicUsize,
    /// Bytes held, as published.
    used: AtomicUsize,
    /// The most that one session of each worker holds, as last looked at.
    largest: Box<[AtomicUsize]>,
}

impl Budget {
    pub(crate) fn new(limit: Option<usize>, workers: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit.unwrap_or(usize::MAX)),
            used: AtomicUsize::new(0),
            largest: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
        }
    }

    pub(crate) fn set_limit(&self, limit: Option<usize>) {
        self.limit.store(limit.unwrap_or(usize::MAX), Relaxed);
    }

    pub(crate) fn has_limit(&self) -> bool {
        self.limit.load(Relaxed) != usize::MAX
    }

    /// One worker's sum went from `before` to `after`.
    pub(crate) fn publish(&self, before: usize, after: usize) {
        // Wrapping, as atomics do: a smaller sum is a large number added.
        self.used.fetch_add(after.wrapping_sub(before), Relaxed);
    }

    /// Bytes held above the limit.
    pub(crate) fn excess(&self) -> usize {
        self.used.load(Relaxed).saturating_sub(self.limit.load(Relaxed))
    }

    /// The most that one session of this worker holds.
    pub(crate) fn set_largest(&self, worker: usize, bytes: usize) {
        if let Some(largest) = self.largest.get(worker) {
            largest.store(bytes, Relaxed);
        }
    }

    /// Which worker has the largest session.
    pub(crate) fn worker_with_largest(&self) -> usize {
        let largest = self.largest.iter().enumerate().max_by_key(|(_, bytes)| bytes.load(Relaxed));
        largest.map_or(0, |(worker, _)| worker)
    }
}
