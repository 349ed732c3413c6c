//! Context: `LineContext`, a session's actix context, through which an actor controls its session.
//!
//! Its methods (write, drain, wait, stop) only record requests; the session's turn carries them out.
//!
//! ```text
//! open ──drain()──▶ draining ──nothing owed──▶ closing ──flushed──▶ lingering ──peer's EOF──▶ closed
//!   │  stop() ─────────────────────────────────▶│            (FIN)       └──deadline──▶ closed, cut
//!   └─ terminate(), abort, dead socket ─▶ closed
//! ```
//! Not here: the flags (`state`), the turn (`turn`), delimiters (`framing`), the outbox (`outbox`), the clock and the
//! slots (`worker`).

use std::{
    any::Any,
    cell::{Cell, OnceCell},
    fmt, io,
    pin::Pin,
    rc::Rc,
};

use actix::{
    Actor, ActorContext, ActorState, Addr, AsyncContext, Handler, Message, SpawnHandle,
    dev::{
        Envelope, ToEnvelope,
        channel::{AddressReceiver, channel},
    },
    fut::{ActorFuture, ActorFutureExt, wrap_future},
};
use bytes::Bytes;

use crate::{
    connection::{Connection, ConnectionInfo},
    error::ConfigError,
    framing::{Framing, Overrun},
    limits::OutboxLimit,
    rate::{RateGroup, RateLimit},
    report::CloseReason,
    room::Room,
    session::state::{Flags, Phase, Upgrade},
    shared::SharedBytes,
    wire::{outbox::Outbox, transport::Transport},
    worker::worker::Worker,
};

/// Default capacity of a session's mailbox: actix's default.
const MAILBOX_CAPACITY: usize = 16;

/// The context of a session's actor: the socket, the line buffer, the outbox, the clock and the close.
///
/// [`ActorContext`] and [`AsyncContext`] behave as in [`actix::Context`], with these intended differences: messages
/// have a budget in each turn; a `wait` delays everything, lines already read included, and has a deadline; a panic
/// ends only its session, and no hook runs after it; the actor lives as long as its socket, even if no address of it is
/// left, and `stopped` comes when the socket is closed; futures keep their order, and are dropped after `stopping`.
///
/// # Ways to end
///
/// | | still delivered | still sent | hooks, in order | reason in the report |
/// |---|---|---|---|---|
/// | [`stop`](ActorContext::stop) | nothing; messages and futures are dropped | all that was written, then FIN | [`stopping`], which may veto; [`ending`], [`closed`], [`stopped`] | [`ClosedByHandler`], after the peer's EOF [`PeerEof`] |
/// | [`drain`](Self::drain) | whole lines that were read; messages and `wait` futures until these are done | the same | those of the lines; [`stopping`], which cannot veto; [`ending`], [`closed`], [`stopped`] | the same |
/// | [`half_close`](Self::half_close) | everything, until the peer's bytes end | the same; what is written later counts as unsent | those of the lines, [`tail`], [`eof`]; then those of the end | that of the end, as a rule [`PeerEof`] |
/// | [`abort`](Self::abort), [`terminate`](ActorContext::terminate) | nothing | nothing: unsent bytes are dropped and counted | [`closed`], [`stopped`] | [`Aborted`] |
///
/// After the FIN of `stop` and `drain` the session lingers: it reads and discards until the peer closes too, or
/// [`linger_timeout`](crate::limits::LimitsBuilder::linger_timeout) is over. If several of these are called, the first names
/// the reason, and each may be followed by a stronger one, in this order: `half_close`, `drain`, `stop`, `abort`.
///
/// [`stopping`]: actix::Actor::stopping
/// [`stopped`]: actix::Actor::stopped
/// [`ending`]: crate::LineHandler::ending
/// [`closed`]: crate::LineHandler::closed
/// [`tail`]: crate::LineHandler::tail
/// [`eof`]: crate::LineHandler::eof
/// [`ClosedByHandler`]: crate::CloseReason::ClosedByHandler
/// [`PeerEof`]: crate::CloseReason::PeerEof
/// [`Aborted`]: crate::CloseReason::Aborted
pub struct LineContext<A>
where
    A: Actor<Context = LineContext<A>>,
{
    pub(super) transport: Transport,
    pub(super) worker: Rc<Worker>,
    pub(super) mailbox: OnceCell<AddressReceiver<A>>,
    pub(super) extra: Option<Box<Extra<A>>>,
    pub(super) outbox: Option<Box<Outbox>>,
    /// A partial line, or lines that were not delivered; the bytes before `start` are spent.
    pub(super) input: Vec<u8>,
    pub(super) start: u32,
    /// Bytes of `input` known to have no delimiter; with undelivered lines, the end of the search for one: a
    /// [`Reach`](crate::framing::Reach).
    pub(super) scanned: u32,
    pub(super) slot: u32,
    pub(super) flags: Cell<Flags>,
    pub(super) framing: Framing,
    pub(super) phase: Phase,
    pub(super) overrun: Overrun,
}

