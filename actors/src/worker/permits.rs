//! Permits: what gates have given the sessions of a worker, until these end.
//!
//! A table and no part of a slot: without gates it has no entry, and no session has room for one.
//! Not here: asking gates (`session/gated`).

use std::{cell::RefCell, collections::HashMap};

use crate::{caught::drop_caught, connection::SessionId, gate::Permit, log_limit::LogLimit};

/// Entries that a table keeps room for when most are gone.
const KEPT: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Permits {
    held: RefCell<HashMap<SessionId, Permit>>,
    /// Bounds what is logged of connections that gates refuse.
    pub(super) refused: LogLimit,
}

impl Permits {
    pub(super) fn keep(&self, session: SessionId, permit: Permit) {
        if !permit.is_free() {
            let mut held = self.held.borrow_mut();
            let before = held.remove(&session).unwrap_or_default();
            held.insert(session, before.and(permit));
        }
    }

    /// Gives back what the session was given.
    pub(super) fn give_back(&self, session: SessionId) {
        let mut held = self.held.borrow_mut();
        if held.is_empty() {
            return;
        }
        let permit = held.remove(&session);
        if held.capacity() > 4 * KEPT && held.len() < held.capacity() / 8 {
            let room = (2 * held.len()).max(KEPT);
            held.shrink_to(room);
        }
        // The user's code may do what it likes.
        drop(held);
        drop_caught(permit);
    }
}
