//! Turn: one poll of a session's future.
//!
//! A turn takes commands, polls the future that the actor waits for, its messages and its futures, then writes,
//! delivers and reads. Whole lines are answered in the worker's scratch; only a partial line, undelivered lines, and
//! output that the kernel refused are the session's own. Every call into user code is caught if it panics, and none
//! happens while something shared is borrowed.
//! Not here: an actor's requests (`context`), delimiters (`framing`), the clock and the slots (`worker`), the parts of
//! a turn (`user_code`, `input`, `output`, `close`).

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use actix::ActorContext;

use crate::{
    limits::{MESSAGES_PER_TURN, ROUNDS_PER_TURN},
    report::CloseReason,
    session::{
        handler::LineHandler,
        state::{Failure, Flags, Phase, Turn},
        user_code::Session,
    },
    worker::command::Commands,
};

impl<A: LineHandler> Session<A> {
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut turn = Turn::default();
        let mut messages = MESSAGES_PER_TURN;
        let mut rounds = ROUNDS_PER_TURN;
        let commands = self.ctx.worker.take_commands(self.ctx.slot);
        if !commands.is_empty() {
            self.apply(commands);
        }
        if self.ctx.has(Flags::CROWDED) && !self.ctx.worker.is_crowded(self.ctx.slot) {
            self.ctx.clear(Flags::CROWDED);
        }
        if !self.ctx.has(Flags::STARTED) {
            self.ctx.set(Flags::STARTED);
            // A task's waker is the same in each of its turns.
            self.ctx.worker.slot(self.ctx.slot, |slot| slot.set_waker(cx.waker()));
            if self.ctx.worker.is_draining() {
                self.ctx.drain_with_server();
            }
            if self.guarded(|actor, ctx| actor.started(ctx)).is_some() && !self.ctx.has(Flags::ABORT) {
                self.guarded(|actor, ctx| actor.opened(ctx));
            }
        }
        loop {
            self.ctx.clear(Flags::AGAIN);
            if self.ctx.has(Flags::ABORT) {
                return self.finish(true, turn);
            }
            if self.ctx.phase < Phase::Closing {
                self.poll_waits(cx);
                self.poll_messages(cx, &mut messages, &mut turn);
                self.poll_items(cx);
                self.consider_stop();
            }
            if self.ctx.has(Flags::ABORT) {
                continue;
            }
            if rounds == 0 && self.ctx.has(Flags::AGAIN) {
                // The socket gets its share of this turn, and a session that has to close closes.
                self.ctx.clear(Flags::AGAIN);
                turn.give_way = true;
            }
            let result = match self.ctx.phase {
                Phase::Open | Phase::Draining => self.exchange(cx, &mut turn),
                Phase::Closing => self.flush(cx, &mut turn),
                Phase::Lingering | Phase::Closed => Ok(()),
            };
            if let Err((half, error)) = result {
                self.ctx.set_reason(CloseReason::from_io(half, &error));
                return self.finish(false, turn);
            }
            if self.ctx.has(Flags::AGAIN) {
                if rounds > 0 || self.ctx.has(Flags::ABORT) {
                    rounds = rounds.saturating_sub(1);
                    continue;
                }
                turn.give_way = true;
            }
            if self.ctx.phase == Phase::Open && self.ctx.has(Flags::HALF_CLOSE) && messages > 0 {
                self.half_close(cx);
            }
            if self.ctx.has(Flags::LAST_READ) && turn.counts.bytes_in > 0 && !self.ctx.has(Flags::PEER_EOF) {
                // Something holds the session back behind its last read. What comes meanwhile comes too late, or a peer that
                // sends on would be read after each wait; an end that is there already counts.
                let ends = self.ctx.transport.is_at_eof();
                if ends { self.ctx.set(Flags::PEER_EOF) } else { self.ctx.clear(Flags::LAST_READ) }
            }
            if self.ctx.phase == Phase::Draining
                && !self.ctx.has(Flags::UNDELIVERED_LINES | Flags::WAITING | Flags::LAST_READ)
            {
                self.begin_close();
                continue;
            }
            if self.ctx.phase == Phase::Closing && self.ctx.outbox_len() == 0 && !self.ctx.has(Flags::UNFLUSHED) {
                let is_owed_nothing = self.has_written_nothing(&turn) || self.is_acknowledged();
                // The peer's EOF was read, so nothing of its bytes is left that could turn our close into a reset.
                if self.ctx.has(Flags::PEER_EOF) && is_owed_nothing && self.ctx.transport.closes_when_dropped() {
                    return self.finish(false, turn);
                }
                match self.ctx.transport.poll_shutdown(cx) {
                    Poll::Pending => {}
                    Poll::Ready(Err(_)) => return self.finish(false, turn),
                    // Nothing of ours is on its way that a reset could destroy.
                    Poll::Ready(Ok(())) if self.has_written_nothing(&turn) => return self.finish(false, turn),
                    Poll::Ready(Ok(())) => {
                        self.ctx.phase = Phase::Lingering;
                        if self.ctx.transport.linger() {
                            // A filter has said it: the stream below may still bring something.
                            self.ctx.clear(Flags::PEER_EOF);
                        }
                        self.ctx.worker.set_deadline(self.ctx.slot, self.ctx.worker.limits().linger_timeout);
                    }
                }
            }
            if self.ctx.phase == Phase::Lingering
                && let Poll::Ready(cut) = self.linger(cx, &mut turn)
            {
                return self.finish(cut, turn);
            }
            break;
        }
        if self.ctx.has(Flags::ABOVE_HIGH) && self.is_overfull() {
            self.overflow();
            return self.finish(true, turn);
        }
        if turn.give_way {
            self.ctx.worker.count_yield();
            // Waking ourselves would let this task run again before the driver is asked; this defers it behind that.
            let _ = std::pin::pin!(tokio::task::yield_now()).poll(cx);
        }
        self.end_turn(&turn);
        Poll::Pending
    }

    fn apply(&mut self, commands: Commands) {
        if commands.contains(Commands::ABORT) {
            self.ctx.terminate();
        }
        if commands.contains(Commands::PUSH) {
            // Before any end that came with it: a goodbye is written by a session that may then close.
            for push in self.ctx.worker.slot(self.ctx.slot, |slot| slot.take_pushed()) {
                self.call_missed(push.missed);
                self.ctx.write_shared(push.bytes);
            }
        }
        if commands.contains(Commands::TRACE) {
            let taps = self.ctx.worker.slot(self.ctx.slot, |slot| slot.take_taps());
            self.ctx.transport.set_taps(taps);
        }
        if commands.contains(Commands::REFILL) {
            self.ctx.clear(Flags::THROTTLED);
        }
        if commands.contains(Commands::OVERFLOW) {
            self.overflow();
        }
        if commands.contains(Commands::EVICT) {
            self.ctx.set_reason(CloseReason::Evicted);
            self.ctx.set(Flags::ABORT);
        }
        if commands.contains(Commands::LOOK) {
            self.ctx.set(Flags::ASK_KERNEL);
        }
        if commands.contains(Commands::PROBE)
            && let Some(queue) = self.ctx.transport.send_queue()
        {
            self.ctx.worker.book_acknowledged(self.ctx.slot, queue.acknowledged);
        }
        if commands.contains(Commands::STALL) && self.is_stalled() {
            self.ctx.worker.slot(self.ctx.slot, |slot| {
                // A peer's EOF is the reason only where every reply owed was sent.
                slot.reason = slot.reason.filter(|reason| *reason != CloseReason::PeerEof);
                slot.set_reason(CloseReason::WriteStalled);
            });
            self.ctx.set(Flags::ABORT);
        }
        for (command, reason) in [
            (Commands::KICK, CloseReason::Kicked),
            (Commands::AGE, CloseReason::MaxAge),
            (Commands::LINE, CloseReason::LineTimeout),
        ] {
            if commands.contains(command) {
                self.ctx.drain_because(reason);
            }
        }
        if commands.contains(Commands::IDLE) {
            self.end_idle();
        }
        if commands.contains(Commands::DRAIN) {
            self.ctx.drain_with_server();
        }
        if commands.contains(Commands::HALF_CLOSE) && self.ctx.phase == Phase::Open {
            self.ctx.set_reason(CloseReason::Drained);
            self.ctx.half_close();
        }
        if commands.contains(Commands::DEADLINE) {
            if self.ctx.phase == Phase::Lingering {
                self.ctx.set(Flags::LINGERED);
            } else if self.ctx.has(Flags::WAITING) {
                self.ctx.set_reason(CloseReason::WaitTimeout);
                self.ctx.set(Flags::CLOSE);
            } else if self.ctx.has(Flags::UPGRADING) {
                self.ctx.set_reason(CloseReason::UpgradeTimeout);
                self.ctx.set(Flags::CLOSE);
            }
        }
    }

    /// Writes, delivers and reads, until the peer, the handler or fairness says stop.
    fn exchange(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Result<(), Failure> {
        loop {
            if self.ctx.has(Flags::ABORT) {
                return Ok(());
            }
            self.flush(cx, turn)?;
            self.reframe();
            if self.ctx.has(Flags::INTERRUPT) {
                return self.upgrade(cx);
            }
            if self.ctx.has(Flags::UNDELIVERED_LINES) {
                if !self.ctx.accepts_input() {
                    return Ok(());
                }
                if turn.has_had_its_share {
                    turn.give_way = true;
                    return Ok(());
                }
                self.deliver_own(cx, turn);
                turn.failure.take().map_or(Ok(()), Err)?;
                continue;
            }
            let reads = self.ctx.phase == Phase::Open || self.ctx.has(Flags::LAST_READ);
            if !reads || !self.ctx.accepts_input() {
                return Ok(());
            }
            if self.ctx.has(Flags::EOF_CALLED) {
                self.ctx.clear(Flags::LAST_READ);
                return Ok(());
            }
            if self.ctx.has(Flags::PEER_EOF) {
                self.call_eof(turn);
                continue;
            }
            if turn.has_read_enough {
                // In a drain that was the last.
                turn.give_way = !self.ctx.has(Flags::LAST_READ);
                self.ctx.clear(Flags::LAST_READ);
                return Ok(());
            }
            if !self.read(cx, turn)? {
                self.ctx.clear(Flags::LAST_READ);
                return Ok(());
            }
        }
    }
}

impl<A: LineHandler> Future for Session<A> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let session = self.get_mut();
        let began = session.ctx.worker.begin_turn();
        let poll = session.turn(cx);
        session.ctx.worker.check_turn(session.ctx.slot, began);
        poll
    }
}

/// The arbiter stops under the session, its task is aborted, or its actor could not be made: a last attempt to send, and
/// the report.
impl<A: LineHandler> Drop for Session<A> {
    fn drop(&mut self) {
        if self.ctx.has(Flags::DONE) {
            return;
        }
        self.ctx.set_reason(CloseReason::WorkerStopped);
        // What the kernel holds may still arrive: nobody is left who would need the place.
        self.ctx.clear(Flags::WRITE_REFUSED);
        let mut turn = Turn::default();
        self.begin_close();
        if let Some(outbox) = &mut self.ctx.outbox {
            while outbox.len() > 0 {
                let count = self.ctx.transport.write_now(outbox.front());
                if count == 0 {
                    break;
                }
                turn.counts.bytes_out += count as u64;
                outbox.advance(count);
            }
        }
        let _ = self.finish(true, turn);
    }
}
