//! Preface: the part of a connection before its session, which its filters need: headers and handshakes.
//!
//! It has a place and a slot, so that it is bounded, listed and can be ended as any session, and it leaves a report; the actor is made
//! when it is over. It has a deadline, and each filter may have a sooner one; the worker bounds the number of those that wait, the
//! transport their bytes. As soon as a filter has told the real peer, the place is charged to that.
//! Not here: what a filter makes of it (`wire/transport`), who is ended if too many wait (`worker/prefaces`).

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{io::ReadBuf, time::Instant};

use crate::{
    address::Address,
    connection::ConnectionInfo,
    report::{CloseReason, Half, RefuseReason},
    session::opening::Opening,
    worker::command::Commands,
};

/// Bytes of a peer that are discarded behind the last word of a filter that has failed.
const DISCARD_BYTES: usize = 64 * 1024;

/// Time that a refused connection has to take its line and close, as at the acceptor.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

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
const LATER: Commands = Commands::PUSH.union(Commands::TRACE);

/// A preface on its way.
struct Preface {
    begun: Instant,
    later: Commands,
    /// The filter that is waited for, and its own time.
    waiting: Option<(usize, Option<Duration>)>,
    /// The socket's peer: a proxy, or the real one.
    peer: Address,
    /// The real peer is known, and charged.
    is_charged: bool,
    /// The real peer is the proxy itself: a check, as HAProxy's by version 1, whose headers have no other word for it.
    is_own: bool,
    is_probe: bool,
}

impl Opening {
    /// Waits until its filters are open, and asks what they have found out. `None` if it has ended before: then it has
    /// left its report.
    pub(crate) async fn preface(mut self) -> Option<Self> {
        self.worker.set_deadline(self.slot, self.worker.limits().preface_timeout);
        let mut preface = Preface {
            begun: Instant::now(),
            later: Commands::empty(),
            waiting: None,
            peer: self.connection.peer.clone(),
            is_charged: false,
            is_own: false,
            is_probe: false,
        };
        let ended = poll_fn(|cx| self.poll_preface(cx, &mut preface)).await;
        let id = self.connection.id;
        let Some(reason) = ended else {
            self.worker.slot(self.slot, |slot| {
                slot.clear_deadline();
                if let Some(listener) = slot.admission() {
                    listener.setup.serve();
                }
            });
            self.worker.leave_preface(id);
            self.worker.send(self.slot, id, preface.later);
            if preface.is_probe && self.transport.is_at_end() {
                self.end_at_rest(CloseReason::PeerEof);
                return None;
            }
            return Some(self);
        };
        let is_by_peer = matches!(reason, CloseReason::PeerEof | CloseReason::PeerReset | CloseReason::Io(..));
        let is_silent = self.is_silent(&preface);
        let is_probe = is_by_peer && is_silent;
        self.worker.slot(self.slot, |slot| {
            slot.set_reason(reason);
            // Whoever only reads the last word is told nothing more.
            slot.set_closing();
            if is_probe {
                slot.set_probe();
            }
        });
        self.transport.log_fault(id);
        if let CloseReason::FilterFault(fault) = reason
            && let Some(listener) = self.worker.slot(self.slot, |slot| slot.admission().cloned())
        {
            listener.setup.fail(&self.connection, fault);
        }
        match reason {
            // Boxed: every connection that waits would have room for it.
            CloseReason::Refused(reason) => Box::pin(self.refuse(reason)).await,
            CloseReason::FilterFailed | CloseReason::FilterFault(_) | CloseReason::Truncated
                if self.transport.has_spoken() =>
            {
                // Or a reset would destroy the filter's last word. Its own time may be over: there is no other deadline left.
                self.worker.set_deadline(self.slot, self.worker.limits().linger_timeout);
                poll_fn(|cx| self.poll_linger(cx)).await;
            }
            _ => {}
        }
        self.worker.leave_preface(id);
        match is_by_peer || (is_silent && reason == CloseReason::Drained) {
            true => self.end_at_rest(reason),
            false => self.fail(reason),
        }
        None
    }

    /// Ready when the filters are open, or with the reason why they will not be.
    fn poll_preface(&mut self, cx: &mut Context<'_>, preface: &mut Preface) -> Poll<Option<CloseReason>> {
        let commands = self.poll_commands(cx);
        preface.later.insert(commands & LATER);
        if let Some((_, reason)) = ENDS.iter().find(|(ends, _)| commands.intersects(*ends)) {
            match *reason {
                CloseReason::PrefaceTimeout => {
                    let is_late = preface.begun.elapsed() >= self.worker.limits().preface_timeout;
                    match self.transport.expire() {
                        Some(Ok(())) if !is_late => preface.waiting = None,
                        Some(Err(Some(name))) => return Poll::Ready(Some(CloseReason::FilterFault(name))),
                        _ => return Poll::Ready(Some(*reason)),
                    }
                }
                _ => return Poll::Ready(Some(*reason)),
            }
        }
        if self.worker.is_draining() {
            return Poll::Ready(Some(CloseReason::Drained));
        }
        let opened = self.transport.poll_open(cx);
        let is_over = opened.is_ready();
        if let Err(reason) = self.learn(preface, is_over && self.transport.is_open()) {
            return Poll::Ready(Some(CloseReason::Refused(reason)));
        }
        let Poll::Ready(result) = opened else {
            self.set_time(preface);
            if let Some(ending) = self.transport.ending() {
                // It has failed where it was asked for its time: nobody would wake us for that.
                return Poll::Ready(Some(ending.reason()));
            }
            self.worker.enter_preface(self.connection.id, self.slot);
            self.worker.hold_preface(self.slot, self.transport.memory());
            return Poll::Pending;
        };
        Poll::Ready(match (result, self.transport.ending()) {
            (Err(error), _) => Some(CloseReason::from_io(Half::Read, &error)),
            (Ok(()), _) if self.transport.is_open() => None,
            (Ok(()), Some(ending)) => Some(ending.reason()),
            (Ok(()), None) => Some(CloseReason::PeerEof),
        })
    }

