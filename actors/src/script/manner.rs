//! In which manner a script runs, beside what it says, and what is seen of it: for runs that are compared with others.
//!
//! Not here: which manners there are to try (`fuzz`), what is done to calls (`memory`).

use std::{collections::BTreeMap, time::Duration};

use crate::script::{ast::Span, driver::Counts, memory::Disturbance, notes::Amending};

/// What is done beside what a script says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manner {
    pub(crate) cuts: Cuts,
    /// Of the service's calls. Only in memory.
    pub(crate) disturbance: Disturbance,
    /// What a service has to look at a piece, over sockets.
    pub(crate) turn: Duration,
    /// Whether to keep what happens.
    pub(crate) observes: bool,
    /// Whether to go on where something else comes than what was expected, and note it.
    pub(crate) amends: bool,
}

/// How what peers send is cut, beside what the script says of it.
#[derive(Clone, Debug, Default)]
pub(crate) enum Cuts {
    /// In one piece.
    #[default]
    None,
    /// Into single bytes.
    Bytes,
    /// In chunks of random sizes.
    Random(fastrand::Rng),
    /// Behind so many bytes of all that a peer sends, in rising order, by its name.
    At(BTreeMap<String, Vec<usize>>),
}

impl Cuts {
    /// The length of the next piece of `left` bytes, after a peer has sent `sent`. `None` if that is all of them.
    pub(crate) fn next(&mut self, peer: &str, sent: usize, left: usize) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Bytes => Some(1),
            Self::Random(random) => Some(random.usize(1..=1 + left / 4)),
            Self::At(cuts) => {
                let next = *cuts.get(peer)?.iter().find(|cut| **cut > sent)?;
                // At the end of what is sent now there is a cut if the service is to look at it before more comes.
                (next - sent <= left).then(|| next - sent)
            }
        }
    }
}

/// Something that a peer sent.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) peer: usize,
    pub(crate) span: Span,
    pub(crate) bytes: Vec<u8>,
}

/// Something that an expectation took. Empty where the script leaves open what it is.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) peer: usize,
    pub(crate) span: Span,
    pub(crate) bytes: Vec<u8>,
}

/// What happened in a run.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub(crate) sent: Vec<Sent>,
    pub(crate) taken: Vec<Taken>,
}

impl Observed {
    pub(crate) fn take(&mut self, peer: usize, span: Span, bytes: &[u8]) {
        self.taken.push(Taken { peer, span, bytes: bytes.to_vec() });
    }

    /// As [`take`](Self::take), of an expectation that may have taken something else before.
    pub(crate) fn take_instead(&mut self, peer: usize, span: Span, bytes: &[u8]) {
        match self.taken.iter_mut().rfind(|taken| taken.peer == peer && taken.span.start == span.start) {
            Some(taken) => taken.bytes = bytes.to_vec(),
            None => self.take(peer, span, bytes),
        }
    }

    /// Forgets what a block leaves open of all that was taken since: the order, or which of several it is.
    pub(crate) fn leave_open(&mut self, since: usize, all: bool) {
        let taken = &mut self.taken[since..];
        taken.sort_by_key(|taken| taken.span.start);
        if !all {
            taken.iter_mut().for_each(|taken| taken.bytes.clear());
        }
    }
}

/// All that is seen of a run.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    pub(crate) observed: Observed,
    /// The service's calls on each peer's connections, where they are counted.
    pub(crate) counts: BTreeMap<String, Counts>,
    /// The names of the peers.
    pub(crate) peers: Vec<String>,
    /// What the script should have said.
    pub(crate) amending: Box<Amending>,
}