pub(super) type BoxActorFuture<A> = Pin<Box<dyn ActorFuture<A, Output = ()>>>;

/// Futures of an actor that spawns or waits. Boxed: most actors never do.
pub(super) struct Extra<A: Actor> {
    pub(super) waits: Vec<BoxActorFuture<A>>,
    pub(super) items: Vec<(SpawnHandle, BoxActorFuture<A>)>,
    /// Cancelled futures that are still among the items, or may be if the items are out to be polled.
    pub(super) cancelled: Vec<SpawnHandle>,
    pub(super) items_are_out: bool,
    pub(super) last_handle: SpawnHandle,
    /// The handle of the item that is being polled.
    pub(super) current_handle: SpawnHandle,
    /// Boxed: hardly anybody has one, and nobody for long.
    pub(super) upgrade: Option<Box<Upgrade>>,
}

impl<A: Actor> Default for Extra<A> {
    fn default() -> Self {
        Self {
            waits: Vec::new(),
            items: Vec::new(),
            cancelled: Vec::new(),
            items_are_out: false,
            last_handle: SpawnHandle::default(),
            current_handle: SpawnHandle::default(),
            upgrade: None,
        }
    }
}

impl<A> fmt::Debug for LineContext<A>
where
    A: Actor<Context = LineContext<A>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineContext")
            .field("transport", &self.transport)
            .field("phase", &self.phase)
            .field("framing", &self.framing)
            .finish_non_exhaustive()
    }
}

