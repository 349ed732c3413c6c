//! Listeners: the table of a server's listeners, of those that accept and those that are being closed.
//!
//! A listener is opened when it is added, and again when it is replaced: it keeps its number, its name and its pause, and
//! each opening has a serial number, an acceptor, and an order to close of its own.
//! Not here: the lock, and what follows of a change (`ways`); binding and launching (`server/doors`).

use std::{os::fd::OwnedFd, sync::Weak};

use actix::Recipient;
use tokio::sync::watch;

use crate::{
    address::Address,
    connection::ListenerId,
    control::orders::{Closing, ListenerOrder},
    error::BindError,
    limits::SessionLimits,
};

/// Listeners that one server can have had: their numbers have 16 bits, and no number is used twice.
const MOST_LISTENERS: usize = u16::MAX as usize;

/// A listener as its server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerInfo {
    /// Its id, for [`ServerHandle::pause`](crate::ServerHandle::pause) and
    /// [`SessionFilter`](crate::control::query::SessionFilter)s.
    pub id: ListenerId,
    /// The address that it is bound to, with its real port.
    pub local_addr: Address,
    /// True while it is paused.
    pub is_paused: bool,
}

/// Settings of an opening.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) address: Address,
    /// Does not keep the socket open.
    pub(crate) socket: Weak<OwnedFd>,
    /// The session limits; `None` is those of the server.
    pub(crate) limits: Option<SessionLimits>,
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
    pub(super) fn known(&self) -> &[ListenerInfo] {
        &self.known
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
    pub(super) fn add(&mut self, name: Option<&str>, site: Site) -> Result<(ListenerId, u64), BindError> {
        self.check(name)?;
        let number = u16::try_from(self.numbers).map_err(|_| BindError::TooMany)?;
        self.numbers += 1;
        let id = ListenerId::new(number, name);
        self.known.push(ListenerInfo { id, local_addr: site.address.clone(), is_paused: false });
        Ok((id, self.open(id, site)))
    }

    /// Opens a listener again, and has the opening before closed as `how` says. `None` if there is no such listener.
    pub(super) fn replace(&mut self, id: ListenerId, site: Site, how: Closing) -> Option<u64> {
        let known = self.known.iter_mut().find(|known| known.id == id)?;
        known.local_addr = site.address.clone();
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

    /// Orders the openings of one listener to be closed, or all.
    pub(super) fn close_all(&self, id: Option<ListenerId>, how: Closing) {
        self.openings.iter().filter(|way| id.is_none_or(|id| id == way.id)).for_each(|way| way.close(how));
    }

    /// Forgets an opening whose sockets are closed.
    pub(super) fn forget(&mut self, serial: u64) -> Option<WayToListener> {
        let index = self.openings.iter().position(|way| way.serial == serial)?;
        Some(self.openings.remove(index))
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

    /// Pauses or resumes a listener. Returns false if there is no such listener.
    pub(super) fn set_paused(&mut self, id: ListenerId, is_paused: bool) -> bool {
        let known = self.known.iter_mut().find(|known| known.id == id);
        known.is_some_and(|known| {
            known.is_paused = is_paused;
            true
        })
    }
}
