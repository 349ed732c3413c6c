//! Pushes: bytes that others write to a session, and the limit on how many of them wait in its outbox.
//!
//! Not here: messages from rooms (`delivery`), the outbox itself (`wire/outbox`).

use crate::{
    limits::{OutboxLimit, OutboxPolicy},
    shared::SharedBytes,
    worker::{clock::Moment, command::Commands, delivery::Messages},
};

/// Bytes that others push, and how many messages before them were dropped.
#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) missed: u64,
    pub(crate) bytes: SharedBytes,
}

/// In the order in which they came. Most often there is one: it takes no memory of its own.
#[derive(Debug, Default)]
pub(crate) struct Pushes {
    first: Option<Push>,
    others: Vec<Push>,
}

impl Pushes {
    fn add(&mut self, push: Push) {
        if self.first.is_none() {
            self.first = Some(push);
        } else {
            self.others.push(push);
        }
    }
}

impl IntoIterator for Pushes {
    type Item = Push;
    type IntoIter = std::iter::Chain<std::option::IntoIter<Push>, std::vec::IntoIter<Push>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.others)
    }
}

/// A session's part: how full the last turn left its outbox.
#[derive(Debug, Default)]
pub(super) struct OutboxLevel {
    /// In bytes.
    len: u32,
    /// The time since which it is above the soft limit, in milliseconds of the worker's clock; 0 if it is not.
    above_since: u32,
}

impl OutboxLevel {
    #[inline]
    pub(super) fn set(&mut self, len: usize) {
        self.len = u32::try_from(len).unwrap_or(u32::MAX);
    }

    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// Returns true if the outbox has been above the soft limit for too long. Asked at each sweep.
    pub(super) fn is_above_soft_limit(&mut self, limit: OutboxLimit, moment: Moment) -> bool {
        let Some(soft) = limit.soft.filter(|soft| self.len() > soft.bytes) else {
            self.above_since = 0;
            return false;
        };
        if self.above_since == 0 {
            self.above_since = moment.stamp.max(1);
        }
        u128::from(moment.since(self.above_since)) >= soft.time.as_millis()
    }
}

/// A session's part that most never need: bytes pushed by others, to be written in its next turn.
#[derive(Debug, Default)]
pub(super) struct Pushed {
    pushes: Pushes,
    len: usize,
    /// Messages that were dropped since the last one that was pushed.
    missed: u64,
    /// Its handler's own choice.
    limit: Option<OutboxLimit>,
}

impl Pushed {
    /// Bytes that were pushed and not taken yet.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The limit that was set for this session alone.
    pub(super) fn limit(&self) -> Option<OutboxLimit> {
        self.limit
    }

    pub(super) fn set_limit(&mut self, limit: OutboxLimit) {
        self.limit = Some(limit);
    }

    /// Offers messages: those that fit into the outbox are pushed. Returns how many were not, and the commands for the
    /// session.
    pub(super) fn offer(
        &mut self,
        level: &OutboxLevel,
        messages: &Messages<'_>,
        default: OutboxLimit,
    ) -> (u64, Commands) {
        let OutboxLimit { policy, hard, .. } = self.limit.unwrap_or(default);
        let taken = match (policy, hard.checked_sub(level.len() + self.len)) {
            (OutboxPolicy::Accept, _) => messages.count(),
            (_, Some(bytes)) => messages.fitting(bytes),
            (_, None) => 0,
        };
        let mut commands = Commands::empty();
        if taken > 0 {
            commands |= self.push(messages.first(taken));
        }
        let lost = (messages.count() - taken) as u64;
        if lost > 0 {
            self.miss(lost);
            if policy == OutboxPolicy::Disconnect {
                commands |= Commands::OVERFLOW;
            }
        }
        (lost, commands)
    }

    /// Adds bytes whatever the limit is. Returns the command that has the session write them.
    pub(super) fn push(&mut self, bytes: SharedBytes) -> Commands {
        self.len += bytes.len();
        self.pushes.add(Push { missed: std::mem::take(&mut self.missed), bytes });
        Commands::PUSH
    }

    /// Counts messages that the session is told of before the next one.
    pub(super) fn miss(&mut self, messages: u64) {
        self.missed += messages;
    }

    /// Takes what was pushed.
    pub(super) fn take(&mut self) -> Pushes {
        self.len = 0;
        std::mem::take(&mut self.pushes)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::time::Instant;

    use super::*;
    use crate::limits::SoftLimit;

    fn limit(policy: OutboxPolicy, hard: usize) -> OutboxLimit {
        OutboxLimit { policy, hard, ..OutboxLimit::default() }
    }

    fn offer(pushed: &mut Pushed, level: usize, bytes: &'static str, limit: OutboxLimit) -> (u64, Commands) {
        let mut outbox = OutboxLevel::default();
        outbox.set(level);
        let bytes: SharedBytes = Bytes::from_static(bytes.as_bytes()).into();
        pushed.offer(&outbox, &Messages::one(&bytes, &[bytes.len()]), limit)
    }

    #[test]
    fn what_waits_to_be_written_and_what_was_pushed_fill_the_outbox_together() {
        let limit = limit(OutboxPolicy::DropNewest, 10);
        let mut pushed = Pushed::default();
        assert_eq!(offer(&mut pushed, 4, "abc", limit), (0, Commands::PUSH));
        assert_eq!(offer(&mut pushed, 4, "defg", limit), (1, Commands::empty()), "11 bytes");
        assert_eq!(offer(&mut pushed, 4, "hij", limit), (0, Commands::PUSH), "10 bytes");
        assert_eq!(pushed.len(), 6);
        let taken: Vec<_> = pushed.take().into_iter().map(|push| (push.missed, push.bytes.to_vec())).collect();
        assert_eq!(taken, [(0, b"abc".to_vec()), (1, b"hij".to_vec())]);
        assert_eq!((pushed.len(), pushed.take().into_iter().count()), (0, 0));
    }

    #[test]
    fn the_policy_says_what_becomes_of_what_does_not_fit() {
        let mut pushed = Pushed::default();
        assert_eq!(offer(&mut pushed, 10, "abc", limit(OutboxPolicy::Disconnect, 10)), (1, Commands::OVERFLOW));
        assert_eq!(offer(&mut pushed, 99, "abc", limit(OutboxPolicy::Accept, 10)), (0, Commands::PUSH));
        pushed.set_limit(limit(OutboxPolicy::Accept, 10));
        assert_eq!(offer(&mut pushed, 99, "abc", limit(OutboxPolicy::Disconnect, 10)), (0, Commands::PUSH), "its own");
    }

    #[test]
    fn a_soft_limit_is_forgiven_for_its_time_and_anew_each_time() {
        let time = Duration::from_secs(2);
        let limit = OutboxLimit { soft: Some(SoftLimit { bytes: 100, time }), ..OutboxLimit::default() };
        let begin = Instant::now();
        let moment = |stamp| Moment { stamp, instant: begin };
        let mut level = OutboxLevel::default();
        level.set(101);
        // The clock shows 0 once in 49 days.
        assert!(!level.is_above_soft_limit(limit, moment(0)));
        assert!(!level.is_above_soft_limit(limit, moment(1999)));
        assert!(level.is_above_soft_limit(limit, moment(2001)));
        level.set(100);
        assert!(!level.is_above_soft_limit(limit, moment(2250)));
        level.set(101);
        assert!(!level.is_above_soft_limit(limit, moment(2500)));
        assert!(!level.is_above_soft_limit(limit, moment(4499)));
        assert!(level.is_above_soft_limit(limit, moment(4500)));
    }
}
