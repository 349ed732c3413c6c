//! Rows: sessions as lines of a table, in columns of fixed widths.
//!
//! Not here: which sessions (`reports`), rates (`top`).

use std::{fmt::Write, sync::Arc};

use crate::{
    connection::ListenerId, console::out::Out, control::query::SessionInfo, escape::Escaped, units::rough_time,
};

/// Writes the header of a table of sessions, where the answer is text.
pub(crate) fn header(out: &Out) {
    if !out.is_json() {
        out.line(format_args!(
            "{:<8} {:<24} {:<12} {:<8} {:>7} {:>7} {:>10} {:>12} {:>12} {:>10}",
            "ID", "PEER", "LISTENER", "STATE", "AGE", "IDLE", "LINES", "BYTES-IN", "BYTES-OUT", "OUTBOX"
        ));
    }
}

/// Writes a session. Its name and tags end the line, where it has any: `name=alice #vip`.
pub(crate) fn session(out: &Out, session: &SessionInfo) {
    let names = names(session.name.as_deref(), &session.tags);
    let text = format_args!(
        "{:<8} {:<24} {:<12} {:<8} {:>7} {:>7} {:>10} {:>12} {:>12} {:>10}{names}",
        session.id.to_string(),
        session.peer.to_string(),
        listener(session.listener),
        session.state.name(),
        rough_time(session.age),
        rough_time(session.idle),
        session.lines_in,
        session.bytes_in,
        session.bytes_out,
        session.outbox_bytes,
    );
    out.record(session, text);
}

/// Writes a name and tags as words with a blank before each.
pub(crate) fn names(name: Option<&str>, tags: &[Arc<str>]) -> String {
    let mut text = String::new();
    // A string takes all.
    if let Some(name) = name {
        let quote = if name.contains(char::is_whitespace) { "\"" } else { "" };
        let _ = write!(text, " name={quote}{}{quote}", Escaped::new(name));
    }
    for tag in tags {
        let _ = write!(text, " #{}", Escaped::new(&**tag));
    }
    text
}

/// Writes a name, else a number: the word for it in a command.
pub(crate) fn listener(listener: Option<ListenerId>) -> String {
    match listener {
        Some(listener) => listener.name().map_or_else(|| listener.get().to_string(), str::to_owned),
        None => "-".to_owned(),
    }
}
