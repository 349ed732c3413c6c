//! Close: the end of a session, from its first reason to its report.
//!
//! Bytes written before are sent, then our FIN; bytes that the peer still sends are discarded. This file has the order
//! in which state is dropped, each part under a `catch_unwind` of its own.
//! Not here: the reasons (`turn`, `input`), the caught calls (`user_code`).

use std::{
    io, mem,
    task::{Context, Poll},
};

use actix::Running;
use tokio::io::ReadBuf;

use crate::{
    report::CloseReason,
    session::{
        handler::LineHandler,
        state::{Flags, Phase, Turn},
        user_code::Session,
    },
};

/// Reads of a lingering session that one turn discards.
const DISCARDS_PER_TURN: usize = 4;

impl<A: LineHandler> Session<A> {
    /// Does what `stop()` or a reason to close asked for.
    pub(super) fn consider_stop(&mut self) {
        if self.ctx.has(Flags::CLOSE) {
            self.begin_close();
        } else if self.ctx.has(Flags::STOP) {
            let vetoed = self.guarded(|actor, ctx| actor.stopping(ctx)) == Some(Running::Continue);
            self.ctx.clear(Flags::STOP);
            if vetoed {
                self.ctx.set(Flags::AGAIN);
            } else {
                self.ctx.set(Flags::STOPPING_CALLED);
                self.ctx.set_reason(self.ctx.own_reason());
                self.begin_close();
            }
        }
    }

    /// The actor has nothing more to say: from here on only its bytes leave.
    pub(super) fn begin_close(&mut self) {
        if self.ctx.phase >= Phase::Closing {
            return;
        }
        self.call_stopping();
        if self.ctx.has(Flags::GOODBYE) && !self.ctx.has(Flags::ABORT) {
            let goodbye = self.ctx.worker.goodbye();
            self.ctx.write_shared(goodbye);
        }
        self.call_ending();
        if self.ctx.has(Flags::UPGRADING) {
            self.abandon_upgrade();
        }
        let ctx = &mut self.ctx;
        ctx.phase = Phase::Closing;
        ctx.clear(Flags::WAITING | Flags::CLOSE | Flags::STOP | Flags::PAUSED | Flags::LAST_READ);
        ctx.set(Flags::AGAIN);
        let input = mem::take(&mut ctx.input);
        let rest = input.len() - ctx.start as usize;
        let payload = rest.min(usize::try_from(ctx.payload_left()).unwrap_or(usize::MAX));
        let tail = ctx.framing.tail_len(&input[ctx.start as usize + payload..]);
        ctx.clear(Flags::UNDELIVERED_LINES | Flags::PAYLOAD);
        ctx.worker.slot(ctx.slot, |slot| {
            slot.clear_deadline();
            slot.set_closing();
            slot.add_undelivered(rest);
            slot.add_tail(tail);
        });
        ctx.worker.leave_rooms(ctx.slot);
        self.discard_context();
        if self.ctx.has(Flags::PANICKED) {
            let actor = self.actor.take();
            self.discard_state(actor);
        }
    }

    pub(super) fn overflow(&mut self) {
        self.ctx.set_reason(CloseReason::OutboxFull);
        self.ctx.set(Flags::ABORT);
    }

    /// True if not a byte was ever written to the peer.
    pub(super) fn has_written_nothing(&self, turn: &Turn) -> bool {
        turn.counts.bytes_out == 0
            && !self.ctx.transport.has_spoken()
            && self.ctx.worker.slot(self.ctx.slot, |slot| slot.bytes_out()) == 0
    }

    /// True if the peer has acknowledged all that the kernel holds. Of one that never refused a write this is taken as
    /// read: what it may hold is bounded by `SocketOptions`, and not worth a question at each close.
    pub(super) fn is_acknowledged(&self) -> bool {
        !self.ctx.has(Flags::WRITE_REFUSED) || self.ctx.transport.send_queue().is_none_or(|queue| queue.is_empty)
    }

