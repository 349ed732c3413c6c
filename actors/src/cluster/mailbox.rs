//! Mailbox: messages that wait for one reader, bounded in number and in bytes.
//!
//! A message weighs its bytes until its reader has done with it, so what that is busy with counts, too.
//! Not here: who passes messages on (`channels`), who reads them (`ask`, `rooms`).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use tokio::sync::mpsc;

use crate::cluster::store::Message;

/// Most bytes of all messages in a mailbox, or one message.
pub(crate) const MAX_BYTES: usize = 32 * 1024 * 1024;

/// A number of bytes that is bounded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scales(Arc<AtomicUsize>);

/// Bytes on the scales. Dropped they are off again.
#[derive(Debug)]
pub(crate) struct Weight {
    on: Scales,
    bytes: usize,
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.on.0.fetch_sub(self.bytes, SeqCst);
    }
}

impl Scales {
    /// Puts bytes on the scales. `None` if there would be more than [`MAX_BYTES`], unless there are no others.
    pub(crate) fn put(&self, bytes: usize) -> Option<Weight> {
        let has_room = |others: usize| others == 0 || others.saturating_add(bytes) <= MAX_BYTES;
        let put = |others: usize| has_room(others).then(|| others.saturating_add(bytes));
        self.0.fetch_update(SeqCst, SeqCst, put).ok()?;
        Some(Weight { on: self.clone(), bytes })
    }
}

/// A message, and its weight.
#[derive(Debug)]
pub(crate) struct Mail {
    pub(crate) message: Message,
    _weight: Weight,
}

/// The end of a mailbox where messages are put in.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    to: mpsc::Sender<Mail>,
    scales: Scales,
}

/// What has become of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    In,
    /// There is no room for it.
    Full,
    /// Nobody reads any more.
    Closed,
}

impl Mailbox {
    /// Makes a mailbox for so many messages, and its other end.
    pub(crate) fn new(messages: usize) -> (Self, mpsc::Receiver<Mail>) {
        let (to, reader) = mpsc::channel(messages);
        (Self { to, scales: Scales::default() }, reader)
    }

    pub(crate) fn put(&self, message: Message) -> Put {
        let Some(weight) = self.scales.put(message.bytes.len()) else {
            return if self.to.is_closed() { Put::Closed } else { Put::Full };
        };
        match self.to.try_send(Mail { message, _weight: weight }) {
            Ok(()) => Put::In,
            Err(mpsc::error::TrySendError::Full(_)) => Put::Full,
            Err(mpsc::error::TrySendError::Closed(_)) => Put::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(bytes: usize) -> Message {
        Message { channel: "c".into(), bytes: Bytes::from(vec![0; bytes]) }
    }

    #[test]
    fn bytes_are_bounded_as_the_number_is_until_their_reader_has_done_with_them() {
        let (mailbox, mut reader) = Mailbox::new(4);
        let half = MAX_BYTES / 2;
        assert_eq!([half, half, 1].map(|bytes| mailbox.put(message(bytes))), [Put::In, Put::In, Put::Full]);
        // An empty one has no weight.
        assert_eq!([0, 0, 0].map(|bytes| mailbox.put(message(bytes))), [Put::In, Put::In, Put::Full]);
        let Mail { message: read, _weight: weight } = reader.try_recv().unwrap();
        drop(read);
        assert_eq!(mailbox.put(message(1)), Put::Full, "its reader is busy with the first one");
        drop(weight);
        assert_eq!(mailbox.put(message(half)), Put::In);
        while reader.try_recv().is_ok() {}
        // One that is too large by itself would never come.
        assert_eq!([2 * MAX_BYTES, 1].map(|bytes| mailbox.put(message(bytes))), [Put::In, Put::Full]);
        let busy = reader.try_recv().unwrap();
        drop(reader);
        assert_eq!(mailbox.put(message(1)), Put::Closed, "also while there is no room");
        drop(busy);
        assert_eq!(mailbox.put(message(1)), Put::Closed);
        assert_eq!(mailbox.scales.0.load(SeqCst), 0, "what nobody reads weighs nothing");
    }
}
