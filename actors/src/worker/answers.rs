//! Answers: a worker's handling of questions.
//!
//! A question about sessions is answered in parts, with turns of the sessions in between: twenty thousand of them at once
//! would keep a typist waiting. No slot moves, so a session that lives all the while is looked at once; one that was admitted
//! behind the question is not.
//! Not here: asking, and adding up the answers of several workers (`control/supervisor`).

use std::collections::VecDeque;

use crate::{
    connection::SessionId,
    control::{
        orders::{Answer, Answered, Question},
        query::{Selection, SessionFilter},
    },
    report::CloseReason,
    worker::{
        clock::{Moment, Timeouts},
        command::Commands,
        delivery::Messages,
        slot::{CHUNK, Slot, SlotMut},
        worker::Worker,
    },
};

/// Chunks of slots that are looked at before the sessions get a turn again.
const CHUNKS_AT_ONCE: usize = 1024 / CHUNK;

/// A question on the way to its answer.
pub(super) struct Asked {
    token: u64,
    question: Question,
    /// Sessions admitted later are not looked at.
    last: SessionId,
    /// Where to go on.
    chunk: usize,
    answered: Answered,
    selection: Option<Selection>,
}

impl Asked {
    pub(super) fn new(token: u64, question: Question) -> Self {
        let selection = if let Question::List(query) = &question { Some(Selection::new(query.clone())) } else { None };
        Self { token, question, last: SessionId::last(), chunk: 0, answered: Answered::default(), selection }
    }
}

impl Worker {
    /// Answers a question that is no work, or lets it wait for its turn.
    pub(super) fn take_question(&self, token: u64, question: Question, asked: &mut VecDeque<Asked>) {
        if let Question::Totals = question {
            let answered = Answered { stats: self.stats(), ..Answered::default() };
            return self.send_reports(Some(Answer { token, answered }));
        }
        asked.push_back(Asked::new(token, question));
        if asked.len() == 1 {
            self.answer_on(asked);
        }
    }

    /// Looks at some more sessions for the oldest question, and answers it behind the last of them.
    pub(super) fn answer_on(&self, asked: &mut VecDeque<Asked>) {
        let Some(first) = asked.front_mut() else { return };
        if self.look_on(first) {
            return;
        }
        let Some(Asked { token, question, mut answered, selection, .. }) = asked.pop_front() else { return };
        answered.sessions.extend(selection.map(Selection::finish).unwrap_or_default());
        if let Question::Limits { limits, dry_run: false } = question {
            self.set_limits(self.limits_under(&limits));
        }
        self.send_reports(Some(Answer { token, answered }));
    }

    /// Looks at the sessions of one part. False behind the last.
    fn look_on(&self, asked: &mut Asked) -> bool {
        let moment = self.clock.moment();
        let mut slots = self.slots.borrow_mut();
        let Asked { question, last, answered, selection, chunk, .. } = asked;
        let first = *chunk;
        *chunk += CHUNKS_AT_ONCE;
        let has_more = slots.has_chunk(*chunk);
        let part = slots.chunks(first, CHUNKS_AT_ONCE).filter(|(_, slot)| slot.id <= *last);
        if let Question::Trace { session, tap } = question {
            for (index, mut slot) in part.filter(|(_, slot)| slot.id == *session) {
                slot.add_tap(tap.clone());
                answered.traced = Some((self.index, index));
            }
            return has_more && answered.traced.is_none();
        }
        let part = part.map(|(_, slot)| slot);
        match question {
            Question::Totals | Question::Trace { .. } => {}
            Question::List(_) => {
                let Some(selection) = selection else { return false };
                let filter = selection.filter().clone();
                for slot in part.filter(|slot| slot.is_selected(&filter, moment)) {
                    answered.count += 1;
                    if selection.wants(slot.id) {
                        selection.add(slot.info(self.thread(), moment));
                    }
                }
            }
            Question::Kick { whom, goodbye } => {
                for mut slot in part.filter(|slot| slot.is_open_to(whom, moment) || slot.lingers_refused(whom, moment))
                {
                    if slot.clock.is_closing() {
                        slot.send(Commands::ABORT);
                        answered.count += 1;
                        continue;
                    }
                    if !goodbye.is_empty() {
                        slot.push(goodbye.clone());
                    }
                    slot.send(Commands::KICK);
                    answered.count += 1;
                }
            }
            #[cfg(feature = "cluster")]
            Question::CutKicked { whom, last } => {
                let was_told = |slot: &SlotMut<'_>| {
                    // By its number it is meant whatever else had it end before.
                    slot.id <= *last
                        && slot.reason.is_some_and(|reason| reason == CloseReason::Kicked || whom.id.is_some())
                        && whom.has_identity(slot.id, slot.peer(), slot.listener)
                        && whom.has_names(slot.names())
                };
                for mut slot in part.filter(was_told) {
                    slot.send(Commands::ABORT);
                    answered.count += 1;
                }
            }
            Question::Push { whom, bytes } => {
                let limit = self.limits().outbox_limit;
                for mut slot in part.filter(|slot| slot.is_open_to(whom, moment)) {
                    match slot.offer(&Messages::one(bytes, &[bytes.len()]), limit) {
                        0 => answered.count += 1,
                        _ => answered.dropped += 1,
                    }
                }
            }
            Question::Limits { limits, dry_run } => {
                let timeouts = Timeouts::new(&self.limits_under(limits));
                for mut slot in part {
                    let is_listed = !slot.is_charged_to_nobody() && !slot.clock.is_closing();
                    let is_denied = is_listed && limits.admission.denies(slot.peer());
                    if is_denied || !slot.clock.overdue(&timeouts, moment).is_empty() {
                        answered.count += 1;
                        answered.sessions.push(slot.info(self.thread(), moment));
                    }
                    if is_denied && !*dry_run {
                        slot.send(Commands::KICK);
                    }
                }
            }
        }
        has_more
    }
}

impl Slot {
    /// Returns true if a filter selects the session. What costs more than a look at its number comes last.
    fn is_selected(&self, filter: &SessionFilter, moment: Moment) -> bool {
        filter.has_identity(self.id, self.peer(), self.listener)
            && filter.has_names(self.names())
            && (filter.is_lasting() || filter.has(&self.info(0, moment)))
    }
}

impl SlotMut<'_> {
    /// Returns true if a filter selects the session, and it is not closing.
    fn is_open_to(&self, whom: &SessionFilter, moment: Moment) -> bool {
        !self.clock.is_closing() && self.is_selected(whom, moment)
    }

    /// Returns true if a filter selects a peer that was refused behind its acceptor and has yet to close: it is ended at once.
    fn lingers_refused(&self, whom: &SessionFilter, moment: Moment) -> bool {
        self.clock.is_closing()
            && self.reason.is_some_and(|reason| matches!(reason, CloseReason::Refused(_)))
            && self.is_selected(whom, moment)
    }
}
