//! Buffers: the scratch that sessions read into, and the outbox that they answer in.
//!
//! They are taken out while they are used, so that no user code runs under a borrow of them.
//! Not here: the bytes that a session keeps beyond its turn (`session`).

use std::cell::Cell;

use crate::{
    framing::SLACK_BYTES,
    limits::{CARRY_BYTES, SCRATCH_BYTES},
    wire::outbox::Outbox,
};

/// The worker's part.
#[derive(Default)]
pub(super) struct Buffers {
    scratch: Cell<Vec<u8>>,
    loan: Cell<Option<Box<Outbox>>>,
}

impl Buffers {
    /// The read buffer, taken out: a carried line, one read, and room for a made-up delimiter.
    pub(super) fn take_scratch(&self) -> Vec<u8> {
        let scratch = self.scratch.take();
        if scratch.is_empty() { vec![0; CARRY_BYTES + SCRATCH_BYTES + SLACK_BYTES] } else { scratch }
    }

    pub(super) fn put_scratch(&self, scratch: Vec<u8>) {
        self.scratch.set(scratch);
    }

    /// An empty outbox with room for a turn's answers.
    pub(super) fn lend_outbox(&self) -> Box<Outbox> {
        self.loan.take().unwrap_or_else(Outbox::with_room)
    }

    pub(super) fn return_outbox(&self, outbox: Box<Outbox>) {
        if outbox.is_lendable() {
            self.loan.set(Some(outbox));
        }
    }
}
