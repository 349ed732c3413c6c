//! Output: results go to standard output, complaints to standard error, with colours where a terminal shows them.
//!
//! Not here: which results there are (each subcommand).

use std::io::Write;

/// A reader that has gone away, as `head` does, ends nothing: the exit code still says how it went.
pub(crate) fn say(text: &str) {
    let _ = writeln!(anstream::stdout().lock(), "{text}");
}

pub(crate) fn report(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{text}\n");
}

pub(crate) fn complain(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "linescript: {text}");
}
