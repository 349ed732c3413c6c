//! Filtered: a transport's reading and writing by way of a filter.
//!
//! Plain bytes are sealed when they are to be sent, and only when nothing sealed waits. Replies of the filter go before
//! anything that is sealed later.
//! Not here: its state, and the transport that it is part of (`transport`), a filter's panics (`guarded`).

use std::{
    any::Any,
    io, mem,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::ReadBuf;

use crate::{
    caught::drop_caught,
    connection::ConnectionInfo,
    report::FaultName,
    wire::{
        filter::{Eof, Fault, Filter, Flow, Inflow, Notice},
        guarded::Guarded,
        sealed::{PIECE_BYTES, PIECES, Sealed, borrow_buffer, return_buffer},
        transport::{Ending, Filtered, Told, Transport},
    },
};

/// Bytes of waiting replies above which the wire is not read.
const REPLIES_BYTES: usize = 64 * 1024;

/// The longest preface of one filter. Unit: bytes.
const MAX_PREFACE_BYTES: u32 = 64 * 1024;

/// With more plain bytes than this waiting for the session its filter is not driven on for a writer. Unit: bytes.
const PLAIN_BYTES: usize = 64 * 1024;

/// Bytes that are read at once of a preface that is waited for by a writer.
const PREFACE_BYTES: usize = 4 * 1024;

/// Reads of it in one go.
const PREFACE_READS: usize = 8;

/// How bytes are written to the stream below: in a turn, or outside of one.
type Sink<'a> = dyn FnMut(&mut Transport, &[u8]) -> Poll<io::Result<usize>> + 'a;

impl<F: Filter> Filtered<Option<F>> {
    pub(super) fn new(filter: F) -> Self {
        Self {
            inner: Transport::closed(),
            filter: Guarded::new(filter),
            flow: Flow::Preface,
            plain: Vec::new(),
            sealed: Sealed::default(),
            ending: None,
            told: None,
            error: None,
            preface: 0,
            has_begun: false,
            asks: false,
            at_eof: false,
            has_finished: false,
            lingers: false,
            has_spoken: false,
            needs_flush: false,
        }
    }
}

impl Filtered {
    /// Returns the stream below if nothing is left to be done to it.
    pub(super) fn take_inner_if_done(&mut self) -> Option<Transport> {
        let is_done = self.flow == Flow::Done && !self.at_eof && self.plain.is_empty() && self.sealed.len() == 0;
        (is_done && self.told.is_none() && self.filter.learned.is_none()).then(|| self.inner.take())
    }

    /// Returns true if bytes may be written.
    pub(super) fn is_open(&self) -> bool {
        self.flow != Flow::Preface && self.inner.is_open()
    }

    /// Returns true if nothing can be written any more, whatever becomes of the stream below.
    pub(super) fn is_unwritable(&self) -> bool {
        matches!(self.ending, Some(Ending::Failed(_))) || (self.at_eof && !self.is_open()) || self.inner.is_unwritable()
    }

    pub(super) fn ending(&self) -> Option<Ending> {
        self.ending.or_else(|| self.inner.ending())
    }

    pub(super) fn take_fault(&mut self) -> Option<String> {
        self.filter.fault.take().map(|fault| fault.0).or_else(|| self.inner.take_fault())
    }

    pub(super) fn learned(&self, info: &mut ConnectionInfo) {
        self.inner.learned(info);
        if self.flow != Flow::Preface {
            self.filter.learned(info);
        }
    }

    pub(super) fn take_learned(&mut self, info: &mut ConnectionInfo) {
        self.inner.take_learned(info);
        if let Some(learned) = self.filter.learned.take() {
            info.extend(&learned);
        }
    }

    /// Bytes of the wire that are read and not the session's yet.
    pub(super) fn held(&self) -> usize {
        let told = self.told.as_ref().map_or(0, |told| told.rest.len() - told.at);
        self.plain.len() + told + self.filter.held() + self.inner.held()
    }

    pub(super) fn memory(&self) -> usize {
        let told = self.told.as_ref().map_or(0, |told| told.rest.capacity());
        told + self.plain.capacity() + self.sealed.memory() + self.filter.memory() + self.inner.memory()
    }

    pub(super) fn is_unflushed(&self) -> bool {
        self.sealed.len() > 0 || self.needs_flush || self.inner.is_unflushed()
    }

    /// Returns true if the peer was sent what no session wrote.
    pub(super) fn has_spoken(&self) -> bool {
        self.has_spoken || self.inner.has_spoken()
    }

    /// From here on what is read is discarded. Returns whether the wire has not ended yet.
    pub(super) fn linger(&mut self) -> bool {
        self.lingers = true;
        if self.inner.is_filtered() { self.inner.linger() } else { !self.at_eof }
    }

    /// Reads plain bytes. None, without an error, are the end: the peer's, unless [`ending`](Self::ending) says otherwise.
    /// Bytes of the wire that are none of the session are [`io::ErrorKind::Interrupted`].
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        asks: bool,
    ) -> Poll<io::Result<()>> {
        if self.lingers && (self.filter.is_gone() || self.flow == Flow::Ended || self.ending.is_some()) {
            return self.inner.poll_read(cx, buffer);
        }
        if self.plain.is_empty() {
            if self.has_ended() {
                return Poll::Ready(Ok(()));
            }
            if let Some(told) = &mut self.told
                && !mem::replace(&mut told.is_offered, true)
            {
                return Poll::Ready(Err(io::ErrorKind::Interrupted.into()));
            }
            self.send_replies(cx)?;
            if self.sealed.replies() > REPLIES_BYTES {
                return Poll::Pending;
            }
            let mut plain = borrow_buffer();
            let poll = self.poll_decode(cx, buffer, asks, &mut plain);
            // Bytes of the wire: the session sees none of them.
            buffer.set_filled(0);
            let count = plain.len().min(buffer.remaining());
            buffer.put_slice(&plain[..count]);
            if plain.len() > count {
                self.plain = plain[count..].to_vec();
            }
            return_buffer(plain);
            if count > 0 {
                return Poll::Ready(Ok(()));
            }
            ready!(poll)?;
            return if self.has_ended() {
                Poll::Ready(Ok(()))
            } else {
                Poll::Ready(Err(io::ErrorKind::Interrupted.into()))
            };
        }
        let count = self.plain.len().min(buffer.remaining());
        buffer.put_slice(&self.plain[..count]);
        self.plain.drain(..count);
        if self.plain.is_empty() {
            self.plain = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Returns true if no plain bytes come any more.
    pub(super) fn has_ended(&self) -> bool {
        let is_over = self.ending.is_some() || (self.flow == Flow::Ended && !self.filter.is_gone());
        if self.lingers { self.at_eof } else { is_over || self.at_eof }
    }

    /// One read of the stream below, into `buffer`, and what the filter makes of it.
    pub(super) fn poll_decode(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        asks: bool,
        plain: &mut Vec<u8>,
    ) -> Poll<io::Result<()>> {
        if !self.has_begun && self.inner.is_open() {
            self.has_begun = true;
            self.decode(&mut [], plain);
        } else if !self.decode_rest(plain) {
            let asks = mem::take(&mut self.asks) || asks;
            ready!(if asks { self.inner.poll_read_now(cx, buffer) } else { self.inner.poll_read(cx, buffer) })?;
            let wire = buffer.filled_mut();
            if wire.is_empty() {
                self.at_eof = true;
                self.end(plain);
                return Poll::Ready(Ok(()));
            }
            let left = self.decode(wire, plain);
            if left > 0
                && let Some(told) = &mut self.told
            {
                told.rest = wire[wire.len() - left..].to_vec();
            }
            self.asks = !asks && self.filter.held() > 0;
        }
        self.send_replies(cx)?;
        Poll::Ready(Ok(()))
    }

    /// Sends replies, unless bytes of the session are before them: of these a write has to hear.
    pub(super) fn send_replies(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.sealed.len() > 0 && !self.sealed.has_plain() {
            let result = self.push(&mut |inner, bytes| inner.poll_write(cx, bytes));
            // Where the filter below has failed what it read is still delivered.
            if !self.inner.is_unwritable() {
                result?;
            }
        }
        Ok(())
    }

    /// The stream below has ended.
    #[cold]
    pub(super) fn end(&mut self, plain: &mut Vec<u8>) {
        if self.ending.is_some() {
            return;
        }
        self.ending = self.inner.ending();
        if self.ending.is_some() {
            return;
        }
        let before = plain.len();
        let eof = match self.flow {
            Flow::Preface => self.call(|filter| filter.preface_eof(plain)),
            _ => self.call(|filter| Ok(filter.eof())),
        };
        match eof {
            Some(Ok(Eof::Truncated)) => self.ending = Some(Ending::Truncated),
            Some(Ok(Eof::Clean)) if plain.len() > before => {
                self.flow = Flow::Done;
                self.filter.finish();
            }
            _ => {}
        }
    }

    /// The filter that waits for its peer: how many there are behind it, and how long it may wait.
    pub(super) fn waiting(&mut self) -> Option<(usize, Option<Duration>)> {
        if let Some((behind, timeout)) = self.inner.waiting() {
            return Some((behind + 1, timeout));
        }
        if self.flow != Flow::Preface {
            return None;
        }
        let timeout = self.call(|filter| Ok(filter.timeout()))?.ok()?;
        Some((0, timeout))
    }

    /// The filter that waits for its peer has no more time. Returns whether it is done, or the name of its fault; `None` if
    /// there is none that waits.
    #[cold]
    pub(super) fn expire(&mut self) -> Option<Result<(), Option<FaultName>>> {
        if !self.inner.is_open() {
            return self.inner.expire();
        }
        let expired = self.filter.call(|filter| filter.expired())?;
        match expired {
            Ok(()) => {
                self.flow = Flow::Done;
                self.filter.finish();
            }
            Err(name) => self.ending = Some(Ending::Failed(name)),
        }
        Some(expired)
    }

    /// Has the filter read what it had left behind something that it told. False if there is nothing.
    fn decode_rest(&mut self, plain: &mut Vec<u8>) -> bool {
        let Some(told) = self.told.take() else { return false };
        let Told { notice, mut rest, at, .. } = *told;
        drop_caught(notice);
        if at == rest.len() {
            return false;
        }
        let left = self.decode(&mut rest[at..], plain);
        if left > 0
            && let Some(told) = &mut self.told
        {
            told.at = rest.len() - left;
            told.rest = rest;
        }
        true
    }

    /// Takes what the filter tells, or one nearer to the wire, once all plain bytes before it are gone.
    #[cold]
    pub(super) fn take_notice(&mut self) -> Option<Notice> {
        if !self.plain.is_empty() {
            return None;
        }
        match &mut self.told {
            Some(told) if told.notice.is_some() => {
                told.is_offered = true;
                told.notice.take()
            }
            _ => self.inner.take_notice(),
        }
    }

    /// Tells the filter a word, or one nearer to the wire. Returns whether it was meant for any.
    #[cold]
    pub(super) fn tell(&mut self, word: &dyn Any) -> bool {
        if self.has_finished || !self.is_open() {
            return false;
        }
        let mut reply = borrow_buffer();
        let is_meant = matches!(self.call(|filter| Ok(filter.tell(word, &mut reply))), Some(Ok(true)));
        if !self.filter.is_gone() && !reply.is_empty() {
            self.has_spoken = true;
            self.sealed.add_reply(&reply);
        }
        return_buffer(reply);
        is_meant || self.inner.tell(word)
    }

    /// Has the filter read bytes of the wire. Returns how many it left unread, behind something that it tells.
    pub(super) fn decode(&mut self, wire: &mut [u8], plain: &mut Vec<u8>) -> usize {
        let mut left = 0;
        let len = wire.len() as u32;
        let mut inflow = Inflow::new(wire);
        let mut reply = borrow_buffer();
        let read = self.call(|filter| {
            let flow = filter.read(&mut inflow, plain, &mut reply)?;
            Ok((flow, if flow == Flow::Open { filter.notice() } else { None }))
        });
        match read {
            None => plain.extend_from_slice(inflow.rest()),
            Some(Ok((Flow::Done, _))) => {
                plain.extend_from_slice(inflow.rest());
                self.flow = Flow::Done;
                self.filter.finish();
            }
            Some(Ok((flow, notice))) => {
                self.flow = flow;
                if flow == Flow::Preface {
                    self.preface = self.preface.saturating_add(len);
                }
                if let Some(notice) = notice {
                    left = inflow.len();
                    self.told =
                        Some(Box::new(Told { notice: Some(notice), is_offered: false, rest: Vec::new(), at: 0 }));
                } else if flow != Flow::Ended && !inflow.is_empty() {
                    self.fail(Fault::new("the filter left bytes unread"));
                } else if flow == Flow::Preface && self.preface > MAX_PREFACE_BYTES {
                    self.fail(Fault::new(format!("its preface is longer than {MAX_PREFACE_BYTES} bytes")));
                }
            }
            Some(Err(())) => {}
        }
        if !self.has_finished && !reply.is_empty() {
            self.has_spoken = true;
            self.sealed.add_reply(&reply);
        }
        return_buffer(reply);
        left
    }

    /// Calls the filter, which is gone when it fails. `None` if there is none.
    pub(super) fn call<R>(&mut self, call: impl FnOnce(&mut dyn Filter) -> Result<R, Fault>) -> Option<Result<R, ()>> {
        let result = self.filter.call(call);
        if let Some(Err(name)) = result {
            self.ending = Some(Ending::Failed(name));
        }
        result.map(|result| result.map_err(|_| ()))
    }

    #[cold]
    pub(super) fn fail(&mut self, fault: Fault) {
        self.ending = Some(Ending::Failed(fault.name()));
        self.filter.fail(fault);
    }

    /// Drives a preface on, for whoever waits to write. Ready when it is over, in whatever way.
    #[cold]
    pub(super) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..PREFACE_READS {
            if self.is_open() || self.has_ended() {
                return Poll::Ready(Ok(()));
            }
            self.send_replies(cx)?;
            if self.sealed.replies() > REPLIES_BYTES || self.plain.len() > PLAIN_BYTES {
                return Poll::Pending;
            }
            let mut wire = [0; PREFACE_BYTES];
            let mut plain = mem::take(&mut self.plain);
            let poll = self.poll_decode(cx, &mut ReadBuf::new(&mut wire), false, &mut plain);
            self.plain = plain;
            match ready!(poll) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Poll::Ready(Err(error)),
                _ => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.is_open() && self.ending.is_none() {
            if self.sealed.has_plain() {
                // Sealed while it was open: what the filter waits for may be the answer to it.
                let gone = self.push(&mut |inner, bytes| inner.poll_write(cx, bytes))?;
                if gone > 0 {
                    return Poll::Ready(Ok(gone));
                }
                if self.sealed.has_plain() {
                    return Poll::Pending;
                }
            }
            ready!(self.poll_open(cx))?;
        }
        self.write(bytes, |inner, bytes| inner.poll_write(cx, bytes))
    }

    /// Writes what the kernel takes at this moment, outside of a task's turn.
    pub(super) fn write_now(&mut self, bytes: &[u8]) -> usize {
        if !self.is_open() {
            return 0;
        }
        let written = self.write(bytes, |inner, bytes| match inner.write_now(bytes) {
            0 => Poll::Pending,
            count => Poll::Ready(Ok(count)),
        });
        if let Poll::Ready(Ok(count)) = written { count } else { 0 }
    }

    /// Seals and sends plain bytes. Those that are sealed already are the first of `bytes`, and are ready when they are gone.
    pub(super) fn write(
        &mut self,
        bytes: &[u8],
        mut sink: impl FnMut(&mut Transport, &[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            if self.sealed.len() > 0 {
                let gone = self.push(&mut sink)?;
                if gone > 0 {
                    return Poll::Ready(Ok(gone));
                }
                if self.sealed.len() > 0 {
                    return Poll::Pending;
                }
            }
            if self.is_unwritable() {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if self.filter.is_gone() {
                return sink(&mut self.inner, bytes);
            }
            for piece in bytes.chunks(PIECE_BYTES).take(PIECES) {
                let mut wire = self.sealed.lend();
                let before = wire.len();
                let result = self.call(|filter| {
                    filter.write(piece, &mut wire)?;
                    let is_whole = wire.len() >= before;
                    is_whole
                        .then_some(())
                        .ok_or_else(|| Fault::new("the filter removed bytes that were written before"))
                });
                if let Some(Ok(())) = result {
                    let len = wire.len() - before;
                    self.sealed.put(wire, piece.len(), len);
                } else {
                    wire.truncate(before);
                    self.sealed.put(wire, 0, 0);
                }
                if self.filter.is_gone() {
                    break;
                }
            }
            if self.sealed.len() == 0 {
                // Bytes that are nothing on the wire are gone.
                let gone = self.sealed.advance(0);
                self.sealed.fit();
                if gone > 0 {
                    return Poll::Ready(Ok(gone));
                }
            }
        }
    }

    /// Sends sealed bytes, as many as the stream below takes. Returns how many bytes of the session are gone by that.
    pub(super) fn push(&mut self, sink: &mut Sink<'_>) -> io::Result<usize> {
        let mut gone = 0;
        while self.sealed.len() > 0 {
            let taken = match self.error.take() {
                Some(error) => Poll::Ready(Err(error)),
                None => sink(&mut self.inner, self.sealed.rest()),
            };
            let error = match taken {
                Poll::Ready(Ok(0)) => io::ErrorKind::WriteZero.into(),
                Poll::Ready(Ok(count)) => {
                    self.needs_flush = true;
                    gone += self.sealed.advance(count);
                    continue;
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                Poll::Ready(Err(error)) => error,
                Poll::Pending => {
                    self.sealed.fit();
                    return Ok(gone);
                }
            };
            if gone > 0 {
                // Said first; the error with the next attempt.
                self.error = Some(error);
                return Ok(gone);
            }
            if self.inner.is_unwritable() {
                self.sealed = Sealed::default();
            }
            return Err(error);
        }
        self.sealed.fit();
        Ok(gone)
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.sealed.len() > 0 {
            self.send_replies(cx)?;
            if self.sealed.len() > 0 {
                return Poll::Pending;
            }
        }
        ready!(self.inner.poll_flush(cx))?;
        self.needs_flush = false;
        Poll::Ready(Ok(()))
    }

    /// Says the end of our bytes, from the inside out, then sends the FIN.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !mem::replace(&mut self.has_finished, true) && self.is_open() && !self.is_unwritable() {
            let mut end = borrow_buffer();
            if let Some(Ok(())) = self.call(|filter| {
                filter.finish(&mut end);
                Ok(())
            }) && !end.is_empty()
            {
                self.has_spoken = true;
                self.sealed.add_reply(&end);
            }
            return_buffer(end);
        }
        let result = self.push(&mut |inner, bytes| inner.poll_write(cx, bytes));
        // A filter below that has failed takes nothing any more; the FIN is sent all the same.
        if !self.inner.is_unwritable() {
            result?;
        }
        if self.sealed.len() > 0 {
            return Poll::Pending;
        }
        self.inner.poll_shutdown(cx)
    }
}
