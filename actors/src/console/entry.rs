//! Entry: an entry of an event as a line of text or of JSON, and which of them a console watches.
//!
//! Not here: gathering lines (`hub`), the command (`watch`).

use std::{fmt::Write, io::Write as _, time::Duration};

use serde::Serialize;

use crate::{
    console::{out::Clean, rows},
    control::{
        event::{EventRef, LimitsChanged},
        query::SessionFilter,
    },
    limits::keys::LimitKey,
    plural::Counted,
};

/// Kinds of events, in the order of help.
pub(crate) const KINDS: [&str; 7] = ["opened", "named", "closed", "refused", "limits", "listeners", "draining"];

/// The events that a console watches, and their form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    /// A bit for each of the kinds; none is all.
    pub(crate) kinds: u8,
    pub(crate) filter: SessionFilter,
    pub(crate) is_json: bool,
}

impl Watched {
    /// Returns true if it has this entry. What is of no session and no listener is there where it is asked for by its kind,
    /// or where nothing is left out.
    pub(crate) fn has(&self, entry: &EventRef<'_>) -> bool {
        let (kind, is_selected) = match entry {
            EventRef::Opened(session) => {
                (0, self.filter.has_identity(session.id(), session.peer_addr(), session.listener()))
            }
            EventRef::Named(named) => (1, self.filter.has_identity(named.id, &named.peer, named.listener)),
            EventRef::Closed(report) => (2, self.filter.has_identity(report.id, &report.peer, report.listener)),
            EventRef::Refused(refused) => (3, self.filter.has_refused(&refused.peer, refused.listener)),
            EventRef::RefusedMore { .. } => (3, self.filter.is_all()),
            EventRef::LimitsChanged(_) => (4, self.filter.is_all() || self.kinds != 0),
            EventRef::Listener(event) => (5, self.filter.is_of_listener(event.listener) || self.filter.is_all()),
            EventRef::Draining(_) => (6, self.filter.is_all() || self.kinds != 0),
            EventRef::Lost { .. } => return true,
        };
        is_selected && (self.kinds == 0 || self.kinds & (1 << kind) != 0)
    }
}

/// Returns the number of events that an entry stands for.
pub(crate) fn count(entry: &EventRef<'_>) -> u64 {
    match entry {
        EventRef::RefusedMore { count } | EventRef::Lost { count } => *count,
        _ => 1,
    }
}

/// Writes an entry as one line. `at` is the time since 1970.
pub(crate) fn write(line: &mut Vec<u8>, entry: &EventRef<'_>, at: Duration, is_json: bool) {
    if is_json {
        let before = line.len();
        let written = match entry {
            EventRef::LimitsChanged(change) => serde_json::to_writer(&mut *line, &NewLimits::of(change)),
            entry => serde_json::to_writer(&mut *line, entry),
        };
        match written {
            Ok(()) => {
                line.truncate(line.len() - 1);
                // A vector takes all.
                let _ = writeln!(line, ",\"at\":{}.{:03}}}", at.as_secs(), at.subsec_millis());
            }
            Err(_) => line.truncate(before),
        }
        return;
    }
    // Likewise; only a value's own `Display` can fail.
    let _ = text(Clean(line), entry, at);
    line.push(b'\n');
}

/// The limits that are others now, each with its value until now and from now on, as texts.
fn changed(change: &LimitsChanged) -> impl Iterator<Item = (&'static str, String, String)> {
    let values = |key: LimitKey| (key.name(), key.value(&change.before), key.value(&change.limits));
    LimitKey::all().map(values).filter(|(_, before, now)| before != now)
}

/// A change of limits as an object.
#[derive(Serialize)]
struct NewLimits {
    event: &'static str,
    changes: Vec<Change>,
    ends: u64,
}

#[derive(Serialize)]
struct Change {
    key: &'static str,
    from: String,
    to: String,
}

impl NewLimits {
    fn of(change: &LimitsChanged) -> Self {
        let changes = changed(change).map(|(key, from, to)| Change { key, from, to }).collect();
        Self { event: "limits-changed", changes, ends: change.ends }
    }
}

