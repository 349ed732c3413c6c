//! Plural: a number with its noun, for messages.

use std::fmt::Display;

/// Returns `1 session`, `2 sessions`; the noun is regular.
pub(crate) fn counted(count: impl Display, noun: &str) -> String {
    let count = count.to_string();
    let plural = if count == "1" { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noun_is_as_many_as_its_number() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "session")), ["0 sessions", "1 session", "2 sessions"]);
    }
}
