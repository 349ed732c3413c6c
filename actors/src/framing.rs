//! Framing: cuts bytes into lines. Delimiter, longest line, treatment of a longer one.
//!
//! Pure: it looks at bytes and says which may be delivered. However lines are cut and taken, the bytes that it looks at
//! are a small multiple of those that are delivered: a search ends where the reach ends, and the reach follows the
//! bytes taken.
//! Not here: reading, keeping incomplete lines, calling the handler (`session`).

use crate::{error::ConfigError, scan::count_byte};

/// The bytes that end a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delimiter {
    /// LF. A CR before it belongs to the terminator, unless [`Framing::keep_cr`] is set.
    Lf,
    /// CR and LF together; either alone is data.
    CrLf,
    /// NUL.
    Nul,
    /// Any single byte.
    Byte(u8),
}

/// The treatment of a line that is longer than [`Framing::max_line`]. In each case the handler's
/// [`overlong`](crate::LineHandler::overlong) is called first, once for each such line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overlong {
    /// Delivers it in pieces of max-line bytes, of which only the last is [terminated](crate::Line::is_terminated): no
    /// byte is lost or added. The default.
    #[default]
    Pieces,
    /// Ends a line after every max-line bytes without a delimiter, as libevent's bufferevent server does. A line of
    /// exactly max-line bytes already counts as overlong.
    Split,
    /// Keeps the first max-line bytes and the terminator; the bytes between are dropped and counted as undelivered.
    Truncate,
    /// Drops all of it and goes on with the next line; its bytes are counted as undelivered.
    Discard,
    /// Answers the lines before it, then closes the session.
    Close,
}

/// The way in which a session's bytes are cut into lines. Small and `Copy`; always valid.
///
/// ```
/// use actix_lines::{Framing, Overlong};
///
/// let framing = Framing::lf().max_line(1024)?.overlong(Overlong::Close);
/// assert!(Framing::nul().max_line(0).is_err());
/// # let _ = framing;
/// # Ok::<(), actix_lines::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    max_line: u32,
    /// The last byte of the delimiter.
    last: u8,
    cr: Cr,
    overlong: Overlong,
}

/// The meaning of a CR before the delimiter's last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cr {
    /// A byte like any other.
    Data,
    /// Part of the terminator where it stands.
    Optional,
    /// Without it there is no delimiter.
    Required,
}

impl Default for Framing {
    fn default() -> Self {
        Self::lf()
    }
}

impl Framing {
    /// Largest value of [`max_line`](Self::max_line): 1 GiB.
    pub const MAX_LINE_LIMIT: usize = 1 << 30;

    /// Default of [`max_line`](Self::max_line): 16,384 bytes, the `MAX_LINE` of libevent's introductory servers.
    pub const DEFAULT_MAX_LINE: usize = 16_384;

    /// Makes a framing whose lines end with LF; a CR before it belongs to the terminator. The default.
    #[must_use]
    pub const fn lf() -> Self {
        Self::new(Delimiter::Lf)
    }

    /// Makes a framing whose lines end with CR LF; either alone is data.
    #[must_use]
    pub const fn crlf() -> Self {
        Self::new(Delimiter::CrLf)
    }

    /// Makes a framing whose lines end with NUL.
    #[must_use]
    pub const fn nul() -> Self {
        Self::new(Delimiter::Nul)
    }

    /// Makes a framing whose lines end with `delimiter`, are at most [`DEFAULT_MAX_LINE`](Self::DEFAULT_MAX_LINE) long,
    /// and pass in pieces if longer.
    #[must_use]
    pub const fn new(delimiter: Delimiter) -> Self {
        let (last, cr) = match delimiter {
            Delimiter::Lf => (b'\n', Cr::Optional),
            Delimiter::CrLf => (b'\n', Cr::Required),
            Delimiter::Nul => (0, Cr::Data),
            Delimiter::Byte(byte) => (byte, Cr::Data),
        };
        Self { max_line: Self::DEFAULT_MAX_LINE as u32, last, cr, overlong: Overlong::Pieces }
    }

    /// Makes a CR before an LF part of the text instead of the terminator. It has no effect with other delimiters.
    ///
    /// Only [`Line::text`](crate::Line::text) differs: a [`Line`](crate::Line) as a whole always has all of its bytes.
    #[must_use]
    pub const fn keep_cr(mut self) -> Self {
        if let Cr::Optional = self.cr {
            self.cr = Cr::Data;
        }
        self
    }

