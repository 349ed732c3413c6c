//! Preface: the part of a connection before its session, which its filters need: headers and handshakes.
//!
//! It has a place and a slot, so that it is bounded, listed and can be ended as any session, and it leaves a report; the actor is made
//! when it is over. It has a deadline; the worker bounds the number of those that wait, the transport their bytes.
//! Not here: what a filter makes of it (`wire/transport`), who is ended if too many wait (`worker/prefaces`).

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
};

use tokio::io::ReadBuf;

use crate::{
    report::{CloseReason, Half},
    session::opening::Opening,
    wire::transport::Ending,
    worker::command::Commands,
};

/// Bytes of a peer that are discarded behind the last word of a filter that has failed.
const DISCARD_BYTES: usize = 64 * 1024;

/// Commands that end a preface, and what that is in the report.
const ENDS: [(Commands, CloseReason); 9] = [
    (Commands::ABORT, CloseReason::Aborted),
    (Commands::EVICT, CloseReason::Evicted),
    (Commands::OVERFLOW, CloseReason::OutboxFull),
    (Commands::KICK, CloseReason::Kicked),
    (Commands::DRAIN.union(Commands::HALF_CLOSE), CloseReason::Drained),
    (Commands::AGE, CloseReason::MaxAge),
    (Commands::IDLE.union(Commands::LINE), CloseReason::IdleTimeout),
    (Commands::CROWD, CloseReason::PrefaceEvicted),
    (Commands::DEADLINE, CloseReason::PrefaceTimeout),
];

/// Commands that are the session's.
const LATER: Commands = Commands::PUSH;

impl Opening {
    /// Waits until its filters are open, and asks what they have found out. `None` if it has ended before: then it has
    /// left its report.
    pub(crate) async fn preface(mut self) -> Option<Self> {
        self.worker.set_deadline(self.slot, self.worker.limits().preface_timeout);
        let mut later = Commands::empty();
        let Some(reason) = poll_fn(|cx| self.poll_preface(cx, &mut later)).await else {
            let id = self.worker.slot(self.slot, |slot| {
                slot.clear_deadline();
                slot.id
            });
            self.worker.leave_preface(id);
            self.worker.send(self.slot, id, later);
            self.transport.learned(&mut self.connection.info);
            self.transport.forget_learned();
            return Some(self);
        };
        let id = self.worker.slot(self.slot, |slot| slot.id);
        self.transport.log_fault(id);
        self.worker.slot(self.slot, |slot| slot.set_reason(reason));
        if matches!(reason, CloseReason::FilterFailed | CloseReason::Truncated) && self.transport.has_spoken() {
            // Or a reset would destroy the filter's last word.
            poll_fn(|cx| self.poll_linger(cx)).await;
        }
        self.worker.leave_preface(id);
        self.fail(reason);
        None
    }

    /// Ready when the filters are open, or with the reason why they will not be.
    fn poll_preface(&mut self, cx: &mut Context<'_>, later: &mut Commands) -> Poll<Option<CloseReason>> {
        let commands = self.poll_commands(cx);
        later.insert(commands & LATER);
        if let Some((_, reason)) = ENDS.iter().find(|(ends, _)| commands.intersects(*ends)) {
            return Poll::Ready(Some(*reason));
        }
        if self.worker.is_draining() {
            return Poll::Ready(Some(CloseReason::Drained));
        }
        let Poll::Ready(result) = self.transport.poll_open(cx) else {
            self.worker.enter_preface(self.connection.id, self.slot);
            self.worker.hold_preface(self.slot, self.transport.memory());
            return Poll::Pending;
        };
        Poll::Ready(match (result, self.transport.ending()) {
            (Err(error), _) => Some(CloseReason::from_io(Half::Read, &error)),
            (Ok(()), Some(Ending::Truncated)) if !self.transport.is_open() => Some(CloseReason::Truncated),
            (Ok(()), Some(Ending::Failed)) if !self.transport.is_open() => Some(CloseReason::FilterFailed),
            (Ok(()), _) if !self.transport.is_open() => Some(CloseReason::PeerEof),
            (Ok(()), _) => None,
        })
    }

    /// Sends what is left of a filter's last word and the FIN, then discards until the peer closes, or its time is up.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_commands(cx).intersects(Commands::ABORT | Commands::DEADLINE | Commands::CROWD) {
            return Poll::Ready(());
        }
        if ready!(self.transport.poll_shutdown(cx)).is_err() {
            return Poll::Ready(());
        }
        self.transport.linger();
        let mut bytes = [0; 4096];
        for _ in 0..DISCARD_BYTES / bytes.len() {
            let mut buffer = ReadBuf::new(&mut bytes);
            match ready!(self.transport.poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => break,
            }
        }
        Poll::Ready(())
    }

    /// Takes the commands that have come, and is woken for the next ones.
    fn poll_commands(&mut self, cx: &Context<'_>) -> Commands {
        self.worker.slot(self.slot, |slot| slot.set_waker(cx.waker()));
        self.worker.take_commands(self.slot)
    }
}
