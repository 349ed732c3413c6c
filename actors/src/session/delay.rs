//! Delay: where a session looks how long its peer waits for an answer.
//!
//! Called only where answers are measured: at a read, and at the end of a turn.
//! Not here: what is measured (`worker/delays`).

use tokio::time::Instant;

use crate::{
    session::{
        handler::LineHandler,
        state::{Flags, Turn},
        user_code::Session,
    },
    worker::delays::{Asked, Delay, Written},
};

impl<A: LineHandler> Session<A> {
    fn written(&self, turn: &Turn) -> Written {
        let sent = self.ctx.worker.slot(self.ctx.slot, |slot| slot.bytes_out()) + turn.counts.bytes_out;
        Written { all: sent + self.ctx.outbox_len() as u64, sent }
    }

    /// The peer has sent something: what is answered from here on answers that, unless an earlier answer is on its way.
    #[cold]
    pub(super) fn begin_answer(&mut self, turn: &mut Turn) {
        let now = Instant::now();
        turn.asked = self.look_at_answer(turn, now).or_else(|| Some(Asked::new(now, self.written(turn))));
    }

    /// The end of a turn: the answer may be with the kernel.
    #[cold]
    pub(super) fn end_answer(&mut self, turn: &Turn) {
        if let Some(asked) = self.look_at_answer(turn, Instant::now()) {
            self.ctx.worker.slot(self.ctx.slot, |slot| slot.set_asked(asked));
        }
    }

    /// Counts the answer that is being measured once it is with the kernel. Returns it while it is not.
    fn look_at_answer(&self, turn: &Turn, now: Instant) -> Option<Asked> {
        const OWED: Flags = Flags::WAITING.union(Flags::UNDELIVERED_LINES).union(Flags::UPGRADING);
        let asked = turn.asked.or_else(|| self.ctx.worker.slot(self.ctx.slot, |slot| slot.take_asked()));
        let mut asked = asked?;
        let mut written = self.written(turn);
        if self.ctx.has(Flags::UNFLUSHED) {
            // A filter may have all of it still.
            written.sent = 0;
        }
        match asked.look(now, written, self.ctx.has(OWED)) {
            Delay::Pending => return Some(asked),
            Delay::Silent => {}
            Delay::Answered(time) => self.ctx.worker.count_answer(self.ctx.slot, time),
        }
        None
    }
}
