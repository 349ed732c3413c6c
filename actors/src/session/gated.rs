//! Gated: a connection that waits at its server's gates, before its session.
//!
//! It has a place and a slot, so that it is bounded, listed and can be ended as any session, and it leaves a report. Nothing of
//! it is read: what its peer has sent already is the session's. A drain lets it wait on, since lines may be there that are
//! owed answers: the session that comes of it drains. It has a deadline.
//! Not here: what gates are (`gate`), the part of filters (`preface`).

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    task::{Context, Poll},
};

use tokio::time::Instant;

use crate::{
    caught::{dispose, drop_caught, panic_text},
    gate::{Asked, Gates, Permit},
    report::{CloseReason, RefuseReason},
    session::opening::Opening,
    worker::{command::Commands, worker::PANIC},
};

/// Commands that end the wait, and what that is in the report.
const ENDS: [(Commands, CloseReason); 5] = [
    (Commands::ABORT, CloseReason::Aborted),
    (Commands::EVICT, CloseReason::Evicted),
    (Commands::OVERFLOW, CloseReason::OutboxFull),
    (Commands::KICK, CloseReason::Kicked),
    (Commands::AGE, CloseReason::MaxAge),
];

/// Commands that are the session's.
const LATER: Commands = Commands::PUSH.union(Commands::TRACE).union(Commands::DRAIN).union(Commands::HALF_CLOSE);

/// What a gate answers, and whether it was late.
type Answered = Result<Permit, CloseReason>;

impl Opening {
    /// Waits until all gates have let the connection in. `None` if it has ended before: then it has left its report.
    pub(crate) async fn pass(mut self, gates: &Gates) -> Option<Self> {
        let id = self.connection.id;
        let time = self.worker.limits().preface_timeout;
        self.worker.set_deadline(self.slot, time);
        let begun = Instant::now();
        let mut later = Commands::empty();
        for gate in 0..gates.len() {
            // One that panics leaves nothing to wait for.
            let left = time.saturating_sub(begun.elapsed());
            let asked = catch_unwind(AssertUnwindSafe(|| gates.ask(gate, &self.connection, left)));
            let answer = match asked {
                Ok(Some(mut asked)) => {
                    let answer = poll_fn(|cx| self.poll_gate(cx, &mut asked, &mut later)).await;
                    drop_caught(asked);
                    answer
                }
                Ok(None) => break,
                Err(payload) => Err(self.panicked(payload)),
            };
            match answer {
                Ok(permit) => self.worker.keep_permit(id, permit),
                Err(reason) => {
                    self.worker.slot(self.slot, |slot| {
                        slot.set_reason(reason);
                        slot.set_closing();
                    });
                    if let CloseReason::Refused(reason) = reason {
                        self.worker.refuse_at_gate(self.slot, &self.connection, reason);
                        // Boxed: every connection that waits would have room for it.
                        Box::pin(self.tell_refused(reason)).await;
                    }
                    self.fail(reason);
                    return None;
                }
            }
        }
        self.worker.slot(self.slot, |slot| slot.clear_deadline());
        // It was not its peer who kept its first line from coming.
        self.worker.restart_idle_clock(self.slot);
        self.worker.send(self.slot, id, later);
        Some(self)
    }

    /// Ready with the permit, or with the reason of the end.
    fn poll_gate(&mut self, cx: &mut Context<'_>, asked: &mut Asked, later: &mut Commands) -> Poll<Answered> {
        let commands = self.poll_commands(cx);
        later.insert(commands & LATER);
        if let Some((_, reason)) = ENDS.iter().find(|(ends, _)| commands.intersects(*ends)) {
            return Poll::Ready(Err(*reason));
        }
        match catch_unwind(AssertUnwindSafe(|| asked.as_mut().poll(cx))) {
            Ok(Poll::Ready(answer)) => Poll::Ready(answer.map_err(CloseReason::Refused)),
            Ok(Poll::Pending) if commands.contains(Commands::DEADLINE) => {
                Poll::Ready(Err(CloseReason::Refused(RefuseReason::GateTimeout)))
            }
            Ok(Poll::Pending) => Poll::Pending,
            Err(payload) => Poll::Ready(Err(self.panicked(payload))),
        }
    }

    #[cold]
    fn panicked(&self, payload: Box<dyn std::any::Any + Send>) -> CloseReason {
        if let Some(events) = self.worker.panics.pass(&PANIC, "") {
            let (id, text) = (self.connection.id, panic_text(&*payload));
            log::error!(session = id.get(), count = events; "session {id}: its gate panicked: {text}{events}");
        }
        dispose(payload);
        CloseReason::HandlerPanicked
    }
}
