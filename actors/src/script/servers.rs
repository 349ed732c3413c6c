//! Servers of a script: what is known of each, how they end, and what reports say of them.
//!
//! Not here: processes (`process`), the lines of a script that are about servers (`server_lines`).

use std::{
    io,
    os::unix::{ffi::OsStrExt, process::ExitStatusExt},
    process::ExitStatus,
};

use rustix::process::Signal;

use crate::script::{
    ast::{SIGNALS, Span},
    kind::FailureKind,
    process::{Folder, Process},
    report::{Diagnostic, Held},
    scope::{TMP, server_title},
};

/// Signals that a program has of its own faults.
const CRASHES: [Signal; 7] =
    [Signal::ABORT, Signal::BUS, Signal::FPE, Signal::ILL, Signal::SEGV, Signal::SYS, Signal::TRAP];
/// Lines of what it said that a report has.
const LAST_WORDS: usize = 20;

/// The servers of one run. Dropped, they are killed.
#[derive(Default)]
pub(crate) struct Servers {
    pub(crate) all: Vec<Server>,
    tmp: Option<Folder>,
}

pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) process: Process,
    pub(crate) port: u16,
    /// The number of the line behind the last one that was looked for.
    pub(crate) heard: u64,
    /// The script has signalled it, or seen it end: it may have ended.
    pub(crate) may_end: bool,
    /// The script has said how it ended.
    pub(crate) is_end_said: bool,
    pub(crate) span: Span,
}

impl Server {
    /// Fails if it has ended by itself.
    pub(crate) fn has_held(&mut self) -> Held<()> {
        if self.may_end || !self.process.has_ended() {
            return Ok(());
        }
        let title = format!("{} ended by itself: {}", server_title(&self.name), shown(self.process.status()));
        let diagnostic = Diagnostic::new(title, self.span, "started here").kind(FailureKind::Server);
        Err(Box::new(diagnostic.help("where it is to end, say so: `server: exit 0`")))
    }
}

/// An end as a report says it.
pub(crate) fn shown(status: Option<ExitStatus>) -> String {
    let Some(status) = status else { return "nobody knows how".to_owned() };
    if let Some(code) = status.code() {
        return format!("exit code {code}");
    }
    let raw = status.signal();
    let known = SIGNALS.iter().find(|signal| Some(signal.1.as_raw()) == raw);
    known.map_or_else(|| status.to_string(), |signal| format!("signal {}", signal.0))
}

impl Servers {
    /// True while one of them runs.
    pub(crate) fn are_running(&self) -> bool {
        self.all.iter().any(|server| !server.process.has_ended())
    }

    /// Fails if one has ended by itself.
    pub(crate) fn have_held(&mut self) -> Held<()> {
        self.all.iter_mut().try_for_each(Server::has_held)
    }

    /// Ends them all. Fails if one has crashed, however late.
    pub(crate) fn stop(&mut self) -> Held<()> {
        for server in self.all.iter_mut().rev() {
            server.process.stop();
        }
        for server in self.all.iter_mut().filter(|server| !server.is_end_said) {
            let status = server.process.status();
            let signal = status.and_then(|status| status.signal());
            if CRASHES.iter().any(|crash| Some(crash.as_raw()) == signal) {
                let title = format!("{} crashed: {}", server_title(&server.name), shown(status));
                let diagnostic = Diagnostic::new(title, server.span, "started here");
                return Err(Box::new(diagnostic.kind(FailureKind::Server)));
            }
        }
        Ok(())
    }

    /// Adds to a failure how those ended that did, and what all of them said last.
    pub(crate) fn explain(&mut self, mut diagnostic: Diagnostic) -> Diagnostic {
        let says_it = diagnostic.failure.as_ref().is_some_and(|failure| failure.0 == FailureKind::Server);
        for server in &mut self.all {
            let title = server_title(&server.name);
            let has_ended = server.process.has_ended();
            let status = server.process.stop();
            if has_ended && !says_it {
                diagnostic = diagnostic.note(format!("{title} has ended: {}", shown(status)));
            }
            let words = server.process.last_words(LAST_WORDS);
            if !words.is_empty() {
                diagnostic = diagnostic.note(format!("{title}'s last words:\n{}", words.join("\n")));
            }
        }
        diagnostic
    }

    pub(crate) fn variables(&mut self, port: u16) -> io::Result<Vec<(String, Vec<u8>)>> {
        if self.tmp.is_none() {
            self.tmp = Some(Folder::new()?);
        }
        let tmp = self.tmp.iter().map(|tmp| (TMP.to_owned(), tmp.0.as_os_str().as_bytes().to_vec()));
        Ok(tmp.chain([("port".to_owned(), port.to_string().into_bytes())]).collect())
    }
}
