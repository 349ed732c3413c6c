//! Answers: what has become of a push or a kick, node by node, and who waits for that.
//!
//! Passive: a question has its number here while its answer is awaited.
//! Not here: asking (`ask`), how it travels (`request`).

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use serde::Serialize;
use tokio::sync::oneshot;

use crate::{
    cluster::{
        id::{NodeId, NodeName},
        mailbox::{self, Scales, Weight},
        query::as_text,
        store::StoreError,
    },
    plural::Counted,
};

/// The result of a push or a kick: one answer for each node that was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Answers {
    /// The answers, in the order of the nodes' names.
    pub nodes: Vec<NodeAnswer>,
    /// Why the store did not return the other nodes: none of them was asked then.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text_if_any")]
    pub others: Option<StoreError>,
}

/// The answer of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NodeAnswer {
    /// The node's name.
    pub node: NodeName,
    /// Its life. `None` for the node that asks while it holds no lease, and for a node that the filter names and that does not exist.
    pub id: Option<NodeId>,
    /// The answer.
    pub outcome: Outcome,
}

/// The result of a push or a kick on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Outcome {
    /// It was done.
    Done {
        /// Number of sessions that will write the bytes, or were told to end.
        sessions: u64,
        /// Number of sessions whose outbox had no room for the bytes, those that were cut for it included.
        dropped: u64,
    },
    /// No session there matches.
    NotFound,
    /// Nobody listens under this id or name: the node or this life of it has ended, or its subscription is lost at the moment.
    /// Nothing was done.
    NodeGone,
    /// No answer came in time. It is unknown whether it was done, or will be.
    TimedOut,
    /// The node refuses: it runs another version, or does not know a condition. Nothing was done.
    Refused {
        /// Its reason.
        reason: String,
    },
    /// The store was lost. The node was not asked, or it is unknown whether it was.
    StoreLost {
        /// The failure.
        #[serde(serialize_with = "as_text")]
        error: StoreError,
    },
}

#[expect(clippy::ref_option, reason = "as serde calls it")]
fn as_text_if_any<S: serde::Serializer>(error: &Option<StoreError>, serializer: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(StoreError::to_string).serialize(serializer)
}

impl Outcome {
    pub(crate) fn done(sessions: u64, dropped: u64) -> Self {
        if sessions == 0 && dropped == 0 { Self::NotFound } else { Self::Done { sessions, dropped } }
    }

    pub(crate) fn refused(reason: impl fmt::Display) -> Self {
        Self::Refused { reason: reason.to_string() }
    }

    /// Returns true if the node has answered: it was done, or no session matches.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::NotFound)
    }
}

/// Writes what an operator reads: the number of sessions, or the failure.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done { sessions, dropped: 0 } => Counted(*sessions, "session").fmt(f),
            Self::Done { sessions, dropped } => write!(f, "{}, {dropped} dropped", Counted(*sessions, "session")),
            Self::NotFound => f.write_str("not found"),
            Self::NodeGone => f.write_str("node gone"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Refused { reason } => write!(f, "refused: {reason}"),
            Self::StoreLost { error } => write!(f, "store lost: {error}"),
        }
    }
}

impl fmt::Display for NodeAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.node, self.outcome)
    }
}

impl Answers {
    /// Returns the number of sessions that will write the bytes, or were told to end, on all nodes that have answered.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        let done = |answer: &NodeAnswer| if let Outcome::Done { sessions, .. } = answer.outcome { sessions } else { 0 };
        self.nodes.iter().map(done).sum()
    }

    /// Returns true if all nodes are known and each of them has answered, so that no session that matches was left out.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.others.is_none() && self.nodes.iter().all(|answer| answer.outcome.is_answered())
    }
}

/// A push or a kick could not begin. Nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// It has too many bytes.
    #[error("{bytes} bytes are too many to be sent to other nodes: at most {most}")]
    TooLarge {
        /// Number of bytes.
        bytes: usize,
        /// Most bytes.
        most: usize,
    },
    /// Too many are under way.
    #[error("{most} pushes and kicks over nodes wait for answers: wait for some of them first")]
    TooMany {
        /// Most at a time.
        most: usize,
    },
    /// Those that are under way have too many bytes together.
    #[error("pushes and kicks over nodes with {most} bytes wait for answers: wait for some of them first")]
    TooManyBytes {
        /// Most bytes of all of them.
        most: usize,
    },
    /// No server is the node.
    #[error("no server is node {node} of the cluster: start one with LineServer::cluster first")]
    NoServer {
        /// The node.
        node: NodeName,
    },
}

