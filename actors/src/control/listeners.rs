//! Listeners: the table of a server's listeners, of those that accept and those that are being closed.
//!
//! A listener is opened when it is added, and again when it is replaced: it keeps its number, its name, its pause and its
//! admission, and each opening has a serial number, an acceptor, and an order to close of its own. The admission of a
//! listener that was removed stays until its last session has ended, and of the last few for longer: it has their counts.
//! Not here: the lock, and what follows of a change (`ways`); binding and launching (`server/doors`).

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    os::fd::OwnedFd,
    sync::{Arc, Weak},
    time::SystemTime,
};

use actix::Recipient;
use tokio::sync::watch;

use crate::{
    address::Address,
    connection::ListenerId,
    control::{
        admission::{Admission, listener::ListenerAdmission},
        orders::{Closing, ListenerOrder},
        stats::Stats,
    },
    error::BindError,
    limits::{ListenerLimits, SessionLimits},
};

/// Listeners that one server can have had: their numbers have 16 bits, and no number is used twice.
const MOST_LISTENERS: usize = u16::MAX as usize;

/// Listeners whose counters stay although they and their last sessions have ended: those that did so last.
const MOST_ENDED: usize = 64;

/// A listener as its server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ListenerInfo {
    /// Its id, for [`ServerHandle::pause`](crate::ServerHandle::pause) and
    /// [`SessionFilter`](crate::control::query::SessionFilter)s.
    pub id: ListenerId,
    /// The address that it is bound to, with its real port.
    pub local_addr: Address,
    /// True while it is paused.
    pub is_paused: bool,
    /// Its own [`max_sessions`](crate::Listener::max_sessions).
    pub max_sessions: Option<usize>,
    /// Time at which the first of its own certificates expires, by which it speaks TLS at this moment.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::seconds::serialize_since_1970"))]
    pub certificate_expires: Option<SystemTime>,
}

/// Tells when the first certificate of a listener expires: a reload may change it.
#[derive(Clone)]
pub(crate) struct Expiry(Arc<dyn Fn() -> Option<SystemTime> + Send + Sync>);

impl Expiry {
    #[cfg(feature = "tls")]
    pub(crate) fn new(expires: impl Fn() -> Option<SystemTime> + Send + Sync + 'static) -> Self {
        Self(Arc::new(expires))
    }

    fn get(&self) -> Option<SystemTime> {
        (self.0)()
    }
}

impl fmt::Debug for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expiry").field(&self.get()).finish()
    }
}

/// Settings of an opening.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) address: Address,
    /// Does not keep the socket open.
    pub(crate) socket: Weak<OwnedFd>,
    /// The session limits; `None` is those of the server.
    pub(crate) limits: Option<SessionLimits>,
    /// `None` without certificates of its own.
    pub(crate) expiry: Option<Expiry>,
}

/// One opening of a listener, until its sockets are closed. It outlives its acceptors.
#[derive(Debug)]
pub(super) struct WayToListener {
    pub(super) serial: u64,
    pub(super) id: ListenerId,
    pub(super) site: Site,
    /// The last acceptor. It may have ended, and its successor may not have started.
    pub(super) acceptor: Option<Recipient<ListenerOrder>>,
    closing: watch::Sender<Option<Closing>>,
}

#[derive(Debug, Default)]
pub(super) struct ListenerTable {
    /// The listeners in the order of their numbers. One that has been removed is not here; those of a server that ends are.
    known: Vec<ListenerInfo>,
    openings: Vec<WayToListener>,
    /// Of the listeners that are known, are being closed, or have sessions, and of those that ended last.
    admissions: BTreeMap<ListenerId, Arc<ListenerAdmission>>,
    /// Those that ended last, in that order.
    ended: VecDeque<ListenerId>,
    /// Listeners so far, and openings.
    numbers: usize,
    serials: u64,
}

impl WayToListener {
    /// Orders it to be closed; a milder order than one before changes nothing.
    fn close(&self, how: Closing) {
        self.closing.send_if_modified(|closing| {
            let is_more = *closing < Some(how);
            if is_more {
                *closing = Some(how);
            }
            is_more
        });
    }

    fn is_open(&self) -> bool {
        self.closing.borrow().is_none()
    }

    pub(super) fn closing(&self) -> watch::Receiver<Option<Closing>> {
        self.closing.subscribe()
    }
}

impl ListenerTable {
    /// Returns the listeners as they are at this moment.
    pub(super) fn known(&self) -> Vec<ListenerInfo> {
        let expires = |id| self.openings.iter().rev().find(|way| way.id == id)?.site.expiry.as_ref()?.get();
        self.known
            .iter()
            .map(|known| ListenerInfo { certificate_expires: expires(known.id), ..known.clone() })
            .collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.openings.is_empty()
    }

    /// Returns an error if no listener of this name can be added.
    pub(super) fn check(&self, name: Option<&str>) -> Result<(), BindError> {
        if let Some(name) = name
            && self.known.iter().any(|known| known.id.name() == Some(name))
        {
            return Err(BindError::NameTaken { name: name.to_owned() });
        }
        if self.numbers < MOST_LISTENERS { Ok(()) } else { Err(BindError::TooMany) }
    }

    /// Adds a listener. Returns its id, and the serial number of the opening.
    pub(super) fn add(
        &mut self,
        name: Option<&str>,
        site: Site,
        limits: ListenerLimits,
        server: &Arc<Admission>,
    ) -> Result<(ListenerId, u64), BindError> {
        self.check(name)?;
        let number = u16::try_from(self.numbers).map_err(|_| BindError::TooMany)?;
        self.numbers += 1;
        let id = ListenerId::new(number, name);
        let (local_addr, max_sessions) = (site.address.clone(), limits.max_sessions);
        self.known.push(ListenerInfo { id, local_addr, is_paused: false, max_sessions, certificate_expires: None });
        self.admissions.insert(id, ListenerAdmission::new(server, limits));
        Ok((id, self.open(id, site)))
    }

