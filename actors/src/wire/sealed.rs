//! Sealed bytes: a session's bytes as encoded by a filter, on the way to the stream below.
//!
//! A session's bytes count as sent only when all of their wire bytes are: so each piece has the number of its plain
//! bytes. Nothing is owned while nothing waits: what is in use within a call belongs to the thread.
//! Not here: sealing and sending (`transport`).

use std::cell::RefCell;

/// Bytes that are sealed at once: the largest record of TLS.
pub(super) const PIECE_BYTES: usize = 16 * 1024;

/// Pieces that are sealed before they are sent: as much as a turn writes.
pub(super) const PIECES: usize = 4;

/// Buffers that a thread keeps, and the largest capacity of one.
const SPARES: usize = 4;
const SPARE_BYTES: usize = 256 * 1024;

/// In its box: that is what a session takes.
type Spare = Box<Batch>;

thread_local! {
    /// Buffers that are used within a call and empty between calls.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    /// Batches likewise, each with its buffer.
    static SPARE_BATCH: RefCell<Vec<Spare>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn borrow_buffer() -> Vec<u8> {
    SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten().unwrap_or_default()
}

pub(super) fn return_buffer(mut buffer: Vec<u8>) {
    if !(1..=SPARE_BYTES).contains(&buffer.capacity()) {
        return;
    }
    buffer.clear();
    // At the end of its thread a session may outlive what the thread keeps.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < SPARES {
            spare.push(buffer);
        }
    });
}

/// Plain bytes, and how many of the wire they became. A reply is none of the session's bytes.
#[derive(Clone, Copy, Default)]
struct Piece {
    plain: u32,
    wire: u32,
}

/// Sealed bytes that wait for the stream below. An empty one is a pointer.
#[derive(Default)]
pub(super) struct Sealed(Option<Box<Batch>>);

#[derive(Default)]
struct Batch {
    /// Gone before `at`.
    wire: Vec<u8>,
    at: usize,
    /// Oldest first; the last is a reply, or they are all of the session.
    pieces: [Piece; PIECES + 1],
    count: usize,
    /// Bytes of the first piece that are gone.
    gone: usize,
}

impl Batch {
    fn borrow() -> Box<Self> {
        SPARE_BATCH.try_with(|spare| spare.borrow_mut().pop()).ok().flatten().unwrap_or_default()
    }

    fn give_back(mut self: Box<Self>) {
        if self.wire.capacity() > SPARE_BYTES {
            return;
        }
        self.wire.clear();
        (self.at, self.count, self.gone) = (0, 0, 0);
        let _ = SPARE_BATCH.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARES {
                spare.push(self);
            }
        });
    }

    fn pieces(&self) -> &[Piece] {
        &self.pieces[..self.count]
    }

    fn add(&mut self, plain: usize, wire: usize) {
        match self.pieces[..self.count].last_mut() {
            Some(last) if last.plain == 0 && plain == 0 => last.wire += wire as u32,
            _ => {
                self.pieces[self.count] = Piece { plain: plain as u32, wire: wire as u32 };
                self.count += 1;
            }
        }
    }
}

impl Sealed {
    /// Returns the bytes that are not gone.
    pub(super) fn rest(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |batch| &batch.wire[batch.at..])
    }

    pub(super) fn len(&self) -> usize {
        self.rest().len()
    }

    /// Memory that it takes.
    pub(super) fn memory(&self) -> usize {
        self.0.as_ref().map_or(0, |batch| batch.wire.capacity())
    }

    fn pieces(&self) -> &[Piece] {
        self.0.as_ref().map_or(&[], |batch| batch.pieces())
    }

    /// Returns true if bytes of the session are among them.
    pub(super) fn has_plain(&self) -> bool {
        self.pieces().iter().any(|piece| piece.plain > 0)
    }

    /// How many bytes are replies.
    pub(super) fn replies(&self) -> usize {
        self.pieces().last().filter(|piece| piece.plain == 0).map_or(0, |piece| piece.wire as usize)
    }

    /// Lends the buffer, for a filter to append to; with [`put`](Self::put) it comes back.
    pub(super) fn lend(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0.get_or_insert_with(Batch::borrow).wire)
    }

    /// Takes the buffer back, with a piece at its end that `plain` bytes of the session have become.
    pub(super) fn put(&mut self, wire: Vec<u8>, plain: usize, len: usize) {
        let batch = self.0.get_or_insert_with(Batch::borrow);
        batch.wire = wire;
        if plain > 0 || len > 0 {
            batch.add(plain, len);
        }
    }

    pub(super) fn add_reply(&mut self, reply: &[u8]) {
        if !reply.is_empty() {
            let batch = self.0.get_or_insert_with(Batch::borrow);
            batch.wire.extend_from_slice(reply);
            batch.add(0, reply.len());
        }
    }

    /// Books that `count` more bytes are gone. Returns how many bytes of the session are gone wholly by that.
    pub(super) fn advance(&mut self, count: usize) -> usize {
        let Some(batch) = &mut self.0 else { return 0 };
        batch.at += count;
        batch.gone += count;
        let mut plain = 0;
        let mut whole = 0;
        while whole < batch.count && batch.gone >= batch.pieces[whole].wire as usize {
            batch.gone -= batch.pieces[whole].wire as usize;
            plain += batch.pieces[whole].plain as usize;
            whole += 1;
        }
        batch.pieces.copy_within(whole..batch.count, 0);
        batch.count -= whole;
        plain
    }

    /// Keeps no more memory than it needs; nothing, if nothing waits.
    pub(super) fn fit(&mut self) {
        let Some(batch) = &mut self.0 else { return };
        if batch.count == 0 && batch.at == batch.wire.len() {
            if let Some(batch) = self.0.take() {
                batch.give_back();
            }
        } else if batch.at > 0 || batch.wire.capacity() > 2 * batch.wire.len() {
            let rest = batch.wire[batch.at..].to_vec();
            return_buffer(std::mem::replace(&mut batch.wire, rest));
            batch.at = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_gone_when_its_last_byte_is() {
        let mut sealed = Sealed::default();
        for (plain, len) in [(3, 5), (2, 4), (0, 2), (0, 1)] {
            let mut wire = sealed.lend();
            wire.extend(vec![0; len]);
            sealed.put(wire, plain, len);
        }
        assert_eq!((sealed.len(), sealed.replies(), sealed.has_plain()), (12, 3, true));
        assert_eq!([4, 1, 3, 1].map(|count| sealed.advance(count)), [0, 3, 0, 2]);
        assert_eq!((sealed.len(), sealed.replies(), sealed.has_plain()), (3, 3, false));
        sealed.fit();
        assert_eq!((sealed.rest().len(), sealed.memory(), sealed.advance(3)), (3, 3, 0));
        sealed.fit();
        assert!(sealed.0.is_none(), "nothing is owned while nothing waits");
        sealed.add_reply(b"");
        assert_eq!((sealed.len(), sealed.replies()), (0, 0));
    }
}
