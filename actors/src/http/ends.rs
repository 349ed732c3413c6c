//! Ends: the last sessions that ended, for whoever looks after something has happened.
//!
//! Rule: so many and no more; who subscribes for them is an actor on a thread of the HTTP server, whose mailbox loses
//! batches before it takes more memory.
//! Not here: the reports (`report`), sending them (`events`).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use actix::{Actor, AsyncContext, Context, Handler};
use serde::Serialize;

use crate::{
    control::{event::SessionEvent, messages::Subscribe},
    report::CloseReport,
    seconds,
    server::handle::ServerHandle,
};

/// Most ends that are kept.
pub(super) const KEPT: usize = 100;

/// Batches that may wait. A batch has at most 256 reports.
const MAILBOX: usize = 64;

/// An end, and when it was heard of.
#[derive(Clone, Debug, Serialize)]
pub(super) struct End {
    #[serde(flatten)]
    report: CloseReport,
    /// Seconds of Unix.
    ended: u64,
}

#[derive(Debug, Default)]
struct Kept {
    /// The oldest first.
    ends: VecDeque<End>,
    /// Ends so far.
    count: u64,
    is_subscribed: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Ends(Arc<Mutex<Kept>>);

impl Ends {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears of ends from now on, on this thread, unless another one does already.
    pub(super) fn subscribe(&self, server: &ServerHandle) {
        if std::mem::replace(&mut self.kept().is_subscribed, true) {
            return;
        }
        let listener = EndListener { ends: self.clone(), server: server.clone() };
        listener.start();
    }

    /// Returns the number of ends so far.
    pub(super) fn count(&self) -> u64 {
        self.kept().count
    }

    /// Returns the ends behind the first `count`, the newest first, the number of those that are not kept any more, and
    /// the count of today.
    pub(super) fn since(&self, count: u64) -> (Vec<End>, u64, u64) {
        let kept = self.kept();
        let fresh = kept.count - count.min(kept.count);
        let ends: Vec<_> = kept.ends.iter().rev().take(usize::try_from(fresh).unwrap_or(usize::MAX)).cloned().collect();
        let left_out = fresh - ends.len() as u64;
        (ends, left_out, kept.count)
    }
}

struct EndListener {
    ends: Ends,
    server: ServerHandle,
}

impl Actor for EndListener {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.server.supervisor().do_send(Subscribe::ends(ctx.address().recipient()));
    }
}

/// Its thread has ended: the next one that serves the routes hears of ends.
impl Drop for EndListener {
    fn drop(&mut self) {
        self.ends.kept().is_subscribed = false;
    }
}

impl Handler<SessionEvent> for EndListener {
    type Result = ();

    fn handle(&mut self, event: SessionEvent, _: &mut Self::Context) {
        let reports = match event {
            SessionEvent::Closed(reports) => reports,
            SessionEvent::Lost(ends) => {
                self.ends.kept().count += ends;
                return;
            }
            _ => return,
        };
        let ended = seconds::now().as_secs();
        let mut kept = self.ends.kept();
        kept.count += reports.len() as u64;
        for report in &reports[reports.len().saturating_sub(KEPT)..] {
            if kept.ends.len() == KEPT {
                kept.ends.pop_front();
            }
            kept.ends.push_back(End { report: report.clone(), ended });
        }
    }
}