    /// Sets the deadline anew where it is another filter that waits.
    fn set_time(&mut self, preface: &mut Preface) {
        let waiting = self.transport.waiting();
        if waiting == preface.waiting {
            return;
        }
        preface.waiting = waiting;
        let left = self.worker.limits().preface_timeout.saturating_sub(preface.begun.elapsed());
        let own = waiting.and_then(|(_, timeout)| timeout).unwrap_or(Duration::MAX);
        self.worker.set_deadline(self.slot, own.min(left));
    }

    /// Asks what filters have found out so far, and charges the place to the real peer as soon as that is known. An error
    /// if that may not have one more.
    fn learn(&mut self, preface: &mut Preface, is_over: bool) -> Result<(), RefuseReason> {
        if preface.is_charged && !is_over {
            return Ok(());
        }
        let mut info = ConnectionInfo::default();
        if is_over {
            self.transport.take_learned(&mut info);
        } else {
            self.transport.learned(&mut info);
            if info.peer().is_none() && !info.is_probe() {
                return Ok(());
            }
        }
        let mut done = info.clone();
        if is_over {
            self.transport.learned(&mut info);
            self.transport.drop_done();
        }
        match info.peer() {
            Some(peer) if *peer != preface.peer => {
                done.set_via(preface.peer.clone());
                info.set_via(preface.peer.clone());
            }
            Some(_) => {
                preface.is_own |= !preface.is_charged && self.is_charged_to_nobody();
                // In its report alone: limits hold for it, since a proxy may also speak from its peers' addresses.
                if preface.is_own {
                    done.set_probe();
                }
            }
            None => {}
        }
        self.connection.info = info;
        self.connection.adopt_addresses();
        let Self { worker, slot, connection, .. } = self;
        worker.slot(*slot, |slot| {
            slot.set_learned(connection, done);
            if std::mem::replace(&mut preface.is_charged, true) {
                return Ok(());
            }
            preface.is_probe = preface.is_own || connection.info.is_probe();
            if connection.info.is_probe() {
                slot.excuse();
            } else if !slot.is_charged_to(&connection.peer) {
                return slot.recharge(&connection.peer);
            }
            Ok(())
        })
    }

    /// Returns true if nothing has come of a connection whose real peer would have been told. A proxy passes nobody on so: it
    /// is a check of its own, perhaps one whose header its reset has overtaken.
    fn is_silent(&self, preface: &Preface) -> bool {
        !preface.is_charged && self.transport.held() == 0 && self.is_charged_to_nobody()
    }

    fn is_charged_to_nobody(&self) -> bool {
        self.worker.slot(self.slot, |slot| !slot.is_charged_to(&self.connection.peer))
    }

    /// Tells a refused peer so, as the acceptor does, unless a filter has yet to open: then it just closes.
    async fn refuse(&mut self, reason: RefuseReason) {
        self.worker.log_refused(&self.connection, reason);
        if self.transport.is_open() {
            self.tell_refused(reason).await;
        }
    }

    /// Tells the peer that it is refused, and closes so that it can read that.
    pub(super) async fn tell_refused(&mut self, reason: RefuseReason) {
        let Some((_room, line)) = self.worker.refusal(&self.connection.peer, reason) else { return };
        self.worker.set_deadline(self.slot, REFUSAL_TIME);
        let mut left = &line[..];
        poll_fn(|cx| self.poll_last_word(cx, &mut left)).await;
    }

    /// Writes what is left of a refused peer's line, and lingers. An empty socket takes it whole, once the reactor knows that
    /// it is empty; whether the peer hears it or is gone is its own business.
    fn poll_last_word(&mut self, cx: &mut Context<'_>, left: &mut &[u8]) -> Poll<()> {
        while !left.is_empty() {
            match self.transport.poll_write(cx, left) {
                Poll::Ready(Ok(count)) if count > 0 => *left = left.get(count..).unwrap_or_default(),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    let ends = Commands::ABORT | Commands::DEADLINE | Commands::CROWD;
                    return if self.poll_commands(cx).intersects(ends) { Poll::Ready(()) } else { Poll::Pending };
                }
            }
        }
        self.poll_linger(cx)
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
    pub(super) fn poll_commands(&mut self, cx: &Context<'_>) -> Commands {
        self.worker.slot(self.slot, |slot| slot.set_waker(cx.waker()));
        self.worker.take_commands(self.slot)
    }
}
