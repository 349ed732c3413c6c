//! Session: the filter that sees what a session reads and writes, and passes it on unchanged.
//!
//! It stands next to the session, so that it sees plain bytes behind TLS, too. Once its recording is cut it is done, and the
//! session goes on without a filter.
//! Not here: what becomes of the bytes (`recorder`).

use std::{
    mem,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::time::Instant;

use crate::{
    connection::Connection,
    record::{
        files,
        queue::{End, Message, Queue, Shared},
    },
    report::CloseReport,
    wire::filter::{Eof, Fault, Filter, Flow, Inflow},
};

/// Records one session.
pub(super) struct Recording {
    queue: Queue,
    shared: Arc<Shared>,
    id: u64,
    /// Bytes that may still be recorded: a script is no shorter than what it says.
    left: u64,
    /// False once the recording is cut, or if it never was.
    is_open: bool,
}

impl Recording {
    pub(super) fn new(queue: Queue, shared: Arc<Shared>, connection: &Connection) -> Self {
        let id = connection.id().get();
        let (name, title) = files::titles(connection);
        let is_open = queue.send(Message::Opened { id, at: Instant::now(), name, title });
        if is_open {
            shared.counters.sessions.fetch_add(1, Relaxed);
        } else {
            shared.counters.overrun.fetch_add(1, Relaxed);
        }
        let left = shared.session_bytes.load(Relaxed);
        Self { queue, shared, id, left, is_open }
    }

    fn end(&mut self, end: End) {
        if mem::take(&mut self.is_open) {
            if let End::Overrun = end {
                self.shared.counters.overrun.fetch_add(1, Relaxed);
            }
            self.queue.send(Message::Ended { id: self.id, at: Instant::now(), end });
        }
    }

    fn bytes(&mut self, bytes: &[u8], message: fn(u64, Instant, Vec<u8>) -> Message) {
        if !self.is_open || bytes.is_empty() {
            return;
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.left -= most as u64;
        if !self.queue.send(message(self.id, Instant::now(), bytes[..most].to_vec())) {
            self.end(End::Overrun);
        } else if self.left == 0 {
            self.end(End::TooLong);
        }
    }

    fn say(&mut self, message: fn(u64, Instant) -> Message) {
        if self.is_open && !self.queue.send(message(self.id, Instant::now())) {
            self.end(End::Overrun);
        }
    }
}

impl Filter for Recording {
    fn read(&mut self, wire: &mut Inflow<'_>, plain: &mut Vec<u8>, _: &mut Vec<u8>) -> Result<Flow, Fault> {
        if !self.is_open {
            return Ok(Flow::Done);
        }
        let bytes = wire.take(usize::MAX);
        plain.extend_from_slice(bytes);
        self.bytes(bytes, |id, at, bytes| Message::Sent { id, at, bytes });
        Ok(Flow::Open)
    }

    fn write(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Fault> {
        wire.extend_from_slice(plain);
        self.bytes(plain, |id, at, bytes| Message::Received { id, at, bytes });
        Ok(())
    }

    fn eof(&mut self) -> Eof {
        self.say(|id, at| Message::Fin { id, at });
        Eof::Clean
    }

    fn finish(&mut self, _: &mut Vec<u8>) {
        self.say(|id, at| Message::Eof { id, at });
    }

    fn held(&self) -> usize {
        0
    }

    fn closed(&mut self, report: &CloseReport) {
        self.end(End::Closed(Box::new(report.clone())));
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.end(End::Dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        address::Address,
        record::queue::{Inbox, MOST_WAITING, queue},
    };

    fn recording(queue: &Queue, shared: &Arc<Shared>) -> Recording {
        Recording::new(queue.clone(), Arc::clone(shared), &Connection::between(Address::Memory, Address::Memory))
    }

    fn shared(session_bytes: u64) -> Arc<Shared> {
        let shared = Arc::<Shared>::default();
        shared.session_bytes.store(session_bytes, Relaxed);
        shared
    }

    fn read(recording: &mut Recording, bytes: &[u8]) -> Flow {
        let (mut bytes, mut plain) = (bytes.to_vec(), Vec::new());
        let flow = recording.read(&mut Inflow::new(&mut bytes), &mut plain, &mut Vec::new()).unwrap();
        // What it leaves goes on to the session by itself.
        assert!(flow == Flow::Done || plain == bytes);
        flow
    }

    fn messages(inbox: &Inbox) -> Vec<&'static str> {
        let name = |message| match message {
            Message::Opened { .. } => "opened",
            Message::Sent { .. } => "sent",
            Message::Received { .. } => "received",
            Message::Fin { .. } => "fin",
            Message::Eof { .. } => "eof",
            Message::Ended { end: End::TooLong, .. } => "too long",
            Message::Ended { end: End::Overrun, .. } => "overrun",
            Message::Ended { .. } => "ended",
            Message::Flush(_) => "flush",
        };
        std::iter::from_fn(|| inbox.next()).map(name).collect()
    }

    #[test]
    fn a_session_whose_bytes_find_no_room_is_cut_and_waits_for_nobody() {
        let (queue, inbox) = queue();
        let shared = shared(u64::MAX);
        let mut first = recording(&queue, &shared);
        let mut second = recording(&queue, &shared);
        let chunk = vec![b'x'; 64 * 1024];
        let sent = (0..).take_while(|_| read(&mut first, &chunk) == Flow::Open && first.is_open).count();
        assert_eq!(sent, MOST_WAITING / chunk.len() - 1);
        assert_eq!(read(&mut first, &chunk), Flow::Done, "it costs nothing from here on");
        assert_eq!(read(&mut second, &chunk), Flow::Open);
        assert!(!second.is_open, "there was no room for it either");
        // Those that come now are not even opened, once there is no room for that.
        let more: Vec<_> = (0..1000).map(|_| recording(&queue, &shared)).collect();
        assert!(more.iter().any(|recording| !recording.is_open));
        drop((first, second, more));
        let messages = messages(&inbox);
        let count = |name| messages.iter().filter(|message| **message == name).count();
        assert_eq!(count("overrun"), 2);
        assert_eq!(count("opened"), count("overrun") + count("ended"), "each has one end");
        let stats = shared.counters.stats();
        assert_eq!((stats.sessions, stats.overrun), (count("opened") as u64, 1002 + 2 - count("opened") as u64));
        assert!(recording(&queue, &shared).is_open, "there is room again");
    }

    #[test]
    fn a_session_passes_no_more_bytes_than_its_file_may_have() {
        let (queue, inbox) = queue();
        let mut recording = recording(&queue, &shared(1000));
        assert_eq!(read(&mut recording, b""), Flow::Open);
        assert_eq!(read(&mut recording, &[b'x'; 600]), Flow::Open);
        recording.write(&[b'y'; 600], &mut Vec::new()).unwrap();
        recording.write(&[b'y'; 600], &mut Vec::new()).unwrap();
        assert_eq!(recording.eof(), Eof::Clean);
        assert_eq!(read(&mut recording, &[b'x'; 600]), Flow::Done);
        drop(recording);
        assert_eq!(messages(&inbox), ["opened", "sent", "received", "too long"]);
    }
}
