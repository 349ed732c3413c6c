//! Frame: messages of one room from one node, as they are published.
//!
//! A version, the node's life, the number of its speaker and that of the first message, a count, as many lengths, the bytes:
//! numbers are big-endian. A frame without messages says where its speaker is.
//! Not here: whether messages are missing or were heard before (`voices`).

use bytes::{Buf, BufMut, Bytes, BytesMut};

const VERSION: u8 = 1;

/// Bytes of a frame without its life and messages.
const HEAD: usize = 1 + 1 + 8 + 8 + 4;

/// Bytes of a message's length.
const LEN: usize = 4;

/// Messages of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// The life of the node, as text.
    pub(super) life: Bytes,
    /// Who numbers the messages: a node has another number for each room, and another after its next start.
    pub(super) speaker: u64,
    /// The number of the first message, or of the next one where there are none.
    pub(super) first: u64,
    count: u32,
    lens: Bytes,
    bytes: Bytes,
}

/// Bytes that are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Garbled;

impl Frame {
    /// Returns the bytes of a frame. A life is shorter than 256 bytes, as a node's name is.
    pub(super) fn encode<'a>(
        life: &str,
        speaker: u64,
        first: u64,
        messages: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
    ) -> Bytes {
        let count = messages.len();
        let sum: usize = messages.clone().map(<[u8]>::len).sum();
        let mut bytes = BytesMut::with_capacity(HEAD + life.len() + count * LEN + sum);
        bytes.put_u8(VERSION);
        bytes.put_u8(life.len() as u8);
        bytes.put_slice(life.as_bytes());
        bytes.put_u64(speaker);
        bytes.put_u64(first);
        bytes.put_u32(count as u32);
        messages.clone().for_each(|message| bytes.put_u32(message.len() as u32));
        messages.for_each(|message| bytes.put_slice(message));
        bytes.freeze()
    }

    /// Reads a frame, without a copy.
    pub(super) fn decode(mut bytes: Bytes) -> Result<Self, Garbled> {
        if bytes.try_get_u8() != Ok(VERSION) {
            return Err(Garbled);
        }
        let life = take(&mut bytes, |bytes| bytes.try_get_u8().map(usize::from))?;
        let speaker = bytes.try_get_u64().map_err(|_| Garbled)?;
        let first = bytes.try_get_u64().map_err(|_| Garbled)?;
        let mut count = 0;
        let lens = take(&mut bytes, |bytes| {
            count = bytes.try_get_u32()?;
            // More than there are bytes where this is too much for a number.
            Ok((count as usize).saturating_mul(LEN))
        })?;
        let frame = Self { life, speaker, first, count, lens, bytes };
        let sum: u64 = frame.lens().map(|len| len as u64).sum();
        if sum != frame.bytes.len() as u64 || first.checked_add(u64::from(count)).is_none() {
            return Err(Garbled);
        }
        Ok(frame)
    }

    /// Returns the number of messages.
    pub(super) fn count(&self) -> u64 {
        u64::from(self.count)
    }

    /// Returns the number behind the last message.
    pub(super) fn end(&self) -> u64 {
        self.first + self.count()
    }

    fn lens(&self) -> impl Iterator<Item = usize> + '_ {
        self.lens.chunks_exact(LEN).map(|mut len| len.get_u32() as usize)
    }

    /// Returns the messages behind the first `skip` ones: parts of the frame.
    pub(super) fn messages(&self, skip: u64) -> impl Iterator<Item = Bytes> + '_ {
        let mut start = 0;
        let all = self.lens().map(move |len| {
            let message = self.bytes.slice(start..start + len);
            start += len;
            message
        });
        all.skip(usize::try_from(skip).unwrap_or(usize::MAX))
    }
}

fn take(
    bytes: &mut Bytes,
    len: impl FnOnce(&mut Bytes) -> Result<usize, bytes::TryGetError>,
) -> Result<Bytes, Garbled> {
    let len = len(bytes).map_err(|_| Garbled)?;
    if len > bytes.len() { Err(Garbled) } else { Ok(bytes.split_to(len)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(first: u64, messages: &[Vec<u8>]) -> Bytes {
        Frame::encode("a.0000001f", 7, first, messages.iter().map(Vec::as_slice))
    }

    #[test]
    fn a_frame_without_messages_says_where_its_speaker_is() {
        let frame = Frame::decode(encode(17, &[])).unwrap();
        assert_eq!((&*frame.life, frame.speaker, frame.first, frame.end()), (&b"a.0000001f"[..], 7, 17, 17));
        assert_eq!(frame.messages(0).count(), 0);
    }

    #[test]
    fn numbers_do_not_run_over() {
        assert!(Frame::decode(encode(u64::MAX - 1, &[vec![]])).is_ok());
        assert_eq!(Frame::decode(encode(u64::MAX, &[vec![]])), Err(Garbled));
        let mut many = encode(0, &[]).to_vec();
        let count = many.len() - 4;
        many[count..].fill(0xff);
        assert_eq!(Frame::decode(many.into()), Err(Garbled));
    }

    #[test]
    fn each_change_of_a_frame_is_read_or_garbled() {
        let frame = encode(1, &[b"one\n".to_vec(), vec![], b"three\n".to_vec()]);
        for at in 0..frame.len() {
            assert_eq!(Frame::decode(frame.slice(..at)), Err(Garbled), "cut at {at}");
            for value in 0..=255 {
                let mut changed = frame.to_vec();
                changed[at] = value;
                let _ = Frame::decode(changed.into()).map(|frame| frame.messages(0).count());
            }
        }
        let mut longer = frame.to_vec();
        longer.push(0);
        assert_eq!(Frame::decode(longer.into()), Err(Garbled));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            first in 0..1_u64 << 40,
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..9),
            skip in 0..12_u64,
        ) {
            let bytes = encode(first, &messages);
            let frame = Frame::decode(bytes.clone()).unwrap();
            prop_assert_eq!((frame.first, frame.count()), (first, messages.len() as u64));
            let expected: Vec<_> = messages.iter().skip(skip as usize).cloned().collect();
            let read: Vec<_> = frame.messages(skip).collect();
            // Not one of them was copied.
            let whole = bytes.as_ptr_range();
            for message in read.iter().filter(|message| !message.is_empty()) {
                prop_assert!(whole.contains(&message.as_ptr()));
            }
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn hostile_bytes_are_read_or_garbled(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut bytes = bytes;
            if let Some(version) = bytes.first_mut() {
                *version = VERSION;
            }
            if let Ok(frame) = Frame::decode(bytes.into()) {
                prop_assert_eq!(frame.messages(0).count() as u64, frame.count());
            }
        }
    }
}