    /// Opens a listener again, and has the opening before closed as `how` says. `None` if there is no such listener.
    pub(super) fn replace(&mut self, id: ListenerId, site: Site, limits: ListenerLimits, how: Closing) -> Option<u64> {
        let known = self.known.iter_mut().find(|known| known.id == id)?;
        known.local_addr = site.address.clone();
        known.max_sessions = limits.max_sessions;
        self.admissions.get(&id)?.set(limits);
        self.close_all(Some(id), how);
        Some(self.open(id, site))
    }

    fn open(&mut self, id: ListenerId, site: Site) -> u64 {
        self.serials += 1;
        let closing = watch::Sender::new(None);
        self.openings.push(WayToListener { serial: self.serials, id, site, acceptor: None, closing });
        self.serials
    }

    /// Removes a listener. Returns watches whose senders are gone once its sockets are closed; `None` if there is no such
    /// listener.
    pub(super) fn remove(&mut self, id: ListenerId, how: Closing) -> Option<Vec<watch::Receiver<Option<Closing>>>> {
        let index = self.known.iter().position(|known| known.id == id)?;
        self.known.remove(index);
        self.close_all(Some(id), how);
        Some(self.openings.iter().filter(|way| way.id == id).map(WayToListener::closing).collect())
    }

    /// Returns watches whose senders are gone once the openings of a listener before the last are closed.
    pub(super) fn replaced(&self, id: ListenerId) -> Vec<watch::Receiver<Option<Closing>>> {
        let openings = || self.openings.iter().filter(|way| way.id == id);
        let last = openings().map(|way| way.serial).max();
        openings().filter(|way| Some(way.serial) < last).map(WayToListener::closing).collect()
    }

    /// Orders the openings of one listener to be closed, or all.
    pub(super) fn close_all(&self, id: Option<ListenerId>, how: Closing) {
        self.openings.iter().filter(|way| id.is_none_or(|id| id == way.id)).for_each(|way| way.close(how));
    }

    /// Forgets an opening whose sockets are closed.
    pub(super) fn forget(&mut self, serial: u64) -> Option<WayToListener> {
        let index = self.openings.iter().position(|way| way.serial == serial)?;
        Some(self.openings.remove(index))
    }

    /// Returns the admission of a listener, unless it ended long ago.
    pub(super) fn admission(&self, id: ListenerId) -> Option<&Arc<ListenerAdmission>> {
        self.admissions.get(&id)
    }

    /// Has all acceptors that wait for a place of their listener ask again.
    pub(super) fn wake(&self) {
        self.admissions.values().for_each(|admission| admission.wake());
    }

    /// Notes the listeners that have ended. Returns those among them that ended before the last few, and forgets them:
    /// everything that is counted of them has been counted.
    pub(super) fn forget_ended(&mut self) -> Vec<(ListenerId, Arc<ListenerAdmission>)> {
        let has_ended = |id: &ListenerId| {
            self.known.binary_search_by_key(id, |known| known.id).is_err()
                && !self.openings.iter().any(|way| way.id == *id)
                && !self.ended.contains(id)
        };
        let admissions = self.admissions.iter().filter(|(id, admission)| admission.is_empty() && has_ended(id));
        let ended: Vec<_> = admissions.map(|(id, _)| *id).collect();
        self.ended.extend(ended);
        let too_many = self.ended.len().saturating_sub(MOST_ENDED);
        self.ended.drain(..too_many).filter_map(|id| self.admissions.remove_entry(&id)).collect()
    }

    /// Adds what admission has counted, and sums up the listeners that are forgotten.
    pub(super) fn complete(&self, stats: &mut Stats) {
        for (id, admission) in &self.admissions {
            stats.listeners.entry(*id).or_default().refused = admission.refused();
        }
        stats.sum_up(|id| self.admissions.contains_key(&id));
    }

    /// Returns true if an opening has these limits of its own.
    pub(super) fn has_limits(&self, limits: SessionLimits) -> bool {
        self.openings.iter().any(|way| way.site.limits == Some(limits))
    }

    pub(super) fn opening(&mut self, serial: u64) -> Option<&mut WayToListener> {
        self.openings.iter_mut().find(|way| way.serial == serial)
    }

    /// Returns the opening of a listener that accepts, if there is one.
    pub(super) fn accepting(&self, id: ListenerId) -> Option<&WayToListener> {
        self.openings.iter().rev().find(|way| way.id == id && way.is_open())
    }

    pub(super) fn is_paused(&self, id: ListenerId) -> bool {
        self.known.iter().any(|known| known.id == id && known.is_paused)
    }

    /// Pauses or resumes a listener. Returns whether it was paused, and its address; `None` if there is no such listener.
    pub(super) fn set_paused(&mut self, id: ListenerId, is_paused: bool) -> Option<(bool, Address)> {
        let known = self.known.iter_mut().find(|known| known.id == id)?;
        let was_paused = std::mem::replace(&mut known.is_paused, is_paused);
        Some((was_paused, known.local_addr.clone()))
    }

    /// Returns true if sockets of a listener are open.
    pub(super) fn has_opening(&self, id: ListenerId) -> bool {
        self.openings.iter().any(|way| way.id == id)
    }
}
