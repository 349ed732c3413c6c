//! How a session begins.
//!
//! Not here: what it does from then on (`turn`).

use std::{
    cell::{Cell, OnceCell},
    rc::Rc,
};

use actix::{Addr, AsyncContext};
use tokio::sync::oneshot;

use crate::{
    connection::Connection,
    control::admission::Place,
    framing::{Framing, Overrun},
    report::CloseReport,
    session::{
        context::LineContext,
        handler::LineHandler,
        state::{Flags, Phase},
        user_code::Session,
    },
    wire::transport::Transport,
    worker::worker::Worker,
};

impl<A: LineHandler> Session<A> {
    /// Spawns a session on the current arbiter.
    pub(crate) fn start(
        worker: &Rc<Worker>,
        transport: Transport,
        connection: &Connection,
        place: Option<Place>,
        framing: Framing,
        actor: A,
    ) {
        Self::create(worker, transport, connection, place, framing, |_| (actor, ()));
    }

    /// Spawns a session whose end somebody waits for: returns its address, its slot, and what its report comes by.
    pub(crate) fn start_watched(
        worker: &Rc<Worker>,
        transport: Transport,
        connection: &Connection,
        framing: Framing,
        actor: A,
    ) -> (Addr<A>, u32, oneshot::Receiver<CloseReport>) {
        let (report_to, report) = oneshot::channel();
        let (address, slot) = Self::create(worker, transport, connection, None, framing, |ctx| {
            ctx.worker.slot(ctx.slot, |slot| slot.set_report_to(report_to));
            let known = (ctx.address(), ctx.slot);
            (actor, known)
        });
        (address, slot, report)
    }

    /// Spawns a session whose actor is made with its context at hand; returns what is made besides.
    pub(crate) fn create<R>(
        worker: &Rc<Worker>,
        transport: Transport,
        connection: &Connection,
        place: Option<Place>,
        framing: Framing,
        make: impl FnOnce(&mut LineContext<A>) -> (A, R),
    ) -> R {
        let mut session = Self {
            ctx: LineContext {
                transport,
                worker: Rc::clone(worker),
                mailbox: OnceCell::new(),
                extra: None,
                outbox: None,
                input: Vec::new(),
                start: 0,
                scanned: 0,
                slot: worker.open(connection, place),
                flags: Cell::new(Flags::empty()),
                framing,
                phase: Phase::Open,
                overrun: Overrun::None,
            },
            actor: None,
        };
        let (actor, result) = make(&mut session.ctx);
        session.actor = Some(actor);
        actix_rt::spawn(session);
        result
    }
}
