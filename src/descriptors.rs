//! Descriptors: their limit, and the number of sessions that it allows.
//!
//! Not here: the reaction when they run out (the library's acceptor).

use std::{io, os::unix::net::UnixStream};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::reason::reason;

/// Kept free of sessions: standard streams, log, signals, lookups, the acceptors' reserves.
const RESERVE: u64 = 32;
/// Descriptors of a worker: its reactor and its waker.
const PER_WORKER: u64 = 8;
/// Descriptors of a listener: itself, its acceptor's duplicate, its reserve, and the file of a unix socket.
const PER_LISTENER: u64 = 4;
/// Connections that are being refused have a descriptor each: so many at most, as of the library.
const REFUSALS: u64 = 256;
/// Where descriptors are few, refusals get no more than one in so many: a session is worth more.
const REFUSALS_SHARE: u64 = 8;

/// Descriptors without which nothing starts: the pipe that signals come by; for each runtime its epoll instance, which is held twice,
/// its waker and its end of that pipe; and one session, or the file when it is read again.
const AT_LEAST: u64 = 2 + 1;
const AT_LEAST_PER_RUNTIME: u64 = 4;
/// The thread that accepts for HTTP, and the one that answers.
const HTTP_RUNTIMES: u64 = 2;

/// Raises the soft limit to the hard one.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            log::warn!("the descriptor limit stays at {}: {}", shown(limit.current), reason(&error.into()));
        }
    }
}

/// The soft limit; `None` is no limit.
pub(crate) fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Returns how many sessions a descriptor limit leaves room for, beside so many descriptors for HTTP; at least one.
pub(crate) fn room_for_sessions(limit: u64, workers: u64, listeners: u64, http: u64) -> u64 {
    let others = http.min(limit / REFUSALS_SHARE)
        + RESERVE
        + workers * PER_WORKER
        + listeners * PER_LISTENER
        + REFUSALS.min(limit / REFUSALS_SHARE);
    limit.saturating_sub(others).max(1)
}

/// Checks that there are enough to start and to serve somebody, since tokio panics where it finds too few. It opens as
/// many: that counts the inherited ones, and meets every limit there is.
pub(crate) fn check(workers: usize, listeners: usize, has_http: bool) -> io::Result<()> {
    // A single worker shares the runtime of the process.
    let runtimes = 1 + if workers > 1 { workers as u64 } else { 0 } + if has_http { HTTP_RUNTIMES } else { 0 };
    let needed = AT_LEAST + runtimes * AT_LEAST_PER_RUNTIME + listeners as u64 * PER_LISTENER;
    let tried: io::Result<Vec<_>> = (0..needed.div_ceil(2)).map(|_| UnixStream::pair()).collect();
    tried.map(drop).map_err(|error| {
        let fewer = if workers > 1 { ", or use fewer --workers" } else { "" };
        let what = format!(
            "cannot start: {}: with --workers {workers} it takes {needed} descriptors more than are in use, and the limit \
             is {}; raise it (ulimit -n, or LimitNOFILE= of its service){fewer}",
            reason(&error),
            shown(limit())
        );
        io::Error::new(error.kind(), what)
    })
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_get_what_the_rest_does_not_need() {
        assert_eq!(room_for_sessions(1024, 2, 1, 0), 1024 - 32 - 16 - 4 - 128);
        assert_eq!(room_for_sessions(20_000, 2, 1, 0), 20_000 - 32 - 16 - 4 - 256);
        assert_eq!(room_for_sessions(20_000, 2, 1, 100), 20_000 - 32 - 16 - 4 - 256 - 100);
        assert_eq!(room_for_sessions(16, 2, 1, 100), 1);
    }
}
