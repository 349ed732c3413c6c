//! The reports of expectations that failed: something else came, nothing did, or too much.
//!
//! Not here: when one fails (`expect`), how a report is laid out (`report`).

use crate::script::{
    ast::{Span, Time},
    driver::Driver,
    kind::{FailureKind, Mismatch},
    matching::{End, Pending, Wanted, next_line},
    report::{Diagnostic, excerpt, side_by_side},
    run::Runner,
};

pub(crate) const TRUNCATED: &str = "a service ends TLS by its close_notify; where this one does not, say `: truncated`";

impl<D: Driver> Runner<D> {
    pub(crate) fn differs(&self, at: usize, pending: &[Pending]) -> Box<Diagnostic> {
        let peer = &self.peers[at];
        let title = peer.title();
        let wanted: Vec<_> = pending.iter().filter(|one| one.peer == at).collect();
        let Some(first) = wanted.first() else { return Box::new(Diagnostic::new(title, peer.last, "")) };
        if let Some(end) = peer.end.as_ref().filter(|_| first.is_until) {
            return self.not_until(first, &format!("and {}", ending(end)), kind_of(end));
        }
        let noun = if wanted.len() > 1 { "one of several" } else { first.wanted.noun() };
        let rest = peer.rest();
        let line = next_line(rest).map_or(rest, |(_, len)| &rest[..len]);
        let received = match &peer.end {
            Some(end) if rest.is_empty() => ending(end),
            _ if matches!(first.wanted, Wanted::Eof | Wanted::Reset | Wanted::Truncated) => "received more".to_owned(),
            _ => "received something else".to_owned(),
        };
        let kind = peer.end.as_ref().filter(|_| rest.is_empty()).map_or(FailureKind::Differs, kind_of);
        let mut diagnostic =
            Diagnostic::new(format!("{title} expected {noun} and {received}"), first.span, "expected").kind(kind);
        if rest.is_empty() {
            if matches!(peer.end, Some(End::Truncated)) {
                diagnostic = diagnostic.help(TRUNCATED);
            }
            diagnostic = diagnostic.mismatch(Mismatch::new(&peer.name, first.wanted.expected(), rest));
            return Box::new(self.with_history(at, diagnostic));
        }
        // Of exact bytes as many as were expected, over lines.
        let received = match &first.wanted {
            Wanted::Bytes(bytes) if wanted.len() == 1 => &rest[..rest.len().min(bytes.len())],
            _ => line,
        };
        diagnostic = diagnostic.mismatch(Mismatch::new(&peer.name, first.wanted.expected(), received));
        if wanted.len() > 1 {
            let all: Vec<_> = wanted.iter().map(|one| format!("expected: {}", one.wanted.shown())).collect();
            diagnostic = diagnostic.note(format!("{}\nreceived: {}", all.join("\n"), excerpt(line)));
        } else {
            diagnostic = match first.wanted {
                Wanted::Pattern(_) | Wanted::Eof | Wanted::Reset | Wanted::Truncated => {
                    let received = excerpt(received);
                    diagnostic.note(format!("expected: {}\nreceived: {received}", first.wanted.shown()))
                }
                _ => diagnostic.note(side_by_side(&first.wanted.shown(), received)),
            };
            if next_line(rest).is_none()
                && !matches!(first.wanted, Wanted::Bytes(_) | Wanted::Eof | Wanted::Reset | Wanted::Truncated)
            {
                diagnostic = diagnostic.help("what came has no newline: expect it between quotes");
            }
        }
        Box::new(self.with_history(at, diagnostic))
    }

    /// All that came was not what was awaited.
    fn not_until(&self, awaited: &Pending, why: &str, kind: FailureKind) -> Box<Diagnostic> {
        let peer = &self.peers[awaited.peer];
        let title = format!("{} waited for {} {why}", peer.title(), awaited.wanted.noun());
        let rest = peer.rest();
        let start = memchr::memrchr(b'\n', rest.strip_suffix(b"\n").unwrap_or(rest)).map_or(0, |end| end + 1);
        let last = &rest[start..];
        let skipped = match rest.len() {
            0 => "received: nothing".to_owned(),
            len => format!("received: {len} bytes, at last: {}", excerpt(last)),
        };
        let note = format!("expected: {}\n{skipped}", awaited.wanted.shown());
        let mut diagnostic = Diagnostic::new(title, awaited.span, "expected").kind(kind).note(note);
        if !last.is_empty() && !last.ends_with(b"\n") && !matches!(awaited.wanted, Wanted::Bytes(_)) {
            diagnostic = diagnostic.help("what came has no newline: expect it between quotes");
        }
        Box::new(diagnostic)
    }

