//! Questions: those that some workers have not answered yet.
//!
//! They outlive the supervisor that has asked them: what workers were told to do they do once, and whoever asked learns of it.
//! Not here: the lock (`ways`), what is asked (`supervisor`), answering (`worker/answers`).

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::control::{
    orders::{Answer, Answered},
    stats::Stats,
};

#[derive(Debug, Default)]
pub(super) struct Questions {
    open: HashMap<u64, Open>,
    last_token: u64,
}

/// A question.
#[derive(Debug)]
struct Open {
    /// Workers that have not answered.
    missing: Vec<usize>,
    answers: Vec<Answered>,
    done: oneshot::Sender<Vec<Answered>>,
}

impl Open {
    /// Takes the answer of a worker; false if it has answered, and is counted already.
    fn take(&mut self, worker: usize, answered: Answered) -> bool {
        let Some(place) = self.missing.iter().position(|missing| *missing == worker) else { return false };
        self.missing.swap_remove(place);
        self.answers.push(answered);
        true
    }
}

impl Questions {
    /// Returns the number of the next question, which no other one ever has.
    pub(super) fn next_token(&mut self) -> u64 {
        self.last_token += 1;
        self.last_token
    }

    /// Adds a question that these workers were asked. Returns the way of their answers, and that of `first`.
    pub(super) fn add(&mut self, token: u64, missing: Vec<usize>, first: Answered) -> oneshot::Receiver<Vec<Answered>> {
        let (done, answers) = oneshot::channel();
        self.open.insert(token, Open { missing, answers: vec![first], done });
        self.settle(token);
        answers
    }

    /// Takes a worker's answer.
    pub(super) fn answer(&mut self, worker: usize, Answer { token, answered }: Answer) {
        if self.open.get_mut(&token).is_some_and(|open| open.take(worker, answered)) {
            self.settle(token);
        }
    }

    /// A worker has stopped: its counters are its answer.
    pub(super) fn lose_worker(&mut self, worker: usize, counters: &Stats) {
        let mut tokens = Vec::new();
        for (token, open) in &mut self.open {
            if open.take(worker, Answered { stats: counters.clone(), ..Answered::default() }) {
                tokens.push(*token);
            }
        }
        tokens.into_iter().for_each(|token| self.settle(token));
    }

    /// Answers a question once every worker has answered.
    fn settle(&mut self, token: u64) {
        if self.open.get(&token).is_some_and(|open| open.missing.is_empty())
            && let Some(open) = self.open.remove(&token)
        {
            // Whoever asked may have lost interest.
            let _ = open.done.send(open.answers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(opened: u64) -> Stats {
        Stats { opened, ..Stats::default() }
    }

    fn answer(token: u64, sessions: u64) -> Answer {
        Answer { token, answered: Answered { stats: opened(sessions), ..Answered::default() } }
    }

    fn sum(answers: Vec<Answered>) -> u64 {
        answers.into_iter().map(|answered| answered.stats.opened).sum()
    }

    #[test]
    fn a_worker_that_stops_answers_with_its_counters_each_question_that_it_has_not_answered() {
        let mut questions = Questions::default();
        let tokens = [questions.next_token(), questions.next_token()];
        assert_ne!(tokens[0], tokens[1]);
        let first = || Answered { stats: opened(1000), ..Answered::default() };
        let mut answers = tokens.map(|token| questions.add(token, vec![1, 2], first()));
        questions.answer(1, answer(tokens[0], 10));
        questions.lose_worker(1, &opened(11));
        questions.answer(1, answer(tokens[1], 12));
        for (answers, token) in answers.iter_mut().zip(tokens) {
            assert!(answers.try_recv().is_err(), "worker 2 is missing");
            questions.answer(2, answer(token, 100));
        }
        assert_eq!(answers.map(|mut answers| sum(answers.try_recv().unwrap())), [1110, 1111]);
        assert!(questions.open.is_empty());
        // Of those that are gone, and where there is none, nothing is awaited.
        let mut answers = questions.add(3, Vec::new(), first());
        assert_eq!(sum(answers.try_recv().unwrap()), 1000);
    }
}
