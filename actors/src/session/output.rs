//! Output: sends as much of the outbox as the kernel takes, and books a turn at its end.
//!
//! Not here: the methods that write (`context`), the end of a session (`close`).

use std::{
    io,
    task::{Context, Poll},
};

use crate::{
    limits::{OutboxLimit, OutboxPolicy},
    report::{CloseReason, Half},
    session::{
        handler::LineHandler,
        state::{Failure, Flags, Phase, Turn},
        user_code::Session,
    },
    worker::clock::Standing,
};

impl<A: LineHandler> Session<A> {
    /// Sends an answer from where it is, before whatever was written after it.
    pub(super) fn write_through(&mut self, mut answer: &[u8], cx: &mut Context<'_>, turn: &mut Turn) {
        // After an abort or our FIN nothing more is sent.
        while !answer.is_empty() && !self.ctx.has(Flags::ABORT | Flags::FIN_SENT) {
            match self.ctx.transport.poll_write(cx, answer) {
                Poll::Ready(Ok(0)) => {
                    turn.failure = Some((Half::Write, io::ErrorKind::WriteZero.into()));
                    break;
                }
                Poll::Ready(Ok(count)) => {
                    turn.counts.bytes_out += count as u64;
                    self.ctx.set(Flags::UNFLUSHED);
                    answer = &answer[count..];
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => {
                    turn.failure = self.write_failed(error).err();
                    break;
                }
                Poll::Pending => {
                    self.ctx.set(Flags::WRITE_REFUSED);
                    break;
                }
            }
        }
        if !answer.is_empty() {
            if let Some(upgrade) = self.ctx.upgrade_mut() {
                // Answered before it was asked for.
                upgrade.clear += answer.len();
            }
            // To be sent later, or to be counted as unsent.
            let outbox = match &mut self.ctx.outbox {
                Some(outbox) => outbox,
                None => self.ctx.borrow_outbox(),
            };
            outbox.push_front(answer);
            if outbox.len() > self.ctx.worker.high() {
                self.ctx.set(Flags::ABOVE_HIGH);
            }
        }
    }

    /// Sends what the kernel takes of the outbox.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Result<(), Failure> {
        if self.ctx.has(Flags::FIN_SENT | Flags::UPGRADING) && !self.may_flush(cx, turn)? {
            return Ok(());
        }
        self.send(0, cx, turn)
    }

