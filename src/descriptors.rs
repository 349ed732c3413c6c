//! Descriptors: how many there are, and so how many sessions.
//!
//! Not here: what happens when they run out all the same (the library's acceptor).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Kept free of sessions: standard streams, log, signals, lookups, the acceptors' reserves.
const RESERVE: u64 = 32;
/// What a worker needs: its reactor and its waker.
const PER_WORKER: u64 = 8;
/// What a listener needs: itself and its reserve.
const PER_LISTENER: u64 = 2;

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
    let others = RESERVE + workers * PER_WORKER + listeners * PER_LISTENER;
    limit.saturating_sub(others).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_get_what_the_rest_does_not_need() {
        assert_eq!(room_for_sessions(1024, 2, 1), 1024 - 32 - 16 - 2);
        assert_eq!(room_for_sessions(16, 2, 1), 1);
    }
}
