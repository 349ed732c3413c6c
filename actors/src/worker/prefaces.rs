//! Prefaces: the connections of a worker whose filters wait for their peers, before there are sessions.
//!
//! Their number is bounded. With one more, some of the oldest of the source that has the most are ended: who begins
//! handshakes and leaves them pays for that alone, and a peer that goes on with its own is never kept out. One that has
//! not been read from yet waits for us, not for its peer, and does not count.
//! Not here: driving a preface on, and its deadline (`session/preface`).

use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::{BTreeMap, HashMap, VecDeque},
};

use crate::{connection::SessionId, log_limit::LogLimit, source::SourceKey};

/// Of this many one is ended for each that is too many, so that not every connection of a flood is a look at all.
const PER_CUT: usize = 16;

/// A preface, and its slot.
pub(super) type Waiting = (SessionId, u32);

/// The waiting prefaces of one worker, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Prefaces {
    waiting: RefCell<BTreeMap<SessionId, u32>>,
    /// Bounds what is logged of those that are ended.
    pub(super) crowded: LogLimit,
    /// Bounds what is logged of those whose real peer is refused.
    pub(super) refused: LogLimit,
}

impl Prefaces {
    pub(super) fn for_each(&self, each: impl FnMut(Waiting)) {
        self.waiting.borrow().iter().map(|(id, slot)| (*id, *slot)).for_each(each);
    }

    /// One waits for its peer. Returns true if they are more than `most`.
    pub(super) fn enter(&self, id: SessionId, slot: u32, most: usize) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        waiting.insert(id, slot).is_none() && waiting.len() > most
    }

    pub(super) fn leave(&self, id: SessionId) {
        self.waiting.borrow_mut().remove(&id);
    }

    /// Takes those that are to be ended, so that no more than `most` are left.
    pub(super) fn cut(&self, most: usize, mut source: impl FnMut(Waiting) -> Option<SourceKey>) -> Vec<Waiting> {
        let mut waiting = self.waiting.borrow_mut();
        let mut by_source: HashMap<SourceKey, VecDeque<Waiting>> = HashMap::new();
        for (&id, &slot) in waiting.iter() {
            if let Some(source) = source((id, slot)) {
                by_source.entry(source).or_default().push_back((id, slot));
            }
        }
        let mut cut = Vec::new();
        for _ in 0..waiting.len().saturating_sub(most) + waiting.len() / PER_CUT {
            // Of sources with as many the one that has waited for longest.
            let heaviest = by_source.values_mut().max_by_key(|all| (all.len(), Reverse(all.front().copied())));
            let Some((id, slot)) = heaviest.and_then(VecDeque::pop_front) else { break };
            waiting.remove(&id);
            cut.push((id, slot));
        }
        cut
    }
}
