//! Reason: a system error as the end of a sentence for users.
//!
//! Rule: in the words of `strerror`, in lower case and without the number, which means nothing to a user.
//! Not here: advice (the callers).

use std::io;

pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_words_without_a_number() {
        assert_eq!(reason(&rustix::io::Errno::MFILE.into()), "too many open files");
        assert_eq!(reason(&io::Error::other("Look above (twice)")), "look above (twice)");
        assert_eq!(reason(&io::Error::other("")), "");
    }
}
