//! Plans: which cases there are for a script, found by what happened in a run of it, and which of them are left out.
//!
//! Not here: what a case is (`case`), how it goes (`fuzz`).

use std::collections::BTreeMap;

use crate::script::{
    ast::{Action, Kind, Statement},
    fuzz::{case::Case, early},
    manner::Observations,
    memory::{CALLS, Stall},
};

pub(crate) struct Plan {
    /// Those that are many steps at once, then those that are one.
    pub(crate) cases: Vec<Case>,
    /// Sentences about what is not among them.
    pub(crate) left_out: Vec<String>,
}

/// All that a peer sent in a script.
fn sent(seen: &Observations) -> BTreeMap<&str, Vec<u8>> {
    let mut sent = BTreeMap::<&str, Vec<u8>>::new();
    for one in &seen.observed.sent {
        let peer = seen.peers.get(one.peer).map_or("", String::as_str);
        sent.entry(peer).or_default().extend_from_slice(&one.bytes);
    }
    sent
}

fn pauses(statements: &[Statement]) -> bool {
    statements.iter().any(|statement| match &statement.kind {
        Kind::Act { action, .. } => matches!(action, Action::Pause),
        Kind::Repeat { body, .. } | Kind::Include { body, .. } => pauses(body),
        _ => false,
    })
}

/// Cuts near the ends of lines are where faults are: first among those that may not all be tried.
fn is_near_an_end(bytes: &[u8], cut: usize) -> bool {
    let is_end = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(|byte| b"\r\n".contains(byte));
    is_end(cut.checked_sub(2)) || is_end(cut.checked_sub(1)) || is_end(Some(cut))
}

/// Many steps at once.
fn broad(statements: &[Statement], in_memory: bool, left_out: &mut Vec<String>) -> Vec<Case> {
    let mut cases = vec![Case::Bytes, Case::Slow];
    if in_memory {
        cases.extend([1, 7].into_iter().flat_map(|most| [Case::Reads(most), Case::Writes(most)]));
        cases.extend(CALLS.map(|call| Case::Stall(Stall::Each(call))));
        if pauses(statements) {
            left_out.push("small windows: a peer pauses, and how much then fits in between is the script's".to_owned());
        } else {
            cases.extend([Case::Window(1), Case::Window(13)]);
        }
    }
    cases
}

/// Each peer's bytes cut at several places, by chance.
fn random_splits(bytes: &BTreeMap<&str, Vec<u8>>, random: &mut fastrand::Rng) -> Option<Case> {
    let cuts = bytes.iter().filter(|(_, bytes)| bytes.len() > 1).map(|(peer, bytes)| {
        let most = bytes.len() - 1;
        let mut at: Vec<_> = (0..random.usize(2..=8)).map(|_| random.usize(1..=most)).collect();
        at.sort_unstable();
        at.dedup();
        ((*peer).to_owned(), at)
    });
    // A single one is tried anyway.
    Some(Case::Split(cuts.collect())).filter(|case| !case.is_single())
}

fn single_splits(bytes: &BTreeMap<&str, Vec<u8>>) -> Vec<(bool, Case)> {
    let of_peer = |(peer, bytes): (&&str, &Vec<u8>)| {
        let case = |cut| Case::Split(BTreeMap::from([((*peer).to_owned(), vec![cut])]));
        (1..bytes.len()).map(|cut| (is_near_an_end(bytes, cut), case(cut))).collect::<Vec<_>>()
    };
    bytes.iter().flat_map(of_peer).collect()
}

fn single_stalls(seen: &Observations) -> Vec<Case> {
    let mut cases = Vec::new();
    for (peer, counts) in &seen.counts {
        for (call, count) in CALLS.into_iter().zip(counts) {
            cases.extend((1..=*count).map(|nth| Case::Stall(Stall::One { peer: peer.clone(), call, nth })));
        }
    }
    cases
}

/// At most `most` of them, the important ones first, the others by chance; in their order.
fn some(cases: Vec<(bool, Case)>, most: usize, random: &mut fastrand::Rng) -> Vec<Case> {
    let mut chosen: Vec<_> =
        cases.into_iter().enumerate().map(|(at, (first, case))| (!first, random.u64(..), at, case)).collect();
    if chosen.len() > most {
        chosen.sort_by_key(|(first, chance, ..)| (*first, *chance));
        chosen.truncate(most);
        chosen.sort_by_key(|(.., at, _)| *at);
    }
    chosen.into_iter().map(|(.., case)| case).collect()
}

impl Plan {
    /// The cases for a script: at most `max_cases`, `random_cases` of them cut at random places.
    pub(crate) fn new(
        statements: &[Statement],
        seen: &Observations,
        in_memory: bool,
        max_cases: usize,
        random_cases: usize,
        seed: u64,
    ) -> Self {
        let mut chance = fastrand::Rng::with_seed(seed);
        let mut left_out = Vec::new();
        let bytes = sent(seen);
        let mut cases = broad(statements, in_memory, &mut left_out);
        cases.extend((0..random_cases).filter_map(|_| random_splits(&bytes, &mut chance)));
        cases.extend((1..=early::count(statements)).map(Case::Early));
        let splits = single_splits(&bytes);
        let stalls: Vec<_> = single_stalls(seen).into_iter().map(|case| (false, case)).collect();
        let all = (cases.len(), splits.len(), stalls.len());
        cases.truncate(max_cases);
        // The rest is shared, as far as both need it.
        let left = max_cases - cases.len();
        let for_stalls = stalls.len().min((left / 4).max(left.saturating_sub(splits.len())));
        let splits = some(splits, left - for_stalls, &mut chance);
        let stalls = some(stalls, for_stalls, &mut chance);
        let lacking =
            [(all.0 - cases.len(), "other cases"), (all.1 - splits.len(), "splits"), (all.2 - stalls.len(), "stalls")];
        for (count, name) in lacking.into_iter().filter(|(count, _)| *count > 0) {
            left_out.push(format!("{count} {name}: at most {max_cases} cases"));
        }
        cases.extend(splits);
        cases.extend(stalls);
        Self { cases, left_out }
    }
}
