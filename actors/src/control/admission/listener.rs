//! Places: admission by way of one listener, whose own limits hold beside those of its server.
//!
//! A listener has one `ListenerAdmission` for as long as it lives, however often it is replaced; each of its sessions
//! keeps that. Its limits are as exact as the server's, and only its own acceptors wait for its places.
//! Not here: the limits of the server (`admission`), which listeners there are (`listeners`).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    task::Waker,
};

use tokio::time::Instant;

use crate::{
    address::Address,
    control::admission::{Admission, Denial, Refusal, Waiters, setup::Setup, take_one},
    limits::ListenerLimits,
    report::RefuseReason,
    source::PeerId,
};

/// The next action allowed to an acceptor.
#[derive(Debug)]
pub(crate) enum Ticket {
    /// Accept: the connection has a place.
    Place(Place),
    /// Accept, and refuse the connection.
    Refusal(Refusal, RefuseReason),
    /// Accept nothing until this moment, or until the waker is woken.
    Wait(Option<Instant>),
}

/// The admission of the connections of one listener.
#[derive(Debug)]
pub(crate) struct ListenerAdmission {
    server: Arc<Admission>,
    max_sessions: AtomicUsize,
    /// Places taken: sessions, and connections about to become one. Counted without a limit, too, since one may be set
    /// later.
    taken: AtomicUsize,
    refused: [AtomicU64; RefuseReason::ALL.len()],
    /// Wait for a place of this listener; those who wait for one of the server are with the server.
    waiters: Waiters,
    has_lists: AtomicBool,
    limits: Mutex<ListenerLimits>,
    pub(crate) setup: Setup,
}

impl ListenerAdmission {
    pub(crate) fn new(server: &Arc<Admission>, limits: ListenerLimits) -> Arc<Self> {
        let admission = Self {
            server: Arc::clone(server),
            max_sessions: AtomicUsize::default(),
            taken: AtomicUsize::new(0),
            refused: Default::default(),
            waiters: Waiters::default(),
            has_lists: AtomicBool::default(),
            limits: Mutex::default(),
            setup: Setup::default(),
        };
        admission.set(limits);
        Arc::new(admission)
    }

    fn limits(&self) -> MutexGuard<'_, ListenerLimits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces its own limits, for connections that come from now on.
    pub(crate) fn set(&self, limits: ListenerLimits) {
        self.max_sessions.store(limits.max_sessions.unwrap_or(usize::MAX), SeqCst);
        self.has_lists.store(limits.has_lists(), SeqCst);
        *self.limits() = limits;
        self.setup.begin();
        self.wake();
    }

    /// Wakes the acceptors that wait for a place of this listener.
    pub(crate) fn wake(&self) {
        self.waiters.wake();
    }

    /// Returns the action allowed for the next connection; wakes `waker` when that changes.
    pub(crate) fn ticket(self: &Arc<Self>, waker: &Waker) -> Ticket {
        let (mut waits_here, mut waits_at_server) = (false, false);
        loop {
            let (until, reason) = match self.try_ticket() {
                Ok(ticket) => return ticket,
                Err(wait) => wait,
            };
            let (waits, waiters) = match reason {
                RefuseReason::ListenerFull => (&mut waits_here, &self.waiters),
                _ => (&mut waits_at_server, &self.server.waiters),
            };
            if std::mem::replace(waits, true) {
                return Ticket::Wait(until);
            }
            // Registered first, tried again after: a place given back between the two is not missed.
            waiters.add(waker);
        }
    }

    /// Returns the action allowed for the next connection; if there is none, for how long, and what it waits for.
    fn try_ticket(self: &Arc<Self>) -> Result<Ticket, (Option<Instant>, RefuseReason)> {
        let (next_token, refuses) = self.server.outlook();
        // Nothing is taken only to be looked at: whoever gives back a place wakes those who wait, himself included.
        let reason = match next_token {
            None => match self.ticket_at_once() {
                Ok(place) => return Ok(Ticket::Place(place)),
                Err(reason) => reason,
            },
            Some(_) if self.is_full() => RefuseReason::ListenerFull,
            Some(_) if self.server.is_full() => RefuseReason::MaxSessions,
            Some(_) => RefuseReason::AcceptRate,
        };
        // Where all are full the rate is not what is waited for.
        let until = next_token.filter(|_| reason == RefuseReason::AcceptRate);
        if !refuses {
            return Err((until, reason));
        }
        match self.server.try_refusal() {
            Some(refusal) => Ok(Ticket::Refusal(refusal, reason)),
            // The end of another refusal is waited for as a place of the server is.
            None => Err((until, RefuseReason::MaxSessions)),
        }
    }

