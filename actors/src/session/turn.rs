//! A session: one future, one task, one socket.
//!
//! A turn hears commands, polls what the actor waits for, its messages and its futures, then writes, delivers and reads.
//! Whole lines are answered in the worker's scratch; only a partial line, held lines, and what the kernel refused are the
//! session's own. Every call into user code is caught if it panics, and none happens while something shared is borrowed.
//! Not here: what an actor may ask for (`context`), where lines end (`framing`), the clock and the slots (`worker`).

use std::{
    any::Any,
    cell::{Cell, OnceCell},
    future::Future,
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use actix::{ActorContext, Addr, AsyncContext, Running, SpawnHandle, dev::EnvelopeProxy};
use futures::Stream;
use tokio::{io::ReadBuf, sync::oneshot};

use super::context::{Extra, LineContext, Phase, flag};

use crate::{
    caught::{dispose, panic_text},
    connection::Connection,
    control::admission::Place,
    framing::{self, Framing, Overrun, Reach, SLACK_BYTES, Step},
    limits::{
        CARRY_BYTES, MESSAGES_PER_TURN, OutboxLimit, OutboxPolicy, READS_PER_TURN, ROUNDS_PER_TURN, SCRATCH_BYTES,
    },
    rate::{Grant, Unit},
    report::{CloseReason, CloseReport, Half},
    session::{
        handler::LineHandler,
        lines::{Line, Lines, Payload},
    },
    wire::transport::Transport,
    worker::{
        clock::Standing,
        command::{Command, Commands},
        reports::Counts,
        worker::Worker,
    },
};

/// Reads of a lingering session that one turn discards.
const DISCARDS_PER_TURN: usize = 4;

/// How the work on the socket failed.
type Failure = (Half, io::Error);

/// The one future of a session.
pub(crate) struct Session<A: LineHandler> {
    ctx: LineContext<A>,
    /// Gone after a panic, and at the end: it is dropped under a catch, not with the future.
    actor: Option<A>,
}

/// What is counted and remembered within one turn only.
#[derive(Default)]
struct Turn {
    counts: Counts,
    reads: u32,
    /// There may be more to read, but others come first.
    has_read_enough: bool,
    /// There are more lines, but the others of its rate group come first.
    has_had_its_share: bool,
    /// Something is left for another turn, which nobody else will wake us for.
    give_way: bool,
    /// The socket failed in the middle of a delivery, which has to say first how far it came.
    failure: Option<Failure>,
}

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
                flags: Cell::new(0),
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

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut turn = Turn::default();
        let mut messages = MESSAGES_PER_TURN;
        let mut rounds = ROUNDS_PER_TURN;
        let commands = self.ctx.worker.take_commands(self.ctx.slot);
        if !commands.is_empty() {
            self.obey(commands);
        }
        if self.ctx.has(flag::CROWDED) && !self.ctx.worker.is_crowded(self.ctx.slot) {
            self.ctx.clear(flag::CROWDED);
        }
        if !self.ctx.has(flag::STARTED) {
            self.ctx.set(flag::STARTED);
            // A task's waker is the same in each of its turns.
            self.ctx.worker.slot(self.ctx.slot, |slot| slot.set_waker(cx.waker()));
            if self.ctx.worker.is_draining() {
                self.ctx.drain_with_server();
            }
            if self.guarded(|actor, ctx| actor.started(ctx)).is_some() && !self.ctx.has(flag::ABORT) {
                self.guarded(|actor, ctx| actor.opened(ctx));
            }
        }
        loop {
            self.ctx.clear(flag::AGAIN);
            if self.ctx.has(flag::ABORT) {
                return self.finish(true, turn);
            }
            if self.ctx.phase < Phase::Closing {
                self.poll_waits(cx);
                self.poll_messages(cx, &mut messages, &mut turn);
                self.poll_items(cx);
                self.consider_stop();
            }
            if self.ctx.has(flag::ABORT) {
                continue;
            }
            if rounds == 0 && self.ctx.has(flag::AGAIN) {
                // The socket gets its share of this turn, and a session that has to close closes.
                self.ctx.clear(flag::AGAIN);
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
            if self.ctx.has(flag::AGAIN) {
                if rounds > 0 || self.ctx.has(flag::ABORT) {
                    rounds = rounds.saturating_sub(1);
                    continue;
                }
                turn.give_way = true;
            }
            if self.ctx.phase == Phase::Open && self.ctx.has(flag::HALF_CLOSE) && messages > 0 {
                self.half_close(cx);
            }
            if self.ctx.has(flag::LAST_READ) && turn.counts.bytes_in > 0 && !self.ctx.has(flag::PEER_EOF) {
                // Something holds the session back behind its last read. What comes meanwhile comes too late, or a peer that
                // sends on would be read after each wait; an end that is there already counts.
                let ends = self.ctx.transport.is_at_eof();
                if ends { self.ctx.set(flag::PEER_EOF) } else { self.ctx.clear(flag::LAST_READ) }
            }
            if self.ctx.phase == Phase::Draining && !self.ctx.has(flag::HELD | flag::WAITING | flag::LAST_READ) {
                self.begin_close();
                continue;
            }
            if self.ctx.phase == Phase::Closing && self.ctx.outbox_len() == 0 && !self.ctx.has(flag::UNFLUSHED) {
                let is_owed_nothing = self.has_written_nothing(&turn) || self.is_acknowledged();
                // The peer's EOF was read, so nothing of its bytes is left that could turn our close into a reset.
                if self.ctx.has(flag::PEER_EOF) && is_owed_nothing && self.ctx.transport.closes_when_dropped() {
                    return self.finish(false, turn);
                }
                match self.ctx.transport.poll_shutdown(cx) {
                    Poll::Pending => {}
                    Poll::Ready(Err(_)) => return self.finish(false, turn),
                    // Nothing of ours is on its way that a reset could destroy.
                    Poll::Ready(Ok(())) if self.has_written_nothing(&turn) => return self.finish(false, turn),
                    Poll::Ready(Ok(())) => {
                        self.ctx.phase = Phase::Lingering;
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
        if self.ctx.has(flag::ABOVE) && self.is_overfull() {
            self.overflow();
            return self.finish(true, turn);
        }
        if turn.give_way {
            self.ctx.worker.count_cut();
            // Waking ourselves would let this task run again before the driver is asked; this defers it behind that.
            let _ = std::pin::pin!(tokio::task::yield_now()).poll(cx);
        }
        self.end_turn(&turn);
        Poll::Pending
    }

    /// Sends the FIN of a session that goes on reading, once nothing is left to be written.
    #[cold]
    fn half_close(&mut self, cx: &mut Context<'_>) {
        const NOT_YET: u32 = flag::WAITING | flag::AGAIN | flag::UNFLUSHED | flag::FIN_SENT;
        // An error is that of the socket: the next read says it again.
        if self.ctx.outbox_len() == 0 && !self.ctx.has(NOT_YET) && self.ctx.transport.poll_shutdown(cx).is_ready() {
            self.ctx.set(flag::FIN_SENT);
        }
    }

    /// Hands back what was on loan and adds up what the turn counted.
    fn end_turn(&mut self, turn: &Turn) {
        let ctx = &mut self.ctx;
        let outbox_len = ctx.outbox_len();
        if ctx.has(flag::LOAN) {
            if let Some(mut loan) = ctx.outbox.take() {
                ctx.clear(flag::LOAN);
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
            Phase::Lingering => ctx.has(flag::REFUSED),
            _ => false,
        };
        let held =
            flag::WAITING | flag::PAUSED | flag::ABOVE | flag::HELD | flag::EOF_SAID | flag::THROTTLED | flag::CROWDED;
        let standing = Standing::default()
            .with(Standing::OPEN, ctx.phase == Phase::Open)
            .with(Standing::PARTIAL, !ctx.input.is_empty() || ctx.has(flag::PAYLOAD))
            .with(Standing::WRITING, outbox_len > 0 || ctx.has(flag::UNFLUSHED) || is_closing)
            .with(Standing::STILL, ctx.has(held))
            .with(Standing::READING, turn.has_read_enough);
        let memory = ctx.outbox.as_ref().map_or(0, |outbox| outbox.memory()) + ctx.input.capacity();
        ctx.worker.end_turn(ctx.slot, &turn.counts, outbox_len, memory, standing);
    }

    /// Whether more is left in the outbox than a session with this policy may leave there. The kernel had its chance.
    #[cold]
    fn is_overfull(&self) -> bool {
        let default = self.ctx.worker.limits().outbox_limit;
        let OutboxLimit { policy, hard, .. } = self.ctx.worker.slot(self.ctx.slot, |slot| slot.outbox_limit(default));
        policy == OutboxPolicy::Disconnect && self.ctx.outbox_len() > hard
    }

    fn overflow(&mut self) {
        self.ctx.set_reason(CloseReason::OutboxFull);
        self.ctx.set(flag::ABORT);
    }

    fn obey(&mut self, commands: Commands) {
        if commands.has(Command::Abort) {
            self.ctx.terminate();
        }
        if commands.has(Command::Push) {
            // Before any end that came with it: a goodbye is written by a session that may then close.
            for push in self.ctx.worker.slot(self.ctx.slot, |slot| slot.take_pushed()) {
                self.tell_missed(push.missed);
                self.ctx.write_shared(push.bytes);
            }
        }
        if commands.has(Command::Refill) {
            self.ctx.clear(flag::THROTTLED);
        }
        if commands.has(Command::Overflow) {
            self.overflow();
        }
        if commands.has(Command::Evict) {
            self.ctx.set_reason(CloseReason::Evicted);
            self.ctx.set(flag::ABORT);
        }
        if commands.has(Command::Look) {
            self.ctx.set(flag::ASK);
        }
        if commands.has(Command::Probe)
            && let Some(queue) = self.ctx.transport.send_queue()
        {
            self.ctx.worker.book_acknowledged(self.ctx.slot, queue.acknowledged);
        }
        if commands.has(Command::Stall) && self.is_stalled() {
            self.ctx.worker.slot(self.ctx.slot, |slot| {
                // A peer's EOF is the reason only where every reply owed was sent.
                slot.reason = slot.reason.filter(|reason| *reason != CloseReason::PeerEof);
                slot.set_reason(CloseReason::WriteStalled);
            });
            self.ctx.set(flag::ABORT);
        }
        for (command, reason) in [
            (Command::Kick, CloseReason::Kicked),
            (Command::Age, CloseReason::MaxAge),
            (Command::Line, CloseReason::LineTimeout),
            (Command::Idle, CloseReason::IdleTimeout),
        ] {
            if commands.has(command) {
                self.ctx.drain_because(reason);
            }
        }
        if commands.has(Command::Drain) {
            self.ctx.drain_with_server();
        }
        if commands.has(Command::HalfClose) && self.ctx.phase == Phase::Open {
            self.ctx.set_reason(CloseReason::Drained);
            self.ctx.half_close();
        }
        if commands.has(Command::Deadline) {
            if self.ctx.phase == Phase::Lingering {
                self.ctx.set(flag::LINGERED);
            } else if self.ctx.has(flag::WAITING) {
                self.ctx.set_reason(CloseReason::WaitTimeout);
                self.ctx.set(flag::CLOSE);
            }
        }
    }

    /// Has the actor know how many messages are missing before the next.
    #[inline]
    fn tell_missed(&mut self, messages: u64) {
        if messages == 0 || self.ctx.phase >= Phase::Closing || self.ctx.has(flag::PANICKED | flag::ABORT) {
            return;
        }
        if self.ctx.has(flag::STARTED) {
            self.guarded(|actor, ctx| actor.missed(messages, ctx));
        } else {
            // No hook comes before `started`.
            self.ctx.worker.slot(self.ctx.slot, |slot| slot.miss(messages));
        }
    }

    /// Calls into user code. `None` once it has panicked: then no code of this actor runs again.
    fn guarded<R>(&mut self, call: impl FnOnce(&mut A, &mut LineContext<A>) -> R) -> Option<R> {
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
    fn discard_state<T>(&mut self, state: T) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(state))) {
            self.panicked(&*payload);
            dispose(payload);
        }
    }

    #[cold]
    fn panicked(&mut self, payload: &(dyn Any + Send)) {
        let text = panic_text(payload);
        let first = !self.ctx.has(flag::PANICKED);
        self.ctx.set(flag::PANICKED | flag::CLOSE | flag::AGAIN);
        let (id, peer) = self.ctx.worker.slot(self.ctx.slot, |slot| {
            // It was not what ended the session, perhaps, but it is what somebody has to look into.
            slot.reason = Some(CloseReason::HandlerPanicked);
            (slot.id, slot.peer())
        });
        if first && let Some(events) = self.ctx.worker.panics.pass() {
            match peer {
                Some(peer) => log::error!("session {id} from {peer}: its handler panicked: {text}{events}"),
                None => log::error!("session {id}: its handler panicked: {text}{events}"),
            }
        }
    }

    fn poll_waits(&mut self, cx: &mut Context<'_>) {
        while self.ctx.has(flag::WAITING) && !self.ctx.has(flag::STOP | flag::ABORT | flag::CLOSE) {
            let Some(mut newest) = self.ctx.extra().waits.pop() else {
                self.ctx.clear(flag::WAITING);
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

    fn poll_messages(&mut self, cx: &mut Context<'_>, budget: &mut u32, turn: &mut Turn) {
        while !self.ctx.has(flag::WAITING | flag::STOP | flag::ABORT | flag::CLOSE) {
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

    fn poll_items(&mut self, cx: &mut Context<'_>) {
        const NOT_NOW: u32 = flag::WAITING | flag::STOP | flag::ABORT | flag::CLOSE;
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

    /// Does what `stop()` or a reason to close asked for.
    fn consider_stop(&mut self) {
        if self.ctx.has(flag::CLOSE) {
            self.begin_close();
        } else if self.ctx.has(flag::STOP) {
            let vetoed = self.guarded(|actor, ctx| actor.stopping(ctx)) == Some(Running::Continue);
            self.ctx.clear(flag::STOP);
            if vetoed {
                self.ctx.set(flag::AGAIN);
            } else {
                self.ctx.set(flag::STOPPING_SAID);
                self.ctx.set_reason(self.ctx.own_reason());
                self.begin_close();
            }
        }
    }

    /// The actor has nothing more to say: from here on only its bytes leave.
    fn begin_close(&mut self) {
        if self.ctx.phase >= Phase::Closing {
            return;
        }
        self.say_stopping();
        if self.ctx.has(flag::GOODBYE) && !self.ctx.has(flag::ABORT) {
            let goodbye = self.ctx.worker.goodbye();
            self.ctx.write_shared(goodbye);
        }
        let ctx = &mut self.ctx;
        ctx.phase = Phase::Closing;
        ctx.clear(flag::WAITING | flag::CLOSE | flag::STOP | flag::PAUSED | flag::LAST_READ);
        ctx.set(flag::AGAIN);
        let input = mem::take(&mut ctx.input);
        let rest = input.len() - ctx.start as usize;
        let payload = rest.min(usize::try_from(ctx.payload_left()).unwrap_or(usize::MAX));
        let tail = ctx.framing.tail_len(&input[ctx.start as usize + payload..]);
        ctx.clear(flag::HELD | flag::PAYLOAD);
        ctx.worker.slot(ctx.slot, |slot| {
            slot.clear_deadline();
            slot.set_closing();
            slot.add_undelivered(rest);
            slot.add_tail(tail);
        });
        ctx.worker.leave_rooms(ctx.slot);
        self.discard_context();
        if self.ctx.has(flag::PANICKED) {
            let actor = self.actor.take();
            self.discard_state(actor);
        }
    }

    /// Drops what the actor has its context keep: futures and messages, each under a catch of its own.
    fn discard_context(&mut self) {
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
    fn say_stopping(&mut self) {
        if self.ctx.has(flag::STARTED) && !self.ctx.has(flag::STOPPING_SAID | flag::PANICKED) {
            // `state()` says so meanwhile.
            self.ctx.set(flag::STOPPING_SAID | flag::STOP);
            self.guarded(|actor, ctx| actor.stopping(ctx));
        }
    }

    /// Writes, delivers and reads, until the peer, the handler or fairness says stop.
    fn exchange(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Result<(), Failure> {
        loop {
            if self.ctx.has(flag::ABORT) {
                return Ok(());
            }
            self.flush(cx, turn)?;
            self.reframe();
            if self.ctx.has(flag::INTERRUPT) {
                return Ok(());
            }
            if self.ctx.has(flag::HELD) {
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
            let reads = self.ctx.phase == Phase::Open || self.ctx.has(flag::LAST_READ);
            if !reads || !self.ctx.accepts_input() {
                return Ok(());
            }
            if self.ctx.has(flag::EOF_SAID) {
                self.ctx.clear(flag::LAST_READ);
                return Ok(());
            }
            if self.ctx.has(flag::PEER_EOF) {
                self.say_eof(turn);
                continue;
            }
            if turn.has_read_enough {
                // In a drain that was the last.
                turn.give_way = !self.ctx.has(flag::LAST_READ);
                self.ctx.clear(flag::LAST_READ);
                return Ok(());
            }
            if !self.read(cx, turn)? {
                self.ctx.clear(flag::LAST_READ);
                return Ok(());
            }
        }
    }

    /// A new framing, or a payload, begins with what was not delivered before.
    fn reframe(&mut self) {
        if self.ctx.has(flag::REFRAMED) {
            self.ctx.clear(flag::REFRAMED);
            self.ctx.overrun = Overrun::None;
            if !self.ctx.input.is_empty() && !self.ctx.has(flag::HELD) {
                self.ctx.set(flag::HELD);
                self.ctx.scanned = Reach::ALL.to_bits();
            }
        }
    }

    /// One read, and what can be delivered of it. False if there was nothing to read.
    fn read(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Result<bool, Failure> {
        let mut grant = Grant::own(SCRATCH_BYTES);
        let is_last = self.ctx.has(flag::LAST_READ);
        if self.ctx.worker.is_rated() && !is_last {
            grant = self.grant(Unit::Bytes, turn.counts.bytes_in, SCRATCH_BYTES, || SCRATCH_BYTES);
            if grant.amount == 0 {
                return Ok(false);
            }
        }
        let carried = self.ctx.input.len();
        let at = if carried > CARRY_BYTES { 0 } else { carried };
        let mut scratch = self.ctx.worker.take_scratch();
        let mut buffer = ReadBuf::new(&mut scratch[at..at + grant.amount]);
        let asks = self.ctx.has(flag::ASK | flag::LAST_READ);
        self.ctx.clear(flag::ASK);
        let poll = match asks {
            true => self.ctx.transport.poll_read_now(cx, &mut buffer),
            false => self.ctx.transport.poll_read(cx, &mut buffer),
        };
        let count = buffer.filled().len();
        if grant.of_group {
            self.ctx.worker.give_back(self.ctx.slot, Unit::Bytes, grant.amount - count);
        }
        // A stream that is always ready with a few bytes, or is interrupted each time, would be read for ever.
        turn.reads += 1;
        turn.has_read_enough |= turn.reads == READS_PER_TURN;
        let result = match poll {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Poll::Ready(Err(error)) => Err((Half::Read, error)),
            Poll::Ready(Ok(())) if count == 0 => {
                self.ctx.set(flag::PEER_EOF);
                Ok(true)
            }
            Poll::Ready(Ok(())) => {
                turn.counts.bytes_in += count as u64;
                turn.has_read_enough |= count == grant.amount || turn.counts.bytes_in >= SCRATCH_BYTES as u64;
                if carried > CARRY_BYTES {
                    self.ctx.input.extend_from_slice(&scratch[..count]);
                    self.deliver_own(cx, turn);
                } else {
                    self.deliver_scratch(&mut scratch, carried, count, cx, turn);
                }
                // A read ends before a byte that was sent as urgent, and the reactor takes a short one for the last.
                if !asks && !self.ctx.input.is_empty() {
                    self.ctx.set(flag::ASK);
                }
                turn.failure.take().map_or(Ok(true), Err)
            }
        };
        self.ctx.worker.put_scratch(scratch);
        result
    }

    /// Delivers what was read behind room for the carried bytes; keeps what remains.
    fn deliver_scratch(
        &mut self,
        scratch: &mut [u8],
        carried: usize,
        count: usize,
        cx: &mut Context<'_>,
        turn: &mut Turn,
    ) {
        let scanned = self.ctx.scanned as usize;
        self.ctx.scanned = 0;
        if carried > 0 {
            scratch[..carried].copy_from_slice(&self.ctx.input);
            self.ctx.input.clear();
        }
        let mut filled = carried + count;
        let done = self.deliver(scratch, &mut filled, scanned, Reach::ALL, cx, turn);
        let rest = &scratch[done..filled];
        if !rest.is_empty() {
            self.ctx.input.extend_from_slice(rest);
        } else if carried > 0 {
            self.ctx.input = Vec::new();
        }
    }

    /// Delivers from the session's own buffer; keeps what remains there.
    fn deliver_own(&mut self, cx: &mut Context<'_>, turn: &mut Turn) {
        let mut input = mem::take(&mut self.ctx.input);
        let start = self.ctx.start as usize;
        let noted = mem::take(&mut self.ctx.scanned);
        let (scanned, reach) = match self.ctx.has(flag::HELD) {
            true => (0, Reach::from_bits(noted)),
            false => (noted as usize, Reach::ALL),
        };
        let mut filled = input.len() - start;
        input.resize(input.len() + SLACK_BYTES, 0);
        let done = self.deliver(&mut input[start..], &mut filled, scanned, reach, cx, turn);
        input.truncate(start + filled);
        let start = start + done;
        let rest = input.len() - start;
        if rest <= CARRY_BYTES {
            // No more memory than it needs; most often that is none.
            input = input[start..].to_vec();
            self.ctx.start = 0;
        } else if start > rest {
            input.drain(..start);
            self.ctx.start = 0;
        } else if self.ctx.has(flag::HELD) {
            self.ctx.start = start as u32;
        } else {
            input.drain(..start);
            self.ctx.start = 0;
        }
        self.ctx.input = input;
    }

    /// Delivers lines from `buffer[..filled]`, of which the first `scanned` hold no delimiter, for as long as the handler
    /// wants them. Returns how many bytes are done with, and leaves the flag `HELD` if whole lines may remain.
    fn deliver(
        &mut self,
        buffer: &mut [u8],
        filled: &mut usize,
        mut scanned: usize,
        mut reach: Reach,
        cx: &mut Context<'_>,
        turn: &mut Turn,
    ) -> usize {
        self.ctx.clear(flag::HELD);
        let mut done = 0;
        let mut reframed_at = 0;
        while done < *filled {
            if !self.ctx.accepts_input() || turn.failure.is_some() || turn.has_had_its_share {
                self.ctx.set(flag::HELD);
                break;
            }
            if self.ctx.has(flag::REFRAMED) {
                if done == reframed_at {
                    // It changes its mind and takes nothing: that may go on for ever, so others come in between.
                    self.ctx.set(flag::HELD | flag::AGAIN);
                    break;
                }
                self.reframe();
                reframed_at = done;
            }
            if self.ctx.has(flag::PAYLOAD) {
                done += self.offer_payload(&mut buffer[done..*filled], turn);
                continue;
            }
            let framing = self.ctx.framing;
            match framing::step(&framing, self.ctx.overrun, &buffer[done..*filled], scanned, reach) {
                Step::Incomplete => {
                    self.ctx.scanned = (*filled - done) as u32;
                    break;
                }
                Step::Overlong => {
                    self.ctx.overrun = Overrun::Inside;
                    self.guarded(|actor, ctx| actor.overlong(ctx));
                    // Unless the line is to be cut in another way.
                    if framing.closes_at_overlong() && !self.ctx.has(flag::REFRAMED) {
                        self.ctx.set_reason(CloseReason::Overlong);
                        self.ctx.set(flag::CLOSE | flag::AGAIN);
                    }
                }
                Step::Block { end: shown } => {
                    let mut end = shown;
                    let mut grant = None;
                    if self.is_line_rated() {
                        let block = &buffer[done..done + end];
                        // No more lines than bytes: where that many are granted, nobody has to count.
                        let lines =
                            self.grant(Unit::Lines, turn.counts.lines_in, end, || framing.count(block).max(1) as usize);
                        if lines.amount == 0 {
                            continue;
                        }
                        if lines.amount < end {
                            end = framing.end_of(block, lines.amount);
                            turn.has_had_its_share = lines.of_group && end < shown;
                        }
                        grant = Some(lines).filter(|lines| lines.of_group);
                    }
                    let block = &mut buffer[done..done + end];
                    let ends_overlong = self.ctx.overrun == Overrun::Inside && framing.is_terminated(block);
                    let before = turn.counts.lines_in;
                    let behind = *filled - done - end;
                    let taken = self.offer(Lines::new(block, behind, framing), cx, turn);
                    reach = reach.after(taken, shown);
                    if let Some(lines) = grant {
                        let unused = lines.amount - (turn.counts.lines_in - before) as usize;
                        self.ctx.worker.give_back(self.ctx.slot, Unit::Lines, unused);
                    }
                    if taken == end && ends_overlong {
                        self.ctx.overrun = Overrun::None;
                    }
                    self.check_stall(taken);
                    done += taken;
                    scanned = 0;
                }
                Step::Made { keep, terminator_len, resume } => {
                    let mut grant = Grant::own(1);
                    if self.is_line_rated() {
                        grant = self.grant(Unit::Lines, turn.counts.lines_in, 1, || 1);
                        if grant.amount == 0 {
                            continue;
                        }
                    }
                    let behind = *filled - done - resume;
                    let taken = framing::with_made_line(&framing, &mut buffer[done..], keep, terminator_len, |line| {
                        self.offer(Lines::made(line, terminator_len, behind, framing), cx, turn)
                    });
                    turn.has_had_its_share = grant.of_group;
                    if grant.of_group && taken == 0 {
                        self.ctx.worker.give_back(self.ctx.slot, Unit::Lines, 1);
                    }
                    if taken > 0 {
                        self.ctx.overrun = Overrun::None;
                        let dropped = Step::dropped(keep, terminator_len, resume);
                        self.ctx.worker.slot(self.ctx.slot, |slot| slot.add_undelivered(dropped));
                        done += resume;
                        scanned = 0;
                    }
                    self.check_stall(taken);
                }
                Step::Drop { keep } => {
                    let last = *filled - 1;
                    let keep = done + keep;
                    buffer[keep] = buffer[last];
                    self.ctx.worker.slot(self.ctx.slot, |slot| slot.add_undelivered(last - keep));
                    *filled = keep + 1;
                    self.ctx.scanned = (*filled - done) as u32;
                    break;
                }
            }
        }
        if self.ctx.has(flag::HELD) {
            self.ctx.scanned = reach.to_bits();
        }
        done
    }

    /// Whether lines have to be granted. What was read is not held back when the session ends.
    #[inline]
    fn is_line_rated(&self) -> bool {
        self.ctx.worker.is_rated() && self.ctx.phase == Phase::Open
    }

    /// What the session's rate allows now. With nothing left it is throttled, until a sweep has filled the bucket.
    fn grant(&self, unit: Unit, spent: u64, most: usize, wanted: impl FnOnce() -> usize) -> Grant {
        let grant = self.ctx.worker.grant(self.ctx.slot, unit, spent, most, wanted);
        if grant.amount == 0 {
            self.ctx.set(flag::THROTTLED);
        }
        grant
    }

    /// Offers lines to the handler. Returns how many bytes it took.
    fn offer(&mut self, mut lines: Lines<'_>, cx: &mut Context<'_>, turn: &mut Turn) -> usize {
        self.guarded(|actor, ctx| actor.batch(&mut lines, ctx));
        let taken = lines.taken();
        turn.counts.delivered |= taken > 0;
        turn.counts.lines_in += lines.lines();
        if let Some(answer) = lines.into_in_place() {
            self.write_through(answer, cx, turn);
        }
        taken
    }

    /// Gives the handler the part of its payload that is there. Returns how many bytes that was.
    fn offer_payload(&mut self, bytes: &mut [u8], turn: &mut Turn) -> usize {
        let wanted = self.ctx.payload_left();
        let count = usize::try_from(wanted).unwrap_or(usize::MAX).min(bytes.len());
        let left = wanted - count as u64;
        // Before the handler sees it: it may ask for another.
        self.ctx.worker.slot(self.ctx.slot, |slot| slot.set_payload(left));
        if left == 0 {
            self.ctx.clear(flag::PAYLOAD);
        }
        turn.counts.delivered = true;
        self.guarded(|actor, ctx| actor.payload(Payload::new(&mut bytes[..count], left), ctx));
        count
    }

    /// A handler that takes nothing though nothing keeps it from doing so would be asked for ever.
    fn check_stall(&mut self, taken: usize) {
        if taken == 0 && self.ctx.accepts_lines() {
            self.ctx.set_reason(CloseReason::HandlerStalled);
            self.ctx.set(flag::CLOSE | flag::AGAIN);
        }
    }

    /// Sends an answer from where it is, before whatever was written after it.
    fn write_through(&mut self, mut answer: &[u8], cx: &mut Context<'_>, turn: &mut Turn) {
        // After an abort or our FIN nothing more is sent.
        while !answer.is_empty() && !self.ctx.has(flag::ABORT | flag::FIN_SENT) {
            match self.ctx.transport.poll_write(cx, answer) {
                Poll::Ready(Ok(0)) => {
                    turn.failure = Some((Half::Write, io::ErrorKind::WriteZero.into()));
                    break;
                }
                Poll::Ready(Ok(count)) => {
                    turn.counts.bytes_out += count as u64;
                    self.ctx.set(flag::UNFLUSHED);
                    answer = &answer[count..];
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => {
                    turn.failure = Some((Half::Write, error));
                    break;
                }
                Poll::Pending => {
                    self.ctx.set(flag::REFUSED);
                    break;
                }
            }
        }
        if !answer.is_empty() {
            // To be sent later, or to be counted as unsent.
            let outbox = match &mut self.ctx.outbox {
                Some(outbox) => outbox,
                None => self.ctx.borrow_outbox(),
            };
            outbox.push_front(answer);
            if outbox.len() > self.ctx.worker.high() {
                self.ctx.set(flag::ABOVE);
            }
        }
    }

    /// Sends what the kernel takes of the outbox.
    fn flush(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Result<(), Failure> {
        if self.ctx.has(flag::FIN_SENT) {
            self.discard_outbox();
        }
        if let Some(outbox) = &mut self.ctx.outbox {
            while outbox.len() > 0 {
                match self.ctx.transport.poll_write(cx, outbox.front()) {
                    Poll::Ready(Ok(0)) => return Err((Half::Write, io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(count)) => {
                        turn.counts.bytes_out += count as u64;
                        outbox.advance(count);
                        self.ctx.flags.set(self.ctx.flags.get() | flag::UNFLUSHED);
                    }
                    Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                    Poll::Ready(Err(error)) => return Err((Half::Write, error)),
                    Poll::Pending => {
                        self.ctx.flags.set(self.ctx.flags.get() | flag::REFUSED);
                        break;
                    }
                }
            }
            if outbox.len() <= self.ctx.worker.low() && self.ctx.has(flag::ABOVE) {
                self.ctx.clear(flag::ABOVE);
                if self.ctx.extra.is_some() {
                    // A future of the actor's may have waited for that.
                    self.ctx.set(flag::AGAIN);
                }
            }
        }
        if self.ctx.has(flag::UNFLUSHED)
            && let Poll::Ready(result) = self.ctx.transport.poll_flush(cx)
        {
            result.map_err(|error| (Half::Write, error))?;
            self.ctx.clear(flag::UNFLUSHED);
        }
        Ok(())
    }

    /// What was written after our FIN.
    #[cold]
    fn discard_outbox(&mut self) {
        let unsent = self.ctx.outbox_len();
        if let Some(outbox) = self.ctx.outbox.as_mut().filter(|_| unsent > 0) {
            while outbox.len() > 0 {
                let len = outbox.front().len();
                outbox.advance(len);
            }
            self.ctx.worker.slot(self.ctx.slot, |slot| slot.add_unsent(unsent));
        }
    }

    /// The peer's bytes have ended: the tail, if there is one, and the hook.
    fn say_eof(&mut self, turn: &mut Turn) {
        if !self.ctx.input.is_empty() {
            let mut tail = mem::take(&mut self.ctx.input);
            let dropped = tail.len().saturating_sub(self.ctx.framing.longest_tail(self.ctx.overrun));
            tail.truncate(tail.len() - dropped);
            turn.counts.lines_in += 1;
            self.ctx.worker.slot(self.ctx.slot, |slot| slot.add_undelivered(dropped));
            self.ctx.worker.slot(self.ctx.slot, |slot| slot.add_tail(tail.len()));
            self.guarded(|actor, ctx| actor.tail(Line::tail(&mut tail), ctx));
            // Its answer may have to be waited for.
            return;
        }
        self.ctx.set(flag::EOF_SAID);
        self.guarded(|actor, ctx| actor.eof(ctx));
    }

    /// Whether not a byte was ever written to the peer.
    fn has_written_nothing(&self, turn: &Turn) -> bool {
        turn.counts.bytes_out == 0 && self.ctx.worker.slot(self.ctx.slot, |slot| slot.bytes_out()) == 0
    }

    /// Whether the kernel holds nothing more that the peer has not acknowledged. Of one that never refused a write this
    /// is taken as read: what it may hold is bounded by `SocketOptions`, and not worth a question at each close.
    fn is_acknowledged(&self) -> bool {
        !self.ctx.has(flag::REFUSED) || self.ctx.transport.send_queue().is_none_or(|queue| queue.is_empty)
    }

    /// Whether a peer that has not taken anything for too long still has not.
    fn is_stalled(&self) -> bool {
        let (ctx, Some(queue)) = (&self.ctx, self.ctx.transport.send_queue()) else { return true };
        ctx.worker.book_acknowledged(ctx.slot, queue.acknowledged);
        !ctx.worker.slot(ctx.slot, |slot| slot.has_progress())
    }

    /// Reads and discards until the peer has closed too, or the time for that is over; what the kernel still holds for
    /// the peer keeps the session's place until it is taken. Ready when the session is over: true if we close first.
    fn linger(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<bool> {
        if !self.ctx.has(flag::PEER_EOF | flag::GLUTTED) && self.discard(cx, turn).is_ready() {
            self.ctx.set(flag::PEER_EOF);
        }
        if self.is_acknowledged() {
            // Nothing is written any more, so it stays so: from here on only the peer's close is waited for.
            self.ctx.clear(flag::REFUSED);
        }
        if self.ctx.has(flag::REFUSED) || !self.ctx.has(flag::PEER_EOF | flag::GLUTTED | flag::LINGERED) {
            return Poll::Pending;
        }
        if !self.ctx.has(flag::PEER_EOF) && self.ctx.has(flag::GLUTTED) {
            self.ctx.set(flag::RESET);
        }
        Poll::Ready(!self.ctx.has(flag::PEER_EOF))
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
                        self.ctx.set(flag::GLUTTED | flag::REFUSED);
                        break Poll::Pending;
                    }
                    reads += 1;
                }
                Poll::Ready(_) => break Poll::Ready(()),
            }
        };
        self.ctx.worker.put_scratch(scratch);
        poll
    }

    /// The end: last hooks, then the slot with its report.
    fn finish(&mut self, cut: bool, turn: Turn) -> Poll<()> {
        let cut = cut || self.ctx.has(flag::ABORT);
        // `terminate()` skips `stopping()`; a dead socket does not, but has it know that there is no way back.
        if self.ctx.has(flag::ABORT) {
            self.ctx.set(flag::STOPPING_SAID);
        }
        self.begin_close();
        let unsent = self.ctx.outbox_len();
        self.end_turn(&turn);
        self.ctx.outbox = None;
        if unsent > 0 {
            self.ctx.worker.slot(self.ctx.slot, |slot| slot.add_unsent(unsent));
        }
        if self.actor.is_some() && self.ctx.has(flag::STARTED) {
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
        if self.ctx.has(flag::RESET) || (cut && self.ctx.has(flag::REFUSED)) {
            self.ctx.transport.reset_at_close();
        }
        // Before its place is given back: there are never more sockets than places.
        let transport = self.ctx.transport.take();
        self.discard_state(transport);
        self.ctx.set(flag::DONE);
        self.ctx.worker.close(self.ctx.slot, cut);
        Poll::Ready(())
    }
}

impl<A: LineHandler> Future for Session<A> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.get_mut().turn(cx)
    }
}

/// The arbiter stops under the session, its task is aborted, or its actor could not be made: a last attempt to send, and
/// the report.
impl<A: LineHandler> Drop for Session<A> {
    fn drop(&mut self) {
        if self.ctx.has(flag::DONE) {
            return;
        }
        let is_unmade = self.actor.is_none() && std::thread::panicking();
        self.ctx.set_reason(if is_unmade { CloseReason::HandlerPanicked } else { CloseReason::WorkerStopped });
        // What the kernel holds may still arrive: nobody is left who would need the place.
        self.ctx.clear(flag::REFUSED);
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

#[cfg(test)]
mod tests {
    use actix::{Actor, fut::wrap_future};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        framing::{Overlong, take_effort},
        limits::Rate,
        rate::RateLimit,
    };

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

    /// How lines are taken.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Taking {
        Blocks,
        /// One of each block.
        One,
        /// A wait after each.
        Waiting,
        /// Another framing after each.
        Reframing,
        /// A payload of one byte after each.
        Payloads,
        /// So many a second.
        Rated,
    }

    struct Taker(Taking, Framing);

    impl Actor for Taker {
        type Context = LineContext<Self>;

        fn started(&mut self, ctx: &mut Self::Context) {
            if self.0 == Taking::Rated {
                let lines = Some(Rate { per_second: 400, burst: 100 });
                ctx.set_rate(RateLimit { lines, bytes: None }).unwrap();
            }
        }
    }

    impl LineHandler for Taker {
        fn line(&mut self, _: Line<'_>, ctx: &mut Self::Context) {
            match self.0 {
                Taking::Blocks | Taking::One | Taking::Rated => {}
                Taking::Waiting => ctx.wait(wrap_future::<_, Self>(tokio::task::yield_now())),
                Taking::Reframing => {
                    let other = if ctx.framing == self.1 { self.1.keep_cr() } else { self.1 };
                    ctx.set_framing(other);
                }
                Taking::Payloads => ctx.payload(1),
            }
        }

        fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
            while let Some(line) = lines.next(ctx) {
                self.line(line, ctx);
                if self.0 == Taking::One {
                    break;
                }
            }
        }
    }

    /// Bytes that are looked at for delimiters until all of `input`, which is there at once, is delivered.
    fn effort(taking: Taking, framing: Framing, input: &[u8]) -> usize {
        actix_rt::System::new().block_on(async {
            tokio::time::pause();
            let (ours, mut theirs) = tokio::io::duplex(input.len());
            theirs.write_all(input).await.unwrap();
            theirs.shutdown().await.unwrap();
            take_effort();
            LineContext::start(Transport::new(ours), framing, Taker(taking, framing));
            theirs.read_to_end(&mut Vec::new()).await.unwrap();
            take_effort()
        })
    }

    #[test]
    fn the_effort_to_find_lines_grows_with_what_is_delivered_however_they_are_cut_and_taken() {
        let takings =
            [Taking::Blocks, Taking::One, Taking::Waiting, Taking::Reframing, Taking::Payloads, Taking::Rated];
        let inputs: [fn(usize) -> Vec<u8>; 7] = [
            |len| vec![b'x'; len],
            |len| vec![b'\n'; len],
            |len| b"x\n".repeat(len / 2),
            |len| b"xxx\n".repeat(len / 4),
            |len| b"x\nx".repeat(len / 3),
            |len| [b"x\n".repeat(len / 4), vec![b'x'; len / 2]].concat(),
            |len| [vec![b'x'; len / 2], b"x\n".repeat(len / 4)].concat(),
        ];
        const SMALL: usize = 2 * 1024;
        for taking in takings {
            for policy in [Overlong::Pieces, Overlong::Split, Overlong::Truncate] {
                for max in [1, 40, 1 << 20] {
                    let framing = Framing::lf().max_line(max).unwrap().overlong(policy);
                    for (nth, input) in inputs.iter().enumerate() {
                        let small = effort(taking, framing, &input(SMALL));
                        let large = effort(taking, framing, &input(4 * SMALL));
                        // Four times as much, or it would be sixteen times as much.
                        assert!(
                            large <= 6 * small + SMALL,
                            "{taking:?}, {policy:?} at {max}, input {nth}: {small} became {large}"
                        );
                    }
                }
            }
        }
    }
}
