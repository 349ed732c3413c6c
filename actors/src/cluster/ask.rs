//! Ask: pushes and kicks over nodes: asks the nodes that matter, each once and all at the same time, and does what others ask.
//!
//! A question goes to the control channel of a life, and so does its answer. Nobody waits for longer than the deadline, and the
//! node's own sessions wait for nobody.
//! Not here: the words on the wire (`request`), who waits (`answers`), what users call (`sessions`).

use std::{
    collections::{HashSet, VecDeque},
    mem,
    sync::Arc,
};

use bytes::Bytes;
use futures::{
    StreamExt,
    future::{join, join_all},
    stream::FuturesUnordered,
};
use tokio::time::{Instant, timeout_at};

use crate::{
    cluster::{
        answers::{Answers, AskError, NodeAnswer, Outcome},
        core::Core,
        id::NodeId,
        mailbox::{Mail, Mailbox, Scales, Weight},
        query::ClusterFilter,
        request::{self, Letter, Order, Whom},
        store::StoreError,
    },
    server::handle::ServerHandle,
};

/// Most bytes of a push, or of a goodbye.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;

/// Letters of others that wait here to be read, and questions that wait to be carried out, each as long as their bytes have room.
const MAILBOX: usize = 16_384;

/// Most questions of others that are carried out at the same time; none of them holds up an answer.
const AT_ONCE: usize = 256;

/// Numbers of questions that are remembered, twice: as many as may be on their way.
const REMEMBERED: usize = 8192;

/// Asks all nodes that matter.
pub(crate) async fn ask(core: &Core, whom: &ClusterFilter, order: Order) -> Result<Answers, AskError> {
    let (Order::Push(bytes) | Order::Kick(bytes)) = &order;
    if bytes.len() > MAX_BYTES {
        return Err(AskError::TooLarge { bytes: bytes.len(), most: MAX_BYTES });
    }
    let Some(server) = core.server.get() else {
        return Err(AskError::NoServer { node: core.settings.name.clone() });
    };
    let _ticket = core.asks.begin(bytes.len())?;
    let deadline = Instant::now() + core.settings.ask_timeout;
    let own = core.life();
    let is_for_us = match &whom.id {
        Some(id) => Some(&id.node) == own.as_ref() && whom.has_node(&id.node),
        None => whom.node.as_ref().is_none_or(|node| *node == core.settings.name),
    };
    // What is asked of others does not wait for the own sessions, nor do these for the store.
    let words = Whom::from(whom);
    let here = async {
        if !is_for_us {
            return None;
        }
        let outcome = carry_out(core, server, &words, order.clone(), deadline).await;
        Some(NodeAnswer { node: core.settings.name.clone(), id: own.clone(), outcome })
    };
    let there = ask_others(core, whom, &words, &order, own.as_ref(), deadline);
    let (here, mut answers) = join(here, there).await;
    answers.nodes.extend(here);
    answers.nodes.sort_by(|a, b| (&a.node, &a.id).cmp(&(&b.node, &b.id)));
    Ok(answers)
}

async fn ask_others(
    core: &Core,
    whom: &ClusterFilter,
    words: &Whom,
    order: &Order,
    own: Option<&NodeId>,
    deadline: Instant,
) -> Answers {
    let others = match &whom.id {
        Some(id) => vec![id.node.clone()],
        None if whom.node.as_ref() == Some(&core.settings.name) => Vec::new(),
        None => match timeout_at(deadline, core.nodes()).await {
            Ok(Ok(nodes)) => {
                let ours = core.traces();
                nodes.into_iter().map(|node| node.id).filter(|id| !ours.contains(id)).collect()
            }
            Ok(Err(error)) => return Answers { nodes: Vec::new(), others: Some(error) },
            Err(_) => {
                let error = StoreError::Slow { after: core.settings.ask_timeout };
                return Answers { nodes: Vec::new(), others: Some(error) };
            }
        },
    };
    let others = others.into_iter().filter(|id| whom.has_node(id) && Some(id) != own);
    let asked = others.map(|id| async move {
        let outcome = match own {
            Some(own) => ask_one(core, &id, words, order, own, deadline).await,
            // Nobody could answer.
            None => {
                let reason = format!("node {} holds no lease", core.settings.name);
                Outcome::StoreLost { error: StoreError::Lost { reason } }
            }
        };
        NodeAnswer { node: id.name.clone(), id: Some(id), outcome }
    });
    let mut nodes = join_all(asked).await;
    // One that is named and is not there has an answer, too.
    if let (None, Some(node)) = (&whom.id, &whom.node)
        && nodes.is_empty()
        && *node != core.settings.name
    {
        nodes.push(NodeAnswer { node: node.clone(), id: None, outcome: Outcome::NodeGone });
    }
    Answers { nodes, others: None }
}

