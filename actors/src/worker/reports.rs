//! Reports: the counters of each session, and the reports of those that have ended, in batches.
//!
//! Not here: sending to the supervisor (`upstream`), the other fields of a report (`slot`).

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{
    connection::{Connection, ListenerId},
    control::{event::SessionNamed, ledger::Batch, stats::Stats},
    report::CloseReport,
};

/// Number of openings and reports that are sent at once, without waiting for more.
pub(super) const BATCH: usize = 256;

/// The amounts that one turn adds to a session's counters.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// A line, or a piece of one, was delivered.
    pub(crate) delivered: bool,
    pub(crate) lines_in: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

/// A session's part.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) lines_in: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

impl Counters {
    #[inline]
    pub(super) fn add(&mut self, counts: &Counts) {
        self.lines_in += counts.lines_in;
        self.bytes_in += counts.bytes_in;
        self.bytes_out += counts.bytes_out;
    }

    /// Adds a living session to the counters of all, and to those of its listener.
    pub(super) fn add_to(&self, stats: &mut Stats, listener: Option<ListenerId>, is_held: bool, outbox_len: usize) {
        stats.opened += 1;
        stats.live += 1;
        stats.held += u64::from(is_held);
        stats.lines_in += self.lines_in;
        stats.bytes_in += self.bytes_in;
        stats.bytes_out += self.bytes_out;
        stats.outbox_bytes += outbox_len as u64;
        let Some(listener) = listener else { return };
        let listener = stats.listeners.entry(listener).or_default();
        listener.opened += 1;
        listener.live += 1;
        listener.held += u64::from(is_held);
        listener.lines_in += self.lines_in;
        listener.bytes_in += self.bytes_in;
        listener.bytes_out += self.bytes_out;
        listener.outbox_bytes += outbox_len as u64;
    }
}

/// A session's part that most never need: bytes that were discarded, and a receiver of the report.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    pub(super) unsent: u64,
    pub(super) undelivered: u64,
    pub(super) tail: u64,
    /// Bytes discarded since our FIN.
    discarded: u64,
    /// Gets the report besides the supervisor.
    report_to: Option<oneshot::Sender<CloseReport>>,
}

impl Leftovers {
    /// Adds bytes that a lingering session has discarded. Returns those since our FIN.
    pub(super) fn discard(&mut self, bytes: usize) -> u64 {
        self.undelivered += bytes as u64;
        self.discarded += bytes as u64;
        self.discarded
    }

    pub(super) fn set_report_to(&mut self, report_to: oneshot::Sender<CloseReport>) {
        self.report_to = Some(report_to);
    }

    pub(super) fn take_report_to(&mut self) -> Option<oneshot::Sender<CloseReport>> {
        self.report_to.take()
    }
}

/// The worker's part.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// Not yet sent.
    batch: RefCell<Batch>,
    /// The counters of the sessions that have ended.
    ended: RefCell<Stats>,
    /// Turns that ended with work left, because others come first.
    turns_yielded: Cell<u64>,
}

impl Reports {
    /// Counts a session that has ended.
    pub(super) fn count(&self, report: &CloseReport) {
        self.ended.borrow_mut().count(report);
    }

    /// Counts an answer that took so long.
    pub(super) fn count_answer(&self, listener: Option<ListenerId>, time: Duration) {
        self.ended.borrow_mut().count_answer(listener, time);
    }

    /// Sums up the counters of these listeners, none of which has a session any more.
    pub(super) fn forget(&self, listeners: &[ListenerId]) {
        self.ended.borrow_mut().sum_up(|id| !listeners.contains(&id));
    }

    pub(super) fn count_yield(&self) {
        self.turns_yielded.set(self.turns_yielded.get() + 1);
    }

    /// Adds a session that was opened to the batch. Returns what is in it.
    pub(super) fn push_opened(&self, connection: &Connection) -> usize {
        let mut batch = self.batch.borrow_mut();
        batch.opened.push(connection.clone());
        batch.len()
    }

    /// Adds a session that was named to the batch; what was just said of the same one is over. Returns what is in it.
    pub(super) fn push_named(&self, named: SessionNamed) -> usize {
        let mut batch = self.batch.borrow_mut();
        match batch.named.last_mut() {
            Some(last) if last.id == named.id => *last = named,
            _ => batch.named.push(named),
        }
        batch.len()
    }

    /// Adds a report to the batch. Returns what is in it.
    pub(super) fn push(&self, report: CloseReport) -> usize {
        let mut batch = self.batch.borrow_mut();
        batch.closed.push(report);
        batch.len()
    }

    /// Returns true if nothing waits to be sent.
    pub(super) fn is_empty(&self) -> bool {
        self.batch.borrow().len() == 0
    }

    pub(super) fn take_batch(&self) -> Batch {
        self.batch.take()
    }

    /// The counters of the sessions that have ended, and of all turns.
    pub(super) fn stats(&self) -> Stats {
        let mut stats = self.ended.borrow().clone();
        stats.turns_cut = self.turns_yielded.get();
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{address::Address, connection::SessionId, report::CloseReason};

    fn report(bytes_in: u64) -> CloseReport {
        CloseReport {
            id: SessionId::next(),
            peer: Address::Memory,
            listener: None,
            reason: CloseReason::PeerEof,
            lines_in: 1,
            bytes_in,
            bytes_out: 2,
            unsent_bytes: 3,
            tail_bytes: 0,
            undelivered_bytes: 4,
            duration: Duration::ZERO,
            cut: false,
        }
    }

    #[test]
    fn each_report_is_in_one_batch_and_counted_for_good() {
        let reports = Reports::default();
        for number in 1..=3 {
            let report = report(10);
            reports.count(&report);
            assert_eq!(reports.push(report), number);
        }
        let opened = Connection::between(Address::Memory, Address::Memory);
        assert_eq!(reports.push_opened(&opened), 4);
        let batch = reports.take_batch();
        assert_eq!((batch.opened, batch.closed.len()), (vec![opened], 3));
        assert!(reports.is_empty() && reports.take_batch().len() == 0);
        reports.count_yield();
        let stats = reports.stats();
        assert_eq!((stats.opened, stats.live, stats.bytes_in, stats.turns_cut), (3, 0, 30, 1));
        assert_eq!(stats.closed, [("peer-eof", 3)].into());
    }

    #[test]
    fn a_discarded_byte_is_undelivered_and_counts_towards_the_limit_of_a_linger() {
        let mut leftovers = Leftovers { undelivered: 5, ..Leftovers::default() };
        assert_eq!((leftovers.discard(10), leftovers.discard(20)), (10, 30));
        assert_eq!(leftovers.undelivered, 35);
    }
}
