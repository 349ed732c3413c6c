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
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    caught::{dispose, drop_caught, panic_text},
    gate::{Answer, Asked, Gates, Permit},
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

/// Where a connection stands at its gates.
pub(crate) enum Stand {
    /// All have let it in.
    In,
    /// The gate with this number has yet to answer.
    At(usize, Asked),
    /// One has not let it in.
    Out(CloseReason),
}

impl Opening {
    /// Asks the gates from this one on, in their order, until one does not let the connection in at once.
    pub(crate) fn ask(&self, gates: &Gates, from: usize, left: impl Fn() -> Duration) -> Stand {
        for gate in from..gates.len() {
            // One that panics leaves nothing to wait for.
            match catch_unwind(AssertUnwindSafe(|| gates.ask(gate, &self.connection, left()))) {
                Ok(Some(Answer::Now(Ok(permit)))) => self.worker.keep_permit(self.connection.id, permit),
                Ok(Some(Answer::Now(Err(reason)))) => return Stand::Out(CloseReason::Refused(reason)),
                Ok(Some(Answer::Later(asked))) => return Stand::At(gate, asked),
                Ok(None) => break,
                Err(payload) => return Stand::Out(self.panicked(payload)),
            }
        }
        Stand::In
    }

    /// The same for all gates, of a connection that has not waited yet.
    pub(crate) fn ask_all(&self, gates: &Gates) -> Stand {
        self.ask(gates, 0, || self.worker.limits().preface_timeout)
    }

    /// Waits until all gates have let the connection in. `None` if it has ended before: then it has left its report.
    pub(crate) async fn pass(mut self, gates: &Gates, mut stand: Stand) -> Option<Self> {
        let id = self.connection.id;
        let time = self.worker.limits().preface_timeout;
        self.worker.set_deadline(self.slot, time);
        let begun = Instant::now();
        let mut later = Commands::empty();
        loop {
            stand = match stand {
                Stand::In => break,
                Stand::At(gate, mut asked) => {
                    let answer = poll_fn(|cx| self.poll_gate(cx, &mut asked, &mut later)).await;
                    drop_caught(asked);
                    match answer {
                        Ok(permit) => {
                            self.worker.keep_permit(id, permit);
                            self.ask(gates, gate + 1, || time.saturating_sub(begun.elapsed()))
                        }
                        Err(reason) => Stand::Out(reason),
                    }
                }
                Stand::Out(reason) => {
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
            };
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