/// Asks one node.
async fn ask_one(core: &Core, node: &NodeId, whom: &Whom, order: &Order, own: &NodeId, deadline: Instant) -> Outcome {
    // Before the question leaves: the answer may be here before the store has said anything.
    let mut question = core.asks.question(node);
    let letter = request::ask(question.number, own, whom, order);
    core.counts.asked.one();
    let asked = async {
        match core.publish(&Core::control_channel(node), letter).await {
            Ok(0) => Some(Outcome::NodeGone),
            // It may have arrived nevertheless: so it is worth while to wait.
            Ok(_) | Err(StoreError::Slow { .. }) => None,
            Err(error) => Some(Outcome::StoreLost { error }),
        }
    };
    let answered = async {
        tokio::select! {
            biased;
            answer = &mut question.answer => answer.unwrap_or(Outcome::TimedOut),
            Some(failed) = asked => failed,
        }
    };
    // A publication that has ended without a failure leaves the answer to be awaited.
    match timeout_at(deadline, answered).await {
        Ok(outcome) => outcome,
        Err(_) => {
            core.counts.asks_timed_out.one();
            Outcome::TimedOut
        }
    }
}

/// Does something to the sessions of this node. The answer comes when they have been told; those of a worker that somebody's code
/// blocks are told later than that.
async fn carry_out(core: &Core, server: &ServerHandle, whom: &Whom, order: Order, deadline: Instant) -> Outcome {
    let listeners: Vec<_> = server.listeners().iter().map(|listener| listener.id).collect();
    let filter = match whom.filter(&listeners) {
        Ok(Some(filter)) => filter,
        Ok(None) => return Outcome::NotFound,
        Err(reason) => return Outcome::refused(reason),
    };
    let done = match order {
        Order::Push(bytes) => {
            let told = timeout_at(deadline, server.push(filter, bytes)).await;
            told.map(|told| told.map(|pushed| (pushed.sessions, pushed.dropped)))
        }
        Order::Kick(goodbye) => {
            let told = timeout_at(deadline, server.kick(filter.clone(), goodbye)).await;
            // Those that are told later, too.
            if !matches!(told, Ok(Ok(0) | Err(_))) {
                core.kicks.add(filter, core.settings.kick_timeout);
            }
            told.map(|told| told.map(|sessions| (sessions, 0)))
        }
    };
    let Ok(done) = done else { return Outcome::TimedOut };
    done.map_or_else(Outcome::refused, |(sessions, dropped)| Outcome::done(sessions, dropped))
}

/// Reads the control channel, until it is dropped.
pub(crate) async fn run(core: Arc<Core>) {
    let (to, mut letters) = Mailbox::new(MAILBOX);
    core.hub.listen_to_control(to);
    let (mut recent, held) = (Recent::default(), Scales::default());
    let mut under_way = FuturesUnordered::new();
    let mut waiting = VecDeque::new();
    loop {
        tokio::select! {
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
            // Answers to what this node has asked wait for no question of others, and have room beside all of them.
            letter = letters.recv() => {
                let Some(letter) = letter else { return };
                match take(&core, letter, &mut recent, &held) {
                    Some(_) if waiting.len() >= MAILBOX => core.counts.messages_dropped.one(),
                    Some(asked) => waiting.push_back(asked),
                    None => {}
                }
            }
        }
        while under_way.len() < AT_ONCE
            && let Some(asked) = waiting.pop_front()
        {
            under_way.push(asked.answer(&core));
        }
    }
}

/// A question of another node.
struct Asked {
    own: NodeId,
    from: NodeId,
    number: u64,
    request: Result<(Whom, Order), String>,
    /// It takes room until it is answered.
    _weight: Weight,
}

/// Takes a letter. Returns the question that it is, if it is one that was not taken before and `held` has room for it.
fn take(core: &Core, letter: Mail, recent: &mut Recent, held: &Scales) -> Option<Asked> {
    let letter = letter.message;
    match request::read(&letter.bytes) {
        Letter::Answer { number, from, outcome } => {
            if !core.asks.answer(number, &from, outcome) {
                core.counts.answers_late.one();
            }
            None
        }
        Letter::Ask { number, from, request } => {
            if !recent.insert(&from, number) {
                core.counts.requests_again.one();
                return None;
            }
            core.counts.requests.one();
            let own = letter.channel.strip_prefix("c:")?.parse().ok()?;
            let Some(weight) = held.put(letter.bytes.len()) else {
                core.counts.messages_dropped.one();
                return None;
            };
            Some(Asked { own, from, number, request, _weight: weight })
        }
        Letter::Unknown => {
            core.counts.messages_unknown.one();
            None
        }
    }
}

