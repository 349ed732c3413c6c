//! Sealed bytes: a session's bytes as encoded by a filter, on the way to the stream below.
//!
//! A session's bytes count as sent only when all of their wire bytes are: so each piece has the number of its plain
//! bytes. Nothing is owned while nothing waits; buffers in use belong to the thread.
//! Not here: sealing and sending (`transport`).

use std::cell::RefCell;

/// Bytes that are sealed at once: the largest record of TLS.
pub(super) const PIECE_BYTES: usize = 16 * 1024;

/// Pieces that are sealed before they are sent: as much as a turn writes.
pub(super) const PIECES: usize = 4;

/// Buffers that a thread keeps, and the largest capacity of one.
const SPARES: usize = 4;
const SPARE_BYTES: usize = 256 * 1024;

thread_local! {
    /// Buffers that are used within a call and empty between calls.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
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

/// Sealed bytes that wait for the stream below.
#[derive(Default)]
pub(super) struct Sealed {
    /// Gone before `at`.
    pub(super) wire: Vec<u8>,
    pub(super) at: usize,
    /// Oldest first; the last is a reply, or they are all of the session.
    pieces: [Piece; PIECES + 1],
    count: usize,
    /// Bytes of the first piece that are gone.
    gone: usize,
}

impl Sealed {
    pub(super) fn len(&self) -> usize {
        self.wire.len() - self.at
    }

    /// Returns true if bytes of the session are among them.
    pub(super) fn has_plain(&self) -> bool {
        self.pieces[..self.count].iter().any(|piece| piece.plain > 0)
    }

    /// How many bytes are replies.
    pub(super) fn replies(&self) -> usize {
        self.pieces[..self.count].last().filter(|piece| piece.plain == 0).map_or(0, |piece| piece.wire as usize)
    }

    pub(super) fn add(&mut self, plain: usize, wire: usize) {
        match self.pieces[..self.count].last_mut() {
            Some(last) if last.plain == 0 && plain == 0 => last.wire += wire as u32,
            _ => {
                self.pieces[self.count] = Piece { plain: plain as u32, wire: wire as u32 };
                self.count += 1;
            }
        }
    }

    pub(super) fn add_reply(&mut self, reply: &[u8]) {
        if !reply.is_empty() {
            self.wire.extend_from_slice(reply);
            self.add(0, reply.len());
        }
    }

    /// Books that `count` more bytes are gone. Returns how many bytes of the session are gone wholly by that.
    pub(super) fn advance(&mut self, count: usize) -> usize {
        self.at += count;
        self.gone += count;
        let mut plain = 0;
        let mut whole = 0;
        while whole < self.count && self.gone >= self.pieces[whole].wire as usize {
            self.gone -= self.pieces[whole].wire as usize;
            plain += self.pieces[whole].plain as usize;
            whole += 1;
        }
        self.pieces.copy_within(whole..self.count, 0);
        self.count -= whole;
        plain
    }

    /// Keeps no more memory than it needs.
    pub(super) fn fit(&mut self) {
        if self.at > 0 || self.wire.capacity() > 2 * self.wire.len() {
            let rest = self.wire[self.at..].to_vec();
            return_buffer(std::mem::replace(&mut self.wire, rest));
            self.at = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_gone_when_its_last_byte_is() {
        let mut sealed = Sealed::default();
        for (plain, wire) in [(3, 5), (2, 4), (0, 2), (0, 1)] {
            sealed.wire.extend(vec![0; wire]);
            sealed.add(plain, wire);
        }
        assert_eq!((sealed.len(), sealed.replies(), sealed.has_plain()), (12, 3, true));
        assert_eq!([4, 1, 3, 1].map(|count| sealed.advance(count)), [0, 3, 0, 2]);
        assert_eq!((sealed.len(), sealed.replies(), sealed.has_plain()), (3, 3, false));
        sealed.fit();
        assert_eq!((sealed.at, sealed.wire.len(), sealed.advance(3)), (0, 3, 0));
        sealed.add_reply(b"");
        assert_eq!((sealed.len(), sealed.replies()), (0, 0));
    }
}