    /// Reads and discards until the peer has closed too, or the time for that is over; what the kernel still holds for
    /// the peer keeps the session's place until it is taken. Ready when the session is over: true if we close first.
    pub(super) fn linger(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<bool> {
        if !self.ctx.has(Flags::PEER_EOF | Flags::DISCARD_LIMIT) && self.discard(cx, turn).is_ready() {
            self.ctx.set(Flags::PEER_EOF);
        }
        if self.is_acknowledged() {
            // Nothing is written any more, so it stays so: from here on only the peer's close is waited for.
            self.ctx.clear(Flags::WRITE_REFUSED);
        }
        if self.ctx.has(Flags::WRITE_REFUSED) || !self.ctx.has(Flags::PEER_EOF | Flags::DISCARD_LIMIT | Flags::LINGERED)
        {
            return Poll::Pending;
        }
        if !self.ctx.has(Flags::PEER_EOF) && self.ctx.has(Flags::DISCARD_LIMIT) {
            self.ctx.set(Flags::RESET);
        }
        Poll::Ready(!self.ctx.has(Flags::PEER_EOF))
    }

    /// Reads and discards what is there, as far as it may. Ready when the peer has closed too.
    fn discard(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<()> {
        let mut scratch = self.ctx.worker.take_scratch();
        let mut reads = 0;
        let poll = loop {
            if reads == DISCARDS_PER_TURN {
                turn.give_way = true;
                break Poll::Pending;
            }
            let mut buffer = ReadBuf::new(&mut scratch);
            match self.ctx.transport.poll_read(cx, &mut buffer) {
                Poll::Pending => break Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    let count = buffer.filled().len();
                    turn.counts.bytes_in += count as u64;
                    if !self.ctx.worker.discard(self.ctx.slot, count) {
                        // A reset would destroy what the peer has yet to acknowledge, so that is asked for.
                        self.ctx.set(Flags::DISCARD_LIMIT | Flags::WRITE_REFUSED);
                        break Poll::Pending;
                    }
                    reads += 1;
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => reads += 1,
                Poll::Ready(_) => break Poll::Ready(()),
            }
        };
        self.ctx.worker.put_scratch(scratch);
        poll
    }

    /// The end: last hooks, then the slot with its report.
    pub(super) fn finish(&mut self, cut: bool, turn: Turn) -> Poll<()> {
        let cut = cut || self.ctx.has(Flags::ABORT);
        // `terminate()` skips `stopping()`; a dead socket does not, but has it know that there is no way back.
        if self.ctx.has(Flags::ABORT) {
            self.ctx.set(Flags::STOPPING_CALLED);
        }
        self.begin_close();
        let unsent = self.ctx.outbox_len();
        self.end_turn(&turn);
        self.ctx.outbox = None;
        if unsent > 0 {
            self.ctx.worker.slot(self.ctx.slot, |slot| slot.add_unsent(unsent));
        }
        if self.actor.is_some() && self.ctx.has(Flags::STARTED) {
            let report = self.ctx.worker.slot(self.ctx.slot, |slot| slot.report(cut));
            if self.guarded(|actor, _| actor.closed(&report)).is_some() {
                // `state()` says so from here on, as in `actix::Context`.
                self.ctx.phase = Phase::Closed;
                self.guarded(|actor, ctx| actor.stopped(ctx));
                // It may have spawned, and made itself an address once more.
                self.discard_context();
            }
        }
        let actor = self.actor.take();
        self.discard_state(actor);
        self.ctx.phase = Phase::Closed;
        // A peer that took too little would have the kernel hold the rest for minutes, where nobody counts it.
        if self.ctx.has(Flags::RESET) || (cut && self.ctx.has(Flags::WRITE_REFUSED)) {
            self.ctx.transport.reset_at_close();
        }
        if self.ctx.transport.hears_of_close() {
            let report = self.ctx.worker.slot(self.ctx.slot, |slot| slot.report(cut));
            self.ctx.transport.tell_closed(&report);
        }
        // Before its place is given back: there are never more sockets than places.
        let transport = self.ctx.transport.take();
        self.discard_state(transport);
        self.ctx.set(Flags::DONE);
        self.ctx.worker.close(self.ctx.slot, cut);
        Poll::Ready(())
    }
}
