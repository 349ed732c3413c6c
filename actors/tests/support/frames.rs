//! A filter for tests, and its peer: frames of two bytes of length and so many of payload. It holds back what is not whole.
//!
//! A frame without payload ends its side. `PING` and `BAD` are lengths that mean something else: a question that is answered at once,
//! and bytes that nobody can read.
#![allow(dead_code, unreachable_pub)]

use std::cell::Cell;

use actix_lines::filter::{Eof, Fault, Filter, Flow, Inflow};

/// The longest payload.
pub const MAX: usize = 0xFF00;
/// Is answered by the same.
pub const PING: u16 = 0xFFFF;
/// Is a fault, which is answered by the same.
pub const BAD: u16 = 0xFFFE;
/// Has the filter panic.
pub const BOMB: u16 = 0xFFFD;
/// What a peer has to say first if the filter has a preface.
pub const HELLO: &[u8] = b"hello";

thread_local! {
    /// Plain bytes that frames of this thread carried: read, written.
    pub static CARRIED: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

#[derive(Debug, Default)]
pub struct Frames {
    pending: Vec<u8>,
    /// What is left of the preface.
    preface: &'static [u8],
    has_ended: bool,
    has_failed: bool,
    has_finished: bool,
    /// Plain bytes that may be written before it fails.
    writes: Option<usize>,
}

impl Frames {
    pub fn after_hello() -> Self {
        Self { preface: HELLO, ..Self::default() }
    }

    pub fn failing_after(writes: usize) -> Self {
        Self { writes: Some(writes), ..Self::default() }
    }
}

impl Filter for Frames {
    fn read(&mut self, wire: &mut Inflow<'_>, plain: &mut Vec<u8>, reply: &mut Vec<u8>) -> Result<Flow, Fault> {
        assert!(!self.has_failed, "it has said so");
        self.pending.extend_from_slice(wire.rest());
        wire.advance(usize::MAX);
        let mut rest = self.pending.as_slice();
        while let [first, later @ ..] = rest
            && let [expected, more @ ..] = self.preface
        {
            if first != expected {
                self.has_failed = true;
                return Err(Fault::new("no hello"));
            }
            (rest, self.preface) = (later, more);
            if more.is_empty() {
                reply.extend_from_slice(HELLO);
            }
        }
        while self.preface.is_empty()
            && let [high, low, later @ ..] = rest
        {
            match u16::from_be_bytes([*high, *low]) {
                0 => {
                    (rest, self.has_ended) = (&[], true);
                    break;
                }
                BOMB => panic!("a fault on purpose, in a filter"),
                PING => {
                    reply.extend_from_slice(&PING.to_be_bytes());
                    rest = later;
                }
                BAD => {
                    reply.extend_from_slice(&BAD.to_be_bytes());
                    self.has_failed = true;
                    return Err(Fault::new("a bad frame"));
                }
                len => {
                    let Some((payload, later)) = later.split_at_checked(usize::from(len)) else { break };
                    plain.extend_from_slice(payload);
                    CARRIED.set((CARRIED.get().0 + payload.len(), CARRIED.get().1));
                    rest = later;
                }
            }
        }
        self.pending = rest.to_vec();
        Ok(match () {
            () if self.has_ended => Flow::Ended,
            () if !self.preface.is_empty() => Flow::Preface,
            () => Flow::Open,
        })
    }

    fn write(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Fault> {
        assert!(!self.has_finished && !self.has_failed && self.preface.is_empty() && !plain.is_empty());
        if let Some(writes) = &mut self.writes {
            if *writes < plain.len() {
                self.has_failed = true;
                return Err(Fault::new("no more keys"));
            }
            *writes -= plain.len();
        }
        wire.extend_from_slice(&frame(plain));
        CARRIED.set((CARRIED.get().0, CARRIED.get().1 + plain.len()));
        Ok(())
    }

    fn eof(&mut self) -> Eof {
        Eof::Truncated
    }

    fn finish(&mut self, wire: &mut Vec<u8>) {
        assert!(!std::mem::replace(&mut self.has_finished, true), "it ends once");
        wire.extend_from_slice(&[0, 0]);
    }

    fn held(&self) -> usize {
        self.pending.len()
    }

    fn memory(&self) -> usize {
        self.pending.capacity()
    }
}

/// One frame.
pub fn frame(plain: &[u8]) -> Vec<u8> {
    let len = u16::try_from(plain.len()).expect("short enough");
    [&len.to_be_bytes(), plain].concat()
}

/// Frames whose sizes come from `sizes`, over and over.
pub fn frames(plain: &[u8], sizes: &[usize]) -> Vec<u8> {
    crate::support::cut(plain, sizes).into_iter().flat_map(frame).collect()
}

/// Frames, then the end.
pub fn ended(plain: &[u8], sizes: &[usize]) -> Vec<u8> {
    [frames(plain, sizes), vec![0, 0]].concat()
}

/// What a session has sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub plain: Vec<u8>,
    pub pings: usize,
    pub bads: usize,
    /// It ended by the end frame, and nothing came behind.
    pub is_ended: bool,
    /// What is no whole frame.
    pub rest: Vec<u8>,
}

/// Reads what a session has sent.
pub fn read(wire: &[u8]) -> Sent {
    let mut sent = Sent::default();
    let mut rest = wire;
    while let [high, low, later @ ..] = rest {
        match u16::from_be_bytes([*high, *low]) {
            PING => (sent.pings, rest) = (sent.pings + 1, later),
            BAD => (sent.bads, rest) = (sent.bads + 1, later),
            0 => {
                (sent.is_ended, rest) = (later.is_empty(), later);
                break;
            }
            len => {
                let Some((payload, later)) = later.split_at_checked(usize::from(len)) else { break };
                sent.plain.extend_from_slice(payload);
                rest = later;
            }
        }
    }
    sent.rest = rest.to_vec();
    sent
}
