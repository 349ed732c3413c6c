//! Reports: what is counted of each session.

/// What one turn adds to a session's counters.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// A line, or a piece of one, was delivered.
    pub(crate) delivered: bool,
    pub(crate) lines_in: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}
