//! Lines: `Line`, `Lines` and `Payload`, which a handler gets in the buffer that they were read into.
//!
//! Not here: delimiters (`framing`).

use std::ops::{Deref, DerefMut};

use actix::Actor;

use crate::{
    framing::{Framing, Overrun},
    scan::{MARKED_BYTES, mark_bytes},
    session::context::LineContext,
};

/// One line, in the buffer that it was read into: its bytes may be changed in place.
///
/// It derefs to all of its bytes, the terminator included, so that `ctx.write(&line)` is an echo.
#[derive(Debug)]
pub struct Line<'a> {
    bytes: &'a mut [u8],
    terminator_len: u8,
    is_continuation: bool,
}

impl<'a> Line<'a> {
    #[inline]
    fn new(bytes: &'a mut [u8], terminator_len: usize, is_continuation: bool) -> Self {
        Self { bytes, terminator_len: terminator_len as u8, is_continuation }
    }

    pub(crate) fn tail(bytes: &'a mut [u8], is_continuation: bool) -> Self {
        Self::new(bytes, 0, is_continuation)
    }

    /// Returns the line without its terminator.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.bytes[..self.bytes.len() - usize::from(self.terminator_len)]
    }

    /// Returns the terminator as it came; empty if there is none.
    #[must_use]
    pub fn terminator(&self) -> &[u8] {
        &self.bytes[self.bytes.len() - usize::from(self.terminator_len)..]
    }

    /// Returns false for a piece of an overlong line that is not its last, and for the tail.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        self.terminator_len > 0
    }

    /// Returns true for a piece of an overlong line that is not its first, under
    /// [`Overlong::Pieces`](crate::Overlong::Pieces). A line is whole if it is terminated and no continuation.
    #[must_use]
    pub fn is_continuation(&self) -> bool {
        self.is_continuation
    }
}

impl Deref for Line<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl DerefMut for Line<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes
    }
}

impl AsRef<[u8]> for Line<'_> {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}

/// A chunk of a payload, in the buffer that it was read into: [`LineContext::payload`].
///
/// Chunks are cut as the bytes arrive, at any place.
#[derive(Debug)]
pub struct Payload<'a> {
    bytes: &'a mut [u8],
    left: u64,
}

impl<'a> Payload<'a> {
    pub(crate) fn new(bytes: &'a mut [u8], left: u64) -> Self {
        Self { bytes, left }
    }

    /// Returns the number of bytes of the payload after this chunk.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Returns true if the payload ends with this chunk.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.left == 0
    }
}

impl Deref for Payload<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl DerefMut for Payload<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes
    }
}

impl AsRef<[u8]> for Payload<'_> {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}

/// The whole lines of one read, for a service that works on blocks: [`LineHandler::batch`](crate::LineHandler::batch).
///
/// Lines that are not taken are kept and offered again.
#[derive(Debug)]
pub struct Lines<'a> {
    block: &'a mut [u8],
    framing: Framing,
    /// The most bytes that one line takes.
    window: usize,
    /// Of a made line, which is all of the block: the length of its terminator.
    made: Option<usize>,
    /// An answer in place may be sent from here.
    may_send: bool,
    /// The next line is a piece that is not the first of an overlong line; a block that has one has no other line.
    continues: bool,
    /// Bytes looked at for delimiters, and those found in the last of them: a bit for each byte from `marked` on.
    scanned: usize,
    marked: usize,
    marks: u64,
    taken: usize,
    lines: u64,
    in_place: Option<usize>,
}

impl<'a> Lines<'a> {
    /// The lines of `block`, in front of `behind` more bytes.
    ///
    /// A block that is answered in place is sent by a system call of its own. One that is less than what comes behind it is
    /// not: there may be thousands of them in one read.
    pub(crate) fn new(block: &'a mut [u8], behind: usize, framing: Framing, overrun: Overrun) -> Self {
        Self {
            window: framing.window(),
            continues: overrun == Overrun::Continued,
            may_send: block.len() >= behind,
            block,
            framing,
            made: None,
            scanned: 0,
            marked: 0,
            marks: 0,
            taken: 0,
            lines: 0,
            in_place: None,
        }
    }

    /// One line with a made-up end: that is not looked for, and may be of bytes that would end a line otherwise.
    pub(crate) fn made(block: &'a mut [u8], terminator_len: usize, behind: usize, framing: Framing) -> Self {
        Self { made: Some(terminator_len), ..Self::new(block, behind, framing, Overrun::None) }
    }

