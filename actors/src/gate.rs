//! Gate: asynchronous admission, the user's own: what may say no to a connection before it becomes a session.
//!
//! It is asked last, when the server's own limits have let the connection in and its filters are open, so that the real peer
//! is known; nothing is read meanwhile. Who sets none pays nothing.
//! Not here: waiting for the answer (`session/gated`), keeping permits (`worker/permits`).

use std::{any::Any, fmt, future::Future, pin::Pin, sync::Arc};

use crate::{connection::Connection, report::RefuseReason};

/// What a [gate](crate::LineServer::gate) gives a connection that it lets in. Dropped when the session has ended: behind its
/// socket, and before anybody hears of the end. So it is if no session comes of the connection, for whatever reason.
///
/// ```
/// use std::sync::Arc;
///
/// use actix_lines::Permit;
///
/// let tables = Arc::new(());
/// let permit = Permit::new(Arc::clone(&tables));
/// assert_eq!(Arc::strong_count(&tables), 2);
/// drop(permit);
/// assert_eq!(Arc::strong_count(&tables), 1);
/// ```
#[must_use = "a permit that is dropped is given back"]
#[derive(Default)]
pub struct Permit(Option<Box<dyn Any + Send>>);

impl Permit {
    /// Makes a permit that gives something back when it is dropped: whatever `held` does then. A panic there goes no further.
    pub fn new(held: impl Any + Send) -> Self {
        Self(Some(Box::new(held)))
    }

    /// Makes a permit that has nothing to give back. A session keeps nothing of it.
    pub fn free() -> Self {
        Self(None)
    }

    pub(crate) fn is_free(&self) -> bool {
        self.0.is_none()
    }

    /// Both in one.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self.is_free(), other.is_free()) {
            (_, true) => self,
            (true, false) => other,
            (false, false) => Self::new((self, other)),
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_free() { "Permit(free)" } else { "Permit(held)" })
    }
}

/// The answer of a gate, on its way.
pub(crate) type Asked = Pin<Box<dyn Future<Output = Result<Permit, RefuseReason>>>>;

type Ask = dyn Fn(&Connection) -> Asked + Send + Sync;

/// The gates of a server, in the order in which they are asked.
#[derive(Clone, Default)]
pub(crate) struct Gates(Arc<[Arc<Ask>]>);

impl Gates {
    pub(crate) fn with(&self, ask: impl Fn(&Connection) -> Asked + Send + Sync + 'static) -> Self {
        Self(self.0.iter().cloned().chain([Arc::new(ask) as Arc<Ask>]).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Asks one. May panic, as the user's code does.
    pub(crate) fn ask(&self, gate: usize, connection: &Connection) -> Option<Asked> {
        self.0.get(gate).map(|ask| ask(connection))
    }
}

impl fmt::Debug for Gates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} gates", self.len())
    }
}
