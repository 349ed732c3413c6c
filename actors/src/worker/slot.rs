//! Slots: the part of each session that its turns seldom touch, in a table that never moves what is in it.

use crate::control::admission::Place;
use crate::worker::pushes::Push;
use crate::{
    connection::{ListenerId, SessionId},
    control::query::{SessionInfo, SessionState},
    limits::{OutboxLimit, OutboxPolicy},
    rate::{Allowance, Grant, Member, RateLimit, Unit},
    report::{CloseReason, CloseReport},
    room::{Inbox, Wait},
    shared::SharedBytes,
    worker::{
        clock::{MOST_LOOKS, Moment, SWEEP, Standing, Timeouts},
        command::Commands,
        delivery::{self, Messages, Moved},
        pushes::Pushes,
        reports::Counts,
    },
};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Sessions in one piece of the slot table: it grows by as much, and what exists is never moved.
pub(super) const CHUNK: usize = 256;

/// The part of a session that its turns seldom touch.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) id: SessionId,
    pub(crate) listener: Option<ListenerId>,
    pub(crate) reason: Option<CloseReason>,
    pub(super) commands: Commands,
    pub(super) closing: bool,
    /// It has read as much as its rate allows, and has to be told when it may go on.
    pub(super) throttled: bool,
    /// It was cut for want of memory: what it holds until its next turn counts no more.
    pub(super) is_evicted: bool,
    pub(super) standing: Standing,
    /// Sweeps that found one of its times up, in a row.
    pub(super) looks: u8,
    pub(super) opened: Instant,
    /// In milliseconds of the worker's clock; 0 is none.
    pub(super) deadline: u32,
    /// When the last line was delivered or the next one began, and when the kernel last took something; in milliseconds of
    /// the worker's clock, never too early.
    pub(super) heard: u32,
    pub(super) wrote: u32,
    /// Since when the outbox holds more than its soft limit; 0 if it does not.
    pub(super) above: u32,
    pub(super) outbox_len: u32,
    /// Memory of its buffers, in bytes.
    pub(super) memory: u32,
    pub(super) waker: Option<Waker>,
    pub(super) lines_in: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// What it may still read.
    pub(super) allowance: Allowance,
    /// Seldom there, so it is not here.
    pub(super) rare: Option<Box<Rare>>,
    /// Given back with the slot.
    pub(super) place: Place,
}

#[derive(Debug, Default)]
pub(super) struct Rare {
    pub(super) unsent: u64,
    pub(super) undelivered: u64,
    pub(super) tail: u64,
    /// Pushed by others, to be written in the next turn.
    pub(super) pushed: Pushes,
    pub(super) pushed_len: usize,
    /// Messages that were dropped since the last one that was pushed.
    pub(super) missed: u64,
    /// Its handler's own choice.
    pub(super) outbox_limit: Option<OutboxLimit>,
    /// The same, for how fast it is read.
    pub(super) rate: Option<RateLimit>,
    pub(super) member: Option<Member>,
    /// Bytes of a payload that have yet to come.
    pub(super) payload: u64,
    /// What the peer had acknowledged when that was last looked at.
    pub(super) acknowledged: Option<u64>,
    /// Bytes discarded since our FIN.
    pub(super) discarded: u64,
    /// The rooms that it is in, and whom it waits for before it says more in one.
    pub(super) rooms: Vec<delivery::Membership>,
    pub(super) crowded: Option<(Arc<Inbox>, Wait)>,
    /// Who waits for its report besides the supervisor.
    pub(super) report_to: Option<oneshot::Sender<CloseReport>>,
}

#[derive(Debug, Default)]
pub(super) struct Slots {
    pub(super) chunks: Vec<Vec<Option<Slot>>>,
    pub(super) free: Vec<u32>,
}

impl Slots {
    pub(super) fn insert(&mut self, slot: Slot) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
                self.chunks.push(Vec::with_capacity(CHUNK));
            }
            let full = (self.chunks.len() - 1) * CHUNK;
            let last = self.chunks.last_mut().expect("a chunk was just made sure of");
            last.push(None);
            u32::try_from(full + last.len() - 1).expect("fewer sessions than descriptors")
        });
        *self.at(index) = Some(slot);
        index
    }

    pub(super) fn at(&mut self, index: u32) -> &mut Option<Slot> {
        let index = index as usize;
        &mut self.chunks[index / CHUNK][index % CHUNK]
    }

    /// A member of a room is elsewhere in the room's table.
    pub(super) fn note(&mut self, moved: &Moved) {
        if let Some(rare) = self.at(moved.slot).as_mut().and_then(|slot| slot.rare.as_mut()) {
            moved.note(&mut rare.rooms);
        }
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.chunks.iter_mut().flatten().flatten()
    }
}

