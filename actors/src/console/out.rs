//! Out: the answer of a command on its way to the peer.
//!
//! Rule: no line of an answer is empty or holds a character that moves a cursor, and a command writes no more than the outbox
//! has room for: it waits for room from record to record.
//! Not here: what is answered (`reports`, `changes`), running a command (`session`).

use std::{
    cell::{Cell, RefCell},
    fmt::{self, Write},
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use actix::fut::ActorFuture;
use serde::Serialize;

use crate::{
    error::ServerEnded,
    session::{context::LineContext, handler::LineHandler},
    words::WrongWord,
};

/// Output of a console session above which a command waits, and at which it goes on. Unit: bytes.
pub(crate) const HIGH: usize = 64 * 1024;
pub(crate) const LOW: usize = 16 * 1024;

/// Bytes that a command gathers before it waits for room.
const PAGE: usize = 16 * 1024;

/// Why a command has failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Word(#[from] WrongWord),
    #[error(transparent)]
    Ended(#[from] ServerEnded),
    #[cfg(feature = "cluster")]
    #[error(transparent)]
    Nodes(#[from] crate::console::fault::Fault),
}

/// The answer of one command: records, as text or as JSON. Clones share it.
#[derive(Clone)]
pub(crate) struct Out(Rc<Shared>);

struct Shared {
    is_json: bool,
    bytes: RefCell<Vec<u8>>,
    is_stopped: Cell<bool>,
    /// Output of the session above which the command waits. Unit: bytes.
    high: Cell<usize>,
    /// Of a command that waits for its stop.
    waker: RefCell<Option<Waker>>,
}

impl Out {
    pub(crate) fn new(is_json: bool) -> Self {
        Self(Rc::new(Shared {
            is_json,
            bytes: RefCell::default(),
            is_stopped: Cell::new(false),
            high: Cell::new(HIGH),
            waker: RefCell::default(),
        }))
    }

    /// Returns true if each record is a JSON object.
    pub(crate) fn is_json(&self) -> bool {
        self.0.is_json
    }

    /// Writes a line of text. Control characters in it are escaped; an empty one is left out.
    pub(crate) fn line(&self, text: fmt::Arguments<'_>) {
        let mut bytes = self.0.bytes.borrow_mut();
        let before = bytes.len();
        // Only a value's own `Display` can fail; what it had said until then is written.
        let _ = Clean(&mut bytes).write_fmt(text);
        if bytes.len() > before {
            bytes.push(b'\n');
        }
    }

    /// Writes a JSON object as a line.
    pub(crate) fn object(&self, record: &impl Serialize) {
        let mut bytes = self.0.bytes.borrow_mut();
        let before = bytes.len();
        match serde_json::to_writer(&mut *bytes, record) {
            Ok(()) => bytes.push(b'\n'),
            // Nothing here is a map whose keys are no texts.
            Err(_) => bytes.truncate(before),
        }
    }

    /// Writes a record: the object, or the text.
    pub(crate) fn record(&self, object: &impl Serialize, text: fmt::Arguments<'_>) {
        if self.is_json() { self.object(object) } else { self.line(text) }
    }

    /// Writes why a command failed.
    pub(crate) fn fail(&self, failure: &Failure) {
        #[derive(Serialize)]
        struct Error<'a> {
            error: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            word: Option<&'a str>,
        }
        let word = match failure {
            Failure::Word(wrong) => Some(wrong.word.as_str()),
            _ => None,
        };
        let text = failure.to_string();
        self.record(&Error { error: &text, word }, format_args!("error: {text}"));
    }

    /// Writes lines that were made by this module's means before.
    pub(crate) fn lines(&self, lines: &[u8]) {
        self.0.bytes.borrow_mut().extend_from_slice(lines);
    }

    /// Has the command wait as soon as so many bytes of output wait, and not only at [`HIGH`]. It is asked again when it is
    /// woken: only for a command that is woken by others while it waits.
    pub(crate) fn set_high(&self, bytes: usize) {
        self.0.high.set(bytes);
    }

    /// Ends the answer.
    pub(crate) fn end(&self) {
        self.0.bytes.borrow_mut().push(b'\n');
    }

    /// Waits until the outbox has room, if much was written: call it after each record of many.
    pub(crate) async fn room(&self) {
        // Whoever takes the bytes polls again.
        poll_fn(|_| if self.0.bytes.borrow().len() < PAGE { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Waits until everything written so far is in the outbox: call it before waiting for anything else.
    pub(crate) async fn sent(&self) {
        poll_fn(|_| if self.0.bytes.borrow().is_empty() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Waits until the peer wants the command to end. A command that goes on by itself has to end then.
    pub(crate) async fn stopped(&self) {
        poll_fn(|cx| {
            if self.0.is_stopped.get() {
                return Poll::Ready(());
            }
            self.0.waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Has the command end.
    pub(crate) fn stop(&self) {
        self.0.is_stopped.set(true);
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }

    /// Takes what was written.
    pub(crate) fn take(&self) -> Vec<u8> {
        self.0.bytes.take()
    }
}

/// Writes text without characters that would end the line or move a cursor.
pub(crate) struct Clean<'a>(pub(crate) &'a mut Vec<u8>);

impl Write for Clean<'_> {
    fn write_str(&mut self, mut text: &str) -> fmt::Result {
        while let Some(at) = text.find(char::is_control) {
            let (clean, rest) = text.split_at(at);
            self.0.extend_from_slice(clean.as_bytes());
            let mut chars = rest.chars();
            if let Some(control) = chars.next() {
                self.0.extend(control.escape_default().map(|c| c as u8));
            }
            text = chars.as_str();
        }
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Runs a command, and passes its answer on as far as the outbox has room.
pub(crate) struct Answering<F> {
    command: Pin<Box<F>>,
    out: Out,
}

impl<F: Future<Output = ()>> Answering<F> {
    pub(crate) fn new(command: F, out: Out) -> Self {
        Self { command: Box::pin(command), out }
    }
}

impl<A, F> ActorFuture<A> for Answering<F>
where
    A: LineHandler,
    F: Future<Output = ()>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut A, ctx: &mut LineContext<A>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // The context polls again when it is at the low watermark. Nobody else would wake a command that has to end.
            let high = if self.out.0.is_stopped.get() { HIGH } else { self.out.0.high.get() };
            if ctx.outbox_len() > high {
                return Poll::Pending;
            }
            let polled = self.command.as_mut().poll(cx);
            let bytes = self.out.take();
            ctx.write(&bytes);
            // What was written may be what the command has waited for.
            if polled.is_ready() || bytes.is_empty() {
                return polled;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use actix::{Actor, AsyncContext};
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::{framing::Framing, session::lines::Line, wire::transport::Transport};

    #[test]
    fn a_line_stays_one_line_that_moves_no_cursor() {
        let out = Out::new(false);
        out.line(format_args!("a\r\nb\x1b[2J\u{9b}c\0{}", "\n"));
        out.line(format_args!(""));
        assert_eq!(String::from_utf8(out.take()).unwrap(), "a\\r\\nb\\u{1b}[2J\\u{9b}c\\u{0}\\n\n");
    }

    /// Answers any line with 10 MB.
    struct Long(Rc<Cell<usize>>);

    impl Actor for Long {
        type Context = LineContext<Self>;
    }

    impl LineHandler for Long {
        fn line(&mut self, _: Line<'_>, ctx: &mut Self::Context) {
            let (out, written) = (Out::new(false), Rc::clone(&self.0));
            let answer = out.clone();
            ctx.wait(Answering::new(
                async move {
                    while written.get() < 10_000_000 {
                        answer.line(format_args!("{:<99}", "x"));
                        written.set(written.get() + 100);
                        answer.room().await;
                    }
                },
                out,
            ));
        }
    }

    #[actix::test]
    async fn a_command_writes_no_more_than_its_peer_takes() {
        const PIPE: usize = 1000;
        let written = Rc::new(Cell::new(0));
        let (ours, mut theirs) = tokio::io::duplex(PIPE);
        LineContext::start(Transport::new(ours), Framing::lf(), Long(Rc::clone(&written)));
        tokio::io::AsyncWriteExt::write_all(&mut theirs, b"go\n").await.unwrap();
        let mut taken = 0;
        let mut some = vec![0; 5000];
        for _ in 0..200 {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert!(written.get() <= taken + PIPE + HIGH + 2 * PAGE + 200, "{} of {taken}", written.get());
            let whole = theirs.read_exact(&mut some);
            tokio::time::timeout(std::time::Duration::from_secs(60), whole).await.expect("more of it").unwrap();
            taken += some.len();
        }
    }
}