impl<A> LineContext<A>
where
    A: Actor<Context = LineContext<A>>,
{
    pub(super) fn has(&self, flags: Flags) -> bool {
        self.flags.get().intersects(flags)
    }

    pub(super) fn set(&self, flags: Flags) {
        self.flags.set(self.flags.get() | flags);
    }

    pub(super) fn clear(&self, flags: Flags) {
        self.flags.set(self.flags.get().difference(flags));
    }

    pub(super) fn set_reason(&self, reason: CloseReason) {
        self.worker.slot(self.slot, |slot| slot.set_reason(reason));
    }

    /// Returns the reason of an end that the handler asks for.
    pub(super) fn own_reason(&self) -> CloseReason {
        if self.has(Flags::PEER_EOF) { CloseReason::PeerEof } else { CloseReason::ClosedByHandler }
    }

    /// True while lines or a payload may be delivered.
    #[inline]
    pub(super) fn accepts_input(&self) -> bool {
        !self.has(Flags::NO_INPUT)
    }

    /// True while the next line may be delivered.
    #[inline]
    pub(crate) fn accepts_lines(&self) -> bool {
        !self.has(Flags::NO_LINES)
    }

    /// Writes `bytes` to the peer, after everything written before. They are sent at the end of the turn; bytes that
    /// the kernel does not take then stay in the outbox.
    ///
    /// It never fails and never blocks. Once the outbox is above the high watermark no more lines are delivered until
    /// it is at the low one; messages and futures go on, so a message handler or future that writes should check
    /// [`outbox_len`](Self::outbox_len). Bytes written after the end of the session are counted as unsent.
    ///
    /// `write!` and `writeln!` format straight into the outbox; they return `()`.
    #[inline]
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.write_slice(bytes.as_ref());
    }

    #[inline]
    fn write_slice(&mut self, bytes: &[u8]) {
        if self.phase > Phase::Draining {
            return self.write_too_late(bytes.len());
        }
        let outbox = match &mut self.outbox {
            Some(outbox) => outbox,
            None => self.borrow_outbox(),
        };
        outbox.push(bytes);
        if outbox.len() > self.worker.high() {
            self.set(Flags::ABOVE_HIGH);
        }
    }

    /// Writes formatted text; called by `write!(ctx, …)` and `writeln!(ctx, …)`. Neither needs an import or returns a
    /// result: like [`write`](Self::write) it never fails. It makes no `String` on the way.
    ///
    /// The text ends where a value's `Display` returns an error.
    ///
    /// ```
    /// use actix_lines::{LineContext, Rot13};
    ///
    /// fn greet(name: &str, ctx: &mut LineContext<Rot13>) {
    ///     writeln!(ctx, "Hello, {name}.");
    /// }
    /// ```
    pub fn write_fmt(&mut self, text: fmt::Arguments<'_>) {
        // Only a value's own `Display` can fail; what it had said until then is written.
        let _ = fmt::write(self, text);
    }

    /// Writes shared bytes, as in a broadcast: all but short ones are shared, not copied. Otherwise as
    /// [`write`](Self::write).
    pub fn write_bytes(&mut self, bytes: Bytes) {
        self.write_shared(bytes.into());
    }

    pub(super) fn write_shared(&mut self, bytes: SharedBytes) {
        if self.phase > Phase::Draining {
            return self.write_too_late(bytes.len());
        }
        let outbox = match &mut self.outbox {
            Some(outbox) => outbox,
            None => self.borrow_outbox(),
        };
        outbox.push_shared(bytes);
        if outbox.len() > self.worker.high() {
            self.set(Flags::ABOVE_HIGH);
        }
    }

    #[cold]
    fn write_too_late(&self, len: usize) {
        if !self.has(Flags::DONE) {
            self.worker.slot(self.slot, |slot| slot.add_unsent(len));
        }
    }

    #[inline(never)]
    pub(super) fn borrow_outbox(&mut self) -> &mut Outbox {
        self.set(Flags::LOAN);
        self.outbox.insert(self.worker.lend_outbox())
    }

    /// Returns the number of bytes written and not yet taken by the kernel.
    ///
    /// A future that is spawned or waited for may write until this is above the high watermark, then return `Pending`:
    /// it is polled again when the outbox is at the low one. So an answer of any length takes bounded memory.
    #[must_use]
    pub fn outbox_len(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.len())
    }

    /// Ends the session once everything owed is sent: reads no more, delivers the whole lines that were read, lets
    /// `wait` futures end, then flushes, sends a FIN, and lingers. An incomplete line is dropped and counted; spawned
    /// futures and timers are dropped. Calling it twice changes nothing.
    pub fn drain(&mut self) {
        self.drain_because(self.own_reason());
    }

    pub(super) fn drain_because(&mut self, reason: CloseReason) {
        if self.phase == Phase::Open {
            self.set_reason(reason);
            self.phase = Phase::Draining;
            self.clear(Flags::PAUSED | Flags::THROTTLED | Flags::CROWDED);
            self.set(Flags::AGAIN);
        }
    }

    /// Drains with the server: answers the bytes that the peer has sent until now, then writes the goodbye.
    pub(super) fn drain_with_server(&mut self) {
        if self.phase == Phase::Open {
            self.set(Flags::LAST_READ);
        }
        if self.phase <= Phase::Draining {
            self.set(Flags::GOODBYE | Flags::AGAIN);
        }
        self.drain_because(CloseReason::Drained);
    }

    /// Ends writing: flushes the outbox and sends our FIN, while lines are delivered until the peer's bytes end. A
    /// client uses it to say that it has asked everything, and still gets every answer.
    ///
    /// The FIN waits for messages that have arrived and for `wait` futures. Bytes written after it count as unsent.
    /// Calling it twice changes nothing.
    pub fn half_close(&mut self) {
        if self.phase == Phase::Open {
            self.set(Flags::HALF_CLOSE | Flags::AGAIN);
        }
    }

    /// Ends the session now: unsent bytes are dropped and counted. If the kernel did not take everything the connection
    /// is reset, so that nothing of it stays in the kernel. The same as [`terminate`](ActorContext::terminate).
    pub fn abort(&mut self) {
        self.terminate();
    }

    /// Stops reading and the delivery of lines, until [`resume`](Self::resume). Messages, futures and writes go on.
    pub fn pause(&mut self) {
        if self.phase == Phase::Open {
            self.set(Flags::PAUSED);
        }
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&mut self) {
        // A future may say it whenever it is polled: that alone is no reason to be polled again.
        if self.has(Flags::PAUSED) {
            self.clear(Flags::PAUSED);
            self.set(Flags::AGAIN);
        }
    }

    /// Sets another framing, which holds from the end of the current line. No byte read is lost. Setting the current
    /// framing again changes nothing.
    ///
    /// Set outside of a line it holds from the first undelivered byte: in [`opened`](crate::LineHandler::opened) from
    /// the peer's first byte; in a message or a future from the beginning of the incomplete line; in
    /// [`overlong`](crate::LineHandler::overlong) from the beginning of the overlong line, which is then cut as if it
    /// had come under this framing, and is not treated by the old policy. In [`tail`](crate::LineHandler::tail) and
    /// [`eof`](crate::LineHandler::eof) no bytes are left.
    pub fn set_framing(&mut self, framing: Framing) {
        if self.framing != framing {
            self.framing = framing;
            self.set(Flags::REFRAMED);
        }
    }

    /// Delivers the next `bytes` bytes as a payload, to [`LineHandler::payload`](crate::LineHandler::payload): those
    /// after the current line or payload chunk. After them lines go on. It replaces the rest of an earlier payload; 0
    /// ends one early. Called outside of a line or a payload it begins where [`set_framing`](Self::set_framing) would.
    ///
    /// A payload is delivered in the chunks in which it arrives, and never gathered: it may be larger than memory. It
    /// is held back whenever lines are: by a `wait` future, `pause`, the high watermark, a rate in bytes. Between its
    /// chunks the line timeout runs.
    ///
    /// ```
    /// use actix::Actor;
    /// use actix_lines::{Payload, Line, LineContext, LineHandler};
    ///
    /// /// A line says how many bytes follow; they are answered with how many of them are spaces.
    /// #[derive(Default)]
    /// struct Spaces(usize);
    ///
    /// impl Actor for Spaces {
    ///     type Context = LineContext<Self>;
    /// }
    ///
    /// impl LineHandler for Spaces {
    ///     fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
    ///         match std::str::from_utf8(line.text()).ok().and_then(|text| text.parse().ok()) {
    ///             Some(bytes) => ctx.payload(bytes),
    ///             None => ctx.write(b"how many bytes follow?\n"),
    ///         }
    ///     }
    ///
    ///     fn payload(&mut self, chunk: Payload<'_>, ctx: &mut Self::Context) {
    ///         self.0 += chunk.iter().filter(|byte| **byte == b' ').count();
    ///         if chunk.is_last() {
    ///             writeln!(ctx, "{}", std::mem::take(&mut self.0));
    ///         }
    ///     }
    /// }
    /// ```
    pub fn payload(&mut self, bytes: u64) {
        if self.has(Flags::DONE) || (bytes == 0 && !self.has(Flags::PAYLOAD)) {
            return;
        }
        self.worker.slot(self.slot, |slot| slot.set_payload(bytes));
        if bytes == 0 {
            self.clear(Flags::PAYLOAD);
        } else {
            self.set(Flags::PAYLOAD);
        }
        self.set(Flags::REFRAMED);
    }

    /// Returns the number of bytes of a payload that have not arrived yet, without the current chunk; 0 without a
    /// payload. In [`LineHandler::eof`](crate::LineHandler::eof) any other number means that the payload is incomplete.
    #[must_use]
    pub fn payload_left(&self) -> u64 {
        if self.has(Flags::PAYLOAD) { self.worker.slot(self.slot, |slot| slot.payload()) } else { 0 }
    }

    /// Sets the treatment of bytes that this session's peer does not read, instead of
    /// [`LimitsBuilder::outbox_limit`](crate::limits::LimitsBuilder::outbox_limit). Call it best in
    /// [`opened`](crate::LineHandler::opened).
    ///
    /// # Errors
    /// As [`LimitsBuilder::outbox_limit`](crate::limits::LimitsBuilder::outbox_limit); after an error nothing has changed. A
    /// hard limit below the high watermark is no error here, since an operator may move the watermark at any time: the
    /// hard limit then holds for pushes, and the watermark for the session's own writes.
    pub fn set_outbox_limit(&mut self, outbox_limit: OutboxLimit) -> Result<(), ConfigError> {
        outbox_limit.check(0)?;
        if !self.has(Flags::DONE) {
            self.worker.slot(self.slot, |slot| slot.set_outbox_limit(outbox_limit));
        }
        Ok(())
    }

    /// Sets how many bytes and lines are read from this session each second, instead of
    /// [`LimitsBuilder::session_rate`](crate::limits::LimitsBuilder::session_rate).
    ///
    /// # Errors
    /// Returns [`ConfigError::Rate`] for a rate or burst of 0; nothing has changed then.
    ///
    /// ```
    /// use actix_lines::{ConfigError, LineContext, Rot13, limits::{Rate, RateLimit}};
    ///
    /// fn slow_down(ctx: &mut LineContext<Rot13>) -> Result<(), ConfigError> {
    ///     ctx.set_rate(RateLimit { lines: Some(Rate::per_second(10)), bytes: None })
    /// }
    /// ```
    pub fn set_rate(&mut self, limit: RateLimit) -> Result<(), ConfigError> {
        limit.check("rate of a session")?;
        if !self.has(Flags::DONE) {
            self.worker.set_rate(self.slot, limit);
        }
        Ok(())
    }

    /// Joins a rate group, whose rate its members share; the session's own rate holds as well. The session leaves an
    /// earlier group now, and this one when it ends.
    pub fn join_rate_group(&mut self, group: &RateGroup) {
        if !self.has(Flags::DONE) {
            self.worker.set_rate_group(self.slot, Some(group));
        }
    }

    /// Leaves the session's rate group, if there is one.
    pub fn leave_rate_group(&mut self) {
        if !self.has(Flags::DONE) {
            self.worker.set_rate_group(self.slot, None);
        }
    }

    /// Joins a room: from now on messages in the room are written to this session's peer. Joining twice changes
    /// nothing. The session leaves when it ends.
    pub fn join(&mut self, room: &Room) {
        if self.phase < Phase::Closing {
            self.worker.join(self.slot, room);
        }
    }

    /// Leaves a room, if the session is a member.
    pub fn leave(&mut self, room: &Room) {
        if self.phase < Phase::Closing {
            self.worker.leave(self.slot, room);
        }
    }

    /// Writes `bytes` to all members of a room but this session; the members share the bytes. The session need not be a
    /// member.
    ///
    /// This session is delivered no more lines while workers of members do not keep up. A message that is sent all the
    /// same, for example by a timer, is [lost](Room::lost) on a worker with more than 4 MiB of waiting messages.
    pub fn say(&mut self, room: &Room, bytes: impl Into<Bytes>) {
        if !self.has(Flags::DONE) && self.worker.say(self.slot, room, bytes.into().into()) && self.phase == Phase::Open
        {
            self.set(Flags::CROWDED);
        }
    }

    /// Writes `bytes` to all members of several rooms but this session: once to each, in however many of the rooms it
    /// is. The message keeps its place among this session's messages in each room. Use it for news to all who know a
    /// session, such as its new name. Otherwise as [`say`](Self::say).
    ///
    /// ```
    /// use actix_lines::{LineContext, Room, Rot13};
    ///
    /// fn rename(rooms: &[Room], old: &str, new: &str, ctx: &mut LineContext<Rot13>) {
    ///     ctx.say_to_all(rooms, format!("* {old} is now {new}\n"));
    /// }
    /// ```
    pub fn say_to_all<'a>(&mut self, rooms: impl IntoIterator<Item = &'a Room>, bytes: impl Into<Bytes>) {
        if self.has(Flags::DONE) {
            return;
        }
        let bytes = bytes.into().into();
        if self.worker.say_to_all(self.slot, rooms, &bytes) && self.phase == Phase::Open {
            self.set(Flags::CROWDED);
        }
    }

    /// Returns the session's number, addresses and listener, and what its filters have found out so far.
    #[must_use]
    pub fn connection(&self) -> Connection {
        let local = self.transport.local();
        let mut connection = self.worker.slot(self.slot, |slot| slot.connection(local));
        let mut info = ConnectionInfo::default();
        self.transport.learned(&mut info);
        if !info.is_empty() {
            connection.info.extend(&info);
            connection.adopt_addresses();
        }
        connection
    }

    /// Tells the session's filters a word; the one that knows its type acts on it. Returns false if none does, or the session
    /// is closing. Bytes that the filter sends for it come before all that is written later, and may overtake what
    /// was written before and has not left yet.
    ///
    /// ```
    /// # #[cfg(feature = "telnet")]
    /// # mod telnet {
    /// use actix_lines::{LineContext, Rot13, telnet::Echo};
    ///
    /// fn ask_for_password(ctx: &mut LineContext<Rot13>) {
    ///     // We say that we echo, and do not.
    ///     ctx.tell_filter(&Echo(true));
    ///     ctx.write("Password: ");
    /// }
    /// # }
    /// ```
    pub fn tell_filter<T: Any>(&mut self, word: &T) -> bool {
        if self.phase > Phase::Draining {
            return false;
        }
        let is_meant = self.transport.tell(word);
        if self.transport.is_unflushed() {
            self.set(Flags::UNFLUSHED | Flags::AGAIN);
        }
        is_meant
    }

    /// Returns the handle of the spawned future that is being polled; the default handle elsewhere. As
    /// [`actix::Context::handle`].
    #[must_use]
    pub fn handle(&self) -> SpawnHandle {
        self.extra.as_ref().map_or_else(SpawnHandle::default, |extra| extra.current_handle)
    }

    /// Returns true if there is an address of the actor. As [`actix::Context::connected`].
    #[must_use]
    pub fn connected(&self) -> bool {
        self.mailbox.get().is_some_and(AddressReceiver::connected)
    }

    /// Sets the number of messages that may wait before senders have to; each sender may add one. Default: 16. As
    /// [`actix::Context::set_mailbox_capacity`].
    pub fn set_mailbox_capacity(&mut self, capacity: usize) {
        self.receiver();
        if let Some(mailbox) = self.mailbox.get_mut() {
            mailbox.set_capacity(capacity);
        }
    }

    /// Returns the mailbox, made the first time that it is needed.
    pub(super) fn receiver(&self) -> &AddressReceiver<A> {
        self.mailbox.get_or_init(|| {
            // The new receiver has to be polled once, or nobody is woken for a message.
            self.set(Flags::AGAIN);
            channel(MAILBOX_CAPACITY).1
        })
    }

    pub(super) fn extra(&mut self) -> &mut Extra<A> {
        self.extra.get_or_insert_default()
    }

    /// Waits for `future` as [`AsyncContext::wait`] does, then calls `then` with its output. No line and no message is
    /// handled in between, and a drain finishes both.
    ///
    /// ```
    /// use actix::{Actor, Recipient};
    /// use actix_lines::{Line, LineContext, LineHandler};
    ///
    /// #[derive(actix::Message)]
    /// #[rtype(result = "u64")]
    /// struct Price(Vec<u8>);
    ///
    /// struct Clerk(Recipient<Price>);
    ///
    /// impl Actor for Clerk {
    ///     type Context = LineContext<Self>;
    /// }
    ///
    /// impl LineHandler for Clerk {
    ///     fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
    ///         ctx.wait_for(self.0.send(Price(line.text().to_vec())), |_clerk, price, ctx| match price {
    ///             Ok(price) => writeln!(ctx, "{price}"),
    ///             Err(_) => ctx.write("nobody knows\n"),
    ///         });
    ///     }
    /// }
    /// ```
    pub fn wait_for<F>(&mut self, future: F, then: impl FnOnce(&mut A, F::Output, &mut Self) + 'static)
    where
        F: Future + 'static,
    {
        self.wait(wrap_future::<F, A>(future).map(move |output, actor, ctx| then(actor, output, ctx)));
    }
}

