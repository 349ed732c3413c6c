//! Trace: the bytes of one live session, for whoever asked for them.
//!
//! Not here: seeing them (`wire/tap`), finding the session (`supervisor`).

use std::{
    fmt,
    task::{Context, Poll},
};

use crate::{
    connection::SessionId,
    wire::tap::{TapReceiver, Traced},
};

/// A trace of a live session: what it reads and writes from now on, in clear, bounded. It ends with the session, or when it
/// is dropped; then nothing of it is left with the session.
///
/// [`ServerHandle::trace`](crate::ServerHandle::trace) begins one. The session waits for nobody: bytes that are not received
/// in time are [lost](Traced::Lost), and counted in their place.
pub struct Trace {
    session: SessionId,
    receiver: TapReceiver,
    /// Has the session let go of its end.
    end: Option<Box<dyn FnOnce() + Send>>,
}

impl Trace {
    pub(crate) fn new(session: SessionId, receiver: TapReceiver, end: impl FnOnce() + Send + 'static) -> Self {
        Self { session, receiver, end: Some(Box::new(end)) }
    }

    /// Returns the session's number.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Tells whether the session still has its end.
    #[cfg(test)]
    pub(crate) fn session_end(&self) -> std::sync::Weak<std::sync::atomic::AtomicUsize> {
        self.receiver.shared()
    }

    /// Waits for the next piece; `None` behind the last.
    pub async fn recv(&mut self) -> Option<Traced> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The same for futures that are written by hand.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Traced>> {
        let poll = self.receiver.pieces.poll_recv(cx);
        if let Poll::Ready(Some(piece)) = &poll {
            self.receiver.received(piece);
        }
        poll
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.receiver.pieces.close();
        if let Some(end) = self.end.take() {
            end();
        }
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("session", &self.session).finish_non_exhaustive()
    }
}