    /// Sets the longest line. Unit: bytes without the terminator. Default: [`DEFAULT_MAX_LINE`](Self::DEFAULT_MAX_LINE).
    ///
    /// A session's incomplete line may take this much memory.
    ///
    /// # Errors
    /// Returns [`ConfigError::MaxLine`] unless it is 1 to [`MAX_LINE_LIMIT`](Self::MAX_LINE_LIMIT).
    pub const fn max_line(mut self, bytes: usize) -> Result<Self, ConfigError> {
        if bytes == 0 || bytes > Self::MAX_LINE_LIMIT {
            return Err(ConfigError::MaxLine { bytes });
        }
        self.max_line = bytes as u32;
        Ok(self)
    }

    /// Sets the treatment of a longer line. Default: [`Overlong::Pieces`].
    #[must_use]
    pub const fn overlong(mut self, policy: Overlong) -> Self {
        self.overlong = policy;
        self
    }

    /// The longest line, in bytes without the terminator.
    pub(crate) fn max(&self) -> usize {
        self.max_line as usize
    }

    /// The last byte of the delimiter.
    pub(crate) fn last(&self) -> u8 {
        self.last
    }

    /// Returns true if a CR has to stand before that byte.
    pub(crate) fn needs_cr(&self) -> bool {
        self.cr == Cr::Required
    }

    /// Length of the delimiter.
    fn delimiter_len(&self) -> usize {
        if self.cr == Cr::Required { 2 } else { 1 }
    }

    /// The most bytes that a line which is not overlong takes, delimiter included, an optional CR not.
    pub(crate) fn window(&self) -> usize {
        // `Split` ends a line when its buffer is full, before it could see that a delimiter comes next.
        self.max() + self.delimiter_len() - usize::from(self.overlong == Overlong::Split)
    }

    /// End of the first delimiter in `bytes` that ends after `from`.
    fn find(&self, bytes: &[u8], from: usize) -> Option<usize> {
        let end = if self.cr != Cr::Required {
            memchr::memchr(self.last, &bytes[from..]).map(|at| from + at + 1)
        } else {
            memchr::memchr_iter(self.last, &bytes[from..])
                .map(|at| from + at)
                .find(|&at| at > 0 && bytes[at - 1] == b'\r')
                .map(|at| at + 1)
        };
        effort::spend(end.unwrap_or(bytes.len()) - from);
        end
    }

    /// End of the last delimiter in `bytes` that ends after `from`.
    fn rfind(&self, bytes: &[u8], from: usize) -> Option<usize> {
        let end = if self.cr != Cr::Required {
            // Most reads end with a line.
            if bytes.last() == Some(&self.last) {
                Some(bytes.len())
            } else {
                memchr::memrchr(self.last, &bytes[from..]).map(|at| from + at + 1)
            }
        } else {
            memchr::memrchr_iter(self.last, &bytes[from..])
                .map(|at| from + at)
                .find(|&at| at > 0 && bytes[at - 1] == b'\r')
                .map(|at| at + 1)
        };
        effort::spend(bytes.len() - end.unwrap_or(from));
        end
    }

    /// End of the last delimiter in `bytes[..near]` that ends after `from`, or else of the first one behind it.
    fn rfind_near(&self, bytes: &[u8], from: usize, near: usize) -> Option<usize> {
        let end = if from < near { self.rfind(&bytes[..near], from) } else { None };
        if end.is_none() && near < bytes.len() { self.find(bytes, from.max(near)) } else { end }
    }

    /// How many delimiters `bytes` holds.
    pub(crate) fn count(&self, bytes: &[u8]) -> u64 {
        effort::spend(bytes.len());
        if self.cr != Cr::Required {
            return count_byte(bytes, self.last);
        }
        memchr::memchr_iter(self.last, bytes).filter(|&at| at > 0 && bytes[at - 1] == b'\r').count() as u64
    }

    /// End of the first `lines` lines of `bytes`, which hold more.
    pub(crate) fn end_of(&self, bytes: &[u8], lines: usize) -> usize {
        (0..lines).fold(0, |end, _| self.find(bytes, end).unwrap_or(bytes.len()))
    }

    /// Length of the terminator that `line` ends with; 0 if it has none.
    pub(crate) fn terminator_len(&self, line: &[u8]) -> usize {
        match (line, self.cr) {
            ([.., b'\r', last], Cr::Optional | Cr::Required) if *last == self.last => 2,
            ([.., last], Cr::Optional | Cr::Data) if *last == self.last => 1,
            _ => 0,
        }
    }

    pub(crate) fn is_terminated(&self, block: &[u8]) -> bool {
        self.terminator_len(block) > 0
    }

