//! Voices: how far a room has heard each of the other nodes, so that nothing is heard twice and gaps are counted.
//!
//! Pure: no store, no clock of its own.
//! Not here: frames (`frame`), who is told of a gap (`rooms`).

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use tokio::time::Instant;

use crate::cluster::{
    id::NodeId,
    rooms::frame::{Frame, Garbled},
};

/// Speakers that a room knows at most; then it forgets the one that it has not heard for longest.
const MOST_VOICES: usize = 4096;

/// Most messages that a gap may have: nobody says more, so a frame behind a longer one is none.
const MOST_MISSING: u64 = u32::MAX as u64;

/// The speakers that a room has heard.
#[derive(Debug, Default)]
pub(super) struct Voices(HashMap<u64, Voice>);

#[derive(Debug)]
struct Voice {
    /// The life of its node, as text.
    life: Bytes,
    /// The number of its next message.
    next: u64,
    /// The room was not listened to meanwhile, so what it did not hear is no gap.
    was_away: bool,
    last: Instant,
}

/// What a frame brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hearing {
    /// Messages at its beginning that were heard, or given up, before.
    pub(super) repeated: u64,
    /// Messages between those that were heard before and its first one.
    pub(super) missing: u64,
    /// It is the first of a speaker.
    pub(super) is_new: bool,
}

impl Voices {
    /// Hears a frame. The first one of a speaker says where it is: what was said before is not missing.
    pub(super) fn hear(&mut self, frame: &Frame, now: Instant) -> Result<Hearing, Garbled> {
        let Some(voice) = self.0.get_mut(&frame.speaker) else {
            if self.0.len() >= MOST_VOICES {
                self.forget_oldest();
            }
            let life = Bytes::copy_from_slice(&frame.life);
            let voice = Voice { life, next: frame.end(), was_away: false, last: now };
            self.0.insert(frame.speaker, voice);
            return Ok(Hearing { is_new: true, ..Hearing::default() });
        };
        let missing = frame.first.saturating_sub(voice.next);
        if missing > MOST_MISSING && !voice.was_away {
            return Err(Garbled);
        }
        let repeated = voice.next.saturating_sub(frame.first).min(frame.count());
        if voice.life != frame.life {
            // Not the frame itself: that would be kept as long as this.
            voice.life = Bytes::copy_from_slice(&frame.life);
        }
        let is_missed = !std::mem::take(&mut voice.was_away);
        voice.next = voice.next.max(frame.end());
        voice.last = now;
        Ok(Hearing { repeated, missing: if is_missed { missing } else { 0 }, is_new: false })
    }

    /// The room is listened to again after it was not.
    pub(super) fn come_back(&mut self) {
        self.0.values_mut().for_each(|voice| voice.was_away = true);
    }

    /// Forgets whom nobody can hear any more: those of lives that are over, not heard since `before`.
    pub(super) fn forget(&mut self, live: &HashSet<NodeId>, before: Instant) {
        self.0.retain(|_, voice| {
            let life = std::str::from_utf8(&voice.life).ok().and_then(|life| life.parse().ok());
            voice.last >= before || life.is_some_and(|life| live.contains(&life))
        });
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.0.iter().min_by_key(|(_, voice)| voice.last).map(|(speaker, _)| *speaker) {
            self.0.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(life: &str, speaker: u64, first: u64, count: usize) -> Frame {
        let messages = vec![&b"x"[..]; count];
        Frame::decode(Frame::encode(life, speaker, first, messages.into_iter())).unwrap()
    }

    /// Hears so many messages from `first` on: `(repeated, missing)`.
    fn hear(voices: &mut Voices, first: u64, count: usize) -> (u64, u64) {
        let hearing = voices.hear(&frame("a.00000001", 1, first, count), Instant::now()).unwrap();
        (hearing.repeated, hearing.missing)
    }

    #[test]
    fn a_message_is_heard_once_and_a_gap_counted_once() {
        let mut voices = Voices::default();
        assert_eq!(hear(&mut voices, 5, 2), (0, 0), "what came before is not missing");
        assert_eq!(hear(&mut voices, 5, 2), (2, 0), "all of it again");
        assert_eq!(hear(&mut voices, 6, 3), (1, 0), "one of it again");
        assert_eq!(hear(&mut voices, 12, 1), (0, 3), "9 to 11 are missing");
        assert_eq!(hear(&mut voices, 9, 3), (3, 0), "they come too late");
        assert_eq!(hear(&mut voices, 13, 0), (0, 0), "nothing is new");
        assert_eq!(hear(&mut voices, 14, 0), (0, 1), "13 was lost on its way up");
        assert_eq!(hear(&mut voices, 14, 1), (0, 0));
    }

    #[test]
    fn what_is_said_while_nobody_listens_is_not_missing_and_not_heard_later() {
        let mut voices = Voices::default();
        assert_eq!(hear(&mut voices, 0, 3), (0, 0));
        voices.come_back();
        assert_eq!(hear(&mut voices, 7, 1), (0, 0));
        assert_eq!(hear(&mut voices, 9, 1), (0, 1));
        voices.come_back();
        assert_eq!(hear(&mut voices, 9, 1), (1, 0));
    }

    #[test]
    fn a_frame_from_far_away_is_none() {
        let mut voices = Voices::default();
        assert_eq!(hear(&mut voices, 0, 1), (0, 0));
        let far = frame("a.00000001", 1, 1 << 60, 1);
        assert_eq!(voices.hear(&far, Instant::now()), Err(Garbled));
        assert_eq!(hear(&mut voices, 1, 1), (0, 0));
        // So much may be said while nobody listens.
        voices.come_back();
        assert_eq!(voices.hear(&far, Instant::now()), Ok(Hearing::default()));
    }

    #[test]
    fn those_of_lives_that_are_over_are_forgotten_and_there_is_a_bound() {
        let mut voices = Voices::default();
        let begin = Instant::now();
        for (speaker, life) in (0..).zip(["a.00000001", "b.00000001", "no life"]) {
            voices.hear(&frame(life, speaker, 0, 1), begin).unwrap();
        }
        let live = HashSet::from(["a.00000001".parse().unwrap()]);
        voices.forget(&live, begin);
        assert_eq!(voices.0.len(), 3, "they may still be on their way");
        voices.forget(&live, begin + Duration::from_secs(1));
        assert_eq!(voices.0.len(), 1);
        // One that was heard since is kept, whatever became of its life.
        voices.hear(&frame("c.00000001", 7, 0, 1), begin).unwrap();
        voices.hear(&frame("c.00000001", 7, 1, 1), begin + Duration::from_secs(2)).unwrap();
        voices.forget(&live, begin + Duration::from_secs(1));
        assert_eq!(voices.0.len(), 2);
        voices.forget(&live, begin + Duration::from_secs(3));
        assert_eq!(voices.0.len(), 1);
        // A node that has begun another life is the same voice.
        voices.hear(&frame("a.00000002", 0, 1, 1), begin).unwrap();
        voices.forget(&HashSet::from(["a.00000002".parse().unwrap()]), begin + Duration::from_secs(1));
        assert_eq!(voices.0.len(), 1);
        for speaker in 100..2 * MOST_VOICES as u64 {
            voices.hear(&frame("a.00000002", speaker, 0, 1), begin + Duration::from_secs(speaker)).unwrap();
        }
        assert_eq!(voices.0.len(), MOST_VOICES);
        let newest = 2 * MOST_VOICES as u64 - 1;
        let again = voices.hear(&frame("a.00000002", newest, 0, 1), begin).unwrap();
        assert_eq!(again.repeated, 1, "who was heard last is known");
    }
}
