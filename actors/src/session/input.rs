//! Input: reads, and delivers the bytes read to the handler.
//!
//! Whole lines are answered in the worker's scratch; only a partial line and undelivered lines are the session's own.
//! Not here: delimiters (`framing`), catching panics of user code (`user_code`).

use std::{
    io, mem,
    task::{Context, Poll},
};

use tokio::io::ReadBuf;

use crate::{
    framing::{self, Overrun, Reach, SLACK_BYTES, Step},
    limits::{CARRY_BYTES, READS_PER_TURN, SCRATCH_BYTES},
    rate::{Grant, Unit},
    report::{CloseReason, Half},
    session::{
        handler::LineHandler,
        lines::{Line, Lines, Payload},
        state::{Failure, Flags, Phase, Turn},
        user_code::Session,
    },
    wire::transport::Ending,
};

impl<A: LineHandler> Session<A> {
    /// A new framing, or a payload, begins with what was not delivered before.
    pub(super) fn reframe(&mut self) {
        if self.ctx.has(Flags::REFRAMED) {
            self.ctx.clear(Flags::REFRAMED);
            self.ctx.overrun = Overrun::None;
            if !self.ctx.input.is_empty() && !self.ctx.has(Flags::UNDELIVERED_LINES) {
                self.ctx.set(Flags::UNDELIVERED_LINES);
                self.ctx.scanned = Reach::ALL.to_bits();
            }
        }
    }

