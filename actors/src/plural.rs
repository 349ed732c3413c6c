//! Plural: a number with its noun, for messages.
//!
//! Not here: the messages.

use std::fmt;

/// A number and its noun, which is regular: `1 session`, `2 sessions`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted<N>(pub(crate) N, pub(crate) &'static str);

impl<N: fmt::Display + Copy + TryInto<u64>> fmt::Display for Counted<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, noun) = *self;
        let plural = if matches!(count.try_into(), Ok(1)) { "" } else { "s" };
        write!(f, "{count} {noun}{plural}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noun_is_as_many_as_its_number() {
        let counted = |count: usize| Counted(count, "session").to_string();
        assert_eq!([0, 1, 2].map(counted), ["0 sessions", "1 session", "2 sessions"]);
        assert_eq!(Counted(1_u64 << 40, "byte").to_string(), "1099511627776 bytes");
    }
}
