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
        if let Some(open) = self.open.get_mut(&token) {
            open.missing.retain(|missing| *missing != worker);
            open.answers.push(answered);
            self.settle(token);
        }
    }

    /// A worker has stopped: its counters are its answer.
    pub(super) fn lose_worker(&mut self, worker: usize, counters: &Stats) {
        let mut tokens = Vec::new();
        for (token, open) in &mut self.open {
            // One that has answered is counted already.
            if open.missing.contains(&worker) {
                open.missing.retain(|missing| *missing != worker);
                open.answers.push(Answered { stats: counters.clone(), ..Answered::default() });
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
