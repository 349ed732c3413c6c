//! Script: commands from a pipe or a file, line by line.
//!
//! Rule: it stops at the first that fails and names its line, unless it is to go on.
//! Not here: a prompt.

use std::io::{BufRead, Write, stdin};

use super::{
    client::{Client, Failure, without_json},
    perform,
    show::Style,
};

/// Runs the commands of standard input. Empty lines and those that begin with `#` are none.
pub(super) fn run(client: &mut Client, style: Style, goes_on: bool, out: &mut impl Write) -> Result<(), Failure> {
    let mut has_failed = false;
    for (at, line) in stdin().lock().lines().enumerate() {
        let line = line.map_err(Failure::Input)?;
        let mut style = style;
        let command = without_json(&line, &mut style);
        if command.is_empty() || command.starts_with('#') {
            continue;
        }
        match perform(client, command, style, out) {
            Ok(()) if command == "quit" => break,
            Ok(()) => {}
            Err(failure @ (Failure::Refused(_) | Failure::Lost(_))) if goes_on => {
                Failure::Line(at + 1, Box::new(failure)).tell(style);
                has_failed = true;
            }
            Err(failure @ Failure::NoReader) => return Err(failure),
            Err(failure) => return Err(Failure::Line(at + 1, Box::new(failure))),
        }
    }
    if has_failed { Err(Failure::Several) } else { Ok(()) }
}