/// Never fails: see [`LineContext::write`]. For code that writes to any [`io::Write`], such as a serializer; `write!`
/// itself needs no import. Flushing does nothing: bytes are sent at the end of the turn.
impl<A> io::Write for LineContext<A>
where
    A: Actor<Context = LineContext<A>>,
{
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_slice(bytes);
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Never fails: see [`LineContext::write`]. For code that writes to any [`fmt::Write`]; `write!` itself needs no import.
impl<A> fmt::Write for LineContext<A>
where
    A: Actor<Context = LineContext<A>>,
{
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write_slice(text.as_bytes());
        Ok(())
    }
}

impl<A> ActorContext for LineContext<A>
where
    A: Actor<Context = Self>,
{
    /// Ends the session politely: [`Actor::stopping`] may veto. Then no more lines, messages or futures run, the outbox
    /// is flushed, and FIN and linger follow.
    fn stop(&mut self) {
        if self.phase < Phase::Closing && !self.has(Flags::STOP) {
            self.set(Flags::STOP | Flags::AGAIN);
        }
    }

    /// Ends the session now: unsent bytes are dropped and counted, as by [`abort`](LineContext::abort).
    fn terminate(&mut self) {
        if self.phase < Phase::Closed && !self.has(Flags::ABORT) {
            self.set_reason(CloseReason::Aborted);
            self.set(Flags::ABORT | Flags::AGAIN);
        }
    }

    fn state(&self) -> ActorState {
        if self.phase == Phase::Closed || self.has(Flags::ABORT) {
            ActorState::Stopped
        } else if self.phase > Phase::Draining || self.has(Flags::STOP) {
            ActorState::Stopping
        } else {
            ActorState::Running
        }
    }
}

