//! Host: makes sessions of the connections that arrive at one worker, by the listener that each came from.
//!
//! It learns of a listener before its first connection can arrive, by the same queue.
//! Not here: opening a session (`session/opening`), adding a listener (`doors`).

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::{Rc, Weak},
};

use crate::{
    caught::drop_caught,
    connection::ListenerId,
    control::orders::{Admitted, Lesson},
    framing::Framing,
    gate::Gates,
    listen::acceptor::{self, StartHere},
    server::protocol::Protocol,
    wire::filters::Filters,
    worker::{task, worker::Worker},
};

/// The sessions of one opening of a listener.
pub(super) struct Service {
    pub(super) serial: u64,
    pub(super) framing: Framing,
    pub(super) filters: Filters,
    pub(super) gates: Gates,
    pub(super) protocol: Box<dyn Protocol>,
}

/// News for a host.
pub(super) enum News {
    Serve(ListenerId, Service),
    /// Accept on this thread.
    Accept(acceptor::Parts),
}

pub(super) struct Host {
    worker: Weak<Worker>,
    services: RefCell<BTreeMap<usize, Rc<Service>>>,
    start_here: StartHere,
}

impl Host {
    pub(super) fn new(worker: &Rc<Worker>) -> Rc<Self> {
        let worker = Rc::downgrade(worker);
        Rc::new_cyclic(|host: &Weak<Self>| {
            let host = Weak::clone(host);
            let start_here: StartHere = Rc::new(move |admitted| {
                if let Some(host) = host.upgrade() {
                    task::Host::start(&host, admitted);
                }
            });
            Self { worker, services: RefCell::default(), start_here }
        })
    }
}

impl task::Host for Rc<Host> {
    fn start(&self, admitted: Admitted) {
        let listener = admitted.owed.connection().listener;
        // The factory may do what it likes: nothing is borrowed meanwhile.
        let service = listener.and_then(|listener| self.services.borrow().get(&listener.get()).cloned());
        if let Some(worker) = self.worker.upgrade()
            && let Some(service) = service
        {
            service.protocol.start(&worker, admitted, service.framing, &service.filters, &service.gates);
        }
    }

    fn learn(&self, lesson: Lesson) {
        match lesson.downcast::<News>().map(|news| *news) {
            Ok(News::Serve(listener, service)) => {
                let before = self.services.borrow_mut().insert(listener.get(), Rc::new(service));
                drop_caught(before);
            }
            Ok(News::Accept(parts)) => {
                actix_rt::spawn(acceptor::keep(parts, Some(Rc::clone(&self.start_here))));
            }
            // There are no others.
            Err(_) => {}
        }
    }

    fn forget(&self, listener: ListenerId, serial: u64) {
        let mut services = self.services.borrow_mut();
        let is_it = services.get(&listener.get()).is_some_and(|service| service.serial == serial);
        let service = is_it.then(|| services.remove(&listener.get()));
        drop(services);
        drop_caught(service);
    }
}
