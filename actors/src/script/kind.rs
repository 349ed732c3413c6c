//! Kinds of failures: what a program may ask about a script that does not hold.
//!
//! Not here: the report that a person reads (`report`).

use std::fmt;

/// In which manner a script does not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// Something else came than what was expected, or more.
    Differs,
    /// The service ended its bytes before what was expected.
    Ended,
    /// The service reset the connection, or it was lost, before what was expected.
    Lost,
    /// Nothing that was expected came in time.
    Late,
    /// Something came that nothing expected: within a silence, before a close, at the end.
    Leftover,
    /// Something came that must not come.
    Forbidden,
    /// The service did not end its bytes at the end of the script.
    NoEof,
    /// A peer could not connect, or was not refused.
    Connect,
    /// A peer could not send, or could not end its bytes.
    Send,
    /// A server of the script did not start, did not say or do what was expected, or ended by itself.
    Server,
    /// The script asks for what cannot be: a variable that nothing has set, a peer that speaks after its close.
    #[default]
    Impossible,
    /// The script could not be run: no thread, the server that was given did not start, or a case of a fuzz changes nothing in it.
    NotRun,
}

impl FailureKind {
    /// Returns its name in one word, as reports for programs have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Differs => "differs",
            Self::Ended => "ended",
            Self::Lost => "lost",
            Self::Late => "late",
            Self::Leftover => "leftover",
            Self::Forbidden => "forbidden",
            Self::NoEof => "no-eof",
            Self::Connect => "connect",
            Self::Send => "send",
            Self::Server => "server",
            Self::Impossible => "impossible",
            Self::NotRun => "not-run",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Expected and received where they part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mismatch {
    /// The peer's name. Empty for the one without.
    pub peer: String,
    /// The text, the bytes or the pattern that had to come; of several the first. `None` where nothing was to come, or an end.
    pub expected: Option<Vec<u8>>,
    /// What came instead: the next line with its terminator, or as many bytes as were expected. At most 64 KiB.
    pub received: Vec<u8>,
}

impl Mismatch {
    const MAX: usize = 64 << 10;

    pub(crate) fn new(peer: &str, expected: Option<Vec<u8>>, received: &[u8]) -> Self {
        let received = received[..received.len().min(Self::MAX)].to_vec();
        Self { peer: peer.to_owned(), expected, received }
    }
}
