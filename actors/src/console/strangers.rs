//! Strangers: peers of a console that have not sent its token, and how many of them there may be.
//!
//! Rule: they keep nobody out who has the token. They have places of their own, and of too many the eldest has to leave.
//! Not here: the token (`setup`), turning somebody away (`session`).

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use actix::{Message, Recipient};

/// Most of them at once. Unit: sessions.
pub(crate) const MOST: usize = 32;

/// Others wait: a session without the token has to end.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Leave;

#[derive(Debug, Default)]
pub(crate) struct Strangers {
    /// Those that came last. Who has sent the token meanwhile stays among them, and does not leave.
    newest: Mutex<VecDeque<Recipient<Leave>>>,
    known: Arc<AtomicUsize>,
}

/// The place of a session that has sent the token.
#[derive(Debug)]
pub(crate) struct Known(Arc<AtomicUsize>);

impl Strangers {
    /// A session has come whose peer has to send the token.
    pub(crate) fn come(&self, stranger: Recipient<Leave>) {
        let eldest = {
            let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
            newest.retain(Recipient::connected);
            newest.push_back(stranger);
            if newest.len() > MOST { newest.pop_front() } else { None }
        };
        if let Some(eldest) = eldest {
            eldest.do_send(Leave);
        }
    }

    /// Takes one of `most` places for a session that has sent the token.
    pub(crate) fn know(&self, most: usize) -> Option<Known> {
        let known = Known(Arc::clone(&self.known));
        // All sessions of a console are on one thread.
        if self.known.fetch_add(1, SeqCst) < most { Some(known) } else { None }
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}