impl Asked {
    async fn answer(self, core: &Core) {
        let Self { own, from, number, request, _weight } = self;
        let outcome = match (request, core.server.get()) {
            // Its lease is over: for all others it does not exist.
            _ if core.life().as_ref() != Some(&own) => Outcome::NodeGone,
            (Err(reason), _) => Outcome::refused(reason),
            (_, None) => Outcome::refused("its server has not started"),
            (Ok((whom, order)), Some(server)) => {
                let deadline = Instant::now() + core.settings.ask_timeout;
                carry_out(core, server, &whom, order, deadline).await
            }
        };
        // It is unknown what will be done: whoever asked says so by itself.
        if outcome == Outcome::TimedOut {
            return;
        }
        let letter: Bytes = request::answer(number, &own, outcome);
        // Who hears nothing knows that it knows nothing.
        let _ = core.publish(&Core::control_channel(&from), letter).await;
    }
}

/// The questions that were taken, as far back as one may come again: a question is carried out at most once.
#[derive(Debug, Default)]
struct Recent {
    newer: HashSet<(NodeId, u64)>,
    older: HashSet<(NodeId, u64)>,
}

impl Recent {
    /// Adds one. Returns false if it is there.
    fn insert(&mut self, from: &NodeId, number: u64) -> bool {
        let question = (from.clone(), number);
        if self.newer.contains(&question) || self.older.contains(&question) {
            return false;
        }
        if self.newer.len() >= REMEMBERED {
            self.older = mem::take(&mut self.newer);
        }
        self.newer.insert(question)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{
        builder::Cluster,
        mailbox::{self, Put},
        memory::Memory,
        store::Message,
    };

    #[actix_rt::test]
    async fn what_others_ask_takes_room_until_it_is_answered() {
        let cluster = Cluster::builder(Memory::new()).node("a").build().unwrap();
        let from = NodeId { name: "b".parse().unwrap(), incarnation: 1 };
        let question = |number| request::ask(number, &from, &Whom::default(), &Order::Push(Bytes::from_static(b"x")));
        let message = |bytes| Message { channel: "c:a.00000001".into(), bytes };
        let (mailbox, mut letters) = Mailbox::new(4);
        let (mut recent, held) = (Recent::default(), Scales::default());
        let mut read = |bytes: Bytes| {
            assert_eq!(mailbox.put(message(bytes)), Put::In, "what was read takes no room here");
            take(&cluster.core, letters.try_recv().unwrap(), &mut recent, &held)
        };
        let room = || (held.put(mailbox::MAX_BYTES).is_some(), cluster.stats().messages_dropped);
        let asked = read(question(1)).unwrap();
        assert_eq!(room(), (false, 0));
        let large = Bytes::from([&question(2)[..], &vec![b' '; mailbox::MAX_BYTES - question(2).len()]].concat());
        assert!(read(large).is_none());
        assert_eq!(room(), (false, 1));
        asked.answer(&cluster.core).await;
        assert_eq!(room(), (true, 1));
        // What is no question takes none.
        assert!(read(Bytes::from(vec![0; mailbox::MAX_BYTES])).is_none());
        assert_eq!(room(), (true, 1));
    }

    #[test]
    fn a_question_is_new_once_however_many_others_come_between() {
        let mut recent = Recent::default();
        let from = |nth| NodeId { name: "a".parse().unwrap(), incarnation: nth };
        assert!(recent.insert(&from(1), 1) && recent.insert(&from(2), 1));
        for number in 2..REMEMBERED as u64 {
            assert!(recent.insert(&from(1), number));
        }
        for number in 1..REMEMBERED as u64 {
            assert!(!recent.insert(&from(1), number));
        }
        // As many again make none of them new.
        for number in 0..REMEMBERED as u64 {
            assert!(recent.insert(&from(4), number));
        }
        for number in 1..REMEMBERED as u64 {
            assert!(!recent.insert(&from(1), number));
        }
        for number in 0..3 * REMEMBERED as u64 {
            assert!(recent.insert(&from(3), number));
            assert!(recent.newer.len() + recent.older.len() <= 2 * REMEMBERED);
        }
    }
}
