//! Answers: a worker's handling of questions.
//!
//! Not here: asking, and adding up the answers of several workers (`control/supervisor`).

use crate::{
    control::orders::{Answer, Answered, Question},
    worker::{clock::Timeouts, command::Commands, delivery::Messages, worker::Worker},
};

impl Worker {
    pub(super) fn answer(&self, token: u64, question: &Question) -> Answer {
        let mut answered = Answered::default();
        let moment = self.clock.moment();
        match question {
            Question::Totals => answered.stats = self.stats(),
            Question::List(query) => {
                let mut slots = self.slots.borrow_mut();
                let infos = slots.iter_mut().map(|slot| slot.info(self.thread(), moment));
                answered.sessions.extend(infos.filter(|info| query.filter.has(info)));
                answered.count = answered.sessions.len() as u64;
                query.cut_to_page(&mut answered.sessions, 0);
            }
            Question::Kick { whom, goodbye } => {
                for mut slot in self.slots.borrow_mut().iter_mut() {
                    if slot.clock.is_closing() || !whom.has(&slot.info(self.thread(), moment)) {
                        continue;
                    }
                    if !goodbye.is_empty() {
                        slot.push(goodbye.clone());
                    }
                    slot.send(Commands::KICK);
                    answered.count += 1;
                }
            }
            Question::Push { whom, bytes } => {
                let limit = self.limits().outbox_limit;
                for mut slot in self.slots.borrow_mut().iter_mut() {
                    if slot.clock.is_closing() || !whom.has(&slot.info(self.thread(), moment)) {
                        continue;
                    }
                    match slot.offer(&Messages::one(bytes, &[bytes.len()]), limit) {
                        0 => answered.count += 1,
                        _ => answered.dropped += 1,
                    }
                }
            }
            Question::Limits { limits, dry_run } => {
                let own = self.limits_under(limits);
                let timeouts = Timeouts::new(&own);
                for mut slot in self.slots.borrow_mut().iter_mut() {
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
                if !*dry_run {
                    self.set_limits(own);
                }
            }
        }
        Answer { token, answered }
    }
}