    /// Reserves a place for a connection that is there and cannot wait, or returns the reason why there is none.
    pub(crate) fn ticket_at_once(self: &Arc<Self>) -> Result<Place, RefuseReason> {
        if self.is_full() {
            return Err(RefuseReason::ListenerFull);
        }
        if !self.server.try_take() {
            return Err(RefuseReason::MaxSessions);
        }
        // Another acceptor of this listener, which is being replaced, may have been faster.
        if !take_one(&self.taken, &self.max_sessions) {
            self.server.give_back();
            return Err(RefuseReason::ListenerFull);
        }
        Ok(Place { admission: Some(Arc::clone(self)), peer: Address::Memory })
    }

    fn is_full(&self) -> bool {
        self.taken.load(SeqCst) >= self.max_sessions.load(SeqCst)
    }

    /// Returns true if no session of it is left, nor a connection about to become one. Its sessions are counted by then.
    pub(crate) fn is_empty(&self) -> bool {
        self.taken.load(SeqCst) == 0
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.taken.load(SeqCst)
    }

    /// Returns true if lists keep this peer out, its own or the server's.
    pub(crate) fn denies(&self, peer: &Address) -> bool {
        self.denies_itself(peer) || self.server.denies(peer)
    }

    /// Returns true if its own lists keep this peer out.
    fn denies_itself(&self, peer: &Address) -> bool {
        self.has_lists.load(SeqCst) && self.limits().denies(peer)
    }

    pub(crate) fn count_refused(&self, reason: RefuseReason) {
        self.refused[reason as usize].fetch_add(1, SeqCst);
    }

    /// Returns the number of its connections that were refused, by [`RefuseReason::name`].
    pub(crate) fn refused(&self) -> BTreeMap<&'static str, u64> {
        let counts = RefuseReason::ALL.iter().zip(&self.refused);
        counts.map(|(reason, count)| (reason.name(), count.load(SeqCst))).filter(|(_, count)| *count > 0).collect()
    }
}

/// A reserved place under `max_sessions` of the server and of the listener, with its peer's address. Dropping it gives
/// it back.
///
/// One value and not two, because every session has it: a session keeps its peer's address here.
#[derive(Debug)]
pub(crate) struct Place {
    /// `None` for a session without a server.
    admission: Option<Arc<ListenerAdmission>>,
    /// Counted for this peer, once it is known.
    peer: Address,
}

impl Place {
    /// The admission that it is of, if it is a listener's.
    pub(crate) fn admission(&self) -> Option<&Arc<ListenerAdmission>> {
        self.admission.as_ref()
    }

    /// Admits the connection that came, if the limits of its source allow it. From here on it is a session, and owes a
    /// close report.
    pub(crate) fn admit(&mut self, peer: Address) -> Result<(), Denial> {
        if let Some(admission) = &self.admission {
            if admission.denies_itself(&peer) {
                return Err(RefuseReason::Denied.into());
            }
            admission.server.admit(&peer)?;
        }
        self.peer = peer;
        Ok(())
    }

    /// Admits a connection whose real peer a filter has yet to tell. Until [`recharge`](Self::recharge) it is charged to
    /// nobody's source.
    pub(crate) fn admit_unknown(&mut self) -> Result<(), Denial> {
        self.admission.as_ref().map_or(Ok(()), |admission| admission.server.admit_unknown())
    }

    /// Charges the session to its real peer, now that it is known. Over a limit it is charged to nobody, and has to end.
    pub(crate) fn recharge(&mut self, peer: Address) -> Result<(), RefuseReason> {
        let before = std::mem::take(&mut self.peer);
        if let Some(admission) = &self.admission {
            let is_denied = admission.denies_itself(&peer);
            if let Err(reason) = admission.server.recharge(&before, &peer, is_denied) {
                admission.count_refused(reason);
                return Err(reason);
            }
        }
        self.peer = peer;
        Ok(())
    }

    /// Takes back the charge of a connection that is no client's.
    pub(crate) fn excuse(&mut self) {
        let before = std::mem::take(&mut self.peer);
        if let Some(admission) = &self.admission {
            admission.server.excuse(&before);
        }
    }

    /// Makes the place of a session without a server.
    pub(crate) fn outside(peer: Address) -> Self {
        Self { admission: None, peer }
    }

    pub(crate) fn peer(&self) -> &Address {
        &self.peer
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(admission) = &self.admission else { return };
        if let Some(id) = PeerId::of(&self.peer) {
            admission.server.remove(id);
        }
        // Before anybody is woken, who may wait for the one and for the other.
        admission.taken.fetch_sub(1, SeqCst);
        admission.server.give_back();
        admission.wake();
    }
}
