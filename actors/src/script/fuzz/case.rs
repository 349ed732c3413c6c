//! Cases of a fuzz: one manner to run a script each, and its name.
//!
//! Not here: which of them there are for a script (`plan`).

use std::{collections::BTreeMap, error::Error, fmt, str::FromStr};

use crate::{
    script::{
        manner::{Cuts, Manner},
        memory::{CALLS, Disturbance, Stall, call_index},
    },
    testing::StreamCall,
};

/// One manner to run a script: how what peers send is cut, which calls of the service are held back. Displayed it is a word that
/// is read again by [`str::parse`].
///
/// | word | what it does |
/// |---|---|
/// | `split:17`, `split:alice:3,17:bob:5` | cuts what a peer sends behind so many bytes of all it sends in the script; the peer without a name has none |
/// | `bytes` | sends each byte by itself |
/// | `early:3` | the third line that others speak before: its first byte leaves before they do |
/// | `slow` | peers read little and seldom |
/// | `stall:alice:read:3` | holds back the third read of the service from alice. Calls are `read`, `write`, `flush` and `shutdown` |
/// | `stall:read:each` | holds back each read |
/// | `reads:N`, `writes:N` | the service reads or writes at most N bytes at once |
/// | `window:N` | at most N bytes that the service sends fit in before the peer reads |
///
/// The last four are for services in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FuzzCase(pub(crate) Case);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Split(BTreeMap<String, Vec<usize>>),
    Bytes,
    Early(usize),
    Slow,
    Stall(Stall),
    Reads(usize),
    Writes(usize),
    Window(usize),
}

impl Case {
    /// True if only a service in memory can be treated so.
    pub(crate) fn needs_memory(&self) -> bool {
        !matches!(self, Self::Split(_) | Self::Bytes | Self::Early(_) | Self::Slow)
    }

    /// True if it is one small step from the script as it is. The others are many at once.
    pub(crate) fn is_single(&self) -> bool {
        match self {
            Self::Split(cuts) => cuts.values().map(Vec::len).sum::<usize>() <= 1,
            Self::Early(_) | Self::Stall(Stall::One { .. }) => true,
            _ => false,
        }
    }

    pub(crate) fn manner(&self) -> Manner {
        let mut manner = Manner { observes: true, ..Manner::default() };
        let disturbance = &mut manner.disturbance;
        match self {
            Self::Split(cuts) => manner.cuts = Cuts::At(cuts.clone()),
            Self::Bytes => manner.cuts = Cuts::Bytes,
            // Its statements are others.
            Self::Early(_) => {}
            Self::Slow => disturbance.slow_peers = true,
            Self::Stall(stall) => disturbance.stall = Some(stall.clone()),
            Self::Reads(most) => disturbance.read_limit = *most,
            Self::Writes(most) => disturbance.write_limit = *most,
            Self::Window(bytes) => *disturbance = Disturbance { window: Some(*bytes), ..Disturbance::default() },
        }
        manner
    }
}

const NAMES: [&str; 4] = ["read", "write", "flush", "shutdown"];

/// The name of a call, in cases and in sentences.
pub(crate) fn call_name(call: StreamCall) -> &'static str {
    NAMES[call_index(call)]
}

fn call(name: &str) -> Option<StreamCall> {
    NAMES.iter().position(|known| *known == name).map(|at| CALLS[at])
}

impl fmt::Display for FuzzCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Case::Split(cuts) => {
                f.write_str("split")?;
                for (peer, at) in cuts {
                    if !peer.is_empty() {
                        write!(f, ":{peer}")?;
                    }
                    let at: Vec<_> = at.iter().map(ToString::to_string).collect();
                    write!(f, ":{}", at.join(","))?;
                }
                Ok(())
            }
            Case::Bytes => f.write_str("bytes"),
            Case::Early(nth) => write!(f, "early:{nth}"),
            Case::Slow => f.write_str("slow"),
            Case::Stall(Stall::One { peer, call, nth }) if peer.is_empty() => {
                write!(f, "stall:{}:{nth}", call_name(*call))
            }
            Case::Stall(Stall::One { peer, call, nth }) => write!(f, "stall:{peer}:{}:{nth}", call_name(*call)),
            Case::Stall(Stall::Each(call)) => write!(f, "stall:{}:each", call_name(*call)),
            Case::Reads(most) => write!(f, "reads:{most}"),
            Case::Writes(most) => write!(f, "writes:{most}"),
            Case::Window(bytes) => write!(f, "window:{bytes}"),
        }
    }
}

/// A text that is no case of a fuzz.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FuzzCaseError(String);

impl fmt::Display for FuzzCaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is no case: write split:PEER:BYTES, bytes, early:N, slow, stall:PEER:CALL:N, stall:CALL:each, reads:N, writes:N or window:N; the peer without a name is left out",
            self.0
        )
    }
}

impl Error for FuzzCaseError {}

fn positive(text: &str) -> Option<usize> {
    text.parse().ok().filter(|number| *number > 0)
}

fn cuts(words: &[&str]) -> Option<BTreeMap<String, Vec<usize>>> {
    let mut cuts = BTreeMap::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        // Names begin with a letter.
        let (peer, at) =
            if word.starts_with(|letter: char| letter.is_ascii_digit()) { ("", word) } else { (*word, words.next()?) };
        let mut at = at.split(',').map(positive).collect::<Option<Vec<_>>>()?;
        at.sort_unstable();
        at.dedup();
        cuts.insert(peer.to_owned(), at);
    }
    Some(cuts).filter(|cuts| !cuts.is_empty())
}

impl FromStr for FuzzCase {
    type Err = FuzzCaseError;

    fn from_str(text: &str) -> Result<Self, FuzzCaseError> {
        let words: Vec<_> = text.split(':').collect();
        let case = match words[..] {
            ["bytes"] => Some(Case::Bytes),
            ["slow"] => Some(Case::Slow),
            ["split", ref words @ ..] => cuts(words).map(Case::Split),
            ["early", nth] => positive(nth).map(Case::Early),
            ["reads", most] => positive(most).map(Case::Reads),
            ["writes", most] => positive(most).map(Case::Writes),
            ["window", bytes] => positive(bytes).map(Case::Window),
            ["stall", name, "each"] => call(name).map(|call| Case::Stall(Stall::Each(call))),
            ["stall", name, nth] | ["stall", _, name, nth] => call(name).zip(positive(nth)).map(|(call, nth)| {
                let peer = if words.len() == 4 { words[1] } else { "" };
                Case::Stall(Stall::One { peer: peer.to_owned(), call, nth })
            }),
            _ => None,
        };
        case.map(Self).ok_or_else(|| FuzzCaseError(text.to_owned()))
    }
}