    /// One read, and what can be delivered of it. False if there was nothing to read.
    pub(super) fn read(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Result<bool, Failure> {
        let mut grant = Grant::own(SCRATCH_BYTES);
        let is_last = self.ctx.has(Flags::LAST_READ);
        if self.ctx.worker.is_rated() && !is_last {
            grant = self.grant(Unit::Bytes, turn.counts.bytes_in, SCRATCH_BYTES, || SCRATCH_BYTES);
            if grant.amount == 0 {
                return Ok(false);
            }
        }
        let carried = self.ctx.input.len();
        let at = if carried > CARRY_BYTES { 0 } else { carried };
        let mut scratch = self.ctx.worker.take_scratch();
        let mut buffer = ReadBuf::new(&mut scratch[at..at + grant.amount]);
        let asks = self.ctx.has(Flags::ASK_KERNEL | Flags::LAST_READ);
        self.ctx.clear(Flags::ASK_KERNEL);
        let poll = match asks {
            true => self.ctx.transport.poll_read_now(cx, &mut buffer),
            false => self.ctx.transport.poll_read(cx, &mut buffer),
        };
        let count = buffer.filled().len();
        if grant.of_group {
            self.ctx.worker.give_back(self.ctx.slot, Unit::Bytes, grant.amount - count);
        }
        // A stream that is always ready with a few bytes, or is interrupted each time, would be read for ever.
        turn.reads += 1;
        turn.has_read_enough |= turn.reads == READS_PER_TURN;
        let result = match poll {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {
                self.call_notice();
                Ok(true)
            }
            Poll::Ready(Err(error)) => Err((Half::Read, error)),
            Poll::Ready(Ok(())) if count == 0 => match self.ctx.transport.ending() {
                None => {
                    self.ctx.set(Flags::PEER_EOF);
                    Ok(true)
                }
                Some(ending) => {
                    self.end_by_filter(ending);
                    Ok(false)
                }
            },
            Poll::Ready(Ok(())) => {
                turn.counts.bytes_in += count as u64;
                if self.ctx.worker.measures_answers() {
                    self.begin_answer(turn);
                }
                turn.has_read_enough |= count == grant.amount || turn.counts.bytes_in >= SCRATCH_BYTES as u64;
                if carried > CARRY_BYTES {
                    self.ctx.input.extend_from_slice(&scratch[..count]);
                    self.deliver_own(cx, turn);
                } else {
                    self.deliver_scratch(&mut scratch, carried, count, cx, turn);
                }
                // A read ends before a byte that was sent as urgent, and the reactor takes a short one for the last.
                if !asks && !self.ctx.input.is_empty() {
                    self.ctx.set(Flags::ASK_KERNEL);
                }
                turn.failure.take().map_or(Ok(true), Err)
            }
        };
        self.ctx.worker.put_scratch(scratch);
        if self.ctx.transport.is_unflushed() {
            self.ctx.set(Flags::UNFLUSHED);
        }
        result
    }

    /// A filter has ended the peer's bytes in another way than the peer's EOF: whole lines are answered, as far as that
    /// is possible, and the session closes.
    #[cold]
    pub(super) fn end_by_filter(&mut self, ending: Ending) {
        match ending {
            Ending::Truncated => {
                self.ctx.set(Flags::PEER_EOF);
                self.ctx.drain_because(CloseReason::Truncated);
            }
            Ending::Failed(_) => {
                self.log_fault();
                self.ctx.drain_because(ending.reason());
            }
        }
    }

    /// Delivers what was read behind room for the carried bytes; keeps what remains.
    fn deliver_scratch(
        &mut self,
        scratch: &mut [u8],
        carried: usize,
        count: usize,
        cx: &mut Context<'_>,
        turn: &mut Turn,
    ) {
        let scanned = self.ctx.scanned as usize;
        self.ctx.scanned = 0;
        if carried > 0 {
            scratch[..carried].copy_from_slice(&self.ctx.input);
            self.ctx.input.clear();
        }
        let mut filled = carried + count;
        let done = self.deliver(scratch, &mut filled, scanned, Reach::ALL, cx, turn);
        let rest = &scratch[done..filled];
        if !rest.is_empty() {
            self.ctx.input.extend_from_slice(rest);
        } else if carried > 0 {
            self.ctx.input = Vec::new();
        }
    }

    /// Delivers from the session's own buffer; keeps what remains there.
    pub(super) fn deliver_own(&mut self, cx: &mut Context<'_>, turn: &mut Turn) {
        let mut input = mem::take(&mut self.ctx.input);
        let start = self.ctx.start as usize;
        let noted = mem::take(&mut self.ctx.scanned);
        let (scanned, reach) = match self.ctx.has(Flags::UNDELIVERED_LINES) {
            true => (0, Reach::from_bits(noted)),
            false => (noted as usize, Reach::ALL),
        };
        let mut filled = input.len() - start;
        input.resize(input.len() + SLACK_BYTES, 0);
        let done = self.deliver(&mut input[start..], &mut filled, scanned, reach, cx, turn);
        input.truncate(start + filled);
        let start = start + done;
        let rest = input.len() - start;
        if rest <= CARRY_BYTES {
            // No more memory than it needs; most often that is none.
            input = input[start..].to_vec();
            self.ctx.start = 0;
        } else if start > rest {
            input.drain(..start);
            self.ctx.start = 0;
        } else if self.ctx.has(Flags::UNDELIVERED_LINES) {
            self.ctx.start = start as u32;
        } else {
            input.drain(..start);
            self.ctx.start = 0;
        }
        self.ctx.input = input;
    }

    /// Delivers lines from `buffer[..filled]`, of which the first `scanned` hold no delimiter, for as long as the handler
    /// wants them. Returns how many bytes are done with, and leaves the flag `UNDELIVERED_LINES` if whole lines may remain.
    fn deliver(
        &mut self,
        buffer: &mut [u8],
        filled: &mut usize,
        mut scanned: usize,
        mut reach: Reach,
        cx: &mut Context<'_>,
        turn: &mut Turn,
    ) -> usize {
        self.ctx.clear(Flags::UNDELIVERED_LINES);
        let mut done = 0;
        let mut reframed_at = 0;
        while done < *filled {
            if !self.ctx.accepts_input() || turn.failure.is_some() || turn.has_had_its_share {
                self.ctx.set(Flags::UNDELIVERED_LINES);
                break;
            }
            if self.ctx.has(Flags::REFRAMED) {
                if done == reframed_at {
                    // It changes its mind and takes nothing: that may go on for ever, so others come in between.
                    self.ctx.set(Flags::UNDELIVERED_LINES | Flags::AGAIN);
                    break;
                }
                self.reframe();
                reframed_at = done;
            }
            if self.ctx.has(Flags::PAYLOAD) {
                done += self.offer_payload(&mut buffer[done..*filled], turn);
                continue;
            }
            let framing = self.ctx.framing;
            match framing::step(&framing, self.ctx.overrun, &buffer[done..*filled], scanned, reach) {
                Step::Incomplete => {
                    self.ctx.scanned = (*filled - done) as u32;
                    break;
                }
                Step::Overlong => {
                    self.ctx.overrun = Overrun::Inside;
                    self.guarded(|actor, ctx| actor.overlong(ctx));
                    // Unless the line is to be cut in another way.
                    if framing.closes_at_overlong() && !self.ctx.has(Flags::REFRAMED) {
                        self.ctx.set_reason(CloseReason::Overlong);
                        self.ctx.set(Flags::CLOSE | Flags::AGAIN);
                    }
                }
                Step::Block { end: shown } => {
                    let mut end = shown;
                    let mut grant = None;
                    if self.is_line_rated() {
                        let block = &buffer[done..done + end];
                        // No more lines than bytes: where that many are granted, nobody has to count.
                        let lines =
                            self.grant(Unit::Lines, turn.counts.lines_in, end, || framing.count(block).max(1) as usize);
                        if lines.amount == 0 {
                            continue;
                        }
                        if lines.amount < end {
                            end = framing.end_of(block, lines.amount);
                            turn.has_had_its_share = lines.of_group && end < shown;
                        }
                        grant = Some(lines).filter(|lines| lines.of_group);
                    }
                    let block = &mut buffer[done..done + end];
                    let overrun = self.ctx.overrun;
                    let ends_overlong = overrun != Overrun::None && framing.is_terminated(block);
                    let before = turn.counts.lines_in;
                    let behind = *filled - done - end;
                    let taken = self.offer(Lines::new(block, behind, framing, overrun), cx, turn);
                    reach = reach.after(taken, shown);
                    if let Some(lines) = grant {
                        let unused = lines.amount - (turn.counts.lines_in - before) as usize;
                        self.ctx.worker.give_back(self.ctx.slot, Unit::Lines, unused);
                    }
                    if overrun != Overrun::None && taken > 0 {
                        self.ctx.overrun = overrun.after_part(taken == end && ends_overlong);
                    }
                    self.check_stall(taken);
                    done += taken;
                    scanned = 0;
                }
                Step::Made { keep, terminator_len, resume } => {
                    let mut grant = Grant::own(1);
                    if self.is_line_rated() {
                        grant = self.grant(Unit::Lines, turn.counts.lines_in, 1, || 1);
                        if grant.amount == 0 {
                            continue;
                        }
                    }
                    let behind = *filled - done - resume;
                    let taken = framing::with_made_line(&framing, &mut buffer[done..], keep, terminator_len, |line| {
                        self.offer(Lines::made(line, terminator_len, behind, framing), cx, turn)
                    });
                    turn.has_had_its_share = grant.of_group;
                    if grant.of_group && taken == 0 {
                        self.ctx.worker.give_back(self.ctx.slot, Unit::Lines, 1);
                    }
                    if taken > 0 {
                        self.ctx.overrun = Overrun::None;
                        let dropped = Step::dropped(keep, terminator_len, resume);
                        self.ctx.worker.slot(self.ctx.slot, |slot| slot.add_undelivered(dropped));
                        done += resume;
                        scanned = 0;
                    }
                    self.check_stall(taken);
                }
                Step::Skip { end } => {
                    self.ctx.overrun = Overrun::None;
                    self.ctx.worker.slot(self.ctx.slot, |slot| slot.add_undelivered(end));
                    // It has come, for the clocks.
                    turn.counts.delivered = true;
                    done += end;
                    scanned = 0;
                }
                Step::Drop { keep } => {
                    let last = *filled - 1;
                    let keep = done + keep;
                    buffer[keep] = buffer[last];
                    self.ctx.worker.slot(self.ctx.slot, |slot| slot.add_undelivered(last - keep));
                    *filled = keep + 1;
                    self.ctx.scanned = (*filled - done) as u32;
                    break;
                }
            }
        }
        if self.ctx.has(Flags::UNDELIVERED_LINES) {
            self.ctx.scanned = reach.to_bits();
        }
        done
    }

    /// True if lines have to be granted. None that was read is held back when the session ends.
    #[inline]
    fn is_line_rated(&self) -> bool {
        self.ctx.worker.is_rated() && self.ctx.phase == Phase::Open
    }

    /// Takes from the session's rate. With nothing left the session is throttled, until a sweep has filled the bucket.
    fn grant(&self, unit: Unit, spent: u64, most: usize, wanted: impl FnOnce() -> usize) -> Grant {
        let grant = self.ctx.worker.grant(self.ctx.slot, unit, spent, most, wanted);
        if grant.amount == 0 {
            self.ctx.set(Flags::THROTTLED);
        }
        grant
    }

    /// Offers lines to the handler. Returns how many bytes it took.
    fn offer(&mut self, mut lines: Lines<'_>, cx: &mut Context<'_>, turn: &mut Turn) -> usize {
        self.guarded(|actor, ctx| actor.batch(&mut lines, ctx));
        let taken = lines.taken();
        turn.counts.delivered |= taken > 0;
        turn.counts.lines_in += lines.lines();
        if let Some(answer) = lines.into_in_place() {
            self.write_through(answer, cx, turn);
        }
        taken
    }

    /// Gives the handler the part of its payload that is there. Returns how many bytes that was.
    fn offer_payload(&mut self, bytes: &mut [u8], turn: &mut Turn) -> usize {
        let wanted = self.ctx.payload_left();
        let count = usize::try_from(wanted).unwrap_or(usize::MAX).min(bytes.len());
        let left = wanted - count as u64;
        // Before the handler sees it: it may ask for another.
        self.ctx.worker.slot(self.ctx.slot, |slot| slot.set_payload(left));
        if left == 0 {
            self.ctx.clear(Flags::PAYLOAD);
        }
        turn.counts.delivered = true;
        self.guarded(|actor, ctx| actor.payload(Payload::new(&mut bytes[..count], left), ctx));
        count
    }

    /// A handler that takes nothing though nothing keeps it from doing so would be asked for ever.
    fn check_stall(&mut self, taken: usize) {
        if taken == 0 && self.ctx.accepts_lines() {
            self.ctx.set_reason(CloseReason::HandlerStalled);
            self.ctx.set(Flags::CLOSE | Flags::AGAIN);
        }
    }

    /// The peer's bytes have ended: the tail, if there is one, and the hook.
    pub(super) fn call_eof(&mut self, turn: &mut Turn) {
        if !self.ctx.input.is_empty() {
            let mut tail = mem::take(&mut self.ctx.input);
            let dropped = tail.len().saturating_sub(self.ctx.framing.longest_tail(self.ctx.overrun));
            tail.truncate(tail.len() - dropped);
            self.ctx.worker.slot(self.ctx.slot, |slot| slot.add_undelivered(dropped));
            if !tail.is_empty() {
                turn.counts.lines_in += 1;
                self.ctx.worker.slot(self.ctx.slot, |slot| slot.add_tail(tail.len()));
                let continues = self.ctx.overrun == Overrun::Continued;
                self.guarded(|actor, ctx| actor.tail(Line::tail(&mut tail, continues), ctx));
                // Its answer may have to be waited for.
                return;
            }
        }
        self.ctx.set(Flags::EOF_CALLED);
        self.guarded(|actor, ctx| actor.eof(ctx));
    }
}

#[cfg(test)]
mod tests {
    use actix::{Actor, AsyncContext, fut::wrap_future};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        framing::{Framing, Overlong, take_effort},
        rate::Rate,
        rate::RateLimit,
        session::context::LineContext,
        wire::transport::Transport,
    };