/// The questions of a node that wait for answers.
#[derive(Debug, Default)]
pub(crate) struct Asks {
    last: AtomicU64,
    waiting: Mutex<HashMap<u64, Waiting>>,
    under_way: AtomicUsize,
    bytes: Scales,
}

#[derive(Debug)]
struct Waiting {
    node: NodeId,
    answer: oneshot::Sender<Outcome>,
}

/// One of those that may be under way at a time.
#[derive(Debug)]
pub(crate) struct Ticket<'a> {
    under_way: &'a AtomicUsize,
    weight: Option<Weight>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.under_way.fetch_sub(1, SeqCst);
    }
}

/// A question whose answer is awaited; dropped it is forgotten.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    asks: &'a Asks,
    pub(crate) number: u64,
    pub(crate) answer: oneshot::Receiver<Outcome>,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.asks.waiting().remove(&self.number);
    }
}

impl Asks {
    /// Most pushes and kicks under way at a time.
    pub(crate) const MOST: usize = 10_000;

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a push or a kick of so many bytes.
    pub(crate) fn begin(&self, bytes: usize) -> Result<Ticket<'_>, AskError> {
        let are_too_many = self.under_way.fetch_add(1, SeqCst) >= Self::MOST;
        let mut ticket = Ticket { under_way: &self.under_way, weight: None };
        if are_too_many {
            return Err(AskError::TooMany { most: Self::MOST });
        }
        ticket.weight = Some(self.bytes.put(bytes).ok_or(AskError::TooManyBytes { most: mailbox::MAX_BYTES })?);
        Ok(ticket)
    }

    /// Begins a question to a node.
    pub(crate) fn question(&self, node: &NodeId) -> Question<'_> {
        let number = self.last.fetch_add(1, Relaxed) + 1;
        let (sender, answer) = oneshot::channel();
        self.waiting().insert(number, Waiting { node: node.clone(), answer: sender });
        Question { asks: self, number, answer }
    }

    /// An answer has come. Returns false if nobody waits for it.
    pub(crate) fn answer(&self, number: u64, from: &NodeId, outcome: Outcome) -> bool {
        let mut waiting = self.waiting();
        if waiting.get(&number).is_none_or(|waiting| waiting.node != *from) {
            return false;
        }
        let asker = waiting.remove(&number);
        drop(waiting);
        asker.is_some_and(|asker| asker.answer.send(outcome).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_once_and_from_whom_was_asked() {
        let asks = Asks::default();
        let [b, c] = ["b", "c"].map(|name| NodeId { name: name.parse().unwrap(), incarnation: 1 });
        let mut question = asks.question(&b);
        let done = || Outcome::done(1, 0);
        assert!(!asks.answer(question.number, &c, done()), "of a node that was not asked");
        assert!(!asks.answer(question.number + 1, &b, done()), "to nothing that was asked");
        assert!(question.answer.try_recv().is_err());
        assert!(asks.answer(question.number, &b, done()));
        assert!(!asks.answer(question.number, &b, Outcome::NotFound));
        assert_eq!(question.answer.try_recv(), Ok(done()));
    }

    #[test]
    fn a_question_that_nobody_waits_for_is_forgotten() {
        let asks = Asks::default();
        let b = NodeId { name: "b".parse().unwrap(), incarnation: 1 };
        let number = asks.question(&b).number;
        assert!(asks.waiting().is_empty());
        assert!(!asks.answer(number, &b, Outcome::NotFound));
        assert_ne!(asks.question(&b).number, number, "a late answer is to no other question");
    }

    #[test]
    fn a_session_without_room_for_a_push_was_found() {
        assert_eq!(Outcome::done(0, 0), Outcome::NotFound);
        assert_eq!(Outcome::done(0, 1), Outcome::Done { sessions: 0, dropped: 1 });
    }
}