    pub(crate) fn closes_at_overlong(&self) -> bool {
        self.overlong == Overlong::Close
    }

    /// The most bytes that a tail may have: of a line that is being truncated or discarded one more is kept, for its
    /// delimiter's sake.
    pub(crate) fn longest_tail(&self, overrun: Overrun) -> usize {
        match self.overlong {
            _ if overrun == Overrun::None => usize::MAX,
            Overlong::Truncate => self.max(),
            Overlong::Discard => 0,
            Overlong::Pieces | Overlong::Split | Overlong::Close => usize::MAX,
        }
    }

    /// Content bytes in `bytes`, which hold no delimiter: a trailing CR may be half of one.
    fn content_len(&self, bytes: &[u8]) -> usize {
        let may_be_half = self.cr == Cr::Required || self.allows_cr_above_max();
        bytes.len() - usize::from(may_be_half && bytes.last() == Some(&b'\r'))
    }

    /// Returns true if a CR before the LF is counted as part of the terminator: `Split` ends a line when its buffer is
    /// full, of whatever bytes.
    fn allows_cr_above_max(&self) -> bool {
        self.cr == Cr::Optional && self.overlong != Overlong::Split
    }

    /// Returns true if `bytes` begin with a line of exactly the longest length and a terminator with CR, which takes
    /// one byte more than the window.
    pub(crate) fn is_longest_with_cr(&self, bytes: &[u8]) -> bool {
        self.allows_cr_above_max() && bytes.get(self.max()..self.max() + 2) == Some(&[b'\r', self.last])
    }

    /// How many of `bytes` are behind the last delimiter.
    pub(crate) fn tail_len(&self, bytes: &[u8]) -> usize {
        bytes.len() - self.rfind(bytes, 0).unwrap_or(0)
    }
}

/// Counts the bytes that searches look at, in the library's own tests: the effort has to grow with what is delivered, and
/// with nothing else.
mod effort {
    #[cfg(not(test))]
    #[inline(always)]
    pub(super) fn spend(_bytes: usize) {}

    #[cfg(test)]
    std::thread_local! {
        static SPENT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    /// Each search counts for one byte more than it looks at: a call is not free.
    #[cfg(test)]
    pub(super) fn spend(bytes: usize) {
        SPENT.set(SPENT.get() + bytes + 1);
    }

    /// What was spent on this thread since the last call.
    #[cfg(test)]
    pub(crate) fn take() -> usize {
        SPENT.take()
    }
}

#[cfg(test)]
pub(crate) use self::effort::take as take_effort;

/// Room that a buffer has behind the bytes given to [`step`], for a delimiter that has to be made up.
pub(crate) const SLACK_BYTES: usize = 2;

/// The least that is looked for in one step, however little was taken of the last block: a search of so many bytes costs
/// less than the call that delivers a line.
const LEAST_REACH: usize = 64;

/// How far ahead of what is delivered a step looks for whole lines.
///
/// All that was read is a block, as long as blocks are taken whole. Of whoever takes a part, because it wants one line at
/// a time, waits, has a rate, or changes the framing, the next step shows a block about twice as long as that part: to look
/// through all of the rest each time would cost the square of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach(u32);

impl Reach {
    /// All that is there.
    pub(crate) const ALL: Self = Self(u32::MAX);

    /// As it was packed by [`to_bits`](Self::to_bits).
    pub(crate) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub(crate) fn to_bits(self) -> u32 {
        self.0
    }

    /// What it is after `taken` bytes of a block of `shown`.
    pub(crate) fn after(self, taken: usize, shown: usize) -> Self {
        let grown = if taken == shown { self.bytes().saturating_mul(2) } else { LEAST_REACH.max(2 * taken) };
        Self(u32::try_from(grown).unwrap_or(u32::MAX))
    }

    fn bytes(self) -> usize {
        self.0 as usize
    }
}

/// The position in an overlong line. All other state of framing is in the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Overrun {
    /// Not in one.
    #[default]
    None,
    /// The hook was called; what follows up to the delimiter belongs to the overlong line.
    Inside,
    /// The same, and a piece of it was delivered.
    Continued,
}

impl Overrun {
    /// Where we are after a part of an overlong line was taken.
    pub(crate) fn after_part(self, ends: bool) -> Self {
        match self {
            Self::None => Self::None,
            _ if ends => Self::None,
            _ => Self::Continued,
        }
    }
}

