//! Protocol: the actor factory of a listener, of any actor type.
//!
//! Not here: cutting bytes into lines (`framing`), opening a session (`session/opening`).

use std::{
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
};

use crate::{
    caught::{dispose, panic_text},
    connection::Connection,
    control::orders::Admitted,
    framing::Framing,
    gate::Gates,
    report::{CloseReason, Half},
    session::{gated::Stand, handler::LineHandler, opening::Opening},
    wire::{filters::Filters, transport::Transport},
    worker::worker::{PANIC, Worker},
};

/// A factory of actors of any type.
pub(super) trait Protocol: Send {
    /// Returns a copy for another thread.
    fn duplicate(&self) -> Box<dyn Protocol>;

    /// Makes a session of a connection that has arrived at its worker.
    fn start(&self, worker: &Rc<Worker>, admitted: Admitted, framing: Framing, filters: &Filters, gates: &Gates);
}

/// Sessions of the actor type `A`, made by `F`.
pub(super) struct Served<A, F> {
    factory: F,
    actor: PhantomData<fn() -> A>,
}

impl<A, F> Served<A, F> {
    pub(super) fn new(factory: F) -> Self {
        Self { factory, actor: PhantomData }
    }
}

impl<A, F> Protocol for Served<A, F>
where
    A: LineHandler,
    F: Fn(&Connection) -> A + Clone + Send + 'static,
{
    fn duplicate(&self) -> Box<dyn Protocol> {
        Box::new(Self::new(self.factory.clone()))
    }

    fn start(
        &self,
        worker: &Rc<Worker>,
        Admitted { socket, owed }: Admitted,
        framing: Framing,
        filters: &Filters,
        gates: &Gates,
    ) {
        let connection = owed.connection().clone();
        let (transport, failure) = match Transport::try_from(socket) {
            Ok(transport) if filters.is_empty() => (transport, None),
            Ok(transport) => match filter(transport, filters, &connection, worker) {
                Some(filtered) => (filtered, None),
                None => (Transport::closed(), Some(CloseReason::FilterFailed)),
            },
            Err(error) => (Transport::closed(), Some(CloseReason::Io(Half::Read, error.kind()))),
        };
        let opening = Opening::new(worker, transport, connection, owed.settle(), framing);
        if let Some(reason) = failure {
            opening.fail(reason);
        } else if opening.is_filtered() {
            // Boxed: each connection whose filters wait has room for it.
            let gates = (!gates.is_empty()).then(|| Box::new(gates.clone()));
            let factory = self.factory.clone();
            actix_rt::spawn(async move {
                let Some(opening) = opening.preface().await else { return };
                match gates {
                    None => open(opening, &factory),
                    // Boxed: a connection whose filters wait has no room for it, and without gates it is never there.
                    Some(gates) => {
                        let stand = opening.ask_all(&gates);
                        Box::pin(pass(opening, gates, stand, factory)).await;
                    }
                }
            });
        } else if let Err(reason) = opening.charge() {
            opening.fail(CloseReason::Refused(reason));
        } else {
            match opening.ask_all(gates) {
                Stand::In => open(opening, &self.factory),
                stand => drop(actix_rt::spawn(pass(opening, Box::new(gates.clone()), stand, self.factory.clone()))),
            }
        }
    }
}

/// Makes a session of a connection that all gates let in.
async fn pass<A: LineHandler>(opening: Opening, gates: Box<Gates>, stand: Stand, factory: impl Fn(&Connection) -> A) {
    if let Some(opening) = opening.pass(&gates, stand).await {
        open(opening, &factory);
    }
}

fn open<A: LineHandler>(opening: Opening, factory: &impl Fn(&Connection) -> A) {
    let connection = opening.connection().clone();
    if let Err(panicked) = opening.open(|_| (factory(&connection), ())) {
        panicked.log();
    }
}

/// Puts a listener's filters around a connection. `None`, and the connection closed, if a factory panics.
fn filter(transport: Transport, filters: &Filters, connection: &Connection, worker: &Worker) -> Option<Transport> {
    let mut filtered = transport;
    let mut made = filters.make(connection);
    loop {
        // One at a time: a destructor of those that are made already does not run while a panic unwinds.
        match catch_unwind(AssertUnwindSafe(|| made.next())) {
            Ok(Some(layer)) => filtered = filtered.with_layer(layer),
            Ok(None) => return Some(filtered),
            Err(payload) => {
                if let Some(events) = worker.panics.pass(&PANIC, "") {
                    let text = panic_text(&*payload);
                    let id = connection.id();
                    log::error!(session = id.get(), count = events; "session {id}: the factory of a filter panicked: {text}{events}");
                }
                dispose(payload);
                return None;
            }
        }
    }
}