    /// How lines are taken.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Taking {
        Blocks,
        /// One of each block.
        One,
        /// A wait after each.
        Waiting,
        /// Another framing after each.
        Reframing,
        /// A payload of one byte after each.
        Payloads,
        /// So many a second.
        Rated,
    }

    struct Taker(Taking, Framing);

    impl Actor for Taker {
        type Context = LineContext<Self>;

        fn started(&mut self, ctx: &mut Self::Context) {
            if self.0 == Taking::Rated {
                let lines = Some(Rate { per_second: 400, burst: 100 });
                ctx.set_rate(RateLimit { lines, bytes: None }).unwrap();
            }
        }
    }

    impl LineHandler for Taker {
        fn line(&mut self, _: Line<'_>, ctx: &mut Self::Context) {
            match self.0 {
                Taking::Blocks | Taking::One | Taking::Rated => {}
                Taking::Waiting => ctx.wait(wrap_future::<_, Self>(tokio::task::yield_now())),
                Taking::Reframing => {
                    let other = if ctx.framing == self.1 { self.1.keep_cr() } else { self.1 };
                    ctx.set_framing(other);
                }
                Taking::Payloads => ctx.payload(1),
            }
        }

        fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
            while let Some(line) = lines.next(ctx) {
                self.line(line, ctx);
                if self.0 == Taking::One {
                    break;
                }
            }
        }
    }

    /// Bytes that are looked at for delimiters until all of `input`, which is there at once, is delivered.
    fn effort(taking: Taking, framing: Framing, input: &[u8]) -> usize {
        actix_rt::System::new().block_on(async {
            tokio::time::pause();
            let (ours, mut theirs) = tokio::io::duplex(input.len());
            theirs.write_all(input).await.unwrap();
            theirs.shutdown().await.unwrap();
            take_effort();
            LineContext::start(Transport::new(ours), framing, Taker(taking, framing));
            theirs.read_to_end(&mut Vec::new()).await.unwrap();
            take_effort()
        })
    }

    #[test]
    fn the_effort_to_find_lines_grows_with_what_is_delivered_however_they_are_cut_and_taken() {
        let takings =
            [Taking::Blocks, Taking::One, Taking::Waiting, Taking::Reframing, Taking::Payloads, Taking::Rated];
        let inputs: [fn(usize) -> Vec<u8>; 7] = [
            |len| vec![b'x'; len],
            |len| vec![b'\n'; len],
            |len| b"x\n".repeat(len / 2),
            |len| b"xxx\n".repeat(len / 4),
            |len| b"x\nx".repeat(len / 3),
            |len| [b"x\n".repeat(len / 4), vec![b'x'; len / 2]].concat(),
            |len| [vec![b'x'; len / 2], b"x\n".repeat(len / 4)].concat(),
        ];
        const SMALL: usize = 2 * 1024;
        for taking in takings {
            for policy in [Overlong::Pieces, Overlong::Split, Overlong::Truncate] {
                for max in [1, 40, 1 << 20] {
                    let framing = Framing::lf().max_line(max).unwrap().overlong(policy);
                    for (nth, input) in inputs.iter().enumerate() {
                        let small = effort(taking, framing, &input(SMALL));
                        let large = effort(taking, framing, &input(4 * SMALL));
                        // Four times as much, or it would be sixteen times as much.
                        assert!(
                            large <= 6 * small + SMALL,
                            "{taking:?}, {policy:?} at {max}, input {nth}: {small} became {large}"
                        );
                    }
                }
            }
        }
    }
}
