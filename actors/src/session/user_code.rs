//! User code: every call into it, of hooks, messages, futures and destructors, each caught if it panics.
//!
//! None happens while something shared is borrowed. After a panic no code of that actor runs again.
//! Not here: delivering lines (`input`), the order of drops at the end of a session (`close`).

use std::{
    any::Any,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use actix::{SpawnHandle, dev::EnvelopeProxy};
use futures::Stream;

use crate::{
    address::Origin,
    caught::{dispose, panic_text},
    report::CloseReason,
    session::{
        context::{Extra, LineContext},
        handler::{Idle, LineHandler},
        state::{Flags, Phase, Turn},
    },
    worker::worker::PANIC,
};

/// The one future of a session.
pub(super) struct Session<A: LineHandler> {
    pub(super) ctx: LineContext<A>,
    /// Gone after a panic, and at the end: it is dropped under a catch, not with the future.
    pub(super) actor: Option<A>,
}

impl<A: LineHandler> Session<A> {
    /// Calls into user code. `None` once it has panicked: then no code of this actor runs again.
    pub(super) fn guarded<R>(&mut self, call: impl FnOnce(&mut A, &mut LineContext<A>) -> R) -> Option<R> {
        let actor = self.actor.as_mut()?;
        let ctx = &mut self.ctx;
        match catch_unwind(AssertUnwindSafe(|| call(actor, ctx))) {
            Ok(result) => Some(result),
            Err(payload) => {
                self.panicked(&*payload);
                dispose(payload);
                None
            }
        }
    }

    /// Drops user state.
    pub(super) fn discard_state<T>(&mut self, state: T) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(state))) {
            self.panicked(&*payload);
            dispose(payload);
        }
    }

    #[cold]
    fn panicked(&mut self, payload: &(dyn Any + Send)) {
        let text = panic_text(payload);
        let first = !self.ctx.has(Flags::PANICKED);
        self.ctx.set(Flags::PANICKED | Flags::CLOSE | Flags::AGAIN);
        let (id, peer) = self.ctx.worker.slot(self.ctx.slot, |slot| {
            // It was not what ended the session, perhaps, but it is what somebody has to look into.
            slot.reason = Some(CloseReason::HandlerPanicked);
            (slot.id, slot.peer().clone())
        });
        if first && let Some(events) = self.ctx.worker.panics.pass(&PANIC, "") {
            log::error!(
                session = id.get(), peer = Origin(&peer), count = events;
                "session {id}{}: its handler panicked: {text}{events}", Origin(&peer)
            );
        }
    }

    pub(super) fn poll_waits(&mut self, cx: &mut Context<'_>) {
        while self.ctx.has(Flags::WAITING) && !self.ctx.has(Flags::STOP | Flags::ABORT | Flags::CLOSE) {
            let Some(mut newest) = self.ctx.extra().waits.pop() else {
                self.ctx.clear(Flags::WAITING);
                self.ctx.worker.slot(self.ctx.slot, |slot| slot.clear_deadline());
                break;
            };
            // The flag stays meanwhile: it counts as waiting.
            match self.guarded(|actor, ctx| newest.as_mut().poll(actor, ctx, cx)) {
                Some(Poll::Pending) => {
                    // Above those that it asked for, which come when it has ended: it may be what they need.
                    self.ctx.extra().waits.push(newest);
                    break;
                }
                Some(Poll::Ready(())) | None => self.discard_state(newest),
            }
        }
    }

    pub(super) fn poll_messages(&mut self, cx: &mut Context<'_>, budget: &mut u32, turn: &mut Turn) {
        while !self.ctx.has(Flags::WAITING | Flags::STOP | Flags::ABORT | Flags::CLOSE) {
            let Some(mailbox) = self.ctx.mailbox.get_mut() else { return };
            if *budget == 0 {
                turn.give_way = true;
                return;
            }
            let Poll::Ready(Some(mut message)) = Pin::new(mailbox).poll_next(cx) else { return };
            *budget -= 1;
            self.guarded(|actor, ctx| message.handle(actor, ctx));
            self.discard_state(message);
        }
    }

    pub(super) fn poll_items(&mut self, cx: &mut Context<'_>) {
        const NOT_NOW: Flags = Flags::WAITING.union(Flags::STOP).union(Flags::ABORT).union(Flags::CLOSE);
        let Some(extra) = &mut self.ctx.extra else { return };
        if extra.items.is_empty() || self.ctx.has(NOT_NOW) {
            return;
        }
        let extra = self.ctx.extra();
        extra.items_are_out = true;
        let mut items = mem::take(&mut extra.items);
        let mut at = 0;
        while at < items.len() && !self.ctx.has(NOT_NOW) {
            let handle = items[at].0;
            self.ctx.extra().current_handle = handle;
            let done = self.ctx.extra().cancelled.contains(&handle)
                || self
                    .guarded(|actor, ctx| items[at].1.as_mut().poll(actor, ctx, cx))
                    .is_none_or(|poll| poll.is_ready());
            if done {
                let item = items.remove(at);
                self.discard_state(item);
            } else {
                at += 1;
            }
        }
        if at < items.len() {
            // Whoever made us wait goes last next time, or it could keep the others from ever being polled.
            items.rotate_left(at);
        }
        let extra = self.ctx.extra();
        extra.items_are_out = false;
        extra.current_handle = SpawnHandle::default();
        items.append(&mut extra.items);
        let cancelled = mem::take(&mut extra.cancelled);
        let dropped: Vec<_> = items.extract_if(.., |(handle, _)| cancelled.contains(handle)).collect();
        self.ctx.extra().items = items;
        for item in dropped {
            self.discard_state(item);
        }
    }

    /// Drops the futures and messages in the actor's context, each under a `catch_unwind` of its own.
    pub(super) fn discard_context(&mut self) {
        let extra = self.ctx.extra.take();
        let mailbox = self.ctx.mailbox.take();
        if let Some(extra) = extra {
            let Extra { waits, items, .. } = *extra;
            for wait in waits {
                self.discard_state(wait);
            }
            for item in items {
                self.discard_state(item);
            }
        }
        if let Some(mut mailbox) = mailbox {
            // Taken out first: the mailbox drops its messages one after the other, and two that panic would end the process.
            let mut cx = Context::from_waker(Waker::noop());
            let mut messages = Vec::new();
            while let Poll::Ready(Some(message)) = Pin::new(&mut mailbox).poll_next(&mut cx) {
                messages.push(message);
            }
            self.discard_state(mailbox);
            for message in messages {
                self.discard_state(message);
            }
        }
    }

    /// `stopping()`, where its answer does not count.
    pub(super) fn call_stopping(&mut self) {
        if self.ctx.has(Flags::STARTED) && !self.ctx.has(Flags::STOPPING_CALLED | Flags::PANICKED) {
            // `state()` says so meanwhile.
            self.ctx.set(Flags::STOPPING_CALLED | Flags::STOP);
            self.guarded(|actor, ctx| actor.stopping(ctx));
        }
    }

    /// Calls `ending()`, after everything owed to the peer and all pushes.
    pub(super) fn call_ending(&mut self) {
        if self.ctx.has(Flags::STARTED) && !self.ctx.has(Flags::PANICKED | Flags::ABORT) {
            // `state()` says so, and another `stop()` changes nothing.
            self.ctx.set(Flags::STOP);
            let reason = self.ctx.worker.slot(self.ctx.slot, |slot| slot.reason_so_far());
            self.guarded(|actor, ctx| actor.ending(&reason, ctx));
        }
    }

    /// Tells the actor what a filter has told, if a read was interrupted for that.
    #[cold]
    pub(super) fn call_notice(&mut self) {
        if let Some(notice) = self.ctx.transport.take_notice() {
            self.guarded(|actor, ctx| actor.notice(&notice, ctx));
            self.discard_state(notice);
        }
    }

    /// The idle timeout is over: the handler decides what becomes of the session.
    pub(super) fn end_idle(&mut self) {
        const NOT_ASKED: Flags = Flags::STOP.union(Flags::ABORT).union(Flags::CLOSE);
        if self.ctx.has(Flags::WAITING) {
            // Since the verdict it has begun to wait: its idle clock stands still.
            return;
        }
        let mut answer = Some(Idle::End);
        if self.ctx.phase == Phase::Open && self.ctx.has(Flags::STARTED) && !self.ctx.has(NOT_ASKED) {
            answer = self.guarded(|actor, ctx| actor.idle(ctx));
        }
        match answer {
            Some(Idle::Stay) => self.ctx.worker.restart_idle_clock(self.ctx.slot),
            Some(Idle::End) => self.ctx.drain_because(CloseReason::IdleTimeout),
            // It has panicked, and closes.
            None => {}
        }
    }

    /// Tells the actor the number of messages missing before the next.
    #[inline]
    pub(super) fn call_missed(&mut self, messages: u64) {
        if messages == 0 || self.ctx.phase >= Phase::Closing || self.ctx.has(Flags::PANICKED | Flags::ABORT) {
            return;
        }
        if self.ctx.has(Flags::STARTED) {
            self.guarded(|actor, ctx| actor.missed(messages, ctx));
        } else {
            // No hook comes before `started`.
            self.ctx.worker.slot(self.ctx.slot, |slot| slot.miss(messages));
        }
    }
}

#[cfg(test)]
mod tests {
    use actix::Actor;

    use super::*;
    use crate::session::lines::Line;

    /// As large as an actor may be for its session to fit the smallest task cell: a `Vec`'s worth of state.
    struct Small {
        _state: [u64; 3],
    }

    impl Actor for Small {
        type Context = LineContext<Self>;
    }

    impl LineHandler for Small {
        fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {}
    }

    #[test]
    fn a_session_with_a_small_actor_fits_a_task_cell_of_256_bytes() {
        // tokio puts 96 bytes around a future and rounds up to 128: up to 160 bytes make a cell of 256.
        assert!(size_of::<Session<Small>>() <= 160, "{} bytes", size_of::<Session<Small>>());
    }
}