    /// Returns true if the outbox may be sent, in rare states.
    #[cold]
    fn may_flush(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Result<bool, Failure> {
        if self.ctx.has(Flags::FIN_SENT) {
            self.discard_outbox(0);
        }
        Ok(!self.ctx.has(Flags::UPGRADING) || self.flush_in_clear(cx, turn)?)
    }

    /// Sends what the kernel takes of the outbox but for the `keep` newest bytes.
    #[inline]
    pub(super) fn send(&mut self, keep: usize, cx: &mut Context<'_>, turn: &mut Turn) -> Result<(), Failure> {
        if let Some(outbox) = &mut self.ctx.outbox {
            while outbox.len() > keep {
                let front = outbox.front();
                let front = &front[..front.len().min(outbox.len() - keep)];
                match self.ctx.transport.poll_write(cx, front) {
                    Poll::Ready(Ok(0)) => return Err((Half::Write, io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(count)) => {
                        turn.counts.bytes_out += count as u64;
                        outbox.advance(count);
                        self.ctx.flags.set(self.ctx.flags.get() | Flags::UNFLUSHED);
                    }
                    Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                    Poll::Ready(Err(error)) => {
                        self.write_failed(error)?;
                        self.discard_outbox(0);
                        return Ok(());
                    }
                    Poll::Pending => {
                        self.ctx.flags.set(self.ctx.flags.get() | Flags::WRITE_REFUSED);
                        break;
                    }
                }
            }
            if outbox.len() <= self.ctx.worker.low() && self.ctx.has(Flags::ABOVE_HIGH) {
                self.ctx.clear(Flags::ABOVE_HIGH);
                if self.ctx.extra.is_some() {
                    // A future of the actor's may have waited for that.
                    self.ctx.set(Flags::AGAIN);
                }
            }
        }
        if self.ctx.has(Flags::UNFLUSHED)
            && let Poll::Ready(result) = self.ctx.transport.poll_flush(cx)
        {
            result.map_err(|error| (Half::Write, error))?;
            self.ctx.clear(Flags::UNFLUSHED);
        }
        Ok(())
    }

    /// A write has failed: the socket's error, or a filter that takes nothing any more. Behind such a filter what the peer
    /// has sent is still delivered, what was written counts as unsent, and the session closes.
    #[cold]
    fn write_failed(&mut self, error: io::Error) -> Result<(), Failure> {
        if !self.ctx.transport.is_unwritable() {
            return Err((Half::Write, error));
        }
        // So nothing is sent any more.
        self.ctx.set(Flags::FIN_SENT | Flags::AGAIN);
        if self.ctx.phase == Phase::Open {
            self.log_fault();
            // What the filter has decoded comes first.
            self.ctx.set(Flags::LAST_READ);
            self.ctx.drain_because(match self.ctx.transport.ending() {
                Some(ending) => ending.reason(),
                None => CloseReason::PeerEof,
            });
        }
        Ok(())
    }

    /// Logs the fault of a filter, once.
    #[cold]
    pub(super) fn log_fault(&mut self) {
        let id = self.ctx.worker.slot(self.ctx.slot, |slot| slot.id);
        self.ctx.transport.log_fault(id);
    }

    /// Counts as unsent all but the `keep` oldest bytes of the outbox: they were written after our FIN, or for a filter that
    /// never was open.
    #[cold]
    pub(super) fn discard_outbox(&mut self, keep: usize) {
        let unsent = self.ctx.outbox_len().saturating_sub(keep);
        if let Some(outbox) = self.ctx.outbox.as_mut().filter(|_| unsent > 0) {
            outbox.truncate(keep);
            self.ctx.worker.slot(self.ctx.slot, |slot| slot.add_unsent(unsent));
        }
    }

    /// Sends the FIN of a session that goes on reading, once nothing is left to be written.
    #[cold]
    pub(super) fn half_close(&mut self, cx: &mut Context<'_>) {
        const NOT_YET: Flags =
            Flags::WAITING.union(Flags::AGAIN).union(Flags::UNFLUSHED).union(Flags::FIN_SENT).union(Flags::UPGRADING);
        // An error is that of the socket: the next read says it again.
        if self.ctx.outbox_len() == 0 && !self.ctx.has(NOT_YET) && self.ctx.transport.poll_shutdown(cx).is_ready() {
            self.ctx.set(Flags::FIN_SENT);
        }
    }

    /// True if more is left in the outbox than the session's policy allows. The kernel had its chance.
    #[cold]
    pub(super) fn is_overfull(&self) -> bool {
        let default = self.ctx.worker.limits().outbox_limit;
        let OutboxLimit { policy, hard, .. } = self.ctx.worker.slot(self.ctx.slot, |slot| slot.outbox_limit(default));
        policy == OutboxPolicy::Disconnect && self.ctx.outbox_len() > hard
    }

    /// True if a peer that has not taken anything for too long still has not.
    pub(super) fn is_stalled(&self) -> bool {
        let (ctx, Some(queue)) = (&self.ctx, self.ctx.transport.send_queue()) else { return true };
        ctx.worker.book_acknowledged(ctx.slot, queue.acknowledged);
        !ctx.worker.slot(ctx.slot, |slot| slot.has_progress())
    }

    /// Hands back what was on loan and adds up what the turn counted.
    pub(super) fn end_turn(&mut self, turn: &Turn) {
        if self.ctx.worker.measures_answers() {
            self.end_answer(turn);
        }
        let ctx = &mut self.ctx;
        let outbox_len = ctx.outbox_len();
        if ctx.has(Flags::LOAN) {
            if let Some(mut loan) = ctx.outbox.take() {
                ctx.clear(Flags::LOAN);
                if outbox_len > 0 {
                    ctx.outbox = Some(loan.take_fitted());
                }
                ctx.worker.return_outbox(loan);
            }
        } else if outbox_len == 0 {
            ctx.outbox = None;
        }
        let is_closing = match ctx.phase {
            Phase::Closing => true,
            // What the kernel holds may be much, and is nobody's after the close.
            Phase::Lingering => ctx.has(Flags::WRITE_REFUSED),
            _ => false,
        };
        const STILL: Flags = Flags::WAITING
            .union(Flags::PAUSED)
            .union(Flags::ABOVE_HIGH)
            .union(Flags::UNDELIVERED_LINES)
            .union(Flags::EOF_CALLED)
            .union(Flags::THROTTLED)
            .union(Flags::CROWDED)
            .union(Flags::UPGRADING);
        // What waits for a filter to open has the deadline of that.
        let is_writing = (outbox_len > 0 && !ctx.has(Flags::UPGRADING)) || ctx.has(Flags::UNFLUSHED) || is_closing;
        let standing = Standing::default()
            .with(Standing::OPEN, ctx.phase == Phase::Open)
            .with(Standing::PARTIAL, !ctx.input.is_empty() || ctx.has(Flags::PAYLOAD) || ctx.transport.held() > 0)
            .with(Standing::WRITING, is_writing)
            .with(Standing::STILL, ctx.has(STILL))
            .with(Standing::READING, turn.has_read_enough);
        let outbox_memory = ctx.outbox.as_ref().map_or(0, |outbox| outbox.memory());
        let memory = outbox_memory + ctx.input.capacity() + ctx.transport.memory();
        ctx.worker.end_turn(ctx.slot, &turn.counts, outbox_len, memory, standing);
    }
}
