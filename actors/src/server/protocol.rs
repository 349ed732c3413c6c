//! Protocol: the actor factory of a listener, of any actor type.
//!
//! Not here: cutting bytes into lines (`framing`), opening a session (`session/opening`).

use std::{marker::PhantomData, rc::Rc};

use crate::{
    connection::Connection,
    control::orders::Admitted,
    framing::Framing,
    report::{CloseReason, Half},
    session::{handler::LineHandler, opening::Opening},
    wire::transport::Transport,
    worker::worker::Worker,
};

/// A factory of actors of any type.
pub(super) trait Protocol: Send {
    /// Returns a copy for another thread.
    fn duplicate(&self) -> Box<dyn Protocol>;

    /// Makes a session of a connection that has arrived at its worker.
    fn start(&self, worker: &Rc<Worker>, admitted: Admitted, framing: Framing);
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

    fn start(&self, worker: &Rc<Worker>, Admitted { socket, owed }: Admitted, framing: Framing) {
        let connection = owed.connection().clone();
        let (transport, error) = match Transport::try_from(socket) {
            Ok(transport) => (transport, None),
            Err(error) => (Transport::closed(), Some(error)),
        };
        let opening = Opening::new(worker, transport, connection.clone(), owed.settle(), framing);
        if let Some(error) = error {
            opening.fail(CloseReason::Io(Half::Read, error.kind()));
        } else if let Err(panicked) = opening.open(|_| ((self.factory)(&connection), ())) {
            panicked.log();
        }
    }
}