/// The next step with undelivered bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Bytes `..end` are whole lines, or pieces of one overlong line.
    Block { end: usize },
    /// A line turned out overlong: call the hook, then go on with `Overrun::Inside`.
    Overlong,
    /// Bytes `..keep` and a terminator of that length behind them are a line to deliver; then go on at `resume`.
    Made { keep: usize, terminator_len: usize, resume: usize },
    /// Bytes `..end` are dropped: an overlong line of which nothing is delivered, up to its end.
    Skip { end: usize },
    /// Bytes `keep..` are dropped but for the last, which may be half of the delimiter that is waited for.
    Drop { keep: usize },
    /// Nothing to deliver before more bytes come.
    Incomplete,
}

impl Step {
    /// Bytes read that a made line does not show: what was truncated. A split adds a delimiter and drops nothing.
    pub(crate) fn dropped(keep: usize, terminator_len: usize, resume: usize) -> usize {
        (resume - keep).saturating_sub(terminator_len)
    }
}

/// Says what may be delivered of `bytes`, of which the first `scanned` are known to hold no delimiter.
pub(crate) fn step(framing: &Framing, overrun: Overrun, bytes: &[u8], scanned: usize, reach: Reach) -> Step {
    if overrun != Overrun::None {
        return step_inside(framing, bytes, scanned, reach);
    }
    let window = framing.window();
    let mut end = 0;
    // Every line of `..end` is short enough, since each hop of at most a window meets a delimiter.
    loop {
        let rest = &bytes[end..];
        let hop = &rest[..rest.len().min(window)];
        let near = hop.len().min(reach.bytes() - end);
        match framing.rfind_near(hop, if end == 0 { scanned } else { 0 }, near) {
            Some(more) => {
                end += more;
                // Where the hop saw all that is there, no delimiter is left.
                if near == rest.len() {
                    return Step::Block { end };
                }
            }
            None if framing.is_longest_with_cr(rest) => end += window + 1,
            None if end > 0 => return Step::Block { end },
            None => {
                let limit = if framing.overlong == Overlong::Split { framing.max() - 1 } else { framing.max() };
                return if framing.content_len(rest) > limit { Step::Overlong } else { Step::Incomplete };
            }
        }
        if end >= reach.bytes() {
            return Step::Block { end };
        }
    }
}

/// The same within an overlong line, its hook called.
fn step_inside(framing: &Framing, bytes: &[u8], scanned: usize, reach: Reach) -> Step {
    let max = framing.max();
    match framing.overlong {
        // Pieces are always `max` long whatever the chunking, because one more byte has to be there before one goes.
        Overlong::Pieces => {
            // A piece, one byte more, and what may be half of a delimiter.
            let seen = &bytes[..bytes.len().min(reach.bytes().max(max + 2))];
            match framing.find(seen, scanned.min(seen.len())) {
                Some(end) => Step::Block { end },
                None => match framing.content_len(seen).saturating_sub(1) / max * max {
                    0 => Step::Incomplete,
                    end => Step::Block { end },
                },
            }
        }
        Overlong::Split => Step::Made { keep: max, terminator_len: framing.delimiter_len(), resume: max },
        // Byte `max` is not the delimiter's last, or the line would not be overlong.
        Overlong::Truncate => match framing.find(bytes, scanned.max(max + 1)) {
            // Byte `max` is not kept, so a CR that belongs to the terminator is behind those that are.
            Some(resume) => {
                Step::Made { keep: max, terminator_len: framing.terminator_len(&bytes[max..resume]), resume }
            }
            None if bytes.len() > max + 1 => Step::Drop { keep: max },
            None => Step::Incomplete,
        },
        // What is dropped is looked at once: the byte that is kept is known to hold no delimiter.
        Overlong::Discard => match framing.find(bytes, scanned) {
            Some(end) => Step::Skip { end },
            None if bytes.len() > 1 => Step::Drop { keep: 0 },
            None => Step::Incomplete,
        },
        // The context ends the session instead of asking again.
        Overlong::Close => Step::Incomplete,
    }
}

/// Delivers a made line: `buffer[..keep]`, and a terminator of `terminator_len` put behind it for as long as `deliver`
/// looks at it. The buffer has room for that.
pub(crate) fn with_made_line<R>(
    framing: &Framing,
    buffer: &mut [u8],
    keep: usize,
    terminator_len: usize,
    deliver: impl FnOnce(&mut [u8]) -> R,
) -> R {
    let saved = [buffer[keep], buffer[keep + 1]];
    let end = keep + terminator_len;
    if terminator_len == 2 {
        buffer[keep] = b'\r';
    }
    buffer[end - 1] = framing.last;
    let result = deliver(&mut buffer[..end]);
    buffer[keep..keep + 2].copy_from_slice(&saved);
    result
}
