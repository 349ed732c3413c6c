//! Descriptors: how many there are, and so how many sessions.
//!
//! Not here: what happens when they run out all the same (the library's acceptor).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Kept free of sessions: standard streams, log, signals, lookups, the acceptors' reserves.
const RESERVE: u64 = 32;
/// What a worker needs: its reactor and its waker.
const PER_WORKER: u64 = 8;
/// What a listener needs: itself, its acceptor's duplicate, and its reserve.
const PER_LISTENER: u64 = 3;
/// Connections that are being refused have a descriptor each: so many at most, as of the library.
const REFUSALS: u64 = 256;
/// Where descriptors are few, refusals get no more than one in so many: a session is worth more.
const REFUSALS_SHARE: u64 = 8;

/// Raises the soft limit to the hard one.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            log::warn!("the descriptor limit stays at {:?}: {error}", limit.current);
        }
    }
}

/// The soft limit; `None` is no limit.
pub(crate) fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// How many sessions a descriptor limit leaves room for; at least one.
pub(crate) fn room_for_sessions(limit: u64, workers: u64, listeners: u64) -> u64 {
    let others = RESERVE + workers * PER_WORKER + listeners * PER_LISTENER + REFUSALS.min(limit / REFUSALS_SHARE);
    limit.saturating_sub(others).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_get_what_the_rest_does_not_need() {
        assert_eq!(room_for_sessions(1024, 2, 1), 1024 - 32 - 16 - 3 - 128);
        assert_eq!(room_for_sessions(20_000, 2, 1), 20_000 - 32 - 16 - 3 - 256);
        assert_eq!(room_for_sessions(16, 2, 1), 1);
    }
}