    /// The end of the next delimiter. The same again until [`next`](Self::next) has taken it.
    ///
    /// A search for each line would cost more than a short line's answer; marks are made for 64 bytes at once, before
    /// any of them can have been changed by whoever was given a line.
    #[inline]
    fn find_next(&mut self) -> Option<usize> {
        loop {
            while self.marks == 0 {
                if self.scanned >= self.block.len() {
                    return None;
                }
                self.marked = self.scanned;
                self.marks = mark_bytes(&self.block[self.scanned..], self.framing.last());
                self.scanned += MARKED_BYTES;
            }
            let at = self.marked + self.marks.trailing_zeros() as usize;
            if !self.framing.needs_cr() || (at > self.taken && self.block[at - 1] == b'\r') {
                return Some(at + 1);
            }
            self.marks &= self.marks - 1;
        }
    }

    /// Takes the next line. Returns `None` at the end of the block, and while `ctx` wants no line: once it waits,
    /// stops, pauses, changes framing, or has more in its outbox than the high watermark.
    #[inline]
    pub fn next<A>(&mut self, ctx: &mut LineContext<A>) -> Option<Line<'_>>
    where
        A: Actor<Context = LineContext<A>>,
    {
        if self.taken == self.block.len() || !ctx.accepts_lines() {
            return None;
        }
        let start = self.taken;
        if let Some(terminator_len) = self.made {
            self.lines += 1;
            self.taken = self.block.len();
            return Some(Line::new(self.block, terminator_len, false));
        }
        // Only a piece of an overlong line is longer than the window, and only `Pieces` lets one into a block.
        let end = match self.find_next() {
            Some(end) if end - start <= self.window || self.framing.is_longest_with_cr(&self.block[start..]) => {
                self.marks &= self.marks - 1;
                self.lines += 1;
                self.taken = end;
                let line = &mut self.block[start..end];
                let terminator_len = self.framing.terminator_len(line);
                return Some(Line::new(line, terminator_len, self.continues));
            }
            _ => self.block.len().min(start + self.framing.max()),
        };
        self.taken = end;
        let continues = std::mem::replace(&mut self.continues, true);
        Some(Line::new(&mut self.block[start..end], 0, continues))
    }

    /// Takes all remaining lines and makes them the reply: `answer` changes the bytes in place, and they are sent from
    /// there. It is the fastest reply, for a service whose answer is as long as the question.
    ///
    /// The reply keeps its place among other writes. Nothing is taken while `ctx` wants no line, as with
    /// [`next`](Self::next).
    pub fn answer_in_place<A>(&mut self, ctx: &mut LineContext<A>, answer: impl FnOnce(&mut [u8]))
    where
        A: Actor<Context = LineContext<A>>,
    {
        let framing = self.framing;
        self.answer_all(ctx, |rest| {
            let lines = framing.count(rest);
            answer(rest);
            lines
        });
    }

    /// As [`answer_in_place`](Self::answer_in_place), for an answer that counts the delimiters as it goes, which spares a
    /// pass over the block.
    pub(crate) fn answer_in_place_counting<A>(
        &mut self,
        ctx: &mut LineContext<A>,
        answer: impl FnOnce(&mut [u8], u8) -> u64,
    ) where
        A: Actor<Context = LineContext<A>>,
    {
        let framing = self.framing;
        self.answer_all(ctx, |rest| {
            if framing.needs_cr() {
                let lines = framing.count(rest);
                answer(rest, framing.last());
                lines
            } else {
                answer(rest, framing.last())
            }
        });
    }

    /// Takes all that is left; `answer` changes it to the reply and returns how many lines it was.
    fn answer_all<A>(&mut self, ctx: &mut LineContext<A>, answer: impl FnOnce(&mut [u8]) -> u64)
    where
        A: Actor<Context = LineContext<A>>,
    {
        if self.taken == self.block.len() || !ctx.accepts_lines() {
            return;
        }
        let start = self.taken;
        let rest = &mut self.block[start..];
        self.taken += rest.len();
        self.lines += answer(rest);
        if self.may_send && ctx.outbox_len() == 0 {
            // Sent from here by the context, when the batch returns.
            self.in_place = Some(start);
        } else {
            ctx.write(rest);
        }
    }

    /// Returns the bytes of the remaining lines, as they arrived.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.block[self.taken..]
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }

    /// The block's bytes that were answered in place.
    pub(crate) fn into_in_place(self) -> Option<&'a [u8]> {
        let start = self.in_place?;
        Some(&self.block[start..self.taken])
    }
}