impl Slot {
    /// Says it and wakes the session; it listens at the start of its turn, whatever else it waits for.
    pub(super) fn send(&mut self, command: Commands, told: &Cell<usize>) {
        if self.commands.is_empty() {
            told.set(told.get() + 1);
        }
        self.commands |= command;
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Has a session that its rate holds back ask for more.
    pub(super) fn look_again_if_throttled(&mut self, told: &Cell<usize>) {
        if std::mem::take(&mut self.throttled) {
            self.send(Commands::REFILL, told);
        }
    }

    /// Has a session that is held back, by whatever it is, look whether that still holds.
    pub(super) fn look_again(&mut self, told: &Cell<usize>) {
        self.look_again_if_throttled(told);
        if self.standing.contains(Standing::STILL) || self.standing.contains(Standing::WRITING) {
            self.send(Commands::REFILL, told);
        }
    }

    /// Has commands wake the session's task from here on.
    pub(crate) fn set_waker(&mut self, waker: &Waker) {
        self.waker = Some(waker.clone());
    }

    /// Puts stamps right that were given since the sweep at `last`: they are of a clock that this sweep moves on, which may
    /// have stood for as long as the process did.
    pub(super) fn renew_stamps(&mut self, last: u32, moment: Moment) {
        let given = last.wrapping_add(SWEEP.as_millis() as u32);
        for stamp in [&mut self.heard, &mut self.wrote] {
            if *stamp == given && moment.since(given) > 0 {
                *stamp = moment.stamp;
            }
        }
    }

    /// Whether a session whose time is up had its chance: since the sweep that found it first, the reactor was asked what
    /// had come, and the session had a turn with it. It has another while it has more to read than one turn does.
    pub(super) fn may_be_judged(&mut self, told: &Cell<usize>) -> bool {
        let looks = self.looks;
        self.looks = looks.saturating_add(1);
        let may = looks > 0 && (!self.standing.contains(Standing::READING) || looks >= MOST_LOOKS);
        if !may {
            self.send(Commands::LOOK, told);
        }
        may
    }

    /// Which of its times is up, if one is.
    pub(super) fn overdue(&self, timeouts: &Timeouts, moment: Moment) -> Option<Commands> {
        if self.standing.contains(Standing::WRITING) && moment.since(self.wrote) >= timeouts.write {
            return Some(Commands::STALL);
        }
        if !self.standing.contains(Standing::OPEN) {
            return None;
        }
        if moment.instant - self.opened >= timeouts.age {
            return Some(Commands::AGE);
        }
        let (command, timeout) = match self.standing.contains(Standing::PARTIAL) {
            true if timeouts.line != u32::MAX => (Commands::LINE, timeouts.line),
            _ => (Commands::IDLE, timeouts.idle),
        };
        (!self.standing.contains(Standing::STILL) && moment.since(self.heard) >= timeout).then_some(command)
    }

    /// The peer's address; `None` for a transport without one.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.place.peer()
    }

    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub(crate) fn add_unsent(&mut self, bytes: usize) {
        self.rare().unsent += bytes as u64;
    }

    pub(crate) fn add_undelivered(&mut self, bytes: usize) {
        if bytes > 0 {
            self.rare().undelivered += bytes as u64;
        }
    }

    pub(crate) fn add_tail(&mut self, bytes: usize) {
        if bytes > 0 {
            self.rare().tail += bytes as u64;
        }
    }

    /// The rate that was set for it alone.
    pub(super) fn own_rate(&self) -> Option<RateLimit> {
        self.rare.as_ref()?.rate
    }