    /// Something came that must not come.
    pub(crate) fn came(&self, at: usize, span: Span, line: &[u8]) -> Box<Diagnostic> {
        let peer = &self.peers[at];
        let title = format!("{} received what must not come", peer.title());
        let note = format!("received: {}", excerpt(line));
        let diagnostic = Diagnostic::new(title, span, "must not come").kind(FailureKind::Forbidden).note(note);
        Box::new(diagnostic.mismatch(Mismatch::new(&peer.name, None, line)))
    }

    pub(crate) fn too_late(&self, pending: &[Pending]) -> Box<Diagnostic> {
        let Some(first) = pending.first() else { return Box::new(Diagnostic::new("too late", Span::default(), "")) };
        let peer = &self.peers[first.peer];
        let within = Time(self.timeout);
        if first.is_until {
            return self.not_until(first, &format!("that did not come within {within}"), FailureKind::Late);
        }
        let title = format!("{} expected {} that did not come within {within}", peer.title(), first.wanted.noun());
        let mut diagnostic = Diagnostic::new(title, first.span, "expected")
            .kind(FailureKind::Late)
            .mismatch(Mismatch::new(&peer.name, first.wanted.expected(), peer.rest()));
        if !peer.rest().is_empty() {
            diagnostic = diagnostic.note(side_by_side(&first.wanted.shown(), peer.rest()));
            if !matches!(first.wanted, Wanted::Bytes(_)) {
                diagnostic = diagnostic.help("what came has no newline: expect it between quotes");
            }
        }
        if pending.len() > 1 {
            let note = match pending.len() - 1 {
                1 => "one other of the block did not come either".to_owned(),
                others => format!("{others} others of the block did not come either"),
            };
            diagnostic = diagnostic.note(note);
        }
        Box::new(self.with_history(first.peer, diagnostic))
    }

    /// Adds the last line that the peer took before.
    pub(crate) fn with_history(&self, at: usize, diagnostic: Diagnostic) -> Diagnostic {
        let peer = &self.peers[at];
        let before = &peer.received[..peer.cursor];
        let text = before.strip_suffix(b"\n").unwrap_or(before);
        let start = memchr::memrchr(b'\n', text).map_or(0, |end| end + 1);
        if before.is_empty() {
            return diagnostic;
        }
        let last = &before[start..];
        let shown = excerpt(last);
        diagnostic.note(format!("{} had received {} bytes before, at last: {shown}", peer.title(), before.len()))
    }

    pub(crate) fn leftover(&self, at: usize, title: String, span: Span) -> Diagnostic {
        let rest = self.peers[at].rest();
        let line = next_line(rest).map_or(rest, |(_, len)| &rest[..len]);
        let more = rest.len() - excerpt(line).0.len();
        let mut note = format!("received: {}", excerpt(line));
        if more > 0 {
            note.push_str(&format!("\nand {more} bytes more"));
        }
        let diagnostic = Diagnostic::new(title, span, "nothing expected it")
            .note(note)
            .kind(FailureKind::Leftover)
            .mismatch(Mismatch::new(&self.peers[at].name, None, line));
        self.with_history(at, diagnostic)
    }
}

pub(crate) fn ending(end: &End) -> String {
    match end {
        End::Eof => "got EOF".to_owned(),
        End::Reset => "was reset".to_owned(),
        End::Truncated => "was cut short: TCP ended, and TLS had not".to_owned(),
        End::Failed(reason) => format!("lost its connection: {reason}"),
    }
}

pub(crate) fn kind_of(end: &End) -> FailureKind {
    match end {
        End::Eof => FailureKind::Ended,
        End::Reset | End::Truncated | End::Failed(_) => FailureKind::Lost,
    }
}