impl<A> AsyncContext<A> for LineContext<A>
where
    A: Actor<Context = Self>,
{
    fn spawn<F>(&mut self, future: F) -> SpawnHandle
    where
        F: ActorFuture<A, Output = ()> + 'static,
    {
        self.set(Flags::AGAIN);
        let extra = self.extra();
        extra.last_handle = extra.last_handle.next();
        let handle = extra.last_handle;
        extra.items.push((handle, Box::pin(future)));
        handle
    }

    fn wait<F>(&mut self, future: F)
    where
        F: ActorFuture<A, Output = ()> + 'static,
    {
        if !self.has(Flags::WAITING) {
            self.worker.set_deadline(self.slot, self.worker.limits().wait_timeout);
        }
        self.set(Flags::WAITING | Flags::AGAIN);
        self.extra().waits.push(Box::pin(future));
    }

    fn waiting(&self) -> bool {
        self.has(Flags::WAITING) || self.state() != ActorState::Running
    }

    /// Cancels a spawned future: it is not polled again, and is dropped when user code is no longer running. Always
    /// returns `true`, as [`actix::Context`] does.
    fn cancel_future(&mut self, handle: SpawnHandle) -> bool {
        let Some(extra) = &mut self.extra else { return true };
        let is_known = extra.items_are_out || extra.items.iter().any(|(known, _)| *known == handle);
        if is_known && !extra.cancelled.contains(&handle) {
            extra.cancelled.push(handle);
            // A future may cancel another whenever it is polled: that alone is no reason to be polled again.
            if !extra.items_are_out {
                self.set(Flags::AGAIN);
            }
        }
        true
    }

    /// Returns the actor's address. The mailbox is made at the first call.
    fn address(&self) -> Addr<A> {
        Addr::new(self.receiver().sender())
    }
}

impl<A, M> ToEnvelope<A, M> for LineContext<A>
where
    A: Actor<Context = Self> + Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn pack(message: M, tx: Option<tokio::sync::oneshot::Sender<M::Result>>) -> Envelope<A> {
        Envelope::new(message, tx)
    }
}