fn text(mut line: Clean<'_>, entry: &EventRef<'_>, at: Duration) -> std::fmt::Result {
    let second = at.as_secs();
    write!(line, "{:02}:{:02}:{:02} ", second / 3600 % 24, second / 60 % 60, second % 60)?;
    let name = rows::listener;
    match entry {
        EventRef::Opened(session) => {
            write!(line, "opened {} {} {}", session.id(), session.peer_addr(), name(session.listener()))
        }
        EventRef::Named(named) => {
            write!(line, "named {} {} {}", named.id, named.peer, name(named.listener))?;
            match rows::names(named.name.as_deref(), &named.tags) {
                none if none.is_empty() => line.write_str(" no name"),
                names => line.write_str(&names),
            }
        }
        EventRef::Closed(report) => {
            write!(line, "closed {} {} {} {}", report.id, report.peer, name(report.listener), report.reason.name())?;
            write!(line, ": {} lines and {} bytes in, ", report.lines_in, report.bytes_in)?;
            write!(line, "{} bytes out, {:.3} s", report.bytes_out, report.duration.as_secs_f64())?;
            line.write_str(if report.cut { ", cut" } else { "" })
        }
        EventRef::Refused(refused) => {
            write!(line, "refused {} {} {}", refused.peer, name(refused.listener), refused.reason.name())
        }
        EventRef::RefusedMore { count } => write!(line, "refused {count} more"),
        EventRef::LimitsChanged(change) => {
            line.write_str("limits")?;
            for (key, before, now) in changed(change) {
                write!(line, " {key} {before} -> {now},")?;
            }
            write!(line, " ends {}", Counted(change.ends, "session"))
        }
        EventRef::Listener(event) => {
            write!(line, "listener {} {} {}", name(Some(event.listener)), event.change.name(), event.local_addr)
        }
        EventRef::Draining(progress) => {
            write!(line, "draining {} ended, {} cut, {} left", progress.ended, progress.cut, progress.left)
        }
        EventRef::Lost { count } => write!(line, "... {count} events lost"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::{
        connection::{Connection, ListenerId},
        control::event::{ListenerChange, ListenerEvent, RefusedConnection},
        limits::Limits,
        report::RefuseReason,
    };

    fn line(entry: &EventRef<'_>, is_json: bool) -> String {
        let mut line = Vec::new();
        write(&mut line, entry, Duration::from_millis(1_764_164_702_007), is_json);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn an_entry_is_one_line_with_its_time() {
        let peer = SocketAddr::from(([192, 0, 2, 7], 1024));
        let public = Some(ListenerId::new(0, Some("public")));
        let refused = RefusedConnection { peer: peer.into(), listener: public, reason: RefuseReason::Denied };
        let session = Connection::between(peer, peer);
        let id = session.id();
        for (entry, text, json) in [
            (EventRef::Opened(&session), format!("opened {id} 192.0.2.7:1024 -"), "opened"),
            (EventRef::Refused(&refused), "refused 192.0.2.7:1024 public denied".to_owned(), "refused"),
            (EventRef::RefusedMore { count: 5 }, "refused 5 more".to_owned(), "refused-more"),
            (EventRef::Lost { count: 5 }, "... 5 events lost".to_owned(), "lost"),
        ] {
            assert_eq!(line(&entry, false), format!("13:45:02 {text}\n"));
            let value: serde_json::Value = serde_json::from_str(&line(&entry, true)).unwrap();
            assert_eq!((&value["event"], &value["at"]), (&json.into(), &1_764_164_702.007.into()));
        }
        let before = Limits::default();
        let limits = before.to_builder().max_sessions(7).build().unwrap();
        let old = before.to_builder().max_sessions(9).build().unwrap();
        let change = LimitsChanged { before: old, limits, ends: 1 };
        assert_eq!(
            line(&EventRef::LimitsChanged(&change), false),
            "13:45:02 limits max-sessions 9 -> 7, ends 1 session\n"
        );
        let value: serde_json::Value = serde_json::from_str(&line(&EventRef::LimitsChanged(&change), true)).unwrap();
        let changes = serde_json::json!([{ "key": "max-sessions", "from": "9", "to": "7" }]);
        let expected = serde_json::json!({
            "event": "limits-changed", "changes": changes, "ends": 1, "at": 1_764_164_702.007
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_filter_and_kinds_select_what_is_watched() {
        let peer = SocketAddr::from(([192, 0, 2, 7], 1024));
        let (public, other) = (ListenerId::new(0, Some("public")), ListenerId::new(1, None));
        let refused = RefusedConnection { peer: peer.into(), listener: Some(public), reason: RefuseReason::Denied };
        let paused = ListenerEvent {
            change: ListenerChange::Paused,
            listener: public,
            local_addr: crate::address::Address::Memory,
        };
        let limits = LimitsChanged { before: Limits::default(), limits: Limits::default(), ends: 0 };
        let entries = [EventRef::Refused(&refused), EventRef::Listener(&paused), EventRef::LimitsChanged(&limits)];
        let has = |kinds, filter| {
            let watched = Watched { kinds, filter, is_json: false };
            entries.map(|entry| watched.has(&entry))
        };
        assert_eq!(has(0, SessionFilter::default()), [true, true, true]);
        assert_eq!(has(1 << 3, SessionFilter::default()), [true, false, false]);
        assert_eq!(has(0, SessionFilter::default().listener(public)), [true, true, false]);
        assert_eq!(has(0, SessionFilter::default().listener(other)), [false, false, false]);
        assert_eq!(has(1 << 4, SessionFilter::default().listener(other)), [false, false, true]);
        assert_eq!(has(0, SessionFilter::source("10.0.0.0/8".parse().unwrap())), [false, false, false]);
    }
}