    /// Whether it has a rate to keep to that the others have not.
    pub(super) fn has_rate(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.rate.is_some() || rare.member.is_some())
    }

    pub(super) fn grant(
        &mut self,
        default: &RateLimit,
        unit: Unit,
        spent: u64,
        most: usize,
        wanted: impl FnOnce() -> usize,
    ) -> Grant {
        let limit = self.own_rate().unwrap_or(*default);
        let left = self.allowance.left(&limit, unit, spent);
        let member = self.rare.as_mut().and_then(|rare| rare.member.as_mut());
        if member.is_none() && left >= most {
            return Grant::own(most);
        }
        let mut grant = Grant::own(left.min(wanted()));
        if grant.amount > 0
            && let Some(member) = member
        {
            grant = member.take(unit, grant.amount);
        }
        self.throttled = grant.amount == 0;
        grant
    }

    pub(crate) fn payload(&self) -> u64 {
        self.rare.as_ref().map_or(0, |rare| rare.payload)
    }

    pub(crate) fn set_payload(&mut self, bytes: u64) {
        self.rare().payload = bytes;
    }

    pub(crate) fn outbox_limit(&self, default: OutboxLimit) -> OutboxLimit {
        self.rare.as_ref().and_then(|rare| rare.outbox_limit).unwrap_or(default)
    }

    pub(crate) fn set_outbox_limit(&mut self, outbox_limit: OutboxLimit) {
        self.rare().outbox_limit = Some(outbox_limit);
    }

    /// Takes over the counters of a session that began elsewhere, and when that was.
    pub(crate) fn resume(&mut self, counts: &Counts, opened: Option<Instant>) {
        self.lines_in += counts.lines_in;
        self.bytes_in += counts.bytes_in;
        self.bytes_out += counts.bytes_out;
        self.opened = opened.unwrap_or(self.opened);
    }

    pub(crate) fn set_report_to(&mut self, report_to: oneshot::Sender<CloseReport>) {
        self.rare().report_to = Some(report_to);
    }

    /// Whether its outbox has been above the soft limit for too long. To be asked at each sweep.
    pub(super) fn is_above_soft_limit(&mut self, default: OutboxLimit, moment: Moment) -> bool {
        let Some(soft) = self.outbox_limit(default).soft.filter(|soft| self.outbox_len as usize > soft.bytes) else {
            self.above = 0;
            return false;
        };
        if self.above == 0 {
            self.above = moment.stamp.max(1);
        }
        u128::from(moment.since(self.above)) >= soft.time.as_millis()
    }

    /// Memory that its buffers hold, in bytes.
    pub(super) fn held(&self) -> usize {
        self.memory as usize
    }

    /// How many more bytes others may have waiting in this session; `None` where it is over that already.
    pub(super) fn room_left(&self, limit: usize) -> Option<usize> {
        let pushed = self.rare.as_ref().map_or(0, |rare| rare.pushed_len);
        limit.checked_sub(self.outbox_len as usize + pushed)
    }

    /// Has the session write `bytes` in its next turn, unless its outbox holds too much: then its policy says what
    /// becomes of it, and this is false.
    pub(super) fn offer(&mut self, bytes: &SharedBytes, default: OutboxLimit, told: &Cell<usize>) -> bool {
        self.offer_messages(&Messages::one(bytes, &[bytes.len()]), default, told) == 0
    }

    /// The same for some messages, of which those that fit are taken. Returns how many were not.
    pub(super) fn offer_messages(&mut self, messages: &Messages<'_>, default: OutboxLimit, told: &Cell<usize>) -> u64 {
        let OutboxLimit { policy, hard, .. } = self.outbox_limit(default);
        let taken = match (policy, self.room_left(hard)) {
            (OutboxPolicy::Accept, _) => messages.count(),
            (_, Some(bytes)) => messages.fitting(bytes),
            (_, None) => 0,
        };
        if taken > 0 {
            self.push(messages.first(taken), told);
        }
        let lost = (messages.count() - taken) as u64;
        if lost > 0 {
            self.miss(lost);
            if policy == OutboxPolicy::Disconnect {
                self.send(Commands::OVERFLOW, told);
            }
        }
        lost
    }

    /// It is told of these before the next bytes that others push.
    pub(crate) fn miss(&mut self, messages: u64) {
        if messages > 0 {
            self.rare().missed += messages;
        }
    }

    /// Has the session write `bytes` in its next turn.
    pub(super) fn push(&mut self, bytes: SharedBytes, told: &Cell<usize>) {
        let rare = self.rare();
        rare.pushed_len += bytes.len();
        rare.pushed.add(Push { missed: std::mem::take(&mut rare.missed), bytes });
        self.send(Commands::PUSH, told);
    }

    /// What others had pushed since it was last taken.
    pub(crate) fn take_pushed(&mut self) -> Pushes {
        let Some(rare) = &mut self.rare else { return Pushes::default() };
        rare.pushed_len = 0;
        std::mem::take(&mut rare.pushed)
    }

    /// The first cause counts.
    pub(crate) fn set_reason(&mut self, reason: CloseReason) {
        self.reason.get_or_insert(reason);
    }

    /// Bytes that the kernel took until the turn at hand.
    pub(crate) fn bytes_out(&self) -> u64 {
        self.bytes_out
    }

    /// Whether its peer was just found to have taken something: nothing that was found before holds.
    pub(crate) fn has_progress(&self) -> bool {
        self.looks == 0
    }

    pub(crate) fn set_closing(&mut self) {
        self.closing = true;
    }

    pub(crate) fn clear_deadline(&mut self) {
        self.deadline = 0;
    }

    pub(crate) fn report(&self, cut: bool) -> CloseReport {
        let rare = self.rare.as_deref();
        CloseReport {
            id: self.id,
            peer: self.peer(),
            listener: self.listener,
            reason: self.reason.unwrap_or(CloseReason::WorkerStopped),
            lines_in: self.lines_in,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            // What was pushed and never written is unsent as well.
            unsent_bytes: rare.map_or(0, |rare| rare.unsent + rare.pushed_len as u64),
            tail_bytes: rare.map_or(0, |rare| rare.tail),
            undelivered_bytes: rare.map_or(0, |rare| rare.undelivered),
            duration: self.opened.elapsed(),
            cut,
        }
    }

    pub(super) fn info(&self, worker: usize, moment: Moment) -> SessionInfo {
        SessionInfo {
            id: self.id,
            peer: self.peer(),
            listener: self.listener,
            worker,
            age: moment.instant.saturating_duration_since(self.opened),
            idle: Duration::from_millis(moment.since(self.heard).into()),
            lines_in: self.lines_in,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            outbox_bytes: self.outbox_len as usize,
            state: match (self.closing, self.standing.contains(Standing::OPEN)) {
                (true, _) => SessionState::Closing,
                (false, false) => SessionState::Draining,
                (false, true) if self.standing.contains(Standing::STILL) => SessionState::Held,
                (false, true) => SessionState::Open,
            },
        }
    }
}
